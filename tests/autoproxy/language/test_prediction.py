"""Predictions: hand-made proxies are said, and both levels give what a plain walk gives."""

import math
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoproxy.breeding.grammar import Grammar
from autoproxy.breeding.variation import MUTATIONS, cross, mutate
from autoproxy.errors import ConfigError, ExpressionError
from autoproxy.export.formula import to_infix, to_latex, to_sympy
from autoproxy.language.blindness import Blindness
from autoproxy.language.canonical import canonical, key, nonnegative, order_key, ordering
from autoproxy.language.catalog import AGGREGATIONS, CATALOG
from autoproxy.language.expression import Expression
from autoproxy.language.parse import kind_of, operand_kinds, parse
from autoproxy.language.prediction import combine, features
from autoproxy.language.program import Program
from autoproxy.language.simplify import simplest, simplify
from autoproxy.language.terminals import MODEL_TERMINALS, PARTIAL
from autoproxy.language.types import Kind
from autoproxy.seeding import stream
from tests.autoproxy.export.drawn import space_of
from tests.autoproxy.language.formulas import Recursion, expressions, hard_inputs

PROXIES = {
    "snip": "layers_sum(all_sum(abs(W * g)))",
    "gradnorm": "layers_sum(all_norm(g))",
    "grasp": "layers_sum(all_sum(W * hg))",
    "fisher": "0.5 * layers_sum(all_sum(outputs_mean(square(y * dy))))",
    "log of synflow": "log_flow + log(layers_sum(all_sum(abs(W * flow))))",
    "plain": "layers_sum(all_sum(W * g))",
    "l2": "layers_sum(all_norm(W))",
    "synaptic diversity": "layers_sum(is_attention * (nuclear(W) * nuclear(g)))",
    "synaptic saliency": "layers_sum(is_mlp * all_sum(abs(W * g)))",
    "head importance": "layers_sum(is_attention * all_sum(abs(W * g)))",
    "log of dss": "log_flow + log(layers_sum(is_attention * (nuclear(abs(W)) * nuclear(flow)) "
    "+ is_mlp * all_sum(abs(W * flow))))",
    "softmax confidence (over keys)": "layers_sum(all_mean(key_max(attention)))",
    "softmax confidence (over heads)": "layers_sum(all_mean(head_max(attention)))",
    "head confidence": "layers_sum(is_attention * all_mean(token_max(y)))",
    "zico of 4 sequences": "layers_logsum(all_sum(g_abs / sqrt(4 * square(g_norm) - square(g))))",
    "near of outputs": "layers_sum(erank(y))",
    "naswot-like": "layers_sum(logdet(sign(y)))",
    "parameters": "layers_sum(fan_in * fan_out)",
    "depth": "n_layers",
    "depth squared, width": "square(n_layers) * width",
    "power law": "n_layers * width ** 1.5 * ff_width ** 0.3 * d_embed ** 0.3",
    "lpzero on gpt-2": "layers_mean(all_mean(square(W)) + 1 / square(fan_in))",
}


@pytest.mark.parametrize("text", PROXIES.values(), ids=list(PROXIES))
def test_hand_made_proxies_are_predictions(text: str) -> None:
    expression = parse(text)
    assert kind_of(expression) is Kind.MODEL
    assert all(kind_of(feature) is Kind.SCALAR for feature in features(expression))
    for spelling in (canonical(expression), simplify(expression), parse(to_infix(expression))):
        assert kind_of(spelling) is Kind.MODEL
        assert parse(str(spelling)) == spelling
    assert to_latex(expression)
    assert to_sympy(expression).free_symbols


@pytest.mark.parametrize(
    "text",
    [
        "n_layers * fan_in",
        "W + n_layers",
        "layers_sum(W)",
        "layers_sum(layers_sum(fan_in))",
        "x + W",
        "x * y",
        "y + x_norm",
        "y * y_norm",
        "attention * x",
        "all_sum(n_layers)",
        "nuclear(attention)",
        "correlation(W, x)",
        "token_max(attention)",
        "head_max(x)",
        "tokens_norm(y)",
        "outputs_norm(x)",
        "layers_sum(2) * fan_in",
        "entropy(fan_in)",
        "minmax(n_layers)",
    ],
)
def test_what_does_not_fit_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError, match="does not take"):
        parse(text)


def test_numbers_are_models_among_models() -> None:
    assert kind_of(parse("mul(add(2, log(3)), n_layers)")) is Kind.MODEL
    assert operand_kinds(parse("mul(log(3), n_layers)")) == (Kind.MODEL, Kind.MODEL)
    assert kind_of(parse("layers_mean(2)")) is Kind.MODEL
    assert kind_of(parse("2 + 3")) is Kind.SCALAR


# --- what networks give --------------------------------------------------------------------------

NETWORKS = 3
LAYERS = 4


def network(seed: int) -> list[dict[str, Tensor]]:
    """Return terminals of the layers of a network; half of them lack some."""
    layers = []
    for place in range(LAYERS):
        made = hard_inputs(1000 * seed + place)
        lacking = PARTIAL if place % 2 else frozenset()
        layers.append({name: value for name, value in made.items() if name not in lacking})
    return layers


def gathered(expression: Expression, networks: list[list[dict[str, Tensor]]]) -> Tensor:
    """Return what `combine` gives, the features from programs."""
    wanted = features(expression)
    layers: dict[Expression, list[Tensor]] = {feature: [] for feature in wanted}
    for feature in wanted:
        for made in networks:
            fitting = [layer for layer in made if feature.terminals() <= set(layer)]
            values = [next(Program([feature]).run(layer)) for layer in fitting]
            layers[feature].append(torch.cat(values).double())
    model = {
        name: torch.cat([made[0][name] for made in networks]).double() for name in MODEL_TERMINALS
    }
    return combine(expression, layers, model).expand(len(networks), 1)


def plainly(node: Expression, made: list[dict[str, Tensor]]) -> float:
    """Return the value for one network, slowly: one number at a time."""
    if node.value is not None:
        return node.value
    if not node.operands:
        return float(made[0][node.head])
    if not node.terminals() and not AGGREGATIONS & {part.head for part in node.walk()}:
        return float(Recursion({}).value(node))  # numbers alone, in float32
    if node.head in AGGREGATIONS:
        of_layers = [
            float(Recursion(layer).value(node.operands[0]))
            for layer in made
            if node.operands[0].terminals() <= set(layer)
        ]
        return aggregated(node.head, of_layers)
    if node.head == "pow":
        base = torch.tensor([[plainly(node.operands[0], made)]], dtype=torch.float64)
        return float(CATALOG["pow"].tensor(base, node.operands[1].value))
    parts = [torch.tensor([[plainly(o, made)]], dtype=torch.float64) for o in node.operands]
    return float(CATALOG[node.head].tensor(*parts))


def aggregated(name: str, numbers: list[float]) -> float:
    mean = math.fsum(numbers) / len(numbers)
    match name.removeprefix("layers_"):
        case "sum":
            return math.fsum(numbers)
        case "mean":
            return mean
        case "max":
            return max(numbers)
        case "min":
            return min(numbers)
        case "std":
            return math.sqrt(math.fsum((n - mean) ** 2 for n in numbers) / len(numbers))
        case "logsum":
            return math.fsum(math.log(max(abs(n), 1e-30)) for n in numbers)
        case "first":
            return numbers[0]
    assert name == "layers_last"
    return numbers[-1]


def finite(expression: Expression, networks: list[list[dict[str, Tensor]]]) -> bool:
    """Return whether nothing on the way is infinite, in the layers or above them."""
    for made in networks:
        for layer in made:
            for feature in features(expression):
                known = feature.terminals() <= set(layer)
                if known and not Recursion(layer).finite(feature):
                    return False
    above = [node for node in expression.walk() if kind_of(node) is Kind.MODEL]
    return all(bool(gathered(node, networks).isfinite().all()) for node in above)


@settings(max_examples=150, deadline=None)
@given(expressions(Kind.MODEL), st.integers(0, 10**6))
def test_combining_is_the_plain_walk(expression: Expression, seed: int) -> None:
    networks = [network(seed + n) for n in range(NETWORKS)]
    if not finite(expression, networks):
        return
    one = gathered(expression, networks)
    assert one.dtype is torch.float64
    for alone, made in zip(one.tolist(), networks, strict=True):
        single = gathered(expression, [made])
        assert single.tolist() == [alone]  # a network's value is its own
    tame = {"layers_sum", "layers_max", "layers_min", "layers_first", "layers_last", "mul", "abs"}
    if {n.head for n in expression.walk() if kind_of(n) is Kind.MODEL and n.operands} <= tame:
        for alone, made in zip(one[:, 0].tolist(), networks, strict=True):
            assert alone == pytest.approx(plainly(expression, made), rel=1e-9, abs=1e-12)


def test_what_was_aggregated_is_not_aggregated_again() -> None:
    """Formulas that differ above the layers alone: the same bits, from what is remembered."""
    draw = torch.Generator().manual_seed(5)
    layers = {
        parse(f): [torch.rand(n, 1, generator=draw, dtype=torch.float64) for n in (2, 3, 5)]
        for f in ("all_norm(g)", "all_norm(W)")
    }
    a, b, c = "layers_sum(all_norm(g))", "layers_mean(all_norm(g))", "layers_sum(all_norm(W))"
    remembered: dict[Expression, Tensor] = {}
    assert torch.equal(
        combine(parse(f"{a} ** 0.3 + {b} * {c}"), layers, {}, remembered),
        combine(parse(f"{a} ** 0.3 + {b} * {c}"), layers, {}),
    )
    assert remembered.keys() == {parse(a), parse(b), parse(c)}
    other = parse(f"{c} ** 2 / {b} - {a}")
    without = combine(other, layers, {})
    assert torch.equal(combine(other, {}, {}, remembered), without)  # no layer is read


@pytest.mark.parametrize("text", PROXIES.values(), ids=list(PROXIES))
def test_proxies_combine_to_the_plain_walk(text: str) -> None:
    expression = parse(text)
    draw = torch.Generator().manual_seed(3)
    networks = [
        [
            {name: torch.rand(value.shape, generator=draw) + 0.5 for name, value in layer.items()}
            for layer in network(n)
        ]
        for n in range(NETWORKS)
    ]
    found = gathered(expression, networks)
    wanted = [plainly(expression, made) for made in networks]
    assert found[:, 0].tolist() == pytest.approx(wanted, rel=1e-9)
    assert gathered(canonical(expression), networks).tolist() == found.tolist()
    # The simplification is another formula, which rounds otherwise; on tame values hardly so.
    assert gathered(simplify(expression), networks)[:, 0].tolist() == pytest.approx(
        wanted, rel=1e-4
    )


# --- laws ----------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(expressions(Kind.MODEL))
def test_text_trees_and_spellings_keep_the_tree_and_its_kind(expression: Expression) -> None:
    assert parse(str(expression)) == expression
    assert kind_of(parse(str(expression))) is Kind.MODEL
    tree = GRAMMAR.to_tree(expression)
    assert GRAMMAR.to_expression(tree) == expression
    for made in (canonical(expression), simplify(expression)):
        assert kind_of(made) is Kind.MODEL
    assert canonical(parse(to_infix(expression))) == canonical(expression)
    assert not any(features(expression).count(f) > 1 for f in features(expression))


GRAMMAR = Grammar(space_of(Kind.MODEL))


@settings(max_examples=150, deadline=None)
@given(expressions(Kind.MODEL), st.integers(0, 10**6))
def test_the_canonical_form_keeps_every_finite_bit_at_both_levels(
    expression: Expression, seed: int
) -> None:
    networks = [network(seed + n) for n in range(2)]
    if finite(expression, networks):
        short = gathered(canonical(expression), networks)
        assert torch.equal(short, gathered(expression, networks))
        for node in expression.walk():
            if kind_of(node) is Kind.MODEL and nonnegative(node):
                assert (gathered(node, networks) >= 0).all()


@given(expressions(Kind.MODEL), expressions(Kind.MODEL), st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_children_are_predictions(mother: Expression, father: Expression, seed: int) -> None:
    children = [cross(GRAMMAR, stream(seed), mother, father)]
    children += [mutate(GRAMMAR, stream(seed), how, mother) for how in MUTATIONS]
    for child in children:
        assert not child.terminals() or kind_of(parse(str(child))) is Kind.MODEL


SAME_ORDER = [
    ("sqrt(layers_sum(all_norm(g)))", "layers_sum(all_norm(g))"),
    ("2 * (n_layers + 3)", "n_layers"),
    ("n_layers / 4 - 1", "square(n_layers)"),
    ("n_layers ** 0.3", "abs(n_layers)"),
]
OTHER_ORDER = [
    ("layers_sum(all_norm(g))", "layers_mean(all_norm(g))"),
    ("layers_sum(sqrt(all_norm(g)))", "layers_sum(all_norm(g))"),
    ("n_layers * width", "n_layers"),
    ("n_layers + width", "n_layers"),
    ("n_layers * -2", "n_layers"),
    ("2 / n_layers", "n_layers"),
    ("2 - n_layers", "n_layers"),
    ("layers_sum(2) * n_layers", "n_layers"),
    ("square(log_flow)", "log_flow"),
    ("layers_max(fan_in)", "layers_min(fan_in)"),
]


@pytest.mark.parametrize(("one", "other"), SAME_ORDER)
def test_what_rises_at_the_root_is_dropped(one: str, other: str) -> None:
    assert order_key(parse(one), Blindness.WHOLE) == order_key(parse(other), Blindness.WHOLE)
    assert order_key(parse(one), Blindness.NOTHING) != order_key(parse(other), Blindness.NOTHING)


@pytest.mark.parametrize(("one", "other"), OTHER_ORDER)
def test_other_orders_stay_apart(one: str, other: str) -> None:
    assert order_key(parse(one), Blindness.WHOLE) != order_key(parse(other), Blindness.WHOLE)
    found = [simplest(parse(text), Blindness.WHOLE, Kind.MODEL) for text in (one, other)]
    assert key(found[0]) != key(found[1])


@settings(max_examples=150, deadline=None)
@given(expressions(Kind.MODEL), st.integers(0, 10**6))
def test_an_ordering_never_turns_an_order_round(expression: Expression, seed: int) -> None:
    networks = [network(seed + n) for n in range(5)]
    rest = ordering(expression, Blindness.WHOLE)
    if not finite(expression, networks) or not finite(rest, networks):
        return
    whole, bare = gathered(expression, networks), gathered(rest, networks)
    ahead, ahead_bare = whole > whole.T, bare > bare.T
    assert not (ahead & ahead_bare.T).any()  # ties may come by rounding, turns may not


def test_numbers_are_not_folded_into_layers_nor_layers_out() -> None:
    assert str(canonical(parse("layers_sum(2)"))) == "layers_sum(2)"
    assert str(canonical(parse("n_layers * (2 + 3)"))) == "mul(5, n_layers)"
    none = "layers_sum(fan_in + (all_mean(heads) - all_mean(heads)))"
    assert canonical(parse(none)).terminals() == {"fan_in", "heads"}  # fewer layers have heads


# --- spaces --------------------------------------------------------------------------------------


def leaves_of(aggregation: Expression) -> set[str]:
    return set().union(*(operand.terminals() for operand in aggregation.operands))


def test_what_grows_never_aggregates_numbers_alone() -> None:
    for seed in range(500):
        rng = stream(seed)
        nodes = GRAMMAR.generate(1, 4, GRAMMAR.type_of(Kind.MODEL), full=bool(rng.random() < 0.5))
        made = GRAMMAR.to_expression(type(GRAMMAR.to_tree(parse("n_layers")))(nodes))
        assert made.terminals()
        assert all(leaves_of(n) for n in made.walk() if n.head in AGGREGATIONS)


def test_a_space_without_model_terminals_aggregates() -> None:
    words: Mapping[str, int] = {"layers_sum": 1, "layers_max": 1, "all_norm": 1, "mul": 2}
    base = space_of(Kind.MODEL)
    tried = type(base)(
        **{**base.__dict__, "terminals": {"g": 1, "W": 1}, "primitives": words, "name": "bare"}
    )
    grammar = Grammar(tried)
    for seed in range(200):
        for high in (0, 2, 4):
            made = grammar.to_expression(
                type(grammar.to_tree(parse("n_layers")))(
                    grammar.generate(0, high, grammar.type_of(Kind.MODEL), full=bool(seed % 2))
                )
            )
            assert kind_of(made) is Kind.MODEL
            assert features(made)
    with pytest.raises(ConfigError, match="root kind Model"):
        Grammar(type(base)(**{**base.__dict__, "terminals": {"g": 1}, "primitives": {"mul": 1}}))
