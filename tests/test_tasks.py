"""The tasks are what their docstrings say: sound, repeatable, and of the scores they promise."""

import itertools

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence

from tests.tasks import Bits, Every, Locks

KINDS = list(itertools.product(Every.OBSERVATIONS, Every.ACTIONS))
TASKS = [
    ("CartPoleNoVelocity", {}),
    ("Recall", {}),
    ("Recall", {"delay": 0, "n_cues": 2}),
    ("Locks", {}),
    ("Locks", {"sizes": [2, 6]}),
    ("Bits", {}),
    ("Bits", {"n": 3}),
    *(("Every", {"observation": observation, "action": action}) for observation, action in KINDS),
]
every_task = pytest.mark.parametrize(("name", "kwargs"), TASKS)


def make(name, **kwargs):
    return gymnasium.make(f"tests.tasks:{name}-v0", **kwargs)


def play(env, policy, seed=None):
    """One episode of `policy`, a function of the observation: its return and all it showed."""
    obs, _ = env.reset(seed=seed)
    total, shown, over = 0.0, [obs], False
    while not over:
        obs, reward, terminated, truncated, _ = env.step(policy(obs))
        total += reward
        shown.append((obs, reward, terminated, truncated))
        over = terminated or truncated
    return total, shown


@pytest.mark.filterwarnings("ignore:.*A Box action space m")  # one is unbounded
@pytest.mark.filterwarnings("ignore:.*symmetric and normalized")
@every_task
def test_conforms(name, kwargs):
    check_env(make(name, **kwargs).unwrapped, skip_render_check=True)


@every_task
def test_is_repeatable(name, kwargs):
    """Whatever was played before."""
    shown = []
    for order in ((1, 2), (2, 1)):
        env = make(name, **kwargs)
        episodes = {}
        for seed in order:
            env.action_space.seed(seed)
            episodes[seed] = play(env, lambda _, env=env: env.action_space.sample(), seed)
        shown.append(episodes)
    assert data_equivalence(shown[0], shown[1], exact=True)
    assert not data_equivalence(shown[0][1], shown[0][2])


@every_task
def test_runs_as_a_vector(name, kwargs):
    envs = gymnasium.make_vec(f"tests.tasks:{name}-v0", 3, vectorization_mode="sync", **kwargs)
    envs.reset(seed=1)
    envs.action_space.seed(1)
    for _ in range(20):
        obs, *_ = envs.step(envs.action_space.sample())
        assert obs in envs.observation_space


def test_cartpole_without_velocity_is_cartpole():
    env, whole = make("CartPoleNoVelocity"), gymnasium.make("CartPole-v1")
    assert env.spec.max_episode_steps == whole.spec.max_episode_steps == 500
    obs, _ = env.reset(seed=3)
    seen, _ = whole.reset(seed=3)
    over = False
    while not over:
        assert obs.shape == (2,)
        np.testing.assert_array_equal(obs, seen[[0, 2]])
        action = int(seen[2] + seen[3] > 0)
        obs, *rest = env.step(action)
        seen, *expected = whole.step(action)
        assert rest == expected
        over = rest[1] or rest[2]


class Memory:
    """Names the cue that it has seen."""

    def __call__(self, obs):
        if obs[:-2].any():
            self.cue = np.argmax(obs[:-2])
        return self.cue


@pytest.mark.parametrize(("delay", "n_cues"), [(10, 4), (0, 2), (3, 5)])
def test_recall(delay, n_cues):
    env = make("Recall", delay=delay, n_cues=n_cues)
    cues = []
    for seed in range(30):
        total, (first, *later) = play(env, Memory(), seed)
        assert total == 1
        assert [reward for _, reward, _, _ in later] == [0] * (delay + 1) + [1]
        assert [terminated for _, _, terminated, _ in later] == [False] * (delay + 1) + [True]
        cues.append(first[:-2])
        blanks = np.array([obs for obs, *_ in later])
        assert not blanks[:, :-2].any()
        assert blanks[:, -2].tolist() == [0] * delay + [1, 0]
        assert len(set(blanks[:, -1])) == delay + 2
    assert (np.sum(cues, 0) > 0).all()
    assert (np.sum(cues, 1) == 1).all()


@pytest.mark.parametrize("n_cues", [2, 4])
def test_recall_without_memory(n_cues):
    """Whatever is answered, over all cues it is right once."""
    env = make("Recall", delay=1, n_cues=n_cues)
    scores = {}
    for seed in range(30):
        for answer in range(n_cues):
            total, ((*cue, _, _), *_) = play(env, lambda _, answer=answer: answer, seed)
            scores[answer, int(np.argmax(cue))] = total
    for answer in range(n_cues):
        mean = np.mean([scores[answer, cue] for cue in range(n_cues)])
        assert mean == pytest.approx(2 / n_cues - 1)


@pytest.mark.parametrize("sizes", [(3, 4, 5), (2, 6), (2, 3, 4, 3)])
def test_locks(sizes):
    env = make("Locks", sizes=sizes)
    table = env.unwrapped.table
    assert table.shape == (Locks.CONTEXTS, *sizes)
    assert env.unwrapped.best == pytest.approx(20)
    for factor in range(1, 1 + len(sizes)):
        others = {*range(1, 1 + len(sizes))} - {factor}
        np.testing.assert_allclose(table.mean(tuple(others)), 0, atol=1e-12)

    def best(obs):
        return np.array(np.unravel_index(np.argmax(table[np.argmax(obs)]), sizes))

    total, shown = play(env, best, seed=0)
    assert total == pytest.approx(20)
    assert len(shown) == 21
    assert shown[-1][2:] == (False, True)


def test_locks_has_one_best_action_and_positions_to_be_stuck_in():
    table = Locks().table
    for rewards in table:
        stuck = []
        for action in itertools.product(*map(range, rewards.shape)):
            alone = [
                rewards[(*action[:dial], slice(None), *action[dial + 1 :])].max()
                for dial in range(rewards.ndim)
            ]
            if rewards[action] >= max(alone) - 1e-9:
                stuck.append(rewards[action])
        np.testing.assert_allclose(sorted(stuck), [0.45, 0.45, 0.74, 0.74, 1], atol=0.005)


def xor_to(bits, context):
    """The bits, from the first on, whose neighbours differ as the context says."""
    return np.concatenate([[bits], (bits + np.cumsum(context[:-1])) % 2]).astype(np.int8)


@pytest.mark.parametrize("n", [3, 6])
def test_bits(n):
    env = make("Bits", n=n)
    for first in range(2):
        total, shown = play(env, lambda obs, first=first: xor_to(first, obs), seed=first)
        assert total == Bits.STEPS
        assert len(shown) == Bits.STEPS + 1
        assert shown[-1][2:] == (False, True)
        contexts = np.array([shown[0], *(obs for obs, *_ in shown[1:])])
        assert not (contexts.sum(1) % 2).any()
        assert len({tuple(context) for context in contexts}) > n // 2


def test_one_bit_alone_says_nothing():
    env = make("Bits").unwrapped
    actions = list(itertools.product(range(2), repeat=6))
    rewards = np.zeros((2,) * 6)
    for seed in range(5):
        for action in actions:
            env.reset(seed=seed)
            _, rewards[action], *_ = env.step(np.array(action, np.int8))
        assert rewards.max() == 1
        assert (rewards == 1).sum() == 2
        for bit in range(6):
            assert rewards.mean(tuple({*range(6)} - {bit})) == pytest.approx(0.5)


def test_every_ends_in_both_ways():
    ends = []
    env = make("Every")
    for seed in range(100):
        _, shown = play(env, lambda _: np.int64(3), seed)
        *_, terminated, truncated = shown[-1]
        ends.append((len(shown) - 1, terminated, truncated))
    assert set(ends) == {(7, True, False), (5, False, True)}
    assert 30 <= sum(truncated for *_, truncated in ends) <= 70


@pytest.mark.parametrize(("observation", "action"), KINDS)
def test_every_shows_which_action_was_taken_first(observation, action):
    env = make("Every", observation=observation, action=action)
    env.action_space.seed(0)
    different = seen = 0
    for seed in range(20):
        actions = [env.action_space.sample() for _ in range(Every.STEPS)]
        other = env.action_space.sample()
        if np.array_equal(actions[0], other):
            continue
        shown = []
        for first in (actions[0], other):
            later = iter([first, *actions[1:]])
            shown.append(play(env, lambda _, later=later: next(later), seed)[1])
        assert not data_equivalence(*shown)
        different += 1
        seen += not data_equivalence(*([step[0] for step in steps[1:]] for steps in shown))
    assert different >= 10
    assert seen >= different - (action in ("box", "bounded_box"))  # those may be close


def test_every_pushes_differently_for_each_discrete_action():
    for kind in ("discrete", "multidiscrete", "multibinary"):
        space = Every.ACTIONS[kind]
        actions = {tuple(np.ravel(space.sample()).tolist()) for _ in range(300)}
        assert len(actions) == {"discrete": 4, "multidiscrete": 6, "multibinary": 8}[kind]
        phases = np.sort([np.dot(action, Every.WEIGHTS[: len(action)]) % 1 for action in actions])
        assert np.diff([*phases, phases[0] + 1]).min() > 0.05


def test_every_best_and_random():
    env = make("Every", action="box")

    def best(obs):
        return np.array([np.arctan2(obs[1], obs[0]) / Every.WEIGHTS[0], 0], np.float32)

    for seed in range(5):
        total, shown = play(env, best, seed)
        assert total == pytest.approx(len(shown) - 1)
    for action in Every.ACTIONS:
        env = make("Every", action=action)
        env.action_space.seed(0)
        totals = [play(env, lambda _, env=env: env.action_space.sample(), s)[0] for s in range(300)]
        assert abs(np.mean(totals)) < 0.5
