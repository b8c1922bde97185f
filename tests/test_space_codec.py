"""Spaces as data: what is encoded comes back, and what is no space is refused."""

import tracemalloc

import numpy as np
import pytest
from gymnasium import spaces

from rlrun.run.checkpoint import Checkpointer
from rlrun.space_codec import decode, encode

INF = np.inf
SPACES = {
    "box": spaces.Box(-1, 1, (3,)),
    "box, no bounds": spaces.Box(-INF, INF, (2, 3)),
    "box, bounded on one side": spaces.Box(
        np.array([-INF, 0.0], np.float32), np.array([1, INF], np.float32)
    ),
    "box, bounds of each": spaces.Box(
        np.array([[-1.5, 0], [2, -7]], np.float32), np.array([[1.5, 0.25], [3, 7]], np.float32)
    ),
    "box, equal low only": spaces.Box(np.zeros(3, np.float32), np.arange(1, 4, dtype=np.float32)),
    "box, exact bounds": spaces.Box(-np.pi, np.nextafter(np.pi, 4), (1,), np.float64),
    "box, largest bounds": spaces.Box(np.finfo("f4").min, np.finfo("f4").max, (2,)),
    "box, one number": spaces.Box(0.5, 1.5, ()),
    "box, empty": spaces.Box(0, 1, (0,)),
    "box, empty axis": spaces.Box(0, 1, (3, 0, 2)),
    "picture": spaces.Box(0, 255, (4, 84, 84), np.uint8),
    "picture, bounds of each": spaces.Box(
        np.arange(6, dtype=np.uint8).reshape(1, 2, 3), np.full((1, 2, 3), 9, np.uint8)
    ),
    "atari ram": spaces.Box(0, 255, (128,), np.uint8),
    "half": spaces.Box(-2, 2, (2,), np.float16),
    "long bounds": spaces.Box(-(2**62), 2**62, (2,), np.int64),
    "unsigned": spaces.Box(0, 2**32 - 1, (2,), np.uint32),
    "short": spaces.Box(-5, 5, (2,), np.int16),
    "bools": spaces.Box(np.zeros(2, np.bool_), np.ones(2, np.bool_), dtype=np.bool_),
    "discrete": spaces.Discrete(5),
    "discrete from -3": spaces.Discrete(5, start=-3),
    "discrete, one": spaces.Discrete(1, start=10**12),
    "multidiscrete": spaces.MultiDiscrete([2, 5, 1]),
    "multidiscrete, table": spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 0], [-1, 7]]),
    "multibinary": spaces.MultiBinary(4),
    "multibinary, one": spaces.MultiBinary(1),
    "multibinary, a list of one": spaces.MultiBinary([4]),
    "multibinary, table": spaces.MultiBinary((2, 3)),
    "dict": spaces.Dict(b=spaces.Discrete(2), a=spaces.Box(0, 1, (2,))),
    "dict, not sorted": spaces.Dict([("z", spaces.Discrete(2)), ("a", spaces.Discrete(3))]),
    "dict, odd names": spaces.Dict(
        {name: spaces.Box(0, 1, (2,)) for name in ("a.b", "a/b", "$tensor", "", "0", "ä b")}
    ),
    "dict, empty": spaces.Dict(),
    "dict, named like a kind": spaces.Dict(Box=spaces.Discrete(2), low=spaces.Discrete(3)),
    "tuple": spaces.Tuple([spaces.Discrete(2), spaces.Box(-INF, INF, (1,), np.float64)]),
    "tuple, empty": spaces.Tuple([]),
    "nested": spaces.Dict(
        z=spaces.Tuple([spaces.Dict(y=spaces.MultiBinary(2)), spaces.MultiDiscrete([3, 3])]),
        a=spaces.Dict(picture=spaces.Box(0, 255, (8, 8, 3), np.uint8)),
    ),
}


def assert_equal(found, space):
    """Equality of gymnasium, and what it does not look at."""
    assert found == space
    assert type(found) is type(space)
    assert found.dtype == space.dtype
    assert found.shape == space.shape
    if isinstance(space, spaces.Dict):
        assert list(found.spaces) == list(space.spaces)  # in order
        for name, entry in space.spaces.items():
            assert_equal(found[name], entry)
    elif isinstance(space, spaces.Tuple):
        for entry, given in zip(found.spaces, space.spaces, strict=True):
            assert_equal(entry, given)
    elif isinstance(space, spaces.Box):
        for one, other in ((found.low, space.low), (found.high, space.high)):
            assert one.dtype == other.dtype
            assert one.tobytes() == other.tobytes()
        assert np.array_equal(found.bounded_below, space.bounded_below)
        assert np.array_equal(found.bounded_above, space.bounded_above)
    elif not isinstance(space, spaces.MultiBinary):
        assert np.array_equal(found.start, space.start)


@pytest.mark.parametrize("name", SPACES)
def test_a_space_comes_back(name):
    assert_equal(decode(encode(SPACES[name])), SPACES[name])


@pytest.mark.parametrize("name", SPACES)
def test_a_space_comes_back_from_the_disk(tmp_path, name):
    path = Checkpointer(tmp_path, keep=1).save(0, {"space": encode(SPACES[name])}, None, meta={})
    state, _ = Checkpointer(tmp_path, keep=1).load(path, None)
    found = decode(state["space"])
    assert_equal(found, SPACES[name])
    found.seed(0)
    sample = found.sample()
    assert SPACES[name].contains(sample)


def test_bounds_that_are_all_the_same_take_the_place_of_one_number():
    data = encode(spaces.Box(0, 255, (4, 84, 84), np.uint8))["Box"]
    assert np.ravel(data["low"]).tolist() == [0]
    assert np.ravel(data["high"]).tolist() == [255]


def test_the_space_that_was_encoded_can_change_afterwards():
    space = spaces.Box(np.array([0.0, 1.0], np.float32), np.array([2.0, 2.0], np.float32))
    found = decode(encode(space))
    space.low[:] = -9
    assert found.low.tolist() == [0.0, 1.0]
    found.low[:] = 5  # it is its own, and may be written to
    assert space.low.tolist() == [-9.0, -9.0]


@pytest.mark.parametrize("space", [spaces.Text(5), spaces.Sequence(spaces.Discrete(2)), object()])
def test_what_cannot_be_learnt_in_is_not_encoded(space):
    with pytest.raises(TypeError, match=f"{type(space).__name__} is no space"):
        encode(space)
    with pytest.raises(TypeError):
        encode(spaces.Tuple([spaces.Discrete(2), spaces.Text(3)]))


def box(**changes):
    value = encode(spaces.Box(-1, 1, (2,)))["Box"] | changes
    return {"Box": {name: entry for name, entry in value.items() if entry is not None}}


def nested(depth):
    data = {"Discrete": {"n": 2, "start": 0}}
    for _ in range(depth):
        data = {"Tuple": [data]}
    return data


NONSENSE = {
    "nothing": {},
    "null": None,
    "a list": [],
    "a text": "Box",
    "two kinds": {"Discrete": {"n": 2, "start": 0}, "MultiBinary": [2]},
    "no such kind": {"Text": 3},
    "a kind of numpy": {"ndarray": 3},
    "dict of nothing": {"Dict": None},
    "dict of a list": {"Dict": [1]},
    "dict of numbers": {"Dict": {"a": 1}},
    "tuple of a number": {"Tuple": 3},
    "tuple of numbers": {"Tuple": [1, 2]},
    "box without low": box(low=None),
    "box without shape": box(shape=None),
    "box without dtype": box(dtype=None),
    "box, shape does not fit": box(low=np.zeros(3, np.float32)),
    "box, shape a text": box(shape="ab"),
    "box, shape a number": box(shape=2),
    "box, shape of floats": box(shape=[2.5]),
    "box, shape negative": box(shape=[-2]),
    "box, shapes negative": box(shape=[-2, -3]),
    "box, no such dtype": box(dtype="float99"),
    "box of objects": box(dtype="object"),
    "box of texts": box(dtype="U5"),
    "box of records": box(dtype="f4,f4"),
    "box of dates": box(dtype="datetime64[s]"),
    "box, low a text": box(low="abc"),
    "box, low above high": box(low=np.full(2, 5, np.float32)),
    "box, bounds that are not a number": box(low=np.full(2, np.nan, np.float32)),
    "discrete, none": {"Discrete": {"n": 0, "start": 0}},
    "discrete, fewer": {"Discrete": {"n": -3, "start": 0}},
    "discrete, a text": {"Discrete": {"n": "5", "start": 0}},
    "discrete, a half": {"Discrete": {"n": 2.5, "start": 0}},
    "discrete, no start": {"Discrete": {"n": 2}},
    "discrete, beyond numbers": {"Discrete": {"n": 10**30, "start": 0}},
    "discrete of a list": {"Discrete": [2]},
    "multidiscrete, none": {"MultiDiscrete": {"nvec": np.array([2, 0]), "start": np.zeros(2, int)}},
    "multidiscrete, starts do not fit": {
        "MultiDiscrete": {"nvec": np.array([2, 3]), "start": np.zeros(3, int)}
    },
    "multidiscrete, texts": {"MultiDiscrete": {"nvec": ["a"], "start": [0]}},
    "multibinary, none": {"MultiBinary": [0]},
    "multibinary, fewer": {"MultiBinary": [-2]},
    "multibinary, texts": {"MultiBinary": ["a"]},
    "multibinary, nothing": {"MultiBinary": None},
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_refused(name):
    with pytest.raises(ValueError, match=r"\S"):
        decode(NONSENSE[name])
    with pytest.raises(ValueError, match=r"\S"):
        decode({"Tuple": [{"Discrete": {"n": 2, "start": 0}}, NONSENSE[name]]})


@pytest.mark.parametrize(
    "data",
    [
        box(shape=[10**10]),
        box(shape=[10**5] * 4),
        box(shape=[2**31, 2**31, 4]),
        {"MultiBinary": [10**10]},
        {"MultiBinary": [10**5, 10**5]},
        {"Tuple": [{"MultiBinary": [9 * 10**7]}] * 50},
        nested(5000),
    ],
    ids=lambda data: next(iter(data)),
)
def test_absurd_sizes_are_refused_and_not_made(data):
    """Nothing of their size is allocated on the way, or a small file could fill the memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"\S"):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_large_spaces_of_our_time_are_none_too_large():
    space = spaces.Box(0, 255, (8, 512, 512), np.uint8)
    assert decode(encode(space)) == space
