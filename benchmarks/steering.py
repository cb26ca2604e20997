"""The distance of steered and of guided samples to the density p(x | c)^w p(x)^(1 − w), of which exact draws are known.

    python benchmarks/steering.py [--scales 2 4 8] [--steps 200] [--particles 4096] [--runs 4] [--ramp 0.5]
        [--pairs plane space]

The pairs are Gaussian mixtures, in 2 and in 64 dimensions, of which the first components are the condition c. Since
p(x | c)^w p(x)^(1 − w) is p(x | c) p(c | x)^(w − 1) up to a constant, a draw of p(x | c) that is kept with probability
p(c | x)^(w − 1) is an exact draw, and the mean of that probability gives Z. Distances are sliced Wasserstein distances
to exact draws, of as many samples as there are particles; weighted samples are resampled first. `exact` is the distance
of two sets of exact draws: the sampling floor. `constant powers` has the powers of the target at all times and steps of
order 1, as Feynman-Kac correctors are published. Every run has draws of its own on both sides, and errors are standard
errors over runs.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scoresde.guidance import ClassifierFree, GuidedTarget
from scoresde.metrics import sliced_wasserstein
from scoresde.sampling import DPMSolverPP, EDMHeun, KarrasGrid, Sampler, SteeredSampler, UniformLogSNR
from scoresde.score import GaussianMixtureScore, ScoreModel
from scoresde.sde import EDMSDE

SDE = EDMSDE(0.01, 20.0)
F64 = torch.float64


class Pair(NamedTuple):
    """A model of all data, one of those of a condition, and the logarithm of the condition's probability."""

    every: GaussianMixtureScore
    given: GaussianMixtureScore
    log_share: float

    def log_classified(self, x: Tensor) -> Tensor:
        """log p(c | x) of samples at t_min, `(B,)`."""
        t = SDE.t_min_sampling
        return self.log_share + self.given.log_prob(x.double(), t) - self.every.log_prob(x.double(), t)

    def draws(self, scale: float, count: int, seed: int) -> Tensor:
        """Exact draws of the density of a scale of at least 1, `(count, D)`."""
        generator = torch.Generator().manual_seed(seed)
        found: list[Tensor] = []
        while sum(map(len, found)) < count:
            x = self.given.sample(count, SDE.t_min_sampling, generator)
            chance = (scale - 1) * self.log_classified(x)
            found.append(x[torch.rand(len(x), dtype=F64, generator=generator).log() < chance])
        return torch.cat(found)[:count]

    def log_z(self, scale: float, count: int = 200_000) -> float:
        """The logarithm of ∫ p(x | c)^w p(x)^(1 − w) dx, by the mean of p(c | x)^(w − 1)."""
        x = self.given.sample(count, SDE.t_min_sampling, torch.Generator().manual_seed(10**6))
        chance = (scale - 1) * self.log_classified(x)
        return float(chance.logsumexp(0)) - math.log(count) - (scale - 1) * self.log_share


def pair(size: int) -> Pair:
    """Six components, on a circle in the plane or at random places, of which two are the condition."""
    generator = torch.Generator().manual_seed(1)
    if size == 2:
        angle = torch.arange(6, dtype=F64) * math.pi / 3
        means = torch.stack((angle.cos(), angle.sin()), 1)
    else:
        means = 0.1 * torch.randn(6, size, dtype=F64, generator=generator)
    variances = 0.05 + 0.25 * torch.rand(6, size, dtype=F64, generator=generator)
    if size > 2:
        # Widths that differ in every direction would tell the components apart in 64 dimensions.
        variances = variances[:1] * torch.linspace(0.9, 1.1, 6, dtype=F64)[:, None]
    weights = torch.tensor([0.1, 0.2, 0.15, 0.25, 0.2, 0.1], dtype=F64)
    given = GaussianMixtureScore(weights[:2], means[:2], variances[:2], SDE)
    return Pair(GaussianMixtureScore(weights, means, variances, SDE), given, math.log(float(weights[:2].sum())))


class Run(NamedTuple):
    """Samples of equal weight `(n, D)`, log Z if it was estimated, and the smallest effective sample size."""

    x: Tensor
    log_z: float = math.nan
    ess: float = math.nan


def methods(
    models: Pair, scale: float, steps: int, count: int, ramp: float
) -> Iterator[tuple[str, Callable[[int], Run]]]:
    """The name of each method, and a function of a seed that runs it."""
    options: dict[str, Any] = {"dtype": torch.float32}

    def plain(sampler: Sampler, model: ScoreModel) -> Callable[[int], Run]:
        return lambda seed: Run(sampler(model, (count, *models.every.shape), seed=seed, **options).x)  # type: ignore[misc]

    def steered(longer: int = 1, **settings: Any) -> Callable[[int], Run]:
        grid, target = UniformLogSNR(longer * steps), GuidedTarget(scale, models.every)
        sampler = SteeredSampler(grid, target, count, denoise=False, **settings)

        def run(seed: int) -> Run:
            out = sampler(models.given, seed=seed, **options)
            return Run(out.resample(seed), out.log_normaliser, float(out.ess.min()))

        return run

    sde = Sampler(DPMSolverPP(2, sde=True), UniformLogSNR(steps), denoise=False)
    guided = ClassifierFree(models.given, scale, models.every)
    yield "exact", lambda seed: Run(models.draws(scale, count, 1000 + seed))
    yield "no guidance", plain(sde, models.given)
    yield "guided ODE", plain(Sampler(EDMHeun(), KarrasGrid(60), denoise=False), guided)
    yield "guided SDE", plain(sde, guided)
    yield "constant powers", steered(order=1, ramp=None)
    yield "steered", steered(ramp=ramp)
    yield "steered, 4 x steps", steered(longer=4, ramp=ramp)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scales", type=float, nargs="+", default=[2.0, 4.0, 8.0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--particles", type=int, default=4096)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--ramp", type=float, default=0.5)
    parser.add_argument("--pairs", nargs="+", default=["plane", "space"], choices=["plane", "space"])
    args = parser.parse_args()
    print(f"{args.particles} samples, {args.steps} steps, {args.runs} runs")
    print(
        f"{'pair':<7}{'scale':>6}  {'method':<20}{'distance':>18}{'error of log Z':>18}{'least ESS':>11}{'seconds':>9}"
    )
    for name in args.pairs:
        models = pair({"plane": 2, "space": 64}[name])
        for scale in args.scales:
            log_z = models.log_z(scale)
            for method, run in methods(models, scale, args.steps, args.particles, args.ramp):
                began = time.perf_counter()
                done = [run(seed) for seed in range(args.runs)]
                seconds = (time.perf_counter() - began) / args.runs
                exact = [models.draws(scale, args.particles, 2000 + seed) for seed in range(args.runs)]
                far = [sliced_wasserstein(r.x, e, 128).value for r, e in zip(done, exact, strict=True)]
                errors = [r.log_z - log_z for r in done]
                least = sum(r.ess for r in done) / len(done)
                ess = "" if math.isnan(least) else f"{least:.2f}"
                print(
                    f"{name:<7}{scale:>6g}  {method:<20}{with_error(far):>18}{with_error(errors):>18}{ess:>11}"
                    f"{seconds:>9.1f}",
                    flush=True,
                )


def with_error(values: list[float]) -> str:
    """Mean and standard error of runs, or nothing."""
    found = torch.tensor(values, dtype=F64)
    if not bool(found.isfinite().all()):
        return ""
    return f"{float(found.mean()):.4f} ± {float(found.std()) / math.sqrt(len(found)):.4f}"


if __name__ == "__main__":
    main()
