"""What a space writes where a terminal is drawn, in trees that are counted, listed and drawn."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from autoproxy.language.expression import Expression
from autoproxy.language.program import Program
from autoproxy.search.enumeration import Enumeration
from autoproxy.search.words import Words
from autoproxy.seeding import stream
from autoproxy.spaces import SearchSpace
from search_spaces.importance_small import SPACE as SMALL
from search_spaces.pruner_zero import PRUNER_ZERO
from tests.conformance.toy import ToyEvaluator

MOST = 5
"""Nodes; the smallest formulas that have two leaves of this space have five."""


def with_leaves(tree: Expression, space: SearchSpace) -> Expression:
    """Return a tree over bare terminals with the leaf of each in its place."""
    if tree.head in space.leaves:
        return space.leaf(tree.head)
    operands = tuple(with_leaves(operand, space) for operand in tree.operands)
    return Expression(tree.head, operands, tree.value)


def test_a_leaf_is_what_a_space_writes_for_a_terminal() -> None:
    written = {name: str(PRUNER_ZERO.leaf(name)) for name in PRUNER_ZERO.terminals}
    assert written == {"W": "abs(W)", "g_norm": "mul(100, g_norm)", "x_norm": "square(x_norm)"}
    assert all(SMALL.leaf(name) == Expression(name) for name in SMALL.terminals)


def test_every_tree_reads_a_terminal_as_its_leaf_alone() -> None:
    words = Words.of(PRUNER_ZERO)
    trees = list(words.every(MOST))
    bare = Words.of(replace(PRUNER_ZERO, leaves={})).every(MOST)
    written = [with_leaves(tree, PRUNER_ZERO) for tree in bare]
    assert len(trees) == len(set(trees))
    assert set(trees) == {tree for tree in written if tree.size <= MOST}
    sizes = Counter(tree.size for tree in trees)
    assert sizes == {size: words.formulas(size) for size in range(2, MOST + 1)}
    assert words.formulas(1) == 0


def test_every_tree_can_be_drawn() -> None:
    words = Words.of(PRUNER_ZERO)
    trees, rng = set(words.every(3)), stream(0, "leaves")
    drawn = Counter(words.draw(rng, 3) for _ in range(60 * len(trees)))
    assert drawn.keys() == trees
    assert all(25 <= count <= 110 for count in drawn.values()), drawn  # 60 on average


@pytest.fixture(scope="module")
def enumeration() -> Enumeration:
    found = Enumeration(PRUNER_ZERO, ToyEvaluator(), MOST)
    found.run()
    return found


def test_no_formula_sees_the_sign_of_a_weight(enumeration: Enumeration) -> None:
    """Canonical forms may drop `abs` where no sign is seen, so values are asked."""
    assert len(enumeration.formulas) > 20
    expressions = [formula.expression for formula in enumeration.formulas]
    inputs = enumeration.evaluator.layers["first"]  # type: ignore[attr-defined]
    unsigned = {**inputs, "W": inputs["W"].abs()}
    pairs = zip(Program(expressions).run(inputs), Program(expressions).run(unsigned), strict=True)
    for expression, (signed, other) in zip(expressions, pairs, strict=True):
        assert torch.equal(signed, other), expression


def test_every_tree_stands_for_its_mask() -> None:
    plain = replace(
        SMALL,
        terminals={"W": 1, "x_norm": 1},
        primitives={"mul": 1, "sub": 1},
        leaves={"W": "abs(W)", "x_norm": "square(x_norm)"},
    )
    toy = ToyEvaluator()
    found = Enumeration(plain, toy, 8)
    found.run()
    trees = list(found.words.every(8))
    assert {tree.size for tree in trees} == {2, 5, 8}
    for tree in trees:
        stands = found.route(tree).stands
        if stands is not None:
            assert toy.identity(tree) == toy.identity(stands.expression), tree
            assert stands.size <= tree.size
