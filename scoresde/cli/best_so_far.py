"""The likelihoods of a sweep's jobs against that of the best, on the same samples.

A sweeper gets the mean of each job. All jobs are asked about the same samples with the same probes, so that their
values differ by much less than the standard error of each: what counts is the error of the difference.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scoresde.cli.jobs import read_jobs

if TYPE_CHECKING:
    from scoresde.report.paired import HeldOut

__all__ = ["against_best", "best_two"]


def against_best(sweep: Path, run: Path) -> str | None:
    """Whether a run is better than the best job that has ended, and by how much, in words.

    Args:
        sweep: Directory of the sweep.
        run: Directory of the run.

    Returns:
        The sentence; None without such a job, or one whose likelihoods are of other samples or settings.
    """
    others = [job for job in _ranked(sweep, read_jobs(sweep)) if _place(sweep, job) != run.resolve()]
    if not others:
        return None
    best = others[0]
    name, stored = f"job {best['number']}, the best so far,", _held_out(_place(sweep, best), best["value"])
    return _verdict((name, stored), ("this run", _held_out(run)))


def best_two(sweep: Path, jobs: Sequence[Mapping[str, Any]]) -> str | None:
    """Whether the best job of a sweep is better than the second, and by how much, in words; None as `against_best`."""
    ranked = _ranked(sweep, jobs)
    if len(ranked) < 2:
        return None
    first, second = ((f"job {job['number']}", _held_out(_place(sweep, job), job["value"])) for job in ranked[:2])
    return _verdict(first, second)


def _ranked(sweep: Path, jobs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The jobs about one run that have a likelihood, one for each run, the best first."""
    done = [
        job
        for job in jobs
        if job["status"] in ("finished", "skipped") and job["value"] is not None and len(job["runs"]) == 1
    ]
    # Training gives a sweeper, which minimises, nats with their sign changed.
    better = {"bits/dim": 1, "−nats": 1, "nats": -1}
    known = [(better[unit], job) for job in done if (unit := str(job["unit"]).split(" ")[0]) in better]
    ranked = [job for _, job in sorted(known, key=lambda pair: pair[0] * pair[1]["value"])]
    return list({_place(sweep, job): job for job in reversed(ranked)}.values())[::-1]


def _place(sweep: Path, job: Mapping[str, Any]) -> Path:
    return (sweep / str(job["runs"][0])).resolve()


def _held_out(run: Path, value: float | None = None) -> "HeldOut | None":
    """The held-out likelihoods of a run; None if they are not there, or their mean is not the value of its job."""
    from scoresde.report.paired import held_out
    from scoresde.report.reading import read_json

    stored = held_out(run, read_json(run, "summary.json", []) or {}, [])
    if stored is None or not stored.values or value is None:
        return stored
    mean = math.fsum(stored.values) / len(stored.values)
    return stored if math.isclose(abs(mean), abs(value), rel_tol=1e-6) else None


def _verdict(first: "tuple[str, HeldOut | None]", second: "tuple[str, HeldOut | None]") -> str | None:
    """Which of two is better, each with its name; None where their samples are no pairs."""
    from scoresde.report.paired import paired

    difference = paired(first[1], second[1])
    if difference is None or first[1] is None:
        return None
    unit = str(first[1].settings["unit"]).replace("_per_", "/")
    said = difference.verdict(first[0], second[0], unit, lower_is_better=unit == "bits/dim")
    return f"{said}, on the same {len(difference)} samples"
