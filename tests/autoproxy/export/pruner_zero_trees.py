"""Pruner-Zero's trees as its files have them, and their values from the formulas, with numpy."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

Array = NDArray[np.float64]
Tree = dict[str, Any]

PUBLISHED = """{
    "data": "mul",
    "left": {
        "data": "abs",
        "left": {
            "data": "mul",
            "left": {
                "data": "W"
            },
            "right": {
                "data": "W"
            }
        }
    },
    "right": {
        "data": "mms",
        "left": {
            "data": "G"
        }
    }
}"""
"""What its repository ships as data/best_tree.json."""


class NoNumber(Exception):  # noqa: N818 - no error of the product
    """The tree has no value: NaN or infinity in float32."""


def _min_max(x: Array) -> Array:
    return (x - x.min()) / _alive(np.ptp(x))


def _z_score(x: Array) -> Array:
    if x.size < 2:
        raise NoNumber
    return (x - x.mean()) / _alive(np.std(x, ddof=1))


def _exponential(x: Array) -> Array:
    if x.max() > 88.7:
        raise NoNumber
    return np.exp(x)


def _quotient(x: Array, y: Array) -> Array:
    x, y = np.broadcast_arrays(x, y)
    return x / _alive(np.sqrt(np.sum(y * y)))


def _alive(divisor: Any) -> float:
    if not divisor > 1e-15:  # what is below is rounding of what is 0
        raise NoNumber
    return float(divisor)


ONE: Mapping[str, Callable[[Array], Array]] = {
    "sqr": lambda x: x * x,
    "neg": lambda x: -x,
    "abs": np.abs,
    "log": lambda x: np.log(np.abs(x) + 0.001),
    "exp": _exponential,
    "sqrt": lambda x: np.sqrt(np.abs(x)),
    "tanh": np.tanh,
    "pow": lambda x: x**2,
    "skp": lambda x: x,
    "mms": _min_max,
    "zsn": _z_score,
}
TWO: Mapping[str, Callable[[Array, Array], Array]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": _quotient,
}


def value(tree: Tree, given: Mapping[str, Array]) -> Array:
    """Return what a tree is worth: W (d_out, d_in), G the same, X (1, d_in).

    Raises:
        NoNumber: It is not finite somewhere on the way.
    """
    below = [value(tree[side], given) for side in ("left", "right") if side in tree]
    label = tree["data"]
    with np.errstate(all="ignore"):
        if label in given:
            found = given[label]
        elif label in ONE:
            found = ONE[label](*below)
        else:
            found = TWO[label](*below)
    if not (np.abs(found) < 1e30).all():
        raise NoNumber
    return found


def trees(leaves: int = 8) -> st.SearchStrategy[Tree]:
    """Draw trees over all of its words."""
    return st.recursive(
        st.sampled_from(["W", "G", "X"]).map(lambda label: {"data": label}),
        lambda below: st.builds(lambda label, left: {"data": label, "left": left},
                                st.sampled_from(sorted(ONE)), below)
        | st.builds(lambda label, left, right: {"data": label, "left": left, "right": right},
                    st.sampled_from(sorted(TWO)), below, below),
        max_leaves=leaves,
    )  # fmt: skip


def given(seed: int, rows: int = 4, columns: int = 6) -> dict[str, Array]:
    """Return W, G and X as Pruner-Zero's code hands them to a tree."""
    draw = np.random.default_rng(seed)
    return {
        "W": np.abs(draw.standard_normal((rows, columns))),
        "G": 100 * np.abs(draw.standard_normal((rows, columns))) * 1e-3,
        "X": np.square(draw.standard_normal((1, columns))) * 10,
    }
