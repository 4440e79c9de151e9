"""There is one object of each tree: however it is made, by whom, and in which process."""

import copy
import gc
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given, settings

from autoproxy.language import expression as module
from autoproxy.language.canonical import canonical, key
from autoproxy.language.expression import CONSTANT, Expression, constant
from autoproxy.language.parse import parse
from tests.autoproxy.language.formulas import expressions

ROOT = Path(__file__).parents[3]


def rebuilt(expression: Expression) -> Expression:
    operands = tuple(rebuilt(operand) for operand in expression.operands)
    return Expression(expression.head, operands, expression.value)


@settings(max_examples=100)
@given(expressions(), expressions())
def test_equal_trees_are_one_object_and_others_are_not(one: Expression, other: Expression) -> None:
    assert rebuilt(one) is one
    assert parse(str(one)) is one
    assert (one is other) == (str(one) == str(other))
    assert (one == other) == (one is other)


@settings(max_examples=50)
@given(expressions())
def test_copies_and_pickles_are_the_same_object(expression: Expression) -> None:
    assert copy.copy(expression) is expression
    assert copy.deepcopy([expression])[0] is expression
    assert pickle.loads(pickle.dumps(expression)) is expression  # noqa: S301 - our own


@given(expressions())
def test_sizes_and_depths_are_those_of_the_tree(expression: Expression) -> None:
    assert expression.size == sum(1 for _ in expression.walk())
    below = [operand.depth for operand in expression.operands]
    assert expression.depth == 1 + max(below, default=0)


def test_nothing_of_an_expression_can_be_changed() -> None:
    made = parse("mul(abs(W), x_norm)")
    for name in ("head", "operands", "value", "size", "depth", "_text", "new"):
        with pytest.raises(FrozenInstanceError, match=name):
            setattr(made, name, "neg")
        with pytest.raises(FrozenInstanceError, match=name):
            delattr(made, name)
    assert str(made) == "mul(abs(W), x_norm)"


def test_there_is_one_zero_and_numbers_are_floats() -> None:
    minus = Expression(CONSTANT, (), -0.0)
    assert str(minus.value) == "0.0"
    assert constant(-0.0) is minus
    assert str(Expression(CONSTANT, (), 7)) == "7"
    assert constant(7.0) is Expression(CONSTANT, (), 7)


def test_what_nobody_holds_goes() -> None:
    def alive() -> int:
        gc.collect()
        return sum(1 for node in module._ALIVE.values() if "col_std" in str(node))

    before = alive()
    made = [Expression("col_std", (constant(1000.0 + number),)) for number in range(100)]
    assert alive() == before + 100
    del made[10:]
    assert alive() == before + 10


def test_threads_that_make_one_tree_get_one_object() -> None:
    def make(start: int) -> list[Expression]:
        grown = []
        for number in range(300):
            node = Expression("W")
            for power in range(4):
                node = Expression("pow", (node, constant(start + number + power / 8)))
            grown.append(node)
        return grown

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(make, [5000] * 8))
    finally:
        sys.setswitchinterval(switch)
    for others in zip(*found, strict=True):
        assert len(set(map(id, others))) == 1


READING = """
import pickle, sys
from autoproxy.language.canonical import key
from autoproxy.language.expression import Expression
from autoproxy.language.parse import parse
text = sys.argv[1]
mine = parse(text)
theirs = pickle.loads(bytes.fromhex(sys.argv[2]))
assert theirs is mine and {mine: 1}[theirs] == 1
print(key(theirs))
"""


def test_another_process_with_another_hash_seed_reads_the_same() -> None:
    text = "mul(div(add(W, g), x_norm), pow(abs(W), 0.3))"
    said = subprocess.run(
        [sys.executable, "-c", READING, text, pickle.dumps(parse(text)).hex()],
        env={"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.strip() == key(parse(text))


def test_the_canonical_form_is_the_same_after_all_that_was_known_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from autoproxy.language import canonical as forms

    texts = [f"mul({number}, add(neg(W), mul(x_norm, neg(g))))" for number in range(2, 40)]
    wanted = [str(canonical(parse(text))) for text in texts]
    monkeypatch.setattr(forms, "_CACHE", 3)
    forms._KNOWN.clear()
    assert [str(canonical(parse(text))) for text in texts] == wanted
    assert len(forms._KNOWN) <= 5
