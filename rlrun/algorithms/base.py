"""What the training loop asks of an algorithm."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from gymnasium import spaces
from torch import Tensor

from rlrun.data.replay import ReplayMemory
from rlrun.data.rollout import Rollout
from rlrun.envs import Interface
from rlrun.policies.actor import Acted, Actor
from rlrun.policies.base import Head


class Algorithm(Protocol):
    """An algorithm owns its networks, optimiser, memory and generators; the loop owns the rest."""

    n_steps: int
    """Length of the segments that it learns from."""
    n_statistics: int
    """Size `P` of the vector that tells the distribution of an action."""
    state_size: int
    """Size `S` of the recurrent state of one environment; 0 without memory."""
    memory: ReplayMemory | None
    """What it replays, if it does."""

    @property
    def actor(self) -> Actor:
        """The network that acts."""

    @staticmethod
    def heads(action_space: spaces.Space[Any], values: Mapping[str, Any]) -> dict[str, Head]:
        """Outputs that the policy needs, with the hyperparameters `values`.

        Raises:
            UserError: nothing can act in this space.
        """

    def attach(self, envs: Interface) -> None:
        """Learn from these environments from now on; nothing is remembered of others."""

    def compile(self, mode: str) -> None:
        """Run the networks by `torch.compile` in this mode; raises UserError if that cannot be."""

    def act(
        self, observations: Tensor, reset: Tensor, state: Tensor, rng: torch.Generator | None
    ) -> Acted:
        """One step of `B` environments; with `rng` None by the most probable actions.

        Raises:
            NonFiniteUpdate: the last update broke the weights, as it can on a GPU.
        """

    def settle(self) -> None:
        """Raise `NonFiniteUpdate` if an update broke the weights and nobody has looked yet."""

    def update(
        self, rollout: Rollout, progress: float, log: bool, closely: bool = True
    ) -> Mapping[str, float]:
        """Learn from a fresh segment; `progress` in [0, 1] is the share of the training done.

        Returns the metrics if `log`, and those that take passes of their own only if `closely`
        too; else an empty mapping. Asking for them changes nothing.

        Raises:
            NonFiniteUpdate: before the weights change. On a GPU, where looking would take a wait,
                the next `act`, `settle` or `state_dict` raises it, after they changed.
        """

    def state_dict(self) -> dict[str, Any]:
        """Everything but the entries of `memory`."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
