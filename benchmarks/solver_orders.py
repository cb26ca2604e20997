"""The order of every solver: slopes of its error under step halving."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from contenders import Counted, Failures, our_contenders, times
from rows import distance
from torch import Tensor
from truth import endpoints

from scoresde.sampling import Solver
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE, SDE, VPSDE

__all__ = ["ode_orders", "weak_orders"]

ORDER_SDES: tuple[SDE, ...] = (EDMSDE(0.01, 20.0), VPSDE(t_min=1e-3))


def ode_orders(pattern: str, steps: Sequence[int], failures: Failures) -> Iterator[list[str]]:
    """Endpoint errors on a wide mixture, uniform in λ, and the slope of the last two above round-off."""
    means = torch.tensor([[1.0, 0.0], [-0.5, 0.8], [-0.5, -0.9]], dtype=torch.float64)
    widths = torch.tensor([0.3, 0.4, 0.5], dtype=torch.float64) ** 2
    for sde in ORDER_SDES:
        model = GaussianMixtureScore(torch.ones(3), means, widths, sde)
        x = model.sample(64, sde.t_max, torch.Generator().manual_seed(0))
        true, counted = endpoints(model, x, 1e-12), Counted(model)
        for contender in our_contenders(pattern, ("λ",), failures):
            if contender.grid != "λ" or contender.stochastic:
                continue
            try:
                errors = [distance(true)(contender.run(counted, x, n)[1]) for n in steps]
            except Exception as error:
                failures.add(contender, error)
                continue
            name = type(sde).__name__
            yield [name, contender.solver, *(f"{e:.1e}" for e in errors), slope(steps, errors, 1e-10)]


def weak_orders(pattern: str, steps: Sequence[int], failures: Failures) -> Iterator[list[str]]:
    """The error of the variance of a Gaussian, relative to it, and its slope.

    A solver that is linear where the score is maps the start and each draw of noise by a number each. One run on a
    batch of unit vectors finds these numbers, and with them the variance, without any sampling.
    """
    for sde in ORDER_SDES:
        model = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 1), torch.full((1,), 0.25), sde)
        before, after = (float(model.sde.alpha(t) ** 2 * 0.25 + model.sde.sigma(t) ** 2) for t in _ends(sde))
        for contender in our_contenders(pattern, ("λ",), failures):
            if contender.grid != "λ":
                continue
            solver = contender.solve.args[0]  # type: ignore[attr-defined]
            try:
                found = [response(solver, model, times("λ", model, n)) for n in steps]
            except Exception as error:
                failures.add(contender, error)
                continue
            errors = [(r[0] ** 2 * before + (r[1:] ** 2).sum()) / after - 1 for r in found if r is not None]
            if len(errors) < len(steps):
                continue
            yield [type(sde).__name__, contender.solver, *(f"{e:+.1e}" for e in errors), slope(steps, errors, 1e-10)]


def _ends(sde: SDE) -> tuple[Tensor, Tensor]:
    first, last = torch.tensor([sde.t_max, sde.t_min], dtype=torch.float64)
    return first, last


def response(solver: Solver, model: GaussianMixtureScore, when: Tensor) -> np.ndarray | None:
    """What the end of the path is to the start and to each draw; None without draws, or if it is not linear."""
    counted, _, _ = _unit_runs(solver, model, when, 0)
    if not counted:
        return None
    _, mixture, end = _unit_runs(solver, model, when, counted)
    found, mixed = end[:-1], end[-1]
    linear = bool((mixed - mixture @ found).abs() < 1e-9 * (1 + found.abs().max()))
    return found.numpy() if linear else None


def _unit_runs(solver: Solver, model: GaussianMixtureScore, when: Tensor, draws: int) -> tuple[int, Tensor, Tensor]:
    """The number of draws, the mixture, and the ends from the start alone, each draw alone, and their mixture."""
    mixture = torch.linspace(0.5, 2, draws + 1, dtype=torch.float64)
    inputs = torch.cat((torch.eye(draws + 1, dtype=torch.float64), mixture[None])).T[:, :, None]
    calls = 0

    def noise(start: float | None = None, stop: float | None = None) -> Tensor:
        nonlocal calls
        calls += 1
        return inputs[calls] if calls < len(inputs) else torch.zeros_like(inputs[0])

    with torch.no_grad():
        *_, end = solver.solve(model, inputs[0], when, noise)
    return calls, mixture, end[:, 0]


def slope(steps: Sequence[int], errors: Sequence[float], floor: float) -> str:
    """−d log(error)/d log(steps) between the last two errors above the floor."""
    kept = [(n, abs(e)) for n, e in zip(steps, errors, strict=True) if abs(e) > floor]
    if len(kept) < 2:
        return "exact"
    (n, coarse), (m, fine) = kept[-2:]
    return f"{math.log(coarse / fine) / math.log(m / n):.2f}"
