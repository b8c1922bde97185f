"""Behaviour cloning: what is minimised, what is left alone, and what comes of it."""

import re

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.nn import functional

from rlrun.api.imitation.dataset import ExpertDataset
from rlrun.api.imitation.expert import generate_expert_traj
from rlrun.api.imitation.pretrain import clone_behaviour
from rlrun.functional.distributions import Categorical, Joint, Probabilities
from rlrun.optim.errors import NonFiniteUpdate
from rlrun.policies.actor import Actor, distribution_of, factors
from rlrun.policies.base import Head, Segment
from rlrun.policies.cnn import CnnPolicy
from rlrun.policies.lstm import LstmPolicy
from rlrun.policies.mlp import MlpPolicy
from rlrun.policies.moments import normalize
from rlrun.spaces import acting, tensor_dtype
from tests.tasks import Every

POLICIES = {
    "mlp": (MlpPolicy, {"hidden": [32]}),
    "cnn": (CnnPolicy, {"filters": [4, 4, 4], "features_dim": 32}),
    "lstm": (
        LstmPolicy,
        {"lstm_size": 32, "before": [16], "filters": [4, 4, 4], "features_dim": 32},
    ),
}
VECTOR = spaces.Box(-np.inf, np.inf, (3,))


def actor_of(observed, acted, policy="mlp", seed=0, base=None, joint=False, scaled=False, **more):
    """An actor as the algorithms have it, with one head more; `base` Probabilities is ACER's."""
    base = base or Categorical()
    distribution, outputs = distribution_of(acted, base)
    if joint:
        distribution = Joint(base, factors(acted))
        outputs = int(np.prod(distribution.sizes))
    make, settings = POLICIES[policy]
    heads = {"policy": Head(outputs), "value": Head(1)}
    net = make(observed, heads, torch.Generator().manual_seed(seed), **(settings | more))
    if scaled:
        net.features = normalize(net.features, observed)
    return Actor(net, distribution, outputs, -0.5)


def dataset(obs, actions, lengths=None, **settings):
    lengths = lengths or [len(obs)]
    starts = np.zeros(len(obs), bool)
    starts[np.cumsum([0, *lengths[:-1]])] = True
    data = {"obs": obs, "actions": actions, "episode_starts": starts}
    data["episode_returns"] = np.zeros(len(lengths))
    return ExpertDataset(traj_data=data, **{"verbose": 0, "train_fraction": 1.0, **settings})


def weights(actor):
    return {name: tensor.clone() for name, tensor in actor.state_dict().items()}


def changed(actor, before):
    """Names of what is not what it was, bit for bit."""
    return {
        name
        for name, tensor in actor.state_dict().items()
        if tensor.flatten().view(torch.uint8).ne(before[name].flatten().view(torch.uint8)).any()
    }


def losses(capsys):
    """Training and validation losses that were printed, `[epochs, 2]`."""
    found = re.findall(
        r"training loss (\S+?)(?:, validation loss (\S+))?\n", capsys.readouterr().out
    )
    return np.array([[float(train), float(val or "nan")] for train, val in found])


def evaluate(actor, env_id, episodes, seed):
    """Mean return of the most probable actions."""
    env = gymnasium.make(env_id)
    act, dtype = acting(env.action_space), tensor_dtype(env.observation_space)
    returns = np.zeros(episodes)
    env.reset(seed=seed)
    for episode in range(episodes):
        obs, _ = env.reset()
        state, first, over = torch.zeros(1, actor.policy.state_size), True, False
        while not over:
            shown = torch.as_tensor(obs, dtype=dtype).unsqueeze(0)
            acted = actor.act(shown, torch.tensor([first]), state, None)
            state, first = acted.state, False
            obs, reward, terminated, truncated, _ = env.step(act(acted.actions.numpy())[0])
            returns[episode] += reward
            over = terminated or truncated
    env.close()
    return returns.mean()


# What is minimised.


def random_actions(space, n, seed=0):
    space.seed(seed)
    return np.array([space.sample() for _ in range(n)]).reshape(n, *(space.shape or (1,)))


def expected_loss(actor, space, output, actions):
    """From its definition, with PyTorch's own functions."""
    actions = torch.as_tensor(actions)
    if isinstance(space, spaces.Box):
        low, high = torch.as_tensor(space.low), torch.as_tensor(space.high)
        if torch.isfinite(low).all():
            actions = 2 * (actions - low) / (high - low) - 1
        return functional.mse_loss(output, actions)
    counted = actions.long() - torch.as_tensor(getattr(space, "start", 0))
    if isinstance(actor.distribution, Joint):
        sizes = actor.distribution.sizes
        index = np.ravel_multi_index(tuple(counted.T.numpy()), sizes)
        return functional.cross_entropy(output, torch.as_tensor(index))
    outputs = output.split(factors(space), 1)
    return sum(
        functional.cross_entropy(logits, chosen)
        for logits, chosen in zip(outputs, counted.T, strict=True)
    )


BASES = [Categorical(), Probabilities()]


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("base", BASES, ids=["logits", "probabilities"])
@pytest.mark.parametrize("action", Every.ACTIONS)
def test_the_first_step_goes_down_the_gradient(capsys, action, base, joint):
    """Adam's first step is the learning rate against the sign of each derivative."""
    space = Every.ACTIONS[action]
    if joint and not action.startswith("multi"):
        return
    actor = actor_of(VECTOR, space, base=base, joint=joint)
    obs = np.random.default_rng(0).normal(size=(40, 3))
    actions = random_actions(space, 40)
    before = weights(actor)

    shown = torch.as_tensor(obs, dtype=torch.float32)
    output = actor.policy.head("policy", actor.policy.features(shown))
    loss = expected_loss(actor, space, output, actions)
    named = dict(actor.named_parameters())
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)

    data = dataset(obs, actions, batch_size=40)
    clone_behaviour(actor, VECTOR, space, data, 1, learning_rate=1e-3, verbose=1)
    assert losses(capsys)[0, 0] == pytest.approx(loss.item(), abs=2e-6)
    moved = set()
    for (name, p), gradient in zip(named.items(), gradients, strict=True):
        step = p.detach() - before[name]
        if gradient is None:
            assert not step.any(), name
            continue
        moved.add(name)
        clear = gradient.abs() > 1e-5
        assert clear.any()
        assert torch.allclose(step[clear], -1e-3 * gradient[clear].sign(), rtol=2e-3, atol=1e-6)
    assert moved == {name for name in named if name.startswith("policy.heads.policy")}
    assert all(p.grad is None for p in named.values())


def test_an_action_that_seemed_impossible_is_learnt():
    """Of probability 1e-20: inside the logarithms of ACER nothing of it would be left."""
    for base in BASES:
        space = spaces.Discrete(2)
        actor = actor_of(VECTOR, space, base=base)
        last = actor.policy.heads["policy"][-1]
        with torch.no_grad():
            last.weight.zero_()
            last.bias[:] = torch.tensor([46.0, 0.0])
        data = dataset(np.ones((8, 3)), np.ones((8, 1)))
        clone_behaviour(actor, VECTOR, space, data, 1, learning_rate=0.1)
        assert torch.allclose(last.bias, torch.tensor([45.9, 0.1]), atol=1e-3)


def targets(space, hidden):
    """Actions that depend on two random bits per step, `[N, 2]`."""
    first, second = hidden.T
    if isinstance(space, spaces.Discrete):
        return (space.start + first + 2 * second)[:, None]
    if isinstance(space, spaces.MultiDiscrete):
        return np.stack([first, 2 * second], 1)
    if isinstance(space, spaces.MultiBinary):
        return np.stack([first, second, first ^ second], 1)
    low, high = np.maximum(space.low, -3), np.minimum(space.high, 3)
    return low + (high - low) * (0.25 + 0.5 * np.resize(hidden.T, (len(low), len(hidden))).T)


def shown_as(space, hidden):
    """Observations of a space that tell the two bits."""
    first, second = hidden.T
    if isinstance(space, spaces.Discrete):
        return (space.start + first + 2 * second)[:, None]
    if isinstance(space, spaces.MultiDiscrete):
        return np.stack([first, 3 * second], 1)
    obs = np.zeros((len(hidden), *space.shape), space.dtype)
    columns = obs.reshape(len(hidden), -1)
    bright = 255 if space.dtype == np.uint8 else 1
    half = columns.shape[1] // 2
    columns[:, :half], columns[:, half:] = bright * first[:, None], bright * second[:, None]
    return obs


SHOWN = [name for name in Every.OBSERVATIONS if name not in ("dict", "tuple")]
PAIRS = [
    (policy, observation, list(Every.ACTIONS)[(i + j) % 5])
    for i, policy in enumerate(POLICIES)
    for j, observation in enumerate(SHOWN)
    if policy != "cnn" or observation == "image"
] + [(policy, "vector", action) for policy in ("mlp", "lstm") for action in Every.ACTIONS]


@pytest.mark.parametrize(("policy", "observation", "action"), sorted(set(PAIRS)))
def test_every_space_with_every_policy(policy, observation, action):
    observed, acted = Every.OBSERVATIONS[observation], Every.ACTIONS[action]
    hidden = np.random.default_rng(0).integers(2, size=(320, 2))
    obs, actions = shown_as(observed, hidden), targets(acted, hidden)
    actor = actor_of(observed, acted, policy, base=Probabilities())
    data = dataset(obs, actions, [1] * 320, batch_size=64)
    before = actor.log_std if actor.log_std is None else actor.log_std.clone()
    clone_behaviour(actor, observed, acted, data, 25, learning_rate=1e-2)
    assert before is None or torch.equal(actor.log_std, before)
    rows = torch.as_tensor(obs, dtype=tensor_dtype(observed)).reshape(-1, *(observed.shape or ()))
    state, first = torch.zeros(320, actor.policy.state_size), torch.ones(320, dtype=torch.bool)
    chosen = acting(acted)(actor.act(rows, first, state, None).actions.numpy())
    if isinstance(acted, spaces.Box):
        scale = np.ptp(actions, axis=0)
        assert np.abs(chosen - actions).max() < 0.2 * scale.max()
        assert (np.abs(chosen - actions) / scale).mean() < 0.1
    else:
        assert np.array_equal(chosen.reshape(320, -1), actions)


# What is left alone.


@pytest.mark.parametrize("policy", ["mlp", "lstm"])
@pytest.mark.parametrize("action", ["discrete", "bounded_box"])
def test_a_learning_rate_of_zero_changes_nothing(policy, action):
    space = Every.ACTIONS[action]
    actor = actor_of(VECTOR, space, policy, scaled=True)
    before = weights(actor)
    data = dataset(np.ones((30, 3)), random_actions(space, 30))
    clone_behaviour(actor, VECTOR, space, data, 3, learning_rate=0.0)
    assert not changed(actor, before)
    clone_behaviour(actor, VECTOR, space, data, 0)
    clone_behaviour(actor, VECTOR, space, data, 1)
    assert changed(actor, before)


def test_it_goes_on_from_what_was_learnt(capsys):
    space = spaces.Discrete(2)
    actor = actor_of(VECTOR, space)
    obs = np.random.default_rng(0).normal(size=(200, 3))
    data = dataset(obs, (obs[:, :1] > 0).astype(int))
    clone_behaviour(actor, VECTOR, space, data, 40, learning_rate=1e-2, verbose=1)
    clone_behaviour(actor, VECTOR, space, data, 1, learning_rate=1e-6, verbose=1)
    first, *_, last, again = losses(capsys)[:, 0]
    assert first > 0.2
    assert last < 0.05
    assert again < 1.1 * last


def test_frozen_weights_stay():
    space = spaces.Discrete(2)
    actor = actor_of(VECTOR, space)
    frozen = actor.policy.heads["policy"][0].requires_grad_(False)
    before = weights(actor)
    clone_behaviour(actor, VECTOR, space, dataset(np.ones((9, 3)), np.ones((9, 1))))
    assert changed(actor, before) == {
        f"policy.heads.policy.2.{name}" for name in ("weight", "bias")
    }
    assert not frozen.weight.requires_grad


def test_what_the_data_are_scaled_by():
    space = spaces.Discrete(2)
    obs = np.random.default_rng(0).normal(5, 3, size=(50, 3))
    data = dataset(obs, np.ones((50, 1)), train_fraction=0.5)
    actor = actor_of(VECTOR, space, scaled=True)
    moments = actor.policy.features.moments
    clone_behaviour(actor, VECTOR, space, data, 1)
    clone_behaviour(actor, VECTOR, space, data, 1)
    assert moments.count == 50
    assert np.allclose(moments.mean, obs.mean(0), rtol=1e-5)
    assert np.allclose(moments.variance, obs.var(0), rtol=1e-4)

    actor = actor_of(VECTOR, space, scaled=True)
    actor.policy.observe(torch.ones(1, 3))
    clone_behaviour(actor, VECTOR, space, data, 1)
    assert actor.policy.features.moments.count == 1


def test_the_same_again_is_the_same():
    space = spaces.Discrete(2)
    obs = np.random.default_rng(0).normal(size=(200, 3))

    def cloned(policy, seed):
        actor = actor_of(VECTOR, space, policy)
        data = dataset(obs, (obs[:, :1] > 0).astype(int), [20] * 10, seed=seed)
        clone_behaviour(actor, VECTOR, space, data, 3)
        return weights(actor)

    for policy in ("mlp", "lstm"):
        one, other, third = cloned(policy, 0), cloned(policy, 0), cloned(policy, 1)
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert not all(torch.equal(one[name], third[name]) for name in one)


# Policies with a memory.


def test_the_state_goes_through_whole_episodes(capsys):
    """The losses are those of each episode unrolled by itself, from a state of zero."""
    rng = np.random.default_rng(0)
    lengths = [40, 3, 17, 16, 55, 1, 32, 9, 20]
    obs, n = rng.normal(size=(sum(lengths), 3)).astype(np.float32), sum(lengths)
    space = spaces.Discrete(3)
    actions = rng.integers(3, size=(n, 1))
    actor = actor_of(VECTOR, space, "lstm")
    with torch.no_grad():
        actor.policy.heads["policy"][-1].weight *= 100  # so that the state matters
    data = dataset(obs, actions, lengths, train_fraction=0.6)
    clone_behaviour(actor, VECTOR, space, data, 1, learning_rate=0.0, verbose=1)
    found = losses(capsys)[0]

    ends = np.cumsum(lengths)
    expected = {"train": [], "val": []}
    for split in expected:
        steps = next(iter(data.sequences(split, 1, 10_000))).rows[:, 0]
        for start, stop in zip(ends - lengths, ends, strict=True):
            if start not in steps:
                continue
            reset = torch.zeros(stop - start, 1, dtype=torch.bool)
            segment = Segment(torch.zeros(1, 64), reset, torch.empty(0, 2, dtype=torch.int64))
            with torch.no_grad():
                latents, _ = actor.policy.encode(torch.as_tensor(obs[start:stop]), segment)
                logits = actor.policy.head("policy", latents)
            chosen = torch.as_tensor(actions[start:stop, 0])
            expected[split] += functional.cross_entropy(logits, chosen, reduction="none").tolist()
    assert len(expected["train"]) + len(expected["val"]) == n
    assert found == pytest.approx([np.mean(expected["train"]), np.mean(expected["val"])], abs=2e-6)


# What is printed, and what is refused.


@pytest.mark.parametrize(
    ("epochs", "interval", "expected"),
    [(1, None, [1]), (5, None, [1, 2, 3, 4, 5]), (25, None, [*range(2, 25, 2)]), (7, 3, [3, 6])],
)
def test_reports(capsys, epochs, interval, expected):
    space = spaces.Discrete(2)
    data = dataset(np.ones((10, 3)), np.ones((10, 1)), train_fraction=0.7)
    actor = actor_of(VECTOR, space)
    settings = {"n_epochs": epochs, "val_interval": interval}
    clone_behaviour(actor, VECTOR, space, data, **settings)
    assert capsys.readouterr().out == ""
    clone_behaviour(actor, VECTOR, space, data, **settings, verbose=1)
    lines = capsys.readouterr().out.splitlines()
    shown = [re.fullmatch(r"epoch (\d+)/(\d+): training loss \S+, valid.* \S+", x) for x in lines]
    assert [tuple(map(int, match.groups())) for match in shown] == [(e, epochs) for e in expected]


def test_without_validation_there_is_no_such_loss(capsys):
    space = spaces.Discrete(2)
    data = dataset(np.ones((10, 3)), np.ones((10, 1)))
    clone_behaviour(actor_of(VECTOR, space), VECTOR, space, data, 1, verbose=1)
    assert "validation" not in capsys.readouterr().out


def test_a_loss_that_is_not_finite_changes_nothing():
    space = spaces.Box(-np.inf, np.inf, (2,))
    actions = np.zeros((20, 2))
    actions[:, 1] = 1e25  # the square of which is not finite in single precision
    for policy in ("mlp", "lstm"):
        actor = actor_of(VECTOR, space, policy)
        before = weights(actor)
        with pytest.raises(NonFiniteUpdate, match=r"loss \(inf\).*is not finite; lower"):
            clone_behaviour(actor, VECTOR, space, dataset(np.ones((20, 3)), actions))
        assert not changed(actor, before)
        assert all(p.grad is None for p in actor.parameters())


ONES = np.ones((6, 3))
BOX = spaces.Box(-2, 2, (2,))
PICTURE = spaces.Box(0, 255, (3, 20, 20), np.uint8)


@pytest.mark.parametrize(
    ("observed", "acted", "obs", "actions", "message"),
    [
        (VECTOR, spaces.Discrete(2), np.ones((6, 4)), ONES[:, :1], r"observations of shape \(4,\)"),
        (VECTOR, spaces.Discrete(2), ONES, ONES[:, :2], r"actions of shape \(2,\), .*\(\)"),
        (VECTOR, BOX, ONES, ONES, r"actions of shape \(3,\), .* \(2,\)"),
        (VECTOR, BOX, ONES, 2.01 * ONES[:, :2], r"action 0, \[2.01 2.01\], is not of .*Box"),
        (VECTOR, spaces.Discrete(2), ONES, 2 * ONES[:, :1], r"action 0, 2\.0, is not of"),
        (VECTOR, spaces.Discrete(2), ONES, 0.5 * ONES[:, :1], r"action 0, 0\.5, is"),
        (VECTOR, spaces.Discrete(2, start=2), ONES, ONES[:, :1], "action 0"),
        (VECTOR, spaces.MultiDiscrete([2, 5]), ONES, 3 * ONES[:, :2], "action 0"),
        (VECTOR, spaces.MultiBinary(2), ONES, 2 * ONES[:, :2], "action 0"),
        (spaces.Discrete(3), BOX, 3 * ONES[:, :1], ONES[:, :2], "observation 0"),
        (spaces.Discrete(3), BOX, 0.5 * ONES[:, :1], ONES[:, :2], "observation 0"),
        (VECTOR, BOX, 1e60 * ONES, ONES[:, :2], "observation 0"),
        (PICTURE, BOX, np.ones((6, 20, 20, 3), np.uint8), ONES[:, :2], r"of shape \(20, 20, 3\)"),
        (PICTURE, BOX, 256 * np.ones((6, 3, 20, 20)), ONES[:, :2], "observation 0"),
    ],
)
def test_a_dataset_of_other_spaces(observed, acted, obs, actions, message):
    actor = actor_of(observed, acted, "cnn" if observed is PICTURE else "mlp")
    with pytest.raises(ValueError, match=message):
        clone_behaviour(actor, observed, acted, dataset(obs, actions))


def test_what_comes_close_enough():
    """Actions at a bound that were computed, in double or single precision, and flat rows."""
    actor = actor_of(VECTOR, BOX)
    for bound in (2 + 1e-9, np.nextafter(np.float32(2), np.float32(3))):
        clone_behaviour(actor, VECTOR, BOX, dataset(ONES, bound * ONES[:, :2]))
    square = spaces.Box(-1, 1, (2, 2))
    actor = actor_of(square, square)
    clone_behaviour(actor, square, square, dataset(np.ones((6, 4)), np.ones((6, 4))))
    actor = actor_of(VECTOR, spaces.Discrete(2))
    clone_behaviour(actor, VECTOR, spaces.Discrete(2), dataset(ONES, np.ones(6)))


def test_dict_observations_are_refused():
    space = spaces.Dict(a=VECTOR)
    actor = actor_of(space, BOX)
    with pytest.raises(ValueError, match="cannot hold observations of Dict or Tuple spaces"):
        clone_behaviour(actor, space, BOX, dataset(ONES, ONES[:, :2]))


@pytest.mark.parametrize(
    "settings",
    [
        {"n_epochs": -1},
        {"learning_rate": -1e-3},
        {"learning_rate": float("nan")},
        {"adam_epsilon": 0.0},
        {"val_interval": 0},
    ],
)
def test_settings_that_make_no_sense(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        clone_behaviour(actor_of(VECTOR, BOX), VECTOR, BOX, dataset(ONES, ONES[:, :2]), **settings)


# What comes of it.


class Pixel(gymnasium.Env):
    """Is the bright half of a picture left or right? Ten questions an episode."""

    action_space = spaces.Discrete(2)

    def __init__(self, shape):
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)

    def _show(self):
        self.right = int(self.np_random.integers(2))
        picture = self.np_random.integers(60, size=(16, 16, 3), dtype=np.uint8)
        picture[:, 8 * self.right : 8 + 8 * self.right] += 180
        last = self.observation_space.shape[-1] == 3
        return picture if last else picture.transpose(2, 0, 1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._show(), {}

    def step(self, action):
        self.steps += 1
        reward = float(action == self.right)
        return self._show(), reward, self.steps == 10, False, {}


gymnasium.register("Pixel-v0", entry_point=Pixel)


@pytest.mark.parametrize("policy", ["cnn", "lstm"])
@pytest.mark.parametrize("shape", [(16, 16, 3), (3, 16, 16)], ids=["last", "first"])
def test_from_pictures_in_files(tmp_path, policy, shape):
    env = Pixel(shape)
    env.reset(seed=0)
    expert = lambda obs: env.right  # noqa: E731
    generate_expert_traj(expert, tmp_path / "expert", env, n_episodes=16)
    data = ExpertDataset(tmp_path / "expert", verbose=0)
    assert data.has_pictures
    actor = actor_of(env.observation_space, env.action_space, policy, base=Probabilities())
    clone_behaviour(actor, env.observation_space, env.action_space, data, 15, learning_rate=3e-3)
    gymnasium.registry["Pixel-v0"].kwargs = {"shape": shape}
    assert evaluate(actor, "Pixel-v0", 5, seed=1) == 10


def balance(obs):
    """A linear controller of CartPole-v1 that reaches 500 from all its initial states."""
    position, velocity, angle, spin = obs
    return int(angle + 0.3 * spin + 0.05 * position + 0.1 * velocity > 0)


def swing_up(obs):
    """Pump energy into the pendulum up to that of standing upright, and catch it there."""
    cos, sin, spin = map(float, obs)
    if cos > 0.8:
        torque = -10 * np.arctan2(sin, cos) - 2 * spin
    else:
        lacking = 5 - 5 * cos - spin**2 / 6
        torque = 0.3 * lacking * (spin if abs(spin) > 0.1 else 0.1)
    return np.clip([torque], -2, 2).astype(np.float32)


class Recaller:
    """Remembers the cue of Recall-v0."""

    def predict(self, observation, state, mask, deterministic):
        cue = observation[:4]
        state = int(cue.argmax()) if cue.any() else state
        return np.int64(state), state


class Estimator:
    """Balances CartPoleNoVelocity-v0 by the differences between observations."""

    def predict(self, observation, state, mask, deterministic):
        now = observation.astype(np.float64)
        position, angle = now
        velocity, spin = np.zeros(2) if mask[0] else (now - state) / 0.02
        return np.int64(balance((position, velocity, angle, spin))), now


def cloned(expert, env_id, seed, episodes, policy, epochs, learning_rate, **settings):
    """An actor that has learnt from an expert only, and the expert's mean return."""
    env = gymnasium.make(env_id)
    env.reset(seed=seed)
    data = generate_expert_traj(expert, env=env, n_episodes=episodes)
    env.close()
    spaces_ = env.observation_space, env.action_space
    actor = actor_of(*spaces_, policy, seed, **settings)
    seen = ExpertDataset(traj_data=data, seed=seed, verbose=0)
    clone_behaviour(actor, *spaces_, seen, epochs, learning_rate)
    return actor, seen.avg_ret


WIDE = {"hidden": [64, 64]}
MEMORY = {"lstm_size": 64, "before": [64, 64]}


def learns_cartpole(seed, base):
    args = balance, "CartPole-v1", seed, 10, "mlp", 10, 1e-3
    actor, expert = cloned(*args, base=base, **WIDE)
    assert expert == 500
    assert evaluate(actor, "CartPole-v1", 20, 100 + seed) >= 450


def learns_pendulum(seed):
    args = swing_up, "Pendulum-v1", seed, 20, "mlp", 50, 3e-3
    actor, expert = cloned(*args, scaled=True, **WIDE)
    assert expert > -250
    assert evaluate(actor, "Pendulum-v1", 20, 100 + seed) > -400


def learns_recall(seed):
    found = {}
    for policy, settings in (("lstm", MEMORY), ("mlp", WIDE)):
        actor, expert = cloned(Recaller(), "Recall-v0", seed, 200, policy, 8, 3e-3, **settings)
        assert expert == 1
        found[policy] = evaluate(actor, "Recall-v0", 30, 100 + seed)
    assert found["lstm"] == 1
    assert found["mlp"] < 0  # -0.5 is what can be guessed


def learns_without_velocity(seed):
    args = Estimator(), "CartPoleNoVelocity-v0", seed, 10, "lstm", 20, 1e-3
    actor, expert = cloned(*args, **MEMORY)
    assert expert == 500
    assert evaluate(actor, "CartPoleNoVelocity-v0", 20, 100 + seed) >= 400  # without: 40


@pytest.mark.parametrize("base", BASES, ids=["logits", "probabilities"])
def test_cartpole_from_ten_episodes(base):
    learns_cartpole(0, base)


def test_pendulum_from_twenty_episodes():
    learns_pendulum(0)


def test_recall():
    learns_recall(0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_all_of_them_with_other_seeds(seed):
    learns_cartpole(seed, Probabilities())
    learns_pendulum(seed)
    learns_recall(seed)
    learns_without_velocity(seed)
