"""What a seed decides, what copies a model, and what of a file changed settings leave."""

import copy
import io
import logging
import pickle
import random

import numpy as np
import pytest
import torch
from test_reentrance import Trace, Witness
from whole import KINDS, every, fingerprint, make, walk, weights

from rlrun import A2C, ACER, make_vec_env
from rlrun.data.collector import Collector
from rlrun.functional import schedules


def until(steps):
    return lambda told, _: told["self"].num_timesteps < steps


def cartpole(n_envs=2):
    return make_vec_env("CartPole-v1", n_envs, env_kwargs={"max_episode_steps": 25})


def filed(model):
    file = io.BytesIO()
    model.save(file)
    return file


def later(loaded, *, env):
    """Seeded after it was loaded, and after it has environments if `env`."""
    if env:
        assert loaded.get_env() is not None
    loaded.set_random_seed(5)
    return loaded


def as_text(model):
    """All that the future of a model depends on, but for states that a reset makes void."""
    state = {**model._training.state_dict(), "algorithm": model.algorithm.state_dict()}
    del state["interface"]
    predicted = model._rngs["predict"].get_state()
    return repr([*walk(state), *walk(predicted)])


@pytest.mark.parametrize("steps", [30, 33], ids=["segment", "in-hand"])
@pytest.mark.parametrize("policy", ["MlpPolicy", "MlpLstmPolicy"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_given_to_a_loaded_model_at_any_time_is_the_same(kind, policy, steps):
    model = make(kind, cartpole(), policy).learn(300, until(steps))
    file, load = filed(model), KINDS[kind].load
    ways = [
        later(load(file), env=False),
        later(load(file), env=True),
        load(file, seed=5),
        load(file, env=cartpole(), seed=5),
        later(load(file, env=cartpole()), env=True),
    ]
    found = set()
    for loaded in ways:
        assert (loaded.seed, loaded.num_timesteps) == (5, model.num_timesteps)
        loaded.learn(60, reset_num_timesteps=False)
        loaded.predict(np.zeros((3, 4), np.float32))
        found.add(as_text(loaded))
    assert len(found) == 1
    unlike = load(file, seed=6).learn(60, reset_num_timesteps=False)
    unlike.predict(np.zeros((3, 4), np.float32))
    assert as_text(unlike) not in found


def test_a_seed_is_that_of_all_random_numbers():
    model = make("a2c")

    def drawn(seed):
        model.set_random_seed(seed)
        return (
            int(np.random.randint(1 << 30)),
            random.getrandbits(30),
            int(torch.randint(1 << 30, ())),
            tuple(int(model.action_space.sample()) for _ in range(20)),
        )

    first, other = drawn(7), drawn(8)
    assert drawn(7) == first
    assert all(one != two for one, two in zip(first, other, strict=True))
    state = np.random.get_state()[1].tolist()
    model.set_random_seed(None)
    assert np.random.get_state()[1].tolist() == state
    model.set_random_seed(2**40)


def test_a_model_may_be_seeded_before_it_is_set_up():
    model = make("acer", seed=0, _init_setup_model=False)
    model.set_random_seed(5)
    model.setup_model()
    expected = make("acer", seed=5)
    assert weights(model) == weights(expected)
    assert fingerprint(model.learn(60)) == fingerprint(expected.learn(60))


@pytest.mark.parametrize("model", [
    lambda: make("acer").learn(30), lambda: make("a2c", _init_setup_model=False),
    lambda: A2C.load(filed(make("a2c"))),
], ids=["trained", "not-set-up", "loaded"])  # fmt: skip
def test_models_are_copied_by_files_only(model):
    model = model()
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"save.*load"):
            copied(model)
        with pytest.raises(TypeError, match=r"save.*load"):
            copied([model])[0] if copied is not copy.copy else copied(model)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match=r"save.*load"):
            pickle.dumps(model, protocol)


class Drawn(Trace):
    """Draws the numbers of its episodes, as its seed says."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode = int(self.np_random.integers(1000))
        return self.shown(), {}


def traced(n_envs):
    made = []
    return make_vec_env(lambda: made.append(Drawn()) or made[-1], n_envs), made


IN_HAND = 36  # steps of 3 environments: two segments of 5, and 2 steps


@pytest.mark.parametrize(
    ("changes", "memory", "hand", "told"),
    [
        ({}, 2, 2, False),
        ({"n_steps": 5}, 2, 2, False),
        ({"buffer_size": 60, "n_steps": 5, "gamma": 0.5}, 2, 2, False),
        ({"buffer_size": 80}, 0, 2, True),
        ({"n_steps": 4}, 0, 0, True),
        ({"n_steps": 2}, 0, 0, True),
        ({"n_steps": 10, "buffer_size": 60}, 0, 0, True),
        ({"custom_objects": {"n_steps": 4}}, 0, 0, True),
    ],
    ids=str,
)
def test_what_other_lengths_leave_of_a_file(caplog, changes, memory, hand, told):
    model = make("acer", traced(3)[0]).learn(300, until(IN_HAND))
    assert (len(model.algorithm.memory), model._training.collector._t) == (2, 2)
    batch, envs = traced(3)
    with caplog.at_level(logging.WARNING):
        loaded = ACER.load(filed(model), batch, **changes)
    assert len(loaded.algorithm.memory) == memory
    segment = loaded._training.collector.state_dict()["segment"]
    assert (0 if segment is None else len(segment["rewards"])) == hand
    warnings = [r for r in caplog.records if r.name.startswith("rlrun")]
    assert bool(warnings) == told
    assert all("replay memory" in record.getMessage() for record in warnings)
    assert weights(loaded) == weights(model)
    witness = Witness(loaded, envs)
    loaded.learn(90, reset_num_timesteps=False)
    assert loaded.num_timesteps >= IN_HAND + 90
    assert witness.segments >= 3


def test_unchanged_lengths_change_nothing():
    model = make("acer").learn(300, until(IN_HAND))
    loaded = ACER.load(filed(model), every(), n_steps=5, buffer_size=60, replay_ratio=2)
    assert fingerprint(loaded) == fingerprint(model)
    loaded.learn(60, reset_num_timesteps=False)
    assert fingerprint(loaded) == fingerprint(model.learn(60, reset_num_timesteps=False))


@pytest.mark.parametrize("given", [None, True, False])
def test_games_clip_rewards_and_others_do_not(given):
    small = {"policy": "CnnPolicy", "policy_kwargs": {"filters": [2, 2, 2], "features_dim": 4}}
    pong = make_vec_env("PongNoFrameskip-v4", 1)
    for env, settings, usual in ((pong, small, True), (every(), {}, False)):
        model = make("a2c", env, clip_rewards=given, **settings)
        expected = usual if given is None else given
        for each in (model, A2C.load(filed(model), env)):
            assert each.config["env"]["clip_rewards"] is expected
            collector = each._training.collector
            assert isinstance(collector, Collector)
            assert collector.clip_rewards is expected
    pong.close()


SCHEDULES = {
    "constant": [1, 1, 1, 1, 1],
    "linear": [1, 0.8, 0.6, 0.4, 0.2],
    "double_linear_con": [1, 0.6, 0.2, 0.125, 0.125],
    "middle_drop": [1, 0.8, 0.075, 0.075, 0.075],
    "double_middle_drop": [1, 0.8, 0.075, 0.075, 0.125],
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_by_name_are_the_functions(name):
    """The numbers are those of stable-baselines, by its formulas, at each fifth of a training."""
    function = getattr(schedules, name)
    by_name, by_function = make("a2c", lr_schedule=name), make("a2c", lr_schedule=function)
    given = [by_name.algorithm.lr_schedule(k / 5) for k in range(5)]
    np.testing.assert_allclose(given, SCHEDULES[name], rtol=1e-12)
    assert by_name.config["lr_schedule"] == by_function.config["lr_schedule"]
    assert weights(by_name.learn(75)) == weights(by_function.learn(75))
    again = A2C.load(filed(by_name), every(), lr_schedule=name)
    assert again.algorithm.lr_schedule(0.5) == by_name.algorithm.lr_schedule(0.5)
    if name != "constant":
        assert weights(by_name) != weights(make("a2c", lr_schedule="constant").learn(75))
