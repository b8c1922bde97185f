"""Reading what goes into layers and what flows back to their outputs, by hooks that come off."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


@dataclass
class Call:
    """One use of a layer."""

    inputs: Tensor
    """`[B, ...]`."""
    scores: Tensor | None = None
    """`[B, ...]`, derivatives with respect to the output; None until the backward pass."""

    def add(self, scores: Tensor) -> None:
        """Take the scores of a backward pass; those of several passes add up."""
        self.scores = scores if self.scores is None else self.scores + scores


class Use(NamedTuple):
    """All the calls of a layer whose tensors are of one shape, as if they were one."""

    inputs: Tensor
    """`[B, ...]`, `B` the samples of all calls."""
    scores: Tensor
    """`[B, ...]`."""


def joined(calls: Sequence[Call], rows: int | None = None) -> list[Use]:
    """The first `rows` samples of the calls, or all, as few uses; those calls must have scores.

    A layer that a recurrent net calls at each of its steps takes one product for all of them,
    and not one for each. A call that is the only one of its shape is not copied.
    """
    alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
    for call in calls:
        inputs = call.inputs[:rows]
        if not len(inputs):
            break
        assert call.scores is not None
        alike.setdefault(inputs.shape[1:], []).append((inputs, call.scores[:rows]))
        rows = None if rows is None else rows - len(inputs)
    return [
        Use(*group[0]) if len(group) == 1 else Use(*map(torch.cat, zip(*group, strict=True)))
        for group in alike.values()
    ]


class _Tap(torch.autograd.Function):
    """The identity, in place, whose backward pass hands over what flows through it.

    `token` requires a gradient, so that the output does, even if nothing before it does.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, token: Tensor, take: Callable[[Tensor], None]) -> Tensor:
        ctx.take = take
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: Any, scores: Tensor) -> tuple[Tensor, None, None]:
        ctx.take(scores)
        return scores, None, None


class Recording:
    """The uses of some layers, by layer, and the way for scores to reach them."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        self.calls: dict[nn.Module, list[Call]] = {layer: [] for layer in layers}
        self.token = torch.zeros((), requires_grad=True)
        self.on = True

    def backward(self, outputs: Sequence[Tensor], scores: Sequence[Tensor]) -> None:
        """Take scores at outputs of the model back to the layers, and no further.

        No gradient of a weight is computed, and the graph is kept.
        """
        torch.autograd.grad(outputs, self.token, scores, retain_graph=True, allow_unused=True)


@contextmanager
def recording(
    model: nn.Module, layers: Iterable[nn.Module], freeze: bool = True
) -> Iterator[Recording]:
    """Record every use of the layers in passes of `model` made inside.

    Passes under `torch.no_grad` are not recorded.

    Args:
        model: that has the layers.
        layers: to look at.
        freeze: let no parameter of `model` require a gradient inside, so that any backward pass
            stops at the outputs of the layers and leaves every `.grad` as it is.
    """
    record = Recording(layers)

    def hook(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return output
        record.calls[layer].append(call := Call(args[0].detach()))

        def take(scores: Tensor) -> None:
            if record.on:  # what flows back later is of a loss
                call.add(scores)

        tapped: Tensor = _Tap.apply(output, record.token, take)  # type: ignore[no-untyped-call]
        return tapped

    frozen = [p for p in model.parameters() if p.requires_grad] if freeze else []
    hooks = [layer.register_forward_hook(hook) for layer in record.calls]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield record
    finally:
        record.on = False
        for handle in hooks:
            handle.remove()
        for parameter in frozen:
            parameter.requires_grad_(True)
