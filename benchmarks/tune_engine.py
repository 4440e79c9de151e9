"""Choosing the engine's own options, once: Optuna tries them on the starter models.

    python benchmarks/tune_engine.py run --folder .tune --trials 60
    python benchmarks/tune_engine.py table --folder .tune

A trial runs the search with some options on every task (a space, a model, a share to drop) from
some seeds, and is worth the mean of ln(best value) after a third of the budget and after all of
it, each as a difference to the defaults' (the first trial): 0 is as good as the defaults, -0.01
is one per cent lower. Trials share one ledger, so later ones cost less; several processes may
share a folder. Tasks and seeds are not those of bench_search.py.
"""

import argparse
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import optuna
import torch
from bench_search import Meter, at

from autoproxy.ledger.ledger import Ledger
from autoproxy.search.config import SearchConfig
from autoproxy.search.loop import Search
from autoproxy.spaces import SearchSpace
from evaluators.pruning import PruningEvaluator
from search_spaces.importance import SPACE as IMPORTANCE
from search_spaces.pruner_zero import PRUNER_ZERO

EVALUATIONS = 60.0
LOOKS = (EVALUATIONS / 3, EVALUATIONS)
SEEDS = (1000, 1001)
TASKS: Mapping[str, tuple[SearchSpace, Mapping[str, Any]]] = {
    "importance, LLaMA, 60 %": (IMPORTANCE, {"model": "starter", "sparsity": "0.6"}),
    "pruner-zero, LLaMA, 60 %": (PRUNER_ZERO, {"model": "starter", "sparsity": "0.6"}),
    "importance, GPT-2, 50 %": (IMPORTANCE, {"model": "starter-gpt2", "sparsity": "0.5"}),
}
BLOCKS, LENGTH = 4, 64
DEFAULTS = {
    name: getattr(SearchConfig(seed=0), name)
    for name in (
        *("population", "batch", "first_batch", "crossover", "mutation", "tune", "immigrants"),
        *("tournament", "selection", "reject", "promote", "islands", "lifespan"),
    )
}


def suggested(trial: optuna.Trial) -> dict[str, Any]:
    """Return the options of a trial."""
    return {
        "population": trial.suggest_int("population", 4, 48, log=True),
        "batch": trial.suggest_int("batch", 4, 32, log=True),
        "first_batch": trial.suggest_int("first_batch", 16, 128, log=True),
        "crossover": trial.suggest_float("crossover", 0.0, 0.8),
        "mutation": trial.suggest_float("mutation", 0.0, 0.8),
        "tune": trial.suggest_float("tune", 0.0, 0.5),
        "immigrants": trial.suggest_float("immigrants", 0.0, 0.3),
        "tournament": trial.suggest_int("tournament", 1, 5),
        "selection": trial.suggest_categorical("selection", ["nsga2", "nsga2-cost", "best"]),
        "reject": trial.suggest_float("reject", 1.02, 1.6),
        "promote": trial.suggest_float("promote", 0.05, 0.6),
        "islands": trial.suggest_int("islands", 1, 3),
        "lifespan": trial.suggest_categorical("lifespan", [0, 5, 15]),
    }


def curves(
    options: Mapping[str, Any], held: Mapping[str, tuple[PruningEvaluator, Ledger, str]]
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield task, seed, and what a search with some options spent and found."""
    for task, (space, _) in TASKS.items():
        evaluator, ledger, protocol = held[task]
        for seed in SEEDS:
            meter = Meter(ledger, protocol, BLOCKS, LENGTH)
            config = SearchConfig(**{**options, "seed": seed, "evaluations": EVALUATIONS})
            *_, state = Search(space, evaluator, meter, config).run()
            record = {"curve": meter.curve, "spent": meter.spent, "finished": state.finished}
            yield task, seed, record


def run(asked: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    asked.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger.open(asked.folder / "ledger.sqlite"))
        held = {}
        for task, (space, options) in TASKS.items():
            given = {**options, "length": LENGTH, "validation_blocks": BLOCKS, "seed": 0}
            evaluator = stack.enter_context(
                PruningEvaluator.from_options(given, cache=asked.folder / "cache", notice=print)
            )
            evaluator.prepare(space.terminals)
            held[task] = evaluator, ledger, ledger.remember_protocol(evaluator.protocol())

        def worth(trial: optuna.Trial) -> float:
            logs = []
            for task, seed, record in curves(suggested(trial), held):
                values = [math.log(min(at(record, look), 1e3)) for look in LOOKS]
                trial.set_user_attr(f"{task}, seed {seed}", values)
                logs += values
            found = sum(logs) / len(logs)
            print(f"trial {trial.number}: {found:.4f} {trial.params}", flush=True)
            return found

        study = _study(asked.folder)
        if not study.trials:
            study.enqueue_trial(dict(DEFAULTS))
        study.optimize(worth, n_trials=asked.trials)


def _study(folder: Path) -> optuna.Study:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.log"))
    return optuna.create_study(
        study_name="engine",
        storage=optuna.storages.JournalStorage(backend),
        sampler=optuna.samplers.TPESampler(n_startup_trials=12, multivariate=True, group=True),
        load_if_exists=True,
    )


def table(asked: argparse.Namespace) -> None:
    study = _study(asked.folder)
    done = [t for t in study.trials if t.value is not None]
    base = done[0].value or 0.0
    print(f"{len(done)} trials; ln(value) against the defaults, lower is better\n")
    names = list(DEFAULTS)
    print("| trial | value | " + " | ".join(names) + " |")
    print("|---" * (2 + len(names)) + "|")
    for trial in [done[0], *sorted(done[1:], key=lambda t: t.value or 0.0)[: asked.best]]:
        cells = [trial.params[name] for name in names]
        shown = [f"{c:.2f}" if isinstance(c, float) else str(c) for c in cells]
        worth = (trial.value or 0.0) - base
        print(f"| {trial.number} | {worth:+.4f} | " + " | ".join(shown) + " |")
    importances = optuna.importance.get_param_importances(study)
    print("\nimportance: " + ", ".join(f"{n} {v:.2f}" for n, v in importances.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run")
    runs.add_argument("--folder", type=Path, required=True)
    runs.add_argument("--trials", type=int, default=60)
    runs.set_defaults(does=run)
    tables = commands.add_parser("table")
    tables.add_argument("--folder", type=Path, required=True)
    tables.add_argument("--best", type=int, default=8)
    tables.set_defaults(does=table)
    asked = parser.parse_args()
    asked.does(asked)


if __name__ == "__main__":
    main()
