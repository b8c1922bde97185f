"""What environments of every space are given, and what they show."""

import hashlib

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlrun.envs import is_deterministic, make_vec
from rlrun.envs.vector import BadEnvironment
from rlrun.schema import UserError
from rlrun.spaces import leaves, unpack

OBSERVED = {
    "dict": spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (8, 9, 3), np.uint8),
            "class": spaces.Discrete(9, start=-4),
            "state": spaces.Dict(
                position=spaces.Box(-np.inf, np.inf, (3,), np.float64),
                grip=spaces.MultiBinary(2),
            ),
        }
    ),
    "tuple": spaces.Tuple([spaces.MultiDiscrete([3, 4]), spaces.Box(-np.inf, np.inf, ())]),
    "multi": spaces.MultiDiscrete([3, 4], start=[-1, 2]),
    "bits": spaces.MultiBinary((2, 2)),
    "text": spaces.Text(4),
    "graph": spaces.Graph(spaces.Discrete(3), None),
    "nested text": spaces.Dict(a=spaces.Discrete(2), b=spaces.Tuple([spaces.Text(4)])),
}
ACTED = {
    "discrete": spaces.Discrete(4, start=-2),
    "multi": spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[-9, 0], [1, 2]]),
    "bits": spaces.MultiBinary((2, 3)),
    "box": spaces.Box(np.float32([[-3, 0]]), np.float32([[5, np.inf]])),
    "doubles": spaces.Box(-3, 5, (2,), np.float64),
    "scalar": spaces.Box(-3, 5, (), np.float32),
    "integers": spaces.Box(-3, 5, (2,), np.int64),
    "dict": spaces.Dict(a=spaces.Discrete(2)),
    "tuple": spaces.Tuple([spaces.Discrete(2)]),
    "text": spaces.Text(4),
}


class Any(gymnasium.Env):
    """Shows what the seed and all actions say, and keeps the actions; ends after 7 steps."""

    def __init__(self, observed="dict", acted="discrete", bad=None):
        self.observation_space, self.action_space = OBSERVED[observed], ACTED[acted]
        self.given, self.bad = [], bad

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.past = hashlib.sha256(str(seed).encode())
        self.steps = 0
        return self._shown(), {}

    def step(self, action):
        self.given.append(action)
        self.past.update(np.asarray(action).tobytes())
        self.steps += 1
        return self._shown(), float(np.sum(action)), self.steps == 7, False, {}

    def _shown(self):
        self.observation_space.seed(int.from_bytes(self.past.digest()[:3], "big"))
        shown = self.observation_space.sample()
        if self.bad is not None and self.steps == 3:
            shown["state"]["position"][1] = self.bad
        return shown


gymnasium.register("rlrun-tests/Any-v0", entry_point=Any, disable_env_checker=True)


def make(n_envs=3, limit=None, seed=0, **kwargs):
    kwargs |= {"max_episode_steps": limit} if limit else {}
    return make_vec("rlrun-tests/Any-v0", n_envs, seed, kwargs)


def inside(envs):
    return [env.unwrapped for env in envs._batch.envs]


def shown(envs):
    """What each environment last gave, by itself."""
    return envs._batch._env_obs


def assert_shows(space, packed, expected):
    """The packed observations are those that the environments gave."""
    found = dict(zip(leaves(space), unpack(space, torch.from_numpy(packed)), strict=True))
    camera, classes = found["camera"], found["class"]
    position, grip = found["state.position"], found["state.grip"]
    for i, given in enumerate(expected):
        assert np.array_equal(camera[i].numpy(), given["camera"])
        assert classes[i] == given["class"]
        assert np.array_equal(position[i].numpy(), given["state"]["position"].astype(np.float32))
        assert np.array_equal(grip[i].numpy(), given["state"]["grip"])


def test_entries_are_packed_as_they_come():
    envs = make(limit=4)
    assert envs.observation_space is OBSERVED["dict"]
    assert_shows(OBSERVED["dict"], envs.reset(), shown(envs))
    for t in range(9):
        step = envs.step(np.array([0, 1, 2]))
        assert step.obs.dtype == np.uint8
        assert_shows(OBSERVED["dict"], step.obs, shown(envs))
        if (t + 1) % 4 == 0:
            assert step.truncated.all()
            assert sorted(step.final_obs) == [0, 1, 2]
            for env, final in step.final_obs.items():
                assert final.shape == step.obs.shape[1:]
                assert not np.array_equal(final, step.obs[env])


@pytest.mark.parametrize("observed", ["dict", "tuple", "multi", "bits"])
@pytest.mark.parametrize("acted", ["discrete", "multi", "bits", "box", "doubles", "scalar"])
def test_a_journal_is_replayed(observed, acted):
    envs = make(observed=observed, acted=acted)
    rng = np.random.default_rng(0)
    size = int(np.prod(envs.action_space.shape))

    def actions():
        shape = (3,) if acted == "discrete" else (3, size)
        if isinstance(envs.action_space, spaces.Box):
            return rng.normal(size=shape).astype(np.float32)
        return rng.integers(0, 2, shape)

    envs.reset()
    for _ in range(10):
        envs.step(actions())
    again = make(observed=observed, acted=acted)
    assert np.array_equal(again.load_state_dict(envs.state_dict()), envs._obs)
    for _ in range(12):
        action = actions()
        step, same = envs.step(action), again.step(action)
        assert np.array_equal(step.obs, same.obs)
        assert np.array_equal(step.reward, same.reward)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_what_is_not_finite_is_found_in_an_entry(bad):
    envs = make(bad=bad)
    envs.reset()
    for _ in range(2):
        envs.step(np.zeros(3, np.int64))
    with pytest.raises(BadEnvironment, match=r"environment 0 .* step 3 of episode 0"):
        envs.step(np.zeros(3, np.int64))


@pytest.mark.parametrize(
    ("acted", "said", "given"),
    [
        ("discrete", [0, 3], [-2, 1]),
        ("multi", [[0, 1, 2, 3], [1, 2, 0, 4]], [[[-9, 1], [3, 5]], [[-8, 2], [1, 6]]]),
        ("bits", [[0, 1, 1, 0, 0, 1], [1] * 6], [[[0, 1, 1], [0, 0, 1]], [[1] * 3] * 2]),
        ("box", [[-1.0, -1.0], [0.5, 7.0]], [[[-3, 0]], [[3, 7]]]),
        ("doubles", [[-1.0, 1.0], [0.0, 1.5]], [[-3, 5], [1, 5]]),
        ("scalar", [[-0.5], [1.5]], [-1, 5]),
    ],
)
def test_actions_reach_the_environments_as_what_they_mean(acted, said, given):
    envs = make(2, acted=acted)
    envs.reset()
    said = np.array(said)
    kept = said.copy()
    envs.step(said.astype(np.float32) if said.dtype.kind == "f" else said)
    for env, expected in zip(inside(envs), given, strict=True):
        action = env.given[0]
        assert np.array_equal(action, expected)
        assert action.dtype == ACTED[acted].dtype
        assert ACTED[acted].contains(action if acted == "discrete" else np.asarray(action))
    journal = envs.state_dict()["actions"]
    assert all(np.array_equal(journal[str(env)], kept[env : env + 1]) for env in range(2))


@pytest.mark.parametrize("acted", ["discrete", "multi", "bits", "box", "doubles", "scalar"])
@pytest.mark.parametrize("observed", ["dict", "tuple", "multi"])
def test_the_probe_plays_in_every_space(observed, acted):
    assert is_deterministic("rlrun-tests/Any-v0", {"observed": observed, "acted": acted})


def test_the_probe_gives_environments_actions_of_their_space(monkeypatch):
    given = []
    monkeypatch.setattr(Any, "step", lambda self, action: given.append(action) or self.end())
    monkeypatch.setattr(
        Any, "end", lambda self: (self._shown(), 0.0, False, False, {}), raising=False
    )
    for acted in ("discrete", "multi", "bits", "doubles"):
        given.clear()
        is_deterministic("rlrun-tests/Any-v0", {"acted": acted})
        assert all(ACTED[acted].contains(action) for action in given)
        assert len({np.asarray(action).tobytes() for action in given}) > 3
        assert not isinstance(ACTED[acted], spaces.Box) or np.ptp(np.stack(given)) > 4


@pytest.mark.parametrize("acted", ["integers", "dict", "tuple", "text"])
def test_spaces_that_nothing_acts_in_are_told_not_stumbled_over(acted):
    envs = make(acted=acted)
    assert envs.action_space is ACTED[acted]
    envs.reset()
    envs.close()


@pytest.mark.parametrize("observed", ["text", "graph", "nested text"])
def test_spaces_that_cannot_be_observed_are_refused(observed, monkeypatch):
    closed = []
    monkeypatch.setattr(Any, "close", lambda self: closed.append(self))
    with pytest.raises(UserError, match="allowed: Box, Discrete"):
        make(observed=observed)
    assert len(closed) == 3
