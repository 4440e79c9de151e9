"""Protocols of the literature: named options under which published numbers can be repeated."""

from collections.abc import Mapping
from typing import Any

C4 = ("hub:allenai/c4:en/c4-train.00000-of-01024.json.gz:train",)
_WIKITEXT = "hub:Salesforce/wikitext:wikitext-2-raw-v1"
_OF_WIKITEXT: Mapping[str, Any] = {
    "validation": (f"{_WIKITEXT}:validation",),
    "text": (f"{_WIKITEXT}:test",),
    "text_join": "newlines",
    "text_blocks": "all",
    "special_tokens": True,
    "dtype": "float16",
}
_WANDA: Mapping[str, Any] = {
    **_OF_WIKITEXT,
    "calibration": C4,
    "calibration_join": "paragraphs",  # documents are drawn one by one: nothing is joined
    "calibration_blocks": 128,
    "windows": "documents",
    "group": "row",
    "mode": "sequential",
    "length": 2048,
}

PROTOCOLS: Mapping[str, Mapping[str, Any]] = {
    "wanda-2048": _WANDA,
    "wanda-4096": {**_WANDA, "length": 4096},
    "gblm": _WANDA,
    "ria": {**_WANDA, "group": "matrix"},
    "pruner-zero": {
        **_WANDA,
        "calibration": (f"{_WIKITEXT}:train",),
        "calibration_join": "spaces",
        "windows": "anywhere",
    },
}
"""Options of the pruning evaluator, by the name of the protocol; what is said besides overrides.

The validation text, which no published protocol has, is this project's choice. docs/protocols.md
has the sources, the anchors, and what each leaves to the caller.
"""
