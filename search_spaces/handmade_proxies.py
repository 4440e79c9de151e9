"""Hand-made zero-cost proxies as expressions: each as published, with the sign it was meant with.

Those that the language cannot say are functions in `evaluators/proxies.py`.
"""

from typing import NamedTuple


class HandMadeProxy(NamedTuple):
    """A proxy written by people, in the language of this project.

    Attributes:
        name: Word used on the command line and in reports.
        text: Its expression, of kind Model.
        sign: 1 where larger is meant to be better, -1 where smaller is.
        source: Paper or code that it is from.
    """

    name: str
    text: str
    sign: int
    source: str


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
    HandMadeProxy("depth", "n_layers", 1, "trivial"),
    HandMadeProxy("width", "width", 1, "trivial"),
    HandMadeProxy("depth2_width", "mul(square(n_layers), width)", 1, "trivial"),
    HandMadeProxy("parameters", "params", 1, "trivial"),
    HandMadeProxy("decoder_parameters", "params_body", 1, _LTS),
    HandMadeProxy("attention_parameters", "params_attention", 1, "trivial"),
    HandMadeProxy("mlp_parameters", "params_mlp", 1, "trivial"),
    HandMadeProxy("embedding_parameters", "params_embedding", 1, "trivial"),
    HandMadeProxy("flops", "flops", 1, "trivial; AZ-NAS' complexity"),
    HandMadeProxy(
        "power_law",
        "mul(mul(n_layers, pow(width, 1.5)), mul(pow(ff_width, 0.3), pow(d_embed, 0.3)))",
        1,
        "no fit: L d^1.5 F^0.3 e^0.3, F the mean feed-forward width, e the embedding's",
    ),
)
"""Those that read the configuration alone: any other proxy should beat them."""

MEASURED = (
    HandMadeProxy("grad_norm", "layers_sum(all_norm(g))", 1, _ZERO_COST),
    HandMadeProxy("snip", f"layers_sum({_SALIENCY})", 1, "Lee et al. 2019, arXiv:1810.02340"),
    HandMadeProxy(
        "grasp",  # negative where pruning would raise the gradient's flow
        "neg(layers_sum(all_sum(mul(W, hg))))",
        -1,
        "Wang et al. 2020, arXiv:2002.07376; better is smaller here, as measured on GPT-2",
    ),
    HandMadeProxy(
        "fisher",
        "layers_sum(all_sum(mul(0.5, outputs_mean(square(mul(y, dy))))))",
        1,
        "Theis et al. 2018, arXiv:1801.05787, on the outputs of linear layers",
    ),
    HandMadeProxy(
        "synflow",
        f"add(log_flow, log(layers_sum({_FLOW})))",
        1,
        "Tanaka et al. 2020, arXiv:2006.05467; its logarithm, since it overflows",
    ),
    HandMadeProxy("plain", "layers_sum(all_sum(mul(W, g)))", 1, _ZERO_COST),
    HandMadeProxy("weight_norm", "layers_sum(all_norm(W))", 1, _ZERO_COST),
    HandMadeProxy(
        "synaptic_diversity",
        "layers_sum(mul(is_attention, mul(nuclear(W), nuclear(g))))",
        1,
        _TF_TAS,
    ),
    HandMadeProxy("synaptic_saliency", f"layers_sum(mul(is_mlp, {_SALIENCY}))", 1, _TF_TAS),
    HandMadeProxy(
        "dss",
        f"add(log_flow, log(layers_sum(add({_DIVERSITY}, mul(is_mlp, {_FLOW})))))",
        1,
        f"{_TF_TAS}; its logarithm, on SynFlow's linearised network",
    ),
    HandMadeProxy(
        "head_importance",
        f"layers_sum(mul(mul(is_attention, {_WIDE}), {_SALIENCY}))",
        1,
        f"{_SERIANNI}: layers of attention with at least 128 outputs",
    ),
    HandMadeProxy(
        "attention_saliency",
        f"layers_sum(mul(is_attention, {_SALIENCY}))",
        1,
        f"{_SERIANNI}: head importance without its bound on outputs",
    ),
    HandMadeProxy("softmax_confidence", "layers_sum(all_mean(head_max(attention)))", 1, _SERIANNI),
    HandMadeProxy(
        "attention_confidence",
        "layers_sum(all_mean(key_max(attention)))",
        1,
        "Voita et al. 2019, arXiv:1905.09418: mean over queries of the largest probability",
    ),
    HandMadeProxy(
        "lpzero_flexibert",
        f"div(layers_sum({_QUERY}), n_layers)",
        1,
        f"{_LPZERO}: mean over blocks of mean(Q^2); its second branch is 0",
    ),
    HandMadeProxy(
        "lpzero_flexibert_sum", f"layers_sum({_QUERY})", 1, f"{_LPZERO}, summed over blocks"
    ),
)
"""Those that read weights, gradients, activations or attention."""

HAND_MADE = COUNTS + MEASURED
