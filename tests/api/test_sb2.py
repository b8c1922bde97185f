"""Models of stable-baselines against a forward pass in NumPy that lays pictures out as they did."""

import base64
import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlrun.algorithms.acer_exact import Exact
from rlrun.api.sb2 import file as sb2_file
from rlrun.api.sb2 import model as sb2
from rlrun.api.sb2.moments import moments
from rlrun.functional.distributions import Probabilities
from rlrun.policies.actor import Actor
from rlrun.policies.actor_critic import ActorCritic
from rlrun.policies.cnn import CnnPolicy
from rlrun.policies.mlp import MlpPolicy
from rlrun.policies.moments import Normalized
from rlrun.schema import UserError
from rlrun.spaces import acting

ACER = {
    "gamma": 0.98,
    "n_steps": 10,
    "q_coef": 0.4,
    "ent_coef": 0.02,
    "max_grad_norm": 10,
    "learning_rate": 1e-3,
    "lr_schedule": "constant",
    "rprop_alpha": 0.9,
    "rprop_epsilon": 1e-4,
    "replay_ratio": 2,
    "replay_start": 500,
}
ACKTR = {
    "gamma": 0.99,
    "gae_lambda": None,
    "n_steps": 20,
    "vf_coef": 0.25,
    "vf_fisher_coef": 1.0,
    "kfac_clip": 0.002,
    "kfac_update": 1,
    "lr_schedule": "linear",
}
A2C = {
    "gamma": 0.9,
    "vf_coef": 0.5,
    "alpha": 0.95,
    "epsilon": 1e-6,
    "lr_schedule": "linear",
    "learning_rate": 5e-4,
}
DATA = {"acer": ACER, "acktr": ACKTR, "a2c": A2C}
COMMON = {"verbose": 1, "n_envs": 4, "seed": None, "n_cpu_tf_sess": 1, "_vectorize_action": False}

VECTOR = spaces.Box(-1.0, 1.0, (5,))
PICTURE = spaces.Box(0, 255, (40, 52, 3), np.uint8)
DISCRETE = spaces.Discrete(4)
FACTORS = spaces.MultiDiscrete([3, 2])
BOX = spaces.Box(np.array([-2.0, 0.0, -np.inf], "f"), np.array([6.0, 0.5, np.inf], "f"))
ACTIONS = {"discrete": DISCRETE, "box": BOX, "factors": FACTORS}
TOWERS = {
    "default": ([], [64, 64], [64, 64]),
    "different": ([], [7], [9, 8, 6]),
    "shared": ([11, 10], [7], []),
    "linear": ([], [], []),
}
FUNCTIONS = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0)}
FUNCTIONS["elu"] = lambda x: np.where(x > 0, x, np.expm1(x))


def described(space):
    """A space as the file shows it, with something that must not be loaded."""
    shown = {":type:": f"<class 'gym.spaces.x.{type(space).__name__}'>", ":serialized:": "!"}
    if isinstance(space, spaces.Box):
        fields = {"dtype": str(space.dtype), "low": str(space.low), "high": str(space.high)}
        return shown | fields | {"shape": list(space.shape)}
    if isinstance(space, spaces.MultiDiscrete):
        return shown | {"nvec": str(space.nvec)}
    return shown | {"n": int(space.n)}


def policy_class(name, module="stable_baselines.common.policies"):
    return {
        ":type:": "<class 'abc.ABCMeta'>",
        ":serialized:": "!",
        "__module__": module,
        "__init__": f"<function {name}.__init__ at 0x7f01>",
    }


def data_of(algorithm, observed, acted, name="MlpPolicy", /, **more):
    entries = {
        "policy": policy_class(name),
        "policy_kwargs": {},
        "observation_space": described(observed),
        "action_space": described(acted),
    }
    return DATA[algorithm] | COMMON | entries | more


def layers_of(shapes, rng, bias_shape=(-1,)):
    """Weights of the given shapes, and biases."""
    found = {}
    for name, shape in shapes.items():
        found[f"model/{name}/w:0"] = rng.normal(0, shape[-2] ** -0.5, shape).astype("f")
        found[f"model/{name}/b:0"] = rng.normal(0, 0.5, shape[-1]).astype("f").reshape(bias_shape)
    return found


def outputs_of(space):
    if isinstance(space, spaces.Box):
        return space.shape[0]
    return int(np.sum(getattr(space, "nvec", getattr(space, "n", None))))


def pictures_of(shape, n=6):
    """Noise, of another brightness in each picture."""
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (n, *shape)) * rng.random((n, 1, 1, shape[2]))
    return noise.astype(np.uint8)


def heads_of(space, pi, vf, rng):
    n = outputs_of(space)
    found = layers_of({"vf": (vf, 1), "pi": (pi, n), "q": (vf, n)}, rng)
    if isinstance(space, spaces.Box):
        found["model/pi/logstd:0"] = rng.normal(size=(1, n)).astype("f")
    return found


def mlp_parameters(size, towers, space, seed=0):
    rng = np.random.default_rng(seed)
    shared, pi, vf = towers
    widths, ends = {}, []
    for name, tower, start in (("shared", shared, size), ("pi", pi, None), ("vf", vf, None)):
        before = start or ends[0]
        for i, width in enumerate(tower):
            widths[f"{name}_fc{i}"] = before, width
            before = width
        ends.append(before)
    return layers_of(widths, rng) | heads_of(space, ends[1], ends[2], rng)


def cnn_parameters(shape, space, flat, bias_shape=(1, -1, 1, 1), seed=0):
    rng = np.random.default_rng(seed)
    kernels = {"c1": (8, 8, shape[2], 4), "c2": (4, 4, 4, 5), "c3": (3, 3, 5, 6)}
    found = layers_of(kernels, rng, bias_shape) | layers_of({"fc1": (flat, 7)}, rng)
    return found | heads_of(space, 7, 7, rng)


def npz(arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def write(path, data, parameters, /, **members):
    raw = {
        "data": json.dumps(data),
        "parameters": npz(parameters),
        "parameter_list": json.dumps(list(parameters)),
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (raw | members).items():
            archive.writestr(name, content)
    return path


def dense(parameters, name, x):
    return x @ parameters[f"model/{name}/w:0"] + parameters[f"model/{name}/b:0"]


def mlp_forward(parameters, x, activation):
    """Outputs pi, vf and q of vectors."""

    def climb(prefix, x):
        i = 0
        while f"model/{prefix}_fc{i}/w:0" in parameters:
            x = FUNCTIONS[activation](dense(parameters, f"{prefix}_fc{i}", x))
            i += 1
        return x

    latent = climb("shared", x)
    pi, vf = climb("pi", latent), climb("vf", latent)
    return dense(parameters, "pi", pi), dense(parameters, "vf", vf), dense(parameters, "q", vf)


def cnn_forward(parameters, pictures):
    """Outputs pi, vf and q of bytes `[N, H, W, C]`, position by position."""
    x = pictures.astype(np.float64) / 255.0
    for name, stride in (("c1", 4), ("c2", 2), ("c3", 1)):
        w, b = parameters[f"model/{name}/w:0"], parameters[f"model/{name}/b:0"].reshape(-1)
        k = w.shape[0]
        rows = [
            [
                np.tensordot(x[:, i : i + k, j : j + k], w, axes=3)
                for j in range(0, x.shape[2] - k + 1, stride)
            ]
            for i in range(0, x.shape[1] - k + 1, stride)
        ]
        x = np.maximum(np.array(rows).transpose(2, 0, 1, 3) + b, 0)
    latent = np.maximum(dense(parameters, "fc1", x.reshape(len(x), -1)), 0)
    return tuple(dense(parameters, name, latent) for name in ("pi", "vf", "q"))


def built(saved, observed, acted):
    """rlrun's network with the parameters of the file."""
    policy_class = {"MlpPolicy": MlpPolicy, "CnnPolicy": CnnPolicy}[saved.policy]
    acer = saved.algorithm == "acer"
    heads = Exact.heads(acted) if acer else ActorCritic.heads(acted)
    policy = policy_class(observed, heads, torch.Generator(), **saved.policy_settings)
    if acer:
        actor = Actor(policy, Probabilities(), int(acted.n), 0.0)
    else:
        actor = ActorCritic(policy, acted)
    actor.load_state_dict(sb2.state_of(saved, observed, acted))
    return actor


def run(actor, algorithm, observations):
    """Statistics, output of the critic, and the most probable actions."""
    n = len(observations)
    rows, first, memory = torch.from_numpy(observations), torch.ones(n).bool(), torch.zeros(n, 0)
    with torch.no_grad():
        latents, _ = actor.encode(rows, first, memory)
        critic = actor.policy.head("q" if algorithm == "acer" else "value", latents)
        statistics = actor.statistics(latents)
    return statistics.numpy(), critic.numpy(), actor.act(rows, first, memory, None).actions.numpy()


def assert_same(actor, algorithm, acted, observations, outputs, parameters):
    """Distributions, values, and actions in the units of the environment."""
    pi, vf, q = outputs
    statistics, critic, actions = run(actor, algorithm, observations)
    actions = acting(acted)(actions)
    assert np.ptp(pi, 0).min() > 0.01  # observations make a difference
    np.testing.assert_allclose(critic, q if algorithm == "acer" else vf, rtol=1e-4, atol=1e-5)
    if isinstance(acted, spaces.Box):
        np.testing.assert_allclose(actions, np.clip(pi, acted.low, acted.high), atol=1e-5)
        assert not np.array_equal(actions, np.clip(0.0 * pi, acted.low, acted.high))
        half = [4.0, 0.25, 1.0]  # of BOX; the last has no bounds and keeps its units
        deviations = np.exp(parameters["model/pi/logstd:0"]).repeat(len(pi), 0)
        np.testing.assert_allclose(np.exp(statistics[:, 3:]) * half, deviations, rtol=1e-5)
    elif isinstance(acted, spaces.MultiDiscrete):
        np.testing.assert_allclose(statistics, pi, atol=1e-5)
        expected = [pi[:, :3].argmax(1), pi[:, 3:].argmax(1)]
        np.testing.assert_array_equal(actions, np.stack(expected, 1))
    else:
        probabilities = np.exp(pi) / np.exp(pi).sum(1, keepdims=True)
        if algorithm != "acer":  # others keep the logits
            statistics = np.exp(statistics) / np.exp(statistics).sum(1, keepdims=True)
        np.testing.assert_allclose(statistics, probabilities, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(actions, pi.argmax(1))


WHERE = [("acer", "discrete")] + [(a, s) for a in ("acktr", "a2c") for s in ACTIONS]


@pytest.mark.parametrize("towers", TOWERS)
@pytest.mark.parametrize(("algorithm", "actions"), WHERE)
def test_a_network_for_vectors_computes_the_same(tmp_path, algorithm, actions, towers):
    acted = ACTIONS[actions]
    parameters = mlp_parameters(5, TOWERS[towers], acted)
    saved = sb2.read(write(tmp_path / "m.zip", data_of(algorithm, VECTOR, acted), parameters))
    shared, hidden, critic = TOWERS[towers]
    assert (saved.algorithm, saved.policy) == (algorithm, "MlpPolicy")
    assert saved.policy_settings == {
        "shared": shared,
        "hidden": hidden,
        "critic_hidden": critic,
        "activation": "tanh",
    }
    x = np.random.default_rng(1).normal(0, 2, (30, 5)).astype("f")
    outputs = mlp_forward(parameters, x, "tanh")
    assert_same(built(saved, VECTOR, acted), algorithm, acted, x, outputs, parameters)


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_the_activation_is_told_by_the_name_of_its_function(tmp_path, activation):
    kwargs = {":type:": "<class 'dict'>", ":serialized:": "!", "net_arch": [3]}
    kwargs["act_fun"] = f"<function {activation} at 0x7fdeadbeef>"
    parameters = mlp_parameters(5, ([12], [9], [8]), DISCRETE)
    data = data_of("acktr", VECTOR, DISCRETE, policy_kwargs=kwargs)
    saved = sb2.read(write(tmp_path / "m.zip", data, parameters))
    assert saved.policy_settings["activation"] == activation
    x = np.random.default_rng(1).normal(0, 2, (30, 5)).astype("f")
    outputs = mlp_forward(parameters, x, activation)
    assert_same(built(saved, VECTOR, DISCRETE), "acktr", DISCRETE, x, outputs, parameters)


@pytest.mark.parametrize("bias_shape", [(1, -1, 1, 1), (-1,)])
@pytest.mark.parametrize(("algorithm", "actions"), WHERE)
def test_a_network_for_pictures_computes_the_same(tmp_path, algorithm, actions, bias_shape):
    acted = ACTIONS[actions]
    flat = 1 * 3 * 6  # 40 x 52 -> 9 x 12 -> 3 x 5 -> 1 x 3
    parameters = cnn_parameters(PICTURE.shape, acted, flat, bias_shape)
    data = data_of(algorithm, PICTURE, acted, "CnnPolicy")
    saved = sb2.read(write(tmp_path / "m.zip", data, parameters))
    assert saved.policy == "CnnPolicy"
    assert saved.policy_settings == {"filters": [4, 5, 6], "features_dim": 7}
    assert saved.observation_space == PICTURE  # though NumPy has left out most of its bounds
    pictures = pictures_of(PICTURE.shape)
    outputs = cnn_forward(parameters, pictures)
    assert_same(built(saved, PICTURE, acted), algorithm, acted, pictures, outputs, parameters)


def test_pictures_may_have_their_channels_first(tmp_path):
    shape = (60, 44, 4)  # -> 14 x 10 -> 6 x 4 -> 4 x 2
    last = spaces.Box(0, 255, shape, np.uint8)
    first = spaces.Box(0, 255, (4, 60, 44), np.uint8)
    parameters = cnn_parameters(shape, DISCRETE, 4 * 2 * 6)
    data = data_of("acer", last, DISCRETE, "CnnPolicy")
    saved = sb2.read(write(tmp_path / "m.zip", data, parameters))
    pictures = pictures_of(shape)
    outputs = cnn_forward(parameters, pictures)
    moved = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))
    assert_same(built(saved, first, DISCRETE), "acer", DISCRETE, moved, outputs, parameters)
    assert_same(built(saved, last, DISCRETE), "acer", DISCRETE, pictures, outputs, parameters)


@pytest.mark.parametrize(
    ("space", "observations", "seen"),
    [
        (spaces.Discrete(5), np.array([3, 0]), np.eye(5)[[3, 0]]),
        (
            spaces.MultiDiscrete([2, 3]),
            np.array([[1, 0], [0, 2]]),
            np.array([[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]),
        ),
        (
            spaces.MultiBinary(5),
            np.array([[1, 0, 0, 1, 1], [0, 1, 0, 0, 0]], np.int8),
            np.array([[1, 0, 0, 1, 1], [0, 1, 0, 0, 0]]),
        ),
        (
            spaces.Box(0, 255, (5,), np.uint8),
            np.array([[255, 0, 9, 7, 1], [0, 1, 2, 3, 4]], np.uint8),
            np.array([[255, 0, 9, 7, 1], [0, 1, 2, 3, 4]]),
        ),
        (
            spaces.Box(-3, 3, (1, 5), np.float64),
            np.array([[[1.5, 0, 0, 1, 1]], [[0, 1, 0, -2.5, 0]]], "f"),
            np.array([[1.5, 0, 0, 1, 1], [0, 1, 0, -2.5, 0]]),
        ),
    ],
    ids=["discrete", "factors", "bits", "bytes unscaled", "rows"],
)
def test_all_that_is_no_picture_is_read_alike(tmp_path, space, observations, seen):
    parameters = mlp_parameters(5, ([], [6], [6]), BOX)
    saved = sb2.read(write(tmp_path / "m.zip", data_of("acktr", space, BOX), parameters))
    assert saved.observation_space == space
    outputs = mlp_forward(parameters, seen, "tanh")
    actor = built(saved, space, BOX)
    assert_same(actor, "acktr", BOX, observations, outputs, parameters)


def without(name):
    return lambda parameters: {k: v for k, v in parameters.items() if k != name}


def plus(name, *shape):
    return lambda parameters: parameters | {name: np.zeros(shape, "f")}


def small(tmp_path, algorithm="acktr", observed=VECTOR, acted=DISCRETE, /, **more):
    """A file with a small network; `more` are further entries of its data."""
    parameters = mlp_parameters(5, ([], [6], [6]), acted)
    return write(tmp_path / "m.zip", data_of(algorithm, observed, acted, **more), parameters)


def test_settings_are_those_of_the_constructor_and_the_report_tells_the_rest(tmp_path):
    saved = sb2.read(small(tmp_path, "acer", seed=7, nprocs=3, ent_coef=-1.0))
    taken = {k: v for k, v in ACER.items() if k not in ("lr_schedule", "ent_coef")}
    assert saved.settings == taken
    assert type(saved.settings["max_grad_norm"]) is float
    assert (saved.lr_schedule, saved.n_envs, saved.seed, saved.verbose) == ("constant", 4, 7, 1)
    report = "\n".join(saved.report)
    for words in ["gamma=0.98", "seed=7", "model/vf/w:0, model/vf/b:0", "buffer_size", "optimiser"]:
        assert words in report
    (left_out,) = (line for line in saved.report if "nprocs=3" in line)
    assert "ent_coef=-1.0" in left_out
    assert "n_cpu_tf_sess=1" in left_out
    assert "gamma" not in left_out


@pytest.mark.parametrize(("algorithm", "unused"), [("acktr", "q"), ("a2c", "q"), ("acer", "vf")])
def test_the_other_critic_is_left_out(tmp_path, algorithm, unused):
    saved = sb2.read(small(tmp_path, algorithm))
    assert saved.network.unused == [f"model/{unused}/w:0", f"model/{unused}/b:0"]
    assert any(f"model/{unused}/w:0" in line for line in saved.report)


def test_a_schedule_of_the_users_own_is_left_out_or_named(tmp_path):
    path = small(tmp_path, lr_schedule={":type:": "<class 'function'>", ":serialized:": "!"})
    saved = sb2.read(path)
    assert saved.lr_schedule is None
    assert any("lr_schedule=(an object)" in line for line in saved.report)
    assert sb2.read(path, {"lr_schedule": "middle_drop"}).lr_schedule == "middle_drop"


def test_no_pickle_is_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    bomb = base64.b64encode(pickle.dumps(Bomb())).decode()
    data = data_of("acktr", VECTOR, DISCRETE)
    for entry in data.values():
        if isinstance(entry, dict):
            entry[":serialized:"] = bomb
    data["policy_kwargs"] = {":type:": "<class 'dict'>", ":serialized:": bomb, "net_arch": [4]}
    saved = sb2.read(write(tmp_path / "m.zip", data, mlp_parameters(5, ([], [6], [6]), DISCRETE)))
    sb2.state_of(saved, VECTOR, DISCRETE)
    assert not (tmp_path / "ran").exists()
    pickle.loads(base64.b64decode(bomb))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("array", [["x"], [1j], [True], np.zeros(2, [("x", "f4")])])
def test_arrays_of_anything_but_numbers_are_refused(array):
    with pytest.raises(ValueError, match="no array of numbers"):
        sb2_file.arrays(npz({"x": np.array(array)}))


def test_arrays_of_objects_are_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    parameters = {"model/pi/w:0": np.array([Bomb()], object)}
    path = write(tmp_path / "m.zip", data_of("acktr", VECTOR, DISCRETE), parameters)
    with pytest.raises(UserError, match="no array of numbers"):
        sb2.read(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("entry", "space"),
    [
        ({"n": "3"}, spaces.Discrete(3)),
        ({"nvec": "[2 3]"}, spaces.MultiDiscrete([2, 3])),
        (
            {
                "dtype": "float32",
                "shape": [2],
                "low": "[-inf  -1.5]",
                "high": "[inf 3.4028235e+38]",
            },
            spaces.Box(np.array([-np.inf, -1.5], "f"), np.array([np.inf, 3.4028235e38], "f")),
        ),
        (
            {"dtype": "uint8", "_shape": [2, 1], "low": "[[0]\n [0]]", "high": "[[1]\n [9]]"},
            spaces.Box(np.array([[0], [0]], "u1"), np.array([[1], [9]], "u1"), dtype=np.uint8),
        ),
        (
            {
                "dtype": "uint8",
                "shape": [84, 84, 4],
                "low": "[[[0 0]\n  ...\n  [0 0]]]",
                "high": "[[[255 ... 255]]]",
            },
            spaces.Box(0, 255, (84, 84, 4), np.uint8),
        ),
        ({"dtype": "uint8", "shape": [84, 84], "low": "[[0 ... 0]]", "high": "[[1 ... 1]]"}, None),
        ({"dtype": "uint8", "shape": [84, 84], "low": "[[1 ... 1]]", "high": "[255 ...]"}, None),
        ({"dtype": "uint8", "shape": [8192, 8192], "low": "[0 ...]", "high": "[255 ...]"}, None),
        ({"dtype": "float32", "shape": [2000], "low": "[0. ... 0.]", "high": "[1. ... 1.]"}, None),
        ({"dtype": "float32", "shape": [2], "low": "[0.]", "high": "[1.]"}, None),
        ({"dtype": "float32", "shape": [1], "low": "[nan]", "high": "[1.]"}, None),
        ({"dtype": "object", "shape": [1], "low": "[0.]", "high": "[1.]"}, None),
        ({"dtype": "uint8", "shape": [99999] * 9, "low": "[0 ...]", "high": "[255 ...]"}, None),
        ({"dtype": "float32", "shape": None, "low": 0, "high": 1}, None),
        ({"n": 10**30}, None),
        ({"n": -1}, None),
        ({}, None),
        (None, None),
    ],
)
def test_spaces_are_told_by_what_is_readable(tmp_path, entry, space):
    if entry is not None:
        kinds = {"n": "Discrete", "nvec": "MultiDiscrete"}
        kind = next((kinds[key] for key in kinds if key in entry), "Box")
        entry = entry | {":type:": f"<class 'gym.spaces.space.{kind}'>"}
    saved = sb2.read(small(tmp_path, action_space=entry))
    assert saved.action_space == space
    assert (space is None) == any("does not tell the action space" in line for line in saved.report)


@pytest.mark.parametrize(
    ("observed", "acted", "says"),
    [
        (spaces.Box(-1, 1, (4,)), DISCRETE, "observations"),
        (spaces.Discrete(5), DISCRETE, "observations"),
        (VECTOR, spaces.Discrete(3), "actions"),
        (VECTOR, FACTORS, "actions"),
        (VECTOR, BOX, "actions"),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_other_spaces_are_refused(tmp_path, observed, acted, says, known):
    unknown = {} if known else {"observation_space": None, "action_space": None}
    saved = sb2.read(small(tmp_path, **unknown))
    if not known and observed == spaces.Discrete(5):
        return  # nobody can tell the five numbers that it reads from five classes
    with pytest.raises(UserError, match=f"{says} are .* must be the same" if known else says):
        sb2.state_of(saved, observed, acted)


def test_other_bounds_of_actions_are_refused_and_those_of_observations_are_not(tmp_path):
    wide = spaces.Box(-2, 2, (1,))
    saved = sb2.read(small(tmp_path, "acktr", VECTOR, wide))
    other = spaces.Box(-9, 9, (5,))
    assert sb2.state_of(saved, other, wide).keys() == sb2.state_of(saved, VECTOR, wide).keys()
    with pytest.raises(UserError, match="actions"):
        sb2.state_of(saved, VECTOR, spaces.Box(-1, 1, (1,)))


def test_another_shape_of_as_many_numbers_is_refused(tmp_path):
    saved = sb2.read(small(tmp_path))
    with pytest.raises(UserError, match="observations"):
        sb2.state_of(saved, spaces.Box(-1, 1, (5, 1)), DISCRETE)


@pytest.mark.parametrize("change", [plus("model/pi/logstd:0", 1, 2), without("model/pi/logstd:0")])
def test_means_and_deviations_are_of_all_dimensions(tmp_path, change):
    parameters = change(mlp_parameters(5, ([], [6], [6]), BOX))
    path = write(tmp_path / "m.zip", data_of("acktr", VECTOR, BOX), parameters)
    with pytest.raises(UserError, match="3 outputs, which do not fit the actions"):
        sb2.state_of(sb2.read(path), VECTOR, BOX)


def test_acer_acts_in_discrete_spaces_only(tmp_path):
    saved = sb2.read(small(tmp_path, "acer", VECTOR, BOX, action_space=None))
    with pytest.raises(UserError, match="Discrete spaces only"):
        sb2.state_of(saved, VECTOR, BOX)


@pytest.mark.parametrize(
    ("stored", "given"),
    [
        (PICTURE, spaces.Box(0, 255, (52, 40, 3), np.uint8)),
        (PICTURE, spaces.Box(0, 255, (40, 52, 4), np.uint8)),
        (PICTURE, spaces.Box(0, 1, PICTURE.shape, np.uint8)),
        (spaces.Box(0, 1, PICTURE.shape, np.uint8), PICTURE),
        (spaces.Box(0, 1, PICTURE.shape, np.float32), PICTURE),
    ],
)
def test_pictures_of_another_size_or_scale_are_refused(tmp_path, stored, given):
    parameters = cnn_parameters(PICTURE.shape, DISCRETE, 18)
    path = write(tmp_path / "m.zip", data_of("acer", stored, DISCRETE, "CnnPolicy"), parameters)
    with pytest.raises(UserError, match=r"observations|scales pictures"):
        sb2.state_of(sb2.read(path), given, DISCRETE)
    if given is PICTURE:
        with pytest.raises(UserError, match=r"observations|scales pictures"):
            sb2.state_of(sb2.read(path, {"observation_space": stored}), given, DISCRETE)
        saved = sb2.read(path, {"observation_space": PICTURE})
        assert sb2.state_of(saved, given, DISCRETE)


@pytest.mark.parametrize("shape", [(40, 52, 4), (44, 52, 3), (36, 36, 3)])
def test_pictures_that_the_file_shows_wrong_are_refused(tmp_path, shape):
    space = spaces.Box(0, 255, shape, np.uint8)
    parameters = cnn_parameters(PICTURE.shape, DISCRETE, 18)
    data = data_of("acer", space, DISCRETE, "CnnPolicy")
    saved = sb2.read(write(tmp_path / "m.zip", data, parameters))
    with pytest.raises(UserError, match=f"not trained on pictures of {shape[0]}x{shape[1]}"):
        sb2.state_of(saved, space, DISCRETE)


def test_a_policy_class_of_the_users_own_has_to_be_named(tmp_path):
    path = small(tmp_path, policy=policy_class("Mine", "__main__"))
    with pytest.raises(UserError, match=r"__main__\.Mine is no class of stable-baselines"):
        sb2.read(path)
    named = {"policy": "MlpPolicy", "policy_kwargs": {"act_fun": "elu"}}
    assert sb2.read(path, named).policy_settings["activation"] == "elu"


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"act_fun": "<function <lambda> at 0x7f>"}, "<lambda>.*allowed: tanh, relu, elu"),
        ({"act_fun": "<function leaky_relu at 0x7f>"}, "leaky_relu.*allowed: tanh, relu, elu"),
        ({"cnn_extractor": "<function mine at 0x7f>"}, "cnn_extractor cannot be taken over"),
        ({"data_format": "NCHW"}, "data_format cannot be taken over"),
        ([1], "cannot be taken over"),
    ],
)
def test_policy_kwargs_that_change_the_network_are_refused(tmp_path, kwargs, says):
    with pytest.raises(UserError, match=says):
        sb2.read(small(tmp_path, policy_kwargs=kwargs))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (plus("model/lstm1/wx:0", 6, 16), r"model/lstm1/wx:0.*recurrent"),
        (plus("model/pi_fc2/w:0", 6, 6), r"not understand: model/pi_fc2/w:0"),
        (plus("model/c1/w:0", 8, 8, 3, 4), "lacks the parameters model/c1/b:0"),
        (plus("loss/beta:0", 1), "not understand: loss/beta:0"),
        (plus("model/pi/logstd:0", 1, 4), "4 outputs, which do not fit"),
        (without("model/vf/b:0"), "lacks the parameters model/vf/b:0"),
        (without("model/pi/w:0"), "lacks the parameters model/pi/w:0"),
        (without("model/pi_fc0/w:0"), r"not understand: model/pi_fc0/b:0"),
        (plus("model/pi_fc0/b:0", 5), r"model/pi_fc0/w:0 of shape \[5, 6\] does not fit"),
        (plus("model/pi/w:0", 7, 4), r"model/pi/w:0 of shape \[7, 4\] does not fit"),
        (plus("model/vf_fc0/w:0", 4, 6), r"model/vf_fc0/w:0 of shape \[4, 6\] does not fit"),
        (plus("model/vf/w:0"), r"model/vf/w:0 of shape \[\] does not fit"),
        (plus("model/pi_fc0/w:0", 5, 1, 6), r"shape \[5, 1, 6\] does not fit"),
        (
            lambda p: plus("model/vf/b:0", 2)(plus("model/vf/w:0", 6, 2)(p)),
            r"shape \[6, 2\] does not fit",
        ),
        (
            lambda p: plus("model/pi/b:0", 3)(plus("model/pi/w:0", 6, 3)(p)),
            "3 outputs, which do not fit",
        ),
        (
            lambda p: (
                plus("model/pi_fc0/w:0", 5, 0)(plus("model/pi_fc0/b:0", 0)(p))
                | {"model/pi/w:0": np.zeros((0, 4))}
            ),
            r"shape \[5, 0\] does not fit",
        ),
        (lambda p: p | {"model/vf/b:0": np.array([np.nan])}, "not finite"),
    ],
)
def test_a_model_is_taken_over_as_a_whole_or_not_at_all(tmp_path, change, says):
    parameters = change(mlp_parameters(5, ([], [6], [6]), DISCRETE))
    path = write(tmp_path / "m.zip", data_of("acktr", VECTOR, DISCRETE), parameters)
    with pytest.raises(UserError, match=says):
        sb2.state_of(sb2.read(path), VECTOR, DISCRETE)


def test_one_q_per_action(tmp_path):
    parameters = mlp_parameters(5, ([], [6], [6]), DISCRETE)
    parameters["model/q/w:0"], parameters["model/q/b:0"] = np.zeros((6, 3)), np.zeros(3)
    path = write(tmp_path / "m.zip", data_of("acer", VECTOR, DISCRETE), parameters)
    with pytest.raises(UserError, match=r"model/q/w:0 of shape \[6, 3\]"):
        sb2.read(path)


def test_other_kernels_are_refused(tmp_path):
    parameters = cnn_parameters(PICTURE.shape, DISCRETE, 18)
    parameters["model/c2/w:0"] = np.zeros((3, 3, 4, 5), "f")
    data = data_of("acer", PICTURE, DISCRETE, "CnnPolicy")
    with pytest.raises(UserError, match=r"model/c2/w:0 .*kernels of 8, 4 and 3"):
        sb2.read(write(tmp_path / "m.zip", data, parameters))


def test_other_algorithms_are_refused(tmp_path):
    data = {"gamma": 0.99, "cliprange": 0.2, "vf_coef": 0.5}
    path = write(tmp_path / "m.zip", data, mlp_parameters(5, ([], [6], [6]), DISCRETE))
    with pytest.raises(UserError, match=r"ACER, ACKTR and A2C. Found: gamma, cliprange, vf_coef"):
        sb2.read(path)


@pytest.mark.parametrize("name", ["m.pkl", "m.zip"])
def test_the_old_pickles_are_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(pickle.dumps(({}, {})))
    with pytest.raises(UserError, match=r"is a pickle.* save it again"):
        sb2.read(path)


@pytest.mark.parametrize(
    "members",
    [
        {"data": "[1, 2]"},
        {"data": "{"},
        {"data": b"\xff\xfe\xfa"},
        {"data": "[" * 200_000},
        {"parameter_list": "{}"},
        {"parameter_list": "[]"},
        {"parameter_list": "[1, null]"},
        {"parameters": b""},
        {"parameters": b"PK no zip"},
    ],
)
def test_damaged_members_are_refused(tmp_path, members):
    data, parameters = data_of("acktr", VECTOR, DISCRETE), mlp_parameters(5, ([], [], []), DISCRETE)
    path = write(tmp_path / "m.zip", data, parameters, **members)
    with pytest.raises(UserError, match="is damaged, or no model"):
        sb2.read(path)


def test_missing_members_and_files_are_refused(tmp_path):
    path = tmp_path / "m.zip"
    with pytest.raises(UserError, match="cannot be read: No such file"):
        sb2.read(path)
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        sb2.read(tmp_path)
    path.write_bytes(b"not a zip")
    with pytest.raises(UserError, match="is no zip"):
        sb2.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "{}")
    with pytest.raises(UserError, match="parameter_list"):
        sb2.read(path)


def test_a_file_cut_or_changed_anywhere_is_read_as_it_was_or_refused(tmp_path):
    whole = small(tmp_path).read_bytes()
    expected = sb2.state_of(sb2.read(tmp_path / "m.zip"), VECTOR, DISCRETE)
    rng = np.random.default_rng(0)
    refused = 0
    for at in rng.integers(0, len(whole), 300):
        changed = bytearray(whole)
        changed[at] ^= 1 << int(rng.integers(8))
        for raw in (bytes(changed), whole[:at]):
            (tmp_path / "c.zip").write_bytes(raw)
            try:
                found = sb2.state_of(sb2.read(tmp_path / "c.zip"), VECTOR, DISCRETE)
            except UserError:
                refused += 1
                continue
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert refused > 400


def zipped(npy):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x.npy", npy)
    return stream.getvalue()


def test_a_damaged_array_is_refused_whatever_its_header_says(tmp_path):
    """The checksums are right here: the damage was done before the file was zipped."""
    array = npz({"x": np.zeros((3, 4), "f")})
    with zipfile.ZipFile(io.BytesIO(array)) as archive:
        npy = archive.read("x.npy")
    rng = np.random.default_rng(0)
    huge = npy.replace(b"(3, 4), ", b"(9999999, 9999999), ")
    for change in (huge, npy[:-1], npy + b"0", b"", npy[:9]):
        with pytest.raises(sb2_file.DAMAGE):
            sb2_file.arrays(zipped(change))
    changes = []
    for at in rng.integers(0, 128, 300):
        changed = bytearray(npy)
        changed[at] = int(rng.integers(256))
        changes.append(bytes(changed))
    refused = 0
    for changed in changes:
        try:
            sb2_file.arrays(zipped(changed))
        except sb2_file.DAMAGE:
            refused += 1
    assert refused > 150


@pytest.mark.parametrize("member", ["data", "parameters"])
def test_what_unpacks_to_too_much_is_refused(tmp_path, monkeypatch, member):
    parameters = {"x": np.zeros(300_000, "f")}
    data = json.dumps({"x": " " * 300_000})
    with zipfile.ZipFile(tmp_path / "m.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", data)
        archive.writestr("parameters", npz(parameters))
        archive.writestr("parameter_list", json.dumps(list(parameters)))
    monkeypatch.setitem(sb2_file.MEMBERS, member, 200_000)
    with pytest.raises(UserError, match=f"'{member}' is larger than 200000 bytes"):
        sb2.read(tmp_path / "m.zip")


def test_arrays_that_unpack_to_too_much_are_refused(monkeypatch):
    stream = io.BytesIO()
    np.savez_compressed(stream, x=np.zeros(300_000, "f"))
    assert sb2_file.arrays(stream.getvalue())["x"].shape == (300_000,)
    monkeypatch.setattr(sb2_file, "ARRAYS_LIMIT", 200_000)
    with pytest.raises(ValueError, match="at most 200000"):
        sb2_file.arrays(stream.getvalue())


def test_it_knows_its_files(tmp_path):
    assert sb2_file.is_sb2(small(tmp_path))
    with zipfile.ZipFile(tmp_path / "sb3.zip", "w") as archive:
        archive.writestr("data", "{}")
        archive.writestr("policy.pth", "")
    (tmp_path / "text").write_text("x")
    for name in ("sb3.zip", "text", "missing", "."):
        assert not sb2_file.is_sb2(tmp_path / name)


MOMENTS = {"mean": [1.0, -2.0, 0, 0, 5.0], "var": [4.0, 0.25, 1, 0, 9.0], "count": 1000.0001}


def stored(tmp_path, kind):
    if kind == "mapping":
        return MOMENTS
    path = tmp_path / f"m.{kind}"
    path.write_bytes(json.dumps(MOMENTS).encode() if kind == "json" else npz(MOMENTS))
    return path if kind == "json" else str(path)


@pytest.mark.parametrize("kind", ["mapping", "json", "npz"])
def test_moments_normalise_what_the_network_reads(tmp_path, kind):
    parameters = mlp_parameters(5, ([], [6], [6]), DISCRETE)
    saved = sb2.read(small(tmp_path))
    policy = MlpPolicy(
        VECTOR, ActorCritic.heads(DISCRETE), torch.Generator(), **saved.policy_settings
    )
    policy.features = Normalized(policy.features, policy.features.size)
    actor = ActorCritic(policy, DISCRETE)
    known = moments(stored(tmp_path, kind), VECTOR)
    actor.load_state_dict(sb2.state_of(saved, VECTOR, DISCRETE) | known)
    assert policy.features.moments.count == 1000
    x = np.random.default_rng(1).normal(0, 9, (30, 5)).astype("f")
    mean, var = np.array(MOMENTS["mean"]), np.array(MOMENTS["var"])
    seen = np.clip((x - mean) / np.sqrt(var + 1e-8), -10, 10)
    outputs = mlp_forward(parameters, seen, "tanh")
    assert_same(actor, "acktr", DISCRETE, x, outputs, parameters)


def test_moments_without_a_count_are_not_washed_away():
    bare = {"mean": np.zeros(5), "var": np.ones(5), "epsilon": 1e-8, "clip_obs": 10}
    assert moments(bare, VECTOR)["policy.features.moments.count"] == 1_000_000


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"epsilon": 1e-5}, "epsilon: rlrun normalises with 1e-08 only"),
        ({"clip_obs": 5.0}, "clip_obs: rlrun normalises with 10.0 only"),
        ({"mean": [0.0]}, "1 means and 5 variances do not fit"),
        ({"var": [-1.0] * 5}, "at least 0"),
        ({"var": ["x"] * 5}, "var is made of no numbers"),
        ({"var": [np.inf] * 5}, "not finite"),
        ({"count": -1}, "at least 0"),
        ({"count": [1, 2]}, "one count"),
        ({"ret": 1}, "found mean, var, count, ret; needed are mean and var"),
    ],
)
def test_other_moments_are_refused(change, says):
    with pytest.raises(UserError, match=says):
        moments(MOMENTS | change, VECTOR)


def test_moments_are_of_a_box_and_in_a_file_that_can_be_read(tmp_path):
    with pytest.raises(UserError, match="needed are mean and var"):
        moments({"mean": [1.0]}, VECTOR)
    with pytest.raises(UserError, match="do not fit Discrete"):
        moments(MOMENTS, spaces.Discrete(5))
    with pytest.raises(UserError, match="No such file"):
        moments(tmp_path / "m.json", VECTOR)
    (tmp_path / "m.json").write_text("[1]")
    with pytest.raises(UserError, match="it holds no mapping"):
        moments(tmp_path / "m.json", VECTOR)
    with pytest.raises(UserError, match=r"must end with .json or .npz"):
        moments(tmp_path / "m.pkl", VECTOR)
