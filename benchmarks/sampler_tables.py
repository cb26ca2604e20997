"""The tables of errors of `docs/samplers`: every preset of `conf/sampler`, by family, on exact scores.

    python benchmarks/sampler_tables.py [FAMILY ...] [--out docs/_tables]

For deterministic samplers, the distance to the true end of the probability flow; for stochastic ones the sliced
Wasserstein distance to exact samples and the log-density that is lost, on the mixture of digits; for samplers with a
tolerance, evaluations and distance by tolerance. Every figure is the mean of several seeds with its standard error.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from contenders import OWN, Budget, Contender, Counted, Failures, our_contenders, presets
from hydra.utils import instantiate
from rows import distance, markdown
from solvers import PROBLEMS, Judge
from truth import own_endpoints

from scoresde.cli.catalogue import order_of
from scoresde.sampling import ExplicitTimes, Sampler
from scoresde.score import GaussianMixtureScore

SEEDS = 4
STARTS = 128
EVALUATIONS = (5, 10, 20, 50, 100)
NOISY_EVALUATIONS = (10, 20, 50, 200)
POWERS = (2, 3, 4, 6, 8)


@dataclass(frozen=True)
class Family:
    """Presets that have a page of their own.

    Attributes:
        names: Presets on a number of steps.
        tolerances: Presets with a tolerance.
        evaluations: Evaluations of the tables of stochastic samplers.
        samples: Samples of each seed of stochastic samplers, fewer where these take many evaluations.
    """

    names: tuple[str, ...] = ()
    tolerances: tuple[str, ...] = ()
    evaluations: tuple[int, ...] = NOISY_EVALUATIONS
    samples: int = 1500


FAMILIES = {
    "predictor_corrector": Family(
        ("euler_maruyama", "reverse_diffusion", "ancestral", "pc", "annealed_langevin", "ncsn", "ncsnv2"),
        evaluations=(20, 50, 200),
        samples=500,
    ),
    "adams": Family(
        (
            *("default", "angle", "straight", "ddim", "dpmpp_1m", "dpmpp_2m", "dpmpp_3m", "deis_tab", "deis_rhoab"),
            *("lms", "ipndm", "unipc", "default_sde", "ddpm", "strided", "dpmpp_1m_sde", "dpmpp_2m_sde"),
            *("dpmpp_3m_sde", "sa_solver", "er_sde"),
        )
    ),
    "runge_kutta": Family(
        (
            *("euler", "heun", "edm_heun", "ralston", "rk4", "dpm2", "dpm3", "dpmpp_2s", "dpmpp_3s", "res2s", "res3s"),
            *("edm_churn", "restart", "seeds1", "seeds2", "seeds3"),
        )
    ),
    "adaptive": Family(tolerances=("bosh3", "dopri5", "tsit5", "dop853")),
    "external": Family(("torchsde",), ("scipy",)),
}
# Each with the reason why it has no row.
WITHOUT = {
    "adaptive_sde": "it has a tolerance and noise",
    "high_density": "its samples are not of the density",
    "picard": "it gives what `ddpm` gives, in fewer calls that wait for each other",
    "tuned": "it is tuned for one model and one number of evaluations",
}


def shown(values: Sequence[float]) -> str:
    """The mean of the seeds with its standard error; a dash where one of them failed."""
    if len(values) < SEEDS or not all(map(torch.isfinite, map(torch.tensor, values))):
        return "–"
    mean, error = statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.2g} ± {error:.1g}"


def problem(name: str, seed: int, starts: int) -> tuple[GaussianMixtureScore, torch.Tensor]:
    """The model, and draws of its noised density at t_max."""
    model = PROBLEMS[name]()
    return model, model.sample(starts, model.sde.t_max, torch.Generator().manual_seed(seed))


def by_steps(family: Family, stochastic: bool) -> Iterator[Contender]:
    """The presets of a family with or without noise, on their own grids, in the order in which it names them."""
    failures = Failures()
    found = {c.solver: c for c in our_contenders(f"^({'|'.join(family.names)})$", [], failures)}
    if failures.lines or set(found) != set(family.names):
        sys.exit(f"not run: {failures.lines or set(family.names) - set(found)}")
    assert all(c.grid == OWN for c in found.values())
    yield from (found[name] for name in family.names if found[name].stochastic == stochastic)


def deterministic(family: Family, name: str, seeds: int = SEEDS, starts: int = STARTS) -> Iterator[list[str]]:
    """Rows of distances to the true end of the flow."""
    runs = [problem(name, seed, starts) for seed in range(seeds)]
    true = [own_endpoints(model, x) for model, x in runs]
    for contender in by_steps(family, stochastic=False):
        cells = []
        for allowed in EVALUATIONS:
            errors = []
            for (model, x), ends in zip(runs, true, strict=True):
                end = Budget(contender, Counted(model), x).end(allowed)
                errors += [] if end is None else [distance(ends)(end)]
            cells.append(shown(errors))
        print(f"{name}: {contender.solver}", file=sys.stderr)
        yield [f"`{contender.solver}`", order_of("sampler", contender.solver), *cells]


def noisy(family: Family) -> tuple[list[list[str]], list[list[str]]]:
    """Rows of sliced Wasserstein distances and of nats lost, on the mixture of digits."""
    runs, floor = [], []
    for seed in range(SEEDS):
        model, x = problem("digits", seed, family.samples)
        random = torch.Generator().manual_seed(1000 + seed)
        exact, other = (model.sample(family.samples, model.sde.t_min, random).float() for _ in range(2))
        judge = Judge(model, exact)
        floor.append((judge(other), judge._last["nats_lost"].value))
        runs.append((model, x.float(), judge))
    first, last = (shown(column) for column in zip(*floor, strict=True))
    blank = [""] * (len(family.evaluations) - 1)
    tables = [["exact samples", "", first, *blank]], [["exact samples", "", last, *blank]]
    for contender in by_steps(family, stochastic=True):
        cells: tuple[list[str], list[str]] = [], []
        for allowed in family.evaluations:
            pairs = []
            for seed, (model, x, judge) in enumerate(runs):
                end = Budget(contender, Counted(model), x).end(allowed, seed)
                if end is not None and bool(end.isfinite().all()):
                    pairs.append((judge(end), judge._last["nats_lost"].value))
            columns = list(zip(*pairs, strict=True)) or [(), ()]
            for each, column in zip(cells, columns, strict=True):
                each.append(shown(column))
        print(f"digits: {contender.solver}", file=sys.stderr)
        for table, each in zip(tables, cells, strict=True):
            table.append([f"`{contender.solver}`", order_of("sampler", contender.solver), *each])
    return tables


def by_tolerance(family: Family, name: str) -> Iterator[list[str]]:
    """Rows of evaluations and distances by tolerance."""
    runs = [problem(name, seed, STARTS) for seed in range(SEEDS)]
    true = [own_endpoints(model, x) for model, x in runs]
    for preset in family.tolerances:
        cells = []
        for power in POWERS:
            solver = instantiate(presets()[preset].solver, rtol=10.0**-power, atol=10.0**-power)
            outs = []
            for model, x in runs:
                ends = ExplicitTimes([model.sde.t_max, model.sde.t_min_sampling])
                outs.append(Sampler(solver, ends, denoise=False)(model, x_init=x))
            each = [o.nfe if o.nfe_per_sample is None else float(o.nfe_per_sample.double().mean()) for o in outs]
            errors = [distance(ends)(out.x) for ends, out in zip(true, outs, strict=True)]
            cells.append(f"{statistics.mean(each):.0f}: {shown(errors)}")
        print(f"{name}: {preset}", file=sys.stderr)
        yield [f"`{preset}`", *cells]


def page(name: str, family: Family) -> str:
    """The tables of a family."""
    parts = [f"<!-- Written by: python benchmarks/sampler_tables.py {name} -->"]
    titles = {"ring": "eight narrow Gaussians on a ring, 2 dimensions", "digits": "a mixture of digits, 64 dimensions"}
    kinds = {c.stochastic for s in (False, True) for c in by_steps(family, s)} if family.names else set()
    if False in kinds:
        head = ["sampler", "order", *(f"{n} NFE" for n in EVALUATIONS)]
        for problem_name, title in titles.items():
            rows = list(deterministic(family, problem_name))
            parts += [f"**Distance to the end of the flow: {title}**", markdown(head, rows)]
    if True in kinds:
        head = ["sampler", "order", *(f"{n} NFE" for n in family.evaluations)]
        distances, nats = noisy(family)
        parts += [f"**Sliced Wasserstein distance: {titles['digits']}**", markdown(head, distances)]
        parts += [f"**Nats of log-density lost: {titles['digits']}**", markdown(head, nats)]
    if family.tolerances:
        head = ["sampler", *(f"tolerance 1e-{power}" for power in POWERS)]
        for problem_name, title in titles.items():
            rows = list(by_tolerance(family, problem_name))
            parts += [f"**Evaluations, and distance to the end of the flow: {title}**", markdown(head, rows)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(FAMILIES)}; all if none")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "_tables")
    options = parser.parse_args()
    for name in options.families or FAMILIES:
        (options.out / f"{name}.md").write_text(page(name, FAMILIES[name]), encoding="utf-8")


if __name__ == "__main__":
    main()
