"""Exponential Adams methods: one family for the ODE and the SDE solvers that remember earlier evaluations.

In x̂ = x/α, with s = σ/α and λ = −log s, the reverse SDE with stochasticity τ reads

    dx̂ = −(1 + τ²) s ε dλ + √2 τ s dw,

and is the probability-flow ODE at τ = 0 (Xue et al. 2023, eq. 6). In a `Coordinate` with scale n, variable w and
prediction P it is d(x̂ n^−c) = c n^{1−c} P dw + √2 τ s n^−c dw with c = 1 + τ², so that a step from s to t with P
replaced by the polynomial through k of its values is

    x̂_t = (n_t/n_s)^c x̂_s + Σ_j W_j P_j + ν z,
    W_j = c n_t^c ∫ n^{1−c} L_j dw,    ν² = n_t^{2c} ∫ 2 τ² s² n^{−2c} dλ.

The predictor has P at the k last times; the corrector repeats the step with P at the new time as well, which the
next step needs anyway, so it costs no evaluation (Zhao et al. 2023).
"""

import warnings
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.sampling.adams_plan import Step, Weights, adams_plan, adams_step, gaussian_prediction
from scoresde.sampling.solver import Noise, Solver
from scoresde.sampling.stochasticity import ConstantTau, Stochasticity
from scoresde.score import ScoreModel
from scoresde.sde import SDE
from scoresde.sde.coordinates import Angle, Coordinate

__all__ = ["Multistep"]


@checked
class Multistep(Solver):
    """Predictor of order 1 to 4, corrector of order 0 to 4, in any coordinate, for the ODE or the SDE.

    Settings of it are DDIM and DDPM (order 1, `Eta`), DPM-Solver++ (`SignalLevel` interpolated in `LogSNR`; Lu et al.
    2022b), DEIS (`NoiseLevel` interpolated in `Time`, or in itself; Zhang & Chen 2023), iPNDM (uniform weights; Liu et
    al. 2022, Zhang & Chen 2023), UniPC (with a corrector; Zhao et al. 2023) and SA-Solver (`ConstantTau`; Xue et al.
    2023). The velocity in the `Angle` of the data's scale has less error than any of them on few steps.

    Args:
        order: number of values that the predictor uses, 1 to 4, and its order of convergence; the first steps use
            what there is.
        corrector: number of earlier values that the corrector uses beside the new one, 0 (none) to 4; it has one order
            more. The last step is not corrected, since that would cost an evaluation.
        coordinate: the scaled state, its variable and the prediction; the `Angle` of the data's standard deviation (1
            if the model does not know it) if not given.
        interpolation: the variable in which the prediction is a polynomial; the coordinate's own if not given.
        weights: `"exact"`; `"uniform"`, as if the steps were equal, as iPNDM has it; `"bh1"` or `"bh2"`, where two
            values are used, half of their difference times B(h) = h or e^h − 1 as UniPC and DPM-Solver++ 2M have it.
        tau: stochasticity; a number is a `ConstantTau`.
        centre: integrate x − α m with the data's mean m, if the model knows it.
        start: `"model"`, or `"gaussian"` for the prediction of a normal density with the data's mean and covariance at
            the first time, which saves an evaluation (Wang & Vastola 2024). It is used if the model knows them, no
            condition is given and σ/α is at least 10 times the data's standard deviation.
        relaxation: how much of the corrector's change is made, more than 0 and at most 1: less than all where a step
            is so large that the value at its end is itself uncertain.
        lower_order_final: lower the order towards the end, to 1 in the last step (Lu et al. 2022b, appendix B).
        strict: refuse a grid with fewer steps than the order needs instead of lowering it with a warning.
    """

    def __init__(
        self,
        order: int = 3,
        corrector: int = 0,
        coordinate: Coordinate | None = None,
        interpolation: Coordinate | None = None,
        weights: Weights = "exact",
        tau: Stochasticity | float | None = None,
        centre: bool = False,
        start: Literal["model", "gaussian"] = "model",
        relaxation: float = 1.0,
        lower_order_final: bool = False,
        strict: bool = False,
    ) -> None:
        if order not in (1, 2, 3, 4):
            raise ValueError(f"order is {order!r}, expected 1, 2, 3 or 4")
        if corrector not in (0, 1, 2, 3, 4):
            raise ValueError(f"corrector is {corrector!r}, expected 0 (none), 1, 2, 3 or 4")
        if weights not in ("exact", "uniform", "bh1", "bh2"):
            raise ValueError(f"weights is {weights!r}, expected 'exact', 'uniform', 'bh1' or 'bh2'")
        if start not in ("model", "gaussian"):
            raise ValueError(f"start is {start!r}, expected 'model' or 'gaussian'")
        if not 0 < relaxation <= 1:
            raise ValueError(f"relaxation is {relaxation}, expected more than 0 and at most 1")
        self.order = order
        self.corrector = corrector
        self.coordinate = coordinate
        self.interpolation = interpolation
        self.weights: Weights = weights
        if not (tau is None or isinstance(tau, Stochasticity | int | float)):
            raise ValueError(f"tau is {tau!r}, expected a number or a Stochasticity")
        self.tau = ConstantTau(tau) if isinstance(tau, int | float) else tau
        self.centre = centre
        self.start = start
        self.relaxation = relaxation
        self.lower_order_final = lower_order_final
        self.strict = strict
        self._planned: tuple[tuple[str, SDE, float], Tensor, tuple[Coordinate, list[Step]]] | None = None

    def plan(self, sde: SDE, times: Tensor, std: float = 1.0) -> tuple[Coordinate, list[Step]]:
        """The coordinate and the coefficients of every step, for data of standard deviation `std`.

        The last plan is kept, for the next chunk of a batch or the next call.
        """
        last, key = self._planned, (repr(self), sde, std)  # an attribute may have been set since
        if last is not None and last[0] == key and torch.equal(last[1], times):
            return last[2]
        coordinate = Angle(std) if self.coordinate is None else self.coordinate
        made = coordinate, adams_plan(self, coordinate, sde, times)
        self._planned = key, times.clone(), made
        return made

    def check(self, steps: int) -> None:
        """Warn, or refuse if strict, where a grid has fewer steps than the order."""
        if steps < self.order:
            message = f"order {self.order} needs at least {self.order} steps, the grid has {steps}"
            if self.strict:
                raise ValueError(f"{message}: take more steps or a lower order")
            warnings.warn(f"{message}: the order is lowered to that", stacklevel=3)

    @property
    def stochastic(self) -> bool:
        return self.tau is not None and self.tau.adds_noise

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        last = len(times) - 2
        self.check(last + 1)
        known = model.statistics
        coordinate, steps = self.plan(model.sde, times, 1.0 if known is None else float(known.std))
        p, q = coordinate.target(model.sde, times)
        predict = model.prediction(times[:-1], p[:-1], q[:-1])
        mean = known.mean.to(x).reshape(x.shape[1:]) if self.centre and known is not None else None
        gaussian = self.start == "gaussian"
        first = gaussian_prediction(model, x, times[0], float(p[0]), float(q[0])) if gaussian else None
        values = [predict(x, 0) if first is None else first]
        # A relaxed corrector has the predictor's values, too.
        keep = max(self.order + (self.relaxation < 1), self.corrector + 1)
        for i, step in enumerate(steps):
            base, on_base = x, step.on_x
            if on_base != 1 and (step.on_noise or mean is None):
                base, on_base = on_base * x, 1.0
            if step.on_noise:
                base = torch.add(base, noise(*step.clock), alpha=step.on_noise)
            x = adams_step(base, on_base, step.predictor, values, mean)
            if i < last:
                values.insert(0, predict(x, i + 1))
                del values[keep:]
                if step.corrector is not None:
                    x = adams_step(base, on_base, step.corrector, values, mean)
            yield x
