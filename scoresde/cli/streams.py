"""Standard streams that the work does not depend on: output that nobody can receive is dropped silently.

A reader that has seen enough (`| head`), a terminal that is gone, a closed descriptor or a full disk behind a
redirected log then ends no training, whoever writes: `print`, a progress bar, a logger, a library.
"""

import errno
import io
import os
import select
import sys
from contextlib import suppress
from typing import Any, TextIO

from scoresde.cli.console import fail

__all__ = ["end_of_output", "outlive_readers"]


class _Lossy(io.FileIO):
    """The raw end of a stream; drops what cannot be written and keeps the first error."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write some of `data`, or drop it; the number of bytes that are done with."""
        try:
            while (written := super().write(data)) is None:  # whoever shares the terminal made it non-blocking
                select.select([], [self], [])
        except OSError as error:
            self.error = self.error or error
            return memoryview(data).nbytes
        return written


def outlive_readers() -> None:
    """Make the standard streams of this process such streams; those that something else has replaced stay as they are.

    A descriptor that is closed becomes that of the null device: it would be the next file's that is opened, into which
    libraries would then print.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free, which is this one
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and not isinstance(_raw(stream), _Lossy):
            kept = _lossy(stream)
            setattr(sys, name, kept)
            setattr(sys, f"__{name}__", kept)


def _lossy(stream: TextIO | None) -> TextIO:
    """A stream to the same place and with the same settings as `stream`, which is None if it was closed."""
    if not isinstance(stream, io.TextIOWrapper) or stream.closed:
        return open(os.devnull, "w", encoding="utf-8")
    with suppress(OSError):
        stream.flush()
    raw = _Lossy(stream.fileno())
    return io.TextIOWrapper(
        raw if isinstance(stream.buffer, io.RawIOBase) else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _raw(stream: TextIO | None) -> Any:
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def end_of_output() -> None:
    """To be called by commands that do nothing but print.

    Raises:
        SystemExit: With status 1, after a line that says why the output is not complete; a reader that has seen enough
            does not make it so.
    """
    sys.stdout.flush()
    error = getattr(_raw(sys.stdout), "error", None)
    if error is not None and error.errno != errno.EPIPE:
        fail(f"the output is not complete: {error.strerror}")
