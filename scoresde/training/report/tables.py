"""The tables of one run: likelihood, training, sample quality."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from scoresde.training.report.numbers import (
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

__all__ = ["Table", "headline", "tables"]


@dataclass(frozen=True)
class Table:
    """A table of text; the first cell of a row is its heading."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""


def headline(summary: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, value and small print of the numbers at the top."""
    held_out = as_dict(summary.get("likelihood"))
    if held_out:
        in_bits = held_out.get("bits_per_dim") is not None
        name, key = ("bits/dim", "bits_per_dim") if in_bits else ("log-likelihood, nats", "nats")
        value = estimate(held_out.get(key), held_out.get("stderr"))
        yield f"{of_labels(name, held_out)}, {split_name(held_out)}", value, facts(held_out)
    samples = as_dict(summary.get("samples"))
    for key, entry in list(as_dict(samples.get("metrics")).items())[:1]:
        small = {k: v for k, v in samples.items() if k in ("nfe", "seconds")}
        yield metric_title(key), metric(entry), facts({"n": as_dict(entry).get("n"), **small})
    training = as_dict(summary.get("training"))
    if "seconds" in training:
        steps = f"{text(training['steps'])} steps" if "steps" in training else ""
        yield "training", duration(training["seconds"]), steps
    if "parameters" in summary:
        yield "parameters", text(summary["parameters"]), ""


def tables(summary: dict[str, Any], comparisons: Mapping[str, dict[str, Any]] | None = None) -> list[Table]:
    """The tables that the summary has something for, and one of further results.

    Args:
        summary: Of the run.
        comparisons: Settings of further comparisons by their names.
    """
    made = (_likelihood(summary), _training(summary), _quality(summary), _further(summary, comparisons or {}))
    return [table for table in made if table is not None]


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
    rows.append((f"{of_labels('log-likelihood', first)}, nats", *(estimate(*nats(e)) for e in entries)))
    plain = {
        "n": "samples, n",
        "stderr_data": "standard error from the choice of samples",
        "stderr_dequantisation": "from dequantisation",
        "stderr_probes": "from probes",
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
            rows.append((title, *(text(e.get(key)) for e in entries)))
    if any("seconds" in e for e in entries):
        rows.append(("time", *(duration(e.get("seconds")) for e in entries)))
    note = "Means over samples of the probability-flow ODE's likelihood, ± standard error."
    if first.get("conditional") is True:
        note += " They are of p(x | label), not to be compared with those of p(x)."
    return Table("Likelihood", ("", *map(split_name, entries)), rows, note)


def _quality(summary: dict[str, Any]) -> Table | None:
    samples = as_dict(summary.get("samples"))
    metrics, reference = as_dict(samples.get("metrics")), as_dict(summary.get("reference"))
    if not samples and not reference:
        return None
    sides = [(name, side) for name, side in (("samples", metrics), ("training data", reference)) if side]
    rows = []
    for key in dict.fromkeys((*metrics, *reference)):
        n = next((as_dict(side[key]).get("n") for _, side in sides if key in side), None)
        rows.append((directed_title(key), *(metric(side.get(key)) for _, side in sides), text(n)))
    head = ("against held-out data", *(name for name, _ in sides), "n")
    note = facts(samples)
    if rows:
        note += ". " if note else ""
        note += "± standard error; ↓ lower is better, ↑ higher is better."
    if reference:
        note += " Training data show what is to be had at this n."
    return Table("Samples", head if rows else (), rows, note)


# What sets a further result apart, in the order in which it is told.
_LIKELIHOOD = ("divergence", "tol", "dequantisation", "draws", "bound", "decoder", "elbo_draws", "t_min", "seed")
_SAMPLES = ("sampler", "n", "pca", "seed")
_COMPARISON = ("n", "tolerance", "batch_size", "device")


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
    parts = [f"{key} {text(entry[key])}" for key in keys if key in entry and entry[key] != own.get(key)]
    if entry.get("source") is not None:
        parts.insert(0, f"data {text(entry['source'])}")
    elif entry.get("data_hash") != own.get("data_hash") and own:
        parts.insert(0, f"data {text(entry.get('data'))} of another content")
    if entry.get("step") is not None and entry["step"] != own.get("step"):
        parts.append(f"step {text(entry['step'])}")
    return ", ".join(parts) or "–"


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
