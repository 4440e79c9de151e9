"""Public tables: fetched from where their authors keep them, checked, and converted."""

import csv
import hashlib
import http.client
import io
import json
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoproxy.errors import ConfigError, StorageError, unknown_name
from evaluators.benchmarks import flexibert, gpt2_lts
from evaluators.networks.encoder import OPERATIONS

PATIENCE = 60.0
"""Seconds without an answer after which a server counts as out of reach."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a public table is.

    Attributes:
        url: Pinned address; None: there is no single file that holds the table.
        sha256: Hash of that file; None: not known, so the user must say it.
        about: Where it comes from, for messages.
    """

    url: str | None
    sha256: str | None
    about: str


# The addresses are of the commits that the tables were made of. The files could not be downloaded
# where this was written, so their hashes are not known and are not made up: `--sha256` says them.
SOURCES = {
    "flexibert": Source(
        "https://raw.githubusercontent.com/aaronserianni/training-free-nas/2d76e01/"
        "data/BERT_benchmark.json",
        None,
        "data/BERT_benchmark.json of github.com/aaronserianni/training-free-nas at 2d76e01 "
        "(CC-BY-4.0)",
    ),
    "gpt2-lts": Source(
        None,
        None,
        "the logs in archai/nlp/nas/saved_logs/random_GPT2_wt103 of github.com/microsoft/archai, "
        "branch neurips-lts at 4777041 (MIT), made into one CSV file",
    ),
}


def fetch(
    name: str, url: str | None = None, sha256: str | None = None, folder: Path = Path()
) -> Path:
    """Fetch the table of a benchmark, check its hash, and return its path, ready to be opened.

    A CSV file is taken as it is; the JSON file of FlexiBERT's authors is converted. The hashes of
    the public files are not known to this project (see `SOURCES`), so they must be given.

    Args:
        name: `flexibert` or `gpt2-lts`.
        url: Address (http or https) instead of the pinned one.
        sha256: Of the file at the address, 64 hex digits, instead of the pinned one.
        folder: Is made; the table becomes `NAME.csv` in it. Nothing else is left there.

    Raises:
        ConfigError: The address or the hash is missing, or what came is another file or no table.
        StorageError: The server is out of reach, or the folder cannot be written.
    """
    if name not in SOURCES:
        raise ConfigError(unknown_name("public benchmark", name, SOURCES))
    address, expected = _where(name, url, sha256)
    path = folder / f"{name}.csv"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as held:
            arrived, table = Path(held) / "arrived", Path(held) / path.name
            _download(address, arrived)
            _check_hash(address, arrived, expected)
            table.write_bytes(_as_csv(name, address, arrived.read_bytes()))
            _OPEN[name](table)  # a file that cannot serve is not put where a table was
            table.replace(path)
    except OSError as error:
        raise StorageError(
            f"the table cannot be written to {folder}: {error}; give another folder"
        ) from error
    return path


def from_authors(content: Any) -> str:
    """Return the CSV table of FlexiBERT's published JSON, a list with one object a network.

    Each has `hparams.model_hparam_overrides`, with `hidden_size` beside or inside `nas_config`
    and in that `encoder_layers`: objects with `operation_type`, `num_operation_heads`,
    `feed_forward_dimension`, `num_feed_forward`, and the operation's own choice (any other
    entry: SDP, DFT, 5, ...); and `scores` with `glue`, in percent.

    Raises:
        KeyError: An entry is missing; also TypeError and ValueError, where it is of another kind.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(flexibert.COLUMNS)
    for number, row in enumerate(content):
        given = row["hparams"]["model_hparam_overrides"]
        layers = given["nas_config"]["encoder_layers"]
        width = (
            given["hidden_size"] if "hidden_size" in given else given["nas_config"]["hidden_size"]
        )
        lists = [
            [_operation(layer) for layer in layers],
            [layer["num_operation_heads"] for layer in layers],
            [layer["feed_forward_dimension"] for layer in layers],
            [layer["num_feed_forward"] for layer in layers],
        ]
        words = [" ".join(str(value) for value in values) for values in lists]
        writer.writerow(
            [row.get("id", number), width, len(layers), *words, float(row["scores"]["glue"])]
        )
    return out.getvalue()


def _where(name: str, url: str | None, sha256: str | None) -> tuple[str, str]:
    source = SOURCES[name]
    address = url or source.url
    if address is None:
        raise ConfigError(
            f"the table of {name} is no single file that could be fetched: it is {source.about}; "
            "give the address of a CSV file by --url, or a file by --table FILE"
        )
    expected = sha256 or (source.sha256 if url is None else None)
    if expected is None:
        raise ConfigError(
            f"the hash of {address} is not known to this project, and what cannot be checked is "
            "not fetched; give it by --sha256 (64 hex digits, as sha256sum prints them)"
        )
    if len(expected) != 64 or set(expected.lower()) - set("0123456789abcdef"):
        raise ConfigError(f"sha256 has 64 hex digits, got {expected!r}")
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"an address begins with https:// or http://, got {address!r}")
    return address, expected.lower()


def _download(address: str, path: Path) -> None:
    try:
        with (
            urllib.request.urlopen(address, timeout=PATIENCE) as answer,  # noqa: S310 - see _where
            path.open("wb") as file,
        ):
            shutil.copyfileobj(answer, file)
            wanted = answer.headers.get("Content-Length")
    except urllib.error.HTTPError as error:
        error.close()
        raise StorageError(
            f"{address} was refused: {error.code} {error.reason}; give another address by --url"
        ) from error
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as e:
        raise StorageError(
            f"{address} cannot be reached: {getattr(e, 'reason', e)}; fetch the file where there "
            "is a network, and give it by --table FILE"
        ) from e
    except ValueError as error:  # the address itself cannot be read
        raise ConfigError(
            f"{address!r} is no address: {error}; write one such as https://host/table.csv"
        ) from None
    size = path.stat().st_size
    if wanted is not None and size != int(wanted):
        raise StorageError(f"{address} broke off after {size} of {wanted} bytes; try again")


def _check_hash(address: str, path: Path, expected: str) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise ConfigError(
            f"{address} is another file than was asked for: its sha256 is {found}, not {expected}; "
            "nothing was kept; give the right address or hash"
        )


def _as_csv(name: str, address: str, content: bytes) -> bytes:
    if name != "flexibert" or not content.lstrip().startswith((b"[", b"{")):
        return content
    try:
        return from_authors(json.loads(content)).encode()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{address} is not the benchmark as its authors published it: {error!r}; give the "
            f"address of a CSV file with the columns {', '.join(flexibert.COLUMNS)}"
        ) from error


def _operation(layer: dict[str, Any]) -> str:
    """Return a layer's operation as tables write it, whatever its own choice is called."""
    known = {word for word in OPERATIONS if word.startswith(f"{layer['operation_type']}:")}
    for value in layer.values():
        word = f"{layer['operation_type']}:{str(value).upper()}"
        if word in known:
            return word
    raise ValueError(f"no operation of {', '.join(OPERATIONS)} in {layer}")


_OPEN: dict[str, Callable[[Path], object]] = {
    "flexibert": flexibert.open_table,
    "gpt2-lts": gpt2_lts.open_table,
}
