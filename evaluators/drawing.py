"""How calibration windows are drawn: this project's way, and the two ways of the literature."""

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from autoproxy.errors import TextError
from evaluators.text import JOINED, Text, Tokenizer, blocks, check_amount, read_records

MOST_DRAWS = 100_000
"""Documents that are drawn in vain, one after the other, before a corpus counts as too short."""

_AT_ONCE = 1000
"""Records that are read at once where all are read."""


class Documents:
    """Records that are read when they are drawn, so that a corpus may be larger than memory.

    Attributes:
        name: What the user called it: the sources, joined by ` + `.
    """

    def __init__(self, sources: Sequence[str]) -> None:
        self.name = JOINED.join(sources)
        self._parts = read_records(sources)
        self._drawn: dict[int, str] = {}

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def __getitem__(self, at: int) -> str:
        for part in self._parts:
            if at < len(part):
                return part[at] or ""
            at -= len(part)
        raise IndexError(at)

    @cached_property
    def sha256(self) -> str:
        """First 16 hex digits of the hash of all records, each with its length in bytes."""
        digest = hashlib.sha256()
        for part in self._parts:
            for start in range(0, len(part), _AT_ONCE):  # row by row takes four times as long
                for record in part[start : start + _AT_ONCE]:
                    content = (record or "").encode("utf-8")
                    digest.update(b"%d " % len(content) + content)
        return digest.hexdigest()[:16]

    def take(self, at: int) -> str:
        """Return a record, and remember that statistics are taken on it."""
        self._drawn[at] = self[at]
        return self._drawn[at]

    @property
    def drawn(self) -> Text:
        """The records that were taken so far: what may not overlap with other texts."""
        return Text(self.name, "\n\n".join(self._drawn[at] for at in sorted(self._drawn)))


class WithSpecialTokens:
    """A tokenizer that puts its special tokens where it is used to, such as one at the start."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str, *, add_special_tokens: bool, verbose: bool) -> list[int]:
        """Return the token ids of `text`, special tokens included whatever is asked."""
        del add_special_tokens
        return self._tokenizer.encode(text, add_special_tokens=True, verbose=verbose)


def document_windows(
    documents: Documents,
    tokenizer: Tokenizer,
    *,
    length: int,
    count: int,
    role: str,
    seed: int,
) -> Tensor:
    """Return windows of documents that are drawn at random: Wanda's, SparseGPT's way.

    A document is drawn until one has more than `length` tokens, then a window of it; so for each
    block. Draws are those of Python's `random` after `random.seed(seed)`, without touching it.

    Args:
        documents: What to draw from.
        tokenizer: The tokenizer of the model; it tokenises each document by itself.
        length: Tokens in a window, at least 1.
        count: Windows to return, at least 1. Two may overlap.
        role: What the windows are for; it names the error.
        seed: Of the draws.

    Returns:
        (count, length) token ids, int64.

    Raises:
        TextError: No document is long enough, or a number is below 1.
    """
    check_amount(role, length, count)
    draw = random.Random(seed)  # noqa: S311 - the draws of the literature, not secrets
    lengths: dict[int, int] = {}
    taken: list[list[int]] = []
    while len(taken) < count:
        at = _long_document(documents, tokenizer, length, draw, lengths)
        if at is None:
            raise TextError(
                f"{role}: {documents.name!r} is too short: of {len(lengths):,} documents that were"
                f" drawn none has more than {length} tokens, the longest has"
                f" {max(lengths.values(), default=0)}; ask for a shorter --length, or give longer"
                " documents"
            )
        ids = _ids(tokenizer, documents.take(at))
        start = draw.randint(0, len(ids) - length - 1)
        taken.append(ids[start : start + length])
    return torch.tensor(taken)


def _long_document(
    documents: Documents,
    tokenizer: Tokenizer,
    length: int,
    draw: random.Random,
    lengths: dict[int, int],
) -> int | None:
    """Draw until a document has more than `length` tokens; None where that is hopeless."""
    for _ in range(MOST_DRAWS):
        at = draw.randint(0, len(documents) - 1)
        if at not in lengths:
            lengths[at] = len(_ids(tokenizer, documents[at]))
        if lengths[at] > length:
            return at
        if len(lengths) == len(documents) and max(lengths.values()) <= length:
            return None
    return None


def anywhere_windows(
    text: Text, tokenizer: Tokenizer, *, length: int, count: int, role: str, seed: int
) -> Tensor:
    """Return windows that begin anywhere in a text: the literature's way with WikiText-2's train.

    Draws are those of Python's `random` after `random.seed(seed)`, without touching it.

    Args:
        text: What to draw from; it is tokenised once.
        tokenizer: The tokenizer of the model.
        length: Tokens in a window, at least 1.
        count: Windows to return, at least 1. Two may overlap.
        role: What the windows are for; it names the error.
        seed: Of the draws.

    Returns:
        (count, length) token ids, int64.

    Raises:
        TextError: The text is too short, or a number is below 1.
    """
    check_amount(role, length, count)
    ids = _ids(tokenizer, text.content)
    if len(ids) <= length:
        raise TextError(
            f"{role}: text {text.name!r} is too short: it has {len(ids)} tokens, and a window of"
            f" {length} needs one more; ask for a shorter --length, or give more text"
        )
    draw = random.Random(seed)  # noqa: S311 - the draws of the literature, not secrets
    starts = [draw.randint(0, len(ids) - length - 1) for _ in range(count)]
    return torch.tensor([ids[start : start + length] for start in starts])


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False, verbose=False)


WINDOWS: Mapping[str, Callable[..., Tensor]] = {
    "grid": blocks,
    "anywhere": anywhere_windows,
    "documents": document_windows,
}
"""How calibration windows are drawn: whole windows of a grid, each at most once; windows that
begin anywhere in the joined text; or one window of each of some long documents."""
