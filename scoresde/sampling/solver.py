"""The contract of solvers, the noise that they are given, and the report that they return."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from scoresde.numerics.ode import Status
from scoresde.score import ScoreModel

__all__ = ["Noise", "NonFiniteError", "Report", "Solver", "StoppedError"]


class Noise(Protocol):
    """Draws of standard normal noise of the shape of the state.

    A solver whose noise is a martingale M gives the variance of M at both ends of its step, so that a Brownian
    path can answer with (M(stop) − M(start))/√(stop − start); white noise does not look at them.
    """

    def __call__(self, start: float | None = None, stop: float | None = None) -> Tensor: ...


class NonFiniteError(ArithmeticError):
    """A solve ended in values that are not finite.

    Attributes:
        x: `(B, ...)`, all samples, those that are finite among them; None where there are none yet.
    """

    def __init__(self, message: str, x: Tensor | None = None) -> None:
        super().__init__(message)
        self.x = x


@dataclass(frozen=True)
class Report:
    """What a solver that treats samples differently says of each `(B,)`, as its generator's return value.

    Attributes:
        nfe: int64, network evaluations.
        status: int64, of `scoresde.numerics.ode.Status`, where a sample may stop on the way.
        reached: float64, the time of each sample's last state, beside a status.
        sweeps: int64, calls of the network one after the other, where a call has several times of a sample.
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


def _cat(parts: list[Tensor | None]) -> Any:
    """The tensors one after the other, or None if the first is none."""
    return None if parts[0] is None else torch.cat([part for part in parts if part is not None])


class StoppedError(ArithmeticError):
    """Samples stopped on the way.

    Attributes:
        x: `(B, ...)`, where every sample is.
        report: which, where and why.
    """

    def __init__(self, message: str, x: Tensor, report: Report) -> None:
        super().__init__(message)
        self.x = x
        self.report = report


class Solver(ABC):
    """A way to follow the reverse SDE or the probability-flow ODE; one generator function."""

    @abstractmethod
    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        """Yield the state at times[1], times[2], ...; return a `Report` where samples differ.

        Args:
            model: the score model, with its conditions bound.
            x: `(B, ...)`, the state at times[0].
            times: `(n + 1,)` float64 on the CPU, decreasing.
            noise: returns a fresh draw of standard normal noise of the shape of x at each call.
        """

    @property
    def stochastic(self) -> bool:
        """Whether the solver adds noise; False for a solver of the probability-flow ODE."""
        return True

    @property
    def adapts(self) -> bool:
        """Whether a tolerance decides on the steps; False if the grid does."""
        return False

    def general(self) -> "Solver":
        """The same method under the name of its family, with all settings written out; itself if it has none."""
        return self

    def __repr__(self) -> str:
        values = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_"))
        return f"{type(self).__name__}({values})"
