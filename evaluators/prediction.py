"""Measures predictions: how well a formula orders networks by what they became when trained."""

import functools
import hashlib
import inspect
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from autoproxy.columns import Column
from autoproxy.errors import ConfigError, EvaluationError
from autoproxy.evaluation import (
    Direction,
    Failed,
    Fingerprint,
    Measured,
    Objective,
    Outcome,
    content_hash,
)
from autoproxy.language import meanings, network_meanings, prediction
from autoproxy.language.blindness import Blindness
from autoproxy.language.expression import Expression
from autoproxy.language.parse import kind_of
from autoproxy.language.prediction import features
from autoproxy.language.terminals import MODEL_TERMINALS
from autoproxy.language.types import Kind
from evaluators import correlation, judging, proxies, scoring, sites
from evaluators.benchmarks import keeping
from evaluators.benchmarks.batches import text_hash
from evaluators.benchmarks.table import (
    AS_DECLARED,
    Architecture,
    Benchmark,
    open_benchmark,
)
from evaluators.cache import limit_of
from evaluators.judging import Jury
from evaluators.models import find_device
from evaluators.prediction_config import USUAL, PredictionConfig
from evaluators.proxies import NAMED
from evaluators.proxies import score as score_by_name
from evaluators.scoring import Gathering, Reader, Scorer, one_thread

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Indices = NDArray[np.intp]


REFERENCES: Mapping[str, str] = {
    "lexicographic": "trivial: depth, then width, then parameters",
    "ridge": (
        "a quadratic ridge regression on the configuration, fitted to the labels that a search "
        "saw; in `rank` to those of other networks, fold by fold"
    ),
}
"""Predictions that are no formula of a network's tensors; every result stands beside them."""

AZ_NAS = ("az_expressivity", "az_progressivity", "az_trainability")
RIVALS = ("naswot", "near", "w_pca", "zico")
"""Functions that reports of small networks show besides: the best known that no formula says."""

POOLED = "az_nas"
"""A proxy that rates a network by its ranks among all of them: by these three and by FLOPs."""

COLUMNS = (
    Column("tau", "tau-b", Direction.MAXIMIZE, title="tau-b"),
    Column("within", "tau-b", Direction.MAXIMIZE, title="tau-b within strata"),
)
FURTHER = (
    Column("rho", "", Direction.MAXIMIZE),
    Column("weighted", "", Direction.MAXIMIZE, title="weighted tau"),
    Column("recall", "", Direction.MAXIMIZE, digits=2, title="top 10 % recall"),
    Column("given_params", "", Direction.MAXIMIZE, title="tau given parameters"),
    Column("with_params", "", None, title="tau with parameters"),
    Column("tied", "", Direction.MINIMIZE, title="tied pairs"),
    Column("networks", "", None, digits=0),
)
"""What a report says besides; what ranks is the objective."""

USUAL_LIMIT = "8GB"
VERSION = 1


class PredictionEvaluator:
    """Measures expressions of kind Model by the order that they give to trained networks.

    A search sees the qualities of `labels` networks; finalists are ranked again on others; the
    report is on networks whose qualities neither saw. Which sign of a formula is good is decided
    on the labels of the search.
    """

    root = Kind.MODEL
    benchmarks = keeping

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
        self._scorers: dict[int, Scorer] = {}
        self._rated: dict[tuple[str, int], dict[int, float | Failed]] = {}
        self._signs: dict[Expression | str, float | Failed] = {}
        self._usual = USUAL[config.benchmark]
        self.quality = np.array([a.quality for a in self.benchmark.architectures])
        self.strata = [self.benchmark.strata(a) for a in self.benchmark.architectures]

    @cached_property
    def _split(self) -> tuple[Indices, Indices, Indices]:
        networks = [a.network for a in self.benchmark.architectures]
        config = self.config
        return correlation.split(networks, config.labels, config.validation_labels, config.seed)

    def _check_order(self) -> None:
        """Refuse qualities that cannot be ordered, before a search and not behind it."""
        for word, places in (("search sees", self.search), ("report is on", self.unseen)):
            try:
                self.agreement(self.quality[places], places)
            except EvaluationError as error:
                raise ConfigError(
                    f"the {len(places)} qualities that the {word} have no order by "
                    f"{self.objective_name!r}: {error}; change --labels or --seed, ask for "
                    "--objective tau, or give a larger table"
                ) from None

    @property
    def search(self) -> Indices:
        """Places of the networks whose quality the search sees."""
        return self._split[0]

    @property
    def validation(self) -> Indices:
        """Places of those by which, besides, finalists are ranked again."""
        return self._split[1]

    @property
    def unseen(self) -> Indices:
        """Places of those that the report is on."""
        return self._split[2]

    @classmethod
    def from_options(
        cls, options: Mapping[str, Any], *, cache: Path, notice: Callable[[str], None]
    ) -> Self:
        """Return the evaluator that plain options ask for."""
        del notice
        return cls(PredictionConfig.from_options(options), cache=cache)

    def resplit(self, seed: int) -> Self:
        """Return an evaluator of another split; what was read of networks is shared by both."""
        other = type(self)(replace(self.config, seed=seed), cache=self._cache)
        names = ("_wanted", "_scorers", "_rated", "_params")
        vars(other).update({name: getattr(self, name) for name in names})
        return other

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
        return frozenset(sites.TERMINALS) | MODEL_TERMINALS

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

    @property
    def conditions(self) -> tuple[Self, ...]:
        """What the report is made of: this one condition."""
        return (self,)

    @property
    def references(self) -> tuple[str, ...]:
        """What every report shows besides; functions only where they take seconds in all."""
        small = self.config.benchmark.startswith("starter") and self.config.control is None
        return (*REFERENCES, *(RIVALS if small else ()))

    @property
    def first_seed(self) -> int:
        """The first draw of its reports: the one that the search saw; `seed` is of the split."""
        return self.config.draw

    def scorer(self, draw: int | None = None) -> Scorer:
        """Return what scores networks with the initial weights and the batch of a seed."""
        draw = self.config.draw if draw is None else draw
        if draw not in self._scorers:
            self._scorers[draw] = self._made(self._gathering(draw), self._wanted)
        return self._scorers[draw]

    def _made(self, gathering: Gathering, wanted: frozenset[str]) -> Scorer:
        reader = Reader(
            self.benchmark,
            gathering,
            wanted=wanted,
            folder=self._cache,
            limit=limit_of(self.config.cache_limit, USUAL_LIMIT),
        )
        return Scorer(reader, jobs=self.config.jobs or joblib.cpu_count())

    def _gathering(self, draw: int) -> Gathering:
        rows = self._usual.rows if self.config.rows is None else self.config.rows
        return Gathering(
            sequences=self.config.sequences,
            tokens=self.config.tokens,
            rows=rows or None,
            seed=draw,
            device=self.config.device,
            control=self.config.control,
        )

    def protocol(self) -> dict[str, Any]:
        """Return everything that determines a value."""
        self._check_order()
        return {
            **self.ranking_protocol(),
            "condition": f"{self.objective_name}, {len(self.search)} labels",
            "objective": self.objective_name,
            "labels": len(self.search),
            "validation_labels": len(self.validation),
            "unlabelled": self.config.unlabelled,
            "split": self.config.seed,
            # Said where it was asked for: rows of before know nothing of it.
            **({"max_tied": self.config.max_tied} if self.config.max_tied < 1 else {}),
        }

    def ranking_protocol(self) -> dict[str, Any]:
        """Return everything that determines scores and the correlations of all networks."""
        gathering = self._gathering(self.config.draw)
        return {
            "evaluator": "prediction",
            "version": VERSION,
            "model": self.benchmark.name,
            "table": self.benchmark.digest,
            "quality": self.benchmark.quality_name,
            "architectures": len(self.quality),
            "text": self.benchmark.text,
            "sequences": gathering.sequences,
            "tokens": gathering.tokens,
            "rows": gathering.rows,
            "draw": gathering.seed,
            "control": gathering.control,
            "device": gathering.device,
            "torch": torch.__version__,
            "definitions": _definitions(self.benchmark.network.__module__),
            **({} if (known := text_hash(self.benchmark)) is None else {"text_hash": known}),
        }

    def prepare(self, names: Iterable[str]) -> None:
        """Say which terminals will be read, before statistics are gathered."""
        self._wanted = _gathered(names)
        self._scorers.clear()  # these read other terminals

    def behaviour(
        self, expressions: Sequence[Expression], reject: float = math.inf
    ) -> list[Fingerprint | Failed]:
        """Return the order that each expression gives to some networks, whatever its sign."""
        del reject
        found = self.scorer().scores(expressions, self._probed)
        return [s if isinstance(s, Failed) else self._fingerprint(s) for s in found]

    def _fingerprint(self, scores: Tensor) -> Fingerprint | Failed:
        """Return the order of scores, or why it is none that the search wants."""
        share = correlation.tied(scores.numpy()[self._first_of_each])
        if share > self.config.max_tied:
            return Failed(
                f"it ties {share:.1%} of pairs of networks; --max-tied is {self.config.max_tied}"
            )
        return _fingerprint(scores)

    @cached_property
    def _first_of_each(self) -> Indices:
        """The probed networks without their twins: these have one score whatever the formula."""
        networks = [self.benchmark.architectures[place].network for place in self._probed]
        return np.sort(np.unique(networks, return_index=True)[1])

    def values(self, expressions: Sequence[Expression]) -> list[str | None]:
        """Return digests of the values of parts of formulas on some networks.

        A Model has one number a network; any other part has values at those layers that offer
        what it reads, and which layers those are counts. None for a Model without a finite score.
        """
        found: dict[Expression, str | None] = {}
        models = [e for e in expressions if kind_of(e) is Kind.MODEL]
        parts = [e for e in expressions if kind_of(e) is not Kind.MODEL]
        for model, scores in zip(models, self.scorer().scores(models, self._probed), strict=True):
            found[model] = None if isinstance(scores, Failed) else _digest(scores)
        found |= zip(parts, self.scorer().digests(parts, self._probed), strict=True)
        return [found[expression] for expression in expressions]

    def identity(self, expression: Expression) -> str | Failed:
        """Return the hash of the order."""
        (found,) = self.behaviour([expression])
        return found if isinstance(found, Failed) else found.digest

    def difference(self, one: Expression, other: Expression) -> float:
        """Return the share of pairs of networks that two formulas order otherwise.

        Of all networks, also those on which `behaviour` does not look; the reverse order is the
        same. It is 1 where only one of the two has scores.
        """
        everyone = [*self.search.tolist(), *self.unseen.tolist()]
        scores, others = self.scorer().scores([one, other], everyone)
        if isinstance(scores, Failed) or isinstance(others, Failed):
            return float(type(scores) is not type(others))
        return _disagreement(np.asarray(scores), np.asarray(others))

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
            signed = self.agreement(scores, self.search)
            yield Measured(
                abs(signed),
                fidelity,
                time.perf_counter() - began,
                {"orientation": math.copysign(1.0, signed), "networks": float(len(self.search))},
            )

    def residuals(self, expression: Expression) -> list[float] | None:
        """Return what the best straight line through its scores leaves of the search's qualities.

        Where order within strata is what counts, both are taken from their strata's means. The
        qualities are scaled to a sum of squares of 1, so that what is left is 1 - r², r the
        correlation (Pearson). None where there are no scores, or all are the same. No label is
        read that the objective does not read.
        """
        scores = self._scores(expression, self.search)
        if isinstance(scores, Failed):
            return None
        with np.errstate(over="ignore", invalid="ignore"):  # seen below: their size is not finite
            mine = self._centred(scores)
            size = float(np.linalg.norm(mine))
        if not 0 < size < math.inf:
            return None
        mine /= size
        found: list[float] = (self._goal - (mine @ self._goal) * mine).tolist()
        return found

    @cached_property
    def _goal(self) -> Vector:
        """The qualities that numbers are fitted to: hundreds of fits ask for the same."""
        centred = self._centred(self.quality[self.search])
        return centred / np.linalg.norm(centred)

    def _centred(self, values: Vector) -> Vector:
        """Return values of the search's networks less the means of those they compare with."""
        parts = [values[rows] for rows in self._fitted_strata]
        return np.concatenate([part - part.mean() for part in parts])

    @cached_property
    def _fitted_strata(self) -> list[Indices]:
        """Rows of the search's networks that are compared with each other."""
        if self.objective_name == "tau":
            return [np.arange(len(self.search))]
        strata = [self.strata[place] for place in self.search]
        return correlation.counting(self.quality[self.search], strata)

    def confirm(self, expression: Expression) -> tuple[float, ...]:
        """Return one loss for each network whose quality is known here, 1 - tau in the mean.

        They are those of the search and of the validation together: on the few of the validation
        alone, chance would decide.
        """
        places = np.sort(np.concatenate([self.search, self.validation]))
        scores = self._scores(expression, places)
        if isinstance(scores, Failed):
            return (math.inf,)
        sign = self._sign(expression)
        if isinstance(sign, Failed):
            return (math.inf,)
        return tuple(self.jury(places).losses(sign * scores, self.objective_name).tolist())

    def report_protocol(self) -> dict[str, Any]:
        """Return everything that determines a reported value but the draw, the sign's apart."""
        first, second = COLUMNS[::-1] if self.objective_name == "within" else COLUMNS
        return {
            **self.protocol(),
            "draw": None,
            "sign_draw": self.config.draw,
            "columns": [column.to_json() for column in (first, second, *FURTHER)],
            "resamples": self.config.resamples,
            "reported": len(self.unseen),
        }

    @classmethod
    def options_of(cls, protocol: Mapping[str, Any]) -> dict[str, Any]:
        """Return plain options that give this `report_protocol` again.

        Where the table lies is no part of it; its hash says whether it is the same.
        """
        alike = ("objective", "labels", "validation_labels", "unlabelled", "sequences", "tokens")
        return {
            **{name: protocol[name] for name in (*alike, "control", "device", "resamples")},
            "benchmark": protocol["model"].removesuffix(AS_DECLARED),
            "declared": protocol["model"].endswith(AS_DECLARED),
            "limit": protocol["architectures"],
            "rows": protocol["rows"] or 0,
            "seed": protocol["split"],
            "draw": protocol.get("sign_draw", 0),
            "max_tied": protocol.get("max_tied", 1.0),
        }

    def dense(self) -> None:
        """Return nothing: there is no network as it is."""

    def report(
        self, candidates: Sequence[Expression | str], seeds: Iterable[int]
    ) -> Iterator[dict[str, Any]]:
        """Yield what each candidate is worth on networks whose quality no search saw.

        Args:
            candidates: Expressions, or names of `methods` or `REFERENCES`.
            seeds: Of initial weights and of the batch.

        Yields:
            `seed`, `index` and what `Jury.judge` says, less what is undefined; instead of it the
            `reason` where a candidate gives these networks no order: no score is no number.
        """
        jury = self.jury(self.unseen)
        formulas = [c for c in candidates if not isinstance(c, str)]
        both = [*self.search.tolist(), *self.unseen.tolist()]
        needed = _gathered(frozenset[str]().union(*(f.terminals() for f in formulas)))
        if not needed <= self._wanted:  # a report may come without a search before it
            self.prepare(self._wanted | needed)
        self.scorer().scores(formulas, both)  # one pass for all; kept until they are asked
        for seed in seeds:
            self.scorer(seed).scores(formulas, self.unseen.tolist())
            for index, candidate in enumerate(candidates):
                scores = self._oriented(candidate, self.unseen, seed)
                yield {"seed": seed, "index": index, **self._judged(jury, scores)}

    def _judged(self, jury: Jury, scores: Vector | Failed) -> dict[str, Any]:
        """Return what the order of scores is worth, less what is undefined; or the `reason`."""
        if isinstance(scores, Failed):
            return {"reason": scores.reason}
        if len(set(scores)) < 2:
            return {"reason": "it gives every network of the report the same score"}
        return {name: value for name, value in jury.judge(scores).items() if value is not None}

    def illustrate(
        self, expression: Expression, others: Mapping[str, Expression | str]
    ) -> dict[str, Any]:
        """Return how a prediction and the trivial ones order networks that no search saw.

        Args:
            expression: The prediction.
            others: Hand-made ones by name; trivial are those that read no tensor of a network.

        Returns:
            `kind` ("order"), `quality` (what it is) and `rows`: for each network its `network`,
            `quality` and `scores` by name, large where good; `discovered` is the prediction.
        """
        trivial = {
            name: other
            for name, other in others.items()
            if (other in REFERENCES if isinstance(other, str) else not features(other))
        }
        found = {
            name: scores
            for name, candidate in {"discovered": expression, **trivial}.items()
            if (scores := self.oriented(candidate, self.unseen)) is not None
        }
        names = [self.benchmark.architectures[place].id for place in self.unseen]
        rows = [
            {
                "network": name,
                "quality": float(self.quality[place]),
                "scores": {who: float(scores[number]) for who, scores in found.items()},
            }
            for number, (name, place) in enumerate(zip(names, self.unseen, strict=True))
        ]
        return {"kind": "order", "quality": self.benchmark.quality_name, "rows": rows}

    def oriented(
        self, candidate: Expression | str, places: Indices, draw: int | None = None
    ) -> Vector | None:
        """Return scores of networks, large where good by the labels of the search; None: none.

        Whatever the draw, the sign is the one that the search saw, at the draw of the options: a
        formula is one prediction, and not another for each draw.
        """
        found = self._oriented(candidate, places, draw)
        return None if isinstance(found, Failed) else found

    def _oriented(
        self, candidate: Expression | str, places: Indices, draw: int | None = None
    ) -> Vector | Failed:
        """Return what `oriented` does, or why there are no scores."""
        if candidate in REFERENCES:
            try:
                return self._reference(str(candidate), places)
            except EvaluationError as error:  # such as a configuration that is always the same
                return Failed(str(error))
        sign = self._sign(candidate)
        if isinstance(sign, Failed):
            return sign
        scores = self._asked(candidate, places, draw)
        return scores if isinstance(scores, Failed) else sign * scores

    def _asked(
        self, candidate: Expression | str, places: Indices, draw: int | None = None
    ) -> Vector | Failed:
        if isinstance(candidate, str):
            return self._called(candidate, places, draw)
        return self._scores(candidate, places, draw)

    def _sign(self, candidate: Expression | str) -> float | Failed:
        """Return 1 where large scores are good on the labels of the search, -1 where small."""
        if candidate not in self._signs:
            scores = self._asked(candidate, self.search)
            self._signs[candidate] = scores if isinstance(scores, Failed) else self._sign_of(scores)
        return self._signs[candidate]

    def _sign_of(self, scores: Vector) -> float | Failed:
        if len(set(scores)) < 2:
            return Failed("it gives every network whose quality the search sees the same score")
        return math.copysign(1.0, self.agreement(scores, self.search))

    @cached_property
    def _table(self) -> Matrix:
        """What is known of each configuration; depth, width and size come first."""
        pairs = zip(self.benchmark.architectures, self._params, strict=True)
        return np.array([self._columns(architecture, size) for architecture, size in pairs])

    def _reference(self, name: str, places: Indices) -> Vector:
        """Return what depth, width and size alone say, or a regression on all labels seen."""
        if name == "lexicographic":
            return correlation.lexicographic(list(self._table[places][:, :3].T))
        seen = np.concatenate([self.search, self.validation])
        return correlation.ridge(self._table[seen], self.quality[seen], self._table[places])

    def _reference_of_all(self, name: str) -> Vector | Failed:
        """Return a reference for all networks; none is predicted by a fit to its own label."""
        if name == "lexicographic":
            return self._reference(name, np.arange(len(self.quality)))
        networks = [a.network for a in self.benchmark.architectures]
        try:
            return correlation.cross_fitted(
                self._table, self.quality, networks, seed=self.config.seed
            )
        except EvaluationError as error:  # too few networks to learn from
            return Failed(str(error))

    @cached_property
    def _params(self) -> Vector:
        """Number of parameters of each network; counting them takes a while."""
        architectures = self.benchmark.architectures
        return np.array([self.benchmark.model_terminals(a)["params"] for a in architectures])

    def _columns(self, architecture: Architecture, params: float) -> list[float]:
        """Return depth, width and number of parameters, and then all else of a configuration."""
        first = (architecture.columns["depth"], architecture.columns["width"])
        return [*first, params, *(v for _, v in sorted(architecture.columns.items()))]

    def compare(
        self, candidate: Expression, others: Mapping[str, Expression | str]
    ) -> dict[str, dict[str, float]]:
        """Return how much better a candidate orders unseen networks than others do.

        The names are those of `others`; see `Jury.compare`. Others without scores are left out.
        """
        scores = self.oriented(candidate, self.unseen)
        found = {name: self.oriented(other, self.unseen) for name, other in others.items()}
        jury = self.jury(self.unseen)
        rivals = {name: s for name, s in found.items() if s is not None and len(set(s)) > 1}
        if scores is None or len(set(scores)) < 2:
            return {}
        return jury.compare(scores, rivals, self.objective_name)

    @staticmethod
    def collector_source(names: Iterable[str]) -> str:
        """Return the source of the module that measures terminals, which exports carry.

        Args:
            names: The terminals.

        Raises:
            ConfigError: It does not measure one of them.
        """
        unknown = sorted(set(names) - sites.TERMINALS)
        if unknown:
            raise ConfigError(
                f"no collector measures {', '.join(unknown)} of a network; it measures "
                f"{', '.join(sorted(sites.TERMINALS))}"
            )
        return inspect.getsource(sites)

    @classmethod
    def methods(cls) -> dict[str, str]:
        """Return proxies that are no expression, with their sources."""
        named = {name: proxy.source for name, proxy in NAMED.items()}
        return named | {POOLED: NAMED[AZ_NAS[0]].source} | dict(REFERENCES)

    @classmethod
    def rank(
        cls,
        options: Mapping[str, Any],
        proxies: Mapping[str, tuple[Expression | None, int]],
        *,
        cache: Path,
    ) -> dict[str, Any]:
        """Return what proxies say of all networks of a benchmark, and how well they order them.

        Args:
            options: As of `from_options`.
            proxies: By name, with the sign: 1 where large is good. Without an expression: one of
                `methods`, whose own sign counts.
            cache: Folder of the cache of statistics.

        Returns:
            `protocol`, and `proxies`, best first: one mapping each with `name`, `text`, `sign`,
            `order` (best first: `id`, `score`, `quality`), `seconds` a network, and what
            `Jury.judge` says; or `reason` where it has no scores. `ceiling`, see
            `correlation.ceiling`: what noise leaves; None where too few networks were repeated.
        """
        evaluator = cls(PredictionConfig.from_options({"rows": 0, **options}), cache=cache)
        expressions = [e for e, _ in proxies.values() if e is not None]
        evaluator.prepare(frozenset[str]().union(*(e.terminals() for e in expressions)))
        everyone = range(len(evaluator.quality))
        found = evaluator.scorer().scores(expressions, everyone, keep=False)
        scored = dict(zip(expressions, found, strict=True))
        rows = []
        for name, (expression, sign) in proxies.items():
            if expression is not None:
                scores = scored[expression]
                known = scores if isinstance(scores, Failed) else np.asarray(scores)
                rows.append(evaluator._ranked(name, expression, sign, known))
            else:
                rows.append(evaluator._ranked_method(name))
        rows.sort(key=lambda row: -_or_least(row.get("tau")))
        names = [architecture.network for architecture in evaluator.benchmark.architectures]
        ceiling = correlation.ceiling(evaluator.quality, names)
        return {
            "protocol": evaluator.ranking_protocol(),
            "proxies": rows,
            "ceiling": None if ceiling is None else asdict(ceiling),
        }

    def _ranked_method(self, name: str) -> dict[str, Any]:
        """Return what one of `methods` says of all networks; see `rank`."""
        if name in REFERENCES:
            return self._ranked(name, None, 1, self._reference_of_all(name))
        everyone = np.arange(len(self.quality))
        sign = 1 if name == POOLED else NAMED[name].sign
        return self._ranked(name, None, sign, self._called(name, everyone))

    def _ranked(
        self, name: str, expression: Expression | None, sign: int, scores: Vector | Failed
    ) -> dict[str, Any]:
        """Return what a proxy's scores say of all networks; see `rank`."""
        row = {"name": name, "text": str(expression or name), "sign": sign}
        if isinstance(scores, Failed):
            return {**row, "reason": scores.reason}
        architectures = self.benchmark.architectures
        order = [
            {
                "id": architectures[place].id,
                "score": float(scores[place]),
                "quality": float(self.quality[place]),
            }
            for place in np.argsort(-sign * scores, kind="stable")
        ]
        judged = self.jury(np.arange(len(scores))).judge(sign * scores)
        return {**row, "seconds": self._seconds(name, expression), "order": order, **judged}

    def _seconds(self, name: str, expression: Expression | None) -> float | None:
        """Return how long one proxy alone takes for a network of middle size, built anew."""
        if name in REFERENCES:
            return None
        middle = int(np.argsort(self._params)[len(self._params) // 2])
        began = time.perf_counter()
        if expression is None:
            for part in AZ_NAS if name == POOLED else (name,):
                self._rate(part, middle, self.config.draw)
        else:
            gathering = self._gathering(self.config.draw)
            alone = self._made(gathering, _gathered(expression.terminals()))
            alone.scores([expression], [middle], keep=False)
        return time.perf_counter() - began

    def jury(self, places: Indices) -> Jury:
        """Return who judges predictions for the networks at places."""
        chosen = [self.benchmark.architectures[place] for place in places]
        return Jury(
            quality=self.quality[places],
            strata=[self.benchmark.strata(a) for a in chosen],
            networks=[a.network for a in chosen],
            params=self._params[places],
            resamples=self.config.resamples,
            seed=self.config.seed,
        )

    def _called(self, name: str, places: Indices, draw: int | None = None) -> Vector | Failed:
        """Return the scores of a proxy that is a function."""
        if self.config.control is not None:
            return Failed(
                f"{name} reads the network itself, which --control {self.config.control} leaves as "
                "it is; only formulas have a control"
            )
        if name == POOLED:
            return self._az_nas(places, draw)
        draw = self.config.draw if draw is None else draw
        known = self._rated.setdefault((name, draw), {})  # a report and its tests ask for the same
        found: list[float] = []
        for place in places.tolist():
            if place not in known:
                known[place] = self._rate(name, place, draw)
            rated = known[place]
            if isinstance(rated, Failed):
                return rated
            found.append(rated)
        return np.array(found, dtype=np.float64)

    def _rate(self, name: str, place: int, draw: int) -> float | Failed:
        """Return what a function gives for one network, built anew."""
        architecture = self.benchmark.architectures[place]
        network, ids = self.scorer(draw).reader.network(architecture)
        try:
            with one_thread():
                return score_by_name(name, network, ids, seed=draw)
        except EvaluationError as error:
            return Failed(f"{architecture.id}: {error}")

    def _az_nas(self, places: Indices, draw: int | None) -> Vector | Failed:
        """Return AZ-NAS of networks: what it rates are ranks among these, not one by itself."""
        parts: list[Vector] = []
        for name in AZ_NAS:
            found = self._called(name, places, draw)
            if isinstance(found, Failed):
                return found
            parts.append(found)
        architectures = [self.benchmark.architectures[place] for place in places]
        flops = [self.benchmark.model_terminals(a)["flops"] for a in architectures]
        rated = proxies.az_nas(list(zip(*parts, flops, strict=True)))
        return np.array(rated, dtype=np.float64)

    def _scores(
        self, expression: Expression, places: Indices, draw: int | None = None
    ) -> Vector | Failed:
        found = self.scorer(draw).score(expression, places.tolist())
        if isinstance(found, Failed):
            return found
        return np.asarray(found, dtype=np.float64)

    def agreement(self, scores: Vector, places: Indices) -> float:
        """Return the objective of scores at places, signed."""
        quality = self.quality[places]
        if self.objective_name == "tau":
            return correlation.kendall(scores, quality)
        return correlation.within(scores, quality, [self.strata[p] for p in places]).tau


def _table(config: PredictionConfig, cache: Path) -> Path | None:
    """Return the table that was asked for, or what `autoproxy benchmark` left here."""
    if config.table:
        return Path(config.table)
    return keeping.table_in(cache.parent / "benchmarks", config.benchmark)


def _gathered(names: Iterable[str]) -> frozenset[str]:
    """Return those terminals that are measured, not told by a configuration."""
    return frozenset(name for name in names if name not in MODEL_TERMINALS or name == "log_flow")


def _or_least(tau: float | None) -> float:
    """Return a correlation, or less than any where there is none."""
    return -2.0 if tau is None else tau


@functools.cache
def _definitions(benchmark: str) -> str:
    """Return the hash of what words mean, how tensors are measured, and orders judged."""
    judged = (scoring, proxies, correlation, judging)
    modules = (meanings, network_meanings, prediction, *judged)
    own = [inspect.getsource(module) for module in modules]
    return content_hash([*own, *scoring.sources(benchmark)])


def _disagreement(one: Vector, other: Vector) -> float:
    """Return the share of pairs that two scores order otherwise, whichever way is up.

    >>> _disagreement(np.array([1.0, 2.0, 3.0]), np.array([3.0, 1.0, 2.0]))
    0.3333333333333333
    """
    pairs = len(one) * (len(one) - 1)
    signs, others = (np.sign(s[:, None] - s[None, :]) for s in (one, other))
    return min(int((signs != others).sum()), int((signs != -others).sum())) / max(1, pairs)


def _digest(scores: Tensor) -> str:
    return hashlib.sha256(scores.numpy().tobytes()).hexdigest()[:32]


def _fingerprint(scores: Tensor) -> Fingerprint | Failed:
    """Return the order of scores, the same for the reverse order."""
    ranks = stats.rankdata(scores.numpy(), method="dense").astype(int)
    turned = ranks.max() + 1 - ranks
    if ranks.max() == 1:
        return Failed("it gives every network the same score")
    order = min(ranks.tolist(), turned.tolist())
    return Fingerprint(content_hash(order))
