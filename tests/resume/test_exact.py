"""A run that was stopped and resumed ends like one that was not, and watching changes nothing."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from kill_soak import compare, last_checkpoint, run_folder

from rlrun import runs
from rlrun.run.trainer import Trainer

CARTPOLE = [
    "env=CartPole-v1",
    "env.kwargs={max_episode_steps: 25}",  # so that truncations are among it
    "total_timesteps=3000",
    "env.n_envs=3",
    "algo.n_steps=5",
    "algo.buffer_size=200",
    "algo.replay_start=50",
    "eval.episodes=3",
    "eval.every_steps=1000",
    "log_interval=3",
    "logger=files",
    "threads=1",
]
PICTURES = [
    "env=tests.tasks:Catch-v0",
    "policy=cnn",
    "policy.features_dim=16",
    "env.n_envs=2",
    "algo.n_steps=4",
    "algo.buffer_size=24",
    "algo.replay_start=8",
    "total_timesteps=200",
    "eval.episodes=2",
    "eval.every_steps=80",
    "log_interval=2",
    "logger=files",
    "threads=1",
]
PONG = [
    "env=PongNoFrameskip-v4",
    "env.kwargs={max_num_frames_per_episode: 200}",
    *PICTURES[1:],
]


@pytest.fixture
def stop_at(monkeypatch):
    """Sends SIGTERM to this process, once, in the middle of the given update."""
    iterate = Trainer._iterate

    def arrange(update):
        sent = []

        def spy(trainer):
            if trainer.training.updates == update and not sent:
                sent.append(True)
                os.kill(os.getpid(), signal.SIGTERM)
            return iterate(trainer)

        monkeypatch.setattr(Trainer, "_iterate", spy)

    return arrange


def train(command, folder, *words, code=0):
    Path(folder).mkdir(exist_ok=True)
    os.chdir(folder)
    result = command(*words)
    assert result.code == code, result.out + result.err
    return run_folder(Path(folder)), result


@pytest.mark.parametrize(
    ("words", "updates"), [(CARTPOLE, [1, 67, 150]), (PICTURES, [13]), (PONG, [13])]
)
def test_stopped_and_resumed_equals_undisturbed(command, stop_at, tmp_path, words, updates):
    straight, _ = train(command, tmp_path / "straight", *words)
    for update in updates:
        stop_at(update)
        stopped, _ = train(command, tmp_path / "stopped", *words, code=143)
        assert json.loads((stopped / "result.json").read_text())["status"] == "stopped"
    resumed, _ = train(command, tmp_path / "stopped", *words)
    assert compare(straight, resumed) == []
    assert json.loads((resumed / "manifest.json").read_text())["grade"] == "exact"
    assert len(json.loads((resumed / "manifest.json").read_text())["parts"]) == len(updates) + 1


@pytest.mark.parametrize(
    "watching",
    [
        ["checkpoint.every_steps=15"],
        ["eval.episodes=0"],
        ["eval.every_steps=500", "eval.deterministic=false"],
        ["log_interval=1"],
        ["logger=tensorboard"],
    ],
)
def test_watching_changes_nothing(command, tmp_path, watching):
    plain, _ = train(command, tmp_path / "plain", *CARTPOLE)
    watched, _ = train(command, tmp_path / "watched", *CARTPOLE, *watching)
    first, second = (weights(folder) for folder in (plain, watched))
    assert first.keys() == second.keys()
    assert all(first[name] == second[name] for name in first)
    lines = [(folder / "episodes.csv").read_text().splitlines() for folder in (plain, watched)]
    assert [x.rpartition(",")[0] for x in lines[0]] == [x.rpartition(",")[0] for x in lines[1]]


def weights(folder):
    """Bytes of all tensors of the last checkpoint."""
    import safetensors.torch

    last = max((folder / "checkpoints").iterdir())
    tensors = safetensors.torch.load_file(last / "tensors.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def test_seeds_decide(command, tmp_path):
    runs = [
        train(command, tmp_path / name, *CARTPOLE, f"seed={seed}")[0]
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert compare(runs[0], runs[1]) == []
    assert last_checkpoint(runs[0] / "checkpoints") != last_checkpoint(runs[2] / "checkpoints")


def test_generators_of_the_process_are_not_touched(command, tmp_path):
    def states():
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()

    before = states()
    train(command, tmp_path, *CARTPOLE)
    assert states() == before


def test_a_finished_run_says_so_goes_on_and_begins_anew(command, tmp_path):
    folder, _ = train(command, tmp_path, *CARTPOLE)
    episodes = (folder / "episodes.csv").read_bytes()
    _, again = train(command, tmp_path, *CARTPOLE)
    assert "is finished" in again.out
    assert (folder / "episodes.csv").read_bytes() == episodes

    longer = command("resume", str(folder), "total_timesteps=4000")
    assert longer.code == 0
    assert json.loads((folder / "result.json").read_text())["step"] >= 4000
    other = command(*CARTPOLE)
    assert other.code == 2
    assert "total_timesteps=4000 instead of 3000" in other.err

    anew = command(*CARTPOLE, "run.overwrite=true")
    assert anew.code == 0
    assert json.loads((folder / "result.json").read_text())["step"] == 3000
    strip = [line.rpartition(b",")[0] for line in episodes.splitlines()]
    now = (folder / "episodes.csv").read_bytes().splitlines()
    assert [line.rpartition(b",")[0] for line in now] == strip


def test_a_damaged_checkpoint_gives_way_to_the_one_before(command, stop_at, tmp_path):
    straight, _ = train(command, tmp_path / "straight", *CARTPOLE)
    stop_at(100)
    saving = [*CARTPOLE, "checkpoint.every_steps=300"]
    folder, _ = train(command, tmp_path / "damaged", *saving, code=143)
    last = max((folder / "checkpoints").iterdir()) / "tensors.safetensors"
    damaged = bytearray(last.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    last.write_bytes(damaged)
    train(command, tmp_path / "damaged", *saving)
    assert compare(straight, folder) == []

    for checkpoint in (folder / "checkpoints").iterdir():
        (checkpoint / "state.json").write_text("{}")
    refused = command("resume", str(folder), "total_timesteps=9000")
    assert refused.code == 2
    assert "no intact checkpoint" in refused.err


def test_an_environment_that_cannot_be_replayed_is_graded(command, stop_at, tmp_path):
    words = [*CARTPOLE[2:], "env=tests.tasks:Faulty-v0"]
    words += ["env.kwargs={fault: noise}", "eval.episodes=0"]
    stop_at(20)
    folder, _ = train(command, tmp_path, *words, code=143)
    assert json.loads((folder / "manifest.json").read_text())["grade"] == "approximate"
    result = command("resume", str(folder), "trust=[tests]")
    assert result.code == 0
    assert "not deterministic" in result.out
    assert json.loads((folder / "result.json").read_text())["status"] == "finished"


def test_a_full_disk_at_the_end_keeps_its_exit_code(command, monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rlrun.run.trainer.Trainer._save", full)
    monkeypatch.setattr("rlrun.runs.write_atomic", full_for("result.json", runs.write_atomic, full))
    monkeypatch.setattr("rlrun.run.plots.learning_curve", full)
    _, result = train(command, tmp_path, *CARTPOLE, code=4)
    assert "could not be saved" in result.out
    assert "Traceback" not in result.out + result.err


def full_for(name, write, full):
    """A writer that fails for one file."""
    return lambda path, data: (full if path.name == name else write)(path, data)


def test_numbers_that_are_not_finite_end_the_run_with_its_reason(command, tmp_path):
    words = [*CARTPOLE[2:], "env=tests.tasks:Faulty-v0"]
    folder, result = train(command, tmp_path, *words, "env.kwargs={fault: reward}", code=3)
    told = json.loads((folder / "result.json").read_text())
    assert told["status"] == "failed"
    assert "environment 0" in told["reason"]
    assert "environment 0" in result.out + result.err


def test_overwriting_once_does_not_overwrite_again(command, stop_at, tmp_path):
    train(command, tmp_path, *CARTPOLE)
    stop_at(100)
    folder, _ = train(command, tmp_path, *CARTPOLE, "run.overwrite=true", code=143)
    assert command("resume", str(folder)).code == 0
    parts = json.loads((folder / "manifest.json").read_text())["parts"]
    assert [part["step"] for part in parts] == [0, 1515]


def test_a_resumed_run_says_where_it_goes_on(command, stop_at, tmp_path):
    stop_at(100)
    folder, _ = train(command, tmp_path, *CARTPOLE, code=143)
    _, result = train(command, tmp_path, *CARTPOLE)
    for text in (result.out, (folder / "run.log").read_text()):
        assert "Going on at step 1,515" in text


@pytest.mark.parametrize("text", ["{}", "null", '{"id": 1', '{"id":"x","reasons":[],"parts":[{}]}'])
def test_a_damaged_manifest_costs_the_grade_only(command, stop_at, tmp_path, text):
    stop_at(50)
    folder, _ = train(command, tmp_path, *CARTPOLE, code=143)
    (folder / "manifest.json").write_text(text)
    train(command, tmp_path, *CARTPOLE)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["grade"] == "approximate"
    assert "damaged" in manifest["reasons"][0]


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"status": "finished", "step": "x"}', "{"])
def test_a_damaged_result_is_written_anew(command, tmp_path, text):
    folder, _ = train(command, tmp_path, *CARTPOLE)
    (folder / "result.json").write_text(text)
    assert command("list", "runs").code == 0
    train(command, tmp_path, *CARTPOLE)
    assert json.loads((folder / "result.json").read_text())["status"] == "finished"


def test_a_checkpoint_of_another_network_is_refused(command, tmp_path):
    folder, _ = train(command, tmp_path, *CARTPOLE)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("- 64", "- 32", 1))
    for words in (["evaluate", str(folder)], ["resume", str(folder), "total_timesteps=9000"]):
        refused = command(*words)
        assert refused.code == 2
        assert "does not fit" in refused.err


def test_evaluation_by_checkpoint(command, tmp_path):
    words = [*CARTPOLE, "checkpoint.every_steps=750"]
    folder, _ = train(command, tmp_path, *words)
    for name in ("best", "last", "3000"):
        done = command("evaluate", str(folder), f"checkpoint={name}", "episodes=4")
        assert done.code == 0, done.err
        result = json.loads((folder / "evaluation.json").read_text())
        assert len(result["returns"]) == 4
        assert f"after {result['step']:,} steps" in done.out
    assert result["step"] == 3000
    first = result["returns"]
    command("evaluate", str(folder), "episodes=4")
    assert json.loads((folder / "evaluation.json").read_text())["returns"] == first
    missing = command("evaluate", str(folder), "checkpoint=77")
    assert missing.code == 2
    assert "3000" in missing.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run.dir=/dev/null/x"], "run.dir="),
        (["algo.buffer_size=1e13", "algo.replay_ratio=1"], "algo.buffer_size"),
        (["threads=100000"], "threads"),
        (["env=PongNoFrameskip-v4", "policy=mlp"], "policy=cnn"),
        (["policy=cnn"], "policy=mlp"),
        (["env=test_errors:Whole-v0"], "MultiBinary"),
    ],
)
def test_what_cannot_be_built_is_told_before_anything_is_written(command, tmp_path, words, told):
    result = command(*CARTPOLE[2:], *words)
    assert result.code == 2
    assert told in result.err
    assert "Traceback" not in result.err
    assert not list(tmp_path.iterdir())


def test_killed_at_random_instants(tmp_path):
    """A few of the many kills of scripts/kill_soak.py, in fresh processes."""
    words = [*CARTPOLE, "total_timesteps=12000", "checkpoint.every_steps=150"]
    script = Path(__file__).parents[2] / "scripts" / "kill_soak.py"
    done = subprocess.run(
        [sys.executable, str(script), "--kills", "3", *words],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equal in every byte" in done.stdout
