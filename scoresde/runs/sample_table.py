"""A table with a row of numbers for each sample of a split, which an interrupted command resumes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde.storage.table import ResumableTable

__all__ = ["SampleTable"]


class SampleTable(ResumableTable):
    """The rows of the samples, in the order of the split.

    Args:
        path: The CSV file.
        names: Names of the columns after the index.
        settings: What the rows depend on.
        later: Columns that the files of an earlier version lack, which are NaN in its rows.
        former: Columns that they have instead, which are not read.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        settings: dict[str, Any],
        later: Sequence[str] = (),
        former: Sequence[str] = (),
    ) -> None:
        self.names = tuple(names)
        super().__init__(path, ("index", *self.names), settings, later, former)
        self.rows: list[list[float]] = []
        for line in self.lines:
            try:
                index, *values = (float(cell or "nan") for cell in line)
            except ValueError:
                break
            if index != len(self.rows) or len(values) != len(self.names):
                break
            self.rows.append(values)

    def add(self, rows: list[list[float]]) -> None:
        """Add rows, and write them into the file.

        The file is begun anew with the first of them, without rows that cannot be read, or those of other settings: the
        latter are lost, and until then settings may be rejected.
        """
        if not self.begun:
            self.resume()
        self.append(_texts(rows, len(self.rows)))
        self.rows += rows

    def resume(self) -> None:
        """Begin the file anew with the rows that are known; results of some of them stay in the note."""
        further = (
            {key: value for key, value in self.note.items() if key != "settings"} if "settings" in self.note else {}
        )
        self.begin(_texts(self.rows, 0), **further)

    def results_of_more(self, now: Mapping[str, Any]) -> int:
        """The number of samples `n` of results in the note that hold all that `now` has, of more samples; else 0."""
        n = self.note.get("n", 0)
        return n if isinstance(n, int) and n > now["n"] and now.keys() <= self.note.keys() else 0

    def column(self, name: str, n: int) -> Tensor:
        """`(n,)` values of a column."""
        return self.columns_of([name], n)[:, 0]

    def columns_of(self, names: Sequence[str], n: int) -> Tensor:
        """`(n, k)` values of columns."""
        places = [self.names.index(name) for name in names]
        return torch.tensor([[row[i] for i in places] for row in self.rows[:n]], dtype=torch.float64)


def _texts(rows: list[list[float]], first: int) -> list[list[str]]:
    return [[str(index), *map(repr, row)] for index, row in enumerate(rows, first)]
