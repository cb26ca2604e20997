"""The table of a comparison: a row for each cell, and the endpoints of the reference beside it."""

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from scoresde.compare import Comparison
from scoresde.compare.frame import COLUMNS, LATER, to_frame
from scoresde.runs.presets import Presets
from scoresde.storage.bounded import CheckpointError
from scoresde.storage.table import ResumableTable
from scoresde.storage.tensors import load_tensors, save_tensors

__all__ = ["Cell", "ComparisonTable"]

Cell = tuple[str, int | None, int]
"""Sampler, number of steps and seed."""


class ComparisonTable(ResumableTable):
    """The cells of a comparison, each with the identity of its sampler in the note.

    Args:
        path: The CSV file.
        settings: What the rows depend on.
        presets: The samplers.
    """

    def __init__(self, path: Path, settings: dict[str, Any], presets: Presets) -> None:
        super().__init__(path, COLUMNS, settings, LATER)
        self.endpoints = path.with_suffix(".safetensors")
        self.presets = presets
        self.identities: dict[str, str] = {}
        self.errors: dict[str, float] = {}
        self.rows: dict[Cell, dict[str, Any]] = {}
        self.ends: dict[str, Tensor] = {}
        identities, errors = self.note.get("samplers"), self.note.get("reference_error")
        if isinstance(identities, dict) and isinstance(errors, dict):
            self.identities, self.errors = identities, errors
            rows = {(row["sampler"], row["steps"], row["seed"]): row for row in _parsed(self.lines)}
            self.rows = {cell: row for cell, row in rows.items() if self._same(cell)}
            with contextlib.suppress(CheckpointError):  # not there, or damaged: they are computed again
                self.ends = load_tensors(self.endpoints)

    def _same(self, cell: Cell) -> bool:
        """True if the sampler is still what it was."""
        name, steps, _ = cell
        return name in self.presets.files and self.identities.get(_key(name, steps)) == self.presets.identity(
            name, steps
        )

    def lacks(self, cell: Cell, most: int | None) -> bool:
        """True if a cell is to be computed: it is not there, or has a problem that may be gone."""
        row = self.rows.get(cell)
        if row is None:
            return True
        left_out = most is not None and row["nfe"] > most
        return bool(row["problem"]) and not left_out

    def add(self, row: dict[str, Any], comparison: Comparison, missing: Sequence[Cell]) -> None:
        """Append a row, and keep the endpoints of the reference that came with it."""
        if not self.begun:
            # Not before there is a row: those of another model or of other settings are lost with it.
            if not self.ends:
                self.endpoints.unlink(missing_ok=True)
            self.rows = {cell: r for cell, r in self.rows.items() if cell not in missing}
            self.begin(map(_texts, self.rows.values()), **self._known())
        self.rows[row["sampler"], row["steps"], row["seed"]] = row
        self.identities[_key(row["sampler"], row["steps"])] = self.presets.identity(row["sampler"], row["steps"])
        for seed, error in comparison.errors.items():
            self.errors[str(seed)] = max(error, self.errors.get(str(seed), 0.0))
        self.write_note(**self._known())
        if len(comparison.ends) > len(self.ends):
            self.ends = dict(comparison.ends)
            save_tensors(self.endpoints, self.ends, {"format": "scoresde-endpoints-1"})
        self.append([_texts(row)])

    def finish(self, **further: Any) -> None:
        """Write the note in full."""
        self.write_note(**self._known(), **further)

    def _known(self) -> dict[str, Any]:
        return {"samplers": self.identities, "reference_error": self.errors}

    def frame(self, attrs: dict[str, Any]) -> pd.DataFrame:
        """All rows, by sampler, steps and seed."""
        order = list(self.presets.files)
        rows = sorted(self.rows.values(), key=lambda r: (order.index(r["sampler"]), r["steps"] or 0, r["seed"]))
        attrs["reference"]["error"] = self.errors
        return to_frame(rows, attrs)


def _key(name: str, steps: int | None) -> str:
    return name if steps is None else f"{name}, {steps} steps"


def _texts(row: dict[str, Any]) -> list[str]:
    return [_written(row[name]) for name in COLUMNS]


def _written(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return value if isinstance(value, str) else repr(value)


def _parsed(lines: list[list[str]]) -> list[dict[str, Any]]:
    """Rows of the cells of lines, up to a line that is damaged."""
    rows: list[dict[str, Any]] = []
    for line in lines:
        if len(line) != len(COLUMNS):
            break
        row: dict[str, Any] = dict(zip(COLUMNS, line, strict=True))
        try:
            for name in COLUMNS[1:-1]:
                row[name] = float(row[name]) if row[name] else math.nan
            row |= {name: int(row[name]) for name in ("seed", "n")}
            row["steps"] = None if math.isnan(row["steps"]) else int(row["steps"])
        except (ValueError, OverflowError):
            break
        rows.append(row)
    return rows
