"""The policies of stable-baselines by name, their keyword arguments, and policies of the user."""

import functools
import itertools
import json

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from rlrun import config
from rlrun.api import policies
from rlrun.api.policies import NAMES, policy_node, register_policy, require_observations
from rlrun.policies.base import Head, Segment
from rlrun.policies.cnn import CnnPolicy
from rlrun.policies.encoder import EncoderPolicy, policy_maker
from rlrun.policies.lstm import LstmPolicy
from rlrun.policies.mlp import MlpPolicy
from rlrun.run.rng import generator
from rlrun.schema import UserError

HEADS = {"policy": Head(3), "value": Head(1)}
VECTOR = spaces.Box(-1, 1, (4,))
PICTURE = spaces.Box(0, 255, (40, 40, 3), np.uint8)
SMALL_PICTURE = spaces.Box(0, 255, (10, 10, 3), np.uint8)
CLASSES = {"Mlp": MlpPolicy, "Cnn": CnnPolicy}


def built(policy, space=VECTOR, **kwargs):
    """The policy that a name and keyword arguments lead to, by way of the config."""
    node, given = policy_node(policy, kwargs)
    assert json.loads(json.dumps(node)) == node
    made = config.instantiate(node, "policy", {"policy": given} if given else None)
    require_observations(policy, space)
    return policy_maker(made)(space, HEADS, generator(0, "init"))


def path_of(policy, observations, head):
    """Each linear layer on the way to a head, as it is run through, by its inputs and outputs."""
    found = []

    def hook(layer, args, output):
        found.append((args[0].shape[-1], output.shape[-1]))

    layers = [module for module in policy.modules() if isinstance(module, nn.Linear)]
    hooks = [layer.register_forward_hook(hook) for layer in layers]
    n = len(observations)
    segment = Segment.step(torch.zeros(n, policy.state_size), torch.ones(n, dtype=torch.bool))
    latents, _ = policy.encode(policy.features(observations), segment)
    policy.head(head, latents)
    for handle in hooks:
        handle.remove()
    return found


def paths(policy):
    return [path_of(policy, torch.randn(2, 4), head) for head in HEADS]


def ways(*widths):
    """Inputs and outputs of the layers between these widths."""
    return list(itertools.pairwise(widths))


# Names.


@pytest.mark.parametrize("name", NAMES)
def test_every_name(name):
    space = PICTURE if name.startswith("Cnn") else VECTOR
    policy = built(name, space)
    assert type(policy) is (LstmPolicy if "Lstm" in name else CLASSES[name[:3]])
    norms = sum(isinstance(module, nn.LayerNorm) for module in policy.modules())
    assert (norms > 0) == ("Ln" in name)
    convolutions = sum(isinstance(module, nn.Conv2d) for module in policy.modules())
    assert (convolutions > 0) == name.startswith("Cnn")


def test_a_name_alone_is_our_default():
    assert policy_node("MlpPolicy") == ({"_target_": "rlrun.policies.mlp.MlpPolicy"}, None)
    assert paths(built("MlpPolicy")) == [ways(4, 64, 64, 3), ways(4, 64, 64, 1)]


@pytest.mark.parametrize("name", ["CnnLstmPolicy", "CnnLnLstmPolicy", "CnnPolicy"])
@pytest.mark.parametrize("space", [VECTOR, spaces.Dict(a=VECTOR), spaces.Discrete(3)])
def test_a_name_for_pictures_needs_one(name, space):
    with pytest.raises(UserError, match=r"reads pictures.*(Use Mlp|policy=mlp)"):
        built(name, space)


@pytest.mark.parametrize("name", ["MlpLstmPolicy", "MlpLnLstmPolicy", "MlpPolicy"])
@pytest.mark.parametrize("space", [PICTURE, spaces.Dict(a=VECTOR, b=PICTURE)])
def test_a_name_for_vectors_takes_no_pictures(name, space):
    with pytest.raises(UserError, match=r"reads vectors.*pictures.*(Use Cnn|policy=cnn)"):
        built(name, space)


def test_small_pictures():
    built("MlpPolicy", SMALL_PICTURE)
    built("CnnLstmPolicy", SMALL_PICTURE)
    with pytest.raises(UserError, match="Use CnnLstmPolicy"):
        built("MlpLstmPolicy", SMALL_PICTURE)
    require_observations(LstmPolicy, SMALL_PICTURE)
    require_observations("rlrun.policies.lstm.LstmPolicy", SMALL_PICTURE)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("MlpPolic", r"did you mean MlpPolicy"),
        ("mlplstmpolicy", r"did you mean MlpLstmPolicy"),
        ("Transformer", r"no policy 'Transformer'; allowed: MlpPolicy, .*CnnLnLstmPolicy; a name"),
        ("no_such_package.Policy", "no policy 'no_such_package.Policy': No module named"),
        ("rlrun.policies.mlp.MlpPolcy", "no policy 'rlrun.policies.mlp.MlpPolcy'"),
    ],
)
def test_unknown_names(name, hint):
    with pytest.raises(ValueError, match=hint):
        policy_node(name)


# net_arch and the other words of stable-baselines.


@pytest.mark.parametrize(
    ("net_arch", "policy", "value"),
    [
        ([], [4, 3], [4, 1]),
        ([12, 11], [4, 12, 11, 3], [4, 12, 11, 1]),
        ([12, {"vf": [9, 8]}], [4, 12, 3], [4, 12, 9, 8, 1]),
        ([12, {"vf": [9], "pi": [6]}], [4, 12, 6, 3], [4, 12, 9, 1]),
        ([{"pi": (6, 7)}], [4, 6, 7, 3], [4, 1]),
    ],
)
@pytest.mark.parametrize("given", ["MlpPolicy", MlpPolicy, "rlrun.policies.mlp.MlpPolicy"])
def test_net_arch(net_arch, policy, value, given):
    assert paths(built(given, net_arch=net_arch)) == [ways(*policy), ways(*value)]


@pytest.mark.parametrize(
    ("net_arch", "before", "policy", "value"),
    [
        (["lstm"], [4], [5, 3], [5, 1]),
        ([8, "lstm", {"vf": [6, 10], "pi": [10]}], [4, 8], [5, 10, 3], [5, 6, 10, 1]),
        ([8, 7, "lstm", 9, {"vf": [6]}], [4, 8, 7], [5, 9, 3], [5, 9, 6, 1]),
    ],
)
@pytest.mark.parametrize("given", ["MlpLstmPolicy", LstmPolicy])
def test_net_arch_with_a_memory(net_arch, before, policy, value, given):
    found = paths(built(given, net_arch=net_arch, n_lstm=5))
    cell = [(before[-1] + 5, 20)]
    assert found == [ways(*before) + cell + ways(*each) for each in (policy, value)]


def test_net_arch_behind_convolutions():
    net_arch = ["lstm", 9, {"vf": [6]}]
    policy = built("CnnLstmPolicy", PICTURE, net_arch=net_arch, n_lstm=5, features_dim=7)
    pictures = torch.zeros(2, 40, 40, 3, dtype=torch.uint8)
    assert path_of(policy, pictures, "value")[1:] == [(12, 20), (5, 9), (9, 6), (6, 1)]


def test_layers():
    assert paths(built("MlpPolicy", layers=[7, 6])) == [ways(4, 7, 6, 3), ways(4, 7, 6, 1)]
    found = paths(built("MlpLstmPolicy", layers=[7, 6], n_lstm=5))
    assert found == [[*ways(4, 7, 6), (11, 20), (5, out)] for out in (3, 1)]


@pytest.mark.parametrize(
    ("given", "layer"),
    [
        (torch.tanh, nn.Tanh),
        (nn.Tanh, nn.Tanh),
        (nn.functional.relu, nn.ReLU),
        (nn.ReLU, nn.ReLU),
        (nn.ReLU(), nn.ReLU),
        ("elu", nn.ELU),
        (nn.ELU, nn.ELU),
    ],
)
@pytest.mark.parametrize("word", ["act_fun", "activation_fn", "activation"])
def test_activations(given, layer, word):
    found = built("MlpPolicy", net_arch=[8, {"pi": [7]}], **{word: given})
    assert isinstance(found.shared[1], layer)
    assert isinstance(found.heads["policy"][1], layer)


def test_our_own_words_pass_through():
    found = built("MlpPolicy", hidden=[7], layer_norm=True)
    assert isinstance(found.heads["value"][1], nn.LayerNorm)
    found = built("CnnPolicy", PICTURE, filters=(2, 3, 4), features_dim=5)
    assert found.heads["value"][0].in_features == 5
    found = built("MlpLnLstmPolicy", forget_bias=3.0, lstm_size=4)
    assert found.state_size == 8
    assert policy_node("CnnPolicy", {"feature_extraction": "cnn"}) == policy_node("CnnPolicy")
    assert policy_node("MlpLstmPolicy", {"feature_extraction": "mlp"})[0] == {
        "_target_": "rlrun.policies.lstm.LstmPolicy"
    }


@pytest.mark.parametrize(
    ("policy", "kwargs", "hint"),
    [
        ("MlpPolicy", {"net_arch": 64}, r"net_arch: 64 is not allowed; allowed: net_arch=\["),
        ("MlpPolicy", {"net_arch": "64"}, "is not allowed"),
        ("MlpPolicy", {"net_arch": {"pi": [64]}}, r"dict\(pi="),
        ("MlpPolicy", {"net_arch": [64, 0]}, "is not allowed"),
        ("MlpPolicy", {"net_arch": [True]}, "is not allowed"),
        ("MlpPolicy", {"net_arch": [64, "lstm"]}, "is not allowed"),
        ("MlpPolicy", {"net_arch": [{"pi": [64]}, 64]}, "is not allowed"),
        ("MlpPolicy", {"net_arch": [{"pi": [64], "qf": [64]}]}, "is not allowed"),
        ("MlpPolicy", {"net_arch": [{"pi": 64}]}, "is not allowed"),
        ("MlpLstmPolicy", {"net_arch": [64]}, "'lstm' once"),
        ("MlpLstmPolicy", {"net_arch": ["lstm", "lstm"]}, "'lstm' once"),
        ("MlpLstmPolicy", {"net_arch": [{"pi": ["lstm"]}]}, "'lstm' once"),
        ("CnnLstmPolicy", {"net_arch": [8, "lstm"]}, "convolutions before 'lstm'"),
        ("CnnPolicy", {"net_arch": [8]}, "not for CnnPolicy; set filters"),
        ("CnnPolicy", {"act_fun": "relu"}, "not for CnnPolicy"),
        ("CnnLstmPolicy", {"layers": [8]}, "not for CnnLstmPolicy"),
        ("MlpPolicy", {"net_arch": [8], "layers": [8]}, "two of them set hidden of MlpPolicy"),
        ("MlpPolicy", {"activation": "elu", "act_fun": "elu"}, "two of them set activation"),
        ("MlpPolicy", {"act_fun": nn.GELU}, "GELU is not allowed; allowed: tanh, relu, elu"),
        ("MlpPolicy", {"act_fun": lambda x: x}, "is not allowed; allowed: tanh"),
        ("MlpPolicy", {"feature_extraction": "cnn"}, "'cnn' does not go with MlpPolicy"),
        ("CnnLnLstmPolicy", {"feature_extraction": "mlp"}, "does not go with CnnLnLstmPolicy"),
        (LstmPolicy, {"feature_extraction": "mlp"}, "choose a policy by its name"),
        ("CnnPolicy", {"cnn_extractor": print}, "encoder of your own"),
        ("MlpPolicy", {"features_extractor_class": nn.Flatten}, "encoder of your own"),
        ("MlpPolicy", {"hidden": np.array([3])}, r"hidden: array\(\[3\]\) cannot be written"),
        ("MlpPolicy", {"hidden": [np.int64(3)]}, "hidden: np.int64.* cannot be written"),
    ],
)
def test_what_cannot_be_translated_is_refused(policy, kwargs, hint):
    with pytest.raises(ValueError, match=hint):
        policy_node(policy, kwargs)


@pytest.mark.parametrize("kwargs", [{"n_lstm": 8}, {"hiden": [8]}, {"hidden": [0]}])
def test_the_rest_is_checked_with_the_config(kwargs):
    with pytest.raises(UserError, match=rf"policy\.{next(iter(kwargs))}: "):
        built("MlpPolicy", **kwargs)


# Classes of the user.


class Mine(MlpPolicy):
    """Has a `net_arch` of its own."""

    def __init__(self, *args, net_arch: str = "wide", **settings):
        super().__init__(*args, **settings)
        self.net_arch = net_arch


class Wide(nn.Module):
    def __init__(self, observation_space, width=8):
        super().__init__()
        self.layer = nn.Linear(observation_space.shape[0], width)

    def forward(self, features):
        return self.layer(features).tanh()


def test_a_class():
    node, given = policy_node(Mine, {"net_arch": "deep", "hidden": (5,)})
    assert node == {"_target_": f"{__name__}.Mine", "net_arch": "deep", "hidden": [5]}
    assert given is Mine
    assert built(Mine, net_arch="deep").net_arch == "deep"
    assert policy_node(f"{__name__}.Mine") == ({"_target_": f"{__name__}.Mine"}, None)
    assert type(built(f"{__name__}.Mine", hidden=[4])).__name__ == "Mine"


def test_a_class_that_has_no_name_to_import_it_by():
    class Local(Wide):
        pass

    node, given = policy_node(Local, {"width": 3})
    assert node == {"_target_": f"{__name__}.{Local.__qualname__}", "width": 3}
    assert given is Local
    policy = built(Local, width=3)
    assert type(policy.encoder) is Local
    assert paths(policy) == [ways(4, 3, 3), ways(4, 3, 1)]
    function = built(lambda space, heads, rng: MlpPolicy(space, heads, rng, hidden=[2]))
    assert paths(function) == [ways(4, 2, 3), ways(4, 2, 1)]


@pytest.mark.parametrize("given", [EncoderPolicy, "rlrun.policies.encoder.EncoderPolicy"])
@pytest.mark.parametrize(
    "encoder",
    [
        functools.partial(Wide, width=6),
        {"_target_": f"{__name__}.Wide", "_partial_": True, "width": 6},
        {"_target_": f"{__name__}.Wide", "width": 6},
    ],
)
def test_an_encoder_with_layers_after_it(given, encoder):
    policy = built(given, encoder=encoder, hidden=[5], critic_hidden=[7])
    assert paths(policy) == [ways(4, 6, 5, 3), ways(4, 6, 7, 1)]
    nested = {"_target_": f"{__name__}.Wide", "_partial_": True, "width": 6}
    assert policy_node(given, {"encoder": encoder})[0]["encoder"] == nested


def test_encoders_that_no_file_can_name():
    class Local(Wide):
        pass

    with pytest.raises(ValueError, match="top of a module, or give it as the policy itself"):
        policy_node(EncoderPolicy, {"encoder": Local})
    with pytest.raises(ValueError, match=r"allowed: a subclass of torch\.nn\.Module"):
        policy_node(EncoderPolicy, {"encoder": Wide(VECTOR)})
    with pytest.raises(ValueError, match="partial of one with its settings by name"):
        policy_node(EncoderPolicy, {"encoder": functools.partial(Wide, VECTOR)})
    with pytest.raises(ValueError, match=r"encoder\.width: tensor\(3\) cannot be written"):
        policy_node(EncoderPolicy, {"encoder": functools.partial(Wide, width=torch.tensor(3))})


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(policies, "_registered", {})


@pytest.mark.usefixtures("registry")
def test_registered_policies():
    with pytest.raises(ValueError, match="no policy 'Mine'"):
        policy_node("Mine")
    register_policy("Mine", Mine)
    register_policy("Wide", Wide)
    assert policy_node("Mine", {"hidden": [3]}) == (
        {"_target_": f"{__name__}.Mine", "hidden": [3]},
        Mine,
    )
    assert type(built("Wide", width=3).encoder) is Wide
    for name in ("Mine", "MlpPolicy"):
        with pytest.raises(ValueError, match=f"a policy '{name}' already"):
            register_policy(name, Wide)
    with pytest.raises(ValueError, match=r"did you mean Wide\? .*CnnLnLstmPolicy, Mine, Wide;"):
        policy_node("Wid")


@pytest.mark.parametrize("wrong", [int, 3, Wide(VECTOR), functools.partial(Wide, width=3), [1]])
def test_what_is_no_class_of_modules(wrong):
    with pytest.raises(TypeError, match=r"no subclass of torch\.nn\.Module|give a name or a class"):
        policy_node(wrong)
    with pytest.raises(TypeError, match="policy: "):
        register_policy("Wrong", wrong)
