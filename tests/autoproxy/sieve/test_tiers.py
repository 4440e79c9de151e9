"""The tiers of being the same: each merges what those before it do, and says with whom."""

import json
import re
from collections.abc import Mapping
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoproxy.errors import ConfigError
from autoproxy.evaluation import Fingerprint
from autoproxy.language.blindness import Blindness
from autoproxy.language.canonical import canonical, key, order_key
from autoproxy.language.expression import Expression
from autoproxy.language.parse import parse
from autoproxy.ledger.merges import MERGING
from autoproxy.sieve.rules import Dropped, Kept, Verdict
from autoproxy.sieve.sieve import RULES, Sieve
from autoproxy.sieve.tiers import TIERS
from search_spaces.importance import SPACE
from tests.autoproxy.language.formulas import expressions
from tests.autoproxy.sieve.test_sieve import EVERYTHING, Scripted, many, names, numbered
from tests.conformance.toy import ToyEvaluator

PROPOSALS = (
    "abs(W)",
    "abs(W)",  # the same text
    "neg(neg(abs(W)))",  # the same value
    "mul(abs(W), 2)",  # the same order, seen by simplification
    "mul(x_norm, y_norm)",
    "mul(row_norm(W), x_norm)",  # the same order, seen by algebra
    "g",
    "add(W, g)",  # the same on the probe
    "W",
    "sub(W, g)",  # the same masks
)
VERDICTS: Mapping[str, Mapping[int, tuple[str, int]]] = {
    "nothing": {},
    "text": {1: ("repeat", 0)},
    "key": {1: ("repeat", 0), 2: ("repeat", 0)},
    "order": dict.fromkeys((1, 2, 3), ("repeat", 0)) | {5: ("same-algebra", 4)},
    "fingerprint": dict.fromkeys((1, 2, 3), ("repeat", 0))
    | {5: ("same-algebra", 4), 7: ("same-order", 6)},
    "mask": dict.fromkeys((1, 2, 3), ("repeat", 0))
    | {5: ("same-algebra", 4), 7: ("same-order", 6), 9: ("same-mask", 8)},
}
"""What each tier drops: the slot, the rule, and the slot that it was merged with."""


def scripted() -> Scripted:
    alike = {"g": Fingerprint("alike"), "add(W, g)": Fingerprint("alike")}
    return Scripted(alike, {"W": "masks", "sub(W, g)": "masks"})


@pytest.mark.parametrize("same", TIERS)
def test_each_tier_drops_what_is_the_same_in_its_ways(same: str) -> None:
    verdicts = Sieve(EVERYTHING, scripted(), same=same).judge(numbered(*PROPOSALS))
    dropped = {
        slot: (verdict.rule, verdict.same_as)
        for slot, verdict in enumerate(verdicts)
        if isinstance(verdict, Dropped)
    }
    assert dropped == VERDICTS[same]


def test_the_usual_tier_is_the_last_and_all_are_told_of() -> None:
    assert list(TIERS) == ["nothing", "text", "key", "order", "fingerprint", "mask"]
    usual = Sieve(EVERYTHING, scripted()).judge(numbered(*PROPOSALS))
    assert usual == Sieve(EVERYTHING, scripted(), same="mask").judge(numbered(*PROPOSALS))
    ways = TIERS["mask"]
    assert {way.rule.name: way.name for way in ways} == MERGING  # as the ledger reads events
    assert {way.rule for way in ways} < set(RULES)


def test_an_unknown_tier_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="fingerprint"):
        Sieve(EVERYTHING, Scripted(), same="fingerprints")


@settings(max_examples=4)
@given(st.integers(0, 10**6))
def test_what_one_tier_merges_the_next_drops(seed: int) -> None:
    evaluator = ToyEvaluator()
    proposals = many(seed, 80)
    dropped = []
    for same in TIERS:
        verdicts = Sieve(SPACE, evaluator, same=same).judge(proposals)
        merged = {n for n, v in enumerate(verdicts) if isinstance(v, Dropped) and _merges(v)}
        dropped.append((merged, {n for n, v in enumerate(verdicts) if isinstance(v, Dropped)}))
    assert not dropped[0][0]
    assert all(merged <= after for (merged, _), (_, after) in pairwise(dropped))


def _merges(verdict: Dropped) -> bool:
    merged = verdict.rule in {"repeat", "same-algebra", "same-order", "same-mask"}
    assert (verdict.same_as is not None) == merged
    if merged:
        assert re.search(rf" as slot {verdict.same_as}$", verdict.reason)
    return merged


# Below `key`: as it was proposed.


@pytest.mark.parametrize("same", ["nothing", "text"])
def test_below_the_key_the_canonical_form_is_measured_and_nothing_made_simpler(same: str) -> None:
    evaluator = Scripted()
    text = "log(mul(x_norm, abs(neg(add(W, 0)))))"
    (verdict,) = Sieve(EVERYTHING, evaluator, same=same).judge(numbered(text))
    assert isinstance(verdict, Kept)
    assert verdict.expression == canonical(parse(text)) == parse("log(mul(abs(W), x_norm))")
    assert verdict.key == key(parse(text))
    assert evaluator.probed == [["log(mul(abs(W), x_norm))"]]
    assert evaluator.hashed == ["log(mul(abs(W), x_norm))"]


def test_below_the_key_limits_are_of_the_proposal() -> None:
    long = "neg(" * 12 + "W" + ")" * 12
    for same, wanted in (("text", "limits"), ("nothing", "limits"), ("key", "kept")):
        assert names(Sieve(EVERYTHING, Scripted(), same=same).judge(numbered(long))) == [wanted]


def test_texts_differ_where_values_do_not() -> None:
    verdicts = Sieve(EVERYTHING, Scripted(), same="text").judge(
        numbered("add(W, g)", "add(g, W)", "add(W, g)")
    )
    assert names(verdicts) == ["kept", "kept", "repeat"]
    assert verdicts[2] == Dropped("repeat", "the same text as slot 0", same_as=0)
    kept = [verdict for verdict in verdicts if isinstance(verdict, Kept)]
    assert kept[0].key == kept[1].key


@pytest.mark.parametrize("same", TIERS)
def test_a_question_answers_as_the_cheap_rules_of_the_tier(same: str) -> None:
    sieve = Sieve(EVERYTHING, scripted(), same=same)
    for slot, proposal in numbered(*PROPOSALS):
        answers = [sieve.novelty(proposal) for _ in range(2)]
        (verdict,) = sieve.judge([(slot, proposal)])
        cheap = isinstance(verdict, Dropped) and verdict.rule in {"repeat", "same-algebra"}
        assert (answers[0] is None) == cheap
        if answers[0] is not None:  # the same formula is the same answer, but where all are new
            assert (answers[0] == answers[1]) == (same != "nothing")
    assert sieve.novelty(parse("mul(noise, W)")) is None  # malformed in every tier


# Where magnitudes count.


@settings(max_examples=40)
@given(expressions())
def test_without_blindness_the_order_is_the_value(expression: Expression) -> None:
    assert order_key(expression, Blindness.NOTHING) == key(expression)


@settings(max_examples=10)
@given(st.integers(0, 10**6))
def test_without_blindness_the_tier_of_orders_falls_back_to_values(seed: int) -> None:
    proposals = many(seed, 60)

    def judged(same: str, blindness: Blindness) -> list[Verdict]:
        return Sieve(SPACE, Scripted(blindness=blindness), same=same).judge(proposals)

    assert judged("order", Blindness.NOTHING) == judged("key", Blindness.NOTHING)


def test_with_blindness_it_does_not() -> None:
    texts = numbered("abs(W)", "square(W)", "mul(abs(W), 3)")
    for blindness, wanted in (
        (Blindness.ROW, ["kept", "repeat", "repeat"]),
        (Blindness.NOTHING, ["kept", "kept", "kept"]),
    ):
        assert names(Sieve(EVERYTHING, Scripted(blindness=blindness)).judge(texts)) == wanted


# What was seen, taken out and put back.


@settings(max_examples=10)
@given(st.sampled_from(list(TIERS)), st.integers(0, 10**6), st.integers(0, 60))
def test_a_restored_sieve_judges_as_the_old_one_goes_on(same: str, seed: int, cut: int) -> None:
    evaluator = ToyEvaluator()
    proposals = many(seed, 60)
    old = Sieve(SPACE, evaluator, same=same)
    old.judge(proposals[:cut])
    text = json.dumps(old.noted())
    restored = Sieve(SPACE, evaluator, same=same)
    restored.restore(json.loads(text))
    assert restored.noted() == {}  # what was put back is nothing new
    assert restored.judge(proposals[cut:]) == old.judge(proposals[cut:])
    assert restored.noted() == old.noted()


def test_a_sieve_can_be_restored_piece_by_piece() -> None:
    evaluator = ToyEvaluator()
    proposals = many(1, 120)
    old, pieces = Sieve(SPACE, evaluator), []
    for start in (0, 30, 60):
        old.judge(proposals[start : start + 30])
        pieces.append(old.noted())
    assert all(slot >= 60 for known in pieces[2].values() for slot in known.values())
    restored = Sieve(SPACE, evaluator)
    for piece in pieces:
        restored.restore(piece)
    assert restored.judge(proposals[90:]) == old.judge(proposals[90:])


def test_what_was_taken_out_is_a_copy() -> None:
    sieve = Sieve(EVERYTHING, Scripted())
    sieve.judge(numbered("abs(W)"))
    taken = sieve.noted()
    other = Sieve(EVERYTHING, Scripted())
    other.restore(taken)
    taken["key"].clear()
    assert names(sieve.judge(numbered("abs(W)", first=1))) == ["repeat"]
    assert names(other.judge(numbered("abs(W)", first=1))) == ["repeat"]


def test_the_memory_of_another_tier_is_refused() -> None:
    sieve = Sieve(EVERYTHING, Scripted())
    sieve.judge(numbered("abs(W)"))
    with pytest.raises(ConfigError, match="fingerprint, mask, order"):
        Sieve(EVERYTHING, Scripted(), same="key").restore(sieve.noted())
