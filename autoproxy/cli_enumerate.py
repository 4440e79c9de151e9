"""The command `autoproxy enumerate`: every formula of a space up to a size.

Nothing heavy is imported before it runs, as in `autoproxy.cli`.
"""

from pathlib import Path
from typing import Annotated

import typer

from autoproxy.cli_common import (
    Allocation,
    Benchmark,
    BenchmarkTable,
    CacheLimit,
    Calibration,
    CalibrationBlocks,
    CalibrationJoin,
    ConfirmBlocks,
    Control,
    Declared,
    Device,
    Draw,
    Dtype,
    Group,
    Jobs,
    Json,
    LedgerPlace,
    Length,
    Limit,
    Mode,
    Model,
    Pattern,
    Protocol,
    ReportText,
    Results,
    Rows,
    Sequences,
    Sparsity,
    SpecialTokens,
    TextBlocks,
    TextJoin,
    Tokens,
    Unit,
    Validation,
    ValidationBlocks,
    Windows,
    interruptible,
    of_evaluator,
    present,
    seed_option,
)


def enumerate_(
    space: Annotated[str, typer.Option(help="Search space; see `list`.")],
    size: Annotated[int, typer.Option(help="Most nodes of a formula, numbers included.")],
    evaluator: Annotated[
        str | None, typer.Option(help="Evaluator; default: the space's own, or pruning.")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(help="Run, hand-made metric, JSON file or expression to place; repeatable."),
    ] = None,
    audit: Annotated[
        int, typer.Option(help="Merged formulas to check of each way to be merged; 0 for none.")
    ] = 300,
    full: Annotated[
        int | None,
        typer.Option(help="Measure at most so many in full, the best by the cheapest rung."),
    ] = None,
    seed: Annotated[int, seed_option("Of the evaluator's draws and of the audit.")] = 0,
    model: Model = None,
    calibration: Calibration = None,
    validation: Validation = None,
    text: ReportText = None,
    sparsity: Sparsity = None,
    pattern: Pattern = None,
    group: Group = None,
    allocation: Allocation = None,
    mode: Mode = None,
    condition: Annotated[
        list[str] | None, typer.Option(help="Two or more to measure under; see `search`.")
    ] = None,
    unit: Unit = None,
    device: Device = None,
    dtype: Dtype = None,
    length: Length = None,
    calibration_blocks: CalibrationBlocks = None,
    validation_blocks: ValidationBlocks = None,
    confirm_blocks: ConfirmBlocks = None,
    text_blocks: TextBlocks = None,
    cache_limit: CacheLimit = None,
    protocol: Protocol = None,
    windows: Windows = None,
    calibration_join: CalibrationJoin = None,
    text_join: TextJoin = None,
    special_tokens: SpecialTokens = None,
    benchmark: Benchmark = None,
    table: BenchmarkTable = None,
    declared: Declared = None,
    objective: Annotated[
        str | None,
        typer.Option(help="tau: over all networks; within: among those of equal size."),
    ] = None,
    labels: Annotated[
        int | None, typer.Option(help="Qualities that formulas are judged by.")
    ] = None,
    limit: Limit = None,
    sequences: Sequences = None,
    tokens: Tokens = None,
    rows: Rows = None,
    draw: Draw = None,
    control: Control = None,
    jobs: Jobs = None,
    results: Results = Path("results"),
    ledger: LedgerPlace = None,
    as_json: Json = False,
) -> None:
    """Measure every formula of a space up to a size, each once, and certify the best."""
    from autoproxy import console, live
    from autoproxy.commands.enumerating import EnumerateOrder, enumerate_space
    from autoproxy.commands.workspace import Workspace

    order = EnumerateOrder(
        space=space,
        size=size,
        evaluator=evaluator or ("several" if condition else None),
        options=of_evaluator(locals()),
        against=tuple(against or ()),
        audit=audit,
        full=full,
        seed=seed,
    )
    told = "stopped; what is measured is kept, and the same command goes on"
    with interruptible(told), live.progress(quiet=as_json) as show:
        found = enumerate_space(Workspace(results, ledger), order, show)
    present(found, as_json, console.certificate)
