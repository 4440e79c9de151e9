"""A run watched from elsewhere: the view of a search, read off the ledger alone."""

import contextlib
import datetime as dt
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from autoproxy.columns import REFERENCE
from autoproxy.commands import loading
from autoproxy.commands.progress import Clock, Progress
from autoproxy.commands.telling import front_of, shown_funnel
from autoproxy.commands.workspace import RANDOM_SUFFIX, SUMMARY, Workspace
from autoproxy.errors import AutoproxyError, StorageError, unknown_name
from autoproxy.evaluation import Measured, Objective
from autoproxy.language.canonical import canonical, key
from autoproxy.ledger.hall_of_fame import HallOfFame
from autoproxy.ledger.ledger import Ledger
from autoproxy.ledger.standing import Standing

QUIET = 300.0
"""Seconds without news that are told, where generations are short."""

GENERATIONS = 3
"""Generations, at the pace so far, that may pass without news before that is told."""


@dataclass(frozen=True, slots=True)
class Sight:
    """A run as it is seen from elsewhere.

    Attributes:
        progress: What a view shows.
        status: `running`, `interrupted` or `done`.
        seconds: Wall-clock time of the run up to its latest whole generation.
        silent: Seconds since it began or last measured something new.
        summary: File that has its summary once it is done, where it is at work.
    """

    progress: Progress
    status: str
    seconds: float
    silent: float
    summary: str

    @property
    def epilogue(self) -> str:
        """What to do with a run that is done."""
        return (
            f"done; its summary: {self.summary}; its formula: autoproxy export {self.progress.run}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        at = asdict(self.progress)
        front = [{"complexity": c, "value": v, "formula": f} for c, v, f in at["front"]]
        names = ("run", "stage", "done", "total", "generation", "funnel", "new", "objective")
        pairs = {name: at[name] for name in ("best", "reference")}
        return {
            **{name: at[name] for name in names},
            "status": self.status,
            "seconds": self.seconds,
            "seconds_left": self.progress.seconds_left,
            "a_minute": self.progress.a_minute,
            "seconds_since_news": self.silent,
            "best": pairs["best"] and dict(zip(("formula", "value"), pairs["best"], strict=True)),
            "reference": pairs["reference"]
            and dict(zip(("name", "value"), pairs["reference"], strict=True)),
            "front": front,
            "warning": self.progress.warning,
        }


@contextlib.contextmanager
def watching(workspace: Workspace, run: str | None) -> "Iterator[Watch]":
    """Open the ledger of `run` (default: the latest) to read, and watch it there.

    Raises:
        ConfigError: The ledger that it was begun in is not to be found.
        StorageError: There is no ledger or no such run.
    """
    known = workspace.runs()
    name = run or (known[-1] if known else None)
    if name in known:
        workspace, _ = workspace.at_ledger_of(str(name))
    with Ledger.open(workspace.ledger, read_only=True) as ledger:
        yield Watch(ledger, workspace, run)


class Watch:
    """Looks at a run, again and again, without a trace.

    Args:
        ledger: Opened to read.
        workspace: Whose ledger it is.
        run: Name; None for the latest.

    Raises:
        StorageError: There is no such run; the message has the nearest.
    """

    def __init__(self, ledger: Ledger, workspace: Workspace, run: str | None) -> None:
        names = ledger.run_names()
        if not names:
            raise StorageError("the ledger has no run yet; start one: autoproxy search")
        if run is not None and run not in names:
            raise StorageError(unknown_name("run", run, names))
        own = [name for name in names if name.removesuffix(RANDOM_SUFFIX) not in {*names} - {name}]
        self.run = own[-1] if run is None else run
        self._ledger = ledger
        self._folder = workspace.run_folder(self.run)
        self._go_on = workspace.command(f"resume {self.run}")
        self._reference: tuple[str, float] | None = None

    def looks(self, every: float) -> Iterator[Sight]:
        """Yield how the run stands, until it is done; looks take a tenth of the time at most."""
        while True:
            clock = Clock()
            sight = self.look()
            took = clock.seconds
            yield sight
            if sight.status == "done":
                return
            time.sleep(max(every, 9 * took))

    def look(self) -> Sight:
        """Return how the run stands."""
        run = self._ledger.standing(self.run)
        companion = None
        if self.run + RANDOM_SUFFIX in self._ledger.run_names():
            companion = self._ledger.standing(self.run + RANDOM_SUFFIX)
        silent = _silence(run, companion)
        at = self._progress(run, companion)
        at = replace(at, warning=_warning(run, companion, silent, self._go_on))
        return Sight(at, run.status, run.seconds, silent, str(self._folder / SUMMARY))

    def _progress(self, run: Standing, companion: Standing | None) -> Progress:
        """Return what the run's own view shows, as far as the ledger tells."""
        shown, total = run, float(run.config["search"]["evaluations"])
        stage = "search" if run.funnel else "baselines"
        if companion is not None and companion.status != "done" and run.status != "done":
            shown, total, stage = companion, max(1.0, run.spent), "random search"
        elif run.status == "done":
            stage = "done"
        elif run.reported:
            stage = "report"
        elif companion is not None or run.spent >= total - 1e-9:
            stage = "finals"
        hall = HallOfFame(Objective(run.objective, "", run.direction))
        for individual in shown.best:
            hall = hall.add(individual)
        front = front_of(hall)
        minutes = run.config["search"].get("minutes") if stage == "search" else None
        return Progress(
            stage,
            done=shown.spent,
            total=total,
            seconds=shown.seconds,
            generation=shown.generations,
            funnel=shown_funnel({**shown.funnel, "proposed": sum(shown.funnel.values())}),
            best=(front[-1][2], front[-1][1]) if front else None,
            reference=self._measured_reference(run),
            run=self.run,
            objective=run.objective,
            front=front,
            new=shown.new,
            limit=None if minutes is None else 60 * minutes,
        )

    def _measured_reference(self, run: Standing) -> tuple[str, float] | None:
        """Return the hand-made metric to beat, where this installation has the space."""
        if self._reference is None:
            try:
                baselines = {b.name: b for b in loading.space(run.space).baselines}
            except AutoproxyError:  # a plug-in that is installed where the run is
                return None
            if REFERENCE in baselines:
                address = key(canonical(baselines[REFERENCE].expression))
                outcome = self._ledger.recall(address, run.protocol, 1.0)
                if isinstance(outcome, Measured):
                    self._reference = (REFERENCE, outcome.value)
        return self._reference


def _silence(run: Standing, companion: Standing | None) -> float:
    latest = max(one.news for one in (run, companion) if one is not None)
    return max(0.0, (dt.datetime.now(dt.UTC) - latest).total_seconds())


def _warning(run: Standing, companion: Standing | None, silent: float, go_on: str) -> str:
    """Return what is wrong, and what to do; that nothing is heard does not mean that it died."""
    if run.status == "interrupted":
        return f"interrupted; go on with: {go_on}"
    now = companion or run
    usual = GENERATIONS * now.seconds / now.generations if now.generations else 0.0
    if run.status == "running" and silent > max(QUIET, usual):
        return (
            f"no new measurement for {words_of_time(silent)}: it may be at a long one, at values "
            f"that are known, or stopped from outside; if its process is gone, go on with: {go_on}"
        )
    return ""


def words_of_time(seconds: float) -> str:
    """Return a time in its two largest units.

    >>> words_of_time(59), words_of_time(3700), words_of_time(200_000)
    ('59 s', '1 h 1 min', '2 d 7 h')
    """
    for (unit, size), (small, part) in pairwise(_UNITS):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} {seconds % size // part:.0f} {small}"
    return f"{seconds:.0f} s"


_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
