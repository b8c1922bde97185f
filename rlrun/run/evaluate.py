"""Playing whole episodes with a policy, without learning."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rlrun.algorithms.base import Algorithm
from rlrun.envs import VectorEnv
from rlrun.run.signals import StopRequest


@dataclass(frozen=True)
class Evaluation:
    """Raw returns of whole episodes (whole games on Atari), in the order of the seeds."""

    returns: list[float]
    lengths: list[int]
    deterministic: bool

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Standard deviation of the returns over the episodes."""
        return float(np.std(self.returns))

    def to_json(self) -> dict[str, Any]:
        """As it stands in `result.json`."""
        return {
            "return_mean": self.mean,
            "return_std": self.std,
            "episodes": len(self.returns),
            "deterministic": self.deterministic,
            "returns": self.returns,
            "length_mean": float(np.mean(self.lengths)),
        }


def evaluate_policy(
    algorithm: Algorithm,
    envs: VectorEnv,
    episodes: int,
    deterministic: bool,
    rng: torch.Generator,
    stop: StopRequest,
    show: Callable[[VectorEnv], None] | None = None,
) -> Evaluation | None:
    """Play `episodes` episodes in fresh environments and close them.

    Each environment plays a share fixed beforehand, so that short episodes are not preferred.

    Args:
        algorithm: acts; it is not changed.
        envs: not yet reset; closed at the end.
        episodes: how many, >= 1.
        deterministic: take the most probable action instead of drawing one.
        rng: draws the actions, if they are drawn.
        stop: asked at each step.
        show: called at the beginning and after each step.

    Returns:
        None if it was stopped, or broken off for a checkpoint.
    """
    n = envs.n_envs
    shares = [len(range(env, episodes, n)) for env in range(n)]
    played: list[list[tuple[float, int]]] = [[] for _ in range(n)]

    state = torch.zeros(n, algorithm.state_size)
    reset = torch.ones(n, dtype=torch.bool)
    try:
        observations = envs.reset()
        while any(len(done) < share for done, share in zip(played, shares, strict=True)):
            if stop.is_pressing:
                return None
            if show is not None:
                show(envs)
            seen = torch.tensor(observations)
            actions, _, state = algorithm.act(seen, reset, state, None if deterministic else rng)
            step = envs.step(actions.numpy())
            observations, reset = step.obs, torch.tensor(step.reset)
            for episode in step.episodes:
                played[episode.env].append((episode.ret, episode.length))
    finally:
        envs.close()
    kept = [done[:share] for done, share in zip(played, shares, strict=True)]
    # Episode k was played by environment k mod n.
    flat = [kept[k % n][k // n] for k in range(episodes)]
    return Evaluation([ret for ret, _ in flat], [length for _, length in flat], deterministic)
