"""What a search costs until it is as good as another: ours, the presets', random search, DEAP.

Every way searches the space of Pruner-Zero, without hand-made metrics to start from, with the
same evaluator. What it spends is counted in full evaluations, in tokens of forward passes (a
candidate that is stopped after two blocks of eight costs two) and in seconds. Ways share one
ledger: what another way measured is recalled, charged as if it had been measured, and its seconds
are added; so ten seeds cost little more than three. A run that was killed is run again, and
recalls what it had measured.

    python benchmarks/bench_search.py run --folder .bench-search --seeds 10
    python benchmarks/bench_search.py table --folder .bench-search

`run` appends one line to runs.jsonl for each way and seed that is done, and skips those that are
there; several processes may share a folder, say one a way (`--ways ours,random`). `table` reads
it: medians, intervals by bootstrap over seeds, and what it takes to reach the median best of
Pruner-Zero after its 350 evaluations.
"""

import argparse
import dataclasses
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deap import algorithms, base, gp, tools
from scipy import stats

from autoproxy.breeding.grammar import Grammar
from autoproxy.evaluation import BLOCK, Failed, Measured, Outcome, content_hash
from autoproxy.language.canonical import canonical, key
from autoproxy.language.expression import Expression
from autoproxy.ledger.ledger import Ledger
from autoproxy.ledger.records import Evaluation
from autoproxy.search.config import SearchConfig
from autoproxy.search.loop import Search
from autoproxy.seeding import lend_to_global, stream
from autoproxy.spaces import SearchSpace
from benchmarks.run_log import append, option, records
from evaluators.pruning import PruningEvaluator
from search_spaces import lpzero, pruner_zero

SPACE = pruner_zero.PRUNER_ZERO
TARGET_WAY, TARGET_AFTER = "pruner-zero", 350.0
LOOKS = (100.0, 200.0, 400.0)
_EPSILON = 1e-6
_NEVER = 1e15


class SpentError(Exception):
    """The budget is spent, or nothing new comes any more."""


@dataclass
class Meter:
    """What one run has spent, and how good its best was when.

    Attributes:
        ledger: What any run has measured.
        protocol: Content hash of the evaluator's.
        blocks: Of the validation text.
        length: Tokens of a block.
        spent: Full evaluations charged.
        tokens: Of forward passes charged.
        decided: Proposals that were judged or measured.
        curve: At each new best: spent, tokens, seconds, value; of full measurements alone.
        best: Text of the best.
    """

    ledger: Ledger
    protocol: str
    blocks: int
    length: int
    spent: float = 0.0
    tokens: float = 0.0
    decided: int = 0
    curve: list[tuple[float, float, float, float]] = field(default_factory=list)
    best: str = ""
    _began: float = field(default_factory=time.process_time)
    _recalled: float = 0.0
    _paid: dict[str, list[float]] = field(default_factory=dict)
    _texts: dict[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Of this process, and those that what it recalled had taken."""
        return time.process_time() - self._began + self._recalled

    def recall(self, address: str, protocol: str, fidelity: float) -> Outcome | None:
        """Return what is known of a candidate; part of a full measurement will do."""
        known = self.ledger.recall(address, protocol, fidelity)
        if known is None and fidelity < 1:
            known = self._part(self.ledger.recall(address, protocol, 1.0), fidelity)
        if known is not None:
            self._recalled += known.seconds
            self._charge(address, fidelity, known)
        return known

    def keep(self, kept: Any, protocol: str, fidelity: float, outcome: Outcome) -> None:
        """Store an outcome, and charge it."""
        self.store(kept.key, kept.expression, fidelity, outcome)
        assert protocol == self.protocol

    def store(
        self, address: str, expression: Expression, fidelity: float, outcome: Outcome
    ) -> None:
        text = str(expression)
        self.ledger.remember(Evaluation(address, self.protocol, fidelity, text, None, outcome))
        self._charge(address, fidelity, outcome)

    def note(self, fate: Any) -> None:
        """Count a proposal, and remember how it reads."""
        self.decided += 1
        if fate.value is not None and self.curve and not self.best:
            self.best = str(fate.expression)

    def settle(self) -> None:
        """Nothing waits."""

    def advance(self, step: Any) -> None:
        """Forget the generation: a run that was killed begins again, and recalls."""

    def steps(self) -> tuple[list[Any], Callable[[int], Any]]:
        """Return that no generation is done."""
        return [], {}.__getitem__

    def _part(self, full: Outcome | None, fidelity: float) -> Outcome | None:
        """Return what a full measurement says of its first blocks."""
        if not isinstance(full, Measured) or len(full.blocks) != self.blocks:
            return full if isinstance(full, Failed) else None
        first = full.blocks[: round(fidelity * self.blocks)]
        details = {f"{BLOCK}{number}": value for number, value in enumerate(first, 1)}
        share = full.seconds * len(first) / self.blocks
        return Measured(math.fsum(first) / len(first), fidelity, share, details)

    def _charge(self, address: str, fidelity: float, outcome: Outcome) -> None:
        # One formula may be measured twice at a time, where a preset lets copies through.
        begun = self._paid.setdefault(address, [])
        before = max((f for f in begun if f < fidelity - _EPSILON), default=0.0)
        if before:
            begun.remove(before)
        begun.append(fidelity)
        new = fidelity - before
        self.spent += new
        if isinstance(outcome, Failed):
            return  # its masks cannot be made, so nothing was run
        self.tokens += new * self.blocks * self.length
        if fidelity == 1 and (not self.curve or outcome.value < self.curve[-1][3]):
            self.curve.append((self.spent, self.tokens, self.seconds, outcome.value))
            self.best = ""  # told by the next note


def engine(
    options: Mapping[str, Any], evaluator: Any, meter: Meter, seed: int, evaluations: float
) -> str:
    """Run this project's search with some options, those of other versions left out."""
    known = {f.name for f in dataclasses.fields(SearchConfig)}
    asked = {name: value for name, value in options.items() if name in known}
    asked |= {"seed": seed, "evaluations": evaluations, "seeds": False}
    *_, state = Search(SPACE, evaluator, meter, SearchConfig(**asked)).run()
    assert math.isclose(state.spent, meter.spent, abs_tol=1e-3), (state.spent, meter.spent)
    return str(state.finished)


class _Fitness(base.Fitness):
    weights = (-1.0,)


class _Tree(gp.PrimitiveTree):
    """A DEAP individual."""

    def __init__(self, content: Sequence[Any]) -> None:
        super().__init__(content)
        self.fitness = _Fitness()


def plain_deap(evaluator: Any, meter: Meter, seed: int, evaluations: float) -> str:
    """Run DEAP's eaMuPlusLambda as its manual has it, with a cache by the string of a tree.

    Random trees are drawn as the other ways draw them; a child outside the limits of the space
    gives way to its parent (staticLimit).
    """
    grammar, random_of = Grammar(SPACE), stream(seed, "deap")
    cache: dict[str, float] = {}
    idle = 0

    def value_of(tree: _Tree) -> tuple[float]:
        nonlocal idle
        text = str(tree)
        idle = idle + 1 if text in cache else 0
        if idle > 2500:
            raise SpentError("nothing new in 2500 individuals")
        if text not in cache:
            meter.decided += 1
            cache[text] = _measured(evaluator, meter, canonical(grammar.to_expression(tree)))
        if meter.spent >= evaluations - _EPSILON:
            raise SpentError("the budget of evaluations is spent")
        return (cache[text],)

    toolbox = _toolbox(grammar, SPACE)
    toolbox.register("evaluate", value_of)
    with lend_to_global(random_of):
        try:
            algorithms.eaMuPlusLambda(
                toolbox.population(n=50), toolbox,
                mu=50, lambda_=50, cxpb=0.5, mutpb=0.5, ngen=10**6, verbose=False,
            )  # fmt: skip
        except SpentError as why:
            return str(why)
    raise AssertionError("a budget is spent before a million generations")


def _toolbox(grammar: Grammar, space: SearchSpace) -> base.Toolbox:
    root = grammar.type_of(space.root)

    def sprouted() -> _Tree:
        high = random.randint(2, min(5, space.max_depth - 1))  # noqa: S311 - lent
        return _Tree(grammar.generate(1, high, root, full=random.random() < 0.5))  # noqa: S311

    def branch(pset: Any, type_: Any) -> list[Any]:
        del pset
        return grammar.generate(0, 2, type_, full=False)

    toolbox = base.Toolbox()
    toolbox.register("population", tools.initRepeat, list, sprouted)
    toolbox.register("select", tools.selTournament, tournsize=3)
    toolbox.register("mate", gp.cxOnePoint)
    toolbox.register("mutate", gp.mutUniform, expr=branch, pset=grammar.set)
    limit = gp.staticLimit(
        key=lambda tree: space.violation(canonical(grammar.to_expression(tree))) is not None,
        max_value=0,
    )
    toolbox.decorate("mate", limit)
    toolbox.decorate("mutate", limit)
    return toolbox


def _measured(evaluator: Any, meter: Meter, expression: Expression) -> float:
    """Return the value of an expression in full, infinite where it has none."""
    address = key(expression)
    outcome = meter.recall(address, meter.protocol, 1.0)
    if outcome is None:
        (outcome,) = evaluator.measure([expression], 1.0)
        meter.store(address, expression, 1.0, outcome)
    if meter.curve and not meter.best:
        meter.best = str(expression)
    return outcome.value if isinstance(outcome, Measured) else math.inf


def ways(ours: Mapping[str, Any]) -> dict[str, Callable[..., str]]:
    """Return every way to search; `ours` are options of this project's, beside its defaults."""
    return {
        "ours": partial(engine, ours),
        "pruner-zero": partial(engine, pruner_zero.AS_PUBLISHED),
        "lpzero": partial(engine, lpzero.AS_PUBLISHED),
        "random": partial(engine, {**ours, "strategy": "random"}),
        "deap": plain_deap,
    }


def run(asked: argparse.Namespace) -> None:
    """Run every way with every seed that the log has not."""
    torch.set_num_threads(1)
    folder = asked.folder
    folder.mkdir(parents=True, exist_ok=True)
    ours = dict(option(text) for text in asked.option)
    options = _evaluator_options(asked)
    with (
        Ledger.open(folder / "ledger.sqlite") as ledger,
        PruningEvaluator.from_options(options, cache=folder / "cache", notice=print) as evaluator,
    ):
        evaluator.prepare(SPACE.terminals)
        protocol = ledger.remember_protocol(evaluator.protocol())
        setting = content_hash([protocol, SPACE.digest])[:12]
        length = evaluator.protocol()["tokens"] // asked.blocks
        known = ways(ours)
        chosen = asked.ways.split(",") if asked.ways else list(known)
        for seed in range(asked.first, asked.first + asked.seeds):
            for way in chosen:
                name = way + (f":{asked.label}" if asked.label and way == "ours" else "")
                done = {(r["setting"], r["way"], r["seed"]) for r in records(folder)}
                if (setting, name, seed) in done:
                    continue
                meter = Meter(ledger, protocol, asked.blocks, length)
                why = known[way](evaluator, meter, seed, asked.evaluations)
                told = {"setting": setting, "way": name, "seed": seed, "finished": why}
                _append(folder, _record(meter, asked, **told, options=ours))


def _evaluator_options(asked: argparse.Namespace) -> dict[str, Any]:
    options: dict[str, Any] = {
        "model": asked.model,
        "sparsity": asked.sparsity,
        "length": asked.length,
        "validation_blocks": asked.blocks,
        "seed": 0,  # of the calibration: seeds are of searches
    }
    return options | dict(option(text) for text in asked.evaluator)


def _record(meter: Meter, asked: argparse.Namespace, **words: Any) -> dict[str, Any]:
    return {
        **words,
        "model": asked.model,
        "sparsity": asked.sparsity,
        "blocks": meter.blocks,
        "length": meter.length,
        "evaluations": asked.evaluations,
        "spent": meter.spent,
        "tokens": meter.tokens,
        "seconds": meter.seconds,
        "decided": meter.decided,
        "best": meter.best,
        "curve": meter.curve,
    }


def _append(folder: Path, record: Mapping[str, Any]) -> None:
    append(folder, record)
    best = record["curve"][-1][3] if record["curve"] else math.nan
    print(
        f"{record['way']:12} seed {record['seed']}: best {best:.4f} after {record['spent']:.1f} "
        f"evaluations, {record['tokens']:.0f} tokens, {record['seconds']:.0f} s; "
        f"{record['finished']}",
        flush=True,
    )


def at(record: Mapping[str, Any], spent: float) -> float:
    """Return the best value of a run when it had spent so much; NaN where it never did.

    A run that ended early because nothing new came keeps its best.
    """
    if record["spent"] < spent - 1 and "spent" in record["finished"]:
        return math.nan
    values = [value for paid, _, _, value in record["curve"] if paid <= spent + _EPSILON]
    return values[-1] if values else math.inf


def reached(record: Mapping[str, Any], target: float) -> tuple[float, float, float]:
    """Return evaluations, tokens and seconds until a run was as good; infinite where never."""
    for paid, tokens, seconds, value in record["curve"]:
        if value <= target:
            return paid, tokens, seconds
    return math.inf, math.inf, math.inf


def interval(
    samples: Sequence[Sequence[float]], statistic: Callable[..., Any]
) -> tuple[float, float]:
    """Return the 95 % interval of a statistic by bootstrap over seeds."""
    if any(len(sample) < 2 for sample in samples):
        return math.nan, math.nan
    found = stats.bootstrap(
        [np.asarray(sample) for sample in samples],
        statistic,
        n_resamples=9999,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def middle(sample: Any, axis: int = -1) -> Any:
    """Return the median, the upper of two: no mean of a number and what never came."""
    ordered = np.sort(sample, axis=axis)
    return np.take(ordered, ordered.shape[axis] // 2, axis=axis)


def _difference(a: Any, b: Any, axis: int = -1) -> Any:
    return np.mean(a, axis=axis) - np.mean(b, axis=axis)


def table(asked: argparse.Namespace) -> None:
    """Print what the log says, one setting after another."""
    found = records(asked.folder)
    for setting in dict.fromkeys(record["setting"] for record in found):
        by_way: dict[str, list[dict[str, Any]]] = {}
        for record in found:
            if record["setting"] == setting:
                by_way.setdefault(record["way"], []).append(record)
        print("\n".join(report(setting, by_way)))


def report(setting: str, by_way: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """Yield the lines of the tables of one setting."""
    some = next(iter(by_way.values()))[0]
    texts = f"{some['blocks']} blocks of {some['length']} tokens"
    yield f"## {some['model']}, {some['sparsity']} dropped, {texts} (setting {setting})\n"
    yield from _best_values(by_way)
    yield from _differences(by_way)
    if TARGET_WAY in by_way:
        yield from _to_target(by_way)


def _best_values(by_way: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    yield "Best value (KL, nats), median over seeds and its interval:\n"
    yield "| way | seeds | " + " | ".join(f"after {look:g}" for look in LOOKS) + " |"
    yield "|---" * (2 + len(LOOKS)) + "|"
    for way, runs in by_way.items():
        cells = []
        for look in LOOKS:
            values = [v for v in (at(record, look) for record in runs) if not math.isnan(v)]
            cells.append(_shown(values, "{:.4f}"))
        yield f"| {way} | {len(runs)} | " + " | ".join(cells) + " |"
    yield ""


def _differences(by_way: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    mine = [way for way in by_way if way.startswith("ours")]
    if not mine:
        return
    yield "Mean difference of best values (below 0: the first is better) and its interval:\n"
    yield "| pair | " + " | ".join(f"after {look:g}" for look in LOOKS) + " |"
    yield "|---" * (1 + len(LOOKS)) + "|"
    for way in mine:
        for other in by_way:
            if other == way:
                continue
            cells = []
            for look in LOOKS:
                pair = [
                    [v for v in (at(r, look) for r in by_way[w]) if math.isfinite(v)]
                    for w in (way, other)
                ]
                cells.append(_shown_difference(pair))
            yield f"| {way} - {other} | " + " | ".join(cells) + " |"
    yield ""


def _to_target(by_way: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    preset = by_way[TARGET_WAY]
    values = [v for v in (at(record, TARGET_AFTER) for record in preset) if math.isfinite(v)]
    if not values:
        yield f"No run of {TARGET_WAY} has spent {TARGET_AFTER:g} evaluations yet.\n"
        return
    target = float(np.median(values))
    whole = TARGET_AFTER * preset[0]["blocks"] * preset[0]["length"]
    yield f"Until {target:.4f}, the median best of {TARGET_WAY} after {TARGET_AFTER:g} evaluations,"
    yield f"whose forward passes are of {whole:.0f} tokens; in brackets the interval:\n"
    yield "| way | reached | evaluations | tokens | share of its tokens | seconds |"
    yield "|---" * 6 + "|"
    for way, runs in by_way.items():
        costs = [reached(record, target) for record in runs]
        paid, tokens, seconds = (list(cost) for cost in zip(*costs, strict=True))
        count = sum(map(math.isfinite, paid))
        shares = [one / whole for one in tokens]
        cells = [
            _shown(paid, "{:.1f}"),
            _shown(tokens, "{:.0f}"),
            _shown(shares, "{:.3f}"),
            _shown(seconds, "{:.0f}"),
        ]
        yield f"| {way} | {count} of {len(runs)} | " + " | ".join(cells) + " |"
    yield ""


def _shown(values: Sequence[float], form: str) -> str:
    """Return median and interval; what never came stands for more than anything else."""
    if not values:
        return "-"
    capped = [min(value, _NEVER) for value in values]
    told = [float(middle(np.asarray(capped))), *interval([capped], middle)]
    one, low, high = ("never" if number >= _NEVER else form.format(number) for number in told)
    return one if math.isnan(told[1]) else f"{one} [{low}, {high}]"


def _shown_difference(pair: Sequence[Sequence[float]]) -> str:
    if not all(pair):
        return "-"
    low, high = interval(pair, _difference)
    text = f"{float(_difference(np.asarray(pair[0]), np.asarray(pair[1]))):+.4f}"
    if math.isnan(low):
        return text
    return f"{'**' if low > 0 or high < 0 else ''}{text} [{low:+.4f}, {high:+.4f}]" + (
        "**" if low > 0 or high < 0 else ""
    )


def main(words: Sequence[str] | None = None) -> None:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run", help="run every way with every seed that is not done")
    runs.set_defaults(call=run)
    runs.add_argument("--seeds", type=int, default=2, help="how many")
    runs.add_argument("--first", type=int, default=0, help="the first of them")
    runs.add_argument("--ways", default="", help="some of ours,pruner-zero,lpzero,random,deap")
    runs.add_argument("--evaluations", type=float, default=400.0)
    runs.add_argument("--model", default="starter-llama")
    runs.add_argument("--sparsity", default="0.5")
    runs.add_argument("--length", type=int, default=128)
    runs.add_argument("--blocks", type=int, default=8)
    runs.add_argument("--option", action="append", default=[], help="name=value, of our search")
    runs.add_argument("--evaluator", action="append", default=[], help="name=value")
    runs.add_argument("--label", default="", help="what our way with these options is called")
    tables = commands.add_parser("table", help="print what the log says")
    tables.set_defaults(call=table)
    for command in (runs, tables):
        command.add_argument("--folder", type=Path, default=Path(".bench-search"))
    asked = parser.parse_args(words)
    asked.call(asked)


if __name__ == "__main__":
    main()
