import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from autoproxy.errors import AutoproxyError, ConfigError, StorageError
from evaluators.benchmarks import fetch as fetching
from evaluators.benchmarks.fetch import fetch
from evaluators.benchmarks.table import open_benchmark
from tests.evaluators.tables import changed, flexibert_rows, gpt2_rows, write


@contextlib.contextmanager
def _served(content: bytes, *, promised: int | None = None, code: int = 200) -> Iterator[str]:
    """Serve one file at every address; `promised` bytes are announced."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(promised or len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/table"
        finally:
            server.shutdown()
            thread.join()


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def table(tmp_path: Path) -> bytes:
    """The bytes of a small GPT-2 table."""
    return write(tmp_path / "source.csv", gpt2_rows()).read_bytes()


def test_a_table_is_fetched_and_opens(table: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with _served(table) as url:
        path = fetch("gpt2-lts", url, _hash(table).upper(), folder)
    assert path.read_bytes() == table
    assert [entry.name for entry in folder.iterdir()] == ["gpt2-lts.csv"]
    assert len(open_benchmark("gpt2-lts", path).architectures) == 10


def _published() -> list[dict[str, Any]]:
    made = []
    for row in flexibert_rows():
        layers = [
            {
                "operation_type": operation.split(":")[0],
                "num_operation_heads": int(heads),
                "feed_forward_dimension": int(ffd),
                "num_feed_forward": int(nff),
                "operation_parameter": operation.split(":")[1].lower(),
            }
            for operation, heads, ffd, nff in zip(
                *[row[name].split() for name in ("ops", "heads", "ffd", "nff")], strict=True
            )
        ]
        override = {
            "hidden_size": int(row["hidden_size"]),
            "nas_config": {"encoder_layers": layers},
        }
        made.append(
            {
                "id": int(row["id"]),
                "hparams": {"model_hparam_overrides": override},
                "scores": {"glue": float(row["glue"])},
            }
        )
    return made


def test_the_json_of_flexiberts_authors_becomes_the_table(tmp_path: Path) -> None:
    content = json.dumps(_published()).encode()
    with _served(content) as url:
        path = fetch("flexibert", url, _hash(content), tmp_path / "got")
    ours = open_benchmark("flexibert", write(tmp_path / "t.csv", flexibert_rows()), declared=True)
    theirs = open_benchmark("flexibert", path, declared=True)
    assert ours.architectures == theirs.architectures


@pytest.mark.parametrize("address", ["http://[x", "http://host:port/", "http://host/\u00fc b"])
def test_what_is_no_address_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(AutoproxyError, match=r"is no address|cannot be reached"):
        fetch("flexibert", address, "0" * 64, tmp_path)


@pytest.mark.parametrize("spoil", ["scores", "hparams"])
def test_json_of_another_form_is_refused(spoil: str, tmp_path: Path) -> None:
    published = _published()
    del published[3][spoil]
    content = json.dumps(published).encode()
    with _served(content) as url, pytest.raises(ConfigError, match=f"KeyError\\('{spoil}'\\)"):
        fetch("flexibert", url, _hash(content), tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_file_is_refused_and_an_old_table_stays(table: bytes, tmp_path: Path) -> None:
    old = tmp_path / "got" / "gpt2-lts.csv"
    old.parent.mkdir()
    old.write_text("old")
    with _served(table) as url, pytest.raises(ConfigError, match="another file") as caught:
        fetch("gpt2-lts", url, "0" * 64, old.parent)
    assert _hash(table) in str(caught.value)
    assert old.read_text() == "old"
    assert list(old.parent.iterdir()) == [old]


def test_a_table_that_cannot_serve_is_not_kept(tmp_path: Path) -> None:
    spoilt = write(tmp_path / "s.csv", changed(gpt2_rows(), 1, valid_ppl="nan")).read_bytes()
    with _served(spoilt) as url, pytest.raises(ConfigError, match="row 3, column valid_ppl"):
        fetch("gpt2-lts", url, _hash(spoilt), tmp_path / "got")
    assert not list((tmp_path / "got").iterdir())


def test_a_download_that_breaks_off_leaves_nothing(table: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "got"
    for content in (table, b""):
        with (
            _served(content, promised=len(table) + 5) as url,
            pytest.raises(StorageError, match=f"broke off after {len(content)} of"),
        ):
            fetch("gpt2-lts", url, _hash(table), folder)
        assert not list(folder.iterdir())


def test_a_server_that_refuses_is_named(table: bytes, tmp_path: Path) -> None:
    with _served(table, code=404) as url, pytest.raises(StorageError, match="refused: 404"):
        fetch("gpt2-lts", url, _hash(table), tmp_path / "got")
    assert not list((tmp_path / "got").iterdir())


def test_offline_the_user_hears_what_to_do(table: bytes, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/t", "http://nowhere.invalid/t"):
        with pytest.raises(StorageError, match=r"cannot be reached: .*--table FILE"):
            fetch("gpt2-lts", url, _hash(table), tmp_path / "got")
    assert not list((tmp_path / "got").iterdir())


def test_a_server_that_is_silent_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "PATIENCE", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/t"
        with pytest.raises(StorageError, match=r"cannot be reached: timed out"):
            fetch("gpt2-lts", url, "0" * 64, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("flexibrt",), "did you mean 'flexibert'"),
        (("flexibert",), r"not known to this project.*--sha256"),
        (("gpt2-lts",), r"no single file.*--url.*--table"),
        (("gpt2-lts", "http://x/t"), r"--sha256"),
        (("gpt2-lts", "http://x/t", "abc"), "64 hex digits, got 'abc'"),
        (("gpt2-lts", "http://x/t", "g" * 64), "64 hex digits"),
        (("gpt2-lts", "file:///etc/passwd", "0" * 64), "begins with https"),
    ],
)
def test_what_cannot_be_fetched_is_refused_before_asking(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        fetch(*arguments, folder=tmp_path / "got")  # type: ignore[misc]
    assert not (tmp_path / "got").exists()


def test_a_folder_that_cannot_be_written_is_named(table: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with _served(table) as url, pytest.raises(StorageError, match="cannot be written to"):
        fetch("gpt2-lts", url, _hash(table), tmp_path / "file" / "got")
