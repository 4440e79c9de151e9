"""Children: always of the root kind, drawn from their own stream, the same in every process."""

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoproxy.breeding.grammar import Grammar
from autoproxy.breeding.variation import MUTATIONS, blend, cross, mutate, sprout
from autoproxy.language.canonical import canonical
from autoproxy.language.expression import Expression
from autoproxy.language.parse import kind_of, parse
from autoproxy.language.primitive import EXPONENT_RANGE
from autoproxy.language.types import Kind
from autoproxy.seeding import lend_to_global, stream
from autoproxy.spaces import SearchSpace
from search_spaces import importance, structured
from tests.autoproxy.breeding.test_grammar import AWKWARD, described, space

GRAMMAR = Grammar(importance.SPACE)
seeds = st.integers(0, 10**9)


def parent(grammar: Grammar, seed: int) -> Expression:
    """Return a random parent as a population holds it: in canonical form."""
    rng = stream(seed, "parent")
    return canonical(sprout(grammar, rng, low=0, high=4, full=rng.random() < 0.5))


def kind_by_text(expression: Expression) -> Kind:
    return kind_of(parse(str(expression)))


@given(seeds, st.sampled_from(sorted(MUTATIONS)), st.sampled_from(["importance", "structured"]))
def test_a_mutant_is_of_the_root_kind(seed: int, how: str, name: str) -> None:
    grammar = GRAMMAR if name == "importance" else STRUCTURED
    child = mutate(grammar, random.Random(seed), how, parent(grammar, seed))
    assert kind_by_text(child) is grammar.space.root
    assert child.terminals() <= set(grammar.space.terminals)


STRUCTURED = Grammar(structured.CHANNELS)


@given(seeds)
def test_a_child_of_two_is_of_the_root_kind(seed: int) -> None:
    mother, father = parent(GRAMMAR, seed), parent(GRAMMAR, seed + 1)
    before = str(mother), str(father)
    for unite in (cross, blend):
        child = unite(GRAMMAR, random.Random(seed), mother, father)
        assert kind_by_text(child) is Kind.WEIGHT
        assert child.terminals() <= mother.terminals() | father.terminals()
    assert (str(mother), str(father)) == before


@pytest.mark.parametrize("tried", AWKWARD, ids=described)
def test_awkward_spaces_breed_for_generations(tried: SearchSpace) -> None:
    grammar = Grammar(tried)
    made = [parent(grammar, seed) for seed in range(20)]
    for seed in range(150):
        rng = stream(seed)
        mother, father = rng.choice(made), rng.choice(made)
        for how in MUTATIONS:
            child = mutate(grammar, rng, how, mother)
            assert kind_by_text(child) is tried.root
            if child.size < 40:
                made.append(canonical(child))
        for unite in (cross, blend):
            assert kind_by_text(unite(grammar, rng, mother, father)) is tried.root


FOREIGN = [
    "mul(W, sqrt(W))",
    "mul(W, square(x_norm))",
    "mul(row_sum(abs(W)), W)",
    "mul(minmax(W), tanh(row_zscore(W)))",
    "mul(W, pow(W, -1))",
    "mul(all_mean(W), W)",
    "abs(W)",
]
"""Hand-made metrics and canonical forms use primitives that their space may lack."""


@pytest.mark.parametrize("text", FOREIGN)
@pytest.mark.parametrize("how", MUTATIONS)
def test_parents_with_foreign_words_have_children_too(text: str, how: str) -> None:
    grammar = Grammar(space(Kind.WEIGHT, "W x_norm", "mul"))
    for seed in range(60):
        child = mutate(grammar, random.Random(seed), how, parse(text))
        assert kind_by_text(child) is Kind.WEIGHT


def children(how: str, text: str, count: int = 200) -> Iterator[Expression]:
    for seed in range(count):
        yield mutate(GRAMMAR, random.Random(seed), how, parse(text))


def test_point_keeps_the_shape_and_changes_one_node() -> None:
    text = "mul(abs(add(W, g)), sqrt(x_norm))"
    before = list(parse(text).walk())
    changed = set()
    for child in children("point", text):
        after = list(child.walk())
        differing = [
            i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a.head != b.head
        ]
        assert len(differing) <= 1
        changed.update(differing)
    assert changed == set(range(1, len(before)))  # all but the root, as DEAP does it


def test_shrink_never_grows_and_keeps_only_parts() -> None:
    text = "mul(abs(add(W, g)), sqrt(mul(x_norm, row_sum(W))))"
    sizes = set()
    for child in children("shrink", text):
        assert {n.head for n in child.walk()} <= {n.head for n in parse(text).walk()}
        sizes.add(child.size)
    assert sizes == {8, 9}  # of ten: one of two operands goes, or a root or an abs


def test_wrap_keeps_the_parent_inside() -> None:
    text = "mul(abs(W), x_norm)"
    parts = [str(node) for node in parse(text).walk()]
    for child in children("wrap", text):
        assert child.size > parse(text).size
        inside = {str(node) for node in child.walk()}
        assert {"abs(W)", "W", "x_norm"} & inside
        assert sum(part in inside for part in parts) >= 2
    heads = {child.head for child in children("wrap", text)}
    assert len(heads - {"mul"}) > 3  # the root is wrapped too


def test_subtree_replaces_any_branch_the_root_included() -> None:
    text = "mul(abs(W), x_norm)"
    found = [str(child) for child in children("subtree", text)]
    assert any(child.startswith("mul(abs(W), ") for child in found)
    assert any(child.endswith(", x_norm)") and "abs(W)" not in child for child in found)
    assert any(not child.startswith("mul(") for child in found)


def test_constant_moves_one_number_and_keeps_exponents_lawful() -> None:
    text = "add(mul(10, W), pow(x_norm, 3.9))"
    numbers = set()
    for child in children("constant", text):
        heads = [node.head for node in child.walk()]
        assert heads == [node.head for node in parse(text).walk()]
        ten, power = (node.value for node in child.walk() if node.is_constant)
        assert ten is not None
        assert power is not None
        assert (ten == 10) or (abs(power - 3.9) < 1e-6)
        assert EXPONENT_RANGE[0] <= power <= EXPONENT_RANGE[1]
        assert ten > 0
        numbers.add((ten, power))
    assert len({ten for ten, _ in numbers}) > 20
    assert len({power for _, power in numbers}) > 5


def test_roots_and_squares_move_as_powers() -> None:
    found = {str(child) for child in children("constant", "mul(abs(W), sqrt(x_norm))")}
    assert all(child.startswith("mul(abs(W), pow(x_norm, ") for child in found)
    assert len(found) > 10
    exponents = sorted(float(child.split(", ")[-1].rstrip(")")) for child in found)
    assert exponents[0] < 0.3
    assert exponents[-1] > 0.7


def test_without_a_number_constant_is_point() -> None:
    for seed in range(30):
        assert mutate(GRAMMAR, random.Random(seed), "constant", parse("mul(W, x_norm)")) == (
            mutate(GRAMMAR, random.Random(seed), "point", parse("mul(W, x_norm)"))
        )


def test_crossover_swaps_branches_of_one_kind() -> None:
    mother, father = parse("mul(abs(W), x_norm)"), parse("add(g, sqrt(x_var))")
    found = {str(cross(GRAMMAR, random.Random(seed), mother, father)) for seed in range(100)}
    assert found == {
        "mul(g, x_norm)",
        "mul(abs(g), x_norm)",
        "mul(abs(W), sqrt(x_var))",
        "mul(abs(W), x_var)",
    }


def test_leaves_do_not_cross() -> None:
    assert cross(GRAMMAR, random.Random(0), parse("W"), parse("abs(g)")) == parse("W")
    assert cross(GRAMMAR, random.Random(0), parse("abs(g)"), parse("W")) == parse("abs(g)")


def test_blends_are_products_and_sums_as_often_as_the_space_draws_them() -> None:
    mother, father = parse("abs(W)"), parse("g")
    heads = [blend(GRAMMAR, random.Random(seed), mother, father).head for seed in range(600)]
    assert set(heads) == {"mul", "add"}
    assert heads.count("mul") / heads.count("add") == pytest.approx(2, rel=0.25)  # 6 to 3
    neither = Grammar(space(Kind.WEIGHT, "W g", "abs sqrt"))
    child = blend(neither, random.Random(0), parse("abs(sqrt(W))"), parse("sqrt(abs(g))"))
    assert child.head == "abs"


@given(seeds)
def test_the_global_stream_is_given_back(seed: int) -> None:
    mother, father = parent(GRAMMAR, seed), parent(GRAMMAR, seed + 1)
    outside = random.getstate()
    rng = random.Random(seed)
    sprout(GRAMMAR, rng, low=1, high=3, full=False)
    cross(GRAMMAR, rng, mother, father)
    blend(GRAMMAR, rng, mother, father)
    for how in MUTATIONS:
        mutate(GRAMMAR, rng, how, mother)
    assert random.getstate() == outside
    assert rng.getstate() != random.Random(seed).getstate()  # it was drawn from


def test_the_global_stream_is_given_back_after_an_error() -> None:
    outside = random.getstate()
    rng = random.Random(3)

    def fail() -> None:
        with lend_to_global(rng):
            random.random()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert random.getstate() == outside
    control = random.Random(3)
    control.random()
    assert rng.getstate() == control.getstate()


@given(seeds, st.integers())
def test_the_global_stream_decides_nothing(seed: int, outside: int) -> None:
    mother, father = parent(GRAMMAR, seed), parent(GRAMMAR, seed + 1)
    found = []
    state = random.getstate()
    for number in (outside, outside + 1):
        random.setstate(random.Random(number).getstate())
        rng = random.Random(seed)
        found.append(
            [
                sprout(GRAMMAR, rng, low=1, high=4, full=False),
                cross(GRAMMAR, rng, mother, father),
                *(mutate(GRAMMAR, rng, how, mother) for how in MUTATIONS),
            ]
        )
    random.setstate(state)
    assert found[0] == found[1]


def bred() -> str:
    """Return the hash of a hundred lines of descent, by every way there is to breed."""
    lines: list[str] = []
    for name, grammar in (("importance", GRAMMAR), ("structured", STRUCTURED)):
        made = [sprout(grammar, stream(s, name), low=1, high=4, full=s % 2 == 0) for s in range(20)]
        for seed in range(80):
            rng = stream(seed, name, "line")
            mother, father = rng.choice(made), rng.choice(made)
            made.append(cross(grammar, rng, mother, father))
            made += [mutate(grammar, rng, how, mother) for how in MUTATIONS]
            made = [e for e in made if e.size < 60]
        lines += map(str, made)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_the_same_children_are_born_in_every_process() -> None:
    script = "from tests.autoproxy.breeding.test_variation import bred; print(bred())"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "271828")
    ]
    found = [process.communicate()[0].strip() for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert found == [bred(), bred()]
