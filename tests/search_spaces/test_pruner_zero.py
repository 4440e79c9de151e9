"""The space of Pruner-Zero: its words alone, as often as it draws them, bred without leaving it."""

import json
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoproxy.breeding.grammar import Grammar
from autoproxy.breeding.variation import MUTATIONS, blend, cross, mutate, sprout
from autoproxy.commands.plan import make_plan
from autoproxy.errors import ConfigError
from autoproxy.export.best_tree import write_best_tree
from autoproxy.language.canonical import canonical
from autoproxy.language.expression import Expression
from autoproxy.language.parse import parse
from autoproxy.language.pruner_zero import OPERATIONS, TERMINALS
from autoproxy.language.types import Kind
from autoproxy.search.config import SearchConfig
from autoproxy.search.loop import Search
from search_spaces.importance import SPACE
from search_spaces.lpzero import AS_PUBLISHED as LPZERO_AS_PUBLISHED
from search_spaces.lpzero import LPZERO
from search_spaces.pruner_zero import AS_PUBLISHED, LEAVES, PRUNER_ZERO
from tests.autoproxy.search.memories import DictMemory
from tests.conformance.toy import ToyEvaluator

GRAMMAR = Grammar(PRUNER_ZERO)
FORMS = {parse(text) for text in TERMINALS.values()}


def drawn(seed: int) -> Expression:
    rng = random.Random(seed)
    return sprout(GRAMMAR, rng, low=1, high=rng.randint(2, 4), full=rng.random() < 0.5)


def parts(node: Expression) -> list[str]:
    """Return the words of a formula, its leaves as one word each."""
    if node in FORMS:
        return [str(node)]
    return [node.head, *(word for operand in node.operands for word in parts(operand))]


def test_it_has_the_fifteen_operations_and_three_terminals() -> None:
    assert len(OPERATIONS) == 15
    assert set(PRUNER_ZERO.primitives) == set(OPERATIONS.values())
    assert set(LEAVES.values()) == set(TERMINALS.values())
    assert TERMINALS == {"W": "abs(W)", "G": "mul(100, g_norm)", "X": "square(x_norm)"}


@given(st.integers(0, 10**6))
def test_random_formulas_have_its_words_alone(seed: int) -> None:
    expression = drawn(seed)
    assert set(parts(expression)) <= {*OPERATIONS.values(), *TERMINALS.values()}
    assert PRUNER_ZERO.violation(expression) is None
    assert GRAMMAR.to_expression(GRAMMAR.to_tree(expression)) == expression


def test_each_operation_is_drawn_as_often_and_a_branch_stops_half_of_the_time() -> None:
    for kind in (Kind.WEIGHT, Kind.PER_INPUT):
        tickets = GRAMMAR.set.primitives[GRAMMAR.type_of(kind)]
        count = Counter(GRAMMAR._heads[ticket.name] for ticket in tickets)
        assert count.pop("square") == 2 * count["abs"]  # sqr and pow
        assert len(count) == 13
        assert len(set(count.values())) == 1
        assert GRAMMAR._terminal_share[True][GRAMMAR.type_of(kind)] == 0.5
    seen = Counter(word for seed in range(2000) for word in parts(drawn(seed)))
    assert 0.9 < seen["abs(W)"] / seen["mul(100, g_norm)"] < 1.1


@given(st.integers(0, 10**6))
def test_children_stay_in_its_language(seed: int) -> None:
    """Five generations of all that variation can do; each child has a tree of Pruner-Zero's."""
    rng = random.Random(seed)
    parents = [canonical(drawn(rng.randrange(10**6))) for _ in range(4)]
    for _ in range(5):
        mother, father = rng.sample(parents, 2)
        child = rng.choice([cross, blend])(GRAMMAR, rng, mother, father)
        child = canonical(mutate(GRAMMAR, rng, rng.choice(list(MUTATIONS)), child))
        json.loads(write_best_tree(child))
        if child.depth < 20:
            parents[rng.randrange(4)] = child


def test_the_sign_of_a_weight_never_comes_back() -> None:
    """The canonical form drops abs where it is not seen, and breeding moves what is left."""
    tree = GRAMMAR.to_tree(parse("square(W)"))
    assert str(GRAMMAR.to_expression(tree[1:])) == "abs(W)"
    bare = GRAMMAR.to_tree(parse("mul(abs(W), x_norm)"))  # the root of X is not X
    assert str(GRAMMAR.to_expression(bare)) == "mul(abs(W), x_norm)"


@given(st.integers(0, 10**6))
def test_numbers_that_simplification_brings_in_do_not_move(seed: int) -> None:
    parent = parse("mul(pow(W, 4), mul(2, x_norm))")
    child = mutate(GRAMMAR, random.Random(seed), "constant", parent)
    numbers = {node.value for node in child.walk() if node.is_constant}
    assert numbers <= {4.0, 2.0, 100.0}  # the last one is of a leaf


def test_how_it_was_searched() -> None:
    plan = make_plan(
        None, run={"space": "search_spaces.pruner_zero:PRUNER_ZERO"}, search={}, evaluator={}
    )
    config = plan.search
    assert (config.population, config.first_batch, config.evaluations) == (50, 50, 350)
    assert (config.batch, config.selection, config.seeds, config.race) == (1, "best", False, False)
    assert AS_PUBLISHED["mutation"] == 0.5
    assert AS_PUBLISHED["same"] == "key"
    assert (LPZERO.search["population"], LPZERO.search["evaluations"]) == (80, 1080)


@pytest.mark.parametrize("published", [AS_PUBLISHED, LPZERO_AS_PUBLISHED])
def test_every_option_is_said(published: Any) -> None:
    """Defaults of a search change, what was published does not."""
    own = {"seed", "minutes", "strategy", "migration", "patience", "memory"}
    known = set(SearchConfig.__dataclass_fields__) - own
    assert known <= set(published)


def test_a_search_of_its_kind_fills_its_population_and_goes_on_one_by_one() -> None:
    options = {**PRUNER_ZERO.search, "evaluations": 30.0, "population": 10, "first_batch": 10}
    evaluator, memory = ToyEvaluator(rungs=(1.0,)), DictMemory()
    config = SearchConfig.from_mapping({**options, "seed": 1}, "the test")
    states = list(Search(PRUNER_ZERO, evaluator, memory, config).run())
    assert states[-1].spent == 30
    sizes = [len(after.archive) - len(before.archive) for before, after in zip(states, states[1:])]  # noqa: B905, RUF007
    assert set(sizes) <= {0, 1}
    assert len(states[0].archive) >= 8  # of the first ten, some may have had no value
    assert all(len(state.population) <= 10 for state in states)
    bred = [f for f in memory.fates if f.proposal.origin != "random"]
    assert bred
    assert all(len(f.proposal.parents) == 2 for f in bred)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"leaves": {"g": "abs(g)"}}, ["unknown leaf 'g'; known: W, g_norm, x_norm"]),
        ({"leaves": {"W": "abs(g)"}}, ["must read W alone"]),
        ({"leaves": {"W": "row_sum(W)"}}, ["of kind Weight"]),
        ({"primitives": {"pow": 1, "mul": 1}}, ["'pow'", "needs exponents"]),
        ({"max_depth": 1}, ["max_depth must lie in [2, 64]", "got 1"]),
        ({"max_depth": 65}, ["max_depth must lie in [2, 64]", "read back"]),
        ({"max_size": 0}, ["max_size must be >= 1"]),
    ],
)
def test_spaces_that_cannot_be(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        replace(PRUNER_ZERO, **change)
    for word in words:
        assert word in str(error.value)


def test_leaves_are_part_of_what_a_space_is() -> None:
    assert replace(PRUNER_ZERO, leaves={}).digest != PRUNER_ZERO.digest
    assert SPACE.digest == IMPORTANCE_DIGEST


IMPORTANCE_DIGEST = "42f62941a55027e83801d787fff621a0"
"""As it is without leaves, and with `g_token`: runs that are written down stay comparable."""
