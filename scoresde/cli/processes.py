"""Several processes of one command, as torchrun, accelerate and MPI start them: who prints, and who is gone."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from scoresde.training.interruptions import give_back, raise_stopped, stopping, take

__all__ = [
    "SHARED",
    "in_team",
    "interrupted",
    "interruptible",
    "leave",
    "leave_at_once",
    "lost",
    "rank",
    "wait_for_first",
    "world_size",
]

# Commands whose work the processes share; others are done by the first alone.
SHARED = ("train", "sample", "restore", "likelihood", "information", "compare", "certify", "evaluate", "tune")
# Environment variables that Accelerate reads.
_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_SIZE = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def _from_environment(names: tuple[str, ...], default: int) -> int:
    return next((int(os.environ[n]) for n in names if os.environ.get(n, "").isdecimal()), default)


def rank() -> int:
    """The number of this process, from 0."""
    return _from_environment(_RANK, 0)


def world_size() -> int:
    """The number of processes."""
    return _from_environment(_SIZE, 1)


def wait_for_first(status: int) -> NoReturn:
    """Exit with a status that the first process has, too, without repeating what it says.

    A launcher ends all processes once one has failed, so this one fails later.
    """
    time.sleep(5)
    sys.exit(status)


def lost(error: BaseException, kept: str = "the newest checkpoint is kept") -> str | None:
    """The message about an error of communication: which process is gone.

    Args:
        error: The error.
        kept: What is left of the work, in words.

    A launcher that sees a process gone sends the others SIGTERM, which may interrupt the handling of that error.

    Returns:
        None for another error, or if there is one process. An empty text in all processes but one of those left.
    """
    if world_size() == 1:
        return None
    while isinstance(error, KeyboardInterrupt) and error.__context__ is not None:
        error = error.__context__
    import torch.distributed as dist

    if not isinstance(error, RuntimeError) or not dist.is_available() or not dist.is_initialized():
        return None
    signs = ("gloo", "nccl", "connection", "socket", "peer", "store")
    if not isinstance(error, dist.DistError) and not any(sign in str(error).lower() for sign in signs):
        return None
    with suppress(ValueError):  # the launcher's, which has seen it, too: this process ends by itself
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    own, ranks = dist.get_rank(), range(dist.get_world_size())
    try:
        # A roll-call: whoever does not answer in time is gone.
        store = dist.PrefixStore("scoresde-alive", dist.distributed_c10d._get_default_store())  # type: ignore[attr-defined]
        store.set(str(own), "here")
        time.sleep(1)
        left = [r for r in ranks if r == own or store.check([str(r)])]
    except RuntimeError:  # the first process keeps the store, unless a launcher does
        left = [own]
    gone = ", ".join(str(r) for r in ranks if r not in left)
    if own != left[0]:
        return ""
    if not gone:
        return f"the processes lost their connection: {' '.join(str(error).split())[:120]}"
    return f"process {gone} of {len(ranks)} has ended, so the others end, too: {kept}"


def in_team(task: Callable[[Any], Any], config: Any) -> Any:
    """Run a command by all processes: the first does it, and the others compute what it hands out.

    Raises:
        ValueError: A device for all of them.
    """
    from scoresde.runs.team import leading, serve
    from scoresde.training.environment import processes

    state = processes(config.get("device"))
    if state.is_main_process:
        with leading(state):
            return task(config)
    if status := serve(state):
        wait_for_first(status)
    return None


# -- interruptions before the work begins ---------------------------------------------------------------


@contextmanager
def leave_at_once() -> Iterator[None]:
    """Within, a signal that asks the process to end does so at once, with status 128 + n and without a traceback.

    For the time of imports, in which an exception can come out of any library as another. Until `interruptible` is
    called, as there is work to be ended in order.
    """
    stopping(None)
    before = take(leave)
    try:
        yield
    finally:
        give_back(before)


def interruptible() -> None:
    """From now on such a signal is an exception, `Stopped`."""
    take(raise_stopped, instead_of=leave)


def leave(signum: int, frame: FrameType | None) -> None:
    """The handler that ends the process at once."""
    with suppress(OSError, RuntimeError):  # nobody reads, or the signal came as something was being printed
        if rank() == 0:
            print(f"\nscoresde: {interrupted(signum)}", file=sys.stderr, flush=True)
    os._exit(128 + signum)


def interrupted(signum: int) -> str:
    """A signal in the words of messages."""
    return "interrupted" + ("" if signum == signal.SIGINT else f" by {signal.Signals(signum).name}")
