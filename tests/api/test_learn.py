"""Training through the Python API: how far it goes, how it goes on, and what its seed decides."""

import numpy as np
import pytest
import torch
from whole import KINDS, Count, fingerprint, make, weights

from rlrun import (
    BaseCallback,
    evaluate_policy,
    make_vec_env,
)


@pytest.mark.parametrize("kind", KINDS)
def test_identity_is_learnt(kind):
    settings = {
        "acer": {"learning_rate": 5e-3, "buffer_size": 500, "replay_start": 100},
        "acktr": {"cold_iter": 10, "kfac_update": 10},
        "a2c": {"learning_rate": 3e-3},
    }[kind]
    env = make_vec_env("Identity-v0", 4)
    model = make(kind, env, n_steps=20 if kind == "acktr" else 5, **settings)
    before, _ = evaluate_policy(model, "Identity-v0", 4)
    model.learn({"acer": 5000, "acktr": 6000, "a2c": 12000}[kind])
    after, _ = evaluate_policy(model, "Identity-v0", 4)
    assert before < 30
    assert after > 90


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_counted_over_all_environments(kind):
    counts = []
    model = make(kind)  # segments of 5 steps in 3 environments

    def note(locals_, globals_):
        counts.append(locals_["self"].num_timesteps)

    assert model.num_timesteps == 0
    assert model.learn(60, note) is model
    assert counts == list(range(3, 61, 3))
    model.learn(61)
    assert model.num_timesteps == 75
    model.learn(1, reset_num_timesteps=False)
    assert model.num_timesteps == 90
    model.learn(1)
    assert model.num_timesteps == 15


@pytest.mark.parametrize("kind", KINDS)
def test_learning_again_resets_nothing(kind):
    env = Count()
    model = make(kind, env)
    assert env.resets == 0
    model.learn(20)
    model.learn(20, reset_num_timesteps=False)
    model.learn(23, lambda locals_, globals_: locals_["self"].num_timesteps < 22)
    model.learn(20)
    assert env.resets == 1
    assert env.total == 85  # three steps more end the segment in hand
    model.set_env(env2 := Count())
    model.learn(20)
    assert (env.resets, env2.resets) == (1, 1)
    assert (env.total, env2.total) == (85, 20)


@pytest.mark.parametrize("calls", [1, 5, 7, 13])
@pytest.mark.parametrize("policy", ["MlpPolicy", "MlpLstmPolicy"])
@pytest.mark.parametrize("kind", KINDS)
def test_stopped_at_once_and_gone_on_equals_uninterrupted(kind, policy, calls):
    kwargs = {"policy_kwargs": {"lstm_size": 8}} if "Lstm" in policy else {}
    straight = make(kind, policy=policy, **kwargs).learn(150)
    model = make(kind, policy=policy, **kwargs)

    class Stop(BaseCallback):
        def _on_step(self):
            return self.n_calls < calls or None if self.n_calls != calls else False

    callback = Stop()
    model.learn(150, callback)
    assert callback.n_calls == calls
    assert model.num_timesteps == 3 * calls
    model.learn(150 - 3 * calls, reset_num_timesteps=False)
    assert model.num_timesteps == 150
    assert fingerprint(model) == fingerprint(straight)


@pytest.mark.parametrize("kind", KINDS)
def test_two_halves_equal_the_whole_where_the_schedule_is_constant(kind):
    straight = make(kind, lr_schedule="constant").learn(150)
    halves = make(kind, lr_schedule="constant").learn(60)
    halves.learn(90, reset_num_timesteps=False)
    assert fingerprint(halves) == fingerprint(straight)
    counted_anew = make(kind, lr_schedule="constant").learn(60).learn(90)
    assert counted_anew.num_timesteps == 90
    assert weights(counted_anew) == weights(straight)


def test_the_progress_goes_on_with_the_count():
    seen_ = []

    def schedule(progress):
        seen_.append(progress)
        return 1.0 - 0.5 * progress

    model = make("a2c", lr_schedule=schedule)
    model.learn(60)
    assert seen_ == [0.25, 0.5, 0.75, 1.0]
    model.learn(60, reset_num_timesteps=False)
    assert seen_[4:] == [75 / 120, 90 / 120, 105 / 120, 1.0]
    model.learn(30)
    assert seen_[8:] == [0.5, 1.0]


def test_a_schedule_of_ones_own_is_applied():
    frozen = make("a2c", lr_schedule=lambda progress: 0.0)
    before = weights(frozen)
    assert weights(frozen.learn(60)) == before
    half = make("a2c", lr_schedule=lambda progress: 0.5, learning_rate=2e-3).learn(60)
    assert weights(half) == weights(
        make("a2c", lr_schedule="constant", learning_rate=1e-3).learn(60)
    )


def test_nothing_to_learn_changes_nothing():
    model = make("a2c").learn(30)
    before = fingerprint(model)
    for wrong in ({"total_timesteps": 0}, {"total_timesteps": -5}):
        with pytest.raises(ValueError, match="at least 1"):
            model.learn(**wrong)
    with pytest.raises(ValueError, match="at least 1"):
        model.learn(15, log_interval=0)
    with pytest.raises(TypeError):
        model.learn(15, callback=3)
    assert fingerprint(model) == before
    assert model.num_timesteps == 30


@pytest.mark.parametrize("policy", ["MlpPolicy", "MlpLstmPolicy"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides(kind, policy):
    kwargs = {"policy": policy} | ({"policy_kwargs": {"lstm_size": 8}} if "Ls" in policy else {})
    first = fingerprint(make(kind, **kwargs).learn(90))
    torch.manual_seed(5)
    np.random.seed(5)
    assert (
        fingerprint(make(kind, make_vec_env("Every-v0", 3, seed=77), **kwargs).learn(90)) == first
    )
    assert fingerprint(make(kind, seed=1, **kwargs).learn(90)) != first
    free = make(kind, seed=None, **kwargs).learn(90)
    assert fingerprint(make(kind, seed=free.seed, **kwargs).learn(90)) == fingerprint(free)
    assert make(kind, seed=None, **kwargs).seed != free.seed
