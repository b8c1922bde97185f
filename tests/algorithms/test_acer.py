"""One update of ACER against the losses of the paper, and the bookkeeping around it."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlrun.algorithms.acer import ACER
from rlrun.data.rollout import Rollout
from rlrun.functional import schedules
from rlrun.optim.errors import NonFiniteUpdate
from rlrun.policies.mlp import MlpPolicy
from rlrun.run.rng import generator
from rlrun.schema import UserError, problems
from rlrun.schema import settings as settings_of

ENVS, STEPS, ACTIONS, FEATURES = 3, 5, 4, 6
DEFAULTS = {name: setting.default for name, setting in settings_of(ACER).items()}


def make(seed=0, average_noise=0.5, **settings):
    # Exact comparisons want float64; the memory stores float32.
    dtype = torch.float32 if settings.get("replay_ratio") else torch.float64
    space = spaces.Box(-np.inf, np.inf, (FEATURES,), np.float32)
    envs = SimpleNamespace(
        n_envs=ENVS,
        observation_space=space,
        action_space=spaces.Discrete(ACTIONS),
        frame_stack=1,
    )
    heads = ACER.heads(envs.action_space, DEFAULTS | settings)
    policy = MlpPolicy(space, heads, generator(seed, "init"), hidden=[8])
    for parameter in policy.parameters():  # far from uniform, so that everything matters
        noise = torch.randn(parameter.shape, generator=generator(seed, parameter.shape.__repr__()))
        parameter.data.add_(0.5 * noise)
    settings = {
        "n_steps": STEPS,
        "replay_ratio": 0.0,
        "buffer_size": 40,
        "replay_start": 0,
    } | settings
    algorithm = ACER(policy.to(dtype), envs, generator(seed, "replay"), **settings)
    noise = torch.Generator().manual_seed(seed + 1)
    for parameter in algorithm.average_parameters:
        parameter.add_(average_noise * torch.randn(parameter.shape, generator=noise, dtype=dtype))
    assert algorithm.average.policy.features is algorithm.actor.policy.features
    policy.features.register_forward_hook(lambda module, args, output: output.to(dtype))
    return algorithm


def act(algorithm, observations, rng):
    """Actions, statistics and state for these observations, each on its own."""
    n = len(observations)
    return algorithm.act(observations, torch.ones(n, dtype=torch.bool), torch.zeros(n, 0), rng)


def segment(algorithm, seed=0, fresh=False):
    dtype = algorithm.parameters[0].dtype
    g = torch.Generator().manual_seed(seed)
    observations = torch.randn(STEPS + 1, ENVS, FEATURES, generator=g)
    behaviour = torch.randn(STEPS, ENVS, ACTIONS, generator=g, dtype=dtype).softmax(-1)
    if fresh:
        probs = act(algorithm, observations[:-1].flatten(0, 1), g).statistics
        behaviour = probs.view(STEPS, ENVS, ACTIONS)
    final_index = torch.tensor([[0, 2], [2, 1], [4, 2]])
    truncated = torch.zeros(STEPS, ENVS, dtype=torch.bool)
    truncated[final_index[:, 0], final_index[:, 1]] = True
    terminated = torch.zeros(STEPS, ENVS, dtype=torch.bool)
    terminated[1, 0] = True
    return Rollout(
        observations=observations,
        actions=torch.randint(ACTIONS, (STEPS, ENVS), generator=g),
        rewards=torch.randn(STEPS, ENVS, generator=g, dtype=dtype),
        behaviour=behaviour,
        terminated=terminated,
        truncated=truncated,
        reset=torch.zeros(STEPS + 1, ENVS, dtype=torch.bool),
        state=torch.zeros(ENVS, 0),
        final_observations=torch.randn(3, FEATURES, generator=g),
        final_index=final_index,
    )


def gradients_of_update(algorithm, batch):
    """Gradients that reach the optimiser in one update, by parameter."""
    captured = []
    algorithm.optimizer.step = lambda *_: captured.extend(
        p.grad.clone() for p in algorithm.parameters
    )
    algorithm.update(batch, 0.0, log=False)
    return captured


def gradients_by_hand(
    algorithm, batch, c=10.0, q_coef=0.5, ent_coef=0.01, gamma=0.99, delta=float("inf")
):
    """Autograd of L_pi + q_coef L_Q - ent_coef H, Retrace and the projection as plain loops."""
    policy, eps = algorithm.actor.policy, 1e-6

    def outputs(observations):
        features = policy.features(observations)
        return policy.heads["policy"](features).softmax(-1), policy.heads["q"](features)

    states = batch.observations[:-1].flatten(0, 1)
    f, q = outputs(states)
    f, q = f.view(STEPS, ENVS, ACTIONS), q.view(STEPS, ENVS, ACTIONS)
    with torch.no_grad():
        last_values, final_values = (
            (probs * values).sum(-1).tolist()
            for probs, values in map(outputs, (batch.observations[-1], batch.final_observations))
        )
        finals = dict(zip(map(tuple, batch.final_index.tolist()), final_values, strict=True))
        v = (f * q).sum(-1)
        rho = f / (batch.behaviour + eps)
        q_ret = torch.empty(STEPS, ENVS, dtype=torch.float64)
        for b in range(ENVS):
            carry = last_values[b]
            for t in reversed(range(STEPS)):
                a = batch.actions[t, b]
                carry = 0.0 if batch.terminated[t, b] else finals.get((t, b), carry)
                q_ret[t, b] = batch.rewards[t, b] + gamma * carry
                trace = min(1.0, rho[t, b, a].item())
                carry = trace * (q_ret[t, b] - q[t, b, a]).item() + v[t, b].item()
        weight = (1 - c / rho).clamp(min=0) * f
        average = algorithm.average.policy.heads["policy"](policy.features(states)).softmax(-1)
    taken = batch.actions.unsqueeze(-1)

    leaf = f.detach().requires_grad_()  # the statistics, in whose space the projection happens
    log_f = (leaf + eps).log()
    advantage = (q_ret - v).unsqueeze(-1)
    truncated = log_f.gather(-1, taken) * rho.gather(-1, taken).clamp(max=c) * advantage
    correction = log_f * weight * (q.detach() - v.unsqueeze(-1))
    objective = truncated.sum() + correction.sum() - ent_coef * (leaf * log_f).sum()
    (g,) = torch.autograd.grad(objective, leaf)
    average = average.view_as(leaf)
    kl = (average * ((average + eps).log() - (leaf + eps).log())).sum()
    (k,) = torch.autograd.grad(kl, leaf)
    active = 0
    for t in range(STEPS):
        for b in range(ENVS):
            excess = (k[t, b] @ g[t, b]).item() - delta
            if excess > 0:
                active += 1
                g[t, b] -= excess / (k[t, b] @ k[t, b] + eps) * k[t, b]
    assert (0 < active < STEPS * ENVS) == (delta < float("inf"))
    q_loss = 0.5 * (q_ret - q.gather(-1, taken).squeeze(-1)).square().mean()
    loss = -(f * g).sum() / (STEPS * ENVS) + q_coef * q_loss
    return list(torch.autograd.grad(loss, algorithm.parameters))


@pytest.mark.parametrize("c", [0.5, 10.0])
@pytest.mark.parametrize("settings", [{"trust_region": False}, {"delta": float("inf")}])
def test_gradients_without_a_binding_trust_region_are_those_of_the_loss(settings, c):
    algorithm = make(max_grad_norm=None, correction_term=c, **settings)
    batch = segment(algorithm)
    by_hand = gradients_by_hand(algorithm, batch, c=c)
    torch.testing.assert_close(gradients_of_update(algorithm, batch), by_hand)


@pytest.mark.parametrize("delta", [0.0, 0.3, 1.0])
def test_gradients_with_a_binding_trust_region(delta):
    """The entropy bonus is inside the projection, and the KL is that of the average policy."""
    algorithm = make(max_grad_norm=None, delta=delta, ent_coef=0.3, correction_term=0.5)
    batch = segment(algorithm)
    by_hand = gradients_by_hand(algorithm, batch, c=0.5, ent_coef=0.3, delta=delta)
    torch.testing.assert_close(gradients_of_update(algorithm, batch), by_hand)


def test_a_binding_trust_region_changes_the_policy_and_leaves_the_critic():
    tight, loose = make(delta=0.0, max_grad_norm=None), make(trust_region=False, max_grad_norm=None)
    batch = segment(tight)
    names = [name for name, _ in tight.actor.named_parameters()]
    changed = [
        not torch.equal(a, b)
        for a, b in zip(
            gradients_of_update(tight, batch), gradients_of_update(loose, batch), strict=True
        )
    ]
    assert {n for n, c in zip(names, changed, strict=True) if c} == {
        name for name in names if name.startswith("policy.heads.policy")
    }


@pytest.mark.parametrize("bound", [0.01, 10.0, None])
def test_gradients_are_clipped_by_their_joint_norm(bound):
    free, bounded = make(max_grad_norm=None), make(max_grad_norm=bound)
    batch = segment(free)
    gradients = []
    for algorithm in (free, bounded):
        algorithm.update(batch, 0.0, log=False)
        squares = (algorithm.optimizer.squares - 0.99) / 0.01  # after the first step
        gradients.append(squares.clamp(min=0.0).sqrt())
    before, after = gradients
    scale = 1.0 if bound is None else min(1.0, bound / before.norm().item())
    torch.testing.assert_close(after, before * scale, rtol=1e-4, atol=1e-7)


def test_gradient_norms_are_logged_per_loss():
    algorithm = make(max_grad_norm=1e-3)
    batch = segment(algorithm)
    metrics = algorithm.update(batch, 0.0, log=True)
    # The towers share nothing, so the squares add up; the norm is that before clipping.
    parts = metrics["optim/grad_norm_policy"] ** 2 + metrics["optim/grad_norm_q"] ** 2
    assert metrics["optim/grad_norm"] == pytest.approx(parts**0.5, rel=1e-6)
    assert metrics["optim/grad_norm"] > 1e-3


def test_what_takes_passes_of_its_own_is_looked_at_only_closely():
    ours, others = (make(replay_start=0, replay_ratio=3.0) for _ in range(2))
    for _ in range(3):
        batch = segment(ours)
        closely = ours.update(batch, 0.0, True, True)
        short = others.update(batch, 0.0, True, False)
        assert short == {name: closely[name] for name in short}
        left = closely.keys() - short.keys()
        norms = {"optim/grad_norm_policy", "optim/grad_norm_q"}
        assert norms <= left
        assert ("replay/kl" in left) == (closely["replay/updates"] > 0)
        assert {name.partition("/")[0] for name in left - norms} <= {"replay"}
    torch.testing.assert_close(ours.actor.state_dict(), others.actor.state_dict(), rtol=0, atol=0)
    assert others.update(batch, 0.0, False, True) == {}


def test_fresh_segments_have_ratio_one():
    algorithm = make()
    metrics = algorithm.update(segment(algorithm, fresh=True), 0.0, log=True)
    assert metrics["importance/mean"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["importance/truncated_share"] == 0.0
    assert metrics["loss/bias_correction"] == 0.0


def test_average_policy_follows_every_gradient_step():
    algorithm = make(replay_ratio=3.0, alpha=0.9)
    expected = [p.clone() for p in algorithm.average_parameters]
    steps = []
    step = algorithm.optimizer.step

    def spy(learning_rate, bound):
        step(learning_rate, bound)
        steps.append(learning_rate)
        for mean, parameter in zip(expected, algorithm.parameters, strict=True):
            mean.mul_(0.9).add_(0.1 * parameter.detach())

    algorithm.optimizer.step = spy
    for seed in range(6):
        algorithm.update(segment(algorithm, seed), 0.0, log=False)
    assert len(steps) > 12
    assert set(steps) == {algorithm.learning_rate}  # replayed segments count as much
    torch.testing.assert_close(algorithm.average_parameters, expected)


def test_average_policy_starts_as_the_policy():
    algorithm = make(average_noise=0.0)
    for mean, theta in zip(algorithm.average_parameters, algorithm.parameters, strict=True):
        assert torch.equal(mean, theta)
        assert mean.data_ptr() != theta.data_ptr()


def test_greedy_actions_are_the_most_probable_ones():
    algorithm = make()
    observations = torch.randn(50, FEATURES, generator=torch.Generator().manual_seed(0))
    _, probs, _ = act(algorithm, observations, torch.Generator())
    assert torch.equal(act(algorithm, observations, None).actions, probs.argmax(-1))


def test_average_of_a_policy_that_stands_still():
    algorithm = make(alpha=0.99)
    start = [p.clone() for p in algorithm.average_parameters]
    algorithm.optimizer.step = lambda *_: None
    for seed in range(7):
        algorithm.update(segment(algorithm, seed), 0.0, log=False)
    for mean, first, theta in zip(
        algorithm.average_parameters, start, algorithm.parameters, strict=True
    ):
        torch.testing.assert_close(mean, theta + 0.99**7 * (first - theta))


def test_entropy_bonus_raises_entropy_when_nothing_else_matters():
    algorithm = make(q_coef=0.0, ent_coef=0.1, trust_region=False, gamma=0.0)
    for name, parameter in algorithm.actor.policy.named_parameters():
        if name.startswith("heads.q"):
            parameter.data.zero_()
    batch = segment(algorithm)
    batch.rewards.zero_()
    entropies = [algorithm.update(batch, 0.0, log=True)["policy/entropy"] for _ in range(30)]
    assert entropies[-1] > entropies[0] + 1e-4


def replays_per_update(algorithm, updates):
    counts = []
    learn = algorithm._learn
    algorithm._learn = lambda *args, **kwargs: counts.append(1) or {}
    batch = segment(algorithm)
    per_update = []
    for _ in range(updates):
        before = len(counts)
        algorithm.update(batch, 0.0, log=False)
        per_update.append(len(counts) - before - 1)
    algorithm._learn = learn
    return per_update


def test_replay_begins_when_the_memory_holds_replay_start_steps():
    algorithm = make(replay_ratio=50.0, buffer_size=5000, replay_start=1000)
    replays = replays_per_update(algorithm, 1000 // STEPS + 5)
    assert not any(replays[: 1000 // STEPS - 1])
    assert all(replays[1000 // STEPS - 1 :])


def test_number_of_replays_is_poisson():
    algorithm = make(replay_ratio=4.0)
    counts = np.array(replays_per_update(algorithm, 3000))
    assert counts.mean() == pytest.approx(4.0, abs=0.15)
    assert counts.var() == pytest.approx(4.0, abs=0.4)
    assert counts.min() == 0


def test_without_replay_there_is_no_memory():
    assert make(replay_ratio=0.0).memory is None


def test_learning_rate_follows_the_schedule_and_is_logged_as_used():
    algorithm = make(learning_rate=0.01)
    algorithm.lr_schedule = schedules.middle_drop
    metrics = algorithm.update(segment(algorithm), 0.5, log=True)
    assert metrics["optim/learning_rate"] == pytest.approx(0.01 * 0.075)


def test_a_gradient_that_is_not_finite_changes_nothing():
    algorithm = make()
    batch = segment(algorithm)
    batch.rewards[0, 0] = float("nan")
    before = copy.deepcopy(algorithm.state_dict())
    with pytest.raises(NonFiniteUpdate, match="nan"):
        algorithm.update(batch, 0.0, log=False)
    for name in ("actor", "average", "optimizer"):
        for key, value in before[name].items():
            assert torch.equal(value, algorithm.state_dict()[name][key])


def test_asking_for_metrics_changes_nothing():
    asked, silent = make(replay_ratio=2.0), make(replay_ratio=2.0)
    for seed in range(5):
        assert asked.update(segment(asked, seed), 0.1, log=True)
        assert silent.update(segment(silent, seed), 0.1, log=False) == {}
    for a, b in zip(asked.parameters, silent.parameters, strict=True):
        assert torch.equal(a, b)


def test_state_dict_carries_everything_but_the_entries():
    algorithm = make(replay_ratio=3.0)
    for seed in range(4):
        algorithm.update(segment(algorithm, seed), 0.0, log=False)
    other = make(seed=9, replay_ratio=3.0)
    assert not torch.equal(other.parameters[0], algorithm.parameters[0])
    memory = algorithm.memory
    entries = {k: v.clone() for k, v in memory.export(memory.first, memory.end).items()}
    other.memory.restore(memory.first, memory.end, entries)
    other.load_state_dict(copy.deepcopy(algorithm.state_dict()))
    for seed in range(4, 8):
        first = algorithm.update(segment(algorithm, seed), 0.0, log=True)
        assert other.update(segment(other, seed), 0.0, log=True) == first
    for a, b in zip(algorithm.parameters, other.parameters, strict=True):
        assert torch.equal(a, b)


def test_conflicts_between_settings():
    def wrong(**values):
        return problems(ACER, values, partial=True)

    assert not wrong(buffer_size=20, n_steps=20, replay_start=20)
    assert "buffer_size" in wrong(buffer_size=19, n_steps=20)[0]
    assert "replay_start" in wrong(buffer_size=100, replay_start=200)[0]
    assert not wrong(buffer_size=19, n_steps=20, replay_ratio=0)


@pytest.mark.parametrize(
    "space", [spaces.Box(0, 255, (2,), np.uint8), spaces.Dict(a=spaces.Discrete(2))]
)
def test_other_action_spaces_are_refused(space):
    with pytest.raises(UserError, match="Discrete"):
        ACER.heads(space, DEFAULTS)


def test_metrics_by_hand():
    """The logged numbers against plain formulas on the same batch."""
    algorithm = make(delta=0.3, ent_coef=0.3, correction_term=0.5)
    batch = segment(algorithm)
    with torch.no_grad():
        policy, average = algorithm.actor.policy, algorithm.average.policy
        features = policy.features(batch.observations[:-1].flatten(0, 1))
        f, q = policy.heads["policy"](features).softmax(-1), policy.heads["q"](features)
        average = average.heads["policy"](features).softmax(-1)
        taken = batch.actions.flatten().unsqueeze(-1)
        rho = (f / (batch.behaviour.flatten(0, 1) + 1e-6)).gather(-1, taken)
        entropy = torch.distributions.Categorical(f).entropy().mean().item()
        kl = (average * (average / f).log()).sum(-1).mean().item()
    metrics = algorithm.update(batch, 0.0, log=True)
    loss = metrics["loss/policy"] + 0.5 * metrics["loss/q"] - 0.3 * metrics["policy/entropy"]
    assert metrics["loss/total"] == pytest.approx(loss)
    assert metrics["loss/policy"] == pytest.approx(
        metrics["loss/truncated"] + metrics["loss/bias_correction"]
    )
    assert metrics["policy/entropy"] == pytest.approx(entropy, abs=1e-4)
    assert metrics["policy/value"] == pytest.approx((f * q).sum(-1).mean().item())
    assert metrics["importance/mean"] == pytest.approx(rho.mean().item())
    assert metrics["importance/truncated_share"] == pytest.approx(
        (rho > 0.5).double().mean().item()
    )
    assert metrics["trust_region/kl"] == pytest.approx(kl, abs=1e-3)
    assert 0.0 < metrics["trust_region/active_share"] < 1.0
    assert metrics["trust_region/norm_z"] < metrics["trust_region/norm_g"]
    assert metrics["loss/explained_variance"] < 1.0
