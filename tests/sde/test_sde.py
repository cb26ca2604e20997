"""Every forward SDE against its definition at 50 digits, quadrature, simulation and the base class."""

import copy
import functools
import inspect
import itertools
import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
import torchsde
from scipy.integrate import quad
from torch import Tensor

from scoresde.sampling import Ancestral, DiscreteTime
from scoresde.score import GaussianMixtureScore
from scoresde.sde import (
    DDPMSDE,
    EDMSDE,
    NCSNSDE,
    SDE,
    VESDE,
    VPSDE,
    CosineSDE,
    DiscreteVESDE,
    DiscreteVPSDE,
    FlowSDE,
    ReverseSDE,
    SubVPSDE,
    expand_to,
)
from tests.problems import Mixture, gaussian

mpmath.mp.dps = 50
F64 = torch.float64
DTYPES = [torch.float32, torch.float64]


class PlainVP(SDE):
    """VP written as a user would write it: α and σ, nothing else."""

    def __init__(self) -> None:
        super().__init__(1e-5, 1.0, 1e-3)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-0.05 * t - 4.975 * t**2)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-0.1 * t - 9.95 * t**2))


def exact(sde: SDE, t: mpmath.mpf) -> tuple[mpmath.mpf, mpmath.mpf]:
    """(α, σ) from the formulas of the papers; at 50 digits they may cancel."""
    mp = mpmath
    if isinstance(sde, VPSDE | SubVPSDE):
        low, high = mp.mpf(sde.beta_min), mp.mpf(sde.beta_max)
        decay = mp.exp(-(low * t + (high - low) * t**2 / 2))
        return mp.sqrt(decay), mp.sqrt(1 - decay) if isinstance(sde, VPSDE) else 1 - decay
    if isinstance(sde, VESDE):
        return mp.mpf(1), sde.sigma_min * (mp.mpf(sde.sigma_max) / sde.sigma_min) ** t
    if isinstance(sde, CosineSDE):
        s = mp.mpf(sde.s)
        alpha = mp.cos(mp.pi / 2 * (t + s) / (1 + s)) / mp.cos(mp.pi / 2 * s / (1 + s))
        return alpha, mp.sqrt(1 - alpha**2)
    if isinstance(sde, EDMSDE):
        return mp.mpf(1), t
    if isinstance(sde, DiscreteVPSDE):
        decay = mp.exp(between_levels([0, *accumulated(sde.betas)], t))
        return mp.sqrt(decay), mp.sqrt(1 - decay)
    if isinstance(sde, DiscreteVESDE):
        first, second = (mp.log(v) for v in sde.sigmas[:2])
        return mp.mpf(1), mp.exp(between_levels([2 * first - second, *(mp.log(v) for v in sde.sigmas)], t))
    assert isinstance(sde, FlowSDE)
    return 1 - t, t


@functools.cache
def accumulated(betas: tuple[float, ...]) -> list[mpmath.mpf]:
    """log ᾱ_i of a table of β."""
    return list(itertools.accumulate(mpmath.log(1 - mpmath.mpf(b)) for b in betas))


def between_levels(values: list[mpmath.mpf], t: mpmath.mpf) -> mpmath.mpf:
    """Linear between values at 0, 1/N, ..., 1."""
    place = t * (len(values) - 1)
    i = min(int(mpmath.floor(place)), len(values) - 2)
    return values[i] + (place - i) * (values[i + 1] - values[i])


def grid(sde: SDE, dtype: torch.dtype = F64) -> Tensor:
    """Times that crowd at both ends of the interval; the ends themselves are in it."""
    steps = torch.logspace(-6, math.log10(0.5), 12, dtype=F64) * (sde.t_max - sde.t_min)
    ends = torch.tensor([sde.t_min, sde.t_max], dtype=F64)
    t = torch.cat([ends, sde.t_min + steps, sde.t_max - steps]).sort().values.to(dtype)
    # Rounded to float32 an end may lie outside, where the derivative of a clipped schedule is another.
    return t[(t >= sde.t_min) & (t <= sde.t_max)]


def interior(sde: SDE, count: int = 9) -> Tensor:
    """Times in float64, uniform in λ, away from the very ends."""
    ends = sde.log_snr(torch.tensor([sde.t_min_sampling, sde.t_max], dtype=F64))
    return sde.time(torch.linspace(ends[0].item(), ends[1].item(), count + 2, dtype=F64)[1:-1])


# Closed forms against the definition


@pytest.mark.parametrize("dtype", DTYPES)
def test_scales_are_accurate_to_the_dtype_at_both_ends(sde: SDE, dtype: Any) -> None:
    t = grid(sde, dtype)
    eps = torch.finfo(dtype).eps
    for i, (a, s, lam) in enumerate(
        zip(sde.alpha(t).tolist(), sde.sigma(t).tolist(), sde.log_snr(t).tolist(), strict=True)
    ):
        alpha, sigma = exact(sde, mpmath.mpf(t[i].item()))
        # exp(y) has the relative error |y| eps that y itself has, hence the logarithms.
        growth = abs(float(mpmath.log(sigma / exact(sde, mpmath.mpf(sde.t_min))[1])))
        assert abs(a / alpha - 1) <= 4 * eps * (1 + abs(float(mpmath.log(alpha))))
        assert abs(s / sigma - 1) <= 4 * eps * (1 + growth)
        # λ passes through 0: its error is absolute there, in units of the logarithms that it is made of.
        assert abs(lam - mpmath.log(alpha / sigma)) <= 4 * eps * (1 + abs(mpmath.log(alpha / sigma)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_drift_and_diffusion_are_the_derivatives_of_the_scales(sde: SDE, dtype: Any) -> None:
    t = grid(sde, dtype)
    eps = torch.finfo(dtype).eps
    for i, (f, g) in enumerate(zip(sde.drift_coefficient(t).tolist(), sde.diffusion(t).tolist(), strict=True)):
        at = mpmath.mpf(t[i].item())
        _, sigma = exact(sde, at)
        if isinstance(sde, DiscreteVPSDE | DiscreteVESDE):
            # The end of a piece belongs to it, and so do the numbers that are rounded to it.
            count = len(sde.betas if isinstance(sde, DiscreteVPSDE) else sde.sigmas)
            near = mpmath.nint(at * count) / count
            at = near * (1 - mpmath.mpf(10) ** -20) if abs(at - near) < 1e-15 * at else at
        wanted_f = mpmath.diff(lambda s: mpmath.log(exact(sde, s)[0]), at)
        wanted_g2 = mpmath.diff(lambda s: exact(sde, s)[1] ** 2, at) - 2 * wanted_f * sigma**2
        growth = abs(float(mpmath.log(sigma / exact(sde, mpmath.mpf(sde.t_min))[1])))
        assert abs(f - wanted_f) <= 4 * eps * abs(wanted_f) + mpmath.mpf(10) ** -20
        assert abs(g - mpmath.sqrt(wanted_g2)) <= 4 * eps * (1 + growth) * mpmath.sqrt(wanted_g2)


def test_scales_are_integrals_of_drift_and_diffusion(sde: SDE) -> Any:
    def number(function: Any, t: Any) -> Any:
        return float(function(torch.tensor(t, dtype=F64)))

    start = sde.t_min_sampling
    alpha0, sigma0 = number(sde.alpha, start), number(sde.sigma, start)
    # One is enough where the rate jumps a thousand times on the way.
    for t in interior(sde, 1 if isinstance(sde, DiscreteVPSDE) else 4).tolist():
        alpha = number(sde.alpha, t)
        # Where the rate of a table jumps.
        levels = len(sde.betas) if isinstance(sde, DiscreteVPSDE) else 1
        knots = [i / levels for i in range(1, levels) if start < i / levels < t]
        rule = {"epsrel": 1e-11, "limit": 200 + levels, "points": knots or None}
        integral, _ = quad(lambda s: number(sde.drift_coefficient, s), start, t, epsabs=1e-11, **rule)
        assert math.log(alpha / alpha0) == pytest.approx(integral, abs=1e-9)

        # Variance ODE v' = 2 f v + g²: what was there is scaled by (α_t/α_0)², the rest is added on the way.
        def added(s: Any, alpha: Any = alpha) -> Any:
            return (number(sde.diffusion, s) * alpha / number(sde.alpha, s)) ** 2

        variance, _ = quad(added, start, t, epsabs=0, **rule)
        variance += (alpha / alpha0 * sigma0) ** 2
        assert number(sde.sigma, t) ** 2 == pytest.approx(variance, rel=1e-9)


def test_closed_forms_agree_with_the_base_class(sde: SDE) -> None:
    t = grid(sde)
    t = t[t > 0]
    # The base differentiates log α and λ: each is a sum and quotient of a few terms of the same sign, and the
    # worst factor is 1/tan near the end of the cosine schedule.
    torch.testing.assert_close(SDE.drift_coefficient(sde, t), sde.drift_coefficient(t), rtol=1e-11, atol=1e-15)
    torch.testing.assert_close(SDE.diffusion(sde, t), sde.diffusion(t), rtol=1e-11, atol=0)
    torch.testing.assert_close(SDE.log_snr(sde, t), sde.log_snr(t), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_time_inverts_log_snr(sde: SDE, dtype: Any) -> None:
    t = grid(sde, dtype)
    t = t[t >= sde.t_min_sampling] if sde.t_min == 0 else t
    log_snr = sde.log_snr(t)
    back = sde.time(log_snr)
    assert back.dtype == dtype
    assert back.shape == t.shape
    # λ is known to eps (1 + |λ|), and t to that over |dλ/dt| = g²/(2 σ²); then t itself is rounded.
    rate = 0.5 * (sde.diffusion(t) / sde.sigma(t)).double() ** 2
    allowed = 4 * torch.finfo(dtype).eps * ((1 + log_snr.abs()) / rate + t)
    assert ((back - t).abs() <= allowed).all()


def test_bisection_of_the_base_agrees_with_the_closed_form(sde: SDE) -> None:
    t = grid(sde)
    t = t[t > 0]
    rate = 0.5 * (sde.diffusion(t) / sde.sigma(t)) ** 2
    log_snr = sde.log_snr(t)
    allowed = 4 * torch.finfo(F64).eps * ((1 + log_snr.abs()) / rate + t)
    assert ((SDE.time(sde, log_snr) - sde.time(log_snr)).abs() <= allowed).all()


def test_time_of_a_number_and_beyond_the_interval() -> None:
    assert SDE.time(EDMSDE(), 0.0).item() == pytest.approx(1.0, rel=1e-15)
    # α = 1 − t is negative beyond t = 1, so λ is not a number there.
    plain = SDE.time(FlowSDE(), torch.tensor([-30.0, 30.0], dtype=F64))
    torch.testing.assert_close(plain, torch.tensor([1 - math.exp(-30), math.exp(-30)], dtype=F64), rtol=1e-12, atol=0)


def test_alpha_and_sigma_are_all_that_a_new_sde_needs() -> None:
    plain, vp = PlainVP(), VPSDE()
    t = grid(vp)
    s = t[:-8]  # b² ≈ −2 Δλ takes λ's relative error 1/Δλ times
    torch.testing.assert_close(plain.drift_coefficient(t), vp.drift_coefficient(t), rtol=1e-12, atol=0)
    # Here λ is log α − log σ with σ² from t itself; nothing cancels.
    torch.testing.assert_close(plain.diffusion(t), vp.diffusion(t), rtol=1e-11, atol=0)
    torch.testing.assert_close(plain.time(vp.log_snr(t)), t, rtol=1e-11, atol=0)
    for mine, theirs in zip(plain.transition(t[-1], s), vp.transition(t[-1], s), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=0)
    x = torch.ones(2, 3, dtype=F64)
    torch.testing.assert_close(plain.drift(x, t[3]), vp.drift(x, t[3]))
    assert "PlainVP" in repr(plain)


# Kernels


def test_transition_matches_the_scales_and_composes(sde: SDE) -> None:
    s, u, t = sde.time(sde.log_snr(interior(sde, 3))).unbind()
    (a_us, b_us), (a_tu, b_tu), (a_ts, b_ts) = (
        sde.transition(u, s),
        sde.transition(t, u),
        sde.transition(t, s),
    )
    torch.testing.assert_close(a_ts, sde.alpha(t) / sde.alpha(s), rtol=1e-13, atol=0)
    torch.testing.assert_close(b_ts**2, sde.sigma(t) ** 2 - a_ts**2 * sde.sigma(s) ** 2, rtol=1e-12, atol=0)
    torch.testing.assert_close(a_tu * a_us, a_ts, rtol=1e-13, atol=0)
    torch.testing.assert_close(a_tu**2 * b_us**2 + b_tu**2, b_ts**2, rtol=1e-12, atol=0)


def test_transition_over_no_time_is_the_identity(sde: SDE) -> None:
    t = interior(sde, 3)
    a, b = sde.transition(t, t)
    assert (a == 1).all()
    assert (b == 0).all()


def test_transition_over_one_float32_unit_is_finite(sde: SDE) -> None:
    s = torch.linspace(sde.t_min_sampling, sde.t_max, 2001)[1:-1]
    _, b = sde.transition(torch.nextafter(s, torch.tensor(math.inf)), s)
    assert b.isfinite().all()


def test_simulated_paths_have_the_marginals_of_the_kernel(sde: SDE, generator: torch.Generator) -> None:
    """Euler-Maruyama on a grid uniform in λ, with coefficients at the middle of each step."""
    paths, steps, x0 = 4000, 800, 3.0
    ends = sde.log_snr(torch.tensor([sde.t_min_sampling, sde.t_max], dtype=F64)).tolist()
    t = sde.time(torch.linspace(*ends, 2 * steps + 1, dtype=F64))  # type: ignore[call-overload]
    f, g, dt = sde.drift_coefficient(t[1::2]), sde.diffusion(t[1::2]), t[2::2] - t[:-2:2]
    start = torch.full((paths, 1), x0, dtype=F64)
    x = sde.perturb(start, t[0], generator)
    noise = torch.randn(steps, paths, 1, generator=generator, dtype=F64)
    for k in range(steps):
        x = x + f[k] * dt[k] * x + g[k] * dt[k].sqrt() * noise[k]
        if k + 1 in (steps // 2, steps):
            at = t[2 * (k + 1)]
            alpha, sigma = sde.alpha(at).item(), sde.sigma(at).item()
            # A step multiplies by 1 + f dt for e^{f dt}: relative bias ½ Σ (f dt)² of the mean, below
            # ½ |log α| dλ = 5 % of an α below 0.1 where that matters, and Δλ = 1.6 % of the variance. Five
            # standard errors are 0.08 σ for the mean and 11 % for the variance.
            assert abs(x.mean().item() - alpha * x0) < 5 * sigma / math.sqrt(paths)
            assert abs(x.var().item() / sigma**2 - 1) < 5 * math.sqrt(2 / paths)


def test_perturb_is_the_kernel(sde: SDE, generator: torch.Generator) -> None:
    x0 = torch.tensor([1.0, -2.0, 0.5], dtype=F64).expand(20000, 3)
    t = interior(sde, 3)[1]
    x = sde.perturb(x0, t, generator)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    noise = (x - alpha * x0) / sigma
    assert (noise.mean(0).abs() < 5 / math.sqrt(20000)).all()
    assert ((noise.var(0) - 1).abs() < 5 * math.sqrt(2 / 20000)).all()
    given = torch.randn(20000, 3, generator=generator, dtype=F64)
    torch.testing.assert_close(sde.perturb(x0, t, given), alpha * x0 + sigma * given)
    times = interior(sde, 3)
    each = sde.perturb(x0[:3], times, given[:3])
    for i in range(3):
        torch.testing.assert_close(each[i], sde.alpha(times[i]) * x0[i] + sde.sigma(times[i]) * given[i])
    assert sde.perturb(x0[:3].float(), times, given[:3].float()).dtype == torch.float32


def test_perturb_repeats_with_the_seed() -> None:
    x0 = torch.zeros(4, 2)
    draws = [VPSDE().perturb(x0, torch.tensor(0.5), torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize(
    ("t", "noise", "message"),
    [
        (torch.tensor(1.5), None, r"t runs from 1.5 to 1.5, outside \[1e-05, 1\]"),
        (torch.tensor([0.5, -0.1, 0.5]), None, "t runs from -0.1 to 0.5, outside"),
        (torch.tensor(0.0), None, "outside"),
        (torch.tensor(math.nan), None, "outside"),
        (2.0, None, "outside"),
        (torch.tensor([0.5, 0.5]), None, r"t has shape \(2,\), expected \(\) or \(3,\)"),
        (torch.full((3, 1), 0.5), None, r"t has shape \(3, 1\), expected \(\) or \(3,\)"),
        (torch.tensor(0.5), torch.zeros(3), r"noise has shape \(3,\), expected \(3, 2\)"),
        (torch.tensor(0.5), torch.zeros(1, 2), r"noise has shape \(1, 2\), expected \(3, 2\)"),
    ],
)
def test_perturb_says_what_is_wrong(t: Any, noise: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        VPSDE().perturb(torch.zeros(3, 2), t, noise)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_ends_of_the_interval_are_inside_in_either_dtype(sde: SDE, dtype: Any) -> None:
    ends = torch.tensor([sde.t_min, sde.t_min_sampling, sde.t_max], dtype=dtype)
    assert sde.perturb(torch.zeros(3, 2, dtype=dtype), ends, torch.ones(3, 2, dtype=dtype)).isfinite().all()
    # A float32 end may be carried on in float64: f and g must not jump there.
    exact_ends = torch.tensor([sde.t_min, sde.t_min_sampling, sde.t_max], dtype=F64)
    for f_or_g in (sde.drift_coefficient, sde.diffusion):
        # A table's β jumps between its times, by a fifth after the first of them.
        allowed = 0.2 if isinstance(sde, DiscreteVPSDE) else 1e-3
        torch.testing.assert_close(f_or_g(ends.double()), f_or_g(exact_ends), rtol=allowed, atol=1e-7)


def test_prior_matches_torch_distributions(sde: SDE, generator: torch.Generator) -> None:
    sigma = float(sde.sigma(torch.tensor(sde.t_max, dtype=F64)))
    noise = torch.randn(5, 1, 2, 3, generator=generator, dtype=F64)
    z = sde.prior_sample((5, 1, 2, 3), noise)
    torch.testing.assert_close(z, sigma * noise)
    wanted = torch.distributions.Normal(0.0, sigma).log_prob(z).sum((1, 2, 3))
    torch.testing.assert_close(sde.prior_log_prob(z), wanted)
    torch.testing.assert_close(sde.prior_log_prob(z.float()).double(), wanted, rtol=1e-5, atol=1e-5)

    draws = sde.prior_sample((20000, 2), generator)
    assert draws.dtype == torch.float32
    assert (draws.mean(0).abs() < 5 * sigma / math.sqrt(20000)).all()
    assert ((draws.var(0) / sigma**2 - 1).abs() < 5 * math.sqrt(2 / 20000)).all()
    with pytest.raises(ValueError, match=r"noise has shape \(5, 1, 2, 3\), expected \(5, 2\)"):
        sde.prior_sample((5, 2), noise)


# Shapes and dtypes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_coefficients_take_any_shape_of_t(sde: SDE, shape: Any, dtype: Any) -> None:
    t = torch.full(shape, interior(sde, 1).item(), dtype=dtype)
    for name in ("alpha", "sigma", "log_snr", "drift_coefficient", "diffusion"):
        for function in (getattr(sde, name), *([getattr(SDE, name).__get__(sde)] if name[0] in "ld" else [])):
            value = function(t)
            assert value.shape == shape
            assert value.dtype == dtype
            torch.testing.assert_close(value, getattr(sde, name)(t.flatten()[:1] if shape else t).expand(shape))
    for time in (sde.time, SDE.time.__get__(sde)):
        assert time(sde.log_snr(t)).shape == shape
        assert time(sde.log_snr(t)).dtype == dtype


def test_a_number_is_a_time_in_float64(sde: SDE) -> None:
    t = interior(sde, 1).item()
    for name in ("alpha", "sigma", "log_snr", "drift_coefficient", "diffusion"):
        value = getattr(sde, name)(t)
        assert value.dtype == F64
        assert torch.equal(value, getattr(sde, name)(torch.tensor(t, dtype=F64)))


def test_drift_multiplies_each_sample_by_its_own_coefficient(sde: SDE) -> None:
    x = torch.arange(12, dtype=F64).reshape(3, 2, 2)
    t = interior(sde, 3)
    wanted = torch.stack([sde.drift_coefficient(time) * sample for time, sample in zip(t, x, strict=True)])
    torch.testing.assert_close(sde.drift(x, t), wanted)
    torch.testing.assert_close(sde.drift(x, t[0]), sde.drift_coefficient(t[0]) * x)
    with pytest.raises(ValueError, match=r"t has shape \(2,\), expected \(\) or \(3,\)"):
        sde.drift(x, t[:2])


def test_expand_to_takes_the_dtype_of_x() -> None:
    x = torch.zeros(2, 3, 4)
    assert expand_to(torch.ones(2, dtype=F64), x).shape == (2, 1, 1)
    assert expand_to(torch.ones(2, dtype=F64), x).dtype == torch.float32
    assert expand_to(torch.ones((), dtype=F64), x).dtype == torch.float32


def test_scales_are_differentiable_in_t(sde: SDE) -> None:
    t = interior(sde, 3).requires_grad_()
    (slope,) = torch.autograd.grad(sde.alpha(t).log().sum() if sde.alpha(t).requires_grad else 0 * t.sum(), t)
    torch.testing.assert_close(slope, sde.drift_coefficient(t).detach(), rtol=1e-12, atol=1e-15)


# The interval


def test_log_snr_decreases(sde: SDE) -> None:
    t = torch.linspace(sde.t_min, sde.t_max, 1001, dtype=F64)
    assert (sde.log_snr(t).diff()[1:] < 0).all()


def test_cosine_ends_where_its_log_snr_is_clipped() -> None:
    sde = CosineSDE()
    assert sde.log_snr(torch.tensor(sde.t_max, dtype=F64)).item() == pytest.approx(-5.0, rel=1e-13)
    assert 0.99 < sde.t_max < 1
    beyond = torch.tensor([sde.t_max * 1.001, 1.0, 1.2], dtype=F64)
    end = torch.tensor(sde.t_max, dtype=F64)
    for name in ("alpha", "sigma", "log_snr"):
        torch.testing.assert_close(getattr(sde, name)(beyond), getattr(sde, name)(end).expand(3))
    assert (sde.drift_coefficient(beyond) == 0).all()
    assert (sde.diffusion(beyond) == 0).all()
    assert sde.time(torch.tensor([-6.0, -200.0], dtype=F64)).tolist() == [sde.t_max] * 2
    lower = CosineSDE(log_snr_min=-9.0)
    assert lower.t_max > sde.t_max
    assert lower.log_snr(torch.tensor(lower.t_max, dtype=F64)).item() == pytest.approx(-9.0, rel=1e-10)
    assert lower.diffusion(torch.tensor(lower.t_max)).isfinite()


def test_between_keeps_the_kernels(sde: SDE) -> None:
    low, high = interior(sde, 2).tolist()
    part = sde.between(low, high)
    assert (part.t_min, part.t_min_sampling, part.t_max) == (low, low, high)
    assert type(part) is type(sde)
    assert sde.t_max > high  # the original is as it was
    t = torch.tensor([low, high], dtype=F64)
    for name in ("alpha", "sigma", "drift_coefficient", "diffusion"):
        assert torch.equal(getattr(part, name)(t), getattr(sde, name)(t))
    z = torch.ones(1, 1, dtype=F64)
    torch.testing.assert_close(part.prior_sample((1, 1), z).squeeze(), sde.sigma(t[1]))
    with pytest.raises(ValueError, match="outside"):
        part.perturb(z, torch.tensor(sde.t_max, dtype=F64))
    with pytest.raises(ValueError, match="t_min"):
        sde.between(high, low)


def test_between_may_end_before_sampling_does() -> None:
    early = VPSDE().between(1e-5, 5e-4)
    assert (early.t_min, early.t_max) == (1e-5, 5e-4)


def test_defaults_are_those_of_the_papers() -> None:
    vp = VPSDE()
    assert (vp.t_min, vp.t_min_sampling, vp.t_max) == (1e-5, 1e-3, 1.0)
    assert VPSDE(t_min=1e-4).t_min_sampling == 1e-4
    assert vp.beta(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([0.1, 20.0])
    assert VESDE().sigma(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([0.01, 50.0])
    assert (EDMSDE().t_min, EDMSDE().t_max) == (0.002, 80.0)
    assert CosineSDE().s == 0.008


@pytest.mark.parametrize("kind", [VPSDE, SubVPSDE, CosineSDE])
def test_sampling_may_stop_at_a_time_of_its_own(kind: Any) -> None:
    assert (kind().t_min, kind().t_min_sampling) == (1e-5, 1e-3)
    assert (kind(t_min_sampling=1e-4).t_min, kind(t_min_sampling=1e-4).t_min_sampling) == (1e-5, 1e-4)
    both = kind(t_min=1e-4, t_min_sampling=1e-2)
    assert (both.t_min, both.t_min_sampling) == (1e-4, 1e-2)
    with pytest.raises(ValueError, match="0 <= t_min <= t_min_sampling < t_max"):
        kind(t_min=1e-2, t_min_sampling=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_noise_level_is_accurate_to_the_dtype_at_both_ends(sde: SDE, dtype: Any) -> None:
    t = grid(sde, dtype)
    for at, level in zip(t.tolist(), sde.noise_level(t).tolist(), strict=True):
        alpha, sigma = exact(sde, mpmath.mpf(at))
        wanted = sigma / alpha
        # The logarithm of a level comes with a rounding error of its own size.
        assert abs(level / wanted - 1) <= 6 * torch.finfo(dtype).eps * (1 + abs(float(mpmath.log(wanted))))


def test_an_sde_is_equal_to_one_of_the_same_class_and_values(sde: SDE) -> None:
    twin, shorter = copy.deepcopy(sde), sde.between(sde.t_min, 0.5 * (sde.t_min_sampling + sde.t_max))
    assert twin == sde
    assert hash(twin) == hash(sde)
    assert shorter != sde
    assert sde != repr(sde)


def test_sdes_differ_where_their_texts_do_not() -> None:
    near = 20.0 * (1 + 1e-9)
    assert repr(VPSDE(beta_max=near)) == repr(VPSDE())
    assert VPSDE(beta_max=near) != VPSDE()
    assert VPSDE() == VPSDE(0.1, 20.0)
    assert VPSDE() != SubVPSDE()
    assert len({VPSDE(), VPSDE(0.1, 20.0), VPSDE(t_min=1e-3), VPSDE(beta_max=near)}) == 3


def test_sdes_with_tensors_are_equal_element_by_element() -> None:
    class Table(Polynomial):
        def __init__(self, *values: float) -> None:
            super().__init__()
            self.values = torch.tensor(values)

    assert Table(1.0, 2.0) == Table(1.0, 2.0)
    assert Table(1.0, 2.0) != Table(1.0, 3.0)
    assert Table(1.0, 2.0) != Table(1.0)


def test_constant_beta_is_a_vp_sde() -> None:
    sde = VPSDE(beta_min=2.0, beta_max=2.0)
    t = torch.tensor([0.1, 0.9], dtype=F64)
    torch.testing.assert_close(sde.alpha(t), (-t).exp())
    torch.testing.assert_close(sde.time(sde.log_snr(t)), t)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VPSDE(beta_min=0, beta_max=0), "beta_max positive, got beta_min=0"),
        (lambda: VPSDE(beta_min=-0.1), "beta_min=-0.1"),
        (lambda: VPSDE(beta_min=2, beta_max=1), "expected 0 <= beta_min <= beta_max"),
        (lambda: VPSDE(t_min=0.0), r"σ is 0 at t_min=0 of VPSDE\(.*give a larger t_min, such as 1e-05"),
        (lambda: SubVPSDE(t_min=0.0, t_max=10.0), "σ is 0 at t_min=0 of SubVPSDE.* such as 0.0001"),
        (lambda: CosineSDE(t_min=0.0), "σ is 0 at t_min=0 of CosineSDE"),
        (lambda: VPSDE().between(0.0, 1.0), "σ is 0 at t_min=0 of VPSDE"),
        (lambda: DDPMSDE(t_min=0.0), "σ is 0 at t_min=0 of DDPMSDE"),
        (lambda: CosineSDE(log_snr_min=-40.0), "α is 0 at t_max=1 of CosineSDE"),
        (lambda: DiscreteVPSDE([0.1, 1.0]), "β_2 of 2 is 1, expected numbers between 0 and 1"),
        (lambda: DiscreteVPSDE([math.nan, 0.1]), "β_1 of 2 is nan"),
        (lambda: DiscreteVPSDE([0.1]), "betas has 1 values, expected at least 2"),
        (lambda: DiscreteVESDE([0.1, 0.1, 1.0]), r"sigmas are \[0.1, ..., 1\] \(3\), expected positive"),
        (lambda: DiscreteVESDE([0.0, 1.0]), "sigmas are"),
        (lambda: DiscreteVESDE([1.0, math.nan]), "sigmas are"),
        (lambda: NCSNSDE(sigma_min=2.0), "expected 0 < sigma_min < sigma_max"),
        (lambda: SubVPSDE(beta_min=math.nan), "beta_min=nan"),
        (lambda: VPSDE(t_min=0.5, t_max=0.5), "VPSDE needs 0 <= t_min"),
        (lambda: VPSDE(t_max=math.inf), "t_max=inf"),
        (lambda: VESDE(sigma_min=0), "expected 0 < sigma_min < sigma_max"),
        (lambda: VESDE(sigma_min=1, sigma_max=1), "sigma_max=1"),
        (lambda: VESDE(t_min=-0.1), "t_min=-0.1"),
        (lambda: CosineSDE(s=0), "got 0"),
        (lambda: CosineSDE(log_snr_min=50), "CosineSDE needs"),
        (lambda: CosineSDE(log_snr_min=math.nan), "CosineSDE needs|log_snr_min"),
        (lambda: EDMSDE(sigma_min=1, sigma_max=0.1), "sigma_min=1"),
        (lambda: FlowSDE(t_max=1.0), "t_max=1.0"),
        (lambda: FlowSDE(t_min=0.0), "t_min=0.0"),
    ],
)
def test_constructors_say_what_is_wrong(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


# Where there is much noise


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [VPSDE, SubVPSDE])
@pytest.mark.parametrize(
    ("beta_min", "beta_max", "t_max"),
    [
        (0.1, 20.0, 10.0),
        (1e-4, 0.02, 1000.0),
        (0.1, 180.0, 1.0),
        (0.1, 900.0, 1.0),
        (0.1, 1500.0, 1.0),
        (0.0, 1e4, 1.0),
    ],
)
def test_scales_where_the_exponential_of_their_integral_is_no_number(
    kind: Any, beta_min: Any, beta_max: Any, t_max: Any, dtype: Any
) -> None:
    sde = kind(beta_min, beta_max, t_max=t_max)
    t = torch.cat((torch.logspace(-5, 0, 200, dtype=F64) * t_max, torch.linspace(0.01, 1, 100, dtype=F64) * t_max))
    t = t.clamp(sde.t_min, t_max).to(dtype)
    eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
    alpha, sigma, log_snr = (f(t).tolist() for f in (sde.alpha, sde.sigma, sde.log_snr))
    for at, a, s, lam in zip(t.tolist(), alpha, sigma, log_snr, strict=True):
        wanted_a, wanted_s = exact(sde, mpmath.mpf(at))
        size = 1 + abs(float(mpmath.log(wanted_a)))
        assert abs(a - wanted_a) <= 4 * eps * size * wanted_a if wanted_a > tiny else a == tiny
        assert abs(s - wanted_s) <= 4 * eps * wanted_s
        assert abs(lam - mpmath.log(wanted_a / wanted_s)) <= 4 * eps * (1 + abs(mpmath.log(wanted_a / wanted_s)))
    back = sde.time(sde.log_snr(t))
    rate = 0.5 * (sde.diffusion(t) / sde.sigma(t)).double() ** 2
    assert ((back - t).abs() <= 4 * eps * ((1 + sde.log_snr(t).abs()) / rate + t)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [VPSDE, SubVPSDE])
@pytest.mark.parametrize(("beta_max", "t_max"), [(20.0, 10.0), (900.0, 1.0), (20.0, 100.0)])
def test_transition_where_no_signal_is_left(kind: Any, beta_max: Any, t_max: Any, dtype: Any) -> None:
    sde = kind(0.1, beta_max, t_max=t_max)
    times = torch.linspace(0.01, 1, 40, dtype=F64).to(dtype) * t_max
    eps = torch.finfo(dtype).eps
    for s, t in [*itertools.pairwise(times), (times[3], times[-1])]:
        a, b = (v.item() for v in sde.transition(t, s))
        (alpha_s, sigma_s), (alpha_t, sigma_t) = (exact(sde, mpmath.mpf(v.item())) for v in (s, t))
        wanted = alpha_t / alpha_s
        # B(t) − B(s) is known to the rounding of t + s and t − s.
        assert abs(a - wanted) <= 8 * eps * (1 - mpmath.log(wanted)) * wanted + torch.finfo(dtype).tiny
        assert abs(b - mpmath.sqrt(sigma_t**2 - wanted**2 * sigma_s**2)) <= 8 * eps * b


def test_a_beta_that_starts_at_zero() -> None:
    sde = VPSDE(beta_min=0.0)
    t = torch.tensor([1e-5, 1e-3, 0.3, 1.0], dtype=F64)
    torch.testing.assert_close(sde.alpha(t), (-5 * t**2).exp())
    torch.testing.assert_close(sde.time(sde.log_snr(t)), t)
    assert sde.time(torch.tensor([800.0, math.inf], dtype=F64)).tolist() == [0.0, 0.0]


# SDEs of users


class Polynomial(SDE):
    """The README's: in float32 its α next to t = 0 is 1."""

    def __init__(self, t_min: float = 1e-4, t_max: float = 0.999) -> None:
        super().__init__(t_min, t_max)

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t**2

    def sigma(self, t: Tensor) -> Tensor:
        return (1 - self.alpha(t) ** 2).sqrt()


def test_a_user_s_sde_in_float32() -> None:
    sde = Polynomial()
    t = torch.tensor([1e-4, 2e-4, 1e-3, 0.5, 0.999])
    fine = t.double()
    sigma = fine * (2 - fine**2).sqrt()
    log_snr = sde.log_snr(t)
    assert log_snr.dtype == torch.float32
    torch.testing.assert_close(log_snr.double(), (1 - fine**2).log() - sigma.log(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(sde.time(log_snr), t, rtol=1e-5, atol=0)
    # g² = −2 f, as σ² = 1 − α²
    torch.testing.assert_close(sde.diffusion(t).double() ** 2, 4 * fine / (1 - fine**2), rtol=1e-6, atol=0)
    x0, noise = torch.zeros(5, 3), torch.ones(5, 3)
    torch.testing.assert_close(sde.perturb(x0, t, noise)[:, 0].double(), sigma, rtol=1e-6, atol=0)
    a, b = sde.transition(t[1], t[0])
    assert a.dtype == b.dtype == torch.float32
    wanted = sigma[1] ** 2 - (sde.alpha(fine[1]) / sde.alpha(fine[0]) * sigma[0]) ** 2
    assert b.item() == pytest.approx(wanted.sqrt().item(), rel=1e-6)


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ((0.0, 0.999), r"σ is 0 at t_min=0 of Polynomial\(.*larger t_min, such as 9.99e-06"),
        ((1e-4, 1.0), r"α is 0 at t_max=1 of Polynomial\(.*end a little earlier"),
    ],
)
def test_a_user_s_sde_without_noise_or_signal_is_refused_when_it_is_made(ends: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Polynomial(*ends)


# Tables


def test_a_ddpm_s_table_has_its_kernels() -> None:
    sde = DDPMSDE()
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
    t = torch.arange(1, 1001, dtype=F64) / 1000
    torch.testing.assert_close(sde.alpha(t) ** 2, (1 - betas).cumprod(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(sde.sigma(t) ** 2, 1 - (1 - betas).cumprod(0), rtol=1e-11, atol=0)
    a, b = sde.transition(t[1:], t[:-1])
    torch.testing.assert_close(a**2, 1 - betas[1:], rtol=1e-13, atol=0)
    torch.testing.assert_close(b**2, betas[1:], rtol=1e-11, atol=0)
    assert (sde.t_min, sde.t_min_sampling, sde.t_max) == (1e-3, 1e-3, 1.0)
    assert repr(sde) == "DDPMSDE(betas=[0.0001, ..., 0.02] (1000), t_min=0.001, t_max=1, t_min_sampling=0.001)"


def test_a_user_s_table_of_beta() -> None:
    betas = [0.02, 0.3, 0.05, 0.5, 0.4]
    sde = DiscreteVPSDE(torch.tensor(betas))
    t = torch.arange(1, 6, dtype=F64) / 5
    torch.testing.assert_close(sde.alpha(t) ** 2, (1 - torch.tensor(betas, dtype=F64)).cumprod(0), rtol=1e-6, atol=0)
    # Half way log α is half way.
    middle = sde.alpha(torch.tensor(0.5, dtype=F64))
    torch.testing.assert_close(middle, (sde.alpha(t[1]) * sde.alpha(t[2])).sqrt())
    torch.testing.assert_close(sde.time(sde.log_snr(t)), t)


def test_a_ddpm_s_ancestral_step_is_the_paper_s() -> None:
    """Ho et al. 2020, algorithm 2 with σ² = β̃, eq. 7."""
    sde = DDPMSDE(10, 0.01, 0.4)
    betas = torch.linspace(0.01, 0.4, 10, dtype=F64)
    bar = (1 - betas).cumprod(0)
    times = DiscreteTime(9, 10)(sde)
    c_x, c_s, c_z = (v.flip(0) for v in Ancestral().coefficients(sde, times))
    torch.testing.assert_close(c_x, 1 / (1 - betas[1:]).sqrt())
    # ε = −σ score: c_s score = −(β/√(1 − ᾱ)) ε/√(1 − β)
    torch.testing.assert_close(c_s / sde.sigma(times[:-1]).flip(0), betas[1:] / (1 - bar[1:]).sqrt() * c_x)
    torch.testing.assert_close(c_z**2, (1 - bar[:-1]) / (1 - bar[1:]) * betas[1:])


@pytest.mark.parametrize("reverse", [False, True])
def test_a_table_of_noise_levels(reverse: Any) -> None:
    levels = [0.01, 0.05, 0.06, 1.0, 40.0]
    sde = DiscreteVESDE(levels[::-1] if reverse else levels)
    t = torch.arange(1, 6, dtype=F64) / 5
    torch.testing.assert_close(sde.sigma(t), torch.tensor(levels, dtype=F64), rtol=1e-14, atol=0)
    torch.testing.assert_close(sde.time(sde.log_snr(t)), t)
    assert repr(sde) == "DiscreteVESDE(sigmas=[0.01, ..., 40] (5), t_min=0.2, t_max=1, t_min_sampling=0.2)"


def test_a_geometric_table_is_the_ve_sde() -> None:
    table, ve = NCSNSDE(11, 0.01, 50.0), VESDE(0.01, 50.0)
    t = torch.linspace(0.1, 1, 7, dtype=F64)
    same = (11 * t - 1) / 10  # the first level is at 1/11 here, at 0 there
    torch.testing.assert_close(table.sigma(t), ve.sigma(same))
    times = DiscreteTime(10, train_steps=11)(table)
    torch.testing.assert_close(times, torch.arange(11, 0, -1, dtype=F64) / 11, rtol=1e-15, atol=0)


def test_tables_are_equal_by_their_numbers() -> None:
    model = GaussianMixtureScore([1.0], [[1.0, -0.5]], [[0.25, 0.04]], DDPMSDE(20, 1e-3, 0.5))
    assert DDPMSDE(20, 1e-3, 0.5).reverse(model).sde is model.sde
    with pytest.raises(ValueError, match="use with_sde"):
        DDPMSDE(20, 1e-3, 0.4).reverse(model)


# The reverse-time SDE


def test_reverse_drift_is_anderson_s_formula(sde: SDE, generator: torch.Generator) -> None:
    reverse = sde.reverse(gaussian(sde, (2,), (1.0, -0.5), (0.25, 0.04)))
    assert (reverse.noise_type, reverse.sde_type) == ("diagonal", "ito")
    x = torch.randn(4, 2, generator=generator, dtype=F64)
    mean, variance = torch.tensor([1.0, -0.5], dtype=F64), torch.tensor([0.25, 0.04], dtype=F64)
    for t in interior(sde, 3):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        score = (alpha * mean - x) / (alpha**2 * variance + sigma**2)
        s = sde.t_max - t
        wanted = sde.diffusion(t) ** 2 * score - sde.drift_coefficient(t) * x
        # t is recovered as t_max − s: an error of eps t_max, felt over the distance to the nearer end.
        torch.testing.assert_close(reverse.f(s, x), wanted, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(reverse.g(s, x), sde.diffusion(t).expand(4, 2), rtol=1e-9, atol=0)


def test_reverse_takes_flat_states_to_the_shape_of_the_model(planar: Mixture, generator: torch.Generator) -> None:
    sde = VPSDE()
    means, covariances = planar.means.reshape(3, 1, 2, 1), planar.full
    image = GaussianMixtureScore(planar.weights, means, covariances, sde)
    x = torch.randn(4, 2, generator=generator, dtype=F64)
    s = torch.tensor(0.4, dtype=F64)
    flat = ReverseSDE(sde, planar.model(sde)).f(s, x)
    torch.testing.assert_close(ReverseSDE(sde, image, (1, 2, 1)).f(s, x), flat)


@pytest.mark.parametrize("sde", [VPSDE(t_min=1e-3), SubVPSDE(t_min=1e-3), VESDE(sigma_max=5.0)], ids=repr)
def test_torchsde_integrates_the_reverse_sde_back_to_the_data(sde: SDE, generator: torch.Generator) -> None:
    paths = 2000
    model = gaussian(sde, (2,), (1.0, -0.5), (0.25, 0.04))
    x = model.sample(paths, sde.t_max, generator)
    times = torch.tensor([0.0, sde.t_max - sde.t_min], dtype=F64)
    motion = torchsde.BrownianInterval(*times, size=(paths, 2), dtype=F64, entropy=7, dt=1 / 250)
    with torch.no_grad():
        end = torchsde.sdeint(sde.reverse(model), x, times, bm=motion, method="euler", dt=1 / 250)[-1]
    t = torch.tensor(sde.t_min, dtype=F64)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    variance = alpha**2 * torch.tensor([0.25, 0.04], dtype=F64) + sigma**2
    mean = alpha * torch.tensor([1.0, -0.5], dtype=F64)
    # An Euler step h leaves relative errors of order h × (rate at the end): the rate g²/v is at most
    # 2 log(σ_max/σ_min) σ²/v ≤ 12.4 for VE and β/v ≤ 5 for the others where v stops changing, so that the
    # variance is off by at most 5 %; five standard errors are 16 %.
    assert ((end.mean(0) - mean).abs() < 5 * (variance / paths).sqrt()).all()
    assert ((end.var(0) / variance - 1).abs() < 5 * np.sqrt(2 / paths)).all()


def test_reverse_in_float32_stays_inside_the_interval(sde: SDE) -> Any:
    """float32 rounds t_max − s, and a network checks its interval."""

    class Strict(GaussianMixtureScore, same_field=True):
        def score(self, x: Tensor, t: Tensor, **cond: object) -> Tensor:
            return super().score(x, self.sde.check_time(t))

    part = sde.between(sde.t_min_sampling, sde.t_max)
    reverse = part.reverse(Strict([1.0], [[1.0, -0.5]], [[0.25, 0.04]], part))
    for s in (0.0, part.t_max - part.t_min):
        assert reverse.f(torch.tensor(s), torch.zeros(1, 2)).isfinite().all()


def test_help_shows_the_arguments_of_the_constructor(sde: SDE) -> None:
    shown = inspect.signature(type(sde))
    assert list(shown.parameters) == list(inspect.signature(type(sde).__init__).parameters)[1:]
    assert "args" not in shown.parameters
