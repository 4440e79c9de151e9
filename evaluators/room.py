"""Whether there is room for writing a pruned model, told before any work begins."""

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from autoproxy.errors import ConfigError, StorageError
from autoproxy.language.terminals import VOCABULARY
from autoproxy.language.types import Kind
from evaluators.hessian import SECOND_MOMENTS
from evaluators.models import find_device, find_dtype
from evaluators.source import Source

SHARD_BYTES = 5 * 1000**3
"""Most bytes in one file of weights; as much may be held twice while it is written."""

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
    """

    measuring: int
    loading: int
    out: int
    cache: int


def needs(source: Source, terminals: frozenset[str], dtype: str) -> Needs:
    """Return what pruning `source` by a formula over `terminals` takes, computed in `dtype`."""
    weights, bits = source.prunable_weights, source.prunable_weights // 8
    computed = source.parameters * find_dtype(dtype).itemsize
    stored = source.parameters * find_dtype(source.dtype).itemsize
    large = sum(
        VOCABULARY[name].kind is Kind.WEIGHT for name in terminals - {"W", "noise"}
    )  # such as gradients
    statistics = 4 * weights * (large + (large > 0))  # one is copied when it is written
    if terminals & SECOND_MOMENTS:
        statistics += _second_moments(source.shapes)
    largest = max(d_out * d_in for d_out, d_in in source.shapes.values())
    return Needs(
        measuring=computed + statistics + bits + 4 * 4 * largest,
        loading=max(computed, stored + bits + min(stored, SHARD_BYTES)),
        out=stored + bits + SMALL_FILES,
        cache=4 * weights * large,
    )


def check_room(wanted: Needs, *, device: str, folder: Path, cache: Path) -> None:
    """See that memory and disk suffice.

    Args:
        wanted: What is needed.
        device: Where the model is measured.
        folder: Where the pruned model will be written; it exists.
        cache: Where statistics are kept; it exists.

    Raises:
        ConfigError: Memory does not suffice.
        StorageError: Disk space does not.
    """
    place = find_device(device)
    free = free_memory()
    if place.type == "cuda":
        _check_memory(wanted.measuring, torch.cuda.mem_get_info(place)[0], f"on {device}")
        _check_memory(wanted.loading, free, "to load and to write the model")
    else:
        _check_memory(max(wanted.measuring, wanted.loading), free, "")
    for where, size in _by_disk([(folder, wanted.out), (cache, wanted.cache)]).items():
        left = shutil.disk_usage(where).free
        if size > left:
            raise StorageError(
                f"the pruned model and its statistics need {_words(size)} of disk in {where}, "
                f"and {_words(left)} are free; free some space, or choose another --out (or "
                "--results, where statistics are kept)"
            )


def free_memory() -> int | None:
    """Return the memory that a new object could have, in bytes, or None where none can tell."""
    found = [_free_of_machine(), _free_of_container()]
    return min((size for size in found if size is not None), default=None)


def _check_memory(wanted: int, free: int | None, what: str) -> None:
    if free is not None and wanted > free:
        raise ConfigError(
            f"this takes {_words(wanted)} of memory {what}".rstrip()
            + f" at least, and {_words(free)} are free; ask for --dtype bfloat16, for a metric "
            "without gradients, or use a machine with more"
        )


def _second_moments(shapes: Mapping[str, tuple[int, int]]) -> int:
    """Return the bytes of x x^T in float64, one for each width of each decoder layer."""
    widths = {(*re.findall(r"\.(\d+)\.", name)[:1], d_in) for name, (_, d_in) in shapes.items()}
    return sum(8 * int(key[-1]) ** 2 for key in widths)


def _by_disk(sizes: Iterable[tuple[Path, int]]) -> dict[Path, int]:
    """Return sizes summed over folders of one disk, by the first of them."""
    first: dict[int, Path] = {}
    found: dict[Path, int] = {}
    for folder, size in sizes:
        home = first.setdefault(folder.stat().st_dev, folder)
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


def _words(size: int) -> str:
    """Return a size for people.

    >>> _words(14_200_000_000), _words(3_000_000)
    ('14.2 GB', '3 MB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
