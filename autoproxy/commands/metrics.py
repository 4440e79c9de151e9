"""Metrics by any name: find, explain, export, and write the winner of a run."""

import builtins
import difflib
import json
import keyword
import re
from collections.abc import Collection, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from autoproxy.commands import loading
from autoproxy.commands.summary import read_summary
from autoproxy.commands.workspace import SUMMARY, Workspace, write_json, write_text
from autoproxy.errors import ConfigError, ExpressionError, unknown_name
from autoproxy.evaluation import Individual
from autoproxy.export.best_tree import from_tree, is_tree, write_best_tree
from autoproxy.export.formula import to_infix, to_latex, to_sympy
from autoproxy.export.manifest import from_json, read_json, to_json
from autoproxy.export.proxy import ORIENTATION, proxy_source, taken_names
from autoproxy.export.python import python_source
from autoproxy.language.blindness import Blindness
from autoproxy.language.canonical import canonical, key, nonnegative, ordering
from autoproxy.language.complexity import complexity
from autoproxy.language.expression import Expression
from autoproxy.language.parse import kind_of, parse
from autoproxy.language.prediction import features
from autoproxy.language.simplify import SATURATING, simplest, simplify
from autoproxy.language.terminals import VOCABULARY
from autoproxy.language.types import Kind
from autoproxy.spaces import Baseline

FORMS = ("py", "sympy", "latex", "infix", "json", "best-tree")

COLLECTOR = "prediction"
"""The evaluator whose measurements of a network exported predictions carry."""


def find_metric(
    workspace: Workspace, word: str, space: str | None, besides: Collection[str] | None = None
) -> tuple[str, Expression, dict[str, str]]:
    """Return name, expression and data sheet of what `word` stands for.

    Args:
        workspace: Where runs lie.
        word: Name of a hand-made metric of `space`, of a run, a metric's JSON file (ours, or a
            tree in Pruner-Zero's format), or an expression.
        space: Name of the space whose hand-made metrics are looked at; None for all that are
            installed, those of `importance` before others of their name.
        besides: Names of methods that could have been meant, for the message; None for those of
            all evaluators, of which it names the nearest.

    Raises:
        ExpressionError: It is none of these; the message says where the text is malformed.
        ConfigError: The file or run cannot be read, or the word is a method, without a formula.
    """
    baselines = {one.name: one for one in reversed(_handmade(space))}
    if word in baselines:
        expression = canonical(baselines[word].expression)
        sheet = {"source": baselines[word].source}
        if kind_of(expression) is Kind.MODEL:
            sheet[ORIENTATION] = oriented(baselines[word].sign)
        return word, expression, sheet
    if word in workspace.runs():
        return _of_run(workspace, word)
    if word.endswith(".json"):
        return _of_file(Path(word))
    try:
        return "metric", canonical(parse(word)), {}
    except ExpressionError as error:
        if not re.fullmatch(r"[\w.+-]+", word) or word in VOCABULARY:
            raise
        methods = {*chain(*loading.every_method().values())} if besides is None else besides
        _refuse_method(word, methods)
        near = difflib.get_close_matches(word, methods) if besides is None else besides
        listed = difflib.get_close_matches(word, baselines) if space is None else baselines
        known = [*listed, *workspace.runs(), *near]
        raise ConfigError(
            f"{unknown_name('metric', word, known)}\n(read as an expression: {error})"
        ) from None


def _handmade(space: str | None) -> list[Baseline]:
    """Return the hand-made metrics of a space, or of all of them; several may share a name."""
    spaces = loading.every_space() if space is None else (loading.space(space),)
    return [baseline for asked in spaces for baseline in asked.baselines]


def asked_candidate(
    workspace: Workspace,
    *,
    metric: str | None,
    baseline: str | None,
    space: str,
    methods: Collection[str],
) -> tuple[str, Expression | None]:
    """Return name and expression of what was asked for by one of two options.

    Args:
        workspace: Where runs lie.
        metric: As `find_metric` takes it, or None.
        baseline: Name of a hand-made metric or of one of `methods`, or None.
        space: Name of the space that has the hand-made metrics.
        methods: Names of the evaluator's methods, which have no expression.

    Raises:
        ConfigError: Both or neither are given, or what is given is not found.
    """
    if metric is None and baseline is not None and baseline in methods:
        return baseline, None
    return asked_metric(workspace, metric=metric, baseline=baseline, space=space, methods=methods)


def asked_metric(
    workspace: Workspace,
    *,
    metric: str | None,
    baseline: str | None,
    space: str,
    methods: Collection[str],
) -> tuple[str, Expression]:
    """Return what `asked_candidate` does where there must be a formula.

    Raises:
        ConfigError: As there, or what is given is a method.
    """
    if (metric is None) == (baseline is None):
        raise ConfigError(
            "give either --metric 'TEXT' (such as 'abs(W) * x_norm') or --baseline NAME "
            "(see autoproxy list)"
        )
    if baseline is None:
        name, expression, _ = find_metric(workspace, metric or "", space, methods)
        return name, expression
    known = {one.name: one for one in loading.space(space).baselines}
    if baseline not in known:
        _refuse_method(baseline, methods)
        raise ConfigError(unknown_name("baseline", baseline, [*known, *methods]))
    return baseline, canonical(known[baseline].expression)


def _refuse_method(word: str, methods: Collection[str]) -> None:
    """Tell who asks for the formula of a method that there is none."""
    if word in methods:
        raise ConfigError(
            f"{word!r} is a method with an algorithm of its own, so it has no formula; methods "
            "are taken by autoproxy evaluate and prune (--baseline NAME) and rank (--proxy NAME)"
        )


def check_kind(name: str, expression: Expression, wanted: Kind) -> None:
    """See that a metric is of the kind that pruning needs.

    Args:
        name: Of the metric, for the message.
        expression: The metric.
        wanted: As `root_of` of the evaluator says.

    Raises:
        ConfigError: It is of another; the message says how to get there.
    """
    kind = kind_of(expression)
    if kind is not wanted:
        told = name if name == str(expression) else f"{name} ({expression})"
        raise ConfigError(
            f"{told} is of kind {kind.value}, but pruning needs {_NEEDS[wanted]}, for example"
        )


_NEEDS = {
    Kind.WEIGHT: "a value for each weight, of kind Weight; multiply by abs(W)",
    Kind.PER_INPUT: "a value for each input, of kind PerInput; take col_sum(...) of it",
    Kind.PER_OUTPUT: "a value for each output, of kind PerOutput; take row_sum(...) of it",
    Kind.SCALAR: "one value for each matrix, of kind Scalar; take all_mean(...) of it",
}


def explain_metric(workspace: Workspace, word: str, space: str | None) -> dict[str, Any]:
    """Return what a metric is: forms, kinds, inputs, and what it orders like.

    Args:
        workspace: Where runs lie.
        word: As `find_metric` takes it.
        space: Name of the space whose hand-made metrics it is compared with; None for those of
            all spaces.
    """
    name, expression, sheet = find_metric(workspace, word, space)
    kind = kind_of(expression)
    comparable = [one for one in _handmade(space) if kind_of(one.expression) is kind]
    order = _order_of_networks if kind is Kind.MODEL else _order_of_weights
    return {
        "name": name,
        "text": str(expression),
        "formula": to_infix(expression),
        "latex": to_latex(expression),
        "key": key(expression),
        "kind": kind.value,
        "nonnegative": nonnegative(expression),
        "size": expression.size,
        "depth": expression.depth,
        "complexity": complexity(expression),
        "simplified": str(simplify(expression)),
        **order(expression, comparable),
        "inputs": [
            {
                "name": terminal.name,
                "kind": terminal.kind.value,
                "unit": terminal.unit,
                "meaning": terminal.meaning,
            }
            for terminal in VOCABULARY.values()
            if terminal.name in expression.terminals()
        ],
        **sheet,
    }


def _order_of_weights(expression: Expression, baselines: Iterable[Baseline]) -> dict[str, Any]:
    """Return what an importance orders like: within a row, and within a matrix."""
    order = _row_order(expression)
    same = [one.name for one in baselines if _row_order(one.expression) == order]
    return {
        "orders_like": {
            "row": str(ordering(expression, Blindness.ROW)),
            "matrix": str(ordering(expression, Blindness.MATRIX)),
        },
        "same_row_order_as": list(dict.fromkeys(same)),
    }


def _order_of_networks(expression: Expression, baselines: Iterable[Baseline]) -> dict[str, Any]:
    """Return what a prediction orders networks like, and what it takes of each layer."""
    order = ordering(expression, Blindness.WHOLE)
    same = [one.name for one in baselines if ordering(one.expression, Blindness.WHOLE) == order]
    return {
        "orders_like": {"networks": str(order)},
        "same_network_order_as": list(dict.fromkeys(same)),
        "per_layer": [to_infix(feature) for feature in features(expression)],
    }


def oriented(sign: float) -> str:
    """Return what a data sheet says of the sign of a prediction."""
    return "larger is better" if sign > 0 else "smaller is better"


def export_metric(
    workspace: Workspace, word: str | None, *, form: str, name: str | None, space: str | None
) -> str:
    """Return a metric in one of `FORMS`, as text.

    Raises:
        ConfigError: The form or the metric is unknown, or `name` cannot name a function.
    """
    if form not in FORMS:
        raise ConfigError(unknown_name("form", form, FORMS))
    word = workspace.existing_run(None) if word is None else word
    found, expression, sheet = find_metric(workspace, word, space)
    match form:
        case "py":
            return _python(expression, name, found, sheet)
        case "sympy":
            return str(to_sympy(expression))
        case "latex":
            return to_latex(expression)
        case "infix":
            return to_infix(expression)
        case "best-tree":
            return write_best_tree(expression)
    return json.dumps(to_json(expression, sheet), indent=2)


def write_metric(
    workspace: Workspace, run: str, winner: Individual, summary: Mapping[str, Any]
) -> None:
    """Write the winner of a run as `metrics/<run>.py` and `.json`."""
    sheet = _sheet(run, summary)
    name = identifier(run)
    source = _python(winner.expression, None, run, sheet)
    write_text(workspace.metrics / f"{name}.py", source)
    write_json(workspace.metrics / f"{name}.json", to_json(winner.expression, sheet))


def _python(expression: Expression, name: str | None, found: str, sheet: Mapping[str, str]) -> str:
    """Return a metric as a Python function called `name`, or what its own name, `found`, allows."""
    own = identifier(found)
    if kind_of(expression) is not Kind.MODEL:
        return python_source(expression, name=name or own, data_sheet=sheet)
    keeper: loading.Collector = loading.able(
        COLLECTOR, "collector_source", "has no collector that exports could carry"
    )
    collector = keeper.collector_source(expression.terminals())
    if own in taken_names(collector):
        own = f"{own}_proxy"
    return proxy_source(expression, name=name or own, data_sheet=sheet, collector=collector)


def identifier(name: str) -> str:
    """Return `name` as the name of a Python function, which hides none of Python's own.

    >>> identifier("importance-starter-50-s0.2"), identifier("lambda"), identifier("max")
    ('importance_starter_50_s0_2', 'lambda_metric', 'max_metric')
    """
    words = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower()
    words = words if words[:1].isalpha() else f"metric_{words}"
    own = keyword.iskeyword(words) or words in {*dir(builtins), "torch"}
    return f"{words}_metric" if own else words


def _row_order(expression: Expression) -> Expression:
    """Return what a formula orders rows like, by algebra.

    Simplification drops functions that rise to a bound, too, behind which different numbers are
    one in floats: a formula that lost one is compared as it is.
    """
    short = simplest(expression, Blindness.ROW, kind_of(expression))
    lost = {node.head for node in expression.walk()} - {node.head for node in short.walk()}
    return ordering(expression if lost & SATURATING else short, Blindness.ROW)


def _of_run(workspace: Workspace, run: str) -> tuple[str, Expression, dict[str, str]]:
    summary = read_summary(workspace, run)
    try:
        return run, parse(summary["winner"]["text"]), _sheet(run, summary)
    except (KeyError, TypeError) as error:
        path = workspace.run_folder(run) / SUMMARY
        raise ConfigError(f"{path} cannot be read: {error}") from None


def _of_file(path: Path) -> tuple[str, Expression, dict[str, str]]:
    content = read_json(path)
    if is_tree(content):
        return path.stem, canonical(from_tree(content, f"the root of {path}")), {"source": _FOREIGN}
    expression, sheet = from_json(content)
    return path.stem, expression, dict(sheet)


_FOREIGN = "a tree in Pruner-Zero's format"


def _sheet(run: str, summary: Mapping[str, Any]) -> dict[str, str]:
    """Return the data sheet of a run's winner: where it came from and what it was worth."""
    protocol = summary["protocol"]
    words = ("model", "condition", "group", "calibration", "validation")
    sheet = {"source run": run}
    sheet |= {word: str(protocol[word]) for word in words if word in protocol}
    if protocol.get("evaluator") == COLLECTOR:
        return sheet | _prediction_sheet(protocol, summary)
    sheet["model_hash"] = str(protocol.get("model_hash", ""))
    return sheet | _value(summary)


def _prediction_sheet(protocol: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, str]:
    """Return what a prediction's data sheet says besides: on what it was made, and its sign."""
    words = ("table", "quality", "text", "sequences", "tokens", "rows", "draw", "control", "split")
    sheet = {word: str(protocol[word]) for word in words if protocol.get(word) is not None}
    sign = summary["winner"].get("details", {}).get("orientation")
    if sign is not None:
        sheet[ORIENTATION] = oriented(sign)
    return sheet | _value(summary)


def _value(summary: Mapping[str, Any]) -> dict[str, str]:
    objective = summary["objective"]
    value = f"{summary['winner']['value']:.6g} {objective['unit']} ({objective['name']})"
    return {"value": value}
