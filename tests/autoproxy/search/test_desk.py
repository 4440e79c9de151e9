"""The desks: what is known is recalled, the rest is measured once, and kept when it arrives."""

import functools
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoproxy.errors import WorkerError
from autoproxy.evaluation import Failed, Measured, Outcome
from autoproxy.language.parse import parse
from autoproxy.search.desk import CrewDesk, Desk, LocalDesk
from autoproxy.search.tasks import Task, climb
from tests.conformance.toy import ToyEvaluator

RUNGS = tuple(number / 6 for number in range(1, 7))


@dataclass
class Book:
    """What is known of one candidate."""

    known: dict[float, Outcome] = field(default_factory=dict)
    kept: list[float] = field(default_factory=list)

    def recall(self, fidelity: float) -> Outcome | None:
        return self.known.get(fidelity)

    def keep(self, fidelity: float, outcome: Outcome) -> None:
        assert fidelity not in self.known, "kept twice, or kept although it was known"
        self.known[fidelity] = outcome
        self.kept.append(fidelity)


class Delayed:
    """Workers whose results arrive when the test says so."""

    def __init__(self, evaluator: ToyEvaluator) -> None:
        self._evaluator = evaluator
        self.sent: list[tuple[Task, Future[list[Outcome]]]] = []

    def submit(self, task: Task) -> "Future[list[Outcome]]":
        future: Future[list[Outcome]] = Future()
        self.sent.append((task, future))
        return future

    def deliver(self, number: int) -> None:
        task, future = self.sent[number]
        if future.set_running_or_notify_cancel():
            future.set_result(list(climb(self._evaluator, task)))


def plain(outcomes: Iterator[Outcome] | list[Outcome]) -> list[tuple[object, ...]]:
    """Outcomes as values that compare without the time they took."""
    return [
        (o.value, o.fidelity, dict(o.details)) if isinstance(o, Measured) else (o.reason,)
        for o in outcomes
    ]


def toy() -> ToyEvaluator:
    return ToyEvaluator(rungs=RUNGS)


def crew() -> tuple[CrewDesk, Delayed]:
    workers = Delayed(toy())
    return CrewDesk(workers.submit, ToyEvaluator.objective), workers


GOOD, BAD, BROKEN = "abs(W)", "neg(abs(W))", "square(" * 12 + "W * 100" + ")" * 12


@functools.cache
def rival() -> tuple[float, ...]:
    (found,) = toy().measure([parse(GOOD)], 1.0)
    assert isinstance(found, Measured)
    return found.blocks


def test_a_local_desk_measures_nothing_before_it_is_asked_and_no_step_too_far() -> None:
    evaluator, book = toy(), Book()
    work = LocalDesk(evaluator).begin(Task(GOOD, RUNGS), book.recall, book.keep)
    assert evaluator.measured == []
    outcomes = work.outcomes()
    for number, fidelity in enumerate(RUNGS[:3], 1):
        next(outcomes)
        assert book.kept == list(RUNGS[:number])
        assert evaluator.measured == [(GOOD, f) for f in RUNGS[:number]], fidelity
    outcomes.close()  # type: ignore[attr-defined]
    assert len(evaluator.measured) == 3


@settings(max_examples=40)
@given(st.sampled_from([GOOD, BAD, BROKEN]), st.integers(0, 6), st.booleans(), st.booleans())
def test_both_desks_say_what_climbing_says_whatever_was_known(
    text: str, known: int, raced: bool, ahead: bool
) -> None:
    task = Task(text, RUNGS, rival() if raced else ())
    expected = list(climb(toy(), task))
    book = Book(dict(zip(RUNGS[:known], expected, strict=False)))
    desk: Desk
    if ahead:
        desk, workers = crew()
    else:
        desk = LocalDesk(toy())
    work = desk.begin(task, book.recall, book.keep)
    if ahead:
        assert len(workers.sent) == (known < len(expected))
        for number in range(len(workers.sent)):
            assert not work.done
            workers.deliver(number)
    assert work.done
    assert plain(work.outcomes()) == plain(expected)
    assert plain(list(book.known.values())) == plain(expected)
    assert book.kept == list(RUNGS[min(known, len(expected)) : len(expected)])
    assert plain(work.outcomes()) == plain(expected)  # asked again: nothing is kept twice


def test_the_rival_stops_the_bad_one_early_else_these_tests_show_nothing() -> None:
    assert len(list(climb(toy(), Task(BAD, RUNGS, rival())))) < len(RUNGS)
    assert len(list(climb(toy(), Task(BAD, RUNGS)))) == len(RUNGS)
    assert isinstance(next(climb(toy(), Task(BROKEN, RUNGS))), Failed)


def test_what_arrives_is_kept_though_its_turn_is_far_off() -> None:
    desk, workers = crew()
    books = [Book(), Book(), Book()]
    works = [desk.begin(Task(GOOD, RUNGS), book.recall, book.keep) for book in books]
    assert [work.done for work in works] == [False] * 3
    workers.deliver(2)
    desk.wait()
    assert [len(book.kept) for book in books] == [0, 0, len(RUNGS)]
    assert [work.done for work in works] == [False, False, True]
    workers.deliver(0)
    assert works[0].done
    assert len(books[0].kept) == len(RUNGS)  # by asking alone
    workers.deliver(1)
    desk.wait()
    desk.wait()  # nothing is under way: it returns
    assert [len(book.kept) for book in books] == [len(RUNGS)] * 3


@settings(max_examples=40)
@given(st.permutations(range(6)), st.lists(st.booleans(), min_size=6, max_size=6))
def test_any_order_of_arrival_keeps_everything_once(order: list[int], ask: list[bool]) -> None:
    desk, workers = crew()
    books = [Book() for _ in order]
    works = [desk.begin(Task(GOOD, RUNGS[:2]), book.recall, book.keep) for book in books]
    for number in order:
        workers.deliver(number)
        if ask[number]:
            desk.wait()
    for work in works:
        assert len(list(work.outcomes())) == 2
    assert [book.kept for book in books] == [list(RUNGS[:2])] * len(books)


def test_an_error_is_raised_when_its_turn_comes_and_nothing_of_it_is_kept() -> None:
    desk, workers = crew()
    good, bad = Book(), Book({RUNGS[0]: Measured(0.5, RUNGS[0])})
    works = [desk.begin(Task(GOOD, RUNGS), book.recall, book.keep) for book in (good, bad)]
    workers.sent[1][1].set_exception(WorkerError("no memory"))
    desk.wait()
    assert works[1].done
    workers.deliver(0)
    assert len(list(works[0].outcomes())) == len(RUNGS)
    outcomes = works[1].outcomes()
    assert next(outcomes) == Measured(0.5, RUNGS[0])
    with pytest.raises(WorkerError, match="no memory"):
        next(outcomes)
    assert bad.kept == []


def test_what_is_dropped_is_cancelled_and_never_kept() -> None:
    desk, workers = crew()
    books = [Book(), Book()]
    works = [desk.begin(Task(GOOD, RUNGS), book.recall, book.keep) for book in books]
    workers.sent[0][1].set_running_or_notify_cancel()  # a worker has it
    desk.drop()
    assert workers.sent[1][1].cancelled()
    assert works[1].done
    with pytest.raises(CancelledError):
        next(works[1].outcomes())
    task, future = workers.sent[0]
    future.set_result(list(climb(toy(), task)))
    desk.wait()
    after = Book()
    work = desk.begin(Task(GOOD, RUNGS[:1]), after.recall, after.keep)
    workers.deliver(2)
    assert len(list(work.outcomes())) == 1
    assert [book.kept for book in books] == [[], []]


def test_what_had_arrived_is_kept_when_the_rest_is_dropped() -> None:
    """A run that time ends asks nothing any more, and what was measured is dear."""
    desk, workers = crew()
    books = [Book(), Book(), Book()]
    works = [desk.begin(Task(GOOD, RUNGS), book.recall, book.keep) for book in books]
    workers.deliver(1)
    workers.sent[2][1].set_exception(WorkerError("no memory"))
    desk.drop()
    assert [book.kept for book in books] == [[], list(RUNGS), []]
    assert works[0].done
    assert workers.sent[0][1].cancelled()


def test_only_the_desk_for_workers_is_ahead() -> None:
    assert crew()[0].ahead
    assert not LocalDesk(toy()).ahead
