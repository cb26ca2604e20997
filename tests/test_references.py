"""The bibliography, docs/references.md: the works that the package, its configurations and the README cite."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = [*sorted((ROOT / "scoresde").rglob("*.py")), *sorted((ROOT / "conf").rglob("*.yaml")), ROOT / "README.md"]
ENTRIES = re.findall(r"^- \*\*(.+?)\*\*.*?: (.+)$", (ROOT / "docs" / "references.md").read_text(encoding="utf-8"), re.M)

_NAME = r"(?:[A-ZÀ-Ž][\w'’]+(?:-[A-Z]\w+)?)"
CITATION = re.compile(rf"({_NAME}(?:(?:, {_NAME})*,? (?:&|and) {_NAME}| et al\.)?),? \(?((?:19|20)\d\d)([a-c]?)\b")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December")  # fmt: skip


def citations(text: str) -> set[tuple[str, str]]:
    """(authors, year) of every citation in a text, whatever line breaks are in it."""
    joined = re.sub(r"\s*\n\s*#? ?", " ", text)
    found = {(names.replace(" and ", " & "), year + letter) for names, year, letter in CITATION.findall(joined)}
    return {(names, year) for names, year in found if names not in MONTHS}


def test_citations_are_found_across_lines() -> None:
    text = "By A's rule (Ho et\nal. 2020, eq. 5) and Song, Meng & Ermon 2021;\n# Okabe and Ito (2008), on 3 May 2026"
    assert citations(text) == {("Ho et al.", "2020"), ("Song, Meng & Ermon", "2021"), ("Okabe & Ito", "2008")}


def test_every_citation_is_in_the_bibliography_and_every_entry_is_cited() -> None:
    cited = {" ".join(work): path for path in SOURCES for work in citations(path.read_text(encoding="utf-8"))}
    known = {work.removeprefix("del ") for work, _ in ENTRIES}
    assert {work: str(cited[work].relative_to(ROOT)) for work in cited.keys() - known} == {}
    assert known - cited.keys() == set()


def test_entries_have_titles_and_links_of_their_own() -> None:
    assert all(len(title) > 10 for _, title in ENTRIES)
    links = [(target, title) for _, entry in ENTRIES for title, target in re.findall(r"\[(.+)\]\((.+)\)", entry)]
    assert len({target for target, _ in links}) == len(links)
