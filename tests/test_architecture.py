"""Who may import whom: the table of docs/decisions/0001, read off the source."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import packages_distributions
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("autoproxy", "search_spaces", "evaluators")
SOURCES = sorted(
    path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")
)

LANGUAGE = {"autoproxy.errors", "autoproxy.language"}
VALUES = LANGUAGE | {"autoproxy.evaluation", "autoproxy.spaces", "autoproxy.seeding"}
A_COMMAND = {
    f"autoproxy.{part}" for part in ("cli_common", "commands", "console", "live", "errors")
}
COMMANDS = {
    f"autoproxy.cli_{name}"
    for name in ("audit", "benchmark", "enumerate", "leaderboard", "report", "watch")
}
"""Modules that hold a few commands each, so that none grows too long."""

MAY_IMPORT: Mapping[str, set[str]] = {
    "autoproxy": set(),
    "autoproxy.errors": set(),
    "autoproxy.seeding": set(),
    "autoproxy.interruption": set(),
    "autoproxy.workers": {"autoproxy.errors"},
    "autoproxy.plugins": {"autoproxy.errors"},
    "autoproxy.language": {"autoproxy.errors"},
    "autoproxy.evaluation": LANGUAGE,
    "autoproxy.columns": {"autoproxy.evaluation"},
    "autoproxy.spaces": LANGUAGE | {"autoproxy.evaluation"},
    "autoproxy.breeding": VALUES,
    "autoproxy.sieve": VALUES,
    "autoproxy.search": VALUES | {"autoproxy.breeding", "autoproxy.sieve"},
    "autoproxy.ledger": LANGUAGE
    | {"autoproxy.columns", "autoproxy.evaluation", "autoproxy.interruption"},
    "autoproxy.export": LANGUAGE,
    "autoproxy.report": LANGUAGE
    | {"autoproxy.columns", "autoproxy.evaluation", "autoproxy.export", "autoproxy.ledger"},
    "autoproxy.commands": VALUES
    | {"autoproxy.export", "autoproxy.ledger", "autoproxy.plugins", "autoproxy.search"}
    | {"autoproxy.columns", "autoproxy.report", "autoproxy.sieve", "autoproxy.workers"}
    | {"autoproxy.interruption"},
    "autoproxy.console": {"autoproxy.columns"},
    "autoproxy.live": {"autoproxy.commands"},
    "autoproxy.cli_common": {"autoproxy.seeding"},
    **dict.fromkeys(COMMANDS, A_COMMAND),
    "autoproxy.cli": A_COMMAND | COMMANDS,
    "search_spaces": {"autoproxy.language", "autoproxy.spaces"},
    "evaluators": VALUES - {"autoproxy.spaces"} | {"autoproxy.columns"},
}
"""Which parts of this project each part may know, besides itself."""

ONLY_IN: Mapping[str, set[str]] = {
    "deap": {"autoproxy.breeding"},
    "sqlalchemy": {"autoproxy.ledger"},
    "sqlite3": {"autoproxy.ledger"},
    "scipy": {"autoproxy.breeding", "autoproxy.ledger", "autoproxy.search", "evaluators"}
    | {"autoproxy.report"},
    "altair": {"autoproxy.report"},
    "sympy": {"autoproxy.language", "autoproxy.export"},
    "typer": {"autoproxy.cli", "autoproxy.cli_common", *COMMANDS},
    "rich": {"autoproxy.cli_common", "autoproxy.console", "autoproxy.live"},
    "tensorboard": {"autoproxy.commands"},
    "torch": {"autoproxy.language", "autoproxy.commands", "evaluators"},
    "transformers": {"evaluators"},
    "tokenizers": {"evaluators"},
    "safetensors": {"evaluators"},
    "datasets": {"evaluators"},
    "numpy": {"evaluators"},
    "numba": {"evaluators"},
    "joblib": {"autoproxy.workers", "evaluators"},
    "distributed": {"autoproxy.workers"},
    "ray": {"autoproxy.workers"},
    "optuna": {"evaluators"},
    "lm_eval": {"evaluators"},
    "filelock": {"autoproxy.commands", "evaluators"},
    "subprocess": {"autoproxy.commands", "evaluators"},
    "pickle": set(),
}
"""The parts that alone may import a library."""

COMMAND_LINE = [
    Path(f"{part.replace('.', '/')}.py")
    for part in sorted({"autoproxy.cli", "autoproxy.cli_common", *COMMANDS})
]
PRINTERS = {*COMMAND_LINE, Path("autoproxy/console.py"), Path("autoproxy/live.py")}
SCRIPTS = {Path("evaluators/train_starter.py")}
"""A program of its own, run with `python -m`."""


def part_of(name: str) -> str:
    """Return the part of this project that a module belongs to."""
    words = name.split(".")
    return ".".join(words[:2]) if words[0] == "autoproxy" else words[0]


def part_at(path: Path) -> str:
    return part_of(".".join(path.with_suffix("").parts).removesuffix(".__init__"))


def tree_of(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def imported(path: Path) -> Iterator[str]:
    """Yield the full name of everything that a file imports, wherever in it."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            module = node.module or ""
            # `from autoproxy import plugins` names a module by its alias.
            inside = [f"{module}.{alias.name}" for alias in node.names]
            yield from inside if module == "autoproxy" else [module]
        elif isinstance(node, ast.Call) and "import_module" in ast.dump(node.func):
            yield from (str(word.value) for word in node.args if isinstance(word, ast.Constant))


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_point_one_way(path: Path) -> None:
    here = part_at(path)
    assert here in MAY_IMPORT, f"{here} is new: say in MAY_IMPORT what it may know"
    known = {part_of(name) for name in imported(path) if name.split(".")[0] in PACKAGES}
    beyond = known - MAY_IMPORT[here] - {here}
    assert not beyond, f"{path} imports {', '.join(sorted(beyond))}; see docs/decisions/0001"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_libraries_stay_where_they_belong(path: Path) -> None:
    here = part_at(path)
    for name in imported(path):
        library = name.split(".")[0]
        assert here in ONLY_IN.get(library, {here}) or path in SCRIPTS, f"{path} imports {library}"


def test_the_table_has_no_circle() -> None:
    order: list[str] = []
    while len(order) < len(MAY_IMPORT):
        ready = [p for p, knows in MAY_IMPORT.items() if p not in order and knows <= set(order)]
        assert ready, f"a circle among {set(MAY_IMPORT) - set(order)}"
        order += ready


def test_the_table_says_nothing_that_is_not_so() -> None:
    """A line that no file needs any more is a door left open."""
    for table in (MAY_IMPORT, ONLY_IN):
        assert all(
            any(part_at(path) == part for path in SOURCES)
            for part in (table if table is MAY_IMPORT else set().union(*ONLY_IN.values()))
        )
    used = {part: set[str]() for part in MAY_IMPORT}
    for path in SOURCES:
        used[part_at(path)] |= {name.split(".")[0] for name in imported(path)}
    for library, parts in ONLY_IN.items():
        unused = {part for part in parts if library not in used[part]}
        if library not in {"subprocess", "sqlite3"}:
            assert not unused, f"{library} is not used in {unused}"


@pytest.mark.parametrize("path", [p for p in SOURCES if p not in PRINTERS | SCRIPTS], ids=str)
def test_nothing_else_prints(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{path}:{node.lineno}"
        if isinstance(node, ast.Attribute) and node.attr in {"stdout", "stderr"}:
            # The output of another process is no output of ours.
            assert not (isinstance(node.value, ast.Name) and node.value.id == "sys"), path


@pytest.mark.parametrize("path", COMMAND_LINE, ids=str)
def test_the_command_line_imports_nothing_of_ours_until_a_command_runs(path: Path) -> None:
    itself = {".".join(other.with_suffix("").parts) for other in COMMAND_LINE}
    for node in tree_of(path).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("autoproxy"):
            assert node.module in {"autoproxy.errors", *itself}


def test_loading_the_whole_engine_loads_no_plug_in() -> None:
    engine = [
        ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        for path in SOURCES
        if path.parts[0] == "autoproxy"
    ]
    code = (
        f"import importlib, sys\nfor name in {engine!r}: importlib.import_module(name)\n"
        "foreign = {'evaluators', 'search_spaces', 'transformers', 'datasets', 'tokenizers'}\n"
        "print(sorted(foreign & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::SyntaxWarning", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout == "[]\n"


def test_what_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[<>=\[ ]", line)[0].lower() for line in project["dependencies"]}
    extras = project["optional-dependencies"]
    optional = [line for extra, lines in extras.items() if extra != "dev" for line in lines]
    declared |= {re.split(r"[<>=\[ ]", line)[0].lower() for line in optional}
    declared.add("pyarrow")  # comes with datasets, whose files it reads
    distributions = packages_distributions()
    for path in SOURCES:
        for name in imported(path):
            library = name.split(".")[0]
            if library in sys.stdlib_module_names or library in PACKAGES:
                continue
            names = {name.lower() for name in distributions.get(library, [library])}
            assert names & declared, f"{path} imports {library}, which pyproject.toml lacks"


def test_tests_have_names_of_their_own() -> None:
    names = sorted(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert all(a != b for a, b in pairwise(names))
