"""The errors that this project raises on purpose, with words meant for people.

Every message says what was asked, what is wrong with it, what is allowed or near, and what to do.
"""

import difflib
from collections.abc import Iterable


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


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return a message that says what was asked, what is close, and what exists.

    >>> unknown_name("evaluator", "prunning", ["pruning", "synthetic"])
    "unknown evaluator 'prunning'; did you mean 'pruning'? known: pruning, synthetic"
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown {kind} {name!r}; {hint}known: {', '.join(names)}"
