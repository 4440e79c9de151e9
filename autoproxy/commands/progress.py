"""What a long command tells the view while it works."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands.

    Attributes:
        stage: `statistics`, `baselines`, `search`, `random search`, `finals` or `report`.
        done: Steps of this stage that are done, in the stage's own unit.
        total: Steps of this stage.
        seconds: Since the stage began.
        generation: Of the search.
        funnel: Proposals by what became of them.
        best: Text and value of the best metric so far.
        reference: Name and value of the hand-made metric to beat.
        notice: Something to tell once, such as a cache that was rebuilt.
    """

    stage: str
    done: float = 0.0
    total: float = 0.0
    seconds: float = 0.0
    generation: int = 0
    funnel: Mapping[str, int] = field(default_factory=dict)
    best: tuple[str, float] | None = None
    reference: tuple[str, float] | None = None
    notice: str | None = None

    @property
    def seconds_left(self) -> float | None:
        """Time left of this stage at the pace so far, or None while it cannot be told."""
        if self.done <= 0 or self.total <= 0:
            return None
        return self.seconds * max(0.0, self.total - self.done) / self.done


Show = Callable[[Progress], None]


class Clock:
    """Wall-clock time since it was made; recorded and shown, never decides a value.

    Args:
        before: Seconds that count besides, such as those of a run before it was interrupted.
    """

    def __init__(self, before: float = 0.0) -> None:
        self._start = time.monotonic() - before

    @property
    def seconds(self) -> float:
        """Seconds since this clock was made, and before."""
        return time.monotonic() - self._start
