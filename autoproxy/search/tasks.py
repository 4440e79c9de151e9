"""What is asked of whoever measures: one candidate, up the ladder until it is beaten."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from autoproxy.evaluation import Evaluator, Failed, Objective, Outcome
from autoproxy.language.parse import parse
from autoproxy.search import ladder

Recall = Callable[[float], Outcome | None]
"""What is known of a candidate at a fidelity."""

Keep = Callable[[float, Outcome], None]
"""Stores the outcome of a candidate at a fidelity."""


@dataclass(frozen=True, slots=True)
class Task:
    """One candidate to be measured; plain values, so that it can travel to another process.

    Attributes:
        text: Its canonical form.
        fidelities: At which it is measured, ascending.
        rival: Values of the individual that it races against, block by block; empty for none.
    """

    text: str
    fidelities: tuple[float, ...]
    rival: tuple[float, ...] = ()


def climb(
    evaluator: Evaluator,
    task: Task,
    recall: Recall = lambda _: None,
    keep: Keep = lambda *_: None,
) -> Iterator[Outcome]:
    """Yield the outcome at one fidelity after another, until one fails or shows it beaten.

    Args:
        evaluator: Measures, step by step, what is not known.
        task: What is asked.
        recall: Asked first at each fidelity.
        keep: Told of each outcome that was measured, before it is yielded.
    """
    expression = parse(task.text)
    for fidelity in task.fidelities:
        outcome = recall(fidelity)
        if outcome is None:
            (outcome,) = evaluator.measure([expression], fidelity)
            keep(fidelity, outcome)
        yield outcome
        if is_over(outcome, task, evaluator.objective):
            return


def is_over(outcome: Outcome, task: Task, objective: Objective) -> bool:
    """Return whether a candidate goes no further after an outcome: it failed, or is beaten."""
    if isinstance(outcome, Failed):
        return True
    return ladder.beaten(outcome.blocks, task.rival, objective.sign)
