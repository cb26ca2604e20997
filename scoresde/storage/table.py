"""Tables in CSV files that an interrupted command resumes, each with the settings of its rows in a file beside it.

A line counts only with its line end: one that an interruption or a full disk cut short might read as another number.
"""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from glob import escape
from pathlib import Path
from typing import Any

from scoresde.storage.bounded import DamagedFile, check_regular, read_csv, read_json
from scoresde.storage.files import remove_leftovers, write_text

__all__ = ["ResumableTable"]


class ResumableTable:
    """A CSV file to which rows are appended, and a JSON file of the same name with the settings that they depend on.

    Nothing is written, and nothing that is there is lost, before `begin`.

    Args:
        path: The CSV file.
        columns: Names of the columns.
        settings: Values that the rows depend on, in the types of JSON.
        later: Columns that the files of an earlier version lack, whose cells in its rows are empty.
        former: Columns that the files of an earlier version have instead of those, which are not read.

    Attributes:
        note: Content of the JSON file if it has the same settings, else empty.
        lines: Cells of the complete rows if they have the same settings and columns, else empty.
        begun: Whether `begin` was called.
        older: Whether the rows are those of an earlier version's file.

    Raises:
        CheckpointError: A directory, a named pipe or the like in place of either file.
    """

    def __init__(
        self,
        path: Path,
        columns: Sequence[str],
        settings: dict[str, Any],
        later: Sequence[str] = (),
        former: Sequence[str] = (),
    ) -> None:
        self.path, self.columns = path, list(columns)
        self.note_path = path.with_suffix(".json")
        self.settings = json.loads(json.dumps(settings))
        check_regular(path)
        note = self._read_note()
        # Older versions wrote the settings of likelihoods without a name.
        same = note.get("settings", note) == self.settings
        self.note: dict[str, Any] = note if same else {}
        head, *lines = (read_csv(path) if same and path.exists() else []) or [[]]
        self.lines = lines if head == self.columns else []
        kept = [name for name in self.columns if name not in later]
        others = bool(lines) and head != self.columns
        self.older = others and [name for name in head if name not in former] == kept
        if self.older:
            places = [head.index(name) if name in head else None for name in self.columns]
            whole = (line for line in lines if len(line) == len(head))
            self.lines = [["" if i is None else line[i] for i in places] for line in whole]
        self.begun = False

    def _read_note(self) -> dict[str, Any]:
        try:
            note: dict[str, Any] = read_json(self.note_path, dict)
            return note
        except (FileNotFoundError, DamagedFile):  # a damaged note counts as one with other settings
            return {}

    def begin(self, rows: Iterable[Sequence[str]], **further: Any) -> None:
        """Write both files anew; a note with other settings is replaced only once its rows are gone.

        Only the process that holds the run's lock may call it, or `append`.

        Args:
            rows: The first rows of the table.
            **further: Values that the note has in addition to the settings.
        """
        self.begun = True
        for path in (self.path, self.note_path):
            remove_leftovers(path.parent, escape(path.name))
        text = _text([self.columns, *rows])
        write_text(self.path, text)
        self.write_note(**further)

    def write_note(self, **further: Any) -> None:
        """Write the note: the settings, and further values that should be known of the rows."""
        text = json.dumps({"settings": self.settings, **further}, indent=1) + "\n"
        write_text(self.note_path, text)

    def append(self, rows: Iterable[Sequence[str]]) -> None:
        """Append rows to a file that was begun."""
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(_text(rows))


def _text(rows: Iterable[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
