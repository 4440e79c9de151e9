"""The rows of the ledger as values."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoproxy.columns import columns_of
from autoproxy.evaluation import Outcome


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one candidate was worth under one protocol.

    Attributes:
        key: Content hash of the canonical form.
        protocol: Content hash of the protocol.
        fidelity: Share of full cost.
        text: Canonical form.
        identity: Hash of all that the objective sees (for pruning: all masks), where known.
        outcome: Measured or failed.
    """

    key: str
    protocol: str
    fidelity: float
    text: str
    identity: str | None
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Event:
    """What became of one proposal of one run.

    Attributes:
        run: Name of the run.
        slot: Position in the run's order of proposals.
        key: Content hash of the canonical form; empty for what was dropped.
        text: Canonical form of what was kept, else the proposal.
        origin: `random` or `seed`; of one parent `subtree`, `point`, `wrap`, `shrink`, `constant`,
            `tuned` or `fitted`; of two `crossover` or `blend`.
        parents: Keys of its parents.
        fate: `measured`, `screened`, `raced`, `failed` or `dropped`.
        rule: The rule that dropped it.
        reason: Why it was dropped or failed.
        fidelity: Of the dearest measurement.
        value: Of the dearest measurement.
        complexity: Sum of the costs of its primitives.
        generation: Of the run.
        same_as: Slot of the proposal that it repeats, where it was dropped for that.
    """

    run: str
    slot: int
    key: str
    text: str
    origin: str
    parents: tuple[str, ...]
    fate: str
    rule: str | None
    reason: str | None
    fidelity: float | None
    value: float | None
    complexity: int
    generation: int
    same_as: int | None = None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run: what was asked, where it was done, how it stands.

    Attributes:
        run: Name.
        seed: Root of its randomness.
        space: Name of its search space.
        evaluator: Name of its evaluator.
        config: All that was asked.
        protocol: All that determines a value.
        manifest: Versions, commit, machine.
        status: `running`, `interrupted` or `done`.
        seconds: Wall-clock time so far.
        summary: What came of it, once done.
    """

    run: str
    seed: int
    space: str
    evaluator: str
    config: Mapping[str, Any]
    protocol: Mapping[str, Any]
    manifest: Mapping[str, Any]
    status: str
    seconds: float
    summary: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One metric on what no search saw, calibrated with one seed.

    Attributes:
        run: Run that discovered it; None for hand-made metrics and the dense model.
        role: `discovered`, `baseline`, `random-search`, `evaluated` or `dense`.
        name: Under which it is listed.
        text: Canonical form; empty for the dense model.
        key: Content hash of the canonical form; empty for the dense model.
        complexity: Sum of the costs of its primitives.
        seed: Of the calibration draw.
        values: By the names of the protocol's columns. The first column is always there; others
            may be missing, where they are undefined.
        protocol: All that determines the values but the seed, and what they mean.
    """

    run: str | None
    role: str
    name: str
    text: str
    key: str
    complexity: int
    seed: int
    values: Mapping[str, float]
    protocol: Mapping[str, Any]

    def __post_init__(self) -> None:
        what = self.text or self.name
        columns = columns_of(self.protocol)
        known = {name for column in columns for name in column.names}
        if columns[0].name not in self.values or not known.issuperset(self.values):
            names = ", ".join(column.name for column in columns)
            raise ValueError(
                f"a report has the columns {names}, of which the first is always there; got "
                f"{', '.join(self.values) or 'none'} for {what}"
            )
        if any(math.isnan(value) for value in self.values.values()):
            raise ValueError(f"a reported value is a number, got NaN for {what}")
