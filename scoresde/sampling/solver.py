"""The contract of solvers, the noise that they are given, and the report that they return."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from scoresde.numerics.ode import Status
from scoresde.numerics.values import at_least, described
from scoresde.score import ScoreModel

__all__ = ["Noise", "NonFiniteError", "Report", "Solver", "StoppedError", "check_tolerances"]


class Noise(Protocol):
    """Draws of standard normal noise of the shape of the state.

    A solver whose noise is a martingale M gives the variance of M at both ends of its step. A Brownian path answers
    with (M(stop) − M(start))/√(stop − start); white noise ignores both.
    """

    def __call__(self, start: float | None = None, stop: float | None = None) -> Tensor: ...


class NonFiniteError(ArithmeticError):
    """A solve ended in values that are not finite.

    Attributes:
        x: `(B, ...)`, all samples, including those that are finite; None if there are none yet. From a sampler they are
            in the units of its samples.
        report: The report of a solver that treats samples differently, which says which of them stopped; else None.
    """

    def __init__(self, message: str, x: Tensor | None = None, report: "Report | None" = None) -> None:
        super().__init__(message)
        self.x = x
        self.report = report


@dataclass(frozen=True)
class Report:
    """The return value of the generator of a solver that treats samples differently, `(B,)` tensors.

    Attributes:
        nfe: int64, the evaluations of the network.
        status: int64, `scoresde.numerics.ode.Status`, from a solver that may stop on the way.
        reached: float64, the time of each sample's last state; given with a status.
        sweeps: int64, the calls of the network one after the other, if a call holds several times of a sample.
    """

    nfe: Tensor
    status: Tensor | None = None
    reached: Tensor | None = None
    sweeps: Tensor | None = None

    @classmethod
    def join(cls, reports: Sequence["Report"]) -> "Report | None":
        """The report of several batches, one after the other; None if there is none."""
        if not reports:
            return None
        return cls(*(_cat([getattr(report, field.name) for report in reports]) for field in fields(cls)))

    def stopped(self) -> str:
        """The number of samples that stopped on the way, and the reasons; empty if none did."""
        if self.status is None:
            return ""
        counts = {s: int((self.status == s).sum()) for s in Status if s != Status.ARRIVED}
        reasons = ", ".join(f"{s.name.lower().replace('_', ' ')} {n}" for s, n in counts.items() if n)
        return f"{sum(counts.values())} of {len(self.status)} samples stopped on the way ({reasons})" if reasons else ""

    def raise_if_stopped(self, x: Tensor) -> None:
        """Do nothing if every sample arrived.

        Args:
            x: The states of the samples, for the exception.

        Raises:
            NonFiniteError: The model was not finite for a sample.
            StoppedError: A sample stopped for another reason.
        """
        reason = self.stopped()
        if not reason or self.status is None:
            return
        if bool((self.status == Status.NOT_FINITE).any()):
            raise NonFiniteError(f"{reason}: the model is not finite there", x, self)
        raise StoppedError(f"{reason}: loosen the tolerances or allow more steps", x, self)


def _cat(parts: list[Tensor | None]) -> Any:
    """The tensors one after the other, or None if the first is none."""
    return None if parts[0] is None else torch.cat([part for part in parts if part is not None])


class StoppedError(ArithmeticError):
    """Samples stopped on the way.

    Attributes:
        x: `(B, ...)`, the last state of every sample; from a sampler in the units of its samples.
        report: The report, which says which samples stopped, where and why.
    """

    def __init__(self, message: str, x: Tensor, report: Report) -> None:
        super().__init__(message)
        self.x = x
        self.report = report


class Solver(ABC):
    """A method for the reverse SDE or the probability-flow ODE, as one generator function.

    A subclass defines `solve`, whose local variables hold the history of the solve. Counting of evaluations, progress,
    the trajectory, the check of the result and the denoising step are the work of `Sampler`. A solver is a value: it is
    not changed by a solve, and two of the same settings do the same.
    """

    @abstractmethod
    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        """Yield the state at times[1], times[2], ...; return a `Report` if samples differ in cost or status.

        Args:
            model: The score model, with its conditions bound.
            x: The state at times[0], `(B, ...)`; it must not be changed in place.
            times: The times, `(n + 1,)` float64 on the CPU, decreasing.
            noise: A function that returns a fresh draw of standard normal noise of the shape of x at each call.
        """

    @property
    def stochastic(self) -> bool:
        """True if the solver adds noise; False for a solver of the probability-flow ODE."""
        return True

    @property
    def reverse_sde(self) -> bool:
        """True if a step has the noise of the reverse SDE's posterior exactly, as the density along a path needs."""
        return False

    @property
    def takes_learned(self) -> bool:
        """True if its noise is what a model has learned, where it has learned variances, and only else its own."""
        return False

    @property
    def draws_white(self) -> bool:
        """True if it draws white noise as often as it steps, so that more steps do not refine a trajectory."""
        return False

    @property
    def adapts(self) -> bool:
        """True if a tolerance decides on the steps; False if the grid does."""
        return False

    def general(self) -> "Solver":
        """The same method under the name of its family, with all settings written out; itself if it has none."""
        return self

    def __repr__(self) -> str:
        return described(self)


def check_tolerances(rtol: float, atol: float, max_steps: int) -> None:
    """Check the settings of a solver that adapts its steps.

    Raises:
        ValueError: A tolerance that is not positive, or less than one step.
    """
    if not (rtol > 0 and atol > 0):
        raise ValueError(f"rtol={rtol} and atol={atol} must be positive")
    at_least("max_steps", max_steps, 1)
