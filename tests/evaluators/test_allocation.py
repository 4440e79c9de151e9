"""Allocation: sparsities of decoder layers add up, and say what the papers' formulas say."""

import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoproxy.errors import ConfigError
from evaluators.allocation import (
    MOST,
    Share,
    allocation_json,
    alpha_pruning,
    balanced,
    outlier_share,
    owl,
    read_allocation,
    tail_exponent,
    tuned,
)

SHARES = st.fractions(Fraction(1, 20), Fraction(19, 20), max_denominator=100)
LAYERS = st.lists(st.tuples(st.floats(-0.5, 1.5), st.integers(1, 10_000)), min_size=1, max_size=12)


@given(LAYERS, SHARES)
def test_balanced_keeps_the_mean_the_range_and_the_order(
    layers: list[tuple[float, int]], sparsity: Fraction
) -> None:
    wanted, sizes = [w for w, _ in layers], [n for _, n in layers]
    shares = balanced(wanted, sizes, sparsity)
    assert all(0 <= share <= MOST for share in shares)
    mean = sum(s * n for s, n in zip(shares, sizes, strict=True)) / sum(sizes)
    assert abs(float(mean - sparsity)) < 1e-6
    for a in range(len(wanted)):
        for b in range(len(wanted)):
            if wanted[a] <= wanted[b]:
                assert shares[a] <= shares[b]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), SHARES)
def test_owl_is_its_formula(outliers: list[float], sparsity: Fraction) -> None:
    """density_l = r_l - mean(r) + (1 - p), r_l = 2 lambda (d_l - min) / (max - min)."""
    shares = owl(outliers, [7] * len(outliers), sparsity)
    d = np.array(outliers)
    spread = d.max() - d.min()
    r = 2 * 0.08 * (d - d.min()) / spread if spread else np.zeros(len(d))
    density = r - r.mean() + 1 - float(sparsity)
    if (density > 0.01).all() and (density < 1).all():
        np.testing.assert_allclose([1 - float(s) for s in shares], density, atol=1e-6)


def test_owl_keeps_the_sparsity_where_decoder_layers_differ_in_size() -> None:
    sizes, sparsity = [100, 100, 900], Fraction(1, 2)
    shares = owl([0.01, 0.02, 0.05], sizes, sparsity)
    dropped = sum(float(share) * size for share, size in zip(shares, sizes, strict=True))
    assert dropped / sum(sizes) == pytest.approx(0.5, abs=1e-6)
    assert float(shares[0] - shares[2]) == pytest.approx(2 * 0.08, abs=1e-6)  # its spread stays


def test_the_share_of_outliers_counts_over_all_matrices_of_a_layer() -> None:
    draw = torch.Generator().manual_seed(0)
    parts = [torch.rand(7, 5, generator=draw) ** 9, 3 * torch.rand(4, 6, generator=draw) ** 9]
    flat = np.concatenate([part.double().numpy().ravel() for part in parts])
    assert outlier_share(parts) == pytest.approx((flat > 5 * flat.mean()).mean())


@pytest.mark.parametrize("exponent", [2.2, 3.0, 4.5])
def test_the_exponent_of_a_power_law_is_found(exponent: float) -> None:
    """A diagonal matrix whose squared entries follow the law exactly has the law's exponent."""
    quantiles = (np.arange(600) + 0.5) / 600
    eigenvalues = (1 - quantiles) ** (-1 / (exponent - 1))
    weight = torch.diag(torch.tensor(np.sqrt(eigenvalues)))
    assert tail_exponent(weight) == pytest.approx(exponent, rel=0.08)


def test_the_exponent_knows_no_scale_and_no_rotation() -> None:
    draw = torch.Generator().manual_seed(1)
    weight = torch.randn(40, 30, generator=draw, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(40, 40, generator=draw, dtype=torch.float64)).Q
    once = tail_exponent(weight)
    assert tail_exponent(17 * weight) == pytest.approx(once)
    assert tail_exponent(turn @ weight) == pytest.approx(once)
    assert tail_exponent(weight.T) == pytest.approx(once)


def test_alpha_pruning_is_its_formula() -> None:
    alphas, sizes, p = [2.0, 3.0, 6.0], [100, 300, 200], 0.6
    ratio = 0.7 + 0.6 * (np.array(alphas) - 2) / 4
    wanted = ratio * p * 600 / (ratio @ np.array(sizes))
    shares = alpha_pruning(alphas, sizes, Fraction("0.6"))
    np.testing.assert_allclose([float(s) for s in shares], wanted, atol=1e-6)
    assert alpha_pruning([3.0, 3.0], [1, 2], Fraction(1, 2)) == [Fraction(1, 2)] * 2


def test_a_file_reads_back(tmp_path: Path) -> None:
    shares = [Fraction("0.55"), Fraction("0.45")]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(allocation_json(shares, Fraction(1, 2))), encoding="utf-8")
    assert read_allocation(path, 2, Fraction(1, 2)) == shares


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "cannot be read"),
        ('{"sparsity": "1/2"}', "KeyError"),
        ('{"sparsity": "1/2", "sparsities": [0.5]}', "is for 1 decoder layers"),
        ('{"sparsity": "0.6", "sparsities": [0.5, 0.7]}', "sparsity of 0.6"),
        ('{"sparsity": "1/2", "sparsities": [0, 1]}', "outside"),
        ('{"sparsity": "1/2", "sparsities": ["nan", 1]}', "cannot be read"),
    ],
)
def test_a_wrong_file_is_told(content: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=told):
        read_allocation(path, 2, Fraction(1, 2))


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_allocation(tmp_path / "none.json", 2, Fraction(1, 2))


def test_exponents_are_finite_for_hard_matrices() -> None:
    for weight in (torch.eye(5), torch.ones(4, 3), torch.diag(torch.tensor([1e-30, 1.0, 1e20]))):
        assert math.isfinite(tail_exponent(weight))


def test_tuning_finds_what_a_plain_bowl_has_at_its_bottom_and_never_loses_to_uniform() -> None:
    share = Share([100, 100, 200], Fraction(1, 2))
    bottom = [0.6, 0.6, 0.4]
    seen: list[tuple[int, float]] = []

    def divergence(shares: list[Fraction]) -> float:  # type: ignore[type-arg,unused-ignore]
        assert abs(sum(s * n for s, n in zip(shares, share.sizes, strict=True)) / 400 - 0.5) < 1e-6
        return sum((float(s) - b) ** 2 for s, b in zip(shares, bottom, strict=True))

    def tell(done: int, best: float) -> None:
        seen.append((done, best))

    start = [Fraction(1, 2)] * 3
    arguments = {"start": start, "trials": 60, "seed": 3, "tell": tell}
    best, value, uniform = tuned(divergence, share, **arguments)  # type: ignore[arg-type]
    assert uniform == pytest.approx(0.03)
    assert value < 0.25 * uniform
    assert value == pytest.approx(divergence(best))
    assert [done for done, _ in seen] == list(range(1, 61))
    again = tuned(divergence, share, **arguments)  # type: ignore[arg-type]
    assert again == (best, value, uniform)
