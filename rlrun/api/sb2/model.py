"""Models that stable-baselines 2 saved: what can be taken over, and what never was in the file.

Pickles in the file are not loaded, so that reading a model runs no code of it. What only they
tell can be given by `custom_objects`, as in stable-baselines.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gymnasium import spaces
from torch import Tensor

from rlrun.algorithms.a2c import A2C
from rlrun.algorithms.acer import ACER
from rlrun.algorithms.acktr import ACKTR
from rlrun.annotations import coerce, fits
from rlrun.api.sb2.file import Array, read_file
from rlrun.api.sb2.network import Network, inputs, state, understand, widths
from rlrun.api.sb2.spaces import is_bytes, matches, space_of
from rlrun.policies.heads import ACTIVATIONS
from rlrun.policies.layers import ImageFeatures, VectorFeatures
from rlrun.schema import NonNegativeInt, PositiveInt, UserError, settings

OTHERS = {
    "lr_schedule": Literal[
        "constant", "linear", "middle_drop", "double_linear_con", "double_middle_drop"
    ],
    "n_envs": PositiveInt,
    "seed": NonNegativeInt | None,
    "verbose": NonNegativeInt,
}
"""Settings of a model that are none of the algorithm's, and what each may be."""
POLICIES = ("MlpPolicy", "CnnPolicy", "FeedForwardPolicy")
POLICY_KWARGS = ("net_arch", "layers", "act_fun", "feature_extraction", "one_dim_bias", ":type:")


@dataclass(frozen=True)
class _Kind:
    """An algorithm of stable-baselines."""

    target: Callable[..., Any]
    signs: tuple[str, ...]
    """Keys of `data` that no other algorithm has together; the first match counts."""
    output: str
    """Of its critic."""
    head: str
    """The same in rlrun."""
    lost: str
    """Settings that it did not save, and parts of its state."""


KINDS = {
    "acer": _Kind(
        ACER,
        ("rprop_alpha", "q_coef"),
        "q",
        "q",
        "buffer_size, correction_term, trust_region, alpha, delta, the average policy, the replay "
        "memory",
    ),
    "acktr": _Kind(
        ACKTR,
        ("kfac_clip", "vf_fisher_coef"),
        "vf",
        "value",
        "async_eigen_decomp, the Kronecker factors of K-FAC",
    ),
    "a2c": _Kind(A2C, ("alpha", "epsilon", "vf_coef", "lr_schedule"), "vf", "value", "momentum"),
}


@dataclass(frozen=True)
class SB2Model:
    """A model of stable-baselines, in the words of rlrun."""

    algorithm: str
    """`acer`, `acktr` or `a2c`."""
    settings: dict[str, Any]
    """Keyword arguments of the algorithm, checked; those that the file lacks are not there."""
    lr_schedule: str | None
    """Name in `rlrun.functional.schedules`; None if it was a function of the user's own."""
    n_envs: int | None
    seed: int | None
    verbose: int
    policy: str
    """`MlpPolicy` or `CnnPolicy`."""
    policy_settings: dict[str, Any]
    """Keyword arguments of that policy."""
    observation_space: spaces.Space[Any] | None
    """None where the readable fields do not tell it; its bounds are as printed."""
    action_space: spaces.Space[Any] | None
    parameters: dict[str, Array]
    """By their names in the file, in order."""
    network: Network
    report: list[str]
    """What was taken, what was left out and what stable-baselines does not save; a line each."""


def read(path: str | Path, custom_objects: Mapping[str, Any] | None = None) -> SB2Model:
    """Read a zip of stable-baselines 2.8 to 2.10.

    Args:
        path: of the file.
        custom_objects: entries that take the place of those in `data`: settings, spaces of
            gymnasium, `policy` by name, `policy_kwargs` with `act_fun` by name.

    Raises:
        UserError: the file is damaged, or its model cannot be taken over as a whole.
    """
    path = Path(path)
    data, parameters = read_file(path)
    data |= custom_objects or {}
    try:
        return _model(path.name, data, parameters)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _model(name: str, data: dict[str, Any], parameters: dict[str, Array]) -> SB2Model:
    algorithm = _algorithm(data)
    kind = KINDS[algorithm]
    network = understand(parameters, kind.output)
    policy, policy_settings = _policy(data, parameters, network)
    annotations = {key: setting.annotation for key, setting in settings(kind.target).items()}
    taken, left_out = _settings(data, annotations | OTHERS)
    report = [
        f"Read {name}: {algorithm.upper()} with {policy} ({_listed(policy_settings)}).",
        f"Taken: policy, critic, {_listed(taken)}.",
    ]
    if left_out:
        report.append(f"Left out, as rlrun has no such settings or values: {_listed(left_out)}.")
    if network.unused:
        unused = ", ".join(network.unused)
        report.append(f"Left out, as {algorithm.upper()} does not use them: {unused}.")
    report.append(
        f"Never saved by stable-baselines, so rlrun's defaults or a fresh start: {kind.lost}, "
        f"the optimiser's state, the number of steps, the moments of VecNormalize, the id of the "
        f"environment."
    )
    observed, acted = (space_of(data.get(f"{of}_space")) for of in ("observation", "action"))
    for of, space in (("observation", observed), ("action", acted)):
        if space is None:
            report.append(f"The file does not tell the {of} space: the environment's is believed.")
    return SB2Model(
        algorithm=algorithm,
        settings={key: value for key, value in taken.items() if key not in OTHERS},
        lr_schedule=taken.get("lr_schedule"),
        n_envs=taken.get("n_envs"),
        seed=taken.get("seed"),
        verbose=taken.get("verbose", 0),
        policy=policy,
        policy_settings=policy_settings,
        observation_space=observed,
        action_space=acted,
        parameters=parameters,
        network=network,
        report=report,
    )


def _algorithm(data: Mapping[str, Any]) -> str:
    for name, kind in KINDS.items():
        if all(sign in data for sign in kind.signs):
            return name
    raise UserError(
        f"its settings are those of no algorithm of rlrun; allowed: models of ACER, ACKTR and A2C. "
        f"Found: {', '.join(map(str, data)) or 'none'}"
    )


def _policy(
    data: Mapping[str, Any], parameters: Mapping[str, Array], network: Network
) -> tuple[str, dict[str, Any]]:
    """Name and settings of rlrun's policy that computes the same; raises UserError."""
    entry, kwargs = data.get("policy"), data.get("policy_kwargs") or {}
    name = entry
    if isinstance(entry, dict):
        name = f"{entry.get('__module__')}.{_function(entry.get('__init__')).partition('.')[0]}"
        name = name.removeprefix("stable_baselines.common.policies.")
    if name not in POLICIES:
        raise UserError(
            f"its policy {name} is no class of stable-baselines, and only its code could tell what "
            f"it computes. If it is MlpPolicy or CnnPolicy under another name, say so: "
            f"custom_objects={{'policy': 'MlpPolicy', 'policy_kwargs': {{'act_fun': 'tanh'}}}}"
        )
    if not isinstance(kwargs, dict) or (unknown := [k for k in kwargs if k not in POLICY_KWARGS]):
        shown = ", ".join(unknown) if isinstance(kwargs, dict) else kwargs
        raise UserError(
            f"policy_kwargs: {shown} cannot be taken over; allowed: {', '.join(POLICY_KWARGS[:-1])}"
        )
    if network.pictures:
        *filters, features = widths(parameters, network.shared)
        return "CnnPolicy", {"filters": filters, "features_dim": features}
    activation = _function(kwargs.get("act_fun", "tanh"))
    if activation not in ACTIVATIONS:
        raise UserError(
            f"policy_kwargs: act_fun: {kwargs['act_fun']} is not known; allowed: "
            f"{', '.join(ACTIVATIONS)}. If it is one of them under another name, say so: "
            f"custom_objects={{'policy_kwargs': {{'act_fun': 'tanh'}}}}"
        )
    return "MlpPolicy", {
        "shared": widths(parameters, network.shared),
        "hidden": widths(parameters, network.policy),
        "critic_hidden": widths(parameters, network.critic),
        "activation": activation,
    }


def _function(shown: Any) -> str:
    """The name of a function, which is shown as itself or as `<function name at 0x...>`."""
    found = re.fullmatch(r"<function ([\w.]+) at 0x[0-9a-f]+>|(\w+)", str(shown))
    return (found[1] or found[2]) if found else str(shown)


def _settings(
    data: Mapping[str, Any], annotations: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Entries that fit, in the types that are asked for, and all others."""
    taken, left_out = {}, {}
    for key, entry in data.items():
        if key in ("policy", "policy_kwargs", "observation_space", "action_space"):
            continue
        value = coerce(annotations[key], entry) if key in annotations else None
        if key in annotations and fits(annotations[key], value):
            taken[key] = value
        else:
            left_out[key] = entry
    return taken, left_out


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key}=(an object)" if isinstance(value, dict) else f"{key}={str(value)[:60]}"
        for key, value in values.items()
    )


def state_of(
    saved: SB2Model, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
) -> dict[str, Tensor]:
    """The state dict of the `Actor` that acts and values as the model did.

    For ACER it is an `Actor` with the heads `policy` and `q`, else an `ActorCritic`; its network
    is a `MlpPolicy` or `CnnPolicy` with `saved.policy_settings`.

    Args:
        saved: the model.
        observation_space: of one environment; pictures may have their channels first or last.
        action_space: of one environment.

    Raises:
        UserError: the model was trained in other spaces.
    """
    if saved.algorithm == "acer" and not isinstance(action_space, spaces.Discrete):
        raise UserError(f"ACER of stable-baselines acts in Discrete spaces only: {action_space}")
    stored = saved.observation_space
    picture = None
    if saved.network.pictures:
        picture = ImageFeatures(observation_space).shape
        if stored is None or not (is_bytes(stored) and is_bytes(observation_space)):
            raise UserError(
                f"CnnPolicy scales pictures by their bounds, and rlrun by 255: allowed are bytes "
                f"from 0 to 255. The model was trained on {stored or 'an unknown space'}, and the "
                f"environment gives {observation_space}. If only the model's is not told right, "
                f"say so: custom_objects={{'observation_space': spaces.Box(...)}}"
            )
        height_width_channels = (*picture[1:], picture[0])
        same = stored.shape == height_width_channels
    else:
        same = matches(stored, observation_space, bounds=False)
        same = same and VectorFeatures(observation_space).size == inputs(
            saved.parameters, saved.network
        )
    if not same:
        raise _other_space("observations", stored, observation_space)
    if not matches(saved.action_space, action_space, bounds=True):
        raise _other_space("actions", saved.action_space, action_space)
    head = KINDS[saved.algorithm].head
    return state(saved.parameters, saved.network, head, action_space, picture)


def _other_space(
    what: str, stored: spaces.Space[Any] | None, given: spaces.Space[Any]
) -> UserError:
    return UserError(
        f"the model's {what} are {stored or 'of another size'}, and the environment's {given}; "
        f"they must be the same. Give it the environment that it was trained in, or one wrapped to "
        f"be like it."
    )
