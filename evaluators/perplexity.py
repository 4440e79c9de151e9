"""How well a model predicts a text: likelihood, perplexity, and divergence from the dense one."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from autoproxy.errors import ModelError
from evaluators.layers import decoder_of
from evaluators.walk import replaced

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

    The output head is never pruned, so its logits can be had again from these: memory is at most
    2 * blocks * length * width numbers instead of blocks * length * vocabulary.

    Where logits are linear in the states h, z = W h + b, a comparison needs no dense logits. With
    p the dense prediction, and L the log of the sum of exp over the vocabulary,

        KL(dense || model) = (h_dense - h) . (W^T p) - L(z_dense) + L(z)

    and what is of the dense model alone is kept from the first comparison on.
    """

    def __init__(self, model: PreTrainedModel, blocks: Tensor) -> None:
        self.blocks = blocks
        self._head = output_head(model)
        self._embedding = linear_head(model, self._head)
        self._hidden = [_hidden(model, block) for block in blocks]
        self._dense: dict[int, _Dense] = {}

    def compare(
        self, model: PreTrainedModel, start: int = 0, stop: int | None = None
    ) -> Iterator[Comparison]:
        """Yield the comparison of `model` as it is now, block by block.

        Args:
            model: The same model, now perhaps with masks applied.
            start: Which block is the first.
            stop: Which is the first that is left out; None for all.
        """
        for number in range(len(self.blocks))[start:stop]:
            block, states = self.blocks[number], _hidden(model, self.blocks[number])
            if self._embedding is None:
                yield _compare(self._head, block, states, self._hidden[number])
                continue
            if number not in self._dense:
                self._dense[number] = _prepare(self._head, self._embedding, self._hidden[number])
            yield _compare_linear(self._head, block, states, self._dense[number])

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

    It is the model's own: it runs with its decoder answered by the states, so that what a family
    does besides its output embedding (Gemma 2 caps logits, Granite and Cohere scale them) is done.
    It is tried on a few tokens against the whole model, so that a family with another twist is
    refused and never measured wrongly.

    Raises:
        ModelError: What comes out is not what the model gives.
    """
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]  # transformers 5.23
    if not isinstance(head, nn.Module):
        raise ModelError(f"{type(model).__name__} has no output head; give a language model")
    whole, answer = _whole(model)

    def logits(hidden: Tensor) -> Tensor:
        ids = torch.ones(1, len(hidden), dtype=torch.long, device=model.device)  # of no matter
        given = dataclasses.replace(answer, last_hidden_state=hidden.unsqueeze(0))
        with replaced([decoder_of(model)], lambda *_: given):
            found: Tensor = model(input_ids=ids, use_cache=False).logits[0].float()
        return found

    _check_head(model, logits, whole)
    return logits


def linear_head(model: PreTrainedModel, logits: Callable[[Tensor], Tensor]) -> Tensor | None:
    """Return the output embedding W (vocabulary, width), or None where logits are not W h + b.

    None, too, in half precision: logits rounded to eight bits are no longer linear in the states.

    Args:
        model: In evaluation mode.
        logits: Its `output_head`, which is compared on a few tokens.
    """
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]  # transformers 5.23
    if type(head) is not nn.Linear or head.weight.dtype != torch.float32:
        return None
    with torch.inference_mode():
        hidden = _hidden(model, _few_tokens(model))
        plain, found = head(hidden), logits(hidden)
    near = torch.allclose(plain, found, rtol=1e-6, atol=1e-6 * float(found.abs().max()))
    return head.weight.detach() if near else None


def _few_tokens(model: PreTrainedModel) -> Tensor:
    return torch.arange(1, 9, device=model.device)


@torch.inference_mode()
def _whole(model: PreTrainedModel) -> tuple[Tensor, Any]:
    """Return the model's logits of a few tokens, and what its decoder gives, empty."""
    seen: list[Any] = []
    handle = decoder_of(model).register_forward_hook(lambda *called: seen.append(called[2]))
    try:
        ids = _few_tokens(model).unsqueeze(0)
        logits: Tensor = model(input_ids=ids, use_cache=False).logits[0].float()
    finally:
        handle.remove()
    given = seen[-1] if seen else None
    if not isinstance(given, ModelOutput):
        raise _untold(model)
    return logits, type(given)()


@torch.inference_mode()
def _check_head(model: PreTrainedModel, logits: Callable[[Tensor], Tensor], whole: Tensor) -> None:
    ours = logits(_hidden(model, _few_tokens(model)))
    if not torch.isfinite(whole).all():  # a model in ruins is told by its values
        return
    if not torch.allclose(ours, whole, rtol=1e-2, atol=1e-2 * float(whole.abs().max())):
        raise _untold(model)


def _untold(model: PreTrainedModel) -> ModelError:
    return ModelError(
        f"the family {model.config.model_type!r} computes its logits by more than its last hidden "
        "states, which is not supported; give another model, or report this"
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


@dataclass(frozen=True, slots=True)
class _Dense:
    """What a comparison needs of the dense model, on one block.

    Attributes:
        hidden: (length, width) last hidden states.
        expected: (length, width) mean row of the output embedding under the dense prediction.
        total: (length,) log of the sum of exp of the logits.
    """

    hidden: Tensor
    expected: Tensor
    total: Tensor


@torch.inference_mode()
def _prepare(head: Callable[[Tensor], Tensor], embedding: Tensor, hidden: Tensor) -> _Dense:
    expected, total = [], []
    for part in torch.split(hidden, CHUNK):
        logits = head(part)
        expected.append(logits.softmax(dim=-1) @ embedding)
        total.append(logits.logsumexp(dim=-1))
    return _Dense(hidden, torch.cat(expected), torch.cat(total))


@torch.inference_mode()
def _compare_linear(
    head: Callable[[Tensor], Tensor], block: Tensor, hidden: Tensor, dense: _Dense
) -> Comparison:
    """Return what `_compare` does, by the formula in `Reference`."""
    labels = block[1:].to(hidden.device)
    shift = ((dense.hidden - hidden) * dense.expected).sum(dim=-1).double()
    divergence, loss = float((shift - dense.total).sum()), 0.0
    for start in range(0, len(block), CHUNK):
        logits = head(hidden[start : start + CHUNK])
        total = logits.logsumexp(dim=-1).double()
        part = labels[start : start + CHUNK]
        picked = logits[: len(part)].gather(1, part.unsqueeze(1)).squeeze(1)
        divergence += float(total.sum())
        loss += float((total[: len(part)] - picked).sum())
    # Differences of large numbers: where next to nothing is dropped, rounding may go below 0.
    return Comparison(max(0.0, divergence / len(block)), loss / len(labels))


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
