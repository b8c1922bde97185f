"""The networks of stable-baselines, told by the names and shapes of their parameters.

    shared_fc0, ...           layers that policy and critic share
    pi_fc0, ..., vf_fc0, ...  layers of the policy, and of the critic
    c1, c2, c3, fc1           instead of all these: the network of pictures
    pi, pi/logstd             logits, or means and log-deviations of actions in the units of the box
    vf, q                     values of states, and of actions; every network has both

Weights are `[inputs, outputs]`, those of convolutions `[height, width, inputs, outputs]`.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from rlrun.schema import UserError
from rlrun.spaces import action_scale

Array = NDArray[Any]

KERNELS, STRIDES = (8, 4, 3), (4, 2, 1)
CONVOLUTIONS = ["c1", "c2", "c3"]


@dataclass(frozen=True)
class Network:
    """Names of layers, each as `model/<name>/w:0` and `model/<name>/b:0` in the file."""

    shared: list[str]
    """Below all heads: fully connected layers, or convolutions and one layer of features."""
    policy: list[str]
    critic: list[str]
    output: str
    """Of the critic: `vf` or `q`."""
    pictures: bool
    unused: list[str]
    """Full names of the parameters that the algorithm does not use."""


def weight(parameters: Mapping[str, Array], layer: str) -> Array:
    """The weight of a layer, as it is in the file."""
    return parameters[f"model/{layer}/w:0"]


def bias(parameters: Mapping[str, Array], layer: str) -> Array:
    """The bias of a layer, `[outputs]`."""
    return parameters[f"model/{layer}/b:0"].reshape(-1)


def widths(parameters: Mapping[str, Array], layers: Sequence[str]) -> list[int]:
    """Number of outputs of each layer."""
    return [weight(parameters, layer).shape[-1] for layer in layers]


def inputs(parameters: Mapping[str, Array], network: Network) -> int:
    """How many numbers it reads, if it reads no pictures."""
    first = [*network.shared, *network.policy, "pi"][0]
    return int(weight(parameters, first).shape[0])


def understand(parameters: Mapping[str, Array], output: str) -> Network:
    """Which network it is; every parameter has its place in it, or is one of the unused critic.

    Args:
        parameters: by name.
        output: of the critic that the algorithm uses, `vf` or `q`.

    Raises:
        UserError: parameters are missing, or not understood.
    """
    pictures = "model/c1/w:0" in parameters
    shared = [*CONVOLUTIONS, "fc1"] if pictures else _tower(parameters, "shared_fc")
    policy = [] if pictures else _tower(parameters, "pi_fc")
    critic = [] if pictures else _tower(parameters, "vf_fc")
    used = _names([*shared, *policy, "pi", *critic, output])
    if missing := [name for name in used if name not in parameters]:
        raise UserError(f"the model lacks the parameters {', '.join(missing)}")
    if "model/pi/logstd:0" in parameters:
        used.append("model/pi/logstd:0")
    unused = [name for name in _names([{"vf": "q", "q": "vf"}[output]]) if name in parameters]
    if unknown := [name for name in parameters if name not in (*used, *unused)]:
        recurrent = any("lstm" in name for name in unknown)
        raise UserError(
            f"the model has parameters that rlrun does not understand: {', '.join(unknown)}. "
            f"Allowed: MlpPolicy and CnnPolicy of stable-baselines, with layers of any width"
            f"{'; recurrent policies cannot be taken over' if recurrent else ''}."
        )
    network = Network(shared, policy, critic, output, pictures, unused)
    _check_shapes(parameters, network)
    return network


def _tower(parameters: Mapping[str, Array], name: str) -> list[str]:
    """Layers `name0`, `name1` and so on, as many as there are."""
    numbered = (f"{name}{i}" for i in itertools.count())
    return list(itertools.takewhile(lambda layer: f"model/{layer}/w:0" in parameters, numbered))


def _names(layers: Sequence[str]) -> list[str]:
    return [f"model/{layer}/{part}:0" for layer in layers for part in "wb"]


def _check_shapes(parameters: Mapping[str, Array], network: Network) -> None:
    """Every layer fits the one before it and its own bias; raises UserError."""
    kernels = dict(zip(CONVOLUTIONS, KERNELS, strict=True)) if network.pictures else {}
    start = None  # what the first layers of both towers read
    for tower in ([*network.policy, "pi"], [*network.critic, network.output]):
        before = start
        for layer in [*network.shared, *tower]:
            shape = weight(parameters, layer).shape
            sides = (kernels[layer],) * 2 if layer in kernels else ()
            fits = len(shape) == len(sides) + 2 and shape[:-2] == sides and 0 not in shape
            # What the layer of features reads depends on the size of the pictures.
            joined = fits and (layer == "fc1" or before in (None, shape[-2]))
            if not (joined and shape[-1] == bias(parameters, layer).size):
                raise _misfit(layer, shape, "kernels of 8, 4 and 3, and layers that fit each other")
            start, before = start or shape[-2], shape[-1]
    values = weight(parameters, network.output).shape
    if values[1] != (1 if network.output == "vf" else weight(parameters, "pi").shape[1]):
        raise _misfit(network.output, values, "one value, or one for each action")


def _misfit(layer: str, shape: tuple[int, ...], allowed: str) -> UserError:
    return UserError(
        f"model/{layer}/w:0 of shape {list(shape)} does not fit the rest of the network; allowed: "
        f"{allowed}"
    )


def state(
    parameters: Mapping[str, Array],
    network: Network,
    critic: str,
    action_space: spaces.Space[Any],
    picture: tuple[int, int, int] | None,
) -> dict[str, Tensor]:
    """The state dict of an `Actor` with a `MlpPolicy` or `CnnPolicy`.

    Args:
        parameters: by name.
        network: as `understand` has found it.
        critic: name of its head in rlrun.
        action_space: of one environment.
        picture: channels, height and width, if it reads pictures.

    Raises:
        UserError: the sizes of outputs or pictures are others.
    """
    layers: dict[str, tuple[Array, Array]] = {}
    if picture is not None:
        for i, name in enumerate(CONVOLUTIONS):
            kernel = weight(parameters, name).transpose(3, 2, 0, 1)
            layers[f"encoder.pictures.0.{2 * i}"] = kernel, bias(parameters, name)
        layers["encoder.output.0"] = _features(parameters, picture), bias(parameters, "fc1")
    else:
        layers |= _dense(parameters, "shared", network.shared)
    layers |= _dense(parameters, "heads.policy", [*network.policy, "pi"])
    layers |= _dense(parameters, f"heads.{critic}", [*network.critic, network.output])

    found: dict[str, Tensor] = {}
    outputs = weight(parameters, "pi").shape[1]
    log_std = parameters.get("model/pi/logstd:0")
    if isinstance(action_space, spaces.Box):
        middle, half = action_scale(action_space)
        if log_std is None or not log_std.size == outputs == half.size:
            raise _other_actions(outputs, action_space)
        # Its means are in the environment's units, rlrun's in half-widths of the box.
        name = f"heads.policy.{2 * len(network.policy)}"
        w, b = layers[name]
        layers[name] = w / half[:, None], (b - middle) / half
        found["log_std"] = _tensor(log_std.reshape(-1) - np.log(half))
    elif log_std is not None or outputs != _choices(action_space):
        raise _other_actions(outputs, action_space)
    for name, (w, b) in layers.items():
        found[f"policy.{name}.weight"] = _tensor(w)
        found[f"policy.{name}.bias"] = _tensor(b)
    return found


def _dense(
    parameters: Mapping[str, Array], prefix: str, names: Sequence[str]
) -> dict[str, tuple[Array, Array]]:
    """Weights `[outputs, inputs]` and biases of layers; each has an activation behind it."""
    return {
        f"{prefix}.{2 * i}": (weight(parameters, name).T, bias(parameters, name))
        for i, name in enumerate(names)
    }


def _features(parameters: Mapping[str, Array], picture: tuple[int, int, int]) -> Array:
    """The weight of the layer that reads the last convolution, its inputs channel by channel.

    stable-baselines flattens `[height, width, channels]`, rlrun `[channels, height, width]`.
    """
    channels, *sides = picture
    for kernel, stride in zip(KERNELS, STRIDES, strict=True):
        sides = [(side - kernel) // stride + 1 for side in sides]
    w = weight(parameters, "fc1")
    filters = weight(parameters, "c3").shape[-1]
    fits = min(sides) > 0 and sides[0] * sides[1] * filters == w.shape[0]
    if not fits or weight(parameters, "c1").shape[2] != channels:
        raise UserError(
            f"the model was not trained on pictures of {picture[1]}x{picture[2]} with {channels} "
            f"channels. Give it the environment that it was trained in."
        )
    return w.reshape(-1, filters, w.shape[1]).transpose(2, 1, 0).reshape(w.shape[::-1])


def _choices(space: spaces.Space[Any]) -> int | None:
    """Number of logits in a discrete space; None in spaces that the two write differently."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    return int(space.nvec.sum()) if isinstance(space, spaces.MultiDiscrete) else None


def _other_actions(outputs: int, space: spaces.Space[Any]) -> UserError:
    return UserError(
        f"the policy of the model has {outputs} outputs, which do not fit the actions {space}. "
        f"Allowed: the Discrete, MultiDiscrete or Box space that it was trained in."
    )


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(np.array(values, np.float32, order="C"))
