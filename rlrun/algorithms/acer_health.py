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
    entropy, q_error = distribution.entropy(f), estimates.q_ret - estimates.q
    truncated_loss, correction_loss = estimates.losses()
    norm_k, norm_g, norm_z = torch.stack([k, g, z]).norm(dim=-1)
    by_state = {
        "loss/truncated": truncated_loss,
        "loss/bias_correction": correction_loss,
        "loss/q": 0.5 * q_error.square(),
        "policy/entropy": entropy,
        "policy/value": estimates.values,
        "policy/advantage": estimates.advantages,
        "importance/mean": estimates.rho,
        "importance/truncated_share": (estimates.rho > c).float(),
        "trust_region/kl": distribution.kl(average, f),
        "trust_region/active_share": (adjustment > 0).float(),
        "trust_region/adjustment": adjustment,
        "trust_region/k_dot_g": (k * g).sum(-1).abs(),
        "trust_region/norm_k": norm_k,
        "trust_region/norm_g": norm_g,
        "trust_region/norm_z": norm_z,
    }
    # One mean for all: kernels on so few states cost their call.
    stats = dict(zip(by_state, torch.stack(list(by_state.values())).mean(-1), strict=True))
    policy_loss = stats["loss/truncated"] + stats["loss/bias_correction"]
    critic_loss = sum(e.square().sum() for e in estimates.errors) / (2 * len(q_error))
    unexplained = q_error.var(correction=0) / estimates.q_ret.var(correction=0)
    return stats | {
        "loss/total": policy_loss + q_coef * critic_loss - ent_coef * stats["policy/entropy"],
        "loss/policy": policy_loss,
        "loss/explained_variance": 1.0 - unexplained,
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
