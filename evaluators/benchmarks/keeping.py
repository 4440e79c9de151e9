"""Tables of benchmarks: which there are, where they lie, fetching and building them.

A folder keeps what was fetched as `NAME.csv`, and what was built as a folder `NAME`.
"""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autoproxy.errors import ConfigError, StorageError, unknown_name
from evaluators.benchmarks import fetch
from evaluators.benchmarks.table import BENCHMARKS, open_benchmark, read_table
from evaluators.models import find_device

BUILT = "llama-subnets"


def table_in(folder: Path, name: str) -> Path | None:
    """Return the table of a benchmark that was fetched into a folder or built there; or None."""
    kept = _kept(name)
    table = folder / (kept if kept == BUILT else f"{kept}.csv")
    return table if table.exists() else None


def listed(folder: Path) -> list[dict[str, Any]]:
    """Return one row for each benchmark.

    Args:
        folder: Of what was fetched or built.

    Returns:
        `name`; `state`: `shipped`, `fetched`, `built`, `absent` or `unusable`; `table`: where it
        is, None if inside the package or nowhere; `networks` and `quality`, None where unknown;
        `reason`: None, or why it is absent or unusable and what to do.
    """
    return [_row(name, table_in(folder, name)) for name in BENCHMARKS]


def get(name: str, folder: Path, *, url: str | None, sha256: str | None) -> dict[str, Any]:
    """Fetch a public table into a folder, as `fetch.fetch` does; return its row of `listed`.

    Raises:
        ConfigError: As `fetch.fetch` does.
    """
    return _row(name, fetch.fetch(name, url, sha256, folder))


def build(
    name: str, options: Mapping[str, Any], folder: Path, *, tell: Callable[[int, int], None]
) -> dict[str, Any]:
    """Build a table, or go on with it; return its row of `listed`, and `total`.

    Args:
        name: `llama-subnets` or `starter`.
        options: Of `llama-subnets`: `count`, and what `Measured` takes; of `starter`: `texts`,
            `work` and `device`; of both `out`, where the table is to lie.
        folder: Where the sub-networks' table lies if `out` does not say so.
        tell: Told how many networks are done, and of how many.

    Raises:
        ConfigError: The request cannot be met; the message says what can.
    """
    if name not in _BUILDERS:
        raise ConfigError(unknown_name("benchmark to build", name, _BUILDERS))
    table, done, total = _BUILDERS[name](dict(options), folder, tell)
    return {**_row(name, table), "networks": done, "total": total}


Tell = Callable[[int, int], None]
Built = tuple[Path, int, int]
"""The table, how many networks it has, and of how many."""


def _build_subnets(options: dict[str, Any], folder: Path, tell: Tell) -> Built:
    subnets = importlib.import_module("evaluators.benchmarks.llama_subnets")
    out = Path(options.pop("out", folder / BUILT))
    count = int(options.pop("count"))
    texts = {"texts": tuple(options.pop("texts"))} if "texts" in options else {}
    subnets.build_table(subnets.Measured(**options, **texts), out, count, tell)
    rows, _ = read_table(out / subnets.TABLE, subnets.COLUMNS)
    return out, len(rows), max(count, len(rows))


def _build_starter(options: dict[str, Any], built: Path, tell: Tell) -> Built:
    del built  # a part of this table must not stand in for the one that ships
    training = importlib.import_module("evaluators.benchmarks.train_starter")
    starter = importlib.import_module("evaluators.benchmarks.starter")
    work = Path(options["work"])
    out = Path(options.get("out", work / "starter.csv"))
    device = find_device(options.get("device", "cpu"))
    texts = importlib.import_module("evaluators.train_starter")
    corpus = texts.read_corpus([Path(text) for text in options["texts"]])
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder; give a file, such as {out / 'starter.csv'}")
    try:
        for folder in (work, out.parent):  # before any training, which takes hours
            folder.mkdir(parents=True, exist_ok=True)
        training.train_all(work, corpus, training.Budget(), str(device), tell)
        done = starter.write_table(work, out)
    except OSError as error:
        raise StorageError(
            f"{work} or {out} cannot be written: {error}; give another folder"
        ) from error
    return out, done, len(starter.architectures())


_BUILDERS: Mapping[str, Callable[[dict[str, Any], Path, Tell], Built]] = {
    BUILT: _build_subnets,
    "starter": _build_starter,
}


def _row(name: str, table: Path | None) -> dict[str, Any]:
    """Return what `listed` says of a benchmark; its own table is the one that ships."""
    row: dict[str, Any] = dict.fromkeys(("networks", "quality", "reason"))
    row |= {"name": name, "state": "absent", "table": None if table is None else str(table)}
    try:
        opened = open_benchmark(name, table)
    except ConfigError as error:
        return row | {"state": "absent" if table is None else "unusable", "reason": str(error)}
    own = "built" if _kept(name) in _BUILDERS else "fetched"
    return row | {
        "state": "shipped" if table is None else own,
        "networks": len(opened.architectures),
        "quality": opened.quality_name,
    }


def _kept(name: str) -> str:
    """Return the benchmark whose table this one reads."""
    return name.removesuffix("-varied")
