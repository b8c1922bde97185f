"""Trust regions: ACER's constraint on the policy's statistics, ACKTR's bound on the whole step."""

import torch
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


def kl_step_scale(step_dot_gradient: Tensor, learning_rate: float, kl_clip: float) -> Tensor:
    """How much of a natural-gradient step stays inside the trust region (ACKTR, section 3.2).

        nu = min(1, sqrt(kl_clip / (lr^2 u . g)))

    `lr^2 u . g` is twice the KL, to second order, of the step `lr u` with `u = F^-1 g`; so the
    paper's `delta` is `kl_clip / 2`. Where it is not positive there is nothing to bound: 1.

    Args:
        step_dot_gradient: `u . g`, a scalar.
        learning_rate: `lr`, the longest step (the paper's `eta_max`).
        kl_clip: > 0; infinity for no bound.

    Returns:
        A scalar in (0, 1].
    """
    doubled_kl = learning_rate**2 * step_dot_gradient
    scale = (kl_clip / doubled_kl).sqrt().clamp(max=1.0)
    return torch.where(doubled_kl > 0, scale, torch.ones_like(scale))
