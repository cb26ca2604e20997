"""Pictures of a run: what the model does to data and to noise, and how well."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.data import Data, DataInfo
from scoresde.likelihood import LikelihoodError, log_likelihood
from scoresde.numerics.trace import Exact
from scoresde.runs.directory import Run
from scoresde.score import NetworkScore
from scoresde.storage.bounded import read_csv, read_json_lines
from scoresde.storage.files import write_atomically

__all__ = ["picture_of_likelihoods", "picture_of_samples", "pictures", "read_log"]


def _plots() -> Any:
    """`scoresde.plots`, late: training does not wait for matplotlib."""
    from scoresde import plots

    return plots


def _panels() -> Any:
    from scoresde.plots import panels

    return panels


def _is_image(data: Data | DataInfo) -> bool:
    return len(data.shape) == 3 and data.shape[0] in (1, 3) and data.transform.levels is not None


def _looks_like_image(data: Data | DataInfo) -> bool:
    """Whether samples can be shown as images, also with transparency, further channels or continuous values."""
    return len(data.shape) == 3 and min(data.shape[1:]) >= 4


def _to_unit(data: Data | DataInfo, x: Tensor) -> Tensor:
    """Images in model space as pixels, black 0 and white 1."""
    return data.transform.to_unit(x.float())  # type: ignore[attr-defined]


def _as_pixels(data: Data | DataInfo, raw: Tensor, like: Tensor) -> Tensor:
    """Anything that looks like images as `(N, 1 or 3, H, W)` in [0, 1]; continuous values over the range of `like`."""
    if data.transform.levels is not None:
        x = _to_unit(data, data.transform.encode(raw))
        if x.shape[1] in (2, 4):  # transparency, on white
            alpha = x[:, -1:]
            x = x[:, :-1] * alpha + 1 - alpha
    else:
        low, high = np.quantile(like[:500].double().numpy(), (0.002, 0.998))
        x = (raw.float() - float(low)) / max(float(high - low), 1e-12)
    return (x if x.shape[1] in (1, 3) else x[:, :1]).clamp(0, 1)


def _unquantised(data: Data, x: Tensor) -> Tensor:
    """The same for noised images, whose values lie between and beyond the levels."""
    low, high = data.transform.low, data.transform.high  # type: ignore[attr-defined]
    return (x.float() - low) / (high - low)


def _save(run: Run, figure: Any, file: str, title: str, caption: str, kind: str = "", wide: bool = False) -> None:
    if kind == "dark":
        _write(run, file, _panels().dark_png(figure))
    else:
        _plots().save(figure, run.directory / file, **({"dpi": _panels().RUN_DPI} if wide else {}))
    run.add_picture(file, title, caption, **({"kind": kind} if kind else {}))


def _write(run: Run, file: str, content: bytes) -> None:
    path = run.directory / file
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, lambda handle: handle.write(content))


def picture_of_samples(
    run: Run, data: Data | DataInfo, raw: Tensor, name: str, caption: str, classes: Sequence[str] = ()
) -> None:
    """Draw samples `(n, ...)` in raw units as `samples/{name}.png`, beside held-out data where there are any.

    Args:
        run: whose directory the picture goes into.
        data: the run's data, or what is known of them.
        raw: the samples.
        name: of the file.
        caption: says how they were drawn.
        classes: names of the classes that samples come from in turn; none if they do not.
    """
    file = f"samples/{name}.png"
    if _looks_like_image(data):
        images = _as_pixels(data, raw[:100], raw)
        _save(run, _plots().image_grid(images, min(len(images), 10)), file, "Samples", caption)
        if isinstance(data, Data) and name == "samples":
            _images_beside_data(run, data, raw, caption, classes)
    elif data.shape == (2,):
        if isinstance(data, Data):
            caption += " Beside them, held-out data."
        test = data.test[: len(raw)] if isinstance(data, Data) else None
        _save(run, _plots().samples_2d(raw, test), file, _BESIDE, caption, "chart")
    elif isinstance(data, Data):
        _vectors_beside_data(run, data, raw, file, caption)


def _images_beside_data(run: Run, data: Data, raw: Tensor, caption: str, classes: Sequence[str]) -> None:
    """Two mosaics for the top of the page; where samples come from classes, a class for each column."""
    height, width = data.shape[1:]
    scale, gap = _panels().scale_of(height, width)
    cell = max(height, width) * scale + gap
    shown = {"data": data.test, "samples": raw}
    if classes:
        count = len(classes) if len(classes) <= 12 else 10
        rows = {"data": 2 if cell <= 150 else 1, "samples": min(4, max(1, 360 // cell), len(raw) // len(classes))}
        chosen = {"data": _by_class(data, count, rows["data"])}
        chosen["samples"] = [[k + r * len(classes) for k in range(count)] for r in range(rows["samples"])]
    else:
        count = min(6, max(1, 540 // cell))
        most = min(5, max(1, round(430 / cell)))
        ids = {name: range(min(count * most, len(x))) for name, x in shown.items()}
        chosen = {name: [list(i[s : s + count]) for s in range(0, len(i), count)] for name, i in ids.items()}
    captions = {"data": "Images that the model was not trained on.", "samples": caption}
    for name, title in (("data", "Held-out data"), ("samples", "Samples")):
        if not chosen[name]:
            return
        places = torch.tensor([[*row, *[-1] * (count - len(row))] for row in chosen[name]])
        images = _as_pixels(data, shown[name][places.clamp(min=0).flatten()], data.test)
        images[places.flatten() < 0] = torch.nan
        grid = images.reshape(*places.shape, *images.shape[1:])
        content = _panels().mosaic(grid.numpy())
        file = f"samples/beside-{name}.png"
        _write(run, file, content)
        facts = {"columns": [str(c) for c in classes[:count]]} if classes else {}
        run.add_picture(file, title, captions[name], kind="pixels", **facts)


def _by_class(data: Data, count: int, rows: int) -> list[list[int]]:
    """Places of the first held-out samples of each class, -1 where a class has no more."""
    assert data.test_labels is not None
    found = [(data.test_labels == k).nonzero().flatten().tolist() for k in range(count)]
    return [[places[r] if r < len(places) else -1 for places in found] for r in range(rows)]


def _vectors_beside_data(run: Run, data: Data, raw: Tensor, file: str, caption: str) -> None:
    """Numbers as histograms, vectors as pairs of their dimensions, long ones and series as curves, too."""
    test, drawn = (x[:2000].double().flatten(1).numpy() for x in (data.test, raw))
    values = test.shape[1]
    caption += " Beside them, held-out data."
    title = _BESIDE
    if values == 1:
        _save(run, _panels().marginals(test[:, 0], drawn[:, 0]), file, title, caption, "chart", wide=True)
        return
    widest = np.sort(np.argsort(-test.std(0), kind="stable")[:4]) if values > 5 else np.arange(values)
    names = [f"x{str(i + 1).translate(_SUBSCRIPTS)}" for i in widest]
    pairs = _panels().pairs(test[:, widest], drawn[:, widest], names)
    if values <= 5:
        _save(run, pairs, file, title, caption, "chart", wide=True)
        return
    channels = data.shape[0] if len(data.shape) > 1 else 1
    series = [x.reshape(len(x), channels, -1) for x in (test, drawn)]
    words = f"{caption} Thick: the median; the band holds 80 % of the values; thin: five of them."
    _save(run, _panels().profiles(*series), file, title, words, "chart", wide=True)
    words = "The four values that vary the most, against each other."
    _save(run, pairs, f"{file.removesuffix('.png')}-pairs.png", "Pairs of values", words, "chart", wide=True)


_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


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
            "chart",
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
    if _is_image(data):
        _process_pictures(run, model, data, seed)
    elif data.shape == (2,):
        _plane_pictures(run, model, data, seed)
    elif data.shape == (1,):
        _line_picture(run, model, data, seed)
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
            "chart",
        )
    _histogram(run, data, model.classes is not None)


@torch.no_grad()
def _process_pictures(run: Run, model: NetworkScore, data: Data, seed: int) -> None:
    sde = model.sde
    x0 = data.transform.encode(data.test[:10])
    ends = sde.log_snr(torch.tensor([sde.t_max, sde.t_min_sampling], dtype=torch.float64)).tolist()
    # Evenly spaced in log(σ/α), inside the range in which anything can be seen.
    levels = torch.linspace(min(ends[1], 4.0), max(ends[0], -4.0), 8, dtype=torch.float64)
    times = sde.time(levels).clamp(sde.t_min, sde.t_max)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.stack([sde.perturb(x0, t, generator) for t in times])
    scale = torch.hypot(sde.alpha(times), sde.sigma(times))
    # At unit scale: under VE the noise would leave the picture.
    shown = _unquantised(data, rows / scale.to(rows).reshape(-1, *[1] * x0.ndim))
    _save(
        run,
        _plots().forward_process(shown, times),
        "samples/forward_process.png",
        "Data dissolving into noise",
        "A row for each time t, divided by √(α² + σ²), so that it has one scale throughout.",
    )
    out = run.make("sampler")(model, (8, *data.shape), seed=seed, trajectory=True, **_classes_in_turn(model, 8))
    assert out.trajectory is not None
    picked = torch.linspace(0, len(out.times) - 1, min(10, len(out.times))).round().long()
    # What the model takes each state for: readable at every noise level, unlike the state.
    guesses = [
        model.denoise(x.to(model.device), out.times[i], **_classes_in_turn(model, 8)).cpu()
        for i, x in zip(picked.tolist(), out.trajectory[picked], strict=True)
    ]
    states = torch.stack([_to_unit(data, g) for g in guesses])
    text = "A row for each sample, from noise to data: the model's mean E[x₀ | x_t] along the way."
    _save(run, _plots().trajectory(states, out.times[picked]), "samples/trajectory.png", "Denoising", text)


def _classes_in_turn(model: NetworkScore, count: int) -> dict[str, Tensor]:
    """Labels for so many samples, if the model takes any."""
    if model.classes is None:
        return {}
    return {"labels": torch.arange(count, device=model.device) % model.classes}


_POINTS = 4000  # samples whose density is drawn
_COLUMNS = 6  # times of a filmstrip


@torch.no_grad()
def _plane_pictures(run: Run, model: NetworkScore, data: Data, seed: int) -> None:
    """Densities of data, samples and the model in the plane, and how one becomes the other."""
    cond = _classes_in_turn(model, _POINTS)
    out = run.make("sampler")(model, (_POINTS, 2), seed=seed, trajectory=True, **cond)
    assert out.trajectory is not None
    x0 = data.transform.encode(data.test[:_POINTS]).double()
    every = data.transform.encode(torch.cat((data.test, data.train))[:_POINTS]).double()
    samples = out.x.cpu().double()
    plane = _panels().Plane.around(x0.numpy())
    corners = _corners(data, plane)
    shown = [(name, plane.smooth(plane.count(x.numpy()))) for name, x in (("held-out data", x0), ("samples", samples))]
    exact = _model_density(model, data, plane, x0, samples, cond.get("labels"))
    words = f"From left to right {len(x0)} held-out points, {len(samples)} samples"
    if exact is not None:
        shown.append(("model density p(x)", exact))
        words += ", and the density that the probability-flow ODE gives"
    caption = f"{words}. All smoothed alike; brightness grows with the square root of the density."
    _save(run, _panels().densities(shown, corners), "samples/densities.png", _BESIDE, caption, "dark")
    _filmstrip(run, model, data, every, out.times, out.trajectory.cpu().double(), seed)


_BESIDE = "Samples beside held-out data"


def _corners(data: Data, plane: Any) -> tuple[np.ndarray, np.ndarray]:
    """The corners of a window of model space in the data's units."""
    ends = torch.tensor(np.stack((plane.low, plane.low + plane.side)), dtype=torch.float32)
    low, high = data.transform.decode(ends).double().numpy()
    return low, high


def _model_density(
    model: NetworkScore, data: Data, plane: Any, x0: Tensor, samples: Tensor, labels: Tensor | None
) -> np.ndarray | None:
    """The model's density on the plane, where data or samples lie nearby; None where it cannot be computed.

    Of a model with classes it is the mixture, in the proportions of the held-out data.
    """
    density = np.zeros((plane.cells, plane.cells))
    classes = [None] if labels is None else list(range(int(labels.max()) + 1))
    held_out = data.test_labels
    for k in classes:
        some, drawn, weight = x0, samples, 1.0
        if k is not None and held_out is not None and labels is not None:
            some, drawn = x0[held_out[: len(x0)] == k], samples[labels.cpu() == k]
            weight = len(some) / len(x0)
        if not len(some):
            continue
        near = plane.smooth(plane.count(torch.cat((some, drawn)).numpy()), 1.5 * plane.side / plane.cells)
        mask = near > 1e-3 * near.max()
        points = torch.from_numpy(plane.centres()[mask]).float()
        cond: dict[str, Any] = {} if k is None else {"labels": torch.full((len(points),), k, device=model.device)}
        inputs = points if model.transform is None else data.transform.decode(points)
        try:
            out = log_likelihood(model, inputs.to(model.device), tol=0.05, divergence=Exact(), batch_size=16384, **cond)
        except LikelihoodError:
            return None
        # In model space, where the window is.
        inner = out.log_prob.cpu() - (0.0 if model.transform is None else data.transform.log_det(data.shape))
        density[mask] += weight * inner.exp().numpy()
    return plane.smooth(density)


def _filmstrip(run: Run, model: NetworkScore, data: Data, x0: Tensor, times: Tensor, states: Tensor, seed: int) -> None:
    """Data to noise, noise to samples, and the field, at times at which noise and signal have equal steps of angle."""
    sde, panels = model.sde, _panels()
    mean, std = x0.mean(0), float(x0.std(0).square().mean().sqrt())
    known = times.double().cpu()
    angles = torch.linspace(0, torch.pi / 2, _COLUMNS, dtype=torch.float64)
    noise_to_signal = torch.atan2(sde.sigma(known), sde.alpha(known) * std)
    picked = [int((noise_to_signal - angle).abs().argmin()) for angle in angles]
    picked = list(dict.fromkeys((len(known) - 1, *picked[1:-1], 0)))
    generator = torch.Generator().manual_seed(seed)
    scale = [float(torch.hypot(sde.alpha(t) * std, sde.sigma(t))) for t in known[picked]]
    reach = min(max(2.6, 1.1 * float(((x0 - mean) / std).abs().max())), 4.0)
    axis = torch.linspace(-0.93 * reach, 0.93 * reach, 15, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    cond = {} if model.classes is None else {"labels": torch.zeros(len(grid), dtype=torch.int64, device=model.device)}
    forward, reverse, fields = [], [], []
    for place, width in zip(picked, scale, strict=True):
        t = known[place]
        centre = float(sde.alpha(t)) * mean
        there, back = (
            ((x - centre) / width).numpy() for x in (sde.perturb(x0.float(), t, generator).double(), states[place])
        )
        around = panels.Plane.around(there, smoothing=2.0)
        window = panels.Plane(np.full(2, -reach), 2 * reach, 96, around.bandwidth)
        forward.append(window.smooth(window.count(there)))
        reverse.append(window.smooth(window.count(back)))
        points = (grid * width + centre).float().to(model.device)
        fields.append((grid.numpy(), model.score(points, t, **cond).cpu().double().numpy()))
    titles = [f"t = {float(t):.3g}" for t in known[picked]]
    caption = (
        "Above, data dissolve into noise; in the middle, the sampler turns noise into samples; below, the learned "
        "score ∇ log pₜ(x), with arrows that grow with its square root. Each column is one time, at unit variance, "
        "with a brightness of its own. After Sohl-Dickstein et al. 2015."
    )
    if cond:
        caption += f" The score is of class {data.class_names[0] if data.class_names else 0}."
    corners = (np.full(2, -reach), np.full(2, reach))
    figure = panels.filmstrip(forward, reverse, fields, titles, corners)
    _save(run, figure, "samples/filmstrip.png", "From data to noise and back", caption, "dark")


@torch.no_grad()
def _line_picture(run: Run, model: NetworkScore, data: Data, seed: int) -> None:
    """Histograms of numbers, and the model's density."""
    out = run.make("sampler")(model, (_POINTS, 1), seed=seed, **_classes_in_turn(model, _POINTS))
    test, raw = data.test[:_POINTS], data.transform.decode(out.x.cpu())
    curve = None
    if model.classes is None:
        ends = data.transform.encode(torch.stack((test.min(0).values, test.max(0).values))).float()
        reach = 0.1 * float(ends[1] - ends[0])
        points = torch.linspace(float(ends[0]) - reach, float(ends[1]) + reach, 400)[:, None]
        decoded = data.transform.decode(points)
        inputs = points if model.transform is None else decoded
        with suppress(LikelihoodError):
            log_prob = log_likelihood(model, inputs.to(model.device), tol=0.01, divergence=Exact()).log_prob.cpu()
            if model.transform is None:
                log_prob = log_prob + data.transform.log_det(data.shape)
            curve = (decoded[:, 0].double().numpy(), log_prob.exp().numpy())
    figure = _panels().marginals(test[:, 0].double().numpy(), raw[:, 0].double().numpy(), curve)
    caption = f"{len(test)} held-out numbers and {len(raw)} samples"
    caption += "." if curve is None else ", and the density that the probability-flow ODE gives."
    _save(run, figure, "samples/densities.png", _BESIDE, caption, "chart", wide=True)


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
