"""The `policy_kwargs` of stable-baselines as settings of our networks, and as plain data."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlrun.policies.heads import ACTIVATIONS

_NET_ARCH = "net_arch=[<shared widths>, dict(pi=[<widths>], vf=[<widths>])]"
_EXTRACTOR = "give an encoder of your own, any torch.nn.Module class, as the policy itself"
_REFUSED = {
    "cnn_extractor": _EXTRACTOR,
    "features_extractor_class": _EXTRACTOR,
    "features_extractor_kwargs": f"{_EXTRACTOR}, and these as its policy_kwargs",
}
_PICTURES = f"set filters and features_dim, or {_EXTRACTOR}"


def translated(
    kwargs: Mapping[str, Any], policy: str, recurrent: bool, pictures: bool | None
) -> dict[str, Any]:
    """Settings of our class that `kwargs`, in our words or those of stable-baselines, stand for.

    Args:
        kwargs: of the policy.
        policy: its name in messages.
        recurrent: is it the class with a memory?
        pictures: does its name say that it reads pictures? None if it says nothing.

    Raises:
        ValueError: there is no such setting here, or its value does not fit.
    """
    found: dict[str, Any] = {}
    for name, value in kwargs.items():
        for setting, new in _words(name, value, policy, recurrent, pictures).items():
            if setting in found:
                raise ValueError(
                    f"policy_kwargs: {', '.join(kwargs)}: two of them set {setting} of {policy}; "
                    f"give one"
                )
            found[setting] = new
    return found


def _words(
    name: str, value: Any, policy: str, recurrent: bool, pictures: bool | None
) -> dict[str, Any]:
    """One of the `policy_kwargs` as settings of our class."""
    if name in _REFUSED:
        raise ValueError(f"policy_kwargs: {name}: there is no such thing here; {_REFUSED[name]}")
    if name == "feature_extraction":
        if pictures is None or value != ("cnn" if pictures else "mlp"):
            raise ValueError(
                f"policy_kwargs: feature_extraction: {value!r} does not go with {policy}; leave it "
                f"out, and choose a policy by its name, such as CnnPolicy or MlpLstmPolicy"
            )
        return {}
    of_vectors = {"layers"} if recurrent else {"layers", "net_arch", "act_fun", "activation_fn"}
    if pictures and name in of_vectors:
        raise ValueError(f"policy_kwargs: {name}: not for {policy}; {_PICTURES}")
    if name in ("act_fun", "activation_fn", "activation"):
        return {"activation": _activation(name, value)}
    if name == "n_lstm" and recurrent:
        return {"lstm_size": value}
    if name == "layers":
        return {"before" if recurrent else "hidden": value}
    if name == "net_arch":
        return _net_arch(value, policy, recurrent, pictures)
    return {name: value}


def _activation(name: str, value: Any) -> str:
    """`tanh` of `torch.tanh`, `nn.Tanh`, `tf.tanh` or `"tanh"`, and so on."""
    word = value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__)
    if word.lower() not in ACTIVATIONS:
        raise ValueError(
            f"policy_kwargs: {name}: {word} is not allowed; allowed: {', '.join(ACTIVATIONS)}"
        )
    return str(word.lower())


def _net_arch(
    layers: Any, policy: str, recurrent: bool, pictures: bool | None
) -> dict[str, list[int]]:
    """Widths of shared layers, with `lstm` among them if there is a memory, then `pi` and `vf`."""
    among = ", with 'lstm' once among the shared widths" if recurrent else ""
    wrong = ValueError(
        f"policy_kwargs: net_arch: {layers!r} is not allowed; allowed: {_NET_ARCH}{among}"
    )
    if not isinstance(layers, Sequence) or isinstance(layers, str):
        raise wrong
    shared = list(layers)
    towers = shared.pop() if shared and isinstance(shared[-1], Mapping) else {}
    policy_tower, value_tower = towers.get("pi", []), towers.get("vf", [])
    before: list[int] = []
    if recurrent:
        if shared.count("lstm") != 1:
            raise wrong
        place = shared.index("lstm")
        before, shared = shared[:place], shared[place + 1 :]
    widths = (before, shared, policy_tower, value_tower)
    if not set(towers) <= {"pi", "vf"} or not all(map(_are_widths, widths)):
        raise wrong
    if not recurrent:
        return {"shared": shared, "hidden": policy_tower, "critic_hidden": value_tower}
    if pictures and before:
        raise ValueError(
            f"policy_kwargs: net_arch: {layers!r}: {policy} has convolutions before 'lstm' and no "
            f"other layers; {_PICTURES}"
        )
    ahead = {} if pictures else {"before": before}
    return {**ahead, "after": shared, "towers": policy_tower, "critic_towers": value_tower}


def _are_widths(widths: Any) -> bool:
    return isinstance(widths, list | tuple) and all(
        isinstance(width, int) and not isinstance(width, bool) and width > 0 for width in widths
    )


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as the data of a config, in which tuples are lists.

    Raises:
        ValueError: something in them cannot be written to a file.
    """
    return {str(name): _plain(f"policy_kwargs: {name}", value) for name, value in settings.items()}


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(f"{key}.{name}", entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(key, item) for item in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise ValueError(
        f"{key}: {value!r} cannot be written to the config of a saved model; allowed: numbers, "
        f"texts, true, false, None, and lists and dicts of these"
    )
