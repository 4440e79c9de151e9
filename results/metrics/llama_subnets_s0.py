"""A zero-cost proxy exported by AutoProxy: it scores a network, with torch alone.

First comes the function, then what its formula is made of, then the collector, which measures
what the formula reads.

The file stands alone (torch and the standard library), because exported proxies carry a copy of
it. A *site* is one linear weight of the network: an `nn.Linear`, or GPT-2's `Conv1D`, which is
turned to (out, in). No sites are the layer that writes the logits, a layer tied to an embedding,
layers inside the embedding, and experts that share one parameter, (expert, out, in): of a network
of such experts the rest is measured, and `flops` is not said. Modules that share a weight are one
site, as is a layer that is called several times: their tokens follow each other.

L is the sum over sequences of the mean cross-entropy of a sequence's tokens. Everything runs in
evaluation mode, attention in its plain form, and the network is the same bits afterwards.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["llama_subnets_s0"]


def llama_subnets_s0(network: nn.Module, batch: Tensor | Mapping[str, Tensor]) -> float:
    r"""Return the score of a network, which need not be trained.

    Formula: layers_sum(all_norm(attention)) ** -0.43 * layers_sum(all_norm(attention ** 1.77))
        ** 0.48

    LaTeX: \left|\sum_{\ell}\left(\lVert \mathcal{A} \rVert_{ij}\right)\right|^{-0.43} \cdot
        \left|\sum_{\ell}\left(\lVert \left|\mathcal{A}\right|^{1.77}
        \rVert_{ij}\right)\right|^{0.48}

    It reads, as far as a layer or a network has it:
        attention: Attention; attention probabilities that weigh what goes into layers that have
            `heads`: over keys they sum to 1; other layers have none.

    Args:
        network: Called with token ids for logits (sequences, tokens, vocabulary), or a model of
            transformers. It is left as it was. A token predicts the next one, but where
            `network.causal` is False itself.
        batch: Token ids (sequences, tokens), or a mapping of what a model of transformers
            takes. Compare networks on one batch.

    Returns:
        The score: larger is better. On a CPU one thread computes it, for the bits depend on
            that.

    Raises:
        ValueError: The network lacks what the formula reads, or the score is not finite.

    Text form: mul(pow(layers_sum(all_norm(attention)), -0.43),
        pow(layers_sum(all_norm(pow(attention, 1.77))), 0.48))
    Key: e376a1c757e01c20d933baa2593d3b16
    source run: llama-subnets-s0
    model: llama-subnets
    condition: tau, 50 labels
    table: 8278a6c56f4d6cee
    quality: -loss
    text: starter
    sequences: 2
    tokens: 64
    rows: 32
    draw: 0
    split: 0
    orientation: larger is better
    value: 0.838367 Kendall's tau-b (tau)

    >>> score = llama_subnets_s0(
    ...     _Example(), torch.tensor([[0, 1, 2], [3, 4, 0]])
    ... )
    >>> isinstance(score, float)
    True
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        score = float(_score(collect(network, batch, _READS)))
    finally:
        torch.set_num_threads(threads)
    if not math.isfinite(score):
        raise ValueError(f"the score of this network is {score}, which no order is made of")
    return score


_READS = ("attention",)


def _score(found: "Collected") -> Tensor:
    """Return the value of the formula, (1, 1) float64."""
    f1 = _of_layers(found, _feature_1, ("attention",))
    f2 = _of_layers(found, _feature_2, ("attention",))
    v1 = _op_layers_sum(f1)
    v2 = _op_power(v1, -0.4300000071525574)
    v3 = _op_layers_sum(f2)
    v4 = _op_power(v3, 0.47999998927116394)
    return _op_mul(v2, v4)


def _feature_1(site: Mapping[str, Tensor]) -> Tensor:
    """Return all_norm(attention) of one layer, (1, 1)."""
    attention = site["attention"]  # (sequences, heads, queries, keys)
    return _op_all_norm(attention)  # (1, 1)


def _feature_2(site: Mapping[str, Tensor]) -> Tensor:
    """Return all_norm(attention ** 1.77) of one layer, (1, 1)."""
    attention = site["attention"]  # (sequences, heads, queries, keys)
    v1 = _op_power(attention, 1.7699999809265137)  # (sequences, heads, queries, keys)
    return _op_all_norm(v1)  # (1, 1)


def _of_layers(
    found: "Collected", feature: Callable[[Mapping[str, Tensor]], Tensor], names: Sequence[str]
) -> Tensor:
    """Return a feature of all layers that have what it reads, (layers, 1) float64."""
    values = [
        feature(site.terminals).reshape(1, 1)
        for site in found.sites
        if all(name in site.terminals for name in names)
    ]
    if not values:
        raise ValueError(
            f"this network lacks {', '.join(names) or 'linear layers'}: of its {len(found.sites)} "
            "linear layers none has it; see what the formula reads"
        )
    return torch.cat(values).double().cpu()


def _of_model(found: "Collected", name: str) -> Tensor:
    """Return a number of the whole network, (1, 1) float64."""
    if name not in found.model:
        raise ValueError(
            f"this network lacks {name}, which the formula reads: its parts are not recognised, "
            "or the number is not finite"
        )
    return torch.tensor([[found.model[name]]], dtype=torch.float64)


def _op_all_norm(a: Tensor) -> Tensor:
    """Return the Euclidean (Frobenius) norm over all entries."""
    norm: Tensor = torch.linalg.vector_norm(a)
    return norm.reshape(1, 1)


def _op_layers_sum(a: Tensor) -> Tensor:
    """Return the sum over layers, one a row."""
    return a.sum().reshape(1, 1)


def _op_mul(a: Tensor, b: Tensor) -> Tensor:
    """Return a * b."""
    return a * b


def _op_power(a: Tensor, exponent: float) -> Tensor:
    """Return |a| to the exponent; for a negative one, |a| below 1e-9 counts as 1e-9."""
    base = a.abs()
    return torch.pow(base.clamp_min(1e-9) if exponent < 0 else base, exponent)


class _Example(nn.Module):
    """A causal network of one block, whose parts are called by names that are recognised."""

    def __init__(self) -> None:
        super().__init__()
        attention = {"qkv": nn.Linear(4, 12), "softmax": nn.Softmax(dim=-1), "out": nn.Linear(4, 4)}
        mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
        block = nn.ModuleDict({"attention": nn.ModuleDict(attention), "mlp": mlp})
        self.embedding = nn.Embedding(5, 4)
        self.layers = nn.ModuleList([block])
        self.output = nn.Linear(4, 5)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embedding(ids)
        later = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
        for block in self.layers:
            parts = block["attention"]
            split = parts["qkv"](hidden).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
            affinity = (split[0] @ split[1].mT).masked_fill(later, -math.inf)
            mixed = parts["softmax"](affinity) @ split[2]
            hidden = hidden + parts["out"](mixed.transpose(1, 2).flatten(2))
            hidden = hidden + block["mlp"](hidden)
        return self.output(hidden)


Batch = Tensor | Mapping[str, Tensor]
"""Token ids (sequences, tokens), or what a transformers model takes, with `input_ids`."""

IGNORED = -100
"""Label of a token that no loss is taken at."""

ATTENTION = frozenset({"attention", "self_attention", "self_attn", "attn"})
MLP = frozenset({"mlp", "feed_forward", "ffn", "fc1", "fc2"})
"""Names of modules that tell the role of the layers inside them, or of the layer itself."""

PER_INPUT = frozenset({"x_norm", "x_mean", "x_var", "x_max"})
PER_SITE = frozenset({"fan_in", "fan_out", "is_attention", "is_mlp", "is_first", "block_index"})
GRADIENTS = frozenset({"g", "g_norm", "g_abs"})
DIFFERENTIATED = GRADIENTS | {"dx", "dy"}
LINEARISED = frozenset({"flow", "log_flow"})
COUNTS = frozenset({
    "n_layers", "width", "ff_width", "n_heads", "d_embed", "params", "params_attention",
    "params_mlp", "params_embedding", "params_body", "flops",
})  # fmt: skip
TERMINALS = frozenset(
    {"W", "noise", "hg", "x", "dx", "heads", "order_change", "y", "dy", "y_norm", "attention"}
    | PER_INPUT | PER_SITE | GRADIENTS | LINEARISED | COUNTS
)  # fmt: skip
"""Everything that `collect` can measure."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How much of each site is kept.

    Attributes:
        rows: At most so many outputs of a site: of weights, outputs, and what has their shape.
        tokens: At most so many tokens of a sequence: of inputs, outputs and attention's queries.
        seed: Which are kept; equal sites keep equal ones. `noise` depends on it too.
    """

    rows: int | None = None
    tokens: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Site:
    """The tensors of one linear weight, float32; one that it lacks is no key.

    With S sequences, T tokens, d_out and d_in (after sampling): `W g g_norm g_abs hg flow noise`
    (d_out, d_in); `x dx heads order_change` (S, T, d_in); `y dy` (S, T, d_out); `attention`
    (S, heads, T queries, T keys); `x_norm x_mean x_var x_max` (1, d_in); `y_norm` (d_out, 1);
    `fan_in fan_out is_attention is_mlp is_first block_index` (1, 1).

    Attributes:
        name: Dotted name of its first module.
        d_out: How many outputs it has before sampling; sums over kept rows scale by the ratio.
        tokens: How many tokens a sequence has before sampling.
        terminals: The tensors by name.
    """

    name: str
    d_out: int
    tokens: int
    terminals: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Collected:
    """What was measured of a network.

    Attributes:
        sites: In order of execution.
        model: Numbers of the whole network: `log_flow`, unless it overflows float64, and
            `COUNTS` (see `counts_of`), those that the network has.
    """

    sites: tuple[Site, ...]
    model: dict[str, float]


def collect(
    network: nn.Module,
    batch: Batch,
    wanted: Iterable[str],
    *,
    causal: bool | None = None,
    sampling: Sampling | None = None,
    device: torch.device | str | None = None,
) -> Collected:
    """Measure tensors of every site of a network.

    One forward and backward pass gives inputs, outputs, their gradients, and every sequence's
    weight gradient (the product of the two); `hg` needs a second pass, `flow` a third,
    and `order_change` a forward pass more.

    Args:
        network: Called with ids for logits (sequences, tokens, vocabulary); or a transformers
            model.
        batch: On any device.
        wanted: Names of `TERMINALS`.
        causal: Whether a token predicts the next one, or itself; else `network.causal`, else True.
        sampling: How much is kept; everything, if not given.
        device: Where tensors are put; where the network is, if not given.

    Raises:
        ValueError: A terminal is unknown, or the batch or its logits are not of these shapes.

    >>> network = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 5))
    >>> found = collect(network, torch.tensor([[0, 1, 2]]), {"W", "g", "x"})
    >>> [(site.name, tuple(site.terminals["x"].shape)) for site in found.sites]
    [('1', (1, 3, 4))]
    """
    asked = frozenset(wanted)
    if asked - TERMINALS:
        unknown, known = ", ".join(sorted(asked - TERMINALS)), ", ".join(sorted(TERMINALS))
        raise ValueError(f"no such terminals: {unknown}; known: {known}")
    kept = sampling or Sampling()
    with undisturbed(network):
        seen = _observe(network, batch, causal, backward=bool(asked & DIFFERENTIATED))
        made = _places(seen, asked)
        if "order_change" in asked:
            _add_order_changes(network, batch, seen, made, kept)
        counts = counts_of(network, seen) if asked & COUNTS else {}
        model = {name: value for name, value in counts.items() if name in asked}
        for site, values in zip(seen, made, strict=True):
            values.update(_terminals(site, asked, kept))
        weights = [site.weight for site in seen]
        if "hg" in asked:
            _add("hg", _hessian_products(network, batch, causal, weights), seen, made, kept)
        if asked & LINEARISED:
            logarithm, slopes = synaptic_flow(network, batch, weights)
            if "log_flow" in asked and math.isfinite(logarithm):
                model["log_flow"] = logarithm
            if "flow" in asked and slopes:
                _add("flow", slopes, seen, made, kept)
    return Collected(
        tuple(
            Site(site.name, site.turn(site.weight).shape[0], site.tokens, _moved(values, device))
            for site, values in zip(seen, made, strict=True)
        ),
        model,
    )


def sequence_losses(network: nn.Module, batch: Batch, causal: bool | None = None) -> Tensor:
    """Return the mean cross-entropy of each sequence, (sequences,), of the network as it is.

    Args:
        network: As for `collect`.
        batch: Token ids; in a mapping, `labels` (with `IGNORED`) stand for `input_ids` where given.
        causal: As for `collect`.
    """
    return losses_of(logits_of(network, batch), labels_of(network, batch, causal))


def losses_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of each sequence, (sequences,), at least in float32."""
    if logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"logits of {tuple(labels.shape)} ids must be (sequences, tokens, vocabulary), got "
            f"{tuple(logits.shape)}"
        )
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    each = functional.cross_entropy(
        wide.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    counts = (labels != IGNORED).sum(dim=1).clamp_min(1)
    return each.view(labels.shape).sum(dim=1) / counts


def labels_of(network: nn.Module, batch: Batch, causal: bool | None = None) -> Tensor:
    """Return what each token is to predict, (sequences, tokens), `IGNORED` where nothing."""
    given = batch if isinstance(batch, Tensor) else batch.get("labels", batch["input_ids"])
    if isinstance(batch, Mapping) and "labels" not in batch and "attention_mask" in batch:
        given = given.masked_fill(batch["attention_mask"] == 0, IGNORED)  # padding tells nothing
    if given.ndim != 2:
        raise ValueError(f"token ids must be (sequences, tokens), got {tuple(given.shape)}")
    labels = given.to(device_of(network))
    shifted = causal if causal is not None else bool(getattr(network, "causal", True))
    if not shifted:
        return labels
    return torch.cat([labels[:, 1:], labels.new_full((len(labels), 1), IGNORED)], dim=1)


def logits_of(network: nn.Module, batch: Batch) -> Tensor:
    """Return the network's logits, (sequences, tokens, vocabulary)."""
    args, kwargs = arguments_of(network, batch)
    return _logits(network(*args, **kwargs))


def _logits(output: Any) -> Tensor:
    found = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(found, Tensor):
        raise ValueError(  # noqa: TRY004 - the value that the network gave
            f"the network must return logits, or an object that has them, got {type(output)}"
        )
    return found


def arguments_of(network: nn.Module, batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what the network is called with: ids alone, or what transformers expects."""
    device = device_of(network)
    hugging = hasattr(network, "config") and hasattr(network, "get_input_embeddings")
    extra = {"use_cache": False} if hugging else {}
    if isinstance(batch, Mapping):
        given = {name: value.to(device) for name, value in batch.items() if name != "labels"}
        return (), given | extra
    return ((), {"input_ids": batch.to(device)} | extra) if hugging else ((batch.to(device),), {})


def device_of(network: nn.Module) -> torch.device:
    """Return where the network's parameters are."""
    return next(network.parameters()).device


def embedding_of(network: nn.Module) -> nn.Module | None:
    """Return the module that embeds ids: transformers', `embedding`, or the first of its type."""
    if hasattr(network, "get_input_embeddings"):
        look: Any = network.get_input_embeddings
        found: nn.Module = look()
        return found
    own = getattr(network, "embedding", None)
    if isinstance(own, nn.Module):
        return own
    return next((m for m in network.modules() if isinstance(m, nn.Embedding)), None)


def linear_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Return the linear layers that may be sites, by dotted name, in order of definition."""
    embedding = embedding_of(network)
    output: Any = getattr(network, "get_output_embeddings", None)
    left_out = set(embedding.modules()) if embedding is not None else set()
    if output is not None:
        left_out.add(output())
    tied = {
        id(parameter)
        for module in network.modules()
        if isinstance(module, nn.Embedding) or module is embedding
        for parameter in module.parameters()
    }
    return {
        name: module
        for name, module in network.named_modules()
        if (isinstance(module, nn.Linear) or is_turned(module))
        and module not in left_out
        and id(module.weight) not in tied
    }


def is_turned(module: nn.Module) -> bool:
    """Return whether a module is linear with a weight stored as (in, out)."""
    weight = getattr(module, "weight", None)
    return hasattr(module, "nf") and isinstance(weight, Tensor) and weight.ndim == 2


@contextmanager
def undisturbed(network: nn.Module) -> Iterator[None]:
    """Put a network into the state that it is measured in; give back the state it had.

    Inside: evaluation mode, parameters frozen, gradients enabled, attention computed plainly.
    """
    training = [(module, module.training) for module in network.modules()]
    frozen = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    name = "_attn_implementation_internal"
    configs = {id(c): c for m in network.modules() if (c := getattr(m, "config", None)) is not None}
    plain = [
        (config, getattr(config, name)) for config in configs.values() if hasattr(config, name)
    ]
    try:
        for module, _ in training:
            module.training = False
        for parameter, _ in frozen:
            parameter.requires_grad_(False)
        for config, _ in plain:
            setattr(config, name, "eager")
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for module, mode in training:
            module.training = mode
        for parameter, mode in frozen:
            parameter.requires_grad_(mode)
        for config, implementation in plain:
            setattr(config, name, implementation)


def counts_of(network: nn.Module, seen: "Sequence[_Seen]") -> dict[str, float]:
    """Return `COUNTS` of a network, as far as it has them.

    Blocks are what the sites' names tell; the body is the blocks and the norms defined behind
    them, everything else the embedding's. The width is what the last site of the blocks gives;
    the feed-forward width of a block is what its feed-forward's layers read, but for those at
    its entry. FLOPs are two for each multiply-add of one token in the sites.
    """
    blocks = dict.fromkeys(block[0] for site in seen if (block := block_of(site.name)))
    sizes = {name: p.numel() for name, p in network.named_parameters()}
    behind = _behind(network, set(blocks))
    body = sum(
        size
        for name, size in sizes.items()
        if any(name.startswith(f"{part}.") for part in (*blocks, *behind))
    )
    embedding = embedding_of(network)
    table = next(embedding.parameters(), None) if embedding is not None else None
    heads = [float(site.attention[0].shape[1]) for site in seen if site.attention]
    wide = [width for block in blocks if (width := _ff_width(block, seen)) is not None]
    flops = sum(2.0 * s.sizes[0] * s.sizes[1] * s.x.shape[1] / s.shape[1] for s in seen)
    found: dict[str, float | None] = {
        "n_layers": len(blocks) or None,
        "width": next((s.sizes[0] for s in reversed(seen) if block_of(s.name)), None),
        "ff_width": sum(wide) / len(wide) if wide else None,
        "n_heads": sum(heads) / len(heads) if heads else None,
        "d_embed": None if table is None else table.shape[-1],
        "params": sum(sizes.values()),
        # None of a role is None: its modules have names that nobody knows.
        "params_attention": sum(n for name, n in sizes.items() if role_of(name, ATTENTION)) or None,
        "params_mlp": sum(n for name, n in sizes.items() if role_of(name, MLP)) or None,
        "params_embedding": sum(sizes.values()) - body,
        "params_body": body,
        "flops": None if _has_experts(network) else flops,
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def _has_experts(network: nn.Module) -> bool:
    """Return whether some weights are held as (expert, out, in), which are no sites."""
    return any(
        parameter.ndim == 3 and "Conv" not in type(module).__name__
        for module in network.modules()
        for parameter in module.parameters(recurse=False)
    )


def _behind(network: nn.Module, blocks: set[str]) -> list[str]:
    """Return the norms that are defined after the last block."""
    names = [name for name, _ in network.named_modules()]
    last = max((n for n, name in enumerate(names) if name in blocks), default=len(names))
    late = {name: network.get_submodule(name) for name in names[last + 1 :]}
    return [
        name
        for name, module in late.items()
        if type(module).__name__.endswith("Norm")
        and not any(name.startswith(f"{block}.") for block in blocks)
    ]


def _ff_width(block: str, seen: "Sequence[_Seen]") -> float | None:
    inputs = [
        site.sizes[1]
        for site in seen
        if site.name.startswith(f"{block}.") and role_of(site.name, MLP)
    ]
    inner = [size for n, size in enumerate(inputs) if set(inputs[: n + 1]) != {inputs[0]}]
    inner = inner or inputs[-1:]
    return sum(inner) / len(inner) if inner else None


@contextmanager
def hooked(hooks: Iterable[Any]) -> Iterator[None]:
    """Take hooks away at the end, also those made before one could not be."""
    with ExitStack() as stack:
        for hook in hooks:
            stack.callback(hook.remove)
        yield


@dataclass(slots=True)
class _Seen:
    """What passed through one weight, a tensor a call."""

    name: str
    module: nn.Module
    shape: tuple[int, int]  # sequences and tokens of the batch
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    slopes: list[Tensor | None] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)
    reads_heads: bool = False
    tokens: int = 0  # of a sequence, over all calls

    @property
    def weight(self) -> nn.Parameter:
        return self.module.get_parameter("weight")

    @property
    def sizes(self) -> tuple[int, int]:
        """Outputs and inputs."""
        rows, columns = self.turn(self.weight).shape
        return rows, columns

    @property
    def per_sequence(self) -> bool:
        """Whether sequences can be told apart; the tokens that an expert is given are a heap."""
        sequences, tokens = self.shape
        return all(
            (x.ndim > 2 and x.shape[0] == sequences)
            or (x.ndim == 2 and x.shape[0] == sequences * tokens)
            for x in self.inputs
        )

    @property
    def x(self) -> Tensor:
        return self._joined(self.inputs)

    @property
    def y(self) -> Tensor:
        return self._joined(self.outputs)

    @property
    def dy(self) -> Tensor:
        pairs = zip(self.slopes, self.outputs, strict=True)
        return self._joined([torch.zeros_like(y) if slope is None else slope for slope, y in pairs])

    def turn(self, like: Tensor) -> Tensor:
        """Return what is shaped as the parameter as (out, in)."""
        return like.T if is_turned(self.module) else like

    def take(self, x: Tensor, y: Tensor) -> int:
        """Hold one call's tensors; a copy of the inputs, for the network may overwrite its own."""
        self.inputs.append(x.detach().clone())
        self.outputs.append(y.detach())
        self.slopes.append(None)
        return len(self.slopes) - 1

    def slope(self, call: int, gradient: Tensor) -> None:
        """Hold the gradient of the loss in the outputs of a call."""
        self.slopes[call] = gradient.detach().clone()

    def _joined(self, values: Sequence[Tensor]) -> Tensor:
        """Return (sequences, tokens, features) of all calls."""
        first = self.shape[0] if self.per_sequence else 1
        shaped = [value.reshape(first, -1, value.shape[-1]) for value in values]
        return torch.cat(shaped, dim=1).float()


def _observe(
    network: nn.Module, batch: Batch, causal: bool | None, *, backward: bool = False
) -> list[_Seen]:
    """Run the network forward, and backward if asked; return what its weights saw, in order."""
    labels = labels_of(network, batch, causal)
    seen: dict[int, _Seen] = {}  # by weight
    readers: dict[str, dict[int, None]] = {}  # attention module: the weights called in it
    last: list[Any] = [0, None]  # the weight that was called last, and what it gave

    def hook(name: str) -> Callable[..., Tensor]:
        def see(module: nn.Module, args: tuple[Any, ...], y: Tensor) -> Tensor:
            key = id(module.get_parameter("weight"))
            site = seen.setdefault(key, _Seen(name, module, (labels.shape[0], labels.shape[1])))
            if not y.requires_grad:  # the first of its branch: parameters are frozen
                y = y.detach().requires_grad_()
            call = site.take(args[0], y)
            hear: Any = y.register_hook
            hear(lambda gradient: site.slope(call, gradient))
            called = readers.setdefault(role_of(name, ATTENTION), {})
            called.pop(key, None)
            called[key] = None
            handed = y.clone()  # which the network may overwrite
            last[:] = key, handed
            return handed

        return see

    layers = linear_layers(network)
    with hooked(module.register_forward_hook(hook(name)) for name, module in layers.items()):
        with _probabilities(network) as attention:
            logits = logits_of(network, batch)
        if backward:
            run: Any = losses_of(logits, labels).sum().backward
            run()
    _name_readers(seen, readers, attention)
    key, given = last
    if key and (given.data_ptr(), given.numel()) == (logits.data_ptr(), logits.numel()):
        seen.pop(key)
    return list(seen.values())


def _name_readers(
    seen: Mapping[int, _Seen],
    readers: Mapping[str, Mapping[int, None]],
    attention: Mapping[str, list[Tensor]],
) -> None:
    """Tell the last of several layers of each attention module that it reads the heads."""
    for root, called in readers.items():
        if root and len(called) > 1:
            site = seen[next(reversed(list(called)))]
            site.reads_heads, site.attention = True, attention.get(root, [])


@contextmanager
def _probabilities(network: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Gather attention probabilities, (sequences, heads, queries, keys), by attention module.

    They come out of an `nn.Softmax`, or second of what an attention module returns, which is
    how transformers' have it.
    """
    found: dict[str, list[Tensor]] = {}

    def hook(root: str) -> Callable[..., None]:
        def see(module: nn.Module, _: object, made: Any) -> None:
            several = made[1] if isinstance(made, tuple) and len(made) > 1 else None
            value = made if isinstance(module, nn.Softmax) else several
            held = found.setdefault(root, [])
            # A module and the one around it may return the same.
            if isinstance(value, Tensor) and value.ndim == 4 and all(v is not value for v in held):
                held.append(value)

        return see

    roots = [(role_of(name, ATTENTION), module) for name, module in network.named_modules()]
    with hooked(module.register_forward_hook(hook(root)) for root, module in roots if root):
        yield found


def role_of(name: str, roles: frozenset[str]) -> str:
    """Return the name of the outermost module around `name` that is called one of `roles`, or "".

    >>> role_of("layers.0.attention.out", ATTENTION)
    'layers.0.attention'
    """
    parts = name.split(".")
    ends = (n for n, part in enumerate(parts) if part in roles)
    return ".".join(parts[: next(ends, -1) + 1])


def block_of(name: str) -> tuple[str, int] | None:
    """Return the name and the number of the block around a layer: the first module in a list.

    >>> block_of("layers.3.mlp.out"), block_of("head")
    (('layers.3', 3), None)
    """
    parts = name.split(".")
    place = next((n for n, part in enumerate(parts) if part.isdigit()), None)
    return None if place is None else (".".join(parts[: place + 1]), int(parts[place]))


def _add(
    name: str,
    slopes: Sequence[Tensor],
    seen: Sequence["_Seen"],
    made: Sequence[dict[str, Tensor]],
    kept: Sampling,
) -> None:
    """Give every site its part of what the network was differentiated for."""
    for slope, site, values in zip(slopes, seen, made, strict=True):
        turned = site.turn(slope)
        values[name] = turned[_chosen(len(turned), kept.rows, kept)].float()


def _moved(values: Mapping[str, Tensor], device: torch.device | str | None) -> dict[str, Tensor]:
    return {name: value if device is None else value.to(device) for name, value in values.items()}


def _terminals(site: _Seen, asked: frozenset[str], kept: Sampling) -> dict[str, Tensor]:
    """Return the wanted terminals of a site that one pass gives, and free what it held."""
    x, y = site.x, site.y
    dy = site.dy if asked & DIFFERENTIATED else torch.zeros_like(y)
    site.tokens, told_apart = x.shape[1], site.per_sequence
    site.inputs, site.outputs, site.slopes = [], [], []
    weight = site.turn(site.weight.detach()).float()
    sequences = site.shape[0]
    rows, tokens = _chosen(len(weight), kept.rows, kept), _chosen(x.shape[1], kept.tokens, kept)
    made: dict[str, Callable[[], Tensor]] = {
        "W": weight[rows].clone,
        "noise": lambda: _noise(site.name, weight.shape, kept.seed)[rows].to(weight.device),
        "x": lambda: x[:, tokens],
        "dx": lambda: dy[:, tokens] @ weight,
        "y": lambda: y[:, tokens][..., rows],
        "dy": lambda: dy[:, tokens][..., rows],
        "x_norm": lambda: _wide(x).square().sum(0, keepdim=True).div(sequences).sqrt(),
        "x_mean": lambda: _wide(x).mean(0, keepdim=True),
        "x_var": lambda: _wide(x).var(0, correction=0, keepdim=True),
        "x_max": lambda: x.flatten(0, 1).abs().amax(0, keepdim=True),
        "y_norm": lambda: _wide(y[..., rows]).square().sum(0).div(sequences).sqrt()[:, None],
    }
    if site.reads_heads:
        made["heads"] = made["x"]
    if site.attention:
        made["attention"] = lambda: torch.cat(site.attention, dim=2).detach()[:, :, tokens]
    found = {name: make().float() for name, make in made.items() if name in asked}
    return found | _gradients(x, dy[..., rows], asked, per_sequence=told_apart)


def _gradients(
    x: Tensor, dy: Tensor, asked: frozenset[str], *, per_sequence: bool
) -> dict[str, Tensor]:
    """Sum each sequence's gradient of the weight, its square and its magnitude over sequences.

    Those of the latter two that would need sequences which cannot be told apart are left out.
    """
    wanted = asked & (GRADIENTS if per_sequence else frozenset({"g"}))
    sums = {name: x.new_zeros(dy.shape[-1], x.shape[-1]) for name in sorted(wanted)}
    for inputs, slopes in zip(x, dy, strict=True) if wanted else ():
        gradient = slopes.T @ inputs
        if "g" in wanted:
            sums["g"] += gradient
        if "g_norm" in wanted:
            sums["g_norm"] += gradient.square()
        if "g_abs" in wanted:
            sums["g_abs"] += gradient.abs()
    if "g_norm" in wanted:
        sums["g_norm"].sqrt_()
    return sums


def _wide(value: Tensor) -> Tensor:
    """Return (all tokens, features) in float64."""
    return value.flatten(0, 1).double()


def _chosen(size: int, most: int | None, kept: Sampling) -> Tensor | slice:
    """Return which of `size` places are kept, in order."""
    if most is None or most >= size:
        return slice(None)
    draw = torch.Generator().manual_seed(kept.seed)
    return torch.randperm(size, generator=draw)[:most].sort().values


def _noise(name: str, shape: torch.Size, seed: int) -> Tensor:
    """Return uniform noise in [0, 1) that belongs to a layer and a seed."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    draw = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.rand(shape, generator=draw)


def _places(seen: Sequence[_Seen], asked: frozenset[str]) -> list[dict[str, Tensor]]:
    """Return what tells of each site where it is; outside of blocks there is no number.

    A role that no site has is not told of any: then its modules have names that nobody knows, and
    0 would say that there are none.
    """
    begun: set[str] = set()
    roles = {
        name: role
        for name, role in (("is_attention", ATTENTION), ("is_mlp", MLP))
        if any(role_of(site.name, role) for site in seen)
    }
    made = []
    for site in seen:
        d_out, d_in = site.turn(site.weight).shape
        block = block_of(site.name)
        values = {
            "fan_in": d_in,
            "fan_out": d_out,
            "is_first": block is not None and block[0] not in begun,
            **{name: bool(role_of(site.name, role)) for name, role in roles.items()},
        }
        if block is not None:
            begun.add(block[0])
            values["block_index"] = block[1]
        place = site.weight.device
        made.append(
            {n: torch.tensor([[float(v)]], device=place) for n, v in values.items() if n in asked}
        )
    return made


def _add_order_changes(
    network: nn.Module,
    batch: Batch,
    seen: Sequence[_Seen],
    made: Sequence[dict[str, Tensor]],
    kept: Sampling,
) -> None:
    """Give sites that read attention heads what changes there with the order of earlier tokens.

    The earlier half of each sequence's tokens is put in reverse. Compared are the places of the
    later half, which have the tokens that they had: a network that sees a set and no order gives
    the same there. 0 at the earlier half, and where the change is no more than rounding.
    """
    again = {id(site.weight): site for site in _observe(network, _turned_round(batch), None)}
    for site, values in zip(seen, made, strict=True):
        other = again.get(id(site.weight))
        if site.reads_heads and site.per_sequence and other is not None:
            change = _order_change(site, other)
            values["order_change"] = change[:, _chosen(change.shape[1], kept.tokens, kept)]


def _order_change(site: _Seen, other: _Seen) -> Tensor:
    before, tokens = site.x, site.shape[1]
    change = other.x - before
    earlier = torch.arange(change.shape[1], device=change.device) % tokens < tokens // 2
    rounding = 16 * torch.finfo(site.inputs[0].dtype).eps * before.abs().max()
    change[:, earlier] = 0.0
    change[change.abs() <= rounding] = 0.0
    return change


def _turned_round(batch: Batch) -> Batch:
    """Return a batch whose earlier half of each sequence's tokens is in reverse."""

    def turned(value: Tensor) -> Tensor:
        half = value.shape[1] // 2
        return torch.cat([value[:, :half].flip(1), value[:, half:]], dim=1)

    if not isinstance(batch, Mapping):
        return turned(batch)
    of_tokens = ("input_ids", "attention_mask", "token_type_ids")
    return {
        name: turned(value) if name in of_tokens and value.ndim == 2 else value
        for name, value in batch.items()
    }


def _hessian_products(
    network: nn.Module, batch: Batch, causal: bool | None, weights: Sequence[nn.Parameter]
) -> list[Tensor]:
    """Return H g of the summed loss, where g = dL/dW of all weights together and H = d2L/dW2.

    That is the gradient of <g, stopgrad(g)>. Source: Wang et al. 2020, arXiv:2002.07376.
    """
    for weight in weights:
        weight.requires_grad_(True)
    loss = sequence_losses(network, batch, causal).sum()
    slopes = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
    product = torch.stack([(slope * slope.detach()).sum() for slope in slopes]).sum()
    found = torch.autograd.grad(product, weights, materialize_grads=True)
    for weight in weights:
        weight.requires_grad_(False)
    return list(found)


def synaptic_flow(
    network: nn.Module, batch: Batch, weights: Sequence[nn.Parameter]
) -> tuple[float, list[Tensor]]:
    """Return log R and (dR/dW) / R of the linearised network, computed in float64.

    R is the sum of the logits of one sequence whose embedded tokens are all ones, with every
    parameter made positive and every norm left out; activations stay. Probabilities that an
    `nn.Softmax` gives are constants: scores are so large here that the slope through them is zero
    but for rounding, which deep networks blow up beyond float64. log R is not finite where R
    overflows. Source: Tanaka et al. 2020, arXiv:2006.05467.
    """
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    state = {n: p.detach().double().abs() for n, p in network.named_parameters()}
    state |= {n: b.double() for n, b in network.named_buffers() if b.is_floating_point()}
    watched = [state[names[id(weight)]].requires_grad_() for weight in weights]
    ids = batch["input_ids"] if isinstance(batch, Mapping) else batch
    args, kwargs = arguments_of(network, ids[:1])
    embedding = embedding_of(network)
    norms = [m for m in network.modules() if type(m).__name__.endswith("Norm")]
    hooks = [norm.register_forward_hook(lambda _, given, __: given[0]) for norm in norms]
    mixing = [module for module in network.modules() if isinstance(module, nn.Softmax)]
    hooks += [m.register_forward_hook(lambda _, __, made: made.detach()) for m in mixing]
    if embedding is not None:
        hooks.append(embedding.register_forward_hook(lambda _, __, made: torch.ones_like(made)))
    with hooked(hooks):
        output = torch.func.functional_call(network, state, args, kwargs)
        logarithm = _logits(output).sum().log()
        slopes = torch.autograd.grad(logarithm, watched, materialize_grads=True)
    if not all(bool(value.isfinite().all()) for value in (logarithm.detach(), *slopes)):
        return math.nan, []
    return float(logarithm.detach()), list(slopes)
