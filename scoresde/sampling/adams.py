"""Exponential Adams methods: one family for the ODE and the SDE solvers that remember earlier evaluations.

In x̂ = x/α, with s = σ/α and λ = −log s, the reverse SDE with stochasticity τ reads

    dx̂ = −(1 + τ²) s ε dλ + √2 τ s dw,

and is the probability-flow ODE at τ = 0 (Xue et al. 2023, eq. 6). In a `Coordinate` with scale n, variable w and
prediction P it is d(x̂ n^−c) = c n^{1−c} P dw + √2 τ s n^−c dw with c = 1 + τ², so that a step from r to t with P
replaced by the polynomial through k of its values is

    x̂_t = (n_t/n_r)^c x̂_r + Σ_j W_j P_j + ν z,
    W_j = c n_t^c ∫ n^{1−c} L_j dw,    ν² = n_t^{2c} ∫ 2 τ² s² n^{−2c} dλ.

with Lagrange's polynomials L_j. Exact are the linear part, the noise and the integrals; P alone is interpolated. The
predictor has P at the k last times; the corrector repeats the step with P at the new time as well, which the next step
needs anyway, so it costs no evaluation (Zhao et al. 2023).
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import described, fraction, one_of
from scoresde.sampling.adams_plan import (
    AdamsStep,
    Same,
    WeightKind,
    adams_plan,
    adams_step,
    gaussian_prediction,
    guarded_step,
)
from scoresde.sampling.solver import Noise, Solver
from scoresde.sampling.stochasticity import ConstantTau, Eta, Stochasticity
from scoresde.score import ScoreModel
from scoresde.sde import SDE
from scoresde.sde.coordinates import Angle, Coordinate

__all__ = ["Multistep"]


@checked
@dataclass(frozen=True, eq=False, repr=False)
class Multistep(Solver):
    """A predictor of order 1 to 4 and a corrector of order 0 to 4, in any coordinate, for the ODE or the SDE.

    DDIM, DDPM, DPM-Solver++, DEIS, iPNDM, UniPC and SA-Solver are settings of it, and classes of
    `scoresde.sampling.named`. The velocity in the `Angle` of the data's scale has less error than any of them on few
    steps. A solver is a value: two of the same settings are equal, whatever they are called.

    Args:
        order: The number of values that the predictor uses, 1 to 4, and its order of convergence; fewer in the first
            steps, and after steps that are short beside the present one.
        corrector: The number of earlier values that the corrector uses in addition to the new one, 0 (none) to 4; it
            has one order more. The last step is not corrected, since that would cost an evaluation.
        coordinate: The scaled state, its variable and the prediction. If not given, the `Angle` of the standard
            deviation of the data, or of 1 if the model does not know it.
        interpolation: The variable in which the prediction is a polynomial; the coordinate's own if not given.
        tau: The stochasticity; a number is a `ConstantTau`.

    Other args:
        weights: `"exact"` for the integrals of Lagrange's polynomials; `"uniform"` for those of equal steps, as in
            iPNDM; `"bh1"` or `"bh2"` to weight the difference of two values by half of B(h) = h or e^h − 1, as UniPC
            and DPM-Solver++ 2M do.
        centre: Whether x − α m is integrated, with the mean m of the data, if the model knows it.
        start: `"model"`, or `"gaussian"` for the prediction of a normal density with the mean and covariance of the
            data at the first time, which saves an evaluation (Wang & Vastola 2024). It is used if the model knows
            them, no condition is given and σ/α is at least 10 times the standard deviation of the data.
        relaxation: The share of the corrector's change that is made, more than 0 and at most 1: less than all if a
            step is so large that the value at its end is itself uncertain.
        lower_order_final: Whether the order falls towards the end, to 1 in the last step, on grids of fewer than 15
            steps (Lu et al. 2022b, appendix B); on longer grids that would be the order of the whole.
        strict: Whether a grid with fewer steps than the order needs is rejected, instead of lowering the order with a
            warning.
        safeguard: Whether each sample takes less of what the predictor has beyond order 1 where steps are too long for
            it, as `scoresde.sampling.adams_guard` has it. It takes no evaluation, and changes nothing on short steps.

    Raises:
        ValueError: A setting outside its range; at the solve, too few steps for a strict method.

    The first step has one value, and alone would leave an error of order 2, or 3 with a corrector. From 15 steps on,
    without noise, the second to fifth steps have weights that make it good, so that up to order 4 the order is the
    nominal one on any data. That costs no evaluation.

    A step that is long beside those before it would extrapolate far. If it adds noise, its weights are therefore mixed
    with those of fewer values until Σ|W_j| is at most 3 |Σ W_j|; without noise, with a polynomial in λ, at most 2^k − 1
    times for k values, which equal steps never exceed, and 3 times in a corrector.

    Two coordinates with one value each, the data and the noise prediction, have the same first step, DDIM's:

    >>> import torch
    >>> from scoresde.sampling import KarrasGrid, LogSNR, NoiseLevel, Sampler, SignalLevel
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import VPSDE
    >>> model = GaussianMixtureScore(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.1, 0.2]), VPSDE())
    >>> first, second = (
    ...     Sampler(Multistep(1, coordinate=c), KarrasGrid(8))(model, shape=(5, 1), seed=0).x
    ...     for c in (SignalLevel(), NoiseLevel())
    ... )
    >>> torch.allclose(first, second, atol=1e-10)
    True

    References:
        Zhang & Chen 2023, Fast sampling of diffusion models with exponential integrator,
            https://arxiv.org/abs/2204.13902
        Zhao et al. 2023, UniPC: a unified predictor-corrector framework for fast sampling of diffusion models,
            https://arxiv.org/abs/2302.04867
        Xue et al. 2023, SA-Solver: stochastic Adams solver for fast sampling of diffusion models,
            https://arxiv.org/abs/2309.05019
    """

    order: int = 3
    corrector: int = 0
    coordinate: Coordinate | None = None
    interpolation: Coordinate | None = None
    weights: WeightKind = "exact"
    tau: Stochasticity | float | None = None
    centre: bool = False
    start: Literal["model", "gaussian"] = "model"
    relaxation: float = 1.0
    lower_order_final: bool = False
    strict: bool = False
    safeguard: bool = False

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3, 4):
            raise ValueError(f"order is {self.order!r}, expected 1, 2, 3 or 4")
        if self.corrector not in (0, 1, 2, 3, 4):
            raise ValueError(f"corrector is {self.corrector!r}, expected 0 (none), 1, 2, 3 or 4")
        one_of("weights", self.weights, ("exact", "uniform", "bh1", "bh2"))
        one_of("start", self.start, ("model", "gaussian"))
        fraction("relaxation", self.relaxation)
        if isinstance(self.tau, int | float):
            object.__setattr__(self, "tau", ConstantTau(self.tau))
        elif not (self.tau is None or isinstance(self.tau, Stochasticity)):
            raise ValueError(f"tau is {self.tau!r}, expected a number or a Stochasticity")

    @property
    def variance(self) -> str | None:
        """A variance of the steps that is not that of `tau`, by its name; None if there is none."""
        return None

    @property
    def stochasticity(self) -> Stochasticity | None:
        """The noise level; None for the ODE."""
        return ConstantTau(self.tau) if isinstance(self.tau, int | float) else self.tau

    @property
    def stochastic(self) -> bool:
        tau = self.stochasticity
        return tau is not None and tau.adds_noise

    @property
    def reverse_sde(self) -> bool:
        return self.stochasticity in (ConstantTau(1.0), Eta(1.0)) and self.corrector == 0 and self.relaxation == 1

    def general(self) -> "Multistep":
        """The same method under the name of its family, with all settings written out."""
        if type(self) is Multistep:
            return self
        return Multistep(**{field.name: getattr(self, field.name) for field in fields(Multistep)})

    def __repr__(self) -> str:
        # Stored results are known by this text, and some are older than the safeguard.
        return described(self, *(f.name for f in fields(Multistep) if f.name != "safeguard" or self.safeguard))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Multistep) and self._settings() == other._settings()

    def __hash__(self) -> int:
        return hash(self._settings())

    def _settings(self) -> tuple[object, ...]:
        return tuple(vars(self).values())

    def plan(self, sde: SDE, times: Tensor, std: float = 1.0) -> tuple[Coordinate, list[AdamsStep]]:
        """Return the coordinate and the coefficients of every step, for data of standard deviation `std`.

        The last plans are kept, for the next chunk of a batch or the next call.
        """
        coordinate = Angle(std) if self.coordinate is None else self.coordinate
        return coordinate, adams_plan(self, coordinate, Same(sde), tuple(times.tolist()))

    def require_steps(self, steps: int) -> None:
        """Warn that a grid has fewer steps than the order needs.

        Raises:
            ValueError: The same, for a strict method.
        """
        if steps < self.order:
            message = f"order {self.order} needs at least {self.order} steps, the grid has {steps}"
            if self.strict:
                raise ValueError(f"{message}: take more steps or a lower order")
            warnings.warn(f"{message}: the order is lowered to that", stacklevel=3)

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        last = len(times) - 2
        self.require_steps(last + 1)
        known = model.statistics
        coordinate, steps = self.plan(model.sde, times, 1.0 if known is None else float(known.std))
        p, q = coordinate.target(model.sde, times)
        predict = model.prediction(times[:-1], p[:-1], q[:-1])
        mean = known.mean.to(x).reshape(x.shape[1:]) if self.centre and known is not None else None
        of_mean = p.tolist() if self.safeguard and mean is not None else None

        def relative(value: Tensor, i: int) -> Tensor:
            """The prediction at a time, without that of the mean if the steps are made for it."""
            return value if of_mean is None or mean is None else torch.sub(value, mean, alpha=of_mean[i])

        gaussian = self.start == "gaussian"
        first = gaussian_prediction(model, x, times[0], float(p[0]), float(q[0])) if gaussian else None
        values = [relative(predict(x, 0) if first is None else first, 0)]
        differences: list[Tensor] = []  # of values, for the safeguard
        # A relaxed corrector uses the values of the predictor, too, and the safeguard the difference of two.
        keep = max(self.order + (self.relaxation < 1), self.corrector + 1, 2 if self.safeguard else 1)

        for i, step in enumerate(steps):
            base, on_base = x, step.on_x
            if on_base != 1 and (step.on_noise or mean is None):
                base, on_base = on_base * x, 1.0
            if step.on_noise:
                base = torch.add(base, noise(*step.clock), alpha=step.on_noise)
            if self.safeguard and i:
                differences = [values[0] - values[1], *differences[:2]]
            x = guarded_step(base, on_base, step, values, differences, mean)
            if i < last:
                values.insert(0, relative(predict(x, i + 1), i + 1))
                del values[keep:]
                if step.corrector is not None:
                    x = adams_step(base, on_base, step.corrector, values, mean)
            yield x
