"""Euler and Heun: their orders on a mixture, against a tight reference."""

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from scoresde.sampling import Euler, Heun, Sampler, Solver, UniformLogSNR, UniformTime
from scoresde.score import GaussianMixtureScore, ScoreModel
from scoresde.sde import SDE, VPSDE

F64 = torch.float64


def model_of(sde: SDE) -> GaussianMixtureScore:
    means = torch.tensor([[1.0, 0.5], [-0.8, 0.3], [0.1, -1.0]])
    factor = torch.tensor([[0.5, 0.1], [0.0, 0.4]])
    covariances = torch.stack([0.3 * torch.eye(2), factor @ factor.T, 0.2 * torch.eye(2)])
    return GaussianMixtureScore(torch.tensor([0.2, 0.3, 0.5]), means, covariances, sde)


def reference(model: ScoreModel, x: Tensor, start: float, stop: float) -> Tensor:
    """The endpoint over λ, in which every SDE's flow is smooth: dx/dλ = velocity / (dλ/dt)."""
    sde = model.sde
    ends = sde.log_snr(torch.tensor([start, stop], dtype=F64)).tolist()

    def field(log_snr: float, y):
        t = sde.time(torch.tensor(log_snr, dtype=F64)).clamp(sde.t_min, sde.t_max)
        # dλ/dt = −g²/(2σ²)
        rate = -(sde.diffusion(t) ** 2) / (2 * sde.sigma(t) ** 2)
        return (model.velocity(torch.from_numpy(y).reshape(x.shape), t) / rate).numpy().ravel()

    out = solve_ivp(field, ends, x.numpy().ravel(), method="DOP853", rtol=1e-8, atol=1e-10)
    return torch.from_numpy(out.y[:, -1]).reshape(x.shape)


@pytest.mark.parametrize(("solver", "order", "steps"), [(Euler(), 1, 200), (Heun(), 2, 60)], ids=["euler", "heun"])
def test_order(sde: SDE, solver: Solver, order: int, steps: int) -> None:
    model = model_of(sde)
    start = model.sample(6, sde.t_max, torch.Generator().manual_seed(0))
    times = UniformLogSNR(1)(sde).tolist()
    truth = reference(model, start, times[0], times[-1])
    errors = []
    for n in (steps, 2 * steps):
        x = Sampler(solver, UniformLogSNR(n), denoise=False)(model, x_init=start).x
        errors.append(float((x - truth).square().mean().sqrt()))
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.15)
    assert errors[1] < 0.1 * float(truth.std())


def test_one_step_by_hand() -> None:
    model = model_of(VPSDE())
    x = torch.tensor([[0.3, -1.2]], dtype=F64)
    times = UniformTime(1, t_min=0.5, t_max=0.6)(model.sde)
    first = model.velocity(x, times[0])
    euler = x - 0.1 * first
    heun = x - 0.05 * (first + model.velocity(euler, times[1]))
    for solver, wanted in ((Euler(), euler), (Heun(), heun)):
        (got,) = list(solver.solve(model, x, times, lambda: x))
        torch.testing.assert_close(got, wanted)


def test_exact_where_the_velocity_is_constant() -> None:
    """A point under the straight interpolant: x_t = (1 − t) μ + t ε moves at ε − μ; one step of either is exact."""
    from scoresde.sde import FlowSDE

    model = GaussianMixtureScore(torch.ones(1), torch.tensor([[0.4, -2.0]]), torch.zeros(1), FlowSDE())
    noise = torch.tensor([[1.0, 0.5], [-0.3, 2.0]], dtype=F64)
    x = 0.001 * model.means + 0.999 * noise
    for solver in (Euler(), Heun()):
        out = Sampler(solver, UniformTime(1), denoise=False)(model, x_init=x).x
        torch.testing.assert_close(out, 0.999 * model.means + 0.001 * noise, rtol=0, atol=1e-9)


def test_a_deterministic_solver_draws_no_noise() -> None:
    model = model_of(VPSDE())
    x = torch.randn(3, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    for solver in (Euler(), Heun()):
        a = Sampler(solver, UniformTime(5))(model, x_init=x, seed=0).x
        assert torch.equal(a, Sampler(solver, UniformTime(5))(model, x_init=x, seed=1).x)
