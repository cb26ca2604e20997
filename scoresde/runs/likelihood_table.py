"""The table of likelihoods: a row of numbers for each sample, computed a batch at a time."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde.data import Data
from scoresde.likelihood import bits_per_dim, log_likelihood, solver_error
from scoresde.score import NetworkScore
from scoresde.storage.table import ResumableTable

__all__ = ["CHECKED", "LikelihoodTable", "rows_of"]

CHECKED = 16
"""Number of samples, the first, whose solver error is measured."""

_COLUMNS = ("stderr", "stderr_dequantisation", "nfe", "divergences", "elbo", "stderr_elbo", "solver_error")


def rows_of(model: NetworkScore, data: Data, raw: Tensor, first: int, common: dict[str, Any]) -> list[list[float]]:
    """A row for each sample: its value and the further columns of the table.

    Args:
        model: The model.
        data: Data set of the samples.
        raw: `(B, ...)` samples in raw units, on the model's device.
        first: Index of the first of them in the split.
        common: Arguments of `log_likelihood`, or of `bits_per_dim` for discrete data, with the labels.
    """
    if data.transform.levels is None:
        out = log_likelihood(model, data.transform.encode(raw), first=first, **common)
        values = out.log_prob + data.transform.log_det(data.shape)
        missing = torch.full_like(values, math.nan)
        columns = [values, out.stderr, torch.zeros_like(values), out.nfe, out.divergences, missing, missing]
        nats = 1.0
    else:
        bits = bits_per_dim(model, raw, data.transform, first=first, **common)
        missing = torch.full_like(bits.bits, math.nan)
        lower = [missing if v is None else v for v in (bits.elbo, bits.elbo_stderr)]
        columns = [bits.bits, bits.stderr, bits.stderr_dequantisation, bits.nfe, bits.divergences, *lower]
        nats = math.prod(data.shape) * math.log(2)
    checked = min(max(CHECKED - first, 0), len(raw))
    errors = torch.full_like(columns[0], math.nan)
    if checked:
        x, labels = data.transform.encode(raw[:checked]), common.get("labels")
        cond: dict[str, Any] = {} if labels is None else {"labels": labels[:checked]}
        error = solver_error(model, x, tol=common["tol"], seed=common["seed"], first=first, **cond)
        errors[:checked] = error / nats
    columns.append(errors)
    return list(map(list, zip(*(c.tolist() for c in columns), strict=True)))


class LikelihoodTable(ResumableTable):
    """The rows of the samples, in the order of the split.

    Args:
        path: The CSV file.
        unit: Name of the column of values: bits_per_dim or nats.
        settings: What the rows depend on.
    """

    def __init__(self, path: Path, unit: str, settings: dict[str, Any]) -> None:
        self.names = (unit, *_COLUMNS)
        super().__init__(path, ("index", *self.names), settings)
        self.rows: list[list[float]] = []
        for line in self.lines:
            try:
                index, *values = map(float, line)
            except ValueError:
                break
            if index != len(self.rows) or len(values) != len(self.names):
                break
            self.rows.append(values)

    def add(self, rows: list[list[float]], write: bool) -> None:
        """Add rows, and `write` them into the file.

        The file is begun anew with the first of them, without rows that cannot be read, or those of other settings: the
        latter are lost, and until then settings may be rejected.
        """
        if write:
            if not self.begun:
                self.resume()
            self.append(_texts(rows, len(self.rows)))
        self.rows += rows

    def resume(self) -> None:
        """Begin the file anew with the rows that are known."""
        self.begin(_texts(self.rows, 0))

    def column(self, name: str, n: int) -> Tensor:
        """`(n,)` values of a column."""
        index = self.names.index(name)
        return torch.tensor([row[index] for row in self.rows[:n]], dtype=torch.float64)


def _texts(rows: list[list[float]], first: int) -> list[list[str]]:
    return [[str(index), *map(repr, row)] for index, row in enumerate(rows, first)]
