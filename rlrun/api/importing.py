"""`rlrun import`: a model of stable-baselines 2 becomes a file of ours."""

from pathlib import Path

from rlrun.api.envs import make_vec_env
from rlrun.api.loading import imported
from rlrun.api.models import KINDS
from rlrun.api.sb2.model import read
from rlrun.schema import UserError


def convert(
    path: Path, *, env: str | None = None, obs_rms: str | None = None, to: str | None = None
) -> int:
    """Write the model in the zip of stable-baselines at `path` as one of ours.

    Args:
        path: of the file.
        env: id of the environment, which the file does not tell; with it the model can be
            evaluated, recorded and trained on.
        obs_rms: `.json` or `.npz` with the arrays `mean` and `var` of `VecNormalize`.
        to: name of the new file; None for that of the old one with `-rlrun` added.

    Returns:
        The exit code.

    Raises:
        UserError: it cannot be taken over as a whole, or the new file is there already.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    saved = read(path)
    target = path.with_name(f"{path.stem}-rlrun.zip") if to is None else Path(to)
    if target.exists():
        raise UserError(f"{target} is there already; name another file with to=FILE")
    kind = next(k for k in KINDS if k.algorithm_type.__name__.lower() == saved.algorithm)
    envs = None if env is None else make_vec_env(env, saved.n_envs or 1)
    try:
        model = imported(kind, saved, envs, {"verbose": 0}, obs_rms)
        model.save(target)
    finally:
        if envs is not None:
            envs.close()
    print("\n".join(saved.report))
    print(f"Written: {target}")
    if env is not None:
        print(f"Try: rlrun evaluate {target}")
    return 0
