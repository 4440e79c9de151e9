"""The state of a search: all that its next step depends on."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar, overload

from autoproxy.evaluation import Individual, Objective

T = TypeVar("T")

WINDOW = 2000
"""How many of the latest screened values a new one is ranked among."""


class Archive(Sequence[Individual]):
    """Everybody measured in full, in order: a tuple that grows without being copied.

    >>> one = Archive().grown([Individual("W", "k", 1, 0.5, 0)])
    >>> two = one.grown([Individual("g", "l", 1, 0.4, 1)])
    >>> len(one), len(two), two.of_slot(1).text
    (1, 2, 'g')
    """

    def __init__(
        self, members: Iterable[Individual] = (), places: dict[int, int] | None = None
    ) -> None:
        # With `places` both are those of the archive that this one grew from: nobody is copied.
        if places is None or not isinstance(members, list):
            members = list(members)
            places = {member.slot: place for place, member in enumerate(members)}
        self._members, self._places = members, places
        self._count = len(members)

    def grown(self, members: Sequence[Individual]) -> Self:
        """Return this archive with some more at its end."""
        if self._count < len(self._members):  # another one grew from it before
            return type(self)((*self, *members))
        for member in members:
            self._places[member.slot] = len(self._members)
            self._members.append(member)
        return type(self)(self._members, self._places)

    def of_slot(self, slot: int) -> Individual:
        """Return who was proposed in a slot.

        Raises:
            KeyError: Nobody of this archive was.
        """
        place = self._places[slot]
        if place >= self._count:
            raise KeyError(slot)
        return self._members[place]

    @overload
    def __getitem__(self, place: int) -> Individual: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Individual, ...]: ...
    def __getitem__(self, place: int | slice) -> Individual | tuple[Individual, ...]:
        if isinstance(place, slice):
            chosen = range(*place.indices(self._count))
            return tuple(self._members[i] for i in chosen)
        if not -self._count <= place < self._count:
            raise IndexError(place)
        return self._members[place % self._count]

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Individual]:
        return (self._members[place] for place in range(self._count))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Archive) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as long as a run, and never a key


@dataclass(frozen=True, slots=True)
class Step:
    """What one whole generation changed, as plain values: a run is resumed from these alone.

    Attributes:
        generation: Its number.
        island: Whose turn it was.
        slot: Number of the next proposal after it.
        spent: Budget that it spent.
        rung: Which of the cheap fidelities screened it.
        screened: Values of that rung, in order.
        born: Slots of those that it measured in full, in order.
        population: Slots of those that stay on its island, in order.
        new: Share of its proposals that were no repetition.
        seen: What the sieve noted while it was bred: for each way of being the same, digests and
            the slot that had each first.
        finished: Why the search ended with it, where no budget but a clock or the memory in use
            ended it: what comes of those would not repeat itself. Else None.
    """

    generation: int
    island: int
    slot: int
    spent: float
    rung: int
    screened: tuple[float, ...]
    born: tuple[int, ...]
    population: tuple[int, ...]
    new: float
    seen: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    finished: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON types, but for its generation."""
        end = {} if self.finished is None else {"finished": self.finished}
        return {
            "island": self.island,
            "slot": self.slot,
            "spent": self.spent,
            "rung": self.rung,
            "screened": list(self.screened),
            "born": list(self.born),
            "population": list(self.population),
            "new": self.new,
            "seen": {way: dict(digests) for way, digests in self.seen.items()},
            **end,
        }

    @classmethod
    def from_json(cls, generation: int, row: Mapping[str, Any]) -> Self:
        """Return the step that `to_json` wrote."""
        plain = {name: tuple(row[name]) for name in ("screened", "born", "population")}
        return cls(generation, **{**row, **plain})


@dataclass(frozen=True, slots=True)
class SearchState:
    """All that the next generation depends on, beside what the sieve has seen.

    Attributes:
        generation: Generations done.
        slot: Number of the next proposal after them.
        spent: Budget spent, in full evaluations.
        islands: Who may breed, on each island.
        archive: Everybody measured in full, in order.
        best: The best of them by value, the earlier of equals.
        improved: What had been spent when it was found.
        idle: Generations since anything was new: since a candidate came through the sieve, and
            was paid for, on whatever rung.
        new: Share of new ones among the proposals of each island's latest generation.
        rung: Which of the evaluator's cheap fidelities screens.
        screened: The latest values of that rung; a new one is promoted by its rank among them.
        finished: Why the search is over, or None.
    """

    generation: int = 0
    slot: int = 0
    spent: float = 0.0
    islands: tuple[tuple[Individual, ...], ...] = ((),)
    archive: Archive = field(default_factory=Archive)
    best: Individual | None = None
    improved: float = 0.0
    idle: int = 0
    new: tuple[float, ...] = (1.0,)
    rung: int = 0
    screened: tuple[float, ...] = ()
    finished: str | None = None

    @classmethod
    def start(cls, islands: int) -> Self:
        """Return the state of a search that did nothing yet."""
        return cls(islands=((),) * islands, new=(1.0,) * islands)

    @property
    def population(self) -> tuple[Individual, ...]:
        """Who may breed, of all islands."""
        return tuple(individual for island in self.islands for individual in island)

    def after(
        self, step: Step, who: Callable[[int], Individual], objective: Objective
    ) -> "SearchState":
        """Return the state after a generation.

        Args:
            step: What it changed.
            who: Gives the individual of a slot, for those that were born in it.
            objective: What values mean.
        """
        born = tuple(who(slot) for slot in step.born)
        archive = self.archive.grown(born)
        best, improved = self.best, self.improved
        for individual in born:
            if best is None or objective.better(individual.value, best.value):
                best, improved = individual, self.spent + step.spent
        rung = max(self.rung, step.rung)
        kept = self.screened if rung == self.rung else ()
        told = step.screened if rung == step.rung else ()
        stay = tuple(archive.of_slot(slot) for slot in step.population)
        return replace(
            self,
            generation=step.generation + 1,
            slot=step.slot,
            spent=self.spent + step.spent,
            islands=_with(self.islands, step.island, stay),
            archive=archive,
            best=best,
            improved=improved,
            idle=0 if step.spent else self.idle + 1,
            new=_with(self.new, step.island, step.new),
            rung=rung,
            screened=(*kept, *told)[-WINDOW:],
            finished=step.finished,
        )

    def stop(self, island: int, why: str) -> Step:
        """Return the step that ends a search here and changes nothing else.

        Args:
            island: Whose turn it is.
            why: Why it ends.
        """
        return Step(
            generation=self.generation,
            island=island,
            slot=self.slot,
            spent=0.0,
            rung=self.rung,
            screened=(),
            born=(),
            population=tuple(individual.slot for individual in self.islands[island]),
            new=self.new[island],
            finished=why,
        )

    def finish(self, why: str) -> "SearchState":
        """Return this state, over."""
        return replace(self, finished=why)


def _with(values: tuple[T, ...], place: int, value: T) -> tuple[T, ...]:
    return (*values[:place], value, *values[place + 1 :])
