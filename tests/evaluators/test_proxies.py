"""Hand-made proxies against slow computations written from their formulas."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoproxy.errors import EvaluationError
from autoproxy.language.catalog import CATALOG
from autoproxy.language.expression import Expression
from autoproxy.language.parse import kind_of, parse
from autoproxy.language.prediction import combine, features
from autoproxy.language.terminals import VOCABULARY
from autoproxy.language.types import Kind
from evaluators import proxies
from evaluators.networks.decoder import Decoder
from evaluators.proxies import NAMED, SharedWeight, Subject, az_nas, gradient_matching, score
from evaluators.sites import TERMINALS, Site, collect
from search_spaces.handmade_proxies import COUNTS, HAND_MADE, MEASURED
from tests.evaluators.families import model_of_family
from tests.evaluators.test_sites import decoder, naive_flow, state, tokens

SEQUENCES = 4


def subject(**changes: object) -> tuple[Decoder, Tensor]:
    return decoder(scale=10.0, activation="relu", **changes), tokens(SEQUENCES, 7)


def linear(network: nn.Module) -> dict[str, nn.Linear]:
    return {n: m for n, m in network.named_modules() if isinstance(m, nn.Linear)}


def observed(network: nn.Module, ids: Tensor, *kinds: type) -> dict[str, tuple[Tensor, Tensor]]:
    """What goes into and out of modules, with gradients kept, by name in order of execution."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = [
        module.register_forward_hook(
            lambda _, given, made, name=name: found.update({name: (given[0], made)})
        )
        for name, module in network.named_modules()
        if isinstance(module, kinds)
    ]
    network.eval()(ids)
    for hook in hooks:
        hook.remove()
    return found


def losses(network: nn.Module, ids: Tensor) -> list[Tensor]:
    return [functional.cross_entropy(network(one[None])[0, :-1], one[1:]) for one in ids]


def gradients(network: nn.Module, ids: Tensor) -> dict[str, np.ndarray]:
    """Each sequence's gradient of every linear weight, (sequences, out, in)."""
    modules = linear(network.eval())
    weights = [module.weight for module in modules.values()]
    each = [torch.autograd.grad(loss, weights) for loss in losses(network, ids)]
    return {
        name: torch.stack(slopes).double().numpy()
        for name, slopes in zip(modules, zip(*each, strict=True), strict=True)
    }


def jacobians(network: Decoder, ids: Tensor) -> np.ndarray:
    rows = []
    for one in ids:
        embedded = network.embedding(one[None]).detach().requires_grad_()
        total = (network.eval().hidden(embedded) @ network.embedding.weight.T).sum()
        rows.append(torch.autograd.grad(total, embedded)[0].flatten().double().numpy())
    return np.stack(rows)


def test_jacobian_covariance() -> None:
    network, ids = subject()
    eigenvalues = np.linalg.eigvals(np.corrcoef(jacobians(network, ids))).real
    expected = -sum(math.log(v + 1e-5) + 1 / (v + 1e-5) for v in eigenvalues)
    assert score("jacobian_covariance", network, ids) == pytest.approx(expected, rel=1e-3)


def test_jacobian_cosine() -> None:
    network, ids = subject()
    rows, total = jacobians(network, ids), 0.0
    for i in range(SEQUENCES):
        for j in range(SEQUENCES):
            cosine = rows[i] @ rows[j] / np.linalg.norm(rows[i]) / np.linalg.norm(rows[j])
            total += abs(cosine - (i == j)) ** (1 / 20) if i != j else 0.0
    expected = 1 - total / 2 / (SEQUENCES**2 - SEQUENCES)
    assert score("jacobian_cosine", network, ids) == pytest.approx(expected, rel=1e-5)


def agreements(rows: np.ndarray) -> np.ndarray:
    return np.array([[sum(a == b) for b in rows] for a in rows], dtype=float)


def test_naswot_and_activation_distance() -> None:
    network, ids = subject()
    codes = [z.detach().numpy() > 0 for z, _ in observed(network, ids, nn.ReLU).values()]
    kernel = sum(agreements(code.reshape(SEQUENCES, -1)) for code in codes)
    assert score("naswot", network, ids) == pytest.approx(math.log(np.linalg.det(kernel)), rel=1e-9)
    expected = sum(agreements(code[0]).sum() for code in codes)
    assert score("activation_distance", network, ids) == expected


def test_confidences_of_projections() -> None:
    network, ids = subject()
    seen = observed(network, ids, nn.Linear)
    values = [
        float(y.detach().max(dim=1).values.mean())
        for name, (_, y) in seen.items()
        if name.endswith((".query", ".key", ".value"))
    ]
    assert len(values) == 6
    assert score("head_confidence", network, ids) == pytest.approx(sum(values), rel=1e-6)
    assert score("attention_importance", network, ids) == pytest.approx(sum(values) / 6, rel=1e-6)


def test_head_importance_of_michel() -> None:
    network, ids = subject()
    total = 0.0
    for one in ids:
        loss, reading = loss_and_heads(network, one)
        for heads, output, slope in zip(
            (2, 4), reading, torch.autograd.grad(loss, reading), strict=True
        ):
            size = 8 // heads
            for h in range(heads):
                own = slice(h * size, (h + 1) * size)
                total += abs(float((output[..., own] * slope[..., own]).detach().sum()))
    expected = total / SEQUENCES
    assert score("head_importance_michel", network, ids) == pytest.approx(expected, rel=1e-4)


def loss_and_heads(network: Decoder, one: Tensor) -> tuple[Tensor, list[Tensor]]:
    reading: list[Tensor] = []
    hooks = [
        layer.attention.out.register_forward_pre_hook(lambda _, given: reading.append(given[0]))
        for layer in network.layers
    ]
    logits = network.eval()(one[None])
    for hook in hooks:
        hook.remove()
    return functional.cross_entropy(logits[0, :-1], one[1:]), reading


def test_w_pca_counts_components_before_the_activation() -> None:
    network, ids = subject()
    counts = []
    for z, _ in observed(network, ids, nn.ReLU).values():
        features = z.detach().double().numpy().reshape(-1, z.shape[-1])
        spectrum = sorted(np.linalg.eigvalsh(np.cov(features.T)), reverse=True)
        held, count = 0.0, 0
        while held < 0.99 * sum(spectrum):
            held += spectrum[count]
            count += 1
        counts.append(count)
    assert counts != [z.shape[-1] for z, _ in observed(network, ids, nn.ReLU).values()]
    parameters = sum(p.numel() for p in network.parameters())
    assert score("v_pca", network, ids) == sum(counts) / 2
    assert score("w_pca", network, ids) == parameters * sum(counts) / 2


def layer_states(network: Decoder, ids: Tensor) -> list[np.ndarray]:
    state, states = network.embedding(ids) + network.position.weight[: ids.shape[1]], []
    for layer in network.eval().layers:
        state = layer(state)
        states.append(state.detach().double().numpy().reshape(-1, state.shape[-1]))
    return states


def test_az_nas_expressivity_and_progressivity() -> None:
    network, ids = subject(heads=(2, 4, 2), kv_heads=(1, 2, 2), ff_widths=(6, 10, 4))
    entropies = []
    for states in layer_states(network, ids):
        spectrum = np.linalg.eigvalsh(np.cov(states.T)).clip(0)
        shares = spectrum / spectrum.sum()
        entropies.append(-sum(p * math.log(p) for p in shares if p > 0))
    assert score("az_expressivity", network, ids) == pytest.approx(sum(entropies), rel=1e-9)
    gaps = [entropies[1] - entropies[0], entropies[2] - entropies[1]]
    assert score("az_progressivity", network, ids) == pytest.approx(min(gaps), rel=1e-6)


def test_az_nas_trainability() -> None:
    network, ids = subject()
    draw, values = torch.Generator().manual_seed(3), []
    state = network.embedding(ids) + network.position.weight[:7]
    for layer in network.eval().layers:
        entering = state.detach().requires_grad_()
        state = layer(entering)
        signs = torch.randint(0, 2, state.shape, generator=draw).float() * 2 - 1
        slope = torch.autograd.grad(state, entering, signs)[0].numpy().reshape(-1, 8)
        outer = slope.T.astype(float) @ signs.numpy().reshape(-1, 8) / (SEQUENCES * 7)
        largest = np.linalg.svd(outer)[1][0]
        values.append(-largest - 1 / (largest + 1e-6) + 2)
    found = score("az_trainability", network, ids, seed=3)
    assert found == pytest.approx(np.mean(values), rel=1e-5)
    assert found == score("az_trainability", network, ids, seed=3)
    assert found != score("az_trainability", network, ids, seed=4)


def test_az_nas_ranks_a_pool() -> None:
    pool = [(1.0, 0.5, 3.0), (2.0, 0.1, 3.0), (0.0, 0.9, 4.0)]
    expected = [
        math.log(2 / 3) + math.log(2 / 3) + math.log(1.5 / 3),
        math.log(3 / 3) + math.log(1 / 3) + math.log(1.5 / 3),
        math.log(1 / 3) + math.log(3 / 3) + math.log(3 / 3),
    ]
    assert az_nas(pool) == pytest.approx(expected)


def test_near_adds_effective_ranks_around_activations() -> None:
    network, ids = subject()
    total = 0.0
    for pair in observed(network, ids, nn.ReLU).values():
        for value in pair:
            singular = np.linalg.svd(value.detach().double().numpy().reshape(-1, value.shape[-1]))[
                1
            ]
            shares = singular / singular.sum()
            total += math.exp(-sum(p * math.log(p) for p in shares if p > 0))
    assert score("near", network, ids) == pytest.approx(total, rel=1e-5)


def test_eznas_formula() -> None:
    network, ids = subject()
    total = 0.0
    for each in gradients(network, ids).values():
        signs = np.sign(each.sum(0))
        gram = signs @ signs.T
        if np.linalg.matrix_rank(gram) == len(gram):
            total += 1 / (1 + math.exp(-math.log(abs(np.linalg.det(gram)))))
    assert total > 1
    assert score("eznas", network, ids) == pytest.approx(total, rel=1e-6)


def test_zico() -> None:
    network, ids = subject()
    total = 0.0
    for each in gradients(network, ids).values():
        mean, deviation = np.abs(each).mean(0), each.std(0)
        known = deviation > 1e-6 * mean
        total += math.log((mean[known] / deviation[known]).sum())
    assert score("zico", network, ids) == pytest.approx(total, rel=1e-4)


def test_zico_leaves_out_what_is_the_same_in_all_sequences() -> None:
    """By float64 of each sequence alone; what float32 makes of equal gradients is no spread."""
    network, ids = subject()
    for twins in (ids[[0, 0]], ids[[1, 1, 1]]):
        with pytest.raises(EvaluationError, match="sequences whose gradients differ"):
            score("zico", network, twins)
    # The first token of all sequences is one: what the first layer makes of it is shared, in part.
    mixed = torch.cat([ids[[0, 0]], ids[[1]]])
    total = 0.0
    for each in gradients(network, mixed).values():
        mean, deviation = np.abs(each).mean(0), each.std(0)
        known = deviation > 1e-5 * np.abs(each).max()
        total += math.log((mean[known] / deviation[known]).sum())
    assert score("zico", network, mixed) == pytest.approx(total, rel=1e-3)


def test_log_synflow() -> None:
    network = decoder(scale=3.0, activation="relu")
    ids = tokens(SEQUENCES, 7)
    _, slopes = naive_flow(network, 7)
    total = 0.0
    for name, slope in slopes.items():
        weight = linear(network)[name].weight.detach().double().abs()
        total += float((weight * slope.abs().log().abs())[slope != 0].sum())
    assert score("log_synflow", network, ids) == pytest.approx(total, rel=1e-6)


def test_lpzero_on_gpt2() -> None:
    network, ids = subject()
    values = []
    for name, each in gradients(network, ids).items():
        mean = each.mean(0)
        chances = np.exp(mean) / np.exp(mean).sum(1, keepdims=True)
        weight = linear(network)[name].weight.detach().double().numpy()
        values.append((weight**2).mean() + (chances**2).mean())
    assert score("lpzero_gpt2", network, ids) == pytest.approx(np.mean(values), rel=1e-6)
    assert NAMED["lpzero_gpt2"].sign == -1


@pytest.mark.parametrize("name", sorted(NAMED))
def test_every_named_proxy(name: str) -> None:
    """It is a number, the same again, of any activation and model, and leaves no trace."""
    proxy = NAMED[name]
    assert proxy.sign in {-1, 1}
    assert proxy.source
    assert proxy.meaning
    for network, ids in (
        (decoder(activation="swiglu", norm="rms", position="rotary"), tokens(SEQUENCES, 7)),
        (model_of_family("gpt2"), tokens(SEQUENCES, 9, 250)),
    ):
        before = state(network)
        first = score(name, network, ids)
        assert math.isfinite(first)
        assert first == score(name, network, ids)
        assert state(network) == before


def test_refusals_say_why() -> None:
    network, ids = subject()
    with pytest.raises(EvaluationError, match="unknown proxy 'naswott'; did you mean 'naswot'"):
        score("naswott", network, ids)
    with pytest.raises(EvaluationError, match="a batch of at least 2"):
        score("zico", network, ids[:1])
    with pytest.raises(EvaluationError, match="codes differ"):
        score("naswot", network, ids[[0, 0, 1]])
    with pytest.raises(EvaluationError, match="only one"):
        score("az_progressivity", decoder(heads=(2,), kv_heads=(1,), ff_widths=(4,)), ids)
    deep = decoder(activation="swiglu", heads=(2,) * 12, kv_heads=(1,) * 12, ff_widths=(8,) * 12)
    with pytest.raises(EvaluationError, match="overflows"):
        score("log_synflow", deep, ids)
    plain = nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 11))
    for name in ("near", "w_pca", "head_confidence", "head_importance_michel"):
        with pytest.raises(EvaluationError, match="the network has no"):
            score(name, plain, ids)


def test_gradient_matching_of_a_part_of_a_supernet() -> None:
    supernet, ids = subject()
    network = decoder(scale=10.0, activation="relu", ff_widths=(4, 10))
    network.load_state_dict(
        {n: p for n, p in supernet.state_dict().items() if "layers.0.mlp.u" not in n
         and "layers.0.mlp.out" not in n}, strict=False
    )  # fmt: skip
    kept = torch.tensor([0, 2, 3, 5])
    with torch.no_grad():
        network.layers[0].mlp.up.weight.copy_(supernet.layers[0].mlp.up.weight[kept])
        network.layers[0].mlp.out.weight.copy_(supernet.layers[0].mlp.out.weight[:, kept])
    shared = {name: SharedWeight(name) for name in linear(network)}
    shared["layers.0.mlp.up"] = SharedWeight("layers.0.mlp.up", rows=kept)
    shared["layers.0.mlp.out"] = SharedWeight("layers.0.mlp.out", columns=kept)
    whole, own = gradients(supernet, ids), gradients(network, ids)
    whole["layers.0.mlp.up"] = whole["layers.0.mlp.up"][:, kept.numpy()]
    whole["layers.0.mlp.out"] = whole["layers.0.mlp.out"][:, :, kept.numpy()]
    first = np.concatenate([own[name].sum(0).ravel() for name in own])
    second = np.concatenate([whole[name].sum(0).ravel() for name in own])
    expected = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    rated = Subject(network=supernet, batch=ids)
    assert 0 < expected < 0.999
    assert gradient_matching(rated, network, shared) == pytest.approx(expected, rel=1e-5)
    itself = {name: SharedWeight(name) for name in linear(supernet)}
    assert gradient_matching(rated, supernet, itself) == pytest.approx(1.0)
    with pytest.raises(EvaluationError, match=r"layers\.0\.mlp\.up is not the part of"):
        gradient_matching(rated, network, {"layers.0.mlp.up": SharedWeight("layers.0.mlp.up")})
    with pytest.raises(EvaluationError, match="no linear layer nowhere"):
        gradient_matching(rated, network, {"nowhere": SharedWeight("nowhere")})


# Expressions of the language, evaluated node by node on what is collected, against autograd.


def value_of(text: str, network: nn.Module, ids: Tensor) -> float:
    expression = parse(text)
    found = collect(network, ids, TERMINALS & expression.terminals())
    layers = {
        feature: [
            torch.cat(
                [
                    at_site(feature, site).double()
                    for site in found.sites
                    if feature.terminals() <= set(site.terminals)
                ]
            )
        ]
        for feature in features(expression)
    }
    model = {n: torch.tensor([[v]]).double() for n, v in found.model.items()}
    return float(combine(expression, layers, model))


def at_site(node: Expression, site: Site) -> Tensor:
    if node.value is not None:
        return torch.tensor([[node.value]])
    if not node.operands:
        return site.terminals[node.head]
    meaning = CATALOG[node.head].tensor
    if node.head == "pow":
        return meaning(at_site(node.operands[0], site), node.operands[1].value)
    return meaning(*(at_site(operand, site) for operand in node.operands))


def direct(network: Decoder, ids: Tensor) -> dict[str, float]:
    """Every measured proxy that is an expression, straight from its formula."""
    each = {name: values.sum(0) for name, values in gradients(network, ids).items()}
    weights = {n: m.weight.detach().double().numpy() for n, m in linear(network).items()}
    saliency = {name: np.abs(weights[name] * each[name]).sum() for name in each}
    nuclear: Callable[[np.ndarray], float] = lambda a: np.linalg.svd(a)[1].sum()  # noqa: E731
    attention = [name for name in each if ".attention." in name]
    mlp = [name for name in each if ".mlp." in name]
    total, slopes = naive_flow(network, ids.shape[1])
    flow = {name: slope.double().numpy() for name, slope in slopes.items()}
    synflow = {name: np.abs(weights[name] * flow[name]).sum() for name in flow}
    dss = sum(nuclear(np.abs(weights[n])) * nuclear(flow[n]) for n in attention)
    queries = [
        float(
            observed(network, ids, nn.Linear)[f"layers.{n}.attention.query"][1]
            .detach()
            .square()
            .mean()
        )
        for n in (0, 1)
    ]
    chances = [p.detach().double().numpy() for _, p in observed(network, ids, nn.Softmax).values()]
    return {
        "grad_norm": sum(np.sqrt((g**2).sum()) for g in each.values()),
        "snip": sum(saliency.values()),
        "grasp": -sum((weights[n] * h).sum() for n, h in hessian_products(network, ids).items()),
        "fisher": fisher(network, ids),
        "synflow": math.log(sum(synflow.values())),
        "plain": sum((weights[n] * each[n]).sum() for n in each),
        "weight_norm": sum(np.sqrt((w**2).sum()) for w in weights.values()),
        "synaptic_diversity": sum(nuclear(weights[n]) * nuclear(each[n]) for n in attention),
        "synaptic_saliency": sum(saliency[n] for n in mlp),
        "dss": math.log(dss + sum(synflow[n] for n in mlp)),
        "head_importance": sum(saliency[n] for n in attention if len(weights[n]) >= 128),
        "attention_saliency": sum(saliency[n] for n in attention),
        "softmax_confidence": sum(p.max(axis=1).mean() for p in chances),
        "attention_confidence": sum(p.max(axis=3).mean() for p in chances),
        "order_sensitivity": order_sensitivity(network, ids),
        "lpzero_flexibert": sum(queries) / 2,
        "lpzero_flexibert_sum": sum(queries),
        "log_R": math.log(float(total)),
    }


def order_sensitivity(network: Decoder, ids: Tensor) -> float:
    """How far the first attention's output moves at the later tokens when the earlier turn."""
    half = ids.shape[1] // 2
    turned = torch.cat([ids[:, :half].flip(1), ids[:, half:]], dim=1)
    name = "layers.0.attention.out"
    before, after = (
        observed(network, one, nn.Linear)[name][0].detach().double() for one in (ids, turned)
    )
    return float((after - before)[:, half:].square().sum().sqrt())


def hessian_products(network: Decoder, ids: Tensor) -> dict[str, np.ndarray]:
    """H g by a central difference of gradients along g."""
    modules = linear(network)
    each = {name: torch.tensor(v.sum(0)) for name, v in gradients(network, ids).items()}
    step, found = 1e-5, {}
    wide = type(network)(network.config).double()
    for side in (1, -1):
        wide.load_state_dict({n: p.double() for n, p in network.state_dict().items()})
        with torch.no_grad():
            for name, slope in each.items():
                linear(wide)[name].weight += side * step * slope
        for name, values in gradients(wide, ids).items():
            found[name] = found.get(name, 0.0) + side * values.sum(0) / (2 * step)
    assert set(found) == set(modules)
    return found


def fisher(network: Decoder, ids: Tensor) -> float:
    squares: dict[str, list[np.ndarray]] = {name: [] for name in linear(network)}
    for one in ids:
        loss, outputs = loss_and_outputs(network, one)
        slopes = torch.autograd.grad(loss, list(outputs.values()))
        for (name, y), slope in zip(outputs.items(), slopes, strict=True):
            squares[name].append((y * slope).detach().double().numpy()[0] ** 2)
    return sum(sum(0.5 * np.concatenate(values).mean(axis=0)) for values in squares.values())


def loss_and_outputs(network: Decoder, one: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    outputs: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, y, name=name: outputs.update({name: y}))
        for name, module in linear(network).items()
    ]
    (loss,) = losses(network, one[None])
    for hook in hooks:
        hook.remove()
    return loss, outputs


@pytest.mark.parametrize("width", [8, 128])
def test_expressions_are_the_published_formulas(width: int) -> None:
    network = decoder(
        scale=3.0, activation="relu", width=width, heads=(2, 4), kv_heads=(1, 4), ff_widths=(6, 10)
    )
    ids = tokens(3, 6)
    expected = direct(network, ids)
    assert set(expected) - {"log_R"} == {proxy.name for proxy in MEASURED}
    for proxy in MEASURED:
        found = value_of(proxy.text, network, ids)
        assert found == pytest.approx(expected[proxy.name], rel=2e-4), proxy.name
    assert (expected["head_importance"] > 0) == (width == 128)


def test_counts_are_the_published_formulas() -> None:
    network, ids = subject()
    attention, mlp = 2 * (64 + 32 + 32 + 64), 2 * 8 * 6 + 2 * 8 * 10
    body = attention + mlp + 5 * 8  # five norms
    table = 11 * 8 + 128 * 8
    expected = {
        "depth": 2,
        "width": 8,
        "depth2_width": 32,
        "parameters": body + table,
        "decoder_parameters": body,
        "attention_parameters": attention,
        "mlp_parameters": mlp,
        "embedding_parameters": table,
        "flops": 2 * (attention + mlp),
        "power_law": 2 * 8**1.5 * 8**0.3 * 8**0.3,
    }
    assert set(expected) == {proxy.name for proxy in COUNTS}
    for proxy in COUNTS:
        assert value_of(proxy.text, network, ids) == pytest.approx(expected[proxy.name], rel=1e-6)


@pytest.mark.parametrize("proxy", HAND_MADE, ids=lambda proxy: proxy.name)
def test_hand_made_proxies_are_documented_expressions(proxy: proxies.NamedProxy) -> None:
    expression = parse(proxy.text)
    assert kind_of(expression) is Kind.MODEL
    assert str(parse(str(expression))) == str(expression)
    assert proxy.sign in {1, -1}
    assert proxy.source
    assert proxy.name not in NAMED


def test_the_collector_gives_what_the_vocabulary_promises() -> None:
    """Every terminal that is collected is a word, and its tensor has the shape of its kind."""
    assert set(VOCABULARY) >= TERMINALS
    axes = {
        Kind.WEIGHT: "oi", Kind.PER_INPUT: "1i", Kind.PER_OUTPUT: "o1", Kind.SCALAR: "11",
        Kind.INPUT: "sti", Kind.OUTPUT: "sto", Kind.ATTENTION: "shtt",
    }  # fmt: skip
    network, ids = subject()
    for site in collect(network, ids, TERMINALS).sites:
        d_out, d_in = site.terminals["W"].shape
        heads = 2 if site.name.startswith("layers.0") else 4
        sizes = {"o": d_out, "i": d_in, "1": 1, "s": SEQUENCES, "t": 7, "h": heads}
        for name, value in site.terminals.items():
            expected = tuple(sizes[axis] for axis in axes[VOCABULARY[name].kind])
            assert tuple(value.shape) == expected, name
            assert value.dtype == torch.float32
            assert bool(value.isfinite().all())
            if VOCABULARY[name].nonnegative:
                assert bool((value >= 0).all()), name
