"""Every formula of a space up to a size, each once: from the leaves up, size after size.

What is known to be one is merged as early as it may be. *Parts* merge by value alone: first by
their canonical form, then by the bits of their values on real rows. *Whole formulas* merge by
order besides: first by algebra, then by the order that they give to real rows. Parts never merge
by order: A and A squared order alike, A + s and A squared + s do not.

Since every larger tree is built from what smaller ones were merged into, a formula is lost only if
it was merged with one that is not the same; `autoproxy.search.audit` draws such merges and looks.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Protocol, TypeVar

from autoproxy.errors import ConfigError
from autoproxy.evaluation import Evaluator, Failed
from autoproxy.language.canonical import canonical, order_key
from autoproxy.language.catalog import CATALOG
from autoproxy.language.expression import Expression
from autoproxy.language.parse import kind_of, of_numbers
from autoproxy.language.types import Kind
from autoproxy.search.words import Formation, Words, splits
from autoproxy.spaces import SearchSpace

BATCH = 512
"""Expressions that are shown real rows in one program."""

TELL_EVERY = 5000
"""Trees between two words about how many there are."""

_Item = TypeVar("_Item")


class Valuer(Protocol):
    """An evaluator that can tell parts of formulas apart by their values."""

    def values(self, expressions: Sequence[Expression]) -> Sequence[str | None]:
        """Return a digest of the bits of each value on real rows of every layer.

        Two parts of one kind with one digest are taken for one. The kinds are any but Exponent;
        None for a value that is not to be merged with any other.
        """
        ...


@dataclass(slots=True)
class SizeCount:
    """How many there are of one size, stage by stage; each counts what the one before it left.

    Attributes:
        size: Nodes.
        trees: Whole formulas as trees over the words of the space.
        built: Trees of any kind that were built from smaller ones, after merging those.
        canonical: Of these, different canonical forms that no smaller tree has.
        by_value: Of the parts among these, different values on real rows; None for the last size,
            which are no parts of anything, and where the evaluator has no values.
        formulas: Whole formulas among what is left.
        hopeless: Formulas without a usable order on real rows, each order by algebra once.
        by_algebra: Formulas whose order no simpler one has by algebra, the hopeless left out.
        by_order: Of these, formulas that give real rows an order that no simpler one gives.
    """

    size: int
    trees: int = 0
    built: int = 0
    canonical: int = 0
    by_value: int | None = None
    formulas: int = 0
    hopeless: int = 0
    by_algebra: int = 0
    by_order: int = 0

    def to_json(self) -> dict[str, int | None]:
        """Return the counts as plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Formula:
    """A whole formula that stands for all of its order.

    Attributes:
        expression: Its canonical form, the simplest of those that were built.
        size: Nodes of the smallest tree over the words of the space that is of this order; the
            canonical form may have fewer, since it may use other words.
        distortion: Of its fingerprint.
    """

    expression: Expression
    size: int
    distortion: float | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """What became of one tree.

    Attributes:
        merged: Its canonical form with every part replaced by what that was merged into.
        stands: What stands for it now; None if it is hopeless.
        ways: Which merges it went through: `value`, `algebra`, `order`.
    """

    merged: Expression
    stands: Formula | None
    ways: frozenset[str]


@dataclass(slots=True)
class _Class:
    """Formulas of one order; `formula` is None for the hopeless."""

    formula: Formula | None
    order: str = ""


@dataclass(slots=True)
class Enumeration:
    """Builds every formula of a space up to a size, each once.

    Memory: about half a kilobyte for each different part, and for each different canonical form
    of the last size; values are never kept, only their digests.

    Args:
        space: Words, root kind and limits.
        evaluator: Its `behaviour` gives orders, its `values`, if it has them, values of parts.
        size: Most nodes of a formula, numbers and exponents included.
        tell: Told the stage, and how much of how much is done; of 0 where that is not known.

    Raises:
        ConfigError: The size is beyond the limits of the space.
    """

    space: SearchSpace
    evaluator: Evaluator
    size: int
    tell: Callable[[str, int, int], None] = lambda *_: None
    words: Words = field(init=False)
    counts: list[SizeCount] = field(init=False, default_factory=list)
    formulas: list[Formula] = field(init=False, default_factory=list)
    _parts: dict[tuple[Kind, int], list[Expression]] = field(init=False, default_factory=dict)
    _known: dict[Kind, set[Expression]] = field(init=False, default_factory=dict)
    _first: dict[tuple[Kind, str], Expression] = field(init=False, default_factory=dict)
    _merged: dict[Expression, Expression] = field(init=False, default_factory=dict)
    _orders: dict[str, _Class] = field(init=False, default_factory=dict)
    _seen: dict[str, _Class] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        most = min(self.space.max_size, self.space.max_depth)
        if not 1 <= self.size <= most:
            raise ConfigError(
                f"size must lie in [1, {most}], the limits of space {self.space.name!r}, got "
                f"{self.size}"
            )
        self.words = Words.of(self.space)

    @property
    def merges_by_value(self) -> bool:
        """Whether parts merge by their values, and not by canonical form alone."""
        return getattr(self.evaluator, "values", None) is not None

    def run(self) -> list[Formula]:
        """Return every formula that no simpler one is known to be; fill `counts`.

        They come in order of size, then of the size and text of the canonical form, so that the
        first of an order is the simplest.
        """
        for size in range(1, self.size + 1):
            count = SizeCount(size, trees=self.words.formulas(size))
            self.counts.append(count)
            forms = self._built(size, count)
            if size < self.size:
                forms = self._different(forms, size, count)
            self._judge(forms.get(self.space.root, []), count)
        return self.formulas

    def route(self, tree: Expression) -> Route:
        """Return what became of a tree over the words of the space, of at most `size` nodes."""
        ways: set[str] = set()
        merged = self._stand_in(tree, ways)
        found = self._orders.get(order_key(merged, self.evaluator.blindness))
        stands = None if found is None else found.formula
        if found is not None and stands is not None and stands.expression != merged:
            same = order_key(stands.expression, self.evaluator.blindness)
            ways.add("algebra" if same == found.order else "order")
        return Route(merged, stands, frozenset(ways))

    def _stand_in(self, node: Expression, ways: set[str]) -> Expression:
        """Return what a tree was merged into by value, all its parts before it."""
        parts = tuple(self._stand_in(operand, ways) for operand in node.operands)
        form = canonical(Expression(node.head, parts, node.value))
        if form not in self._merged:
            return form
        ways.add("value")
        return self._merged[form]

    def _built(self, size: int, count: SizeCount) -> dict[Kind, list[Expression]]:
        """Return the new canonical forms of a size by kind, the simplest first."""
        last = size == self.size
        fresh: dict[Kind, set[Expression]] = {}
        for kind, tree in self._trees(size):
            if last and kind is not self.space.root:
                continue
            count.built += 1
            if count.built % TELL_EVERY == 0:
                self.tell(f"trees of size {size}", count.built, 0)
            form = canonical(tree)
            known = self._known.setdefault(kind, set())
            if form not in known:
                known.add(form)
                fresh.setdefault(kind, set()).add(form)
        count.canonical = sum(map(len, fresh.values()))
        return {kind: sorted(forms, key=_simplicity) for kind, forms in fresh.items()}

    def _trees(self, size: int) -> Iterator[tuple[Kind, Expression]]:
        """Yield all trees of a size whose parts stand for all of their value."""
        for kind in self.words.leaves:
            yield from ((kind, leaf) for leaf in self.words.leaves_of(kind, size))
        for formation in self.words.formations:
            for sizes in splits(size - 1, len(formation.operands)):
                if not _mirrored(formation, sizes):
                    places = zip(formation.operands, sizes, strict=True)
                    parts = [self._parts.get(place, []) for place in places]
                    for operands in product(*parts):
                        yield formation.result, Expression(formation.head, operands)

    def _different(
        self, forms: dict[Kind, list[Expression]], size: int, count: SizeCount
    ) -> dict[Kind, list[Expression]]:
        """Merge new parts by value with all that are no larger; keep those that are left."""
        left: dict[Kind, list[Expression]] = {}
        for kind, asked in forms.items():
            digests = self._digests(kind, asked)
            left[kind] = []
            for form, digest in zip(asked, digests, strict=True):
                first = form if digest is None else self._first.setdefault((kind, digest), form)
                if first is form:
                    left[kind].append(form)
                else:
                    self._merged[form] = first
            self._parts[kind, size] = left[kind]
        if self.merges_by_value:
            count.by_value = sum(map(len, left.values()))
        return left

    def _digests(self, kind: Kind, forms: Sequence[Expression]) -> Iterator[str | None]:
        """Yield the digests of values of parts, or None for those that are not merged by them."""
        values = getattr(self.evaluator, "values", None)
        for batch in _batches(forms):
            plain = [_is_plain(kind, form) for form in batch]
            asked = [form for form, is_plain in zip(batch, plain, strict=True) if not is_plain]
            found = iter(values(asked) if values and asked else [None] * len(asked))
            yield from (None if is_plain else next(found) for is_plain in plain)

    def _judge(self, forms: Sequence[Expression], count: SizeCount) -> None:
        """Merge whole formulas by order with all that are no larger; keep those that are left."""
        waiting: list[tuple[Expression, _Class]] = []
        for form in forms:
            if self.space.root is Kind.MODEL and kind_of(form) is not Kind.MODEL:
                continue  # made of numbers alone
            count.formulas += 1
            order = order_key(form, self.evaluator.blindness)
            if order not in self._orders:
                self._orders[order] = _Class(None, order)
                waiting.append((form, self._orders[order]))
        for done, batch in enumerate(_batches(waiting)):
            self.tell(f"orders of size {count.size}", done * BATCH, len(waiting))
            self._probe(batch, count)

    def _probe(self, batch: Sequence[tuple[Expression, _Class]], count: SizeCount) -> None:
        behaviours = self.evaluator.behaviour([form for form, _ in batch])
        for (form, of_order), behaviour in zip(batch, behaviours, strict=True):
            if isinstance(behaviour, Failed):
                count.hopeless += 1
                continue
            count.by_algebra += 1
            first = self._seen.setdefault(behaviour.digest, of_order)
            if first is of_order:
                count.by_order += 1
                of_order.formula = Formula(form, count.size, behaviour.distortion)
                self.formulas.append(of_order.formula)
            of_order.formula = first.formula


def totals(counts: Iterable[SizeCount]) -> dict[str, int]:
    """Return the counts of all sizes together.

    >>> totals([SizeCount(1, trees=3), SizeCount(2, trees=24)])["trees"]
    27
    """
    found: Counter[str] = Counter()
    for count in counts:
        found.update({name: value or 0 for name, value in count.to_json().items()})
    del found["size"]
    return dict(found)


def _batches(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


def _is_plain(kind: Kind, form: Expression) -> bool:
    """Return whether text alone says all of a part, which is then merged with nothing by value.

    A number is one value as a Scalar, of which a part may turn out to be a long name, and another
    as a Model.
    """
    return kind is Kind.EXPONENT or (
        of_numbers(form) and not (kind is Kind.SCALAR and form.is_constant)
    )


def _simplicity(form: Expression) -> tuple[int, str]:
    return form.size, str(form)


def _mirrored(formation: Formation, sizes: Sequence[int]) -> bool:
    """Return whether trees with these operands are others with the operands changed about."""
    if len(sizes) != 2 or not CATALOG[formation.head].commutative:
        return False
    left, right = zip(map(_RANKS.__getitem__, formation.operands), sizes, strict=True)
    return left > right


_RANKS = {kind: rank for rank, kind in enumerate(Kind)}
