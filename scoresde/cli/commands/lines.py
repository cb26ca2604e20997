"""Results in lines for the terminal."""

import math
from collections.abc import Mapping
from typing import Any

from scoresde.progress import note
from scoresde.runs.summary import LikelihoodEntry, MetricEntry, SamplesEntry, Summary

__all__ = ["accuracy_lines", "figure", "likelihood_line", "metric_lines", "print_summary", "reused", "steered_lines"]


def reused(entry: Mapping[str, Any]) -> str:
    return ", there already" if entry.get("reused") else ""


_LOW = 0.1  # effective sample size, as a share of the particles, below which a few of them have most of the weight


def steered_lines(cost: Mapping[str, Any], steps: int) -> list[str]:
    """How far the weights of steered samples can be trusted, and what to do where they cannot."""
    many = f" in the worst of {cost['groups']} groups, {cost['ess_median']:.3g} in the median" * (cost["groups"] > 1)
    told = f"effective sample size at least {cost['ess']:.3g} of {cost['particles']} particles{many}"
    if "log_z" in cost:
        told += f"; log Z = {cost['log_z']:.4g} ± {cost['log_z_stderr']:.2g}"
    if cost["ess"] >= _LOW * cost["particles"]:
        return [told]
    more = f"steer.steps={2 * steps}, then steer.particles={4 * cost['particles']}"
    return [told, f"this is low, so that a few particles stand for a group: take more of both, {more}"]


def figure(entry: LikelihoodEntry) -> tuple[float, str]:
    """The figure of a likelihood's entry, and its unit."""
    bits = entry["bits_per_dim"]
    value, unit = (entry["nats"], "nats") if bits is None else (bits, "bits/dim")
    return value, f"{unit}{_given(entry)}"


def _given(entry: LikelihoodEntry) -> str:
    """What a likelihood is given, in words."""
    return f" given the {entry.get('given') or 'label'}" if entry.get("conditional") else ""


def likelihood_line(entry: LikelihoodEntry) -> str:
    given = _given(entry)
    error = "" if entry["stderr"] is None else f" ± {entry['stderr']:.4f}"
    if entry["bits_per_dim"] is None:
        error = "" if entry["stderr"] is None else f" ± {entry['stderr']:.3f}"
        value = f"{entry['nats']:.3f}{error} nats{given}"
    elif entry.get("chain"):
        return _chain_line(entry, f"{entry['bits_per_dim']:.4f}{error} bits/dim{given}")
    else:
        value = (
            f"{entry['bits_per_dim']:.4f}{error} bits/dim{given} ({entry['dequantisation']} dequantisation, "
            f"{entry['decoder']} at t_min = {entry['t_min']:g}, draws = {entry['draws']}, {entry['bound']})"
        )
        if entry.get("elbo") is not None:
            value += f", ELBO {entry['elbo']:.4f} bits/dim{given}"
    if entry.get("by_chain") is not None:
        of_bound = entry.get("stderr_by_chain")
        about = "" if of_bound is None else f" ± {of_bound:.4f}"
        value += f", bound of the chain {entry['by_chain']:.4f}{about} ({entry['chain_variance']} variances)"
    reused = f", {entry['reused']} of them there already" if entry["reused"] else ""
    source = f" of {entry['source']}" if entry.get("source") else ""
    known = entry.get("stderr_solver")
    unit = "nats" if entry["bits_per_dim"] is None else "bits/dim"
    corrected = ", corrected" if entry.get("corrected") else ""
    solver = "" if known is None else f" (error of the solver {known:.1g} {unit})"
    return (
        f"{entry['split']}{source}: {value}, n = {entry['n']}{reused}, {entry['divergence']}{corrected}, "
        f"tol {entry['tol']:.2g} nats{solver}, NFE {entry['nfe']:.0f}, {entry['seconds']:.1f} s"
    )


def _chain_line(entry: LikelihoodEntry, value: str) -> str:
    """The line of the bound of a discrete chain, also in bits for a whole sample, as Sohl-Dickstein et al. (2015)."""
    ratio = entry["nats"] / (-math.log(2) * (entry["bits_per_dim"] or math.nan))  # dimensions of a sample
    error = "" if entry["stderr"] is None else f" ± {entry['stderr'] * ratio:.3f}"
    reused = f", {entry['reused']} of them there already" if entry["reused"] else ""
    source = f" of {entry['source']}" if entry.get("source") else ""
    return (
        f"{entry['split']}{source}: {value}, {entry['nats'] / math.log(2):.3f}{error} bits a sample (lower bound of "
        f"{entry['chain']}), n = {entry['n']}{reused}, NFE {entry['nfe']:.0f}, {entry['seconds']:.1f} s"
    )


def metric_lines(entry: SamplesEntry, reference: Mapping[str, MetricEntry]) -> list[str]:
    against = f"of {entry['source']}" if entry.get("source") else "held-out"
    against += f", by {entry['features']}" if entry.get("features") else ""
    exact = f"{'exact samples':>16}" if any("expected" in metric for metric in entry["metrics"].values()) else ""
    lines = [f"{'':<22}{'samples':>20}{'training data':>20}{exact}   (against {_count(entry)} {against})"]
    for name, metric in entry["metrics"].items():
        other = reference.get(name)
        line = f"  {name:<20}{metric['value']:>12.4g} ± {metric['stderr']:<6.2g}"
        line += f"{other['value']:>11.4g} ± {other['stderr']:<6.2g}" if other else ""
        lines.append(f"{line:<63}{metric['expected']:>11.4g}" if "expected" in metric else line)
    if every := entry.get("by_class"):
        listed = ", ".join(f"{name} {found['value']:.3g} ± {found['stderr']:.2g}" for name, found in every.items())
        lines.append(f"  labels right by class: {listed}")
    lines += _class_lines(entry.get("classes") or {})
    return lines


_BY_CLASS = ("frechet_distance", "sliced_wasserstein", "precision", "recall", "coverage")


def _class_lines(classes: Mapping[str, Any]) -> list[str]:
    """A line for each class: its number of samples, and the measures that say most, with training data's first."""
    if not classes:
        return []
    lines = [f"  {'by class':<14}{'n':>5}{'Fréchet, training':>20}" + "".join(f"{name:>21}" for name in _BY_CLASS)]
    for name, entry in classes.items():
        found = (entry["reference"]["frechet_distance"], *(entry["metrics"][key] for key in _BY_CLASS))
        cells = [f"{each['value']:.3g} ± {each['stderr']:.2g}" for each in found]
        lines.append(f"  {name[:14]:<14}{entry['n']:>5}{cells[0]:>20}" + "".join(f"{cell:>21}" for cell in cells[1:]))
    return lines


def accuracy_lines(entry: Mapping[str, Any]) -> list[str]:
    """The accuracy of a classifier of noised samples, in the mean and at each noise level."""
    lines = []
    for title, name in (("accuracy", "held_out"), ("", "train")):
        side = entry[name]
        mean, nats = side["mean_accuracy"], side["mean_cross_entropy"]
        what = "held-out" if name == "held_out" else "training"
        lines.append(
            f"{title:<12}{mean['value']:.3f} ± {mean['stderr']:.3f} of {mean['n']} {what} samples in the mean over "
            f"noise levels, cross-entropy {nats['value']:.3f} ± {nats['stderr']:.3f} nats"
        )
    side = entry["held_out"]
    levels = zip(side["log_snr"], side["accuracy"], side["accuracy_stderr"], strict=True)
    listed = [f"{math.exp(-level):.2g}: {share:.2f} ± {error:.2f}" for level, share, error in reversed(list(levels))]
    return [*lines, f"{'':<12}held-out by σ/α: {', '.join(listed)}"]


def _count(entry: SamplesEntry) -> int:
    return next(iter(entry["metrics"].values()))["n"]


def print_summary(run: Any, seconds: float) -> None:
    """Print the figures of a run that has been trained, and keep them in the log of a sweep's job."""
    summary: Summary = run.summary()
    training = summary.training
    print()
    _tell(str(run.directory))
    _tell(
        f"training    {training['steps']} steps in {training['seconds']:.0f} s, "
        f"{summary['parameters']:,} parameters, {training['skipped']} steps skipped"
    )
    for title, likelihood in (("likelihood", summary.likelihood), ("", summary.likelihood_train)):
        if likelihood:
            _tell(f"{title:<12}{likelihood_line(likelihood)}")
    if summary.classifier:
        for line in accuracy_lines(summary.classifier):
            _tell(line)
    if entry := summary.samples:
        _tell(f"samples     {entry['n']} by {entry['sampler']}, NFE {entry['nfe']}, {entry['seconds']:.1f} s")
        if "metrics" in entry:
            for line in metric_lines(entry, summary.reference):
                _tell(f"            {line}")
    if further := summary.further():
        _tell(f"further     {', '.join(further)}: of other settings or an earlier step, see the report")
    if (run.directory / "samples").is_dir():
        _tell(f"pictures    {run.directory / 'samples'}")
    _tell(f"report      {run.directory / 'report.html'}   ({seconds:.0f} s in all)")


def _tell(line: str) -> None:
    print(line)
    note(line)
