"""Writing a pruned model: a plain Hugging Face folder, and beside its weights the masks as bits."""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor

from autoproxy.errors import ModelError
from evaluators.layers import prunable
from evaluators.masks import count_bits, mask_hash, unpack
from evaluators.models import LoadedModel, load_model
from evaluators.room import SHARD_BYTES
from evaluators.source import Source

MASKS = "masks.safetensors"
INDEX = "model.safetensors.index.json"
MASKS_WORD = "autoproxy_masks"
"""The one entry of the masks' metadata. With several the library writes them in another order each
time, and the same masks would not be the same file."""

MASKS_VERSION = 1

COMPANIONS = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("*.model", "*.tiktoken", "*.jinja", "generation_config.json"),
    *("LICENSE*", "NOTICE*", "USE_POLICY*"),
)
"""Files of the source that go along as they are. What save_pretrained of transformers 5 makes of
them (such as the class TokenizersBackend) cannot be read by other programs and older versions."""

_FOREIGN = frozenset({"sparsity_config", "quantization_config", "compression_config"})
"""Entries that must not be in a configuration: readers refuse a plain folder that has them."""


def write_pruned(
    source: Source,
    masks: Mapping[str, NDArray[np.uint8]],
    folder: Path,
    notice: Callable[[str], None],
    *,
    changed: Mapping[str, Tensor] = MappingProxyType({}),
) -> dict[str, Any]:
    """Write the model with zeros where masks drop a weight, its tokenizer, and the masks.

    Weights keep the types of the source's files. Nothing in the configuration says that the model
    is pruned, so it loads wherever the source does.

    Args:
        source: The model's files.
        masks: Packed bits of each prunable layer, (d_out, d_in), True = keep.
        folder: An existing folder, filled with `*.safetensors`, their index, `masks.safetensors`,
            `config.json`, and what belongs to the tokenizer.
        notice: Told of tensors in the files that the model has no use for, which are left out, and
            of new weights that the files' types cannot hold exactly, which are rounded.
        changed: (d_out, d_in) new weights of layers where more than zeros is new; zero where the
            mask drops one, and in any type.

    Returns:
        What `counts` says.

    Raises:
        ModelError: The source cannot be loaded, or its types cannot hold the new weights.
        OSError: The folder cannot be written.
    """
    if changed:
        _check_held(source, changed, notice)
    loaded = load_model(source.name, device="cpu", dtype=source.dtype)
    note_unread(loaded, notice)
    _apply(loaded, masks, changed)
    try:
        save_folder(loaded, source, folder)
        write_masks(folder / MASKS, masks, source.shapes)
        let_read(folder)
    except SafetensorError as error:
        raise OSError(str(error)) from None
    return counts(source, masks)


def note_unread(loaded: LoadedModel, notice: Callable[[str], None]) -> None:
    """Tell of tensors in a model's files that will not be written, where there are any."""
    if loaded.unread:
        notice(
            f"{len(loaded.unread)} tensors of the files (such as {loaded.unread[0]}) are not part "
            "of the model and are left out"
        )


def write_masks(
    path: Path,
    masks: Mapping[str, NDArray[np.uint8]],
    shapes: Mapping[str, tuple[int, int]],
) -> None:
    """Write masks as bits, one uint8 tensor a layer, with their shapes in the metadata.

    Args:
        path: File to write.
        masks: Packed bits of each layer: rows one after another, the first weight in the highest
            bit of the first byte, 1 = keep, as `numpy.packbits` packs.
        shapes: (d_out, d_in) of each layer, whichever way round its file stores it.
    """
    words = {
        "version": MASKS_VERSION,
        "bits": "numpy.packbits of (d_out, d_in), row by row, big-endian, 1 = keep",
        "shapes": {name: list(shapes[name]) for name in masks},
    }
    save_arrays(dict(masks), path, metadata={MASKS_WORD: json.dumps(words)})


def read_masks(path: Path) -> dict[str, Tensor]:
    """Return the masks that `write_masks` wrote, (d_out, d_in) bool each, True = keep.

    Raises:
        ModelError: The file holds something else.
    """
    try:
        with safe_open(path, framework="np") as held:
            words = json.loads((held.metadata() or {}).get(MASKS_WORD, "{}"))
            if words.get("version") == MASKS_VERSION:
                return {
                    name: unpack(held.get_tensor(name), torch.empty(shape, dtype=torch.bool))
                    for name, shape in words["shapes"].items()
                }
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    raise ModelError(f"{path} holds no masks of version {MASKS_VERSION} of this program")


def counts(source: Source, masks: Mapping[str, NDArray[np.uint8]]) -> dict[str, Any]:
    """Return how much masks drop, of each layer and in all, as plain values.

    Returns:
        `dtype` of the files, `parameters` of the model, `weights` that could be dropped,
        `dropped`, `sparsity` of those weights, `mask_hash`, and `layers`: `shape`, `dropped` and
        `sparsity` of each.
    """
    layers: dict[str, dict[str, Any]] = {}
    for name, bits in masks.items():
        d_out, d_in = source.shapes[name]
        # The bits that fill up the last byte are zero, and count for nothing.
        dropped = d_out * d_in - count_bits(bits)
        layers[name] = {
            "shape": [d_out, d_in],
            "dropped": dropped,
            "sparsity": dropped / (d_out * d_in),
        }
    total: int = sum(layer["dropped"] for layer in layers.values())
    return {
        "dtype": source.dtype,
        "parameters": source.parameters,
        "weights": source.prunable_weights,
        "dropped": total,
        "sparsity": total / source.prunable_weights,
        "mask_hash": mask_hash(masks.values()),
        "layers": layers,
    }


def finite(value: float) -> float | None:
    """Return a number that JSON can hold, or None for one that it cannot."""
    return value if math.isfinite(value) else None


def _check_held(
    source: Source, changed: Mapping[str, Tensor], notice: Callable[[str], None]
) -> None:
    """See that new weights can be written in the types of the source, and tell of rounding.

    Raises:
        ModelError: One is too large for the narrowest of the types.
    """
    types = set(source.types.values())
    most = min(torch.finfo(held).max for held in types)
    for name, weight in changed.items():
        if weight.abs().max() > most:
            raise ModelError(
                f"the new weights of {name} are too large for the types of the model's files "
                f"(largest {float(weight.abs().max()):.3g}, they hold {most:.3g}); save the model "
                "in bfloat16 or float32 and prune that"
            )
    made = next(iter(changed.values())).dtype
    if narrower := {held for held in types if torch.promote_types(held, made) != held}:
        words = " and ".join(sorted(str(held).removeprefix("torch.") for held in narrower))
        notice(f"new weights are rounded to the types of the model's files ({words})")


def _apply(
    loaded: LoadedModel,
    masks: Mapping[str, NDArray[np.uint8]],
    changed: Mapping[str, Tensor],
) -> None:
    """Put new weights in their places and zero what the masks drop, for good."""
    layers = prunable(loaded.model)
    for name, bits in masks.items():
        weight = layers[name].weight
        if name in changed:
            weight.copy_(changed[name])
        weight.masked_fill_(~unpack(bits, weight), 0.0)


def save_folder(
    loaded: LoadedModel,
    source: Source,
    folder: Path,
    save: Callable[[Path], None] | None = None,
) -> None:
    """Write a model as it is now, in the types of its source, with all that belongs to it.

    Args:
        loaded: The model.
        source: Its files.
        folder: An existing folder.
        save: Writes tensors and configuration into it, where the library is not to.
    """
    if save is None:
        loaded.model.save_pretrained(folder, max_shard_size=SHARD_BYTES)
    else:
        save(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)  # the source's goes along, if any
    loaded.tokenizer.save_pretrained(folder)
    if {parameter.dtype for parameter in loaded.model.parameters()} != {*source.types.values()}:
        _restore_types(folder, source.types)
    _write_index(folder)
    for pattern in COMPANIONS:
        for path in source.folder.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
    _write_config(source.folder / "config.json", folder / "config.json")


def _restore_types(folder: Path, types: Mapping[str, torch.dtype]) -> None:
    """Give each tensor the type that it has in the source; it was loaded in the widest.

    A source that was saved without a head lacks the first word of each name.
    """
    for path in _weights(folder):
        kept = {}
        for name, value in load_file(path).items():
            bare = name.partition(".")[2]
            kept[name] = value.to(types.get(name, types.get(bare, value.dtype)))
        part = path.with_suffix(".part")
        save_file(kept, part, metadata={"format": "pt"})
        part.replace(path)


def _write_index(folder: Path) -> None:
    """Say in which file each tensor is, even of one file.

    Programs that read every `*.safetensors` of a folder (vLLM, SGLang) go by the index where there
    is one, and leave the masks alone.
    """
    size, places = 0, dict[str, str]()
    for path in _weights(folder):
        with safe_open(path, framework="pt") as held:
            places |= dict.fromkeys(held.keys(), path.name)
        with path.open("rb") as file:
            head = int.from_bytes(file.read(8), "little")
        size += path.stat().st_size - 8 - head
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _weights(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob("model*.safetensors"))


def let_read(folder: Path) -> None:
    """Let all read the weights who may read the rest; safetensors writes for the owner alone."""
    mode = (folder / "config.json").stat().st_mode
    for path in folder.glob("*.safetensors"):
        path.chmod(mode)


def _write_config(source: Path, written: Path) -> None:
    """Keep the source's own configuration, which older programs can read too.

    Only the class is that of the model as written: the source may have been saved without a head,
    or have parts that a language model has not.
    """
    config: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    saved: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
    if config.get("model_type") != saved["model_type"]:
        config = saved
    kept = {name: value for name, value in config.items() if name not in _FOREIGN}
    kept["architectures"] = saved["architectures"]
    written.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
