"""How many candidates an hour a search scores, beside the published way, in one process.

The published way (Pruner-Zero's and LPZero's code) measures each candidate alone: statistics
anew, a full sort of every row, perplexity over all validation text, weights from a copy. Here
it gets what the search got: the same model, text, tokens and candidates; its perplexity takes
no dense model beside it. Runs of both alternate, so that a busy machine slows both.

    python benchmarks/bench_candidates.py
    python benchmarks/bench_candidates.py --model FOLDER --length 512 \
        --calibration A.txt --validation B.txt --text C.txt
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from autoproxy.evaluation import Individual, Outcome
from autoproxy.language.expression import Expression
from autoproxy.language.program import Program
from autoproxy.search.config import SearchConfig
from autoproxy.search.fate import Fate
from autoproxy.search.loop import Search
from autoproxy.search.state import Step
from autoproxy.sieve.rules import Kept
from evaluators.layers import prunable, weights_of
from evaluators.perplexity import block_losses, perplexity
from evaluators.pruning import PruningEvaluator
from evaluators.statistics import collect
from evaluators.text import blocks, read_text
from search_spaces.importance import SPACE

CALIBRATION_BLOCKS, VALIDATION_BLOCKS = 16, 4


class Scratch:
    """A memory that forgets nothing within a run, and knows nothing before it."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, float], Outcome] = {}
        self.scored: list[Expression] = []
        self.decided = 0

    def recall(self, key: str, protocol: str, fidelity: float) -> Outcome | None:
        del protocol
        return self.known.get((key, fidelity))

    def keep(self, kept: Kept, protocol: str, fidelity: float, outcome: Outcome) -> None:
        del protocol
        self.known[kept.key, fidelity] = outcome

    def note(self, fate: Fate) -> None:
        self.decided += 1
        if fate.fate != "dropped":
            self.scored.append(fate.expression)

    def settle(self) -> None:
        """Nothing waits."""

    def advance(self, step: Step) -> None:
        """No run is resumed here."""

    def steps(self) -> tuple[list[Step], Callable[[int], Individual]]:
        return [], {}.__getitem__


def published_way(
    evaluator: PruningEvaluator, calibration: torch.Tensor, text: torch.Tensor, metric: Expression
) -> float:
    """Score one candidate as the published code does, and return its perplexity."""
    loaded = evaluator.loaded
    weights = weights_of(prunable(loaded.model))
    statistics = collect(loaded, calibration, SPACE.terminals)
    copies = {name: weight.clone() for name, weight in weights.items()}
    program = Program([metric])
    for name, weight in weights.items():
        inputs = {"W": weight, **statistics[name]}
        (values,) = program.run({t: inputs[t] for t in program.terminals | {"W"}})
        order = values.expand(weight.shape).sort(dim=1, stable=True).indices
        weight.scatter_(1, order[:, : weight.shape[1] // 2], 0.0)
    found = perplexity(block_losses(loaded.model, text))
    for name, weight in weights.items():
        weight.copy_(copies[name])
    return found


def run(options: dict[str, Any], evaluations: float, rounds: int) -> dict[str, Any]:
    """Alternate searches and published scorings, and return rates and their ratio."""
    options = {**options, "calibration_blocks": CALIBRATION_BLOCKS}
    options["validation_blocks"] = VALIDATION_BLOCKS
    decided = scored = 0
    ours = theirs = setup = 0.0
    measured = 0
    for seed in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            evaluator = PruningEvaluator.from_options(options, cache=Path(cache), notice=print)
            memory = Scratch()
            start = time.perf_counter()
            evaluator.prepare(SPACE.terminals)
            setup += time.perf_counter() - start
            config = SearchConfig(seed=seed, evaluations=evaluations)
            start = time.perf_counter()
            for _ in Search(SPACE, evaluator, memory, config).run():
                pass
            ours += time.perf_counter() - start
        decided, scored = decided + memory.decided, scored + len(memory.scored)
        calibration, text = _texts(evaluator, options)
        for metric in memory.scored[:3]:
            start = time.perf_counter()
            published_way(evaluator, calibration, text, metric)
            theirs += time.perf_counter() - start
            measured += 1
    # The statistics are measured once a run, however long; here they count in full.
    ours += setup
    rates = {
        "scored_per_hour": 3600 * scored / ours,
        "decided_per_hour": 3600 * decided / ours,
        "published_per_hour": 3600 * measured / theirs,
    }
    return {
        "model": evaluator.loaded.name,
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "evaluations": evaluations,
        "setup_seconds": setup / rounds,
        **rates,
        "ratio_scored": rates["scored_per_hour"] / rates["published_per_hour"],
        "ratio_decided": rates["decided_per_hour"] / rates["published_per_hour"],
    }


def _texts(
    evaluator: PruningEvaluator, options: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    length = evaluator.protocol()["length"]
    tokenizer = evaluator.loaded.tokenizer
    names = options.get("calibration", ["topics:calibration"])
    calibration = blocks(
        read_text(names),
        tokenizer,
        length=length,
        count=CALIBRATION_BLOCKS,
        role="calibration",
        seed=0,
    )
    text = blocks(
        read_text(options.get("validation", ["topics:validation"])),
        tokenizer,
        length=length,
        count=VALIDATION_BLOCKS,
        role="validation",
    )
    return calibration, text


def main(argv: Sequence[str] | None = None) -> None:
    """Read options, run, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="starter")
    parser.add_argument("--calibration", nargs="+")
    parser.add_argument("--validation", nargs="+")
    parser.add_argument("--text", nargs="+")
    parser.add_argument("--length", type=int)
    parser.add_argument("--evaluations", type=float, default=40.0)
    parser.add_argument("--rounds", type=int, default=3)
    asked = vars(parser.parse_args(argv))
    torch.set_num_threads(1)
    evaluations, rounds = asked.pop("evaluations"), asked.pop("rounds")
    options = {name: value for name, value in asked.items() if value is not None}
    print(json.dumps(run(options, evaluations, rounds), indent=2))


if __name__ == "__main__":
    main()
