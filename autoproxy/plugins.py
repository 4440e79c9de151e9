"""Finding search spaces and evaluators: by the name of an entry point, or as module:attribute."""

import functools
import sys
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
        ConfigError: No such name, module or attribute.
    """
    for point in _installed(kind):
        if point.name == name:
            return point.load()
    if ":" not in name:
        known = unknown_name(kind, name, names(kind))
        raise ConfigError(f"{known}; or give your own as module:attribute")
    here = str(Path.cwd())
    if here not in sys.path:  # a user's own file lies beside the call, as with python -m
        sys.path.insert(0, here)
    try:
        return EntryPoint(name, name, GROUPS[kind]).load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"cannot load {kind} {name!r}: {error}") from error


@functools.cache
def _installed(kind: str) -> EntryPoints:
    """Return the plug-ins of `kind`; looking through all that is installed is done once."""
    return entry_points(group=GROUPS[kind])
