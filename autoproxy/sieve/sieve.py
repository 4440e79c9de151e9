"""The sieve: candidates meet the rules in order of their cost, a batch at a time."""

import itertools
import math
from collections.abc import Mapping, Sequence

from autoproxy.errors import ConfigError, ExpressionError, unknown_name
from autoproxy.evaluation import Evaluator, Failed, Fingerprint
from autoproxy.language.blindness import Blindness
from autoproxy.language.canonical import canonical, key
from autoproxy.language.expression import Expression
from autoproxy.language.simplify import simplest
from autoproxy.sieve.rules import Context, Cost, Dropped, Kept, Rule, Verdict
from autoproxy.sieve.structure import STRUCTURE_RULES
from autoproxy.sieve.tiers import (
    FINGERPRINT,
    KEY,
    MASK,
    ORDER,
    REPEAT,
    SAME_ALGEBRA,
    SAME_MASK,
    SAME_ORDER,
    TIERS,
    Way,
)
from autoproxy.spaces import SearchSpace

HOPELESS = Rule("hopeless", Cost.BEHAVIOUR)
DISTORTING = Rule("distorting", Cost.BEHAVIOUR)

RULES = (
    *STRUCTURE_RULES,
    REPEAT,
    SAME_ALGEBRA,
    HOPELESS,
    DISTORTING,
    SAME_ORDER,
    SAME_MASK,
)

REPEATS = frozenset(rule.name for rule in (REPEAT, SAME_ALGEBRA, SAME_ORDER, SAME_MASK))
"""Names of the rules that drop what is known already."""


def judged(proposal: Expression, same: str, space: SearchSpace, blindness: Blindness) -> Expression:
    """Return what is judged in place of a proposal; malformed ones as they are.

    Args:
        proposal: As it was bred.
        same: The tier, a key of `TIERS`: below `key` nothing is made simpler, in `key` as far as
            values allow but for rounding and where a protection bites, from `order` on as far as
            the comparison allows.
        space: Words and limits.
        blindness: What the comparison cannot see.
    """
    if KEY not in TIERS[same]:
        return proposal
    unseen = blindness if ORDER in TIERS[same] else Blindness.NOTHING
    try:
        return simplest(proposal, unseen, space.root)
    except ExpressionError:
        return proposal


class Sieve:
    """Drops candidates that are malformed, hopeless, or known to this run.

    The state is what this run has seen; handing the same proposals in the same order to a new
    sieve gives the same verdicts, which is what makes resuming by replay exact. What was seen can
    also be taken out as plain values and put back.

    Args:
        space: Words and limits.
        evaluator: Gives fingerprints and identities.
        reject: Distortion above which a candidate is dropped; 0 for never.
        same: When two candidates are taken for one, a key of `TIERS`; see also `judged`.

    Raises:
        ConfigError: There is no such tier.
    """

    def __init__(
        self,
        space: SearchSpace,
        evaluator: Evaluator,
        reject: float = 0.0,
        *,
        same: str = "mask",
    ) -> None:
        if same not in TIERS:
            raise ConfigError(unknown_name("tier of being the same", same, TIERS))
        self._evaluator = evaluator
        self._reject = reject
        self._same = same
        self._ways = TIERS[same]
        self._context = Context(space, evaluator.blindness)
        self._questions = itertools.count()

    def judge(self, proposals: Sequence[tuple[int, Expression]]) -> list[Verdict]:
        """Return a verdict for each (slot, proposal), in order.

        The cheap rules see every proposal first; the probe then runs what is left as one
        program, so that sub-expressions in common are computed once.
        """
        verdicts: list[Verdict | None] = []
        waiting: list[tuple[int, int, Expression]] = []  # place in verdicts, slot, expression
        for slot, proposal in proposals:
            expression = self._judged(proposal)
            dropped = self._cheap(expression, slot)
            verdicts.append(dropped)
            if dropped is None:
                waiting.append((len(verdicts) - 1, slot, canonical(expression)))
        probed = self._evaluator.behaviour(
            [expression for _, _, expression in waiting], self._reject or math.inf
        )
        for (place, slot, expression), behaviour in zip(waiting, probed, strict=True):
            verdicts[place] = self._dear(expression, slot, behaviour)
        return [verdict for verdict in verdicts if verdict is not None]

    def novelty(self, proposal: Expression) -> str | None:
        """Return what would be known of a proposal by its tree, or None if it would be dropped.

        It takes no note of the proposal, so that variation can ask before it settles. Two
        proposals of one name would be merged; where nothing is, each question has its own.
        """
        expression = self._judged(proposal)
        if self._malformed(expression, -1):
            return None
        name = f"question {next(self._questions)}"
        for way in self._ways:
            if way.digest is not None:
                name = way.digest(expression, self._context.blindness)
                if self._context.knows(way.name, name):
                    return None
        return name

    def noted(self) -> dict[str, dict[str, int]]:
        """Return what was seen for the first time since this was asked last, as plain values.

        For each way of being the same, digests and the slot that had each first.
        """
        noted, self._context.noted = self._context.noted, {}
        return noted

    def restore(self, noted: Mapping[str, Mapping[str, int]]) -> None:
        """Take note of what another sieve had seen; it then judges as that one would go on.

        Args:
            noted: What `noted` of a sieve of the same tier, space and evaluator gave.

        Raises:
            ConfigError: It is of another tier.
        """
        foreign = sorted(set(noted) - {way.name for way in self._ways})
        if foreign:
            raise ConfigError(
                f"what was seen is by {', '.join(foreign)}, which this sieve does not compare; "
                "go on with the `same` that the run began with"
            )
        for way, known in noted.items():
            self._context.seen.setdefault(way, {}).update(known)

    def _judged(self, proposal: Expression) -> Expression:
        return judged(proposal, self._same, self._context.space, self._context.blindness)

    def _malformed(self, expression: Expression, slot: int) -> Dropped | None:
        for rule in STRUCTURE_RULES:
            reason = rule.judge(expression, slot, self._context) if rule.judge else None
            if reason is not None:
                return Dropped(rule.name, reason)
        return None

    def _cheap(self, expression: Expression, slot: int) -> Dropped | None:
        dropped = self._malformed(expression, slot)
        for way in self._ways:
            if dropped is None and way.digest is not None:
                dropped = self._merged(way, way.digest(expression, self._context.blindness), slot)
        return dropped

    def _dear(self, expression: Expression, slot: int, behaviour: Fingerprint | Failed) -> Verdict:
        if isinstance(behaviour, Failed):
            return Dropped(HOPELESS.name, behaviour.reason)
        distortion = behaviour.distortion
        if self._reject and distortion is not None and distortion > self._reject:
            told = f"its distortion is {distortion:.3g} times that of a good metric"
            return Dropped(DISTORTING.name, told)
        merged = self._merged(FINGERPRINT, behaviour.digest, slot)
        if merged is not None:
            return merged
        identity = self._evaluator.identity(expression)
        if isinstance(identity, Failed):
            return Dropped(HOPELESS.name, identity.reason)
        merged = self._merged(MASK, identity, slot)
        return merged or Kept(expression, key(expression), identity)

    def _merged(self, way: Way, digest: str, slot: int) -> Dropped | None:
        """Drop what was seen before in one of this sieve's ways; take note of what was not."""
        if way not in self._ways:
            return None
        first = self._context.first_slot(way.name, digest, slot)
        if first is None:
            return None
        return Dropped(way.rule.name, f"{way.told} as slot {first}", first)
