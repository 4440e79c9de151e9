"""What a picture of a pruned model shows: where weights stay, and where two formulas agree."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluators.masks import count_bits

_IN_LAYER = re.compile(r"^.*?\.(\d+)\.(.+)$")


def kept_rows(
    masks: Mapping[str, NDArray[np.uint8]],
    others: Mapping[str, NDArray[np.uint8]] | None,
    sizes: Mapping[str, int],
) -> list[dict[str, Any]]:
    """Return one row a matrix, in the order of the model.

    Args:
        masks: Packed masks by the names of the matrices, such as `model.layers.0.mlp.up_proj`.
        others: The same of another formula, or None.
        sizes: How many weights, or units, each mask is of.

    Returns:
        `layer` (number of the decoder layer), `module` (name within it), `kept` (share of weights)
        and, with others, `shared`: the share of the kept weights that the others keep, too.

    >>> bits = np.array([0b11110000], dtype=np.uint8)
    >>> name = "model.layers.3.q_proj"
    >>> kept_rows({name: bits}, {name: bits << 1}, {name: 8})
    [{'layer': 3, 'module': 'q_proj', 'kept': 0.5, 'shared': 0.75}]
    """
    rows = []
    for name, bits in masks.items():
        found = _IN_LAYER.match(name)
        layer, module = (int(found[1]), found[2]) if found else (0, name)
        kept = count_bits(bits)
        row: dict[str, Any] = {"layer": layer, "module": module, "kept": kept / sizes[name]}
        if others is not None:
            row["shared"] = count_bits(bits & others[name]) / kept if kept else 1.0
        rows.append(row)
    return rows
