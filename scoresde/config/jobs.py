"""Jobs of a sweep whose process could not write down how it ended."""

import os
import socket
from typing import Any

__all__ = ["has_ended", "settled", "this_process"]


def this_process() -> dict[str, Any]:
    """The number, the host and the beginning of this process, which tell it from any other: numbers are used again."""
    import psutil

    return {"pid": os.getpid(), "host": socket.gethostname(), "began": psutil.Process().create_time()}


def has_ended(process: Any) -> bool | None:
    """True if a process described by `this_process` has ended; None if that cannot be determined here."""
    import psutil

    if not isinstance(process, dict) or process.get("host") != socket.gethostname():
        return None
    try:
        found = psutil.Process(int(process["pid"]))
        same = abs(found.create_time() - float(process["began"])) < 2  # a clock that is set moves all such times
        return not same or found.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def settled(job: dict[str, Any]) -> dict[str, Any]:
    """The record of a job with the status that it has now: killed if the process that was to change it is gone."""
    if job["status"] not in ("waiting", "running"):
        return job
    process = job.get("process")
    ended = has_ended(process)
    if ended is None and isinstance(process, dict) and job["status"] == "running":
        return {**job, "error": f"on {process.get('host')}: whether it still runs cannot be seen from here"}
    if not ended:
        return job
    if job["status"] == "waiting":
        return {**job, "status": "not started", "error": "the sweep ended before its turn"}
    return {**job, "status": "killed", "error": "its process ended without a word, as when memory runs out"}
