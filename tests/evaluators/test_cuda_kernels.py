"""Triton's kernels: what is said where they fail, what the compiler makes of them, on a device.

That they give the right masks is in `test_masks.py`, which runs them in Triton's interpreter.
"""

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluators import masks
from evaluators.masks import Unstructured

NO_TRITON = "Triton is not installed; `make triton` installs it (1 GB) and runs this"
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason=NO_TRITON)
CPU = torch.device("cpu")


@pytest.fixture
def interpreted() -> ModuleType:
    """Return the kernels as Triton's interpreter runs them."""
    pytest.importorskip("triton", reason=NO_TRITON)
    if "TRITON_INTERPRET" not in os.environ:
        pytest.skip("Triton compiles where there is a device; `make triton` interprets")
    return importlib.import_module("evaluators.cuda_kernels")


@pytest.fixture(autouse=True)
def not_asked_yet() -> Iterator[None]:
    """Forget which devices the kernels run on."""
    masks._triton_on.cache_clear()
    yield
    masks._triton_on.cache_clear()


def test_usable_where_the_small_case_comes_out_right(interpreted: ModuleType) -> None:
    assert interpreted.usable(CPU)
    assert masks._triton_on(CPU) is interpreted


def test_a_failure_of_triton_is_told_once_and_leaves_masks_to_torch(
    interpreted: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(interpreted, "keep_in_rows", fails)
    assert masks._triton_on(CPU) is None
    assert masks._triton_on(CPU) is None
    (said,) = caplog.messages
    assert "masks are made by torch: Failed to find C compiler" in said


@pytest.mark.parametrize("kernel", ["keep_in_rows", "keep_in_blocks", "kth_smallest"])
def test_wrong_masks_are_found_out(
    interpreted: ModuleType, monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    wrong = 0.5 if kernel == "kth_smallest" else torch.ones(2, 4, dtype=torch.bool)
    monkeypatch.setattr(interpreted, kernel, lambda *_: wrong)
    assert not interpreted.usable(CPU)


def test_without_triton_masks_on_a_device_are_made_by_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "evaluators.cuda_kernels", raising=False)
    monkeypatch.delattr("evaluators.cuda_kernels", raising=False)
    assert masks._triton_on(torch.device("cuda:0")) is None


def test_rows_too_long_for_registers_are_left_to_torch(
    interpreted: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masks.kernels, "AVAILABLE", False)
    monkeypatch.setattr(masks, "_triton_for", lambda _: interpreted)
    monkeypatch.setattr(interpreted, "LONGEST_ROW", 7)
    monkeypatch.setattr(interpreted, "keep_in_rows", None)
    kept = masks.keep_mask(torch.arange(16.0).reshape(2, 8), Unstructured(Fraction(1, 4)), "row")
    assert kept.tolist() == [[False] * 2 + [True] * 6] * 2


@given(st.lists(st.booleans(), max_size=40))
def test_bits_made_on_a_device_are_those_of_numpy(flags: list[bool]) -> None:
    mask = torch.tensor(flags, dtype=torch.bool)
    bits = masks._pack_where_it_is(mask)
    np.testing.assert_array_equal(bits.numpy(), np.packbits(mask.numpy()))
    assert masks._unpack_where_they_are(bits, mask).tolist() == flags


COMPILE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from evaluators import cuda_kernels as kernels

ROWS = {"values": "*fp32", "keep": "*u8", "columns": "i32", "dropped": "i32"}
BLOCKS = {"values": "*fp32", "keep": "*u8", "count": "i64"}
DIGITS = {"values": "*fp32", "counts": "*i64", "count": "i64", "prefix": "i32", "shift": "i32"}
for kernel, types, fixed in (
    (kernels._keep_in_rows, ROWS, {"SIZE": 4096}),
    (kernels._keep_in_blocks, BLOCKS, {"BLOCK": 4, "KEPT": 2, "SIZE": 1024}),
    (kernels._count_digits, DIGITS, {"SIZE": 1024}),
):
    signature = types | dict.fromkeys(fixed, "constexpr")
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed)
    assert compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
"""

COMPARE = """
import torch
from fractions import Fraction
from evaluators import cuda_kernels
from evaluators.masks import NM, Unstructured, keep_mask, pack, unpack

assert cuda_kernels.usable(torch.device("cuda:0"))
generator = torch.Generator().manual_seed(0)
for shape in ((7, 12), (64, 4096), (33, 11008), (3, 40_000)):
    smooth = torch.randn(shape, generator=generator)
    for values in (smooth, smooth.round(decimals=1), torch.zeros(shape)):
        for pattern in (NM(2, 4), NM(1, 4), Unstructured(Fraction(1, 3))):
            for group in ("row", "matrix", f"columns:{shape[1] // 2}"):
                here = keep_mask(values, pattern, group)
                there = keep_mask(values.cuda(), pattern, group)
                assert torch.equal(here, there.cpu()), (shape, pattern, group)
                bits = pack(there)
                assert (bits == pack(here)).all() and torch.equal(unpack(bits, there), there)
"""


def run_for_real(code: str) -> None:
    """Run code in a process where Triton compiles."""
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", code], check=True, env=plain)


@needs_triton
def test_every_kernel_compiles_for_a_device_that_is_not_there() -> None:
    run_for_real(COMPILE)


@needs_triton
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_masks_on_a_device_are_those_of_the_cpu() -> None:
    run_for_real(COMPARE)
