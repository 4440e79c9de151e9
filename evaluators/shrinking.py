"""The shrinking evaluator: what a model is worth without whole channels, heads or blocks."""

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from autoproxy.errors import ConfigError
from autoproxy.evaluation import Failed, Fingerprint
from autoproxy.language.blindness import Blindness
from autoproxy.language.expression import Expression
from autoproxy.language.parse import kind_of
from autoproxy.language.program import Program
from autoproxy.language.types import Kind
from evaluators.behaviour import Probe, judge_orders
from evaluators.committing import Decision, few_logits
from evaluators.config import PruningConfig
from evaluators.deciding import Masks
from evaluators.layers import decoder_layers, stack_name
from evaluators.masks import Unstructured, applied, keep_mask, mask_hash, pack, unpack
from evaluators.models import LoadedModel, load_model
from evaluators.pruning import PruningEvaluator
from evaluators.source import Source
from evaluators.units import (
    Place,
    check_expressible,
    check_unit,
    cut,
    passed_by,
    places,
    without_columns,
)
from evaluators.writing import let_read, note_unread, save_folder, write_masks

VERSION = 2
"""Raised by every change that can change a value; part of every protocol."""

UNITS_FILE = "units.safetensors"

_ROOTS = {"channels": Kind.PER_INPUT, "heads": Kind.PER_INPUT, "blocks": Kind.SCALAR}
_IN_WORDS = {"channels": "channels", "heads": "key-value groups", "blocks": "decoder blocks"}
_EXAMPLES = {Kind.PER_INPUT: "col_sum(abs(W) * x_norm)", Kind.SCALAR: "all_mean(abs(W) * x_norm)"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShrinkingConfig(PruningConfig):
    """What to drop whole, and on which texts.

    Attributes:
        unit: `channels` of feed-forwards, `heads` (key-value groups of them) or `blocks` (decoder
            layers); must be said.
    """

    unit: str | None = None

    def __post_init__(self) -> None:
        PruningConfig.__post_init__(self)  # super() does not know a class with slots
        check_unit(self.unit)
        if self.pattern is not None:
            raise ConfigError(
                f"pattern {self.pattern} is of weights; what is dropped whole takes a share, such "
                "as --sparsity 0.25"
            )
        if self.group != "row":
            raise ConfigError(
                f"group {self.group!r} is of weights; channels and heads are compared within each "
                "decoder layer, blocks over the whole model: leave --group away"
            )
        if self.allocation != "uniform" or self.mode != "oneshot":
            raise ConfigError(
                "what is dropped whole is the same share of each decoder layer, decided in one "
                "shot; leave --allocation and --mode away"
            )

        if self.stream:
            raise ConfigError(
                "--stream is for dropping weights; what is dropped whole needs the model in "
                "memory: leave --stream away"
            )

    def mask_options(self, length: int) -> dict[str, Any]:
        """Return the options that decide what is dropped, complete."""
        options = PruningConfig.mask_options(self, length)
        for name in ("group", "allocation", "mode"):
            del options[name]
        return {**options, "unit": self.unit}


class ShrinkingEvaluator(PruningEvaluator):
    """Measures importances by leaving whole units of a language model out.

    The same share of channels or heads goes in each decoder layer, so that a plain configuration
    can say what is left. While a search runs their columns are zeros, and blocks are passed by,
    which computes the same as the model that `prune` writes without them.

    Args:
        config: What to drop, and on which texts.
        cache: See `PruningEvaluator`.
        notice: See `PruningEvaluator`.
        roles: See `PruningEvaluator`.

    Raises:
        ConfigError: The share drops no unit.
        ModelError: The family's units cannot be dropped.
    """

    asks = ShrinkingConfig
    _config: ShrinkingConfig
    allocate = None  # type: ignore[assignment] # every decoder layer loses the same share

    def __init__(
        self,
        config: ShrinkingConfig,
        *,
        cache: Path,
        notice: Callable[[str], None],
        roles: Sequence[str] = ("calibration", "text"),
    ) -> None:
        super().__init__(config, cache=cache, notice=notice, roles=roles)
        self._unit = check_unit(config.unit)
        model = self._loaded.model
        self._places = {} if self._unit == "blocks" else _by_reader(places(model, self._unit))
        count = self._unit_count
        dropped = (
            config.condition.dropped(count) if isinstance(config.condition, Unstructured) else 0
        )
        if dropped == 0:
            raise ConfigError(
                f"{config.condition} of {count} {_IN_WORDS[self._unit]} is none; drop one with "
                f"--sparsity 1/{count}, or more"
            )
        check_expressible(model, self._unit, count - dropped)

    @classmethod
    def root_of(cls, options: Mapping[str, Any]) -> Kind:
        """Return the kind of the formulas that rate the unit of some options."""
        return _ROOTS[check_unit(options.get("unit"))]

    @classmethod
    def options_of(cls, protocol: Mapping[str, Any]) -> dict[str, Any]:
        """Return plain options that give this `report_protocol` again; see `PruningEvaluator`."""
        amount, _, unit = protocol["condition"].partition(" of ")
        options = super().options_of({**protocol, "condition": amount})
        if protocol.get("departures", {}).get("group") is None:
            del options["group"]  # where units are compared follows from what they are
        return {**options, "unit": unit}

    @staticmethod
    def methods() -> Mapping[str, str]:
        """Return nothing: those of weights do not drop units."""
        return {}

    @property
    def root(self) -> Kind:
        """Kind of the formulas that it rates, the only one."""
        return _ROOTS[self._unit]

    @property
    def blindness(self) -> Blindness:
        """Channels are compared in each layer; heads and blocks are sums, which see magnitudes."""
        return Blindness.MATRIX if self._unit == "channels" else Blindness.NOTHING

    def behaviour(
        self, expressions: Sequence[Expression], reject: float = math.inf
    ) -> list[Fingerprint | Failed]:
        """Return the order that each importance gives to all units, as a digest."""
        del reject  # there is no distortion
        probes = [Probe() for _ in expressions]
        if expressions:
            for _, values in self._ratings(expressions, self._config.seed):
                for probe, value in zip(probes, values, strict=True):
                    probe.see(value)
        return [judge_orders(probe) for probe in probes]

    def _note_skipped(self, notice: Callable[[str], None]) -> None:
        """Say nothing: which weights stay dense is of no matter here."""

    def decide(self, candidate: Expression | str) -> Decision:
        """Return all that is needed to write the model, which is tried on a few tokens then.

        What is written has other shapes than what was measured, but computes the same.
        """
        decision = super().decide(candidate)
        write = functools.partial(write_shrunk, self._unit)
        with self._applied(decision.masks):
            return replace(decision, write=write, logits=few_logits(self._loaded))

    @property
    def _unit_count(self) -> int:
        """How many units are compared with one another."""
        if self._unit == "blocks":
            return len(decoder_layers(self._loaded.model))
        return next(iter(self._places.values())).count

    def _ratings(
        self, expressions: Sequence[Expression], seed: int
    ) -> Iterator[tuple[str, list[Tensor]]]:
        """Yield the ratings of units that are compared, (1, units) for each expression.

        Raises:
            ConfigError: An expression is of another kind than the unit asks for.
        """
        for expression in expressions:
            self._check_kind(expression)
        program = Program(expressions)
        if self._unit == "blocks":
            yield stack_name(self._loaded.model), self._block_ratings(program, seed)
            return
        for name, place in self._places.items():
            statistics = self._model.statistics(seed, program.terminals)
            inputs = self._model.inputs(name, program.terminals, statistics, seed)
            yield name, [_of_units(value, place) for value in program.run(inputs)]

    def _block_ratings(self, program: Program, seed: int) -> list[Tensor]:
        """Return for each expression the mean over the matrices of each decoder layer."""
        statistics = self._model.statistics(seed, program.terminals)
        columns: list[Tensor] = []
        for names in self._model.by_layer:
            inputs = (self._model.inputs(n, program.terminals, statistics, seed) for n in names)
            values = [torch.cat(list(program.run(given))).double() for given in inputs]
            columns.append(torch.stack(values).mean(dim=0))  # (expressions, 1)
        return list(torch.split(torch.cat(columns, dim=1), 1))

    def _check_kind(self, expression: Expression) -> None:
        kind = kind_of(expression)
        if kind is not self.root:
            raise ConfigError(
                f"{expression} is of kind {kind.value}, but --unit {self._unit} is rated by "
                f"{self.root.value}; write for example {_EXAMPLES[self.root]!r}"
            )

    def _make_masks(self, expression: Expression, seed: int) -> Masks | Failed:
        """Return which units stay, as bits, by the name of their reader or stack."""
        masks: Masks = {}
        for name, (value,) in self._ratings([expression], seed):
            if not torch.isfinite(value).all():
                return Failed(f"not finite on {name}")
            masks[name] = pack(keep_mask(value, self._decider.pattern, "row"))
        return masks

    def _mask_size(self, name: str) -> int:
        """Return of how many units a mask is; it has one bit a unit."""
        del name
        return self._unit_count

    def _applied(self, masks: Mapping[str, NDArray[np.uint8]]) -> AbstractContextManager[None]:
        kept = {name: self._kept_units(bits) for name, bits in masks.items()}
        if self._unit == "blocks":
            (stays,) = kept.values()
            return passed_by(self._loaded.model, (~stays[0]).nonzero().flatten().tolist())
        return applied(
            self._model.weights,
            {
                n: without_columns(self._places[n], keep, self._model.weights[n])
                for n, keep in kept.items()
            },
        )

    def _kept_units(self, bits: NDArray[np.uint8]) -> Tensor:
        """Return which units stay, (1, units) bool."""
        return unpack(bits, torch.empty(1, self._unit_count, dtype=torch.bool))

    def _shared_protocol(self) -> dict[str, Any]:
        shared = super()._shared_protocol()
        shared.pop("skipped", None)
        return {
            **shared,
            "evaluator": "shrinking",
            "version": VERSION,
            "condition": f"{self._decider.pattern} of {self._unit}",
            "group": "model" if self._unit == "blocks" else "layer",
            "unit": self._unit,
            "ties": "lowest unit dropped first",
        }


def write_shrunk(
    unit: str,
    source: Source,
    masks: Mapping[str, NDArray[np.uint8]],
    folder: Path,
    notice: Callable[[str], None],
) -> dict[str, Any]:
    """Write the model without the units that masks drop, its tokenizer, and which those were.

    Weights keep the types of the source's files. The folder loads wherever the source does: only
    sizes in its configuration differ.

    Args:
        unit: One of `UNITS`.
        source: The model's files.
        masks: Packed bits of each place's units, 1 = keep.
        folder: An existing folder.
        notice: Told of tensors in the files that the model has no use for; they are left out.

    Returns:
        `dtype`, `parameters` of the source, `weights` (the same number: all could go with their
        units), `dropped`, `sparsity`, `mask_hash`, `changes` of the configuration, and `layers`:
        `units`, `dropped` and `sparsity` of each place.

    Raises:
        ModelError: The source cannot be loaded.
        OSError: The folder cannot be written.
    """
    loaded = load_model(source.name, device="cpu", dtype=source.dtype)
    note_unread(loaded, notice)
    sizes = _counts(loaded, unit)
    kept = {
        name: unpack(masks[name], torch.empty(1, size, dtype=torch.bool))
        for name, size in sizes.items()
    }
    changes = cut(loaded.model, unit, [stays[0] for stays in kept.values()])
    try:
        save_folder(loaded, source, folder)
        _change_config(folder / "config.json", changes)
        write_masks(folder / UNITS_FILE, masks, {name: (1, size) for name, size in sizes.items()})
        let_read(folder)
    except SafetensorError as error:
        raise OSError(str(error)) from None
    left = sum(parameter.numel() for parameter in loaded.model.parameters())
    gone = {name: int((~stays).sum()) for name, stays in kept.items()}
    return {
        "dtype": source.dtype,
        "parameters": source.parameters,
        "weights": source.parameters,
        "dropped": source.parameters - left,
        "sparsity": (source.parameters - left) / source.parameters,
        "mask_hash": mask_hash(masks.values()),
        "changes": changes,
        "layers": {
            name: {"units": size, "dropped": gone[name], "sparsity": gone[name] / size}
            for name, size in sizes.items()
        },
    }


def _counts(loaded: LoadedModel, unit: str) -> dict[str, int]:
    """Return how many units each place has, by its name."""
    if unit == "blocks":
        return {stack_name(loaded.model): len(decoder_layers(loaded.model))}
    return {place.reader: place.count for place in places(loaded.model, unit)}


def _change_config(path: Path, changes: Mapping[str, Any]) -> None:
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, **changes}, indent=2) + "\n", encoding="utf-8")


def _by_reader(found: Sequence[Place]) -> dict[str, Place]:
    return {place.reader: place for place in found}


def _of_units(value: Tensor, place: Place) -> Tensor:
    """Return the sum over the columns of each unit, (1, units); in float64 where it is one."""
    if place.width == 1:
        return value
    return value.double().reshape(1, place.count, place.width).sum(dim=2)
