"""Train, resume and sweep the reinforcement-learning algorithms ACER and ACKTR.

>>> from rlrun import ACER
>>> model = ACER("MlpPolicy", "CartPole-v1", seed=0).learn(1000)
>>> model.save("cartpole")  # doctest: +SKIP

The names are loaded on first use, so that the command line answers quickly.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    CnnLnLstmPolicy: str
    CnnLstmPolicy: str
    CnnPolicy: str
    MlpLnLstmPolicy: str
    MlpLstmPolicy: str
    MlpPolicy: str

    from rlrun.api.callbacks import (
        BaseCallback,
        CallbackList,
        CheckpointCallback,
        EvalCallback,
        EventCallback,
        EveryNTimesteps,
        StopTrainingOnRewardThreshold,
    )
    from rlrun.api.envs import make_vec_env
    from rlrun.api.evaluation import evaluate_policy
    from rlrun.api.imitation.dataset import ExpertDataset
    from rlrun.api.imitation.expert import generate_expert_traj
    from rlrun.api.models import A2C, ACER, ACKTR
    from rlrun.api.policies import register_policy
    from rlrun.api.progress import ProgressBarCallback
    from rlrun.policies.base import Policy
    from rlrun.schema import UserError

__version__ = "0.1.0"

_HOMES = {
    "A2C": "api.models",
    "ACER": "api.models",
    "ACKTR": "api.models",
    "BaseCallback": "api.callbacks",
    "CallbackList": "api.callbacks",
    "CheckpointCallback": "api.callbacks",
    "EvalCallback": "api.callbacks",
    "EventCallback": "api.callbacks",
    "EveryNTimesteps": "api.callbacks",
    "ExpertDataset": "api.imitation.dataset",
    "Policy": "policies.base",
    "ProgressBarCallback": "api.progress",
    "StopTrainingOnRewardThreshold": "api.callbacks",
    "UserError": "schema",
    "evaluate_policy": "api.evaluation",
    "generate_expert_traj": "api.imitation.expert",
    "make_vec_env": "api.envs",
    "register_policy": "api.policies",
}

_POLICIES = (
    *("CnnLnLstmPolicy", "CnnLstmPolicy", "CnnPolicy"),
    *("MlpLnLstmPolicy", "MlpLstmPolicy", "MlpPolicy"),
)
"""Names of policies, for programs that import them; they stand for themselves."""

__all__ = [
    "A2C",
    "ACER",
    "ACKTR",
    "BaseCallback",
    "CallbackList",
    "CheckpointCallback",
    "CnnLnLstmPolicy",
    "CnnLstmPolicy",
    "CnnPolicy",
    "EvalCallback",
    "EventCallback",
    "EveryNTimesteps",
    "ExpertDataset",
    "MlpLnLstmPolicy",
    "MlpLstmPolicy",
    "MlpPolicy",
    "Policy",
    "ProgressBarCallback",
    "StopTrainingOnRewardThreshold",
    "UserError",
    "__version__",
    "evaluate_policy",
    "generate_expert_traj",
    "make_vec_env",
    "register_policy",
]


def __getattr__(name: str) -> Any:
    if name in _POLICIES:
        return name
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
