"""The trust region of ACER: a linear constraint on the step of the policy's statistics."""

from torch import Tensor

EPSILON = 1e-6  # keeps the projection finite where the gradient of the KL vanishes


def projection_size(g: Tensor, k: Tensor, delta: float) -> Tensor:
    """How far `g` oversteps `k . z <= delta`, in units of `k` (ACER, eq. 12).

        max(0, (k . g - delta) / |k|^2)

    Args:
        g: `[..., A]`, gradient of the objective with respect to the statistics.
        k: `[..., A]`, gradient of KL(average policy || policy) with respect to the same.
        delta: bound on the linearised growth of the KL per unit step, >= 0.

    Returns:
        `[...]`, >= 0.
    """
    return (((k * g).sum(-1) - delta) / ((k * k).sum(-1) + EPSILON)).clamp(min=0.0)


def project_gradient(g: Tensor, k: Tensor, delta: float) -> Tensor:
    """The point nearest to `g` with `k . z <= delta` (ACER, eq. 11 and 12).

    Arguments as in `projection_size`. One constraint per state: the inner products run over
    the last axis only.

    Returns:
        `[..., A]`.
    """
    return g - projection_size(g, k, delta).unsqueeze(-1) * k
