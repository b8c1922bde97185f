"""Stochastic dueling networks: action values where not all actions can be visited (ACER, 3.4)."""

from torch import Tensor


def dueling_q(values: Tensor, advantages: Tensor, drawn: Tensor) -> Tensor:
    """`Q(s, a) = V(s) + A(s, a) - mean_i A(s, u_i)` with `u_i` drawn from the policy (eq. 13).

    Whatever `A` is, the mean of `Q` over the policy is `V`. The draws must be others than `a`.

    Args:
        values: `[...]`, `V(s)`.
        advantages: `[...]`, `A(s, a)` of the actions taken.
        drawn: `[M, ...]`, `A(s, u_i)` of `M` draws.

    Returns:
        `[...]`.
    """
    return values + advantages - drawn.mean(0)


def dueling_q_of_draws(values: Tensor, drawn: Tensor) -> Tensor:
    """The same for the draws themselves, each against the mean of the others.

    With itself in the mean, a draw's own advantage would shrink by `1 - 1 / M`.

    Args:
        values: `[...]`, `V(s)`.
        drawn: `[M, ...]`, `A(s, u_i)`, `M >= 2`.

    Returns:
        `[M, ...]`.
    """
    others = (drawn.sum(0) - drawn) / (len(drawn) - 1)
    return values + drawn - others
