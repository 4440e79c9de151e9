"""Pages: what they say is true, nothing in them is code of others, nothing leaves the machine."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import PurePosixPath
from typing import Any

import pytest

from autoproxy.columns import PRUNING
from autoproxy.ledger.leaderboard import rank
from autoproxy.ledger.measured import Archive
from autoproxy.ledger.records import Event, ReportRow
from autoproxy.report.data import Run
from autoproxy.report.results import curves
from autoproxy.report.site import Metric, site

EVIL = '</script><script>alert("x")</script><img src=x onerror=alert(1)>'
PROTOCOL = {"model": EVIL, "condition": "50%", "group": "row", "text": "t", "tokens": 64}


def entry(role: str, name: str, value: float, half: float | None, text: str) -> dict[str, Any]:
    return {
        "role": role,
        "name": name,
        "run": "r",
        "seeds": 3,
        "perplexity": value,
        "interval": half,
        "kl": 0.1,
        "ratio": 1.0,
        "complexity": 4 if text else 0,
        "text": text,
    }


def measured(slot: int, text: str, value: float, size: int, parents: tuple[str, ...] = ()) -> Event:
    where = ("r", slot, f"k{slot}", text, "wrap", parents)
    return Event(*where, "measured", None, None, 1.0, value, size, 0)


EVENTS = (
    measured(0, "abs(W)", 0.5, 2),
    measured(1, "square(W)", 0.5, 2),
    measured(2, "mul(abs(W), x_norm)", 0.3, 4, ("k0",)),
    measured(3, "mul(abs(W), sqrt(x_norm))", 0.25, 5, ("k2", "k0")),
)


def person(event: Event) -> dict[str, Any]:
    return {
        "text": event.text,
        "formula": event.text,
        "key": event.key,
        "complexity": event.complexity,
        "value": event.value,
        "slot": event.slot,
        "origin": event.origin,
    }


def run_of(*entries: dict[str, Any], name: str = "r") -> Run:
    summary = {
        "run": name,
        "space": "importance",
        "objective": {"name": "kl", "unit": "nats", "direction": "min"},
        "winner": person(EVENTS[-1]),
        "ladder": [{"fidelity": 0.5, "pairs": 4, "rank_correlation": 0.8, "screens": True}],
        "funnel": {"proposed": 9, "limits": 0, "same-mask": 2, "screened": 3, "measured": 4},
        "evaluations_saved": 2,
        "search": {"spent": 5.5, "stopped": "the budget of evaluations is spent"},
        "random_search": None,
        "front": [person(EVENTS[0]), person(EVENTS[2]), person(EVENTS[3])],
        "baselines": [
            {"name": "wanda", "text": "mul(abs(W), x_norm)", "source": EVIL, "value": 0.3},
            {"name": "snip", "text": "abs(mul(g, W))", "source": "s", "value": None, "reason": "x"},
        ],
        "reports": [
            {
                "protocol": PROTOCOL,
                "entries": list(entries),
                "illustration": {
                    "kind": "masks",
                    "against": "wanda",
                    "rows": [
                        {"layer": n, "module": EVIL, "kept": 0.5, "shared": 0.9 + n / 100}
                        for n in range(3)
                    ],
                },
            }
        ],
        "protocol": PROTOCOL,
        "seconds": 12.0,
    }
    archive = Archive(EVENTS, {"k3": {0.5: 0.2}, "k2": {0.5: 0.4}})
    return Run(name, summary, {"config": {"x": EVIL}}, archive, Archive(EVENTS[:2]))


def report_row(role: str, name: str, text: str, value: float, condition: str) -> ReportRow:
    return ReportRow(
        run="r" if role == "discovered" else None,
        role=role,
        name=name,
        text=text,
        key=name,
        complexity=4 if text else 0,
        seed=0,
        values={PRUNING[0].name: value, PRUNING[1].name: 0.1},
        protocol={**PROTOCOL, "condition": condition},
    )


ROWS = [
    report_row(role, name, text, value + share, f"{share}%")
    for share in (50, 60)
    for role, name, text, value in (
        ("dense", "dense", "", 5.0),
        ("baseline", "wanda", "mul(abs(W), x_norm)", 10.0),
        ("baseline", "sparsegpt", "", 8.0),
        ("discovered", "r", "mul(abs(W), sqrt(x_norm))", 9.0),
    )
]
METRICS = [
    Metric("r", "mul(abs(W), sqrt(x_norm))", {"source run": "r", "model": EVIL}, f"x = '{EVIL}'\n")
]
FOUND = entry("discovered", "r", 9.0, 0.5, "mul(abs(W), sqrt(x_norm))")
WANDA = entry("baseline", "wanda", 10.0, 0.25, "mul(abs(W), x_norm)")


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return site([run_of(FOUND, WANDA)], rank(ROWS), METRICS, beside=(), version="0")


def html(pages: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in pages.items() if name.endswith(".html")}


class Elements(HTMLParser):
    """All elements of a page with their attributes, and the text of its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._open = ""


def test_every_page_is_there(pages: dict[str, str]) -> None:
    assert set(html(pages)) == {
        "index.html",
        "leaderboard.html",
        "runs/r.html",
        "metrics/r.html",
    }


def test_names_of_others_are_never_code(pages: dict[str, str]) -> None:
    for page in html(pages).values():
        elements = Elements(page)
        assert all("onerror" not in attributes for _, attributes in elements.found)
        assert not any("alert" in script and "{" not in script for script in elements.scripts)
        assert "<script>alert" not in page


def test_links_lead_somewhere_and_stay_here(pages: dict[str, str]) -> None:
    for name, page in html(pages).items():
        elements = Elements(page).found
        ids = {attributes["id"] for _, attributes in elements if attributes.get("id")}
        for tag, attributes in elements:
            for word in ("src", "href"):
                target = attributes.get(word)
                if target is None or target == "data:,":
                    continue
                assert not re.match(r"\w+:|//", target), (name, tag, target)
                path, _, anchor = target.partition("#")
                if not path:
                    assert anchor in ids
                    continue
                parts: list[str] = []
                for part in (PurePosixPath(name).parent / path).parts:
                    parts = parts[:-1] if part == ".." else [*parts, part]
                assert "/".join(parts) in pages, (name, target)
                if anchor:
                    assert f'id="{anchor}"' in pages["/".join(parts)]


def test_nothing_of_ours_names_another_machine(pages: dict[str, str]) -> None:
    ours = [*html(pages).values(), pages["assets/style.css"], pages["assets/report.js"]]
    for text in ours:
        assert not re.search(r"https?://(?!www\.w3\.org/|vega\.github\.io/schema/)", text)


def test_every_figure_has_a_chart_that_reads(pages: dict[str, str]) -> None:
    page = pages["runs/r.html"]
    specs = re.findall(
        r'<script type="application/json" class="spec">(.*?)</script>', page, re.DOTALL
    )
    assert len(specs) == page.count("<figure")
    charts = [json.loads(spec) for spec in specs]
    assert all("$schema" in chart for chart in charts)
    names = re.findall(r'<figure id="([\w-]+)"', page)
    assert names == [
        *("comparison", "shared"),
        *("funnel", "front", "progress", "rungs", "lineage"),
    ]
    assert "Every matrix keeps the same share of its weights, 50.00%." in page
    curve = re.findall(r'<figure id="([\w-]+)"', pages["leaderboard.html"])
    assert curve == ["curves-1"]


def test_each_sparsity_has_a_discovered_metric_of_its_own() -> None:
    rows = [
        *(row for row in ROWS if row.role != "discovered"),
        report_row("discovered", "one", "abs(W)", 9.0, "50%"),
        report_row("discovered", "worse", "abs(g)", 9.5, "50%"),
        report_row("discovered", "other", "square(W)", 12.0, "100/3%"),
    ]
    (figure,) = curves(rank(rows))
    spec = figure.chart.to_dict()
    drawn = {
        (row["sparsity"], row["formula"])
        for data in [spec.get("data", {}).get("values", []), *spec.get("datasets", {}).values()]
        for row in data
        if row["metric"] == "discovered"
    }
    assert sorted(drawn) == [(pytest.approx(100 / 3), "square(W)"), (50.0, "abs(W)")]


def test_a_curve_joins_no_values_of_different_protocols() -> None:
    def of(torch: str) -> list[ReportRow]:
        return [
            replace(row, protocol={**row.protocol, "text_hash": "h", "torch": torch})
            for row in ROWS
            if row.name == "wanda"
        ]

    (alone,) = curves(rank(of("2.4")))
    one, other = curves(rank([*of("2.4"), *of("2.13")]))
    assert [len(next(iter(f.chart.to_dict()["datasets"].values()))) for f in (one, other)] == [2, 2]
    assert {f.caption.removeprefix(alone.caption) for f in (one, other)} == {
        " Measured with torch 2.4.",
        " Measured with torch 2.13.",
    }
    half, rest = (row for row in of("2.4") if row.seed == 0)
    assert curves(rank([half, replace(rest, protocol={**rest.protocol, "text_hash": "i"})])) == []


def test_a_curve_s_bars_are_the_intervals_over_draws() -> None:
    rows = [row for row in ROWS if row.name == "wanda"]
    again = replace(rows[0], seed=1, values={**rows[0].values, "perplexity": 64.0})
    (group, _) = groups = rank([*rows, again])
    (half,) = (one.interval for one in group.entries)
    assert half is not None
    (figure,) = curves(groups)
    (drawn,) = figure.chart.to_dict()["datasets"].values()
    found = {row["sparsity"]: (row["low"], row["perplexity"], row["high"]) for row in drawn}
    assert found == {50.0: (62.0 - half, 62.0, 62.0 + half), 60.0: (70.0, 70.0, 70.0)}


def test_formulas_are_drawn_without_a_script(pages: dict[str, str]) -> None:
    for name in ("index.html", "runs/r.html", "metrics/r.html"):
        assert "<math" in pages[name]
    assert "x_norm" in pages["runs/r.html"]


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([FOUND, WANDA], "9.00, better than the best hand-made one, wanda with 10.00, and their"),
        (
            [WANDA, {**FOUND, "perplexity": 11.0}],
            "11.00, worse than the best hand-made one, wanda with 10.00, and their intervals do "
            "not overlap",
        ),
        ([{**FOUND, "perplexity": 9.8}, WANDA], "but their intervals overlap"),
        ([{**FOUND, "interval": None}, WANDA], "from one draw, without an interval"),
        ([FOUND], "It was not compared with hand-made metrics."),
    ],
)
def test_a_verdict_says_what_the_table_shows(entries: list[dict[str, Any]], said: str) -> None:
    page = site([run_of(*entries)], (), (), beside=(), version="0")["runs/r.html"]
    assert said in " ".join(page.split())


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(-0.05, -0.016, "more than chance"), (-0.07, 0.01, "so the order may be chance")],
)
def test_a_verdict_is_paired_where_draws_are_shared(low: float, high: float, said: str) -> None:
    """The intervals of the two rows overlap; that of their ratio decides."""
    run = run_of({**FOUND, "perplexity": 9.8}, WANDA)
    (report,) = run.summary["reports"]
    change = {"change": -0.033, "low": low, "high": high, "draws": 5}
    summary = {**run.summary, "reports": [{**report, "changes": {"wanda": change}}]}
    page = site([replace(run, summary=summary)], (), (), beside=(), version="0")["runs/r.html"]
    words = f"draw by draw -3.3 % [{100 * low:+.1f}, {100 * high:+.1f}]"
    assert f"{words}, " in " ".join(page.split())
    assert said in page
    assert "winner against it, draw by draw" in page
    assert 'data-order="-0.033"' in page
    plain = site([run], (), (), beside=(), version="0")["runs/r.html"]
    assert "draw by draw" not in plain


def test_rows_sort_by_number_not_by_letter(pages: dict[str, str]) -> None:
    assert 'data-order="59.0"' in pages["leaderboard.html"]
    assert re.search(r'data-order="0\.3">\s*0\.30000', pages["runs/r.html"])


def test_a_run_without_an_archive_still_has_a_page() -> None:
    run = run_of(FOUND, WANDA)
    bare = Run(run.name, run.summary, run.manifest, Archive(()), Archive(()))
    page = site([bare], (), (), beside=(), version="0")["runs/r.html"]
    assert re.findall(r'<figure id="([\w-]+)"', page) == ["comparison", "shared", "funnel", "front"]


def test_runs_under_one_protocol_are_drawn_beside_each_other() -> None:
    one, other = run_of(FOUND, WANDA), run_of(FOUND, WANDA, name="another")
    pages = site([one], (), (), beside=[one, other], version="0")  # also of one run alone
    assert '"another"' in pages["runs/r.html"].split('id="progress"')[1]
    alone = site([one], (), (), beside=[one], version="0")["runs/r.html"]
    assert '"another"' not in alone
