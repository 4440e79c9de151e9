"""Small whole runs on a tiny model: their run file, and what they leave behind."""

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoproxy.commands.workspace import to_toml
from tests.evaluators.tiny import tiny_options

SPACES = [
    "blocks",
    "channels",
    "heads",
    "importance",
    "importance-small",
    "lpzero",
    "prediction",
    "prediction-data",
    "pruner-zero",
]
EVALUATORS = ["prediction", "pruning", "several", "shrinking"]
"""What `autoproxy list` names, which are those that come with the program."""

SEARCH: Mapping[str, Any] = {
    "seed": 3,
    "evaluations": 8.0,
    "strategy": "evolve",
    "islands": 1,
    "lag": 0,
    "migration": 4,
    "lifespan": 0,
    "mutation": 0.0,
    "tune": 0.0,
    "same": "mask",
    "population": 4,
    "batch": 6,
    "first_batch": 8,
    "crossover": 0.5,
    "immigrants": 0.1,
    "tournament": 2,
    "tries": 3,
    "selection": "nsga2",
    "reject": 0.0,  # a random model is like no other
    "promote": 0.5,
    "race": True,
    "finalists": 2,
    "seeds": False,
}
"""Every option, since defaults are not the subject of these tests."""


def write_run_file(
    folder: Path, *, run: Mapping[str, Any] | None = None, **search: Any
) -> tuple[Path, dict[str, Any]]:
    """Write `run.toml`, a tiny model and its texts; return the file and the evaluator's options."""
    options = tiny_options(folder)
    tables = {
        "run": {
            "name": "tiny-run",
            "space": "importance",
            "evaluator": "pruning",
            "random_search": True,
            "report_seeds": 1,
            **(run or {}),
        },
        "search": {**SEARCH, **search},
        "evaluator": options,
    }
    path = folder / "run.toml"
    path.write_text(to_toml(tables), encoding="utf-8")
    return path, options


def flags(options: Mapping[str, Any]) -> list[str]:
    """Return evaluator options as they are written on the command line."""
    words: list[str] = []
    for name, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            words += [f"--{name.replace('_', '-')}", str(one)]
    return words


def summary_of(results: Path, run: str = "tiny-run") -> dict[str, Any]:
    """Return what a run that is done says it found."""
    text = (results / "runs" / run / "summary.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def outcome_of_run(results: Path, run: str = "tiny-run") -> dict[str, Any]:
    """Return all that a run says and leaves, but for times, counts of recalls and versions."""
    folder = results / "runs" / run
    summary = summary_of(results, run)
    del summary["seconds"]
    for part in ("search", "random_search"):
        if summary[part]:
            del summary[part]["recalled"]
    files = [folder / "hall_of_fame.json", folder / "run.toml"]
    files += [results / f"leaderboard.{end}" for end in ("md", "csv")]
    files += sorted((results / "metrics").iterdir())
    return {
        "summary": summary,
        **{str(path.relative_to(results)): path.read_bytes() for path in files},
        **rows(results / "ledger.sqlite"),
    }


def rows(ledger: Path) -> dict[str, list[Any]]:
    """Return what the tables of a ledger hold, but for times."""
    columns = {
        "evaluations": "key, protocol, fidelity, text, value, details, reason",
        "events": "run, slot, key, text, origin, parents, fate, rule, reason, fidelity, value",
        "reports": 'run, role, name, text, key, complexity, seed, "values", protocol',
        "runs": "run, seed, space, evaluator, protocol, status",
    }
    connection = sqlite3.connect(ledger)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return {
            table: sorted(connection.execute(f"SELECT {names} FROM {table}"), key=repr)  # noqa: S608
            for table, names in columns.items()
        }
    finally:
        connection.close()
