"""The canonical form keeps every bit; one key is one value, one order key is one order."""

import hashlib
import itertools
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoproxy.language.blindness import Blindness
from autoproxy.language.canonical import canonical, key, nonnegative, order_key, ordering, peel
from autoproxy.language.expression import Expression, constant
from autoproxy.language.parse import kind_of, parse
from autoproxy.language.terminals import VOCABULARY
from autoproxy.language.types import Kind, shape_of
from tests.autoproxy.language.formulas import Recursion, expressions, hard_inputs

SIZES = [(1, 1), (3, 5), (2, 33)]
"""The last is longer than any vector register, with a tail."""


@settings(max_examples=400)
@given(expressions(), st.integers(0, 10**6), st.sampled_from(SIZES))
def test_the_canonical_form_keeps_every_finite_bit(
    expression: Expression, seed: int, size: tuple[int, int]
) -> None:
    short = canonical(expression)
    assert kind_of(short) is kind_of(expression)
    for offset in range(3):
        recursion = Recursion(hard_inputs(seed + offset, *size))
        if recursion.finite(expression):
            assert torch.equal(recursion.value(short), recursion.value(expression))


@settings(max_examples=400)
@given(expressions())
def test_the_canonical_form_never_grows_and_is_its_own(expression: Expression) -> None:
    short = canonical(expression)
    assert short.size <= expression.size
    assert canonical(short) == short
    assert key(short) == key(expression)
    assert key(expression) == hashlib.sha256(str(short).encode()).hexdigest()[:32]
    assert parse(str(short)) == short


@given(expressions(), st.integers(0, 10**6))
def test_what_is_called_nonnegative_is(expression: Expression, seed: int) -> None:
    recursion = Recursion(hard_inputs(seed))
    for node in expression.walk():
        if nonnegative(node) and recursion.finite(node):
            assert (recursion.value(node) >= 0).all(), node


# Many small formulas over few words, so that equal values by different texts are common.

LEAVES = tuple(parse(text) for text in ("W", "x_norm", "y_norm", "0", "1", "2", "-2", "x_mean"))
UNARY = ("neg", "abs", "square", "sqrt", "sign", "log")
REDUCING = ("row_sum", "row_norm", "col_max", "all_mean", "minmax", "row_minmax", "row_zscore")
BINARY = ("add", "sub", "mul", "div", "maximum", "minimum")
EXPONENTS = (-1.0, 0.5, 1.0, 2.0)


def applied(word: str, *operands: Expression) -> Expression | None:
    """Return the application, or None where the kinds do not fit."""
    made = Expression(word, operands)
    if word in REDUCING:
        narrow = kind_of(operands[0]) is not Kind.WEIGHT
        return None if narrow else made
    return made


def grown(operands: Iterable[Expression], others: Iterable[Expression]) -> list[Expression]:
    """Return every application to `operands`, with each of `others` as the second operand."""
    first, second = list(operands), list(others)
    found = [applied(word, a) for word in (*UNARY, *REDUCING) for a in first]
    found += [Expression("pow", (a, constant(e))) for a in first for e in EXPONENTS]
    found += [
        Expression(word, pair) for word in BINARY for pair in itertools.product(first, second)
    ]
    found += [
        Expression(word, pair) for word in BINARY for pair in itertools.product(second, first)
    ]
    return list(dict.fromkeys(e for e in found if e is not None))


@cache
def small() -> tuple[Expression, ...]:
    """Return all formulas of two levels, and thousands of three and four."""
    two = grown(LEAVES, LEAVES)
    draw = random.Random(0)
    three = grown(draw.sample(two, 250), LEAVES)
    four = grown(draw.sample(three, 100), draw.sample(two, 20))
    return (*LEAVES, *two, *draw.sample(three, 5000), *draw.sample(four, 2500))


def grouped(digests: Iterable[str], members: Iterable[Expression]) -> list[list[Expression]]:
    groups: dict[str, list[Expression]] = defaultdict(list)
    for digest, member in zip(digests, members, strict=True):
        groups[digest].append(member)
    return [group for group in groups.values() if len(group) > 1]


def test_one_key_is_one_value() -> None:
    groups = grouped(map(key, small()), small())
    assert sum(map(len, groups)) > 1500
    for seed in range(3):
        recursion = Recursion(hard_inputs(seed, 3, 9))
        compared = 0
        for group in groups:
            finite = [member for member in group if recursion.finite(member)]
            for other in finite[1:]:
                same = torch.equal(recursion.value(finite[0]), recursion.value(other))
                assert same, f"{finite[0]} and {other}, seed {seed}"
                compared += 1
        assert compared > 700


SAME_VALUE = [
    ("add(W, g)", "add(g, W)"),
    ("mul(abs(W), x_norm)", "x_norm * abs(-W)"),
    ("sub(W, g)", "neg(sub(g, W))"),
    ("neg(neg(W))", "W"),
    ("abs(abs(W))", "abs(W)"),
    ("sign(sign(W))", "sign(W)"),
    ("square(abs(neg(W)))", "mul(W, W)"),
    ("W ** 2", "W * W"),
    ("W ** 0.5", "sqrt(abs(W))"),
    ("W ** 1", "abs(W)"),
    ("abs(x_norm)", "x_norm"),
    ("W * 1 + 0 - 0", "W / 1"),
    ("0 + W", "1 * W"),
    ("add(neg(W), g)", "sub(g, W)"),
    ("sub(W, neg(g))", "add(W, g)"),
    ("sub(neg(W), g)", "neg(add(g, W))"),
    ("mul(neg(W), neg(g))", "mul(g, W)"),
    ("div(neg(W), g)", "neg(div(W, g))"),
    ("maximum(W, W)", "minimum(W, W)"),
    ("log(neg(W))", "log(W)"),
    ("all_sum(W) - all_sum(W)", "0"),
    ("2 * 3 * W", "6 * W"),
    ("sqrt(4) * W", "2 * W"),
    ("W / 0", "W / 0"),
    ("log(0) + W", "log(0) + W"),
    ("row_sum(mul(W, W))", "row_sum(square(W))"),
]


@pytest.mark.parametrize(("left", "right"), SAME_VALUE)
def test_two_spellings_of_one_value(left: str, right: str) -> None:
    assert key(parse(left)) == key(parse(right))


OTHER_VALUE = [
    ("sub(W, g)", "sub(g, W)"),
    ("div(W, g)", "div(g, W)"),
    ("exp(log(W))", "W"),
    ("sub(add(W, g), g)", "W"),
    ("div(W, W)", "1"),
    ("sub(W, W)", "0"),
    ("sqrt(square(W))", "abs(W)"),
    ("abs(x_mean)", "x_mean"),
    ("abs(W)", "W"),
    ("div(W, neg(g))", "W / g"),
    ("mul(add(W, g), x_norm)", "add(mul(W, x_norm), mul(g, x_norm))"),
    ("add(add(W, g), g_norm)", "add(W, add(g, g_norm))"),
    ("0 - W", "W"),
    ("1 / W", "W"),
    ("sqrt(neg(2) * W)", "sqrt(W)"),
    ("row_minmax(row_minmax(W))", "row_minmax(W)"),
    ("W ** 3", "abs(W)"),
    ("sign(W)", "W"),
    ("0 * W", "0"),
    ("col_sum(W)", "row_sum(W)"),
    ("W * 0.1", "W * 0.10000001"),
]


@pytest.mark.parametrize(("left", "right"), OTHER_VALUE)
def test_two_values_have_two_keys(left: str, right: str) -> None:
    assert key(parse(left)) != key(parse(right))


# Orders.


def living_inputs(seed: int, rows: int = 3, columns: int = 6) -> dict[str, Tensor]:
    """Return terminals of a layer that is alive, in few bits and so with many ties."""
    draw = torch.Generator().manual_seed(seed)
    made = {}
    for terminal in VOCABULARY.values():
        shape = shape_of(terminal.kind, rows, columns)
        value = torch.randint(1, 9, shape, generator=draw) / 4
        if not terminal.nonnegative:
            value *= torch.randint(0, 2, shape, generator=draw) * 2 - 1
        made[terminal.name] = value
    return made


def comparisons(value: Tensor, blindness: Blindness, rows: int, columns: int) -> Tensor:
    """Return the groups within which entries are compared, (groups, members)."""
    full = value.double().expand(rows, columns)
    return full if blindness is Blindness.ROW else full.reshape(1, -1)


def _beyond_floats(recursion: Recursion, expression: Expression) -> bool:
    """Return whether rounding hides an order: factors of zero, terms that absorb, overflow."""
    for node in expression.walk():
        value = recursion.value(node).abs()
        if value.max() > 1e15:  # its square, in a standard deviation, is infinite
            return True
        narrow = kind_of(node) in {Kind.PER_OUTPUT, Kind.SCALAR} and not node.is_constant
        if narrow and (value.min() == 0 or value.max() > 1e4):
            return True
    return False


def _assert_same_order(before: Tensor, after: Tensor, what: str) -> None:
    """Assert that nothing is turned round, ties stay, and what is clearly apart stays apart."""
    for old, new in zip(before, after, strict=True):
        gaps, found = new[:, None] - new, old[:, None] - old
        slack = 1e-6 * float(old.abs().max())  # pow is not monotone to the last bit
        assert (found[gaps > 0] >= -slack).all(), f"turned round: {what}"
        assert (found[gaps == 0].abs() <= slack).all(), f"a tie is lost: {what}"
        clearly = gaps > 0.02 * float(new.abs().max())
        assert (found[clearly] > 0).all(), f"a tie is made: {what}"


@pytest.mark.parametrize("blindness", [Blindness.ROW, Blindness.MATRIX])
def test_what_is_left_orders_as_the_whole_did(blindness: Blindness) -> None:
    peeled = 0
    for seed in range(2):
        recursion = Recursion(living_inputs(seed))
        for expression in small():
            left = ordering(expression, blindness)
            if left == canonical(expression) or not recursion.finite(expression):
                continue
            if _beyond_floats(recursion, expression):
                continue
            peeled += 1
            whole = comparisons(recursion.value(expression), blindness, 3, 6)
            rest = comparisons(recursion.value(left), blindness, 3, 6)
            _assert_same_order(whole, rest, f"{expression} as {left}")
    assert peeled > 500


def test_what_is_left_orders_several_matrices_as_the_whole_did() -> None:
    recursions = [Recursion(living_inputs(seed)) for seed in range(3)]
    peeled = 0
    for expression in small():
        left = ordering(expression, Blindness.WHOLE)
        if left == canonical(expression):
            continue
        if not all(recursion.finite(expression) for recursion in recursions):
            continue
        peeled += 1
        whole, rest = (
            torch.cat([comparisons(r.value(e), Blindness.WHOLE, 3, 6) for r in recursions], dim=1)
            for e in (expression, left)
        )
        _assert_same_order(whole, rest, f"{expression} as {left}")
    assert peeled > 100


@given(expressions(), st.sampled_from(list(Blindness)))
def test_the_ordering_ends_and_is_its_own(expression: Expression, blindness: Blindness) -> None:
    left = ordering(expression, blindness)
    assert left.size <= expression.size
    assert peel(left, blindness) is None
    assert ordering(left, blindness) == left
    assert order_key(left, blindness) == order_key(expression, blindness)
    if blindness is Blindness.NOTHING:
        assert left == canonical(expression)
        assert order_key(expression, blindness) == key(expression)


NONE, WHOLE, MATRIX, ROW = range(4)
LADDER = (Blindness.NOTHING, Blindness.WHOLE, Blindness.MATRIX, Blindness.ROW)
"""Each is blind to all that the ones before it are blind to."""

SAME_ORDER = [
    ("sqrt(abs(W))", "abs(W)", WHOLE),
    ("sqrt(W)", "abs(W)", WHOLE),
    ("square(mul(abs(W), x_norm))", "mul(abs(W), x_norm)", WHOLE),
    ("pow(abs(W), 0.3)", "abs(W)", WHOLE),
    ("mul(2, W)", "W", MATRIX),
    ("div(W, 3)", "W", MATRIX),
    ("add(W, -100)", "W", MATRIX),
    ("sub(W, all_max(W))", "W", MATRIX),
    ("minmax(W)", "W", MATRIX),
    ("zscore(W)", "W", MATRIX),
    ("mul(W, all_norm(W))", "W", MATRIX),
    ("mul(y_norm, W)", "W", ROW),
    ("add(row_min(W), W)", "W", ROW),
    ("sub(W, y_norm)", "W", ROW),
    ("div(W, row_norm(W))", "W", ROW),
    ("div(W, add(row_std(W), 1e-5))", "W", ROW),
    ("row_minmax(W)", "W", ROW),
    ("row_zscore(W)", "W", ROW),
    ("div(W, sqrt(exp(y_norm)))", "W", ROW),
    ("mul(abs(W), row_max(square(W)))", "abs(W)", ROW),
    ("sqrt(add(mul(abs(W), y_norm), 3))", "abs(W)", ROW),
    # Near misses: nothing may make them one.
    ("sqrt(W)", "W", None),
    ("square(W)", "W", None),
    ("neg(W)", "W", None),
    ("sub(y_norm, W)", "W", None),
    ("div(y_norm, abs(W))", "abs(W)", None),
    ("mul(W, -2)", "W", None),
    ("mul(W, 0)", "W", None),
    ("tanh(W)", "W", None),
    ("exp(W)", "W", None),
    ("log(abs(W))", "abs(W)", None),
    ("pow(abs(W), -1)", "abs(W)", None),
    ("pow(abs(W), 0)", "abs(W)", None),
    ("mul(W, row_sum(W))", "W", None),
    ("mul(W, row_std(W))", "W", None),
    ("mul(W, exp(neg(y_norm)))", "W", None),  # 0 in float32 where the norm is above 104
    ("mul(W, sigmoid(neg(y_norm)))", "W", None),
    ("mul(W, row_norm(sub(W, W)))", "W", None),
    ("mul(W, row_min(abs(W)))", "W", None),
    ("mul(W, x_norm)", "W", None),
    ("div(W, col_norm(W))", "W", None),
    ("mul(W, sub(y_norm, 1))", "W", None),
    ("mul(W, all_mean(x_mean))", "W", None),
    ("mul(W, maximum(y_norm, -1))", "W", None),
    ("maximum(W, y_norm)", "W", None),
    ("mul(W, add(y_norm, row_mean(W)))", "W", None),
]


@pytest.mark.parametrize(("left", "right", "since"), SAME_ORDER)
def test_what_a_comparison_is_blind_to(left: str, right: str, since: int | None) -> None:
    same = [
        order_key(parse(left), blindness) == order_key(parse(right), blindness)
        for blindness in LADDER
    ]
    assert same == [since is not None and step >= since for step in range(len(LADDER))]


def test_keys_are_the_same_in_every_process() -> None:
    texts = ["mul(x_norm, abs(neg(W)))", "add(W, add(g, 0.1))", "minmax(W) * y_norm"]
    script = (
        "from autoproxy.language.canonical import key, order_key\n"
        "from autoproxy.language.blindness import Blindness\n"
        "from autoproxy.language.parse import parse\n"
        f"for e in map(parse, {texts!r}): print(key(e), order_key(e, Blindness.ROW))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONHASHSEED": "12345", "PYTHONPATH": ":".join(sys.path)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    here = [d for e in map(parse, texts) for d in (key(e), order_key(e, Blindness.ROW))]
    assert shown == here
