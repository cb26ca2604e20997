"""The probability-flow ODE in a scaled state and a time variable of choice, for many samples at different times.

In x̃ = x/α the ODE is dx̃/dσ̃ = E[ε | x] under every SDE. With the scaling's y and τ = log σ̃ it is

    dy/dτ = σ̃ (Σ + σ̃²)^(−1/2) ε − σ̃² (Σ + σ̃²)^(−1) y,

of which the second part is the flow of normal data, in closed form. A time variable w of a `Coordinate` brings a factor
dτ/dw. The variable that lets steps be longest is the one in which the model is smooth: log σ̃ for networks, which are
conditioned on it, and the angle arctan(σ̃/s) for exact scores.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde.likelihood.scaling import ScalarScaling, Scaling, log_determinant
from scoresde.numerics.ode import AcceptedSteps, Solution, integrate
from scoresde.numerics.tableaus import EmbeddedPair
from scoresde.numerics.trace import Known
from scoresde.score import Conditions, ScoreModel
from scoresde.sde.coordinates import Angle, Coordinate, LogSNR

__all__ = ["Flow", "LikelihoodError", "Tolerance"]


# Between the logarithms of step sizes: a tenth of a step, and half of its error at order 5.
_GRID = 0.1
# The share of what rounding moves a result by at most that is taken off error estimates.
_NOISE = 0.01
# Standard deviations from the mean beyond which a sample that fails is said to be too far from the data.
_FAR = 100.0


class LikelihoodError(ArithmeticError):
    """Samples whose path could not be followed, or whose value is not finite; the others are not lost.

    Attributes:
        samples: their indices.
        status: `(B,)` int64 of `scoresde.numerics.ode.Status`, of every sample.
        result: what was found, NaN for these samples: a `LogLikelihood`, a `Bound`, or the other end of the paths
            `(B, ...)`.
    """

    def __init__(self, message: str, samples: list[int], status: Tensor, result: Any) -> None:
        super().__init__(message)
        self.samples = samples
        self.status = status
        self.result = result


@dataclass(frozen=True)
class Tolerance:
    """What a step may err by: `nats` of the log-density, or `rtol` and `atol` of the state, whose scale is 1.

    An error e of the state at some time moves the log-density that is found by ∇ log p · e, whatever comes after. A
    step may move it by `nats`, measured by the root of Σ (1 + s²) e² with s the score of y.

    No step is asked for more than the dtype of the model can tell: what rounding its input x and its output ε to one
    part in 1/eps moves the log-density by, or the state. Such errors do not fall with the step, so that a sample far
    from the data, or data in a narrow band far from 0, would else be followed in ever smaller steps. A hundredth of it
    is taken off every error estimate: where less is left, as in noise that is small against the data, the estimate is
    made of rounding, which depends on the size of the batch, and must not choose the next step.
    """

    nats: float | None = None
    rtol: float = 1e-5
    atol: float = 1e-5

    def __post_init__(self) -> None:
        if self.nats is not None and not self.nats > 0:
            raise ValueError(f"tol is {self.nats}, expected a positive number of nats")
        if not (self.rtol > 0 and self.atol > 0):
            raise ValueError(f"rtol={self.rtol} and atol={self.atol} must be positive")


# What depends on time alone, float64, `(b,)` or `(b, k)` for the k values of the scaling.
@dataclass(frozen=True)
class _Place:
    t: Tensor
    alpha: Tensor
    level: Tensor  # σ̃
    norm: Tensor  # √(λ + σ̃²) `(b, k)`
    rate: Tensor  # dτ/dw

    def __getitem__(self, rows: Any) -> "_Place":
        return _Place(self.t[rows], self.alpha[rows], self.level[rows], self.norm[rows], self.rate[rows])


class Flow:
    """The flow of a model between two times.

    Args:
        model: the score model.
        shape: of all samples, `(B, ...)`.
        conditions: conditions of the samples.
        t_min: where the data are; the SDE's `t_min` if not given.
        t_max: where the codes are; the SDE's `t_noise` if not given.
        variable: whose variable is the time: by default log σ̃ for networks, the angle for exact scores.
        scaling: of the state.
        device: of the samples.
    """

    def __init__(
        self,
        model: ScoreModel,
        shape: torch.Size,
        conditions: Conditions,
        t_min: float | None = None,
        t_max: float | None = None,
        variable: Coordinate | None = None,
        scaling: Scaling | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        sde, known = model.sde, model.statistics
        model.check_shape(shape)
        if known is None:
            warnings.warn(
                "the model does not know the mean and standard deviation of its data, which are taken as 0 and 1: "
                "set model.statistics = Statistics.estimate(data) for fewer steps and a better prior",
                UserWarning,
                stacklevel=3,
            )
        self.model, self.shape, self.conditions = model, shape, conditions
        self.t_min = sde.t_min if t_min is None else t_min
        self.t_max = sde.t_noise() if t_max is None else t_max
        if not self.t_min < self.t_max:
            raise ValueError(f"t_min is {self.t_min}, expected less than t_max = {self.t_max}")
        self.device = torch.device(device)
        self.size = shape[1:].numel()
        std = 1.0 if known is None else float(known.std)
        self.variable = variable if variable is not None else (Angle(std) if model.exact else LogSNR())
        self.scaling = ScalarScaling() if scaling is None else scaling
        self.spread = self.scaling.spread(known, self.size).to(self.device)
        mean = torch.zeros(self.size) if known is None else known.mean
        self.mean = mean.to(self.device, torch.float64).flatten()
        ends = sde.check_time(torch.tensor([self.t_min, self.t_max], dtype=torch.float64))
        self.ends = self.variable.variable(sde, ends).tolist()
        self.at_ends = self.place(torch.tensor(self.ends, dtype=torch.float64, device=self.device))
        self.dtype = model.dtype
        self.log_det = model.log_det(shape[1:])

    def place(self, w: Tensor) -> _Place:
        """At values of the time variable, of any shape."""
        sde = self.model.sde
        # Round-off must not leave the interval.
        t = self.variable.time(sde, w).clamp(self.t_min, self.t_max)
        level = sde.noise_level(t)
        norm = (self.spread.values + level[..., None] ** 2).sqrt()
        return _Place(t, sde.alpha(t), level, norm, -1 / self.variable.rate(sde, t))

    def prepare(self, w: Tensor) -> list[_Place]:
        places = self.place(w)
        return [places[i] for i in range(len(w))]

    def to_x(self, place: _Place, y: Tensor) -> Tensor:
        """x `(b, D)`, float64."""
        return place.alpha[:, None] * (self.spread.apply(place.norm, y) + self.mean)

    def to_y(self, place: _Place, x: Tensor) -> Tensor:
        return self.spread.apply(1 / place.norm, x.double() / place.alpha[:, None] - self.mean)

    def noise(self, place: _Place, rows: Tensor) -> Callable[[Tensor], Tensor]:
        """x `(b, ...)` ↦ E[ε | x] at the places, for the conditions of the samples."""
        cond = self.conditions.select(rows)

        def noise(x: Tensor) -> Tensor:
            # Autocast rounds far above the tolerance, and its casts have no place between derivatives.
            if torch.is_autocast_enabled(x.device.type):
                with torch.autocast(x.device.type, enabled=False):
                    return self.model.noise(x, place.t, **cond)
            return self.model.noise(x, place.t, **cond)

        return noise

    def field(self, place: _Place, y: Tensor, rows: Tensor) -> Tensor:
        """dy/dw, `(b, D)` float64."""
        x = self.to_x(place, y)
        eps = self.noise(place, rows)(x.to(self.dtype).reshape(-1, *self.shape[1:])).double().flatten(1)
        rate, level = place.rate[:, None], place.level[:, None]
        gain, shrink = rate * level / place.norm, -rate * (level / place.norm) ** 2
        self._latest = place, x, eps
        return self.spread.apply(gain, eps) + self.spread.apply(shrink, y)

    def known(self, place: _Place) -> Known:
        """∂ε/∂x of normal data, (σ̃/α) (Σ + σ̃²)^(−1)."""
        factors = (place.level / place.alpha)[:, None] / place.norm**2

        def product(u: Tensor) -> Tensor:
            count = u.shape[1]
            return self.spread.apply(factors.repeat_interleave(count, 0), u.flatten(0, 1)).reshape(u.shape)

        return Known(product, self.spread.trace(factors))

    def error_norm(self, tolerance: Tolerance) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """Of a local error, in units of what is allowed."""
        allowed, unit = tolerance.nats, torch.finfo(self.dtype).eps

        # The last evaluation was at the end of the step.
        def rounding() -> Tensor:
            """What ε may be wrong by as its input and itself are rounded, where ε is as steep as 1/σ."""
            place, x, eps = self._latest
            return unit * (x.abs() / (place.alpha * place.level)[:, None] + eps.abs())

        if allowed is None:

            def relative(error: Tensor, before: Tensor, after: Tensor, slope: Tensor) -> Tensor:
                place = self._latest[0]
                scale = tolerance.atol + tolerance.rtol * torch.maximum(before.abs(), after.abs())
                least = self.spread.apply(place.level[:, None] / place.norm, rounding()).abs()
                scale = torch.maximum(scale, least)
                total, noise = ((v / scale).square().mean(1).sqrt() for v in (error, least))
                return (total - _NOISE * noise).clamp_min(0)

            return relative

        def nats(error: Tensor, before: Tensor, after: Tensor, slope: Tensor) -> Tensor:
            place, _, eps = self._latest
            # The score of y is −(Σ + σ̃²)^(1/2) ε/σ̃.
            score = self.spread.apply(place.norm / place.level[:, None], eps)
            least = (eps * rounding()).square().sum(1).sqrt()
            total = (error.square() * (1 + score.square())).sum(1).sqrt()
            return (total - _NOISE * least).clamp_min(0) / least.clamp_min(allowed)

        return nats

    def run(
        self,
        y: Tensor,
        tolerance: Tolerance,
        method: EmbeddedPair,
        back: bool = False,
        width: int | None = None,
        on_steps: Callable[[AcceptedSteps], None] | None = None,
        longest: float = math.inf,
    ) -> Solution:
        """From data to codes, or back; each sample's status says whether it arrived."""
        start, stop = reversed(self.ends) if back else self.ends
        with self.model.evaluating():
            return integrate(
                self.field,
                y,
                start,
                stop,
                self.error_norm(tolerance),
                method,
                prepare=self.prepare,
                width=width,
                on_steps=on_steps,
                longest=longest,
                grid=0.0 if self.dtype == torch.float64 else _GRID,
            )

    def lost(self, solution: Solution, y: Tensor, first: int, result: Any) -> LikelihoodError | None:
        """The error for samples that did not arrive; None if all did.

        Args:
            solution: how each ended.
            y: `(B, D)`, where they started.
            first: index of the first sample.
            result: what was found.
        """
        which = (~solution.arrived).nonzero()[:, 0]
        if not len(which):
            return None
        at = float(self.place(solution.t[which[:1]]).t)
        return LikelihoodError(
            f"the probability-flow ODE could not be followed for {len(which)} of {len(y)} samples, the first of them "
            f"sample {first + int(which[0])} at t = {at:.3g}{self.remedy(y[which[0]], 'loosen the tolerance, ')}",
            [first + i for i in which.tolist()],
            solution.status,
            result,
        )

    @staticmethod
    def remedy(y: Tensor, others: str = "") -> str:
        """What to do about a sample that failed, whose scaled state was y `(D,)`; for the end of a message."""
        distance = float(y.abs().max())
        if distance > _FAR:
            return (
                f", which lies {distance:.3g} standard deviations from the data's mean, too far for the model: leave "
                "out samples that far from the data, or bring them to the data's units"
            )
        return f": {others}raise t_min, or check the model for values that are not finite"

    def longest_step(self, tolerance: Tolerance, nodes: int) -> float:
        """The longest step that a Gauss-Legendre rule of some nodes is good for.

        Where a direction has variance v, the integrand is σ̃²/(v + σ̃²): in log σ̃ a logistic curve with poles at a
        distance of π/2 from the real axis, whatever v is. On a step h the error of M nodes falls as ρ^(−2M) with
        ρ = π/h + √(1 + (π/h)²) (Trefethen 2008, theorem 4.5). The state is no guide to this: in small noise nothing
        moves it. In other variables, small noise takes no time.
        """
        if not isinstance(self.variable, LogSNR):
            return math.inf
        allowed = tolerance.rtol if tolerance.nats is None else tolerance.nats / self.size
        rho = max(min(allowed, 0.1) ** (-1 / (2 * nodes)), 1.5)
        return 2 * math.pi / (rho - 1 / rho)

    def log_scale(self) -> float:
        """Logarithm of |dy/dx| at t_min over that at t_max: what normal data contribute to the log-density.

        With that of the model's transform, where the data have other units than x.
        """
        first, last = (log_determinant(self.spread, norm) for norm in self.at_ends.norm)
        alpha = self.at_ends.alpha
        return last - first + self.size * float((alpha[1] / alpha[0]).log()) + self.log_det
