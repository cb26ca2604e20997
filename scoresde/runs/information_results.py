"""What a table of information comes to: means with standard errors, curves over noise levels, and verdicts."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scoresde.data import Data
from scoresde.information.three_ways import agreement
from scoresde.likelihood import typicality
from scoresde.numerics.html import with_error
from scoresde.numerics.means import mean_and_error
from scoresde.runs.information_table import InformationTable, band_names, class_shares

__all__ = ["estimate_of", "finite", "per_unit", "results", "sentences", "sentences_against"]

ABOVE_ENTROPY = "; no label tells more than its entropy, so the network without labels is the worse trained"

_MAX_LISTED = 10  # indices of the most and of the least likely samples
_ROUNDING = 1e-3  # share of D by which an error may be above it
_FAR = 3.0  # standard deviations of the log-densities from which a sample counts as untypical

Estimate = dict[str, float | None]
"""A mean and its standard error, which is None for a single sample."""


def finite(value: float) -> float | None:
    """The number, or None for NaN and infinity, which JSON does not have."""
    return value if math.isfinite(value) else None


def estimate_of(values: Tensor, scale: float = 1.0, shared: Tensor | None = None) -> Estimate:
    """The mean of values of samples, times a scale, and its standard error; `shared` is as for `mean_and_error`."""
    mean, error = mean_and_error(scale * values, None if shared is None else abs(scale) * shared)
    return {"mean": finite(mean), "stderr": finite(abs(error))}


def results(
    table: InformationTable,
    n: int,
    training: InformationTable | None,
    settings: Mapping[str, Any],
    data: Data,
    labels: Tensor | None,
    edges: Tensor,
) -> dict[str, Any]:
    """The results of the first n samples, in the types of JSON.

    Args:
        table: The table of the split.
        n: Number of samples.
        training: The table of training samples, if there is one.
        settings: Settings of the table.
        data: Data set of the samples.
        labels: Labels of the split, for a model that takes them.
        edges: Edges of the bands of λ, `(b + 1,)`.
    """
    size = math.prod(data.shape)
    discrete = settings["unit"] != "nats"
    # From log-densities in nats to what is shown.
    scale, unit = (-1 / (size * math.log(2)), "bits/dim") if discrete else (1.0, "nats")
    ways = {name: table.column(name, n) for name in ("ode", "elbo", "immse")}
    solver = table.column("ode_solver_stderr", n)
    agreements = agreement(ways, solver)
    made: dict[str, Any] = {
        "n": n,
        "unit": unit,
        "size": size,
        "ways": {name: estimate_of(values, scale, solver if name == "ode" else None) for name, values in ways.items()},
        "agreements": [
            {
                "first": each.first,
                "second": each.second,
                "mean": finite(scale * each.mean),
                "stderr": finite(abs(scale) * each.stderr),
                "agree": None if math.isnan(each.stderr) else bool(each.agree),
                "verdict": each.verdict(scale, unit),
            }
            for each in agreements
        ],
        "entropy": estimate_of(ways["ode"], -1.0, solver),
        "normal": estimate_of(table.column("normal", n), scale),
        "tail": estimate_of(table.column("tail", n), scale),
        "curve": _curve(table, n, edges),
        "worse_than_no_prediction": _worse(table, n, edges, size),
        "typicality": _typical(ways["ode"]),
    }
    if training is not None:
        made["training"] = _against_training(table, n, training, scale, edges)
    if settings["labels"] and labels is not None and data.train_labels is not None:
        made["labels"] = _of_labels(table, n, labels[:n], data.train_labels, edges)
    if settings["classes"]:
        made["classes"] = _of_classes(table, min(n, settings["classes"]))
    if settings["dimension"]:
        made["dimension"] = _dimension(table, min(n, settings["dimension"]), settings["dimension_log_snr"])
    return made


def _curve(table: InformationTable, n: int, edges: Tensor) -> dict[str, Any]:
    """Nats of a sample per unit of λ, in bands: the errors of denoising, and those of a normal density."""
    normal = table.columns_of(band_names("error", table.settings["draws"]), n)
    excess = table.columns_of(band_names("excess", table.settings["draws"]), n)
    return {
        "log_snr": edges.tolist(),
        "error": per_unit(normal + excess, edges),
        "normal": per_unit(normal, edges),
        "excess": per_unit(excess, edges),
    }


def _worse(table: InformationTable, n: int, edges: Tensor, size: int) -> dict[str, float] | None:
    """The band of noise levels where the error is farthest above D, that of predicting no noise; None without one."""
    draws = table.settings["draws"]
    names = [*band_names("error", draws), *band_names("excess", draws)]
    found = per_unit(table.columns_of(names, n).unflatten(1, (2, -1)).sum(1), edges)
    above = [
        (mean, band)
        for band, (mean, error) in enumerate(zip(found["mean"], found["stderr"], strict=True))
        if mean is not None and error is not None and mean - 3 * error > size * (1 + _ROUNDING)
    ]
    if not above:
        return None
    most, band = max(above)
    return {"error": most, "low": edges[band].item(), "high": edges[band + 1].item()}


def per_unit(nats: Tensor, edges: Tensor) -> dict[str, list[float | None]]:
    """Means per unit of λ of nats `(n, b)` in bands, and their standard errors."""
    lengths = edges.diff()
    error = nats.std(0) / math.sqrt(len(nats)) if len(nats) > 1 else torch.full_like(lengths, math.nan)
    return {
        "mean": [finite(v) for v in (nats.mean(0) / lengths).tolist()],
        "stderr": [finite(v) for v in (error / lengths).tolist()],
    }


def _against_training(
    table: InformationTable, n: int, training: InformationTable, scale: float, edges: Tensor
) -> dict[str, Any]:
    """What held-out data cost more than training data: in sum, and per unit of λ.

    Samples of equal index have the same noise, so that part of its scatter cancels.
    """
    count, draws = min(n, len(training.rows)), table.settings["draws"]
    names = [*band_names("error", draws), *band_names("excess", draws)]
    held_out, seen = (each.columns_of(names, count).unflatten(1, (2, -1)).sum(1) for each in (table, training))
    costs = training.column("immse", count) - table.column("immse", count)
    return {
        "n": count,
        "file": training.path.name,
        "immse": estimate_of(training.column("immse", count), scale),
        "gap": estimate_of(costs, abs(scale)),
        "curve": {"log_snr": edges.tolist(), **per_unit(held_out - seen, edges)},
    }


def _of_labels(table: InformationTable, n: int, labels: Tensor, train_labels: Tensor, edges: Tensor) -> dict[str, Any]:
    """The information of labels in nats, and per unit of λ, beside the entropy of the labels.

    That is the mean of −log p(y) with the shares p of the classes in the training data, the most that a label y can
    tell of a sample. The shares among a few samples would have less.
    """
    nats = table.column("labels", n)
    shares = class_shares(train_labels, int(max(labels.max(), train_labels.max())) + 1)
    saved = table.columns_of(band_names("saved", table.settings["draws"]), n)
    mean, error = mean_and_error(nats)
    entropy = float(-shares[labels].log().mean())
    return {
        "nats": estimate_of(nats),
        "bits": estimate_of(nats, 1 / math.log(2)),
        "entropy_of_labels": entropy,
        "above_entropy": mean - 3 * error > entropy,
        "negative": int((nats < 0).sum()),
        "curve": {"log_snr": edges.tolist(), **per_unit(saved, edges)},
    }


def _of_classes(table: InformationTable, n: int) -> dict[str, Any]:
    """The information of labels by predictions for every class, and how often the most probable class is the label."""
    nats = table.column("classes", n)
    return {
        "n": n,
        "nats": estimate_of(nats),
        "bits": estimate_of(nats, 1 / math.log(2)),
        "accuracy": estimate_of((table.column("class_rank", n) == 0).double()),
    }


def _dimension(table: InformationTable, n: int, log_snr: float) -> dict[str, Any]:
    values = table.column("dimension", n)
    return {
        "n": n,
        "log_snr": log_snr,
        **estimate_of(values),
        "least": finite(float(values.min())),
        "most": finite(float(values.max())),
    }


def _typical(log_prob: Tensor) -> dict[str, Any]:
    """How far log-densities are from their mean, in standard deviations, and the most and the least likely samples."""
    order = log_prob.argsort(descending=True)
    count = min(_MAX_LISTED, len(log_prob) // 2)
    made: dict[str, Any] = {
        "most_likely": order[:count].tolist(),
        "least_likely": order[len(order) - count :].flip(0).tolist(),
    }
    if len(log_prob) > 1 and float(log_prob.std()) > 0:
        far = typicality(log_prob, log_prob)
        most = int(far.argmax())
        made |= {
            "std": float(log_prob.std()),
            "farthest": most,
            "farthest_by": float((log_prob[most] - log_prob.mean()) / log_prob.std()),
            "untypical": int((far > _FAR).sum()),
        }
    return made


def sentences(note: Mapping[str, Any]) -> list[str]:
    """The results in sentences, for the terminal."""
    unit = note["unit"]
    made = [each["verdict"] for each in note["agreements"]]
    made.append(f"of denoising errors, {_shown(note['tail'])} {unit} are extrapolated to noise below t_min")
    if worse := note.get("worse_than_no_prediction"):
        made.append(
            f"at log(α/σ) from {worse['low']:.3g} to {worse['high']:.3g} the network errs more than no prediction of "
            f"the noise would, {worse['error']:.4g} against {note['size']}: it is badly trained there"
        )
    made.append(f"entropy under the model, the mean of -log p: {_shown(note['entropy'])} nats a sample")
    if training := note.get("training"):
        made.append(
            f"held-out data cost {_shown(training['gap'])} {unit} more than {training['n']} training "
            f"{'sample' if training['n'] == 1 else 'samples'}{_where(training['curve'])}"
        )
    if labels := note.get("labels"):
        made.append(
            f"labels tell {_shown(labels['nats'])} nats ({_shown(labels['bits'])} bits) of a sample; their entropy is "
            f"{labels['entropy_of_labels']:.4g} nats; less than none for {labels['negative']} of {note['n']}"
            f"{ABOVE_ENTROPY if labels['above_entropy'] else ''}"
        )
    if classes := note.get("classes"):
        made.append(
            f"by predictions for every class labels tell {_shown(classes['nats'])} nats ({_shown(classes['bits'])} "
            f"bits), and are the most probable class of {100 * classes['accuracy']['mean']:.3g} % (n = {classes['n']})"
        )
    if dimension := note.get("dimension"):
        made.append(
            f"local intrinsic dimension {_shown(dimension)} of {note['size']}, from {dimension['least']:.3g} to "
            f"{dimension['most']:.3g}, at log(α/σ) = {dimension['log_snr']:.3g} (n = {dimension['n']})"
        )
    typical = note["typicality"]
    if "std" in typical:
        made.append(
            f"log-densities have a standard deviation of {typical['std']:.4g} nats; {typical['untypical']} of "
            f"{note['n']} samples are more than 3 from the mean, farthest sample {typical['farthest']} by "
            f"{typical['farthest_by']:+.1f}"
        )
    return made


def sentences_against(note: Mapping[str, Any]) -> list[str]:
    """What another run comes to, in sentences, for the terminal."""
    found = note["divergence"]
    differing = "" if found["agree"] else "; they differ, so its scores are not quite those of its samples"
    return [
        f"{note['verdict']}, by denoising errors of {note['n']} samples{_where(note['curve'], both=True)}",
        f"KL({note['first']} || {note['other']}): {_shown(found['by_scores'])} nats by scores, "
        f"{_shown(found['by_errors'])} by denoising errors, of {found['samples']} samples of "
        f"{note['first']}{differing}",
    ]


def _shown(estimate: Mapping[str, Any]) -> str:
    mean, error = estimate["mean"], estimate["stderr"]
    return "?" if mean is None else with_error(mean, math.nan if error is None else error)


def _where(curve: Mapping[str, Any], both: bool = False) -> str:
    """Where in noise a curve is largest, or its size if `both`; empty where it is within three standard errors of 0."""
    edges = curve["log_snr"]
    clear = [
        (abs(mean), (a + b) / 2)
        for mean, error, a, b in zip(curve["mean"], curve["stderr"], edges, edges[1:], strict=False)
        if mean is not None and error is not None and (abs(mean) if both else mean) > 3 * error
    ]
    return f"; by noise level most at log(α/σ) = {max(clear)[1]:.2g}" if clear else ""
