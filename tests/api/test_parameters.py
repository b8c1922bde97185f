"""Weights out of a model and into it: all or some of them, from wherever, or not at all."""

from pathlib import Path

import numpy as np
import pytest
import torch
from whole import KINDS, every, fingerprint, make, seen, stack, weights

from rlrun import A2C, ACER, make_vec_env

POLICIES = ["MlpPolicy", "MlpLstmPolicy"]


def other(model, seed=0):
    """Weights of the same shapes with other values."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(size=value.shape).astype(value.dtype)
        for name, value in model.get_parameters().items()
    }


def same(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", KINDS)
def test_out_and_in_again_changes_nothing(kind, policy):
    model = make(kind, policy=policy)
    if kind != "acer":  # whose average follows, see below
        model.learn(60)
    before = fingerprint(model)
    model.load_parameters(model.get_parameters())
    model.load_parameters(list(model.get_parameters().values()))
    assert fingerprint(model) == before


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_taken_over(kind):
    model = make(kind).learn(60)
    batch = stack(seen())
    before = model.action_probability(batch)
    mine, new = model.get_parameters(), other(model)
    model.load_parameters(new)
    same(model.get_parameters(), new)
    assert abs(model.action_probability(batch) - before).max() > 1e-3
    model.load_parameters(mine)
    np.testing.assert_array_equal(model.action_probability(batch), before)


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_copies_in_a_fixed_order(kind):
    model = make(kind)
    mine = model.get_parameters()
    assert all(type(value) is np.ndarray for value in mine.values())
    tensors = model.get_parameter_list()
    assert len(tensors) == len(mine)
    for value, tensor in zip(mine.values(), tensors, strict=True):
        np.testing.assert_array_equal(tensor.detach().numpy(), value)
    for value in mine.values():
        value += 1.0
    fresh = model.get_parameters()
    assert all((mine[name] != fresh[name]).all() for name in mine)
    with torch.no_grad():
        tensors[0].add_(1.0)
    np.testing.assert_array_equal(next(iter(model.get_parameters().values())), tensors[0].detach())
    assert list(fresh) == list(make(kind, seed=5).get_parameters())


def test_moments_of_observations_are_among_them():
    model = make("a2c", normalize_observations=True).learn(60)
    names = set(model.get_parameters()) - set(make("a2c").get_parameters())
    assert names
    fresh = make("a2c", normalize_observations=True, seed=3)
    fresh.load_parameters(model.get_parameters())
    batch = stack(seen())
    np.testing.assert_array_equal(fresh.action_probability(batch), model.action_probability(batch))


def failures(model):
    """Ways to go wrong, each after something that would have been taken."""
    mine, new = model.get_parameters(), other(model)
    first, last = list(new)[1], list(new)[-1]
    short = {name: value for name, value in new.items() if name != last}
    wrong = (ValueError, TypeError)
    return {
        "missing": (short, True, RuntimeError, last),
        "missing in a list": (list(short.values()), True, RuntimeError, last),
        "unknown": (new | {"policy.nonsense": np.zeros(3)}, True, KeyError, "policy.nonsense"),
        "unknown, but not exact": ({**short, "typo": np.zeros(3)}, False, KeyError, "typo"),
        "shape": (new | {last: np.zeros((2, 7))}, True, ValueError, last),
        "a shape that would spread": (new | {first: np.zeros(1)}, True, ValueError, first),
        "shape, but not exact": ({**short, last: np.zeros((2, 7))}, False, ValueError, last),
        "too many in a list": ([*new.values(), np.zeros(3)], False, ValueError, str(len(mine))),
        "no numbers": (new | {last: np.full(mine[last].shape, "x")}, True, wrong, ""),
        "objects": (new | {last: np.full(mine[last].shape, None)}, True, wrong, ""),
    }  # fmt: skip


@pytest.mark.parametrize("case", failures(make("a2c")))
@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit_changes_nothing(kind, case):
    model = make(kind).learn(60)
    given, exact, error, named = failures(model)[case]
    before = fingerprint(model)
    with pytest.raises(error) as raised:
        model.load_parameters(given, exact_match=exact)
    assert named in str(raised.value)
    assert fingerprint(model) == before


@pytest.mark.parametrize("kind", KINDS)
def test_some_of_them_leave_the_others(kind):
    model = make(kind).learn(60)
    mine, new = model.get_parameters(), other(model)
    some = {name: value for name, value in new.items() if "heads.policy" in name}
    assert 0 < len(some) < len(new)
    model.load_parameters(some, exact_match=False)
    same(model.get_parameters(), mine | some)
    before = fingerprint(model)
    model.load_parameters({}, exact_match=False)
    assert fingerprint(model) == before or kind == "acer"


def test_precision_and_plain_lists():
    model = make("a2c")
    new = other(model)
    model.load_parameters({name: value.astype(np.float64) for name, value in new.items()})
    same(model.get_parameters(), new)
    model.load_parameters([value.tolist() for value in other(model, 1).values()])
    same(model.get_parameters(), other(model, 1))
    model.load_parameters(tuple(new.values()))
    same(model.get_parameters(), new)


def test_the_average_of_acer_follows():
    model = make("acer").learn(60)
    differs = [
        (own != average).any().item()
        for own, average in zip(
            model.algorithm.actor.parameters(), model.algorithm.average.parameters(), strict=True
        )
    ]
    assert any(differs)
    new = other(model)
    model.load_parameters(new)
    average = {n: v.numpy() for n, v in model.algorithm.average.state_dict().items()}
    same(average, new)
    model.learn(60)


@pytest.mark.parametrize("kind", KINDS)
def test_from_a_file(kind, tmp_path):
    trained = make(kind).learn(60)
    trained.save(tmp_path / "trained")
    fresh = make(kind, seed=3)
    assert weights(fresh) != weights(trained)
    fresh.load_parameters(tmp_path / "trained")
    same(fresh.get_parameters(), trained.get_parameters())
    with (tmp_path / "trained.zip").open("rb") as file:
        again = make(kind, seed=4)
        again.load_parameters(file)
    same(again.get_parameters(), trained.get_parameters())
    before = fingerprint(fresh)
    with pytest.raises(FileNotFoundError):
        fresh.load_parameters(str(tmp_path / "nothing"))
    wide = make(kind, policy_kwargs={"hidden": [8]})
    shape = fingerprint(wide)
    with pytest.raises((KeyError, ValueError)):
        wide.load_parameters(tmp_path / "trained")
    assert fingerprint(fresh) == before
    assert fingerprint(wide) == shape


def test_from_a_run(command):
    words = [
        "env=CartPole-v1",
        "algo=a2c",
        "experiment=none",
        "env.n_envs=2",
        "total_timesteps=200",
        "threads=1",
    ]
    assert command(*words, "eval.episodes=0", "logger=files").code == 0
    (config,) = Path().glob("outputs/*/*/seed-*/config.yaml")
    model = A2C("MlpPolicy", make_vec_env("CartPole-v1", 2), seed=9)
    model.load_parameters(config.parent)
    same(model.get_parameters(), A2C.load(config.parent).get_parameters())
    acer = ACER("MlpPolicy", every(), seed=9)
    before = fingerprint(acer)
    with pytest.raises((KeyError, RuntimeError, ValueError)):
        acer.load_parameters(config.parent)
    assert fingerprint(acer) == before
