"""What searches of predictions find with few labels, split by split, on networks never seen.

A split draws which networks a search sees the quality of; each has a search, a random search of
the same budget, the ridge and every hand-made proxy, all on the same labels, and what they are
worth on the networks that are left. A single split says little: labels are few.

    python benchmarks/bench_splits.py run --folder .bench-splits --benchmark starter --splits 20
    python benchmarks/bench_splits.py table --folder .bench-splits

`run` appends one line to runs.jsonl for each split and way that is done, and skips those that are
there; several processes may share a folder, say one a way (`--ways ours`, `--ways random`).
`table` reads it, and answers two questions. *On networks like these*: splits share networks, so
an interval from splits taken as independent would be too small: variances are multiplied as Nadeau
and Bengio (2003, Machine Learning 52) have it, by 1 + splits * unseen / labels. *On these
networks*, whatever labels chance gives: each split draws them anew, so splits are independent, and
the interval is the plain one of a mean. It says nothing of other networks.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from autoproxy.evaluation import Individual, Outcome, content_hash
from autoproxy.language.expression import Expression
from autoproxy.search.config import SearchConfig
from autoproxy.search.loop import Search, finalists
from autoproxy.spaces import SearchSpace
from benchmarks.run_log import append, option, records
from evaluators.correlation import holm
from evaluators.prediction import PredictionEvaluator
from search_spaces import prediction

SPACES = {space.name: space for space in (prediction.PREDICTION, prediction.DATA_ONLY)}
WAYS = ("ours", "random")
KNOWN = "known"
"""The way of what was not searched: hand-made proxies and references."""


class Nothing:
    """Remembers nothing: values cost less here than a ledger does."""

    def recall(self, address: str, protocol: str, fidelity: float) -> Outcome | None:
        """Return that nothing is known."""

    def keep(self, kept: Any, protocol: str, fidelity: float, outcome: Outcome) -> None:
        """Keep nothing."""

    def note(self, fate: Any) -> None:
        """Keep nothing."""

    def settle(self) -> None:
        """Nothing waits."""

    def advance(self, step: Any) -> None:
        """Keep nothing."""

    def steps(self) -> tuple[list[Any], Callable[[int], Individual]]:
        """Return that no generation is done."""
        return [], {}.__getitem__


def search(
    space: SearchSpace, evaluator: PredictionEvaluator, options: Mapping[str, Any]
) -> tuple[Individual, float]:
    """Return the winner of a search with some options, and what the search spent.

    The best by the labels of the search are ranked again by these and those of the validation
    together, as `autoproxy search` does it.
    """
    config = SearchConfig(**{**space.search, "seed": evaluator.config.seed, **options})
    *_, state = Search(space, evaluator, Nothing(), config).run()
    best = finalists(state, config.finalists, evaluator.objective.sign)
    losses = {i.key: evaluator.confirm(i.expression) for i in best}
    return min(best, key=lambda i: (sum(losses[i.key]), i.complexity, i.slot)), state.spent


def run(asked: argparse.Namespace) -> None:
    """Run every way on every split that the log has not."""
    torch.set_num_threads(1)
    asked.folder.mkdir(parents=True, exist_ok=True)
    space, options = SPACES[asked.space], dict(option(text) for text in asked.option)
    given = {"benchmark": asked.benchmark, "jobs": 1}
    given |= dict(option(text) for text in asked.evaluator)
    whole = PredictionEvaluator.from_options(given, cache=asked.folder / "cache", notice=print)
    named = frozenset[str]().union(*(b.expression.terminals() for b in space.baselines))
    whole.prepare(named | space.terminals.keys())
    for split in range(asked.first, asked.first + asked.splits):
        evaluator = whole.resplit(split)
        about = _about(evaluator, space)
        for way in asked.ways.split(","):
            name = f"{way}:{asked.label}" if asked.label else way
            if _is_done(asked.folder, about, name):
                continue
            began = time.process_time()
            # Nothing is bred of a random search, so it neither tunes nor starts from anything.
            bred = options if way == "ours" else {**options, "strategy": "random", "seeds": False}
            winner, spent = search(space, evaluator, bred)
            _append(asked.folder, {
                **about, "way": name, "options": options, "spent": spent,
                "seconds": time.process_time() - began, "found": winner.text,
                "on_labels": winner.value, "complexity": winner.complexity,
                "worth": worth(evaluator, {name: winner.expression}),
            })  # fmt: skip
        if asked.known and not _is_done(asked.folder, about, KNOWN):
            _append(asked.folder, {**about, "way": KNOWN, **_known(evaluator, space)})


def _about(evaluator: PredictionEvaluator, space: SearchSpace) -> dict[str, Any]:
    """Return what all runs on a split have in common; the setting is that of all splits."""
    setting = content_hash([{**evaluator.protocol(), "split": None}, space.digest])[:12]
    return {
        "setting": setting,
        "benchmark": evaluator.benchmark.name,
        "space": space.name,
        "objective": evaluator.objective_name,
        "split": evaluator.config.seed,
        "labels": len(evaluator.search) + len(evaluator.validation),
        "unseen": len(evaluator.unseen),
    }


def _is_done(folder: Path, about: Mapping[str, Any], way: str) -> bool:
    asked = (about["setting"], about["split"], way)
    return any((r["setting"], r["split"], r["way"]) == asked for r in records(folder))


def _known(evaluator: PredictionEvaluator, space: SearchSpace) -> dict[str, Any]:
    """Return what the ridge and the hand-made proxies are worth on a split."""
    handmade: dict[str, Expression | str] = {b.name: b.expression for b in space.baselines}
    references = {name: name for name in ("ridge", "lexicographic")}
    return {
        "worth": worth(evaluator, {**handmade, **references}),
        "seen": worth(evaluator, handmade, seen=True),
    }


def worth(
    evaluator: PredictionEvaluator,
    candidates: Mapping[str, Expression | str],
    *,
    seen: bool = False,
) -> dict[str, float | None]:
    """Return the objective of each candidate on the unseen networks, or on all labels seen.

    None where one gives them no order; the sign is that of the labels.
    """
    places = np.concatenate([evaluator.search, evaluator.validation]) if seen else evaluator.unseen
    found: dict[str, float | None] = {}
    for name, candidate in candidates.items():
        scores = evaluator.oriented(candidate, places)
        if scores is None:
            found[name] = None
        elif len(set(scores)) < 2:
            found[name] = 0.0
        else:
            found[name] = evaluator.agreement(scores, places)
    return found


def _append(folder: Path, record: Mapping[str, Any]) -> None:
    append(folder, record)
    told = record.get("found", "")
    values = [f"{v:.3f}" for v in list(record["worth"].values())[:1] if v is not None]
    print(f"{record['way']:12} split {record['split']}: {' '.join(values)} {told}", flush=True)


def interval(values: Sequence[float], ratio: float) -> tuple[float, float, float]:
    """Return the mean over splits and its 95 % interval.

    Args:
        values: One a split.
        ratio: Unseen networks for each labelled one; 0 takes splits as independent.

    >>> [round(v, 3) for v in interval([0.4, 0.5, 0.6, 0.5], 1.0)]
    [0.5, 0.21, 0.79]
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf(0.975, len(values) - 1)) * _error(values, ratio)
    return mean, mean - half, mean + half


def p_value(values: Sequence[float], ratio: float) -> float:
    """Return the two-sided p of a mean of 0, see `interval`; 1 where nothing can be said."""
    error = _error(values, ratio) if len(values) > 1 else 0.0
    if not error:
        return 1.0
    return 2 * float(stats.t.sf(abs(float(np.mean(values))) / error, len(values) - 1))


def _error(values: Sequence[float], ratio: float) -> float:
    return math.sqrt(float(np.var(values, ddof=1)) * (1 / len(values) + ratio))


def table(asked: argparse.Namespace) -> None:
    """Print what the log says, one setting after another."""
    found = records(asked.folder)
    for setting in dict.fromkeys(record["setting"] for record in found):
        print("\n".join(report([r for r in found if r["setting"] == setting])))


def report(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the table of one setting: ours against all else, paired by split."""
    first = found[0]
    ratio = first["unseen"] / first["labels"]
    yield f"## {first['benchmark']}, {first['objective']}, space {first['space']}\n"
    yield (
        f"{first['labels']} labels, {first['unseen']} networks unseen, setting {first['setting']}\n"
    )
    known = {r["split"]: r for r in found if r["way"] == KNOWN}
    by_way: dict[str, dict[int, float]] = {}
    for record in found:
        if record["way"] != KNOWN:
            by_way.setdefault(record["way"], {})[record["split"]] = (
                record["worth"][record["way"]] or 0.0
            )
    ours = [way for way in by_way if way.startswith("ours")]
    rivals = {**by_way, **_rivals(known)}
    columns = [
        (f"{way} less it{where}", _differences(way, by_way[way], rivals, shared))
        for way in ours
        for where, shared in (("", ratio), (", on these networks", 0.0))
    ]
    heads = ["what", "splits", "on unseen networks", *(head for head, _ in columns)]
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    means = {name: interval(list(v.values()), ratio) for name, v in rivals.items()}
    for name in sorted(rivals, key=lambda name: -means[name][0]):
        told = " | ".join(cells.get(name, "") for _, cells in columns)
        yield f"| {name} | {len(rivals[name])} | {_shown(*means[name])} | {told} |"
    yield ""


def _differences(
    way: str, mine: Mapping[int, float], rivals: Mapping[str, Mapping[int, float]], ratio: float
) -> dict[str, str]:
    """Return by how much a way is ahead of each other one, paired by split; p is Holm's of all."""
    gains = {
        name: [mine[s] - theirs[s] for s in sorted(mine.keys() & theirs.keys())]
        for name, theirs in rivals.items()
        if name != way and mine.keys() & theirs.keys()
    }
    corrected = holm([p_value(gain, ratio) for gain in gains.values()])
    return {
        name: _shown(*interval(gain, ratio), sign=True) + (f", p {p:.3f}" if len(gain) > 1 else "")
        for (name, gain), p in zip(gains.items(), corrected, strict=True)
    }


def _rivals(known: Mapping[int, Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """Return the worth of what was not searched, by name and split; 0 where there is no order.

    `best by labels` is the hand-made proxy that the labels would have one choose, split by split.
    """
    found: dict[str, dict[int, float]] = {}
    for split, record in known.items():
        worth_of = {name: value or 0.0 for name, value in record["worth"].items()}
        for name, value in worth_of.items():
            found.setdefault(name, {})[split] = value
        seen = {name: value for name, value in record["seen"].items() if value is not None}
        found.setdefault("best by labels", {})[split] = worth_of[max(seen, key=seen.__getitem__)]
    return found


def _shown(mean: float, low: float, high: float, *, sign: bool = False) -> str:
    form = "{:+.3f}" if sign else "{:.3f}"
    told = form.format(mean)
    if math.isnan(low):
        return told
    told += f" [{form.format(low)}, {form.format(high)}]"
    return f"**{told}**" if sign and (low > 0 or high < 0) else told


def main(words: Sequence[str] | None = None) -> None:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run", help="run every way on every split that is not done")
    runs.set_defaults(call=run)
    runs.add_argument("--benchmark", default="starter")
    runs.add_argument("--space", default="prediction", choices=sorted(SPACES))
    runs.add_argument("--splits", type=int, default=2, help="how many")
    runs.add_argument("--first", type=int, default=0, help="the first of them")
    runs.add_argument("--ways", default=",".join(WAYS))
    runs.add_argument("--label", default="", help="what ways with these options are called")
    runs.add_argument("--known", action=argparse.BooleanOptionalAction, default=True)
    runs.add_argument("--option", action="append", default=[], help="name=value, of the search")
    runs.add_argument("--evaluator", action="append", default=[], help="name=value")
    tables = commands.add_parser("table", help="print what is done")
    tables.set_defaults(call=table)
    for command in (runs, tables):
        command.add_argument("--folder", type=Path, required=True)
    asked = parser.parse_args(words)
    asked.call(asked)


if __name__ == "__main__":
    main()
