"""PnP-DM: split Gibbs sampling with a diffusion as the prior (Wu et al. 2024)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.langevin import NearPoint
from scoresde.inverse.linear_gaussian import LinearGaussian
from scoresde.inverse.method import SolverMethod
from scoresde.inverse.noise import GaussianNoise, NoNoise
from scoresde.inverse.operator import LinearOperator
from scoresde.inverse.problem import Measurement
from scoresde.numerics.values import positive, share, whole_number
from scoresde.sampling import DPMSolverPP, KarrasGrid, Solver
from scoresde.sampling.solver import Noise
from scoresde.score import ScoreModel

__all__ = ["PnPDM"]

_LEAST = 0.1  # of the standard deviation of the data: the smallest ρ that is chosen for a noise level
_STEP = 0.1  # the first Langevin step, in units of ρ²


@checked
class PnPDM(SolverMethod):
    """Gibbs sampling of a sample x of the prior, and of a copy u of it with noise ρ, which the measurement is of.

    Sweeps draw each given the other (algorithm 1),

        u ~ N(u; x, ρ² I) p(y | A(u)),    x ~ p(x) N(u; x, ρ² I),

    of which the second is what the reverse SDE samples when it starts from u at noise level ρ. The law that they leave
    as it is has x ~ p(x) N(y; A x, Σ_y + ρ² A Aᵀ), and as ρ becomes small that is the posterior: right in the limit of
    many sweeps, small ρ and short steps of the SDE. ρ falls geometrically over the first sweeps.

    **Without the bias of ρ.** If u is taken to be measured with noise Σ_y − ρ² A Aᵀ, the law of x is that of the
    posterior at any ρ that leaves this positive, up to σ_y over the largest singular value; beyond, directions of a
    large singular value have no noise at all, and less bias than as published. It needs singular values and noise that
    is Gaussian, and is what `unbiased` does there.

    u is drawn exactly for linear operators with Gaussian noise, and by Langevin dynamics with a test of acceptance for
    all others that are differentiable. It costs n m + 2 evaluations for n sweeps with m steps of the SDE.

    Args:
        rho: The last ρ, a noise level σ/α in model space; if not given, that of no bias, but not less than a tenth of
            the standard deviation of the data.
        rho_max: The first ρ, or the largest noise level of the SDE if that is less.
        annealed: The share of the sweeps in which ρ falls.
        prior_steps: The number m of steps of the SDE in a sweep.
        langevin_steps: The number of Langevin steps in a sweep, where u is not drawn exactly.
        unbiased: Whether noise is taken off the measurement for the noise of the copy.

    Raises:
        ValueError: A ρ that is not positive or above `rho_max`, a share outside [0, 1], or less than one step.

    References:
        Wu et al. 2024, Principled probabilistic imaging using diffusion models as plug-and-play priors,
            https://arxiv.org/abs/2405.18782
        Vono et al. 2019, Split-and-augmented Gibbs sampler, https://arxiv.org/abs/1804.05809
    """

    denoise = False
    needs_linear = False
    needs_variance = False

    def __init__(
        self,
        rho: float | None = None,
        rho_max: float = 10.0,
        annealed: float = 0.5,
        prior_steps: int = 10,
        langevin_steps: int = 20,
        unbiased: bool = True,
    ) -> None:
        positive("rho_max", rho_max)
        if rho is not None and not 0 < rho <= rho_max:
            raise ValueError(f"rho is {rho}, expected a positive noise level of at most rho_max, {rho_max}")
        self.rho, self.rho_max = rho, float(rho_max)
        self.annealed = share("annealed", annealed)
        self.prior_steps = whole_number("prior_steps", prior_steps)
        self.langevin_steps = whole_number("langevin_steps", langevin_steps)
        self.unbiased = unbiased

    def check(self, model: ScoreModel, measurement: Measurement) -> None:
        super().check(model, measurement)
        if not _exact(measurement) and isinstance(measurement.noise, NoNoise):
            raise ValueError(
                f"PnPDM draws by the likelihood where {measurement.operator!r} is not linear, and without noise there "
                "is none: take GaussianNoise(std) with a small std"
            )

    def solver(self, measurement: Measurement) -> Solver:
        return _PnPDMSolver(self, measurement)


class _PnPDMSolver(Solver):
    def __init__(self, method: PnPDM, measurement: Measurement) -> None:
        self.method = method
        self._measurement = measurement

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        sde, method, sweeps = model.sde, self.method, len(times) - 1
        measurement, last = self._measurement, float(sde.alpha(times[-1]))
        given = LinearGaussian(measurement) if _exact(measurement) else None
        unbiased = method.unbiased and given is not None and given.spectral is not None
        chain = NearPoint(measurement, method.langevin_steps, _STEP)
        prior, ways = DPMSolverPP(2, sde=True), {}
        rhos = self._rhos(model, times, given)
        x = model.denoise(x, times[0])
        copy = x
        for place, rho in enumerate(rhos, 1):
            if given is None:
                copy = chain.draw(copy, x, rho, noise)
            else:
                copy = given.draw(x, rho, noise, less=rho if unbiased else 0.0)
            if rho not in ways:
                top = sde.time(-torch.tensor(rho, dtype=torch.float64).log())
                grid = KarrasGrid(method.prior_steps, t_min=float(times[-1]), t_max=float(top))
                ways[rho] = grid(sde)
            state = float(sde.alpha(ways[rho][0])) * copy
            for found in prior.solve(model, state, ways[rho], noise):
                state = found
            x = state / last
            yield model.denoise(state, times[-1]) if place == sweeps else state

    def _rhos(self, model: ScoreModel, times: Tensor, given: LinearGaussian | None) -> list[float]:
        """The noise level ρ of each sweep."""
        levels = model.sde.noise_level(times)
        top, bottom, sweeps = float(levels[0]), float(levels[-1]), len(times) - 1
        rho = self.method.rho
        if rho is None:
            least = _LEAST * model.data_std
            rho = least if given is None else max(least, given.smallest_deviation())
        # At the SDE's last noise level there is no step left to take.
        rho = min(max(rho, 2 * bottom), top)
        first, falling = min(max(self.method.rho_max, rho), top), round(self.method.annealed * (sweeps - 1))
        return [rho * (first / rho) ** max(1 - k / falling if falling else 0.0, 0.0) for k in range(sweeps)]


def _exact(measurement: Measurement) -> bool:
    """Whether the measured copy is drawn exactly."""
    noise = isinstance(measurement.noise, GaussianNoise | NoNoise)
    return noise and isinstance(measurement.operator, LinearOperator)
