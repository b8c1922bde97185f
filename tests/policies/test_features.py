"""Observations of every kind as floats, and the encoder of pictures."""

import itertools
import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from torch import nn

from rlrun.policies.cnn_encoder import CnnEncoder
from rlrun.policies.layers import (
    DictFeatures,
    ImageFeatures,
    VectorFeatures,
    conv,
    features_of,
    has_picture,
    linear,
    split_features,
)
from rlrun.run.rng import generator
from rlrun.schema import UserError
from rlrun.spaces import pack

N = 6


def image(*shape):
    return spaces.Box(0, 255, shape, np.uint8)


def batch_of(space, seed=0):
    """What the system shows of a batch of samples."""
    batched = batch_space(space, N)
    batched.seed(seed)
    return torch.from_numpy(pack(space, batched.sample()))


def pictures_of(*shape):
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (N, *shape), dtype=torch.uint8, generator=g)


# Vectors.


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (spaces.Box(-1, 1, (4,), np.float64), 4),
        (spaces.Box(-1, 1, (2, 3)), 6),
        (spaces.Box(-1, 1, ()), 1),
        (spaces.Box(0, 1, (84, 84, 3)), 84 * 84 * 3),
        (spaces.Box(0, 1, (10, 10, 4), np.bool_), 400),
        (image(35, 80, 3), 35 * 80 * 3),
        (image(5), 5),
        (spaces.Discrete(7, start=-3), 7),
        (spaces.Discrete(1), 1),
        (spaces.MultiDiscrete([[2, 3], [4, 5]], dtype=np.int32), 14),
        (spaces.MultiBinary((2, 3)), 6),
    ],
)
def test_vectors(space, size):
    features = VectorFeatures(space)
    shown = features(batch_of(space))
    assert shown.shape == (N, size)
    assert features.size == size
    assert features.shapes == [(size,)]
    assert shown.dtype == torch.float32
    assert not list(features.parameters())


def test_numbers_are_the_environments_own():
    values = torch.tensor([[[0, 255], [7, 3]]], dtype=torch.uint8)
    assert VectorFeatures(image(2, 2))(values).tolist() == [[0, 255, 7, 3]]


def test_classes_are_one_hot_one_after_the_other():
    space = spaces.MultiDiscrete([[2, 3], [1, 2]], start=[[-5, 0], [9, 1]])
    shown = VectorFeatures(space)(torch.tensor([[[-5, 2], [9, 1]], [[-4, 0], [9, 2]]]))
    assert shown.tolist() == [[1, 0, 0, 0, 1, 1, 1, 0], [0, 1, 1, 0, 0, 1, 0, 1]]
    single = VectorFeatures(spaces.Discrete(3, start=-1))(torch.tensor([-1, 1]))
    assert single.tolist() == [[1, 0, 0], [0, 0, 1]]


def test_classes_out_of_range_are_no_other_component():
    features = VectorFeatures(spaces.MultiDiscrete([2, 3]))
    with pytest.raises(RuntimeError):
        features(torch.tensor([[2, 0]]))


def test_bits_are_floats():
    bits = torch.tensor([[[1, 0], [0, 1]]], dtype=torch.int8)
    assert VectorFeatures(spaces.MultiBinary((2, 2)))(bits).tolist() == [[1, 0, 0, 1]]


# Pictures.


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((84, 84), (1, 84, 84)),
        ((4, 84, 84), (4, 84, 84)),
        ((84, 84, 3), (3, 84, 84)),
        ((210, 160, 3), (3, 210, 160)),
        ((3, 210, 160), (3, 210, 160)),
        ((1, 7, 7), (1, 7, 7)),
        ((7, 7, 3), (3, 7, 7)),
        ((8, 8, 17), (17, 8, 8)),
        ((17, 8, 8), (17, 8, 8)),
        ((9, 9, 9), (9, 9, 9)),
        ((12, 9, 3), (3, 12, 9)),
        ((3, 9, 12), (3, 9, 12)),
        ((12, 8, 9), (12, 8, 9)),
        ((4, 64, 96, 3), (12, 64, 96)),
        ((4, 3, 64, 96), (12, 64, 96)),
        ((2, 8, 8, 1), (2, 8, 8)),
        ((2, 1, 8, 8), (2, 8, 8)),
    ],
)
def test_channels_are_told_from_sides(shape, expected):
    features = ImageFeatures(image(*shape))
    shown = features(pictures_of(*shape))
    assert features.shape == expected
    assert features.shapes == [expected]
    assert features.size == math.prod(expected)
    assert shown.shape == (N, *expected)
    assert shown.is_contiguous(memory_format=torch.channels_last)
    assert 0.0 <= shown.min() <= shown.max() <= 1.0


def test_pictures_of_all_orders_look_the_same():
    stack = pictures_of(4, 3, 40, 60)  # [N, S, C, H, W]
    channels = stack.flatten(1, 2)
    first = ImageFeatures(image(12, 40, 60))(channels)
    assert torch.equal(first, channels.float() / 255)
    for shape, pictures in [
        ((40, 60, 12), channels.movedim(1, -1)),
        ((4, 3, 40, 60), stack),
        ((4, 40, 60, 3), stack.movedim(2, -1)),
    ]:
        assert torch.equal(ImageFeatures(image(*shape))(pictures), first)
    cube = pictures_of(9, 9, 9)
    assert torch.equal(ImageFeatures(image(9, 9, 9))(cube), cube.float() / 255)
    grey = pictures_of(40, 60)
    expected = ImageFeatures(image(1, 40, 60))(grey.unsqueeze(1))
    assert torch.equal(ImageFeatures(image(40, 60))(grey), expected)


# Entries.

SPACE = spaces.Dict(
    {
        "camera": image(40, 50, 3),
        "class": spaces.MultiDiscrete([2, 3], start=[-1, 4]),
        "inner": spaces.Tuple([image(2, 8, 8), spaces.Box(-9, 9, (2, 2), np.float64)]),
        "tiny": image(6, 6, 3),
        "z": spaces.MultiBinary(3),
    }
)


def sample(seed=0):
    batched = batch_space(SPACE, N)
    batched.seed(seed)
    return batched.sample()


def parts_of(batch, pictures):
    """The features of each entry, by itself."""
    entries = [
        (SPACE["camera"], batch["camera"]),
        (SPACE["class"], batch["class"]),
        (SPACE["inner"][0], batch["inner"][0]),
        (SPACE["inner"][1], batch["inner"][1].astype(np.float32)),
        (SPACE["tiny"], batch["tiny"]),
        (SPACE["z"], batch["z"]),
    ]
    return [
        (ImageFeatures if i in (0, 2) and pictures else VectorFeatures)(space)(
            torch.from_numpy(values)
        )
        for i, (space, values) in enumerate(entries)
    ]


def test_the_features_of_entries_are_theirs_in_a_row():
    features = features_of(SPACE, pictures=True)
    batch = sample()
    shown = features(torch.from_numpy(pack(SPACE, batch)))
    expected = parts_of(batch, pictures=True)
    assert isinstance(features, DictFeatures)
    assert shown.shape == (N, features.size)
    assert features.shapes == [(3, 40, 50), (5,), (2, 8, 8), (4,), (108,), (3,)]
    assert features.size == sum(math.prod(shape) for shape in features.shapes)
    split = split_features(shown, features.shapes)
    assert len(split) == 6
    for part, values in zip(split, expected, strict=True):
        assert torch.equal(part, values)
    kinds = [type(part) for part in features.parts]
    assert kinds == [ImageFeatures, VectorFeatures, ImageFeatures, *[VectorFeatures] * 3]


def test_small_pictures_are_vectors_for_a_network_of_vectors():
    space = spaces.Tuple([image(35, 80), spaces.Discrete(2)])
    features = features_of(space, pictures=False)
    assert features.shapes == [(35 * 80,), (2,)]
    batch = batch_of(space)
    assert torch.equal(features(batch)[:, :2800], batch[:, :2800].float())


def test_an_environment_of_one_entry():
    space = spaces.Dict(a=spaces.Discrete(3, start=1))
    assert features_of(space, pictures=False)(batch_of(space)).sum(1).tolist() == [1.0] * N


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (SPACE, True),
        (image(7, 7), True),
        (image(6, 7), False),
        (image(84), False),
        (image(2, 2, 8, 8, 3), False),
        (spaces.Box(0, 1, (84, 84)), False),
        (spaces.Discrete(3), False),
        (spaces.Tuple([image(6, 9), spaces.Discrete(3)]), False),
    ],
)
def test_what_is_a_picture(space, expected):
    assert has_picture(space) is expected
    if expected:
        features_of(space, pictures=True)
    else:
        with pytest.raises(UserError, match=r"policy=mlp"):
            features_of(space, pictures=True)


@pytest.mark.parametrize(
    ("space", "pictures", "says"),
    [
        (image(36, 36), False, r"this environment shows pictures of 36x36\. Use policy=cnn"),
        (image(2, 40, 40, 3), False, r"pictures of 2x40x40x3\. Use policy=cnn"),
        (SPACE, False, r"entry 'camera' .* pictures of 40x50x3\. Use policy=cnn"),
        (image(3, 6, 84), True, r"at least 7x7 .* have 6x84\. Use policy=mlp"),
        (spaces.Box(0, 1, (3, 84, 84)), True, r"uint8.*Use policy=mlp"),
        (spaces.Dict(a=spaces.Discrete(2), b=image(6, 6)), True, r"\(a, b\)\. Use policy=mlp"),
        (spaces.Text(3), False, r"Text.*allowed: Box, Discrete"),
        (spaces.Dict(a=spaces.Discrete(2), b=spaces.Text(3)), False, r"entry 'b' .*Text"),
        (spaces.Dict(a=spaces.Box(0, 9, (2,), np.uint64)), False, r"entry 'a' .*uint64"),
        (spaces.Dict(), False, r"Dict\(\).*allowed: Box, Discrete"),
    ],
)
def test_what_does_not_fit_is_refused(space, pictures, says):
    with pytest.raises(UserError, match=says):
        features_of(space, pictures)


# The encoder.


@pytest.mark.parametrize("shape", [(4, 84, 84), (3, 36, 36), (1, 40, 60), (3, 64, 96)])
def test_large_pictures_go_through_the_network_of_mnih(shape):
    encoder = CnnEncoder(ImageFeatures(image(*shape)), (5, 6, 7), 8, generator(0, "init"))
    g = generator(0, "init")
    height, width = shape[1:]
    for kernel, stride in ((8, 4), (4, 2), (3, 1)):
        height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
    reference = nn.Sequential(
        conv(shape[0], 5, 8, 4, g),
        nn.ReLU(),
        conv(5, 6, 4, 2, g),
        nn.ReLU(),
        conv(6, 7, 3, 1, g),
        nn.ReLU(),
        nn.Flatten(),
        linear(7 * height * width, 8, math.sqrt(2), g),
        nn.ReLU(),
    ).to(memory_format=torch.channels_last)
    for ours, theirs in zip(encoder.parameters(), reference.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.stride() == theirs.stride()
    shown = ImageFeatures(image(*shape))(pictures_of(*shape))
    assert torch.equal(encoder(shown), reference(shown))
    assert encoder.size == 8


@pytest.mark.parametrize(
    ("sides", "stride"), [((7, 7), 1), ((15, 90), 1), ((16, 16), 2), ((35, 35), 2), ((16, 90), 2)]
)
def test_the_network_is_fitted_to_smaller_pictures(sides, stride):
    encoder = CnnEncoder(ImageFeatures(image(2, *sides)), (3, 4, 5), 8, generator(0, "init"))
    convolutions = [m for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    assert [c.kernel_size for c in convolutions] == [(3, 3)] * 3
    assert [c.stride for c in convolutions] == [(stride, stride), (1, 1), (1, 1)]
    assert [c.out_channels for c in convolutions] == [3, 4, 5]


SIDES = [(7, 7), (7, 40), (40, 7), *((n, n) for n in range(8, 41)), (64, 96), (15, 16), (16, 15)]


@pytest.mark.parametrize("sides", SIDES)
def test_pictures_of_every_size_are_encoded(sides):
    features = features_of(image(2, *sides), pictures=True)
    encoder = CnnEncoder(features, (3, 4, 5), 8, generator(0, "init"))
    encoded = encoder(features(pictures_of(2, *sides)))
    assert encoded.shape == (N, 8)
    assert encoded.isfinite().all()
    assert encoded.any()


def test_a_screen_of_atari_is_encoded():
    features = features_of(image(210, 160, 3), pictures=True)
    encoder = CnnEncoder(features, (3, 4, 5), 8, generator(0, "init"))
    assert encoder(features(pictures_of(210, 160, 3))).shape == (N, 8)


def test_every_picture_has_convolutions_of_its_own_and_vectors_join_after_them():
    features = features_of(SPACE, pictures=True)
    encoder = CnnEncoder(features, (3, 4, 5), 8, generator(0, "init"))
    batch = sample()
    encoded = encoder(features(torch.from_numpy(pack(SPACE, batch))))
    assert encoded.shape == (N, encoder.size)
    camera, classes, board, numbers, tiny, bits = parts_of(batch, pictures=True)
    assert len(encoder.pictures) == 2
    joined = torch.cat(
        [encoder.pictures[0](camera), classes, encoder.pictures[1](board), numbers, tiny, bits], 1
    )
    torch.testing.assert_close(encoded, encoder.output(joined))
    encoded.sum().backward()
    assert all(p.grad.any() for p in encoder.parameters())


def test_the_picture_of_a_lone_entry_is_encoded_like_one_without_a_name():
    plain, entry = image(3, 40, 50), spaces.Dict(camera=image(3, 40, 50))
    networks = []
    for space in (plain, entry):
        features = features_of(space, pictures=True)
        networks.append((features, CnnEncoder(features, (3, 4, 5), 8, generator(0, "init"))))
    for a, b in itertools.zip_longest(*(encoder.parameters() for _, encoder in networks)):
        assert torch.equal(a, b)
    pictures = pictures_of(3, 40, 50)
    (plain_features, plain_encoder), (features, encoder) = networks
    packed = torch.from_numpy(pack(entry, {"camera": pictures.numpy()}))
    torch.testing.assert_close(encoder(features(packed)), plain_encoder(plain_features(pictures)))


def test_the_encoder_keeps_nothing_of_the_features():
    encoder = CnnEncoder(features_of(SPACE, True), (3, 4, 5), 8, generator(0, "init"))
    assert not any(isinstance(m, (ImageFeatures, VectorFeatures)) for m in encoder.modules())
