"""Every metric by hand and every published method on one model, condition by condition.

One table: perplexity on a text, seconds of processor (masks and text; statistics that several
share are taken before) and the most anonymous memory of the process meanwhile. A metric whose
masks are those of one before it is not measured again. What is done is skipped; rows land in the
ledger of `--results` like any other.

    python benchmarks/bench_baselines.py run --model starter --tokens 2048
    python benchmarks/bench_baselines.py run --model FOLDER --calibration FILE --text FILE
        --modes oneshot,sequential --top 5 --metric mine='abs(W) * g_token'
    python benchmarks/bench_baselines.py table

First everything in one shot on few tokens, then the `--top` of each condition in the other modes,
and on `--more-tokens` beside the metrics given by `--metric`.
"""

import argparse
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from autoproxy.commands import loading
from autoproxy.commands.reporting import Named, Reporter
from autoproxy.errors import AutoproxyError
from autoproxy.language.canonical import canonical
from autoproxy.language.expression import Expression
from autoproxy.language.parse import parse
from autoproxy.ledger.ledger import Ledger
from autoproxy.ledger.records import ReportRow
from benchmarks.memory import anonymous
from benchmarks.run_log import append, option, records
from evaluators.masks import amount_of


class Where(NamedTuple):
    """Under what a metric is measured: the condition, the mode and the tokens of the text."""

    condition: str
    mode: str
    tokens: int


def measure(folder: Path, options: argparse.Namespace) -> None:
    """Measure what is not in the log yet."""
    everything = known_metrics()
    own = [named(*option(text)) for text in options.metric]
    conditions = options.conditions.split(",")
    first, *others = options.modes.split(",")
    for condition in conditions:
        _measure(folder, options, everything, Where(condition, first, options.tokens))
    best = {
        condition: _best(folder, everything, Where(condition, first, options.tokens), options.top)
        for condition in conditions
    }
    for mode in others:
        for condition in conditions:
            _measure(folder, options, best[condition], Where(condition, mode, options.tokens))
    for condition in conditions if options.more_tokens else ():
        where = Where(condition, first, options.more_tokens)
        _measure(folder, options, best[condition] + own, where)


def known_metrics() -> list[Named]:
    """Return every metric by hand of the space of importances, then every published method."""
    space = loading.space("importance")
    metrics = [Named("baseline", one.name, one.expression) for one in space.baselines]
    return metrics + [Named("baseline", name, None) for name in loading.methods("pruning")]


def named(name: str, text: str) -> Named:
    """Return a metric that was given as a name and a formula."""
    return Named("evaluated", name, canonical(parse(text)))


def _best(folder: Path, metrics: Sequence[Named], where: Where, top: int) -> list[Named]:
    """Return the `top` best of what was measured there; equal masks count once."""
    values = {
        one["metric"]: one["perplexity"]
        for one in _done(folder, where).values()
        if "perplexity" in one
    }
    best = sorted(values, key=values.__getitem__)[:top]
    return [metric for metric in metrics if metric.name in best]


def _done(folder: Path, where: Where) -> dict[str, dict[str, Any]]:
    found = records(folder)
    return {r["metric"]: r for r in found if (r["condition"], r["mode"], r["tokens"]) == where}


def _measure(
    folder: Path, options: argparse.Namespace, metrics: Sequence[Named], where: Where
) -> None:
    done = _done(folder, where)
    missing = [metric for metric in metrics if metric.name not in done]
    if not missing:
        return
    results = Path(options.results)
    results.mkdir(parents=True, exist_ok=True)
    with (
        Ledger.open(results / "ledger.sqlite") as ledger,
        loading.evaluator(
            "pruning", _asked(options, where), cache=results / "cache", notice=print
        ) as opened,
    ):
        formulas = [metric.expression for metric in missing if metric.expression]
        opened.prepare(frozenset[str]().union(*(formula.terminals() for formula in formulas)))
        _reported(
            ledger, *opened.conditions, []
        )  # the dense model, outside of the time of any metric
        first = [one for one in done.values() if "same_masks_as" not in one]
        masks = {one["masks"]: one["metric"] for one in first if "masks" in one}
        for metric in missing:
            record = {**where._asdict(), "metric": metric.name}
            try:
                record |= _one(opened, ledger, metric, masks if where.mode == "oneshot" else None)
            except AutoproxyError as error:
                record["reason"] = str(error)
            append(folder, record)
            print(record, flush=True)


def _asked(options: argparse.Namespace, where: Where) -> dict[str, Any]:
    """Return the options of the evaluator."""
    texts = {"calibration": options.calibration, "text": options.text}
    return {
        "model": options.model,
        **{name: given for name, given in texts.items() if given},
        **amount_of(where.condition),
        "mode": where.mode,
        "length": options.length,
        "calibration_blocks": options.calibration_blocks,
        "validation_blocks": 1,  # nothing is searched
        "text_blocks": where.tokens // options.length,
    }


def _one(
    opened: Any, ledger: Ledger, metric: Named, masks: dict[str, str] | None
) -> dict[str, Any]:
    """Return what is to be kept of one metric.

    Args:
        opened: Measures.
        ledger: Where rows are kept.
        metric: What is measured.
        masks: Metrics by their masks, the first of equal ones; None where a layer's masks depend
            on what was pruned before it.
    """
    found: dict[str, Any] = {}
    if metric.expression is not None and masks is not None:
        found["masks"] = str(opened.identity(metric.expression))
        same = masks.setdefault(found["masks"], metric.name)
        if same != metric.name:
            return {**found, "same_masks_as": same}
    watch = Watch(*opened.conditions)
    row = _reported(ledger, watch, [metric])[-1]
    return {**found, **row.values, **watch.cost}


def _reported(
    ledger: Ledger, condition: loading.Condition, metrics: Sequence[Named]
) -> list[ReportRow]:
    return Reporter(ledger, condition, None, lambda _: None).report(metrics, [0])


class Watch:
    """A condition that says what its report cost; nothing, where the ledger knew the row."""

    def __init__(self, condition: loading.Condition) -> None:
        self._condition = condition
        self.report_protocol = condition.report_protocol
        self.dense = condition.dense
        self.cost: dict[str, float] = {}

    def report(
        self, candidates: Sequence[Expression | str], seeds: Iterable[int]
    ) -> list[Mapping[str, Any]]:
        """Measure as the condition does."""
        start = time.process_time()
        with watched() as memory:
            found = list(self._condition.report(candidates, seeds))
        self.cost = {"seconds": time.process_time() - start, "mib": memory()}
        return found


@contextmanager
def watched() -> Iterator[Callable[[], float]]:
    """Sample the anonymous memory of this process for the block, a hundred times a second.

    Yields:
        What returns the most so far, in MiB.
    """
    peak, done = anonymous(), threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, anonymous())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield lambda: peak
    finally:
        done.set()
        thread.join()


def tables(folder: Path) -> Iterator[Table]:
    """Yield a table for each mode and number of tokens: a row a metric, a column a condition."""
    found = records(folder)
    for mode, tokens in dict.fromkeys((one["mode"], one["tokens"]) for one in found):
        here = [one for one in found if (one["mode"], one["tokens"]) == (mode, tokens)]
        conditions = list(dict.fromkeys(one["condition"] for one in here))
        table = Table(title=f"{mode}, {tokens:,} tokens: perplexity")
        for column in ("metric", *conditions, "seconds", "MiB"):
            table.add_column(column)
        cells = {(one["metric"], one["condition"]): one for one in here}
        metrics = dict.fromkeys(one["metric"] for one in here)
        for metric in sorted(metrics, key=lambda name: _first(cells, name, conditions)):
            own = [cells[metric, one] for one in conditions if (metric, one) in cells]
            timed = [one for one in own if "seconds" in one]
            table.add_row(
                metric,
                *(_cell(cells.get((metric, one))) for one in conditions),
                f"{sum(one['seconds'] for one in timed) / len(timed):.0f}" if timed else "",
                f"{max(one['mib'] for one in timed):.0f}" if timed else "",
            )
        yield table


def _first(cells: Mapping[tuple[str, str], Any], metric: str, conditions: Sequence[str]) -> float:
    """Return a metric's perplexity in the first condition, by which a table is sorted."""
    for condition in conditions:
        one = cells.get((metric, condition), {})
        one = cells.get((one.get("same_masks_as"), condition), one)
        if "perplexity" in one:
            return float(one["perplexity"])
    return math.inf


def _cell(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return ""
    if "perplexity" in one:
        return f"{one['perplexity']:,.2f}"
    return f"= {one['same_masks_as']}" if "same_masks_as" in one else "none"


def main(argv: Sequence[str] | None = None) -> None:
    """Read options, then measure or print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("do", choices=("run", "table"))
    parser.add_argument("--folder", type=Path, default=Path(".bench-baselines"))
    parser.add_argument("--results", default="results")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--calibration", action="append")
    parser.add_argument("--text", action="append")
    parser.add_argument("--conditions", default="50%,60%,70%,2:4,4:8")
    parser.add_argument("--modes", default="oneshot")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--calibration-blocks", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--more-tokens", type=int, default=0)
    parser.add_argument("--top", type=int, default=5)
    parser.add_argument("--metric", action="append", default=[], help="NAME=FORMULA, also measured")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.do == "run":
        torch.set_num_threads(options.threads)
        measure(options.folder, options)
    for table in tables(options.folder):
        Console(width=120).print(table)


if __name__ == "__main__":
    main()
