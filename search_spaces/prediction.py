"""Search spaces of predictions: which network will be best, before it is trained.

`prediction` may read what is known of a network without building it (depth, width, parameters).
`prediction-data` may not: its formulas read weights, gradients and activations alone. Sums over
layers and over features still count depth and size, so read its results beside the control that
replaces every tensor by noise (`--control noise`).
"""

from autoproxy.language.types import Kind
from autoproxy.spaces import SearchSpace
from search_spaces.handmade_proxies import HAND_MADE

_DATA = {
    "W": 4,
    "g": 4,
    "hg": 1,
    "flow": 1,
    "x": 2,
    "dx": 1,
    "y": 2,
    "dy": 1,
    "attention": 2,
    "heads": 1,
    "order_change": 2,
    "x_norm": 1,
    "y_norm": 1,
    "g_norm": 1,
    "is_attention": 1,
    "is_mlp": 1,
}

_MODEL = {
    "n_layers": 2,
    "width": 2,
    "ff_width": 2,
    "n_heads": 1,
    "d_embed": 1,
    "params": 1,
    "params_attention": 1,
    "params_mlp": 1,
    "params_embedding": 1,
    "params_body": 1,
    "flops": 1,
    "log_flow": 1,
}

_PRIMITIVES = {
    "add": 2,
    "sub": 1,
    "mul": 5,
    "div": 2,
    "abs": 3,
    "square": 2,
    "sqrt": 2,
    "log": 2,
    "sign": 1,
    "sigmoid": 1,
    "pow": 3,
    "all_sum": 4,
    "all_mean": 4,
    "all_norm": 3,
    "all_max": 1,
    "all_std": 2,
    "row_norm": 1,
    "col_norm": 1,
    "row_std": 1,
    "col_std": 1,
    "entropy": 2,
    "nuclear": 1,
    "spectral": 1,
    "erank": 2,
    "logdet": 1,
    "correlation": 2,
    "token_max": 1,
    "token_mean": 1,
    "head_max": 1,
    "head_mean": 1,
    "key_max": 1,
    "key_entropy": 1,
    "tokens_norm": 1,
    "tokens_std": 1,
    "layers_sum": 5,
    "layers_mean": 4,
    "layers_max": 1,
    "layers_min": 1,
    "layers_std": 1,
    "layers_logsum": 2,
    "layers_first": 1,
    "layers_last": 1,
}

_EXPONENTS = (-2.0, -1.0, -0.5, 0.25, 0.3, 0.5, 1.5, 2.0, 3.0)


def _space(name: str, terminals: dict[str, int]) -> SearchSpace:
    return SearchSpace(
        name=name,
        root=Kind.MODEL,
        terminals=terminals,
        primitives=_PRIMITIVES,
        constants=(0.1, 0.5, 1.0, 2.0, 10.0),
        exponents=_EXPONENTS,
        max_size=24,
        max_depth=9,
        baselines=HAND_MADE,
        run={"evaluator": "prediction", "report_seeds": 1},
        search={
            "evaluations": 600.0,
            "population": 64,
            "batch": 64,
            "first_batch": 128,
            # Values cost little here and labels are few: one population, as it was measured.
            "islands": 1,
            "lag": 0,
            "lifespan": 0,
            "tune": 0.0,
            "fit": 0.5,
            "seeds": True,
            "reject": 0.0,
            "race": False,
            # Ranked again by all labels at no cost; by those of the search alone, ten are luck.
            "finalists": 20,
        },
    )


PREDICTION = _space("prediction", {**_DATA, **_MODEL})
DATA_ONLY = _space("prediction-data", _DATA)
