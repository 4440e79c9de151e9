"""The plan of a run: everything a search was asked to do, from a run file and flags."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoproxy.commands import loading
from autoproxy.commands.workspace import to_toml
from autoproxy.errors import ConfigError, unknown_name
from autoproxy.search.config import SearchConfig, read_toml

DEFAULTS: Mapping[str, Any] = {
    "name": None,
    "space": "importance",
    "evaluator": "pruning",
    "random_search": True,
    "report_seeds": 5,
    "report_best": 3,
    "report_known": True,
}
"""The options of the [run] table, with what holds where neither the user nor the space says."""

_SECTIONS = {"run": None, "search": None, "evaluator": None}


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a search was asked to do.

    Attributes:
        name: Of the run and of the metric that it exports; None until one is given.
        space: Name of the search space.
        evaluator: Name of the evaluator.
        random_search: Whether the same budget is spent on random search besides.
        report_seeds: How many calibration draws the report repeats.
        report_best: How many hand-made metrics join the report that were best in validation.
        report_known: Whether those that the space marks as `reported` do, whatever they were.
        search: How to search.
        options: Options of the evaluator, as given; the evaluator checks them.
    """

    name: str | None
    space: str
    evaluator: str
    random_search: bool
    report_seeds: int
    report_best: int
    report_known: bool
    search: SearchConfig
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not 1 <= self.report_seeds <= 1000:
            raise ConfigError(f"report_seeds must lie in [1, 1000], got {self.report_seeds}")
        if self.report_best < 0:
            raise ConfigError(f"report_best must be at least 0, got {self.report_best}")

    def tables(self) -> dict[str, dict[str, Any]]:
        """Return the plan as the tables of a run file."""
        return {
            "run": {key: getattr(self, key) for key in DEFAULTS},
            "search": self.search.to_mapping(),
            "evaluator": dict(self.options),
        }

    def to_toml(self) -> str:
        """Return the run file that asks for this plan."""
        return to_toml(self.tables())


def read_run_file(path: Path) -> dict[str, dict[str, Any]]:
    """Return the tables of a run file.

    Raises:
        ConfigError: It is missing, is no TOML, or has an unknown section.
    """
    return read_toml(path, _SECTIONS)


def make_plan(
    path: Path | None,
    *,
    run: Mapping[str, Any],
    search: Mapping[str, Any],
    evaluator: Mapping[str, Any],
) -> Plan:
    """Return the plan of a run file, overridden by flags; a flag that is None says nothing.

    Raises:
        ConfigError: An unknown option or section, or a value that cannot be.
    """
    tables: Mapping[str, Mapping[str, Any]] = read_run_file(path) if path else {}
    where = str(path) if path else "the flags"
    in_run = {**tables.get("run", {}), **_said(run)}
    for name, value in in_run.items():
        if name not in DEFAULTS:
            raise ConfigError(f"{where}: {unknown_name('run option', name, DEFAULTS)}")
        default = DEFAULTS[name]
        wanted = str if default is None else type(default)
        if type(value) is not wanted:
            raise ConfigError(f"{where}: {name} must be a {wanted.__name__}, got {value!r}")
    space = loading.space(in_run.get("space", DEFAULTS["space"]))
    in_search = {"seed": 0, **space.search, **tables.get("search", {}), **_said(search)}
    return Plan(
        **{**DEFAULTS, **space.run, **in_run},
        search=SearchConfig.from_mapping(in_search, where),
        options={**tables.get("evaluator", {}), **_said(evaluator)},
    )


def with_settings(flags: Mapping[str, Any], words: Iterable[str]) -> dict[str, Any]:
    """Return the options of a search that flags and NAME=VALUE words set.

    Raises:
        ConfigError: A word has no `=`, or sets what a flag sets to something else.
    """
    settings, given = read_settings(words), _said(flags)
    for name in settings.keys() & given.keys():
        if settings[name] != given[name]:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(
                f"{flag} asks for {given[name]!r} and --set {name} for {settings[name]!r}; give one"
            )
    return given | settings


def read_settings(words: Iterable[str]) -> dict[str, Any]:
    """Return the options that NAME=VALUE words set; values are written as in a run file.

    >>> read_settings(["lag=1", "race=false", "selection=best"])
    {'lag': 1, 'race': False, 'selection': 'best'}

    Raises:
        ConfigError: A word has no `=`.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise ConfigError(f"--set takes NAME=VALUE, such as islands=2; got {word!r}")
        try:
            found[name.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[name.strip()] = value  # a word without quotes
    return found


def _said(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}
