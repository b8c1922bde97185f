"""Files of models whose config names what it should not: nothing of it is imported or run."""

import builtins
import contextlib
import io
import os
import sys

import numpy as np
import pytest
import yaml
from test_save_hostile import load_or_refuse, made, members, packed, watched

from rlrun import A2C, ACER

__all__ = ["packed", "watched"]  # fixtures


@pytest.fixture
def canary(watched, monkeypatch, tmp_path_factory):
    """A module whose import is noticed: it must not be."""
    folder = tmp_path_factory.mktemp("canary")
    (folder / "canary.py").write_text("class Thing: pass\n")
    monkeypatch.syspath_prepend(str(folder))

    def refuse(*args, **kwargs):
        raise AssertionError("run")

    monkeypatch.setattr(os, "system", refuse)
    monkeypatch.setattr(builtins, "eval", refuse)
    yield
    assert sys.modules.pop("canary", None) is None


def patched(packed, path, value):
    """The file with another value in its config."""
    right = members(packed)
    config = yaml.safe_load(right["config.yaml"])
    node = config
    for key in path[:-1]:
        node = node.setdefault(key, {})
    node[path[-1]] = value
    return made(right | {"config.yaml": yaml.safe_dump(config).encode()})


THING = {"_target_": "canary.Thing"}
SYSTEM = {"_target_": "os.system", "command": "touch evil"}
CHANGES = [
    (["algo"], THING),
    (["policy"], THING),
    (["policy"], {"_target_": "rlrun.policies.mlp.np.load"}),
    (["policy"], {"_target_": "rlrun.stored.import_module", "name": "canary"}),
    (["policy"], {"_target_": "rlrun.policies.encoder.EncoderPolicy",
                  "encoder": THING | {"_partial_": True}}),
    (["policy", "hidden"], SYSTEM),
    (["policy", "hidden"], "${oc.env:HOME}"),
    (["lr_schedule"], THING),
    (["lr_schedule"], SYSTEM),
    (["algo", "gamma"], THING),
    (["algo", "${oc.env:HOME}"], 1),
    (["seed"], "${oc.env:HOME}"),
    (["threads"], 10**9),
    (["env", "n_envs"], 10**9),
    (["checkpoint"], None),
    (["checkpoint", "keep"], "many"),
    (["env"], None),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), CHANGES, ids=str)
def test_configs_that_name_something_else(packed, canary, path, value):
    data = patched(packed, path, value)
    assert load_or_refuse(data) is None
    assert load_or_refuse(data, gamma=0.5) is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["env", "id"], "canary:Thing-v0"),
        (["env", "id"], "canary:CartPole-v1"),
        (["logger"], THING),
        (["callback"], THING),
        (["callback"], {"_target_": "rlrun.CallbackList", "callbacks": [THING]}),
    ],
    ids=str,
)
def test_what_a_model_does_without(packed, canary, path, value):
    """Neither environments, nor views, nor callbacks of the file are made."""
    data = patched(packed, path, value)
    assert load_or_refuse(data) is not None
    model = ACER.load(io.BytesIO(data))
    assert model.get_env() is None or path[0] != "env"
    model.predict(np.zeros(3, np.float32))
    model.save(io.BytesIO())


def test_a_policy_that_is_given_does_not_let_others_in(packed, canary):
    """The class replaces what the file names, and not what is nested in it."""
    encoder = THING | {"_partial_": True}
    data = patched(packed, ["policy"], {"_target_": "my.Policy", "encoder": encoder})
    for policy in ("rlrun.policies.encoder.EncoderPolicy", "MlpPolicy"):
        with contextlib.suppress(ValueError):
            assert load_or_refuse(data, policy=policy) is None
        assert "canary" not in sys.modules
    data = patched(packed, ["policy", "hidden"], "${oc.env:HOME}")
    assert load_or_refuse(data, policy="MlpPolicy") is None


@pytest.mark.parametrize(
    "text",
    [
        b"!!python/object/apply:os.system ['touch evil']",
        b"a: &a [1]\nb: *a",
        b"[1, 2]",
        b"",
        b"\xff\xfe\x00",
        b"a: " + b"[" * 5000,
        b"{}",
        b"algo: {}",
    ],
    ids=range(8),
)
def test_configs_that_are_none(packed, canary, text):
    data = made(members(packed) | {"config.yaml": text})
    assert load_or_refuse(data) is None
    assert load_or_refuse(data, A2C) is None
