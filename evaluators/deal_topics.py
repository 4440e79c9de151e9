"""The embedded text: Python's reference documentation, dealt out to roles that share no passage.

What it made ships in `assets/topics`, so that every machine reads the same text:

    python -m evaluators.deal_topics --out FOLDER

writes the files anew, from the `pydoc_data.topics` of the Python that runs.
"""

import argparse
import hashlib
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np

from evaluators.text import ROLES, share_of, shingles

# Wanted share of the topics in each role, in percent, and the salt that deals them out. The
# five longest topics are half of all characters, so most salts give lopsided roles: this one
# was picked, before anything was measured on it, for coming within two points on Python 3.11.
_PERCENT = {"train": 50, "calibration": 12, "validation": 18, "test": 20}
_SALT = 3174


def deal(documents: Mapping[str, str]) -> dict[str, str]:
    """Return the text of each role.

    Whole documents are dealt out by the hash of their names, so one keeps its role when others
    appear or go. Documents that quote each other stay in one role, and a paragraph that several
    repeat is given once, so no role sees a paragraph of another.

    Args:
        documents: Contents by name.
    """
    longest_first = sorted(documents, key=lambda name: (-len(documents[name]), name))
    leader = _leaders({name: documents[name] for name in longest_first})
    parts: dict[str, list[str]] = {role: [] for role in ROLES}
    said: set[str] = set()
    for name in longest_first:
        fresh = [part for part in _paragraphs(documents[name]) if part not in said]
        said.update(fresh)
        if fresh:
            parts[_role_of(leader[name])].append("\n\n".join(fresh))
    return {role: "\n\n".join(several) for role, several in parts.items()}


def _leaders(documents: Mapping[str, str]) -> dict[str, str]:
    """Map each name to the first document of its group; a group is linked by shared passages.

    >>> _leaders({"long": "a b c " * 9, "alias": "a b c " * 8, "other": "x y z " * 9})
    {'long': 'long', 'alias': 'long', 'other': 'other'}
    """
    passages = {name: shingles(content) for name, content in documents.items()}
    leader = {name: name for name in documents}
    for first, second in combinations(documents, 2):
        # One shared cross-reference is no alias: a twentieth of the shorter topic is.
        if share_of(passages[first], passages[second]) >= 0.05:
            old, new = leader[second], leader[first]
            leader = {name: new if at == old else at for name, at in leader.items()}
    return leader


def _paragraphs(content: str) -> list[str]:
    parts = (part.strip("\n") for part in content.split("\n\n"))
    return list(dict.fromkeys(part for part in parts if part.strip()))


def _role_of(topic: str) -> str:
    digest = hashlib.sha256(f"{_SALT}:{topic}".encode()).digest()
    draw = int.from_bytes(digest[:8], "big") % 100
    bounds = np.cumsum(list(_PERCENT.values()))
    return list(_PERCENT)[int(np.searchsorted(bounds, draw, side="right"))]


def main() -> None:
    """Write the text of each role, as it comes from this Python."""
    parser = argparse.ArgumentParser(prog="python -m evaluators.deal_topics", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the texts in")
    folder: Path = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    for role, content in deal(topics).items():
        (folder / f"{role}.txt").write_bytes(content.encode("utf-8"))


if __name__ == "__main__":
    main()
