"""The tiers: when two candidates are taken for one, from never to when all their masks agree."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from autoproxy.language.blindness import Blindness
from autoproxy.language.canonical import key, order_key
from autoproxy.language.expression import Expression
from autoproxy.sieve.rules import Cost, Rule

REPEAT = Rule("repeat", Cost.ALGEBRA)
SAME_ALGEBRA = Rule("same-algebra", Cost.ALGEBRA)
SAME_ORDER = Rule("same-order", Cost.BEHAVIOUR)
SAME_MASK = Rule("same-mask", Cost.IDENTITY)


@dataclass(frozen=True, slots=True)
class Way:
    """A way in which two candidates can be the same.

    Attributes:
        name: Word under which its digests are remembered.
        rule: The rule that drops whoever comes second.
        told: What is said of the two.
        digest: What is compared, of an expression and what the comparison cannot see; None where
            the evaluator must be asked.
    """

    name: str
    rule: Rule
    told: str
    digest: Callable[[Expression, Blindness], str] | None = None


TEXT = Way("text", REPEAT, "the same text", lambda expression, _: str(expression))
KEY = Way("key", REPEAT, "once simplified the same value", lambda expression, _: key(expression))
ORDER = Way("order", SAME_ALGEBRA, "by algebra the same order", order_key)
FINGERPRINT = Way("fingerprint", SAME_ORDER, "on real rows the same order")
MASK = Way("mask", SAME_MASK, "bit for bit the same masks")

TIERS: Mapping[str, tuple[Way, ...]] = MappingProxyType(
    {
        "nothing": (),
        "text": (TEXT,),
        "key": (KEY,),  # equal texts have equal keys
        "order": (KEY, ORDER),
        "fingerprint": (KEY, ORDER, FINGERPRINT),
        "mask": (KEY, ORDER, FINGERPRINT, MASK),
    }
)
"""In how many ways two candidates are taken for one; each tier merges all that those before it do.

Where magnitudes count (`Blindness.NOTHING`), `order` compares values, as `key` does.
"""
