import os
import pty
import struct
import subprocess
import sys
import termios
import textwrap
from fcntl import ioctl

import pyte
import pytest

SCRIPT = textwrap.dedent(
    """
    import logging, sys, time
    from pathlib import Path
    from rlrun.run import console
    from rlrun.run.console import Screen, farewell, log_to
    with log_to(Path(sys.argv[1]) / "run.log"):
        with Screen("ACER on X", {"folder": "a"}, 1000) as screen:
            for step in range(0, 1001, 20):
                screen.update(step, 100.0, {"loss/q": 1.0}, 3.0, 4.0)
                time.sleep(0.01)
            screen.evaluation(1000, 3.0, 1.0, 5)
            logging.getLogger("rlrun.x").warning("careful")
            screen.note("d\\u00e9j\\u00e0 vu")
    result = {"status": "finished", "step": 1000, "steps_per_second": 99.0, "eval": None}
    farewell(Path("a"), result, [("rlrun evaluate a", "Evaluate it")])
    print("rich" in sys.modules)
    """
)


@pytest.mark.parametrize(
    "extra",
    [
        {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1", "SLURM_JOB_ID": "7"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["forced colours", "POSIX"],
)
def test_no_escape_codes_in_a_pipe(tmp_path, extra):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env={**os.environ, **extra},
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""
    assert b"\x1b" not in done.stdout
    assert b"\r" not in done.stdout
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "ACER on X"
    assert "warning: careful" in lines
    assert ("déjà vu" if "FORCE_COLOR" in extra else "d?j? vu") in lines
    assert "step 1,000/1,000 (100 %)  return 3.0  100 steps/s" in lines
    assert lines[-1] == "False", "rich is not needed here"
    log = (tmp_path / "run.log").read_text()
    assert log.endswith(" WARNING careful\n")


def in_a_terminal(command, width, height, **extra):
    """Output of a command in a pseudo terminal."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in ("CI", "COLUMNS", "LINES")}
    env |= {"TERM": "xterm-256color", **extra}
    child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    output = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # the child has closed its end
            break
        if not data:
            break
        output += data
    os.close(ours)
    assert child.wait() == 0, output.decode()
    return output


@pytest.mark.parametrize("locale", ["C.UTF-8", "POSIX"])
def test_a_real_terminal(tmp_path, locale):
    flags = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"} if locale == "POSIX" else {}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    output = in_a_terminal(command, 80, 40, LC_ALL=locale, **flags)
    assert b"\x1b[?25l" not in output, "a killed run could not bring the cursor back"
    if locale == "POSIX":
        assert output.isascii()
    display = pyte.Screen(80, 40)
    pyte.ByteStream(display).feed(output)
    lines = [line.rstrip() for line in display.display]
    assert lines[0] == "ACER on X"
    assert lines[2] == "warning: careful"
    assert sum("progress" in line for line in lines) == 1
    assert any(line.endswith("100 %") for line in lines)
    assert "    rlrun evaluate a" in lines
    assert "\x1b" not in (tmp_path / "run.log").read_text()


def test_ci_is_no_terminal(tmp_path):
    output = in_a_terminal([sys.executable, "-c", SCRIPT, str(tmp_path)], 80, 40, CI="true")
    assert b"\x1b" not in output
    assert b"step 1,000/1,000" in output


def test_a_closed_pipe_does_not_end_the_run(tmp_path):
    text = SCRIPT.replace('print("rich" in sys.modules)', "Path(sys.argv[1], 'end').touch()")
    script = subprocess.Popen(
        [sys.executable, "-c", text, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    script.stdout.close()
    script.wait()
    assert (tmp_path / "end").exists()
