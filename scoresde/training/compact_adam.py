"""AdamW whose moments take half the memory."""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor

__all__ = ["CompactAdamW"]

_HALF = torch.bfloat16


class CompactAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov & Hutter 2019) with both moments in bfloat16, which is half the memory of its state.

    Moments are computed in float32 and rounded at random, up or down so that their expectation is exact: rounding to
    the nearest would leave a slow average where it is, since what a step adds to it is below half of its last digit.
    What rounding adds is a noise of about 1 % of the moments' size, for decays of 0.9 and 0.99. Numbers for it follow
    from the step alone, so that processes that share a training round alike, and a resumed training goes on as it would
    have.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate.
        betas: Decay of the means of gradient and squared gradient, in [0, 1).
        eps: Added to the root of the second moment.
        weight_decay: Decay of the weights, decoupled from the gradient.

    Raises:
        ValueError: A value outside of its range.
    """

    _step_supports_amp_scaling = True  # skips a step by `found_inf`, without waiting for the device

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise ValueError(f"{name} is {value}, expected at least 0")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas is {tuple(betas)}, expected two numbers in [0, 1)")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make a step; one whose `found_inf` is true leaves everything as it is."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        bad: Tensor | None = getattr(self, "found_inf", None)
        index = 0
        for group in self.param_groups:
            for p in group["params"]:
                index += 1
                if p.grad is not None:
                    self._update(p, group, index, bad)
        return loss

    def _update(self, p: Tensor, group: dict[str, Any], index: int, bad: Tensor | None) -> None:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            state["calls"] = 0
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(p, dtype=_HALF, memory_format=torch.preserve_format)
        good: Tensor | float = 1.0 if bad is None else 1.0 - bad
        state["step"] += good
        state["calls"] += 1
        first, second = group["betas"]
        grad = p.grad.float() if bad is None else torch.where(bad > 0, 0.0, p.grad.float())  # type: ignore[union-attr]
        mean = state["exp_avg"].float().lerp_(grad, 1 - first)
        square = state["exp_avg_sq"].float().mul_(second).addcmul_(grad, grad, value=1 - second)
        count = state["step"]
        root = (square / (1 - second**count)).sqrt_().add_(group["eps"])
        change = (mean / (1 - first**count)).div_(root).add_(p, alpha=group["weight_decay"])
        if bad is not None:
            change = torch.where(bad > 0, 0.0, change)
        p.sub_(change, alpha=group["lr"])
        generator = torch.Generator(p.device).manual_seed(state["calls"] * 2**24 + index)
        for name, value in (("exp_avg", mean), ("exp_avg_sq", square)):
            rounded = _rounded(value, generator)
            state[name].copy_(rounded if bad is None else torch.where(bad > 0, state[name], rounded))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; moments stay in bfloat16, where torch would give them the dtype of the parameters."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                if name in state:
                    state[name] = state[name].to(_HALF)


def _rounded(value: Tensor, generator: torch.Generator) -> Tensor:
    """Float32 values as bfloat16, each rounded up or down at random with its own value as expectation."""
    bits = value.contiguous().view(torch.int32)
    added = torch.randint(0, 2**16, value.shape, dtype=torch.int32, generator=generator, device=value.device)
    # bfloat16 is the upper half of float32: a carry out of the lower half rounds away from zero.
    return ((bits + added) & -(2**16)).view(torch.float32).to(_HALF)
