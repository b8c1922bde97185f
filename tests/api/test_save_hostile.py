"""Files of models that are damaged or made with malice: refused, and nothing is run or written."""

import io
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from whole import every, fingerprint, make

from rlrun import ACER, UserError

SETTINGS = {"policy_kwargs": {"hidden": [2]}}


@pytest.fixture(scope="module")
def packed():
    """A model in a file, as bytes."""
    file = io.BytesIO()
    make("acer", every(n_envs=1), buffer_size=20, **SETTINGS).learn(30).save(file)
    return file.getvalue()


@pytest.fixture(scope="module")
def whole(packed):
    return fingerprint(ACER.load(io.BytesIO(packed), every(n_envs=1)))


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """Asserts that nothing was written but below a folder of its own, and nothing is left there."""
    room = tmp_path / "room"
    room.mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(room))
    monkeypatch.chdir(tmp_path / "here")
    before = sorted(tmp_path.rglob("*"))
    yield tmp_path
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/evil").exists()


def members(packed):
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def made(contents, compression=zipfile.ZIP_STORED):
    """A file of these members; a list for a name that is there more than once."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in contents.items() if isinstance(contents, dict) else contents:
            archive.writestr(name, data)
    return file.getvalue()


def load_or_refuse(data, kind=ACER, env=None, **changes):
    """The model's fingerprint; None if it is refused in the way that is promised."""
    env = every(n_envs=1) if env is None else env
    try:
        return fingerprint(kind.load(io.BytesIO(data), env, **changes))
    except UserError:
        return None


def test_all_is_well(packed, whole, watched):
    assert made(members(packed)) != b""
    assert load_or_refuse(made(members(packed))) == whole


def flips(packed):
    """A bit in all members' contents, in many of their headers, and all over the zip's end."""
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        infos, directory = archive.infolist(), archive.start_dir
    rng = np.random.default_rng(0)
    spots = []
    for info in infos:
        spots += range(info.header_offset, info.header_offset + 30, 2)
        begin = info.header_offset + 30 + len(info.filename)
        spots += rng.integers(begin, begin + info.file_size, 5).tolist()
    spots += [*range(directory, len(packed), 3), *range(len(packed) - 22, len(packed))]
    return [(spot, int(rng.integers(8))) for spot in spots]


def test_flipped_bits(packed, whole, watched):
    """Some of a zip's fields mean nothing (times, versions): then the model is the right one."""
    refused, wrong = 0, []
    for spot, bit in flips(packed):
        data = bytearray(packed)
        data[spot] ^= 1 << bit
        try:
            found = load_or_refuse(bytes(data))
        except Exception as error:
            wrong.append(f"byte {spot}, bit {bit}: {type(error).__name__}: {error}")
            continue
        refused += found is None
        if found not in (None, whole):
            wrong.append(f"byte {spot}, bit {bit}: another model was loaded")
    assert wrong == []
    assert refused > 100


def test_cut_off_and_drawn_out(packed, watched):
    for length in (0, 1, 21, 22, 100, len(packed) // 2, len(packed) - 23, len(packed) - 1):
        assert load_or_refuse(packed[:length]) is None
    for other in (b"PK", b"\x80\x04K\x01.", b"nonsense" * 100, bytes(5000)):
        assert load_or_refuse(other) is None
    hollow = packed[:200] + bytes(300) + packed[500:]
    assert load_or_refuse(hollow) is None


def test_compressed_members(packed, watched):
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        assert load_or_refuse(made(members(packed), compression)) is None
    bomb = members(packed) | {"config.yaml": bytes(10**8)}
    assert load_or_refuse(made(bomb, zipfile.ZIP_DEFLATED)) is None


STEP = "checkpoints/step-000000030"
NAMES = [
    "../evil",
    "/evil",
    "../../../../../../../../evil",
    f"{STEP}/../../../evil",
    f"{STEP}/../state.json",
    "replay/../../evil.safetensors",
    "..\\evil",
    "C:\\evil",
    "evil.py",
    "config.yaml/evil",
    "config.yaml\n",
    "checkpoints/",
    "checkpoints/evil",
    f"{STEP}/evil.json",
    f"{STEP}/state.json/evil",
    f"{STEP}/state.json ",
    "replay/evil.safetensors",
    "sitecustomize.py",
    "rlrun.lock",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_that_lead_astray(packed, whole, watched, name):
    """Before and after the right ones."""
    right = list(members(packed).items())
    for contents in ([(name, b"evil"), *right], [*right, (name, b"evil")]):
        assert load_or_refuse(made(contents)) is None


def test_more_than_there_should_be(packed, watched, recwarn):
    right = list(members(packed).items())
    assert load_or_refuse(made([*right, ("config.yaml", dict(right)["config.yaml"])])) is None
    assert load_or_refuse(made([*right, (f"{STEP}/state.json", b"{}")])) is None
    damaged = "checkpoints/step-000000099/"
    more = [(damaged + name, b"{}") for name in ("state.json", "manifest.json")]
    assert load_or_refuse(made([*right, *more])) != ""
    recwarn.clear()


REPLAY = "replay/000000002-000000006.safetensors"
OF_STEP = [f"{STEP}/{name}" for name in ("manifest.json", "state.json", "tensors.safetensors")]


@pytest.mark.parametrize("missing", ["config.yaml", REPLAY, *OF_STEP])
def test_less_than_there_should_be(packed, watched, missing):
    right = members(packed)
    del right[missing]
    assert load_or_refuse(made(right)) is None


def test_links(packed, watched):
    target = watched / "here" / "secret.yaml"
    info = zipfile.ZipInfo("config.yaml")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    right = members(packed)
    del right["config.yaml"]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(info, str(target))
        for name, data in right.items():
            archive.writestr(name, data)
    assert load_or_refuse(file.getvalue()) is None


def test_locked_members(packed, watched):
    """The flag of encryption, in the headers and in the directory."""
    data = bytearray(packed)
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        info = archive.getinfo("config.yaml")
        start = archive.start_dir
    data[info.header_offset + 6] |= 1
    data[start + 8] |= 1
    assert load_or_refuse(bytes(data)) is None


def test_contents_that_fit_the_zip_but_not_their_digests(packed, watched):
    right = members(packed)
    for name in (REPLAY, *OF_STEP):
        for at in (8, len(right[name]) // 2, len(right[name]) - 2):
            other = bytearray(right[name])
            other[at] ^= 1
            assert load_or_refuse(made(right | {name: bytes(other)})) is None


def test_a_giant_header(packed, watched):
    """A safetensors file that says its header has an exabyte."""
    right = members(packed)
    for name in (REPLAY, OF_STEP[2]):
        other = struct.pack("<Q", 1 << 60) + right[name][8:]
        assert load_or_refuse(made(right | {name: other})) is None
