"""Log-densities along the reverse SDE, against those of exact mixtures."""

import math
import warnings
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.data import Affine
from scoresde.numerics.random import SampleNoise
from scoresde.sampling import (
    DDPM,
    Ancestral,
    DPMSolverPP,
    EDMHeun,
    EulerMaruyama,
    ExplicitTimes,
    Langevin,
    PredictorCorrector,
    Sampler,
    Samples,
    SASolver,
    Solver,
    UniformLogSNR,
)
from scoresde.sampling.path_density import PathDensity, WatchedModel
from scoresde.score import GaussianMixtureScore
from scoresde.score.conditions import Conditions
from scoresde.sde import SDE, VESDE, VPSDE, SubVPSDE
from tests.problems import F64

SDES = {"vp": VPSDE(), "ve": VESDE(0.01, 50.0), "subvp": SubVPSDE()}
SOLVERS: dict[str, Solver] = {
    "ddpm": DDPM(),
    "ancestral": PredictorCorrector(Ancestral()),
    "sde-dpm-solver++": DPMSolverPP(2, sde=True),
}


def mixture(sde: SDE) -> GaussianMixtureScore:
    means = torch.tensor([[-1.0, 0.0, 0.5], [1.0, 0.3, 0.0], [0.2, -1.0, 0.1]])
    return GaussianMixtureScore(torch.ones(3), means, torch.tensor([0.05, 0.2, 0.1]), sde)


def drawn(solver: Solver, sde: SDE, steps: int, count: int = 2000, **options: Any) -> tuple[Samples, Tensor]:
    """Samples and the errors of their log-densities; the states at t_max are exact, and so are their densities."""
    model = mixture(sde)
    grid = UniformLogSNR(steps)
    times = grid(sde)
    x = model.sample(count, float(times[0]), torch.Generator().manual_seed(0))
    out = Sampler(solver, grid)(model, x_init=x, log_prob="path", **options)
    assert out.log_prob is not None
    return out, out.log_prob - model.log_prob(out.x, out.times[-1])


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_the_truth_lies_within_two_errors_which_fall_as_the_root_of_the_steps(solver: Solver, sde: SDE) -> None:
    found = {steps: drawn(solver, sde, steps) for steps in (100, 400)}
    for out, error in found.values():
        assert out.solver_stderr is not None
        inside = float((error.abs() < 2 * out.solver_stderr).double().mean())
        assert inside > 0.92
        rms, stated = (float(values.square().mean().sqrt()) for values in (error, out.solver_stderr))
        assert 0.7 < rms / stated < 1.1
    coarse, fine = (float(error.square().mean().sqrt()) for _, error in found.values())
    assert 1.6 < coarse / fine < 2.6


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_the_mean_error_falls_as_the_square_of_the_step(sde: SDE) -> None:
    means, noise = [], []
    for steps in (25, 50, 100):
        _, error = drawn(DDPM(), sde, steps, 6000)
        means.append(float(error.mean()))
        noise.append(float(error.std()) / math.sqrt(6000))
    assert means[0] > 2.5 * means[1] > 0
    assert means[1] + 2 * noise[1] > 2.5 * (means[2] - 2 * noise[2])


def test_it_is_the_ratio_of_the_kernels_of_the_chain() -> None:
    """log p(x_s | x_t) − log q(x_t | x_s), with both Gaussians written out, before the second order is subtracted."""
    sde, model = VPSDE(), mixture(VPSDE())
    times = UniformLogSNR(7)(sde)
    x = model.sample(5, sde.t_max, torch.Generator().manual_seed(2))
    watched = WatchedModel(model, Conditions({}, 5))
    density = PathDensity(watched, x, times, torch.zeros(5, dtype=F64))
    noise = SampleNoise(0, torch.arange(5), (3,), F64, x.device)
    total = torch.zeros(5, dtype=F64)

    def normal(value: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        return -0.5 * (((value - mean) / std) ** 2 + (2 * math.pi * std**2).log()).sum(1)

    path = [x]
    for state in DDPM().solve(watched, x, times, noise):
        density.step(state)
        path.append(state)
    for i, (before, after) in enumerate(pairwise(path)):
        (alpha, next_alpha), (sigma, next_sigma) = sde.alpha(times[i : i + 2]), sde.sigma(times[i : i + 2])
        a = alpha / next_alpha
        b = (sigma**2 - a**2 * next_sigma**2).sqrt()
        mean = a * next_sigma**2 / sigma**2 * before + next_alpha * b**2 / sigma**2 * model.denoise(before, times[i])
        total += normal(after, mean, b * next_sigma / sigma) - normal(before, a * after, b)
    torch.testing.assert_close(density.value, total, rtol=1e-9, atol=1e-9)
    assert watched.nfe == 7


def test_a_normal_density_has_the_error_of_its_own_formula() -> None:
    """With C = 1/(1 + γ) known, a step errs by ½ Δγ² C² in each dimension, of the C after it, and |Δx₀|² is Δγ C²."""
    sde = VPSDE()
    model = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 4), torch.ones(1), sde)
    steps = 200
    out = Sampler(DDPM(), UniformLogSNR(steps))(model, (4000, 4), seed=1, log_prob="path", dtype=F64)
    assert out.log_prob is not None
    gamma = (sde.alpha(out.times) / sde.sigma(out.times)) ** 2
    variance = 0.5 * 4 * float((gamma.diff() / (1 + gamma[1:])).square().sum())
    error = out.log_prob - model.log_prob(out.x, out.times[-1])
    assert float(error.var()) == pytest.approx(variance, rel=0.1)
    assert out.solver_stderr is not None
    assert float(out.solver_stderr.square().mean()) == pytest.approx(variance + 0.25 * variance**2, rel=0.1)
    assert out.nfe == steps + 1


def test_it_does_not_depend_on_batches_and_is_in_the_units_of_the_data() -> None:
    model = mixture(VPSDE())
    sampler = Sampler(DDPM(), UniformLogSNR(20))
    whole = sampler(model, (6, 3), seed=3, log_prob="path")
    parts = sampler(model, (6, 3), seed=3, log_prob="path", batch_size=4, trajectory=True)
    assert torch.equal(whole.x, parts.x)
    assert whole.log_prob is not None
    assert whole.stderr is not None
    assert parts.trajectory is not None
    torch.testing.assert_close(whole.log_prob, parts.log_prob)
    torch.testing.assert_close(whole.solver_stderr, parts.solver_stderr)
    assert torch.equal(whole.stderr, torch.zeros(6, dtype=F64))
    # What is returned is the state itself, not its mean.
    plain = Sampler(DDPM(), UniformLogSNR(20), denoise=False)(model, (6, 3), seed=3)
    torch.testing.assert_close(whole.x, plain.x, rtol=1e-5, atol=1e-5)
    model.transform = Affine(torch.zeros(3), torch.full((3,), 10.0))
    scaled = sampler(model, (6, 3), seed=3, log_prob="path")
    assert scaled.log_prob is not None
    torch.testing.assert_close(scaled.x, 10 * whole.x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scaled.log_prob, whole.log_prob - 3 * math.log(10))


@pytest.mark.parametrize(
    "solver",
    [
        PredictorCorrector(EulerMaruyama()),
        PredictorCorrector(Ancestral("forward")),
        PredictorCorrector(Ancestral(), Langevin()),
        DPMSolverPP(2),
        EDMHeun(),
        SASolver(),
    ],
    ids=repr,
)
def test_another_amount_of_noise_is_refused(solver: Solver) -> None:
    with pytest.raises(ValueError, match=r'log_prob="path" needs a solver with exactly the noise of the reverse SDE'):
        Sampler(solver, UniformLogSNR(5))(mixture(VPSDE()), (2, 3), log_prob="path")


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_steps_too_long_for_the_stated_error_are_told_of(sde: SDE) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn(DDPM(), sde, 50, 10)
    model = mixture(sde)
    grid = ExplicitTimes([*UniformLogSNR(100)(sde)[:70].tolist(), sde.t_min])
    with pytest.warns(UserWarning, match=r"steps of up to .* in log SNR: densities may err by far more"):
        out = Sampler(DDPM(), grid)(model, (500, 3), seed=0, log_prob="path")
    assert out.log_prob is not None
    assert out.solver_stderr is not None
    error = (out.log_prob - model.log_prob(out.x.double(), out.times[-1])).abs()
    assert float((error < 2 * out.solver_stderr).double().mean()) < 0.6


def test_wrong_options_are_refused() -> None:
    sampler, model = Sampler(DDPM(), UniformLogSNR(5)), mixture(VPSDE())
    with pytest.raises(ValueError, match="log_prob"):
        sampler(model, (2, 3), log_prob="paths")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="divergence and tol are for log-densities of the ODE"):
        sampler(model, (2, 3), log_prob="path", tol=0.1)
