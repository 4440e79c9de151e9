"""How to search: one frozen, complete and strict configuration."""

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from autoproxy.errors import ConfigError, unknown_name
from autoproxy.seeding import MOST_SEED
from autoproxy.sieve.tiers import TIERS

STRATEGIES = ("evolve", "random")
SELECTIONS = ("nsga2", "nsga2-cost", "best")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """How to search.

    Attributes:
        seed: Root of all randomness of the run.
        evaluations: What the run may spend, in full evaluations; a measurement at a lower
            fidelity costs its share, one that the ledger knows costs the same.
        minutes: When to stop at the latest, None for never; the run then ends at a logged slot.
            They count from when the search began or, where it was interrupted, was resumed.
        strategy: `evolve`, or `random` for the same sieve and initialiser without breeding.
        islands: Populations that breed in turn, each on its own but for migrants.
        lag: Generations that may be under way while another is bred: generation g breeds from
            what is known after generation g - 1 - lag. No worker waits for a generation to end
            where this is above 0. Results depend on it, not on the number of workers.
        migration: Generations of an island after which the best of the one before it join; 0 for
            never.
        population: Individuals of an island that stay after each of its generations.
        lifespan: Generations of its island after which an individual makes room, however good
            (the archive keeps it); 0 for never.
        batch: Candidates of a generation that the sieve lets through; it proposes until it has
            them, or eight times as many were proposed.
        first_batch: The same of the first generation of each island, all of them random.
        crossover: Chance that a child has two parents.
        mutation: Chance that a child of two parents is mutated besides.
        tune: Chance that a child is its parent with tuned numbers.
        fit: Chance that a child is its parent with numbers fitted to what the search may see, and
            that those of any other child are, where that costs no evaluation (predictions);
            elsewhere nothing is fitted.
        immigrants: Chance that a proposal is random in a later generation; it rises to a half
            where hardly any proposal is new, but for 0, which means never.
        tournament: How many are drawn when a parent is chosen; the best of them breeds.
        tries: How often a slot may draw until its proposal is new.
        selection: `nsga2` (value against complexity), `nsga2-cost` (and against what a formula
            costs to run) or `best` (value alone).
        same: What makes a proposal a known one, each with those before it: `nothing`, `text`,
            `key` (the same value by algebra, once simplified), `order` (by algebra), `fingerprint`
            (the same order on real rows) or `mask` (all that the objective sees).
        reject: How many times Wanda's distortion a candidate may have before it is dropped
            unmeasured; 0 for never.
        promote: Share of the candidates of a cheap rung that go on.
        race: Whether a candidate that goes on is stopped as soon as it is significantly worse,
            block by block, than the middle of the population.
        patience: Evaluations without a better one after which the run ends, None for never.
        memory: GiB of this process beyond which the run ends, None for no limit.
        finalists: How many are re-ranked on fresh blocks at the end.
        seeds: Whether the hand-made metrics start in the population.
    """

    seed: int
    evaluations: float = 120.0
    minutes: float | None = None
    strategy: str = "evolve"
    islands: int = 1
    lag: int = 0
    migration: int = 4
    population: int = 16
    lifespan: int = 0
    batch: int = 16
    first_batch: int = 48
    crossover: float = 0.4
    mutation: float = 0.0
    tune: float = 0.0
    fit: float = 0.0
    immigrants: float = 0.1
    tournament: int = 2
    tries: int = 8
    selection: str = "nsga2"
    same: str = "mask"
    reject: float = 1.4
    promote: float = 0.2
    race: bool = True
    patience: float | None = None
    memory: float | None = None
    finalists: int = 10
    seeds: bool = False

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None:
                _within(name, value, low, high)
        for name, value, known in (
            ("strategy", self.strategy, STRATEGIES),
            ("selection", self.selection, SELECTIONS),
            ("same", self.same, TIERS),
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


_RANGES: Mapping[str, tuple[float, float]] = {
    "seed": (0, MOST_SEED),
    "evaluations": (1, 1e9),
    "minutes": (0.01, 1e6),
    "islands": (1, 1000),
    "lag": (0, 1000),
    "migration": (0, 1_000_000),
    "population": (2, 100_000),
    "lifespan": (0, 1_000_000),
    "batch": (1, 100_000),
    "first_batch": (2, 1_000_000),
    "crossover": (0, 1),
    "mutation": (0, 1),
    "tune": (0, 1),
    "fit": (0, 1),
    "immigrants": (0, 1),
    "tournament": (1, 1000),
    "tries": (1, 1000),
    "reject": (0, 1e6),
    "promote": (0.01, 1),
    "patience": (1, 1e9),
    "memory": (0.1, 1e6),
    "finalists": (1, 1000),
}
"""For each option that is a number: the least and the greatest that it may be."""


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
