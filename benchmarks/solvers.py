"""Error against network evaluations of every solver, on two problems whose score is exact.

    python benchmarks/solvers.py [--quick] [--peers few --peer-path CLONE ...] [--out DIRECTORY]

Deterministic solvers: RMS distance of the endpoint to that of the true probability flow, from 512 draws of the
noised density at σ_max down to σ_min = 0.002, without a last denoising. Tuned: the same of `tune`, at up to 10
evaluations, on 8 times as many other starts, where the best peers are run again. Stochastic solvers: sliced
Wasserstein distance of 10,000 samples to 10,000 exact ones; for presets also the log-density that they lose, and how
wide they are along each direction and in each mode, which that distance does not see. Orders: slopes of the endpoint
error, and of the error of the variance of a Gaussian, under step halving. Solvers are the presets of `conf/sampler`
and the variants of `contenders.py`, each on every grid; a budget buys as many steps as stay within it.

    python benchmarks/solvers.py --family [development] [OPTIONS OF family.py]

Many problems that are drawn from seeds, and trained networks, with targets for the defaults: see `family.py`.

A single start can carry the error on the ring, so the figures of two seeds differ by up to 2; figures are to be
compared within one run, where all solvers have the same starts.
"""

import argparse
import copy
import math
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from contenders import (
    FEW_GRIDS,
    OUR_GRIDS,
    OURS,
    OWN,
    Budget,
    Contender,
    Counted,
    Failures,
    adapts,
    our_contenders,
    peer_contenders,
    presets,
)
from hydra.utils import instantiate
from peers import load_peers
from rows import Row, by_solver, distance, markdown, save, summary
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from solver_orders import ode_orders, weak_orders
from torch import Tensor
from truth import endpoints

from scoresde.compare import ExactReference
from scoresde.metrics import Estimate, sliced_wasserstein
from scoresde.sampling import ExplicitTimes, Sampler, tune
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE

BUDGETS = (5, 8, 10, 15, 20, 30, 50, 100, 200)
SIGMA_MIN = 0.002

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


# ---------------------------------------------------------------- tables


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
    counted = Counted(model)
    for contender in contenders:
        if contender.stochastic != (table == "stochastic"):
            continue
        start = time.perf_counter()
        try:
            budget = Budget(contender, counted, x)
        except Exception as error:  # whatever another library or a grid that does not suit a solver may raise
            failures.add(contender, error)
            continue
        for allowed in budgets:
            try:
                end = budget.end(allowed)
                result = math.nan if end is None else value(end)
            except Exception as error:
                failures.add(contender, error)
                continue
            if math.isfinite(result):
                yield Row(table, problem, contender.library, contender.solver, contender.grid, allowed, result)
        print(f"{table}, {problem}: {contender} {time.perf_counter() - start:.1f} s", file=sys.stderr)


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
    iterations: int | None,
) -> Iterator[list[str]]:
    """Tuned steps beside the best peers, all on starts that neither tuning nor the choice of these peers saw.

    Many starts: one that ends in another mode is most of the error of 500.
    """
    value, counted = distance(endpoints(model, x, 1e-7)), Counted(model)
    for budget, peers in leaders.items():
        begin = time.perf_counter()
        single = copy.deepcopy(model).float()
        made = tune(single, budget, seconds=seconds, iterations=iterations, batch_size=2 * counted.rows, seed=1)
        spent = time.perf_counter() - begin
        before = counted.calls[0]
        error = value(made.sampler()(counted, x_init=x).x)
        assert counted.calls[0] - before == budget
        ends = ((Budget(p, counted, x).end(budget), str(p)) for p in peers)
        theirs = {value(end): name for end, name in ends if end is not None}
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


# ---------------------------------------------------------------- output


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables = ("deterministic", "tuned", "stochastic", "tolerances", "orders")
    out.add_argument("--family", nargs="?", const="", help="many problems drawn from seeds; has options of its own")
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
    out.add_argument("--tune-iterations", type=int, metavar="N", help="instead of seconds: figures that repeat")
    out.add_argument("--seed", type=int, default=0, help="of the starts")
    out.add_argument("--quick", action="store_true", help="some minutes: fewer starts, samples, budgets and grids")
    out.add_argument("--out", type=Path, metavar="DIRECTORY", help="for solvers.md, solvers.csv and solvers.png")
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    given = sys.argv[1:] if arguments is None else arguments
    if "--family" in given:
        import family  # with all that it is measured by

        return family.main(given)
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
            lines = list(tuned(name, model, fresh, leaders, options.tune_seconds, options.tune_iterations))
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
            judge = Judge(model, exact[0])
            floor = torch.tensor([judge(other) for other in exact[1:]])
            lines = [["exact samples", "–", *judge.cells()]]
            budgets = [n for n in options.nfe if n <= 50]
            found = []
            for row in measure(contenders(), "stochastic", name, model, start, budgets, judge, failures):
                found.append(row)
                if row.grid == OWN and math.isfinite(row.value):
                    lines.append([str(row), str(row.budget), *judge.cells()])
            rows += found
            floors["stochastic", name] = float(floor.mean())
            parts.append(
                f"## {name}: sliced Wasserstein distance of {count} samples\n\n"
                f"Exact samples against exact: {floor.mean():.4f} ± {floor.std():.4f}"
            )
            parts += [summary(found), by_solver(found)]
            parts.append("By every measure, presets on their own grids:")
            parts.append(markdown(["solver", "NFE", "sliced Wasserstein", *Judge.TITLES], lines))
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


class Judge:
    """The sliced Wasserstein distance of samples to exact ones; the other measures of the last samples are kept."""

    MEASURES = ("nats_lost", "noise_left", "too_narrow", "weight_error", "widest", "narrowest")
    TITLES = tuple(name.replace("_", " ") for name in MEASURES)

    def __init__(self, model: GaussianMixtureScore, exact: Tensor) -> None:
        self._exact, self._reference = exact, ExactReference(model, len(exact), divergences=False)
        self._distance, self._last = math.nan, dict[str, Estimate]()

    def __call__(self, x: Tensor) -> float:
        self._distance, self._last = math.nan, {}
        if bool(x.isfinite().all()):
            # Of another number of samples than there are exact ones, so that no second distance is computed.
            self._distance, self._last = sliced_wasserstein(x, self._exact).value, self._reference(x[:-1])
        return self._distance

    def cells(self) -> list[str]:
        """The measures of the last samples as text."""
        return [f"{self._distance:.4f}", *(f"{self._last[name].value:.3g}" for name in self.MEASURES)]


if __name__ == "__main__":
    main()
