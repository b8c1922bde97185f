"""What looks on at a training or breaks into it: callbacks, exceptions, evaluations, views."""

import io
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from whole import KINDS, Count, every, fingerprint, make, seen, stack

from rlrun import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    evaluate_policy,
    make_vec_env,
)


class Failing(BaseCallback):
    """Fails when `hook` is called for the second time, or the first where there is but one."""

    def __init__(self, hook, error):
        super().__init__()
        self.ended, self.called = 0, 0

        def fail(*args):
            self.called += 1
            if hook not in ("_on_rollout_start", "_on_step", "_on_rollout_end") or self.called == 2:
                raise error("on purpose")

        if hook == "_on_training_end":
            end = self._on_training_end
            self._on_training_end = lambda: (end(), fail())
        else:
            setattr(self, hook, fail)

    def _on_training_end(self):
        self.ended += 1


HOOKS = [name for name in vars(BaseCallback) if name.startswith(("_on_", "_init_callback"))]


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_in_a_callback_leaves_a_usable_model(kind, hook, error):
    straight, model = make(kind).learn(150), make(kind)
    callback = Failing(hook, error)
    with pytest.raises(error, match="on purpose"):
        model.learn(150, callback)
    assert callback.ended == (hook != "_init_callback")
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    loaded = KINDS[kind].load(file, env=every())
    for each in (model, loaded):
        each.predict(stack(seen()))
        if each.num_timesteps < 150:
            each.learn(150 - each.num_timesteps, reset_num_timesteps=False)
        assert all(np.isfinite(value).all() for value in each.get_parameters().values())
    assert fingerprint(model) == fingerprint(loaded)
    if hook != "_on_rollout_end":  # where a segment is lost that nothing was learnt from
        assert fingerprint(model) == fingerprint(straight)


@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_of_the_environment_leaves_a_usable_model(kind):
    env = Count(limit=4, fault=13)
    model = make(kind, env)
    lengths = []
    with pytest.raises(OSError, match="fell over"):
        model.learn(40)
    model.learn(40, lambda locals_, globals_: lengths.extend(locals_["ep_lengths"]))
    assert env.total == 13 + 40
    assert set(lengths) == {4}


@pytest.mark.parametrize("policy", ["MlpPolicy", "MlpLstmPolicy"])
def test_evaluating_in_the_environment_of_the_training(policy):
    model = make("acer", make_vec_env(lambda: Count(limit=7), 3), policy)
    lengths, begins = [], []

    def note(locals_, globals_):
        lengths.extend(locals_["ep_lengths"])
        begins.append(locals_["obs"].ravel().tolist())

    model.learn(33, note)
    for stopping in (False, True):
        mean, std = evaluate_policy(model, model.get_env(), 5)
        assert (mean, std) == (7.0, 0.0)
        if stopping:
            model.get_env().reset()
            model.get_env().step(np.zeros(3, np.int64))
        begins.clear()
        model.learn(33 if stopping else 38, note, reset_num_timesteps=False)
        assert begins[0] == [1.0] * 3, "an episode that the training has not begun"
    assert set(lengths) == {7}


@pytest.mark.parametrize("kind", KINDS)
def test_looking_on_changes_nothing(kind, tmp_path):
    def model():
        env = make_vec_env("CartPole-v1", 3, env_kwargs={"max_episode_steps": 25})
        return make(kind, env, normalize_observations=True)

    plain = model().learn(300)
    watched = model()
    watched.verbose, watched.tensorboard_log = 1, tmp_path / "tb"
    callbacks = [
        EvalCallback(gymnasium.make("CartPole-v1"), n_eval_episodes=2, eval_freq=13, verbose=0,
                     deterministic=False, best_model_save_path=tmp_path / "best"),
        EvalCallback("CartPole-v1", n_eval_episodes=2, eval_freq=17, log_path=tmp_path, verbose=0),
        CheckpointCallback(11, tmp_path / "models", include_replay=True),
        EveryNTimesteps(50, CheckpointCallback(1, tmp_path / "others")),
    ]  # fmt: skip
    watched.learn(300, callbacks, log_interval=1)
    assert fingerprint(watched) == fingerprint(plain)
    assert len(list((tmp_path / "models").iterdir())) == 9
    assert (tmp_path / "best" / "best_model.zip").exists()


def runs(folder: Path):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_runs_of_tensorboard_are_numbered(kind, tmp_path):
    model = make(kind, tensorboard_log=str(tmp_path), full_tensorboard_log=True)
    name = KINDS[kind].__name__
    model.learn(30, log_interval=1)
    assert runs(tmp_path) == [f"{name}_1"]
    model.learn(30, log_interval=1, reset_num_timesteps=False)
    assert runs(tmp_path) == [f"{name}_1"]
    model.learn(30, log_interval=1)
    assert runs(tmp_path) == [f"{name}_1", f"{name}_2"]
    model.learn(30, tb_log_name="first try")
    model.learn(30, tb_log_name="first try", reset_num_timesteps=False)
    model.learn(30, tb_log_name="first try")
    assert runs(tmp_path)[-2:] == ["first try_1", "first try_2"]
    make(kind, tensorboard_log=tmp_path).learn(30, reset_num_timesteps=False)
    assert runs(tmp_path)[1:3] == [f"{name}_2", f"{name}_3"]
    assert all(list((tmp_path / run).glob("events.out.tfevents.*")) for run in runs(tmp_path))


def test_what_is_shown(tmp_path, capsys):
    class Note(BaseCallback):
        def _on_rollout_end(self):
            self.logger.record("mine/calls", self.n_calls)

    make("acktr", verbose=1).learn(45, Note(), log_interval=2)
    out = capsys.readouterr().out
    assert "train/timesteps" in out
    assert out.count("mine/calls") == 1
    assert "10" in next(line for line in out.splitlines() if "mine/calls" in line)
    assert "30" in next(line for line in out.splitlines() if "train/timesteps" in line)
    make("acktr", verbose=0).learn(45, Note(), log_interval=1)
    assert capsys.readouterr().out == ""
