"""Progress of long computations: a bar on a terminal and in a notebook, lines in a log file and elsewhere.

A bar rewrites its line, which fills a file with carriage returns and is of no use to `grep`. So if standard error is no
terminal, or one that cannot move its cursor, progress is reported in lines that can each be read alone.
"""

import logging
import os
import sys
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

__all__ = ["Progress", "duration", "log_beside_bars", "note", "say", "show"]

_log = logging.getLogger(__name__)
# A bar on the terminal makes lines superfluous there; the log of a sweep's job has them.
_beside = logging.getLogger(f"{__name__}.beside")
_beside.propagate = False

_FIRST = 10.0  # seconds until the first line
_EVERY = 30.0  # seconds between later lines

_bars = True
_prefix = ""


def show(bars: bool, prefix: str = "") -> None:
    """Set how progress is shown in this process.

    Args:
        bars: Show bars where they are possible; lines everywhere if not.
        prefix: Beginning of every line, for one of several jobs that share a terminal or a file.
    """
    global _bars, _prefix
    _bars, _prefix = bars, prefix


def log_beside_bars(handler: logging.Handler, add: bool = True) -> None:
    """Add a handler that gets the lines even while a bar is on the terminal, or remove it."""
    (_beside.addHandler if add else _beside.removeHandler)(handler)


def note(text: str) -> None:
    """Write a line that is shown elsewhere to the logs that get lines beside bars."""
    _beside.info("%s", _prefix + text)


def say(text: str) -> None:
    """Print a line on standard error: by this package's log if it takes messages of level INFO."""
    if _log.isEnabledFor(logging.INFO):
        _log.info("%s", _prefix + text)
    elif sys.stderr is not None:
        with suppress(OSError, ValueError):  # it is closed, or its reader is gone
            print(_prefix + text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds as hours, minutes and seconds: 0:01:30."""
    return str(timedelta(seconds=round(seconds)))


class Progress:
    """The progress of a number of steps; a context manager.

    Without a bar there is a line after 10 s and then every 30 s, in addition to those of `line`. No device is waited
    for.

    Args:
        total: Number of steps.
        what: Name of the computation, such as "sampling".
        unit: Name of one step.
        done: Number of steps that are already done.
        shown: Whether anything is shown.
    """

    def __init__(self, total: int, what: str, unit: str, done: int = 0, shown: bool = True) -> None:
        self.total, self.what, self.unit, self.done = total, what, unit, done
        self.shown, self._initial, self._note = shown, done, ""
        self._began = time.perf_counter()
        self._next = self._began + _FIRST
        self._told, self._last = False, done
        self._bar: Any = None
        if shown and _bars and _has_bars():
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, initial=done, desc=what, unit=unit, **_size())

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._told and kind is None and self._last != self.done:
            self._tell()

    def update(self, count: int = 1) -> None:
        """Count `count` more steps as done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        if self.shown and time.perf_counter() >= self._next:
            self._tell()
            self._told = True

    def note(self, text: str) -> None:
        """Show a text after the figures."""
        self._note = text
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def line(self, text: str) -> None:
        """Report the progress now, with a text after it; if there is a bar, only in the log of a job."""
        if self.shown:
            self._tell(text)

    def left(self) -> float | None:
        """Seconds until all is done, at the rate so far; None before the first step."""
        steps = self.done - self._initial
        return (self.total - self.done) * (time.perf_counter() - self._began) / steps if steps > 0 else None

    def _tell(self, text: str | None = None) -> None:
        now, left = time.perf_counter(), self.left()
        self._next, self._last = now + _EVERY, self.done
        parts = [f"{self.what}: {self.unit} {self.done}/{self.total}", self._note if text is None else text]
        if self.done < self.total and left is not None:
            parts.append(f"{duration(left)} left")
        elif self.done >= self.total:
            parts.append(f"done in {duration(now - self._began)}")
        text = ", ".join(filter(None, parts))
        if self._bar is None:
            say(text)
        else:
            note(text)


def _has_bars() -> bool:
    """True if standard error can rewrite a line: it is a notebook, or a terminal that moves its cursor."""
    if _in_notebook():
        return True
    terminal = sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()
    return terminal and os.environ.get("TERM") != "dumb"


def _size() -> dict[str, Any]:
    """Size of a bar: that of the terminal, or a fixed one if its height is 0, for which tqdm draws nothing."""
    try:
        columns, rows = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError):  # a notebook
        return {"dynamic_ncols": True}
    return {"dynamic_ncols": True} if rows else {"ncols": columns or 80, "nrows": 24}


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and hasattr(shell, "kernel")
