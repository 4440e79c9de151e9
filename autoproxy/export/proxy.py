"""A prediction as a self-contained Python function of a network and a batch."""

import ast
import builtins
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from autoproxy.errors import ConfigError
from autoproxy.export.formula import to_infix, to_latex
from autoproxy.export.python import (
    Body,
    check_name,
    exponent,
    helper,
    letters,
    literal,
    parameter,
    plain,
    tensor_name,
    wrapped,
)
from autoproxy.language.canonical import key
from autoproxy.language.catalog import AGGREGATIONS
from autoproxy.language.expression import Expression
from autoproxy.language.parse import kind_of, of_numbers
from autoproxy.language.prediction import combine, features
from autoproxy.language.terminals import VOCABULARY, Terminal
from autoproxy.language.types import Kind

ORIENTATION = "orientation"
"""Entry of a data sheet that says which sign is good: `larger is better` or `smaller is better`."""

OF_A_SAMPLE = frozenset({
    "erank", "nuclear", "spectral", "logdet", "entropy", "all_max", "all_min", "col_max", "col_min",
    "minmax",
})  # fmt: skip
"""Primitives whose value of some outputs of a layer does not stand for that of all."""

_PREFIX = "_op_"
"""Of the copies of meanings: collectors have private functions of their own."""


def proxy_source(
    expression: Expression, *, name: str, data_sheet: Mapping[str, str], collector: str
) -> str:
    """Return a module of torch alone with a function that scores a network.

    It carries the collector and the meanings of its primitives word for word, and computes as the
    engine does: features in float32, layer by layer, then all else in float64. So its scores are
    the engine's bits, on a CPU and where the engine samples nothing.

    Args:
        expression: Of kind Model.
        name: Of the function.
        data_sheet: Where it came from and what it was worth, as words for the docstring; of
            them `ORIENTATION` says which sign is good.
        collector: Source of a module of torch alone, with its imports first, that has `collect`
            and `Collected` as evaluators/sites.py has them.

    Raises:
        ConfigError: `name` cannot name a function beside the collector, or the expression is no
            prediction or reads nothing of a network.
    """
    if kind_of(expression) is not Kind.MODEL:
        raise ConfigError(
            f"{expression} is of kind {kind_of(expression).value}, but a score is one number for "
            "a whole network; put an aggregation over layers on top, such as "
            "layers_sum(all_sum(...))"
        )
    if not expression.terminals():
        raise ConfigError(
            f"{expression} reads nothing of a network, so it is no score; use a terminal, for "
            "example layers_sum(all_norm(g))"
        )
    check_proxy_name(name, collector)
    carried = _split(collector)
    reads = [t for t in VOCABULARY.values() if t.name in expression.terminals()]
    score = _Score(expression)
    parts = [
        _head(carried),
        f'__all__ = ["{name}"]',
        _function(expression, name, reads, data_sheet),
        score.source(),
        *score.features,
        _COMMON.strip(),
        *(helper(head, _PREFIX) for head in sorted(score.heads, key=tensor_name)),
        _EXAMPLE.strip(),
        carried.body,
    ]
    text = "\n\n\n".join(parts) + "\n"
    return text.replace('\n\n\n__all__ = ["', '\n\n__all__ = ["', 1)


def sampling_matters(expression: Expression, sheet: Mapping[str, str]) -> str | None:
    """Return what is to be said of a formula that a search read on some outputs of each layer.

    Sums and norms over outputs were scaled to all of them; spectra and extremes cannot be, so on
    all outputs they are another formula.

    Args:
        expression: The formula.
        sheet: Its data sheet, with `rows`, the outputs that were kept, if not all were.

    >>> from autoproxy.language.parse import parse
    >>> sampling_matters(parse("layers_sum(erank(W))"), {"rows": "32"})
    'the search read erank on 32 outputs of each layer at most; on all it may order otherwise'
    >>> sampling_matters(parse("layers_sum(all_norm(W))"), {"rows": "32"})
    """
    found = sorted({node.head for node in expression.walk() if _of_outputs(node)})
    if "rows" not in sheet or not found:
        return None
    return (
        f"the search read {', '.join(found)} on {plain(sheet['rows'])} outputs of each layer at "
        "most; on all it may order otherwise"
    )


def _of_outputs(node: Expression) -> bool:
    kinds = (Kind.WEIGHT, Kind.PER_OUTPUT, Kind.OUTPUT)
    return node.head in OF_A_SAMPLE and kind_of(node.operands[0]) in kinds


def check_proxy_name(name: str, collector: str) -> None:
    """See that `name` can name a function beside a collector.

    Raises:
        ConfigError: It is no name, or one that the collector or Python has.
    """
    check_name(name)
    if name in taken_names(collector):
        raise ConfigError(
            f"{name!r} cannot name a proxy, because the code that it carries uses this word; give "
            f"another --name, such as {name}_proxy"
        )


def taken_names(collector: str) -> frozenset[str]:
    """Return the names that a function beside a collector must not have.

    >>> sorted(taken_names("from math import inf") - set(dir(builtins)))
    ['inf']
    """
    made: set[str] = set()
    for node in ast.parse(collector).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                made.add(name)
            case ast.Assign(targets=targets):
                made |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                made |= {alias.asname or alias.name.partition(".")[0] for alias in names}
    return frozenset(made) | frozenset(dir(builtins))


@dataclass(frozen=True, slots=True)
class _Carried:
    """A collector's source in parts: what its docstring says, its imports, and the rest."""

    words: str
    imports: str
    body: str


def _split(collector: str) -> _Carried:
    tree, lines = ast.parse(collector), collector.splitlines()
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    first, last = imports[0].lineno - 1, imports[-1].end_lineno
    words = ast.get_docstring(tree) or ""
    return _Carried(
        words.partition("\n\n")[2],
        "\n".join(lines[first:last]),
        "\n".join(lines[last:]).strip("\n"),
    )


def _head(carried: _Carried) -> str:
    return f'''"""A zero-cost proxy exported by AutoProxy: it scores a network, with torch alone.

First comes the function, then what its formula is made of, then the collector, which measures
what the formula reads.

{carried.words}
"""

{carried.imports}'''


def _function(
    expression: Expression, name: str, reads: Iterable[Terminal], data_sheet: Mapping[str, str]
) -> str:
    words = textwrap.indent(_docstring(expression, name, reads, data_sheet), "    ")
    line = f"def {name}(network: nn.Module, batch: Tensor | Mapping[str, Tensor]) -> float:"
    if len(line) > 100:
        line = line.replace("(", "(\n    ", 1).replace(") ->", "\n) ->")
    return f"{line}\n{words}\n" + _SCORING.strip("\n")


def _docstring(
    expression: Expression, name: str, reads: Iterable[Terminal], data_sheet: Mapping[str, str]
) -> str:
    sign = plain(data_sheet.get(ORIENTATION, "which sign is good is not known"))
    warning = sampling_matters(expression, data_sheet)
    lines = [
        'r"""Return the score of a network, which need not be trained.',
        "",
        f"Formula: {to_infix(expression)}",
        "",
        f"LaTeX: {to_latex(expression)}",
        "",
        "It reads, as far as a layer or a network has it:",
        *(f"    {t.name}: {t.kind.value}; {t.meaning}." for t in reads),
        "",
        "Args:",
        "    network: Called with token ids for logits (sequences, tokens, vocabulary), or a model "
        "of transformers. It is left as it was. A token predicts the next one, but where "
        "`network.causal` is False itself.",
        "    batch: Token ids (sequences, tokens), or a mapping of what a model of transformers "
        "takes. Compare networks on one batch.",
        "",
        "Returns:",
        f"    The score: {sign}. On a CPU one thread computes it, for the bits depend on that.",
        "",
        "Raises:",
        "    ValueError: The network lacks what the formula reads, or the score is not finite.",
        "",
        *([f"Beware: {warning}.", ""] if warning else []),
        f"Text form: {expression}",
        f"Key: {key(expression)}",
        *(f"{plain(word)}: {plain(value)}" for word, value in data_sheet.items()),
        "",
        f">>> score = {name}(",
        "...     _Example(), torch.tensor([[0, 1, 2], [3, 4, 0]])",
        "... )",
        ">>> isinstance(score, float)",
        "True",
        '"""',
    ]
    return "\n".join(piece for line in lines for piece in wrapped(line))


class _Score:
    """The statements from what was collected to the score.

    Attributes:
        lines: The statements.
        features: Source of one function a feature.
        heads: Primitives that are used.
    """

    def __init__(self, expression: Expression) -> None:
        self.lines: list[str] = []
        self.heads: set[str] = set()
        self._names: dict[Expression, str] = {}
        self._columns: dict[Expression, str] = {}
        self.features: list[str] = []
        for feature in features(expression):
            self._add_feature(feature)
        for terminal in VOCABULARY.values():
            if terminal.kind is Kind.MODEL and terminal.name in expression.terminals():
                self.lines.append(f'{terminal.name} = _of_model(found, "{terminal.name}")')
        _return(self.lines, self._emit(expression))
        self._reads = sorted(expression.terminals())

    def source(self) -> str:
        """Return the function that computes the score, and the names of what it reads."""
        reads = [f'"{name}",' for name in self._reads]
        several = "(\n    " + "\n    ".join(reads) + "\n)"
        lines = [
            f"_READS = {several if len(reads) > 1 else f'({reads[0]})'}\n\n",
            'def _score(found: "Collected") -> Tensor:',
            '    """Return the value of the formula, (1, 1) float64."""',
            *(f"    {line}" for line in self.lines),
        ]
        return "\n".join(lines)

    def _add_feature(self, feature: Expression) -> None:
        place = len(self.features) + 1
        reads = [t for t in VOCABULARY.values() if t.name in feature.terminals()]
        like = parameter(reads[0]) if reads else "torch.ones(1, dtype=torch.float32)"
        body = Body(feature, like, _PREFIX)
        lines = [f'{parameter(t)} = site["{t.name}"]  # {letters(t.kind)}' for t in reads]
        if not feature.operands and reads:
            lines = [f'return site["{feature.head}"]']
        else:
            lines += body.lines
        site = "site" if reads else "_"
        self.features.append(
            f"def _feature_{place}({site}: Mapping[str, Tensor]) -> Tensor:\n"
            f'    """Return {_short(to_infix(feature))} of one layer, (1, 1)."""\n'
            + "\n".join(f"    {line}" for line in lines)
        )
        self.heads |= body.heads
        self._columns[feature] = f"f{place}"
        names = "".join(f'"{t.name}", ' for t in reads)
        names = names.rstrip() if len(reads) == 1 else names.rstrip(", ")
        self.lines += _call(f"f{place}", f"found, _feature_{place}", f"({names})")

    def _emit(self, node: Expression) -> str:
        """Return the name of the value of `node`, after the statements that it needs."""
        if not node.operands and node.value is None:
            return node.head
        if node not in self._names:
            code = self._code(node)
            self._names[node] = f"v{len(self._names) + 1}"
            self.lines.append(f"{self._names[node]} = {code}")
        return self._names[node]

    def _code(self, node: Expression) -> str:
        if of_numbers(node):
            return f"torch.tensor([[{_folded(node)}]], dtype=torch.float64)  # {to_infix(node)}"
        self.heads.add(node.head)
        name = f"{_PREFIX}{tensor_name(node.head)}"
        if node.head in AGGREGATIONS:
            return f"{name}({self._columns[node.operands[0]]})"
        if node.head == "pow":
            return f"{name}({self._emit(node.operands[0])}, {exponent(node.operands[1])})"
        return f"{name}({', '.join(map(self._emit, node.operands))})"


def _call(target: str, first: str, names: str) -> list[str]:
    """Return the statement that computes a feature of all layers, as ruff would lay it out."""
    line = f"{target} = _of_layers({first}, {names})"
    if len(line) <= 96:
        return [line]
    inner = f"    {first}, {names}"
    if len(inner) <= 96:
        return [f"{target} = _of_layers(", inner, ")"]
    each = [f"    {name}," for name in names.strip("()").split(", ")]
    inner_lines = [*(f"{word}," for word in first.split(", ")), "(", *each, "),"]
    return [f"{target} = _of_layers(", *(f"    {line}" for line in inner_lines), ")"]


def _return(lines: list[str], result: str) -> None:
    """End statements by returning a value, which the last of them may have made."""
    if lines and lines[-1].startswith(f"{result} = "):
        lines[-1] = lines[-1].replace(f"{result} =", "return", 1)
    else:
        lines.append(f"return {result}")


def _folded(node: Expression) -> str:
    """Return what numbers alone come to in float32, all digits of it."""
    value = float(combine(node, {}, {}))
    text = literal(repr(value))
    return text if text.lstrip("-")[0].isdigit() else f'float("{text}")'


def _short(text: str) -> str:
    return text if len(text) <= 60 else "a feature"


_SCORING = """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        score = float(_score(collect(network, batch, _READS)))
    finally:
        torch.set_num_threads(threads)
    if not math.isfinite(score):
        raise ValueError(f"the score of this network is {score}, which no order is made of")
    return score
"""

_COMMON = '''
def _of_layers(
    found: "Collected", feature: Callable[[Mapping[str, Tensor]], Tensor], names: Sequence[str]
) -> Tensor:
    """Return a feature of all layers that have what it reads, (layers, 1) float64."""
    values = [
        feature(site.terminals).reshape(1, 1)
        for site in found.sites
        if all(name in site.terminals for name in names)
    ]
    if not values:
        raise ValueError(
            f"this network lacks {', '.join(names) or 'linear layers'}: of its {len(found.sites)} "
            "linear layers none has it; see what the formula reads"
        )
    return torch.cat(values).double().cpu()


def _of_model(found: "Collected", name: str) -> Tensor:
    """Return a number of the whole network, (1, 1) float64."""
    if name not in found.model:
        raise ValueError(
            f"this network lacks {name}, which the formula reads: its parts are not recognised, "
            "or the number is not finite"
        )
    return torch.tensor([[found.model[name]]], dtype=torch.float64)
'''

_EXAMPLE = '''
class _Example(nn.Module):
    """A causal network of one block, whose parts are called by names that are recognised."""

    def __init__(self) -> None:
        super().__init__()
        attention = {"qkv": nn.Linear(4, 12), "softmax": nn.Softmax(dim=-1), "out": nn.Linear(4, 4)}
        mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
        block = nn.ModuleDict({"attention": nn.ModuleDict(attention), "mlp": mlp})
        self.embedding = nn.Embedding(5, 4)
        self.layers = nn.ModuleList([block])
        self.output = nn.Linear(4, 5)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embedding(ids)
        later = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
        for block in self.layers:
            parts = block["attention"]
            split = parts["qkv"](hidden).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
            affinity = (split[0] @ split[1].mT).masked_fill(later, -math.inf)
            mixed = parts["softmax"](affinity) @ split[2]
            hidden = hidden + parts["out"](mixed.transpose(1, 2).flatten(2))
            hidden = hidden + block["mlp"](hidden)
        return self.output(hidden)
'''
