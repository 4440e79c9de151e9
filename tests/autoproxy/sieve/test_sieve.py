"""The sieve: what each rule must drop and must not, in which order, and that replay agrees."""

import copy
import dataclasses
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoproxy.breeding.grammar import Grammar
from autoproxy.breeding.variation import sprout
from autoproxy.evaluation import Evaluator, Failed, Fingerprint
from autoproxy.language.blindness import Blindness
from autoproxy.language.canonical import key
from autoproxy.language.expression import Expression, constant
from autoproxy.language.parse import parse
from autoproxy.language.simplify import simplest
from autoproxy.language.types import Kind
from autoproxy.sieve.rules import Context, Dropped, Kept, Verdict
from autoproxy.sieve.sieve import RULES, Sieve
from autoproxy.sieve.structure import STRUCTURE_RULES
from autoproxy.spaces import SearchSpace
from evaluators.pruning import PruningEvaluator
from search_spaces.importance import SPACE
from tests.conformance.toy import ToyEvaluator
from tests.evaluators.tiny import tiny_options

EVERYTHING = dataclasses.replace(
    SPACE, terminals=dict.fromkeys(("W", "g", "g_norm", "x_norm", "x_var", "y_norm"), 1)
)


class Scripted(ToyEvaluator):
    """Says what the script says of an expression, and remembers what it was asked.

    Attributes:
        probed: Texts of every call of `behaviour`.
        hashed: Texts of every call of `identity`.
    """

    def __init__(
        self,
        behaviours: Mapping[str, Fingerprint | Failed] | None = None,
        identities: Mapping[str, str | Failed] | None = None,
        *,
        blindness: Blindness = Blindness.ROW,
    ) -> None:
        super().__init__()
        self.blindness = blindness
        self._behaviours = behaviours or {}
        self._identities = identities or {}
        self.probed: list[list[str]] = []
        self.hashed: list[str] = []

    def behaviour(
        self, expressions: Sequence[Expression], reject: float = math.inf
    ) -> list[Fingerprint | Failed]:
        del reject
        texts = [str(expression) for expression in expressions]
        self.probed.append(texts)
        return [self._behaviours.get(text, Fingerprint(text)) for text in texts]

    def identity(self, expression: Expression) -> str | Failed:
        self.hashed.append(str(expression))
        return self._identities.get(str(expression), f"masks of {expression}")


def numbered(*proposals: str | Expression, first: int = 0) -> list[tuple[int, Expression]]:
    parsed = [parse(p) if isinstance(p, str) else p for p in proposals]
    return list(enumerate(parsed, first))


def names(verdicts: Sequence[Verdict]) -> list[str]:
    return ["kept" if isinstance(v, Kept) else v.rule for v in verdicts]


def judged(
    *proposals: str | Expression,
    evaluator: Evaluator | None = None,
    space: SearchSpace = EVERYTHING,
) -> list[str]:
    return names(Sieve(space, evaluator or Scripted()).judge(numbered(*proposals)))


def wide(size: int) -> Expression:
    """Return a formula of an odd size that no simplification shortens."""
    made = parse("W")
    for number in range((size - 1) // 2):
        made = Expression("maximum", (made, parse(("g", "x_norm", "g_norm")[number % 3])))
        made = made if number % 2 else Expression("maximum", (made.operands[1], made.operands[0]))
    assert made.size == size
    return made


# Structure.


def test_limits_are_inclusive() -> None:
    space = dataclasses.replace(EVERYTHING, max_size=9, max_depth=5)
    assert judged(wide(9), space=space) == ["kept"]
    assert judged(wide(11), space=space) == ["limits"]
    deep = "tanh(log(tanh(log(W) + g) + g))"  # of depth seven
    assert judged(f"{deep} + x_norm", space=dataclasses.replace(EVERYTHING, max_depth=8)) == [
        "kept"
    ]
    assert judged(f"{deep} + x_norm", space=dataclasses.replace(EVERYTHING, max_depth=7)) == [
        "limits"
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("mul(noise, W)", "terminals outside the space: noise"),
        ("mul(x_max, h_inv) * W", "terminals outside the space: h_inv, x_max"),
        ("x_norm", "its kind is PerInput, the space asks for Weight"),
        ("row_norm(W)", "its kind is PerOutput, the space asks for Weight"),
        ("2", "its kind is Scalar, the space asks for Weight"),
    ],
)
def test_foreign_terminals_and_kinds_are_dropped_with_words(text: str, reason: str) -> None:
    (verdict,) = Sieve(EVERYTHING, Scripted()).judge(numbered(text))
    assert verdict == Dropped("limits", reason)


@pytest.mark.parametrize(
    "malformed",
    [
        Expression("row_sum", (Expression("x_norm"),)),
        Expression("add", (Expression("W"), Expression("pow", (Expression("g"), constant(9.0))))),
        Expression("pow", (Expression("W"), Expression("x_norm"))),
        Expression("mul", (Expression("W"), Expression("zscore", (parse("all_sum(W)"),)))),
    ],
    ids=str,
)
def test_malformed_trees_are_dropped_and_not_raised(malformed: Expression) -> None:
    assert judged(malformed) == ["limits"]
    assert Sieve(EVERYTHING, Scripted()).novelty(malformed) is None


def test_foreign_primitives_are_no_fault() -> None:
    assert judged("minimum(W, g)", "sigmoid(W) + exp(g)") == ["kept", "kept"]


@pytest.mark.parametrize(
    ("root", "text", "row", "matrix"),
    [
        (Kind.PER_OUTPUT, "y_norm", "varies", "kept"),
        (Kind.PER_OUTPUT, "mul(y_norm, sqrt(y_norm))", "varies", "kept"),
        (Kind.PER_OUTPUT, "row_sum(abs(W))", "kept", "kept"),
        (Kind.SCALAR, "2", "varies", "varies"),
        (Kind.SCALAR, "all_mean(W)", "kept", "kept"),
        (Kind.SCALAR, "block_angle", "kept", "kept"),  # decoder layers are compared
        (Kind.PER_INPUT, "x_norm", "kept", "kept"),
        (Kind.WEIGHT, "mul(x_norm, y_norm)", "kept", "kept"),
    ],
)
def test_something_must_vary_among_what_is_compared(
    root: Kind, text: str, row: str, matrix: str
) -> None:
    space = dataclasses.replace(
        EVERYTHING, root=root, terminals={**EVERYTHING.terminals, "block_angle": 1}
    )
    assert judged(text, space=space) == [row]
    whole = Scripted(blindness=Blindness.MATRIX)
    assert judged(text, space=space, evaluator=whole) == [matrix]


def test_the_reason_says_among_what_nothing_varies() -> None:
    (varies,) = (rule for rule in STRUCTURE_RULES if rule.name == "varies")
    assert varies.judge is not None
    for blindness, group in ((Blindness.ROW, "a row"), (Blindness.MATRIX, "the matrix")):
        reason = varies.judge(parse("2"), 0, Context(EVERYTHING, blindness))
        assert reason == f"it reads no terminal that varies within {group}"


# Algebra.


def test_one_value_is_judged_once() -> None:
    sieve = Sieve(EVERYTHING, Scripted())
    verdicts = sieve.judge(numbered("abs(W)", "neg(neg(abs(W)))", "abs(g)", first=7))
    assert names(verdicts) == ["kept", "repeat", "kept"]
    assert verdicts[1] == Dropped("repeat", "once simplified the same value as slot 7", same_as=7)
    (later,) = sieve.judge(numbered("mul(W, W)", first=30))
    assert later == Dropped("repeat", "once simplified the same value as slot 7", same_as=7)


def test_what_failed_is_known_too() -> None:
    evaluator = Scripted({"sqrt(W) + g": Failed("no"), "add(g, sqrt(W))": Failed("no")})
    sieve = Sieve(EVERYTHING, evaluator)
    assert names(sieve.judge(numbered("g + sqrt(W)", "sqrt(W) + g"))) == ["hopeless", "repeat"]


def test_one_order_by_algebra_is_judged_once() -> None:
    evaluator = Scripted()
    sieve = Sieve(EVERYTHING, evaluator)
    verdicts = sieve.judge(
        numbered("mul(x_norm, y_norm)", "mul(x_norm, row_norm(W))", "mul(x_norm, row_std(W))")
    )
    assert names(verdicts) == ["kept", "same-algebra", "kept"]  # a deviation may be zero
    assert verdicts[1] == Dropped("same-algebra", "by algebra the same order as slot 0", same_as=0)
    matrix = Scripted(blindness=Blindness.MATRIX)
    assert judged("mul(x_norm, y_norm)", "mul(x_norm, row_norm(W))", evaluator=matrix) == [
        "kept",
        "kept",
    ]


def test_the_blindness_is_the_evaluators() -> None:
    texts = ("abs(W)", "mul(abs(W), y_norm)", "mul(abs(W), all_mean(abs(W)))", "mul(abs(W), 2)")
    wanted = {
        Blindness.ROW: ["kept", "repeat", "repeat", "repeat"],
        Blindness.MATRIX: ["kept", "kept", "repeat", "repeat"],
        Blindness.WHOLE: ["kept", "kept", "kept", "kept"],
        Blindness.NOTHING: ["kept", "kept", "kept", "kept"],
    }
    for blindness, verdicts in wanted.items():
        assert judged(*texts, evaluator=Scripted(blindness=blindness)) == verdicts


def test_the_simplest_formula_is_what_is_judged_and_kept() -> None:
    evaluator = Scripted()
    long = "sqrt(add(mul(mul(mul(abs(W), x_norm), y_norm), 2), 10))"
    space = dataclasses.replace(EVERYTHING, max_size=4)
    (verdict,) = Sieve(space, evaluator).judge(numbered(long))
    assert isinstance(verdict, Kept)
    assert str(verdict.expression) == "mul(abs(W), x_norm)"
    assert verdict.key == key(parse("mul(abs(W), x_norm)"))
    assert verdict.identity == "masks of mul(abs(W), x_norm)"
    assert evaluator.probed == [["mul(abs(W), x_norm)"]]


# Behaviour and identity.

FLAT = Failed("constant within every group of real rows")


def test_hopeless_is_what_the_evaluator_cannot_use() -> None:
    evaluator = Scripted(
        {"abs(W)": FLAT}, {"abs(g)": Failed("not finite on layer 3"), "W": "masks"}
    )
    verdicts = Sieve(EVERYTHING, evaluator).judge(numbered("abs(W)", "abs(g)", "W"))
    assert verdicts[:2] == [
        Dropped("hopeless", FLAT.reason),
        Dropped("hopeless", "not finite on layer 3"),
    ]
    assert names(verdicts)[2] == "kept"
    assert evaluator.hashed == ["abs(g)", "W"]  # masks are dear: not for what the probe dropped


def test_one_order_on_real_rows_is_measured_once() -> None:
    evaluator = Scripted({"W": Fingerprint("x"), "g": Fingerprint("x"), "g_norm": Fingerprint("y")})
    verdicts = Sieve(EVERYTHING, evaluator).judge(numbered("W", "g", "g_norm", first=4))
    assert names(verdicts) == ["kept", "same-order", "kept"]
    assert verdicts[1] == Dropped("same-order", "on real rows the same order as slot 4", same_as=4)
    assert evaluator.hashed == ["W", "g_norm"]


def test_one_set_of_masks_is_measured_once() -> None:
    evaluator = Scripted(identities={"W": "m", "g": "m", "g_norm": "n"})
    verdicts = Sieve(EVERYTHING, evaluator).judge(numbered("W", "g", "g_norm", first=4))
    assert names(verdicts) == ["kept", "same-mask", "kept"]
    assert verdicts[1] == Dropped("same-mask", "bit for bit the same masks as slot 4", same_as=4)


def test_what_distorts_too_much_is_dropped_and_what_has_no_distortion_is_not() -> None:
    evaluator = Scripted(
        {
            "W": Fingerprint("a", 1.5),
            "g": Fingerprint("b", 1.4),
            "abs(W)": Fingerprint("c", 0.9),
        }
    )
    proposals = numbered("W", "g", "abs(W)", "g_norm")
    verdicts = Sieve(EVERYTHING, evaluator, reject=1.4).judge(proposals)
    assert names(verdicts) == ["distorting", "kept", "kept", "kept"]
    assert "1.5 times" in str(verdicts[0])
    assert evaluator.hashed == ["g", "abs(W)", "g_norm"]  # masks are dear
    assert names(Sieve(EVERYTHING, evaluator).judge(proposals)) == ["kept"] * 4


# Order, replay, questions.


def test_rules_come_by_cost_and_the_cheapest_speaks_first() -> None:
    assert [rule.cost for rule in RULES] == sorted(rule.cost for rule in RULES)
    assert [rule.name for rule in RULES] == [
        "limits",
        "varies",
        "repeat",
        "same-algebra",
        "hopeless",
        "distorting",
        "same-order",
        "same-mask",
    ]
    evaluator = Scripted({"mul(noise, W)": FLAT, "abs(W)": FLAT})
    faulty = numbered("mul(noise, W)", "mul(noise, W)", "abs(W)", "abs(W)")
    assert names(Sieve(EVERYTHING, evaluator).judge(faulty)) == [
        "limits",
        "limits",  # and no repeat
        "hopeless",
        "repeat",  # and not hopeless again
    ]


def test_verdicts_come_in_the_order_of_the_proposals() -> None:
    evaluator = Scripted({"add(W, g)": FLAT})
    proposals = ("W", "noise", "abs(W)", "W + g", "W", "abs(g)", "x_norm", "sqrt(abs(W))")
    verdicts = Sieve(EVERYTHING, evaluator).judge(numbered(*proposals))
    wanted = ["kept", "limits", "kept", "hopeless", "repeat", "kept", "limits", "repeat"]
    assert names(verdicts) == wanted
    assert [str(v.expression) for v in verdicts if isinstance(v, Kept)] == [
        "W",
        "abs(W)",
        "abs(g)",
    ]
    assert evaluator.probed == [["W", "abs(W)", "add(W, g)", "abs(g)"]]  # one batch


def test_nothing_to_judge_is_no_verdict() -> None:
    assert Sieve(EVERYTHING, Scripted()).judge([]) == []


GRAMMAR = Grammar(SPACE)


def many(seed: int, count: int) -> list[tuple[int, Expression]]:
    rng = random.Random(seed)
    drawn = [sprout(GRAMMAR, rng, low=0, high=3, full=False) for _ in range(count)]
    return list(enumerate(drawn))


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 20), max_size=6))
def test_replay_gives_the_same_verdicts_however_it_is_cut(seed: int, cuts: list[int]) -> None:
    evaluator = ToyEvaluator()
    proposals = many(seed, 50)
    at_once = Sieve(SPACE, evaluator).judge(proposals)
    assert Sieve(SPACE, evaluator).judge(proposals) == at_once
    replayed: list[Verdict] = []
    sieve = Sieve(SPACE, evaluator)
    left = proposals
    for cut in [*cuts, len(proposals)]:
        batch, left = left[:cut], left[cut:]
        replayed += sieve.judge(batch)
    assert replayed == at_once


def test_on_random_formulas_every_kept_one_is_new() -> None:
    verdicts = Sieve(SPACE, ToyEvaluator()).judge(many(0, 400))
    kept = [verdict for verdict in verdicts if isinstance(verdict, Kept)]
    assert len({verdict.key for verdict in kept}) == len(kept)
    assert len({verdict.identity for verdict in kept}) == len(kept)
    for verdict in kept:
        assert SPACE.violation(verdict.expression) is None
        assert simplest(verdict.expression, Blindness.ROW, Kind.WEIGHT) == verdict.expression
    counted = set(names(verdicts))
    assert {"kept", "repeat", "hopeless", "same-order"} <= counted


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_a_question_takes_no_note(seed: int) -> None:
    evaluator = ToyEvaluator()
    proposals = many(seed, 30)
    plain, asked = Sieve(SPACE, evaluator), Sieve(SPACE, evaluator)
    wanted = []
    found = []
    for slot, proposal in proposals:
        for _ in range(2):
            seen = copy.deepcopy(asked._context.seen)
            novelty = asked.novelty(proposal)
            assert asked._context.seen == seen
        wanted += plain.judge([(slot, proposal)])
        found += asked.judge([(slot, proposal)])
        dropped = names(found)[-1]
        assert (novelty is None) == (dropped in {"limits", "varies", "repeat", "same-algebra"})
        assert asked.novelty(proposal) is None  # now it was judged, whatever became of it
    assert found == wanted


def test_what_would_be_known_of_two_proposals_is_one_where_algebra_says_so() -> None:
    sieve = Sieve(EVERYTHING, Scripted())
    one = sieve.novelty(parse("mul(x_norm, y_norm)"))
    assert one is not None
    assert sieve.novelty(parse("mul(row_norm(W), x_norm)")) == one
    assert sieve.novelty(parse("mul(row_std(W), x_norm)")) != one
    assert sieve.novelty(parse("mul(noise, W)")) is None


# A real evaluator.


@pytest.fixture(scope="module")
def pruning(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., PruningEvaluator]:
    folder = tmp_path_factory.mktemp("sieve")

    def made(**changes: Any) -> PruningEvaluator:
        options = tiny_options(folder, **changes)
        return PruningEvaluator.from_options(options, cache=folder / "cache", notice=print)

    return made


REAL = [
    ("abs(W)", "kept"),
    ("mul(abs(W), x_norm)", "kept"),
    ("W * W", "repeat"),
    ("maximum(abs(W), -1)", "same-order"),
    ("maximum(abs(W), 0.05)", "same-mask"),  # what ties goes anyway: it is the smallest
    ("minimum(abs(W), 0.001)", "hopeless"),  # nearly all are tied
    ("minimum(abs(W), 0.1)", "kept"),  # which of the ties stay is another question
    ("sign(W)", "hopeless"),
    ("mul(0, W)", "hopeless"),
    ("add(W, square(exp(mul(abs(W), 1e6))))", "hopeless"),
    ("mul(sign(W), x_norm)", "kept"),
    ("mul(square(W), minmax(g_norm))", "kept"),
    ("div(abs(W), row_sum(abs(W)))", "repeat"),
    ("mul(x_norm, y_norm)", "kept"),
    ("mul(x_norm, row_norm(W))", "same-algebra"),
    ("mul(abs(W), h_inv)", "limits"),
]


def test_on_a_real_model_each_rule_has_its_example(
    pruning: Callable[..., PruningEvaluator],
) -> None:
    with pruning() as evaluator:
        verdicts = Sieve(EVERYTHING, evaluator).judge(numbered(*(text for text, _ in REAL)))
        assert list(zip(names(verdicts), [t for t, _ in REAL], strict=True)) == [
            (wanted, text) for text, wanted in REAL
        ]
        for verdict in verdicts:
            if isinstance(verdict, Kept):
                assert verdict.identity == evaluator.identity(verdict.expression)
        assert {wanted for _, wanted in REAL} == {"kept"} | {
            rule.name for rule in RULES if rule.name not in {"varies", "distorting"}
        }
        again = Sieve(EVERYTHING, evaluator).judge(numbered(*(text for text, _ in REAL)))
        assert again == verdicts


def test_on_a_real_model_the_opposite_of_a_good_metric_is_distorting(
    pruning: Callable[..., PruningEvaluator],
) -> None:
    texts = ("mul(abs(W), x_norm)", "neg(mul(abs(W), x_norm))", "mul(W, x_norm)")
    with pruning() as evaluator:
        verdicts = Sieve(EVERYTHING, evaluator, reject=1.4).judge(numbered(*texts))
    assert names(verdicts) == ["kept", "distorting", "distorting"]
