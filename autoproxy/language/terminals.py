"""The vocabulary of terminals: what an expression may read of one linear layer.

An evaluator says which of these it provides; a space says which it asks for. Notation: weight
W (d_out, d_in), inputs x (sequences n, tokens t, d_in), outputs y, loss L = mean cross-entropy of
one calibration sequence.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from autoproxy.language.types import Kind


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
)

VOCABULARY: Mapping[str, Terminal] = MappingProxyType({t.name: t for t in _TERMINALS})
