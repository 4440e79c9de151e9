"""How to search: one frozen, complete and strict configuration."""

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from autoproxy.errors import ConfigError, unknown_name

STRATEGIES = ("evolve", "random")
SELECTIONS = ("nsga2", "best")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """How to search.

    Attributes:
        seed: Root of all randomness of the run.
        evaluations: What the run may spend, in full evaluations; a measurement at a lower
            fidelity costs its share, one that the ledger knows costs the same.
        minutes: When to stop at the latest, None for never; the run then ends at a logged slot.
        strategy: `evolve`, or `random` for the same sieve and initialiser without breeding.
        population: Individuals that stay after each generation.
        batch: Candidates of a generation that the sieve lets through; it proposes until it has
            them, or eight times as many were proposed.
        first_batch: The same of the first generation, whose proposals are all random.
        crossover: Chance that a child has two parents.
        immigrants: Chance that a proposal is random in a later generation.
        tournament: How many are drawn when a parent is chosen; the best of them breeds.
        tries: How often a slot may draw until its proposal is new.
        selection: `nsga2` (value against complexity) or `best` (value alone).
        reject: How many times Wanda's distortion a candidate may have before it is dropped
            unmeasured; 0 for never.
        promote: Share of the candidates of a cheap rung that go on.
        race: Whether a candidate that goes on is stopped as soon as it is significantly worse,
            block by block, than the middle of the population.
        finalists: How many are re-ranked on fresh blocks at the end.
        seeds: Whether the hand-made metrics start in the population.
    """

    seed: int
    evaluations: float = 120.0
    minutes: float | None = None
    strategy: str = "evolve"
    population: int = 16
    batch: int = 16
    first_batch: int = 48
    crossover: float = 0.4
    immigrants: float = 0.1
    tournament: int = 2
    tries: int = 8
    selection: str = "nsga2"
    reject: float = 1.4
    promote: float = 0.2
    race: bool = True
    finalists: int = 10
    seeds: bool = False

    def __post_init__(self) -> None:
        _within("evaluations", self.evaluations, 1, 1e9)
        _within("population", self.population, 2, 100_000)
        _within("batch", self.batch, 1, 100_000)
        _within("first_batch", self.first_batch, 2, 1_000_000)
        _within("tournament", self.tournament, 1, 1000)
        _within("tries", self.tries, 1, 1000)
        _within("finalists", self.finalists, 1, 1000)
        _within("crossover", self.crossover, 0, 1)
        _within("immigrants", self.immigrants, 0, 1)
        _within("promote", self.promote, 0.01, 1)
        _within("reject", self.reject, 0, 1e6)
        if self.minutes is not None:
            _within("minutes", self.minutes, 0.01, 1e6)
        for name, value, known in (
            ("strategy", self.strategy, STRATEGIES),
            ("selection", self.selection, SELECTIONS),
        ):
            if value not in known:
                raise ConfigError(unknown_name(name, value, known))

    @classmethod
    def from_mapping(cls, table: Mapping[str, Any], where: str) -> Self:
        """Make a configuration from plain values; `where` names their origin in errors.

        Raises:
            ConfigError: An unknown option, a missing seed, or a value of the wrong type.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name, value in table.items():
            if name not in fields:
                raise ConfigError(f"{where}: {unknown_name('search option', name, fields)}")
            _check_type(where, name, value, fields[name].type)
        if "seed" not in table:
            raise ConfigError(f"{where}: the search needs a `seed`; write e.g. `seed = 0`")
        return cls(**table)

    def to_mapping(self) -> dict[str, Any]:
        """Return the options as plain values, those that are None left out (TOML has none)."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


def read_toml(path: Path, sections: Mapping[str, object]) -> dict[str, dict[str, Any]]:
    """Return the tables of a run file; unknown sections are errors.

    Raises:
        ConfigError: The file is missing or is no TOML, or has a section not in `sections`.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}; give an existing .toml file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from None
    for name, value in table.items():
        if name not in sections:
            raise ConfigError(f"{path}: {unknown_name('section', name, sections)}")
        if not isinstance(value, dict):
            raise ConfigError(f"{path}: [{name}] must be a table of options, got {value!r}")
    return table


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} must lie in [{low:g}, {high:g}], got {value:g}")


_TYPES: Mapping[object, tuple[str, tuple[type, ...]]] = {
    int: ("whole number", (int,)),
    float: ("number", (int, float)),
    float | None: ("number", (int, float)),
    str: ("word", (str,)),
    bool: ("true or false", (bool,)),
}
"""For each type of an option: how it is called, and what may be written for it."""


def _check_type(where: str, name: str, value: object, wanted: object) -> None:
    called, allowed = _TYPES[wanted]
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise ConfigError(f"{where}: {name} must be a {called}, got {value!r}")
