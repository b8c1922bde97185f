"""A model that was saved, and loaded by a new process, goes on as if nothing had happened."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from whole import KINDS, every, fingerprint, make, scattered, seen, stack

from rlrun import BaseCallback, make_vec_env
from tests.tasks import Every

TOTAL = 150
LSTM = {"policy": "MlpLstmPolicy", "policy_kwargs": {"lstm_size": 8}}
SMALL = {"policy": "CnnPolicy", "policy_kwargs": {"filters": [4, 4, 4], "features_dim": 8}}


def cartpole():
    return make_vec_env("CartPole-v1", 3, env_kwargs={"max_episode_steps": 25})


def pong():
    return make_vec_env("PongNoFrameskip-v4", 3, env_kwargs={"max_num_frames_per_episode": 100})


CASES = {
    **{kind: (kind, every, {}) for kind in KINDS},
    **{f"{kind}-lstm": (kind, every, LSTM) for kind in KINDS},
    "acer-dict": ("acer", functools.partial(every, "dict", "multidiscrete"), {}),
    "acer-box": (
        "acer",
        functools.partial(every, "vector", "bounded_box"),
        {"normalize_observations": True, "normalize_rewards": True},
    ),
    "acktr-tuple": (
        "acktr",
        functools.partial(every, "tuple", "bounded_box"),
        {"normalize_observations": True, "async_eigen_decomp": True},
    ),
    "a2c-picture": ("a2c", functools.partial(every, "image", "multibinary"), SMALL),
    "acer-from-id": ("acer", cartpole, {}),
    "acktr-from-id": ("acktr", cartpole, {"normalize_observations": True}),
    "acer-pong": ("acer", pong, SMALL),
}
MOMENTS = ("in-a-segment", "before-an-update", "after-an-update")


class Save(BaseCallback):
    """Saves in the middle of the second segment, at its end, and after the update."""

    def __init__(self, folder, name):
        super().__init__()
        self.folder, self.name, self.rollouts = folder, name, 0

    def _save(self, moment):
        self.model.save(self.folder / f"{self.name}.{moment}")

    def _on_step(self):
        if self.n_calls in (8, 10):
            self._save(MOMENTS[self.n_calls == 10])

    def _on_rollout_start(self):
        self.rollouts += 1
        if self.rollouts == 6:
            self._save(MOMENTS[2])


def continued(folder):
    """What becomes of all that was saved; runs in another process."""
    found = {}
    for name, (kind, make_env, _) in CASES.items():
        for moment in MOMENTS:
            path = folder / f"{name}.{moment}"
            env = None if make_env in (cartpole, pong) else make_env()
            try:
                model = KINDS[kind].load(path, env, device="cpu")
                model.learn(TOTAL - model.num_timesteps, reset_num_timesteps=False)
                found[path.name] = fingerprint(model)
            except Exception as error:
                found[path.name] = f"{type(error).__name__}: {error}"
    print("found:" + json.dumps(found))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    straight, disturbed = {}, {}
    for name, (kind, make_env, settings) in CASES.items():
        straight[name] = fingerprint(make(kind, make_env(), **settings).learn(TOTAL))
        model = make(kind, make_env(), **settings).learn(TOTAL, Save(folder, name))
        disturbed[name] = fingerprint(model)
    here = Path(__file__).parent
    root = here.parent.parent
    code = (
        f"import sys; sys.path[:0] = [{str(here)!r}, {str(root)!r}]; from pathlib import Path; "
        f"import test_save_continued as t; t.continued(Path({str(folder)!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return straight, disturbed, json.loads(done.stdout.partition("found:")[2])


@pytest.mark.parametrize("name", CASES)
def test_saving_changes_nothing(both, name):
    straight, disturbed, _ = both
    assert disturbed[name] == straight[name]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", CASES)
def test_a_new_process_goes_on_exactly(both, name, moment):
    straight, _, found = both
    assert found[f"{name}.{moment}"] == straight[name]


@pytest.mark.parametrize("kind", KINDS)
def test_loaded_saved_and_loaded_again(kind, tmp_path):
    """Also by one who never had the environments."""

    def env():
        return make_vec_env(Every, 3)

    straight = make(kind, env()).learn(TOTAL)
    make(kind, env()).learn(TOTAL, Save(tmp_path, "first"))
    for moment in MOMENTS:
        passed_on = KINDS[kind].load(tmp_path / f"first.{moment}")
        assert passed_on.get_env() is None
        passed_on.save(tmp_path / "second")
        loaded = KINDS[kind].load(tmp_path / "second", env())
        assert loaded.num_timesteps == passed_on.num_timesteps > 0
        loaded.learn(TOTAL - loaded.num_timesteps, reset_num_timesteps=False)
        assert fingerprint(loaded) == fingerprint(straight)


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_replay_memory_the_others_lose_nothing(kind, tmp_path):
    straight = make(kind).learn(TOTAL)
    model = make(kind)
    model.learn(60)
    model.save(tmp_path / "with")
    model.save(tmp_path / "without", include_replay=False)
    sizes = [(tmp_path / f"{name}.zip").stat().st_size for name in ("with", "without")]
    loaded = KINDS[kind].load(tmp_path / "without", every())
    memory = loaded.algorithm.memory
    if kind == "acer":
        assert sizes[1] < sizes[0]
        assert len(memory) == 0
        assert len(model.algorithm.memory) == 4, "the model itself keeps it"
    else:
        assert abs(sizes[1] - sizes[0]) < 100
    assert loaded.num_timesteps == 60
    loaded.learn(90, reset_num_timesteps=False)
    constant = make(kind, lr_schedule="constant").learn(60)
    constant.save(tmp_path / "constant", include_replay=False)
    after = KINDS[kind].load(tmp_path / "constant", every()).learn(90, reset_num_timesteps=False)
    whole = make(kind, lr_schedule="constant").learn(TOTAL)
    assert (fingerprint(after) == fingerprint(whole)) == (kind != "acer")
    assert straight.num_timesteps == after.num_timesteps


@pytest.mark.parametrize("observation", Every.OBSERVATIONS)
@pytest.mark.parametrize("action", ["discrete", "multibinary"])
def test_spaces_come_back(observation, action, tmp_path):
    """Also the order of the entries of a Dict, on which the weights depend."""
    policy = "CnnPolicy" if observation == "image" else "MlpPolicy"
    model = scattered(make("a2c", every(observation, action), policy))
    model.save(tmp_path / "model")
    loaded, batch = KINDS["a2c"].load(tmp_path / "model"), stack(seen(observation))
    assert loaded.observation_space == model.observation_space
    assert loaded.action_space == model.action_space
    if observation == "dict":
        assert list(loaded.observation_space) == list(model.observation_space)
    np.testing.assert_array_equal(loaded.action_probability(batch), model.action_probability(batch))
