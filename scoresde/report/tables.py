"""The numbers and the tables of one run: likelihood, training, sample quality."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from scoresde.metrics.evaluate import LOWER_IS_BETTER
from scoresde.report.numbers import (
    as_dict,
    directed_title,
    duration,
    estimate,
    facts,
    is_number,
    metric,
    metric_title,
    nats,
    of_labels,
    split_name,
    text,
)
from scoresde.report.wording import repr_in_words, sampler_in_words

__all__ = ["Number", "Table", "main_metric", "numbers", "tables"]


@dataclass(frozen=True)
class Table:
    """A table of text; the first cell of a row is its heading."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""

    @property
    def count(self) -> str:
        """The number of rows, for where the table is folded."""
        return f"{len(self.rows)} row{'s' * (len(self.rows) != 1)}" if self.rows else ""


@dataclass(frozen=True)
class Number:
    """A number at the top of a page: its name, its value, its error or unit, and lines that explain it."""

    name: str
    value: str
    unit: str = ""
    lines: tuple[str, ...] = ()


def numbers(summary: dict[str, Any], dimensions: int | None = None, levels: int | None = None) -> list[Number]:
    """The held-out likelihood, the quality and the cost of samples, and the time of training, as far as known.

    Args:
        summary: Summary of the run.
        dimensions: Number of dimensions of a sample. Up to 16, quality is coverage, which sees where samples lie; the
            Fréchet distance compares only means and covariances, and does not tell a ring from eight points on it.
        levels: Number of levels of discrete data; None for continuous data.
    """
    made = (
        _accuracy_number(summary),
        _likelihood_number(summary, levels),
        _quality_number(summary, dimensions),
        *_cost_numbers(summary),
    )
    return [number for number in made if number is not None]


def _number(name: str, value: str, lines: Iterable[str], unit: str = "") -> Number:
    """A number from `value ± error`."""
    value, sign, error = value.partition(" ± ")
    return Number(name, value, f"{sign.strip()} {error} {unit}".strip(), tuple(filter(None, lines)))


def _accuracy_number(summary: dict[str, Any]) -> Number | None:
    """Of a classifier of noised samples."""
    held_out, train = (as_dict(as_dict(summary.get("classifier")).get(side)) for side in ("held_out", "train"))
    if not as_dict(held_out.get("mean_accuracy")):
        return None
    lines = ["mean over noise levels", f"training data: {metric(train.get('mean_accuracy'))}"]
    return _number("Accuracy, held-out", metric(held_out["mean_accuracy"]), lines)


def _likelihood_number(summary: dict[str, Any], levels: int | None) -> Number | None:
    held_out, train = as_dict(summary.get("likelihood")), as_dict(summary.get("likelihood_train"))
    if not held_out:
        return None
    bits = held_out.get("bits_per_dim") is not None
    key = "bits_per_dim" if bits else "nats"
    name = f"{of_labels('Bits/dim' if bits else 'Log-density', held_out)}, {split_name(held_out)}"
    of = f"; n = {text(held_out['n'])}" if "n" in held_out else ""
    lines = [f"{'lower' if bits else 'higher'} is better{of}"]
    if is_number(train.get(key)):
        lines.append(f"training data: {estimate(train[key], train.get('stderr'))}")
    if bits and levels is not None:
        lines.append(f"uniform noise: {text(math.log2(levels))}")
    return _number(name, estimate(held_out.get(key), held_out.get("stderr")), lines, "" if bits else "nats")


_FEW_DIMENSIONS = 16


def main_metric(metrics: Iterable[str], dimensions: int | None) -> str:
    """The metric that says most about the quality of samples, of those that there are: see `numbers`."""
    names = list(metrics)
    few = dimensions is not None and dimensions <= _FEW_DIMENSIONS
    return "coverage" if few and "coverage" in names else names[0]


def _quality_number(summary: dict[str, Any], dimensions: int | None) -> Number | None:
    metrics, reference = as_dict(as_dict(summary.get("samples")).get("metrics")), as_dict(summary.get("reference"))
    if not metrics:
        return None
    key = main_metric(metrics, dimensions)
    if key == "coverage":
        title, meaning = "Coverage of held-out data", "share with a sample among their neighbours"
    else:
        title, meaning = directed_title(key), f"n = {text(as_dict(metrics[key]).get('n'))}"
    better = {True: "1 is best", False: "lower is better" if key in LOWER_IS_BETTER else "higher is better"}
    lines = [f"{better[key == 'coverage']}; {meaning}"]
    if key in reference:
        lines.append(f"training data: {metric(reference[key])}")
    return _number(title if key == "coverage" else metric_title(key), metric(metrics[key]), lines)


def _cost_numbers(summary: dict[str, Any]) -> Iterator[Number]:
    samples, training = as_dict(summary.get("samples")), as_dict(summary.get("training"))
    if "nfe" in samples:
        time = ""
        if "seconds" in samples and "n" in samples:
            time = f"{duration(samples['seconds'])} for {text(samples['n'])} samples"
        sampler = f"sampler {sampler_in_words(samples['sampler'])}" if "sampler" in samples else ""
        yield Number("Evaluations per sample", text(samples["nfe"]), "", tuple(filter(None, (sampler, time))))
    if "seconds" in training:
        value, _, unit = duration(training["seconds"]).partition(" ")
        lines = [f"{text(training['steps'])} steps" if "steps" in training else "", _rate(training)]
        yield Number("Training", value, unit, tuple(filter(None, lines)))


def _rate(training: dict[str, Any]) -> str:
    steps, seconds = (training.get(key) for key in ("steps", "seconds"))
    if not (is_number(steps) and is_number(seconds)) or seconds <= 0:  # type: ignore[operator]
        return ""
    return f"{text(float(steps) / float(seconds))} steps a second"  # type: ignore[arg-type]


def tables(summary: dict[str, Any], comparisons: Mapping[str, dict[str, Any]] | None = None) -> list[Table]:
    """The tables that the summary has something for, and one of further results.

    Args:
        summary: Summary of the run.
        comparisons: Settings of further comparisons by their names.
    """
    made = (
        _accuracy(summary),
        _likelihood(summary),
        _training(summary),
        _quality(summary),
        _quality_by_class(summary),
        _further(summary, comparisons or {}),
    )
    return [table for table in made if table is not None]


def _accuracy(summary: dict[str, Any]) -> Table | None:
    """A row for each noise level of a classifier."""
    sides = [as_dict(as_dict(summary.get("classifier")).get(side)) for side in ("held_out", "train")]
    columns = [side.get(key) for side in sides for key in ("accuracy", "accuracy_stderr")]
    columns += [sides[0].get(key) for key in ("cross_entropy", "cross_entropy_stderr", "log_snr")]
    if not all(isinstance(column, list) for column in columns):
        return None
    rows: list[tuple[str, ...]] = []
    for share, error, trained, trained_error, nats_, nats_error, level in zip(*columns, strict=False):
        if is_number(level):
            values = estimate(share, error), estimate(trained, trained_error), estimate(nats_, nats_error)
            rows.append((text(-level), *values))
    means = (as_dict(sides[0].get("mean_accuracy")), as_dict(sides[1].get("mean_accuracy")))
    n = " and ".join(text(mean.get("n")) for mean in means)
    note = f"± standard error over {n} samples, each noised once at every level. Cross-entropy in nats, held out."
    head = ("log(σ/α)", "accuracy, held-out", "training data", "cross-entropy")
    return Table("Accuracy by noise level", head, rows[::-1], note)


def _likelihood(summary: dict[str, Any]) -> Table | None:
    """A column for each split."""
    entries = [e for e in (as_dict(summary.get(k)) for k in ("likelihood", "likelihood_train")) if e]
    if not entries:
        return None
    rows: list[tuple[str, ...]] = []
    first = entries[0]
    if any(e.get("bits_per_dim") is not None for e in entries):
        rows.append(
            (of_labels("bits/dim", first), *(estimate(e.get("bits_per_dim"), e.get("stderr")) for e in entries))
        )
    if any(e.get("elbo") is not None for e in entries):
        rows.append(
            (
                of_labels("bits/dim by the ELBO", first),
                *(estimate(e.get("elbo"), e.get("stderr_elbo")) for e in entries),
            )
        )
    if any(e.get("by_chain") is not None for e in entries):
        unit = "nats" if first.get("bits_per_dim") is None else "bits/dim"
        name = of_labels(f"{unit} by the bound of the chain", first)
        rows.append((name, *(estimate(e.get("by_chain"), e.get("stderr_by_chain")) for e in entries)))
    rows.append((f"{of_labels('log-likelihood', first)}, nats", *(estimate(*nats(e)) for e in entries)))
    plain = {
        "n": "samples, n",
        "stderr_data": "standard error from the choice of samples",
        "stderr_dequantisation": "from dequantisation",
        "stderr_probes": "from probes",
        "stderr_solver": "from the solver",
        "solver_error": "error of the solver, RMS per sample",
        "dequantisation": "dequantisation",
        "draws": "dequantisation draws",
        "bound": "bound over draws",
        "decoder": "decoder at t_min",
        "divergence": "divergence",
        "nfe": "NFE, mean",
        "divergences": "divergences, mean",
        "t_min": "t_min",
        "tol": "tol, nats",
    }
    for key, title in plain.items():
        if any(key in e for e in entries):
            rows.append((title, *(text(repr_in_words(e.get(key))) for e in entries)))
    if any("seconds" in e for e in entries):
        rows.append(("time", *(duration(e.get("seconds")) for e in entries)))
    note = "Means over samples of the probability-flow ODE's likelihood, ± standard error."
    if first.get("conditional") is True:
        note += f" They are of p(x | {first.get('given') or 'label'}), not to be compared with those of p(x)."
    return Table("Likelihood", ("", *map(split_name, entries)), rows, note)


def _quality(summary: dict[str, Any]) -> Table | None:
    samples = as_dict(summary.get("samples"))
    metrics, reference = as_dict(samples.get("metrics")), as_dict(summary.get("reference"))
    if not samples and not reference:
        return None
    sides = [(name, side) for name, side in (("samples", metrics), ("training data", reference)) if side]
    rows = []
    of_exact = any("expected" in as_dict(entry) for entry in metrics.values())
    for key in dict.fromkeys((*metrics, *reference)):
        n = next((as_dict(side[key]).get("n") for _, side in sides if key in side), None)
        expected = (text(as_dict(metrics.get(key)).get("expected")),) if of_exact else ()
        rows.append((directed_title(key), *(metric(side.get(key)) for _, side in sides), *expected, text(n)))
    head = ("against held-out data", *(name for name, _ in sides), *(("exact samples",) if of_exact else ()), "n")
    note = facts({**samples, **({"sampler": sampler_in_words(samples["sampler"])} if "sampler" in samples else {})})
    if rows:
        note += ". " if note else ""
        note += "± standard error; ↓ lower is better, ↑ higher is better."
        if "noise_left" in metrics:
            note += (
                " Noise left and too narrow are the largest and the smallest ratio of the samples' standard deviation "
                "to the data's over the principal directions of the data; 1 is right."
            )
        if "nats_lost" in metrics:
            note += " Nats lost: log-density of held-out data less that of samples, by the model's own likelihood."
        note += _coverage_note(metrics)
    if reference:
        note += " Training data show what is to be had at this n."
    return Table("Samples", head if rows else (), rows, note)


_BY_CLASS = ("frechet_distance", "sliced_wasserstein", "precision", "recall", "density", "coverage")


def _quality_by_class(summary: dict[str, Any]) -> Table | None:
    """A row for each class whose samples were compared with data of that class."""
    samples = as_dict(summary.get("samples"))
    right = as_dict(samples.get("by_class"))
    rows: list[tuple[str, ...]] = []
    for name, entry in as_dict(samples.get("classes")).items():
        own, reference = (as_dict(as_dict(entry).get(side)) for side in ("metrics", "reference"))
        cells = [metric(own.get(key)) for key in _BY_CLASS]
        trained = metric(reference.get("frechet_distance"))
        rows.append((str(name), text(as_dict(entry).get("n")), *cells, trained, metric(right.get(name))))
    if not rows:
        return None
    head = ("class", "n", *map(directed_title, _BY_CLASS), "Fréchet distance, training data", "labels right")
    note = "Samples drawn given each class against held-out data of that class, ± standard error. Values depend on n."
    return Table("Samples by class", head, rows, note)


def _coverage_note(metrics: dict[str, Any]) -> str:
    """What the measures of modes, classes and copies are."""
    note = ""
    if any(f"{groups}_misplaced" in metrics for groups in ("modes", "classes")):
        note += (
            " In the wrong mode or class: the share of samples that would have to change theirs to have the shares of "
            "the data. KL: of the shares from those of the data, in nats, less what chance adds."
        )
    elif "classifier_accuracy" in metrics:
        note += " Classes were not counted: the classifier is too poor."
    if "clipped_coverage" in metrics:
        note += " Clipped density and coverage are shares of good samples."
    if "copies" in metrics:
        note += (
            " Copies: samples nearer to one training datum than 1/3 of the distance to any other, less what chance "
            "makes. Nearer than held-out data: the probability that a sample is nearer to the training data than a "
            "held-out datum is. Authentic: farther from the nearest training datum than this is from the others."
        )
    if any("expected" in as_dict(entry) for entry in metrics.values()):
        note += " Exact samples: what these would have on average at this n."
    return note


# Settings that set a further result apart, in the order in which they are shown.
_LIKELIHOOD = (
    "divergence", "tol", "dequantisation", "draws", "bound", "decoder", "elbo_draws", "chain_draws", "t_min", "seed",
)  # fmt: skip
_SAMPLES = ("sampler", "n", "pca", "likelihood", "features", "against", "seed")
_COMPARISON = ("n", "tolerance", "features", "batch_size", "device")


def _further(summary: dict[str, Any], comparisons: Mapping[str, dict[str, Any]]) -> Table | None:
    """Results with other settings than the run's own, of other data, or of an earlier step."""
    rows: list[tuple[str, ...]] = []
    for name, entry in summary.items():
        if name.startswith("likelihood-") and isinstance(entry, dict):
            own = as_dict(summary.get("likelihood_train" if entry.get("split") == "train" else "likelihood"))
            in_bits = entry.get("bits_per_dim") is not None
            unit, key = ("bits/dim", "bits_per_dim") if in_bits else ("nats", "nats")
            value = f"{estimate(entry.get(key), entry.get('stderr'))} {of_labels(unit, entry)}"
            rows.append((name, value, text(entry.get("n")), _apart(entry, own, _LIKELIHOOD)))
        elif name.startswith("samples-") and isinstance(entry, dict):
            own = as_dict(summary.get("samples"))
            measured = list(as_dict(entry.get("metrics")).items())[:1]
            value = "".join(f"{metric_title(key)} {metric(found)}" for key, found in measured)
            rows.append((name, value or "–", text(entry.get("n")), _apart(entry, own, _SAMPLES)))
    for name, settings in comparisons.items():
        rows.append((name, f"{name}.csv", text(settings.get("n")), _apart(settings, {}, _COMPARISON)))
    if not rows:
        return None
    return Table("Further results", ("", "value", "n", "of"), rows, "What is not said is as for the run's own.")


def _apart(entry: dict[str, Any], own: dict[str, Any], keys: tuple[str, ...]) -> str:
    """The settings of a result that are not those of the run's own, the data, and the step of the weights."""
    parts = [f"{key} {text(_words(key, entry[key]))}" for key in keys if key in entry and entry[key] != own.get(key)]
    if entry.get("source") is not None:
        parts.insert(0, f"data {text(entry['source'])}")
    elif entry.get("data_hash") != own.get("data_hash") and own:
        parts.insert(0, f"data {text(entry.get('data'))} of another content")
    if entry.get("step") is not None and entry["step"] != own.get("step"):
        parts.append(f"step {text(entry['step'])}")
    return ", ".join(parts) or "–"


def _words(key: str, value: Any) -> Any:
    return sampler_in_words(value) if key == "sampler" else repr_in_words(value)


def _training(summary: dict[str, Any]) -> Table | None:
    training = as_dict(summary.get("training"))
    titles = {"steps": "steps", "skipped": "steps skipped, loss not finite", "loss": "last loss"}
    rows = [(title, text(training[key])) for key, title in titles.items() if key in training]
    if "seconds" in training:
        rows.append(("time", duration(training["seconds"])))
        if is_number(training.get("steps")) and is_number(training["seconds"]) and training["seconds"] > 0:
            rows.append(("steps per second", text(training["steps"] / training["seconds"])))
    if "parameters" in summary:
        rows.append(("parameters", text(summary["parameters"])))
    return Table("Training", (), list(rows)) if rows else None
