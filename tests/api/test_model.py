"""What a model is made of: environments of all kinds, seeds, settings, and how they are refused."""

import inspect
import io
import random

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit, TransformReward
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from whole import KINDS, SETTINGS, Count, every, fingerprint, make, seen, stack, weights

import rlrun
from rlrun import A2C, ACER, ACKTR, UserError, make_vec_env


def cartpole():
    return gymnasium.make("CartPole-v1", max_episode_steps=25)


KWARGS = {"max_episode_steps": 25}
BATCHES = {
    "sync": lambda: SyncVectorEnv([cartpole] * 2),
    "sync-disabled": lambda: SyncVectorEnv([cartpole] * 2, autoreset_mode=AutoresetMode.DISABLED),
    "async": lambda: AsyncVectorEnv([cartpole] * 2),
    "made-async": lambda: make_vec_env("CartPole-v1", 2, env_kwargs=KWARGS,
                                       vec_env_cls=AsyncVectorEnv),
    "made-from-a-function": lambda: make_vec_env(cartpole, 2),
    "wrapped-inside": lambda: make_vec_env("CartPole-v1", 2,
                                           wrapper_class=lambda env: TimeLimit(env, 25)),
    "wrapped-outside": lambda: RecordEpisodeStatistics(SyncVectorEnv([cartpole] * 2)),
}  # fmt: skip


@pytest.mark.parametrize("batch", BATCHES)
def test_batches_of_all_kinds_are_equal(batch):
    expected = make("acer", make_vec_env("CartPole-v1", 2, env_kwargs=KWARGS)).learn(200)
    env = BATCHES[batch]()
    model = make("acer", env)
    assert model.get_env() is env
    assert (model.n_envs, model.action_space.n) == (2, 2)
    model.learn(200)
    assert fingerprint(model) == fingerprint(expected)
    env.close()


def test_one_environment():
    """An id, an object, a class and batches of one."""
    expected = make("a2c", "CartPole-v1").learn(100)
    for env in (
        gymnasium.make("CartPole-v1"),
        SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")]),
        make_vec_env("CartPole-v1", seed=3),
    ):
        model = make("a2c", env).learn(100)
        assert model.n_envs == model.get_env().num_envs == 1
        assert fingerprint(model) == fingerprint(expected)
    assert make("a2c", make_vec_env(Count)).learn(10).n_envs == 1
    assert make("a2c", make_vec_env(Count, 2, env_kwargs={"limit": 3})).learn(10).n_envs == 2


def test_rewards_may_be_transformed():
    def double(env):
        return TransformReward(env, lambda reward: 2 * reward)

    returns = []
    env = make_vec_env(Count, 2, env_kwargs={"limit": 5}, wrapper_class=double)
    make("a2c", env).learn(30, lambda told, _: returns.extend(told["ep_returns"]))
    assert set(returns) == {10.0}


def test_batches_that_cannot_be_used():
    same_step = SyncVectorEnv([cartpole] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    with pytest.raises(UserError, match="NEXT_STEP"):
        make("acer", same_step)
    one_piece = gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="vector_entry_point")
    with pytest.raises(UserError, match="make_vec_env"):
        make("acer", one_piece)
    for nothing in (3, [cartpole()], cartpole, object()):
        with pytest.raises(TypeError, match="is no environment"):
            ACER("MlpPolicy", nothing)
    with pytest.raises(UserError, match="CartPole-v1"):
        ACER("MlpPolicy", "CartPol-v1")
    with pytest.raises(UserError, match="lenth"):
        make_vec_env("CartPole-v1", env_kwargs={"lenth": 3})
    for n_envs in (0, -1):
        with pytest.raises((UserError, ValueError)):
            make_vec_env("CartPole-v1", n_envs)


def test_batches_follow_their_seed():
    def shown(seed):
        env = make_vec_env("CartPole-v1", 3, seed)
        first, _ = env.reset()
        return first.tolist()

    assert shown(1) == shown(1) != shown(2)
    assert shown(None) != shown(None)
    assert len(set(map(tuple, shown(1)))) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_other_environments_to_learn_in(kind):
    model = make(kind).learn(60)
    before = weights(model)
    model.set_env(env := every(n_envs=5))
    assert model.get_env() is env
    assert (model.n_envs, model.num_timesteps) == (5, 60)
    assert weights(model) == before
    if kind == "acer":
        assert len(model.algorithm.memory) == 0
    model.learn(50, reset_num_timesteps=False)
    assert model.num_timesteps == 110
    assert weights(model) != before
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    loaded = KINDS[kind].load(file, every(n_envs=5))
    assert fingerprint(loaded) == fingerprint(model)
    now = fingerprint(model)
    model.set_env(env)
    assert fingerprint(model) == now, "the same again is no change"
    model.set_env("Every-v0")
    assert (model.n_envs, model.get_env().num_envs) == (1, 1)
    model.learn(5, reset_num_timesteps=False)


@pytest.mark.parametrize("kind", KINDS)
def test_environments_that_do_not_fit_change_nothing(kind):
    straight = make(kind).learn(120)
    model = make(kind)
    model.learn(120, lambda told, _: told["self"].num_timesteps < 63)
    env, before = model.get_env(), fingerprint(model)
    for wrong, error in [
        (None, ValueError),
        ("CartPole-v1", ValueError),
        (every("vector", "box"), ValueError),
        (every("tuple"), ValueError),
        (7, TypeError),
    ]:
        with pytest.raises(error):
            model.set_env(wrong)
        assert fingerprint(model) == before
        assert model.get_env() is env
        assert model.n_envs == 3
    model.learn(57, reset_num_timesteps=False)
    assert fingerprint(model) == fingerprint(straight)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_gets_its_environment_later(kind):
    plain = make(kind, every()).learn(60)
    late = KINDS[kind]("MlpPolicy", None, seed=0, n_cpu_tf_sess=1, device="cpu",
                       _init_setup_model=False, **SETTINGS[kind])  # fmt: skip
    assert late.get_env() is late.observation_space is late.action_space is None
    assert (late.n_envs, late.num_timesteps) == (0, 0)
    with pytest.raises(UserError, match="set_env"):
        late.setup_model()
    late.set_env(every())
    for ask in (lambda: late.learn(10), lambda: late.predict(seen(n=1)[0])):
        with pytest.raises((UserError, ValueError, RuntimeError), match="setup_model"):
            ask()
    late.setup_model()
    assert fingerprint(late.learn(60)) == fingerprint(plain)
    with pytest.raises(UserError, match="env"):
        KINDS[kind]("MlpPolicy", None)


@pytest.mark.parametrize("kind", KINDS)
def test_set_up_anew(kind):
    model = make(kind)
    before = fingerprint(model)
    trained = fingerprint(model.learn(60))
    model.setup_model()
    assert model.num_timesteps == 0
    assert weights(model) == weights(make(kind))
    assert fingerprint(model) == before != trained
    assert fingerprint(model.learn(60)) == trained


@pytest.mark.parametrize("policy", ["MlpPolicy", "MlpLstmPolicy"])
@pytest.mark.parametrize("kind", KINDS)
def test_seeding_anew_repeats_the_training(kind, policy):
    kwargs = {"policy_kwargs": {"lstm_size": 8}} if "Lstm" in policy else {}
    file = io.BytesIO()
    make(kind, policy=policy, **kwargs).learn(60).save(file)

    def trained(seed, disturbed=False):
        file.seek(0)
        model = KINDS[kind].load(file, every())
        if disturbed:
            model.predict(seen(n=1)[0])
            model.get_env().reset()
            random.random()
        model.set_random_seed(seed)
        drawn = random.random(), np.random.random(), torch.rand(()).item()
        assert seed is None or model.seed == seed
        model.learn(60, reset_num_timesteps=False)
        actions, _ = model.predict(stack(seen(n=20)))
        return fingerprint(model), actions.tolist(), (drawn if seed is not None else None)

    assert trained(5) == trained(5, disturbed=True)
    assert trained(5)[0] != trained(6)[0]
    straight = make(kind, policy=policy, lr_schedule="linear", **kwargs)
    straight.learn(60)
    straight.set_random_seed(None)
    straight.learn(60, reset_num_timesteps=False)
    assert trained(None)[0] == fingerprint(straight)


@pytest.mark.parametrize("kind", KINDS)
def test_hyperparameters_are_attributes(kind):
    algorithm = KINDS[kind].algorithm_type
    parameters = inspect.signature(algorithm).parameters.values()
    model = make(kind, gamma=0.9)
    assert model.gamma == 0.9
    settings = SETTINGS[kind] | {"gamma": 0.9}
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY:
            expected = settings.get(parameter.name, parameter.default)
            assert getattr(model, parameter.name) == expected
    for name in ("gama", "policy", "_nothing", "__deepcopy__"):
        assert not hasattr(model, name)


@pytest.mark.parametrize("kind", KINDS)
def test_settings_that_do_not_exist_or_fit(kind):
    env = every()
    with pytest.raises(UserError, match=r"learning_rat\b.*learning_rate"):
        KINDS[kind]("MlpPolicy", env, learning_rat=1)
    for name, value in {"gamma": 2, "n_steps": 0, "ent_coef": "much", "learning_rate": -1}.items():
        with pytest.raises(UserError, match=name):
            KINDS[kind]("MlpPolicy", env, **{name: value})
    with pytest.raises(ValueError, match="MlpLstmPolicy"):
        KINDS[kind]("MlpLstmPolice", env)
    with pytest.raises(ValueError, match="linear"):
        KINDS[kind]("MlpPolicy", env, lr_schedule="linaer")
    with pytest.raises(UserError, match="device"):
        KINDS[kind]("MlpPolicy", env, device="abacus")
    with pytest.raises(UserError, match="seed"):
        KINDS[kind]("MlpPolicy", env, seed=-1)
    with pytest.raises(UserError, match="hiden"):
        KINDS[kind]("MlpPolicy", env, policy_kwargs={"hiden": [8]})
    with pytest.raises(TypeError):
        KINDS[kind]("MlpPolicy", env, 0.99)


def test_settings_that_do_not_fit_each_other():
    with pytest.raises(UserError, match="buffer_size"):
        ACER("MlpPolicy", every(), buffer_size=10, n_steps=20)
    with pytest.raises(UserError, match="replay_start"):
        ACER("MlpPolicy", every(), buffer_size=100, replay_start=200)


def test_former_names_of_the_number_of_threads():
    for kind, name in ((ACER, "num_procs"), (ACKTR, "nprocs")):
        kind("MlpPolicy", every(), **{name: 2})
        assert torch.get_num_threads() == 2
    A2C("MlpPolicy", every(), n_cpu_tf_sess=1)
    assert torch.get_num_threads() == 1


def test_two_models_may_share_an_environment():
    env = make_vec_env(lambda: Count(limit=7), 2)
    first, second = make("a2c", env), make("acktr", env)
    lengths = []

    def note(locals_, globals_):
        lengths.extend(locals_["ep_lengths"])

    for _ in range(3):
        first.learn(30, note)
        second.learn(32, note)
    assert set(lengths) == {7}


def test_all_names_are_there():
    for name in rlrun.__all__:
        assert getattr(rlrun, name) is not None
    with pytest.raises(AttributeError, match="PPO2"):
        _ = rlrun.PPO2
