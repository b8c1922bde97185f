"""What is known of environments without starting one."""

import subprocess
import sys


def test_completion_needs_no_numpy():
    code = "import sys, rlrun.envs.registry; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
