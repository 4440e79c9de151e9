"""What a pruning evaluator is asked: checked whole when it is made."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self, get_args

from autoproxy.errors import ConfigError, unknown_name
from evaluators.allocation import check_allocation
from evaluators.cache import size_of
from evaluators.drawing import WINDOWS
from evaluators.masks import NM, Pattern, check_group, parse_pattern
from evaluators.protocols import PROTOCOLS
from evaluators.starter import STARTERS
from evaluators.text import JOINS

DEFAULT_LENGTH = 2048
"""Tokens in a sequence where nothing is said, capped by the model: never what the model could
take at most, which mixes up tables in the literature and runs out of memory at 131,072."""

MODES = ("oneshot", "sequential")

STARTER_LENGTH = 256
REPORT_TOKENS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningConfig:
    """What to prune, how, and on which texts.

    Attributes:
        model: `starter`, a folder, or a hub name.
        calibration: Sources of the text that statistics are taken on.
        validation: Sources of the text that the search is scored on.
        text: Sources of the text of the report, which no search sees.
        sparsity: Share of the weights to drop, such as `0.5`; or
        pattern: `KEEP:BLOCK`, such as `2:4`. Where neither is said, half is dropped.
        group: Where importances are compared: `row`, `matrix`, `layer`, `model` or `columns:N`.
        allocation: How much of each decoder layer is dropped: `uniform`, `owl`, `alpha`, `metric`
            or a .json file; see `evaluators/allocation.py`.
        mode: `oneshot`: all masks from statistics of the dense model; `sequential`: each decoder
            layer's from what the pruned ones before it hand on, gradients of the dense model.
        seed: Of the calibration draw.
        device: `cpu`, `cuda`, ...
        dtype: Of the model's numbers; importances are computed in float32.
        length: Tokens in a sequence; None for 2048 capped by the model (starter: 256).
        calibration_blocks: Sequences to calibrate on.
        validation_blocks: Sequences to score on; the first of them is the cheap rung.
        confirm_blocks: Fresh sequences of the validation text, for finalists.
        text_blocks: Sequences of the report; `all`, or None for about 8,192 tokens.
        windows: How sequences to calibrate on are drawn: a name of `WINDOWS`.
        calibration_join: How records become the calibration text: a name of `JOINS`.
        text_join: The same for the validation text and that of the report.
        special_tokens: Whether the tokenizer puts its special tokens into texts.
        cache_limit: How large the cache of statistics may grow, such as `5GB`; decides no value.
        stream: Whether one decoder layer at a time is in memory; decides no value. Of `prune`.
        protocol: The protocol of the literature that options were taken from; see `PROTOCOLS`.
    """

    model: str = "starter"
    calibration: tuple[str, ...] = ("topics:calibration",)
    validation: tuple[str, ...] = ("topics:validation",)
    text: tuple[str, ...] = ("topics:test",)
    sparsity: str | None = None
    pattern: str | None = None
    group: str = "row"
    allocation: str = "uniform"
    mode: str = "oneshot"
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    length: int | None = None
    calibration_blocks: int = 16
    validation_blocks: int = 8
    confirm_blocks: int = 24
    text_blocks: int | str | None = None
    windows: str = "grid"
    calibration_join: str = "paragraphs"
    text_join: str = "paragraphs"
    special_tokens: bool = False
    cache_limit: str | None = None
    protocol: str | None = None
    stream: bool = False

    def __post_init__(self) -> None:
        check_group(self.group)
        check_allocation(self.allocation)
        one_of("mode", self.mode, MODES)
        self._check_together(self.condition)
        for name in ("calibration_blocks", "validation_blocks", "confirm_blocks"):
            at_least(name, getattr(self, name), 1)
        if self.length is not None:
            at_least("length", self.length, 2)
        if isinstance(self.text_blocks, int):
            at_least("text_blocks", self.text_blocks, 1)
        if self.cache_limit is not None:
            size_of(self.cache_limit)
        one_of("windows", self.windows, WINDOWS)
        one_of("join", self.calibration_join, JOINS)
        one_of("join", self.text_join, JOINS)
        if self.protocol is not None:
            one_of("protocol", self.protocol, PROTOCOLS)

    def _check_together(self, condition: Pattern) -> None:
        """Refuse what cannot be asked for at once."""
        nm = isinstance(condition, NM)
        if self.allocation != "uniform" and (nm or self.group == "model"):
            asked = f"pattern {condition}" if nm else "group model"
            raise ConfigError(
                f"allocation {self.allocation} gives each decoder layer a sparsity of its own, and "
                f"{asked} leaves nothing to give; ask for one of the two"
            )
        if self.mode == "sequential" and (self.group == "model" or self.allocation == "metric"):
            raise ConfigError(
                "mode sequential decides one decoder layer after another, so importances cannot "
                "be compared over the whole model; ask for --mode oneshot, or for another group "
                "or allocation"
            )
        if self.stream and (self.group == "model" or self.allocation == "metric"):
            raise ConfigError(
                "--stream has one decoder layer in memory at a time, so importances cannot be "
                "compared over the whole model; ask for another group (such as layer) or "
                "allocation (such as owl), or prune without --stream"
            )

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Make a configuration from plain values, as in a run file.

        What `protocol` names holds where the other options say nothing.

        Raises:
            ConfigError: An unknown option, or a value that cannot be.
        """
        fields = {field.name: field.type for field in dataclasses.fields(cls)}
        given: dict[str, Any] = {}
        for name, value in options.items():
            if name not in fields:
                raise ConfigError(unknown_name("evaluator option", name, fields))
            given[name] = _converted(name, value, fields[name])
        if given.get("protocol") is None:
            return cls(**given)
        one_of("protocol", given["protocol"], PROTOCOLS)
        return cls(**{**PROTOCOLS[given["protocol"]], **given})

    @property
    def condition(self) -> Pattern:
        """The pattern that is asked for."""
        if self.sparsity is None and self.pattern is None:
            return parse_pattern("0.5", None)
        return parse_pattern(self.sparsity, self.pattern)

    def sequence_length(self, longest: int) -> int:
        """Return the tokens in a sequence for a model that takes at most `longest`.

        Raises:
            ConfigError: More are asked for than the model takes.
        """
        if self.length is None:
            usual = STARTER_LENGTH if self.model in STARTERS else DEFAULT_LENGTH
            return min(usual, longest)
        if self.length > longest:
            raise ConfigError(
                f"length {self.length} exceeds the {longest} tokens that model {self.model!r} "
                f"takes; ask for --length {longest} or less"
            )
        return self.length

    @property
    def departures(self) -> dict[str, Any]:
        """The options whose values are not those of the protocol, with their values."""
        held = PROTOCOLS[self.protocol] if self.protocol is not None else {}
        now = {name: getattr(self, name) for name in held}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in now.items()
            if value != held[name]
        }

    def drawing(self) -> dict[str, Any]:
        """Return how texts are joined, tokenised and cut; nothing where all is as usual.

        The name of a protocol stands alone only where nothing departs from it.
        """
        said = {
            "windows": self.windows,
            "calibration_join": self.calibration_join,
            "text_join": self.text_join,
            "special_tokens": self.special_tokens,
        }
        usual = {field.name: field.default for field in dataclasses.fields(self)}
        if self.protocol is None:
            return said if any(said[name] != usual[name] for name in said) else {}
        departures = {"departures": self.departures} if self.departures else {}
        return {"protocol": self.protocol, **departures, **said}

    def mask_options(self, length: int) -> dict[str, Any]:
        """Return the options that decide masks, complete: what was left open is said.

        Args:
            length: Tokens in a sequence, as `sequence_length` has it.
        """
        amount = (
            {"pattern": self.pattern}
            if self.pattern is not None
            else {"sparsity": self.sparsity or "0.5"}
        )
        return {
            **({} if self.protocol is None else {"protocol": self.protocol}),
            "model": self.model,
            **amount,
            "group": self.group,
            "allocation": self.allocation,
            "mode": self.mode,
            "calibration": list(self.calibration),
            "calibration_blocks": self.calibration_blocks,
            "calibration_join": self.calibration_join,
            "windows": self.windows,
            "special_tokens": self.special_tokens,
            "length": length,
            "seed": self.seed,
            "device": self.device,
            "dtype": self.dtype,
            **({"stream": True} if self.stream else {}),
        }

    def report_blocks(self, length: int) -> int | None:
        """Return the sequences of the report at this length; None for all that the text has."""
        if self.text_blocks is None:
            return max(1, REPORT_TOKENS // length)
        return self.text_blocks if isinstance(self.text_blocks, int) else None


def at_least(name: str, value: int, low: int) -> None:
    """Refuse a number below the least that is allowed."""
    if value < low:
        raise ConfigError(f"{name} must be at least {low}, got {value}")


def one_of(kind: str, name: str, known: Iterable[str]) -> None:
    """Refuse a word that is unknown, and name the nearest."""
    if name not in known:
        raise ConfigError(unknown_name(kind, name, known))


def _converted(name: str, value: object, wanted: object) -> object:
    """Return an option's value as its field wants it."""
    if wanted == tuple[str, ...]:
        return _words(name, value)
    if name == "sparsity" and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if name == "text_blocks" and isinstance(value, str):
        if value == "all" or value.isdecimal():
            return value if value == "all" else int(value)
        raise ConfigError(f"evaluator option {name} must be a whole number or all, got {value!r}")
    kinds = {bool: "true or false", int: "a whole number", str: "a word"}
    kind = next(kind for kind in kinds if wanted is kind or kind in get_args(wanted))
    if isinstance(value, kind) and isinstance(value, bool) is (kind is bool):
        return value
    raise ConfigError(f"evaluator option {name} must be {kinds[kind]}, got {value!r}")


def _words(name: str, value: object) -> tuple[str, ...]:
    many = [value] if isinstance(value, str) else value
    if isinstance(many, list | tuple) and many and all(isinstance(v, str) for v in many):
        return tuple(many)
    raise ConfigError(f"evaluator option {name} must be one or more words, got {value!r}")
