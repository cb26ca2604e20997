"""Pages that are made from other files of the project: notebooks, the pages beside the README, lists of names.

They are written to folders of `docs/` that git ignores before Sphinx looks for pages. Links of every page to files of
the project that are not pages lead to the repository; one that leads nowhere is a warning.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import papers
from sphinx.application import Sphinx
from sphinx.util import logging

DOCS = Path(__file__).parent.parent
ROOT = DOCS.parent
SOURCE = "https://github.com/scoresde/scoresde/blob/main"
# By their pages, the files beside the README.
PROJECT = {
    "readme": "README.md",
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
    "security": "SECURITY.md",
}
STAGED = ("api", "notebooks", "papers", "project")
LINK = re.compile(r"(!?\[[^\]]*\]\()(?!\w+:|#|/)([^)#\s]+)(#[^)\s]*)?(?=\))")

_log = logging.getLogger(__name__)


def page_of(file: Path) -> Path | None:
    """The page of the site that shows a file of the project; None if none does."""
    names = {ROOT / name: DOCS / "project" / f"{page}.md" for page, name in PROJECT.items()}
    if file in names:
        return names[file]
    if file.parent == ROOT / "notebooks":
        return DOCS / "notebooks" / file.name
    return file if file.is_relative_to(DOCS) and file.suffix in (".md", ".png", ".ipynb") else None


def relinked(text: str, source: Path, page: Path) -> str:
    """The text of a page with its links to other files as they are seen from the page.

    Args:
        text: Markdown.
        source: The file in which the text stands, from which its links are meant.
        page: The file that Sphinx reads.
    """

    def link(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(source.parent / match[2]))
        if not target.exists() and target.parts[len(DOCS.parts)] not in STAGED:
            _log.warning("%s: there is no file %s", source.relative_to(ROOT), match[2])
            return match[0]
        seen = page_of(target) if target.is_relative_to(DOCS) or target.exists() else target
        if seen is None:
            return f"{match[1]}{SOURCE}/{target.relative_to(ROOT).as_posix()}"
        return match[1] + os.path.relpath(seen, page.parent) + (match[3] or "")

    return LINK.sub(link, text)


def write(page: Path, text: str) -> None:
    """Write a page if it has changed, so that Sphinx reads only what is new."""
    page.parent.mkdir(exist_ok=True)
    if not page.is_file() or page.read_text(encoding="utf-8") != text:
        page.write_text(text, encoding="utf-8")


def stage(app: Sphinx, config: Any) -> None:
    """Write all pages that are made, and remove those that no longer are."""
    pages: dict[Path, str] = {}
    for name, file in PROJECT.items():
        page = DOCS / "project" / f"{name}.md"
        pages[page] = relinked((ROOT / file).read_text(encoding="utf-8"), ROOT / file, page)
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        pages[DOCS / "notebooks" / file.name] = notebook(file)
    for name in packages():
        pages[DOCS / "api" / f"{name}.md"] = reference(name)
    pages[DOCS / "api" / "scoresde.md"] = (
        "# scoresde\n\n```{eval-rst}\n.. module:: scoresde\n\n"
        + "".join(f".. autofunction:: scoresde.{name}\n\n" for name in ("load", "load_chain", "load_classifier"))
        + "```\n"
    )
    pages[DOCS / "papers" / "index.md"] = papers.page()
    for page, text in pages.items():
        write(page, text)
    for folder in STAGED:
        for page in (DOCS / folder).glob("*.*"):
            if page not in pages:
                page.unlink()


def reference(name: str) -> str:
    """The page of a package, without what it hands on of another."""
    import scoresde

    package = getattr(scoresde, name)
    homes = {n: getattr(getattr(package, n), "__module__", "") or "" for n in getattr(package, "__all__", ())}
    others = {n for n, home in homes.items() if home.split(".")[1:2] not in ([], [name]) and elsewhere(n, home)}
    exclude = f"   :exclude-members: {', '.join(sorted(others))}\n" if others else ""
    return f"# scoresde.{name}\n\n```{{eval-rst}}\n.. automodule:: scoresde.{name}\n{exclude}```\n"


def elsewhere(name: str, home: str) -> bool:
    """Whether the public package that an object is defined in has it as well."""
    import scoresde

    package = home.split(".")[1]
    return package in scoresde.__all__ and name in getattr(getattr(scoresde, package), "__all__", ())


def notebook(file: Path) -> str:
    """A notebook with the links of its text as they are seen from its page."""
    read = json.loads(file.read_text(encoding="utf-8"))
    for cell in read["cells"]:
        if cell["cell_type"] == "markdown":
            text = relinked("".join(cell["source"]), file, DOCS / "notebooks" / file.name)
            cell["source"] = text.splitlines(keepends=True)
    return json.dumps(read, ensure_ascii=False)


def packages() -> list[str]:
    """Names of the public packages."""
    import scoresde

    single = {"__version__", "certify", "load", "load_chain", "load_classifier"}
    return sorted(set(scoresde.__all__) - single)


def read_page(app: Sphinx, name: str, source: list[str]) -> None:
    """Turn links to files of the project, and list the pages that the index has in no section."""
    page = DOCS / f"{name}.md"
    if page.is_file() and name.partition("/")[0] not in STAGED:
        source[0] = relinked(source[0], page, page)
    if name == "index":
        named = set(re.findall(r"^([\w/]+)$", source[0], re.M))  # entries of its sections
        others = {p.stem for p in DOCS.glob("*.md")} - named - {"index"}
        source[0] = source[0].replace("PAGES-WITHOUT-A-SECTION", "\n".join(sorted(others)))


def setup(app: Sphinx) -> dict[str, Any]:
    """Join Sphinx."""
    app.connect("config-inited", stage)
    app.connect("source-read", read_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
