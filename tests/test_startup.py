"""What a training imports on its way to the first update, for that is where the seconds go."""

import subprocess
import sys

import pytest

NEEDLESS = {
    *("wandb", "tensorboard", "matplotlib", "PIL", "cv2", "pygame", "mujoco", "Box2D", "optuna"),
    *("torch._dynamo", "torch._inductor", "torch.onnx", "torch.utils.tensorboard"),
}
"""Views that are off, the picture that comes at the end, and machinery of PyTorch's compiler."""
ALGEBRA = {"sympy"}
"""PyTorch imports it when a backward pass is given gradients, as all but A2C do."""

SCRIPT = """
import sys
from rlrun import cli
from rlrun.run.trainer import Trainer

iterate = Trainer._iterate
def told(self):
    after = iterate(self)
    print("imported:", *sorted(sys.modules))
    return after
Trainer._iterate = told
sys.exit(cli.main())
"""


@pytest.mark.parametrize(
    ("words", "needless"),
    [
        (["algo=a2c"], NEEDLESS | ALGEBRA),
        (["algo=a2c", "policy=lstm"], NEEDLESS | ALGEBRA),
        (["algo=a2c", "env=PongNoFrameskip-v4", "env.n_envs=1"], NEEDLESS | ALGEBRA),
        (["algo=acer"], NEEDLESS),
        (["algo=acktr"], NEEDLESS),
    ],
)
def test_the_first_update_comes_without_what_it_does_not_need(words, needless, tmp_path):
    words = [*words, "experiment=none", "logger=files", "eval.episodes=0", "total_timesteps=1"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("imported:"))
    assert "torch" in line.split()
    assert needless & set(line.split()) == set()
