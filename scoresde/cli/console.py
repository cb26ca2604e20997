"""Output of the command: errors in one line, warnings, tables that fit the terminal, and verbosity."""

import codecs
import io
import logging
import os
import shutil
import sys
import textwrap
import warnings
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import NoReturn

from scoresde.options.signatures import nearest

__all__ = ["UsageError", "Verbosity", "configure", "fail", "nearest", "print_table", "tolerate_encoding", "wrapped"]


class UsageError(ValueError):
    """The command line is wrong."""


class Verbosity(Enum):
    """Amount of output: results and errors only, progress too, or everything with tracebacks."""

    QUIET = "-q"
    NORMAL = ""
    VERBOSE = "-v"

    @classmethod
    def of(cls, arguments: Sequence[str]) -> "Verbosity":
        """The last verbosity that was asked for."""
        asked = [_FLAGS[a] for a in arguments if a in _FLAGS]
        return asked[-1] if asked else cls.NORMAL


_FLAGS = {"-q": Verbosity.QUIET, "--quiet": Verbosity.QUIET, "-v": Verbosity.VERBOSE, "--verbose": Verbosity.VERBOSE}


def without_verbosity(arguments: Iterable[str]) -> list[str]:
    """Arguments without the flags of verbosity."""
    return [a for a in arguments if a not in _FLAGS]


_NOISY = (
    "accelerate", "alembic", "fsspec", "hydra", "hydra_plugins", "matplotlib", "optuna", "submitit", "torch", "wandb",
)  # fmt: skip

# Substitutes for the characters that the command prints, in characters that every encoding has.
_ASCII = {"–": "-", "—": "-", "−": "-", "±": "+-", "×": "x", "≤": "<=", "≥": ">=", "↓": "v", "↑": "^", "…": "..."}


def _substitute(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_ASCII.get(c, "?") for c in error.object[error.start : error.end]), error.end


codecs.register_error("scoresde", _substitute)


def tolerate_encoding() -> None:
    """Print a character that stdout or stderr cannot encode as one or two that it can, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="scoresde")


def configure(verbosity: Verbosity) -> None:
    """Set up streams, logging and warnings of this process, which may be one that a launcher has made."""
    tolerate_encoding()
    levels = {Verbosity.QUIET: logging.ERROR, Verbosity.NORMAL: logging.INFO, Verbosity.VERBOSE: logging.DEBUG}
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("scoresde").setLevel(levels[verbosity])
    if verbosity is Verbosity.VERBOSE:
        # An environment variable reaches the processes of a launcher, too.
        os.environ["SCORESDE_TRACEBACK"] = "1"
    # At INFO, libraries log what only their authors want to know.
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    warnings.formatwarning = format_warning


def fail(message: str, status: int = 1) -> NoReturn:
    """Say what is wrong in one line and exit."""
    print(f"scoresde: {message}", file=sys.stderr)
    sys.exit(status)


def format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning of this package in one line, without the place in its code."""
    if Path(filename).is_relative_to(Path(__file__).parent.parent):
        return f"scoresde: {' '.join(str(message).split())}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def width() -> int:
    """Columns of the terminal; a common page where there is none."""
    return max(40, shutil.get_terminal_size((100, 24)).columns)


def wrapped(head: str, text: str) -> str:
    """`text` after `head`, in lines that fit the terminal."""
    indent = " " * len(head)
    return textwrap.fill(text, width(), initial_indent=head, subsequent_indent=indent, break_on_hyphens=False)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Print a table: on a terminal one that fits it, elsewhere plain text with a line for each row.

    Columns whose cells all begin with a digit or a sign stand to the right.
    """
    numeric = [all(r[i][:1] in "-+–0123456789" for r in rows if r[i]) for i in range(len(head))]
    if sys.stdout.isatty():
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for name, right in zip(head, numeric, strict=True):
            table.add_column(name, justify="right" if right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))  # names may have brackets, which are no markup
        Console(width=width()).print(table)
        return
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    if title:
        print(title)
    for line in lines:
        cells = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, numeric, strict=True)]
        print("  ".join(cells).rstrip())
