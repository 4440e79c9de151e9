"""The ledger as the search sees it: what is stored when, and that nothing waits for ever."""

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from autoproxy.commands import memory as module
from autoproxy.commands.memory import LedgerMemory
from autoproxy.evaluation import Measured, Outcome, content_hash
from autoproxy.ledger.ledger import Ledger
from autoproxy.ledger.records import RunRecord
from autoproxy.search.fate import Fate
from autoproxy.search.loop import Search
from autoproxy.search.state import SearchState
from autoproxy.sieve.rules import Kept
from tests.autoproxy.search.test_search_repeats_itself import CONFIG, SPACE
from tests.conformance.toy import ToyEvaluator

PROTOCOL = content_hash(ToyEvaluator().protocol())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger.open(path) as opened:
        protocol = ToyEvaluator().protocol()
        opened.begin_run(
            RunRecord("toy", 0, SPACE.name, "toy", {}, protocol, {}, "running", 0.0, None)
        )
        yield opened


def slots(path: Path) -> list[int]:
    """Return the slots of which another process would find the fate stored."""
    with Ledger.open(path, read_only=True) as reader:
        return [event.slot for event in reader.events("toy")]


def run(memory: LedgerMemory, evaluations: float = CONFIG.evaluations) -> SearchState:
    config = replace(CONFIG, evaluations=evaluations)
    *_, last = Search(SPACE, ToyEvaluator(), memory, config).run()
    return last


class Watched(LedgerMemory):
    """Looks from elsewhere at every outcome, as soon as it is kept.

    Attributes:
        fresh: Of how many an outcome was stored while a fate waited.
    """

    path: Path
    fresh = 0

    def keep(self, kept: Kept, protocol: str, fidelity: float, outcome: Outcome) -> None:
        super().keep(kept, protocol, fidelity, outcome)
        with Ledger.open(self.path, read_only=True) as reader:
            known = reader.recall(kept.key, protocol, fidelity)
            assert isinstance(known, Measured)
            assert isinstance(outcome, Measured)
            assert known.value == outcome.value
            self.fresh += len(reader.events("toy")) < self.funnel["proposed"]


def test_an_outcome_never_waits_also_where_fates_do(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROMPT", 3600.0)
    memory = Watched(ledger, "toy", PROTOCOL)
    memory.path = path
    run(memory)
    assert memory.fresh > 10


@pytest.mark.parametrize("prompt", [0.0, 0.05, 3600.0])
@pytest.mark.parametrize("evaluations", [9.0, 14.0, 40.0])
def test_at_the_end_every_fate_is_stored_wherever_the_budget_ran_out(
    ledger: Ledger, path: Path, prompt: float, evaluations: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROMPT", prompt)
    memory = LedgerMemory(ledger, "toy", PROTOCOL)
    state = run(memory, evaluations)
    assert len(slots(path)) == memory.funnel["proposed"]
    fates = Counter(event.fate for event in ledger.events("toy"))
    assert fates["measured"] == len(state.archive) == memory.funnel["measured"]


def test_a_fate_waits_for_others_a_moment_and_no_longer(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    waited: list[int] = []

    class Timed(LedgerMemory):
        def note(self, fate: Fate) -> None:
            began = time.monotonic()
            told.append(began)
            super().note(fate)
            stored = len(slots(path))
            waited.append(len(told) - stored)
            assert stored >= sum(moment < began - module.PROMPT for moment in told)

        def keep(self, kept: Kept, protocol: str, fidelity: float, outcome: Outcome) -> None:
            time.sleep(2 * module.PROMPT)  # as if it had been measured that long
            super().keep(kept, protocol, fidelity, outcome)

    monkeypatch.setattr(module, "PROMPT", 0.03)
    run(Timed(ledger, "toy", PROTOCOL), 16.0)
    assert max(waited) > 1
    assert waited.count(0) > 5


def test_a_resumed_search_knows_everybody_as_the_one_before(ledger: Ledger) -> None:
    whole = run(LedgerMemory(ledger, "toy", PROTOCOL), 40.0)
    steps, who = LedgerMemory(ledger, "toy", PROTOCOL).steps()
    assert len(steps) > 2
    born = [who(slot) for step in steps for slot in step.born]
    assert born == list(whole.archive[: len(born)])
    assert any(individual.details for individual in born)
    with pytest.raises(KeyError):
        who(-1)


def test_a_run_that_time_ended_is_resumed_to_its_end(path: Path) -> None:
    """With whatever time ran out in: a rung, a race, or between generations."""
    config = replace(CONFIG, evaluations=40.0, lag=1)
    for count in (0, 17, 24, 52):
        with Ledger.open(path.with_name(f"{count}.sqlite")) as opened:
            asked = itertools.count()
            memory, again = (LedgerMemory(opened, "toy", PROTOCOL) for _ in range(2))
            loop = Search(
                SPACE,
                ToyEvaluator(),
                memory,
                config,
                lambda asked=asked, count=count: "time" if next(asked) >= count else None,
            )
            *_, last = loop.run()
            before = opened.events("toy")
            evaluator = ToyEvaluator()
            (end,) = Search(SPACE, evaluator, again, config).run()
            assert (end, evaluator.measured) == (last, [])
            assert opened.events("toy") == before
            assert again.funnel == memory.funnel


def test_what_is_shown_as_spent_is_what_was_charged_also_for_repetitions(ledger: Ledger) -> None:
    memory = LedgerMemory(ledger, "toy", PROTOCOL)
    config = replace(CONFIG, same="nothing", evaluations=60.0, promote=0.7)
    *_, state = Search(SPACE, ToyEvaluator(), memory, config).run()
    keys = Counter(individual.key for individual in state.archive)
    assert keys.most_common(1)[0][1] > 2
    assert memory.spent == pytest.approx(state.spent)
