"""Pruner-Zero (Dong et al. 2024, arXiv:2406.02924) as published, and its formulas in our language.

What it is: formulas of 15 operations over weight, gradient and activation, in steady state: 50
individuals, then 300 offspring one at a time from a tournament's winners, crossed and then mutated
half of the time, after operations that undo one another are simplified away; an offspring takes
the place of the worst. Its repository has the operations, random trees and the winner, but no
search. `PRUNER_ZERO` is the space, `AS_PUBLISHED` how it was searched, and
`autoproxy/language/pruner_zero.py` says what each word is here. More in docs/presets.md.

Its words, exactly:

- `W` is the *magnitude* of the weight, `G` 100 times the norm of gradients over sequences, `X`
  the *square* of Wanda's norm of inputs: what Wanda calls scaler_row, without its root.
- `div(a, b)` divides by the norm of all of b, which is one number; at the root it does nothing.
- `sqr` and `pow` are one operation, and `skp` is none. Both make a random tree what it is.
- `log` adds 0.001, `zsn` divides by the deviation of a sample.

What cannot be as published: our meanings give a number where its give NaN or infinity (min-max
and z-score of a constant, division by a norm of 0, e to the 89th). It keeps gradients in float16,
where small ones are 0; ours are float32. A tree of `X` alone has no value for each weight, and is
an error there; here it is not drawn. Which operand is drawn depends on its kind.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from autoproxy.language.pruner_zero import OPERATIONS, TERMINALS
from autoproxy.language.types import Kind
from autoproxy.spaces import SearchSpace
from search_spaces.importance import BASELINES
from search_spaces.published import STEADY_STATE

LEAVES: Mapping[str, str] = MappingProxyType(
    {"W": TERMINALS["W"], "g_norm": TERMINALS["G"], "x_norm": TERMINALS["X"]}
)
"""What its terminals W, G and X are, by the terminal of ours that each is made of."""

_PAIRS = ("add", "sub", "mul", "pz_div")

AS_PUBLISHED: Mapping[str, Any] = MappingProxyType(
    {
        **STEADY_STATE,
        "evaluations": 350.0,  # 50 and 300
        "population": 50,
        "first_batch": 50,
        "crossover": 1.0,  # every offspring has two parents,
        "mutation": 0.5,  # and half of them are then mutated
        "tournament": 5,  # of the code that its trees come from; it gives no number itself
        "same": "key",  # its opposing-operation simplification, and what is then alike
    }
)
"""How it was searched, in all options that a search has."""

PRUNER_ZERO = SearchSpace(
    name="pruner-zero",
    root=Kind.WEIGHT,
    # As many as there are operations, so that a branch ends where it may half of the time.
    terminals={"W": 7, "g_norm": 7, "x_norm": 14},
    primitives={
        # Of what two operands can be, a third is made of its terminals, so three are as often.
        word: 3 if word in _PAIRS else list(OPERATIONS.values()).count(word)
        for word in dict.fromkeys(OPERATIONS.values())
    },
    constants=(),
    exponents=(),
    max_size=63,  # 31 nodes of a full tree of four steps, whose leaves are up to three of ours
    max_depth=6,  # four steps below its root, and one that a leaf of ours has
    baselines=BASELINES,
    leaves=LEAVES,
    run={"evaluator": "pruning"},
    search=AS_PUBLISHED,
)
