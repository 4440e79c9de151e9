"""Children: of two parents, and by mutation; DEAP's operators where DEAP has them."""

import copy
import random
from collections.abc import Callable, Mapping

from deap import gp

from autoproxy.breeding.constants import stepped_exponent, stepped_factor
from autoproxy.breeding.grammar import Grammar, Node
from autoproxy.language.expression import Expression, constant
from autoproxy.language.types import Kind
from autoproxy.seeding import lend_to_global

Mutation = Callable[[Grammar, gp.PrimitiveTree], gp.PrimitiveTree]


def sprout(grammar: Grammar, rng: random.Random, *, low: int, high: int, full: bool) -> Expression:
    """Return a random expression of the space's root kind: one of ramped half-and-half."""
    with lend_to_global(rng):
        nodes = grammar.generate(low, high, grammar.type_of(grammar.space.root), full=full)
    return grammar.to_expression(gp.PrimitiveTree(nodes))


def cross(
    grammar: Grammar, rng: random.Random, mother: Expression, father: Expression
) -> Expression:
    """Return `mother` with one of its branches replaced by one of `father`'s, of its kind."""
    trees = grammar.to_tree(mother), grammar.to_tree(father)
    with lend_to_global(rng):
        child, _ = gp.cxOnePoint(*trees)
    return grammar.to_expression(child)


def blend(
    grammar: Grammar, rng: random.Random, mother: Expression, father: Expression
) -> Expression:
    """Return the product or the sum of two parents, as often as the space draws either.

    For importances the product is the geometric mean of two opinions.
    """
    heads = [head for head in _BLENDS if head in grammar.space.primitives]
    if not heads:
        return cross(grammar, rng, mother, father)
    weights = [grammar.space.primitives[head] for head in heads]
    (head,) = rng.choices(heads, weights)
    return Expression(head, (mother, father))


_BLENDS = ("mul", "add")


def mutate(grammar: Grammar, rng: random.Random, how: str, parent: Expression) -> Expression:
    """Return `parent` after the mutation called `how`, a key of `MUTATIONS`."""
    tree = copy.copy(grammar.to_tree(parent))
    with lend_to_global(rng):
        child = MUTATIONS[how](grammar, tree)
    return grammar.to_expression(child)


def _subtree(grammar: Grammar, tree: gp.PrimitiveTree) -> gp.PrimitiveTree:
    """Replace a random branch by a fresh one of one or two steps.

    DEAP's `mutUniform`, but for branches of types that the space has no words for.
    """
    places = [index for index, node in enumerate(tree) if grammar.can_grow(node.ret)]
    index = random.choice(places)  # noqa: S311 - lent by a named stream
    here = tree.searchSubtree(index)
    tree[here] = grammar.generate(0, 2, tree[index].ret, full=False)
    return tree


def _point(grammar: Grammar, tree: gp.PrimitiveTree) -> gp.PrimitiveTree:
    """Replace one node by another that takes the same operands."""
    try:
        return gp.mutNodeReplacement(tree, grammar.set)[0]
    except IndexError:  # a primitive outside the space, which nothing inside it can replace
        return tree


def _shrink(grammar: Grammar, tree: gp.PrimitiveTree) -> gp.PrimitiveTree:
    """Replace a branch by one of its operands of the same kind."""
    del grammar
    return gp.mutShrink(tree)[0]


def _wrap(grammar: Grammar, tree: gp.PrimitiveTree) -> gp.PrimitiveTree:
    """Put a primitive around a branch, where every other operand has a terminal."""
    index = random.randrange(len(tree))  # noqa: S311 - lent by a named stream
    here = tree.searchSubtree(index)
    kind_type = tree[index].ret
    fitting = grammar.around(kind_type)
    if not fitting:
        return tree
    overload = random.choice(fitting)  # noqa: S311
    place = random.choice(  # noqa: S311
        [i for i, arg in enumerate(overload.args) if arg is kind_type]
    )
    nodes: list[Node] = [overload]
    for position, arg in enumerate(overload.args):
        if position == place:
            nodes += tree[here]
        else:
            nodes += grammar.generate(0, 0, arg, full=False, number=True)
    tree[here] = nodes
    return tree


def _constant(grammar: Grammar, tree: gp.PrimitiveTree) -> gp.PrimitiveTree:
    """Move one number by a factor around 1; exponents by a small step instead.

    Roots and squares are powers too, and become any other. Where the space has no `pow`, or no
    numbers, there is none to move.
    """
    numbers = [i for i, node in enumerate(tree) if _may_move(grammar, node)]
    if not numbers:
        return _point(grammar, tree)
    index = random.choice(numbers)  # noqa: S311 - lent by a named stream
    node = tree[index]
    if isinstance(node, gp.Primitive):
        here = tree.searchSubtree(index)
        power, exponent = grammar.as_power(node)
        tree[here] = [power, *tree[here.start + 1 : here.stop], exponent]
        index = here.stop
        node = exponent
    value = float(node.value)
    if node.ret is grammar.type_of(Kind.EXPONENT):
        value = stepped_exponent(value, random.gauss(0.0, 0.25))
    else:
        value = stepped_factor(value, random.gauss(0.0, 1.0))
    tree[index] = grammar.constant_node(value, node.ret)
    return tree


def _may_move(grammar: Grammar, node: Node) -> bool:
    """Return whether a number, or that of a root or square, may become another in the space."""
    if not _is_number(node):
        return grammar.is_power(node)
    is_exponent = node.ret is grammar.type_of(Kind.EXPONENT)
    return bool(grammar.space.exponents if is_exponent else grammar.space.constants)


def _is_number(node: Node) -> bool:
    if isinstance(node, gp.Primitive):
        return False
    try:
        constant(float(node.value))
    except ValueError:
        return False
    return True


MUTATIONS: Mapping[str, Mutation] = {
    "subtree": _subtree,
    "point": _point,
    "wrap": _wrap,
    "shrink": _shrink,
    "constant": _constant,
}
