"""The gradient of ACER against golden numbers, autograd, and the identity behind its truncation."""

import pytest
import torch

from rlrun.functional.distributions import Probabilities
from rlrun.functional.importance import correction_weight, importance_ratio
from rlrun.functional.policy_gradient import acer_gradient, acer_losses

PROBABILITIES = Probabilities()


def random_batch(seed=0, n=6, actions=4):
    g = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    probs, behaviour = rand(n, actions).softmax(-1), (2 * rand(n, actions)).softmax(-1)
    q = rand(n, actions)
    return {
        "probs": probs,
        "rho": importance_ratio(probs, behaviour),
        "actions": torch.randint(actions, (n,), generator=g),
        "q_ret": rand(n),
        "q": q,
        "values": (probs * q).sum(-1),
    }, behaviour


def test_golden_correction():
    f = torch.tensor([[0.1, 0.6, 0.3]], dtype=torch.float64)
    mu = torch.tensor([[0.05, 0.9, 0.05]], dtype=torch.float64)
    q = torch.tensor([[1.0, -1.0, 2.0]], dtype=torch.float64)
    values = (f * q).sum(-1)
    torch.testing.assert_close(values, torch.tensor([0.1], dtype=torch.float64))
    g = acer_gradient(
        f,
        importance_ratio(f, mu),
        torch.tensor([1]),
        torch.tensor([0.5], dtype=torch.float64),
        q,
        values,
        2.0,
    )
    expected = torch.tensor([[0.0, 0.4444444, 1.2666667]], dtype=torch.float64)
    torch.testing.assert_close(g, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("c", [0.5, 1.0, 2.0, 10.0])
def test_gradient_is_that_of_the_losses(c):
    batch, _ = random_batch()
    probs = batch["probs"].clone().requires_grad_()
    detached = dict(batch)
    log_probs = (probs + 1e-6).log()
    taken = batch["actions"].unsqueeze(-1)
    # The losses of the specification, differentiated through the logarithms alone.
    weight = correction_weight(batch["probs"], batch["rho"], c)
    truncated = -(
        log_probs.gather(-1, taken).squeeze(-1)
        * batch["rho"].gather(-1, taken).squeeze(-1).clamp(max=c)
        * (batch["q_ret"] - batch["values"])
    )
    correction = -(log_probs * weight * (batch["q"] - batch["values"].unsqueeze(-1))).sum(-1)
    bonus = 0.3 * PROBABILITIES.entropy(probs)
    (gradient,) = torch.autograd.grad((bonus - truncated - correction).sum(), probs)
    expected = acer_gradient(**detached, c=c) + 0.3 * PROBABILITIES.entropy_gradient(batch["probs"])
    torch.testing.assert_close(gradient, expected)
    logged = acer_losses(**detached, c=c)
    torch.testing.assert_close(logged, (truncated.detach(), correction.detach()))


@pytest.mark.parametrize("c", [0.0, 0.3, 1.0, 5.0, float("inf")])
def test_truncation_plus_correction_is_the_full_gradient_in_expectation(c):
    """sum_a mu min(c, rho) h dlog pi + sum_a pi [1 - c / rho]_+ h dlog pi = sum_a pi h dlog pi."""
    batch, behaviour = random_batch(3)
    f, rho = batch["probs"], f_over(batch["probs"], behaviour)
    h = batch["q"]
    truncated = behaviour * rho.clamp(max=c) * h
    corrected = (1.0 - c / rho).clamp(min=0.0) * f * h
    torch.testing.assert_close(truncated + corrected, f * h)
    approximate = correction_weight(f, importance_ratio(f, behaviour), c) * h
    torch.testing.assert_close(approximate, corrected, atol=1e-4, rtol=0)
    if c == 0.0:
        assert not truncated.any()
    if c == float("inf"):
        assert not corrected.any()


def f_over(probs, behaviour):
    return probs / behaviour


def test_correction_vanishes_where_the_ratio_is_below_the_level():
    batch, _ = random_batch()
    assert not correction_weight(batch["probs"], batch["rho"].clamp(max=10.0), 10.0).any()
    fresh = importance_ratio(batch["probs"], batch["probs"])
    assert not correction_weight(batch["probs"], fresh, 1.0).any()


def test_entropy_raises_entropy_when_nothing_else_matters():
    logits = torch.tensor([[2.0, 0.0, -1.0]], dtype=torch.float64, requires_grad=True)
    probs = logits.softmax(-1)
    nothing = torch.zeros(1, dtype=torch.float64)
    with torch.no_grad():
        g = acer_gradient(
            probs,
            importance_ratio(probs, probs),
            torch.tensor([0]),
            nothing,
            torch.zeros_like(probs),
            nothing,
            10.0,
        ) + 0.01 * PROBABILITIES.entropy_gradient(probs)
    probs.backward(-g)
    moved = (logits - 0.1 * logits.grad).softmax(-1)
    assert PROBABILITIES.entropy(moved) > PROBABILITIES.entropy(probs)
