"""What algorithms ask of a network."""

from torch import Tensor, nn


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

    def head(self, name: str, features: Tensor) -> Tensor:
        """One output alone, `[N, size]`."""
        raise NotImplementedError

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """All outputs, `[N, size]` each."""
        raise NotImplementedError
