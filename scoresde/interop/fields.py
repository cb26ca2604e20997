"""Entries of others' configurations, checked as they are read."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from scoresde.storage.bounded import CheckpointError

__all__ = ["Fields", "check_numbers"]

_MOST = 2**20  # of widths, depths, sizes, classes and steps: more would be no model, but a way to take all memory


class Fields:
    """A mapping of a configuration, whose entries are read by type.

    Args:
        values: The mapping.
        what: What it is, for messages.

    Raises:
        CheckpointError: No mapping.
    """

    def __init__(self, values: Any, what: str) -> None:
        if not isinstance(values, Mapping):
            raise CheckpointError(f"{what} is {str(values)[:60]!r}, expected a mapping of names to values")
        self.values: Mapping[str, Any] = values
        self.what = what

    def part(self, name: str) -> "Fields":
        """A mapping within."""
        return Fields(self._given(name), f"{self.what}.{name}")

    def _given(self, name: str, default: Any = None) -> Any:
        if name not in self.values:
            if default is None:
                raise CheckpointError(f"{self.what} has no {name}, which is needed to rebuild the model")
            return default
        return self.values[name]

    def number(self, name: str, default: float | None = None) -> float:
        """A number."""
        value = self._given(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(name, "a number")
        return float(value)

    def whole(self, name: str, default: int | None = None) -> int:
        """A positive integer."""
        value = self._given(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
            raise self.wrong(name, f"a positive integer of at most {_MOST}")
        return value

    def flag(self, name: str, default: bool | None = None) -> bool:
        """True or False."""
        value = self._given(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def word(self, name: str, choices: Iterable[str], default: str | None = None) -> str:
        """One of some words."""
        value = self._given(name, default)
        choices = tuple(choices)
        if value not in choices:
            raise self.wrong(name, f"one of {', '.join(choices)}")
        return str(value)

    def wrong(self, name: str, expected: str) -> CheckpointError:
        """The error of an entry that is something else."""
        return CheckpointError(f"{self.what}.{name} is {str(self.values.get(name))[:60]!r}, expected {expected}")


def check_numbers(values: Any, what: str) -> None:
    """Reject numbers in a configuration of a network that no network has, before anything is made by them.

    Args:
        values: The configuration, or a part of it.
        what: What it is, for the message.

    Raises:
        CheckpointError: A finite number above 2^20.
    """
    if isinstance(values, Mapping | list | tuple):
        named = values.items() if isinstance(values, Mapping) else enumerate(values)
        for name, value in named:
            check_numbers(value, f"{what}.{name}")
    elif isinstance(values, int | float) and math.isfinite(values) and abs(values) > _MOST:
        raise CheckpointError(f"{what} is {values:g}, expected a number of at most {_MOST}")
