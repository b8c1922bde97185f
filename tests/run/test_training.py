"""A training: what it counts, whom it tells, and that stopping it in a segment changes nothing."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlrun import config
from rlrun.build import assemble
from rlrun.envs import Interface
from rlrun.run.checkpoint import Checkpointer
from rlrun.run.training import WINDOW, Ended, Training, interface_of, interface_state

ENVS, STEPS, TOTAL = 3, 5, 600
N = ENVS * STEPS
COMMON = [
    "experiment=none",
    "env.kwargs={max_episode_steps: 12}",
    f"env.n_envs={ENVS}",
    f"algo.n_steps={STEPS}",
    "policy.hidden=[8]",
    "threads=1",
]
ALGORITHMS = {
    "acer": ["algo=acer", "algo.buffer_size=60", "algo.replay_start=15", "algo.replay_ratio=2"],
    "acer, memory": [
        *("algo=acer", "algo.buffer_size=60", "algo.replay_start=15", "~policy.hidden"),
        *("policy=lstm", "policy.lstm_size=4", "policy.before=[]", "algo.normalize_rewards=true"),
    ],
    "acktr": ["algo=acktr", "algo.cold_iter=2", "algo.normalize_rewards=true"],
    "a2c": ["algo=a2c", "env.normalize_observations=true"],
}


def training_of(algo="acer"):
    special = ALGORITHMS[algo]
    common = [
        word for word in COMMON if not (word.startswith("policy") and "policy=lstm" in special)
    ]
    words = [*common, *(word for word in special if not word.startswith("~"))]
    parts = assemble(config.check(config.compose(words)))
    return Training(parts.algorithm, parts.collector)


@pytest.fixture
def training():
    training = training_of()
    yield training
    training.collector.envs.close()


class Watch:
    """Notes what it is told; stops after the steps `stops` of the environments, from 1."""

    def __init__(self, training, stops=()):
        self.training, self.stops, self.told, self.steps = training, stops, [], []

    def rollout_start(self):
        self.told.append("start")

    def step(self, step):
        self.told.append("step")
        ended = [Ended(self.training.step, episode) for episode in step.episodes]
        self.steps.append((self.training.step, self.training.episodes, ended))
        return len(self.steps) not in self.stops

    def rollout_end(self):
        self.told.append("end")


def iterate(training, watcher=None, log_interval=1):
    rollout = training.collect(watcher)
    return None if rollout is None else training.learn(rollout, TOTAL, log_interval)


# Counting and telling.


def test_everybody_is_told_in_order(training, monkeypatch):
    watch = Watch(training)
    update = training.algorithm.update

    def told(*args):
        watch.told.append("update")
        return update(*args)

    monkeypatch.setattr(training.algorithm, "update", told)
    iterate(training, watch)
    iterate(training, watch)
    assert watch.told == ["start", *["step"] * STEPS, "end", "update"] * 2


def test_steps_are_counted_as_they_are_taken(training):
    watch = Watch(training)
    for k in range(1, 5):
        iterate(training, watch)
        assert (training.step, training.updates) == (k * N, k)
    assert [step for step, _, _ in watch.steps] == [ENVS * t for t in range(1, 4 * STEPS + 1)]


def test_episodes_are_counted_and_told_as_they_end(training):
    watch = Watch(training)
    told = []
    for _ in range(6):
        iterate(training, watch)
        told.append(list(training.ended))
    ended = [each for _, _, now in watch.steps for each in now]
    assert [each for segment in told for each in segment] == ended
    for k, segment in enumerate(told):
        assert all(k * N < step <= (k + 1) * N for step, _ in segment)
    assert len(ended) >= 6  # of at most 12 steps each, in 30 of each environment
    assert training.episodes == len(ended)
    assert watch.steps[-1][1] == len(ended)
    assert list(training.returns) == [episode.ret for _, episode in ended]
    assert list(training.lengths) == [episode.length for _, episode in ended]
    assert all(episode.ret == episode.length <= 12 for _, episode in ended)
    returns = [episode.ret for _, episode in ended]
    assert training.recent() == (pytest.approx(np.mean(returns)), pytest.approx(np.mean(returns)))


def test_only_the_last_episodes_are_averaged(training):
    training.returns.extend(range(150))
    training.lengths.extend(range(150))
    assert training.recent() == (50 + (WINDOW - 1) / 2, 50 + (WINDOW - 1) / 2)


def test_without_an_episode_there_is_no_mean(training):
    assert training.recent() == (None, None)
    metrics = iterate(training)
    assert metrics["train/episodes"] == training.episodes
    assert ("train/return_mean" in metrics) == bool(training.episodes)


def test_the_progress_is_that_after_the_segment(training, monkeypatch):
    progress = []
    update = training.algorithm.update
    monkeypatch.setattr(
        training.algorithm,
        "update",
        lambda rollout, done, *asked: progress.append(done) or update(rollout, done, *asked),
    )
    for total in (TOTAL, TOTAL, 1):
        training.learn(training.collect(), total, 1)
    assert progress == [N / TOTAL, 2 * N / TOTAL, 1.0]


@pytest.mark.parametrize(
    ("log_interval", "closely"),
    [(1, [10, 20, 30]), (4, [12, 24]), (10, [10, 20, 30]), (15, [15, 30])],
)
def test_rows_with_what_takes_time_are_ten_updates_apart(
    training, monkeypatch, log_interval, closely
):
    asked = []
    monkeypatch.setattr(
        training.algorithm, "update", lambda rollout, progress, *how: asked.append(how) or {}
    )
    for _ in range(30):
        training.learn(None, TOTAL, log_interval)
    updates = range(1, 31)
    assert [u for u in updates if asked[u - 1][0]] == list(updates)[
        log_interval - 1 :: log_interval
    ]
    assert [u for u in updates if all(asked[u - 1])] == closely


def test_what_a_watcher_records_goes_into_the_next_logged_row_once(training):
    class Recording(Watch):
        def rollout_end(self):
            self.training.recorded["mine/updates"] = float(self.training.updates)

    rows = [iterate(training, Recording(training), log_interval=3) for _ in range(3)]
    assert rows[:2] == [{}, {}]
    assert rows[2]["mine/updates"] == 2.0
    assert rows[2]["train/episodes"] == training.episodes
    plain = [iterate(training, None, log_interval=3) for _ in range(3)]
    assert plain[:2] == [{}, {}]
    assert "mine/updates" not in plain[2]
    assert plain[2].keys() == rows[2].keys() - {"mine/updates"}


def test_a_watcher_that_only_looks_changes_nothing(training):
    other = training_of()
    for _ in range(8):
        assert iterate(training, Watch(training)) == iterate(other)
    assert_same(tensors(training.state_dict()), tensors(other.state_dict()))
    other.collector.envs.close()


# Stopping.


def tensors(node, name=""):
    if isinstance(node, dict):
        node = {f"{name}.{key}": value for key, value in node.items()}
    elif isinstance(node, (list, tuple)):
        node = {f"{name}.{i}": value for i, value in enumerate(node)}
    else:
        return {name: node}
    return {
        key: found for path, value in node.items() for key, found in tensors(value, path).items()
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, (torch.Tensor, np.ndarray)):
            assert np.array_equal(torch.as_tensor(found[name]), torch.as_tensor(value)), name
        else:
            assert found[name] == value, name


UPDATES = 7


def trained(training, stops=(), between=lambda training: training):
    """Metrics of the updates, ended episodes, and all state, with stops after these steps."""
    watch = Watch(training, stops)
    rows, ended, stopped = [], [], 0
    while len(rows) < UPDATES:
        metrics = iterate(training, watch)
        ended += training.ended
        if metrics is None:
            stopped += 1
            assert training.step == ENVS * len(watch.steps)
            assert training.updates == len(rows)
            training = watch.training = between(training)
        else:
            rows.append({k: x for k, x in metrics.items() if not k.startswith("time/")})
    assert stopped == len(stops)
    state = tensors(training.state_dict())
    if training.algorithm.memory is not None:
        memory = training.algorithm.memory
        state |= tensors(memory.export(memory.first, memory.end), "memory")
        assert rows[-1]["replay/updates"] > 0 or any(row["replay/updates"] for row in rows)
    training.collector.envs.close()
    return rows, ended, state


@pytest.fixture(scope="module")
def undisturbed():
    return {algo: trained(training_of(algo)) for algo in ALGORITHMS}


def assert_as_undisturbed(found, expected):
    assert found[0] == expected[0]
    assert found[1] == expected[1]
    assert_same(found[2], expected[2])


STOPS = [*((STEPS * 3 + t,) for t in range(1, STEPS + 1)), range(1, UPDATES * STEPS + 1)]


@pytest.mark.parametrize("stops", STOPS, ids=str)
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_stopped_and_gone_on_equals_undisturbed(undisturbed, algo, stops):
    assert_as_undisturbed(trained(training_of(algo), stops), undisturbed[algo])


@pytest.mark.parametrize("stops", [*STOPS[:-1], (2, 9, 12, 13)], ids=str)
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_stopped_saved_and_loaded_equals_undisturbed(tmp_path, undisturbed, algo, stops):
    def reload(training):
        folder = tmp_path / str(training.step)
        memory = training.algorithm.memory
        path = Checkpointer(folder, keep=1).save(
            training.step, training.state_dict(), memory, meta={}
        )
        training.collector.envs.close()
        other = training_of(algo)
        state, _ = Checkpointer(folder, keep=1).load(path, other.algorithm.memory)
        assert other.load_state_dict(state) is True
        return other

    assert_as_undisturbed(trained(training_of(algo), stops, reload), undisturbed[algo])


def test_a_stopped_segment_was_not_learnt_from(training):
    before = copy.deepcopy(training.algorithm.state_dict())
    watch = Watch(training, stops=(2,))
    assert iterate(training, watch) is None
    assert watch.told == ["start", "step", "step"]
    assert (training.step, training.updates) == (2 * ENVS, 0)
    assert_same(tensors(training.algorithm.state_dict()), tensors(before))


def test_episodes_that_ended_before_a_stop_are_not_told_twice(training):
    told = 0
    for _ in range(36):  # a stop after each step; the sixth call has nothing left but to learn
        before = training.step
        learnt = iterate(training, Watch(training, stops=(1,)))
        assert training.step == before + (ENVS if learnt is None else 0)
        assert all(step == training.step for step, _ in training.ended)
        assert learnt is None or not training.ended
        told += len(training.ended)
    assert (training.updates, training.step) == (6, 6 * N)
    assert told == training.episodes >= 6


def test_steps_lost_to_somebody_else_still_count(training):
    """The environments have taken them."""
    iterate(training, Watch(training, stops=(2,)))
    training.collector.envs.reset()
    assert iterate(training) is not None
    assert training.step == 2 * ENVS + N
    assert training.updates == 1


# States.


def test_a_training_of_environments_that_cannot_be_replayed_says_so(training, monkeypatch):
    iterate(training)
    state = copy.deepcopy(training.state_dict())
    other = training_of()
    state["collector"]["envs"]["digest"] = "another"
    assert other.load_state_dict(state) is False
    assert (other.step, other.updates) == (N, 1)
    other.collector.envs.close()


def test_the_counters_alone(training):
    for _ in range(4):
        iterate(training)
    kept = copy.deepcopy(training.state_dict()["training"])
    other = training_of()
    other.load_counters(kept)
    assert other.state_dict()["training"] == kept
    assert other.recent() == training.recent()
    other.returns.append(1.0)
    assert other.state_dict()["training"] != kept
    assert other.returns.maxlen == other.lengths.maxlen == WINDOW
    other.collector.envs.close()


def test_a_state_is_of_the_parts_that_a_model_is_made_of(training):
    iterate(training)
    state = training.state_dict()
    assert list(state) == ["interface", "algorithm", "collector", "training"]
    assert interface_of(state["interface"]) == training.collector.envs.interface


INTERFACES = [
    Interface(3, spaces.Box(-1, 1, (4,)), spaces.Discrete(5, start=2)),
    Interface(16, spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(6), 4),
    Interface(
        1,
        spaces.Dict(a=spaces.Tuple([spaces.MultiBinary(3), spaces.Discrete(2)])),
        spaces.MultiDiscrete([2, 3]),
    ),
]


@pytest.mark.parametrize("interface", INTERFACES)
def test_an_interface_comes_back_from_the_disk(tmp_path, interface):
    state = {"interface": interface_state(interface)}
    path = Checkpointer(tmp_path, keep=1).save(0, state, None, meta={})
    state, _ = Checkpointer(tmp_path, keep=1).load(path, None)
    assert interface_of(state["interface"]) == interface


def broken(**changes):
    state = interface_state(INTERFACES[0]) | changes
    return {key: value for key, value in state.items() if value is not None}


@pytest.mark.parametrize(
    "state",
    [
        {},
        broken(n_envs=None),
        broken(frame_stack=None),
        broken(action_space=None),
        broken(observation_space={"Box": {}}),
        broken(action_space={"Nothing": 1}),
        broken(action_space="Discrete"),
    ],
)
def test_a_damaged_interface_is_refused(state):
    with pytest.raises(ValueError, match=r"\S"):
        interface_of(state)


def test_no_interface_is_needed_of_a_stub():
    """The training knows no algorithm: anything with these few methods is one."""
    learnt = []
    algorithm = SimpleNamespace(
        act=lambda observations, reset, state, rng: (torch.zeros(ENVS, dtype=torch.int64),) * 3,
        update=lambda rollout, *_: learnt.append(rollout) or {"loss/mine": 1.0},
    )
    envs = SimpleNamespace(n_envs=ENVS)
    step = SimpleNamespace(episodes=[])
    collector = SimpleNamespace(
        envs=envs, collect=lambda act, on_step: "a segment" if on_step(step) else None
    )
    training = Training(algorithm, collector)
    assert training.learn(training.collect(), 100, 1) == {"train/episodes": 0, "loss/mine": 1.0}
    assert learnt == ["a segment"]
