"""How samplers of inverse problems that are right in the limit come to the exact posterior, and others do not.

    python benchmarks/inverse_limits.py [--problems ring digits] [--runs 8] [--samples 500] [--methods tds pnp-dm ...]

The priors are mixtures of Gaussians, whose posteriors are known: eight in a ring in the plane, of which the first
coordinate is measured, and ten in 64 dimensions that are fitted to the digits, of which the upper half is measured,
each with noise of standard deviation 0.1. A run has a sample of the prior, its measurement, and as many draws of each
method as of the exact posterior. Distances are sliced 2-Wasserstein distances; `exact` is that of two sets of exact
draws, the sampling floor, and "above" what a method's is above that of the same run. Errors are standard errors over
runs.
"""

import argparse
import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from solvers import digits, ring
from torch import Tensor

from scoresde.inverse import (
    DAPS,
    DDNM,
    DDRM,
    MMPS,
    TDS,
    DiffPIR,
    ExactPosterior,
    GaussianNoise,
    Mask,
    Measurement,
    Method,
    PnPDM,
    Problem,
    WholeGradient,
    restore,
)
from scoresde.metrics import sliced_wasserstein
from scoresde.score import GaussianMixtureScore

NOISE = 0.1
PRIORS = {"ring": ring, "digits": digits}
UPPER = torch.arange(64) < 32


class Contender(NamedTuple):
    """A method with its number of steps."""

    name: str
    method: Method
    steps: int


def contenders(names: list[str]) -> Iterator[Contender]:
    """Those that are right in the limit with what is taken to it, and others with 100 steps."""
    if "tds" in names:
        for particles in (1, 4, 16, 64):
            yield Contender(f"TDS, {particles} particles", TDS(particles), 100)
        yield Contender('TDS, 16 particles, twist="mean"', TDS(16, "mean"), 100)
    if "pnp-dm" in names:
        for sweeps, steps in ((10, 10), (30, 10), (100, 10), (100, 40), (1000, 10), (3000, 10)):
            yield Contender(f"PnP-DM, {sweeps} sweeps of {steps}", PnPDM(prior_steps=steps), sweeps)
    if "published" in names:
        for rho in (0.3, 0.1, 0.03):
            yield Contender(f"PnP-DM as published, ρ = {rho}", PnPDM(rho, prior_steps=40, unbiased=False), 100)
    if "others" in names:
        yield Contender("DDRM", DDRM(), 100)
        yield Contender("DDNM", DDNM(), 100)
        yield Contender("DiffPIR", DiffPIR(), 100)
        yield Contender("DAPS, exact draws", DAPS(langevin_steps=None), 100)
        yield Contender("MMPS", MMPS(), 100)
        yield Contender("whole gradient", WholeGradient(), 100)


class Case(NamedTuple):
    """A measurement, with two sets of exact draws of its posterior."""

    given: Measurement
    exact: Tensor
    other: Tensor

    @classmethod
    def of(cls, prior: GaussianMixtureScore, seed: int, samples: int) -> "Case":
        shape = prior.shape
        assert shape is not None
        mask = Mask(UPPER) if len(UPPER) == shape[0] else Mask(torch.tensor([True, False]))
        problem = Problem(mask, GaussianNoise(NOISE))
        source = torch.Generator().manual_seed(seed)
        given = problem.measure(prior.sample(1, 0.0, source), seed=seed)
        posterior = ExactPosterior(prior, problem).given(given.y[0])
        return cls(given, posterior.sample(samples, 0.0, source), posterior.sample(samples, 0.0, source))


def distance(a: Tensor, b: Tensor) -> float:
    return sliced_wasserstein(a.double(), b, 128).value


def with_error(values: list[float]) -> str:
    """Mean and standard error of runs."""
    found = torch.tensor(values, dtype=torch.float64)
    return f"{float(found.mean()):.4f} ± {float(found.std()) / math.sqrt(len(found)):.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=list(PRIORS), choices=list(PRIORS))
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--samples", type=int, default=500)
    kinds = ["tds", "pnp-dm", "published", "others"]
    parser.add_argument("--methods", nargs="+", default=kinds, choices=kinds)
    args = parser.parse_args()
    for name in args.problems:
        prior = PRIORS[name]()
        cases = [Case.of(prior, seed, args.samples) for seed in range(args.runs)]
        floors = [distance(case.exact, case.other) for case in cases]
        model = PRIORS[name]().float()
        print(f"\n{name}: {args.samples} samples, {args.runs} runs")
        print(f"| {'method':<32} | evaluations | distance | above exact | seconds |\n|---|---|---|---|---|")
        print(f"| {'exact':<32} | | {with_error(floors)} | | |", flush=True)
        for contender in contenders(args.methods):
            began, found, nfe = time.perf_counter(), [], 0
            for seed, case in enumerate(cases):
                out = restore(
                    model, case.given, contender.method, samples=args.samples, steps=contender.steps, seed=1000 + seed
                )
                found.append(distance(out.x[0], case.other))
                nfe = out.nfe
            seconds = (time.perf_counter() - began) / args.runs
            above = [a - b for a, b in zip(found, floors, strict=True)]
            print(
                f"| {contender.name:<32} | {nfe} | {with_error(found)} | {with_error(above)} | {seconds:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
