"""The errors that this project raises on purpose, with words meant for people.

Every message says what was asked, what is wrong with it, what is allowed or near, and what to do.
"""

import difflib
import errno
import re
from collections.abc import Iterable
from pathlib import Path


class AutoproxyError(Exception):
    """Base class of all errors raised on purpose by this project."""


class ConfigError(AutoproxyError):
    """The user asked for something that cannot be done; the message says what can."""


class ExpressionError(ConfigError):
    """A text is not an expression of this language."""


class TextError(ConfigError):
    """A text cannot serve: missing, unreadable, too short, or overlapping another."""


class ModelError(ConfigError):
    """A model cannot serve: missing, of an unsupported family, or without weights."""


class StorageError(ConfigError):
    """The results folder or the ledger cannot be read or written."""


class EvaluationError(AutoproxyError):
    """One candidate could not be measured; the search records why and goes on."""


class WorkerError(AutoproxyError):
    """The processes or machines that measure cannot be had, or die of what they are given."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return a message that says what was asked, what is close, and what exists.

    >>> unknown_name("evaluator", "prunning", ["pruning", "synthetic"])
    "unknown evaluator 'prunning'; did you mean 'pruning'? known: pruning, synthetic"
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown {kind} {name!r}; {hint}known: {', '.join(names)}"


_FULL = re.compile("can't allocate memory|cannot allocate memory|out of memory", re.IGNORECASE)
_ASKED = re.compile(r"(?:tried|unable) to allocate ([\d.]+) (\w+)", re.IGNORECASE)
_HELD = re.compile(r"([\d.]+) (\w+) is allocated by PyTorch")
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50}


def out_of_memory(error: BaseException) -> str | None:
    """Return what to tell the user where memory ran out, None for another error.

    Python, numpy and torch, on a processor and on a device, each say it in a way of their own.

    >>> out_of_memory(ValueError("too long")) is None
    True
    """
    text = str(error)
    if not (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (not isinstance(error, AutoproxyError) and _FULL.search(text))
    ):
        return None
    held, asked = _size(_HELD.search(text)) or _resident(), _size(_ASKED.search(text))
    told = ["memory ran out"]
    if held and asked:
        told += [f": {words_of(held)} are in use and {words_of(asked)} more were asked for"]
        told += [f", so at least {words_of(held + asked)} are needed"]
    elif held:
        told += [f": more than the {words_of(held)} that are in use are needed"]
    return "".join(told) + (
        "; --dtype bfloat16 halves the model, a shorter --length what flows through it, and "
        "metrics without gradients need no arrays of the model's size; a search that was begun "
        "goes on with: autoproxy resume"
    )


def words_of(size: int) -> str:
    """Return a number of bytes for people.

    >>> words_of(14_200_000_000), words_of(3_000_000)
    ('14.2 GB', '3 MB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _size(found: re.Match[str] | None) -> int | None:
    if found is None:
        return None
    return int(float(found[1]) * _UNITS.get(found[2], 1))


def _resident() -> int | None:
    """Return the memory that this process holds, in bytes, where the system tells."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(x.split()[1]) for x in lines if x.startswith("VmRSS:")), None)
