"""LPZero's genotypes in our language, against its tree run slowly on tensors caught by hooks."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from autoproxy.language.parse import parse
from autoproxy.search.config import SearchConfig
from autoproxy.search.loop import Search
from autoproxy.sieve.rules import Dropped, Kept
from autoproxy.sieve.sieve import Sieve
from evaluators.networks.encoder import Encoder, EncoderConfig
from evaluators.networks.gpt2 import GPT2, GPT2Config
from evaluators.prediction import PredictionEvaluator
from evaluators.prediction_config import PredictionConfig
from evaluators.proxies import score
from search_spaces.handmade_proxies import HAND_MADE
from search_spaces.lpzero import (
    BINARY,
    FLEXIBERT_WINNER,
    GPT2_WINNER,
    INPUTS,
    LPZERO,
    UNARY,
    formula,
)
from tests.autoproxy.search.memories import DictMemory
from tests.evaluators.tables import flexibert_rows, write
from tests.evaluators.test_proxies import linear, observed, value_of
from tests.evaluators.test_sites import decoder, tokens

UNARY_OF_LPZERO: list[Callable[[Tensor], Tensor]] = [
    lambda x: torch.log(torch.where(x <= 0, torch.ones_like(x), x) + 1e-9),
    lambda x: torch.where(x == 0, torch.ones_like(x), x).abs().log(),
    lambda x: x.abs(),
    lambda x: x**2,
    torch.exp,
    lambda x: torch.nan_to_num((x - x.mean()) / x.std(correction=int(x.numel() > 1)), nan=0.0),
    lambda x: x.clamp(min=0),
    lambda x: 1 / (x + 1e-9),
    lambda x: (x**2).sum().sqrt(),
    lambda x: x.sum() / x.numel(),
    lambda x: x.abs().sum() / x.numel(),
    lambda x: functional.softmax(x, dim=0),
    lambda x: 1 / (1 + torch.exp(-x)),
    lambda x: functional.log_softmax(x, dim=0),
    lambda x: torch.sqrt(x.clamp(min=0)),
    lambda x: -x,
    lambda x: (x - x.min()) / (x.max() - x.min() + 1e-9),
    lambda x: x.mean(),
    lambda x: x.std(),
    lambda x: x,
]


def tree(lists: dict[str, list[Tensor]], genotype: dict[str, Any]) -> tuple[float, float]:
    """LPZero's score, and how large what it adds up is."""
    branches: list[list[tuple[float, float]]] = []
    for name, chain in zip(genotype["input_geno"], genotype["op_geno"][:2], strict=True):
        values = []
        for tensor in lists[name]:
            for place in chain:
                tensor = UNARY_OF_LPZERO[place](tensor)  # noqa: PLW2901
            values.append((float(tensor.mean()), float(tensor.abs().mean())))
        branches.append(values)
    pairs = list(zip(*branches, strict=False))  # cut to the shorter
    binary: Any = [lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b][
        genotype["op_geno"][2]
    ]
    sizes = [a[1] * b[1] if genotype["op_geno"][2] == 2 else a[1] + b[1] for a, b in pairs]
    return sum(binary(a[0], b[0]) for a, b in pairs) / len(pairs), sum(sizes) / len(sizes)


@pytest.fixture(scope="module")
def gpt() -> tuple[nn.Module, Tensor, dict[str, list[Tensor]]]:
    """A causal network, a batch, and LPZero's lists: weights lie (in, out) as in a Conv1D."""
    network, ids = decoder(scale=5.0), tokens(3, 7)
    loss = functional.cross_entropy(network(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    modules = list(linear(network).values())
    gradients = torch.autograd.grad(loss, [m.weight for m in modules])
    outputs = [y.detach() for _, y in observed(network, ids, nn.Linear).values()]
    weights = [m.weight.detach().T for m in modules]
    grads = [g.T for g in gradients]
    return network, ids, {"act": outputs, "head": outputs, "weight": weights, "grad": grads}


@pytest.fixture(scope="module")
def bert() -> tuple[nn.Module, Tensor, dict[str, list[Tensor]]]:
    """An encoder of self-attention with feed-forward stacks, a batch, and LPZero's lists."""
    torch.manual_seed(0)
    shape = EncoderConfig(
        width=8, operations=("SA:SDP",) * 3, heads=(2, 4, 2), stacks=((6,), (5, 6), (4,)),
        d_embed=8, vocabulary=11, length=9,
    )  # fmt: skip
    network, ids = Encoder(shape).eval(), tokens(3, 7)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)
    made = {name: y.detach() for name, (_, y) in observed(network, ids, nn.Linear).items()}
    chances = [p.detach() for _, p in observed(network, ids, nn.Softmax).values()]
    stacks = [functional.gelu(y) for name, y in made.items() if ".up." in name]
    queries = [y for name, y in made.items() if name.endswith(".query")]
    assert (len(queries), len(chances), len(stacks)) == (3, 3, 4)
    return network, ids, {"act": stacks, "head": queries, "softmax": chances}


PLACES = st.integers(0, 19)
GENES = st.tuples(
    st.lists(PLACES, min_size=2, max_size=2), st.lists(PLACES, min_size=2, max_size=2)
)


def _same(
    subject: tuple[nn.Module, Tensor, dict[str, list[Tensor]]],
    benchmark: str,
    genotype: dict[str, Any],
) -> None:
    network, ids, lists = subject
    try:
        text = str(formula(genotype, benchmark, sequences=len(ids)))
    except ValueError:
        # These alone may have no counterpart, or be dead; and lists of FlexiBERT may not match.
        genes = {u for chain in genotype["op_geno"][:2] for u in chain}
        matched = benchmark == "gpt2" or genotype["input_geno"] in (["head"] * 2, ["softmax"] * 2)
        if matched and not genes & {5, 11, 13, 16, 18}:
            raise
        return
    expected, size = tree(lists, genotype)
    if not size < 1e25:  # beyond e^80, or infinite
        return
    assert value_of(text, network, ids) == pytest.approx(expected, rel=1e-3, abs=1e-4 * size), text


@given(st.lists(st.sampled_from(["act", "head", "weight", "grad"]), min_size=2, max_size=2),
       GENES, st.integers(0, 2))  # fmt: skip
def test_what_can_be_said_on_gpt2_is_what_lpzero_computes(
    gpt: tuple[nn.Module, Tensor, dict[str, list[Tensor]]],
    names: list[str],
    genes: tuple[list[int], list[int]],
    place: int,
) -> None:
    _same(gpt, "gpt2", {"input_geno": names, "op_geno": [*genes, place]})


@given(st.lists(st.sampled_from(["act", "head", "softmax"]), min_size=2, max_size=2),
       GENES, st.integers(0, 2))  # fmt: skip
@settings(max_examples=60)
def test_what_can_be_said_on_flexibert_is_what_lpzero_computes(
    bert: tuple[nn.Module, Tensor, dict[str, list[Tensor]]],
    names: list[str],
    genes: tuple[list[int], list[int]],
    place: int,
) -> None:
    _same(bert, "flexibert", {"input_geno": names, "op_geno": [*genes, place]})


@pytest.mark.parametrize("place", range(20), ids=UNARY)
def test_each_operation_alone(
    place: int, gpt: tuple[nn.Module, Tensor, dict[str, list[Tensor]]]
) -> None:
    """On a weight, whose dim 0 has our word: all but two have a counterpart."""
    genotype = {"input_geno": ["weight", "weight"], "op_geno": [[place, 19], [8, 8], 0]}
    if place in {5, 18}:
        with pytest.raises(ValueError, match="deviation of a sample, ours is the population"):
            formula(genotype, "gpt2")
        return
    _same(gpt, "gpt2", genotype)


def test_the_published_winners_are_what_is_computed_elsewhere(
    bert: tuple[nn.Module, Tensor, dict[str, list[Tensor]]],
) -> None:
    network, ids, lists = bert
    found = value_of(str(formula(FLEXIBERT_WINNER)), network, ids)
    (known,) = (p.text for p in HAND_MADE if p.name == "lpzero_flexibert")
    assert found == value_of(known, network, ids)
    assert found == pytest.approx(tree(lists, dict(FLEXIBERT_WINNER))[0], rel=1e-5)
    torch.manual_seed(1)
    shape = GPT2Config(
        width=8, heads=(2, 4), ff_widths=(12, 9), d_embed=4, div_val=2, vocabulary=20,
        cutoffs=(5, 9), length=9,
    )  # fmt: skip
    gpt, ids = GPT2(shape).eval(), tokens(3, 7)
    text = str(formula(GPT2_WINNER, "gpt2", sequences=3))
    assert value_of(text, gpt, ids) == pytest.approx(score("lpzero_gpt2", gpt, ids), rel=1e-6)


@pytest.mark.parametrize(
    ("where", "names", "genes", "said"),
    [
        ("flexibert", ["jacobs", "head"], [[19, 19], [19, 19], 0], "position embeddings"),
        ("flexibert", ["head", "act"], [[19, 19], [19, 19], 0], "one list over all feed-forwards"),
        ("flexibert", ["head", "weight"], [[8, 19], [17, 8], 0], "which no terminal tells apart"),
        ("flexibert", ["grad", "head"], [[8, 11], [3, 3], 0], "read before gradients"),
        ("flexibert", ["head", "softmax"], [[3, 3], [3, 3], 2], "different layers of ours"),
        ("flexibert", ["head", "head"], [[3, 11], [8, 19], 0], "dim 0 of an activation"),
        ("gpt2", ["softmax", "grad"], [[3, 3], [3, 3], 0], "its list is empty"),
        ("gpt2", ["act", "act"], [[13, 3], [3, 3], 0], "dim 0 of an activation"),
        ("gpt2", ["act", "weight"], [[8, 18], [3, 3], 0], "of one number it is NaN"),
        ("gpt2", ["act", "weight"], [[8, 13], [9, 11], 0], "both branches are dead"),
        ("gpt2", ["act", "weight"], [[3, 3], [3, 3], 3], "matmul has no counterpart"),
        ("gpt2", ["act", "weights"], [[3, 3], [3, 3], 0], "two of act, head"),
        ("gpt2", ["act", "weight"], [[3, 20], [3, 3], 0], "0 to 19"),
        ("gpt2", ["act", "weight"], [[3, 3], [3], 0], r"op_geno is \[\[u1"),
        ("gpt2", ["act", "weight"], [[3, 3], [3, 3], 4], "0 to 3"),
        ("llama", ["act", "weight"], [[3, 3], [3, 3], 0], "unknown benchmark 'llama'"),
    ],
)
def test_what_has_no_counterpart_is_refused_with_the_reason(
    where: str, names: list[str], genes: list[Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        formula({"input_geno": names, "op_geno": genes}, where)


# --- the preset --------------------------------------------------------------------------------


def test_the_preset_has_lpzeros_sizes() -> None:
    assert (len(UNARY), len(BINARY), len(LPZERO.terminals)) == (20, 4, 6)
    assert all(len(inputs) == 6 for inputs in INPUTS.values())
    config = SearchConfig(seed=0, **LPZERO.search)
    assert (config.population, config.batch, config.first_batch) == (80, 1, 80)
    assert config.evaluations == 80 + 1000
    assert LPZERO.violation(formula(GPT2_WINNER, "gpt2")) is None
    assert {name for name in LPZERO.primitives if name.startswith("layers_")} == {"layers_mean"}


@pytest.fixture(scope="module")
def flexibert(tmp_path_factory: pytest.TempPathFactory) -> PredictionEvaluator:
    """Twelve encoders as they are declared: some have no layer with attention."""
    folder = tmp_path_factory.mktemp("lpzero")
    lists = [f"{a} {b}" for a, b in itertools.product((1, 2, 3), (1, 2, 3, 4))]
    rows = [row | {"nff": nff} for row, nff in zip(flexibert_rows(), lists, strict=True)]
    config = PredictionConfig(
        benchmark="flexibert",
        table=str(write(folder / "t.csv", rows)),
        declared=True,
        labels=5,
        validation_labels=3,
        sequences=2,
        tokens=4,
    )
    evaluator = PredictionEvaluator(config, cache=folder / "cache")
    evaluator.prepare(LPZERO.terminals)
    return evaluator


LARGE = "square(square(exp(div(1, 0))))"  # beyond float32
ANOMALIES = {
    "None": ("layers_mean(all_mean(attention))", "no layer that offers attention"),
    "NaN": (f"layers_mean(sub({LARGE}, all_mean(mul({LARGE}, exp(y)))))", "no finite score"),
    "Inf": ("layers_mean(all_mean(square(square(exp(div(W, 0))))))", "no finite score"),
    "-1": ("layers_mean(neg(sign(all_norm(W))))", "the same score"),
    "0": ("layers_mean(maximum(neg(all_norm(W)), 0))", "the same score"),
    "all equal": ("layers_mean(sigmoid(sign(all_norm(y))))", "the same score"),
    "reads nothing": ("layers_mean(exp(1))", ""),
}


@pytest.mark.parametrize("anomaly", ANOMALIES)
def test_what_lpzero_calls_an_anomaly_is_dropped(
    anomaly: str, flexibert: PredictionEvaluator
) -> None:
    text, said = ANOMALIES[anomaly]
    sieve = Sieve(LPZERO, flexibert)
    fine = parse("layers_mean(all_mean(square(y)))")
    dropped, kept = sieve.judge([(0, parse(text)), (1, fine)])
    assert isinstance(kept, Kept)
    assert isinstance(dropped, Dropped)
    assert said in dropped.reason
    assert dropped.rule == ("hopeless" if said else "varies"), dropped


def test_a_search_of_the_preset_goes_its_way(flexibert: PredictionEvaluator) -> None:
    small = {**LPZERO.search, "evaluations": 14.0, "population": 4, "first_batch": 6}
    config = SearchConfig(seed=3, **small)
    *_, state = Search(LPZERO, flexibert, DictMemory(), config).run()
    assert state.spent >= 14
    assert len(state.population) == 4
    values = [i.value for i in state.archive]
    assert sorted(values)[-4:] == sorted(i.value for i in state.population)
    assert all(LPZERO.violation(i.expression) is None for i in state.archive)
    assert all(math.isfinite(value) for value in values)


def test_the_space_is_found_by_its_name(tmp_path: Path) -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    points = project["project"]["entry-points"]["autoproxy.search_spaces"]
    assert points["lpzero"] == "search_spaces.lpzero:LPZERO"
