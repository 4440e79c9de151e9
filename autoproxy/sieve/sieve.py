"""The sieve: candidates meet the rules in order of their cost, a batch at a time."""

import math
from collections.abc import Iterable, Sequence

from autoproxy.errors import ExpressionError
from autoproxy.evaluation import Evaluator, Failed, Fingerprint
from autoproxy.language.canonical import key, order_key
from autoproxy.language.expression import Expression
from autoproxy.language.simplify import simplest
from autoproxy.sieve.algebra import ALGEBRA_RULES
from autoproxy.sieve.rules import Context, Cost, Dropped, Kept, Rule, Verdict
from autoproxy.sieve.structure import STRUCTURE_RULES
from autoproxy.spaces import SearchSpace

HOPELESS = Rule("hopeless", Cost.BEHAVIOUR)
DISTORTING = Rule("distorting", Cost.BEHAVIOUR)
SAME_ORDER = Rule("same-order", Cost.BEHAVIOUR)
SAME_MASK = Rule("same-mask", Cost.IDENTITY)

REPEATS = frozenset({"repeat", "same-algebra", SAME_ORDER.name, SAME_MASK.name})
"""Names of the rules that drop what is known already."""

RULES = (*STRUCTURE_RULES, *ALGEBRA_RULES, HOPELESS, DISTORTING, SAME_ORDER, SAME_MASK)


class Sieve:
    """Drops candidates that are malformed, hopeless, or known to this run.

    The state is what this run has seen; handing the same proposals in the same order to a new
    sieve gives the same verdicts, which is what makes resuming by replay exact.

    Args:
        space: Words and limits.
        evaluator: Gives fingerprints and identities.
        reject: Distortion above which a candidate is dropped; 0 for never.
    """

    def __init__(self, space: SearchSpace, evaluator: Evaluator, reject: float = 0.0) -> None:
        self._evaluator = evaluator
        self._reject = reject
        self._context = Context(space, evaluator.blindness)

    def judge(self, proposals: Sequence[tuple[int, Expression]]) -> list[Verdict]:
        """Return a verdict for each (slot, proposal), in order.

        The cheap rules see every proposal first; the probe then runs what is left as one
        program, so that sub-expressions in common are computed once.
        """
        verdicts: list[Verdict | None] = []
        waiting: list[tuple[int, int, Expression]] = []  # place in verdicts, slot, expression
        for slot, proposal in proposals:
            expression = self._simplest(proposal)
            dropped = self._cheap(expression, slot)
            verdicts.append(dropped)
            if dropped is None:
                waiting.append((len(verdicts) - 1, slot, expression))
        probed = self._evaluator.behaviour(
            [expression for _, _, expression in waiting], self._reject or math.inf
        )
        for (place, slot, expression), behaviour in zip(waiting, probed, strict=True):
            verdicts[place] = self._dear(expression, slot, behaviour)
        return [verdict for verdict in verdicts if verdict is not None]

    def noted(self) -> tuple[tuple[str, str, int], ...]:
        """Return what it saw for the first time since this was asked last.

        Each is a way of being the same, a digest, and the slot that had it first.
        """
        noted = tuple(self._context.noted)
        self._context.noted.clear()
        return noted

    def restore(self, noted: Iterable[tuple[str, str, int]]) -> None:
        """Take in what another sieve noted, instead of judging the same proposals again."""
        for way, digest, slot in noted:
            self._context.seen.setdefault(way, {})[digest] = slot

    def novelty(self, proposal: Expression) -> str | None:
        """Return what would be known of a proposal by algebra, or None if it would be dropped.

        It takes no note of the proposal, so that variation can ask before it settles.
        """
        expression = self._simplest(proposal)
        if any(
            rule.judge and rule.judge(expression, -1, self._context) for rule in STRUCTURE_RULES
        ):
            return None
        order = order_key(expression, self._context.blindness)
        known = self._context.knows("key", key(expression)) or self._context.knows("order", order)
        return None if known else order

    def _simplest(self, proposal: Expression) -> Expression:
        """Return what is judged in place of `proposal`; malformed ones as they are."""
        try:
            return simplest(proposal, self._context.blindness, self._context.space.root)
        except ExpressionError:
            return proposal

    def _cheap(self, expression: Expression, slot: int) -> Dropped | None:
        for rule in (*STRUCTURE_RULES, *ALGEBRA_RULES):
            reason = rule.judge(expression, slot, self._context) if rule.judge else None
            if reason is not None:
                return Dropped(rule.name, reason)
        return None

    def _dear(self, expression: Expression, slot: int, behaviour: Fingerprint | Failed) -> Verdict:
        if isinstance(behaviour, Failed):
            return Dropped(HOPELESS.name, behaviour.reason)
        distortion = behaviour.distortion
        if self._reject and distortion is not None and distortion > self._reject:
            told = f"its distortion is {distortion:.3g} times that of a good metric"
            return Dropped(DISTORTING.name, told)
        first = self._context.first_slot("fingerprint", behaviour.digest, slot)
        if first is not None:
            return Dropped(SAME_ORDER.name, f"on real rows the same order as slot {first}")
        identity = self._evaluator.identity(expression)
        if isinstance(identity, Failed):
            return Dropped(HOPELESS.name, identity.reason)
        first = self._context.first_slot("identity", identity, slot)
        if first is not None:
            return Dropped(SAME_MASK.name, f"bit for bit the same masks as slot {first}")
        return Kept(expression, key(expression), identity)
