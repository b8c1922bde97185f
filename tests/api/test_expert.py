"""Recording experts: in all kinds of environments the same, and as a dataset reads it."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from PIL import Image

from rlrun.api.imitation.dataset import ExpertDataset
from rlrun.api.imitation.expert import generate_expert_traj
from tests.tasks import Every

MODES = list(AutoresetMode)


class Count(gymnasium.Env):
    """Shows its number, its episode and the step in it; episode `e` has `first + e` steps.

    Every other episode is truncated. The reward is the action plus a tenth. Like the fastest ones
    it writes into the observation that it gave before.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (3,))
    action_space = spaces.Discrete(100)

    def __init__(self, number=0, first=2):
        self.number, self.first = number, first
        self.episode = -1
        self.closed = 0
        self._obs = np.zeros(3, np.float32)

    def _show(self):
        self._obs[:] = self.number, self.episode, self.steps
        return self._obs

    def reset(self, *, seed=None, options=None):
        self.episode += 1
        self.steps = 0
        return self._show(), {}

    def step(self, action):
        self.steps += 1
        assert self.steps <= self.first + self.episode
        over = self.steps == self.first + self.episode
        truncated = over and self.episode % 2 == 1
        return self._show(), float(action) + 0.1, over and not truncated, truncated, {}

    def close(self):
        self.closed += 1


class Memory:
    """A model whose action is the number of steps that it remembers of the episode."""

    def __init__(self, env=None):
        self.env = env
        self.calls = []
        self.trained = 0

    def predict(self, observation, state=None, mask=None, deterministic=False):
        observation = np.array(observation)
        self.calls.append((observation, np.array(mask), deterministic))
        n = 1 if observation.ndim == 1 else len(observation)
        state = np.zeros(n, np.int64) if state is None else np.where(mask, 0, state)
        return (state[0] if observation.ndim == 1 else state), state + 1

    def get_env(self):
        return self.env

    def learn(self, total_timesteps):
        self.trained += total_timesteps


def several(mode, n=2, copy=False):
    makers = [lambda i=i: Count(i, first=2 + 3 * i) for i in range(n)]
    return SyncVectorEnv(makers, autoreset_mode=mode, copy=copy)


EXPECTED = [(e, t) for e in range(4) for t in range(2 + e)]


def is_as_expected(data):
    episode, step = np.array(EXPECTED).T
    assert np.array_equal(data["obs"], np.stack([0 * step, episode, step], 1))
    assert np.array_equal(data["actions"], step[:, None])
    assert np.allclose(data["rewards"], step + 0.1)
    assert np.array_equal(data["episode_starts"], step == 0)
    returns = [sum(t + 0.1 for t in range(2 + e)) for e in range(4)]
    assert np.allclose(data["episode_returns"], returns)
    assert data["episode_returns"].shape == (4,)
    assert data["episode_starts"].dtype == bool


def test_one_environment():
    env = Count()
    is_as_expected(generate_expert_traj(Memory(), env=env, n_episodes=4))
    assert env.closed == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [1, 3])
def test_the_first_of_several_environments(mode, n):
    env = several(mode, n)
    is_as_expected(generate_expert_traj(Memory(), env=env, n_episodes=4))
    assert [each.closed for each in env.envs] == [0] * n


@pytest.mark.parametrize("mode", MODES)
def test_a_function_acts_in_several_environments(mode):
    steps = np.array([t for _, t in EXPECTED])
    data = generate_expert_traj(lambda obs: obs[:, 2].astype(int), env=several(mode), n_episodes=4)
    assert np.array_equal(data["actions"][:, 0], steps)
    one = generate_expert_traj(lambda obs: int(obs[2]), env=Count(), n_episodes=4)
    assert all(np.array_equal(data[key], one[key]) for key in data)


@pytest.mark.parametrize("env", [Count(), *map(several, MODES)], ids=["one", *MODES])
def test_masks_tell_the_first_observation_of_each_environment(env):
    model = Memory()
    generate_expert_traj(model, env=env, n_episodes=4)
    for observation, mask, _ in model.calls:
        assert np.array_equal(mask, np.atleast_2d(observation)[:, 2] == 0)


def test_a_model_draws_its_actions_unless_told_otherwise():
    for settings, expected in (({}, False), ({"deterministic": True}, True)):
        model = Memory()
        generate_expert_traj(model, env=Count(), n_episodes=1, **settings)
        assert {each[2] for each in model.calls} == {expected}


def test_a_model_plays_in_its_own_environments():
    is_as_expected(generate_expert_traj(Memory(several(MODES[1])), n_episodes=4))
    with pytest.raises(ValueError, match="env: there is no environment to play in"):
        generate_expert_traj(Memory())
    with pytest.raises(ValueError, match="env: there is no environment to play in"):
        generate_expert_traj(lambda obs: 0)


def test_a_model_is_trained_first_if_asked():
    model = Memory()
    generate_expert_traj(model, env=Count(), n_episodes=1)
    assert model.trained == 0
    generate_expert_traj(model, env=Count(), n_timesteps=30, n_episodes=1)
    assert model.trained == 30


def test_what_was_made_is_closed():
    made = []

    def make():
        made.append(Count())
        return made[-1]

    gymnasium.register("Counted-v0", entry_point=make, disable_env_checker=True)
    try:
        is_as_expected(generate_expert_traj(Memory(), env="Counted-v0", n_episodes=4))
        with pytest.raises(ZeroDivisionError):
            generate_expert_traj(lambda obs: 1 // 0, env="Counted-v0")
    finally:
        del gymnasium.registry["Counted-v0"]
    assert [env.closed for env in made] == [1, 1]


@pytest.mark.parametrize("action", Every.ACTIONS)
def test_actions_are_those_of_the_environment(action):
    env = Every("discrete", action)
    env.reset(seed=0)
    env.action_space.seed(0)
    taken = []

    def act(obs):
        taken.append(env.action_space.sample())
        return taken[-1]

    data = generate_expert_traj(act, env=env, n_episodes=3)
    shape = env.action_space.shape or (1,)
    assert data["actions"].dtype == env.action_space.dtype
    assert np.array_equal(data["actions"], np.array(taken).reshape(-1, *shape))
    assert data["obs"].shape == (len(taken), 1)
    assert set(data["obs"].ravel()) <= set(range(3, 10))


@pytest.mark.parametrize("observation", ["dict", "tuple"])
def test_composite_observations_are_refused(observation):
    with pytest.raises(ValueError, match=r"observations of .* cannot be recorded; allowed: Box"):
        generate_expert_traj(lambda obs: 2, env=Every(observation))


def test_composite_actions_are_refused():
    env = Count()
    env.action_space = spaces.Tuple([spaces.Discrete(2)])
    with pytest.raises(ValueError, match=r"actions of Tuple.* cannot be recorded"):
        generate_expert_traj(lambda obs: (0,), env=env)


def test_what_makes_no_sense():
    with pytest.raises(TypeError, match="int neither has `predict` nor can be called"):
        generate_expert_traj(3, env=Count())
    with pytest.raises(ValueError, match="a function cannot be trained"):
        generate_expert_traj(lambda obs: 0, env=Count(), n_timesteps=5)
    with pytest.raises(ValueError, match="n_episodes=0 below 1"):
        generate_expert_traj(lambda obs: 0, env=Count(), n_episodes=0)
    silent = several(MODES[0])
    silent.metadata = {}
    with pytest.raises(ValueError, match=r"set its metadata\['autoreset_mode'\]"):
        generate_expert_traj(lambda obs: [0, 0], env=silent)


# Files.


@pytest.mark.parametrize("name", ["deep/expert", "deep/expert.npz", "deep/v1.2"])
def test_what_is_saved_is_what_is_returned(tmp_path, name):
    data = generate_expert_traj(Memory(), tmp_path / name, Count(), n_episodes=4)
    path = tmp_path / (name if name.endswith(".npz") else f"{name}.npz")
    assert [each.name for each in (tmp_path / "deep").iterdir()] == [path.name]
    with np.load(path) as archive:
        assert set(archive.files) == set(data)
        assert all(np.array_equal(archive[key], data[key]) for key in data)
    dataset = ExpertDataset(tmp_path / name, traj_limitation=2, verbose=0)
    assert np.array_equal(dataset.observations, data["obs"][:5])


def test_an_archive_stays_until_the_next_one_is_whole(tmp_path, monkeypatch):
    generate_expert_traj(Memory(), tmp_path / "expert", Count(), n_episodes=1)
    before = (tmp_path / "expert.npz").read_bytes()
    monkeypatch.setattr("os.rename", lambda *names: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        generate_expert_traj(Memory(), tmp_path / "expert", Count(), n_episodes=3)
    assert [each.name for each in tmp_path.iterdir()] == ["expert.npz"]
    assert (tmp_path / "expert.npz").read_bytes() == before


class Noise(gymnasium.Env):
    """Pictures of noise; two steps an episode."""

    action_space = spaces.Discrete(2)

    def __init__(self, shape):
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.seen = []

    def _show(self):
        picture = self.np_random.integers(256, size=self.observation_space.shape, dtype=np.uint8)
        self.seen.append(picture)
        return picture

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._show(), {}

    def step(self, action):
        self.steps += 1
        return self._show(), 0.0, self.steps == 2, False, {}

    @property
    def acted_in(self):
        return np.array([picture for i, picture in enumerate(self.seen) if i % 3 < 2])


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("last", [True, False], ids=["last", "first"])
def test_pictures_become_files(tmp_path, monkeypatch, channels, last):
    env = Noise((6, 7, channels) if last else (channels, 6, 7))
    monkeypatch.chdir(tmp_path)
    data = generate_expert_traj(lambda obs: 1, "some/expert", env, n_episodes=2)
    assert data["obs"].tolist() == [f"some/recorded_images/expert-{i}.png" for i in range(4)]
    seen = env.acted_in if last else np.moveaxis(env.acted_in, 1, -1)
    monkeypatch.chdir("/")
    dataset = ExpertDataset(tmp_path / "some" / "expert", verbose=0)
    assert np.array_equal(dataset.read(np.arange(4))[0], seen)
    # The files are what OpenCV takes for the same numbers.
    pixels = np.asarray(Image.open(tmp_path / data["obs"][2]))
    order = {1: 0, 3: [0, 1, 2], 4: [2, 1, 0, 3]}[channels]
    assert np.array_equal(pixels, seen[2][..., order])


def test_pictures_stay_in_the_arrays_if_nothing_is_saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = Noise((6, 7, 3))
    data = generate_expert_traj(lambda obs: 1, env=env, n_episodes=2)
    assert np.array_equal(data["obs"], env.acted_in)
    assert not list(tmp_path.iterdir())
    stack = Noise((6, 7, 12))
    generate_expert_traj(lambda obs: 1, "stack", stack, n_episodes=2)
    assert np.array_equal(ExpertDataset("stack", verbose=0).observations, stack.acted_in)


def test_datasets_in_one_folder_keep_their_pictures(tmp_path):
    envs = {name: Noise((6, 7, 3)) for name in ("one", "other")}
    for name, env in envs.items():
        generate_expert_traj(lambda obs: 1, tmp_path / name, env, n_episodes=2)
    for name, env in envs.items():
        dataset = ExpertDataset(tmp_path / name, verbose=0)
        assert np.array_equal(dataset.read(np.arange(4))[0], env.acted_in)


def test_an_archive_whose_pictures_are_overwritten_is_removed_first(tmp_path):
    generate_expert_traj(lambda obs: 1, tmp_path / "expert", Noise((6, 7, 3)), n_episodes=2)
    calls = [1]
    with pytest.raises(IndexError):
        generate_expert_traj(lambda obs: calls.pop(), tmp_path / "expert", Noise((6, 7, 3)))
    assert not (tmp_path / "expert.npz").exists()
