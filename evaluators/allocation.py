"""Layer-wise allocation: how much of each decoder layer is dropped, when not the same of all."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import optuna
import torch
from torch import Tensor

from autoproxy.errors import ConfigError, unknown_name

ALLOCATIONS = ("uniform", "owl", "alpha", "metric")
"""Beside the path of a .json file that `autoproxy allocate` wrote."""

FORMAT = {"format": "autoproxy-allocation", "version": 1}

OWL_OUTLIER = 5.0
"""How many times the mean an importance of Wanda's must be to count as an outlier (OWL's M)."""

OWL_SPREAD = 0.08
"""How far the sparsity of a decoder layer may be from the mean (OWL's lambda)."""

ALPHA_SPREAD = 0.3
"""How far the ratios of decoder layers may be from 1 (AlphaPruning's epsilon)."""

REACH = 0.2
"""How far the tuned sparsity of a decoder layer may be from the mean, before balancing."""

MOST = Fraction(99, 100)
"""Most that is dropped of a decoder layer: one without weights would cut the model in two."""


def check_allocation(allocation: str) -> str:
    """Return `allocation`, or raise a ConfigError that names the nearest."""
    if allocation not in ALLOCATIONS and not allocation.endswith(".json"):
        raise ConfigError(unknown_name("allocation", allocation, (*ALLOCATIONS, "FILE.json")))
    return allocation


def owl(outliers: Sequence[float], sizes: Sequence[int], sparsity: Fraction) -> list[Fraction]:
    """Return the sparsity of each decoder layer by its share of outliers (OWL, arXiv:2310.05175).

    The paper's decoder layers are of one size; where they are not, all move by the same amount.

    Args:
        outliers: Share of each decoder layer's weights whose importance by Wanda is an outlier.
        sizes: Weights of each.
        sparsity: Mean of what is returned, over weights.

    >>> [float(s) for s in owl([0.0, 1.0, 0.5], [9, 9, 9], Fraction(1, 2))]
    [0.58, 0.42, 0.5]
    """
    low, high = min(outliers), max(outliers)
    if high == low:
        return [sparsity] * len(outliers)
    more = [2 * OWL_SPREAD * (share - low) / (high - low) for share in outliers]
    mean = sum(more) / len(more)
    return balanced([float(sparsity) - kept + mean for kept in more], sizes, sparsity)


def outlier_share(importances: Sequence[Tensor]) -> float:
    """Return the share of a decoder layer's importances that exceed `OWL_OUTLIER` times the mean.

    >>> outlier_share([torch.ones(1, 9), torch.full((1, 1), 91.0)])
    0.1
    """
    count = sum(values.numel() for values in importances)
    mean = sum(float(values.double().sum()) for values in importances) / count
    return sum(int((values > OWL_OUTLIER * mean).sum()) for values in importances) / count


def alpha_pruning(
    alphas: Sequence[float], sizes: Sequence[int], sparsity: Fraction
) -> list[Fraction]:
    """Return the sparsity of each decoder layer by how heavy its spectrum's tail is.

    Lighter tails (a larger alpha) are less trained and lose more (AlphaPruning, arXiv:2410.10912).

    Args:
        alphas: Mean exponent of each decoder layer's matrices; see `tail_exponent`.
        sizes: Weights of each.
        sparsity: Mean of what is returned, over weights.
    """
    low, high = min(alphas), max(alphas)
    if high == low:
        return [sparsity] * len(alphas)
    ratios = [1 - ALPHA_SPREAD + 2 * ALPHA_SPREAD * (a - low) / (high - low) for a in alphas]
    scale = float(sparsity) * sum(sizes) / sum(r * n for r, n in zip(ratios, sizes, strict=True))
    return balanced([scale * ratio for ratio in ratios], sizes, sparsity)


def tail_exponent(weight: Tensor) -> float:
    """Return the exponent of the power law that the eigenvalues of W^T W end in.

    Hill's estimator 1 + n / (sum log l - n log l_min) over the eigenvalues above l_min; of the
    l_min near the peak of their histogram (100 bins of log l), the one whose law fits best in
    Kolmogorov and Smirnov's distance.

    Args:
        weight: (d_out, d_in).
    """
    values = torch.linalg.svdvals(weight.double()).square().sort().values
    values = values[values > 1e-12 * values[-1]]
    logs = values.log()
    counts = torch.histc(logs.float(), bins=100).double()
    width = float(logs[-1] - logs[0]) / 100
    peak = float(logs[0]) + width * int(counts.argmax())
    near = (values >= 0.95 * torch.e**peak) & (values <= 1.5 * torch.e**peak)
    starts = [i for i in near.nonzero().flatten().tolist() if len(values) - i >= 2]
    fits = [_fit(values[i:], logs[i:]) for i in starts or [0]]
    return min(fits)[1]


def _fit(values: Tensor, logs: Tensor) -> tuple[float, float]:
    """Return the distance of a power law to ascending eigenvalues, and its exponent."""
    n = len(values)
    exponent = 1 + n / max(float((logs - logs[0]).sum()), 1e-12)
    fitted = 1 - (values / values[0]).pow(1 - exponent)
    seen = torch.arange(n, dtype=torch.float64, device=values.device) / n
    return float((fitted - seen).abs().max()), exponent


def balanced(wanted: Sequence[float], sizes: Sequence[int], sparsity: Fraction) -> list[Fraction]:
    """Return sparsities in [0, MOST] as near to what is wanted as the mean over weights allows.

    All are moved by one and the same amount; what would leave the range stays at its end.

    Args:
        wanted: Of each decoder layer.
        sizes: Weights of each.
        sparsity: The mean, over weights.

    >>> [float(s) for s in balanced([0.25, 0.75], [1, 1], Fraction(3, 4))]
    [0.51, 0.99]
    """
    low, high = -1.0 - max(wanted), 1.0 - min(wanted)
    for _ in range(60):  # bisection on the amount
        middle = (low + high) / 2
        mean = sum(_clipped(w + middle) * n for w, n in zip(wanted, sizes, strict=True))
        low, high = (middle, high) if mean < float(sparsity) * sum(sizes) else (low, middle)
    return [Fraction(round(_clipped(w + high), 9)).limit_denominator(10**9) for w in wanted]


@dataclass(frozen=True, slots=True)
class Share:
    """What is to be given out.

    Attributes:
        sizes: Weights of each decoder layer.
        sparsity: The mean, over weights.
    """

    sizes: Sequence[int]
    sparsity: Fraction

    def moved(self, moves: Sequence[float]) -> list[Fraction]:
        """Return the sparsities that moves from the mean give, balanced."""
        return balanced([float(self.sparsity) + move for move in moves], self.sizes, self.sparsity)


def tuned(
    divergence: Callable[[Sequence[Fraction]], float],
    share: Share,
    *,
    start: Sequence[Fraction],
    trials: int,
    seed: int,
    tell: Callable[[int, float], None],
) -> tuple[list[Fraction], float, float]:
    """Return the best sparsities of decoder layers that Optuna finds, their value, and uniform's.

    Optuna's tree of Parzen estimators moves each layer by up to `REACH` from the mean; all are
    then balanced to keep it.

    Args:
        divergence: What sparsities cost; small is good.
        share: What is given out.
        start: An allocation to try early.
        trials: How many are tried, at least 2.
        seed: Of the sampler.
        tell: Told after each trial how many are done and the best value so far.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = [str(number) for number in range(len(share.sizes))]
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True))
    study.enqueue_trial(dict.fromkeys(names, 0.0))
    moves = [min(max(float(one - share.sparsity), -REACH), REACH) for one in start]
    study.enqueue_trial(dict(zip(names, moves, strict=True)))

    def cost(trial: optuna.Trial) -> float:
        return divergence(share.moved([trial.suggest_float(n, -REACH, REACH) for n in names]))

    study.optimize(cost, n_trials=trials, callbacks=[lambda s, t: tell(t.number + 1, s.best_value)])
    first = study.trials[0].value
    best = share.moved([study.best_params[name] for name in names])
    return best, study.best_value, math.nan if first is None else first


def _clipped(share: float) -> float:
    return min(max(share, 0.0), float(MOST))


def read_allocation(path: Path, layers: int, sparsity: Fraction) -> list[Fraction]:
    """Return the sparsity of each decoder layer that a file says.

    Args:
        path: Of a file as `allocation_json` describes.
        layers: How many the model has.
        sparsity: What the run asks for; the file must be made for it.

    Raises:
        ConfigError: The file cannot be read, or is for another model or sparsity.
    """
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        shares = [Fraction(str(share)) for share in held["sparsities"]]
        made_for = Fraction(str(held["sparsity"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"allocation {path} cannot be read ({type(error).__name__}: {error}); make one with "
            "autoproxy allocate"
        ) from None
    if len(shares) != layers:
        raise ConfigError(
            f"allocation {path} is for {len(shares)} decoder layers, and the model has {layers}"
        )
    if made_for != sparsity:
        raise ConfigError(
            f"allocation {path} is for a sparsity of {float(made_for):g}, and "
            f"{float(sparsity):g} was asked for"
        )
    if not all(0 <= share < 1 for share in shares):
        raise ConfigError(f"allocation {path} has sparsities outside [0, 1)")
    return shares


def allocation_json(shares: Sequence[Fraction], sparsity: Fraction) -> Mapping[str, object]:
    """Return what `read_allocation` reads: the sparsity of each decoder layer, first to last."""
    return {
        **FORMAT,
        "sparsity": str(sparsity),
        "sparsities": [float(share) for share in shares],
    }
