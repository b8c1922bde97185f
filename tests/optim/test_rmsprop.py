import pytest
import torch

from rlrun.optim.errors import NonFiniteUpdate
from rlrun.optim.rmsprop import RMSprop


def test_golden_numbers():
    theta = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = RMSprop([theta], alpha=0.99, epsilon=1e-5)
    path = []
    for _ in range(3):
        theta.grad = torch.tensor([0.1], dtype=torch.float64)
        optimizer.step(7e-4)
        path.append(theta.item())
    expected = [-7.034873891342872e-05, -1.4104827191274087e-04, -2.1210031196503e-04]
    assert path == pytest.approx(expected, rel=1e-9)  # epsilon outside the root: 5e-6 away


def test_state_carries_over():
    def step(optimizer, theta):
        theta.grad = theta.detach() ** 2 + 0.3
        optimizer.step(0.01)

    straight = torch.linspace(-1, 1, 5).requires_grad_()
    optimizer = RMSprop([straight], 0.9, 1e-5)
    for _ in range(3):
        step(optimizer, straight)
    resumed = straight.detach().clone().requires_grad_()
    other = RMSprop([resumed], 0.9, 1e-5)
    other.load_state_dict({k: v.clone() for k, v in optimizer.state_dict().items()})
    step(optimizer, straight)
    step(other, resumed)
    assert torch.equal(straight, resumed)


@pytest.mark.parametrize("bound", [0.5, 5.0, float("inf")])
def test_all_parameters_move_as_each_by_the_rule(bound):
    g = torch.Generator().manual_seed(0)
    shapes = [(3, 2), (3,), (2, 3, 2, 2), ()]
    thetas = [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]
    thetas[2] = thetas[2].contiguous(memory_format=torch.channels_last)
    expected = [theta.clone() for theta in thetas]
    mean_squares = [torch.ones_like(theta) for theta in thetas]
    optimizer = RMSprop(thetas, alpha=0.9, epsilon=1e-5)
    for _ in range(3):
        for theta in thetas:
            theta.grad = torch.randn(theta.shape, generator=g, dtype=torch.float64)
        norm = sum(theta.grad.square().sum() for theta in thetas).sqrt()
        scale = min(1.0, bound / (norm.item() + 1e-6))
        for theta, square, kept in zip(expected, mean_squares, thetas, strict=True):
            gradient = scale * kept.grad
            square.copy_(0.9 * square + 0.1 * gradient.square())
            theta -= 0.01 * gradient / (square + 1e-5).sqrt()
        torch.testing.assert_close(optimizer.step(0.01, bound), norm)
        torch.testing.assert_close(thetas, expected)
        torch.testing.assert_close(list(optimizer.mean_squares), mean_squares)


def test_a_gradient_that_is_not_finite_moves_nothing():
    theta = torch.ones(2)
    optimizer = RMSprop([theta], 0.9, 1e-5)
    theta.grad = torch.tensor([float("inf"), 1.0])
    with pytest.raises(NonFiniteUpdate, match="gradient"):
        optimizer.step(0.01)
    assert torch.equal(theta, torch.ones(2))
    assert torch.equal(optimizer.squares, torch.ones(2))
