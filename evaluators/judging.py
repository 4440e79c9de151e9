"""What the order that a prediction gives to networks is worth: every number with an interval."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoproxy.errors import EvaluationError
from evaluators import correlation

Vector = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Jury:
    """Networks whose quality is known, and how predictions of it are judged.

    Attributes:
        quality: (n,), larger is better.
        strata: Of each network; within one, size explains little or nothing.
        networks: Each as trained; rows of one are resampled together.
        params: (n,) number of parameters.
        resamples: Of the bootstrap.
        seed: Of the bootstrap and of the permutations.
    """

    quality: Vector
    strata: Sequence[str]
    networks: Sequence[str]
    params: Vector
    resamples: int = 1000
    seed: int = 0

    def judge(self, scores: Vector) -> dict[str, float | None]:
        """Return what scores are worth.

        Args:
            scores: (n,), larger is better; finite.

        Returns:
            `tau` (tau-b), `within` (mean tau-b inside strata), `rho` (Spearman), `weighted`
            (weighted tau, the top counts most), `recall` (of the best tenth), `given_params`
            (Kendall's partial tau), `with_params` (tau-b with the number of parameters), `tied`
            (share of pairs), `networks` (n); and `tau_low`, `tau_high`, `within_low`,
            `within_high`, `rho_low`, `rho_high`, `recall_low`, `recall_high`: 95 % bootstrap
            intervals. None where one is undefined: constant scores have no correlation.
        """
        c = correlation
        quality, strata = self.quality, self.strata
        counts = c.resamples(self.networks, self.resamples, self.seed)
        found: dict[str, float | None] = {
            "networks": float(len(quality)),
            "tied": c.tied(scores),
            "tau": _number(lambda: c.kendall(scores, quality)),
            "within": _number(lambda: c.within(scores, quality, strata).tau),
            "rho": _number(lambda: c.spearman(scores, quality)),
            "weighted": _number(lambda: c.weighted_kendall(scores, quality)),
            "recall": _number(lambda: c.top_recall(scores, quality)),
            "given_params": _number(lambda: c.partial_kendall(scores, quality, self.params)),
            "with_params": _number(lambda: c.kendall(scores, self.params)),
        }
        for name, values in (
            ("tau", lambda: c.resampled_kendall(scores, quality, counts)),
            ("within", lambda: c.resampled_within(scores, quality, strata, counts)),
            ("rho", lambda: c.resampled_spearman(scores, quality, counts)),
            ("recall", lambda: c.resampled_recall(scores, quality, counts)),
        ):
            low, high = _interval(values) if found[name] is not None else (None, None)
            found |= {f"{name}_low": low, f"{name}_high": high}
        return found

    def compare(self, scores: Vector, others: Mapping[str, Vector]) -> dict[str, dict[str, float]]:
        """Return how much better scores order the networks than each of some others do.

        Returns:
            By name: `difference` of tau-b, its 95 % bootstrap interval `low` to `high`, the `p` of
            a paired permutation test, and `p_corrected` for the number of comparisons (Holm).
        """
        counts = correlation.resamples(self.networks, self.resamples, self.seed)
        mine = correlation.resampled_kendall(scores, self.quality, counts)
        found: dict[str, dict[str, float]] = {}
        for name, other in others.items():
            theirs = correlation.resampled_kendall(other, self.quality, counts)
            low, high = correlation.interval(mine - theirs)
            difference = correlation.kendall(scores, self.quality) - correlation.kendall(
                other, self.quality
            )
            p = correlation.paired_test(
                scores, other, self.quality, self.networks, seed=self.seed
            )
            found[name] = {"difference": difference, "low": low, "high": high, "p": p}
        corrected = correlation.holm([one["p"] for one in found.values()])
        for one, p in zip(found.values(), corrected, strict=True):
            one["p_corrected"] = p
        return found


def _number(measure: Callable[[], float]) -> float | None:
    try:
        return measure()
    except EvaluationError:
        return None


def _interval(resampled: Callable[[], Vector]) -> tuple[float | None, float | None]:
    try:
        return correlation.interval(resampled())
    except EvaluationError:
        return None, None
