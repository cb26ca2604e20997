"""Measurements of contenders, as tables, a file of them and a picture."""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from contenders import OURS, OWN
from torch import Tensor

__all__ = ["Row", "best", "by_solver", "distance", "markdown", "save", "summary"]


@dataclass(frozen=True)
class Row:
    """A measurement: an endpoint error, or a sliced Wasserstein distance."""

    table: str
    problem: str
    library: str
    solver: str
    grid: str
    budget: int
    value: float

    def __str__(self) -> str:
        return f"{self.solver if self.library == OURS else f'{self.library} {self.solver}'}, {self.grid}"


def distance(true: Tensor) -> Callable[[Tensor], float]:
    """RMS over the samples of the distance to `true`."""
    return lambda x: float((x - true).flatten(1).norm(dim=1).square().mean().sqrt())


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def best(rows: Iterable[Row]) -> Row | None:
    return min(rows, key=lambda row: row.value, default=None)


def summary(rows: Sequence[Row], floor: float = 0.0) -> str:
    """Best of ours, the default and the best peer at every budget."""
    header = ["NFE", "best of ours", "which", "`default`", "best peer", "which", "ours / peer", "default / ours"]
    lines = []
    for budget in sorted({row.budget for row in rows}):
        here = [row for row in rows if row.budget == budget]
        mine = best(row for row in here if row.library == OURS)
        peer = best(row for row in here if row.library != OURS)
        default = best(row for row in here if row.library == OURS and (row.solver, row.grid) == ("default", OWN))
        lines.append(
            [
                str(budget),
                _number(mine),
                str(mine or "–"),
                _number(default),
                _number(peer),
                str(peer or "–"),
                f"{mine.value / peer.value:.2f}" if mine and peer else "–",
                f"{default.value / mine.value:.2f}" if default and mine else "–",
            ]
        )
    return markdown(header, lines)


def _number(row: Row | None) -> str:
    return "–" if row is None else f"{row.value:.3g}" if row.table == "stochastic" else f"{row.value:.2e}"


def by_solver(rows: Sequence[Row]) -> str:
    """Each solver on the grid that is the best for it at each budget; ours first, then by library."""
    budgets = sorted({row.budget for row in rows})
    names = sorted({(row.library != OURS, row.library, row.solver) for row in rows})
    lines = []
    for _, library, solver in names:
        mine = [row for row in rows if (row.library, row.solver) == (library, solver)]
        values = [best(row for row in mine if row.budget == budget) for budget in budgets]
        grid = max({row.grid for row in mine}, key=lambda g: sum(v is not None and v.grid == g for v in values))
        lines.append([library, solver, *map(_number, values), grid])
    return markdown(["library", "solver", *map(str, budgets), "mostly on"], lines)


def picture(rows: Sequence[Row], floors: dict[tuple[str, str], float], path: Path) -> None:
    """The best of each library at each budget."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    panels = sorted({(row.table, row.problem) for row in rows})
    figure, axes = pyplot.subplots(1, len(panels), figsize=(5 * len(panels), 4), squeeze=False)
    for (table, problem), axis in zip(panels, axes[0], strict=True):
        here = [row for row in rows if (row.table, row.problem) == (table, problem)]
        for library in sorted({row.library for row in here}, key=lambda name: (name != OURS, name)):
            _frontier(axis, [row for row in here if row.library == library], library, 2.5 if library == OURS else 1)
        default = [row for row in here if row.library == OURS and (row.solver, row.grid) == ("default", OWN)]
        if default:
            _frontier(axis, default, "scoresde, default", 1.5, "--")
        if (table, problem) in floors:
            axis.axhline(floors[table, problem], color="grey", lw=1, ls=":", label="exact samples")
        axis.set(xscale="log", yscale="log", title=f"{problem}, {table}", xlabel="network evaluations")
        if (table, problem) in floors:
            # Some blow up on few steps.
            axis.set_ylim(top=min(axis.get_ylim()[1], 50 * floors[table, problem]))
        axis.set_ylabel("endpoint error" if table == "deterministic" else "sliced Wasserstein distance")
        ticks = sorted({row.budget for row in here})
        axis.set_xticks(ticks, [str(t) for t in ticks])
        axis.minorticks_off()
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _frontier(axis: Any, rows: Sequence[Row], label: str, width: float, style: str = "-") -> None:
    budgets = sorted({row.budget for row in rows})
    values = [min(row.value for row in rows if row.budget == budget) for budget in budgets]
    axis.plot(budgets, values, style, lw=width, marker=".", label=label)


def save(folder: Path, text: str, rows: Sequence[Row], floors: dict[tuple[str, str], float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "solvers.md").write_text(text + "\n", encoding="utf-8")
    names = [field.name for field in fields(Row)]
    with (folder / "solvers.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([getattr(row, name) for name in names] for row in rows)
    if rows:
        picture(rows, floors, folder / "solvers.png")
