"""The pruning evaluator: what an importance does to a language model when it decides the mask."""

import contextlib
import functools
import hashlib
import inspect
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
import transformers
from torch import Tensor

from autoproxy.columns import REFERENCE
from autoproxy.errors import ConfigError
from autoproxy.evaluation import (
    BLOCK,
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
from autoproxy.language.types import Kind
from evaluators.allocation import Share, allocation_json, tuned
from evaluators.behaviour import Prober
from evaluators.cache import tend
from evaluators.calibrated import WANDA, Calibrated
from evaluators.committing import Decision, Writer, commit
from evaluators.config import PruningConfig
from evaluators.deciding import Decider, Masks
from evaluators.illustration import kept_rows
from evaluators.layers import in_words, skipped
from evaluators.masks import (
    NM,
    SPANNING,
    amount_of,
    applied,
    mask_difference,
    mask_hash,
    replaced,
)
from evaluators.methods import METHODS, check_asked
from evaluators.models import LoadedModel, load_model
from evaluators.perplexity import Comparison, Reference, block_losses, perplexity
from evaluators.roles import Texts
from evaluators.room import check_loading
from evaluators.starter import SHIPPED, starter_folder
from evaluators.statistics import PROVIDED
from evaluators.streaming import (
    StreamedCalibrated,
    check_streamable,
    load_streamed,
    losses_on,
    write_streamed,
)
from evaluators.tasks import Harness, TaskPlan, side_by_side
from evaluators.text import JOINED
from evaluators.writing import finite, write_pruned

VERSION = 2
"""Raised by every change that can change a value; part of every protocol."""

MASK_CACHE_BYTES = 512 * 1024**2
"""Masks of the latest candidates that are kept as bits, between identity and measurement."""


class PruningEvaluator:
    """Measures importances by pruning a language model with them.

    The objective is KL(dense || pruned) in nats, mean over positions and blocks of the validation
    text: its noise is smaller than perplexity's for the same tokens. The model's weights are given
    back bit for bit.

    Its parts, in the order in which `measure` uses them: `Texts` (`roles.py`) draws blocks,
    `Calibrated` (`calibrated.py`) holds the model and its statistics, `Decider` (`deciding.py`)
    makes masks of an importance, `applied` (`masks.py`) lends them to the live model, and
    `Reference` (`perplexity.py`) compares it with its dense self. Before any of it, `Prober`
    (`behaviour.py`) looks at a few rows.

    Memory: the model, from the first mask on a copy of its pruned weights, two matrices in
    float32, and the statistics that are asked for (a gradient is as large as the weights).

    Args:
        config: What to prune, how, on which texts.
        cache: Folder of the cache of statistics.
        notice: Told once when something was mended on the way, such as a corrupted cache.
        roles: The texts that are read at once and kept apart; that of the search is read when
            something is searched.
        loaded: The model, where another evaluator of it holds it already.
        spare: Dense copies of its weights between one mask and the next, which evaluators of one
            model share.
    """

    asks: type[PruningConfig] = PruningConfig
    """What plain options are read as."""

    least_block = 0.0
    """No divergence on a block is below it: some blocks alone can show that others are better."""

    def __init__(
        self,
        config: PruningConfig,
        *,
        cache: Path,
        notice: Callable[[str], None],
        roles: Sequence[str] = ("calibration", "text"),
        loaded: LoadedModel | None = None,
        spare: dict[str, Tensor] | None = None,
    ) -> None:
        self._config = config
        self._texts = Texts(config, *roles)
        load = load_streamed if config.stream else load_model
        self._loaded = loaded or load(config.model, device=config.device, dtype=config.dtype)
        self._length = config.sequence_length(self._loaded.max_length)
        self._skipped = skipped(self._loaded.model)
        self._note_skipped(notice)
        self._model = (StreamedCalibrated if config.stream else Calibrated)(
            self._loaded,
            functools.partial(  # not of self, so that the model goes when the evaluator does
                self._texts.blocks,
                "calibration",
                self._loaded.tokenizer,
                self._length,
                config.calibration_blocks,
            ),
            cache=cache,
            limit=config.cache_limit,
            notice=notice,
        )
        self._decider = Decider(self._model, config)
        # What is compared over the model is probed so, even if masks are then made row by row.
        probed = "model" if config.allocation == "metric" else self._decider.group
        self._prober = Prober(self._model, self._decider.pattern, probed, config.seed)
        self._masks: OrderedDict[str, Masks] = OrderedDict()
        self._begun: dict[str, list[Comparison]] = {}  # by key, on the first blocks
        self._spare = {} if spare is None else spare  # dense copies, while no mask is applied

    def _note_skipped(self, notice: Callable[[str], None]) -> None:
        """Say which parameters stay dense, and why."""
        if self._skipped:
            notice(f"stay dense: {in_words(self._skipped)}")

    @classmethod
    def from_options(
        cls, options: Mapping[str, Any], *, cache: Path, notice: Callable[[str], None]
    ) -> Self:
        """Return the evaluator that plain options ask for.

        Raises:
            ConfigError: An option, a text or the model cannot serve, or there is no memory.
        """
        config = cls.asks.from_options(options)
        if config.stream:
            raise ConfigError("stream is for `autoproxy prune` alone; leave it away")
        check_loading(config.model, device=config.device, dtype=config.dtype)
        return cls(config, cache=cache, notice=notice)

    @classmethod
    def root_of(cls, options: Mapping[str, Any]) -> Kind:
        """Return the kind of the formulas that `prune` takes under some options."""
        del options
        return Kind.WEIGHT

    @property
    def root(self) -> Kind:
        """Kind of the formulas that it rates, the only one."""
        return Kind.WEIGHT

    @staticmethod
    def shipped() -> dict[str, str]:
        """Return where the models lie that need no download; an error says what to do."""
        return {name: str(starter_folder(name)) for name in SHIPPED}

    @staticmethod
    def tend_cache(folder: Path, *, clear: bool, limit: str | None) -> dict[str, Any]:
        """Clear or shrink a cache of statistics, where asked, and say what it holds."""
        return tend(folder, clear=clear, limit=limit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._model.forget()
        self._masks.clear()
        self._begun.clear()
        self._spare.clear()

    @property
    def conditions(self) -> "tuple[PruningEvaluator]":
        """What the report is made of: this one condition."""
        return (self,)

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
        """One validation block, two, ... all of them."""
        count = self._config.validation_blocks
        return tuple(number / count for number in range(1, count + 1))

    @property
    def blindness(self) -> Blindness:
        """Orders within a row (or a block of it), within a matrix, or over several."""
        if self._prober.group in SPANNING:
            return Blindness.WHOLE
        return Blindness.ROW if self._decider.group in ("block", "row") else Blindness.MATRIX

    def protocol(self) -> dict[str, Any]:
        """Return everything that determines a value."""
        return {
            **self._shared_protocol(),
            "seed": self._config.seed,
            "validation": self._texts.validation.name,
            "validation_hash": self._texts.validation.sha256,
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

    @classmethod
    def options_of(cls, protocol: Mapping[str, Any]) -> dict[str, Any]:
        """Return plain options that give this `report_protocol` again.

        Where a model, a text or an allocation lies is no part of a protocol: it goes by its name
        there, and its hash says whether it is the same.
        """
        named = "protocol" in protocol
        drawn = ("protocol", "windows", "calibration_join", "text_join", "special_tokens")
        alike = ("model", "allocation", "device", "dtype", "length", "calibration_blocks", *drawn)
        amount = amount_of(protocol["condition"])
        return {
            **{name: protocol[name] for name in alike if name in protocol},
            **amount,
            # N:M compares within its blocks; the group that was asked for besides is of no matter
            **({} if "pattern" in amount else {"group": protocol["group"]}),
            "mode": protocol["mode"].removesuffix("-dense"),
            "calibration": protocol["calibration"].split(JOINED),
            "text": protocol["text"].split(JOINED),
            **({} if named else {"text_blocks": protocol["tokens"] // protocol["length"]}),
            **protocol.get("departures", {}),
        }

    def prepare(self, names: Iterable[str]) -> None:
        """Check all texts and measure the statistics that will be needed, in one go.

        Raises:
            ConfigError: A text is too short.
        """
        _ = self._references, self._report_text
        self._model.statistics(self._config.seed, frozenset(names) | WANDA.terminals())

    def behaviour(
        self, expressions: Sequence[Expression], reject: float = math.inf
    ) -> list[Fingerprint | Failed]:
        """Return what each importance does on sampled rows; see `Prober.judge`."""
        return self._prober.judge(expressions, reject)

    def values(self, expressions: Sequence[Expression]) -> list[str]:
        """Return digests of the values of parts of formulas on sampled rows of every layer."""
        return self._prober.values(expressions)

    def identity(self, expression: Expression) -> str | Failed:
        """Return the hash of all masks that an importance decides, or why it decides none."""
        masks = self._masks_of(expression)
        return masks if isinstance(masks, Failed) else mask_hash(masks.values())

    def difference(self, one: Expression, other: Expression) -> float:
        """Return the share of all mask bits in which two differ; 1 where only one has masks."""
        masks, others = self._masks_of(one), self._masks_of(other)
        if isinstance(masks, Failed) or isinstance(others, Failed):
            return float(type(masks) is not type(others))
        return mask_difference(masks, others)

    def measure(self, expressions: Sequence[Expression], fidelity: float) -> Iterator[Outcome]:
        """Yield the divergence of the model pruned by each importance.

        What is measured again at a higher fidelity is measured on the further blocks alone.

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
            found = self._begun.pop(key(expression), [])
            if len(found) >= count:
                found = []
            with self._applied(masks):
                found += references.compare(self._loaded.model, len(found), count)
            seconds = time.monotonic() - start
            if not all(math.isfinite(c.kl) and math.isfinite(c.nll) for c in found):
                yield Failed("the pruned model's output is not finite", seconds)
                continue
            if fidelity < 1:
                self._begun[key(expression)] = found
            kl = math.fsum(c.kl for c in found) / count
            loss = math.fsum(c.nll for c in found) / count
            blocks = {f"{BLOCK}{number}": c.kl for number, c in enumerate(found, 1)}
            details = {"nll": loss, "perplexity": perplexity([loss]), **blocks}
            yield Measured(kl, fidelity, seconds, details)

    def confirm(self, expression: Expression) -> tuple[float, ...]:
        """Return the loss on each fresh block of the validation text, in nats."""
        masks = self._masks_of(expression)
        if isinstance(masks, Failed):
            raise ConfigError(f"{expression} cannot be confirmed: {masks.reason}")
        with self._applied(masks):
            return tuple(block_losses(self._loaded.model, self._fresh_blocks))

    def report(
        self, candidates: Sequence[Expression | str], seeds: Iterable[int]
    ) -> Iterator[dict[str, Any]]:
        """Yield perplexity and divergence of each candidate on the report text.

        Args:
            candidates: Importances of root kind Weight, and names of `methods`.
            seeds: Of the calibration draws; masks are made anew with each.

        Yields:
            `seed`, `index` (into `candidates`), `perplexity` and `kl` (nats).
        """
        expressions = [one for one in candidates if isinstance(one, Expression)]
        needed = frozenset[str]().union(*(one.terminals() for one in expressions))
        references = self._report_text  # of the dense model: made before any mask is applied
        for seed in seeds:
            self._model.statistics(seed, needed)
            for index, candidate in enumerate(candidates):
                with self._pruned(candidate, seed):
                    found = list(references.compare(self._loaded.model))
                yield {
                    "seed": seed,
                    "index": index,
                    "perplexity": perplexity([c.nll for c in found]),
                    "kl": math.fsum(c.kl for c in found) / len(found),
                }
            if seed != self._config.seed:
                self._model.forget(seed)

    def allocate(
        self, expression: Expression, *, trials: int, tell: Callable[[int, float], None]
    ) -> dict[str, Any]:
        """Tune how much of each decoder layer is dropped, on the validation text.

        Args:
            expression: Importance of root kind Weight that decides within layers.
            trials: Allocations to try; the first are the same everywhere, and OWL's.
            tell: Told after each trial how many are done and the least divergence so far.

        Returns:
            What `read_allocation` reads, with `kl` and `uniform_kl` (nats) and the `protocol`.

        Raises:
            ConfigError: The condition leaves nothing to give, or the importance fails.
        """
        pattern, seed = self._decider.pattern, self._config.seed
        spans = self._decider.group == "model"
        if isinstance(pattern, NM) or self._config.mode != "oneshot" or spans:
            raise ConfigError(
                "an allocation is tuned for a sparsity, in mode oneshot, within groups no larger "
                "than a decoder layer; leave --pattern, --mode and --group model away"
            )
        self._model.statistics(seed, expression.terminals() | WANDA.terminals())
        references = self._references

        def divergence(shares: Sequence[Fraction]) -> float:
            masks = self._decider.masks_with(shares, expression, seed)
            if isinstance(masks, Failed):
                raise ConfigError(f"{expression} decides no masks: {masks.reason}")
            with self._applied(masks):
                found = list(references.compare(self._loaded.model))
            return math.fsum(c.kl for c in found) / len(found)

        start = self._decider.owl(seed, pattern.sparsity)
        share = Share(self._model.sizes, pattern.sparsity)
        best, kl, uniform = tuned(
            divergence, share, start=start, trials=trials, seed=seed, tell=tell
        )
        return {
            **allocation_json(best, pattern.sparsity),
            "metric": str(expression),
            "kl": kl,
            "uniform_kl": uniform,
            "trials": trials,
            "protocol": self.protocol(),
        }

    @staticmethod
    def methods() -> Mapping[str, str]:
        """Return the names of what can be reported beside expressions, with their sources."""
        return {name: method.source for name, method in METHODS.items()}

    @contextlib.contextmanager
    def _pruned(self, candidate: Expression | str, seed: int) -> Iterator[None]:
        """Prune the live model for the block."""
        if isinstance(candidate, str):
            with replaced(self._model.weights, self._decider.weights_by(METHODS[candidate], seed)):
                yield
            return
        masks = self._make_masks(candidate, seed)
        if isinstance(masks, Failed):
            raise ConfigError(f"{candidate} cannot be reported: {masks.reason}")
        with self._applied(masks):
            yield

    @staticmethod
    def open_tasks(names: Sequence[str], *, limit: int | None, shots: int | None) -> Harness:
        """Find and read zero-shot tasks, before a model is loaded.

        Raises:
            ConfigError: The harness is not installed, or a task cannot be had.
        """
        return Harness(TaskPlan(names=tuple(names), limit=limit, shots=shots))

    def score_tasks(self, candidate: Expression | str, harness: Harness) -> dict[str, Any]:
        """Return accuracies of the model as it is and as a candidate prunes it.

        Args:
            candidate: Importance of root kind Weight, or the name of a method.
            harness: With the tasks.

        Returns:
            `protocol` of the harness, and `tasks` and `means` of `evaluators.tasks.side_by_side`.
        """
        dense = harness.accuracies(self._loaded)
        with self._pruned(candidate, self._config.seed):
            pruned = harness.accuracies(self._loaded)
        return {"protocol": harness.protocol(), **side_by_side(dense, pruned)}

    def illustrate(
        self, expression: Expression, others: Mapping[str, Expression | str]
    ) -> dict[str, Any]:
        """Return where an importance keeps weights, and where Wanda's metric keeps the same.

        Args:
            expression: Importance of the kind that this evaluator asks for.
            others: Hand-made metrics by name; of them, `wanda` is looked at, where it is there.

        Returns:
            `kind` ("masks"), `against` (name or None) and `rows`, see `kept_rows`.
        """
        reference = others.get(REFERENCE)
        known = self._masks_of(reference) if isinstance(reference, Expression) else None
        masks = self._masks_of(expression)
        if isinstance(masks, Failed):
            raise ConfigError(f"{expression} decides no masks: {masks.reason}")
        compared = None if isinstance(known, Failed) else known
        sizes = {name: self._mask_size(name) for name in masks}
        return {
            "kind": "masks",
            "against": None if compared is None else REFERENCE,
            "rows": kept_rows(masks, compared, sizes),
        }

    def _mask_size(self, name: str) -> int:
        """Return of how many weights a mask is."""
        return self._model.weights[name].numel()

    def dense(self) -> dict[str, float]:
        """Return the perplexity of the model as it is on the report text; its KL is zero."""
        return {"perplexity": perplexity(self._report_text.losses()), "kl": 0.0}

    @classmethod
    def prune(
        cls,
        options: Mapping[str, Any],
        candidate: Expression | str,
        folder: Path,
        *,
        check: bool,
        cache: Path,
        tell: Callable[[str, str | None], None],
    ) -> dict[str, Any]:
        """Write the model as an importance or a method prunes it, as a plain Hugging Face folder.

        What is written in another shape is tried on a few tokens against what was measured.
        Memory and disk are checked first. The evaluator is gone when the model is written, so
        that no two copies of it are held at a time.

        Args:
            options: As in `from_options`.
            candidate: Importance of the kind that `root_of` says, or the name of one of `methods`.
            folder: An existing empty folder.
            check: Whether to measure perplexity on the report text before, and after of the
                folder as written, loaded again.
            cache: Folder of the cache of statistics; it exists.
            tell: Told each stage of the work as it begins, with None or something to note.

        Returns:
            `protocol`, `options` (complete), what `write_pruned` or `write_shrunk` says, and
            `check`: text, and dense and pruned perplexity (None where not finite), or None where
            no check was asked. Of a method also `method`: its name, source and where it compares.

        Raises:
            ConfigError: An option, a text, the model, the importance or the method cannot serve,
                or there is no room.
            ModelError: What was written does not compute what it should.
        """
        config = cls.asks.from_options(options)
        if isinstance(candidate, str):
            # before anything is loaded
            check_asked(METHODS[candidate], config.condition, config.group)
        if config.stream:
            check_streamable(config.model, candidate)

        def decided(notice: Callable[[str], None]) -> Decision:
            roles = ("calibration", "text") if check else ("calibration",)
            return cls(config, cache=cache, notice=notice, roles=roles).decide(candidate)

        return commit(config, candidate, decided, folder, cache=cache, tell=tell)

    def decide(self, candidate: Expression | str) -> Decision:
        """Return all that is needed to write the model that an importance or a method prunes."""
        if isinstance(candidate, str):
            method = METHODS[candidate]
            masks, changed = self._decider.masks_by(method, self._config.seed)
            write = functools.partial(write_pruned, changed=changed)
            facts = {"name": method.name, "source": method.source, "compares": method.group}
            return self._decision(masks, write, {"method": facts})
        found = self._masks_of(candidate)
        if isinstance(found, Failed):
            raise ConfigError(f"{candidate} cannot prune this model: {found.reason}")
        return self._decision(found, write_streamed if self._config.stream else write_pruned, {})

    def _decision(self, masks: Masks, write: Writer, more: Mapping[str, Any]) -> Decision:
        """Return masks with the facts of how they were made, and the text for a check."""
        facts: dict[str, Any] = {
            **more,
            "protocol": {**self._shared_protocol(), "seed": self._config.seed},
            "options": self._config.mask_options(self._length),
            "check": None,
        }
        if "text" not in self._texts:
            return Decision(masks, facts, write)
        drawn = self._report_blocks
        text = self._texts["text"]
        facts["options"] |= {
            "text": list(self._config.text),
            "text_blocks": self._config.text_blocks or len(drawn),
            "text_join": self._config.text_join,
        }
        facts["check"] = {
            "text": text.name,
            "text_hash": text.sha256,
            "tokens": drawn.numel(),
            "dense_perplexity": finite(perplexity(losses_on(self._loaded, drawn))),
        }
        return Decision(masks, facts, write, drawn)

    @property
    def loaded(self) -> LoadedModel:
        """The model, as it is."""
        return self._loaded

    @property
    def texts(self) -> Texts:
        """The texts by role."""
        return self._texts

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
        count = self._config.report_blocks(self._length)
        return len(self._report_blocks) if count is None else count

    @cached_property
    def _report_blocks(self) -> Tensor:
        return self._blocks("text", self._config.report_blocks(self._length))

    @cached_property
    def _report_text(self) -> Reference:
        return Reference(self._loaded.model, self._report_blocks)

    def _blocks(self, role: str, count: int | None, seed: int | None = None) -> Tensor:
        """Return windows of the text of a role, as the configuration has them drawn, once."""
        tokenizer = self._loaded.tokenizer
        return self._texts.blocks(role, tokenizer, self._length, count, seed)

    def _shared_protocol(self) -> dict[str, Any]:
        config = self._config
        return {
            "evaluator": "pruning",
            "version": VERSION,
            "model": self._loaded.name,
            "model_hash": self._loaded.sha256,
            "condition": str(self._decider.pattern),
            "group": self._decider.group,
            "mode": "oneshot-dense" if config.mode == "oneshot" else config.mode,
            "ties": "lowest row, then lowest column dropped first",
            "length": self._length,
            "calibration": self._texts["calibration"].name,
            "calibration_hash": self._texts["calibration"].sha256,
            "calibration_blocks": config.calibration_blocks,
            "device": self._loaded.model.device.type,
            "dtype": config.dtype,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "meanings": _meanings_hash(),
            **({"skipped": list(self._skipped)} if self._skipped else {}),
            **self._decider.protocol(),
            **config.drawing(),
        }

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
        """Return the masks that an importance decides with the calibration draw of `seed`."""
        return self._decider.masks(expression, seed)

    def _applied(self, masks: Masks) -> AbstractContextManager[None]:
        return applied(self._model.weights, masks, self._spare)


def _meanings_hash() -> str:
    """Return the hash of the source of all primitives' meanings: a change is a new protocol."""
    return content_hash(hashlib.sha256(inspect.getsource(meanings).encode()).hexdigest())
