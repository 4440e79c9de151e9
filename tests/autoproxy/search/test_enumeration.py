"""Enumeration against every tree made the slow way: none is lost, each once, the best is best."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoproxy.errors import ConfigError, ExpressionError
from autoproxy.evaluation import Failed, Measured, Outcome
from autoproxy.language.catalog import CATALOG
from autoproxy.language.expression import Expression, constant
from autoproxy.language.parse import kind_of, parse
from autoproxy.language.program import Program
from autoproxy.language.types import Kind
from autoproxy.search.audit import Audit, upper_bound
from autoproxy.search.enumeration import Enumeration, Formula, Route
from autoproxy.search.optimum import Measuring
from autoproxy.search.words import Words
from autoproxy.seeding import stream
from autoproxy.sieve.rules import Kept
from autoproxy.spaces import SearchSpace
from evaluators.pruning import PruningEvaluator
from search_spaces.importance_small import SPACE as SMALL
from tests.conformance.toy import ToyEvaluator
from tests.evaluators.tiny import tiny_options


def space(terminals: str, primitives: str, root: Kind = Kind.WEIGHT, **grid: object) -> SearchSpace:
    return replace(
        SMALL,
        name="tiny",
        root=root,
        terminals=dict.fromkeys(terminals.split(), 1),
        primitives=dict.fromkeys(primitives.split(), 1),
        constants=grid.get("constants", ()),
        exponents=grid.get("exponents", ()),
    )


WEIGHTS = space("W x_norm", "mul sub abs row_mean pow", constants=(1.0, 2.0), exponents=(0.5, -1.0))
MODELS = space(
    "W n_layers", "mul sub log all_norm layers_sum", root=Kind.MODEL, constants=(2.0, 3.0)
)
ZEROS = space("W x_norm", "sub mul maximum col_norm abs")
"""Much of it is zero whatever is read, which values tell and the canonical form does not."""

TRAP = space("g_norm x_norm", "square add")


def every_tree(words: SearchSpace, size: int) -> Iterator[Expression]:
    """Yield all trees of a size, whatever their kinds: words without grammar."""
    if size < 1:
        return
    if size == 1:
        yield from map(Expression, words.terminals)
        yield from map(constant, words.constants)
        return
    for head in words.primitives:
        if head == "pow":
            for base, power in itertools.product(every_tree(words, size - 2), words.exponents):
                yield Expression(head, (base, constant(power)))
        elif CATALOG[head].arity == 1:
            yield from (Expression(head, (one,)) for one in every_tree(words, size - 1))
        else:
            for left in range(1, size - 1):
                pairs = every_tree(words, left), every_tree(words, size - 1 - left)
                yield from (Expression(head, pair) for pair in itertools.product(*pairs))


@cache
def formulas(name: str, most: int) -> list[Expression]:
    """Return all trees of at most a size that are of the root kind."""
    words = SPACES[name]
    found = []
    for size in range(1, most + 1):
        for tree in every_tree(words, size):
            try:
                if kind_of(tree) is words.root:
                    found.append(tree)
            except ExpressionError:
                continue
    return found


SPACES = {"weights": WEIGHTS, "models": MODELS, "zeros": ZEROS, "trap": TRAP}


class Toy(ToyEvaluator):
    """Knows the values of parts, and that no loss is below zero."""

    least_block = 0.0

    def values(self, expressions: Sequence[Expression]) -> list[str | None]:
        found: list[bytes] = [b""] * len(expressions)
        for inputs in self.layers.values():
            for place, value in enumerate(Program(expressions).run(inputs)):
                found[place] += value.contiguous().numpy().tobytes()
        return [value.hex() for value in found]


class ByOrder(Toy):
    """Merges parts by order, which is wrong."""

    def values(self, expressions: Sequence[Expression]) -> list[str | None]:
        found = [str(kind_of(expression)) for expression in expressions]
        for inputs in self.layers.values():
            for place, value in enumerate(Program(expressions).run(inputs)):
                ranks = value.expand(inputs["W"].shape).argsort(dim=1, stable=True)
                found[place] += str(ranks.tolist())
        return list(found)


@dataclass
class Notes:
    """A memory that refuses to learn anything twice, and may lose power."""

    known: dict[tuple[str, float], Outcome] = field(default_factory=dict)
    patience: int | None = None

    def recall(self, key: str, protocol: str, fidelity: float) -> Outcome | None:
        return self.known.get((key, fidelity))

    def keep(self, kept: Kept, protocol: str, fidelity: float, outcome: Outcome) -> None:
        assert (kept.key, fidelity) not in self.known, f"{kept.expression} was measured twice"
        self.known[kept.key, fidelity] = outcome
        if self.patience is not None:
            self.patience -= 1
            if not self.patience:
                raise KeyboardInterrupt


def enumerated(words: SearchSpace, size: int, evaluator: ToyEvaluator | None = None) -> Enumeration:
    found = Enumeration(words, evaluator or Toy(), size)
    found.run()
    return found


def by_mask(evaluator: ToyEvaluator, trees: Sequence[Expression]) -> dict[str, Expression]:
    """Return the smallest tree of each mask, of those that are not hopeless, one by one."""
    found: dict[str, Expression] = {}
    for tree in trees:
        (behaviour,) = evaluator.behaviour([tree])
        if not isinstance(behaviour, Failed):
            identity = evaluator.identity(tree)
            assert isinstance(identity, str)
            found.setdefault(identity, tree)
    return found


# --- how many there are -----------------------------------------------------------------------


@pytest.mark.parametrize(("name", "most"), [("weights", 5), ("models", 5), ("zeros", 5)])
def test_trees_are_counted_without_making_them(name: str, most: int) -> None:
    words, trees = Words.of(SPACES[name]), formulas(name, most)
    for size in range(1, most + 1):
        assert words.formulas(size) == sum(tree.size == size for tree in trees)
    listed = list(words.every(most))
    assert len(listed) == len(set(listed))
    assert set(listed) == set(trees)


def test_the_issue_counts_thirty_thousand_without_kinds() -> None:
    """3 leaves, 8 unary, 4 binary: t(n) = 8 t(n - 1) + 4 sum t(i) t(n - 1 - i)."""
    counts = [0, 3]
    for size in range(2, 6):
        pairs = sum(counts[left] * counts[size - 1 - left] for left in range(1, size - 1))
        counts.append(8 * counts[size - 1] + 4 * pairs)
    assert sum(counts) == 29_631
    arities = [CATALOG[name].arity for name in SMALL.primitives]
    assert (len(SMALL.terminals), arities.count(1), arities.count(2)) == (3, 8, 4)
    typed = Words.of(SMALL)
    assert sum(map(typed.formulas, range(1, 6))) == 7850  # those that are importances of weights


def test_draws_are_even() -> None:
    words, trees = Words.of(WEIGHTS), formulas("weights", 3)
    rng = stream(0, "even")
    drawn = [words.draw(rng, 3) for _ in range(40 * len(trees))]
    counts = {tree: drawn.count(tree) for tree in trees}
    assert sum(counts.values()) == len(drawn)
    assert all(15 <= count <= 75 for count in counts.values()), counts  # 40 on average
    models, of_models = Words.of(MODELS), set(formulas("models", 4))
    assert {models.draw(rng, 4) for _ in range(500)} <= of_models


def test_nothing_can_be_drawn_of_nothing() -> None:
    with pytest.raises(ValueError, match="no formula has at most 1"):
        Words.of(space("x_norm", "row_mean mul")).draw(stream(0), 1)


# --- each once, none lost ---------------------------------------------------------------------


@pytest.mark.parametrize(("name", "most"), [("weights", 4), ("zeros", 5), ("trap", 6)])
def test_what_is_left_has_every_mask_and_the_least_size_of_each(name: str, most: int) -> None:
    toy = Toy()
    slow = by_mask(toy, formulas(name, most))
    found = enumerated(SPACES[name], most, toy)
    identities: dict[str, Formula] = {}
    for formula in found.formulas:
        identity = toy.identity(formula.expression)
        assert isinstance(identity, str)
        identities.setdefault(identity, formula)
    assert identities.keys() == slow.keys()
    for identity, formula in identities.items():
        assert formula.size == slow[identity].size
        assert formula.expression.size <= formula.size


@pytest.mark.parametrize("name", ["weights", "zeros", "trap"])
def test_every_tree_has_a_stand_in_of_the_same_mask(name: str) -> None:
    toy = Toy()
    found = enumerated(SPACES[name], 4, toy)
    for tree in formulas(name, 4):
        route = found.route(tree)
        (behaviour,) = toy.behaviour([tree])
        if isinstance(behaviour, Failed):
            assert route.stands is None
        else:
            assert route.stands is not None
            assert toy.identity(tree) == toy.identity(route.stands.expression)
            assert route.stands in found.formulas
            assert route.stands.size <= tree.size


SEVEN = st.integers(0, 10**6).map(lambda seed: Words.of(ZEROS).draw(stream(seed), 6))


@given(SEVEN)
def test_random_formulas_have_stand_ins_of_the_same_mask(tree: Expression) -> None:
    toy = Toy()
    route = _of_six().route(tree)
    if route.stands is not None:
        assert toy.identity(tree) == toy.identity(route.stands.expression)
    else:
        assert isinstance(toy.behaviour([tree])[0], Failed)


@cache
def _of_six() -> Enumeration:
    return enumerated(ZEROS, 6)


def test_values_merge_parts_that_no_algebra_knows() -> None:
    with_values, without = enumerated(ZEROS, 5), enumerated(ZEROS, 5, ToyEvaluator())
    assert not without.merges_by_value
    assert with_values.counts[-1].built < without.counts[-1].built
    assert without.counts[2].by_value is None
    assert with_values.counts[-1].by_value is None  # whole formulas alone
    ways = set().union(*(with_values.route(tree).ways for tree in formulas("zeros", 5)))
    assert ways == {"value", "algebra", "order"}
    toy = Toy()
    masks = [{toy.identity(f.expression) for f in e.formulas} for e in (with_values, without)]
    assert masks[0] == masks[1]


def test_the_simplest_stands_for_its_order() -> None:
    found = enumerated(WEIGHTS, 4)
    texts = [str(formula.expression) for formula in found.formulas]
    sizes = [formula.size for formula in found.formulas]
    assert sizes == sorted(sizes)
    assert texts[:1] == ["W"]
    assert "abs(W)" in texts
    assert "square(W)" not in texts  # mul(W, W), which orders like abs(W)
    stands = found.route(parse("mul(W, W)")).stands
    assert stands is not None
    assert str(stands.expression) == "abs(W)"


def test_twice_is_the_same() -> None:
    first, second = enumerated(WEIGHTS, 4), enumerated(WEIGHTS, 4)
    assert first.formulas == second.formulas
    assert first.counts == second.counts


def test_parts_that_order_alike_are_kept_apart() -> None:
    """A and A squared order alike, A + s and A squared + s do not."""
    toy = Toy()
    found = enumerated(TRAP, 4, toy)
    plain, squared = parse("g_norm + x_norm"), parse("square(g_norm) + x_norm")
    assert toy.identity(plain) != toy.identity(squared)
    stands = found.route(squared).stands
    assert stands is not None
    assert toy.identity(stands.expression) == toy.identity(squared)
    whole = found.route(parse("square(g_norm)"))
    assert whole.stands is not None
    assert str(whole.stands.expression) == "g_norm"
    assert whole.ways == {"algebra"}


def test_the_audit_finds_parts_that_were_merged_by_order() -> None:
    wrong, right = enumerated(TRAP, 5, ByOrder()), enumerated(TRAP, 5)
    assert len(wrong.formulas) < len(right.formulas)

    def audited(enumeration: Enumeration, count: int) -> Audit:
        audit = Audit(enumeration, count, 0, lambda expression: float(expression.size))
        audit.run()
        return audit

    found = audited(wrong, 10_000).to_json()
    trees = len(formulas("trap", 5))
    assert found["drawn"] == found["trees"] == trees
    value = found["ways"]["value"]
    assert value["false"] > 0
    assert value["upper"] == value["rate"] == value["false"] / value["checked"]
    assert value["gain"] == max(b - a for a, b in (row["values"] for row in value["wrong"]))
    clean = audited(right, 10_000).to_json()
    assert clean["false"] == 0
    assert clean["gain"] is None
    few = audited(wrong, 3).to_json()
    assert few["ways"]["value"]["checked"] == 3  # more would be no even sample of this way's
    assert few["ways"]["value"]["upper"] > few["ways"]["value"]["rate"]
    assert audited(wrong, 3).to_json() == few
    assert audited(wrong, 0).to_json()["upper"] is None


class Numbered:
    """Stands for an enumeration: tree n is merged by algebra if even, by value too if by 100."""

    size = 1
    words = SimpleNamespace(formulas=lambda _: 10**7, draw=lambda rng, _: rng.randrange(10**7))
    evaluator = SimpleNamespace(objective=SimpleNamespace(sign=1.0), identity=lambda _: "same")

    def route(self, tree: int) -> Route:
        ways = {"algebra"} if tree % 2 == 0 else set[str]()
        ways |= {"value"} if tree % 100 == 0 else set()
        return Route(parse("W"), Formula(parse("W"), 1), frozenset(ways))


def test_the_audit_draws_no_more_of_a_way_for_the_sake_of_another() -> None:
    """What is drawn to fill a rare way is no even sample of a common one."""
    audit = Audit(cast("Enumeration", Numbered()), 50, 0, lambda _: None)
    audit.run()
    assert {way: tally.checked for way, tally in audit.tallies.items()} == {
        "value": 50,
        "algebra": 50,
        "order": 0,
    }


@given(st.integers(0, 40), st.integers(1, 40))
def test_no_smaller_rate_is_excluded(false: int, checked: int) -> None:
    """At the bound, so few wrong ones or fewer have a chance of one in twenty."""
    false = min(false, checked)
    bound = upper_bound(false, checked)
    if false == checked:
        assert bound == 1
        return
    chance = 0.0
    for number in range(false + 1):
        ways = 1.0
        for step in range(number):
            ways = ways * (checked - step) / (step + 1)
        chance += ways * bound**number * (1 - bound) ** (checked - number)
    assert chance == pytest.approx(0.05)


def test_sizes_beyond_the_space_are_refused() -> None:
    for size in (0, 10):
        with pytest.raises(ConfigError, match=r"size must lie in \[1, 9\]"):
            Enumeration(WEIGHTS, Toy(), size)


# --- the best ---------------------------------------------------------------------------------

RUNGS = (0.125, 0.25, 0.375, 0.5, 0.75, 1.0)


def measured(notes: Notes, toy: Toy, **options: object) -> Measuring:
    measuring = Measuring(toy, notes, **options)  # type: ignore[arg-type]
    measuring.run(enumerated(WEIGHTS, 4, toy).formulas)
    return measuring


def test_the_best_are_those_of_measuring_everything() -> None:
    toy = Toy(rungs=RUNGS)
    slow = by_mask(toy, formulas("weights", 4))
    values = sorted(next(toy.measure([tree], 1.0)).value for tree in slow.values())
    toy.measured.clear()
    middle = values[len(values) // 2]
    found = measured(Notes(), toy, keep=3, rivals=[middle])
    assert found.rungs == (0.125, 0.25, 0.5, 1.0)
    assert found.masks == len(values) == sum(found.measured.values())
    assert [standing.value for standing in found.best] == values[:3]
    assert found.better(middle) == sum(value < middle for value in values)
    assert found.left > 0
    assert found.left + found.measured[1.0] == found.masks
    assert len(toy.measured) == len(set(toy.measured))
    assert found.screened == 0


def test_without_a_least_value_everything_is_measured_in_full() -> None:
    toy = Toy(rungs=RUNGS)
    toy.least_block = None  # type: ignore[assignment]
    found = measured(Notes(), toy, keep=3)
    assert found.left == 0
    assert {fidelity for _, fidelity in toy.measured} == {1.0}
    assert measured(Notes(), Toy(rungs=RUNGS), keep=3).best == found.best


def test_screening_says_how_many_it_left_out() -> None:
    toy = Toy(rungs=RUNGS)
    found = measured(Notes(), toy, keep=3, full=5)
    everything = measured(Notes(), Toy(rungs=RUNGS), keep=3)
    assert found.masks == everything.masks
    assert found.screened == found.masks - 5
    assert found.measured[1.0] + found.left == 5
    texts = dict.fromkeys(text for text, _ in toy.measured)
    firsts = {text: next(toy.measure([parse(text)], 0.125)) for text in texts}
    climbed = {text for text, fidelity in toy.measured if fidelity > 0.125}
    assert all(isinstance(outcome, Measured) for outcome in firsts.values())
    ranked = sorted(firsts, key=lambda text: firsts[text].value)  # type: ignore[union-attr]
    assert climbed <= set(ranked[:5])
    assert measured(Notes(), Toy(rungs=RUNGS), keep=3, full=10**6).screened == 0


def test_all_masks_of_a_formula_are_made_once_also_where_it_was_screened() -> None:
    class Counting(Toy):
        asked: ClassVar[Counter[str]] = Counter()

        def identity(self, expression: Expression) -> str | Failed:
            self.asked[str(expression)] += 1
            return super().identity(expression)

    toy = Toy(rungs=RUNGS)
    expected = enumerated(WEIGHTS, 4, toy).formulas
    measuring = Measuring(Counting(rungs=RUNGS), Notes(), keep=3, full=5)
    measuring.run(expected)
    assert measuring.measured[1.0] > 0
    assert set(Counting.asked.values()) == {1}
    assert len(Counting.asked) == len(expected)


@pytest.mark.parametrize("full", [None, 5])
@pytest.mark.parametrize("patience", [1, 4, 11])
def test_what_was_stopped_goes_on_to_the_same_end(full: int | None, patience: int) -> None:
    whole = measured(Notes(), Toy(rungs=RUNGS), full=full)
    notes = Notes(patience=patience)
    with pytest.raises(KeyboardInterrupt):
        measured(notes, Toy(rungs=RUNGS), full=full)
    assert len(notes.known) == patience
    notes.patience = None
    again = measured(notes, Toy(rungs=RUNGS), full=full)
    for name in ("best", "masks", "measured", "screened", "failed", "left"):
        assert getattr(again, name) == getattr(whole, name)
    fresh = Toy(rungs=RUNGS)
    measured(notes, fresh, full=full)
    assert fresh.measured == []


# --- on a real model --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pruning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PruningEvaluator]:
    folder = tmp_path_factory.mktemp("enumerated")
    options = tiny_options(folder)
    with PruningEvaluator.from_options(
        options, cache=folder / "cache", notice=lambda _: None
    ) as evaluator:
        evaluator.prepare(["W", "x_norm", "g_norm"])
        yield evaluator


def test_the_optimum_on_a_model_is_that_of_all_its_trees(pruning: PruningEvaluator) -> None:
    small = space("W x_norm", "mul abs sub col_norm")
    trees = Words.of(small).every(4)
    found = Enumeration(small, pruning, 4)
    found.run()
    measuring = Measuring(pruning, Notes(), keep=5)
    measuring.run(found.formulas)
    values: dict[str, float] = {}
    for tree in trees:
        (behaviour,) = pruning.behaviour([tree])
        identity = pruning.identity(tree)
        if isinstance(behaviour, Failed) or isinstance(identity, Failed):
            continue
        if identity not in values:
            (outcome,) = pruning.measure([tree], 1.0)
            assert isinstance(outcome, Measured)
            values[identity] = outcome.value
    assert measuring.masks == len(values)
    assert [one.value for one in measuring.best] == pytest.approx(sorted(values.values())[:5])
    assert measuring.best[0].value == min(values.values())


def test_parts_of_every_kind_have_values(pruning: PruningEvaluator) -> None:
    texts = [
        "W",
        "abs(W)",
        "neg(neg(W))",
        "x_norm",
        "col_norm(W)",  # of all rows, and one row itself
        "row_mean(W)",
        "all_mean(W)",
        "minmax(W)",
        "all_max(minmax(W))",
        "1",
        "maximum(W, W)",
        "mul(row_mean(W), x_norm)",
    ]
    found = dict(zip(texts, pruning.values([parse(text) for text in texts]), strict=True))
    same = {"neg(neg(W))": "W", "maximum(W, W)": "W", "1": "all_max(minmax(W))"}
    for text, twin in same.items():
        assert found[text] == found[twin]
    assert len(set(found.values())) == len(texts) - len(same)
    assert pruning.values([parse("W")]) == [found["W"]]
    assert pruning.values([]) == []


def test_values_are_of_whole_columns_where_a_part_has_no_rows(
    pruning: PruningEvaluator, tmp_path: Path
) -> None:
    """A weight of a row that is not sampled changes what looks across rows, and nothing else."""
    local, across = parse("abs(W)"), parse("col_sum(abs(W))")
    before = pruning.values([local, across])
    name, weight = max(pruning._model.weights.items(), key=lambda item: item[1].shape[0])
    taken = set(pruning._prober._sampled_rows(name).tolist())
    row = next(number for number in range(weight.shape[0]) if number not in taken)
    kept = weight[row, 0].clone()
    try:
        with torch.no_grad():
            weight[row, 0] += 1
        after = pruning.values([local, across])
    finally:
        with torch.no_grad():
            weight[row, 0] = kept
    assert after[0] == before[0]
    assert after[1] != before[1]
