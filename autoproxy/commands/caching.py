"""The cache of statistics: what it holds, and making room."""

from typing import Any

from autoproxy.commands import loading
from autoproxy.commands.workspace import Workspace


def tend_cache(
    workspace: Workspace, evaluator: str, *, clear: bool, limit: str | None
) -> dict[str, Any]:
    """Return what the cache holds, after clearing it or shrinking it to a limit where asked.

    Args:
        workspace: Has the cache.
        evaluator: Name of the evaluator whose statistics they are.
        clear: Delete all of them.
        limit: Delete what was not used for longest until no more than this is left, as `5GB`.

    Returns:
        `folder`, `limit` and `bytes` held (numbers), `files` and `deleted` (one mapping each).

    Raises:
        ConfigError: Both are asked, the limit is no size, or the evaluator keeps no statistics.
        StorageError: A file cannot be deleted.
    """
    keeper: loading.CacheKeeper = loading.able(evaluator, "tend_cache", "keeps no statistics")
    return dict(keeper.tend_cache(workspace.cache, clear=clear, limit=limit))
