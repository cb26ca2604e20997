"""The page of one run: a sentence, samples beside data, four numbers, charts, and the rest folded."""

from dataclasses import dataclass, field
from pathlib import Path

from scoresde import plots, shell
from scoresde.config.modules import foreign
from scoresde.report import charts
from scoresde.report.frontiers import frontiers
from scoresde.report.information import FIGURES, against_table, information_charts, information_table
from scoresde.report.numbers import as_dict, is_number
from scoresde.report.page import render
from scoresde.report.png import Picture, from_png, pictures
from scoresde.report.reading import RunText, read_run
from scoresde.report.restorations import restorations_table
from scoresde.report.sentence import Part, dimensions, sentence
from scoresde.report.tables import Number, Table, numbers, tables
from scoresde.report.traces import Chart, Series
from scoresde.report.tuned_table import tuned_table

__all__ = ["run_page"]

_NOISE_LEVELS = "samples/loss_by_noise_level.png"
_DENSITIES, _POINTS = "samples/densities.png", "samples/samples.png"
# Figures at the top, the first of these that are there: held-out data beside samples, or samples alone.
_TOP = (("samples/beside-data.png", "samples/beside-samples.png"), (_DENSITIES,), (_POINTS,))


@dataclass
class _Page:
    """Content of the page for its template."""

    name: str
    directory: str
    config: str
    sentence: list[Part]
    numbers: list[Number]
    tables: list[Table]
    commands: list[tuple[str, str]]
    charts: list[Chart] = field(default_factory=list)
    hero: list[Picture] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def config_count(self) -> str:
        """The number of lines of the configuration."""
        lines = len(self.config.splitlines())
        return f"{lines} line{'s' * (lines != 1)}"


def run_page(directory: Path) -> str:
    """The page of a run directory, from whatever is there.

    Raises:
        FileNotFoundError: No such directory, or one without `config.yaml`.
    """
    run = read_run(directory)
    page = _Page(
        run.name,
        str(directory),
        run.text,
        sentence(run),
        numbers(run.summary, dimensions(run), _levels(run)),
        [*tables(run.summary, run.comparisons), *_further_tables(run)],
        _commands(run),
        notes=run.notes,
    )
    every = list(pictures(directory, run.notes))
    top = next((files for files in _TOP if set(files) <= {picture.file for picture in every}), ())
    page.hero = [picture for picture in every if picture.file in top]
    # Points show less than their density above them; wide figures come first, and the others follow in columns.
    shown = {*top, _POINTS} if _DENSITIES in top else set(top)
    page.pictures = sorted((picture for picture in every if picture.file not in shown), key=lambda p: not p.wide)
    series = [Series(run.name, 0, run.log, run.summary, run.comparison, coloured=run.coloured)]
    stand_ins = {picture.file: picture for picture in page.pictures if picture.file in (_NOISE_LEVELS, *FIGURES)}
    unit = "bits/dim" if _in_bits(run) else "nats"
    made = [
        charts.learning_curves(series, _curve(run)),
        charts.loss_by_noise_level(series, stand_ins.get(_NOISE_LEVELS)),
        *information_charts(run.information, stand_ins),
        charts.error_budget(series, unit),
        *frontiers(series),
    ]
    page.charts = [chart for chart in made if chart is not None]
    replaced = [chart.fallback for chart in page.charts if chart.fallback is not None]
    page.pictures = [p for p in page.pictures if not any(p is other for other in replaced)]
    return render("run.html.j2", page.charts, scripts=True, page=page)


def _further_tables(run: RunText) -> list[Table]:
    made = (
        restorations_table(run.summary),
        tuned_table(run.tuned, run.comparison),
        information_table(run.information, run.further_information),
        against_table(run.against),
    )
    return [table for table in made if table is not None]


def _levels(run: RunText) -> int | None:
    levels = as_dict(run.data.get("transform")).get("levels")
    return levels if isinstance(levels, int) and 1 < levels < 2**32 else None


def _in_bits(run: RunText) -> bool:
    return as_dict(run.summary.get("likelihood")).get("bits_per_dim") is not None


def _curve(run: RunText) -> Picture | None:
    """The learning curve for readers without scripts."""
    lost = [e["step"] for e in run.log if "loss" in e and not is_number(e["loss"])]
    if lost:
        run.notes.append(f"The loss was not finite at {len(lost)} logged steps, the last of them {lost[-1]}.")
    found = charts.losses(run.log)
    if not found:
        return None
    nan = float("nan")
    series = {
        name.replace("_", " "): [float(e[name]) if is_number(e.get(name)) else nan for e in run.log] for name in found
    }
    figure = plots.learning_curves([float(e["step"]) for e in run.log], series)
    return from_png(plots.to_png(figure), "Learning curve", "")


def _commands(run: RunText) -> list[tuple[str, str]]:
    """Things to do with the run, each with its command; packages that it must allow are named there."""
    own = foreign([{"_target_": value} for key, value in run.config.items() if key.rpartition(".")[2] == "_target_"])
    allow = [shell.override("allow", own)] if own else []

    def command(name: str, *further: str) -> str:
        return shell.command(name, shell.override("run", run.directory), *further, *allow)

    if "classifier" in run.summary:
        guiding = (shell.override("guidance.classifier", run.directory), "label=0", *allow)
        return [
            ("Go on with training from the last checkpoint", command("train")),
            ("Guide a model to a class", shell.command("sample", "run=MODEL", "guidance=classifier", *guiding)),
            ("This page again", command("report")),
            ("The classifier in Python", f"classifier = scoresde.load_classifier({str(run.directory)!r})"),
        ]
    return [
        ("Go on with training from the last checkpoint", command("train")),
        ("Draw samples", command("sample", "n=64", "seed=1")),
        ("Likelihood of held-out data", command("likelihood", "split=test")),
        ("Where it spends its bits", command("information")),
        ("Sample quality", command("evaluate")),
        ("Times and coefficients for few evaluations", command("tune", "steps=8")),
        ("This page again", command("report")),
        ("The model in Python", f"model = scoresde.load({str(run.directory)!r}{f', allow={own}' if own else ''})"),
    ]
