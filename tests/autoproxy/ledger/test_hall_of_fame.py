"""The hall of fame: the best at each complexity, whatever the order it heard of them."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoproxy.errors import ConfigError
from autoproxy.evaluation import Direction, Individual, Objective
from autoproxy.ledger.hall_of_fame import HallOfFame

KL = Objective("kl", "nats", Direction.MINIMIZE)
CORRELATION = Objective("correlation", "none", Direction.MAXIMIZE)
TEXTS = ("abs(W)", "mul(abs(W), x_norm)", "sqrt(abs(W))", "pow(W, 0.3)")

values = st.sampled_from([-1.5, 0.0, 0.1, 0.25, 1e300]) | st.floats(-10, 10)
rows = st.lists(st.tuples(st.integers(1, 6), values, st.sampled_from(TEXTS)), max_size=25)


def individuals(drawn) -> list[Individual]:
    return [
        Individual(text, f"key{slot}", complexity, value, slot, "point", ("a", "b"))
        for slot, (complexity, value, text) in enumerate(drawn)
    ]


def hall(members, objective=KL) -> HallOfFame:
    made = HallOfFame(objective)
    for member in members:
        made = made.add(member)
    return made


@given(rows, st.sampled_from([KL, CORRELATION]))
def test_at_each_complexity_it_holds_one_that_nothing_seen_beats(drawn, objective):
    members = individuals(drawn)
    held = hall(members, objective).by_complexity
    assert set(held) == {member.complexity for member in members}
    for member in members:
        best = held[member.complexity]
        assert best in members
        assert not objective.better(member.value, best.value)
        if member.value == best.value:
            assert best.slot <= member.slot


@given(rows, st.randoms(use_true_random=False))
def test_the_order_of_adds_does_not_matter(drawn, draw):
    members = individuals(drawn)
    shuffled = draw.sample(members, len(members))
    assert hall(shuffled).by_complexity == hall(members).by_complexity
    assert hall(shuffled).to_json() == hall(members).to_json()


@given(rows, st.sampled_from([KL, CORRELATION]))
def test_the_front_is_what_no_other_dominates(drawn, objective):
    members = individuals(drawn)
    made = hall(members, objective)
    front = made.front()
    for a, b in pairwise(front):
        assert a.complexity < b.complexity
        assert objective.better(b.value, a.value)
    for member in members:
        assert any(
            f.complexity <= member.complexity and not objective.better(member.value, f.value)
            for f in front
        )
    if members:
        assert not any(objective.better(member.value, front[-1].value) for member in members)
    else:
        assert front == ()


@given(rows)
def test_reversing_the_direction_reverses_the_values(drawn):
    up = [(c, -value, text) for c, value, text in drawn]
    down = hall(individuals(drawn), KL)
    assert [i.slot for i in hall(individuals(up), CORRELATION).front()] == [
        i.slot for i in down.front()
    ]


@given(rows)
def test_it_survives_json_to_the_bit(drawn):
    made = hall(individuals(drawn))
    read = HallOfFame.from_json(KL, json.loads(json.dumps(made.to_json())))
    assert read.by_complexity == made.by_complexity
    assert [i.value.hex() for i in read.front()] == [i.value.hex() for i in made.front()]


def test_adding_leaves_the_old_one_as_it_was():
    before = hall(individuals([(1, 0.5, "abs(W)")]))
    after = before.add(Individual("sqrt(abs(W))", "k", 1, 0.25, 7))
    assert before.front()[-1].value == 0.5
    assert after.front()[-1].value == 0.25
    with pytest.raises(TypeError):
        before.by_complexity[1] = after.front()[-1]


GOOD = hall(individuals([(1, 0.5, "abs(W)")])).to_json()[0]


@pytest.mark.parametrize(
    "content",
    [
        [{"text": "abs(W)"}],
        ["abs(W)"],
        [{**GOOD, "value": "small"}],
        [{**GOOD, "parents": None}],
        [{**GOOD, "text": "nonsense("}],
        [{**GOOD, "details": 3}],
    ],
    ids=str,
)
def test_foreign_content_is_refused(content):
    with pytest.raises(ConfigError):
        HallOfFame.from_json(KL, content)
