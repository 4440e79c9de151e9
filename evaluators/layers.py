"""Which matrices of a language model are pruned: found by what modules are, not by their names.

Decoder layers are the modules that transformers itself marks as such; inside them every linear
layer is pruned, however the family stores it: `nn.Linear` (out, in), GPT-2's `Conv1D` (in, out),
and experts fused into one three-dimensional parameter (expert, out, in). Routers stay dense.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from autoproxy.errors import ModelError


@dataclass(frozen=True, slots=True)
class Layer:
    """One matrix that can be pruned, seen as (out, in) whatever the model's storage.

    Attributes:
        module: The module that computes with it.
        parameter: The model's own parameter, of which it is a view.
        turned: Whether the parameter is stored as (in, out).
        expert: Which expert's of a fused parameter (expert, out, in), None for the others.
    """

    module: nn.Module
    parameter: nn.Parameter
    turned: bool = False
    expert: int | None = None

    @property
    def weight(self) -> Tensor:
        """The live weight, (out, in), without gradients; writing to it changes the model."""
        return self.view(self.parameter.detach())

    @property
    def out_features(self) -> int:
        """How many outputs it has."""
        return self.weight.shape[0]

    @property
    def in_features(self) -> int:
        """How many inputs it reads."""
        return self.weight.shape[1]

    def view(self, like: Tensor) -> Tensor:
        """Return this layer's part of what is shaped as the parameter, such as its gradient."""
        part = like if self.expert is None else like[self.expert]
        return part.T if self.turned else part


def decoder_of(model: PreTrainedModel) -> nn.Module:
    """Return the module that gives last hidden states; a head may lie around a part of the base."""
    decoder: nn.Module = model.get_decoder()  # type: ignore[no-untyped-call]  # transformers 5.23
    return decoder


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Return the decoder layers of a model, first to last.

    Raises:
        ModelError: There are none that transformers marks as such, or more than one stack.
    """
    return _stack(model)[1]


def stack_name(model: PreTrainedModel) -> str:
    """Return the name of the list of decoder layers, such as `model.layers`."""
    return _stack(model)[0]


def prunable(model: PreTrainedModel) -> dict[str, Layer]:
    """Return every matrix inside the decoder layers that can be pruned, by dotted name, in order.

    Raises:
        ModelError: There is none, or one shares its weight with a parameter elsewhere, which
            pruning would change too.
    """
    root, stack = _stack(model)
    found: dict[str, Layer] = {}
    for name, module in stack.named_modules():
        for suffix, layer in () if _is_router(name) else _layers_of(module):
            found[f"{root}.{name}{suffix}"] = layer
    if not found:
        raise ModelError(f"the model has no linear layer in {root}; nothing can be pruned")
    _refuse_shared(model, found)
    return found


def skipped(model: PreTrainedModel) -> dict[str, str]:
    """Return the parameters with two dimensions or more that stay dense, each with the reason."""
    root, stack = _stack(model)
    taken = {id(layer.parameter) for layer in prunable(model).values()}
    reasons = {}
    for name, parameter in stack.named_parameters():
        if parameter.ndim >= 2 and id(parameter) not in taken:
            owner = stack.get_submodule(name.rpartition(".")[0])
            reasons[f"{root}.{name}"] = "a router" if _is_router(name) else _why(owner, parameter)
    return reasons


def in_words(reasons: Mapping[str, str]) -> str:
    """Return how many parameters stay dense for each reason, with an example."""
    first: dict[str, str] = {}
    for name, reason in reasons.items():
        first.setdefault(reason, name)
    counts = Counter(reasons.values())
    return "; ".join(f"{counts[r]} (such as {name}): {r}" for r, name in first.items())


def compared(model: PreTrainedModel, names: Iterable[str], group: str) -> list[list[str]]:
    """Return the names of layers in sets that are compared together.

    Args:
        model: Whose layers they are.
        names: Of its prunable layers, in order.
        group: `layer` for all of a decoder layer, `model` for all; every other for each alone.
    """
    if group == "model":
        return [list(names)]
    if group != "layer":
        return [[name] for name in names]
    root = _stack(model)[0]
    sets: dict[str, list[str]] = {}
    for name in names:
        number = name.removeprefix(f"{root}.").partition(".")[0]
        sets.setdefault(number, []).append(name)
    return list(sets.values())


def weights_of(layers: Mapping[str, Layer]) -> dict[str, Tensor]:
    """Return the live weights of layers, (out, in) each, without gradients."""
    return {name: layer.weight for name, layer in layers.items()}


def _stack(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    inside = set(decoder_of(model).modules())  # a model that sees images has a stack for them, too
    stacks = [
        (name, module)
        for name, module in model.named_modules()
        if module in inside
        and isinstance(module, nn.ModuleList)
        and len(module)
        and all(isinstance(layer, GradientCheckpointingLayer) for layer in module)
    ]
    if len(stacks) == 1:
        return stacks[0]
    family = model.config.model_type
    if not stacks:
        raise ModelError(
            f"the family {family!r} has no decoder layers that transformers marks as such, so it "
            "is not supported; give a causal language model such as LLaMA, Qwen, Gemma or GPT-2"
        )
    names = ", ".join(name for name, _ in stacks)
    raise ModelError(
        f"the family {family!r} has several stacks of layers ({names}), so it is not supported; "
        "give a causal language model with one"
    )


def _layers_of(module: nn.Module) -> Iterator[tuple[str, Layer]]:
    if isinstance(module, nn.Linear) and module.out_features > 1 and _is_plain(module):
        yield "", Layer(module, module.get_parameter("weight"))
    elif isinstance(module, Conv1D):
        yield "", Layer(module, module.get_parameter("weight"), turned=True)
    elif is_experts(module):
        for name, parameter in module.named_parameters(recurse=False):
            for expert in range(len(parameter)):
                yield f".{name}.{expert}", Layer(module, parameter, expert=expert)


def _is_router(name: str) -> bool:
    """Return whether a module chooses among experts, or is inside of what does.

    A plain linear layer that scores experts is told by nothing but what it is called.

    >>> [_is_router(name) for name in ("0.mlp.router.layer", "0.mlp.gate.wg", "0.mlp.gate_proj")]
    [True, True, False]
    """
    *owners, last = name.split(".")
    return any("router" in part for part in (*owners, last)) or "gate" in owners


def _is_plain(module: nn.Linear) -> bool:
    """Return whether a module computes what a linear layer does, by the shape of what it returns.

    Falcon's own does; a router's scores with choices, or a product of groups, do not.
    """
    if type(module) is nn.Linear:
        return True
    weight = module.weight
    probe = torch.zeros(2, module.in_features, dtype=weight.dtype, device=weight.device)
    compute: Callable[[Tensor], object] = module.forward
    try:
        with torch.no_grad():
            found = compute(probe)
    except (RuntimeError, ValueError, TypeError, IndexError):  # it takes another shape
        return False
    return isinstance(found, Tensor) and found.shape == (2, module.out_features)


def is_experts(module: nn.Module) -> bool:
    """Return whether a module holds experts as (expert, out, in), and nothing else.

    Shapes tell: Llama 4 and GPT-OSS hold them as (expert, in, out).
    """
    parameters = dict(module.named_parameters(recurse=False))
    if {"gate_up_proj", "down_proj"} != set(parameters):
        return False
    up, down = (parameters[name].shape for name in ("gate_up_proj", "down_proj"))
    if len(up) != 3 or len(down) != 3:
        return False
    return up[1] == 2 * down[2] and up[2] == down[1]


def _why(owner: nn.Module, parameter: nn.Parameter) -> str:
    if isinstance(owner, nn.Linear) and owner.out_features == 1:
        return "one output: a gate"
    if parameter.ndim == 3:
        return f"experts stored as {type(owner).__name__} does are not supported"
    return f"{type(owner).__name__} is no linear layer"


def _refuse_shared(model: PreTrainedModel, found: Mapping[str, Layer]) -> None:
    """Raise where a parameter under another name has the memory of a layer's."""
    homes = {module: name for name, module in model.named_modules()}
    owned: dict[int, tuple[str, str]] = {}  # address: (layer, its parameter's name)
    for layer_name, layer in found.items():
        own = next(n for n, p in layer.module.named_parameters() if p is layer.parameter)
        owned[_address(layer.parameter)] = (layer_name, f"{homes[layer.module]}.{own}")
    for name, parameter in model.named_parameters(remove_duplicate=False):
        layer_name, own = owned.get(_address(parameter), ("", name))
        if name != own:
            raise ModelError(
                f"{layer_name} shares its weight with {name}; it cannot be pruned alone"
            )


def _address(parameter: nn.Parameter) -> int:
    """Return where a parameter lies; a model that is only planned has no memory yet."""
    return id(parameter) if parameter.is_meta else parameter.data_ptr()
