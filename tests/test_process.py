"""What the command tells its process before PyTorch is loaded."""

import ctypes
import json
import os
import subprocess
import sys

import pytest

from rlrun import process

NAMES = ("THP_MEM_ALLOC_ENABLE", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@pytest.fixture
def environment(monkeypatch):
    """The process as it was before: `tune` sets variables."""
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    return monkeypatch


def told():
    return {name: os.environ[name] for name in NAMES if name in os.environ}


def test_large_pages_and_short_waits(environment):
    process.tune()
    assert told() == {"THP_MEM_ALLOC_ENABLE": "1", "GOMP_SPINCOUNT": "5000"}


def test_what_the_user_has_set_stays(environment):
    environment.setenv("THP_MEM_ALLOC_ENABLE", "0")
    environment.setenv("OMP_WAIT_POLICY", "PASSIVE")
    process.tune()
    assert told() == {"THP_MEM_ALLOC_ENABLE": "0", "OMP_WAIT_POLICY": "PASSIVE"}


def test_a_libc_without_mallopt_is_left_alone(environment):
    environment.setattr(ctypes, "CDLL", lambda name: object())
    process.tune()


def test_the_command_tells_it_before_pytorch_is_there():
    code = (
        "import json, sys\n"
        "from rlrun import process\n"
        "process.tune = lambda: print(json.dumps('torch' in sys.modules))\n"
        "from rlrun import cli\n"
        "sys.argv = ['rlrun', '--version']\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[0]) is False
