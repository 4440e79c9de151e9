"""The embedded text: what ships is what Python 3.11.7 gives, dealt out by topic."""

import platform
import random
import sys
from pathlib import Path
from pydoc_data.topics import topics as documentation

import pytest

from evaluators import deal_topics as module
from evaluators.deal_topics import deal, main
from evaluators.text import ROLES, topics

MADE_BY = "3.11.7"


def prose(seed: int, words: int) -> str:
    draw = random.Random(seed)
    return " ".join(f"w{draw.randrange(500)}" for _ in range(words))


@pytest.mark.skipif(
    platform.python_version() != MADE_BY, reason=f"documentation of {MADE_BY} is not at hand"
)
def test_what_ships_is_what_the_script_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["deal_topics", "--out", str(tmp_path / "texts")])
    main()
    for role in ROLES:
        made = (tmp_path / "texts" / f"{role}.txt").read_bytes()
        assert made == topics(role).content.encode()


def test_the_licence_of_the_text_ships_with_it() -> None:
    licence = (Path(module.__file__).parent / "assets" / "topics" / "LICENSE").read_text()
    assert "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2" in licence


def test_documents_are_whole_and_none_is_lost() -> None:
    together = "\n\n".join(deal(documentation).values())
    for name, content in documentation.items():
        for paragraph in module._paragraphs(content):
            assert paragraph in together, name


def test_a_document_keeps_its_role_when_another_appears() -> None:
    before = deal(documentation)
    after = deal({**documentation, "novelty": prose(1, 300)})
    changed = [role for role in ROLES if before[role] != after[role]]
    assert len(changed) == 1
    assert prose(1, 300) in after[changed[0]]


def test_documents_that_quote_each_other_share_a_role() -> None:
    shared = prose(2, 60)
    many = {f"topic{at}": f"{prose(10 + at, 40)} {shared}" for at in range(12)}
    assert sorted(len(content) > 0 for content in deal(many).values()) == [False] * 3 + [True]
