import pytest
import torch

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
