"""The pruning evaluator: what an importance does to a language model when it decides the mask."""

import gc
import hashlib
import inspect
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoproxy.errors import ConfigError
from autoproxy.evaluation import (
    Direction,
    Failed,
    Fingerprint,
    Measured,
    Objective,
    Outcome,
    content_hash,
)
from autoproxy.language import meanings
from autoproxy.language.blindness import Blindness
from autoproxy.language.canonical import key
from autoproxy.language.expression import Expression
from autoproxy.language.program import Program
from evaluators.behaviour import Probe, judge_orders, row_local
from evaluators.config import PruningConfig
from evaluators.layers import compared, prunable, skipped, weights_of
from evaluators.masks import (
    NM,
    SPANNING,
    Unstructured,
    applied,
    check_fits,
    columns_of,
    keep_mask,
    keep_masks,
    mask_hash,
    pack,
)
from evaluators.models import LoadedModel, load_model
from evaluators.perplexity import Reference, block_losses, perplexity
from evaluators.room import check_room, needs
from evaluators.source import find_source
from evaluators.starter import starter_folder
from evaluators.statistics import PROVIDED, Statistics, cached_statistics, noise
from evaluators.text import Text, blocks, read_text, refuse_overlap
from evaluators.tiles import Tiles
from evaluators.writing import Decision, counts, finite, write_pruned

VERSION = 1
"""Raised by every change that can change a value; part of every protocol."""

MASK_CACHE_BYTES = 512 * 1024**2
"""Masks of the latest candidates that are kept as bits, between identity and measurement."""

Masks = dict[str, NDArray[np.uint8]]


class PruningEvaluator:
    """Measures importances by pruning a language model with them.

    The objective is KL(dense || pruned) in nats, mean over positions and blocks of the validation
    text: its noise is smaller than perplexity's for the same tokens. All masks are made from
    statistics of the dense model, in one shot. The model's weights are given back bit for bit.

    Memory: the model, from the first mask on a copy of its pruned weights, two matrices in
    float32, and the statistics that are asked for (a gradient is as large as the weights).

    Args:
        config: What to prune, how, on which texts.
        cache: Folder of the cache of statistics.
        notice: Told once when something was mended on the way, such as a corrupted cache.
        roles: The texts that are read at once and kept apart; that of the search is read when
            something is searched.
    """

    def __init__(
        self,
        config: PruningConfig,
        *,
        cache: Path,
        notice: Callable[[str], None],
        roles: Sequence[str] = ("calibration", "text"),
    ) -> None:
        self._config = config
        self._cache = cache
        self._notice = notice
        self._pattern = config.condition
        self._texts = _read_texts(config, *roles)
        self._loaded = load_model(config.model, device=config.device, dtype=config.dtype)
        self._length = config.sequence_length(self._loaded.max_length)
        self._layers = prunable(self._loaded.model)
        self._weights = weights_of(self._layers)
        self._skipped = skipped(self._loaded.model)
        if self._skipped:
            notice(f"stay dense: {_in_words(self._skipped)}")
        check_fits(self._pattern, config.group, self._weights)
        group = "block" if isinstance(self._pattern, NM) else config.group
        self._sets = compared(self._loaded.model, self._layers, group)
        self._statistics: dict[int, Statistics] = {}
        self._masks: OrderedDict[str, Masks] = OrderedDict()
        self._tiles = Tiles()
        self._spare: dict[str, Tensor] = {}  # dense copies, while no mask is applied

    @classmethod
    def from_options(
        cls, options: Mapping[str, Any], *, cache: Path, notice: Callable[[str], None]
    ) -> Self:
        """Return the evaluator that plain options ask for.

        Raises:
            ConfigError: An option, a text or the model cannot serve.
        """
        return cls(PruningConfig.from_options(options), cache=cache, notice=notice)

    @staticmethod
    def shipped() -> str:
        """Return where the model lies that needs no download; an error says what to do."""
        return str(starter_folder())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._statistics.clear()
        self._masks.clear()
        self._spare.clear()

    @property
    def objective(self) -> Objective:
        """KL(dense || pruned), to be small."""
        return Objective("kl", "nats", Direction.MINIMIZE)

    @property
    def provides(self) -> frozenset[str]:
        """All terminals of the vocabulary."""
        return PROVIDED

    @property
    def fidelities(self) -> tuple[float, ...]:
        """The first validation block alone, then all of them."""
        count = self._config.validation_blocks
        return (1.0,) if count == 1 else (1 / count, 1.0)

    @property
    def blindness(self) -> Blindness:
        """Orders within a row (or a block of it), within a matrix, or over several."""
        if isinstance(self._pattern, NM) or self._config.group == "row":
            return Blindness.ROW
        return Blindness.WHOLE if self._config.group in SPANNING else Blindness.MATRIX

    def protocol(self) -> dict[str, Any]:
        """Return everything that determines a value."""
        return {
            **self._shared_protocol(),
            "seed": self._config.seed,
            "validation": self._validation_text.name,
            "validation_hash": self._validation_text.sha256,
            "validation_blocks": self._config.validation_blocks,
            "validation_windows": "drawn with the seed",
            "confirm_blocks": self._config.confirm_blocks,
            "tokens": self._config.validation_blocks * self._length,
        }

    def report_protocol(self) -> dict[str, Any]:
        """Return everything that determines a reported value, but the calibration seed."""
        return {
            **self._shared_protocol(),
            "text": self._texts["text"].name,
            "text_hash": self._texts["text"].sha256,
            "tokens": self._report_count * self._length,
        }

    def prepare(self, names: Iterable[str]) -> None:
        """Check all texts and measure the statistics that will be needed, in one go.

        Raises:
            ConfigError: A text is too short.
        """
        _ = self._references, self._report_text
        self._statistics_for(self._config.seed, frozenset(names))

    def behaviour(self, expressions: Sequence[Expression]) -> list[Fingerprint | Failed]:
        """Return the order of each importance on sampled rows of every layer, as a digest.

        Formulas whose rows do not depend on one another run on the sampled rows alone; the
        others on whole layers, of which the rows are then taken.
        """
        probes = [Probe() for _ in expressions]
        local = [row_local(expression) for expression in expressions]
        for wanted in (True, False):
            chosen = [i for i, is_local in enumerate(local) if is_local is wanted]
            program = Program([expressions[i] for i in chosen])
            for names in self._sets if chosen else ():
                samples: list[list[Tensor]] = [[] for _ in chosen]
                for name in names:
                    for place, sample in enumerate(self._sample(program, name, local=wanted)):
                        samples[place].append(sample)
                for i, parts in zip(chosen, samples, strict=True):
                    probes[i].see(self._grouped(parts))
        return [judge_orders(probe) for probe in probes]

    def _sample(self, program: Program, name: str, *, local: bool) -> Iterator[Tensor]:
        """Yield the sampled rows of each value of a program on one layer."""
        rows = self._sampled_rows(name)
        inputs = self._inputs(name, program.terminals, self._config.seed)
        if local:
            inputs = {k: v[rows] if v.shape[0] > 1 else v for k, v in inputs.items()}
        for value in program.run(inputs):
            yield value if local else value[rows]

    def identity(self, expression: Expression) -> str | Failed:
        """Return the hash of all masks that an importance decides, or why it decides none."""
        masks = self._masks_of(expression)
        return masks if isinstance(masks, Failed) else mask_hash(masks.values())

    def measure(self, expressions: Sequence[Expression], fidelity: float) -> Iterator[Outcome]:
        """Yield the divergence of the model pruned by each importance.

        Args:
            expressions: Importances of root kind Weight.
            fidelity: One of `fidelities`.
        """
        count = round(fidelity * self._config.validation_blocks)
        references = self._references  # of the dense model: made before any mask is applied
        for expression in expressions:
            start = time.monotonic()
            masks = self._masks_of(expression)
            if isinstance(masks, Failed):
                yield masks
                continue
            with applied(self._weights, masks, self._spare):
                found = list(references.compare(self._loaded.model, count))
            kl = math.fsum(c.kl for c in found) / count
            loss = math.fsum(c.nll for c in found) / count
            seconds = time.monotonic() - start
            if not (math.isfinite(kl) and math.isfinite(loss)):
                yield Failed("the pruned model's output is not finite", seconds)
                continue
            details = {"nll": loss, "perplexity": perplexity([loss])}
            yield Measured(kl, fidelity, seconds, details)

    def confirm(self, expression: Expression) -> tuple[float, ...]:
        """Return the loss on each fresh block of the validation text, in nats."""
        masks = self._masks_of(expression)
        if isinstance(masks, Failed):
            raise ConfigError(f"{expression} cannot be confirmed: {masks.reason}")
        with applied(self._weights, masks, self._spare):
            return tuple(block_losses(self._loaded.model, self._fresh_blocks))

    def report(
        self, expressions: Sequence[Expression], seeds: Iterable[int]
    ) -> Iterator[dict[str, Any]]:
        """Yield perplexity and divergence of each importance on the report text.

        Args:
            expressions: Importances of root kind Weight.
            seeds: Of the calibration draws; masks are made anew with each.

        Yields:
            `seed`, `index` (into `expressions`), `perplexity` and `kl` (nats).
        """
        needed = frozenset().union(*(e.terminals() for e in expressions))
        references = self._report_text  # of the dense model: made before any mask is applied
        for seed in seeds:
            self._statistics_for(seed, needed)
            for index, expression in enumerate(expressions):
                masks = self._make_masks(expression, seed)
                if isinstance(masks, Failed):
                    raise ConfigError(f"{expression} cannot be reported: {masks.reason}")
                with applied(self._weights, masks, self._spare):
                    found = list(references.compare(self._loaded.model))
                yield {
                    "seed": seed,
                    "index": index,
                    "perplexity": perplexity([c.nll for c in found]),
                    "kl": math.fsum(c.kl for c in found) / len(found),
                }
            if seed != self._config.seed:
                del self._statistics[seed]

    def dense(self) -> dict[str, float]:
        """Return the perplexity of the model as it is on the report text."""
        losses = block_losses(self._loaded.model, self._report_text.blocks)
        return {"perplexity": perplexity(losses)}

    @classmethod
    def prune(
        cls,
        options: Mapping[str, Any],
        expression: Expression,
        folder: Path,
        *,
        check: bool,
        cache: Path,
        tell: Callable[[str, str | None], None],
    ) -> dict[str, Any]:
        """Write the model as an importance prunes it, as a plain Hugging Face folder.

        Memory and disk are checked first. The evaluator is gone when the model is written, so
        that no two copies of it are held at a time.

        Args:
            options: As in `from_options`.
            expression: Importance of root kind Weight.
            folder: An existing empty folder.
            check: Whether to measure perplexity on the report text before, and after of the
                folder as written, loaded again.
            cache: Folder of the cache of statistics; it exists.
            tell: Told each stage of the work as it begins, with None or something to note.

        Returns:
            `protocol`, `options` (complete), what `counts` says, and `check`: text, and dense and
            pruned perplexity (None where not finite), or None where no check was asked.

        Raises:
            ConfigError: An option, a text, the model or the importance cannot serve, or there is
                no room.
        """
        config = PruningConfig.from_options(options)
        tell("model", None)
        source = find_source(config.model)
        wanted = needs(source, expression.terminals(), config.dtype)
        check_room(wanted, device=config.device, folder=folder, cache=cache)
        tell("masks", None)
        roles = ("calibration", "text") if check else ("calibration",)
        made = cls(config, cache=cache, notice=lambda text: tell("masks", text), roles=roles)
        decision = made._decide(expression)
        del made  # and with it the dense model, before it is loaded to be written
        gc.collect()
        tell("writing", None)
        write_pruned(source, decision.masks, folder, lambda text: tell("writing", text))
        facts = {**decision.facts, **counts(source, decision.masks)}
        if decision.blocks is None:
            return facts
        tell("check", None)
        again = load_model(str(folder), device=config.device, dtype=config.dtype)
        after = perplexity(block_losses(again.model, decision.blocks))
        return {**facts, "check": {**decision.facts["check"], "pruned_perplexity": finite(after)}}

    def _decide(self, expression: Expression) -> Decision:
        """Return all that is needed to write the model that an importance prunes."""
        masks = self._masks_of(expression)
        if isinstance(masks, Failed):
            raise ConfigError(f"{expression} cannot prune this model: {masks.reason}")
        facts: dict[str, Any] = {
            "protocol": {**self._shared_protocol(), "seed": self._config.seed},
            "options": self._config.mask_options(self._length),
            "check": None,
        }
        if "text" not in self._texts:
            return Decision(masks, facts, None)
        drawn = self._blocks("text", self._report_count)
        text = self._texts["text"]
        facts["options"] |= {"text": list(self._config.text), "text_blocks": len(drawn)}
        facts["check"] = {
            "text": text.name,
            "text_hash": text.sha256,
            "tokens": drawn.numel(),
            "dense_perplexity": finite(perplexity(block_losses(self._loaded.model, drawn))),
        }
        return Decision(masks, facts, drawn)

    @property
    def loaded(self) -> LoadedModel:
        """The model, as it is."""
        return self._loaded

    @cached_property
    def _validation_text(self) -> Text:
        """The text of the search, which a single metric's value on the report text needs not."""
        return _read_texts(self._config, "calibration", "validation", "text")["validation"]

    @cached_property
    def _references(self) -> Reference:
        return Reference(self._loaded.model, self._validation[: self._config.validation_blocks])

    @cached_property
    def _fresh_blocks(self) -> Tensor:
        return self._validation[self._config.validation_blocks :]

    @cached_property
    def _validation(self) -> Tensor:
        """Blocks of the search: first those of the ladder, then the fresh ones of the finals.

        They are drawn from the whole text, since its first pages are of one author.
        """
        count = self._config.validation_blocks + self._config.confirm_blocks
        return self._blocks("validation", count, self._config.seed)

    @property
    def _report_count(self) -> int:
        return self._config.report_blocks(self._length)

    @cached_property
    def _report_text(self) -> Reference:
        return Reference(self._loaded.model, self._blocks("text", self._report_count))

    def _blocks(self, role: str, count: int, seed: int | None = None) -> Tensor:
        return blocks(
            self._validation_text if role == "validation" else self._texts[role],
            self._loaded.tokenizer,
            length=self._length,
            count=count,
            role=role,
            seed=seed,
        )

    def _shared_protocol(self) -> dict[str, Any]:
        config = self._config
        return {
            "evaluator": "pruning",
            "version": VERSION,
            "model": self._loaded.name,
            "model_hash": self._loaded.sha256,
            "condition": str(self._pattern),
            "group": "block" if isinstance(self._pattern, NM) else config.group,
            "mode": "oneshot-dense",
            "ties": "lowest row, then lowest column dropped first",
            "length": self._length,
            "calibration": self._texts["calibration"].name,
            "calibration_hash": self._texts["calibration"].sha256,
            "calibration_blocks": config.calibration_blocks,
            "device": self._loaded.model.device.type,
            "dtype": config.dtype,
            "torch": torch.__version__,
            "meanings": _meanings_hash(),
            **({"skipped": list(self._skipped)} if self._skipped else {}),
        }

    def _statistics_for(self, seed: int, names: frozenset[str]) -> Statistics:
        """Return statistics of the calibration draw of `seed`, measuring those that lack."""
        known = self._statistics.setdefault(seed, {name: {} for name in self._layers})
        have = set(next(iter(known.values())))
        missing = names - have - {"W", "noise"}
        if missing:
            drawn = self._blocks("calibration", self._config.calibration_blocks, seed)
            new = cached_statistics(self._cache, self._loaded, drawn, missing, self._notice)
            for layer, values in new.items():
                known[layer].update(values)
        return known

    def _inputs(self, layer: str, names: frozenset[str], seed: int) -> dict[str, Tensor]:
        """Return the terminals of one layer, in float32."""
        weight = self._weights[layer].float().contiguous()  # GPT-2 stores it turned
        found = {"W": weight, **self._statistics_for(seed, names)[layer]}
        if "noise" in names:
            found["noise"] = noise(layer, weight.shape, seed).to(weight.device)
        return {name: found[name] for name in names | {"W"}}

    def _sampled_rows(self, layer: str) -> Tensor:
        """Return eight rows of a layer, spread evenly: heads and channels differ along them.

        Two where the whole model is compared at once, which bounds the memory of a batch.
        """
        rows = self._weights[layer].shape[0]
        count = min(2 if self._config.group == "model" else 8, rows)
        return torch.arange(count, device=self._weights[layer].device) * rows // count

    def _grouped(self, parts: list[Tensor]) -> Tensor:
        """Return sampled rows as the groups that are compared, one a row.

        Args:
            parts: The sample of each matrix that is compared with the others.
        """
        columns = columns_of(self._config.group)
        if isinstance(self._pattern, NM):
            return parts[0].reshape(-1, self._pattern.block)
        if columns:
            blocks = parts[0].reshape(len(parts[0]), -1, columns).transpose(0, 1)
            return blocks.reshape(-1, len(parts[0]) * columns)
        if self._config.group == "row":
            return parts[0]
        return torch.cat([part.reshape(1, -1) for part in parts], dim=1)

    def _masks_of(self, expression: Expression) -> Masks | Failed:
        """Return the masks of the search's own calibration draw; the latest are kept."""
        digest = key(expression)
        if digest not in self._masks:
            masks = self._make_masks(expression, self._config.seed)
            if isinstance(masks, Failed):
                return masks
            self._masks[digest] = masks
            size = sum(bits.nbytes for bits in masks.values())
            while len(self._masks) > max(1, MASK_CACHE_BYTES // max(1, size)):
                self._masks.popitem(last=False)
        return self._masks[digest]

    def _make_masks(self, expression: Expression, seed: int) -> Masks | Failed:
        program = Program([expression])
        masks: Masks = {}
        for names in self._sets:
            if len(names) == 1:
                inputs = self._inputs(names[0], program.terminals, seed)
                bits = self._tiles.keep_bits(program, inputs, self._pattern, self._config.group)
                if bits is None:
                    return Failed(f"not finite on {names[0]}")
                masks[names[0]] = bits
                continue
            importances: dict[str, Tensor] = {}
            for name in names:
                (value,) = program.run(self._inputs(name, program.terminals, seed))
                if not torch.isfinite(value).all():
                    return Failed(f"not finite on {name}")
                importances[name] = value.expand(self._weights[name].shape)
            for name, mask in self._kept(importances).items():
                masks[name] = pack(mask)
        return masks

    def _kept(self, importances: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the masks of matrices that are compared together."""
        if len(importances) > 1 and isinstance(self._pattern, Unstructured):
            return keep_masks(importances, self._pattern)
        return {
            name: keep_mask(importance, self._pattern, self._config.group)
            for name, importance in importances.items()
        }


def _read_texts(config: PruningConfig, *roles: str) -> dict[str, Text]:
    """Return the texts of some roles, which may not overlap."""
    texts = {role: read_text(getattr(config, role)) for role in roles}
    refuse_overlap(texts)
    return texts


def _in_words(reasons: Mapping[str, str]) -> str:
    """Return how many parameters stay dense for each reason, with an example."""
    first: dict[str, str] = {}
    for name, reason in reasons.items():
        first.setdefault(reason, name)
    counts = Counter(reasons.values())
    return "; ".join(f"{counts[r]} (such as {name}): {r}" for r, name in first.items())


def _meanings_hash() -> str:
    """Return the hash of the source of all primitives' meanings: a change is a new protocol."""
    return content_hash(hashlib.sha256(inspect.getsource(meanings).encode()).hexdigest())
