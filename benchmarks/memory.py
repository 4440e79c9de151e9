"""What a process holds in memory by itself, read from /proc."""

from pathlib import Path


def anonymous(process: int | str = "self") -> float:
    """Return the anonymous memory of a process in MiB: files mapped into it are not part of it.

    Args:
        process: Its number; by default this one. 0 is returned of one that has ended.
    """
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))
