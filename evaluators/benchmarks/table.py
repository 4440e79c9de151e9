"""Architecture benchmarks: a table of architectures with their qualities, and how to build them."""

import csv
import hashlib
import importlib
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from autoproxy.errors import ConfigError, StorageError, unknown_name

FEWEST = 10
"""Architectures below which an order says nothing."""

_MODULES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "flexibert": ("evaluators.benchmarks.flexibert", {}),
    "gpt2-lts": ("evaluators.benchmarks.gpt2_lts", {}),
    "llama-subnets": ("evaluators.benchmarks.llama_subnets", {}),
    "starter": ("evaluators.benchmarks.starter", {"varied": False}),
    "starter-varied": ("evaluators.benchmarks.starter", {"varied": True}),
}
"""Where each benchmark's `open_table` is; a module is imported when its benchmark is asked for."""

BENCHMARKS = tuple(_MODULES)


AS_DECLARED = " as declared"
"""What follows the name of a benchmark whose networks are as its table declares them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One row of a benchmark.

    Attributes:
        id: Its name in the table.
        config: Its shape, of a class of the benchmark's own; frozen and hashable.
        quality: What training made of it; finite, larger is better.
        network: Equal for rows that are the same network as it was trained.
        cell: Its stratum: `depth x width`, or a matched cell.
        columns: Numbers of the configuration, for baselines that are fitted to it. `depth`,
            `width`, `heads`, `ff_width` (means over layers) and `d_embed` are always there.
    """

    id: str
    config: Any
    quality: float
    network: str
    cell: str
    columns: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """Architectures whose quality is known, and how to build them.

    Attributes:
        name: One of `BENCHMARKS`, with what was asked for besides.
        quality_name: What `Architecture.quality` is, such as `GLUE` or `-log valid_ppl`.
        architectures: In the order of the table.
        digest: First 16 hex digits of the hash of the table's bytes.
        vocabulary: Token ids are below it.
        length: Most tokens of a sequence.
        causal: Whether a network's loss is of the next token; else of the token itself.
        text: What token ids the networks learned: `bytes`, `zipf` where the tokenizer is not at
            hand, or the source of a model whose tokenizer it is.
        network: Makes a network of a config; draws weights from torch's global generator.
        weights: Gives a network trained weights instead, where there are some.
    """

    name: str
    quality_name: str
    architectures: tuple[Architecture, ...]
    digest: str
    vocabulary: int
    length: int
    causal: bool
    text: str
    network: Callable[[Any], nn.Module]
    weights: Callable[[nn.Module, Any], None] | None = None

    def build(self, architecture: Architecture, seed: int) -> nn.Module:
        """Return the network, in evaluation mode, float32, on the CPU.

        Args:
            architecture: One of this benchmark's.
            seed: Of the initial weights; without effect where the weights are trained ones.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self.network(architecture.config)
        if self.weights is not None:
            self.weights(network, architecture.config)
        return network.eval()

    def strata(self, architecture: Architecture) -> str:
        """Return the stratum within which size is nearly, or exactly, equal."""
        return architecture.cell

    def model_terminals(self, architecture: Architecture) -> dict[str, float]:
        """Return every terminal of kind Model that needs no weights.

        Parameters of the body are those of the layers and of the norm behind them; all others,
        positions and what is left of the output matrix among them, are the embedding's.

        Returns:
            n_layers, width, ff_width, n_heads, d_embed; params and its parts params_attention,
            params_mlp (matrices and biases, without norms), params_embedding, params_body; and
            flops: two for each multiply-add of one token in the linear layers of the body.
        """
        columns = architecture.columns
        with torch.device("meta"), _Undrawn():  # shapes without memory
            network = self.network(architecture.config)
        params = _parameters([network])
        body = _parameters([_layers(network), getattr(network, "norm", None)])
        return {
            "n_layers": columns["depth"],
            "width": columns["width"],
            "ff_width": columns["ff_width"],
            "n_heads": columns["heads"],
            "d_embed": columns["d_embed"],
            "params": params,
            "params_attention": _parameters(_called(network, "attention")),
            "params_mlp": _parameters(_called(network, "mlp")),
            "params_embedding": params - body,
            "params_body": body,
            "flops": 2.0 * _multiply_adds(network),
        }


def open_benchmark(name: str, table: Path | None, **options: Any) -> Benchmark:
    """Return a benchmark.

    Args:
        name: One of `BENCHMARKS`.
        table: Its file; for `llama-subnets` the folder that was built. None: the one that ships,
            which only `starter` has.
        options: Of one benchmark alone, such as `declared=True` of `flexibert`.

    Raises:
        ConfigError: There is no such benchmark, or its table cannot serve; the message names the
            file, the row and the column.

    >>> open_benchmark("glue", None)
    Traceback (most recent call last):
    ...
    autoproxy.errors.ConfigError: unknown benchmark 'glue'; known: flexibert, gpt2-lts, \
llama-subnets, starter, starter-varied
    """
    if name not in _MODULES:
        raise ConfigError(unknown_name("benchmark", name, _MODULES))
    module, fixed = _MODULES[name]
    opened: Benchmark = importlib.import_module(module).open_table(table, **fixed, **options)
    return opened


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table, which says where it stands when something is wrong with it.

    Attributes:
        path: Of the table.
        number: Line of the file, from 1; the head is the first.
        cells: Text by column.
    """

    path: Path
    number: int
    cells: Mapping[str, str]

    def wrong(self, column: str, allowed: str) -> ConfigError:
        """Return an error about a cell, in words."""
        return ConfigError(
            f"{self.path}, row {self.number}, column {column}: {self.cells[column]!r} is not "
            f"{allowed}; mend the table"
        )

    def number_of(self, column: str) -> float:
        """Return a cell as a finite number."""
        try:
            value = float(self.cells[column])
        except ValueError:
            raise self.wrong(column, "a number") from None
        if not math.isfinite(value):
            raise self.wrong(column, "a finite number (leave out rows without a quality)")
        return value

    def whole(self, column: str) -> int:
        """Return a cell as an integer of at least 1."""
        return self._whole(column, self.cells[column])

    def one_of(self, column: str, known: Iterable[str]) -> str:
        """Return a cell that must be one of some words."""
        return self._word(column, self.cells[column], tuple(known))

    def words(self, column: str, count: int, known: Iterable[str]) -> tuple[str, ...]:
        """Return a cell of words, one a layer."""
        choices = tuple(known)
        return tuple(self._word(column, part, choices) for part in self._parts(column, count))

    def wholes(self, column: str, count: int) -> tuple[int, ...]:
        """Return a cell of integers of at least 1, one a layer."""
        return tuple(self._whole(column, part) for part in self._parts(column, count))

    def _parts(self, column: str, count: int) -> list[str]:
        parts = self.cells[column].strip().strip("[]").replace(",", " ").split()
        if len(parts) != count:
            raise self.wrong(column, f"a list of {count}, one entry a layer (it has {len(parts)})")
        return parts

    def _whole(self, column: str, text: str) -> int:
        if not (text.strip().isdecimal() and int(text) > 0):
            raise self.wrong(column, "made of whole numbers of at least 1")
        return int(text)

    def _word(self, column: str, text: str, known: Sequence[str]) -> str:
        if text not in known:
            raise self.wrong(column, f"known ({text!r}; allowed: {', '.join(known)})")
        return text


def read_table(path: Path, columns: Sequence[str]) -> tuple[list[Row], str]:
    """Return the rows of a CSV file and its digest, checked for shape and for names.

    Args:
        path: The file.
        columns: That it must have, `id` among them; others are left alone.

    Raises:
        ConfigError: It is missing or not text, lacks columns, has rows of another length, or
            gives an id twice.
    """
    try:
        content = path.read_bytes()
        reader = csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""))
        rows = [Row(path, reader.line_num, cells) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StorageError(
            f"the table {path} cannot be read: {error}; give a CSV file in UTF-8 by --table FILE"
        ) from error
    found = reader.fieldnames or ()
    missing = [name for name in columns if name not in found]
    if missing:
        raise ConfigError(
            f"{path}: missing columns: {', '.join(missing)}; it has {', '.join(found) or 'none'}; "
            f"needed are {', '.join(columns)}"
        )
    seen: dict[str, int] = {}
    for row in rows:
        if None in row.cells or None in row.cells.values():
            raise ConfigError(
                f"{path}, row {row.number}: it has not {len(found)} cells as the head has; quote "
                "cells that hold commas"
            )
        first = seen.setdefault(row.cells["id"], row.number)
        if first != row.number:
            raise ConfigError(
                f"{path}, row {row.number}, column id: {row.cells['id']!r} was in row {first} "
                "already; ids must differ"
            )
    return rows, hashlib.sha256(content).hexdigest()[:16]


def checked(
    path: Path,
    quality: str,
    architectures: Sequence[Architecture],
    written: Callable[[float], float] = abs,
) -> tuple[Architecture, ...]:
    """Return architectures that can be ranked.

    Args:
        path: The table, for messages.
        quality: The column of the qualities.
        architectures: One a row.
        written: What stands in the table where an architecture has a quality, for messages.

    Raises:
        ConfigError: They are fewer than ten, or all of one quality.
    """
    if len(architectures) < FEWEST:
        raise ConfigError(
            f"{path}: {len(architectures)} architectures; an order needs at least {FEWEST} rows"
        )
    if len({a.quality for a in architectures}) == 1:
        same = written(architectures[0].quality)
        raise ConfigError(
            f"{path}, column {quality}: every row has {same:g}, so there is "
            "no order to predict; give a table with measured qualities"
        )
    return tuple(architectures)


def needed(name: str, table: Path | None) -> Path:
    """Return the table of a benchmark that does not ship.

    Raises:
        ConfigError: None was given.
    """
    if table is None:
        raise ConfigError(
            f"the benchmark {name} does not ship with the project; give its table by --table FILE, "
            f"or fetch it with: autoproxy benchmark get {name}"
        )
    return table


def mean(values: Sequence[float]) -> float:
    """Return the mean of one number a layer."""
    return math.fsum(values) / len(values)


class _Undrawn(TorchFunctionMode):
    """Leaves out the drawing of weights, which takes most of the time where there are none."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch, or hand on the tensor that one of `nn.init` would fill."""
        given = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return given["tensor"] if "tensor" in given else args[0]
        return func(*args, **given)


def _parameters(modules: Iterable[nn.Module | None]) -> float:
    """Return the number of parameters in modules, each counted once."""
    found = {p for module in modules if module is not None for p in module.parameters()}
    return float(sum(parameter.numel() for parameter in found))


def _called(network: nn.Module, name: str) -> list[nn.Module]:
    return [m for path, m in network.named_modules() if path.rpartition(".")[2] == name]


def _multiply_adds(network: nn.Module) -> int:
    linear = [module for module in _layers(network).modules() if isinstance(module, nn.Linear)]
    return sum(module.in_features * module.out_features for module in linear)


def _layers(network: nn.Module) -> nn.Module:
    return network.get_submodule("layers")  # every network of a benchmark has such a list
