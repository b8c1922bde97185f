"""What users of stable-baselines wrote, with another line of imports and Gymnasium's five values.

Its guides to callbacks and to learning from an expert, with fewer steps.
"""

import os

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import RecordEpisodeStatistics
from test_snippets import play

from rlrun import (
    A2C,
    ACER,
    ACKTR,
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    ExpertDataset,
    StopTrainingOnRewardThreshold,
    evaluate_policy,
    generate_expert_traj,
    make_vec_env,
)

ALL = pytest.mark.parametrize("kind", [ACER, ACKTR, A2C])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


class SaveOnBestTrainingRewardCallback(BaseCallback):
    """Saves when the mean of the last 100 episodes is better than ever."""

    def __init__(self, check_freq: int, log_dir: str, verbose=1):
        super(SaveOnBestTrainingRewardCallback, self).__init__(verbose)  # noqa: UP008
        self.check_freq = check_freq
        self.save_path = os.path.join(log_dir, "best_model")
        self.best_mean_reward = -np.inf
        self.returns = []

    def _init_callback(self) -> None:
        os.makedirs(self.save_path, exist_ok=True)

    def _on_step(self) -> bool:
        self.returns += self.locals["ep_returns"]
        if self.n_calls % self.check_freq == 0 and self.returns:
            mean_reward = np.mean(self.returns[-100:])
            if mean_reward > self.best_mean_reward:
                self.best_mean_reward = mean_reward
                self.model.save(os.path.join(self.save_path, "model"))
        return True


def test_the_best_model_is_saved():
    env = RecordEpisodeStatistics(gym.make("CartPole-v1"))
    callback = SaveOnBestTrainingRewardCallback(check_freq=50, log_dir="tmp/")
    ACER("MlpPolicy", env).learn(total_timesteps=300, callback=callback)
    assert callback.best_mean_reward > 8
    play(ACER.load("tmp/best_model/model"), make_vec_env("CartPole-v1", 2))


def test_callbacks():
    checkpoint_callback = CheckpointCallback(save_freq=20, save_path="./logs/",
                                             name_prefix="rl_model")  # fmt: skip
    eval_env = gym.make("Pendulum-v1", max_episode_steps=20)
    eval_callback = EvalCallback(eval_env, best_model_save_path="./logs/best_model",
                                 log_path="./logs/results", eval_freq=50, n_eval_episodes=2,
                                 deterministic=True, render=False)  # fmt: skip
    event_callback = EveryNTimesteps(n_steps=40, callback=CheckpointCallback(1, "./logs/events"))
    callback = CallbackList([checkpoint_callback, eval_callback, event_callback])
    model = ACKTR("MlpPolicy", "Pendulum-v1")
    model.learn(100, callback=callback)
    names = sorted(path for path in os.listdir("logs") if path.endswith(".zip"))
    assert names == sorted(f"rl_model_{n}_steps.zip" for n in (20, 40, 60, 80, 100))
    assert len(os.listdir("logs/events")) == 2
    with np.load("logs/results/evaluations.npz", allow_pickle=False) as evaluations:
        assert evaluations["timesteps"].tolist() == [50, 100]
        assert evaluations["results"].shape == (2, 2)
    ACKTR.load("logs/best_model/best_model")
    ACKTR("MlpPolicy", "Pendulum-v1").learn(20, callback=[checkpoint_callback, eval_callback])


def test_training_stops_when_the_reward_is_reached(capsys):
    callback_on_best = StopTrainingOnRewardThreshold(reward_threshold=5, verbose=1)
    eval_callback = EvalCallback(gym.make("CartPole-v1"), callback_on_new_best=callback_on_best,
                                 eval_freq=30, n_eval_episodes=2, verbose=1)  # fmt: skip
    model = ACER("MlpPolicy", "CartPole-v1", verbose=1)
    model.learn(int(1e10), callback=eval_callback)
    assert model.num_timesteps == 30


def test_a_function_as_callback(capsys):
    def simple_callback(_locals, _globals):
        print("callback called")
        _locals["self"].save("saved_model")
        return False  # returns False, training stops.

    model = ACKTR("MlpPolicy", "CartPole-v1")
    model.learn(2000, callback=simple_callback)
    assert capsys.readouterr().out.count("callback called") == 1
    assert ACKTR.load("saved_model").num_timesteps == 1


def test_expert_and_pretraining():
    env = gym.make("CartPole-v1")

    def dummy_expert(_obs):
        return int(_obs[2] + 0.5 * _obs[3] > 0)  # a controller: the side the pole falls to

    generate_expert_traj(dummy_expert, "expert_cartpole", env, n_episodes=4)
    dataset = ExpertDataset(expert_path="expert_cartpole.npz", traj_limitation=3, batch_size=128,
                            verbose=0)  # fmt: skip
    model = ACER("MlpPolicy", "CartPole-v1", seed=1)
    before, _ = evaluate_policy(model, "CartPole-v1", 4)
    model.pretrain(dataset, n_epochs=60, learning_rate=3e-3)
    after, _ = evaluate_policy(model, "CartPole-v1", 4)
    assert before < 20
    assert after > 200
    generate_expert_traj(model, "again", n_timesteps=0, n_episodes=1)
    assert os.path.exists("again.npz")
