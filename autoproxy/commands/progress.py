"""What a long command tells the view while it works."""

import time
from collections.abc import Callable, Mapping, Sequence
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
        run: Name of the run.
        objective: Name of what the values measure.
        front: Complexity, value and formula of each metric that no simpler one equals or beats.
        new: Share of the latest generation's proposals that were no repetition.
        before: Steps that were done before `seconds` began to count: those of a resumed run.
        limit: Seconds that this stage may take.
        warning: What is wrong as it stands, such as a run that was interrupted.
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
    run: str = ""
    objective: str = ""
    front: Sequence[tuple[int, float, str]] = ()
    new: float | None = None
    before: float = 0.0
    limit: float | None = None
    warning: str = ""

    @property
    def a_minute(self) -> float | None:
        """Steps a minute so far, or None while it cannot be told.

        >>> Progress("search", done=30.0, before=10.0, seconds=60.0).a_minute
        20.0
        """
        own = self.done - self.before
        return 60 * own / self.seconds if own > 0 and self.seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Time left of this stage at the pace so far, or None while it cannot be told."""
        pace = self.a_minute
        ends = [] if self.limit is None else [max(0.0, self.limit - self.seconds)]
        if pace is not None and self.total > 0:
            ends.append(60 * max(0.0, self.total - self.done) / pace)
        return min(ends, default=None)


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
