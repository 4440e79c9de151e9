"""What to order networks by, and what may be known of them: the options of a prediction."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self, get_args

from autoproxy.errors import ConfigError
from evaluators.benchmarks.table import BENCHMARKS
from evaluators.cache import limit_of
from evaluators.config import at_least, one_of

OBJECTIVES = ("tau", "within")
CONTROLS = ("noise",)


@dataclass(frozen=True, slots=True)
class Usual:
    """What suits a benchmark where nothing else is said: see `PredictionConfig`."""

    objective: str
    rows: int | None


USUAL = {
    "starter": Usual("within", None),
    "starter-varied": Usual("tau", None),
    "flexibert": Usual("tau", 32),
    "gpt2-lts": Usual("tau", 32),
    "llama-subnets": Usual("tau", 32),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionConfig:
    """Which networks to order, and what may be known of them.

    Attributes:
        benchmark: A name of `BENCHMARKS`.
        table: File of the table; None for the one that ships or was fetched.
        declared: FlexiBERT's networks as their table declares them, not as they were trained.
        objective: `tau`: Kendall's tau-b over all networks; `within`: its mean within strata of
            equal size, where size explains nothing. None for what suits the benchmark.
        labels: Qualities that a search sees; never more than half of all.
        validation_labels: Further qualities, that finalists are ranked again by.
        unlabelled: Further networks whose order tells candidates apart, without their quality.
        max_tied: Share of pairs of networks, in [0, 1], that a formula of a search may give one
            score; one that ties more is dropped before it is measured. Rows of one trained
            network count as one.
        limit: Networks at most, the first of the table; None for all.
        seed: Of the split into search, validation and report.
        sequences: Of the batch that statistics are gathered on.
        tokens: In a sequence.
        rows: Outputs of a layer that are kept at most, see `Gathering`; None for what suits the
            benchmark, 0 for all.
        draw: Seed of initial weights and of the batch that a search sees; reports have this one
            and those that follow. The sign of a formula is that of this draw in all of them.
        control: `noise` or None, see `Gathering`.
        device: `cpu`, `cuda`, ...
        resamples: Of the bootstrap.
        cache_limit: How much statistics of networks may take in their folder; None for what
            `AUTOPROXY_CACHE_LIMIT` says, or 8 GB. Decides no value.
        jobs: Processes that read networks; None for one a core. Decides no value.
    """

    benchmark: str = "starter"
    table: str | None = None
    declared: bool = False
    objective: str | None = None
    labels: int = 50
    validation_labels: int = 15
    unlabelled: int = 16
    max_tied: float = 1.0
    limit: int | None = None
    seed: int = 0
    sequences: int = 2
    tokens: int = 64
    rows: int | None = None
    draw: int = 0
    control: str | None = None
    device: str = "cpu"
    resamples: int = 1000
    cache_limit: str | None = None
    jobs: int | None = None

    def __post_init__(self) -> None:
        for word, value, known in (
            ("benchmark", self.benchmark, BENCHMARKS),
            ("objective", self.objective, OBJECTIVES),
            ("control", self.control, CONTROLS),
        ):
            if value is not None:
                one_of(word, value, known)
        for name, least in (
            ("labels", 3),
            ("validation_labels", 0),
            ("unlabelled", 0),
            ("sequences", 1),
            ("tokens", 2),
            ("rows", 0),
            ("resamples", 100),
            ("limit", 10),
            ("jobs", 1),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if value is not None:
                at_least(name, value, least)
        if not 0 <= self.max_tied <= 1:
            raise ConfigError(
                f"max_tied is a share of pairs, from 0 to 1 such as 0.01, got {self.max_tied}"
            )
        limit_of(self.cache_limit)
        if self.declared and self.benchmark != "flexibert":
            raise ConfigError(
                f"--declared is of flexibert alone, whose table declares other networks than were "
                f"trained; leave it out for {self.benchmark}"
            )

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Return the configuration that plain options ask for.

        Raises:
            ConfigError: An option is unknown or has a value that cannot be.
        """
        known = {field.name: field for field in fields(cls)}
        for name in options:
            one_of("option of predictions", name, known)
        for name, value in options.items():
            kind: Any = known[name].type
            wanted = get_args(kind) or (kind,)
            if type(value) not in wanted:
                words = " or ".join(w.__name__ for w in wanted if w is not type(None))
                raise ConfigError(f"{name} must be {words}, got {value!r}")
        return cls(**options)
