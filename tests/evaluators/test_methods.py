"""Methods that no expression can say: their laws, what they refuse, and a real tiny model."""

from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autoproxy.errors import ConfigError
from autoproxy.language.terminals import VOCABULARY
from evaluators.hessian import inverse_diagonal, upper_diagonal, upper_factor
from evaluators.layers import prunable
from evaluators.masks import GROUPS, NM, Pattern, Unstructured, keep_mask
from evaluators.methods import METHODS, Method, check_asked
from evaluators.methods.dsnot import DSnoT
from evaluators.methods.ria_permuted import permutation
from evaluators.methods.sparsegpt import SparseGPT
from evaluators.models import LoadedModel
from evaluators.statistics import EXTRAS, collect
from tests.evaluators import peers
from tests.evaluators.tiny import VOCABULARY_SIZE, tiny_model

HALF = Unstructured(Fraction(1, 2))
PATTERNS: tuple[Pattern, ...] = (
    Unstructured(Fraction(0)),
    HALF,
    Unstructured(Fraction("0.29")),
    Unstructured(Fraction("0.9")),
    NM(2, 4),
    NM(1, 4),
    NM(4, 8),
    NM(2, 3),
)


def makes(method: Method, pattern: Pattern) -> bool:
    try:
        method.check(pattern)
    except ConfigError:
        return False
    return True


BOTH = [
    pytest.param(method, pattern, id=f"{method.name}-{pattern}")
    for method in METHODS.values()
    for pattern in PATTERNS
    if makes(method, pattern)
]
seeds = st.integers(0, 10**6)


def layer(seed: int, rows: int = 6, columns: int = 24) -> dict[str, Tensor]:
    """Return a weight, and statistics of correlated inputs that have a mean."""
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=draw).double()
    x = torch.randn(200, columns, generator=draw).double() @ mix
    x += 3 * torch.randn(columns, generator=draw)
    return {"W": torch.randn(rows, columns, generator=draw), **seen_of(x)}


def seen_of(x: Tensor, sequences: int = 4) -> dict[str, Tensor]:
    found = {
        "x_norm": (x.square().sum(dim=0) / sequences).sqrt(),
        "x_var": x.var(dim=0, correction=0),
        "x_sum": x.sum(dim=0) / sequences,
        "moments": 2 / sequences * x.T @ x,
    }
    return {name: value.float().reshape(-1, x.shape[1]) for name, value in found.items()}


def pruned(method: Method, seen: Mapping[str, Tensor], pattern: Pattern) -> Tensor:
    return method.prune(seen["W"], {name: seen[name] for name in method.needs}, pattern)


def zeros(method: Method, shape: tuple[int, int], pattern: Pattern) -> int:
    """Return how many weights a method says that it drops."""
    rows, columns = shape
    if isinstance(pattern, NM):
        return rows * columns // pattern.block * (pattern.block - pattern.keep)
    return (
        rows * pattern.dropped(columns)
        if method.group == "row"
        else pattern.dropped(rows * columns)
    )


def wide(seen: Mapping[str, Tensor]) -> dict[str, peers.Array]:
    return {k: v.double().numpy() if len(v) > 1 else v.double().numpy()[0] for k, v in seen.items()}


def test_they_are_named_and_read_what_is_collected() -> None:
    assert list(METHODS) == [m.name for m in METHODS.values()]
    for method in METHODS.values():
        assert method.needs <= set(VOCABULARY) | EXTRAS
        assert method.source
        assert method.group


@pytest.mark.parametrize(("method", "pattern"), BOTH)
def test_exactly_the_asked_count_is_zero(method: Method, pattern: Pattern) -> None:
    for rows, columns in ((6, 24), (5, 168), (1, 24)):
        seen = layer(rows, rows, columns)
        found = pruned(method, seen, pattern)
        assert found.dtype == torch.float32
        assert found.shape == (rows, columns)
        assert int((found == 0).sum()) == zeros(method, (rows, columns), pattern)


@pytest.mark.parametrize(("method", "pattern"), BOTH)
def test_nothing_that_is_given_is_changed(method: Method, pattern: Pattern) -> None:
    seen = layer(0)
    before = {name: value.clone() for name, value in seen.items()}
    first = pruned(method, seen, pattern)
    first.zero_()
    again = pruned(method, seen, pattern)
    assert again.any()
    assert all(torch.equal(seen[name], before[name]) for name in seen)


@pytest.mark.parametrize(("method", "pattern"), BOTH)
def test_weights_that_stay_are_as_they_were(method: Method, pattern: Pattern) -> None:
    seen = layer(1)
    found = pruned(method, seen, pattern)
    kept = found != 0
    same = torch.equal(found[kept], seen["W"][kept])
    assert same == (method.name != "sparsegpt" or pattern == Unstructured(Fraction(0)))


@pytest.mark.parametrize(("method", "pattern"), BOTH)
def test_the_order_of_outputs_decides_nothing(method: Method, pattern: Pattern) -> None:
    seen = layer(2)
    order = [3, 0, 5, 1, 4, 2]
    turned = pruned(method, {**seen, "W": seen["W"][order]}, pattern)
    before = pruned(method, seen, pattern)[order]
    assert torch.equal(turned != 0, before != 0)
    torch.testing.assert_close(turned, before)


@pytest.mark.parametrize(("method", "pattern"), BOTH)
def test_a_layer_that_saw_nothing_is_pruned(method: Method, pattern: Pattern) -> None:
    """An expert that no token chose: all statistics are zero."""
    seen = layer(3)
    nothing = {n: torch.zeros_like(v) for n, v in seen.items() if n != "W"}
    found = pruned(method, {**nothing, "W": seen["W"]}, pattern)
    assert int((found == 0).sum()) == zeros(method, (6, 24), pattern)
    kept = found != 0
    assert torch.equal(found[kept], seen["W"][kept])


@pytest.mark.parametrize("pattern", [HALF, NM(2, 4)], ids=str)
def test_where_nothing_was_seen_sparsegpt_drops_the_smallest(pattern: Pattern) -> None:
    seen = layer(3)
    found = SparseGPT().prune(seen["W"], {"moments": torch.zeros(24, 24)}, pattern)
    mask = keep_mask(seen["W"].abs(), pattern, "matrix")
    assert torch.equal(found, seen["W"].masked_fill(~mask, 0.0))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_what_cannot_be_made_is_refused_with_a_way_out(name: str) -> None:
    method, seen = METHODS[name], layer(0)
    for pattern in PATTERNS:
        if makes(method, pattern):
            continue
        with pytest.raises(ConfigError, match=name) as first:
            method.check(pattern)
        assert str(pattern) in str(first.value)
        assert "ask for" in str(first.value)
        with pytest.raises(ConfigError, match=name):
            pruned(method, seen, pattern)
    refused = {"wanda-variant": NM, "dsnot": NM, "ria-permuted": Unstructured}
    assert {type(p) for p in PATTERNS if not makes(method, p)} == (
        {refused[name]} if name in refused else set()
    )


@pytest.mark.parametrize("pattern", [HALF, NM(2, 4)], ids=str)
@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_group_that_a_method_does_not_compare_by_is_refused(name: str, pattern: Pattern) -> None:
    """What it makes is the same whatever is asked, so a protocol with another group is false."""
    method = METHODS[name]
    own = {"sparsegpt": {"columns:128"}, "sparsegpt-mask": {"columns:128"}}.get(name, set())
    refused = set()
    for group in (*GROUPS, "columns:64", "columns:128"):
        try:
            check_asked(method, pattern, group)
        except ConfigError as error:
            refused.add(group)
            if makes(method, pattern):
                told = str(error)
                assert all(word in told for word in (name, method.group, group, "--group row"))
    allowed = {*GROUPS, "columns:64", "columns:128"} - refused
    if not makes(method, pattern):
        assert not allowed
    elif isinstance(pattern, NM):  # within its blocks, as metrics compare then
        assert not refused
    else:
        assert allowed == {"row"} | own


# SparseGPT.


@given(seeds, st.sampled_from([HALF, Unstructured(Fraction(7, 8)), NM(2, 4), NM(4, 8), NM(2, 3)]))
def test_where_inputs_do_not_mix_sparsegpt_is_obd_in_blocks(seed: int, pattern: Pattern) -> None:
    seen = layer(seed, 6, 48)
    diagonal = seen["moments"].diagonal()
    found = SparseGPT(width=24).prune(seen["W"], {"moments": torch.diag(diagonal)}, pattern)
    raised = (diagonal + 0.01 * diagonal.mean()).sqrt()
    mask = keep_mask(seen["W"].abs() * raised, pattern, "columns:24")
    assert torch.equal(found, seen["W"].masked_fill(~mask, 0.0))


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("width", [5, 8, 128])
def test_blocks_of_columns_are_brain_surgery_one_by_one(pattern: Pattern, width: int) -> None:
    seen = layer(4, 5, 24)
    method = SparseGPT(width=width)
    found = pruned(method, seen, pattern)
    share = Fraction(0) if isinstance(pattern, NM) else pattern.sparsity
    condition = str(pattern) if isinstance(pattern, NM) else "columns"
    weight, mask = peers.sparsegpt(wide(seen), condition, share, width=width)
    assert np.array_equal(found.numpy() != 0, mask)
    np.testing.assert_allclose(found.numpy(), weight, rtol=1e-3, atol=1e-4)


@given(seeds, st.sampled_from([HALF, NM(2, 4)]))
def test_weights_that_stay_leave_no_error_of_their_own(seed: int, pattern: Pattern) -> None:
    """With H = R R^T and R upper, what input j adds to the error is entry j of (W - found) R."""
    seen = layer(seed)
    found = pruned(METHODS["sparsegpt"], seen, pattern)
    root = torch.linalg.inv(upper_factor(seen["moments"]))
    added = (seen["W"].double() - found.double()) @ root
    assert float(added[found != 0].abs().max()) < 1e-4 * float(added.abs().max())


def layer_error(name: str, seen: Mapping[str, Tensor], pattern: Pattern) -> float:
    lost = (pruned(METHODS[name], seen, pattern) - seen["W"]).double()
    return float((lost @ seen["moments"].double() * lost).sum())


@pytest.mark.parametrize("pattern", [HALF, NM(2, 4)], ids=str)
def test_the_update_lowers_the_layer_error(pattern: Pattern) -> None:
    ratios = []
    for seed in range(40):
        seen = layer(seed)
        of = {name: layer_error(name, seen, pattern) for name in ("sparsegpt", "sparsegpt-mask")}
        ratios.append(of["sparsegpt"] / of["sparsegpt-mask"])
        masks = [pruned(METHODS[name], seen, pattern) != 0 for name in of]
        assert torch.equal(*masks)
    assert sorted(ratios)[20] < 2 / 3  # greedy: not each is lower


@pytest.mark.parametrize("pattern", [HALF, NM(2, 4)], ids=str)
def test_inputs_that_are_always_zero_go_first(pattern: Pattern) -> None:
    seen = layer(5)
    seen["moments"] *= 1e-6  # else the 1 of a dead input's H is small anyway
    for j in (0, 3, 5, 20):
        seen["moments"][j] = seen["moments"][:, j] = 0.0
    found = pruned(METHODS["sparsegpt"], seen, pattern)
    assert not found[:, [0, 3, 5, 20]].any()
    assert found.isfinite().all()
    weight, mask = peers.sparsegpt(
        wide(seen), str(pattern) if isinstance(pattern, NM) else "columns", 0.5
    )
    assert np.array_equal(found.numpy() != 0, mask)
    np.testing.assert_allclose(found.numpy(), weight, rtol=1e-3, atol=1e-4)


def test_inputs_that_are_nearly_the_same_do_not_fail() -> None:
    x = torch.randn(500, 1, generator=torch.Generator().manual_seed(0)).double()
    seen = {**layer(6, 4, 512), **seen_of(x.expand(500, 512) * 1e3)}
    found = pruned(METHODS["sparsegpt"], seen, HALF)
    assert found.isfinite().all()
    assert int((found == 0).sum()) == 1024


@given(seeds)
def test_the_factor_is_of_the_inverse(seed: int) -> None:
    moments = layer(seed, 1, 12)["moments"]
    h, _ = peers.damped({"moments": moments.double().numpy()})
    inverse = np.linalg.inv(h)
    factor = upper_factor(moments).numpy()
    assert np.array_equal(factor, np.triu(factor))
    np.testing.assert_allclose(factor.T @ factor, inverse, rtol=1e-9, atol=1e-9 * inverse.max())
    np.testing.assert_allclose(upper_diagonal(moments), factor.diagonal(), rtol=1e-9)
    np.testing.assert_allclose(inverse_diagonal(moments), inverse.diagonal(), rtol=1e-9)


# Wanda's variant.


@given(seeds, st.sampled_from([p for p in PATTERNS if isinstance(p, Unstructured)]))
def test_rows_lose_one_share_of_their_importance(seed: int, pattern: Unstructured) -> None:
    seen = layer(seed)
    kept = pruned(METHODS["wanda-variant"], seen, pattern) != 0
    importance = (seen["W"].abs() * seen["x_norm"]).double()
    totals = importance.sum(dim=1)
    lost = importance.masked_fill(kept, 0.0).sum(dim=1) / totals
    dearest = importance.masked_fill(~kept, float("inf")).amin(dim=1) / totals
    # No row could take one more at the alpha that another row has reached.
    assert lost.max() <= (lost + dearest).min() + 1e-12


# DSnoT.


def lack(weight: Tensor, found: Tensor, x_sum: Tensor) -> Tensor:
    return ((weight - found).double() * x_sum.double()).sum(dim=1)


@given(seeds, st.sampled_from([HALF, Unstructured(Fraction("0.29"))]))
def test_swaps_bring_the_mean_output_back(seed: int, pattern: Unstructured) -> None:
    seen = layer(seed, 8, 64)
    wanda = keep_mask(seen["W"].abs() * seen["x_norm"], pattern, "row")
    start = lack(seen["W"], seen["W"] * wanda, seen["x_sum"])
    found = pruned(METHODS["dsnot"], seen, pattern)
    end = lack(seen["W"], found, seen["x_sum"])
    assert (end.abs() <= start.abs() + 1e-9).all()
    assert (end * start >= 0).all()
    assert (((found != 0).sum(dim=1)) == 64 - pattern.dropped(64)).all()


def test_swaps_are_as_many_as_loops_make() -> None:
    total = 0
    for seed in range(30):
        seen = layer(seed, 8, 40)
        mask, swaps = peers.dsnot(wide(seen), 0.5)
        total += swaps
        found = pruned(METHODS["dsnot"], seen, HALF)
        assert np.array_equal(found.numpy() != 0, mask), seed
    assert total > 100


def test_no_more_swaps_than_are_allowed() -> None:
    draw = torch.Generator().manual_seed(0)
    weight = torch.rand(1, 400, generator=draw) + 0.1
    weight[:, ::3] *= -1.5  # more is dropped of one sign
    one = torch.ones(1, 400)
    seen = {"x_norm": one, "x_sum": one, "x_var": one}
    wanda = DSnoT(swaps=0).prune(weight, seen, HALF) != 0
    assert torch.equal(wanda, keep_mask(weight.abs(), HALF, "row"))
    for swaps in (1, 7, 20):
        found = DSnoT(swaps=swaps).prune(weight, seen, HALF) != 0
        assert int((found != wanda).sum()) == 2 * swaps
    near = DSnoT(enough=1e9).prune(weight, seen, HALF) != 0
    assert torch.equal(near, wanda)


# RIA with permuted channels.


@given(seeds, st.sampled_from([NM(2, 4), NM(1, 4), NM(4, 8), NM(2, 3)]))
def test_inputs_are_permuted_and_more_importance_stays(seed: int, pattern: NM) -> None:
    importance = layer(seed)["W"].abs()
    order = permutation(importance, pattern)
    assert sorted(order.tolist()) == list(range(24))

    def stays(columns: Tensor) -> float:
        mask = keep_mask(importance[:, columns].contiguous(), pattern, "row")
        return float(importance[:, columns][mask].double().sum())

    by_sum = importance.double().sum(dim=0).argsort(stable=True)
    turns = [t.flip(0) if n % 2 else t for n, t in enumerate(by_sum.reshape(pattern.block, -1))]
    dealt = torch.stack(turns, dim=1).reshape(-1)
    assert stays(order) >= stays(dealt) - 1e-4


@pytest.mark.parametrize("pattern", [NM(2, 4), NM(1, 4), NM(3, 8)], ids=str)
def test_the_pattern_holds_after_the_permutation(pattern: NM) -> None:
    seen = layer(7, 6, 16)
    found = pruned(METHODS["ria-permuted"], seen, pattern)
    mask, blocks = peers.ria_permuted(wide(seen), pattern.keep, pattern.block)
    assert np.array_equal(found.numpy() != 0, mask)
    for home in blocks:
        assert ((found[:, home] != 0).sum(dim=1) == pattern.keep).all()
    plain = keep_mask(torch.from_numpy(peers.METRICS["ria"](wide(seen))).float(), pattern, "row")
    assert not torch.equal(found != 0, plain)


# A real model.


def test_every_layer_of_a_model_is_pruned_by_what_was_collected() -> None:
    model = tiny_model()
    loaded = LoadedModel(model, None, "tiny", "0" * 32, "llama")
    draw = torch.Generator().manual_seed(1)
    blocks = torch.randint(VOCABULARY_SIZE, (3, 24), generator=draw)
    needs = frozenset().union(*(method.needs for method in METHODS.values()))
    found = collect(loaded, blocks, needs)
    for method in METHODS.values():
        pattern: Pattern = HALF if makes(method, HALF) else NM(2, 4)
        for name, linear in prunable(model).items():
            seen = {"W": linear.weight.float(), **found[name]}
            weight = pruned(method, seen, pattern)
            assert int((weight == 0).sum()) == weight.numel() // 2, (method.name, name)
            assert weight.isfinite().all()
