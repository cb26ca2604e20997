import math

import mpmath
import pytest
import torch
from torch import Tensor

from scoresde.sde import (
    DDPMSDE,
    EDMSDE,
    NCSNSDE,
    SDE,
    VESDE,
    VPSDE,
    CosineSDE,
    ErasureVPSDE,
    FlowSDE,
    ShiftedSDE,
    SubVPSDE,
    resolution_shift,
)
from tests.sde.test_sde import exact, grid

F64 = torch.float64
FACTORS = [0.25, 1.0, 3.0, 40.0]
SHIFTED = [VPSDE(), SubVPSDE(), VESDE(), CosineSDE(), EDMSDE(), FlowSDE(), DDPMSDE(), NCSNSDE(18, 0.01, 50.0)]


def times(sde: SDE) -> Tensor:
    return torch.tensor([sde.t_min, 1.5 * sde.t_min + 1e-4, 0.3 * sde.t_max, 0.8 * sde.t_max, sde.t_max], dtype=F64)


def closed_form(sde: SDE, factor: float, t: float) -> tuple[mpmath.mpf, mpmath.mpf]:
    """(α, σ) with k times the noise level, by what the kind of SDE keeps, at 50 digits."""
    alpha, sigma = exact(sde, mpmath.mpf(t))
    level = factor * sigma / alpha
    if isinstance(sde, FlowSDE):
        return 1 / (1 + level), level / (1 + level)
    if isinstance(sde, VESDE | EDMSDE | NCSNSDE):
        return mpmath.mpf(1), level
    if isinstance(sde, SubVPSDE):  # (1 − α²)/α is the level
        alpha = 2 / (level + mpmath.sqrt(level**2 + 4))
        return alpha, level * alpha
    return 1 / mpmath.sqrt(1 + level**2), level / mpmath.sqrt(1 + level**2)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("sde", SHIFTED, ids=lambda s: type(s).__name__)
def test_scales_are_those_of_the_kind_at_a_level_k_times_as_high(sde: SDE, factor: float) -> None:
    shifted = ShiftedSDE(sde, factor)
    for dtype, eps in ((F64, 2e-15), (torch.float32, 2e-7)):
        t = times(sde).to(dtype).clamp(sde.t_min, sde.t_max)
        for at, a, s, lam in zip(
            t.tolist(), shifted.alpha(t).tolist(), shifted.sigma(t).tolist(), shifted.log_snr(t).tolist(), strict=True
        ):
            alpha, sigma = closed_form(sde, factor, at)
            scale = 4 * (1 + abs(math.log(factor)) + abs(float(mpmath.log(sigma / alpha))))
            assert abs(a / alpha - 1) <= eps * scale * (1 + abs(float(mpmath.log(alpha)))), (at, a)
            assert abs(s / sigma - 1) <= eps * scale, (at, s)
            assert abs(lam - mpmath.log(alpha / sigma)) <= eps * scale


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("sde", SHIFTED, ids=lambda s: type(s).__name__)
def test_drift_and_diffusion_are_derivatives_of_the_scales(sde: SDE, factor: float) -> None:
    shifted = ShiftedSDE(sde, factor)
    t = torch.tensor([0.0135, 0.3105, 0.7775], dtype=F64)  # between the entries of a table
    t = t * sde.t_max
    for at, f, g in zip(t.tolist(), shifted.drift_coefficient(t).tolist(), shifted.diffusion(t).tolist(), strict=True):
        point = mpmath.mpf(at)
        wanted_f = mpmath.diff(lambda s: mpmath.log(closed_form(sde, factor, s)[0]), point)
        sigma = closed_form(sde, factor, at)[1]
        wanted_g2 = mpmath.diff(lambda s: closed_form(sde, factor, s)[1] ** 2, point) - 2 * wanted_f * sigma**2
        assert abs(f - wanted_f) <= 1e-12 * abs(wanted_f) + mpmath.mpf(10) ** -20
        assert abs(g - mpmath.sqrt(wanted_g2)) <= 1e-12 * mpmath.sqrt(wanted_g2)


@pytest.mark.parametrize("sde", SHIFTED, ids=lambda s: type(s).__name__)
def test_time_inverts_and_transitions_compose(sde: SDE) -> None:
    shifted = ShiftedSDE(sde, 5.0)
    t = times(sde)
    torch.testing.assert_close(shifted.time(shifted.log_snr(t)), t, rtol=1e-10, atol=1e-14)
    early, late = t[1], t[3]
    ratio, spread = shifted.transition(late, early)
    torch.testing.assert_close(ratio * shifted.alpha(early), shifted.alpha(late))
    whole = torch.hypot(ratio * shifted.sigma(early), spread)
    torch.testing.assert_close(whole, shifted.sigma(late))
    assert shifted.alpha(t.float()).dtype == torch.float32


def test_shift_of_timesteps_of_stable_diffusion_3() -> None:
    # Esser et al. 2024, eq. 23, with √(m/n) = 3.
    sde, t = ShiftedSDE(FlowSDE(), 3.0), torch.linspace(0.001, 0.999, 11, dtype=F64)
    torch.testing.assert_close(sde.sigma(t), 3 * t / (1 + 2 * t))
    torch.testing.assert_close(sde.alpha(t) + sde.sigma(t), torch.ones(11, dtype=F64))


def test_shift_of_the_log_snr_of_simple_diffusion() -> None:
    # Hoogeboom et al. 2023: log SNR + 2 log(64/d), with log SNR = 2 λ, for images of d = 256 pixels.
    sde, base = ShiftedSDE(CosineSDE(), resolution_shift((3, 256, 256), (3, 64, 64))), CosineSDE()
    t = torch.linspace(base.t_min, base.t_max, 9, dtype=F64)
    torch.testing.assert_close(2 * sde.log_snr(t), 2 * base.log_snr(t) + 2 * math.log(64 / 256))
    torch.testing.assert_close(sde.alpha(t) ** 2 + sde.sigma(t) ** 2, torch.ones(9, dtype=F64))


def test_interval_equality_and_text() -> None:
    sde = ShiftedSDE(VPSDE(), 2.0)
    assert (sde.t_min, sde.t_max, sde.t_min_sampling) == (1e-5, 1.0, 1e-3)
    assert sde == ShiftedSDE(VPSDE(), 2.0) != ShiftedSDE(VPSDE(), 2.5)
    assert sde != ShiftedSDE(VPSDE(beta_max=19.0), 2.0)
    assert sde != VPSDE()
    assert hash(sde) == hash(ShiftedSDE(VPSDE(), 2.0))
    shorter = sde.between(0.01, 0.5)
    assert (shorter.t_min, shorter.t_max) == (0.01, 0.5)
    assert isinstance(shorter, ShiftedSDE)
    assert repr(sde) == (
        "ShiftedSDE(sde=VPSDE(t_min=1e-05, t_max=1, t_min_sampling=0.001, beta_min=0.1, beta_max=20), factor=2, "
        "t_min=1e-05, t_max=1, t_min_sampling=0.001)"
    )


def test_a_shift_by_one_changes_nothing_but_the_class() -> None:
    t = grid(VPSDE())
    torch.testing.assert_close(ShiftedSDE(VPSDE(), 1.0).sigma(t), VPSDE().sigma(t), rtol=1e-13, atol=0)


def test_what_cannot_be_shifted_is_refused() -> None:
    for factor in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="factor"):
            ShiftedSDE(VPSDE(), factor)
    with pytest.raises(ValueError, match="by the product 6"):
        ShiftedSDE(ShiftedSDE(VPSDE(), 2.0), 3.0)
    with pytest.raises(ValueError, match="learned rates"):
        ShiftedSDE(ErasureVPSDE(10, learned=True), 2.0)
    assert resolution_shift((1, 16, 64), (1, 16, 16)) == 2.0
    for shapes in (((3, 8, 8), (8, 8)), ((3,), (3,)), ((3, 0, 8), (3, 8, 8))):
        with pytest.raises(ValueError, match="two shapes"):
            resolution_shift(*shapes)
