"""Posterior samplers of azula and of deepinv, on one of our models, for `benchmarks/inverse.py`.

Each is a function of a model, a measurement and a number of steps that returns samples `(B, ...)`, one for each
measurement. Neither library is a dependency: what cannot be imported is left out.
"""

import importlib.util
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from scoresde.inverse import LinearOperator, Measurement
from scoresde.score import ScoreModel

__all__ = ["Draw", "azula_methods"]

Draw = Callable[[ScoreModel, Measurement, int], Tensor]


def azula_methods() -> dict[str, tuple[Draw, float]]:
    """The samplers, by name, with the evaluations and Jacobian products of a step; empty without azula."""
    if importlib.util.find_spec("azula") is None:
        return {}
    from azula.guidance import DiffPIRDenoiser, DPSSampler, MMPSDenoiser, PGDMSampler, TMPDenoiser
    from azula.linalg.covariance import IsotropicCovariance
    from azula.sample import DDIMSampler, DDPMSampler, zABSampler

    def mmps(solver: Any, iterations: int, **settings: Any) -> Draw:
        def draw(model: ScoreModel, measurement: Measurement, steps: int) -> Tensor:
            cov = IsotropicCovariance(_variance(measurement))
            bent = MMPSDenoiser(_denoiser(model), measurement.y, measurement.operator, cov, iterations=iterations)
            return _run(solver(bent, steps=steps, silent=True, **settings), model, measurement)

        return draw

    def bent_by(wrapper: Any, solver: Any) -> Draw:
        def draw(model: ScoreModel, measurement: Measurement, steps: int) -> Tensor:
            bent = wrapper(_denoiser(model), measurement.y, measurement.operator, _variance(measurement))
            return _run(solver(bent, steps=steps, silent=True), model, measurement)

        return draw

    def dps(model: ScoreModel, measurement: Measurement, steps: int) -> Tensor:
        # Their norm is that of a whole batch, about √B times that of a sample, for which zeta is meant.
        settings = {"zeta": math.sqrt(len(measurement)), "steps": steps, "silent": True}
        sampler = DPSSampler(_denoiser(model), measurement.y, measurement.operator, **settings)
        return _run(sampler, model, measurement)

    def pigdm(model: ScoreModel, measurement: Measurement, steps: int) -> Tensor:
        operator = measurement.operator
        assert isinstance(operator, LinearOperator)
        values = operator.singular_values
        assert values is not None
        settings = {"eta": 1.0, "steps": steps, "silent": True}
        sampler = PGDMSampler(_denoiser(model), measurement.y, operator, values.pseudo_inverse, **settings)
        return _run(sampler, model, measurement)

    return {
        "azula MMPS (1) DDPM": (mmps(DDPMSampler, 1), 3),
        "azula MMPS (1) DDIM": (mmps(DDIMSampler, 1), 3),
        "azula MMPS (1) zAB": (mmps(zABSampler, 1), 3),
        "azula MMPS (3) DDPM": (mmps(DDPMSampler, 3), 5),
        "azula TMPD DDPM": (bent_by(TMPDenoiser, DDPMSampler), 3),
        "azula DiffPIR DDPM": (bent_by(DiffPIRDenoiser, DDPMSampler), 1),
        "azula ΠGDM": (pigdm, 2),
        "azula DPS": (dps, 2),
    }


def _denoiser(model: ScoreModel) -> Any:
    """The model under azula's default schedule, a variance-preserving one."""
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import VPSchedule

    class Wrapped(Denoiser):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.schedule = VPSchedule()

        def forward(self, x_t: Tensor, t: Tensor, **kwargs: Any) -> Any:
            alpha, sigma = (v.double() for v in self.schedule(t))
            level = sigma / alpha  # the model's SDE is σ(t) = t
            return DiracPosterior(mean=model.denoise((x_t / alpha).to(x_t), level.clamp(max=model.sde.t_max)))

    return Wrapped()


def _run(sampler: Any, model: ScoreModel, measurement: Measurement) -> Tensor:
    x: Tensor = sampler.init((len(measurement), *measurement.operator.shape)).to(measurement.y)
    found: Tensor = sampler(x)
    return found


def _variance(measurement: Measurement) -> float:
    variance = measurement.noise.variance(measurement.y)
    assert variance is not None
    return float(variance)
