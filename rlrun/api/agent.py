"""What can be done with a policy without training it: asking it, and changing its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from numpy.typing import ArrayLike, NDArray

from rlrun.algorithms.base import Algorithm
from rlrun.api import parameters, predicting, saving
from rlrun.api.imitation.dataset import ExpertDataset
from rlrun.api.imitation.pretrain import clone_behaviour
from rlrun.envs import Interface
from rlrun.policies.actor import Actor
from rlrun.schema import UserError


class Agent:
    """An algorithm's policy in its spaces."""

    config: dict[str, Any]
    """The whole configuration, as that of a run."""
    algorithm: Algorithm
    """What learns."""
    verbose: int

    _interface: Interface | None
    _rngs: dict[str, torch.Generator]
    _threads: int

    def __getattr__(self, name: str) -> Any:
        """Hyperparameters by name, as in `model.gamma`."""
        settings = self.__dict__.get("config", {}).get("algo", {})
        if name.startswith("_") or name not in settings:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return settings[name]

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse to set a hyperparameter, for nothing would follow it."""
        if name in self.__dict__.get("config", {}).get("algo", {}):
            raise AttributeError(
                f"{name} is set when a model is made, or when it is loaded: "
                f"{type(self).__name__}.load(path, {name}={value!r})"
            )
        super().__setattr__(name, value)

    def __reduce_ex__(self, protocol: object) -> Any:
        """Refuse copies and pickles: buffers and environments would be shared in part."""
        raise TypeError(f"a {type(self).__name__} is copied by save and load")

    @property
    def actor(self) -> Actor:
        """The network that acts, with the distribution of its actions."""
        self._require_setup()
        return self.algorithm.actor

    def _require_setup(self) -> None:
        """Raise UserError unless there is something that learns, with its own number of threads.

        PyTorch has one number for each thread of Python, and the last bits depend on it.
        """
        if "algorithm" not in self.__dict__:
            raise UserError("the model is not set up yet: call setup_model() first")
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)

    @property
    def observation_space(self) -> Any:
        """Of one environment; None before there is one."""
        return self._interface and self._interface.observation_space

    @property
    def action_space(self) -> Any:
        """Of one environment; None before there is one."""
        return self._interface and self._interface.action_space

    @property
    def n_envs(self) -> int:
        """Environments that are stepped together."""
        return self._interface.n_envs if self._interface else 0

    @property
    def seed(self) -> int:
        """Of all random numbers."""
        return int(self.config["seed"])

    def _weights_changed(self) -> None:
        """Called when the weights were not changed by the algorithm."""

    def predict(
        self,
        observation: Any,
        state: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        deterministic: bool = False,
    ) -> tuple[Any, NDArray[Any] | None]:
        """Choose actions; nothing of the training changes.

        Args:
            observation: one, `[...]`, or a batch of any size, `[N, ...]`; nested dicts or tuples
                of these for Dict and Tuple spaces.
            state: what `predict` returned beside the actions before; None at the beginning.
            mask: `[N]`, true where an episode begins, so that the state of before is forgotten.
            deterministic: take the most probable action instead of drawing one.

        Returns:
            Actions as the environment takes them (inside of its bounds), and the state `[N, S]` of
            a recurrent policy, None of others.

        Raises:
            ValueError: these are no observations of the model's space.
        """
        actor, spaces = self.actor, (self.observation_space, self.action_space)
        rng = None if deterministic else self._rngs["predict"]
        return predicting.predict(actor, *spaces, observation, state, mask, rng)

    def action_probability(
        self,
        observation: Any,
        state: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        actions: ArrayLike | None = None,
        logp: bool = False,
    ) -> Any:
        """The distribution of actions, or how likely given ones are.

        Args:
            observation: as for `predict`.
            state: as for `predict`.
            mask: as for `predict`.
            actions: one for each observation, as the environment takes them.
            logp: return logarithms of the likelihoods.

        Returns:
            Without `actions`: probabilities `[N, A]` for Discrete; a list of `[N, A_j]`, one for
            each factor, for MultiDiscrete; probabilities of ones `[N, J]` for MultiBinary; means
            and standard deviations `[N, D]` for Box. With them: the likelihood, `[N, 1]`, for Box
            the density. The first axis is missing where a single observation was given.

        Raises:
            ValueError: these are no observations of the model's space.
        """
        spaces = self.observation_space, self.action_space
        return predicting.action_probability(
            self.actor, *spaces, observation, state, mask, actions, logp
        )

    def get_parameter_list(self) -> list[torch.Tensor]:
        """The tensors of `get_parameters`, in the same order; they are the model's own."""
        return list(self.actor.state_dict(keep_vars=True).values())

    def get_parameters(self) -> dict[str, NDArray[Any]]:
        """Copies of the weights of policy and critic by name; optimisers and averages are left."""
        return parameters.get(self.actor)

    def load_parameters(
        self,
        load_path_or_dict: saving.Target | Mapping[str, ArrayLike] | Sequence[ArrayLike],
        exact_match: bool = True,
    ) -> None:
        """Put weights in: from a saved model, a run, by name, or as a list in the model's order.

        The average policy of ACER takes them over; optimisers stay as they are.

        Args:
            load_path_or_dict: where from.
            exact_match: whether all have to be there.

        Raises:
            KeyError: a name that the model does not have.
            RuntimeError: one is missing, and `exact_match`.
            ValueError: one has another shape. Whatever is raised, nothing has been changed.
        """
        given = load_path_or_dict
        if not isinstance(given, Mapping | list | tuple):
            given = saving.parameters_in(given)  # type: ignore[arg-type]
        parameters.load(self.actor, given, exact_match)
        self._weights_changed()

    def pretrain(
        self,
        dataset: ExpertDataset,
        n_epochs: int = 10,
        learning_rate: float = 1e-4,
        adam_epsilon: float = 1e-8,
        val_interval: int | None = None,
    ) -> Self:
        """Imitate an expert by supervised learning; what the policy knows before is its start.

        Args:
            dataset: what the expert saw and did.
            n_epochs: passes over the part of the dataset that is trained on.
            learning_rate: of Adam.
            adam_epsilon: of Adam.
            val_interval: epochs from one printed loss to the next, if `verbose`; None for a tenth.

        Returns:
            The model.

        Raises:
            ValueError: the dataset is of other spaces.
        """
        spaces = self.observation_space, self.action_space
        clone_behaviour(
            self.actor,
            *spaces,
            dataset,
            n_epochs,
            learning_rate,
            adam_epsilon,
            val_interval,
            self.verbose,
        )
        self._weights_changed()
        return self
