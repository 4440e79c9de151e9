"""The figures of a search: what became of its proposals, and how it found what it found.

A figure that has nothing to show is None.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from autoproxy.evaluation import Direction
from autoproxy.export.formula import infix_of
from autoproxy.language.complexity import complexity
from autoproxy.language.parse import parse
from autoproxy.report.charts import (
    COLOURS,
    ROW,
    TALL,
    Figure,
    data,
    fixed_colours,
    good_scale,
    in_words,
    some_colours,
)
from autoproxy.report.data import Run, lineage, progress
from autoproxy.report.results import comparison, illustrations
from autoproxy.report.words import importance

_KINDS = {
    "formula": ("grey", "circle"),
    "hand-made": ("orange", "diamond"),
    "front": ("blue", "square"),
    "winner": ("red", "triangle-up"),
}


def figures_of(run: Run, others: Sequence[Run] = ()) -> list[Figure]:
    """Return all figures that a run has, in the order of its page.

    Args:
        run: The run.
        others: Further runs; those that measured under the same protocol are drawn beside it.
    """
    rivals = [other for other in others if other.protocol == run.protocol and other != run]
    drawn = [
        _funnel(run),
        _front(run),
        _progress(run, rivals),
        _words(run),
        _rungs(run),
        _lineage(run),
    ]
    for number, report in enumerate(run.summary["reports"], 1):
        suffix = "" if len(run.summary["reports"]) == 1 else f"-{number}"
        drawn += [comparison(report, suffix), *illustrations(report, suffix)]
    return [figure for figure in drawn if figure is not None]


RULES: Mapping[str, str] = {
    "limits": "too large or too deep, or of the wrong kind",
    "varies": "the same for every weight or every network",
    "repeat": "proposed before, letter by letter",
    "same-algebra": "the same order by algebra as one before",
    "hopeless": "not finite, or the same everywhere, on real rows",
    "distorting": "takes far more from the layers' outputs than Wanda's masks",
    "same-order": "the same order on real rows as one before",
    "same-mask": "the same masks, to the last bit, as one before",
    "screened": "measured on a cheap block, and not among the best there",
    "raced": "measured on some blocks, and beaten before the last",
    "failed": "could not be measured",
    "measured": "measured in full",
}
"""What became of a proposal, in the order of the sieve."""


def _funnel(run: Run) -> Figure:
    counts = run.summary["funnel"]
    rows = [
        {"fate": name, "proposals": count, "meaning": RULES.get(name, ""), "kind": _fate(name)}
        for name, count in counts.items()
        if name != "proposed" and count
    ]
    order = [row["fate"] for row in rows]
    base = alt.Chart(data(rows)).encode(
        y=alt.Y("fate:N", sort=order, title=None),
        x=alt.X("proposals:Q", title="proposals"),
        tooltip=["fate:N", "proposals:Q", "meaning:N"],
    )
    kinds = {"dropped unmeasured": "grey", "measured in part": "orange", "measured in full": "blue"}
    bars = base.mark_bar().encode(color=fixed_colours("kind", kinds, "top"))
    labels = base.mark_text(align="left", dx=3).encode(text="proposals:Q")
    return Figure(
        "funnel",
        "The funnel of the sieve",
        f"What became of {counts['proposed']:,} proposals, from the cheapest rule to the dearest. "
        f"{run.summary['evaluations_saved']:,} well-formed ones were never measured, since they "
        "were hopeless or known.",
        (bars + labels).properties(width="container", height=ROW * len(rows)),
    )


def _fate(name: str) -> str:
    if name == "measured":
        return "measured in full"
    return "measured in part" if name in ("screened", "raced") else "dropped unmeasured"


def _front(run: Run) -> Figure:
    objective, winner = run.objective, run.summary["winner"]
    front = {row["key"] for row in run.summary["front"]}
    rows = [
        _point("formula", e.text, e.complexity, e.value, e.origin)
        for e in run.whole
        if e.key not in front and e.key != winner["key"]
    ]
    rows += [
        _point("hand-made", b["text"], complexity(parse(b["text"])), b["value"], b["name"])
        for b in run.baselines
    ]
    rows += [
        _point("front", f["text"], f["complexity"], f["value"], f["origin"])
        for f in run.summary["front"]
        if f["key"] != winner["key"]
    ]
    rows.append(
        _point("winner", winner["text"], winner["complexity"], winner["value"], winner["origin"])
    )
    scale = good_scale(rows, objective, [winner["value"]])
    value = alt.Y("value:Q", title=in_words(objective), scale=scale)
    colours = {kind: colour for kind, (colour, _) in _KINDS.items()}
    steps = [{"complexity": f["complexity"], "value": f["value"]} for f in run.summary["front"]]
    line = (
        alt.Chart(data(steps))
        .mark_line(interpolate="step-after", color=COLOURS["blue"], clip=True)
        .encode(x="complexity:Q", y=value)
    )
    points = (
        alt.Chart(data(rows))
        .mark_point(filled=True, size=80, opacity=1, clip=True)
        .encode(
            x=alt.X("complexity:Q", title="complexity"),
            y=value,
            color=fixed_colours("kind", colours, "top"),
            shape=alt.Shape(
                "kind:N",
                scale=alt.Scale(domain=[*_KINDS], range=[shape for _, shape in _KINDS.values()]),
                title=None,
            ),
            tooltip=["formula:N", "value:Q", "complexity:Q", "from:N", "kind:N"],
        )
    )
    better = "low" if objective.direction is Direction.MINIMIZE else "high"
    return Figure(
        "front",
        "Value against complexity",
        f"Every formula that was measured in full on the search text; {better} is good, simple is "
        "left. The line joins those that no simpler one equals. What is far worse than most is "
        "left out. The winner is the one of the best that did best on fresh blocks.",
        (line + points).properties(width="container", height=TALL),
    )


def _point(kind: str, text: str, size: int, value: float | None, source: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "formula": infix_of(text),
        "complexity": size,
        "value": value,
        "from": source,
    }


def _progress(run: Run, rivals: Sequence[Run]) -> Figure | None:
    objective = run.objective
    series = {run.name: run.archive, "random search": run.random}
    series |= {rival.name: rival.archive for rival in rivals}
    rows = [
        {
            "run": name,
            "evaluations": round(step.spent, 6),
            "value": step.value,
            "formula": infix_of(step.text),
        }
        for name, archive in series.items()
        for step in progress(archive.events, objective)
    ]
    if not rows:
        return None
    names = [name for name in series if any(row["run"] == name for row in rows)]
    scale = good_scale(rows, objective, [row["value"] for row in run.baselines[:1]])
    lines = (
        alt.Chart(data(rows))
        .mark_line(interpolate="step-after", point=True, clip=True)
        .encode(
            x=alt.X("evaluations:Q", title="full evaluations spent"),
            y=alt.Y("value:Q", title=f"best {in_words(objective)}", scale=scale),
            color=alt.Color(
                "run:N",
                scale=alt.Scale(domain=names, range=some_colours(len(names))),
                legend=alt.Legend(orient="top", columns=2, labelLimit=260),
                title=None,
            ),
            strokeDash=alt.StrokeDash("run:N", scale=alt.Scale(domain=names), title=None),
            tooltip=["run:N", "evaluations:Q", "value:Q", "formula:N"],
        )
    )
    beside = "; runs under the same protocol are drawn beside it" if rivals else ""
    return Figure(
        "progress",
        "Progress against evaluations",
        "The best value so far on the search text, by what was spent in full evaluations"
        f"{beside}. Random search has the same sieve, ladder and budget.",
        alt.layer(lines, *_best_known(run)).properties(width="container", height=TALL),
    )


def _best_known(run: Run) -> list[alt.Chart]:
    """Return a line at the value of the best hand-made metric, where there is one, and its name."""
    if not run.baselines:
        return []
    best = run.baselines[0]
    known = [{"value": best["value"], "name": f"{best['name']} (best hand-made)"}]
    base = alt.Chart(data(known)).encode(y="value:Q")
    label = base.mark_text(align="right", dy=-6).encode(x=alt.value("width"), text="name:N")
    return [base.mark_rule(strokeDash=[4, 4]), label]


def _words(run: Run) -> Figure | None:
    words = importance(run.archive.events, run.objective)
    if not words:
        return None
    rows = [
        {
            "word": word.name,
            "what": word.what,
            "advantage": word.advantage,
            "formulas": word.formulas,
            "p": word.p_value,
        }
        for word in words
    ]
    chart = (
        alt.Chart(data(rows))
        .mark_bar()
        .encode(
            y=alt.Y("word:N", sort=[word.name for word in words], title=None),
            x=alt.X(
                "advantage:Q",
                title="chance that a formula with it is the better one",
                scale=alt.Scale(domain=[0, 1]),
            ),
            x2=alt.datum(0.5),
            color=fixed_colours("what", {"input": "blue", "operation": "orange"}, "top"),
            tooltip=["word:N", "what:N", "advantage:Q", "formulas:Q", "p:Q"],
        )
    )
    return Figure(
        "words",
        "What operations and inputs are worth",
        f"Of {len(run.whole)} formulas measured in full, two are drawn, one with the word and one "
        "without it: the bar says how often the first is better (0.5: no difference). Formulas of "
        "a search are relatives, so this describes the search; it proves nothing of the word.",
        chart.properties(width="container", height=ROW * len(rows)),
    )


def _rungs(run: Run) -> Figure | None:
    rows = [
        {
            "rung": fidelity,
            "cheap": value,
            "full": event.value,
            "formula": infix_of(event.text),
        }
        for event in run.whole
        for fidelity, value in sorted(run.archive.rungs.get(event.key, {}).items())
    ]
    if not rows:
        return None
    told = ", ".join(
        f"{100 * step['fidelity']:.0f} %: {step['rank_correlation']:.2f}"
        for step in run.summary["ladder"]
        if step["rank_correlation"] is not None
    )
    chart = (
        alt.Chart(data(rows))
        .mark_point(filled=True, size=60, opacity=0.8)
        .encode(
            x=alt.X("cheap:Q", title="value on the cheap rung", scale=alt.Scale(zero=False)),
            y=alt.Y("full:Q", title=in_words(run.objective), scale=alt.Scale(zero=False)),
            color=alt.Color(
                "rung:Q",
                scale=alt.Scale(range=[COLOURS["orange"], COLOURS["blue"]]),
                legend=alt.Legend(orient="top", title="share of full cost", format=".0%"),
            ),
            tooltip=["formula:N", "rung:Q", "cheap:Q", "full:Q"],
        )
    )
    return Figure(
        "rungs",
        "Do cheap measurements rank like dear ones?",
        "Formulas that were measured in full, by what they were worth on cheaper rungs. Rank "
        f"correlation (Spearman) with the full value, by share of its cost: {told or 'too few'}. "
        "What the cheap rung dropped is not among them, so this looks at the good ones only.",
        chart.properties(width="container", height=TALL),
    )


def _lineage(run: Run) -> Figure | None:
    family = lineage(run.archive.events, run.summary["winner"]["key"])
    if len(family) < 2:
        return None
    keys = {event.key: event for event in family}
    rows = [
        {
            "slot": event.slot,
            "value": event.value,
            "formula": infix_of(event.text),
            "from": event.origin,
            "kind": "winner" if event.key == run.summary["winner"]["key"] else "formula",
        }
        for event in family
    ]
    edges = [
        {
            "slot": keys[parent].slot,
            "value": keys[parent].value,
            "to_slot": event.slot,
            "to_value": event.value,
        }
        for event in family
        for parent in dict.fromkeys(event.parents)
        if parent in keys
    ]
    value = alt.Y("value:Q", title=in_words(run.objective), scale=alt.Scale(zero=False))
    lines = (
        alt.Chart(data(edges))
        .mark_rule(opacity=0.7)
        .encode(x="slot:Q", y=value, x2="to_slot", y2="to_value")
    )
    points = (
        alt.Chart(data(rows))
        .mark_point(filled=True, size=90)
        .encode(
            x=alt.X("slot:Q", title="proposal", scale=alt.Scale(zero=False)),
            y=value,
            color=fixed_colours("kind", {"formula": "blue", "winner": "red"}, None),
            tooltip=["formula:N", "value:Q", "slot:Q", "from:N"],
        )
    )
    return Figure(
        "lineage",
        "Where the winner comes from",
        f"Its {len(family) - 1} ancestors that were measured in full, by when they were proposed; "
        "a line leads from each parent to its child.",
        (lines + points).properties(width="container", height=TALL),
    )
