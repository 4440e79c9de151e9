"""Statistics: what terminals read of each layer, measured once over the calibration text."""

import functools
import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from autoproxy.errors import ModelError
from autoproxy.evaluation import content_hash
from autoproxy.language.terminals import OF_ONE_MODEL
from evaluators.cache import enforce, header, limit_of, used, whole_file
from evaluators.hessian import SECOND_MOMENTS, inverse_diagonal, upper_diagonal
from evaluators.layers import Layer, decoder_layers, prunable
from evaluators.models import LoadedModel
from evaluators.walk import Walk

VERSION = 2
"""Raised by every change of what a statistic means; it is part of the cache's key."""

HALF_SCALE = 1024.0
"""By what losses are multiplied in float16; a power of two, so that nothing else is rounded."""

Statistics = dict[str, dict[str, Tensor]]
"""Layer name -> terminal name -> 2-D float32 tensor, shaped as the terminal's kind says."""

FLOWING = frozenset(
    {"x_norm", "x_mean", "x_var", "x_max", "h_inv", "u_diag", "moments", "x_sum", "y_norm"}
)
"""Those of what goes into and out of layers, which one forward pass gives."""

GRADIENTS = frozenset({"g", "g_norm", "g_abs", "g_token"})
"""Those of the whole model's loss."""

BLOCKWISE = frozenset({"block_angle", "block_change", "block_index"})
WALKED = frozenset({"g_region"}) | BLOCKWISE
"""Those that one decoder layer after another of the dense model gives."""

PROVIDED = OF_ONE_MODEL
EXTRAS = frozenset({"moments", "x_sum"})
"""What methods read that expressions cannot: H = (2/N) sum x x^T, (d_in, d_in), and (1/N) times
the sum of x_j over all tokens, (1, d_in), N sequences."""
_FREE = frozenset({"W", "noise"})
"""Terminals that need no calibration text."""


def collect(
    loaded: LoadedModel,
    blocks: Tensor,
    names: Iterable[str],
    notice: Callable[[str], None] | None = None,
) -> Statistics:
    """Measure statistics of every prunable layer over calibration blocks.

    One forward pass a block gives all of inputs and outputs, but second moments, for which another
    goes from decoder layer to decoder layer; one backward pass all gradients, one replay of each
    decoder layer the regional gradients; only what `names` asks is done. An
    expert that no token chose has the mean of those of its siblings that some did.

    Args:
        loaded: The model, which is the same afterwards, hooks and gradients included.
        blocks: (sequences, length) token ids.
        names: Terminals of the vocabulary, and `EXTRAS`; `W` and `noise` are not measured here.
        notice: Told how many experts no token chose.

    Raises:
        ModelError: A layer is never called, so that nothing is known of it.
    """
    wanted = frozenset(names) - _FREE
    layers = prunable(loaded.model)
    found: Statistics = {name: {} for name in layers}
    unchosen: set[str] = set()
    if plain := wanted & FLOWING - SECOND_MOMENTS:
        runs = [functools.partial(_forward, loaded.model, block) for block in blocks]
        _merge(found, flows(layers, runs, plain, unchosen))
    if second := wanted & SECOND_MOMENTS:
        _merge(found, _flows_in_turn(loaded.model, layers, blocks, second, unchosen))
    if wanted & GRADIENTS:
        _merge(found, _gradients(loaded.model, layers, blocks, wanted, unchosen))
    if "g_region" in wanted:
        _merge(found, _regional(loaded.model, layers, blocks, unchosen))
    if wanted & BLOCKWISE:
        _merge(found, _blockwise(loaded.model, layers, blocks, wanted))
    if unchosen and notice is not None:
        experts = sum(layer.expert is not None for layer in layers.values())
        notice(
            f"{len(unchosen)} of {experts} matrices of experts saw no calibration token, such as "
            f"{min(unchosen)}; they have the mean of their siblings' statistics"
        )
    return found


def collect_here(
    walk: Walk, number: int, layers: Mapping[str, Layer], names: Iterable[str]
) -> Statistics:
    """Measure what `collect` measures, but of one decoder layer, and take the walk through it.

    Args:
        walk: Has come to the decoder layer.
        number: Of the decoder layer.
        layers: Those inside it.
        names: As in `collect`, without gradients of the whole model's loss.
    """
    wanted = frozenset(names) - _FREE
    found: Statistics = {name: {} for name in layers}
    if wanted & FLOWING:
        _merge(found, flows(layers, walk.runs(number), wanted))
    if "g_region" in wanted:
        reached = _add_regional(found, layers, walk.runs(number))
        _finish_regional(found, len(walk.states))
        _complete(found, layers, reached, frozenset({"g_region"}))
    moved = wanted & BLOCKWISE - {"block_index"}
    before = list(walk.states) if moved else []
    walk.step(number)
    if wanted & BLOCKWISE:
        pairs = zip(before, walk.states, strict=True) if moved else ()
        angle, change = _mean_moves([_move(old, new) for old, new in pairs])
        blockwise = {"block_angle": angle, "block_change": change, "block_index": float(number)}
        _merge(found, {name: _as_scalars(blockwise, wanted) for name in layers})
    return found


def cached_statistics(
    folder: Path,
    loaded: LoadedModel,
    blocks: Tensor,
    names: Iterable[str],
    notice: Callable[[str], None],
    limit: str | None = None,
) -> Statistics:
    """Return statistics from the cache, and measure those that it lacks.

    One safetensors file for each terminal, keyed by everything that determines it: model, token
    ids, device type, versions of this code, torch and transformers. Files are mapped into memory,
    not read.

    Args:
        folder: Of the cache; made when there is something to write.
        loaded: The model.
        blocks: (sequences, length) token ids.
        names: Terminals of the vocabulary, and `EXTRAS`.
        notice: Told when a corrupted file is rebuilt, or the cache needs more than its limit.
        limit: How large the cache may grow, such as `5GB`; see `evaluators/cache.py`.

    Raises:
        StorageError: The cache cannot be written.
        ConfigError: The limit is no size.
    """
    allowed = limit_of(limit)
    wanted = sorted(frozenset(names) - _FREE)
    files = {name: folder / f"{_cache_key(loaded, blocks, name)}.safetensors" for name in wanted}
    found: Statistics = {name: {} for name in prunable(loaded.model)}
    missing = []
    for name, path in files.items():
        known = _read(path, set(found), notice)
        if known is None:
            missing.append(name)
        else:
            _merge(found, {layer: {name: value} for layer, value in known.items()})
    measured = collect(loaded, blocks, missing, notice)
    for name in missing:
        facts = {
            "model": loaded.name,
            "model_hash": loaded.sha256,
            "terminal": name,
            "tokens": blocks.numel(),
            "sequences": len(blocks),
            "version": VERSION,
        }
        _write(files[name], {layer: v[name] for layer, v in measured.items()}, facts)
    _merge(found, measured)
    device = loaded.model.device
    held = {
        layer: {name: value.to(device) for name, value in values.items()}
        for layer, values in found.items()
    }
    for name, path in files.items():
        used(path, next(iter(held.values()))[name])
    if missing:
        enforce(folder, allowed, notice)
    return held


def noise(layer: str, shape: torch.Size, seed: int) -> Tensor:
    """Return uniform noise in [0, 1) that belongs to a layer and a seed, on any device alike."""
    digest = hashlib.sha256(f"{seed} {layer}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.rand(shape, generator=generator)


def _merge(into: Statistics, more: Mapping[str, Mapping[str, Tensor]]) -> None:
    for layer, values in more.items():
        into[layer].update(values)


class _Flow:
    """Sums over tokens of what flows into layers that share one input."""

    def __init__(self, width: int, device: torch.device, *, second_moments: bool) -> None:
        self.tokens = 0
        self.squares = torch.zeros(width, dtype=torch.float64, device=device)
        self.mean = torch.zeros_like(self.squares)
        self.spread = torch.zeros_like(self.squares)  # sum of squared distances from the mean
        self.largest = torch.zeros_like(self.squares)
        self.moments = torch.zeros(
            (width, width) if second_moments else (0, 0), dtype=torch.float64, device=device
        )

    def add(self, x: Tensor) -> None:
        """Take in one block, (tokens, width); means are merged so that nothing cancels."""
        x = x.detach().reshape(-1, x.shape[-1]).float()
        wide = x.double()
        count = len(wide)
        self.squares += wide.square().sum(dim=0)
        self.largest = torch.maximum(self.largest, wide.abs().amax(dim=0))
        mean = wide.mean(dim=0)
        gap = mean - self.mean
        total = self.tokens + count
        self.spread += (wide - mean).square().sum(
            dim=0
        ) + gap.square() * self.tokens * count / total
        self.mean += gap * count / total
        self.tokens = total
        if self.moments.numel():
            self.moments += (x.T @ x).double()

    def statistics(self, sequences: int, wanted: frozenset[str]) -> dict[str, Tensor]:
        """Return the wanted statistics, (1, width) each, but `moments`, (width, width)."""
        made: dict[str, Callable[[], Tensor]] = {
            "x_norm": (self.squares / sequences).sqrt,
            "x_mean": lambda: self.mean,
            "x_var": lambda: self.spread / max(1, self.tokens),
            "x_max": lambda: self.largest,
            "x_sum": lambda: self.mean * (self.tokens / sequences),
            "moments": lambda: self.moments * (2.0 / sequences),
            "h_inv": lambda: inverse_diagonal(self.moments * (2.0 / sequences)),
            "u_diag": lambda: upper_diagonal(self.moments * (2.0 / sequences)),
        }
        width = len(self.mean)
        return {name: made[name]().float().reshape(-1, width) for name in made if name in wanted}


def flows(
    layers: Mapping[str, Layer],
    runs: Sequence[Callable[[], object]],
    wanted: frozenset[str],
    unchosen: set[str] | None = None,
) -> Statistics:
    """Sum up what goes into and out of layers while each of `runs` makes them compute a sequence.

    Args:
        layers: Which are watched.
        runs: Each computes one calibration sequence, of the whole model or of a part of it.
        wanted: Terminals of inputs and outputs.
        unchosen: Is given the names of experts that no token chose.

    Raises:
        ModelError: A layer is never called.
    """
    found_of: dict[str, _Flow] = {}
    owner: dict[str, str] = {}
    out = {
        name: torch.zeros(layer.out_features, dtype=torch.float64, device=layer.parameter.device)
        for name, layer in layers.items()
    }
    last: list[Any] = [None, ""]  # the input tensor seen last, and the layer that saw it first

    def flow(name: str) -> _Flow:
        if name not in found_of:
            layer, moments = layers[name], wanted & SECOND_MOMENTS
            device = layer.parameter.device
            found_of[name] = _Flow(layer.in_features, device, second_moments=bool(moments))
        return found_of[name]

    def see(name: str, x: Tensor, y: Tensor) -> None:
        # Query, key and value read one tensor, as do gate and up: it is summed once.
        if x is not last[0]:
            last[:] = [x, name]
            flow(name).add(x)
        owner[name] = last[1]
        if "y_norm" in wanted:
            out[name] += y.detach().reshape(-1, y.shape[-1]).double().square().sum(0)

    with torch.no_grad(), watched(layers, see):
        for run in runs:
            last[:] = [None, ""]
            run()
    made = {home: flow(home).statistics(len(runs), wanted) for home in set(owner.values())}
    found: Statistics = {name: dict(made[owner[name]]) if name in owner else {} for name in layers}
    if "y_norm" in wanted:
        for name in owner:
            found[name]["y_norm"] = (out[name] / len(runs)).sqrt().float().reshape(-1, 1)
    _complete(found, layers, owner, wanted & FLOWING, unchosen)
    return found


def _complete(
    found: Statistics,
    layers: Mapping[str, Layer],
    reached: Collection[str],
    names: frozenset[str],
    unchosen: set[str] | None = None,
) -> None:
    """Give experts that no token chose the mean of those of the same parameter that some did.

    Nothing is known of them; at zero they would be dropped whole, or by the number of a column.

    Args:
        found: Statistics of layers; is completed.
        layers: Whose they are.
        reached: Names of the layers that computed something.
        names: Statistics that each is to have.
        unchosen: Is given the names of those experts.

    Raises:
        ModelError: No sibling of a layer computed something either.
    """
    known = [name for name in layers if name in reached and names <= found[name].keys()]
    siblings: dict[int, list[str]] = {}
    for name in known:
        siblings.setdefault(id(layers[name].parameter), []).append(name)
    means: dict[int, dict[str, Tensor]] = {}
    for name in sorted(layers.keys() - set(known)):
        home = id(layers[name].parameter)
        if home not in siblings:
            raise ModelError(
                f"no calibration token came to {name}, or the model computes it in a way that "
                "cannot be watched, so there are no statistics of it; ask for more "
                "--calibration-blocks, choose a metric that reads W alone, or give another model"
            )
        if home not in means:
            means[home] = {n: _mean([found[one][n] for one in siblings[home]]) for n in names}
        found[name] |= means[home]
        if unchosen is not None:
            unchosen.add(name)


def _mean(values: Sequence[Tensor]) -> Tensor:
    total = values[0].clone()
    for value in values[1:]:
        total += value
    return total / len(values)


def _flows_in_turn(
    model: PreTrainedModel,
    layers: Mapping[str, Layer],
    blocks: Tensor,
    wanted: frozenset[str],
    unchosen: set[str],
) -> Statistics:
    """Return what `flows` does, with second moments of one decoder layer at a time in memory.

    Those of all are d_in^2 numbers in float64 for each of hundreds of inputs: 44 GB of 7B.
    """
    found: Statistics = {}
    walk = Walk(model, blocks)
    for number, here in enumerate(_by_decoder_layer(model, layers)):
        found |= flows(here, walk.runs(number), wanted, unchosen)
        walk.step(number)
    return found


def _forward(model: PreTrainedModel, block: Tensor) -> None:
    model.base_model(input_ids=block.unsqueeze(0).to(model.device), use_cache=False)


def _gradients(
    model: PreTrainedModel,
    layers: Mapping[str, Layer],
    blocks: Tensor,
    wanted: frozenset[str],
    unchosen: set[str],
) -> Statistics:
    """Sum gradients of each sequence's loss, their squares and magnitudes, in float32."""
    found: Statistics = {name: {} for name in layers}

    powers: dict[str, Callable[[Tensor], Tensor]] = {
        "g": lambda gradient: gradient,
        "g_norm": torch.square,
        "g_abs": torch.abs,
    }

    def take(name: str, gradient: Tensor) -> None:
        for terminal in wanted & powers.keys():
            _accumulate(found[name], terminal, powers[terminal](gradient))

    reached: set[str] = set()

    def see(name: str, x: Tensor, y: Tensor) -> None:
        reached.add(name)
        if "g_token" in wanted:
            _add_by_token(found[name]["g_token"], x, y)

    # A router's balance is no part of how well the next token is told.
    routed = hasattr(model.config.get_text_config(), "output_router_logits")
    plain = {"output_router_logits": False} if routed else {}
    scale = _scale(model)
    with ExitStack() as stack:
        stack.enter_context(gradients_taken(layers, take))
        for name, layer in layers.items() if "g_token" in wanted else ():
            found[name]["g_token"] = torch.zeros_like(layer.weight, dtype=torch.float32)
        stack.enter_context(watched(layers, see))
        for block in blocks:
            ids = block.unsqueeze(0).to(model.device)
            loss = model(input_ids=ids, labels=ids, use_cache=False, **plain).loss
            (loss * scale).backward()
    for values in found.values():
        for name in {"g_norm", "g_token"} & values.keys():
            values[name].sqrt_()
        for value in values.values() if scale != 1 else ():
            value.div_(scale)
    _complete(found, layers, reached, wanted & GRADIENTS, unchosen)
    return found


def _scale(model: PreTrainedModel) -> float:
    """Return by what losses are multiplied before they go back, and their statistics divided.

    In float16 nothing is below 6e-8, while the slope of the mean loss of T tokens is a prediction
    over T: of 1,024 tokens of a small LLaMA one gradient in two was wrong by 19 %, scaled by 0.6 %.
    """
    return HALF_SCALE if model.dtype == torch.float16 else 1.0


def _add_by_token(total: Tensor, x: Tensor, y: Tensor) -> None:
    """Add the squared gradient of each token of a layer to `total`, when it is known."""
    seen = x.detach().reshape(-1, x.shape[-1])  # what autograd keeps anyway, no copy

    def add(slope: Tensor) -> None:
        steep = slope.reshape(-1, slope.shape[-1]).float().square()
        total.add_(steep.T @ seen.float().square())

    y.register_hook(add)  # type: ignore[no-untyped-call]


def _regional(
    model: PreTrainedModel, layers: Mapping[str, Layer], blocks: Tensor, unchosen: set[str]
) -> Statistics:
    """Sum squared gradients of the norm of each decoder layer's output on its dense input."""
    found: Statistics = {name: {} for name in layers}
    reached: set[str] = set()
    inside = _by_decoder_layer(model, layers)
    for block in blocks:
        walk = Walk(model, block.unsqueeze(0))
        for number, here in enumerate(inside):
            reached |= _add_regional(found, here, walk.runs(number))
            walk.step(number)
    _finish_regional(found, len(blocks))
    _complete(found, layers, reached, frozenset({"g_region"}), unchosen)
    return found


def _add_regional(
    found: Statistics, layers: Mapping[str, Layer], runs: Iterable[Callable[[], Tensor]]
) -> set[str]:
    """Add the squared gradients of the norm of what each of `runs` makes.

    Returns:
        The names of the layers that computed something.
    """
    reached: set[str] = set()

    def take(name: str, gradient: Tensor) -> None:
        _accumulate(found[name], "g_region", gradient.square())

    def see(name: str, *_: Tensor) -> None:
        reached.add(name)

    with gradients_taken(layers, take), watched(layers, see):
        for run in runs:
            torch.linalg.vector_norm(run().float()).backward()
    return reached


def _finish_regional(found: Statistics, sequences: int) -> None:
    for values in found.values():
        if "g_region" in values:
            values["g_region"].div_(sequences).sqrt_()


def _blockwise(
    model: PreTrainedModel,
    layers: Mapping[str, Layer],
    blocks: Tensor,
    wanted: frozenset[str],
) -> Statistics:
    """Measure what each decoder layer does to hidden states; its matrices all have the same."""
    inside = _by_decoder_layer(model, layers)
    moves: list[list[tuple[float, float]]] = [[] for _ in inside]
    for block in blocks if wanted - {"block_index"} else ():
        walk = Walk(model, block.unsqueeze(0))
        for number in range(len(inside)):
            before = walk.states[0]
            walk.step(number)
            moves[number].append(_move(before, walk.states[0]))
    found: Statistics = {}
    for number, here in enumerate(inside):
        angle, change = _mean_moves(moves[number])
        values = {"block_angle": angle, "block_change": change, "block_index": float(number)}
        found |= {name: _as_scalars(values, wanted) for name in here}
    return found


def _move(before: Tensor, after: Tensor) -> tuple[float, float]:
    """Return by which angle (of pi) and share a decoder layer changes one block's states."""
    old, new = before[0].double(), after[0].double()
    cosine = nn.functional.cosine_similarity(old, new, dim=1, eps=1e-30)
    change = (new - old).norm(dim=1) / old.norm(dim=1).clamp_min(1e-30)
    return float(cosine.clamp(-1.0, 1.0).acos().mean()) / math.pi, float(change.mean())


def _mean_moves(moves: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the means over blocks, 0 where nothing was asked."""
    angle = change = 0.0
    for one, other in moves:
        angle += one / len(moves)
        change += other / len(moves)
    return angle, change


def _as_scalars(values: Mapping[str, float], wanted: frozenset[str]) -> dict[str, Tensor]:
    return {name: torch.tensor([[value]]) for name, value in values.items() if name in wanted}


def _by_decoder_layer(
    model: PreTrainedModel, layers: Mapping[str, Layer]
) -> list[dict[str, Layer]]:
    """Return the layers inside each decoder layer, first to last."""
    found = []
    for root in decoder_layers(model):
        inside = set(root.modules())
        found.append({name: layer for name, layer in layers.items() if layer.module in inside})
    return found


def _accumulate(values: dict[str, Tensor], name: str, addend: Tensor) -> None:
    if name in values:
        values[name] += addend
    else:
        values[name] = addend.clone()


@contextmanager
def watched(
    layers: Mapping[str, Layer], see: Callable[[str, Tensor, Tensor], None]
) -> Iterator[None]:
    """Call `see(name, input, output)` whenever a layer computes, for the block."""

    def hook(name: str) -> Callable[..., None]:
        return lambda _, args, result: see(name, args[0], result)

    single = {name: layer for name, layer in layers.items() if layer.expert is None}
    with ExitStack() as stack:
        stack.enter_context(
            hooked(layer.module.register_forward_hook(hook(n)) for n, layer in single.items())
        )
        if len(single) < len(layers):
            fused = {n: layer for n, layer in layers.items() if layer.expert is not None}
            stack.enter_context(_ExpertCalls(fused, see))
        yield


class _ExpertCalls(TorchFunctionMode):
    """Sees the linear function that a fused expert is computed with; it has no module of its own.

    It goes by the address of the weight, so the model must compute its experts one by one
    (`experts_implementation="eager"`, which `load_model` asks for).
    """

    def __init__(
        self, layers: Mapping[str, Layer], see: Callable[[str, Tensor, Tensor], None]
    ) -> None:
        super().__init__()
        self._names = {layer.weight.data_ptr(): name for name, layer in layers.items()}
        self._see = see

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is nn.functional.linear:
            name = self._names.get(args[1].data_ptr())
            if name is not None and args[0].numel():
                self._see(name, args[0], result)
        return result


@contextmanager
def hooked(handles: Iterable[Any]) -> Iterator[None]:
    """Keep hooks for the block and remove them afterwards, whatever happens."""
    held = list(handles)
    try:
        yield
    finally:
        for handle in held:
            handle.remove()


@contextmanager
def gradients_taken(
    layers: Mapping[str, Layer], take: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Call `take(name, gradient)` for each layer as soon as a backward pass has its gradient.

    Gradients are (out, in), float32, and freed at once: no more than a few are held at a time.
    """
    owners: dict[nn.Parameter, list[str]] = {}
    for name, layer in layers.items():
        owners.setdefault(layer.parameter, []).append(name)

    def hand_over(parameter: nn.Parameter) -> None:
        gradient, parameter.grad = parameter.grad, None
        if gradient is not None:
            for name in owners[parameter]:
                take(name, layers[name].view(gradient).float())

    held = [(parameter, parameter.requires_grad) for parameter in owners]
    try:
        for parameter, _ in held:
            parameter.requires_grad_(True)
        with hooked(_when_done(parameter, hand_over) for parameter in owners):
            yield
    finally:
        for parameter, before in held:
            parameter.requires_grad_(before)
            parameter.grad = None


def _when_done(parameter: nn.Parameter, call: Callable[[nn.Parameter], None]) -> Any:
    return parameter.register_post_accumulate_grad_hook(call)  # type: ignore[no-untyped-call]


def _cache_key(loaded: LoadedModel, blocks: Tensor, name: str) -> str:
    return content_hash(
        {
            "version": VERSION,
            "model": loaded.sha256,
            "tokens": hashlib.sha256(blocks.numpy().tobytes()).hexdigest(),
            "shape": list(blocks.shape),
            "terminal": name,
            "device": loaded.model.device.type,
            "torch": torch.__version__,
            **({"loss_scale": scale} if (scale := _scale(loaded.model)) != 1 else {}),
            "transformers": transformers.__version__,
        }
    )


def _read(path: Path, layers: set[str], notice: Callable[[str], None]) -> dict[str, Tensor] | None:
    try:
        found = load_file(path)
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        if not path.exists():  # evicted between two openings, of which torch tells as it likes
            return None
        notice(f"the cached statistics {path.name} are corrupted ({error}); measured anew")
        return None
    if set(found) != layers:
        notice(f"the cached statistics {path.name} are of other layers; measured anew")
        return None
    return found


def _write(path: Path, values: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    # A gradient of GPT-2's turned weights is turned too, and two may share one memory.
    held = {n: v.cpu().clone(memory_format=torch.contiguous_format) for n, v in values.items()}
    with whole_file(path) as part:
        save_file(held, part, metadata=header(facts))
