"""What the commands do with a run: train, sample, compute likelihoods, evaluate, and draw pictures."""

import csv
import io
import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from omegaconf import DictConfig
from torch import Tensor

from scoresde import plots
from scoresde.data import Data
from scoresde.likelihood import bits_per_dim, log_likelihood
from scoresde.metrics import evaluate_samples
from scoresde.sampling import Sampler
from scoresde.score import NetworkScore
from scoresde.sde import expand_to
from scoresde.training.checkpoint import latest_checkpoint, write_atomically
from scoresde.training.config import ConfigError
from scoresde.training.loggers import LocalLogger, Logger
from scoresde.training.loop import Trainer
from scoresde.training.run import Run, build_model, data_statistics

__all__ = ["check_labels", "evaluate", "likelihood", "pictures", "sample", "train"]

_log = logging.getLogger(__name__)


def _has_classes(model: NetworkScore) -> bool:
    return getattr(model.network, "num_classes", None) is not None


def check_labels(network: Any, data: Data) -> None:
    """Refuse a network with classes on data without, or with another number of them."""
    wanted = getattr(network, "num_classes", None)
    if wanted is None:
        return
    if data.train_labels is None:
        raise ConfigError(
            f"network.num_classes is {wanted} but the data set {data.name} has no labels: "
            "set network.num_classes=null or choose labelled data"
        )
    if wanted != data.num_classes:
        raise ConfigError(
            f"network.num_classes is {wanted} but the data set {data.name} has {data.num_classes} classes: "
            f"set network.num_classes={data.num_classes}"
        )


def train(run: Run, logger: Logger | None, progress: bool = True) -> None:
    """Train (or go on with) the run's model, then sample, evaluate, and write the report."""
    config = run.config
    data = run.data()
    options = run.make("training")
    # The order of creation and the seed fix the initial weights.
    torch.manual_seed(options.seed)
    statistics = data_statistics(data, options.dequantise)
    model = build_model(run, data.shape, statistics)
    check_labels(model.network, data)
    accelerator = Accelerator(mixed_precision="bf16" if options.bf16 else "no")
    loggers: list[Logger] = [LocalLogger()]
    if logger is not None and not isinstance(logger, LocalLogger):
        loggers.append(logger)
    trainer = Trainer(
        model,
        run.make("objective"),
        data,
        run.make("optimizer"),
        options,
        run.directory,
        loggers,
        accelerator,
        progress,
    )
    # Everything that can be refused has been refused: now write.
    if accelerator.is_main_process:
        run.write_config()
        plain = json.loads(json.dumps(_plain_config(config)))
        for each in loggers:
            each.start(run.directory, plain)
    try:
        trainer.fit()
        if not accelerator.is_main_process:
            return
        run.save_model(model, trainer.step)
        run.add_to_summary(
            name=run.directory.name,
            parameters=sum(p.numel() for p in model.network.parameters()),
            training={
                "steps": trainer.step,
                "seconds": trainer.seconds,
                "skipped": trainer.skipped,
                "loss": _last_loss(run),
            },
        )
        _after_training(run, model, data, loggers, trainer.step, progress)
    finally:
        if accelerator.is_main_process:
            for each in loggers:
                each.finish()


def _after_training(
    run: Run, model: NetworkScore, data: Data, loggers: list[Logger], step: int, progress: bool
) -> None:
    evaluation = run.config.evaluation
    n = min(evaluation.samples or len(data.test), len(data.test))
    if n > 0:
        drawn, entry = sample(run, model, data, run.make("sampler"), n, seed=evaluation.seed, progress=progress)
        evaluate(run, data, drawn, entry, seed=evaluation.seed)
    if evaluation.likelihood != 0:
        for split in ("test", "train"):
            likelihood(run, model, data, split, evaluation.likelihood, evaluation, progress)
    pictures(run, model, data, seed=evaluation.seed)
    summary = run.summary()
    for each in loggers:
        each.numbers(step, {"event": "evaluation", **_flat(summary)})
        for picture in json.loads((run.directory / "pictures.json").read_text()):
            each.picture(step, Path(picture["file"]).stem, run.directory / picture["file"])


def sample(
    run: Run,
    model: NetworkScore,
    data: Data,
    sampler: Sampler,
    n: int,
    *,
    seed: int = 0,
    label: int | None = None,
    batch_size: int = 1024,
    progress: bool = True,
    name: str = "samples",
) -> tuple[Tensor, dict[str, Any]]:
    """Draw n samples, save them and a picture of them.

    Returns the samples `(n, ...)` in raw units, and what they cost.

    Args:
        label: the class to draw from, for models with classes; else classes come in turn.
    """
    if n < 1:
        raise ValueError(f"n is {n}, expected at least one sample")
    cond: dict[str, Tensor] = {}
    if _has_classes(model):
        classes = int(model.network.num_classes)  # type: ignore[arg-type]
        if label is not None and not 0 <= label < classes:
            raise ValueError(f"label is {label}, expected 0 to {classes - 1}")
        cond["labels"] = torch.arange(n) % classes if label is None else torch.full((n,), label)
    elif label is not None:
        raise ValueError("this model was trained without labels: leave out label, or train with network.num_classes")
    began = time.perf_counter()
    options: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "progress": progress, **cond}
    out = sampler(model, (n, *data.shape), **options)
    seconds = time.perf_counter() - began
    raw = data.transform.decode(out.x.cpu())
    arrays: dict[str, Any] = {"x": raw.numpy(), **{k: v.numpy() for k, v in cond.items()}}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(run.directory / "samples" / f"{name}.npz", lambda file: file.write(buffer.getvalue()))
    _picture_of(run, data, raw, name, f"{n} samples by {sampler!r}, {out.nfe} evaluations each.")
    return raw, {"n": n, "nfe": out.nfe, "seconds": seconds, "sampler": repr(sampler), "seed": seed}


def evaluate(
    run: Run, data: Data, samples: Tensor, cost: dict[str, Any], *, seed: int = 0, features: Any = None
) -> None:
    """Sample quality against as many held-out samples, and of training data against the same for scale.

    Goes into the summary, with what the samples cost.
    """
    n = min(len(samples), len(data.test), len(data.train))
    if n < 2:
        raise ValueError(f"sample quality needs at least 2 samples on each side, got {n}")
    order = torch.Generator().manual_seed(seed)
    test = _units(data, data.test[torch.randperm(len(data.test), generator=order)[:n]])
    some = _units(data, data.train[torch.randperm(len(data.train), generator=order)[:n]])
    began = time.perf_counter()
    metrics = _metrics(evaluate_samples(_units(data, samples[:n]), test, features, seed=seed))
    reference = _metrics(evaluate_samples(some, test, features, seed=seed))
    cost = {**cost, "metrics": metrics, "metrics_seconds": time.perf_counter() - began}
    run.add_to_summary(samples=cost, reference=reference)


def _units(data: Data, raw: Tensor) -> Tensor:
    """Values in model space, cell centres for discrete data."""
    return data.transform.encode(raw).double()


def _metrics(estimates: dict[str, Any]) -> dict[str, Any]:
    return {k: {"value": e.value, "stderr": e.stderr, "n": e.n} for k, e in estimates.items()}


def likelihood(
    run: Run,
    model: NetworkScore,
    data: Data,
    split: str,
    n: int | None,
    options: DictConfig,
    progress: bool = True,
) -> dict[str, Any]:
    """Log-likelihoods of (the first n samples of) a split; one line for each in `likelihood-{split}.csv`."""
    if split not in ("train", "test"):
        raise ConfigError(f"split is {split!r}, expected train or test")
    raw, labels = (data.test, data.test_labels) if split == "test" else (data.train, data.train_labels)
    n = len(raw) if n is None else min(n, len(raw))
    if n < 1:
        raise ConfigError(f"n is {n}, expected at least one sample")
    raw = raw[:n]
    settings: dict[str, Any] = {
        "divergence": run.make("evaluation.divergence"),
        "rtol": options.tolerance,
        "atol": options.tolerance,
        "seed": options.seed,
        "batch_size": options.batch_size,
        "progress": progress,
    }
    if _has_classes(model):
        assert labels is not None
        settings["labels"] = labels[:n]
    began = time.perf_counter()
    entry: dict[str, Any] = {
        "split": split,
        "n": n,
        "divergence": repr(settings["divergence"]),
        "tolerance": options.tolerance,
    }
    if data.transform.levels is None:
        out = log_likelihood(model, data.transform.encode(raw), **settings)
        values = out.log_prob + data.transform.log_det(data.shape)
        entry |= {"nats": values.mean().item(), "bits_per_dim": None, "t_min": out.t_min}
        stderr, nfe, unit = out.stderr, out.nfe.double(), "nats"
    else:
        bits = bits_per_dim(model, raw, data.transform, draws=options.draws, **settings)
        values, stderr, nfe, unit = bits.bits, bits.stderr, bits.nfe.double(), "bits_per_dim"
        entry |= {
            "bits_per_dim": bits.mean,
            "nats": -bits.mean * math.prod(data.shape) * math.log(2),
            "dequantisation": bits.dequantisation,
            "draws": bits.draws,
            "t_min": bits.t_min,
        }
    entry["stderr"] = values.std().item() / math.sqrt(n) if n > 1 else None
    entry["stderr_probes"] = stderr.square().sum().sqrt().item() / n
    entry["nfe"] = nfe.mean().item()
    entry["seconds"] = time.perf_counter() - began
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["index", unit, "stderr", "nfe"])
    rows.writerows(zip(range(n), values.tolist(), stderr.tolist(), nfe.tolist(), strict=True))
    content = text.getvalue().encode()
    write_atomically(run.directory / f"likelihood-{split}.csv", lambda file: file.write(content))
    run.add_to_summary(**{"likelihood" if split == "test" else "likelihood_train": entry})
    return entry


# -- pictures -------------------------------------------------------------------------------------------


def _is_image(data: Data) -> bool:
    return len(data.shape) == 3 and data.shape[0] in (1, 3) and data.transform.levels is not None


def _to_unit(data: Data, x: Tensor) -> Tensor:
    """Images in model space as pixels, black 0 and white 1."""
    return data.transform.to_unit(x.float())  # type: ignore[attr-defined]


def _unquantised(data: Data, x: Tensor) -> Tensor:
    """The same for noised images, whose values lie between and beyond the levels."""
    low, high = data.transform.low, data.transform.high  # type: ignore[attr-defined]
    return (x.float() - low) / (high - low)


def _save(run: Run, figure: Any, file: str, title: str, caption: str) -> None:
    plots.save(figure, run.directory / file)
    run.add_picture(file, title, caption)


def _picture_of(run: Run, data: Data, raw: Tensor, name: str, caption: str) -> None:
    file = f"samples/{name}.png"
    if _is_image(data):
        images = _to_unit(data, data.transform.encode(raw[:100]))
        _save(run, plots.image_grid(images), file, "Samples", caption)
    elif data.shape == (2,):
        test = data.test[: len(raw)]
        _save(run, plots.samples_2d(raw, test), file, "Samples", caption + " Beside them, held-out data.")


def pictures(run: Run, model: NetworkScore, data: Data, *, seed: int = 0) -> None:
    """Draw what the model does: the forward process, denoising, the field, losses and likelihoods."""
    if _is_image(data) or data.shape == (2,):
        _process_pictures(run, model, data, seed)
    if data.shape == (2,):
        _field_picture(run, model, data)
    log = _read_log(run)
    with_curves = [line for line in log if line.get("loss_by_log_snr")][-10:]
    if with_curves:
        centres, mean, stderr = _average_curves(with_curves)
        _save(
            run,
            plots.loss_by_noise_level(centres, mean, stderr),
            "samples/loss_by_noise_level.png",
            "Loss by noise level",
            "Mean squared error of the predicted noise at the end of training.",
        )
    histograms = {s: run.directory / f"likelihood-{s}.csv" for s in ("train", "test")}
    if all(path.is_file() for path in histograms.values()):
        columns = {s: _column(path) for s, path in histograms.items()}
        unit = "nats" if data.transform.levels is None else "bits/dim"
        _save(
            run,
            plots.likelihood_histogram(columns["train"], columns["test"], unit=unit),
            "samples/likelihood.png",
            "Likelihood of training and held-out data",
            f"{'Log-density' if unit == 'nats' else 'Bits per dimension'} of each sample; random probes widen both.",
        )


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
        plots.forward_process(shown, times),
        "samples/forward_process.png",
        "Data dissolving into noise",
        f"x_t under {type(sde).__name__}, a row for each time, divided by √(α² + σ²).",
    )
    cond: dict[str, Tensor] = {}
    draw = 8 if image else 400
    if _has_classes(model):
        cond["labels"] = torch.arange(draw) % int(model.network.num_classes)  # type: ignore[arg-type]
    out = run.make("sampler")(model, (draw, *data.shape), seed=seed, trajectory=True, **cond)
    assert out.trajectory is not None
    picked = torch.linspace(0, len(out.times) - 1, min(10, len(out.times))).round().long()
    states = out.trajectory[picked]
    if image:
        # What the model takes each state for: readable at every noise level, unlike the state.
        guesses = [model.denoise(x, out.times[i], **cond) for i, x in zip(picked.tolist(), states, strict=True)]
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
    _save(run, plots.trajectory(states, out.times[picked]), "samples/trajectory.png", "Denoising", text)


@torch.no_grad()
def _field_picture(run: Run, model: NetworkScore, data: Data) -> None:
    test = data.transform.encode(data.test)
    reach = 1.15 * float(test.abs().max())
    axis = torch.linspace(-reach, reach, 25)
    points = torch.cartesian_prod(axis, axis)
    sde = model.sde
    t = sde.time(-torch.log(torch.tensor(0.3, dtype=torch.float64))).clamp(sde.t_min, sde.t_max)
    alpha = float(sde.alpha(t))
    score = model.score(alpha * points, t)
    figure = plots.vector_field(points, score * alpha, samples=test[:1000], title="Score at σ/α = 0.3")
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


def _read_log(run: Run) -> list[dict[str, Any]]:
    path = run.directory / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:  # cut short by a full disk
            continue
    return lines


def _last_loss(run: Run) -> float | None:
    return next((line["loss"] for line in reversed(_read_log(run)) if line.get("loss") is not None), None)


def _column(path: Path) -> list[float]:
    with path.open(newline="") as file:
        return [float(row[1]) for row in list(csv.reader(file))[1:]]


def _flat(summary: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested numbers under dotted names."""
    flat: dict[str, Any] = {}
    for key, value in summary.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            flat[f"{prefix}{key}"] = value
    return flat


def _plain_config(config: DictConfig) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(config, resolve=True)


def has_checkpoint(run: Run) -> bool:
    """Whether training can go on from a checkpoint."""
    return latest_checkpoint(run.directory / "checkpoints") is not None
