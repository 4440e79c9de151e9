"""Randomness with an owner: named streams under one seed."""

import contextlib
import hashlib
import random
from collections.abc import Iterator

MOST_SEED = 10**15
"""The largest seed: databases, JSON and random generators of every kind have room for it."""


def stream(seed: int, *path: str | int) -> random.Random:
    """Return the generator that belongs to `path` under `seed`.

    Streams do not depend on the order in which they are asked for, so resuming a run or
    adding a consumer changes no other draw.

    >>> stream(0, "mutate", 3).random() == stream(0, "mutate", 3).random()
    True
    >>> stream(0, "mutate", 3).random() == stream(0, "mutate", 4).random()
    False
    """
    digest = hashlib.sha256(repr((seed, *path)).encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))  # noqa: S311 - not for secrets


@contextlib.contextmanager
def lend_to_global(rng: random.Random) -> Iterator[None]:
    """Let code that insists on the `random` module (DEAP) draw from `rng` for a while.

    The module's own state is put back, so no caller outside can tell that it was borrowed.
    """
    outside = random.getstate()
    random.setstate(rng.getstate())
    try:
        yield
    finally:
        rng.setstate(random.getstate())
        random.setstate(outside)
