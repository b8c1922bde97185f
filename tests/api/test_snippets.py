"""What users of stable-baselines wrote, with another line of imports and Gymnasium's five values.

The programs of its documentation, for our algorithms and with fewer steps.
"""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from torch import nn

from rlrun import (
    A2C,
    ACER,
    ACKTR,
    evaluate_policy,
    make_vec_env,
    register_policy,
)

ALL = pytest.mark.parametrize("kind", [ACER, ACKTR, A2C])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def play(model, env, steps=50):
    """The loop at the end of many of them."""
    obs, _info = env.reset()
    for _ in range(steps):
        action, _states = model.predict(obs)
        obs, rewards, terminated, truncated, _info = env.step(action)
    assert rewards.shape == terminated.shape == truncated.shape == (env.num_envs,)
    return obs


@ALL
def test_train_save_load_play(kind, capsys):
    env = make_vec_env("CartPole-v1", n_envs=4)

    model = kind("MlpPolicy", env, verbose=1)
    model.learn(total_timesteps=400, log_interval=2)
    model.save("cartpole")

    del model  # remove to demonstrate saving and loading

    model = kind.load("cartpole")

    assert play(model, env).shape == (4, 4)
    assert "train/timesteps" in capsys.readouterr().out


@ALL
def test_one_liner(kind):
    model = kind("MlpPolicy", "CartPole-v1").learn(50)
    assert model.num_timesteps >= 50


@ALL
def test_a_single_environment(kind):
    env = gym.make("CartPole-v1")
    model = kind("MlpPolicy", env)
    model.learn(total_timesteps=50)

    obs, _ = env.reset()
    for _ in range(60):
        action, _states = model.predict(obs)
        obs, _reward, terminated, truncated, _info = env.step(action)
        if terminated or truncated:
            obs, _ = env.reset()


@ALL
def test_load_evaluate_enjoy(kind):
    kind("MlpPolicy", gym.make("CartPole-v1"), learning_rate=1e-3).learn(100).save("agent")
    model = kind.load("agent")
    mean_reward, std_reward = evaluate_policy(model, model.get_env(), n_eval_episodes=3)
    assert mean_reward >= 8
    assert std_reward >= 0
    play(model, model.get_env())


def test_processes():
    def make_env(env_id, rank, seed=0):
        def _init():
            env = gym.make(env_id)
            env.reset(seed=seed + rank)
            return env

        return _init

    env = AsyncVectorEnv([make_env("CartPole-v1", i) for i in range(2)])
    model = ACKTR("MlpPolicy", env)
    model.learn(total_timesteps=100)
    play(model, env)
    env.close()

    env = make_vec_env("CartPole-v1", n_envs=2, seed=0, vec_env_cls=AsyncVectorEnv)
    play(ACKTR("MlpPolicy", env).learn(100), env)
    env.close()


def test_atari():
    env = make_vec_env("PongNoFrameskip-v4", n_envs=2, seed=0)
    model = ACER("CnnPolicy", env, n_steps=4, buffer_size=100, replay_start=4, n_cpu_tf_sess=1)
    model.learn(total_timesteps=24)
    assert play(model, env, 5).shape == (2, 4, 84, 84)


def test_normalised_observations():
    env = make_vec_env("Pendulum-v1", 2)
    model = ACKTR("MlpPolicy", env, normalize_observations=True)
    model.learn(200)
    model.save("pendulum")
    del model, env
    model = ACKTR.load("pendulum")
    env = make_vec_env("Pendulum-v1", 2)
    obs = play(model, env)
    before = model.predict(obs, deterministic=True)[0]
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], before)


class CustomPolicy(nn.Module):
    """In place of a FeedForwardPolicy of one's own: whatever encodes observations."""

    def __init__(self, observation_space, width=16):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(observation_space.shape[0], width), nn.Tanh())

    def forward(self, obs):
        return self.layers(obs)


@ALL
def test_policies_of_ones_own(kind):
    model = kind(CustomPolicy, "CartPole-v1")
    model.learn(total_timesteps=50)
    model.save("custom")
    del model
    # When loading a model with a custom policy
    # you MUST pass explicitly the policy when loading the saved model
    model = kind.load("custom", policy=CustomPolicy)
    play(model, model.get_env())


def test_a_registered_policy():
    register_policy("CustomPolicy", CustomPolicy)
    A2C(policy="CustomPolicy", env="CartPole-v1").learn(total_timesteps=50)
    with pytest.raises(ValueError, match="CustomPolicy"):
        register_policy("CustomPolicy", CustomPolicy)


def test_policy_kwargs():
    policy_kwargs = {"act_fun": torch.tanh, "net_arch": [32, 32]}
    model = A2C("MlpPolicy", "CartPole-v1", policy_kwargs=policy_kwargs)
    env = model.get_env()
    model.learn(total_timesteps=50)
    model.save("cartpole")
    del model
    # the policy_kwargs are automatically loaded
    model = A2C.load("cartpole")
    play(model, env)
    shapes = [value.shape for value in model.get_parameters().values()]
    assert (32, 4) in shapes
    assert (32, 32) in shapes


@pytest.mark.parametrize(
    "net_arch",
    [[128, 128], [128, {"vf": [64, 64]}], [128, {"vf": [64], "pi": [16]}],
     [{"pi": [32, 32, 32], "vf": [32, 32, 32]}]],
    ids=str,
)  # fmt: skip
@ALL
def test_architectures(kind, net_arch):
    kind("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": net_arch}).learn(50)


def test_evolution_strategy():
    def mutate(params, rng):
        return {name: param + rng.normal(size=param.shape) for name, param in params.items()}

    def evaluate(env, model):
        episode_rewards = []
        for _ in range(2):
            reward_sum, done = 0, False
            obs, _ = env.reset()
            while not done:
                action, _states = model.predict(obs)
                obs, reward, terminated, truncated, _info = env.step(action)
                done = terminated or truncated
                reward_sum += reward
            episode_rewards.append(reward_sum)
        return np.mean(episode_rewards)

    env, rng = gym.make("CartPole-v1"), np.random.default_rng(0)
    model = A2C("MlpPolicy", env, ent_coef=0.0, learning_rate=0.1, seed=0,
                policy_kwargs={"net_arch": [8]})  # fmt: skip
    model.learn(total_timesteps=100)

    mean_params = model.get_parameters()
    # Here the critic's names have ".value." (or ".q.") where SB has "/vf/" and "/q/": only the
    # others affect the action.
    mean_params = {key: value for key, value in mean_params.items() if ".heads.value." not in key}
    assert 0 < len(mean_params) < len(model.get_parameters())
    critic = {k: v for k, v in model.get_parameters().items() if k not in mean_params}

    best = []
    for _ in range(3):
        population = []
        for _ in range(8):
            candidate = mutate(mean_params, rng)
            model.load_parameters(candidate, exact_match=False)
            population.append((candidate, evaluate(env, model)))
        top = sorted(population, key=lambda x: x[1], reverse=True)[:2]
        mean_params = {
            name: np.stack([candidate[0][name] for candidate in top]).mean(0)
            for name in mean_params.keys()  # noqa: SIM118
        }
        best.append(sum(candidate[1] for candidate in top) / 2.0)
    assert max(best) > 20
    for name, value in critic.items():
        np.testing.assert_array_equal(model.get_parameters()[name], value)


@pytest.mark.parametrize("policy", ["MlpLstmPolicy", "MlpLnLstmPolicy"])
@ALL
def test_recurrent_policies(kind, policy):
    model = kind(policy, "CartPole-v1", policy_kwargs={"n_lstm": 16})
    model.learn(50)
    env = model.get_env()
    obs, _ = env.reset()
    state = None
    done = [False for _ in range(env.num_envs)]
    for _ in range(60):
        action, state = model.predict(obs, state=state, mask=done)
        obs, _reward, terminated, truncated, _ = env.step(action)
        done = terminated | truncated
    assert state.shape[0] == 1
    # There is no need for as many environments as in the training.
    action, state = model.predict(np.zeros((5, 4), np.float32), None)
    assert action.shape == (5,)


def test_continual_learning():
    env = make_vec_env("DemonAttackNoFrameskip-v4", n_envs=2, seed=0)
    model = ACKTR("CnnPolicy", env, n_steps=3, n_cpu_tf_sess=1,
                  policy_kwargs={"filters": [4, 4, 4], "features_dim": 16})  # fmt: skip
    model.learn(total_timesteps=12)
    env.close()

    env = make_vec_env("SpaceInvadersNoFrameskip-v4", n_envs=4, seed=0)
    model.set_env(env)
    model.learn(total_timesteps=24)
    play(model, env, 5)
    env.close()


def test_pictures_of_a_trained_agent():
    env = make_vec_env("CartPole-v1", env_kwargs={"render_mode": "rgb_array"})
    model = A2C("MlpPolicy", env).learn(50)
    images = []
    model.get_env().reset()
    for _ in range(9):
        action = np.array([1])  # to the right, far enough to be seen
        model.get_env().step(action)
        images.append(np.array(model.get_env().render()[0]))
    assert images[0].shape == images[1].shape
    assert images[0].ndim == 3
    assert (images[0] != images[-1]).any()


def test_a_batch_of_gymnasium():
    env = SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 2)
    model = ACER("MlpPolicy", env).learn(50)
    play(model, env)
    model.learn(50, reset_num_timesteps=False)
