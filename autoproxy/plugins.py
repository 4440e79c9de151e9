"""Finding search spaces and evaluators: by the name of an entry point, or as module:attribute."""

import functools
import re
import sys
import traceback
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path

from autoproxy.errors import ConfigError, unknown_name

GROUPS = {"space": "autoproxy.search_spaces", "evaluator": "autoproxy.evaluators"}


def names(kind: str) -> tuple[str, ...]:
    """Return the names under which plug-ins of `kind` are installed, sorted.

    Args:
        kind: `space` or `evaluator`.
    """
    return tuple(sorted(point.name for point in _installed(kind)))


def load(kind: str, name: str) -> object:
    """Import and return the plug-in that `name` stands for.

    Args:
        kind: `space` or `evaluator`.
        name: Name of an entry point, or the import path `module:attribute` of a user's own.

    Raises:
        ConfigError: No such name, module or attribute, or importing it fails.
    """
    for point in _installed(kind):
        if point.name == name:
            return _imported(kind, point)
    if ":" not in name:
        known = unknown_name(kind, name, names(kind))
        raise ConfigError(f"{known}; or give your own as module:attribute")
    if not re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", name):
        raise ConfigError(
            f"{name!r} names no {kind} of your own; write module:ATTRIBUTE, such as myspace:SPACE, "
            "with dots for folders and no .py"
        )
    here = str(Path.cwd())
    if here not in sys.path:  # a user's own file lies beside the call, as with python -m
        sys.path.insert(0, here)
    return _imported(kind, EntryPoint(name, name, GROUPS[kind]))


def _imported(kind: str, point: EntryPoint) -> object:
    """Return what an entry point stands for; whatever its code does wrong is told in words."""
    try:
        return point.load()
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = "" if isinstance(error, ImportError | SyntaxError) else f" ({_place(last)})"
        what = "" if point.name == point.value else f", which is {point.value}"
        told = f"{type(error).__name__}: {error}{where}"
        raise ConfigError(f"cannot load {kind} {point.name!r}{what}: {told}") from error


def _place(frame: traceback.FrameSummary) -> str:
    return f"{frame.filename}, line {frame.lineno}"


@functools.cache
def _installed(kind: str) -> EntryPoints:
    """Return the plug-ins of `kind`; looking through all that is installed is done once."""
    return entry_points(group=GROUPS[kind])
