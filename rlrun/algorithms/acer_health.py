"""What ACER tells of itself: its losses and the health of its trust region and its replay."""

from typing import NamedTuple

import torch
from torch import Tensor

from rlrun.functional.distributions import probabilities
from rlrun.functional.policy_gradient import acer_losses


class Terms(NamedTuple):
    """The arguments of `acer_gradient` and `acer_losses` for a batch of `N` states."""

    probs: Tensor
    """`[N, A]`."""
    rho: Tensor
    """`[N, A]`."""
    actions: Tensor
    """`[N]` int64."""
    q_ret: Tensor
    """`[N]`."""
    q: Tensor
    """`[N, A]`."""
    values: Tensor
    """`[N]`."""
    c: float


@torch.no_grad()
def health(
    terms: Terms,
    average: Tensor,
    adjustment: Tensor,
    g: Tensor,
    k: Tensor,
    z: Tensor,
    q_coef: float,
    ent_coef: float,
) -> dict[str, float]:
    """Metrics of one batch, means over its states.

    Args:
        terms: of the policy gradient.
        average: `[N, A]`, probabilities of the average policy.
        adjustment: `[N]`, how far the projection moved the gradient, in units of `k`.
        g: `[N, A]`, gradient before the projection.
        k: `[N, A]`, gradient of the KL.
        z: `[N, A]`, gradient after the projection.
        q_coef: weight of the critic's loss.
        ent_coef: weight of the entropy bonus.
    """
    taken = terms.actions.unsqueeze(-1)
    q_error = terms.q_ret - terms.q.gather(-1, taken).squeeze(-1)
    rho = terms.rho.gather(-1, taken)
    truncated_loss, correction_loss = acer_losses(*terms)
    policy_loss = (truncated_loss + correction_loss).mean()
    q_loss = 0.5 * q_error.square().mean()
    entropy = probabilities.entropy(terms.probs).mean()
    metrics = {
        "loss/total": policy_loss + q_coef * q_loss - ent_coef * entropy,
        "loss/policy": policy_loss,
        "loss/truncated": truncated_loss.mean(),
        "loss/bias_correction": correction_loss.mean(),
        "loss/q": q_loss,
        "loss/explained_variance": 1.0 - q_error.var(correction=0) / terms.q_ret.var(correction=0),
        "policy/entropy": entropy,
        "policy/value": terms.values.mean(),
        "policy/advantage": (terms.q_ret - terms.values).mean(),
        "importance/mean": rho.mean(),
        "importance/truncated_share": (rho > terms.c).float().mean(),
        "trust_region/kl": probabilities.kl(average, terms.probs).mean(),
        "trust_region/active_share": (adjustment > 0).float().mean(),
        "trust_region/adjustment": adjustment.mean(),
        "trust_region/k_dot_g": (k * g).sum(-1).abs().mean(),
        "trust_region/norm_k": k.norm(dim=-1).mean(),
        "trust_region/norm_g": g.norm(dim=-1).mean(),
        "trust_region/norm_z": z.norm(dim=-1).mean(),
    }
    return dict(zip(metrics, torch.stack(list(metrics.values())).tolist(), strict=True))


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
