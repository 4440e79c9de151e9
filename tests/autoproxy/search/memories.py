"""A memory of a search that keeps everything in a dictionary, and may refuse to go on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from autoproxy.evaluation import Individual, Outcome
from autoproxy.search.fate import Fate
from autoproxy.search.state import Step
from autoproxy.sieve.rules import Kept

Address = tuple[str, str, float]


class Interrupted(Exception):  # noqa: N818 - no error of the product
    """What stands for a power cut."""


@dataclass(slots=True)
class DictMemory:
    """Outcomes by key, protocol and fidelity, and the fates in order.

    Attributes:
        known: What was measured, by anybody.
        fates: What became of each slot, in the order that it was told.
        recalled: How often an outcome was known.
        done: The generations that were done, in order.
        patience: After how many more outcomes to keep it raises; None for never.
    """

    known: dict[Address, Outcome] = field(default_factory=dict)
    fates: list[Fate] = field(default_factory=list)
    recalled: int = 0
    patience: int | None = None
    done: list[Step] = field(default_factory=list)

    def recall(self, key: str, protocol: str, fidelity: float) -> Outcome | None:
        found = self.known.get((key, protocol, fidelity))
        self.recalled += found is not None
        return found

    def keep(self, kept: Kept, protocol: str, fidelity: float, outcome: Outcome) -> None:
        address = (kept.key, protocol, fidelity)
        assert address not in self.known, f"{kept.expression} was measured twice"
        self.known[address] = outcome
        if self.patience is not None:
            self.patience -= 1
            if self.patience <= 0:
                raise Interrupted

    def note(self, fate: Fate) -> None:
        self.fates.append(fate)

    def settle(self) -> None:
        pass

    def advance(self, step: Step) -> None:
        self.done.append(step)

    def steps(self) -> tuple[list[Step], Callable[[int], Individual]]:
        return [], {}.__getitem__


def without_time(known: Mapping[Address, Outcome]) -> dict[Address, tuple[str, object]]:
    """Return outcomes as values that compare without the time they took."""
    return {
        address: (type(outcome).__name__, getattr(outcome, "value", None))
        for address, outcome in known.items()
    }
