"""How well predictions order architectures: rank correlations, intervals, tests, and references.

Vectors are one-dimensional numpy arrays with one number an architecture. A *prediction* and a
*quality* are both better when larger; a caller turns a prediction round before it asks. What is
not finite is refused, and so is a constant vector where a correlation is undefined: no function
returns NaN, but for the single resamples of `resampled_...`, which `interval` leaves out.

Bootstrap: `resamples` draws, once for all predictions that are compared, how often each
architecture is in each resample; `resampled_kendall` and its sisters give a statistic on every
resample, `interval` its percentiles. Differences of two predictions on the same resamples are
paired: `interval(resampled_kendall(a, quality, drawn) - resampled_kendall(b, quality, drawn))`.
"""

import itertools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from autoproxy.errors import ConfigError, EvaluationError

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Indices = NDArray[np.int64]

TOP = 10
"""The top of n architectures is the best ceil(n / TOP)."""

SMALLEST = 3
"""Members that a stratum, and a part of a split, must have."""


# --- correlations ----------------------------------------------------------------------------


def kendall(prediction: Vector, quality: Vector) -> float:
    """Return Kendall's tau-b: (concordant - discordant) / sqrt(untied in one * in the other).

    Args:
        prediction: (n,), n >= 2.
        quality: (n,).

    Returns:
        In [-1, 1]; symmetric; the same for every strictly increasing transform of either.

    Raises:
        EvaluationError: One is constant, not finite, or they differ in length.

    >>> kendall(np.array([1.0, 2.0, 3.0]), np.array([10.0, 30.0, 20.0])).__round__(4)
    0.3333
    """
    x, y = _varying(prediction, quality)
    method = "asymptotic" if len(x) > 2 else "auto"  # of a p value that nobody asked for
    return float(stats.kendalltau(x, y, method=method).statistic)


def spearman(prediction: Vector, quality: Vector) -> float:
    """Return Spearman's rho: Pearson's correlation of the ranks, ties at their mean rank.

    Range, laws and errors are those of `kendall`.
    """
    x, y = _varying(prediction, quality)
    return float(stats.spearmanr(x, y).statistic)


def weighted_kendall(prediction: Vector, quality: Vector) -> float:
    """Return Vigna's weighted tau, where pairs count by their place: the top is the largest.

    A pair weighs 1/(r+1) + 1/(s+1) with r and s its ranks from 0 at the largest value; the mean of
    ranking by the one and by the other (`scipy.stats.weightedtau`). So the order of the best
    counts most; with both vectors negated, that of the worst does. Range and errors are those of
    `kendall`; it does not just change its sign with one of the vectors.
    """
    x, y = _varying(prediction, quality)
    return float(stats.weightedtau(x, y).statistic)


def partial_kendall(prediction: Vector, quality: Vector, confounder: Vector) -> float:
    """Return Kendall's partial tau-b of two vectors, given a third (such as a parameter count).

    (t_pq - t_pc t_qc) / sqrt((1 - t_pc^2) (1 - t_qc^2)), in [-1, 1] (Kendall 1942).
    It does not take a confounder away wholly: two normal vectors that only a third links, each as
    much noise as signal, have a partial tau of 1/9. Strata of equal size do; see `within`.

    Raises:
        EvaluationError: As `kendall`, or the confounder orders one of them wholly by itself.
    """
    with_prediction, with_quality = kendall(prediction, confounder), kendall(quality, confounder)
    free = (1 - with_prediction**2) * (1 - with_quality**2)
    if free < 1e-12:
        raise EvaluationError(
            "the partial correlation is undefined: the confounder gives the order of the "
            "prediction or of the quality all by itself"
        )
    plain = kendall(prediction, quality)
    return float(np.clip((plain - with_prediction * with_quality) / math.sqrt(free), -1, 1))


@dataclass(frozen=True, slots=True)
class Within:
    """Rank correlation inside strata.

    Attributes:
        tau: Mean of tau-b over the strata, weighted by their pairs; in [-1, 1].
        strata: How many count.
        pairs: Pairs of architectures in them, n (n - 1) / 2 of each.
        left_out: Strata of fewer than `SMALLEST` members, or of one quality.
    """

    tau: float
    strata: int
    pairs: int
    left_out: int


def within(prediction: Vector, quality: Vector, strata: Sequence[Hashable]) -> Within:
    """Return the mean of tau-b inside strata, such as cells of equal depth and width.

    A stratum where the prediction is constant counts with tau 0: the prediction says nothing
    there, and is not to gain by it. So all predictions are compared on the same pairs.

    Args:
        prediction: (n,).
        quality: (n,).
        strata: Name of the stratum of each architecture.

    Raises:
        EvaluationError: No stratum counts, something is not finite, or lengths differ.
    """
    x, y = _vectors(prediction, quality)
    kept = counting(y, strata)
    taus = [kendall(x[m], y[m]) if _differ(x[m]) else 0.0 for m in kept]
    pairs = [len(m) * (len(m) - 1) // 2 for m in kept]
    tau = math.fsum(t * p for t, p in zip(taus, pairs, strict=True)) / sum(pairs)
    return Within(tau, len(kept), sum(pairs), len(set(strata)) - len(kept))


def counting(quality: Vector, strata: Sequence[Hashable]) -> list[Indices]:
    """Return the rows of each stratum in which qualities can be ordered, in order of appearance.

    These have `SMALLEST` members or more, of different quality.

    Raises:
        EvaluationError: There is none, or lengths differ.

    >>> [rows.tolist() for rows in counting(np.array([1.0, 2.0, 3.0, 4.0]), ["a", "b", "a", "a"])]
    [[0, 2, 3]]
    """
    members = _members(strata, len(quality))
    kept = [m for m in members if len(m) >= SMALLEST and _differ(quality[m])]
    if not kept:
        raise EvaluationError(
            f"none of {len(members)} strata has {SMALLEST} architectures of different quality; "
            "take coarser strata, or ask for --objective tau"
        )
    return kept


def top_recall(prediction: Vector, quality: Vector) -> float:
    """Return the share of the best ceil(n / 10) that is among the predicted best ceil(n / 10).

    Architectures that tie for the last places share them: each is in by the share of places that
    are left. What is in common is the sum of the lower of both shares, so it is the expectation
    over random orders of ties where only one side has any, and 1 where both are the same vector.

    Args:
        prediction: (n,), n >= 1; may be constant (then the share is that of a random draw).
        quality: (n,).

    Returns:
        In [0, 1].

    Raises:
        EvaluationError: Something is not finite, or lengths differ.

    >>> top_recall(np.arange(20.0), np.arange(20.0)), top_recall(np.zeros(20), np.arange(20.0))
    (1.0, 0.1)
    """
    x, y = _vectors(prediction, quality)
    return float(resampled_recall(x, y, np.ones((1, len(x))))[0])


def tied(values: Vector) -> float:
    """Return the share of the n (n - 1) / 2 pairs that are equal, in [0, 1]; 0 for one value.

    >>> tied(np.array([1.0, 1.0, 2.0])).__round__(4)
    0.3333
    """
    (x,) = _vectors(values)
    counts = np.unique(x, return_counts=True)[1]
    pairs = len(x) * (len(x) - 1)
    return float((counts * (counts - 1)).sum() / pairs) if pairs else 0.0


# --- noise -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What the noise of the qualities leaves to be predicted.

    Attributes:
        networks: How many were trained more than once.
        agreement: Tau between one training of them and another, the mean over all ways to choose
            the two, in [-1, 1].
        tau: What a prediction that knew each network's mean over endless trainings would come to
            against a single training of each, in [0, 1].
        tau_low: Lower end of its 95 % bootstrap interval over networks.
        tau_high: Upper end.
    """

    networks: int
    agreement: float
    tau: float
    tau_low: float
    tau_high: float


REPEATED = 20
"""Networks trained more than once that a ceiling needs."""


def ceiling(
    quality: Vector, networks: Sequence[str], number: int = 1000, seed: int = 0
) -> Ceiling | None:
    """Return how well qualities could be ordered at best, from networks trained more than once.

    The correction for attenuation, on ranks: where some increasing transform of quality is a
    normal number of the network plus independent normal noise, two trainings correlate by r =
    sin(pi/2 * agreement), the true number and one training by sqrt(r), and tau is 2/pi *
    arcsin(sqrt(r)). It speaks for networks like those that were repeated.

    Args:
        quality: (n,).
        networks: The trained network of each; rows of one are its trainings.
        number: Of resamples.
        seed: Of the resamples.

    Returns:
        None where fewer than `REPEATED` networks were trained more than once.

    Raises:
        EvaluationError: Something is not finite, or lengths differ.
    """
    (y,) = _vectors(quality)
    if len(y) != len(networks):
        raise EvaluationError(f"{len(y)} qualities and {len(networks)} networks; one each")
    repeated = [y[rows] for rows in _members(networks, len(y)) if len(rows) > 1]
    if len(repeated) < REPEATED:
        return None
    table = np.zeros((len(repeated), len(repeated)))  # 0 with itself, and with its copies
    for (i, one), (j, other) in itertools.combinations(enumerate(repeated), 2):
        table[i, j] = table[j, i] = _agreement(one, other)
    counts = resamples([str(place) for place in range(len(repeated))], number, seed)
    agreements = _mean_of_pairs(table, np.vstack([np.ones(len(repeated)), counts]))
    taus = 2 / math.pi * np.arcsin(np.sqrt(np.sin(math.pi / 2 * np.maximum(agreements, 0.0))))
    low, high = interval(taus[1:])
    return Ceiling(len(repeated), float(agreements[0]), float(taus[0]), low, high)


def _agreement(one: Vector, other: Vector) -> float:
    """Return the mean of sign(a - b) * sign(a' - b') over trainings a, a' of one, b, b' of other.

    a and a' are different trainings, b and b' too: of all products of two signs of the table
    those that share a row or a column are taken away.
    """
    signs = np.sign(one[:, None] - other[None, :])
    rows, columns = (signs.sum(axis) ** 2 for axis in (1, 0))
    apart = signs.sum() ** 2 - rows.sum() - columns.sum() + (signs**2).sum()
    return float(apart / (len(one) * (len(one) - 1) * len(other) * (len(other) - 1)))


def _mean_of_pairs(table: Matrix, counts: Matrix) -> Vector:
    """Return the mean of a table over pairs of different networks, each as often as counted."""
    different = counts.sum(1) ** 2 - (counts**2).sum(1)
    mean: Vector = np.einsum("ri,ij,rj->r", counts, table, counts) / different
    return mean


# --- bootstrap -------------------------------------------------------------------------------


def resamples(networks: Sequence[str], number: int = 1000, seed: int = 0) -> Matrix:
    """Return how often each architecture is in each bootstrap resample.

    What is drawn, with replacement, are networks as trained: rows of one network are not
    independent, so they come together.

    Args:
        networks: The trained network of each architecture; all different where each is its own.
        number: Of resamples.
        seed: Of the draw; the same seed gives the same resamples.

    Returns:
        (number, n) counts.
    """
    names, network = np.unique(np.asarray(networks), return_inverse=True)
    if number < 1 or len(names) < 2:
        raise ConfigError(
            f"a bootstrap needs a resample and two networks, got {number} and {len(names)}"
        )
    draw = np.random.default_rng(seed).integers(len(names), size=(number, len(names)))
    offsets = np.arange(number)[:, None] * len(names)
    counts = np.bincount((draw + offsets).ravel(), minlength=number * len(names))
    return counts.reshape(number, len(names))[:, network.ravel()].astype(np.float64)


def interval(values: Vector, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of a statistic on resamples.

    Resamples where it is undefined (NaN) are left out.

    Raises:
        EvaluationError: It is undefined on more than half of them.
    """
    known = values[~np.isnan(values)]
    if 2 * len(known) < len(values) or not len(known):
        raise EvaluationError(
            f"no interval: the statistic is undefined on {len(values) - len(known)} of "
            f"{len(values)} resamples; it needs more architectures, or ones that differ"
        )
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def resampled_kendall(prediction: Vector, quality: Vector, counts: Matrix) -> Vector:
    """Return tau-b on each resample, NaN where one vector is constant there.

    An architecture that is in it twice is tied with itself on both sides, and tau-b leaves such
    pairs out: it is the tau-b of the repeated vectors, to rounding.

    Args:
        prediction: (n,).
        quality: (n,).
        counts: (resamples, n), of `resamples`.

    Returns:
        (resamples,). Memory grows with n^2: 2 MB for 500 architectures.
    """
    x, y = _vectors(prediction, quality)
    first, second = _signs(x), _signs(y)
    agreeing = _pairs(first * second, counts)
    untied = _pairs(np.abs(first), counts) * _pairs(np.abs(second), counts)
    return _ratio(agreeing, np.sqrt(untied))


def resampled_spearman(prediction: Vector, quality: Vector, counts: Matrix) -> Vector:
    """Return Spearman's rho on each resample; as `resampled_kendall`."""
    x, y = _vectors(prediction, quality)
    total = counts.sum(axis=1, keepdims=True)
    first = counts @ _below(x) - total / 2  # mean rank less the middle one: it sums to zero
    second = counts @ _below(y) - total / 2
    product = (counts * first * second).sum(axis=1)
    squares = (counts * first**2).sum(axis=1) * (counts * second**2).sum(axis=1)
    return _ratio(product, np.sqrt(squares))


def resampled_recall(prediction: Vector, quality: Vector, counts: Matrix) -> Vector:
    """Return the recall of the top on each resample; as `resampled_kendall`."""
    x, y = _vectors(prediction, quality)
    places = np.ceil(counts.sum(axis=1) / TOP)
    shares = np.minimum(_share_in_top(x, counts, places), _share_in_top(y, counts, places))
    return np.asarray((counts * shares).sum(axis=1) / places, dtype=np.float64)


def resampled_within(
    prediction: Vector, quality: Vector, strata: Sequence[Hashable], counts: Matrix
) -> Vector:
    """Return `within(...).tau` on each resample, NaN where no stratum counts there."""
    x, y = _vectors(prediction, quality)
    weighted, pairs = np.zeros(len(counts)), np.zeros(len(counts))
    for members in _members(strata, len(x)):
        drawn = counts[:, members]
        size = drawn.sum(axis=1)
        differ = _pairs(np.abs(_signs(y[members])), drawn) > 0
        weight = np.where((size >= SMALLEST) & differ, size * (size - 1) / 2, 0.0)
        tau = resampled_kendall(x[members], y[members], drawn)
        weighted += weight * np.nan_to_num(tau, nan=0.0)
        pairs += weight
    return _ratio(weighted, pairs)


# --- tests -----------------------------------------------------------------------------------


def losses(prediction: Vector, quality: Vector) -> Vector:
    """Return one loss an architecture, for paired tests between predictions; lower is better.

    With c_i the mean over the others j of sign(p_i - p_j) sign(q_i - q_j) / d, where
    d = sqrt(share of pairs untied in p * share untied in q), loss_i = 1 - (2 (n - 1) c_i -
    n tau) / (n - 2). These are jackknife pseudo-values: each pair belongs to two architectures, so
    1 - c_i alone would make the error of tau half of what it is.

    Law: their mean is 1 - tau-b, exactly but for rounding, and their standard deviation / sqrt(n)
    is the standard error of tau-b to first order (d taken as known).

    Args:
        prediction: (n,), n >= 3.
        quality: (n,).

    Returns:
        (n,); a single one may lie outside [0, 2].

    Raises:
        EvaluationError: As `kendall`, or n < 3.
    """
    x, y = _varying(prediction, quality)
    n = len(x)
    if n < SMALLEST:
        raise EvaluationError(f"losses need at least {SMALLEST} architectures, got {n}")
    first, second = _signs(x), _signs(y)
    others = n * (n - 1)
    untied = math.sqrt(np.abs(first).sum() / others * np.abs(second).sum() / others)
    concordance = (first * second).sum(axis=1) / ((n - 1) * untied)
    tau = concordance.mean()
    return np.asarray(1 - (2 * (n - 1) * concordance - n * tau) / (n - 2), dtype=np.float64)


def sign_flip(
    difference: Vector,
    networks: Sequence[str] | None = None,
    *,
    number: int = 9999,
    seed: int = 0,
) -> float:
    """Return the two-sided p of the hypothesis that differences lie evenly around zero.

    A permutation test: they get random signs, those of one trained network together.
    p = (1 + draws at least as far from zero) / (1 + draws).

    Args:
        difference: (n,), one an architecture.
        networks: The trained network of each architecture; None: each is its own.
        number: Of draws.
        seed: Of the draws.

    Returns:
        In [1 / (1 + number), 1]; 1 where all are zero.

    >>> sign_flip(np.zeros(4)), sign_flip(np.ones(20)) < 0.001
    (1.0, True)
    """
    if networks is not None:
        network = np.unique(np.asarray(networks), return_inverse=True)[1].ravel()
        difference = np.bincount(network, weights=difference).astype(np.float64)
    signs = np.random.default_rng(seed).integers(0, 2, size=(number, len(difference))) * 2.0 - 1.0
    found = abs(difference.sum())
    far = np.abs(signs @ difference) >= found - 1e-9 * (1 + found)
    return float((1 + far.sum()) / (1 + number))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number (Holm 1979), in the same order.

    The i-th smallest, from 0, times (m - i); never below a smaller one's, never above 1.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not (np.isfinite(p) & (p >= 0) & (p <= 1)).all():
        raise ConfigError(f"p values lie in [0, 1], got {list(p_values)}")
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return [min(1.0, float(value)) for value in corrected]


# --- references ------------------------------------------------------------------------------


def lexicographic(columns: Sequence[Vector]) -> Vector:
    """Return the prediction that orders by the first column, its ties by the second, and so on.

    Returns:
        (n,) ranks from 0; equal for architectures that agree in all columns.

    >>> lexicographic([np.array([2.0, 1.0, 2.0]), np.array([5.0, 9.0, 4.0])]).tolist()
    [2.0, 0.0, 1.0]
    """
    rows = np.stack(_vectors(*columns), axis=1)
    return np.unique(rows, axis=0, return_inverse=True)[1].ravel().astype(np.float64)


FOLDS = 10
"""Parts of the trained networks that `cross_fitted` predicts one after the other."""

PENALTIES = np.logspace(-6, 2, 33)
"""What `ridge` chooses from, times the number of training rows."""


def ridge(train_x: Matrix, train_y: Vector, test_x: Matrix, *, logs: bool = True) -> Vector:
    """Return what a quadratic ridge regression on configurations predicts: the fair reference.

    Columns are standardised by the training rows, then all products of two are added, and these
    standardised too; constant ones fall out. The penalty is that of `PENALTIES` whose squared
    leave-one-out error, (residual / (1 - leverage))^2, is least on the training rows.

    Args:
        train_x: (k, columns), k >= 3.
        train_y: (k,). For a perplexity, give minus its logarithm: the order is the same, and the
            fit far better (GPT-2, 50 labels: tau 0.94 against 0.91).
        test_x: (n, columns); of it, only signs decide anything but the result, see `logs`.
        logs: Take the logarithm of columns that are positive in all rows of both.

    Returns:
        (n,) predicted qualities.

    Raises:
        EvaluationError: Something is not finite, shapes disagree, or all columns are constant.
    """
    train, test, y = _table(train_x, train_y, test_x)
    if logs:
        positive = np.concatenate([train, test]).min(axis=0) > 0
        train, test = _log(train, positive), _log(test, positive)
    train, test = _standardised(*_standardised(train, test, degree=2), degree=1)
    if not train.shape[1]:
        raise EvaluationError("a ridge needs a column that differs among its training rows")
    left, singular, right = np.linalg.svd(train, full_matrices=False)
    centred = y - y.mean()
    shrunk = singular**2 / (singular**2 + len(y) * PENALTIES[:, None])  # (penalties, rank)
    residual = centred - (shrunk * (left.T @ centred)) @ left.T
    leverage = 1 / len(y) + shrunk @ (left.T**2)
    errors = ((residual / np.maximum(1 - leverage, 1e-9)) ** 2).mean(axis=1)
    penalty = len(y) * PENALTIES[len(errors) - 1 - int(np.argmin(errors[::-1]))]
    weights = right.T @ (singular / (singular**2 + penalty) * (left.T @ centred))
    return np.asarray(y.mean() + test @ weights, dtype=np.float64)


def cross_fitted(
    table: Matrix, quality: Vector, networks: Sequence[str], *, folds: int = FOLDS, seed: int = 0
) -> Vector:
    """Return what `ridge` predicts for each architecture when fitted to all other folds.

    Trained networks are dealt to folds in an order that the seed shuffles; rows of one network
    are of one fold, so no architecture is predicted by a fit that saw its label, or its twin's.

    Args:
        table: (n, columns) of configurations.
        quality: (n,).
        networks: The trained network of each architecture.
        folds: At most so many; as many as there are networks, where these are fewer.
        seed: Of the deal, which depends on the names, not on the order of the rows.

    Returns:
        (n,) predicted qualities.

    Raises:
        EvaluationError: As `ridge`, or there is one network alone.
    """
    names, network = np.unique(np.asarray(networks), return_inverse=True)
    if len(names) < 2:
        raise EvaluationError("a cross-fitted ridge needs at least 2 trained networks, got 1")
    dealt = np.empty(len(names), dtype=np.int64)
    dealt[np.random.default_rng(seed).permutation(len(names))] = np.arange(len(names)) % folds
    fold = dealt[network.ravel()]
    found = np.empty(len(quality))
    for number in range(min(folds, len(names))):
        apart = fold == number
        found[apart] = ridge(table[~apart], quality[~apart], table[apart])
    return found


def split(
    networks: Sequence[str], labels: int, validation: int, seed: int
) -> tuple[Indices, Indices, Indices]:
    """Return which architectures the search sees, which validate, and which are reported on.

    Networks as trained are shuffled by `seed`; one after the other goes, with all its rows, to
    the search while they fit into `labels` rows, then to the validation while they fit, the rest
    to the report. A label is a row. The search has never more than half of all rows, the
    validation never more than half of the others.

    Args:
        networks: The trained network of each architecture; rows of one never part.
        labels: Most rows that the search may see, >= 3.
        validation: Most rows of the validation, 0 for none.
        seed: Of the shuffle, which depends on the names, not on the order of the rows.

    Returns:
        Three rising index arrays, disjoint, that hold every row.

    Raises:
        ConfigError: A number is out of range, or a part would have fewer than 3 rows.
    """
    if labels < SMALLEST or (validation and validation < SMALLEST) or validation < 0:
        raise ConfigError(
            f"labels must be at least {SMALLEST} and validation 0 or at least {SMALLEST}, got "
            f"{labels} and {validation}"
        )
    names = np.asarray(networks)
    distinct, sizes = np.unique(names, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(distinct))
    taken, rest = _fill(order, sizes, min(labels, len(names) // 2))
    left = int(sizes[rest].sum())
    checked, rest = _fill(rest, sizes, min(validation, left // 2))
    parts = [np.flatnonzero(np.isin(names, distinct[part])) for part in (taken, checked, rest)]
    wanted = [True, validation > 0, True]
    if any(want and len(part) < SMALLEST for want, part in zip(wanted, parts, strict=True)):
        raise ConfigError(
            f"{len(names)} architectures of {len(distinct)} trained networks are too few for "
            f"{labels} labels, {validation} to validate and the rest to report on: each part "
            f"needs {SMALLEST}; ask for fewer, or take a larger table"
        )
    return parts[0], parts[1], parts[2]


# --- parts -----------------------------------------------------------------------------------


def _vectors(*vectors: Vector) -> tuple[Vector, ...]:
    """Return finite vectors of one length, or refuse."""
    arrays = tuple(np.asarray(vector, dtype=np.float64) for vector in vectors)
    if any(a.ndim != 1 or not a.size or a.shape != arrays[0].shape for a in arrays):
        shapes = ", ".join(str(a.shape) for a in arrays)
        raise EvaluationError(f"expected vectors of one length, not empty, got shapes {shapes}")
    for a in arrays:
        if not np.isfinite(a).all():
            raise EvaluationError(
                f"{np.count_nonzero(~np.isfinite(a))} of {a.size} numbers are not finite; a "
                "missing value is no number: drop its architecture, or the candidate"
            )
    return arrays


def _varying(*vectors: Vector) -> tuple[Vector, ...]:
    """Return finite vectors of one length that are not constant, or refuse."""
    arrays = _vectors(*vectors)
    for a in arrays:
        if not _differ(a):
            raise EvaluationError(
                f"a rank correlation is undefined: all {a.size} numbers are equal to {a[0]:g}"
            )
    return arrays


def _differ(x: Vector) -> bool:
    return bool((x != x[0]).any())


def _members(strata: Sequence[Hashable], n: int) -> list[Indices]:
    """Return the rows of each stratum, in order of appearance."""
    if len(strata) != n:
        raise EvaluationError(f"{n} architectures need as many strata, got {len(strata)}")
    members: dict[Hashable, list[int]] = {}
    for row, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(row)
    return [np.asarray(rows, dtype=np.int64) for rows in members.values()]


def _signs(x: Vector) -> Matrix:
    """Return sign(x_i - x_j), (n, n); by comparison, since a difference may overflow."""
    return (x[:, None] > x).astype(np.float64) - (x[:, None] < x)


def _below(x: Vector) -> Matrix:
    """Return [x_j < x_i] + [x_j = x_i] / 2 at (j, i): what j adds to the mean rank of i."""
    return np.asarray((_signs(x).T + 1) / 2, dtype=np.float64)


def _pairs(matrix: Matrix, counts: Matrix) -> Vector:
    """Return c' M c / 2 for each row c of counts: the sum over pairs; exact for integers."""
    return np.asarray(((counts @ matrix) * counts).sum(axis=1) / 2, dtype=np.float64)


def _ratio(above: Vector, below: Vector) -> Vector:
    """Return above / below, in [-1, 1], NaN where below is zero."""
    found = np.full(len(above), np.nan)
    np.divide(above, below, out=found, where=below > 0)
    return np.asarray(np.clip(found, -1, 1), dtype=np.float64)


def _share_in_top(x: Vector, counts: Matrix, places: Vector) -> Matrix:
    """Return by which share each architecture is among the largest `places` of each resample."""
    above = counts @ (x[:, None] > x)
    level = counts @ (x[:, None] == x)
    shares = np.clip((places[:, None] - above) / np.maximum(level, 1), 0, 1)
    return np.asarray(shares, dtype=np.float64)


def _table(train_x: Matrix, train_y: Vector, test_x: Matrix) -> tuple[Matrix, Matrix, Vector]:
    """Return finite tables that fit together, or refuse."""
    train, test = np.asarray(train_x, dtype=np.float64), np.asarray(test_x, dtype=np.float64)
    (y,) = _vectors(train_y)
    if train.ndim != 2 or test.ndim != 2 or train.shape != (len(y), test.shape[1]):
        raise EvaluationError(
            f"a ridge needs (k, columns), (k,) and (n, columns), got {train.shape}, {y.shape} and "
            f"{test.shape}"
        )
    if len(y) < SMALLEST:
        raise EvaluationError(f"a ridge needs at least {SMALLEST} training rows, got {len(y)}")
    if not (np.isfinite(train).all() and np.isfinite(test).all()):
        raise EvaluationError("a ridge needs finite columns; drop those with missing values")
    return train, test, y


def _log(x: Matrix, columns: NDArray[np.bool_]) -> Matrix:
    """Return the logarithm of the columns that are marked, and the others as they are."""
    return np.where(columns, np.log(np.where(columns, x, 1.0)), x)


def _standardised(train: Matrix, test: Matrix, degree: int) -> tuple[Matrix, Matrix]:
    """Return both in units of the training rows, with products of two columns for degree 2."""
    mean: Vector = train.mean(axis=0)
    spread: Vector = train.std(axis=0)
    kept = spread > 1e-12 * np.maximum(np.abs(train).max(axis=0, initial=0.0), 1e-300)
    both = [(x[:, kept] - mean[kept]) / spread[kept] for x in (train, test)]
    if degree == 2:
        first, second = np.triu_indices(both[0].shape[1])
        both = [np.hstack([x, x[:, first] * x[:, second]]) for x in both]
    return both[0], both[1]


def _fill(order: Indices, sizes: Indices, room: int) -> tuple[Indices, Indices]:
    """Return the networks that fit, first come first served, and the others."""
    fits = np.zeros(len(order), dtype=np.bool_)
    for place, network in enumerate(order):
        if sizes[network] <= room:
            fits[place] = True
            room -= int(sizes[network])
    return order[fits], order[~fits]
