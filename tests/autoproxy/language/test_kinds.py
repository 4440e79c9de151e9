"""Kinds: the join table, shapes, and that every value has the shape of its kind."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoproxy.language.catalog import CATALOG
from autoproxy.language.complexity import complexity
from autoproxy.language.expression import Expression
from autoproxy.language.parse import kind_of, parse
from autoproxy.language.types import (
    FLOWING_KINDS,
    TENSOR_KINDS,
    Kind,
    elementwise,
    join,
    shape_of,
    varies_within_row,
)
from tests.autoproxy.language.formulas import Recursion, drawn, expressions, hard_inputs

W, IN, OUT, ONE = Kind.WEIGHT, Kind.PER_INPUT, Kind.PER_OUTPUT, Kind.SCALAR

JOINS = {
    (W, W): W,
    (W, IN): W,
    (W, OUT): W,
    (W, ONE): W,
    (IN, IN): IN,
    (IN, OUT): W,
    (IN, ONE): IN,
    (OUT, OUT): OUT,
    (OUT, ONE): OUT,
    (ONE, ONE): ONE,
    (Kind.INPUT, Kind.INPUT): Kind.INPUT,
    (Kind.INPUT, IN): Kind.INPUT,
    (Kind.INPUT, ONE): Kind.INPUT,
    (Kind.OUTPUT, Kind.OUTPUT): Kind.OUTPUT,
    (Kind.OUTPUT, ONE): Kind.OUTPUT,
    (Kind.ATTENTION, Kind.ATTENTION): Kind.ATTENTION,
    (Kind.ATTENTION, ONE): Kind.ATTENTION,
    (Kind.MODEL, Kind.MODEL): Kind.MODEL,
}
ALL_KINDS = [kind for kind in Kind if kind is not Kind.EXPONENT]


def test_what_flows_and_networks_join_with_nothing_else() -> None:
    for pair in product(ALL_KINDS, repeat=2):
        wanted = JOINS.get(pair, JOINS.get(pair[::-1]))  # type: ignore[arg-type,call-overload]
        assert join(*pair) is wanted


@pytest.mark.parametrize(("kinds", "wanted"), list(JOINS.items()), ids=str)
def test_join_table(kinds: tuple[Kind, Kind], wanted: Kind) -> None:
    for order in permutations(kinds):
        assert join(*order) is wanted


@pytest.mark.parametrize("kinds", list(product(TENSOR_KINDS, repeat=3)), ids=str)
def test_join_is_what_shapes_broadcast_to(kinds: tuple[Kind, ...]) -> None:
    shapes = [shape_of(kind, 4, 7) for kind in kinds]
    assert shape_of(join(*kinds), 4, 7) == np.broadcast_shapes(*shapes)
    assert join(join(*kinds[:2]), kinds[2]) is join(*kinds)


def test_shapes_and_what_varies_within_a_row() -> None:
    assert [shape_of(kind, 4, 7) for kind in (W, IN, OUT, ONE)] == [(4, 7), (1, 7), (4, 1), (1, 1)]
    assert [varies_within_row(kind) for kind in (W, IN, OUT, ONE)] == [True, True, False, False]


def test_elementwise_takes_all_kinds_in_all_places() -> None:
    for arity in (1, 2, 3):
        signatures = dict(elementwise(arity))
        of_weights = list(product(TENSOR_KINDS, repeat=arity))
        assert list(signatures)[: len(of_weights)] == of_weights  # their order shapes draws
        every = product(ALL_KINDS, repeat=arity)
        assert set(signatures) == {kinds for kinds in every if join(*kinds) is not None}
        assert all(result is join(*kinds) for kinds, result in signatures.items())


@given(expressions(), st.integers(0, 99), st.sampled_from([(3, 5), (1, 1), (1, 9), (17, 1)]))
def test_a_value_has_the_shape_of_its_kind(
    expression: Expression, seed: int, size: tuple[int, int]
) -> None:
    recursion = Recursion(hard_inputs(seed, *size))
    for node in expression.walk():
        found, most = tuple(recursion.value(node).shape), shape_of(kind_of(node), *size)
        reduced = kind_of(node) in FLOWING_KINDS  # whose axes stay, with size 1
        assert (np.broadcast_shapes(found, most) if reduced else found) == most
        assert len(found) == len(most)


@given(st.integers(0, 10**9), st.sampled_from([*TENSOR_KINDS, *FLOWING_KINDS, Kind.MODEL]))
def test_what_is_drawn_for_a_root_is_of_its_kind(seed: int, root: Kind) -> None:
    assert kind_of(drawn(seed, root)) is root


@given(expressions())
def test_complexity_is_the_bill_of_its_words(expression: Expression) -> None:
    bill = 0
    todo = [expression]
    while todo:
        node = todo.pop()
        bill += CATALOG[node.head].cost if node.head in CATALOG else 1
        todo += node.operands
    assert complexity(expression) == bill >= expression.size


def test_complexity_by_example() -> None:
    assert complexity(parse("W")) == 1
    assert complexity(parse("mul(abs(W), x_norm)")) == 4
    assert complexity(parse("row_sum(abs(W))")) == 4  # a reduction costs two
    assert complexity(parse("pow(W, 0.5)")) == 3  # an exponent is a leaf
    assert complexity(parse("mul(abs(W), abs(W))")) == 5  # each occurrence is paid for
