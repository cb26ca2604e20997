"""The contract of methods for inverse problems: what each says of itself, and how it draws.

A method is a value with the settings of its paper. It draws in one of two ways. A `FieldMethod` bends the field of the
prior model towards the measurements, and any sampler takes the bent model. A `SolverMethod` is a solver of its own,
whose steps use the measurements. Methods that are neither subclass `Method`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scoresde.guidance.gradient import GradientGuided
from scoresde.inverse.informative import informative
from scoresde.inverse.linear_gaussian import spectrum
from scoresde.inverse.noise import NoNoise
from scoresde.inverse.operator import LinearOperator, Operator
from scoresde.inverse.problem import Measurement
from scoresde.inverse.units import in_model_space
from scoresde.numerics.values import Value, expand_to
from scoresde.sampling import DataStraight, Grid, Sampler, Samples, Solver
from scoresde.score import ScoreModel
from scoresde.statistics import Statistics

__all__ = ["FieldMethod", "Mean", "Method", "PosteriorModel", "SolverMethod", "pulled_back"]

Mean = Callable[[Tensor], Tensor]
"""The denoised mean of states `(b, ...)` at the time of a step, one evaluation of the model; differentiable."""


class Method(Value, ABC):
    """A way to draw from p(x | y), exactly or not."""

    needs_linear = True
    """Whether the operator has to be linear."""
    needs_singular_values = False
    """Whether the operator has to know its singular values."""
    needs_variance = True
    """Whether the noise has to be Gaussian, or to be taken as such."""
    needs_density = False
    """Whether the noise has to have a density, which no noise has not."""
    is_estimate = False
    """Whether it gives an estimate, whose scatter over seeds says nothing of the posterior."""

    def check(self, model: ScoreModel, measurement: Measurement) -> None:
        """Check that the method is one for a problem.

        Args:
            model: The model of the prior.
            measurement: The measurements, in the units of samples.

        Raises:
            ValueError: An operator of samples of another shape than the model's, or without what the method needs.
        """
        operator, name = measurement.operator, type(self).__name__
        linear = isinstance(operator, LinearOperator)
        if model.shape is not None and tuple(operator.shape) != tuple(model.shape):
            raise ValueError(
                f"{operator!r} is for samples of shape {operator.shape}, and the model's are {model.shape}"
            )
        if self.needs_linear and not linear:
            raise ValueError(f"{name} is for linear operators, which {operator!r} is not: take DPS()")
        if self.needs_singular_values and spectrum(in_model_space(measurement, model).operator) is None:
            raise ValueError(
                f"{name} needs the singular values of the operator, which {operator!r} does not know: "
                "take DiffPIR(), DAPS(langevin_steps=None) or PnPDM(), which do without"
            )
        if self.needs_variance and measurement.noise.variance(measurement.y) is None:
            raise ValueError(f"{name} needs noise that is Gaussian or near it, not {measurement.noise!r}: take DPS()")
        if self.needs_density and isinstance(measurement.noise, NoNoise):
            raise ValueError(
                f"{name} needs the likelihood of a measurement, and without noise there is none: take "
                "GaussianNoise(std) with a small std, or DDNM(), DDRM(), RePaint() or DiffPIR(), which need no noise"
            )

    @abstractmethod
    def draw(
        self, model: ScoreModel, measurement: Measurement, steps: int, *, seed: int = 0, first: int = 0, **cond: Any
    ) -> Samples:
        """Draw one sample for each measurement.

        Args:
            model: The model of the prior.
            measurement: The measurements, in the units of samples.
            steps: The number of steps; what a step costs in evaluations is for the method to say.
            seed: Sample i is a function of measurement i, of the seed and of `first` + i.
            first: The index of the first sample.
            **cond: Conditions of the model.
        """


class SolverMethod(Method):
    """A method that is a solver of its own. A subclass gives `solver`, and `grid` where it wants other times."""

    denoise = True
    """Whether the sample is the denoised mean of the solver's last state, or that state itself."""
    cutoff: float | None = None
    """The noise, in standard deviations of the data, above which a direction counts as not measured; None for none."""

    @abstractmethod
    def solver(self, measurement: Measurement) -> Solver:
        """The solver that knows the measurements `(B, ...)`, in model space, of the B samples of the batch."""

    def grid(self, steps: int) -> Grid:
        """The times."""
        return DataStraight(steps)

    def draw(
        self, model: ScoreModel, measurement: Measurement, steps: int, *, seed: int = 0, first: int = 0, **cond: Any
    ) -> Samples:
        self.check(model, measurement)
        within = in_model_space(measurement, model)
        if self.cutoff is not None:
            within = informative(within, model, self.cutoff)
        sampler = Sampler(self.solver(within), self.grid(steps), self.denoise)
        return sampler(model, (len(measurement), *measurement.operator.shape), seed=seed, first=first, **cond)


class FieldMethod(Method):
    """A method that adds an estimate of ∇ log p(y | x_t) to the score of the prior. A subclass gives `pull`.

    Every sampler takes `posterior(model, measurement)`; `draw` uses `sampler(steps)`.
    """

    @abstractmethod
    def pull(
        self, mean: Mean, x: Tensor, alpha: Tensor, sigma: Tensor, measurement: Measurement
    ) -> tuple[Tensor, Tensor]:
        """The denoised mean at x and the estimate of ∇ₓ log p(y | x), both of the shape of x.

        Args:
            mean: The denoised mean as a function of the state.
            x: The state `(B, ...)` in model space.
            alpha: α of its time, shaped to broadcast to x, in its dtype.
            sigma: σ of its time.
            measurement: The measurements of the B samples, in model space.
        """

    @abstractmethod
    def sampler(self, steps: int) -> Sampler:
        """The sampler of the method's paper, or a better one."""

    def informed(self, statistics: Statistics | None, operator: Operator) -> "FieldMethod":
        """The method with what it computes once of a model and an operator; itself if there is nothing.

        Args:
            statistics: The moments of the model's data, if they are known.
            operator: The operator, in model space.
        """
        return self

    def posterior(self, model: ScoreModel, measurement: Measurement) -> "PosteriorModel":
        """The model of p(x_t | y), as the method has it; measurements are in the units of samples."""
        self.check(model, measurement)
        inner = in_model_space(measurement, model)
        return PosteriorModel(model, self.informed(model.statistics, inner.operator), inner)

    def draw(
        self, model: ScoreModel, measurement: Measurement, steps: int, *, seed: int = 0, first: int = 0, **cond: Any
    ) -> Samples:
        posterior = self.posterior(model, measurement)
        shape = (len(measurement), *measurement.operator.shape)
        return self.sampler(steps)(posterior, shape, seed=seed, first=first, **cond)


def pulled_back(mean: Mean, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The denoised mean D at x, and the function v ↦ (∂D/∂x)ᵀ v, a backward pass at each call."""
    found: Any = torch.func.vjp(mean, x)
    return found[0], lambda v: found[1](v)[0]


class PosteriorModel(GradientGuided):
    """The field of p(x_t | y) as a `FieldMethod` has it: the score of the prior plus ∇ log p(y | x_t).

    Args:
        model: The model of the prior.
        method: The method.
        measurement: One measurement, for all samples of a batch, or one for each, in model space.
    """

    def __init__(self, model: ScoreModel, method: FieldMethod, measurement: Measurement) -> None:
        super().__init__(model, 1.0, None)
        self.method, self.measurement = method, measurement

    def _parts(self) -> list[str]:
        return [self.model._head(), repr(self.method), repr(self.measurement.operator)]

    def for_rows(self, rows: Tensor) -> ScoreModel:
        chosen = self.measurement if len(self.measurement) == 1 else self.measurement.rows(rows)
        return PosteriorModel(self.model.for_rows(rows), self.method, chosen)

    def _with_gradient(
        self, ask: Callable[[Tensor], Tensor], x: Tensor, t: Tensor, noisy: bool, cond: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        count = len(self.measurement)
        if count not in (1, len(x)):
            raise ValueError(
                f"there are {count} measurements for {len(x)} samples: draw one sample for each measurement, in one "
                "chunk (batch_size=None), or give one measurement"
            )
        measurement = self.measurement
        if count != len(x):
            measurement = Measurement(measurement.problem, measurement.y.expand(len(x), *measurement.y.shape[1:]))
        fine = t.double()
        alpha, sigma = expand_to(self.sde.alpha(fine), x), expand_to(self.sde.sigma(fine), x)

        def mean(y: Tensor) -> Tensor:
            found = ask(y)
            return (y - sigma * found) / alpha if noisy else found

        denoised, pull = self.method.pull(mean, x, alpha, sigma, measurement)
        return (x - alpha * denoised) / sigma if noisy else denoised, pull
