"""Taking what layers gave while they acted: never anything but what they would give again."""

import copy

import pytest
import torch
from gymnasium import spaces
from torch import nn

from rlrun.algorithms import segments
from rlrun.build import assemble
from rlrun.config import check, compose
from rlrun.policies.recall import Recall

STEPS, ENVS = 3, 3


class Net(nn.Module):
    """Each layer once in a pass, a row per observation."""

    def __init__(self, padding=1, dilation=1):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 4, 3, 2, padding, dilation)
        self.hidden = nn.LazyLinear(5)
        self.output = nn.Linear(5, 2)
        self(torch.zeros(1, 2, 9, 9))

    def forward(self, x):
        h = self.hidden(self.conv(x.float()).relu().flatten(1)).tanh()
        return self.output(h).sum(1)


def segment(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 9, (STEPS + 1, ENVS, 2, 9, 9), generator=generator, dtype=torch.uint8)


def act(recall, net, observations, steps=range(STEPS)):
    for t in steps:
        with torch.no_grad(), recall.noting(observations[t]):
            net(observations[t])


def learn(net, observations, recall=None):
    """Output and gradients of a pass over all rows and one more."""
    rows = torch.cat([observations.flatten(0, 1), observations[0, :1]])
    net.zero_grad()
    if recall is None:
        output = net(rows)
    else:
        with recall.recalling(observations, net):
            output = net(rows)
    output.square().sum().backward()
    return output.detach(), [p.grad for p in net.parameters() if p.grad is not None]


@pytest.mark.parametrize(("padding", "dilation"), [(0, 1), (1, 2)])
def test_output_and_gradients_are_those_of_a_pass(padding, dilation):
    net, observations = Net(padding, dilation), segment()
    recall = Recall(net, nn.Identity())
    expected = learn(net, observations)
    act(recall, net, observations)
    torch.testing.assert_close(learn(net, observations, recall), expected)


def test_noted_layers_compute_the_rows_that_nobody_acted_in_and_no_others(monkeypatch):
    net, observations = Net(), segment()
    recall = Recall(net, nn.Identity())
    act(recall, net, observations)
    seen = []
    forward = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda s, x: (seen.append(len(x)), forward(s, x))[1])
    learn(net, observations, recall)
    assert seen == [ENVS + 1]


@pytest.mark.parametrize(
    "happens",
    [
        lambda recall, net, observations: net.conv.weight.detach().mul_(2.0),
        lambda recall, net, observations: act(recall, net, segment(1)),
        lambda recall, net, observations: act(recall, net, segment(1)[:, :2], [1]),
    ],
    ids=["new weights", "another segment", "other observations"],
)
def test_notes_of_other_weights_or_observations_are_not_taken(happens):
    net, observations = Net(), segment()
    recall = Recall(net, nn.Identity())
    act(recall, net, observations)
    happens(recall, net, observations)
    torch.testing.assert_close(
        learn(net, observations, recall), learn(copy.deepcopy(net), observations)
    )


def test_what_was_not_noted_is_computed_step_by_step_to_the_same_bits():
    net, observations = Net(), segment()
    whole, part = Recall(net, nn.Identity()), Recall(net, nn.Identity())
    act(whole, net, observations)
    act(part, net, observations, [1])
    output, gradients = learn(net, observations, whole)
    again, others = learn(net, observations, part)
    assert torch.equal(output, again)
    assert all(map(torch.equal, gradients, others))


def test_layers_are_their_own_again_after_an_error():
    net, observations = Net(), segment()
    recall = Recall(net, nn.Identity())
    with pytest.raises(ZeroDivisionError), recall.noting(observations[0]):
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), recall.recalling(observations, net):
        raise ZeroDivisionError
    assert not any("forward" in vars(module) for module in net.modules())


def test_a_pass_for_scores_computes_no_gradients_of_weights(monkeypatch):
    net, observations = Net(), segment()
    recall = Recall(net, nn.Identity())
    act(recall, net, observations)
    with recall.recalling(observations, net):
        h = net.conv(observations.flatten(0, 1).float().requires_grad_())
    asked = []
    backward = torch.ops.aten.convolution_backward
    monkeypatch.setattr(
        torch.ops.aten,
        "convolution_backward",
        lambda *args: (asked.append(list(args[-1])), backward(*args))[1],
    )
    (inputs,) = (x for x in [h.grad_fn.saved_tensors[0]])
    torch.autograd.grad(h.sum(), inputs, retain_graph=True)
    assert asked == [[True, False, False]]
    h.sum().backward()
    assert asked[1] == [True, True, True]


def test_only_networks_with_convolutions_and_without_memory_take_notes():
    words = ["env=PongNoFrameskip-v4", "env.n_envs=2", "algo=a2c"]
    for policy, expected in ("cnn", True), ("lstm", False):
        parts = assemble(check(compose([*words, f"policy={policy}"])))
        assert (parts.algorithm.actor._recall is not None) is expected
        parts.collector.envs.close()
    parts = assemble(check(compose(["algo=a2c"])))
    assert parts.algorithm.actor._recall is None
    assert isinstance(parts.collector.envs.observation_space, spaces.Box)


@pytest.mark.parametrize("algo", ["a2c", "acer", "acktr"])
def test_trainings_with_notes_are_those_without(algo):
    words = ["env=PongNoFrameskip-v4", "env.n_envs=2", f"algo={algo}", "algo.n_steps=3"]
    words += ["policy.features_dim=16", "policy.filters=[4,4,4]", "threads=1"]
    weights = []
    for noted in True, False:
        parts = assemble(check(compose(words)))
        if not noted:
            parts.algorithm.actor._recall = None
        for _ in range(3):
            parts.algorithm.update(parts.collector.collect(parts.algorithm.act), 0.5, log=True)
        weights.append([p.detach() for p in parts.algorithm.actor.parameters()])
        parts.collector.envs.close()
    torch.testing.assert_close(*weights)


def test_a_pass_over_a_segment_agrees_with_the_statistics_of_acting():
    words = ["env=PongNoFrameskip-v4", "env.n_envs=2", "algo=a2c", "policy.filters=[4,4,4]"]
    parts = assemble(check(compose(words)))
    actor = parts.algorithm.actor
    rollout = parts.collector.collect(parts.algorithm.act)
    with actor.recalling(rollout.observations):
        statistics, _ = actor(*segments.observed(rollout))
    n = rollout.rewards.numel()
    assert torch.equal(statistics[:n], rollout.behaviour.flatten(0, 1))
    parts.collector.envs.close()
