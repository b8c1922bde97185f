"""Observations as bytes and back, and actions in the units of a policy."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from rlrun.schema import UserError
from rlrun.spaces import (
    acting,
    action_scale,
    action_tensor,
    array_layout,
    as_acted,
    example,
    leaves,
    may_be_unsound,
    observation_tensor,
    pack,
    refuse_unknown,
    sound,
    tensor_dtype,
    unpack,
)

N = 5
LEAVES = {
    "float32": spaces.Box(-1, 1, (3,), np.float32),
    "float64": spaces.Box(-1, 1, (2, 3), np.float64),
    "float16": spaces.Box(-1, 1, (1,), np.float16),
    "scalar": spaces.Box(-1, 1, (), np.float32),
    "nothing": spaces.Box(-1, 1, (0,), np.float32),
    "int8": spaces.Box(-128, 127, (3,), np.int8),
    "int16": spaces.Box(-999, 999, (3,), np.int16),
    "int64": spaces.Box(-(2**62), 2**62, (3,), np.int64),
    "uint16": spaces.Box(0, 2**16 - 1, (3,), np.uint16),
    "uint32": spaces.Box(0, 2**32 - 1, (3,), np.uint32),
    "bool": spaces.Box(0, 1, (3,), np.bool_),
    "picture": spaces.Box(0, 255, (5, 4, 3), np.uint8),
    "discrete": spaces.Discrete(7, start=-3),
    "small discrete": spaces.Discrete(7, dtype=np.int32),
    "multi": spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[-9, 0], [1, 2]]),
    "small multi": spaces.MultiDiscrete([2, 300], dtype=np.int16),
    "bits": spaces.MultiBinary((2, 3)),
}
NESTED = spaces.Dict(
    {
        "b": spaces.Tuple([LEAVES["bool"], spaces.Dict(x=LEAVES["float64"], y=LEAVES["picture"])]),
        "a": LEAVES["discrete"],
        "c": spaces.Dict(z=LEAVES["int64"]),
    }
)


def batch_of(space, seed=0):
    """A batch as a vector of environments gives it."""
    batched = batch_space(space, N)
    batched.seed(seed)
    return batched.sample()


def kept(values):
    """Values in what they are kept in."""
    dtype = {"f": np.float32}.get(values.dtype.kind)
    return values.astype(dtype) if dtype else values


def test_leaves_are_named_by_path_in_order():
    assert list(leaves(NESTED)) == ["a", "b.0", "b.1.x", "b.1.y", "c.z"]
    assert leaves(NESTED)["b.1.x"] is LEAVES["float64"]
    assert leaves(LEAVES["bits"]) == {"": LEAVES["bits"]}


def test_entries_of_one_name_are_refused():
    space = spaces.Dict({"a.b": LEAVES["bits"], "a": spaces.Dict(b=LEAVES["bool"])})
    with pytest.raises(UserError, match=r"named 'a\.b'"):
        leaves(space)


@pytest.mark.parametrize("name", LEAVES)
@pytest.mark.parametrize("around", [[], ["bool"], ["bool", "int16"], ["picture", "int8"]])
def test_bytes_are_exact_wherever_they_begin(name, around):
    others = [LEAVES[other] for other in around]
    space = spaces.Tuple([*others, LEAVES[name], LEAVES["float32"]])
    batch = batch_of(space)
    packed = pack(space, batch)
    assert packed.dtype == np.uint8
    assert packed.shape == (N, *array_layout(space)[0])
    for rows in (slice(None), slice(2, 3), slice(0, 0)):  # one row is contiguous, if misaligned
        unpacked = unpack(space, torch.from_numpy(packed)[rows])
        assert len(unpacked) == len(batch)
        for leaf, values, expected in zip(space, unpacked, batch, strict=True):
            assert values.dtype == tensor_dtype(leaf)
            assert values.shape[1:] == leaf.shape
            assert np.array_equal(values.numpy(), kept(expected)[rows])


def test_nested_entries_come_back_in_the_order_of_the_leaves():
    batch = batch_of(NESTED)
    found = dict(
        zip(leaves(NESTED), unpack(NESTED, torch.from_numpy(pack(NESTED, batch))), strict=True)
    )
    assert np.array_equal(found["a"].numpy(), batch["a"])
    assert np.array_equal(found["b.0"].numpy(), batch["b"][0])
    assert np.array_equal(found["b.1.x"].numpy(), batch["b"][1]["x"].astype(np.float32))
    assert np.array_equal(found["b.1.y"].numpy(), batch["b"][1]["y"])
    assert np.array_equal(found["c.z"].numpy(), batch["c"]["z"])


def test_arrays_that_are_not_contiguous_are_packed_by_value():
    space = spaces.Dict(a=spaces.Box(-1, 1, (2, 3)), b=LEAVES["discrete"])
    values = np.random.default_rng(0).normal(size=(3, 2, N)).astype(np.float32).T
    packed = pack(space, {"a": values, "b": np.arange(2 * N)[::2]})
    other = pack(space, {"a": values.copy(), "b": np.arange(0, 2 * N, 2)})
    assert np.array_equal(packed, other)
    strided = torch.from_numpy(np.repeat(packed, 2, 0))[::2]
    assert np.array_equal(unpack(space, strided)[0].numpy(), values)


@pytest.mark.parametrize("name", LEAVES)
def test_simple_observations_pass_as_they_are(name):
    batch = np.asarray(batch_of(LEAVES[name]))
    assert pack(LEAVES[name], batch) is batch


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("float64", (2, 3), "float32"),
        ("float16", (1,), "float32"),
        ("scalar", (), "float32"),
        ("uint16", (3,), "int32"),
        ("uint32", (3,), "int64"),
        ("bool", (3,), "bool"),
        ("picture", (5, 4, 3), "uint8"),
        ("small discrete", (), "int64"),
        ("multi", (2, 2), "int64"),
        ("small multi", (2,), "int16"),
        ("bits", (2, 3), "int8"),
    ],
)
def test_layouts(name, shape, dtype):
    assert array_layout(LEAVES[name]) == (shape, np.dtype(dtype))
    room = observation_tensor(LEAVES[name], 4, 2)
    assert room.shape == (4, 2, *shape)
    assert str(room.dtype) == f"torch.{dtype}"


def test_the_layout_of_entries_is_their_bytes():
    assert array_layout(NESTED) == ((8 + 3 + 24 + 60 + 24,), np.dtype(np.uint8))
    assert tensor_dtype(NESTED) == torch.uint8


@pytest.mark.parametrize("space", [*LEAVES.values(), NESTED], ids=[*LEAVES, "nested"])
def test_every_space_that_can_be_kept_can_be_observed(space):
    refuse_unknown(space)
    observation = example(space)
    assert observation.shape == (1, *array_layout(space)[0])
    assert observation.dtype == tensor_dtype(space)
    values = unpack(space, observation) if space is NESTED else [observation]
    for leaf, value in zip(leaves(space).values(), values, strict=True):
        if isinstance(leaf, spaces.Discrete):
            assert leaf.contains(value.item())
        elif isinstance(leaf, spaces.MultiDiscrete):
            assert leaf.contains(value[0].numpy())


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (spaces.Text(5), r"observed in the space Text"),
        (spaces.Sequence(spaces.Discrete(2)), r"Sequence.*allowed: Box"),
        (spaces.Graph(spaces.Discrete(2), None), "Graph"),
        (spaces.OneOf([spaces.Discrete(2)]), "OneOf"),
        (spaces.Dict(), "at least one entry"),
        (spaces.Tuple([]), "at least one entry"),
        (spaces.Box(0, 9, (2,), np.uint64), r"Box of uint64; allowed.*DtypeObservation"),
        (spaces.Dict(a=spaces.Tuple([LEAVES["bits"], spaces.Text(5)])), r"entry 'a\.1' .* Text"),
        (spaces.Dict(a=LEAVES["bits"], b=spaces.Dict()), r"entry 'b' .* at least one entry"),
        (spaces.Dict(a=spaces.Box(0, 9, (2,), np.uint64)), r"entry 'a' .* uint64"),
    ],
)
def test_spaces_that_cannot_be_observed_are_refused_by_name(space, says):
    with pytest.raises(UserError, match=says):
        refuse_unknown(space)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_what_is_not_finite_is_found_in_every_float_entry(bad):
    space = spaces.Tuple([LEAVES[name] for name in ("bool", "float32", "bits", "float64")])
    batch = batch_of(space)
    assert sound(space, pack(space, batch)).tolist() == [True] * N
    batch[3][2, 1, 2] = bad
    if abs(bad) != 1e300:
        batch[1][4, 0] = bad
    expected = [True, True, False, True, abs(bad) == 1e300]
    assert sound(space, pack(space, batch)).tolist() == expected


def test_integers_that_look_like_nan_are_finite():
    space = spaces.Tuple([LEAVES["int8"], LEAVES["float32"]])
    batch = (np.full((N, 3), -1, np.int8), np.zeros((N, 3), np.float32))
    assert sound(space, pack(space, batch)).all()


@pytest.mark.parametrize("shape", [(), (3,), (2, 2), (0,)])
def test_finite_rows_of_simple_spaces(shape):
    space = spaces.Box(-1, 1, shape)
    values = np.zeros((N, *shape), np.float32)
    if values.size:
        values[3].fill(np.nan) if shape else values.__setitem__(3, np.nan)
    assert sound(space, values).tolist() == [True, True, True, not values.size, True]


# Actions.

LOW = [-1.0, 0.0, -3.0, -np.inf, -np.inf, 2.0, 0.5, -np.finfo(np.float32).max]
HIGH = [1.0, 10.0, np.inf, 4.0, np.inf, 2.0, 0.75, np.finfo(np.float32).max]


def box(dtype=np.float32, shape=(8,)):
    low, high = (np.array(bound, dtype).reshape(shape) for bound in (LOW, HIGH))
    return spaces.Box(low, high, dtype=dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(8,), (2, 4)])
def test_bounded_dimensions_have_a_middle_and_a_half_width(dtype, shape):
    middle, half_width = action_scale(box(dtype, shape))
    assert middle.dtype == half_width.dtype == np.float64
    assert middle.tolist() == [0, 5, 0, 0, 0, 2, 0.625, 0]
    assert half_width.tolist() == [1, 5, 1, 1, 1, 1, 0.125, 1]


def test_bounds_of_the_largest_number_of_a_space_are_none():
    for dtype in (np.float16, np.float32, np.float64):
        largest = np.finfo(dtype).max
        middle, half_width = action_scale(spaces.Box(-largest, largest, (1,), dtype))
        assert (middle, half_width) == ([0.0], [1.0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(8,), (2, 4)])
def test_boxes_are_acted_in_in_half_widths_and_clipped(dtype, shape):
    act = acting(box(dtype, shape))
    units = [-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 5.0]
    sent = act(np.repeat(np.float32(units)[:, None], 8, 1))
    assert sent.dtype == dtype
    assert sent.shape == (7, *shape)
    by_dimension = sent.reshape(7, 8).T.tolist()
    assert by_dimension[0] == [-1, -1, -0.5, 0, 0.5, 1, 1]
    assert by_dimension[1] == [0, 0, 2.5, 5, 7.5, 10, 10]
    assert by_dimension[2] == [-2, -1, -0.5, 0, 0.5, 1, 5]
    assert by_dimension[3] == [-2, -1, -0.5, 0, 0.5, 1, 4]
    assert by_dimension[4] == units
    assert by_dimension[5] == [2] * 7
    assert by_dimension[6] == [0.5, 0.5, 0.5625, 0.625, 0.6875, 0.75, 0.75]
    assert by_dimension[7] == units


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bounds_of_one_leave_actions_bit_for_bit(dtype):
    drawn = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    sent = acting(spaces.Box(-1, 1, (3,), dtype))(drawn)
    assert np.array_equal(sent, drawn.clip(-1, 1).astype(dtype))


def test_the_map_is_computed_in_double_precision():
    space = spaces.Box(np.float32(0.1), np.float32(1000.7), (1,))
    drawn = np.random.default_rng(0).uniform(-1, 1, (1000, 1)).astype(np.float32)
    low, high = np.float64(space.low), np.float64(space.high)
    exact = (low + high) / 2 + (high - low) / 2 * drawn.astype(np.float64)
    assert np.array_equal(acting(space)(drawn), exact.astype(np.float32))
    assert acting(space)(np.float32([[-1], [1]])).tolist() == [[space.low[0]], [space.high[0]]]


ACTIONS = {
    "discrete": spaces.Discrete(4, start=-2),
    "small discrete": spaces.Discrete(4, start=3, dtype=np.int32),
    "multi": spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[-9, 0], [1, 2]]),
    "small multi": spaces.MultiDiscrete([2, 3], dtype=np.int8),
    "bits": spaces.MultiBinary((2, 3)),
    "box": spaces.Box(np.float32([[-3, 0]]), np.float32([[5, np.inf]])),
    "scalar": spaces.Box(-3, 5, ()),
}


@pytest.mark.parametrize("space", ACTIONS.values(), ids=ACTIONS)
def test_actions_belong_to_the_space_and_come_back(space):
    space.seed(0)
    given = np.array([space.sample() for _ in range(50)])
    said = as_acted(space, given)
    room = action_tensor(space, 50)
    assert said.shape == room.shape
    if not isinstance(space, spaces.Box):
        assert said.dtype == np.int64
        assert room.dtype == torch.int64
        assert said.min() == 0
    else:
        assert room.dtype == torch.float32
    sent = acting(space)(said.astype(room.numpy().dtype))
    assert sent.dtype == space.dtype
    np.testing.assert_allclose(sent, given, rtol=1e-6, atol=1e-6)
    assert all(space.contains(np.asarray(action)) for action in sent)


def test_classes_are_counted_from_zero():
    assert acting(ACTIONS["discrete"])(np.array([0, 3])).tolist() == [-2, 1]
    multi = acting(ACTIONS["multi"])(np.array([[0, 1, 2, 3], [1, 0, 0, 4]]))
    assert multi.tolist() == [[[-9, 1], [3, 5]], [[-8, 0], [1, 6]]]
    bits = acting(ACTIONS["bits"])(np.array([[0, 1, 1, 0, 0, 1]]))
    assert bits.tolist() == [[[0, 1, 1], [0, 0, 1]]]


@pytest.mark.parametrize(
    "space",
    [spaces.Dict(a=ACTIONS["bits"]), spaces.Text(4), spaces.Box(0, 9, (2,), np.int64)],
)
def test_other_actions_pass_as_they_are(space):
    actions = np.zeros((2, 2), np.int64)
    assert acting(space)(actions) is actions
    assert as_acted(space, actions) is actions


@pytest.mark.parametrize(
    ("space", "rows", "expected"),
    [
        (spaces.Discrete(3, start=-1), [-1, 1, 2, -2], [True, True, False, False]),
        (
            spaces.MultiDiscrete([2, 3], start=[0, 5]),
            [[0, 5], [1, 7], [2, 5], [0, 8], [0, 4]],
            [True, True, False, False, False],
        ),
    ],
)
def test_classes_outside_of_their_space_are_found(space, rows, expected):
    values = np.array(rows)
    assert sound(space, values).tolist() == expected
    both = spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=space)
    batch = {"a": np.zeros((len(rows), 2), np.float32), "b": values}
    assert sound(both, pack(both, batch)).tolist() == expected
    assert may_be_unsound(space)
    assert may_be_unsound(both)
    assert not may_be_unsound(spaces.Tuple([spaces.MultiBinary(2)]))
