"""Error against network evaluations of every solver, on two problems whose score is exact.

    python benchmarks/solvers.py [--quick] [--peers few --peer-path CLONE ...] [--out DIRECTORY]

Deterministic solvers: RMS distance of the endpoint to that of the true probability flow, from 512 draws of the
noised density at σ_max down to σ_min = 0.002, without a last denoising. Tuned: the same of `tune`, at up to 10
evaluations, on 8 times as many other starts, where the best peers are run again. Stochastic solvers: sliced
Wasserstein distance of 10,000 samples to 10,000 exact ones. Orders: slopes of the endpoint error, and of the error of
the variance of a Gaussian, under step halving. Solvers are the presets of `conf/sampler` and the variants below, each
on every grid; a budget buys as many steps as stay within it.

A single start can carry the error on the ring, so the figures of two seeds differ by up to 2; figures are to be
compared within one run, where all solvers have the same starts.
"""

import argparse
import copy
import csv
import math
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from peers import GRIDS, Peer, load_peers, uniform_in
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from scoresde.metrics import sliced_wasserstein
from scoresde.sampling import (
    Coordinate,
    DataStraight,
    ExplicitTimes,
    LogSNR,
    Multistep,
    NoiseLevel,
    Sampler,
    ScipyODE,
    SignalLevel,
    Solver,
    Straight,
    tune,
)
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE, SDE, VPSDE

BUDGETS = (5, 8, 10, 15, 20, 30, 50, 100, 200)
SIGMA_MIN = 0.002
CONF = Path(__file__).resolve().parents[1] / "conf"
ORDER_SDES: tuple[SDE, ...] = (EDMSDE(0.01, 20.0), VPSDE(t_min=1e-3))
# Numbers that the exact score works on at once: more do not fit into the cache.
BLOCK = 2**18

# ---------------------------------------------------------------- problems


def ring() -> GaussianMixtureScore:
    """Eight Gaussians of standard deviation 0.05 on the unit circle."""
    angle = torch.arange(8, dtype=torch.float64) * 2 * math.pi / 8
    means = torch.stack((angle.cos(), angle.sin()), 1)
    return GaussianMixtureScore(
        torch.ones(8), means, torch.full((8,), 0.05**2, dtype=torch.float64), EDMSDE(SIGMA_MIN, 10.0)
    )


def digits() -> GaussianMixtureScore:
    """Ten Gaussians with full covariances, fitted to the 8x8 digits in [-1, 1]."""
    fit = GaussianMixture(10, covariance_type="full", reg_covar=1e-3, random_state=0, max_iter=500)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit.fit(load_digits().data / 8 - 1)
    weights, means, covariances = (torch.tensor(v) for v in (fit.weights_, fit.means_, fit.covariances_))
    return GaussianMixtureScore(weights, means, covariances, EDMSDE(SIGMA_MIN, 80.0))


PROBLEMS: dict[str, Callable[[], GaussianMixtureScore]] = {"ring": ring, "digits": digits}


def endpoints(model: GaussianMixtureScore, x: Tensor, tolerance: float = 1e-10) -> Tensor:
    """The true endpoints. A chunk is one system for scipy, so small ones keep the error of each sample small."""
    sde = model.sde
    grid = ExplicitTimes([sde.t_max, sde.t_min])
    sampler = Sampler(ScipyODE("DOP853", rtol=tolerance, atol=tolerance), grid, denoise=False)
    return sampler(model, x_init=x, batch_size=128).x


# ---------------------------------------------------------------- contenders

OURS = "scoresde"
OWN = "its own grid"
# From the model, the state at its last time, a number of steps and a seed: evaluations, and the state at the end.
Solve = Callable[[GaussianMixtureScore, Tensor, int, int], tuple[int, Tensor]]


@dataclass(frozen=True)
class Contender:
    """A solver on a grid."""

    library: str
    solver: str
    grid: str
    solve: Solve

    def __str__(self) -> str:
        return f"{self.solver if self.library == OURS else f'{self.library} {self.solver}'}, {self.grid}"


class Failures:
    """What could not be run, and why."""

    def __init__(self) -> None:
        self.lines: dict[str, str] = {}

    def add(self, what: object, error: Exception) -> None:
        self.lines.setdefault(str(what), f"{type(error).__name__}: {error}".splitlines()[0][:160])


# Beside the presets: predictor and corrector orders, and a first evaluation saved.
ORDERS = ((2, 0), (3, 0), (4, 0), (1, 2), (2, 2), (2, 3), (3, 4), (4, 3))
VARIANTS: dict[str, Callable[[], Solver]] = {}
for p, c in ORDERS:
    VARIANTS[f"angle ({p}, {c})"] = partial(Multistep, p, c)
    VARIANTS[f"angle ({p}, {c}), Gaussian start"] = partial(Multistep, p, c, start="gaussian")
    VARIANTS[f"straight ({p}, {c})"] = partial(Multistep, p, c, Straight())
    VARIANTS[f"noise ({p}, {c})"] = partial(Multistep, p, c, NoiseLevel(), LogSNR())
    VARIANTS[f"data ({p}, {c})"] = partial(Multistep, p, c, SignalLevel(), LogSNR())
# With noise, of which fewer steps bear less the higher the orders.
NOISY: tuple[tuple[str, int, int, Coordinate | None, float], ...] = (
    ("angle", 2, 2, None, 0.4),
    ("straight", 2, 0, Straight(), 0.7),
    ("angle", 1, 0, None, 1.0),
)
for kind, p, c, coordinate, tau in NOISY:
    VARIANTS[f"{kind} ({p}, {c}), Gaussian start, τ = {tau:g}"] = partial(
        Multistep, p, c, coordinate, tau=tau, centre=True, start="gaussian"
    )

# With a factor: in units of the data's standard deviation; "data" of the largest in any direction.
OUR_GRIDS = (
    *GRIDS,
    "data × 0.35",
    "data × 0.25",
    "angle × 1",
    "angle × 0.5",
    "angle × 0.25",
    "straight × 1",
    "straight × 0.5",
    "straight × 0.25",
)
FEW_GRIDS = ("λ", "Karras 7", "flow", "angle × 0.25", "data × 0.35", "data × 0.25")


def times(grid: str, model: GaussianMixtureScore, steps: int) -> Tensor:
    """The times of a grid, by its name."""
    kind, _, factor = grid.partition(" × ")
    assert model.statistics is not None
    sde = model.sde
    if kind == "data":
        return DataStraight(steps, float(factor))(sde, model.statistics)
    d = float(factor or 1) * float(model.statistics.std)
    own = {
        "angle": uniform_in(lambda s: np.arctan(s / d), lambda v: d * np.tan(v)),
        "straight": uniform_in(lambda s: s / (d + s), lambda u: d * u / (1 - u)),
    }
    ends = torch.tensor([sde.t_min, sde.t_max], dtype=torch.float64)
    low, high = sde.noise_level(ends).tolist()
    out = sde.time(-(own | GRIDS)[kind](steps, low, high).log())
    out[0], out[-1] = sde.t_max, sde.t_min
    return out


def presets() -> dict[str, DictConfig]:
    """The files of conf/sampler."""
    with initialize_config_dir(str(CONF), version_base=None):
        found = {path.stem: compose("sample", [f"sampler={path.stem}", "run=none"]) for path in CONF.glob("sampler/*")}
    del found["tuned"]  # a file is made for it first
    return {name: found[name].sampler for name in sorted(found)}


def adapts(solver: Any) -> bool:
    """Whether tolerances rather than the grid decide on the steps."""
    return bool(getattr(solver, "adapts", False))


def our_contenders(pattern: str, grids: Sequence[str], failures: Failures) -> Iterator[Contender]:
    """Presets on their own grid, and presets and variants on the others."""
    solvers = dict(VARIANTS)
    for name, config in presets().items():
        if not re.search(pattern, name) or "steps" not in config.get("grid", {}):
            continue
        solver = partial(instantiate, config.solver, _convert_="all")
        try:
            if adapts(solver()):
                continue
        except Exception as error:
            failures.add(f"preset {name}", error)
            continue
        solvers[name] = solver
        yield Contender(OURS, name, OWN, partial(_solve, solver, partial(instantiate, config.grid)))
    for name, make in solvers.items():
        if re.search(pattern, name):
            yield from (Contender(OURS, name, grid, partial(_solve, make, grid)) for grid in grids)


def _rows(model: GaussianMixtureScore) -> int:
    return max(1, BLOCK // model.variances.numel())


def _solve(
    make: Callable[[], Solver],
    grid: str | Callable[..., Any],
    model: GaussianMixtureScore,
    x: Tensor,
    steps: int,
    seed: int,
) -> tuple[int, Tensor]:
    when = ExplicitTimes(times(grid, model, steps).tolist()) if isinstance(grid, str) else grid(steps=steps)
    with warnings.catch_warnings():
        # Orders that are lowered on a short grid.
        warnings.simplefilter("ignore", UserWarning)
        out = Sampler(make(), when, denoise=False)(model, x_init=x, seed=seed, batch_size=_rows(model))
    return out.nfe, out.x


def peer_contenders(peers: Iterable[Peer], every: bool) -> Iterator[Contender]:
    for peer in peers:
        library, _, solver = peer.name.partition(" ")
        for grid in GRIDS if every else peer.grids:
            yield Contender(library, solver, grid, partial(_solve_peer, peer, grid))


def _solve_peer(
    peer: Peer, grid: str, model: GaussianMixtureScore, x: Tensor, steps: int, seed: int
) -> tuple[int, Tensor]:
    calls = 0

    def denoise(y: Tensor, level: float) -> Tensor:
        nonlocal calls
        calls += 1
        t = torch.tensor(level, dtype=torch.float64)
        return torch.cat([model.denoise(part, t) for part in y.split(_rows(model))])

    torch.manual_seed(seed)
    with torch.no_grad():
        out = peer.run(denoise, x, GRIDS[grid](steps, model.sde.t_min, model.sde.t_max))
    return calls, out.to(x)


class Budget:
    """How many steps of a contender stay within a number of evaluations, and whether it draws noise."""

    def __init__(self, contender: Contender, model: GaussianMixtureScore, x: Tensor) -> None:
        self._solve, self._model, self._x = contender.solve, model, x[:2]
        self._counts: dict[int, int] = {}

    @property
    def stochastic(self) -> bool:
        first, second = (self._solve(self._model, self._x, 6, seed)[1] for seed in (0, 1))
        return not bool((first == second).all())

    def evaluations(self, steps: int) -> int:
        if steps not in self._counts:
            self._counts[steps] = self._solve(self._model, self._x, steps, 0)[0]
        return self._counts[steps]

    def steps(self, budget: int) -> int:
        """0 if one step is already too many."""
        rate = self.evaluations(7) - self.evaluations(6)
        steps = max(1, 6 + (budget - self.evaluations(6)) // max(rate, 1))
        while steps and self.evaluations(steps) > budget:
            steps -= 1
        return steps


# ---------------------------------------------------------------- tables


@dataclass(frozen=True)
class Row:
    """A measurement: an endpoint error, or a sliced Wasserstein distance."""

    table: str
    problem: str
    library: str
    solver: str
    grid: str
    budget: int
    value: float

    def __str__(self) -> str:
        return f"{self.solver if self.library == OURS else f'{self.library} {self.solver}'}, {self.grid}"


def measure(
    contenders: Iterable[Contender],
    table: str,
    problem: str,
    model: GaussianMixtureScore,
    x: Tensor,
    budgets: Sequence[int],
    value: Callable[[Tensor], float],
    failures: Failures,
) -> Iterator[Row]:
    """Those contenders that belong to the table, at every budget."""
    for contender in contenders:
        start = time.perf_counter()
        try:
            budget = Budget(contender, model, x)
            if budget.stochastic != (table == "stochastic"):
                continue
        except Exception as error:  # whatever another library or a grid that does not suit a solver may raise
            failures.add(contender, error)
            continue
        for allowed in budgets:
            try:
                steps = budget.steps(allowed)
                result = value(contender.solve(model, x, steps, 0)[1]) if steps else math.nan
            except Exception as error:
                failures.add(contender, error)
                continue
            if math.isfinite(result):
                yield Row(table, problem, contender.library, contender.solver, contender.grid, allowed, result)
        print(f"{table}, {problem}: {contender} {time.perf_counter() - start:.1f} s", file=sys.stderr)


def distance(true: Tensor) -> Callable[[Tensor], float]:
    """RMS over the samples of the distance to `true`."""
    return lambda x: float((x - true).flatten(1).norm(dim=1).square().mean().sqrt())


def tolerances(pattern: str, problem: str, model: GaussianMixtureScore, x: Tensor, true: Tensor) -> Iterator[list[str]]:
    """Solvers with a step size of their own, by tolerance."""
    for name, config in presets().items():
        # One interval of the grid is enough for these.
        if (
            not re.search(pattern, name)
            or "rtol" not in config.get("solver", {})
            or not adapts(instantiate(config.solver, _convert_="all"))
        ):
            continue
        for power in range(2, 10):
            solver = instantiate(config.solver, rtol=10.0**-power, atol=10.0**-power)
            grid = ExplicitTimes([model.sde.t_max, model.sde.t_min])
            sampler = Sampler(solver, grid, denoise=False)
            out, again = (sampler(model, x_init=x, seed=seed) for seed in (0, 1))
            if bool((out.x != again.x).any()):
                break
            yield [problem, name, f"1e-{power}", f"{out.nfe}", f"{distance(true)(out.x):.2e}"]


def tuned(
    problem: str,
    model: GaussianMixtureScore,
    x: Tensor,
    leaders: dict[int, list[Contender]],
    seconds: float,
) -> Iterator[list[str]]:
    """Tuned steps beside the best peers, all on starts that neither tuning nor the choice of these peers saw.

    Many starts: one that ends in another mode is most of the error of 500.
    """
    value = distance(endpoints(model, x, 1e-7))
    for budget, peers in leaders.items():
        begin = time.perf_counter()
        made = tune(copy.deepcopy(model).float(), budget, seconds=seconds, batch_size=2 * _rows(model), seed=1)
        spent = time.perf_counter() - begin
        out = made.sampler()(model, x_init=x, batch_size=_rows(model))
        assert out.nfe == budget
        error = value(out.x)
        theirs = {value(p.solve(model, x, Budget(p, model, x).steps(budget), 0)[1]): str(p) for p in peers}
        peer = min(theirs, default=math.nan)
        errors = [f"{v:.2e}" for v in (error, made.error, peer)]
        yield [
            problem,
            f"{budget}",
            *errors,
            theirs.get(peer, "none"),
            f"{error / peer:.2f}",
            f"{made.starts}",
            f"{spent:.0f}",
        ]


def ode_orders(pattern: str, steps: Sequence[int], failures: Failures) -> Iterator[list[str]]:
    """Endpoint errors on a wide mixture, uniform in λ, and the slope of the last two above round-off."""
    means = torch.tensor([[1.0, 0.0], [-0.5, 0.8], [-0.5, -0.9]], dtype=torch.float64)
    widths = torch.tensor([0.3, 0.4, 0.5], dtype=torch.float64) ** 2
    for sde in ORDER_SDES:
        model = GaussianMixtureScore(torch.ones(3), means, widths, sde)
        x = model.sample(64, sde.t_max, torch.Generator().manual_seed(0))
        true = endpoints(model, x, 1e-12)
        for contender in our_contenders(pattern, ("λ",), failures):
            if contender.grid != "λ":
                continue
            try:
                if Budget(contender, model, x).stochastic:
                    continue
                errors = [distance(true)(contender.solve(model, x, n, 0)[1]) for n in steps]
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
            solver = contender.solve.args[0]()  # type: ignore[attr-defined]
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


# ---------------------------------------------------------------- output


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def best(rows: Iterable[Row]) -> Row | None:
    return min(rows, key=lambda row: row.value, default=None)


def summary(rows: Sequence[Row], floor: float = 0.0) -> str:
    """Best of ours, the default and the best peer at every budget."""
    header = ["NFE", "best of ours", "which", "`default`", "best peer", "which", "ours / peer", "default / ours"]
    lines = []
    for budget in sorted({row.budget for row in rows}):
        here = [row for row in rows if row.budget == budget]
        mine = best(row for row in here if row.library == OURS)
        peer = best(row for row in here if row.library != OURS)
        default = best(row for row in here if row.library == OURS and (row.solver, row.grid) == ("default", OWN))
        lines.append(
            [
                str(budget),
                _number(mine),
                str(mine or "–"),
                _number(default),
                _number(peer),
                str(peer or "–"),
                f"{mine.value / peer.value:.2f}" if mine and peer else "–",
                f"{default.value / mine.value:.2f}" if default and mine else "–",
            ]
        )
    return markdown(header, lines)


def _number(row: Row | None) -> str:
    return "–" if row is None else f"{row.value:.3g}" if row.table == "stochastic" else f"{row.value:.2e}"


def by_solver(rows: Sequence[Row]) -> str:
    """Each solver on the grid that is the best for it at each budget; ours first, then by library."""
    budgets = sorted({row.budget for row in rows})
    names = sorted({(row.library != OURS, row.library, row.solver) for row in rows})
    lines = []
    for _, library, solver in names:
        mine = [row for row in rows if (row.library, row.solver) == (library, solver)]
        values = [best(row for row in mine if row.budget == budget) for budget in budgets]
        grid = max({row.grid for row in mine}, key=lambda g: sum(v is not None and v.grid == g for v in values))
        lines.append([library, solver, *map(_number, values), grid])
    return markdown(["library", "solver", *map(str, budgets), "mostly on"], lines)


def picture(rows: Sequence[Row], floors: dict[tuple[str, str], float], path: Path) -> None:
    """The best of each library at each budget."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    panels = sorted({(row.table, row.problem) for row in rows})
    figure, axes = pyplot.subplots(1, len(panels), figsize=(5 * len(panels), 4), squeeze=False)
    for (table, problem), axis in zip(panels, axes[0], strict=True):
        here = [row for row in rows if (row.table, row.problem) == (table, problem)]
        for library in sorted({row.library for row in here}, key=lambda name: (name != OURS, name)):
            _frontier(axis, [row for row in here if row.library == library], library, 2.5 if library == OURS else 1)
        default = [row for row in here if row.library == OURS and (row.solver, row.grid) == ("default", OWN)]
        if default:
            _frontier(axis, default, "scoresde, default", 1.5, "--")
        if (table, problem) in floors:
            axis.axhline(floors[table, problem], color="grey", lw=1, ls=":", label="exact samples")
        axis.set(xscale="log", yscale="log", title=f"{problem}, {table}", xlabel="network evaluations")
        if (table, problem) in floors:
            # Some blow up on few steps.
            axis.set_ylim(top=min(axis.get_ylim()[1], 50 * floors[table, problem]))
        axis.set_ylabel("endpoint error" if table == "deterministic" else "sliced Wasserstein distance")
        ticks = sorted({row.budget for row in here})
        axis.set_xticks(ticks, [str(t) for t in ticks])
        axis.minorticks_off()
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _frontier(axis: Any, rows: Sequence[Row], label: str, width: float, style: str = "-") -> None:
    budgets = sorted({row.budget for row in rows})
    values = [min(row.value for row in rows if row.budget == budget) for budget in budgets]
    axis.plot(budgets, values, style, lw=width, marker=".", label=label)


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables = ("deterministic", "tuned", "stochastic", "tolerances", "orders")
    out.add_argument("--tables", nargs="+", choices=tables, default=list(tables))
    out.add_argument("--problem", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    out.add_argument("--solvers", default="", metavar="REGEX", help="of our solvers, those whose name matches")
    out.add_argument("--grids", nargs="+", default=list(FEW_GRIDS), help="for our solvers; `all` for all")
    out.add_argument("--nfe", nargs="+", type=int, default=list(BUDGETS), metavar="N")
    out.add_argument(
        "--peers", nargs="?", const="few", choices=("few", "all"), help="those that lead, or all on all grids"
    )
    out.add_argument("--peer-path", nargs="+", default=[], metavar="CLONE", help="of libraries that are not packages")
    out.add_argument("--starts", type=int, default=512, help="of deterministic solves")
    out.add_argument("--samples", type=int, default=10_000, help="of stochastic solves")
    out.add_argument("--tune-seconds", type=float, default=240, help="for each tuned row")
    out.add_argument("--seed", type=int, default=0, help="of the starts")
    out.add_argument("--quick", action="store_true", help="some minutes: fewer starts, samples, budgets and grids")
    out.add_argument("--out", type=Path, metavar="DIRECTORY", help="for solvers.md, solvers.csv and solvers.png")
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    if options.quick:
        options.nfe = [n for n in options.nfe if n in (5, 10, 20, 50)]
        options.tune_seconds = min(options.tune_seconds, 10)
        options.starts, options.samples = min(options.starts, 128), min(options.samples, 1000)
        options.grids = ["λ", "data × 0.25"]
    grids = OUR_GRIDS if options.grids == ["all"] else options.grids
    unknown = set(grids) - set(OUR_GRIDS)
    if unknown:
        sys.exit(f"unknown grids: {', '.join(sorted(unknown))}; known: {', '.join(OUR_GRIDS)}")
    peers, missing = load_peers(options.peer_path) if options.peers else ([], [])
    failures, rows, parts = Failures(), [], []
    floors: dict[tuple[str, str], float] = {}
    if missing:
        parts.append("Missing: " + "; ".join(missing))

    def contenders() -> Iterator[Contender]:
        yield from our_contenders(options.solvers, grids, failures)
        yield from peer_contenders(peers, options.peers == "all")

    for name in options.problem:
        model = PROBLEMS[name]()
        generator = torch.Generator().manual_seed(options.seed)
        if {"deterministic", "tolerances"} & set(options.tables):
            x = model.sample(options.starts, model.sde.t_max, generator)
            true = endpoints(model, x)
        if "deterministic" in options.tables:
            found = list(measure(contenders(), "deterministic", name, model, x, options.nfe, distance(true), failures))
            rows += found
            parts += [f"## {name}: endpoint error of {len(x)} starts", summary(found), by_solver(found)]
        if "tuned" in options.tables:
            theirs = sorted(
                (r for r in rows if r.table == "deterministic" and r.problem == name), key=lambda r: r.value
            )
            named = {str(c): c for c in peer_contenders(peers, options.peers == "all")}
            leaders = {
                n: [named[str(r)] for r in theirs if r.budget == n and r.library != OURS][:3]
                for n in options.nfe
                if n <= 10
            }
            other = torch.Generator().manual_seed(options.seed + 1)
            fresh = model.sample(8 * options.starts, model.sde.t_max, other)
            lines = list(tuned(name, model, fresh, leaders, options.tune_seconds))
            head = ["problem", "NFE", "error", "on kept starts", "best peer", "which", "ratio", "starts", "seconds"]
            parts += [f"## {name}: tuned", markdown(head, lines)]
        if "tolerances" in options.tables:
            lines = list(tolerances(options.solvers, name, model, x, true))
            if lines:
                parts.append(markdown(["problem", "solver", "tolerance", "NFE", "error"], lines))
        if "stochastic" in options.tables and name != "ring":
            count, end = options.samples, model.sde.t_min
            exact = [model.sample(count, end, generator).float() for _ in range(4)]
            start = model.sample(count, model.sde.t_max, generator).float()
            value = partial(_sliced, exact[0])
            floor = torch.tensor([value(other) for other in exact[1:]])
            budgets = [n for n in options.nfe if n <= 50]
            found = list(measure(contenders(), "stochastic", name, model, start, budgets, value, failures))
            rows += found
            floors["stochastic", name] = float(floor.mean())
            parts.append(
                f"## {name}: sliced Wasserstein distance of {count} samples\n\n"
                f"Exact samples against exact: {floor.mean():.4f} ± {floor.std():.4f}"
            )
            parts += [summary(found), by_solver(found)]
    if "orders" in options.tables:
        steps = (20, 40, 80, 160)
        head = [*map(str, steps), "slope"]
        parts.append("## Orders\n\nEndpoint error by steps:")
        parts.append(markdown(["SDE", "solver", *head], ode_orders(options.solvers, steps, failures)))
        steps = (16, 64, 256, 512)
        head = [*map(str, steps), "slope"]
        parts.append("Relative error of a Gaussian's variance by steps:")
        parts.append(markdown(["SDE", "solver", *head], weak_orders(options.solvers, steps, failures)))
    if failures.lines:
        parts.append("Not run:\n\n" + "\n".join(f"- {name}: {why}" for name, why in failures.lines.items()))
    text = "\n\n".join(parts)
    print(text)
    if options.out is not None:
        save(options.out, text, rows, floors)


def _sliced(exact: Tensor, x: Tensor) -> float:
    return sliced_wasserstein(x, exact).value if bool(x.isfinite().all()) else math.nan


def save(folder: Path, text: str, rows: Sequence[Row], floors: dict[tuple[str, str], float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "solvers.md").write_text(text + "\n", encoding="utf-8")
    names = [field.name for field in fields(Row)]
    with (folder / "solvers.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([getattr(row, name) for name in names] for row in rows)
    if rows:
        picture(rows, floors, folder / "solvers.png")


if __name__ == "__main__":
    main()
