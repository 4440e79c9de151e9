"""What the search and an evaluator say to each other: objectives, outcomes, the contract."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

from autoproxy.language.blindness import Blindness
from autoproxy.language.expression import Expression
from autoproxy.language.parse import parse


class Direction(Enum):
    """Which way is better."""

    MINIMIZE = "min"
    MAXIMIZE = "max"


@dataclass(frozen=True, slots=True)
class Objective:
    """A measured quantity: its name, its unit, and which way is better."""

    name: str
    unit: str
    direction: Direction

    def better(self, a: float, b: float) -> bool:
        """Return whether `a` beats `b`. The only comparison of values in the project."""
        return a < b if self.direction is Direction.MINIMIZE else a > b

    @property
    def sign(self) -> float:
        """Factor that turns a value into one where lower is better."""
        return 1.0 if self.direction is Direction.MINIMIZE else -1.0


@dataclass(frozen=True, slots=True)
class Measured:
    """The evaluator measured `value` at `fidelity`, a share of full cost in (0, 1].

    Attributes:
        value: In the objective's unit; always finite.
        fidelity: Share of full cost; 1 is full.
        seconds: Wall-clock time that the measurement took; recorded, never decides.
        details: Further numbers measured on the way, by name (for example `perplexity`).
    """

    value: float
    fidelity: float
    seconds: float = 0.0
    details: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"a measured value is finite, got {self.value}; use Failed")

    @property
    def blocks(self) -> tuple[float, ...]:
        """Its values block by block, where it has been measured so; see `by_block`."""
        return by_block(self.details)


BLOCK = "block_"
"""With a number from 1 behind it, the name of the detail that is the value on one block."""


def by_block(details: Mapping[str, float]) -> tuple[float, ...]:
    """Return the values on single blocks, which are the same blocks for every candidate.

    >>> by_block({"perplexity": 9.0, "block_1": 0.5, "block_2": 0.25})
    (0.5, 0.25)
    """
    count = sum(name.startswith(BLOCK) for name in details)
    return tuple(details[f"{BLOCK}{number}"] for number in range(1, count + 1))


@dataclass(frozen=True, slots=True)
class Failed:
    """The candidate has no value, and here is why. It never enters a ranking as a number."""

    reason: str
    seconds: float = 0.0


Outcome = Measured | Failed


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What an expression does on a probe of real rows, up to what the objective is blind to.

    Two expressions with one fingerprint are very likely one candidate; only equal `identity`
    (see `Evaluator`) makes it certain.

    Attributes:
        digest: What is compared.
        distortion: How much worse than a known good metric it does on something cheap: 1 is as
            good, more is worse. It rejects the hopeless and never ranks the good, whom it does
            not tell apart. None where there is nothing of the kind.
    """

    digest: str
    distortion: float | None = None


@dataclass(frozen=True, slots=True)
class Individual:
    """An expression that was measured at full fidelity, with where it came from.

    Attributes:
        text: Its canonical form; text rather than a tree, since a run may hold 100,000 of them.
        key: Content hash of the canonical form.
        complexity: Sum of the costs of its primitives and one for each leaf.
        value: Measured at fidelity 1, in the objective's unit.
        slot: Position in the run's order of proposals.
        origin: `random` or `seed`; of one parent `subtree`, `point`, `wrap`, `shrink`, `constant`,
            `tuned` or `fitted`; of two `crossover` or `blend`.
        parents: Keys of the individuals it was bred from.
        details: Further numbers measured on the way, such as `perplexity`.
        generation: In which it was bred.
    """

    text: str
    key: str
    complexity: int
    value: float
    slot: int
    origin: str = "random"
    parents: tuple[str, ...] = ()
    details: Mapping[str, float] = field(default_factory=dict)
    generation: int = 0

    @property
    def expression(self) -> Expression:
        """The tree that `text` spells."""
        return _spelled(self.text)


@lru_cache(maxsize=10_000)
def _spelled(text: str) -> Expression:
    return parse(text)


class Evaluator(Protocol):
    """Measures expressions on real models. Deterministic: same protocol, same value.

    Attributes:
        objective: What is measured.
        provides: Names of the terminals it can supply.
        fidelities: Rungs of the ladder in (0, 1], ascending; the last is 1.
        blindness: What its comparison of importances cannot see.
    """

    @property
    def objective(self) -> Objective: ...  # noqa: D102
    @property
    def provides(self) -> frozenset[str]: ...  # noqa: D102
    @property
    def fidelities(self) -> tuple[float, ...]: ...  # noqa: D102
    @property
    def blindness(self) -> Blindness: ...  # noqa: D102

    def protocol(self) -> Mapping[str, Any]:
        """Return everything that determines a value, as plain JSON types."""
        ...

    def behaviour(
        self, expressions: Sequence[Expression], reject: float = math.inf
    ) -> Sequence[Fingerprint | Failed]:
        """Return what each expression does on the probe, or why it is hopeless. Cheap.

        The probe of one whose distortion is sure to exceed `reject` may be given up; it says a
        distortion above that all the same.
        """
        ...

    def identity(self, expression: Expression) -> str | Failed:
        """Return the hash of everything the objective sees of it (for pruning: all masks)."""
        ...

    def confirm(self, expression: Expression) -> Sequence[float]:
        """Return one loss a block on fresh blocks, the same ones for every expression.

        Lower is better whatever the objective; pairs of them re-rank the finalists of a search.
        """
        ...

    def measure(self, expressions: Sequence[Expression], fidelity: float) -> Iterator[Outcome]:
        """Yield one outcome for each expression, in order, as soon as it is known."""
        ...


@runtime_checkable
class Fitting(Protocol):
    """What an evaluator may offer besides: numbers of a formula can be fitted at no cost."""

    def residuals(self, expression: Expression) -> Sequence[float] | None:
        """Return what an expression leaves unexplained of what the search may see.

        One number for each label, together of length 1 where nothing is explained, 0 where all
        is. They change smoothly with the numbers above the layers, where the objective goes in
        steps. None where there are no scores.
        """
        ...


def content_hash(value: object) -> str:
    """Return the 128-bit hash of a JSON-like value, the same on every machine.

    >>> content_hash({"b": 1, "a": [0.5]}) == content_hash({"a": [0.5], "b": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
