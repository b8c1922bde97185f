"""What nothing that does the same work can undercut: environments alone, products alone.

The products of one iteration of `T` steps in `B` environments are, on floats that are there
already, in eager mode and in the precision of the training:

    all     T forward passes of B rows, to act
    A2C     forward and backward of (T + 1) B rows
    ACER    the same and the average network's forward of T B rows, times 1 + replay_ratio
    ACKTR   forward and backward of (T + 1) B rows, backward to the outputs of the layers alone,
            the statistics' products and the preconditioning at the shapes of the factors, and
            their decomposition every `kfac_update` iterations

ACER's average policy, which looks on while a policy with a memory acts, is not among them, nor is
anything that is no layer: losses, returns, conversions, optimisers, the memory's reading.
"""

import json
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn

from rlrun import config as configs

from .curvature import Curvature, Decompositions
from .network import Network, shapes_of
from .training import Trained


class Products:
    """The parts of an algorithm's products, as units to be measured.

    Args:
        trained: a training with this algorithm.

    Raises:
        ValueError: its network is none that is known here.
    """

    def __init__(self, trained: Trained) -> None:
        config, algorithm = trained.config, trained.parts.algorithm
        envs = trained.parts.collector.envs
        self.trained, self.algo = trained, config["algo"]
        self.steps, self.n_envs = algorithm.n_steps, envs.n_envs
        self.device = trained.parts.device
        self.half = config.get("precision") == "bf16"
        heads = algorithm.heads(envs.action_space, self.algo)
        try:
            widths = {name: (head.outputs, head.inputs) for name, head in heads.items()}
            self.network = Network(config["policy"], envs.observation_space, widths)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{trained.name}: no floor for this policy") from error
        if self.network.weights() != shapes_of(algorithm.actor.policy):
            raise ValueError(f"{trained.name}: no floor for a network of these layers")
        self.network.to(self.device)

    @cached_property
    def rows(self) -> Tensor:
        """What is learnt from, `[(T + 1) B, ...]`."""
        return self.network.inputs((self.steps + 1) * self.n_envs, self.device)

    @cached_property
    def few(self) -> Tensor:
        """What is acted in, `[B, ...]`."""
        return self.network.inputs(self.n_envs, self.device)

    def counts(self) -> dict[str, float]:
        """How often each part is due in one iteration."""
        name = configs.algorithm_name(self.trained.config)
        counts = {"act": 1.0}
        if name == "a2c":
            counts["learn"] = 1.0
        elif name == "acer":
            counts["learn, and average"] = 1.0 + self.algo["replay_ratio"]
        elif name == "acktr":
            counts["learn, and curvature"] = 1.0
            counts["decompose"] = 1.0 / self.algo["kfac_update"]
        return counts

    def part(self, name: str) -> Callable[[], int]:
        """One call of a part, as a unit."""
        if name == "act":
            return _once(self.act)
        if name == "learn":
            return _once(self.learn)
        if name == "learn, and average":
            return _once(self.look_on, self.learn)
        if name == "decompose":
            return _once(Decompositions(self.network, self.algo).run)
        return _once(Curvature(self.network, self.forward, self.rows, self.steps, self.algo).learn)

    def key(self, part: str) -> str:
        """The same for parts that are equal work, whoever does them."""
        config = self.trained.config
        same = [part, self.steps, self.half, str(self.device), self.trained.threads]
        same += [config["env"]["id"], config["env"]["n_envs"], config["policy"]]
        if part != "act":
            rules = ("conv_factors", "damping_rule", "bias", "sdn_samples")
            same += [self.network.weights(), *(self.algo.get(rule) for rule in rules)]
        return json.dumps(same, default=str)

    def forward(self, rows: Tensor, steps: int) -> list[Tensor]:
        """All outputs of a segment."""
        network = self.network
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            latents = network.encode(rows, steps)
            outputs = []
            for name, tower in network.towers.items():
                inputs = latents
                if name == "advantage":  # of the action that was taken, and of the drawn ones
                    states = latents[: self.steps * self.n_envs]
                    states = states.expand(1 + self.algo["sdn_samples"], *states.shape)
                    width = tower[0].in_features - network.latents  # type: ignore[index]
                    actions = states.new_zeros(*states.shape[:-1], width)
                    inputs = torch.cat([states, actions], -1)
                outputs.append(tower(inputs))
        return outputs

    @torch.no_grad()
    def act(self) -> None:
        """`T` forward passes of `B` rows, to the head of the policy."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            for _ in range(self.steps):
                self.network.towers["policy"](self.network.encode(self.few, 1))

    @torch.no_grad()
    def look_on(self) -> None:
        """Forward pass of `T B` rows, to the head of the policy."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            rows = self.rows[: self.steps * self.n_envs]
            self.network.towers["policy"](self.network.encode(rows, self.steps))

    def learn(self) -> None:
        """Forward and backward of `(T + 1) B` rows."""
        outputs = self.forward(self.rows, self.steps + 1)
        backward(self.network, outputs)


def backward(network: nn.Module, outputs: list[Tensor]) -> None:
    """Gradients of all parameters."""
    for parameter in network.parameters():
        parameter.grad = None
    torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])


def _once(*functions: Callable[[], object]) -> Callable[[], int]:
    def unit() -> int:
        for function in functions:
            function()
        return 1

    return unit
