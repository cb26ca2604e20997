"""Commands as a shell and Hydra's grammar take them, whatever their values hold."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

__all__ = ["command", "override", "quoted"]

# Text that Hydra would read as a number, a truth value or nothing.
_OTHER_TYPES = re.compile(r"[+-]?([\d_.]+(e[+-]?[\d_]+)?|inf|nan)|null|true|false", re.IGNORECASE)


def quoted(text: str) -> str:
    """A text as Hydra's grammar wants it, in quotes where it would be read as anything else."""
    if re.fullmatch(r"[\w./@+-]+", text, re.ASCII) and not _OTHER_TYPES.fullmatch(text):
        return text
    # `${` would begin an interpolation; backslashes count only before it, before a quote and at the end.
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    return '"' + re.sub(r'(\\*)(?:(")|$)', _escaped, text) + '"'


def _escaped(match: re.Match[str]) -> str:
    backslashes, quote = match.groups()
    return 2 * backslashes + (r"\"" if quote else "")


def override(key: str, value: str | Path | Sequence[str]) -> str:
    """`key=value` for Hydra; `value` is taken as it is, or is a list of such."""
    if isinstance(value, str | Path):
        return f"{key}={quoted(str(value))}"
    return f"{key}=[{','.join(map(quoted, value))}]"


def command(name: str, *overrides: str) -> str:
    """`scoresde name ...` for a shell."""
    return shlex.join(["scoresde", name, *overrides])
