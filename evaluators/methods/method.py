"""What a method is: a published way to prune one matrix that no expression can say."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from autoproxy.errors import ConfigError
from evaluators.masks import NM, Pattern, Unstructured


class Method(Protocol):
    """A way to prune one matrix: it may change weights that stay, or compare in ways of its own."""

    @property
    def name(self) -> str:
        """Word used on the command line and on leaderboards."""

    @property
    def source(self) -> str:
        """Paper that it is from."""

    @property
    def needs(self) -> frozenset[str]:
        """Statistics that it reads: of the vocabulary, and `evaluators.statistics.EXTRAS`."""

    @property
    def group(self) -> str:
        """Where it compares a share's weights, whatever is asked: a group, or in words."""

    def check(self, pattern: Pattern) -> None:
        """See that the method can make a pattern; blocks are checked by `masks.check_fits`.

        Raises:
            ConfigError: It cannot; the message says what it can make.
        """

    def prune(self, weight: Tensor, seen: Mapping[str, Tensor], pattern: Pattern) -> Tensor:
        """Return the pruned weight; nothing that is given is changed.

        Args:
            weight: (d_out, d_in), float32.
            seen: What `needs` names, of this matrix: shaped as the terminal's kind says,
                `moments` (d_in, d_in), `x_sum` (1, d_in); float32, on the weight's device.
            pattern: How many weights are dropped.

        Returns:
            (d_out, d_in) float32 with as many zeros as the method's class says, and no more
            unless the weight itself has zeros.

        Raises:
            ConfigError: `check` does.
        """


def check_asked(method: Method, pattern: Pattern, group: str) -> None:
    """See that a method does what is asked, so that a protocol says nothing that was not done.

    `row` is the usual, and asks for nothing; a method's own group may be asked for, too. Patterns
    of blocks compare within them, whatever the group.

    Raises:
        ConfigError: It cannot make the pattern, or does not compare by the group.

    >>> from evaluators.masks import parse_pattern
    >>> from evaluators.methods import METHODS
    >>> check_asked(METHODS["sparsegpt"], parse_pattern("0.5", None), "columns:128")
    """
    method.check(pattern)
    if isinstance(pattern, Unstructured) and group not in {"row", method.group}:
        raise ConfigError(
            f"{method.name} is a method that compares weights in a way of its own "
            f"({method.group}), so it cannot compare them by the group {group}; ask for --group "
            "row, as where nothing is said, or for a metric"
        )


def refuse_blocks(name: str, pattern: Pattern) -> Unstructured:
    """Return a pattern that is a share.

    Raises:
        ConfigError: It is keep:block.
    """
    if isinstance(pattern, NM):
        raise ConfigError(
            f"{name} drops a share of the weights and cannot make the pattern {pattern}; ask for "
            "a sparsity such as 0.5, or another method"
        )
    return pattern


def refuse_share(name: str, pattern: Pattern) -> NM:
    """Return a pattern that is keep:block.

    Raises:
        ConfigError: It is a share.
    """
    if isinstance(pattern, Unstructured):
        raise ConfigError(
            f"{name} makes patterns of blocks such as 2:4 and gains nothing at a sparsity of "
            f"{pattern}; ask for a pattern, or for the metric ria"
        )
    return pattern
