"""True error of log-likelihoods against their cost.

    python benchmarks/likelihood.py [--problem digits --sde vp edm] [--peers] [--quick] [--out DIRECTORY]
    python benchmarks/likelihood.py --problem --run RUN_DIRECTORY [--known 16] [--peers] [--out DIRECTORY]
    python benchmarks/likelihood.py --reference CHECKOUT [OPTIONS]

Problems: the mixtures of `solvers.py`, whose density is known under every SDE, and the network of a run, of which the
truth is this package's Exact divergence at a very small tolerance in float64. That takes long, so it is known of the
first `--known` points alone: exact divergences are run on these, and errors are of these, while probes work on all.

Methods, all on the same points: this package; score_sde's scheme written anew (scipy's RK45 in t on the whole batch
as one vector with the log-determinants behind it, velocity and divergence by a forward pass each, one Rademacher
probe for the whole path); with `--peers` torchdiffeq's dopri5 and torchode's tsit5 in t, where installed
(`pip install torchdiffeq torchode`), velocity and probe sharing a forward pass.

Solver errors are those with the exact divergence. Everybody's latents have the prior with the data's moments, and
score_sde's also N(0, σ² I). Methods take turns, each turn with another seed. Seconds are the median of a method's
turns, of the processor on one thread, so that what else the machine did does not count; ratios are of seconds per
point, the median of those within a turn. What took long is not run again.

With `--reference`, the benchmark of another checkout of this repository, such as a worktree of an earlier revision, is
run with the same options in a process of its own, and the costs of both are compared.

Forward-equivalents: forwards, and divergences by what they cost in forwards on this machine. Averaged repeats bring
down what probes err by, not what the solver does.
"""

import argparse
import csv
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from contenders import Failures
from likelihood_methods import (
    CORRECTED,
    EXACT,
    FIXED,
    ONE,
    OURS,
    PROBES,
    SCORE_SDE,
    Method,
    Outcome,
    exact_divergence,
    methods,
    velocity_and_probe,
    velocity_at,
)
from likelihood_problems import SDES, Problem, mixture_problem, network_problem
from rows import markdown

from scoresde.likelihood import Exact, Hutchinson, Probing

TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6)  # of the others
NATS = (1e-1, 2e-2, 1e-2, 1e-3, 1e-4)  # of this package
RULER = (SCORE_SDE, "RK45 1e-05", FIXED)
SOLVER_TARGET, PROBE_TARGET = 1e-3, 0.5  # nats per dimension at most, and nats RMS
LONG = 5.0  # seconds
# Points at which the cost of a trace is measured.
ROWS = 256


@dataclass(frozen=True)
class Row:
    """A method on a problem: errors in nats, counts and seconds per point."""

    problem: str
    sde: str
    library: str
    path: str
    divergence: str
    size: int
    mean: float
    max: float
    max_plain: float  # with the prior N(0, σ² I)
    rms: float
    coverage: float  # of two standard errors
    forwards: float
    divergences: float
    products: float
    equivalents: float
    seconds: float  # for a point
    ratio: float  # to score_sde's scheme at 1e-5
    turns: int
    points: int  # that were run

    @property
    def key(self) -> tuple[str, str, str]:
        return self.library, self.path, self.divergence


def clock() -> float:
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def trace_costs(problem: Problem, repeats: int = 7) -> dict[str, float]:
    """What a trace with its forward costs in forwards, for 256 points at once: medians of calls that take turns."""
    model, sde = problem.model, problem.model.sde
    x = problem.x.repeat(-(-ROWS // len(problem.x)), *[1] * (problem.x.ndim - 1))[:ROWS].to(model.dtype)
    t = sde.time(torch.zeros(len(x), dtype=torch.float64)).clamp(sde.t_min, sde.t_max)
    x = sde.alpha(t[0]).to(x) * x
    signs, index = torch.ones_like(x), torch.arange(len(x))

    def traces(divergence: Any) -> Callable[[], Any]:
        return lambda: divergence.traces(partial(velocity_at, model, t), x, 0, index)

    calls: dict[str, Callable[[], Any]] = {
        "forward": lambda: model.velocity(x, t),
        FIXED: lambda: velocity_and_probe(model, x, t, signs),
        ONE: traces(Hutchinson(1)),
        "Hutchinson(4)": traces(Hutchinson(4)),
        "Probing(16)": traces(Probing(16)),
        EXACT: lambda: exact_divergence(model, x, t),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            if name == EXACT and turn > 2:
                continue
            start = clock()
            call()
            if turn:
                seconds[name].append(clock() - start)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return {name: middle[name] / middle["forward"] for name in calls} | {"milliseconds": 1e3 * middle["forward"]}


def equivalents(method: Method, outcome: Outcome, costs: dict[str, float]) -> float:
    alone = outcome.forwards - outcome.divergences
    if method.divergence in costs:
        # torchdiffeq and torchode take the velocity from the probe's forward pass.
        alone = max(alone, 0.0)
        return alone + outcome.divergences * costs[method.divergence]
    return outcome.forwards + outcome.products * (costs["Hutchinson(4)"] - 1) / 4


def measure(
    problem: Problem, chosen: Sequence[Method], turns: int, failures: Failures
) -> tuple[list[Row], dict[str, Any]]:
    costs = trace_costs(problem)
    # Where the exact trace is as cheap, it is taken for all probes.
    alike = [n for n, make in PROBES.items() if isinstance(make().for_shape(tuple(problem.x.shape[1:])), Exact)]
    chosen = [m for m in chosen if m.divergence not in alike]
    if problem.model.exact:
        chosen = [m for m in chosen if not m.path.endswith(CORRECTED)]
    outcomes: dict[Method, list[Outcome]] = {m: [] for m in chosen}
    seconds: dict[Method, list[float]] = {m: [] for m in chosen}
    ruler = next(m for m in chosen if m.key == RULER)
    for turn in range(turns):
        for method in sorted(chosen, key=lambda m: m is not ruler):
            if len(outcomes[method]) < turn or (turn and seconds[method][0] * len(problem.true) > LONG):
                continue
            points = problem.known if method.divergence == EXACT else problem
            start = clock()
            try:
                outcome = method.run(points, turn)
                if not bool(outcome.log_prob.isfinite().all()):
                    raise ArithmeticError("log-densities that are not finite")
            except Exception as error:  # whatever another library may raise
                failures.add(f"{problem}: {' '.join(method.key)}", error)
                continue
            seconds[method].append((clock() - start) / len(points.x))
            outcomes[method].append(outcome)
            print(
                f"{problem}, turn {turn}: {' '.join(method.key)} {1e3 * seconds[method][-1]:.1f} ms/point",
                file=sys.stderr,
            )
    rows, known = [], len(problem.true)
    for method in chosen:
        if not outcomes[method]:
            continue
        errors = torch.stack([o.log_prob[:known] - problem.true for o in outcomes[method]])
        first = outcomes[method][0]
        plain = math.nan if first.plain is None else float((first.plain[:known] - problem.true).abs().max())
        coverage = math.nan
        if method.library == OURS and method.divergence != EXACT:
            bars = torch.stack([o.stderr[:known] for o in outcomes[method] if o.stderr is not None])
            if bool(bars.any()):
                coverage = float((errors.abs() <= 2 * bars).double().mean())
        rows.append(
            Row(  # type: ignore[call-arg]
                problem.name,
                problem.sde,
                *method.key,
                problem.size,
                float(errors.abs().mean()),
                float(errors.abs().max()),
                plain,
                float(errors.square().mean().sqrt()),
                coverage,
                *(statistics.fmean(getattr(o, n) for o in outcomes[method]) for n in fields_of_counts),  # type: ignore[arg-type]
                statistics.fmean(equivalents(method, o, costs) for o in outcomes[method]),
                statistics.median(seconds[method]),
                statistics.median(s / r for s, r in zip(seconds[method], seconds[ruler], strict=False)),
                len(seconds[method]),
                len(first.log_prob),
            )
        )
    return rows, costs


fields_of_counts = ("forwards", "divergences", "products")

# ---------------------------------------------------------------- tables


def index(rows: Sequence[Row]) -> dict[tuple[str, str, str], Row]:
    return {row.key: row for row in rows}


def repeats(row: Row, rows: Sequence[Row], target: float) -> float:
    """Runs whose mean has an RMS error of `target`; without end if the solver alone errs by more."""
    exact = index(rows).get((row.library, row.path, EXACT))
    bias = 0.0 if exact is None else min(exact.rms, row.rms)
    if bias >= target:
        return math.inf
    return max(1.0, (row.rms**2 - bias**2) / (target**2 - bias**2))


def solver_table(rows: Sequence[Row]) -> str:
    """Errors with the exact divergence, and seconds with that and with one probe."""
    header = ["method", "mean, nats", "max, nats", "mean / dim", "max / dim", "max, plain prior", "forwards"]
    header += ["divergences", "ms/point, exact", "ratio", "ms/point, one probe", "ratio"]
    found, lines = index(rows), []
    for row in rows:
        if row.divergence != EXACT:
            continue
        one = found.get((row.library, row.path, ONE if row.library == OURS else FIXED))
        lines.append(
            [
                f"{row.library} {row.path}",
                *(f"{v:.1e}" for v in (row.mean, row.max, row.mean / row.size, row.max / row.size)),
                "–" if math.isnan(row.max_plain) else f"{row.max_plain:.1e}",
                f"{row.forwards:.0f}",
                f"{row.divergences:.0f}",
                f"{1e3 * row.seconds:.1f}",
                f"{row.ratio:.2f}",
                *(("–", "–") if one is None else (f"{1e3 * one.seconds:.2f}", f"{one.ratio:.3f}")),
            ]
        )
    return markdown(header, lines)


def probe_table(rows: Sequence[Row]) -> str:
    """True errors with probes; what score_sde's scheme at 1e-5 needs to get there by repeats."""
    header = ["method", "divergence", "RMS, nats", "within 2 stderr", "forwards", "divergences", "products"]
    header += ["forward-equivalents", "ms/point", "ratio", "repeats of score_sde", "time / theirs"]
    theirs, lines = index(rows).get(RULER), []
    for row in rows:
        if row.divergence == EXACT:
            continue
        needed = math.nan if theirs is None else repeats(theirs, rows, row.rms)
        lines.append(
            [
                f"{row.library} {row.path}",
                row.divergence,
                f"{row.rms:.3f}",
                "–" if math.isnan(row.coverage) else f"{row.coverage:.3f}",
                *(f"{v:.0f}" for v in (row.forwards, row.divergences, row.products, row.equivalents)),
                f"{1e3 * row.seconds:.2f}",
                f"{row.ratio:.3f}",
                f"{needed:.1f}",
                f"{row.ratio / needed:.4f}",
            ]
        )
    return markdown(header, lines)


def summary(groups: Sequence[Sequence[Row]]) -> str:
    """The two questions, for every problem."""
    first = [
        "problem",
        "SDE",
        "fastest of ours",
        "its max / dim",
        "time, one probe",
        "forward-equivalents",
        "time, exact",
    ]
    first += ["score_sde's max / dim", "best of the others", "its time, one probe"]
    second = ["problem", "SDE", "fastest of ours", "its RMS", "time / score_sde at 1e-5", "its RMS", "its repeats"]
    second += ["time / score_sde at its best", "which"]
    reached, averaged = [], []
    for rows in groups:
        found = index(rows)
        ruler, exact_ruler = found.get(RULER), found.get((*RULER[:2], EXACT))
        if ruler is None or exact_ruler is None:
            continue
        name = [ruler.problem, ruler.sde]
        good = [r for r in rows if r.divergence == EXACT and r.max <= SOLVER_TARGET * r.size]
        mine = _fastest(found, [r for r in good if r.library == OURS], ONE)
        other = _fastest(found, [r for r in good if r.library != OURS], FIXED)
        reached.append(
            [
                *name,
                *(
                    ["none", *4 * "–"]
                    if mine is None
                    else [
                        mine[0].path,
                        f"{mine[0].max / mine[0].size:.1e}",
                        f"{mine[1].ratio:.3f}",
                        f"{mine[1].equivalents / ruler.equivalents:.3f}",
                        f"{mine[0].ratio / exact_ruler.ratio:.3f}",
                    ]
                ),
                f"{exact_ruler.max / exact_ruler.size:.1e}",
                *(["none", "–"] if other is None else [_name(other[0]), f"{other[1].ratio:.3f}"]),
            ]
        )

        def whole(row: Row, rows: Sequence[Row] = rows) -> float:
            return row.ratio * repeats(row, rows, PROBE_TARGET)

        probed = [r for r in rows if r.divergence != EXACT]
        ours = min((r for r in probed if r.library == OURS), key=whole, default=None)
        best = min((r for r in probed if r.library == SCORE_SDE), key=whole)
        if ours is not None:
            times = repeats(ours, rows, PROBE_TARGET)
            averaged.append(
                [
                    *name,
                    f"{ours.path}, {ours.divergence}" + (f", {times:.1f} times" if times > 1 else ""),
                    f"{ours.rms:.2f}",
                    f"{whole(ours) / whole(ruler):.4f}",
                    f"{ruler.rms:.2f}",
                    f"{repeats(ruler, rows, PROBE_TARGET):.0f}",
                    f"{whole(ours) / whole(best):.4f}",
                    f"{best.path}, {repeats(best, rows, PROBE_TARGET):.0f} times",
                ]
            )
    return (
        f"Time to a solver error of at most {SOLVER_TARGET:g} nats/dim, as a fraction of score_sde's scheme at 1e-5 "
        f"with the same kind of divergence (wanted: 1/5)\n\n{markdown(first, reached)}\n\n"
        f"Time to a true RMS error of {PROBE_TARGET:g} nats with probes, as a fraction of what score_sde's scheme "
        f"needs by averaging (wanted: 1/30)\n\n{markdown(second, averaged)}"
    )


def reference_rows(checkout: Path, options: argparse.Namespace) -> list[Row]:
    """The rows of another checkout's benchmark, run on the same problems.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    words = ["--problem", *options.problem, "--points", options.points, "--known", options.known]
    words += ["--turns", options.turns, "--threads", options.threads, "--seed", options.seed]
    words += ["--nats", *options.nats, "--tolerances", *options.tolerances]
    words += [] if options.sde is None else ["--sde", *options.sde]
    words += [] if options.run is None else ["--run", options.run.resolve()]
    words += ["--images"] if options.images else []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, checkout.resolve() / "benchmarks" / "likelihood.py", *words, "--out", folder]
        environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
        subprocess.run(list(map(str, command)), check=True, env=environment, cwd=checkout, stdout=subprocess.DEVNULL)
        with (Path(folder) / "likelihood.csv").open(newline="", encoding="utf-8") as file:
            kinds: dict[str, Any] = {field.name: field.type for field in fields(Row)}
            return [Row(**{k: kinds[k](v) for k, v in row.items()}) for row in csv.DictReader(file)]


def comparison(groups: Sequence[Sequence[Row]], reference: Sequence[Row]) -> str:
    """The costs at a largest solver error of `SOLVER_TARGET` nats/dim, as fractions of the reference's."""
    header = ["problem", "SDE", "path", "its max / dim", "of the reference", "its max / dim"]
    header += ["forward-equivalents, one probe", "time, one probe", "time, exact"]
    lines = []
    for rows in groups:
        name = (rows[0].problem, rows[0].sde)
        theirs = [r for r in reference if (r.problem, r.sde) == name]
        pairs = []
        for group in (rows, theirs):
            good = [r for r in group if r.library == OURS and r.divergence == EXACT]
            good = [r for r in good if r.max <= SOLVER_TARGET * r.size]
            pairs.append(_fastest(index(group), good, ONE))
        if pairs[0] is None or pairs[1] is None:
            lines.append([*name, *("none" if p is None else p[0].path for p in pairs)])
            continue
        (mine, one), (other, other_one) = pairs[0], pairs[1]
        lines.append(
            [
                *name,
                *(v for row in (mine, other) for v in (row.path, f"{row.max / row.size:.1e}")),
                f"{one.equivalents:.0f}/{other_one.equivalents:.0f} = {one.equivalents / other_one.equivalents:.2f}",
                f"{one.seconds / other_one.seconds:.2f}",
                f"{mine.seconds / other.seconds:.2f}",
            ]
        )
    lines = [[*line, *["–"] * (len(header) - len(line))] for line in lines]
    return (
        f"Cost of a solver error of at most {SOLVER_TARGET:g} nats/dim, as a fraction of the reference's\n\n"
        f"{markdown(header, lines)}"
    )


def _fastest(found: dict[tuple[str, str, str], Row], rows: Sequence[Row], divergence: str) -> tuple[Row, Row] | None:
    """The row, and its like with one probe that is the fastest."""
    pairs = [(r, found[r.library, r.path, divergence]) for r in rows if (r.library, r.path, divergence) in found]
    return min(pairs, key=lambda pair: pair[1].ratio, default=None)


def _name(row: Row) -> str:
    return f"{row.library} {row.path}"


def cost_table(costs: dict[str, dict[str, float]]) -> str:
    names = [FIXED, ONE, "Hutchinson(4)", "Probing(16)", EXACT]
    lines = [[p, f"{c['milliseconds']:.2f}", *(f"{c[n]:.1f}" for n in names)] for p, c in costs.items()]
    return markdown(["problem", "forward, ms", *names], lines)


def picture(groups: Sequence[Sequence[Row]], path: Path) -> None:
    """Above, solver errors against seconds with the exact divergence; below, RMS errors with probes."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(2, len(groups), figsize=(5.5 * len(groups), 8.5), squeeze=False)
    for (above, below), rows in zip(axes.T, groups, strict=True):
        for number, (library, family) in enumerate(dict.fromkeys((r.library, _family(r)) for r in rows)):
            mine = [r for r in rows if (r.library, _family(r)) == (library, family) and r.divergence == EXACT]
            _line(above, mine, [r.max / r.size for r in mine], f"{library} {family}", library, f"C{number}")
        above.axhline(SOLVER_TARGET, color="grey", lw=1, ls=":")
        above.set(xlabel="seconds per point, exact divergence", ylabel="max solver error, nats/dim")
        probed = [r for r in rows if r.divergence != EXACT]
        for number, (library, family, divergence) in enumerate(
            dict.fromkeys((r.library, "" if r.library == OURS else _family(r), r.divergence) for r in probed)
        ):
            mine = [r for r in probed if (r.library, r.divergence) == (library, divergence)]
            label = " ".join(filter(None, (library, family, divergence)))
            marker = "o" if library == OURS else "x"
            style = {"marker": marker, "color": f"C{number}", "label": label, "s": 36}
            below.scatter([r.seconds for r in mine], [r.rms for r in mine], **style)
        below.axhline(PROBE_TARGET, color="grey", lw=1, ls=":")
        below.set(xlabel="seconds per point, probes", ylabel="true RMS error, nats")
        above.set_title(f"{rows[0].problem}, {rows[0].sde}")
        for axis in (above, below):
            axis.set(xscale="log", yscale="log")
            axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1,) if axis is above else (1, 2, 5)))
            if axis is below:
                axis.yaxis.set_major_formatter("{x:g}")
            axis.minorticks_off()
            axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _family(row: Row) -> str:
    return row.path.split(", ")[-1] if row.library == OURS else row.path.split(" ")[0]


def _line(axis: Any, rows: Sequence[Row], values: Sequence[float], label: str, library: str, color: str) -> None:
    width = 2.5 if library == OURS else 1.2
    axis.plot([r.seconds for r in rows], values, marker=".", lw=width, color=color, label=label)


def save(folder: Path, text: str, groups: Sequence[Sequence[Row]]) -> None:
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
    out.add_argument("--problem", nargs="*", choices=("ring", "digits"), default=["ring", "digits"])
    out.add_argument(
        "--sde", nargs="+", choices=list(SDES), help="all for mixtures and the run's own for its network if not given"
    )
    out.add_argument("--points", type=int, default=64)
    out.add_argument(
        "--images", action="store_true", help="for the digits mixture: dequantised images, not draws, which are easier"
    )
    out.add_argument("--run", type=Path, metavar="DIRECTORY", help="that `scoresde train` wrote")
    out.add_argument(
        "--known", type=int, default=16, metavar="N", help="points of its held-out data of which to find the truth"
    )
    out.add_argument("--peers", action="store_true", help="torchdiffeq and torchode as well")
    out.add_argument("--reference", type=Path, metavar="CHECKOUT", help="of this repository, to compare costs with")
    out.add_argument("--tolerances", nargs="+", type=float, default=TOLERANCES, metavar="X", help="of the others")
    out.add_argument("--nats", nargs="+", type=float, default=NATS, metavar="X", help="tolerances of this package")
    out.add_argument("--turns", type=int, default=3)
    out.add_argument("--threads", type=int, default=1)
    out.add_argument("--seed", type=int, default=0, help="of the points")
    out.add_argument("--quick", action="store_true", help="some minutes: fewer points, turns and tolerances")
    out.add_argument("--out", type=Path, metavar="DIRECTORY", help="for likelihood.md, likelihood.csv, likelihood.png")
    return out


def problems(options: argparse.Namespace) -> Iterator[Problem]:
    for name in options.problem:
        for sde in options.sde or SDES:
            yield mixture_problem(name, sde, options.points, options.seed, name == "ring" or not options.images)
    if options.run is not None:
        for own in options.sde or (None,):
            yield network_problem(options.run, own, options.points, options.known, options.seed)


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    if options.quick:
        options.points, options.known = min(options.points, 16), min(options.known, 4)
        options.turns = min(options.turns, 2)
        options.tolerances, options.nats = (1e-4, 1e-5), (1e-1, 1e-2)
    # The ruler.
    options.tolerances = sorted({*options.tolerances, 1e-5}, reverse=True)
    torch.set_num_threads(options.threads)
    failures = Failures()
    chosen = methods(options.peers, options.tolerances, options.nats, failures)
    groups: list[list[Row]] = []
    costs: dict[str, dict[str, float]] = {}
    details: list[str] = []
    text = ""
    for problem in problems(options):
        rows, costs[str(problem)] = measure(problem, chosen, options.turns, failures)
        groups.append(rows)
        details += [f"## {problem}", f"{len(problem.x)} points in {problem.size} dimensions; {problem.note}."]
        details += ["Solver, exact divergence:", solver_table(rows), "Probes:", probe_table(rows)]
        parts = ["# Likelihood", summary(groups), *details]
        parts += ["## Cost of a trace with its forward, in forwards", cost_table(costs)]
        if failures.lines:
            parts.append("Not run:\n\n" + "\n".join(f"- {name}: {why}" for name, why in failures.lines.items()))
        text = "\n\n".join(parts)
        if options.out is not None:
            save(options.out, text, groups)  # of what is done, should it be interrupted
    if options.reference is not None and groups:
        text += "\n\n" + comparison(groups, reference_rows(options.reference, options))
        if options.out is not None:
            save(options.out, text, groups)
    print(text)


if __name__ == "__main__":
    main()
