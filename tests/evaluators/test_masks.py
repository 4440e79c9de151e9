"""Masks: exact counts, the tie rule and every pattern, against a sort written with loops."""

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import Tensor

from autoproxy.errors import ConfigError
from evaluators import kernels, masks
from evaluators.masks import (
    NM,
    Pattern,
    Unstructured,
    applied,
    check_fits,
    check_group,
    keep_mask,
    keep_masks,
    mask_hash,
    pack,
    parse_pattern,
    unpack,
)

INTERPRETED = importlib.util.find_spec("triton") and "TRITON_INTERPRET" in os.environ
WAYS = ["compiled", "torch", *(["triton"] if INTERPRETED else [])]


@pytest.fixture(scope="module", autouse=True, params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run every test with the compiled loops, with torch alone, and as on a CUDA device.

    Triton's interpreter runs the kernels of the last on tensors of the CPU, where it is installed
    (`make triton`; 1 GB, so not by `make test`).
    """
    if request.param == "compiled" and not kernels.AVAILABLE:
        pytest.skip("Numba is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "AVAILABLE", request.param == "compiled")
        if request.param == "triton":
            found = importlib.import_module("evaluators.cuda_kernels")
            patch.setattr(masks, "_triton_for", lambda _: found)
        yield request.param


SHARES = [Fraction(s) for s in ("0", "0.1", "0.25", "0.29", "1/3", "0.5", "0.875", "0.99")]
PATTERNS = [NM(2, 4), NM(4, 8), NM(1, 4), NM(1, 2), NM(3, 4)]
UNGROUPED: list[tuple[Pattern, str]] = [(p, g) for p in PATTERNS for g in ("row", "matrix")]


def by_loops(importance: list[list[float]], pattern: Pattern, group: str) -> list[list[bool]]:
    """Sort the places of each group by (value, row, column) and drop from the front."""
    rows, columns = len(importance), len(importance[0])
    places = [(i, j) for i in range(rows) for j in range(columns)]
    groups: dict[object, list[tuple[int, int]]] = {}
    for i, j in places:
        if isinstance(pattern, NM):
            groups.setdefault((i, j // pattern.block), []).append((i, j))
        elif group.startswith("columns"):
            groups.setdefault(j // int(group.partition(":")[2]), []).append((i, j))
        else:
            groups.setdefault(i if group == "row" else "all", []).append((i, j))
    keep = [[True] * columns for _ in range(rows)]
    for members in groups.values():
        if isinstance(pattern, NM):
            dropped = pattern.block - pattern.keep
        else:
            share = pattern.sparsity
            dropped = len(members) * share.numerator // share.denominator
        for i, j in sorted(members, key=lambda p: (importance[p[0]][p[1]], *p))[:dropped]:
            keep[i][j] = False
    return keep


def matrices(columns: st.SearchStrategy[int]) -> st.SearchStrategy[Tensor]:
    """Draw matrices with heavy ties: a few values, zeros of both signs, numbers of float16."""
    few = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 6e-8, -65504.0, 1e-45, -1e-45, 3e38])
    halves = st.floats(width=16, allow_nan=False, allow_infinity=False)
    shape = st.tuples(st.integers(1, 6), columns)
    elements = st.sampled_from([few, halves, st.one_of(few, halves)])
    return (
        st.tuples(shape, elements)
        .flatmap(lambda drawn: npst.arrays(np.float32, drawn[0], elements=drawn[1]))
        .map(torch.from_numpy)
    )


@given(matrices(st.integers(1, 16)), st.sampled_from(SHARES), st.sampled_from(["row", "matrix"]))
def test_a_share_is_dropped_as_by_a_stable_sort(m: Tensor, share: Fraction, group: str) -> None:
    pattern = Unstructured(share)
    assert keep_mask(m, pattern, group).tolist() == by_loops(m.tolist(), pattern, group)


@given(
    st.sampled_from(UNGROUPED),
    st.integers(1, 3).flatmap(lambda n: matrices(st.just(8 * n))),
)
def test_blocks_are_dropped_as_by_a_stable_sort(how: tuple[Pattern, str], m: Tensor) -> None:
    assert keep_mask(m, *how).tolist() == by_loops(m.tolist(), *how)


@pytest.mark.parametrize("group", ["row", "matrix"])
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("levels", [1, 2, 5, 1000])
def test_large_matrices_with_ties_match_a_stable_sort(
    group: str, share: Fraction, levels: int
) -> None:
    draw = torch.Generator().manual_seed(levels)
    m = torch.randint(levels, (37, 203), generator=draw).float()
    flat = m if group == "row" else m.reshape(1, -1)
    dropped = flat.shape[1] * share.numerator // share.denominator
    expected = torch.ones_like(flat, dtype=torch.bool)
    expected.scatter_(1, flat.sort(dim=1, stable=True).indices[:, :dropped], value=False)
    assert torch.equal(keep_mask(m, Unstructured(share), group), expected.reshape(m.shape))


@pytest.mark.parametrize(
    ("share", "size", "dropped"),
    [("0.29", 100, 29), ("0.57", 100, 57), ("0.5", 7, 3), ("0.999", 10, 9), ("0", 5, 0)],
)
def test_the_count_is_exact(share: str, size: int, dropped: int) -> None:
    pattern = parse_pattern(share, None)
    scores = torch.randn(3, size, generator=torch.Generator().manual_seed(0))
    for values in (scores, torch.zeros(3, size)):
        mask = keep_mask(values, pattern, "row")
        assert (~mask).sum(dim=1).tolist() == [dropped] * 3
        whole = keep_mask(values.reshape(1, -1)[:, :size], pattern, "matrix")
        assert int((~whole).sum()) == dropped


def test_a_float_sparsity_means_its_digits_and_not_its_bits() -> None:
    # As a float, 100 times 0.29 is a little less than 29.
    assert parse_pattern(0.29, None) == Unstructured(Fraction(29, 100))


def test_the_most_important_stay() -> None:
    scores = torch.tensor([[4.0, 1.0, 3.0, 2.0], [-4.0, -1.0, -3.0, -2.0]])
    best = [[True, False, True, False], [False, True, False, True]]
    assert keep_mask(scores, parse_pattern("0.5", None), "row").tolist() == best
    assert keep_mask(scores, NM(2, 4), "row").tolist() == best
    upper = [[True] * 4, [False] * 4]
    assert keep_mask(scores, parse_pattern("0.5", None), "matrix").tolist() == upper


def test_ties_are_dropped_lowest_row_then_lowest_column_first() -> None:
    ones = torch.ones(2, 4)
    per_matrix = keep_mask(ones, parse_pattern("0.75", None), "matrix")
    assert per_matrix.tolist() == [[False] * 4, [False, False, True, True]]
    per_row = keep_mask(ones, parse_pattern("0.25", None), "row")
    assert per_row.tolist() == [[False, True, True, True]] * 2
    assert keep_mask(ones, NM(1, 4), "row").tolist() == [[False, False, False, True]] * 2


def test_zeros_of_both_signs_tie() -> None:
    scores = torch.tensor([[0.0, -0.0, -0.0, 0.0]])
    for pattern in (parse_pattern("0.5", None), NM(2, 4)):
        assert keep_mask(scores, pattern, "row").tolist() == [[False, False, True, True]]


@given(
    matrices(st.just(8)),
    st.integers(-20, 20),
    st.sampled_from([*PATTERNS, Unstructured(Fraction("0.5"))]),
    st.sampled_from(["row", "matrix"]),
)
def test_scaling_by_a_power_of_two_changes_nothing(
    m: Tensor, power: int, pattern: Pattern, group: str
) -> None:
    m = torch.where(m.abs() < 1e-30, 0.0, m).clamp(-1e30, 1e30)  # stays exact when scaled
    assert torch.equal(keep_mask(m * 2.0**power, pattern, group), keep_mask(m, pattern, group))


@given(npst.arrays(np.bool_, st.tuples(st.integers(1, 7), st.integers(1, 19))))
def test_packing_loses_nothing(bits: np.ndarray) -> None:
    mask = torch.from_numpy(bits)
    packed = pack(mask)
    assert packed.nbytes == -(-mask.numel() // 8)
    again = unpack(packed, torch.empty(mask.shape))
    assert again.dtype == torch.bool
    assert torch.equal(again, mask)


def test_the_hash_is_of_the_bits_in_order() -> None:
    first, second = pack(torch.tensor([[True, False]])), pack(torch.tensor([[False, True]]))
    assert mask_hash([first, second]) == mask_hash([first.copy(), second.copy()])
    assert mask_hash([first, second]) != mask_hash([second, first])
    assert len(mask_hash([first])) == 32


def _bits(tensor: Tensor) -> list[int]:
    return tensor.view(torch.int32).reshape(-1).tolist()


def _odd_weights() -> Tensor:
    inf, nan = float("inf"), float("nan")
    return torch.tensor([[-0.0, inf, 1.5], [-inf, nan, -1e-45]])


def test_dropped_weights_are_plain_zero_and_others_are_untouched() -> None:
    weight = _odd_weights()
    before = _bits(weight)
    mask = torch.tensor([[False, False, True], [False, False, True]])
    with applied({"a": weight}, {"a": mask}):
        assert _bits(weight) == [0, 0, before[2], 0, 0, before[5]]
    assert _bits(weight) == before


def test_every_bit_comes_back_after_an_error() -> None:
    weights = {"a": _odd_weights(), "b": torch.ones(2, 2)}
    before = {name: _bits(weight) for name, weight in weights.items()}
    none = {name: torch.zeros_like(w, dtype=torch.bool) for name, w in weights.items()}

    def interrupted() -> None:
        with applied(weights, none):
            assert not any(weight.any() for weight in weights.values())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert {name: _bits(weight) for name, weight in weights.items()} == before


def test_weights_come_back_when_a_later_mask_does_not_fit() -> None:
    weights = {"a": _odd_weights(), "b": torch.ones(2, 2)}
    before = _bits(weights["a"])
    masks = {"a": torch.zeros(2, 3, dtype=torch.bool), "b": torch.zeros(5, 7, dtype=torch.bool)}
    with pytest.raises(RuntimeError), applied(weights, masks):
        pass
    assert _bits(weights["a"]) == before


def test_masks_nest() -> None:
    weight = _odd_weights()
    before = _bits(weight)
    left = torch.tensor([[False, True, True], [False, True, True]])
    right = ~left
    with applied({"a": weight}, {"a": left}):
        between = _bits(weight)
        with applied({"a": weight}, {"a": right}):
            assert _bits(weight) == [0] * 6
        assert _bits(weight) == between
    assert _bits(weight) == before


def test_a_layer_without_a_mask_is_left_alone() -> None:
    weights = {"a": torch.ones(1, 2), "b": torch.ones(1, 2)}
    with applied(weights, {"a": torch.tensor([[True, False]])}):
        assert weights["a"].tolist() == [[1.0, 0.0]]
        assert weights["b"].tolist() == [[1.0, 1.0]]


def test_live_parameters_are_masked_though_they_want_gradients() -> None:
    parameter = torch.nn.Parameter(torch.ones(1, 2))
    with applied({"a": parameter.detach()}, {"a": torch.tensor([[True, False]])}):
        assert parameter.tolist() == [[1.0, 0.0]]
    assert parameter.tolist() == [[1.0, 1.0]]


# --- masks as bits, and dense copies that stay ----------------------------------------------

LIKES = {
    "float32": lambda w: w,
    "bfloat16": lambda w: w.bfloat16(),
    "float16": lambda w: w.half(),
    "float64": lambda w: w.double(),
    "turned": lambda w: w.T.contiguous().T,
    "expert": lambda w: torch.stack([w, w])[1],
}


def _bytes(tensor: Tensor) -> list[int]:
    return tensor.contiguous().view(torch.uint8).reshape(-1).tolist()


def _weight(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Return a weight with NaN, infinities, zeros of both signs and denormals among others."""
    draw = np.random.default_rng(seed)
    odd = draw.choice([np.nan, -np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-45], (rows, columns))
    plain = draw.standard_normal((rows, columns))
    return torch.from_numpy(np.where(draw.random((rows, columns)) < 0.3, odd, plain)).float()


@pytest.mark.parametrize("kind", LIKES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (1, 8), (33, 65), (65, 64)])
def test_bits_mask_as_their_mask_does(kind: str, shape: tuple[int, int]) -> None:
    weight = LIKES[kind](_weight(*shape))
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.5
    before = _bytes(weight)
    masked = _bytes(torch.where(mask, weight, torch.zeros((), dtype=weight.dtype)))
    spare: dict[str, Tensor] = {}
    for _ in range(3):
        with applied({"a": weight}, {"a": pack(mask)}, spare):
            assert _bytes(weight) == masked
            assert not spare  # lent
        assert _bytes(weight) == before
        assert _bytes(spare["a"]) == before
        assert spare["a"].data_ptr() != weight.data_ptr()


def test_a_copy_is_made_once_for_all_masks() -> None:
    weight, spare = _weight(65, 64), dict[str, Tensor]()
    places = set()
    for seed in range(4):
        mask = torch.rand(65, 64, generator=torch.Generator().manual_seed(seed)) < 0.5
        with applied({"a": weight}, {"a": pack(mask)}, spare):
            pass
        places.add(spare["a"].data_ptr())
    assert len(places) == 1


@pytest.mark.parametrize("behind", ["in place", ".data", "numpy"])
def test_a_copy_is_never_out_of_date(behind: str) -> None:
    """Whoever changes a weight between two masks, torch's own count of changes or not."""
    weight, spare = torch.nn.Parameter(_weight(65, 64)), dict[str, Tensor]()
    bits = pack(torch.zeros(65, 64, dtype=torch.bool))
    for row in range(0, 65, 16):
        with applied({"a": weight.detach()}, {"a": bits}, spare):
            assert not weight.any()
        with torch.no_grad():
            if behind == "in place":
                weight[row, 3] = 7.0 + row
            elif behind == ".data":
                weight.data[row, 3] = 7.0 + row
            else:
                weight.detach().numpy()[row, 3] = 7.0 + row
        before = _bytes(weight.detach())
        with applied({"a": weight.detach()}, {"a": bits}, spare):
            assert not weight.any()
        assert _bytes(weight.detach()) == before


def test_a_copy_for_another_weight_is_not_used() -> None:
    spare = {"a": torch.ones(2, 3)}
    for weight in (torch.ones(3, 2), torch.ones(2, 3).half(), torch.ones(3, 2).T, torch.ones(2, 3)):
        before = _bytes(weight)
        with applied({"a": weight}, {"a": np.zeros(1, np.uint8)}, spare):
            assert not weight.any()
        assert _bytes(weight) == before


def test_every_bit_comes_back_after_an_error_with_bits() -> None:
    weights = {"a": _weight(33, 65), "b": _weight(9, 7)}
    before = {name: _bytes(weight) for name, weight in weights.items()}
    none = {name: pack(torch.zeros_like(w, dtype=torch.bool)) for name, w in weights.items()}
    spare: dict[str, Tensor] = {}

    def interrupted() -> None:
        with applied(weights, none, spare):
            assert not any(weight.any() for weight in weights.values())
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert {name: _bytes(weight) for name, weight in weights.items()} == before
        assert set(spare) == {"a", "b"}


def test_weights_come_back_when_later_bits_do_not_fit() -> None:
    weights = {"a": _weight(3, 5), "b": torch.ones(2, 2)}
    spare = {"b": torch.full((2, 2), 9.0)}  # nobody's: it must not get into the weight
    before = {name: _bytes(weight) for name, weight in weights.items()}
    masks = {"a": np.zeros(2, np.uint8), "b": np.zeros(3, np.uint8)}
    with (
        pytest.raises(ValueError, match="3 bytes of mask, 4 weights"),
        applied(weights, masks, spare),
    ):
        pass
    assert {name: _bytes(weight) for name, weight in weights.items()} == before


def test_masks_of_bits_nest_over_the_same_spare_room() -> None:
    weight, spare = _weight(4, 6), dict[str, Tensor]()
    before = _bytes(weight)
    left = torch.arange(24).reshape(4, 6) % 2 == 0
    for _ in range(2):
        with applied({"a": weight}, {"a": pack(left)}, spare):
            between = _bytes(weight)
            with applied({"a": weight}, {"a": pack(~left)}, spare):
                assert not weight.any()
            assert _bytes(weight) == between
        assert _bytes(weight) == before


# --- what cannot be asked --------------------------------------------------------------------


@pytest.mark.parametrize(("sparsity", "pattern"), [(None, None), ("0.5", "2:4")])
def test_a_sparsity_or_a_pattern_and_not_both(sparsity: str | None, pattern: str | None) -> None:
    with pytest.raises(ConfigError, match=r"either a sparsity, such as 0\.5, or a pattern"):
        parse_pattern(sparsity, pattern)


@pytest.mark.parametrize("sparsity", ["1.0", "-0.1", "1.5", 1, -1e-9, "50"])
def test_a_sparsity_outside_its_range_is_refused(sparsity: str | float) -> None:
    with pytest.raises(ConfigError, match=r"must lie in \[0, 1\), got " + str(sparsity)):
        parse_pattern(sparsity, None)


@pytest.mark.parametrize("sparsity", ["abc", "", "nan", "inf", "1/0", "50%", "0,5"])
def test_a_sparsity_that_is_no_number_is_refused(sparsity: str) -> None:
    with pytest.raises(ConfigError, match="is no number"):
        parse_pattern(sparsity, None)


@pytest.mark.parametrize(
    "pattern", ["4:2", "4:4", "0:4", "2", ":", "2:", "a:b", "-2:4", "2:4:8", "2:65", "2.0:4", ""]
)
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match="is not KEEP:BLOCK") as caught:
        parse_pattern(None, pattern)
    assert repr(pattern) in str(caught.value)


def test_patterns_are_read_and_written() -> None:
    assert parse_pattern(None, "2:4") == NM(2, 4)
    assert [str(parse_pattern(s, None)) for s in ("0.5", "0.29", "0")] == ["50%", "29%", "0%"]
    assert str(parse_pattern(None, "3:4")) == "3:4"


def test_blocks_that_do_not_divide_name_the_layer_and_both_numbers() -> None:
    layers = {"good": torch.ones(2, 8), "bad.q_proj": torch.ones(8, 6)}
    with pytest.raises(ConfigError, match=r"2:4 needs inputs that 4 divides, but bad.q_proj has 6"):
        check_fits(NM(2, 4), "row", layers)
    check_fits(NM(1, 2), "row", layers)
    check_fits(Unstructured(Fraction("0.5")), "row", layers)


def test_an_unknown_group_names_the_nearest() -> None:
    assert check_group("matrix") == "matrix"
    with pytest.raises(ConfigError, match="did you mean 'row'"):
        check_group("rows")


@pytest.mark.parametrize("share", ["0.03", "0.5", "0.97"])
@pytest.mark.parametrize("kind", ["smooth", "columns", "ties", "tails"])
def test_large_matrices_as_by_a_stable_sort(kind: str, share: str) -> None:
    """Large enough that a matrix's threshold is looked for among a sample first."""
    draw = np.random.default_rng(3)
    values = draw.standard_normal((256, 1024)).astype(np.float32)
    if kind == "columns":  # every 64th column is of another size: a regular sample misleads
        values[:, ::64] *= 1000
    if kind == "ties":
        values = values.round(1)
    if kind == "tails":
        values = np.exp((30 * values).clip(-80, 88)).astype(np.float32)
    dropped = int(Fraction(share) * values.size)
    order = values.reshape(-1).argsort(kind="stable")
    expected = np.ones(values.size, np.bool_)
    expected[order[:dropped]] = False
    pattern = Unstructured(Fraction(share))
    mask = keep_mask(torch.from_numpy(values), pattern, "matrix")
    assert np.array_equal(mask.numpy().reshape(-1), expected)
    rows = keep_mask(torch.from_numpy(values), pattern, "row")
    dropped = int(Fraction(share) * values.shape[1])
    order = values.argsort(axis=1, kind="stable")
    expected = np.ones(values.shape, np.bool_)
    np.put_along_axis(expected, order[:, :dropped], False, axis=1)
    assert np.array_equal(rows.numpy(), expected)


@given(matrices(st.sampled_from([4, 8, 12])), st.sampled_from(SHARES))
def test_blocks_of_columns_as_by_a_stable_sort(m: Tensor, share: Fraction) -> None:
    pattern = Unstructured(share)
    for group in ("columns:4", "columns:2"):
        assert keep_mask(m, pattern, group).tolist() == by_loops(m.tolist(), pattern, group)


@given(st.lists(matrices(st.integers(1, 7)), min_size=2, max_size=4), st.sampled_from(SHARES))
def test_several_matrices_are_one_group(several: list[Tensor], share: Fraction) -> None:
    named = {str(number): m for number, m in enumerate(several)}
    masks = keep_masks(named, Unstructured(share))
    places = [
        (m[i, j].item(), n, i, j) for n, m in enumerate(several) for i, j in np.ndindex(*m.shape)
    ]
    dropped = sorted(places)[: int(len(places) * share)]
    for _, number, i, j in dropped:
        assert not masks[str(number)][i, j]
    assert sum(int((~mask).sum()) for mask in masks.values()) == len(dropped)
    assert all(masks[name].shape == m.shape for name, m in named.items())


@pytest.mark.parametrize("group", ["columns", "columns:", "columns:0", "columns:-4", "columns:1.5"])
def test_blocks_of_columns_must_be_counted(group: str) -> None:
    with pytest.raises(ConfigError, match=r"is not columns:N with N >= 1"):
        check_group(group)


def test_blocks_of_columns_must_divide() -> None:
    half = Unstructured(Fraction(1, 2))
    check_fits(half, "columns:4", {"a": torch.zeros(2, 8)})
    with pytest.raises(ConfigError, match=r"group columns:3 needs inputs that 3 divides.*a has 8"):
        check_fits(half, "columns:3", {"a": torch.zeros(2, 8)})


def test_a_place_that_cannot_be_written_is_no_reason_not_to_start() -> None:
    """Numba finds no folder for what it compiles; a process of its own, since it is asked once."""
    code = """
import numba.core.caching
numba.core.caching.CacheImpl._locator_classes = []
import numpy
from evaluators import kernels
assert kernels.AVAILABLE and kernels.all_finite(numpy.ones(3, numpy.float32))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
