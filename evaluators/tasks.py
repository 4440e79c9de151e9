"""Zero-shot tasks by lm-evaluation-harness, which is an optional extra.

`acc` and `acc_norm` are two quantities: the same answers, rated by likelihood and by likelihood a
character. Published tables have compared one with the other. Here each has its own name, its own
column and its own mean, and a mean is given only where every task has that quantity.
"""

import contextlib
import copy
import difflib
import importlib
import logging
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoproxy.errors import ConfigError
from evaluators.models import LoadedModel

KINDS = ("acc", "acc_norm")
"""Likeliest answer; likeliest answer by likelihood a character."""

INSTALL = "pip install 'autoproxy[tasks]'"
_CHOSEN_SEED = 1234
"""Of the examples that are shown before a question; the harness's own choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPlan:
    """Which tasks, and how much of them.

    Attributes:
        names: Of tasks or groups of the harness, or .yaml files that define a task.
        limit: Documents of each task, from its first; None for all.
        shots: Examples before each question; None for what each task says.
    """

    names: tuple[str, ...]
    limit: int | None = None
    shots: int | None = None

    def __post_init__(self) -> None:
        if not self.names or not all(self.names):
            raise ConfigError("no task is named; write --tasks NAME or --tasks NAME,NAME")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise ConfigError(f"task {twice[0]!r} is named twice; name each once")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"the limit of tasks must be at least 1, got {self.limit}")
        if self.shots is not None and self.shots < 0:
            raise ConfigError(f"shots must be at least 0, got {self.shots}")


class Harness:
    """lm-evaluation-harness with the tasks of a plan, found and read before a model is loaded.

    Args:
        plan: Which tasks.

    Raises:
        ConfigError: The harness is not installed, there is no such task, or it cannot be read.
    """

    def __init__(self, plan: TaskPlan) -> None:
        self._plan = plan
        self._lm_eval = _import_harness()
        with _hushed(), _generators_given_back():
            self._manager = _manager(plan.names)
            _check_names(plan.names, self._manager.all_tasks)
            try:
                self._manager.load(list(plan.names))
            except Exception as error:
                raise ConfigError(
                    f"the tasks {', '.join(plan.names)} cannot be read: {type(error).__name__}: "
                    f"{str(error).splitlines()[0] if str(error) else ''}; check the network, or "
                    "the data files that a .yaml file names"
                ) from error

    def accuracies(self, loaded: LoadedModel) -> list[dict[str, Any]]:
        """Return what a model reaches, one row a task; see `task_rows`.

        Global random generators are lent to the harness and given back as they were.

        Raises:
            ConfigError: The tokenizer has no token that a text can begin with, or a task has no
                accuracy.
        """
        if loaded.tokenizer.bos_token is None and loaded.tokenizer.eos_token is None:
            raise ConfigError(
                f"the tokenizer of {loaded.name} names no token for the start or the end of a "
                "text, which tasks need; set bos_token or eos_token in its tokenizer_config.json"
            )
        huggingface = importlib.import_module("lm_eval.models.huggingface")
        with _hushed(), _generators_given_back():
            model = huggingface.HFLM(
                pretrained=loaded.model,
                tokenizer=copy.deepcopy(loaded.tokenizer),  # it is given a padding token
                batch_size=1,  # padding moves the last digits
            )
            found = self._lm_eval.simple_evaluate(
                model=model,
                tasks=list(self._plan.names),
                task_manager=self._manager,
                limit=self._plan.limit,
                num_fewshot=self._plan.shots,
                bootstrap_iters=0,
                log_samples=False,
                fewshot_random_seed=_CHOSEN_SEED,
            )
        return task_rows(found)

    def protocol(self) -> dict[str, Any]:
        """Return what determines accuracies besides the model and the tasks' versions."""
        return {
            "harness": "lm-evaluation-harness",
            "harness_version": self._lm_eval.__version__,
            "limit": self._plan.limit,
            "shots": self._plan.shots,
            "shots_seed": _CHOSEN_SEED,
            "batch": 1,
        }


def task_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the harness found, one row a task, groups left out.

    Args:
        found: As `lm_eval.simple_evaluate` returns it.

    Returns:
        `task`, `version`, `shots`, `documents`, and `acc` and `acc_norm`, each in [0, 1] or None
        where the task has none.

    Raises:
        ConfigError: A task has neither.
    """
    rows = []
    for task in sorted(found["n-samples"]):
        values = found["results"][task]
        accuracies = {kind: values.get(f"{kind},none") for kind in KINDS}
        if not any(_is_number(value) for value in accuracies.values()):
            given = sorted({key.partition(",")[0] for key in values if "," in key})
            raise ConfigError(
                f"task {task!r} has no accuracy (it has {', '.join(given) or 'nothing'}); "
                f"name tasks that have acc or acc_norm"
            )
        rows.append(
            {
                "task": task,
                "version": found["versions"].get(task),
                "shots": found["n-shot"].get(task),
                "documents": found["n-samples"][task]["effective"],
                **{
                    kind: value if _is_number(value) else None for kind, value in accuracies.items()
                },
            }
        )
    return rows


def side_by_side(
    dense: Sequence[Mapping[str, Any]], pruned: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return rows of two models side by side, and means of each kind of accuracy.

    Args:
        dense: Rows of the model as it is.
        pruned: Rows of the pruned model, of the same tasks in the same order.

    Returns:
        `tasks`: rows with `dense` and `pruned`, each with `acc` and `acc_norm`; `means`: of each
        kind, `dense` and `pruned`, or None where a task lacks that kind.

    >>> row = {"task": "t", "version": 1, "shots": 0, "documents": 4, "acc": 0.5, "acc_norm": None}
    >>> side_by_side([row], [{**row, "acc": 0.25}])["means"]
    {'acc': {'dense': 0.5, 'pruned': 0.25}, 'acc_norm': None}
    """
    rows = []
    for before, after in zip(dense, pruned, strict=True):
        facts = {name: value for name, value in before.items() if name not in KINDS}
        if facts != {name: value for name, value in after.items() if name not in KINDS}:
            raise ValueError(f"rows of two tasks: {before} and {after}")
        sides = {"dense": before, "pruned": after}
        rows.append({**facts, **{side: {k: row[k] for k in KINDS} for side, row in sides.items()}})
    return {
        "tasks": rows,
        "means": {
            kind: {"dense": _mean(dense, kind), "pruned": _mean(pruned, kind)}
            if all(row[kind] is not None for row in (*dense, *pruned))
            else None
            for kind in KINDS
        },
    }


def _mean(rows: Sequence[Mapping[str, Any]], kind: str) -> float:
    return math.fsum(row[kind] for row in rows) / len(rows)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _import_harness() -> Any:
    try:
        return importlib.import_module("lm_eval")
    except ImportError as error:
        raise ConfigError(
            "tasks are run by lm-evaluation-harness, which is not installed or lacks a part "
            f"({error}); install it: {INSTALL}"
        ) from None


def _manager(names: Sequence[str]) -> Any:
    """Return the harness's index of tasks; its own are read only where one of them is named."""
    tasks = importlib.import_module("lm_eval.tasks")
    return tasks.TaskManager(include_defaults=not all(_is_file(name) for name in names))


def _check_names(names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if _is_file(name) and not Path(name).is_file():
            raise ConfigError(f"there is no task file {name}; give an existing .yaml file")
        if not _is_file(name) and name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {', '.join(near)}? " if near else ""
            raise ConfigError(
                f"unknown task {name!r}; {hint}lm-evaluation-harness lists its {len(known):,} "
                "tasks with: lm-eval ls tasks"
            )


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Let the harness speak of errors alone; what it found is told by us."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def _generators_given_back() -> Iterator[None]:
    """Give the global random generators back as they were: the harness seeds all of them."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - what it seeds
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
