"""The ladder of fidelities: who is stopped between blocks, and which rung may still rank."""

import warnings
from collections.abc import Sequence
from typing import Any

from scipy import stats

from autoproxy.evaluation import Individual, Objective, by_block
from autoproxy.search.config import SearchConfig

TRUSTED = 0.7
"""Rank correlation with the full value under which a rung ranks no longer."""

PAIRS = 20
"""Pairs of values before a rung is judged."""

DOUBT = 0.1
"""Chance, under equality, with which one look of the test stops a candidate."""

LOOK_AFTER = 4
"""Blocks before the first look; fewer can prove nothing at this chance."""


def trusted(archive: Sequence[Individual], fidelity: float) -> bool:
    """Return whether the order at a fidelity is still near that in full."""
    correlation = agreement(archive, fidelity)
    return correlation is None or len(archive) < PAIRS or correlation >= TRUSTED


def agreement(archive: Sequence[Individual], fidelity: float) -> float | None:
    """Return Spearman's correlation of values at a fidelity with those in full.

    The individuals are those that reached the full measurement, so the correlation is that among
    the better ones, which is lower than that among all.

    Args:
        archive: Individuals measured in full.
        fidelity: Share of the blocks, from the first.

    Returns:
        In [-1, 1]; None where nothing was measured in blocks, or everything is the same.
    """
    pairs = []
    for individual in archive:
        blocks = by_block(individual.details)
        if blocks:
            first = blocks[: max(1, round(fidelity * len(blocks)))]
            pairs.append((sum(first) / len(first), individual.value))
    if len(pairs) < 3:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        found: Any = stats.spearmanr(pairs)
    return None if found.statistic != found.statistic else float(found.statistic)  # NaN


def incumbent(
    population: Sequence[Individual], config: SearchConfig, objective: Objective
) -> Individual | None:
    """Return whom candidates race against: the middle of a full population, or nobody."""
    if not config.race or len(population) < config.population:
        return None
    ranked = sorted(population, key=lambda i: (objective.sign * i.value, i.slot))
    return ranked[len(ranked) // 2]


def beaten(blocks: Sequence[float], by: Sequence[float], sign: float) -> bool:
    """Return whether values on the first blocks are significantly worse than a rival's.

    Wilcoxon's signed-rank test on the differences, block by block, as Optuna's pruner of that
    name does it.

    Args:
        blocks: Of the candidate, from the first.
        by: Of the rival on all blocks; without any there is no race.
        sign: 1 where small values are good, -1 where large ones are.

    >>> beaten([1.1, 1.2, 1.3, 1.4], [1.0] * 8, 1.0), beaten([1.1, 1.2, 1.3, 0.9], [1.0] * 8, 1.0)
    (True, False)
    """
    if len(blocks) < LOOK_AFTER:
        return False
    worse = [sign * (a - b) for a, b in zip(blocks, by, strict=False)]
    if len(worse) < LOOK_AFTER or not any(worse):
        return False
    return bool(stats.wilcoxon(worse, alternative="greater").pvalue < DOUBT)
