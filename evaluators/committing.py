"""Pruning a model for good: room first, then masks, the folder, and a look at what it holds."""

import dataclasses
import functools
import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoproxy.errors import ConfigError, ModelError
from autoproxy.language.expression import Expression
from evaluators.config import PruningConfig
from evaluators.hessian import SECOND_MOMENTS
from evaluators.methods import METHODS
from evaluators.models import LoadedModel, find_dtype, load_model, longest_sequence
from evaluators.perplexity import perplexity
from evaluators.room import Needs, check_room, needs, streamed_needs
from evaluators.source import Source, find_source, planned_model
from evaluators.statistics import GRADIENTS, WALKED
from evaluators.streaming import load_streamed, losses_on
from evaluators.writing import finite

Writer = Callable[
    [Source, Mapping[str, NDArray[np.uint8]], Path, Callable[[str], None]], dict[str, Any]
]
"""Writes a model as masks prune it; returns what is to be recorded of it. See `write_pruned`."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How a model is to be pruned: what is left of an evaluator that decided it.

    Attributes:
        masks: Packed bits by name, 1 = keep.
        facts: What is to be recorded of how they were made.
        write: Writes what they leave.
        blocks: (count, length) tokens to check the written model on, or None.
        logits: What `few_logits` must be of the written model, or None.
    """

    masks: Mapping[str, NDArray[np.uint8]]
    facts: dict[str, Any]
    write: Writer
    blocks: Tensor | None = None
    logits: Tensor | None = None


def commit(
    config: PruningConfig,
    candidate: Expression | str,
    decide: Callable[[Callable[[str], None]], Decision],
    folder: Path,
    *,
    cache: Path,
    tell: Callable[[str, str | None], None],
) -> dict[str, Any]:
    """Write the model as an evaluator decides it; see `PruningEvaluator.prune`.

    Args:
        config: Which model, and with what numbers.
        candidate: The importance or the name of a method, for what its statistics need.
        decide: Makes an evaluator that tells of what it notes, and returns its decision. Nothing
            else holds the evaluator, so the dense model is gone before it is loaded to be written.
        folder: An existing empty folder.
        cache: Folder of the cache of statistics; it exists.
        tell: Told each stage of the work as it begins, with None or something to note.
    """
    tell("model", None)
    source = find_source(config.model)
    wanted = _needs(config, source, candidate)
    check_room(wanted, device=config.device, folder=folder.parent, cache=cache)
    tell("masks", None)
    decision = decide(lambda text: tell("masks", text))
    gc.collect()
    tell("writing", None)
    written = decision.write(source, decision.masks, folder, lambda text: tell("writing", text))
    facts = {**decision.facts, **written}
    if decision.blocks is not None:
        tell("check", None)
    elif decision.logits is None:
        return facts
    load = functools.partial(load_streamed, hashed=False) if config.stream else load_model
    again = load(str(folder), device=config.device, dtype=config.dtype)
    if decision.logits is not None:
        _check_same(few_logits(again), decision.logits)
    if decision.blocks is None:
        return facts
    after = perplexity(losses_on(again, decision.blocks))
    return {**facts, "check": {**decision.facts["check"], "pruned_perplexity": finite(after)}}


def _needs(config: PruningConfig, source: Source, candidate: Expression | str) -> Needs:
    """Return the room that a configuration takes."""
    by_method = isinstance(candidate, str)
    read = METHODS[candidate].needs if isinstance(candidate, str) else candidate.terminals()
    if config.stream:
        walks = 2 if config.mode == "sequential" and read & WALKED else 1
        states = walks * _states(config)
        return streamed_needs(source, read, dtype=config.dtype, group=config.group, states=states)
    whole = config.allocation == "metric"  # which compares importances over the model first
    group = "model" if whole else config.group
    in_turn = by_method or config.mode == "sequential" or bool(read & SECOND_MOMENTS)
    found = needs(
        source,
        read,
        dtype=config.dtype,
        group=group,
        by_method=by_method,
        states=_states(config) if in_turn else 0,
    )
    if by_method:
        return found
    advice = [a for a in found.advice if not (whole and a.startswith("--group"))]
    more = ("--allocation uniform",) if whole else _advised(config, read)
    return dataclasses.replace(found, advice=(*advice, *more))


def _states(config: PruningConfig) -> int:
    """Return the bytes of the hidden states of the calibration sequences."""
    planned: Any = planned_model(config.model).config
    tokens = config.calibration_blocks * config.sequence_length(longest_sequence(planned))
    width: int = planned.get_text_config().hidden_size
    return tokens * width * find_dtype(config.dtype).itemsize


def _advised(config: PruningConfig, terminals: frozenset[str]) -> tuple[str, ...]:
    """Return `--stream` where it would do."""
    try:
        dataclasses.replace(config, stream=True)
    except ConfigError:
        return ()
    return () if terminals & GRADIENTS else ("--stream",)


@torch.inference_mode()
def few_logits(loaded: LoadedModel) -> Tensor:
    """Return the logits of a few tokens, (tokens, vocabulary), on the processor."""
    ids = torch.arange(1, 17, device=loaded.model.device).unsqueeze(0)
    logits: Tensor = loaded.model(input_ids=ids, use_cache=False).logits[0].float().cpu()
    return logits


def _check_same(found: Tensor, expected: Tensor) -> None:
    """See that a model as written computes what the one with zeros did.

    Raises:
        ModelError: It does not, so it must not be used.
    """
    if not torch.isfinite(expected).all():  # a model in ruins is told by its values
        return
    if not torch.allclose(found, expected, rtol=2e-2, atol=2e-2 * float(expected.abs().max())):
        raise ModelError(
            "the model as written does not compute what was measured, so it was not kept: this "
            "family says more of its layers than AutoProxy knows; prune weights instead, or "
            "report this"
        )
