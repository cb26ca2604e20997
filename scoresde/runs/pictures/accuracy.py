"""The figure of a classifier's accuracy by noise level."""

import math
from typing import Any

from scoresde.runs.directory import Run
from scoresde.runs.pictures.drawing import plots, save

__all__ = ["accuracy_picture"]


def accuracy_picture(run: Run, entry: dict[str, Any], classes: int) -> None:
    """Draw the accuracy by noise level as `samples/accuracy.png`.

    Args:
        run: Run whose directory the figure goes into.
        entry: The entry `classifier` of the summary.
        classes: Number of classes.
    """
    sides = {"held-out data": entry["held_out"], "training data": entry["train"]}
    known = {name: side for name, side in sides.items() if all(map(math.isfinite, side["accuracy_stderr"]))}
    figure = plots().accuracy_by_noise_level(
        [-level for level in entry["held_out"]["log_snr"]],
        {name: side["accuracy"] for name, side in sides.items()},
        {name: side["accuracy_stderr"] for name, side in known.items()},
        1 / classes,
    )
    n = entry["held_out"]["mean_accuracy"]["n"]
    caption = (
        f"Share of {n} held-out samples, and of training data, whose class is found under noise; ± standard error."
    )
    save(run, figure, "samples/accuracy.png", "Accuracy by noise level", caption, "chart")
