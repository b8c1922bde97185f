"""Models that were saved in Python, on the command line; videos; models of stable-baselines."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

from rlrun import A2C, ACER, ACKTR, evaluate_policy, make_vec_env
from tests.api import test_sb2 as sb2
from tests.api.whole import Count, weights
from tests.conftest import Outcome

Command = Callable[..., Outcome]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A model of ACER that has replayed, saved in the middle of a segment."""
    env = make_vec_env("CartPole-v1", 2)
    model = ACER("MlpPolicy", env, seed=3, replay_start=40, buffer_size=200)
    model.learn(400, callback=lambda told, _: told["self"].num_timesteps < 350)
    assert model.num_timesteps == 350
    model.save(tmp_path / "model")
    return tmp_path / "model.zip"


def test_a_model_is_evaluated_and_inspected(command: Command, saved: Path) -> None:
    done = command("evaluate", "model.zip", "episodes=3")
    assert done.code == 0, done.err
    assert re.search(r"CartPole-v1 after 350 steps: return \d", done.out)
    done = command("inspect", "model.zip")
    assert done.code == 0, done.err
    assert "step-000000350: intact" in done.out
    assert "seed 3" in done.out
    saved.write_bytes(saved.read_bytes()[:-200])
    for verb in ("evaluate", "inspect", "resume", "record"):
        done = command(verb, "model.zip")
        assert (done.code, done.out) == (2, "")
        assert "model.zip: is no model of rlrun, or damaged" in done.err


def test_a_model_goes_on_as_in_python(command: Command, saved: Path) -> None:
    """As a run of its own, which ends as the model ends that goes on in Python."""
    done = command("resume", "model.zip", "total_timesteps=700", "eval.episodes=2")
    assert done.code == 0, done.err
    (folder,) = Path("outputs/CartPole-v1").glob("acer-*/seed-3")
    result = json.loads((folder / "result.json").read_text())
    assert (result["status"], result["step"]) == ("finished", 720)
    assert json.loads((folder / "manifest.json").read_text())["grade"] == "exact"
    model = ACER.load(saved)
    model.learn(350, reset_num_timesteps=False)
    run = ACER.load(folder)
    assert run.num_timesteps == model.num_timesteps == 720
    assert weights(run) == weights(model)

    again = command("resume", "model.zip", "total_timesteps=700", "eval.episodes=2")
    assert again.code == 2
    assert "is there already" in again.err
    assert json.loads((folder / "result.json").read_text())["step"] == 720


def test_a_wrong_change_leaves_nothing_behind(command: Command, saved: Path) -> None:
    done = command("resume", "model.zip", "algo.gamma=0.5")
    assert done.code == 2
    assert "algo.gamma" in done.err
    assert not Path("outputs").exists()


def test_a_model_of_an_object_needs_python(command: Command, tmp_path: Path) -> None:
    A2C("MlpPolicy", Count(), seed=0).learn(5).save(tmp_path / "model")
    for verb in ("evaluate", "resume", "record"):
        done = command(verb, "model.zip")
        assert done.code == 2
        assert "has no id" in done.err
        assert "load(path, env=" in done.err
    assert not Path("outputs").exists()


def test_videos(command: Command, saved: Path) -> None:
    assert command("record", "model.zip", "to=new/one.gif", "episodes=2").code == 0
    with Image.open("new/one.gif") as video:
        assert video.size == (600, 400)
        assert video.n_frames > 10
        assert video.info["duration"] % 20 == 0  # milliseconds; equal pictures are joined
        first = np.array(video.convert("RGB"))
        video.seek(video.n_frames - 1)
        assert (np.array(video.convert("RGB")) != first).any()
    assert command("record", "model.zip").code == 0
    assert Path("step-000000350.mp4").stat().st_size > 1000
    done = command("record", "model.zip", "to=film.avi")
    assert done.code == 2
    assert ".mp4 or .gif" in done.err
    assert sorted(path.name for path in Path("new").iterdir()) == ["one.gif"]


def test_a_video_of_a_run(command: Command) -> None:
    command("total_timesteps=100", "eval.episodes=0", "logger=files", "experiment=none")
    (folder,) = Path("outputs").glob("*/*/seed-0")
    done = command("record", str(folder))
    assert done.code == 0, done.err
    assert (folder / "videos" / "step-000000160.mp4").is_file()
    assert str(folder / "videos" / "step-000000160.mp4") in done.out


def test_without_ffmpeg_it_is_a_gif(
    command: Command, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlrun.recording._has_ffmpeg", lambda: False)
    assert command("record", "model.zip").code == 0
    assert Path("step-000000350.gif").is_file()
    done = command("record", "model.zip", "to=film.mp4")
    assert done.code == 2
    assert "rlrun[video]" in done.err


def test_without_what_draws(command: Command, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def render(env: object) -> None:
        raise gymnasium.error.DependencyNotInstalled("pygame is not installed")

    monkeypatch.setattr("gymnasium.envs.classic_control.cartpole.CartPoleEnv.render", render)
    for words in ((), ("to=new/one.gif",)):
        done = command("record", "model.zip", *words)
        assert done.code == 2
        assert "pip install 'rlrun[video]'" in done.err
    assert [path.name for path in Path().iterdir() if path.is_file()] == ["model.zip"]
    assert not list(Path().glob("new/*"))


def test_a_game_is_seen_as_the_policy_sees_it(command: Command, tmp_path: Path) -> None:
    env = make_vec_env("PongNoFrameskip-v4", 1, env_kwargs={"max_num_frames_per_episode": 400})
    A2C("CnnPolicy", env, seed=0, n_cpu_tf_sess=1).learn(5).save(tmp_path / "pong")
    done = command("record", "pong.zip", "to=pong.gif")
    assert done.code == 0, done.err
    with Image.open("pong.gif") as video:
        assert video.size == (252, 252)
        assert video.info["duration"] % 60 == 0


OBSERVED = spaces.Box(-1.0, 1.0, (4,), np.float32)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A model of stable-baselines that acts in CartPole."""
    parameters = sb2.mlp_parameters(4, ([], [8], [8]), spaces.Discrete(2))
    data = sb2.data_of("acktr", OBSERVED, spaces.Discrete(2))
    data["observation_space"] = sb2.described(make_vec_env("CartPole-v1").single_observation_space)
    path: Path = sb2.write(tmp_path / "old.zip", data, parameters)
    return path


def test_import(command: Command, old: Path) -> None:
    done = command("import", "old.zip", "env=CartPole-v1")
    assert done.code == 0, done.err
    assert "Never saved by stable-baselines" in done.out
    assert "old-rlrun.zip" in done.out
    mine = ACKTR.load("old-rlrun.zip")
    theirs = ACKTR.load("old.zip", env="CartPole-v1")
    observations = np.random.default_rng(0).normal(size=(20, 4)).astype("f")
    found, expected = (m.action_probability(observations) for m in (mine, theirs))
    assert np.array_equal(found, expected)
    assert evaluate_policy(mine, "CartPole-v1", 3) == evaluate_policy(theirs, "CartPole-v1", 3)
    assert command("evaluate", "old-rlrun.zip", "episodes=2").code == 0

    again = command("import", "old.zip", "env=CartPole-v1")
    assert again.code == 2
    assert "old-rlrun.zip is there already" in again.err
    assert command("import", "old.zip", "env=CartPole-v1", "to=another.zip").code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "say which model"),
        (["missing.zip"], "there is no file missing.zip"),
        (["old.zip", "env=CartPol-v1"], "Did you mean CartPole-v1"),
        (["old.zip", "env=Pendulum-v1"], "they must be the same"),
        (["old.zip", "obs_rms=nothing.json"], "nothing.json"),
        (["old.zip", "to_=x"], "to_: unknown key"),
        (["model.zip"], "model.zip"),
    ],
)
def test_what_cannot_be_imported(
    command: Command, old: Path, saved: Path, words: list[str], says: str
) -> None:
    before = sorted(Path().rglob("*"))
    done = command("import", *words)
    assert done.code == 2
    assert says in done.err
    assert "Traceback" not in done.err
    assert sorted(Path().rglob("*")) == before
