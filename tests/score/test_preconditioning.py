"""Every preconditioning against its paper's formulas, and as two equations for x₀ and ε, on every SDE."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scoresde.preconditioning import (
    DataPreconditioning,
    EDMPreconditioning,
    FlowPreconditioning,
    NoisePreconditioning,
    Preconditioning,
    ScorePreconditioning,
    UnscaledScorePreconditioning,
    VelocityPreconditioning,
)
from scoresde.score import NetworkScore
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE, CosineSDE, FlowSDE
from scoresde.statistics import Statistics

F64 = torch.float64
DATA_STD = 0.7
PRECONDITIONINGS = {
    "noise": NoisePreconditioning(),
    "score": ScorePreconditioning(),
    "unscaled": UnscaledScorePreconditioning(),
    "velocity": VelocityPreconditioning(),
    "flow": FlowPreconditioning(),
    "edm": EDMPreconditioning(sigma_data=DATA_STD),
    "data": DataPreconditioning(),
}


@pytest.fixture(params=list(PRECONDITIONINGS.values()), ids=list(PRECONDITIONINGS))
def preconditioning(request: pytest.FixtureRequest) -> Preconditioning:
    return request.param


def whole_interval(sde: SDE, count: int = 33) -> Tensor:
    """Times uniform in λ, both ends among them."""
    t = torch.tensor([sde.t_min, sde.t_max], dtype=F64)
    inner = sde.time(torch.linspace(*sde.log_snr(t).tolist(), count, dtype=F64)[1:-1])  # type: ignore[call-overload]
    return torch.cat([t[:1], inner, t[1:]])


# Formulas of the papers


def test_edm_is_table_1_of_karras_et_al() -> None:
    sigma = torch.logspace(math.log10(0.002), math.log10(80), 20, dtype=F64)
    c = EDMPreconditioning(sigma_data=DATA_STD).coefficients(EDMSDE(), sigma)
    variance = sigma**2 + DATA_STD**2
    torch.testing.assert_close(c.c_skip, DATA_STD**2 / variance, rtol=1e-13, atol=0)
    torch.testing.assert_close(c.c_out, sigma * DATA_STD / variance.sqrt(), rtol=1e-13, atol=0)
    torch.testing.assert_close(c.c_in, 1 / variance.sqrt(), rtol=1e-13, atol=0)
    torch.testing.assert_close(c.c_noise, sigma.log() / 4, rtol=1e-13, atol=1e-15)


def test_edm_under_another_sde_sees_x_over_alpha(sde: SDE) -> None:
    t = whole_interval(sde)
    preconditioning = EDMPreconditioning(sigma_data=DATA_STD)
    alpha = sde.alpha(t)
    relative = sde.sigma(t) / alpha
    variance = relative**2 + DATA_STD**2
    c = preconditioning.coefficients(sde, t)
    # λ is an absolute number of up to 14, so that σ/α = e^−λ has 14 eps.
    torch.testing.assert_close(c.c_skip, DATA_STD**2 / variance / alpha, rtol=1e-13, atol=0)
    torch.testing.assert_close(c.c_out, relative * DATA_STD / variance.sqrt(), rtol=1e-13, atol=0)
    torch.testing.assert_close(c.c_in, 1 / variance.sqrt() / alpha, rtol=1e-13, atol=0)
    torch.testing.assert_close(c.c_noise, relative.log() / 4, rtol=1e-13, atol=1e-15)


def test_edm_has_unit_variance_in_and_out(sde: SDE) -> None:
    """The two conditions that the formulas solve (Karras et al. 2022, eq. 114 and 117)."""
    t = whole_interval(sde)
    preconditioning = EDMPreconditioning(sigma_data=DATA_STD)
    p, q = preconditioning.target(sde, t)
    one = torch.ones_like(t)
    torch.testing.assert_close(p**2 * DATA_STD**2 + q**2, one, rtol=1e-13, atol=0)
    variance = (sde.alpha(t) * DATA_STD) ** 2 + sde.sigma(t) ** 2
    torch.testing.assert_close(preconditioning.c_in(sde, t) ** 2 * variance, one, rtol=1e-12, atol=0)


def test_edm_takes_the_spread_of_the_data_once() -> None:
    open_ = EDMPreconditioning()
    assert open_.with_data_std(2.0).sigma_data == 2.0
    assert open_.with_data_std(2.0).noise_input == open_.noise_input
    assert open_.sigma_data is None
    t = torch.tensor([0.5], dtype=F64)
    half = EDMPreconditioning(0.5).coefficients(EDMSDE(), t)
    assert open_.coefficients(EDMSDE(), t) == half  # the paper's default
    fixed = EDMPreconditioning(0.3)
    assert fixed.with_data_std(2.0) is fixed
    statistics = Statistics(torch.zeros(2, dtype=F64), 2.0)
    assert NetworkScore(nn.Identity(), EDMSDE(), open_, statistics).preconditioning.sigma_data == 2.0  # type: ignore[attr-defined]
    for other in (NoisePreconditioning(), VelocityPreconditioning()):
        assert other.with_data_std(2.0) is other


def test_velocity_is_that_of_salimans_and_ho() -> None:
    """x̂ = α z − σ v and v = α ε − σ x₀ on a variance-preserving process."""
    for sde in (VPSDE(), CosineSDE()):
        t = whole_interval(sde)
        c = VelocityPreconditioning().coefficients(sde, t)
        p, q = VelocityPreconditioning().target(sde, t)
        for mine, theirs in (
            (c.c_skip, sde.alpha(t)),
            (c.c_out, -sde.sigma(t)),
            (c.c_in, torch.ones_like(t)),
        ):
            torch.testing.assert_close(mine, theirs, rtol=1e-13, atol=0)
        torch.testing.assert_close(p, -sde.sigma(t), rtol=1e-13, atol=0)
        torch.testing.assert_close(q, sde.alpha(t), rtol=1e-13, atol=0)


def test_noise_is_that_of_ddpm() -> None:
    """x̂₀ = (x − σ ε)/α; on VP the input is not scaled."""
    t = whole_interval(VPSDE())
    alpha, sigma = VPSDE().alpha(t), VPSDE().sigma(t)
    c = NoisePreconditioning().coefficients(VPSDE(), t)
    for mine, theirs in ((c.c_skip, 1 / alpha), (c.c_out, -sigma / alpha), (c.c_in, torch.ones_like(t))):
        torch.testing.assert_close(mine, theirs, rtol=1e-13, atol=0)


def test_score_is_that_of_ncsn_pp() -> None:
    """Karras et al. 2022, table 1, column VE: D = x + σ F, input as it is."""
    t = whole_interval(VESDE())
    c = ScorePreconditioning().coefficients(VESDE(), t)
    one = torch.ones_like(t)
    for mine, theirs in ((c.c_skip, one), (c.c_out, VESDE().sigma(t)), (c.c_in, one)):
        torch.testing.assert_close(mine, theirs, rtol=1e-13, atol=0)


def test_flow_is_that_of_rectified_flow() -> None:
    """x₀ = x − t F for F = ε − x₀ = dx/dt."""
    t = whole_interval(FlowSDE())
    c = FlowPreconditioning().coefficients(FlowSDE(), t)
    one = torch.ones_like(t)
    for mine, theirs in ((c.c_skip, one), (c.c_out, -t), (c.c_in, one)):
        torch.testing.assert_close(mine, theirs, rtol=1e-13, atol=0)


class Known(nn.Module):
    """Says what it was made with, in the dtype of x."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return self.output.to(x)


def test_the_data_are_the_output_of_a_network_that_predicts_them(sde: SDE) -> None:
    x0, noise = (torch.randn(33, 400, generator=torch.Generator().manual_seed(i), dtype=F64) for i in (0, 1))
    x0 = x0.float().double()
    t = whole_interval(sde)
    x = sde.perturb(x0, t, noise)
    fine, coarse = (NetworkScore(Known(x0), sde, DataPreconditioning()) for _ in range(2))
    assert torch.equal(coarse.denoise(x.float(), t), x0.float())
    assert torch.equal(coarse.noise_residual(x.float(), t, x0.float(), noise.float())[0], torch.zeros(33, 400))
    level = sde.noise_level(t)
    torch.testing.assert_close(fine.noise(x, t) * level[:, None], noise * level[:, None], rtol=1e-12, atol=1e-14)
    # Of ε as many digits are lost as σ is smaller than α, and none where it is larger.
    lost = (coarse.noise(x.float(), t) - noise).square().mean(1).sqrt() / 2**-24
    expected = 1 / level
    small = level < 0.1
    assert (lost[small] / expected[small]).min() > 0.1
    assert (lost[small] / expected[small]).max() < 3
    assert lost[level > 1].max() < 5
    factor = coarse.noise_residual(x.float(), t, x0.float(), noise.float())[1]
    assert factor is not None
    torch.testing.assert_close(factor, -expected, rtol=1e-12, atol=0)


def test_velocity_of_a_network_that_predicts_the_data() -> None:
    """(x − F)/t on rectified flow, with the digits that the noise prediction has."""
    sde, t = FlowSDE(), whole_interval(FlowSDE())
    x0, noise = (torch.randn(33, 50, generator=torch.Generator().manual_seed(i), dtype=F64) for i in (0, 1))
    model = NetworkScore(Known(x0), sde, DataPreconditioning())
    torch.testing.assert_close(model.velocity(sde.perturb(x0, t, noise), t), noise - x0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "make",
    [
        NoisePreconditioning,
        ScorePreconditioning,
        UnscaledScorePreconditioning,
        VelocityPreconditioning,
        FlowPreconditioning,
        EDMPreconditioning,
        DataPreconditioning,
    ],
)
def test_noise_level_input(make: Any, sde: SDE) -> None:
    t = whole_interval(sde, 5)
    default = make().c_noise(sde, t)
    torch.testing.assert_close(default, (sde.sigma(t) / sde.alpha(t)).log() / 4, rtol=1e-12, atol=1e-14)
    assert torch.equal(make(noise_input="time").c_noise(sde, t), 999 * t)
    assert torch.equal(make(noise_input="sigma").c_noise(sde, t), sde.sigma(t).log())
    assert torch.equal(make(noise_input="none").c_noise(sde, t), torch.zeros_like(t))


class Affine(nn.Module):
    """A field that depends on the state and the noise level."""

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return 0.5 * x - 0.3 + c_noise[:, None]


def test_a_noise_scaled_network_is_one_function_over_sigma(sde: SDE) -> None:
    """Technique 3 of Song & Ermon 2020: score(x, t) = s(x)/σ(t), and s is not told t."""
    network = Affine()
    model = NetworkScore(network, sde, ScorePreconditioning(noise_input="none"))
    x = torch.randn(4, 3, dtype=F64)
    t = whole_interval(sde, 4)
    scores = torch.stack([sde.sigma(each) * model.score(x, each) for each in t])
    torch.testing.assert_close(scores, network(x, torch.zeros(4, dtype=F64)).expand_as(scores))


def test_an_unscaled_network_is_the_score(sde: SDE) -> None:
    network = Affine()
    model = NetworkScore(network, sde, UnscaledScorePreconditioning())
    x, t = torch.randn(4, 3, dtype=F64), whole_interval(sde, 4)
    c = UnscaledScorePreconditioning().c_noise(sde, t)
    torch.testing.assert_close(model.score(x, t), network(x, c))
    # The objective's error of ε is σ times that of the score.
    noise = torch.randn(4, 3, dtype=F64)
    residual, factor = model.noise_residual(x, t, torch.zeros_like(x), noise)
    assert factor is not None
    torch.testing.assert_close(factor[:, None] * residual, model.noise(x, t) - noise)


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="noise_input is 'times', expected 'log_sigma', 'time', 'sigma' or 'none'"):
        NoisePreconditioning(noise_input="times")  # type: ignore[arg-type]
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=r"sigma_data is .*expected a positive"):
            EDMPreconditioning(sigma_data=bad)


# Nothing cancels


def test_the_determinant_is_a_sum(preconditioning: Any, sde: SDE) -> None:
    t = whole_interval(sde)
    p, q = preconditioning.target(sde, t)
    assert (sde.alpha(t) * q * -sde.sigma(t) * p >= 0).all()
    assert (sde.alpha(t) * q - sde.sigma(t) * p != 0).all()


def test_coefficients_in_float32_have_its_accuracy(preconditioning: Any, sde: SDE) -> None:
    t = whole_interval(sde).float()
    t = t[(t >= sde.t_min) & (t <= sde.t_max)]
    single = preconditioning.coefficients(sde, t)
    double = preconditioning.coefficients(sde, t.double())
    # α, σ and e^−λ are exponentials of exponents up to |λ|: a few eps (1 + |λ|), squared in σ² + s².
    allowed = 16 * torch.finfo(torch.float32).eps * (1 + sde.log_snr(t.double()).abs())
    for name in ("c_in", "c_skip", "c_out"):
        a, b = getattr(single, name), getattr(double, name)
        assert a.dtype == torch.float32
        assert ((a.double() - b).abs() <= allowed * b.abs()).all(), name
    assert ((single.c_noise.double() - double.c_noise).abs() <= allowed).all()


# The target is what the predictions are solved from


class Oracle(nn.Module):
    """Computes the right F from what a network sees, knowing x₀; in float64 inside."""

    def __init__(self, preconditioning: Preconditioning, sde: SDE, x0: Tensor, t: Tensor) -> None:
        super().__init__()
        self.preconditioning, self.sde, self.x0, self.t = preconditioning, sde, x0, t.double()

    def forward(self, scaled: Tensor, c_noise: Tensor) -> Tensor:
        wanted = -0.25 * self.sde.log_snr(self.t)
        torch.testing.assert_close(c_noise.double(), wanted, rtol=1e-6, atol=1e-6)
        alpha, sigma = self.sde.alpha(self.t)[:, None], self.sde.sigma(self.t)[:, None]
        x = scaled.double() / self.input_scale(alpha, sigma)
        noise = (x - alpha * self.x0) / sigma
        name = type(self.preconditioning).__name__
        norm = torch.sqrt(alpha**2 + sigma**2)
        if name.startswith("Noise"):
            F = noise
        elif name.startswith("Score"):
            F = -noise
        elif name.startswith("Unscaled"):
            F = -noise / sigma
        elif name.startswith("Velocity"):
            F = (alpha * noise - sigma * self.x0) / norm
        elif name.startswith("Flow"):
            F = noise - self.x0
        elif name.startswith("Data"):
            F = self.x0
        else:  # EDM, eq. 8: (y − c_skip (y + n)) / c_out on y + n = x / α
            level = sigma / alpha
            skip = DATA_STD**2 / (level**2 + DATA_STD**2)
            out = level * DATA_STD / torch.sqrt(level**2 + DATA_STD**2)
            # 1 − c_skip, without the difference
            F = (level**2 / (level**2 + DATA_STD**2) * self.x0 - skip * level * noise) / out
        return F.to(scaled.dtype)

    def input_scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        name = type(self.preconditioning).__name__
        if name.startswith(("Score", "Unscaled", "Flow")):
            return torch.ones_like(alpha)
        data = DATA_STD if name.startswith("EDM") else 1.0
        return 1 / torch.sqrt((data * alpha) ** 2 + sigma**2)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_predictions_solve_for_the_target(
    preconditioning: Any, sde: SDE, dtype: Any, generator: torch.Generator
) -> None:
    t = whole_interval(sde).requires_grad_()
    (d_alpha,) = torch.autograd.grad((sde.alpha(t) + 0 * t).sum(), t, materialize_grads=True)
    (d_sigma,) = torch.autograd.grad(sde.sigma(t).sum(), t)
    t = t.detach()
    x0 = DATA_STD * torch.randn(len(t), 5, generator=generator, dtype=F64)
    noise = torch.randn(len(t), 5, generator=generator, dtype=F64)
    alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
    x = (alpha * x0 + sigma * noise).to(dtype)
    noise = (x.double() - alpha * x0) / sigma  # of the rounded x
    model = NetworkScore(Oracle(preconditioning, sde, x0, t), sde, preconditioning)

    # An error of a few eps in x is one of that over σ in ε and over α in x₀; the coefficients add nothing of
    # another order. The velocity f x + ½ g²/σ ε follows.
    unit = 16 * torch.finfo(dtype).eps * (x.double().abs() + (alpha * x0).abs())
    f, g = sde.drift_coefficient(t)[:, None], sde.diffusion(t)[:, None]
    for name, wanted, allowed in (
        ("denoise", x0, unit / alpha),
        ("noise", noise, unit / sigma),
        ("score", -noise / sigma, unit / sigma**2),
        ("velocity", d_alpha[:, None] * x0 + d_sigma[:, None] * noise, unit * (f.abs() + (g / sigma) ** 2)),
    ):
        value = getattr(model, name)(x, t)
        assert value.dtype == dtype
        assert ((value.double() - wanted).abs() <= allowed).all(), name


def test_repr_is_readable() -> None:
    assert repr(EDMPreconditioning(0.5)) == "EDMPreconditioning(noise_input='log_sigma', sigma_data=0.5)"
