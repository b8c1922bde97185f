"""The interface of stable-baselines 2, and what has become of each part of it here.

`python -m tests.seed_table` prints the tables of the README; `test_seed_table.py` compares them.
Facts about the original are written down here; about rlrun they are read from its signatures.
"""

from __future__ import annotations

import inspect
from typing import Any

import rlrun

COMMON = {
    "policy": ...,
    "env": ...,
    "policy_kwargs": None,
    "lr_schedule": "linear",
    "verbose": 0,
    "tensorboard_log": None,
    "full_tensorboard_log": False,
    "seed": None,
    "n_cpu_tf_sess": 1,
    "_init_setup_model": True,
}
"""Arguments of the constructors there with their defaults; `...` for none."""

CONSTRUCTORS: dict[str, dict[str, Any]] = {
    "ACER": COMMON
    | {
        "gamma": 0.99,
        "n_steps": 20,
        "num_procs": None,
        "q_coef": 0.5,
        "ent_coef": 0.01,
        "max_grad_norm": 10,
        "learning_rate": 7e-4,
        "rprop_alpha": 0.99,
        "rprop_epsilon": 1e-5,
        "buffer_size": 5000,
        "replay_ratio": 4,
        "replay_start": 1000,
        "correction_term": 10.0,
        "trust_region": True,
        "alpha": 0.99,
        "delta": 1,
    },
    "ACKTR": COMMON
    | {
        "gamma": 0.99,
        "nprocs": None,
        "n_steps": 20,
        "ent_coef": 0.01,
        "vf_coef": 0.25,
        "vf_fisher_coef": 1.0,
        "learning_rate": 0.25,
        "max_grad_norm": 0.5,
        "kfac_clip": 0.001,
        "async_eigen_decomp": False,
        "kfac_update": 1,
        "gae_lambda": None,
    },
    "A2C": COMMON
    | {
        "gamma": 0.99,
        "n_steps": 5,
        "vf_coef": 0.25,
        "ent_coef": 0.01,
        "max_grad_norm": 0.5,
        "learning_rate": 7e-4,
        "alpha": 0.99,
        "momentum": 0.0,
        "epsilon": 1e-5,
        "lr_schedule": "constant",
        "n_cpu_tf_sess": None,
    },
}

METHODS: dict[str, dict[str, Any]] = {
    "learn": {
        "total_timesteps": ...,
        "callback": None,
        "log_interval": 100,
        "tb_log_name": "ACER",
        "reset_num_timesteps": True,
    },
    "predict": {"observation": ..., "state": None, "mask": None, "deterministic": False},
    "action_probability": {
        "observation": ...,
        "state": None,
        "mask": None,
        "actions": None,
        "logp": False,
    },
    "save": {"save_path": ..., "cloudpickle": False},
    "load": {"load_path": ..., "env": None, "custom_objects": None},
    "load_parameters": {"load_path_or_dict": ..., "exact_match": True},
    "get_parameters": {},
    "get_parameter_list": {},
    "pretrain": {
        "dataset": ...,
        "n_epochs": 10,
        "learning_rate": 1e-4,
        "adam_epsilon": 1e-8,
        "val_interval": None,
    },
    "get_env": {},
    "set_env": {"env": ...},
    "get_vec_normalize_env": {},
    "set_random_seed": {"seed": ...},
    "setup_model": {},
}

FUNCTIONS: dict[str, dict[str, Any]] = {
    "make_vec_env": {
        "env_id": ...,
        "n_envs": 1,
        "seed": None,
        "start_index": 0,
        "monitor_dir": None,
        "wrapper_class": None,
        "env_kwargs": None,
        "vec_env_cls": None,
        "vec_env_kwargs": None,
    },
    "make_atari_env": {},
    "VecFrameStack": {},
    "VecNormalize": {},
    "evaluate_policy": {
        "model": ...,
        "env": ...,
        "n_eval_episodes": 10,
        "deterministic": True,
        "render": False,
        "callback": None,
        "reward_threshold": None,
        "return_episode_rewards": False,
    },
    "ExpertDataset": {
        "expert_path": None,
        "traj_data": None,
        "train_fraction": 0.7,
        "batch_size": 64,
        "traj_limitation": -1,
        "randomize": True,
        "verbose": 1,
        "sequential_preprocessing": False,
    },
    "generate_expert_traj": {
        "model": ...,
        "save_path": None,
        "env": None,
        "n_timesteps": 0,
        "n_episodes": 100,
        "image_folder": "recorded_images",
    },
    "register_policy": {"name": ..., "policy": ...},
    "BaseCallback": {"verbose": 0},
    "EventCallback": {"callback": None, "verbose": 0},
    "CallbackList": {"callbacks": ...},
    "CheckpointCallback": {
        "save_freq": ...,
        "save_path": ...,
        "name_prefix": "rl_model",
        "verbose": 0,
    },
    "EvalCallback": {
        "eval_env": ...,
        "callback_on_new_best": None,
        "n_eval_episodes": 5,
        "eval_freq": 10000,
        "log_path": None,
        "best_model_save_path": None,
        "deterministic": True,
        "render": False,
        "verbose": 1,
    },
    "StopTrainingOnRewardThreshold": {"reward_threshold": ..., "verbose": 0},
    "EveryNTimesteps": {"n_steps": ..., "callback": ...},
}

NOTES = {
    "policy": "names, classes, dotted names; a class may be any `torch.nn.Module`",
    "env": "an id, a `gymnasium.Env` or a `gymnasium.vector.VectorEnv`",
    "policy_kwargs": "`net_arch`, `layers`, `act_fun`, `n_lstm`, or our own; no `cnn_extractor`",
    "lr_schedule": "functions of the progress too; it never falls below zero",
    "A2C.lr_schedule": "one default for all three",
    "seed": "None draws one, which is then in `model.seed`; seeds no global generator",
    "n_cpu_tf_sess": "threads of PyTorch; None: one for vectors, all cores for pictures",
    "num_procs": "stands for `n_cpu_tf_sess`",
    "nprocs": "stands for `n_cpu_tf_sess`",
    "full_tensorboard_log": "taken, but there are no histograms",
    "_init_setup_model": "",
    "ACER.ent_coef": "it acts inside the trust region; there it was cut off",
    "ACER.max_grad_norm": "None for no bound",
    "ACKTR.max_grad_norm": "of the first `cold_iter` updates, as there; None for no bound",
    "A2C.max_grad_norm": "None for no bound",
    "buffer_size": "steps per environment, as there",
    "replay_start": "steps per environment, as there",
    "kfac_update": "the curvature changes slowly, and a decomposition is dear",
    "async_eigen_decomp": "a result is used after a fixed number of updates, so runs repeat",
    "momentum": "not there: RMSprop without it is what the papers use",
    "learn": "goes on with a segment that was stopped in its middle, and with the replay memory",
    "learn.tb_log_name": "None: the name of the class",
    "learn.reset_num_timesteps": "False also goes on with the schedule of the learning rate",
    "predict": "any number of observations, with an LSTM too; never changes the training",
    "action_probability": "all action spaces; densities of Box per unit of the environment",
    "save": "the whole training (optimiser, averages, replay, environments), without pickle",
    "save.cloudpickle": "not there: files hold no code",
    "load": "trains on exactly; also runs of the command line and zips of stable-baselines 2",
    "load_parameters": "nothing is changed if anything is wrong; ACER's average follows",
    "get_parameters": "by PyTorch's names; with the moments of the observations",
    "pretrain": "all action spaces, LSTMs; never wipes what was learnt before",
    "get_env": "of a loaded model: made from its id",
    "set_env": "another number of environments is possible, with every policy",
    "get_vec_normalize_env": "not there: `normalize_observations=True` belongs to the model",
    "set_random_seed": "",
    "setup_model": "",
    "make_vec_env": "a `gymnasium.vector.VectorEnv`; Atari ids come preprocessed and stacked",
    "make_vec_env.start_index": "not there: all seeds follow from one",
    "make_vec_env.monitor_dir": "not there: episodes are in `infos`, and in the files of a run",
    "make_vec_env.vec_env_cls": "`gymnasium.vector.SyncVectorEnv` or `AsyncVectorEnv`",
    "make_atari_env": "not there: `make_vec_env` with the id of a game",
    "VecFrameStack": "not there: games are stacked; for others `FrameStackObservation`",
    "VecNormalize": "not there: `normalize_observations=True`, `normalize_rewards=True`",
    "evaluate_policy": "an id will do for `env`; whole games and raw rewards on Atari",
    "ExpertDataset": "`traj_limitation` is exact; no pickle",
    "generate_expert_traj": "closes no environment that it was given",
    "CallbackList": "a callback that returns None does not stop the others",
    "BaseCallback": "only False stops",
    "EvalCallback": "`eval_env` may be an id",
}


def here(owner: str) -> dict[str, Any]:
    """Arguments and defaults of a class, function or method of rlrun."""
    if owner in CONSTRUCTORS:
        return _arguments(getattr(rlrun, owner)) | {"num_procs": None, "nprocs": None}
    if owner in METHODS:
        method = getattr(rlrun.ACER, owner, None)
        return {} if method is None else _arguments(method)
    made = getattr(rlrun, owner, None)
    return {} if made is None else _arguments(made)


def _arguments(function: Any) -> dict[str, Any]:
    return {
        name: ... if p.default is inspect.Parameter.empty else p.default
        for name, p in inspect.signature(function).parameters.items()
        if name != "self" and p.kind is not p.VAR_KEYWORD
    }


def exists(owner: str) -> bool:
    return owner in CONSTRUCTORS or hasattr(rlrun.ACER if owner in METHODS else rlrun, owner)


def state(owner: str, name: str, default: Any) -> str:
    """What has become of an argument: `same`, another default, or nothing."""
    found = here(owner)
    if name not in found:
        return "no"
    if found[name] == default:
        return "same"
    return f"`{_text(found[name])}`"


def _text(default: Any) -> str:
    return getattr(default, "__name__", None) or repr(default)


def parameter_rows() -> list[str]:
    """Of the constructors: one row for each argument with one meaning."""
    rows: dict[tuple[str, str, str, str], list[str]] = {}
    for owner, arguments in CONSTRUCTORS.items():
        for name, default in arguments.items():
            there = "" if default is ... else f"`{_text(default)}`"
            note = NOTES.get(f"{owner}.{name}", NOTES.get(name, ""))
            rows.setdefault((name, there, state(owner, name, default), note), []).append(owner)
    return [
        f"| `{name}` | {', '.join(owners)} | {there} | {now} | {note} |"
        for (name, there, now, note), owners in rows.items()
    ]


def function_rows() -> list[str]:
    """Of methods and functions: one row each, and one for each argument that differs."""
    rows = []
    for owner, arguments in (METHODS | FUNCTIONS).items():
        kind = "method" if owner in METHODS else ""
        now = "same" if exists(owner) else "no"
        rows.append(f"| `{owner}` | {kind} | {now} | {NOTES.get(owner, '')} |")
        for name, default in arguments.items():
            changed = state(owner, name, default)
            if exists(owner) and changed != "same":
                note = NOTES[f"{owner}.{name}"]
                rows.append(f"| `{owner}({name}=)` | | {changed} | {note} |")
    return rows


def tables() -> str:
    head = ["| argument | of | default there | here | |", "|---|---|---|---|---|"]
    first = "\n".join([*head, *parameter_rows()])
    head = ["| name | | here | |", "|---|---|---|---|"]
    return first + "\n\n" + "\n".join([*head, *function_rows()])


if __name__ == "__main__":
    print(tables())
