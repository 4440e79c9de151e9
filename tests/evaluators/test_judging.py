"""What an order is worth, against scipy and against loops over pairs."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from autoproxy.errors import EvaluationError
from evaluators.judging import Jury, Vector

COUNT = 24


def jury(seed: int = 0, *, sizes: Sequence[int] = (9, 7, 5, 2, 1), resamples: int = 200) -> Jury:
    """Return a jury of networks in strata of different size, two rows of which are one network."""
    draw = np.random.default_rng(seed)
    count = sum(sizes)
    names = [f"n{n}" for n in range(count)]
    names[1] = names[0]
    return Jury(
        quality=np.round(draw.normal(size=count), 1),  # some are equal
        strata=[f"s{n}" for n, size in enumerate(sizes) for _ in range(size)],
        networks=names,
        params=np.round(draw.normal(size=count), 1),
        resamples=resamples,
        seed=seed,
    )


def predictions(seed: int, noise: float) -> Vector:
    quality = jury(seed).quality
    return np.round(quality + noise * np.random.default_rng(seed + 99).normal(size=COUNT), 1)


def slow_tau(x: Sequence[float], y: Sequence[float]) -> float:
    pairs = list(itertools.combinations(range(len(x)), 2))
    agree = sum(np.sign(x[i] - x[j]) * np.sign(y[i] - y[j]) for i, j in pairs)
    first = sum(x[i] != x[j] for i, j in pairs)
    second = sum(y[i] != y[j] for i, j in pairs)
    return float(agree / math.sqrt(first * second))


def slow_within(scores: Vector, judge: Jury) -> float:
    """Mean of tau in each stratum of three or more, weighted by its pairs."""
    above = below = 0.0
    for name in set(judge.strata):
        rows = [row for row, stratum in enumerate(judge.strata) if stratum == name]
        if len(rows) < 3 or len(set(judge.quality[rows])) < 2:
            continue
        pairs = len(rows) * (len(rows) - 1) / 2
        below += pairs
        if len(set(scores[rows])) > 1:
            above += pairs * slow_tau(scores[rows].tolist(), judge.quality[rows].tolist())
    return above / below


@pytest.mark.parametrize("seed", range(4))
def test_what_scores_are_worth(seed: int) -> None:
    judge, scores = jury(seed), predictions(seed, 0.7)
    found = judge.judge(scores)
    quality = judge.quality
    assert found["networks"] == COUNT
    assert found["tau"] == pytest.approx(stats.kendalltau(scores, quality).statistic)
    assert found["tau"] == pytest.approx(slow_tau(scores.tolist(), quality.tolist()))
    assert found["rho"] == pytest.approx(stats.spearmanr(scores, quality).statistic)
    assert found["within"] == pytest.approx(slow_within(scores, judge))
    assert found["with_params"] == pytest.approx(stats.kendalltau(scores, judge.params).statistic)
    a, b, c = (
        stats.kendalltau(x, y).statistic
        for x, y in ((scores, quality), (scores, judge.params), (quality, judge.params))
    )
    partial = (a - b * c) / math.sqrt((1 - b * b) * (1 - c * c))
    assert found["given_params"] == pytest.approx(partial)
    ties = sum(x == y for x, y in itertools.combinations(scores.tolist(), 2))
    assert found["tied"] == pytest.approx(ties / (COUNT * (COUNT - 1) / 2))
    for name in ("tau", "within", "rho", "recall"):
        low, value, high = (found[key] for key in (f"{name}_low", name, f"{name}_high"))
        assert low is not None
        assert value is not None
        assert high is not None
        assert -1 <= low <= value <= high <= 1
        assert low < high


def test_rows_of_one_network_are_resampled_together() -> None:
    """Each of four networks has three rows of one quality; its rows are no further evidence."""
    quality = np.repeat([1.0, 2.0, 3.0, 4.0], 3)
    scores = np.repeat([1.0, 2.0, 4.0, 3.0], 3)
    widths = []
    for names in ([str(n) for n in range(12)], list("aaabbbcccddd")):
        found = Jury(quality, ["s"] * 12, names, quality, resamples=500).judge(scores)
        low, high = found["tau_low"], found["tau_high"]
        assert low is not None
        assert high is not None
        widths.append(high - low)
    assert widths[1] > 1.9 > widths[0]  # only c and d may come, or only what is right
    assert widths[0] < 1.2


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Of 60 samples of 40 from a normal of correlation 0.7, whose tau is 2 asin(0.7) / pi."""
    truth = 2 * math.asin(0.7) / math.pi
    draw = np.random.default_rng(5)
    hits = 0
    for _ in range(60):
        x, y = draw.multivariate_normal([0, 0], [[1, 0.7], [0.7, 1]], 40).T
        names = [str(n) for n in range(40)]
        found = Jury(y, ["s"] * 40, names, x, resamples=200).judge(x)
        low, high = found["tau_low"], found["tau_high"]
        assert low is not None
        assert high is not None
        hits += low <= truth <= high
    assert 50 <= hits <= 60


def test_constant_scores_have_no_correlation_and_no_number() -> None:
    found = jury().judge(np.zeros(COUNT))
    assert found["within"] == 0  # there, saying nothing counts
    assert found["tied"] == 1
    for name in ("tau", "tau_low", "tau_high", "rho", "rho_low", "weighted", "with_params"):
        assert found[name] is None, name


def test_what_is_not_finite_is_no_correlation() -> None:
    scores = predictions(0, 1.0)
    scores[3] = math.nan
    with pytest.raises(EvaluationError, match="not finite"):
        jury().losses(scores)


@given(
    seed=st.integers(0, 50), noise=st.floats(0.1, 5), objective=st.sampled_from(["tau", "within"])
)
def test_losses_are_one_less_tau_in_the_mean(seed: int, noise: float, objective: str) -> None:
    judge, scores = jury(seed), predictions(seed, noise)
    wanted = (
        slow_tau(scores.tolist(), judge.quality.tolist())
        if objective == "tau"
        else slow_within(scores, judge)
    )
    assert judge.losses(scores, objective).mean() == pytest.approx(1 - wanted)


def test_losses_within_strata_are_of_those_that_count() -> None:
    """Strata of two and of one member do not, and one of equal qualities does not."""
    judge = jury()
    assert len(judge.losses(predictions(0, 1.0), "within")) == 9 + 7 + 5
    level = Jury(
        quality=np.array([1.0, 2, 3, 4, 4, 4]),
        strata=["a"] * 3 + ["b"] * 3,
        networks=list("pqrstu"),
        params=np.arange(6.0),
    )
    assert level.losses(np.arange(6.0), "within").tolist() == [0, 0, 0]
    with pytest.raises(EvaluationError, match="--objective tau"):
        jury(sizes=(2,) * 12).losses(predictions(0, 1.0), "within")


def test_scores_that_are_constant_in_a_stratum_say_nothing_there() -> None:
    judge = jury()
    scores = predictions(0, 0.3)
    scores[:9] = 1.0
    assert judge.losses(scores, "within").mean() == pytest.approx(1 - slow_within(scores, judge))


# --- comparisons ------------------------------------------------------------------------------


def slow_holm(p: Sequence[float]) -> list[float]:
    """The smallest p times m, the next times m - 1, ...; each at least those before it."""
    corrected = [0.0] * len(p)
    before = 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=lambda n: p[n])):
        before = max(before, p[place] * (len(p) - rank))
        corrected[place] = min(1.0, before)
    return corrected


@pytest.mark.parametrize("objective", ["tau", "within"])
@pytest.mark.parametrize("seed", range(3))
def test_comparisons(seed: int, objective: str) -> None:
    judge, scores = jury(seed), predictions(seed, 0.3)
    others = {f"noise {n}": predictions(seed + n, float(n)) for n in (1, 2, 4)}
    others["the same"] = scores * 2 + 1
    found = judge.compare(scores, others, objective)
    assert list(found) == list(others)
    values = judge.judge(scores)
    for name, other in others.items():
        mine, theirs = values[objective], judge.judge(other)[objective]
        assert mine is not None
        assert theirs is not None
        assert found[name]["difference"] == pytest.approx(mine - theirs), name
        assert found[name]["low"] <= found[name]["difference"] + 1e-9
        assert found[name]["difference"] <= found[name]["high"] + 1e-9
        assert 0 < found[name]["p"] <= 1
    same = found["the same"]
    assert [same[k] for k in ("low", "high", "p", "p_corrected")] == [0, 0, 1, 1]
    corrected = [one["p_corrected"] for one in found.values()]
    assert corrected == pytest.approx(slow_holm([one["p"] for one in found.values()]))
    assert all(one["p_corrected"] >= one["p"] for one in found.values())
    assert any(one["p_corrected"] > one["p"] for one in found.values())


def test_a_perfect_order_beats_noise_and_the_reverse_loses() -> None:
    judge = jury()
    noise = np.random.default_rng(1).normal(size=COUNT)
    better = judge.compare(judge.quality, {"noise": noise})["noise"]
    assert better["low"] > 0
    assert better["p_corrected"] < 0.01
    worse = judge.compare(-judge.quality, {"noise": noise})["noise"]
    assert worse["high"] < 0
    assert worse["difference"] < 0


def test_chance_is_seldom_taken_for_a_difference() -> None:
    """Two predictions of equal worth: p is below 5 % about as often as it says."""
    small = 0
    for seed in range(100):
        draw = np.random.default_rng(seed)
        quality = draw.normal(size=30)
        one, other = (quality + draw.normal(size=30) for _ in range(2))
        names = [str(n) for n in range(30)]
        judge = Jury(quality, ["s"] * 30, names, quality, resamples=100)
        small += judge.compare(one, {"other": other})["other"]["p"] < 0.05
    assert small <= 12
