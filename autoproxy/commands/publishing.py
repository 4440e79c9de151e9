"""The report of runs as a static site, and its figures as files for papers."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from autoproxy.commands.boards import leaderboard_groups
from autoproxy.commands.summary import read_summary
from autoproxy.commands.workspace import (
    ARCHIVE,
    RANDOM_ARCHIVE,
    RANDOM_SUFFIX,
    Workspace,
    fresh_folder,
    write_bytes,
    write_text,
)
from autoproxy.errors import ConfigError, unknown_name
from autoproxy.export.manifest import from_json, read_json
from autoproxy.ledger.measured import Archive
from autoproxy.report.charts import Figure
from autoproxy.report.data import Run
from autoproxy.report.figures import figures_of
from autoproxy.report.files import FORMS, picture
from autoproxy.report.results import curves
from autoproxy.report.site import Metric, site

MARK = ".autoproxy-report"
"""A file that a report's folder has, so that a report replaces nothing but a report."""


def report(workspace: Workspace, run: str | None, *, every: bool, out: Path) -> dict[str, Any]:
    """Write the report of one run, or of all that are done, with the leaderboard.

    Args:
        workspace: With the runs.
        run: Name; None for the latest that is done.
        every: All of them, instead of one.
        out: Folder; new, empty, or an earlier report, which is replaced.

    Raises:
        ConfigError: There is no such run, it is not done, or `out` is something else.
        StorageError: `out` cannot be written.
    """
    names = _chosen(workspace, run, every=every)
    runs = [read_run(workspace, name) for name in workspace.done()]
    pages = site(
        [found for found in runs if found.name in names],
        leaderboard_groups(workspace),
        _metrics(workspace),
        beside=runs,
        version=version("autoproxy"),
    )
    with fresh_folder(out, mark=MARK) as folder:
        for name, text in pages.items():
            write_text(folder / name, text, instead="another --out")
        told = "made by autoproxy report; it may be replaced\n"
        write_text(folder / MARK, told, instead="another --out")
    return {
        "runs": names,
        "pages": sorted(n for n in pages if n.endswith(".html")),
        "out": str(out),
    }


def plot(
    workspace: Workspace, run: str | None, *, figures: Sequence[str], form: str, out: Path
) -> dict[str, Any]:
    """Write figures of a run, and of the leaderboard, as files.

    Args:
        workspace: With the run.
        run: Name; None for the latest that is done.
        figures: Names of figures; none for all that the run has.
        form: One of `FORMS`.
        out: Folder; made where it is not there.

    Raises:
        ConfigError: The run, a figure or the form is unknown, or the run is not done.
        StorageError: `out` cannot be written.
    """
    if form not in FORMS:
        raise ConfigError(unknown_name("form", form, FORMS))
    (name,) = _chosen(workspace, run, every=False)
    runs = [read_run(workspace, one) for one in workspace.done()]
    (found,) = (one for one in runs if one.name == name)
    known = {figure.name: figure for figure in _all_figures(workspace, found, runs)}
    for word in figures:
        if word not in known:
            raise ConfigError(f"run {name!r}: {unknown_name('figure', word, known)}")
    written = []
    for figure in [known[word] for word in figures] or known.values():
        path = out / f"{name}-{figure.name}.{form}"
        write_bytes(path, picture(figure, form), instead="another --out")
        written.append(str(path))
    return {"run": name, "figures": list(figures or known), "files": written}


def _all_figures(workspace: Workspace, run: Run, runs: Sequence[Run]) -> list[Figure]:
    return [*figures_of(run, runs), *curves(leaderboard_groups(workspace))]


def read_run(workspace: Workspace, name: str) -> Run:
    """Return a run that is done, as its folder holds it.

    Raises:
        ConfigError: A file of it cannot be read.
    """
    folder = workspace.run_folder(name)
    manifest = read_json(folder / "manifest.json")
    return Run(
        name,
        read_summary(workspace, name),
        manifest if isinstance(manifest, dict) else {},
        _archive(folder / ARCHIVE, name),
        _archive(folder / RANDOM_ARCHIVE, name + RANDOM_SUFFIX),
    )


def _archive(path: Path, name: str) -> Archive:
    """Return an archive; runs from before archives were kept have none."""
    if not path.is_file():
        return Archive(())
    return Archive.from_csv(path.read_text(encoding="utf-8"), name)


def _chosen(workspace: Workspace, run: str | None, *, every: bool) -> list[str]:
    """Return the names of the runs that were asked for."""
    if run is not None and every:
        raise ConfigError("give either the name of a run or --all, not both")
    done = workspace.done()
    if every:
        return list(done)
    name = workspace.existing_run(run or (done[-1] if done else None))
    if name not in done:
        raise ConfigError(
            f"run {name!r} is not done; go on with it: autoproxy resume {name}; or look at it as "
            f"it is: autoproxy watch {name}"
        )
    return [name]


def _metrics(workspace: Workspace) -> list[Metric]:
    """Return the exported metrics, by name.

    Raises:
        ConfigError: A file beside them is none; the message has its name.
    """
    found = []
    for path in sorted(workspace.metrics.glob("*.json")):
        source = path.with_suffix(".py")
        code = source.read_text(encoding="utf-8") if source.is_file() else ""
        try:
            expression, sheet = from_json(read_json(path))
        except ConfigError as error:
            told = str(error).removeprefix(f"{path} ")
            raise ConfigError(f"{path}: {told}; or move it elsewhere") from None
        found.append(Metric(path.stem, str(expression), sheet, code))
    return found
