"""What the order that a prediction gives to networks is worth: every number with an interval."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoproxy.errors import EvaluationError
from evaluators import correlation

Vector = NDArray[np.float64]
Indices = NDArray[np.intp]
Matrix = NDArray[np.float64]


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

    def losses(self, scores: Vector, objective: str = "tau") -> Vector:
        """Return one loss a network, 1 - tau in the mean, for paired tests; lower is better.

        With `within` those of the networks in strata that count, see `correlation.within`, each
        against its own stratum; constant scores there are worth no order: 1. A stratum weighs by
        its pairs, as it does in the objective.
        """
        if objective == "tau":
            return correlation.losses(scores, self.quality)
        strata = self._counting()
        pairs = np.array([len(members) * (len(members) - 1) for members in strata])
        count = sum(map(len, strata))
        found = []
        for members, share in zip(strata, pairs / pairs.sum(), strict=True):
            ordered, quality = scores[members], self.quality[members]
            differ = len(set(ordered)) > 1
            alone = correlation.losses(ordered, quality) if differ else np.ones(len(members))
            # Their mean over all networks counts each stratum by its share of the pairs.
            found.append(1 + (alone - 1) * share * count / len(members))
        return np.concatenate(found)

    def _counting(self) -> list[Indices]:
        """Return the members of each stratum in which qualities can be ordered."""
        kept = correlation.counting(self.quality, self.strata)
        return sorted(kept, key=lambda members: self.strata[members[0]])

    def _resampled(self, scores: Vector, counts: Matrix, objective: str) -> Vector:
        if objective == "tau":
            return correlation.resampled_kendall(scores, self.quality, counts)
        return correlation.resampled_within(scores, self.quality, self.strata, counts)

    def _counted(self, objective: str) -> list[str]:
        """Return the trained networks that `losses` are of."""
        if objective == "tau":
            return list(self.networks)
        return [self.networks[place] for place in np.concatenate(self._counting())]

    def compare(
        self, scores: Vector, others: Mapping[str, Vector], objective: str = "tau"
    ) -> dict[str, dict[str, float]]:
        """Return how much better scores order the networks than each of some others do.

        Args:
            scores: (n,), larger is better.
            others: The same, by name.
            objective: `tau` or `within`.

        Returns:
            By name: `difference` of the objective, its 95 % bootstrap interval `low` to `high`,
            the `p` of a paired permutation test of the losses, and `p_corrected` for the number of
            comparisons (Holm).
        """
        counts = correlation.resamples(self.networks, self.resamples, self.seed)
        resampled = [self._resampled(one, counts, objective) for one in (scores, *others.values())]
        mine = self.losses(scores, objective)
        found: dict[str, dict[str, float]] = {}
        for (name, other), theirs in zip(others.items(), resampled[1:], strict=True):
            low, high = correlation.interval(resampled[0] - theirs)
            gain = self.losses(other, objective) - mine
            found[name] = {
                "difference": float(gain.mean()),
                "low": low,
                "high": high,
                "p": correlation.sign_flip(gain, self._counted(objective), seed=self.seed),
            }
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
