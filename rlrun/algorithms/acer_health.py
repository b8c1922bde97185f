"""What ACER tells of itself: its losses and the health of its trust region and its replay."""

import torch
from torch import Tensor, nn

from rlrun.algorithms.acer_estimates import Estimates
from rlrun.functional.distributions import Distribution


@torch.no_grad()
def health(
    estimates: Estimates,
    distribution: Distribution,
    f: Tensor,
    average: Tensor,
    adjustment: Tensor,
    g: Tensor,
    k: Tensor,
    z: Tensor,
    c: float,
    q_coef: float,
    ent_coef: float,
) -> dict[str, Tensor]:
    """Metrics of one batch, means over its `N` states; scalars.

    Args:
        estimates: of the batch.
        distribution: of the actions.
        f: `[N, P]`, statistics of the policy.
        average: `[N, P]`, those of the average policy.
        adjustment: `[N]`, how far the projection moved the gradient, in units of `k`.
        g: `[N, P]`, gradient before the projection.
        k: `[N, P]`, gradient of the KL.
        z: `[N, P]`, gradient after the projection.
        c: level of the truncation of the importance ratios.
        q_coef: weight of the critic's loss.
        ent_coef: weight of the entropy bonus.
    """
    entropy, kl = distribution.entropy(f), distribution.kl(average, f)
    q_error = estimates.q_ret - estimates.q
    truncated_loss, correction_loss = (loss.mean() for loss in estimates.losses())
    policy_loss = truncated_loss + correction_loss
    q_loss = 0.5 * q_error.square().mean()
    critic_loss = torch.stack([0.5 * e.square().sum() / len(q_error) for e in estimates.errors])
    unexplained = q_error.var(correction=0) / estimates.q_ret.var(correction=0)
    return {
        "loss/total": policy_loss + q_coef * critic_loss.sum() - ent_coef * entropy.mean(),
        "loss/policy": policy_loss,
        "loss/truncated": truncated_loss,
        "loss/bias_correction": correction_loss,
        "loss/q": q_loss,
        "loss/explained_variance": 1.0 - unexplained,
        "policy/entropy": entropy.mean(),
        "policy/value": estimates.values.mean(),
        "policy/advantage": estimates.advantages.mean(),
        "importance/mean": estimates.rho.mean(),
        "importance/truncated_share": (estimates.rho > c).float().mean(),
        "trust_region/kl": kl.mean(),
        "trust_region/active_share": (adjustment > 0).float().mean(),
        "trust_region/adjustment": adjustment.mean(),
        "trust_region/k_dot_g": (k * g).sum(-1).abs().mean(),
        "trust_region/norm_k": k.norm(dim=-1).mean(),
        "trust_region/norm_g": g.norm(dim=-1).mean(),
        "trust_region/norm_z": z.norm(dim=-1).mean(),
    }


def pull_norm(parameters: list[Tensor], outputs: list[Tensor], pulls: list[Tensor]) -> Tensor:
    """Norm over all parameters of what flows back from some of the outputs."""
    gradients = torch.autograd.grad(
        outputs, parameters, pulls, retain_graph=True, allow_unused=True
    )
    return nn.utils.get_total_norm([g for g in gradients if g is not None])


def fetched(batches: list[dict[str, Tensor]]) -> list[dict[str, float]]:
    """The metrics of all batches as numbers; their device is waited for once."""
    scalars = [scalar for batch in batches for scalar in batch.values()]
    numbers = iter(torch.stack(scalars).tolist())
    return [{name: next(numbers) for name in batch} for batch in batches]


def replay_health(replayed: list[dict[str, float]], ages: list[float]) -> dict[str, float]:
    """Means over the replayed batches of what is trivial on fresh ones, and of their ages."""
    if not replayed:
        return {}
    sources = {
        "replay/importance_mean": "importance/mean",
        "replay/truncated_share": "importance/truncated_share",
        "replay/active_share": "trust_region/active_share",
        "replay/kl": "trust_region/kl",
        "replay/q_loss": "loss/q",
    }
    return {"replay/age": sum(ages) / len(ages)} | {
        name: sum(metrics[source] for metrics in replayed) / len(replayed)
        for name, source in sources.items()
    }
