"""The probability-flow ODE in a scaled state and a time variable of choice, for many samples at different times.

In x̃ = x/α the ODE is dx̃/dσ̃ = E[ε | x] under every SDE, with the noise level σ̃ = σ/α. With the scaling's state y and
τ = log σ̃ it is

    dy/dτ = σ̃ (Σ + σ̃²)^(−1/2) ε − σ̃² (Σ + σ̃²)^(−1) y,

of which the second part is the flow of normal data, in closed form. A time variable w of a `Coordinate` brings a factor
dτ/dw. The variable that permits the longest steps is the one in which the model is smooth: log σ̃ for networks, which
are conditioned on it, and the angle arctan(σ̃/s) for exact scores. `LevelRatio` is log σ̃ only where data move.

References:
    Score-Based Generative Modeling through Stochastic Differential Equations (Song et al. 2021), section 4.3,
    https://arxiv.org/abs/2011.13456
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scoresde.likelihood.errors import LikelihoodError, remedy, warn_caller
from scoresde.likelihood.field import SteppedField
from scoresde.likelihood.options import FlowOptions, Tolerance
from scoresde.likelihood.place import Place
from scoresde.likelihood.scaling import ScalarScaling, log_determinant
from scoresde.numerics.ode import AcceptedSteps, Solution, integrate
from scoresde.numerics.tableaus import EmbeddedPair
from scoresde.numerics.trace import Known, Traces
from scoresde.score import Conditions, ScoreModel
from scoresde.sde.coordinates import Angle, LevelRatio, LogSNR

__all__ = ["Flow"]

# Distance between the logarithms of neighbouring step sizes: a tenth of a step, and half of its error at order 5.
_STEP_GRID = 0.1
# Points between which the steps of a given number are found.
_TABLE = 4096


class Flow:
    """The flow of a model between two times.

    Args:
        model: The score model.
        shape: Shape of all samples, `(B, ...)`.
        conditions: Conditions of the samples; none if not given.
        options: Times, time variable, scaling, method and batch size.
        device: Device of the samples.

    Raises:
        ValueError: Another shape than the model's, or times that do not increase or lie outside the SDE's interval.
    """

    def __init__(
        self,
        model: ScoreModel,
        shape: torch.Size,
        conditions: Conditions | None = None,
        options: FlowOptions | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        sde, statistics = model.sde, model.statistics
        options = FlowOptions() if options is None else options
        model.check_shape(shape)
        if statistics is None:
            warn_caller(
                "the model does not know the mean and standard deviation of its data, which are taken as 0 and 1: "
                "set model.statistics = Statistics.estimate(data) for fewer steps and a better prior"
            )
        self.model, self.shape, self.options = model, shape, options
        self.conditions = Conditions({}, shape[0]) if conditions is None else conditions
        self.t_min = sde.t_min if options.t_min is None else options.t_min
        self.t_max = sde.t_noise() if options.t_max is None else options.t_max
        if not self.t_min < self.t_max:
            raise ValueError(f"t_min is {self.t_min}, expected less than t_max = {self.t_max}")
        self.device = torch.device(device)
        self.size = shape[1:].numel()
        std = 1.0 if statistics is None else float(statistics.std)
        learned = LevelRatio(std) if options.corrected else LogSNR()
        default = Angle(std) if model.exact else learned
        self.variable = default if options.variable is None else options.variable
        self.scaling = ScalarScaling() if options.scaling is None else options.scaling
        self.spread = self.scaling.spread(statistics, self.size).to(self.device)
        mean = torch.zeros(self.size) if statistics is None else statistics.mean
        self.mean = mean.to(self.device, torch.float64).flatten()
        ends = sde.check_time(torch.tensor([self.t_min, self.t_max], dtype=torch.float64))
        self.ends = self.variable.variable(sde, ends).tolist()
        self.at_ends = self.place(torch.tensor(self.ends, dtype=torch.float64, device=self.device))
        self.dtype = model.dtype
        self.log_det = model.log_det(shape[1:])

    def under(self, conditions: Conditions) -> "Flow":
        """The flow of the same samples under other conditions."""
        part = copy.copy(self)
        part.conditions = conditions
        return part

    def for_rows(self, rows: Tensor) -> "Flow":
        """The flow of the samples `rows` `(b,)` alone."""
        part = copy.copy(self)
        part.shape, part.conditions = torch.Size((len(rows), *self.shape[1:])), self.conditions.select(rows)
        return part

    def place(self, w: Tensor) -> Place:
        """The places at values of the time variable, of any shape."""
        sde = self.model.sde
        # Round-off must not leave the interval.
        t = self.variable.time(sde, w).clamp(self.t_min, self.t_max)
        level = sde.noise_level(t)
        norm = (self.spread.values + level[..., None] ** 2).sqrt()
        return Place(t, sde.alpha(t), level, norm, -1 / self.variable.rate(sde, t))

    def prepare(self, w: Tensor) -> list[Place]:
        """The places at each row of values `(S, b)` of the time variable."""
        places = self.place(w)
        return [places[i] for i in range(len(w))]

    def to_x(self, place: Place, y: Tensor) -> Tensor:
        """The samples x `(b, D)` of states y, in float64."""
        return place.alpha[:, None] * (self.spread.apply(place.norm, y) + self.mean)

    def to_y(self, place: Place, x: Tensor) -> Tensor:
        """The states y `(b, D)` of samples x, in float64."""
        return self.spread.apply(1 / place.norm, x.double() / place.alpha[:, None] - self.mean)

    def noise(self, place: Place, rows: Tensor) -> Callable[[Tensor], Tensor]:
        """The function x `(b, ...)` ↦ E[ε | x] at the places, under the conditions of the samples `rows`."""
        conditions = self.conditions.select(rows)

        def noise(x: Tensor) -> Tensor:
            # Autocast rounds far above the tolerance, and its casts have no place between derivatives.
            if torch.is_autocast_enabled(x.device.type):
                with torch.autocast(x.device.type, enabled=False):
                    return self.model.noise(x, place.t, **conditions)
            return self.model.noise(x, place.t, **conditions)

        return noise

    def closed_traces(self, place: Place, rows: Tensor, x: Tensor) -> Traces | None:
        """The traces of ∂ε/∂x at x `(b, ...)` where the model has them in closed form, without a product; else None."""
        with torch.autocast(x.device.type, enabled=False):
            found = self.model.noise_and_trace(x, place.t, **self.conditions.select(rows))
        if found is None:
            return None
        noise, trace = found
        return Traces(trace.double(), torch.zeros_like(trace, dtype=torch.float64), None, 0, noise.flatten(1))

    def field(self, place: Place, y: Tensor, rows: Tensor) -> Tensor:
        """The slopes dy/dw `(b, D)`, in float64."""
        return self.evaluate(place, y, rows)[0]

    def evaluate(self, place: Place, y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The slopes dy/dw, the samples x and their noise predictions E[ε | x], `(b, D)` in float64 each."""
        x = self.to_x(place, y)
        eps = self.noise(place, rows)(x.to(self.dtype).reshape(-1, *self.shape[1:])).double().flatten(1)
        return self.slope(place, y, eps), x, eps

    def slope(self, place: Place, y: Tensor, eps: Tensor) -> Tensor:
        """The slopes dy/dw `(b, D)` at states y with noise predictions `(b, D)`."""
        rate, level = place.rate[:, None], place.level[:, None]
        gain, shrink = rate * level / place.norm, -rate * (level / place.norm) ** 2
        return self.spread.apply(gain, eps) + self.spread.apply(shrink, y)

    def normal_noise(self, place: Place, y: Tensor) -> Tensor:
        """The noise σ̃ (Σ + σ̃²)^(−1/2) y that normal data have in states y, `(b, D)`."""
        return self.spread.apply(place.level[:, None] / place.norm, y)

    def followed(self, place: Place, y: Tensor, slope: Tensor) -> Tensor:
        """The noise (dx̃/dτ)/σ̃ that a path with slopes dy/dw `(b, D)` at states y follows; ε where it is exact."""
        gain = place.norm / (place.rate * place.level)[:, None]
        return self.spread.apply(gain, slope) + self.normal_noise(place, y)

    def known(self, place: Place) -> Known:
        """The Jacobian ∂ε/∂x of normal data, (σ̃/α) (Σ + σ̃²)^(−1), and its trace."""
        factors = (place.level / place.alpha)[:, None] / place.norm**2

        def product(u: Tensor) -> Tensor:
            count = u.shape[1]
            return self.spread.apply(factors.repeat_interleave(count, 0), u.flatten(0, 1)).reshape(u.shape)

        return Known(product, self.spread.trace(factors))

    def run(
        self,
        y: Tensor,
        tolerance: Tolerance,
        method: EmbeddedPair | None = None,
        back: bool = False,
        on_steps: Callable[[AcceptedSteps], None] | None = None,
        longest: float | Callable[[Tensor], Tensor] = math.inf,
    ) -> Solution:
        """Integrate from data to codes, or back; the status of each sample says whether it arrived.

        Args:
            y: States `(B, D)` where the paths start.
            tolerance: Error that a step may make.
            method: Runge-Kutta pair; that of the options if not given.
            back: Go from codes to data.
            on_steps: Called with the steps that samples take.
            longest: Length of the longest step in the time variable, or a function from its values to such lengths.
        """
        start, stop = reversed(self.ends) if back else self.ends
        field = SteppedField(self.evaluate, self.spread, self.dtype, tolerance)
        with self.model.evaluating():
            return integrate(
                field,
                y,
                start,
                stop,
                field.error_norm,
                self.options.pair if method is None else method,
                prepare=self.prepare,
                width=self.options.width,
                on_steps=on_steps,
                longest=longest,
                grid=0.0 if self.dtype == torch.float64 else _STEP_GRID,
            )

    def lost(self, solution: Solution, y: Tensor, first: int, result: Any) -> LikelihoodError | None:
        """The error for samples that did not arrive; None if all did.

        Args:
            solution: The end of each path.
            y: States `(B, D)` where the paths started.
            first: Index of the first sample.
            result: Results of all samples, for the error to hold.
        """
        which = (~solution.arrived).nonzero()[:, 0]
        if not len(which):
            return None
        at = float(self.place(solution.t[which[:1]]).t)
        return LikelihoodError(
            f"the probability-flow ODE could not be followed for {len(which)} of {len(y)} samples, the first of them "
            f"sample {first + int(which[0])} at t = {at:.3g}{remedy(y[which[0]], 'loosen the tolerance, ')}",
            [first + i for i in which.tolist()],
            solution.status,
            result,
        )

    def longest_step(self, tolerance: Tolerance, nodes: int) -> float | Callable[[Tensor], Tensor]:
        """The longest step on which a Gauss-Legendre rule of so many nodes meets the tolerance.

        Where a direction has variance v, the integrand is σ̃²/(v + σ̃²): in log σ̃ a logistic curve with poles at a
        distance of π/2 from the real axis, whatever v is. On a step h the error of M nodes falls as ρ^(−2M) with
        ρ = π/h + √(1 + (π/h)²) (Trefethen 2008, theorem 4.5). The state is no guide to this: in small noise nothing
        moves it. Where all directions have standard deviations from a known c to C, such curves lie between these, and
        steps are bounded in ½ log (c² + σ̃²)/(C² + σ̃²). For networks, c is 0.
        """
        allowed = tolerance.rtol if tolerance.nats is None else tolerance.nats / self.size
        rho: float = max(min(allowed, 0.1) ** (-1 / (2 * nodes)), 1.5)
        longest = 2 * math.pi / (rho - 1 / rho)
        if not self.model.exact and not isinstance(self.variable, LevelRatio):
            return longest if isinstance(self.variable, LogSNR) else math.inf
        sde = self.model.sde
        least, most = self._variances()

        def bound(w: Tensor) -> Tensor:
            square = self.place(w).level ** 2
            share = math.exp(2 * longest) * (least + square) / (most + square)
            level = ((share * most - least) / (1 - share)).sqrt()
            inside = (share < 1) & (level < self.at_ends.level[1])
            there = self.variable.variable(sde, sde.time(-level.where(inside, self.at_ends.level[1]).log()))
            return torch.where(inside, (there - w).abs(), math.inf)

        return bound

    def steps(self, count: int) -> Tensor:
        """The ends of a number of steps that do not follow the data, in the time variable, `(count + 1,)`.

        They are equal steps in the time variable. The angle of an exact score leaves small noise out, where data that
        are narrow move: steps are then equal in the angle and ½ log (c² + σ̃²)/(C² + σ̃²) together (`longest_step`). The
        latter is nothing where all directions are alike, and log σ̃ between the smallest and the largest.
        """
        start, stop = self.ends
        if not self.model.exact or self.options.variable is not None:
            return torch.linspace(start, stop, count + 1, dtype=torch.float64, device=self.device)
        sde, (least, most) = self.model.sde, self._variances()
        first, final = self.at_ends.level.log()
        log_level = torch.linspace(first, final, _TABLE, dtype=torch.float64, device=self.device)
        square = (2 * log_level).exp()
        w = self.variable.variable(sde, sde.time(-log_level))
        gone = (w - start).abs() + 0.5 * ((least + square) / (most + square)).log()
        wanted = torch.linspace(gone[0], gone[-1], count + 1, dtype=torch.float64, device=self.device)
        right = torch.searchsorted(gone, wanted[1:-1]).clamp(1, _TABLE - 1)
        share = (wanted[1:-1] - gone[right - 1]) / (gone[right] - gone[right - 1])
        return torch.cat((w.new_tensor([start]), w[right - 1].lerp(w[right], share), w.new_tensor([stop])))

    def _variances(self) -> tuple[float, float]:
        """The smallest variance of the data in any direction and mode, and the largest."""
        least, statistics = self.model.narrowest**2, self.model.statistics
        return least, max(least, 1.0 if statistics is None else float(statistics.largest_std) ** 2)

    def log_scale(self) -> float:
        """The logarithm of |dy/dx| at t_min over |dy/dx| at t_max: the contribution of normal data to the log-density.

        It includes the log-determinant of the model's transform, where the data have other units than x.
        """
        first, last = (log_determinant(self.spread, norm) for norm in self.at_ends.norm)
        alpha = self.at_ends.alpha
        return last - first + self.size * float((alpha[1] / alpha[0]).log()) + self.log_det
