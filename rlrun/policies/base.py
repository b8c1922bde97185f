"""What algorithms ask of a network."""

from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Observer(Protocol):
    """Features that depend on what was observed before."""

    def observe(self, observations: Tensor) -> None:
        """Take in observations `[N, ...]`."""


class Policy(nn.Module):
    """Outputs by name, in the order in which the algorithm asked for them.

    A policy is built as `MyPolicy(observation_space, heads, generator, **settings)`, where
    `heads` maps the name of each output to its size. The last layer of a head starts with a
    gain of 0.01, so that a fresh policy is close to uniform.
    """

    features: nn.Module
    """From raw observations `[N, ...]` to the float tensor that the heads read.

    It has no parameters, for its output is shared by a policy and its running average.
    """

    def observe(self, observations: Tensor) -> None:
        """Learn from fresh observations `[N, ...]` what the features depend on, if anything.

        Called once an update is over, so that all of a segment is seen with the same eyes.
        """
        if isinstance(self.features, Observer):
            self.features.observe(observations)

    def head(self, name: str, features: Tensor) -> Tensor:
        """One output alone, `[N, size]`."""
        raise NotImplementedError

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """All outputs, `[N, size]` each."""
        raise NotImplementedError
