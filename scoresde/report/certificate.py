"""The page of a certificate: what was held against what, the pictures, and the tables."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from scoresde.report.page import render
from scoresde.report.png import Picture, from_png
from scoresde.report.tables import Table

__all__ = ["certificate_page"]


@dataclass
class _Page:
    name: str
    sentences: Sequence[str]
    summary: Table
    full: Table
    columns: Table
    command: str
    pictures: list[Picture]
    notes: list[str] = field(default_factory=list)


def certificate_page(
    title: str,
    sentences: Sequence[str],
    summary: Sequence[Sequence[str]],
    full: Sequence[Sequence[str]],
    columns: Sequence[tuple[str, str]],
    command: str,
    pictures: Sequence[tuple[str, str, bytes]] = (),
) -> str:
    """A page that carries everything that it shows.

    Args:
        title: The heading.
        sentences: What was done, in sentences.
        summary: The table of the terminal: a header and rows of text.
        full: All columns: a header and rows of text.
        columns: Names of columns and what they mean.
        command: The command that makes the page.
        pictures: The pictures: a title, what it shows, and the PNG.
    """
    head, *rows = summary
    names, *cells = full
    page = _Page(
        title,
        sentences,
        Table("Summary", tuple(head), [tuple(row) for row in rows]),
        Table("All columns", tuple(names), [tuple(row) for row in cells]),
        Table("What is measured", ("column", "meaning"), [tuple(row) for row in columns]),
        command,
        [from_png(png, name, caption) for name, caption, png in pictures],
    )
    return render("certificate.html.j2", (), scripts=True, page=page)
