"""Every grid under every SDE: exact ends, strictly decreasing, and the property it is named after."""

import math

import pytest
import torch
from torch import Tensor

from scoresde.sampling.grids import (
    DiscreteTime,
    ExplicitTimes,
    Grid,
    KarrasGrid,
    QuadraticTime,
    UniformLogSNR,
    UniformTime,
)
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE

CONTINUOUS = [UniformTime, QuadraticTime, UniformLogSNR, KarrasGrid]


def spread(kind: type[Grid], sde: SDE, t: Tensor) -> Tensor:
    """The variable in which a grid is uniform."""
    if kind is UniformTime:
        return t
    if kind is QuadraticTime:
        return t.sqrt()
    relative = sde.sigma(t) / sde.alpha(t)
    return relative.log() if kind is UniformLogSNR else relative ** (1 / 7)


@pytest.mark.parametrize("kind", CONTINUOUS)
@pytest.mark.parametrize("steps", [1, 2, 37])
def test_uniform_in_its_variable(sde: SDE, kind: type[Grid], steps: int) -> None:
    times = kind(steps)(sde)
    assert times.dtype == torch.float64
    assert times.device.type == "cpu"
    assert times.shape == (steps + 1,)
    assert times[0] == sde.t_max
    assert times[-1] == sde.t_min_sampling
    assert bool((times.diff() < 0).all())
    gaps = spread(kind, sde, times).diff()
    torch.testing.assert_close(gaps, gaps.mean().expand_as(gaps), rtol=1e-7, atol=0)


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_own_ends(sde: SDE, kind: type[Grid]) -> None:
    low = sde.t_min + 0.25 * (sde.t_max - sde.t_min)
    high = sde.t_min + 0.75 * (sde.t_max - sde.t_min)
    times = kind(5, t_min=low, t_max=high)(sde)
    assert times[0] == high
    assert times[-1] == low
    # The likelihood's t_min, below t_min_sampling, is inside as well.
    assert kind(5, t_min=sde.t_min)(sde)[-1] == sde.t_min


@pytest.mark.parametrize("rho", [0.5, 1.0, 3.0, 20.0])
def test_karras_formula(rho: float) -> None:
    # Karras et al. 2022, eq. 5, written out for σ(t) = t.
    n, low, high = 12, 0.002, 80.0
    i = torch.arange(n + 1, dtype=torch.float64)
    wanted = (high ** (1 / rho) + i / n * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    # At ρ < 1 the small times are differences of large numbers in this formula.
    torch.testing.assert_close(KarrasGrid(n, rho)(EDMSDE()), wanted, rtol=1e-9, atol=1e-9)


def test_large_rho_tends_to_uniform_log_snr(sde: SDE) -> None:
    a, b = KarrasGrid(9, 1e4)(sde), UniformLogSNR(9)(sde)
    torch.testing.assert_close(sde.log_snr(a), sde.log_snr(b), rtol=0, atol=5e-3)


@pytest.mark.parametrize("kind", CONTINUOUS)
@pytest.mark.parametrize("steps", [0, -1, 2.5, True, math.nan])
def test_bad_steps(kind: type[Grid], steps: float) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (nan has Python's own message)
        kind(steps)  # type: ignore[call-arg, arg-type]


def test_whole_floats_are_steps() -> None:
    assert UniformTime(4.0)(VPSDE()).shape == (5,)  # type: ignore[arg-type]
    assert repr(UniformTime(4)) == "UniformTime(steps=4)"


@pytest.mark.parametrize("kind", CONTINUOUS)
@pytest.mark.parametrize("ends", [{"t_min": 1e-6}, {"t_max": 1.1}, {"t_min": -0.1}, {"t_max": math.nan}])
def test_ends_outside_the_interval(kind: type[Grid], ends: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"outside \[1e-05, 1\]"):
        kind(5, **ends)(VPSDE())  # type: ignore[call-arg, arg-type]


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_ends_the_wrong_way_round(kind: type[Grid]) -> None:
    with pytest.raises(ValueError, match="do not decrease"):
        kind(5, t_min=0.8, t_max=0.2)(VPSDE())  # type: ignore[call-arg]


def test_bad_rho() -> None:
    for rho in (0.0, -7.0, math.nan):
        with pytest.raises(ValueError, match="expected a positive number"):
            KarrasGrid(5, rho)


def levels(grid: Grid) -> list[int]:
    values = grid(VPSDE()) * 1000
    torch.testing.assert_close(values, values.round(), rtol=0, atol=1e-9)
    return [int(v) for v in values.round()]


def test_discrete_spacings() -> None:
    # Lin et al. 2024, table 2, with S = steps + 1 levels in T = 1000: trailing is round(arange(T, 0, −T/S)),
    # leading is arange(1, T + 1, floor(T/S)); the last one is where the final denoising happens.
    for count in (2, 4, 5, 8, 10, 50):
        stride = 1000 / count
        assert levels(DiscreteTime(count - 1)) == [round(1000 - k * stride) for k in range(count)]
        leading = list(range(1, 1001, 1000 // count))[:count]
        assert levels(DiscreteTime(count - 1, spacing="leading")) == leading[::-1]


def test_discrete_limits(sde: SDE) -> None:
    # One level for each step and one for the denoising: every level once.
    assert levels(DiscreteTime(999)) == list(range(1000, 0, -1))
    assert levels(DiscreteTime(999, spacing="leading")) == list(range(1000, 0, -1))
    with pytest.raises(ValueError, match="expected fewer than train_steps = 1000"):
        DiscreteTime(1000)
    with pytest.raises(ValueError, match="expected 'trailing' or 'leading'"):
        DiscreteTime(10, spacing="linspace")


def test_discrete_ends_are_clamped() -> None:
    assert DiscreteTime(3, t_max=0.9)(VPSDE()).tolist() == [0.9, 0.75, 0.5, 0.25]
    assert DiscreteTime(3, spacing="leading")(VPSDE().between(0.01, 1.0))[-1] == 0.01


def test_discrete_starts_from_the_noisiest_time(sde: SDE) -> None:
    """Under any SDE the trailing grid begins where the prior is: level T is t_max."""
    assert float(DiscreteTime(10)(sde)[0]) == pytest.approx(sde.t_max)


def test_explicit_times() -> None:
    times = ExplicitTimes([0.9, 0.5, 0.1])
    assert times.steps == 2
    assert times(VPSDE()).tolist() == [0.9, 0.5, 0.1]
    assert ExplicitTimes(torch.tensor([1.0, 0.0]))(VESDE()).tolist() == [1.0, 0.0]  # type: ignore[arg-type]


def test_explicit_errors() -> None:
    for few in ([], [0.5]):
        with pytest.raises(ValueError, match=f"got {len(few)} times, expected at least two"):
            ExplicitTimes(few)
    for bad in ([0.1, 0.5], [0.9, 0.5, 0.5, 0.1], [0.9, 0.1, 0.5, 0.05]):
        with pytest.raises(ValueError, match="do not decrease"):
            ExplicitTimes(bad)(VPSDE())
    for bad in ([1.5, 0.1], [0.9, math.nan, 0.1], [0.5, 0.0]):
        with pytest.raises(ValueError, match="outside"):
            ExplicitTimes(bad)(VPSDE())
