"""What the defaults are to reach on the family of problems, and whether they do, from cells."""

import itertools
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cells import Cell

__all__ = ["Target", "error_table", "picture", "ratio_table", "targets"]

MEASURES = {"rms": "RMS", "median": "median"}
PEER_MEDIAN, PEER_WORST = 1.0, 1.5
OURS_USUAL, OURS_SHARE, OURS_WORST = 1.5, 0.95, 2.5
RISE = 1.3


@dataclass(frozen=True)
class Target:
    """One number that a default is to reach."""

    default: str
    what: str
    value: str
    target: str
    reached: bool

    def row(self) -> list[str]:
        return [self.default, self.what, self.value, self.target, "yes" if self.reached else "no"]


class Table:
    """Cells by case and number of evaluations.

    Args:
        cells: All cells.
        measure: "rms" or "median".
    """

    def __init__(self, cells: Iterable[Cell], measure: str) -> None:
        self.cells, self.measure = list(cells), measure
        self.cases = list(dict.fromkeys(c.case for c in self.cells))
        self.budgets = sorted({c.budget for c in self.cells})
        self.defaults = list(dict.fromkeys(c.name for c in self.cells if c.group == "default"))
        self._best: dict[tuple[str, str, int], Cell] = {}
        self._default: dict[tuple[str, str, int], Cell] = {}
        for cell in self.cells:
            if cell.group == "default":
                self._default[cell.name, cell.case, cell.budget] = cell
                continue
            key = cell.group, cell.case, cell.budget
            if key not in self._best or self.error(cell) < self.error(self._best[key]):
                self._best[key] = cell

    def error(self, cell: Cell) -> float:
        return cell.error(self.measure)

    def best(self, group: str, case: str, budget: int) -> Cell | None:
        return self._best.get((group, case, budget))

    def of(self, default: str, case: str, budget: int) -> Cell | None:
        return self._default.get((default, case, budget))

    def ratio(self, default: str, group: str, case: str, budget: int) -> float | None:
        """The error of a default over the least of a group; None if either has none."""
        mine, theirs = self.of(default, case, budget), self.best(group, case, budget)
        return None if mine is None or theirs is None else self.error(mine) / self.error(theirs)

    def ratios(self, default: str, group: str, budget: int | None = None) -> list[tuple[float, str]]:
        """Ratios with the name of their cell, of one number of evaluations or all, in rising order."""
        budgets = self.budgets if budget is None else [budget]
        found = ((self.ratio(default, group, case, b), f"{case} at {b}") for case in self.cases for b in budgets)
        return sorted((ratio, where) for ratio, where in found if ratio is not None)

    def rises(self, default: str) -> list[tuple[float, str]]:
        """Errors over those at the number of evaluations before, in rising order."""
        out = []
        for case in self.cases:
            mine = [c for b in self.budgets if (c := self.of(default, case, b)) is not None]
            for few, many in itertools.pairwise(mine):
                out.append((self.error(many) / self.error(few), f"{case}, {few.budget} to {many.budget}"))
        return sorted(out)


def targets(cells: Sequence[Cell]) -> Iterator[Target]:
    """The lines of the summary: for each default, by both measures."""
    tables = {measure: Table(cells, measure) for measure in MEASURES}
    for default in tables["rms"].defaults:
        for measure, table in tables.items():
            yield from _against_peers(default, MEASURES[measure], table)
            yield from _against_ours(default, MEASURES[measure], table)
            rises = table.rises(default)
            if rises:
                worst, where = rises[-1]
                what = f"{MEASURES[measure]}: largest rise of the error with more evaluations"
                yield Target(default, what, f"{worst:.2f} ({where})", f"≤ {RISE}", worst <= RISE)


def _against_peers(default: str, label: str, table: Table) -> Iterator[Target]:
    by_budget = {b: found for b in table.budgets if (found := table.ratios(default, "peers", b))}
    if not by_budget:
        return
    medians = {b: statistics.median(r for r, _ in found) for b, found in by_budget.items()}
    text = " · ".join(f"{b}: {m:.2f}" for b, m in medians.items())
    what = f"{label}: error / best peer, median over problems"
    yield Target(default, what, text, f"≤ {PEER_MEDIAN} at each", max(medians.values()) <= PEER_MEDIAN)
    worst = {b: found[-1] for b, found in by_budget.items()}
    text = " · ".join(f"{b}: {r:.2f} ({where.rpartition(' at ')[0]})" for b, (r, where) in worst.items())
    what = f"{label}: error / best peer, worst problem"
    yield Target(default, what, text, f"≤ {PEER_WORST} at each", max(r for r, _ in worst.values()) <= PEER_WORST)


def _against_ours(default: str, label: str, table: Table) -> Iterator[Target]:
    ratios = table.ratios(default, "ours")
    if not ratios:
        return
    share = sum(r <= OURS_USUAL for r, _ in ratios) / len(ratios)
    what = f"{label}: share of cells with error / best of ours ≤ {OURS_USUAL}"
    yield Target(default, what, f"{share:.1%} of {len(ratios)}", f"≥ {OURS_SHARE:.0%}", share >= OURS_SHARE)
    worst = ", ".join(f"{r:.2f} ({where})" for r, where in ratios[:-6:-1])
    what = f"{label}: error / best of ours, worst cells"
    yield Target(default, what, worst, f"≤ {OURS_WORST}", ratios[-1][0] <= OURS_WORST)


def ratio_table(cells: Sequence[Cell], default: str, group: str, measure: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a default over the best of a group, by case and number of evaluations."""
    table = Table(cells, measure)
    rows = []
    for case in table.cases:
        ratios = (table.ratio(default, group, case, b) for b in table.budgets)
        rows.append([case, *("–" if r is None else f"{r:.2f}" for r in ratios)])
    return ["problem", *map(str, table.budgets)], rows


def error_table(cells: Sequence[Cell]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: RMS and median of every default, and the best of peers and of ours, by which solver."""
    table, by_median = Table(cells, "rms"), Table(cells, "median")
    head = ["problem", "NFE", *(f"`{d}`" for d in table.defaults), "best peer", "which", "by median"]
    head += ["best of ours", "which", "by median"]
    rows = []
    for case in table.cases:
        for budget in table.budgets:
            row = [case, str(budget), *(_both(table.of(d, case, budget)) for d in table.defaults)]
            for group in ("peers", "ours"):
                best, usual = table.best(group, case, budget), by_median.best(group, case, budget)
                row += [_both(best), "–" if best is None else best.name]
                row.append("–" if usual is None else f"{usual.median:.1e} {usual.name}")
            rows.append(row)
    return head, rows


def _both(cell: Cell | None) -> str:
    return "–" if cell is None else f"{cell.rms:.2e} ({cell.median:.1e})"


def picture(cells: Sequence[Cell], path: Path) -> None:
    """Ratios of each default to the best peer and to the best of ours: a line for each problem, and the median."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    table = Table(cells, "rms")
    groups = [g for g in ("peers", "ours") if any(cell.group == g for cell in cells)]
    if not groups:
        return
    figure, axes = pyplot.subplots(
        len(groups), len(table.defaults), figsize=(6 * len(table.defaults), 4 * len(groups)), squeeze=False
    )
    for group, line in zip(groups, axes, strict=True):
        for default, axis in zip(table.defaults, line, strict=True):
            for case in table.cases:
                found = [(b, r) for b in table.budgets if (r := table.ratio(default, group, case, b)) is not None]
                axis.plot(*zip(*found, strict=True), lw=0.8, label=case)
            medians = [(b, statistics.median(r for r, _ in table.ratios(default, group, b))) for b in table.budgets]
            axis.plot(*zip(*medians, strict=True), "k", lw=2.5, label="median")
            axis.axhline(1, color="grey", lw=1, ls=":")
            label = "best peer" if group == "peers" else "best of ours"
            axis.set(xscale="log", yscale="log", title=f"{default} / {label}", xlabel="network evaluations")
            axis.set_xticks(table.budgets, [str(b) for b in table.budgets])
            axis.minorticks_off()
    axes[0, -1].legend(fontsize=6, ncol=2)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
