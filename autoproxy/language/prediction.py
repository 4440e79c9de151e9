"""Predictions: an expression of kind Model, from numbers of layers to one number a network."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from autoproxy.language.catalog import AGGREGATIONS, CATALOG
from autoproxy.language.expression import Expression
from autoproxy.language.parse import of_numbers


def features(expression: Expression) -> tuple[Expression, ...]:
    """Return what is aggregated over layers, each once, in order of appearance.

    Their kind is Scalar: one number for each layer. What is a terminal of Models is no feature.

    >>> from autoproxy.language.parse import parse
    >>> text = "layers_sum(all_norm(g)) / layers_max(all_norm(g)) + layers_sum(fan_in) * n_layers"
    >>> [str(feature) for feature in features(parse(text))]
    ['all_norm(g)', 'fan_in']
    """
    return tuple(dict.fromkeys(node.operands[0] for node in aggregates(expression)))


def aggregates(expression: Expression) -> Iterator[Expression]:
    """Yield the aggregations over layers, in order of appearance.

    >>> from autoproxy.language.parse import parse
    >>> [str(node) for node in aggregates(parse("2 * layers_sum(all_norm(g)) / n_layers"))]
    ['layers_sum(all_norm(g))']
    """
    if expression.head in AGGREGATIONS:
        yield expression
        return
    for operand in expression.operands:
        yield from aggregates(operand)


def combine(
    expression: Expression,
    layers: Mapping[Expression, Sequence[Tensor]],
    model: Mapping[str, Tensor],
    aggregated: dict[Expression, Tensor] | None = None,
) -> Tensor:
    """Return the value of a Model expression for many networks at a time.

    What is made of numbers alone is computed in float32, as it is folded; the rest in float64.

    Args:
        expression: Of kind Model.
        layers: For each of its features one (layers, 1) float64 tensor a network: its value at
            those layers, in order of execution, that have all it reads; at least one.
        model: For each Model terminal that it reads (networks, 1) float64.
        aggregated: What aggregations over the same layers came to, (networks, 1) float64 each;
            those that are missing are added. None forgets them.

    Returns:
        (networks, 1) float64; infinite or NaN where the expression is. One network where it
        reads none.

    Raises:
        KeyError: A feature or terminal is missing.

    >>> from autoproxy.language.parse import parse
    >>> layers = {parse("fan_in"): [torch.ones(2, 1).double(), torch.ones(3, 1).double()]}
    >>> combine(parse("layers_sum(fan_in) / n_layers"), layers, {"n_layers": torch.ones(2, 1)})
    tensor([[2.],
            [3.]], dtype=torch.float64)
    """
    known: dict[Expression, Tensor] = {}
    sums = {} if aggregated is None else aggregated

    def value(node: Expression) -> Tensor:
        kept = sums if node.head in AGGREGATIONS else known
        if node not in kept:
            kept[node] = computed(node)
        return kept[node]

    def computed(node: Expression) -> Tensor:
        if of_numbers(node):
            return _number(node).double()
        if not node.operands:
            return model[node.head].double()
        if node.head in AGGREGATIONS:
            meaning = CATALOG[node.head].tensor
            return torch.cat([meaning(of_one.double()) for of_one in layers[node.operands[0]]])
        return _applied(node, value)

    return value(expression)


def _number(node: Expression) -> Tensor:
    """Return what numbers alone come to, (1, 1), as the canonical form folds them."""
    if node.value is not None:
        return torch.tensor([[node.value]], dtype=torch.float32)
    return _applied(node, _number)


def _applied(node: Expression, value: Callable[[Expression], Tensor]) -> Tensor:
    meaning = CATALOG[node.head].tensor
    if node.head == "pow":
        return meaning(value(node.operands[0]), node.operands[1].value)
    return meaning(*map(value, node.operands))
