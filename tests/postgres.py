"""A PostgreSQL server of the tests' own, in a temporary folder: stopped and started at will."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

PROGRAMS = ("initdb", "postgres", "pg_ctl")


def program(name: str) -> str | None:
    """Return where a program of PostgreSQL is; Debian keeps most of them out of PATH."""
    beside = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(beside[-1]) if beside else shutil.which(name)


def account() -> str | None:
    """Return who runs the server: PostgreSQL refuses to be root. None: whoever runs the tests."""
    if os.geteuid():
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    found = [name for name in ("postgres", "nobody") if name in known]
    if not found:
        pytest.skip("PostgreSQL refuses to run as root, and there is no other account")
    return found[0]


class Server:
    """A server that listens on a socket in its folder alone.

    Attributes:
        url: Of its database.
    """

    def __init__(self) -> None:
        if any(program(name) is None for name in PROGRAMS):
            pytest.skip("PostgreSQL is not installed: there is no initdb")
        pytest.importorskip("psycopg")
        self.folder = Path(tempfile.mkdtemp(prefix="pg"))  # its path must be short
        self._user = account()
        if self._user:
            shutil.chown(self.folder, self._user)
        self._call("initdb", "-U", "me", "-A", "trust", "--no-sync", "-E", "UTF8")
        self.url = f"postgresql://me@/postgres?host={self.folder}"
        self.start()

    def _call(self, name: str, *words: str) -> None:
        command = [str(program(name)), "-D", str(self.folder / "data"), *words]
        subprocess.run(
            command,
            user=self._user,
            cwd=self.folder,
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=60,
        )

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-k {self.folder} -c listen_addresses= -c fsync=off"
        log = str(self.folder / "log")
        self._call("pg_ctl", "start", "-w", "-s", "-l", log, "-o", options)

    def stop(self) -> None:
        """End it at once, as a crash does."""
        self._call("pg_ctl", "stop", "-w", "-s", "-m", "immediate")

    def remove(self) -> None:
        """End it, and leave nothing."""
        self.stop()
        shutil.rmtree(self.folder)
