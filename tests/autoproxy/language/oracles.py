"""What the words of predictions compute, with numpy and scipy in float64, from the formulas."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
import scipy.stats
from numpy.typing import NDArray

Array = NDArray[np.float64]


def matrix(a: Array) -> Array:
    return np.concatenate([a]) if a.ndim == 2 else np.concatenate(list(a))


def singular(a: Array) -> Array:
    values: Array = scipy.linalg.svdvals(matrix(a))
    return values


def entropy(a: Array) -> float:
    sizes = np.abs(a).ravel()
    return float(scipy.stats.entropy(sizes)) if sizes.any() else 0.0


def erank(a: Array) -> float:
    values = singular(a)
    return float(np.exp(scipy.stats.entropy(values))) if values.any() else 1.0


def logdet(a: Array) -> float:
    lying = matrix(a) if matrix(a).shape[0] <= matrix(a).shape[1] else matrix(a).T
    gram = lying @ lying.T / lying.shape[1] + 1e-6 * np.eye(lying.shape[0])
    return float(np.linalg.slogdet(gram)[1])


def correlation(a: Array, b: Array) -> float:
    left, right = (side.ravel() for side in np.broadcast_arrays(a, b))
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return 0.0
    return float(scipy.stats.pearsonr(left, right).statistic)


def key_entropy(a: Array) -> Array:
    made = np.zeros((*a.shape[:-1], 1))
    for place in np.ndindex(*a.shape):
        made[*place[:-1], 0] -= a[place] * np.log(max(abs(a[place]), 1e-30))
    return made


def logsum(a: Array) -> float:
    return sum(float(np.log(max(abs(value), 1e-30))) for value in a.ravel())


def tokens(of: Callable[[Array], Any]) -> Callable[[Array], Array]:
    """Return what gives one number for each feature, of all its sequences and tokens."""
    return lambda a: np.array([[of(a[:, :, j].ravel()) for j in range(a.shape[2])]])


def outputs(of: Callable[[Array], Any]) -> Callable[[Array], Array]:
    return lambda a: tokens(of)(a).T


def norm(values: Array) -> float:
    return float(np.sqrt(np.sum(values**2)))


ORACLES: dict[str, Callable[..., Any]] = {
    "entropy": entropy,
    "nuclear": lambda a: singular(a).sum(),
    "spectral": lambda a: singular(a).max(),
    "erank": erank,
    "logdet": logdet,
    "correlation": correlation,
    "token_max": lambda a: np.stack([s.max(axis=0, keepdims=True) for s in a]),
    "token_mean": lambda a: np.stack([s.sum(axis=0, keepdims=True) / len(s) for s in a]),
    "head_max": lambda a: np.stack([s.max(axis=0, keepdims=True) for s in a]),
    "head_mean": lambda a: np.stack([s.sum(axis=0, keepdims=True) / len(s) for s in a]),
    "key_max": lambda a: np.max(a, axis=3)[..., None],
    "key_entropy": key_entropy,
    "tokens_norm": tokens(norm),
    "tokens_mean": tokens(np.mean),
    "tokens_std": tokens(np.std),
    "outputs_norm": outputs(norm),
    "outputs_mean": outputs(np.mean),
    "outputs_std": outputs(np.std),
    "layers_sum": np.sum,
    "layers_mean": np.mean,
    "layers_max": np.max,
    "layers_min": np.min,
    "layers_std": np.std,
    "layers_logsum": logsum,
    "layers_first": lambda a: a.ravel()[0],
    "layers_last": lambda a: a.ravel()[-1],
}
"""Word to its value: of arrays, an array or a number."""
