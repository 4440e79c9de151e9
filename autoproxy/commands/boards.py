"""The leaderboard files, made anew from the ledger."""

import contextlib
from typing import Any

from autoproxy.commands.workspace import Workspace, write_text
from autoproxy.ledger.leaderboard import rank, to_csv, to_markdown
from autoproxy.ledger.ledger import Ledger


def write_leaderboard(workspace: Workspace, ledger: Ledger | None = None) -> dict[str, Any]:
    """Write `leaderboard.md` and `leaderboard.csv`, and return what they hold.

    Args:
        workspace: Where they go.
        ledger: The open ledger, where there is one already.
    """
    workspace.prepare()
    with contextlib.ExitStack() as stack:
        opened = ledger or stack.enter_context(Ledger.open(workspace.ledger))
        groups = rank(opened.reports())
    write_text(workspace.folder / "leaderboard.md", to_markdown(groups))
    write_text(workspace.folder / "leaderboard.csv", to_csv(groups))
    return {
        "groups": [group.to_json() for group in groups],
        "files": [str(workspace.folder / f"leaderboard.{end}") for end in ("md", "csv")],
    }
