"""Tuning the numbers of a formula: Optuna proposes them from what is known of its like."""

import random
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache

import optuna
from optuna.distributions import FloatDistribution

from autoproxy.evaluation import Individual, Objective
from autoproxy.language.expression import Expression, constant
from autoproxy.language.parse import parse
from autoproxy.language.primitive import EXPONENT_RANGE

LEAST = 4
"""Formulas near the best of a shape that must be known before the sampler learns from them."""

_FIXED_POWERS = {"sqrt": 0.5, "square": 2.0}


@lru_cache(maxsize=10_000)
def shape_of(text: str) -> tuple[str, tuple[float, ...]]:
    """Return the text of a formula with its numbers left out, and the numbers in order.

    Roots and squares are powers, so their exponents are numbers, too.

    >>> shape_of("mul(abs(W), mul(2, sqrt(x_norm)))")
    ('mul(abs(W), mul(?, pow(x_norm, ?^)))', (2.0, 0.5))
    """
    numbers: list[float] = []
    return _shape(parse(text), numbers, exponent=False), tuple(numbers)


def tune(
    parent: Individual, known: Sequence[Individual], objective: Objective, rng: random.Random
) -> Expression | None:
    """Return the shape of `parent` with numbers near the best known: those hoped for most.

    Optuna's Gaussian process learns from the known formulas of that shape that lie near the best one.
    It keeps nothing from one call to the next, so a search that is resumed tunes alike.

    Args:
        parent: Whose numbers are tuned.
        known: Measured formulas; those of another shape do not count.
        objective: What their values mean.
        rng: Where chance comes from.

    Returns:
        None where it has no numbers.
    """
    shape, numbers = shape_of(parent.text)
    alike = {i.key: (shape_of(i.text), i.value) for i in (parent, *known)}
    seen = [(found[1], value) for found, value in alike.values() if found[0] == shape]
    if not numbers:
        return None
    best, _ = min(seen, key=lambda pair: objective.sign * pair[1])
    near = _near(shape, best)
    chosen = _ask(near, seen, objective, rng.getrandbits(32))
    return _with_numbers(shape, chosen)


def _shape(node: Expression, numbers: list[float], *, exponent: bool) -> str:
    if node.value is not None:
        numbers.append(node.value)
        return "?^" if exponent else "?"
    if not node.operands:
        return node.head
    first = _shape(node.operands[0], numbers, exponent=False)
    if node.head in _FIXED_POWERS:
        numbers.append(_FIXED_POWERS[node.head])
        return f"pow({first}, ?^)"
    rest = [_shape(o, numbers, exponent=node.head == "pow") for o in node.operands[1:]]
    return f"{node.head}({', '.join([first, *rest])})"


def _near(shape: str, best: Sequence[float]) -> Mapping[str, FloatDistribution]:
    """Return where each number may lie: near that of the best formula of the shape so far."""
    near = {}
    for place, (mark, number) in enumerate(zip(re.findall(r"\?\^?", shape), best, strict=True)):
        if mark == "?^":
            low, high = EXPONENT_RANGE
            near[f"n{place}"] = FloatDistribution(max(low, number - 0.5), min(high, number + 0.5))
        elif number > 0:
            near[f"n{place}"] = FloatDistribution(number / 4, number * 4, log=True)
        else:
            reach = max(1.0, 2 * abs(number))
            near[f"n{place}"] = FloatDistribution(number - reach, number + reach)
    return near


def _ask(
    near: Mapping[str, FloatDistribution],
    seen: Sequence[tuple[Sequence[float], float]],
    objective: Objective,
    seed: int,
) -> list[float]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a study a call would be told each time
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sampler = optuna.samplers.GPSampler(
                seed=seed, n_startup_trials=LEAST, deterministic_objective=True
            )
            study = optuna.create_study(sampler=sampler)
            for numbers, value in seen:
                if not all(
                    d.low <= n <= d.high for d, n in zip(near.values(), numbers, strict=True)
                ):
                    continue
                study.add_trial(
                    optuna.trial.create_trial(
                        params=dict(zip(near, numbers, strict=True)),
                        distributions=dict(near),
                        value=objective.sign * value,
                    )
                )
            params = study.ask(dict(near)).params
    finally:
        optuna.logging.set_verbosity(before)
    return [params[name] for name in near]


def _with_numbers(shape: str, numbers: Sequence[float]) -> Expression | None:
    """Return the formula of a shape; exponents to two digits after the point, factors to two."""
    left = iter(numbers)

    def written(mark: re.Match[str]) -> str:
        number = next(left)
        number = round(number, 2) if mark.group() == "?^" else float(f"{number:.2g}")
        return str(constant(number))

    return parse(re.sub(r"\?\^?", written, shape))
