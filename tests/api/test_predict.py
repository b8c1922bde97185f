"""Asking a model for actions: batches, memories, all spaces; and that nothing changes by it."""

import functools
from concurrent.futures import ThreadPoolExecutor

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from whole import KINDS, every, fingerprint, make, scattered, seen, stack, weights

from tests.tasks import Every

CASES = [
    *((kind, "MlpPolicy", "vector", "discrete") for kind in KINDS),
    *((kind, "MlpLstmPolicy", "vector", "bounded_box") for kind in KINDS),
    *(("acer", "MlpPolicy", observation, "discrete") for observation in Every.OBSERVATIONS
      if observation not in ("vector", "image")),
    *(("acktr", "MlpPolicy", "tuple", action) for action in Every.ACTIONS),
    ("acer", "MlpPolicy", "dict", "multidiscrete"),
    ("acer", "CnnLnLstmPolicy", "dict", "multibinary"),
    ("a2c", "CnnPolicy", "image", "bounded_box"),
    ("a2c", "CnnLstmPolicy", "image", "box"),
]  # fmt: skip


@functools.cache
def cached(kind, policy, observation, action):
    kwargs = {"policy_kwargs": {"lstm_size": 8}} if "Lstm" in policy else {}
    if policy.startswith("Cnn"):
        kwargs = {"policy_kwargs": {"filters": [4, 5, 6], "features_dim": 8}}
    if policy.startswith("Cnn") and "Lstm" in policy:
        kwargs["policy_kwargs"]["lstm_size"] = 8
    return scattered(make(kind, every(observation, action), policy, **kwargs), scale=0.3)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_single_observations_and_batches_of_any_size(case):
    model = cached(*case)
    observations = seen(case[2], 33)
    space = Every.ACTIONS[case[3]]
    singles = [model.predict(o, deterministic=True) for o in observations]
    for n in (1, 2, 3, 33):
        actions, states = model.predict(stack(observations[:n]), deterministic=True)
        assert actions.shape == (n, *space.shape)
        assert actions.dtype == space.dtype
        for (single, state), action, row in zip(singles, actions, range(n), strict=False):
            assert space.contains(single)
            np.testing.assert_allclose(action, single, rtol=1e-5, atol=1e-5)
            if states is None:
                assert state is None
            else:
                assert state.shape == (1, states.shape[1])
                np.testing.assert_allclose(states[row], state[0], rtol=1e-5, atol=1e-6)
    assert (states is not None) == ("Lstm" in case[1])
    assert len({np.asarray(action).tobytes() for action, _ in singles}) > 1


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_deterministic_ones_repeat_and_drawn_ones_follow_the_seed(case):
    model, batch = cached(*case), stack(seen(case[2], 20))
    first, again = (model.predict(batch, deterministic=True)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    drawn = []
    for _ in range(2):
        model.set_random_seed(7)
        drawn.append([model.predict(batch)[0] for _ in range(3)])
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert any((drawn[0][0] != each).any() for each in drawn[0][1:])
    space = Every.ACTIONS[case[3]]
    assert all(space.contains(action) for actions in drawn[0] for action in actions)


@pytest.mark.parametrize("kind", KINDS)
def test_a_memory_is_forgotten_where_an_episode_begins(kind):
    model = cached(kind, "MlpLstmPolicy", "vector", "bounded_box")
    batches = [stack(seen("vector", 4, seed)) for seed in (0, 50, 100)]
    state = None
    for batch in batches[:2]:
        _, state = model.predict(batch, state, deterministic=True)
    kept = state.copy()
    fresh, fresh_state = model.predict(batches[2], deterministic=True)
    on, on_state = model.predict(batches[2], state, deterministic=True)
    assert (on != fresh).any()
    for nothing in (None, [False] * 4, np.zeros(4, bool)):
        np.testing.assert_array_equal(
            model.predict(batches[2], state, nothing, deterministic=True)[0], on
        )
    begun, begun_state = model.predict(batches[2], state, [True] * 4, deterministic=True)
    np.testing.assert_array_equal(begun, fresh)
    np.testing.assert_array_equal(begun_state, fresh_state)
    mixed, mixed_state = model.predict(batches[2], state, [0, 1, 0, 1], deterministic=True)
    np.testing.assert_array_equal(mixed[::2], on[::2])
    np.testing.assert_array_equal(mixed[1::2], fresh[1::2])
    np.testing.assert_array_equal(mixed_state[1::2], fresh_state[1::2])
    np.testing.assert_array_equal(mixed_state[::2], on_state[::2])
    np.testing.assert_array_equal(state, kept)


def test_one_observation_with_the_state_of_before():
    model = cached("acer", "MlpLstmPolicy", "vector", "bounded_box")
    steps = seen("vector", 5)
    state = batch_state = None
    for i, observation in enumerate(steps):
        action, state = model.predict(observation, state, [i == 3], deterministic=True)
        batch, batch_state = model.predict(
            observation[None], batch_state, [i == 3], deterministic=True
        )
        np.testing.assert_array_equal(action, batch[0])
        np.testing.assert_array_equal(state, batch_state)
    alone, _ = model.predict(steps[4], state[0], False, deterministic=True)
    np.testing.assert_array_equal(alone, model.predict(steps[4], state, deterministic=True)[0])


def test_policies_without_a_memory_take_masks():
    model, batch = cached("a2c", "MlpPolicy", "vector", "discrete"), stack(seen())
    actions, state = model.predict(batch, None, [True] * 7, deterministic=True)
    np.testing.assert_array_equal(actions, model.predict(batch, deterministic=True)[0])
    assert state is None


@pytest.mark.parametrize("kind", KINDS)
def test_box_actions_are_in_the_environments_units_and_bounds(kind):
    """Middles (0, 5, 0), half-widths (2, 5, 1): a deviation of 3 half-widths reaches all bounds."""
    model = make(kind, every("vector", "bounded_box"), log_std_init=float(np.log(3.0)))
    space = model.action_space
    batch = np.repeat(seen("vector", 1)[0][None], 400, 0)
    actions, _ = model.predict(batch)
    np.testing.assert_array_equal(actions.min(0), space.low)
    np.testing.assert_array_equal(actions.max(0), space.high)
    inside = ((actions > space.low) & (actions < space.high)).mean(0)
    # of a Gaussian around the middle, erf(1 / (3 sqrt 2)) = 0.26 are inside
    np.testing.assert_allclose(inside, 0.26, atol=0.1)
    parameters = model.get_parameters()
    bias = next(
        name
        for name in reversed(parameters)
        if name.endswith("bias") and "policy.heads.policy" in name
    )
    weight = bias.replace("bias", "weight")
    model.load_parameters(
        parameters | {weight: 0 * parameters[weight], bias: np.float32([0.5, -0.5, 9])}
    )
    action, _ = model.predict(batch[0], deterministic=True)
    np.testing.assert_allclose(action, [1.0, 2.5, 1.0], rtol=1e-6)


WRONG = {
    "too long": np.zeros(4, np.float32),
    "too long, in a batch": np.zeros((2, 4), np.float32),
    "an axis too many": np.zeros((2, 2, 3), np.float32),
    "a scalar": 1.0,
    "not finite": np.float32([0, np.nan, 0]),
    "no array": "abc",
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_is_no_observation(wrong):
    model = cached("acer", "MlpPolicy", "vector", "discrete")
    for ask in (model.predict, model.action_probability):
        with pytest.raises(ValueError):  # noqa: PT011
            ask(wrong)


def entries(**changes):
    found = {**seen("dict", 1)[0], **changes}
    return {key: value for key, value in found.items() if value is not None}


WRONG_ENTRIES = {
    "missing": entries(vector=None),
    "too short": entries(vector=np.zeros(2, np.float32)),
    "some in a batch": entries(vector=np.zeros((2, 3), np.float32)),
    "two lengths": stack([entries()] * 2) | {"vector": np.zeros((3, 3), np.float32)},
    "no such class": entries(discrete=np.int64(10)),
    "no dict": np.zeros(3, np.float32),
}


@pytest.mark.parametrize("wrong", WRONG_ENTRIES.values(), ids=WRONG_ENTRIES)
def test_what_is_no_observation_of_a_dict(wrong):
    model = cached("acer", "MlpPolicy", "dict", "multidiscrete")
    with pytest.raises(ValueError):  # noqa: PT011
        model.predict(wrong)


def test_a_tuple_of_another_length():
    model, (vector, number) = cached("acktr", "MlpPolicy", "tuple", "discrete"), seen("tuple", 1)[0]
    for wrong in ((vector,), (vector, number, number)):
        with pytest.raises(ValueError):  # noqa: PT011
            model.predict(wrong)


def test_states_and_masks_that_do_not_fit():
    model, batch = cached("acer", "MlpLstmPolicy", "vector", "bounded_box"), stack(seen(n=4))
    _, state = model.predict(batch)
    wrong = [(state[:3], None), (state[:, :5], None), (state, [True] * 3), (state[0], [False] * 4)]
    for before, mask in wrong:
        with pytest.raises(ValueError, match="state"):
            model.predict(batch, before, mask)


@pytest.mark.parametrize("policy", ["MlpPolicy", "MlpLstmPolicy"])
@pytest.mark.parametrize("kind", KINDS)
def test_asking_changes_nothing(kind, policy):
    kwargs = {"policy_kwargs": {"lstm_size": 8}} if "Lstm" in policy else {}
    batch = stack(seen())
    plain, asked = (
        make(kind, policy=policy, normalize_observations=True, **kwargs) for _ in range(2)
    )

    def ask(locals_, globals_):
        model = locals_["self"]
        before = fingerprint(model)
        _, state = model.predict(batch)
        model.predict(batch[0], deterministic=True)
        model.predict(batch, state, [True] * 7)
        model.action_probability(batch)
        model.action_probability(batch, actions=model.predict(batch)[0])
        assert fingerprint(model) == before

    plain.learn(105)
    asked.learn(105, ask)
    asked.predict(batch)
    assert fingerprint(asked) == fingerprint(plain)
    assert weights(asked) == weights(plain)


def test_threads_get_the_same_answers():
    model = cached("acktr", "MlpLstmPolicy", "vector", "bounded_box")
    batches = [stack(seen("vector", n, n)) for n in range(1, 9)]
    _, state = model.predict(batches[-1])

    def ask(i):
        batch = batches[i % 8]
        return model.predict(batch, state[: len(batch)], deterministic=True)

    expected = [ask(i) for i in range(8)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(ask, range(160)))
    for i, (actions, states) in enumerate(found):
        np.testing.assert_array_equal(actions, expected[i % 8][0])
        np.testing.assert_array_equal(states, expected[i % 8][1])


class Shapes(gymnasium.Env):
    """Actions with two axes; they are those that it has been told."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return np.zeros(2, np.float32), 0.0, False, False, {}


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(
            np.float64([[-1, 0], [2, -9]]), np.float64([[1, 10], [3, -8]]), dtype=np.float64
        ),
        spaces.MultiDiscrete([[2, 3], [2, 2]]),
        spaces.MultiBinary([2, 2]),
        spaces.MultiDiscrete([3, 3], start=[5, -2]),
        spaces.Discrete(3, start=-7),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", KINDS)
def test_actions_of_more_axes_and_other_starts(kind, space):
    model = scattered(make(kind, Shapes(space)).learn(10))
    for deterministic in (False, True):
        single, _ = model.predict(np.zeros(2, np.float32), deterministic=deterministic)
        assert space.contains(single)
        batch, _ = model.predict(np.zeros((50, 2), np.float32), deterministic=deterministic)
        assert all(space.contains(action) for action in batch)
