"""What a search for tuned steps may spend: seconds, or iterations, with which its result does not depend on speed."""

import time
from abc import ABC, abstractmethod
from typing import Any

from scoresde.progress import Progress

__all__ = ["Budget", "Iterations", "Seconds"]


class Budget(ABC):
    """A number of units that a search may use, and a progress bar of them."""

    def __init__(self, total: float, unit: str, progress: bool) -> None:
        self.total = total
        self.bar = Progress(round(total), "tuning", unit, shown=progress)

    def __enter__(self) -> "Budget":
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.__exit__(*error)

    @abstractmethod
    def left(self) -> float:
        """The units that are left, negative if there are none."""

    def iterated(self) -> None:
        """Count an iteration of the search."""

    def show(self, text: str) -> None:
        """Move the progress bar to the present, with a note."""
        self.bar.note(text)
        self.bar.update(min(round(self.total - self.left()), self.bar.total) - self.bar.done)


class Seconds(Budget):
    """Seconds on the clock, counted from now."""

    def __init__(self, seconds: float, progress: bool) -> None:
        super().__init__(seconds, "second", progress)
        self.start = time.perf_counter()

    def left(self) -> float:
        return self.total - (time.perf_counter() - self.start)


class Iterations(Budget):
    """Iterations of the search, whatever time they take."""

    def __init__(self, iterations: int, progress: bool) -> None:
        super().__init__(iterations, "iteration", progress)
        self.done = 0

    def left(self) -> float:
        return self.total - self.done

    def iterated(self) -> None:
        self.done += 1
