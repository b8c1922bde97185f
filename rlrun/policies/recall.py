"""What a network gave while it acted, kept for learning from the same observations.

An update reads the observations of a segment with the very weights that acted in them. Its
convolutions, a third of its work, are taken from notes then; only the rows that nobody acted in
are computed.

A note is what the layers make of one step's rows, whenever that is: where one is missing or is of
other weights it is made anew, from the same rows, so that nothing that is learnt depends on who
looked on in between. Weights are other ones once they were written to, as autograd counts it: not
by way of `.data`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Layer = nn.Conv2d | nn.Linear
Forward = Callable[[Tensor], Tensor]


class Recall:
    """Notes of the layers of an encoder, one per step of a segment.

    Owns the notes; the layers are changed only inside of its contexts, which are for one thread.

    Args:
        encoder: whose Conv2d and Linear layers are noted. Each must be called once in a pass, with
            one row per observation, and nothing may write into what it gives.
        features: what the encoder's inputs come from; it may keep running moments.
    """

    def __init__(self, encoder: nn.Module, features: nn.Module) -> None:
        self._layers: list[Layer] = [m for m in encoder.modules() if isinstance(m, Layer)]
        self._read = [*encoder.parameters(), *features.buffers()]
        self._of: torch.UntypedStorage | None = None  # of the observations; kept, so that its
        self._weights: list[tuple[int, int]] = []  # address is nobody else's
        self._notes: dict[int, dict[Layer, Tensor]] = {}  # by step

    @contextmanager
    def noting(self, observations: Tensor) -> Iterator[None]:
        """Note the pass inside, over `[B, ...]` observations: a step of a tensor `[T + 1, B, ...]`.

        Notes of other weights, or of another tensor, are forgotten.
        """
        self._forget_unless_of(observations)
        notes: dict[Layer, Tensor] = {}

        def noted(layer: Layer, forward: Forward, inputs: Tensor) -> Tensor:
            output = notes[layer] = forward(inputs)
            return output

        with _replaced(self._layers, noted):
            yield
        self._notes[observations.storage_offset() // max(1, observations.numel())] = notes

    @contextmanager
    def recalling(self, observations: Tensor, again: Callable[[Tensor], object]) -> Iterator[None]:
        """Take what is noted in the pass inside, once.

        Args:
            observations: `[T + 1, B, ...]`, the tensor whose first `T` steps were acted in. The
                pass must be over the rows of all of them, and may be over more.
            again: makes the pass over the observations `[B, ...]` of a step without a note.
        """
        steps, n = len(observations) - 1, observations.shape[1]
        self._forget_unless_of(observations)
        for t in range(steps):
            if t not in self._notes:
                with torch.no_grad(), self.noting(observations[t]):
                    again(observations[t])

        def recalled(layer: Layer, forward: Forward, inputs: Tensor) -> Tensor:
            with torch.no_grad():
                fresh = forward(inputs[steps * n :])
                output = torch.cat([*(self._notes[t][layer] for t in range(steps)), fresh])
            # Views: of a leaf the engine does not tell whether its gradient is wanted.
            assert layer.bias is not None
            views = (leaf.view_as(leaf) for leaf in (inputs, layer.weight, layer.bias))
            known: Tensor = _Known.apply(output, *views, layer)  # type: ignore[no-untyped-call]
            return known

        with _replaced(self._layers, recalled):
            yield
        self._notes.clear()

    def _forget_unless_of(self, observations: Tensor) -> None:
        """Forget all notes if they are of another tensor, or of other weights."""
        storage = observations.untyped_storage()
        weights = [(tensor.data_ptr(), tensor._version) for tensor in self._read]
        if self._of is None or self._of.data_ptr() != storage.data_ptr():
            self._of = storage
            self._notes.clear()
        if self._weights != weights:
            self._weights = weights
            self._notes.clear()


@contextmanager
def _replaced(
    layers: list[Layer], forward: Callable[[Layer, Forward, Tensor], Tensor]
) -> Iterator[None]:
    """Inside, let each of the layers compute by this, which is given its own way too."""
    for layer in layers:
        layer.forward = partial(forward, layer, layer.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


class _Known(torch.autograd.Function):
    """The output of a layer that is known already, with the backward pass of the layer."""

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, inputs: Tensor, weight: Tensor, bias: Tensor, layer: Layer
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.layer = layer
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        layer = ctx.layer
        # `needs_input_grad` tells what could be needed; a pass for scores takes no weight's.
        needed = [
            node is not None and torch._C._will_engine_execute_node(node)
            for node, _ in ctx.next_functions[1:4]
        ]
        if isinstance(layer, nn.Conv2d):
            shape = layer.stride, layer.padding, layer.dilation, False, [0, 0], layer.groups
            gradients = torch.ops.aten.convolution_backward(
                gradient, inputs, weight, [len(weight)], *shape, needed
            )
        else:
            gradients = (
                gradient @ weight if needed[0] else None,
                gradient.T @ inputs if needed[1] else None,
                gradient.sum(0) if needed[2] else None,
            )
        return None, *gradients, None
