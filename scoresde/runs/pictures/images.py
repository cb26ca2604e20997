"""Figures of images: samples beside held-out data, the forward process and denoising."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from scoresde.data import Data, DataInfo
from scoresde.runs.conditions import conditions_of
from scoresde.runs.directory import Run
from scoresde.runs.pictures.drawing import given, panels, plots, save
from scoresde.score import ScoreModel

__all__ = ["as_pixels", "images_beside_data", "is_image", "looks_like_image", "process_pictures", "to_unit"]


def is_image(data: Data | DataInfo) -> bool:
    """True for grey or coloured images of discrete values."""
    return len(data.shape) == 3 and data.shape[0] in (1, 3) and data.transform.levels is not None


def looks_like_image(data: Data | DataInfo) -> bool:
    """True for samples that can be shown as images, also with transparency, further channels or continuous values."""
    return len(data.shape) == 3 and min(data.shape[1:]) >= 4


def to_unit(data: Data | DataInfo, x: Tensor) -> Tensor:
    """Images in model space as pixels, black 0 and white 1."""
    pixels: Tensor = data.transform.to_unit(x.float())  # type: ignore[attr-defined]
    return pixels


def as_pixels(data: Data | DataInfo, raw: Tensor, like: Tensor) -> Tensor:
    """Samples that look like images as `(N, 1 or 3, H, W)` in [0, 1]; continuous values over the range of `like`."""
    if data.transform.levels is not None:
        x = to_unit(data, data.transform.encode(raw))
        if x.shape[1] in (2, 4):  # transparency, on white
            alpha = x[:, -1:]
            x = x[:, :-1] * alpha + 1 - alpha
    else:
        low, high = np.quantile(like[:500].double().numpy(), (0.002, 0.998))
        x = (raw.float() - float(low)) / max(float(high - low), 1e-12)
    return (x if x.shape[1] in (1, 3) else x[:, :1]).clamp(0, 1)


def images_beside_data(run: Run, data: Data, raw: Tensor, caption: str, classes: Sequence[str]) -> None:
    """Draw two mosaics for the top of the page; where samples come from classes, a class for each column."""
    height, width = data.shape[1:]
    scale, gap = panels().scale_of(height, width)
    cell = max(height, width) * scale + gap
    columns, chosen = _by_class(data, raw, len(classes), cell) if classes else _in_order(data, raw, cell)
    values, captions = [data.test, raw], ["Images that the model was not trained on.", caption]
    for name, title, x, rows, text in zip(
        ("data", "samples"), ("Held-out data", "Samples"), values, chosen, captions, strict=True
    ):
        if not rows:
            return
        indices = torch.tensor([[*row, *[-1] * (columns - len(row))] for row in rows])
        images = as_pixels(data, x[indices.clamp(min=0).flatten()], data.test[:500])
        images[indices.flatten() < 0] = torch.nan
        grid = images.reshape(*indices.shape, *images.shape[1:])
        file = f"samples/beside-{name}.png"
        run.write_bytes(file, panels().mosaic(grid.numpy()))
        facts = {"columns": [str(c) for c in classes[:columns]]} if classes else {}
        run.add_picture(file, title, text, kind="pixels", **facts)


# Indices of images in a mosaic, row by row; -1 leaves a cell empty.
_Rows = list[list[int]]


def _by_class(data: Data, raw: Tensor, classes: int, cell: int) -> tuple[int, tuple[_Rows, _Rows]]:
    """Number of columns, and the rows of data and of samples with a class for each column.

    Args:
        data: The run's data.
        raw: Samples, from the classes in turn.
        classes: Number of classes.
        cell: Pixels of a cell of the mosaic.
    """
    assert data.test_labels is not None
    columns = classes if classes <= 12 else 10
    members = [(data.test_labels == k).nonzero().flatten().tolist() for k in range(columns)]
    held_out = [[of[r] if r < len(of) else -1 for of in members] for r in range(2 if cell <= 150 else 1)]
    rows = min(4, max(1, 360 // cell), len(raw) // classes)
    return columns, (held_out, [[k + r * classes for k in range(columns)] for r in range(rows)])


def _in_order(data: Data, raw: Tensor, cell: int) -> tuple[int, tuple[_Rows, _Rows]]:
    """The same for samples without classes: the first images, in rows."""
    columns = min(6, max(1, 540 // cell))
    most = min(5, max(1, round(430 / cell)))
    held_out, samples = (
        [list(range(start, min(start + columns, count))) for start in range(0, count, columns)]
        for count in (min(columns * most, len(x)) for x in (data.test, raw))
    )
    return columns, (held_out, samples)


def process_pictures(run: Run, model: ScoreModel, data: Data, seed: int) -> None:
    """Draw how data dissolve into noise, and what the model takes noise for on its way to samples."""
    with torch.no_grad():
        _forward_process(run, model, data, seed)
        _denoising(run, model, data, seed)


def _forward_process(run: Run, model: ScoreModel, data: Data, seed: int) -> None:
    sde = model.sde
    x0 = data.transform.encode(data.test[:10])
    ends = sde.log_snr(torch.tensor([sde.t_max, sde.t_min_sampling], dtype=torch.float64)).tolist()
    # Evenly spaced in log(σ/α), inside the range in which anything can be seen.
    levels = torch.linspace(min(ends[1], 4.0), max(ends[0], -4.0), 8, dtype=torch.float64)
    times = sde.time(levels).clamp(sde.t_min, sde.t_max)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.stack([sde.perturb(x0, t, generator) for t in times])
    scale = torch.hypot(sde.alpha(times), sde.sigma(times))
    # At unit scale: under VE the noise would leave the figure.
    shown = _unquantised(data, rows / scale.to(rows).reshape(-1, *[1] * x0.ndim))
    caption = "A row for each time t, divided by √(α² + σ²), so that it has one scale throughout."
    title = "Data dissolving into noise"
    save(run, plots().forward_process(shown, times), "samples/forward_process.png", title, caption)


def _unquantised(data: Data, x: Tensor) -> Tensor:
    """Noised images as pixels, as by `to_unit`: their values lie between and beyond the levels."""
    low, high = data.transform.low, data.transform.high  # type: ignore[attr-defined]
    pixels: Tensor = (x.float() - low) / (high - low)
    return pixels


def _denoising(run: Run, model: ScoreModel, data: Data, seed: int) -> None:
    cond = conditions_of(model, data, 8)
    out = run.make("sampler")(model, (8, *data.shape), seed=seed, trajectory=True, **cond)
    assert out.trajectory is not None
    picked = torch.linspace(0, len(out.times) - 1, min(10, len(out.times))).round().long()
    # The denoised states are readable at every noise level, unlike the states.
    denoised = [
        model.denoise(x.to(model.device), out.times[i], **cond).cpu()
        for i, x in zip(picked.tolist(), out.trajectory[picked], strict=True)
    ]
    states = torch.stack([to_unit(data, x) for x in denoised])
    caption = f"A row for each sample{given(model)}, from noise to data: the model's mean E[x₀ | x_t] along the way."
    save(run, plots().trajectory(states, out.times[picked]), "samples/trajectory.png", "Denoising", caption)
