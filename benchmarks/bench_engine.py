"""The engine alone, without measurements: proposals, canonical forms, fingerprints and the sieve.

Beside each stands what DEAP's own loop does in its place, on the same primitive set and in the
same run: parents in a population of the same size, `cxOnePoint` and `mutUniform`, the text of
a tree as its name, `gp.compile` and a call of the compiled lambda. One thread works; ways
alternate; the least CPU time of several rounds counts. A whole generation through shared
sub-expressions is in bench_expressions.py.

    python benchmarks/bench_engine.py
    python benchmarks/bench_engine.py --count 100 --rounds 2
"""

import argparse
import copy
import json
import math
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from deap import gp
from rich.console import Console
from rich.table import Table

from autoproxy.breeding.grammar import Grammar
from autoproxy.breeding.variation import sprout
from autoproxy.evaluation import Individual
from autoproxy.language import canonical as forms
from autoproxy.language import parse as reading
from autoproxy.language import simplify as simpler
from autoproxy.language.canonical import canonical, key, order_key
from autoproxy.language.complexity import complexity
from autoproxy.language.expression import Expression
from autoproxy.language.parse import parse
from autoproxy.language.simplify import simplest
from autoproxy.language.terminals import VOCABULARY
from autoproxy.language.types import Kind
from autoproxy.search.config import SearchConfig
from autoproxy.search.proposals import Parents, Proposer
from autoproxy.seeding import lend_to_global, stream
from autoproxy.sieve.sieve import Sieve
from evaluators.behaviour import row_local
from evaluators.pruning import PruningEvaluator
from search_spaces.importance import SPACE

POPULATION = 64
Way = Callable[[], object]


def population(grammar: Grammar) -> list[Expression]:
    """Return parents as a search has them: canonical, within limits, all different."""
    rng = stream(0, "bench_engine")
    found: dict[str, Expression] = {}
    while len(found) < POPULATION:
        made = sprout(grammar, rng, low=1, high=rng.randint(2, 5), full=rng.random() < 0.5)
        if not SPACE.violation(made):
            found.setdefault(key(made), canonical(made))
    return list(found.values())


class Ours:
    """What this engine does with a population."""

    def __init__(self, grammar: Grammar, evaluator: PruningEvaluator, parents: Sequence[Any]):
        self.grammar, self.evaluator = grammar, evaluator
        self.blindness = evaluator.blindness
        individuals = tuple(
            Individual(
                text=str(parent),
                key=key(parent),
                complexity=complexity(parent),
                value=float(place),
                slot=place,
            )
            for place, parent in enumerate(parents)
        )
        self.parents = Parents(individuals)

    def proposals(self, count: int, tries: int = 1) -> list[Expression]:
        """Breed children; with one try whatever comes out first stands."""
        config = SearchConfig(seed=0, batch=count, tries=tries, population=POPULATION)
        novelty = Sieve(SPACE, self.evaluator).novelty if tries > 1 else str
        objective = self.evaluator.objective
        slots = range(POPULATION, POPULATION + count)
        found = Proposer(self.grammar, config, objective).propose(slots, self.parents, novelty)
        return [proposal.expression for proposal in found]

    def sieved(self, children: Sequence[Expression]) -> object:
        return Sieve(SPACE, self.evaluator, reject=1.4).judge(list(enumerate(children)))


class Deaps:
    """What DEAP's loop does with the same population."""

    def __init__(self, grammar: Grammar, parents: Sequence[Expression]) -> None:
        self.parents = [grammar.to_tree(parent) for parent in parents]
        self.words = copy.copy(grammar.set)
        self.words.arguments = sorted(SPACE.terminals)
        self.words.context = dict(self.words.context)
        self._scalar = grammar.type_of(Kind.SCALAR)
        self._grammar = grammar

    def proposals(self, count: int) -> list[gp.PrimitiveTree]:
        """Vary copies of parents, two of five by crossover, as DEAP's `varOr` does."""
        rng, made = stream(0, "bench_engine", "DEAP"), []
        with lend_to_global(rng):
            while len(made) < count:
                if random.random() < 0.4:  # noqa: S311 - lent by a named stream
                    pair = [copy.deepcopy(tree) for tree in random.sample(self.parents, 2)]
                    made.append(gp.cxOnePoint(*pair)[0])
                else:
                    tree = copy.deepcopy(random.choice(self.parents))  # noqa: S311
                    made.append(gp.mutUniform(tree, self._fresh, self.words)[0])
        return made

    def _fresh(self, pset: Any, type_: Any) -> list[Any]:
        """DEAP's own generator fails where a type has no terminal; the grammar's does not."""
        del pset
        if not self._grammar.can_grow(type_):
            return [self._grammar.constant_node(1.0, type_)]
        return self._grammar.generate(0, 2, type_, full=False)

    def compiled(self, trees: Sequence[gp.PrimitiveTree]) -> list[Callable[..., Any]]:
        functions = []
        for number, tree in enumerate(trees):
            for place, node in enumerate(tree):
                known = isinstance(node, gp.Primitive) or node.name in VOCABULARY
                if not known and node.ret is self._scalar:  # meanings take tensors
                    name = f"constant_{number}_{place}"
                    self.words.context[name] = torch.tensor([[float(node.name)]])
                    tree[place] = gp.Terminal(name, True, node.ret)
            functions.append(gp.compile(tree, self.words))
        return functions


def forget() -> None:
    """Drop all that is kept of formulas, as when each is seen for the first time."""
    forms._KNOWN.clear()  # noqa: SLF001 - nobody else has reason to forget
    for cached in (
        forms.nonnegative,
        reading.kind_of,
        reading.of_numbers,
        simpler.simplify,
        simpler.simplest,
    ):
        cached.cache_clear()


def cold(way: Way) -> Way:
    def run() -> object:
        forget()
        return way()

    return run


def least(ways: Mapping[str, Way], rounds: int) -> dict[str, float]:
    """Return the least CPU seconds of each way; what `cold` forgets counts with it."""
    best = dict.fromkeys(ways, math.inf)
    for _ in range(rounds):
        for name, way in ways.items():
            begin = time.thread_time()
            way()
            best[name] = min(best[name], time.thread_time() - begin)
    return best


def on_rows(evaluator: PruningEvaluator, rows: int) -> list[dict[str, Any]]:
    """Return the terminals of each layer's first rows, on which DEAP's lambdas are called."""
    model = evaluator._model  # noqa: SLF001 - statistics have no other way out
    seed = evaluator.protocol()["seed"]
    names = frozenset(SPACE.terminals)
    statistics = model.statistics(seed, names)
    found = []
    for layer in model.weights:
        inputs = model.inputs(layer, names, statistics, seed)
        found.append({k: v[:rows] if v.shape[0] > 1 else v for k, v in inputs.items()})
    return found


def measure(count: int, rounds: int) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Return seconds a piece by step and way, and what the pieces were."""
    grammar = Grammar(SPACE)
    with tempfile.TemporaryDirectory() as cache:
        evaluator = PruningEvaluator.from_options({}, cache=Path(cache), notice=print)
        evaluator.prepare(SPACE.terminals)
        parents = population(grammar)
        ours, deaps = Ours(grammar, evaluator, parents), Deaps(grammar, parents)
        children = ours.proposals(count)
        fitting = [child for child in children if not SPACE.violation(child)]
        texts = [str(child) for child in fitting]
        local = [child for child in fitting if row_local(child)]
        trees = [grammar.to_tree(child) for child in fitting]
        local_trees = [grammar.to_tree(child) for child in local]
        layers = on_rows(evaluator, 8)
        blindness, root = evaluator.blindness, SPACE.root

        def lambdas() -> None:
            functions = deaps.compiled([copy.copy(tree) for tree in local_trees])
            for inputs in layers:
                operands = [inputs[name] for name in deaps.words.arguments]
                for function in functions:
                    function(*operands)

        def order_keys() -> None:
            for child in fitting:
                order_key(simplest(child, blindness, root), blindness)

        steps: dict[str, tuple[int, Mapping[str, Way]]] = {
            "a proposal": (
                count,
                {
                    "DEAP: copy and vary": lambda: deaps.proposals(count),
                    "ours: select and vary": lambda: ours.proposals(count),
                    "ours, up to 8 tries for a new one": cold(lambda: ours.proposals(count, 8)),
                },
            ),
            "a name": (
                len(fitting),
                {
                    "DEAP: str(tree)": lambda: [str(tree) for tree in trees],
                    "DEAP: str, gp.compile": lambda: deaps.compiled([copy.copy(t) for t in trees]),
                    "ours: canonical, cold": cold(lambda: [canonical(c) for c in fitting]),
                    "ours: key, cold": cold(lambda: [key(c) for c in fitting]),
                    "ours: key, warm": lambda: [key(c) for c in fitting],
                    "ours: simplest and order key, cold": cold(
                        lambda: [
                            order_key(simplest(c, blindness, root), blindness) for c in fitting
                        ]
                    ),
                    "ours: simplest and order key, warm": lambda: [
                        order_key(simplest(c, blindness, root), blindness) for c in fitting
                    ],
                    "ours: parse a text": lambda: [parse(text) for text in texts],
                },
            ),
            "a fingerprint": (
                len(local),
                {
                    "DEAP: compile, call on the same rows": lambdas,
                    "ours: one by one": lambda: [evaluator.behaviour([c]) for c in local],
                    "ours: a batch": lambda: evaluator.behaviour(local),
                },
            ),
            "the whole sieve, masks of the kept included": (
                len(children),
                {"ours, cold": cold(lambda: ours.sieved(children))},
            ),
        }
        found = {
            title: {name: seconds / pieces for name, seconds in least(ways, rounds).items()}
            for title, (pieces, ways) in steps.items()
        }
        verdicts = Sieve(SPACE, evaluator, reject=1.4).judge(list(enumerate(children)))
    sizes = [child.size for child in fitting]
    told = {
        "children": len(children),
        "mean_size": sum(sizes) / len(sizes),
        "fates": {
            name: sum(getattr(v, "rule", "kept") == name for v in verdicts)
            for name in sorted({str(getattr(v, "rule", "kept")) for v in verdicts})
        },
    }
    return found, told


def table_of(found: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(title="The engine alone, one thread")
    for heading in ("way", "us a piece", "a second", "x the first"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for title, ways in found.items():
        table.add_section()
        table.add_row(f"[bold]{title}[/bold]")
        first = next(iter(ways.values()))
        for name, spent in ways.items():
            row = (f"{1e6 * spent:.1f}", f"{1 / spent:,.0f}", f"{spent / first:.2f}")
            table.add_row(name, *row)
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Read options, measure, and print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=512, help="children")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)
    found, told = measure(asked.count, asked.rounds)
    Console().print(table_of(found))
    print(json.dumps({"torch": torch.__version__, **told, "seconds": found}, indent=2))


if __name__ == "__main__":
    main()
