"""Launchers of which a process is killed, for want of memory, say: which one it was, and waiting for the others."""

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import active_children
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

from scoresde.cli.jobs import at_work
from scoresde.cli.processes import interrupted, leave
from scoresde.training.interruptions import Stopped, give_back, is_stopping, stopping, take

__all__ = ["ending_in_order", "reason", "tended"]


@contextmanager
def tended(launcher: str, lost: Callable[[int, str, Path], None]) -> Iterator[list[set[int]]]:
    """Within, the death of a launcher's process is noted, and does not hide how the other jobs end.

    Args:
        launcher: Name of the launcher.
        lost: Called with the number of a job that submitit knows to have ended without a result, with its reason, and
            with the file of the job's stderr.

    Yields:
        The numbers of this process's children that have ended, in their order, growing.
    """
    deaths: list[set[int]] = []
    if launcher == "joblib":
        # Said by a process that tidies up after those that were killed.
        ignored = "ignore:resource_tracker:UserWarning"
        os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), ignored)))
        with _watching(deaths):
            yield deaths
    elif launcher.startswith("submitit"):
        with _waiting_for_all(lost):
            yield deaths
    else:
        yield deaths


@contextmanager
def ending_in_order(launcher: str, sweep: Path) -> Iterator[None]:
    """Within, a signal that asks this process to end has joblib's processes end first, with checkpoints.

    joblib would kill them. A second SIGINT does not wait for them. Jobs of Slurm do not end with this process, which is
    said.

    Args:
        launcher: Name of the launcher.
        sweep: The directory of the sweep.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        if is_stopping() is None:
            stopping(signum)
            # Processes that the terminal has signalled as well are ending; only SIGINT would hasten that.
            for number in at_work(sweep):
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGTERM)
            while at_work(sweep):
                time.sleep(0.1)
        elif signum != signal.SIGINT:
            return
        raise Stopped(signum)

    def go_away(signum: int, frame: FrameType | None) -> None:
        print(
            f"\nscoresde: {interrupted(signum)}: Slurm's jobs continue (scancel ends them), and scoresde report "
            f"{shlex.quote(str(sweep))} says how they do",
            file=sys.stderr,
            flush=True,
        )
        os._exit(128 + signum)

    handler = {"joblib": stop, "submitit_slurm": go_away}.get(launcher)
    before = {} if handler is None else take(handler, instead_of=leave)
    try:
        yield
    finally:
        give_back(before)


@contextmanager
def _watching(deaths: list[set[int]]) -> Iterator[None]:
    """Note the order in which children end.

    joblib kills all of its processes as soon as one has died, and afterwards each looks like the others.
    """
    over = threading.Event()

    def watch() -> None:
        known: dict[int, BaseProcess] = {}
        while not over.is_set():
            known |= {process.sentinel: process for process in active_children()}
            ended = [known.pop(sentinel) for sentinel in wait(known, timeout=0.2) if isinstance(sentinel, int)]
            if ended:
                deaths.append({process.pid for process in ended if process.pid is not None})
            elif not known:
                over.wait(0.2)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _waiting_for_all(lost: Callable[[int, str, Path], None]) -> Iterator[None]:
    """Let submitit's launchers wait for all jobs, though one of them ends without a result."""
    from submitit.core.core import Job
    from submitit.core.utils import FailedJobError, UncompletedJobError

    job_class: Any = Job
    original = job_class.results

    def results(job: Any) -> list[Any]:
        try:
            found: list[Any] = original(job)
            return found
        except (FailedJobError, UncompletedJobError) as error:
            number = job.submission().args[2]  # of the launcher's call
            # The last line of the traceback or of stderr, between lines of dashes, before where the logs are.
            lines = [line for line in str(error).partition("You can check")[0].splitlines() if line.strip(" -")]
            lost(number, lines[-1].strip(), job.paths.stderr)
            return [JobReturn(status=JobStatus.COMPLETED)]

    job_class.results = results
    try:
        yield
    finally:
        job_class.results = original


def reason(error: Exception) -> str:
    """Why a launcher gave up, in one line; libraries say much more."""
    return f"the launcher gave up: {type(error).__name__}: {' '.join(str(error).split()).partition('. ')[0]}"
