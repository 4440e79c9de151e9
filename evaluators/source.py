"""The files of a model, read before any weight is loaded: types, sizes, what can be pruned."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import load_state_dict
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

from autoproxy.errors import ModelError, out_of_memory
from evaluators.layers import prunable
from evaluators.models import DTYPES, locate

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""In the order in which transformers looks for them, each followed by its index of shards."""


@dataclass(frozen=True, slots=True)
class Source:
    """A model's files, and what they hold.

    Attributes:
        name: What the user calls it.
        folder: Where the files are: the user's own folder, or a snapshot of a hub.
        types: Type of each tensor of floating point in the files, by its name there.
        parameters: How many numbers the model has, those that it shares counted once.
        shapes: (d_out, d_in) of every layer that can be pruned, by name.
    """

    name: str
    folder: Path
    types: Mapping[str, torch.dtype]
    parameters: int
    shapes: Mapping[str, tuple[int, int]]

    @property
    def dtype(self) -> str:
        """The narrowest type that holds every tensor of the files exactly."""
        return _word(functools.reduce(torch.promote_types, set(self.types.values())))

    @property
    def prunable_weights(self) -> int:
        """How many weights there are in layers that can be pruned."""
        return sum(d_out * d_in for d_out, d_in in self.shapes.values())


def find_source(name: str) -> Source:
    """Find the files of a model, fetching them first where a hub has them.

    Nothing is loaded: types come from the files' heads, sizes from the configuration.

    Args:
        name: `starter`, a folder, or a name on a model hub.

    Raises:
        ModelError: There is no such model, it cannot be read, or its weights are quantised.
    """
    where, config = locate(name)
    planned = _planned(name, config)
    files = weight_files(name, where)
    layers = prunable(planned)
    return Source(
        name=name,
        folder=files[0].parent,
        types=_types(name, files),
        parameters=sum(parameter.numel() for parameter in planned.parameters()),
        shapes={n: (layer.out_features, layer.in_features) for n, layer in layers.items()},
    )


def planned_model(name: str, **how: Any) -> PreTrainedModel:
    """Return a model as its configuration describes it, without memory for its numbers.

    Args:
        name: `starter`, a folder, or a name on a model hub.
        how: What transformers is told besides, such as the type of numbers.

    Raises:
        ModelError: There is no such model, or its configuration makes none.
    """
    return _planned(name, locate(name)[1], **how)


def _planned(name: str, config: PreTrainedConfig, **how: Any) -> PreTrainedModel:
    try:
        with torch.device("meta"):
            build: Any = AutoModelForCausalLM.from_config
            model: PreTrainedModel = build(config, **how)
    except Exception as error:
        if out_of_memory(error):
            raise
        raise ModelError(
            f"model {name!r} cannot be loaded: its configuration makes no model ({error}); give "
            "the folder of a complete Hugging Face causal language model"
        ) from error
    return model


def weight_files(name: str, where: str) -> list[Path]:
    """Return the files that transformers reads a model's weights of.

    Args:
        name: What the user calls the model.
        where: What `locate` says of it.

    Raises:
        ModelError: There are none, or one of several lacks.
    """
    find: Any = functools.partial(cached_file, where, _raise_exceptions_for_missing_entries=False)
    try:
        for file in _WEIGHTS:
            if whole := find(file):
                return [Path(whole)]
            if index := find(f"{file}.index.json"):
                shards, _ = get_checkpoint_shard_files(where, index)  # type: ignore[no-untyped-call]
                return _present(name, [Path(shard) for shard in shards])
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"model {name!r} cannot be loaded: {str(error).splitlines()[0]}; give a folder that "
            "was saved whole"
        ) from None
    raise ModelError(
        f"model {name!r} has none of {', '.join(_WEIGHTS)} or their indices; save it with "
        "save_pretrained"
    )


def _present(name: str, shards: list[Path]) -> list[Path]:
    """Return shards that are all there."""
    lost = [shard.name for shard in shards if not shard.is_file()]
    if lost:
        raise ModelError(
            f"model {name!r} lacks {len(lost)} of its {len(shards)} files of weights, such as "
            f"{lost[0]}; fetch or copy the folder again"
        )
    return shards


def _types(name: str, files: list[Path]) -> dict[str, torch.dtype]:
    """Return the type of every tensor of floating point in some files, by its name there."""
    found: dict[str, torch.dtype] = {}
    for file in files:
        try:
            heads = load_state_dict(file, map_location="meta")
        except Exception as error:
            raise ModelError(
                f"model {name!r} cannot be loaded: {file.name} is damaged ({error}); give the "
                "folder of a complete Hugging Face model"
            ) from error
        # Buffers such as GPT-2's causal mask are no weights.
        floats = {n: head.dtype for n, head in heads.items() if head.is_floating_point()}
        for tensor, held in floats.items():
            if held not in DTYPES.values():
                raise ModelError(
                    f"model {name!r} holds {tensor} as {_word(held)}; what can be written pruned "
                    f"is {', '.join(DTYPES)}"
                )
        found |= floats
    if not found:
        raise ModelError(f"model {name!r} has no weights in {files[0].name}")
    return found


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
