"""Every algorithm with every policy, in every space of actions and of observations.

Each of them is built from its config, trains, is saved by a checkpoint and loaded into parts built
anew; both go on alike, bit for bit.
"""

import copy
import functools
import itertools
import math

import pytest
import torch

from rlrun.build import assemble
from rlrun.config import check, compose
from rlrun.run.checkpoint import Checkpointer
from rlrun.run.store import flatten
from rlrun.schema import UserError
from tests.tasks import Every

OBSERVATIONS, ACTIONS = list(Every.OBSERVATIONS), list(Every.ACTIONS)
PICTURES = ("image", "dict")
FACTORED = ("multidiscrete", "multibinary")
SETTINGS = {
    "acer": {"buffer_size": 12, "replay_start": 4, "replay_ratio": 1.0},
    "acktr": {"kfac_update": 1, "cold_iter": 1},
    "a2c": {},
}
WIDE = {"damping_rule": "factored"}
"""For `acktr` where a picture is a vector of 1200 numbers: no eigenvectors of that many."""
POLICIES = {
    "mlp": {"hidden": [8]},
    "cnn": {"filters": [2, 2, 2], "features_dim": 8},
    "lstm": {"lstm_size": 8, "before": [8], "filters": [2, 2, 2], "features_dim": 8},
}
UPDATES = 2


@functools.cache
def composed(algo, policy):
    return compose(
        [f"algo={algo}", f"policy={policy}", "env=tests.tasks:Every-v0", "experiment=none"]
    )


def config_of(algo, policy, observation, action, env=None, **settings):
    config = copy.deepcopy(composed(algo, policy))
    config |= {"threads": 1, "device": "cpu"}
    config["env"] |= {"n_envs": 2, "kwargs": {"observation": observation, "action": action}}
    config["env"] |= env or {}
    wide = WIDE if (algo, policy, observation) == ("acktr", "mlp", "image") else {}
    config["algo"] |= {"n_steps": 4, **SETTINGS[algo], **wide, **settings}
    config["policy"] |= POLICIES[policy]
    return check(config)


def fits(policy, observation):
    return policy != "cnn" or observation in PICTURES


def cases(names, found):
    """A parameter for each of the names, and readable ids."""
    return pytest.mark.parametrize(names.split(), found, ids=map("-".join, found))


EVERYTHING = [
    (policy, observation, action)
    for policy, observation, action in itertools.product(POLICIES, OBSERVATIONS, ACTIONS)
    if fits(policy, observation)
]
MATRIX = cases("policy observation action", EVERYTHING)


def tensors(state):
    return flatten(state)[1]


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(torch.as_tensor(found[name]), torch.as_tensor(tensor)), name


def without_clock(metrics):
    return {name: x for name, x in metrics.items() if not name.startswith("time/")}


def learn(parts, update):
    """One update; the segment it is from, its metrics, and all that is learnt."""
    rollout = parts.collector.collect(parts.algorithm.act)
    segment = {name: tensor.clone() for name, tensor in rollout.tensors().items()}
    metrics = parts.algorithm.update(rollout, update / 10, log=True)
    assert all(map(math.isfinite, metrics.values())), metrics
    return segment, without_clock(metrics)


def saved_and_loaded(parts, config, folder):
    """Parts built anew that take over everything by way of the disk."""
    state = {"algorithm": parts.algorithm.state_dict(), "collector": parts.collector.state_dict()}
    path = Checkpointer(folder, keep=1).save(1, state, parts.algorithm.memory, meta={})
    other = assemble(config)
    state, _ = Checkpointer(folder, keep=1).load(path, other.algorithm.memory)
    other.algorithm.load_state_dict(state["algorithm"])
    assert other.collector.load_state_dict(state["collector"])
    return other


def goes_on_alike(config, folder):
    parts = assemble(config)
    parts.collector.reset()
    initial = {name: t.clone() for name, t in tensors(parts.algorithm.state_dict()).items()}
    for update in range(UPDATES):
        learn(parts, update)
    trained = tensors(parts.algorithm.state_dict())
    assert any(not torch.equal(t, trained[name]) for name, t in initial.items())
    other = saved_and_loaded(parts, config, folder)
    for update in range(UPDATES, UPDATES + 10):
        straight, resumed = learn(parts, update), learn(other, update)
        assert_same(resumed[0], straight[0])
        assert resumed[1] == straight[1]
        assert_same(*(tensors(each.algorithm.state_dict()) for each in (other, parts)))
        assert_same(*(tensors(each.collector.state_dict()) for each in (other, parts)))
        if straight[1].get("replay/updates", 1):
            break  # once something was replayed
    else:
        pytest.fail("nothing was ever replayed")
    for each in (parts, other):
        each.collector.envs.close()
    return parts.algorithm


@MATRIX
def test_acer(tmp_path, policy, observation, action):
    goes_on_alike(config_of("acer", policy, observation, action), tmp_path)


@MATRIX
def test_acktr(tmp_path, policy, observation, action):
    goes_on_alike(config_of("acktr", policy, observation, action), tmp_path)


@MATRIX
def test_a2c(tmp_path, policy, observation, action):
    goes_on_alike(config_of("a2c", policy, observation, action), tmp_path)


@pytest.mark.parametrize("action", FACTORED)
@pytest.mark.parametrize(
    ("policy", "observation"),
    [("mlp", "vector"), ("mlp", "tuple"), ("cnn", "image"), ("lstm", "dict"), ("lstm", "discrete")],
)
def test_acer_factor_by_factor(tmp_path, policy, observation, action):
    config = config_of("acer", policy, observation, action, joint_actions=0)
    algorithm = goes_on_alike(config, tmp_path)
    assert set(algorithm.actor.policy.heads) == {"policy", "value", "advantage"}


def with_a_vector(policy):
    """A picture is a vector to a policy that has no other way to read it."""
    found = ["vector", "dict", "tuple"] + (["image"] if policy == "mlp" else [])
    return [observation for observation in found if fits(policy, observation)]


NORMALIZED = [
    (algo, policy, observation, ACTIONS[(i + j + k) % len(ACTIONS)])
    for i, algo in enumerate(SETTINGS)
    for j, policy in enumerate(POLICIES)
    for k, observation in enumerate(with_a_vector(policy))
]


@cases("algo policy observation action", NORMALIZED)
def test_with_observations_and_rewards_on_common_scales(
    tmp_path, algo, policy, observation, action
):
    env = {"normalize_observations": True}
    config = config_of(algo, policy, observation, action, env, normalize_rewards=True)
    goes_on_alike(config, tmp_path)


def test_the_scales_are_tried_with_all_actions():
    for algo in SETTINGS:
        assert {case[3] for case in NORMALIZED if case[0] == algo} == set(ACTIONS)


@pytest.mark.parametrize("algo", SETTINGS)
@pytest.mark.parametrize("policy", POLICIES)
def test_another_seed_is_another_run(algo, policy):
    """What two runs have in common above says something."""
    segments = []
    for seed in (0, 1):
        config = config_of(algo, policy, "dict", "multidiscrete")
        parts = assemble(config | {"seed": seed})
        parts.collector.reset()
        segments.append(learn(parts, 0)[0])
        parts.collector.envs.close()
    for name in ("observations", "actions", "rewards", "behaviour"):
        assert not torch.equal(segments[0][name], segments[1][name])


# What does not fit.


@pytest.mark.parametrize("algo", SETTINGS)
@pytest.mark.parametrize("observation", [each for each in OBSERVATIONS if each not in PICTURES])
def test_a_network_for_pictures_needs_one(algo, observation):
    with pytest.raises(UserError, match=r"policy=cnn reads pictures.*Use policy=mlp"):
        assemble(config_of(algo, "cnn", observation, "discrete"))


@pytest.mark.parametrize("algo", SETTINGS)
@pytest.mark.parametrize(
    ("policy", "observation"),
    [
        *itertools.product(["mlp", "lstm"], ["discrete", "multidiscrete", "multibinary"]),
        ("cnn", "image"),
        ("lstm", "image"),
    ],
)
def test_without_a_vector_there_is_nothing_to_normalise(algo, policy, observation):
    config = config_of(algo, policy, observation, "discrete", {"normalize_observations": True})
    with pytest.raises(UserError, match=r"env\.normalize_observations: only for .*Leave it out"):
        assemble(config)
