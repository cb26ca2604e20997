"""The page of a certificate: what was held against what, the picture, and the tables."""

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
    picture: Picture | None = None
    notes: list[str] = field(default_factory=list)


def certificate_page(
    title: str,
    sentences: Sequence[str],
    summary: Sequence[Sequence[str]],
    full: Sequence[Sequence[str]],
    columns: Sequence[tuple[str, str]],
    command: str,
    picture: bytes | None = None,
    caption: str = "",
) -> str:
    """A page that carries everything that it shows.

    Args:
        title: The heading.
        sentences: What was done, in sentences.
        summary: The table of the terminal: a header and rows of text.
        full: All columns: a header and rows of text.
        columns: Names of columns and what they mean.
        command: The command that makes the page.
        picture: The picture as a PNG.
        caption: What it shows.
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
        None if picture is None else from_png(picture, "Picture", caption),
    )
    return render("certificate.html.j2", (), scripts=True, page=page)
