"""The three algorithms under the interface of stable-baselines."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from rlrun import schema
from rlrun.algorithms import a2c, acer, acktr
from rlrun.api.model import Model
from rlrun.api.settings import target_name
from rlrun.envs.batch import Environments
from rlrun.run.rng import generator
from rlrun.run.training import Training


class ACER(Model):
    """Actor-critic with experience replay (arXiv 1611.01224).

    Arguments beside those of `Model` are the hyperparameters of `rlrun.algorithms.acer.ACER`:
    gamma, n_steps, q_coef, ent_coef, max_grad_norm, learning_rate, rprop_alpha, rprop_epsilon,
    buffer_size and replay_start (steps per environment), replay_ratio, correction_term,
    trust_region, alpha, delta, ...

    >>> model = ACER("MlpPolicy", "CartPole-v1", seed=0).learn(1000)
    """

    algorithm_type = acer.ACER
    algorithm: acer.ACER

    def _weights_changed(self) -> None:
        self.algorithm.follow()


class ACKTR(Model):
    """Actor-critic using Kronecker-factored trust region (arXiv 1708.05144).

    Arguments beside those of `Model` are the hyperparameters of `rlrun.algorithms.acktr.ACKTR`:
    gamma, n_steps, ent_coef, vf_coef, vf_fisher_coef, learning_rate, max_grad_norm, kfac_clip,
    kfac_update, async_eigen_decomp, gae_lambda, ...

    >>> model = ACKTR("MlpPolicy", "CartPole-v1", seed=0).learn(1000)
    """

    algorithm_type = acktr.ACKTR


class A2C(Model):
    """The synchronous form of A3C (arXiv 1602.01783), the baseline of both papers.

    Arguments beside those of `Model` are the hyperparameters of `rlrun.algorithms.a2c.A2C`: gamma,
    n_steps, vf_coef, ent_coef, max_grad_norm, learning_rate, alpha, epsilon, gae_lambda, ...

    >>> model = A2C("MlpPolicy", "CartPole-v1", seed=0).learn(1000)
    """

    algorithm_type = a2c.A2C


def _signature(kind: Any) -> inspect.Signature:
    """That of the constructor with the hyperparameters of the algorithm, as `help` shows it."""
    *own, _ = list(inspect.signature(Model.__init__).parameters.values())[1:]
    hyperparameters = [
        inspect.Parameter(
            setting.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=setting.default,
            annotation=setting.annotation,
        )
        for setting in schema.settings(kind.algorithm_type).values()
    ]
    return inspect.Signature([*own, *hyperparameters])


KINDS: tuple[Any, ...] = (ACER, ACKTR, A2C)
for _kind in KINDS:
    _kind.__signature__ = _signature(_kind)


def around(config: Mapping[str, Any], training: Training) -> Model:
    """The model that a training of the command line is, for callbacks to look at."""
    target = config["algo"]["_target_"]
    kind = next((k for k in KINDS if target_name(k.algorithm_type) == target), Model)
    model: Model = kind.__new__(kind)
    model._begin(dict(config), {}, 0, None)
    model.algorithm, model._training = training.algorithm, training
    model._engine = training.collector.envs
    model._interface, model._env = model._engine.interface, Environments(model._engine)
    model._learning = True
    model._threads = torch.get_num_threads()
    predicting = generator(model.seed, "predict")
    model._rngs = {"action": training.collector.rng, "predict": predicting}
    return model
