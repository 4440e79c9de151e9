"""What a command of the command line said, and whether it refused as it should."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Said:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Said]
"""Calls the command line in this process: the fixture `run`."""


def refused(said: Said, *words: str) -> None:
    """See that a command refused with exactly one message that has these words."""
    assert said.code == 2, said.err
    assert said.out == ""
    assert "Traceback" not in said.err
    messages = re.findall(r"^(?:autoproxy|Error): ", said.err, flags=re.MULTILINE)
    assert len(messages) == 1, said.err
    flat = " ".join(said.err.split())
    for word in words:
        assert word in flat, said.err
