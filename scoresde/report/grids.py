"""Sortable tables of several runs: a row for each run, for each configuration, or for each pair that was compared."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scoresde.report import columns as comparing
from scoresde.report.columns import SEED, Cell, Column, Measure
from scoresde.report.information_grid import divergence_columns, has_information, information_measures
from scoresde.report.reading import RunText
from scoresde.report.tables import Table

__all__ = ["Grid", "RunView", "averages", "every_run", "information_grids"]

_MARKS = "Bold: the best. Grey: worse, by more than two standard errors of the difference."


@dataclass(frozen=True)
class Grid:
    """A sortable table; `links` are the anchors that the first column of its rows links to."""

    title: str
    columns: list[Column]
    links: list[str]
    note: str = ""

    @property
    def rows(self) -> list[list[Cell]]:
        """The cells of each row."""
        return [list(row) for row in zip(*(column.cells for column in self.columns), strict=True)]


@dataclass(frozen=True)
class RunView:
    """One run on the page."""

    anchor: str
    name: str
    label: str
    place: str
    settings: list[tuple[str, str]]
    tables: list[Table]
    config: str
    notes: list[str]


def every_run(
    measures: list[Measure],
    runs: list[RunText],
    keys: list[str],
    views: list[RunView],
    places: Sequence[int] | None = None,
) -> Grid:
    """A row for each run, or for those at some places."""
    places = range(len(runs)) if places is None else places
    number = Column("no.", [Cell(str(place + 1), place + 1) for place in places])
    name = Column("run", [Cell(views[place].name, views[place].name) for place in places])
    singles = [[place] for place in places]
    settings = [comparing.setting([runs[place] for place in places], key, keys) for key in keys]
    note = f"± the estimate's own standard error; ↓ lower is better, ↑ higher is better. {_MARKS}"
    if not keys and len(runs) > 1:
        note += " The configurations do not differ."
    links = [views[place].anchor for place in places]
    return Grid("Runs", [number, *settings, *comparing.measured(measures, runs, singles), name], links, note)


def averages(
    measures: list[Measure], runs: list[RunText], groups: list[list[int]], keys: list[str], views: list[RunView]
) -> Grid:
    """A row for each configuration, over its training seeds."""
    keys = [key for key in keys if key != SEED]
    firsts = [runs[group[0]] for group in groups]
    names = [_numbers(group) for group in groups]
    columns = [
        Column(
            "runs", [Cell(name, group[0]) for name, group in zip(names, groups, strict=True)], "their numbers below"
        ),
        *(comparing.setting(firsts, key, keys) for key in keys),
        Column("seeds", [Cell(str(len(group)), len(group)) for group in groups], "repeats that are averaged"),
        *comparing.measured(measures, runs, groups, mark=True),
    ]
    note = (
        "Means over R training seeds, ± the scatter between them / √R: that holds chance in training, but not the "
        f"choice of held-out data, which they share. {_MARKS}"
    )
    if any(len(group) == 1 for group in groups):
        note += " † One seed only: the estimate's own error, which holds no chance in training."
    return Grid("Averages over training seeds", columns, [views[group[0]].anchor for group in groups], note)


def _numbers(places: list[int]) -> str:
    """The numbers of runs, neighbours as a range."""
    if len(places) > 2 and places == list(range(places[0], places[0] + len(places))):
        return f"{places[0] + 1}–{places[-1] + 1}"
    return ", ".join(str(place + 1) for place in places)


def information_grids(
    runs: list[RunText], groups: list[list[int]], keys: list[str], views: list[RunView]
) -> list[Grid]:
    """Tables of what `scoresde information` found: averages over seeds, each run, and pairs of runs."""
    measures, grids = information_measures(runs), []
    known = [[place for place in group if has_information(runs[place])] for group in groups]
    if any(len(group) > 1 for group in known):
        means = averages(measures, runs, [group for group in known if group], keys, views)
        grids.append(replace(means, title="Information, averages over training seeds"))
    every = every_run(measures, runs, keys, views, [place for place, run in enumerate(runs) if has_information(run)])
    grids.append(replace(every, title="Information of each run"))
    columns, places = divergence_columns(runs, [view.label for view in views])
    if places:
        note = (
            "By errors of denoising at the same noise, ± standard error. Both ways of the divergence agree where the "
            "run's scores are those of its samples."
        )
        grids.append(Grid("Divergences between runs", columns, [views[place].anchor for place in places], note))
    return grids
