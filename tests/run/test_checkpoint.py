"""Checkpoints: exact, committed or absent, verified, and never lost to a crash or a full disk."""

import dataclasses
import errno
import hashlib
import logging
import os
import resource
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from model_disk import FailingDisk, FakeLog, RecordingDisk, crashes, plant, tree_of

from rlrun.run import checkpoint, manifest
from rlrun.run.checkpoint import Checkpointer, NoIntactCheckpoint
from rlrun.run.manifest import verify
from rlrun.run.store import CheckpointError, Stamp

QUICK = FailingDisk(at=0)
"""Never fails, and does not wait for the disk."""


def state_of(step, salt=0):
    return {
        "weights": {"w": torch.full((2, 2), step + salt / 8)},
        "counts": np.array([step, salt]),
        "step": step,
        "salt": salt,
    }


def open_run(folder, keep=2, disk=QUICK):
    return Checkpointer(Path(folder), keep, disk=disk)


def write(saver, step, log, *, salt=0, best=False, add=2):
    log.add(add, salt)
    return saver.save(step, state_of(step, salt), log, best=best, meta={"note": salt})


def content(saver, path):
    """What a checkpoint holds, in a form that can be compared."""
    log = FakeLog()
    state, meta = saver.load(path, log)
    assert torch.equal(
        state["weights"]["w"], state_of(state["step"], state["salt"])["weights"]["w"]
    )
    assert state["counts"].tolist() == [state["step"], state["salt"]]
    assert meta == {"note": state["salt"]}
    return state["step"], state["salt"], log.content()


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints at the steps 1, 2 and 3; keep=2 has removed the first."""
    log, saver = FakeLog(), open_run(tmp_path / "run")
    for step in (1, 2, 3):
        write(saver, step, log)
    return tmp_path / "run"


def test_layout(run):
    assert names(run) == ["checkpoints", "replay"]
    assert names(run / "checkpoints") == ["step-000000002", "step-000000003"]
    files = ["manifest.json", "state.json", "tensors.safetensors"]
    assert names(run / "checkpoints" / "step-000000003") == files
    # The ring holds the entries 1..5; all segments still have some of them.
    segments = ["000000000-000000002", "000000002-000000004", "000000004-000000006"]
    assert names(run / "replay") == [f"{name}.safetensors" for name in segments]


def test_everything_comes_back(run):
    saver = open_run(run)
    latest = saver.latest()
    assert latest.name == "step-000000003"
    step, _, entries = content(saver, latest)
    assert step == 3
    assert [number for number, *_ in entries] == [1, 2, 3, 4, 5]
    assert entries[-1] == (5, [5, 0, 7], pytest.approx(5 / 3))


def test_entries_that_left_the_window_are_not_given_back(run):
    log = FakeLog()
    open_run(run).load(run / "checkpoints" / "step-000000003", log)
    assert log.restored == [(1, 2), (2, 4), (4, 6)]


def test_a_run_without_history_and_without_checkpoints(tmp_path):
    saver = open_run(tmp_path / "run")
    assert saver.latest() is None
    assert saver.best() is None
    saver.save(5, {"x": 1.5}, None, meta={})
    saver.save(6, {"x": 2.5}, None, meta={"y": float("inf")})
    assert saver.load(saver.latest(), None) == ({"x": 2.5}, {"y": float("inf")})
    with pytest.raises(CheckpointError, match="without a history"):
        saver.load(saver.latest(), FakeLog())


def test_segments_are_written_once_and_dropped_with_the_window(tmp_path):
    disk = RecordingDisk(tmp_path)
    (tmp_path / "run").mkdir()
    log, saver = FakeLog(), open_run(tmp_path / "run", keep=1, disk=disk)
    for step in range(1, 9):
        write(saver, step, log)
    written = [op[1][-1] for op in disk.operations if op[0] == "write" and "replay" in op[1]]
    assert len(written) == len(set(written)) == 8
    assert names(tmp_path / "run" / "replay") == written[-3:]


def test_a_window_that_ran_away_is_saved_whole(tmp_path):
    log, saver = FakeLog(), open_run(tmp_path / "run", keep=1)
    write(saver, 1, log)
    path = write(saver, 2, log, add=50)
    assert names(tmp_path / "run" / "replay") == ["000000047-000000052.safetensors"]
    assert [n for n, *_ in content(saver, path)[2]] == [47, 48, 49, 50, 51]


def test_long_histories_are_split(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SEGMENT_BYTES", 15)  # an entry has 3 + 4 bytes
    log, saver = FakeLog(), open_run(tmp_path / "run")
    path = write(saver, 1, log, add=5)
    assert [(s.start, s.stop) for s in verify(path).segments] == [(0, 2), (2, 4), (4, 5)]
    assert content(saver, path)[2] == log.content()


def test_only_one_piece_of_a_history_is_held_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SEGMENT_BYTES", 15)
    held = []

    def alone(function):
        def called(*args):
            assert not [piece for piece in held if piece() is not None]
            tensors = function(*args)
            held.extend(weakref.ref(tensor) for tensor in tensors.values())
            return tensors

        return called

    log, saver = FakeLog(), open_run(tmp_path / "run")
    monkeypatch.setattr(log, "export", alone(log.export))
    path = write(saver, 1, log, add=5)
    again = FakeLog()
    reading, unpack = [], checkpoint.unpack

    def unpacked(data, path):
        return alone(unpack)(data, path) if "replay" in path.parts else unpack(data, path)

    monkeypatch.setattr(checkpoint, "unpack", unpacked)
    monkeypatch.setattr(again, "restore", lambda *row: reading.append(row[:2]))
    saver.load(path, again)
    assert reading == [(0, 2), (2, 4), (4, 5)]
    assert len(held) == 2 * (1 + 3 + 3)


def test_a_history_that_does_not_follow_is_refused(run):
    saver = open_run(run)
    saver.load(saver.latest(), FakeLog())
    with pytest.raises(ValueError, match=r"window 0\.\.2 does not follow"):
        write(saver, 4, FakeLog())
    assert open_run(run).latest().name == "step-000000003"


def test_resuming_goes_on_appending(run):
    log, saver = FakeLog(), open_run(run)
    saver.load(saver.latest(), log)
    path = write(saver, 4, log)
    assert [(s.start, s.stop) for s in verify(path).segments] == [(2, 4), (4, 6), (6, 8)]
    assert content(saver, path)[2] == log.content()


def test_going_on_from_an_older_checkpoint_forgets_the_newer_one(run, caplog):
    log, saver = FakeLog(), open_run(run)
    saver.load(run / "checkpoints" / "step-000000002", log)
    path = write(saver, 3, log, salt=9)  # the same numbers, other entries
    assert "step-000000003: the run went on from step-000000002" in caplog.text
    step, salt, entries = content(open_run(run), path)
    assert (step, salt) == (3, 9)
    assert [frame[1] for _, frame, _ in entries] == [0, 0, 0, 9, 9]
    assert names(run / "checkpoints") == ["step-000000002", "step-000000003"]


def test_a_stale_segment_is_not_taken_for_the_new_one(run):
    """The segment of an abandoned future stays on the disk until the next save."""
    stale = (run / "replay" / "000000004-000000006.safetensors").read_bytes()
    log, saver = FakeLog(), open_run(run)
    saver.load(run / "checkpoints" / "step-000000002", log)
    path = write(saver, 3, log, salt=9)
    assert (run / "replay" / "000000004-000000006.safetensors").read_bytes() != stale
    (run / "replay" / "000000004-000000006.safetensors").write_bytes(stale)
    with pytest.raises(CheckpointError, match="000000004-000000006"):
        verify(path)


def test_a_run_with_checkpoints_cannot_be_started_over_by_accident(run):
    before = tree_of(run)
    with pytest.raises(CheckpointError, match="load one to go on"):
        write(open_run(run), 9, FakeLog())
    reader = open_run(run)
    reader.load(reader.latest(), None)  # as an evaluation does
    with pytest.raises(CheckpointError, match="load one to go on"):
        write(reader, 9, FakeLog())
    assert tree_of(run) == before


def test_steps_do_not_go_backwards(run):
    saver = open_run(run)
    saver.load(saver.latest(), log := FakeLog())
    with pytest.raises(ValueError, match="before the last"):
        write(saver, 2, log)


def test_saving_the_same_step_again_replaces_it_and_keeps_its_mark(run):
    log, saver = FakeLog(), open_run(run)
    saver.load(saver.latest(), log)
    write(saver, 4, log, best=True)
    path = write(saver, 4, log, salt=1, add=0)
    assert content(open_run(run), path)[1] == 1
    assert saver.best() == saver.latest() == path
    assert names(run / "checkpoints") == ["step-000000003", "step-000000004"]


def test_retention_keeps_the_newest_and_the_one_best(tmp_path):
    log, saver = FakeLog(), open_run(tmp_path / "run")
    kept = []
    for step in range(1, 8):
        write(saver, step, log, best=step in (2, 4))
        kept.append([int(p.name[5:]) for p in saver.paths()])
    assert kept == [[1], [1, 2], [2, 3], [3, 4], [4, 5], [4, 5, 6], [4, 6, 7]]
    assert saver.best().name == "step-000000004"
    best = content(open_run(tmp_path / "run"), saver.best())
    assert [number for number, *_ in best[2]] == [3, 4, 5, 6, 7]


def test_leftovers_are_cleaned_at_the_next_save(run):
    (run / "checkpoints" / ".tmp-step-000000009").mkdir()
    (run / "checkpoints" / ".tmp-step-000000009" / "state.json").touch()
    (run / "checkpoints" / ".trash-step-000000001").mkdir()
    (run / "replay" / "000000006-000000008.safetensors").write_bytes(b"torn")
    (run / "replay" / "notes.txt").touch()
    saver = open_run(run)
    saver.load(saver.latest(), log := FakeLog())
    write(saver, 4, log)
    assert names(run / "checkpoints") == ["step-000000003", "step-000000004"]
    segments = ["000000000-000000002", "000000002-000000004", "000000004-000000006"]
    assert names(run / "replay") == [
        *(f"{name}.safetensors" for name in [*segments, "000000006-000000008"]),
        "notes.txt",
    ]
    assert content(open_run(run), saver.latest())[2] == log.content()


# Corruption


def test_any_flipped_bit_is_found(tmp_path):
    saver = open_run(tmp_path, keep=1)
    log = FakeLog()
    log.add(1)
    path = saver.save(1, {"w": torch.ones(2)}, log, meta={})
    for file in [*path.iterdir(), *(tmp_path / "replay").iterdir()]:
        intact = file.read_bytes()
        handle = os.open(file, os.O_WRONLY)
        for place, byte in enumerate(intact):
            for bit in range(8):
                os.pwrite(handle, bytes([byte ^ 1 << bit]), place)
                with pytest.raises(CheckpointError):
                    verify(path)
            os.pwrite(handle, bytes([byte]), place)
        os.close(handle)
    verify(path)


def test_any_truncation_or_extension_is_found(tmp_path):
    saver = open_run(tmp_path, keep=1)
    log = FakeLog()
    log.add(1)
    path = saver.save(1, {"w": torch.ones(2)}, log, meta={})
    for file in [*path.iterdir(), *(tmp_path / "replay").iterdir()]:
        intact = file.read_bytes()
        for wrong in [*(intact[:size] for size in range(len(intact))), intact + b"\0"]:
            file.write_bytes(wrong)
            with pytest.raises(CheckpointError, match=file.name):
                verify(path)
            with pytest.raises(CheckpointError, match=file.name):
                saver.load(path, FakeLog())
        file.write_bytes(intact)
    verify(path)


def damages(run):
    newest, older = (run / "checkpoints" / f"step-00000000{step}" for step in (3, 2))
    replay = run / "replay"
    first, _, last = sorted(replay.iterdir())

    def swap(a, b):
        os.rename(a, run / "x")
        os.rename(b, a)
        os.rename(run / "x", b)

    yield "state missing", lambda: (newest / "state.json").unlink()
    yield "tensors missing", lambda: (newest / "tensors.safetensors").unlink()
    yield "manifest missing", lambda: (newest / "manifest.json").unlink()
    yield "segment missing", last.unlink
    yield "extra file", lambda: (newest / "extra").touch()
    yield "extra folder", lambda: (newest / "extra").mkdir()
    yield "files swapped", lambda: swap(newest / "state.json", newest / "tensors.safetensors")
    for name in ("state.json", "tensors.safetensors", "manifest.json"):
        yield f"{name} of another", lambda n=name: shutil.copy(older / n, newest / n)
    yield "segment of another", lambda: shutil.copy(first, last)
    yield "folder renamed", lambda: os.rename(newest, newest.with_name("step-000000004"))
    yield (
        "file is a link",
        lambda: (
            os.rename(newest / "state.json", run / "elsewhere"),
            (newest / "state.json").symlink_to(run / "elsewhere"),
        ),
    )
    yield (
        "folder is a link",
        lambda: (
            os.rename(newest, run / "elsewhere"),
            newest.symlink_to(run / "elsewhere"),
        ),
    )
    yield "is a file", lambda: (shutil.rmtree(newest), newest.touch())
    yield "empty", lambda: (shutil.rmtree(newest), newest.mkdir())


DAMAGES = 16


@pytest.mark.parametrize("case", range(DAMAGES))
def test_damage_is_loud_and_the_older_checkpoint_is_taken(run, case, caplog):
    cases = list(damages(run))
    assert len(cases) == DAMAGES
    cases[case][1]()
    saver = open_run(run)
    assert saver.latest().name == "step-000000002"
    assert "Skipping a damaged checkpoint" in caplog.text
    log = FakeLog()
    saver.load(saver.latest(), log)
    write(saver, 3, log, salt=1)
    assert names(run / "checkpoints") == ["step-000000002", "step-000000003"]
    assert content(open_run(run), saver.latest())[1:] == (1, log.content())


def test_damage_to_the_checkpoint_of_a_running_training_does_not_spread(run):
    saver = open_run(run, keep=1)
    saver.load(saver.latest(), log := FakeLog())
    for path in saver.paths():
        (path / "state.json").write_text("{}")
    path = write(saver, 4, log)
    assert open_run(run).latest() == path
    assert content(open_run(run), path)[2] == log.content()


def test_the_replaced_checkpoint_of_a_step_serves_if_the_new_one_is_damaged(run):
    newest = run / "checkpoints" / "step-000000003"
    shutil.copytree(newest, newest.with_name("step-000000003.old"))
    flipped = (newest / "state.json").read_bytes().replace(b"3", b"4")
    (newest / "state.json").write_bytes(flipped)
    saver = open_run(run)
    assert saver.latest().name == "step-000000003.old"
    saver.load(saver.latest(), log := FakeLog())
    path = write(saver, 3, log, salt=1, add=0)
    assert path == newest
    assert open_run(run).latest() == path
    assert names(run / "checkpoints") == ["step-000000002", "step-000000003"]


def test_a_reader_looks_again_when_the_training_replaces_what_it_reads(run, caplog, monkeypatch):
    training = open_run(run, keep=1)
    training.load(training.latest(), log := FakeLog())
    reads = []

    def overtaken(path, **options):
        if not reads:
            reads.append(None)
            reads[0] = write(training, 4, log)
        return verify(path, **options)

    monkeypatch.setattr(checkpoint, "verify", overtaken)
    assert open_run(run).latest() == reads[0]
    assert caplog.text == ""


def test_nothing_intact_is_an_error_of_its_own(run):
    for path in open_run(run).paths():
        (path / "state.json").write_text("{}")
    saver = open_run(run)
    with pytest.raises(NoIntactCheckpoint, match="no intact checkpoint"):
        saver.latest()
    assert saver.best() is None
    with pytest.raises(CheckpointError):
        write(saver, 9, FakeLog())


def test_swapped_segments_are_found(run):
    first, second, _ = sorted((run / "replay").iterdir())
    content_of_first = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content_of_first)
    with pytest.raises(NoIntactCheckpoint):
        open_run(run).latest()


def reseal(path):
    """Make the manifest agree with what lies in the folder, as a forger would."""
    old = manifest.Manifest.parse((path / "manifest.json").read_bytes(), path)
    files = {}
    for name in old.files:
        data = (path / name).read_bytes()
        files[name] = Stamp(len(data), hashlib.sha256(data).hexdigest())
    (path / "manifest.json").write_bytes(dataclasses.replace(old, files=files).text())


def test_a_forged_digest_does_not_help_a_bad_content(run):
    path = run / "checkpoints" / "step-000000003"
    for name, data in [
        ("tensors.safetensors", b"\x80\x04cos\nsystem\n."),
        ("tensors.safetensors", b"\xff" * 100),
        ("state.json", b"[" * 100_000),
        ("state.json", b'{"__reduce__": {"$tensor": "../../x"}}'),
    ]:
        intact = (path / name).read_bytes()
        (path / name).write_bytes(data)
        reseal(path)
        with pytest.raises(CheckpointError, match=name):
            open_run(run).load(path, FakeLog())
        (path / name).write_bytes(intact)
    reseal(path)
    open_run(run).load(path, FakeLog())


def test_forged_manifests_are_refused(run):
    path = run / "checkpoints" / "step-000000003"
    good = verify(path)
    first, second, third = good.segments
    huge = dataclasses.replace(first, stamp=Stamp(1 << 50, "0"))
    for changes in [
        {"step": 4},
        {"step": -3},
        {"step": "3"},
        {"window": (1, 7)},
        {"window": (1,)},
        {"window": None},
        {"segments": ()},
        {"segments": (first, third)},
        {"segments": (first, second, second)},
        {"segments": (huge, second, third)},
        {"files": {**good.files, "../state.json": Stamp(1, "0")}},
        {"files": {"state.json": good.files["state.json"]}},
        {"files": {**good.files, "state.json": Stamp(-1, "0")}},
    ]:
        forged = dataclasses.replace(good, **changes)
        (path / "manifest.json").write_bytes(forged.text())
        with pytest.raises(CheckpointError):
            verify(path, digests=False)
    (path / "manifest.json").write_bytes(good.text())
    verify(path)


def test_another_format_is_named(run, monkeypatch):
    path = run / "checkpoints" / "step-000000003"
    monkeypatch.setattr(manifest, "SCHEMA", 7)
    with pytest.raises(CheckpointError, match="format 1; this rlrun reads 7"):
        verify(path)


def test_only_folders_of_the_run_are_loaded(run, tmp_path):
    other = tmp_path / "other" / "checkpoints"
    shutil.copytree(run / "checkpoints", other)
    with pytest.raises(CheckpointError, match="not in"):
        open_run(run).load(other / "step-000000003", None)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        open_run(run).load(run / "checkpoints" / ".tmp-step-000000003", None)


def test_linked_folders_are_not_written_into(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "replay").symlink_to(tmp_path / "outside")
    with pytest.raises(CheckpointError, match="symbolic link"):
        write(open_run(tmp_path / "run"), 1, FakeLog())
    assert names(tmp_path / "outside") == []


# Crashes


def record(tmp_path, play):
    """Run `play(folder, disk)` on a recording disk; give the tree before it and what it did."""
    folder = tmp_path / "run"
    folder.mkdir(exist_ok=True)
    start = tree_of(folder)
    disk = RecordingDisk(folder)
    return start, disk, play(folder, disk)


def violations(tmp_path, start, operations, allowed):
    """Recover from a power loss at every instant; give the outcomes that must not be."""
    seen = set()
    for done, tree in crashes(start, operations):
        case = repr((tree, allowed(done)))
        if case in seen:
            continue
        seen.add(case)
        folder = tmp_path / f"after-{len(seen)}"
        plant(tree, folder)
        saver = open_run(folder)
        try:
            path = saver.latest()
            outcome = None if path is None else content(saver, path)
        except CheckpointError as error:
            yield done, str(error)
            continue
        if outcome not in allowed(done):
            yield done, outcome
            continue
        # The recovered run goes on, and whatever lay about is gone after its next save.
        log = FakeLog()
        if path is not None:
            saver.load(path, log)
        write(saver, 9, log, salt=3)
        after = content(open_run(folder), saver.latest())
        assert after == (9, 3, log.content())
        needed = {s.name for p in saver.paths() for s in verify(p).segments}
        assert set(names(folder / "replay")) == needed
        assert all(name.startswith("step-") for name in names(folder / "checkpoints"))
        shutil.rmtree(folder)
    assert len(seen) > 30


def play_saves(folder, disk):
    """Four saves with retention: what may be found after n operations."""
    log, saver = FakeLog(), open_run(folder, disk=disk)
    timeline = [(0, None)]
    for step in (1, 2, 3, 4):
        path = write(saver, step, log, best=step == 1)
        timeline.append((len(disk.operations), content(open_run(folder), path)))
    return timeline


def previous_or_new(timeline):
    def allowed(done):
        committed = [value for end, value in timeline if end <= done]
        return [committed[-1], *(value for end, value in timeline if end > done)][:2]

    return allowed


@pytest.fixture
def quiet(caplog):
    """Power loss must never look like damage: no warning of a skipped checkpoint."""
    yield
    assert "Skipping" not in caplog.text


@pytest.mark.usefixtures("quiet")
def test_power_loss_at_any_instant_leaves_the_previous_or_the_new(tmp_path):
    start, disk, timeline = record(tmp_path, play_saves)
    assert list(violations(tmp_path, start, disk.operations, previous_or_new(timeline))) == []


@pytest.mark.usefixtures("quiet")
def test_power_loss_while_the_same_step_is_saved_again(run, tmp_path):
    def play(folder, disk):
        log, saver = FakeLog(), open_run(folder, disk=disk)
        before = content(saver, saver.latest())
        saver.load(saver.latest(), log)
        path = write(saver, 3, log, salt=1, add=0)
        return [(0, before), (len(disk.operations), content(open_run(folder), path))]

    start, disk, timeline = record(tmp_path, play)
    assert list(violations(tmp_path, start, disk.operations, previous_or_new(timeline))) == []


@pytest.mark.usefixtures("quiet")
def test_power_loss_while_an_abandoned_future_is_removed(run, tmp_path):
    def play(folder, disk):
        log, saver = FakeLog(), open_run(folder, disk=disk)
        before = [content(open_run(folder), path) for path in saver.paths()]
        saver.load(saver.paths()[0], log)
        path = write(saver, 3, log, salt=1)
        return [*before, content(open_run(folder), path)]

    start, disk, outcomes = record(tmp_path, play)
    assert list(violations(tmp_path, start, disk.operations, lambda done: outcomes)) == []


@pytest.mark.parametrize("folder", ["checkpoints", "replay", ".tmp-step-000000002"])
def test_the_model_of_power_loss_misses_no_forgotten_sync(tmp_path, folder):
    start, disk, timeline = record(tmp_path, play_saves)
    harmless = ("sync", ())
    forgetful = [
        harmless if op[0] == "sync" and op[1][-1:] == (folder,) else op for op in disk.operations
    ]
    assert forgetful != disk.operations
    assert any(violations(tmp_path, start, forgetful, previous_or_new(timeline)))


# Errors of the disk


def operations_of_a_save(run, tmp_path):
    copy = tmp_path / "count"
    shutil.copytree(run, copy)
    saver = open_run(copy)
    saver.load(saver.latest(), log := FakeLog())
    disk = RecordingDisk(copy)
    saver._disk = disk
    write(saver, 4, log)
    return len(disk.operations)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("for_good", [False, True])
def test_an_error_at_any_operation_keeps_the_former_checkpoint(run, tmp_path, code, for_good):
    before = content(open_run(run), run / "checkpoints" / "step-000000003")
    total = operations_of_a_save(run, tmp_path)
    assert total >= 15
    raised, codes = 0, set()
    for at in range(1, total + 1):
        folder = tmp_path / f"at-{at}"
        shutil.copytree(run, folder)
        saver = open_run(folder, disk=FailingDisk(at, code, for_good))
        saver.load(saver.latest(), log := FakeLog())
        log.add(2)
        try:
            saver.save(4, state_of(4), log, meta={"note": 0})
            expected = (4, 0, log.content())
        except OSError as error:
            codes.add(error.errno)
            raised += 1
            expected = before
        found = content(open_run(folder), open_run(folder).latest())
        assert found == expected or (for_good and found == (4, 0, log.content()))
        if expected == before and not for_good:
            assert names(folder / "checkpoints") == ["step-000000002", "step-000000003"]
            assert len(names(folder / "replay")) == 3
        # The training goes on, and the disk has room again.
        saver._disk = QUICK
        path = write(saver, 5, log, salt=1)
        assert content(open_run(folder), path) == (5, 1, log.content())
        assert len(names(folder / "checkpoints")) == 2
        shutil.rmtree(folder)
    assert 8 < raised < total
    assert codes == {code}


def test_a_failed_clean_up_is_told_and_completed_later(run, tmp_path, caplog):
    total = operations_of_a_save(run, tmp_path)
    saver = open_run(run, disk=FailingDisk(total - 2))
    saver.load(saver.latest(), log := FakeLog())
    write(saver, 4, log)
    assert "Could not remove old checkpoints" in caplog.text
    assert any(name.startswith(".trash") for name in names(run / "checkpoints"))
    saver._disk = QUICK
    write(saver, 5, log)
    assert names(run / "checkpoints") == ["step-000000004", "step-000000005"]


def test_a_real_limit_of_the_file_size(run):
    saver = Checkpointer(run, 2)
    saver.load(saver.latest(), log := FakeLog())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            saver.save(4, {"w": torch.zeros(50_000)}, log, meta={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(run / "checkpoints") == ["step-000000002", "step-000000003"]
    assert saver.latest().name == "step-000000003"


def test_a_state_that_cannot_be_stored_leaves_the_disk_alone(run):
    before = tree_of(run)
    saver = open_run(run)
    saver.load(saver.latest(), log := FakeLog())
    with pytest.raises(TypeError, match=r"optim\.state: cannot store a function"):
        saver.save(4, {"optim": {"state": lambda: 0}}, log, meta={})
    with pytest.raises(TypeError, match="meta: x is a tensor"):
        saver.save(4, {}, log, meta={"x": torch.ones(1)})
    assert tree_of(run) == before


def test_a_rough_history_is_refused(tmp_path):
    class Ragged(FakeLog):
        def export(self, start, stop):
            return {"frame": torch.zeros(3)}

    with pytest.raises(CheckpointError, match="not one row for each of 2"):
        write(open_run(tmp_path / "run"), 1, Ragged())
    assert names(tmp_path / "run" / "replay") == []


def test_logging_uses_the_logger_of_the_package():
    assert checkpoint.logger is logging.getLogger("rlrun")
