"""What of a model of stable-baselines is not in its weights: averages, and moments."""

import io
import json

import numpy as np
import pytest
import torch
from test_imported import environment
from test_sb2 import (
    DISCRETE,
    VECTOR,
    data_of,
    layers_of,
    mlp_forward,
    mlp_parameters,
    npz,
    write,
)
from whole import KINDS

TOWERS = ([], [6], [6])
MOMENTS = {
    "mean": [3.0, -2.0, 0.0, 10.0, 1.0],
    "var": [4.0, 0.25, 1.0, 9.0, 100.0],
    "count": 1000.0,
}


def built(tmp_path, kind):
    """A file, and the parameters in it."""
    parameters = mlp_parameters(5, TOWERS, DISCRETE, seed=3)
    if kind != "acer":
        parameters = {name: value for name, value in parameters.items() if "/q/" not in name}
    return write(tmp_path / "sb2.zip", data_of(kind, VECTOR, DISCRETE), parameters), parameters


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def probabilities(parameters, x):
    """By the forward pass in NumPy."""
    filled = {**layers_of({"q": (6, 4)}, np.random.default_rng(0)), **parameters}
    return softmax(mlp_forward(filled, x, "tanh")[0])


def observations(scale=3.0):
    return np.random.default_rng(1).normal(0, scale, (30, 5)).astype(np.float32)


def restored(model):
    file = io.BytesIO()
    model.save(file)
    return type(model).load(file)


def test_the_average_policy_begins_as_the_policy(tmp_path):
    path, parameters = built(tmp_path, "acer")
    model = KINDS["acer"].load(path)
    for each in (model, KINDS["acer"].load(path, environment(model)), restored(model)):
        actor, average = each.algorithm.actor.state_dict(), each.algorithm.average.state_dict()
        assert actor.keys() == average.keys()
        assert all(torch.equal(actor[name], average[name]) for name in actor)
        own, others = each.algorithm.parameters, each.algorithm.average_parameters
        assert all(one is not other for one, other in zip(own, others, strict=True))
    expected = probabilities(parameters, observations())
    rows = torch.from_numpy(observations())
    first, memory = torch.ones(30).bool(), torch.zeros(30, 0)
    with torch.no_grad():
        latents, _ = model.algorithm.average.encode(rows, first, memory)
        statistics = model.algorithm.average.statistics(latents)
    np.testing.assert_allclose(statistics, expected, rtol=1e-4, atol=1e-6)


def given(tmp_path, form):
    if form == "mapping":
        return {name: np.asarray(value) for name, value in MOMENTS.items()}
    path = tmp_path / f"moments.{form}"
    path.write_bytes(json.dumps(MOMENTS).encode() if form == "json" else npz(MOMENTS))
    return path


@pytest.mark.parametrize("form", ["mapping", "json", "npz"])
@pytest.mark.parametrize("kind", KINDS)
def test_moments_normalise_what_the_model_sees(tmp_path, kind, form):
    path, parameters = built(tmp_path, kind)
    x = observations(9.0)
    mean, var = np.array(MOMENTS["mean"]), np.array(MOMENTS["var"])
    seen = np.clip((x - mean) / np.sqrt(var + 1e-8), -10, 10)
    expected = probabilities(parameters, seen)
    assert np.abs(expected - probabilities(parameters, x)).max() > 0.1
    model = KINDS[kind].load(path, obs_rms=given(tmp_path, form))
    for each in (model, restored(model)):
        assert each.config["env"]["normalize_observations"] is True
        np.testing.assert_allclose(each.action_probability(x), expected, rtol=1e-4, atol=1e-5)
        actions, _ = each.predict(x, deterministic=True)
        np.testing.assert_array_equal(actions, expected.argmax(1))


@pytest.mark.parametrize("kind", KINDS)
def test_without_moments_nothing_is_normalised(tmp_path, kind):
    path, parameters = built(tmp_path, kind)
    model = KINDS[kind].load(path)
    x = observations(9.0)
    expected = probabilities(parameters, x)
    for each in (model, restored(model)):
        assert each.config["env"]["normalize_observations"] is False
        np.testing.assert_allclose(each.action_probability(x), expected, rtol=1e-4, atol=1e-5)


def test_moments_go_on_in_the_training(tmp_path):
    """They are means over 1000 observations, and those that are seen move them."""
    path, _ = built(tmp_path, "a2c")
    without = KINDS["a2c"].load(path)
    model = KINDS["a2c"].load(path, environment(without), obs_rms=MOMENTS)
    moments = model.actor.policy.features.moments
    assert int(moments.count) == 1000
    model.learn(60)
    assert int(moments.count) == 1060
    assert not np.allclose(moments.mean.numpy(), MOMENTS["mean"])
