"""The command line: help, composition, sweeps, verbs, completion."""

from __future__ import annotations

import inspect
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlrun import __version__, config, evaluation, runs, stored, usage
from rlrun.run.checkpoint import Checkpointer
from rlrun.schema import UserError

Command = Callable[..., Any]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], list[str]]]:
    """The configs and overrides that would have been trained."""
    calls: list[tuple[dict[str, Any], list[str]]] = []

    def train(node: dict[str, Any], overrides: list[str]) -> int:
        calls.append((node, overrides))
        if node["seed"] == 13:
            raise UserError("seed: 13 brings bad luck")
        if node["seed"] == 14:
            raise RuntimeError("a bug")
        code = int(node["env"]["kwargs"].get("code", 0))
        if code > 128:
            signal.raise_signal(code - 128)
        folder = config.run_folder(node)
        folder.mkdir(parents=True, exist_ok=True)
        result = {"status": "finished", "total_timesteps": node["total_timesteps"]}
        (folder / "result.json").write_text(json.dumps({} if code else result))
        return code

    monkeypatch.setattr(runs, "train", train)
    return calls


def test_help_names_everything(command: Command) -> None:
    result = command("--help")
    assert result.code == 0
    for word in [
        *usage.VERBS,
        *("algo", "policy", "env", "lr_schedule", "logger", "experiment"),
        *("acer", "mlp", "cnn", "double_linear_con", "wandb", "acer/CartPole-v1", "seed_example"),
        *(
            "total_timesteps=100000",
            "seed=0",
            "checkpoint.keep=2",
            "eval.episodes=20",
            "env.n_envs",
        ),
        *("'seed=range(5)'", "--multirun", "--config-dir", "--cfg job", "-sc install=bash"),
    ]:
        assert word in result.out, word
    assert max(map(len, result.out.splitlines())) <= 120
    assert command("resume", "--help").out == result.out


def test_the_run_folder_in_the_help_is_of_the_right_form(command: Command) -> None:
    (line,) = (line for line in command("-h").out.splitlines() if "  rlrun resume outputs" in line)
    assert config.run_folder(config.check(config.compose([]))).match(line.split()[2])


def python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, **options)


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["list", "algos"], ["algo=acr"]])
def test_what_needs_no_torch_imports_none(words: list[str]) -> None:
    code = f"""
import sys
sys.argv = ["rlrun", *{words}]
from rlrun.cli import main
main()
print({{"torch", "tensorboard", "wandb", "matplotlib"}} & set(sys.modules))
"""
    assert python(code).stdout.splitlines()[-1] == "set()"


def cpu_seconds(code: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    python(code)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_comes_at_once() -> None:
    bare = min(cpu_seconds("import hydra") for _ in range(3))
    code = "import sys; sys.argv = ['rlrun', '--help']; from rlrun.cli import main; main()"
    assert min(cpu_seconds(code) for _ in range(3)) < bare + 0.5


def test_version(command: Command) -> None:
    assert command("--version").out == f"rlrun {__version__}\n"


def test_training_gets_the_checked_config_and_the_words(
    command: Command, trained: list[Any], tmp_path: Path
) -> None:
    result = command("algo.delta=2", "total_timesteps=1e4", "run.dir=${env.id}")
    assert (result.code, result.err) == (0, "")
    ((node, overrides),) = trained
    assert overrides == ["algo.delta=2", "total_timesteps=1e4", "run.dir=${env.id}"]
    assert type(node["algo"]["delta"]) is float
    assert node["total_timesteps"] == 10_000
    assert node["run"]["dir"] == "CartPole-v1"
    assert set(node) == set(config.Config.__dataclass_fields__)
    assert [path.name for path in tmp_path.iterdir()] == ["CartPole-v1"]  # the run; none of Hydra's


def test_the_exit_code_is_that_of_the_training(command: Command, trained: list[Any]) -> None:
    assert command("env.kwargs.code=4").code == 4
    assert command("env.kwargs.code=130").code == 130


def test_a_bug_is_shown_as_one(command: Command, trained: list[Any]) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        command("seed=14")


def test_full_error_shows_the_traceback(
    command: Command, trained: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    for word in ("seed=13", "algo.gamma=2", "algo=acr", "env=CartPol-v1"):
        with pytest.raises(UserError):
            command(word)


def test_hydras_switch_is_only_set_while_hydra_works(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(
        runs, "train", lambda *_: seen.append("HYDRA_FULL_ERROR" in os.environ) or 0
    )
    command()
    assert seen == [False]
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_cfg_job_shows_the_config_and_trains_nothing(command: Command, trained: list[Any]) -> None:
    out = command("env=PongNoFrameskip-v4", "--cfg", "job").out
    assert "_target_: rlrun.policies.cnn.CnnPolicy" in out
    assert (
        command("--cfg", "job", "algo.gamma=0.5", "--package", "algo").out.count("gamma: 0.5") == 1
    )
    assert trained == []


IN_PROCESS = "hydra/launcher=basic"
"""The jobs of a sweep run one after the other in this process, where they can be watched."""


@pytest.mark.parametrize("words", [["-m", "seed=1,2"], ["seed=1,2", "--multirun"]])
def test_multirun_before_and_after_the_overrides(
    command: Command, trained: list[Any], words: list[str]
) -> None:
    result = command(*words, "env=CartPole-v1,PongNoFrameskip-v4", IN_PROCESS)
    assert result.code == 0
    seen = [(node["seed"], node["env"]["id"], node["total_timesteps"]) for node, _ in trained]
    assert seen == [
        (seed, env, steps)
        for seed in (1, 2)
        for env, steps in (("CartPole-v1", 100_000), ("PongNoFrameskip-v4", 10_000_000))
    ]


def test_sweep_over_a_range_and_null_experiment(command: Command, trained: list[Any]) -> None:
    assert command("-m", "seed=range(3)", "experiment=null", IN_PROCESS).code == 0
    assert [node["seed"] for node, _ in trained] == [0, 1, 2]
    assert trained[0][0] == config.check(config.compose(["experiment=none"]))


def test_a_wrong_job_is_named_and_none_is_started(
    command: Command, trained: list[Any], tmp_path: Path
) -> None:
    result = command("-m", "seed=12,15", "algo.gamma=0.9,2", IN_PROCESS)
    assert result.code == 2
    assert result.err.splitlines() == [
        "rlrun: 2 of 4 jobs cannot be run, so that none was started:",
        "  seed=12 algo.gamma=2 (and 1 more): "
        "algo.gamma: 2 is not allowed; allowed: a number from 0 to 1",
    ]
    assert trained == []
    assert list(tmp_path.iterdir()) == []


def test_a_failing_job_is_named_and_the_others_run(command: Command, trained: list[Any]) -> None:
    result = command("-m", "seed=12,13,14,15", IN_PROCESS)
    assert result.code == 1
    assert [node["seed"] for node, _ in trained] == [12, 13, 14, 15]
    for line in ("seed=13: seed: 13 brings bad luck", "seed=14: RuntimeError: a bug"):
        assert f"failed {line}\n" in result.out


def test_a_signal_stops_the_whole_sweep(command: Command, trained: list[Any]) -> None:
    result = command("-m", "seed=1,2,3", "env.kwargs.code=143", IN_PROCESS)
    assert result.code == 143
    assert len(trained) == 1
    assert "1 stopped, 2 waiting" in result.out


def test_config_dir_brings_new_options(
    command: Command, trained: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    for name, text in {
        "algo/mine.yaml": "defaults: [acer]\n_target_: mine_algo.Mine\nfloor: 0.5\n",
        "experiment/try.yaml": "# @package _global_\ndefaults: [override /algo: mine]\nseed: 5\n",
        "env/small.yaml": "id: CartPole-v1\nn_envs: 2\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (tmp_path / "mine_algo.py").write_text(
        "from rlrun.algorithms.acer import ACER\n"
        "class Mine(ACER):\n"
        "    def __init__(self, *runtime, floor: float = 0.1, **more):\n"
        "        super().__init__(*runtime, **more)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert command("experiment=try", "env=small", "--config-dir", str(folder)).err == ""
    ((node, _),) = trained
    assert node["algo"]["floor"] == 0.5
    assert node["seed"] == 5
    assert node["env"] == {
        "id": "CartPole-v1",
        "n_envs": 2,
        "clip_rewards": False,
        "normalize_observations": False,
        "kwargs": {},
    }
    assert config.run_folder(node).parts[2].startswith("mine-")
    assert "experiment=tri: unknown option; did you mean try?" in (
        command("experiment=tri", f"--config-dir={folder}").err
    )
    shown = command("--help", "--config-dir", str(folder)).out
    assert "algo        a2c, acer, acktr, mine" in shown


def test_resume_and_evaluate_pass_on_what_is_said(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text(stored.dump(config.compose([])))
    seen: list[Any] = []
    monkeypatch.setattr(runs, "resume", lambda *given: seen.append(given) or 143)
    real = list(inspect.signature(evaluation.evaluate).parameters)

    def evaluate(
        folder: Path,
        *,
        checkpoint: str | int = "best",
        episodes: int = 100,
        deterministic: bool = True,
        seed: int | None = None,
        trust: list[str] | None = None,
    ) -> int:
        seen.append((folder, checkpoint, episodes, deterministic, seed, trust))
        return 0

    assert list(inspect.signature(evaluate).parameters) == real
    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    assert command("resume", "run", "total_timesteps=5", "trust=[a.b]").code == 143
    assert command("evaluate", "run/", "checkpoint=2000", "episodes=1e1").code == 0
    assert seen == [
        (Path("run"), ["total_timesteps=5"], ["a.b"]),
        (Path("run"), 2000, 10, True, None, []),
    ]
    wrong = command("evaluate", "run", "episode=3", "deterministic=2")
    assert wrong.code == 2
    assert "episode: unknown key; did you mean episodes?" in wrong.err
    assert "deterministic: 2 is not allowed" in wrong.err


def test_list(command: Command, tmp_path: Path) -> None:
    assert command("list", "algos").out == "a2c\nacer\nacktr\n"
    assert command("list", "policies").out == "cnn\nlstm\nmlp\n"
    assert "acer/CartPole-v1\n" in command("list", "experiments").out
    assert "CartPole-v1" in command("list", "envs").out.splitlines()
    assert command("list", "runs").out == "none yet\n"
    run = tmp_path / "outputs/CartPole-v1/acer-01234567/seed-0"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    assert "not ended yet" in command("list", "runs").out
    (run / "result.json").write_text(
        '{"status": "finished", "step": 5000, "eval": {"return_mean": 500, "episodes": 20}}'
    )
    folder = "outputs/CartPole-v1/acer-01234567/seed-0"
    line = f"{folder}  finished at 5,000 steps, return 500.0 in 20 episodes"
    assert command("list", "runs").out == line + "\n"
    assert line in command("list").out


def test_inspect_finds_damage(command: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").touch()
    assert "no checkpoints" in command("inspect", "run").out
    checkpointer = Checkpointer(run, keep=2)
    for step in (100, 200):
        state = {"weights": torch.zeros(10)}
        path = checkpointer.save(step, state, None, best=step == 100, meta={})
    result = command("inspect", "run")
    assert result.code == 0
    assert "intact, the best; 100 steps" in result.out
    assert command("inspect", str(path)).out.startswith("step-000000200: intact; 200 steps")
    with (path / "tensors.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    result = command("inspect", "run")
    assert result.code == 1
    assert "step-000000100: intact" in result.out
    assert "step-000000200: DAMAGED" in result.out


EXECUTABLE = Path(sys.executable).with_name("rlrun")


@pytest.mark.skipif(not shutil.which("bash") or not EXECUTABLE.exists(), reason="needs both")
def test_tab_completion_of_the_installed_command(tmp_path: Path) -> None:
    script = """
eval "$(rlrun -sc install=bash)"
complete_line() {
    COMP_LINE=$1 COMP_WORDS=($1) COMPREPLY=()
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    hydra_bash_completion
    echo ${COMPREPLY[*]}
}
complete_line 'rlrun algo='
complete_line 'rlrun env=ALE/Pon'
complete_line 'rlrun env=CartPole-v1 algo.replay_s'
complete_line 'rlrun experiment=acer/Ca'
complete_line 'rlrun resu'
complete_line 'rlrun resume ru'
complete_line 'rlrun env=[ al'
"""
    path = f"{EXECUTABLE.parent}{os.pathsep}{os.environ['PATH']}"
    (tmp_path / "runs").mkdir()
    result = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
    )
    assert result.stdout.splitlines() == [
        "algo=a2c algo=acer algo=acktr",
        "env=ALE/Pong-v5",
        "algo.replay_start=",
        "experiment=acer/CartPole-v1",
        "resume",
        "runs",
        "",
    ]
    assert result.stderr == ""
