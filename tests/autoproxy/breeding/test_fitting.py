"""Fitted numbers: they fit better, they stand above the layers, and nothing else changes."""

import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch

from autoproxy.breeding import fitting
from autoproxy.breeding.fitting import MOST, ROUNDS, STARTS, Residuals, fit
from autoproxy.breeding.grammar import Grammar
from autoproxy.evaluation import Direction, Individual, Objective
from autoproxy.language.canonical import canonical
from autoproxy.language.expression import Expression
from autoproxy.language.parse import of_numbers, parse
from autoproxy.language.prediction import combine, features
from autoproxy.language.terminals import MODEL_TERMINALS
from autoproxy.search.config import SearchConfig
from autoproxy.search.proposals import Parents, Proposer
from autoproxy.spaces import SearchSpace
from search_spaces.prediction import DATA_ONLY, PREDICTION

_DRAW = torch.Generator().manual_seed(0)
KNOWN: Mapping[str, torch.Tensor] = {
    name: torch.rand(60, 1, generator=_DRAW, dtype=torch.float64) * 9 + 1
    for name in PREDICTION.terminals
    if name in MODEL_TERMINALS
}
LAYERS = {
    parse(text): [torch.rand(3, 1, generator=_DRAW, dtype=torch.float64) + 0.5 for _ in range(60)]
    for text in ("all_sum(pow(W, 0.5))", "all_norm(g)")
}


def scores(expression: Expression) -> torch.Tensor:
    """Return what an expression gives to 60 made-up networks."""
    found: torch.Tensor = combine(expression, LAYERS, KNOWN).reshape(-1)
    return found.expand(60)


def left_of(target: str) -> Residuals:
    """Return what the best straight line through an expression leaves of a target's scores."""
    goal = scores(parse(target)).numpy()
    goal = (goal - goal.mean()) / np.linalg.norm(goal - goal.mean())

    def residuals(expression: Expression) -> list[float] | None:
        found = scores(expression).numpy()
        if not np.isfinite(found).all() or np.ptp(found) == 0:
            return None
        line = np.polynomial.Polynomial.fit(found, goal, 1)
        kept: list[float] = (goal - line(found)).tolist()
        return kept

    return residuals


def badness(residuals: Residuals, expression: Expression) -> float:
    """Return the sum of squares that an expression leaves."""
    left = residuals(expression)
    return math.inf if left is None else sum(x * x for x in left)


@pytest.mark.parametrize(
    ("start", "target"),
    [
        ("pow(width, 1)", "pow(width, -0.5)"),
        ("log(width) - 1 * d_embed", "log(width) - 0.3 * d_embed"),
        ("log(width) + 0.02 * d_embed", "log(width) - 0.04 * d_embed"),  # through 0
        ("n_layers * width * d_embed", "n_layers * width ** 0.3 * d_embed ** 2"),  # loosened
        (
            "width + layers_sum(all_norm(g))",
            "width + 4 * layers_sum(all_norm(g)) ** 2",
        ),
    ],
)
def test_numbers_come_near_those_that_are_meant(
    start: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "EXTEND", 0.0)
    residuals, found = left_of(target), parse(start)
    before = badness(residuals, found)
    for seed in range(6):
        found = fit(found, residuals, PREDICTION, random.Random(seed)) or found
    assert badness(residuals, found) < 1e-4
    assert badness(residuals, found) < before / 100


def test_a_fit_is_not_held_by_the_valley_that_it_begins_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """From where it stands, least squares leave 0.018; from around it, most often nothing."""
    monkeypatch.setattr(fitting, "EXTEND", 0.0)
    monkeypatch.setattr(fitting, "LOOSE", 0.0)
    parent, residuals = (
        parse("width ** 2 + 1 * d_embed ** 2"),
        left_of("width ** -1 - 2 * d_embed ** -1"),
    )
    found = [fit(parent, residuals, PREDICTION, random.Random(seed)) for seed in range(6)]
    assert sum(one is not None and badness(residuals, one) < 1e-4 for one in found) >= 3


@pytest.mark.parametrize("seed", range(10))
def test_a_fit_is_better_has_three_digits_and_leaves_the_layers_alone(seed: int) -> None:
    parent = parse("2 * layers_sum(all_sum(pow(W, 0.5))) ** 1.5 + n_layers * width")
    residuals = left_of("layers_sum(all_sum(pow(W, 0.5))) + n_layers * width ** 2")
    found = fit(parent, residuals, PREDICTION, random.Random(seed))
    assert found is not None
    assert badness(residuals, found) < badness(residuals, parent)
    assert features(found) == features(parent)
    assert (
        parent.terminals() <= found.terminals() <= parent.terminals() | PREDICTION.terminals.keys()
    )
    assert PREDICTION.violation(canonical(found)) is None
    numbers = [node.value for node in found.walk() if node.value is not None]
    assert all(float(f"{n:.3g}") == pytest.approx(n, rel=1e-6) for n in numbers)
    assert fit(parent, residuals, PREDICTION, random.Random(seed)) is found  # chance is given


@pytest.mark.parametrize(
    ("parent", "target"),
    [
        ("log(width)", "log(width) + 0.3 * d_embed ** 0.5"),
        ("width + 1", "(width + 1) / d_embed ** 0.3"),
        ("1e6 * width", "1e6 * width - 1e6 * d_embed"),
    ],
)
def test_a_formula_gets_the_power_that_it_lacks(
    parent: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its size, where the terminal is in the half that is tried; else none is made up."""
    monkeypatch.setattr(fitting, "EXTEND", 1.0)
    residuals, few = (
        left_of(target),
        replace(PREDICTION, terminals={"d_embed": 1, "n_layers": 9, "width": 1}),
    )
    before = badness(residuals, parse(parent))
    got = Counter[bool]()
    for seed in range(12):
        found = fit(parse(parent), residuals, few, random.Random(seed))
        has_it = found is not None and "d_embed" in found.terminals()
        got[has_it] += 1
        if found is not None and has_it:
            assert badness(residuals, found) < before / 50
    assert min(got[True], got[False]) >= 2


def data_only(*handmade: str) -> SearchSpace:
    """Return a space without terminals of whole networks, with some hand-made metrics."""
    baselines = tuple(replace(DATA_ONLY.baselines[0], text=t) for t in handmade)
    return replace(DATA_ONLY, baselines=baselines)


def test_without_terminals_of_whole_networks_a_formula_gets_parts_of_hand_made_metrics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each part once, and none of a metric that the space cannot say."""
    monkeypatch.setattr(fitting, "EXTEND", 1.0)
    one, other = "layers_sum(all_sum(pow(W, 0.5)))", "layers_mean(all_norm(g))"
    parent, residuals = parse(f"log({one})"), left_of(f"log({one}) + 0.3 * {other} ** 0.5")
    few = data_only(f"{other} / 2", f"{other} * {other}", "layers_max(all_norm(g)) * width")
    for seed in range(5):
        found = fit(parent, residuals, few, random.Random(seed))
        assert found is not None
        assert set(map(str, features(found))) == {"all_sum(pow(W, 0.5))", "all_norm(g)"}
        assert badness(residuals, found) < badness(residuals, parent) / 50
    asked: list[Expression] = []

    def counted(expression: Expression) -> list[float] | None:
        asked.append(expression)
        return residuals(expression)

    fitting._extended(parent, counted, few, random.Random(0))
    assert len(asked) == len(set(asked)) == 6 + 2 * 19 * 2  # powers of one part, not of two


def test_without_anything_known_of_whole_networks_a_formula_is_loosened_instead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fitting, "EXTEND", 1.0)
    text = "layers_sum(all_sum(pow(W, 0.5)))"
    parent, residuals = parse(f"{text} * layers_sum(all_norm(g))"), left_of(f"{text} ** 2")
    found = [fit(parent, residuals, data_only(), random.Random(seed)) for seed in range(9)]
    assert any(found)
    assert {f for one in found if one for f in features(one)} == set(features(parent))
    assert {n for one in found if one for n in one.terminals()} == {"W", "g"}


def test_parents_are_extended_loosened_or_fitted_as_they_are() -> None:
    parent, residuals = parse("n_layers + 2 * width"), left_of("n_layers + 3 * width ** 2")
    found = [fit(parent, residuals, PREDICTION, random.Random(seed)) for seed in range(60)]
    assert all(found)
    sizes = Counter(one.size for one in found if one)
    assert 15 <= sizes[parent.size] <= 40  # half of those that are not extended, and more
    shapes = {tuple(n.head for n in one.walk()) for one in found if one}
    assert len(shapes) >= 6  # a factor, one exponent or the other, each or not; another term


def test_what_cannot_be_fitted_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "EXTEND", 0.0)
    monkeypatch.setattr(fitting, "LOOSE", 0.0)
    residuals, rng = left_of("width ** 2"), random.Random(0)
    assert fit(parse("width * n_layers"), residuals, PREDICTION, rng) is None  # no number
    assert fit(parse("layers_sum(all_sum(pow(W, 0.5)))"), residuals, PREDICTION, rng) is None
    many = parse(" + ".join(f"{k + 2} * width" for k in range(MOST + 1)))
    assert fit(many, residuals, PREDICTION, rng) is None
    assert fit(parse("width ** 2"), residuals, PREDICTION, rng) is None  # as good as can be
    assert fit(parse("2 * width"), lambda _: None, PREDICTION, rng) is None


def test_a_formula_is_not_made_larger_than_the_space_allows() -> None:
    parent, residuals = parse("n_layers + 2 * width"), left_of("n_layers ** 2 + width ** 3")
    small = replace(PREDICTION, max_size=parent.size)
    bare = replace(PREDICTION, primitives={"add": 1, "mul": 1, "layers_sum": 1, "all_sum": 1})
    for seed in range(20):
        for space in (small, bare):
            found = fit(parent, residuals, space, random.Random(seed))
            assert found is None or found.size == parent.size
        # The numbers of another space's formula are fitted all the same.


def test_residuals_are_asked_no_more_than_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "EXTEND", 0.0)
    asked = [0]
    near = left_of("log(width) - 0.3 * d_embed ** 0.7")

    def residuals(expression: Expression) -> list[float] | None:
        asked[0] += 1
        return near(expression)

    parent = parse("log(width) - 1 * d_embed ** 1")
    for seed in range(10):
        asked[0] = 0
        assert fit(parent, residuals, PREDICTION, random.Random(seed)) is not None
        # Two numbers, or four: a step and as many slopes; what they begin with, and the ends.
        assert asked[0] <= STARTS * (ROUNDS + 1) * 5 + 2


def test_where_there_are_no_scores_is_a_wall_and_no_hole() -> None:
    """Half of the numbers give no scores; the rest are searched all the same."""
    near = left_of("log(width) - 0.3 * d_embed")

    def residuals(expression: Expression) -> list[float] | None:
        numbers = [n.value for n in expression.walk() if of_numbers(n) and n.value is not None]
        return None if any(abs(n) < 0.5 for n in numbers) else near(expression)

    for seed in range(10):
        found = fit(parse("log(width) - 2 * d_embed"), residuals, PREDICTION, random.Random(seed))
        assert found is not None
        assert badness(residuals, found) < badness(near, parse("log(width) - 0.7 * d_embed"))


def test_no_proposal_is_fitted_that_reads_what_no_parent_read() -> None:
    """Of the layers: that would be read for it alone."""
    texts = ("width + 2 * layers_sum(all_norm(g))", "n_layers - layers_sum(all_sum(W ** 0.5))")
    parents = [Individual(t, t, 5, 0.5, n) for n, t in enumerate(texts)]
    known = {feature for text in texts for feature in features(parse(text))}
    asked: list[Expression] = []

    def residuals(expression: Expression) -> list[float] | None:
        asked.append(expression)
        return [1 / len(asked)] * 3  # better each time

    config = SearchConfig(seed=0, fit=0.9, immigrants=0.0, tries=1)
    objective = Objective("tau", "", Direction.MAXIMIZE)
    proposer = Proposer(Grammar(PREDICTION), config, objective, residuals)
    proposals = proposer.propose(range(100), Parents(tuple(parents)), str)
    assert {f for expression in asked for f in features(expression)} == known
    origins = Counter(proposal.origin for proposal in proposals)
    assert origins["fitted"] > 25
    fitted = {str(p.expression) for p in proposals if p.origin != "fitted"} & set(map(str, asked))
    assert len(fitted) > 5  # children, too


def test_where_nothing_says_what_fits_the_option_changes_nothing() -> None:
    parents = Parents(tuple(Individual(t, t, 5, 0.5, 0) for t in ("2 * width", "n_layers")))
    objective = Objective("tau", "", Direction.MAXIMIZE)
    plain, fitting = (
        Proposer(Grammar(PREDICTION), SearchConfig(seed=0, fit=share), objective)
        for share in (0.0, 0.9)
    )
    assert fitting.propose(range(50), parents, str) == plain.propose(range(50), parents, str)
