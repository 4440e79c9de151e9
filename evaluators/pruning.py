"""The pruning evaluator: what an importance does to a language model when it decides the mask."""

import contextlib
import gc
import hashlib
import inspect
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
from autoproxy.language.parse import parse
from autoproxy.language.program import Program
from autoproxy.language.types import Kind
from evaluators.allocation import (
    ALLOCATIONS,
    Share,
    allocation_json,
    alpha_pruning,
    outlier_share,
    owl,
    read_allocation,
    tail_exponent,
    tuned,
)
from evaluators.behaviour import Probe, judge_orders, row_local
from evaluators.cache import tend
from evaluators.config import PruningConfig
from evaluators.drawing import WINDOWS, Documents, WithSpecialTokens
from evaluators.layers import compared, prunable, skipped, weights_of
from evaluators.masks import (
    NM,
    SPANNING,
    Pattern,
    Unstructured,
    applied,
    check_fits,
    columns_of,
    given_back,
    keep_mask,
    keep_masks,
    mask_hash,
    pack,
    replaced,
)
from evaluators.methods import METHODS, Method
from evaluators.models import LoadedModel, load_model
from evaluators.perplexity import Comparison, Reference, block_losses, perplexity
from evaluators.room import check_loading, check_room, needs
from evaluators.source import find_source
from evaluators.starter import SHIPPED, starter_folder
from evaluators.statistics import FLOWING, PROVIDED, Statistics, cached_statistics, flows, noise
from evaluators.tasks import Harness, TaskPlan, side_by_side
from evaluators.text import Text, read_text, refuse_overlap
from evaluators.tiles import Tiles
from evaluators.walk import Walk
from evaluators.writing import (
    Decision,
    Writer,
    check_same,
    few_logits,
    finite,
    write_pruned,
)

VERSION = 1
"""Raised by every change that can change a value; part of every protocol."""

MASK_CACHE_BYTES = 512 * 1024**2
"""Masks of the latest candidates that are kept as bits, between identity and measurement."""

WANDA = parse("mul(abs(W), x_norm)")
"""What OWL counts outliers of."""

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
        loaded: The model, where another evaluator of it holds it already.
    """

    asks: type[PruningConfig] = PruningConfig
    """What plain options are read as."""

    def __init__(
        self,
        config: PruningConfig,
        *,
        cache: Path,
        notice: Callable[[str], None],
        roles: Sequence[str] = ("calibration", "text"),
        loaded: LoadedModel | None = None,
    ) -> None:
        self._config = config
        self._cache = cache
        self._notice = notice
        self._pattern = config.condition
        self._texts = _read_texts(config, *roles)
        self._loaded = loaded or load_model(config.model, device=config.device, dtype=config.dtype)
        self._length = config.sequence_length(self._loaded.max_length)
        self._layers = prunable(self._loaded.model)
        self._weights = weights_of(self._layers)
        self._skipped = skipped(self._loaded.model)
        if self._skipped:
            notice(f"stay dense: {_in_words(self._skipped)}")
        check_fits(self._pattern, config.group, self._weights)
        self._group = "block" if isinstance(self._pattern, NM) else config.group
        self._by_layer = compared(self._loaded.model, self._layers, "layer")
        self._sets = compared(self._loaded.model, self._layers, self._group)
        # What is compared over the model is probed so, even if masks are then made row by row.
        self._probed_group = "model" if config.allocation == "metric" else self._group
        self._probed = compared(self._loaded.model, self._layers, self._probed_group)
        self._windows: dict[tuple[str, int | None], Tensor] = {}
        self._statistics: dict[int, Statistics] = {}
        self._outliers_of: dict[int, list[float]] = {}
        self._masks: OrderedDict[str, Masks] = OrderedDict()
        self._begun: dict[str, list[Comparison]] = {}  # by key, on the first blocks
        self._tiles = Tiles()
        self._spare: dict[str, Tensor] = {}  # dense copies, while no mask is applied

    @classmethod
    def from_options(
        cls, options: Mapping[str, Any], *, cache: Path, notice: Callable[[str], None]
    ) -> Self:
        """Return the evaluator that plain options ask for.

        Raises:
            ConfigError: An option, a text or the model cannot serve, or there is no memory.
        """
        config = cls.asks.from_options(options)
        check_loading(config.model, device=config.device, dtype=config.dtype)
        return cls(config, cache=cache, notice=notice)

    @classmethod
    def root_of(cls, options: Mapping[str, Any]) -> Kind:
        """Return the kind of the formulas that `prune` takes under some options."""
        del options
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
        self._statistics.clear()
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
        if self._probed_group in SPANNING:
            return Blindness.WHOLE
        return Blindness.ROW if self._group in ("block", "row") else Blindness.MATRIX

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
        self._statistics_for(self._config.seed, frozenset(names) | WANDA.terminals())

    def behaviour(
        self, expressions: Sequence[Expression], reject: float = math.inf
    ) -> list[Fingerprint | Failed]:
        """Return the order of each importance on sampled rows of every layer, as a digest.

        Formulas whose rows do not depend on one another run on the sampled rows alone; the
        others on whole layers, of which the rows are then taken. The distortion is what dropping
        the least of the sampled rows takes from the layers' outputs, as a multiple of Wanda's;
        it can only grow from layer to layer, so a probe ends when it exceeds `reject`.
        """
        reference = self._wanda_error
        probes = self._probe(expressions, reject, reference)
        return [judge_orders(probe, reference) for probe in probes]

    @cached_property
    def _wanda_error(self) -> float:
        (probe,) = self._probe([WANDA], math.inf, 1.0)
        return max(probe.error, 1e-30)

    def _probe(
        self, expressions: Sequence[Expression], reject: float, reference: float
    ) -> list[Probe]:
        """Return probes that saw every layer, or some until they distorted more than `reject`."""

        def goes_on(probe: Probe) -> bool:
            return probe.finite and probe.error / reference <= reject

        probes = [Probe() for _ in expressions]
        local = [row_local(expression) for expression in expressions]
        for wanted in (True, False):
            chosen = [i for i, is_local in enumerate(local) if is_local is wanted]
            program = Program([expressions[i] for i in chosen])
            for names in self._probed:
                left = [i for i in chosen if goes_on(probes[i])]
                if len(left) < len(chosen):
                    chosen, program = left, Program([expressions[i] for i in left])
                if chosen:
                    self._see(program, names, [probes[i] for i in chosen], local=wanted)
        return probes

    def _see(
        self, program: Program, names: Sequence[str], probes: Sequence[Probe], *, local: bool
    ) -> None:
        """Show each probe the sampled rows of its value on matrices that are compared."""
        samples: list[list[Tensor]] = [[] for _ in probes]
        for name in names:
            for place, sample in enumerate(self._sample(program, name, local=local)):
                samples[place].append(sample)
        squares = self._grouped([self._sampled_squares(name) for name in names])
        whole = float(squares.sum(dtype=torch.float64))
        for probe, parts in zip(probes, samples, strict=True):
            groups = self._grouped(parts)
            probe.see(groups)
            probe.lose(groups, squares, whole, self._pattern)

    def _sampled_squares(self, name: str) -> Tensor:
        """Return (W_ij ||x_j||)^2 on the sampled rows of a layer."""
        seed = self._config.seed
        norms = self._statistics_for(seed, WANDA.terminals())[name]["x_norm"]
        return (self._weights[name][self._sampled_rows(name)].float() * norms).square()

    def _sample(self, program: Program, name: str, *, local: bool) -> Iterator[Tensor]:
        """Yield the sampled rows of each value of a program on one layer."""
        rows = self._sampled_rows(name)
        seed = self._config.seed
        statistics = self._statistics_for(seed, program.terminals)
        inputs = self._inputs(name, program.terminals, statistics, seed)
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
            self._statistics_for(seed, needed)
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
                del self._statistics[seed]

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
        pattern, seed = self._pattern, self._config.seed
        if isinstance(pattern, NM) or self._config.mode != "oneshot" or self._group == "model":
            raise ConfigError(
                "an allocation is tuned for a sparsity, in mode oneshot, within groups no larger "
                "than a decoder layer; leave --pattern, --mode and --group model away"
            )
        program = Program([expression])
        self._statistics_for(seed, program.terminals | WANDA.terminals())
        references = self._references
        sizes = [sum(self._weights[n].numel() for n in names) for names in self._by_layer]

        def divergence(shares: Sequence[Fraction]) -> float:
            patterns: dict[str, Pattern] = {
                name: Unstructured(share)
                for names, share in zip(self._by_layer, shares, strict=True)
                for name in names
            }
            masks = self._masks_by(program, patterns, seed)
            if isinstance(masks, Failed):
                raise ConfigError(f"{expression} decides no masks: {masks.reason}")
            with self._applied(masks):
                found = list(references.compare(self._loaded.model))
            return math.fsum(c.kl for c in found) / len(found)

        start = owl(self._outliers(seed), pattern.sparsity)
        share = Share(sizes, pattern.sparsity)
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
            with replaced(self._weights, self._made_by(METHODS[candidate], seed)):
                yield
            return
        masks = self._make_masks(candidate, seed)
        if isinstance(masks, Failed):
            raise ConfigError(f"{candidate} cannot be reported: {masks.reason}")
        with self._applied(masks):
            yield

    def _made_by(self, method: Method, seed: int) -> dict[str, Tensor]:
        """Return the weights that a method makes of each layer's, decoder layer by decoder layer.

        Its statistics, which may be as large as the weights, are of one decoder layer at a time.
        """
        method.check(self._pattern)
        patterns = self._patterns(Program([WANDA]), seed)
        if isinstance(patterns, Failed):
            raise ConfigError(f"{method.name} cannot be given its sparsities: {patterns.reason}")
        blocks = self._blocks("calibration", self._config.calibration_blocks, seed)
        walk = Walk(self._loaded.model, blocks)
        made: dict[str, Tensor] = {}
        with given_back(self._weights):
            for number, inside in enumerate(self._by_layer):
                layers = {name: self._layers[name] for name in inside}
                seen = flows(layers, walk.runs(number), method.needs)
                if self._config.mode == "oneshot":
                    walk.step(number)
                for name in inside:
                    live = self._weights[name]
                    new = method.prune(live.float().contiguous(), seen[name], patterns[name])
                    made[name] = new.to(live.dtype)
                    live.copy_(made[name])
                if self._config.mode == "sequential":
                    walk.step(number)
        return made

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

    def dense(self) -> dict[str, float]:
        """Return the perplexity of the model as it is on the report text; its KL is zero."""
        losses = block_losses(self._loaded.model, self._report_text.blocks)
        return {"perplexity": perplexity(losses), "kl": 0.0}

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

        What is written in another shape is tried on a few tokens against what was measured.
        Memory and disk are checked first. The evaluator is gone when the model is written, so
        that no two copies of it are held at a time.

        Args:
            options: As in `from_options`.
            expression: Importance of the kind that `root_of` says.
            folder: An existing empty folder.
            check: Whether to measure perplexity on the report text before, and after of the
                folder as written, loaded again.
            cache: Folder of the cache of statistics; it exists.
            tell: Told each stage of the work as it begins, with None or something to note.

        Returns:
            `protocol`, `options` (complete), what `write_pruned` or `write_shrunk` says, and
            `check`: text, and dense and pruned perplexity (None where not finite), or None where
            no check was asked.

        Raises:
            ConfigError: An option, a text, the model or the importance cannot serve, or there is
                no room.
            ModelError: What was written does not compute what it should.
        """
        config = cls.asks.from_options(options)
        tell("model", None)
        source = find_source(config.model)
        terminals = expression.terminals()
        wanted = needs(source, terminals, dtype=config.dtype, group=config.group)
        check_room(wanted, device=config.device, folder=folder.parent, cache=cache)
        tell("masks", None)
        roles = ("calibration", "text") if check else ("calibration",)
        made = cls(config, cache=cache, notice=lambda text: tell("masks", text), roles=roles)
        decision = made._decide(expression)
        write = made._writer()
        del made  # and with it the dense model, before it is loaded to be written
        gc.collect()
        tell("writing", None)
        written = write(source, decision.masks, folder, lambda text: tell("writing", text))
        facts = {**decision.facts, **written}
        if decision.blocks is None and decision.logits is None:
            return facts
        if decision.blocks is not None:
            tell("check", None)
        again = load_model(str(folder), device=config.device, dtype=config.dtype)
        if decision.logits is not None:
            check_same(few_logits(again), decision.logits)
        if decision.blocks is None:
            return facts
        after = perplexity(block_losses(again.model, decision.blocks))
        return {**facts, "check": {**decision.facts["check"], "pruned_perplexity": finite(after)}}

    def _writer(self) -> Writer:
        """Return the function that writes what this kind of evaluator decides."""
        return write_pruned

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
        text = read_text(self._config.validation, self._config.text_join)
        _keep_apart({**self._texts, "validation": text})
        return text

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
        if (role, seed) not in self._windows:
            self._windows[role, seed] = self._draw(role, count, seed)
        return self._windows[role, seed]

    def _draw(self, role: str, count: int | None, seed: int | None) -> Tensor:
        text = self._validation_text if role == "validation" else self._texts[role]
        tokenizer = self._loaded.tokenizer
        drawn: Tensor = WINDOWS[self._config.windows if role == "calibration" else "grid"](
            text,
            WithSpecialTokens(tokenizer) if self._config.special_tokens else tokenizer,
            length=self._length,
            count=count,
            role=role,
            seed=seed,
        )
        if isinstance(text, Documents):  # only now is it known what statistics are taken on
            searched = "_validation_text" in self.__dict__
            extra = {"validation": self._validation_text} if searched else {}
            _keep_apart({**self._texts, **extra})
        return drawn

    def _shared_protocol(self) -> dict[str, Any]:
        config = self._config
        return {
            "evaluator": "pruning",
            "version": VERSION,
            "model": self._loaded.name,
            "model_hash": self._loaded.sha256,
            "condition": str(self._pattern),
            "group": self._group,
            "mode": "oneshot-dense" if config.mode == "oneshot" else config.mode,
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
            **self._allocation_protocol(),
            **config.drawing(),
        }

    def _allocation_protocol(self) -> dict[str, Any]:
        """Return how sparsity is given out; nothing where it is the same everywhere."""
        allocation = self._config.allocation
        if allocation == "uniform" or isinstance(self._pattern, NM):
            return {}
        if allocation in ALLOCATIONS:
            return {"allocation": allocation}
        shares = [str(share) for share in self._shares_of_file(self._pattern.sparsity)]
        return {"allocation": Path(allocation).name, "allocation_hash": content_hash(shares)}

    def _statistics_for(self, seed: int, names: frozenset[str]) -> Statistics:
        """Return statistics of the calibration draw of `seed`, measuring those that lack."""
        known = self._statistics.setdefault(seed, {name: {} for name in self._layers})
        have = set(next(iter(known.values())))
        missing = names - have - {"W", "noise"}
        if missing:
            drawn = self._blocks("calibration", self._config.calibration_blocks, seed)
            limit = self._config.cache_limit
            new = cached_statistics(self._cache, self._loaded, drawn, missing, self._notice, limit)
            for layer, values in new.items():
                known[layer].update(values)
        return known

    def _inputs(
        self, layer: str, names: frozenset[str], statistics: Statistics, seed: int
    ) -> dict[str, Tensor]:
        """Return the terminals of one layer, in float32."""
        weight = self._weights[layer].float().contiguous()  # GPT-2 stores it turned
        found = {"W": weight, **statistics[layer]}
        if "noise" in names:
            found["noise"] = noise(layer, weight.shape, seed).to(weight.device)
        return {name: found[name] for name in names | {"W"}}

    def _sampled_rows(self, layer: str) -> Tensor:
        """Return eight rows of a layer, spread evenly: heads and channels differ along them.

        Two where the whole model is compared at once, which bounds the memory of a batch.
        """
        rows = self._weights[layer].shape[0]
        count = min(2 if self._probed_group == "model" else 8, rows)
        return torch.arange(count, device=self._weights[layer].device) * rows // count

    def _grouped(self, parts: list[Tensor]) -> Tensor:
        """Return sampled rows as the groups that are compared, one a row.

        Args:
            parts: The sample of each matrix that is compared with the others.
        """
        columns = columns_of(self._probed_group)
        if isinstance(self._pattern, NM):
            return parts[0].reshape(-1, self._pattern.block)
        if columns:
            blocks = parts[0].reshape(len(parts[0]), -1, columns).transpose(0, 1)
            return blocks.reshape(-1, len(parts[0]) * columns)
        if self._probed_group == "row":
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
        """Return the masks that an importance decides with the calibration draw of `seed`."""
        program = Program([expression])
        patterns = self._patterns(program, seed)
        if isinstance(patterns, Failed):
            return patterns
        if self._config.mode == "sequential":
            return self._masks_in_turn(program, patterns, seed)
        return self._masks_by(program, patterns, seed)

    def _masks_by(
        self, program: Program, patterns: Mapping[str, Pattern], seed: int
    ) -> Masks | Failed:
        """Return masks made in one shot, with so many dropped of each matrix."""
        masks: Masks = {}
        for names in self._sets:
            statistics = self._statistics_for(seed, program.terminals)
            if len(names) == 1:
                (name,) = names
                inputs = self._inputs(name, program.terminals, statistics, seed)
                bits = self._tiles.keep_bits(program, inputs, patterns[name], self._config.group)
                if bits is None:
                    return Failed(f"not finite on {name}")
                masks[name] = bits
                continue
            kept = self._kept(program, names, patterns, statistics, seed)
            if isinstance(kept, Failed):
                return kept
            masks |= {name: pack(mask) for name, mask in kept.items()}
        return masks

    def _masks_in_turn(
        self, program: Program, patterns: Mapping[str, Pattern], seed: int
    ) -> Masks | Failed:
        """Return masks made decoder layer by decoder layer, each behind those already pruned."""
        flowing = program.terminals & FLOWING
        dense = self._statistics_for(seed, program.terminals - flowing)
        blocks = self._blocks("calibration", self._config.calibration_blocks, seed)
        walk = Walk(self._loaded.model, blocks)
        masks: Masks = {}
        with given_back(self._weights):
            for number, inside in enumerate(self._by_layer):
                layers = {name: self._layers[name] for name in inside}
                seen = flows(layers, walk.runs(number), flowing)
                here = {name: {**dense[name], **seen[name]} for name in inside}
                apart = [[name] for name in inside]
                for names in [inside] if self._group == "layer" else apart:
                    kept = self._kept(program, names, patterns, here, seed)
                    if isinstance(kept, Failed):
                        return kept
                    for name, mask in kept.items():
                        masks[name] = pack(mask)
                        self._weights[name].masked_fill_(~mask, 0.0)
                walk.step(number)
        return masks

    def _kept(
        self,
        program: Program,
        names: Sequence[str],
        patterns: Mapping[str, Pattern],
        statistics: Statistics,
        seed: int,
    ) -> Mapping[str, Tensor] | Failed:
        """Return the masks of matrices that are compared together."""
        importances = self._importances(program, names, statistics, seed)
        if isinstance(importances, Failed):
            return importances
        pattern = patterns[names[0]]  # the same of all that are compared
        if len(names) > 1 and isinstance(pattern, Unstructured):
            return keep_masks(importances, pattern)
        return {
            name: keep_mask(values, patterns[name], self._config.group)
            for name, values in importances.items()
        }

    def _importances(
        self, program: Program, names: Iterable[str], statistics: Statistics, seed: int
    ) -> dict[str, Tensor] | Failed:
        found: dict[str, Tensor] = {}
        for name in names:
            (value,) = program.run(self._inputs(name, program.terminals, statistics, seed))
            if not torch.isfinite(value).all():
                return Failed(f"not finite on {name}")
            found[name] = value.expand(self._weights[name].shape)
        return found

    def _patterns(self, program: Program, seed: int) -> Mapping[str, Pattern] | Failed:
        """Return how many are dropped of each matrix, by its name."""
        pattern = self._pattern
        if self._config.allocation == "uniform" or isinstance(pattern, NM):
            return dict.fromkeys(self._layers, pattern)
        shares = self._shares(pattern.sparsity, program, seed)
        if isinstance(shares, Failed):
            return shares
        return {
            name: Unstructured(share)
            for names, share in zip(self._by_layer, shares, strict=True)
            for name in names
        }

    def _shares(
        self, sparsity: Fraction, program: Program, seed: int
    ) -> Sequence[Fraction] | Failed:
        """Return the sparsity of each decoder layer."""
        kind = self._config.allocation
        if kind == "owl":
            return owl(self._outliers(seed), sparsity)
        if kind == "alpha":
            sizes = [sum(self._weights[n].numel() for n in names) for names in self._by_layer]
            return alpha_pruning(self._tail_exponents, sizes, sparsity)
        if kind != "metric":
            return self._shares_of_file(sparsity)
        statistics = self._statistics_for(seed, program.terminals)
        importances = self._importances(program, self._layers, statistics, seed)
        if isinstance(importances, Failed):
            return importances
        kept = keep_masks(importances, Unstructured(sparsity))
        return [
            Fraction(
                sum(int((~kept[name]).sum()) for name in names),
                sum(kept[name].numel() for name in names),
            )
            for names in self._by_layer
        ]

    def _outliers(self, seed: int) -> list[float]:
        """Return the share of outliers of Wanda's importance in each decoder layer."""
        if seed in self._outliers_of:
            return self._outliers_of[seed]
        wanda = Program([WANDA])
        statistics = self._statistics_for(seed, wanda.terminals)
        shares = []
        for names in self._by_layer:
            importances = self._importances(wanda, names, statistics, seed)
            if isinstance(importances, Failed):
                raise ConfigError(f"allocation owl: Wanda's importance is {importances.reason}")
            shares.append(outlier_share(list(importances.values())))
        self._outliers_of[seed] = shares
        return shares

    @cached_property
    def _tail_exponents(self) -> list[float]:
        return [
            math.fsum(tail_exponent(self._weights[name]) for name in names) / len(names)
            for names in self._by_layer
        ]

    def _shares_of_file(self, sparsity: Fraction) -> list[Fraction]:
        return read_allocation(Path(self._config.allocation), len(self._by_layer), sparsity)

    def _applied(self, masks: Masks) -> AbstractContextManager[None]:
        return applied(self._weights, masks, self._spare)


def _read_texts(config: PruningConfig, *roles: str) -> dict[str, Text | Documents]:
    """Return the texts of some roles, which may not overlap."""
    texts: dict[str, Text | Documents] = {}
    for role in roles:
        if role == "calibration" and config.windows == "documents":
            texts[role] = Documents(config.calibration)
        else:
            join = config.calibration_join if role == "calibration" else config.text_join
            texts[role] = read_text(getattr(config, role), join)
    _keep_apart(texts)
    return texts


def _keep_apart(texts: Mapping[str, Text | Documents]) -> None:
    """Refuse texts that overlap; of a corpus of documents those count that were drawn so far."""
    refuse_overlap({r: t.drawn if isinstance(t, Documents) else t for r, t in texts.items()})


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
