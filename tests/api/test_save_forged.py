"""Files of models and runs that were forged with care: refused in plain words, on both ways in."""

import dataclasses
import hashlib
import io
import json
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest
import yaml
from test_save_hostile import made, members
from whole import every, fingerprint, make, weights

from rlrun import ACER, UserError, make_vec_env
from rlrun.run.manifest import MANIFEST, STATE, Manifest
from rlrun.run.store import Stamp

VERBS = ("evaluate", "resume", "record")


@pytest.fixture(scope="module")
def packed():
    """A model in a file, as bytes."""
    env = make_vec_env("CartPole-v1", 1, env_kwargs={"max_episode_steps": 25})
    file = io.BytesIO()
    make("acer", env, policy_kwargs={"hidden": [2]}).learn(30).save(file)
    return file.getvalue()


@pytest.fixture(autouse=True)
def impatient():
    """Ends what waits forever."""

    def end(*args):
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def unpacked(packed, folder):
    """The folder of a run with the contents of the file."""
    for name, data in members(packed).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def with_config(packed, change):
    """The file with another config, a text or what `change` makes of its tree."""
    right = members(packed)
    config = yaml.safe_load(right["config.yaml"])
    change(config)
    return made(right | {"config.yaml": yaml.safe_dump(config).encode()})


def with_state(packed, change):
    """The file with another state, all its digests set right."""
    right = members(packed)
    (step,) = {name.rpartition("/")[0] for name in right if name.endswith(STATE)}
    state = json.loads(right[f"{step}/{STATE}"])
    change(state)
    text = json.dumps(state).encode()
    manifest = Manifest.parse(right[f"{step}/{MANIFEST}"], Path(step))
    stamp = Stamp(len(text), hashlib.sha256(text).hexdigest())
    sealed = dataclasses.replace(manifest, files={**manifest.files, STATE: stamp})
    return made(right | {f"{step}/{STATE}": text, f"{step}/{MANIFEST}": sealed.text()})


def refused(command, path, verbs=VERBS):
    for verb in verbs:
        done = command(verb, str(path))
        assert done.code == 2, f"{verb}: {done.out}{done.err}"
        assert done.out == "" or done.out.startswith("warning: ")
        assert "Traceback" not in done.err
        assert 0 < len(done.err) < 3000


FORGED = {
    "date": b"seed: 2001-13-45",
    "int": b"seed: !!int foo",
    "bool": b"seed: !!bool foo",
    "timestamp": b"seed: !!timestamp foo",
    "float": b"seed: !!float foo",
    "binary": b"seed: !!binary \xc3\xa4",
    "digits": b"seed: " + b"7" * 5000,
    "hexadecimal": b"seed: 0x" + b"f" * 5000,
    "args": None,
    "large": b"#" * (1 << 18),
    "unhashable": b"? {a: 1}\n: 2",
}


def forged(packed, name):
    """The file's config, with what is wrong below the rest of it."""
    config = members(packed)["config.yaml"]
    if FORGED[name] is None:
        tree = yaml.safe_load(config)
        tree["policy"]["_args_"] = [1, 2]
        return yaml.safe_dump(tree).encode()
    return config.replace(b"\nseed: 0\n", b"\n" + FORGED[name] + b"\n")


@pytest.mark.parametrize("name", FORGED)
def test_configs(packed, command, tmp_path, name):
    data = made(members(packed) | {"config.yaml": forged(packed, name)})
    folder = unpacked(packed, tmp_path / "run")
    (folder / "config.yaml").write_bytes(forged(packed, name))
    Path("model.zip").write_bytes(data)
    for source in (io.BytesIO(data), "model.zip", folder):
        with pytest.raises(UserError):
            ACER.load(source)
    refused(command, "model.zip")
    refused(command, folder)
    assert not Path("outputs").exists()


def test_a_pipe_in_place_of_the_config(packed, command, tmp_path):
    """Nobody ever writes into it."""
    folder = unpacked(packed, tmp_path / "run")
    (folder / "config.yaml").unlink()
    os.mkfifo(folder / "config.yaml")
    with pytest.raises(UserError):
        ACER.load(folder)
    refused(command, folder)


@pytest.mark.parametrize("name", ["manifest.json", "result.json"])
def test_reports_that_are_nested_deeply(packed, command, tmp_path, name):
    deep = b"[" * 100_000 + b"]" * 100_000
    folder = unpacked(packed, tmp_path / "run")
    (folder / name).write_bytes(deep)
    done = command("inspect", str(folder))
    assert (done.code, done.err) == (0, "")
    assert f"{name}: missing, or not readable" in done.out
    assert "Traceback" not in command("list", "runs").err
    done = command("resume", str(folder), "total_timesteps=40", "eval.episodes=0")
    assert done.code in (0, 2)
    assert "Traceback" not in done.err + done.out


def test_a_manifest_of_a_checkpoint_that_is_nested_deeply(packed, command, tmp_path):
    folder = unpacked(packed, tmp_path / "run")
    (path,) = folder.glob("checkpoints/*/manifest.json")
    path.write_bytes(b"[" * 100_000)
    done = command("inspect", str(folder))
    assert done.code == 1
    assert "DAMAGED" in done.out
    refused(command, folder)
    with pytest.raises(UserError):
        ACER.load(folder)


def test_nothing_of_a_file_steers_the_terminal(packed, command, tmp_path):
    evil = {"id": "\x1b[2J\x1b]0;owned\x07\r\nstep-1: intact\x9b", "\x1b[31mseed": 3}
    text = json.dumps(evil).encode()
    folder = unpacked(packed, tmp_path / "run")
    for name in ("manifest.json", "result.json"):
        (folder / name).write_bytes(text)
    Path("model.zip").write_bytes(made(members(packed) | {"manifest.json": text}))
    for path in (folder, "model.zip"):
        done = command("inspect", str(path))
        assert done.code == 0
        assert "owned" in done.out
        shown = (done.out + done.err).replace("\n", "")
        assert shown.isprintable(), ascii(shown)
        assert not any(line.startswith("step-1:") for line in done.out.splitlines())


def test_a_file_does_not_say_where_its_run_is_written(packed, command, tmp_path):
    for where in (str(tmp_path / "elsewhere"), "../elsewhere", "~/elsewhere", "other"):
        data = with_config(packed, lambda config, to=where: config["run"].update(dir=to))
        Path("evil.zip").write_bytes(data)
        before = {path for path in tmp_path.parent.rglob("*") if "outputs" not in path.parts}
        done = command("resume", "evil.zip", "total_timesteps=40", "eval.episodes=0")
        assert done.code == 0, done.err
        after = {path for path in tmp_path.parent.rglob("*") if "outputs" not in path.parts}
        assert after == before
        (run,) = Path("outputs").glob("*/*/seed-0")
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert config["run"]["dir"] == "outputs"
        shutil.rmtree("outputs")


def test_a_file_does_not_trust_for_its_user(packed, command):
    def change(config):
        config["run"]["trust"] = ["tests", "gymnasium"]
        config["policy"]["_target_"] = "tests.api.whole.Count"

    data = with_config(packed, change)
    Path("evil.zip").write_bytes(data)
    refused(command, "evil.zip")
    with pytest.raises(UserError):
        ACER.load(io.BytesIO(data))


def _lose_weights(state):
    state["algorithm"]["actor"].popitem()


def _lose_training(state):
    del state["training"]


def _turn_the_collector_into_text(state):
    state["collector"] = "here"


def _count_in_words(state):
    state["training"]["step"] = "many"


def _play_the_journal_of_others(state):
    state["collector"]["envs"] = {"episodes": 3}


STATES = [value for name, value in list(globals().items())
          if name.startswith(("_lose", "_turn", "_count", "_play"))]  # fmt: skip


@pytest.mark.parametrize("change", STATES)
def test_states_that_cannot_be_restored_leave_nothing_behind(packed, command, change):
    data = with_state(packed, change)
    Path("evil.zip").write_bytes(data)
    refused(command, "evil.zip", ["resume"])
    assert [*Path().rglob("*seed-*"), *Path().rglob("config.yaml")] == []
    with pytest.raises(UserError):
        ACER.load(io.BytesIO(data)).get_env()
    Path("good.zip").write_bytes(with_state(packed, lambda state: None))
    assert command("resume", "good.zip", "total_timesteps=40", "eval.episodes=0").code == 0


NUMBER = "1" * 300


@pytest.mark.parametrize("name", [
    f"replay/{NUMBER}-{NUMBER}.safetensors", f"replay/000000000-{NUMBER}.safetensors",
    f"checkpoints/step-{NUMBER}/state.json", f"checkpoints/step-{NUMBER}/manifest.json",
], ids=lambda name: name[:20])  # fmt: skip
def test_members_with_long_names(packed, command, name):
    data = made(members(packed) | {name: b"{}"})
    Path("evil.zip").write_bytes(data)
    for source in ("evil.zip", io.BytesIO(data)):
        with pytest.raises(UserError):
            ACER.load(source)
    refused(command, "evil.zip", (*VERBS, "inspect"))


def test_what_a_crash_left_does_not_disturb(tmp_path):
    model = make("acer").learn(30)
    for name in (".model.zip.tmp", "model.zip.tmp", ".model.zip.abc.tmp"):
        (tmp_path / name).write_bytes(b"half a model")
    (tmp_path / ".other.zip.tmp").mkdir()
    for name in ("model.zip", "other.zip", "model.zip"):
        model.save(tmp_path / name)
        assert weights(ACER.load(tmp_path / name)) == weights(model)


def test_threads_that_save_to_one_path(tmp_path):
    model, errors = make("acer").learn(30), []
    expected = fingerprint(model)

    def save():
        try:
            for _ in range(5):
                model.save(tmp_path / "model")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=save) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]
    assert fingerprint(ACER.load(tmp_path / "model", every())) == expected
