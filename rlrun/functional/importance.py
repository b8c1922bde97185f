"""Importance weights, their truncation, and the correction for its bias (ACER, section 3.2)."""

from torch import Tensor

EPSILON = 1e-6  # keeps ratios finite where the behaviour policy gives an action no mass
LOG_BOUND = 20.0  # the same for ratios of densities, whose logarithms have no bound


def importance_ratio(probs: Tensor, behaviour: Tensor) -> Tensor:
    """`rho(a) = pi(a) / mu(a)`.

    Args:
        probs: `[..., A]`, the current policy `pi`.
        behaviour: `[..., A]`, the policy `mu` that chose the actions.

    Returns:
        `[..., A]`, >= 0.
    """
    return probs / (behaviour + EPSILON)


def density_ratio(log_prob: Tensor, log_behaviour: Tensor, power: float = 1.0) -> Tensor:
    """`rho(a)^power = (pi(a) / mu(a))^power` from the logarithms, in [exp(-20), exp(20)].

    Args:
        log_prob: `[...]`, of the action under the current policy.
        log_behaviour: `[...]`, under the policy that chose it.
        power: `1 / d` for the traces of Retrace with `d`-dimensional actions.
    """
    return (power * (log_prob - log_behaviour)).clamp(-LOG_BOUND, LOG_BOUND).exp()


def correction_share(rho: Tensor, c: float) -> Tensor:
    """`[1 - c / rho]_+`, the share of a ratio that the truncation at `c` cuts off; in [0, 1).

    Zero wherever `rho <= c`, hence always zero on fresh experience. Without the epsilon of the
    published code, which would make it a little more than zero at `rho = c`.
    """
    return (1.0 - c / rho).clamp(min=0.0)


def correction_weight(probs: Tensor, rho: Tensor, c: float) -> Tensor:
    """Weight of the bias correction, `[1 - c / rho(a)]_+ pi(a)` (ACER, eq. 7).

    Args:
        probs: `[..., A]`.
        rho: `[..., A]`.
        c: level of the truncation, > 0; infinity switches the correction off.

    Returns:
        `[..., A]`, in [0, 1).
    """
    return correction_share(rho, c) * probs
