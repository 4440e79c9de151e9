"""The encoders of FlexiBERT's space: ELECTRA whose layers differ in what mixes the tokens.

The space: Tuli et al. 2022, arXiv:2205.11656. Sizes of the parts follow from the parameter counts
that were published for 500 of them, to the last one; what a count cannot tell (where the one norm
of a transform stands, how it is scaled) is this project's choice and is said where it is made.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoproxy.errors import ConfigError, unknown_name
from evaluators.networks.initial import draw_normal

OPERATIONS = ("SA:SDP", "SA:WMA", "LT:DFT", "LT:DCT", "DSC:5", "DSC:9")
"""Self-attention (scaled dot product, weighted multiplicative), linear transforms (Fourier,
cosine), and dynamic span-based convolution with kernels of 5 or 9."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """The shape of an encoder.

    Attributes:
        width: Features of the hidden state.
        operations: One of `OPERATIONS` for each layer.
        heads: Heads of each layer; they divide the width. Transforms have none and ignore it.
        stacks: Hidden widths of each layer's feed-forward, one after the other.
        d_embed: Features of the embedding, projected to the width where they differ.
        vocabulary: Entries of the embedding.
        length: Most tokens in a sequence.
    """

    width: int
    operations: tuple[str, ...]
    heads: tuple[int, ...]
    stacks: tuple[tuple[int, ...], ...]
    d_embed: int = 128
    vocabulary: int = 30_522
    length: int = 512

    def __post_init__(self) -> None:
        if not len(self.operations) == len(self.heads) == len(self.stacks) > 0:
            raise ConfigError(
                "operations, heads and stacks have one entry a layer, got "
                f"{len(self.operations)}, {len(self.heads)} and {len(self.stacks)}"
            )
        for operation, heads, stack in zip(self.operations, self.heads, self.stacks, strict=True):
            if operation not in OPERATIONS:
                raise ConfigError(unknown_name("operation", operation, OPERATIONS))
            if heads < 1 or self.width % heads:
                raise ConfigError(f"{heads} heads must divide width {self.width}")
            if operation.startswith("DSC") and heads % 2:
                raise ConfigError(f"half of the heads of {operation} convolve, got {heads} heads")
            if not stack or min(stack) < 1:
                raise ConfigError(f"a feed-forward has hidden widths of at least 1, got {stack}")

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.heads)


class Encoder(nn.Module):
    """A language model that sees all tokens; call it with token ids for logits.

    Its head is the embedding itself (behind the transposed projection), so it has no parameters
    that the published counts do not have. Weights are drawn from a normal distribution of
    deviation 0.02, as ELECTRA draws them.

    >>> config = EncoderConfig(width=8, operations=("SA:SDP",), heads=(2,), stacks=((16,),),
    ...                        d_embed=4, vocabulary=20, length=6)
    >>> tuple(Encoder(config)(torch.zeros(2, 6, dtype=torch.long)).shape)
    (2, 6, 20)
    """

    causal = False

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        narrow, width = config.d_embed, config.width
        self.embedding = nn.Embedding(config.vocabulary, narrow)
        self.position = nn.Parameter(torch.empty(config.length, narrow))
        self.segment = nn.Parameter(torch.empty(2, narrow))
        self.embedding_norm = nn.LayerNorm(narrow, eps=1e-12)
        self.projection = nn.Parameter(torch.empty(width, narrow)) if narrow != width else None
        self.projection_bias = nn.Parameter(torch.empty(width)) if narrow != width else None
        self.layers = nn.ModuleList(EncoderLayer(config, n) for n in range(config.depth))
        draw_normal(self)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits (sequences, tokens, vocabulary) of ids (sequences, tokens)."""
        return self.body(self.embedding(ids))

    def body(self, embedded: Tensor) -> Tensor:
        """Return logits of embedded tokens (sequences, tokens, d_embed)."""
        state = self.hidden(embedded)
        if self.projection is not None:
            state = state @ self.projection
        return functional.linear(state, self.embedding.weight)

    def hidden(self, embedded: Tensor) -> Tensor:
        """Return the last hidden states (sequences, tokens, width) of embedded tokens."""
        state = self.embedding_norm(embedded + self.position[: embedded.shape[1]] + self.segment[0])
        if self.projection is not None:
            state = functional.linear(state, self.projection, self.projection_bias)
        for layer in self.layers:
            state = layer(state)
        last: Tensor = state
        return last


class EncoderLayer(nn.Module):
    """What mixes the tokens and a feed-forward, each added to what came in, a norm behind it.

    A transform has no norm of its own: its published parameter counts have room for one only.
    """

    def __init__(self, config: EncoderConfig, number: int) -> None:
        super().__init__()
        operation, heads = config.operations[number], config.heads[number]
        kind, _, detail = operation.partition(":")
        self.attention: nn.Module
        match kind:
            case "SA":
                self.attention = SelfAttention(config.width, heads, weighted=detail == "WMA")
            case "LT":
                self.attention = Transform(config.width, detail)
            case _:
                self.attention = DynamicConvolution(config.width, heads, int(detail))
        self.attention_norm = nn.LayerNorm(config.width, eps=1e-12) if kind != "LT" else None
        self.mlp = FeedForwardStack(config.width, config.stacks[number])
        self.mlp_norm = nn.LayerNorm(config.width, eps=1e-12)

    def forward(self, state: Tensor) -> Tensor:
        """Return the hidden states behind this layer, (sequences, tokens, width)."""
        state = state + self.attention(state)
        if self.attention_norm is not None:
            state = self.attention_norm(state)
        behind: Tensor = self.mlp_norm(state + self.mlp(state))
        return behind


class SelfAttention(nn.Module):
    """Attention to all tokens; `weighted` puts one more matrix between queries and keys."""

    def __init__(self, width: int, heads: int, *, weighted: bool) -> None:
        super().__init__()
        self.size = width // heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.weighting = nn.Linear(width, width, bias=False) if weighted else None
        self.softmax = nn.Softmax(dim=-1)
        self.out = nn.Linear(width, width)

    def forward(self, state: Tensor) -> Tensor:
        """Return what attention adds to hidden states, (sequences, tokens, width)."""
        query = self.query(state)
        if self.weighting is not None:
            query = self.weighting(query)
        mixed = attended(query, self.key(state), self.value(state), self.size, self.softmax)
        added: Tensor = self.out(mixed)
        return added


class Transform(nn.Module):
    """A linear layer, then a fixed transform over tokens and features, both orthonormal."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.input = nn.Linear(width, width)

    def forward(self, state: Tensor) -> Tensor:
        """Return what the transform adds to hidden states, (sequences, tokens, width)."""
        given: Tensor = self.input(state)
        if self.kind == "DFT":  # the real part, as Lee-Thorp et al. 2021, arXiv:2105.03824
            turned: Tensor = torch.fft.fft2(given, norm="ortho")
            return turned.real
        tokens, features = (cosines(n).to(given) for n in given.shape[-2:])
        return tokens @ given @ features.T


class DynamicConvolution(nn.Module):
    """Half of the heads attend, the others convolve with kernels that the tokens choose.

    Source: Jiang et al. 2020, arXiv:2008.02496 (span-based dynamic convolution).
    """

    def __init__(self, width: int, heads: int, kernel: int) -> None:
        super().__init__()
        self.size, self.kernel, self.heads = width // heads, kernel, heads // 2
        half = self.size * self.heads
        self.query = nn.Linear(width, half)
        self.key = nn.Linear(width, half)
        self.value = nn.Linear(width, half)
        self.span = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        self.span_key = nn.Linear(width, half)
        self.kernels = nn.Linear(half, self.heads * kernel)
        self.convolved = nn.Linear(width, half)
        self.softmax = nn.Softmax(dim=-1)
        self.out = nn.Linear(width, width)

    def forward(self, state: Tensor) -> Tensor:
        """Return what both add to hidden states, (sequences, tokens, width)."""
        sequences, tokens, _ = state.shape
        query = self.query(state)
        mixed = attended(query, self.key(state), self.value(state), self.size, self.softmax)
        span = self.span_key(self.span(state.transpose(1, 2)).transpose(1, 2))
        chosen = self.kernels(span * query).view(sequences, tokens, self.heads, self.kernel, 1)
        chosen = functional.softmax(chosen, dim=-2)
        reach = self.kernel // 2
        padded = functional.pad(self.convolved(state), (0, 0, reach, reach))
        windows = padded.unfold(1, self.kernel, 1)  # (sequences, tokens, half, kernel)
        windows = windows.view(sequences, tokens, self.heads, self.size, self.kernel)
        convolved = (windows @ chosen).reshape(sequences, tokens, -1)
        added: Tensor = self.out(torch.cat([mixed, convolved], dim=-1))
        return added


class FeedForwardStack(nn.Module):
    """Linear layers of several hidden widths, GELU behind each, and one back to the width."""

    def __init__(self, width: int, stack: tuple[int, ...]) -> None:
        super().__init__()
        inputs = (width, *stack)
        self.up = nn.ModuleList(nn.Linear(i, o) for i, o in zip(inputs, stack, strict=False))
        self.activations = nn.ModuleList(nn.GELU() for _ in stack)
        self.out = nn.Linear(stack[-1], width)

    def forward(self, state: Tensor) -> Tensor:
        """Return what the feed-forward adds to hidden states, (sequences, tokens, width)."""
        for up, activation in zip(self.up, self.activations, strict=True):
            state = activation(up(state))
        added: Tensor = self.out(state)
        return added


def attended(query: Tensor, key: Tensor, value: Tensor, size: int, softmax: nn.Module) -> Tensor:
    """Return values mixed by scaled dot products.

    Args:
        query: (sequences, tokens, heads * size), as are keys and values, and what is returned.
        key: See query.
        value: See query.
        size: Features of a head.
        softmax: The module that makes probabilities of scores.
    """
    sequences, tokens, _ = query.shape
    query, key, value = (
        t.view(sequences, tokens, -1, size).transpose(1, 2) for t in (query, key, value)
    )
    scores = query @ key.transpose(-1, -2) / math.sqrt(size)
    mixed: Tensor = softmax(scores) @ value
    return mixed.transpose(1, 2).flatten(-2)


def cosines(size: int) -> Tensor:
    """Return the matrix (size, size) of the orthonormal cosine transform, type II, in float64.

    >>> bool(torch.allclose(cosines(5) @ cosines(5).T, torch.eye(5).double()))
    True
    """
    places = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * (places + 0.5) * places[:, None])
    matrix[0] /= math.sqrt(2.0)
    return matrix * math.sqrt(2.0 / size)
