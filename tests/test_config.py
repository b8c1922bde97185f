"""The config: files and constructors in step, composition, check, digest, changes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from rlrun import config, schema, stored, usage
from rlrun.schema import UserError

CONF = usage.config_folder()
COMPONENT_FILES = [
    path for group in config.COMPONENTS for path in sorted((CONF / group).glob("*.yaml"))
]


def short(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def composed(*words: str) -> dict[str, Any]:
    return config.check(config.compose(list(words)))


@pytest.mark.parametrize(
    "path", COMPONENT_FILES, ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_a_file_shows_every_setting_of_its_constructor_and_no_other(path: Path) -> None:
    node = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(node, dict)
    target = node.pop("_target_", None)
    node.pop("_partial_", None)
    if target is None:
        assert short(path) in ("logger/files", "callback/none")
        assert node == {}
        return
    defaults = {
        name: list(setting.default) if isinstance(setting.default, tuple) else setting.default
        for name, setting in schema.settings(stored.resolve(target)).items()
        if setting.default is not dataclasses.MISSING
    }
    assert list(node) == list(defaults)
    assert node == defaults
    assert {key: type(value) for key, value in node.items()} == {
        key: type(value) for key, value in defaults.items()
    }


def defaults_of(tree: Any) -> dict[str, Any]:
    found = {}
    for field in dataclasses.fields(tree):
        if field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
            found[field.name] = (
                dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
            )
        elif field.default is not dataclasses.MISSING:
            found[field.name] = field.default
    return found


def test_config_yaml_shows_every_key_of_the_tree_with_its_default() -> None:
    shown = composed("experiment=none")
    assert config.dotted(defaults_of(config.Config)) == config.dotted(
        {key: shown[key] for key in defaults_of(config.Config)}
    )
    env = shown["env"]
    assert env == {"id": "CartPole-v1", **defaults_of(config.Env)}


@pytest.mark.parametrize(
    "path",
    [CONF / "config.yaml", *COMPONENT_FILES],
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_every_value_is_explained(path: Path) -> None:
    for key, _, comment in usage.keys(path.read_text()):
        if key != "_target_" and not key.startswith("hydra."):
            assert comment, key


EXPERIMENTS = usage.options("experiment", [CONF])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_is_sound(name: str) -> None:
    algo, _, env = name.rpartition("/")
    if algo == "sweep":  # chooses an algorithm itself, and goes with any environment
        algo = ""
    words = (
        {"atari": ["env=PongNoFrameskip-v4"], "vector": []}.get(env, [f"env={env}"]) if algo else []
    )
    words += [f"algo={algo}"] if algo else []
    assert composed(f"experiment={name}", *words)["total_timesteps"] > 0


def test_the_experiment_of_algo_and_env_is_taken_by_itself() -> None:
    assert composed() == composed("experiment=acer/CartPole-v1")
    assert composed() != composed("experiment=none")
    assert composed("env=FrozenLake-v1")["env"]["n_envs"] == 4  # there is none for it


def test_atari_without_a_file_per_game() -> None:
    for env in ("PongNoFrameskip-v4", "ALE/Breakout-v5"):
        node = composed(f"env={env}")
        assert node["env"] == {
            "id": env,
            "n_envs": 16,
            "clip_rewards": True,
            "normalize_observations": False,
            "kwargs": {},
        }
        assert node["policy"]["_target_"].endswith("CnnPolicy")
        assert node["lr_schedule"]["_target_"].endswith("constant")
        assert node["total_timesteps"] == 10_000_000
    plain = composed("env=ALE/Breakout-v5", "experiment=none")
    assert plain["total_timesteps"] == 100_000


def test_the_command_line_wins_over_an_experiment() -> None:
    node = composed(
        "env=PongNoFrameskip-v4", "lr_schedule=linear", "total_timesteps=2e4", "policy=mlp"
    )
    assert node["lr_schedule"]["_target_"].endswith("linear")
    assert node["policy"]["_target_"].endswith("MlpPolicy")
    assert node["total_timesteps"] == 20_000
    assert type(node["total_timesteps"]) is int


MAZE = """
import gymnasium
class Maze(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)
gymnasium.register("{name}-v0", entry_point=Maze)
class Policy:
    def __init__(self, space, *, width: int = 3): ...
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's package that registers an environment and has a policy."""
    name = f"maze_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MAZE.format(name=name))
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_env_and_component_of_the_users_own_package(package: str) -> None:
    words = [f"env={package}:{package}-v0", f"policy._target_={package}.Policy"]
    node = composed(
        *words,
        "~policy.shared",
        "~policy.hidden",
        "policy.critic_hidden=[]",  # Hydra deletes no null
        "~policy.critic_hidden",
        "~policy.activation",
        "~policy.layer_norm",
        "+policy.width=5",
    )
    assert node["env"]["id"] == f"{package}:{package}-v0"
    assert config.run_folder(node).parts[1] == f"{package}-{package}-v0"
    made = config.instantiate(node["policy"], "policy")
    assert made.func.__name__ == "Policy"
    assert made.keywords == {"width": 5}
    with pytest.raises(UserError, match=r"policy\.widht: unknown key; did you mean policy\.width"):
        config.check(node | {"policy": {"_target_": f"{package}.Policy", "widht": 5}})


def test_all_problems_are_told_at_once() -> None:
    node = config.compose(
        ["seed=-1", "env.n_envs=0", "algo.gamma=2", "+policy.depth=3", "device=x"]
    )
    with pytest.raises(UserError) as error:
        config.check(node)
    told = [line.partition(":")[0] for line in str(error.value).splitlines()]
    assert sorted(told) == ["algo.gamma", "device", "env.n_envs", "policy.depth", "seed"]


def test_digest_is_that_of_what_decides_the_result() -> None:
    node = composed()
    same = composed(
        "seed=3",
        "logger=files",
        "+callback._target_=rlrun.api.callbacks.StopTrainingOnRewardThreshold",
        "+callback.reward_threshold=9.0",
        "checkpoint.keep=9",
        "eval.episodes=3",
        "run.dir=elsewhere",
        "log_interval=1",
        "algo.replay_device=cpu",
    )
    assert config.digest(node) == config.digest(same)
    for word in ("algo.gamma=0.98", "env.n_envs=3", "total_timesteps=5", "threads=1"):
        assert config.digest(composed(word)) != config.digest(node)
    assert config.digest(composed("algo.delta=1")) == config.digest(composed("algo.delta=1.0"))
    assert len(config.digest(node)) == 8


def test_run_folder() -> None:
    node = composed("env=ALE/Pong-v5", "seed=7", "run.dir=/data/runs")
    folder = Path(f"/data/runs/ALE-Pong-v5/acer-{config.digest(node)}/seed-7")
    assert config.run_folder(node) == folder


def test_changes_of_a_run_that_goes_on() -> None:
    node = composed()
    new = config.changed(
        node, ["total_timesteps=2e5", "eval.every_steps=1000", "logger=wandb", "logger.mode=online"]
    )
    assert new["total_timesteps"] == 200_000
    assert new["eval"]["every_steps"] == 1000
    assert new["logger"]["mode"] == "online"
    assert node == composed()
    assert config.changed(node, []) == node


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("algo.gamma=0.5", "algo.gamma: a run cannot go on with another value"),
        ("seed=1", "seed: a run cannot"),
        ("total_timestep=5", "did you mean total_timesteps"),
        ("eval.episodes=-1", "eval.episodes: -1 is not allowed"),
        ("eval.episodes.x=1", "unknown key"),
        ("eval", "not understood"),
        ("+eval.x=1", "only KEY=VALUE"),
        ("eval.episodes=1,2", "only KEY=VALUE"),
    ],
)
def test_impossible_changes(word: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        config.changed(composed(), [word])
    assert says in str(error.value)


def test_instantiate_gives_a_partial_with_plain_values() -> None:
    schedule = config.instantiate(composed("lr_schedule=linear")["lr_schedule"], "lr_schedule")
    assert schedule(0.25) == 0.75
    policy = config.instantiate(composed()["policy"], "policy")
    assert type(policy.keywords["hidden"]) is list
    with pytest.raises(UserError, match=r"policy\.hidden: 'x' is not allowed"):
        config.instantiate(composed()["policy"] | {"hidden": "x"}, "policy")


def test_composing_leaves_hydra_as_it_was() -> None:
    from hydra.core.global_hydra import GlobalHydra

    composed()
    assert not GlobalHydra.instance().is_initialized()
    assert "hydra" not in composed()


def test_a_stored_config_reads_back_equal(tmp_path: Path) -> None:
    node = composed("algo.rprop_epsilon=1e-7", "threads=2", "env.kwargs.size=[1,null,x]")
    assert node["env"]["kwargs"] == {"size": [1, None, "x"]}
    path = tmp_path / "config.yaml"
    path.write_text(stored.dump(node))
    assert stored.load(path, []) == node
