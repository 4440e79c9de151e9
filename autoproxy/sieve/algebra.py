"""Rules that need the canonical form: what is known by its text."""

from autoproxy.language.canonical import key, order_key
from autoproxy.language.expression import Expression
from autoproxy.sieve.rules import Context, Cost, Rule


def _repeat(expression: Expression, slot: int, context: Context) -> str | None:
    first = context.first_slot("key", key(expression), slot)
    return None if first is None else f"the same value as slot {first}"


def _same_ordering(expression: Expression, slot: int, context: Context) -> str | None:
    digest = order_key(expression, context.blindness)
    first = context.first_slot("order", digest, slot)
    return None if first is None else f"by algebra the same order as slot {first}"


ALGEBRA_RULES = (
    Rule("repeat", Cost.ALGEBRA, _repeat),
    Rule("same-algebra", Cost.ALGEBRA, _same_ordering),
)
