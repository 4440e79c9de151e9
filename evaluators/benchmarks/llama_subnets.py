"""Sub-networks of a trained LLaMA: layers, key-value groups and feed-forward channels removed.

They keep the trained weights, so nothing is trained: a table is built by measuring each on text.
A sub-network has the first groups and the first channels of each layer that is left; which ones
go is no choice, since training gives their order no meaning.
"""

import csv
import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, cast

import filelock
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoproxy.errors import ConfigError, ModelError, StorageError
from autoproxy.seeding import stream
from evaluators.benchmarks.table import (
    Architecture,
    Benchmark,
    Row,
    checked,
    mean,
    read_table,
)
from evaluators.models import LoadedModel, find_device, load_model
from evaluators.networks.decoder import Decoder, DecoderConfig, DecoderLayer
from evaluators.text import blocks, read_text

COLUMNS = ("id", "layers", "kv_heads", "ff_widths", "loss")
QUALITY = "loss"
TABLE, FACTS = "table.csv", "benchmark.json"

VERSION = 1
"""Raised by every change of what is drawn or measured; a folder is of one version."""

EIGHTHS = (4, 5, 6, 7, 8)
"""Shares of a feed-forward that a layer may keep."""

_IN_VAIN = 1000
"""Draws of what is there already, one after the other, before a model counts as exhausted."""

_ROWS = 4
"""Blocks that are measured at once."""


@dataclass(frozen=True, slots=True)
class Subnet:
    """What is left of a trained LLaMA.

    Attributes:
        shape: Of the decoder that is left.
        layers: Which layers of the trained model its layers are, from 0.
    """

    shape: DecoderConfig
    layers: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """On what the sub-networks of a table are measured.

    Attributes:
        model: A LLaMA, as `load_model` takes it.
        texts: As `read_text` takes them.
        seed: Of the draw of architectures.
        length: Tokens in a block.
        blocks: How many blocks, from the beginning of the text.
        device: Where; losses of different devices differ in the last digits.
    """

    model: str
    texts: tuple[str, ...] = ("topics:validation",)
    seed: int = 0
    length: int = 128
    blocks: int = 64
    device: str = "cpu"


def build_table(
    what: Measured, folder: Path, count: int, tell: Callable[[int, int], None] = lambda *_: None
) -> Path:
    """Draw sub-networks, measure each, and write the table; a killed run goes on where it was.

    A folder that has fewer rows than asked for gets the others; asking for more later adds to it.

    Args:
        what: The model, the text and the seed; those of the folder, if it has a table.
        folder: Is made; holds `table.csv` and `benchmark.json`.
        count: Architectures in all.
        tell: Told how many are measured, and of how many, after each.

    Returns:
        The folder, as `open_benchmark("llama-subnets", folder)` takes it.

    Raises:
        ConfigError: The model or text cannot serve, or has not so many sub-networks.
        StorageError: The folder is of something else, in use, or cannot be written.
    """
    if count < 1:
        raise ConfigError(f"count must be at least 1, got {count}")
    device = find_device(what.device)
    loaded = load_model(what.model, device="cpu", dtype="float32")
    whole = whole_shape(loaded)
    text = read_text(what.texts)
    ids = blocks(text, loaded.tokenizer, length=what.length, count=what.blocks, role="validation")
    facts = _facts(what, loaded, whole, text.sha256)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".lock", timeout=0):
            _claim(folder, facts)
            rows = _rows_so_far(folder)
            for subnet, number in zip(draws(whole, what.seed), range(count), strict=False):
                if number < len(rows):
                    continue
                network = _network(loaded, subnet).to(device)
                rows.append(_cells(number, subnet, mean_loss(network, ids.to(device))))
                _write_rows(folder, rows)
                tell(number + 1, count)
    except filelock.Timeout:
        raise StorageError(
            f"{folder} is being built by another process; wait for it, or give another folder"
        ) from None
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error}; give another folder") from error
    return folder


def open_table(table: Path | None) -> Benchmark:
    """Return the benchmark; a quality is the loss in nats a token, negative.

    Args:
        table: The folder that `build_table` wrote, or its `table.csv`.

    Raises:
        ConfigError: The table cannot serve.
    """
    if table is None:
        raise ConfigError(
            "sub-networks are measured before they are ranked; build a table with: autoproxy "
            "benchmark build llama-subnets --model MODEL, or give a folder that has one by --table"
        )
    folder = table.parent if table.name == TABLE else table
    path = folder / TABLE
    facts = _read_facts(folder)
    whole = _shape_from(facts["shape"])
    rows, digest = read_table(path, COLUMNS)
    trained = _Trained(facts["model"], facts["sha256"])
    return Benchmark(
        name="llama-subnets",
        quality_name="-loss",
        architectures=checked(path, QUALITY, [_architecture(row, whole) for row in rows]),
        digest=hashlib.sha256(f"{digest} {json.dumps(facts)}".encode()).hexdigest()[:16],
        vocabulary=whole.vocabulary,
        length=whole.length,
        causal=Decoder.causal,
        text=facts["model"],
        network=_untrained,
        weights=trained.give,
    )


def draws(whole: DecoderConfig, seed: int) -> Iterator[Subnet]:
    """Yield different sub-networks, always the same ones in the same order.

    Up to a third of the layers goes, anywhere; every layer that is left keeps at least half of
    its key-value groups and of its feed-forward, each at random.

    Args:
        whole: Shape of the trained model.
        seed: Of the stream of draws.

    Raises:
        ConfigError: There are no more.
    """
    draw, seen, vain = stream(seed, "llama-subnets"), set[Subnet](), 0
    while True:
        subnet = _draw(draw, whole)
        if subnet not in seen:
            seen.add(subnet)
            vain = 0
            yield subnet
            continue
        vain += 1
        if vain == _IN_VAIN:
            raise ConfigError(
                f"the model has hardly more than {len(seen)} different sub-networks of at least "
                "half its groups and channels; ask for fewer"
            )


def whole_shape(loaded: LoadedModel) -> DecoderConfig:
    """Return the shape of a trained LLaMA as a decoder of this project.

    Raises:
        ModelError: It is of another family, or of a variety that the decoder does not have.
    """
    config: Any = loaded.model.config
    if loaded.family != "llama":
        raise _other(loaded, f"its family is {loaded.family!r}")
    if config.hidden_act != "silu":
        raise _other(loaded, f"its activation is {config.hidden_act!r}, not 'silu'")
    if config.attention_bias != config.mlp_bias:
        raise _other(loaded, "only some of its linear layers have biases")
    rotary: Any = loaded.model.base_model.rotary_emb
    if rotary.attention_scaling != 1.0:
        raise _other(loaded, f"its positions scale attention by {rotary.attention_scaling}")
    depth = config.num_hidden_layers
    return DecoderConfig(
        width=config.hidden_size,
        heads=(config.num_attention_heads,) * depth,
        kv_heads=(config.num_key_value_heads,) * depth,
        ff_widths=(config.intermediate_size,) * depth,
        norm="rms",
        activation="swiglu",
        position="rotary",
        vocabulary=config.vocab_size,
        length=config.max_position_embeddings,
        bias=config.attention_bias,
        head_size=config.head_dim,
        frequencies=tuple(rotary.inv_freq.tolist()),
        epsilon=config.rms_norm_eps,
        tied=config.tie_word_embeddings,
    )


def copy_weights(loaded: LoadedModel, network: Decoder, layers: Sequence[int]) -> None:
    """Give a decoder its slices of the trained weights.

    Args:
        loaded: A LLaMA that `whole_shape` takes.
        network: A sub-network; is changed.
        layers: Which trained layer each of its layers is.
    """
    trained: Any = loaded.model
    _copy(trained.model.embed_tokens, network.embedding)
    _copy(trained.model.norm, network.norm)
    if network.output is not None:
        network.output.data.copy_(trained.lm_head.weight.data)
    for number, layer in zip(layers, network.layers, strict=True):
        theirs, ours = trained.model.layers[number], cast(DecoderLayer, layer)
        for name in ("query", "key", "value"):
            _copy(getattr(theirs.self_attn, f"{name[0]}_proj"), getattr(ours.attention, name))
        _copy(theirs.self_attn.o_proj, ours.attention.out)
        for name, source in (("up", "up_proj"), ("gate", "gate_proj"), ("out", "down_proj")):
            _copy(getattr(theirs.mlp, source), getattr(ours.mlp, name))
        _copy(theirs.input_layernorm, ours.attention_norm)
        _copy(theirs.post_attention_layernorm, ours.mlp_norm)


@torch.inference_mode()
def mean_loss(network: nn.Module, ids: Tensor) -> float:
    """Return the mean cross-entropy of the next token in nats, over all of (blocks, tokens)."""
    total = 0.0
    for part in torch.split(ids, _ROWS):
        logits = network(part[:, :-1]).flatten(0, 1)
        losses = functional.cross_entropy(logits, part[:, 1:].flatten(), reduction="none")
        total += float(losses.double().sum())
    return total / (len(ids) * (ids.shape[1] - 1))


class _Trained:
    """The trained model, loaded when its weights are first asked for."""

    def __init__(self, source: str, sha256: str) -> None:
        self._source, self._sha256 = source, sha256

    @functools.cached_property
    def _loaded(self) -> LoadedModel:
        loaded = load_model(self._source, device="cpu", dtype="float32")
        if loaded.sha256 != self._sha256:
            raise ModelError(
                f"model {self._source!r} is not the one whose sub-networks were measured; put "
                "that one back, or build the table anew in another folder"
            )
        return loaded

    def give(self, network: nn.Module, config: Subnet) -> None:
        """Give a sub-network its weights."""
        copy_weights(self._loaded, cast(Decoder, network), config.layers)


def _untrained(config: Subnet) -> Decoder:
    return Decoder(config.shape)


def _network(loaded: LoadedModel, subnet: Subnet) -> Decoder:
    network = _untrained(subnet)
    copy_weights(loaded, network, subnet.layers)
    return network.eval()


def _copy(source: nn.Module, target: nn.Module) -> None:
    """Copy the first rows and columns of each parameter, as many as the target has."""
    theirs = dict(source.named_parameters())
    for name, parameter in target.named_parameters():
        parameter.data.copy_(theirs[name].data[tuple(slice(n) for n in parameter.shape)])


def _draw(draw: Random, whole: DecoderConfig) -> Subnet:
    dropped = draw.randint(0, max(1, whole.depth // 3) if whole.depth > 1 else 0)
    layers = tuple(sorted(draw.sample(range(whole.depth), whole.depth - dropped)))
    groups = whole.kv_heads[0]
    kv_heads = tuple(draw.randint(math.ceil(groups / 2), groups) for _ in layers)
    ff_widths = tuple(max(1, whole.ff_widths[0] * draw.choice(EIGHTHS) // 8) for _ in layers)
    return Subnet(_shape(whole, kv_heads, ff_widths), layers)


def _shape(
    whole: DecoderConfig, kv_heads: tuple[int, ...], ff_widths: tuple[int, ...]
) -> DecoderConfig:
    shared = whole.heads[0] // whole.kv_heads[0]
    heads = tuple(shared * n for n in kv_heads)
    return dataclasses.replace(whole, heads=heads, kv_heads=kv_heads, ff_widths=ff_widths)


def _other(loaded: LoadedModel, why: str) -> ModelError:
    return ModelError(
        f"no sub-networks can be made of {loaded.name}: {why}; give a LLaMA, such as 'starter'"
    )


def _facts(what: Measured, loaded: LoadedModel, whole: DecoderConfig, text: str) -> dict[str, Any]:
    """Return what every row of a folder shares, as it is read back from JSON."""
    local = Path(what.model)
    facts = {
        "version": VERSION,
        **dataclasses.asdict(what),
        "model": str(local.resolve()) if local.is_dir() else what.model,
        "sha256": loaded.sha256,
        "text_sha256": text,
        "shape": dataclasses.asdict(whole),
    }
    back: dict[str, Any] = json.loads(json.dumps(facts))
    return back


def _claim(folder: Path, facts: dict[str, Any]) -> None:
    """Write what a new folder is of, or see that it is of the same."""
    path = folder / FACTS
    if not path.exists():
        _replace(path, json.dumps(facts, indent=1))
        return
    held = _read_facts(folder)
    differs = sorted(name for name in facts if held.get(name) != facts[name])
    if differs:
        name = differs[0]
        raise StorageError(
            f"{folder} holds a table with {name} {held.get(name)}, not {facts[name]}; give the "
            "same to go on with it, or another folder"
        )


def _read_facts(folder: Path) -> dict[str, Any]:
    path = folder / FACTS
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _shape_from(facts["shape"])
        return {**facts, "model": str(facts["model"]), "sha256": str(facts["sha256"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{path} cannot be read: {error!r}; give the folder that `autoproxy benchmark build` "
            "wrote"
        ) from error


def _shape_from(fields: dict[str, Any]) -> DecoderConfig:
    given: dict[str, Any] = {
        name: tuple(x) if isinstance(x, list) else x for name, x in fields.items()
    }
    return DecoderConfig(**given)


def _rows_so_far(folder: Path) -> list[list[str]]:
    path = folder / TABLE
    if not path.exists():
        return []
    rows, _ = read_table(path, COLUMNS)
    return [[row.cells[name] for name in COLUMNS] for row in rows]


def _cells(number: int, subnet: Subnet, loss: float) -> list[str]:
    shape = subnet.shape
    lists = (subnet.layers, shape.kv_heads, shape.ff_widths)
    return [f"s{number:03}", *[" ".join(map(str, x)) for x in lists], repr(loss)]


def _write_rows(folder: Path, rows: Sequence[Sequence[str]]) -> None:
    partial = folder / f"{TABLE}.partial"
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    partial.replace(folder / TABLE)


def _replace(path: Path, content: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(content, encoding="utf-8")
    partial.replace(path)


def _architecture(row: Row, whole: DecoderConfig) -> Architecture:
    layers = _layers(row, whole.depth)
    kv_heads, ff_widths = (row.wholes(name, len(layers)) for name in ("kv_heads", "ff_widths"))
    for column, values, most in (
        ("kv_heads", kv_heads, whole.kv_heads[0]),
        ("ff_widths", ff_widths, whole.ff_widths[0]),
    ):
        if max(values) > most:
            raise row.wrong(column, f"made of numbers up to {most}, which the trained model has")
    config = Subnet(_shape(whole, kv_heads, ff_widths), layers)
    return Architecture(
        id=row.cells["id"],
        config=config,
        quality=-row.number_of(QUALITY),
        network=repr((layers, kv_heads, ff_widths)),
        cell=f"{len(layers)}x{whole.width}",
        columns={
            "depth": len(layers),
            "width": whole.width,
            "heads": mean(config.shape.heads),
            "kv_heads": mean(kv_heads),
            "ff_width": mean(ff_widths),
            "d_embed": whole.width,
            **{f"layer {n}": float(n in layers) for n in range(whole.depth)},
        },
    )


def _layers(row: Row, depth: int) -> tuple[int, ...]:
    words = row.cells["layers"].split()
    known = [str(n) for n in range(depth)]
    layers = tuple(int(word) for word in words if word in known)
    if not layers or len(layers) != len(words) or list(layers) != sorted(set(layers)):
        raise row.wrong("layers", f"made of rising numbers from 0 to {depth - 1}")
    return layers
