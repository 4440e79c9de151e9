"""A metric as a self-contained Python function of torch tensors."""

import ast
import builtins
import keyword
import re
import textwrap
from collections.abc import Mapping, Sequence

from autoproxy.errors import ConfigError
from autoproxy.export.formula import to_infix, to_latex
from autoproxy.language.canonical import key
from autoproxy.language.catalog import CATALOG
from autoproxy.language.expression import Expression, format_number
from autoproxy.language.parse import kind_of
from autoproxy.language.terminals import VOCABULARY, Terminal
from autoproxy.language.types import TENSOR_KINDS, Kind, shape_of

WIDTH = 96


def python_source(expression: Expression, *, name: str, data_sheet: Mapping[str, str]) -> str:
    """Return a module of torch alone with one public function, the metric.

    The function copies the meanings of its primitives word for word, applies them in the engine's
    order and has the engine's numbers to the last digit, so it gives the same bits as the engine
    on the same float32 tensors: under one build of torch, on one kind of CPU and with as many
    threads. Where these differ, torch itself sums and takes powers to other last bits.

    Args:
        expression: The metric; its parameters are the terminals it reads, in the order of the
            vocabulary.
        name: Of the function.
        data_sheet: Where it came from and what it was worth, as words for the docstring.

    Raises:
        ConfigError: `name` cannot name a function, or hides a word of Python's that its code uses;
            the metric reads nothing, or it is no importance: a prediction is of a network and not
            of a layer.

    >>> from autoproxy.language.parse import parse
    >>> source = python_source(parse("mul(abs(W), x_norm)"), name="wanda", data_sheet={})
    >>> [line for line in source.splitlines() if line.startswith("def ")]
    ['def wanda(weight: Tensor, x_norm: Tensor) -> Tensor:', 'def _absolute(a: Tensor) -> \
Tensor:', 'def _mul(a: Tensor, b: Tensor) -> Tensor:']
    """
    check_name(name)
    inputs = [t for t in VOCABULARY.values() if t.name in expression.terminals()]
    if not inputs:
        raise ConfigError(
            f"{expression} reads nothing of a layer, so it is no metric; use a terminal, for "
            "example W"
        )
    if kind_of(expression) not in TENSOR_KINDS:
        raise ConfigError(
            f"{expression} is of kind {kind_of(expression).value}, while this exports functions "
            f"of one layer of kind {', '.join(kind.value for kind in TENSOR_KINDS)}; what the "
            "aggregations of a prediction take can be exported so"
        )
    body = Body(expression, like=parameter(inputs[0]))
    function = [
        *_signature(name, inputs),
        textwrap.indent(_docstring(expression, name, inputs, data_sheet), "    "),
        *(f"    {line}" for line in [*_taken(inputs), *body.lines]),
    ]
    helpers = [helper(head) for head in sorted(body.heads, key=tensor_name)]
    head = ['"""A metric discovered or exported by AutoProxy; it needs torch alone."""']
    head += ["", *(["import torch"] if any("torch." in h for h in helpers) else [])]
    head += ["from torch import Tensor"]
    source = "\n\n\n".join(["\n".join(head), "\n".join(function), *helpers]) + "\n"
    _check_hides_nothing(name, source)
    return source


def check_name(name: str) -> None:
    """See that `name` can name a function.

    Raises:
        ConfigError: It cannot.
    """
    proper = re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) and not keyword.iskeyword(name)
    if not proper or name in {"torch", "Tensor"}:
        raise ConfigError(
            f"{name!r} cannot name a function; use letters, digits and '_', beginning with a "
            "letter, and neither a word of Python's own nor torch or Tensor"
        )


def _check_hides_nothing(name: str, source: str) -> None:
    """See that a function beside its helpers hides no builtin from them, nor from its example."""
    used = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    if name in {*used, "tuple"} & {*dir(builtins)}:
        raise ConfigError(
            f"{name!r} cannot name this function, because its own code calls Python's {name}; give "
            f"another --name, such as {name}_metric"
        )


class Body:
    """The statements that compute an expression, equal parts once.

    Args:
        expression: What is computed.
        like: Name of a tensor that says of what type and where constants are.
        prefix: What the copies of meanings are called by, before their own names.
    """

    def __init__(self, expression: Expression, like: str, prefix: str = "_") -> None:
        self.lines: list[str] = []
        self.heads: set[str] = set()
        self._like = like
        self._prefix = prefix
        self._names: dict[Expression, str] = {}
        result = self._emit(expression)
        if self.lines:  # the last of them made it
            self.lines[-1] = self.lines[-1].replace(f"{result} =", "return", 1)
        else:
            self.lines.append(f"return {result}")

    def _emit(self, node: Expression) -> str:
        """Return the name of the value of `node`, after the statements that it needs."""
        if not node.operands and node.value is None:
            return parameter(VOCABULARY[node.head])
        if node not in self._names:
            code = self._constant(node) if node.value is not None else self._call(node)
            self._names[node] = f"v{len(self._names) + 1}"
            shape = letters(kind_of(node))
            self.lines.append(f"{self._names[node]} = {code}  # {shape}")
        return self._names[node]

    def _constant(self, node: Expression) -> str:
        return f"{self._like}.new_full((1, 1), {number(node)})"

    def _call(self, node: Expression) -> str:
        self.heads.add(node.head)
        takes = CATALOG[node.head].signatures[0][0]
        operands = [
            exponent(operand) if kind is Kind.EXPONENT else self._emit(operand)
            for operand, kind in zip(node.operands, takes, strict=True)
        ]
        return f"{self._prefix}{tensor_name(node.head)}({', '.join(operands)})"


def literal(digits: str) -> str:
    """Return the digits of a number as formatters of Python write them.

    >>> literal("6.09e+16"), literal("1e-05"), literal("0.5")
    ('6.09e16', '1e-05', '0.5')
    """
    return digits.replace("e+", "e")


def number(node: Expression) -> str:
    """Return a constant as Python reads it, where it becomes float32 at once."""
    return literal(format_number(node.value or 0.0))


def exponent(node: Expression) -> str:
    """Return an exponent with all the digits of what the engine computes with.

    It stays a double: where torch has less than a vector's width left it takes the power in that,
    one entry after another, and 0.217 gives other last bits than the float32 nearest to it.

    >>> from autoproxy.language.expression import constant
    >>> number(constant(0.217)), exponent(constant(0.217)), exponent(constant(2))
    ('0.217', '0.21699999272823334', '2.0')
    >>> number(constant(6e16))
    '6e16'
    """
    return literal(repr(node.value))


def letters(kind: Kind) -> str:
    """Return the shape of a value of a kind, in words."""
    return {
        Kind.WEIGHT: "(d_out, d_in)",
        Kind.PER_INPUT: "(1, d_in)",
        Kind.PER_OUTPUT: "(d_out, 1)",
        **_FLOWING,
    }.get(kind, "(1, 1)")


def tensor_name(head: str) -> str:
    """Return the name of the function that is a primitive's meaning."""
    return CATALOG[head].tensor.__name__


def helper(head: str, prefix: str = "_") -> str:
    """Return the source of a primitive's meaning as a private function."""
    name = tensor_name(head)
    source = CATALOG[head].source()
    return source.replace(f"def {name}(", f"def {prefix}{name}(", 1).rstrip("\n")


def parameter(terminal: Terminal) -> str:
    """Return the name that a terminal has in exported code."""
    return "weight" if terminal.name == "W" else terminal.name


_FLOWING = {
    Kind.INPUT: "(sequences, tokens, d_in)",
    Kind.OUTPUT: "(sequences, tokens, d_out)",
    Kind.ATTENTION: "(sequences, heads, queries, keys)",
}
_SHAPES = {
    Kind.WEIGHT: "(d_out, d_in)",
    Kind.PER_INPUT: "(d_in,)",
    Kind.PER_OUTPUT: "(d_out,)",
    Kind.SCALAR: "()",
    **_FLOWING,
}


def _taken(inputs: Sequence[Terminal]) -> list[str]:
    """Return statements that give every input its shape, and float32.

    Models are held in half precision, where the numbers that guard a division are zero.
    """
    calls = {
        Kind.PER_INPUT: ".reshape(1, -1)",
        Kind.PER_OUTPUT: ".reshape(-1, 1)",
        Kind.SCALAR: ".reshape(1, 1)",
    }
    return [
        f"{parameter(t)} = {parameter(t)}.float(){calls.get(t.kind, '')}  # {letters(t.kind)}"
        for t in inputs
    ]


def _signature(name: str, inputs: Sequence[Terminal]) -> list[str]:
    parameters = [f"{parameter(t)}: Tensor" for t in inputs]
    line = f"def {name}({', '.join(parameters)}) -> Tensor:"
    if len(line) <= WIDTH:
        return [line]
    inner = f"    {', '.join(parameters)}"
    lines = [inner] if len(inner) <= WIDTH else [f"    {p}," for p in parameters]
    return [f"def {name}(", *lines, ") -> Tensor:"]


def _docstring(
    expression: Expression,
    name: str,
    inputs: Sequence[Terminal],
    data_sheet: Mapping[str, str],
) -> str:
    kind = kind_of(expression)
    arguments = [
        f"    {parameter(t)}: {_SHAPES[t.kind]}, taken as float32; {t.meaning}." for t in inputs
    ]
    lines = [
        'r"""Return the importance of what a linear layer computes with; larger is kept.',
        "",
        f"Formula: {to_infix(expression)}",
        "",
        f"LaTeX: {to_latex(expression)}",
        "",
        "Args:",
        *arguments,
        "",
        "Returns:",
        f"    {letters(kind)} importance; compare within the group it was made for.",
        "",
        f"Text form: {expression}",
        f"Key: {key(expression)}",
        *(f"{plain(word)}: {plain(value)}" for word, value in data_sheet.items()),
        "",
        ">>> import torch",
        f">>> tuple({name}({_example(inputs)}).shape)",
        str(shape_of(kind, 2, 3)),
        '"""',
    ]
    return "\n".join(piece for line in lines for piece in wrapped(line))


def wrapped(line: str) -> list[str]:
    """Return a line of a docstring as lines that are not too long."""
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    if line.startswith(">>> "):
        indent = "...     "
    return textwrap.wrap(
        line,
        WIDTH - 4,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [""]


def plain(words: object) -> str:
    """Return words of others on one line that cannot end the docstring they stand in."""
    text = "".join(c if c.isprintable() else " " for c in str(words))
    return " ".join(text.replace('"', "'").replace(">>>", "> > >").split())


def _example(inputs: Sequence[Terminal]) -> str:
    sizes = {
        Kind.WEIGHT: "2, 3",
        Kind.PER_INPUT: "3",
        Kind.PER_OUTPUT: "2",
        Kind.INPUT: "2, 3, 3",
        Kind.OUTPUT: "2, 3, 2",
        Kind.ATTENTION: "2, 2, 3, 3",
    }
    return ", ".join(f"torch.ones({sizes.get(t.kind, '()')})" for t in inputs)
