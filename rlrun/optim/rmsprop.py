"""RMSprop by the rule of TensorFlow 1, with which the published results were obtained."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class RMSprop:
    """`ms <- alpha ms + (1 - alpha) g^2;  theta <- theta - lr g / sqrt(ms + epsilon)`.

    Two things set it apart from `torch.optim.RMSprop`: the mean square starts at 1, not at 0,
    and epsilon stands inside the root. While gradients are small, PyTorch's first steps are
    longer by orders of magnitude.

    Owns the mean squares. The learning rate is given at each step, for it is a pure function of
    the training's progress.
    """

    def __init__(self, parameters: Iterable[Tensor], alpha: float, epsilon: float) -> None:
        self.parameters = list(parameters)
        self.alpha = alpha
        self.epsilon = epsilon
        self.mean_squares = [torch.ones_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Move the parameters against their `.grad`, which every one of them must have."""
        gradients: list[Tensor] = [p.grad for p in self.parameters]  # type: ignore[misc]
        torch._foreach_mul_(self.mean_squares, self.alpha)
        torch._foreach_addcmul_(self.mean_squares, gradients, gradients, 1.0 - self.alpha)
        roots = torch._foreach_add(self.mean_squares, self.epsilon)
        torch._foreach_sqrt_(roots)
        torch._foreach_addcdiv_(self.parameters, gradients, roots, -learning_rate)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for p in self.parameters:
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The mean squares, in the order of the parameters."""
        return {str(i): ms for i, ms in enumerate(self.mean_squares)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        for i, ms in enumerate(self.mean_squares):
            ms.copy_(state[str(i)])
