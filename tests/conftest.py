"""What all tests share: one thread, no network, examples that repeat, and the shared notes."""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from autoproxy.cli import main
from tests.autoproxy.chores import Cluster
from tests.saying import Run, Said

ROOT = Path(__file__).parents[1]

torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start
if not torch.cuda.is_available():  # where there is a device, tests of it shall use it
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
for _name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ[_name] = "1"  # read once, when transformers is imported; that comes later

# `nohup` and shells that start jobs behind your back let them ignore these, and what is ignored
# is so in the processes that tests start too. A handler is not handed down, so those end as asked.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)

# The same examples on every machine and in every run: a red test stays red while it is mended.
# `pytest --hypothesis-profile explore` draws new ones.
hypothesis.settings.register_profile("repeat", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("repeat")


def pytest_collection_finish() -> None:
    """Let the garbage collector never again look through what was imported and collected.

    Half a million objects that stay to the end: each look at all of them took longer than many
    a test.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of models and texts beside the checkout, where there is one."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}: models and texts are not part of the repository")
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A Dask cluster on this machine, for the tests of one file."""
    pytest.importorskip("distributed")
    own = Cluster()
    own.wait()
    yield own
    own.stop(signal.SIGTERM)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call the command line in this process."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: object) -> Said:
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return call
