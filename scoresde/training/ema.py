"""Exponential moving averages of parameters."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from scoresde.storage.tensors import check_tensors

__all__ = ["EMA", "Decay", "HalfLife", "PowerFunction", "Profile"]


class Profile(ABC):
    """The decay of an average of parameters over the steps of training."""

    @abstractmethod
    def decay(self, step: int) -> float:
        """Decay β of average ← β average + (1 − β) parameters after `step` (1, 2, ...)."""

    def share(self, steps: np.ndarray, last: int) -> np.ndarray:
        """Share of the average after `last` that is of the parameters up to each of `steps` (0, 1, ...), `(N,)`.

        At step 0 it is the share of the initial parameters.
        """
        # The logarithms of what later steps leave of the average.
        logs = np.array([math.log(max(self.decay(step), 1e-300)) for step in range(1, last + 1)])
        left = np.concatenate((np.cumsum(logs[::-1])[::-1], [0.0]))
        return np.exp(left[np.asarray(steps, dtype=np.int64)])


class HalfLife(Profile):
    """β = 2^(−1/h): a parameter's weight halves in h steps (Karras et al. 2022, appendix F.2).

    Args:
        steps: Half-life h in steps.
        ramp_up: Largest h as a fraction of the steps so far, so that the start is forgotten sooner; null for no limit.
    """

    def __init__(self, steps: float = 500.0, ramp_up: float | None = 0.05) -> None:
        if not steps > 0:
            raise ValueError(f"a half-life of {steps} steps was asked for, expected a positive number")
        if ramp_up is not None and not ramp_up > 0:
            raise ValueError(f"ramp_up is {ramp_up}, expected a positive fraction or null")
        self.steps = steps
        self.ramp_up = ramp_up

    def decay(self, step: int) -> float:
        life = self.steps if self.ramp_up is None else min(self.steps, self.ramp_up * step)
        return float(0.5 ** (1 / max(life, 1e-8)))


class Decay(Profile):
    """β the same at every step, as most papers have it: 0.9999 in DDPM.

    Args:
        rate: The decay β, between 0 and 1.
        ramp_up: At most (1 + step)/(10 + step), as in score_sde, so that the start is forgotten sooner.
    """

    def __init__(self, rate: float = 0.9999, ramp_up: bool = True) -> None:
        if not 0 < rate < 1:
            raise ValueError(f"rate is {rate}, expected a decay between 0 and 1")
        self.rate = rate
        self.ramp_up = ramp_up

    def decay(self, step: int) -> float:
        return min(self.rate, (1 + step) / (10 + step)) if self.ramp_up else self.rate


class PowerFunction(Profile):
    """β = (1 − 1/step)^(γ + 1): the average spans a fixed fraction of training (Karras et al. 2024, eq. 123 to 127).

    Args:
        relative_std: Width of the weights' profile relative to the training time, between 0 and 1/√12 = 0.2887.
    """

    def __init__(self, relative_std: float = 0.05) -> None:
        if not 0 < relative_std < 12**-0.5:
            raise ValueError(f"relative_std is {relative_std}, expected between 0 and 0.2887")
        self.relative_std = relative_std
        # σ² = (γ + 1)/((γ + 2)² (γ + 3)) falls in γ ≥ 0: bisection.
        low, high = 0.0, 1e9
        for _ in range(200):
            middle = (low + high) / 2
            wide = (middle + 1) / ((middle + 2) ** 2 * (middle + 3)) > relative_std**2
            low, high = (middle, high) if wide else (low, middle)
        self.gamma = (low + high) / 2

    def decay(self, step: int) -> float:
        return float((1 - 1 / step) ** (self.gamma + 1))

    def share(self, steps: np.ndarray, last: int) -> np.ndarray:
        """Share of the average after `last` that is of the parameters up to each of `steps`: (step/last)^(γ + 1)."""
        return np.asarray((np.asarray(steps, dtype=np.float64) / last) ** (self.gamma + 1))


class EMA:
    """An average of a module's parameters.

    Args:
        module: Module whose parameters are averaged.
        profile: Decay of the average.
    """

    def __init__(self, module: nn.Module, profile: Profile) -> None:
        self.profile = profile
        self._names = [name for name, _ in module.named_parameters()]
        self._parameters = [p.detach() for p in module.parameters()]
        self.average = [p.clone() for p in self._parameters]

    def update(self, step: int) -> None:
        """Add the parameters after `step` (1, 2, ...)."""
        torch._foreach_lerp_(self.average, self._parameters, 1 - self.profile.decay(step))

    def state_dict(self) -> dict[str, Tensor]:
        """The average by the names of the parameters."""
        return dict(zip(self._names, self.average, strict=True))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the average from a `state_dict`.

        Raises:
            ValueError: Other names, shapes or dtypes than the parameters', or values that are not finite.
        """
        check_tensors(state, self.state_dict(), "the average's")
        _copy(self.average, (state[name] for name in self._names))

    def copy_to(self, module: nn.Module) -> None:
        """Set the parameters of `module` to the average."""
        _copy([p.detach() for p in module.parameters()], self.average)


def _copy(targets: list[Tensor], sources: Iterable[Tensor]) -> None:
    with torch.no_grad():
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source)
