"""The search space: which words expressions may use, within which limits, and who came before."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

from autoproxy.errors import ConfigError, ExpressionError, unknown_name
from autoproxy.evaluation import content_hash
from autoproxy.language.canonical import canonical
from autoproxy.language.catalog import CATALOG
from autoproxy.language.expression import Expression
from autoproxy.language.parse import MAX_DEPTH, kind_of, parse
from autoproxy.language.terminals import VOCABULARY
from autoproxy.language.types import Kind


@dataclass(frozen=True, slots=True)
class Baseline:
    """A metric written by people, in the language of this project.

    Attributes:
        name: Word used on the command line and on leaderboards.
        text: Its expression.
        source: Paper or code that it is from.
        reported: Whether every run compares its winner with it on the report text; the others
            are measured on the search text alone.
        sign: 1 where large values are meant to be good, -1 where small ones are.
    """

    name: str
    text: str
    source: str
    reported: bool = False
    sign: int = 1

    @property
    def expression(self) -> Expression:
        """The expression that `text` spells."""
        return parse(self.text)


@dataclass(frozen=True)
class SearchSpace:
    """Which expressions a search may propose.

    Attributes:
        name: Word used on the command line.
        root: Kind of a whole formula.
        terminals: Names of the terminals, with how often each is drawn (relative weights).
        primitives: Names of the primitives, with how often each is drawn (relative weights).
        constants: Numbers that scalar constants are drawn from; mutation moves them on. None
            where formulas are to have no numbers.
        exponents: Numbers that exponents are drawn from; none only without `pow`.
        max_size: Most nodes that an expression may have.
        max_depth: Longest path that an expression may have.
        baselines: Hand-made metrics to compare with (and to start from, where asked).
        run: Options of the run, such as its evaluator, where it says no others.
        search: Options of its search, the same way.
        leaves: What is written where a terminal is drawn, by its name, such as `abs(W)` for `W`:
            a branch that breeding never takes apart.
    """

    name: str
    root: Kind
    terminals: Mapping[str, int]
    primitives: Mapping[str, int]
    constants: tuple[float, ...]
    exponents: tuple[float, ...]
    max_size: int
    max_depth: int
    baselines: tuple[Baseline, ...] = field(default=())
    run: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    leaves: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind, names, known in (
            ("terminal", self.terminals, VOCABULARY),
            ("primitive", self.primitives, CATALOG),
        ):
            for name, weight in names.items():
                if name not in known:
                    raise ConfigError(f"space {self.name!r}: {unknown_name(kind, name, known)}")
                if weight < 1:
                    raise ConfigError(f"space {self.name!r}: weight of {name!r} must be >= 1")
        if not self.terminals or not self.primitives:
            raise ConfigError(f"space {self.name!r} needs at least one terminal and primitive")
        if not self.exponents and "pow" in self.primitives:
            raise ConfigError(f"space {self.name!r} has 'pow', so it needs exponents to draw from")
        self._check_limits()
        self._check_leaves()
        object.__setattr__(self, "terminals", MappingProxyType(dict(self.terminals)))
        object.__setattr__(self, "primitives", MappingProxyType(dict(self.primitives)))

    def _check_limits(self) -> None:
        """See that something fits into the limits, and that what fits can be read back."""
        if self.max_size < 1:
            raise ConfigError(f"space {self.name!r}: max_size must be >= 1, got {self.max_size}")
        if not 2 <= self.max_depth <= MAX_DEPTH:
            raise ConfigError(
                f"space {self.name!r}: max_depth must lie in [2, {MAX_DEPTH}] (no deeper formula "
                f"can be read back), got {self.max_depth}"
            )

    def _check_leaves(self) -> None:
        """See that a leaf is of its terminal's kind and reads that terminal alone."""
        for name, text in self.leaves.items():
            if name not in self.terminals:
                raise ConfigError(
                    f"space {self.name!r}: {unknown_name('leaf', name, self.terminals)}"
                )
            leaf = parse(text)
            if leaf.terminals() != {name} or kind_of(leaf) is not VOCABULARY[name].kind:
                raise ConfigError(
                    f"space {self.name!r}: the leaf of {name!r} must read {name} alone and be of "
                    f"kind {VOCABULARY[name].kind.value}, got {text}"
                )

    @cached_property
    def digest(self) -> str:
        """Content hash of everything that shapes a search: words, weights and limits."""
        return content_hash(
            {
                "root": self.root.value,
                "terminals": dict(self.terminals),
                "primitives": dict(self.primitives),
                "constants": list(self.constants),
                "exponents": list(self.exponents),
                "limits": [self.max_size, self.max_depth],
                **({"leaves": dict(self.leaves)} if self.leaves else {}),
            }
        )

    def leaf(self, terminal: str) -> Expression:
        """Return what is written where a terminal is drawn: its leaf, or itself."""
        return canonical(parse(self.leaves.get(terminal, terminal)))

    def baseline(self, name: str) -> Baseline:
        """Return the hand-made metric called `name`.

        Raises:
            ConfigError: There is none of that name; the message has the nearest.
        """
        by_name = {baseline.name: baseline for baseline in self.baselines}
        if name not in by_name:
            raise ConfigError(unknown_name("baseline", name, by_name))
        return by_name[name]

    @cached_property
    def seeds(self) -> tuple[Expression, ...]:
        """The hand-made metrics within its limits: what a search may start from."""
        known = (baseline.expression for baseline in self.baselines)
        return tuple(one for one in known if not self.violation(one))

    def violation(self, expression: Expression) -> str | None:
        """Return why `expression` is outside the limits and kinds of this space, or None.

        The words themselves are not held against it: a canonical form may use others (a
        product of equals becomes a square).
        """
        if expression.size > self.max_size:
            return f"size {expression.size} exceeds {self.max_size}"
        if expression.depth > self.max_depth:
            return f"depth {expression.depth} exceeds {self.max_depth}"
        try:
            kind = kind_of(expression)
        except ExpressionError as error:
            return str(error)
        if kind is not self.root:
            return f"its kind is {kind.value}, the space asks for {self.root.value}"
        foreign = expression.terminals() - set(self.terminals)
        if foreign:
            return f"terminals outside the space: {', '.join(sorted(foreign))}"
        return None
