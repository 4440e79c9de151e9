"""The comparison split by split: everyone on the same labels, nothing twice, honest intervals."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks import bench_splits as bench
from benchmarks.run_log import records
from evaluators.prediction import PredictionEvaluator
from tests.evaluators.tables import starter_rows, write

SMALL = {"labels": 8, "validation_labels": 4, "unlabelled": 2, "sequences": 1, "tokens": 8}


def run(folder: Path, *words: object) -> list[dict[str, Any]]:
    table = write(folder / "table.csv", starter_rows())
    asked = ["run", "--folder", folder / "b", "--splits", 2, "--option", "evaluations=12"]
    asked += ["--option", "first_batch=8", "--option", "batch=4", "--option", "population=4"]
    for name, value in {**SMALL, "table": str(table)}.items():
        asked += ["--evaluator", f"{name}={json.dumps(value)}"]
    bench.main([str(word) for word in [*asked, *words]])
    return records(folder / "b")


def test_every_way_and_all_that_is_known_stand_on_the_same_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = run(tmp_path)
    assert [(r["split"], r["way"]) for r in log] == [
        (split, way) for split in (0, 1) for way in ("ours", "random", "known")
    ]
    assert len({r["setting"] for r in log}) == 1
    assert run(tmp_path) == log  # nothing is done again
    for record in log:
        evaluator = PredictionEvaluator.from_options(
            {**SMALL, "table": str(tmp_path / "table.csv"), "seed": record["split"]},
            cache=tmp_path / "b" / "cache",
            notice=print,
        )
        assert (record["labels"], record["unseen"]) == (12, len(evaluator.unseen))
        if record["way"] == "known":
            ridge = evaluator.oriented("ridge", evaluator.unseen)
            assert ridge is not None
            tau = evaluator.jury(evaluator.unseen).judge(ridge)["within"]
            assert record["worth"]["ridge"] == pytest.approx(tau)
            assert "ridge" not in record["seen"]  # it was fitted to those
        else:
            assert 12 <= record["spent"] < 20
    capsys.readouterr()
    bench.main(["table", "--folder", str(tmp_path / "b")])
    said = capsys.readouterr().out
    assert "12 labels, 12 networks unseen" in said
    assert all(f"| {name} | 2 |" in said for name in ("ours", "random", "ridge", "best by labels"))


def test_an_interval_allows_for_splits_that_share_networks() -> None:
    values = [0.4, 0.5, 0.6, 0.5, 0.7]
    mean, low, high = bench.interval(values, 0.0)
    assert (low, high) == pytest.approx(
        stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    )
    wide = bench.interval(values, 1.0)
    assert wide[0] == mean == pytest.approx(0.54)
    assert (wide[2] - wide[0]) / (high - mean) == pytest.approx(math.sqrt(1 + 5 * 1.0))
    assert math.isnan(bench.interval([0.4], 1.0)[1])
    assert bench.p_value(values, 0.0) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    for ratio in (0.0, 0.3, 2.0):  # p is below 0.05 where the interval leaves 0 out
        _, low, high = bench.interval([v - 0.3 for v in values], ratio)
        assert (bench.p_value([v - 0.3 for v in values], ratio) < 0.05) == (low > 0 or high < 0)
    assert bench.p_value([0.4], 1.0) == bench.p_value([0.4, 0.4], 1.0) == 1


def test_the_table_pairs_by_split_and_chooses_by_labels() -> None:
    one = {"setting": "s", "benchmark": "b", "objective": "tau", "space": "p"}
    one |= {"labels": 10, "unseen": 10}
    found = [
        {**one, "way": "ours", "split": s, "worth": {"ours": v}}
        for s, v in ((0, 0.5), (1, 0.7), (2, 0.9))
    ]
    found += [
        {
            **one,
            "way": "known",
            "split": s,
            "worth": {"a": 0.2 + s / 10, "b": None, "ridge": 0.6},
            "seen": {"a": 0.1, "b": 0.5 if s else None},
        }
        for s in (0, 1)
    ]
    rows = {line.split(" | ")[0].strip("| "): line for line in bench.report(found) if "|" in line}
    assert "| 3 | 0.700 [" in rows["ours"]
    assert "| 2 | 0.250 [" in rows["a"]
    assert "| +0.350 [" in rows["a"].replace("**", "")  # of splits 0 and 1 alone
    assert "| 2 | 0.100 [" in rows["best by labels"]  # a's 0.2, then b, which orders nothing
    assert "| +0.000 [" in rows["ridge"]
    assert rows["ridge"].rstrip(" |").endswith("p 1.000")
    # The last column is of these networks: splits draw labels anew, the interval is the plain one.
    gains = [0.3, 0.4]
    low, high = stats.t.interval(0.95, 1, loc=np.mean(gains), scale=stats.sem(gains))
    assert f"+0.350 [{low:+.3f}, {high:+.3f}]" in rows["a"].split(" | ")[-1]
    assert f"[{low:+.3f}" not in rows["a"].split(" | ")[-2]
