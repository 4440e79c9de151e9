"""A metric as a self-contained Python function of torch tensors."""

import keyword
import re
import textwrap
from collections.abc import Mapping

from autoproxy.errors import ConfigError
from autoproxy.export.formula import to_infix, to_latex
from autoproxy.language.canonical import key
from autoproxy.language.catalog import CATALOG
from autoproxy.language.expression import Expression, format_number
from autoproxy.language.parse import kind_of
from autoproxy.language.terminals import VOCABULARY, Terminal
from autoproxy.language.types import Kind

_SHAPES = {
    Kind.WEIGHT: "(d_out, d_in)",
    Kind.PER_INPUT: "(d_in,)",
    Kind.PER_OUTPUT: "(d_out,)",
    Kind.SCALAR: "()",
}
_RESHAPES = {Kind.PER_INPUT: ".reshape(1, -1)", Kind.PER_OUTPUT: ".reshape(-1, 1)"}


def python_source(expression: Expression, *, name: str, data_sheet: Mapping[str, str]) -> str:
    """Return a module of torch alone with one public function, the metric.

    The function copies the meanings of its primitives word for word, so it gives the same bits
    as the engine on the same float32 tensors.

    Args:
        expression: The metric.
        name: Of the function.
        data_sheet: Where it came from and what it was worth, as words for the docstring.

    Raises:
        ConfigError: `name` cannot name a function.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or keyword.iskeyword(name):
        raise ConfigError(
            f"{name!r} cannot name a function; use letters, digits and '_', beginning with a "
            "letter, and no word of Python's own"
        )
    inputs = [t for t in VOCABULARY.values() if t.name in expression.terminals()]
    parameters = ", ".join(f"{_parameter(t)}: Tensor" for t in inputs)
    body = _Body(expression)
    pieces = [
        f'"""{name}: a metric discovered or exported by AutoProxy; needs torch alone."""',
        "",
        "import torch",
        "from torch import Tensor",
        "",
        "",
        f"def {name}({parameters}) -> Tensor:",
        textwrap.indent(_docstring(expression, name, inputs, data_sheet), "    "),
        *(f"    {line}" for line in [*_reshapes(inputs), *body.lines]),
        f"    return {body.result}",
    ]
    for head in sorted(body.heads):
        pieces += ["", "", _helper(head)]
    return "\n".join(pieces) + "\n"


class _Body:
    """The statements that compute an expression, equal parts once."""

    def __init__(self, expression: Expression) -> None:
        self.lines: list[str] = []
        self.heads: set[str] = set()
        self._names: dict[Expression, str] = {}
        like = next(
            node.head for node in expression.walk() if not node.operands and node.value is None
        )
        self._like = _parameter(VOCABULARY[like])
        self.result = self._emit(expression)

    def _emit(self, node: Expression) -> str:
        if node.value is not None:
            return f"{self._like}.new_full((1, 1), {format_number(node.value)})"
        if not node.operands:
            return _parameter(VOCABULARY[node.head])
        if node not in self._names:
            self.heads.add(node.head)
            operands = [self._emit(operand) for operand in node.operands]
            if node.head == "pow":
                operands[1] = str(node.operands[1])
            self._names[node] = f"v{len(self._names) + 1}"
            call = f"_{CATALOG[node.head].tensor.__name__}({', '.join(operands)})"
            self.lines.append(f"{self._names[node]} = {call}  # {_SHAPES_2D[kind_of(node)]}")
        return self._names[node]


_SHAPES_2D = {
    Kind.WEIGHT: "(d_out, d_in)",
    Kind.PER_INPUT: "(1, d_in)",
    Kind.PER_OUTPUT: "(d_out, 1)",
    Kind.SCALAR: "(1, 1)",
}


def _helper(head: str) -> str:
    """Return the source of a primitive's meaning as a private function."""
    source = CATALOG[head].source()
    name = CATALOG[head].tensor.__name__
    return source.replace(f"def {name}(", f"def _{name}(", 1).rstrip("\n")


def _parameter(terminal: Terminal) -> str:
    return "weight" if terminal.name == "W" else terminal.name


def _reshapes(inputs: list[Terminal]) -> list[str]:
    return [
        f"{_parameter(t)} = {_parameter(t)}{_RESHAPES[t.kind]}"
        for t in inputs
        if t.kind in _RESHAPES
    ]


def _docstring(
    expression: Expression, name: str, inputs: list[Terminal], data_sheet: Mapping[str, str]
) -> str:
    axis = {Kind.WEIGHT: "(d_out, d_in)", Kind.PER_INPUT: "(1, d_in)"}
    shape = axis.get(kind_of(expression), "(d_out, 1)")
    lines = [
        'r"""Return the importance of what a linear layer computes with; larger is kept.',
        "",
        f"Formula: {to_infix(expression)}",
        "",
        f"LaTeX: {to_latex(expression)}",
        "",
        "Args:",
        *(f"    {_parameter(t)}: {_SHAPES[t.kind]}, float32; {t.meaning}." for t in inputs),
        "",
        "Returns:",
        f"    {shape} importance; compare within the group that it was discovered for.",
        "",
        f"Text form: {expression}",
        f"Key: {key(expression)}",
        *(f"{word}: {value}" for word, value in data_sheet.items()),
        "",
        ">>> import torch",
        f">>> tuple({name}({_example(inputs)}).shape)",
        "(2, 3)" if kind_of(expression) is Kind.WEIGHT else _example_shape(expression),
        '"""',
    ]
    wrapped: list[str] = []
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip()) + 4)
        wrapped += textwrap.wrap(
            line, 92, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        ) or [""]
    return "\n".join(wrapped)


def _example(inputs: list[Terminal]) -> str:
    shapes = {Kind.WEIGHT: "2, 3", Kind.PER_INPUT: "3", Kind.PER_OUTPUT: "2"}
    return ", ".join(f"torch.ones({shapes[t.kind]})" for t in inputs)


def _example_shape(expression: Expression) -> str:
    return "(1, 3)" if kind_of(expression) is Kind.PER_INPUT else "(2, 1)"
