"""One step of training: the optimiser with its schedule, clipping and skipped steps, and what a step returns."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scoresde.training.options import Training
from scoresde.training.sharded import is_divided, whole_tensor

__all__ = ["GuardedOptimizer", "Step"]


@dataclass(frozen=True)
class Step:
    """A step that training has made.

    Tensors stay on the device, so that a loop waits for the device only when it reads one, as `float(step.loss)` does.

    Attributes:
        step: Number of the step; 1 is the first.
        loss: Weighted loss `()` of this process's part of the batch; not finite if the step was skipped for it.
        grad_norm: Norm `()` of the gradient before clipping.
        skipped: Whether `()` the loss or its gradient was not finite, so that the weights stayed as they were.
        lr: Learning rate of the step, of the first group of parameters.
        seconds: Seconds of training so far, with those before an interruption.
    """

    step: int
    loss: Tensor
    grad_norm: Tensor
    skipped: Tensor
    lr: float
    seconds: float


class GuardedOptimizer:
    """An optimiser under the schedule of training that skips the steps whose loss or gradient is not finite.

    Args:
        network: Network whose parameters are trained.
        make: Makes the optimiser of a list of parameters.
        options: Options of training.
        device: Device of the parameters.
        beside: What the objective trains beside the network, if anything.

    Attributes:
        inner: The optimiser.
        skipped: Number `()` of steps skipped so far, on the device.
        in_a_row: Number `()` of steps skipped since the last that was not, on the device.

    Raises:
        ValueError: Options that the optimiser does not take.
    """

    def __init__(
        self,
        network: nn.Module,
        make: Callable[[Any], torch.optim.Optimizer],
        options: Training,
        device: torch.device,
        beside: nn.Module | None = None,
    ) -> None:
        self._beside = [] if beside is None else list(beside.parameters())
        try:
            self.inner = make([p for p in [*network.parameters(), *self._beside] if p.requires_grad])
        except (TypeError, ValueError) as error:
            raise ValueError(f"optimizer: {' '.join(str(error).split())}") from error
        self.options = options
        # Fused optimisers skip a step on the device, by the interface that gradient scalers use.
        divided = is_divided(network)
        self._skips_on_device = bool(getattr(self.inner, "_step_supports_amp_scaling", False)) and not divided
        if divided and not type(self.inner).__module__.startswith("torch.optim"):
            raise ValueError(
                f"optimizer: {type(self.inner).__name__} does not go with divided weights (FSDP): take adamw, or train "
                "without FSDP"
            )
        self._peaks = [group["lr"] for group in self.inner.param_groups]
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        self.in_a_row = torch.zeros((), dtype=torch.int64, device=device)

    @property
    def lr(self) -> float:
        """Learning rate of the first group of parameters."""
        rate: float = self.inner.param_groups[0]["lr"]  # or a tensor on the device, which is not waited for
        return rate

    def schedule(self, step: int) -> None:
        """Set the learning rates of `step` (0, 1, ...)."""
        factor = self.options.lr_factor(step)
        for group, peak in zip(self.inner.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor

    def average(self, mean: Callable[[Tensor], Tensor]) -> None:
        """Replace the gradients of what is trained beside the network by their means over the processes."""
        for parameter in self._beside:
            if parameter.grad is not None:
                parameter.grad = mean(parameter.grad)

    def clip(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Clip the gradients; the norm `()` of those of the parameters before that."""
        largest = math.inf if self.options.clip is None else self.options.clip
        if self._beside:
            # On its own, since its gradient says nothing about that of the network.
            nn.utils.clip_grad_norm_(self._beside, largest)
        norm = nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], largest)
        return whole_tensor(norm)

    def step(self, bad: Tensor) -> None:
        """Make a step and drop the gradients; leave the parameters as they are where `bad` `()` is true."""
        # A fused SGD that skips its very first step leaves its momentum uninitialised: the first step is looked at.
        if self._skips_on_device and self.inner.state:
            self.inner.grad_scale = None  # type: ignore[attr-defined]
            self.inner.found_inf = bad.float()  # type: ignore[attr-defined]
            self.inner.step()
        elif not bool(bad):
            self.inner.step()
        self.inner.zero_grad(set_to_none=True)
        self.skipped += bad
        self.in_a_row = torch.where(bad, self.in_a_row + 1, torch.zeros_like(self.in_a_row))
