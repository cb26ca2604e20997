"""Entries of others' configurations, checked as they are read."""

from collections.abc import Iterable, Mapping
from typing import Any

from scoresde.storage.bounded import CheckpointError

__all__ = ["Fields"]


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
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.wrong(name, "a positive integer")
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
