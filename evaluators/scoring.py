"""Scores of architectures: a network's statistics are gathered once, then every formula is read.

A pass goes network by network, so one network's statistics are in memory at a time. What is kept
of it for each *feature* (the operand of an aggregation over layers) is a number a layer; most
candidates of a search share their features with others, so few are computed twice.
"""

import dataclasses
import functools
import hashlib
import inspect
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import joblib
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from autoproxy import seeding
from autoproxy.evaluation import Failed, content_hash
from autoproxy.language.expression import Expression
from autoproxy.language.parse import kind_of
from autoproxy.language.prediction import combine, features
from autoproxy.language.program import Program
from autoproxy.language.terminals import MODEL_TERMINALS, VOCABULARY
from autoproxy.language.types import Kind
from evaluators import cache, networks, sites
from evaluators.benchmarks import batches, table, zipf
from evaluators.benchmarks.batches import batch_of
from evaluators.benchmarks.table import Architecture, Benchmark
from evaluators.sites import Collected, Sampling, Site, collect

FEATURES = 20_000
"""Features whose values are kept; one is a number for each layer of each network."""

WORTH_PROCESSES = 2000
"""Features times networks in a pass from which on several processes share it; see `GATHERED`."""

GATHERED = 20
"""Features that a network counts for besides where its statistics must be gathered first."""

FILES = "network-{}.safetensors"
"""Names of what is kept."""

ROW_SCALE = "row_scale"
"""Name under which programs read how many rows a sampled one stands for."""

Scores = Tensor | Failed
"""(networks,) float64, or why there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathering:
    """What statistics of a network are gathered on, and how much of them is kept.

    Attributes:
        sequences: Of the batch.
        tokens: In a sequence.
        rows: Outputs of a layer that are kept at most, drawn by the seed; None for all. Sums and
            norms over outputs are scaled to what all would give in expectation.
        seed: Of initial weights, of token ids and of the rows.
        device: `cpu`, `cuda`, ...
        control: `noise` puts standard normal numbers in place of every tensor, so that nothing
            but shapes and the number of layers is left; None for the real ones.
    """

    sequences: int = 2
    tokens: int = 64
    rows: int | None = None
    seed: int = 0
    device: str = "cpu"
    control: str | None = None


class Reader:
    """Gathers statistics of the networks of a benchmark, and reads features off them.

    Args:
        benchmark: The architectures and how they are built.
        gathering: What statistics are gathered on.
        wanted: Names of the terminals that expressions may read.
        folder: Where statistics are kept.
        limit: Bytes that statistics of networks may take there; other files are left alone.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        gathering: Gathering,
        *,
        wanted: frozenset[str],
        folder: Path,
        limit: int,
    ) -> None:
        self.benchmark = benchmark
        self.gathering = gathering
        self.wanted = wanted
        self.folder = folder
        self.limit = limit
        self._keys: dict[str, str] = {}

    def measure(
        self, architecture: Architecture, asked: Sequence[Expression], *, keep: bool
    ) -> tuple[dict[str, float], list[Tensor]]:
        """Return the numbers of a network, and the values of features at its layers."""
        with one_thread():
            found = self.statistics(architecture, keep=keep)
            return found.model, read(asked, found.sites)

    def digests(self, architecture: Architecture, asked: Sequence[Expression]) -> list[str]:
        """Return digests of the values of parts of formulas at the layers of a network."""
        with one_thread():
            return digests(asked, self.statistics(architecture).sites)

    def statistics(self, architecture: Architecture, *, keep: bool = True) -> Collected:
        """Return what was measured of a network: gathered now, or kept from before."""
        path = self._path(architecture)
        found = _load(path)
        if found is None:
            found = self._gather(architecture)
            if keep:
                _save(path, found, f"{self.benchmark.name}:{architecture.id}")
                cache.evict(self.folder, self.limit, files=FILES.format("*"))
        if self.gathering.control == "noise":
            name = f"{self.gathering.seed} {architecture.config!r}"  # equal networks, equal noise
            sites = tuple(_noise(site, name) for site in found.sites)
            return Collected(sites, {})
        return found

    def _path(self, architecture: Architecture) -> Path:
        return self.folder / FILES.format(self.key(architecture))

    def is_kept(self, architecture: Architecture) -> bool:
        """Return whether statistics of a network were kept from before."""
        return self._path(architecture).exists()

    def network(self, architecture: Architecture) -> tuple[nn.Module, Tensor]:
        """Return a network as it is scored, and the batch that it is scored on."""
        gathering = self.gathering
        network = self.benchmark.build(architecture, gathering.seed).to(gathering.device)
        ids = batch_of(self.benchmark, gathering.sequences, gathering.tokens, gathering.seed)
        return network, ids.to(gathering.device)

    def _gather(self, architecture: Architecture) -> Collected:
        network, ids = self.network(architecture)
        sampling = Sampling(rows=self.gathering.rows, seed=self.gathering.seed)
        # On the CPU, where a later pass reads them from a file: formulas see the same tensors.
        return collect(network, ids, self.wanted, sampling=sampling, device="cpu")

    def key(self, architecture: Architecture) -> str:
        """Return the hash of all that determines the statistics of a network."""
        if architecture.id not in self._keys:
            self._keys[architecture.id] = self._hash(architecture)
        return self._keys[architecture.id]

    def _hash(self, architecture: Architecture) -> str:
        return content_hash(
            {
                "benchmark": self.benchmark.name,
                # Weights that were trained are those of one table; others are of the config.
                "trained": self.benchmark.digest if self.benchmark.weights else None,
                "text": self.benchmark.text,
                "text_hash": batches.text_hash(self.benchmark),
                "torch": torch.__version__,
                "definitions": self._definitions,
                "config": repr(architecture.config),
                "gathering": repr(dataclasses.replace(self.gathering, control=None)),
                "wanted": sorted(self.wanted),
            }
        )

    @functools.cached_property
    def _definitions(self) -> str:
        return content_hash(sources(self.benchmark.network.__module__))


@dataclass(frozen=True, slots=True)
class Readings:
    """What formulas read of some networks, see `autoproxy.language.prediction.combine`."""

    layers: Mapping[Expression, Sequence[Tensor]]
    model: Mapping[str, Tensor]
    networks: int
    aggregated: dict[Expression, Tensor] = field(default_factory=dict, compare=False)

    def score(self, expression: Expression) -> Scores:
        """Return the scores of an expression that reads nothing else."""
        scores = combine(expression, self.layers, self.model, self.aggregated).reshape(-1)
        lost = int((~torch.isfinite(scores)).sum())
        if lost:
            return Failed(f"no finite score for {lost} of {self.networks} networks")
        return scores if len(scores) == self.networks else scores.expand(self.networks)


class Scorer:
    """Scores the architectures of one benchmark; it remembers the values of features.

    Args:
        reader: Reads one network at a time.
        jobs: Processes that do so, each on one thread; the bits do not depend on it.
    """

    def __init__(self, reader: Reader, *, jobs: int = 1) -> None:
        self.reader = reader
        self.benchmark = reader.benchmark
        # Trained weights are those of an open model, and a device is one process's.
        alone = reader.benchmark.weights is not None or reader.gathering.device != "cpu"
        self._jobs = 1 if alone else jobs
        self._values: dict[Expression, dict[str, Tensor]] = {}
        self._model: dict[str, dict[str, float]] = {}
        self._latest: tuple[object, Readings | Failed] | None = None

    def scores(
        self, expressions: Sequence[Expression], places: Sequence[int], *, keep: bool = True
    ) -> list[Scores]:
        """Return the score of each architecture at `places`, for each expression of kind Model.

        They are computed on one thread: tensors are small, and bits depend on the threads.

        Args:
            expressions: Any number of them cost one pass over the networks.
            places: Positions in the benchmark.
            keep: Whether statistics stay in the cache for the next pass.
        """
        networks = self._know(expressions, places, keep=keep)
        found = []
        for one in expressions:
            readings = self._readings(one, networks)
            found.append(readings if isinstance(readings, Failed) else readings.score(one))
        return found

    def score(self, expression: Expression, places: Sequence[int]) -> Scores:
        """Return the scores of one expression, as `scores` does.

        What it reads is at hand for the next one, if that reads the same: a fit asks for hundreds
        that differ in their numbers alone.
        """
        asked = (features(expression), expression.terminals() & MODEL_TERMINALS, tuple(places))
        if self._latest is None or self._latest[0] != asked:
            networks = self._know([expression], places, keep=True)
            self._latest = asked, self._readings(expression, networks)
        readings = self._latest[1]
        return readings if isinstance(readings, Failed) else readings.score(expression)

    def digests(self, parts: Sequence[Expression], places: Sequence[int]) -> list[str]:
        """Return a digest of the values of each part of any kind but Model at all layers.

        Args:
            parts: Any number of them cost one pass over the networks; no value is kept.
            places: Positions in the benchmark.
        """
        networks = [self.benchmark.architectures[place] for place in places] if parts else []
        jobs = self._jobs if len(parts) * len(networks) >= WORTH_PROCESSES else 1
        found = joblib.Parallel(n_jobs=jobs)(
            joblib.delayed(self.reader.digests)(network, parts) for network in networks
        )
        return [content_hash(list(of_part)) for of_part in zip(*found, strict=True)]

    def _know(
        self, expressions: Sequence[Expression], places: Sequence[int], *, keep: bool
    ) -> list[Architecture]:
        """Return the architectures at `places`, when all that expressions read of them is known."""
        networks = [self.benchmark.architectures[place] for place in places]
        asked = dict.fromkeys(f for expression in expressions for f in features(expression))
        flows = any("log_flow" in expression.terminals() for expression in expressions)
        self._read(list(asked), networks, flows=flows, keep=keep)
        return networks

    def _read(
        self,
        asked: Sequence[Expression],
        networks: Sequence[Architecture],
        *,
        flows: bool,
        keep: bool,
    ) -> None:
        """Compute what is not known yet of these features, network by network."""
        if len(self._values) + len(asked) > FEATURES:
            kept = set(asked)
            self._values = {f: v for f, v in self._values.items() if f in kept}
        jobs: dict[str, tuple[Architecture, list[Expression]]] = {}
        for architecture in networks:
            key = self.reader.key(architecture)
            if key not in self._model:
                self._model[key] = dict(self.benchmark.model_terminals(architecture))
            missing = [f for f in asked if key not in self._values.get(f, ())]
            if missing or (flows and "log_flow" not in self._model[key]):
                jobs[key] = architecture, missing
        measured = self._measured(list(jobs.values()), keep=keep)
        for (key, (_, missing)), (numbers, values) in zip(jobs.items(), measured, strict=True):
            self._model[key] |= {"log_flow": math.nan, **numbers}
            for feature, value in zip(missing, values, strict=True):
                self._values.setdefault(feature, {})[key] = value

    def _measured(
        self, jobs: Sequence[tuple[Architecture, list[Expression]]], *, keep: bool
    ) -> list[tuple[dict[str, float], list[Tensor]]]:
        """Return what is read of each network, by several processes where there is enough to do."""
        if self._jobs == 1 or self._work(jobs) < WORTH_PROCESSES:
            return [self.reader.measure(*job, keep=keep) for job in jobs]
        found: list[tuple[dict[str, float], list[Tensor]]] = joblib.Parallel(n_jobs=self._jobs)(
            joblib.delayed(self.reader.measure)(*job, keep=keep) for job in jobs
        )
        return found

    def _work(self, jobs: Sequence[tuple[Architecture, list[Expression]]]) -> int:
        """Return how much there is to do, in features that are read of a network."""
        absent = sum(not self.reader.is_kept(architecture) for architecture, _ in jobs)
        return GATHERED * absent + sum(len(missing) for _, missing in jobs)

    def _readings(
        self, expression: Expression, networks: Sequence[Architecture]
    ) -> Readings | Failed:
        keys = [self.reader.key(architecture) for architecture in networks]
        layers = {f: [self._values[f][key] for key in keys] for f in features(expression)}
        for feature, values in layers.items():
            empty = sum(not len(value) for value in values)
            if empty:
                return Failed(
                    f"{empty} of {len(values)} networks have no layer that offers "
                    f"{', '.join(sorted(feature.terminals())) or feature}"
                )
        model = {
            name: torch.tensor([[self._model[key][name]] for key in keys], dtype=torch.float64)
            for name in expression.terminals() & MODEL_TERMINALS
        }
        return Readings(layers, model, len(keys))


@functools.cache
def sources(benchmark: str) -> list[str]:
    """Return the sources of all that makes the tensors of a network, and what measures them.

    Args:
        benchmark: Name of the module that makes networks of its configurations.
    """
    folder = Path(networks.__file__).parent
    files = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.py")}
    modules = (sites, batches, table, zipf, seeding, sys.modules[benchmark])
    return [*(inspect.getsource(m) for m in modules), *(files[name] for name in sorted(files))]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def read(asked: Sequence[Expression], sites: Sequence[Site]) -> list[Tensor]:
    """Return for each feature its values at the sites that offer what it reads.

    Args:
        asked: Expressions of kind Scalar.
        sites: Of one network.

    Returns:
        One (layers, 1) float64 tensor a feature, in the order of the sites.
    """
    found: dict[Expression, list[Tensor]] = {feature: [] for feature in asked}
    programs: dict[frozenset[str], tuple[list[Expression], Program]] = {}
    for site in sites:
        offered = frozenset(site.terminals)
        if offered not in programs:
            fitting = [f for f in found if f.terminals() <= offered]
            programs[offered] = fitting, Program([scaled(f) for f in fitting])
        fitting, program = programs[offered]
        inputs = dict(site.terminals)
        inputs[ROW_SCALE] = _row_scale(site)
        for feature, value in zip(fitting, program.run(inputs), strict=True):
            found[feature].append(value.reshape(1, 1))
    return [
        torch.cat(values).double().cpu() if values else torch.empty(0, 1, dtype=torch.float64)
        for values in found.values()
    ]


def digests(asked: Sequence[Expression], sites: Sequence[Site]) -> list[str]:
    """Return for each part a digest of the bits of its values at the sites that offer it.

    Args:
        asked: Expressions of any kind but Model.
        sites: Of one network.
    """
    found = [hashlib.sha256() for _ in asked]
    for number, site in enumerate(sites):
        chosen = [i for i, part in enumerate(asked) if part.terminals() <= set(site.terminals)]
        program = Program([scaled(asked[i]) for i in chosen])
        inputs = {**site.terminals, ROW_SCALE: _row_scale(site)}
        for i, value in zip(chosen, program.run(inputs), strict=True):
            found[i].update(b"%d:" % number)  # where a part is missing counts, too
            found[i].update(value.contiguous().cpu().numpy().tobytes())
    return [digest.hexdigest()[:32] for digest in found]


def scaled(feature: Expression) -> Expression:
    """Return a feature whose sums and norms over sampled outputs stand for those over all.

    >>> from autoproxy.language.parse import parse
    >>> str(scaled(parse("all_sum(abs(W))"))), str(scaled(parse("row_sum(W)")))
    ('mul(all_sum(abs(W)), row_scale)', 'row_sum(W)')
    """
    if not feature.operands:
        return feature
    node = Expression(feature.head, tuple(map(scaled, feature.operands)))
    if not feature.head.startswith(("all_", "col_")) or not _has_outputs(feature.operands[0]):
        return node
    scale = Expression(ROW_SCALE)
    match feature.head.rpartition("_")[2]:
        case "sum":
            return Expression("mul", (node, scale))
        case "norm":
            return Expression("mul", (node, Expression("sqrt", (scale,))))
    return node


def _has_outputs(operand: Expression) -> bool:
    return kind_of(operand) in {Kind.WEIGHT, Kind.PER_OUTPUT, Kind.OUTPUT}


def _row_scale(site: Site) -> Tensor:
    """Return how many outputs of a layer each that was kept stands for, (1, 1)."""
    for name, value in site.terminals.items():
        kind = VOCABULARY[name].kind
        if kind in {Kind.WEIGHT, Kind.PER_OUTPUT}:
            return value.new_full((1, 1), site.d_out / value.shape[0])
        if kind is Kind.OUTPUT:
            return value.new_full((1, 1), site.d_out / value.shape[-1])
    return torch.ones(1, 1)


def _noise(site: Site, name: str) -> Site:
    """Return a site of the same shapes whose tensors are noise, |.| where none is below 0."""
    drawn = {}
    for terminal, value in site.terminals.items():
        known = VOCABULARY[terminal]
        if known.kind is Kind.SCALAR:
            drawn[terminal] = value
            continue
        digest = content_hash([name, site.name, terminal])
        generator = torch.Generator().manual_seed(int(digest[:15], 16))
        noise = torch.randn(value.shape, generator=generator).to(value.device)
        drawn[terminal] = noise.abs() if known.nonnegative else noise
    return dataclasses.replace(site, terminals=drawn)


def _save(path: Path, found: Collected, name: str) -> None:
    tensors = {
        f"{number}/{terminal}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for number, site in enumerate(found.sites)
        for terminal, value in site.terminals.items()
    }
    facts = {
        "model": name,
        "sites": [[site.name, site.d_out, site.tokens] for site in found.sites],
        "numbers": found.model,
    }
    with cache.whole_file(path) as part:
        save_file(tensors, part, cache.header(facts))


def _load(path: Path) -> Collected | None:
    """Return what a file of the cache holds, or None where it is absent or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["autoproxy"])
            sites = tuple(
                Site(str(name), int(d_out), int(tokens), {})
                for name, d_out, tokens in facts["sites"]
            )
            for key in file.keys():  # noqa: SIM118 - a file of tensors is no mapping
                number, _, terminal = key.partition("/")
                sites[int(number)].terminals[terminal] = file.get_tensor(key)
            numbers = {name: float(value) for name, value in facts["numbers"].items()}
        cache.touch(path)
    except (OSError, SafetensorError, LookupError, ValueError, TypeError, AttributeError):
        return None
    return Collected(sites, numbers)
