"""Importance of what is dropped whole: feed-forward channels, heads, decoder blocks.

Channels and heads are columns of the matrix that reads them, so a formula has one value for each
input; over the columns of a group of heads the values are summed. Blocks are rated by one number
for each of their matrices, of which the mean counts.
"""

from dataclasses import replace

from autoproxy.language.types import Kind
from autoproxy.spaces import Baseline
from search_spaces.importance import SPACE as IMPORTANCE

_FLAP = "An et al. 2023, arXiv:2312.11983"
_TAYLOR = "Ma et al. 2023, LLM-Pruner, first order"

CHANNEL_BASELINES = (
    Baseline("random", "col_mean(noise)", "uniform noise, the floor", reported=True),
    Baseline("magnitude", "col_norm(W)", "norm of what reads the channel", reported=True),
    Baseline(
        "wanda-sp", "col_sum(mul(abs(W), x_norm))", f"{_FLAP}: FLAP's Wanda-sp", reported=True
    ),
    Baseline("flap-ifv", "x_var", f"{_FLAP}, IFV", reported=True),
    Baseline("flap-wifv", "mul(x_var, col_sum(square(W)))", f"{_FLAP}, WIFV", reported=True),
    Baseline("flap-wifn", "col_mean(mul(abs(W), x_norm))", f"{_FLAP}, WIFN; orders as Wanda-sp"),
    Baseline(
        "ppsp",
        "col_norm(mul(square(x_norm), square(W)))",
        "Le et al. 2025, Probe Pruning",
        reported=True,
    ),
    Baseline("taylor", "col_sum(abs(mul(W, g)))", f"{_TAYLOR}, param_first", reported=True),
    Baseline("taylor-vector", "abs(col_sum(mul(W, g)))", f"{_TAYLOR}, vectorize", reported=True),
)

HEAD_BASELINES = (
    Baseline("random", "col_mean(noise)", "uniform noise, the floor", reported=True),
    Baseline("magnitude", "col_sum(square(W))", "norm of what reads the heads", reported=True),
    Baseline(
        "wanda-sp", "col_sum(mul(abs(W), x_norm))", f"{_FLAP}: FLAP's Wanda-sp", reported=True
    ),
    Baseline(
        "flap-ifv",
        "square(x_var)",
        f"{_FLAP}, IFV: squared, then summed over a head",
        reported=True,
    ),
    Baseline(
        "flap-wifv",
        "square(mul(x_var, col_sum(square(W))))",
        f"{_FLAP}, WIFV: squared, then summed over a head",
        reported=True,
    ),
    Baseline(
        "flap-wifn",
        "square(col_mean(mul(abs(W), x_norm)))",
        f"{_FLAP}, WIFN: squared, then summed over a head",
        reported=True,
    ),
    Baseline(
        "ppsp",
        "col_norm(mul(square(x_norm), square(W)))",
        "Le et al. 2025, Probe Pruning",
        reported=True,
    ),
    Baseline("taylor", "col_sum(abs(mul(W, g)))", f"{_TAYLOR}, param_first", reported=True),
)

BLOCK_BASELINES = (
    Baseline("random", "all_mean(noise)", "uniform noise, the floor", reported=True),
    Baseline("last", "neg(block_index)", "the last go first: the trivial one", reported=True),
    Baseline("first", "block_index", "the first go first: trivial, and bad", reported=True),
    Baseline("magnitude", "all_mean(abs(W))", "mean magnitude of its weights", reported=True),
    Baseline(
        "wanda-mean",
        "all_mean(mul(abs(W), x_norm))",
        "mean of Wanda's, arXiv:2306.11695",
        reported=True,
    ),
    Baseline("taylor", "all_sum(abs(mul(W, g)))", f"{_TAYLOR}, param_first", reported=True),
    Baseline(
        "angle", "block_angle", "FoldGPT's block influence by angular distance", reported=True
    ),
    Baseline(
        "change", "block_change", "FoldGPT's block influence by relative change", reported=True
    ),
)

CHANNELS = replace(IMPORTANCE, name="channels", root=Kind.PER_INPUT, baselines=CHANNEL_BASELINES)
HEADS = replace(IMPORTANCE, name="heads", root=Kind.PER_INPUT, baselines=HEAD_BASELINES)
BLOCKS = replace(
    IMPORTANCE,
    name="blocks",
    root=Kind.SCALAR,
    terminals={**IMPORTANCE.terminals, "block_angle": 4, "block_change": 4, "block_index": 1},
    primitives={**IMPORTANCE.primitives, "all_sum": 1, "all_norm": 1, "all_max": 1},
    baselines=BLOCK_BASELINES,
)
