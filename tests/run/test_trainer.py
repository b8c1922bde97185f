"""The training loop: what it tells whom, at which step, and what a checkpoint brings back."""

import logging
from types import SimpleNamespace

import pytest
import torch
from gymnasium import spaces

from rlrun.envs import Episode, Interface
from rlrun.optim.errors import NonFiniteUpdate
from rlrun.run import trainer as module
from rlrun.run.evaluate import Evaluation
from rlrun.run.signals import StopRequest
from rlrun.run.trainer import NotSavedError, Trainer
from rlrun.run.training import Ended, Training

STEPS, ENVS = 5, 2
N = STEPS * ENVS
INTERFACE = Interface(ENVS, spaces.Box(-1, 1, (3,)), spaces.Discrete(2))


class Clock:
    """Stands still unless somebody in the test takes time."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def perf_counter(self):
        return 7.0 + self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


class FakeLog:
    """As long as the rows that were written; what was cut is gone."""

    def __init__(self):
        self.rows, self.rewound, self.closed, self.full = [], [], 0, False

    def write(self, *row):
        self.rows.append(row)

    @property
    def offset(self):
        if self.full:
            raise OSError("the disk is full")
        return 10 * len(self.rows)

    def rewind(self, offset):
        self.rewound.append(offset)
        del self.rows[offset // 10 :]

    def close(self):
        self.closed += 1


class Harness:
    """A trainer among fakes; everything that it asks of them is kept, in order, in `told`.

    Segment `k` (from 0) brings `episodes(k)`, update `k` (from 1) takes `seconds(k)`, evaluation
    `k` (from 1) gives the mean `means(k)` and takes `evaluation_seconds`. The watcher, where there
    is to be one, stops after step `watch_until` of the environments.
    """

    def __init__(
        self,
        clock,
        total=6 * N,
        log_interval=1,
        evaluate_every=None,
        save_every=None,
        save_every_seconds=None,
        episodes=lambda k: [],
        seconds=lambda k: 0.0,
        means=None,
        evaluation_seconds=0.0,
        failing=(),
        watch_until=None,
    ):
        self.clock, self.told, self.failing, self.exact = clock, [], failing, True
        self.episodes, self.seconds, self.means = episodes, seconds, means
        self.evaluation_seconds = evaluation_seconds
        self.segments, self.in_hand, self.learnt, self.evaluations = 0, 0, 0, 0
        self.memory, self.state = object(), {}
        self.stop, self.stop_after = StopRequest(), None
        self.metrics, self.episode_rows, self.evaluation_rows = FakeLog(), FakeLog(), FakeLog()
        self.viewed, self.shown = [], []
        collector = SimpleNamespace(
            n_steps=STEPS,
            envs=SimpleNamespace(n_envs=ENVS, interface=INTERFACE),
            collect=self.collect,
            reset=lambda: self.told.append(("reset",)),
            state_dict=lambda: {"segments": self.segments, "in_hand": self.in_hand},
            load_state_dict=self.load_collector,
        )
        self.watch_until = watch_until
        self.trainer = Trainer(
            Training(self, collector),
            total_timesteps=total,
            log_interval=log_interval,
            evaluate=self.evaluate if means else None,
            evaluate_every=evaluate_every,
            save_every=save_every,
            save_every_seconds=save_every_seconds,
            checkpointer=self,
            metrics_log=self.metrics,
            episode_log=self.episode_rows,
            evaluation_log=self.evaluation_rows,
            stop=self.stop,
            watcher=None if watch_until is None else Watching(self),
        )

    def run(self):
        screen = SimpleNamespace(
            update=lambda *row: self.shown.append((*row[:2], dict(row[2]), *row[3:])),
            evaluation=lambda *row: self.shown.append(("evaluation", *row)),
        )
        view = SimpleNamespace(write=lambda *row: self.viewed.append(row))
        return self.trainer.run(screen, [view])

    def kept(self, kind):
        return [row for what, *row in self.told if what == kind]

    # As the algorithm and the collector:

    def act(self, observations, rng):
        raise AssertionError

    def collect(self, act, on_step):
        assert act == self.act
        ended = self.episodes(self.segments)
        assert all(step in range(ENVS, N + 1, ENVS) for step, _ in ended)
        while self.in_hand < STEPS:
            self.in_hand += 1
            now = [episode for step, episode in ended if step == self.in_hand * ENVS]
            if not on_step(SimpleNamespace(episodes=now)):
                return None
        self.rollout = SimpleNamespace(rewards=torch.zeros(STEPS, ENVS))
        self.segments, self.in_hand = self.segments + 1, 0
        return self.rollout

    def update(self, rollout, progress, log, closely):
        assert rollout is self.rollout
        self.learnt += 1
        self.told.append(("update", progress, log))
        self.clock.now += self.seconds(self.learnt)
        if self.learnt == self.stop_after:
            self.stop.signal = 15
        return {"loss/q": self.learnt / 4} if log else {}

    def state_dict(self):
        return {"learnt": self.learnt}

    def load_state_dict(self, state):
        self.learnt = state["learnt"]

    def load_collector(self, state):
        self.segments, self.in_hand = state["segments"], state["in_hand"]
        return self.exact

    # As the evaluation and the checkpointer:

    def evaluate(self):
        self.evaluations += 1
        self.told.append(("evaluation", self.trainer.step))
        self.clock.now += self.evaluation_seconds
        mean = self.means(self.evaluations)
        if mean is None:
            return None
        return Evaluation([mean - 1.0, mean + 1.0], [3, 5], deterministic=False)

    def save(self, step, state, memory, *, best, meta):
        assert memory is self.memory
        self.told.append(("save", step, best))
        if len(self.kept("save")) in self.failing:
            raise OSError("injected")
        self.state = state


class Watching:
    """The watcher of a harness."""

    def __init__(self, harness):
        self.harness = harness

    def rollout_start(self):
        pass

    def step(self, step):
        return self.harness.trainer.step < self.harness.watch_until

    def rollout_end(self):
        pass


def two_episodes(k):
    """Returns count up from 0, lengths from 50; they end at steps 4 and 10 of the segment."""
    return [
        Ended(4, Episode(1, 2.0 * k, 50 + 2 * k)),
        Ended(10, Episode(0, 2.0 * k + 1, 51 + 2 * k)),
    ]


@pytest.mark.parametrize("total", [N, 6 * N, 6 * N - 1, 5 * N + 1, 3])
def test_the_progress_of_every_update_until_the_steps_are_done(clock, total):
    run = Harness(clock, total)
    assert run.run() is True
    updates = -(-total // N)
    assert [progress for progress, _ in run.kept("update")] == [
        min(1.0, (k + 1) * N / total) for k in range(updates)
    ]
    assert (run.trainer.step, run.trainer.training.updates) == (updates * N, updates)


@pytest.mark.parametrize("log_interval", [1, 2, 3, 9])
def test_every_so_many_updates_metrics_are_asked_for_and_logged(clock, log_interval):
    run = Harness(clock, 7 * N, log_interval)
    run.run()
    logged = [k for k in range(1, 8) if k % log_interval == 0]
    assert [k for k, (_, log) in enumerate(run.kept("update"), 1) if log] == logged
    assert [step for step, _ in run.metrics.rows] == [k * N for k in logged]
    assert [row["loss/q"] for _, row in run.metrics.rows] == [k / 4 for k in logged]
    assert run.viewed == run.metrics.rows
    # The screen moves at each update, and keeps the last known metrics.
    assert [step for step, *_ in run.shown] == [k * N for k in range(1, 8)]
    known = [max((m for m in logged if m <= k), default=None) for k in range(1, 8)]
    assert [row[2].get("loss/q") for row in run.shown] == [k and k / 4 for k in known]


def test_a_logged_row(clock):
    run = Harness(clock, N, episodes=two_episodes, seconds=lambda k: 3.5)
    run.run()
    assert run.metrics.rows == [
        (
            N,
            {
                "train/episodes": 2,
                "train/return_mean": 0.5,
                "train/length_mean": 50.5,
                "loss/q": 0.25,
                "time/seconds": 3.5,
                "time/steps_per_second": 0.0,
            },
        )
    ]


def test_no_mean_of_the_returns_before_the_first_episode_has_ended(clock):
    run = Harness(clock, 2 * N, episodes=lambda k: two_episodes(k) if k else [])
    run.run()
    (_, before), (_, after) = run.metrics.rows
    assert "train/return_mean" not in before
    assert "train/length_mean" not in before
    assert before["train/episodes"] == 0
    assert (after["train/return_mean"], after["train/length_mean"]) == (2.5, 52.5)
    assert [row[3:] for row in run.shown] == [(None, None), (2.5, 52.5)]
    assert run.trainer.result()["train_return_last100"] == 2.5


def test_the_returns_are_averaged_over_the_last_hundred_episodes(clock):
    run = Harness(clock, 60 * N, episodes=two_episodes)
    run.run()
    rows = [row for _, row in run.metrics.rows]
    assert rows[49]["train/return_mean"] == sum(range(100)) / 100
    assert rows[50]["train/return_mean"] == sum(range(2, 102)) / 100
    assert rows[59]["train/return_mean"] == sum(range(20, 120)) / 100
    assert rows[59]["train/length_mean"] == 50 + sum(range(20, 120)) / 100
    assert rows[59]["train/episodes"] == 120
    assert run.trainer.result()["train_return_last100"] == sum(range(20, 120)) / 100


def test_episodes_are_written_with_the_step_at_which_they_ended(clock):
    run = Harness(clock, 2 * N, log_interval=9, episodes=two_episodes, seconds=lambda k: 2.5)
    run.run()
    assert run.episode_rows.rows == [
        (4, 1, 0.0, 50, 0.0),
        (10, 0, 1.0, 51, 0.0),
        (14, 1, 2.0, 52, 2.5),
        (20, 0, 3.0, 53, 2.5),
    ]


@pytest.mark.parametrize(
    ("total", "every", "steps"),
    [
        (60, 20, [20, 40, 60]),
        (50, 20, [20, 40, 50]),
        (55, 20, [20, 40, 60]),
        (60, 25, [30, 50, 60]),
        (30, 4, [10, 20, 30]),
        (60, 600, [60]),
        (60, None, [60]),
    ],
)
def test_evaluations_are_due_at_multiples_and_once_at_the_end(clock, total, every, steps):
    run = Harness(clock, total, evaluate_every=every, means=float)
    assert run.run() is True
    assert run.kept("evaluation") == [[step] for step in steps]
    rows = [{"return_mean": k, "return_std": 1.0, "episodes": 2} for k in range(1, len(steps) + 1)]
    assert run.evaluation_rows.rows == list(zip(steps, rows, strict=True))
    shown = [row[1:] for row in run.shown if row[0] == "evaluation"]
    assert shown == [(step, float(k), 1.0, 2) for k, step in enumerate(steps, 1)]
    viewed = [(step, row) for step, row in run.viewed if "eval/return_mean" in row]
    assert viewed == [
        (step, {"eval/return_mean": k, "eval/return_std": 1.0}) for k, step in enumerate(steps, 1)
    ]
    result = run.trainer.result()["eval"]
    assert (result["step"], result["return_mean"]) == (steps[-1], len(steps))
    # A finished run that is begun again has nothing left to do.
    assert run.run() is True
    assert len(run.kept("evaluation")) == len(steps)


def test_without_evaluations(clock):
    run = Harness(clock, 60, evaluate_every=20)
    assert run.run() is True
    assert run.kept("evaluation") == run.evaluation_rows.rows == []
    assert run.trainer.result()["eval"] is None


def test_only_a_better_evaluation_is_marked_as_the_best(clock):
    means = [-5.0, 3.0, 2.0, 3.0, 4.0, 1.0]
    run = Harness(clock, 60, evaluate_every=10, means=lambda k: means[k - 1])
    run.run()
    assert [step for step, best in run.kept("save") if best] == [10, 20, 50]
    assert run.kept("save")[-1] == [60, False]
    assert run.state["run"]["best_return"] == 4.0


def test_a_checkpoint_marked_as_the_best_knows_its_evaluation(clock):
    run = Harness(clock, 60, evaluate_every=20, means=lambda k: -k)
    states = []
    keep = run.save

    def save(*args, **kwargs):
        keep(*args, **kwargs)
        states.append(run.state)

    run.save = save
    run.run()
    marked = states[0]["run"]
    assert states[0]["training"]["step"] == 20
    assert (marked["evaluated_at"], marked["best_return"]) == (20, -1.0)
    assert marked["last_evaluation"]["return_mean"] == -1.0
    assert marked["logs"] == {"metrics": 20, "episodes": 0, "evaluations": 10}


def test_a_mark_that_could_not_be_saved_goes_to_the_next_best(clock, caplog):
    """Otherwise nothing would be marked until an evaluation beats one that left no checkpoint."""
    means = [1.0, 5.0, 3.0, 2.0]
    run = Harness(clock, 40, evaluate_every=10, means=lambda k: means[k - 1], failing=[2])
    assert run.run() is True
    assert run.kept("save") == [[10, True], [20, True], [30, True], [40, False]]
    assert run.state["run"]["best_return"] == 3.0
    assert "no checkpoint at step 20" in caplog.text


@pytest.mark.parametrize(("due", "learnt"), [(20, 2), (60, 6)])
def test_a_stopped_evaluation_stays_due(clock, due, learnt):
    """The resumed run plays it, before it learns any more."""
    run = Harness(clock, 60, evaluate_every=due, means=lambda k: None)
    run.stop_after = learnt
    assert run.run() is False
    assert run.kept("evaluation") == [[due]]
    assert run.kept("save") == [[due, False]]
    assert run.evaluation_rows.rows == []
    assert run.trainer.result()["eval"] is None

    resumed = Harness(clock, 60, evaluate_every=due, means=float)
    resumed.trainer.load_state_dict(run.state)
    assert resumed.run() is True
    assert resumed.told[0] == ("evaluation", due)
    assert resumed.kept("evaluation") == [[step] for step in range(due, 61, due)]
    assert len(resumed.kept("update")) == 6 - learnt


def test_a_checkpoint_that_is_wanted_is_saved_and_the_training_goes_on(clock):
    run = Harness(clock, total=4 * N)
    run.seconds = lambda k: setattr(run.stop, "save", k == 2) or 0.0
    assert run.run() is True
    assert run.kept("save") == [[2 * N, False], [4 * N, False]]
    assert run.learnt == 4
    assert not run.stop.save


def test_an_evaluation_that_was_broken_off_for_a_checkpoint_is_played_again(clock):
    run = Harness(clock, total=2 * N, means=lambda k: None if k == 1 else 7.0)
    played = run.trainer.evaluate

    def asked():
        run.stop.save = run.evaluations == 0
        return played()

    run.trainer.evaluate = asked
    assert run.run() is True
    told = [(what, *row) for what, *row in run.told if what != "update"]
    assert told[:3] == [("evaluation", 2 * N), ("save", 2 * N, False), ("evaluation", 2 * N)]
    assert [row[1]["return_mean"] for row in run.evaluation_rows.rows] == [7.0]


def test_a_stop_is_heard_between_updates_and_saves(clock):
    run = Harness(clock, 60, means=float)
    run.stop_after = 2
    assert run.run() is False
    assert run.told[2:] == [("save", 20, False)]


@pytest.mark.parametrize(
    ("every", "steps"),
    [(20, [20, 40, 60]), (25, [30, 50, 60]), (1, [10, 20, 30, 40, 50, 60]), (None, [60])],
)
def test_checkpoints_by_steps(clock, every, steps):
    run = Harness(clock, 60, save_every=every)
    run.run()
    assert run.kept("save") == [[step, False] for step in steps]
    assert run.state["training"]["step"] == 60


def test_checkpoints_by_time(clock):
    """Of the process, counted from the last checkpoint; 30 seconds an update."""
    run = Harness(clock, 100, save_every_seconds=70.0, seconds=lambda k: 30.0)
    run.run()
    assert run.kept("save") == [[30, False], [60, False], [90, False], [100, False]]


def test_a_checkpoint_counts_for_both_intervals_and_a_best_one_counts_too(clock):
    run = Harness(
        clock, 100, save_every=50, save_every_seconds=70.0, seconds=lambda k: 30.0,
        evaluate_every=20, means=lambda k: -k,
    )  # fmt: skip
    run.run()
    saves = [[20, True], [50, False], [80, False], [100, False]]
    assert run.kept("save") == saves


@pytest.mark.parametrize("interval", ["steps", "time"])
def test_training_goes_on_when_a_checkpoint_fails(clock, caplog, interval):
    """And the next is tried when it is due, not at every update."""
    intervals = {"save_every": 20} if interval == "steps" else {"save_every_seconds": 60.0}
    run = Harness(clock, 70, seconds=lambda k: 30.0, failing=[1], **intervals)
    with caplog.at_level(logging.WARNING):
        assert run.run() is True
    assert run.kept("save") == [[20, False], [40, False], [60, False], [70, False]]
    assert [record.getMessage() for record in caplog.records] == [
        "no checkpoint at step 20, will retry: injected"
    ]


def test_training_goes_on_when_a_log_cannot_be_promised(clock, caplog):
    """The offset of a log is asked for on the way to a checkpoint."""
    run = Harness(clock, 40, save_every=20)
    run.episode_rows.full = True
    with pytest.raises(NotSavedError, match="the disk is full"):
        run.run()
    assert "no checkpoint at step 20" in caplog.text
    assert run.trainer.step == 40


def test_the_last_checkpoint_must_be_written(clock):
    run = Harness(clock, 20, failing=[1])
    with pytest.raises(NotSavedError, match="injected"):
        run.run()
    run = Harness(clock, 60, failing=[1])
    run.stop_after = 2
    with pytest.raises(NotSavedError, match="injected"):
        run.run()


def test_other_failures_of_saving_are_not_taken_for_a_full_disk(clock):
    run = Harness(clock, 60, save_every=20)
    run.save = lambda *_, **__: (_ for _ in ()).throw(ValueError("a defect"))
    with pytest.raises(ValueError, match="a defect"):
        run.run()
    assert run.trainer.step == 20


def test_a_broken_update_leaves_the_last_checkpoint_alone(clock):
    def broken(rollout, progress, log, closely):
        if run.trainer.step == 40:
            raise NonFiniteUpdate("injected")
        return {}

    run = Harness(clock, 60, save_every=20)
    run.update = broken
    with pytest.raises(NonFiniteUpdate):
        run.run()
    assert run.kept("save") == [[20, False]]


def test_the_speed_leaves_out_the_first_updates_and_the_evaluations(clock):
    run = Harness(
        clock,
        6 * N,
        seconds=lambda k: 100.0 if k <= 2 else 2.0,
        evaluate_every=3 * N,
        means=float,
        evaluation_seconds=1000.0,
    )
    run.run()
    assert run.trainer.steps_per_second == N / 2.0
    assert run.trainer.result()["steps_per_second"] == N / 2.0
    logged = [row["time/steps_per_second"] for _, row in run.metrics.rows]
    assert logged == [0.0, 0.0, 0.0, 5.0, 5.0, 5.0]
    # The time of the run leaves nothing out.
    seconds = [row["time/seconds"] for _, row in run.metrics.rows]
    assert seconds == [100.0, 200.0, 202.0, 1204.0, 1206.0, 1208.0]
    assert run.trainer.seconds == 2208.0

    resumed = Harness(clock, 9 * N, seconds=lambda k: 500.0 if k <= 8 else 6.0)
    resumed.trainer.load_state_dict(run.state)
    resumed.run()  # two slow updates of its own, and one that counts
    assert resumed.trainer.steps_per_second == 5 * N / 14.0


def test_checkpoints_belong_to_the_speed(clock):
    run = Harness(clock, 6 * N, seconds=lambda k: 2.0, save_every=4 * N)
    keep = run.save

    def save(*args, **kwargs):
        clock.now += 12.0
        keep(*args, **kwargs)

    run.save = save
    run.run()  # the one at the end is none of the loop
    assert run.trainer.steps_per_second == 4 * N / 20.0


def test_a_new_run_begins_the_episodes_and_the_logs(clock):
    run = Harness(clock)
    run.metrics.write(1, {"left by": "a run before"})
    run.trainer.begin()
    assert run.told == [("reset",)]
    assert run.metrics.rewound == run.episode_rows.rewound == run.evaluation_rows.rewound == [0]


SETTINGS = {
    "total": 12 * N,
    "log_interval": 2,
    "evaluate_every": 3 * N,
    "episodes": lambda k: two_episodes(k) * 12,
    "seconds": lambda k: 2.0 + k,
    "evaluation_seconds": 50.0,
}


def test_a_resumed_training_tells_what_an_uninterrupted_one_would(clock):
    def means(k):
        return [4.0, 1.0, 5.0, 2.0][k - 1]

    whole = Harness(clock, means=means, **SETTINGS)
    whole.run()
    first = Harness(clock, means=means, **SETTINGS)
    first.stop_after = 7
    first.run()

    resumed = Harness(clock, means=lambda k: means(k + 2), **SETTINGS)
    lengths = {}
    for name in ("metrics", "episode_rows", "evaluation_rows"):
        kept = getattr(first, name).rows
        lengths[name] = 10 * len(kept)
        # A crash left rows that no checkpoint knows of.
        getattr(resumed, name).rows = [*kept, ("later", 1), ("later", 2)]
    resumed.told = first.told[:-1]
    clock.now += 9999.0  # between the two processes
    assert resumed.trainer.load_state_dict(first.state) is True
    assert all(getattr(resumed, name).rewound == [length] for name, length in lengths.items())
    assert resumed.run() is True
    assert resumed.told == whole.told
    assert [step for step, best in resumed.kept("save") if best] == [30, 90]
    assert resumed.episode_rows.rows == whole.episode_rows.rows
    assert resumed.evaluation_rows.rows == whole.evaluation_rows.rows
    for (step, row), (same, other) in zip(resumed.metrics.rows, whole.metrics.rows, strict=True):
        speed = "time/steps_per_second"  # each process leaves out updates of its own
        assert step == same
        assert {k: v for k, v in row.items() if k != speed} == {
            k: v for k, v in other.items() if k != speed
        }


def test_a_checkpoint_of_a_restored_training_is_the_same(clock):
    run = Harness(clock, means=float, **SETTINGS)
    run.stop_after = 7
    run.run()
    kept, counted = run.state["run"], run.state["training"]
    # Else it could not be told from that of a new training:
    assert all(kept.values())
    assert all(value for name, value in counted.items() if name != "recorded")
    assert len(counted["returns"]) == len(counted["lengths"]) == 100
    for log in ("metrics", "episodes", "evaluations"):
        assert kept["logs"][log]

    resumed = Harness(clock, means=float, **SETTINGS)
    for name in ("metrics", "episode_rows", "evaluation_rows"):
        getattr(resumed, name).rows = list(getattr(run, name).rows)
    resumed.trainer.training.returns.extend([1.0] * 7)  # replaced, not added to
    resumed.trainer.training.lengths.extend([1] * 7)
    resumed.trainer.load_state_dict(run.state)
    resumed.stop.signal = 15
    clock.now += 123.0
    assert resumed.run() is False
    assert resumed.kept("save") == [[70, False]]
    assert resumed.state == run.state


def test_a_state_does_not_change_as_the_training_goes_on(clock):
    run = Harness(clock, 4 * N, episodes=two_episodes, save_every=2 * N)
    states = []
    run.save = lambda step, state, memory, **_: states.append(state)
    run.run()
    assert states[0]["training"]["returns"] == [0.0, 1.0, 2.0, 3.0]
    assert states[0]["training"]["lengths"] == [50, 51, 52, 53]


def test_environments_that_could_not_be_replayed_are_told(clock):
    run = Harness(clock)
    run.run()
    resumed = Harness(clock)
    resumed.exact = False
    assert resumed.trainer.load_state_dict(run.state) is False
    assert resumed.trainer.step == 6 * N


def test_closing_closes_the_logs(clock):
    run = Harness(clock)
    run.trainer.close()
    assert [log.closed for log in (run.metrics, run.episode_rows, run.evaluation_rows)] == [1] * 3


# A watcher that stops, and states of a model without a folder.


@pytest.mark.parametrize("until", [2, 32, 36, 40, 42, 12 * N])
def test_a_watcher_that_stops_ends_the_run_as_finished(clock, until):
    """In the middle of a segment, in its last step, and in the last one of all."""
    run = Harness(clock, 12 * N, evaluate_every=3 * N, means=float, watch_until=until)
    assert run.run() is True
    assert run.trainer.step == until
    learnt = (until - 1) // N
    assert len(run.kept("update")) == run.trainer.training.updates == learnt
    evaluated = [step for step in range(3 * N, until, 3 * N) if step <= learnt * N]
    assert run.kept("evaluation") == [[step] for step in [*evaluated, until]]
    assert run.kept("save")[-1] == [until, False]
    assert run.told[-1] == ("save", until, False)
    result = run.trainer.result()
    assert (result["step"], result["total_timesteps"]) == (until, 12 * N)
    assert result["eval"]["step"] == until


def test_a_watcher_that_stops_where_nothing_is_evaluated(clock):
    run = Harness(clock, watch_until=14)
    assert run.run() is True
    assert run.told == [("update", 1 / 6, True), ("save", 14, False)]
    assert run.trainer.result()["eval"] is None


def test_a_stopped_evaluation_after_a_watcher_stays_due(clock):
    run = Harness(clock, means=lambda k: None, watch_until=14)
    assert run.run() is False
    assert run.kept("save") == [[14, False]]


@pytest.mark.parametrize("until", [2, 32, 34, 40])
def test_after_a_watcher_a_run_goes_on_where_it_was(clock, until):
    settings = {"episodes": two_episodes, "evaluate_every": 3 * N, "means": float}
    whole = Harness(clock, 12 * N, **settings)
    whole.run()
    first = Harness(clock, 6 * N, watch_until=until, **settings)
    assert first.run() is True

    resumed = Harness(clock, 12 * N, **settings)
    for name in ("metrics", "episode_rows", "evaluation_rows"):
        getattr(resumed, name).rows = list(getattr(first, name).rows)
    assert resumed.trainer.load_state_dict(first.state) is True
    assert resumed.run() is True
    assert resumed.trainer.step == 12 * N
    updates = len(first.kept("update")) + len(resumed.kept("update"))
    assert updates == resumed.trainer.training.updates == 12
    assert resumed.kept("update") == whole.kept("update")[len(first.kept("update")) :]
    assert resumed.episode_rows.rows == whole.episode_rows.rows  # none twice, none left out
    steps = [step for step, _ in resumed.evaluation_rows.rows]
    assert steps == sorted({until, *(step for step, _ in whole.evaluation_rows.rows)})
    assert resumed.kept("save")[-1] == [12 * N, False]


def test_a_watcher_sees_every_step_in_order(clock):
    run = Harness(clock, 3 * N, watch_until=10**9)
    seen = []
    watcher = run.trainer.watcher
    watcher.rollout_start = lambda: seen.append("start")
    watcher.step = lambda step: seen.append(run.trainer.step) or True
    watcher.rollout_end = lambda: seen.append("end")
    assert run.run() is True
    steps = [list(range(k * N + ENVS, (k + 1) * N + 1, ENVS)) for k in range(3)]
    assert seen == [each for k in range(3) for each in ("start", *steps[k], "end")]


def test_the_state_of_a_model_without_a_folder_is_taken_over(clock):
    """It has no logs, and was neither evaluated nor timed."""
    run = Harness(clock, means=float, **SETTINGS)
    run.stop_after = 7
    run.run()
    state = {name: part for name, part in run.state.items() if name != "run"}
    assert list(state) == ["interface", "algorithm", "collector", "training"]
    resumed = Harness(clock, means=float, **SETTINGS)
    resumed.metrics.write(1, {"left by": "a run before"})
    assert resumed.trainer.load_state_dict(state) is True
    assert resumed.metrics.rewound == resumed.episode_rows.rewound == [0]
    assert resumed.evaluation_rows.rewound == [0]
    trainer = resumed.trainer
    assert (trainer.step, trainer.training.updates) == (70, 7)
    assert trainer.best_return == float("-inf")
    assert (trainer.last_evaluation, trainer.seconds_before, trainer.timed_steps) == (None, 0.0, 0)
    assert resumed.run() is True
    assert len(resumed.kept("update")) == 5
    assert resumed.kept("evaluation")[-1] == [12 * N]


def test_episodes_before_a_broken_update_are_in_the_log(clock):
    """What they show may be why it broke."""

    def broken(rollout, progress, log, closely):
        raise NonFiniteUpdate("injected")

    run = Harness(clock, episodes=two_episodes)
    run.update = broken
    with pytest.raises(NonFiniteUpdate):
        run.run()
    assert [row[:4] for row in run.episode_rows.rows] == [(4, 1, 0.0, 50), (10, 0, 1.0, 51)]
