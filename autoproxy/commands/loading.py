"""Opening spaces and evaluators by name, and what can be said of them before any work."""

import contextlib
import platform
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from autoproxy import plugins
from autoproxy.errors import AutoproxyError, ConfigError
from autoproxy.evaluation import Evaluator
from autoproxy.language.expression import Expression
from autoproxy.language.parse import kind_of
from autoproxy.language.types import Kind
from autoproxy.spaces import Baseline, SearchSpace

PACKAGES = ("torch", "transformers", "deap", "sympy", "numpy", "sqlalchemy")


class Condition(Protocol):
    """One condition under which an evaluator can say what a metric is worth on the report text."""

    def report_protocol(self) -> Mapping[str, Any]:
        """Return everything that determines a reported value but the calibration seed.

        Its entry `columns` lists what is reported, as `Column.to_json` has it, the one that ranks
        first; without it, reports have the columns of pruning.
        """
        ...

    def report(
        self, candidates: Sequence[Expression | str], seeds: Iterable[int]
    ) -> Iterator[Mapping[str, Any]]:
        """Yield `seed`, `index` and the values of each candidate, calibrated with each seed.

        A candidate is an expression, or the name of a method of the evaluator's own. Values go by
        the names of the columns, and of the ends of their intervals where there are any; all but
        the first may be left out, where they are undefined. A candidate that has no value comes
        with a `reason`, in words, instead.
        """
        ...

    def dense(self) -> Mapping[str, float] | None:
        """Return the values of the model as it is on the report text; None: there is no such."""
        ...


@runtime_checkable
class Illustrator(Protocol):
    """A condition that can also say what a picture of a formula's work would show."""

    def illustrate(
        self, expression: Expression, others: Mapping[str, Expression | str]
    ) -> Mapping[str, Any]:
        """Return plain values that a report draws.

        `kind` says of what: `masks`, rows with `layer`, `module`, `kept` and perhaps `shared`,
        the share of the kept that the metric called `against` keeps, too; or `order`, rows with
        `network`, `quality` and `scores` by name, where `discovered` is the formula.
        """
        ...


class OpenEvaluator(Evaluator, Protocol):
    """An evaluator that can also report, under each condition that it has."""

    @property
    def conditions(self) -> Sequence[Condition]:
        """What a report is made of, one table each."""
        ...

    def prepare(self, names: Iterable[str]) -> None:
        """Check all texts and measure what the terminals need, before the work begins."""
        ...


class Pruner(Protocol):
    """A kind of evaluator that can also write the model that an importance or a method prunes."""

    def root_of(self, options: Mapping[str, Any]) -> Kind:
        """Return the kind of the formulas that `prune` takes under some options."""
        ...

    def prune(
        self,
        options: Mapping[str, Any],
        candidate: Expression | str,
        folder: Path,
        *,
        check: bool,
        cache: Path,
        tell: Callable[[str, str | None], None],
    ) -> Mapping[str, Any]:
        """Fill an empty folder with the pruned model; return what was done, as plain values.

        The candidate is an importance, or the name of a method of the evaluator's own; then its
        facts are under `method`.
        """
        ...


class Tuner(Protocol):
    """A kind of evaluator that, opened, has `allocate(expression, trials=, tell=)`."""

    def root_of(self, options: Mapping[str, Any]) -> Kind:
        """Return the kind of the formulas that `allocate` takes under some options."""
        ...


class Ranker(Protocol):
    """A kind of evaluator that orders the networks of a benchmark."""

    def rank(
        self,
        options: Mapping[str, Any],
        proxies: Mapping[str, tuple[Expression | None, int]],
        *,
        cache: Path,
    ) -> Mapping[str, Any]:
        """Return scores, order and correlations of each proxy by name, as plain values.

        A proxy comes with its sign: 1 where large is good. One without an expression is a method
        of the evaluator's own.
        """
        ...


class Collector(Protocol):
    """A kind of evaluator whose measurements of a network an export can carry."""

    def collector_source(self, names: Iterable[str]) -> str:
        """Return the source of a module of torch alone that measures terminals of a network.

        Raises:
            ConfigError: It does not measure one of them.
        """
        ...


class Repeater(Protocol):
    """A kind of evaluator whose reports can be repeated from their protocols."""

    def options_of(self, protocol: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return plain options that give this report protocol again.

        What lies somewhere, such as a model, goes by the name that it has there.
        """
        ...


class BenchmarkKeeper(Protocol):
    """The attribute `benchmarks` of a kind of evaluator that orders networks of tables."""

    def listed(self, folder: Path) -> Sequence[Mapping[str, Any]]:
        """Return one row a benchmark, as `benchmarking.list_benchmarks` says."""
        ...

    def get(
        self, name: str, folder: Path, *, url: str | None, sha256: str | None
    ) -> Mapping[str, Any]:
        """Fetch a public table into the folder; return its row."""
        ...

    def build(
        self,
        name: str,
        options: Mapping[str, Any],
        folder: Path,
        *,
        tell: Callable[[int, int], None],
    ) -> Mapping[str, Any]:
        """Build a table, told how many networks are done of how many; return its row."""
        ...


class TaskRunner(Protocol):
    """A kind of evaluator whose conditions have `score_tasks(expression, harness)`."""

    def open_tasks(self, names: Sequence[str], *, limit: int | None, shots: int | None) -> object:
        """Find and read zero-shot tasks, before a model is loaded; return the harness."""
        ...


class CacheKeeper(Protocol):
    """A kind of evaluator that keeps statistics in a folder."""

    def tend_cache(self, folder: Path, *, clear: bool, limit: str | None) -> Mapping[str, Any]:
        """Clear or shrink the cache, where asked; return what it holds, as plain values."""
        ...


def space(name: str) -> SearchSpace:
    """Return the search space called `name`.

    Raises:
        ConfigError: There is none, or it is something else.
    """
    found = plugins.load("space", name)
    if not isinstance(found, SearchSpace):
        raise ConfigError(f"{name!r} is no SearchSpace but a {type(found).__name__}")
    return found


def evaluator(
    name: str,
    options: Mapping[str, Any],
    *,
    cache: Path,
    notice: Callable[[str], None],
) -> AbstractContextManager[OpenEvaluator]:
    """Return the evaluator called `name`, made with `options`; leaving it gives all back.

    Raises:
        ConfigError: There is none of that name, or it refuses the options.
    """
    found = plugins.load("evaluator", name)
    make = getattr(found, "from_options", None)
    if make is None:
        raise ConfigError(f"evaluator {name!r} has no from_options; see CONTRIBUTING.md")
    made: AbstractContextManager[OpenEvaluator] = make(options, cache=cache, notice=notice)
    return made


def methods(name: str) -> Mapping[str, str]:
    """Return what the evaluator called `name` can report beside expressions, with sources."""
    named = getattr(plugins.load("evaluator", name), "methods", None)
    found: Mapping[str, str] = named() if named else {}
    return found


def every_method() -> dict[str, Mapping[str, str]]:
    """Return the methods of all evaluators that are installed, by the evaluator's name.

    Those that cannot be imported are passed by: what is asked here is asked to tell people.
    """
    found: dict[str, Mapping[str, str]] = {}
    for name in plugins.names("evaluator"):
        with contextlib.suppress(AutoproxyError):
            found[name] = methods(name)
    return found


def every_space() -> tuple[SearchSpace, ...]:
    """Return all spaces that are installed, `importance` first, then by their plug-ins' names.

    Those that cannot be loaded are passed by, as in `every_method`.
    """
    found = []
    for name in sorted(plugins.names("space"), key=lambda name: (name != "importance", name)):
        with contextlib.suppress(AutoproxyError):
            found.append(space(name))
    return tuple(found)


def references(provider: Evaluator) -> Sequence[str]:
    """Return the methods of an evaluator that every report of a search shows besides."""
    return tuple(getattr(provider, "references", ()))


def first_seed(provider: Evaluator, seed: int) -> int:
    """Return the first seed of the reports of an evaluator: its own, or else that of the run.

    A seed of a report is of the calibration draw; an evaluator whose `seed` is of something else,
    such as a split, says by `first_seed` which draw its searches see.
    """
    return int(getattr(provider, "first_seed", seed))


def able(name: str, method: str, unable: str) -> Any:
    """Return the evaluator called `name`, as a kind that has a method which not every kind has.

    Args:
        name: Of the evaluator.
        method: What it must have; None stands for nothing.
        unable: What to say of those that have none, such as `runs no tasks`.

    Returns:
        What `Pruner`, `Tuner`, `Collector`, `TaskRunner` or `CacheKeeper` says; the caller says
        which.

    Raises:
        ConfigError: There is no evaluator of that name, or it lacks the method.
    """
    found = plugins.load("evaluator", name)
    if getattr(found, method, None) is None:
        raise ConfigError(f"evaluator {name!r} {unable}; see autoproxy list")
    return found


def check_terminals(asked: SearchSpace, provider: Evaluator) -> None:
    """See that the space asks for nothing that the evaluator lacks.

    Raises:
        ConfigError: It does, or its formulas are of a kind that the evaluator does not rate.
    """
    check_rated(asked, provider)
    missing = sorted(set(asked.terminals) - provider.provides)
    if missing:
        raise ConfigError(
            f"space {asked.name!r} asks for {', '.join(missing)}, which the evaluator does not "
            f"provide; it provides {', '.join(sorted(provider.provides))}"
        )


def check_rated(asked: SearchSpace, provider: Evaluator) -> None:
    """See that the evaluator rates formulas of the space's kind.

    Raises:
        ConfigError: It rates others alone.
    """
    rated = getattr(provider, "root", asked.root)  # of evaluators that rate one kind alone
    if rated is not asked.root:
        raise ConfigError(
            f"the formulas of space {asked.name!r} are of kind {asked.root.value}, but the "
            f"evaluator rates {rated.value} as it was asked; give a --space of that kind (see "
            "autoproxy list), or another --evaluator or --unit: --evaluator shrinking --unit heads "
            "rates what the space heads writes"
        )


def usable_baselines(asked: SearchSpace, provider: Evaluator) -> tuple[Baseline, ...]:
    """Return the hand-made metrics of the space that the evaluator can measure."""
    return tuple(
        baseline
        for baseline in asked.baselines
        if baseline.expression.terminals() <= provider.provides
        and kind_of(baseline.expression) is asked.root
    )


def needed_terminals(asked: SearchSpace, provider: Evaluator) -> frozenset[str]:
    """Return all terminals that a run over the space will read, baselines included."""
    used = (b.expression.terminals() for b in usable_baselines(asked, provider))
    return frozenset(asked.terminals).union(*used)


def manifest(asked: SearchSpace) -> dict[str, Any]:
    """Return versions, commit, machine and space: where a value came from, beside protocol."""
    commit, dirty = _commit()
    return {
        "autoproxy": version("autoproxy"),
        "packages": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "commit": commit,
        "dirty": dirty,
        "space": asked.name,
        "space_hash": asked.digest,
    }


def _commit() -> tuple[str | None, bool | None]:
    """Return the commit of the checkout that this code runs from, where it is one."""
    here = Path(__file__).parent
    try:
        top = _git(here, "rev-parse", "--show-toplevel")
        if Path(top) / "autoproxy" / "commands" != here:
            return None, None
        return _git(here, "rev-parse", "HEAD"), bool(_git(here, "status", "--porcelain"))
    except (OSError, subprocess.SubprocessError, PackageNotFoundError):
        return None, None


def _git(where: Path, *words: str) -> str:
    command = ["git", "-C", str(where), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)  # noqa: S603 - fixed words
    return done.stdout.strip()
