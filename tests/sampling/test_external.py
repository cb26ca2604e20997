"""scipy and torchsde as solvers."""

import math

import pytest
import torch
from scipy.integrate import DOP853
from torch import Tensor

from scoresde.sampling import (
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
from scoresde.sde import SDE, VPSDE
from tests.problems import blobs, gaussian

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


@pytest.mark.parametrize("method", ["euler", "milstein", "srk", "heun", "midpoint", "reversible_heun", "log_ode"])
@pytest.mark.parametrize("substeps", [1, 2])
def test_torchsde_has_the_right_moments(method: str, substeps: int) -> None:
    """Euler's variance is its own recursion's; Milstein's is Euler's, since g does not depend on x; the
    others' are of second weak order for additive noise, so close to the truth."""
    model, n, steps = gaussian(VPSDE(), (1,)), 4000, 20
    solver = TorchSDE(method, substeps=substeps)
    x = Sampler(solver, UniformTime(steps, t_min=0.05), denoise=False)(model, (n, 1)).x
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
    """A remainder of round-off, a step of 1e-17, is an evaluation more and makes torchsde's tree endless."""
    sampler = Sampler(TorchSDE(substeps=substeps), UniformTime(20, t_min=0.05), denoise=False)
    assert sampler(gaussian(VPSDE(), (1,)), (2, 1)).nfe == 20 * substeps


@pytest.mark.parametrize(("method", "evaluations"), [("euler", 1), ("euler_heun", 1), ("heun", 2), ("midpoint", 2)])
def test_torchsde_costs_its_methods_evaluations(method: str, evaluations: int) -> None:
    """torchsde's look at the drift for its shape, at the start of each interval, is the method's first stage."""
    sampler = Sampler(TorchSDE(method), UniformTime(5, t_min=0.05), denoise=False)
    assert sampler(gaussian(VPSDE(), (1,)), (2, 1)).nfe == 5 * evaluations


def test_torchsde_adaptive() -> None:
    model, n = gaussian(VPSDE(), (1,)), 1000
    x = Sampler(TorchSDE("srk", adaptive=True, rtol=1e-2, atol=1e-2), UniformTime(4), denoise=False)(model, (n, 1)).x
    assert abs(float(x.var()) / 0.3 - 1) < 4 * math.sqrt(2 / n) + 0.03
    assert abs(float(x.mean()) - 0.7) < 4 * math.sqrt(0.3 / n) + 0.02


def test_torchsde_euler_step_is_euler_maruyama() -> None:
    """The mean over the path noise of one step is the predictor's; its spread is c_z."""
    model, n = blobs(VPSDE(), (2,), 2), 4000
    times = UniformTime(1, t_min=0.4, t_max=0.5)(model.sde)
    x = torch.tensor([[0.3, -1.0]], dtype=F64)
    (y,) = TorchSDE().solve(model, x.expand(n, 2).clone(), times, lambda: torch.randn(n, 2, dtype=F64))
    c_x, c_s, c_z = (float(c) for c in EulerMaruyama().coefficients(model.sde, times))
    wanted = c_x * x + c_s * model.score(x, times[0])
    assert (y.mean(0) - wanted).abs().max() < 4 * c_z / math.sqrt(n)
    assert abs(float(y.var(0).mean()) / c_z**2 - 1) < 0.1
    # The library's own predictor has the same law.
    (own,) = PredictorCorrector(EulerMaruyama()).solve(model, x, times, lambda *_: torch.zeros(1, 2, dtype=F64))
    torch.testing.assert_close(own, wanted)


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
