"""A config from a file of a run is data: nothing of it runs before it is trusted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlrun import config, stored
from rlrun.schema import UserError


@pytest.fixture(scope="module")
def sound() -> dict[str, Any]:
    return config.check(config.compose(["logger=files"]))


def write(folder: Path, node: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(node if isinstance(node, str) else yaml.safe_dump(node))
    return path


SPY = """
from pathlib import Path
Path({marker!r}).touch()
class Policy: ...
"""


@pytest.fixture
def spy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """A package of the user that leaves a mark when it is imported, and the mark."""
    name, marker = f"spy_{tmp_path.name}", tmp_path / "imported"
    (tmp_path / f"{name}.py").write_text(SPY.format(marker=str(marker)))
    monkeypatch.syspath_prepend(tmp_path)
    return name, marker


@pytest.mark.parametrize(
    ("key", "target"),
    [
        ("policy", "os.system"),
        ("policy", "builtins.eval"),
        ("policy", "torch.load"),
        ("policy", "torch.hub.load"),
        ("policy", "rlrun.policies.mlp.torch.hub.load"),
        ("policy", "rlrun.policies.mlp.nn.Linear"),
        ("policy", "rlrun.policies.mlp"),
        ("policy", "rlrun.algorithms.acer.ACER"),
        ("algo", "rlrun.policies.mlp.MlpPolicy"),
        ("algo", "rlrun.run.store.write_atomic"),
        ("logger", "rlrun.run.loggers.os.system"),
        ("lr_schedule", "rlrun.functional.schedules.__builtins__"),
        ("callback", "os.system"),
        ("callback", "rlrun.api.callbacks.io.open"),
        ("callback", "rlrun.policies.mlp.MlpPolicy"),
        ("callback", "rlrun.api.models.ACER"),  # takes names of classes as arguments
        ("callback", "rlrun.api.saving.write"),
        ("policy", "rlrunx.policies.mlp.MlpPolicy"),
        ("policy", ["os.system"]),
        ("policy", {"a": 1}),
        ("policy", None),
        ("policy", 3),
    ],
)
def test_foreign_targets_are_refused(
    tmp_path: Path, sound: dict[str, Any], key: str, target: Any
) -> None:
    path = write(tmp_path, sound | {key: {**sound[key], "_target_": target}})
    with pytest.raises(UserError, match="_target_"):
        config.check(stored.load(path, []))


def test_nothing_is_imported_before_it_is_trusted(
    tmp_path: Path, sound: dict[str, Any], spy: tuple[str, Path]
) -> None:
    name, marker = spy
    path = write(tmp_path, sound | {"policy": {"_target_": f"{name}.Policy"}})
    with pytest.raises(UserError, match=rf"add 'trust=\[{name}\]'"):
        stored.load(path, [])
    with pytest.raises(UserError, match="is refused"):
        stored.load(path, [name[:-1]])
    assert not marker.exists()
    assert name not in sys.modules
    assert stored.load(path, [name])["policy"]["_target_"] == f"{name}.Policy"
    assert marker.exists()


def test_nor_is_the_module_of_an_environment(
    tmp_path: Path, sound: dict[str, Any], spy: tuple[str, Path]
) -> None:
    name, marker = spy
    path = write(tmp_path, sound | {"env": {**sound["env"], "id": f"{name}:Maze-v0"}})
    with pytest.raises(UserError, match=r"env\.id: .* is refused"):
        stored.load(path, [])
    assert not marker.exists()
    assert stored.load(path, [name])


def test_nested_components_are_refused(tmp_path: Path, sound: dict[str, Any]) -> None:
    for hidden in ({"_target_": "os.system"}, [{"_target_": "rlrun.policies.mlp.MlpPolicy"}]):
        node = sound | {"policy": {**sound["policy"], "hidden": hidden}}
        with pytest.raises(UserError, match="_target_"):
            stored.load(write(tmp_path, node), [])


def test_callbacks_are_trusted_by_name_only(tmp_path: Path, sound: dict[str, Any]) -> None:
    """They write files and import environments: rlrun's own, too, are asked for."""
    every = {"_target_": "rlrun.api.callbacks.EveryNTimesteps", "n_steps": 5}
    inner = {"_target_": "rlrun.api.callbacks.StopTrainingOnRewardThreshold"}
    path = write(tmp_path, sound | {"callback": {**every, "callback": inner}})
    with pytest.raises(UserError, match=r"callback\._target_: .*add 'trust=\[rlrun\]'"):
        stored.load(path, [])
    assert stored.load(path, ["rlrun"])["callback"]["callback"] == inner
    assert "callback" not in stored.load(path, [], without=("callback",))
    for target in ("os.system", 3):
        node = sound | {"callback": {**every, "callback": {**inner, "_target_": target}}}
        with pytest.raises(UserError, match=r"callback\.callback\._target_"):
            stored.load(write(tmp_path, node), ["rlrun"])


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "a ${seed}", "${"])
def test_interpolations_are_refused(tmp_path: Path, sound: dict[str, Any], text: str) -> None:
    for node in (
        sound | {"run": {**sound["run"], "dir": text}},
        sound | {"env": {**sound["env"], "kwargs": {"a": [text]}}},
        sound | {"env": {**sound["env"], "kwargs": {text: 1}}},
    ):
        with pytest.raises(UserError, match="interpolations are refused"):
            stored.load(write(tmp_path, node), [])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just text",
        "a: [",
        "!!python/object/apply:os.system ['true']",
        "\x00",
        "- 1",
        "a: &a [*a]",
    ],
)
def test_what_is_no_config_is_told(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        config.check(stored.load(write(tmp_path, text), []))


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        stored.load(tmp_path / "config.yaml", [])
