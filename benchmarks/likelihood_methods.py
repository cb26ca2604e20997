"""Ways to log-densities, for `likelihood.py`: this package, score_sde's scheme written anew, torchdiffeq, torchode."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from contenders import Failures
from likelihood_problems import Problem
from scipy.integrate import solve_ivp
from torch import Tensor

from scoresde.likelihood import Auto, CovarianceScaling, Exact, Hutchinson, Probing, ScalarScaling, log_likelihood
from scoresde.likelihood.scaling import Scaling
from scoresde.score import ScoreModel

CORRECTED = "corrected"  # for networks, whose path is then corrected; exact scores always are
SCALINGS: dict[str, Callable[[], Scaling]] = {
    "scalar": ScalarScaling,
    "covariance": CovarianceScaling,
    CORRECTED: ScalarScaling,
}
ONE = "Hutchinson(1)"
# Beside it; at the larger tolerances, since probes err by more.
PROBES: dict[str, Callable[[], Any]] = {
    "Hutchinson(4)": partial(Hutchinson, 4),
    "Probing(16)": partial(Probing, 16),
    "Auto(0.5)": partial(Auto, 0.5),
}
EXACT, FIXED = "exact", "fixed probe"
OURS, SCORE_SDE = "scoresde", "score_sde"
BLOCK = 2048  # products that are worked on at once


@dataclass(frozen=True)
class Outcome:
    """Log-densities `(B,)`, with N(0, σ² I) as well, standard errors, and counts per sample."""

    log_prob: Tensor
    plain: Tensor | None
    stderr: Tensor | None
    forwards: float
    divergences: float
    products: float


@dataclass(frozen=True)
class Method:
    """A way to log-densities; methods of one library and path differ by the divergence alone."""

    library: str
    path: str
    divergence: str
    run: Callable[[Problem, int], Outcome]

    @property
    def key(self) -> tuple[str, str, str]:
        return self.library, self.path, self.divergence


def methods(peers: bool, tolerances: Sequence[float], nats: Sequence[float], failures: Failures) -> list[Method]:
    out = []
    divergences = (EXACT, FIXED)
    solvers: dict[tuple[str, str], Any] = {(SCORE_SDE, "RK45"): _score_sde}
    if peers:
        for name, solver, run in (("torchdiffeq", "dopri5", _torchdiffeq), ("torchode", "tsit5", _torchode)):
            if importlib.util.find_spec(name) is None:
                failures.add(name, ModuleNotFoundError(f"pip install {name}"))
            else:
                solvers[name, solver] = run
    for (library, solver), run in solvers.items():
        for tolerance in tolerances:
            for d in divergences:
                out.append(Method(library, f"{solver} {tolerance:g}", d, partial(run, tolerance, d == EXACT)))
    for scaling, make in SCALINGS.items():
        for tol in nats:
            chosen = {EXACT: Exact, ONE: Hutchinson} | (PROBES if tol >= 1e-2 else {})
            for label, divergence in chosen.items():
                out.append(
                    Method(
                        OURS,
                        f"tol {tol:g}, {scaling}",
                        label,
                        partial(_ours, tol, make, divergence, scaling == CORRECTED),
                    )
                )
    return out


def _ours(
    tol: float,
    scaling: Callable[[], Scaling],
    divergence: Callable[[], Any],
    corrected: bool,
    problem: Problem,
    seed: int,
) -> Outcome:
    out = log_likelihood(
        problem.model,
        problem.x,
        tol=tol,
        scaling=scaling(),
        divergence=divergence(),
        corrected=corrected,
        seed=seed + 1000,
    )
    divergences, products = (float(v.double().mean()) for v in (out.divergences, out.products))
    return Outcome(out.log_prob, None, out.stderr, float(out.nfe.double().mean()), divergences, products)


def _signs(problem: Problem, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, problem.x.shape, generator=generator).to(problem.model.dtype) * 2 - 1


def velocity_and_probe(model: ScoreModel, x: Tensor, t: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
    """Velocity and probed divergence of one forward pass."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        velocity = model.velocity(x, t)
        (product,) = torch.autograd.grad((velocity * signs).sum(), x)
    return velocity.detach(), (product * signs).flatten(1).sum(1)


def exact_divergence(model: ScoreModel, x: Tensor, t: Tensor) -> Tensor:
    rows = max(1, BLOCK // x[0].numel())
    parts = []
    for part, times in zip(x.split(rows), t.split(rows), strict=True):
        field = partial(velocity_at, model, times)
        parts.append(Exact().traces(field, part, 0, torch.arange(len(part))).value)
    return torch.cat(parts)


def velocity_at(model: ScoreModel, t: Tensor, x: Tensor) -> Tensor:
    return model.velocity(x, t)


def _finished(problem: Problem, z: Tensor, log_det: Tensor, calls: float, exact: bool) -> Outcome:
    z, log_det = z.double().flatten(1), log_det.double()
    return Outcome(
        matched_prior(problem.model, z) + log_det,
        problem.model.sde.prior_log_prob(z) + log_det,
        None,
        problem.model.forwards / len(z),
        calls,
        calls * (problem.size if exact else 1),
    )


def matched_prior(model: ScoreModel, z: Tensor) -> Tensor:
    """log N(z; α m, α² Σ + σ² I), `(B,)`, for z `(B, D)`."""
    known, end = model.statistics, torch.tensor(model.sde.t_max, dtype=torch.float64)
    assert known is not None
    assert known.covariance is not None
    alpha, sigma = model.sde.alpha(end), model.sde.sigma(end)
    covariance = alpha**2 * known.covariance.double() + sigma**2 * torch.eye(z.shape[1], dtype=torch.float64)
    mean = alpha * known.mean.double().flatten()
    out: Tensor = torch.distributions.MultivariateNormal(mean, covariance).log_prob(z)
    return out


def _score_sde(tolerance: float, exact: bool, problem: Problem, seed: int) -> Outcome:
    model, x = problem.model, problem.x
    model.forwards = 0
    count, signs = len(x), _signs(problem, seed)

    def slope(t: float, flat: np.ndarray) -> np.ndarray:
        sample = torch.from_numpy(flat[:-count]).reshape(x.shape).to(model.dtype)
        times = torch.full((count,), t, dtype=torch.float64)
        drift = model.velocity(sample, times)
        trace = exact_divergence(model, sample, times) if exact else velocity_and_probe(model, sample, times, signs)[1]
        return np.concatenate((drift.double().flatten().numpy(), trace.double().numpy()))

    start = np.concatenate((x.flatten().numpy(), np.zeros(count)))
    span = (model.sde.t_min, model.sde.t_max)
    found = solve_ivp(slope, span, start, method="RK45", rtol=tolerance, atol=tolerance)
    if not found.success:
        raise ArithmeticError(found.message)
    end = torch.from_numpy(found.y[:, -1])
    return _finished(problem, end[:-count].reshape(count, -1), end[-count:], found.nfev, exact)


class _Joint:
    """The velocity of states with the log-determinant as a last number, `(B, D + 1)`."""

    def __init__(self, problem: Problem, exact: bool, seed: int) -> None:
        self.problem, self.exact, self.calls = problem, exact, 0
        self.signs = _signs(problem, seed)
        self.start = torch.cat((problem.x.flatten(1), torch.zeros(len(problem.x), 1)), 1).to(problem.model.dtype)
        problem.model.forwards = 0

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        model = self.problem.model
        # Some step over the end and come back.
        times = t.double().clamp(model.sde.t_min, model.sde.t_max).expand(len(y))
        x = y[:, :-1].reshape(self.problem.x.shape)
        if self.exact:
            velocity, trace = model.velocity(x, times), exact_divergence(model, x, times)
        else:
            velocity, trace = velocity_and_probe(model, x, times, self.signs)
        return torch.cat((velocity.flatten(1), trace[:, None].to(y)), 1)

    def finished(self, y: Tensor) -> Outcome:
        return _finished(self.problem, y[:, :-1], y[:, -1], self.calls, self.exact)


def _torchdiffeq(tolerance: float, exact: bool, problem: Problem, seed: int) -> Outcome:
    from torchdiffeq import odeint

    field, sde = _Joint(problem, exact, seed), problem.model.sde
    span = torch.tensor([sde.t_min, sde.t_max], dtype=torch.float64)
    return field.finished(odeint(field, field.start, span, rtol=tolerance, atol=tolerance, method="dopri5")[-1])


def _torchode(tolerance: float, exact: bool, problem: Problem, seed: int) -> Outcome:
    import torchode

    field, sde = _Joint(problem, exact, seed), problem.model.sde
    term = torchode.ODETerm(field)
    controller = torchode.IntegralController(tolerance, tolerance, term=term)
    solver = torchode.AutoDiffAdjoint(torchode.Tsit5(term=term), controller)
    first, last = (torch.full((len(field.start),), v, dtype=torch.float64) for v in (sde.t_min, sde.t_max))
    found = solver.solve(torchode.InitialValueProblem(y0=field.start, t_start=first, t_end=last))
    if bool((found.status != torchode.status_codes.Status.SUCCESS.value).any()):
        raise ArithmeticError(f"status {found.status.unique().tolist()}")
    return field.finished(found.ys[:, -1])
