"""What ACER tells of itself: its losses and the health of its trust region and its replay."""

import math

import torch
from torch import Tensor

from rlrun.algorithms.acer_estimates import Estimates


@torch.no_grad()
def health(
    estimates: Estimates,
    entropy: Tensor,
    kl: Tensor,
    adjustment: Tensor,
    g: Tensor,
    k: Tensor,
    z: Tensor,
    c: float,
    q_coef: float,
    ent_coef: float,
) -> dict[str, float]:
    """Metrics of one batch, means over its `N` states.

    Args:
        estimates: of the batch.
        entropy: `[N]`, of the policy.
        kl: `[N]`, from the average policy to the policy.
        adjustment: `[N]`, how far the projection moved the gradient, in units of `k`.
        g: `[N, P]`, gradient before the projection.
        k: `[N, P]`, gradient of the KL.
        z: `[N, P]`, gradient after the projection.
        c: level of the truncation of the importance ratios.
        q_coef: weight of the critic's loss.
        ent_coef: weight of the entropy bonus.
    """
    q_error = estimates.q_ret - estimates.q
    truncated, correction = estimates.losses
    by_state = {
        "loss/truncated": truncated,
        "loss/bias_correction": correction,
        "loss/q": 0.5 * q_error.square(),
        "policy/entropy": entropy,
        "policy/value": estimates.values,
        "policy/advantage": estimates.advantages,
        "importance/mean": estimates.rho,
        "importance/truncated_share": (estimates.rho > c).float(),
        "trust_region/kl": kl,
        "trust_region/active_share": (adjustment > 0).float(),
        "trust_region/adjustment": adjustment,
        "trust_region/k_dot_g": (k * g).sum(-1).abs(),
        "trust_region/norm_k": k.norm(dim=-1),
        "trust_region/norm_g": g.norm(dim=-1),
        "trust_region/norm_z": z.norm(dim=-1),
    }
    critic_loss = [0.5 * e.square().sum() / len(q_error) for e in estimates.errors]
    spreads = [x.var(correction=0) for x in (q_error, estimates.q_ret)]
    means = torch.stack(list(by_state.values())).mean(1)
    # One look at the device.
    numbers = torch.cat([means, torch.stack(critic_loss + spreads)]).tolist()
    metrics = dict(zip(by_state, numbers, strict=False))
    *critic, unexplained, all_spread = numbers[len(by_state) :]
    policy_loss = metrics["loss/truncated"] + metrics["loss/bias_correction"]
    return metrics | {
        "loss/total": policy_loss + q_coef * sum(critic) - ent_coef * metrics["policy/entropy"],
        "loss/policy": policy_loss,
        "loss/explained_variance": 1.0 - unexplained / all_spread if all_spread else math.nan,
    }


def replay_health(replayed: list[dict[str, float]]) -> dict[str, float]:
    """Means over the replayed batches of what is trivial on fresh ones."""
    if not replayed:
        return {}
    sources = {
        "replay/age": "replay/age",
        "replay/importance_mean": "importance/mean",
        "replay/truncated_share": "importance/truncated_share",
        "replay/active_share": "trust_region/active_share",
        "replay/kl": "trust_region/kl",
        "replay/q_loss": "loss/q",
    }
    return {
        name: sum(metrics[source] for metrics in replayed) / len(replayed)
        for name, source in sources.items()
    }
