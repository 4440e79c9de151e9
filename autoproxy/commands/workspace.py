"""The results folder: where the ledger, the runs, the metrics and the leaderboard lie."""

import contextlib
import errno
import json
import os
import re
import secrets
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from autoproxy.errors import ConfigError, StorageError, unknown_name
from autoproxy.ledger.connection import without_account
from autoproxy.ledger.ledger import Ledger

SUMMARY = "summary.json"
"""File in a run's folder that says what it found; a run that is done has it."""

ARCHIVE = "archive.csv"
"""File in the folder of a run that is done, which goes where its ledger does not."""

RANDOM_ARCHIVE = "random.csv"
"""The same of its companion run of random search, if there was one."""

RANDOM_SUFFIX = ".random"
"""The companion run of random search has the run's name with this at its end."""

_USUAL = Path("results")
"""The results folder where none is named."""

_LEDGER = "ledger.sqlite"
_LEDGER_NOTE = "ledger.txt"
"""File in a run's folder that says where its ledger is, where that is not the results folder."""

_LONGEST = 80
"""Characters of a name that is made, which leaves room for a seed and a number."""

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folder that `--results` names, made when it is first written to.

    Attributes:
        folder: `ledger.sqlite`, `leaderboard.md`, `leaderboard.csv`, `metrics/`, `runs/`, and
            `cache/` for statistics.
        place: Where the ledger is instead, an SQLite file or a database URL.
    """

    folder: Path
    place: str | None = None

    @property
    def ledger(self) -> Path | str:
        """The database of every evaluation."""
        return self.place or self.folder / _LEDGER

    @property
    def reports(self) -> Path:
        """Every row of the leaderboard as text, which version control keeps."""
        return self.folder / "reports.jsonl"

    @property
    def cache(self) -> Path:
        """Statistics of models; safe to delete."""
        return self.folder / "cache"

    @property
    def benchmarks(self) -> Path:
        """Tables of networks that were fetched or built."""
        return self.folder / "benchmarks"

    @property
    def tasks(self) -> Path:
        """Every accuracy on zero-shot tasks, one line of JSON a metric, model and set of tasks."""
        return self.folder / "tasks.jsonl"

    @property
    def metrics(self) -> Path:
        """Discovered metrics as Python functions."""
        return self.folder / "metrics"

    def command(self, words: str) -> str:
        """Return a command for this folder, as it is typed.

        >>> Workspace(Path("my runs")).command("resume mine")
        "autoproxy resume mine --results 'my runs'"
        """
        place = "" if self.folder == _USUAL else f" --results {shlex.quote(str(self.folder))}"
        return f"autoproxy {words}{place}"

    def prepare(self) -> None:
        """Make the folder and see that it can be written, before any long work.

        Raises:
            StorageError: It cannot.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise StorageError(
                f"the results folder {self.folder} cannot be written: {error.strerror}; "
                "choose another with --results DIR"
            ) from None

    def run_folder(self, run: str) -> Path:
        """Return the folder of `run`.

        Raises:
            ConfigError: The name cannot be that of a folder.
        """
        if not _RUN_NAME.fullmatch(run):
            raise ConfigError(
                f"{run!r} cannot name a run; use letters, digits, '.', '_' and '-', "
                "at most 100 of them"
            )
        return self.folder / "runs" / run

    def runs(self) -> tuple[str, ...]:
        """Return the names of the runs that have a folder here, oldest first."""
        folders = (self.folder / "runs").glob("*/run.toml")
        return tuple(path.parent.name for path in sorted(folders, key=_age))

    def done(self) -> tuple[str, ...]:
        """Return the names of those runs that are done, oldest first."""
        return tuple(run for run in self.runs() if (self.run_folder(run) / SUMMARY).is_file())

    def existing_run(self, run: str | None) -> str:
        """Return `run`, or the latest where it is None.

        Raises:
            ConfigError: There is no such run; the message has the nearest.
        """
        known = self.runs()
        if not known:
            raise ConfigError(f"there is no run in {self.folder}; start one: autoproxy search")
        if run is None:
            return known[-1]
        if run not in known:
            raise ConfigError(unknown_name("run", run, known))
        return run

    def remember_ledger(self, run: str) -> None:
        """Keep in the folder of `run` where its ledger is, if that was said; never an account."""
        if self.place is not None:
            write_text(self.run_folder(run) / _LEDGER_NOTE, f"{self._ledger_note}\n")

    def at_ledger_of(self, run: str) -> tuple["Workspace", str | None]:
        """Return this workspace with the ledger that `run` was begun in, and a word on that.

        A place that was said stands, even if it is another.

        Raises:
            ConfigError: The ledger is gone, or in a database, whose account is not kept.
        """
        note = self.run_folder(run) / _LEDGER_NOTE
        before = note.read_text(encoding="utf-8").strip() if note.exists() else None
        if before is None and (self.folder / _LEDGER).exists():
            before = _LEDGER
        if before is None or before == self._ledger_note:
            return self, None
        if self.place is not None:
            return self, (
                f"run {run!r} had its ledger at {before} and goes on with {self._ledger_note}: "
                "what is not there is measured again"
            )
        if "://" in before:
            raise ConfigError(
                f"run {run!r} has its ledger in the database {before}, whose account is not kept; "
                "give --ledger again, or AUTOPROXY_LEDGER"
            )
        file = (self.folder / before).resolve()
        if not file.exists():
            raise ConfigError(
                f"run {run!r} has its ledger in {file}, which is not there; if it was moved, say "
                "where it is: --ledger FILE"
            )
        return replace(self, place=str(file)), f"the ledger of run {run!r} is {file}"

    def has_ledger_of(self, run: str) -> bool:
        """Return whether the ledger that `run` was begun in is at hand, and has it.

        Raises:
            StorageError: It cannot be read.
        """
        try:
            there, _ = self.at_ledger_of(run)
        except ConfigError:
            return False
        if "://" not in str(there.ledger) and not Path(there.ledger).is_file():
            return False
        with Ledger.open(there.ledger, read_only=True) as ledger:
            return run in ledger.run_names()

    @property
    def _ledger_note(self) -> str:
        """Where the ledger is: as seen from the results folder, since both may be moved."""
        place = without_account(self.ledger)
        return place if "://" in place else os.path.relpath(place, self.folder.resolve())

    @contextlib.contextmanager
    def locked(self, run: str) -> Iterator[None]:
        """Hold the run for this process; the system lets go of it if the process dies.

        Raises:
            ConfigError: Another process is at work on this run.
        """
        lock = FileLock(self.run_folder(run) / "run.lock")
        try:
            self.run_folder(run).mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(
                f"run {run!r} is still running in another process; wait for it, or stop that "
                "process, then resume"
            ) from None
        except OSError as error:
            raise _unwritable(Path(lock.lock_file), error) from None
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def boards_locked(self) -> Iterator[None]:
        """Hold the leaderboard's files, which runs that end together would overwrite in turn."""
        with FileLock(self.folder / "leaderboard.lock"):
            yield


def _age(path: Path) -> tuple[float, str]:
    return path.stat().st_mtime, path.parent.name


@contextlib.contextmanager
def fresh_folder(out: Path, *, mark: str | None = None) -> Iterator[Path]:
    """Fill a folder out of sight, and show it whole or not at all.

    Args:
        out: The folder to be; it does not exist, is empty, or has the file `mark`.
        mark: File of an earlier folder of this kind, which is replaced; None replaces nothing.

    Yields:
        A hidden sibling that becomes `out` when the block ends. After an error or an interruption
        nothing is left of it, and an earlier folder is as it was; only a killed process leaves
        it, and never `out` itself.

    Raises:
        ConfigError: There is something else at `out`, or it is where the user is.
        StorageError: The place cannot be written, or an OSError ended the block.
    """
    out = out.resolve()
    _check_replaceable(out, mark)
    made = [parent for parent in out.parents if not parent.exists()]
    hidden = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
    try:
        hidden.mkdir(parents=True)
        yield hidden
        _put(hidden, out, mark)
    except BaseException as error:
        shutil.rmtree(hidden, ignore_errors=True)
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError):
            raise _unwritable(out, error, "another --out") from None
        raise


def _check_replaceable(out: Path, mark: str | None) -> None:
    here = Path.cwd()
    if out == here or out in here.parents:
        raise ConfigError(f"{out} is where you are, so it cannot be replaced; choose another --out")
    if not out.exists() or (mark is not None and (out / mark).is_file()):
        return
    if not (out.is_dir() and next(out.iterdir(), None) is None):
        what = "holds files" if out.is_dir() else "is a file"
        raise ConfigError(f"{out} {what}, and nothing is overwritten; choose another --out")


def _put(hidden: Path, out: Path, mark: str | None) -> None:
    """Put a folder in its place; an earlier one goes when the new one stands there, no sooner."""
    if mark is None or not (out / mark).is_file():
        if out.exists():
            out.rmdir()  # empty, as was seen; if not any more, this fails
        hidden.rename(out)
        return
    aside = hidden.with_suffix(".old")
    out.rename(aside)
    try:
        hidden.rename(out)
    except BaseException:
        aside.rename(out)
        raise
    shutil.rmtree(aside, ignore_errors=True)


RESULTS = "another folder with --results DIR"
"""What to choose where what cannot be written is in the results folder."""


def write_text(path: Path, text: str, *, instead: str = RESULTS) -> None:
    """Write a whole file or nothing: a reader never sees a half.

    Args:
        path: Of the file; its folder is made.
        text: Its content.
        instead: What the user can choose where it cannot be written.

    Raises:
        StorageError: The disk is full or the place is read-only.
    """
    write_bytes(path, text.encode("utf-8"), instead=instead)


def write_bytes(path: Path, content: bytes, *, instead: str = RESULTS) -> None:
    """Write a whole file or nothing, as `write_text` does."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise _unwritable(path, error, instead) from None


def write_json(path: Path, value: Mapping[str, Any], *, instead: str = RESULTS) -> None:
    """Write a mapping as readable JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=False) + "\n", instead=instead)


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Append a mapping as one line of JSON; lines of several processes do not mix.

    Raises:
        StorageError: The disk is full or the place is read-only.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:  # one write, which the system appends whole
            file.write((json.dumps(value) + "\n").encode("utf-8"))
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError, instead: str = RESULTS) -> StorageError:
    space = "" if error.errno in _REFUSED else "free some space or "
    return StorageError(
        f"{path} cannot be written: {error.strerror or error}; {space}choose {instead}"
    )


_REFUSED = frozenset(
    {errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.EPERM, errno.EROFS}
)
"""Errors that no free space mends; safetensors tells others in words alone."""


def name_after(space: str, protocol: Mapping[str, Any]) -> str:
    """Return how what was done in a space under a protocol is called, as folders may be.

    >>> name_after("importance", {"model": "org/llama", "condition": "2:4"})
    'importance-org-llama-2-4'
    """
    words = [space, protocol.get("model", ""), protocol.get("condition", "")]
    told = "-".join(re.sub("[^A-Za-z0-9]", "-", str(word)).strip("-") for word in words)
    return told[:_LONGEST].lstrip("-") or "run"


def to_toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Return TOML of tables of plain values; None is left out, as TOML has none.

    >>> print(to_toml({"search": {"seed": 0, "minutes": None, "strategy": "evolve"}}), end="")
    [search]
    seed = 0
    strategy = "evolve"
    """
    lines: list[str] = []
    for name, table in tables.items():
        lines += [f"[{name}]"]
        lines += [f"{k} = {_toml(v)}" for k, v in table.items() if v is not None]
        lines += [""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _toml(value: object) -> str:
    """Return a value as TOML has it: as JSON, but without surrogates, and with DEL escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
