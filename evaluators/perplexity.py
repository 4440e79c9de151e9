"""How well a model predicts a text: likelihood, perplexity, and divergence from the dense one."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from autoproxy.errors import ModelError

CHUNK = 256
"""Positions whose logits over the full vocabulary are held at a time, in float32."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A model beside its dense self, on one block.

    Attributes:
        kl: KL(dense || model) in nats, mean over all positions.
        nll: Negative log-likelihood of the next token in nats, mean over length - 1 positions.
    """

    kl: float
    nll: float


class Reference:
    """The dense model's last hidden states on some blocks.

    The output head is never pruned, so its logits can be had again from these: memory is blocks *
    length * width numbers instead of blocks * length * vocabulary.
    """

    def __init__(self, model: PreTrainedModel, blocks: Tensor) -> None:
        self.blocks = blocks
        self._head = output_head(model)
        self._hidden = [_hidden(model, block) for block in blocks]

    def compare(
        self, model: PreTrainedModel, start: int = 0, stop: int | None = None
    ) -> Iterator[Comparison]:
        """Yield the comparison of `model` as it is now, block by block.

        Args:
            model: The same model, now perhaps with masks applied.
            start: Which block is the first.
            stop: Which is the first that is left out; None for all.
        """
        for block, dense in list(zip(self.blocks, self._hidden, strict=True))[start:stop]:
            yield _compare(self._head, block, _hidden(model, block), dense)

    def losses(self) -> list[float]:
        """Return `block_losses` of the dense model, without running it again."""
        pairs = zip(self.blocks, self._hidden, strict=True)
        return [_nll(self._head, block, dense) for block, dense in pairs]


def block_losses(model: PreTrainedModel, blocks: Tensor) -> list[float]:
    """Return the mean negative log-likelihood of each block, in nats.

    The first token of a block is not predicted: a block of length n has n - 1 labels, as in
    transformers' own loss. No special token is put before a block.

    Args:
        model: In evaluation mode.
        blocks: (count, length) token ids.
    """
    return losses_of(output_head(model), blocks, (_hidden(model, block) for block in blocks))


def losses_of(
    head: Callable[[Tensor], Tensor], blocks: Iterable[Tensor], hidden: Iterable[Tensor]
) -> list[float]:
    """Return the mean negative log-likelihood of each block by its last hidden states, in nats."""
    return [_nll(head, block, states) for block, states in zip(blocks, hidden, strict=True)]


def perplexity(losses: Sequence[float]) -> float:
    """Return exp of the mean loss over blocks of one length.

    >>> perplexity([0.0, 0.0])
    1.0
    """
    return math.exp(min(700.0, math.fsum(losses) / len(losses)))


@torch.inference_mode()
def _hidden(model: PreTrainedModel, block: Tensor) -> Tensor:
    """Return the last hidden states of one block, (length, width)."""
    output = model.base_model(input_ids=block.unsqueeze(0).to(model.device), use_cache=False)
    states: Tensor = output.last_hidden_state[0]
    return states


def output_head(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """Return the function from last hidden states to float32 logits.

    Most families' is their output embedding alone, Gemma 2 caps it softly. It is tried on a few
    tokens against the model itself, so that a family with another twist is refused and never
    measured wrongly.

    Raises:
        ModelError: What comes out is not what the model gives.
    """
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]  # transformers 5.23
    if not isinstance(head, nn.Module):
        raise ModelError(f"{type(model).__name__} has no output head; give a language model")
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)

    def logits(hidden: Tensor) -> Tensor:
        plain: Tensor = head(hidden)
        return (plain if cap is None else torch.tanh(plain / cap) * cap).float()

    _check_head(model, logits)
    return logits


@torch.inference_mode()
def _check_head(model: PreTrainedModel, logits: Callable[[Tensor], Tensor]) -> None:
    ids = torch.arange(1, 9, device=model.device)
    whole = model(input_ids=ids.unsqueeze(0), use_cache=False).logits[0].float()
    ours = logits(_hidden(model, ids))
    if not torch.isfinite(whole).all():  # a model in ruins is told by its values
        return
    if not torch.allclose(ours, whole, rtol=1e-2, atol=1e-2 * float(whole.abs().max())):
        raise ModelError(
            f"the family {model.config.model_type!r} computes its logits by more than its output "
            "embedding, which is not supported; give another model, or report this"
        )


@torch.inference_mode()
def _nll(head: Callable[[Tensor], Tensor], block: Tensor, hidden: Tensor) -> float:
    labels = block[1:].to(hidden.device)
    total = 0.0
    for start in range(0, len(labels), CHUNK):
        part = labels[start : start + CHUNK]
        logits = head(hidden[start : start + len(part)])
        total += float(nn.functional.cross_entropy(logits, part, reduction="none").double().sum())
    return total / len(labels)


@torch.inference_mode()
def _compare(
    head: Callable[[Tensor], Tensor], block: Tensor, hidden: Tensor, dense: Tensor
) -> Comparison:
    labels = block[1:].to(hidden.device)
    divergence, loss = 0.0, 0.0
    for start in range(0, len(block), CHUNK):
        ours = head(hidden[start : start + CHUNK]).log_softmax(dim=-1)
        theirs = head(dense[start : start + CHUNK]).log_softmax(dim=-1)
        gap = theirs.exp() * (theirs - ours)
        divergence += float(gap.sum(dim=-1).double().sum())
        part = labels[start : start + CHUNK]
        picked = ours[: len(part)].gather(1, part.unsqueeze(1))
        loss -= float(picked.double().sum())
    return Comparison(divergence / len(block), loss / len(labels))
