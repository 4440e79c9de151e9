"""Fitted numbers: they fit better, they stand above the layers, and nothing else changes."""

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch

from autoproxy.breeding.fitting import MOST, TRIALS, fit
from autoproxy.breeding.grammar import Grammar
from autoproxy.evaluation import Direction, Individual, Objective
from autoproxy.language.canonical import canonical
from autoproxy.language.expression import Expression
from autoproxy.language.parse import of_numbers, parse
from autoproxy.language.prediction import combine, features
from autoproxy.search.config import SearchConfig
from autoproxy.search.proposals import Parents, Proposer
from search_spaces.prediction import PREDICTION

Misfit = Callable[[Expression], float]

_DRAW = torch.Generator().manual_seed(0)
KNOWN: Mapping[str, torch.Tensor] = {
    name: torch.rand(60, 1, generator=_DRAW, dtype=torch.float64) * 9 + 1
    for name in ("n_layers", "width", "d_embed")
}
LAYERS = {
    parse(text): [torch.rand(3, 1, generator=_DRAW, dtype=torch.float64) + 0.5 for _ in range(60)]
    for text in ("all_sum(pow(W, 0.5))", "all_norm(g)")
}


def scores(expression: Expression) -> torch.Tensor:
    """Return what an expression gives to 60 made-up networks."""
    found: torch.Tensor = combine(expression, LAYERS, KNOWN).reshape(-1)
    return found.expand(60)


def unlike(target: str) -> Misfit:
    """Return how far from a straight line through a target an expression is."""
    goal = scores(parse(target))

    def misfit(expression: Expression) -> float:
        r = torch.corrcoef(torch.stack([scores(expression), goal]))[0, 1]
        return 1 - abs(float(r)) if torch.isfinite(r) else math.inf

    return misfit


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
def test_numbers_come_near_those_that_are_meant(start: str, target: str) -> None:
    misfit, found = unlike(target), parse(start)
    before = misfit(found)
    for seed in range(12):
        found = fit(found, misfit, PREDICTION, random.Random(seed)) or found
    assert misfit(found) < 1e-3
    assert misfit(found) < before / 50


@pytest.mark.parametrize("seed", range(30))
def test_a_fit_is_better_has_two_digits_and_leaves_the_layers_alone(seed: int) -> None:
    parent = parse("2 * layers_sum(all_sum(pow(W, 0.5))) ** 1.5 + n_layers * width")
    misfit = unlike("layers_sum(all_sum(pow(W, 0.5))) + n_layers * width ** 2")
    found = fit(parent, misfit, PREDICTION, random.Random(seed))
    assert found is not None
    assert misfit(found) < misfit(parent)
    assert features(found) == features(parent)
    assert found.terminals() == parent.terminals()
    assert PREDICTION.violation(canonical(found)) is None
    numbers = [node.value for node in found.walk() if node.value is not None]
    assert all(float(f"{n:.2g}") == pytest.approx(n, rel=1e-6) for n in numbers)
    assert fit(parent, misfit, PREDICTION, random.Random(seed)) is found  # chance is given


def test_half_of_the_parents_are_loosened() -> None:
    parent, misfit = parse("n_layers + width"), unlike("n_layers + 3 * width ** 2")
    found = [fit(parent, misfit, PREDICTION, random.Random(seed)) for seed in range(60)]
    shapes = {None if one is None else tuple(n.head for n in one.walk()) for one in found}
    assert 15 <= found.count(None) <= 50  # without a number there is nothing to fit
    assert len(shapes) >= 6  # None; and a factor, one exponent or the other, each or not


def test_what_cannot_be_fitted_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoproxy.breeding.fitting.LOOSE", 0.0)
    misfit, rng = unlike("width ** 2"), random.Random(0)
    assert fit(parse("width * n_layers"), misfit, PREDICTION, rng) is None  # no number
    assert fit(parse("layers_sum(all_sum(pow(W, 0.5)))"), misfit, PREDICTION, rng) is None
    many = parse(" + ".join(f"{k + 2} * width" for k in range(MOST + 1)))
    assert fit(many, misfit, PREDICTION, rng) is None
    assert fit(parse("width ** 2"), misfit, PREDICTION, rng) is None  # as good as can be
    assert fit(parse("2 * width"), lambda _: math.inf, PREDICTION, rng) is None


def test_a_formula_is_not_loosened_beyond_the_space() -> None:
    parent, misfit = parse("n_layers + 2 * width"), unlike("n_layers ** 2 + width ** 3")
    small = replace(PREDICTION, max_size=parent.size)
    bare = replace(PREDICTION, primitives={"add": 1, "mul": 1, "layers_sum": 1, "all_sum": 1})
    for seed in range(20):
        for space in (small, bare):
            found = fit(parent, misfit, space, random.Random(seed))
            assert found is None or found.size == parent.size
        # The numbers of another space's formula are fitted all the same.


def test_the_misfit_is_asked_no_more_than_is_said() -> None:
    asked = [0]
    near = unlike("log(width) - 0.3 * d_embed ** 0.7")

    def misfit(expression: Expression) -> float:
        asked[0] += 1
        return near(expression)

    parent = parse("log(width) - 1 * d_embed ** 1")
    for seed in range(10):
        asked[0] = 0
        assert fit(parent, misfit, PREDICTION, random.Random(seed)) is not None
        assert asked[0] <= TRIALS * 4 + 4  # two numbers, or four; the ends, and a last step


def test_where_there_are_no_scores_is_a_wall_and_no_hole() -> None:
    """Half of the numbers give no scores; the rest are searched all the same."""
    near = unlike("log(width) - 0.3 * d_embed")

    def misfit(expression: Expression) -> float:
        numbers = [n.value for n in expression.walk() if of_numbers(n) and n.value is not None]
        return math.inf if any(n < 0.5 for n in numbers) else near(expression)

    for seed in range(10):
        found = fit(parse("log(width) - 2 * d_embed"), misfit, PREDICTION, random.Random(seed))
        assert found is not None
        assert misfit(found) < near(parse("log(width) - 0.7 * d_embed"))


def test_no_proposal_is_fitted_that_reads_what_no_parent_read() -> None:
    """Of the layers: that would be read for it alone."""
    texts = ("width + 2 * layers_sum(all_norm(g))", "n_layers - layers_sum(all_sum(W ** 0.5))")
    parents = [Individual(t, t, 5, 0.5, n) for n, t in enumerate(texts)]
    known = {feature for text in texts for feature in features(parse(text))}
    asked: list[Expression] = []

    def misfit(expression: Expression) -> float:
        asked.append(expression)
        return 1 / len(asked)  # better each time

    config = SearchConfig(seed=0, fit=0.9, immigrants=0.0, tries=1)
    objective = Objective("tau", "", Direction.MAXIMIZE)
    proposer = Proposer(Grammar(PREDICTION), config, objective, misfit)
    proposals = proposer.propose(range(200), Parents(tuple(parents)), str)
    assert {f for expression in asked for f in features(expression)} == known
    origins = Counter(proposal.origin for proposal in proposals)
    assert origins["fitted"] > 50
    fitted = {str(p.expression) for p in proposals if p.origin != "fitted"} & set(map(str, asked))
    assert len(fitted) > 10  # children, too


def test_where_nothing_says_what_fits_the_option_changes_nothing() -> None:
    parents = Parents(tuple(Individual(t, t, 5, 0.5, 0) for t in ("2 * width", "n_layers")))
    objective = Objective("tau", "", Direction.MAXIMIZE)
    plain, fitting = (
        Proposer(Grammar(PREDICTION), SearchConfig(seed=0, fit=share), objective)
        for share in (0.0, 0.9)
    )
    assert fitting.propose(range(50), parents, str) == plain.propose(range(50), parents, str)
