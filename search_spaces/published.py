"""What published searches have in common: one offspring at a time, and nothing of ours besides."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

STEADY_STATE: Mapping[str, Any] = MappingProxyType(
    {
        "batch": 1,
        "selection": "best",
        "immigrants": 0.0,
        "tries": 1,
        "islands": 1,
        "lag": 0,
        "lifespan": 0,
        "tune": 0.0,
        "fit": 0.0,
        "reject": 0.0,
        "promote": 1.0,
        "race": False,
        "finalists": 1,  # the best on what the search saw is the result
        "seeds": False,
    }
)
"""Options of a search that breeds one by one into the best, all improvements switched off."""
