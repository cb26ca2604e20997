"""Whether log-densities lie within their standard errors, of solver and probes together, on the family of problems.

    python benchmarks/likelihood_bars.py [--kinds KIND ...] [--seeds N ...] [--learned] [--nats 1e-4] [--out DIRECTORY]

Problems are drawn from kinds and seeds (`problems.py`), which rules were not developed on: dimensions 1 to 784, low
ranks, heavy tails, tight and distant modes. Every problem is under one of five SDEs, which its seed and kind choose in
turns, or with `--crossed` under each. Its exact density is compared with the log-likelihood of draws by every
estimator of the divergence. With `--learned` scores are also taken as if a network had them, without what is known of
exact ones.

Coverage is the share of draws whose truth lies within two standard errors; with the binomial standard error, and that
from the scatter of the problems' shares, which is larger since draws of a problem are alike. The quantiles are of
|error|/standard error: 2 at .95 if errors are stated as they are, and normal, and less if errors are overstated.
"""

import argparse
import csv
import itertools
import math
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from likelihood_models import Counted, clock
from problems import KINDS, make_problem
from rows import markdown

from scoresde.likelihood import Auto, Exact, Hutchinson, Probing, log_likelihood
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE, CosineSDE, SubVPSDE

__all__ = ["Draw", "coverage", "draws", "table"]

SDES: dict[str, Callable[[], SDE]] = {
    "vp": VPSDE,
    "subvp": SubVPSDE,
    "ve": partial(VESDE, 0.002, 50.0),
    "edm": partial(EDMSDE, 0.002, 80.0),
    "cosine": CosineSDE,
}
ESTIMATORS: dict[str, Callable[[], Any]] = {
    "Exact": Exact,
    "Hutchinson(1)": Hutchinson,
    "Hutchinson(2)": partial(Hutchinson, 2),
    "Hutchinson(2, gaussian)": partial(Hutchinson, 2, "gaussian"),
    "Hutchinson(2, orthogonal)": partial(Hutchinson, 2, "orthogonal"),
    "Probing(16)": partial(Probing, 16),
    "Auto(0.5)": partial(Auto, 0.5),
}
SEEDS = tuple(range(200, 208))
MANY = 128  # dimensions, from which on a quarter of the draws is enough
LEVEL = 2.0  # standard errors
ROUNDING = 1e-10  # nats that the truth itself may be off by


class Learned(Counted):
    """A score that is not said to be exact."""

    @property
    def exact(self) -> bool:
        return False


@dataclass(frozen=True)
class Draw:
    """The error of one log-density, in nats, and what was said of it."""

    kind: str
    seed: int
    sde: str
    dim: int
    score: str  # exact or learned
    tolerance: float  # nats for each dimension
    estimator: str
    error: float
    probes: float  # standard errors
    solver: float
    seconds: float

    @property
    def multiple(self) -> float:
        """|error| in standard errors, to which what the truth is rounded by is added."""
        return abs(self.error) / math.hypot(self.probes, self.solver, ROUNDING)

    @property
    def problem(self) -> tuple[str, int, str]:
        return self.kind, self.seed, self.sde


def draws(kind: str, seed: int, sde: str, learned: bool, tolerances: Sequence[float], points: int) -> Iterator[Draw]:
    """The errors of a problem by all estimators. Those that the exact trace replaces are left out."""
    problem = make_problem(kind, seed, SDES[sde]())
    density = problem.density
    assert isinstance(density, GaussianMixtureScore)
    model = Learned(density) if learned else Counted(density)
    count = points if problem.dim < MANY else max(1, points // 4)
    x = density.sample(count, model.sde.t_min, torch.Generator().manual_seed(seed))
    true = density.log_prob(x, model.sde.t_min)
    for (name, make), tolerance in itertools.product(ESTIMATORS.items(), tolerances):
        divergence = make()
        if name != "Exact" and isinstance(divergence.for_shape(tuple(x.shape[1:])), Exact):
            continue
        start = clock()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = log_likelihood(model, x, divergence=divergence, tol=tolerance * problem.dim, seed=seed)
        spent = (clock() - start) / count
        kept = kind, seed, sde, problem.dim, "learned" if learned else "exact", tolerance, name
        for error, probes, solver in zip(out.log_prob - true, out.stderr, out.solver_stderr, strict=True):
            yield Draw(*kept, float(error), float(probes), float(solver), spent)


def coverage(found: Sequence[Draw]) -> tuple[float, float, float]:
    """The share of draws within two standard errors; its binomial standard error, and that over problems."""
    inside = [d.multiple <= LEVEL for d in found]
    share = statistics.fmean(inside)
    shares: dict[tuple[str, int, str], list[float]] = {}
    for d, within in zip(found, inside, strict=True):
        shares.setdefault(d.problem, []).append(within - share)
    # Sums of problems are independent; those of draws within one are not.
    between = math.sqrt(sum(sum(v) ** 2 for v in shares.values())) / len(found)
    return share, math.sqrt(share * (1 - share) / len(found)), between


def table(found: Sequence[Draw], label: str, by: Callable[[Draw], str]) -> str:
    """A row for every value of `by`, and for all."""
    head = [label, "draws", "within 2 stderr", "binomial error", "over problems", "q50", "q90", "q95", "q99"]
    head += ["median probes, nats", "median solver, nats", "largest error, nats"]
    lines = []
    for value in [*dict.fromkeys(map(by, found)), None]:
        here = [d for d in found if value is None or by(d) == value]
        share, binomial, between = coverage(here)
        multiples = torch.tensor([d.multiple for d in here], dtype=torch.float64)
        lines.append(
            [
                "all" if value is None else value,
                str(len(here)),
                f"{share:.3f}",
                f"{binomial:.3f}",
                f"{between:.3f}",
                *(f"{float(multiples.quantile(q)):.2f}" for q in (0.5, 0.9, 0.95, 0.99)),
                f"{statistics.median(d.probes for d in here):.2g}",
                f"{statistics.median(d.solver for d in here):.2g}",
                f"{max(abs(d.error) for d in here):.2g}",
            ]
        )
    return markdown(head, lines)


def report(found: Sequence[Draw]) -> str:
    """Tables of coverage for exact and learned scores at each tolerance."""
    parts = ["# Error bars of log-likelihoods"]
    for score, tolerance in dict.fromkeys((d.score, d.tolerance) for d in found):
        here = [d for d in found if (d.score, d.tolerance) == (score, tolerance)]
        parts.append(f"## {score} scores, tol {tolerance:g} nats/dim, {sum(d.seconds for d in here):.0f} s")
        parts.append(table(here, "estimator", lambda d: d.estimator))
        parts.append(table(here, "kind", lambda d: d.kind))
        parts.append(table(here, "SDE", lambda d: d.sde))
        parts.append(table([d for d in here if d.estimator == "Exact"], "kind, Exact alone", lambda d: d.kind))
    return "\n\n".join(parts)


def save(folder: Path, text: str, found: Sequence[Draw]) -> None:
    """bars.md and bars.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bars.md").write_text(text + "\n", encoding="utf-8")
    names = [f.name for f in fields(Draw)]
    with (folder / "bars.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([getattr(d, n) for n in names] for d in found)


def parser() -> argparse.ArgumentParser:
    kinds = [kind for kind in KINDS if kind != "guided"]  # which no density has
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--kinds", nargs="+", choices=kinds, default=kinds, help="of problems")
    out.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="of problems, draws and probes")
    out.add_argument("--sdes", nargs="+", choices=list(SDES), default=list(SDES))
    out.add_argument("--crossed", action="store_true", help="every problem under every SDE, not one in turns")
    out.add_argument("--learned", action="store_true", help="scores that are not said to be exact as well")
    out.add_argument("--nats", nargs="+", type=float, default=[1e-4], metavar="X", help="tolerances per dimension")
    out.add_argument("--points", type=int, default=8, help="draws of a problem; a quarter in many dimensions")
    out.add_argument("--out", type=Path, metavar="DIRECTORY", help="for bars.md and bars.csv")
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    torch.set_num_threads(1)
    found: list[Draw] = []
    text = ""
    for learned in (False, True) if options.learned else (False,):
        for (row, kind), (column, seed) in itertools.product(enumerate(options.kinds), enumerate(options.seeds)):
            turn = options.sdes[(row + column) % len(options.sdes)]
            for sde in options.sdes if options.crossed else (turn,):
                found += draws(kind, seed, sde, learned, options.nats, options.points)
            print(f"{kind} {seed}, {'learned' if learned else 'exact'}: {len(found)} draws", file=sys.stderr)
        text = report(found)
        if options.out is not None:
            save(options.out, text, found)
    print(text)


if __name__ == "__main__":
    main()
