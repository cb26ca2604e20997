"""Ways to log-densities, for `likelihood.py`: this package, an earlier revision of it, score_sde's scheme written anew,
torchdiffeq and torchode."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from contenders import Failures
from likelihood_problems import Problem
from likelihood_reference import Reference
from scipy.integrate import solve_ivp
from torch import Tensor

from scoresde.likelihood import Auto, CovarianceScaling, Exact, Hutchinson, Probing, log_likelihood
from scoresde.score import ScoreModel

DEFAULT, COVARIANCE = "default", "covariance"
CORRECTED = "corrected"  # for networks, whose path is then corrected; exact scores always are
# Options of each family of this package; the reference has the first two.
FAMILIES: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    COVARIANCE: {"scaling": CovarianceScaling()},
    CORRECTED: {"corrected": True},
}
ONE = "Hutchinson(1)"
# Beside it; at the larger tolerances, since probes err by more.
PROBES: dict[str, Callable[[], Any]] = {
    "Hutchinson(4)": partial(Hutchinson, 4),
    "Probing(16)": partial(Probing, 16),
    "Auto(0.5)": partial(Auto, 0.5),
}
EXACT, FIXED = "exact", "fixed probe"
OURS, REFERENCE, SCORE_SDE = "scoresde", "reference", "score_sde"
# Nats for each dimension, from which on probes other than one are tried: they err by more than that.
PROBED_FROM = 1e-4
BLOCK = 2048  # products that are worked on at once


@dataclass(frozen=True)
class Outcome:
    """Log-densities `(B,)`, with N(0, σ² I) as well, standard errors of solver and probes, and counts per sample.

    `seconds` are those that another process took.
    """

    log_prob: Tensor
    plain: Tensor | None
    stderr: Tensor | None
    forwards: float
    divergences: float
    products: float
    seconds: float | None = None


@dataclass(frozen=True)
class Method:
    """A way to log-densities at a tolerance: nats for each dimension of this package, numbers of the state of others.

    Methods of a library and family differ by the tolerance and the divergence.
    """

    library: str
    family: str
    tolerance: float
    divergence: str
    run: Callable[[Problem, int], Outcome]

    @property
    def key(self) -> tuple[str, str, float, str]:
        return self.library, self.family, self.tolerance, self.divergence

    def __str__(self) -> str:
        return f"{self.library} {self.family} {self.tolerance:g}, {self.divergence}"


def methods(
    peers: bool, tolerances: Sequence[float], nats: Sequence[float], reference: Reference | None, failures: Failures
) -> list[Method]:
    """All methods, by tolerances of the others and of this package."""
    out = []
    solvers: dict[tuple[str, str], Any] = {(SCORE_SDE, "RK45"): _score_sde}
    if peers:
        for name, solver, run in (("torchdiffeq", "dopri5", _torchdiffeq), ("torchode", "tsit5", _torchode)):
            if importlib.util.find_spec(name) is None:
                failures.add(name, ModuleNotFoundError(f"pip install {name}"))
            else:
                solvers[name, solver] = run
    for (library, solver), run in solvers.items():
        for tolerance in tolerances:
            for d in (EXACT, FIXED):
                out.append(Method(library, solver, tolerance, d, partial(run, tolerance, d == EXACT)))
    for family, settings in FAMILIES.items():
        for tol in nats:
            for label, divergence in ({EXACT: Exact, ONE: Hutchinson} | (PROBES if tol >= PROBED_FROM else {})).items():
                out.append(Method(OURS, family, tol, label, partial(_ours, tol, settings, divergence)))
    if reference is not None:
        for family in (DEFAULT, COVARIANCE):
            for tol in nats:
                for label in (EXACT, ONE):
                    run = partial(_theirs, reference, tol, family == COVARIANCE, label == EXACT)
                    out.append(Method(REFERENCE, family, tol, label, run))
    return out


def _ours(tol: float, settings: dict[str, Any], divergence: Callable[[], Any], problem: Problem, seed: int) -> Outcome:
    options = {"tol": tol * problem.size, "seed": seed + 1000, **settings}
    out = log_likelihood(problem.model, problem.x, divergence=divergence(), **options)
    forwards, divergences, products = (float(v.double().mean()) for v in (out.nfe, out.divergences, out.products))
    return Outcome(out.log_prob, None, out.total_stderr, forwards, divergences, products)


def _theirs(reference: Reference, tol: float, covariance: bool, exact: bool, problem: Problem, seed: int) -> Outcome:
    found = reference.run(
        source=problem.source,
        sde=problem.given,
        x=problem.x,
        tol=tol * problem.size,
        covariance=covariance,
        exact=exact,
        seed=seed + 1000,
    )
    return Outcome(plain=None, stderr=None, **found)


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
