"""Pictures of a run: what the model does to data and to noise, and how well."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.bounded import read_csv, read_json_lines
from scoresde.data import Data, DataInfo
from scoresde.score import NetworkScore
from scoresde.sde import expand_to
from scoresde.training.run import Run

__all__ = ["has_classes", "picture_of_likelihoods", "picture_of_samples", "pictures", "read_log"]


def _plots() -> Any:
    """`scoresde.plots`, late: training does not wait for matplotlib."""
    from scoresde import plots

    return plots


def has_classes(model: NetworkScore) -> bool:
    """Whether the model takes labels."""
    return getattr(model.network, "num_classes", None) is not None


def _is_image(data: Data | DataInfo) -> bool:
    return len(data.shape) == 3 and data.shape[0] in (1, 3) and data.transform.levels is not None


def _to_unit(data: Data | DataInfo, x: Tensor) -> Tensor:
    """Images in model space as pixels, black 0 and white 1."""
    return data.transform.to_unit(x.float())  # type: ignore[attr-defined]


def _unquantised(data: Data, x: Tensor) -> Tensor:
    """The same for noised images, whose values lie between and beyond the levels."""
    low, high = data.transform.low, data.transform.high  # type: ignore[attr-defined]
    return (x.float() - low) / (high - low)


def _save(run: Run, figure: Any, file: str, title: str, caption: str) -> None:
    _plots().save(figure, run.directory / file)
    run.add_picture(file, title, caption)


def picture_of_samples(run: Run, data: Data | DataInfo, raw: Tensor, name: str, caption: str) -> None:
    """Draw samples `(n, ...)` in raw units as `samples/{name}.png`, where they can be drawn."""
    file = f"samples/{name}.png"
    if _is_image(data):
        images = _to_unit(data, data.transform.encode(raw[:100]))
        _save(run, _plots().image_grid(images), file, "Samples", caption)
    elif data.shape == (2,):
        if isinstance(data, Data):
            caption += " Beside them, held-out data."
        test = data.test[: len(raw)] if isinstance(data, Data) else None
        _save(run, _plots().samples_2d(raw, test), file, "Samples", caption)


def _histogram(run: Run, data: Data, conditional: bool) -> None:
    histograms = {s: run.directory / f"likelihood-{s}.csv" for s in ("train", "test")}
    columns = {s: _column(path) for s, path in histograms.items()}
    if all(columns.values()):
        # Exact traces have no standard error.
        probed = any(error > 0 for path in histograms.values() for error in _column(path, 2))
        unit = "nats" if data.transform.levels is None else "bits/dim"
        _save(
            run,
            _plots().likelihood_histogram(columns["train"], columns["test"], unit=unit),
            "samples/likelihood.png",
            "Likelihood of training and held-out data",
            f"{'Log-density' if unit == 'nats' else 'Bits per dimension'} of each sample"
            f"{', given its label' if conditional else ''}{'; random probes widen both' if probed else ''}.",
        )


def picture_of_likelihoods(
    run: Run, data: Data, raw: Tensor, values: Tensor, split: str, unit: str, conditional: bool = False
) -> None:
    """Draw a histogram, and the most and the least likely of images `(n, ...)` in raw units, of values `(n,)`.

    The captions say where they are `conditional` on labels.
    """
    _histogram(run, data, conditional)
    if not _is_image(data) or len(raw) < 2:
        return
    count = min(10, len(raw) // 2)
    order = values.argsort(descending=unit != "bits_per_dim")
    chosen = torch.cat((order[:count], order[-count:]))
    images = _to_unit(data, data.transform.encode(raw[chosen]))
    figure = _plots().image_grid(images, columns=count, titles=[f"{v:.2f}" for v in values[chosen].tolist()])
    of = "held-out images" if split == "test" else "training images"
    caption = (
        f"Of {len(raw)} {of}, the {count} most likely (above) and the {count} least likely, "
        f"in {unit.replace('_per_', '/')}{' given the label' if conditional else ''}."
    )
    _save(run, figure, f"samples/likelihood-{split}.png", "Most and least likely", caption)


def pictures(run: Run, model: NetworkScore, data: Data, *, seed: int = 0) -> None:
    """Draw what the model does: the forward process, denoising, the field, losses and likelihoods."""
    if _is_image(data) or data.shape == (2,):
        _process_pictures(run, model, data, seed)
    if data.shape == (2,):
        _field_picture(run, model, data)
    log = read_log(run)
    with_curves = [line for line in log if line.get("loss_by_log_snr")][-10:]
    if with_curves:
        centres, mean, stderr = _average_curves(with_curves)
        _save(
            run,
            _plots().loss_by_noise_level(centres, mean, stderr),
            "samples/loss_by_noise_level.png",
            "Loss by noise level",
            "Mean squared error of the predicted noise at the end of training.",
        )
    _histogram(run, data, has_classes(model))


@torch.no_grad()
def _process_pictures(run: Run, model: NetworkScore, data: Data, seed: int) -> None:
    sde = model.sde
    image = _is_image(data)
    count = 10 if image else 1000
    raw = data.test[:count]
    x0 = data.transform.encode(raw)
    ends = sde.log_snr(torch.tensor([sde.t_max, sde.t_min_sampling], dtype=torch.float64)).tolist()
    # Evenly spaced in log(σ/α), inside the range in which anything can be seen.
    levels = torch.linspace(min(ends[1], 4.0), max(ends[0], -4.0), 8, dtype=torch.float64)
    times = sde.time(levels).clamp(sde.t_min, sde.t_max)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.stack([sde.perturb(x0, t, generator) for t in times])
    scale = torch.hypot(sde.alpha(times), sde.sigma(times))
    # At unit scale: under VE the noise would leave the picture.
    shown = rows / scale.to(rows).reshape(-1, *[1] * x0.ndim)
    shown = _unquantised(data, shown) if image else shown
    _save(
        run,
        _plots().forward_process(shown, times),
        "samples/forward_process.png",
        "Data dissolving into noise",
        f"x_t under {type(sde).__name__}, a row for each time, divided by √(α² + σ²).",
    )
    cond: dict[str, Tensor] = {}
    draw = 8 if image else 400
    if has_classes(model):
        cond["labels"] = torch.arange(draw, device=model.device) % int(model.network.num_classes)  # type: ignore[arg-type]
    out = run.make("sampler")(model, (draw, *data.shape), seed=seed, trajectory=True, **cond)
    assert out.trajectory is not None
    picked = torch.linspace(0, len(out.times) - 1, min(10, len(out.times))).round().long()
    states = out.trajectory[picked]
    if image:
        # What the model takes each state for: readable at every noise level, unlike the state.
        guesses = [
            model.denoise(x.to(model.device), out.times[i], **cond).cpu()
            for i, x in zip(picked.tolist(), states, strict=True)
        ]
        states = torch.stack([_to_unit(data, g) for g in guesses])
        text = "A row for each sample, from noise to data: the model's mean E[x₀ | x_t] along the way."
    else:
        times_all = out.times
        states = torch.stack(
            [
                x / expand_to(torch.hypot(sde.alpha(t), sde.sigma(t)), x)
                for x, t in zip(out.trajectory, times_all, strict=True)
            ]
        )
        picked = torch.arange(len(times_all))
        text = "Paths from noise to data, divided by √(α² + σ²)."
    _save(run, _plots().trajectory(states, out.times[picked]), "samples/trajectory.png", "Denoising", text)


@torch.no_grad()
def _field_picture(run: Run, model: NetworkScore, data: Data) -> None:
    test = data.transform.encode(data.test)
    reach = 1.15 * float(test.abs().max())
    axis = torch.linspace(-reach, reach, 25)
    points = torch.cartesian_prod(axis, axis)
    sde = model.sde
    t = sde.time(-torch.log(torch.tensor(0.3, dtype=torch.float64))).clamp(sde.t_min, sde.t_max)
    alpha = float(sde.alpha(t))
    cond, title = {}, "Score at σ/α = 0.3"
    if has_classes(model):
        cond["labels"] = torch.zeros(len(points), dtype=torch.int64, device=model.device)
        title += f", class {data.class_names[0] if data.class_names else 0}"
    score = model.score(alpha * points.to(model.device), t, **cond).cpu()
    figure = _plots().vector_field(points, score * alpha, samples=test[:1000], title=title)
    _save(
        run,
        figure,
        "samples/score_field.png",
        "The learned score",
        "∇ log p_t on a grid, over held-out data.",
    )


def _average_curves(lines: list[dict[str, Any]]) -> tuple[list[float], list[float], list[float]]:
    """Mean and standard error over log lines, by bin; centres as log(σ/α), ascending."""
    bins: dict[float, list[float]] = {}
    for line in lines:
        for centre, value in zip(line["log_snr"], line["loss_by_log_snr"], strict=True):
            if value is not None:
                bins.setdefault(-centre, []).append(value)
    centres = sorted(bins)
    mean = [float(np.mean(bins[c])) for c in centres]
    stderr = [float(np.std(bins[c], ddof=1) / len(bins[c]) ** 0.5) if len(bins[c]) > 1 else 0.0 for c in centres]
    return centres, mean, stderr


def read_log(run: Run) -> list[dict[str, Any]]:
    """The entries of `metrics.jsonl`, of complete and undamaged lines."""
    try:
        entries, _ = read_json_lines(run.directory / "metrics.jsonl")
    except FileNotFoundError:
        return []
    return [entry for entry in entries if isinstance(entry.get("step"), int)]


def _column(path: Path, place: int = 1) -> list[float]:
    """A column of a file of likelihoods, up to a line that is damaged: 1 holds the values, 2 their standard errors."""
    values: list[float] = []
    for row in (read_csv(path) if path.exists() else [])[1:]:
        try:
            values.append(float(row[place]))
        except (ValueError, IndexError):
            break
    return values
