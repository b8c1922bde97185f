"""RMSprop by the rule of TensorFlow 1, with which the published results were obtained."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from rlrun.optim.errors import FiniteCheck
from rlrun.optim.flat import flat, parts

EPSILON = 1e-6  # beside the norm that a bound is divided by, as in PyTorch


class RMSprop:
    """`ms <- alpha ms + (1 - alpha) g^2;  theta <- theta - lr g / sqrt(ms + epsilon)`.

    Two things set it apart from `torch.optim.RMSprop`: the mean square starts at 1, not at 0,
    and epsilon stands inside the root. While gradients are small, PyTorch's first steps are
    longer by orders of magnitude.

    Owns the mean squares, one vector for all parameters: small networks have many small ones, and
    what is done to each of them alone costs a call each. The learning rate is given at each step,
    for it is a pure function of the training's progress.
    """

    def __init__(self, parameters: Iterable[Tensor], alpha: float, epsilon: float) -> None:
        self.parameters = list(parameters)
        self.alpha = alpha
        self.epsilon = epsilon
        self.squares = torch.ones_like(flat(self.parameters), requires_grad=False)
        self.require_finite = FiniteCheck(self.squares.device)

    @torch.no_grad()
    def step(self, learning_rate: float, max_grad_norm: float = math.inf) -> Tensor:
        """Move the parameters against their `.grad`, which every one of them must have.

        Args:
            learning_rate: of this step.
            max_grad_norm: bound on the joint norm of the gradients; longer ones are scaled down.

        Returns:
            The norm of the gradients as they were, a scalar.

        Raises:
            NonFiniteUpdate: it is not finite; nothing is changed. On a GPU it is told later, see
                `FiniteCheck`.
        """
        gradient = flat(p.grad for p in self.parameters)
        norm: Tensor = torch.linalg.vector_norm(gradient)
        self.require_finite({"gradient": norm})
        if max_grad_norm < math.inf:
            gradient.mul_((max_grad_norm / (norm + EPSILON)).clamp_(max=1.0))
        self.squares.mul_(self.alpha).addcmul_(gradient, gradient, value=1.0 - self.alpha)
        gradient.div_((self.squares + self.epsilon).sqrt_())
        steps = parts(gradient, self.parameters)
        torch._foreach_add_(self.parameters, steps, alpha=-learning_rate)
        return norm

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for p in self.parameters:
            p.grad = None

    @property
    def mean_squares(self) -> tuple[Tensor, ...]:
        """By parameter, as parts of the one vector."""
        return parts(self.squares, self.parameters)

    def state_dict(self) -> dict[str, Any]:
        """The mean squares, in the order of the parameters."""
        return {str(i): ms for i, ms in enumerate(self.mean_squares)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        for i, ms in enumerate(self.mean_squares):
            ms.copy_(state[str(i)])
