"""What a formula costs to run: statistics decide, then arithmetic; parts in common count once."""

import pytest
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


@pytest.mark.parametrize(
    "text",
    [
        *("params", "width * n_layers", "flops / params_body", "log(d_embed)", "block_index"),
        *("layers_sum(is_mlp)", "layers_sum(fan_in * is_attention)", "layers_mean(is_first)"),
    ],
)
def test_what_is_counted_needs_no_pass(text: str) -> None:
    assert running_cost(parse(text)) == 0


def test_what_a_network_is_measured_by_is_paid() -> None:
    assert running_cost(parse("log_flow")) == running_cost(parse("log_flow * params")) == 4


@given(st.sampled_from(drawn(80)))
def test_more_of_the_same_costs_one_more_step(expression: Expression) -> None:
    twice = Expression("maximum", (expression, expression))
    assert running_cost(expression) <= running_cost(twice) < running_cost(expression) + 0.002
