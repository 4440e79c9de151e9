"""Grammars: any space grows what its root asks for, within its depths, and trees read back."""

import dataclasses
import math
import random
from collections import Counter

import pytest
from deap import gp
from hypothesis import given
from hypothesis import strategies as st

from autoproxy.breeding.grammar import Grammar
from autoproxy.breeding.variation import sprout
from autoproxy.errors import ConfigError
from autoproxy.language.catalog import CATALOG
from autoproxy.language.expression import Expression
from autoproxy.language.parse import kind_of, parse
from autoproxy.language.terminals import VOCABULARY
from autoproxy.language.types import TENSOR_KINDS, Kind
from autoproxy.seeding import stream
from autoproxy.spaces import SearchSpace
from search_spaces import importance, structured
from tests.autoproxy.language.formulas import expressions

SHIPPED = [importance.SPACE, structured.CHANNELS, structured.BLOCKS]


def space(root: Kind, terminals: str, primitives: str) -> SearchSpace:
    return SearchSpace(
        name="awkward",
        root=root,
        terminals=dict.fromkeys(terminals.split(), 1),
        primitives=dict.fromkeys(primitives.split(), 1),
        constants=(2.0,),
        exponents=(0.25,),
        max_size=40,
        max_depth=9,
    )


AWKWARD = [
    space(Kind.WEIGHT, "W", "mul"),
    space(Kind.WEIGHT, "W", "row_sum"),
    space(Kind.WEIGHT, "W", "pow"),
    space(Kind.WEIGHT, "W", "minmax"),
    space(Kind.WEIGHT, "x_norm y_norm", "mul"),
    space(Kind.WEIGHT, "x_norm W", "all_mean col_max"),
    space(Kind.PER_OUTPUT, "W", "row_sum"),
    space(Kind.PER_OUTPUT, "W", "row_max abs"),
    space(Kind.PER_INPUT, "W", "col_norm div"),
    space(Kind.PER_INPUT, "x_norm", "col_sum"),
    space(Kind.PER_INPUT, "x_norm", "col_sum row_sum"),
    space(Kind.PER_INPUT, "x_norm y_norm", "mul col_std"),
    space(Kind.SCALAR, "W", "all_mean"),
    space(Kind.SCALAR, "x_norm", "minmax"),
    space(Kind.SCALAR, "y_norm", "all_std sub"),
]
"""Kinds without a terminal, one primitive alone, primitives that nothing can be fed to."""

HOPELESS = [
    space(Kind.WEIGHT, "x_norm", "abs"),
    space(Kind.WEIGHT, "x_norm", "row_sum mul"),
    space(Kind.WEIGHT, "y_norm", "minmax col_sum mul row_sum"),
    space(Kind.PER_OUTPUT, "W", "mul"),
    space(Kind.PER_INPUT, "y_norm", "mul col_max"),
]


def described(tried: SearchSpace) -> str:
    words = "-".join([*tried.terminals, *tried.primitives])
    return f"{tried.root.value}-{words}"[:40]


def checked_kind(expression: Expression) -> Kind:
    """Return the kind, by a parser that has not seen the expression before."""
    return kind_of(parse(str(expression)))


@pytest.mark.parametrize("tried", [*SHIPPED, *AWKWARD], ids=described)
def test_ramped_half_and_half_never_fails_on_kinds(tried: SearchSpace) -> None:
    grammar = Grammar(tried)
    words = {*tried.primitives}
    for seed in range(3000 if tried in SHIPPED else 400):
        rng = stream(seed)
        low, high = sorted((rng.randint(0, 5), rng.randint(0, 5)))
        made = sprout(grammar, rng, low=low, high=high, full=rng.random() < 0.5)
        assert kind_of(made) is tried.root
        assert made.terminals() <= set(tried.terminals)
        assert {node.head for node in made.walk() if node.operands} <= words
        if seed % 50 == 0:
            assert checked_kind(made) is tried.root


@pytest.mark.parametrize("tried", HOPELESS, ids=described)
def test_a_space_that_cannot_spell_its_root_is_refused_with_words(tried: SearchSpace) -> None:
    with pytest.raises(ConfigError, match=f"'awkward'.*root kind {tried.root.value}"):
        Grammar(tried)


def fewest_steps(tried: SearchSpace) -> dict[Kind, float]:
    """Return the fewest steps below a node of each kind to terminals alone, by relaxation."""
    steps = dict.fromkeys(Kind, math.inf)
    steps[Kind.SCALAR] = steps[Kind.EXPONENT] = 0
    for name in tried.terminals:
        steps[VOCABULARY[name].kind] = 0
    for _ in range(20):
        for name in tried.primitives:
            for operands, result in CATALOG[name].signatures:
                way = 1 + max(steps[kind] for kind in operands)
                steps[result] = min(steps[result], way)
    return steps


@given(
    st.sampled_from([Kind.WEIGHT, Kind.PER_INPUT, Kind.PER_OUTPUT, Kind.SCALAR]),
    st.sets(st.sampled_from(sorted(VOCABULARY)), min_size=1, max_size=3),
    st.sets(st.sampled_from(sorted(CATALOG)), min_size=1, max_size=5),
    st.integers(0, 10**6),
)
def test_any_space_grows_or_is_refused(
    root: Kind, terminals: set[str], primitives: set[str], seed: int
) -> None:
    tried = space(root, " ".join(sorted(terminals)), " ".join(sorted(primitives)))
    shortest = fewest_steps(tried)
    if shortest[root] == math.inf:
        with pytest.raises(ConfigError, match="root kind"):
            Grammar(tried)
        return
    grammar = Grammar(tried)
    beyond = max(steps for steps in shortest.values() if steps < math.inf)
    for high in range(4):
        for full in (False, True):
            made = sprout(grammar, stream(seed, high), low=0, high=high, full=full)
            assert checked_kind(made) is root
            assert made.depth - 1 <= max(high, shortest[root]) + beyond
            if shortest[root] >= high:
                assert made.depth - 1 == shortest[root]


def leaf_depths(expression: Expression, depth: int = 0) -> list[int]:
    if not expression.operands:
        return [depth]
    return [d for operand in expression.operands for d in leaf_depths(operand, depth + 1)]


EVERY_KIND = space(Kind.WEIGHT, "W x_norm y_norm", "mul abs row_sum all_mean add")


@pytest.mark.parametrize("high", range(6))
def test_full_trees_go_all_the_way_down_and_others_within_bounds(high: int) -> None:
    grammar = Grammar(EVERY_KIND)
    depths: Counter[int] = Counter()
    for seed in range(200):
        full = sprout(grammar, stream(seed), low=high, high=high, full=True)
        assert set(leaf_depths(full)) == {high}
        low = seed % (high + 1)
        level = leaf_depths(sprout(grammar, stream(seed), low=low, high=high, full=True))
        assert low <= level[0] <= high
        assert set(level) == {level[0]}
        grown = sprout(grammar, stream(seed), low=low, high=high, full=False)
        assert min(leaf_depths(grown)) >= low
        assert max(leaf_depths(grown)) <= high
        depths[grown.depth - 1] += 1
    assert len(depths) >= min(high, 3)


def test_weights_are_how_often_words_are_drawn() -> None:
    tried = dataclasses.replace(
        EVERY_KIND, terminals={"W": 3, "g": 1}, primitives={"mul": 3, "add": 1}
    )
    grammar = Grammar(tried)
    words: Counter[str] = Counter()
    for seed in range(2000):
        made = sprout(grammar, stream(seed), low=2, high=2, full=True)
        words.update(node.head for node in made.walk())
    assert words["mul"] / words["add"] == pytest.approx(3, rel=0.15)
    assert words["W"] / words["g"] == pytest.approx(3, rel=0.15)


@given(expressions())
def test_a_tree_spells_its_expression(expression: Expression) -> None:
    for tried in (importance.SPACE, AWKWARD[0]):  # whatever the words of the space
        grammar = Grammar(tried) if tried is not importance.SPACE else SHARED
        tree = grammar.to_tree(expression)
        assert len(tree) == expression.size
        assert tree.height == expression.depth - 1
        assert tree.root.ret is grammar.type_of(kind_of(expression))
        assert grammar.to_expression(tree) == expression
        assert [node.arity for node in tree] == [len(node.operands) for node in expression.walk()]


SHARED = Grammar(importance.SPACE)


@given(expressions())
def test_every_node_of_a_tree_has_the_type_its_parent_takes(expression: Expression) -> None:
    tree = SHARED.to_tree(expression)
    for index, node in enumerate(tree):
        if not isinstance(node, gp.Primitive):
            continue
        place = index + 1
        for wanted in node.args:
            assert tree[place].ret is wanted
            place = tree.searchSubtree(place).stop


def test_every_hand_made_metric_is_a_tree() -> None:
    for tried in SHIPPED:
        grammar = Grammar(tried)
        for baseline in tried.baselines:
            assert grammar.to_expression(grammar.to_tree(baseline.expression)) == (
                baseline.expression
            )


def test_types_hash_the_same_everywhere() -> None:
    ranks = [hash(SHARED.type_of(kind)) for kind in Kind]
    assert ranks == list(range(len(Kind)))
    assert len({SHARED.type_of(kind) for kind in TENSOR_KINDS}) == len(TENSOR_KINDS)
    assert Grammar(AWKWARD[0]).type_of(Kind.WEIGHT) is SHARED.type_of(Kind.WEIGHT)


def test_generating_uses_the_global_stream_alone() -> None:
    outside = random.getstate()
    made = []
    for _ in range(2):
        random.setstate(random.Random(5).getstate())
        made.append(SHARED.generate(1, 4, SHARED.type_of(Kind.WEIGHT), full=False))
    random.setstate(outside)
    assert SHARED.to_expression(gp.PrimitiveTree(made[0])) == (
        SHARED.to_expression(gp.PrimitiveTree(made[1]))
    )
