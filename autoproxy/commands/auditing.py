"""An audit of a run: which of the candidates that it took for one are one, and how much was new."""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from autoproxy.commands import loading
from autoproxy.commands.plan import make_plan
from autoproxy.commands.progress import Progress, Show
from autoproxy.commands.workspace import Workspace
from autoproxy.errors import ConfigError
from autoproxy.evaluation import Failed, Measured, content_hash
from autoproxy.language.canonical import canonical, key
from autoproxy.language.expression import Expression
from autoproxy.language.parse import parse
from autoproxy.ledger.ledger import Ledger
from autoproxy.ledger.merges import MERGING, freshness, merged_with, rate_interval
from autoproxy.ledger.records import Evaluation, Event
from autoproxy.seeding import stream
from autoproxy.sieve.sieve import judged
from autoproxy.spaces import SearchSpace

T = TypeVar("T")

MOST_SHOWN = 10
"""Pairs of one kind that are shown and measured, when they turn out to differ."""

EXACT = "same-mask"
"""The rule whose merges are exact by construction, and only counted."""

SIMPLIFICATION = "simplification"

_WORDED = frozenset({*MERGING, "distorting"})
"""Rules that drop proposals which the evaluator can rate: their text is the proposal's own."""


@dataclass(frozen=True, slots=True)
class AuditOrder:
    """What is to be audited.

    Attributes:
        run: Name of the run; None for the latest.
        sample: Most merges of each rule that are looked at, and most simplifications.
        seed: Of the draw of the sample.
    """

    run: str | None
    sample: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.sample <= 1_000_000:
            raise ConfigError(f"--sample must lie in [1, 1000000], got {self.sample}")


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two formulas that were taken for one, each with the slot that it is of."""

    slots: tuple[int, int]
    formulas: tuple[Expression, Expression]


@dataclass(frozen=True, slots=True)
class _Stratum:
    """The merges of one kind: how many there are, and those that are looked at."""

    name: str
    tier: str | None
    merged: int
    pairs: Sequence[_Pair] = field(default=())


def audit_run(workspace: Workspace, order: AuditOrder, show: Show) -> dict[str, Any]:
    """Make the formulas of a sample of merges again and compare all that the objective sees.

    Args:
        workspace: Where the run is.
        order: Which run, and how many of its merges.
        show: Told of every comparison.

    Returns:
        `run`, `same`, `proposed`, `kept`; `merges`, one row a rule and one for simplification
        (`rule`, `tier`, `merged`, `compared`, `different`, `rate`, `low`, `high`; of those that
        differ the `median_share` and `largest_share` of what is seen, and `examples`);
        `freshness` by generation; `seconds`.

    Raises:
        ConfigError: There is no such run, or its evaluator is not what it was.
        StorageError: Its ledger is not here; an empty one would have nothing to audit.
    """
    began = time.monotonic()
    name = workspace.existing_run(order.run)
    workspace, _ = workspace.at_ledger_of(name)
    plan = make_plan(workspace.run_folder(name) / "run.toml", run={}, search={}, evaluator={})
    space = loading.space(plan.space)
    options = {"seed": plan.search.seed, **plan.options}
    show(Progress("statistics"))
    with (
        Ledger.open(workspace.ledger, make=False) as ledger,
        loading.evaluator(
            plan.evaluator,
            options,
            cache=workspace.cache,
            notice=lambda text: show(Progress("statistics", notice=text)),
        ) as evaluator,
    ):
        _check_protocol(ledger, name, evaluator)
        evaluator.prepare(loading.needed_terminals(space, evaluator))
        events = ledger.events(name)
        same = plan.search.same
        strata = _strata(events, order, space, evaluator, same)
        auditor = _Auditor(ledger, evaluator, show, sum(len(s.pairs) for s in strata))
        rows = [auditor.row(stratum) for stratum in strata]
    return {
        "run": name,
        "same": same,
        "proposed": len(events),
        "kept": sum(event.fate != "dropped" for event in events),
        "merges": rows,
        "freshness": [one.to_json() for one in freshness(events)],
        "seconds": round(time.monotonic() - began, 3),
    }


def _check_protocol(ledger: Ledger, run: str, evaluator: loading.OpenEvaluator) -> None:
    was, now = ledger.run(run).protocol, evaluator.protocol()
    if content_hash(dict(was)) == content_hash(dict(now)):
        return
    changed = sorted(k for k in {*was, *now} if was.get(k) != now.get(k))
    raise ConfigError(
        f"run {run!r} cannot be audited: {', '.join(changed)} changed since, so its masks cannot "
        "be made again; audit it with the program, model and texts that it ran with"
    )


def _strata(
    events: Sequence[Event],
    order: AuditOrder,
    space: SearchSpace,
    evaluator: loading.OpenEvaluator,
    same: str,
) -> list[_Stratum]:
    """Return a sample of the merges of each rule, and of what simplification changed."""

    def made(event: Event) -> Expression:
        return canonical(judged(parse(event.text), same, space, evaluator.blindness))

    by_slot = {event.slot: event for event in events}
    strata = []
    for rule, tier in MERGING.items():
        merged = [event for event in events if event.rule == rule]
        # What waited to be measured when the budget was spent has no event.
        both = [(e, by_slot[first]) for e in merged if (first := merged_with(e)) in by_slot]
        chosen = [] if rule == EXACT else _sampled(both, order, rule)
        pairs = [_Pair((e.slot, first.slot), (made(e), made(first))) for e, first in chosen]
        strata.append(_Stratum(rule, same if same == "text" else tier, len(merged), pairs))
    changed = [
        _Pair((event.slot, event.slot), (canonical(parse(event.text)), made(event)))
        for event in events
        if event.rule in _WORDED and canonical(parse(event.text)) != made(event)
    ]
    chosen_pairs = _sampled(changed, order, SIMPLIFICATION)
    return [*strata, _Stratum(SIMPLIFICATION, None, len(changed), chosen_pairs)]


def _sampled(found: Sequence[T], order: AuditOrder, name: str) -> list[T]:
    """Return so many of what was found, drawn without replacement, in their order."""
    draw = stream(order.seed, "audit", name)
    places = sorted(draw.sample(range(len(found)), min(order.sample, len(found))))
    return [found[place] for place in places]


class _Auditor:
    """Compares pairs, and measures those that differ."""

    def __init__(
        self, ledger: Ledger, evaluator: loading.OpenEvaluator, show: Show, total: int
    ) -> None:
        self._ledger = ledger
        self._evaluator = evaluator
        self._show = show
        self._total = total
        self._done = 0
        self._began = time.monotonic()
        self._protocol = ledger.remember_protocol(evaluator.protocol())

    def row(self, stratum: _Stratum) -> dict[str, Any]:
        """Return what became of the pairs of a stratum."""
        different = list(self._different(stratum.pairs))
        low, high = rate_interval(len(different), len(stratum.pairs))
        known = bool(stratum.pairs)
        shares = [share for _, share in different]
        return {
            "rule": stratum.name,
            "tier": stratum.tier,
            "merged": stratum.merged,
            "compared": len(stratum.pairs),
            "different": len(different) if known else None,
            "rate": len(different) / len(stratum.pairs) if known else None,
            "low": low if known else None,
            "high": high if known else None,
            "median_share": statistics.median(shares) if shares else None,
            "largest_share": max(shares, default=None),
            "examples": [self._example(pair, share) for pair, share in different[:MOST_SHOWN]],
        }

    def _different(self, pairs: Sequence[_Pair]) -> Iterator[tuple[_Pair, float]]:
        """Yield the pairs that are not one, with the share of what is seen of them that differs."""
        for pair in pairs:
            share = 0.0 if pair.formulas[0] == pair.formulas[1] else self._share(*pair.formulas)
            self._done += 1
            seconds = time.monotonic() - self._began
            self._show(Progress("audit", self._done, self._total, seconds))
            if share:
                yield pair, share

    def _share(self, one: Expression, other: Expression) -> float:
        """Return the share of mask bits that differ; 1 for an evaluator that tells no shares."""
        difference = getattr(self._evaluator, "difference", None)
        if difference is not None:
            share: float = difference(one, other)
            return share
        digests = [self._evaluator.identity(formula) for formula in (one, other)]
        if all(isinstance(digest, Failed) for digest in digests):
            return 0.0
        return float(digests[0] != digests[1])

    def _example(self, pair: _Pair, share: float) -> dict[str, Any]:
        one, other = pair.formulas
        return {
            "slot": pair.slots[0],
            "text": str(one),
            "value": self._value(one),
            "same_as": pair.slots[1],
            "other": str(other),
            "other_value": self._value(other),
            "share": share,
        }

    def _value(self, formula: Expression) -> float | None:
        """Return what a formula is worth in full; measured here if no run has done so."""
        outcome = self._ledger.recall(key(formula), self._protocol, 1.0)
        if outcome is None:
            (outcome,) = self._evaluator.measure([formula], 1.0)
            known = Evaluation(key(formula), self._protocol, 1.0, str(formula), None, outcome)
            self._ledger.remember(known)
        return outcome.value if isinstance(outcome, Measured) else None
