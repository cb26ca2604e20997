"""Sweeps: many jobs of one command.

A sweep has a directory with `jobs/NNN.json` and `jobs/NNN.log` for every job, written by whichever process ran it: how
it ended, where its run is, and what it said. From these the command tells at the end what failed, whatever launcher
was used, and `scoresde report` makes its page. Runs themselves lie where those of `scoresde train` do, named by their
configuration, so that a sweep which is repeated finds what is finished and goes on with what is not.
"""

import itertools
import json
import logging
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from scoresde.cli.console import UsageError, print_table
from scoresde.cli.overrides import is_sweep, parsed
from scoresde.cli.spaces import MOST_JOBS
from scoresde.progress import log_beside_bars
from scoresde.shell import override
from scoresde.training.interruptions import Stopped, is_stopping

__all__ = [
    "Outcome",
    "announce",
    "at_work",
    "check_sweep",
    "conclude",
    "expand_repeats",
    "make_directory",
    "none_began",
    "note_lost",
    "note_run",
    "read_jobs",
    "requeue",
    "run_job",
    "started_again",
    "unfinished",
]


@dataclass(frozen=True)
class Outcome:
    """What a job has to tell.

    Attributes:
        runs: its run directories.
        value: what a sweeper optimises; None where the command has no such thing.
        unit: of the value.
        skipped: nothing was left to do.
    """

    runs: list[Path] = field(default_factory=list)
    value: float | None = None
    unit: str = ""
    skipped: bool = False


# -- before ---------------------------------------------------------------------------------------------


def expand_repeats(command: str, arguments: Sequence[str]) -> list[str]:
    """`repeats=n` as a sweep over n seeds; where a sweeper chooses configurations itself, a job has the repeats.

    Raises:
        UsageError: not a whole number, or seeds that are swept over besides.
    """
    overrides = {o.key_or_group: o for o in parsed(arguments)}
    given = overrides.get("repeats")
    if command != "train" or given is None or given.is_sweep_override():
        if given is not None and given.is_sweep_override():
            raise UsageError(f"{given.input_line!r}: expected one number of repeats")
        return list(arguments)
    count = given.value()
    if "run" in overrides:
        raise UsageError(f"{given.input_line!r} is of new runs: leave out run")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise UsageError(f"repeats is {count!r}, expected a whole number of at least 1")
    if count > MOST_JOBS:
        raise UsageError(f"repeats is {count}, the limit is {MOST_JOBS:,}: give fewer")
    sweeper = overrides.get("hydra/sweeper")
    if count == 1 or (sweeper is not None and sweeper.value() != "basic"):
        return list(arguments)
    seed = overrides.get("training.seed")
    first = 0
    if seed is not None:
        value = seed.value()
        if not isinstance(value, int) or isinstance(value, bool):
            raise UsageError(
                f"{seed.input_line!r} with repeats={count}: give one seed, the first, or leave out repeats"
            )
        first = value
    dropped = {o.input_line for o in (given, seed) if o is not None}
    rest = [a for a in arguments if a not in dropped]
    flags = [] if is_sweep(rest) else ["--multirun"]
    return [*flags, *rest, f"training.seed={','.join(str(first + i) for i in range(count))}"]


def requeue(arguments: Sequence[str]) -> list[str]:
    """Have submitit's jobs started again after their time is over, as often as it takes: they go on from a checkpoint.

    What is given stays as it is. On this machine, where nothing waits in a queue, jobs have a month.
    """
    overrides = {o.key_or_group: o for o in parsed(arguments)}
    launcher = overrides.get("hydra/launcher")
    key, value = {
        "submitit_slurm": ("hydra.launcher.max_num_timeout", 1000),
        "submitit_local": ("hydra.launcher.timeout_min", 30 * 24 * 60),
    }.get("" if launcher is None else str(launcher.value()), ("", 0))
    return [*arguments, f"{key}={value}"] if key and key not in overrides else list(arguments)


def make_directory(arguments: Sequence[str]) -> tuple[list[str], Path, FileLock]:
    """Make a sweep's directory, and lock it while the sweep runs.

    Returns:
        The arguments with the directory among them, the directory, and its lock, which the caller releases.

    Raises:
        UsageError: a directory whose name is not plain, or that another sweep is using.
    """
    values = {o.key_or_group: o.value() for o in parsed(arguments) if not o.is_sweep_override()}
    given = values.get("hydra.sweep.dir")
    if given is not None:
        directory = Path(str(given))
        if "${" in str(given):
            raise UsageError(f"hydra.sweep.dir is {given}, expected a plain path")
        directory.mkdir(parents=True, exist_ok=True)
        lock = _lock(directory)
        # Of an earlier sweep; whatever else lies there is not the sweep's to remove.
        for file in (directory / "jobs").glob("*"):
            if re.fullmatch(r"\d{3,}\.(json|log)", file.name):
                file.unlink()
        return list(arguments), directory, lock
    root = Path(str(values.get("runs", "runs"))) / "sweeps"
    root.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in itertools.count(1):
        directory = root / (stamp if number == 1 else f"{stamp}-{number}")
        with suppress(FileExistsError):
            directory.mkdir()
            break
    return [*arguments, override("hydra.sweep.dir", directory)], directory, _lock(directory)


def _lock(directory: Path) -> FileLock:
    lock = FileLock(directory / "sweep.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(f"{directory} is in use by another sweep: let it end first, or give another folder") from error
    return lock


def check_sweep(command: str, arguments: Sequence[str]) -> None:
    """Refuse what makes no sense for several jobs, or for one alone.

    Raises:
        UsageError: saying what to change.
    """
    overrides = parsed(arguments)
    if not is_sweep(arguments):
        for o in overrides:
            if o.key_or_group in ("hydra/launcher", "hydra/sweeper") and o.value() != "basic":
                raise UsageError(f"{o.input_line} is for several jobs: add --multirun")
        return
    if {"--cfg", "-c"} & set(arguments):
        raise UsageError("--cfg shows the configuration of one job: leave out --multirun, and lists of choices")
    for o in overrides:
        if o.key_or_group == "name" and not o.is_sweep_override() and o.value() is not None:
            raise UsageError(f"{o.input_line} would be the name of every job: leave it out, each gets one of its own")


def announce(sweep: Path, jobs: Sequence[list[str]]) -> None:
    """Write down the jobs of a sweep, given by their overrides, before the first begins."""
    for number, overrides in enumerate(jobs):
        record = _Record(sweep, number, overrides)
        # Not synced, as the others are: there may be thousands, and each is written again.
        record.path(".json").write_text(json.dumps(record.entry("waiting"), indent=1))


# -- a job ----------------------------------------------------------------------------------------------


def run_job(
    task: Callable[[DictConfig], Outcome | None],
    config: DictConfig,
    explanation: Callable[[Exception], str | None],
    said: bool = True,
) -> float | None:
    """Run one job of a sweep and write down how it ended; the value for the sweeper, None if it failed.

    That it begins is `said`, with its overrides.

    No exception leaves it: Hydra's sweeper would give up the others, and a launcher's process could lose it.
    """
    from scoresde.training.loop import Interrupted

    cfg = HydraConfig.get()
    global _current
    # The job may have been moved to another directory than the one that the sweep's is relative to.
    record = _current = _Record(Path(cfg.runtime.cwd, cfg.sweep.dir), cfg.job.num, list(cfg.overrides.task))
    record.take_up()
    if is_stopping() or (config.get("fail_fast", False) and record.others_failed()):
        record.write("not started")
        return None
    if said:
        print(f"job {record.number}: {' '.join(record.overrides)}", flush=True)
    with record.log():
        record.write("running")
        try:
            outcome = task(config) or Outcome([Path(str(config.run))] if config.get("run") else [])
        except (Interrupted, KeyboardInterrupt) as stop:
            signum = stop.signum if isinstance(stop, Interrupted | Stopped) else signal.SIGINT
            where = f" at step {stop.step}, with a checkpoint" if isinstance(stop, Interrupted) else ""
            record.write("interrupted", run=config.get("run"), error=f"interrupted{where}")
            sys.exit(128 + signum)
        except SystemExit:  # of a launcher's handler of a signal, which may have it started again
            record.write("interrupted", run=config.get("run"), error="stopped before it was finished")
            raise
        except Exception as error:
            text = explanation(error) or f"{type(error).__name__}: {' '.join(str(error).split())}"
            with record.path(".log").open("a", encoding="utf-8") as file:
                traceback.print_exc(file=file)
            record.write("failed", run=config.get("run"), error=text)
            print(f"scoresde: job {record.number}: {text}", file=sys.stderr)
            return None
    record.write("skipped" if outcome.skipped else "finished", outcome=outcome)
    return outcome.value


_current: "_Record | None" = None


def note_run(run: Path) -> None:
    """Write down which run the job of a sweep is about, for the case that its process is killed."""
    if _current is not None:
        _current.write("running", run=str(run))


def started_again() -> bool:
    """Whether a launcher has started the job that this process is at before."""
    return _current is not None and _current.again


def note_lost(sweep: Path, number: int, reason: str, log: Path) -> None:
    """Write down that a job has ended, as its launcher knows, where it could not do so itself."""
    path = sweep / "jobs" / f"{number:03d}.json"
    job = _read_job(path) if path.is_file() else _blank(path) | {"status": "waiting"}
    if job["status"] == "running":
        job.update(status="killed", error=_KILLED)
    elif job["status"] == "waiting":
        place = Path(os.path.relpath(log, path.parent)).as_posix() if log.is_file() else None
        job.update(status="failed", error=f"it ended before it began: {reason}", log=place)
    else:
        return
    _write(path, json.dumps(job, indent=1).encode())


class _Record:
    """The file of a job."""

    def __init__(self, sweep: Path, number: int, overrides: list[str]) -> None:
        self.sweep, self.number, self.overrides = sweep, number, overrides
        self.path("").parent.mkdir(parents=True, exist_ok=True)
        self.began, self.again = time.time(), False

    def take_up(self) -> None:
        """Go on with the record of this job if a launcher has started it before, and ended it for the time it took."""
        if self.path(".json").is_file():
            before = _read_job(self.path(".json"))
            self.again = before["status"] in ("running", "interrupted")
            self.began -= before["seconds"]

    def path(self, suffix: str) -> Path:
        return self.sweep / "jobs" / f"{self.number:03d}{suffix}"

    def others_failed(self) -> bool:
        from scoresde.config.jobs import settled

        return any(settled(job)["status"] in ("failed", "killed") for job in read_jobs(self.sweep))

    def write(
        self, status: str, run: str | None = None, error: str | None = None, outcome: Outcome | None = None
    ) -> None:
        _write(self.path(".json"), json.dumps(self.entry(status, run, error, outcome), indent=1).encode())

    def entry(
        self, status: str, run: str | None = None, error: str | None = None, outcome: Outcome | None = None
    ) -> dict[str, Any]:
        from scoresde.config.jobs import this_process

        runs = outcome.runs if outcome is not None else [Path(run)] if run else []
        return {
            "number": self.number,
            "overrides": self.overrides,
            "status": status,
            "run": self._relative(runs[0]) if runs else None,
            "runs": [self._relative(path) for path in runs],
            "error": error,
            "log": self.path(".log").name if self.path(".log").is_file() else None,
            "seconds": time.time() - self.began,
            "value": None if outcome is None else outcome.value,
            "unit": "" if outcome is None else outcome.unit,
            "process": this_process(),
        }

    def _relative(self, run: Path) -> str:
        # So that a folder of runs can be moved as a whole.
        return Path(os.path.relpath(run, self.sweep)).as_posix()

    @contextmanager
    def log(self) -> Iterator[None]:
        """Keep what the job logs, too."""
        handler = logging.FileHandler(self.path(".log"), encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logging.getLogger("scoresde").addHandler(handler)
        log_beside_bars(handler)
        try:
            yield
        finally:
            logging.getLogger("scoresde").removeHandler(handler)
            log_beside_bars(handler, add=False)
            handler.close()


def _write(path: Path, content: bytes) -> None:
    from scoresde.storage.files import write_atomically

    write_atomically(path, lambda file: file.write(content))


def read_jobs(sweep: Path) -> list[dict[str, Any]]:
    """What the jobs of a sweep have written, by number."""
    return [_read_job(path) for path in sorted((sweep / "jobs").glob("[0-9]*.json"), key=_place)]


def _place(path: Path) -> tuple[int, str]:
    """999 before 1000."""
    return len(path.stem), path.stem


def _blank(path: Path) -> dict[str, Any]:
    """The record of a failed job of which nothing but the number is known."""
    blank = {"number": 0, "overrides": [], "status": "failed", "run": None, "runs": [], "error": None, "log": None}
    number = int(path.stem) if path.stem.isdecimal() else 0
    return blank | {"number": number, "seconds": 0.0, "value": None, "unit": "", "process": None}


def _read_job(path: Path) -> dict[str, Any]:
    """The record of a job; one that is damaged is of a failed job."""
    from scoresde.storage.bounded import CheckpointError, read_json

    blank = _blank(path)
    try:
        job = read_json(path, dict)
    except CheckpointError as error:
        return blank | {"error": str(error)}
    if blank.keys() - {"process"} <= job.keys():  # earlier versions did not say which process
        return blank | job
    return blank | {"error": f"{path} is no record of a job"}


def at_work(sweep: Path) -> list[int]:
    """The numbers of the processes of this machine that are at a job."""
    from scoresde.config.jobs import has_ended

    running = [job["process"] for job in read_jobs(sweep) if job["status"] == "running"]
    return [process["pid"] for process in running if has_ended(process) is False]


def none_began(sweep: Path) -> bool:
    """Whether all jobs are still to begin."""
    return all(job["status"] == "waiting" for job in read_jobs(sweep))


# -- after ----------------------------------------------------------------------------------------------


def conclude(
    sweep: Path, status: int, asked: int | None = None, hint: str = "", deaths: Sequence[set[int]] = ()
) -> int:
    """Say how the jobs of a sweep ended.

    Args:
        sweep: its directory.
        status: with which the launcher ended.
        asked: number of jobs that were asked for, where it is known.
        hint: what to say if they are not all finished.
        deaths: the numbers of processes that have ended, in their order.

    Returns:
        The status to exit with: 0 if every job is finished.
    """
    from scoresde.storage.bounded_yaml import read_yaml

    jobs = read_jobs(sweep)
    if not jobs:
        return status
    _close(sweep, jobs, status, deaths)
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
    print()
    print_table(["job", "overrides", "status", "time", *([unit] if unit else []), "run"], rows)
    done = sum(job["status"] in ("finished", "skipped") for job in jobs)
    asked = max(asked or 0, len(jobs))
    print(f"\n{done} of {asked} jobs finished: {sweep}")
    results = sweep / "optimization_results.yaml"  # written by Optuna's sweeper
    if results.is_file():
        best = read_yaml(results)
        if "best_value" in best:
            found = " ".join(f"{key}={value}" for key, value in best["best_params"].items())
            print(f"best: {best['best_value']:.6g} with {found}")
    for line in unfinished(sweep, jobs):
        print(f"scoresde: {line}", file=sys.stderr)
    if hint and (done < asked or status):
        print(hint, file=sys.stderr)
    _report(sweep, jobs)
    return status or int(done < asked)


_KILLED = "its process ended without a word, as when memory runs out"
# How jobs end that do not write it down themselves.
_SILENT = ("killed", "stopped")


def _close(sweep: Path, jobs: Sequence[dict[str, Any]], status: int, deaths: Sequence[set[int]]) -> None:
    """Bring records, and their files, up to date of jobs that could not do so, now that the launcher has ended."""
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
            job.update(status="killed", error=_KILLED)
        else:
            job.update(status="stopped", error="the launcher ends all its processes once one is gone")
        _write(sweep / "jobs" / f"{job['number']:03d}.json", json.dumps(job, indent=1).encode())


def _wait_for(processes: Sequence[Any]) -> None:
    """Wait for processes that are being ended by their launcher, but not for ever."""
    from scoresde.config.jobs import has_ended

    give_up = time.monotonic() + 5
    while any(has_ended(process) is False for process in processes) and time.monotonic() < give_up:
        time.sleep(0.05)


def unfinished(sweep: Path, jobs: Sequence[dict[str, Any]] | None = None) -> list[str]:
    """Lines about jobs without a result: one for each that failed, and one for all others of a kind.

    Args:
        sweep: its directory.
        jobs: their records; as they are now if not given.
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
    """A page about the runs of a sweep, if it has trained any."""
    if any(job["unit"] and job["status"] in ("finished", "skipped") for job in jobs):
        from scoresde.report import write_report

        print(f"report: {write_report(sweep)}")
