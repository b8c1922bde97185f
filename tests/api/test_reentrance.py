"""Environments and models that are used by somebody else in the middle of a training."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from whole import KINDS, every, fingerprint, make

from rlrun import BaseCallback, EvalCallback, evaluate_policy, make_vec_env

LIMIT = 7


class Trace(gymnasium.Env):
    """Shows the numbers of its episode and of its step; every other episode ends by truncation."""

    observation_space = spaces.Box(0, 1e6, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self):
        self.episode = self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.steps = self.episode + 1, 0
        return self.shown(), {}

    def step(self, action):
        assert self.steps < LIMIT, "stepped after its end"
        self.steps += 1
        over, odd = self.steps == LIMIT, bool(self.episode % 2)
        return self.shown(), 1.0, over and not odd, over and odd, {}

    def shown(self):
        return np.float32([self.episode, self.steps])


class Witness:
    """Compares what a model sees with what its environments show, and reads all its segments."""

    def __init__(self, model, envs):
        self.acts, self.segments = 0, 0
        training, act, learn = model._training, model.algorithm.act, model._training.learn

        def acting(observations, reset, *rest):
            shown = [env.shown().tolist() for env in envs]
            assert observations.tolist() == shown
            assert reset.tolist() == [env.steps == 0 for env in envs]
            self.acts += 1
            return act(observations, reset, *rest)

        def learning(rollout, *rest):
            episodes, steps = rollout.observations.double().unbind(-1)
            begins = rollout.reset
            assert ((steps == 0) == begins).all()
            goes_on = ~begins[1:]
            assert (episodes[1:] == episodes[:-1])[goes_on].all()
            assert (steps[1:] == steps[:-1] + 1)[goes_on].all()
            over = rollout.terminated | rollout.truncated
            assert (over == begins[1:]).all(), "an episode that was broken off"
            assert (steps[:-1][over] == LIMIT - 1).all()
            times, where = rollout.final_index.T
            assert len(times) == rollout.truncated.sum()
            assert rollout.truncated[times, where].all()
            assert (rollout.final_observations[:, 0] == episodes[times, where]).all()
            assert (rollout.final_observations[:, 1] == LIMIT).all()
            self.segments += 1
            return learn(rollout, *rest)

        model.algorithm.act, training.learn = acting, learning


HOOKS = [name for name in vars(BaseCallback) if name.startswith(("_on_", "_init_callback"))]


def traced(n_envs):
    """A batch, and the environments in it."""
    made = []
    batch = make_vec_env(lambda: made.append(Trace()) or made[-1], n_envs)
    return batch, made


def do_reset(model):
    model.get_env().reset()


def do_seeded_reset(model):
    model.get_env().reset(seed=3)


def do_steps(model):
    for _ in range(4):
        model.get_env().step(np.zeros(model.n_envs, np.int64))


def do_evaluate(model):
    assert evaluate_policy(model, model.get_env(), 1) == (LIMIT, 0.0)


@pytest.mark.parametrize("disturb", [do_reset, do_seeded_reset, do_steps, do_evaluate])
@pytest.mark.parametrize("policy", ["MlpPolicy", "MlpLstmPolicy"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_callback_that_uses_the_environments_of_the_training(kind, policy, disturb):
    """In the middle of a segment (first after a truncation), at its end, and twice in one."""
    batch, envs = traced(3)
    model = make(kind, batch, policy)
    witness, lengths, calls = Witness(model, envs), [], []

    def callback(told, _):
        calls.append(told["self"].num_timesteps)
        lengths.extend(told["ep_lengths"])
        if len(calls) in (8, 12, 14, 20):
            disturb(model)

    model.learn(150, callback)
    assert model.num_timesteps >= 150
    assert calls == list(range(3, 3 * len(calls) + 1, 3)), "every step counts, also a dropped one"
    assert witness.segments >= 7
    assert set(lengths) == {LIMIT}


@pytest.mark.parametrize("disturb", [do_reset, do_steps, do_evaluate])
@pytest.mark.parametrize("hook", ["_on_training_start", "_on_rollout_start", "_on_rollout_end"])
def test_a_callback_that_uses_them_between_segments(hook, disturb):
    class Disturbing(BaseCallback):
        pass

    setattr(Disturbing, hook, lambda self: disturb(self.model))
    batch, envs = traced(3)
    model = make("acer", batch, "MlpLstmPolicy")
    witness = Witness(model, envs)
    model.learn(90, Disturbing()).learn(15, Disturbing())
    assert witness.segments == 7


@pytest.mark.parametrize("kind", KINDS)
def test_a_segment_holds_no_step_from_before_the_disturbance(kind):
    """The environments have gone on by the time it is learnt from: row 0 begins an episode."""
    batch, envs = traced(2)
    model = make(kind, batch)
    Witness(model, envs)
    firsts, learn = [], model._training.learn

    def learning(rollout, *rest):
        firsts.append(rollout.observations[0].tolist())
        return learn(rollout, *rest)

    model._training.learn = learning
    calls = []

    def callback(told, _):
        calls.append(told)
        if len(calls) == 8:
            do_reset(model)

    model.learn(26, callback)
    assert firsts[0] == [[1, 0]] * 2
    assert firsts[1][0][1] == 0
    assert firsts[1][0][0] > 1
    assert len(calls) == 13, "5 steps, 3 that were dropped, 5 steps"


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_is_learning_refuses_to_begin_something_else(kind, hook):
    refused = []

    def meddle(callback):
        model = callback.model
        for each in (lambda: model.learn(10), lambda: model.set_env(every()), model.setup_model):
            with pytest.raises(RuntimeError, match="learning"):
                each()
            refused.append(each)

    class Meddling(BaseCallback):
        pass

    setattr(Meddling, hook, meddle)
    straight, model = make(kind).learn(60), make(kind)
    model.learn(60, Meddling())
    assert len(refused) >= 3
    assert fingerprint(model) == fingerprint(straight)
    assert fingerprint(model.learn(30)) == fingerprint(straight.learn(30))


def test_a_refusal_that_is_not_caught_ends_the_training_only():
    model = make("a2c")
    with pytest.raises(RuntimeError, match="learning"):
        model.learn(60, lambda told, _: told["self"].setup_model())
    assert model.learn(57, reset_num_timesteps=False).num_timesteps == 60
    model.set_env(every(n_envs=2))
    model.setup_model()
    assert model.learn(10).num_timesteps == 10


def raw_env():
    env = Trace()
    return env, [env]


def raw_batch():
    batch = SyncVectorEnv([Trace] * 2)
    return batch, list(batch.envs)


@pytest.mark.parametrize("raw", [raw_env, raw_batch])
@pytest.mark.parametrize("kind", KINDS)
def test_evaluating_in_an_object_that_is_trained_in(kind, raw):
    env, inside = raw()
    model = make(kind, env, "MlpLstmPolicy")
    witness, lengths = Witness(model, inside), []

    def note(told, _):
        lengths.extend(told["ep_lengths"])
        if len(lengths) == 4:
            lengths.append(LIMIT)
            assert evaluate_policy(model, env, 2) == (LIMIT, 0.0)

    model.learn(33 * len(inside), note)
    assert evaluate_policy(model, env, 3) == (LIMIT, 0.0)
    model.learn(33 * len(inside), note)
    assert witness.acts >= 66
    assert set(lengths) == {LIMIT}


def test_two_models_in_one_object():
    for raw in (raw_env, raw_batch):
        env, inside = raw()
        first, second = make("acer", env), make("a2c", env, "MlpLstmPolicy")
        for model in (first, second):
            Witness(model, inside)
        for _ in range(3):
            first.learn(13 * len(inside))
            second.learn(11 * len(inside))


def test_objects_that_are_gone_are_not_mixed_up():
    """A new object may have the address of one that is gone."""
    for limit in range(1, 30):
        env = gymnasium.wrappers.TimeLimit(Trace(), limit)
        lengths = []
        make("a2c", env).learn(40, lambda told, _, to=lengths: to.extend(told["ep_lengths"]))
        assert set(lengths) == {min(limit, LIMIT)}
        del env


@pytest.mark.parametrize("raw", [raw_env, raw_batch])
def test_no_evaluations_in_an_object_that_is_trained_in(raw):
    env, inside = raw()
    model = make("a2c", env)
    for same in (env, inside[0]) if isinstance(env, gymnasium.Env) else (env,):
        with pytest.raises(ValueError, match="eval_env"):
            model.learn(10, EvalCallback(same, eval_freq=2, verbose=0))
    other, _ = raw()
    assert model.learn(10, EvalCallback(other, eval_freq=2, verbose=0)).num_timesteps == 10


def test_callbacks_are_told_of_truncations():
    """Odd episodes are cut off, and end like the others."""
    batch, _ = traced(1)
    dones = []
    make("a2c", batch).learn(4 * LIMIT, lambda told, _: dones.extend(told["dones"].tolist()))
    assert [i for i, done in enumerate(dones, 1) if done] == [LIMIT * k for k in range(1, 5)]
