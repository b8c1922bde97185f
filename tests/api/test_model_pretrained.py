"""Imitation as a method of a model: it adds to what the policy knows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlrun import A2C, ACER, ExpertDataset, evaluate_policy, generate_expert_traj, make_vec_env
from tests.api.whole import make


def balance(observation: np.ndarray) -> np.ndarray:
    """Keeps CartPole up for 500 steps."""
    return np.asarray(observation @ np.array([0.1, 0.5, 10.0, 2.0]) > 0).astype(int)


@pytest.fixture(scope="module")
def dataset() -> ExpertDataset:
    env = make_vec_env("CartPole-v1", seed=0)
    told = generate_expert_traj(balance, env=env, n_episodes=6)
    assert told["episode_returns"].min() == 500
    return ExpertDataset(traj_data=told, verbose=0)


def test_it_improves_and_does_not_wipe(dataset: ExpertDataset) -> None:
    model = A2C("MlpPolicy", make_vec_env("CartPole-v1", 4), seed=1)
    before, _ = evaluate_policy(model, "CartPole-v1", 10)
    assert model.pretrain(dataset, n_epochs=15, learning_rate=1e-3) is model
    taught, _ = evaluate_policy(model, "CartPole-v1", 10)
    assert before < 100
    assert taught > 400
    # Wiped, it could not be as good again after one more epoch at a small rate.
    model.pretrain(dataset, n_epochs=1, learning_rate=1e-5)
    again, _ = evaluate_policy(model, "CartPole-v1", 10)
    assert again > 400


def test_nothing_of_the_training_is_lost(dataset: ExpertDataset) -> None:
    model = A2C("MlpPolicy", make_vec_env("CartPole-v1", 2), seed=1).learn(50)
    squares = [square.clone() for square in model.algorithm.optimizer.mean_squares]
    critic = {n: w for n, w in model.get_parameters().items() if ".value." in n}
    model.pretrain(dataset, n_epochs=1)
    assert model.num_timesteps == 50
    after = model.get_parameters()
    assert all(np.array_equal(after[name], weight) for name, weight in critic.items())
    assert all(map(torch.equal, model.algorithm.optimizer.mean_squares, squares))
    model.learn(50, reset_num_timesteps=False)
    assert model.num_timesteps == 100


def test_the_average_policy_follows(dataset: ExpertDataset) -> None:
    model = ACER("MlpPolicy", make_vec_env("CartPole-v1", 2), seed=1).learn(40)
    model.pretrain(dataset, n_epochs=1)
    own, average = (m.state_dict() for m in (model.algorithm.actor, model.algorithm.average))
    assert all(torch.equal(own[name], average[name]) for name in own)


def test_at_rate_zero_nothing_changes(dataset: ExpertDataset) -> None:
    model = A2C("MlpPolicy", make_vec_env("CartPole-v1", 2), seed=1).learn(50)
    before = model.get_parameters()
    model.pretrain(dataset, n_epochs=2, learning_rate=0.0)
    after = model.get_parameters()
    assert all(np.array_equal(after[name], before[name]) for name in before)


def test_a_dataset_of_other_spaces(dataset: ExpertDataset) -> None:
    model = make("a2c")
    before = model.get_parameters()
    with pytest.raises(ValueError, match="dataset"):
        model.pretrain(dataset)
    after = model.get_parameters()
    assert all(np.array_equal(after[name], before[name]) for name in before)
