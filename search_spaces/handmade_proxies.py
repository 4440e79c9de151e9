"""Hand-made zero-cost proxies as expressions: each as published, with the sign it was meant with.

Those that the language cannot say are functions in `evaluators/proxies.py`.
"""

from autoproxy.spaces import Baseline


def _proxy(name: str, text: str, sign: int, source: str) -> Baseline:
    return Baseline(name, text, source, reported=True, sign=sign)


_ZERO_COST = "Abdelfattah et al. 2021, arXiv:2101.08134"
_SERIANNI = "Serianni & Kalita 2023, arXiv:2306.00288"
_TF_TAS = "Zhou et al. 2022, arXiv:2203.12217"
_LTS = "Javaheripi et al. 2022, arXiv:2203.02094"
_LPZERO = "Dong et al. 2024, arXiv:2410.04808"

_QUERY = "mul(is_first, all_mean(square(y)))"
_SALIENCY = "all_sum(abs(mul(W, g)))"
_WIDE = "maximum(sign(sub(fan_out, 127)), 0)"  # 1 from 128 outputs on, else 0
_FLOW = "all_sum(abs(mul(W, flow)))"
_DIVERSITY = "mul(is_attention, mul(nuclear(abs(W)), nuclear(flow)))"

COUNTS = (
    _proxy("depth", "n_layers", 1, "trivial"),
    _proxy("width", "width", 1, "trivial"),
    _proxy("depth2_width", "mul(square(n_layers), width)", 1, "trivial"),
    _proxy("parameters", "params", 1, "trivial"),
    _proxy("decoder_parameters", "params_body", 1, _LTS),
    _proxy("attention_parameters", "params_attention", 1, "trivial"),
    _proxy("mlp_parameters", "params_mlp", 1, "trivial"),
    _proxy("embedding_parameters", "params_embedding", 1, "trivial"),
    _proxy("flops", "flops", 1, "trivial; AZ-NAS' complexity"),
    _proxy(
        "power_law",
        "mul(mul(n_layers, pow(width, 1.5)), mul(pow(ff_width, 0.3), pow(d_embed, 0.3)))",
        1,
        "no fit: L d^1.5 F^0.3 e^0.3, F the mean feed-forward width, e the embedding's",
    ),
)
"""Those that read the configuration alone: any other proxy should beat them."""

MEASURED = (
    _proxy("grad_norm", "layers_sum(all_norm(g))", 1, _ZERO_COST),
    _proxy("snip", f"layers_sum({_SALIENCY})", 1, "Lee et al. 2019, arXiv:1810.02340"),
    _proxy(
        "grasp",  # negative where pruning would raise the gradient's flow
        "neg(layers_sum(all_sum(mul(W, hg))))",
        -1,
        "Wang et al. 2020, arXiv:2002.07376; better is smaller here, as measured on GPT-2",
    ),
    _proxy(
        "fisher",
        "layers_sum(all_sum(mul(0.5, outputs_mean(square(mul(y, dy))))))",
        1,
        "Theis et al. 2018, arXiv:1801.05787, on the outputs of linear layers",
    ),
    _proxy(
        "synflow",
        f"add(log_flow, log(layers_sum({_FLOW})))",
        1,
        "Tanaka et al. 2020, arXiv:2006.05467; its logarithm, since it overflows",
    ),
    _proxy("plain", "layers_sum(all_sum(mul(W, g)))", 1, _ZERO_COST),
    _proxy("weight_norm", "layers_sum(all_norm(W))", 1, _ZERO_COST),
    _proxy(
        "synaptic_diversity",
        "layers_sum(mul(is_attention, mul(nuclear(W), nuclear(g))))",
        1,
        _TF_TAS,
    ),
    _proxy("synaptic_saliency", f"layers_sum(mul(is_mlp, {_SALIENCY}))", 1, _TF_TAS),
    _proxy(
        "dss",
        f"add(log_flow, log(layers_sum(add({_DIVERSITY}, mul(is_mlp, {_FLOW})))))",
        1,
        f"{_TF_TAS}; its logarithm, on SynFlow's linearised network",
    ),
    _proxy(
        "head_importance",
        f"layers_sum(mul(mul(is_attention, {_WIDE}), {_SALIENCY}))",
        1,
        f"{_SERIANNI}: layers of attention with at least 128 outputs",
    ),
    _proxy(
        "attention_saliency",
        f"layers_sum(mul(is_attention, {_SALIENCY}))",
        1,
        f"{_SERIANNI}: head importance without its bound on outputs",
    ),
    _proxy("softmax_confidence", "layers_sum(all_mean(head_max(attention)))", 1, _SERIANNI),
    _proxy(
        "attention_confidence",
        "layers_sum(all_mean(key_max(attention)))",
        1,
        "Voita et al. 2019, arXiv:1905.09418: mean over queries of the largest probability",
    ),
    _proxy(
        "order_sensitivity",
        "layers_first(all_norm(order_change))",
        1,
        "this project: by how much the order of tokens matters to the first attention",
    ),
    _proxy(
        "lpzero_flexibert",
        f"div(layers_sum({_QUERY}), n_layers)",
        1,
        f"{_LPZERO}: mean over blocks of mean(Q^2); its second branch is 0",
    ),
    _proxy("lpzero_flexibert_sum", f"layers_sum({_QUERY})", 1, f"{_LPZERO}, summed over blocks"),
)
"""Those that read weights, gradients, activations or attention."""

HAND_MADE = COUNTS + MEASURED
