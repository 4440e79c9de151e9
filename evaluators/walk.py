"""Walking through a model: hidden states of some blocks, passed through one decoder layer a time.

What a decoder layer must be called with changes with every release of transformers, so the model
itself is asked once, with its decoder layers put out of action: they hand on what they are given.
That costs no layer's arithmetic, and no layer's weights need be in memory.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from evaluators.layers import decoder_layers


class Walk:
    """Hidden states of some blocks, on their way through the decoder layers.

    Memory: blocks * length * width numbers of the model's type.

    Args:
        model: In evaluation mode; only what is outside its decoder layers is computed with here.
        blocks: (count, length) token ids.
    """

    def __init__(self, model: PreTrainedModel, blocks: Tensor) -> None:
        self._model = model
        self._blocks = blocks
        self._layers = list(decoder_layers(model))
        self._wrapped = False  # whether the model takes the first of what a decoder layer returns
        self._calls: list[list[_Call]] = []  # of each block, with what each layer is called
        self._states = [self._enter(block) for block in blocks]

    @property
    def states(self) -> Sequence[Tensor]:
        """What the next decoder layer is given, (1, length, width) of each block."""
        return self._states

    def runs(self, number: int) -> list[Callable[[], Tensor]]:
        """Return one function a block, of what decoder layer `number` makes of it.

        Each returns (1, length, width) and leaves the walk where it is. Gradients of the layer's
        parameters can be taken of what it returns.
        """
        layer, pairs = self._layers[number], zip(self._calls, self._states, strict=True)
        return [functools.partial(calls[number].on, layer, states) for calls, states in pairs]

    @torch.no_grad()
    def step(self, number: int) -> None:
        """Go on through decoder layer `number`, as it is now."""
        layer = self._layers[number]
        for at, states in enumerate(self._states):  # one by one: they may be as large as a layer
            self._states[at] = self._calls[at][number].on(layer, states)

    def stubbed(self) -> AbstractContextManager[None]:
        """Let decoder layers hand on what they are given, for the block."""
        return self._answered(lambda _, args, kwargs: _Call.of(args, kwargs)[1])

    @torch.no_grad()
    def leave(self) -> Iterator[Tensor]:
        """Yield the last hidden states of each block, (length, width), ready for the head."""
        for block, states in zip(self._blocks, self._states, strict=True):
            with self._answered(functools.partial(_hand_on, states)):
                yield self._run(block)[0]

    def _enter(self, block: Tensor) -> Tensor:
        """Return what the first decoder layer is given, and keep with what each is called."""
        try:
            calls, states = self._ask(block)
        except _UnwrappedError:
            self._wrapped = True
            calls, states = self._ask(block)
        if self._calls:  # masks and positions are the same for all blocks, and large
            calls = [call.sharing(first) for call, first in zip(calls, self._calls[0], strict=True)]
        self._calls.append(calls)
        return states

    @torch.no_grad()
    def _ask(self, block: Tensor) -> "tuple[list[_Call], Tensor]":
        """Return with what the model calls each decoder layer, and what it gives the first."""
        calls: list[_Call] = []
        entering: list[Tensor] = []

        def note(number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
            call, states = _Call.of(args, kwargs)
            _check_shape(states)
            calls.append(call)
            if number == 0:
                entering.append(states)
            return states

        with self._answered(note):
            _check_shape(self._run(block))
        return calls, entering[0]

    def _run(self, block: Tensor) -> Tensor:
        """Return the last hidden states that the model itself gives, (1, length, width)."""
        ids = block.unsqueeze(0).to(self._model.device)
        output = self._model.base_model(input_ids=ids, use_cache=False)
        states: Tensor = output.last_hidden_state
        return states

    def _answered(self, stub: "Stub") -> AbstractContextManager[None]:
        """Let `stub` answer instead of the decoder layers, as the model takes it, for the block."""
        if self._wrapped:
            return replaced(self._layers, lambda *called: (stub(*called),))
        return replaced(self._layers, stub)


class _UnwrappedError(Exception):
    """A model took the first sequence of what it was to take whole: it expects a tuple."""


def _check_shape(states: Tensor) -> None:
    if states.ndim < 3:
        raise _UnwrappedError


class _Call:
    """With what a decoder layer is called beside hidden states."""

    def __init__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.args = args
        self.kwargs = kwargs

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "tuple[_Call, Tensor]":
        """Return the call that these arguments make, and the hidden states among them."""
        if args:
            return cls(args[1:], kwargs), args[0]
        rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        return cls((), rest), kwargs["hidden_states"]

    def sharing(self, other: "_Call") -> "_Call":
        """Return the same call with the tensors of `other` where they are equal: one is held."""
        if len(self.args) != len(other.args) or self.kwargs.keys() != other.kwargs.keys():
            return self
        args = tuple(map(_one_of, self.args, other.args))
        pairs = {name: (value, other.kwargs[name]) for name, value in self.kwargs.items()}
        return _Call(args, {name: _one_of(*pair) for name, pair in pairs.items()})

    def on(self, layer: nn.Module, states: Tensor) -> Tensor:
        """Return what `layer` makes of hidden states."""
        output: Tensor | tuple[Tensor, ...] = layer(states, *self.args, **self.kwargs)
        return output[0] if isinstance(output, tuple) else output


def _one_of(value: Any, first: Any) -> Any:
    """Return `first` where it is an equal tensor, or a tuple of some; `value` else.

    A dictionary is a block's own: decoder layers may hand on what they made in it.
    """
    if isinstance(value, Tensor) and isinstance(first, Tensor):
        alike = value.shape == first.shape and value.dtype == first.dtype
        return first if alike and torch.equal(value, first) else value
    if type(value) is type(first) is tuple and len(value) == len(first):
        return tuple(map(_one_of, value, first))
    return value


def _hand_on(states: Tensor, *_: object) -> Tensor:
    return states


Stub = Callable[[int, tuple[Any, ...], dict[str, Any]], object]


@contextmanager
def replaced(modules: Sequence[nn.Module], stub: Stub) -> Iterator[None]:
    """Let `stub(number, args, kwargs)` answer instead of each module, for the block."""

    def answer(number: int) -> Callable[..., object]:
        return lambda *args, **kwargs: stub(number, args, kwargs)

    with ExitStack() as stack:
        for number, module in enumerate(modules):
            module.forward = answer(number)
            stack.callback(delattr, module, "forward")
        yield
