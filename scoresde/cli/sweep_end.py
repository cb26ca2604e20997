"""The end of a sweep: the outcome of its jobs, in a table and in their records."""

import itertools
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scoresde.cli.best_so_far import best_two
from scoresde.cli.console import print_table
from scoresde.cli.jobs import KILLED, read_jobs, write_job

__all__ = ["conclude", "unfinished"]

# Statuses of jobs that could not write down their end.
_SILENT = ("killed", "stopped")


def conclude(
    sweep: Path, status: int, asked: int | None = None, hint: str = "", deaths: Sequence[set[int]] = ()
) -> int:
    """Say how the jobs of a sweep ended.

    Args:
        sweep: Directory of the sweep.
        status: Exit status of the launcher.
        asked: Number of jobs that were asked for, None if unknown.
        hint: Line to print if not all jobs are finished.
        deaths: Process IDs of processes that have ended, in the order in which they did.

    Returns:
        The status to exit with: 0 if every job is finished.
    """
    jobs = read_jobs(sweep)
    if not jobs:
        return status
    _close(sweep, jobs, status, deaths)
    print()
    _print_jobs(sweep, jobs)
    done = sum(job["status"] in ("finished", "skipped", "pruned") for job in jobs)
    asked = max(asked or 0, len(jobs))
    print(f"\n{done} of {asked} jobs finished: {sweep}")
    _print_best(sweep / "optimization_results.yaml")  # written by Optuna's sweeper
    compared = best_two(sweep, jobs)
    if compared is not None:
        print(compared)
    for line in unfinished(sweep, jobs):
        print(f"scoresde: {line}", file=sys.stderr)
    if hint and (done < asked or status):
        print(hint, file=sys.stderr)
    _report(sweep, jobs)
    return status or int(done < asked)


def _print_jobs(sweep: Path, jobs: Sequence[dict[str, Any]]) -> None:
    """A table of jobs, with the overrides in which they differ."""
    common = set.intersection(*(set(job["overrides"]) for job in jobs))
    unit = next((job["unit"] for job in jobs if job["unit"]), "")
    rows = [
        [
            str(job["number"]),
            " ".join(o for o in job["overrides"] if o not in common) or "–",
            job["status"],
            # A job that could not write down its end has not written when it was.
            "–" if job["status"] in (*_SILENT, "not started", "running") else f"{job['seconds']:.0f} s",
            *(["–" if job["value"] is None else f"{job['value']:.4g}"] if unit else []),
            os.path.normpath(sweep / job["run"]) if job["run"] and (sweep / job["run"]).is_dir() else "–",
        ]
        for job in jobs
    ]
    print_table(["job", "overrides", "status", "time", *([unit] if unit else []), "run"], rows)


def _print_best(results: Path) -> None:
    from scoresde.storage.bounded_yaml import read_yaml

    if results.is_file():
        best = read_yaml(results)
        if "best_value" in best:
            found = " ".join(f"{key}={value}" for key, value in best["best_params"].items())
            print(f"best: {best['best_value']:.6g} with {found}")


def _close(sweep: Path, jobs: Sequence[dict[str, Any]], status: int, deaths: Sequence[set[int]]) -> None:
    """Bring the records of jobs that could not do so up to date, now that the launcher has ended."""
    from scoresde.config.jobs import has_ended

    running = [job for job in jobs if job["status"] == "running"]
    if status < 128:
        _wait_for([job.get("process") for job in running])
    numbers = {process["pid"] for job in running if isinstance(process := job.get("process"), dict)}
    first = next((some & numbers for some in deaths if some & numbers), numbers)
    for job in jobs:
        process = job.get("process")
        ended = has_ended(process)
        if job["status"] == "waiting":
            job.update(status="not started", error="the sweep ended before its turn")
        elif job["status"] != "running":
            continue
        elif status >= 128:
            job.update(status="interrupted", error="interrupted")
            if not ended:  # it may still say more
                continue
        elif not ended and isinstance(process, dict):
            continue
        elif not isinstance(process, dict) or process["pid"] in first:
            job.update(status="killed", error=KILLED)
        else:
            job.update(status="stopped", error="the launcher ends all its processes once one is gone")
        write_job(sweep / "jobs" / f"{job['number']:03d}.json", job)


def _wait_for(processes: Sequence[Any]) -> None:
    """Wait for processes that are being ended by their launcher, but not for ever."""
    from scoresde.config.jobs import has_ended

    give_up = time.monotonic() + 5
    while any(has_ended(process) is False for process in processes) and time.monotonic() < give_up:
        time.sleep(0.05)


def unfinished(sweep: Path, jobs: Sequence[dict[str, Any]] | None = None) -> list[str]:
    """Lines about jobs without a result: one for each that failed, and one for all others of a kind.

    Args:
        sweep: Directory of the sweep.
        jobs: Records of the jobs; read from the directory if not given.
    """
    from scoresde.config.jobs import settled

    if jobs is None:
        jobs = [settled(job) for job in read_jobs(sweep)]
    lines = []
    for job in jobs:
        if job["status"] in ("failed", "killed"):
            log = f" ({os.path.normpath(sweep / 'jobs' / job['log'])})" if job["log"] else ""
            lines.append(f"job {job['number']} {job['status']}: {job['error']}{log}")
    for status in ("stopped", "interrupted", "running", "waiting", "not started"):
        alike = [job for job in jobs if job["status"] == status]
        if alike:
            why = {job["error"] for job in alike if job["error"]}
            reason = f": {why.pop()}" if len(why) == 1 else ""
            lines.append(f"job{'s' * (len(alike) > 1)} {_ranges([job['number'] for job in alike])} {status}{reason}")
    return lines


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers in order, neighbours as a range: 0, 2-5."""
    groups = itertools.groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0])
    runs = [[number for _, number in group] for _, group in groups]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _report(sweep: Path, jobs: Sequence[dict[str, Any]]) -> None:
    """Write a page about the runs of a sweep, if it has trained any."""
    if any(job["unit"] and job["status"] in ("finished", "skipped") for job in jobs):
        from scoresde.report import write_report

        print(f"report: {write_report(sweep)}")
