"""What a formula costs to run: statistics decide, then arithmetic; parts in common count once."""

from hypothesis import given
from hypothesis import strategies as st

from autoproxy.language.expression import Expression
from autoproxy.language.parse import parse
from autoproxy.language.running import running_cost
from tests.autoproxy.export.drawn import drawn

CHEAPER_FIRST = (
    "x_norm",
    "abs(W)",
    "sqrt(W)",
    "tanh(W)",
    "abs(W) * x_norm",
    "tanh(W) * x_norm",
    "abs(W) * g_norm",
    "abs(W) * g_norm * x_norm",
    "square(W) / h_inv",
    "square(W) / h_inv * g_norm",
)


def test_passes_come_first_then_arithmetic() -> None:
    costs = [running_cost(parse(text)) for text in CHEAPER_FIRST[1:]]
    assert costs == sorted(costs)
    assert len(set(costs)) == len(costs)
    assert running_cost(parse("W")) == 0
    assert running_cost(parse("x_norm")) == 1  # one pass, no arithmetic on weights


@given(st.sampled_from(drawn(80)))
def test_more_of_the_same_costs_one_more_step(expression: Expression) -> None:
    twice = Expression("maximum", (expression, expression))
    assert running_cost(expression) <= running_cost(twice) < running_cost(expression) + 0.002
