"""Parts of every figure of a run: plotting, saving and listing."""

from types import ModuleType
from typing import Any

from scoresde.chains import DiscreteChainModel
from scoresde.runs.conditions import other_conditions, told_conditions
from scoresde.runs.directory import Run
from scoresde.score import ScoreModel

__all__ = ["BESIDE", "given", "panels", "plots", "save"]

BESIDE = "Samples beside held-out data"


def plots() -> ModuleType:
    """`scoresde.plots`, imported late: training does not wait for matplotlib."""
    from scoresde import plots

    return plots


def panels() -> ModuleType:
    """`scoresde.plots.panels`, imported late, too."""
    from scoresde.plots import panels

    return panels


def save(run: Run, figure: Any, file: str, title: str, caption: str, kind: str = "", wide: bool = False) -> None:
    """Save a figure in the run directory and list it for the report.

    Args:
        run: The run.
        figure: Figure of matplotlib.
        file: Name of the file in the run directory.
        title: Title in the report.
        caption: One or two sentences.
        kind: Entry of the list for the report: chart, dark or nothing.
        wide: Save it at the resolution of wide figures.
    """
    if kind == "dark":
        run.write_bytes(file, panels().dark_png(figure))
    else:
        plots().save(figure, run.directory / file, **({"dpi": panels().RUN_DPI} if wide else {}))
    run.add_picture(file, title, caption, **({"kind": kind} if kind else {}))


def given(model: ScoreModel | DiscreteChainModel) -> str:
    """Words on the conditions beside labels that samples of a figure are given; empty for none."""
    return told_conditions(model, None, None) if other_conditions(model) else ""
