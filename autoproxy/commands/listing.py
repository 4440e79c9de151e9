"""What there is to choose from: spaces, evaluators, words, hand-made metrics, methods, runs."""

from typing import Any

from autoproxy import plugins
from autoproxy.commands import loading
from autoproxy.commands.workspace import Workspace
from autoproxy.language.catalog import CATALOG
from autoproxy.language.terminals import VOCABULARY


def listing(workspace: Workspace, space: str) -> dict[str, Any]:
    """Return the names of plug-ins and runs, the words of one space, and every method.

    Raises:
        ConfigError: There is no such space.
    """
    asked = loading.space(space)
    return {
        "spaces": list(plugins.names("space")),
        "evaluators": list(plugins.names("evaluator")),
        "space": asked.name,
        "root": asked.root.value,
        "terminals": [
            {
                "name": terminal.name,
                "kind": terminal.kind.value,
                "unit": terminal.unit,
                "meaning": terminal.meaning,
                "in_space": terminal.name in asked.terminals,
            }
            for terminal in VOCABULARY.values()
        ],
        "primitives": [
            {
                "name": primitive.name,
                "operands": primitive.arity,
                "cost": primitive.cost,
                "meaning": (primitive.tensor.__doc__ or "").strip().removeprefix("Return "),
                "in_space": primitive.name in asked.primitives,
            }
            for primitive in CATALOG.values()
        ],
        "baselines": [
            {"name": b.name, "text": b.text, "source": b.source} for b in asked.baselines
        ],
        "methods": [
            {"name": name, "evaluator": evaluator, "source": source}
            for evaluator, methods in loading.every_method().items()
            for name, source in methods.items()
        ],
        "runs": list(workspace.runs()),
    }
