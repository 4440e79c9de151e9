"""The live view: it fits any terminal, says what matters, and never ends the work."""

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from autoproxy import live
from autoproxy.commands.progress import Progress

ROOT = Path(__file__).parents[2]
FUNNEL = {"proposed": 12345, "limits": 10, "same-algebra": 2000, "screened": 9000, "measured": 1335}
FRONT = [
    (size, 1 - 0.05 * size, f"abs(W) * x_norm ** {size} * " + "y" * 90) for size in range(1, 13)
]
AT = Progress(
    "search",
    done=850.25,
    total=2000.0,
    seconds=4000.0,
    generation=41,
    funnel=FUNNEL,
    best=(FRONT[-1][2], FRONT[-1][1]),
    reference=("wanda", 0.6123),
    run="smollm2-135m-50-row-s0",
    objective="kl",
    front=FRONT,
    warning="interrupted; go on with: autoproxy resume smollm2-135m-50-row-s0",
)


def drawn(at: Progress, width: int, height: int, notes: tuple[str, ...] = ()) -> list[str]:
    console = Console(
        width=width, height=height, file=io.StringIO(), force_terminal=True, _environ={}
    )
    console.print(live.View(at, notes))
    assert isinstance(console.file, io.StringIO)
    return Text.from_ansi(console.file.getvalue()).plain.splitlines()


@pytest.mark.parametrize("height", [1, 3, 8, 24, 50])
@pytest.mark.parametrize("width", [1, 12, 30, 60, 89, 90, 120])
def test_it_is_never_wider_nor_higher_than_the_terminal(width: int, height: int) -> None:
    for at in (AT, Progress("statistics"), Progress("report", 1, 3, 2.0)):
        lines = drawn(at, width, height, ("note: a", "note: b " * 40))
        assert len(lines) <= height
        assert max(map(len, lines)) <= width


def test_what_matters_most_stays_when_there_is_little_room() -> None:
    for width, height in ((30, 8), (60, 8), (120, 8), (30, 24), (60, 24), (120, 24)):
        text = "\n".join(drawn(AT, width, height))
        for word in ("search", "left", "resume", "best kl 0.4000", "wanda 0.6123", "x_norm ** 12"):
            assert word in text, (width, height, word)
        assert "proposed" in text


def test_a_large_terminal_shows_all_of_it() -> None:
    for width in (60, 120):
        lines = drawn(AT, width, 50)
        for name, count in FUNNEL.items():
            assert any(line.startswith(name) and f"{count:,}" in line for line in lines)
        for size, value, _ in FRONT:
            assert any(re.search(rf"\b{size} +{value:.4f}  abs", line) for line in lines)
        assert any("850.2/2000, 1:30:09 left, 12.8/min" in line for line in lines)


def test_a_front_that_does_not_fit_keeps_its_best() -> None:
    text = "\n".join(drawn(AT, 60, 14))
    assert "x_norm ** 12" in text.split("front:")[1]
    assert "x_norm ** 1 " not in text


def test_time_left_is_that_of_the_pace_since_the_run_went_on() -> None:
    """A resumed run did 800 of its steps in another life; and a limit of time may come first."""
    at = Progress("search", done=900.0, before=800.0, total=1000.0, seconds=50.0)
    assert at.seconds_left == pytest.approx(50.0)
    assert at.a_minute == pytest.approx(120.0)
    assert Progress("search", 1.0, 100.0, 10.0, limit=60.0).seconds_left == pytest.approx(50.0)
    assert Progress("search", 5.0, 100.0, 10.0, before=5.0).seconds_left is None


def test_a_pipe_gets_plain_lines_and_each_note_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(live.time, "monotonic", lambda: float(next(clock)))
    with live.progress(whole=True) as show:
        for number in range(9):
            show(Progress("search", number, 9, number, funnel={"proposed": number}))
        show(Progress("report", notice="a [bold]note[/]"))
    lines = capsys.readouterr().err.splitlines()
    heads = [line.split(";")[0] for line in lines]
    assert heads == ["search", "search", "search", "note: a [bold]note[/]", "report"]
    assert lines[1] == "search; 3/9; generation 0, proposed 3; 0:06 left"
    assert "\x1b" not in "".join(lines)


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with live.progress(quiet=True) as show:
        show(Progress("search", notice="a note"))
    assert capsys.readouterr() == ("", "")


def test_standard_error_that_goes_away_does_not_end_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, into = os.pipe()
    os.close(out)  # nobody reads: every write is an error
    broken = os.fdopen(into, "w", buffering=1)
    for stream in (broken, None):
        monkeypatch.setattr(sys, "stderr", stream)
        with live.progress(whole=True) as show:
            show(AT)
            show(Progress("report", notice="a note"))
    monkeypatch.undo()
    with pytest.raises(BrokenPipeError):
        broken.close()  # so it did break


# --- on a real terminal ------------------------------------------------------------------------

WORK = """
import sys, time
from autoproxy import live
from autoproxy.commands.progress import Progress
with live.progress(whole=True) as show:
    show(Progress("search", 1.0, 4.0, 60.0, run="a-run", best=("abs(W) * " + 80 * "x", 0.5)))
    time.sleep(0.8)
    print("careful: a library speaks", file=sys.stderr)
    show(Progress("finals", 1, 2, 1.0, notice="a cache was rebuilt"))
    time.sleep(0.8)
print("the result")
"""


def on_a_terminal(**environment: str) -> tuple[int, str]:
    """Return the exit code and what a terminal of 40 columns and 9 lines was sent."""
    here, there = pty.openpty()
    command = [sys.executable, "-c", WORK]
    plain = {n: v for n, v in os.environ.items() if n not in {"NO_COLOR", "TERM"}}
    size = {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "40", "LINES": "9"}
    with subprocess.Popen(
        command, stdin=there, stdout=there, stderr=there, env={**plain, **size, **environment}
    ) as process:
        os.close(there)
        said = b""
        while True:
            try:
                got = os.read(here, 65536)
            except OSError:  # Linux, when the other end is closed
                break
            if not got:
                break
            said += got
        code = process.wait(30)
    os.close(here)
    return code, said.decode()


def bare(said: str) -> str:
    """Return what was sent without what moves or colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)


def test_the_screen_is_given_back_with_what_was_told_on_it() -> None:
    code, said = on_a_terminal()
    assert code == 0
    taken, after = said.split("\x1b[?1049l")
    assert taken.count("\x1b[?1049h") == 1
    assert "search: a-run" in bare(taken)
    assert "finals: a-run" in bare(taken)
    frames = bare(taken).replace("\r", "").split("\n")
    assert max(map(len, frames)) <= 2 * 40  # a frame begins where the one before ended
    lines = [line for line in bare(after).splitlines() if line.strip()]
    assert lines == ["careful: a library speaks", "note: a cache was rebuilt", "the result"]


def test_a_terminal_without_colours_or_abilities_gets_none() -> None:
    _, said = on_a_terminal(NO_COLOR="1")
    assert "\x1b[?1049h" in said
    assert not re.search(r"\x1b\[(?:\d+;)*[34]\d(?:;\d+)*m", said)
    code, said = on_a_terminal(TERM="dumb")
    assert code == 0
    assert "\x1b" not in said
    assert "search; 1/4" in said
