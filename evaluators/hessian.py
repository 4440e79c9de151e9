"""The layer-wise Hessian H = (2/N) sum x x^T: damping, and what is read off its inverse."""

import torch
from torch import Tensor

from autoproxy.errors import ModelError

DAMPING = 0.01
"""Share of the mean diagonal of H that is added to it before it is inverted."""

SECOND_MOMENTS = frozenset({"h_inv", "u_diag", "moments"})
"""Statistics that need the whole matrix H of a layer while they are measured."""


def damped(hessian: Tensor) -> Tensor:
    """Return H with its diagonal raised, in float64.

    Inputs that are always zero have the damping alone, so that their weights are the first to go;
    where all are, H counts as the identity.

    Rounding H to float32 moves an eigenvalue by at most 6e-8 of the trace, which the damping
    outweighs up to 160,000 inputs: a Cholesky factor always exists.

    Args:
        hessian: (d_in, d_in), symmetric.

    Raises:
        ModelError: An entry is not finite.
    """
    if not torch.isfinite(hessian).all():
        raise ModelError(
            "what flows into a layer is too large for H = (2/N) sum x x^T, as with float16, which "
            "holds no number above 65504; ask for --dtype bfloat16 or float32, or for a metric "
            "without h_inv and u_diag"
        )
    raised = hessian.to(torch.float64, copy=True)
    diagonal = raised.diagonal()
    damping = DAMPING * diagonal.mean()
    diagonal.add_(torch.where(damping > 0, damping, 1.0))
    return raised


def inverse_diagonal(hessian: Tensor) -> Tensor:
    """Return the diagonal of the inverse of the damped H, (d_in,) float64."""
    return torch.cholesky_inverse(torch.linalg.cholesky(damped(hessian))).diagonal()


def upper_factor(hessian: Tensor) -> Tensor:
    """Return the upper triangular U with U^T U = H^-1 of the damped H, (d_in, d_in) float64.

    U_jj^2 is the first entry of the inverse of H for inputs j and later alone.
    """
    root = _root(hessian)
    unit = torch.eye(len(root), dtype=root.dtype, device=root.device)
    factor: Tensor = torch.linalg.solve_triangular(root, unit, upper=True)
    return factor


def upper_diagonal(hessian: Tensor) -> Tensor:
    """Return the diagonal of `upper_factor`, (d_in,) float64, without inverting."""
    return 1.0 / _root(hessian).diagonal()


def _root(hessian: Tensor) -> Tensor:
    """Return the upper triangular R with R R^T = H: then U = R^-1.

    A Cholesky factorisation that begins at the last input; more exact than to invert H first.
    """
    turned: Tensor = torch.linalg.cholesky(damped(hessian).flip(0, 1))
    return turned.flip(0, 1)
