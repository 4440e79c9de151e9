"""The cache of statistics: its limit, what goes first, other processes, what it says it holds."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from autoproxy.errors import ConfigError, StorageError
from evaluators import cache as module
from evaluators.cache import (
    LIMIT,
    cached_files,
    enforce,
    evict,
    header,
    limit_of,
    size_of,
    tend,
    used,
    whole_file,
)
from evaluators.config import PruningConfig
from evaluators.models import LoadedModel
from evaluators.statistics import cached_statistics
from tests.evaluators.tiny import VOCABULARY_SIZE, tiny_model, tiny_tokenizer

ROOT = Path(__file__).parents[2]


def write(folder: Path, name: str, numbers: int, age: float) -> Path:
    """Write a file of some numbers that was last used `age` seconds ago."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.safetensors"
    facts = {"model": "tiny", "terminal": name, "tokens": 64}
    save_file({"layer": torch.zeros(numbers)}, path, metadata=header(facts))
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.safetensors"))


# --- sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("7", 7), ("7B", 7), ("2 kb", 2000), ("1.5MB", 1_500_000), ("3TB", 3 * 10**12)],
)
def test_sizes_are_written_with_or_without_a_unit(text: str, size: int) -> None:
    assert size_of(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1GiB", "1,5GB", "many"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no size; write a number and a unit, such as"):
        size_of(text)


def test_the_limit_is_what_is_asked_then_the_environments_then_20_gb(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(LIMIT, raising=False)
    assert limit_of() == 20 * 10**9
    monkeypatch.setenv(LIMIT, "3MB")
    assert limit_of() == 3_000_000
    assert limit_of("4KB") == 4000
    monkeypatch.setenv(LIMIT, "lots")
    with pytest.raises(ConfigError, match="'lots' is no size"):
        limit_of()
    with pytest.raises(ConfigError, match="'5 apples' is no size"):
        PruningConfig(cache_limit="5 apples")


# --- eviction ----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=8),
    order=st.randoms(use_true_random=False),
    share=st.floats(0, 1.2),
)
def test_what_was_not_used_for_longest_goes_until_the_rest_fits(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], order: object, share: float
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    ages = list(range(len(sizes)))
    order.shuffle(ages)  # type: ignore[attr-defined]
    paths = {
        age: write(folder, f"t{age}", n, 100 * age) for age, n in zip(ages, sizes, strict=True)
    }
    weigh = {age: path.stat().st_size for age, path in paths.items()}
    limit = int(share * sum(weigh.values()))

    gone = evict(folder, limit)

    # Slow and obvious: keep the longest run of the youngest whose older ones had all to go.
    expected = sorted(weigh)
    while sum(weigh[age] for age in expected) > limit:
        expected.pop()
    assert names(folder) == sorted(f"t{age}" for age in expected)
    assert [file.terminal for file in gone] == [
        f"t{age}" for age in sorted(set(weigh) - set(expected), reverse=True)
    ]


def test_what_this_process_holds_stays_as_long_as_it_holds_it(tmp_path: Path) -> None:
    old, new = write(tmp_path, "old", 10, 500), write(tmp_path, "new", 10, 5)
    content = load_file(old)["layer"]
    used(old, content)
    os.utime(old, (0, 0))
    evict(tmp_path, 0)
    assert names(tmp_path) == ["old"]
    assert not new.exists()
    del content
    evict(tmp_path, 0)
    assert names(tmp_path) == []


def test_using_a_file_makes_it_the_last_to_go(tmp_path: Path) -> None:
    old, new = write(tmp_path, "old", 10, 500), write(tmp_path, "new", 10, 5)
    used(old, load_file(old)["layer"])
    evict(tmp_path, new.stat().st_size)
    assert names(tmp_path) == ["old"]


def test_a_limit_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, "needed", 10, 5)
    content = load_file(path)["layer"]
    used(path, content)
    told: list[str] = []
    enforce(tmp_path, 10, told.append)
    assert len(told) == 1
    assert "which this run needs" in told[0]
    assert f"--cache-limit or {LIMIT}" in told[0]
    enforce(tmp_path, 10**6, told.append)
    assert len(told) == 1
    assert content.numel() == 10


def test_files_abandoned_by_killed_processes_go_and_others_stay(tmp_path: Path) -> None:
    abandoned, working = tmp_path / ".a.safetensors.1.part", tmp_path / ".b.safetensors.2.part"
    for path in (abandoned, working):
        path.write_bytes(b"half")
    long_ago = time.time() - module.ABANDONED_SECONDS - 1
    os.utime(abandoned, (long_ago, long_ago))
    evict(tmp_path, 0)
    assert [path.name for path in tmp_path.iterdir()] == [working.name]


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert evict(tmp_path / "none", 0) == []
    assert cached_files(tmp_path / "none") == []


def test_a_file_that_cannot_be_deleted_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "kept", 10, 5)

    def refuse(self: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(StorageError, match=r"kept\.safetensors cannot be deleted: Permission"):
        evict(tmp_path, 0)


# --- what it says it holds ---------------------------------------------------------------------


def test_files_say_what_they_are(tmp_path: Path) -> None:
    write(tmp_path, "x_norm", 100, 7200)
    write(tmp_path, "g", 200, 10)
    save_file({"layer": torch.zeros(3)}, tmp_path / "earlier.safetensors")
    earlier, g, x_norm = cached_files(tmp_path)
    assert (g.model, g.terminal, g.tokens, g.corrupted) == ("tiny", "g", 64, None)
    assert g.bytes == (tmp_path / "g.safetensors").stat().st_size
    assert 7200 <= x_norm.age_seconds < 7300
    assert (earlier.model, earlier.terminal, earlier.tokens) == (None, None, None)
    assert earlier.corrupted is None


@pytest.mark.parametrize("what", ["truncated", "header", "garbage", "empty", "foreign"])
def test_corrupted_files_are_listed_as_such(tmp_path: Path, what: str) -> None:
    path = write(tmp_path, "x_norm", 100, 10)
    whole = path.read_bytes()
    foreign = whole.replace(b'\\"model\\"', b'\\"model" ')
    broken = {
        "truncated": whole[:-5],
        "header": whole[:20],
        "garbage": b"\xff" * 100,
        "empty": b"",
        "foreign": foreign,
    }[what]
    assert broken != whole
    path.write_bytes(broken)
    (file,) = cached_files(tmp_path)
    assert file.corrupted
    assert (file.terminal, file.bytes) == (None, len(broken))
    assert [gone.file for gone in evict(tmp_path, -1)] == [path.name]


def test_tending_lists_clears_and_shrinks(tmp_path: Path) -> None:
    sizes = [write(tmp_path, f"t{age}", 100, 100 * age).stat().st_size for age in range(4)]
    found = tend(tmp_path, clear=False, limit=None)
    assert [file["terminal"] for file in found["files"]] == ["t0", "t1", "t2", "t3"]
    assert (found["bytes"], found["deleted"]) == (sum(sizes), [])
    assert json.loads(json.dumps(found)) == found
    found = tend(tmp_path, clear=False, limit=str(sizes[0] + sizes[1]))
    assert [file["terminal"] for file in found["files"]] == ["t0", "t1"]
    assert [file["terminal"] for file in found["deleted"]] == ["t3", "t2"]
    found = tend(tmp_path, clear=True, limit=None)
    assert (found["files"], found["bytes"], len(found["deleted"])) == ([], 0, 2)
    with pytest.raises(ConfigError, match="--clear leaves nothing"):
        tend(tmp_path, clear=True, limit="1GB")


# --- with statistics, and other processes ------------------------------------------------------


def measured(folder: Path, seed: int, *terminals: str, limit: str | None = None) -> dict[str, int]:
    """Measure statistics on a draw; return how often each file of the cache was written."""
    draw = torch.Generator().manual_seed(seed)
    blocks = torch.randint(VOCABULARY_SIZE, (2, 16), generator=draw)
    loaded = LoadedModel(tiny_model(), tiny_tokenizer(), "tiny-llama", "0" * 32, "llama")
    told: list[str] = []
    found = cached_statistics(folder, loaded, blocks, terminals, told.append, limit)
    assert not any("corrupted" in words for words in told), told
    evict(folder, size_of(limit or "1GB"))  # while statistics are held, as another seed would
    assert all(set(values) == set(terminals) for values in found.values())
    written: dict[str, int] = {}
    for path in folder.iterdir():
        # What another process is writing or evicting may be gone before it is looked at.
        with contextlib.suppress(FileNotFoundError):
            written[path.name] = path.stat().st_mtime_ns
    return written


def test_statistics_keep_within_the_limit_and_say_what_they_are(tmp_path: Path) -> None:
    measured(tmp_path, 0, "g", "x_norm")
    files = {file.terminal: file for file in cached_files(tmp_path)}
    assert set(files) == {"g", "x_norm"}
    assert {(file.model, file.tokens) for file in files.values()} == {("tiny-llama", 32)}
    room = files["g"].bytes + files["x_norm"].bytes + 100
    for seed in (1, 2, 3):
        measured(tmp_path, seed, "g", limit=str(room))
        held = cached_files(tmp_path)
        assert sum(file.bytes for file in held) <= room
        assert held[0].terminal == "g"
    # One gradient fits, and the small one: the file that was used last is the one that stays.
    assert [file.terminal for file in cached_files(tmp_path)] == ["g"]


def test_a_file_that_another_process_evicts_at_the_wrong_moment_is_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evaluators import statistics

    measured(tmp_path, 0, "x_norm")
    real = statistics.load_file

    def too_late(path: Path) -> object:
        path.unlink()
        return real(path)

    monkeypatch.setattr(statistics, "load_file", too_late)
    assert len(measured(tmp_path, 0, "x_norm")) == 1


def test_what_is_mapped_can_be_read_after_it_is_deleted(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    content = torch.arange(100_000, dtype=torch.float32)
    save_file({"layer": content}, path)
    found = load_file(path)["layer"]
    path.unlink()
    assert torch.equal(found, content)


def write_until_the_disk_is_full(path: Path) -> None:
    with whole_file(path) as part:
        part.write_bytes(b"other")
        raise OSError(28, "No space left on device")


def test_a_file_that_goes_while_it_is_looked_at_is_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "gone", 10, 5)
    real = module.safe_open

    def too_late(path: Path, **options: str) -> object:
        path.unlink()
        return real(path, **options)

    monkeypatch.setattr(module, "safe_open", too_late)
    assert cached_files(tmp_path) == []
    write(tmp_path, "gone", 10, 5)
    assert evict(tmp_path, 0) == []


def test_nothing_half_written_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with whole_file(path) as part:
        part.write_bytes(b"half")
        assert cached_files(tmp_path) == []
    assert path.read_bytes() == b"half"
    with pytest.raises(StorageError, match="cannot be written"):
        write_until_the_disk_is_full(path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"half"


WORKER = """
import sys, torch
from pathlib import Path
from evaluators.cache import cached_files, tend
from tests.evaluators.test_cache import measured
folder, first = Path(sys.argv[1]), int(sys.argv[2])
for turn in range(25):
    measured(folder, (first + turn) % 5, "x_norm", "y_norm", "g_norm", limit="20KB")
    if turn % 6 == 5:
        tend(folder, clear=True, limit=None)
    cached_files(folder)
print("done")
"""


def test_processes_that_share_a_folder_do_not_break_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder), str(first)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for first in (0, 2)
    ]
    for one in started:
        out, err = one.communicate(timeout=300)
        assert (out, one.returncode) == ("done\n", 0), err
    assert not list(folder.glob("*.part"))
    assert all(file.corrupted is None for file in cached_files(folder))
