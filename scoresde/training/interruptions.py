"""Signals that ask the process to end, from a person, a terminal that closes or a batch system.

A command that has begun ends by an exception, `Stopped`, so that what it has written is complete; training ends after
the present step, with a checkpoint. A second SIGINT, from somebody who does not want to wait, ends at once. Other
signals come repeatedly by themselves, and a repetition changes nothing: SIGHUP from the terminal and from its shell,
SIGXCPU every second, SIGTERM from a launcher that has got a SIGINT with its processes.

A handler that somebody else has set is left in place, such as that by which submitit has a job requeued. Signals that
are ignored stay ignored, as SIGHUP is under `nohup`.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = [
    "SIGNALS",
    "Deferred",
    "Stopped",
    "deferred",
    "give_back",
    "is_stopping",
    "raise_stopped",
    "stopping",
    "take",
]

# Not every system has all of them.
SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)
)

Handler = Callable[[int, FrameType | None], Any]

_stopping: int | None = None


class Stopped(KeyboardInterrupt):
    """A signal has asked the process to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def stopping(signum: int | None) -> None:
    """Note that the process is ending because of a signal; None if it is not ending any more."""
    global _stopping
    _stopping = signum


def is_stopping() -> int | None:
    """The signal because of which the process is ending; None if it is not."""
    return _stopping


def raise_stopped(signum: int, frame: FrameType | None) -> None:
    """Handler of signals while a command is at work."""
    if _stopping is None or signum == signal.SIGINT:
        stopping(signum)
        raise Stopped(signum)


def take(handler: Handler, instead_of: Handler | None = None) -> dict[int, Any]:
    """Set the handler of the signals that would end the process, and of those that `instead_of` handles.

    Returns:
        The handlers before, for `give_back`; none outside the main thread, where Python delivers no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    replaced = (signal.SIG_DFL, signal.default_int_handler, instead_of)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: known for number, known in before.items() if known is not None and known in replaced}
    for number in before:
        signal.signal(number, handler)
    return before


def give_back(before: Mapping[int, Any]) -> None:
    """Restore handlers that `take` has replaced."""
    for number, handler in before.items():
        signal.signal(number, handler)


class Deferred:
    """Signals that have come, and the handlers of others that will be called for them."""

    def __init__(self) -> None:
        self.pending: list[int] = []
        self.before: dict[int, Any] = {}

    def keep(self, signum: int, frame: FrameType | None) -> None:
        """Handler of signals meanwhile: note the signal."""
        if self.pending and signum == signal.SIGINT:
            stopping(signum)
            raise Stopped(signum)
        if signum not in self.pending:
            self.pending.append(signum)

    def pass_on(self, signum: int) -> bool:
        """Call the handler that somebody else has set, such as a launcher's; True if there is one and it has returned.

        One that requeues the job raises SystemExit; one that lets the signal pass returns. Others that are pending and
        have such handlers follow.
        """
        if not self._is_foreign(signum):
            return False
        for number in [signum, *(n for n in self.pending if n != signum and self._is_foreign(n))]:
            self.pending = [n for n in self.pending if n != number]
            self.before[number](number, None)
        return True

    def _is_foreign(self, signum: int) -> bool:
        handler = self.before.get(signum)
        return signum != signal.SIGINT and callable(handler) and handler not in (signal.SIG_DFL, raise_stopped)


@contextmanager
def deferred() -> Iterator[Deferred]:
    """Only note signals that ask the process to end while the context lasts; a second SIGINT raises `Stopped`."""
    note = Deferred()
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in SIGNALS}
        # A shell has its background processes ignore SIGINT, by which they can still be stopped.
        note.before = {
            number: handler
            for number, handler in before.items()
            if handler is not None and (handler is not signal.SIG_IGN or number == signal.SIGINT)
        }
    for number in note.before:
        signal.signal(number, note.keep)
    try:
        yield note
    finally:
        give_back(note.before)
