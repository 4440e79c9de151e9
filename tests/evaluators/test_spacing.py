"""Texts in the spacing of tokenised data sets, and back."""

import difflib
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoproxy.errors import TextError
from evaluators.spacing import detokenised, tokenised
from evaluators.text import read_text

HARD = ["1,200", "0.7", "well-kept", "don't", "it's", "they'll", "I'd", "1,000,000", "mid-1950s"]
WORD = st.text(string.ascii_letters, min_size=1, max_size=6) | st.sampled_from(HARD)
CLAUSE = st.lists(WORD, min_size=1, max_size=5).map(" ".join)
WRAPPED = st.tuples(st.sampled_from(['"{}"', "({})", "[{}]", "{}"]), CLAUSE).map(
    lambda both: both[0].format(both[1])
)
SENTENCE = st.tuples(st.lists(WRAPPED, min_size=1, max_size=4), st.sampled_from(".;:?!")).map(
    lambda both: ", ".join(both[0]) + both[1]
)
PROSE = st.lists(st.lists(SENTENCE, min_size=1, max_size=3).map(" ".join), max_size=3).map(
    "\n".join
)


@pytest.mark.parametrize(
    ("prose", "wanted"),
    [
        ("The red, white.", "The red , white . "),
        ('a "b c" (d)!', 'a " b c " ( d ) ! '),
        ("1,200,300 and 0.7", "1 @,@ 200 @,@ 300 and 0 @.@ 7"),
        ("an up-to-date one", "an up @-@ to @-@ date one"),
        ("don't, they'll, it's", "do n't , they 'll , it 's"),
        ("a - b, -3", "a - b , -3"),  # a dash between spaces and a sign are no hyphen
        ("one\ntwo:\n\nthree", "one\ntwo : \n\nthree"),
    ],
)
def test_prose_is_written_as_wikitext_writes_it(prose: str, wanted: str) -> None:
    assert tokenised(prose) == wanted


@given(PROSE)
def test_prose_comes_back(prose: str) -> None:
    assert "".join(detokenised(tokenised(prose)).split()) == "".join(prose.split())
    lines = [line.strip() for line in detokenised(tokenised(prose)).split("\n")]
    assert lines == prose.split("\n")


@given(PROSE)
def test_marks_stand_alone_and_nothing_is_lost(prose: str) -> None:
    words = tokenised(prose).split()
    assert all(len(word) == 1 for word in words if set(word) <= set('.,;:!?"()[]'))
    assert "".join(words).replace("@", "") == "".join(prose.split())
    assert tokenised(tokenised(prose)).split() == words


def test_a_source_is_read_in_either_spacing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "A cat, two."}\n{"text": "A dog."}\n', encoding="utf-8")
    text = read_text([f"tokenised:{path}", str(path)])
    assert text.content == "A cat , two . \n\nA dog . \n\nA cat, two.\n\nA dog."
    assert text.name == f"tokenised:{path} + {path}"
    back = read_text([f"detokenised:tokenised:{path}"]).content
    assert back.split() == ["A", "cat,", "two.", "A", "dog."]
    assert "tokenised:" not in read_text(["tokenised:topics:test"]).content
    with pytest.raises(TextError, match="no such file"):
        read_text(["tokenised:nowhere.txt"])
    with pytest.raises(TextError, match="is empty"):
        read_text(["detokenised:"])


def test_wikitext_itself_loses_its_spaces_and_gets_most_of_them_back(shared: Path) -> None:
    """A text in that form which we did not make."""
    path = shared / "text" / "wikitext2" / "valid.txt"
    if not path.exists():
        pytest.skip(f"needs {path}, which is absent")
    before, after = (read_text([f"{spacing}{path}"]).content for spacing in ("", "detokenised:"))
    for mark in (" , ", " . ", " @-@ ", " @,@ ", " @.@ ", "( ", " )"):
        assert before.count(mark) > 250, mark
        assert after.count(mark) <= before.count(mark) // 200, mark
    words, again = before.split(), tokenised(after).split()
    same = difflib.SequenceMatcher(None, words[:20_000], again[:20_000], autojunk=False)
    assert same.ratio() > 0.98
