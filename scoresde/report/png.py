"""Figures of a run directory, as data URIs."""

import base64
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from scoresde.plots import style
from scoresde.report.numbers import as_dict
from scoresde.report.reading import natural, read_json
from scoresde.report.wording import LONGEST, sampler_in_words
from scoresde.storage.bounded import DamagedFile, read_file
from scoresde.storage.limits import most_pixels

__all__ = ["KINDS", "Picture", "from_png", "pictures"]

_PNG = b"\x89PNG\r\n\x1a\n"
_MAX_FIGURES = 24  # figures shown where there is no list, the last by name
_MAX_BYTES = 2**24  # bytes of a figure: those of this package have a twentieth of them
_MAX_TOTAL_BYTES = 2**27  # bytes of all figures of a run


@dataclass(frozen=True)
class Picture:
    """A PNG as a data URI.

    Attributes:
        title: Its title.
        caption: Its caption.
        uri: The data URI.
        width: Width in CSS pixels, where there is room.
        height: Height in CSS pixels.
        file: Its file, as the run directory names it.
        kind: "chart" for one without a background, which dark pages invert; "pixels" for a mosaic of images whose
            pixels are whole ones of the screen; "dark" for one on a dark background; empty for others.
        columns: Names of the columns of a mosaic.
    """

    title: str
    caption: str
    uri: Markup
    width: int
    height: int
    file: str = ""
    kind: str = ""
    columns: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """True if the figure needs no white background."""
        return self.kind in KINDS

    @property
    def wide(self) -> bool:
        """True if the figure takes the page's whole width."""
        return self.width > 620


KINDS = ("chart", "pixels", "dark")


def from_png(
    content: bytes, title: str, caption: str, file: str = "", kind: str = "", columns: tuple[str, ...] = ()
) -> Picture:
    """The figure of a PNG file's content."""
    width, height = (n * 96 / _dpi(content) for n in _size(content))
    # Base64 has no character that HTML gives a meaning, and megabytes of it are slow to escape.
    uri = Markup("data:image/png;base64," + base64.b64encode(content).decode())
    return Picture(title, caption, uri, max(round(width), 1), max(round(height), 1), file, kind, columns)


def _plain_words(caption: str) -> str:
    """A caption in the words of the shell; those of older versions have the sampler's repr."""
    if len(caption) > LONGEST:
        return caption
    return re.sub(r"Sampler\(.*\)(?=, \d)", lambda found: sampler_in_words(found[0]), caption)


def _size(content: bytes) -> tuple[int, int]:
    """Width and height in pixels of a PNG file's content; the IHDR chunk is always the first."""
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def _dpi(content: bytes) -> float:
    """Dots per inch of a PNG file's content, from the pHYs chunk before its data; the default without one."""
    place = 8
    while place + 17 <= len(content) and content[place + 4 : place + 8] != b"IDAT":
        if content[place + 4 : place + 8] == b"pHYs":
            dpi = int.from_bytes(content[place + 8 : place + 12], "big") * 0.0254
            return dpi if 20 <= dpi <= 2000 else style.DPI
        place += 12 + int.from_bytes(content[place : place + 4], "big")
    return style.DPI


def pictures(run_dir: Path, notes: list[str], only: tuple[str, ...] = ()) -> Iterator[Picture]:
    """The figures that `pictures.json` lists, or without a list those in `samples/`.

    A figure is embedded as it is, and the browser decodes it; so one of more than 16 MiB, or of more pixels than
    `scoresde.storage.limits` allows by its header, is left out, too, and so is what goes beyond 128 MiB together.

    Args:
        run_dir: The run directory; figures outside it are left out, with a note, like all that are no PNG.
        notes: Notes, to which those on figures that are left out are added.
        only: Files that are wanted; all if empty.
    """
    listed = read_json(run_dir, "pictures.json", notes)
    if not isinstance(listed, list):
        found = sorted((run_dir / "samples").glob("*.png"), key=lambda p: natural(p.name))
        if len(found) > _MAX_FIGURES and not only:
            notes.append(f"samples/ has {len(found)} figures; the last {_MAX_FIGURES} are shown.")
            found = found[-_MAX_FIGURES:]
        listed = [{"file": f"samples/{path.name}", "title": path.stem} for path in found]
    left = _MAX_TOTAL_BYTES
    for entry in map(as_dict, listed):
        file = str(entry.get("file", ""))
        if only and file not in only:
            continue
        content = _content(run_dir.resolve(), file, notes)
        if content is None:
            continue
        left -= len(content)
        if left < 0:
            total = f"{_MAX_TOTAL_BYTES:,} bytes together"
            notes.append(f"The figures have more than {total}: {file!r} and others are left out.")
            return
        kind, columns = str(entry.get("kind") or ""), entry.get("columns")
        yield from_png(
            content,
            str(entry.get("title") or Path(file).stem),
            _plain_words(str(entry.get("caption") or "")),
            file,
            kind if kind in KINDS else "",
            tuple(map(str, columns[:_MAX_FIGURES])) if isinstance(columns, list) else (),
        )


def _content(root: Path, file: str, notes: list[str]) -> bytes | None:
    """Content of a PNG file; None, with a note, if it cannot be shown.

    Args:
        root: The run directory, resolved.
        file: Path in it.
        notes: Notes, to which that on the file is added.
    """
    try:
        path = (root / file).resolve()
        content = read_file(path, _MAX_BYTES) if path.is_relative_to(root) else b""
    except DamagedFile as error:
        notes.append(f"The figure {file!r} is left out: {error}.")
        return None
    except (OSError, ValueError):
        content = b""
    if content[:8] != _PNG or content[12:16] != b"IHDR":
        notes.append(f"The figure {file!r} is missing, not a PNG, or outside the run directory.")
        return None
    if math.prod(_size(content)) > most_pixels():
        notes.append(f"The figure {file!r} has more than {most_pixels()} pixels (SCORESDE_PIXELS): it is left out.")
        return None
    return content
