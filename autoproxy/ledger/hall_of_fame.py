"""The hall of fame: the best individual at each complexity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

from autoproxy.errors import ConfigError
from autoproxy.evaluation import Individual, Objective
from autoproxy.language.parse import parse


@dataclass(frozen=True, slots=True)
class HallOfFame:
    """The best individual ever at each complexity; the lower slot wins between equals.

    Attributes:
        objective: What the values mean.
        by_complexity: One individual for each complexity that had any.

    >>> from autoproxy.evaluation import Direction
    >>> hall = HallOfFame(Objective("kl", "nats", Direction.MINIMIZE))
    >>> hall = hall.add(Individual("abs(W)", "a", 2, 0.5, slot=0))
    >>> hall = hall.add(Individual("abs(g)", "b", 2, 0.7, slot=1))
    >>> [str(individual.expression) for individual in hall.front()]
    ['abs(W)']
    """

    objective: Objective
    by_complexity: Mapping[int, Individual] = field(default_factory=lambda: MappingProxyType({}))

    def add(self, individual: Individual) -> Self:
        """Return the hall of fame after `individual` was seen."""
        known = self.by_complexity.get(individual.complexity)
        if known is not None and not self._precedes(individual, known):
            return self
        held = {**self.by_complexity, individual.complexity: individual}
        return type(self)(self.objective, MappingProxyType(dict(sorted(held.items()))))

    def front(self) -> tuple[Individual, ...]:
        """Return those that no simpler one equals or beats, by rising complexity.

        Values improve strictly along it.
        """
        front: list[Individual] = []
        for complexity in sorted(self.by_complexity):
            individual = self.by_complexity[complexity]
            if not front or self.objective.better(individual.value, front[-1].value):
                front.append(individual)
        return tuple(front)

    def to_json(self) -> list[dict[str, Any]]:
        """Return it as plain values, by rising complexity; floats are exact."""
        return [
            {
                "text": str(individual.expression),
                "key": individual.key,
                "complexity": individual.complexity,
                "value": individual.value,
                "slot": individual.slot,
                "origin": individual.origin,
                "parents": list(individual.parents),
                "details": dict(individual.details),
            }
            for _, individual in sorted(self.by_complexity.items())
        ]

    @classmethod
    def from_json(cls, objective: Objective, rows: Sequence[Mapping[str, Any]]) -> Self:
        """Return the hall of fame that `to_json` wrote.

        Raises:
            ConfigError: The rows are something else.
        """
        hall = cls(objective)
        try:
            for row in rows:
                hall = hall.add(_individual(row))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"this is no hall of fame of AutoProxy ({type(error).__name__}: {error}); give the "
                "`hall_of_fame` list of a run's hall_of_fame.json"
            ) from None
        return hall

    def _precedes(self, a: Individual, b: Individual) -> bool:
        if self.objective.better(a.value, b.value):
            return True
        return a.slot < b.slot and not self.objective.better(b.value, a.value)


def _individual(row: Mapping[str, Any]) -> Individual:
    return Individual(
        text=str(parse(row["text"])),
        key=str(row["key"]),
        complexity=int(row["complexity"]),
        value=float(row["value"]),
        slot=int(row["slot"]),
        origin=str(row["origin"]),
        parents=tuple(row["parents"]),
        details=dict(row["details"]),
    )
