"""An inverse problem, and a measurement of one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.adjoint import check_own_adjoints
from scoresde.inverse.noise import MeasurementNoise
from scoresde.inverse.operator import Operator
from scoresde.numerics.random import SampleNoise, Stream

__all__ = ["Measurement", "Problem"]


@checked
@dataclass(frozen=True)
class Problem:
    """What is measured of a sample and with which noise: y ~ p(y | A(x)).

    Samples are as a sampler gives them: in the data's own units where these are continuous, in model space where they
    are discrete, such as pixels.

    Attributes:
        operator: The operator A.
        noise: The law of y given A(x).

    Raises:
        ValueError: Noise of measurements of another shape, or a linear operator of a class of one's own whose adjoint
            fails the dot-product test.
    """

    operator: Operator
    noise: MeasurementNoise

    def __post_init__(self) -> None:
        self.noise.check(self.operator.measured)
        check_own_adjoints(self.operator)

    def measure(self, x: Tensor, seed: int = 0, first: int = 0) -> "Measurement":
        """Measure samples.

        Args:
            x: Samples `(B, *operator.shape)`.
            seed: Measurement i is a function of x[i], of the seed and of `first` + i.
            first: The index of the first sample.
        """
        clean = self.operator(x)
        indices = torch.arange(first, first + len(x))
        noise = SampleNoise(seed, indices, clean.shape[1:], clean.dtype, clean.device, Stream.MEASUREMENT_NOISE)
        return Measurement(self, self.noise.draw(clean, noise()))

    def given(self, y: Tensor) -> "Measurement":
        """The measurements y `(B, *operator.measured)`, as they are.

        Raises:
            ValueError: Measurements of another shape, that are not finite, or that the noise makes impossible.
        """
        shape = self.operator.measured
        if y.ndim < 1 or tuple(y.shape[1:]) != shape:
            expected = f"(B, {', '.join(map(str, shape))})"
            raise ValueError(f"y has shape {tuple(y.shape)}, expected {expected}, as {self.operator!r} measures it")
        if not bool(y.isfinite().all()):
            raise ValueError("y has values that are not finite")
        self.noise.check_values(y)
        return Measurement(self, y)


class Measurement:
    """Measurements y of B samples, as `Problem.measure` and `Problem.given` make them.

    Args:
        problem: The problem.
        y: `(B, *operator.measured)`.

    Attributes:
        problem: The problem.
        y: The measurements.
    """

    def __init__(self, problem: Problem, y: Tensor) -> None:
        self.problem, self.y = problem, y

    def __len__(self) -> int:
        return len(self.y)

    @property
    def operator(self) -> Operator:
        """The operator A."""
        return self.problem.operator

    @property
    def noise(self) -> MeasurementNoise:
        """The law of y given A(x)."""
        return self.problem.noise

    def rows(self, rows: slice | Tensor) -> "Measurement":
        """The measurements of some of the samples, which may repeat."""
        return Measurement(self.problem, self.y[rows])

    def prepared(self, device: torch.device, dtype: torch.dtype) -> "Measurement":
        """The measurements with all tensors on a device and in a dtype, so that no step has to convert them."""
        problem = Problem(self.operator.prepared(device, dtype), self.noise.prepared(device, dtype))
        return Measurement(problem, self.y.to(device, dtype))

    def residual(self, x: Tensor) -> Tensor:
        """y − A(x) of samples `(B, ...)`, `(B, *operator.measured)`."""
        clean: Tensor = self.operator(x)
        return self.y.to(x) - clean

    def log_likelihood(self, x: Tensor) -> Tensor:
        """log p(y | A(x)) in nats of samples `(B, ...)`, `(B,)`."""
        return self.noise.log_prob(self.y.to(x), self.operator(x))
