"""The figures of what was reported: comparisons, pictures of a winner's work, and curves."""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import altair as alt

from autoproxy.columns import PRUNING, columns_of, ends
from autoproxy.evaluation import Direction, content_hash
from autoproxy.ledger.leaderboard import Entry, Group
from autoproxy.report.charts import COLOURS, ROW, TALL, Figure, data, fixed_colours, some_colours
from autoproxy.report.data import formula_of


def comparison(report: Mapping[str, Any], suffix: str) -> Figure | None:
    """Return what each metric of a report is worth, with its interval."""
    column = columns_of(report["protocol"])[0]
    rows = []
    for entry in report["entries"]:
        value = entry[column.name]
        low, high = ends(column, entry) or (value, value)
        rows.append(
            {
                "metric": entry["name"],
                "role": entry["role"],
                "value": value,
                "low": low,
                "high": high,
                "formula": formula_of(entry),
                "seeds": entry["seeds"],
            }
        )
    if column.direction is Direction.MINIMIZE and rows:
        least = min(row["value"] for row in rows if row["role"] != "dense")
        rows = [row for row in rows if row["value"] <= 1.5 * least]
    if len(rows) < 2:
        return None
    roles = {"discovered": "red", "random-search": "purple", "baseline": "orange"}
    roles |= {"dense": "grey", "evaluated": "green"}
    used = {role: colour for role, colour in roles.items() if any(r["role"] == role for r in rows)}
    base = alt.Chart(data(rows)).encode(
        y=alt.Y("metric:N", sort=[row["metric"] for row in rows], title=None),
        color=fixed_colours("role", used, "top"),
        tooltip=["metric:N", "value:Q", "low:Q", "high:Q", "seeds:Q", "formula:N"],
    )
    value = alt.X("low:Q", title=column.heading, scale=alt.Scale(zero=False))
    bars = base.mark_rule(strokeWidth=3).encode(x=value, x2="high")
    points = base.mark_point(filled=True, size=80).encode(x="value:Q")
    return Figure(
        f"comparison{suffix}",
        "On a text that no search saw" if column.name == "perplexity" else "On what no search saw",
        f"{column.heading} with 95 % intervals. Where bars overlap, the order may be chance. What "
        "is worse than half as bad again as the best is in the table only."
        if column.direction is Direction.MINIMIZE
        else f"{column.heading} with 95 % intervals. Where bars overlap, the order may be chance.",
        (bars + points).properties(width="container", height=ROW * len(rows)),
    )


def illustrations(report: Mapping[str, Any], suffix: str) -> list[Figure | None]:
    """Return what the evaluator had drawn of the winner's work."""
    found = report.get("illustration")
    if found is None:
        return []
    if found["kind"] == "order":
        return [_order(found, suffix)]
    against = found["against"]
    return [
        _heat(
            found["rows"],
            "kept",
            f"kept{suffix}",
            "Where weights stay",
            "Share of the weights that the winner keeps, by decoder layer and module.",
        ),
        against
        and _heat(
            found["rows"],
            "shared",
            f"shared{suffix}",
            f"Where the winner and {against} keep the same",
            f"Share of the weights kept by the winner that {against} keeps, too, by decoder layer "
            "and module: the darker, the more the two differ.",
        ),
    ]


_SHARES = {"kept": "share kept", "shared": "share that both keep"}


def _heat(
    rows: Sequence[Mapping[str, Any]], field: str, name: str, title: str, caption: str
) -> Figure | None:
    values = [row[field] for row in rows]
    if max(values) - min(values) < 1e-3:  # the same everywhere: a sentence says as much
        return None
    modules = list(dict.fromkeys(row["module"] for row in rows))
    chart = (
        alt.Chart(data(rows))
        .mark_rect()
        .encode(
            x=alt.X("layer:O", title="decoder layer", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("module:N", sort=modules, title=None),
            color=alt.Color(
                f"{field}:Q",
                scale=alt.Scale(scheme="viridis", zero=False),
                legend=alt.Legend(orient="top", title=_SHARES[field], format=".0%"),
            ),
            tooltip=["layer:O", "module:N", alt.Tooltip(f"{field}:Q", format=".2%")],
        )
    )
    tall = max(120, 1.4 * ROW * len(modules))
    return Figure(name, title, caption, chart.properties(width="container", height=tall))


def _order(found: Mapping[str, Any], suffix: str) -> Figure:
    names = list(found["rows"][0]["scores"])
    rows = []
    for name in names:
        ranked = sorted(found["rows"], key=lambda row: row["scores"][name])
        rows += [
            {
                "proxy": name,
                "place": place,
                "quality": row["quality"],
                "network": row["network"],
                "score": row["scores"][name],
            }
            for place, row in enumerate(ranked, 1)
        ]
    chart = (
        alt.Chart(data(rows))
        .mark_point(filled=True, size=40, opacity=0.8)
        .encode(
            x=alt.X("place:Q", title="place by prediction (last is best)"),
            y=alt.Y("quality:Q", title=found["quality"], scale=alt.Scale(zero=False)),
            color=alt.condition(
                alt.datum.proxy == "discovered",
                alt.value(COLOURS["red"]),
                alt.value(COLOURS["grey"]),
            ),
            tooltip=["proxy:N", "network:N", "place:Q", "score:Q", "quality:Q"],
        )
        .properties(width=190, height=150)
        .facet(facet=alt.Facet("proxy:N", sort=names, title=None), columns=3)
    )
    return Figure(
        f"order{suffix}",
        "Predicted order against quality",
        "Each point is a network that no search saw. A good prediction rises from left to right. "
        "The grey ones read no tensor: they know no more than sizes.",
        chart,
    )


def curves(groups: Iterable[Group]) -> list[Figure]:
    """Return perplexity against sparsity, one figure for all else of the protocol that is equal.

    Only metrics that were measured at two sparsities or more are drawn. Each sparsity has a
    discovered metric of its own, so the best of them are one line.
    """
    families: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    for group in groups:
        share = _sparsity(group.protocol)
        if share is None:
            continue
        said = {name: value for name, value in group.protocol.items() if name != "condition"}
        _, rows = families.setdefault(content_hash(said), (said, []))
        rows += [
            {"metric": name, "sparsity": share, **_point(entry.to_json())}
            for name, entry in _series(group).items()
        ]
    apart = _apart([said for said, _ in families.values()])
    found = [_curve(said, rows, apart) for said, rows in families.values()]
    return [
        Figure(f"curves-{number}", figure.title, figure.caption, figure.chart)
        for number, figure in enumerate(filter(None, found), 1)
    ]


def _series(group: Group) -> dict[str, Entry]:
    """Return the metrics of a table by name; of discovered ones, the best under one name."""
    found: dict[str, Entry] = {}
    for entry in group.entries:  # the best first
        if entry.role != "dense":
            own = entry.role.replace("-", " ")
            found.setdefault(own if entry.role in _FOUND else entry.name, entry)
    return found


_FOUND = ("discovered", "random-search")
_TITLE = ("model", "group", "text", "tokens", "calibration")
"""Entries of a protocol that a curve's title and caption have anyway."""


def _apart(protocols: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the entries in which protocols differ, but for those that every title has."""
    names = dict.fromkeys(name for protocol in protocols for name in protocol)
    return [
        name
        for name in names
        if name not in _TITLE and len({repr(protocol.get(name)) for protocol in protocols}) > 1
    ]


def _sparsity(protocol: Mapping[str, Any]) -> float | None:
    """Return the share that is dropped under a protocol of pruning without a pattern."""
    condition = str(protocol.get("condition", ""))
    if "columns" in protocol or not condition.endswith("%"):
        return None
    return float(Fraction(condition.removesuffix("%")))


def _point(entry: Mapping[str, Any]) -> dict[str, Any]:
    value = entry["perplexity"]
    low, high = ends(PRUNING[0], entry) or (value, value)
    return {"perplexity": value, "low": low, "high": high, "formula": formula_of(entry)}


def _curve(
    what: Mapping[str, Any], rows: list[dict[str, Any]], apart: Sequence[str]
) -> Figure | None:
    """Return the figure of one family, or None; its caption has in which entries it may differ."""
    several = {
        name
        for name in {row["metric"] for row in rows}
        if len({row["sparsity"] for row in rows if row["metric"] == name}) > 1
    }
    least: dict[float, float] = {}
    for row in rows:
        known = least.get(row["sparsity"], row["perplexity"])
        least[row["sparsity"]] = min(known, row["perplexity"])
    drawn = [
        row
        for row in rows
        if row["metric"] in several and row["perplexity"] <= 4 * least[row["sparsity"]]
    ]
    if not drawn:
        return None
    names = sorted({row["metric"] for row in drawn})
    base = alt.Chart(data(drawn)).encode(
        x=alt.X("sparsity:Q", title="weights dropped (%)", scale=alt.Scale(zero=False)),
        color=alt.Color(
            "metric:N",
            scale=alt.Scale(domain=names, range=some_colours(len(names))),
            legend=alt.Legend(orient="top", columns=3),
            title=None,
        ),
        tooltip=["metric:N", "formula:N", "sparsity:Q", "perplexity:Q", "low:Q", "high:Q"],
    )
    said = {word: what.get(word, "") for word in _TITLE}
    others = ", ".join(f"{name} {what[name]}" for name in apart if name in what)
    value = alt.Y("perplexity:Q", scale=alt.Scale(type="log", nice=False))
    lines = base.mark_line(point=True).encode(
        y=value, strokeDash=alt.StrokeDash("metric:N", scale=alt.Scale(domain=names), title=None)
    )
    bars = base.mark_rule().encode(y=alt.Y("low:Q", title="perplexity"), y2="high")
    return Figure(
        "curves",
        f"Perplexity against sparsity: {said['model']}, per {said['group']}",
        f"On {said['text']}, {said['tokens']} tokens, calibrated on {said['calibration']}; bars "
        "are 95 % intervals over calibration draws. Discovered: the best found for each sparsity."
        + (f" Measured with {others}." if others else ""),
        (lines + bars).properties(width="container", height=TALL),
    )
