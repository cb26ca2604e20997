"""Extended reverse-time SDEs: coefficients by quadrature, other solvers' as special cases, and orders."""

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp
from torch import Tensor

from scoresde.numerics.brownian import BrownianPath
from scoresde.sampling.adams import Multistep
from scoresde.sampling.er_sde import ERSDE, ERSDE1, ERSDE4, ERSDE5, NoiseScale, PowerScale
from scoresde.sampling.grids import KarrasGrid, UniformLogSNR
from scoresde.sampling.sampler import Sampler
from scoresde.sampling.solver import Noise, Solver
from scoresde.sampling.stochasticity import Eta, Stochasticity
from scoresde.score import ScoreModel
from scoresde.sde import EDMSDE, SDE, VPSDE
from scoresde.sde.coordinates import NoiseLevel, SignalLevel
from tests.problems import Mixture, gaussian, in_turn, short

F64 = torch.float64
SCALES = [PowerScale(1.0), PowerScale(1.5), PowerScale(2.0), PowerScale(2.5), ERSDE1(), ERSDE4(), ERSDE5()]
NOISY = SCALES[1:]


def levels(sde: SDE, steps: int, first: float, last: float = 0.3) -> Tensor:
    """Times at noise levels s = σ/α from `first` to `last`, uniform in λ."""
    return sde.time(torch.linspace(-math.log(first), -math.log(last), steps + 1, dtype=F64))


def silent(start: float | None = None, stop: float | None = None) -> Tensor:
    raise AssertionError("drew noise")


def final(solver: Solver, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise = silent) -> Tensor:
    for state in solver.solve(model, x, times, noise):
        x = state
    return x


# -- coefficients ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("scale", SCALES, ids=repr)
def test_coefficients(scale: NoiseScale, order: int) -> None:
    """φ₁ ∫ L_j d(1/φ) of Lagrange's polynomials, by parts and scipy; one of the steps is over four decades."""
    s = torch.tensor([900.0, 80.0, 79.0, 20.0, 3.0, 1.1, 0.9, 1e-4], dtype=F64)
    r, weights, spread = ERSDE(order, scale).coefficients(s)
    phi = {v: float(scale(torch.tensor(v, dtype=F64))) for v in s.tolist()}

    def inverse(u: float) -> float:
        return float(1 / scale(torch.tensor(math.exp(u), dtype=F64)))

    for i, (a, b) in enumerate(pairwise(s.tolist())):
        assert float(r[i]) == pytest.approx(phi[b] / phi[a], rel=1e-13)
        assert float(spread[i]) == pytest.approx(math.sqrt(max(b**2 - float(r[i]) ** 2 * a**2, 0)), abs=1e-7 * b)
        nodes = s[max(0, i - order + 1) : i + 1].flip(0).tolist()
        for j, node in enumerate(nodes):
            others = [v for v in nodes if v != node]
            basis = np.poly1d(others, r=True) / math.prod(node - v for v in others)
            slope = np.polyder(np.poly1d(basis))

            def inside(u: float, slope: np.poly1d = slope) -> float:
                return slope(math.exp(u)) * math.exp(u) * inverse(u)

            area = quad(inside, math.log(a), math.log(b), epsabs=1e-14, epsrel=1e-12, limit=200)[0]
            wanted = np.polyval(basis, b) - phi[b] * np.polyval(basis, a) / phi[a] - phi[b] * area
            assert float(weights[i, j]) == pytest.approx(wanted, rel=1e-8, abs=1e-9)
        # Constants are exact, and a prediction that does not exist yet has no weight.
        assert float(weights[i].sum()) == pytest.approx(1 - float(r[i]), abs=1e-11)
        assert not weights[i, len(nodes) :].any()


def test_four_decades_in_a_step() -> None:
    """φ₁ ∫ s d(1/φ) for φ = s^p has a closed form."""
    s = torch.tensor([1e3, 1e2, 1e-2], dtype=F64)
    for p in (1.5, 2.0, 2.5):
        _, weights, _ = ERSDE(2, PowerScale(p)).coefficients(s)
        a, b = 1e2, 1e-2
        first = p / (p - 1) * b * (1 - (b / a) ** (p - 1)) - a * (1 - (b / a) ** p)
        assert float(weights[1, 1]) == pytest.approx(-first / (1e2 - 1e3), rel=1e-11)


@pytest.mark.parametrize("scale", NOISY, ids=repr)
def test_a_factor_of_the_scale_has_no_effect(scale: NoiseScale) -> None:
    s = torch.logspace(1.5, -2, 9, dtype=F64)
    for a, b in zip(ERSDE(3, scale).coefficients(s), ERSDE(3, lambda v: 7.3 * scale(v)).coefficients(s), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


# -- special cases --------------------------------------------------------------------------------------


def pairs() -> list[Any]:
    """φ = s^p is the reverse SDE of stochasticity τ² = p − 1; at order 1, DDIM's η = 0 and DDPM's η = 1."""
    out: list[tuple[int, float, Stochasticity | float]] = [(1, 1.0, Eta(0.0)), (1, 2.0, Eta(1.0))]
    out += [(order, p, math.sqrt(p - 1)) for order in (1, 2, 3) for p in (1.0, 1.4, 2.0, 3.0)]
    return [pytest.param(*v, id=f"order={v[0]}, p={v[1]}, {v[2]!r:.8}") for v in out]


@pytest.mark.parametrize(("order", "power", "tau"), pairs())
def test_powers_are_the_multistep_family(
    sde: SDE, planar: Mixture, order: int, power: float, tau: Stochasticity | float
) -> None:
    model, times = planar.model(sde), KarrasGrid(9)(sde)
    x = model.sample(5, times[0], torch.Generator().manual_seed(0))
    data = Multistep(order, coordinate=SignalLevel(), interpolation=NoiseLevel(), tau=tau)
    # On one Brownian path, which tells their clocks apart.
    a, b = (
        torch.stack(list(solver.solve(model, x, times, BrownianPath(1, torch.arange(5), (2,), F64))))
        for solver in (ERSDE(order, PowerScale(power)), data)
    )
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_the_first_order_is_the_papers(sde: SDE, planar: Mixture) -> None:
    """Cui et al. 2023, algorithm 1, and DDIM (Song, Meng & Ermon 2021, eq. 12) for φ = s."""
    model, times = planar.model(sde), KarrasGrid(4)(sde)
    x = model.sample(3, times[0], torch.Generator().manual_seed(0))
    z = torch.randn(4, 3, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    alpha, sigma = sde.alpha(times), sde.sigma(times)
    s = sigma / alpha
    phi = s * ((s**0.3).exp() + 10)
    wanted = ddim = x
    for i in range(4):
        r, data = phi[i + 1] / phi[i], model.denoise(wanted, times[i])
        variance = s[i + 1] ** 2 - s[i] ** 2 * r**2
        wanted = alpha[i + 1] * (r * wanted / alpha[i] + (1 - r) * data + variance.sqrt() * z[i])
        data = model.denoise(ddim, times[i])
        ddim = alpha[i + 1] * data + sigma[i + 1] / sigma[i] * (ddim - alpha[i] * data)
    given = iter(z)
    got = final(ERSDE(1), model, x, times, lambda *_: next(given))
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(final(ERSDE(1, PowerScale(1.0)), model, x, times), ddim, rtol=1e-9, atol=1e-9)


def test_the_ode_draws_no_noise(sde: SDE, planar: Mixture) -> None:
    """Not even of the size of round-off."""
    model = planar.model(sde)
    for grid in (UniformLogSNR(37), KarrasGrid(23)):
        for order in (1, 3):
            times = grid(sde)
            final(ERSDE(order, PowerScale(1.0)), model, model.sample(2, times[0]), times)


# -- orders ---------------------------------------------------------------------------------------------


@lru_cache
def smooth_problem() -> tuple[Tensor, Tensor]:
    """x/α at s = 80, where the data prediction is flat, and at s = 0.3, from d(x/α)/ds = ε."""
    model = Mixture("full", (2,)).model(EDMSDE())
    x = model.sample(6, 80.0, torch.Generator().manual_seed(0))

    def slope(s: float, y: Any) -> Any:
        return model.noise(torch.from_numpy(y).reshape(x.shape), torch.tensor(s, dtype=F64)).numpy().ravel()

    out = solve_ivp(slope, (80.0, 0.3), x.numpy().ravel(), method="DOP853", rtol=1e-12, atol=1e-13)
    return x, torch.from_numpy(out.y[:, -1]).reshape(x.shape)


@pytest.mark.parametrize("kind", [VPSDE, EDMSDE])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_order_on_the_ode(planar: Mixture, order: int, kind: Callable[[], SDE]) -> None:
    sde = kind()
    model, (x, truth), errors = planar.model(sde), smooth_problem(), []
    for steps in (160, 320):
        times = levels(sde, steps, 80.0)
        first, last = sde.alpha(times[[0, -1]])
        end = final(ERSDE(order, PowerScale(1.0)), model, first * x, times)
        errors.append(float((end / last - truth).square().mean().sqrt()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)
    assert errors[1] < 10 ** -(order + 1)


class Units:
    """Draw k is 1 in row k and 0 elsewhere: the state's rows are then its coefficients."""

    def __init__(self, size: int) -> None:
        self.eye = torch.eye(size, dtype=F64)[:, :, None]
        self.draws = 0

    def __call__(self, start: float | None = None, stop: float | None = None) -> Tensor:
        self.draws += 1
        return self.eye[self.draws]


def variance_error(solver: ERSDE, sde: SDE, times: Tensor, variance: float) -> float:
    """Relative error of the final variance for N(0, variance) data: exact, since the solver is linear in the noise."""
    first, last = (variance * sde.alpha(times[[0, -1]]) ** 2 + sde.sigma(times[[0, -1]]) ** 2).tolist()
    units = Units(len(times))
    end = final(solver, gaussian(sde, (1,), 0.0, variance), math.sqrt(first) * units.eye[0], times, units)
    return float(end.square().sum()) / last - 1


@pytest.mark.parametrize(("order", "scale", "sde"), in_turn([1, 3], SCALES), ids=short)
def test_one_point_is_reproduced_exactly(sde: SDE, order: int, scale: NoiseScale) -> None:
    """Data at a point has a constant D: whatever the steps, the variance of the marginal is exact for every φ."""
    for steps in (1, 4):
        assert abs(variance_error(ERSDE(order, scale), sde, levels(sde, steps, 40.0, 0.02), 0.0)) < 1e-9


@pytest.mark.parametrize("kind", [VPSDE, EDMSDE])
@pytest.mark.parametrize("scale", NOISY, ids=repr)
@pytest.mark.parametrize(("order", "weak"), [(1, 1), (2, 2), (3, 2)])
def test_weak_order(scale: NoiseScale, order: int, weak: int, kind: Callable[[], SDE]) -> None:
    """Of the variance of a Gaussian; the third order's leading term is so small that only its size can be told."""
    sde = kind()
    errors = [abs(variance_error(ERSDE(order, scale), sde, levels(sde, n, 80.0), 0.3)) for n in (160, 320)]
    if order < 3 or scale == PowerScale(2.0):
        assert math.log2(errors[0] / errors[1]) == pytest.approx(weak, abs=0.2)
    assert errors[1] < (0.03, 5e-4, 1e-4)[order - 1]


@pytest.mark.slow
@pytest.mark.parametrize("scale", [PowerScale(2.0), ERSDE4(), ERSDE5()], ids=repr)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_strong_order_one(planar: Mixture, scale: NoiseScale, order: int) -> None:
    """On one Brownian path, to the same limit at every order."""
    model, n = planar.model(EDMSDE()), 64
    x = model.sample(n, 5.0, torch.Generator().manual_seed(0))

    def end(order: int, steps: int) -> Tensor:
        path = BrownianPath(2, torch.arange(n), (2,), F64)
        return final(ERSDE(order, scale), model, x, levels(model.sde, steps, 5.0), path)

    ends = [end(order, steps) for steps in (16, 32, 64, 128)]
    changes = [float((a - b).square().mean().sqrt()) for a, b in pairwise(ends)]
    assert math.log2(changes[0] / changes[-1]) / 2 == pytest.approx(1, abs=0.25)
    assert float((ends[-1] - end(4 - order, 128)).square().mean().sqrt()) < 2 * changes[-1] + 0.01


# -- batches, dtypes, counts, mistakes ------------------------------------------------------------------


def test_bad_arguments() -> None:
    for order in (0, 4, 1.5):
        with pytest.raises(ValueError, match=f"^order is {order}, expected (1, 2 or 3|an integer)$"):
            ERSDE(order)  # type: ignore[arg-type]
    for power in (0.99, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"^the power of a noise scale is {power}, expected at least 1"):
            PowerScale(power)
    s = torch.tensor([3000.0, 1500.0, 10.0], dtype=F64)
    with pytest.raises(ValueError, match=r"has φ\(s\)/s larger at s = 1500 than at s = 3000: it must not decrease"):
        ERSDE(2, ERSDE4()).coefficients(s)
    ERSDE(2, ERSDE4()).coefficients(s / 3)
    bad: list[Callable[[Tensor], Tensor]] = [
        lambda s: s - 100,
        lambda s: s * torch.nan,
        lambda s: s / 0,
        lambda s: s[:1],
    ]
    for scale in bad:
        with pytest.raises(ValueError, match="is not positive and finite at all noise levels of the grid$"):
            ERSDE(1, scale).coefficients(s)
    with pytest.raises(ValueError, match="it must not decrease with s"):
        Sampler(ERSDE(1, torch.sqrt), KarrasGrid(5))(gaussian(EDMSDE(), (1,), 0.0, 1.0), (2, 1))
