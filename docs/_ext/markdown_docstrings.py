"""Docstrings of this project as reStructuredText, which autodoc expects.

They are plain text in Google's sections with a little of Markdown: code in single backticks, tables, and displayed
equations as indented paragraphs. Signs that mean something to reStructuredText alone, as in |x|² and p*, are text.
"""

import re
from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx

_SECTION = re.compile(r"[A-Z][A-Za-z ]*:$")
_CODE = re.compile(r"`([^`]+)`")
_SPECIAL = re.compile(r"(\\|\||\*|_(?![\w{])|`)")


def escaped(text: str) -> str:
    """Text outside of code, with the signs of reStructuredText as themselves."""
    return _SPECIAL.sub(r"\\\1", text)


def inline(text: str) -> str:
    """A paragraph: code in double backticks, and everything else as it stands."""
    out, end = [], 0
    for match in _CODE.finditer(text):
        out.append(escaped(text[end : match.start()]))
        before, after = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
        # Code must stand between spaces or punctuation; an escaped space is none.
        left = "\\ " if before.isalnum() or not before.isascii() else ""
        right = "\\ " if after.isalnum() or not after.isascii() else ""
        out.append(f"{left}``{' '.join(match[1].split(chr(10)))}``{right}")
        end = match.end()
    return "".join([*out, escaped(text[end:])])


def table(rows: list[str]) -> Iterator[str]:
    """A table of Markdown as a list-table."""
    yield from (".. list-table::", "   :header-rows: 1", "")
    for row in [rows[0], *rows[2:]]:
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip().strip("|"))]
        for i, cell in enumerate(cells):
            yield f"   {'* -' if i == 0 else '  -'} {inline(cell)}"
    yield ""


def references(block: list[str]) -> Iterator[str]:
    """The entries of a section of references as a list, in which each continues where it is indented further."""
    for line in block:
        if line.startswith("    ") and not line.startswith("     "):
            yield f"    * {inline(line.strip())}"
        else:
            yield f"      {inline(line.strip())}" if line.strip() else ""


def blocks(lines: list[str]) -> Iterator[list[str]]:
    """Paragraphs, each with the empty line after it; code in backticks does not cross them."""
    block: list[str] = []
    for line in lines:
        if line.strip():
            block.append(line)
        elif block:
            yield block
            block = []
    if block:
        yield block


def converted(lines: list[str]) -> list[str]:
    """The lines of a docstring."""
    out: list[str] = []
    section = ""
    for block in blocks(lines):
        first = block[0]
        if first.startswith(">>>"):
            out += [*block, ""]
            continue
        if not first.startswith(" "):
            section = first if _SECTION.match(first) and len(block) > 1 and block[1].startswith("    ") else ""
        if section == "References:" and first == section:
            out += [first, *references(block[1:]), ""]
        elif all(line.lstrip().startswith("|") for line in block) and len(block) > 1:
            indent = " " * (len(first) - len(first.lstrip()))
            out += [indent + line for line in table(block)]
        elif not section and all(line.startswith("    ") for line in block):
            out += ["::", "", *block, ""]
        else:
            out += [*inline("\n".join(block)).split("\n"), ""]
    return out


def convert(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Convert a docstring in place, before napoleon reads its sections."""
    lines[:] = converted(lines)


def setup(app: Sphinx) -> dict[str, Any]:
    """Join Sphinx."""
    app.connect("autodoc-process-docstring", convert, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
