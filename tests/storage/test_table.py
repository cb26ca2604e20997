import json
import os
from pathlib import Path

import pytest

from scoresde.storage.bounded import CheckpointError, complete_lines, read_csv
from scoresde.storage.table import ResumableTable

COLUMNS = ("name", "value")
ROWS = [["a", "3.8555e-05"], ["b", 'comma, and "quotes"'], ["c", ""]]


def table(folder: Path, n: int = 5) -> ResumableTable:
    return ResumableTable(folder / "table.csv", COLUMNS, {"n": n, "shape": (2, 3)})


@pytest.fixture
def written(tmp_path: Path) -> Path:
    made = table(tmp_path)
    made.begin(ROWS[:1], seeds=[0])
    made.append(ROWS[1:])
    return tmp_path


@pytest.mark.parametrize(
    ("text", "complete"), [("", ""), ("a", ""), ("a\n", "a\n"), ("a\nb", "a\n"), ("a\r\nb\n", "a\r\nb\n")]
)
def test_complete_lines(text: str, complete: str) -> None:
    assert complete_lines(text.encode()) == complete.encode()


def test_rows_come_back(written: Path) -> None:
    again = table(written)
    assert again.lines == ROWS
    assert again.note == {"settings": {"n": 5, "shape": [2, 3]}, "seeds": [0]}
    assert read_csv(again.path) == [list(COLUMNS), *ROWS]


def test_rows_of_other_settings_or_columns_do_not(written: Path) -> None:
    other = table(written, n=6)
    assert (other.lines, other.note) == ([], {})
    assert ResumableTable(written / "table.csv", ("name", "error"), table(written).settings).lines == []
    assert table(written).lines == ROWS  # nothing is lost by asking
    other.begin([])
    assert table(written).lines == []


def test_rows_of_an_earlier_version_have_empty_cells_for_what_it_lacks(written: Path) -> None:
    def found(columns: tuple[str, ...], former: tuple[str, ...]) -> ResumableTable:
        return ResumableTable(written / "table.csv", columns, table(written).settings, ("more", "most"), former)

    whole = found(("name", "value", "more", "most"), ())
    assert (whole.older, whole.lines) == (True, [[*row, "", ""] for row in ROWS])
    instead = found(("name", "more", "most"), ("value",))
    assert (instead.older, instead.lines) == (True, [[name, "", ""] for name, _ in ROWS])
    neither = found(("name", "more", "most"), ("other",))
    assert (neither.older, neither.lines) == (False, [])
    assert not found(("name", "value"), ()).older


def test_older_notes_of_the_settings_alone(written: Path) -> None:
    (written / "table.json").write_text(json.dumps({"shape": [2, 3], "n": 5}))
    assert table(written).lines == ROWS


def test_a_file_cut_anywhere_holds_its_complete_rows(written: Path) -> None:
    path = written / "table.csv"
    text = path.read_bytes()
    for size in range(len(text) + 1):
        path.write_bytes(text[:size])
        complete = text[:size].count(b"\n")
        assert table(written).lines == ROWS[: max(complete - 1, 0)]
        # Begun again with what is known, the rest appended, it is what it was.
        again = table(written)
        again.begin(again.lines)
        again.append(ROWS[len(again.lines) :])
        assert path.read_bytes() == text


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_note_is_of_other_settings(written: Path, content: bytes) -> None:
    (written / "table.json").write_bytes(content)
    assert table(written).lines == []


@pytest.mark.parametrize("content", [b"\x00", b"\xff\xfe\n\x00", b'"', b'name,value\n"a\n'])
def test_a_damaged_table_is_no_error(written: Path, content: bytes) -> None:
    (written / "table.csv").write_bytes(content)
    assert len(table(written).lines) <= 1


@pytest.mark.parametrize("name", ["table.csv", "table.json"])
def test_a_pipe_or_a_folder_is_refused(written: Path, name: str) -> None:
    (written / name).unlink()
    os.mkfifo(written / name)
    with pytest.raises(CheckpointError, match=f"{name} is a named pipe, expected a file"):
        table(written)
    (written / name).unlink()
    (written / name).mkdir()
    with pytest.raises(CheckpointError, match=f"{name} is a directory, expected a file"):
        table(written)


def test_leftovers_of_killed_writes_are_removed(written: Path) -> None:
    for name in (".table.csv.abcd1234", ".table.json.abcd1234", ".other.csv.abcd1234"):
        (written / name).write_text("x")
    again = table(written)
    again.begin(again.lines)
    assert sorted(os.listdir(written)) == [".other.csv.abcd1234", "table.csv", "table.json"]
