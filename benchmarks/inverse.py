"""The distance of posterior samples to the exact posterior, by method, problem and number of evaluations.

    python benchmarks/inverse.py [--budgets 50 100 200] [--methods mmps azula] [--measurements 4] [--samples 256]
        [--seed 0] [--output inverse.csv]

The prior is a mixture of ten Gaussians with full covariances, fitted to the 8×8 digits of scikit-learn in [−1, 1], so
that posteriors are mixtures in closed form. The problems are a random mask of half of the pixels, Gaussian blur, four
times fewer pixels, and 16 random projections, each with noise of standard deviation 0.05 and 0.3. A budget counts
evaluations of the model and products with its Jacobian alike, as `CountedModel` finds them; each method has as many
steps as it affords. A cell is `–` where a method refuses a case, cannot afford a step, or diverges, to numbers above
10⁶ or none; the file's last column says why. The distance is the sliced 2-Wasserstein distance to draws of the
exact posterior, of as many samples; `floor` is that of two sets of exact draws. Means and standard errors are over
measurements. Methods of azula and of deepinv are measured beside ours where these can be imported.
"""

import argparse
import csv
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from inverse_peers import Draw, azula_methods, deepinv_methods
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture
from torch import Tensor

from scoresde.inverse import (
    ALD,
    DAPS,
    DDNM,
    DDRM,
    DPS,
    ILVR,
    MCG,
    MMPS,
    TDS,
    TMPD,
    CompressedSensing,
    CountedModel,
    DiffPIR,
    Downsampling,
    ExactPosterior,
    GaussianBlur,
    GaussianNoise,
    LinearOperator,
    Mask,
    MatrixOperator,
    Measurement,
    Method,
    PiGDM,
    PnPDM,
    Problem,
    Projection,
    REDDiff,
    RePaint,
    WholeGradient,
)
from scoresde.metrics import sliced_wasserstein
from scoresde.score import GaussianMixtureScore, ScoreModel
from scoresde.sde import EDMSDE

SHAPE = (1, 8, 8)
NOISES = (0.05, 0.3)
DIVERGED = 1e6  # of samples in [−1, 1]
OURS: dict[str, Method] = {
    "DPS": DPS(),
    "ΠGDM": PiGDM(),
    "TMPD": TMPD(),
    "MMPS (1)": MMPS(),
    "MMPS (3)": MMPS(3),
    "whole gradient": WholeGradient(),
    "MCG": MCG(),
    "ALD": ALD(),
    "projection": Projection(),
    "ILVR": ILVR(),
    "RePaint (2, 5)": RePaint(2, 5),  # as published, with jumps of 10 steps, 50 evaluations leave none to resample
    "DDNM": DDNM(),
    "DDRM": DDRM(),
    "DiffPIR": DiffPIR(),
    "DAPS, exact draws": DAPS(langevin_steps=None),
    "RED-diff": REDDiff(),
    "PnP-DM": PnPDM(),
    "TDS (1)": TDS(1),
    "TDS (4)": TDS(4),
}


def digits_mixture() -> GaussianMixtureScore:
    """Ten Gaussians with full covariances, of the digits as vectors."""
    fitted = GaussianMixture(10, covariance_type="full", reg_covar=1e-3, random_state=0).fit(load_digits().data / 8 - 1)
    weights, means, covariances = map(torch.as_tensor, (fitted.weights_, fitted.means_, fitted.covariances_))
    return GaussianMixtureScore(weights, means, covariances, EDMSDE(0.002, 80.0))


def operators(seed: int) -> dict[str, LinearOperator]:
    """The operators, of a seed, on samples as vectors."""
    kept = torch.randperm(64, generator=torch.Generator().manual_seed(seed))[:32]
    mask = torch.zeros(64, dtype=torch.bool).index_fill_(0, kept, True).reshape(SHAPE)
    shaped = {
        "mask": Mask(mask),
        "blur": GaussianBlur(SHAPE, 1.0),
        "downsampling": Downsampling(SHAPE, 2),
        "compressed sensing": CompressedSensing(SHAPE, 16, seed=seed),
    }
    return {name: MatrixOperator(operator.matrix()) for name, operator in shaped.items()}


class Case(NamedTuple):
    """A problem, with measurements, exact posteriors of each, and the distances of exact draws."""

    name: str
    noise: float
    measurement: Measurement
    exact: list[GaussianMixtureScore]
    floor: list[float]


class Row(NamedTuple):
    """A line of the table."""

    method: str
    problem: str
    noise: float
    budget: int
    evaluations: float
    products: float
    distance: float
    stderr: float
    floor: float
    seconds: float
    steps: int
    refusal: str = ""

    @property
    def excess(self) -> float:
        return self.distance - self.floor


def cases(prior: GaussianMixtureScore, measurements: int, samples: int, seed: int) -> Iterator[Case]:
    """The problems of a seed, of as many measurements."""
    generator = torch.Generator().manual_seed(seed)
    for name, operator in operators(seed).items():
        for noise in NOISES:
            problem = Problem(operator, GaussianNoise(noise))
            y = problem.measure(prior.sample(measurements, 0.0, generator), seed=seed)
            exact = [ExactPosterior(prior, problem).given(value) for value in y.y]
            floor = [distance(p.sample(samples, 0.0, generator), p, i) for i, p in enumerate(exact)]
            yield Case(name, noise, y, exact, floor)


def distance(x: Tensor, exact: GaussianMixtureScore, seed: int) -> float:
    """The sliced Wasserstein distance of samples to as many exact draws."""
    draws = exact.sample(len(x), 0.0, torch.Generator().manual_seed(10**6 + seed))
    return sliced_wasserstein(x.double(), draws).value


def our_draw(method: Method) -> Draw:
    def draw(model: ScoreModel, measurement: Measurement, steps: int) -> Tensor:
        return method.draw(model, measurement, steps).x

    return draw


def steps_within(draw: Draw, model: ScoreModel, measurement: Measurement, budget: int, guess: int = 0) -> int:
    """The largest number of steps whose evaluations and products are within a budget, by trials of one sample.

    A guess is tried first. It is 0 where the budget does not pay for one step.
    """
    one = measurement.rows(slice(0, 1))

    def affordable(steps: int) -> bool:
        counted = CountedModel(model)
        draw(counted, one, steps)
        return sum(counted.cost.each(1)) <= budget

    low, high = 0, budget
    if guess and affordable(guess):
        low, high = guess, guess if guess == budget or not affordable(guess + 1) else budget
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if affordable(middle) else (low, middle - 1)
    return low


def run(name: str, draw: Draw, case: Case, model: ScoreModel, samples: int, budget: int, guess: int = 0) -> Row:
    """Draw with a method for all measurements of a case, and measure."""
    count = len(case.measurement)
    repeated = case.measurement.rows(torch.arange(count).repeat_interleave(samples))
    repeated = Measurement(repeated.problem, repeated.y.float())
    floor = sum(case.floor) / count
    nothing = Row(name, case.name, case.noise, budget, 0.0, 0.0, math.nan, math.nan, floor, math.nan, 0)
    try:
        steps = steps_within(draw, model, repeated, budget, guess)
        if not steps:
            return nothing._replace(refusal="a step costs more than the budget")
        counted, start = CountedModel(model), time.perf_counter()
        torch.manual_seed(0)
        with torch.no_grad():
            x = draw(counted, repeated, steps).reshape(count, samples, -1)
    except (ValueError, ArithmeticError) as raised:
        return nothing._replace(refusal=str(raised))
    seconds = time.perf_counter() - start
    evaluations, products = counted.cost.each(len(repeated))
    largest = float(x.abs().max())
    if not largest < DIVERGED:
        return nothing._replace(refusal=f"samples diverge, to {largest:.2g}")
    found = torch.tensor([distance(x[i], case.exact[i], i) for i in range(count)])
    error, mean = float(found.std()) / math.sqrt(count), float(found.mean())
    return Row(name, case.name, case.noise, budget, evaluations, products, mean, error, floor, seconds, steps)


def shown(rows: list[Row]) -> str:
    """A line of what each case is above its floor, and of their mean."""
    cells = "  ".join(f"{row.excess:5.3f}" if math.isfinite(row.excess) else "    –" for row in rows)
    measured = [row for row in rows if math.isfinite(row.excess)]
    if not measured:
        return f"{rows[0].budget:4d}  {rows[0].method:22s} {cells}"
    mean = sum(row.excess for row in measured) / len(measured)
    error = math.sqrt(sum(row.stderr**2 for row in measured)) / len(measured)
    cost = f"{measured[0].evaluations:.0f} + {measured[0].products:.0f}"
    cases = "" if len(measured) == len(rows) else f" of {len(measured)} cases"
    return f"{rows[0].budget:4d}  {rows[0].method:22s} {cost:>9s}  {cells}   mean {mean:.4f} ± {error:.4f}{cases}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", nargs="+", type=int, default=[50, 100, 200])
    parser.add_argument("--methods", nargs="+", default=[""], help="parts of names")
    parser.add_argument("--measurements", type=int, default=4)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("inverse.csv"))
    args = parser.parse_args()
    peers = {**azula_methods(), **deepinv_methods()}
    methods = {**{name: our_draw(method) for name, method in OURS.items()}, **peers}
    chosen = {name: m for name, m in methods.items() if any(part in name for part in args.methods)}
    exact, model = digits_mixture(), digits_mixture().float()
    problems = list(cases(exact, args.measurements, args.samples, args.seed))
    with args.output.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(Row._fields)
        for budget in args.budgets:
            for name, draw in chosen.items():
                rows: list[Row] = []
                for case in problems:
                    guess = rows[-1].steps if rows else 0
                    rows.append(run(name, draw, case, model, args.samples, budget, guess))
                table.writerows(rows)
                file.flush()
                print(shown(rows), flush=True)


if __name__ == "__main__":
    main()
