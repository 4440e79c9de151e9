"""What runs in a worker: the real evaluator, opened once, with the values of this process."""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from autoproxy.commands import loading, worker
from autoproxy.commands.worker import Job, measure
from autoproxy.errors import ConfigError, WorkerError
from autoproxy.evaluation import Failed, Measured, Outcome
from autoproxy.search.desk import CrewDesk
from autoproxy.search.tasks import Task, climb
from autoproxy.workers import open_workers
from tests.conformance.toy import ToyEvaluator
from tests.evaluators.tiny import tiny_options

TEXTS = (
    "abs(W)",
    "abs(W) * x_norm",
    "square(W) * g_abs",
    "minmax(abs(W)) + zscore(x_norm)",
    "x_norm",
)
BROKEN = "square(" * 12 + "W * 1000" + ")" * 12


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    worker._BENCH.leave()


def plain(outcomes: list[Outcome]) -> list[tuple[object, ...]]:
    """Outcomes to the last bit, without the time they took."""
    return [
        (o.value.hex(), o.fidelity, {name: v.hex() for name, v in o.details.items()})
        if isinstance(o, Measured)
        else (o.reason,)
        for o in outcomes
    ]


def test_two_processes_give_the_very_values_of_this_one(tmp_path: Path) -> None:
    options = tiny_options(tmp_path)
    cache = tmp_path / "cache"
    with loading.evaluator("pruning", options, cache=cache, notice=lambda _: None) as evaluator:
        names = {"W", "g_abs", "x_norm"}
        evaluator.prepare(names)
        rungs = tuple(evaluator.fidelities)
        tasks = [Task(text, rungs) for text in (*TEXTS, BROKEN)]
        expected = [list(climb(evaluator, task)) for task in tasks]
        job = Job.of("pruning", options, cache=cache, terminals=names, opened=evaluator)
        objective = evaluator.objective
    assert isinstance(expected[-1][0], Failed)
    assert len({o.value for e in expected for o in e[-1:] if isinstance(o, Measured)}) > 3
    with open_workers("loky", jobs=2) as workers:
        desk = CrewDesk(
            functools.partial(workers.submit, functools.partial(measure, job)), objective
        )
        kept: list[list[Outcome]] = [[] for _ in tasks]
        works = [
            desk.begin(task, lambda _: None, lambda _, outcome, k=k: k.append(outcome))
            for task, k in zip(tasks, kept, strict=True)
        ]
        assert [plain(list(work.outcomes())) for work in works] == [plain(e) for e in expected]
        assert [plain(k) for k in kept] == [plain(e) for e in expected]
        wrong = Job(
            job.evaluator, job.options, job.cache, job.terminals, {**job.protocol, "torch": "1.0"}
        )
        with pytest.raises(WorkerError, match=r"torch is '2\..*', not '1.0'"):
            workers.submit(functools.partial(measure, wrong), tasks[0]).result(timeout=60)


class Noted(ToyEvaluator):
    """Notes when it is made, prepared and left."""

    notes: list[str] = []  # noqa: RUF012 - shared by all on purpose

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, cache: Path, notice: object) -> "Noted":
        if "missing" in options:
            raise ConfigError("there is no text missing.txt")
        cls.notes.append(f"made {options['seed']}")
        return cls(seed=options["seed"])

    def prepare(self, names: object) -> None:
        self.notes.append(f"prepared {self._seed} with {names}")

    def __exit__(self, *_: object) -> None:
        self.notes.append(f"left {self._seed}")


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(loading.plugins, "load", lambda kind, name: Noted)
    monkeypatch.setattr(Noted, "notes", [])
    return Noted.notes


def job(tmp_path: Path, seed: int, **options: object) -> Job:
    options = {"seed": seed, **options}
    return Job.of("noted", options, cache=tmp_path, terminals=["W"], opened=Noted(seed=seed))


def test_an_evaluator_stays_open_until_another_is_asked_for(
    tmp_path: Path, noted: list[str]
) -> None:
    task = Task("abs(W)", (0.25, 1.0))
    first = measure(job(tmp_path, 1), task)
    assert plain(measure(job(tmp_path, 1), task)) == plain(first)
    assert noted == ["made 1", "prepared 1 with ('W',)"]
    assert plain(measure(job(tmp_path, 2), task)) != plain(first)
    assert noted[2:] == ["left 1", "made 2", "prepared 2 with ('W',)"]
    assert plain(measure(job(tmp_path, 1), task)) == plain(first)
    assert noted[5:7] == ["left 2", "made 1"]


def test_another_protocol_is_refused_before_anything_is_measured(
    tmp_path: Path, noted: list[str]
) -> None:
    here = job(tmp_path, 1)
    other = Job(
        here.evaluator, here.options, here.cache, here.terminals, {**here.protocol, "seed": 2}
    )
    with pytest.raises(WorkerError, match=r"would not compare .*: seed is 1, not 2;"):
        measure(other, Task("abs(W)", (1.0,)))
    assert noted == ["made 1", "left 1"]
    with pytest.raises(WorkerError, match="would not compare"):
        measure(other, Task("abs(W)", (1.0,)))
    assert len(measure(here, Task("abs(W)", (1.0,)))) == 1


def test_what_a_worker_lacks_is_said_with_its_name(tmp_path: Path, noted: list[str]) -> None:
    with pytest.raises(WorkerError, match=r"worker on .* cannot measure: there is no text missing"):
        measure(job(tmp_path, 1, missing=True), Task("abs(W)", (1.0,)))
