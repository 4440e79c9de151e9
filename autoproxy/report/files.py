"""A figure as a picture for papers."""

from collections.abc import Mapping
from typing import Any

import vl_convert

from autoproxy.report.charts import Figure

FORMS = ("svg", "png", "json")
WIDTH = 560
"""Of a picture's plot, in points; a column and a half of a paper."""


def picture(figure: Figure, form: str) -> bytes:
    """Return a figure as SVG, PNG (at twice its size, for print) or Vega-Lite's JSON.

    Args:
        figure: The figure.
        form: One of `FORMS`.
    """
    spec = _sized(figure.chart.to_dict())
    match form:
        case "svg":
            return vl_convert.vegalite_to_svg(spec).encode("utf-8")
        case "png":
            return vl_convert.vegalite_to_png(spec, scale=2)
    return figure.chart.to_json(indent=2).encode("utf-8")


def _sized(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a chart that fills its page as one of a fixed width, on white."""
    fixed = {"width": WIDTH} if spec.get("width") == "container" else {}
    return {**spec, **fixed, "background": "white"}
