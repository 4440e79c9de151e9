"""The loop of the search: breed, measure, select; one state after another."""

import bisect
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from autoproxy.evaluation import (
    Evaluator,
    Individual,
    Measured,
    Outcome,
    by_block,
    content_hash,
)
from autoproxy.search.breeder import Breeder, Brood
from autoproxy.search.config import SearchConfig
from autoproxy.search.desk import Desk, LocalDesk, Work
from autoproxy.search.fate import Memory, fate_of, individual_of
from autoproxy.search.replacement import staying
from autoproxy.search.state import SearchState, Step
from autoproxy.search.tasks import Task
from autoproxy.sieve.rules import Kept
from autoproxy.spaces import SearchSpace

T = TypeVar("T")


@dataclass(slots=True)
class Flight:
    """A generation under way: what was bred, and what was asked about it.

    All that is decided about it depends on the state that it was bred from and on its own
    outcomes alone, so that several may be under way at once.

    Attributes:
        brood: What was bred.
        left: What was left of the budget when it was bred.
        screens: The cheap measurement of each candidate that this can pay for; none where no rung
            screens.
        races: The dear measurement of each that was promoted, by its place among the candidates,
            as far as the budget may last; None until it is known who is.
    """

    brood: Brood
    left: float
    screens: list[Work]
    races: dict[int, Work] | None = None


class Search:
    """A search over one space with one evaluator.

    Args:
        space: Where to look.
        evaluator: How good a candidate is.
        memory: Where outcomes are kept and looked up.
        config: How to look.
        stop: Says why to end before the budget is spent, or None; asked between measurements.
        desk: Who measures; by default this process, one candidate after another.
    """

    def __init__(
        self,
        space: SearchSpace,
        evaluator: Evaluator,
        memory: Memory,
        config: SearchConfig,
        stop: Callable[[], str | None] = lambda: None,
        desk: Desk | None = None,
    ) -> None:
        self._evaluator = evaluator
        self._memory = memory
        self._config = config
        self._stop = stop
        self._desk = desk or LocalDesk(evaluator)
        self._breeder = Breeder(space, evaluator, config, memory.note)
        self._protocol = content_hash(evaluator.protocol())

    def run(self) -> Iterator[SearchState]:
        """Yield the state after each generation, until the budget is spent.

        It is deterministic, and goes on where the memory's record of it ends: whole generations
        are taken from the record without breeding or judging anything again, and of those that
        were under way nothing is measured twice.
        """
        bases = self._recorded()
        state = self._unless_over(bases[-1])
        if state.finished:
            yield state
            return
        flights = deque(self._launch(base) for base in bases)
        while state.finished is None:
            state = self._land(flights, state)
            if state.finished:
                self._memory.settle()
            yield state
            if state.finished is None:
                flights.append(self._launch(state))
        self._desk.drop()

    def _recorded(self) -> list[SearchState]:
        """Return the states that the generations under way are bred from, the latest last.

        Generation g is bred from the state after g - lag generations, or from the start.
        """
        states = [SearchState.start(self._config.islands)] * (self._config.lag + 1)
        steps, who = self._memory.steps()
        for step in steps:
            self._breeder.skip(step)
            after = states[-1].after(step, who, self._evaluator.objective)
            states = [*states[1:], after]
        return states

    def _launch(self, base: SearchState) -> Flight:
        """Breed the next generation from a state, and ask for its first measurements."""
        flight = Flight(self._breeder.breed(base), self._config.evaluations - base.spent, [])
        if screening := self._screening(flight):
            kept = _payable(flight.brood.kept, screening, flight.left)
            flight.screens = [self._ask(candidate, (screening,), None) for _, candidate in kept]
        if self._desk.ahead:
            self._race_when_screened(flight)
        return flight

    def _screening(self, flight: Flight) -> float:
        """Return the fidelity that screens a generation; 0 where none does, or can be trusted."""
        *cheap, _ = self._evaluator.fidelities
        rung = flight.brood.step.rung
        return cheap[rung] if rung < len(cheap) else 0.0

    def _ask(self, candidate: Kept, fidelities: Sequence[float], rival: Individual | None) -> Work:
        """Begin to measure a candidate."""
        task = Task(
            text=str(candidate.expression),
            fidelities=tuple(fidelities),
            rival=by_block(rival.details) if rival else (),
        )
        recall = partial(self._memory.recall, candidate.key, self._protocol)
        return self._desk.begin(task, recall, partial(self._memory.keep, candidate, self._protocol))

    def _land(self, flights: deque[Flight], state: SearchState) -> SearchState:
        """Return the state after the oldest generation under way.

        What it measured is charged and told in the order of its slots, whoever measured it when,
        so that the end of the budget falls on the same measurement for any number of workers.
        That end is not recorded, since it comes again; one by `stop` would not, and is.
        """
        if self._desk.ahead and (why := self._wait_for(flights)):
            return self._advance(state, state.stop(flights[0].brood.step.island, why), ())
        flight = flights.popleft()
        brood = flight.brood
        bill = _Bill(state.spent, self._config.evaluations, self._stop)
        outcomes = _taken(flight.screens, bill, self._screening(flight))
        promoted = self._promoted(flight, outcomes)
        cut = bill.stopped is not None and len(outcomes) < len(flight.screens)
        if not cut:
            self._note_screened(flight, outcomes, promoted)
        born = self._raced(flight, promoted, bill)
        step = replace(
            brood.step,
            spent=bill.charged,
            screened=tuple(o.value for o in outcomes if isinstance(o, Measured)),
            born=tuple(individual.slot for individual in born),
            population=staying(brood.step, state, born, self._config, self._evaluator.objective),
            finished=bill.stopped,
        )
        if bill.exhausted:
            return self._after(state, step, born).finish(bill.exhausted)
        after = self._advance(state, step, born)
        if cut:  # told behind the end: without it a part of a rung would be ranked otherwise
            self._note_screened(flight, outcomes, promoted)
        return self._unless_over(after)

    def _advance(self, state: SearchState, step: Step, born: Sequence[Individual]) -> SearchState:
        """Put a generation on record, and return the state after it."""
        self._memory.advance(step)
        return self._after(state, step, born)

    def _after(self, state: SearchState, step: Step, born: Sequence[Individual]) -> SearchState:
        people = {individual.slot: individual for individual in born}
        return state.after(step, people.__getitem__, self._evaluator.objective)

    def _wait_for(self, flights: deque[Flight]) -> str | None:
        """Wait until the oldest generation is measured; begin races meanwhile, of any."""
        while flights[0].races is None or not all(w.done for w in flights[0].races.values()):
            self._desk.wait()
            for flight in flights:
                self._race_when_screened(flight)
            if why := self._stop():
                return why
        return None

    def _race_when_screened(self, flight: Flight) -> None:
        if flight.races is None and all(work.done for work in flight.screens):
            outcomes = [next(work.outcomes()) for work in flight.screens]
            self._begin_races(flight, self._promoted(flight, outcomes))

    def _begin_races(self, flight: Flight, promoted: Sequence[int]) -> dict[int, Work]:
        steps, rival, screening = self._dearer(flight), flight.brood.rival, self._screening(flight)
        left = flight.left - screening * len(flight.screens)
        races = {
            place: self._ask(flight.brood.kept[place][1], steps, rival)
            for place in _payable(promoted, steps[0] - screening, left)
        }
        flight.races = races
        return races

    def _dearer(self, flight: Flight) -> tuple[float, ...]:
        """Return the fidelities of a race: the last one alone where there is nobody to beat."""
        dearer = [f for f in self._evaluator.fidelities if f > self._screening(flight)]
        return tuple(dearer if flight.brood.rival else dearer[-1:])

    def _promoted(self, flight: Flight, outcomes: Sequence[Outcome]) -> list[int]:
        """Return the places of those that a cheap rung ranks among the best so far."""
        if not self._screening(flight):
            return list(range(len(flight.brood.kept)))
        sign = self._evaluator.objective.sign
        values = [o.value for o in outcomes if isinstance(o, Measured)]
        ranked = sorted(sign * value for value in (*flight.brood.screened, *values))
        bar = max(1, round(self._config.promote * len(ranked)))
        return [
            place
            for place, o in enumerate(outcomes)
            if isinstance(o, Measured) and bisect.bisect_left(ranked, sign * o.value) < bar
        ]

    def _note_screened(
        self, flight: Flight, outcomes: Sequence[Outcome], promoted: Sequence[int]
    ) -> None:
        for place, outcome in enumerate(outcomes):
            if place not in promoted:
                self._note(flight, place, outcome, "screened")

    def _raced(self, flight: Flight, promoted: Sequence[int], bill: "_Bill") -> list[Individual]:
        """Take the dear measurements, in order, and return who was measured in full."""
        races = flight.races
        if races is None:
            races = self._begin_races(flight, promoted)
        born = []
        for place in promoted:
            if bill.finished:
                break
            steps = zip(self._dearer(flight), races[place].outcomes(), strict=False)
            outcome = _dearest(steps, bill, self._screening(flight))
            if isinstance(outcome, Measured) and outcome.fidelity == 1:
                kept = flight.brood.kept[place]
                born.append(individual_of(*kept, outcome, flight.brood.step.generation))
                self._note(flight, place, outcome, "measured")
            else:
                self._note(flight, place, outcome, "raced")
        return born

    def _note(self, flight: Flight, place: int, outcome: Outcome, fate: str) -> None:
        proposal, candidate = flight.brood.kept[place]
        self._memory.note(fate_of(proposal, flight.brood.step.generation, candidate, outcome, fate))

    def _unless_over(self, state: SearchState) -> SearchState:
        """Return the state, finished where nothing is to be hoped for."""
        if state.finished:
            return state
        if state.idle >= _IDLE_GENERATIONS:
            return state.finish(f"nothing new in {state.idle} generations")
        patience = self._config.patience
        if patience is not None and state.spent - state.improved >= patience:
            return state.finish(f"nothing better in {state.spent - state.improved:g} evaluations")
        return state


class _Bill:
    """What a generation spends, and whether the search ends on the way.

    Attributes:
        charged: What it spent so far.
        exhausted: Why the search ends by its budget, or None.
        stopped: Why it ends by anything else, or None.
    """

    def __init__(self, spent: float, limit: float, stop: Callable[[], str | None]) -> None:
        self._left = limit - spent
        self._stop = stop
        self.charged = 0.0
        self.exhausted: str | None = None
        self.stopped: str | None = None

    @property
    def finished(self) -> bool:
        """Whether the search ends with this generation."""
        return bool(self.exhausted or self.stopped)

    def pay(self, amount: float) -> None:
        self.charged += amount
        if self.charged >= self._left - 1e-9:
            self.exhausted, self.stopped = "the budget of evaluations is spent", None
        else:
            self.stopped = self._stop()


def _payable(wanted: Sequence[T], price: float, left: float) -> Sequence[T]:
    """Return the first of what is wanted, up to the one that uses up what is left.

    >>> _payable("abcdef", 0.25, 0.6), _payable("abcdef", 0.25, math.inf), _payable("ab", 1, 0)
    ('abc', 'abcdef', '')
    """
    return wanted if price * len(wanted) <= left else wanted[: max(0, math.ceil(left / price))]


def _taken(screens: Sequence[Work], bill: _Bill, fidelity: float) -> list[Outcome]:
    """Return the outcomes of the cheap rung, as many as are paid for."""
    outcomes = []
    for work in screens:
        if bill.finished:
            break
        (outcome,) = work.outcomes()
        outcomes.append(outcome)
        bill.pay(fidelity)
    return outcomes


def _dearest(steps: Iterable[tuple[float, Outcome]], bill: _Bill, paid: float) -> Outcome:
    """Return the last outcome of a race that is paid for: each is charged for what is new."""
    outcomes = []
    for fidelity, outcome in steps:
        outcomes.append(outcome)
        bill.pay(fidelity - paid)
        paid = fidelity
    return outcomes[-1]


_IDLE_GENERATIONS = 25
"""Generations without a new candidate after which the space is taken to be exhausted."""


def finalists(state: SearchState, count: int, sign: float) -> tuple[Individual, ...]:
    """Return the `count` best individuals by value, to be re-ranked on fresh blocks."""
    ranked = sorted(state.archive, key=lambda i: (sign * i.value, i.complexity, i.slot))
    return tuple(ranked[:count])
