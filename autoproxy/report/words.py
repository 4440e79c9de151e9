"""What the words of a formula are worth: which ones good formulas have."""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from autoproxy.evaluation import Objective
from autoproxy.language.expression import Expression
from autoproxy.language.parse import parse
from autoproxy.ledger.records import Event

FEWEST = 3
"""Formulas with a word, and without it, below which nothing is said of it."""


@dataclass(frozen=True, slots=True)
class Word:
    """A primitive or an input, and how formulas that have it compare with those that do not.

    Attributes:
        name: The word.
        what: `operation` or `input`.
        formulas: How many have it.
        advantage: Chance that a formula with it is better than one without it (the area under
            the ROC curve; ties count half): 0.5 says nothing, 1 is always.
        p_value: Of the Mann-Whitney test, two-sided. Formulas of a search are relatives, so it is
            too small; it only tells what is not even that.
    """

    name: str
    what: str
    formulas: int
    advantage: float
    p_value: float


def importance(events: Sequence[Event], objective: Objective) -> list[Word]:
    """Return the words of an archive, the most advantageous first.

    Only formulas that were measured in full count: the others' values are of other blocks.
    """
    measured = [
        (_words(parse(event.text)), objective.sign * event.value)
        for event in events
        if event.fate == "measured" and event.value is not None
    ]
    found = []
    for name, what in sorted({word for words, _ in measured for word in words}):
        having = [value for words, value in measured if (name, what) in words]
        lacking = [value for words, value in measured if (name, what) not in words]
        if min(len(having), len(lacking)) < FEWEST:
            continue
        test = stats.mannwhitneyu(lacking, having)
        advantage = float(test.statistic) / (len(having) * len(lacking))
        found.append(Word(name, what, len(having), advantage, float(test.pvalue)))
    return sorted(found, key=lambda word: (-word.advantage, word.name))


def _words(expression: Expression) -> frozenset[tuple[str, str]]:
    """Return the names in a formula; a number is no word."""
    inputs = {(name, "input") for name in expression.terminals()}
    return frozenset(
        inputs | {(node.head, "operation") for node in expression.walk() if node.operands}
    )
