"""The collector of a network's tensors, against slow and obvious computations."""

import copy
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from evaluators import sites
from evaluators.benchmarks.table import Architecture, Benchmark
from evaluators.networks.decoder import Decoder, DecoderConfig
from evaluators.networks.encoder import Encoder, EncoderConfig
from evaluators.networks.gpt2 import GPT2, GPT2Config
from evaluators.sites import TERMINALS, Sampling, Site, collect, sequence_losses
from tests.evaluators.families import FAMILIES, model_of_family
from tests.evaluators.tiny import hook_count, state

SHAPE = {"width": 8, "heads": (2, 4), "kv_heads": (1, 2), "ff_widths": (6, 10), "vocabulary": 11}


def decoder(seed: int = 0, scale: float = 20.0, **changes: object) -> Decoder:
    """A decoder whose weights are large enough for every part to matter."""
    torch.manual_seed(seed)
    network = Decoder(DecoderConfig(**{**SHAPE, **changes}))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2:
                parameter.mul_(scale)
    return network


def tokens(sequences: int = 3, length: int = 7, vocabulary: int = 11, seed: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocabulary, (sequences, length), generator=draw)


def by_name(network: nn.Module, batch: Tensor, wanted: set[str], **options: object) -> dict:
    return {s.name: s.terminals for s in collect(network, batch, wanted, **options).sites}


def naive_loss(network: nn.Module, sequence: Tensor, causal: bool = True) -> Tensor:
    """Minus the mean log-probability of one sequence's targets, token by token."""
    logits = network(sequence[None])[0]
    given = range(len(sequence) - 1 if causal else len(sequence))
    return sum(
        -functional.log_softmax(logits[t], 0)[sequence[t + 1 if causal else t]] for t in given
    ) / len(given)


def close(found: Tensor, expected: Tensor | np.ndarray, tolerance: float = 2e-5) -> None:
    wanted = torch.as_tensor(expected, dtype=torch.float64)
    assert found.dtype == torch.float32
    assert found.shape == wanted.shape
    gap = (found.double() - wanted).abs().max()
    assert gap <= tolerance * wanted.abs().max().clamp_min(1e-12), (gap, wanted.abs().max())


@pytest.mark.parametrize("causal", [True, False])
def test_gradients_are_those_of_each_sequence(causal: bool) -> None:
    network, ids = decoder(), tokens()
    found = by_name(network, ids, {"g", "g_norm", "g_abs"}, causal=causal)
    assert len(found) == 12
    for name, terminals in found.items():
        weight = network.get_submodule(name).weight
        each = [
            torch.autograd.grad(naive_loss(network, sequence, causal), weight)[0]
            for sequence in ids
        ]
        close(terminals["g"], sum(each))
        close(terminals["g_norm"], sum(g**2 for g in each).sqrt())
        close(terminals["g_abs"], sum(g.abs() for g in each))


def test_causal_is_what_the_network_says() -> None:
    network, ids = decoder(), tokens()
    causal = by_name(network, ids, {"g"})
    network.causal = False
    own = by_name(network, ids, {"g"})
    same = by_name(network, ids, {"g"}, causal=False)
    assert all(torch.equal(own[name]["g"], same[name]["g"]) for name in own)
    assert not any(torch.equal(own[name]["g"], causal[name]["g"]) for name in own)


def test_gradients_agree_with_finite_differences() -> None:
    network, ids = decoder().double(), tokens()
    for name, terminals in by_name(network, ids, {"g"}).items():
        weight = network.get_submodule(name).weight
        with torch.no_grad():
            before, losses = weight[1, 2].clone(), []
            for step in (1e-5, -1e-5):
                weight[1, 2] = before + step
                losses.append(sum(naive_loss(network, sequence) for sequence in ids))
            weight[1, 2] = before
        slope = float(losses[0] - losses[1]) / 2e-5
        assert float(terminals["g"][1, 2]) == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_gradients_are_no_round_off() -> None:
    """A sum over a fresh LayerNorm's features has gradients of rounding alone; a loss has not."""
    network, ids = decoder(), tokens()
    narrow, wide = (by_name(n, ids, {"g"}) for n in (network, copy.deepcopy(network).double()))
    for name in narrow:
        gap = (narrow[name]["g"] - wide[name]["g"]).norm()
        assert gap < 1e-4 * wide[name]["g"].norm()
    name = "layers.0.mlp.up"
    published = [
        torch.autograd.grad(n.hidden(n.embedding(ids)).sum(), n.get_submodule(name).weight)[0]
        for n in (network, copy.deepcopy(network).double())
    ]
    assert published[1].norm() < 1e-3 * published[0].norm()  # the check sees what it is for


def test_inputs_and_outputs_with_their_gradients() -> None:
    network, ids = decoder(bias=True), tokens()
    found = by_name(network, ids, {"x", "dx", "y", "dy"})
    expected: dict[str, dict[str, Tensor]] = {name: {} for name in found}

    def see(name: str) -> None:
        module = network.get_submodule(name)

        def forward(_: nn.Module, given: tuple[Tensor], made: Tensor) -> None:
            expected[name] |= {"x": given[0].detach(), "y": made.detach()}

        def backward(_: nn.Module, given: tuple[Tensor], made: tuple[Tensor]) -> None:
            expected[name] |= {"dx": given[0], "dy": made[0]}

        module.register_forward_hook(forward)
        module.register_full_backward_hook(backward)

    for name in found:
        see(name)
    sum(naive_loss_of_all(network, ids)).backward()
    for name, terminals in found.items():
        for terminal, value in terminals.items():
            close(value, expected[name][terminal])


def naive_loss_of_all(network: nn.Module, ids: Tensor) -> list[Tensor]:
    logits = network(ids)
    return [
        functional.cross_entropy(one[:-1], sequence[1:])
        for one, sequence in zip(logits, ids, strict=True)
    ]


def test_sums_over_tokens() -> None:
    network, ids = decoder(bias=True), tokens()
    wanted = {"x", "y", "x_norm", "x_mean", "x_var", "x_max", "y_norm"}
    for terminals in by_name(network, ids, wanted).values():
        x = terminals["x"].double().numpy().reshape(21, -1)
        y = terminals["y"].double().numpy().reshape(21, -1)
        close(terminals["x_norm"], np.sqrt((x**2).sum(0, keepdims=True) / 3))
        close(terminals["x_mean"], x.mean(0, keepdims=True))
        close(terminals["x_var"], x.var(0, keepdims=True))
        close(terminals["x_max"], np.abs(x).max(0, keepdims=True))
        close(terminals["y_norm"], np.sqrt((y**2).sum(0) / 3)[:, None])


def test_hessian_gradient_products_against_the_hessian_itself() -> None:
    network = decoder(width=4, heads=(2,), kv_heads=(1,), ff_widths=(3,)).double()
    ids = tokens(2, 5)
    found = by_name(network, ids, {"hg"})
    weights = {name: network.get_submodule(name).weight for name in found}
    flat = torch.cat([weight.detach().flatten() for weight in weights.values()])
    sizes = [weight.numel() for weight in weights.values()]

    def loss(values: Tensor) -> Tensor:
        parts = values.split(sizes)
        swapped = {
            f"{name}.weight": part.view_as(weights[name])
            for name, part in zip(weights, parts, strict=True)
        }
        logits = torch.func.functional_call(network.eval(), swapped, (ids,))
        return sum(
            functional.cross_entropy(one[:-1], sequence[1:])
            for one, sequence in zip(logits, ids, strict=True)
        )

    hessian = torch.autograd.functional.hessian(loss, flat)
    gradient = torch.autograd.functional.jacobian(loss, flat)
    for (name, terminals), part in zip(
        found.items(), (hessian @ gradient).split(sizes), strict=True
    ):
        close(terminals["hg"], part.view_as(weights[name]))


def naive_flow(network: Decoder, length: int) -> tuple[Tensor, dict[str, Tensor]]:
    """SynFlow of a decoder with learned positions and ReLU, written out."""
    weight = {n: p.detach().double().abs().requires_grad_() for n, p in network.named_parameters()}
    width = network.config.width
    hidden = torch.ones(length, width, dtype=torch.float64) + weight["position.weight"][:length]
    for layer in range(network.config.depth):
        parts = {
            part: weight[f"layers.{layer}.{part}.weight"]
            for part in ("attention.query", "attention.key", "attention.value", "attention.out")
        }
        query, key, value = (hidden @ parts[f"attention.{p}"].T for p in ("query", "key", "value"))
        heads = network.config.heads[layer]
        size = width // heads
        shared = heads // network.config.kv_heads[layer]
        mixed = []
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            lent = slice(head // shared * size, (head // shared + 1) * size)
            rows = []
            for t in range(length):
                scores = key[: t + 1, lent] @ query[t, own] / math.sqrt(size)
                chances = (scores - scores.max()).exp().detach()  # no slope through scores
                rows.append(chances / chances.sum() @ value[: t + 1, lent])
            mixed.append(torch.stack(rows))
        hidden = hidden + torch.cat(mixed, 1) @ parts["attention.out"].T
        up, out = (weight[f"layers.{layer}.mlp.{part}.weight"] for part in ("up", "out"))
        hidden = hidden + (hidden @ up.T).relu() @ out.T
    total = (hidden @ weight["embedding.weight"].T).sum()
    names = [n for n in weight if "layers" in n and "norm" not in n]
    slopes = torch.autograd.grad(total, [weight[n] for n in names], materialize_grads=True)
    return total.detach(), {
        n.removesuffix(".weight"): s for n, s in zip(names, slopes, strict=True)
    }


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_synaptic_flow_against_the_formula(norm: str) -> None:
    network, ids = decoder(scale=3.0, activation="relu", norm=norm), tokens()
    found = collect(network, ids, {"flow", "log_flow"})
    total, slopes = naive_flow(network, ids.shape[1])
    assert found.model["log_flow"] == pytest.approx(math.log(float(total.detach())), rel=1e-12)
    for site in found.sites:
        close(site.terminals["flow"], slopes[site.name] / total, 1e-6)


def test_flow_that_overflows_is_no_number() -> None:
    network = decoder(activation="swiglu", heads=(2,) * 12, kv_heads=(1,) * 12, ff_widths=(8,) * 12)
    found = collect(network, tokens(), {"flow", "log_flow", "W"})
    assert found.model == {}
    assert all(set(site.terminals) == {"W"} for site in found.sites)


def test_attention_probabilities_against_a_plain_softmax() -> None:
    network, ids = decoder(), tokens()
    found = by_name(network, ids, {"y", "attention", "heads", "x"})
    with_heads = [name for name, terminals in found.items() if "heads" in terminals]
    assert with_heads == ["layers.0.attention.out", "layers.1.attention.out"]
    for layer, name in enumerate(with_heads):
        assert torch.equal(found[name]["heads"], found[name]["x"])
        query, key = (
            found[f"layers.{layer}.attention.{part}"]["y"].double().numpy()
            for part in ("query", "key")
        )
        heads, size = SHAPE["heads"][layer], 8 // SHAPE["heads"][layer]
        expected = np.zeros((3, heads, 7, 7))
        for s in range(3):
            for h in range(heads):
                lent = h // (heads // SHAPE["kv_heads"][layer])
                for t in range(7):
                    q = query[s, t, h * size : (h + 1) * size]
                    k = key[s, : t + 1, lent * size : (lent + 1) * size]
                    chances = np.exp(k @ q / np.sqrt(size))
                    expected[s, h, t, : t + 1] = chances / chances.sum()
        close(found[name]["attention"], expected)


@pytest.mark.parametrize("position", ["learned", "rotary", "alibi", "none"])
def test_order_change_against_a_run_on_other_ids(position: str) -> None:
    network, ids = decoder(position=position), tokens(3, 9)
    turned = ids[:, [3, 2, 1, 0, 4, 5, 6, 7, 8]]
    held: dict[str, list[Tensor]] = {}

    def hold(name: str) -> None:
        module = network.get_submodule(name)
        module.register_forward_pre_hook(lambda _, given: held.setdefault(name, []).append(*given))

    reading = ["layers.0.attention.out", "layers.1.attention.out"]
    found = by_name(network, ids, {"order_change"})
    assert [name for name, terminals in found.items() if terminals] == reading
    for name in reading:
        hold(name)
    with torch.no_grad():
        network(ids), network(turned)
    for name in reading:
        before, after = held[name]
        expected = after - before
        expected[:, :4] = 0
        # A set and no order: what the first attention reads is the same but for rounding.
        if position == "none" and name == reading[0]:
            assert 0 < expected.abs().max() < 1e-5 * before.abs().max()
            expected[:] = 0
        else:
            assert expected.abs().max() > 1e-3 * before.abs().max()
        close(found[name]["order_change"], expected, 1e-4)


def test_padding_tells_nothing_of_a_network() -> None:
    network, ids = model_of_family("llama"), tokens(2, 8, 250)
    padded = torch.cat([ids, torch.zeros(2, 5, dtype=ids.dtype)], dim=1)
    mask = torch.cat([torch.ones_like(ids), torch.zeros(2, 5, dtype=ids.dtype)], dim=1)
    plain = by_name(network, ids, {"g_norm"})
    masked = by_name(network, {"input_ids": padded, "attention_mask": mask}, {"g_norm"})
    for name, terminals in plain.items():
        close(masked[name]["g_norm"], terminals["g_norm"], 1e-4)
    alone = sequence_losses(network, ids)
    close(sequence_losses(network, {"input_ids": padded, "attention_mask": mask}), alone)


def test_order_change_turns_what_goes_with_tokens_and_no_positions() -> None:
    network, ids = model_of_family("llama"), tokens(2, 8, 250)
    plain = by_name(network, ids, {"order_change"})
    places = torch.arange(8).expand(2, -1)
    mask = torch.ones_like(ids)
    mask[:, 0] = 0  # not looked at, wherever it stands
    given = {"input_ids": ids, "position_ids": places, "attention_mask": torch.ones_like(ids)}
    masked = by_name(network, {**given, "attention_mask": mask}, {"order_change"})
    for name, terminals in by_name(network, given, {"order_change"}).items():
        assert terminals.keys() == plain[name].keys()
        for value, expected in zip(terminals.values(), plain[name].values(), strict=True):
            close(value, expected)
    other = ids.clone()
    other[:, 0] = (ids[:, 0] + 1) % 250
    moved = {"input_ids": other, "position_ids": places, "attention_mask": mask}
    again = by_name(network, moved, {"order_change"})
    first = next(name for name, terminals in masked.items() if terminals)
    close(again[first]["order_change"], masked[first]["order_change"])


# BLOOM and Falcon compute attention in a way of their own, which is not seen; Gemma 4 has a linear
# layer outside of its decoder layers, which has no place among them.
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"bloom", "falcon", "gemma4"}))
def test_families_of_transformers(family: str) -> None:
    network, ids = model_of_family(family), tokens(2, 6, 250)
    found = collect(network, ids, TERMINALS)
    network.set_attn_implementation("eager")
    output = network(input_ids=ids, output_attentions=True, use_cache=False)
    reading = [s for s in found.sites if "heads" in s.terminals]
    assert len(reading) == len(output.attentions) == 2
    for site, probabilities in zip(reading, output.attentions, strict=True):
        close(site.terminals["attention"], probabilities)
    names = [site.name for site in found.sites]
    assert not any("head" in name or "embed" in name for name in names)
    experts = family in {"mixtral", "qwen2-moe", "qwen3-moe"}
    assert ("flops" in found.model) is not experts  # most of them would be missing
    losses = [
        network(input_ids=ids[n : n + 1], labels=ids[n : n + 1], use_cache=False).loss
        for n in range(2)
    ]
    assert not any(loss.requires_grad for loss in losses)
    weights = [network.get_submodule(name).weight.requires_grad_() for name in names]
    each = []
    for n in range(2):
        loss = network(input_ids=ids[n : n + 1], labels=ids[n : n + 1], use_cache=False).loss
        each.append(torch.autograd.grad(loss, weights))
    turned = family == "gpt2"
    fused = family in {"mixtral", "qwen3-moe"}  # experts are no linear layers
    lacking = {"heads", "order_change", "attention", "log_flow", *(["is_mlp"] if fused else [])}
    for site, first, second in zip(found.sites, *each, strict=True):
        one, two = (first.T, second.T) if turned else (first, second)
        # Experts see the tokens of both sequences in one heap, so the order of sums differs.
        close(site.terminals["g"], one + two, 1e-4)
        close(site.terminals["g_abs"], one.abs() + two.abs(), 1e-4)
        assert site.terminals["W"].shape == (site.d_out, int(site.terminals["fan_in"]))
        assert set(site.terminals) >= TERMINALS - lacking - sites.COUNTS
        assert ("is_mlp" in site.terminals) is not fused


class Shared(nn.Module):
    """One linear layer called twice, a second module of the same weight, and an in-place ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4, bias=False)])
        self.blocks[1].weight = self.blocks[0].weight
        self.head = nn.Linear(4, 11)
        self.unused = nn.Linear(4, 4)

    def forward(self, ids: Tensor) -> Tensor:
        state = self.embedding(ids)
        state = functional.relu_(self.blocks[0](state))
        state = functional.relu_(self.blocks[0](state).flatten(0, 1)).view_as(state)
        state = self.blocks[1](state.flatten(0, 1)).view_as(state)
        return self.head(state)


def test_layers_that_share_a_weight_are_one_site() -> None:
    torch.manual_seed(0)
    network, ids = Shared(), tokens(2, 5)
    (site,) = collect(network, ids, TERMINALS).sites  # the logits' layer is none
    x, y = site.terminals["x"], site.terminals["y"]
    assert (site.name, site.tokens, tuple(x.shape)) == ("blocks.0", 15, (2, 15, 4))
    weight, bias = network.blocks[0].weight, network.blocks[0].bias
    embedded = network.embedding(ids)
    first = embedded @ weight.T + bias
    second = first.relu() @ weight.T + bias
    third = second.relu() @ weight.T
    close(x, torch.cat([embedded, first.relu(), second.relu()], 1))
    close(y, torch.cat([first, second, third], 1))  # not what ReLU wrote over them
    each = [torch.autograd.grad(naive_loss(network, sequence), weight)[0] for sequence in ids]
    close(site.terminals["g"], sum(each))
    close(site.terminals["g_norm"], sum(g**2 for g in each).sqrt())


class Heap(nn.Module):
    """A linear layer that sees some tokens only, without an axis for sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.expert = nn.Linear(4, 4)
        self.idle = nn.Linear(4, 4)
        self.head = nn.Linear(4, 11)

    def forward(self, ids: Tensor) -> Tensor:
        state = self.embedding(ids)
        chosen = ids < 6
        state = state.masked_scatter(chosen[..., None], self.expert(state[chosen]))
        self.idle(state)
        return self.head(state)


def test_tokens_in_a_heap_have_no_gradient_of_a_sequence() -> None:
    torch.manual_seed(0)
    network, ids = Heap(), tokens(3, 7)
    found = by_name(network, ids, {"g", "g_norm", "g_abs", "x"})
    assert set(found["expert"]) == {"g", "x"}
    assert found["expert"]["x"].shape == (1, int((ids < 6).sum()), 4)
    total = sum(naive_loss(network, sequence) for sequence in ids)
    close(found["expert"]["g"], torch.autograd.grad(total, network.expert.weight)[0])
    assert not found["idle"]["g"].any()  # it changes nothing


def test_places() -> None:
    network = decoder(activation="swiglu")
    wanted = {"fan_in", "fan_out", "is_attention", "is_mlp", "is_first", "block_index"}
    found = by_name(network, tokens(), wanted)
    numbers = {
        name: tuple(int(terminals[t]) for t in sorted(wanted)) for name, terminals in found.items()
    }
    # block_index, fan_in, fan_out, is_attention, is_first, is_mlp
    assert numbers["layers.0.attention.query"] == (0, 8, 8, 1, 1, 0)
    assert numbers["layers.0.attention.key"] == (0, 8, 4, 1, 0, 0)
    assert numbers["layers.1.mlp.gate"] == (1, 8, 10, 0, 0, 1)
    assert numbers["layers.1.mlp.out"] == (1, 10, 8, 0, 0, 1)
    assert [n for n in numbers if numbers[n][4]] == [f"layers.{n}.attention.query" for n in (0, 1)]
    torch.manual_seed(0)
    loose = by_name(Heap(), tokens(), wanted)["expert"]
    assert set(loose) == wanted - {"block_index", "is_attention", "is_mlp"}
    assert not loose["is_first"]


def test_only_what_is_wanted_comes() -> None:
    network, ids = decoder(), tokens()
    everything = collect(network, ids, TERMINALS)
    for name in sorted(TERMINALS - {"log_flow"} - sites.COUNTS):
        alone = collect(network, ids, {name})
        assert alone.model == {}
        for site, full in zip(alone.sites, everything.sites, strict=True):
            assert set(site.terminals) <= {name}
            assert set(site.terminals) == {name} & set(full.terminals)
            for value in site.terminals.values():  # to the bit, whatever else is measured
                assert torch.equal(value, full.terminals[name])
    assert not any(site.terminals for site in collect(network, ids, {"log_flow"}).sites)


def test_sampled_rows_and_tokens_are_those_of_the_whole() -> None:
    network, ids = decoder(), tokens()
    whole = collect(network, ids, TERMINALS, sampling=Sampling(seed=5))
    part = collect(network, ids, TERMINALS, sampling=Sampling(rows=4, tokens=3, seed=5))
    other = collect(network, ids, {"W"}, sampling=Sampling(rows=4, tokens=3, seed=6))
    moved = False
    for full, cut, again in zip(whole.sites, part.sites, other.sites, strict=True):
        assert (cut.d_out, cut.tokens) == (full.d_out, full.tokens)
        rows, times = rows_of(full, cut), times_of(full, cut)
        assert len(rows) == min(4, full.d_out)
        assert len(times) == 3
        moved |= rows_of(full, again) != rows
        for name, value in cut.terminals.items():
            expected = full.terminals[name]
            if name in {"W", "g", "g_norm", "g_abs", "hg", "flow", "noise", "y_norm"}:
                expected = expected[rows]
            elif name in {"y", "dy"}:
                expected = expected[:, times][..., rows]
            elif name in {"x", "dx", "heads", "order_change"}:
                expected = expected[:, times]
            elif name == "attention":
                expected = expected[:, :, times]
            close(value, expected, 1e-6)
    assert moved


def rows_of(full: Site, cut: Site) -> list[int]:
    rows = full.terminals["W"]
    return [int((rows == row).all(1).nonzero()[0]) for row in cut.terminals["W"]]


def times_of(full: Site, cut: Site) -> list[int]:
    first = full.terminals["x"][0]
    return [int((first == row).all(1).nonzero()[0]) for row in cut.terminals["x"][0]]


class Failing(nn.Module):
    """Passes what it is given; raises when it is called for the n-th time."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls

    def forward(self, value: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("on purpose")
        return value


@pytest.mark.parametrize("fails_at", [0, 1, 2, 3])
def test_the_network_is_the_same_afterwards(fails_at: int) -> None:
    network = decoder(bias=True)
    network.layers.append(Failing(fails_at))
    network.train()
    network.layers[0].eval()
    network.layers[0].mlp.up.weight.requires_grad_(False)
    network.norm.weight.grad = torch.ones(8)
    network.layers[1].mlp.register_forward_hook(lambda *_: None)
    before = traces(network)
    if fails_at:
        with pytest.raises(RuntimeError, match="on purpose"):
            collect(network, tokens(), TERMINALS)
    else:
        collect(network, tokens(), TERMINALS)
    assert traces(network) == before
    assert network.layers[0].mlp.up.weight.grad is None


def traces(network: nn.Module) -> tuple[object, ...]:
    return (
        state(network),
        hook_count(network),
        [module.training for module in network.modules()],
        [parameter.requires_grad for parameter in network.parameters()],
        [None if p.grad is None else p.grad.tolist() for p in network.parameters()],
        [(id(p), p.data_ptr(), p.dtype) for p in network.parameters()],
        torch.is_grad_enabled(),
        torch.get_rng_state().tolist(),
    )


def test_a_transformers_model_is_the_same_afterwards() -> None:
    network = model_of_family("llama")
    assert network.config._attn_implementation == "sdpa"
    before = traces(network)
    with torch.no_grad():
        collect(network, tokens(2, 6, 250), TERMINALS)
    assert traces(network) == before
    assert network.config._attn_implementation == "sdpa"
    assert network.model.layers[0].self_attn.config._attn_implementation == "sdpa"


def test_a_mapping_may_say_what_is_predicted() -> None:
    network, ids = model_of_family("llama"), tokens(2, 6, 250)
    labels = ids.clone()
    labels[0, :4] = sites.IGNORED
    masked = collect(network, {"input_ids": ids, "labels": labels}, {"g"}).sites[-1]
    plain = collect(network, {"input_ids": ids}, {"g"}).sites[-1]
    assert torch.equal(plain.terminals["g"], collect(network, ids, {"g"}).sites[-1].terminals["g"])
    weight = network.get_submodule(masked.name).weight.requires_grad_()
    logits = network(input_ids=ids, use_cache=False).logits
    loss = functional.cross_entropy(logits[0, 3:-1], ids[0, 4:])
    loss = loss + functional.cross_entropy(logits[1, :-1], ids[1, 1:])
    close(masked.terminals["g"], torch.autograd.grad(loss, weight)[0])


def test_bad_input_is_refused_with_words() -> None:
    with pytest.raises(ValueError, match="no such terminals: gg; known: W, attention"):
        collect(decoder(), tokens(), {"gg"})
    with pytest.raises(ValueError, match=r"must be \(sequences, tokens\), got \(7,\)"):
        collect(decoder(), tokens()[0], {"g"})
    flat = nn.Sequential(nn.Embedding(11, 4), nn.Flatten(), nn.Linear(28, 3))
    with pytest.raises(ValueError, match=r"must be \(sequences, tokens, vocabulary\), got"):
        collect(flat, tokens(), {"g"})


def test_the_file_works_without_the_project(tmp_path: Path) -> None:
    source = Path(sites.__file__).read_text(encoding="utf-8")
    user = """
import sys
network = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 5))
found = collect(network, torch.tensor([[0, 1, 2], [3, 4, 0]]), TERMINALS - COUNTS)
assert not {"autoproxy", "evaluators", "transformers"} & set(sys.modules)
print(*(site.name for site in found.sites), len(found.sites[0].terminals), *found.model)
"""
    script = tmp_path / "alone.py"
    script.write_text(source + user, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-I", str(script)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "20", "log_flow"]  # its layers have no role


class Opt(nn.Module):
    """One block whose feed-forward is two layers of the block itself, as OPT has it."""

    def __init__(self, up: str = "fc1", down: str = "fc2") -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        block = nn.ModuleDict({up: nn.Linear(4, 6), down: nn.Linear(6, 4)})
        self.blocks, self.names = nn.ModuleList([block]), (up, down)
        self.head = nn.Linear(4, 11)

    def forward(self, ids: Tensor) -> Tensor:
        up, down = (self.blocks[0][name] for name in self.names)
        state = self.embedding(ids)
        return self.head(state + down(functional.relu(up(state))))


def test_what_is_recognised_has_a_role_and_what_is_not_has_none() -> None:
    """A network whose feed-forward nobody knows is not one without parameters in it."""
    torch.manual_seed(0)
    known = collect(Opt(), tokens(), {"is_mlp", "is_attention", "params_mlp", "ff_width"})
    assert [float(site.terminals["is_mlp"]) for site in known.sites] == [1, 1]
    assert known.model == {"params_mlp": 4 * 6 + 6 + 6 * 4 + 4, "ff_width": 6}
    assert not any("is_attention" in site.terminals for site in known.sites)
    strange = collect(Opt("wide", "narrow"), tokens(), {"is_mlp", "params_mlp", "fan_in"})
    assert [set(site.terminals) for site in strange.sites] == [{"fan_in"}] * 2
    assert strange.model == {}


@pytest.mark.parametrize("name", ["starter", "flexibert", "gpt2-lts"])
def test_counts_are_those_of_the_benchmarks(name: str) -> None:
    network, terminals = BUILT[name]()
    ids = tokens(2, 5, 11)
    found = collect(network, ids, sites.COUNTS).model
    assert found == pytest.approx(terminals)


def test_counts_of_what_has_no_blocks() -> None:
    torch.manual_seed(0)
    found = collect(Heap(), tokens(), sites.COUNTS).model
    assert set(found) == {"d_embed", "flops", "params", "params_embedding", "params_body"}
    assert found["params"] == found["params_embedding"] == 44 + 20 + 20 + 55


def built(network: type, config: object, columns: dict[str, float]) -> tuple[nn.Module, dict]:
    torch.manual_seed(0)
    one = Architecture(id="a", config=config, quality=0.0, network="a", cell="a", columns=columns)
    return network(config), Benchmark.model_terminals(SimpleNamespace(network=network), one)


def columns(depth: int, width: int, ff_width: float, heads: float, d_embed: int) -> dict:
    return {"depth": depth, "width": width, "ff_width": ff_width, "heads": heads} | {
        "d_embed": d_embed
    }


BUILT = {
    "starter": lambda: built(
        Decoder, DecoderConfig(**SHAPE, activation="swiglu"), columns(2, 8, 8.0, 3.0, 8)
    ),
    "flexibert": lambda: built(
        Encoder,
        EncoderConfig(
            width=8, operations=("SA:SDP", "SA:WMA"), heads=(2, 4), stacks=((16, 12, 4), (6,)),
            d_embed=4, vocabulary=11, length=9,
        ),
        columns(2, 8, (32 / 3 + 6) / 2, 3.0, 4),
    ),
    "gpt2-lts": lambda: built(
        GPT2,
        GPT2Config(
            width=8, heads=(2, 4), ff_widths=(16, 6), d_embed=4, div_val=2, vocabulary=11,
            cutoffs=(5, 9), length=9,
        ),
        columns(2, 8, 11.0, 3.0, 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BUILT))
def test_every_terminal_of_every_kind_of_network(name: str) -> None:
    """Gradients of encoders and adaptive networks too are those of autograd."""
    network, _ = BUILT[name]()
    ids = tokens(2, 5, 11)
    found = collect(network, ids, TERMINALS)
    assert set(found.model) == {*sites.COUNTS, "log_flow"}
    causal = getattr(network, "causal", True)
    losses = [naive_loss(network.eval(), sequence, causal) for sequence in ids]
    for site in found.sites:
        (slope,) = torch.autograd.grad(
            sum(losses), network.get_submodule(site.name).weight, retain_graph=True
        )
        close(site.terminals["g"], slope, 1e-4)
        # Probabilities are constants of SynFlow's pass, so nothing flows through scores.
        scores = site.name.endswith(("query", "weighting", "key"))
        assert bool(site.terminals["flow"].any()) is not scores
        assert ("heads" in site.terminals) == site.name.endswith("attention.out")


def test_a_transform_reads_no_heads() -> None:
    torch.manual_seed(0)
    config = EncoderConfig(
        width=8, operations=("LT:DFT", "DSC:5"), heads=(2, 2), stacks=((6,), (6,)), d_embed=8,
        vocabulary=11, length=9,
    )  # fmt: skip
    found = collect(Encoder(config), tokens(2, 5, 11), TERMINALS)
    reading = [site.name for site in found.sites if "heads" in site.terminals]
    assert reading == ["layers.1.attention.out"]
    assert [s.name for s in found.sites if "attention" in s.terminals] == reading
