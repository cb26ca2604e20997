"""scipy and torchsde as solvers."""

import itertools
import math
from functools import lru_cache
from typing import Any, Literal

import pytest
import torch
from scipy.integrate import DOP853
from torch import Tensor

from scoresde.sampling import (
    DPMSolverPP,
    EulerMaruyama,
    Heun,
    NonFiniteError,
    PredictorCorrector,
    Sampler,
    ScipyODE,
    TorchSDE,
    UniformLogSNR,
    UniformTime,
)
from scoresde.score import GaussianMixtureScore, ScoreModel
from scoresde.sde import EDMSDE, SDE, VPSDE
from tests.problems import blobs, gaussian, in_turn, short

F64 = torch.float64
pytestmark = pytest.mark.filterwarnings("ignore:Numerical solution is not guaranteed")


def test_scipy_agrees_with_heun(sde: SDE) -> None:
    model = blobs(sde, (2,), 2)
    z = model.sample(4, sde.t_max, torch.Generator().manual_seed(0))
    grid = UniformLogSNR(300)
    fine = Sampler(Heun(), grid)(model, x_init=z, trajectory=True)
    scipy = Sampler(ScipyODE(rtol=1e-7, atol=1e-9), grid)(model, x_init=z, trajectory=True)
    assert fine.trajectory is not None
    assert scipy.trajectory is not None
    # Heun's own error, second order in λ; the trajectory is compared in units of its spread at each time.
    scale = fine.trajectory.std(dim=(1, 2), keepdim=True)
    assert ((scipy.trajectory - fine.trajectory) / scale).abs().max() < 5e-3
    torch.testing.assert_close(scipy.x, fine.x, rtol=0, atol=2e-3)


@pytest.mark.parametrize("method", ["RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA", DOP853])
def test_every_scipy_method_finds_the_gaussian_flow(method: str | type[DOP853]) -> None:
    """The flow of a Gaussian keeps (x − M)/√V."""
    model = gaussian(VPSDE(), (1,))
    times = UniformTime(1)(model.sde)
    z = torch.tensor([[-1.0], [0.2], [2.0]], dtype=F64)
    (x,) = ScipyODE(method, rtol=1e-8, atol=1e-10).solve(model, z, times, lambda: z)
    alpha, sigma = model.sde.alpha(times), model.sde.sigma(times)
    spread = (0.3 * alpha**2 + sigma**2).sqrt()
    wanted = 0.7 * alpha[1] + spread[1] * (z - 0.7 * alpha[0]) / spread[0]
    torch.testing.assert_close(x, wanted, rtol=0, atol=2e-6)


class Broken(ScoreModel):
    def __init__(self) -> None:
        super().__init__(VPSDE())
        self.calls = 0

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > 1000:
            raise AssertionError("the solver does not stop at values that are not finite")
        return x * torch.nan


def test_scipy_stops_at_values_that_are_not_finite() -> None:
    with pytest.raises(ArithmeticError):
        Sampler(ScipyODE(), UniformTime(2))(Broken(), (2, 3))
    with pytest.raises(NonFiniteError):
        Sampler(TorchSDE(), UniformTime(2))(Broken(), (2, 3))


def variance_of_euler(model: GaussianMixtureScore, times: Tensor) -> float:
    sde, v = model.sde, None
    spreads = (0.3 * sde.alpha(times) ** 2 + sde.sigma(times) ** 2).tolist()
    v = spreads[0]
    for c_x, c_s, c_z, spread in zip(
        *(c.tolist() for c in EulerMaruyama().coefficients(sde, times)), spreads[:-1], strict=True
    ):
        v = (c_x - c_s / spread) ** 2 * v + c_z**2
    return v


METHODS = ["euler", "milstein", "srk", "euler_heun", "heun", "midpoint", "reversible_heun", "log_ode"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("substeps", "noise"), [(1, "white"), (2, "white"), (1, "brownian"), (2, "brownian")])
def test_torchsde_has_the_right_moments(method: str, substeps: int, noise: Literal["white", "brownian"]) -> None:
    """Euler's variance is its own recursion's; Milstein's is Euler's, since g does not depend on x; the
    others' are of second weak order for additive noise, so close to the truth."""
    model, n, steps = gaussian(VPSDE(), (1,)), 4000, 20
    solver = TorchSDE(method, substeps=substeps)
    x = Sampler(solver, UniformTime(steps, t_min=0.05), denoise=False, noise=noise)(model, (n, 1)).x
    t = torch.tensor(0.05, dtype=F64)
    mean = 0.7 * float(model.sde.alpha(t))
    variance = float(0.3 * model.sde.alpha(t) ** 2 + model.sde.sigma(t) ** 2)
    slack = 0.02
    if method in ("euler", "milstein"):
        variance = variance_of_euler(model, UniformTime(steps * substeps, t_min=0.05)(model.sde))
        slack = 0.0
    assert abs(float(x.var()) / variance - 1) < 4 * math.sqrt(2 / n) + slack
    assert abs(float(x.mean()) - mean) < 4 * math.sqrt(variance / n) + 0.02


@pytest.mark.parametrize("substeps", [2, 3])
def test_torchsde_takes_the_steps_it_was_asked_for(substeps: int) -> None:
    """A remainder of round-off, a step of 1e-17, would be an evaluation more."""
    sampler = Sampler(TorchSDE(substeps=substeps), UniformTime(20, t_min=0.05), denoise=False)
    assert sampler(gaussian(VPSDE(), (1,)), (2, 1)).nfe == 20 * substeps


@pytest.mark.parametrize(
    ("method", "evaluations"), [("euler", 1), ("euler_heun", 1), ("heun", 2), ("midpoint", 2), ("srk", 4)]
)
def test_torchsde_costs_its_methods_evaluations(method: str, evaluations: int) -> None:
    """torchsde's look at the drift for its shape, at the start of each interval, is the method's first stage."""
    sampler = Sampler(TorchSDE(method), UniformTime(5, t_min=0.05), denoise=False)
    assert sampler(gaussian(VPSDE(), (1,)), (2, 1)).nfe == 5 * evaluations


def test_torchsde_adaptive() -> None:
    model, n = gaussian(VPSDE(), (1,)), 1000
    x = Sampler(TorchSDE("srk", adaptive=True, rtol=1e-2, atol=1e-2), UniformTime(4), denoise=False)(model, (n, 1)).x
    assert abs(float(x.var()) / 0.3 - 1) < 4 * math.sqrt(2 / n) + 0.03
    assert abs(float(x.mean()) - 0.7) < 4 * math.sqrt(0.3 / n) + 0.02


@pytest.mark.parametrize("noise", ["white", "brownian"])
@pytest.mark.parametrize("method", ["euler", "milstein"])
def test_torchsde_euler_is_euler_maruyama(sde: SDE, method: str, noise: Literal["white", "brownian"]) -> None:
    """The same draws or the same path, so the same samples to round-off; g does not depend on x."""
    model, grid = blobs(sde, (2,), 2), UniformLogSNR(7)
    ends = [
        Sampler(solver, grid, noise=noise, denoise=False)(model, (5, 2), seed=4, dtype=F64).x
        for solver in (TorchSDE(method), PredictorCorrector(EulerMaruyama()))
    ]
    torch.testing.assert_close(*ends, rtol=1e-8, atol=1e-8)


def ends_of(method: str, model: ScoreModel, steps: int, z: Tensor, **options: Any) -> Tensor:
    sampler = Sampler(TorchSDE(method), UniformLogSNR(steps), noise="brownian", denoise=False)
    return sampler(model, x_init=z, seed=1, **options).x


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt())


@lru_cache
def of_one_path(sde: SDE) -> tuple[ScoreModel, Tensor, Tensor]:
    """A mixture, starts, and where another solver takes them under the paths of seed 1."""
    model = blobs(sde, (2,), 2)
    z = model.sample(400, sde.t_max, torch.Generator().manual_seed(3))
    own = Sampler(DPMSolverPP(2, sde=True), UniformLogSNR(200), noise="brownian", denoise=False)
    return model, z, own(model, x_init=z, seed=1).x


@pytest.mark.parametrize(("method", "sde"), in_turn(METHODS, sdes=(VPSDE(), EDMSDE())), ids=short)
def test_more_steps_refine_one_trajectory(method: str, sde: SDE) -> None:
    """The noise is additive: strong order 1, and 1.5 with areas; white noise ends 0.5 apart whatever the steps."""
    model, z, own = of_one_path(sde)
    ends = [ends_of(method, model, steps, z) for steps in (25, 50, 100)]
    changes = [distance(a, b) for a, b in itertools.pairwise(ends)]
    order = math.log2(changes[0] / changes[1])
    assert (order > 1.4) if method == "srk" else (0.8 < order < 1.25), changes
    assert changes[1] < (0.008 if method == "srk" else 0.035)
    # All methods without areas tend to the solution that the other solvers tend to.
    if method != "srk":
        assert distance(ends[-1], own) < 0.025
    white = Sampler(TorchSDE(method), UniformLogSNR(25), denoise=False)(model, x_init=z, seed=1).x
    assert distance(ends[-1], white) > 0.2


def test_paths_of_srk_and_of_adaptive_steps_are_one() -> None:
    """The distance of adaptive steps to the fine solution of fixed ones falls with the tolerance, with either noise."""
    model = blobs(VPSDE(), (2,), 2)
    z = model.sample(6, 1.0, torch.Generator().manual_seed(3))

    def ends(tol: float, noise: Literal["white", "brownian"]) -> Tensor:
        solver = TorchSDE("srk", adaptive=True, rtol=tol, atol=tol)
        return Sampler(solver, UniformLogSNR(4), denoise=False, noise=noise)(model, x_init=z, seed=1).x

    fine, loose = ends_of("srk", model, 200, z), ends(1e-1, "white")
    assert torch.equal(loose, ends(1e-1, "brownian"))
    assert distance(loose, fine) < 0.1
    assert distance(ends(1e-2, "white"), fine) < min(0.01, 0.4 * distance(loose, fine))


@pytest.mark.parametrize("noise", ["white", "brownian"])
@pytest.mark.parametrize("method", METHODS)
def test_torchsde_samples_are_their_own(method: str, noise: Literal["white", "brownian"]) -> None:
    """A function of the seed and the index, whatever the batch, the chunks and, to rounding, the dtype."""
    model = blobs(VPSDE(), (3,), 2)
    sampler = Sampler(TorchSDE(method), UniformLogSNR(5), noise=noise)
    whole = sampler(model, (5, 3), seed=2, dtype=F64).x
    for options in ({"batch_size": 2}, {"batch_size": 1}):
        torch.testing.assert_close(sampler(model, (5, 3), seed=2, dtype=F64, **options).x, whole, rtol=0, atol=1e-12)
    alone = sampler(model, (2, 3), seed=2, dtype=F64, first=3).x
    torch.testing.assert_close(alone, whole[3:], rtol=0, atol=1e-12)
    single = sampler(model, (5, 3), seed=2, dtype=torch.float32).x
    torch.testing.assert_close(single.double(), whole, rtol=0, atol=1e-4)
    assert float((sampler(model, (5, 3), seed=3, dtype=F64).x - whole).abs().max()) > 0.01


def test_adaptive_torchsde_depends_on_batch_mates_within_the_tolerance() -> None:
    model = blobs(VPSDE(), (2,), 2)
    z = model.sample(6, 1.0, torch.Generator().manual_seed(3))
    sampler = Sampler(TorchSDE("srk", True, rtol=1e-2, atol=1e-2), UniformLogSNR(4), denoise=False)
    whole = sampler(model, x_init=z, seed=1).x
    assert distance(sampler(model, x_init=z[2:4], seed=1, first=2).x, whole[2:4]) < 0.02
    with pytest.raises(
        TypeError, match="adaptive steps need a Brownian path, and noise is function, which has no seed"
    ):
        next(iter(sampler.solver.solve(model, z, UniformLogSNR(4)(model.sde), lambda *_: torch.zeros_like(z))))


class Halving(ScoreModel):
    """A model of any shape."""

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        return 0.5 * x


def test_log_ode_makes_no_areas_between_coordinates() -> None:
    """They would be D² numbers a sample, 17 GB here, and g, which is constant in x, has no use for them."""
    out = Sampler(TorchSDE("log_ode"), UniformTime(1, t_min=0.5))(Halving(VPSDE()), (1, 1, 256, 256))
    assert bool(out.x.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_torchsde_path_follows_the_seed(dtype: torch.dtype) -> None:
    model = blobs(VPSDE(), (2,), 2)
    sampler = Sampler(TorchSDE(), UniformTime(5))
    z = torch.ones(2, 2, dtype=dtype)
    ends = [sampler(model, x_init=z, seed=s).x for s in range(20)]
    assert torch.equal(ends[3], sampler(model, x_init=z, seed=3).x)
    # From one start every seed has another path.
    assert len({float(x[0, 0]) for x in ends}) == 20


def test_shapes_and_chunks() -> None:
    means = torch.zeros(1, 1, 2, 2)
    model = GaussianMixtureScore(torch.ones(1), means, torch.ones(1), VPSDE())
    for solver in (ScipyODE(), TorchSDE(), TorchSDE("srk")):
        out = Sampler(solver, UniformTime(3))(model, (5, 1, 2, 2), batch_size=2, trajectory=True)
        assert out.x.shape == (5, 1, 2, 2)
        assert out.trajectory is not None
        assert out.trajectory.shape == (4, 5, 1, 2, 2)


def test_bad_arguments() -> None:
    for bad in ("rk4", dict):
        with pytest.raises(ValueError, match="expected one of RK45, RK23, DOP853, Radau, BDF, LSODA, or a scipy"):
            ScipyODE(bad)
    with pytest.raises(ValueError, match="atol is 0, expected a positive number"):
        ScipyODE(atol=0)
    with pytest.raises(ValueError, match="expected one of euler, milstein, srk, euler_heun"):
        TorchSDE("rk4")
    with pytest.raises(ValueError, match="substeps is 0, expected at least 1"):
        TorchSDE(substeps=0)
