"""The report as a static site: a mapping from file names to their text, for runs and boards."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import itables
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from latex2mathml.converter import convert
from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from autoproxy.columns import cells, change_in_words, columns_of, ends, heading, headings
from autoproxy.export.formula import infix_of, to_infix, to_latex
from autoproxy.language.blindness import Blindness
from autoproxy.language.canonical import ordering
from autoproxy.language.expression import Expression
from autoproxy.language.parse import kind_of, parse
from autoproxy.language.simplify import simplify
from autoproxy.language.terminals import VOCABULARY
from autoproxy.language.types import Kind
from autoproxy.ledger.leaderboard import Group
from autoproxy.report.charts import Figure
from autoproxy.report.data import Run, formula_of
from autoproxy.report.figures import figures_of
from autoproxy.report.results import curves

_LEFT_OUT = frozenset({"columns", "definitions", "conditions"})
"""Entries of a protocol that say nothing to people."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A discovered metric that was exported.

    Attributes:
        name: Of its file and its function.
        text: Canonical form.
        sheet: Where it comes from, and what it was worth there.
        source: Its Python source.
    """

    name: str
    text: str
    sheet: Mapping[str, str]
    source: str


def site(
    runs: Sequence[Run],
    groups: Sequence[Group],
    metrics: Sequence[Metric],
    *,
    beside: Sequence[Run],
    version: str,
) -> dict[str, str]:
    """Return all files of the report by their path within it; nothing in them asks a network.

    Args:
        runs: Runs that are done, each gets a page.
        groups: The leaderboard.
        metrics: Exported metrics, each gets a page.
        beside: Runs that are drawn beside those, where they measured under the same protocol.
        version: Of AutoProxy, for the foot of the pages.
    """
    made_by = {metric.sheet.get("source run"): metric.name for metric in metrics}
    pages = {
        "index.html": _page("index.html", "", version, **_index(runs, metrics)),
        "leaderboard.html": _page("leaderboard.html", "", version, **_board(groups, runs)),
    }
    for run in runs:
        content = _run(run, beside, made_by.get(run.name))
        pages[f"runs/{run.name}.html"] = _page("run.html", "../", version, **content)
    names = {run.name for run in runs}
    known = names | {run.name for run in beside}
    for metric in metrics:
        content = _metric(metric, groups, names, known)
        pages[f"metrics/{metric.name}.html"] = _page("metric.html", "../", version, **content)
    return {**pages, **_assets()}


def _page(template: str, root: str, version: str, **content: Any) -> str:
    """Return a page; `root` leads from it to the top of the site."""
    content = {"charts": True, "wide": False, **content}
    return _TEMPLATES.get_template(template).render(root=root, version=version, **content)


_TEMPLATES = Environment(
    loader=PackageLoader("autoproxy.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _assets() -> dict[str, str]:
    """Return scripts and styles: ours, and those of the libraries, whole."""
    own = files("autoproxy.report") / "assets"
    bundle = Path(itables.__file__).parent / "html"
    code = json.dumps((bundle / "dt_bundle.js").read_text(encoding="utf-8")).replace("</", "<\\/")
    # A page from disk may load no module by its name, so it is handed over as text.
    tables = (
        f"window.tableLibrary = import(URL.createObjectURL(new Blob([{code}], "
        '{ type: "text/javascript" })));\n'
    )
    light = HtmlFormatter(style="friendly").get_style_defs(".code")
    night = HtmlFormatter(style="github-dark").get_style_defs(":root.dark .code")
    return {
        "assets/style.css": (own / "style.css").read_text(encoding="utf-8"),
        "assets/report.js": (own / "report.js").read_text(encoding="utf-8"),
        "assets/vega.js": vl_convert.javascript_bundle(),  # type: ignore[call-arg] # has a default
        "assets/tables.js": tables,
        "assets/tables.css": (bundle / "dt_bundle.css").read_text(encoding="utf-8"),
        "assets/code.css": f"{light}\n{night}\n",
    }


def _index(runs: Sequence[Run], metrics: Sequence[Metric]) -> dict[str, Any]:
    cards = []
    for run in runs:
        winner = run.summary["winner"]
        facts = [
            ("searched", heading(run.summary["protocol"])),
            (run.objective.name, f"{winner['value']:.4f} {run.objective.unit}"),
            ("evaluations", f"{run.summary['search']['spent']:.4g}"),
        ]
        cards.append(
            {
                "name": run.name,
                "math": _math(parse(winner["text"])),
                "verdict": " ".join(_verdicts(run)),
                "facts": facts,
            }
        )
    return {"runs": cards, "metrics": [metric.name for metric in metrics], "charts": False}


def _run(run: Run, beside: Sequence[Run], metric: str | None) -> dict[str, Any]:
    summary = run.summary
    winner = summary["winner"]
    expression = parse(winner["text"])
    figures = figures_of(run, beside)
    of_reports = [figure for figure in figures if figure.name.startswith(_OF_REPORTS)]
    of_search = [figure for figure in figures if figure not in of_reports]
    several = len(summary["reports"]) > 1
    reports = [
        _report(report, [f for f in of_reports if not several or f.name.endswith(f"-{number}")])
        for number, report in enumerate(summary["reports"], 1)
    ]
    said = run.objective
    return {
        "name": run.name,
        "lead": _lead(run),
        "winner": winner,
        "math": _math(expression),
        "verdict": " ".join(_verdicts(run)),
        "facts": [
            (f"{said.name} on the search text", f"{winner['value']:.5f} {said.unit}"),
            ("complexity", winner["complexity"]),
            ("proposal", f"{winner['slot']}, by {winner['origin']}"),
            ("text form", winner["text"]),
            ("key", winner["key"]),
        ],
        "equivalents": _equivalents(expression, run),
        "metric": metric,
        "reports": reports,
        "figures": [_drawn(figure) for figure in of_search],
        "objective": said.name,
        "baselines": [
            _row(
                _cell(row["name"]),
                _cell(f"{row['value']:.5f}", order=row["value"]),
                _cell(infix_of(row["text"]), code=True),
                _cell(row["source"]),
            )
            for row in run.baselines
        ],
        "protocol": _facts(summary["protocol"]),
        "manifest": json.dumps(run.manifest, indent=2),
    }


_OF_REPORTS = ("comparison", "kept", "shared", "order")


def _lead(run: Run) -> str:
    counts, search = run.summary["funnel"], run.summary["search"]
    return (
        "A search bred formulas, dropped the hopeless and the known ones unmeasured, and measured "
        f"the rest. It looked in the space {run.summary['space']!r}, on "
        f"{heading(run.summary['protocol'])}. "
        f"Of {counts['proposed']:,} proposals {counts['measured']:,} were measured in full, for "
        f"{search['spent']:.4g} full evaluations in {run.summary['seconds']:,.0f} seconds; it "
        f"ended because {search['stopped'] or 'it was stopped'}."
    )


def _verdicts(run: Run) -> list[str]:
    """Say for each report whether the winner beats what it is compared with."""
    return [_verdict(report, run.name) for report in run.summary["reports"]]


def _verdict(report: Mapping[str, Any], name: str) -> str:
    """Say in one sentence what a report shows, and whether chance could have made it."""
    column = columns_of(report["protocol"])[0]
    entries = {(entry["role"], entry["name"]): entry for entry in report["entries"]}
    found = entries.get(("discovered", name))
    handmade = [entry for entry in report["entries"] if entry["role"] == "baseline"]
    if found is None and name in report.get("reasons", {}):
        return f"The winner has no value in this report: {report['reasons'][name]}."
    if found is None or not handmade:
        return "It was not compared with hand-made metrics."
    best = handmade[0]  # entries are ranked
    better = report["entries"].index(found) < report["entries"].index(best)
    change = report.get("changes", {}).get(best["name"])
    if change is None:
        apart = _apart(ends(column, found), ends(column, best))
        sure = {
            True: "and their intervals do not overlap",
            False: "but their intervals overlap, so the order may be chance",
            None: "from one draw, without an interval",
        }[apart]
    else:
        chance = change["low"] <= 0 <= change["high"]
        sure = f"draw by draw {change_in_words(change)}, " + (
            "so the order may be chance" if chance else "which is more than chance"
        )
    word = "better" if better else "worse"
    digits = column.digits
    return (
        f"Under {report['protocol'].get('condition', 'its condition')} its {column.heading} is "
        f"{found[column.name]:.{digits}f}, {word} than the best hand-made one, {best['name']} "
        f"with {best[column.name]:.{digits}f}, {sure}."
    )


def _apart(one: tuple[float, float] | None, other: tuple[float, float] | None) -> bool | None:
    """Return whether two intervals lie apart; None where there are none."""
    if one is None or other is None:
        return None
    (low, high), (lower, higher) = one, other
    return high < lower or higher < low


def _equivalents(expression: Expression, run: Run) -> list[tuple[str, str]]:
    """Return what a formula is the same as: simplified, by order, and among hand-made ones."""
    found = [("simplified", to_infix(simplify(expression)))]
    if kind_of(expression) is Kind.MODEL:
        sights = [("orders networks like", Blindness.WHOLE)]
    else:
        sights = [("orders a row like", Blindness.ROW), ("orders a matrix like", Blindness.MATRIX)]
    for words, blindness in sights:
        order = ordering(expression, blindness)
        alike = [
            row["name"]
            for row in run.summary["baselines"]
            if ordering(parse(row["text"]), blindness) == order
        ]
        told = f" (hand-made: {', '.join(alike)})" if alike else ""
        found.append((words, to_infix(order) + told))
    return found


def _report(report: Mapping[str, Any], figures: Sequence[Figure]) -> dict[str, Any]:
    """Return one condition's table and figures."""
    protocol = report["protocol"]
    columns = columns_of(protocol)
    condition = protocol.get("condition", "")
    changes = report.get("changes", {})
    paired = ["winner against it, draw by draw"] if changes else []
    return {
        "title": f"Reported: {condition}" if condition else "Reported",
        "heading": heading(protocol),
        "heads": ["", "metric", *headings(columns), *paired, "seeds", "complexity", "formula"],
        "rows": [
            _row(
                _cell(str(place)),
                _cell(entry["name"]),
                *_values(columns, entry),
                *(_change(changes.get(entry["name"])) for _ in paired),
                _cell(str(entry["seeds"])),
                _cell(str(entry["complexity"] or "")),
                _cell(formula_of(entry) or entry["text"], code=True),
                role=entry["role"],
            )
            for place, entry in enumerate(report["entries"], 1)
        ],
        "figures": [_drawn(figure) for figure in figures],
        "notes": _notes(report.get("illustration")),
    }


def _change(found: Mapping[str, float] | None) -> dict[str, Any]:
    """Return the cell of how the winner compares with a metric, which sorts by number."""
    return _cell("") if found is None else _cell(change_in_words(found), order=found["change"])


def _notes(found: Mapping[str, Any] | None) -> list[str]:
    """Say what a heat map of one colour would show."""
    if found is None or found["kind"] != "masks":
        return []
    kept = [row["kept"] for row in found["rows"]]
    if max(kept) - min(kept) >= 1e-3:
        return []
    return [f"Every matrix keeps the same share of its weights, {kept[0]:.2%}."]


def _values(columns: Sequence[Any], entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the cells of all columns, which sort by number."""
    shown = cells(columns, entry)
    first, *others = columns
    orders = [entry.get(first.name)]
    if first.reference:
        orders.append(entry["ratio"])
    orders += [entry.get(column.name) for column in others]
    return [_cell(text, order=order) for text, order in zip(shown, orders, strict=True)]


def _metric(
    metric: Metric, groups: Sequence[Group], pages: set[str], runs: set[str]
) -> dict[str, Any]:
    """Return what a metric's page says; `runs` are those that an export can name."""
    expression = parse(metric.text)
    run = metric.sheet.get("source run")
    asked = [run] if run in runs else [metric.text, "--name", metric.name]
    rows = [
        _row(
            _cell(f"{place} of {len(group.entries)}", order=place),
            _cell(cells(columns_of(group.protocol), entry.to_json())[0]),
            _cell(entry.name),
            _cell(heading(group.protocol), link=f"../leaderboard.html#p-{group.digest[:12]}"),
        )
        for group in groups
        for place, entry in enumerate(group.entries, 1)
        if entry.text == metric.text
    ]
    return {
        "name": metric.name,
        "math": _math(expression),
        "formula": to_infix(expression),
        "run": run if run in pages else None,
        "export": shlex.join(["autoproxy", "export", *asked, "--out", f"{metric.name}.py"]),
        "said": f"Text form: {metric.text}",
        "sheet": list(metric.sheet.items()),
        "inputs": [
            (f"{one.name} ({one.kind.value}{', ' + one.unit if one.unit else ''})", one.meaning)
            for one in VOCABULARY.values()
            if one.name in expression.terminals()
        ],
        "heads": ["place", "value", "listed as", "table"],
        "rows": rows,
        "source": Markup(highlight(metric.source, PythonLexer(), HtmlFormatter(nowrap=False))),  # noqa: S704 - Pygments escapes it
        "charts": False,
    }


def _board(groups: Sequence[Group], runs: Sequence[Run]) -> dict[str, Any]:
    pages = {run.name for run in runs}
    rows = []
    for group in groups:
        protocol = group.protocol
        columns = columns_of(protocol)
        first = columns[0]
        for place, entry in enumerate(group.entries, 1):
            said = entry.to_json()
            link = f"runs/{entry.run}.html" if entry.run in pages else None
            rows.append(
                _row(
                    _cell(entry.name, link=link),
                    _cell(f"{place} of {len(group.entries)}", order=place),
                    _cell(cells(columns, said)[0], order=said[first.name]),
                    _cell(first.heading),
                    _cell("" if entry.ratio is None else f"{entry.ratio:.3f}", order=entry.ratio),
                    _cell(entry.role),
                    _cell(str(protocol.get("model", ""))),
                    _cell(str(protocol.get("condition", ""))),
                    _cell(str(protocol.get("group", ""))),
                    _cell(str(entry.seeds)),
                    _cell(str(entry.complexity or ""), order=entry.complexity or 0),
                    _cell(formula_of(said) or said["text"], code=True),
                    _cell(group.digest[:12], link=f"#p-{group.digest[:12]}"),
                    role=entry.role,
                )
            )
    heads = ["metric", "place", "value", "of", "/ Wanda", "role", "model", "condition", "group"]
    heads += ["seeds", "complexity", "formula", "protocol"]
    return {
        "wide": True,
        "heads": heads,
        "rows": rows,
        "figures": [_drawn(figure) for figure in curves(groups)],
        "groups": [
            {
                "digest": group.digest[:12],
                "heading": heading(group.protocol),
                "facts": _facts(group.protocol),
            }
            for group in groups
        ],
    }


def _drawn(figure: Figure) -> dict[str, Any]:
    spec = json.dumps(figure.chart.to_dict(), separators=(",", ":")).replace("<", "\\u003c")
    return {
        "name": figure.name,
        "title": figure.title,
        "caption": figure.caption,
        "spec": Markup(spec),  # noqa: S704 - JSON without '<' cannot leave its script
    }


def _math(expression: Expression) -> Markup:
    """Return a formula as MathML, which browsers draw by themselves."""
    return Markup(convert(to_latex(expression), display="block"))  # noqa: S704 - made of our words


def _facts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name.replace("_", " "), str(value))
        for name, value in values.items()
        if name not in _LEFT_OUT and value is not None
    ]


def _cell(
    text: str, *, order: float | None = None, code: bool = False, link: str | None = None
) -> dict[str, Any]:
    """Return a cell: its text, what it sorts by, and how it is shown."""
    return {"text": text, "order": order, "code": code, "link": link}


def _row(*cells_: dict[str, Any], role: str = "") -> dict[str, Any]:
    return {"cells": cells_, "role": role}
