"""A causal decoder whose every layer has a shape of its own: GPT-2, LLaMA and all between.

Sites that statistics are taken at are plain modules: each weight is an `nn.Linear`, attention
probabilities come out of an `nn.Softmax`, and what is neither has no weight of its own.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoproxy.errors import ConfigError, unknown_name

NORMS = ("layer", "rms")
ACTIVATIONS = ("relu", "gelu", "swiglu")
POSITIONS = ("learned", "rotary", "alibi", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """The shape of a decoder.

    Attributes:
        width: Features of the hidden state.
        heads: Query heads of each layer; they divide the width.
        kv_heads: Key and value heads of each layer; they divide its heads.
        ff_widths: Hidden features of each layer's feed-forward.
        norm: One of `NORMS`, before attention, before the feed-forward, and at the end.
        activation: One of `ACTIVATIONS`; `swiglu` has a third, gating matrix.
        position: One of `POSITIONS`.
        vocabulary: Entries of the embedding.
        length: Most tokens in a sequence.
        bias: Whether linear layers and norms have one.
        head_size: Features of a head; None: the heads share out the width.
        frequencies: By how much a token turns each pair of a head's features, of rotary
            positions; None: by 10,000^(-2i / size).
        epsilon: Of the norms; None: 1e-6 for `rms`, 1e-5 for `layer`.
        tied: Whether the embedding is the output matrix, too.
    """

    width: int
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    ff_widths: tuple[int, ...]
    norm: str = "layer"
    activation: str = "gelu"
    position: str = "learned"
    vocabulary: int = 256
    length: int = 128
    bias: bool = False
    head_size: int | None = None
    frequencies: tuple[float, ...] | None = None
    epsilon: float | None = None
    tied: bool = True

    def __post_init__(self) -> None:
        for kind, value, known in (
            ("norm", self.norm, NORMS),
            ("activation", self.activation, ACTIVATIONS),
            ("position", self.position, POSITIONS),
        ):
            if value not in known:
                raise ConfigError(unknown_name(kind, value, known))
        if not len(self.heads) == len(self.kv_heads) == len(self.ff_widths) > 0:
            raise ConfigError(
                "heads, kv_heads and ff_widths have one entry a layer, got "
                f"{len(self.heads)}, {len(self.kv_heads)} and {len(self.ff_widths)}"
            )
        for heads, shared in zip(self.heads, self.kv_heads, strict=True):
            if (self.width % heads and self.head_size is None) or heads % shared:
                raise ConfigError(
                    f"{heads} heads must divide width {self.width}, and {shared} key-value heads "
                    "must divide them"
                )
            if self.position == "rotary" and self.size_of(heads) % 2:
                raise ConfigError(f"rotary positions need even heads, got {self.size_of(heads)}")
        if min(self.ff_widths) < 1:
            raise ConfigError(f"ff_widths must be at least 1, got {min(self.ff_widths)}")

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.heads)

    def size_of(self, heads: int) -> int:
        """Return the features of a head in a layer that has so many."""
        return self.head_size or self.width // heads


class Decoder(nn.Module):
    """A causal language model; call it with token ids for logits.

    Weights are drawn as GPT-2 draws them: normal, deviation 0.02, those that write into the
    residual stream divided by sqrt(2 depth).

    >>> config = DecoderConfig(width=8, heads=(2,), kv_heads=(1,), ff_widths=(16,))
    >>> tuple(Decoder(config)(torch.zeros(2, 5, dtype=torch.long)).shape)
    (2, 5, 256)
    """

    causal = True

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        learned = config.position == "learned"
        self.position = nn.Embedding(config.length, config.width) if learned else None
        self.layers = nn.ModuleList(DecoderLayer(config, n) for n in range(config.depth))
        self.norm = _norm(config)
        shape = (config.vocabulary, config.width)
        self.output = None if config.tied else nn.Parameter(torch.empty(shape))
        self._draw()

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits (sequences, tokens, vocabulary) of ids (sequences, tokens)."""
        return self.body(self.embedding(ids))

    def body(self, embedded: Tensor) -> Tensor:
        """Return logits of embedded tokens (sequences, tokens, width)."""
        output = self.embedding.weight if self.output is None else self.output
        return functional.linear(self.hidden(embedded), output)

    def hidden(self, embedded: Tensor) -> Tensor:
        """Return the last hidden states of embedded tokens, both (sequences, tokens, width)."""
        state = embedded
        if self.position is not None:
            state = state + self.position.weight[: embedded.shape[1]]
        for layer in self.layers:
            state = layer(state)
        normed: Tensor = self.norm(state)
        return normed

    def _draw(self) -> None:
        last = 0.02 / math.sqrt(2 * self.config.depth)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=last if name.endswith(".out") else 0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        if self.output is not None:
            nn.init.normal_(self.output, std=0.02)


class DecoderLayer(nn.Module):
    """Attention and a feed-forward, each behind a norm and added to what came in."""

    def __init__(self, config: DecoderConfig, number: int) -> None:
        super().__init__()
        self.attention_norm = _norm(config)
        self.attention = Attention(config, config.heads[number], config.kv_heads[number])
        self.mlp_norm = _norm(config)
        self.mlp = FeedForward(config, config.ff_widths[number])

    def forward(self, state: Tensor) -> Tensor:
        """Return the hidden states behind this layer, (sequences, tokens, width)."""
        state = state + self.attention(self.attention_norm(state))
        behind: Tensor = state + self.mlp(self.mlp_norm(state))
        return behind


class Attention(nn.Module):
    """Causal attention in which several query heads may share one key-value head."""

    def __init__(self, config: DecoderConfig, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.kind = heads, kv_heads, config.position
        self.size, self.frequencies = config.size_of(heads), config.frequencies
        shared = kv_heads * self.size
        self.query = nn.Linear(config.width, heads * self.size, bias=config.bias)
        self.key = nn.Linear(config.width, shared, bias=config.bias)
        self.value = nn.Linear(config.width, shared, bias=config.bias)
        self.softmax = nn.Softmax(dim=-1)
        self.out = nn.Linear(heads * self.size, config.width, bias=config.bias)

    def forward(self, state: Tensor) -> Tensor:
        """Return what attention adds to hidden states, (sequences, tokens, width)."""
        tokens = state.shape[1]
        query = self._split(self.query(state), self.heads)
        key = self._split(self.key(state), self.kv_heads)
        value = self._split(self.value(state), self.kv_heads)
        if self.kind == "rotary":
            query, key = rotated(query, self.frequencies), rotated(key, self.frequencies)
        repeats = self.heads // self.kv_heads
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
        alibi = self.kind == "alibi"
        bias = causal_bias(self.heads, tokens, alibi=alibi).to(state)
        if self.training:  # the same sums, in one pass
            mixed = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=bias[None] if alibi else None, is_causal=not alibi
            )
        else:
            scores = query @ key.transpose(-1, -2) / math.sqrt(self.size) + bias
            mixed = self.softmax(scores) @ value  # (sequences, heads, tokens, size)
        mixed = mixed.transpose(1, 2).flatten(2)
        added: Tensor = self.out(mixed)
        return added

    def _split(self, projected: Tensor, heads: int) -> Tensor:
        """Return (sequences, heads, tokens, size) of (sequences, tokens, heads * size)."""
        sequences, tokens, _ = projected.shape
        return projected.view(sequences, tokens, heads, self.size).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers around an activation, or three where it gates."""

    def __init__(self, config: DecoderConfig, ff_width: int) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, ff_width, bias=config.bias)
        gated = config.activation == "swiglu"
        self.gate = nn.Linear(config.width, ff_width, bias=config.bias) if gated else None
        acts = {"relu": nn.ReLU, "gelu": nn.GELU, "swiglu": nn.SiLU}
        self.activation = acts[config.activation]()
        self.out = nn.Linear(ff_width, config.width, bias=config.bias)

    def forward(self, state: Tensor) -> Tensor:
        """Return what the feed-forward adds to hidden states, (sequences, tokens, width)."""
        if self.gate is None:
            hidden = self.activation(self.up(state))
        else:
            hidden = self.activation(self.gate(state)) * self.up(state)
        added: Tensor = self.out(hidden)
        return added


def rotated(heads: Tensor, frequencies: tuple[float, ...] | None = None) -> Tensor:
    """Return (…, tokens, size) turned by its position, first half against second (RoPE).

    Args:
        heads: What is turned.
        frequencies: Radians a token, for each pair of features; None: 10,000^(-2i / size).

    Source: Su et al. 2021, arXiv:2104.09864, base 10,000, as LLaMA pairs the features.
    """
    tokens, size = heads.shape[-2:]
    places = torch.arange(tokens, device=heads.device)[:, None]
    if frequencies is None:
        powers = torch.arange(0, size, 2, device=heads.device, dtype=torch.float32) / size
        turns = places / 10_000.0**powers
    else:
        turns = places * torch.tensor(frequencies, device=heads.device)
    cos, sin = turns.cos().to(heads), turns.sin().to(heads)
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def causal_bias(heads: int, tokens: int, *, alibi: bool) -> Tensor:
    """Return (heads or 1, tokens, tokens) added to scores: -inf for later keys.

    With `alibi` each head also falls with distance, by 2^(-8 h / heads) a token (Press et al.
    2021, arXiv:2108.12409).

    >>> causal_bias(1, 2, alibi=True).tolist()
    [[[0.0, -inf], [-0.00390625, 0.0]]]
    """
    future = torch.full((tokens, tokens), -math.inf).triu(1)
    if not alibi:
        return future[None]
    slopes = 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads)
    places = torch.arange(tokens)
    distance = (places[:, None] - places[None, :]).clamp_min(0)  # queries by keys
    return future - slopes[:, None, None] * distance


def _norm(config: DecoderConfig) -> nn.Module:
    if config.norm == "rms":
        return nn.RMSNorm(config.width, eps=config.epsilon or 1e-6)
    return nn.LayerNorm(config.width, eps=config.epsilon or 1e-5, bias=config.bias)
