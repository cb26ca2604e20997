"""True error of log-likelihoods against their cost.

    python benchmarks/likelihood.py [--mixtures digits --sde vp edm] [--of draws data] [--peers] [--out DIRECTORY]
    python benchmarks/likelihood.py --mixtures --runs RUN_DIRECTORY ... [--known 16] [--out DIRECTORY]
    python benchmarks/likelihood.py --reference CHECKOUT [OPTIONS]

Problems: the mixtures of `solvers.py`, whose density is known under every SDE, and networks of runs, of which the truth
is this package's Exact divergence at a very small tolerance in float64. That takes long, so it is known of the first
`--known` points alone: exact divergences are run on these, and errors are of these, while probes work on all. With
`--out` it is stored.

Points are draws of the model, and held-out data, of which images are dequantised: x + u in model space with u uniform.
The latter are harder, since they lie where a model has hardly any mass.

Methods, all on the same points: this package; score_sde's scheme written anew (scipy's RK45 in t on the whole batch
as one vector with the log-determinants behind it, velocity and divergence by a forward pass each, one Rademacher
probe for the whole path); with `--peers` torchdiffeq's dopri5 and torchode's tsit5 in t, where installed
(`pip install torchdiffeq torchode`), velocity and probe sharing a forward pass; with `--reference` the package in
another checkout of this repository, such as a worktree of an earlier revision, in a process of its own.

Solver errors are those with the exact divergence. Everybody's latents have the prior with the data's moments, and
score_sde's also N(0, σ² I). Methods take turns, each turn with another seed. Seconds are the median of a method's
turns, of the processor on one thread, so that what else the machine did does not count; ratios are of seconds per
point, the median of those within a turn. What took long is not run again. Costs at equal error are read off each
method's curve, by interpolation between its tolerances.

Forward-equivalents: forwards, and divergences by what they cost in forwards on this machine. Averaged repeats bring
down what probes err by, not what the solver does.
"""

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import torch
from contenders import Failures
from likelihood_methods import methods
from likelihood_models import SDES
from likelihood_problems import DATA, DRAWS, Problem, mixture_problems, network_problems
from likelihood_reference import Reference
from likelihood_rows import RULER, Row, measure
from likelihood_tables import cost_table, picture, probe_table, solver_table, summary

TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6)  # of the others
NATS = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)  # of this package, for each dimension


def save(folder: Path, text: str, groups: Sequence[Sequence[Row]]) -> None:
    """likelihood.md, likelihood.csv and likelihood.png."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "likelihood.md").write_text(text + "\n", encoding="utf-8")
    names = [field.name for field in fields(Row)]
    with (folder / "likelihood.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([getattr(row, name) for name in names] for rows in groups for row in rows)
    if groups:
        picture(groups, folder / "likelihood.png")


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--mixtures", nargs="*", choices=("ring", "digits"), default=["ring", "digits"])
    out.add_argument(
        "--sde", nargs="+", choices=list(SDES), help="all for mixtures and the run's own for its network if not given"
    )
    out.add_argument("--of", nargs="+", choices=(DRAWS, DATA), default=[DRAWS, DATA], help="what points are")
    out.add_argument("--points", type=int, default=64)
    out.add_argument("--runs", nargs="+", type=Path, default=[], metavar="DIRECTORY", help="of `scoresde train`")
    out.add_argument("--known", type=int, default=16, metavar="N", help="points of a network whose truth is found")
    out.add_argument("--peers", action="store_true", help="torchdiffeq and torchode as well")
    out.add_argument("--reference", type=Path, metavar="CHECKOUT", help="of this repository, to compare costs with")
    out.add_argument("--tolerances", nargs="+", type=float, default=TOLERANCES, metavar="X", help="of the others")
    out.add_argument(
        "--nats", nargs="+", type=float, default=NATS, metavar="X", help="tolerances of this package, per dimension"
    )
    out.add_argument("--turns", type=int, default=3)
    out.add_argument("--threads", type=int, default=1)
    out.add_argument("--seed", type=int, default=0, help="of the points")
    out.add_argument("--quick", action="store_true", help="some minutes: fewer points, turns and tolerances")
    out.add_argument("--out", type=Path, metavar="DIRECTORY", help="for likelihood.md, likelihood.csv, likelihood.png")
    return out


def problems(options: argparse.Namespace) -> Iterator[Problem]:
    """The problems that are asked for."""
    for name in options.mixtures:
        for sde in options.sde or SDES:
            yield from mixture_problems(name, sde, options.of, options.points, options.seed)
    for directory in options.runs:
        for own in options.sde or (None,):
            sizes = options.points, options.known, options.seed
            yield from network_problems(directory, own, options.of, *sizes, options.out)


def run(options: argparse.Namespace, reference: Reference | None) -> str:
    """Measure everything, and store what is done after each problem, should it be interrupted."""
    failures = Failures()
    chosen = methods(options.peers, options.tolerances, options.nats, reference, failures)
    head = "# Likelihood" + ("" if reference is None else f"\n\nThe reference is {reference.revision}.")
    groups: list[list[Row]] = []
    costs: dict[str, dict[str, float]] = {}
    details: list[str] = []
    text = head
    for problem in problems(options):
        rows, costs[str(problem)] = measure(problem, chosen, options.turns, failures)
        groups.append(rows)
        details += [f"## {problem}", f"{len(problem.x)} points in {problem.size} dimensions; {problem.note}."]
        details += ["Solver, exact divergence:", solver_table(rows), "Probes:", probe_table(rows)]
        parts = [head, summary(groups), *details]
        parts += ["## Cost of a trace with its forward, in forwards", cost_table(costs)]
        if failures.lines:
            parts.append("Not run:\n\n" + "\n".join(f"- {name}: {why}" for name, why in failures.lines.items()))
        text = "\n\n".join(parts)
        if options.out is not None:
            save(options.out, text, groups)
    return text


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    if options.quick:
        options.points, options.known = min(options.points, 16), min(options.known, 4)
        options.turns = min(options.turns, 2)
        options.tolerances, options.nats = (1e-4, 1e-5), NATS[::2]
    options.tolerances = sorted({*options.tolerances, RULER[2]}, reverse=True)
    options.nats = sorted(options.nats, reverse=True)
    torch.set_num_threads(options.threads)
    reference = None if options.reference is None else Reference(options.reference)
    try:
        print(run(options, reference))
    finally:
        if reference is not None:
            reference.close()


if __name__ == "__main__":
    main()
