"""The live view of long work: a screen on a terminal, plain lines anywhere else."""

import contextlib
import io
import sys
import textwrap
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import TextIO, cast

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autoproxy.commands.progress import Progress, Show

PLAIN_EVERY = 10.0
"""Seconds between two lines about one stage where there is no terminal."""

LEAST_BAR = 8
"""Columns below which a progress bar says nothing."""

MOST_BAR = 40
"""Columns beyond which it says no more."""

MOST_NOTES = 100
"""How many notes are kept until the screen is given back."""

NOTES = 3
"""How many of the latest notes are shown on a whole screen."""

TWO_COLUMNS = 90
"""Width from which the funnel stands beside the front."""

GAP = 4
"""Columns between them."""


@contextlib.contextmanager
def progress(
    *, quiet: bool = False, whole: bool = False, file: TextIO | None = None
) -> Iterator[Show]:
    """Show work while it goes on: live on a terminal, plain lines on a pipe.

    Standard error may go away: that ends the view, never the work.

    Args:
        quiet: Show nothing.
        whole: Take the whole screen while it lasts and give it back after, so that no resizing
            leaves traces; without it, a few lines at the place of the cursor.
        file: Where to; by default standard error, so that standard output has the result alone.
    """
    if quiet or (file or sys.stderr) is None:  # a program may be started without standard error
        yield lambda _: None
        return
    console = Console(file=file or cast("TextIO", _Forgiving(sys.stderr)))
    if not console.is_terminal or console.is_dumb_terminal:
        yield _PlainLines(console)
        return
    notes: deque[str] = deque(maxlen=MOST_NOTES)
    view = View(Progress("starting"), notes)
    live = Live(
        view,
        console=console,
        screen=whole,
        transient=True,
        refresh_per_second=2,
        redirect_stdout=False,
        redirect_stderr=not whole,
    )
    heard = contextlib.redirect_stderr(_Heard(notes)) if whole else contextlib.nullcontext()
    try:
        with live, heard:
            yield _Screen(view, None if whole else live, notes)
    finally:
        for note in notes:  # the screen that had them is gone
            _say(console, note)


def still(console: Console, at: Progress) -> None:
    """Print the view of one moment, all of it."""
    console.print(View(at, height=sys.maxsize))


class View:
    """Where work stands, drawn anew for whatever size the terminal has at the time.

    It is never wider nor higher than the terminal. What matters least goes first: the table of
    the funnel becomes a line, then the front loses its simplest formulas.

    Args:
        at: Where it stands.
        notes: What was told besides; the latest are shown.
        height: Lines that it may take; by default those of the terminal.

    >>> console = Console(width=40, height=8, _environ={})
    >>> console.print(View(Progress("search", 3.0, 4.0, 60.0, run="a", best=("abs(W)", 0.5))))
    search: a
    ━━━━━━━━━━━━━╸     3/4, 0:20 left, 3/min
    best 0.5000
    abs(W)
    """

    def __init__(self, at: Progress, notes: Iterable[str] = (), height: int | None = None) -> None:
        self.at = at
        self.notes = notes
        self._height = height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield lines that fit, each cut to the width."""
        height = self._height or console.height
        yield Group(*_lines(self.at, self.notes, options.max_width, height))


class _Screen:
    """Puts what work tells into the view, which a thread of `Live` draws."""

    def __init__(self, view: View, live: Live | None, notes: deque[str]) -> None:
        self._view, self._live, self._notes = view, live, notes

    def __call__(self, at: Progress) -> None:
        if at.notice:
            note = f"note: {at.notice}"
            if self._live:
                _say(self._live.console, note)
            elif note not in self._notes:
                self._notes.append(note)
        before = self._view.at
        if before.run and not at.run:  # a stage that knows nothing of what the search found
            at = replace(
                before,
                stage=at.stage,
                done=at.done,
                total=at.total,
                seconds=at.seconds,
                before=0.0,
                limit=None,
            )
        self._view.at = at


class _Heard(io.TextIOBase):
    """Takes the lines that libraries write to standard error, which would tear the screen."""

    def __init__(self, notes: deque[str]) -> None:
        self._notes = notes
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        shown = (line.rpartition("\r")[2].rstrip() for line in lines)  # a bar's last state alone
        self._notes.extend(line for line in shown if line)
        return len(text)


class _PlainLines:
    """Lines about work: one at each new stage, then one now and then, where there is news."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = ""
        self._warning = ""
        self._told = 0.0
        self._line = ""

    def __call__(self, at: Progress) -> None:
        if at.notice:
            _say(self._console, f"note: {at.notice}")
        if at.warning and at.warning != self._warning:
            _say(self._console, at.warning)
        self._warning = at.warning
        now, line = time.monotonic(), _plain(at)
        if at.stage == self._stage and (now - self._told < PLAIN_EVERY or line == self._line):
            return
        self._stage, self._told, self._line = at.stage, now, line
        _say(self._console, line)


class _Forgiving(io.TextIOBase):
    """A stream that may go away: what is written after that is lost, and nobody is told.

    A search of days must not end because the terminal that it was begun in was closed.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._gone = False

    @property
    def encoding(self) -> str:  # type: ignore[override]  # rich draws ASCII where it must
        return self._stream.encoding

    def isatty(self) -> bool:
        return not self._stream.closed and self._stream.isatty()

    def write(self, text: str) -> int:
        if not self._gone:
            try:
                self._stream.write(text)
            except (OSError, ValueError):  # ValueError: it is closed
                self._gone = True
        return len(text)

    def flush(self) -> None:
        if not self._gone:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._gone = True


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _plain(at: Progress) -> str:
    """Return where work stands as one line."""
    words = [at.stage]
    if at.total:
        words.append(_share(at))
    if at.funnel:
        words.append(f"generation {at.generation}, {_counts(at.funnel)}")
    if at.best:
        words.append(f"best {at.best[1]:.4f} {at.best[0]}")
    if at.reference and at.best:
        words.append(f"{at.reference[0]} {at.reference[1]:.4f}")
    if at.seconds_left is not None:
        words.append(_left(at.seconds_left))
    return "; ".join(words)


def _lines(at: Progress, notes: Iterable[str], width: int, height: int) -> list[RenderableType]:
    """Return what fits, most important first; a table counts as the lines that it has."""
    head: list[RenderableType] = [_line(_title(at), "bold"), *_bar(at, width)]
    head += [_line(text, "yellow") for text in textwrap.wrap(at.warning, width)]
    if at.best:
        value = " ".join(filter(None, ("best", at.objective, f"{at.best[1]:.4f}")))
        beside = f"   {at.reference[0]} {at.reference[1]:.4f}" if at.reference else ""
        head += [_line(value + beside), _line(at.best[0], "green")]
    room = max(0, height - len(head))
    latest = list(notes)[::-1][: min(NOTES, room // 4)]
    told = [_line(note, "dim") for note in reversed(latest)]
    return [*head, *_details(at, width, room - len(told)), *told][:height]


def _details(at: Progress, width: int, room: int) -> Sequence[RenderableType]:
    """Return the funnel and the front in at most `room` lines, beside each other if it is wide."""
    funnel, front = _funnel_rows(at), _front_rows(at)
    if width >= TWO_COLUMNS and front and 0 < len(funnel) <= room:
        left = max(row.cell_len for row in funnel)
        both = Table.grid(padding=(0, GAP, 0, 0))
        both.add_column(width=left)
        both.add_column(width=width - left - GAP)
        for pair in zip_longest(funnel, _last(front, room), fillvalue=Text()):
            both.add_row(*pair)
        return [both]
    if len(funnel) + len(front) > room:
        most = max(1, room // 3)
        told = textwrap.wrap(
            _counts(at.funnel), width, max_lines=most, placeholder=" …", break_on_hyphens=False
        )
        funnel = [_line(text) for text in told]
    return [*funnel, *_last(front, room - len(funnel))][:room]


def _last(rows: Sequence[Text], room: int) -> list[Text]:
    """Return the heading and as many of the last rows as there is room for."""
    if len(rows) <= room:
        return list(rows)
    return [*rows[:1], *rows[len(rows) - room + 1 :]] if room > 1 else []


def _title(at: Progress) -> str:
    words = f"{at.stage}, generation {at.generation}" if at.generation else at.stage
    return f"{words}: {at.run}" if at.run else words


def _bar(at: Progress, width: int) -> list[RenderableType]:
    """Return the bar with as many of the words beside it as leave it a place."""
    if at.total <= 0:
        return []
    share = _share(at)
    left = "" if at.seconds_left is None else _left(at.seconds_left)
    pace = f"{at.a_minute:.3g}/min" if at.run and at.a_minute is not None else ""
    choices = [", ".join(filter(None, words)) for words in ((share, left, pace), (share, left))]
    choices += [left or share]
    text = next((t for t in choices if len(t) + LEAST_BAR + 1 <= width), choices[-1])
    grid = Table.grid(padding=(0, 1))
    bar = max(1, min(MOST_BAR, width - len(text) - 1))
    grid.add_row(ProgressBar(total=at.total, completed=at.done, width=bar), _line(text))
    return [grid]


def _funnel_rows(at: Progress) -> list[Text]:
    """Return a line for each count, with its share as a bar."""
    whole = max(at.funnel.values(), default=0)
    most = max(map(len, at.funnel), default=0)
    digits = len(f"{whole:,}")
    rows = [_line("funnel", "bold")] if whole else []
    for name, count in at.funnel.items():
        rows.append(_line(f"{name:<{most}} {count:>{digits},} {100 * count / whole:>3.0f} %"))
    return rows


def _front_rows(at: Progress) -> list[Text]:
    rows = [_line(f"front: complexity, {at.objective or 'value'}, formula", "bold")]
    rows += [_line(f"{size:>4} {value:>9.4f}  {text}") for size, value, text in at.front]
    return rows if at.front else []


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _share(at: Progress) -> str:
    return f"{at.done:.4g}/{at.total:.4g}"


def _left(seconds: float) -> str:
    return f"{duration(seconds)} left"


def _counts(funnel: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in funnel.items())


def duration(seconds: float) -> str:
    """Return a time in hours, minutes and seconds.

    >>> duration(59.6), duration(3725)
    ('1:00', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
