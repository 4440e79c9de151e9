"""Compiled expressions: the bits of plain recursion, each node once, in bounded memory."""

import dataclasses
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoproxy.language import program as module
from autoproxy.language import tiling
from autoproxy.language.catalog import CATALOG
from autoproxy.language.expression import Expression
from autoproxy.language.parse import parse
from autoproxy.language.program import Program
from tests.autoproxy.language.formulas import Recursion, drawn, expressions, hard_inputs

SIZE = (6, 40)
MATRIX_BYTES = SIZE[0] * SIZE[1] * 4
LIMITS = [0, MATRIX_BYTES, 3 * MATRIX_BYTES + 1, 2**31]


def same_bits(a: Tensor, b: Tensor) -> bool:
    return (
        a.shape == b.shape
        and a.dtype is b.dtype
        and torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))
    )


def a_generation(count: int = 150) -> list[Expression]:
    """Return formulas with much in common, some of them twice."""
    made = [drawn(seed) for seed in range(count)]
    sums = [Expression("add", (a, b)) for a, b in zip(made[::3], made[1::3], strict=False)]
    return [*made, *sums, *made[:20], *(Expression("abs", (e,)) for e in sums)]


@pytest.mark.parametrize("limit", LIMITS)
def test_a_batch_gives_the_bits_of_plain_recursion(limit: int) -> None:
    batch = a_generation()
    for seed in range(2):
        inputs = hard_inputs(seed, *SIZE)
        recursion = Recursion(inputs)
        found = list(Program(batch, limit_bytes=limit).run(inputs))
        assert len(found) == len(batch)
        for expression, value in zip(batch, found, strict=True):
            assert same_bits(value, recursion.value(expression)), expression


@settings(max_examples=50)
@given(st.lists(expressions(), max_size=6), st.integers(0, 10**6), st.sampled_from(LIMITS))
def test_any_few_give_the_bits_of_plain_recursion(
    batch: list[Expression], seed: int, limit: int
) -> None:
    inputs = hard_inputs(seed)
    recursion = Recursion(inputs)
    program = Program(batch, limit_bytes=limit)
    for _ in range(2):  # a program may run on layer after layer
        for expression, value in zip(batch, program.run(inputs), strict=True):
            assert same_bits(value, recursion.value(expression))
    assert program.terminals == {name for e in batch for name in e.terminals()}


@pytest.mark.parametrize("rows", [31, 32, 70, 101])
@pytest.mark.parametrize("columns", [1, 33, 64])
@pytest.mark.parametrize("tile", [1, 4000])
def test_tiles_give_the_bits_of_the_whole(
    one_thread: None, rows: int, columns: int, tile: int
) -> None:
    """Sums over outputs, min-max of all, powers (whose last bits depend on places) included."""
    inputs = hard_inputs(rows * columns, rows, columns)
    before = {name: value.clone() for name, value in inputs.items()}
    batch = [*a_generation(60), *map(parse, ACROSS)]
    recursion = Recursion(inputs)
    program = Program(batch)
    for _ in range(2):  # the buffer of the first run is used again
        found = [torch.full((rows, columns), torch.nan) for _ in batch]
        for part, values in program.run_in_tiles(inputs, tile):
            for whole, value in zip(found, values, strict=True):
                whole[part] = value
        for expression, whole in zip(batch, found, strict=True):
            expected = recursion.value(expression).expand(rows, columns)
            assert same_bits(whole, expected.contiguous()), expression
    assert all(same_bits(inputs[name], value) for name, value in before.items())


ACROSS = (
    "zscore(W)",
    "minmax(zscore(minmax(W)))",
    "mul(zscore(abs(W)), minmax(abs(W)))",
    "add(col_std(abs(W)), mul(all_std(abs(W)), zscore(abs(W))))",
    "pow(zscore(row_sum(pow(abs(W), 0.3))), 0.6)",
    "div(W, minmax(row_norm(col_sum(W) * W)))",
    "sigmoid(mul(W, minmax(y_norm)))",
    "x_norm",
    "sqrt(x_norm)",
    "3",
)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", [name for name, p in CATALOG.items() if p.fast])
def test_a_fast_form_has_the_bits_of_the_meaning(name: str) -> None:
    primitive = CATALOG[name]
    exponents = [-4.0, -1.0, -0.5, 0.0, 0.3, 0.5, 2.0, 3.0] if name == "pow" else [None]
    odd = torch.tensor([[torch.nan, 1.0], [torch.inf, -torch.inf]])
    draws = [hard_inputs(seed, 40, 37)["W"] for seed in range(20)]
    for value in (*draws, torch.rand(40, 37) + 0.1, odd, torch.zeros(3, 2)):
        for exponent in exponents:
            rest = () if exponent is None else (exponent,)
            operands = (value.flip(0), value) if primitive.arity == 2 and not rest else (value,)
            before = [operand.clone() for operand in operands]
            assert primitive.fast is not None
            found = primitive.fast(*operands, *rest)
            assert same_bits(found, primitive.tensor(*operands, *rest))
            assert all(same_bits(a, b) for a, b in zip(operands, before, strict=True))


class Watch:
    """Primitives that count their calls and how many bytes of their results are alive.

    Attributes:
        calls: Name of a primitive to how often it was computed.
        most: Most bytes alive at any one time.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: Counter[str] = Counter()
        self.most = 0
        self._alive = 0
        watched = {
            name: dataclasses.replace(
                primitive, signatures=(), tensor=self._watched(name), fast=None
            )
            for name, primitive in CATALOG.items()
        }
        monkeypatch.setattr(module, "CATALOG", watched)
        monkeypatch.setattr(tiling, "CATALOG", watched)

    @property
    def alive(self) -> int:
        return self._alive

    def _watched(self, name: str) -> Callable[..., Tensor]:
        def computed(*operands: Any) -> Tensor:
            value = CATALOG[name].tensor(*operands)
            self.calls[name] += 1
            self._alive += value.nbytes
            self.most = max(self.most, self._alive)
            weakref.finalize(value, self._gone, value.nbytes)
            return value

        return computed

    def _gone(self, size: int) -> None:
        self._alive -= size


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def consumed(values: Iterator[Tensor]) -> None:
    for value in values:
        del value


def test_each_distinct_node_is_computed_once(watch: Watch) -> None:
    batch = a_generation()
    distinct = {node for expression in batch for node in expression.walk() if node.operands}
    program = Program(batch)
    assert program.node_count == len(distinct)
    consumed(program.run(hard_inputs(0, *SIZE)))
    assert watch.calls == Counter(node.head for node in distinct)


@pytest.mark.parametrize("limit", LIMITS[:3])
def test_what_is_held_stays_under_the_limit_and_one_chain(watch: Watch, limit: int) -> None:
    batch = a_generation()
    chain = (1 + max(expression.depth for expression in batch)) * MATRIX_BYTES
    consumed(Program(batch, limit_bytes=limit).run(hard_inputs(0, *SIZE)))
    assert watch.most <= limit + chain
    assert watch.alive == 0


def test_a_tile_asks_for_no_more_than_its_rows(watch: Watch) -> None:
    inputs = hard_inputs(0, 640, 32)
    program = Program([parse("sqrt(abs(W)) * sqrt(x_norm)")])
    run = program.run_in_tiles(inputs, 1024)
    for rows, values in run:
        assert rows.stop - rows.start == 32
        consumed(values)
        del values
    assert watch.calls == {"abs": 20, "sqrt": 21, "mul": 20}  # sqrt(x_norm) once
    assert watch.most <= 4 * 32 * 32 * 4 + 32 * 4
    del run
    assert watch.alive == 0


def test_under_a_limit_what_is_used_once_displaces_nothing(watch: Watch) -> None:
    words = ("abs", "square", "sqrt", "log", "tanh", "sigmoid", "sign", "row_minmax", "zscore")
    batch = [parse(f"add({word}(W), {number})") for word in words for number in range(2, 6)]
    consumed(Program(batch, limit_bytes=MATRIX_BYTES).run(hard_inputs(0, *SIZE)))
    assert watch.calls == {"add": len(batch), **dict.fromkeys(words, 1)}


def test_a_value_goes_after_its_last_use(watch: Watch) -> None:
    inputs = hard_inputs(0, *SIZE)
    batch = [parse(f"add(abs(W), {number})") for number in range(2, 40)]
    alive = []
    for value in Program(batch).run(inputs):
        del value
        alive.append(watch.alive)
    assert alive[:-1] == [MATRIX_BYTES] * (len(batch) - 1)  # abs(W), as long as someone needs it
    assert alive[-1] == 0
    apart = [parse(f"abs(add(W, {number}))") for number in range(2, 40)]
    for value in Program(apart).run(inputs):
        del value
        assert watch.alive == 0


def test_an_abandoned_run_holds_nothing_and_harms_no_other(watch: Watch) -> None:
    inputs = hard_inputs(0, *SIZE)
    program = Program(a_generation(30))
    run = program.run(inputs)
    next(run)
    del run
    assert watch.alive == 0
    assert len(list(program.run(inputs))) == len(program.expressions)


def test_inputs_are_never_changed() -> None:
    inputs = hard_inputs(3, *SIZE)
    before = {name: value.clone() for name, value in inputs.items()}
    consumed(Program(a_generation()).run(inputs))
    assert all(same_bits(inputs[name], value) for name, value in before.items())


def test_results_arrive_one_at_a_time(watch: Watch) -> None:
    run = Program([parse("abs(W)"), parse("sqrt(W)")]).run(hard_inputs(0))
    next(run)
    assert watch.calls == {"abs": 1}
    next(run)
    assert watch.calls == {"abs": 1, "sqrt": 1}


def test_constants_take_the_type_of_the_inputs() -> None:
    (value,) = Program([parse("mul(W, 0.1)")]).run({"W": torch.ones(2, 2, dtype=torch.float64)})
    assert value.dtype is torch.float64
    (alone,) = Program([parse("3")]).run({"W": torch.ones(2, 2, dtype=torch.float64)})
    assert alone.dtype is torch.float64
    assert alone.tolist() == [[3.0]]


def test_a_missing_terminal_is_named() -> None:
    with pytest.raises(KeyError, match="x_norm"):
        list(Program([parse("mul(W, x_norm)")]).run({"W": torch.ones(2, 2)}))


def test_no_expression_is_a_program_too() -> None:
    program = Program([])
    assert list(program.run({})) == []
    assert program.node_count == 0
    assert program.terminals == frozenset()
