import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlrun.run.loggers import SafeView, TensorBoardLogger, WandbLogger

CONFIG = {
    "algo": {"_target_": "rlrun.algorithms.acer.ACER"},
    "env": {"id": "CartPole-v1"},
    "seed": 3,
}


class Faulty:
    """A view that raises at one of its calls and remembers what it took."""

    def __init__(self, at):
        self.at = at
        self.taken = []
        self.closed = False

    def start(self, folder, run_id, config, resume_step):
        self._fail("start")

    def write(self, step, metrics):
        if step >= 2:
            self._fail("write")
        self.taken.append(step)

    def close(self, exit_code):
        self.closed = True
        self._fail("close")

    def _fail(self, where):
        if where == self.at:
            raise ConnectionError(f"no network at {where}\nand more")


@pytest.mark.parametrize(
    ("at", "taken", "dropped"),
    [
        ("nowhere", [0, 1, 2, 3], 0),
        ("start", [], 4),
        ("write", [0, 1], 2),
        ("close", [0, 1, 2, 3], 0),
    ],
)
def test_a_failing_view_harms_nothing(tmp_path, caplog, at, taken, dropped):
    faulty = Faulty(at)
    view = SafeView(faulty)
    view.start(tmp_path, "id", CONFIG, 0)
    for step in range(4):
        view.write(step, {"loss/q": 1.0})
    view.close(0)
    assert faulty.taken == taken
    assert view.dropped == dropped
    assert faulty.closed
    told = [r.getMessage() for r in caplog.records if "goes on without it" in r.getMessage()]
    assert told == (
        []
        if at == "nowhere"
        else [f"Faulty failed, the run goes on without it: no network at {at}"]
    )


def test_an_interrupt_passes_through_a_view(tmp_path):
    def interrupted(*_args):
        raise KeyboardInterrupt

    view = SafeView(SimpleNamespace(start=interrupted, write=interrupted, close=interrupted))
    with pytest.raises(KeyboardInterrupt):
        view.start(tmp_path, "id", CONFIG, 0)


def scalars(folder, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_tensorboard_shows_a_resumed_run_once(tmp_path):
    killed = TensorBoardLogger()  # closed after the reading only
    killed.start(tmp_path, "id", CONFIG, 0)
    for step in range(10, 60, 10):
        killed.write(step, {"loss/q": float(step), "loss/policy": 0.5})
    resumed = TensorBoardLogger()
    resumed.start(tmp_path, "id", CONFIG, 30)
    resumed.write(40, {"loss/q": -40.0})
    resumed.close(0)
    assert scalars(tmp_path, "loss/q") == [(10, 10.0), (20, 20.0), (30, 30.0), (40, -40.0)]
    assert scalars(tmp_path, "loss/policy")[0] == (10, 0.5)
    killed.close(0)
    assert not any(socket.gethostname() in path.name for path in tmp_path.rglob("*"))


def test_tensorboard_of_a_run_started_anew_forgets_the_old_one(tmp_path):
    for value in (1.0, 2.0):
        view = TensorBoardLogger()
        view.start(tmp_path, "id", CONFIG, 0)
        view.write(0, {"loss/q": value})
        view.close(0)
    assert scalars(tmp_path, "loss/q") == [(0, 2.0)]


class FakeWandb:
    """Stands for the module, with a server that knows steps up to 20 of the run."""

    def __init__(self, logged_in=True):
        self.logged_in = logged_in
        self.calls = {}
        self.rows = []
        self.step = 21
        self.Settings = SimpleNamespace

    def setup(self, settings):
        assert settings.silent

    def login(self, prompt, verify):
        assert not prompt, "a question would block the run"
        return self.logged_in

    def init(self, **arguments):
        self.calls = arguments
        return self

    def log(self, row, step):
        self.rows.append((step, row))
        self.step = step

    def finish(self, exit_code):
        self.exit_code = exit_code


def test_wandb_online_resumes_its_run_without_sending_twice(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(__import__("sys").modules, "wandb", fake)
    view = WandbLogger(mode="online", tags=["a"])
    view.start(tmp_path / "acer-0123abcd" / "seed-3", "run7", CONFIG, 10)
    for step in (15, 20, 25):
        view.write(step, {"loss/q": 1.0})
    view.close(1)
    assert fake.calls["id"] == "run7"
    assert fake.calls["resume"] == "allow"
    assert fake.calls["group"] == "acer-0123abcd on CartPole-v1"
    assert fake.calls["name"] == "acer-0123abcd on CartPole-v1, seed 3"
    assert fake.rows == [(25, {"loss/q": 1.0})]
    assert fake.exit_code == 1


def test_wandb_online_without_a_key_says_what_to_do(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(__import__("sys").modules, "wandb", FakeWandb(logged_in=False))
    view = SafeView(WandbLogger(mode="online"))
    view.start(tmp_path, "run7", CONFIG, 0)
    view.write(1, {})
    view.close(0)
    assert view.dropped == 1
    assert "wandb login" in caplog.text


def test_wandb_offline_keeps_two_runs_apart_and_tells_no_secret(tmp_path, monkeypatch, capfd):
    from offline_wandb import ended

    monkeypatch.setenv("CANARY", "canary-value-91")
    monkeypatch.setenv("WANDB_API_KEY", "c" * 40)
    views = []
    for seed in (1, 2):  # the second one starts while the first is open
        view = WandbLogger()
        folder = tmp_path / str(seed)
        folder.mkdir()
        view.start(folder, f"run{seed}", {**CONFIG, "seed": seed}, 0)
        views.append(view)
    for step in (10, 20, 30):
        for number, view in enumerate(views, 1):
            view.write(step, {"loss/q": float(number * step)})
    for view in views:
        view.close(0)
    assert capfd.readouterr() == ("", "")

    for seed in (1, 2):
        run = ended(tmp_path / str(seed))
        assert run.run_id == f"run{seed}"
        assert run.project == "rlrun"
        assert run.config["seed"] == seed
        assert [(row["_step"], row["loss/q"]) for row in run.history] == [
            (step, float(seed * step)) for step in (10, 20, 30)
        ]
        assert run.exit_code == 0

    secrets = ["canary-value-91", "c" * 40, str(Path.home()), str(tmp_path)]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    for path in files:
        for secret in secrets:
            assert secret.encode() not in path.read_bytes(), f"{secret} in {path}"
