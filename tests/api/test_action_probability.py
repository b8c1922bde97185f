"""How likely actions are, held against what a model really draws and against formulas."""

import itertools

import numpy as np
import pytest
import torch
from gymnasium import spaces
from test_predict import Shapes
from whole import KINDS, every, make, scattered, seen, stack

N = 4000


def agree(frequencies, probabilities):
    """Five standard deviations: a right one fails once in 1.7 million draws of a table's entry."""
    frequencies, p = np.asarray(frequencies), np.asarray(probabilities, np.float64)
    assert (abs(frequencies - p) <= 5 * np.sqrt(p * (1 - p) / N) + 1 / N).all()


def repeated(observation="vector"):
    return stack(seen(observation, 1) * N)


@pytest.mark.parametrize("observation", ["vector", "dict", "discrete"])
@pytest.mark.parametrize("kind", KINDS)
def test_discrete(kind, observation):
    model = scattered(make(kind, every(observation)))
    batch = stack(seen(observation))
    probabilities = model.action_probability(batch)
    assert probabilities.shape == (7, 4)
    np.testing.assert_allclose(probabilities.sum(1), 1.0, rtol=1e-6)
    single = model.action_probability(seen(observation)[3])
    np.testing.assert_allclose(single, probabilities[3], rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(
        probabilities.argmax(1) + 2, model.predict(batch, deterministic=True)[0]
    )
    drawn, _ = model.predict(repeated(observation))
    agree([(drawn == 2 + a).mean() for a in range(4)], probabilities[0])
    assert 0.02 < probabilities[0].max() < 0.98, "a case that says nothing"
    for action in range(4):
        p = model.action_probability(batch, actions=[2 + action] * 7)
        np.testing.assert_allclose(p, probabilities[:, action, None], rtol=1e-5)
        log_p = model.action_probability(batch, actions=[2 + action] * 7, logp=True)
        assert log_p.shape == p.shape == (7, 1)
        np.testing.assert_allclose(np.exp(log_p), p, rtol=1e-5)
    one = model.action_probability(seen(observation)[0], actions=3)
    assert one.shape == (1,)
    np.testing.assert_allclose(one[0], probabilities[0, 1], rtol=1e-4)
    np.testing.assert_array_equal(model.action_probability(batch, logp=True), probabilities)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("acer", {}), ("acer", {"joint_actions": 0}), ("acktr", {}), ("a2c", {})],
)
@pytest.mark.parametrize("action", ["multidiscrete", "multibinary"])
def test_several_factors(kind, settings, action):
    model = scattered(make(kind, every("vector", action), **settings), seed=2)
    sizes = (2, 3) if action == "multidiscrete" else (2, 2, 2)
    batch = repeated()
    drawn, _ = model.predict(batch)
    combinations = list(itertools.product(*map(range, sizes)))
    together = np.array(
        [model.action_probability(batch[:1], actions=[each])[0, 0] for each in combinations]
    )
    np.testing.assert_allclose(together.sum(), 1.0, rtol=1e-5)
    assert np.count_nonzero(together > 0.02) > 2, "a case that says nothing"
    agree([(drawn == each).all(1).mean() for each in combinations], together)
    logs = [model.action_probability(batch[0], actions=c, logp=True)[0] for c in combinations]
    np.testing.assert_allclose(np.exp(logs), together, rtol=1e-4)

    table, axes = together.reshape(sizes), range(len(sizes))
    marginals = [table.sum(tuple(a for a in axes if a != kept)) for kept in axes]
    shown = model.action_probability(batch[:2])
    single = model.action_probability(batch[0])
    if action == "multidiscrete":
        assert isinstance(shown, list)
        assert [each.shape for each in shown] == [(2, 2), (2, 3)]
        assert [each.shape for each in single] == [(2,), (3,)]
        for each, alone, expected in zip(shown, single, marginals, strict=True):
            np.testing.assert_allclose(each[0], expected, rtol=1e-4)
            np.testing.assert_allclose(alone, expected, rtol=1e-4)
    else:
        assert shown.shape == (2, 3)
        assert single.shape == (3,)
        np.testing.assert_allclose(single, [each[1] for each in marginals], rtol=1e-4)
        np.testing.assert_allclose(shown[1], single, rtol=1e-4)
    product = np.array([np.prod([m[i] for m, i in zip(marginals, c, strict=True)])
                        for c in combinations])  # fmt: skip
    independent = np.allclose(product, together, rtol=1e-3)
    assert independent == (kind != "acer" or bool(settings))


@pytest.mark.parametrize("kind", KINDS)
def test_hardly_possible_actions(kind):
    """No epsilon of ACER's logarithms shows: a logit 40 lower is e^-40 as likely."""
    for action, unlikely in (("discrete", 3), ("multidiscrete", [1, 0])):
        model = make(kind, every("vector", action))
        parameters = model.get_parameters()
        head = [name for name in parameters if name.startswith("policy.heads.policy.")][-2:]
        bias = np.zeros_like(parameters[head[1]])
        # of MultiDiscrete [2, 3]: the first factor's second action, or combination 3 of all
        joint = kind == "acer" and action == "multidiscrete"
        bias[3 if joint else 1] = -40
        model.load_parameters(parameters | {head[0]: 0 * parameters[head[0]], head[1]: bias})
        observation = seen()[0]
        others = 5 if joint else 3
        (log_p,) = model.action_probability(observation, actions=unlikely, logp=True)
        assert log_p == pytest.approx(-40 - np.log(others), abs=1e-3)
        (p,) = model.action_probability(observation, actions=unlikely)
        assert p == pytest.approx(np.exp(-40.0) / others, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_box_by_the_formula(kind):
    model = scattered(make(kind, every("vector", "bounded_box"), log_std_init=-0.7), scale=0.5)
    model.load_parameters({"log_std": np.float32([-1.0, 0.2, 0.5])}, exact_match=False)
    batch = stack(seen())
    means, deviations = model.action_probability(batch)
    assert means.shape == deviations.shape == (7, 3)
    np.testing.assert_allclose(deviations, np.exp([[-1.0, 0.2, 0.5]] * 7) * [2, 5, 1], rtol=1e-5)
    low, high = model.action_space.low, model.action_space.high
    np.testing.assert_allclose(
        model.predict(batch, deterministic=True)[0], np.clip(means, low, high), rtol=1e-4, atol=1e-5
    )
    actions = np.random.default_rng(0).uniform(low, high, (7, 3))
    z = (actions - means) / deviations
    expected = (-0.5 * z**2 - np.log(deviations) - 0.5 * np.log(2 * np.pi)).sum(1)
    log_p = model.action_probability(batch, actions=actions, logp=True)
    assert log_p.shape == (7, 1)
    np.testing.assert_allclose(log_p[:, 0], expected, rtol=1e-4, atol=1e-4)
    p = model.action_probability(batch, actions=actions)
    np.testing.assert_allclose(p[:, 0], np.exp(expected), rtol=1e-3)
    mean, deviation = model.action_probability(batch[2])
    assert mean.shape == deviation.shape == (3,)
    np.testing.assert_allclose(mean, means[2], rtol=1e-4, atol=1e-5)
    drawn, _ = model.predict(repeated())
    inside = ((drawn > low) & (drawn < high)).mean(0)
    z_low, z_high = ((torch.tensor((b - means[0]) / deviations[0])) for b in (low, high))
    agree(inside, (torch.special.ndtr(z_high) - torch.special.ndtr(z_low)).numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_the_density_of_an_asymmetric_box_integrates_to_one(kind):
    space = spaces.Box(np.float32([-1]), np.float32([5]))
    model = scattered(make(kind, Shapes(space), log_std_init=-1.0), scale=0.5)
    grid = np.linspace(-40, 44, 8401)
    observation = np.float32([0.3, -0.2])
    density = model.action_probability(np.repeat(observation[None], 8401, 0), actions=grid[:, None])
    assert density.shape == (8401, 1)
    assert density.sum() * (grid[1] - grid[0]) == pytest.approx(1.0, abs=1e-4)
    (mean,), (deviation,) = model.action_probability(observation)
    assert (density[:, 0] * grid).sum() * 0.01 == pytest.approx(mean, abs=1e-3)
    log_std = model.get_parameters()["log_std"][0]
    assert deviation == pytest.approx(3 * np.exp(log_std), rel=1e-5)


def test_a_memory_is_asked_like_by_predict():
    model = make("acktr", policy="MlpLstmPolicy", policy_kwargs={"lstm_size": 8})
    model = scattered(model, scale=1.0)
    first, then = stack(seen(n=3)), stack(seen(n=3, seed=9))
    _, state = model.predict(first)
    on = model.action_probability(then, state)
    fresh = model.action_probability(then)
    assert abs(on - fresh).max() > 1e-3
    mixed = model.action_probability(then, state, [False, True, False])
    np.testing.assert_array_equal(mixed[[0, 2]], on[[0, 2]])
    np.testing.assert_array_equal(mixed[1], fresh[1])


@pytest.mark.parametrize("kind", KINDS)
def test_actions_that_do_not_fit(kind):
    batch = stack(seen(n=2))
    model = make(kind, every("vector", "discrete"))
    for wrong in ([2], [2, 3, 4], [1, 2], [2, 6]):
        with pytest.raises(ValueError, match="action"):
            model.action_probability(batch, actions=wrong)
    for action, wrong in (("multidiscrete", [[0, 5], [0, 0]]), ("multibinary", [[0, 0, 2]] * 2),
                          ("bounded_box", [[0, 0]] * 2)):  # fmt: skip
        with pytest.raises(ValueError, match="action"):
            make(kind, every("vector", action)).action_probability(batch, actions=wrong)
