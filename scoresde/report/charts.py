"""Charts of one run or of several: losses during training, by noise level, and the parts of the likelihood's error."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from scoresde.report.numbers import Value, as_dict, combine, is_number, text
from scoresde.report.png import Picture
from scoresde.report.traces import Chart, Series, axis, chart, error_bars, named, rounded, safe, trace

__all__ = ["error_budget", "learning_curves", "loss_by_noise_level", "losses"]

_MAX_POINTS = 600
_NOISE_LOSS = ("Mean squared error of the predicted noise", "loss of the noise")
_PARTS = {
    "stderr_data": "choice of held-out data",
    "stderr_dequantisation": "dequantisation",
    "stderr_probes": "probes",
    "stderr_solver": "solver",
    "solver_error": "solver, RMS per sample",
}


def _thin(x: list[float], y: list[float]) -> tuple[list[float], list[float]]:
    """Means of equally many neighbours each, where there are more points than can be seen."""
    size = math.ceil(len(x) / _MAX_POINTS)
    starts = range(0, len(x), max(size, 1))
    return tuple([statistics.fmean(v[i : i + size]) for i in starts] for v in (x, y))  # type: ignore[return-value]


def losses(log: list[dict[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    """Steps and values of every loss that the log has finite values of."""
    names = [k for k in dict.fromkeys(k for line in log for k in line) if k == "loss" or k.endswith("_loss")]
    curves = {}
    for name in names:
        points = [(float(e["step"]), float(e[name])) for e in log if is_number(e.get(name))]
        if points:
            curves[name] = tuple(map(list, zip(*points, strict=True)))
    return curves  # type: ignore[return-value]


def learning_curves(series: Sequence[Series], fallback: Picture | None = None) -> Chart | None:
    """Chart the loss against the training step: every loss in the log of one run, the training loss of several."""
    traces: list[dict[str, Any]] = []
    everything: list[float] = []
    thinned = False
    for run in series:
        for index, (name, (x, y)) in enumerate(losses(run.log).items()):
            if len(series) > 1 and name != "loss":
                continue
            thinned |= len(x) > _MAX_POINTS
            x, y = _thin(x, y)
            label = run.label if len(series) > 1 else name.replace("_", " ")
            mode = "lines" if len(x) > 30 else "lines+markers"
            tone = run.tone if len(series) > 1 else index
            traces.append(trace(label, tone, rounded(x), rounded(y), mode=mode, **named(run, traces)))
            everything += y
    if not traces:
        return None
    caption = "Mean loss since the line before in the log."
    if len(series) == 1:
        caption += f" Last logged: step {text(series[0].log[-1]['step'])}."
    if thinned:
        caption += f" Neighbouring lines averaged, to at most {_MAX_POINTS} points a curve."
    layout = {"xaxis": axis("training step"), "yaxis": axis("loss", everything)}
    return chart("Learning curve" if len(series) == 1 else "Learning curves", caption, traces, layout, fallback)


def loss_by_noise_level(series: Sequence[Series], fallback: Picture | None = None) -> Chart | None:
    """Chart the mean squared error of the predicted noise against log(σ/α), over the last ten lines of the log."""
    traces: list[dict[str, Any]] = []
    everything: list[float] = []
    for run in series:
        bins: dict[float, list[float]] = {}
        lines = [
            e for e in run.log if isinstance(e.get("loss_by_log_snr"), list) and isinstance(e.get("log_snr"), list)
        ]
        for line in lines[-10:]:
            for level, value in zip(line["log_snr"], line["loss_by_log_snr"], strict=False):
                if is_number(level) and is_number(value):
                    bins.setdefault(-float(level), []).append(float(value))
        if not bins:
            continue
        x = sorted(bins)
        means = [combine([Value(v) for v in bins[level]]) for level in x]
        y = [m.value for m in means]
        whiskers = {**error_bars([m.stderr or 0.0 for m in means]), **named(run, traces)}
        traces.append(trace(run.label, run.tone, rounded(x), rounded(y), mode="lines+markers", **whiskers))
        everything += y
    if not traces:
        return None
    classifies = any("classifier" in run.summary for run in series)
    what, of = ("Cross-entropy", "cross-entropy, nats") if classifies else _NOISE_LOSS
    caption = f"{what} at the end of training, ± standard error over log lines."
    layout = {"xaxis": axis("log(σ/α): data left, noise right"), "yaxis": axis(of, everything)}
    return chart("Loss by noise level", caption, traces, layout, fallback)


def error_budget(series: Sequence[Series], unit: str) -> Chart | None:
    """Chart the parts of the held-out likelihood's error side by side; `unit` is "bits/dim" or "nats"."""
    entries = [(run, as_dict(run.summary.get("likelihood"))) for run in series]
    entries = [(run, e) for run, e in entries if (e.get("bits_per_dim") is not None) == (unit == "bits/dim")]
    traces: list[dict[str, Any]] = []
    everything: list[float] = []
    for tone, (key, part) in enumerate(_PARTS.items()):
        points = [(run, float(e[key])) for run, e in entries if is_number(e.get(key)) and e[key] >= 0]
        if points:
            runs, values = zip(*points, strict=True)
            bar = trace(part, tone, [], rounded(values))
            labels = [safe(run.short or run.label) for run in runs]
            traces.append({**bar, "type": "bar", "x": labels, "hovertext": [safe(run.label) for run in runs]})
            everything += values
    if len(series) == 1 and traces:
        # The parts of a single run stand on the axis: there is nothing else to compare.
        heights = [t["y"][0] for t in traces]
        traces = [{**trace("error", 0, [], heights), "type": "bar", "x": [t["name"] for t in traces]}]
    if not traces:
        return None
    caption = (
        "Parts of the mean's standard error, which add in quadrature. That of the solver is as if its errors had one "
        "sign in all samples."
    )
    if any(is_number(entry.get("solver_error")) for _, entry in entries):
        caption += " Of runs of version 0.1.0 it is the error of a single sample, which bounds that of the mean."
    if any(entry.get("conditional") is True for _, entry in entries):
        caption += " Of models with classes it is the likelihood given the label."
    across = {**axis("run, by its number" if len(series) > 1 else ""), "type": "category"}
    layout = {"barmode": "group", "xaxis": across, "yaxis": axis(f"error, {unit}", everything)}
    return chart("Error of the likelihood", caption, traces, layout)
