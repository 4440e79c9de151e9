"""Interruptions that wait until what must not be torn is whole."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals by which people and systems end a process."""


class Uninterrupted:
    """A block that signals do not interrupt: they are delivered right after it.

    Python runs the handler of a signal between any two instructions of the main thread, and there
    the handler raises KeyboardInterrupt: also when the last statement of a transaction is done and
    its `with` is not yet told, or in the midst of the library's own commit. Then nobody commits or
    rolls back, and the write lock stays for as long as the traceback holds those frames; or the
    library trips over itself, and another error takes the place of the interruption; or it comes
    while something is freed, where Python drops all errors. No `try` covers all of these places,
    so in such a block no handler runs.

    What the system handles, or nobody, does not wait: a process that is ended at once leaves no
    transaction behind. The same signal a second time does not wait either, so that nobody is held
    by a block that hangs. Threads besides the main one are never interrupted. Blocks may be nested.
    It is a class, since a generator would be interrupted before it has begun and after its end.

    >>> try:
    ...     with Uninterrupted():
    ...         signal.raise_signal(signal.SIGINT)
    ...         print("whole")
    ... except KeyboardInterrupt:
    ...     print("interrupted")
    whole
    interrupted
    """

    def __init__(self) -> None:
        self._holding = False
        self._before: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._heard: dict[int, FrameType | None] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in INTERRUPTIONS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._before[number] = handler
                    signal.signal(number, self._hear)
        self._holding = True  # last: an interruption up to here leaves a handler that passes it on
        return self

    def __exit__(self, *_: object) -> None:
        self._holding = False  # first, for the same reason
        for number, handler in self._before.items():
            signal.signal(number, handler)
        heard, self._heard = self._heard, {}
        for number, frame in heard.items():
            self._before[number](number, frame)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._holding and number not in self._heard:
            self._heard[number] = frame
        else:
            self._before[number](number, frame)
