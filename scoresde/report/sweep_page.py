"""The page of several runs: jobs that failed, and for each data set tables, charts and figures side by side."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scoresde.report import charts
from scoresde.report import columns as comparing
from scoresde.report.columns import SEED, Cell, Measure
from scoresde.report.frontiers import Palette, frontiers
from scoresde.report.grids import Grid, RunView, averages, every_run, information_grids
from scoresde.report.information_grid import has_information, information_curves, information_notes
from scoresde.report.numbers import Value, as_dict
from scoresde.report.page import render
from scoresde.report.png import Picture, pictures
from scoresde.report.rankings import Row, against, ranking
from scoresde.report.reading import Job, RunText, read_sweep
from scoresde.report.tables import tables
from scoresde.report.traces import Chart, Series

__all__ = ["sweep_page"]

# Figures of samples, of which each configuration shows the first that is there.
_SAMPLES = ("samples/beside-samples.png", "samples/densities.png", "samples/samples.png")
_DATA = "samples/beside-data.png"
_MAX_SHOWN = 12  # figures that are not folded
_MAX_SCALES = 3  # settings that a measure is charted against
_DONE = ("finished", "pruned", "skipped")


@dataclass
class Section:
    """The runs of one data set."""

    data: str
    sentence: str
    runs: list[RunView]
    grids: list[Grid]
    results: list[tuple[int, Chart]] = field(default_factory=list)
    charts: list[tuple[int, Chart]] = field(default_factory=list)
    pictures: list[tuple[str, Picture]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    information: list[Grid] = field(default_factory=list)
    information_charts: list[tuple[int, Chart]] = field(default_factory=list)
    information_notes: list[str] = field(default_factory=list)

    @property
    def folded(self) -> list[tuple[str, Picture]]:
        """Figures beyond those that are shown at once."""
        return self.pictures[_MAX_SHOWN:]

    @property
    def shown(self) -> list[tuple[str, Picture]]:
        """Figures that are shown at once."""
        return self.pictures[:_MAX_SHOWN]


@dataclass
class _Page:
    """Content of the page for its template."""

    name: str
    directory: str
    sections: list[Section]
    jobs: str
    failed: list[Job]
    notes: list[str]


def sweep_page(directory: Path) -> str:
    """The page of a sweep or of a folder of runs.

    Raises:
        FileNotFoundError: No such directory, or nothing in it.
    """
    sweep = read_sweep(directory)
    by_data: dict[str, list[RunText]] = {}
    for run in sweep.runs:
        by_data.setdefault(comparing.data_set(run), []).append(run)
    notes = list(sweep.notes)
    if len(by_data) > 1:
        counts = ", ".join(f"{data}: {len(runs)} run{'s' * (len(runs) > 1)}" for data, runs in by_data.items())
        notes.append(
            "These runs are of different data sets, whose numbers cannot be compared: each has a part of its own "
            f"({counts})."
        )
    if not sweep.runs:
        notes.append("No job left a run directory.")
    made: list[Chart] = []
    palette = Palette()
    sections = [
        _section(data, runs, directory, number, made, palette) for number, (data, runs) in enumerate(by_data.items())
    ]
    failed = [job for job in sweep.jobs if job.status not in _DONE]
    jobs = ", ".join(f"{count} {status}" for status, count in Counter(job.status for job in sweep.jobs).items())
    page = _Page(directory.resolve().name, str(directory), sections, jobs, failed, notes)
    return render("sweep.html.j2", made, scripts=bool(sections), page=page)


def _section(
    data: str, runs: list[RunText], directory: Path, number: int, made: list[Chart], palette: Palette
) -> Section:
    """The part of the page about the runs of one data set.

    Args:
        data: Name of the data set.
        runs: The runs.
        directory: Folder of the runs.
        number: Number of the section.
        made: Charts of the page, to which those of the section are added.
        palette: Colours of samplers on the page.
    """
    keys, groups = comparing.differing(runs), comparing.repeats(runs)
    views = [_view(run, keys, directory, f"run-{number}-{index}", f"{index + 1}. ") for index, run in enumerate(runs)]
    measures = comparing.measures(runs)
    main = comparing.main_measures(measures, runs)
    configurations = _configurations(runs, groups, keys)
    ranked = _ranked(configurations, main[0]) if main else []
    sentence = _sentence(len(runs), keys, configurations)
    if len(ranked) > 1:
        sentence += _best(ranked, main[0])
    section = Section(data, sentence, views, [], notes=comparing.conditions(runs))
    if any(len(group) > 1 for group in groups):
        section.grids.append(averages(measures, runs, groups, keys, views))
    section.grids.append(every_run(measures, runs, keys, views))
    if sum(map(len, groups)) < len(runs):
        section.notes.append("Runs with the configuration and seed of another are no repeats: one of each is averaged.")
    shared = {index: c.name for c in configurations for index in c.indices if len(c.indices) > 1}
    section.results = _numbered(_results(main, configurations, keys), made)
    series = _series(runs, views, groups, shared)
    if any(map(has_information, runs)):
        section.information = information_grids(runs, groups, keys, views)
        section.information_charts = _numbered(information_curves(series, runs), made)
        section.information_notes = information_notes(runs)
    section.charts = _numbered(_curves(series, runs, palette), made)
    # The best first; those that were not measured at the end, as they come.
    order = [configuration.indices[0] for configuration, _ in ranked]
    order += [c.indices[0] for c in configurations if c.indices[0] not in order]
    section.pictures = _pictures([(runs[i], views[i], shared.get(i, views[i].label)) for i in order])
    return section


def _numbered(charts: Sequence[Chart | None], made: list[Chart]) -> list[tuple[int, Chart]]:
    """Charts with their numbers on the page; they are added to those of the page."""
    numbered = []
    for chart in charts:
        if chart is not None:
            numbered.append((len(made), chart))
            made.append(chart)
    return numbered


def _series(
    runs: Sequence[RunText], views: Sequence[RunView], groups: Sequence[Sequence[int]], shared: Mapping[int, str]
) -> list[Series]:
    """What charts with a curve for each run draw.

    Args:
        runs: The runs.
        views: What the page has of each of them.
        groups: Indices of runs that differ in their seed alone.
        shared: Names that runs share with their repeats, by index.
    """
    tones = {index: tone for tone, group in enumerate(groups) for index in group}
    return [
        # Copies of a run have no tone of their own.
        Series(
            view.label,
            tones.get(index, index),
            run.log,
            run.summary,
            run.comparison,
            str(index + 1),
            run.coloured,
            shared.get(index, ""),
        )
        for index, (run, view) in enumerate(zip(runs, views, strict=True))
    ]


def _curves(series: Sequence[Series], runs: Sequence[RunText], palette: Palette) -> list[Chart | None]:
    """Charts with a curve for each run: samplers compared, losses and the parts of the likelihood's error."""
    bits = any(as_dict(run.summary.get("likelihood")).get("bits_per_dim") is not None for run in runs)
    return [
        *frontiers(series, palette),
        charts.learning_curves(series),
        charts.loss_by_noise_level(series),
        charts.error_budget(series, "bits/dim" if bits else "nats"),
    ]


def _pictures(runs: Sequence[tuple[RunText, RunView, str]]) -> list[tuple[str, Picture]]:
    """A figure of samples of each run, and of held-out data before the first of images, with their names."""
    shown: list[tuple[str, Picture]] = []
    for run, view, name in runs:
        by_file = {each.file: each for each in pictures(run.directory, view.notes, (_DATA, *_SAMPLES))}
        samples = next((by_file[file] for file in _SAMPLES if file in by_file), None)
        if samples is None:
            continue
        if _DATA in by_file and not shown and samples.file == _SAMPLES[0]:
            shown.append(("held-out data", by_file[_DATA]))
        shown.append((name, samples))
    return shown


@dataclass(frozen=True)
class _Configuration:
    """Runs that differ in their seed alone.

    Attributes:
        name: What sets them apart from others.
        runs: The runs.
        indices: Their indices among all runs.
    """

    name: str
    runs: list[RunText]
    indices: list[int]


def _configurations(runs: list[RunText], groups: list[list[int]], keys: list[str]) -> list[_Configuration]:
    keys = [key for key in keys if key != SEED]
    return [
        _Configuration(comparing.label(runs[group[0]], keys), [runs[index] for index in group], group)
        for group in groups
    ]


def _ranked(configurations: list[_Configuration], measure: Measure) -> list[tuple[_Configuration, Value]]:
    """The configurations that a measure has a mean for, the best first."""
    means = [(configuration, measure.mean(configuration.runs)) for configuration in configurations]
    known = [(configuration, mean) for configuration, mean in means if mean is not None]
    return sorted(known, key=lambda pair: -measure.better * pair[1].value)


def _results(main: list[Measure], configurations: list[_Configuration], keys: list[str]) -> list[Chart]:
    """Charts of the main measures: every configuration, and against each setting that is a number."""
    made = []
    firsts = [configuration.runs[0] for configuration in configurations]
    numeric = [key for key in keys if key != SEED and _is_scale(firsts, key)]
    for measure in main:
        known = _ranked(configurations, measure)
        if len(known) < 2:
            continue
        rows = [Row(c.name, mean, [v.value for v in map(measure.read, c.runs) if v is not None]) for c, mean in known]
        real = [value for c in configurations for value in map(measure.reference, c.runs) if value is not None]
        made.append(ranking(measure.title, measure.hint, rows, real[0] if real else None))
        for key in numeric[:_MAX_SCALES]:
            rest = [other for other in keys if other not in (key, SEED)]
            lines: dict[str, list[tuple[float, Value]]] = {}
            for c, mean in known:
                number = comparing.number_of(c.runs[0], key)
                if number is not None:
                    lines.setdefault(comparing.label(c.runs[0], rest) if rest else "", []).append((number, mean))
            made.append(against(measure.title, key, measure.better, list(lines.items())))
    return made


def _by_number(cell: Cell) -> float:
    """A key to sort numbers by their size; names, all alike, stay as they come."""
    return cell.key if isinstance(cell.key, (int, float)) else 0.0


def _is_scale(runs: list[RunText], key: str) -> bool:
    """True if a setting has at least three different values, all of them numbers."""
    values = [comparing.number_of(run, key) for run in runs]
    return None not in values and len(set(values)) > 2


def _sentence(count: int, keys: list[str], configurations: list[_Configuration]) -> str:
    """A sentence on what was run, for people who read no further."""
    firsts = [c.runs[0] for c in configurations]
    parts = []
    for key in (key for key in keys if key != SEED):
        column = comparing.setting(firsts, key, keys)
        cells = sorted(column.cells, key=_by_number)
        values = list(dict.fromkeys(cell.text for cell in cells if cell.text != "–"))
        parts.append(
            f"{column.title} ({', '.join(values)})" if len(values) <= 6 else f"{len(values)} values of {column.title}"
        )
    sizes = [len(configuration.indices) for configuration in configurations]
    fewest, most = min(sizes), max(sizes)
    seeds = f", {'up to ' if fewest < most else ''}{most} training seeds each" if most > 1 else ""
    listed = f": {', '.join(parts[:5])}" if parts else ""
    more = " and more" if len(parts) > 5 else ""
    return f"{count} run{'s' * (count != 1)}{listed}{more}{seeds}."


def _best(ranked: list[tuple[_Configuration, Value]], measure: Measure) -> str:
    """A sentence on the best configuration, and on how many are within the errors of it."""
    first, mean = ranked[0]
    means = [mean for _, mean in ranked]
    differences = comparing.differences(measure, means, [configuration.runs for configuration, _ in ranked])
    made = f" Best {measure.title.rstrip(' ↑↓')}: {measure.show(mean)} with {first.name}"
    near = len(means) - 1 - comparing.best(means, measure.better, differences).count("worse")
    if near and all(mean.stderr is not None for mean in means):
        made += f"; {near} other{'s' * (near > 1)} within two standard errors"
    second = differences[1]
    if second is None:
        return f"{made}."
    verdict = second.verdict(first.name, ranked[1][0].name, measure.unit, lower_is_better=measure.better < 0)
    return f"{made}. On the same {len(second)} samples {verdict}."


def _view(run: RunText, keys: list[str], directory: Path, anchor: str, prefix: str) -> RunView:
    place = os.path.relpath(run.directory, directory)
    cells = [comparing.setting([run], key, keys).cells[0] for key in keys]
    settings = [(key, cell.text) for key, cell in zip(keys, cells, strict=True)]
    label = prefix + comparing.label(run, keys)
    return RunView(anchor, run.name, label, place, settings, tables(run.summary, run.comparisons), run.text, run.notes)
