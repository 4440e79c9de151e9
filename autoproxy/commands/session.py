"""One run from plan to leaderboard: baselines, search, random search, finals, report, export."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import psutil

from autoproxy.columns import REFERENCE
from autoproxy.commands import loading
from autoproxy.commands.boards import write_leaderboard
from autoproxy.commands.crew import Crew
from autoproxy.commands.memory import LedgerMemory
from autoproxy.commands.metrics import write_metric
from autoproxy.commands.naming import check_free, check_ledger, check_name, default_name
from autoproxy.commands.plan import Plan, make_plan
from autoproxy.commands.progress import Clock, Progress, Show
from autoproxy.commands.reporting import Named, Reporter, best_of
from autoproxy.commands.summary import Findings, Reported, summarise
from autoproxy.commands.telling import Teller
from autoproxy.commands.worker import Job
from autoproxy.commands.workspace import (
    ARCHIVE,
    RANDOM_ARCHIVE,
    RANDOM_SUFFIX,
    SUMMARY,
    Workspace,
    write_json,
    write_text,
)
from autoproxy.errors import AutoproxyError, ConfigError
from autoproxy.evaluation import Failed, Individual, Measured, Outcome, content_hash
from autoproxy.interruption import Uninterrupted
from autoproxy.language.canonical import canonical, key
from autoproxy.language.expression import Expression
from autoproxy.ledger.connection import without_account
from autoproxy.ledger.hall_of_fame import HallOfFame
from autoproxy.ledger.ledger import Ledger
from autoproxy.ledger.measured import Archive
from autoproxy.ledger.records import Evaluation, RunRecord
from autoproxy.search.config import SearchConfig
from autoproxy.search.desk import Desk
from autoproxy.search.loop import Search, finalists
from autoproxy.search.state import SearchState
from autoproxy.search.tasks import Keep, Recall, Task
from autoproxy.spaces import Baseline, SearchSpace


@dataclass(frozen=True, slots=True)
class Session:
    """One run: what was asked, where its results go, and who watches.

    Attributes:
        plan: What was asked.
        workspace: Where results go.
        show: Told of every step.
        run: Name of an existing run to go on with; None starts a new one.
        crew: Who measures.
    """

    plan: Plan
    workspace: Workspace
    show: Show
    run: str | None = None
    crew: Crew = field(default_factory=Crew)

    def execute(self) -> dict[str, Any]:
        """Do the whole run and return its summary, which is also in the run's folder.

        Raises:
            AutoproxyError: Something that the user can mend; what was measured is kept.
        """
        self.workspace.prepare()
        space = loading.space(self.plan.space)
        asked = self.plan.name if self.run is None else None
        if asked is not None:
            check_name(self.workspace, asked, space)
        options = {"seed": self.plan.search.seed, **self.plan.options}
        with contextlib.ExitStack() as stack:
            ledger = stack.enter_context(Ledger.open(self.workspace.ledger))
            if asked is not None:
                check_ledger(ledger, asked)
            self._greet(ledger)
            evaluator = stack.enter_context(
                loading.evaluator(
                    self.plan.evaluator,
                    options,
                    cache=self.workspace.cache,
                    notice=lambda text: self.show(Progress("statistics", notice=text)),
                )
            )
            loading.check_terminals(space, evaluator)
            terminals = loading.needed_terminals(space, evaluator)
            evaluator.prepare(terminals)
            name = self.run or asked or self._default_name(space, evaluator, ledger)
            stack.enter_context(self.workspace.locked(name))
            if self.run is None:  # once more: the statistics may have taken an hour
                check_free(self.workspace, name)
            job = Job.of(
                self.plan.evaluator,
                options,
                cache=self.workspace.cache,
                terminals=terminals,
                opened=evaluator,
            )
            desk = stack.enter_context(self.crew.desk(evaluator, job))
            return _Run(self, name, space, _Open(evaluator, desk, ledger)).execute()

    def _greet(self, ledger: Ledger) -> None:
        """Say that the work begins, and what is to be known of it."""
        self.show(Progress("statistics"))
        notices = []
        if self.run is not None and self.run not in ledger.run_names():
            notices.append(
                f"the ledger {without_account(self.workspace.ledger)} has no run {self.run!r}: "
                "what it measured is measured again, and what its folder holds written anew"
            )
        if not self.crew.alone and not self.plan.search.lag:
            told = "workers wait where a generation ends; a run with --set lag=1 keeps them busy"
            notices.append(told)
        for notice in notices:
            self.show(Progress("statistics", notice=notice))

    def _default_name(
        self, space: SearchSpace, evaluator: loading.OpenEvaluator, ledger: Ledger
    ) -> str:
        seed = self.plan.search.seed
        return default_name(self.workspace, ledger, space, evaluator.protocol(), seed)


def resume_session(
    workspace: Workspace, run: str | None, show: Show, crew: Crew | None = None
) -> Session:
    """Return the session that goes on with `run` (default: the latest), with any crew.

    Raises:
        ConfigError: There is no such run, another process is at work on it, or its ledger is not
            to be found.
    """
    name = workspace.existing_run(run)
    workspace, told = workspace.at_ledger_of(name)
    if told is not None:
        show(Progress("statistics", notice=told))
    with workspace.locked(name):
        plan = make_plan(workspace.run_folder(name) / "run.toml", run={}, search={}, evaluator={})
    return Session(plan, workspace, show, name, crew or Crew())


@dataclass(frozen=True, slots=True)
class _Open:
    """What a run holds open."""

    evaluator: loading.OpenEvaluator
    desk: Desk
    ledger: Ledger


class _Run:
    """The stages of one run, once everything that they need is open."""

    def __init__(
        self,
        session: Session,
        name: str,
        space: SearchSpace,
        held: _Open,
    ) -> None:
        self._plan = session.plan
        self._workspace = session.workspace
        self._show = session.show
        self._fresh = session.run is None
        self._name = name
        self._space = space
        self._evaluator = held.evaluator
        self._desk = held.desk
        self._ledger = held.ledger
        self._protocol = self._ledger.remember_protocol(self._evaluator.protocol())
        self._sign = self._evaluator.objective.sign
        self._clocks: dict[str, Clock] = {}  # by run: its companion has time of its own

    def execute(self) -> dict[str, Any]:
        """Do every stage and write what comes of it.

        Raises:
            KeyboardInterrupt: Somebody stopped it; its words say how to go on.
        """
        try:
            return self._whole()
        except KeyboardInterrupt:
            if not self._has_begun:
                raise
            command = self._workspace.command(f"resume {self._name}")
            raise KeyboardInterrupt(f"stopped; go on with: {command}") from None

    def _whole(self) -> dict[str, Any]:
        try:
            with Uninterrupted():  # a run that is on record has what resumes it
                self._begin(self._name, self._plan.search.strategy)
                self._keep_plan()
            summary = self._stages()
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to tell
                self._interrupted()
            raise
        self._board()
        return summary

    @property
    def _has_begun(self) -> bool:
        """Whether it is on record: not where its name is another's, or the ledger out of reach."""
        return self._name in self._clocks

    def _keep_plan(self) -> None:
        """Write what resumes the run; from here on its folder is a run's."""
        self._workspace.remember_ledger(self._name)
        plan = replace(self._plan, name=self._name)
        write_text(self._workspace.run_folder(self._name) / "run.toml", plan.to_toml())

    def _stages(self) -> dict[str, Any]:
        baselines = self._measure_baselines()
        found, memory = self._search(self._name, self._plan, baselines)
        companion = None
        if self._plan.random_search and self._plan.search.strategy != "random":
            companion = self._random_search(found, baselines)
        winner, finals = self._finals(found)
        rival = self._finals(companion[0])[0] if companion else None
        handmade = self._handmade(baselines)
        reports = self._report(winner, rival, handmade)
        hall = _hall(found, self._evaluator)
        findings = Findings(
            run=self._name,
            space=self._space,
            evaluator=self._evaluator,
            found=(found, memory),
            hall=hall,
            baselines=baselines,
            companion=companion,
            winner=winner,
            rival=rival,
            finals=finals,
            reports=reports,
            illustrations=self._illustrate(winner, handmade),
            comparisons=self._compare(winner, rival, handmade),
            seconds=self._clocks[self._name].seconds,
        )
        summary = summarise(findings)
        self._finish(summary, hall, winner)
        return summary

    def _begin(self, name: str, strategy: str) -> None:
        self._ledger.begin_run(
            RunRecord(
                run=name,
                seed=self._plan.search.seed,
                space=self._space.name,
                evaluator=self._plan.evaluator,
                config={
                    **self._plan.tables(),
                    "strategy": strategy,
                    "objective": self._evaluator.objective.name,
                    "direction": self._evaluator.objective.direction.value,
                },
                protocol=self._evaluator.protocol(),
                manifest=loading.manifest(self._space),
                status="running",
                seconds=0.0,
                summary=None,
            ),
            fresh=self._fresh,
        )
        self._clocks[name] = Clock(self._ledger.run(name).seconds)

    def _stands(self, name: str, status: str, summary: Mapping[str, Any] | None = None) -> None:
        """Store how a run stands, and what it took in all, before any interruption included."""
        seconds = self._clocks[name].seconds
        self._ledger.update_run(name, status=status, seconds=seconds, summary=summary)

    def _interrupted(self) -> None:
        """Store that what was under way is not any more: the run, and maybe its companion."""
        for name in self._clocks:
            if self._ledger.run(name).status == "running":
                self._stands(name, "interrupted")

    def _measure_baselines(self) -> dict[str, tuple[Baseline, Outcome]]:
        """Measure every hand-made metric that the evaluator can, outside the budget."""
        clock = Clock()
        usable = loading.usable_baselines(self._space, self._evaluator)
        begun = [self._desk.begin(*self._about(baseline)) for baseline in usable]
        measured: dict[str, tuple[Baseline, Outcome]] = {}
        for number, (baseline, work) in enumerate(zip(usable, begun, strict=True)):
            self._show(Progress("baselines", number, len(usable), clock.seconds))
            (outcome,) = work.outcomes()
            measured[baseline.name] = (baseline, outcome)
        return measured

    def _about(self, baseline: Baseline) -> tuple[Task, Recall, Keep]:
        """Return how a hand-made metric is measured, recalled and kept."""
        expression = canonical(baseline.expression)
        address, text = key(expression), str(expression)

        def keep(fidelity: float, outcome: Outcome) -> None:
            row = Evaluation(address, self._protocol, fidelity, text, None, outcome)
            self._ledger.remember(row)

        recall = partial(self._ledger.recall, address, self._protocol)
        return Task(text, (1.0,)), recall, keep

    def _search(
        self, name: str, plan: Plan, baselines: Mapping[str, tuple[Baseline, Outcome]]
    ) -> tuple[SearchState, LedgerMemory]:
        clock = Clock()
        memory = LedgerMemory(self._ledger, name, self._protocol)
        state = SearchState()
        tell = Teller(
            self._show,
            Progress("search" if name == self._name else "random search", run=self._name),
            memory,
            plan.search,
            self._evaluator.objective,
            _reference(baselines),
        )

        def stop() -> str | None:  # asked after every measurement
            tell(state, clock.seconds)
            return _exhausted(plan.search, clock.seconds)

        loop = Search(self._space, self._evaluator, memory, plan.search, stop, self._desk)
        for state in loop.run():
            tell(state, clock.seconds)
            self._stands(name, "running")  # so that a run that is killed keeps its time
        return state, memory

    def _random_search(
        self, found: SearchState, baselines: Mapping[str, tuple[Baseline, Outcome]]
    ) -> tuple[SearchState, LedgerMemory]:
        """Spend what the search spent on random expressions: same sieve, same ladder."""
        name = self._name + RANDOM_SUFFIX
        config = replace(
            self._plan.search,
            strategy="random",
            seeds=False,
            minutes=None,
            evaluations=max(1.0, found.spent),
        )
        self._begin(name, "random")
        result = self._search(name, replace(self._plan, search=config), baselines)
        self._stands(name, "done")
        return result

    def _finals(self, state: SearchState) -> tuple[Individual, dict[str, tuple[float, ...]]]:
        """Re-rank the best by their losses on fresh blocks, the same ones for all."""
        chosen = finalists(state, self._plan.search.finalists, self._sign)
        if not chosen:
            raise ConfigError(
                f"the search measured nothing in full with {state.spent:g} evaluations; give it "
                "more: --evaluations or --minutes"
            )
        clock = Clock()
        losses: dict[str, tuple[float, ...]] = {}
        for number, individual in enumerate(chosen):
            self._show(Progress("finals", number, len(chosen), clock.seconds))
            losses[individual.key] = self._confirmed(individual)
        winner = min(chosen, key=lambda i: (sum(losses[i.key]), i.complexity, i.slot))
        if not math.isfinite(sum(losses[winner.key])):
            raise ConfigError(
                f"none of the {len(chosen)} finalists has a finite loss on the fresh blocks, the "
                f"best by the search, {chosen[0].text}, neither; nothing is lost: ask for more "
                "with --set finalists=N in a run of another name, what is known is not measured "
                "again"
            )
        return winner, losses

    def _confirmed(self, individual: Individual) -> tuple[float, ...]:
        """Return the losses of a finalist on the fresh blocks, one that is infinite if any is."""
        protocol = content_hash({**self._evaluator.protocol(), "rung": "confirm"})
        known = self._ledger.recall(individual.key, protocol, 1.0)
        if isinstance(known, Measured):
            return tuple(known.details[str(i)] for i in range(len(known.details)))
        if isinstance(known, Failed):
            return (math.inf,)
        losses = tuple(self._evaluator.confirm(individual.expression))
        outcome: Outcome
        if all(map(math.isfinite, losses)):
            details = {str(i): loss for i, loss in enumerate(losses)}
            outcome = Measured(sum(losses) / len(losses), 1.0, details=details)
        else:
            outcome, losses = Failed("no finite loss on the fresh blocks"), (math.inf,)
        text = str(individual.expression)
        self._ledger.remember(Evaluation(individual.key, protocol, 1.0, text, None, outcome))
        return losses

    def _report(
        self, winner: Individual, rival: Individual | None, handmade: Sequence[Named]
    ) -> list[Reported]:
        """Measure winner, random search's winner and hand-made metrics on the report texts."""
        named = [*handmade, Named("discovered", self._name, winner.expression)]
        if rival is not None:
            named.append(Named("random-search", self._name + RANDOM_SUFFIX, rival.expression))
        first = loading.first_seed(self._evaluator, self._plan.search.seed)
        seeds = range(first, first + self._plan.report_seeds)
        reports = []
        for condition in self._evaluator.conditions:
            reporter = Reporter(self._ledger, condition, self._name, self._show)
            reports.append(Reported(reporter.report(named, seeds), reporter.reasons))
        return reports

    def _handmade(self, measured: Mapping[str, tuple[Baseline, Outcome]]) -> list[Named]:
        """Return what people made that the report shows: the known, and the best here."""
        best = best_of(measured, self._evaluator.objective, self._plan.report_best)
        metrics = [
            Named("baseline", baseline.name, canonical(baseline.expression))
            for baseline, _ in measured.values()
            if baseline.name in best or (baseline.reported and self._plan.report_known)
        ]
        references = loading.references(self._evaluator)
        return [*metrics, *(Named("baseline", name, None) for name in references)]

    def _illustrate(
        self, winner: Individual, handmade: Sequence[Named]
    ) -> list[Mapping[str, Any] | None]:
        """Return under each condition what a report draws of the winner's work, where it can."""
        others = _by_name(handmade)
        return [
            condition.illustrate(winner.expression, others)
            if isinstance(condition, loading.Illustrator)
            else None
            for condition in self._evaluator.conditions
        ]

    def _compare(
        self, winner: Individual, rival: Individual | None, handmade: Sequence[Named]
    ) -> Mapping[str, Mapping[str, float]]:
        """Test the winner against the hand-made metrics and random search, where it can be."""
        compare = getattr(self._evaluator, "compare", None)
        if compare is None:
            return {}
        others = _by_name(handmade)
        if rival is not None:
            others["random search"] = rival.expression
        found: Mapping[str, Mapping[str, float]] = compare(winner.expression, others)
        return found

    def _finish(self, summary: Mapping[str, Any], hall: HallOfFame, winner: Individual) -> None:
        folder = self._workspace.run_folder(self._name)
        write_json(folder / "hall_of_fame.json", {"hall_of_fame": hall.to_json()})
        began, now = self._ledger.run(self._name).manifest, loading.manifest(self._space)
        changed = {name: value for name, value in now.items() if value != began.get(name)}
        manifest = {
            **began,
            **({"ended_with": changed} if changed else {}),
            "run": self._name,
            "config": self._plan.tables(),
            "protocol": self._evaluator.protocol(),
            "report_protocols": [c.report_protocol() for c in self._evaluator.conditions],
            "funnel": summary["funnel"],
        }
        write_json(folder / "manifest.json", manifest)
        write_json(folder / SUMMARY, summary)
        write_text(folder / ARCHIVE, Archive.of(self._ledger, self._name).to_csv())
        if summary["random_search"]:
            companion = Archive.of(self._ledger, self._name + RANDOM_SUFFIX)
            write_text(folder / RANDOM_ARCHIVE, companion.to_csv())
        write_metric(self._workspace, self._name, winner, summary)
        self._stands(self._name, "done", summary)

    def _board(self) -> None:
        """Write the leaderboard; where other runs' files forbid it, this one is done all the same.

        So an error here is told and undoes nothing.
        """
        try:
            write_leaderboard(self._workspace, self._ledger)
        except AutoproxyError as error:
            told = f"the run is done, but the leaderboard could not be written: {error}"
            self._show(Progress("report", notice=f"{told}; then write it: autoproxy leaderboard"))


def _by_name(handmade: Sequence[Named]) -> dict[str, Expression | str]:
    return {known.name: known.expression or known.name for known in handmade}


def _hall(state: SearchState, evaluator: loading.OpenEvaluator) -> HallOfFame:
    hall = HallOfFame(evaluator.objective)
    for individual in state.archive:
        hall = hall.add(individual)
    return hall


def _exhausted(config: SearchConfig, seconds: float) -> str | None:
    """Return why a search must end: its time is up, or its memory is used up."""
    if config.minutes is not None and seconds > 60 * config.minutes:
        return "the time is up"
    if config.memory is not None:
        held = psutil.Process().memory_info().rss / 2**30
        if held > config.memory:
            return f"{held:.1f} GiB of memory are in use, the limit is {config.memory:g}"
    return None


def _reference(
    baselines: Mapping[str, tuple[Baseline, Outcome]],
) -> tuple[str, float] | None:
    _, outcome = baselines.get(REFERENCE, (None, None))
    return (REFERENCE, outcome.value) if isinstance(outcome, Measured) else None
