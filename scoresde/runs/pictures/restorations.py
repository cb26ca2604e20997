"""Figures of posterior samples: the truth where it is known, the measurement, samples, their mean and deviation."""

import torch
from torch import Tensor

from scoresde.data import Data, DataInfo
from scoresde.inverse import Measurement, as_images
from scoresde.runs.directory import Run
from scoresde.runs.pictures.drawing import plots, save
from scoresde.runs.pictures.images import as_pixels, looks_like_image
from scoresde.runs.restore_input import in_raw_units

__all__ = ["picture_of_restorations"]

_ROWS, _SAMPLES = 8, 4  # measurements, and samples of each, that are shown
_TITLE = "Restored from measurements"


def picture_of_restorations(
    run: Run,
    data: Data | DataInfo,
    file: str,
    measurement: Measurement,
    truth: Tensor | None,
    arrays: tuple[Tensor, Tensor, Tensor],
    caption: str,
) -> None:
    """Draw the first measurements, each in a row.

    Args:
        run: Run whose directory the figure goes into.
        data: The run's data, or what is known of them.
        file: Path of the figure in the directory.
        measurement: The measurements.
        truth: The samples `(B, *shape)` that were measured, in raw units, where they are known.
        arrays: Samples `(B, n, *shape)`, their means and standard deviations `(B, *shape)`, in raw units.
        caption: Caption that says how they were drawn.
    """
    samples, mean, std = (values[:_ROWS] for values in arrays)
    truth = None if truth is None else truth[:_ROWS]
    if not looks_like_image(data):
        flat = samples.float().flatten(2)
        figure = plots().restored_curves(flat, None if truth is None else truth.flatten(1))
        save(run, figure, file, _TITLE, caption)
        return
    like = samples.flatten(0, 1) if truth is None else truth
    columns = {} if truth is None else {"truth": as_pixels(data, truth, like)}
    if (measured := _measured(data, measurement.rows(slice(0, _ROWS)), like)) is not None:
        columns["measured"] = measured
    for place in range(min(_SAMPLES, samples.shape[1])):
        columns[f"sample {place + 1}"] = as_pixels(data, samples[:, place], like)
    if samples.shape[1] > 1:
        columns["mean"] = _scaled(data, mean, like)
        largest = float(std.max())
        columns["deviation"] = _grey(std / max(largest, 1e-12))
        caption += f" White in the last column is a standard deviation of {largest:.3g}."
    save(run, plots().restorations(columns), file, _TITLE, caption)


def _measured(data: Data | DataInfo, measurement: Measurement, like: Tensor) -> Tensor | None:
    """The measurements as pixels, NaN where nothing was measured; None where there is nothing to show."""
    shown = as_images(measurement)
    if shown is None:
        return None
    values = shown.values.cpu().float()
    if shown.in_units:
        pixels = _scaled(data, in_raw_units(data, values), like)
    else:
        low, high = (values.flatten(1).quantile(q, dim=1).reshape(-1, 1, 1, 1) for q in (0.01, 0.99))
        pixels = _grey(((values - low) / (high - low).clamp(min=1e-12)).clamp(0, 1))
    if shown.seen is not None:
        pixels[:, :, ~shown.seen.cpu().any(0)] = torch.nan
    return pixels


def _scaled(data: Data | DataInfo, raw: Tensor, like: Tensor) -> Tensor:
    """Values on the scale of raw ones, which need be no levels, as pixels."""
    if data.transform.levels is None:
        return as_pixels(data, raw, like)
    return _grey((raw.float() / (data.transform.levels - 1)).clamp(0, 1))


def _grey(x: Tensor) -> Tensor:
    """The channels that are shown: three, or the first."""
    return x.float() if x.shape[1] in (1, 3) else x[:, :1].float()
