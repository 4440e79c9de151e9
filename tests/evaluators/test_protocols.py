"""Protocols of the literature, on local data of the same form, against slow transcriptions."""

import json
import math
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoproxy.errors import ConfigError, TextError
from evaluators import drawing
from evaluators.config import PruningConfig
from evaluators.drawing import (
    WINDOWS,
    Documents,
    WithSpecialTokens,
    anywhere_windows,
    document_windows,
)
from evaluators.methods import METHODS, check_asked
from evaluators.models import load_model
from evaluators.protocols import C4, PROTOCOLS
from evaluators.pruning import PruningEvaluator
from evaluators.text import DATASETS, Text, blocks, read_records, read_text
from tests.evaluators.corpora import (
    C4_FILE,
    START,
    c4_documents,
    marking_tokenizer,
    wikitext_rows,
    write_corpora,
)
from tests.evaluators.tiny import tiny_folder, tiny_options

WIKITEXT = "hub:Salesforce/wikitext:wikitext-2-raw-v1"


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpora(tmp_path_factory.mktemp("corpora"))


@pytest.fixture(autouse=True)
def on_disk(
    corpora: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Find data sets in a folder, and let the library keep what it makes of them elsewhere."""
    monkeypatch.setenv(DATASETS, str(corpora))
    cache = tmp_path_factory.getbasetemp() / "datasets"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))


@pytest.fixture
def draws_given_back() -> Iterator[None]:
    before = random.getstate()
    yield
    random.setstate(before)


# --- Wanda's draws -----------------------------------------------------------------------------


def windows_as_described(
    documents: list[str], tokenizer: Any, length: int, count: int, seed: int
) -> list[list[int]]:
    """Draw a document until it has more tokens than `length`, then a window of it; repeat."""
    random.seed(seed)  # noqa: TID251 - the procedure that is described
    found = []
    for _ in range(count):
        tokens: list[int] = []
        while not len(tokens) > length:
            number = random.randint(0, len(documents) - 1)
            tokens = tokenizer(documents[number]).input_ids
        first = random.randint(0, len(tokens) - length - 1)
        found.append(tokens[first : first + length])
    return found


@pytest.mark.parametrize("seed", [0, 1, 17])
@pytest.mark.parametrize("length", [5, 60, 200])
def test_documents_are_drawn_as_wanda_draws_them(
    seed: int, length: int, draws_given_back: None
) -> None:
    tokenizer = marking_tokenizer()
    expected = windows_as_described(c4_documents(), tokenizer, length, 12, seed)
    before = random.getstate()

    found = document_windows(
        Documents(C4),
        WithSpecialTokens(tokenizer),
        length=length,
        count=12,
        role="calibration",
        seed=seed,
    )

    assert found.tolist() == expected
    assert found.dtype == torch.int64
    assert random.getstate() == before


def test_a_document_with_exactly_the_length_is_too_short(tmp_path: Path) -> None:
    path = tmp_path / "two.jsonl"
    path.write_text('{"text": "abcde"}\n{"text": "vwxyz!"}\n', encoding="utf-8")

    def drawn(length: int) -> list[list[int]]:
        found = document_windows(
            Documents([str(path)]),
            marking_tokenizer(),
            length=length,
            count=20,
            role="calibration",
            seed=0,
        )
        return found.tolist()

    tokenizer = marking_tokenizer()
    longer = tokenizer.encode("vwxyz!", add_special_tokens=False)
    # `randint` is of both ends: a window of five of six tokens begins at the first, never later.
    assert all(window == longer[:5] for window in drawn(5))
    with pytest.raises(TextError, match=r"of 2 documents .* none has more than 6 .* longest has 6"):
        drawn(6)


def test_a_hopeless_corpus_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "MOST_DRAWS", 5)
    with pytest.raises(TextError, match=r"too short: of [1-5] documents that were drawn none has"):
        document_windows(
            Documents(C4), marking_tokenizer(), length=5000, count=1, role="calibration", seed=0
        )


@settings(deadline=None, max_examples=40)
@given(
    length=st.integers(1, 12),
    count=st.integers(1, 12),
    seed=st.integers(0, 99),
    extra=st.integers(1, 30),
)
def test_windows_begin_anywhere_as_described(
    length: int, count: int, seed: int, extra: int
) -> None:
    content = "".join(chr(97 + at % 26) for at in range(length + extra))
    tokens = marking_tokenizer()(content).input_ids
    kept = random.getstate()
    random.seed(seed)  # noqa: TID251 - the procedure that is described
    starts = [random.randint(0, len(tokens) - length - 1) for _ in range(count)]
    random.setstate(kept)

    found = anywhere_windows(
        Text("t", content),
        WithSpecialTokens(marking_tokenizer()),
        length=length,
        count=count,
        role="calibration",
        seed=seed,
    )

    assert found.tolist() == [tokens[at : at + length] for at in starts]


def test_a_text_too_short_to_begin_anywhere_names_both_numbers() -> None:
    with pytest.raises(TextError, match="it has 4 tokens, and a window of 4 needs one more"):
        anywhere_windows(
            Text("t", "abcd"), marking_tokenizer(), length=4, count=1, role="calibration", seed=0
        )


@pytest.mark.parametrize("way", sorted(WINDOWS))
def test_no_window_is_drawn_of_nothing(way: str) -> None:
    text = Documents(C4) if way == "documents" else Text("t", "abcdefgh")
    for length, count in ((0, 1), (1, 0)):
        with pytest.raises(TextError, match="both must be at least 1"):
            WINDOWS[way](text, marking_tokenizer(), length=length, count=count, role="r", seed=0)


# --- data sets on disk -------------------------------------------------------------------------


def test_a_shard_of_c4_gives_its_documents_in_order() -> None:
    documents = Documents(C4)
    assert [documents[at] for at in range(len(documents))] == c4_documents()
    with pytest.raises(IndexError):
        documents[len(documents)]


def test_the_hash_is_of_every_document_and_of_where_it_ends(tmp_path: Path) -> None:
    def of(*texts: str) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
        return Documents([str(path)]).sha256

    found = [of("ab", "c"), of("a", "bc"), of("abc"), of("c", "ab"), of("ab", "c", ""), of("a1 b")]
    assert len(set(found)) == len(found)
    assert of("ab", "c") == found[0]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_row_of_wikitext_counts_even_empty_ones(split: str) -> None:
    source = [f"{WIKITEXT}:{split}"]
    rows = wikitext_rows(split)
    assert "" in rows
    assert read_text(source, "newlines").content == "\n\n".join(rows)
    assert read_text(source, "spaces").content == " ".join(rows)
    assert read_text(source).content == "\n\n".join(row for row in rows if row)
    assert read_text(source).name == f"{WIKITEXT}:{split}"


def test_a_local_folder_is_a_data_set_too(corpora: Path, tmp_path: Path) -> None:
    local = corpora / "Salesforce" / "wikitext"
    expected = read_text([f"{WIKITEXT}:test"], "newlines").content
    assert read_text([f"hub:{local}:wikitext-2-raw-v1:test"], "newlines").content == expected
    assert read_text([f"hub:{local / 'wikitext-2-raw-v1'}:test"], "newlines").content == expected
    one = f"hub:{local}:wikitext-2-raw-v1/test-00000-of-00001.parquet:test"
    assert read_text([one], "newlines").content == expected
    rows = datasets.Dataset.from_dict({"text": wikitext_rows("test")})
    rows.save_to_disk(str(tmp_path / "one"))
    assert read_text([f"hub:{tmp_path / 'one'}:test"], "newlines").content == expected
    datasets.DatasetDict({"test": rows}).save_to_disk(str(tmp_path / "many"))
    assert read_text([f"hub:{tmp_path / 'many'}:test"], "newlines").content == expected


def test_a_split_or_file_that_is_not_there_is_told(corpora: Path) -> None:
    with pytest.raises(TextError, match=f"could not be loaded.*{DATASETS}"):
        read_text([f"{WIKITEXT}:dev"])
    with pytest.raises(TextError, match="could not be loaded"):
        read_records(["hub:allenai/c4:en/c4-train.00001-of-01024.json.gz:train"])


# --- the report: which windows, which labels ---------------------------------------------------


def test_all_windows_are_those_of_one_tokenisation_with_one_start_token() -> None:
    text = read_text([f"{WIKITEXT}:test"], "newlines")
    tokenizer = marking_tokenizer()
    tokens = tokenizer("\n\n".join(wikitext_rows("test"))).input_ids
    assert tokens.count(START) == 1

    found = blocks(text, WithSpecialTokens(tokenizer), length=50, count=None, role="text")

    assert found.shape == (len(tokens) // 50, 50)
    assert found.flatten().tolist() == tokens[: len(tokens) // 50 * 50]


def test_all_windows_of_too_short_a_text_are_refused() -> None:
    with pytest.raises(TextError, match="it has 3 tokens, and 1 blocks of 4 need 4"):
        blocks(Text("t", "abc"), marking_tokenizer(), length=4, count=None, role="text")


def llama2_like(folder: Path) -> Path:
    """Write the tiny model with a tokenizer that marks the start."""
    made = tiny_folder(folder)
    marking_tokenizer().save_pretrained(made)
    return made


def opened(folder: Path, **options: Any) -> PruningEvaluator:
    model = folder / "model"
    if not model.exists():
        llama2_like(model)
    asked = {"protocol": "wanda-2048", "model": str(model), "length": 32, "dtype": "float32"}
    config = PruningConfig.from_options({**asked, "calibration_blocks": 6, **options})
    return PruningEvaluator(config, cache=folder / "cache", notice=lambda _: None)


@torch.no_grad()
def perplexity_by_transformers(model: Any, tokens: list[int], length: int) -> float:
    """Return exp of the mean over windows of transformers' own loss, which shifts labels."""
    whole = len(tokens) // length
    windows: Tensor = torch.tensor(tokens[: whole * length]).view(whole, length)
    losses = [float(model(w.unsqueeze(0), labels=w.unsqueeze(0)).loss) for w in windows]
    return math.exp(sum(losses) / whole)


def test_the_reported_perplexity_is_that_of_transformers_loss(tmp_path: Path) -> None:
    evaluator = opened(tmp_path)
    loaded = load_model(str(tmp_path / "model"), device="cpu", dtype="float32")
    tokens = loaded.tokenizer("\n\n".join(wikitext_rows("test"))).input_ids
    expected = perplexity_by_transformers(loaded.model, tokens, 32)
    assert evaluator.dense()["perplexity"] == pytest.approx(expected, rel=1e-6)
    protocol = evaluator.report_protocol()
    assert protocol["tokens"] == len(tokens) // 32 * 32


@pytest.mark.parametrize("seed", [0, 3])
def test_statistics_are_taken_on_wandas_windows(
    tmp_path: Path, seed: int, draws_given_back: None
) -> None:
    evaluator = opened(tmp_path)
    drawn = evaluator._blocks("calibration", 6, seed)
    assert evaluator._blocks("calibration", 6, seed) is drawn  # tokenising a shard takes a while
    found = drawn.tolist()
    assert found == windows_as_described(c4_documents(), marking_tokenizer(), 32, 6, seed)


def test_gradients_of_pruner_zero_are_taken_on_wikitexts_train_split(
    tmp_path: Path, draws_given_back: None
) -> None:
    evaluator = opened(tmp_path, protocol="pruner-zero")
    tokens = marking_tokenizer()(" ".join(wikitext_rows("train"))).input_ids
    random.seed(5)  # noqa: TID251 - the procedure that is described
    starts = [random.randint(0, len(tokens) - 33) for _ in range(6)]
    expected = [tokens[at : at + 32] for at in starts]
    assert evaluator._blocks("calibration", 6, 5).tolist() == expected


# --- names, departures, what is stored ---------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_a_protocol_alone_departs_from_nothing(name: str) -> None:
    config = PruningConfig.from_options({"protocol": name})
    assert config.departures == {}
    assert all(getattr(config, option) == value for option, value in PROTOCOLS[name].items())
    assert config.drawing()["protocol"] == name
    assert "departures" not in config.drawing()
    assert str(config.condition) == "50%"
    assert config.report_blocks(2048) is None


def test_the_facts_of_the_literature() -> None:
    """Written out once more, from the notes: a slip in the table is seen."""
    wanda = PruningConfig.from_options({"protocol": "wanda-4096"})
    assert wanda.calibration == ("hub:allenai/c4:en/c4-train.00000-of-01024.json.gz:train",)
    assert wanda.text == ("hub:Salesforce/wikitext:wikitext-2-raw-v1:test",)
    assert (wanda.calibration_blocks, wanda.length, wanda.seed) == (128, 4096, 0)
    assert (wanda.windows, wanda.text_join, wanda.special_tokens) == ("documents", "newlines", True)
    assert (wanda.group, wanda.dtype, wanda.text_blocks) == ("row", "float16", "all")
    assert wanda.mode == "sequential"
    assert PruningConfig.from_options({"protocol": "wanda-2048"}).length == 2048
    assert PruningConfig.from_options({"protocol": "ria"}).group == "matrix"
    zero = PruningConfig.from_options({"protocol": "pruner-zero"})
    assert zero.calibration == ("hub:Salesforce/wikitext:wikitext-2-raw-v1:train",)
    assert (zero.windows, zero.calibration_join) == ("anywhere", "spaces")


def test_what_is_said_overrides_and_is_listed() -> None:
    config = PruningConfig.from_options(
        {"protocol": "wanda-2048", "length": 128, "text": "a.txt", "group": "row", "seed": 4}
    )
    assert (config.length, config.text, config.windows) == (128, ("a.txt",), "documents")
    assert config.departures == {"text": ["a.txt"], "length": 128}
    assert config.drawing()["departures"] == config.departures


def test_where_all_is_as_usual_nothing_more_is_stored() -> None:
    assert PruningConfig().drawing() == {}
    assert PruningConfig(special_tokens=True).drawing() == {
        "windows": "grid",
        "calibration_join": "paragraphs",
        "text_join": "paragraphs",
        "special_tokens": True,
    }


def test_the_stored_protocol_says_how_texts_were_read(tmp_path: Path) -> None:
    stored = opened(tmp_path).report_protocol()
    assert stored["protocol"] == "wanda-2048"
    assert stored["departures"] == {"calibration_blocks": 6, "length": 32, "dtype": "float32"}
    assert stored["windows"] == "documents"
    assert stored["text_join"] == "newlines"
    assert stored["special_tokens"] is True
    assert stored["calibration_blocks"] == 6
    assert stored["calibration"] == C4[0]
    assert stored["calibration_hash"] == Documents(C4).sha256
    json.dumps(stored)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"protocol": "wanda"}, "unknown protocol 'wanda'; did you mean 'wanda-"),
        ({"protocol": 3}, "protocol must be a word"),
        ({"windows": "document"}, "unknown windows 'document'; did you mean 'documents'"),
        ({"text_join": "space"}, "unknown join 'space'; did you mean 'spaces'"),
        ({"calibration_join": "lines"}, "unknown join 'lines'"),
        ({"special_tokens": "yes"}, "special_tokens must be true or false, got 'yes'"),
        ({"special_tokens": 1}, "special_tokens must be true or false, got 1"),
        ({"text_blocks": "some"}, "text_blocks must be a whole number or all, got 'some'"),
        ({"text_blocks": "0"}, "text_blocks must be at least 1, got 0"),
        ({"text_blocks": True}, "text_blocks must be a whole number"),
    ],
)
def test_what_cannot_be_asked_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        PruningConfig.from_options(options)


def test_a_protocol_longer_than_the_model_is_refused_with_the_flag(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"length 2048 exceeds the 64 .* --length 64 or less"):
        opened(tmp_path, length=2048)


# --- overlap: the documents that were drawn count ----------------------------------------------


def copied(corpora: Path, folder: Path, documents: list[str]) -> str:
    """Write a corpus of documents, and return it as a source."""
    shard = folder / C4_FILE
    shard.parent.mkdir(parents=True)
    rows = "".join(json.dumps({"text": text}) + "\n" for text in documents)
    plain = shard.with_suffix("")
    plain.write_text(rows, encoding="utf-8")
    return f"hub:{folder}:{plain.relative_to(folder)}:train"


def test_a_document_that_was_drawn_may_not_be_in_the_report(tmp_path: Path, corpora: Path) -> None:
    test_text = "\n\n".join(wikitext_rows("test"))
    leaking = copied(corpora, tmp_path / "leak", [test_text])
    evaluator = opened(tmp_path, calibration=leaking)  # nothing is drawn yet
    with pytest.raises(TextError, match=r"the calibration text .* and the report text .* overlap"):
        evaluator.prepare(["x_norm"])


def test_a_document_that_was_not_drawn_matters_not(tmp_path: Path, corpora: Path) -> None:
    test_text = "\n\n".join(wikitext_rows("test"))[:20]  # too short to be drawn
    many = copied(corpora, tmp_path / "short", [*c4_documents(), test_text])
    opened(tmp_path, calibration=many).prepare(["x_norm"])


@pytest.mark.parametrize("first", ["validation", "calibration"])
def test_the_search_text_is_compared_whichever_comes_first(
    tmp_path: Path, corpora: Path, first: str
) -> None:
    source = copied(corpora, tmp_path / "leak", ["\n\n".join(wikitext_rows("validation"))])
    evaluator = opened(tmp_path, calibration=source)
    if first == "validation":
        _ = evaluator._texts.validation
        with pytest.raises(TextError, match="overlap"):
            evaluator._blocks("calibration", 2, 0)
    else:
        evaluator._blocks("calibration", 2, 0)
        with pytest.raises(TextError, match="overlap"):
            _ = evaluator._texts.validation


def test_without_a_protocol_nothing_changes(tmp_path: Path) -> None:
    """Rows that were stored before protocols had names are still found."""
    options = tiny_options(tmp_path)
    with PruningEvaluator.from_options(
        options, cache=tmp_path / "cache", notice=lambda _: None
    ) as made:
        for word in ("protocol", "departures", "windows", "text_join", "special_tokens"):
            assert word not in made.report_protocol()
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


def test_an_anchor_of_sparsegpt_can_be_asked_for_under_ria() -> None:
    """It compares in a way of its own, and the protocol over a matrix: docs/protocols.md."""
    config = PruningConfig.from_options({"protocol": "ria", "group": "row"})
    check_asked(METHODS["sparsegpt"], config.condition, config.group)
    assert config.departures == {"group": "row"}
