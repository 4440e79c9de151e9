"""What all figures share: colours, scales, and a chart with its words."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from autoproxy.evaluation import Objective

Chart = alt.TopLevelMixin

TALL = 320
"""Height of most charts, in points."""

ROW = 22
"""Height of a row of a chart with one row a name."""

COLOURS: Mapping[str, str] = {
    "blue": "#3B82C4",
    "orange": "#C77C02",
    "green": "#17916B",
    "red": "#D1495B",
    "purple": "#9A6BC0",
    "grey": "#7F7F7F",
}
"""Told apart by the colour-blind, and at least 3:1 on white and on the dark pages alike."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with what is said of it.

    Attributes:
        name: Word on the command line and in files.
        title: Heading.
        caption: What it shows, and how to read it.
        chart: The chart, `container` wide.
    """

    name: str
    title: str
    caption: str
    chart: Chart


def good_scale(
    rows: Sequence[Mapping[str, Any]], objective: Objective, shown: Sequence[float] = ()
) -> alt.Scale:
    """Return a scale from the best to what half of the others do, with some room.

    Args:
        rows: Each with a `value`.
        objective: Says which way is good.
        shown: Values that must be in sight besides.
    """
    values = sorted(objective.sign * row["value"] for row in rows)
    best = values[0]
    usual = max(statistics.median(values), values[min(len(values) - 1, 5)])
    usual = max([usual, *(objective.sign * value for value in shown)])
    room = max(usual - best, 1e-9)
    ends = sorted((objective.sign * (best - 0.1 * room), objective.sign * (usual + 0.5 * room)))
    return alt.Scale(domain=ends, zero=False, nice=False)


def in_words(objective: Objective) -> str:
    """Return what an axis of values says."""
    return f"{objective.name} ({objective.unit})" if objective.unit else objective.name


def fixed_colours(field: str, colours: Mapping[str, str], orient: Any) -> alt.Color:
    """Return fixed colours for the kinds of a field, with a legend unless `orient` is None."""
    legend = None if orient is None else alt.Legend(orient=orient, title=None, columns=3)
    scale = alt.Scale(domain=[*colours], range=[COLOURS[name] for name in colours.values()])
    return alt.Color(f"{field}:N", scale=scale, legend=legend)


def some_colours(count: int) -> list[str]:
    """Return so many colours, the first ones first, again from the start when they run out."""
    every = [COLOURS[name] for name in ("red", "grey", "blue", "orange", "green", "purple")]
    return [every[number % len(every)] for number in range(count)]


def data(rows: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    """Return rows as the data of a chart."""
    return alt.InlineData(values=[dict(row) for row in rows])
