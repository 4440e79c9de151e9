"""Importance of whole input channels: formulas with one value for each column."""

from dataclasses import replace

from autoproxy.language.types import Kind
from autoproxy.spaces import Baseline
from search_spaces.importance import SPACE as IMPORTANCE

BASELINES = (
    Baseline("wanda-sp", "col_sum(mul(abs(W), x_norm))", "An et al. 2023, FLAP's Wanda-sp"),
    Baseline("flap-ifv", "x_var", "An et al. 2023, arXiv:2312.11983, IFV"),
    Baseline("flap-wifv", "mul(x_var, col_sum(square(W)))", "An et al. 2023, WIFV"),
    Baseline("flap-wifn", "col_mean(mul(abs(W), x_norm))", "An et al. 2023, WIFN"),
    Baseline(
        "ppsp",
        "col_norm(mul(square(x_norm), square(W)))",
        "Le et al. 2025, Probe Pruning",
    ),
)

SPACE = replace(IMPORTANCE, name="structured", root=Kind.PER_INPUT, baselines=BASELINES)
