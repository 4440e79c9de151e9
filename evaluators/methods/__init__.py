"""Published pruning methods that an expression cannot say, each a pure function of one matrix."""

from collections.abc import Mapping
from types import MappingProxyType

from evaluators.methods.dsnot import DSNOT
from evaluators.methods.method import Method, check_asked
from evaluators.methods.ria_permuted import RIA_PERMUTED
from evaluators.methods.sparsegpt import SPARSEGPT, SPARSEGPT_MASK
from evaluators.methods.wanda_variant import WANDA_VARIANT

_METHODS: tuple[Method, ...] = (SPARSEGPT, SPARSEGPT_MASK, WANDA_VARIANT, DSNOT, RIA_PERMUTED)

METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _METHODS})
"""Every method, by name."""

__all__ = ["METHODS", "Method", "check_asked"]
