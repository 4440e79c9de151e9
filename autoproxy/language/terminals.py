"""The vocabulary of terminals: what an expression may read of one linear layer, or of a network.

An evaluator says which of these it provides; a space says which it asks for. Notation: weight
W (d_out, d_in), inputs x (sequences n, tokens t, d_in), outputs y, loss L = mean cross-entropy of
one calibration sequence. A layer offers only what it has: some lack attention.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from autoproxy.language.types import TENSOR_KINDS, Kind


@dataclass(frozen=True, slots=True)
class Terminal:
    """A statistic that expressions read.

    Attributes:
        name: Word used in expression text.
        kind: Along which axes it varies.
        nonnegative: Whether no entry is ever below zero.
        latex: How it is typeset.
        unit: Its physical unit, in words.
        meaning: What it is measured from, exactly.
    """

    name: str
    kind: Kind
    nonnegative: bool
    latex: str
    unit: str
    meaning: str


def _of_networks() -> tuple[Terminal, ...]:
    """Return what is one number for a whole network, all above zero but `log_flow`."""
    words = (
        ("n_layers", "L", "none", "blocks of the network, one above the other"),
        ("width", r"d_{\mathrm{model}}", "none", "size of the hidden states between blocks"),
        ("ff_width", r"\overline{d_{\mathrm{ff}}}", "none", "feed-forward width, mean over blocks"),
        ("n_heads", r"\overline{h}", "none", "attention heads, mean over blocks"),
        ("d_embed", r"d_{\mathrm{embed}}", "none", "size of the token embeddings"),
        ("params", "P", "parameters", "parameters of the whole network, each once"),
        ("params_attention", r"P_{\mathrm{attention}}", "parameters", "those of attention"),
        ("params_mlp", r"P_{\mathrm{mlp}}", "parameters", "those of the feed-forward parts"),
        ("params_embedding", r"P_{\mathrm{embed}}", "parameters", "those of embeddings"),
        ("params_body", r"P_{\mathrm{body}}", "parameters", "all but those of embeddings"),
        (
            "flops",
            r"\mathrm{FLOPs}",
            "operations",
            "of the linear layers of the body for one token, a multiply-add being two",
        ),
    )
    counts = [
        Terminal(name, Kind.MODEL, True, latex, unit, what) for name, latex, unit, what in words
    ]
    flow = "natural logarithm of R, SynFlow's sum, of which `flow` is a gradient"
    return (*counts, Terminal("log_flow", Kind.MODEL, False, r"\log R", "none", flow))


_TERMINALS = (
    Terminal("W", Kind.WEIGHT, False, "W", "weight", "the layer's weight, signed"),
    Terminal(
        "x_norm",
        Kind.PER_INPUT,
        True,
        r"\lVert X_j\rVert",
        "activation",
        "sqrt((1/N) sum over N sequences and all tokens of x_j^2): Wanda's sqrt(scaler_row)",
    ),
    Terminal("x_mean", Kind.PER_INPUT, False, r"\mu_j", "activation", "mean of x_j over tokens"),
    Terminal(
        "x_var",
        Kind.PER_INPUT,
        True,
        r"\sigma^2_j",
        "activation squared",
        "population variance of x_j over tokens",
    ),
    Terminal("x_max", Kind.PER_INPUT, True, r"\max|X_j|", "activation", "max of |x_j| over tokens"),
    Terminal(
        "y_norm",
        Kind.PER_OUTPUT,
        True,
        r"\lVert Y_i\rVert",
        "activation",
        "sqrt((1/N) sum over N sequences and all tokens of y_i^2), bias included",
    ),
    Terminal(
        "g",
        Kind.WEIGHT,
        False,
        "G",
        "loss / weight",
        "sum over sequences of dL/dW, signed",
    ),
    Terminal(
        "g_norm",
        Kind.WEIGHT,
        True,
        r"\lVert G\rVert",
        "loss / weight",
        "sqrt(sum over sequences of (dL/dW)^2); GBLM and Pruner-Zero use 100 times this",
    ),
    Terminal(
        "g_abs",
        Kind.WEIGHT,
        True,
        r"\lVert G\rVert_1",
        "loss / weight",
        "sum over sequences of |dL/dW|: GBLM's gradient of the first norm is 100 times this",
    ),
    Terminal(
        "g_token",
        Kind.WEIGHT,
        True,
        r"\lVert G^{t}\rVert",
        "loss / weight",
        "sqrt(sum over sequences and tokens of (dL/dy_i x_j)^2): what g_norm is, with every "
        "token's part of the gradient squared for itself, so that parts cannot cancel",
    ),
    Terminal(
        "g_region",
        Kind.WEIGHT,
        True,
        r"\lVert G^{r}\rVert",
        "activation / weight",
        "sqrt(mean over sequences of (d||block output||_2 / dW)^2): Wanda++'s regional gradient",
    ),
    Terminal(
        "h_inv",
        Kind.PER_INPUT,
        True,
        r"[H^{-1}]_{jj}",
        "1 / activation squared",
        "diagonal of the inverse of H = (2/N) sum x x^T, damped by 0.01 mean(diag H)",
    ),
    Terminal(
        "u_diag",
        Kind.PER_INPUT,
        True,
        r"U_{jj}",
        "1 / activation",
        "diagonal of the upper triangular U with U^T U = H^-1, H as for h_inv: its square is "
        "h_inv of inputs j and later alone, as SparseGPT's code rates weights",
    ),
    Terminal(
        "noise",
        Kind.WEIGHT,
        True,
        r"\varepsilon",
        "none",
        "uniform in [0, 1), drawn anew for each layer from the protocol's seed: the floor",
    ),
    Terminal(
        "block_angle",
        Kind.SCALAR,
        True,
        r"\theta_{\mathrm{block}}",
        "half turns",
        "mean over tokens of the angle between the hidden states that go into the decoder layer "
        "around it and those that come out, over pi: in [0, 1]",
    ),
    Terminal(
        "block_change",
        Kind.SCALAR,
        True,
        r"\Delta_{\mathrm{block}}",
        "none",
        "mean over tokens of ||out - in||_2 / ||in||_2 of the hidden states of the decoder layer "
        "around it",
    ),
    Terminal(
        "block_index",
        Kind.SCALAR,
        True,
        r"\ell_{\mathrm{block}}",
        "none",
        "number of the decoder layer around it, 0 for the first",
    ),
    Terminal(
        "hg",
        Kind.WEIGHT,
        False,
        "HG",
        "(loss / weight)^2 / weight",
        "Hessian times gradient, as GraSP has it: d<g, stopgrad(g)>/dW with g of all sequences and "
        "all weights of linear layers",
    ),
    Terminal(
        "flow",
        Kind.WEIGHT,
        False,  # attention's softmax turns some of it
        r"\partial\log R",
        "1 / weight",
        "SynFlow's gradient over its sum: (dR/dW) / R, R the sum of outputs for inputs of ones of "
        "the network with all parameters |.| and norms bypassed, in float64",
    ),
    Terminal(
        "x",
        Kind.INPUT,
        False,
        "X",
        "activation",
        "what goes into the layer, for each sequence and token",
    ),
    Terminal(
        "dx",
        Kind.INPUT,
        False,
        r"\partial X",
        "loss / activation",
        "dL/dx through this layer alone (dy W) for each sequence and token, L of its own sequence",
    ),
    Terminal(
        "heads",
        Kind.INPUT,
        False,
        r"X^{\mathrm{heads}}",
        "activation",
        "x of layers that read the outputs of attention heads; other layers have none",
    ),
    Terminal(
        "order_change",
        Kind.INPUT,
        False,
        r"\Delta_{\mathrm{order}}",
        "activation",
        "by how much `heads` changes at the later half of a sequence when the tokens of the "
        "earlier half come in reverse; 0 at the earlier half, and where it is rounding",
    ),
    Terminal(
        "y",
        Kind.OUTPUT,
        False,
        "Y",
        "activation",
        "what comes out of the layer, bias included, for each sequence and token",
    ),
    Terminal(
        "dy",
        Kind.OUTPUT,
        False,
        r"\partial Y",
        "loss / activation",
        "dL/dy for each sequence and token, L of its own sequence",
    ),
    Terminal(
        "attention",
        Kind.ATTENTION,
        True,
        r"\mathcal{A}",
        "probability",
        "attention probabilities that weigh what goes into layers that have `heads`: over keys "
        "they sum to 1; other layers have none",
    ),
    Terminal("fan_in", Kind.SCALAR, True, r"d_{\mathrm{in}}", "none", "inputs of the layer"),
    Terminal("fan_out", Kind.SCALAR, True, r"d_{\mathrm{out}}", "none", "outputs of the layer"),
    Terminal(
        "is_attention",
        Kind.SCALAR,
        True,
        r"[\mathrm{attention}]",
        "none",
        "1 for a layer of attention, else 0",
    ),
    Terminal(
        "is_mlp",
        Kind.SCALAR,
        True,
        r"[\mathrm{mlp}]",
        "none",
        "1 for a layer of a feed-forward part, else 0",
    ),
    Terminal(
        "is_first",
        Kind.SCALAR,
        True,
        r"[\mathrm{first}]",
        "none",
        "1 for the layer of a block that is executed first, else 0",
    ),
    *_of_networks(),
)

VOCABULARY: Mapping[str, Terminal] = MappingProxyType({t.name: t for t in _TERMINALS})

MODEL_TERMINALS = frozenset(t.name for t in _TERMINALS if t.kind is Kind.MODEL)
"""What is known of a whole network."""

_FOR_PREDICTIONS = ("hg", "flow", "fan_in", "fan_out", "is_attention", "is_mlp", "is_first")

OF_ONE_MODEL = frozenset(
    name
    for name, terminal in VOCABULARY.items()
    if terminal.kind in TENSOR_KINDS and name not in _FOR_PREDICTIONS
)
"""Terminals that importances of the weights of one model read."""

PARTIAL = frozenset({"heads", "order_change", "attention"})
"""Terminals that some layers of any network lack."""
