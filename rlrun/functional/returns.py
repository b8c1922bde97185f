"""Targets for the critic, computed backwards over a segment of experience.

Time comes first: `[T, B]` are `T` steps in `B` environments. Values have one row more,
`[T + 1, B]`, the last being that of the observation after the segment.
"""

import numpy as np
import torch
from torch import Tensor


@torch.no_grad()
def retrace(
    rewards: Tensor,
    q: Tensor,
    values: Tensor,
    rho: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    final_values: Tensor,
    gamma: float,
) -> Tensor:
    """Retrace targets `Q_ret` (ACER, eq. 5) with trace coefficients `min(1, rho)`.

        Q_ret[t] = r[t] + gamma * next[t]
        next[t]  = 0                      if the episode terminated at t
                   V(final observation)   if it was truncated at t
                   carry[t + 1]           otherwise;  carry[T] = V[T]
        carry[t] = min(1, rho[t]) * (Q_ret[t] - Q[t]) + V[t]

    The level of the truncation is 1 whatever the correction term `c` of the policy gradient.
    With `rho` the `d`-th root of the ratios of `d`-dimensional actions these are the targets of
    ACER, section 3.4, and with `rho = 1` its off-policy corrected returns `Q_opc`.
    No gradient flows: all inputs are taken as constants.

    Args:
        rewards: `[T, B]`.
        q: `[T, B]`, `Q(s_t, a_t)` of the actions taken.
        values: `[T + 1, B]`, `V(s_t)`.
        rho: `[T, B]`, importance ratios of the actions taken, >= 0.
        terminated: `[T, B]` bool; the step ended the episode for good. Wins over `truncated`.
        truncated: `[T, B]` bool; the step ended the episode by a limit of time.
        final_values: `[T, B]`, `V` of the last observation of the truncated episodes; the
            other entries are not read.
        gamma: discount, in [0, 1].

    Returns:
        `[T, B]`.
    """
    bootstrap = torch.where(truncated & ~terminated, final_values, 0.0)
    trace = rho.clamp(max=1.0)
    reward = rewards + gamma * bootstrap
    discount = gamma * (~(terminated | truncated)).to(rewards.dtype)
    # With the first line put into the second, the carries alone depend on each other.
    carries = _following(values[:-1] + trace * (reward - q), trace * discount, values[-1])
    return torch.addcmul(reward, discount, carries)


def v_target(values: Tensor, q_ret: Tensor, q: Tensor, rho: Tensor) -> Tensor:
    """Target of a state value learnt off-policy (ACER, eq. 14).

        V_target = min(1, rho) * (Q_ret - Q) + V

    The part of `V = E_mu[min(1, rho) Q] + E_pi[(1 - 1 / rho)_+ Q]` that was not visited is filled
    in by the critic itself.

    Args:
        values: `[...]`, `V(s_t)`.
        q_ret: `[...]`, Retrace targets.
        q: `[...]`, `Q(s_t, a_t)`.
        rho: `[...]`, importance ratios of the actions taken.

    Returns:
        `[...]`.
    """
    return rho.clamp(max=1.0) * (q_ret - q) + values


@torch.no_grad()
def gae(
    rewards: Tensor,
    values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    final_values: Tensor,
    gamma: float,
    lambda_: float,
) -> Tensor:
    """Generalised advantage estimates (arXiv 1506.02438, eq. 16).

        delta[t] = r[t] + gamma * next[t] - V[t]
        next[t]  = 0 if terminated at t; V(final observation) if truncated; V[t + 1] otherwise
        A[t]     = delta[t] + gamma * lambda * A[t + 1], without the second term if t ended it

    With `lambda_ = 1`, `A + V` are the n-step returns bootstrapped at the end of the segment; with
    0 they are one-step targets. No gradient flows: all inputs are taken as constants.

    Args:
        rewards: `[T, B]`.
        values: `[T + 1, B]`.
        terminated: `[T, B]` bool; the step ended the episode for good. Wins over `truncated`.
        truncated: `[T, B]` bool; the step ended the episode by a limit of time.
        final_values: `[T, B]`, `V` of the last observation of the truncated episodes; the
            other entries are not read.
        gamma: discount, in [0, 1].
        lambda_: trade of bias (0) for variance (1).

    Returns:
        `[T, B]`.
    """
    following = torch.where(truncated, final_values, values[1:]).masked_fill(terminated, 0.0)
    deltas = rewards + gamma * following - values[:-1]
    decays = gamma * lambda_ * (~(terminated | truncated)).to(rewards.dtype)
    advantages = _following(deltas, decays, torch.zeros_like(deltas[0]))
    return torch.addcmul(deltas, decays, advantages)


def _following(constants: Tensor, factors: Tensor, last: Tensor) -> Tensor:
    """`x[t + 1]` for all `t`, where `x[t] = constants[t] + factors[t] * x[t + 1]`.

    Args:
        constants: `[T, B]`.
        factors: `[T, B]`.
        last: `x[T]`, `[B]`.

    Returns:
        `[T, B]`.
    """
    solve = _following_by_numpy if constants.is_cpu else _following_by_torch
    return solve(constants, factors, last)


def _following_by_numpy(constants: Tensor, factors: Tensor, last: Tensor) -> Tensor:
    """On the CPU, where rows as short as these take PyTorch twice the time."""
    following = torch.empty_like(constants)
    following[-1] = last
    rows = following.numpy()[::-1]
    steps = zip(constants.numpy()[::-1], factors.numpy()[::-1], rows, rows[1:], strict=False)
    for constant, factor, after, now in steps:  # there is no row before the first
        np.multiply(factor, after, out=now)
        now += constant
    return following


def _following_by_torch(constants: Tensor, factors: Tensor, last: Tensor) -> Tensor:
    """Anywhere; on a GPU it waits for nothing."""
    a, b = constants.unbind(), factors.unbind()
    rows = [last] * len(a)
    for t in range(len(rows) - 1, 0, -1):
        rows[t - 1] = torch.addcmul(a[t], b[t], rows[t])
    return torch.stack(rows)
