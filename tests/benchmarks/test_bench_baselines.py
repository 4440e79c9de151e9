"""The table of every metric by hand: what is measured, what is skipped, what is said of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench_baselines
from benchmarks.run_log import records
from evaluators.starter import starter_folder

ASKED = ("--conditions", "50%,2:4", "--modes", "oneshot,sequential", "--top", "2")
SMALL = ("--tokens", "256", "--length", "64", "--calibration-blocks", "2")
FEW = ("magnitude", "wanda", "obd", "gblm", "fourth", "dsnot", "sparsegpt")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {metric.name: metric for metric in bench_baselines.known_metrics()}
    known["fourth"] = bench_baselines.named("fourth", "W ** 4 * x_norm ** 4")
    monkeypatch.setattr(bench_baselines, "known_metrics", lambda: [known[name] for name in FEW])


def run(folder: Path, *words: str) -> list[dict[str, Any]]:
    places = ("--folder", str(folder), "--results", str(folder / "results"))
    bench_baselines.main(["run", *places, *ASKED, *SMALL, *words])
    return records(folder)


def test_every_metric_under_every_condition(few: None, tmp_path: Path) -> None:
    del few
    found = run(tmp_path, "--more-tokens", "512", "--metric", "mine=abs(W) * g_token")
    cells = {(r["condition"], r["mode"], r["tokens"], r["metric"]): r for r in found}
    assert len(cells) == len(found)  # nothing twice
    first = {c: {m: cells[c, "oneshot", 256, m] for m in FEW} for c in ("50%", "2:4")}
    for same in ("obd", "fourth"):
        assert first["2:4"][same]["same_masks_as"] == "wanda"
    assert "perplexity" not in first["2:4"]["obd"]
    assert "cannot make the pattern 2:4" in first["2:4"]["dsnot"]["reason"]
    for condition, here in first.items():
        values = {m: r["perplexity"] for m, r in here.items() if "perplexity" in r}
        best = set(sorted(values, key=values.__getitem__)[:2])
        for mode, tokens, more in (("sequential", 256, set()), ("oneshot", 512, {"mine"})):
            again = {m for c, d, t, m in cells if (c, d, t) == (condition, mode, tokens)}
            assert again == best | more
    assert all(r["seconds"] > 0 < r["mib"] for r in found if "perplexity" in r)


def test_what_is_done_is_skipped_and_what_was_cut_off_is_not(few: None, tmp_path: Path) -> None:
    del few
    whole = run(tmp_path, "--conditions", "50%", "--modes", "oneshot")
    log = tmp_path / "runs.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines()
    log.write_text("\n".join(lines[:3]) + "\n" + lines[3][:20], encoding="utf-8")
    again = run(tmp_path, "--conditions", "50%", "--modes", "oneshot")
    assert [r["metric"] for r in again] == [r["metric"] for r in whole]
    for one, other in zip(whole, again, strict=True):
        for what in ("perplexity", "same_masks_as"):
            assert one.get(what) == other.get(what)
        if one["metric"] in ("gblm", "sparsegpt"):  # known to the ledger, so nothing was timed
            assert "seconds" in one.keys() - other.keys()


def test_a_table_says_what_a_cell_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = {"condition": "50%", "mode": "oneshot", "tokens": 256}
    lines: list[dict[str, Any]] = [
        {**base, "metric": "b", "perplexity": 20.0, "seconds": 2.0, "mib": 100.0},
        {**base, "metric": "a", "perplexity": 1234.5, "seconds": 4.0, "mib": 300.0},
        {**base, "metric": "c", "same_masks_as": "b"},
        {**base, "metric": "d", "reason": "cannot"},
    ]
    log = "\n".join(json.dumps(line) for line in lines)
    (tmp_path / "runs.jsonl").write_text(log, encoding="utf-8")
    bench_baselines.main(["table", "--folder", str(tmp_path)])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    words = [[cell.strip() for cell in row.strip("│").split("│")] for row in rows]
    assert words == [
        ["b", "20.00", "2", "100"],
        ["c", "= b", "", ""],
        ["a", "1,234.50", "4", "300"],
        ["d", "none", "", ""],
    ]


def test_the_model_is_the_one_that_is_asked_for(few: None, tmp_path: Path) -> None:
    del few
    one = ("--conditions", "50%", "--modes", "oneshot")
    named = run(tmp_path / "named", *one)
    placed = run(tmp_path / "placed", *one, "--model", str(starter_folder()))
    other = run(tmp_path / "other", *one, "--model", "starter-gpt2")
    values = [[r.get("perplexity") for r in found] for found in (named, placed, other)]
    assert values[0] == values[1] != values[2]
