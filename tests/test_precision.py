"""The options that trade exactness for speed: bfloat16 and compiled encoders."""

import pytest
import torch

from rlrun import A2C, runs, stored
from rlrun.build import assemble
from rlrun.config import check, compose, run_folder
from rlrun.evaluation import loaded
from rlrun.schema import UserError

SMALL = ["env=PongNoFrameskip-v4", "env.n_envs=2", "algo.n_steps=3", "policy.filters=[4,4,4]"]


def parts_of(*words):
    return assemble(check(compose([*SMALL, "policy.features_dim=16", "threads=1", *words])))


def rollout_and_metrics(parts):
    rollout = parts.collector.collect(parts.algorithm.act)
    metrics = parts.algorithm.update(rollout, 0.5, log=True)
    parts.collector.envs.close()
    return rollout, metrics


@pytest.mark.parametrize("policy", ["cnn", "lstm"])
@pytest.mark.parametrize("algo", ["acer", "acktr", "a2c"])
def test_in_bfloat16_layers_compute_and_everything_else_stays_in_float32(algo, policy):
    parts = parts_of(f"algo={algo}", f"policy={policy}", "precision=bf16")
    seen = []
    for module in parts.algorithm.actor.policy.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda m, args, output: seen.append(output.dtype))
    rollout, metrics = rollout_and_metrics(parts)
    assert set(seen) == {torch.bfloat16}
    assert rollout.behaviour.dtype == rollout.state.dtype == torch.float32
    actor = parts.algorithm.actor
    assert {p.dtype for p in actor.parameters()} == {torch.float32}
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in actor.parameters())
    assert all(torch.isfinite(torch.tensor(value)) for value in metrics.values())


def test_bfloat16_is_near_and_not_the_same():
    outputs = []
    for precision in "fp32", "bf16":
        parts = parts_of("algo=a2c", "policy=cnn", f"precision={precision}")
        observations = torch.full((2, 4, 84, 84), 100, dtype=torch.uint8)
        state, reset = torch.zeros(2, 0), torch.ones(2, dtype=torch.bool)
        outputs.append(parts.algorithm.actor.encode(observations, reset, state)[0])
        parts.collector.envs.close()
    exact, rounded = outputs
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05 * exact.abs().max().item())
    assert not torch.equal(rounded, exact)


def test_acktr_refuses_compiled_layers():
    with pytest.raises(UserError, match=r"compile=none, or algo=acer or algo=a2c"):
        parts_of("algo=acktr", "policy=cnn", "compile=default")


def test_a_missing_compiler_is_told_and_runs_that_were_compiled_need_none(monkeypatch, tmp_path):
    from torch._inductor import cpp_builder

    def none():
        raise RuntimeError("no compiler")

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler.*or use compile=none"):
        parts_of("algo=a2c", "policy=cnn", "compile=default", "device=cpu")

    monkeypatch.chdir(tmp_path)
    words = [*SMALL, "algo=a2c", "policy=cnn", "eval.episodes=0", "total_timesteps=6"]
    config = check(compose([*words, "logger=files"]))
    assert runs.train(config, words) == 0
    folder = run_folder(config)
    compiled = stored.dump({**config, "compile": "default"})
    (folder / "config.yaml").write_text(compiled)
    assert loaded(folder, "last", None, [])[0]["compile"] == "none"
    assert A2C.load(folder, compile="none").config["compile"] == "none"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("algo", ["acer", "a2c"])
def test_a_compiled_encoder_gives_the_same_up_to_rounding(algo):
    weights = []
    for mode in "none", "default":
        parts = parts_of(f"algo={algo}", "policy=cnn", f"compile={mode}")
        rollout_and_metrics(parts)
        weights.append([p.detach() for p in parts.algorithm.actor.parameters()])
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("algo", ["acer", "a2c"])
def test_policies_without_an_encoder_cannot_be_compiled(algo):
    with pytest.raises(UserError, match=r"no encoder.*policy=cnn or policy=lstm"):
        assemble(check(compose([f"algo={algo}", "compile=default"])))
