"""Scores of networks a second: one pass over kept statistics against the published way.

The published way builds every network, gathers its tensors and reads one formula, for each
candidate anew. Both give the same scores, which is checked.

    python benchmarks/bench_proxies.py
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import torch

from autoproxy.breeding.grammar import Grammar
from autoproxy.breeding.variation import sprout
from autoproxy.language.canonical import canonical
from autoproxy.language.expression import Expression
from autoproxy.language.prediction import features
from autoproxy.seeding import stream
from evaluators.benchmarks.table import open_benchmark
from evaluators.scoring import Gathering, Reader, Scorer, Scores
from search_spaces.prediction import DATA_ONLY


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=12)
    parser.add_argument("--candidates", type=int, default=64)
    parser.add_argument("--published", type=int, default=4, help="candidates done the slow way")
    options = parser.parse_args()
    torch.set_num_threads(1)
    candidates, places = _candidates(options.candidates), range(options.networks)
    with tempfile.TemporaryDirectory() as folder:
        wanted = frozenset[str]().union(*(c.terminals() for c in candidates))
        _, gathered = _timed(_scorer(folder, wanted), candidates[:1], places, keep=True)
        ours, passed = _timed(_scorer(folder, wanted), candidates, places, keep=True)
        published = 0.0
        for candidate, mine in zip(candidates[: options.published], ours, strict=False):
            own = _scorer(folder, candidate.terminals())
            (theirs,), seconds = _timed(own, [candidate], places, keep=False)
            assert torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine == theirs
            published += seconds / options.published
    count = options.networks * options.candidates
    distinct = {feature for candidate in candidates for feature in features(candidate)}
    alone = published * options.candidates
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{options.networks} networks, {options.candidates} candidates, {len(distinct)} features")
    print(f"gathering {gathered:.2f} s, once; a pass {passed:.2f} s, {count / passed:.0f} scores/s")
    print(f"the published way: {options.networks / published:.1f} scores/s")
    print(f"ratio {alone / (gathered + passed):.1f} with gathering, {alone / passed:.1f} without")
    print(f"peak memory of the process: {peak:.0f} MiB")


def _scorer(folder: str, wanted: frozenset[str]) -> Scorer:
    benchmark = open_benchmark("starter", None)
    limit = 8 * 10**9
    return Scorer(Reader(benchmark, Gathering(), wanted=wanted, folder=Path(folder), limit=limit))


def _timed(
    scorer: Scorer, candidates: list[Expression], places: range, *, keep: bool
) -> tuple[list[Scores], float]:
    began = time.perf_counter()
    found = scorer.scores(candidates, places, keep=keep)
    return found, time.perf_counter() - began


def _candidates(count: int) -> list[Expression]:
    """Return random well-formed candidates of the space that are all different."""
    grammar = Grammar(DATA_ONLY)
    found: dict[Expression, None] = {}
    draw = stream(0, "bench", "proxies")
    while len(found) < count:
        expression = canonical(sprout(grammar, draw, low=2, high=5, full=False))
        if expression.terminals() and DATA_ONLY.violation(expression) is None:
            found[expression] = None
    return list(found)


if __name__ == "__main__":
    main()
