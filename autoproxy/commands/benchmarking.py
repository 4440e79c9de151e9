"""Tables of networks whose quality is known: which there are, fetching and building them."""

from collections.abc import Mapping
from typing import Any

from autoproxy.commands import loading
from autoproxy.commands.progress import Clock, Progress, Show
from autoproxy.commands.workspace import Workspace


def list_benchmarks(workspace: Workspace, evaluator: str) -> dict[str, Any]:
    """Return `benchmarks`: one mapping each with `name`, `state`, `table`, `networks`, `quality`.

    A state is `shipped`, `fetched`, `built`, `absent`, or `unusable` with a `reason`.

    Raises:
        ConfigError: The evaluator has no benchmarks.
    """
    return {"benchmarks": list(_keeper(evaluator).listed(workspace.benchmarks))}


def get_benchmark(
    workspace: Workspace, evaluator: str, name: str, *, url: str | None, sha256: str | None
) -> dict[str, Any]:
    """Fetch a public table into the workspace; return its row of `list_benchmarks`.

    Raises:
        ConfigError: It cannot be fetched, or is not what it should be; the message says why.
    """
    return dict(_keeper(evaluator).get(name, workspace.benchmarks, url=url, sha256=sha256))


def build_benchmark(
    workspace: Workspace, evaluator: str, name: str, options: Mapping[str, Any], show: Show
) -> dict[str, Any]:
    """Build a table, or go on with it; return its row of `list_benchmarks`, and `total`.

    Raises:
        ConfigError: It cannot be built so; the message says what can.
    """
    clock = Clock()

    def tell(done: int, total: int) -> None:
        show(Progress("networks", done, total, clock.seconds))

    return dict(_keeper(evaluator).build(name, options, workspace.benchmarks, tell=tell))


def _keeper(evaluator: str) -> loading.BenchmarkKeeper:
    kind = loading.able(evaluator, "benchmarks", "has no benchmarks")
    keeper: loading.BenchmarkKeeper = kind.benchmarks
    return keeper
