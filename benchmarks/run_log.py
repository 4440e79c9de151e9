"""The log of a benchmark that may be killed: a line of JSON for each run that is done."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def records(folder: Path) -> list[dict[str, Any]]:
    """Return the runs that are done; a line that was cut off by a crash is none."""
    path = _log(folder)
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def append(folder: Path, record: Mapping[str, Any]) -> None:
    """Add a run that is done, on a line of its own; several processes may share a folder."""
    path = _log(folder)
    cut_off = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as log:
        log.write("\n" * cut_off + json.dumps(record) + "\n")


def option(text: str) -> tuple[str, Any]:
    """Return the name and value of `name=value`, the value as JSON where it is.

    >>> option("fit=0.5"), option("model=starter-llama")
    (('fit', 0.5), ('model', 'starter-llama'))
    """
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _log(folder: Path) -> Path:
    return folder / "runs.jsonl"
