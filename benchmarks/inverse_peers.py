"""Posterior samplers of azula and of deepinv, on one of our models, for `benchmarks/inverse.py`.

Each is a function of a model, a measurement and a number of steps that returns samples `(B, ...)`, one for each
measurement. Neither library is a dependency: what cannot be imported is left out.

deepinv's import needs torchvision. Its samplers of posteriors use nothing of it, and where it cannot be installed they
run behind a package of that name on the path whose modules have any name.
"""

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scoresde.inverse import LinearOperator, Measurement
from scoresde.score import ScoreModel

__all__ = ["Draw", "azula_methods", "deepinv_methods"]

Draw = Callable[[ScoreModel, Measurement, int], Tensor]


def azula_methods() -> dict[str, Draw]:
    """The samplers, by name; empty where azula cannot be imported."""
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
        "azula MMPS (1) DDPM": mmps(DDPMSampler, 1),
        "azula MMPS (1) DDIM": mmps(DDIMSampler, 1),
        "azula MMPS (1) zAB": mmps(zABSampler, 1),
        "azula MMPS (3) DDPM": mmps(DDPMSampler, 3),
        "azula TMPD DDPM": bent_by(TMPDenoiser, DDPMSampler),
        "azula DiffPIR DDPM": bent_by(DiffPIRDenoiser, DDPMSampler),
        "azula ΠGDM": pigdm,
        "azula DPS": dps,
    }


def deepinv_methods() -> dict[str, Draw]:
    """The samplers, by name; empty where deepinv cannot be imported."""
    try:
        import deepinv
    except (ImportError, RuntimeError):
        return {}
    sampling = deepinv.sampling

    def bent_by(fidelity: Callable[[], Any], alpha: float) -> Draw:
        def draw(model: ScoreModel, measurement: Measurement, steps: int) -> Tensor:
            times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
            sampler = sampling.PosteriorDiffusion(
                fidelity(),
                _of_deepinv(model, False),
                sampling.VariancePreservingDiffusion(alpha=alpha),
                sampling.AncestralSolver(times),
                minus_one_one=False,
            )
            physics = _physics(measurement, measurement.operator, _std(measurement))
            start = (len(measurement), *measurement.operator.shape)
            found: Tensor = sampler(measurement.y, physics, x_init=start)
            return found

        return draw

    def restored(sampler: Callable[[Any, int], Any]) -> Draw:
        """A sampler of data in [0, 1]: with x = 2 u − 1, (y + A 1)/2 is A u with half of the noise."""

        def draw(model: ScoreModel, measurement: Measurement, steps: int) -> Tensor:
            operator = measurement.operator
            one = torch.ones(1, *operator.shape, dtype=measurement.y.dtype)
            y = (measurement.y + operator(one)) / 2
            physics = _physics(measurement, operator, _std(measurement) / 2)
            # Where samples are not of the shape of measurements, its first state has to be given.
            start = {} if isinstance(sampler(None, 2), sampling.DDRM) else {"x_init": physics.A_adjoint(y)}
            found: Tensor = sampler(_of_deepinv(model, True), steps)(y, physics, **start)
            return 2 * found - 1

        return draw

    def diffpir(denoiser: Any, steps: int) -> Any:
        return sampling.DiffPIR(denoiser, deepinv.optim.data_fidelity.L2(), max_iter=steps)

    def ddrm(denoiser: Any, steps: int) -> Any:
        return sampling.DDRM(denoiser, torch.linspace(1, 0, steps).tolist())

    return {
        "deepinv MMPS (1) DDPM": bent_by(lambda: sampling.MomentMatchingDataFidelity(cg_max_iter=1), 1.0),
        "deepinv MMPS (3) DDPM": bent_by(lambda: sampling.MomentMatchingDataFidelity(cg_max_iter=3), 1.0),
        "deepinv ΠGDM DDPM": bent_by(lambda: sampling.PiGDMDataFidelity(cg_max_iter=50), 1.0),
        "deepinv DPS": bent_by(lambda: sampling.DPSDataFidelity(clip=(-1.0, 1.0)), 1.0),
        "deepinv DPS, annealed": bent_by(lambda: sampling.DPSDataFidelity(guidance="annealed"), 1.0),
        "deepinv ALD": bent_by(lambda: sampling.ALDDataFidelity(), 1.0),
        "deepinv DiffPIR": restored(diffpir),
        "deepinv DDRM": restored(ddrm),
    }


def _of_deepinv(model: ScoreModel, unit: bool) -> Any:
    """The model as a denoiser of deepinv, a function of the state and of the noise; of [0, 1] or of [−1, 1]."""
    from deepinv.models import Denoiser

    least, most = (float(model.sde.noise_level(torch.tensor(t))) for t in (model.sde.t_min, model.sde.t_max))

    class Wrapped(Denoiser):  # type: ignore[misc, unused-ignore]
        def forward(self, x: Tensor, sigma: Any, **kwargs: Any) -> Tensor:
            level = torch.as_tensor(sigma, dtype=torch.float64).flatten()[0] * (2 if unit else 1)
            time = level.clamp(least, most)  # the model's SDE is σ(t) = t
            return (model.denoise(2 * x - 1, time) + 1) / 2 if unit else model.denoise(x, time)

    return Wrapped()


def _physics(measurement: Measurement, operator: Any, std: float) -> Any:
    """A matrix as physics of deepinv that know their singular value decomposition."""
    from deepinv.physics import DecomposablePhysics, GaussianNoise

    left, values, right = torch.linalg.svd(operator.matrix().to(measurement.y), full_matrices=True)
    rank, size = len(values), right.shape[0]

    def extended(y: Tensor) -> Tensor:
        return torch.nn.functional.pad(y @ left[:, :rank].to(y), (0, size - rank))

    return DecomposablePhysics(  # states are in float64, denoised means in float32
        U=lambda x: x[:, :rank] @ left[:, :rank].T.to(x),
        U_adjoint=extended,
        V=lambda x: x @ right.to(x),
        V_adjoint=lambda x: x @ right.T.to(x),
        mask=torch.nn.functional.pad(values, (0, size - rank))[None],
        img_size=(size,),
        noise_model=GaussianNoise(std),
    )


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


def _std(measurement: Measurement) -> float:
    return math.sqrt(_variance(measurement))


def _variance(measurement: Measurement) -> float:
    variance = measurement.noise.variance(measurement.y)
    assert variance is not None
    return float(variance)
