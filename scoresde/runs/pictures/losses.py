"""Figures of the loss by noise level."""

from typing import Any

import numpy as np

from scoresde.runs.directory import Run
from scoresde.runs.log import read_log
from scoresde.runs.pictures.drawing import plots, save

__all__ = ["loss_picture"]


def loss_picture(run: Run) -> None:
    """Draw the loss by noise level at the end of training, if the log has it."""
    lines = [line for line in read_log(run) if line.get("loss_by_log_snr")][-10:]
    if not lines:
        return
    figure = plots().loss_by_noise_level(*_average_curves(lines))
    caption = "Mean squared error of the predicted noise at the end of training."
    save(run, figure, "samples/loss_by_noise_level.png", "Loss by noise level", caption, "chart")


def _average_curves(lines: list[dict[str, Any]]) -> tuple[list[float], list[float], list[float]]:
    """Centres of bins of log(σ/α), ascending, and the mean and its standard error over entries of the log in each."""
    bins: dict[float, list[float]] = {}
    for line in lines:
        for centre, value in zip(line["log_snr"], line["loss_by_log_snr"], strict=True):
            if value is not None:
                bins.setdefault(-centre, []).append(value)
    centres = sorted(bins)
    mean = [float(np.mean(bins[c])) for c in centres]
    stderr = [float(np.std(bins[c], ddof=1) / len(bins[c]) ** 0.5) if len(bins[c]) > 1 else 0.0 for c in centres]
    return centres, mean, stderr
