"""Models: loading any causal language model, ready to be measured."""

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from autoproxy.errors import AutoproxyError, ConfigError, ModelError, out_of_memory, unknown_name
from evaluators.starter import STARTERS, starter_folder

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

_BYSTANDERS = frozenset({"transformers_version", "_name_or_path", "architectures", "dtype"})
"""Entries of a configuration that change no number; the type is hashed with each parameter."""

_LENGTHS = ("max_position_embeddings", "seq_length", "max_seq_len")
"""What configurations call the longest sequence, where they say it."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A language model that is ready to be measured.

    Attributes:
        model: In evaluation mode, without gradients on its parameters.
        tokenizer: Its tokenizer.
        name: What protocols call it: the folder's name, hub name or `starter`.
        sha256: Hash of every parameter's name, type and bytes, and of the configuration that
            says what is computed with them (32 hex digits).
        family: Its `config.model_type`.
        unread: Tensors of its files that it has no use for, such as extra prediction heads.
    """

    model: PreTrainedModel
    tokenizer: Any
    name: str
    sha256: str
    family: str
    unread: tuple[str, ...] = ()

    @property
    def max_length(self) -> int:
        """Longest sequence that it takes, in tokens."""
        return longest_sequence(self.model.config)


def longest_sequence(config: PreTrainedConfig) -> int:
    """Return how many tokens a model takes at most; BLOOM and MPT are bound by none but memory.

    >>> longest_sequence(PreTrainedConfig(seq_length=2048))
    2048
    """
    text = config.get_text_config()
    found = (getattr(text, name, None) for name in _LENGTHS)
    return next((int(length) for length in found if length), sys.maxsize)


def load_model(source: str, *, device: str, dtype: str) -> LoadedModel:
    """Load a model and its tokenizer.

    Args:
        source: `starter`, a folder, or a name on a model hub.
        device: `cpu`, `cuda`, `cuda:1`, ...
        dtype: A key of `DTYPES`.

    Raises:
        ModelError: The model is not there, has no weights or tokenizer, cannot be read, or is
            of a family that is not supported yet.
        ConfigError: There is no such device or type.
    """
    held, place = find_dtype(dtype), find_device(device)
    where, config = locate(source)
    with loading(source):
        opened: Any = AutoModelForCausalLM.from_pretrained(
            where,
            dtype=held,
            experts_implementation="eager",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, in words of our own
        )
        tokenizer = AutoTokenizer.from_pretrained(where)
    model, report = opened
    refuse_incomplete(source, missing=report["missing_keys"], mismatched=report["mismatched_keys"])
    model.loss_type = "ForCausalLM"  # what it is anyway; for GPT-2 the library says so, aloud
    model.to(place)
    model.eval()
    model.requires_grad_(requires_grad=False)
    unread = tuple(sorted(report["unexpected_keys"]))
    digest = digest_of(model, sorted(model.state_dict().items()))
    return LoadedModel(model, tokenizer, name_of(source), digest, str(config.model_type), unread)


@contextlib.contextmanager
def loading(source: str) -> Iterator[None]:
    """Turn what the library says while it reads a model into an error of ours, and quiet it.

    Raises:
        ModelError: Whatever it raised, but a lack of memory.
    """
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the view is ours
    spoken = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # what lacks is said later, once
    try:
        yield
    except Exception as error:
        if isinstance(error, AutoproxyError) or out_of_memory(error):
            raise
        said = (str(error) or type(error).__name__).strip().partition("\n")[0]
        raise ModelError(
            f"model {source!r} cannot be loaded: {said}; give the folder of a complete Hugging "
            "Face causal language model, with weights and tokenizer"
        ) from error
    finally:
        logging.set_verbosity(spoken)


def refuse_incomplete(source: str, *, missing: Iterable[str], mismatched: Iterable[Any]) -> None:
    """Raise where files lack weights, which the library draws at random, or have others.

    Args:
        source: What the user calls the model.
        missing: Names.
        mismatched: Name, shape in the files and shape by the configuration of each.

    Raises:
        ModelError: There are such.
    """
    if lost := sorted(missing):
        raise ModelError(
            f"model {source!r} lacks weights: {', '.join(lost[:3])}; "
            "give a folder that was saved whole"
        )
    if other := sorted(mismatched):
        key, found, wanted = other[0]
        raise ModelError(
            f"model {source!r} does not fit its config.json: {key} is {tuple(found)} in the file "
            f"and {tuple(wanted)} by the configuration; give a folder that was saved whole"
        )


def name_of(source: str) -> str:
    """Return what protocols call a model.

    >>> name_of("models/mine/"), name_of("starter-gpt2")
    ('mine', 'starter-gpt2')
    """
    return STARTERS.get(source, source.rstrip("/").rsplit("/", 1)[-1])


def locate(source: str) -> tuple[str, PreTrainedConfig]:
    """Return what `from_pretrained` is to be given for a source, and the model's configuration.

    Raises:
        ModelError: There is no such model, it has no configuration or weights, or these are
            quantised.
    """
    where = str(starter_folder(source)) if source in STARTERS else source
    _check_folder(source, Path(where))
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(where)
    except Exception as error:
        raise ModelError(
            f"model {source!r} cannot be found or read: {str(error).splitlines()[0]}; give a "
            "local folder, or 'starter', where no hub can be reached"
        ) from error
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(
            f"model {source!r} is quantised, and zeros would not survive its packing; give the "
            "model that it was made of"
        )
    return where, config


def load_tokenizer(source: str) -> Any:
    """Return the tokenizer of a model; see `load_model`."""
    where, _ = locate(source)
    return AutoTokenizer.from_pretrained(where)


def find_dtype(name: str) -> torch.dtype:
    """Return a type of numbers, or raise a ConfigError that names the nearest."""
    if name not in DTYPES:
        raise ConfigError(unknown_name("dtype", name, DTYPES))
    return DTYPES[name]


def find_device(name: str) -> torch.device:
    """Return a device that is there.

    Raises:
        ConfigError: There is none of that name.
    """
    try:
        device: torch.device | None = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in {"cpu", "cuda"}:
        raise ConfigError(f"unknown device {name!r}; write cpu, cuda or cuda:0")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device {name!r} was asked for, but this torch ({torch.__version__}) sees no CUDA "
            "device; use --device cpu"
        )
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise ConfigError(
            f"device {name!r} was asked for, and there are {count} CUDA devices; write cuda:0 to "
            f"cuda:{count - 1}"
        )
    return device


def looks_local(source: str) -> bool:
    """Return whether what a user calls a model can be a folder only, and no name on a hub."""
    return source.startswith((".", "/", "~")) or "\\" in source or source.count("/") > 1


def _check_folder(source: str, folder: Path) -> None:
    """Say what a local folder lacks, before the library says it in its own words."""
    if not folder.exists() and looks_local(source):
        raise ModelError(f"there is no folder {source}; give an existing one, or 'starter'")
    if not folder.exists():
        return
    if not (folder / "config.json").is_file():
        raise ModelError(f"{source} has no config.json; give the folder of a Hugging Face model")
    weights = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]
    if not weights:
        raise ModelError(
            f"{source} has no weights (*.safetensors); give a folder that was saved whole"
        )


def digest_of(model: PreTrainedModel, tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return the hash of a model's configuration and of its tensors, sorted by name."""
    config = model.config.to_diff_dict()
    meant = {name: config[name] for name in config.keys() - _BYSTANDERS}
    digest = hashlib.sha256(json.dumps(meant, sort_keys=True, default=str).encode())
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
