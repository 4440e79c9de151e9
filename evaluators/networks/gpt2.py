"""GPT-2 with a shape of its own in every layer, and an adaptive embedding and softmax.

The decoders of LiteTransformerSearch (Javaheripi et al. 2022, arXiv:2203.02094). Tables of the
embedding get narrower for rare tokens (Baevski & Auli 2019, arXiv:1809.10853); the softmax first
chooses a frequent token or a cluster of rare ones, then a token of the cluster.
"""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoproxy.errors import ConfigError
from evaluators.networks.initial import draw_normal


@dataclass(frozen=True, slots=True, kw_only=True)
class GPT2Config:
    """The shape of a GPT-2.

    Attributes:
        width: Features of the hidden state.
        heads: Heads of each layer; they divide the width.
        ff_widths: Hidden features of each layer's feed-forward.
        d_embed: Features of the first embedding table.
        div_val: Each further table has so many times fewer features; 1: there is one table.
        vocabulary: Token ids are below it.
        cutoffs: First token ids of the clusters of rare tokens.
        length: Most tokens in a sequence.
    """

    width: int
    heads: tuple[int, ...]
    ff_widths: tuple[int, ...]
    d_embed: int
    div_val: int
    vocabulary: int = 50_264
    cutoffs: tuple[int, ...] = (19_997, 39_997)
    length: int = 192

    def __post_init__(self) -> None:
        if not len(self.heads) == len(self.ff_widths) > 0:
            raise ConfigError(
                f"heads and ff_widths have one entry a layer, got {len(self.heads)} and "
                f"{len(self.ff_widths)}"
            )
        for heads in self.heads:
            if heads < 1 or self.width % heads:
                raise ConfigError(f"{heads} heads must divide width {self.width}")
        if min(self.ff_widths) < 1:
            raise ConfigError(f"ff_widths must be at least 1, got {min(self.ff_widths)}")
        if self.d_embed // self.div_val ** len(self.cutoffs) < 1:
            raise ConfigError(
                f"d_embed {self.d_embed} cannot be divided by {self.div_val} "
                f"{len(self.cutoffs)} times"
            )

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.heads)

    @property
    def clusters(self) -> tuple[tuple[int, int], ...]:
        """First token id of each cluster, and the one behind its last."""
        ends = (0, *self.cutoffs, self.vocabulary)
        return tuple(itertools.pairwise(ends))


class GPT2(nn.Module):
    """A causal language model; call it with token ids for logits.

    Its logits are log-probabilities, since an adaptive softmax has no others. Every weight is
    drawn from a normal distribution of deviation 0.02, as GPT-2's first implementations do it.

    >>> config = GPT2Config(width=8, heads=(2,), ff_widths=(16,), d_embed=4, div_val=2,
    ...                     vocabulary=20, cutoffs=(5, 9), length=6)
    >>> logits = GPT2(config)(torch.zeros(2, 6, dtype=torch.long))
    >>> tuple(logits.shape), bool(torch.allclose(logits.exp().sum(-1), torch.ones(2, 6)))
    ((2, 6, 20), True)
    """

    causal = True

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = AdaptiveEmbedding(config)
        self.position = nn.Parameter(torch.empty(config.length, config.width))
        self.layers = nn.ModuleList(GPT2Layer(config, n) for n in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=1e-5)
        self.softmax = AdaptiveSoftmax(config)
        draw_normal(self)

    def forward(self, ids: Tensor) -> Tensor:
        """Return log-probabilities (sequences, tokens, vocabulary) of ids (sequences, tokens)."""
        return self.body(self.embedding(ids))

    def body(self, embedded: Tensor) -> Tensor:
        """Return log-probabilities of embedded tokens (sequences, tokens, width)."""
        state = embedded + self.position[: embedded.shape[1]]
        for layer in self.layers:
            state = layer(state)
        logits: Tensor = self.softmax(self.norm(state), self.embedding)
        return logits


class GPT2Layer(nn.Module):
    """Attention and a feed-forward, each behind a norm and added to what came in."""

    def __init__(self, config: GPT2Config, number: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width, eps=1e-5)
        self.attention = GPT2Attention(config.width, config.heads[number])
        self.mlp_norm = nn.LayerNorm(config.width, eps=1e-5)
        self.mlp = GPT2FeedForward(config.width, config.ff_widths[number])

    def forward(self, state: Tensor) -> Tensor:
        """Return the hidden states behind this layer, (sequences, tokens, width)."""
        state = state + self.attention(self.attention_norm(state))
        behind: Tensor = state + self.mlp(self.mlp_norm(state))
        return behind


class GPT2Attention(nn.Module):
    """Causal attention; one matrix makes queries, keys and values, as in GPT-2."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.softmax = nn.Softmax(dim=-1)
        self.out = nn.Linear(width, width)

    def forward(self, state: Tensor) -> Tensor:
        """Return what attention adds to hidden states, (sequences, tokens, width)."""
        sequences, tokens, width = state.shape
        parts = self.qkv(state).view(sequences, tokens, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # (sequences, heads, tokens, size) each
        scores = query @ key.transpose(-1, -2) / math.sqrt(width // self.heads)
        future = torch.full((tokens, tokens), -math.inf, device=state.device).triu(1)
        mixed = self.softmax(scores + future.to(state)) @ value
        added: Tensor = self.out(mixed.transpose(1, 2).reshape(sequences, tokens, width))
        return added


class GPT2FeedForward(nn.Module):
    """Two linear layers around GELU in its tanh form."""

    def __init__(self, width: int, ff_width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, ff_width)
        self.activation = nn.GELU(approximate="tanh")
        self.out = nn.Linear(ff_width, width)

    def forward(self, state: Tensor) -> Tensor:
        """Return what the feed-forward adds to hidden states, (sequences, tokens, width)."""
        added: Tensor = self.out(self.activation(self.up(state)))
        return added


class AdaptiveEmbedding(nn.Module):
    """Tables of token vectors, narrower for rare tokens, projected to the model's width.

    The projections are no sites of statistics, so they are plain parameters.
    """

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        clusters = config.clusters if config.div_val > 1 else ((0, config.vocabulary),)
        sizes = [config.d_embed // config.div_val**n for n in range(len(clusters))]
        self.tables = nn.ParameterList(
            nn.Parameter(torch.empty(end - begin, size))
            for (begin, end), size in zip(clusters, sizes, strict=True)
        )
        projected = config.div_val > 1 or config.d_embed != config.width
        self.projections = nn.ParameterList(
            nn.Parameter(torch.empty(config.width, size)) for size in sizes if projected
        )

    def forward(self, ids: Tensor) -> Tensor:
        """Return embedded tokens (sequences, tokens, width) of ids (sequences, tokens)."""
        parts, begin = [], 0
        for number, table in enumerate(self.tables):
            inside = (ids >= begin) & (ids < begin + len(table))
            rows = functional.embedding((ids - begin).clamp(0, len(table) - 1), table)
            parts.append(self._wide(rows, number) * inside.unsqueeze(-1))
            begin += len(table)
        return torch.stack(parts).sum(0) * math.sqrt(self.config.width)

    def _wide(self, rows: Tensor, number: int) -> Tensor:
        return functional.linear(rows, self.projections[number]) if self.projections else rows

    def cluster(self, number: int) -> tuple[Tensor, Tensor | None]:
        """Return the token vectors (tokens, size) of a cluster and its projection (width, size)."""
        if len(self.tables) > 1:
            return self.tables[number], self.projections[number]
        begin, end = self.config.clusters[number]
        return self.tables[0][begin:end], None


class AdaptiveSoftmax(nn.Module):
    """Log-probabilities through the embedding's own tables.

    The tables and the projections of rare tokens are shared with the embedding; the projection of
    the first table is not.
    """

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        projected = config.div_val > 1 or config.d_embed != config.width
        self.projection = (
            nn.Parameter(torch.empty(config.width, config.d_embed)) if projected else None
        )
        rare = len(config.cutoffs)
        self.cluster = nn.Parameter(torch.empty(rare, config.d_embed))
        self.cluster_bias = nn.Parameter(torch.empty(rare))
        self.clusters = config.clusters
        self.bias = nn.Parameter(torch.empty(config.vocabulary))
        self.log_softmax = SoftmaxNorm(dim=-1)

    def forward(self, state: Tensor, embedding: AdaptiveEmbedding) -> Tensor:
        """Return (sequences, tokens, vocabulary) of hidden states (sequences, tokens, width)."""
        own = state if self.projection is None else state @ self.projection
        (_, ends), *rare = self.clusters
        table, _ = embedding.cluster(0)
        rows = torch.cat([table, self.cluster])
        head = functional.linear(own, rows, torch.cat([self.bias[:ends], self.cluster_bias]))
        head = self.log_softmax(head)
        parts = [head[..., :ends]]
        for number, (begin, end) in enumerate(rare, start=1):
            table, projection = embedding.cluster(number)
            narrow = own if projection is None else state @ projection
            tail = self.log_softmax(functional.linear(narrow, table, self.bias[begin:end]))
            parts.append(tail + head[..., ends + number - 1, None])
        return torch.cat(parts, dim=-1)


class SoftmaxNorm(nn.LogSoftmax):
    """A log-softmax whose type says that it is a norm: linearised networks leave norms out."""
