"""Durable writes, bounded reads, and the exact round trip of state."""

import math
import os
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_disk import FailingDisk

from rlrun.run import store
from rlrun.run.store import CheckpointError, flatten, pack, read, unflatten, unpack, write_atomic

HERE = Path("state.json")


def round_trip(state):
    text, tensors = flatten(state)
    return unflatten(text, unpack(b"".join(pack(tensors)), HERE), HERE)


TORCH = [
    torch.tensor([True, False]),
    torch.arange(6, dtype=torch.uint8).reshape(2, 3),
    torch.tensor([-(2**63), 2**63 - 1]),
    torch.tensor(-3, dtype=torch.int32),
    torch.tensor([1e-45, math.inf, -0.0, math.nan]),
    torch.tensor(math.pi, dtype=torch.float64),
    torch.tensor([1.5, -2.25], dtype=torch.bfloat16),
    torch.tensor([1.5], dtype=torch.float16),
    torch.empty(3, 0, 2),
    torch.tensor(True),
    torch.arange(6.0).reshape(2, 3).t(),
    torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last),
    torch.nn.Parameter(torch.ones(2)),
]


@pytest.mark.parametrize("tensor", TORCH, ids=lambda t: f"{t.dtype}-{tuple(t.shape)}")
def test_torch_tensors_come_back_bit_for_bit(tensor):
    back = round_trip({"a": {"b": tensor}})["a"]["b"]
    assert type(back) is torch.Tensor
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    plain = tensor.detach().contiguous().reshape(-1)
    assert torch.equal(back.reshape(-1).view(torch.uint8), plain.view(torch.uint8))


NUMPY = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
NUMPY += ["float16", "float32", "float64"]


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 2)])
def test_numpy_arrays_come_back_bit_for_bit(dtype, shape):
    count = math.prod(shape)
    array = np.arange(1, count + 1).reshape(shape).astype(dtype)
    array.flags.writeable = False
    back = round_trip({"x": array})["x"]
    assert type(back) is np.ndarray
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable


def test_tensors_that_share_memory_come_back_apart():
    whole = torch.arange(4.0)
    back = round_trip({"a": whole, "b": whole[1:3], "c": [whole, 5]})
    back["a"].zero_()
    assert back["b"].tolist() == [1, 2]
    assert back["c"][0].tolist() == [0, 1, 2, 3]


def test_names_that_look_alike_do_not_collide():
    state = {"a.b": torch.tensor(1), "a": {"b": torch.tensor(2), "b'": torch.tensor(3)}}
    back = round_trip(state)
    assert (back["a.b"], back["a"]["b"], back["a"]["b'"]) == (1, 2, 3)


def test_a_numpy_generator_goes_on_exactly():
    generator = np.random.Generator(np.random.PCG64(5))
    generator.random(7)
    other = np.random.Generator(np.random.PCG64(0))
    other.bit_generator.state = round_trip({"rng": generator.bit_generator.state})["rng"]
    assert generator.random(5).tolist() == other.random(5).tolist()


def same(a, b):
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    if isinstance(a, list):
        return type(b) is list and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b and str(a) == str(b)


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
trees = st.recursive(
    leaves,
    lambda t: st.lists(t, max_size=4) | st.dictionaries(st.text("$tarinflo.", max_size=7), t),
    max_leaves=12,
)


@settings(deadline=None, derandomize=True)
@given(st.dictionaries(st.text("$array.t", max_size=7), trees))
def test_json_values_come_back_equal_in_type_value_and_order(state):
    assert same(state, round_trip(state))


def test_integers_of_any_length_and_ordered_dicts():
    state = OrderedDict(z=10**5000, a={"$tensor": {"$int": "x"}})
    back = round_trip(state)
    assert list(back) == ["z", "a"]
    assert (back["z"] - 10**5000, back["a"]) == (0, state["a"])


@pytest.mark.parametrize(
    "leaf",
    [
        (1, 2),
        {1},
        b"x",
        np.float64(1),
        np.int64(1),
        1j,
        print,
        np.array(["a"]),
        np.array([object()]),
        np.array([1], dtype=">i4"),
        np.array([1j]),
        torch.tensor([1j]),
        torch.eye(2).to_sparse(),
        {3: 1},
    ],
    ids=repr,
)
def test_what_cannot_be_stored_is_named(leaf):
    with pytest.raises(TypeError, match=r"^algo\.optim\.1"):
        pack(flatten({"algo": {"optim": [0, leaf]}})[1])


def test_files_are_readable_by_the_library(tmp_path):
    tensors = {"w": torch.randn(3, 5), "b": torch.tensor([True]), "n": torch.arange(2)}
    path = tmp_path / "x.safetensors"
    store.put(path, pack(tensors))
    back = safetensors.torch.load_file(path)
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


HEADER = b'{"x":{"dtype":"F32","shape":[%s],"data_offsets":[0,%d]}}'


def file_of(header, body=b""):
    return struct.pack("<Q", len(header)) + header + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04K\x01.",
        struct.pack("<Q", 2**40) + b"{}",
        struct.pack("<Q", 2**64 - 1),
        file_of(b"{" * 9),
        file_of(HEADER % (b"1", 4), b"abc"),
        file_of(HEADER % (b"1", 4), b"abcde"),
        file_of(HEADER % (b"1099511627776", 4), b"abcd"),
        file_of(HEADER % (b"-1", 4), b"abcd"),
        file_of((HEADER % (b"1", 4)).replace(b"F32", b"XX9"), b"abcd"),
        file_of(b" " * (store.HEADER_LIMIT + 1)),
    ],
    ids=range(11),
)
def test_hostile_tensor_files_are_refused_by_name(data):
    with pytest.raises(CheckpointError, match="evil"):
        unpack(data, Path("evil"))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"3",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a": {"$tensor": "none"}}',
        b'{"a": {"$array": []}}',
        b'{"a": {"$array": "t"}}',
        b'{"a": {"$tensor": "t"}, "b": {"$tensor": "t"}}',
        b'{"a": {"$int": "zz"}, "b": {"$tensor": "t"}}',
        b'{"a": {"$float": []}, "b": {"$tensor": "t"}}',
        b"{}",
    ],
    ids=range(12),
)
def test_hostile_json_is_refused_by_name(text):
    with pytest.raises(CheckpointError, match="evil"):
        unflatten(text, {"t": torch.ones(1, dtype=torch.bfloat16)}, Path("evil"))


def test_reading_refuses_what_is_no_plain_file_of_the_right_size(tmp_path):
    file = tmp_path / "file"
    stamp = store.put(file, [b"abc", memoryview(b"def")])
    assert read(file, stamp, 6) == b"abcdef"
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(file)
    os.mkfifo(pipe)
    with pytest.raises(CheckpointError, match="over the limit of 5"):
        read(file, None, 5)
    for path in (link, pipe, tmp_path, tmp_path / "none"):
        with pytest.raises(CheckpointError, match=path.name):
            read(path, stamp, 6)
        with pytest.raises(CheckpointError, match=path.name):
            read(path, None, 6000)
    file.write_bytes(b"abcdeg")
    with pytest.raises(CheckpointError, match="damaged"):
        read(file, stamp, 6)
    file.write_bytes(b"abcde")
    with pytest.raises(CheckpointError, match="5 bytes instead of 6"):
        read(file, stamp, 6)


def test_too_large_a_state_is_refused_when_written(monkeypatch):
    monkeypatch.setattr(store, "JSON_LIMIT", 10)
    with pytest.raises(ValueError, match="JSON"):
        flatten({"a": list(range(10))})
    monkeypatch.setattr(store, "HEADER_LIMIT", 10)
    with pytest.raises(ValueError, match="too many tensors"):
        pack({"a": torch.ones(1)})


def test_files_and_folders_are_synced_to_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle)))
    write_atomic(tmp_path / "small", "text")
    assert [info.st_ino for info in synced] == [
        (tmp_path / "small").stat().st_ino,
        tmp_path.stat().st_ino,
    ]
    assert synced[0].st_size == 4  # nothing was left in a buffer


def test_write_atomic_replaces_and_never_writes_through_a_link(tmp_path):
    target, other = tmp_path / "small", tmp_path / "other"
    other.write_text("untouched")
    (tmp_path / ".tmp-small").symlink_to(other)
    write_atomic(target, "old")
    write_atomic(target, b"new")
    assert target.read_text() == "new"
    assert other.read_text() == "untouched"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "small"]


@pytest.mark.parametrize("at", [1, 2])
def test_a_failed_write_leaves_the_old_file_alone(tmp_path, at):
    target = tmp_path / "small"
    target.write_text("old")
    with pytest.raises(OSError, match="injected"):
        write_atomic(target, "new content", FailingDisk(at))
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"small": "old"}


def test_removing_does_not_follow_links(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    folder = tmp_path / "folder"
    store.make_folder(folder / "a" / "b")
    (folder / "a" / "link").symlink_to(outside)
    store.remove(folder)
    assert [p.name for p in tmp_path.iterdir()] == ["outside"]
    assert (outside / "file").exists()
