"""The shipped models: they load, they have learnt, their cards are true; training resumes."""

import hashlib
import math
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from autoproxy.errors import ModelError, TextError
from evaluators import starter
from evaluators.starter import starter_folder
from evaluators.text import topics
from evaluators.train_starter import (
    Corpus,
    Plan,
    batch,
    build_model,
    encode,
    finish,
    held_out,
    learning_rate,
    perplexity,
    read_corpus,
    train,
    train_tokenizer,
)

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "text"
FAMILIES = ("llama", "gpt2")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def load(family: str):
    folder = starter_folder(family)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


# --- the folder ------------------------------------------------------------------------------


def test_every_name_leads_to_a_folder_with_a_model() -> None:
    assert starter_folder() == starter_folder("llama") == starter_folder("starter")
    assert starter_folder("gpt2") == starter_folder("starter-gpt2") != starter_folder()
    for name in starter.STARTERS:
        files = {path.name for path in starter_folder(name).iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= files


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ModelError, match="'starter-gtp2'; did you mean 'starter-gpt2'"):
        starter_folder("starter-gtp2")


def test_an_installation_without_the_models_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(starter.resources, "files", lambda package: tmp_path)
    with pytest.raises(ModelError, match=r"has no config\.json.*train_starter"):
        starter_folder()


def test_both_ship_small_with_one_tokenizer_and_no_machine_path() -> None:
    folders = [starter_folder(family) for family in FAMILIES]
    for folder in folders:
        assert (folder / "model.safetensors").stat().st_size <= 8_000_000
        for path in folder.glob("*.json"):
            assert "/work/" not in path.read_text(encoding="utf-8"), path
    digests = {
        hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest() for folder in folders
    }
    assert len(digests) == 1


# --- what they know --------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_starter_beats_the_unigram_baseline_many_times(family: str) -> None:
    model, tokenizer = load(family)
    ids = encode(tokenizer, [topics("test").content])[:6144]

    # The baseline knows the test text's own token counts, which is more than it deserves.
    counts = Counter(ids.tolist())
    unigram = math.exp(-sum(n * math.log(n / len(ids)) for n in counts.values()) / len(ids))

    assert perplexity(model, ids, 256) < unigram / 3


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokenizer_loses_nothing(family: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(starter_folder(family))
    written = "  Naïve “quotes”,\n\ttabs and 漢字 — all of it."
    ids = tokenizer.encode(written, add_special_tokens=False)
    assert tokenizer.decode(ids) == written
    assert len(tokenizer) == 2048


def figures(family: str) -> dict[str, float]:
    card = (starter_folder(family) / "README.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (.+?) \| \d+ \| ([\d.]+) \|$", card, flags=re.MULTILINE)
    return {name: float(value) for name, value in table}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_card_is_true_on_the_topics(family: str) -> None:
    model, tokenizer = load(family)
    ids = encode(tokenizer, [topics("validation").content])
    assert perplexity(model, ids, 512) == pytest.approx(
        figures(family)["topics:validation"], rel=0.02
    )


@pytest.mark.skipif(not SHARED.is_dir(), reason="no training text beside the repository")
def test_the_card_is_true_on_held_out_books_and_speeches() -> None:
    model, tokenizer = load("llama")
    corpus = read_corpus([SHARED / "sotu", SHARED / "austen"])
    ids = encode(tokenizer, held_out(corpus)["held-out books and speeches"])
    assert perplexity(model, ids, 512) == pytest.approx(
        figures("llama")["held-out books and speeches"], rel=0.02
    )


# --- the training script ---------------------------------------------------------------------

TINY = {"rows": 2, "length": 16, "width": 24, "layers": 1, "heads": 3, "vocabulary": 300}


def tiny(family: str, steps: int = 6) -> Plan:
    return Plan(family=family, steps=steps, checkpoint_every=100, **TINY)


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("books")
    sentences = [f"Speech {at} speaks of {at % 7} things. " for at in range(30_000)]
    (folder / "1800.txt").write_text("".join(sentences), encoding="utf-8")
    (folder / "2000.txt").write_text("kept for validation", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def corpus(books: Path) -> Corpus:
    whole = read_corpus([books])
    return Corpus(whole.train[:3], whole.held_out[:1], "topics are short here " * 40)


@pytest.fixture(scope="module")
def tokens(corpus: Corpus) -> Tensor:
    return encode(train_tokenizer(corpus, tiny("llama")), corpus.train)


def test_the_corpus_sets_one_passage_in_fifty_apart(books: Path) -> None:
    whole = read_corpus([books])
    passages = [*whole.train, *whole.held_out]
    text = (books / "1800.txt").read_text(encoding="utf-8")
    assert sorted("".join(passages)) == sorted(text)
    assert "kept for validation" not in "".join(passages)
    assert 0 < len(whole.held_out) < len(passages) / 10
    assert whole.topics == topics("train").content


def test_a_folder_without_training_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"no training text here; expected.*emma\.txt"):
        read_corpus([tmp_path])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_killed_run_ends_with_the_same_weights(
    family: str, tokens: Tensor, tmp_path: Path
) -> None:
    straight = train(tiny(family), tokens, tmp_path / "straight")
    train(tiny(family), tokens, tmp_path / "killed", until=3)
    torch.manual_seed(99)  # whatever happens in between must not matter
    resumed = train(tiny(family), tokens, tmp_path / "killed")

    untrained = build_model(tiny(family)).state_dict()
    for name, weight in straight.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    assert any(
        not torch.equal(untrained[name], weight) for name, weight in straight.state_dict().items()
    )


def test_a_kill_during_a_save_costs_only_the_steps_since_the_last(
    tokens: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny("llama"), tokens, tmp_path, until=3)

    def killed(state: object, path: Path) -> None:
        path.write_bytes(b"half a checkpoint")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tiny("llama"), tokens, tmp_path, until=5)
    resumed = train(tiny("llama"), tokens, tmp_path).state_dict()
    straight = train(tiny("llama"), tokens, tmp_path / "straight").state_dict()
    assert all(torch.equal(weight, resumed[name]) for name, weight in straight.items())


def test_a_checkpoint_of_another_plan_is_refused(tokens: Tensor, tmp_path: Path) -> None:
    train(tiny("llama"), tokens, tmp_path, until=2)
    with pytest.raises(ModelError, match=r"is of another plan.*--work"):
        train(tiny("llama", steps=7), tokens, tmp_path)


def test_the_seed_owns_weights_and_batches(tokens: Tensor) -> None:
    plan, other = tiny("llama"), Plan(family="llama", steps=6, seed=1, **TINY)
    assert torch.equal(batch(tokens, plan, 4), batch(tokens, plan, 4))
    assert not torch.equal(batch(tokens, plan, 4), batch(tokens, plan, 8))
    assert not torch.equal(batch(tokens, plan, 4), batch(tokens, other, 4))
    assert batch(tokens, plan, 4).shape == (2, 16)
    assert batch(tokens, plan, 5).shape == (4, 8)
    name = "model.layers.0.mlp.up_proj.weight"
    weights = [build_model(each).state_dict()[name] for each in (plan, plan, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_rate_rises_stays_and_falls_to_a_twentieth() -> None:
    plan = Plan(family="llama", steps=1000, peak=1.0)
    rates = [learning_rate(plan, step) for step in range(1000)]
    assert rates[:100] == sorted(rates[:100])
    assert set(rates[99:700]) == {1.0}
    assert rates[700:] == sorted(rates[700:], reverse=True)
    assert rates[-1] == pytest.approx(0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_loads_and_its_card_says_how_to_repeat_it(
    family: str, corpus: Corpus, tokens: Tensor, tmp_path: Path
) -> None:
    plan = tiny(family)
    finish(plan, corpus, train(plan, tokens, tmp_path / "work"), tmp_path / "out")

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    value = perplexity(model, encode(tokenizer, [topics("validation").content]), plan.length)

    assert f"| {value:.3f} |" in card
    command = " ".join(card.split("```")[1].replace("\\\n", " ").split())
    assert f"train_starter {family} --layers 1 --width 24 --peak 0.002" in command
    for fact in ("license: apache-2.0", "| seed | 0 |", "| tokens seen | 192 |", "| commit | "):
        assert fact in card


def test_an_unknown_family_gets_the_nearest() -> None:
    with pytest.raises(ModelError, match="unknown starter family 'lama'; did you mean 'llama'"):
        Plan(family="lama", steps=1)
