"""A run logged through somebody else's tool, such as TensorBoard."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoproxy.commands.progress import Progress
from autoproxy.commands.session import Session
from autoproxy.errors import ConfigError, StorageError, unknown_name

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

KINDS = ("tensorboard",)
"""Where a run can be logged."""


@contextlib.contextmanager
def tracked(session: Session, track: str | None) -> Iterator[Session]:
    """Return the session, which also logs what it tells its view.

    Args:
        session: A new run, or one that goes on.
        track: `tensorboard:FOLDER`, where the run gets a folder of its name; None logs nothing.

    Raises:
        ConfigError: An unknown kind, no folder, or the tool is not installed.
    """
    if track is None:
        yield session
        return
    kind, _, folder = track.partition(":")
    if kind not in KINDS:
        raise ConfigError(f"--track takes tensorboard:FOLDER; {unknown_name('kind', kind, KINDS)}")
    if not folder:
        raise ConfigError(f"--track {track} names no folder; write tensorboard:FOLDER")
    log = TensorBoard(Path(folder), session.plan.tables())

    def show(at: Progress) -> None:
        session.show(at)
        log(at)

    try:
        yield replace(session, show=show)
    finally:
        log.close()


class TensorBoard:
    """Logs a run by the evaluations that it spent, one point a whole evaluation at most.

    Random search beside it is a run of its own. A run that goes on takes the place of what was
    logged after the point where it goes on.

    Args:
        folder: With a folder for each run.
        tables: All that was asked, which becomes the hyperparameters.

    Raises:
        ConfigError: TensorBoard is not installed.
        StorageError: The folder cannot be made.
    """

    def __init__(self, folder: Path, tables: dict[str, dict[str, Any]]) -> None:
        try:
            import tensorboard  # noqa: F401, PLC0415 - optional
        except ImportError:
            raise ConfigError(
                "--track tensorboard needs TensorBoard, which is not installed; "
                "pip install 'autoproxy[tensorboard]'"
            ) from None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise StorageError(
                f"--track tensorboard:{folder} cannot be written: {error.strerror or error}; "
                "choose another folder"
            ) from None
        self._folder = folder
        self._asked = {
            f"{table}/{name}": value if isinstance(value, bool | int | float | str) else str(value)
            for table, options in tables.items()
            for name, value in options.items()
        }
        self._writer: SummaryWriter | None = None
        self._stage = ""
        self._step = -1
        self._formula = ""

    def __call__(self, at: Progress) -> None:
        """Log where a search stands; other stages have nothing to log."""
        if not at.run:
            return
        if self._writer is None or at.stage != self._stage:
            self._begin(at)
        step = int(at.done)
        if self._writer is None or step <= self._step:
            return
        self._step = step
        scalars = {"best": at.best and at.best[1], "new": at.new, "seconds": at.seconds}
        scalars |= {f"funnel/{name}": float(count) for name, count in at.funnel.items()}
        for name, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)
        if at.best and at.best[0] != self._formula:
            self._formula = at.best[0]
            self._writer.add_text("formula", f"`{self._formula}`", step)

    def _begin(self, at: Progress) -> None:
        """Open the log of a stage, less what an earlier process wrote of it beyond this point."""
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - takes seconds

        self.close()
        name = at.run if at.stage == "search" else f"{at.run}.{at.stage.split()[0]}"
        self._writer = SummaryWriter(str(self._folder / name), purge_step=int(at.before))
        self._writer.add_hparams(self._asked, {}, run_name=".")
        self._stage, self._step, self._formula = at.stage, -1, ""

    def close(self) -> None:
        """Write what is held back."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
