"""The command line: parse, call, print. The only place that prints.

Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from autoproxy.cli_audit import archive, audit
from autoproxy.cli_benchmark import benchmarks
from autoproxy.cli_common import (
    Allocation,
    Backend,
    BaselineOrMethod,
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
    Devices,
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
    Scheduler,
    Sequences,
    Sparsity,
    SpecialTokens,
    TextBlocks,
    TextJoin,
    Tokens,
    Track,
    Unit,
    Validation,
    ValidationBlocks,
    Windows,
    WorkerCount,
    ended,
    interruptible,
    of_evaluator,
    present,
    seed_option,
    split_devices,
    write,
)
from autoproxy.cli_enumerate import enumerate_
from autoproxy.cli_leaderboard import leaderboard
from autoproxy.cli_report import plot, report
from autoproxy.cli_watch import watch
from autoproxy.errors import AutoproxyError, out_of_memory

app = typer.Typer(
    name="autoproxy",
    help="Discover formulas that tell which weights of a language model matter.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(benchmarks, name="benchmark")
app.command()(archive)
app.command()(audit)
app.command("enumerate")(enumerate_)
app.command()(report)
app.command()(plot)
app.command()(watch)
app.command()(leaderboard)


@app.command()
def search(
    config: Annotated[
        Path | None, typer.Option(help="A run.toml; flags override what it says.")
    ] = None,
    space: Annotated[str | None, typer.Option(help="Search space; see `list`.")] = None,
    evaluator: Annotated[str | None, typer.Option(help="Evaluator; see `list`.")] = None,
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
        list[str] | None,
        typer.Option(help="Two or more to search under, such as 'sparsity=0.6 calibration=A.txt'."),
    ] = None,
    unit: Unit = None,
    evaluations: Annotated[float | None, typer.Option(help="Budget, in full evaluations.")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after so many minutes at the latest.")
    ] = None,
    seed: Annotated[int | None, seed_option("Root of all randomness.")] = None,
    strategy: Annotated[str | None, typer.Option(help="evolve or random.")] = None,
    selection: Annotated[str | None, typer.Option(help="nsga2, nsga2-cost or best.")] = None,
    population: Annotated[int | None, typer.Option(help="Individuals that stay.")] = None,
    seeds: Annotated[
        bool | None,
        typer.Option("--seeds/--no-seeds", help="Start from the hand-made metrics."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any option of [search], such as islands=2; repeatable."),
    ] = None,
    random_search: Annotated[
        bool | None,
        typer.Option(
            "--random-search/--no-random-search",
            help="Also spend the same budget on random search.",
        ),
    ] = None,
    report_seeds: Annotated[
        int | None, typer.Option(help="Calibration seeds of the report.")
    ] = None,
    report_best: Annotated[
        int | None,
        typer.Option(help="Hand-made metrics of the report that were best in validation."),
    ] = None,
    report_known: Annotated[
        bool | None,
        typer.Option(
            "--report-known/--no-report-known",
            help="Report the well-known hand-made metrics, however they did.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run and its metric.")] = None,
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
    labels: Annotated[int | None, typer.Option(help="Qualities that the search sees.")] = None,
    validation_labels: Annotated[
        int | None, typer.Option(help="Further ones to rank finalists by.")
    ] = None,
    max_tied: Annotated[
        float | None,
        typer.Option(help="Share of pairs of networks that a formula may tie, such as 0.01."),
    ] = None,
    limit: Limit = None,
    sequences: Sequences = None,
    tokens: Tokens = None,
    rows: Rows = None,
    draw: Draw = None,
    control: Control = None,
    jobs: Jobs = None,
    workers: WorkerCount = None,
    backend: Backend = None,
    scheduler: Scheduler = None,
    devices: Devices = None,
    track: Track = None,
    results: Results = Path("results"),
    ledger: LedgerPlace = None,
    as_json: Json = False,
) -> None:
    """Discover a metric, compare it with hand-made ones and random search, and export it."""
    from autoproxy import console, live
    from autoproxy.commands.crew import Crew
    from autoproxy.commands.plan import make_plan, with_settings
    from autoproxy.commands.session import Session
    from autoproxy.commands.tracking import tracked
    from autoproxy.commands.workspace import Workspace

    plan = make_plan(
        config,
        run={
            "name": name,
            "space": space,
            "evaluator": evaluator or ("several" if condition else None),
            "random_search": random_search,
            "report_seeds": report_seeds,
            "report_best": report_best,
            "report_known": report_known,
        },
        search=with_settings(
            {
                "seed": seed,
                "evaluations": evaluations,
                "minutes": minutes,
                "strategy": strategy,
                "selection": selection,
                "population": population,
                "seeds": seeds,
            },
            settings or (),
        ),
        evaluator=of_evaluator(locals()),
    )
    told = "stopped before the run began; there is nothing to go on with"
    with interruptible(told), live.progress(quiet=as_json, whole=True) as show:
        crew = Crew(backend, workers, scheduler, split_devices(devices))
        session = Session(plan, Workspace(results, ledger), show, crew=crew)
        with tracked(session, track) as watched:
            summary = watched.execute()
    present(summary, as_json, console.summary)


@app.command()
def resume(
    run: Annotated[str | None, typer.Argument(help="Name of the run; default: latest.")] = None,
    workers: WorkerCount = None,
    backend: Backend = None,
    scheduler: Scheduler = None,
    devices: Devices = None,
    track: Track = None,
    results: Results = Path("results"),
    ledger: LedgerPlace = None,
    as_json: Json = False,
) -> None:
    """Go on with an interrupted run, to the same result as if nothing had happened."""
    from autoproxy import console, live
    from autoproxy.commands.crew import Crew
    from autoproxy.commands.session import resume_session
    from autoproxy.commands.tracking import tracked
    from autoproxy.commands.workspace import Workspace

    told = "stopped before the run went on; it is as it was, and the same command goes on"
    with interruptible(told), live.progress(quiet=as_json, whole=True) as show:
        crew = Crew(backend, workers, scheduler, split_devices(devices))
        session = resume_session(Workspace(results, ledger), run, show, crew)
        with tracked(session, track) as watched:
            summary = watched.execute()
    present(summary, as_json, console.summary)


@app.command()
def evaluate(
    metric: Annotated[
        str | None, typer.Option(help="Expression, such as 'abs(W) * x_norm'.")
    ] = None,
    baseline: BaselineOrMethod = None,
    space: Annotated[str, typer.Option(help="Space that has the baseline.")] = "importance",
    evaluator: Annotated[str, typer.Option(help="Evaluator; see `list`.")] = "pruning",
    model: Model = None,
    calibration: Calibration = None,
    text: ReportText = None,
    sparsity: Sparsity = None,
    pattern: Pattern = None,
    group: Group = None,
    allocation: Allocation = None,
    mode: Mode = None,
    unit: Unit = None,
    seed: Annotated[int, seed_option("Seed of the calibration draw.")] = 0,
    device: Device = None,
    dtype: Dtype = None,
    length: Length = None,
    calibration_blocks: CalibrationBlocks = None,
    text_blocks: TextBlocks = None,
    cache_limit: CacheLimit = None,
    protocol: Protocol = None,
    windows: Windows = None,
    calibration_join: CalibrationJoin = None,
    text_join: TextJoin = None,
    special_tokens: SpecialTokens = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="Zero-shot tasks too, NAME,NAME; needs pip install 'autoproxy[tasks]'."),
    ] = None,
    task_limit: Annotated[
        int | None, typer.Option(help="Documents of each task; default: all.")
    ] = None,
    shots: Annotated[
        int | None, typer.Option(help="Examples before each question; default: the task's.")
    ] = None,
    results: Results = Path("results"),
    ledger: LedgerPlace = None,
    as_json: Json = False,
) -> None:
    """Measure one metric on a text: value, perplexity, KL and the whole protocol; and on tasks."""
    from autoproxy import console
    from autoproxy.commands.evaluating import EvaluateOrder, evaluate_metric
    from autoproxy.commands.workspace import Workspace

    options = {**of_evaluator(locals()), "seed": seed}
    order = EvaluateOrder(
        metric=metric,
        baseline=baseline,
        space=space,
        evaluator=evaluator,
        options=options,
        tasks=tasks,
        task_limit=task_limit,
        shots=shots,
    )
    found = evaluate_metric(Workspace(results, ledger), order)
    present(found, as_json, console.evaluation)


@app.command()
def rank(
    proxy: Annotated[
        list[str] | None,
        typer.Option(help="Hand-made proxy, expression, run or JSON file; may be repeated."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All hand-made proxies too.")] = False,
    benchmark: Benchmark = "starter",
    table: BenchmarkTable = None,
    declared: Declared = None,
    limit: Limit = None,
    sequences: Sequences = None,
    tokens: Tokens = None,
    rows: Rows = None,
    draw: Draw = None,
    control: Control = None,
    jobs: Jobs = None,
    space: Annotated[str, typer.Option(help="Space that has the proxies.")] = "prediction",
    evaluator: Annotated[str, typer.Option(help="Evaluator; see `list`.")] = "prediction",
    device: Device = None,
    cache_limit: CacheLimit = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Order the networks of a benchmark by proxies, and say how well that order was."""
    from autoproxy import console
    from autoproxy.commands.ranking import RankOrder, rank_architectures
    from autoproxy.commands.workspace import Workspace

    order = RankOrder(
        proxies=proxy or [],
        every=every,
        space=space,
        evaluator=evaluator,
        options=of_evaluator(locals()),
    )
    with interruptible("stopped"):
        found = rank_architectures(Workspace(results), order)
    present(found, as_json, console.ranking)


@app.command()
def prune(
    model: Annotated[
        str,
        typer.Argument(help="Folder or hub name of a language model, 'starter' or 'starter-gpt2'."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; it must be new or empty.")],
    metric: Annotated[
        str | None, typer.Option(help="Expression, baseline, run, or a metric's JSON file.")
    ] = None,
    baseline: BaselineOrMethod = None,
    sparsity: Sparsity = None,
    pattern: Pattern = None,
    group: Group = None,
    allocation: Allocation = None,
    mode: Mode = None,
    unit: Unit = None,
    calibration: Calibration = None,
    check: Annotated[
        bool, typer.Option("--check", help="Measure perplexity on --text before and after.")
    ] = False,
    text: Annotated[list[str] | None, typer.Option(help="Text that --check reads.")] = None,
    stream: Annotated[
        bool,
        typer.Option("--stream", help="Have one decoder layer in memory at a time."),
    ] = False,
    space: Annotated[str, typer.Option(help="Space that has the baseline.")] = "importance",
    evaluator: Annotated[str, typer.Option(help="Evaluator; see `list`.")] = "pruning",
    seed: Annotated[int, seed_option("Seed of the calibration draw.")] = 0,
    device: Device = None,
    dtype: Dtype = None,
    length: Length = None,
    calibration_blocks: CalibrationBlocks = None,
    text_blocks: TextBlocks = None,
    cache_limit: CacheLimit = None,
    protocol: Protocol = None,
    windows: Windows = None,
    calibration_join: CalibrationJoin = None,
    text_join: TextJoin = None,
    special_tokens: SpecialTokens = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Prune a model by a metric or a method, and write it as a folder that loads anywhere."""
    from autoproxy import console, live
    from autoproxy.commands.pruning import PruneOrder, prune_model
    from autoproxy.commands.workspace import Workspace

    order = PruneOrder(
        metric=metric,
        baseline=baseline,
        space=space,
        evaluator=evaluator,
        check=check,
        options={**of_evaluator(locals()), "seed": seed, "stream": stream or None},
    )
    stopped = f"stopped; nothing was written to {out}"
    with interruptible(stopped), live.progress(quiet=as_json) as show:
        found = prune_model(Workspace(results), order, out, show)
    present(found, as_json, console.pruned)


@app.command()
def allocate(
    model: Annotated[
        str, typer.Argument(help="Folder or hub name of a causal language model, or 'starter'.")
    ],
    out: Annotated[Path, typer.Option(help="File to write, *.json, for --allocation.")],
    metric: Annotated[
        str | None, typer.Option(help="Expression, run, or a metric's JSON file.")
    ] = None,
    baseline: Annotated[str | None, typer.Option(help="Hand-made metric; see `list`.")] = None,
    sparsity: Sparsity = None,
    group: Group = None,
    trials: Annotated[int, typer.Option(help="Allocations to try.")] = 50,
    calibration: Calibration = None,
    validation: Validation = None,
    text: ReportText = None,
    space: Annotated[str, typer.Option(help="Space that has the baseline.")] = "importance",
    evaluator: Annotated[str, typer.Option(help="Evaluator; see `list`.")] = "pruning",
    seed: Annotated[int, seed_option("Seed of the draws and of the sampler.")] = 0,
    device: Device = None,
    dtype: Dtype = None,
    length: Length = None,
    calibration_blocks: CalibrationBlocks = None,
    validation_blocks: ValidationBlocks = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Tune how much of each decoder layer is dropped (Optuna), on the validation text."""
    from autoproxy import console, live
    from autoproxy.commands.allocating import AllocateOrder
    from autoproxy.commands.allocating import allocate as tune
    from autoproxy.commands.workspace import Workspace

    order = AllocateOrder(
        metric=metric,
        baseline=baseline,
        space=space,
        evaluator=evaluator,
        options={**of_evaluator(locals()), "seed": seed},
        trials=trials,
    )
    stopped = f"stopped; nothing was written to {out}"
    with interruptible(stopped), live.progress(quiet=as_json) as show:
        found = tune(Workspace(results), order, out, show)
    present(found, as_json, console.allocation)


@app.command()
def explain(
    metric: Annotated[
        str, typer.Argument(help="Expression, baseline, run, or a metric's JSON file.")
    ],
    space: Annotated[
        str | None, typer.Option(help="Space that has the baselines; default: all of them.")
    ] = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Say what a metric is: canonical form, kinds, inputs, LaTeX, what it orders like."""
    from autoproxy import console
    from autoproxy.commands.metrics import explain_metric
    from autoproxy.commands.workspace import Workspace

    present(explain_metric(Workspace(results), metric, space), as_json, console.explanation)


@app.command()
def export(
    metric: Annotated[
        str | None,
        typer.Argument(help="Expression, baseline, run, or JSON file; default: latest run."),
    ] = None,
    form: Annotated[str, typer.Option(help="py, sympy, latex, infix, json or best-tree.")] = "py",
    out: Annotated[Path | None, typer.Option(help="File to write; default: print.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the function.")] = None,
    space: Annotated[
        str | None, typer.Option(help="Space that has the baselines; default: all of them.")
    ] = None,
    results: Results = Path("results"),
) -> None:
    """Write a metric as a Python function of torch tensors, or as a formula."""
    from autoproxy.commands.metrics import export_metric
    from autoproxy.commands.workspace import Workspace, write_text

    source = export_metric(Workspace(results), metric, form=form, name=name, space=space)
    if out is None:
        write(source)
        return
    write_text(out, ended(source), instead="another --out")
    write(f"wrote {out}")


@app.command("list")
def list_(
    space: Annotated[str, typer.Option(help="Space whose words are listed.")] = "importance",
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """List spaces, evaluators, terminals, primitives, hand-made metrics, methods and runs."""
    from autoproxy import console
    from autoproxy.commands.listing import listing
    from autoproxy.commands.workspace import Workspace

    present(listing(Workspace(results), space), as_json, console.listing)


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete all of it.")] = False,
    limit: Annotated[
        str | None,
        typer.Option(help="Delete what was not used for longest, down to a size such as 5GB."),
    ] = None,
    evaluator: Annotated[str, typer.Option(help="Evaluator; see `list`.")] = "pruning",
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Show what statistics of models are kept, and make room."""
    from autoproxy import console
    from autoproxy.commands.caching import tend_cache
    from autoproxy.commands.workspace import Workspace

    found = tend_cache(Workspace(results), evaluator, clear=clear, limit=limit)
    present(found, as_json, console.cache)


@app.command()
def doctor(
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Check this installation: versions, devices, shipped models, text, results folder."""
    from autoproxy import console
    from autoproxy.commands.doctor import examine
    from autoproxy.commands.workspace import Workspace

    found = examine(Workspace(results))
    present(found, as_json, console.health)
    if not found["healthy"]:
        raise typer.Exit(1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0; 1 when `doctor` finds something wrong; 2 when the user can fix what went wrong; 130
        after an interruption. A bug keeps its traceback.
    """
    try:
        app(args=argv)
    except AutoproxyError as error:
        print(f"autoproxy: {error}", file=sys.stderr)
        return 2
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 0
    except Exception as error:
        told = out_of_memory(error)
        if told is None:
            raise
        print(f"autoproxy: {told}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
