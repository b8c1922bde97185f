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


def joined(calls: Sequence[Call]) -> list[Use]:
    """Calls as few uses; every call must have its scores.

    A layer that a recurrent net calls at each of its steps takes one product for all of them,
    and not one for each. A call that is the only one of its shape is not copied.
    """
    alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
    for call in calls:
        assert call.scores is not None
        alike.setdefault(call.inputs.shape[1:], []).append((call.inputs, call.scores))
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


@contextmanager
def recording(
    model: nn.Module, layers: Iterable[nn.Module]
) -> Iterator[dict[nn.Module, list[Call]]]:
    """Record every use of the layers in passes of `model` made inside.

    Inside, the parameters of `model` require no gradient: a backward pass stops at the outputs
    of the layers, costs no gradients of weights, and leaves every `.grad` as it is. Passes
    under `torch.no_grad` are not recorded.
    """
    calls: dict[nn.Module, list[Call]] = {layer: [] for layer in layers}
    token = torch.zeros((), requires_grad=True)

    def hook(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return output
        calls[layer].append(call := Call(args[0].detach()))
        tapped: Tensor = _Tap.apply(output, token, call.add)  # type: ignore[no-untyped-call]
        return tapped

    trainable = [p for p in model.parameters() if p.requires_grad]
    hooks = [layer.register_forward_hook(hook) for layer in calls]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield calls
    finally:
        for handle in hooks:
            handle.remove()
        for parameter in trainable:
            parameter.requires_grad_(True)
