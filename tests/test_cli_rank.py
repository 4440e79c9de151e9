"""Ranking networks and searching for predictions on the command line, on tiny decoders."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from autoproxy.cli import main
from autoproxy.commands.workspace import write_json
from autoproxy.evaluation import content_hash
from autoproxy.export.manifest import to_json
from autoproxy.export.proxy import proxy_source
from autoproxy.language.parse import parse
from evaluators.benchmarks.starter import COLUMNS
from evaluators.correlation import within
from evaluators.prediction import PredictionEvaluator
from evaluators.prediction_config import PredictionConfig
from evaluators.proxies import score
from tests.evaluators.tables import changed, flexibert_rows, starter_rows, without, write
from tests.runs import outcome_of_run, summary_of
from tests.saying import Run, refused

QUICK = ("--sequences", 1, "--tokens", 8)
BUDGET = ("--evaluations", 14, "--population", 6, "--seed", 2, "--name", "tiny-run")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = starter_rows()
    assert tuple(rows[0]) == COLUMNS
    return write(tmp_path_factory.mktemp("rank") / "table.csv", rows)


def search(table: Path, results: Path) -> list[str]:
    few = table.with_name("few.toml")
    few.write_text("[search]\nfirst_batch = 16\nbatch = 8\nfinalists = 3\n", encoding="utf-8")
    words = ["search", "--config", few, "--space", "prediction", "--table", table, "--labels", 10]
    words += ["--validation-labels", 5, *QUICK, *BUDGET, "--results", results, "--json"]
    return [str(word) for word in words]


@pytest.fixture(scope="module")
def searched(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do one whole search, which the others are compared with."""
    results = tmp_path_factory.mktemp("searched")
    assert main(search(table, results)) == 0
    return results


# --- rank -------------------------------------------------------------------------------------


def test_snip_orders_all_networks(table: Path, run: Run, tmp_path: Path) -> None:
    said = run("rank", "--proxy", "snip", "--table", table, *QUICK, "--results", tmp_path, "--json")
    assert said.code == 0, said.err
    assert said.json["protocol"]["architectures"] == 24
    (row,) = said.json["proxies"]
    assert (row["name"], row["sign"]) == ("snip", 1)
    assert row["seconds"] > 0
    order = row["order"]
    assert {one["id"] for one in order} == {one["id"] for one in starter_rows()}
    scores = [one["score"] for one in order]
    assert scores == sorted(scores, reverse=True)
    qualities = {one["id"]: -float(one["loss"]) for one in starter_rows()}
    assert all(one["quality"] == qualities[one["id"]] for one in order)
    tau = stats.kendalltau(scores, [one["quality"] for one in order]).statistic
    assert row["tau"] == pytest.approx(tau)
    assert row["tau_low"] < row["tau"] < row["tau_high"]
    again = run(
        "rank", "--proxy", "snip", "--table", table, *QUICK, "--results", tmp_path, "--json"
    )
    assert without_times(again.json) == without_times(said.json)
    assert not list(tmp_path.rglob("*.safetensors"))


def without_times(found: Any) -> Any:
    return {
        **found,
        "proxies": [{k: v for k, v in row.items() if k != "seconds"} for row in found["proxies"]],
    }


def test_expressions_and_methods_are_ranked_best_first(
    table: Path, run: Run, tmp_path: Path
) -> None:
    proxies = [
        "n_layers * width",
        "0 - n_layers * width",
        "width - width",
        "layers_sum(all_norm(mul(1e38, mul(1e38, W))))",
        "ridge",
        "synaptic_diversity",
        "softmax_confidence",
    ]
    words = [word for proxy in proxies for word in ("--proxy", proxy)]
    said = run(
        "rank", *words, "--table", table, *QUICK, "--limit", 12, "--results", tmp_path, "--json"
    )
    assert said.code == 0, said.err
    rows = said.json["proxies"]
    assert {row["name"] for row in rows} == set(proxies)
    known = [row["tau"] for row in rows if row.get("tau") is not None]
    assert known == sorted(known, reverse=True)
    assert [row.get("tau") is None for row in rows] == sorted(
        row.get("tau") is None for row in rows
    )
    by_name = {row["name"]: row for row in rows}
    assert by_name[proxies[0]]["tau"] == pytest.approx(-by_name[proxies[1]]["tau"])
    assert by_name[proxies[2]]["tied"] == 1
    assert by_name[proxies[3]]["reason"] == "no finite score for 12 of 12 networks"
    assert {len(row["order"]) for row in rows if "order" in row} == {12}
    told = run("rank", *words[:2], "--table", table, *QUICK, "--limit", 12, "--results", tmp_path)
    assert told.code == 0
    assert "12 networks by -loss" in told.out
    assert "t00" in told.out


def test_what_noise_leaves_is_told_where_networks_were_trained_twice(
    table: Path, run: Run, tmp_path: Path
) -> None:
    words = ["rank", "--proxy", "n_layers * width", *QUICK, "--results", tmp_path]
    assert run(*words, "--table", table, "--json").json["ceiling"] is None
    assert "ceiling" not in run(*words, "--table", table).out
    first = np.array([float(row["loss"]) for row in starter_rows()])
    second = first + 0.3 * np.sin(np.arange(24))
    again = [
        {**row, "id": f"{row['id']}b", "loss": str(loss)}
        for row, loss in zip(starter_rows(), second, strict=True)
    ]
    twice = write(tmp_path / "twice.csv", starter_rows() + again)
    found = run(*words, "--table", twice, "--json").json["ceiling"]
    assert found["networks"] == 24
    pairs = itertools.combinations(range(24), 2)
    agreement = np.mean(
        [
            np.sign(first[i] - first[j]) * np.sign(second[i] - second[j]) / 2
            + np.sign(first[i] - second[j]) * np.sign(second[i] - first[j]) / 2
            for i, j in pairs
        ]
    )
    assert found["agreement"] == pytest.approx(agreement)
    assert found["tau_low"] < found["tau"] < found["tau_high"]
    told = run(*words, "--table", twice).out
    assert f"agree with tau {agreement:.3f} (24 networks trained more than once)" in told


def test_a_winner_that_was_searched_on_a_sample_is_not_ranked_on_all_in_silence(
    table: Path, run: Run, tmp_path: Path
) -> None:
    """The spectrum of 4 outputs is not that of all; a norm is scaled to it."""
    told = {}
    for text, rows in (("layers_sum(erank(W))", None), ("layers_sum(erank(W))", 4)):
        sheet = {"rows": "4", "orientation": "smaller is better"}
        metric = tmp_path / "winner.json"
        write_json(metric, to_json(parse(text), sheet))
        words = ["rank", "--proxy", metric, "--table", table, *QUICK, "--results", tmp_path]
        words += [] if rows is None else ["--rows", rows]
        said = run(*words, "--json")
        assert said.json["proxies"][0]["sign"] == -1
        told[rows] = said.json["notices"]
    assert told[4] == []
    assert "read erank on 4 outputs of each layer at most" in told[None][0]
    assert "--rows 4" in told[None][0]
    source = proxy_source(
        parse("layers_sum(erank(W))"),
        name="winner",
        data_sheet={"rows": "4"},
        collector=PredictionEvaluator.collector_source(["W"]),
    )
    assert "Beware: the search read erank on 4 outputs" in " ".join(source.split())


def test_a_proxy_of_no_agreement_is_above_one_that_is_wrong(
    table: Path, run: Run, tmp_path: Path
) -> None:
    """A tau of 0 is a number."""
    rows = [{**row, "loss": str(4 + n // 3)} for n, row in enumerate(starter_rows(12))]
    spoilt = write(tmp_path / "table.csv", rows)
    taus = {}
    for text in ("n_layers", "0 - ff_width", "ff_width"):
        said = run(
            "rank", "--proxy", text, "--table", spoilt, *QUICK, "--results", tmp_path, "--json"
        )
        taus[text] = said.json["proxies"][0]["tau"]
    words = [word for text in taus for word in ("--proxy", text)]
    said = run("rank", *words, "--table", spoilt, *QUICK, "--results", tmp_path, "--json")
    assert [row["tau"] for row in said.json["proxies"]] == sorted(taus.values(), reverse=True)
    assert 0 in taus.values()
    assert min(taus.values()) < 0


def test_all_hand_made_proxies_are_ranked(table: Path, run: Run, tmp_path: Path) -> None:
    said = run(
        "rank", "--all", "--table", table, *QUICK, "--limit", 10, "--results", tmp_path, "--json"
    )
    assert said.code == 0, said.err
    names = {row["name"] for row in said.json["proxies"]}
    listed = run("list", "--space", "prediction", "--results", tmp_path, "--json")
    assert listed.code == 0
    assert {"snip", "parameters", "depth", "ridge", "lexicographic"} <= names
    assert names >= set(PredictionEvaluator.methods())
    for row in said.json["proxies"]:
        assert ("reason" in row) != ("order" in row)
        assert row.get("tau") is None or -1 <= row["tau"] <= 1
    assert len([row for row in said.json["proxies"] if row.get("tau") is not None]) > 25


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--proxy", "snipp"], ["unknown metric 'snipp'", "did you mean 'snip'"]),
        (["--proxy", "rigde"], ["did you mean 'ridge'"]),
        (["--proxy", "abs(W) * x_norm"], ["is of kind Weight", "layers_sum(all_sum(...))"]),
        (["--proxy", "all_sum(abs(W))"], ["is of kind Scalar", "one number for a whole network"]),
        (["--proxy", "layers_sum(W)"], ["layers_sum"]),
        (["--proxy", "layers_sum(all_sum(abs(W))"], ["layers_sum(all_sum(abs(W))"]),
        ([], ["--proxy NAME", "--all"]),
        (["--proxy", "snip", "--limit", 3], ["limit must be at least 10, got 3"]),
        (["--proxy", "snip", "--tokens", 97], ["take 96 tokens at most"]),
        (["--proxy", "snip", "--control", "silence"], ["unknown control 'silence'"]),
        (["--proxy", "snip", "--benchmark", "startr"], ["did you mean 'starter'"]),
        (["--proxy", "snip", "--evaluator", "pruning"], ["ranks no networks"]),
    ],
)
def test_what_cannot_be_ranked(
    words: list[object], told: list[str], table: Path, run: Run, tmp_path: Path
) -> None:
    refused(run("rank", *words, "--table", table, "--results", tmp_path), *told)


@pytest.mark.parametrize("command", ["rank", "search"])
@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (without(starter_rows(), "loss"), "missing columns: loss"),
        (changed(starter_rows(), 2, position="spiral"), "row 4, column position: 'spiral'"),
        (changed(starter_rows(), 2, id="t00"), "ids must differ"),
        ([{**row, "loss": "2"} for row in starter_rows()], "every row has 2"),
        (starter_rows(9), "at least 10 rows"),
        (changed(starter_rows(), 2, loss="NaN"), "row 4, column loss: 'NaN'"),
        (starter_rows(10), "too few"),
    ],
)
def test_tables_that_cannot_serve(
    command: str, rows: list[dict[str, str]], told: str, run: Run, tmp_path: Path
) -> None:
    spoilt = write(tmp_path / "table.csv", rows)
    words = ["--proxy", "depth"] if command == "rank" else ["--space", "prediction"]
    said = run(command, *words, "--table", spoilt, "--results", tmp_path / "results")
    if command == "rank" and told == "too few":
        assert said.code == 0  # ten can be ordered, if not split in three
    else:
        refused(said, told)


def test_a_table_that_is_not_there(run: Run, tmp_path: Path) -> None:
    said = run("rank", "--proxy", "snip", "--table", tmp_path / "no.csv", "--results", tmp_path)
    refused(said, "no.csv", "--table FILE")


# --- search -----------------------------------------------------------------------------------


def test_a_search_finds_a_prediction(searched: Path) -> None:
    summary = summary_of(searched)
    assert summary["search"]["spent"] >= 14
    text = json.dumps(summary)
    for word in ("ridge", "lexicographic", "snip", "parameters"):
        assert word in text
    config = (searched / "runs/tiny-run/run.toml").read_text(encoding="utf-8")
    for said in ('evaluator = "prediction"', "population = 6", "report_seeds = 1", "race = false"):
        assert said in config
    assert (searched / "leaderboard.md").exists()


def test_report_and_paired_tests_are_of_the_draw_that_the_search_saw(searched: Path) -> None:
    """The seed of the run, 2, is of the split; it is no draw of weights."""
    summary = summary_of(searched)
    (report,) = summary["reports"]
    assert report["protocol"]["split"] == 2
    rows = [json.loads(line) for line in (searched / "reports.jsonl").read_text().splitlines()]
    assert {row["seed"] for row in rows if "seed" in row} == {0}
    entries = {entry["name"]: entry for entry in report["entries"]}
    compared = {n: c for n, c in summary["comparisons"].items() if n in entries}
    assert len(compared) > 3
    for name, found in compared.items():
        gap = entries["tiny-run"]["within"] - entries[name]["within"]
        assert found["difference"] == pytest.approx(gap, abs=1e-9)


def test_functions_are_rivals_in_report_and_tests(table: Path, searched: Path) -> None:
    """Of those on the benchmark of small networks; one sequence is too few for two of them."""
    summary = summary_of(searched)
    (report,) = summary["reports"]
    entries = {entry["name"]: entry for entry in report["entries"]}
    assert {"near", "w_pca"} <= set(entries)
    assert {"near", "w_pca"} <= set(summary["comparisons"])
    for name in ("naswot", "zico"):
        assert name not in entries
        assert "a batch of at least 2" in report["reasons"][name]
    options = {"table": str(table), "labels": 10, "validation_labels": 5, "seed": 2}
    opened = PredictionEvaluator(
        PredictionConfig.from_options({**options, "sequences": 1, "tokens": 8}),
        cache=searched / "cache",
    )
    scores = []
    for place in [*opened.search, *opened.unseen]:
        network, ids = opened.scorer().reader.network(opened.benchmark.architectures[place])
        scores.append(score("near", network, ids))
    count, quality = len(opened.search), opened.quality
    cells = [opened.strata[place] for place in opened.search]
    sign = np.sign(within(np.array(scores[:count]), quality[opened.search], cells).tau)
    tau = stats.kendalltau(scores[count:], quality[opened.unseen]).statistic
    assert entries["near"]["tau"] == pytest.approx(sign * tau)


def test_larger_networks_have_no_functions_in_their_reports(tmp_path: Path) -> None:
    table = write(tmp_path / "table.csv", flexibert_rows())
    config = PredictionConfig(benchmark="flexibert", table=str(table))
    found = PredictionEvaluator(config, cache=tmp_path)
    assert found.references == ("lexicographic", "ridge")
    assert "near" in PredictionEvaluator.methods()


def test_rows_of_protocols_that_said_less_are_verified_still(
    table: Path, searched: Path, run: Run, tmp_path: Path
) -> None:
    lines = (searched / "reports.jsonl").read_text(encoding="utf-8").splitlines()
    protocol = json.loads(lines[0])
    for name in ("text_hash", "sign_draw", "torch"):
        del protocol["content"][name]
    lines[0] = json.dumps(protocol)
    (tmp_path / "reports.jsonl").write_text("\n".join(lines), encoding="utf-8")
    row = f"{content_hash(protocol['content'])[:12]}/ridge"
    words = ["leaderboard", "--verify", row, "--results", tmp_path, "--table", table, "--json"]
    said = run(*words)
    assert said.code == 0, said.err
    assert [row["verdict"] for row in said.json["rows"]] == ["same"]
    assert "another build" in " ".join(said.json["notes"])


def test_a_proxy_without_an_order_has_no_row_but_a_reason(searched: Path) -> None:
    """No layer here has the 128 outputs that head importance counts: all scores are 0."""
    summary = summary_of(searched)
    (report,) = summary["reports"]
    assert "the same score" in report["reasons"]["head_importance"]
    assert "head_importance" not in {entry["name"] for entry in report["entries"]}
    assert "head_importance" not in (searched / "reports.jsonl").read_text(encoding="utf-8")


def test_what_has_no_order_is_worth_nothing_that_could_be_told(
    table: Path, run: Run, tmp_path: Path
) -> None:
    words = [
        "evaluate",
        "--evaluator",
        "prediction",
        "--space",
        "prediction",
        "--results",
        tmp_path,
    ]
    words += ["--metric", "minimum(n_layers, 1)"]
    refused(run(*words), "has no value: it gives every network", "the same score")


def test_the_same_search_again_is_the_same_to_the_bit(
    table: Path, searched: Path, run: Run, tmp_path: Path
) -> None:
    assert run(*search(table, tmp_path)).code == 0
    assert outcome_of_run(tmp_path) == outcome_of_run(searched)


def test_an_interrupted_search_goes_on_to_the_same_winner(
    table: Path, searched: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measure = PredictionEvaluator.measure
    left = [32]  # hand-made proxies, and some of the first generation

    def interrupted(self: Any, expressions: Any, fidelity: float) -> Any:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return measure(self, expressions, fidelity)

    with monkeypatch.context() as patch:
        patch.setattr(PredictionEvaluator, "measure", interrupted)
        said = run(*search(table, tmp_path))
    assert said.code == 130, said.err
    assert "autoproxy resume" in said.err
    assert run("resume", "--results", tmp_path, "--json").code == 0
    assert outcome_of_run(tmp_path) == outcome_of_run(searched)


def test_the_winner_of_a_run_is_ranked_by_its_name(table: Path, searched: Path, run: Run) -> None:
    said = run(
        "rank", "--proxy", "tiny-run", "--table", table, *QUICK, "--results", searched, "--json"
    )
    assert said.code == 0, said.err
    (row,) = said.json["proxies"]
    assert len(row["order"]) == 24
