"""Importance of single weights: this project's own space, and every hand-made metric in it."""

from autoproxy.language.types import Kind
from autoproxy.spaces import Baseline, SearchSpace

_RI = "add(div(abs(W), col_sum(abs(W))), div(abs(W), row_sum(abs(W))))"
_RIA = f"mul({_RI}, sqrt(x_norm))"
_NORMS = "add(div(abs(W), row_norm(W)), div(abs(W), col_norm(W)))"

BASELINES = (
    Baseline("random", "noise", "uniform noise, the floor", reported=True),
    Baseline("magnitude", "abs(W)", "Han et al. 2015, arXiv:1506.02626", reported=True),
    Baseline(
        "wanda",
        "mul(abs(W), x_norm)",
        "Sun et al. 2023, arXiv:2306.11695",
        reported=True,
    ),
    Baseline(
        "wanda-sqrt",
        "mul(abs(W), sqrt(x_norm))",
        "hard to beat; RIA's activation power",
        reported=True,
    ),
    Baseline(
        "wanda-square",
        "mul(abs(W), square(x_norm))",
        "what Pruner-Zero's repository calls X: Wanda's scaler_row without its root",
    ),
    Baseline(
        "wanda-gradient",
        "mul(mul(abs(W), x_norm), pow(g_norm, 0.25))",
        "Wanda with a small power of the gradient",
    ),
    Baseline(
        "obd",
        "mul(square(W), square(x_norm))",
        "LeCun et al. 1989; layer-wise diagonal",
    ),
    Baseline(
        "obs",
        "div(square(W), h_inv)",
        "Frantar & Alistarh 2023, arXiv:2301.00774, score",
    ),
    Baseline(
        "obs-code",
        "div(square(W), square(u_diag))",
        "Frantar & Alistarh 2023, score as coded; the method is sparsegpt",
    ),
    Baseline(
        "gblm",
        "add(mul(abs(W), x_norm), mul(abs(W), mul(100, g_norm)))",
        "Das et al. 2023, arXiv:2311.04902",
        reported=True,
    ),
    Baseline("gblm-gradient", "mul(abs(W), g_norm)", "Das et al. 2023, gradient only"),
    Baseline(
        "gblm-inverse",
        "div(mul(abs(W), x_norm), add(mul(100, g_norm), 1e-8))",
        "Das et al. 2023, gradient_inv",
    ),
    Baseline("ri", _RI, "Zhang et al. 2024, RIA without activations"),
    Baseline("ria", _RIA, "Zhang et al. 2024 (RIA, ICLR), a = 0.5", reported=True),
    Baseline("ria-1", f"mul({_RI}, x_norm)", "Zhang et al. 2024, RIA with a = 1"),
    Baseline(
        "ria-advanced",
        f"mul(log(add(1, {_NORMS})), sqrt(x_norm))",
        "STBLLM's repository, advanced RIA; its N:M drops the best, which is corrected here",
    ),
    Baseline(
        "stbllm-code",
        f"div(sub({_RIA}, all_mean({_RIA})), add(row_std({_RIA}), 1e-5))",
        "Dong et al. 2024, standardized importance as coded",
    ),
    Baseline(
        "stbllm-paper",
        f"mul(zscore({_RI}), x_norm)",
        "Dong et al. 2024, as in the paper",
    ),
    Baseline("snip", "abs(mul(g, W))", "Lee et al. 2019, arXiv:1810.02340"),
    Baseline("taylor", "abs(mul(W, g))", "LLM-Pruner, first order; the same masks as SNIP"),
    Baseline("fisher", "mul(square(W), square(g_norm))", "diagonal Fisher, second order"),
    Baseline(
        "fisher-token",
        "mul(square(W), square(g_token))",
        "diagonal empirical Fisher with each token an example of its own",
        reported=True,
    ),
    Baseline(
        "taylor-mix",
        "abs(sub(mul(W, g), mul(0.5, mul(square(W), square(g_norm)))))",
        "LLM-Pruner, param_mix",
    ),
    Baseline(
        "pruner-zero",
        "mul(abs(mul(W, W)), minmax(g_norm))",
        "Dong et al. 2024, ICML",
        reported=True,
    ),
    Baseline(
        "pruner-zero-2",
        "mul(mul(minmax(abs(W)), minmax(abs(W))), minmax(g_norm))",
        "STBLLM's repository, best_tree2; reads |W| as Pruner-Zero does",
    ),
    Baseline(
        "wanda++",
        "mul(add(mul(100, g_region), x_norm), abs(W))",
        "Yang et al. 2025, RGS",
    ),
    Baseline(
        "dass",
        "mul(abs(W), sqrt(y_norm))",
        "after DaSS's gate and up projections, by own outputs; per row the same as magnitude",
    ),
    Baseline("stade", "mul(abs(W), sqrt(x_var))", "Mecke et al. 2025, STADE", reported=True),
)

SPACE = SearchSpace(
    name="importance",
    root=Kind.WEIGHT,
    terminals={
        "W": 4,
        "g_norm": 1,
        "g_token": 3,
        "x_norm": 4,
        "x_mean": 1,
        "x_var": 1,
        "y_norm": 1,
    },
    primitives={
        "mul": 6,
        "div": 3,
        "add": 3,
        "sub": 1,
        "maximum": 1,
        "abs": 3,
        "square": 2,
        "sqrt": 4,
        "pow": 3,
        "log": 1,
        "tanh": 1,
        "row_sum": 1,
        "row_mean": 1,
        "row_std": 1,
        "row_norm": 1,
        "row_max": 1,
        "col_sum": 1,
        "col_mean": 1,
        "col_std": 1,
        "col_norm": 1,
        "col_max": 1,
        "all_mean": 1,
        "all_std": 1,
        "minmax": 1,
        "zscore": 1,
        "row_minmax": 1,
        "row_zscore": 1,
    },
    constants=(0.01, 0.1, 0.5, 1.0, 2.0, 10.0, 100.0),
    exponents=(-1.0, -0.5, 0.25, 0.3, 0.6, 0.75, 1.5, 3.0),
    max_size=24,
    max_depth=9,
    baselines=BASELINES,
)
