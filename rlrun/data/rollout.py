"""A segment of experience, the unit in which everything is collected, stored and learnt from."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlrun.transfer import sent


@dataclass
class Rollout:
    """`T` consecutive steps of `B` environments; time comes first.

    Observation `t + 1` follows action `t`, unless an episode ended there: then it is the first
    of the next episode (or, after a lost life, the same game going on).
    """

    observations: Tensor
    """`[T + 1, B, ...]`, as the environment gave them."""
    actions: Tensor
    """`[T, B]` int64 for Discrete spaces, `[T, B, J]` int64 for `J` factors of MultiDiscrete and
    MultiBinary; `[T, B, D]` float, not clipped, for Box."""
    rewards: Tensor
    """`[T, B]` float, as learnt from (clipped, if so configured)."""
    behaviour: Tensor
    """`[T, B, P]`, statistics of the distributions that the actions were drawn from (their
    probabilities, or logits, or means and log-deviations), from that very pass."""
    terminated: Tensor
    """`[T, B]` bool: the episode ended for good; nothing is to be expected after it."""
    truncated: Tensor
    """`[T, B]` bool: the episode was cut by a limit of time; its value goes on."""
    reset: Tensor
    """`[T + 1, B]` bool: the observation is the first after a reset of the environment."""
    state: Tensor
    """`[B, S]`, recurrent state before the first step, by the parameters that acted; `S` is 0 for
    those without memory. Where `reset` says that an episode begins, zeros take its place."""
    final_observations: Tensor
    """`[K, ...]`, last observations of the `K` truncated episodes."""
    final_index: Tensor
    """`[K, 2]` int64: the `(t, b)` at which each of them was truncated."""
    acted_in: Tensor | None = None
    """`observations` once more, on the GPU where they were acted in, if there is one."""

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name; `acted_in`, which tells nothing more, is left out."""
        return {name: tensor for name, tensor in vars(self).items() if name != "acted_in"}

    def observations_on(self, device: torch.device) -> Tensor:
        """The observations on a device, without sending them twice."""
        if self.acted_in is not None and self.acted_in.device == device:
            return self.acted_in
        return sent(self.observations, device)

    def to(self, device: torch.device) -> "Rollout":
        """The same on another device; itself, if it is there."""
        if self.rewards.device == device:
            return self
        others = {name: t for name, t in self.tensors().items() if name != "observations"}
        return Rollout(
            observations=self.observations_on(device),
            **{name: sent(tensor, device) for name, tensor in others.items()},
        )
