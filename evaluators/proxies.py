"""Hand-made zero-cost proxies that the expression language cannot say, each as published.

A proxy rates a whole network that was never trained, on one batch. Those that are expressions
are in `search_spaces/handmade_proxies.py`. All take a real loss where they take one, in
evaluation mode; matrices are decomposed in float64. The formulas are those of the papers named.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from autoproxy.errors import EvaluationError, unknown_name
from evaluators.sites import (
    Batch,
    Site,
    block_of,
    collect,
    embedding_of,
    hooked,
    linear_layers,
    logits_of,
    synaptic_flow,
    undisturbed,
)

ROUNDING = 1e-5
"""Share of what is added up below which a difference of two sums is float32's rounding."""

ENERGY = 0.99
"""Share of the variance that the counted principal components hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A network and what it is rated on.

    Attributes:
        network: As `evaluators.sites.collect` takes it.
        batch: Token ids (sequences, tokens).
        causal: As for `collect`.
        seed: Of random directions.
    """

    network: nn.Module
    batch: Batch
    causal: bool | None = None
    seed: int = 0

    def sites(self, *wanted: str) -> list[Site]:
        """Return the sites that have all the wanted terminals."""
        found = collect(self.network, self.batch, wanted, causal=self.causal).sites
        return [site for site in found if set(wanted) <= set(site.terminals)]


@dataclass(frozen=True, slots=True)
class NamedProxy:
    """A hand-made proxy that is code.

    Attributes:
        function: Gives a number for a `Subject`.
        sign: 1 where larger is meant to be better, -1 where smaller is.
        source: Paper or code that it is from.
        meaning: What it computes, in a sentence.
    """

    function: Callable[[Subject], float]
    sign: int
    source: str
    meaning: str


def score(
    name: str, network: nn.Module, batch: Batch, *, causal: bool | None = None, seed: int = 0
) -> float:
    """Return what the proxy called `name` gives for a network, as published, sign included.

    Raises:
        EvaluationError: There is no such proxy, the network lacks what it reads, or the result
            is not finite; the message says which.

    >>> network = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5))
    >>> round(score("activation_distance", network, torch.tensor([[0, 0, 0]])))
    54
    """
    if name not in NAMED:
        raise EvaluationError(unknown_name("proxy", name, NAMED))
    subject = Subject(network=network, batch=batch, causal=causal, seed=seed)
    value = NAMED[name].function(subject)
    if not math.isfinite(value):
        raise EvaluationError(f"{name} is not finite ({value}) for this network")
    return value


def log_synflow(subject: Subject) -> float:
    """Return sum over weights of |W| |log |dR/dW||, R as for SynFlow; R itself may overflow."""
    weights = [module.get_parameter("weight") for module in _unique(subject.network)]
    with undisturbed(subject.network):
        logarithm, slopes = synaptic_flow(subject.network, subject.batch, weights)
    if not slopes:
        raise EvaluationError("SynFlow's R overflows float64 for this network")
    return sum(
        # A weight that nothing flows through has no logarithm; zero-cost NAS leaves it out.
        float((w.detach().double().abs() * (s.abs().log() + logarithm).abs())[s != 0].sum())
        for w, s in zip(weights, slopes, strict=True)
    )


def jacobian_covariance(subject: Subject) -> float:
    """Return -sum(log(v + k) + 1 / (v + k)), v eigenvalues of the correlations of Jacobians.

    A row is one sequence's gradient of the sum of its logits in the embedded tokens; k = 1e-5.
    """
    eigenvalues = torch.linalg.eigvalsh(torch.corrcoef(_jacobians(subject))) + 1e-5
    return -float((eigenvalues.log() + 1.0 / eigenvalues).sum())


def jacobian_cosine(subject: Subject) -> float:
    """Return 1 - sum |cos - I|^(1/20) / 2 / (n^2 - n) of n sequences' Jacobians."""
    rows = _jacobians(subject)
    unit = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-300)
    count = len(rows)
    gaps = (unit @ unit.T).fill_diagonal_(0.0).abs()
    return 1.0 - float((gaps ** (1 / 20)).sum()) / 2 / (count * count - count)


def naswot(subject: Subject) -> float:
    """Return log det of the sum over nonlinearities of how many codes two sequences share.

    A code is whether what goes into a nonlinearity is above 0, for each token and feature.
    """
    kernels = [_agreement(codes.flatten(1)) for codes in _codes(subject)]
    _several(len(kernels[0]))
    kernel = torch.stack(kernels).sum(dim=0)
    eigenvalues = torch.linalg.eigvalsh(kernel)
    if float(eigenvalues[0]) <= 1e-12 * float(eigenvalues[-1]):
        raise EvaluationError("NASWOT needs sequences whose codes differ; two are alike here")
    return float(eigenvalues.log().sum())


def activation_distance(subject: Subject) -> float:
    """Return how many codes the first sequence's tokens share, over all pairs and layers."""
    return sum(float(_agreement(codes[0].flatten(1)).sum()) for codes in _codes(subject))


def head_confidence(subject: Subject) -> float:
    """Return the sum over query, key and value layers of mean (max over tokens) of outputs."""
    return sum(_confidences(subject))


def attention_importance(subject: Subject) -> float:
    """Return `head_confidence` as a mean over layers, which LPZero's code calls so."""
    values = _confidences(subject)
    return sum(values) / len(values)


def head_importance(subject: Subject) -> float:
    """Return the sum over heads of mean over sequences |A_h . dL/dA_h|, A_h a head's output."""
    total = 0.0
    for site in _needed(subject.sites("heads", "dx", "attention"), "attention heads"):
        product = (site.terminals["heads"] * site.terminals["dx"]).double()
        split = product.unflatten(2, (site.terminals["attention"].shape[1], -1))
        total += float(split.sum(dim=(1, 3)).abs().mean(dim=0).sum())
    return total


def v_pca(subject: Subject) -> float:
    """Return the mean over activations of how many principal components hold `ENERGY`.

    The components are those of what goes into the activation of a feed-forward, over all tokens,
    centred.
    """
    counts = [_components(z.flatten(0, -2)) for z, _ in _nonlinear(subject)]
    return sum(counts) / len(counts)


def w_pca(subject: Subject) -> float:
    """Return `v_pca` times the number of parameters."""
    return v_pca(subject) * sum(p.numel() for p in subject.network.parameters())


def expressivity(subject: Subject) -> float:
    """Return the sum over blocks of the entropy of their features' covariance spectrum."""
    return sum(_entropies(subject))


def progressivity(subject: Subject) -> float:
    """Return the least growth of that entropy from one block to the next."""
    values = _entropies(subject)
    if len(values) < 2:
        raise EvaluationError("progressivity compares blocks, and this network has only one")
    return min(after - before for before, after in itertools.pairwise(values))


def trainability(subject: Subject) -> float:
    """Return the mean over blocks of 2 - s - 1 / (s + 1e-6).

    s is the largest singular value of g_in^T g_out / tokens, where g_out are random signs on the
    block's output and g_in is what its backward pass makes of them.
    """
    draw = torch.Generator().manual_seed(subject.seed)
    values: list[float] = []
    with undisturbed(subject.network), _blocks(subject.network) as calls:
        logits_of(subject.network, subject.batch)
        for given, made in calls:
            signs = torch.randint(0, 2, made.shape, generator=draw).to(made) * 2 - 1
            slope = torch.autograd.grad(made, given, signs, retain_graph=True)[0]
            square = slope.flatten(0, -2).double().T @ signs.flatten(0, -2).double()
            largest = float(torch.linalg.matrix_norm(square / signs[..., 0].numel(), ord=2))
            values.append(2.0 - largest - 1.0 / (largest + 1e-6))
    _needed(values, "blocks in an nn.ModuleList")
    return sum(values) / len(values)


def near(subject: Subject) -> float:
    """Return the sum over nonlinearities of the effective ranks of what goes in and comes out.

    Matrices are tokens of all sequences by features, as many as the batch has.
    """
    return sum(
        _effective_rank(value.flatten(0, -2)) for pair in _nonlinear(subject) for value in pair
    )


def eznas(subject: Subject) -> float:
    """Return the sum over layers of sigmoid(log det(sign(G) sign(G)^T)), 0 where singular."""
    total = 0.0
    for site in subject.sites("g"):
        signs = site.terminals["g"].sign().double()
        gram = signs @ signs.T
        if len(signs) <= signs.shape[1] and int(torch.linalg.matrix_rank(gram)) == len(signs):
            total += float(torch.linalg.slogdet(gram).logabsdet.sigmoid())
    return total


def zico(subject: Subject) -> float:
    """Return sum over layers of log sum over weights mean |g| / std g, over sequences.

    Weights whose gradient is the same in all sequences, up to rounding, are left out; the
    standard deviation is the population's.
    """
    total = 0.0
    ids = subject.batch["input_ids"] if isinstance(subject.batch, Mapping) else subject.batch
    count = _several(len(ids))
    for site in subject.sites("x", "dy"):
        x, dy = (site.terminals[name].double() for name in ("x", "dy"))
        if len(x) != count:  # tokens in a heap are of no sequence
            continue
        each = torch.einsum("sto,sti->soi", dy, x)
        mean, deviation = each.abs().mean(dim=0), each.std(dim=0, correction=0)
        scale = torch.einsum("sto,sti->oi", dy.abs(), x.abs()) / count  # of what was added up
        known = deviation > ROUNDING * scale
        if not known.any():
            raise EvaluationError(
                f"ZiCo needs sequences whose gradients differ; those of {site.name} are alike"
            )
        total += math.log(float((mean[known] / deviation[known]).sum()))
    return total


def lpzero_gpt2(subject: Subject) -> float:
    """Return the mean over layers of mean W^2 + mean softmax(G)^2, over each output's inputs.

    G is the gradient of the mean loss over all sequences, which changes the softmax little.
    """
    values: list[float] = []
    for site in subject.sites("W", "g", "x"):
        chances = (site.terminals["g"].double() / len(site.terminals["x"])).softmax(dim=1)
        weight = site.terminals["W"].double()
        values.append(float(weight.square().mean() + chances.square().mean()))
    _needed(values, "linear layers")
    return sum(values) / len(values)


def az_nas(components: Sequence[Sequence[float]]) -> list[float]:
    """Return AZ-NAS of every network of a pool: sum over components of log(rank / networks).

    Args:
        components: For each network its expressivity, progressivity, trainability and FLOPs (or
            any others), larger better. Rank 1 is the smallest; equal ones share their mean rank.

    >>> [round(value, 3) for value in az_nas([(1.0, 5.0), (2.0, 5.0)])]
    [-0.981, -0.288]
    """
    count = len(components)
    return [
        sum(
            math.log((sum(o < v for o in all_of) + (sum(o == v for o in all_of) + 1) / 2) / count)
            for v, all_of in zip(own, zip(*components, strict=True), strict=True)
        )
        for own in components
    ]


@dataclass(frozen=True, slots=True)
class SharedWeight:
    """Where a weight of a sub-network lies in the supernet.

    Attributes:
        name: The supernet's layer.
        rows: Which of its outputs the sub-network has; all, if None.
        columns: Which of its inputs; all, if None.
    """

    name: str
    rows: Tensor | None = None
    columns: Tensor | None = None

    def cut(self, whole: Tensor) -> Tensor:
        """Return the sub-network's part of the supernet's (out, in)."""
        part = whole if self.rows is None else whole[self.rows]
        return part if self.columns is None else part[:, self.columns]


def gradient_matching(
    supernet: Subject, network: nn.Module, shared: Mapping[str, SharedWeight]
) -> float:
    """Return the cosine between the gradients of shared weights in a network and its supernet.

    All shared weights together are one vector: <g, G> / (|g| |G|), where g is the gradient of the
    sub-network's loss and G the same entries of the supernet's, on the same batch. 1 means that
    they would learn the same; larger is better. Few-shot NAS splits a supernet where this is low.

    Args:
        supernet: With the batch.
        network: Whose weights are parts of the supernet's.
        shared: Layer of the sub-network to where it lies.

    Raises:
        EvaluationError: A weight is not the part of the supernet that it should be, or a
            gradient vanishes.
    """
    whole = {site.name: site.terminals for site in supernet.sites("W", "g")}
    own = Subject(network=network, batch=supernet.batch, causal=supernet.causal)
    parts = {site.name: site.terminals for site in own.sites("W", "g")}
    inner = first = second = 0.0
    for name, place in shared.items():
        if name not in parts or place.name not in whole:
            missing = name if name not in parts else place.name
            raise EvaluationError(f"there is no linear layer {missing} with a gradient")
        if not torch.equal(parts[name]["W"], place.cut(whole[place.name]["W"])):
            raise EvaluationError(f"{name} is not the part of the supernet's {place.name}")
        g, h = parts[name]["g"].double(), place.cut(whole[place.name]["g"]).double()
        inner += float((g * h).sum())
        first += float(g.square().sum())
        second += float(h.square().sum())
    if not first or not second:
        raise EvaluationError("gradients of the shared weights vanish")
    return inner / math.sqrt(first * second)


def _needed(values: Any, what: str) -> Any:
    if not values:
        raise EvaluationError(f"the network has no {what} that this proxy could read")
    return values


def _several(sequences: int) -> int:
    if sequences < 2:
        raise EvaluationError("this proxy compares sequences; give a batch of at least 2")
    return sequences


def _unique(network: nn.Module) -> list[nn.Module]:
    """Return one module for every linear weight."""
    by_weight: dict[int, nn.Module] = {}
    for module in linear_layers(network).values():
        by_weight.setdefault(id(module.get_parameter("weight")), module)
    return list(by_weight.values())


def _jacobians(subject: Subject) -> Tensor:
    """Return each sequence's gradient of its summed logits, (sequences, tokens * width) float64."""
    leaves: list[Tensor] = []

    def see(_: nn.Module, __: object, made: Tensor) -> Tensor:
        leaves.append(made.detach().requires_grad_())
        return leaves[-1].clone()

    embedding = embedding_of(subject.network)
    if embedding is None:
        raise EvaluationError("the network has no embedding whose output could be varied")
    with undisturbed(subject.network), hooked([embedding.register_forward_hook(see)]):
        total = logits_of(subject.network, subject.batch).sum()
        slope = torch.autograd.grad(total, leaves[0])[0]
    _several(len(slope))
    return slope.flatten(1).double()


def _nonlinear(subject: Subject) -> list[tuple[Tensor, Tensor]]:
    """Return what goes into every nonlinearity and what comes out, in order of execution."""
    seen: list[tuple[Tensor, Tensor]] = []
    found = [m for m in subject.network.modules() if _is_nonlinearity(m)]

    def see(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        seen.append((given[0].detach().clone(), made.detach().clone()))

    def before(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(value.clone() for value in given)  # one in place would overwrite it

    hooks = [m.register_forward_hook(see) for m in found]
    hooks += [m.register_forward_pre_hook(before) for m in found if getattr(m, "inplace", False)]
    with undisturbed(subject.network), torch.no_grad(), hooked(hooks):
        logits_of(subject.network, subject.batch)
    made: list[tuple[Tensor, Tensor]] = _needed(seen, "nonlinearity that is a module")
    return made


def _is_nonlinearity(module: nn.Module) -> bool:
    """Return whether a module is an activation: torch's or transformers', softmax apart."""
    home, name = type(module).__module__, type(module).__name__
    known = home in {"torch.nn.modules.activation", "transformers.activations"}
    return known and not any(word in name for word in ("Softmax", "Softmin", "Attention"))


def _codes(subject: Subject) -> list[Tensor]:
    """Return whether each input of a nonlinearity is above 0, (sequences, tokens, features)."""
    ids = subject.batch["input_ids"] if isinstance(subject.batch, Mapping) else subject.batch
    pairs = _nonlinear(subject)
    return [(z > 0).double().reshape(len(ids), -1, z.shape[-1]) for z, _ in pairs]


def _agreement(codes: Tensor) -> Tensor:
    """Return in how many places each two rows agree, (rows, rows)."""
    return codes @ codes.T + (1 - codes) @ (1 - codes).T


def _confidences(subject: Subject) -> list[float]:
    """Return mean over sequences and features of the largest over tokens, a projection each."""
    found = collect(
        subject.network, subject.batch, {"y", "heads", "is_attention"}, causal=subject.causal
    )
    reading = [
        site.terminals["y"].amax(dim=1).double().mean()
        for site in found.sites
        if site.terminals["is_attention"] and "heads" not in site.terminals
    ]
    return [float(value) for value in _needed(reading, "attention projections")]


def _components(features: Tensor) -> int:
    """Return how many principal components of (tokens, features) hold `ENERGY` of the variance."""
    centred = features.double() - features.double().mean(dim=0)
    shares = torch.linalg.svdvals(centred).square().cumsum(dim=0)
    return int((shares < ENERGY * shares[-1]).sum()) + 1


def _effective_rank(matrix: Tensor) -> float:
    """Return exp of the entropy of singular values over their sum (Roy & Vetterli 2007)."""
    values = torch.linalg.svdvals(matrix.double())
    shares = values / values.sum().clamp_min(1e-300)
    return float(torch.special.entr(shares).sum().exp())


def _entropies(subject: Subject) -> list[float]:
    """Return the entropy of the covariance spectrum of every block's output, in nats."""
    values: list[float] = []
    with undisturbed(subject.network), torch.no_grad(), _blocks(subject.network) as calls:
        logits_of(subject.network, subject.batch)
    for _, made in calls:
        features = made.flatten(0, -2).double()
        spectrum = torch.linalg.svdvals(features - features.mean(dim=0)).square()
        shares = spectrum / spectrum.sum().clamp_min(1e-300)
        values.append(float(torch.special.entr(shares).sum()))
    found: list[float] = _needed(values, "blocks in an nn.ModuleList")
    return found


@contextmanager
def _blocks(network: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Gather the hidden states before and after every block; those before can be varied."""
    calls: list[tuple[Tensor, Tensor]] = []
    names = dict.fromkeys(
        block[0] for name in linear_layers(network) if (block := block_of(name)) is not None
    )
    entered: list[Tensor] = []

    def before(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = args[0] if args else kwargs["hidden_states"]
        entered.append(given if given.requires_grad else given.detach().requires_grad_())
        if args:
            return (entered[-1], *args[1:]), kwargs
        return args, kwargs | {"hidden_states": entered[-1]}

    def after(_: nn.Module, __: object, made: Any) -> None:
        calls.append((entered.pop(), made[0] if isinstance(made, tuple) else made))

    modules = [network.get_submodule(name) for name in names]
    hooks = [m.register_forward_pre_hook(before, with_kwargs=True) for m in modules]
    with hooked([*hooks, *(m.register_forward_hook(after) for m in modules)]):
        yield calls


_ABDELFATTAH = "Abdelfattah et al. 2021, arXiv:2101.08134"
_SERIANNI = "Serianni & Kalita 2023, arXiv:2306.00288"
_AZ_NAS = "Lee & Ham 2024, arXiv:2403.19232"
_MELLOR = "Mellor et al. 2021, arXiv:2006.04647"
_W_PCA = "Wang et al. 2025, arXiv:2504.15983"


def _proxy(function: Callable[[Subject], float], source: str, sign: int = 1) -> NamedProxy:
    """Return a record whose meaning is the first line of the function's docstring."""
    meaning = (function.__doc__ or "").partition("\n")[0]
    return NamedProxy(function, sign, source, meaning.removeprefix("Return ").rstrip("."))


NAMED: Mapping[str, NamedProxy] = MappingProxyType(
    {
        "log_synflow": _proxy(log_synflow, "Cavagnero et al. 2022, arXiv:2207.05135"),
        "jacobian_covariance": _proxy(jacobian_covariance, _ABDELFATTAH),
        "jacobian_cosine": _proxy(jacobian_cosine, _SERIANNI),
        "naswot": _proxy(naswot, _MELLOR),
        "activation_distance": _proxy(activation_distance, _SERIANNI),
        "head_confidence": _proxy(head_confidence, _SERIANNI),
        "attention_importance": _proxy(attention_importance, "LPZero's code, github.com/pprp"),
        "head_importance_michel": _proxy(head_importance, "Michel et al. 2019, arXiv:1905.10650"),
        "v_pca": _proxy(v_pca, _W_PCA),
        "w_pca": _proxy(w_pca, _W_PCA),
        "az_expressivity": _proxy(expressivity, _AZ_NAS),
        "az_progressivity": _proxy(progressivity, _AZ_NAS),
        "az_trainability": _proxy(trainability, _AZ_NAS),
        "near": _proxy(near, "Husistein et al. 2024, arXiv:2408.08776"),
        "eznas": _proxy(eznas, "Akhauri et al. 2022, arXiv:2209.07413, as ported to LMs"),
        "zico": _proxy(zico, "Li et al. 2023, arXiv:2301.11300"),
        "lpzero_gpt2": _proxy(lpzero_gpt2, "Dong et al. 2024, arXiv:2410.04808", sign=-1),
    }
)
"""Every proxy of this file that rates one network by itself."""
