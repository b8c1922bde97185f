"""The categorical distribution against torch.distributions and autograd."""

import torch
from torch.distributions import Categorical, kl_divergence

from rlrun.functional.distributions import probabilities


def pair():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 8, 5, generator=generator, dtype=torch.float64)
    return logits.softmax(-1)


def test_entropy_and_kl():
    p, q = pair()
    torch.testing.assert_close(
        probabilities.entropy(p), Categorical(p).entropy(), atol=1e-5, rtol=0
    )
    expected = kl_divergence(Categorical(p), Categorical(q))
    torch.testing.assert_close(probabilities.kl(p, q), expected, atol=1e-4, rtol=0)


def test_gradients():
    p, q = pair()
    q = q.requires_grad_()
    (gradient,) = torch.autograd.grad(probabilities.kl(p, q).sum(), q)
    torch.testing.assert_close(probabilities.kl_gradient(p, q), gradient)
    (gradient,) = torch.autograd.grad(probabilities.entropy(q).sum(), q)
    torch.testing.assert_close(probabilities.entropy_gradient(q), gradient)


def test_samples_follow_the_probabilities():
    probs = torch.tensor([0.5, 0.3, 0.2, 0.0])
    generator = torch.Generator().manual_seed(0)
    draws = probabilities.sample(probs.expand(40_000, 4), generator)
    counts = torch.bincount(draws, minlength=4) / len(draws)
    torch.testing.assert_close(counts, probs, atol=0.01, rtol=0)
    assert counts[3] == 0


def test_same_generator_same_samples():
    probs = pair()[0]
    first, again = (probabilities.sample(probs, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, again)
