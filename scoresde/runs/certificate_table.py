"""The table of a certificate: a row for each cell, which an interrupted command resumes."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scoresde.storage.table import ResumableTable

__all__ = ["CertificateTable", "cell_texts"]


class CertificateTable(ResumableTable):
    """Rows by their cells, each with the identity of what it is of in the note.

    Args:
        path: The CSV file.
        settings: What all rows depend on.
        columns: The columns, those of the cell first.
        texts: The columns of text; others are numbers.
        key: How many columns make the cell.
        identities: By the text of a cell, the identity of what it is of now.
        later: Columns that tables of earlier versions lack.
    """

    def __init__(
        self,
        path: Path,
        settings: dict[str, Any],
        columns: Sequence[str],
        texts: Sequence[str],
        key: int,
        identities: Mapping[tuple[str, ...], str],
        later: Sequence[str] = (),
    ) -> None:
        super().__init__(path, columns, settings, later)
        self._texts, self._key, self._now = set(texts), key, dict(identities)
        known = self.note.get("identities")
        self._known: dict[str, str] = known if isinstance(known, dict) else {}
        self.rows: dict[tuple[str, ...], dict[str, Any]] = {}
        self._written: dict[tuple[str, ...], list[str]] = {}
        for line in self.lines:
            if len(line) != len(self.columns):
                break
            cell = tuple(line[:key])
            if cell not in self._now or self._known.get(_joined(cell)) == self._now[cell]:
                self.rows[cell] = self._parsed(line)
                self._written[cell] = line

    def lacks(self, parts: Sequence[Any]) -> bool:
        """True if a cell is to be computed: it is not there, or has failed."""
        row = self.rows.get(cell_texts(parts))
        return row is None or bool(row["failure"])

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row."""
        line = [_written(row.get(name)) for name in self.columns]
        cell = tuple(line[: self._key])
        if not self.begun:
            kept = [text for c, text in self._written.items() if c != cell and not self.rows[c]["failure"]]
            self._known = {k: v for k, v in self._known.items() if k in set(map(_joined, self.rows))}
            self.begin(kept, identities=self._known)
        self._known[_joined(cell)] = self._now[cell]
        self.write_note(identities=self._known)
        self.rows[cell] = self._parsed(line)
        self.append([line])

    def finish(self, **further: Any) -> None:
        """Write the note in full."""
        self.write_note(identities=self._known, **further)

    def _parsed(self, line: Sequence[str]) -> dict[str, Any]:
        return {
            name: text if name in self._texts else _number(text) for name, text in zip(self.columns, line, strict=True)
        }


def cell_texts(parts: Sequence[Any]) -> tuple[str, ...]:
    """A cell as its row has it."""
    return tuple(map(_written, parts))


def _joined(cell: Sequence[str]) -> str:
    return " | ".join(cell)


def _written(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return value if isinstance(value, str) else repr(value)


def _number(text: str) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError:  # a damaged cell
        return math.nan
