"""What a signal asks for: of a process of one's own, and of a job of a cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from rlrun.run.signals import cluster_signals, stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_request_to_stop(number: int) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert not stop
        assert stop.exit_code == 0
        os.kill(os.getpid(), number)
        assert stop
        assert stop.is_pressing
        assert stop.exit_code == 128 + number
    assert signal.getsignal(number) is before


def test_a_second_signal_ends_the_process() -> None:
    script = (
        "import os, signal\nfrom rlrun.run.signals import stop_on_signals\n"
        "with stop_on_signals():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 143


def test_a_job_saves_and_goes_on_at_sigterm_however_often_it_comes() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with cluster_signals() as job:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert job.save
        assert job.is_pressing
        assert not job
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGINT])
def test_a_job_stops_at_the_others(number: int) -> None:
    with cluster_signals() as job:
        os.kill(os.getpid(), number)
        assert job
        assert job.exit_code == 128 + number


def test_what_came_before_the_training_is_heard_by_it() -> None:
    with cluster_signals() as job:
        os.kill(os.getpid(), signal.SIGUSR2)
        with stop_on_signals() as stop:
            assert stop is job
        os.kill(os.getpid(), signal.SIGTERM)  # and still no end of the process
        assert job.save
    with stop_on_signals() as stop:
        assert stop is not job
