"""Golden masks: every hand-made metric and every method, engine and loops, bit for bit."""

import hashlib
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from autoproxy.language.program import Program
from autoproxy.language.terminals import VOCABULARY
from autoproxy.language.types import Kind
from evaluators.masks import NM, Pattern, Unstructured, keep_mask
from evaluators.methods import METHODS
from search_spaces.importance import SPACE
from tests.evaluators import peers
from tests.evaluators.peers import Array

CASES = {"float32": 0, "ties": 0, "float16": 1}
"""What numbers are like, and the seed that they are drawn with."""

CONDITIONS = {"row": 0.5, "matrix": 0.3, "2:4": 0.5}
"""Where weights are compared, and the share that is dropped."""

GOLDEN: dict[str, tuple[str, ...]] = {
    "random": ("955ebc6caf2145b4", "c61ce0f63bdd6128", "6a9df576d218d9ce"),
    "magnitude": ("b8fb3fe6be2fd79d", "33bf709502f30ba7", "2e2793fadb64faed"),
    "wanda": ("336eeefd0b914474", "0bfe765cf02be893", "4b554c029a70033b"),
    "wanda-sqrt": ("cc29e6df8894c572", "4d5d5bb09c598278", "abcc7acdc187f731"),
    "wanda-square": ("57b1a5822577f0b3", "e554a15c7dc8642b", "04780c0d30bba5ff"),
    "wanda-gradient": ("2c79995f91de95f0", "8b9fddd785491197", "278c30d8315d070f"),
    "obd": ("336eeefd0b914474", "0bfe765cf02be893", "4b554c029a70033b"),
    "obs": ("c4ce9f11717730c8", "a3ccd9d42c37269a", "611b2cdb19c153a6"),
    "obs-code": ("b53e51e17ec9697a", "c33ee347f50f7b1c", "79eafaa95f2b841b"),
    "gblm": ("875a3f82fc98c4ef", "afbe75c7645c1e13", "49989e7050fcbfa4"),
    "gblm-gradient": ("446914123b11cf9d", "a44205485fd130b9", "a0f91ab5c8ef64e1"),
    "gblm-inverse": ("380c13664e87ce85", "16b8209a86c5e632", "119c12cb364961a9"),
    "ri": ("060295a2ff0fb0c7", "a948c07ffa4c54ac", "6bfd424acd921a85"),
    "ria": ("69a511fdde1a8008", "889aa221ff5fe22c", "5e975ce8f8b3d139"),
    "ria-1": ("eb1141868d2e5d97", "34a030541663576f", "1fe7e439b059cce9"),
    "ria-advanced": ("175ca868abcb0c5f", "b664a3dc4571afac", "e7a979a11b2fcb77"),
    "stbllm-code": ("69a511fdde1a8008", "726ef611ecf7f5d1", "5e975ce8f8b3d139"),
    "stbllm-paper": ("815d35aa2fe07d37", "acc71f97a2e13b25", "11db48c2194314bf"),
    "snip": ("bf457f864f18d5df", "7f2fcf71effda257", "c6d3dfe7e11ec29a"),
    "taylor": ("bf457f864f18d5df", "7f2fcf71effda257", "c6d3dfe7e11ec29a"),
    "fisher": ("446914123b11cf9d", "a44205485fd130b9", "a0f91ab5c8ef64e1"),
    "fisher-token": ("d21fa2aaec1839a4", "f840c767a101bd72", "cf0d20cee59f7260"),
    "taylor-mix": ("68558760bce06aef", "bb791ebac7ab1c04", "d73b6ff6067647ee"),
    "pruner-zero": ("dae02edc243cdb56", "7a6d3b6280072cf1", "643b3b12d654bc38"),
    "pruner-zero-2": ("dae02edc243cdb56", "c9eb694858c4c206", "643b3b12d654bc38"),
    "wanda++": ("00b5a9aa4f76e8bb", "fcacb240503f7338", "78252259f15ecb56"),
    "dass": ("b8fb3fe6be2fd79d", "4df941d3a993eb17", "2e2793fadb64faed"),
    "stade": ("5842595ccadc86b3", "6d107d27be8a89a1", "471bb9df789c0c35"),
}
"""The first 64 bits of the SHA-256 of all masks per row, per matrix and 2:4."""

METHOD_GOLDEN: dict[tuple[str, str], str] = {
    ("sparsegpt", "0.5"): "0dab62215eac97f7",
    ("sparsegpt", "0.3"): "f3fa9d08c9d347d9",
    ("sparsegpt", "2:4"): "d44a6caaaca32452",
    ("sparsegpt", "4:8"): "2403ad1b3de87253",
    ("sparsegpt-mask", "0.5"): "0dab62215eac97f7",
    ("sparsegpt-mask", "0.3"): "f3fa9d08c9d347d9",
    ("sparsegpt-mask", "2:4"): "d44a6caaaca32452",
    ("sparsegpt-mask", "4:8"): "2403ad1b3de87253",
    ("wanda-variant", "0.5"): "579c6e508bcf346e",
    ("wanda-variant", "0.3"): "45c98de0e226245f",
    ("dsnot", "0.5"): "472482590ac6674c",
    ("dsnot", "0.3"): "ff643fd0b8b6632a",
    ("ria-permuted", "2:4"): "794ee8e97b8c883d",
    ("ria-permuted", "4:8"): "3034b07478d89075",
    ("ria-permuted", "1:4"): "2090569333e1dea5",
}
"""Likewise of methods, by what is asked."""


def statistics(
    case: str, rows: int = 12, columns: int = 16, *, seed: int = -1
) -> dict[str, Tensor]:
    """Return seeded numbers for every statistic, shaped as the engine takes them, float32.

    Of `ties` columns come in equal pairs and weights are few.
    """
    draw = np.random.default_rng(CASES[case] if seed < 0 else seed)
    x = draw.standard_normal((3 * 40, columns)) * draw.lognormal(size=columns)
    x += draw.standard_normal(columns)
    w = draw.standard_normal((rows, columns))
    g = 0.01 * draw.standard_normal((3, rows, columns))
    region = 0.01 * draw.standard_normal((rows, columns))
    noise = draw.random((rows, columns))
    if case == "ties":
        w = draw.choice([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0], (rows, columns))
        x, w, g = (np.repeat(part[..., ::2], 2, axis=-1) for part in (x, w, g))
        region, noise = (np.repeat(part[..., ::2], 2, axis=-1) for part in (region, noise))
    y = x @ w.T
    h = 2 / 3 * x.T @ x + 0.01 * np.mean(2 / 3 * (x**2).sum(axis=0)) * np.eye(columns)
    made = {
        "W": w,
        "x_norm": np.sqrt((x**2).sum(axis=0) / 3),
        "x_mean": x.mean(axis=0),
        "x_var": x.var(axis=0),
        "x_max": np.abs(x).max(axis=0),
        "y_norm": np.sqrt((y**2).sum(axis=0) / 3)[:, None],
        "g": g.sum(axis=0),
        "g_norm": np.sqrt((g**2).sum(axis=0)),
        "g_abs": np.abs(g).sum(axis=0),
        "g_token": np.sqrt((g**2).sum(axis=0)) + 0.1 * np.abs(region),
        "g_region": np.abs(region),
        "h_inv": np.diag(np.linalg.inv(h)),
        "u_diag": np.sqrt([np.linalg.inv(h[j:, j:])[0, 0] for j in range(columns)]),
        "noise": noise,
        "x_sum": x.sum(axis=0) / 3,
        "moments": 2 / 3 * x.T @ x,
    }
    if case == "ties":  # of twins one number, which inverting does not give to the last bit
        for name in ("h_inv", "u_diag"):
            made[name] = np.repeat(np.atleast_2d(made[name])[:, ::2], 2, axis=1)
    kind = np.float16 if case == "float16" else np.float32
    return {
        name: torch.from_numpy(np.atleast_2d(value).astype(kind).astype(np.float32))
        for name, value in made.items()
    }


def wide(seen: Mapping[str, Tensor]) -> dict[str, Array]:
    """Return the same numbers as the loops take them."""
    return {
        name: value.double().numpy() if min(value.shape) > 1 else value.double().numpy().ravel()
        for name, value in seen.items()
    }


def pattern_of(condition: str, share: float) -> Pattern:
    if ":" in condition:
        keep, block = condition.split(":")
        return NM(int(keep), int(block))
    return Unstructured(Fraction(str(share)))


def rated(name: str, seen: Mapping[str, Tensor]) -> Tensor:
    """Return the importance that the engine gives, (d_out, d_in)."""
    (value,) = Program([SPACE.baseline(name).expression]).run(seen)
    return value.expand(seen["W"].shape)


def engine_mask(name: str, seen: Mapping[str, Tensor], condition: str) -> NDArray[np.bool_]:
    pattern = pattern_of(condition, CONDITIONS[condition])
    kept: NDArray[np.bool_] = keep_mask(rated(name, seen), pattern, condition).numpy()
    return kept


def digest(masks: list[NDArray[np.bool_]]) -> str:
    return hashlib.sha256(b"".join(np.packbits(m).tobytes() for m in masks)).hexdigest()[:16]


def test_every_hand_made_metric_has_golden_masks() -> None:
    assert set(GOLDEN) == {baseline.name for baseline in SPACE.baselines} == set(peers.METRICS)


@pytest.mark.parametrize("name", sorted(peers.METRICS))
def test_a_metric_decides_its_golden_masks(name: str) -> None:
    by_engine, by_loops = [], []
    for condition, share in CONDITIONS.items():
        ours, theirs = [], []
        for case in CASES:
            seen = statistics(case)
            importance = peers.METRICS[name](wide(seen))
            gap = peers.narrowest(importance, condition, share)
            assert gap > 1e-5, f"{case}, {condition}: rounding could decide; draw other numbers"
            ours.append(engine_mask(name, seen, condition))
            theirs.append(peers.sorted_mask(importance, condition, share))
            assert np.array_equal(ours[-1], theirs[-1]), (case, condition)
        by_engine.append(digest(ours))
        by_loops.append(digest(theirs))
    assert tuple(by_loops) == GOLDEN[name]
    assert tuple(by_engine) == GOLDEN[name]


# Methods.

SHARES = {"0.5": 0.5, "0.3": 0.3}
BLOCKS = ("2:4", "4:8", "1:4")


def method_case(name: str, case: str) -> dict[str, Tensor]:
    """Return statistics: two blocks of SparseGPT's, or so few that all assignments can be tried."""
    return statistics(case, 8, 16 if name == "ria-permuted" else 160)


def looped(name: str, t: Mapping[str, Array], asked: str) -> tuple[Array, NDArray[np.bool_]]:
    """Return weights and mask as the loops of a method make them."""
    share = SHARES.get(asked, 0.0)
    if name.startswith("sparsegpt"):
        weight, mask = peers.sparsegpt(t, asked if ":" in asked else "columns", share)
        return (weight if name == "sparsegpt" else np.where(mask, t["W"], 0.0)), mask
    if name == "ria-permuted":
        mask = peers.ria_permuted(t, *map(int, asked.split(":")))[0]
    else:
        mask = peers.dsnot(t, share)[0] if name == "dsnot" else peers.wanda_variant(t, share)
    return np.where(mask, t["W"], 0.0), mask


def asked_of(name: str) -> tuple[str, ...]:
    if name.startswith("sparsegpt"):
        return (*SHARES, "2:4", "4:8")
    return BLOCKS if name == "ria-permuted" else tuple(SHARES)


ASKED = [(name, asked) for name in METHODS for asked in asked_of(name)]


def test_every_method_has_golden_masks() -> None:
    assert list(METHOD_GOLDEN) == ASKED


@pytest.mark.parametrize(("name", "asked"), ASKED)
def test_a_method_decides_its_golden_masks(name: str, asked: str) -> None:
    ours, theirs = [], []
    method = METHODS[name]
    for case in CASES:
        if name == "ria-permuted" and case == "ties":
            continue  # of twins either may go where the other does
        seen = method_case(name, case)
        weight, mask = looped(name, wide(seen), asked)
        read = {need: seen[need] for need in method.needs}
        found = method.prune(seen["W"], read, pattern_of(asked, SHARES.get(asked, 0.0)))
        kept = np.where(seen["W"].numpy() == 0, mask, found.numpy() != 0)
        assert np.array_equal(kept, mask), case
        np.testing.assert_allclose(found.numpy(), weight, rtol=2e-3, atol=2e-5, err_msg=case)
        ours.append(kept)
        theirs.append(mask)
    assert digest(theirs) == METHOD_GOLDEN[name, asked]
    assert digest(ours) == METHOD_GOLDEN[name, asked]


# Laws: which are one metric, and what changes no mask.

seeds = st.integers(0, 10**6)
conditions = st.sampled_from(sorted(CONDITIONS))
names = st.sampled_from(sorted(peers.METRICS))


def cut_clearly(importance: Array, condition: str) -> None:
    """Give up an example in which rounding, or a tie, could decide."""
    assume(peers.narrowest(importance, condition, CONDITIONS[condition]) > 1e-4)


def mask_of(importance: Array, condition: str) -> NDArray[np.bool_]:
    return peers.sorted_mask(importance, condition, CONDITIONS[condition])


def small(seed: int) -> dict[str, Tensor]:
    """Return statistics of a layer, drawn anew, of 4 outputs and 8 inputs."""
    return statistics("float32", 4, 8, seed=seed)


@given(seeds, conditions)
def test_obd_is_wanda(seed: int, condition: str) -> None:
    seen = small(seed)
    cut_clearly(rated("wanda", seen).double().numpy(), condition)
    obd, wanda = (engine_mask(name, seen, condition) for name in ("obd", "wanda"))
    assert np.array_equal(obd, wanda)


@given(seeds, st.sampled_from(["row", "2:4"]))
def test_standardized_importance_as_coded_is_ria_within_rows(seed: int, condition: str) -> None:
    seen = small(seed)
    cut_clearly(rated("ria", seen).double().numpy(), condition)
    si, ria = (engine_mask(name, seen, condition) for name in ("stbllm-code", "ria"))
    assert np.array_equal(si, ria)


@given(seeds, st.sampled_from(["row", "2:4"]))
def test_pruner_zero_is_a_product_without_squares(seed: int, condition: str) -> None:
    seen = small(seed)
    gradient = seen["g_norm"].double().numpy()
    product = np.abs(seen["W"].double().numpy()) * np.sqrt(gradient - gradient.min())
    cut_clearly(product, condition)
    assert np.array_equal(engine_mask("pruner-zero", seen, condition), mask_of(product, condition))


UNITS: dict[str, set[str]] = {
    "W": {"taylor-mix"},
    "x_norm": {"gblm", "wanda++", "stbllm-code"},
    "g_norm": {"gblm", "gblm-inverse", "taylor-mix"},
}
"""Statistics, and the metrics that depend on their unit: by a sum, or a constant beside them."""


@given(names, st.sampled_from(sorted(UNITS)), seeds, conditions, st.sampled_from([-8, -4, 4, 8]))
def test_a_unit_decides_nothing(
    name: str, what: str, seed: int, condition: str, power: int
) -> None:
    assume(name not in UNITS[what])
    seen = small(seed)
    other = {**seen, what: seen[what] * 2.0**power}
    cut_clearly(rated(name, seen).double().numpy(), condition)
    assert np.array_equal(engine_mask(name, seen, condition), engine_mask(name, other, condition))


@pytest.mark.parametrize(
    ("what", "name"), [(what, n) for what, ns in UNITS.items() for n in sorted(ns)]
)
def test_a_unit_decides_where_it_is_said_to(what: str, name: str) -> None:
    tried = []
    for seed in range(20):
        seen = small(seed)
        other = {**seen, what: seen[what] * 2.0**-30}
        tried += [
            np.array_equal(engine_mask(name, seen, c), engine_mask(name, other, c))
            for c in CONDITIONS
        ]
    assert not all(tried)


@given(names, seeds, st.sampled_from(["row", "matrix"]), st.permutations(range(8)))
def test_permuting_columns_permutes_masks(
    name: str, seed: int, condition: str, order: list[int]
) -> None:
    seen = small(seed)
    cut_clearly(rated(name, seen).double().numpy(), condition)
    turned = {
        key: value[:, order] if VOCABULARY[key].kind is not Kind.PER_OUTPUT else value
        for key, value in seen.items()
        if key in VOCABULARY
    }
    before, after = engine_mask(name, seen, condition), engine_mask(name, turned, condition)
    assert np.array_equal(before[:, order], after)
