"""Networks of the benchmarks against slow ones written from the formulas."""

import hashlib
import math

import pytest
import scipy.fft
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2Config as TheirConfig
from transformers import GPT2LMHeadModel

from autoproxy.errors import ConfigError
from evaluators.benchmarks.starter_space import architectures
from evaluators.networks.decoder import Decoder, DecoderConfig
from evaluators.networks.encoder import OPERATIONS, Encoder, EncoderConfig
from evaluators.networks.gpt2 import GPT2, GPT2Config


def _seeded(make: type[nn.Module], config: object, scale: float = 5.0) -> nn.Module:
    """Return a network whose every parameter matters."""
    torch.manual_seed(0)
    network = make(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.mul_(scale).add_(0.1 * torch.randn_like(parameter))
    return network.double().eval()


def _gpt2(div_val: int, d_embed: int = 8) -> GPT2Config:
    return GPT2Config(
        width=8,
        heads=(2, 4),
        ff_widths=(5, 9),
        d_embed=d_embed,
        div_val=div_val,
        vocabulary=30,
        cutoffs=(7, 15),
        length=6,
    )


@pytest.mark.parametrize(("div_val", "d_embed"), [(1, 8), (1, 4), (2, 8), (2, 16)])
def test_an_adaptive_softmax_is_a_choice_of_a_cluster_and_then_of_a_token(
    div_val: int, d_embed: int
) -> None:
    network = _seeded(GPT2, _gpt2(div_val, d_embed))
    assert isinstance(network, GPT2)
    ids = torch.tensor([[0, 6, 7, 14, 15, 29]])
    seen: list[Tensor] = []
    hook = network.softmax.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.inference_mode():
        logits = network(ids)[0]
        hook.remove()
        state, soft = seen[0][0], network.softmax
        assert torch.allclose(logits.exp().sum(-1), torch.ones(6, dtype=torch.float64))
        for place in range(6):
            for token in range(30):
                expected = _log_probability(network, soft, state[place], token, div_val)
                assert float(logits[place, token]) == pytest.approx(expected, rel=1e-9)


def _log_probability(
    network: GPT2, soft: nn.Module, state: Tensor, token: int, div_val: int
) -> float:
    bounds = [(0, 7), (7, 15), (15, 30)]
    tables = [
        network.embedding.tables[n] if div_val > 1 else network.embedding.tables[0][slice(*b)]
        for n, b in enumerate(bounds)
    ]
    own = state if soft.projection is None else soft.projection.T @ state
    scores = [float(own @ row) + float(b) for row, b in zip(tables[0], soft.bias[:7], strict=True)]
    scores += [
        float(own @ row) + float(b) for row, b in zip(soft.cluster, soft.cluster_bias, strict=True)
    ]
    total = math.log(math.fsum(math.exp(score) for score in scores))
    cluster = next(n for n, (begin, end) in enumerate(bounds) if begin <= token < end)
    if cluster == 0:
        return scores[token] - total
    begin, end = bounds[cluster]
    narrow = own if div_val == 1 else network.embedding.projections[cluster].T @ state
    inside = [
        float(narrow @ row) + float(b)
        for row, b in zip(tables[cluster], soft.bias[begin:end], strict=True)
    ]
    within = math.log(math.fsum(math.exp(score) for score in inside))
    return scores[6 + cluster] - total + inside[token - begin] - within


@pytest.mark.parametrize("div_val", [1, 2, 4])
def test_an_adaptive_embedding_looks_each_token_up_in_its_own_table(div_val: int) -> None:
    network = _seeded(GPT2, _gpt2(div_val, 16))
    assert isinstance(network, GPT2)
    embedded = network.embedding(torch.arange(30)[None])[0]
    for token in range(30):
        table = 0 if div_val == 1 else (token >= 7) + (token >= 15)
        row = network.embedding.tables[table][token - ((0, 7, 15)[table])]
        expected = network.embedding.projections[table] @ row * math.sqrt(8)
        assert torch.allclose(embedded[token], expected, rtol=1e-12)


def test_the_layers_of_gpt2_are_those_of_transformers() -> None:
    config = GPT2Config(
        width=12, heads=(3, 3), ff_widths=(20, 20), d_embed=12, div_val=1, vocabulary=30,
        cutoffs=(7, 15), length=9,
    )  # fmt: skip
    ours = _seeded(GPT2, config)
    assert isinstance(ours, GPT2)
    theirs = GPT2LMHeadModel(
        TheirConfig(
            vocab_size=30, n_positions=9, n_embd=12, n_layer=2, n_head=3, n_inner=20,
            bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip
    theirs.double().eval()
    with torch.no_grad():
        body = theirs.transformer
        body.wpe.weight.copy_(ours.position)
        for block, layer in zip(body.h, ours.layers, strict=True):
            for one, other in (
                (block.attn.c_attn, layer.attention.qkv),
                (block.attn.c_proj, layer.attention.out),
                (block.mlp.c_fc, layer.mlp.up),
                (block.mlp.c_proj, layer.mlp.out),
            ):
                one.weight.copy_(other.weight.T)
                one.bias.copy_(other.bias)
            block.ln_1.load_state_dict(layer.attention_norm.state_dict())
            block.ln_2.load_state_dict(layer.mlp_norm.state_dict())
        body.ln_f.load_state_dict(ours.norm.state_dict())
        ids = torch.arange(18).view(2, 9)
        seen: list[Tensor] = []
        hook = ours.softmax.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        ours(ids)
        hook.remove()
        expected = body(inputs_embeds=ours.embedding(ids)).last_hidden_state
    assert torch.allclose(seen[0], expected, rtol=1e-9, atol=1e-9)


def _encoder(operation: str, *, d_embed: int = 8, stack: tuple[int, ...] = (12,)) -> Encoder:
    config = EncoderConfig(
        width=8, operations=(operation,), heads=(4,), stacks=(stack,), d_embed=d_embed,
        vocabulary=20, length=11,
    )  # fmt: skip
    network = _seeded(Encoder, config)
    assert isinstance(network, Encoder)
    return network


def _probabilities(scores: list[float]) -> list[float]:
    largest = max(scores)
    powers = [math.exp(score - largest) for score in scores]
    return [power / sum(powers) for power in powers]


def _attention(query: Tensor, key: Tensor, value: Tensor, size: int) -> Tensor:
    """Mix values token by token and head by head; all are (tokens, heads * size)."""
    mixed = torch.zeros_like(value)
    for start in range(0, value.shape[1], size):
        part = slice(start, start + size)
        for place in range(len(query)):
            scores = [float(query[place, part] @ k[part]) / math.sqrt(size) for k in key]
            for share, row in zip(_probabilities(scores), value, strict=True):
                mixed[place, part] += share * row[part]
    return mixed


@torch.no_grad()
def _mixed(network: Encoder, operation: str, state: Tensor) -> Tensor:
    """Return what mixing adds to (tokens, 8), with four heads of two features."""
    own = network.layers[0].attention
    match operation:
        case "LT:DFT":
            rows = own.input(state).numpy()
            return torch.from_numpy(scipy.fft.fft2(rows, norm="ortho").real.copy())
        case "LT:DCT":
            rows = own.input(state).numpy()
            return torch.from_numpy(scipy.fft.dctn(rows, type=2, norm="ortho"))
        case "SA:SDP" | "SA:WMA":
            query = own.query(state)
            if operation == "SA:WMA":
                query = query @ own.weighting.weight.T
            return own.out(_attention(query, own.key(state), own.value(state), 2))
    return _convolved(own, state)


@torch.no_grad()
def _convolved(own: nn.Module, state: Tensor) -> Tensor:
    query, kernel = own.query(state), own.kernel
    attended = _attention(query, own.key(state), own.value(state), 2)
    given = own.convolved(state)
    convolved = torch.zeros_like(given)
    reach = kernel // 2
    windows = [
        [(step, place + step - reach) for step in range(kernel) if 0 <= place + step - reach < 7]
        for place in range(7)
    ]
    for place, window in enumerate(windows):
        span = sum(own.span.weight[:, 0, step] * state[at] for step, at in window)
        chosen = own.kernels(own.span_key(span) * query[place])
        for head, part in enumerate((slice(0, 2), slice(2, 4))):
            shares = _probabilities(chosen[head * kernel : (head + 1) * kernel].tolist())
            convolved[place, part] = sum(shares[step] * given[at, part] for step, at in window)
    return own.out(torch.cat([attended, convolved], dim=-1))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_encoder_layer_mixes_as_its_operation_says(operation: str) -> None:
    network = _encoder(operation, stack=(12, 5))
    layer = network.layers[0]
    generator = torch.Generator().manual_seed(1)
    state = torch.randn(7, 8, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        added = _mixed(network, operation, state)
        assert torch.allclose(layer.attention(state[None])[0], added, rtol=1e-9, atol=1e-9)
        inner = state + added
        if not operation.startswith("LT"):
            inner = layer.attention_norm(inner)
        hidden = functional.gelu(layer.mlp.up[1](functional.gelu(layer.mlp.up[0](inner))))
        expected = layer.mlp_norm(inner + layer.mlp.out(hidden))
        assert torch.allclose(layer(state[None])[0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("d_embed", [8, 6])
def test_the_head_of_an_encoder_is_its_embedding(d_embed: int) -> None:
    network = _encoder("SA:SDP", d_embed=d_embed)
    ids = torch.tensor([[3, 1, 19]])
    with torch.no_grad():
        last = network.hidden(network.embedding(ids))
        narrow = last if network.projection is None else last @ network.projection
        assert torch.allclose(network(ids), narrow @ network.embedding.weight.T)
    assert (network.projection is None) == (d_embed == 8)


@given(
    st.sampled_from(OPERATIONS),
    st.lists(st.integers(0, 19), min_size=1, max_size=11),
    st.integers(0, 10),
)
def test_an_encoder_sees_each_sequence_alone_and_its_tokens_all(
    operation: str, ids: list[int], other: int
) -> None:
    network = _encoder(operation)
    one = torch.tensor([ids])
    two = torch.tensor([[(i + other) % 20 for i in ids]])
    with torch.no_grad():
        both = network(torch.cat([one, two]))
        assert torch.allclose(both, torch.cat([network(one), network(two)]), atol=1e-12)
        if other and len(ids) > 1 and not operation.startswith("DSC"):
            last = torch.tensor([[*ids[:-1], (ids[-1] + other) % 20]])
            assert not torch.allclose(network(last)[0, 0], both[0, 0], atol=1e-12)


@pytest.mark.parametrize("kind", ["gpt2", "learned", "rotary", "alibi", "none"])
def test_a_causal_network_sees_no_later_token(kind: str) -> None:
    if kind == "gpt2":
        network = _seeded(GPT2, _gpt2(2))
    else:
        config = DecoderConfig(
            width=8, heads=(2, 4), kv_heads=(1, 2), ff_widths=(5, 9), position=kind,
            vocabulary=30, length=6, activation="swiglu", norm="rms",
        )  # fmt: skip
        network = _seeded(Decoder, config)
    ids = torch.tensor([[1, 2, 3, 20, 5, 6]])
    changed = torch.tensor([[1, 2, 3, 20, 9, 25]])
    with torch.no_grad():
        one, two = network(ids), network(changed)
    assert torch.allclose(one[:, :4], two[:, :4], atol=1e-12)
    assert not torch.allclose(one[:, 4:], two[:, 4:], atol=1e-3)


def test_a_decoder_trains_as_it_is_measured() -> None:
    config = DecoderConfig(
        width=12, heads=(2,), kv_heads=(1,), ff_widths=(5,), head_size=4, tied=False,
        frequencies=(1.0, 0.3), position="rotary", vocabulary=30,
    )  # fmt: skip
    network = _seeded(Decoder, config)
    ids = torch.tensor([[1, 2, 3, 20, 5, 6]])
    with torch.no_grad():
        assert torch.allclose(network(ids), network.train()(ids), atol=1e-9)
        assert torch.equal(network(ids), network.body(network.embedding(ids)))
    assert network.layers[0].attention.out.in_features == 8
    assert network.output.shape == (30, 12)


def test_the_starter_benchmark_keeps_its_first_weights_bit_for_bit() -> None:
    digest = hashlib.sha256()
    for architecture in architectures()[::16]:
        torch.manual_seed(0)
        for name, value in Decoder(architecture.config).state_dict().items():
            digest.update(name.encode() + value.numpy().tobytes())
    assert digest.hexdigest()[:16] == "dd7a3d94913a0998"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heads": (3,)}, "one entry a layer, got 1 and 2"),
        ({"heads": (2, 3)}, "3 heads must divide width 8"),
        ({"ff_widths": (0, 4)}, "at least 1, got 0"),
        ({"d_embed": 3, "div_val": 2}, "d_embed 3 cannot be divided by 2 2 times"),
    ],
)
def test_a_gpt2_that_cannot_be_is_refused(changes: dict[str, object], said: str) -> None:
    fields = {"width": 8, "heads": (2, 4), "ff_widths": (4, 4), "d_embed": 8, "div_val": 1}
    with pytest.raises(ConfigError, match=said):
        GPT2Config(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heads": (2, 2)}, "one entry a layer, got 1, 2 and 1"),
        ({"operations": ("SA:XYZ",)}, "unknown operation 'SA:XYZ'"),
        ({"heads": (3,)}, "3 heads must divide width 8"),
        ({"heads": (1,)}, "half of the heads"),
        ({"stacks": ((),)}, "hidden widths of at least 1"),
    ],
)
def test_an_encoder_that_cannot_be_is_refused(changes: dict[str, object], said: str) -> None:
    fields = {"width": 8, "operations": ("DSC:5",), "heads": (2,), "stacks": ((4,),)}
    with pytest.raises(ConfigError, match=said):
        EncoderConfig(**{**fields, **changes})  # type: ignore[arg-type]
