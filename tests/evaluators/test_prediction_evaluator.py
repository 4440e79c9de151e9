"""Predictions measured on tiny decoders: what may be known when, and that nothing else decides."""

import hashlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from autoproxy.errors import AutoproxyError, ConfigError
from autoproxy.evaluation import Failed, Fingerprint, Measured, Outcome
from autoproxy.language.parse import parse
from autoproxy.search.config import SearchConfig
from autoproxy.search.loop import Search
from autoproxy.search.state import SearchState
from evaluators.benchmarks.table import open_benchmark
from evaluators.cache import LIMIT
from evaluators.prediction import AZ_NAS, PredictionEvaluator
from evaluators.prediction_config import PredictionConfig
from evaluators.proxies import score
from evaluators.text import topics
from search_spaces.prediction import PREDICTION
from tests.autoproxy.search.memories import DictMemory, Interrupted
from tests.evaluators.tables import Rows, changed, starter_rows, without, write

OPTIONS: Mapping[str, Any] = {
    "labels": 10,
    "validation_labels": 5,
    "unlabelled": 4,
    "sequences": 1,
    "tokens": 10,
    "resamples": 100,
}
WANTED = frozenset({"W", "x", "x_norm"})  # no backward pass, so it is quick
FORMULAS = (
    "params",
    "layers_sum(all_norm(W))",
    "layers_mean(erank(W))",
    "div(layers_sum(all_norm(x)), n_layers)",
    "layers_max(all_mean(abs(W)))",
    "neg(layers_std(all_sum(x_norm)))",
    "sub(params, params)",
)

Make = Callable[..., PredictionEvaluator]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return a function that opens the evaluator on some rows; all share one cache."""
    folder = tmp_path_factory.mktemp("prediction")

    def open_it(rows: Rows | None = None, **options: Any) -> PredictionEvaluator:
        path = write(folder / "table.csv", starter_rows() if rows is None else rows)
        config = PredictionConfig.from_options({"table": str(path), **OPTIONS, **options})
        evaluator = PredictionEvaluator(config, cache=folder / "cache")
        evaluator.prepare(WANTED)
        return evaluator

    return open_it


@pytest.fixture(scope="module")
def evaluator(make: Make) -> PredictionEvaluator:
    return make()


def seen(outcomes: Sequence[Outcome]) -> list[object]:
    return [
        o.reason if isinstance(o, Failed) else (o.value, o.fidelity, dict(o.details))
        for o in outcomes
    ]


def searched(evaluator: PredictionEvaluator) -> list[object]:
    """Return all that a search learns before its finals."""
    expressions = [parse(text) for text in FORMULAS]
    probed = [
        f.reason if isinstance(f, Failed) else f.digest for f in evaluator.behaviour(expressions)
    ]
    return [
        *seen(list(evaluator.measure(expressions, 1.0))),
        *probed,
        *[evaluator.identity(e) for e in expressions],
        *[evaluator.residuals(e) for e in expressions],
    ]


def digest(evaluator: PredictionEvaluator, text: str) -> str:
    (found,) = evaluator.behaviour([parse(text)])
    assert isinstance(found, Fingerprint), found
    return found.digest


def value(evaluator: PredictionEvaluator, text: str) -> Measured:
    (found,) = evaluator.measure([parse(text)], 1.0)
    assert isinstance(found, Measured), found
    return found


# --- who sees what ----------------------------------------------------------------------------


def test_the_split_parts_all_networks(make: Make) -> None:
    parts = []
    for seed in range(5):
        evaluator = make(seed=seed)
        split = evaluator.search, evaluator.validation, evaluator.unseen
        assert [len(part) for part in split] == [10, 5, 9]
        assert sorted(np.concatenate(split).tolist()) == list(range(24))
        parts.append(tuple(evaluator.search.tolist()))
    assert len(set(parts)) == 5
    assert tuple(make(seed=0).search.tolist()) == parts[0]


def test_no_more_than_half_of_the_labels_are_seen(make: Make) -> None:
    evaluator = make(labels=1000, validation_labels=1000)
    assert len(evaluator.search) == 12
    assert len(evaluator.validation) == 6
    assert evaluator.protocol()["labels"] == 12


def test_rows_of_one_trained_network_never_part(make: Make) -> None:
    """Two rows of one config are one network, even with two qualities."""
    rows = starter_rows(12)
    twins = [{**row, "id": row["id"] + "b", "loss": f"{float(row['loss']) + 0.01}"} for row in rows]
    for seed in range(6):
        evaluator = make([*rows, *twins], seed=seed)
        for part in (evaluator.search, evaluator.validation, evaluator.unseen):
            assert {place % 12 for place in part if place < 12} == {
                place % 12 for place in part if place >= 12
            }


def relabelled(evaluator: PredictionEvaluator, places: Sequence[int]) -> Rows:
    """Return the table with the qualities at some places handed round."""
    rows = starter_rows()
    losses = [rows[place]["loss"] for place in places]
    for place, loss in zip(places, [*losses[1:], losses[0]], strict=True):
        rows[place] = {**rows[place], "loss": loss}
    return rows


@pytest.mark.parametrize("objective", ["tau", "within"])
def test_labels_beyond_the_search_decide_nothing_in_it(make: Make, objective: str) -> None:
    before = make(objective=objective)
    found = searched(before)
    hidden = [*before.validation.tolist(), *before.unseen.tolist()]
    after = make(relabelled(before, hidden), objective=objective)
    assert (after.quality[hidden] != before.quality[hidden]).all()
    assert after.search.tolist() == before.search.tolist()
    assert searched(after) == found
    known = make(relabelled(before, before.search.tolist()), objective=objective)
    assert searched(known) != found  # those of the search do


def test_labels_of_the_report_decide_no_winner_and_no_sign(make: Make) -> None:
    before = make()
    after = make(relabelled(before, before.unseen.tolist()))
    for text in FORMULAS[:-1]:
        expression = parse(text)
        assert after.confirm(expression) == before.confirm(expression)
    for candidate in (*map(parse, FORMULAS[:-1]), "ridge", "lexicographic"):
        ours, theirs = (e.oriented(candidate, e.unseen) for e in (before, after))
        assert ours is not None
        assert theirs is not None
        assert ours.tolist() == theirs.tolist()
    (one,), (other,) = (list(e.report([parse("params")], [0])) for e in (before, after))
    assert one["tau"] != other["tau"]


def test_the_sign_is_that_of_the_search(make: Make) -> None:
    """A formula that is right on the search and wrong elsewhere stays as wrong as it is."""
    before = make(objective="tau")
    rows = starter_rows()
    for place in before.search:
        rows[place]["loss"] = str(9 - float(rows[place]["parameters"]) / 1e4)
    for place in before.unseen:
        rows[place]["loss"] = str(9 + float(rows[place]["parameters"]) / 1e4)
    turned = make(rows, objective="tau")
    assert value(turned, "params").value == pytest.approx(1)
    for text, orientation in (("params", 1), ("neg(params)", -1)):
        assert value(turned, text).details["orientation"] == orientation
        (row,) = turned.report([parse(text)], [0])
        assert row["tau"] == pytest.approx(-1)
        assert row["networks"] == len(turned.unseen)


def test_the_sign_is_of_the_draw_that_the_search_saw(make: Make) -> None:
    """Weights drawn anew may order the labels the other way; a formula's sign stays."""
    evaluator = make(objective="tau", draw=1)
    formula, turned = parse("layers_mean(all_mean(W))"), 0
    raw = {
        draw: np.asarray(evaluator.scorer(draw).scores([formula], range(24))[0])
        for draw in range(5)
    }
    known = evaluator.search
    taus = {d: stats.kendalltau(s[known], evaluator.quality[known])[0] for d, s in raw.items()}
    for draw, scores in raw.items():
        found = evaluator.oriented(formula, evaluator.unseen, draw)
        assert found is not None
        assert found.tolist() == (np.sign(taus[1]) * scores[evaluator.unseen]).tolist()
        turned += bool(taus[draw] * taus[1] < 0)
    assert turned  # or a sign of each draw's own would pass


# --- values -----------------------------------------------------------------------------------


def test_values_are_rank_correlations_of_the_search(evaluator: PredictionEvaluator) -> None:
    params = [a.columns["parameters"] for a in evaluator.benchmark.architectures]
    places = evaluator.search
    cells = [evaluator.strata[place] for place in places]
    above = below = 0.0
    for cell in set(cells):
        rows = [p for p, c in zip(places, cells, strict=True) if c == cell]
        if len(rows) < 3:
            continue
        pairs = len(rows) * (len(rows) - 1) / 2
        tau = stats.kendalltau([params[r] for r in rows], evaluator.quality[rows]).statistic
        above += pairs * tau
        below += pairs
    assert evaluator.objective.name == "within"
    assert value(evaluator, "params").value == pytest.approx(abs(above / below))


@pytest.mark.parametrize("objective", ["tau", "within"])
def test_losses_of_finalists_are_one_less_tau_in_the_mean(make: Make, objective: str) -> None:
    evaluator = make(objective=objective)
    places = np.sort(np.concatenate([evaluator.search, evaluator.validation]))
    for text in FORMULAS[:4]:
        losses = evaluator.confirm(parse(text))
        found = evaluator.jury(places).judge(
            value(evaluator, text).details["orientation"]
            * np.asarray(evaluator.scorer().scores([parse(text)], places.tolist())[0])
        )[objective]
        assert found is not None
        assert np.mean(losses) == pytest.approx(1 - found)
    (inverse,) = evaluator.measure([parse("sub(params, params)")], 1.0)
    assert inverse == Failed("it gives every network the same score")
    assert evaluator.confirm(parse("layers_sum(all_norm(g))")) == (math.inf,)


@pytest.mark.parametrize("objective", ["tau", "within"])
def test_residuals_are_of_a_line_through_the_labels_of_the_search(
    make: Make, objective: str
) -> None:
    evaluator = make(objective=objective)
    places = evaluator.search.tolist()
    for text in FORMULAS[:-1]:
        scores = np.asarray(evaluator.scorer().scores([parse(text)], places)[0])
        quality = evaluator.quality[places].copy()
        if objective == "within":
            cells = [evaluator.strata[place] for place in places]
            members = [[i for i, c in enumerate(cells) if c == cell] for cell in set(cells)]
            members = [m for m in members if len(m) > 2]
            for m in members:
                scores[m] -= sum(scores[m]) / len(m)
                quality[m] -= sum(quality[m]) / len(m)
            kept = sorted(i for m in members for i in m)
            scores, quality = scores[kept], quality[kept]
        found = evaluator.residuals(parse(text))
        if len(set(scores)) < 2:
            assert found is None, text
            continue
        assert found is not None, text
        r = stats.pearsonr(scores, quality).statistic
        assert np.dot(found, found) == pytest.approx(1 - r**2)
        line = stats.linregress(scores, quality)
        alone = quality - line.intercept - line.slope * scores
        alone /= np.linalg.norm(quality - quality.mean())
        assert np.sort(found) == pytest.approx(np.sort(alone), abs=1e-9), text
        turned = evaluator.residuals(parse(f"3 - 2 * {text}"))
        assert turned == pytest.approx(found, abs=1e-9)
    huge = 6 * "mul(1e30, " + "params" + 6 * ")"  # finite, and its sum of squares is not
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for text in ("sub(params, params)", "layers_sum(all_norm(g))", huge):
            assert evaluator.residuals(parse(text)) is None


def left(evaluator: PredictionEvaluator, text: str) -> float:
    residuals = evaluator.residuals(parse(text))
    return math.inf if residuals is None else float(np.dot(residuals, residuals))


def test_another_split_of_the_same_networks_is_what_it_is_alone(make: Make) -> None:
    evaluator = make(seed=0)
    before = searched(evaluator)
    for seed in (3, 1):
        assert searched(evaluator.resplit(seed)) == searched(make(seed=seed)) != before
    assert searched(evaluator) == before


def test_a_search_fits_numbers_and_repeats_itself(make: Make) -> None:
    """Interrupted in the middle, it goes on to where it would have come."""
    space = replace(
        PREDICTION,
        terminals={"n_layers": 1, "width": 1, "params": 1, "W": 2},
        primitives={"add": 2, "mul": 2, "pow": 1, "layers_sum": 2, "all_norm": 1, "all_std": 1},
        baselines=(),
    )

    def found(evaluator: PredictionEvaluator, memory: DictMemory, **options: Any) -> SearchState:
        config = SearchConfig(
            seed=0, evaluations=48, population=8, batch=8, first_batch=16, **options
        )
        *_, last = Search(space, evaluator, memory, config).run()
        return last

    evaluator, kept = make(objective="tau"), DictMemory()
    plain, fitted = found(evaluator, DictMemory(), fit=0.0), found(evaluator, kept, fit=0.6)
    assert [i.text for i in plain.archive] != [i.text for i in fitted.archive]
    assert {i.origin for i in plain.archive}.isdisjoint({"fitted"})
    by_key = {i.key: i for i in fitted.archive}
    refitted = [f.proposal for f in kept.fates if f.proposal.origin == "fitted"]
    assert len(refitted) > 10
    for proposal in refitted:
        (mother,) = proposal.parents
        assert left(evaluator, str(proposal.expression)) < left(evaluator, by_key[mother].text)
    torn = DictMemory(patience=25)
    with pytest.raises(Interrupted):
        found(make(objective="tau"), torn, fit=0.6)
    torn.patience = None
    again = found(make(objective="tau"), torn, fit=0.6)
    assert [i.text for i in again.archive] == [i.text for i in fitted.archive]


def test_the_objective_counts_cells_alone(make: Make) -> None:
    """What tells cells apart, and nothing inside them, is worth much by one and nothing else."""
    rows = [
        {**row, "loss": str(9 - float(row["depth"]) + n / 1e4)}
        for n, row in enumerate(starter_rows())
    ]
    within, over_all = (make(rows, objective=o) for o in ("within", "tau"))
    assert value(over_all, "n_layers").value > 0.7
    assert value(within, "n_layers").value == 0
    (row,) = within.report([parse("n_layers")], [0])
    assert row["within"] == 0
    assert row["tau"] > 0.6


def test_behaviour_is_the_order_whatever_its_sign(evaluator: PredictionEvaluator) -> None:
    formula = "layers_mean(erank(W))"
    same = digest(evaluator, formula)
    for text in (f"mul(2, {formula})", f"neg({formula})", f"exp({formula})", f"sub(3, {formula})"):
        assert digest(evaluator, text) == same, text
        assert value(evaluator, text).value == pytest.approx(value(evaluator, formula).value)
    others = {digest(evaluator, text) for text in FORMULAS[:-1]}
    assert len(others) == len(FORMULAS) - 1
    assert evaluator.identity(parse(formula)) == same


def test_behaviour_looks_beyond_the_search(make: Make) -> None:
    """Two formulas of one order on the search alone are told apart by unlabelled networks."""
    alone, beyond = make(unlabelled=0), make(unlabelled=9)
    assert len(alone._probed) == 10
    assert len(beyond._probed) == 19
    assert not set(beyond._probed) & set(beyond.validation.tolist())
    assert digest(alone, "params") != digest(beyond, "params")


def test_constant_formulas_are_hopeless(evaluator: PredictionEvaluator) -> None:
    told = Failed("it gives every network the same score")
    (found,) = evaluator.behaviour([parse("sub(params, params)")])
    assert found == told
    assert evaluator.identity(parse("sub(params, params)")) == told
    assert list(evaluator.measure([parse("sub(params, params)")], 1.0)) == [told]


def test_a_search_may_ask_for_few_ties(make: Make) -> None:
    """As many pairs may be tied as was said, and not one more; no evaluation is spent on it."""
    formula = parse("n_layers")
    depths = np.asarray(make().scorer().scores([formula], make()._probed)[0])
    n = len(depths)
    share = sum(bool(depths[a] == depths[b]) for a in range(n) for b in range(a)) * 2 / n / (n - 1)
    assert 0.1 < share < 0.9
    (kept,) = make(max_tied=share).behaviour([formula])
    assert kept == make().behaviour([formula])[0]
    (dropped,) = make(max_tied=share - 1e-6).behaviour([formula])
    assert dropped == Failed(
        f"it ties {share:.1%} of pairs of networks; --max-tied is {share - 1e-6}"
    )
    (ordered,) = make(max_tied=0.0).behaviour([parse("layers_mean(erank(W))")])
    assert isinstance(ordered, Fingerprint)
    assert make(max_tied=0.5).protocol()["max_tied"] == 0.5
    assert "max_tied" not in make().protocol()  # rows of before know nothing of it
    # What a report shows beside the winner is not of the search's choosing.
    (told,) = make(max_tied=0.0).report([formula], [0])
    assert told["tied"] > 0


def test_twins_are_no_ties(make: Make) -> None:
    """Two rows of one trained network have one score, whatever the formula."""
    rows = starter_rows(12)
    twins = [{**row, "id": row["id"] + "b", "loss": f"{float(row['loss']) + 0.01}"} for row in rows]
    evaluator = make([*rows, *twins], max_tied=0.0, objective="tau")
    assert len(set(evaluator._probed)) > len(evaluator._first_of_each)
    (ordered,) = evaluator.behaviour([parse("layers_mean(erank(W))")])
    assert isinstance(ordered, Fingerprint)


# --- the report -------------------------------------------------------------------------------


def test_reports_are_on_unseen_networks(evaluator: PredictionEvaluator) -> None:
    params = np.array([a.columns["parameters"] for a in evaluator.benchmark.architectures])
    candidates = [parse("params"), "lexicographic", "ridge", parse("sub(params, params)")]
    rows = list(evaluator.report(candidates, [0, 1]))
    assert [(row["seed"], row["index"]) for row in rows] == [
        (s, i) for s in (0, 1) for i in range(4)
    ]
    unseen = evaluator.unseen
    tau = stats.kendalltau(params[unseen], evaluator.quality[unseen]).statistic
    sign = value(evaluator, "params").details["orientation"]
    assert rows[0]["tau"] == pytest.approx(sign * tau)
    assert {row["networks"] for row in rows if row["index"] != 3} == {len(unseen)}
    for row in rows:
        if row["index"] == 3:
            said = "it gives every network whose quality the search sees the same score"
            assert row == {"seed": row["seed"], "index": 3, "reason": said}
        else:
            assert all(math.isfinite(v) for v in row.values())
    names = {column["name"] for column in evaluator.report_protocol()["columns"]}
    assert {"tau", "within", "rho", "recall", "tied", "networks"} <= names
    assert evaluator.report_protocol()["columns"][0]["name"] == "within"


def test_what_has_no_order_has_a_reason_and_no_number(make: Make) -> None:
    """Neither no score, nor the same one for all networks of the report, is worth 0."""
    rows = [*starter_rows(72)[1::3], starter_rows(1)[0]]  # but for one, of one depth
    opened = (make(rows, objective="tau", seed=seed) for seed in range(20))
    evaluator = next(e for e in opened if 24 in e.search)
    lost = parse("layers_sum(all_norm(mul(1e38, mul(1e38, W))))")
    found = list(evaluator.report([parse("n_layers"), lost, parse("params")], [0]))
    assert found[0] == {
        "seed": 0,
        "index": 0,
        "reason": "it gives every network of the report the same score",
    }
    assert found[1] == {"seed": 0, "index": 1, "reason": "no finite score for 10 of 10 networks"}
    assert "tau" in found[2]
    assert evaluator.compare(parse("n_layers"), {"ridge": "ridge"}) == {}


def test_the_ridge_is_fitted_to_labels_that_were_seen(evaluator: PredictionEvaluator) -> None:
    found = evaluator.oriented("ridge", evaluator.unseen)
    assert found is not None
    assert stats.kendalltau(found, evaluator.quality[evaluator.unseen]).statistic > 0.5


def ranked(path: Path, *names: str, **options: Any) -> dict[str, dict[str, Any]]:
    """Return what `rank` says of methods, by name."""
    asked = {"table": str(path), "sequences": 1, "tokens": 8, "resamples": 100, **options}
    found = PredictionEvaluator.rank(
        asked, dict.fromkeys(names, (None, 1)), cache=path.parent / "cache"
    )
    return {row["name"]: row for row in found["proxies"]}


def test_protocols_say_which_text_and_torch(make: Make) -> None:
    evaluator = make()
    ids = np.array(list(topics("calibration").content.encode()), dtype=np.int64)
    wanted = hashlib.sha256(ids.tobytes()).hexdigest()[:16]
    for protocol in (evaluator.ranking_protocol(), evaluator.report_protocol()):
        assert protocol["text_hash"] == wanted
        assert protocol["torch"] == torch.__version__


def test_rank_never_shows_a_ridge_its_own_label(tmp_path: Path) -> None:
    """Neither the label of a network, nor that of its twin, moves the network's score."""
    rows = [{**row, "loss": str(3 + np.sin(n * n))} for n, row in enumerate(starter_rows(20))]
    rows.append({**rows[4], "id": "twin", "loss": "3.3"})
    before = ranked(write(tmp_path / "before.csv", rows), "ridge")["ridge"]
    other = changed(rows, 4, loss="9")
    after = ranked(write(tmp_path / "after.csv", other), "ridge")["ridge"]
    scores, others = ({o["id"]: o["score"] for o in r["order"]} for r in (before, after))
    assert scores["t04"] == scores["twin"]
    assert others["t04"] == pytest.approx(scores["t04"], rel=1e-9)
    assert others["twin"] == pytest.approx(scores["twin"], rel=1e-9)
    assert others != pytest.approx(scores)


def test_the_environment_limits_what_is_kept(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIMIT, raising=False)
    assert make().scorer().reader.limit == 8 * 10**9
    monkeypatch.setenv(LIMIT, "3MB")
    assert make().scorer().reader.limit == 3_000_000
    assert make(cache_limit="4KB").scorer().reader.limit == 4000


def test_az_nas_is_of_all_networks_that_are_ranked(tmp_path: Path) -> None:
    table = write(tmp_path / "table.csv", [r for r in starter_rows(20) if r["depth"] != "1"])
    found = ranked(table, "az_nas", *AZ_NAS)
    scores = {
        name: {one["id"]: one["score"] for one in row["order"]} for name, row in found.items()
    }
    opened = open_benchmark("starter", table)
    parts = [[scores[name][a.id] for a in opened.architectures] for name in AZ_NAS] + [
        [opened.model_terminals(a)["flops"] for a in opened.architectures]
    ]
    count = len(opened.architectures)
    wanted = sum(np.log(stats.rankdata(part) / count) for part in parts)
    assert [scores["az_nas"][a.id] for a in opened.architectures] == pytest.approx(wanted)
    assert found["az_nas"]["seconds"] > 0
    shallow = write(tmp_path / "shallow.csv", starter_rows(20))
    assert "only one" in ranked(shallow, "az_nas")["az_nas"]["reason"]


def test_named_proxies_have_no_control(tmp_path: Path) -> None:
    """They were called controlled, and were what they are without it."""
    table = write(tmp_path / "table.csv", starter_rows(12))
    found = ranked(table, "naswot", "lexicographic", control="noise")
    assert "naswot reads the network itself, which --control noise" in found["naswot"]["reason"]
    assert found["lexicographic"]["tau"] > 0


def test_a_draw_is_the_seed_of_what_a_named_proxy_draws(make: Make) -> None:
    evaluator = make()
    network, ids = evaluator.scorer(3).reader.network(evaluator.benchmark.architectures[1])
    found = evaluator._called("az_trainability", np.array([1]), 3)
    assert not isinstance(found, Failed)
    assert found.tolist() == [score("az_trainability", network, ids, seed=3)]
    assert found.tolist() != [score("az_trainability", network, ids)]


def test_depth_width_and_size_come_first(evaluator: PredictionEvaluator) -> None:
    first = evaluator.benchmark.architectures[0].columns
    wanted = [first["depth"], first["width"], first["parameters"]]
    assert evaluator._table[0][:3].tolist() == wanted


def test_other_draws_are_other_weights(evaluator: PredictionEvaluator) -> None:
    formula = parse("layers_sum(all_norm(W))")
    first, other = (evaluator.oriented(formula, evaluator.unseen, draw) for draw in (0, 1))
    assert first is not None
    assert other is not None
    assert (first != other).all()
    again = evaluator.oriented(formula, evaluator.unseen, 0)
    assert again is not None
    assert again.tolist() == first.tolist()


def test_comparisons_are_on_unseen_networks(evaluator: PredictionEvaluator) -> None:
    others = {"erank": parse("layers_mean(erank(W))"), "ridge": "ridge"}
    found = evaluator.compare(
        parse("params"), {**others, "missing": parse("layers_sum(all_norm(g))")}
    )
    assert set(found) == {"erank", "ridge"}
    (mine, theirs) = evaluator.report([parse("params"), "ridge"], [0])
    assert found["ridge"]["difference"] == pytest.approx(mine["within"] - theirs["within"])
    assert evaluator.compare(parse("layers_sum(all_norm(g))"), others) == {}


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (without(starter_rows(), "heads"), "missing columns: heads"),
        (changed(starter_rows(), 3, activation="tanh"), "row 5, column activation: 'tanh'"),
        (changed(starter_rows(), 3, id="t00"), "'t00' was in row 2 already"),
        (changed(starter_rows(), 3, loss="nan"), "row 5, column loss: 'nan'"),
        (changed(starter_rows(), 3, loss=""), "row 5, column loss: ''"),
        (changed(starter_rows(), 3, loss="inf"), "row 5, column loss: 'inf'"),
        (changed(starter_rows(), 3, parameters="1"), "row 5, column parameters: '1'"),
        (changed(starter_rows(), 3, heads="3"), "row 5, column heads: '3'"),
        ([{**row, "loss": "2.5"} for row in starter_rows()], "every row has 2.5"),
        (starter_rows(9), "9 architectures; an order needs at least 10 rows"),
        ([{**row, "cell": "varied"} for row in starter_rows()], "0 architectures"),
    ],
)
def test_tables_that_cannot_serve(make: Make, rows: Rows, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make(rows)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": 2}, "labels must be at least 3, got 2"),
        ({"labels": "many"}, "labels must be int, got 'many'"),
        ({"labels": True}, "labels must be int, got True"),
        ({"limit": 9}, "limit must be at least 10, got 9"),
        ({"limit": 10, "validation_labels": 5}, "too few"),
        ({"validation_labels": 2}, "validation 0 or at least 3"),
        ({"objective": "rho"}, "unknown objective 'rho'"),
        ({"control": "noize"}, "unknown control 'noize'; did you mean 'noise'"),
        ({"benchmark": "starters"}, "did you mean 'starter'"),
        ({"label": 3}, "unknown option of predictions 'label'"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"max_tied": 1.5}, "max_tied is a share of pairs, from 0 to 1 such as 0.01, got 1.5"),
        ({"max_tied": math.nan}, "max_tied is a share of pairs"),
        ({"declared": True}, "--declared is of flexibert alone"),
        ({"cache_limit": "much"}, "'much' is no size"),
        ({"device": "tpu9"}, "tpu9"),
        ({"tokens": 97}, "take 96 tokens at most, got 97"),
        ({"table": "/nowhere/table.csv"}, "/nowhere/table.csv"),
    ],
)
def test_options_that_cannot_be(make: Make, options: dict[str, Any], said: str) -> None:
    def asked() -> None:
        list(make(**options).measure([parse("layers_sum(all_norm(W))")], 1.0))

    with pytest.raises(AutoproxyError) as refused:
        asked()
    assert said in str(refused.value)


def test_qualities_that_are_equal_where_the_search_looks(make: Make) -> None:
    """The table has two qualities; the labels that were drawn have one."""
    before = make(objective="tau")
    rows = [{**row, "loss": "2.5"} for row in starter_rows()]
    rows[int(before.unseen[0])]["loss"] = "3"
    for objective, said in (
        ("tau", "all 10 numbers are equal"),
        ("within", "3 architectures of different"),
    ):
        evaluator = make(rows, objective=objective)
        with pytest.raises(ConfigError, match=f"the 10 qualities that the search sees.*{said}"):
            evaluator.protocol()


def test_cells_too_small_to_order_inside(make: Make) -> None:
    rows = [{**row, "cell": f"cell {n // 2}"} for n, row in enumerate(starter_rows())]
    with pytest.raises(ConfigError, match="--objective tau"):
        make(rows).protocol()
    assert value(make(rows, objective="tau"), "params").value >= 0


def test_parts_are_told_apart_by_their_values_at_all_layers(make: Make) -> None:
    """What some layers lack is another value, even where it is the same number at the others."""
    evaluator = make()
    evaluator.prepare(["W", "x", "heads"])
    texts = (
        "W",
        "neg(neg(W))",
        "abs(W)",
        "tokens_norm(x)",
        "all_max(minmax(W))",
        "1",
        "all_max(minmax(heads))",  # 1 as well, but only where attention's outputs go in
        "layers_sum(1)",
        "div(layers_sum(2), 2)",
        "n_layers",
        "pow(pow(pow(exp(width), 4), 4), 4)",  # e to the 1024th: not finite
    )
    values = evaluator.values([parse(text) for text in texts])
    found = dict(zip(texts, values, strict=True))
    assert found["W"] == found["neg(neg(W))"] != found["abs(W)"]
    assert found["all_max(minmax(W))"] == found["1"] != found["all_max(minmax(heads))"]
    assert found["layers_sum(1)"] == found["div(layers_sum(2), 2)"] != found["n_layers"]
    assert [text for text in texts if found[text] is None] == [texts[-1]]
    assert evaluator.values([parse("abs(W)"), parse("n_layers")]) == [
        found["abs(W)"],
        found["n_layers"],
    ]
    assert evaluator.values([]) == []
