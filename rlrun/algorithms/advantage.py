"""What advantage actor-critics share: targets, losses, and what they tell of themselves."""

from typing import NamedTuple

import torch
from torch import Tensor

from rlrun.algorithms import segments
from rlrun.data.rollout import Rollout
from rlrun.functional.returns import gae
from rlrun.policies.actor_critic import ActorCritic


class Terms(NamedTuple):
    """One forward pass over a segment, and the losses that come of it; `N = T * B` samples."""

    statistics: Tensor
    """`[N, P]`."""
    values: Tensor
    """`[N]`."""
    returns: Tensor
    """`[N]`, targets of the values."""
    advantages: Tensor
    """`[N]`, as they weigh the policy's loss."""
    policy_loss: Tensor
    """`mean[-advantage log pi(a|s)]`."""
    value_loss: Tensor
    """`mean[(V - R)^2]`, without a half, as published."""
    entropy: Tensor
    """Mean over the states."""


def learn_terms(
    network: ActorCritic, batch: Rollout, gamma: float, gae_lambda: float | None, normalize: bool
) -> Terms:
    """Advantages, returns and losses of a fresh segment (ACKTR, section 2.2; A3C, section 4).

    Args:
        network: as it was when it collected the segment.
        batch: the segment, on the device of the network.
        gamma: discount.
        gae_lambda: of the advantages; None for n-step returns, as 1 gives them.
        normalize: give the advantages mean 0 and standard deviation 1.
    """
    n = batch.rewards.numel()
    with network.recalling(batch.observations):
        statistics, values = network(*segments.observed(batch))
    known = values.detach()
    step_values, final_values = segments.by_step(batch, known)
    advantages = gae(
        batch.rewards,
        step_values,
        batch.terminated,
        batch.truncated,
        final_values,
        gamma,
        1.0 if gae_lambda is None else gae_lambda,
    ).flatten()
    returns = advantages + known[:n]
    if normalize:
        deviation = advantages.std(correction=0)
        advantages = (advantages - advantages.mean()) / (deviation + 1e-8)
    statistics, values = statistics[:n], values[:n]
    log_probs = network.distribution.log_prob(statistics, batch.actions.flatten(0, 1))
    return Terms(
        statistics,
        values,
        returns,
        advantages,
        policy_loss=-(advantages * log_probs).mean(),
        value_loss=(values - returns).square().mean(),
        entropy=network.distribution.entropy(statistics).mean(),
    )


@torch.no_grad()
def health(network: ActorCritic, terms: Terms, loss: Tensor) -> dict[str, float]:
    """Metrics of one update.

    Args:
        network: for the deviation of its Gaussian, if it has one.
        terms: of the update.
        loss: what was minimised.
    """
    errors = terms.returns - terms.values
    metrics = {
        "loss/total": loss,
        "loss/policy": terms.policy_loss,
        "loss/value": terms.value_loss,
        "loss/explained_variance": 1.0 - errors.var(correction=0) / terms.returns.var(correction=0),
        "policy/entropy": terms.entropy,
        "policy/value": terms.values.mean(),
        "policy/advantage": errors.mean(),
    }
    if network.log_std is not None:
        metrics["policy/std"] = network.log_std.exp().mean()
    return dict(zip(metrics, torch.stack(list(metrics.values())).tolist(), strict=True))
