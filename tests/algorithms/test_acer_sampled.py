"""ACER where actions are drawn: its estimates and updates against plain loops and autograd."""

import copy
import inspect
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlrun.algorithms import segments
from rlrun.algorithms.a2c import A2C
from rlrun.algorithms.acer import ACER
from rlrun.algorithms.acer_exact import Exact
from rlrun.algorithms.acer_sampled import Sampled
from rlrun.algorithms.acktr import ACKTR
from rlrun.data.rollout import Rollout
from rlrun.functional.distributions import Factored, Gaussian, Joint, Probabilities
from rlrun.policies.layers import linear
from rlrun.policies.mlp import MlpPolicy
from rlrun.run.rng import generator

ENVS, STEPS, FEATURES, DRAWS = 3, 5, 4, 3
GAMMA = 0.97
BOX = spaces.Box(-np.inf, np.inf, (2,), np.float32)
BOUNDED = spaces.Box(np.float32([-0.5, -np.inf]), np.float32([2.5, 0.75]))
FACTORS = spaces.MultiDiscrete([2, 4, 3])
BITS = spaces.MultiBinary(3)
INF = float("inf")
SPACES = {"box": BOX, "bounded": BOUNDED, "factors": FACTORS, "bits": BITS}
OVER = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
BOX_AND_FACTORS = pytest.mark.parametrize("space", [BOX, FACTORS], ids=["box", "factors"])
OBSERVATIONS = spaces.Box(-np.inf, np.inf, (FEATURES,), np.float32)


class Trunk(MlpPolicy):
    """All heads read one layer, so that gradients of all of them meet."""

    def __init__(self, observation_space, heads, generator, **settings):
        super().__init__(observation_space, heads, generator, **settings)
        self.trunk = linear(FEATURES, FEATURES, 1.0, generator)

    def encode(self, features, segment):
        return self.trunk(features).tanh(), segment.state


def built(cls, space, seed=0, n_envs=ENVS, network=MlpPolicy, **settings):
    """An algorithm whose network is far from uniform, so that everything matters."""
    envs = SimpleNamespace(
        n_envs=n_envs, observation_space=OBSERVATIONS, action_space=space, frame_stack=1
    )
    parameters = inspect.signature(cls).parameters.values()
    values = {p.name: p.default for p in parameters} | settings
    policy = network(OBSERVATIONS, cls.heads(space, values), generator(seed, "init"), hidden=[8])
    for i, parameter in enumerate(policy.parameters()):
        parameter.data.add_(0.5 * torch.randn(parameter.shape, generator=generator(seed, str(i))))
    return cls(policy, envs, generator(seed, "replay"), **settings)


def make(space, seed=0, average_noise=0.3, **settings):
    # Exact comparisons want float64; the memory stores float32.
    settings = {
        "n_steps": STEPS,
        "gamma": GAMMA,
        "replay_ratio": 0.0,
        "buffer_size": 40,
        "replay_start": 0,
        "joint_actions": 0,
        "sdn_samples": DRAWS,
        "log_std_init": -0.3,
    } | settings
    dtype = torch.float32 if settings["replay_ratio"] else torch.float64
    algorithm = built(ACER, space, seed, **settings)
    for network in (algorithm.actor, algorithm.average):
        network.to(dtype)
    algorithm.optimizer.squares = algorithm.optimizer.squares.to(dtype)
    noise = torch.Generator().manual_seed(seed + 1)
    for p in algorithm.average_parameters:
        p.add_(average_noise * torch.randn(p.shape, generator=noise, dtype=dtype))
    features = algorithm.actor.policy.features
    features.register_forward_hook(lambda module, args, output: output.to(dtype))
    return algorithm


def segment(algorithm, seed=0, fresh=False):
    dtype = algorithm.parameters[0].dtype
    distribution = algorithm.estimator.distribution
    outputs = algorithm.estimator.outputs
    g = torch.Generator().manual_seed(seed)
    observations = torch.randn(STEPS + 1, ENVS, FEATURES, generator=g)
    behaviour = distribution.statistics(
        torch.randn(STEPS, ENVS, outputs, generator=g, dtype=dtype),
        0.5 * torch.randn(outputs, generator=g, dtype=dtype),
    )
    actions = distribution.sample(behaviour, g)
    if fresh:
        reset, state = torch.zeros(ENVS, dtype=torch.bool), torch.zeros(ENVS, 0)
        acted = [algorithm.act(rows, reset, state, g) for rows in observations[:-1]]
        actions = torch.stack([step.actions for step in acted])
        behaviour = torch.stack([step.statistics for step in acted])
    final_index = torch.tensor([[0, 2], [2, 1], [3, 0], [4, 2]])
    truncated = torch.zeros(STEPS, ENVS, dtype=torch.bool)
    truncated[final_index[:, 0], final_index[:, 1]] = True
    terminated = torch.zeros(STEPS, ENVS, dtype=torch.bool)
    terminated[1, 0] = terminated[3, 0] = True  # the latter at a limit of time, too
    return Rollout(
        observations=observations,
        actions=actions,
        rewards=torch.randn(STEPS, ENVS, generator=g, dtype=dtype),
        behaviour=behaviour,
        terminated=terminated,
        truncated=truncated,
        reset=torch.zeros(STEPS + 1, ENVS, dtype=torch.bool),
        state=torch.zeros(ENVS, 0),
        final_observations=torch.randn(len(final_index), FEATURES, generator=g),
        final_index=final_index,
    )


def oracle(space, statistics):
    """Logarithm of the probability of an action, and the entropy, by other means."""
    if isinstance(space, spaces.Box):
        mean, log_std = statistics.chunk(2, -1)
        normal = torch.distributions.Normal(mean, log_std.exp())
        return (lambda action: normal.log_prob(action).sum()), normal.entropy().sum()
    rows = statistics.split(sizes_of(space))
    entropy = -sum((row * (row + 1e-6).log()).sum() for row in rows)
    return (
        lambda action: sum((row[a] + 1e-6).log() for row, a in zip(rows, action, strict=True)),
        entropy,
    )


def sizes_of(space):
    return [2] * space.n if isinstance(space, spaces.MultiBinary) else space.nvec.tolist()


def divergence(space, average, statistics):
    """KL(average || statistics)."""
    if isinstance(space, spaces.Box):
        normals = [
            torch.distributions.Normal(mean, log_std.exp())
            for mean, log_std in (average.chunk(2), statistics.chunk(2))
        ]
        return torch.distributions.kl_divergence(*normals).sum()
    return (average * ((average + 1e-6).log() - (statistics + 1e-6).log())).sum()


def as_read(space, action):
    """An action as the critic reads it: clipped as the environment does, in units of its range."""
    if space is BOUNDED:
        first, second = action.tolist()
        return torch.tensor([min(max(first, -1.0), 1.0), min(second, 0.75)], dtype=torch.float64)
    if space is BOX:
        return action
    one_hots = [
        [float(i == a) for i in range(size)]
        for size, a in zip(sizes_of(space), action.tolist(), strict=True)
    ]
    return torch.tensor(list(itertools.chain(*one_hots)), dtype=torch.float64)


def gradient_of(value, leaf):
    return torch.autograd.grad(value, leaf)[0]


class ByHand:
    """Everything about a segment once more, one state and one draw at a time.

    Args:
        algorithm: in float64.
        space: of its actions.
        batch: the segment.
        seed: of the draws.
        c: level of the truncation.
        sdn, q_opc, trace_root: as in ACER.
    """

    def __init__(
        self, algorithm, space, batch, seed, c=10.0, sdn=True, q_opc=True, trace_root=True
    ):
        policy, log_std = algorithm.actor.policy, algorithm.actor.log_std
        self.space, self.c, self.batch = space, c, batch

        def latents(network, observation):
            return network.encode(observation.double(), SimpleNamespace(state=None))[0]

        def value(observation):
            return policy.heads["value"](latents(policy, observation)).squeeze()

        def advantage(observation, action):
            inputs = torch.cat([latents(policy, observation), as_read(space, action)])
            return policy.heads["advantage"](inputs).squeeze()

        def statistics(network, observation, log_std):
            output = network.heads["policy"](latents(network, observation))
            if isinstance(space, spaces.Box):
                return torch.cat([output, log_std])
            return torch.cat([row.softmax(-1) for row in output.split(sizes_of(space))])

        steps = list(itertools.product(range(STEPS), range(ENVS)))
        seen = {at: batch.observations[at] for at in steps}
        self.phi = [statistics(policy, seen[at], log_std) for at in steps]
        average = algorithm.average
        self.average = [statistics(average.policy, seen[at], average.log_std) for at in steps]
        stacked = torch.stack(self.phi).detach()
        self.drawn = algorithm.estimator.distribution.sample(
            stacked.expand(DRAWS, *stacked.shape), torch.Generator().manual_seed(seed)
        )
        self.v = [value(seen[at]) for at in steps]
        self.q, self.q_drawn, self.rho, self.rho_drawn = [], [], [], []
        for i, at in enumerate(steps):
            of_drawn = [advantage(seen[at], u) for u in self.drawn[:, i]]
            of_taken = advantage(seen[at], batch.actions[at])
            if sdn:
                self.q.append(self.v[i] + of_taken - sum(of_drawn) / DRAWS)
                others = [sum(x for x in of_drawn if x is not own) for own in of_drawn]
                self.q_drawn.append(
                    [
                        (self.v[i] + own - rest / (DRAWS - 1)).item()
                        for own, rest in zip(of_drawn, others, strict=True)
                    ]
                )
            else:
                self.q.append(of_taken)
                self.q_drawn.append([x.item() for x in of_drawn])
            pi, mu = (oracle(space, x)[0] for x in (self.phi[i], batch.behaviour[at]))

            def ratio(action, pi=pi, mu=mu):
                return math.exp((pi(action) - mu(action)).item())

            self.rho.append(ratio(batch.actions[at]))
            self.rho_drawn.append([ratio(u) for u in self.drawn[:, i]])
        d = 2 if isinstance(space, spaces.Box) else len(sizes_of(space))
        root = 1 / d if trace_root else 1.0
        self.q_ret = self._returns(value, [min(1.0, rho**root) for rho in self.rho])
        self.returns = self._returns(value, [1.0] * len(steps)) if q_opc else self.q_ret

    def _returns(self, value, traces):
        batch, finals = self.batch, {}
        for at, observation in zip(
            batch.final_index.tolist(), batch.final_observations, strict=True
        ):
            finals[tuple(at)] = value(observation).item()
        returns = [0.0] * len(traces)
        for b in range(ENVS):
            carry = value(batch.observations[-1, b]).item()
            for t in reversed(range(STEPS)):
                i = t * ENVS + b
                carry = 0.0 if batch.terminated[t, b] else finals.get((t, b), carry)
                returns[i] = batch.rewards[t, b].item() + GAMMA * carry
                carry = traces[i] * (returns[i] - self.q[i].item()) + self.v[i].item()
        return returns

    def objective(self, i, phi):
        """Truncated term and bias correction of a state, with gradients by its statistics."""
        log_prob, _ = oracle(self.space, phi)
        v = self.v[i].item()
        action = self.batch.actions.flatten(0, 1)[i]
        truncated = min(self.c, self.rho[i]) * (self.returns[i] - v) * log_prob(action)
        corrections = [
            max(0.0, 1.0 - self.c / rho) * (q - v) * log_prob(u)
            for rho, q, u in zip(self.rho_drawn[i], self.q_drawn[i], self.drawn[:, i], strict=True)
        ]
        return truncated, sum(corrections) / DRAWS

    def critic_loss(self):
        losses = []
        for q, v, q_ret, rho in zip(self.q, self.v, self.q_ret, self.rho, strict=True):
            v_target = min(1.0, rho) * (q_ret - q.item()) + v.item()
            losses.append(0.5 * (q_ret - q) ** 2 + 0.5 * (v_target - v) ** 2)
        return sum(losses) / len(losses)

    def projected(self, ent_coef, delta):
        """The policy gradient by the statistics of each state, within the trust region."""
        rows = []
        self.active = 0
        for i, phi in enumerate(self.phi):
            leaf = phi.detach().requires_grad_()
            bonus = ent_coef * oracle(self.space, leaf)[1]
            g = gradient_of(sum(self.objective(i, leaf)) + bonus, leaf)
            k = gradient_of(divergence(self.space, self.average[i].detach(), leaf), leaf)
            excess = (k @ g).item() - delta
            if excess > 0:
                self.active += 1
                g = g - excess / ((k @ k).item() + 1e-6) * k
            rows.append(g)
        return torch.stack(rows)


def estimates_of(algorithm, batch, seed=3):
    policy = algorithm.actor.policy
    observations, inner = segments.observed(batch)
    latents, _ = policy.encode(policy.features(observations), inner)
    statistics = algorithm.actor.statistics(latents)
    draws = torch.Generator().manual_seed(seed)
    return algorithm.estimator.estimates(policy, latents, statistics, batch, draws)


def doubles(values):
    return torch.tensor([torch.as_tensor(x).item() for x in values], dtype=torch.float64)


OPTIONS = [{}, {"sdn": False}, {"q_opc": False}, {"trace_root": False}]


@OVER
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_estimates_by_plain_loops(space, options):
    algorithm = make(space, correction_term=1.2, **options)
    batch = segment(algorithm)
    hand = ByHand(algorithm, space, batch, 3, 1.2, **options)
    found = estimates_of(algorithm, batch)
    n = STEPS * ENVS
    assert any(rho > 1.2 for rho in hand.rho)
    assert any(rho < 1.0 for rho in hand.rho)
    assert any(rho > 1.2 for rho in itertools.chain(*hand.rho_drawn))

    q, v, q_ret, rho = map(doubles, (hand.q, hand.v, hand.q_ret, hand.rho))
    torch.testing.assert_close(found.q, q)
    torch.testing.assert_close(found.values, v)
    torch.testing.assert_close(found.rho, rho)
    torch.testing.assert_close(found.q_ret, q_ret)
    torch.testing.assert_close(found.advantages, doubles(hand.returns) - v)
    torch.testing.assert_close(found.gradient, hand.projected(0.0, INF))
    terms = [hand.objective(i, phi) for i, phi in enumerate(hand.phi)]
    torch.testing.assert_close(found.losses()[0], -doubles(t for t, _ in terms))
    torch.testing.assert_close(found.losses()[1], -doubles(c for _, c in terms))

    of_q, of_v = found.errors
    torch.testing.assert_close(of_q, q - q_ret)
    expected = -rho.clamp(max=1.0) * (q_ret - q)
    if options.get("sdn") is False:  # V is then what the head says of the draws, on average
        expected = v - doubles([sum(drawn) / len(drawn) for drawn in hand.q_drawn])
    torch.testing.assert_close(of_v[:n], expected)
    bootstraps = ENVS + len(batch.final_index)
    assert of_v[n:].tolist() == [0.0] * bootstraps
    torch.testing.assert_close(found.outputs[0].detach(), q)
    torch.testing.assert_close(found.outputs[1].detach()[:n], v)
    assert [x.requires_grad for x in found.outputs] == [True, True]
    others = *found[:1], *found.errors, *found[3:8], *found.losses()
    assert not any(x.requires_grad for x in others)


@OVER
def test_what_each_option_changes(space):
    def estimates(**options):
        algorithm = make(space, correction_term=1.2, **options)
        return estimates_of(algorithm, segment(algorithm))

    default = estimates()

    def changed(found):
        names = ("q", "q_ret", "values", "advantages", "rho")
        return {n for n in names if not torch.equal(getattr(found, n), getattr(default, n))}

    assert changed(estimates()) == set()
    assert changed(estimates(sdn=False)) == {"q", "q_ret", "advantages"}
    assert changed(estimates(trace_root=False)) == {"q_ret"}
    plain = estimates(q_opc=False)
    assert changed(plain) == {"advantages"}
    assert torch.equal(plain.advantages, plain.q_ret - plain.values)
    assert all(map(torch.equal, plain.errors, default.errors))


@BOX_AND_FACTORS
def test_corrected_returns_do_not_depend_on_the_behaviour(space):
    algorithm = make(space)
    batch = segment(algorithm)
    other = copy.deepcopy(batch)
    other.behaviour = segment(algorithm, 1).behaviour
    first, second = (estimates_of(algorithm, b) for b in (batch, other))
    assert torch.equal(first.q, second.q)
    assert torch.equal(first.advantages, second.advantages)
    assert not torch.allclose(first.q_ret, second.q_ret)
    assert not torch.allclose(first.rho, second.rho)


def test_where_actions_are_drawn():
    def estimator(space, **settings):
        return make(space, **settings).estimator

    assert isinstance(estimator(BOX), Sampled)
    assert isinstance(estimator(BOX).distribution, Gaussian)
    assert estimator(FACTORS).distribution == Factored(Probabilities(), (2, 4, 3))
    assert isinstance(estimator(FACTORS, joint_actions=23), Sampled)
    assert estimator(FACTORS, joint_actions=24).distribution == Joint(Probabilities(), (2, 4, 3))
    assert isinstance(estimator(BITS, joint_actions=8), Exact)
    assert isinstance(estimator(spaces.Discrete(5)), Exact)
    assert [estimator(s).root for s in (BOX, FACTORS)] == [1 / 2, 1 / 3]
    assert estimator(spaces.MultiDiscrete([4])).root == 1.0  # with one component the identity
    low, high = estimator(spaces.Box(-3.0, np.float32([[5, 5], [5, np.inf]]), (2, 2))).bounds
    assert (low.tolist(), high.tolist()) == ([-1, -1, -1, -3], [1, 1, 1, INF])


def gradients_of_update(algorithm, batch, seed=3):
    """Gradients that reach the optimiser in one update, by name of the parameter."""
    algorithm.rng.manual_seed(seed)
    captured = []
    algorithm.optimizer.step = lambda *_: captured.extend(
        p.grad.clone() for p in algorithm.parameters
    )
    algorithm.update(batch, 0.0, log=False)
    names = [name for name, _ in algorithm.actor.named_parameters()]
    return dict(zip(names, captured, strict=True))


def gradients_by_hand(algorithm, space, batch, ent_coef, delta, c, q_coef=0.7):
    hand = ByHand(algorithm, space, batch, 3, c)
    z = hand.projected(ent_coef, delta)
    assert (0 < hand.active < len(z)) == (delta < INF)
    loss = -(torch.stack(hand.phi) * z).sum() / len(z) + q_coef * hand.critic_loss()
    named = dict(algorithm.actor.named_parameters())
    gradients = torch.autograd.grad(loss, list(named.values()))
    return dict(zip(named, gradients, strict=True)), z


@BOX_AND_FACTORS
@pytest.mark.parametrize(("delta", "network"), [(0.05, Trunk), (1.0, MlpPolicy)])
def test_gradients_with_a_binding_trust_region(space, delta, network):
    settings = {"correction_term": 1.2, "ent_coef": 0.3, "q_coef": 0.7, "max_grad_norm": None}
    algorithm = make(space, network=network, delta=delta, **settings)
    batch = segment(algorithm)
    by_hand, z = gradients_by_hand(algorithm, space, batch, 0.3, delta, 1.2)
    gradients = gradients_of_update(algorithm, batch)
    torch.testing.assert_close(gradients, by_hand)
    if space is BOX:
        torch.testing.assert_close(gradients["log_std"], -z[:, 2:].sum(0) / len(z))


@BOX_AND_FACTORS
@pytest.mark.parametrize(
    "settings",
    [{"trust_region": False}, {"delta": INF}, {"delta": INF, "network": Trunk}],
    ids=["off", "infinite", "infinite-shared"],
)
def test_gradients_without_a_binding_trust_region_are_those_of_the_loss(space, settings):
    """Of one scalar, entropy included, through everything that has a gradient."""
    settings = settings | {"ent_coef": 0.3, "q_coef": 0.7, "max_grad_norm": None}
    algorithm = make(space, correction_term=1.2, **settings)
    batch = segment(algorithm)
    hand = ByHand(algorithm, space, batch, 3, 1.2)
    terms = [
        sum(hand.objective(i, phi)) + 0.3 * oracle(space, phi)[1] for i, phi in enumerate(hand.phi)
    ]
    loss = -sum(terms) / len(terms) + 0.7 * hand.critic_loss()
    expected = torch.autograd.grad(loss, algorithm.parameters)
    torch.testing.assert_close(list(gradients_of_update(algorithm, batch).values()), list(expected))


@BOX_AND_FACTORS
def test_who_learns_from_what(space):
    """The policy's head from the policy gradient alone, the critic's heads from their losses."""

    def gradients(**settings):
        algorithm = make(space, max_grad_norm=None, **settings)
        return gradients_of_update(algorithm, segment(algorithm))

    none, half, whole = (gradients(q_coef=q_coef) for q_coef in (0.0, 0.5, 1.0))
    shift = "policy.heads.advantage.2.bias"  # cancels out of Q
    assert half.pop(shift).abs() < 1e-12
    for name, gradient in half.items():
        assert gradient.any()
        of_critic = name.startswith(("policy.heads.value", "policy.heads.advantage"))
        assert none[name].any() == (not of_critic)
        torch.testing.assert_close((2.0 if of_critic else 1.0) * gradient, whole[name])
    assert gradients(sdn=False)[shift].any()


@BOX_AND_FACTORS
def test_metrics_by_hand(space):
    algorithm = make(space, correction_term=0.5, ent_coef=0.3, q_coef=0.7, delta=0.05)
    batch = segment(algorithm)
    hand = ByHand(algorithm, space, batch, 3, 0.5)
    z = hand.projected(0.3, 0.05)
    algorithm.rng.manual_seed(3)
    metrics = algorithm.update(batch, 0.0, log=True)
    n = len(z)
    terms = [hand.objective(i, phi) for i, phi in enumerate(hand.phi)]
    entropy = sum(oracle(space, phi)[1] for phi in hand.phi) / n
    pairs = zip(hand.average, hand.phi, strict=True)
    q_errors = doubles(hand.q_ret) - doubles(hand.q)
    assert any(0.5 < rho < 1.0 for rho in hand.rho)
    expected = {
        "loss/truncated": -sum(t for t, _ in terms) / n,
        "loss/bias_correction": -sum(c for _, c in terms) / n,
        "loss/q": 0.5 * q_errors.square().mean(),
        "policy/entropy": entropy,
        "policy/value": sum(hand.v) / n,
        "policy/advantage": (doubles(hand.returns) - doubles(hand.v)).mean(),
        "importance/mean": sum(hand.rho) / n,
        "importance/truncated_share": sum(rho > 0.5 for rho in hand.rho) / n,
        "trust_region/kl": sum(divergence(space, a, phi) for a, phi in pairs) / n,
        "trust_region/active_share": hand.active / n,
        "trust_region/norm_z": z.norm(dim=-1).mean(),
    }
    expected["loss/policy"] = expected["loss/truncated"] + expected["loss/bias_correction"]
    critic = 0.7 * hand.critic_loss()
    expected["loss/total"] = expected["loss/policy"] + critic - 0.3 * entropy
    assert {name: metrics[name] for name in expected} == pytest.approx(
        {name: torch.as_tensor(value).item() for name, value in expected.items()}
    )
    parts = metrics["optim/grad_norm_policy"], metrics["optim/grad_norm_q"]
    assert metrics["optim/grad_norm"] == pytest.approx(math.hypot(*parts))


@OVER
def test_fresh_segments_have_ratio_one_and_no_correction(space):
    algorithm = make(space)
    batch = segment(algorithm, fresh=True)
    found = estimates_of(algorithm, batch)
    torch.testing.assert_close(found.rho, torch.ones_like(found.rho))
    assert not found.losses()[1].any()
    metrics = algorithm.update(batch, 0.0, log=True)
    assert metrics["importance/truncated_share"] == 0.0
    assert metrics["loss/bias_correction"] == 0.0


@OVER
@pytest.mark.parametrize("trust_region", [True, False])
def test_one_update_raises_entropy_when_nothing_else_matters(space, trust_region):
    algorithm = make(space, average_noise=0.0, ent_coef=0.1, trust_region=trust_region)
    heads = algorithm.actor.policy.heads
    for parameter in [*heads["value"].parameters(), *heads["advantage"].parameters()]:
        parameter.data.zero_()
    batch = segment(algorithm)
    batch.rewards.zero_()
    assert not estimates_of(algorithm, batch).gradient.any()
    before, after = (algorithm.update(batch, 0.0, log=True) for _ in range(2))
    assert before["loss/q"] == 0.0
    assert after["policy/entropy"] > before["policy/entropy"] + 1e-6


def one_state(space, envs, seed=0):
    """A single step in `envs` copies of one state, with one action, far from the policy's own."""
    g = torch.Generator().manual_seed(seed)
    observations = torch.randn(2, 1, FEATURES, generator=g).expand(2, envs, FEATURES)
    behaviour = torch.tensor([0.05, 0.9, 0.03, 0.02], dtype=torch.float64)
    no = torch.zeros(1, envs, dtype=torch.bool)
    actions = torch.full((1, envs, 1), 2)
    return Rollout(
        observations=observations,
        actions=actions if isinstance(space, spaces.MultiDiscrete) else actions.squeeze(-1),
        rewards=torch.full((1, envs), 1.5, dtype=torch.float64),
        behaviour=behaviour.expand(1, envs, 4),
        terminated=no,
        truncated=no,
        reset=torch.zeros(2, envs, dtype=torch.bool),
        state=torch.zeros(envs, 0),
        final_observations=torch.empty(0, FEATURES),
        final_index=torch.empty(0, 2, dtype=torch.int64),
    )


@pytest.mark.parametrize("c", [0.5, 3.0, INF])
@pytest.mark.parametrize("q_opc", [True, False])
def test_one_sampled_factor_is_the_discrete_space_in_expectation(c, q_opc):
    """With Q tied to V exactly, by the sum over all actions, and two draws per state."""
    copies = 20_000
    space = spaces.MultiDiscrete([4])
    algorithm = make(space, n_envs=copies, sdn_samples=2, correction_term=c, q_opc=q_opc)
    found = estimates_of(algorithm, one_state(space, copies))

    policy = algorithm.actor.policy
    batch = one_state(spaces.Discrete(4), 1)
    latents = policy.features(batch.observations.flatten(0, 1))
    f = algorithm.actor.statistics(latents)
    every = torch.eye(4, dtype=torch.float64).unsqueeze(1).expand(4, len(latents), 4)
    a = policy.head("advantage", latents.expand(4, *latents.shape), every).squeeze(-1).T
    tied = policy.head("value", latents) + a - (f * a).sum(-1, keepdim=True)
    network = SimpleNamespace(head=lambda name, _: {"q": tied}[name])
    exact = Exact(spaces.Discrete(4), gamma=GAMMA, c=c).estimates(network, latents, f, batch, None)

    torch.testing.assert_close(found.rho, exact.rho.expand(copies), atol=0, rtol=1e-4)
    for name in ("values", "q_ret", "advantages"):  # no later state draws anything
        torch.testing.assert_close(getattr(found, name), getattr(exact, name).expand(copies))
    for name in ("q", "gradient"):
        mean, expected = getattr(found, name).mean(0), getattr(exact, name)[0]
        noise = getattr(found, name).std(0) / copies**0.5
        bound = 4.5 * noise + 1e-4 * (1.0 + expected.abs())
        assert ((mean - expected).abs() <= bound).all(), name
    assert (found.gradient.std(0) > 0.01).any() == (c < INF)
    mean = found.losses()[1].mean()
    noise = 4.5 * found.losses()[1].std() / copies**0.5
    assert mean.item() == pytest.approx(exact.losses()[1].item(), abs=noise.item() + 1e-4)


def twin_rollouts(space, n_statistics, logits, seed, envs=ENVS):
    g = torch.Generator().manual_seed(seed)
    sizes = sizes_of(space)
    behaviour = torch.randn(STEPS, envs, n_statistics, generator=g)
    if not logits:
        rows = behaviour.split(sizes if n_statistics == sum(sizes) else n_statistics, -1)
        behaviour = torch.cat([row.softmax(-1) for row in rows], -1)
    no = torch.zeros(STEPS, envs, dtype=torch.bool)
    return Rollout(
        observations=torch.randn(STEPS + 1, envs, FEATURES, generator=g),
        actions=torch.stack([torch.randint(n, (STEPS, envs), generator=g) for n in sizes], -1),
        rewards=torch.randn(STEPS, envs, generator=g),
        behaviour=behaviour,
        terminated=torch.rand(STEPS, envs, generator=g) < 0.2,
        truncated=no,
        reset=torch.zeros(STEPS + 1, envs, dtype=torch.bool),
        state=torch.zeros(envs, 0),
        final_observations=torch.empty(0, FEATURES),
        final_index=torch.empty(0, 2, dtype=torch.int64),
    )


REPLAY = {"n_steps": STEPS, "buffer_size": 40, "replay_start": 0, "replay_ratio": 2.0}


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (ACER, REPLAY | {"joint_actions": 0}),
        (ACER, REPLAY | {"joint_actions": 256}),
        (A2C, {}),
        (ACKTR, {"cold_iter": 1, "kfac_update": 2}),
    ],
    ids=["acer", "acer-joint", "a2c", "acktr"],
)
def test_bits_are_factors_of_two(cls, settings):
    """The same metrics and parameters, bit for bit."""
    bits, factors = (
        built(cls, space, **settings) for space in (BITS, spaces.MultiDiscrete([2, 2, 2]))
    )
    start = trained(bits)[0].clone()
    for seed in range(5):
        batch = twin_rollouts(BITS, bits.n_statistics, cls is not ACER, seed)
        first, second = (a.update(copy.deepcopy(batch), 0.1, log=True) for a in (bits, factors))
        for metrics in (first, second):
            metrics.pop("time/decomposition", None)
        assert first == second
        assert first["policy/entropy"] > 0
    assert all(map(torch.equal, trained(bits), trained(factors)))
    assert not torch.equal(trained(bits)[0], start)


def trained(algorithm):
    network = algorithm.actor
    return list(network.parameters())


def test_joint_actions_are_those_of_one_discrete_space():
    """The same updates, replayed ones included, as of the raveled actions, bit for bit."""
    space = spaces.MultiDiscrete([2, 3])
    joint = built(ACER, space, **REPLAY, joint_actions=256)
    single = built(ACER, spaces.Discrete(6), **REPLAY)
    for seed in range(5):
        batch = twin_rollouts(space, 6, False, seed)
        raveled = copy.deepcopy(batch)
        actions = np.ravel_multi_index(batch.actions.movedim(-1, 0).numpy(), (2, 3))
        raveled.actions = torch.from_numpy(actions)
        first = joint.update(batch, 0.1, log=True)
        assert first == single.update(raveled, 0.1, log=True)
        if seed == 4:
            assert first["replay/updates"] > 0
    assert all(map(torch.equal, trained(joint), trained(single)))


def test_replay_keeps_raw_rewards_and_the_learner_sees_them_on_the_scale_of_now():
    algorithm = make(BOX, replay_ratio=2.0, normalize_rewards=True)
    scale, memory, estimator = algorithm.reward_scale, algorithm.memory, algorithm.estimator
    observed, sampled, learnt = [], [], []
    observe, sample, estimates = scale.observe, memory.sample, estimator.estimates

    def spy_on_observe(rollout):
        observed.append(rollout)
        observe(rollout)

    def spy_on_sample(rng):
        batch, ages = sample(rng)
        sampled.append(batch.rewards.clone())
        return batch, ages

    def spy_on_estimates(policy, latents, statistics, batch, rng):
        learnt.append(batch.rewards.clone())
        return estimates(policy, latents, statistics, batch, rng)

    scale.observe, memory.sample = spy_on_observe, spy_on_sample
    estimator.estimates = spy_on_estimates
    replayed = 0
    for seed in range(8):
        batch = segment(algorithm, seed)
        batch.rewards *= 10.0**seed  # the deviation is another one each time
        raw = batch.rewards.clone()
        sampled.clear()
        learnt.clear()
        algorithm.update(batch, 0.0, log=False)
        assert len(observed) == seed + 1
        assert observed[-1] is batch
        assert torch.equal(batch.rewards, raw)
        newest = memory.read(torch.full((ENVS,), memory.end - 1))
        assert torch.equal(newest.rewards, raw)
        assert len(learnt) == 1 + len(sampled)
        for rewards, seen in zip([raw, *sampled], learnt, strict=True):
            expected = (rewards / scale.deviation).clamp(-10.0, 10.0)
            torch.testing.assert_close(seen, expected)
        replayed += len(sampled)
    assert replayed > 8


def test_scaled_rewards_are_cut_off_at_ten():
    algorithm = make(BOX, normalize_rewards=True)
    batch = segment(algorithm)
    quiet = copy.deepcopy(batch)
    quiet.rewards.zero_()
    for _ in range(300):
        algorithm.reward_scale.observe(quiet)
    batch.rewards.zero_()
    batch.rewards[2, 1], batch.rewards[4, 0] = 100.0, -100.0
    seen = []
    estimates = algorithm.estimator.estimates
    algorithm.estimator.estimates = lambda *args: seen.append(args[3].rewards) or estimates(*args)
    algorithm.update(batch, 0.0, log=False)
    expected = torch.zeros(STEPS, ENVS, dtype=torch.float64)
    expected[2, 1], expected[4, 0] = 10.0, -10.0
    assert torch.equal(seen[0], expected)


def test_average_of_the_deviation_follows_it():
    algorithm = make(BOX, alpha=0.9)
    average, own = algorithm.average.log_std, algorithm.actor.log_std
    assert average is not own
    expected = average.clone()
    for seed in range(4):
        before = own.detach().clone()
        algorithm.update(segment(algorithm, seed), 0.0, log=False)
        assert not torch.equal(own, before)
        expected = 0.9 * expected + 0.1 * own.detach()
    torch.testing.assert_close(average.detach(), expected)


@BOX_AND_FACTORS
def test_state_dict_carries_everything_but_the_entries(space):
    settings = {"replay_ratio": 2.0, "normalize_rewards": True}
    algorithm = make(space, **settings)
    for seed in range(4):
        algorithm.update(segment(algorithm, seed), 0.0, log=False)
    state = copy.deepcopy(algorithm.state_dict())
    other = make(space, seed=9, **settings)
    memory = algorithm.memory
    entries = {k: v.clone() for k, v in memory.export(memory.first, memory.end).items()}
    other.memory.restore(memory.first, memory.end, entries)
    other.load_state_dict(state)
    if space is BOX:
        assert torch.equal(other.actor.log_std, algorithm.actor.log_std)
        assert torch.equal(other.average.log_std, algorithm.average.log_std)
        assert not torch.equal(other.actor.log_std, other.average.log_std)
    assert other.reward_scale.deviation == algorithm.reward_scale.deviation != 1.0
    for seed in range(4, 8):
        batch = segment(algorithm, seed)
        first = algorithm.update(batch, 0.0, log=True)
        assert other.update(copy.deepcopy(batch), 0.0, log=True) == first
    for a, b in zip(trained(algorithm), trained(other), strict=True):
        assert torch.equal(a, b)
    assert all(map(torch.equal, algorithm.average_parameters, other.average_parameters))


def test_asking_for_metrics_changes_nothing():
    asked, silent = make(BOX, replay_ratio=2.0), make(BOX, replay_ratio=2.0)
    for seed in range(4):
        batch = segment(asked, seed)
        assert asked.update(batch, 0.1, log=True)
        assert silent.update(batch, 0.1, log=False) == {}
    assert all(map(torch.equal, trained(asked), trained(silent)))


def test_without_a_dueling_network_v_still_finds_the_value():
    """One state, reward 1 for every action: V must come back from far away."""
    algorithm = make(spaces.Box(-1, 1, (2,)), sdn=False, ent_coef=0.0, learning_rate=0.05)
    algorithm.actor.policy.heads["value"][-1].bias.data.fill_(5.0)
    batch = segment(algorithm)
    batch.rewards.fill_(1.0)
    batch.terminated.fill_(True)
    batch.truncated.fill_(False)
    batch.final_index, batch.final_observations = (
        batch.final_index[:0],
        batch.final_observations[:0],
    )
    for i in range(600):
        algorithm._learn(batch, 0.05 if i < 300 else 0.005, log=False)
    assert abs(estimates_of(algorithm, batch).values.mean() - 1.0) < 0.2
