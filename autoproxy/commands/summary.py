"""The summary of a run: what was asked, found, compared and saved, as plain values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoproxy.commands.loading import OpenEvaluator
from autoproxy.commands.memory import LedgerMemory
from autoproxy.commands.workspace import SUMMARY, Workspace
from autoproxy.errors import ConfigError
from autoproxy.evaluation import BLOCK, Individual, Measured, Objective, Outcome
from autoproxy.export.formula import to_infix
from autoproxy.export.manifest import read_json
from autoproxy.ledger.hall_of_fame import HallOfFame
from autoproxy.ledger.leaderboard import changes, entries_of
from autoproxy.ledger.records import ReportRow
from autoproxy.search.ladder import agreement
from autoproxy.search.state import SearchState
from autoproxy.sieve.rules import Cost
from autoproxy.sieve.sieve import RULES
from autoproxy.spaces import Baseline, SearchSpace

Found = tuple[SearchState, LedgerMemory]
Losses = Mapping[str, Sequence[float]]


def read_summary(workspace: Workspace, run: str) -> dict[str, Any]:
    """Return the summary of a run that is done.

    Raises:
        ConfigError: It is not done, or its summary cannot be read.
    """
    path = workspace.run_folder(run) / SUMMARY
    if not path.is_file():
        raise ConfigError(
            f"run {run!r} is not done, so it has no winner; go on: autoproxy resume {run}"
        )
    content = read_json(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path} cannot be read: it is no object of JSON")
    return content


def describe_search(state: SearchState, memory: LedgerMemory, best: Individual) -> dict[str, Any]:
    """Return what one search did and found."""
    return {
        "generations": state.generation,
        "proposals": state.slot,
        "spent": round(state.spent, 6),
        "measured_in_full": len(state.archive),
        "recalled": memory.recalled,
        "stopped": state.finished,
        "best": describe(best),
        "funnel": funnel(memory.funnel),
    }


def funnel(counts: Mapping[str, int]) -> dict[str, int]:
    """Return how many proposals each rule dropped, in the order of the sieve, and the rest."""
    fates = ("screened", "raced", "failed", "measured")
    names = ("proposed", *(rule.name for rule in RULES), *fates)
    return {name: counts.get(name, 0) for name in names}


def describe_ladder(state: SearchState, fidelities: Sequence[float]) -> list[dict[str, Any]]:
    """Return for each cheap rung how well it orders what was measured in full."""
    return [
        {
            "fidelity": round(fidelity, 6),
            "pairs": len(state.archive),
            "rank_correlation": agreement(state.archive, fidelity),
            "screens": state.rung == number,
        }
        for number, fidelity in enumerate(fidelities[:-1])
    ]


def evaluations_saved(counts: Mapping[str, int]) -> int:
    """Return the well-formed proposals that the sieve kept from being measured."""
    dear = [rule.name for rule in RULES if rule.cost >= Cost.ALGEBRA]
    return sum(counts[name] for name in dear)


def describe(individual: Individual) -> dict[str, Any]:
    """Return an individual as plain values."""
    return {
        "text": str(individual.expression),
        "formula": to_infix(individual.expression),
        "key": individual.key,
        "complexity": individual.complexity,
        "value": individual.value,
        "slot": individual.slot,
        "origin": individual.origin,
        "parents": list(individual.parents),
        "details": _details(individual.details),
    }


def _details(details: Mapping[str, float]) -> dict[str, float]:
    """Return what was measured on the way, less the single blocks."""
    return {name: value for name, value in details.items() if not name.startswith(BLOCK)}


def describe_baselines(
    baselines: Mapping[str, tuple[Baseline, Outcome]], objective: Objective
) -> list[dict[str, Any]]:
    """Return the hand-made metrics with their values on the search text, best first."""
    rows = []
    for name, (baseline, outcome) in baselines.items():
        row: dict[str, Any] = {"name": name, "text": baseline.text, "source": baseline.source}
        if isinstance(outcome, Measured):
            row |= {"value": outcome.value, "details": _details(outcome.details)}
        else:
            row |= {"value": None, "reason": outcome.reason}
        rows.append(row)
    measured = [row for row in rows if row["value"] is not None]
    failed = [row for row in rows if row["value"] is None]
    return [*sorted(measured, key=lambda row: objective.sign * row["value"]), *failed]


def describe_report(rows: Sequence[ReportRow]) -> list[dict[str, Any]]:
    """Return what each metric is worth on the report text, best first."""
    return [entry.to_json() for entry in entries_of(rows)]


@dataclass(frozen=True, slots=True)
class Reported:
    """What a report under one condition came to.

    Attributes:
        rows: Of what has a value.
        reasons: Why other metrics have none, by their names.
    """

    rows: Sequence[ReportRow]
    reasons: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What the stages of a run found, before it is put in words.

    Attributes:
        run: Name.
        space: Where it looked.
        evaluator: What measured.
        found: The search and its memory.
        hall: The best at each complexity.
        baselines: Hand-made metrics on the search text.
        companion: Random search and its memory, where it was asked for.
        winner: Best of the finalists.
        rival: Best of random search's finalists.
        finals: Losses of the finalists on fresh blocks, by key.
        reports: Measurements on the report text, under each condition.
        illustrations: What a picture of the winner's work shows, under each condition.
        comparisons: The winner against others in paired tests, where the evaluator makes any.
        seconds: Wall-clock time.
    """

    run: str
    space: SearchSpace
    evaluator: OpenEvaluator
    found: Found
    hall: HallOfFame
    baselines: Mapping[str, tuple[Baseline, Outcome]]
    companion: Found | None
    winner: Individual
    rival: Individual | None
    finals: Losses
    reports: Sequence[Reported]
    illustrations: Sequence[Mapping[str, Any] | None]
    comparisons: Mapping[str, Mapping[str, float]]
    seconds: float


def summarise(f: Findings) -> dict[str, Any]:
    """Return the summary of a run as plain JSON values."""
    searched = describe_search(*f.found, f.winner)
    objective = f.evaluator.objective
    return {
        "run": f.run,
        "space": f.space.name,
        "objective": {
            "name": objective.name,
            "unit": objective.unit,
            "direction": objective.direction.value,
        },
        "winner": describe(f.winner),
        "winner_losses": list(f.finals[f.winner.key]),
        "finalists": [
            {"key": key, "mean_loss": math.fsum(losses) / len(losses)}
            for key, losses in sorted(f.finals.items(), key=lambda item: math.fsum(item[1]))
            if math.isfinite(math.fsum(losses))
        ],
        "ladder": describe_ladder(f.found[0], f.evaluator.fidelities),
        "funnel": searched["funnel"],
        "evaluations_saved": evaluations_saved(searched["funnel"]),
        "search": searched,
        "random_search": (
            describe_search(*f.companion, f.rival) if f.companion and f.rival else None
        ),
        "front": [describe(individual) for individual in f.hall.front()],
        "baselines": describe_baselines(f.baselines, objective),
        "reports": [
            {
                "protocol": dict(condition.report_protocol()),
                "entries": describe_report(reported.rows),
                "reasons": dict(reported.reasons),
                "changes": changes(reported.rows, f.run),
                "illustration": illustration,
            }
            for condition, reported, illustration in zip(
                f.evaluator.conditions, f.reports, f.illustrations, strict=True
            )
        ],
        "comparisons": f.comparisons,
        "protocol": dict(f.evaluator.protocol()),
        "seconds": round(f.seconds, 3),
    }
