"""What the rows of `likelihood.py` say: costs at equal error, tables and a picture."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from likelihood_methods import CORRECTED, DEFAULT, EXACT, FIXED, ONE, OURS, REFERENCE, SCORE_SDE
from likelihood_rows import RULER, Row, index
from rows import markdown

__all__ = [
    "PROBE_TARGET",
    "SOLVER_TARGET",
    "Reading",
    "cost_table",
    "picture",
    "probe_table",
    "readings",
    "repeats",
    "solver_table",
    "summary",
]

SOLVER_TARGET, PROBE_TARGET = 1e-3, 0.5  # nats per dimension at most, and nats RMS
WANTED_OF_REFERENCE, WANTED_BY_PROBES = 0.5, 0.005
NONE = "–"


@dataclass(frozen=True)
class Reading:
    """What it costs a family of methods to keep the largest solver error at `SOLVER_TARGET`, read off its curve.

    Attributes:
        tolerance: The tolerance that it takes.
        one, exact: Seconds per point with one probe and with the exact divergence, each as a fraction of those of
            score_sde's scheme at 1e-5 with one probe.
        forwards: Forward-equivalents with one probe.
        bound: Whether the largest tolerance of all errs by less, so that the costs are upper bounds.
    """

    tolerance: float
    one: float
    exact: float
    forwards: float
    bound: bool


def readings(rows: Sequence[Row], target: float = SOLVER_TARGET) -> dict[tuple[str, str], Reading]:
    """The readings of all families of methods on a problem that reach the target, by library and family.

    An error counts as the largest of those at its tolerance and at all smaller ones, so that no tolerance is taken by
    luck. Between two tolerances logarithms of costs are linear in the logarithm of the error.
    """
    found, out = index(rows), {}
    for library, family in dict.fromkeys((r.library, r.family) for r in rows):
        curve = [r for r in rows if (r.library, r.family, r.divergence) == (library, family, EXACT)]
        probe = ONE if library in (OURS, REFERENCE) else FIXED
        pairs = [(r, found[(*r.key[:3], probe)]) for r in curve if (*r.key[:3], probe) in found]
        pairs.sort(key=lambda pair: -pair[0].tolerance)
        errors = [max(exact.max / exact.size for exact, _ in pairs[i:]) for i in range(len(pairs))]
        first = next((i for i, error in enumerate(errors) if error <= target), None)
        if first is None:
            continue
        costs: list[Callable[[tuple[Row, Row]], float]] = [
            lambda pair: pair[0].tolerance,
            lambda pair: pair[1].ratio,
            lambda pair: pair[0].ratio,
            lambda pair: pair[1].equivalents,
        ]
        before, share = max(first - 1, 0), 1.0
        if first:
            share = math.log(errors[before] / target) / math.log(errors[before] / errors[first])
        tolerance, one, exact, forwards = (c(pairs[before]) ** (1 - share) * c(pairs[first]) ** share for c in costs)
        out[library, family] = Reading(tolerance, one, exact, forwards, bound=first == 0)
    return out


def repeats(row: Row, rows: Sequence[Row], target: float) -> float:
    """Runs whose mean has an RMS error of `target`; without end if the solver alone errs by more."""
    exact = index(rows).get((*row.key[:3], EXACT))
    bias = 0.0 if exact is None else min(exact.rms, row.rms)
    if bias >= target:
        return math.inf
    return max(1.0, (row.rms**2 - bias**2) / (target**2 - bias**2))


# ---------------------------------------------------------------- summary


def summary(groups: Sequence[Sequence[Row]]) -> str:
    """The questions of the benchmark, for every problem."""
    parts = [
        f"## Largest solver error of {SOLVER_TARGET:g} nats/dim\n\nTime per point as a fraction of that of score_sde's "
        "scheme at its 1e-5, whatever that errs by, and at equal error. Costs are read off each method's curve of the "
        "largest error against cost; `≤` where its largest tolerance errs by less.\n\n"
        + markdown(
            [
                *("problem", "points", "SDE", "scoresde", "tol / dim", "/ score_sde at 1e-5, one probe", "wanted"),
                *("exact", "forward-equivalents", "/ score_sde at equal error", "its error at 1e-5 / dim"),
            ],
            [line for rows in groups for line in _solver_lines(rows)],
        )
    ]
    theirs = [line for rows in groups for line in _reference_lines(rows)]
    if theirs:
        head = ["problem", "points", "SDE", "scoresde", "reference", "its tol / dim"]
        head += ["time, one probe", "time, exact", "forward-equivalents"]
        parts.append(
            f"## The same, as a fraction of the reference (wanted: {WANTED_OF_REFERENCE:g})\n\n{markdown(head, theirs)}"
        )
    head = ["problem", "points", "SDE", "fastest of scoresde", "its RMS", "time / score_sde at 1e-5", "its RMS"]
    head += ["its repeats", "time / score_sde at its best", "which"]
    lines = [line for rows in groups for line in _averaged_lines(rows)]
    parts.append(
        f"## True RMS of {PROBE_TARGET:g} nats with probes\n\nTime as a fraction of what score_sde's scheme needs by "
        f"averaging (wanted: {WANTED_BY_PROBES:g})\n\n{markdown(head, lines)}"
    )
    return "\n\n".join(parts)


def _problem(rows: Sequence[Row]) -> list[str]:
    return [rows[0].problem, rows[0].points, rows[0].sde]


def _families(library: str, rows: Sequence[Row]) -> list[str]:
    """Families of a library that were run, the default first."""
    return list(dict.fromkeys(r.family for r in rows if r.library == library))


def _solver_lines(rows: Sequence[Row]) -> Iterator[list[str]]:
    found = readings(rows)
    ruler = index(rows).get((*RULER[:3], EXACT))
    exact_ruler = math.nan if ruler is None else ruler.ratio
    theirs = found.get((SCORE_SDE, RULER[1]))
    for family in _families(OURS, rows):
        mine = found.get((OURS, family))
        if mine is None:
            yield [*_problem(rows), family, "none", *[NONE] * 6]
            continue
        mark = "≤ " if mine.bound else ""
        yield [
            *_problem(rows),
            family,
            f"{mine.tolerance:.1e}",
            f"{mark}{mine.one:.3f}",
            f"{rows[0].wanted:g}",
            f"{mark}{mine.exact / exact_ruler:.3f}",
            f"{mark}{mine.forwards:.0f}",
            NONE if theirs is None else f"{'≥ ' if theirs.bound else ''}{mine.one / theirs.one:.3f}",
            NONE if ruler is None else f"{ruler.max / ruler.size:.1e}",
        ]


def _reference_lines(rows: Sequence[Row]) -> Iterator[list[str]]:
    """The default with the default, and the fastest with the fastest."""
    found = readings(rows)
    if not any(r.library == REFERENCE for r in rows):
        return
    fastest = {
        library: min(
            (f for f in _families(library, rows) if (library, f) in found),
            key=lambda f, library=library: found[library, f].one,  # type: ignore[misc]
            default=DEFAULT,
        )
        for library in (OURS, REFERENCE)
    }
    for family, other in dict.fromkeys(((DEFAULT, DEFAULT), (fastest[OURS], fastest[REFERENCE]))):
        mine, theirs = found.get((OURS, family)), found.get((REFERENCE, other))
        if mine is None or theirs is None:
            yield [*_problem(rows), *("none" if v is None else f for v, f in ((mine, family), (theirs, other)))] + [
                NONE
            ] * 4
            continue
        mark = "≤ " if mine.bound and not theirs.bound else "? " if theirs.bound else ""
        yield [
            *_problem(rows),
            family,
            other,
            f"{theirs.tolerance:.1e}",
            f"{mark}{mine.one / theirs.one:.2f}",
            f"{mark}{mine.exact / theirs.exact:.2f}",
            f"{mark}{mine.forwards:.0f}/{theirs.forwards:.0f} = {mine.forwards / theirs.forwards:.2f}",
        ]


def _averaged_lines(rows: Sequence[Row]) -> Iterator[list[str]]:
    ruler = index(rows).get(RULER)
    probed = [r for r in rows if r.divergence != EXACT]
    mine = [r for r in probed if r.library == OURS]
    if ruler is None or not mine or rows[0].size <= 4:  # where the trace is exact
        return

    def whole(row: Row) -> float:
        return row.ratio * repeats(row, rows, PROBE_TARGET)

    ours, best = min(mine, key=whole), min((r for r in probed if r.library == SCORE_SDE), key=whole)
    times = repeats(ours, rows, PROBE_TARGET)
    yield [
        *_problem(rows),
        f"{ours.family}, {ours.tolerance:g} / dim, {ours.divergence}" + (f", {times:.1f} times" if times > 1 else ""),
        f"{ours.rms:.2f}",
        f"{whole(ours) / whole(ruler):.4f}",
        f"{ruler.rms:.2f}",
        f"{repeats(ruler, rows, PROBE_TARGET):.0f}",
        f"{whole(ours) / whole(best):.4f}",
        f"{best.family} {best.tolerance:g}, {repeats(best, rows, PROBE_TARGET):.0f} times",
    ]


# ---------------------------------------------------------------- all rows


def solver_table(rows: Sequence[Row]) -> str:
    """Errors with the exact divergence, and seconds with that and with one probe."""
    header = ["method", "mean, nats", "max, nats", "mean / dim", "max / dim", "within 2 stderr", "max, plain prior"]
    header += ["forwards", "divergences", "ms/point, exact", "ratio", "ms/point, one probe", "ratio"]
    found, lines = index(rows), []
    for row in rows:
        if row.divergence != EXACT:
            continue
        one = found.get((*row.key[:3], ONE if row.library in (OURS, REFERENCE) else FIXED))
        lines.append(
            [
                row.name,
                *(f"{v:.1e}" for v in (row.mean, row.max, row.mean / row.size, row.max / row.size)),
                *(NONE if math.isnan(v) else f"{v:{f}}" for v, f in ((row.coverage, ".2f"), (row.max_plain, ".1e"))),
                f"{row.forwards:.0f}",
                f"{row.divergences:.0f}",
                f"{1e3 * row.seconds:.1f}",
                f"{row.ratio:.2f}",
                *((NONE, NONE) if one is None else (f"{1e3 * one.seconds:.2f}", f"{one.ratio:.3f}")),
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
                row.name,
                row.divergence,
                f"{row.rms:.3f}",
                NONE if math.isnan(row.coverage) else f"{row.coverage:.2f}",
                *(f"{v:.0f}" for v in (row.forwards, row.divergences, row.products, row.equivalents)),
                f"{1e3 * row.seconds:.2f}",
                f"{row.ratio:.3f}",
                f"{needed:.1f}",
                f"{row.ratio / needed:.4f}",
            ]
        )
    return markdown(header, lines)


def cost_table(costs: dict[str, dict[str, float]]) -> str:
    names = [FIXED, ONE, "Hutchinson(4)", "Probing(16)", EXACT]
    lines = [[p, f"{c['milliseconds']:.2f}", *(f"{c[n]:.1f}" for n in names)] for p, c in costs.items()]
    return markdown(["problem", "forward, ms", *names], lines)


# ---------------------------------------------------------------- picture


def picture(groups: Sequence[Sequence[Row]], path: Path) -> None:
    """Above, solver errors against seconds with the exact divergence; below, RMS errors with probes."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(groups), figsize=(5.5 * len(groups), 8.5), squeeze=False)
    for (above, below), rows in zip(axes.T, groups, strict=True):
        above.set_title(", ".join(_problem(rows)))
        for number, (library, family) in enumerate(dict.fromkeys((r.library, r.family) for r in rows)):
            mine = [r for r in rows if (r.library, r.family, r.divergence) == (library, family, EXACT)]
            style = {"marker": ".", "lw": 2.5 if library == OURS else 1.2, "color": f"C{number}"}
            above.plot([r.seconds for r in mine], [r.max / r.size for r in mine], label=f"{library} {family}", **style)
        above.axhline(SOLVER_TARGET, color="grey", lw=1, ls=":")
        above.set(xlabel="seconds per point, exact divergence", ylabel="max solver error, nats/dim")
        probed = [r for r in rows if r.divergence != EXACT and r.family != CORRECTED]
        for number, (library, divergence) in enumerate(dict.fromkeys((r.library, r.divergence) for r in probed)):
            mine = [r for r in probed if (r.library, r.divergence) == (library, divergence)]
            marker = "o" if library == OURS else "x"
            style = {"marker": marker, "color": f"C{number}", "label": f"{library} {divergence}", "s": 36}
            below.scatter([r.seconds for r in mine], [r.rms for r in mine], **style)
        below.axhline(PROBE_TARGET, color="grey", lw=1, ls=":")
        below.set(xlabel="seconds per point, probes", ylabel="true RMS error, nats")
        for axis in (above, below):
            _logarithmic(axis)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _logarithmic(axis: Any) -> None:
    from matplotlib import ticker

    axis.set(xscale="log", yscale="log")
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    axis.legend(fontsize=7)
