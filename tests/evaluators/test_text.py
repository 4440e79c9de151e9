"""Texts: their sources, roles that stay apart, blocks, and the refusal of overlap."""

import json
import random
import types
from itertools import combinations
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoproxy.errors import ConfigError, TextError
from evaluators import text as module
from evaluators.spacing import tokenised
from evaluators.text import ROLES, Text, blocks, read_text, refuse_overlap, shingles, topics


class Numbers:
    """A tokenizer of texts such as `3 1 4`, which remembers how often it was called."""

    calls = 0

    def encode(self, text: str, *, add_special_tokens: bool, verbose: bool) -> list[int]:
        self.calls += 1
        assert not add_special_tokens
        return [int(word) for word in text.split()]


def numbers(count: int) -> Text:
    return Text("numbers", " ".join(str(number) for number in range(count)))


def prose(seed: int, words: int) -> str:
    draw = random.Random(seed)
    return " ".join(f"w{draw.randrange(500)}" for _ in range(words))


# --- sources ---------------------------------------------------------------------------------


def test_sources_are_joined_by_an_empty_line_in_the_order_given(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second\n", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n\n{"text": "two"}\n', encoding="utf-8")
    sources = [str(tmp_path / "b.txt"), str(tmp_path / "a.jsonl")]

    text = read_text(sources)

    assert text.content == "second\n\n\none\n\ntwo"
    assert text.name == " + ".join(sources)


def test_a_folder_gives_its_txt_files_sorted_by_name(tmp_path: Path) -> None:
    for name, content in {"b.txt": "B", "a.txt": "A", "c.md": "C"}.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_text([str(tmp_path)]).content == "A\n\nB"


def test_parquet_gives_its_text_column(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    parquet.write_table(arrow.table({"text": ["one", None, "two"], "id": [1, 2, 3]}), path)
    assert read_text([str(path)]).content == "one\n\ntwo"

    parquet.write_table(arrow.table({"body": ["one"], "id": [1]}), path)
    with pytest.raises(TextError, match=r"rows\.parquet: no column `text`, found: body, id"):
        read_text([str(path)])

    path.write_bytes(b"not parquet")
    with pytest.raises(TextError, match=r"rows\.parquet: not a parquet file"):
        read_text([str(path)])


def test_hub_name_configuration_and_split_reach_the_datasets_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[object, ...]] = []

    class Rows(dict[str, list[str]]):
        column_names = ("text",)

    def load_dataset(*parts: str, split: str) -> Rows:
        seen.append((*parts, split))
        return Rows(text=["one", "", "two"])

    lend(monkeypatch, load_dataset)
    assert read_text(["hub:wiki:raw:test"]).content == "one\n\ntwo"
    read_text(["hub:wiki:test"])
    assert seen == [("wiki", "raw", "test"), ("wiki", "test")]


def test_hub_offline_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*parts: str, split: str) -> None:
        raise ConnectionError("Couldn't reach 'wiki' on the Hub")

    lend(monkeypatch, load_dataset)
    with pytest.raises(TextError, match=r"hub:wiki:test.*ConnectionError.*network, or give a"):
        read_text(["hub:wiki:test"])
    for malformed in ("hub:wiki", "hub:", "hub:a:b:c:d", "hub:a::test"):
        with pytest.raises(TextError, match="hub:NAME:SPLIT or hub:NAME:CONFIG:SPLIT"):
            read_text([malformed])


def lend(monkeypatch: pytest.MonkeyPatch, load_dataset: object) -> None:
    fake = types.SimpleNamespace(load_dataset=load_dataset)
    real = module.importlib.import_module
    pick = lambda name: fake if name == "datasets" else real(name)  # noqa: E731
    monkeypatch.setattr(module.importlib, "import_module", pick)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b" \n\n", "there is no text in it"),
        ("latin.txt", b"caf\xe9", r"not UTF-8, byte 3 is 0xe9"),
        ("page.pdf", b"x", r"cannot read a \.pdf file; allowed: \.txt, \.jsonl"),
        ("bare", b"x", "cannot read a nameless file"),
        ("rows.jsonl", b'{"text": "a"}\n{"body": "b"}', "line 2: no `text` field.*found: body"),
        ("rows.jsonl", b'{"text": 3}', "line 1: no `text` field with a string, found: text"),
        ("rows.jsonl", b'["text"]', "line 1: no `text` field with a string, found: list"),
        ("rows.jsonl", b'{"text": "a"}\n\n{"tex', "line 3: not JSON"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TextError, match=message) as caught:
        read_text([str(path)])
    assert str(path) in str(caught.value)


def test_what_is_missing_is_named_with_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"gone\.txt: no such file or folder.*topics:ROLE"):
        read_text([str(tmp_path / "gone.txt")])
    with pytest.raises(TextError, match=r"no \.txt file in this folder"):
        read_text([str(tmp_path)])
    with pytest.raises(TextError, match="one or more texts, got"):
        read_text([])
    with pytest.raises(TextError, match="expected a list"):
        read_text("topics:test")
    with pytest.raises(ConfigError, match="topics:tset: unknown role 'tset'; did you mean 'test'"):
        read_text(["topics:tset"])


def test_the_hash_is_of_the_content_alone(tmp_path: Path) -> None:
    assert Text("a", "same").sha256 == Text("b", "same").sha256 != Text("a", "other").sha256
    assert len(Text("a", "same").sha256) == 16


# --- roles of the topics ---------------------------------------------------------------------


def test_every_role_has_its_share() -> None:
    sizes = {role: len(topics(role).content) for role in ROLES}
    shares = {role: size / sum(sizes.values()) for role, size in sizes.items()}
    wanted = {"train": 0.50, "calibration": 0.12, "validation": 0.18, "test": 0.20}
    assert all(abs(shares[role] - wanted[role]) < 0.02 for role in ROLES), shares


def test_roles_share_no_paragraph_and_no_passage() -> None:
    parts = {role: set(topics(role).content.split("\n\n")) for role in ROLES}
    for first, second in combinations(ROLES, 2):
        assert not {part.strip("\n") for part in parts[first]} & {
            part.strip("\n") for part in parts[second]
        }
    refuse_overlap({role: topics(role) for role in ROLES})


def test_a_role_that_is_none_is_refused() -> None:
    with pytest.raises(TextError, match="'tests'; did you mean 'test'"):
        topics("tests")


# --- blocks ----------------------------------------------------------------------------------


def test_without_a_seed_blocks_are_the_first_windows() -> None:
    taken = blocks(numbers(25), Numbers(), length=4, count=5, role="test")
    assert taken.dtype == torch.int64
    assert torch.equal(taken, torch.arange(20).view(5, 4))


@settings(deadline=None, max_examples=40)
@given(length=st.integers(1, 9), count=st.integers(1, 9), seed=st.integers(0, 99))
def test_drawn_blocks_are_whole_windows_that_never_overlap(
    length: int, count: int, seed: int
) -> None:
    text = numbers(length * count + 13)
    drawn = blocks(text, Numbers(), length=length, count=count, seed=seed, role="test")

    assert drawn.shape == (count, length)
    assert torch.equal(drawn, drawn[:, :1] + torch.arange(length))
    assert len(drawn.unique()) == count * length


def test_the_seed_and_the_role_own_the_draw() -> None:
    def draw(seed: int, role: str = "test") -> list[list[int]]:
        return blocks(numbers(4000), Numbers(), length=4, count=20, seed=seed, role=role).tolist()

    before = random.getstate(), torch.random.get_rng_state()
    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw(1) != draw(1, "calibration")
    assert random.getstate() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])


def test_the_whole_text_can_be_drawn_and_is_tokenised_once() -> None:
    tokenizer = Numbers()
    drawn = blocks(numbers(41), tokenizer, length=4, count=10, seed=0, role="test")
    assert sorted(drawn.flatten().tolist()) == list(range(40))
    assert tokenizer.calls == 1


def test_too_short_a_text_is_refused_with_both_numbers() -> None:
    with pytest.raises(
        TextError,
        match=r"validation: text 'numbers'.* has 19 tokens, and 5 blocks of 4 need 20.* most 4",
    ):
        blocks(numbers(19), Numbers(), length=4, count=5, role="validation")
    for length, count in ((0, 1), (1, 0), (-1, 1)):
        with pytest.raises(TextError, match="both must be at least 1"):
            blocks(numbers(9), Numbers(), length=length, count=count, role="test")


# --- overlap ---------------------------------------------------------------------------------


@pytest.fixture
def apart() -> tuple[str, str]:
    return prose(3, 4000), prose(4, 4000)


def test_texts_that_are_apart_pass(apart: tuple[str, str]) -> None:
    refuse_overlap({"calibration": Text("a", apart[0]), "test": Text("b", apart[1])})
    refuse_overlap({"calibration": Text("a", apart[0])})
    refuse_overlap({})


def test_a_short_text_inside_a_long_one_is_found_wherever_it_lies(
    apart: tuple[str, str],
) -> None:
    excerpt = " ".join(apart[0].split()[1237:1300]).upper().replace(" ", "\n")
    with pytest.raises(
        TextError,
        match=r"the calibration text 'long' and the test text 'short' overlap: 100\.0%.*"
        r"at most 1%.*give each role a text of its own, for example topics:calibration",
    ):
        refuse_overlap({"calibration": Text("long", apart[0]), "test": Text("short", excerpt)})


@pytest.mark.parametrize(("copied", "refused"), [(40, False), (80, True)])
def test_one_percent_is_the_line(apart: tuple[str, str], copied: int, refused: bool) -> None:
    mixed = " ".join([*apart[1].split(), *apart[0].split()[:copied]])
    texts = {"validation": Text("a", apart[0]), "test": Text("b", mixed)}
    if refused:
        with pytest.raises(TextError, match="overlap"):
            refuse_overlap(texts)
    else:
        refuse_overlap(texts)


def test_a_text_shorter_than_one_block_is_given_no_count() -> None:
    with pytest.raises(TextError, match="need 9; ask for shorter blocks, or give more text"):
        blocks(numbers(3), Numbers(), length=9, count=1, role="test")
    with pytest.raises(TextError, match="ask for at most 3 blocks of this length, for shorter"):
        blocks(numbers(9), Numbers(), length=3, count=4, role="test")


def reordered(lines: list[str]) -> dict[str, Text]:
    turned = lines[1::2] + lines[::2][::-1]
    return {"search": Text("a", "\n".join(lines)), "test": Text("b", "\n".join(turned))}


@pytest.mark.parametrize("length", [8, 11, 14])
def test_the_same_lines_in_another_order_overlap(length: int) -> None:
    words = prose(5, 4000).split()
    lines = [" ".join(words[n : n + length]) for n in range(0, 3900, length)]
    with pytest.raises(TextError, match="overlap"):
        refuse_overlap(reordered(lines))


@pytest.mark.parametrize("first", [0x4E00, 0x0E01, 0x3041])
def test_text_without_spaces_is_compared_by_characters(first: int) -> None:
    draw = random.Random(first)
    written = ["".join(chr(first + draw.randrange(40)) for _ in range(40)) for _ in range(200)]
    with pytest.raises(TextError, match="overlap"):
        refuse_overlap(reordered(written))
    whole = "".join(written)
    with pytest.raises(TextError, match="overlap"):
        refuse_overlap({"search": Text("a", whole), "test": Text("b", "\n".join(written))})
    refuse_overlap(
        {
            "search": Text("a", "\n".join(written[:100])),
            "test": Text("b", "\n".join(written[100:])),
        }
    )


def test_every_pair_is_compared(apart: tuple[str, str]) -> None:
    texts = {
        "calibration": Text("a", apart[0]),
        "validation": Text("b", apart[1]),
        "test": Text("c", apart[1]),
    }
    with pytest.raises(TextError, match="the validation text 'b' and the test text 'c'"):
        refuse_overlap(texts)


def test_texts_below_one_passage_are_compared_as_a_whole() -> None:
    refuse_overlap({"calibration": Text("a", "one two"), "test": Text("b", "one three")})
    with pytest.raises(TextError, match="overlap"):
        refuse_overlap({"calibration": Text("a", "one two"), "test": Text("b", "One two")})


def test_jsonl_keeps_line_breaks_inside_a_record(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    record = "a\u2028b\x85c"  # line ends to str.splitlines, but not to JSON lines
    path.write_text(json.dumps({"text": record}, ensure_ascii=False), encoding="utf-8")
    assert read_text([str(path)]).content == record


def test_a_text_is_known_again_in_another_spacing() -> None:
    """Or whoever calibrates on a tokenised copy of the report text would see it."""
    part = topics("test").content[:40_000]
    again = Text("again", tokenised(part))
    with pytest.raises(TextError, match=r"overlap: (9\d\.\d|100\.0)%"):
        refuse_overlap({"calibration": topics("test"), "text": again})
    refuse_overlap({"calibration": topics("calibration"), "text": again})


def test_vowel_signs_are_no_marks() -> None:
    hindi = "\u0939\u093f\u0928\u094d\u0926\u0940"  # one word, three of its signs not \\w
    assert len(shingles(" ".join([hindi] * 12))) == len(shingles(" ".join(["word"] * 12)))
    assert shingles("a, b\u2014c").tolist() == shingles("a b c").tolist()
