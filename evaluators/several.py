"""Several conditions in one search: models, texts, sparsities, patterns, and their mean.

Which metric is best changes with the calibration text and with the sparsity (measured), so a
search under one condition learns the condition. Under several, a metric's value is the mean over
conditions of log(KL / KL of Wanda's metric): 0 is as good as Wanda, -0.1 about a tenth better.
"""

import itertools
import math
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from autoproxy.errors import ConfigError
from autoproxy.evaluation import (
    BLOCK,
    Direction,
    Failed,
    Fingerprint,
    Measured,
    Objective,
    Outcome,
    content_hash,
)
from autoproxy.language.blindness import Blindness
from autoproxy.language.expression import Expression
from autoproxy.language.types import Kind
from evaluators.calibrated import WANDA
from evaluators.config import PruningConfig
from evaluators.models import LoadedModel, load_model
from evaluators.pruning import PruningEvaluator
from evaluators.room import check_loading

_STRICTEST_FIRST = (Blindness.NOTHING, Blindness.WHOLE, Blindness.MATRIX, Blindness.ROW)
_LISTS = frozenset({"calibration", "validation", "text"})
SMALLEST = 1e-12
"""What a divergence counts as at least, so that the logarithm of its ratio is finite."""


class SeveralEvaluator:
    """Measures importances under several conditions at once.

    Models that conditions share are held once, with one dense copy of their weights; memory is
    otherwise that of the conditions together.

    Args:
        configs: Two conditions or more; they have as many validation blocks each.
        cache: Folder of the cache of statistics.
        notice: Told when something was mended on the way.

    Raises:
        ConfigError: Conditions do not go together, or one is searched on another's report text.
    """

    def __init__(
        self, configs: Sequence[PruningConfig], *, cache: Path, notice: Callable[[str], None]
    ) -> None:
        _check(configs)
        held: dict[tuple[str, str, str], tuple[LoadedModel, dict[str, Tensor]]] = {}
        self.conditions: list[PruningEvaluator] = []
        for config in configs:
            which = (config.model, config.device, config.dtype)
            if which not in held:
                model, device, dtype = which
                check_loading(model, device=device, dtype=dtype)
                held[which] = load_model(model, device=device, dtype=dtype), {}
            loaded, spare = held[which]
            self.conditions.append(
                PruningEvaluator(config, cache=cache, notice=notice, loaded=loaded, spare=spare)
            )
        self._reference: dict[tuple[int, float], float] = {}
        self._keep_apart()

    @classmethod
    def from_options(
        cls, options: Mapping[str, Any], *, cache: Path, notice: Callable[[str], None]
    ) -> Self:
        """Return the evaluator that plain options ask for.

        Args:
            options: Of the pruning evaluator, the same for all conditions; and `condition`, a list
                of words such as `sparsity=0.6 calibration=a.txt,b.txt`, one a condition, which
                override them.
            cache: Folder of the cache of statistics.
            notice: Told when something was mended on the way.

        Raises:
            ConfigError: An option, a text or a model cannot serve.
        """
        common = {name: value for name, value in options.items() if name != "condition"}
        said = options.get("condition")
        if not isinstance(said, list | tuple) or len(said) < 2:
            raise ConfigError(
                "several conditions need two or more, such as --condition sparsity=0.6 --condition "
                "pattern=2:4"
            )
        configs = [PruningConfig.from_options(merged(common, words)) for words in said]
        if any(config.stream for config in configs):
            raise ConfigError("stream is for `autoproxy prune` alone; leave it away")
        return cls(configs, cache=cache, notice=notice)

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        for condition in self.conditions:
            self._stack.enter_context(condition)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def objective(self) -> Objective:
        """Mean log-ratio of KL to Wanda's, to be small."""
        return Objective("log_ratio", "log of KL to Wanda's", Direction.MINIMIZE)

    @property
    def provides(self) -> frozenset[str]:
        """What all conditions provide."""
        return frozenset.intersection(*(c.provides for c in self.conditions))

    @property
    def fidelities(self) -> tuple[float, ...]:
        """Those of each condition; they are the same."""
        return self.conditions[0].fidelities

    @property
    def blindness(self) -> Blindness:
        """What no condition sees."""
        return min((c.blindness for c in self.conditions), key=_STRICTEST_FIRST.index)

    def protocol(self) -> dict[str, Any]:
        """Return everything that determines a value."""
        parts = [condition.protocol() for condition in self.conditions]
        return {
            "evaluator": "several",
            "model": "+".join(dict.fromkeys(str(part["model"]) for part in parts)),
            "condition": "+".join(dict.fromkeys(str(part["condition"]) for part in parts)),
            "reference": str(WANDA),
            "conditions": parts,
        }

    def prepare(self, names: Iterable[str]) -> None:
        """Check all texts and measure the statistics that will be needed."""
        wanted = frozenset(names) | WANDA.terminals()
        for condition in self.conditions:
            condition.prepare(wanted)
        self._keep_apart()  # of a corpus of documents it is known only now what is read

    def behaviour(
        self, expressions: Sequence[Expression], reject: float = math.inf
    ) -> list[Fingerprint | Failed]:
        """Return the orders under all conditions as one digest; hopeless in one is hopeless."""
        parts = [condition.behaviour(expressions, reject) for condition in self.conditions]
        return [_joined(fingerprints) for fingerprints in zip(*parts, strict=True)]

    def values(self, expressions: Sequence[Expression]) -> list[str]:
        """Return digests of the values of parts of formulas under all conditions."""
        parts = [condition.values(expressions) for condition in self.conditions]
        return [content_hash(digests) for digests in zip(*parts, strict=True)]

    def identity(self, expression: Expression) -> str | Failed:
        """Return the hash of the masks under all conditions."""
        digests = []
        for condition in self.conditions:
            digest = condition.identity(expression)
            if isinstance(digest, Failed):
                return digest
            digests.append(digest)
        return content_hash(digests)

    def difference(self, one: Expression, other: Expression) -> float:
        """Return the largest share of mask bits in which two differ under any condition."""
        return max(condition.difference(one, other) for condition in self.conditions)

    def measure(self, expressions: Sequence[Expression], fidelity: float) -> Iterator[Outcome]:
        """Yield the mean log-ratio of each importance to Wanda's."""
        for expression in expressions:
            yield self._measure(expression, fidelity)

    @property
    def root(self) -> Kind:
        """Kind of the formulas that each condition rates."""
        return self.conditions[0].root

    def confirm(self, expression: Expression) -> tuple[float, ...]:
        """Return the loss on each fresh block of each condition, in nats."""
        return tuple(loss for c in self.conditions for loss in c.confirm(expression))

    def _keep_apart(self) -> None:
        """Refuse a condition whose report text another is searched on.

        Raises:
            ConfigError: There is such.
        """
        for (one, first), (other, second) in itertools.permutations(
            enumerate(self.conditions, 1), 2
        ):
            ours, theirs = f"condition {one}", f"condition {other}"
            first.texts.keep_apart_from(second.texts, ours=ours, theirs=theirs)

    def _measure(self, expression: Expression, fidelity: float) -> Outcome:
        ratios: list[float] = []
        details: dict[str, float] = {}
        by_block: list[list[float]] = []
        seconds = 0.0
        for number, condition in enumerate(self.conditions, 1):
            (outcome,) = condition.measure([expression], fidelity)
            seconds += outcome.seconds
            if isinstance(outcome, Failed):
                return Failed(f"condition {number}: {outcome.reason}", seconds)
            reference = self._wanda(number - 1, fidelity)
            ratios.append(math.log(max(outcome.value, SMALLEST) / reference))
            by_block.append([value / reference for value in outcome.blocks])
            details[f"kl_{number}"] = outcome.value
            for name in ("nll", "perplexity"):
                details[f"{name}_{number}"] = outcome.details[name]
        for number, shares in enumerate(zip(*by_block, strict=True), 1):
            details[f"{BLOCK}{number}"] = math.fsum(shares) / len(shares)
        return Measured(math.fsum(ratios) / len(ratios), fidelity, seconds, details)

    def _wanda(self, number: int, fidelity: float) -> float:
        """Return the divergence that Wanda's metric has under a condition."""
        if (number, fidelity) not in self._reference:
            (outcome,) = self.conditions[number].measure([WANDA], fidelity)
            if isinstance(outcome, Failed):
                raise ConfigError(
                    f"condition {number + 1} cannot be compared with Wanda's metric, which fails "
                    f"there: {outcome.reason}; leave it out"
                )
            self._reference[number, fidelity] = max(outcome.value, SMALLEST)
        return self._reference[number, fidelity]


def merged(common: Mapping[str, Any], words: str) -> dict[str, Any]:
    """Return evaluator options, overridden by the words of one condition.

    Raises:
        ConfigError: A word is not NAME=VALUE.

    >>> merged({"group": "row", "sparsity": "0.5"}, "pattern=2:4 calibration=a.txt,b.txt")
    {'group': 'row', 'pattern': '2:4', 'calibration': ['a.txt', 'b.txt']}
    """
    try:
        parts = [part.partition("=") for part in shlex.split(str(words))]
    except ValueError as error:
        raise ConfigError(f"condition {words!r} cannot be read: {error}") from None
    if not parts or not all(name and equals and value for name, equals, value in parts):
        raise ConfigError(
            f"condition {words!r} is not NAME=VALUE words, such as 'sparsity=0.6 calibration=a.txt'"
        )
    own = {name.replace("-", "_"): _value(name, value) for name, _, value in parts}
    amount = {"sparsity", "pattern"} if own.keys() & {"sparsity", "pattern"} else set()
    return {**{name: value for name, value in common.items() if name not in amount}, **own}


def _value(name: str, value: str) -> Any:
    if name in _LISTS:
        return value.split(",")
    return int(value) if value.isdecimal() and name != "sparsity" else value


def _check(configs: Sequence[PruningConfig]) -> None:
    counts = {config.validation_blocks for config in configs}
    if len(counts) > 1:
        raise ConfigError(
            "all conditions are measured on as many validation blocks, but "
            f"{', '.join(map(str, sorted(counts)))} were asked for; give one --validation-blocks"
        )
    if len(set(configs)) < len(configs):
        raise ConfigError("two conditions are the same; leave one out or change it")


def _joined(fingerprints: Sequence[Fingerprint | Failed]) -> Fingerprint | Failed:
    seen = []
    for fingerprint in fingerprints:
        if isinstance(fingerprint, Failed):
            return fingerprint
        seen.append(fingerprint)
    # The least distortion: hopeless is what is hopeless under every condition.
    known = [one.distortion for one in seen if one.distortion is not None]
    return Fingerprint(content_hash([one.digest for one in seen]), min(known, default=None))
