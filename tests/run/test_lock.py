"""One process per run folder, whatever way the other one ended."""

import os
import signal
import subprocess
import sys

import pytest

from rlrun.run.lock import RunLock
from rlrun.schema import UserError

HOLD = """
import os, sys, time
from pathlib import Path
from rlrun.run.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.acquire()
worker = os.fork()
if worker == 0:
    time.sleep(60)
print(worker, flush=True)
time.sleep(60)
"""


def test_the_second_is_refused_and_the_lock_can_be_taken_again(tmp_path):
    folder = tmp_path / "a" / "run"
    with RunLock(folder):
        with pytest.raises(UserError) as refusal, RunLock(folder):
            pass
        assert str(folder) in str(refusal.value)
        assert f"pid {os.getpid()})" in str(refusal.value)
        with RunLock(tmp_path / "other"):
            pass
    with RunLock(folder) as lock:
        lock.release()
        with RunLock(folder):
            pass


def test_a_killed_process_holds_nothing_even_if_its_worker_lives_on(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    worker = 0
    try:
        assert holder.stdout is not None
        worker = int(holder.stdout.readline())
        with pytest.raises(UserError, match=rf"in use by another process \(pid {holder.pid}\)"):
            RunLock(tmp_path).acquire()
        holder.kill()
        holder.wait()
        os.kill(worker, 0)  # still there
        with RunLock(tmp_path):
            assert (tmp_path / "run.lock").read_text() == f"{os.getpid()}\n"
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
        if worker:
            os.kill(worker, signal.SIGKILL)


def test_the_lock_file_is_not_written_through_a_link(tmp_path):
    (tmp_path / "precious").write_text("text")
    (tmp_path / "run.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match="symbolic"):
        RunLock(tmp_path).acquire()
    assert (tmp_path / "precious").read_text() == "text"
