"""Models larger than memory: decoder layers are read from safetensors one at a time, and let go.

Reading goes through transformers' own loader, given the tensors of one decoder layer instead of
all: names, fused experts and types come out as `load_model` has them, bit for bit.
"""

import contextlib
import ctypes
import functools
import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    __version__,
    conversion_mapping,
    core_model_loading,
    modeling_utils,
)

from autoproxy.errors import ConfigError, ModelError
from autoproxy.language.expression import Expression
from evaluators.calibrated import Calibrated
from evaluators.layers import Layer, decoder_layers, prunable, stack_name, weights_of
from evaluators.masks import unpack
from evaluators.models import (
    LoadedModel,
    digest_of,
    find_device,
    find_dtype,
    loading,
    locate,
    looks_local,
    name_of,
    refuse_incomplete,
)
from evaluators.perplexity import block_losses, losses_of, output_head
from evaluators.room import SHARD_BYTES
from evaluators.source import Source, planned_model, weight_files
from evaluators.starter import STARTERS
from evaluators.statistics import GRADIENTS, Statistics, collect_here
from evaluators.walk import Walk
from evaluators.writing import MASKS, counts, let_read, note_unread, save_folder, write_masks

_SPILL = ".layers"
"""Folder of pruned decoder layers on their way into the files of weights, inside the output."""


class Shelf:
    """A model whose decoder layers lie in its files, and are in memory while they are asked for.

    What is outside of them (embeddings, the last norm, the head) is in memory all the time. Where
    the types of the files are the model's, tensors are mapped from the files and not read.

    Args:
        source: `starter`, or a folder.
        device: Where it computes.
        dtype: A key of `DTYPES`.

    Attributes:
        model: In evaluation mode, without gradients; its decoder layers are planned alone.
        unread: Tensors of the files that it has no use for.

    Raises:
        ConfigError: Its weights are no safetensors.
        ModelError: It cannot be read.
    """

    def __init__(self, source: str, *, device: str, dtype: str) -> None:
        self._source = source
        self._device = find_device(device)
        self._dtype = find_dtype(dtype)
        where, _ = locate(source)
        with loading(source):
            self.model: PreTrainedModel = planned_model(
                source, dtype=self._dtype, experts_implementation="eager"
            )
            with _parts_of_transformers():
                self._conversions = conversion_mapping.get_model_conversion_mapping(self.model)
        self._root = stack_name(self.model)
        self._state = self.model.state_dict()  # planned: names, shapes and types
        self._keys = self._find_keys(_safetensors(source, where))
        self.unread: tuple[str, ...] = self._read_outside()

    @contextlib.contextmanager
    def resident(self, number: int) -> Iterator[dict[str, Layer]]:
        """Have a decoder layer in memory for the block; what is written to it is lost.

        Yields:
            Its matrices that can be pruned, by name, in order.
        """
        layer = decoder_layers(self.model)[number]
        _give_back_memory()  # of the one before
        self._read(number)
        layer.requires_grad_(requires_grad=False)
        inside = set(layer.modules())
        found = {n: one for n, one in prunable(self.model).items() if one.module in inside}
        try:
            yield found
        finally:
            found.clear()  # whoever still has it keeps no weights by it
            for module in inside:
                for name, held in module.named_parameters(recurse=False):
                    planned = torch.empty_like(held, device="meta")
                    setattr(module, name, nn.Parameter(planned, requires_grad=False))

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor by name, sorted, as the whole model's `state_dict` has them."""
        for number, names in itertools.groupby(sorted(self._state), self._home):
            with self._there(number):
                yield from self._tensors(names)

    def save(self, masks: Mapping[str, NDArray[np.uint8]], spill: Path, folder: Path) -> None:
        """Write what `save_pretrained` writes of the pruned model, but its settings of generation.

        Args:
            masks: Packed bits of each prunable layer, (d_out, d_in), True = keep.
            spill: New folder, with room for all decoder layers; it is gone afterwards.
            folder: An existing folder.
        """
        spill.mkdir()
        tensors = self._pruned(masks, spill)
        with _parts_of_transformers():
            library: Any = modeling_utils
            split = library.split_torch_state_dict_into_shards
            pattern = "model{suffix}.safetensors"
            plan = split(tensors, filename_pattern=pattern, max_shard_size=SHARD_BYTES)
        for file, names in plan.filename_to_tensors.items():
            held = {name: tensors[name].contiguous() for name in names}
            save_file(held, folder / file, metadata={"format": "pt"})
        config = self.model.config
        config.dtype = str(self._dtype).removeprefix("torch.")
        config.architectures = [type(self.model).__name__]
        config.save_pretrained(folder)
        shutil.rmtree(spill)

    def _pruned(self, masks: Mapping[str, NDArray[np.uint8]], spill: Path) -> dict[str, Tensor]:
        """Return what the files of the pruned model hold, in the order of `save_pretrained`.

        Decoder layers are mapped from files in `spill`.
        """
        inside = {name for name in self._state if self._home(name) is not None}
        outside = dict(self._tensors(self._state.keys() - inside))
        with _parts_of_transformers():
            outside = modeling_utils.remove_tied_weights_from_state_dict(outside, self.model)
        found: dict[str, Tensor] = {}
        names = sorted(inside | outside.keys(), key=core_model_loading.dot_natural_key)
        for number, group in itertools.groupby(names, self._home):
            found |= self._pruned_part(number, group, masks, spill)
        return found

    def _pruned_part(
        self,
        number: int | None,
        names: Iterable[str],
        masks: Mapping[str, NDArray[np.uint8]],
        spill: Path,
    ) -> dict[str, Tensor]:
        """Return what `_pruned` returns of one decoder layer, or of some outside of them."""
        with self._there(number) as layers, _parts_of_transformers():
            for name, layer in layers.items():
                weight = layer.weight
                weight.masked_fill_(~unpack(masks[name], weight), 0.0)
            part = dict(self._tensors(names))
            part = core_model_loading.revert_weight_conversion(self.model, part)
            return part if number is None else _mapped(part, spill / f"{number}.safetensors")

    def _tensors(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        held = self.model.state_dict()
        for name in names:
            yield name, held[name]

    @contextlib.contextmanager
    def _there(self, number: int | None) -> Iterator[dict[str, Layer]]:
        """Have a decoder layer in memory; None is what is outside of them, which always is."""
        if number is None:
            yield {}
            return
        with self.resident(number) as layers:
            yield layers

    def _home(self, name: str) -> int | None:
        """Return the number of the decoder layer that has a tensor, None for those outside."""
        number, dot, _ = name.removeprefix(f"{self._root}.").partition(".")
        inside = name.startswith(f"{self._root}.") and dot and number.isdecimal()
        return int(number) if inside else None

    def _find_keys(self, files: Iterable[Path]) -> dict[int | None, dict[str, Path]]:
        """Return where the tensors of each decoder layer lie, by their names in the files."""
        found: dict[int | None, dict[str, Path]] = {}
        for path in files:
            with loading(self._source), safe_open(path, framework="pt") as held:
                for key in held.keys():  # noqa: SIM118 - a file, not a dictionary
                    name = self._name_of(key)
                    home = self._home(name) if name in self._state else None
                    found.setdefault(home, {})[key] = path
        return found

    def _name_of(self, key: str) -> str:
        """Return what the model calls a tensor of the files, as the loader finds it."""
        internals = core_model_loading
        renamings = [c for c in self._conversions if isinstance(c, internals.WeightRenaming)]
        converters = [c for c in self._conversions if isinstance(c, internals.WeightConverter)]
        prefix = self.model.base_model_prefix
        with _parts_of_transformers():
            name, _ = internals.rename_source_key(key, renamings, converters, prefix, self._state)
        return key if name not in self._state and key in self._state else name

    def _read_outside(self) -> tuple[str, ...]:
        """Read what is outside of decoder layers; return what the files have in vain."""
        with loading(self._source):
            info = self._load(None)
            # Buffers without files, tied weights, exceptions of the family: the library's own way.
            with _parts_of_transformers():
                self.model._finalize_model_loading(self.model, self._how(), info)  # noqa: SLF001
        refuse_incomplete(self._source, missing=info.missing_keys, mismatched=info.mismatched_keys)
        self.model.loss_type = "ForCausalLM"  # as in load_model
        self.model.eval()  # type: ignore[no-untyped-call]  # transformers 5.23
        self.model.requires_grad_(requires_grad=False)
        return tuple(sorted(info.unexpected_keys))

    def _read(self, number: int) -> None:
        with loading(self._source):
            info = self._load(number)
        refuse_incomplete(self._source, missing=info.missing_keys, mismatched=info.mismatched_keys)

    def _load(self, number: int | None) -> Any:
        """Read the tensors of one decoder layer, or of what is outside, into the model."""
        keys = self._keys.get(number, {})
        with contextlib.ExitStack() as stack:
            # Opened anew each time: what is written to a mapped tensor stays with its file's map.
            files = {
                path: stack.enter_context(safe_open(path, framework="pt"))
                for path in sorted(set(keys.values()))
            }
            slices = {key: files[path].get_slice(key) for key, path in keys.items()}
            with _parts_of_transformers():
                load: Any = core_model_loading.convert_and_load_state_dict_in_model
                info, _ = load(self.model, slices, self._how())
                # Those used so far: the loader remembers those of its last call alone.
                model: Any = self.model
                model._weight_conversions = [c for c in self._conversions if c.was_used()]  # noqa: SLF001
        info.missing_keys = {name for name in info.missing_keys if self._home(name) == number}
        return info

    def _how(self) -> modeling_utils.LoadStateDictConfig:
        make: Any = modeling_utils.LoadStateDictConfig
        how: modeling_utils.LoadStateDictConfig = make(
            pretrained_model_name_or_path=self._source,
            ignore_mismatched_sizes=True,  # refused in words of our own
            device_map={"": str(self._device)},
            dtype=self._dtype,
            dtype_plan=self.model._get_dtype_plan(self._dtype),  # noqa: SLF001
            weight_mapping=self._conversions,
        )
        return how


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamedModel(LoadedModel):
    """A language model that is ready to be measured, a decoder layer at a time.

    Attributes:
        shelf: Where its decoder layers are had from.
    """

    shelf: Shelf


class StreamedCalibrated(Calibrated):
    """A model larger than memory, with the statistics of one decoder layer at a time.

    Memory: what is outside of decoder layers, one of them with its statistics, and the hidden
    states of the calibration draw. No cache is read or written.
    """

    loaded: StreamedModel

    def layer_by_layer(
        self, seed: int, names: frozenset[str]
    ) -> Iterator[tuple[list[str], Statistics]]:
        """Yield the matrices of each decoder layer with their statistics, while it is there."""
        planned = dict(self.layers)
        walk = Walk(self.loaded.model, self.blocks(seed)) if names - {"W", "noise"} else None
        for number, inside in enumerate(self.by_layer):
            with self.loaded.shelf.resident(number) as layers:
                self._hold(layers)
                try:
                    found: Statistics = {name: {} for name in inside}
                    if walk is not None:
                        found = collect_here(walk, number, layers, names)
                    for values in found.values():
                        values |= {n: v.to(self.loaded.model.device) for n, v in values.items()}
                    yield inside, found
                finally:
                    self._hold({name: planned[name] for name in inside})

    def lent(self, names: Iterable[str]) -> contextlib.AbstractContextManager[None]:
        """Let weights be written to for the block; they are let go anyway."""
        del names
        return contextlib.nullcontext()

    def _hold(self, layers: Mapping[str, Layer]) -> None:
        self.layers.update(layers)
        self.weights.update(weights_of(layers))


def load_streamed(source: str, *, device: str, dtype: str, hashed: bool = True) -> StreamedModel:
    """Open a model of which a decoder layer at a time is in memory; see `load_model`.

    Args:
        source: `starter`, or a folder with safetensors.
        device: `cpu`, `cuda`, `cuda:1`, ...
        dtype: A key of `DTYPES`.
        hashed: Whether its hash is wanted, for which all of it is read once.

    Raises:
        ConfigError: Its weights are no safetensors.
        ModelError: It cannot be read, or lacks weights.
    """
    shelf = Shelf(source, device=device, dtype=dtype)
    with loading(source):
        tokenizer = AutoTokenizer.from_pretrained(locate(source)[0])
    return StreamedModel(
        shelf.model,
        tokenizer,
        name_of(source),
        digest_of(shelf.model, shelf.tensors()) if hashed else "",
        str(shelf.model.config.model_type),
        shelf.unread,
        shelf=shelf,
    )


def check_streamable(source: str, candidate: Expression | str) -> None:
    """Refuse what a decoder layer at a time does not suffice for, before anything is read.

    Raises:
        ConfigError: The model is none of a folder, or the candidate is a method or reads gradients
            of the whole model's loss.
    """
    if source not in STARTERS and not Path(source).exists() and not looks_local(source):
        raise ConfigError(
            f"--stream prunes a local folder, and {source!r} is a name on a model hub; fetch it "
            f"with `hf download {source} --local-dir FOLDER`, and give that folder"
        )
    if isinstance(candidate, str):
        raise ConfigError(
            f"--stream writes what an importance keeps, and {candidate} is a method of its own; "
            "choose a metric, or prune without --stream"
        )
    if asked := sorted(candidate.terminals() & GRADIENTS):
        raise ConfigError(
            f"--stream has one decoder layer in memory at a time, and {', '.join(asked)} of "
            f"{candidate} are gradients through the whole model; choose a metric without them "
            "(g_region is a gradient within one decoder layer), or prune without --stream"
        )


def losses_on(loaded: LoadedModel, blocks: Tensor) -> list[float]:
    """Return `block_losses`, of a streamed model with one decoder layer in memory at a time."""
    if not isinstance(loaded, StreamedModel):
        return block_losses(loaded.model, blocks)
    walk = Walk(loaded.model, blocks)
    for number in range(len(decoder_layers(loaded.model))):
        with loaded.shelf.resident(number):
            walk.step(number)
    with walk.stubbed():
        head = output_head(loaded.model)
    return losses_of(head, blocks, walk.leave())


def write_streamed(
    source: Source,
    masks: Mapping[str, NDArray[np.uint8]],
    folder: Path,
    notice: Callable[[str], None],
) -> dict[str, Any]:
    """Write the files that `write_pruned` writes, with one decoder layer in memory at a time.

    Pruned decoder layers are first written to a folder inside `folder`, which is gone afterwards.
    """
    loaded = load_streamed(source.name, device="cpu", dtype=source.dtype, hashed=False)
    note_unread(loaded, notice)
    spill = folder / _SPILL
    try:
        save_folder(loaded, source, folder, functools.partial(loaded.shelf.save, masks, spill))
        write_masks(folder / MASKS, masks, source.shapes)
        let_read(folder)
    except SafetensorError as error:
        raise OSError(str(error)) from None
    return counts(source, masks)


def _safetensors(source: str, where: str) -> list[Path]:
    """Return a model's files of weights, which must be such as tensors are read from by name."""
    files = weight_files(source, where)
    if any(path.suffix != ".safetensors" for path in files):
        raise ConfigError(
            f"--stream reads tensors by name, and {files[0].name} of {source} must be read whole; "
            "save the model as safetensors first (save_pretrained does), or prune without --stream"
        )
    return files


def _mapped(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the same tensors, mapped from a file that is written.

    Those that are parts of one memory are so again: by it transformers says what goes together.
    """
    wholes: dict[str, Tensor] = {}
    for value in tensors.values():
        memory = value.untyped_storage()
        whole = torch.empty(0, dtype=value.dtype).set_(memory)
        wholes.setdefault(str(memory.data_ptr()), whole)
    save_file(wholes, path)
    again = load_file(path)
    return {
        name: again[str(value.untyped_storage().data_ptr())].as_strided(
            value.size(), value.stride(), value.storage_offset()
        )
        for name, value in tensors.items()
    }


def _give_back_memory() -> None:
    """Have the C library hand freed memory to the system; glibc keeps what is under 32 MB."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


@contextlib.contextmanager
def _parts_of_transformers() -> Iterator[None]:
    """Say what to do where the library's own parts are not those that this is written for.

    Raises:
        ModelError: They are others.
    """
    try:
        yield
    except (AttributeError, TypeError) as error:
        raise ModelError(
            f"--stream reads weights by parts of transformers that version {__version__} has "
            f"otherwise ({error}); it is written for 5.23: install that, or prune without --stream"
        ) from error
