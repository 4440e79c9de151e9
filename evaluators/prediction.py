"""Measures predictions: how well a formula orders networks by what they became when trained."""

import inspect
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from autoproxy.errors import ConfigError, unknown_name
from autoproxy.evaluation import (
    Direction,
    Failed,
    Fingerprint,
    Measured,
    Objective,
    Outcome,
    content_hash,
)
from autoproxy.language import meanings, prediction
from autoproxy.language.blindness import Blindness
from autoproxy.language.expression import Expression
from autoproxy.language.terminals import VOCABULARY
from autoproxy.language.types import Kind
from evaluators import correlation, sites
from evaluators.benchmarks.table import BENCHMARKS, Benchmark, open_benchmark
from evaluators.cache import size_of
from evaluators.models import find_device
from evaluators.judging import Jury
from evaluators.proxies import NAMED
from evaluators.scoring import Gathering, Scorer

Vector = NDArray[np.float64]
Indices = NDArray[np.intp]

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

OBJECTIVES = ("tau", "within")
CONTROLS = ("noise",)
VERSION = 1


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
        limit: Networks at most, the first of the table; None for all.
        seed: Of the split into search, validation and report.
        sequences: Of the batch that statistics are gathered on.
        tokens: In a sequence.
        rows: Outputs of a layer that are kept at most, see `Gathering`; None for what suits the
            benchmark, 0 for all.
        draw: Seed of initial weights and of the batch.
        control: `noise` or None, see `Gathering`.
        device: `cpu`, `cuda`, ...
        resamples: Of the bootstrap.
        cache_limit: How large the folder of statistics may grow; decides no value.
    """

    benchmark: str = "starter"
    table: str | None = None
    declared: bool = False
    objective: str | None = None
    labels: int = 50
    validation_labels: int = 15
    unlabelled: int = 16
    limit: int | None = None
    seed: int = 0
    sequences: int = 2
    tokens: int = 64
    rows: int | None = None
    draw: int = 0
    control: str | None = None
    device: str = "cpu"
    resamples: int = 1000
    cache_limit: str = "8GB"

    def __post_init__(self) -> None:
        for word, value, known in (
            ("benchmark", self.benchmark, BENCHMARKS),
            ("objective", self.objective, OBJECTIVES),
            ("control", self.control, CONTROLS),
        ):
            if value is not None and value not in known:
                raise ConfigError(unknown_name(word, value, known))
        for name, least in (
            ("labels", 3),
            ("validation_labels", 0),
            ("unlabelled", 0),
            ("sequences", 1),
            ("tokens", 2),
            ("rows", 0),
            ("resamples", 100),
            ("limit", 10),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} must be at least {least}, got {value}")
        size_of(self.cache_limit)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Return the configuration that plain options ask for.

        Raises:
            ConfigError: An option is unknown or has a value that cannot be.
        """
        known = {field.name: field for field in fields(cls)}
        for name in options:
            if name not in known:
                raise ConfigError(unknown_name("option of predictions", name, known))
        for name, value in options.items():
            kind: Any = known[name].type
            wanted = get_args(kind) or (kind,)
            if type(value) not in wanted:
                words = " or ".join(w.__name__ for w in wanted if w is not type(None))
                raise ConfigError(f"{name} must be {words}, got {value!r}")
        return cls(**options)


class PredictionEvaluator:
    """Measures expressions of kind Model by the order that they give to trained networks.

    A search sees the qualities of `labels` networks; finalists are ranked again on others; the
    report is on networks whose qualities neither saw. Which sign of a formula is good is decided
    on the labels of the search.
    """

    root = Kind.MODEL

    def __init__(self, config: PredictionConfig, *, cache: Path) -> None:
        find_device(config.device)
        self.config = config
        options = {"declared": True} if config.declared else {}
        opened = open_benchmark(config.benchmark, _table(config, cache), **options)
        self.benchmark: Benchmark = replace(
            opened, architectures=opened.architectures[: config.limit]
        )
        self._cache = cache
        self._wanted = frozenset[str]()
        self._usual = USUAL[config.benchmark]
        self.quality = np.array([a.quality for a in self.benchmark.architectures])
        self.strata = [self.benchmark.strata(a) for a in self.benchmark.architectures]
        networks = [a.network for a in self.benchmark.architectures]
        self.search, self.validation, self.unseen = correlation.split(
            networks, config.labels, config.validation_labels, config.seed
        )

    @classmethod
    def from_options(
        cls, options: Mapping[str, Any], *, cache: Path, notice: Callable[[str], None]
    ) -> Self:
        """Return the evaluator that plain options ask for."""
        del notice
        return cls(PredictionConfig.from_options(options), cache=cache)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    @property
    def objective(self) -> Objective:
        """The rank correlation, to be large."""
        name = self.objective_name
        return Objective(name, "Kendall's tau-b", Direction.MAXIMIZE)

    @property
    def objective_name(self) -> str:
        """`tau` or `within`."""
        return self.config.objective or self._usual.objective

    @property
    def provides(self) -> frozenset[str]:
        """Every terminal of a network."""
        return frozenset(sites.TERMINALS) | {t.name for t in VOCABULARY.values() if t.kind is Kind.MODEL}

    @property
    def fidelities(self) -> tuple[float, ...]:
        """One rung: what costs is gathered once."""
        return (1.0,)

    @property
    def blindness(self) -> Blindness:
        """Only what keeps the order of predictions cannot be seen."""
        return Blindness.WHOLE

    @cached_property
    def _probed(self) -> list[int]:
        """Networks whose order tells candidates apart: those of the search, and some others."""
        return [*self.search.tolist(), *self.unseen[: self.config.unlabelled].tolist()]

    @cached_property
    def scorer(self) -> Scorer:
        """What scores networks."""
        rows = self._usual.rows if self.config.rows is None else self.config.rows
        gathering = Gathering(
            sequences=self.config.sequences,
            tokens=self.config.tokens,
            rows=rows or None,
            seed=self.config.draw,
            device=self.config.device,
            control=self.config.control,
        )
        return Scorer(
            self.benchmark,
            gathering,
            wanted=self._wanted,
            folder=self._cache,
            limit=size_of(self.config.cache_limit),
        )

    def protocol(self) -> dict[str, Any]:
        """Return everything that determines a value."""
        gathering = self.scorer.gathering
        return {
            "evaluator": "prediction",
            "version": VERSION,
            "model": self.benchmark.name,
            "condition": f"{self.objective_name}, {len(self.search)} labels",
            "table": self.benchmark.digest,
            "quality": self.benchmark.quality_name,
            "networks": len(self.quality),
            "objective": self.objective_name,
            "labels": len(self.search),
            "validation_labels": len(self.validation),
            "unlabelled": self.config.unlabelled,
            "split_seed": self.config.seed,
            "text": self.benchmark.text,
            "sequences": gathering.sequences,
            "tokens": gathering.tokens,
            "rows": gathering.rows,
            "draw": gathering.seed,
            "control": gathering.control,
            "device": gathering.device,
            "definitions": _definitions(),
        }

    def prepare(self, names: Iterable[str]) -> None:
        """Say which terminals will be read, before statistics are gathered."""
        self._wanted = frozenset(
            name for name in names if VOCABULARY[name].kind is not Kind.MODEL or name == "log_flow"
        )

    def behaviour(
        self, expressions: Sequence[Expression], reject: float = math.inf
    ) -> list[Fingerprint | Failed]:
        """Return the order that each expression gives to some networks, whatever its sign."""
        del reject
        found = self.scorer.scores(expressions, self._probed)
        return [s if isinstance(s, Failed) else _fingerprint(s) for s in found]

    def identity(self, expression: Expression) -> str | Failed:
        """Return the hash of the order."""
        (found,) = self.behaviour([expression])
        return found if isinstance(found, Failed) else found.digest

    def measure(self, expressions: Sequence[Expression], fidelity: float) -> Iterator[Outcome]:
        """Yield the rank correlation of each expression with the qualities that it may see."""
        for expression in expressions:
            began = time.perf_counter()
            scores = self._scores(expression, self.search)
            if isinstance(scores, Failed):
                yield scores
                continue
            if len(set(scores)) < 2:
                yield Failed("it gives every network the same score")
                continue
            signed = self._agreement(scores, self.search)
            yield Measured(
                abs(signed),
                fidelity,
                time.perf_counter() - began,
                {"orientation": math.copysign(1.0, signed), "networks": float(len(self.search))},
            )

    def confirm(self, expression: Expression) -> tuple[float, ...]:
        """Return one loss for each network whose quality is known here, 1 - tau in the mean.

        They are those of the search and of the validation together: on the few of the validation
        alone, chance would decide.
        """
        places = np.sort(np.concatenate([self.search, self.validation]))
        scores = self._scores(expression, places)
        if isinstance(scores, Failed):
            return (math.inf,)
        oriented = self._orientation(expression) * scores
        if self.objective_name == "tau":
            return tuple(correlation.losses(oriented, self.quality[places]).tolist())
        strata = [self.strata[place] for place in places]
        return tuple(_losses_within(oriented, self.quality[places], strata))

    @classmethod
    def methods(cls) -> dict[str, str]:
        """Return proxies that are no expression, with their sources."""
        return {name: proxy.source for name, proxy in NAMED.items()}

    @classmethod
    def rank(
        cls,
        options: Mapping[str, Any],
        proxies: Mapping[str, Expression | None],
        *,
        cache: Path,
    ) -> dict[str, Any]:
        """Return what proxies say of all networks of a benchmark, and how well they order them.

        Args:
            options: As of `from_options`.
            proxies: By name; None for one of `methods`.
            cache: Folder of the cache of statistics.

        Returns:
            `protocol`, and `proxies`: one mapping each with `name`, `text`, `sign` (as
            documented: 1 where large is good), `order` (best first: `id`, `score`, `quality`),
            `seconds` a network, and what `Jury.judge` says; or `reason` where it has no scores.
        """
        evaluator = cls(PredictionConfig.from_options(options), cache=cache)
        expressions = [e for e in proxies.values() if e is not None]
        evaluator.prepare(frozenset().union(*(e.terminals() for e in expressions)))
        rows = [evaluator.ranked(name, e) for name, e in proxies.items()]
        rows.sort(key=lambda row: -(row.get("tau") or -2.0))
        return {"protocol": evaluator.protocol(), "proxies": rows}

    def ranked(self, name: str, expression: Expression | None) -> dict[str, Any]:
        """Return what one proxy says of all networks; see `rank`."""
        everyone = np.arange(len(self.quality))
        began = time.perf_counter()
        if expression is None:
            scores, sign = self._called(name, everyone), NAMED[name].sign
        else:
            scores, sign = self._scores(expression, everyone), 1
        row = {"name": name, "text": str(expression or name), "sign": sign}
        if isinstance(scores, Failed):
            return {**row, "reason": scores.reason}
        order = np.argsort(-sign * scores, kind="stable")
        architectures = self.benchmark.architectures
        return {
            **row,
            "seconds": (time.perf_counter() - began) / len(scores),
            "order": [
                {
                    "id": architectures[place].id,
                    "score": float(scores[place]),
                    "quality": float(self.quality[place]),
                }
                for place in order
            ],
            **self.jury(everyone).judge(sign * scores),
        }

    def jury(self, places: Indices) -> Jury:
        """Return who judges predictions for the networks at places."""
        chosen = [self.benchmark.architectures[place] for place in places]
        return Jury(
            quality=self.quality[places],
            strata=[self.benchmark.strata(a) for a in chosen],
            networks=[a.network for a in chosen],
            params=np.array([self.benchmark.model_terminals(a)["params"] for a in chosen]),
            resamples=self.config.resamples,
            seed=self.config.seed,
        )

    def _called(self, name: str, places: Indices) -> Vector | Failed:
        """Return the scores of a proxy that is a function."""
        found = []
        for place in places:
            architecture = self.benchmark.architectures[place]
            network, ids = self.scorer.network(architecture)
            try:
                found.append(NAMED[name].function(network, ids))
            except ValueError as error:
                return Failed(f"{architecture.id}: {error}")
        return np.array(found)

    def _scores(self, expression: Expression, places: Indices) -> Vector | Failed:
        (found,) = self.scorer.scores([expression], places.tolist())
        if isinstance(found, Failed):
            return found
        return np.asarray(found, dtype=np.float64)

    def _orientation(self, expression: Expression) -> float:
        """Return 1 where large scores are good on the labels of the search, else -1."""
        scores = self._scores(expression, self.search)
        if isinstance(scores, Failed):
            return 1.0
        return math.copysign(1.0, self._agreement(scores, self.search))

    def _agreement(self, scores: Vector, places: Indices) -> float:
        """Return the objective of scores at places, signed."""
        quality = self.quality[places]
        if self.objective_name == "tau":
            return correlation.kendall(scores, quality)
        return correlation.within(scores, quality, [self.strata[p] for p in places]).tau


def _table(config: PredictionConfig, cache: Path) -> Path | None:
    """Return the table that was asked for, or the one that `benchmark get` left here."""
    if config.table:
        return Path(config.table)
    fetched = cache.parent / "benchmarks" / f"{config.benchmark}.csv"
    return fetched if fetched.exists() else None


def _definitions() -> str:
    """Return the hash of what words mean and how tensors are measured."""
    modules = (meanings, prediction, sites)
    return content_hash([inspect.getsource(module) for module in modules])


def _fingerprint(scores: Tensor) -> Fingerprint | Failed:
    """Return the order of scores, the same for the reverse order."""
    ranks = stats.rankdata(scores.numpy(), method="dense").astype(int)
    turned = ranks.max() + 1 - ranks
    if ranks.max() == 1:
        return Failed("it gives every network the same score")
    order = min(ranks.tolist(), turned.tolist())
    return Fingerprint(content_hash(order))


def _losses_within(scores: Vector, quality: Vector, strata: Sequence[str]) -> list[float]:
    """Return losses of the networks of every stratum that counts, see `correlation.within`."""
    found: list[float] = []
    names = np.asarray(strata)
    for name in sorted(set(strata)):
        inside = names == name
        if inside.sum() < correlation.SMALLEST or len(set(quality[inside])) < 2:
            continue
        if len(set(scores[inside])) < 2:
            found += [1.0] * int(inside.sum())
        else:
            found += correlation.losses(scores[inside], quality[inside]).tolist()
    return found
