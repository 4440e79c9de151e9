"""Whether there is room for writing a pruned model, told before any work begins."""

import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from autoproxy.errors import ConfigError, StorageError, words_of
from autoproxy.language.terminals import VOCABULARY
from autoproxy.language.types import Kind
from evaluators.hessian import SECOND_MOMENTS
from evaluators.masks import SPANNING
from evaluators.models import find_device, find_dtype
from evaluators.source import Source, planned_model

SHARD_BYTES = 5 * 1000**3
"""Most bytes in one file of weights; as much is held twice where types are mixed."""

SMALL_FILES = 64 * 1000**2
"""Room for tokenizer, configuration and recipe, generously."""

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Needs:
    """What pruning a model and writing it takes at least, in bytes.

    Attributes:
        measuring: Memory for the model, its statistics and masks, where it is measured.
        loading: Memory of the processor on the way to another device, and to write.
        out: Disk for the pruned model.
        cache: Disk for the statistics that are as large as the weights.
        advice: What to ask for instead that takes less memory.
    """

    measuring: int
    loading: int
    out: int
    cache: int
    advice: tuple[str, ...]


def needs(
    source: Source,
    terminals: frozenset[str],
    *,
    dtype: str,
    group: str,
    by_method: bool = False,
    states: int = 0,
) -> Needs:
    """Return what pruning a model and writing it takes.

    Args:
        source: The model's files.
        terminals: What the formula or the method reads.
        dtype: Of the model's numbers while it is measured.
        group: Where importances are compared.
        by_method: Whether a method makes new weights, with statistics of one decoder layer at a
            time, rather than a formula masks.
        states: Bytes of the hidden states of the calibration sequences, where one decoder layer
            after another is measured.
    """
    weights, bits = source.prunable_weights, source.prunable_weights // 8
    computed = source.parameters * find_dtype(dtype).itemsize
    stored = source.parameters * find_dtype(source.dtype).itemsize
    large = _large(terminals)
    collecting = 4 * weights * (large + (large > 0))  # one is copied when it is written
    if terminals & SECOND_MOMENTS:
        collecting += _second_moments(source.shapes)
    largest = max(d_out * d_in for d_out, d_in in source.shapes.values())
    together = _together(source.shapes, group)
    # Per row and N:M a layer is worked on in tiles, and is copied if its type is converted;
    # otherwise weights, importances and what is between, or importances side by side, and masks.
    copies = 3 if by_method or group not in {"row", "block"} else 1
    selecting = 4 * weights * large + max(copies * 4 * largest, 9 * together)
    # A method's new weights are held until they are written; the dense ones while it works.
    new = weights * find_dtype(dtype).itemsize if by_method else 0
    retyped = _retyped(source, stored)
    return Needs(
        measuring=computed + bits + max(collecting + states, selecting) + 2 * new,
        loading=max(computed, stored + bits + retyped + new),
        out=stored + bits + SMALL_FILES,
        cache=4 * weights * large,
        advice=_advice(dtype, group if together else "", gradients=bool(large)),
    )


def streamed_needs(
    source: Source, terminals: frozenset[str], *, dtype: str, group: str, states: int
) -> Needs:
    """Return what pruning takes where one decoder layer at a time is in memory.

    Args:
        source: The model's files.
        terminals: What the formula reads.
        dtype: Of the model's numbers while it is measured.
        group: Where importances are compared.
        states: Bytes of the hidden states of the calibration sequences.
    """
    layers = list(_by_decoder_layer(source.shapes).values())
    outside = source.parameters - source.prunable_weights
    layer = max(sum(d_out * d_in for d_out, d_in in shapes.values()) for shapes in layers)
    largest = max(d_out * d_in for d_out, d_in in source.shapes.values())
    bits, large = source.prunable_weights // 8, _large(terminals)
    collecting = 4 * layer * (large + (large > 0))
    if terminals & SECOND_MOMENTS:
        collecting += _second_moments(source.shapes)
    selecting = 4 * layer * large + max(3 * 4 * largest, 9 * layer * (group == "layer"))
    computed, held = find_dtype(dtype).itemsize, find_dtype(source.dtype).itemsize
    stored = held * source.parameters
    # Twice a layer: while experts are fused, and as what is written is made of what was read.
    return Needs(
        measuring=computed * (outside + 2 * layer) + bits + states + max(collecting, selecting),
        loading=held * (outside + 2 * layer) + bits + _retyped(source, stored),
        out=stored + held * source.prunable_weights + bits + SMALL_FILES,
        cache=0,
        advice=(
            *_advice(dtype, "layer" if group == "layer" else "", gradients=bool(large)),
            "fewer --calibration-blocks",
        ),
    )


def check_loading(name: str, *, device: str, dtype: str) -> None:
    """See that there is memory for a model, before any of its weights are read.

    Args:
        name: `starter`, a folder, or a name on a model hub.
        device: Where it will be measured.
        dtype: Of its numbers there.

    Raises:
        ModelError: There is no such model.
        ConfigError: Memory does not suffice.
    """
    parameters = planned_model(name).num_parameters()
    size = parameters * find_dtype(dtype).itemsize
    advice = (*_advice(dtype, "", gradients=False), "a smaller --model")
    _check_places(size, size, device, advice)


def check_room(wanted: Needs, *, device: str, folder: Path, cache: Path) -> None:
    """See that memory and disk suffice.

    Args:
        wanted: What is needed.
        device: Where the model is measured.
        folder: Where the pruned model will be written.
        cache: Where statistics are kept.

    Raises:
        ConfigError: Memory does not suffice.
        StorageError: Disk space does not.
    """
    _check_places(wanted.measuring, wanted.loading, device, wanted.advice)
    for where, size in _by_disk([(folder, wanted.out), (cache, wanted.cache)]).items():
        left = shutil.disk_usage(where).free
        if size > left:
            raise StorageError(
                f"the pruned model and its statistics need {words_of(size)} of disk in {where}, "
                f"and {words_of(left)} are free; free some space, or choose another --out (or "
                "--results, where statistics are kept)"
            )


def free_memory() -> int | None:
    """Return the memory that a new object could have, in bytes, or None where none can tell."""
    found = [_free_of_machine(), _free_of_container()]
    return min((size for size in found if size is not None), default=None)


def _check_places(measuring: int, loading: int, device: str, advice: tuple[str, ...]) -> None:
    """See that memory suffices on the device, and on the processor on the way to it."""
    place = find_device(device)
    free = free_memory()
    if place.type == "cuda":
        _check_memory(measuring, torch.cuda.mem_get_info(place)[0], f" on {device}", advice)
        _check_memory(loading, free, " of the processor", ())
    else:
        _check_memory(max(measuring, loading), free, "", advice)


def _check_memory(wanted: int, free: int | None, where: str, advice: tuple[str, ...]) -> None:
    if free is not None and wanted > free:
        instead = ", ".join((*advice, "a machine with more"))
        raise ConfigError(
            f"this takes {words_of(wanted)} of memory{where} at least, and {words_of(free)} are "
            f"free; what helps: {instead}"
        )


def _advice(dtype: str, spanning: str, *, gradients: bool) -> tuple[str, ...]:
    """Return what takes less memory than what was asked for."""
    lower = {
        "--dtype bfloat16": find_dtype(dtype).itemsize > 2,
        "--group row": bool(spanning),
        "a metric without gradients": gradients,
    }
    return tuple(words for words, helps in lower.items() if helps)


def _together(shapes: Mapping[str, tuple[int, int]], group: str) -> int:
    """Return how many weights are compared together, where that is more than a matrix."""
    if group not in SPANNING:
        return 0
    parts = _by_decoder_layer(shapes).values() if group == "layer" else [shapes]
    return max(sum(d_out * d_in for d_out, d_in in part.values()) for part in parts)


def _by_decoder_layer(
    shapes: Mapping[str, tuple[int, int]],
) -> dict[str, dict[str, tuple[int, int]]]:
    """Return the shapes inside each decoder layer, by its number."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for name, shape in shapes.items():
        home = "".join(re.findall(r"\.(\d+)\.", name)[:1])
        found.setdefault(home, {})[name] = shape
    return found


def _large(terminals: frozenset[str]) -> int:
    """Return how many statistics are as large as the weights, such as gradients."""
    return sum(
        VOCABULARY[name].kind is Kind.WEIGHT
        for name in terminals & VOCABULARY.keys() - {"W", "noise"}
    )


def _retyped(source: Source, stored: int) -> int:
    """Return what is held besides while files of mixed types are written."""
    return min(stored, SHARD_BYTES) if len(set(source.types.values())) > 1 else 0


def _second_moments(shapes: Mapping[str, tuple[int, int]]) -> int:
    """Return the bytes of x x^T of each input of one decoder layer, in float64 and then float32.

    Layers of one module and width read one input, or two: query, key and value the same, what
    comes after them another. Every expert has an input of its own. Three more of the widest are
    held while it is inverted.

    Args:
        shapes: (d_out, d_in) of each layer.
    """
    held = 0
    for part in _by_decoder_layer(shapes).values():
        inputs: Counter[tuple[str, int]] = Counter()
        for name, (_, d_in) in part.items():
            home, _, last = name.rpartition(".")
            # What is called by a number is one of several experts in one parameter.
            inputs[name if last.isdigit() else home, d_in] += 1
        held = max(held, sum((8 + 4) * d_in**2 * min(n, 2) for (_, d_in), n in inputs.items()))
    return held + 3 * 8 * max(d_in for _, d_in in shapes.values()) ** 2


def _by_disk(sizes: Iterable[tuple[Path, int]]) -> dict[Path, int]:
    """Return sizes summed over folders of one disk, by the first of them."""
    first: dict[int, Path] = {}
    found: dict[Path, int] = {}
    for folder, size in ((folder.absolute(), size) for folder, size in sizes):
        there = next(place for place in (folder, *folder.parents) if place.exists())
        home = first.setdefault(there.stat().st_dev, there)
        found[home] = found.get(home, 0) + size
    return found


def _free_of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return None
    kilobytes = {line.split(":")[0]: line.split()[1] for line in lines}
    return 1024 * int(kilobytes["MemAvailable"])


def _free_of_container() -> int | None:
    """Return what is left under the limit of a container (cgroup v2), or None without one."""
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        lines = (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    if limit == "max":
        return None
    counts = dict(line.split() for line in lines)
    return int(limit) - used + int(counts.get("inactive_file", 0))  # which gives way
