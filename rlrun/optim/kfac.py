"""K-FAC: natural gradient by Kronecker-factored curvature (arXiv 1503.05671, 1602.01407).

    opt = KFAC(model)
    with opt.capture():                          # statistics: scores per sample, summed
        model(x).backward(gradient=scores)
    opt.zero_grad()
    loss(model(x)).backward()
    opt.step()

It knows nothing of reinforcement learning. The scores are derivatives of `log p(y | x)` by the
output of the model for a `y` drawn from the model itself, so that the factors are those of the
Fisher matrix; scores of the data's own `y` would make them the empirical Fisher.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rlrun.functional import kronecker
from rlrun.functional.trust_region import kl_step_scale
from rlrun.optim.bases import Bases
from rlrun.optim.blocks import Block, Sharing, blocks_of, uncovered
from rlrun.optim.capture import Call, Use, joined, recording
from rlrun.optim.decompose import precondition, spectrum
from rlrun.optim.diagonal import Diagonal, diagonals_of
from rlrun.optim.errors import FiniteCheck
from rlrun.optim.flat import flat
from rlrun.optim.gradients import clipped, gradient_of


class KFAC:
    """Steps along `(A (x) G + damping I)^-1` times the gradient, inside a trust region.

    One step, with `g` the gradient and `u` the preconditioned one:

        nu     = min(1, sqrt(kl_clip / (lr^2 u . g)))
        buffer = momentum * buffer + nu * u
        theta  = theta - lr * (1 - momentum) * buffer

    The factor `1 - momentum` lets a constant `u` move by `lr nu u`. While the statistics settle,
    the first `cold_iter` steps follow the clipped gradient itself, by the same rule with
    `nu = 1` and buffers of their own.

    Owns factors, diagonals, bases, momentum and counters. Linear and Conv2d layers have factors;
    for a LayerNorm the diagonal of its Fisher matrix `F` is estimated, and the preconditioned
    gradient is `g / (F + damping)` with `F` as it is at the step. Every other trainable parameter
    must be named in `fisher`.

    Args:
        model: trained; its layers must be called as modules.
        lr: longest step, `eta_max` of the ACKTR paper; `step` may be given another.
        momentum: in [0, 1).
        damping: added to the curvature, > 0.
        kl_clip: bound on `lr^2 u . g`, twice the predicted KL; infinity for none. By group, each
            has its own, and its own `nu`.
        stats_decay: share of the statistics that stays at each capture once they have settled.
        update_interval: steps from one decomposition of the factors to the next.
        cold_iter: steps before the first; as many captures count alike (their mean), then the
            statistics fade by `stats_decay`. With 0 the first capture counts whole.
        damping_rule: `exact` adds damping to the eigenvalues of the product; `factored` adds its
            root to each of the factors (Tikhonov), which takes a Cholesky factorisation each
            instead of an eigendecomposition, and is several times faster.
        sharing: `expand` or `reduce` for layers that share weights over positions.
        bias: `homogeneous` treats a bias as a column of its layer's weight, `separate` as a block
            of its own, as the code published with ACKTR did.
        cold_lr: `lr` of the cold steps; None for that of the others.
        cold_max_grad_norm: bound on the norm of their gradient.
        max_grad_norm: the same for the steps that follow, before they are preconditioned.
        lag: steps from when a decomposition begins to when it is used, at most
            `update_interval`. The first one is always used at once.
        background: decompose in a thread of its own. It changes no result: `lag` says when a
            basis is used, and a step that needs one waits for it.
        fisher: diagonal of the Fisher matrix of the parameters that are in no layer of these
            kinds, by name: one number for all of a parameter.
        groups: parameters to tell apart, by name; together all of them.

    Raises:
        ValueError: a parameter is neither in such a layer nor named in `fisher`, or in two, or
            a layer is of a kind that is not supported.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float = 0.25,
        momentum: float = 0.9,
        damping: float = 0.01,
        kl_clip: float | Mapping[str, float] = 1e-3,
        stats_decay: float = 0.99,
        update_interval: int = 10,
        cold_iter: int = 10,
        *,
        damping_rule: Literal["exact", "factored"] = "exact",
        sharing: Sharing = "expand",
        bias: Literal["homogeneous", "separate"] = "homogeneous",
        cold_lr: float | None = None,
        cold_max_grad_norm: float = math.inf,
        max_grad_norm: float = math.inf,
        lag: int = 0,
        background: bool = False,
        fisher: Mapping[str, float] | None = None,
        groups: Mapping[str, Sequence[Tensor]] | None = None,
    ) -> None:
        numbers = {"lr": lr, "damping": damping, "update_interval": update_interval}
        for name, number in numbers.items():
            if not number > 0:
                raise ValueError(f"{name}={number} is not above 0")
        if not (0 <= momentum < 1 and 0 <= stats_decay <= 1 and cold_iter >= 0):
            raise ValueError("momentum must be in [0, 1), stats_decay in [0, 1], cold_iter >= 0")
        _one_of("damping_rule", damping_rule, "exact", "factored")
        _one_of("sharing", sharing, "expand", "reduce")
        _one_of("bias", bias, "homogeneous", "separate")
        self.model = model
        self.lr, self.momentum, self.damping = lr, momentum, damping
        self.stats_decay = stats_decay
        self.cold_iter, self.cold_lr = cold_iter, lr if cold_lr is None else cold_lr
        self.cold_max_grad_norm, self.max_grad_norm = cold_max_grad_norm, max_grad_norm
        self.bases = Bases(update_interval, lag, background, damping_rule == "exact", damping)
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.parameters: list[Tensor] = list(named.values())
        self.blocks = blocks_of(model, sharing, bias == "homogeneous")
        self.diagonals = diagonals_of(model)
        self.parts: dict[str, Block | Diagonal] = {**self.blocks, **self.diagonals}
        self.fisher: dict[Tensor, Tensor | float] = {}
        self.fisher |= uncovered(named, self.parts.values(), fisher or {})
        for diagonal in self.diagonals.values():
            self.fisher |= zip(diagonal.parameters, diagonal.statistics.values(), strict=True)
        self.groups = {name: list(group) for name, group in (groups or {}).items()}
        self.groups = self.groups or {"all": self.parameters}
        if Counter(p for group in self.groups.values() for p in group) != Counter(self.parameters):
            raise ValueError("groups: every trainable parameter must be in exactly one of them")
        if isinstance(kl_clip, Mapping) and kl_clip.keys() != self.groups.keys():
            raise ValueError(f"kl_clip must name the groups {', '.join(self.groups)}")
        self.kl_clip = kl_clip

        self.steps = 0
        self.captures = 0
        self.buffers = {p: torch.zeros_like(p) for p in self.parameters}
        self.scales = dict.fromkeys(self.groups, torch.ones(()))
        self.require_finite = FiniteCheck(self.parameters[0].device)
        self._moved = 0.0

    @contextmanager
    def capture(self, rows: int | None = None) -> Iterator[Callable[..., None]]:
        """Take the statistics of the passes made inside; parameters and `.grad` stay as they are.

        The first dimension of a layer's input counts its samples; a layer that is called several
        times has those of all calls, each taken for a sample of its own.

        One pass can serve the statistics and the loss. Its scores must go back by what is yielded,
        for an ordinary backward pass would leave gradients:

            with opt.capture(rows=len(x)) as backward:
                output = model(x)
                backward([output], [scores])
            loss(output).backward()

        Args:
            rows: only so many samples count, the first ones of each layer, which must see them
                once and in their order. None for all, and for passes that serve nothing else.

        Raises:
            NonFiniteUpdate: an input or a score is not finite; the statistics are not changed. On
                a GPU it is told later, see `FiniteCheck`.
            ValueError: a layer took no part in the passes.
        """
        layers = {part.layer for part in self.parts.values()}
        with recording(self.model, layers, freeze=rows is None) as record:
            yield record.backward
        uses = self._checked(record.calls, rows)
        self.captures += 1
        settling = self.captures <= max(self.cold_iter, 1)
        weight = 1.0 / self.captures if settling else 1.0 - self.stats_decay
        with torch.no_grad():
            for part in self.parts.values():
                part.accumulate(uses[part.layer], 1.0 - weight, weight)

    def _checked(
        self, calls: Mapping[nn.Module, Sequence[Call]], rows: int | None
    ) -> dict[nn.Module, list[Use]]:
        """The calls, joined; raise if a layer has none, or numbers are not finite.

        One look at the device for all of them.
        """
        uses: dict[nn.Module, list[Use]] = {}
        seen: dict[str, Tensor] = {}
        for name, layer in self.model.named_modules():
            if layer not in calls:
                continue
            if not calls[layer] or any(call.scores is None for call in calls[layer]):
                raise ValueError(f"capture: no scores came back to the layer {name}")
            uses[layer] = joined(calls[layer], rows)
            for i, use in enumerate(uses[layer]):
                number = f" {i}" if i else ""
                seen[f"{name} inputs{number}"], seen[f"{name} scores{number}"] = use
        # Sums of squares, for the statistics are finite if and only if they are.
        norms = torch._foreach_norm(list(seen.values()))
        self.require_finite(dict(zip(seen, norms, strict=True)))
        return uses

    @torch.no_grad()
    def step(self, lr: float | None = None) -> None:
        """Move the parameters against the gradients in their `.grad`.

        Args:
            lr: instead of that of the constructor.

        Raises:
            NonFiniteUpdate: gradient or step are not finite, or a factor cannot be decomposed;
                the parameters are not changed. On a GPU it is told later, see `FiniteCheck`.
        """
        lr = self.lr if lr is None else lr
        gradients = {p: gradient_of(p) for p in self.parameters}
        norm = nn.utils.get_total_norm(gradients.values())
        self.require_finite({"gradient": norm})
        if self.steps < self.cold_iter:
            lr *= self.cold_lr / self.lr
            steps = clipped(gradients, norm, self.cold_max_grad_norm)
        else:
            if self.steps == self.cold_iter:  # the cold steps were on another scale
                torch._foreach_zero_(list(self.buffers.values()))
            gradients = clipped(gradients, norm, self.max_grad_norm)
            if not self.captures:
                raise RuntimeError("step: there are no statistics yet; call capture() before")
            steps = self._natural(gradients, lr)
        buffers = list(self.buffers.values())
        torch._foreach_mul_(buffers, self.momentum)
        torch._foreach_add_(buffers, [steps[p] for p in self.parameters])
        self._moved = lr * (1.0 - self.momentum)
        torch._foreach_add_(self.parameters, buffers, alpha=-self._moved)
        self.steps += 1

    def _natural(self, gradients: Mapping[Tensor, Tensor], lr: float) -> dict[Tensor, Tensor]:
        """`nu u` by parameter."""
        factors = {name: (block.a, block.g) for name, block in self.blocks.items()}
        bases = self.bases.at(self.steps - self.cold_iter, factors).bases
        steps = {p: gradients[p] / (fisher + self.damping) for p, fisher in self.fisher.items()}
        for name, block in self.blocks.items():
            gradient = block.matrix([gradients[p] for p in block.parameters])
            step = precondition(gradient, bases[name], self.damping)
            steps |= zip(block.parameters, block.split(step), strict=True)
        moves = {name: flat(steps[p] for p in group) for name, group in self.groups.items()}
        dots = {
            name: moves[name] @ flat(gradients[p] for p in group)
            for name, group in self.groups.items()
        }
        if isinstance(self.kl_clip, Mapping):
            scales = {name: kl_step_scale(d, lr, self.kl_clip[name]) for name, d in dots.items()}
        else:
            whole = torch.stack(list(dots.values())).sum()
            scales = dict.fromkeys(dots, kl_step_scale(whole, lr, self.kl_clip))
        norm = nn.utils.get_total_norm(moves.values())
        self.require_finite({"natural gradient": norm, **{n: lr**2 * d for n, d in dots.items()}})
        for name, group in self.groups.items():
            torch._foreach_mul_([steps[p] for p in group], scales[name])
        self.scales = scales
        return steps

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def health(self) -> dict[str, float]:
        """What the last step did, and the curvature behind it.

        For each group `<group>/predicted_kl` of the whole step, momentum included, by the factors
        of now; `<group>/step_scale`, `nu`; `<group>/eigenvalue_min` and `_max` of `A (x) G`,
        undamped. For all of them `basis/age` in steps, `basis/seconds` of the decomposition, and
        the total numbers of `basis/fallbacks` and, of eigenvalues, `basis/negatives`.
        """
        found: dict[str, float] = {}
        current = self.bases.current
        for group, members in self.groups.items():
            doubled = torch.zeros(())
            values = []
            for name, block in self.blocks.items():
                if not any(block.parameters[0] is p for p in members):
                    continue
                step = self._moved * block.matrix([self.buffers[p] for p in block.parameters])
                doubled = doubled + kronecker.quadratic_form(step, block.a, block.g)
                if current is not None:
                    values.append(spectrum(current.bases[name], block.a, block.g))
            for p, fisher in self.fisher.items():
                if any(p is member for member in members):
                    doubled = doubled + (fisher * (self._moved * self.buffers[p]).square()).sum()
            found[f"{group}/predicted_kl"] = 0.5 * doubled.item()
            found[f"{group}/step_scale"] = self.scales[group].item()
            if values:
                found[f"{group}/eigenvalue_min"] = min(low for low, _ in values)
                found[f"{group}/eigenvalue_max"] = max(high for _, high in values)
        if current is not None:
            found["basis/age"] = self.steps - 1 - self.cold_iter - current.step
            found["basis/seconds"] = current.seconds
        found["basis/fallbacks"] = self.bases.fallbacks
        found["basis/negatives"] = int(self.bases.negatives)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Statistics, bases (those in the making are waited for), momentum and counters."""
        self.require_finite.settle()
        return {
            "steps": self.steps,
            "captures": self.captures,
            "buffers": {str(i): buffer for i, buffer in enumerate(self.buffers.values())},
            "factors": {name: part.statistics for name, part in self.parts.items()},
            "bases": self.bases.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.require_finite.forget()
        self.steps, self.captures = state["steps"], state["captures"]
        for i, buffer in enumerate(self.buffers.values()):
            buffer.copy_(state["buffers"][str(i)])
        for name, part in self.parts.items():
            for key, statistic in part.statistics.items():
                statistic.copy_(state["factors"][name][key])
        self.bases.load_state_dict(state["bases"], self.parameters[0].device)


def _one_of(name: str, value: str, *allowed: str) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not allowed; allowed: {', '.join(allowed)}")
