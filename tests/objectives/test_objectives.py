"""Objectives, weightings and distributions of times, against their definitions and closed forms."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from scoresde.objectives import (
    DenoisingScoreMatching,
    EDMWeighting,
    ImplicitScoreMatching,
    ImportanceSampled,
    Likelihood,
    LogNormalSigma,
    MinSNR,
    Objective,
    SigmaSquared,
    SlicedScoreMatching,
    StraightVelocity,
    Times,
    UniformLogSNR,
    UniformTime,
    Weighting,
    loss_by_noise_level,
    low_discrepancy,
)
from scoresde.preconditioning import (
    EDMPreconditioning,
    FlowPreconditioning,
    NoisePreconditioning,
    Preconditioning,
    ScorePreconditioning,
    VelocityPreconditioning,
)
from scoresde.score import NetworkScore, ScoreModel
from scoresde.sde import EDMSDE, SDE, VPSDE, FlowSDE, SubVPSDE
from scoresde.statistics import Statistics
from tests.problems import Mixture, gaussian

F64 = torch.float64
WEIGHTINGS = [SigmaSquared(), Likelihood(), EDMWeighting(0.7), MinSNR(5.0), StraightVelocity()]
PRECONDITIONINGS = [
    NoisePreconditioning(),
    ScorePreconditioning(),
    VelocityPreconditioning(),
    FlowPreconditioning(),
    EDMPreconditioning(0.7),
]
OBJECTIVES: list[type[Objective]] = [DenoisingScoreMatching, ImplicitScoreMatching, SlicedScoreMatching]
# Mean over λ of the error of ε: weight and correction are 1, so that `value` is the mean of `per_sample`.
PLAIN = UniformLogSNR(importance=False)


class Network(nn.Module):
    """A small smooth network; `attend` mixes the values of a sample by attention."""

    def __init__(self, dim: int, attend: bool = False, dropout: float = 0.0, classes: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(dim + 1, 16), nn.Linear(16, dim)
        self.dropout = nn.Dropout(dropout)
        self.attend = attend
        self.classes = None if classes is None else nn.Embedding(classes, 16)

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        h = self.first(torch.cat([x.flatten(1), c_noise[:, None]], 1))
        if self.classes is not None:
            h = h + self.classes(labels)
        h = self.dropout(torch.tanh(h))
        if self.attend:
            q = h.reshape(-1, 1, 4, 4)
            h = h + nn.functional.scaled_dot_product_attention(q, q, q).flatten(1)
        return self.last(h).reshape(x.shape)


class Perturbed(ScoreModel):
    """ε̂ = scale × base + shift; parameters of shape `(B, 1)`, so each sample has a gradient of its own."""

    def __init__(self, base: ScoreModel, size: int, scale: float = 1.0, shift: float = 0.0) -> None:
        super().__init__(base.sde)
        self.base = base
        self.scale = nn.Parameter(torch.full((size, 1), scale, dtype=F64))
        self.shift = nn.Parameter(torch.full((size, 1), shift, dtype=F64))

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.scale * self.base.noise(x, t, **cond) + self.shift

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        raise NotImplementedError


class Hidden(ScoreModel):
    """A model whose raw output is not to be had."""

    def __init__(self, base: ScoreModel) -> None:
        super().__init__(base.sde, base.statistics)
        self.base = base

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.base.noise(x, t, **cond)

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.base.denoise(x, t, **cond)


def interior(sde: SDE, n: int = 9) -> Tensor:
    """Times uniform in λ, without the ends."""
    return UniformLogSNR().sample(sde, (torch.arange(n, dtype=F64) + 0.5) / n)[0]


def midpoints(n: int) -> Tensor:
    return (torch.arange(n, dtype=F64) + 0.5) / n


def integral(sde: SDE, weighting: Weighting) -> float:
    """∫ w dt by the trapezoidal rule on times uniform in λ; its error is of the order of 1e-8."""
    high, low = sde.log_snr(torch.tensor([sde.t_min, sde.t_max], dtype=F64)).tolist()
    t = sde.time(torch.linspace(high, low, 100_001, dtype=F64)).clamp(sde.t_min, sde.t_max)
    return float(torch.trapezoid(weighting(sde, t), t))


def assert_mean(values: Tensor, expected: float | Tensor = 0.0) -> None:
    """The mean of independent draws within four of its standard errors, which are not all zero."""
    difference = values - expected
    error = float(difference.std()) / math.sqrt(len(values))
    assert 0 < error < 0.2
    assert abs(float(difference.mean())) < 4 * error


# -- weightings ----------------------------------------------------------------------------------------------


def test_weightings_are_their_definitions(sde: SDE, generator: torch.Generator) -> None:
    t = interior(sde)
    alpha, sigma, g = (f(t)[:, None] for f in (sde.alpha, sde.sigma, sde.diffusion))
    x0, noise, guess = torch.randn(3, len(t), 4, generator=generator, dtype=F64)
    x = alpha * x0 + sigma * noise
    score_error = ((-guess / sigma) - (x - alpha * x0) / -(sigma**2)).square().sum(1)
    denoiser_error = ((x - sigma * guess) / alpha - x0).square().sum(1)
    error = (guess - noise).square().sum(1)
    sigma, g, relative = sigma[:, 0], g[:, 0], (sigma / alpha)[:, 0]

    def check(weighting: Weighting, expected: Tensor) -> None:
        torch.testing.assert_close(weighting(sde, t) * error, expected, rtol=1e-6, atol=0)

    check(SigmaSquared(), sigma**2 * score_error)
    check(Likelihood(), g**2 * score_error)
    check(EDMWeighting(0.7), (relative**2 + 0.7**2) / (relative * 0.7) ** 2 * denoiser_error)
    check(MinSNR(3.0), (1 / relative**2).clamp(max=3.0) * denoiser_error)


def test_likelihood_weighting_is_the_rate_of_log_snr(sde: SDE) -> None:
    t = interior(sde)
    h = 1e-4 * torch.minimum(t - sde.t_min, sde.t_max - t)
    slope = (sde.log_snr(t + h) - sde.log_snr(t - h)) / (2 * h)
    torch.testing.assert_close(Likelihood()(sde, t), -2 * slope, rtol=1e-5, atol=0)


def test_edm_weighting_makes_the_raw_output_count_once(sde: SDE) -> None:
    t = interior(sde)
    c_out = EDMPreconditioning(0.7).coefficients(sde, t).c_out
    relative = sde.sigma(t) / sde.alpha(t)
    weight = EDMWeighting(0.7)(sde, t) / relative**2  # on the denoiser error
    torch.testing.assert_close(weight * c_out**2, torch.ones_like(t))


def test_sigma_data_comes_from_the_model() -> None:
    statistics = Statistics(torch.zeros(2), 0.25)
    network, sde = Network(2), VPSDE()
    given = NetworkScore(network, sde, EDMPreconditioning(0.9), statistics)
    assert EDMWeighting().for_model(given) == EDMWeighting(0.9)
    assert EDMWeighting(0.4).for_model(given) == EDMWeighting(0.4)
    for preconditioning in (EDMPreconditioning(), NoisePreconditioning()):
        taken = EDMWeighting().for_model(NetworkScore(network, sde, preconditioning, statistics))
        assert taken == EDMWeighting(0.25)
    assert SigmaSquared().for_model(given) == SigmaSquared()
    x0, u, noise = torch.ones(4, 2), midpoints(4), torch.ones(4, 2)
    values = [DenoisingScoreMatching(w)(given, x0, u=u, noise=noise).value for w in (EDMWeighting(), EDMWeighting(0.9))]
    torch.testing.assert_close(*values, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"knows no statistics of its data: give EDMWeighting\(sigma_data"):
        DenoisingScoreMatching(EDMWeighting())(NetworkScore(network, sde, NoisePreconditioning()), x0, u=u)


# -- times ---------------------------------------------------------------------------------------------------

IMPORTANCE: list[Times] = [
    UniformTime(),
    UniformLogSNR(),
    LogNormalSigma(importance=True),
    ImportanceSampled(SigmaSquared()),
    ImportanceSampled(Likelihood()),
    ImportanceSampled(MinSNR(5.0)),
    ImportanceSampled(EDMWeighting(0.5)),
]
TIMES: list[Times] = [
    *IMPORTANCE,
    PLAIN,
    LogNormalSigma(),
    LogNormalSigma(-12.0, 1.0),
    LogNormalSigma(9.0, 1.0),
]


@pytest.mark.parametrize("times", TIMES, ids=repr)
def test_times_are_inside_and_increase(sde: SDE, times: Times) -> None:
    u = torch.cat([torch.tensor([0.0, 1e-300, 1e-9], dtype=F64), midpoints(500)])
    u = torch.cat([u, torch.tensor([1 - 1e-9, 1 - 2**-53, 1.0], dtype=F64)])
    t, correction = times.sample(sde, u)
    assert t.dtype == correction.dtype == F64
    assert t.shape == correction.shape == u.shape
    assert bool((t >= sde.t_min).all())
    assert bool((t <= sde.t_max).all())
    # A table's last cell ends at 1; the sum of masses has round-off.
    torch.testing.assert_close(t[[0, -1]], torch.tensor([sde.t_min, sde.t_max], dtype=F64), rtol=1e-6, atol=1e-12)
    assert bool((t.diff()[3:-3] > 0).all())
    assert bool((t.diff() >= 0).all())
    assert bool(((correction > 0) & correction.isfinite()).all())


@pytest.mark.parametrize("times", IMPORTANCE, ids=repr)
def test_correction_is_one_over_the_density(sde: SDE, times: Times) -> None:
    # 1/p(t) = dt/du. A table is differentiated inside a cell or across the corner between two.
    u, h = midpoints(50) + 0.0012345, 1e-7
    correction = times.sample(sde, u)[1]
    slope = (times.sample(sde, u + h)[0] - times.sample(sde, u - h)[0]) / (2 * h)
    torch.testing.assert_close(correction, slope, rtol=1e-2 if isinstance(times, ImportanceSampled) else 1e-4, atol=0)


@pytest.mark.parametrize("weighting", [SigmaSquared(), MinSNR(5.0)], ids=repr)
@pytest.mark.parametrize("times", IMPORTANCE, ids=repr)
def test_corrected_samples_integrate_alike(sde: SDE, times: Times, weighting: Weighting) -> None:
    # By the trapezoidal rule in u, with nodes that crowd where the density of t is small.
    def towards_zero(exponent: float) -> Tensor:
        return torch.logspace(exponent, math.log10(0.5), 30_000, dtype=F64)

    zero = torch.zeros(1, dtype=F64)
    u = torch.cat([zero, towards_zero(-30), 1 - towards_zero(-15)[:-1].flip(0), 1 - zero])
    t, correction = times.sample(sde, u)
    expected = integral(sde, weighting)
    assert float(torch.trapezoid(weighting(sde, t) * correction, u)) == pytest.approx(expected, rel=1e-3)


def test_a_coarse_table_is_not_biased(sde: SDE) -> None:
    times = ImportanceSampled(MinSNR(5.0), cells=3)
    t, correction = times.sample(sde, midpoints(200_000))
    weight = MinSNR(5.0)(sde, t) * correction
    assert float(weight.mean()) == pytest.approx(integral(sde, MinSNR(5.0)), rel=1e-3)
    assert float(weight.std() / weight.mean()) > 0.05  # three cells do not flatten it


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=repr)
def test_importance_sampling_flattens_the_weight(sde: SDE, weighting: Weighting) -> None:
    t, correction = ImportanceSampled(weighting).sample(sde, midpoints(1000))
    weight = weighting(sde, t) * correction
    torch.testing.assert_close(weight, torch.full_like(weight, integral(sde, weighting)), rtol=1e-2, atol=0)


def test_uniform_log_snr_is_the_closed_form_for_the_likelihood(sde: SDE) -> None:
    u = midpoints(1000)
    t, correction = UniformLogSNR().sample(sde, u)
    tabulated = ImportanceSampled(Likelihood()).sample(sde, u)
    torch.testing.assert_close((t, correction), tabulated, rtol=1e-6, atol=1e-12)
    high, low = sde.log_snr(torch.tensor([sde.t_min, sde.t_max], dtype=F64))
    torch.testing.assert_close(Likelihood()(sde, t) * correction, (2 * (high - low)).expand(1000))
    torch.testing.assert_close(sde.log_snr(t), high - u * (high - low))
    plain = PLAIN.sample(sde, u)
    assert torch.equal(plain[0], t)
    assert torch.equal(plain[1], torch.ones(1000, dtype=F64))


@pytest.mark.parametrize("times", [LogNormalSigma(), LogNormalSigma(-7.0, 0.8), LogNormalSigma(2.5, 0.5)])
def test_log_normal_is_cut_off_at_the_interval(sde: SDE, times: LogNormalSigma) -> None:
    t, correction = times.sample(sde, midpoints(999))
    low, high = (-sde.log_snr(torch.tensor([sde.t_min, sde.t_max], dtype=F64)) - times.mean) / times.std
    expected = scipy.stats.truncnorm.ppf(midpoints(999), low, high, loc=times.mean, scale=times.std)
    np.testing.assert_allclose(-sde.log_snr(t), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(correction, torch.ones(999, dtype=F64))


def test_importance_sampling_has_the_weightings_distribution(sde: SDE) -> None:
    u = midpoints(21)
    # More cells than the table of DDPM has jumps of β.
    t = ImportanceSampled(MinSNR(5.0), cells=16384).sample(sde, u)[0]
    shares = [integral(sde.between(sde.t_min, float(s)), MinSNR(5.0)) for s in t]
    np.testing.assert_allclose(np.array(shares) / integral(sde, MinSNR(5.0)), u, atol=1e-5)


def test_table_follows_the_sde() -> None:
    times = ImportanceSampled(Likelihood())
    for sde in (VPSDE(), EDMSDE(), VPSDE(beta_max=10.0)):
        t = times.sample(sde, midpoints(5))[0]
        torch.testing.assert_close(t, UniformLogSNR().sample(sde, midpoints(5))[0], rtol=1e-6, atol=0)


def test_low_discrepancy() -> None:
    u = low_discrepancy(torch.tensor(0.93, dtype=F64), 8)
    assert bool(((u >= 0) & (u < 1)).all())
    torch.testing.assert_close(u[:3], torch.tensor([0.93, 0.055, 0.18], dtype=F64))
    torch.testing.assert_close(u.sort().values.diff(), torch.full((7,), 1 / 8, dtype=F64))


def test_stratified_objective_spreads_its_times(generator: torch.Generator) -> None:
    model, x0 = gaussian(FlowSDE(), (3,), 0.0, 1.0), torch.zeros(64, 3)
    loss = DenoisingScoreMatching(times=PLAIN, stratified=True)(model, x0, generator)
    high, low = model.sde.log_snr(torch.tensor([1e-3, 0.999], dtype=F64)).tolist()
    spacing = loss.log_snr.sort().values.diff()
    torch.testing.assert_close(spacing, torch.full((63,), (high - low) / 64), rtol=1e-4, atol=0)
    free = DenoisingScoreMatching(times=PLAIN)(model, x0, generator).log_snr.sort().values.diff()
    assert float(free.std()) > 0.5 * float(free.mean())  # exponential gaps


# -- denoising score matching --------------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=repr)
def test_denoising_of_a_gaussian(sde: SDE, weighting: Weighting, generator: torch.Generator) -> None:
    """E‖ε̂ − ε‖²/D = α² s²/(α² s² + σ²) for the exact score of N(0, s² I)."""
    std, size = 0.6, 20_000
    model = gaussian(sde, (3,), 0.0, std**2)
    x0 = std * torch.randn(size, 3, generator=generator, dtype=F64)
    loss = DenoisingScoreMatching(weighting, UniformLogSNR())(model, x0, generator)
    high, low = sde.log_snr(torch.tensor([sde.t_min, sde.t_max], dtype=F64))

    def error(log_snr: Tensor) -> Tensor:
        return torch.sigmoid(2 * (log_snr + math.log(std)))

    def weight(log_snr: Tensor) -> Tensor:
        """Weighting over the density of t, p = g²/(2σ²)/(λ_max − λ_min)."""
        t = sde.time(log_snr).clamp(sde.t_min, sde.t_max)
        return weighting(sde, t) * 2 * (high - low) / (sde.diffusion(t) / sde.sigma(t)) ** 2

    assert_mean(loss.per_sample / error(loss.log_snr), 1.0)
    terms = weight(loss.log_snr) * loss.per_sample
    nodes = low + (high - low) * midpoints(10_000)
    assert_mean(terms / (weight(nodes) * error(nodes)).mean(), 1.0)
    torch.testing.assert_close(loss.value, terms.mean(), rtol=1e-6, atol=0)


def test_likelihood_loss_of_a_gaussian_is_closed_form(sde: SDE, generator: torch.Generator) -> None:
    """∫ g²/σ² sigmoid(2λ + 2 log s) dt = softplus(2λ + 2 log s) between the ends, under any SDE."""
    std, size = 0.6, 20_000
    x0 = std * torch.randn(size, 3, generator=generator, dtype=F64)
    loss = DenoisingScoreMatching(Likelihood(), UniformLogSNR(), stratified=True)(
        gaussian(sde, (3,), 0.0, std**2), x0, generator
    )
    ends = 2 * sde.log_snr(torch.tensor([sde.t_min, sde.t_max], dtype=F64)) + 2 * math.log(std)
    high, low = nn.functional.softplus(ends)
    # Chi-square with 3 degrees: a relative standard deviation of √(2/3) where the loss is not small.
    assert float(loss.value) == pytest.approx(float(high - low), rel=4 * math.sqrt(2 / 3 / size) * 1.5)


@pytest.mark.parametrize("preconditioning", PRECONDITIONINGS, ids=repr)
def test_raw_output_gives_the_error_of_the_noise(
    sde: SDE, preconditioning: Preconditioning, generator: torch.Generator
) -> None:
    model = NetworkScore(Network(4).double(), sde, preconditioning)
    x0, noise = torch.randn(2, 32, 1, 2, 2, generator=generator, dtype=F64)
    u = midpoints(32)
    objective = DenoisingScoreMatching(EDMWeighting(0.7), UniformLogSNR())
    results = []
    for candidate in (model, Hidden(model)):
        loss = objective(candidate, x0, u=u, noise=noise)
        results.append((*loss, *torch.autograd.grad(loss.value, list(model.parameters()))))
        assert loss.value.shape == ()
        assert loss.per_sample.shape == loss.log_snr.shape == (32,)
        assert not loss.per_sample.requires_grad
        assert loss.value.requires_grad
    # The direct formula loses up to five digits at the ends (sub-VP: σ/α from 1e-6 to 150).
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-8 * float(results[0][0].detach()))
    t = UniformLogSNR().sample(sde, u)[0]
    torch.testing.assert_close(results[0][2], sde.log_snr(t))


def test_float32_keeps_its_accuracy_at_large_sigma(generator: torch.Generator) -> None:
    network = Network(4)
    x0, noise = torch.randn(2, 64, 4, generator=generator)
    u = torch.full((64,), 1.0, dtype=F64)
    errors = []
    for wrap in (lambda m: m, Hidden):
        objective = DenoisingScoreMatching(EDMWeighting(0.7))
        model = NetworkScore(network.float(), EDMSDE(), EDMPreconditioning(0.7))
        single = objective(wrap(model), x0, u=u, noise=noise)
        assert single.value.dtype == single.per_sample.dtype == torch.float32
        network.double()
        double = objective(wrap(model), x0.double(), u=u, noise=noise.double())
        errors.append(float((single.per_sample / double.per_sample - 1).abs().max().detach()))
    # Round-off is 6e-8; the direct formula enlarges it by σ/σ_data, a hundred.
    assert errors[0] < 1e-5 < errors[1]


@pytest.mark.parametrize("preconditioning", PRECONDITIONINGS, ids=repr)
def test_gradients_are_finite_at_both_ends(sde: SDE, preconditioning: Preconditioning) -> None:
    network = Network(4)
    model = NetworkScore(network, sde, preconditioning)
    x0, noise = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    times = (UniformTime(), LogNormalSigma(), UniformLogSNR())
    for weighting, t, end in itertools.product(WEIGHTINGS, times, (0.0, 1 - 2**-53)):
        u = torch.full((4,), end, dtype=F64)
        loss = DenoisingScoreMatching(weighting, t)(model, x0, u=u, noise=noise)
        gradients = torch.autograd.grad(loss.value, list(network.parameters()))
        assert all(bool(v.isfinite().all()) for v in (*loss[:3], *gradients))
        assert any(bool((g != 0).any()) for g in gradients)
        assert loss.value.dtype == torch.float32


def test_low_precision_data_give_a_float32_loss(generator: torch.Generator) -> None:
    x0 = torch.randn(8, 3, generator=generator).bfloat16()
    loss = DenoisingScoreMatching()(NetworkScore(Network(3), VPSDE(), EDMPreconditioning()), x0, generator)
    assert {v.dtype for v in loss[:3]} == {torch.float32}


# -- all objectives ------------------------------------------------------------------------------------------


def all_objectives() -> Iterator[tuple[str, Objective]]:
    yield "dsm", DenoisingScoreMatching(times=PLAIN)
    yield "ism", ImplicitScoreMatching(times=PLAIN)
    yield "ssm_rademacher", SlicedScoreMatching(times=PLAIN)
    yield "ssm_gaussian", SlicedScoreMatching(times=PLAIN, kind="gaussian", projections=2)
    yield "ssm_plain", SlicedScoreMatching(times=PLAIN, variance_reduced=False)


each_objective = pytest.mark.parametrize("objective", [pytest.param(o, id=name) for name, o in all_objectives()])


@each_objective
def test_exact_score_is_the_minimum(
    objective: Objective, planar: Mixture, other_sde: SDE, generator: torch.Generator
) -> None:
    size = 5000
    base = planar.model(other_sde)
    x0 = base.sample(size, 0.0 if other_sde.t_min == 0 else other_sde.t_min, generator)

    def run(scale: float, shift: float) -> tuple[Tensor, Tensor, Tensor]:
        """Losses and their derivatives by scale and shift, of every sample, from the same draws."""
        model = Perturbed(base, size, scale, shift)
        loss = objective(model, x0, torch.Generator().manual_seed(1))
        torch.testing.assert_close(loss.value, loss.per_sample.mean())
        by_scale, by_shift = torch.autograd.grad(loss.value, [model.scale, model.shift])
        return loss.per_sample, size * by_scale[:, 0], size * by_shift[:, 0]

    best, by_scale, by_shift = run(1.0, 0.0)
    assert_mean(by_scale)
    assert_mean(by_shift)
    # E‖ε̂‖²/D over these times, to know by how much a factor 1 + δ must raise the loss: δ² of it.
    u = torch.rand(size, generator=torch.Generator().manual_seed(1), dtype=F64)
    t = PLAIN.sample(other_sde, u)[0]
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(2), dtype=F64)
    square = base.noise(other_sde.perturb(x0, t, noise), t).square().mean(1).mean()
    for delta in (-0.3, 0.3):
        worse = run(1 + delta, 0.0)[0]
        assert_mean(worse - best, delta**2 * square)
        assert float((worse - best).mean()) > 0
        # A shift by δ raises it by δ² exactly.
        assert_mean(run(1.0, delta)[0] - best, delta**2)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.5, 0.0), (1.3, -0.4)])
def test_denoising_and_implicit_differ_by_one(
    scale: float, shift: float, planar: Mixture, sde: SDE, generator: torch.Generator
) -> None:
    size = 10_000
    base = planar.model(sde)
    x0 = base.sample(size, sde.t_min, generator)
    u = torch.rand(size, generator=generator, dtype=F64)
    noise = torch.randn(x0.shape, generator=generator, dtype=F64)
    model = Perturbed(base, size, scale, shift)
    denoising, implicit = (
        objective(times=PLAIN)(model, x0, u=u, noise=noise).per_sample
        for objective in (DenoisingScoreMatching, ImplicitScoreMatching)
    )
    assert_mean(denoising - implicit, 1.0)


@pytest.mark.parametrize("shape", [(3,), (1, 2, 2)], ids=str)
def test_implicit_and_sliced_of_a_gaussian(sde: SDE, shape: tuple[int, ...], generator: torch.Generator) -> None:
    """ε̂ = σ x/v with v = α² s² + σ²: the error is ‖ε̂‖²/D − 2 σ²/v, at every x."""
    std = 0.6
    model = gaussian(sde, shape, 0.0, std**2)
    x0, noise = torch.randn(2, 16, *shape, generator=generator, dtype=F64)
    t, correction = UniformLogSNR().sample(sde, midpoints(16))
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    variance = alpha**2 * std**2 + sigma**2
    x = sde.perturb(x0, t, noise)
    expected = (sigma / variance) ** 2 * x.square().flatten(1).mean(1) - 2 * sigma**2 / variance
    # Rademacher projections give the trace of a multiple of the identity exactly.
    for kind in (ImplicitScoreMatching, SlicedScoreMatching):
        loss = kind(Likelihood(), UniformLogSNR())(model, x0, generator, u=midpoints(16), noise=noise)
        torch.testing.assert_close(loss.per_sample, expected)
        torch.testing.assert_close(loss.value, (Likelihood()(sde, t) * correction * expected).mean())
        torch.testing.assert_close(loss.log_snr, sde.log_snr(t))


@pytest.mark.parametrize("variance_reduced", [True, False])
def test_sliced_over_all_signs_is_implicit(variance_reduced: bool, planar: Mixture, generator: torch.Generator) -> None:
    """The mean of v vᵀ over all sign vectors, and over √D times a basis, is the identity."""
    model = planar.model(VPSDE())
    x0 = model.sample(8, 1e-5, generator)
    noise = torch.randn(x0.shape, generator=generator, dtype=F64)
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=2)), dtype=F64)
    implicit = ImplicitScoreMatching()(model, x0, u=midpoints(8), noise=noise)
    sliced = SlicedScoreMatching(variance_reduced=variance_reduced)
    for probes in (signs, math.sqrt(2) * torch.eye(2, dtype=F64)):
        probes = probes[:, None].expand(-1, 8, 2)
        loss = sliced(model, x0, u=midpoints(8), noise=noise, probes=probes)
        torch.testing.assert_close(tuple(loss), tuple(implicit))


@pytest.mark.parametrize("variance_reduced", [True, False])
def test_sliced_of_one_projection(variance_reduced: bool, planar: Mixture, generator: torch.Generator) -> None:
    """σ² (2 vᵀ(∇s)v + ‖s‖² or (vᵀs)²)/D, with the Jacobian of the score from autograd."""
    model = planar.model(VPSDE())
    x0 = model.sample(1, 1e-5, generator)
    noise = torch.randn(x0.shape, generator=generator, dtype=F64)
    v, t = torch.tensor([1.5, -0.4], dtype=F64), UniformTime().sample(model.sde, midpoints(1))[0]
    x = model.sde.perturb(x0, t, noise)
    score = model.score(x, t)[0]
    jacobian = torch.func.jacrev(lambda y: model.score(y[None], t)[0])(x[0])
    square = score @ score if variance_reduced else (v @ score) ** 2
    expected = model.sde.sigma(t) ** 2 * (2 * v @ jacobian @ v + square) / 2
    sliced = SlicedScoreMatching(variance_reduced=variance_reduced)
    loss = sliced(model, x0, u=midpoints(1), noise=noise, probes=v[None, None])
    torch.testing.assert_close(loss.per_sample, expected)


def test_gaussian_projections_are_gaussian(generator: torch.Generator) -> None:
    """Where J is a multiple of the identity the error tells ‖v‖²/D, chi-square with D = 3 degrees over D."""
    model, size = gaussian(EDMSDE(), (3,), 0.0, 1.0), 5000
    x0 = torch.zeros(size, 3, dtype=F64)
    objective = SlicedScoreMatching(kind="gaussian")
    u = torch.full((size,), 0.1, dtype=F64)
    loss = objective(model, x0, generator, u=u, noise=x0)  # at x = 0, where ε̂ = 0
    sigma = 0.002 + 0.1 * (80 - 0.002)
    squares = loss.per_sample / (-2 * sigma**2 / (1 + sigma**2))
    assert_mean(squares, 1.0)
    assert scipy.stats.kstest(3 * squares, scipy.stats.chi2(3).cdf).pvalue > 1e-3


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
@pytest.mark.parametrize("variance_reduced", [True, False])
def test_projections_average_to_the_trace(
    kind: Any, variance_reduced: bool, planar: Mixture, generator: torch.Generator
) -> None:
    model = planar.model(VPSDE())
    x0 = model.sample(4000, 1e-5, generator)
    noise = torch.randn(x0.shape, generator=generator, dtype=F64)
    u = torch.full((4000,), 0.5, dtype=F64)
    implicit = ImplicitScoreMatching()(model, x0, u=u, noise=noise).per_sample
    deviations = []
    for projections in (1, 8):
        sliced = SlicedScoreMatching(projections=projections, kind=kind, variance_reduced=variance_reduced)
        difference = sliced(model, x0, generator, u=u, noise=noise).per_sample - implicit
        assert_mean(difference)
        deviations.append(float(difference.std()))
    # Independent projections: the variance falls by 8; its relative error is √(kurtosis/4000), below 20 %.
    assert deviations[0] / deviations[1] == pytest.approx(math.sqrt(8), rel=0.2)


@each_objective
@pytest.mark.parametrize("attend", [False, True])
def test_parameters_get_the_right_gradient(objective: Objective, attend: bool, generator: torch.Generator) -> None:
    model = NetworkScore(Network(3, attend).double(), VPSDE(), EDMPreconditioning(0.7))
    x0, noise = torch.randn(2, 8, 3, generator=generator, dtype=F64)
    parameters = list(model.parameters())
    direction = [torch.randn(p.shape, generator=generator, dtype=F64) for p in parameters]

    def loss() -> Tensor:
        return objective(model, x0, torch.Generator().manual_seed(2), u=midpoints(8), noise=noise).value

    gradients = torch.autograd.grad(loss(), parameters)
    slope = torch.stack([(g * d).sum() for g, d in zip(gradients, direction, strict=True)]).sum()
    values, h = [], 1e-5
    for step in (h, -2 * h):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(step * d)
            values.append(loss())
    torch.testing.assert_close(slope, (values[0] - values[1]) / (2 * h), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_dropout_labels_and_float32(kind: type[Objective], generator: torch.Generator) -> None:
    network = Network(4, dropout=0.5, classes=3).train()
    model = NetworkScore(network, FlowSDE(), VelocityPreconditioning())
    x0, labels = torch.randn(6, 1, 2, 2, generator=generator), torch.arange(6) % 3
    loss = kind(EDMWeighting(0.5), LogNormalSigma())(model, x0, generator, labels=labels)
    loss.value.backward()
    assert {v.dtype for v in loss[:3]} == {torch.float32}
    assert network.classes is not None
    assert network.classes.weight.grad is not None
    assert bool((network.classes.weight.grad.abs().sum(1) > 0).all())


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_everything_random_comes_from_the_generator(kind: type[Objective]) -> None:
    model = NetworkScore(Network(3), VPSDE(), NoisePreconditioning())
    objective, x0 = kind(stratified=True), torch.ones(5, 3)

    def values(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return objective(model, x0, torch.Generator().manual_seed(4)).value.detach()

    assert torch.equal(values(0), values(1))
    u, noise = midpoints(5), torch.ones(5, 3)
    given = objective(model, x0, torch.Generator().manual_seed(1), u=u, noise=noise)
    torch.testing.assert_close(given.log_snr.double(), VPSDE().log_snr(UniformTime().sample(VPSDE(), u)[0]))


# -- the loss curve ------------------------------------------------------------------------------------------


def test_loss_by_noise_level_is_a_histogram(generator: torch.Generator) -> None:
    edges = torch.tensor([-3.0, -1.0, 0.0, 2.0, 10.0, 11.0])
    log_snr = torch.cat([3 * torch.randn(500, generator=generator).clamp(max=3.0), edges[[0, 2, 5]]])
    loss = torch.rand(503, generator=generator)
    mean, count = loss_by_noise_level(log_snr, loss, edges)
    expected = np.histogram(log_snr, edges.numpy())[0]
    sums = np.histogram(log_snr, edges.numpy(), weights=loss.double())[0]
    np.testing.assert_array_equal(count, expected)
    np.testing.assert_allclose(mean, sums / expected)
    assert int(count.sum()) < 503
    # A bad loss spoils its own bin alone, and an empty bin has no mean.
    loss[-1] = math.nan
    mean, count = loss_by_noise_level(log_snr, loss, torch.tensor([-3.0, 0.0, 10.9, 10.95, 11.0]))
    assert mean.isnan().tolist() == [False, False, True, True]
    assert count[2:].tolist() == [0, 1]


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_shapes_are_checked(kind: type[Objective]) -> None:
    model, objective = gaussian(VPSDE(), (3,), 0.0, 1.0), kind()
    x0 = torch.zeros(4, 3)
    for arguments, message in [
        ({"x0": torch.zeros(4)}, r"x0 has shape \(4,\), expected \(B, ...\)"),
        ({"x0": torch.zeros(0, 3)}, "at least one sample"),
        ({"x0": x0, "u": torch.zeros(3)}, r"u has shape \(3,\), expected \(4,\)"),
        ({"x0": x0, "u": torch.full((4,), 1.5)}, r"u runs from 1.5 to 1.5, expected uniforms in \[0, 1\]"),
        ({"x0": x0, "u": torch.full((4,), math.nan)}, "expected uniforms in"),
        ({"x0": x0, "noise": torch.zeros(4, 2)}, r"noise has shape \(4, 2\), expected that of x0, \(4, 3\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            objective(model, **arguments)  # type: ignore[arg-type]


def test_settings_are_checked() -> None:
    vp, u = VPSDE(), torch.zeros(1)
    for make, message in [
        (lambda: EDMWeighting(0.0), "sigma_data is 0.0, expected a positive standard deviation"),
        (lambda: EDMWeighting()(vp, u), "EDMWeighting has no sigma_data: give it"),
        (lambda: MinSNR(-1.0), "gamma is -1.0, expected a positive number"),
        (
            lambda: LogNormalSigma(0.0, 0.0),
            "expected a finite mean and a positive std, got mean=0.0, std=0.0",
        ),
        (lambda: LogNormalSigma(90.0, 1.0).sample(vp, u), "has no probability on the noise levels of VPSDE"),
        (lambda: ImportanceSampled(Likelihood(), cells=0), "cells is 0, expected at least 1"),
        (lambda: SlicedScoreMatching(projections=0), "projections is 0, expected at least 1"),
        (lambda: SlicedScoreMatching(kind="sphere"), "kind is 'sphere', expected 'rademacher' or 'gaussian'"),  # type: ignore[arg-type]
        (
            lambda: SlicedScoreMatching()(gaussian(vp, (3,), 0.0, 1.0), torch.zeros(2, 3), probes=torch.zeros(2, 3)),
            r"probes have shape \(2, 3\), expected \(M, 2, 3\)",
        ),
        (
            lambda: loss_by_noise_level(u, u, torch.zeros(1)),
            r"edges has shape \(1,\), expected \(K \+ 1,\) with K at least 1",
        ),
        (
            lambda: loss_by_noise_level(u, torch.zeros(2), torch.arange(3.0)),
            r"log_snr has shape \(1,\), per_sample \(2,\), expected \(B,\)",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


def test_a_weighting_that_vanishes_cannot_be_sampled() -> None:
    class Upper(Weighting):
        def __call__(self, sde: SDE, t: Tensor) -> Tensor:
            return (t > 0.5).double()

    with pytest.raises(ValueError, match="is not positive and finite on the interval of VPSDE"):
        ImportanceSampled(Upper()).sample(VPSDE(), torch.zeros(1))


def test_objectives_say_what_they_are() -> None:
    text = repr(SlicedScoreMatching(MinSNR(3.0), LogNormalSigma(), projections=2))
    assert text == (
        "SlicedScoreMatching(weighting=MinSNR(gamma=3.0), times=LogNormalSigma(mean=-1.2, std=1.2, "
        "importance=False), stratified=False, projections=2, kind='rademacher', variance_reduced=True)"
    )


# The weights (r/σ_d)² and (1 + r)² belong to outputs that are nearly x₀; for others they are as large as they say.
@pytest.mark.parametrize(
    ("preconditioning", "weighting"),
    [
        (p, w)
        for p in (EDMPreconditioning(0.7), NoisePreconditioning(), ScorePreconditioning(), VelocityPreconditioning())
        for w in WEIGHTINGS
        if isinstance(p, EDMPreconditioning) or not isinstance(w, EDMWeighting | StraightVelocity)
    ],
    ids=repr,
)
def test_losses_where_nothing_is_left_of_the_data(preconditioning: Preconditioning, weighting: Weighting) -> None:
    for sde in (VPSDE(0.1, 20.0, t_max=10.0), VPSDE(1e-4, 0.02, t_max=1000.0), SubVPSDE(1e-4, 0.02, t_max=1000.0)):
        network = Network(2)
        model = NetworkScore(network, sde, preconditioning)
        objective = DenoisingScoreMatching(weighting)
        loss = objective(model, torch.ones(9, 2), u=torch.linspace(0, 1, 9, dtype=F64), noise=torch.ones(9, 2))
        assert bool(loss.per_sample.isfinite().all() & loss.value.isfinite())
        loss.value.backward()
        assert all(bool(p.grad.isfinite().all()) for p in network.parameters() if p.grad is not None)


def test_straight_velocity_weighs_errors_as_the_velocity_has_them() -> None:
    """JiT's loss ‖v̂ − v‖² with v̂ = (x − x̂₀)/max(t, 0.05) on rectified flow, for a network that predicts x₀."""
    from scoresde.preconditioning import DataPreconditioning

    sde = FlowSDE()
    network = Network(3).double()
    model = NetworkScore(network, sde, DataPreconditioning())
    x0, noise = (torch.randn(5, 3, generator=torch.Generator().manual_seed(i), dtype=F64) for i in (0, 1))
    t = torch.tensor([0.001, 0.03, 0.2, 0.7, 0.999], dtype=F64)

    class Given(Times):
        def sample(self, sde: SDE, u: Tensor) -> tuple[Tensor, Tensor]:
            return t, torch.ones_like(t)

    for least in (0.0, 0.05):
        loss = DenoisingScoreMatching(StraightVelocity(least), Given())(model, x0, noise=noise)
        x = sde.perturb(x0, t, noise)
        divisor = t.clamp_min(least)[:, None] if least else t[:, None]
        found, wanted = ((x - each) / divisor for each in (model.denoise(x, t), x0))
        assert loss.value.item() == pytest.approx((found - wanted).square().mean().item(), rel=1e-9)
    for bad in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="least"):
            StraightVelocity(bad)
