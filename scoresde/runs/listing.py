"""The figures of a run as `pictures.json` lists them for the report: file, title and caption of each.

Figures of earlier weights say so at the end of their caption, and stay behind those of the present weights.
"""

import re
from typing import Any

__all__ = ["Listed", "date", "listed", "put", "rename"]

Listed = dict[str, Any]

_DATED = re.compile(r"Of the weights after \d+ steps\.$")


def listed(content: list[Any]) -> list[Listed]:
    """Entries of the file that name a figure."""
    return [entry for entry in content if isinstance(entry, dict) and isinstance(entry.get("file"), str)]


def put(figures: list[Listed], entry: Listed) -> None:
    """Add an entry in place; one of the same file is replaced, and those of earlier weights stay the last."""
    indices = [i for i, known in enumerate(figures) if known["file"] == entry["file"]]
    if indices and not _is_dated(figures[indices[0]]):
        figures[indices[0]] = entry
        return
    figures[:] = [known for known in figures if known["file"] != entry["file"]]
    dated = [i for i, known in enumerate(figures) if _is_dated(known)]
    figures.insert(dated[0] if dated else len(figures), entry)


def rename(figures: list[Listed], file: str, new: str) -> None:
    """List a figure under another file, in place."""
    for entry in figures:
        if entry["file"] == file:
            entry["file"] = new


def date(figures: list[Listed], step: int) -> None:
    """Say of all figures that do not say so yet that they are of the weights after `step` steps, in place."""
    for entry in figures:
        if not _is_dated(entry):
            entry["caption"] = f"{_caption(entry)} Of the weights after {step} steps.".strip()


def _is_dated(entry: Listed) -> bool:
    return _DATED.search(_caption(entry)) is not None


def _caption(entry: Listed) -> str:
    return str(entry.get("caption", ""))
