"""Rank correlations, intervals and tests, against loops over pairs and hand formulas."""

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from autoproxy.errors import ConfigError, EvaluationError
from evaluators import correlation as c
from evaluators.correlation import Vector

SMALL = st.sampled_from([-3.0, -1.0, 0.0, 0.5, 1.0, 2.0, 1e-300, 1e300])
"""Few values, so that ties are frequent."""


def vectors(count: int, least: int = 2, most: int = 9) -> st.SearchStrategy[list[Vector]]:
    """Return vectors of one length, none of them constant."""

    def of_length(n: int) -> st.SearchStrategy[list[Vector]]:
        values = st.lists(SMALL | st.floats(-1e3, 1e3), min_size=n, max_size=n)
        varied = values.filter(lambda v: len(set(v)) > 1).map(np.array)
        return st.lists(varied, min_size=count, max_size=count)

    return st.integers(least, most).flatmap(of_length)


def noisy(n: int, seed: int, noise: float = 1.0) -> tuple[Vector, Vector]:
    draw = np.random.default_rng(seed)
    quality = draw.normal(size=n)
    return quality + noise * draw.normal(size=n), quality


# --- oracles: loops, written from the definitions --------------------------------------------


def order(a: float, b: float) -> int:
    return int(a > b) - int(a < b)


def pairs(n: int) -> Iterator[tuple[int, int]]:
    return itertools.combinations(range(n), 2)


def slow_kendall(x: Sequence[float], y: Sequence[float]) -> float:
    balance = first = second = 0
    for i, j in pairs(len(x)):
        a, b = order(x[i], x[j]), order(y[i], y[j])
        balance += a * b
        first += a != 0
        second += b != 0
    return balance / math.sqrt(first * second) if first and second else math.nan


def slow_ranks(x: Sequence[float]) -> list[float]:
    return [sum(v < w for v in x) + (sum(v == w for v in x) + 1) / 2 for w in x]


def slow_spearman(x: Sequence[float], y: Sequence[float]) -> float:
    a, b = slow_ranks(x), slow_ranks(y)
    middle = (len(a) + 1) / 2
    above = sum((p - middle) * (q - middle) for p, q in zip(a, b, strict=True))
    below = sum((p - middle) ** 2 for p in a) * sum((q - middle) ** 2 for q in b)
    return above / math.sqrt(below) if below else math.nan


def slow_weighted(x: Sequence[float], y: Sequence[float]) -> float:
    """Vigna 2015, by the definition: the mean over ranking by (x, y) and by (y, x)."""
    found = []
    for first, second in ((x, y), (y, x)):
        best = sorted(range(len(x)), key=lambda i: (first[i], second[i]), reverse=True)
        rank = {i: place for place, i in enumerate(best)}
        sums = [0.0, 0.0, 0.0]
        for i, j in pairs(len(x)):
            weight = 1 / (rank[i] + 1) + 1 / (rank[j] + 1)
            a, b = order(x[i], x[j]), order(y[i], y[j])
            for place, value in enumerate((a * b, a * a, b * b)):
                sums[place] += weight * value
        found.append(sums[0] / math.sqrt(sums[1] * sums[2]))
    return sum(found) / 2


def slow_recall(x: Sequence[float], y: Sequence[float], draws: int, seed: int) -> float:
    """The share in common, over random orders of the ties of x."""
    draw = np.random.default_rng(seed)
    k = math.ceil(len(x) / 10)
    best = set(sorted(range(len(y)), key=lambda i: -y[i])[:k])
    total = 0
    for _ in range(draws):
        chance = draw.permutation(len(x))
        total += len(best & set(sorted(range(len(x)), key=lambda i: (-x[i], chance[i]))[:k]))
    return total / draws / k


def slow_within(x: Vector, y: Vector, strata: Sequence[str]) -> float:
    above = below = 0.0
    for name in set(strata):
        rows = [i for i, s in enumerate(strata) if s == name]
        tau = slow_kendall(x[rows], y[rows])
        if len(rows) < 3 or len(set(y[rows])) == 1:
            continue
        size = len(rows) * (len(rows) - 1) / 2
        above += size * (0.0 if math.isnan(tau) else tau)
        below += size
    return above / below if below else math.nan


# --- correlations ----------------------------------------------------------------------------

CORRELATIONS: list[tuple[Callable[[Vector, Vector], float], Callable[..., float]]] = [
    (c.kendall, slow_kendall),
    (c.spearman, slow_spearman),
    (c.weighted_kendall, slow_weighted),
]


@pytest.mark.parametrize(("fast", "slow"), CORRELATIONS)
@given(vectors(2))
def test_correlations_are_those_of_the_definition(
    fast: Callable[..., float], slow: Callable[..., float], both: list[Vector]
) -> None:
    assert fast(*both) == pytest.approx(slow(*both), abs=1e-12)


@pytest.mark.parametrize("of", [c.kendall, c.spearman, c.weighted_kendall, c.top_recall])
@given(vectors(2, 3), st.randoms(use_true_random=False))
def test_only_the_order_counts_and_the_places_do_not(
    of: Callable[..., float], both: list[Vector], draw: object
) -> None:
    x, y = both
    value = of(x, y)
    ranks = stats.rankdata(x)  # strictly increasing in x
    assert of(ranks, y) == pytest.approx(value, abs=1e-12)
    assert of(x, np.exp(stats.rankdata(y))) == pytest.approx(value, abs=1e-12)
    places = draw.sample(range(len(x)), len(x))  # type: ignore[attr-defined]
    assert of(x[places], y[places]) == pytest.approx(value, abs=1e-12)
    assert of(y, x) == pytest.approx(value, abs=1e-12)
    assert of(x, x) == pytest.approx(1.0)


@pytest.mark.parametrize("of", [c.kendall, c.spearman])
@given(vectors(2))
def test_a_sign_turns_a_correlation_round(of: Callable[..., float], both: list[Vector]) -> None:
    x, y = both
    assert of(-x, y) == pytest.approx(-of(x, y), abs=1e-12)


def test_the_top_of_weighted_kendall_is_the_largest() -> None:
    quality = np.arange(20.0)
    top, bottom = quality.copy(), quality.copy()
    top[[18, 19]] = top[[19, 18]]
    bottom[[0, 1]] = bottom[[1, 0]]
    assert c.weighted_kendall(top, quality) < c.weighted_kendall(bottom, quality) < 1
    assert c.kendall(top, quality) == c.kendall(bottom, quality)


@given(vectors(3, 4))
def test_partial_kendall_is_that_of_the_formula(three: list[Vector]) -> None:
    x, y, z = three
    a, b, ab = slow_kendall(x, z), slow_kendall(y, z), slow_kendall(x, y)
    assume(abs(a) < 1 - 1e-6 and abs(b) < 1 - 1e-6)
    wanted = (ab - a * b) / math.sqrt((1 - a * a) * (1 - b * b))
    assert c.partial_kendall(x, y, z) == pytest.approx(wanted, abs=1e-9)
    assert c.partial_kendall(-x, y, z) == pytest.approx(-wanted, abs=1e-9)
    assert -1 <= c.partial_kendall(x, y, z) <= 1


def test_what_the_confounder_explains_is_nearly_gone() -> None:
    draw = np.random.default_rng(0)
    size = draw.normal(size=2000)
    x, y = size + draw.normal(size=2000), size + draw.normal(size=2000)
    assert c.kendall(x, y) == pytest.approx(1 / 3, abs=0.03)  # 2 / pi * asin(1 / 2)
    # Both taus with the size are 2 / pi * asin(1 / sqrt 2) = 1/2, so (1/3 - 1/4) / (3/4) is left.
    assert c.partial_kendall(x, y, size) == pytest.approx(1 / 9, abs=0.03)
    with pytest.raises(EvaluationError, match="confounder gives the order"):
        c.partial_kendall(x, size, size**3)


# --- strata ----------------------------------------------------------------------------------


@given(vectors(2, 6, 14), st.data())
def test_within_is_the_mean_over_strata(both: list[Vector], data: st.DataObject) -> None:
    x, y = both
    names = data.draw(st.lists(st.sampled_from("ab"), min_size=len(x), max_size=len(x)))
    wanted = slow_within(x, y, names)
    if math.isnan(wanted):
        with pytest.raises(EvaluationError, match="strata"):
            c.within(x, y, names)
        return
    found = c.within(x, y, names)
    assert found.tau == pytest.approx(wanted, abs=1e-12)
    assert found.strata + found.left_out == len(set(names))


def test_within_counts_what_it_leaves_out_and_gives_silence_no_gain() -> None:
    strata = ["a"] * 4 + ["b"] * 3 + ["small"] * 2 + ["same"] * 3
    quality = np.array([1.0, 2, 3, 4, 1, 2, 3, 1, 2, 5, 5, 5])
    prediction = np.array([1.0, 2, 3, 4, 7, 7, 7, 1, 2, 1, 2, 3])
    found = c.within(prediction, quality, strata)
    assert found == c.Within(tau=6 / 9, strata=2, pairs=9, left_out=2)
    with pytest.raises(EvaluationError, match="none of 12 strata"):
        c.within(prediction, quality, [str(i) for i in range(12)])
    with pytest.raises(EvaluationError, match="need as many strata"):
        c.within(prediction, quality, strata[:-1])


# --- the top, ties ---------------------------------------------------------------------------


@given(st.integers(1, 45), st.integers(0, 9999))
def test_recall_is_the_expectation_over_orders_of_ties(n: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    quality = draw.permutation(n).astype(np.float64)
    prediction = draw.integers(0, 4, size=n).astype(np.float64)
    wanted = slow_recall(prediction.tolist(), quality.tolist(), 400, seed)
    assert c.top_recall(prediction, quality) == pytest.approx(wanted, abs=0.13)


def test_recall_by_hand() -> None:
    quality = np.arange(30.0)  # the best: 27, 28, 29
    prediction = np.zeros(30)
    prediction[[29, 3]] = 2.0
    prediction[[28, 27, 4, 5]] = 1.0  # four for the one place that is left
    assert c.top_recall(prediction, quality) == pytest.approx((1 + 0.25 + 0.25) / 3)
    assert c.top_recall(-quality, quality) == 0
    assert c.top_recall(np.arange(21.0), np.arange(21.0)[::-1].copy()) == 0
    assert c.top_recall(np.ones(21), np.arange(21.0)) == pytest.approx(3 / 21)  # ceil(2.1) = 3


@given(st.lists(SMALL, min_size=1, max_size=12))
def test_tied_counts_pairs(values: list[float]) -> None:
    equal = [values[i] == values[j] for i, j in pairs(len(values))]
    assert c.tied(np.array(values)) == pytest.approx(sum(equal) / len(equal) if equal else 0)


# --- bootstrap -------------------------------------------------------------------------------


@given(vectors(2, 3, 12), st.integers(0, 99))
def test_resampled_statistics_are_those_of_the_repeated_vectors(
    both: list[Vector], seed: int
) -> None:
    x, y = both
    counts = c.resamples([str(i) for i in range(len(x))], 8, seed)
    rows = [np.repeat(np.arange(len(x)), drawn.astype(int)) for drawn in counts]
    assert all(len(drawn) == len(x) for drawn in rows)
    for fast, slow in (
        (c.resampled_kendall, slow_kendall),
        (c.resampled_spearman, slow_spearman),
        (c.resampled_recall, c.top_recall),
    ):
        wanted = [slow(x[drawn], y[drawn]) for drawn in rows]
        assert fast(x, y, counts) == pytest.approx(wanted, abs=1e-12, nan_ok=True)


@given(vectors(2, 6, 14), st.integers(0, 99), st.data())
def test_resampled_within_is_within_of_the_repeated(
    both: list[Vector], seed: int, data: st.DataObject
) -> None:
    x, y = both
    names = np.array(data.draw(st.lists(st.sampled_from("ab"), min_size=len(x), max_size=len(x))))
    counts = c.resamples([str(i) for i in range(len(x))], 8, seed)
    rows = [np.repeat(np.arange(len(x)), drawn.astype(int)) for drawn in counts]
    wanted = [slow_within(x[drawn], y[drawn], names[drawn].tolist()) for drawn in rows]
    found = c.resampled_within(x, y, names.tolist(), counts)
    assert found == pytest.approx(wanted, abs=1e-12, nan_ok=True)


# --- noise -----------------------------------------------------------------------------------


def trained(networks: int, trainings: Sequence[int], noise: float, seed: int) -> tuple[Vector, ...]:
    """Return each row's quality, its network, and the network's true number."""
    draw = np.random.default_rng(seed)
    network = np.repeat(np.arange(networks), np.resize(np.array(trainings), networks))
    true = draw.normal(size=networks)[network]
    return true + noise * draw.normal(size=len(network)), network, true


def test_the_agreement_of_trainings_is_the_mean_over_every_choice() -> None:
    """The shortcut against a loop over pairs of networks and all ways to choose trainings."""
    quality, network, _ = trained(32, [2, 3, 1, 4], 0.7, 3)
    quality = quality.round(1)  # with ties
    sets = [quality[network == one] for one in range(32) if (network == one).sum() > 1]
    chosen = [
        np.mean(
            [
                order(a, b) * order(x, y)
                for a, x in itertools.permutations(one, 2)
                for b, y in itertools.permutations(other, 2)
            ]
        )
        for one, other in itertools.combinations(sets, 2)
    ]
    found = c.ceiling(quality, [str(n) for n in network], number=50)
    assert found is not None
    assert found.networks == len(sets) == 24
    assert found.agreement == pytest.approx(np.mean(chosen))


@pytest.mark.parametrize("noise", [0.3, 0.6, 1.2])
def test_a_ceiling_is_what_the_truth_comes_to(noise: float) -> None:
    """Whatever the scale of quality is: only its order counts."""
    found = []
    for seed in range(4):
        quality, network, true = trained(200, [2, 2, 3], noise, seed)
        one = c.ceiling(np.exp(3 * quality), [str(n) for n in network], number=100)
        assert one is not None
        assert one.tau_low < one.tau < one.tau_high
        first = np.unique(network, return_index=True)[1]
        assert one.tau == pytest.approx(c.kendall(true[first], quality[first]), abs=0.08)
        found.append(one.tau)
    assert np.mean(found) == pytest.approx(slow_ceiling(noise), abs=0.03)


def slow_ceiling(noise: float) -> float:
    """Return the mean sign that two differences share, one of them with noise, by drawing."""
    draw = np.random.default_rng(0)
    true, noisy = draw.normal(size=(2, 10**6)) * np.array([[1], [noise]])
    return float(np.sign(true * (true + noisy)).mean())


def test_an_interval_of_a_ceiling_covers_as_it_should() -> None:
    wanted = slow_ceiling(0.8)
    inside = 0
    for seed in range(50):
        quality, network, _ = trained(40, [2], 0.8, seed)
        found = c.ceiling(quality, [str(n) for n in network], number=200)
        assert found is not None
        inside += found.tau_low <= wanted <= found.tau_high
    assert inside >= 42


def test_a_ceiling_of_pure_noise_and_of_too_few() -> None:
    draw = np.random.default_rng(0)
    network = [str(n // 2) for n in range(200)]
    found = c.ceiling(draw.normal(size=200), network, number=50)
    assert found is not None
    assert found.tau < 0.4
    without = c.ceiling(np.repeat(draw.normal(size=100), 2), network, number=50)
    assert without is not None
    assert without.agreement == without.tau == 1.0
    assert c.ceiling(np.arange(38.0), network[:38]) is None
    assert c.ceiling(np.arange(40.0), network[:40]) is not None
    with pytest.raises(EvaluationError, match="40 qualities and 38 networks"):
        c.ceiling(np.arange(40.0), network[:38])


def test_rows_of_one_network_are_drawn_together() -> None:
    counts = c.resamples(["a", "b", "a", "c"], 500, 3)
    assert np.array_equal(counts[:, 0], counts[:, 2])
    assert (counts[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert counts[:, 0].mean() == pytest.approx(1, abs=0.1)
    assert np.array_equal(counts, c.resamples(["a", "b", "a", "c"], 500, 3))
    assert not np.array_equal(counts, c.resamples(["a", "b", "a", "c"], 500, 4))


def test_an_interval_is_scipys_and_covers_as_it_should() -> None:
    prediction, quality = noisy(60, 0)
    counts = c.resamples([str(i) for i in range(60)], 4000, 0)
    low, high = c.interval(c.resampled_kendall(prediction, quality, counts))
    scipys = stats.bootstrap(
        (prediction, quality),
        lambda x, y: stats.kendalltau(x, y, method="asymptotic").statistic,
        paired=True,
        n_resamples=2000,
        method="percentile",
        vectorized=False,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert low == pytest.approx(scipys.low, abs=0.02)
    assert high == pytest.approx(scipys.high, abs=0.02)
    truth = 2 / math.pi * math.asin(math.sqrt(0.5))  # tau of a normal pair of correlation 1/sqrt 2
    inside = 0
    for seed in range(100):
        prediction, quality = noisy(60, seed)
        drawn = c.resampled_kendall(prediction, quality, counts[:400])
        inside += c.interval(drawn)[0] <= truth <= c.interval(drawn)[1]
    assert 88 <= inside <= 99


def test_undefined_resamples_are_left_out_or_refused() -> None:
    assert c.interval(np.array([0.0, 1.0, math.nan])) == pytest.approx((0.025, 0.975))
    with pytest.raises(EvaluationError, match="undefined on 2 of 3 resamples"):
        c.interval(np.array([0.0, math.nan, math.nan]))
    with pytest.raises(ConfigError, match="two networks"):
        c.resamples(["a", "a"])


def test_a_thousand_resamples_of_300_take_well_under_a_second() -> None:
    prediction, quality = noisy(300, 0)
    counts = c.resamples([str(i) for i in range(300)], 1000, 0)
    began = time.perf_counter()
    c.resampled_kendall(prediction, quality, counts)
    assert time.perf_counter() - began < 1.0


# --- tests -----------------------------------------------------------------------------------


@given(vectors(2, 3))
def test_losses_are_pseudo_values_and_their_mean_is_one_less_tau(both: list[Vector]) -> None:
    x, y = both
    n = len(x)
    found = c.losses(x, y)
    tau = slow_kendall(x, y)
    assert found.mean() == pytest.approx(1 - tau, abs=1e-9)
    # By the definition of the jackknife: n * tau - (n - 1) * tau without i, d fixed.
    balance = [[order(x[i], x[j]) * order(y[i], y[j]) for j in range(n)] for i in range(n)]
    scale = sum(map(sum, balance)) / (n * (n - 1)) / tau if tau else None
    for i in range(n) if scale else ():
        rest = [j for j in range(n) if j != i]
        without = sum(balance[a][b] for a in rest for b in rest) / ((n - 1) * (n - 2)) / scale
        assert found[i] == pytest.approx(1 - (n * tau - (n - 1) * without), abs=1e-9)


def test_the_spread_of_losses_is_the_error_of_tau() -> None:
    taus, errors = [], []
    for seed in range(300):
        prediction, quality = noisy(40, seed)
        taus.append(c.kendall(prediction, quality))
        errors.append(np.std(c.losses(prediction, quality), ddof=1) / math.sqrt(40))
    assert np.mean(errors) == pytest.approx(np.std(taus), rel=0.12)


def paired_test(
    first: Vector,
    second: Vector,
    quality: Vector,
    networks: list[str] | None = None,
    **draws: int,
) -> float:
    """Return the p of two predictions having the same tau-b, as a jury finds it."""
    difference = c.losses(first, quality) - c.losses(second, quality)
    return c.sign_flip(difference, networks, **draws)


def test_a_paired_test_keeps_its_level_and_finds_what_is_there() -> None:
    level, power = [], []
    for seed in range(200):
        draw = np.random.default_rng(seed)
        quality = draw.normal(size=50)
        equal = [quality + draw.normal(size=50) for _ in range(2)]
        better = quality + 0.3 * draw.normal(size=50)
        level.append(paired_test(*equal, quality, number=499, seed=seed) <= 0.05)
        power.append(paired_test(better, equal[0], quality, number=499, seed=seed) <= 0.05)
    assert sum(level) <= 22  # 5 % of 200, and four standard deviations
    assert sum(power) >= 180


def test_a_paired_test_is_symmetric_and_silent_about_the_same_order() -> None:
    prediction, quality = noisy(30, 0)
    other = quality + np.random.default_rng(1).normal(size=30)
    assert paired_test(prediction, prediction**3, quality) == 1
    assert paired_test(prediction, other, quality) == paired_test(other, prediction, quality)
    alone = paired_test(prediction, other, quality)
    assert paired_test(prediction, other, quality, [str(i) for i in range(100, 130)]) == alone
    # Ten copies of each row are no more evidence than one.
    tenfold = [np.repeat(v, 10) for v in (prediction, other, quality)]
    names = [str(i // 10) for i in range(300)]
    assert paired_test(*tenfold) < 0.8 * alone
    assert paired_test(*tenfold, names) == pytest.approx(alone, rel=0.2)


@given(st.lists(st.floats(0, 1), max_size=8), st.randoms(use_true_random=False))
def test_holm_is_that_of_the_steps(p: list[float], draw: object) -> None:
    wanted = {}
    floor = 0.0
    for place, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        floor = max(floor, p[i] * (len(p) - place))
        wanted[i] = min(1.0, floor)
    assert c.holm(p) == pytest.approx([wanted[i] for i in range(len(p))])
    places = draw.sample(range(len(p)), len(p))  # type: ignore[attr-defined]
    assert c.holm([p[i] for i in places]) == pytest.approx([c.holm(p)[i] for i in places])


@pytest.mark.parametrize("p", [[-0.1], [1.1], [math.nan, 0.5]])
def test_holm_takes_chances_alone(p: list[float]) -> None:
    with pytest.raises(ConfigError, match="p values lie in"):
        c.holm(p)


# --- references ------------------------------------------------------------------------------


@given(vectors(3, 2, 12))
def test_lexicographic_order_is_that_of_tuples(columns: list[Vector]) -> None:
    found = c.lexicographic(columns)
    rows = list(zip(*[column.tolist() for column in columns], strict=True))
    for i, j in pairs(len(rows)):
        assert (found[i] > found[j], found[i] == found[j]) == (
            rows[i] > rows[j],
            rows[i] == rows[j],
        )


def slow_ridge(x: Vector, y: Vector, test: Vector, penalty: float) -> Vector:
    """Ridge by the normal equations; the mean is not penalised."""
    middle = x - x.mean(axis=0)
    weights = np.linalg.solve(
        middle.T @ middle + penalty * np.eye(x.shape[1]), middle.T @ (y - y.mean())
    )
    return y.mean() + (test - x.mean(axis=0)) @ weights


def test_ridge_chooses_its_penalty_by_leaving_each_row_out() -> None:
    draw = np.random.default_rng(0)
    train, test = draw.uniform(1, 3, size=(20, 2)), draw.uniform(1, 3, size=(7, 2))
    y = np.log(train[:, 0]) - train[:, 1] + 0.3 * draw.normal(size=20)

    def features(x: Vector) -> Vector:
        z = (x - train.mean(axis=0)) / train.std(axis=0)
        full = np.stack([*z.T, z[:, 0] ** 2, z[:, 0] * z[:, 1], z[:, 1] ** 2], axis=1)
        inner = (train - train.mean(axis=0)) / train.std(axis=0)
        own = np.stack(
            [*inner.T, inner[:, 0] ** 2, inner[:, 0] * inner[:, 1], inner[:, 1] ** 2], axis=1
        )
        return (full - own.mean(axis=0)) / own.std(axis=0)

    x = features(train)
    errors = []
    for penalty in c.PENALTIES * 20:
        rows = np.arange(20)
        missed = [
            y[i] - slow_ridge(x[rows != i], y[rows != i], x[[i]], penalty)[0] for i in range(20)
        ]
        errors.append(np.mean(np.square(missed)))
    best = c.PENALTIES[int(np.argmin(errors))] * 20
    assert 0 < int(np.argmin(errors)) < len(c.PENALTIES) - 1  # it had a choice
    wanted = slow_ridge(x, y, features(test), best)
    assert c.ridge(train, y, test, logs=False) == pytest.approx(wanted, rel=1e-9)


def test_ridge_finds_a_quadratic_and_a_power_law() -> None:
    draw = np.random.default_rng(1)
    x = draw.uniform(1, 9, size=(120, 3))
    quadratic = x[:, 0] ** 2 - 2 * x[:, 1] * x[:, 2] + x[:, 1]
    found = c.ridge(x[:40], quadratic[:40], x[40:], logs=False)
    assert found == pytest.approx(quadratic[40:], abs=0.2)
    law = x[:, 0] ** 2 * x[:, 1] ** -1.5
    assert c.kendall(c.ridge(x[:40], np.log(law[:40]), x[40:]), law[40:]) > 0.99


@given(st.integers(0, 99), st.floats(-8, 8), st.floats(0.1, 9))
def test_ridge_knows_no_units_and_no_constant_columns(
    seed: int, shift: float, scale: float
) -> None:
    draw = np.random.default_rng(seed)
    train, test, y = draw.normal(size=(15, 3)), draw.normal(size=(4, 3)), draw.normal(size=15)
    plain = c.ridge(train, y, test, logs=False)
    moved = c.ridge(train * scale + shift, y, test * scale + shift, logs=False)
    assert moved == pytest.approx(plain, rel=1e-5, abs=1e-6)
    wide = [np.hstack([x, np.full((len(x), 1), 7.3)]) for x in (train, test)]
    assert c.ridge(wide[0], y, wide[1], logs=False) == pytest.approx(plain, rel=1e-9)
    assert c.ridge(train, y + 100, test, logs=False) == pytest.approx(plain + 100, abs=1e-8)


def test_ridge_refuses_what_it_cannot_fit() -> None:
    x, y = np.arange(8.0).reshape(4, 2), np.arange(4.0)
    for train, target, test, words in (
        (x[:2], y[:2], x, "at least 3 training rows"),
        (np.ones((4, 2)), y, x, "differs among its training rows"),
        (x, y[:3], x, "needs \\(k, columns\\)"),
        (x, y, x[:, :1], "needs \\(k, columns\\)"),
        (np.where(x == 3, np.nan, x), y, x, "finite columns"),
        (x, np.where(y == 3, np.inf, y), x, "1 of 4 numbers are not finite"),
    ):
        with pytest.raises(EvaluationError, match=words):
            c.ridge(train, target, test)


def table_of_twins() -> tuple[Vector, Vector, list[str]]:
    """Return 14 networks, two rows each, as a table, their qualities and their names."""
    draw = np.random.default_rng(5)
    table = np.repeat(draw.uniform(1, 3, size=(14, 2)), 2, axis=0)
    return table, draw.normal(size=28), [f"n{i // 2:02}" for i in range(28)]


def test_a_cross_fitted_prediction_knows_no_label_of_its_network() -> None:
    table, quality, networks = table_of_twins()
    before = c.cross_fitted(table, quality, networks, seed=3)
    for row in range(0, len(quality), 2):
        other = quality.copy()
        other[row] += 5
        after = c.cross_fitted(table, other, networks, seed=3)
        assert after[[row, row + 1]] == pytest.approx(before[[row, row + 1]], rel=1e-12)
        assert (after != before).any()  # it is of use to others


def test_with_a_fold_a_network_each_is_predicted_by_all_others() -> None:
    table, quality, networks = table_of_twins()
    found = c.cross_fitted(table, quality, networks, folds=99)
    for row, name in enumerate(networks):
        others = np.array([other != name for other in networks])
        wanted = c.ridge(table[others], quality[others], table[[row]])
        assert found[[row]] == pytest.approx(wanted, rel=1e-9)


def test_folds_are_by_name_and_by_seed() -> None:
    table, quality, networks = table_of_twins()
    found = c.cross_fitted(table, quality, networks)
    order = np.random.default_rng(0).permutation(len(quality))
    moved = c.cross_fitted(table[order], quality[order], [networks[i] for i in order])
    assert moved == pytest.approx(found[order], rel=1e-9)
    assert (c.cross_fitted(table, quality, networks, seed=1) != found).any()
    with pytest.raises(EvaluationError, match="at least 2 trained networks"):
        c.cross_fitted(table, quality, ["one"] * len(quality))


# --- splits ----------------------------------------------------------------------------------

NETWORKS = [f"n{i % 37}" for i in range(61)]


@given(
    st.lists(st.sampled_from("abcdefghijklmnopqrst"), min_size=10, max_size=40),
    st.integers(3, 60),
    st.sampled_from([0, 3, 5, 50]),
    st.integers(0, 9),
)
def test_a_split_keeps_networks_whole(
    networks: list[str], labels: int, validation: int, seed: int
) -> None:
    try:
        parts = c.split(networks, labels, validation, seed)
    except ConfigError:  # too few for three parts; see below
        return
    rows = np.concatenate(parts)
    assert sorted(rows.tolist()) == list(range(len(networks)))
    assert all((np.diff(part) > 0).all() for part in parts)
    names = [{networks[i] for i in part} for part in parts]
    assert len(names[0] | names[1] | names[2]) == sum(map(len, names))
    search, validated, reported = map(len, parts)
    assert 3 <= search <= min(labels, len(networks) // 2)
    assert validated <= min(validation, (validated + reported) // 2)
    assert reported >= 3
    # No network that would still fit was passed over.
    room = min(labels, len(networks) // 2) - search
    assert all(networks.count(name) > room for name in names[1] | names[2])


def test_a_split_takes_exactly_k_rows_where_networks_are_single_ones() -> None:
    single = [str(i) for i in range(200)]
    assert [len(part) for part in c.split(single, 50, 40, 0)] == [50, 40, 110]
    assert [len(part) for part in c.split(single[:64], 50, 40, 0)] == [32, 16, 16]
    assert len(c.split(single, 50, 0, 0)[1]) == 0


def test_a_split_hangs_on_the_seed_and_the_names_alone() -> None:
    first, again, other = (c.split(NETWORKS, 20, 10, seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    turned = c.split(NETWORKS[::-1], 20, 10, 3)
    for a, b in zip(first, turned, strict=True):
        assert Counter(NETWORKS[i] for i in a) == Counter(NETWORKS[::-1][i] for i in b)


def test_every_network_gets_its_turn() -> None:
    seen = Counter(i for seed in range(300) for i in c.split(NETWORKS, 20, 10, seed)[0].tolist())
    assert len(seen) == len(NETWORKS)
    assert min(seen.values()) > 50
    assert max(seen.values()) < 150


def test_a_split_refuses_what_it_cannot_serve() -> None:
    for networks, labels, validation, words in (
        (NETWORKS, 2, 5, "labels must be at least 3"),
        (NETWORKS, 5, 2, "validation 0 or at least 3"),
        (NETWORKS, 5, -3, "validation 0 or at least 3"),
        (["a"] * 20, 5, 5, "20 architectures of 1 trained networks are too few"),
        (list("abcde"), 3, 0, "too few"),
    ):
        with pytest.raises(ConfigError, match=words):
            c.split(networks, labels, validation, 0)


# --- bad input -------------------------------------------------------------------------------

GOOD = np.array([1.0, 2.0, 3.0])
TWO: list[Callable[[Vector, Vector], object]] = [
    c.kendall,
    c.spearman,
    c.weighted_kendall,
    c.losses,
    c.top_recall,
    lambda x, y: c.within(x, y, ["a"] * len(x)),
    lambda x, y: c.partial_kendall(x, y, GOOD),
    lambda x, y: c.resampled_kendall(x, y, np.ones((1, 3))),
    lambda x, y: c.resampled_spearman(x, y, np.ones((1, 3))),
    lambda x, y: c.lexicographic([x, y]),
]


@pytest.mark.parametrize("of", TWO)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(of: Callable[..., object], bad: float) -> None:
    broken = np.array([1.0, bad, 3.0])
    for both in ((broken, GOOD), (GOOD, broken)):
        with pytest.raises(EvaluationError, match="1 of 3 numbers are not finite"):
            of(*both)


@pytest.mark.parametrize("of", TWO)
def test_shapes_must_agree(of: Callable[..., object]) -> None:
    for bad in (GOOD[:2], GOOD[:, None], np.array([])):
        with pytest.raises(EvaluationError, match="vectors of one length"):
            of(GOOD, bad)


@pytest.mark.parametrize("of", TWO[:4])
def test_a_constant_has_no_rank_correlation(of: Callable[..., object]) -> None:
    for both in ((GOOD, GOOD * 0), (GOOD * 0, GOOD)):
        with pytest.raises(EvaluationError, match="all 3 numbers are equal to 0"):
            of(*both)
