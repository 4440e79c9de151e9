"""How often the merging of an enumeration was wrong: a sample, held against full identities."""

from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from scipy import stats

from autoproxy.evaluation import Failed
from autoproxy.language.expression import Expression
from autoproxy.search.enumeration import Enumeration, Route
from autoproxy.seeding import stream

WAYS = {
    "value": "parts of equal value on real rows",
    "algebra": "formulas of equal order by algebra",
    "order": "formulas of equal order on real rows",
}
"""The ways to be merged that may be wrong, and what each says."""

CONFIDENCE = 0.95
"""Of the upper bounds."""

TRIES = 400
"""Trees that are drawn at most for each merge that is asked for: some ways are rare."""

MEASURED = 20
"""Wrong merges of each way whose two sides are measured, to know what they are worth."""


@dataclass(slots=True)
class Tally:
    """Checked merges of one way, and those that were wrong, as tree and stand-in."""

    checked: int = 0
    false: list[tuple[Expression, Expression]] = field(default_factory=list)

    def upper(self, *, every: bool) -> float | None:
        """Return the upper bound of the rate, which is the rate where all merges were checked."""
        if not self.checked:
            return None
        if every:
            return len(self.false) / self.checked
        return upper_bound(len(self.false), self.checked)


@dataclass(slots=True)
class Audit:
    """Draws trees evenly from all trees of an enumeration, and checks what became of them.

    A tree that was merged is right if its identity, of the tree as it was drawn, is that of the
    formula that stands for it; one whose stand-in is hopeless, if it is hopeless itself.

    Args:
        enumeration: After its `run`.
        count: How many trees are checked of each way to be merged.
        seed: Of the draw.
        value: Measures an expression in full; None where it has no value.
        tell: Told how many are checked of how many.

    Attributes:
        tallies: By way; a tree that was merged in two ways counts for both.
        drawn: How many different trees were drawn.
    """

    enumeration: Enumeration
    count: int
    seed: int
    value: Callable[[Expression], float | None]
    tell: Callable[[int, int], None] = lambda *_: None
    tallies: dict[str, Tally] = field(init=False, default_factory=dict)
    drawn: int = field(init=False, default=0)
    _identities: dict[Expression, str | Failed] = field(init=False, default_factory=dict)

    def run(self) -> None:
        """Draw and check until each way has its count, or is too rare to get there."""
        self.tallies = {way: Tally() for way in WAYS}
        for tree in self._trees():
            lacking = self._lacking()
            if not lacking:
                break
            self.drawn += 1
            route = self.enumeration.route(tree)
            if route.ways & lacking:
                self._check(tree, route, route.ways & lacking)
                done = sum(min(self.count, tally.checked) for tally in self.tallies.values())
                self.tell(done, self.count * len(WAYS))

    def to_json(self) -> dict[str, Any]:
        """Return the tallies, the largest upper bound, and what wrong merges are worth.

        `gain` is by how much, at most, the value of a tree that was merged wrongly is better than
        that of its stand-in.
        """
        ways = {way: self._told(way, tally) for way, tally in self.tallies.items()}
        bounds = [told["upper"] for told in ways.values() if told["upper"] is not None]
        gains = [told["gain"] for told in ways.values() if told["gain"] is not None]
        return {
            "seed": self.seed,
            "drawn": self.drawn,
            "trees": self._total,
            "confidence": CONFIDENCE,
            "checked": sum(told["checked"] for told in ways.values()),
            "false": sum(told["false"] for told in ways.values()),
            "upper": max(bounds, default=None),
            "gain": max(gains, default=None),
            "ways": ways,
        }

    def _told(self, way: str, tally: Tally) -> dict[str, Any]:
        wrong, gains = [], []
        sign = self.enumeration.evaluator.objective.sign
        for tree, stands in tally.false[:MEASURED]:
            ours, other = self.value(tree), self.value(stands)
            wrong.append({"tree": str(tree), "stands": str(stands), "values": [ours, other]})
            if ours is not None and other is not None:
                gains.append(sign * (other - ours))
        every = self.drawn == self._total and tally.checked < self.count
        return {
            "what": WAYS[way],
            "checked": tally.checked,
            "false": len(tally.false),
            "rate": len(tally.false) / tally.checked if tally.checked else None,
            "upper": tally.upper(every=every),
            "gain": max(gains, default=None),
            "wrong": wrong,
        }

    @property
    def _total(self) -> int:
        sizes = range(1, self.enumeration.size + 1)
        return sum(map(self.enumeration.words.formulas, sizes))

    def _trees(self) -> Iterator[Expression]:
        """Yield different trees in an order that the seed decides; where they are few, all."""
        rng = stream(self.seed, "audit")
        words, most = self.enumeration.words, self.enumeration.size
        limit = TRIES * self.count
        if self._total <= limit:
            trees = list(words.every(most))
            rng.shuffle(trees)
            yield from trees
            return
        seen: set[Expression] = set()
        for _ in range(limit):
            tree = words.draw(rng, most)
            if tree not in seen:
                seen.add(tree)
                yield tree

    def _lacking(self) -> set[str]:
        return {way for way, tally in self.tallies.items() if tally.checked < self.count}

    def _check(self, tree: Expression, route: Route, ways: AbstractSet[str]) -> None:
        """Compare a tree with its stand-in, and count it for those ways that still draw.

        What is drawn for the sake of another way would be no fair sample of one that is full.
        """
        right = self._right(tree, route)
        for way in ways:
            tally = self.tallies[way]
            tally.checked += 1
            if not right:
                stands = route.stands.expression if route.stands else route.merged
                tally.false.append((tree, stands))

    def _right(self, tree: Expression, route: Route) -> bool:
        evaluator = self.enumeration.evaluator
        if route.stands is None:
            (behaviour,) = evaluator.behaviour([tree])
            return isinstance(behaviour, Failed)
        stands = route.stands.expression
        if stands not in self._identities:
            self._identities[stands] = evaluator.identity(stands)
        return evaluator.identity(tree) == self._identities[stands]


def upper_bound(false: int, checked: int) -> float:
    """Return the exact (Clopper-Pearson) upper bound of a rate, one-sided.

    >>> round(upper_bound(0, 300), 4), upper_bound(3, 3)
    (0.0099, 1.0)
    """
    if false >= checked:
        return 1.0
    return float(stats.beta.ppf(CONFIDENCE, false + 1, checked - false))
