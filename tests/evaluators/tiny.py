"""Tiny random language models on disk, and short texts: what the evaluator's tests run on."""

import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

VOCABULARY_SIZE = 260
TOPICS = {
    "calibration": ("import",),
    "validation": ("debugger",),
    "text": ("formatstrings",),
}
"""Which of the standard library's topics each role reads; no two share a passage."""


def tiny_model(*, gqa: bool = True, bias: bool = False, seed: int = 0) -> LlamaForCausalLM:
    """Return a random LLaMA of two layers whose every parameter matters.

    Args:
        gqa: Two key-value heads for four query heads, or as many.
        bias: Whether linear layers have one.
        seed: Of all its numbers.
    """
    config = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2 if gqa else 4,
        max_position_embeddings=64,
        attention_bias=bias,
        mlp_bias=bias,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM._from_config(config, attn_implementation="sdpa")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * draw if "norm" in name else 0.3 * draw)
        model.get_input_embeddings().weight.mul_(3.0)
    return model.eval().requires_grad_(requires_grad=False)


def mean_loss(model: PreTrainedModel, block: Tensor) -> Tensor:
    """Return the mean loss of the next tokens of `block` (tokens,), from the logits alone."""
    log_likelihood = model(block.unsqueeze(0)).logits[0, :-1].log_softmax(dim=-1)
    return -log_likelihood[torch.arange(len(block) - 1), block[1:]].mean()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of single bytes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def save(folder: Path, model: nn.Module) -> Path:
    """Write a model with the byte tokenizer as a folder that `load_model` takes."""
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def tiny_folder(folder: Path, **options: Any) -> Path:
    """Write `tiny_model(**options)` with its tokenizer; return the folder."""
    return save(folder, tiny_model(**options))


def write_texts(folder: Path) -> dict[str, str]:
    """Write one text file a role, of 4,000 characters each; return their paths by role."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for role, names in TOPICS.items():
        path = folder / f"{role}.txt"
        path.write_text("\n\n".join(topics[name] for name in names)[:4000], encoding="utf-8")
        paths[role] = str(path)
    return paths


def tiny_options(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return evaluator options for a tiny model and texts under `folder`, which are written."""
    model = folder / "tiny"
    if not model.exists():
        tiny_folder(model)
        write_texts(folder / "texts")
    texts = {role: [str(folder / "texts" / f"{role}.txt")] for role in TOPICS}
    return {
        "model": str(model),
        **texts,
        "length": 32,
        "calibration_blocks": 4,
        "validation_blocks": 3,
        "confirm_blocks": 2,
        "text_blocks": 3,
        **changes,
    }


def edit_json(path: Path, **changes: Any) -> None:
    """Change some entries of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **changes}), encoding="utf-8")


def state(model: nn.Module) -> dict[str, bytes]:
    """Return every parameter and buffer as bytes: equal only if every bit is."""
    return {
        name: tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }


def hook_count(model: nn.Module) -> int:
    """Return how many hooks hang on a model and its parts."""
    return sum(
        len(held)
        for module in model.modules()
        for held in (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        )
    )
