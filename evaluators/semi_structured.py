"""Whether 2:4 zeros make a pruned model faster: torch's semi-structured tensors against dense."""

import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.sparse import to_sparse_semi_structured

from evaluators.layers import Layer, prunable
from evaluators.models import LoadedModel, load_model

ROWS, COLUMNS = 32, 64
"""What the outputs and inputs of a layer must be multiples of, in 16-bit types."""

GAIN = 0.95
"""Share of the dense time under which a gain is told from noise."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What semi-structured tensors do for a model.

    Attributes:
        converted: Layers that can be such tensors.
        left: The others, each with the reason.
        dense: Seconds of a forward pass of the model as it is, None where not measured.
        sparse: Seconds of one with `converted` as semi-structured tensors, None where not measured.
        deviation: Largest difference of a logit between the two, as a share of the largest logit.
        verdict: One sentence that says whether there is a gain.
    """

    converted: tuple[str, ...]
    left: Mapping[str, str]
    dense: float | None
    sparse: float | None
    deviation: float | None
    verdict: str


def measure_speed(
    model: str, *, device: str = "cuda", dtype: str = "float16", tokens: int = 2048, runs: int = 20
) -> Speed:
    """Convert the 2:4 layers of a model, and measure whether it is faster.

    Nothing is written: semi-structured tensors live in memory alone. The pass is one over a prompt
    of `tokens` tokens; generation word by word reads every weight for one token and gains less.

    Args:
        model: Folder of a model pruned with `--pattern 2:4`.
        device: A CUDA device; torch has no such tensors elsewhere.
        dtype: `float16` or `bfloat16`.
        tokens: Length of the prompt, capped by the model.
        runs: Passes that are timed, after three that are not; the median counts.

    Raises:
        ModelError: The model cannot be loaded.
        ConfigError: There is no such type.

    >>> measure_speed("starter", device="cpu").verdict
    'cannot be measured on cpu: torch has semi-structured tensors on CUDA devices alone'
    """
    if torch.device(device).type != "cuda" or not torch.cuda.is_available():
        told = "torch has semi-structured tensors on CUDA devices alone"
        return Speed((), {}, None, None, None, f"cannot be measured on {device}: {told}")
    loaded = load_model(model, device=device, dtype=dtype)
    layers = prunable(loaded.model)
    left = {n: reason for n, layer in layers.items() if (reason := obstacle(layer)) is not None}
    converted = tuple(name for name in layers if name not in left)
    if not converted:
        told = f"no layer can be converted; {next(iter(left))}: {next(iter(left.values()))}"
        return Speed((), left, None, None, None, told)
    return _compared(loaded, {name: layers[name] for name in converted}, left, (tokens, runs))


def obstacle(layer: Layer) -> str | None:
    """Return why a layer cannot be a semi-structured tensor, None where it can."""
    if not isinstance(layer.module, nn.Linear):
        return f"stored as {type(layer.module).__name__} does, which torch cannot convert"
    rows, columns = layer.weight.shape
    if rows % ROWS or columns % COLUMNS:
        return f"{rows} x {columns} is no multiple of {ROWS} x {COLUMNS}"
    kept = (layer.weight.reshape(-1, 4) != 0).sum(dim=1)
    if int(kept.max()) > 2:
        return "more than two of four weights are kept; prune with --pattern 2:4"
    return None


def verdict(dense: float, sparse: float, converted: int, left: int) -> str:
    """Return whether there is a gain, in words.

    >>> verdict(1.0, 0.5, 14, 0)
    '2.00 times as fast as dense (14 layers converted, 0 left dense)'
    >>> verdict(1.0, 1.25, 2, 12)
    'no gain: 0.80 times as fast as dense (2 layers converted, 12 left dense)'
    """
    words = f"{dense / sparse:.2f} times as fast as dense"
    counted = f"({converted} layers converted, {left} left dense)"
    return f"{words} {counted}" if sparse < GAIN * dense else f"no gain: {words} {counted}"


def median_seconds(run: Callable[[], object], settle: Callable[[], object], runs: int) -> float:
    """Return the median time of some runs, after three that are not timed.

    Args:
        run: What is timed.
        settle: Waits until the device has done all that was asked of it.
        runs: How many are timed.
    """
    times: list[float] = []
    for _ in range(3 + runs):
        settle()
        start = time.perf_counter()
        run()
        settle()
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:])


def _compared(
    loaded: LoadedModel,
    layers: Mapping[str, Layer],
    left: Mapping[str, str],
    effort: tuple[int, int],
) -> Speed:
    """Measure the model as it is, then with some layers converted, for good."""
    model, (tokens, runs) = loaded.model, effort
    length = min(tokens, loaded.max_length)
    ids = torch.arange(length, device=model.device).remainder(model.config.vocab_size)[None]

    def forward() -> Tensor:
        with torch.inference_mode():
            logits: Tensor = model(input_ids=ids, use_cache=False).logits
        return logits

    before = forward()
    dense = median_seconds(forward, torch.cuda.synchronize, runs)
    try:
        _convert(layers)
        after = forward()
    except (RuntimeError, NotImplementedError) as error:
        told = f"this torch and device cannot convert them: {str(error).splitlines()[0]}"
        return Speed((), {**left, **dict.fromkeys(layers, told)}, dense, None, None, told)
    sparse = median_seconds(forward, torch.cuda.synchronize, runs)
    deviation = float((after - before).abs().max() / before.abs().max())
    told = verdict(dense, sparse, len(layers), len(left))
    return Speed(tuple(layers), left, dense, sparse, deviation, told)


def _convert(layers: Mapping[str, Layer]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls this interface a prototype
        for layer in layers.values():
            weight = to_sparse_semi_structured(layer.weight.contiguous())
            layer.module.weight = nn.Parameter(weight, requires_grad=False)
