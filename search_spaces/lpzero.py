"""LPZero (Dong et al. 2024, arXiv:2410.04808) as published, and its genotypes in our language.

What it is: two inputs of six, each through two unary operations of twenty, in every layer by
itself; each then reduced to its mean; a binary operation of four on the two numbers; the mean
over layers. Steady state: 80 individuals, then 1000 offspring one at a time. `LPZERO` is the
space with the nearest of our words, `formula` writes a genotype exactly where that can be done.

What is wrong with it, and what becomes of it here (more in docs/lpzero.md):

- Both branches are reduced to a number before they meet, so |W * g| (SNIP), activation times
  gradient (Fisher) and most proxies that it claims to contain are outside. Our binary operations
  take tensors, so the preset contains more than LPZero does.
- The mean over layers throws depth away, the strongest signal there is. The preset keeps it:
  `layers_mean` is its only aggregation. Space `prediction` has eight.
- Lists of layers of different length are cut to the shorter. Here an expression is computed at
  the layers that have all that it reads, and `formula` refuses two lists that do not match.
- Softmax and log-softmax of one number are 1 and 0, so a branch that reduces first is dead: the
  FlexiBERT winner is the mean over blocks of mean(Q^2) and nothing else, and with initial weights
  that counts layers. `formula` writes dead branches as the numbers that they are, so it shows.
- Gradients are so small beside 1 that softmax(G) is 1 / d_in: the GPT-2 winner reads widths. It
  is written as published; the baselines of counts stand beside it in every report.
- On FlexiBERT gradients are round-off (the loss was a sum over a normed output), and are read
  before they are computed. Ours are of a real loss.
- `x[x <= 0] = 1` changes the shared input, weights among them. Our operations change nothing.
- Matrix multiplication of two numbers is an error. It is left out.
- A bred individual takes the place of the worst even if it is worse; a quarter of the offspring
  are copies. Here the best 80 stay, copies among them.
- Fitness on GPT-2 is a fresh sample of networks each time. Here the labels are drawn once.
- It is tested on the networks that it was searched on. Here they are split, by network.
- A score of None, -1, NaN, infinity or 0 counts as broken, and so do more than three equal
  scores. Here a network without a finite score fails the candidate, and so do scores that are all
  equal, whatever they are; a 0 or -1 for one network among others is a number like any other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from autoproxy.language.expression import Expression
from autoproxy.language.parse import parse
from autoproxy.language.types import Kind
from autoproxy.spaces import SearchSpace
from search_spaces.handmade_proxies import HAND_MADE
from search_spaces.published import STEADY_STATE

UNARY = (
    "log",
    "abslog",
    "abs",
    "pow",
    "exp",
    "normalize",
    "relu",
    "invert",
    "frobenius_norm",
    "normalized_sum",
    "l1_norm",
    "softmax",
    "sigmoid",
    "logsoftmax",
    "sqrt",
    "revert",
    "min-max",
    "mean",
    "std",
    "no_op",
)
"""LPZero's unary operations; a genotype holds their places."""

BINARY = ("sum", "difference", "product", "matmul")

FLEXIBERT_WINNER: Mapping[str, Any] = {
    "input_geno": ["head", "act"],
    "op_geno": [[15, 3], [8, 13], 0],
}
GPT2_WINNER: Mapping[str, Any] = {
    "input_geno": ["weight", "grad"],
    "op_geno": [[3, 10], [11, 3], 0],
}

_TINY = "1e-09"

_EACH = {
    "log": f"log(maximum({{0}}, 0) + (1 - sign(maximum({{0}}, 0))) + {_TINY})",
    "abslog": "log({0} + (1 - abs(sign({0}))))",
    "abs": "abs({0})",
    "pow": "square({0})",
    "exp": "exp({0})",
    "relu": "maximum({0}, 0)",
    "invert": f"1 / ({{0}} + {_TINY})",
    "sigmoid": "sigmoid({0})",
    "sqrt": "sqrt(maximum({0}, 0))",
    "revert": "neg({0})",
    "no_op": "{0}",
}
"""What changes every entry by itself."""

_ALL = {
    "frobenius_norm": ("all_norm({0})", "abs({0})"),
    "normalized_sum": ("all_mean({0})", "{0}"),
    "l1_norm": ("all_mean(abs({0}))", "abs({0})"),
    "mean": ("all_mean({0})", "{0}"),
}
"""What makes one number of all entries, and what that is where there is one already."""

_WITHIN = {
    "min-max": f"({{0}} - all_min({{0}})) / (all_max({{0}}) - all_min({{0}}) + {_TINY})",
    "softmax": "exp({0}) / row_sum(exp({0}))",
    "logsoftmax": "{0} - log(row_sum(exp({0})))",
}
"""What compares entries; softmax is over the inputs of an output, dim 0 of GPT-2's Conv1D."""

_OF_ONE_NUMBER = {"min-max": "0", "normalize": "0", "softmax": "1", "logsoftmax": "0"}
"""What comes of a single number, whatever it is: the branch is dead."""

_UNSAID = {
    "normalize": "it divides by the deviation of a sample, ours is the population's",
    "std": "it is the deviation of a sample, ours is the population's",
    "softmax": "its dim 0 of an activation is the sequences, along which we have no sum",
    "logsoftmax": "its dim 0 of an activation is the sequences, along which we have no sum",
}


@dataclass(frozen=True, slots=True)
class _Input:
    """What an input of LPZero is in our words, on one benchmark.

    Attributes:
        text: The terminal, or nothing.
        layers: Which layers its list is of: `all` linear ones, `first` of each block, or those
            with `attention`.
        matrix: Whether it is a weight's, not an activation.
        why: Why there is no text.
    """

    text: str
    layers: str
    matrix: bool = False
    why: str = ""


_NO_JACOBS = _Input("", "", why="no terminal is the gradient of the position embeddings")
_ATTENTION_LINEAR = "it is of some linear layers of attention, which no terminal tells apart"

INPUTS: Mapping[str, Mapping[str, _Input]] = {
    "flexibert": {
        "act": _Input("", "first", why="its activations are one list over all feed-forwards"),
        "head": _Input("y", "first"),
        "softmax": _Input("attention", "attention"),
        "grad": _Input("", "", why="its list is empty: it is read before gradients are computed"),
        "weight": _Input("", "first", matrix=True, why=_ATTENTION_LINEAR),
        "jacobs": _NO_JACOBS,
    },
    "gpt2": {
        "act": _Input("y", "all"),
        "head": _Input("y", "all"),
        "softmax": _Input("", "", why="its list is empty: it looks for a norm that has no match"),
        "grad": _Input("g", "all", matrix=True),
        "weight": _Input("W", "all", matrix=True),
        "jacobs": _NO_JACOBS,
    },
}
"""What the six inputs are on LPZero's two benchmarks; it reads other layers on each."""


@dataclass(frozen=True, slots=True)
class _Value:
    """What a branch has come to.

    Attributes:
        text: In our words.
        shape: `matrix`, `activation`, `number` (one a layer), or `constant`.
    """

    text: str
    shape: str


def formula(
    genotype: Mapping[str, Any], benchmark: str = "flexibert", *, sequences: int = 1
) -> Expression:
    """Return the expression of kind Model that computes what a genotype of LPZero's does.

    Exactly, but for rounding, and for e^x above e^80 and |x| below 1e-30, where ours are bounded.
    The changes that LPZero makes to its inputs by accident are left out.

    Args:
        genotype: `input_geno`: two of act, head, softmax, grad, weight, jacobs; `op_geno`:
            [[u1, u2], [u3, u4], b], places in `UNARY` and `BINARY`.
        benchmark: `flexibert` or `gpt2`, which decides which layers inputs are of.
        sequences: In the batch. LPZero's gradients are of the mean over them, ours of the sum.

    Raises:
        ValueError: The genotype is malformed, or has no exact counterpart; the message says why.

    >>> print(formula(FLEXIBERT_WINNER))
    div(layers_sum(mul(is_first, add(all_mean(square(neg(y))), 0))), n_layers)
    >>> print(formula(GPT2_WINNER, "gpt2"))
    layers_mean(add(all_mean(abs(square(W))), all_mean(square(div(exp(g), row_sum(exp(g)))))))
    """
    names, (*chains, place) = _checked(genotype, benchmark)
    inputs = [INPUTS[benchmark][name] for name in names]
    branches = [
        _branch(name, read, chain, sequences)
        for name, read, chain in zip(names, inputs, chains, strict=True)
    ]
    alive = [n for n, branch in enumerate(branches) if branch.shape != "constant"]
    if not alive:
        raise ValueError(f"{genotype}: both branches are dead, so it reads nothing")
    layers = {inputs[n].layers for n in alive}
    texts = [branch.text for branch in branches]
    if len(layers) == 1:
        return parse(_over(layers.pop(), _joined(place, *texts)))
    if place == 2:
        raise ValueError(f"{genotype}: its factors lie at different layers of ours")
    return parse(_joined(place, *(_over(i.layers, t) for i, t in zip(inputs, texts, strict=True))))


def _checked(genotype: Mapping[str, Any], benchmark: str) -> tuple[Sequence[str], Sequence[Any]]:
    """Return inputs and operations of a genotype that is well formed."""
    if benchmark not in INPUTS:
        raise ValueError(f"unknown benchmark {benchmark!r}; known: {', '.join(INPUTS)}")
    names, operations = genotype["input_geno"], genotype["op_geno"]
    if len(names) != 2 or not set(names) <= set(INPUTS[benchmark]):
        raise ValueError(f"input_geno has two of {', '.join(INPUTS[benchmark])}, got {names}")
    if len(operations) != 3 or any(len(chain) != 2 for chain in operations[:2]):
        raise ValueError(f"op_geno is [[u1, u2], [u3, u4], b], got {operations}")
    if not {u for chain in operations[:2] for u in chain} <= set(range(len(UNARY))):
        raise ValueError(f"unary operations are 0 to {len(UNARY) - 1}, got {operations[:2]}")
    if operations[2] not in range(len(BINARY)):
        raise ValueError(f"binary operations are 0 to {len(BINARY) - 1}, got {operations[2]}")
    if BINARY[operations[2]] == "matmul":
        raise ValueError("matmul has no counterpart: of two numbers it is an error")
    return names, operations


def _branch(name: str, read: _Input, chain: Sequence[int], sequences: int) -> _Value:
    """Return the number, one a layer, that a branch comes to."""
    text = f"(g / {sequences})" if read.text == "g" and sequences != 1 else read.text
    value = _Value(text, "matrix" if read.matrix else "activation")
    for place in chain:
        value = _applied(UNARY[place], value)
    if read.why and (value.shape != "constant" or not read.layers):
        raise ValueError(f"input {name} has no counterpart: {read.why}")
    if value.shape in {"matrix", "activation"}:
        return _Value(f"all_mean({value.text})", "number")
    return value


def _applied(operation: str, value: _Value) -> _Value:
    """Return what an operation makes of a value."""
    if operation in _EACH:
        return _Value(f"({_EACH[operation].format(value.text)})", value.shape)
    single = value.shape == "number"
    if operation in _ALL:
        return _Value(_ALL[operation][single].format(value.text), "number")
    if single and operation in _OF_ONE_NUMBER:
        return _Value(_OF_ONE_NUMBER[operation], "constant")
    if operation in _WITHIN and (operation == "min-max" or value.shape == "matrix"):
        return _Value(f"({_WITHIN[operation].format(value.text)})", value.shape)
    why = "of one number it is NaN" if single else _UNSAID[operation]
    raise ValueError(f"operation {operation} has no counterpart: {why}")


def _joined(place: int, first: str, second: str) -> str:
    return f"({first} {'+-*'[place]} {second})"


def _over(layers: str, text: str) -> str:
    """Return the mean over layers of a number that each of them has."""
    if layers == "first":
        return f"layers_sum(is_first * {text}) / n_layers"
    return f"layers_mean({text})"


AS_PUBLISHED: Mapping[str, Any] = MappingProxyType(
    {
        **STEADY_STATE,
        "evaluations": 1080.0,  # 80 and 1000
        "population": 80,
        "first_batch": 80,
        "crossover": 0.5,  # and mutation half of the time, each by its own coin
        "mutation": 0.5,
        "tournament": 2,  # parents are drawn from the better half
        "same": "nothing",
    }
)
"""How it was searched, in all options that a search has."""

LPZERO = SearchSpace(
    name="lpzero",
    root=Kind.MODEL,
    # act, softmax, head (what comes out of heads; a query alone has no word), weight, grad, and
    # for jacobs the gradient that arrives at a layer's input.
    terminals={"y": 1, "attention": 1, "heads": 1, "W": 1, "g": 1, "dx": 1},
    primitives={
        "log": 3,
        "abs": 3,
        "square": 3,
        "exp": 3,
        "zscore": 3,  # normalize
        "maximum": 3,  # relu
        "div": 3,  # invert; with exp and row_sum softmax
        "row_sum": 3,
        "all_norm": 3,
        "all_mean": 9,  # normalized_sum and mean, and what ends each branch
        "sigmoid": 3,
        "sqrt": 3,
        "neg": 3,
        "minmax": 3,
        "all_std": 3,
        "add": 6,
        "sub": 3,
        "mul": 1,
        "layers_mean": 1,
    },
    constants=(0.0, 1.0),
    exponents=(2.0,),
    max_size=18,  # 10 nodes of the layout, and 2 more for each unary operation that we compose
    max_depth=8,  # of its winner on GPT-2, whose softmax is four of our words
    baselines=HAND_MADE,
    run={"evaluator": "prediction", "report_seeds": 1},
    search=AS_PUBLISHED,
)
