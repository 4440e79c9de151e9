"""One tiny random model of each supported family, as its own configuration makes it."""

from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from tests.evaluators.tiny import VOCABULARY_SIZE

COMMON = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
NO_ENDS = {"vocab_size": VOCABULARY_SIZE, "bos_token_id": None, "eos_token_id": None}
GPT = {**NO_ENDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
GROUPED = {**COMMON, "num_key_value_heads": 2}
HEADS = {**GROUPED, "head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", GROUPED),
    "mistral": ("MistralConfig", GROUPED),
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen3": ("Qwen3Config", HEADS),
    "gemma2": ("Gemma2Config", HEADS),
    "gemma3": ("Gemma3TextConfig", HEADS),
    "phi3": ("Phi3Config", GROUPED),
    "opt": (
        "OPTConfig",
        {**COMMON, "ffn_dim": 48, "word_embed_proj_dim": 32, "pad_token_id": 1},
    ),
    "gpt2": ("GPT2Config", GPT),
    "gpt-neox": ("GPTNeoXConfig", COMMON),
    "mixtral": ("MixtralConfig", {**GROUPED, "num_local_experts": 4}),
    "qwen2-moe": (
        "Qwen2MoeConfig",
        {**GROUPED, **EXPERTS, "shared_expert_intermediate_size": 24},
    ),
    "qwen3-moe": ("Qwen3MoeConfig", {**HEADS, **EXPERTS}),
    # Their logits are scaled.
    "granite": ("GraniteConfig", {**GROUPED, "logits_scaling": 4.0}),
    "cohere": ("CohereConfig", {**GROUPED, "logit_scale": 0.25}),
    # What each token gives to each layer, and keys and values that later layers share.
    "gemma4": (
        "Gemma4TextConfig",
        {**HEADS, "global_head_dim": 8, "num_hidden_layers": 4, "num_kv_shared_layers": 2}
        | {"vocab_size_per_layer_input": VOCABULARY_SIZE, "hidden_size_per_layer_input": 8}
        | {"layer_types": ["sliding_attention", "full_attention"] * 2},
    ),
    # Their models take the first of what a decoder layer returns.
    "falcon": ("FalconConfig", {**COMMON, "ffn_hidden_size": 48}),
    "gpt-j": ("GPTJConfig", {**GPT, "n_inner": 48, "rotary_dim": 4}),
    "bloom": ("BloomConfig", {**NO_ENDS, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
}


def config_of(family: str) -> PretrainedConfig:
    name, options = FAMILIES[family]
    config: PretrainedConfig = getattr(transformers, name)(**options)
    return config


def model_of_family(family: str, seed: int = 0) -> PreTrainedModel:
    """Return a random model whose every parameter matters, in evaluation mode."""
    model = AutoModelForCausalLM.from_config(config_of(family), experts_implementation="eager")
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            scale = 0.3 if parameter.ndim >= 2 else 0.1
            one = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.copy_(one + scale * noise)
    return model.eval().requires_grad_(requires_grad=False)
