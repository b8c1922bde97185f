"""The policy gradient of ACER with respect to the statistics of the policy."""

import torch
from torch import Tensor

from rlrun.functional.distributions.probabilities import EPSILON
from rlrun.functional.importance import correction_share, correction_weight


def acer_gradient(
    probs: Tensor,
    rho: Tensor,
    actions: Tensor,
    q_ret: Tensor,
    q: Tensor,
    values: Tensor,
    c: float,
) -> Tensor:
    """Ascent direction per state in the space of the probabilities `f` (ACER, eq. 9 and 10).

        g = min(c, rho(a_t)) * (Q_ret - V)          * d log f(a_t) / df
          + sum_a [1 - c / rho(a)]_+ f(a) (Q(a) - V) * d log f(a)   / df

    Every factor in front of a derivative is a constant; `d log f(a) / df` is `1 / f(a)` in
    coordinate `a` and zero elsewhere.

    Args:
        probs: `[..., A]`, current policy `f`.
        rho: `[..., A]`, ratios of `f` to the behaviour policy.
        actions: `[...]` int64, the actions taken.
        q_ret: `[...]`, Retrace targets.
        q: `[..., A]`, action values.
        values: `[...]`, `V = sum_a f(a) Q(a)`.
        c: level of the truncation of `rho`, > 0.

    Returns:
        `[..., A]`.
    """
    taken = actions.unsqueeze(-1)
    gradient = correction_weight(probs, rho, c) * (q - values.unsqueeze(-1))
    truncated = rho.gather(-1, taken).clamp(max=c) * (q_ret - values).unsqueeze(-1)
    gradient = gradient.scatter_add(-1, taken, truncated)
    return gradient / (probs + EPSILON)


def acer_losses(
    probs: Tensor,
    rho: Tensor,
    actions: Tensor,
    q_ret: Tensor,
    q: Tensor,
    values: Tensor,
    c: float,
) -> tuple[Tensor, Tensor]:
    """The two losses whose negative gradient `acer_gradient` is, per state, for the log.

    Arguments as in `acer_gradient`.

    Returns:
        The loss of the truncated term and that of the bias correction, `[...]` each.
    """
    taken = actions.unsqueeze(-1)
    log_probs = (probs + EPSILON).log()
    truncated = rho.gather(-1, taken).squeeze(-1).clamp(max=c) * (q_ret - values)
    correction = correction_weight(probs, rho, c) * (q - values.unsqueeze(-1))
    return (
        -truncated * log_probs.gather(-1, taken).squeeze(-1),
        -torch.sum(correction * log_probs, -1),
    )


def acer_sampled_gradient(
    score: Tensor,
    rho: Tensor,
    advantages: Tensor,
    drawn_scores: Tensor,
    drawn_rho: Tensor,
    drawn_advantages: Tensor,
    c: float,
) -> Tensor:
    """Ascent direction per state where the actions cannot all be visited (ACER, eq. 15 and 16).

        g = min(c, rho(a_t)) * (Q_opc - V)                 * d log pi(a_t) / d phi
          + mean_i [1 - c / rho(u_i)]_+ (Q(u_i) - V) * d log pi(u_i) / d phi,   u_i from pi

    Args:
        score: `[..., P]`, `d log pi(a_t) / d phi` by the statistics `phi` of the policy.
        rho: `[...]`, ratio of the action taken.
        advantages: `[...]`, `Q_opc - V`.
        drawn_scores: `[M, ..., P]`, of `M` draws from the policy.
        drawn_rho: `[M, ...]`, their ratios.
        drawn_advantages: `[M, ...]`, `Q(u_i) - V`.
        c: level of the truncation of `rho`, > 0.

    Returns:
        `[..., P]`.
    """
    truncated = (rho.clamp(max=c) * advantages).unsqueeze(-1) * score
    weights = correction_share(drawn_rho, c) * drawn_advantages
    return truncated + (weights.unsqueeze(-1) * drawn_scores).mean(0)


def acer_sampled_losses(
    log_prob: Tensor,
    rho: Tensor,
    advantages: Tensor,
    drawn_log_probs: Tensor,
    drawn_rho: Tensor,
    drawn_advantages: Tensor,
    c: float,
) -> tuple[Tensor, Tensor]:
    """The two losses whose negative gradient `acer_sampled_gradient` is, for the log.

    Arguments as there, with logarithms of probabilities in place of the scores.

    Returns:
        The loss of the truncated term and that of the bias correction, `[...]` each.
    """
    weights = correction_share(drawn_rho, c) * drawn_advantages
    return -rho.clamp(max=c) * advantages * log_prob, -(weights * drawn_log_probs).mean(0)
