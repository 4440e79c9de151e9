"""Zero-shot tasks: kinds of accuracy that never mix, and the harness itself where it is."""

import importlib.util
import json
import math
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoproxy.errors import ConfigError
from autoproxy.language.parse import parse
from evaluators.config import PruningConfig
from evaluators.models import load_model
from evaluators.pruning import PruningEvaluator
from evaluators.tasks import Harness, TaskPlan, side_by_side, task_rows
from tests.evaluators.corpora import marking_tokenizer
from tests.evaluators.tiny import state, tiny_folder, tiny_options, write_texts

needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-evaluation-harness is an extra"
)

FOUND: dict[str, Any] = {
    "results": {
        "arc_easy": {
            "name": "arc_easy",
            "alias": "arc_easy",
            "sample_len": 4,
            "acc,none": 0.75,
            "acc_stderr,none": "N/A",
            "acc_norm,none": 0.5,
            "acc_norm_stderr,none": "N/A",
        },
        "boolq": {"alias": "boolq", "acc,none": 0.25, "acc_stderr,none": "N/A"},
        "group": {"alias": "group", "acc,none": 0.5},
    },
    "group_subtasks": {"group": ["arc_easy", "boolq"]},
    "versions": {"arc_easy": 1.0, "boolq": 2.0},
    "n-shot": {"arc_easy": 0, "boolq": 0},
    "n-samples": {
        "boolq": {"original": 8, "effective": 4},
        "arc_easy": {"original": 4, "effective": 4},
    },
}
"""What lm-evaluation-harness 0.4.13 returns, as far as it is read."""


def test_each_kind_of_accuracy_keeps_its_name() -> None:
    assert task_rows(FOUND) == [
        {
            "task": "arc_easy",
            "version": 1.0,
            "shots": 0,
            "documents": 4,
            "acc": 0.75,
            "acc_norm": 0.5,
        },
        {
            "task": "boolq",
            "version": 2.0,
            "shots": 0,
            "documents": 4,
            "acc": 0.25,
            "acc_norm": None,
        },
    ]


def test_a_mean_is_of_one_kind_that_every_task_has() -> None:
    rows = task_rows(FOUND)
    found = side_by_side(rows, rows)
    assert found["means"] == {"acc": {"dense": 0.5, "pruned": 0.5}, "acc_norm": None}
    found = side_by_side(rows[:1], rows[:1])
    assert found["means"]["acc_norm"] == {"dense": 0.5, "pruned": 0.5}


accuracies = st.none() | st.floats(0, 1)


@given(st.lists(st.tuples(accuracies, accuracies, accuracies, accuracies), min_size=1, max_size=6))
def test_means_are_never_of_two_kinds(values: list[tuple[float | None, ...]]) -> None:
    def rows(first: int) -> list[dict[str, Any]]:
        return [
            {
                "task": f"t{at}",
                "version": 1,
                "shots": 0,
                "documents": 9,
                "acc": row[first],
                "acc_norm": row[first + 1],
            }
            for at, row in enumerate(values)
        ]

    found = side_by_side(rows(0), rows(2))
    for kind, at in (("acc", 0), ("acc_norm", 1)):
        dense = [row[at] for row in values]
        pruned = [row[at + 2] for row in values]
        if None in dense or None in pruned:
            assert found["means"][kind] is None
        else:
            assert found["means"][kind]["dense"] == pytest.approx(sum(dense) / len(dense))  # type: ignore[arg-type]
            assert found["means"][kind]["pruned"] == pytest.approx(sum(pruned) / len(pruned))  # type: ignore[arg-type]
        assert [row["dense"][kind] for row in found["tasks"]] == dense
        assert [row["pruned"][kind] for row in found["tasks"]] == pruned


def test_rows_of_different_tasks_are_a_mistake() -> None:
    first, second = task_rows(FOUND)
    with pytest.raises(ValueError, match="rows of two tasks"):
        side_by_side([first], [second])
    with pytest.raises(ValueError, match="zip"):
        side_by_side([first], [first, second])


@pytest.mark.parametrize(
    "values",
    [
        {"word_perplexity,none": 9.0},
        {"acc,strict": 0.5},
        {"acc,none": "N/A"},
        {"acc,none": math.nan},
        {},
    ],
)
def test_a_task_without_accuracy_is_refused(values: dict[str, Any]) -> None:
    found = {**FOUND, "results": {**FOUND["results"], "boolq": values}}
    with pytest.raises(ConfigError, match=r"task 'boolq' has no accuracy \(it has .*acc or acc_n"):
        task_rows(found)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"names": ()}, "no task is named"),
        ({"names": ("a", "")}, "no task is named"),
        ({"names": ("a", "b", "a")}, "task 'a' is named twice"),
        ({"names": ("a",), "limit": 0}, "limit of tasks must be at least 1, got 0"),
        ({"names": ("a",), "shots": -1}, "shots must be at least 0, got -1"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(plan: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TaskPlan(**plan)


def test_without_the_harness_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ConfigError, match=r"not installed.*pip install 'autoproxy\[tasks\]'"):
        Harness(TaskPlan(names=("boolq",)))


# --- the harness itself, where it is installed ---------------------------------------------------

TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - metric: acc
  - metric: acc_norm
metadata:
  version: 3.0
"""
DOCUMENTS = [
    ("The first of them", ["is", "was not at all what had been asked"], 0),
    ("A list", ["xx yy", "of words", "z"], 1),
    ("Nobody", ["came", "knows"], 1),
    ("It rains", ["in the morning and in the evening", "now"], 0),
    ("One more", ["q", "and another one"], 1),
    ("Shorter", ["a", "is longer than the right answer"], 0),
    ("Again", ["no", "what is long is unlikely"], 0),
    *(
        (f"Number {at}", [f"{chr(97 + at)}", f"{chr(122 - at) * at} and more"], 0)
        for at in range(8)
    ),
]


def local_task(folder: Path) -> Path:
    data = folder / "documents.jsonl"
    rows = [{"question": q, "choices": c, "answer": a} for q, c, a in DOCUMENTS]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    path = folder / "local_choice.yaml"
    path.write_text(TASK.format(name="local_choice", data=data), encoding="utf-8")
    return path


@torch.no_grad()
def likelihoods(model: Any, tokenizer: Any, question: str, choices: list[str]) -> list[float]:
    """Return log-likelihoods of the choices after the question, token by token."""
    start = tokenizer(question).input_ids
    found = []
    for choice in choices:
        rest = tokenizer(f"{question} {choice}").input_ids[len(start) :]
        logits = model(torch.tensor([start + rest])).logits[0].double().log_softmax(-1)
        found.append(sum(float(logits[len(start) - 1 + at, t]) for at, t in enumerate(rest)))
    return found


def tiny_with_start(folder: Path) -> Path:
    """Write the tiny model with a tokenizer that has a start token, which the harness needs."""
    made = tiny_folder(folder)
    marking_tokenizer().save_pretrained(made)
    return made


@needs_harness
@pytest.mark.filterwarnings("default")
def test_a_tokenizer_without_a_start_is_told(tmp_path: Path) -> None:
    loaded = load_model(str(tiny_folder(tmp_path / "tiny")), device="cpu", dtype="float32")
    with pytest.raises(ConfigError, match="tokenizer of tiny names no token for the start"):
        Harness(TaskPlan(names=(str(local_task(tmp_path)),))).accuracies(loaded)


@needs_harness
@pytest.mark.filterwarnings("default")
def test_accuracies_are_those_of_likelihoods_written_out(tmp_path: Path) -> None:
    path = local_task(tmp_path)
    loaded = load_model(str(tiny_with_start(tmp_path / "tiny")), device="cpu", dtype="float32")
    python, numbers, tensors = random.getstate(), np.random.get_state()[1], torch.get_rng_state()  # noqa: NPY002
    before = state(loaded.model)
    (row,) = Harness(TaskPlan(names=(str(path),))).accuracies(loaded)
    right = {"acc": 0, "acc_norm": 0}
    for question, choices, answer in DOCUMENTS:
        values = likelihoods(loaded.model, loaded.tokenizer, question, choices)
        lengths = [len(choice) for choice in choices]
        right["acc"] += int(np.argmax(values)) == answer
        right["acc_norm"] += int(np.argmax(np.array(values) / lengths)) == answer
    assert right["acc"] != right["acc_norm"]  # the oracle tells them apart
    assert row == {
        "task": "local_choice",
        "version": 3.0,
        "shots": 0,
        "documents": len(DOCUMENTS),
        "acc": right["acc"] / len(DOCUMENTS),
        "acc_norm": right["acc_norm"] / len(DOCUMENTS),
    }
    assert state(loaded.model) == before
    assert loaded.tokenizer.pad_token is None
    assert random.getstate() == python
    assert np.array_equal(np.random.get_state()[1], numbers)  # type: ignore[arg-type]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), tensors)


@needs_harness
@pytest.mark.filterwarnings("default")
def test_dense_and_pruned_are_told_apart(tmp_path: Path) -> None:
    path = local_task(tmp_path)
    harness = PruningEvaluator.open_tasks([str(path)], limit=3, shots=None)
    tiny_with_start(tmp_path / "tiny")
    write_texts(tmp_path / "texts")
    config = PruningConfig.from_options(tiny_options(tmp_path, sparsity=0.9))
    with PruningEvaluator(config, cache=tmp_path / "cache", notice=lambda _: None) as evaluator:
        found = evaluator.score_tasks(parse("abs(W)"), harness)
        assert found["tasks"][0]["documents"] == 3
        assert found["protocol"]["limit"] == 3
        assert found["protocol"]["harness_version"]
        dense = harness.accuracies(evaluator.loaded)
        assert found["tasks"][0]["dense"] == {k: dense[0][k] for k in ("acc", "acc_norm")}


@needs_harness
@pytest.mark.filterwarnings("default")
def test_a_task_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no task file .*gone\.yaml"):
        Harness(TaskPlan(names=(str(tmp_path / "gone.yaml"),)))
    path = local_task(tmp_path)
    (tmp_path / "documents.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"cannot be read: .*data files"):
        Harness(TaskPlan(names=(str(path),)))
