"""The policies of stable-baselines by their names, and those of the user, as nodes of a config."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from gymnasium import spaces
from torch import nn

from rlrun.api.policy_kwargs import plain, translated
from rlrun.policies.layers import has_picture
from rlrun.schema import UserError, nearest
from rlrun.stored import resolve

_MLP, _CNN = "rlrun.policies.mlp.MlpPolicy", "rlrun.policies.cnn.CnnPolicy"
_LSTM = "rlrun.policies.lstm.LstmPolicy"
_ENCODER = "rlrun.policies.encoder.EncoderPolicy"

NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "MlpPolicy": (_MLP, {}),
    "MlpLstmPolicy": (_LSTM, {}),
    "MlpLnLstmPolicy": (_LSTM, {"layer_norm": True}),
    "CnnPolicy": (_CNN, {}),
    "CnnLstmPolicy": (_LSTM, {}),
    "CnnLnLstmPolicy": (_LSTM, {"layer_norm": True}),
}
"""Dotted name of our class, and settings of it, for each name of stable-baselines."""

_READS_PICTURES = {_MLP: False, _CNN: True, _LSTM: None}

_registered: dict[str, Callable[..., Any]] = {}


def register_policy(name: str, policy: type[nn.Module]) -> None:
    """Let `policy` be known by `name` from here on, as in `ACER("MyPolicy", env)`.

    Args:
        name: not yet taken.
        policy: class of a policy, or of a module that is to be the encoder of one.

    Raises:
        ValueError: the name is taken.
        TypeError: `policy` is no such class.
    """
    if name in NAMES or name in _registered:
        raise ValueError(f"there is a policy {name!r} already; choose another name")
    _require_maker(policy)
    _registered[name] = policy


def policy_node(
    policy: str | Callable[..., Any], policy_kwargs: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], Callable[..., Any] | None]:
    """The node of a config that names a policy, and what builds it if that was an object.

    Args:
        policy: a name of `NAMES`, a registered one, or a dotted one (`my_package.MyPolicy`); or a
            class: a `Policy`, or any other `nn.Module` as the encoder of one. A function that
            makes a policy will do as well.
        policy_kwargs: settings of that class. For our own networks also in the words of
            stable-baselines: `net_arch`, `layers`, `act_fun`, `n_lstm`, `feature_extraction`.

    Returns:
        `{"_target_": dotted name, **settings}` of plain data; and the class that was given or that
        is registered by the name, None if the node says all.

    Raises:
        ValueError: an unknown name, or settings that do not fit.
        TypeError: `policy` is neither a name nor a class.
    """
    settings = dict(policy_kwargs or {})
    own: dict[str, Any] = {}
    given = _registered.get(policy) if isinstance(policy, str) else policy
    if given is not None:
        _require_maker(given)
        name, target = given.__qualname__, f"{given.__module__}.{given.__qualname__}"
    else:
        assert isinstance(policy, str)
        name = target = policy
        if policy in NAMES:
            target, own = NAMES[policy]
        else:
            _require_known(policy)
    if target in _READS_PICTURES:
        pictures = name.startswith("Cnn") if name in NAMES else _READS_PICTURES[target]
        settings = translated(settings, name, target == _LSTM, pictures)
    elif target == _ENCODER:
        given = None  # its encoder is a node of its own
        if "encoder" in settings:
            settings["encoder"] = _encoder_node(settings["encoder"])
    return {"_target_": target, **own, **plain(settings)}, given


def require_observations(policy: str | Callable[..., Any], space: spaces.Space[Any]) -> None:
    """Refuse observations that the name of a recurrent policy is wrong about.

    The class behind these names looks for pictures itself. All other policies refuse by
    themselves what they cannot read.

    Args:
        policy: as for `policy_node`.
        space: of the observations of one environment.

    Raises:
        UserError: a `Cnn` name and no picture, or an `Mlp` name and one.
    """
    if not isinstance(policy, str) or NAMES.get(policy, ("", {}))[0] != _LSTM:
        return
    pictures = has_picture(space)
    if pictures and policy.startswith("Mlp"):
        other = policy.replace("Mlp", "Cnn")
        raise UserError(f"{policy} reads vectors, and there are pictures in {space}. Use {other}.")
    if not pictures and policy.startswith("Cnn"):
        other = policy.replace("Cnn", "Mlp")
        raise UserError(f"{policy} reads pictures, and there are none in {space}. Use {other}.")


def _require_known(name: str) -> None:
    """Raise ValueError unless something can be imported by this dotted name."""
    if "." not in name:
        known = [*NAMES, *_registered]
        near = nearest(name, known)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(
            f"there is no policy {name!r}; {hint}allowed: {', '.join(known)}; a name as in "
            f"my_package.MyPolicy; or a class"
        )
    try:
        resolve(name)
    except Exception as error:  # whatever an import may raise
        raise ValueError(f"there is no policy {name!r}: {error}") from error


def _require_maker(policy: Any) -> None:
    """Raise TypeError unless this is a class of modules, or a function."""
    if isinstance(policy, type) and not issubclass(policy, nn.Module):
        raise TypeError(f"policy: {policy.__name__} is no subclass of torch.nn.Module")
    if isinstance(policy, nn.Module) or not hasattr(policy, "__qualname__"):
        raise TypeError(
            f"policy: give a name or a class, not an object of {type(policy).__name__}; the "
            f"settings of the class go to policy_kwargs"
        )


def _encoder_node(encoder: Any) -> Any:
    """The nested node of an encoder that is given as a class, or as a partial of one."""
    if isinstance(encoder, Mapping):
        return {"_partial_": True, **encoder}
    made, settings = encoder, {}
    if isinstance(encoder, partial) and not encoder.args:
        made, settings = encoder.func, encoder.keywords
    if not (isinstance(made, type) and issubclass(made, nn.Module)):
        raise ValueError(
            f"policy_kwargs: encoder: {encoder!r} is not allowed; allowed: a subclass of "
            f"torch.nn.Module, or a functools.partial of one with its settings by name"
        )
    name = f"{made.__module__}.{made.__qualname__}"
    try:
        found = resolve(name)
    except (ImportError, AttributeError):
        found = None
    if found is not made:
        raise ValueError(
            f"policy_kwargs: encoder: {name} cannot be found by this name; define the class at the "
            f"top of a module, or give it as the policy itself"
        )
    return {"_target_": name, "_partial_": True, **settings}
