"""Arithmetic of a generation of 64 expressions, beside DEAP's compiled lambdas run one by one.

The expressions are drawn from the grammar of the space `importance`: a first generation of random
ones, and one of children of the hand-made metrics. They run on layers of the starter model with
statistics that are measured on it, and, since those layers fit into a cache, on one of its layers
repeated to 4096 x 4096. One thread works; ways alternate; the least CPU time of several rounds
counts. DEAP's lambdas call the same meanings, with the same numbers.

    python benchmarks/bench_expressions.py
    python benchmarks/bench_expressions.py --side 1024 --rounds 2
"""

import argparse
import copy
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from deap import gp
from rich.console import Console
from rich.table import Table
from torch import Tensor

from autoproxy.breeding.grammar import Grammar
from autoproxy.breeding.variation import sprout
from autoproxy.evaluation import Individual
from autoproxy.language.canonical import key
from autoproxy.language.complexity import complexity
from autoproxy.language.expression import Expression
from autoproxy.language.program import Program
from autoproxy.language.terminals import VOCABULARY
from autoproxy.language.types import Kind
from autoproxy.search.config import SearchConfig
from autoproxy.search.proposals import Parents, Proposer
from autoproxy.seeding import stream
from autoproxy.sieve.sieve import Sieve
from evaluators.pruning import PruningEvaluator
from evaluators.statistics import collect, noise
from evaluators.text import blocks, read_text
from search_spaces.importance import SPACE

COUNT = 64
Layers = Sequence[Mapping[str, Tensor]]


def random_ones(grammar: Grammar, seed: int) -> list[Expression]:
    """Return a first generation: ramped half-and-half, within the limits of the space."""
    rng = stream(seed, "bench_expressions", 0)
    made: list[Expression] = []
    while len(made) < COUNT:
        high = rng.randint(2, 5)
        found = sprout(grammar, rng, low=1, high=high, full=rng.random() < 0.5)
        if not SPACE.violation(found):
            made.append(found)
    return made


def children(grammar: Grammar, evaluator: PruningEvaluator, seed: int) -> list[Expression]:
    """Return what a search proposes whose population is the hand-made metrics."""
    population = tuple(
        Individual(
            text=str(parent),
            key=key(parent),
            complexity=complexity(parent),
            value=float(place),
            slot=place,
            origin="seed",
        )
        for place, parent in enumerate(SPACE.seeds)
    )
    config = SearchConfig(seed=seed, batch=COUNT)
    novelty = Sieve(SPACE, evaluator).novelty
    slots = range(len(population), len(population) + COUNT)
    proposer = Proposer(grammar, config, evaluator.objective)
    found = proposer.propose(slots, Parents(population), novelty)
    return [proposal.expression for proposal in found]


def lambdas(
    grammar: Grammar, expressions: Sequence[Expression]
) -> Callable[[Mapping[str, Tensor]], None]:
    """Return what calls DEAP's compiled lambda of each expression, one after another."""
    words = copy.copy(grammar.set)
    words.arguments = sorted(SPACE.terminals)
    words.context = dict(words.context)
    compiled, scalar = [], grammar.type_of(Kind.SCALAR)
    for number, expression in enumerate(expressions):
        tree = grammar.to_tree(expression)
        for place, node in enumerate(tree):
            known = isinstance(node, gp.Primitive) or node.name in VOCABULARY
            if not known and node.ret is scalar:  # meanings take tensors, but for exponents
                name = f"constant_{number}_{place}"
                words.context[name] = torch.tensor([[float(node.name)]])
                tree[place] = gp.Terminal(name, True, node.ret)
        compiled.append(gp.compile(tree, words))

    def run(inputs: Mapping[str, Tensor]) -> None:
        operands = [inputs[name] for name in words.arguments]
        for function in compiled:
            function(*operands)

    return run


def whole(program: Program, inputs: Mapping[str, Tensor]) -> None:
    for value in program.run(inputs):
        del value


def tiled(program: Program, inputs: Mapping[str, Tensor]) -> None:
    for _, values in program.run_in_tiles(inputs):
        for value in values:
            del value


def measure(
    grammar: Grammar, expressions: Sequence[Expression], layers: Layers, rounds: int
) -> dict[str, float]:
    """Return the least seconds that each way takes on all layers."""
    together, alone = Program(expressions), [Program([e]) for e in expressions]
    one_by_one = lambdas(grammar, expressions)
    ways: Mapping[str, Callable[[], object]] = {
        "DEAP's lambdas": lambda: [one_by_one(inputs) for inputs in layers],
        "one program each": lambda: [whole(p, i) for i in layers for p in alone],
        "one program each, tiles": lambda: [tiled(p, i) for i in layers for p in alone],
        "one program": lambda: [whole(together, inputs) for inputs in layers],
        "one program, tiles": lambda: [tiled(together, inputs) for inputs in layers],
    }
    best = dict.fromkeys(ways, math.inf)
    for _ in range(rounds):
        for name, way in ways.items():
            begin = time.thread_time()
            way()
            best[name] = min(best[name], time.thread_time() - begin)
    return best


def real_layers(evaluator: PruningEvaluator, count: int) -> list[dict[str, Tensor]]:
    """Return the terminals of the first layers of the starter model, measured on it."""
    loaded = evaluator.loaded
    text = blocks(
        read_text(["topics:calibration"]),
        loaded.tokenizer,
        length=evaluator.protocol()["length"],
        count=4,
        role="calibration",
        seed=0,
    )
    names = frozenset(SPACE.terminals) - {"W", "noise"}
    statistics = collect(loaded, text, names)
    made = []
    for name, found in list(statistics.items())[:count]:
        weight = loaded.model.get_parameter(f"{name}.weight").detach()
        made.append({"W": weight, "noise": noise(name, weight.shape, 0), **found})
    return made


def enlarged(inputs: Mapping[str, Tensor], side: int) -> dict[str, Tensor]:
    """Return a layer repeated until it has `side` rows and columns."""
    return {
        name: value.repeat(*(-(-side // size) if size > 1 else 1 for size in value.shape))[
            :side, :side
        ].contiguous()
        for name, value in inputs.items()
    }


def table_of(found: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(title=f"{COUNT} expressions, one thread")
    for heading in ("way", "ms", "x DEAP's lambdas", "x one program each"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for title, seconds in found.items():
        table.add_section()
        table.add_row(f"[bold]{title}[/bold]")
        first, second, *_ = seconds.values()
        for name, spent in seconds.items():
            table.add_row(
                name, f"{1000 * spent:.1f}", f"{spent / first:.2f}", f"{spent / second:.2f}"
            )
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Read options, measure, and print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=7, help="layers of the starter model")
    parser.add_argument("--side", type=int, default=4096, help="of the repeated layer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)
    grammar = Grammar(SPACE)
    with tempfile.TemporaryDirectory() as cache:
        evaluator = PruningEvaluator.from_options({}, cache=Path(cache), notice=print)
        layers = real_layers(evaluator, asked.layers)
        generations = {
            "random": random_ones(grammar, asked.seed),
            "children": children(grammar, evaluator, asked.seed),
        }
    found, nodes = {}, {}
    for title, expressions in generations.items():
        applications = sum(1 for e in expressions for node in e.walk() if node.operands)
        nodes[title] = (applications, Program(expressions).node_count)
        for where, on in (
            (f"{len(layers)} layers of the starter model", layers),
            (f"a layer of {asked.side} x {asked.side}", [enlarged(layers[0], asked.side)]),
        ):
            found[f"{title}, {where}"] = measure(grammar, expressions, on, asked.rounds)
    Console().print(table_of(found))
    print(json.dumps({"torch": torch.__version__, "nodes": nodes, "seconds": found}, indent=2))


if __name__ == "__main__":
    main()
