"""Every grid under every SDE: exact ends, strictly decreasing, and the property it is named after."""

import math
import re

import pytest
import torch
from torch import Tensor

from scoresde.sampling.grids import (
    DataStraight,
    DiscreteTime,
    ExplicitTimes,
    Grid,
    KarrasGrid,
    QuadraticTime,
    UniformAngle,
    UniformLogSNR,
    UniformStraight,
    UniformTime,
    UniformVariable,
    VEGrid,
    VPGrid,
)
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE, ErasureVPSDE
from scoresde.sde.coordinates import LogSNR, NoiseLevel, SignalLevel
from scoresde.statistics import Statistics

CONTINUOUS = [UniformTime, QuadraticTime, UniformLogSNR, UniformAngle, UniformStraight, VEGrid, VPGrid, KarrasGrid]


def spread(kind: type[Grid], sde: SDE, t: Tensor) -> Tensor:
    """The variable in which a grid is uniform."""
    if kind is UniformTime:
        return t
    if kind is QuadraticTime:
        return t.sqrt()
    relative = sde.sigma(t) / sde.alpha(t)
    if kind is UniformAngle:
        return relative.atan()
    if kind is UniformStraight:
        return relative / (1 + relative)
    if kind is VPGrid:  # s² = exp(β_d t²/2 + β_min t) − 1, solved for t
        integral = torch.log1p(relative**2)
        return 2 * integral / (0.1 + (0.01 + 2 * 19.9 * integral).sqrt())
    return relative ** (1 / 7) if kind is KarrasGrid else relative.log()


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


@pytest.mark.parametrize("std", [0.3, 2.0])
def test_std_shifts_the_middle(sde: SDE, std: float) -> None:
    """Half of the range of θ = arctan(s/d), or of u = s/(d + s), is reached after half of the steps."""
    for grid, variable in (
        (UniformAngle(8, std), lambda s: (s / std).atan()),
        (UniformStraight(8, std), lambda s: s / (std + s)),
    ):
        times = grid(sde)
        w = variable(sde.sigma(times) / sde.alpha(times))
        torch.testing.assert_close(w[4], (w[0] + w[8]) / 2, rtol=1e-9, atol=0)
    with pytest.raises(ValueError, match="expected a positive number"):
        UniformAngle(8, 0.0)


def test_uniform_in_any_coordinate(sde: SDE) -> None:
    assert torch.equal(UniformVariable(9, LogSNR())(sde), UniformLogSNR(9)(sde))
    times = UniformVariable(9, NoiseLevel())(sde)
    gaps = (sde.sigma(times) / sde.alpha(times)).diff()
    torch.testing.assert_close(gaps, gaps.mean().expand_as(gaps), rtol=1e-7, atol=0)
    times = UniformVariable(9, SignalLevel(), t_min=sde.t_max / 2)(sde)
    gaps = (sde.alpha(times) / sde.sigma(times)).diff()
    torch.testing.assert_close(gaps, gaps.mean().expand_as(gaps), rtol=1e-7, atol=0)


def test_edm_discretisations() -> None:
    """Karras et al. 2022, table 1: VP has t_i = 1 + i/(N − 1) (ε_s − 1), VE has t_i = σ² geometric."""
    i = torch.arange(8, dtype=torch.float64)
    torch.testing.assert_close(VPGrid(7)(VPSDE()), 1 + i / 7 * (1e-3 - 1), rtol=1e-9, atol=0)
    sde = EDMSDE(0.02, 100.0)
    torch.testing.assert_close(VEGrid(7)(sde) ** 2, 100.0**2 * (0.02**2 / 100.0**2) ** (i / 7))
    # Under EDM's own SDE the VP grid is σ(t) = √(exp(β_d t²/2 + β_min t) − 1) at times uniform between the ends.
    times = VPGrid(7, beta_min=0.2, beta_max=15.0)(sde)
    t = VPSDE(0.2, 15.0, t_max=2.0).time(-times.log())
    torch.testing.assert_close(times, torch.expm1(0.5 * 14.8 * t**2 + 0.2 * t).sqrt(), rtol=1e-9, atol=0)
    torch.testing.assert_close(t.diff(), (t[-1] - t[0]).expand(7) / 7, rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", CONTINUOUS)
@pytest.mark.parametrize("steps", [0, -1, 2.5, True, math.nan])
def test_bad_steps(kind: type[Grid], steps: float) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (nan has Python's own message)
        kind(steps)  # type: ignore[call-arg, arg-type]


def test_whole_floats_are_steps() -> None:
    assert UniformTime(4.0)(VPSDE()).shape == (5,)  # type: ignore[arg-type]
    assert repr(UniformTime(4)) == "UniformTime(steps=4)"
    assert repr(KarrasGrid(4, t_min=0.1)) == "KarrasGrid(steps=4, t_min=0.1, rho=7.0)"
    assert repr(UniformVariable(4, LogSNR())) == "UniformVariable(steps=4, coordinate=LogSNR())"


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


@pytest.mark.parametrize("count", [2, 3, 4, 5, 7, 8, 10, 11, 50, 333, 501, 999, 1000])
def test_discrete_spacings(count: int) -> None:
    """Lin et al. 2024, table 2, with S = steps + 1 and T = 1000; every level at most once."""
    stride = 1000 / count
    wanted = {
        "trailing": [round(1000 - k * stride) for k in range(count)],
        "leading": [1 + k * (1000 // count) for k in range(count)][::-1],
        "linspace": [round(1000 - k * 999 / (count - 1)) for k in range(count)],
    }
    for spacing, expected in wanted.items():
        assert levels(DiscreteTime(count - 1, spacing=spacing)) == expected
        assert len(set(expected)) == count


def test_discrete_table() -> None:
    """The same for S = 10, as numbers."""
    assert levels(DiscreteTime(9, spacing="leading")) == [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]
    assert levels(DiscreteTime(9, spacing="linspace")) == [1000, 889, 778, 667, 556, 445, 334, 223, 112, 1]
    assert levels(DiscreteTime(9, spacing="trailing")) == [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100]


def test_discrete_limits() -> None:
    # One level for each step and one for the denoising: every level once.
    for spacing in ("trailing", "leading", "linspace"):
        assert levels(DiscreteTime(999, spacing=spacing)) == list(range(1000, 0, -1))
    with pytest.raises(ValueError, match="expected fewer than train_steps = 1000"):
        DiscreteTime(1000)
    with pytest.raises(ValueError, match="expected 'trailing', 'leading' or 'linspace'"):
        DiscreteTime(10, spacing="uniform")


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_discrete_levels_stay_inside(sde: SDE, spacing: str) -> None:
    """Ends that cut levels off leave the rest, never a time twice."""
    for steps in (1, 5, 37, 200):
        t_min, t_max = 0.3 * sde.t_max, 0.9 * sde.t_max
        times = DiscreteTime(steps, spacing=spacing, t_min=t_min, t_max=t_max)(sde)
        level = times / sde.t_max * 1000
        assert times.shape == (steps + 1,)
        torch.testing.assert_close(level, level.round(), rtol=0, atol=1e-6)
        assert bool((times.diff() < 0).all())
        assert float(level[-1]) > 300 - 1e-6
        assert float(level[0]) < 900 + 1e-6
    assert DiscreteTime(3, t_max=0.9)(VPSDE()).tolist() == [0.9, 0.675, 0.45, 0.225]
    assert DiscreteTime(3, spacing="leading")(VPSDE().between(0.01, 1.0))[-1] == 0.01
    with pytest.raises(ValueError, match=r"needs 42 of the 1000 levels, but 41 are between t_min=0.5 and t_max=0.54"):
        DiscreteTime(41, spacing=spacing, t_min=0.5, t_max=0.54)(VPSDE())


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
    for bad, where in (
        ([0.1, 0.5], "t_max is 0.1, t_min is 0.5"),
        ([0.9, 0.5, 0.5, 0.1], "time 1 is 0.5, time 2 is 0.5"),
        ([0.9, 0.1, 0.5, 0.05], "time 1 is 0.1, time 2 is 0.5"),
    ):
        with pytest.raises(ValueError, match=f"do not decrease: {where}"):
            ExplicitTimes(bad)(VPSDE())
    for bad, where in (
        ([1.5, 0.1], "t_max of ExplicitTimes(steps=1, t_min=0.1, t_max=1.5) is 1.5"),
        ([0.9, math.nan, 0.1], "time 1 of ExplicitTimes(steps=2, t_min=0.1, t_max=0.9) is nan"),
        ([0.5, 0.0], "t_min of ExplicitTimes(steps=1, t_min=0.0, t_max=0.5) is 0"),
        ([0.9, math.inf, 0.1], "is inf"),
    ):
        with pytest.raises(ValueError, match=re.escape(f"{where}, outside [1e-05, 1] of VPSDE")):
            ExplicitTimes(bad)(VPSDE())


def test_an_error_is_one_short_line() -> None:
    for bad in ([0.001 * k for k in range(1000)], [0.9] * 1000, [math.nan] * 1000):
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            ExplicitTimes(bad)(VPSDE())
        assert len(str(caught.value)) < 300
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("steps", "fraction", "top", "narrow"),
    [
        (6, 1 / 3, 0.05, 0.05),
        (9, 1 / 3, 0.05, 0.1),
        (14, 1 / 3, 0.05, 0.15),
        (15, 0.25, 0.1, 0.15),
        (24, 0.25, 0.1, 0.15),
        (200, 0.2, 0.25, 0.15),
    ],
)
def test_values_for_steps(sde: SDE, steps: int, fraction: float, top: float, narrow: float) -> None:
    known = Statistics(torch.zeros(2), 0.7, torch.diag(torch.tensor([1.0, 0.001], dtype=torch.float64)))
    times = DataStraight(steps)(sde, known)
    assert torch.equal(times, DataStraight(steps, fraction, top=top, narrow=narrow)(sde, known))
    assert not torch.equal(times, DataStraight(steps, fraction, top=top)(sde, known))
    # What is given is taken.
    assert torch.equal(DataStraight(steps, 0.5)(sde, known), DataStraight(steps, 0.5, top=0.0, bend=0.0)(sde, known))
    assert not torch.equal(DataStraight(steps, top=0.2)(sde, known), times)


@pytest.mark.parametrize(("steps", "fraction"), [(5, 1 / 3), (20, 0.3), (40, 0.25)])
def test_the_scale_of_the_data(sde: SDE, steps: int, fraction: float) -> None:
    """Uniform in s/(d + s) with d a part of the largest standard deviation in any direction, here of (1, 1)."""
    covariance = torch.tensor([[2.5, 1.5], [1.5, 2.5]], dtype=torch.float64)  # variances 4 and 1
    known = Statistics(torch.zeros(2), 2.5**0.5, covariance)
    grid = DataStraight(steps, fraction)
    torch.testing.assert_close(grid(sde, known), UniformStraight(steps, 2 * fraction)(sde), rtol=1e-12, atol=0)
    # Three times the mean one stands for a largest one that is not known.
    rough = Statistics(torch.zeros(2), 0.7)
    torch.testing.assert_close(grid(sde, rough), UniformStraight(steps, 3 * 0.7 * fraction)(sde), rtol=1e-12, atol=0)
    torch.testing.assert_close(grid(sde), UniformStraight(steps, 3 * fraction)(sde), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("steps", "top", "bend"), [(40, 0.04, 0.3), (12, 0.3, 0.0), (200, 0.0, 0.9), (3, 0.9, 0.1)])
def test_shares_of_the_steps_are_even_in_logarithm_and_angle(sde: SDE, steps: int, top: float, bend: float) -> None:
    known = Statistics(torch.zeros(2), 1.0, torch.eye(2, dtype=torch.float64))
    times = DataStraight(steps, 0.25, top=top, bend=bend)(sde, known)
    assert times[0] == sde.t_max
    assert times[-1] == sde.t_min_sampling
    assert bool((times.diff() < 0).all())
    s = (-sde.log_snr(times)).exp() / 0.25
    u, angle, y = (v / v[0] for v in ((w - w[-1]) for w in (s / (1 + s), s.atan(), s.log1p())))
    mean = (1 - top) * ((1 - bend) * u + bend * angle) + top * y
    torch.testing.assert_close(mean, torch.linspace(1, 0, steps + 1, dtype=torch.float64), rtol=0, atol=1e-8)


@pytest.mark.parametrize(("variance", "width"), [(1e-2, 0.1), (1e-8, None)], ids=["wide", "below the last level"])
def test_a_share_of_the_steps_is_where_directions_are_narrow(sde: SDE, variance: float, width: float | None) -> None:
    known = Statistics(torch.zeros(2), 0.7, torch.diag(torch.tensor([1.0, variance], dtype=torch.float64)))
    times = DataStraight(30, 0.5, top=0.1, narrow=0.2)(sde, known)
    s = (-sde.log_snr(times)).exp()
    w = 2 * s[-1] if width is None else width
    u, y, narrow = (v / v[0] for v in ((v - v[-1]) for v in (s / (0.5 + s), (s / 0.5).log1p(), s / (w + s))))
    even = torch.linspace(1, 0, 31, dtype=torch.float64)
    torch.testing.assert_close(0.8 * (0.9 * u + 0.1 * y) + 0.2 * narrow, even, rtol=0, atol=1e-8)


def test_no_share_where_no_direction_is_narrow(sde: SDE) -> None:
    for known in (
        None,
        Statistics(torch.zeros(2), 0.7),
        Statistics(torch.zeros(2), 0.8, torch.diag(torch.tensor([1.0, 0.2**2], dtype=torch.float64))),
    ):
        with_share, without = (DataStraight(9, 0.5, top=0.1, narrow=n)(sde, known) for n in (0.2, 0.0))
        assert torch.equal(with_share, without)
    # However far up the grid bends, nothing counts as narrow where no width is known.
    for known in (None, Statistics(torch.zeros(2), 0.7)):
        with_share, without = (DataStraight(9, 6.0, top=0.1, narrow=n)(sde, known) for n in (0.2, 0.0))
        assert torch.equal(with_share, without)


def test_bad_shares_and_fractions() -> None:
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="fraction is .*, expected a positive number"):
            DataStraight(5, bad)
    for bad in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="top is .*, expected a share from 0 to below 1"):
            DataStraight(30, top=bad)
        with pytest.raises(ValueError, match="bend is .*, expected a share from 0 to below 1"):
            DataStraight(30, bend=bad)
        with pytest.raises(ValueError, match="narrow is .*, expected a share from 0 to below 1"):
            DataStraight(30, narrow=bad)


@pytest.mark.parametrize("kind", [*CONTINUOUS, DataStraight])
@pytest.mark.filterwarnings("error")
def test_times_under_rates_in_training_have_no_graph(kind: type[Grid]) -> None:
    sde = ErasureVPSDE(20, learned=True)
    assert sde.sigma(torch.tensor(0.5)).requires_grad
    times = kind(8)(sde)
    assert not times.requires_grad
    assert torch.allclose(times, kind(8)(ErasureVPSDE(20)), rtol=1e-5)
