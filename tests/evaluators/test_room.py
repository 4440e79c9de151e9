"""Room: what pruning takes, checked against a real run, and refusals with numbers and a way out."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from autoproxy.errors import ConfigError, StorageError, out_of_memory, words_of
from autoproxy.language.parse import parse
from evaluators import room
from evaluators.committing import _needs
from evaluators.config import PruningConfig
from evaluators.room import Needs, check_loading, check_room, free_memory, needs, streamed_needs
from evaluators.source import Source, find_source
from tests.evaluators.tiny import (
    edit_json,
    save,
    tiny_folder,
    tiny_model,
    tiny_options,
    write_texts,
)


def source(dtype: torch.dtype = torch.float16) -> Source:
    """Return files of a model of two layers with numbers that are easy to add up."""
    shapes = {f"model.layers.{i}.{name}": (1000, 500) for i in (0, 1) for name in ("a", "b")}
    return Source("easy", Path(), {"x": dtype}, 3_000_000, shapes)


def test_needs_are_what_they_are_by_hand() -> None:
    found = needs(source(), frozenset({"W", "x_norm"}), dtype="float32", group="row")
    weights, bits = 2_000_000, 250_000
    assert found.measuring == 4 * 3_000_000 + bits + 4 * 500_000  # one converted layer
    assert found.loading == 4 * 3_000_000
    assert found.out == 2 * 3_000_000 + bits + room.SMALL_FILES
    assert found.cache == 0
    gradients = needs(source(), frozenset({"W", "g", "g_norm"}), dtype="bfloat16", group="row")
    assert gradients.measuring == 2 * 3_000_000 + bits + 3 * 4 * weights
    assert gradients.loading == 2 * 3_000_000 + bits
    assert gradients.cache == 2 * 4 * weights
    method = needs(source(), frozenset({"moments"}), dtype="bfloat16", group="row", by_method=True)
    working = max((2 * 12 + 3 * 8) * 500**2, 3 * 4 * 500_000)  # of one decoder layer at a time
    assert method.measuring == 2 * 3_000_000 + bits + working + 2 * 2 * weights
    assert method.loading == 2 * 3_000_000 + bits + 2 * weights
    assert method.out == gradients.out
    assert method.cache == 0
    hessian = needs(source(), frozenset({"W", "h_inv"}), dtype="float32", group="row")
    assert hessian.measuring == 4 * 3_000_000 + bits + (2 * 12 + 3 * 8) * 500**2
    assert replace(hessian, measuring=hessian.measuring + 99) == needs(
        source(), frozenset({"W", "h_inv"}), dtype="float32", group="row", states=99
    )


@pytest.mark.parametrize(
    ("text", "walked"), [("abs(W)", 0), ("square(W) / h_inv", 4 * 32 * 16 * 4)]
)
def test_an_allocation_by_the_metric_compares_the_whole_model(
    tmp_path: Path, text: str, walked: int
) -> None:
    """Row by row is what comes after: all importances are held at once before."""
    plain = {k: v for k, v in tiny_options(tmp_path).items() if k != "sparsity"}
    config = PruningConfig.from_options({**plain, "sparsity": "0.5", "allocation": "metric"})
    held = find_source(config.model)
    found = _needs(config, held, parse(text))
    names = parse(text).terminals()
    assert found.measuring == max(
        needs(held, names, dtype="float32", group="model", states=walked).measuring,
        needs(held, names, dtype="float32", group="model").measuring,
    )
    assert found.measuring > needs(held, names, dtype="float32", group="row").measuring
    assert "--allocation uniform" in found.advice
    assert "--group row" not in found.advice


def test_layers_of_one_module_and_width_read_two_inputs_at_most() -> None:
    """Two decoder layers with two matrices of width 500, the first with two more and one wide."""
    more = {f"model.layers.0.{name}": (500, 500) for name in "de"}
    wide = {**source().shapes, **more, "model.layers.0.c": (1000, 1000)}
    uneven = replace(source(), shapes=wide)

    def held(name: str, *, by_method: bool) -> int:
        names = frozenset({name})
        found = needs(uneven, names, dtype="float32", group="row", by_method=by_method)
        new = 2 * 4 * 3_500_000 if by_method else 0
        return found.measuring - new - 4 * uneven.parameters - 3_500_000 // 8

    assert held("moments", by_method=True) == 12 * (2 * 500**2 + 1000**2) + 3 * 8 * 1000**2
    assert held("h_inv", by_method=False) == 12 * (2 * 500**2 + 1000**2) + 3 * 8 * 1000**2


def test_every_expert_has_an_input_of_its_own() -> None:
    names = [f"model.layers.0.mlp.experts.down_proj.{n}" for n in range(32)]
    names += [f"model.layers.1.mlp.experts.{n}.{name}" for n in range(8) for name in ("w1", "w3")]
    several = replace(source(), shapes=dict.fromkeys(names, (10, 100)))
    one = replace(source(), shapes={names[0]: (10, 100)})

    def held(which: Source) -> int:
        found = needs(which, frozenset({"W", "h_inv"}), dtype="float32", group="row").measuring
        return found - needs(which, frozenset({"W"}), dtype="float32", group="row").measuring

    assert held(several) - held(one) == 31 * 12 * 100**2


@pytest.mark.parametrize(
    ("group", "share"), [("row", 0), ("matrix", 0), ("layer", 1), ("model", 2)]
)
def test_what_is_compared_together_is_held_together(group: str, share: int) -> None:
    row = needs(source(), frozenset({"W"}), dtype="float32", group="row")
    found = needs(source(), frozenset({"W"}), dtype="float32", group=group)
    whole = 4 if group == "row" else 12  # bytes a weight: in tiles, or three whole matrices
    wanted = max(whole * 500_000, share * 9 * 1_000_000)
    assert found.measuring - row.measuring == wanted - 4 * 500_000
    assert ("--group row" in found.advice) == bool(share)


def test_a_decoder_layer_at_a_time_takes_what_it_is_by_hand() -> None:
    """Two layers of a million weights each, and a million outside of them."""

    def found(names: set[str], dtype: str = "float32", group: str = "row") -> Needs:
        terminals = frozenset(names)
        return streamed_needs(source(), terminals, dtype=dtype, group=group, states=77)

    bits, largest = 250_000, 500_000
    plain = found({"W", "x_norm"})
    assert plain.measuring == 4 * (1_000_000 + 2 * 1_000_000) + bits + 77 + 12 * largest
    assert plain.loading == 2 * (1_000_000 + 2 * 1_000_000) + bits
    assert plain.out == 2 * (3_000_000 + 2_000_000) + bits + room.SMALL_FILES
    assert plain.cache == 0
    base = plain.measuring - 12 * largest
    assert found({"W", "g_region"}).measuring == base + 4 * 1_000_000 + 12 * largest
    assert found({"W", "h_inv"}).measuring == base + (2 * 12 + 3 * 8) * 500**2
    assert found({"W"}, group="layer").measuring == base + 9 * 1_000_000
    assert found({"W"}, group="layer").advice[1:] == ("--group row", "fewer --calibration-blocks")


def test_advice_is_only_what_would_help() -> None:
    def advice(dtype: str, names: set[str], group: str = "row") -> tuple[str, ...]:
        return needs(source(), frozenset(names), dtype=dtype, group=group).advice

    assert advice("float32", {"W"}) == ("--dtype bfloat16",)
    assert advice("bfloat16", {"W", "x_norm"}) == ()
    assert advice("float16", {"g"}, "model") == ("--group row", "a metric without gradients")


def wanting(**sizes: int) -> Needs:
    return Needs(**{"measuring": 0, "loading": 0, "out": 0, "cache": 0, **sizes}, advice=("less",))


@pytest.mark.parametrize("which", ["measuring", "loading"])
def test_too_little_memory_is_told_with_both_numbers(which: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"1000000000.0 GB of memory at least, and [\d.]+ [GM]B"):
        check_room(wanting(**{which: 10**18}), device="cpu", folder=tmp_path, cache=tmp_path)
    check_room(wanting(**{which: 1000}), device="cpu", folder=tmp_path, cache=tmp_path)


@pytest.mark.parametrize("which", ["out", "cache"])
def test_too_little_disk_is_told_with_both_numbers(which: str, tmp_path: Path) -> None:
    with pytest.raises(
        StorageError, match=r"1000000000.0 GB of disk.*--out \(or --results"
    ) as told:
        check_room(wanting(**{which: 10**18}), device="cpu", folder=tmp_path, cache=tmp_path / "c")
    assert str(tmp_path) in str(told.value)


def test_two_folders_of_one_disk_share_its_room(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    half = free * 6 // 10
    check_room(wanting(out=half), device="cpu", folder=tmp_path / "a", cache=tmp_path / "b")
    with pytest.raises(StorageError, match=re.escape(words_of(2 * half)[:3])):
        check_room(
            wanting(out=half, cache=half), device="cpu", folder=tmp_path / "a", cache=tmp_path / "b"
        )


def test_a_container_s_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_CGROUP", tmp_path)
    machine = free_memory()
    assert machine is None or machine > 0
    (tmp_path / "memory.max").write_text("1000\n", encoding="ascii")
    (tmp_path / "memory.current").write_text("700\n", encoding="ascii")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n", encoding="ascii")
    assert free_memory() == 1000 - 700 + 150
    with pytest.raises(ConfigError, match="0 MB are free; what helps: less, a machine with more"):
        check_room(wanting(loading=10**6), device="cpu", folder=tmp_path, cache=tmp_path)
    (tmp_path / "memory.max").write_text("max\n", encoding="ascii")
    assert free_memory() != 450


def test_a_model_larger_than_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path)
    edit_json(folder / "config.json", hidden_size=65536, intermediate_size=10**6, head_dim=16384)
    with pytest.raises(ConfigError, match=r"takes [\d.]{5,} GB of memory.*--dtype bfloat16, a sm"):
        check_loading(str(folder), device="cpu", dtype="float32")
    check_loading("starter-gpt2", device="cpu", dtype="float16")


MEASURED = """
import json, sys, threading, time
from fractions import Fraction
from pathlib import Path
import torch
from autoproxy.language.parse import parse
from evaluators.masks import Unstructured, keep_mask
from evaluators.pruning import PruningEvaluator

keep_mask(torch.rand(8, 8), Unstructured(Fraction(1, 2)), "row")  # compiles the loops
options, metric, folder = json.loads(sys.argv[1]), sys.argv[2], Path(sys.argv[3])

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

before, peak, done = held(), 0, threading.Event()
def watch():
    global peak
    while not done.wait(0.001):
        peak = max(peak, held())

watcher = threading.Thread(target=watch)
watcher.start()
folder.mkdir()
PruningEvaluator.prune(
    options, parse(metric), folder, check=False, cache=folder / "c", tell=lambda *_: None
)
done.set()
watcher.join()
print(peak - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what is held")
@pytest.mark.parametrize(
    ("metric", "group"), [("abs(W)", "row"), ("abs(W)", "model"), ("abs(W) * g", "row")]
)
def test_needs_are_what_a_run_takes(metric: str, group: str, tmp_path: Path) -> None:
    """Within a fifth of the most that a process held, beyond what its libraries hold."""
    config = tiny_model().config
    config.hidden_size, config.intermediate_size, config.head_dim = 1024, 4096, 256
    folder = save(tmp_path / "wide", AutoModelForCausalLM.from_config(config).half())
    text = write_texts(tmp_path / "texts")["calibration"]
    options = {"model": str(folder), "group": group, "calibration": text, "length": 16}
    options |= {"calibration_blocks": 2}
    # Every large array is given back at once, so that none hides in what was freed before.
    alone = {"MALLOC_MMAP_THRESHOLD_": "1000000", "MALLOC_TRIM_THRESHOLD_": "1000000"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, json.dumps(options), metric, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **alone},
    )
    assert done.returncode == 0, done.stderr
    names = parse(metric).terminals()
    wanted = needs(find_source(str(folder)), names, dtype="float32", group=group)
    said = max(wanted.measuring, wanted.loading)
    assert said / 1.2 < int(done.stdout) < said * 1.2


# --- memory that runs out all the same ----------------------------------------------------------


def full() -> list[BaseException]:
    """Return real errors of memory that ran out, as Python, numpy and torch raise them."""
    found: list[BaseException] = []
    for ask in (
        lambda: torch.empty(2**50),
        lambda: np.empty(2**50),
        lambda: bytearray(2**60),
    ):
        try:
            ask()
        except (MemoryError, RuntimeError) as error:
            found.append(error)
    return found


def test_memory_that_ran_out_is_known_however_it_is_said() -> None:
    errors = full()
    assert len(errors) == 3
    torch_s, numpy_s, python_s = (out_of_memory(error) for error in errors)
    for told, asked in ((torch_s, 2**52), (numpy_s, 2**53)):
        assert told is not None
        assert f"{words_of(asked)} more were asked for" in told
        assert "--dtype bfloat16" in told
        held, needed = re.findall(
            r"([\d.]+) GB are (?:in use|needed)", told.replace(" MB", "e-3 GB")
        )
        assert float(needed) == pytest.approx(asked / 1e9, rel=1e-3)
        assert float(held) > 0
    assert python_s is not None
    assert "are in use are needed" in python_s


def test_a_device_s_words_are_read() -> None:
    """The text is that of torch's allocator for CUDA."""
    text = (
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB of "
        "which 1.00 GiB is free. Of the allocated memory 6.50 GiB is allocated by PyTorch, and "
        "100.00 MiB is reserved by PyTorch but unallocated."
    )
    told = out_of_memory(torch.OutOfMemoryError(text))
    assert told is not None
    assert "7.0 GB are in use and 2.1 GB more were asked for, so at least 9.1 GB" in told


@pytest.mark.parametrize(
    "error", [ValueError("x"), RuntimeError("shape"), OSError(28, "full"), ConfigError("no memory")]
)
def test_other_errors_are_no_lack_of_memory(error: Exception) -> None:
    assert out_of_memory(error) is None
