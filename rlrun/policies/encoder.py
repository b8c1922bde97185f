"""A network of the user's own, any `nn.Module`, as the encoder of a policy."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from rlrun import schema
from rlrun.policies.base import Head, Policy, Segment
from rlrun.policies.heads import Activation, make_heads, too_narrow
from rlrun.policies.layers import features_of, has_picture, split_features
from rlrun.schema import PositiveInt, UserError
from rlrun.spaces import example, is_composite, leaves

Encoder = Callable[[spaces.Space[Any]], nn.Module]


class EncoderPolicy(Policy):
    """Any module between observations and heads.

    Its forward takes what `EncoderPolicy.seen` describes and returns one vector per observation,
    `[N, L]`:

        a picture            [N, C, H, W] float in [0, 1], whatever the order of its channels was
        any other Box        [N, size] float
        classes and bits     [N, size] float, each class as a one-hot
        Dict and Tuple       a dict of these by dotted path, such as "camera" or "state.0"

    A picture is a Box of bytes with two to four dimensions and sides of at least 7 pixels.

    The module draws its initial weights from a generator of its own, seeded by `generator`, by way
    of the global one, which is left as it was. A policy must learn as what it acted as, so a
    module whose layers work in another way in training is refused.

    Args:
        observation_space: of one environment.
        heads: the outputs, by name.
        generator: source of the initial weights.
        encoder: what makes the module when it is called with `EncoderPolicy.seen`: a class, or a
            partial of one with its settings.
        hidden: width of each layer that the policy has for itself after the encoder.
        critic_hidden: of those of all other heads; None for the same widths.
        activation: after each of these layers.
        layer_norm: normalise the inputs of each activation.

    Raises:
        UserError: the observations cannot be read, or the module does not fit.
    """

    def __init__(
        self,
        observation_space: spaces.Space,  # type: ignore[type-arg]
        heads: Mapping[str, Head],
        generator: torch.Generator,
        *,
        encoder: Encoder,
        hidden: list[PositiveInt] = [],  # noqa: B006 - read only
        critic_hidden: list[PositiveInt] | None = None,
        activation: Activation = "tanh",
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        features = features_of(observation_space, has_picture(observation_space))
        self.features = features
        self.names: list[str] | None = None
        if is_composite(observation_space):
            self.names, self.shapes = list(leaves(observation_space)), list(features.shapes)
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.encoder = _made(encoder, self.seen(observation_space))
            width = self._width(example(observation_space))
        self.heads = make_heads(
            width, heads, hidden, activation, layer_norm, generator, critic_hidden
        )

    @staticmethod
    def conflicts(values: Mapping[str, Any]) -> list[str]:
        """A layer that is normalised needs more than one unit."""
        return too_narrow(values, "hidden", "critic_hidden")

    @staticmethod
    def seen(space: spaces.Space[Any]) -> spaces.Space[Any]:
        """The space of what an encoder of observations of `space` gets: a Box, or a Dict of them.

        Only the shapes are to be relied on: vectors may be normalised, and have no bounds here.
        """
        features = features_of(space, has_picture(space))
        boxes: list[spaces.Space[Any]] = [
            spaces.Box(0 if len(shape) == 3 else -np.inf, 1 if len(shape) == 3 else np.inf, shape)
            for shape in features.shapes
        ]
        if not is_composite(space):
            return boxes[0]
        return spaces.Dict(list(zip(leaves(space), boxes, strict=True)))

    def encode(self, features: Tensor, segment: Segment) -> tuple[Tensor, Tensor]:
        """Features of observations to `[N, L]`."""
        return self.encoder(self._parts(features)), segment.state

    def _parts(self, features: Tensor) -> Tensor | dict[str, Tensor]:
        """The features, or those of each entry by its dotted path."""
        if self.names is None:
            return features
        return dict(zip(self.names, split_features(features, self.shapes), strict=True))

    @torch.no_grad()
    def _width(self, observation: Tensor) -> int:
        """How wide the module's output is, tried with two observations like `[1, ...]`."""
        name = type(self.encoder).__name__
        inputs = self._parts(self.features(torch.cat([observation, observation])))
        training = {module: module.training for module in self.encoder.modules()}
        self.encoder.train(False)  # nothing is to be learnt from an example
        try:
            output = self.encoder(inputs)
        except Exception as error:
            error.add_note(f"{name} was tried with two observations: {_shapes(inputs)}")
            raise
        finally:
            for module, mode in training.items():
                module.training = mode
        if not (isinstance(output, Tensor) and output.dim() == 2 and len(output) == 2):
            found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UserError(
                f"policy: {name} turned two observations, {_shapes(inputs)}, into {found}; it has "
                f"to return one vector for each, [2, L], as behind an nn.Flatten"
            )
        return output.shape[1]


def _made(encoder: Encoder, space: spaces.Space[Any]) -> nn.Module:
    """The module, if it is one that acts as it learns."""
    if isinstance(encoder, functools.partial):
        found = schema.problems(
            encoder.func, encoder.keywords, partial=True, prefix="policy.encoder."
        )
        if found:
            raise UserError("\n".join(found))
    module = encoder(space)
    if not isinstance(module, nn.Module):
        raise UserError(
            f"policy.encoder: it made a {type(module).__name__}; allowed: a torch.nn.Module"
        )
    for name, layer in module.named_modules():
        if layer.training and _acts_otherwise(layer):
            raise UserError(
                f"policy: {name or 'the encoder'} is a {type(layer).__name__}, which does "
                f"something else while it is trained than while it acts. Use nn.LayerNorm or "
                f"nn.GroupNorm, or call .train(False) on it in the constructor"
            )
    return module


def _acts_otherwise(layer: nn.Module) -> bool:
    return isinstance(layer, _BatchNorm) or (isinstance(layer, _DropoutNd) and layer.p > 0)


def _shapes(inputs: Tensor | dict[str, Tensor]) -> str:
    """The shapes of what a module was given."""
    if isinstance(inputs, Tensor):
        return str(list(inputs.shape))
    return ", ".join(f"{name} {list(part.shape)}" for name, part in inputs.items())


def policy_maker(make: functools.partial[Any]) -> Callable[..., Policy]:
    """What builds a policy as `make(observation_space, heads, generator)`.

    Args:
        make: a class or function and its settings. A module that is no policy becomes the encoder
            of an `EncoderPolicy`; all else is what builds the policy already.

    Raises:
        UserError: an `EncoderPolicy` without encoder.
    """
    made = make.func
    if made is EncoderPolicy and "encoder" not in make.keywords:
        raise UserError(
            "policy.encoder: missing; it names a class of your own, as in "
            "{_target_: my_package.MyEncoder, _partial_: true}"
        )
    if inspect.isclass(made) and issubclass(made, nn.Module) and not issubclass(made, Policy):
        return functools.partial(EncoderPolicy, encoder=make)
    return make
