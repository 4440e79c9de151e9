"""Names of new runs: of a folder, of a row in the ledger, and of a function that is exported."""

import contextlib
from collections.abc import Mapping
from itertools import chain, count
from typing import Any

from autoproxy.commands import loading
from autoproxy.commands.metrics import identifier
from autoproxy.commands.workspace import RANDOM_SUFFIX, Workspace, name_after
from autoproxy.errors import ConfigError, StorageError
from autoproxy.language.terminals import VOCABULARY
from autoproxy.ledger.ledger import Ledger
from autoproxy.spaces import SearchSpace


def check_name(workspace: Workspace, name: str, space: SearchSpace) -> None:
    """Refuse a name that a new run cannot have, before any work.

    Args:
        workspace: With the other runs.
        name: That was asked for.
        space: Whose hand-made metrics go by their names, as those of every installed space do.

    Raises:
        ConfigError: It cannot name a folder, is that of a run, or would mean something else, too.
    """
    workspace.run_folder(name)
    if name.endswith(RANDOM_SUFFIX):
        raise ConfigError(
            f"{name!r} ends in {RANDOM_SUFFIX!r}, as the companion of random search that a run "
            "has does; give another --name"
        )
    check_free(workspace, name)
    if name in _known_words(space):
        raise ConfigError(
            f"{name!r} is the name of a hand-made metric, a method or a terminal, which commands "
            f"such as `autoproxy export {name}` would take it for; give another --name"
        )


def check_free(workspace: Workspace, name: str) -> None:
    """See that no run of the folder has this name, or exports its metric to the same file.

    Raises:
        ConfigError: One does.
    """
    if name in workspace.runs():
        raise ConfigError(
            f"run {name!r} exists in {workspace.folder}; go on with it: autoproxy resume {name}; "
            "or give another --name"
        )
    for run in workspace.runs():
        if identifier(run) == identifier(name):
            raise ConfigError(
                f"runs {run!r} and {name!r} would both export their metric as "
                f"metrics/{identifier(run)}.py; give another --name"
            )


def check_ledger(ledger: Ledger, name: str) -> None:
    """Refuse the name of a new run that the ledger has, whatever became of its folder.

    Raises:
        StorageError: It has one, or the companion of one.
    """
    known = ledger.run_names()
    for taken in (name, name + RANDOM_SUFFIX):
        if taken in known:
            raise StorageError(ledger.has_run(taken))


def default_name(
    workspace: Workspace, ledger: Ledger, space: SearchSpace, protocol: Mapping[str, Any], seed: int
) -> str:
    """Return a name for a new run that says what it is, and that no other has."""
    base = f"{name_after(space.name, protocol)}-s{seed}"
    for number in count(1):
        name = base if number == 1 else f"{base}.{number}"
        with contextlib.suppress(ConfigError):
            check_free(workspace, name)
            check_ledger(ledger, name)
            break
    return name


def _known_words(space: SearchSpace) -> set[str]:
    """Return what a word stands for where a metric is asked for, before or beside runs."""
    words = {*VOCABULARY, *chain(*loading.every_method().values())}
    spaces = (space, *loading.every_space())
    return words | {baseline.name for one in spaces for baseline in one.baselines}
