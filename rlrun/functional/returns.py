"""Targets for the critic, computed backwards over a segment of experience.

Time comes first: `[T, B]` are `T` steps in `B` environments. Values have one row more,
`[T + 1, B]`, the last being that of the observation after the segment.
"""

import torch
from torch import Tensor


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
    ended = terminated | truncated
    bootstrap = torch.where(truncated & ~terminated, final_values, 0.0)
    trace = rho.clamp(max=1.0)
    # Both lines of the recursion are affine in what comes from the next step. With their
    # constant parts taken out of the loop, a step costs two kernels.
    reward = (rewards + gamma * bootstrap).unbind()
    discount = (gamma * (~ended).to(rewards.dtype)).unbind()
    value = (values[:-1] - trace * q).unbind()
    traces = trace.unbind()

    q_ret = [values[-1]] * len(reward)
    carry = values[-1]
    for t in reversed(range(len(reward))):
        q_ret[t] = torch.addcmul(reward[t], discount[t], carry)
        carry = torch.addcmul(value[t], traces[t], q_ret[t])
    return torch.stack(q_ret)


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
    deltas = (rewards + gamma * following - values[:-1]).unbind()
    decays = (gamma * lambda_ * (~(terminated | truncated)).to(rewards.dtype)).unbind()
    advantages = list(deltas)
    for t in reversed(range(len(advantages) - 1)):
        advantages[t] = torch.addcmul(deltas[t], decays[t], advantages[t + 1])
    return torch.stack(advantages)
