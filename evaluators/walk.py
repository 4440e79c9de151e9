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
        self._calls: list[_Call] = []
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
        run = functools.partial(self._calls[number].on, self._layers[number])
        return [functools.partial(run, states) for states in self._states]

    @torch.no_grad()
    def step(self, number: int) -> None:
        """Go on through decoder layer `number`, as it is now."""
        layer, call = self._layers[number], self._calls[number]
        for at, states in enumerate(self._states):  # one by one: they may be as large as a layer
            self._states[at] = call.on(layer, states)

    def stubbed(self) -> AbstractContextManager[None]:
        """Let decoder layers hand on what they are given, for the block."""
        return _replaced(self._layers, lambda _, args, kwargs: _Call.of(args, kwargs)[1])

    @torch.no_grad()
    def leave(self) -> Iterator[Tensor]:
        """Yield the last hidden states of each block, (length, width), ready for the head."""
        for block, states in zip(self._blocks, self._states, strict=True):
            with _replaced(self._layers, functools.partial(_hand_on, states)):
                output = self._model.base_model(input_ids=self._ids(block), use_cache=False)
            yield output.last_hidden_state[0]

    @torch.no_grad()
    def _enter(self, block: Tensor) -> Tensor:
        """Return what the first decoder layer is given, and keep with what each is called."""
        calls: list[_Call] = []
        entering: list[Tensor] = []

        def note(number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
            call, states = _Call.of(args, kwargs)
            calls.append(call)
            if number == 0:
                entering.append(states)
            return states

        with _replaced(self._layers, note):
            self._model.base_model(input_ids=self._ids(block), use_cache=False)
        self._calls = calls  # the same for all blocks of one length
        return entering[0]

    def _ids(self, block: Tensor) -> Tensor:
        return block.unsqueeze(0).to(self._model.device)


class _Call:
    """With what a decoder layer is called beside hidden states."""

    def __init__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._args = args
        self._kwargs = kwargs

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "tuple[_Call, Tensor]":
        """Return the call that these arguments make, and the hidden states among them."""
        if args:
            return cls(args[1:], kwargs), args[0]
        rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        return cls((), rest), kwargs["hidden_states"]

    def on(self, layer: nn.Module, states: Tensor) -> Tensor:
        """Return what `layer` makes of hidden states."""
        output: Tensor | tuple[Tensor, ...] = layer(states, *self._args, **self._kwargs)
        return output[0] if isinstance(output, tuple) else output


def _hand_on(states: Tensor, *_: object) -> Tensor:
    return states


Stub = Callable[[int, tuple[Any, ...], dict[str, Any]], Tensor]


@contextmanager
def _replaced(layers: Sequence[nn.Module], stub: Stub) -> Iterator[None]:
    """Let `stub(number, args, kwargs)` answer instead of each decoder layer, for the block."""

    def answer(number: int) -> Callable[..., Tensor]:
        return lambda *args, **kwargs: stub(number, args, kwargs)

    with ExitStack() as stack:
        for number, layer in enumerate(layers):
            layer.forward = answer(number)
            stack.callback(delattr, layer, "forward")
        yield
