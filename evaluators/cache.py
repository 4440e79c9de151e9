"""The folder of cached statistics: what lies in it, how large it may grow, what goes first.

Several processes share a folder without locks. A file appears whole, under a name that says what
it is; whoever needs one that has gone measures it anew; a file that another process still has
mapped into memory stays readable for it after it is deleted.
"""

import json
import os
import re
import secrets
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from autoproxy.errors import ConfigError, StorageError

LIMIT = "AUTOPROXY_CACHE_LIMIT"
"""Environment variable: how large the folder may grow, such as `5GB`."""

USUAL_LIMIT = "20GB"
EVERY = "*.safetensors"
"""Names of all files of the cache."""

ABANDONED_SECONDS = 3600
"""Age at which an unfinished file counts as left by a process that was killed."""

_HEADER = "autoproxy"
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_held: dict[Path, weakref.ref[Tensor]] = {}
"""A tensor of each file that this process has read or written; it dies when that is let go of."""


@dataclass(frozen=True, slots=True)
class CachedFile:
    """One file of the cache.

    Attributes:
        file: Its name.
        bytes: Its size.
        age_seconds: Since it was last used.
        model: What protocols call the model; None where the file does not say.
        terminal: What was measured; None where the file does not say.
        tokens: How many it was measured on; None where the file does not say.
        corrupted: Why it cannot be read, or None.
    """

    file: str
    bytes: int
    age_seconds: float
    model: str | None = None
    terminal: str | None = None
    tokens: int | None = None
    corrupted: str | None = None


def size_of(text: str) -> int:
    """Return a number of bytes that is written with or without a unit (powers of 1,000).

    Raises:
        ConfigError: It is none.

    >>> size_of("1.5GB"), size_of("200 mb"), size_of("0")
    (1500000000, 200000000, 0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B)?", text.strip().upper())
    if found is None:
        raise ConfigError(f"{text!r} is no size; write a number and a unit, such as 500MB or 20GB")
    return int(float(found[1]) * _UNITS[found[2] or "B"])


def limit_of(asked: str | None = None, usual: str = USUAL_LIMIT) -> int:
    """Return how many bytes may be held: as asked, else by the environment, else the usual.

    Raises:
        ConfigError: That is no size.
    """
    return size_of(asked or os.environ.get(LIMIT) or usual)


def header(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return metadata for a file that tells what it is; one entry, so that its order is fixed."""
    return {_HEADER: json.dumps(facts, sort_keys=True)}


def used(path: Path, content: Tensor) -> None:
    """Mark a file as used just now, and as needed by this process as long as a tensor lives."""
    _held[path.resolve()] = weakref.ref(content)
    touch(path)


def touch(path: Path) -> None:
    """Mark a file as used just now."""
    with suppress(OSError):  # a cache that may only be read is of use too
        os.utime(path)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a place to write a file that appears under its name when it is complete.

    Raises:
        StorageError: The folder cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"the cache of statistics {path.parent} cannot be written: {error}; free some space "
            "(autoproxy cache --clear) or choose another folder with --results DIR"
        ) from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def evict(folder: Path, limit: int, *, spare: bool = True, files: str = EVERY) -> list[CachedFile]:
    """Delete files that were not used for longest until the folder is within its limit.

    Args:
        folder: Of the cache; it may be missing.
        limit: Bytes that may stay.
        spare: Whether what this process holds stays, even beyond the limit.
        files: Which of them count and may go, as a pattern of names.

    Returns:
        What was deleted.

    Raises:
        StorageError: A file cannot be deleted.
    """
    _delete_abandoned(folder)
    found = sorted(_sizes(folder, files), key=lambda row: row[2])
    total = sum(size for _, size, _ in found)
    gone: list[CachedFile] = []
    for path, size, at in found:
        if total <= limit:
            break
        if spare and _is_held(path):
            continue
        seen = _describe(path, size, at)
        total -= size
        if seen is not None:
            _delete(path)
            gone.append(seen)
    return gone


def cached_files(folder: Path) -> list[CachedFile]:
    """Return what the cache holds, used last first. Contents are not read, only headers."""
    found = sorted(_sizes(folder), key=lambda row: -row[2])
    seen = (_describe(path, size, at) for path, size, at in found)
    return [file for file in seen if file is not None]


def survey(folder: Path, limit: int, gone: list[CachedFile]) -> dict[str, Any]:
    """Return what the cache holds and what was deleted just now, as plain values."""
    held = cached_files(folder)
    return {
        "folder": str(folder),
        "limit": limit,
        "bytes": sum(file.bytes for file in held),
        "files": [asdict(file) for file in held],
        "deleted": [asdict(file) for file in gone],
    }


def tend(folder: Path, *, clear: bool, limit: str | None) -> dict[str, Any]:
    """Clear the cache or shrink it to a limit, where that is asked, and return what it holds.

    Args:
        folder: Of the cache; it may be missing.
        clear: Delete every file.
        limit: Delete files until no more than this is left, such as `5GB`; None deletes nothing.

    Raises:
        ConfigError: Both are asked, or the limit is no size.
        StorageError: A file cannot be deleted.
    """
    if clear and limit is not None:
        raise ConfigError("--clear leaves nothing, so --limit says nothing; give one of the two")
    allowed = limit_of(limit)
    gone: list[CachedFile] = []
    if clear or limit is not None:
        gone = evict(folder, -1 if clear else allowed, spare=False)
    return survey(folder, allowed, gone)


def enforce(folder: Path, limit: int, notice: Callable[[str], None]) -> None:
    """Evict what is beyond the limit, and tell when this process needs more than the limit."""
    evict(folder, limit)
    total = sum(size for _, size, _ in _sizes(folder))
    if total > limit:
        notice(
            f"the cache of statistics {folder} holds {total / 1e9:.3g} GB, which this run needs, "
            f"and its limit is {limit / 1e9:.3g} GB; raise it with --cache-limit or {LIMIT}"
        )


def _sizes(folder: Path, files: str = EVERY) -> list[tuple[Path, int, float]]:
    """Return path, size and time of last use of each file; one that just went is left out."""
    found = []
    for path in folder.glob(files):
        with suppress(FileNotFoundError):
            stat = path.stat()
            found.append((path, stat.st_size, stat.st_mtime))
    return found


def _is_held(path: Path) -> bool:
    content = _held.get(path.resolve())
    return content is not None and content() is not None


def _describe(path: Path, size: int, at: float) -> CachedFile | None:
    """Return what a file says it is; None where another process has just deleted it."""
    age = max(0.0, time.time() - at)
    try:
        with safe_open(path, framework="np") as file:  # torch opens it a second time
            facts = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
        return CachedFile(
            path.name, size, age, facts.get("model"), facts.get("terminal"), facts.get("tokens")
        )
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, ValueError, AttributeError, RuntimeError) as error:
        if not path.exists():  # torch tells of it in an error of its own
            return None
        return CachedFile(path.name, size, age, corrupted=str(error) or type(error).__name__)


def _delete_abandoned(folder: Path) -> None:
    for part in folder.glob(".*.part"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > ABANDONED_SECONDS:
                part.unlink()


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)  # another process may have evicted it just now
    except OSError as error:
        raise StorageError(
            f"{path} cannot be deleted: {error.strerror}; check the rights of its folder"
        ) from None
