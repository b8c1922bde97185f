"""How the algorithms act, which all do alike."""

import torch
from torch import Tensor

from rlrun.optim.kfac import KFAC
from rlrun.optim.rmsprop import RMSprop
from rlrun.policies.actor import Acted, Actor


class Acting:
    """Acts by `actor`, and hands nothing on that came of weights which `optimizer` broke."""

    actor: Actor
    optimizer: RMSprop | KFAC

    def act(
        self, observations: Tensor, reset: Tensor, state: Tensor, rng: torch.Generator | None
    ) -> Acted:
        """One step of `B` environments, as `Actor.act`."""
        acted = self.actor.act(observations, reset, state, rng, note=True)
        self.settle()  # after acting, which on a GPU waited for the update anyway
        return acted

    def settle(self) -> None:
        """Raise `NonFiniteUpdate` for an update that has not been checked yet."""
        self.optimizer.require_finite.settle()
