"""Jobs of a sweep: a record and a log each, written by whichever process runs it.

A sweep's directory has `jobs/NNN.json` and `jobs/NNN.log` for every job: how it ended, where its run is, and what it
said. From these the command tells at the end what failed, whatever launcher was used, and `scoresde report` makes its
page.
"""

import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from scoresde.cli.settings import runs_of
from scoresde.progress import log_beside_bars
from scoresde.training.interruptions import Stopped, is_stopping
from scoresde.training.loggers import StopTraining

__all__ = [
    "KILLED",
    "Outcome",
    "announce",
    "at_work",
    "none_began",
    "note_lost",
    "note_run",
    "read_jobs",
    "run_job",
    "started_again",
    "sweep_directory",
    "write_job",
]

KILLED = "its process ended without a word, as when memory runs out"


@dataclass(frozen=True)
class Outcome:
    """Result of a job.

    Attributes:
        runs: Its run directories.
        value: Value that a sweeper optimises; None where the command has none.
        unit: Unit of the value.
        skipped: True if nothing was left to do.
    """

    runs: list[Path] = field(default_factory=list)
    value: float | None = None
    unit: str = ""
    skipped: bool = False


def announce(sweep: Path, jobs: Sequence[list[str]]) -> None:
    """Write down the jobs of a sweep, given by their overrides, before the first begins."""
    for number, overrides in enumerate(jobs):
        record = _Record(sweep, number, overrides)
        # Not synced, as the others are: there may be thousands, and each is written again.
        record.path(".json").write_text(json.dumps(record.entry("waiting"), indent=1))


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
    record = _current = _Record(sweep_directory(), cfg.job.num, list(cfg.overrides.task))
    record.take_up()
    if is_stopping() or (config.get("fail_fast", False) and record.others_failed()):
        record.write("not started")
        return None
    if said:
        print(f"job {record.number}: {' '.join(record.overrides)}", flush=True)
    with record.log():
        record.write("running")
        try:
            outcome = task(config) or Outcome([Path(run) for run in runs_of(config)])
        except (Interrupted, KeyboardInterrupt) as stop:
            signum = stop.signum if isinstance(stop, Interrupted | Stopped) else signal.SIGINT
            where = f" at step {stop.step}, with a checkpoint" if isinstance(stop, Interrupted) else ""
            record.write("interrupted", runs_of(config), error=f"interrupted{where}")
            sys.exit(128 + signum)
        except StopTraining as stop:
            record.write("pruned", runs_of(config), error=str(stop))
            print(f"job {record.number}: {stop}", flush=True)
            return None
        except SystemExit:  # of a launcher's handler of a signal, which may have it started again
            record.write("interrupted", runs_of(config), error="stopped before it was finished")
            raise
        except Exception as error:
            text = explanation(error) or f"{type(error).__name__}: {' '.join(str(error).split())}"
            with record.path(".log").open("a", encoding="utf-8") as file:
                traceback.print_exc(file=file)
            record.write("failed", runs_of(config), error=text)
            print(f"scoresde: job {record.number}: {text}", file=sys.stderr)
            return None
    record.write("skipped" if outcome.skipped else "finished", outcome=outcome)
    return outcome.value


def sweep_directory() -> Path:
    """Directory of the sweep whose job this process runs."""
    cfg = HydraConfig.get()
    # The job may have been moved to another directory than the one that the sweep's is relative to.
    return Path(cfg.runtime.cwd, cfg.sweep.dir)


_current: "_Record | None" = None


def note_run(run: Path) -> None:
    """Write down which run the job of a sweep is about, for the case that its process is killed."""
    if _current is not None:
        _current.write("running", [str(run)])


def started_again() -> bool:
    """True if a launcher has started this process's job before."""
    return _current is not None and _current.again


def note_lost(sweep: Path, number: int, reason: str, log: Path) -> None:
    """Write down that a job has ended, as its launcher knows, where it could not do so itself."""
    path = sweep / "jobs" / f"{number:03d}.json"
    job = _read_job(path) if path.is_file() else _blank(path) | {"status": "waiting"}
    if job["status"] == "running":
        job.update(status="killed", error=KILLED)
    elif job["status"] == "waiting":
        place = Path(os.path.relpath(log, path.parent)).as_posix() if log.is_file() else None
        job.update(status="failed", error=f"it ended before it began: {reason}", log=place)
    else:
        return
    write_job(path, job)


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
        self, status: str, runs: Sequence[str] = (), error: str | None = None, outcome: Outcome | None = None
    ) -> None:
        write_job(self.path(".json"), self.entry(status, runs, error, outcome))

    def entry(
        self, status: str, named: Sequence[str] = (), error: str | None = None, outcome: Outcome | None = None
    ) -> dict[str, Any]:
        from scoresde.config.jobs import this_process

        runs = outcome.runs if outcome is not None else list(map(Path, named))
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


def write_job(path: Path, job: dict[str, Any]) -> None:
    """Write the record of a job, whole or not at all."""
    from scoresde.storage.files import write_atomically

    content = json.dumps(job, indent=1).encode()
    write_atomically(path, lambda file: file.write(content))


def read_jobs(sweep: Path) -> list[dict[str, Any]]:
    """Records of the jobs of a sweep, by number."""
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
        job: dict[str, Any] = read_json(path, dict)
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
    """True if no job has begun."""
    return all(job["status"] == "waiting" for job in read_jobs(sweep))
