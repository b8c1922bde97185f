"""Callbacks: who is told what and when, who may stop, and what is left on the disk."""

import time
from contextlib import suppress

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from omegaconf import OmegaConf

from rlrun.api import callbacks, progress
from rlrun.api.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EventCallback,
    EveryNTimesteps,
    StopTrainingOnRewardThreshold,
    as_callback,
)
from rlrun.api.progress import ProgressBarCallback
from rlrun.run import console


class Pays(gymnasium.Env):
    """Episodes of two steps that pay the action each."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(100)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(1, np.float32), float(action), self.t == 2, False, {}


class Logger:
    def __init__(self):
        self.records = []

    def record(self, key, value):
        assert type(value) is float
        self.records.append((key, value))


class Model:
    """Always acts `skill`; every step of its 4 environments counts 4."""

    def __init__(self, n_envs=4):
        self.n_envs, self.num_timesteps, self.skill = n_envs, 0, 1
        self.logger = Logger()
        self.envs = SyncVectorEnv([Pays] * n_envs)
        self.saved = []

    def get_env(self):
        return self.envs

    def predict(self, observation, state, mask, deterministic):
        self.deterministic = deterministic
        return np.full(len(observation), self.skill), None

    def save(self, path, include_replay=None):
        self.saved.append((path, include_replay))
        path.write_text(str(self.num_timesteps))


def learn(model, callback, steps, before_step=lambda t: None, rollout=3):
    """As a training goes; `before_step` is told the number of the step, from 1 on.

    Returns the number of steps taken.
    """
    callback = as_callback(callback)
    callback.init_callback(model)
    callback.on_training_start({"self": model, "total_timesteps": steps * model.n_envs}, {"g": 1})
    taken = 0
    try:
        while taken < steps:
            callback.on_rollout_start()
            for _ in range(rollout):
                before_step(taken + 1)
                taken += 1
                model.num_timesteps += model.n_envs
                callback.update_locals({"t": taken})
                if not callback.on_step():
                    return taken
            callback.update_locals({"update": taken})
            callback.on_rollout_end()
    finally:
        callback.on_training_end()
    return taken


class Diary(BaseCallback):
    """Writes down all hooks, in a list that may be shared."""

    def __init__(self, name="", entries=None):
        super().__init__()
        self.name, self.entries = name, [] if entries is None else entries

    def _write(self, what):
        self.entries.append(f"{self.name}{what}")

    def _init_callback(self):
        self._write("init")

    def _on_training_start(self):
        self._write("start")

    def _on_rollout_start(self):
        self._write("rollout")

    def _on_step(self):
        self._write("step")

    def _on_rollout_end(self):
        self._write("update")

    def _on_training_end(self):
        self._write("end")


HOOKS = ["init", "start", "rollout", "step", "step", "update", "rollout", "step", "step", "update"]


def test_hooks_come_in_their_order():
    diary = Diary()
    assert learn(Model(), diary, 4, rollout=2) == 4
    assert diary.entries == [*HOOKS, "end"]


def test_a_list_tells_one_after_the_other():
    entries = []
    learn(Model(), [Diary("a ", entries), [Diary("b ", entries)]], 4, rollout=2)
    assert entries == [f"{name} {hook}" for hook in [*HOOKS, "end"] for name in "ab"]


def test_a_child_is_told_all_but_steps():
    diary = Diary()
    learn(Model(), EventCallback(diary), 4, rollout=2)
    assert diary.entries == [hook for hook in [*HOOKS, "end"] if hook != "step"]


def test_what_a_callback_knows():
    class Looks(BaseCallback):
        def _on_training_start(self):
            assert self.num_timesteps == 100

        def _on_step(self):
            assert self.model is model
            assert self.training_env is model.envs
            assert self.logger is model.logger
            assert self.globals == {"g": 1}
            assert self.locals["self"] is model
            assert self.locals["t"] == self.n_calls
            assert self.num_timesteps == model.num_timesteps == 100 + 4 * self.n_calls

        def _on_rollout_end(self):
            assert self.locals["update"] == self.n_calls
            self.seen = True

    model = Model()
    model.num_timesteps = 100
    own, listed, child = Looks(), Looks(), Looks()
    learn(model, own, 3)
    model.num_timesteps = 100
    learn(model, [listed, EveryNTimesteps(4, child)], 3)
    assert own.seen
    assert listed.seen
    assert child.seen
    assert own.n_calls == listed.n_calls == child.n_calls == 3


def test_values_reach_all_even_if_they_hold_different_dicts():
    first, second = BaseCallback(), BaseCallback()
    for callback in (first, second):
        callback.locals = {"kept": 1}
    CallbackList([first, EventCallback(second)]).update_locals({"new": 2})
    assert first.locals == second.locals == {"kept": 1, "new": 2}


def test_a_model_without_a_logger():
    model = Model()
    del model.logger
    callback = BaseCallback()
    learn(model, callback, 3)
    assert callback.logger is None


ANSWERS = [(False, False), (np.False_, False), (None, True), (True, True), (0, True), ("", True)]


@pytest.mark.parametrize(("answer", "goes_on"), ANSWERS)
def test_only_an_explicit_false_stops(answer, goes_on):
    class Answers(BaseCallback):
        def _on_step(self):
            return answer

    def function(locals_, globals_):
        return answer

    for callback in (
        Answers(),
        function,
        [function],
        [Answers(), BaseCallback()],
        [BaseCallback(), [Answers()]],
        EveryNTimesteps(4, Answers()),
        EvalCallback(Pays(), Answers(), n_eval_episodes=1, eval_freq=1, verbose=0),
    ):
        assert learn(Model(), callback, 3) == (3 if goes_on else 1)
        one = as_callback(callback)
        one.init_callback(Model())
        one.on_training_start({}, {})
        assert one.on_step() in (True, False)


def test_all_of_a_list_are_called_in_the_step_that_stops():
    last = BaseCallback()
    assert learn(Model(), [lambda *_: False, last], 3) == 1
    assert last.n_calls == 1


def test_all_are_told_of_the_end_even_if_one_fails_there():
    class Fails(BaseCallback):
        def _on_training_end(self):
            raise ZeroDivisionError

    diary = Diary()
    with pytest.raises(ZeroDivisionError):
        learn(Model(), [Fails(), diary], 3)
    assert diary.entries[-1] == "end"


def test_calls_are_counted_over_trainings():
    callback, model = BaseCallback(), Model()
    learn(model, callback, 3)
    learn(model, callback, 3)
    assert callback.n_calls == 6
    assert callback.num_timesteps == 24


def test_a_function_sees_locals_and_globals():
    seen = []
    learn(Model(), lambda locals_, globals_: seen.append((locals_["t"], globals_)), 3)
    assert seen == [(t, {"g": 1}) for t in (1, 2, 3)]


def test_what_may_be_a_callback():
    one = BaseCallback()
    assert as_callback(one) is one
    assert type(as_callback(None)) is BaseCallback
    assert isinstance(as_callback(print), ConvertCallback)
    assert as_callback((one,)).callbacks == [one]
    assert as_callback([]).on_training_end() is None
    listed = OmegaConf.create({"list": [1]}, flags={"allow_objects": True})
    listed.list = [one]
    assert as_callback(listed.list).callbacks == [one]


@pytest.mark.parametrize("given", [3, "EvalCallback", {"a": 1}, [3], [None, "x"]])
def test_what_may_not(given):
    with pytest.raises(TypeError, match=r"a list of these, or None; got (int|str|dict)"):
        as_callback(given)
    with pytest.raises(TypeError, match=r"class EvalCallback; make an object .* EvalCallback\("):
        as_callback(EvalCallback)


def test_checkpoints_are_counted_in_calls_and_named_by_timesteps(tmp_path):
    model, folder = Model(), tmp_path / "some" / "folder"
    learn(model, CheckpointCallback(2, folder), 6)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "rl_model_8_steps.zip": "8",
        "rl_model_16_steps.zip": "16",
        "rl_model_24_steps.zip": "24",
    }
    assert [include for _, include in model.saved] == [False] * 3


def test_checkpoints_by_name_with_replay(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = Model()
    learn(model, CheckpointCallback(3, "saved", "acer", verbose=2, include_replay=True), 3)
    assert (tmp_path / "saved" / "acer_12_steps.zip").is_file()
    assert model.saved[0][1] is True
    assert "acer_12_steps.zip" in capsys.readouterr().out


def test_every_n_timesteps_counts_steps_of_environments(tmp_path):
    model = Model(n_envs=3)
    learn(model, EveryNTimesteps(10, CheckpointCallback(1, tmp_path)), 12)
    assert [int(path.read_text()) for path, _ in model.saved] == [12, 24, 36]


def test_every_n_timesteps_over_trainings():
    child, model = BaseCallback(), Model()
    every = EveryNTimesteps(20, child)
    model.num_timesteps = 1000  # a loaded one
    learn(model, every, 3)  # 12 steps
    assert child.n_calls == 0
    learn(model, every, 3)
    assert child.n_calls == 1
    model.num_timesteps = 0  # reset_num_timesteps
    learn(model, every, 6)
    assert child.n_calls == 2


def improving(model, skills):
    """Changes what the model can, step by step."""

    def before_step(t):
        model.skill = skills[t - 1]

    return before_step


def test_evaluations_find_the_best_model(tmp_path, capsys):
    model, news = Model(), BaseCallback()
    logs, best = tmp_path / "a" / "logs", tmp_path / "b" / "best"
    evaluation = EvalCallback(
        Pays(), news, 3, eval_freq=2, log_path=logs, best_model_save_path=best
    )
    assert evaluation.best_mean_reward == evaluation.last_mean_reward == -np.inf
    skills = [9, 1, 9, 5, 9, 5, 9, 7, 9, 2, 9, 9]
    learn(model, evaluation, 12, improving(model, skills))

    expected = np.repeat([[2.0], [10], [10], [14], [4], [18]], 3, axis=1)
    with np.load(logs / "evaluations.npz", allow_pickle=False) as stored:
        assert set(stored) == {"timesteps", "results", "ep_lengths"}
        assert stored["timesteps"].tolist() == [8, 16, 24, 32, 40, 48]
        np.testing.assert_array_equal(stored["results"], expected)
        np.testing.assert_array_equal(stored["ep_lengths"], np.full((6, 3), 2))
    assert [path.name for path in logs.iterdir()] == ["evaluations.npz"]
    assert {path for path, _ in model.saved} == {best / "best_model.zip"}
    assert len(model.saved) == news.n_calls == 4  # an equal one is not better
    assert (best / "best_model.zip").read_text() == "48"
    assert evaluation.best_mean_reward == evaluation.last_mean_reward == 18.0
    assert model.deterministic is True
    assert model.logger.records[:4] == [
        ("eval/mean_reward", 2.0),
        ("eval/std_reward", 0.0),
        ("eval/mean_ep_length", 2.0),
        ("eval/mean_reward", 10.0),
    ]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "evaluation at step 8: return 2.00 +- 0.00 over 3 episodes, length 2.0, the best so far"
    )
    assert ["best" in line for line in lines] == [True, True, False, True, False, True]


def test_the_last_evaluation_is_not_the_best():
    model = Model()
    evaluation = EvalCallback(Pays(), n_eval_episodes=1, eval_freq=1, deterministic=False)
    learn(model, evaluation, 3, improving(model, [1, 3, 2]))
    assert evaluation.last_mean_reward == 4.0
    assert evaluation.best_mean_reward == 6.0
    assert evaluation.evaluations_timesteps == [4, 8, 12]
    assert model.deterministic is False


def test_evaluations_that_never_come_and_are_silent(capsys, tmp_path):
    never = EvalCallback(Pays(), eval_freq=0)
    learn(Model(), never, 3)
    assert never.evaluations_timesteps == []
    learn(Model(), EvalCallback(Pays(), eval_freq=1, verbose=0), 3)
    assert capsys.readouterr().out == ""


def test_a_batch_to_evaluate_in():
    evaluation = EvalCallback(SyncVectorEnv([Pays] * 3), n_eval_episodes=4, eval_freq=3)
    learn(Model(), evaluation, 3)
    assert evaluation.evaluations_length == [[2, 2, 2, 2]]


def test_ids_and_what_is_asked_for_are_handed_on(monkeypatch):
    calls = []

    def evaluate_policy(*args, **kwargs):
        calls.append((args, kwargs))
        return [1.0], [2]

    monkeypatch.setattr(callbacks, "evaluate_policy", evaluate_policy)
    model = Model()
    learn(model, EvalCallback("CartPole-v1", n_eval_episodes=7, eval_freq=3, render=True), 3)
    asked = {"deterministic": True, "render": True, "return_episode_rewards": True}
    assert calls == [((model, "CartPole-v1", 7), asked)]


def test_the_environments_of_the_training_are_refused():
    model = Model()
    wrapped = gymnasium.wrappers.TimeLimit(model.envs.envs[2], 5)
    for eval_env in (model.envs, model.envs.envs[1], wrapped):
        with pytest.raises(ValueError, match="of the training"):
            EvalCallback(eval_env).init_callback(model)


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize(("threshold", "steps"), [(6.0, 2), (6.1, 3)])
def test_training_stops_when_it_is_good_enough(listed, threshold, steps, capsys):
    stop = StopTrainingOnRewardThreshold(threshold, verbose=1)
    child = CallbackList([stop, BaseCallback()]) if listed else stop
    model = Model()
    evaluation = EvalCallback(Pays(), child, n_eval_episodes=1, eval_freq=1, verbose=0)
    assert learn(model, evaluation, 3, improving(model, [2, 3, 4])) == steps
    assert stop.parent is evaluation
    assert str(threshold) in capsys.readouterr().out


def test_a_threshold_needs_evaluations():
    for callback in (
        StopTrainingOnRewardThreshold(1.0),
        EveryNTimesteps(5, StopTrainingOnRewardThreshold(1.0)),
    ):
        with pytest.raises(ValueError, match="callback_on_new_best"):
            callback.init_callback(Model())


def test_intervals_of_nothing():
    with pytest.raises(ValueError, match="save_freq has to be at least 1"):
        CheckpointCallback(0, "folder")
    with pytest.raises(ValueError, match="n_steps has to be at least 1"):
        EveryNTimesteps(0, BaseCallback())


def test_no_bar_where_there_is_no_terminal(capsys):
    learn(Model(), ProgressBarCallback(), 3)
    assert capsys.readouterr() == ("", "")


class Screen:
    """Stands for the screen of a terminal."""

    shown: list = []  # noqa: RUF012

    def __init__(self, *args):
        self.args, self.updates, self.open = args, [], None
        self.shown.append(self)

    def __enter__(self):
        self.open = True
        return self

    def update(self, *args):
        self.updates.append(args)

    def __exit__(self, *error):
        assert self.open
        self.open = False


@pytest.fixture
def screens(monkeypatch):
    monkeypatch.setattr(progress, "is_terminal", lambda: True)
    monkeypatch.setattr(progress, "Screen", Screen)
    monkeypatch.setattr(Screen, "shown", [])
    return Screen.shown


def test_the_bar_shows_steps_speed_and_return(screens, monkeypatch):
    now = iter([10.0, 12.0, 14.0, 14.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    model = Model()
    model.num_timesteps = 100

    def tells(locals_, globals_):
        locals_["ep_returns"] = [10.0 * locals_["t"]] if locals_["t"] > 1 else []

    learn(model, [tells, ProgressBarCallback()], 3)
    [screen] = screens
    assert screen.args == ("Model", {}, 12, 100)
    assert screen.updates == [
        (104, 2.0, {}, None, None),
        (108, 2.0, {}, 20.0, None),
        (112, 3.0, {}, 25.0, None),
    ]
    assert screen.open is False


def test_the_bar_is_closed_whatever_happens(screens):
    def fails(locals_, globals_):
        raise ZeroDivisionError

    bar = ProgressBarCallback()
    for _ in range(2):
        with suppress(ZeroDivisionError):
            learn(Model(), [bar, fails], 3)
    bar.on_training_end()  # once more is no harm
    assert [screen.open for screen in screens] == [False, False]


def test_the_bar_of_a_training_that_never_ended_is_closed_by_the_next(screens):
    bar = ProgressBarCallback()
    for _ in range(2):
        bar.init_callback(Model())
        bar.on_training_start({"total_timesteps": 10}, {})
    assert [screen.open for screen in screens] == [False, True]
    bar.on_training_end()


def test_the_bar_on_a_terminal(monkeypatch):
    import io

    from rich.console import Console

    shown = Console(file=io.StringIO(), force_terminal=True, width=80, height=20)
    monkeypatch.setattr(progress, "is_terminal", lambda: True)
    monkeypatch.setattr(console, "is_terminal", lambda: True)
    monkeypatch.setattr(console, "console", lambda: shown)

    def tells(locals_, globals_):
        locals_["ep_returns"] = [21.5]

    learn(Model(), [tells, ProgressBarCallback()], 3)
    text = shown.file.getvalue()
    assert "12 of 12" in text
    assert "21.5" in text
    assert "100 %" in text
