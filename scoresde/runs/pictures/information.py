"""Figures of information: curves over noise levels, images by their likelihood, and maps of their dimension."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scoresde.data import Data
from scoresde.information import flipd
from scoresde.options.errors import ConfigError
from scoresde.runs.directory import Run
from scoresde.runs.information_table import InformationTable, dequantised
from scoresde.runs.pictures.drawing import plots, save
from scoresde.runs.pictures.images import is_image, to_unit
from scoresde.score import NetworkScore

__all__ = ["pictures_of_information"]

_MAX_IMAGES = 8  # of each kind
# What the files of further figures, and of samples in a comparison, add to the name of a result.
_TAKEN = ("differences", "dimension", "samples", "typicality")


def check_no_figure(name: str | None) -> None:
    """Reject a name of a result whose files would be those of another's figures.

    Raises:
        ConfigError: Such a name.
    """
    if name in _TAKEN:
        raise ConfigError(
            f"name is {name!r}, which figures or tables of other results end in: expected another than "
            f"{', '.join(_TAKEN[:-1])} or {_TAKEN[-1]}"
        )


def pictures_of_information(
    run: Run,
    model: NetworkScore,
    data: Data,
    raw: Tensor,
    labels: Tensor | None,
    table: InformationTable,
    stem: str,
    note: Mapping[str, Any],
    seed: int,
) -> None:
    """Draw the results of a table of information.

    Args:
        run: The run.
        model: Its model.
        data: Its data.
        raw: `(n, ...)` samples in raw units.
        labels: Their labels, for a model that takes them.
        table: The table of these samples.
        stem: Name of the figures.
        note: The results.
        seed: Seed of the dequantisation.
    """
    _curves(run, stem, note, "training samples" if table.settings["split"] == "train" else "held-out samples")
    if not is_image(data) or len(raw) < 2:
        return
    _likely(run, data, raw, table.column("ode", len(raw)), stem)
    if table.settings["dimension"] > 1:
        _dimensions(run, model, data, raw, labels, table, stem, seed)


def _curves(run: Run, stem: str, note: Mapping[str, Any], kind: str) -> None:
    """Draw the errors of denoising, and what held-out data cost more and labels save."""
    curve = note["curve"]
    drawn = plots().information_by_level(
        curve["log_snr"],
        {"model": _of(curve["error"]), "normal density of the same moments": _of(curve["normal"])},
        "nats per unit of log SNR, a sample",
    )
    caption = (
        f"Error of denoising, which is the information that each noise level adds, of {note['n']} {kind}, ± two "
        "standard errors. The area between the curves is what the model knows beyond mean and covariance."
    )
    save(run, drawn, f"samples/{stem}.png", "Information by noise level", caption, "chart")
    further = {}
    if "training" in note:
        further["held-out data cost more than training data"] = _of(note["training"]["curve"])
    if "labels" in note:
        further["labels save"] = _of(note["labels"]["curve"])
    if further:
        drawn = plots().information_by_level(curve["log_snr"], further, "nats per unit of log SNR, a sample")
        caption = f"{' and '.join(further).capitalize()}: by noise level, ± two standard errors."
        save(run, drawn, f"samples/{stem}-differences.png", "Where information differs", caption, "chart")


def _of(curve: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Means and standard errors of a curve; what is missing is 0 and NaN."""
    return [m or 0.0 for m in curve["mean"]], [math.nan if e is None else e for e in curve["stderr"]]


def _likely(run: Run, data: Data, raw: Tensor, log_prob: Tensor, stem: str) -> None:
    """Draw the most and the least likely images, with their distance from the mean log-density."""
    count = min(_MAX_IMAGES, len(raw) // 2)
    order = log_prob.argsort(descending=True)
    chosen = torch.cat((order[:count], order[-count:]))
    far = (log_prob - log_prob.mean()) / log_prob.std()
    images = to_unit(data, data.transform.encode(raw[chosen]))
    titles = [f"{value:+.1f}" for value in far[chosen].tolist()]
    caption = (
        f"Of {len(raw)} images, the {count} most likely (above) and the {count} least likely, with the distance of "
        "their log-density from the mean, in standard deviations."
    )
    figure = plots().image_grid(images, columns=count, titles=titles)
    save(run, figure, f"samples/{stem}-typicality.png", "Typicality", caption)


def _dimensions(
    run: Run,
    model: NetworkScore,
    data: Data,
    raw: Tensor,
    labels: Tensor | None,
    table: InformationTable,
    stem: str,
    seed: int,
) -> None:
    """Draw the images of the lowest and of the highest local dimension, each above its map."""
    values = table.column("dimension", min(len(raw), table.settings["dimension"]))
    count = min(_MAX_IMAGES // 2, len(values) // 2)
    order = values.argsort()
    chosen = torch.cat((order[:count], order[-count:]))
    x = torch.cat([dequantised(data, raw[i : i + 1].to(model.device), i, seed)[0] for i in chosen.tolist()])
    cond: dict[str, Any] = {} if labels is None else {"labels": labels[chosen].to(model.device)}
    level = table.settings["dimension_log_snr"]
    maps = flipd(model, x, log_snr=level, **cond).maps
    if maps is None:
        return
    of_pixels = maps[0].mean(1, keepdim=True).clamp(0, 1).cpu()
    images = to_unit(data, data.transform.encode(raw[chosen])).cpu()
    shown = torch.cat((images, of_pixels.float().expand(-1, images.shape[1], -1, -1)))
    titles = [f"{value:.1f}" for value in values[chosen].tolist()]
    figure = plots().image_grid(shown, columns=2 * count, titles=[*titles, *[""] * len(titles)])
    caption = (
        f"Of {len(values)} images those of the lowest and of the highest local intrinsic dimension, of "
        f"{math.prod(data.shape)}, at log (α/σ) = {level:.2g}. Below each, the share of every pixel: white where it "
        "moves by itself, black where the others settle it."
    )
    save(run, figure, f"samples/{stem}-dimension.png", "Local intrinsic dimension", caption)
