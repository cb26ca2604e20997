"""Commands quoted for a shell and for Hydra's grammar, whatever their values hold."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

__all__ = ["command", "override", "quoted"]

# Text that Hydra would read as a number, a truth value or nothing.
_OTHER_TYPES = re.compile(r"[+-]?([\d_.]+(e[+-]?[\d_]+)?|inf|nan)|null|true|false", re.IGNORECASE)


def quoted(text: str) -> str:
    """A text for Hydra's grammar, in quotes where it would be read as something else.

    >>> quoted("a b"), quoted("runs/1"), quoted("null")
    ('"a b"', 'runs/1', '"null"')
    """
    if re.fullmatch(r"[\w./@+-]+", text, re.ASCII) and not _OTHER_TYPES.fullmatch(text):
        return text
    # `${` would begin an interpolation; backslashes count only before it, before a quote and at the end.
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    return '"' + re.sub(r'(\\*)(?:(")|$)', _escaped, text) + '"'


def _escaped(match: re.Match[str]) -> str:
    backslashes, quote = match.groups()
    return 2 * backslashes + (r"\"" if quote else "")


def override(key: str, value: str | Path | Sequence[str]) -> str:
    """An override `key=value` for Hydra, whose value is a text or a list of texts.

    >>> override("accept", ["a b", "c"])
    'accept=["a b",c]'
    """
    if isinstance(value, str | Path):
        return f"{key}={quoted(str(value))}"
    return f"{key}=[{','.join(map(quoted, value))}]"


def command(name: str, *overrides: str) -> str:
    """The command `scoresde name ...` for a shell."""
    return shlex.join(["scoresde", name, *overrides])
