"""Exported functions: alone with torch, they give the engine's bits."""

import ast
import doctest
import json
import subprocess
import sys
import types
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from autoproxy.errors import ConfigError
from autoproxy.export.python import WIDTH, python_source
from autoproxy.language.canonical import key
from autoproxy.language.catalog import AGGREGATIONS, CATALOG
from autoproxy.language.expression import Expression, constant
from autoproxy.language.parse import kind_of, parse
from autoproxy.language.program import Program
from autoproxy.language.terminals import MODEL_TERMINALS, VOCABULARY
from autoproxy.language.types import FLOWING_KINDS, Kind
from evaluators.masks import NM, Unstructured, keep_mask
from tests.autoproxy.export.drawn import arguments, baselines, drawn, inputs

SHEET = {"source run": "r-1", "value": '0.25 nats (kl), "quoted" """ >>> 1 / 0', "model": "a\nb\\"}
ROWS, COLUMNS = 5, 8


def applied(name: str) -> Expression:
    """Return a primitive on terminals of the kinds that it takes."""
    of_kind = {
        Kind.WEIGHT: "W",
        Kind.PER_INPUT: "x_mean",
        Kind.PER_OUTPUT: "y_norm",
        Kind.INPUT: "x",
        Kind.OUTPUT: "y",
        Kind.ATTENTION: "attention",
    }
    kinds = CATALOG[name].signatures[0][0]
    operands = [constant(-1.5) if k is Kind.EXPONENT else parse(of_kind[k]) for k in kinds]
    return of_a_layer(Expression(name, tuple(operands)))


def of_a_layer(expression: Expression) -> Expression:
    """Return what can be exported: of activations, their mean."""
    flows = kind_of(expression) in FLOWING_KINDS
    return Expression("all_mean", (expression,)) if flows else expression


WORDS = sorted(set(CATALOG) - AGGREGATIONS)
TERMINALS = [name for name in VOCABULARY if name not in MODEL_TERMINALS]
EXPORTS = {
    **{f"word_{name}": applied(name) for name in WORDS},
    **{f"terminal_{name}": of_a_layer(parse(name)) for name in TERMINALS},
    **{f"shipped_{n}": expression for n, expression in enumerate(baselines().values())},
    **{f"weight_{n}": expression for n, expression in enumerate(drawn(80))},
    **{f"input_{n}": e for n, e in enumerate(drawn(12, root=Kind.PER_INPUT))},
    **{f"output_{n}": e for n, e in enumerate(drawn(12, root=Kind.PER_OUTPUT))},
    **{f"scalar_{n}": e for n, e in enumerate(drawn(6, root=Kind.SCALAR))},
}
PATTERNS = ((Unstructured(Fraction(1, 2)), "row"), (Unstructured(Fraction(1, 2)), "matrix"))
PATTERNS_AND_NM = (*PATTERNS, (NM(2, 4), "row"))


def run_source(source: str, name: str) -> types.ModuleType:
    """Return a module made of the source; nothing of this project is in its namespace."""
    module = types.ModuleType(name)
    exec(compile(source, f"{name}.py", "exec"), module.__dict__)  # noqa: S102 - ours, and the point
    return module


def values() -> dict[str, Tensor]:
    return dict(inputs(ROWS, COLUMNS))


def engine(expression: Expression) -> Tensor:
    (value,) = Program([expression]).run(values())
    return value


def bits(value: Tensor) -> tuple[object, ...]:
    raw = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return tuple(value.shape), value.dtype, raw


def masks(value: Tensor) -> list[Tensor]:
    importance = value.expand(ROWS, COLUMNS)
    return [keep_mask(importance, pattern, group) for pattern, group in PATTERNS_AND_NM]


def test_the_draws_use_every_word() -> None:
    heads = {node.head for expression in EXPORTS.values() for node in expression.walk()}
    assert heads >= {*WORDS, *TERMINALS}


@pytest.mark.parametrize("text", ["layers_sum(all_norm(g))", "n_layers", "params * 2", "y"])
def test_a_prediction_is_no_function_of_a_layer(text: str) -> None:
    with pytest.raises(
        ConfigError, match=r"of kind (Model|Output), while this exports functions of one"
    ):
        python_source(parse(text), name="proxy", data_sheet={})


@pytest.mark.parametrize("name", EXPORTS)
def test_it_gives_the_bits_and_masks_of_the_engine(name: str) -> None:
    expression = EXPORTS[name]
    function = getattr(
        run_source(python_source(expression, name=name, data_sheet=SHEET), name), name
    )
    given = arguments(expression, values())
    before = [bits(argument) for argument in given]
    found, expected = function(*given), engine(expression)
    assert bits(found) == bits(expected)
    assert [bits(argument) for argument in given] == before
    if torch.isfinite(found).all():
        for mine, theirs in zip(masks(found), masks(expected), strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("text", ["div(abs(W), x_norm)", "mul(abs(W), pow(x_norm, -4))"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_has_the_values_of_its_numbers(
    text: str, dtype: torch.dtype
) -> None:
    metric = run_source(python_source(parse(text), name="m", data_sheet={}), "m").m
    weight, norm = torch.linspace(-1, 1, 24).reshape(4, 6).to(dtype), torch.arange(6.0).to(dtype)
    weight[:, 0] = 0  # of an input that is dead
    found = metric(weight, norm)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    assert torch.equal(found, metric(weight.float(), norm.float()))


@pytest.mark.parametrize("columns", [1, 16, 31, 33, 64, 95])
@pytest.mark.parametrize("exponent", [0.217, 0.57, 2.05, -0.3, 1.2, 0.5, 2.0])
def test_a_power_has_the_bits_of_the_engine_at_any_width(exponent: float, columns: int) -> None:
    """Where torch has less than a vector's width left, it takes an exponent for a double."""
    power = Expression("pow", (parse("x_norm"), constant(exponent)))
    for expression in (power, Expression("mul", (parse("abs(W)"), power))):
        source = python_source(expression, name="f", data_sheet={})
        given = inputs(ROWS, columns)
        (right,) = Program([expression]).run(given)
        found = run_source(source, "f").f(*arguments(expression, given))
        assert bits(found) == bits(right)


def test_enough_of_the_draws_are_finite_to_have_masks() -> None:
    finite = [torch.isfinite(engine(expression)).all().item() for expression in EXPORTS.values()]
    assert sum(finite) > 0.8 * len(finite)


ALONE = """
import doctest, importlib, sys, torch
torch.set_num_threads(1)
given = torch.load("given.pt")
found = {}
for name, arguments in given.items():
    module = importlib.import_module(name)
    found[name] = getattr(module, name)(*arguments)
    failed, tried = doctest.testmod(module)
    assert tried >= 2 and not failed, name
foreign = {m.partition(".")[0] for m in sys.modules}
assert not foreign & {"autoproxy", "evaluators", "search_spaces", "deap", "transformers"}
torch.save(found, "found.pt")
"""


def test_in_an_interpreter_of_their_own_they_need_torch_alone(tmp_path: Path) -> None:
    for name, expression in EXPORTS.items():
        source = python_source(expression, name=name, data_sheet=SHEET)
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
    given = {name: arguments(expression, values()) for name, expression in EXPORTS.items()}
    torch.save(given, tmp_path / "given.pt")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALONE],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = torch.load(tmp_path / "found.pt")
    assert found.keys() == EXPORTS.keys()
    for name, value in found.items():
        assert bits(value) == bits(engine(EXPORTS[name])), name


@pytest.mark.parametrize("name", EXPORTS)
def test_its_source_is_plain(name: str) -> None:
    """It imports torch alone, has no names to spare, no line too long, and its doctest runs."""
    expression = EXPORTS[name]
    source = python_source(expression, name=name, data_sheet=SHEET)
    tree = ast.parse(source)
    imported = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    inside = {
        alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imported <= {"torch"}
    assert inside <= {"torch"}
    public = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]
    assert public == [name]
    # LaTeX without a space cannot be broken.
    assert all(len(line) <= 100 or " " not in line.strip() for line in source.splitlines())
    assert not any(line != line.rstrip() for line in source.splitlines())
    module = run_source(source, name)
    finder = doctest.DocTestFinder().find(module, name, module=module, globs=vars(module))
    results = [doctest.DocTestRunner().run(test) for test in finder if test.examples]
    assert results
    assert all(result.failed == 0 for result in results)


def test_its_docstring_is_a_data_sheet() -> None:
    expression = parse("mul(abs(W), pow(x_norm, 0.5))")
    source = python_source(expression, name="half", data_sheet=SHEET)
    function = run_source(source, "half").half
    text: str = function.__doc__
    for words in (
        "abs(W) * x_norm ** 0.5",
        r"\left|W\right| \cdot",
        str(expression),
        key(expression),
        "source run: r-1",
        "weight: (d_out, d_in), taken as float32",
        "x_norm: (d_in,), taken as float32",
    ):
        assert words in text, words
    assert function.__annotations__ == dict.fromkeys(["weight", "x_norm", "return"], Tensor)


@pytest.mark.parametrize(
    "evil",
    [
        '"""\nimport os\nr"""',
        "\\",
        "x" * 500,
        ">>> 1 / 0",
        "\u2028import os",
        "\x00",
        "{braces} %s",
        "tail\\",
    ],
)
def test_no_words_of_the_data_sheet_become_code(evil: str) -> None:
    """Names of models and texts are the user's; they stay words, as key and as value."""
    expression = parse("mul(abs(W), x_norm)")
    plain = code_of(ast.parse(python_source(expression, name="f", data_sheet={})))
    for sheet in ({"model": evil}, {evil: "model"}, {"a": evil, "b": evil}):
        source = python_source(expression, name="f", data_sheet=sheet)
        tree = ast.parse(source)
        assert code_of(tree) == plain
        module = run_source(source, "f")
        assert doctest.testmod(module).failed == 0


def code_of(tree: ast.Module) -> str:
    """Return the code of a module without the docstrings of its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.body = node.body[1:]
    return ast.dump(tree)


@pytest.mark.parametrize("name", ["class", "1st", "a-b", "", "torch", "Tensor", "_hidden", "é"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a function"):
        python_source(parse("W"), name=name, data_sheet={})


@pytest.mark.parametrize("name", ["weight", "x_norm", "v1", "print", "abs", "mul", "a", "match"])
def test_a_name_that_is_used_inside_changes_nothing(name: str) -> None:
    expression = parse("add(mul(abs(W), x_norm), row_mean(abs(W)))")
    source = python_source(expression, name=name, data_sheet={})
    function: Any = getattr(run_source(source, name), name)
    assert bits(function(*arguments(expression, values()))) == bits(engine(expression))


@pytest.mark.parametrize("name", ["max", "tuple"])
def test_a_name_that_hides_what_the_code_calls_is_refused(name: str) -> None:
    expression = parse("pz_zsn(abs(W))")
    with pytest.raises(ConfigError, match=f"calls Python's {name}; .*such as {name}_metric"):
        python_source(expression, name=name, data_sheet={})
    source = python_source(expression, name=f"{name}_metric", data_sheet={})
    function: Any = getattr(run_source(source, name), f"{name}_metric")
    assert bits(function(*arguments(expression, values()))) == bits(engine(expression))


def test_what_reads_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="reads nothing"):
        python_source(parse("add(1, 2)"), name="f", data_sheet={})


def test_equal_parts_are_computed_once() -> None:
    source = python_source(parse("div(abs(W), row_sum(abs(W)))"), name="f", data_sheet={})
    assert source.count("_absolute(weight)") == 1


def test_a_long_signature_is_wrapped() -> None:
    names = "W", "x_norm", "x_mean", "x_var", "x_max", "y_norm", "g", "g_norm", "g_region"
    text = names[0]
    for name in names[1:]:
        text = f"add({text}, {name})"
    expression = parse(text)
    source = python_source(expression, name="f" * 40, data_sheet={})
    start = source.index("def ")
    assert max(map(len, source[start : source.index('"""', start)].splitlines())) <= WIDTH
    assert kind_of(expression) is Kind.WEIGHT
    function = getattr(run_source(source, "f"), "f" * 40)
    assert bits(function(*arguments(expression, values()))) == bits(engine(expression))


def test_the_export_is_the_same_in_every_process() -> None:
    """Whatever the order of sets: files that are compared must not flicker."""
    expression = drawn(1)[0]
    code = (
        "import sys, json\n"
        "from autoproxy.export.python import python_source\n"
        "from autoproxy.language.parse import parse\n"
        "print(json.dumps(python_source(parse(sys.argv[1]), name='f', data_sheet={'a': 'b'})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(expression)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7", "PATH": "", "PYTHONPATH": str(Path.cwd())},
    )
    assert json.loads(done.stdout) == python_source(expression, name="f", data_sheet={"a": "b"})
