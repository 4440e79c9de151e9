"""What can be dropped whole: channels of feed-forwards, key-value groups of heads, decoder layers.

Channels and heads lie between matrices: some make them (their outputs), one reads them (its
inputs). Without its columns in the reader a unit has no effect, so zeros there compute the same as
a model that lacks it altogether.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from autoproxy.errors import ConfigError, ModelError, unknown_name
from evaluators.layers import Layer, decoder_layers, prunable, stack_name
from evaluators.statistics import hooked

UNITS = ("channels", "heads", "blocks")

_FEED_FORWARDS = (
    ("mlp.down_proj", ("mlp.gate_proj", "mlp.up_proj")),  # LLaMA, Mistral, Qwen, Gemma
    ("mlp.down_proj", ("mlp.gate_up_proj",)),  # Phi-3
    ("mlp.c_proj", ("mlp.c_fc",)),  # GPT-2
    ("mlp.dense_4h_to_h", ("mlp.dense_h_to_4h",)),  # GPT-NeoX
    ("fc2", ("fc1",)),  # OPT
)
"""Reader and makers of channels inside a decoder layer. A fused maker has all gates first."""

_ATTENTIONS = (
    ("self_attn.o_proj", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    ("self_attn.o_proj", ("self_attn.qkv_proj",)),  # Phi-3
)
"""Reader and makers of heads. A fused maker has all queries first, then keys, then values."""

_WIDTHS = ("ffn_dim", "n_inner", "intermediate_size")
"""What configurations call the number of channels."""

_NUMBERS = ("mlp_only_layers", "moe_layers")
"""Entries of configurations that are numbers of decoder layers."""

_OF_NO_LAYER = ("architectures", "bos_token_id", "eos_token_id", "pad_token_id")
"""Lists in configurations that are as long as there are decoder layers by chance alone."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Outputs of one matrix that make units: `width` consecutive ones each, from `start` on."""

    layer: str
    start: int
    width: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where units are that are compared with one another.

    Attributes:
        reader: Name of the matrix that reads them.
        count: How many there are.
        width: Columns of the reader that each has; they are consecutive.
        makers: Whose outputs they are.
    """

    reader: str
    count: int
    width: int
    makers: tuple[Rows, ...]


def check_unit(unit: str | None) -> str:
    """Return `unit`, or raise a ConfigError that says what there is."""
    if unit is None:
        raise ConfigError(
            "say what is to be dropped whole: --unit channels (of feed-forwards), heads (whole "
            "key-value groups) or blocks (decoder layers)"
        )
    if unit not in UNITS:
        raise ConfigError(unknown_name("unit", unit, UNITS))
    return unit


def places(model: PreTrainedModel, unit: str) -> list[Place]:
    """Return where the channels or heads of a model are, one place a decoder layer, in order.

    Args:
        model: Of a family whose layers have a known shape.
        unit: `channels` or `heads`; a unit of heads is a key-value group: one key-value head and
            all query heads that share it.

    Raises:
        ModelError: Its decoder layers are of another shape, or not all of one size.
    """
    find = _channels if unit == "channels" else _heads
    layers = prunable(model)
    roots = {module: name for name, module in model.named_modules()}
    found = [find(model, roots[block], block, layers) for block in decoder_layers(model)]
    if len({place.count for place in found}) > 1:
        raise ModelError(
            f"the decoder layers of the family {model.config.model_type!r} have different numbers "
            f"of {unit}, which cannot be shrunk alike; prune weights instead"
        )
    return found


def shrunk_config(
    model: PreTrainedModel, unit: str, kept: Sequence[int]
) -> tuple[PreTrainedConfig, dict[str, Any]]:
    """Return the configuration of the model with only some units left, and what differs in it.

    Args:
        model: As it is.
        unit: One of `UNITS`.
        kept: Numbers of the decoder layers that stay; of other units only the count matters.
    """
    config = model.config
    match unit:
        case "channels":
            name = next(name for name in _WIDTHS if hasattr(config, name))
            changes: dict[str, Any] = {name: len(kept)}
        case "heads":
            queries, groups, width = _head_counts(model)
            changes = {
                "num_attention_heads": len(kept) * (queries // groups),
                "num_key_value_heads": len(kept),
                "head_dim": width,  # else it would follow from the number of heads
            }
        case _:
            changes = {"num_hidden_layers": len(kept), **_shorter_lists(config, kept)}
    changes = {config.attribute_map.get(name, name): value for name, value in changes.items()}
    return type(config).from_dict({**config.to_dict(), **changes}), changes


def _shorter_lists(config: PreTrainedConfig, kept: Sequence[int]) -> dict[str, list[Any]]:
    """Return the lists of a configuration that speak of decoder layers, of those that stay."""
    changes: dict[str, list[Any]] = {}
    for name, held in config.to_dict().items():
        if not isinstance(held, list | tuple) or name in _OF_NO_LAYER:
            continue
        if name in _NUMBERS:
            changes |= {name: [new for new, old in enumerate(kept) if old in held]} if held else {}
        elif len(held) == config.num_hidden_layers:  # a word for each
            changes[name] = [held[number] for number in kept]
    return changes


def check_expressible(model: PreTrainedModel, unit: str, kept: int) -> None:
    """See that a plain configuration can say that only `kept` units are left in each place.

    Raises:
        ModelError: The family's configuration has no word for it.
    """
    wanted = {name: tuple(p.shape) for name, p in model.named_parameters()}
    try:
        config, _ = shrunk_config(model, unit, range(kept))
        with torch.device("meta"):
            planned = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    except Exception as error:
        cause = str(error.__cause__ or error).rstrip(".")
        raise _inexpressible(model, unit, f"{cause}{_what_can_be_said(model, unit)}") from error
    if unit == "blocks":
        stack = f"{stack_name(model)}."
        gone = {f"{stack}{number}" for number in range(kept, len(decoder_layers(model)))}
        depth = stack.count(".") + 1
        wanted = {n: s for n, s in wanted.items() if ".".join(n.split(".")[:depth]) not in gone}
    else:
        for place in places(model, unit):
            wanted |= _cut_shapes(model, place, kept)
    found = {name: tuple(p.shape) for name, p in planned.named_parameters()}
    if found != wanted:
        name = min(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n))
        raise _inexpressible(model, unit, f"{name} would not be {wanted.get(name)}")


def without_columns(place: Place, keep: Tensor, weight: Tensor) -> Tensor:
    """Return the mask of the reader's weight that stops it reading what is dropped.

    Args:
        place: Where the units are.
        keep: (1, units) bool, True = keep.
        weight: (d_out, d_in) of the reader.

    Returns:
        (d_out, d_in) bool, True = keep; a view with one row.
    """
    return keep.to(weight.device).repeat_interleave(place.width, dim=1).expand(weight.shape)


@contextmanager
def passed_by(model: PreTrainedModel, dropped: Sequence[int]) -> Iterator[None]:
    """Make decoder layers hand on what they are given, for the block.

    They still compute; a model that lacks them does not.

    Args:
        model: The same afterwards.
        dropped: Numbers of the decoder layers, from 0.
    """
    stack = decoder_layers(model)
    with hooked(
        stack[number].register_forward_hook(_hand_on, with_kwargs=True) for number in dropped
    ):
        yield


def cut(model: PreTrainedModel, unit: str, keep: Sequence[Tensor]) -> dict[str, Any]:
    """Take units out of a model for good, and say so in its configuration.

    The model is fit to be saved, not to be run: its modules know their old sizes.

    Args:
        model: Is changed.
        unit: One of `UNITS`.
        keep: (units,) bool of each place, True = keep; for blocks one place, all decoder layers.

    Returns:
        What differs in the configuration.
    """
    kept: list[int] = keep[0].nonzero().flatten().tolist()
    config, changes = shrunk_config(model, unit, kept)
    if unit == "blocks":
        stack = decoder_layers(model)
        model.set_submodule(stack_name(model), nn.ModuleList(stack[number] for number in kept))
    else:
        layers = prunable(model)
        for place, stays in zip(places(model, unit), keep, strict=True):
            _cut_place(layers, place, stays)
    model.config = config
    return changes


def _channels(
    model: PreTrainedModel, root: str, block: nn.Module, layers: Mapping[str, Layer]
) -> Place:
    reader, makers = _found(model, "channels", _FEED_FORWARDS, root, block, layers)
    count = layers[reader].in_features
    rows = []
    for maker in makers:
        parts, rest = divmod(layers[maker].out_features, count)
        if rest or parts not in {1, 2}:
            raise _unknown(model, "channels", f"{maker} has {layers[maker].out_features} outputs")
        rows += [Rows(maker, part * count, 1) for part in range(parts)]
    _refuse_others(model, "channels", reader, makers, ())
    return Place(reader, count, 1, tuple(rows))


def _heads(
    model: PreTrainedModel, root: str, block: nn.Module, layers: Mapping[str, Layer]
) -> Place:
    reader, makers = _found(model, "heads", _ATTENTIONS, root, block, layers)
    queries, groups, width = _head_counts(model)
    shared = queries // groups * width  # of the queries, a group has this many rows
    sizes = (shared, width, width)
    if layers[reader].in_features != queries * width:
        raise _unknown(model, "heads", f"{reader} reads {layers[reader].in_features} numbers")
    if len(makers) == 1:
        starts = (0, groups * shared, groups * (shared + width))
        rows = [Rows(makers[0], s, size) for s, size in zip(starts, sizes, strict=True)]
        expected = [groups * (shared + 2 * width)]
    else:
        rows = [Rows(maker, 0, size) for maker, size in zip(makers, sizes, strict=True)]
        expected = [groups * size for size in sizes]
    if [layers[maker].out_features for maker in makers] != expected:
        raise _unknown(model, "heads", f"{makers[0]} and its like have other outputs")
    _refuse_others(model, "heads", reader, makers, (width,))
    return Place(reader, groups, shared, tuple(rows))


def _head_counts(model: PreTrainedModel) -> tuple[int, int, int]:
    """Return query heads, key-value heads, and the width of a head.

    Raises:
        ModelError: The former are not shared out evenly.
    """
    config = model.config.get_text_config()
    queries = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or queries)
    if queries % groups:
        raise ModelError(
            f"{queries} query heads cannot be shared evenly by {groups} key-value heads, so no "
            "group of heads can be dropped; mend config.json, or give another --unit"
        )
    width = getattr(config, "head_dim", None) or int(config.hidden_size) // queries
    return queries, groups, int(width)


def _found(
    model: PreTrainedModel,
    unit: str,
    shapes: Sequence[tuple[str, tuple[str, ...]]],
    root: str,
    block: nn.Module,
    layers: Mapping[str, Layer],
) -> tuple[str, tuple[str, ...]]:
    """Return the names of reader and makers in a decoder layer."""
    for reader, makers in shapes:
        names = [f"{root}.{part}" for part in (reader, *makers)]
        if all(name in layers for name in names):
            return names[0], tuple(names[1:])
    raise _unknown(model, unit, f"{type(block).__name__} has none of the known shapes")


def _refuse_others(
    model: PreTrainedModel,
    unit: str,
    reader: str,
    makers: Sequence[str],
    shape: tuple[int, ...],
) -> None:
    """Refuse a module with parameters besides, which may have a number for each unit.

    Args:
        model: Whose modules they are.
        unit: What is to be dropped.
        reader: See `Place`.
        makers: See `Place`.
        shape: That others may have, such as the norm of a single head.
    """
    owner = reader.rpartition(".")[0]
    if owner in set(stack_names(model)):  # OPT has its feed-forward in the decoder layer itself
        return
    for name, parameter in model.get_submodule(owner).named_parameters():
        whose = f"{owner}.{name}".rpartition(".")[0]
        if whose not in {reader, *makers} and tuple(parameter.shape) != shape:
            raise _unknown(model, unit, f"{owner}.{name} is not known")


def stack_names(model: PreTrainedModel) -> list[str]:
    """Return the dotted names of the decoder layers."""
    stack = stack_name(model)
    return [f"{stack}.{number}" for number in range(len(decoder_layers(model)))]


def _unknown(model: PreTrainedModel, unit: str, why: str) -> ModelError:
    return ModelError(
        f"the {unit} of the family {model.config.model_type!r} cannot be dropped whole: {why}; "
        "give a LLaMA, Mistral, Qwen, Gemma or Phi-3 without experts, another --unit (blocks "
        "go in every family), or prune weights"
    )


def _what_can_be_said(model: PreTrainedModel, unit: str) -> str:
    """Return how many units a configuration can leave, in words; LLaMA's heads divide its width."""
    if unit != "heads":
        return ""
    _, groups, _ = _head_counts(model)
    possible = []
    for kept in range(1, groups):
        with suppress(Exception):
            shrunk_config(model, unit, range(kept))
            possible.append(str(kept))
    return f" (of {groups} key-value groups it can keep {' or '.join(possible) or 'all alone'})"


def _inexpressible(model: PreTrainedModel, unit: str, why: str) -> ModelError:
    return ModelError(
        f"a configuration of the family {model.config.model_type!r} cannot say that it has fewer "
        f"{unit}: {why}; give another --unit, or prune weights"
    )


def _cut_shapes(model: PreTrainedModel, place: Place, kept: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a place's parameters with only `kept` units left."""
    layers = prunable(model)
    less = place.count - kept
    sizes = {place.reader: [layers[place.reader].out_features, kept * place.width]}
    for rows in place.makers:
        size = sizes.setdefault(
            rows.layer, [layers[rows.layer].out_features, layers[rows.layer].in_features]
        )
        size[0] -= less * rows.width
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (d_out, d_in) in sizes.items():
        shapes[f"{name}.weight"] = (d_in, d_out) if layers[name].turned else (d_out, d_in)
        if getattr(layers[name].module, "bias", None) is not None:
            shapes[f"{name}.bias"] = (d_out,)
    return shapes


def _cut_place(layers: Mapping[str, Layer], place: Place, keep: Tensor) -> None:
    """Take the columns of the reader and the rows of the makers that units have."""
    stays: dict[str, Tensor] = {}
    for rows in place.makers:
        kept = stays.setdefault(
            rows.layer, torch.ones(layers[rows.layer].out_features, dtype=torch.bool)
        )
        size = place.count * rows.width
        kept[rows.start : rows.start + size] = keep.repeat_interleave(rows.width)
    for name, kept in stays.items():
        _replace(layers[name], layers[name].weight[kept], kept)
    columns = keep.repeat_interleave(place.width)
    _replace(layers[place.reader], layers[place.reader].weight[:, columns], None)


def _replace(layer: Layer, weight: Tensor, rows: Tensor | None) -> None:
    """Give a layer another weight, (out, in), and only some rows of its bias."""
    own = (weight.T if layer.turned else weight).contiguous()
    layer.module.register_parameter("weight", nn.Parameter(own, requires_grad=False))
    bias = getattr(layer.module, "bias", None)
    if bias is not None and rows is not None:
        held = nn.Parameter(bias.detach()[rows].clone(), requires_grad=False)
        layer.module.register_parameter("bias", held)


def _hand_on(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """Return what a decoder layer was given in place of what it made of it."""
    del module
    given = args[0] if args else kwargs["hidden_states"]
    return (given, *output[1:]) if isinstance(output, tuple) else given
