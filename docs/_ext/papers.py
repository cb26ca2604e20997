"""The page that leads from a paper to classes and configurations, made of what these say of themselves.

A class counts as a paper's where its docstring has the paper's address or cites it in its first paragraph, and a
configuration where its first comment cites it. So the page changes with the code.
"""

import inspect
import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
ENTRY = re.compile(r"^- \*\*(.+?)\*\*(.*?): \[(.+)\]\((.+)\)", re.M)


class Work(NamedTuple):
    """A work of the bibliography: the words that it is cited with, which of those of the same words, title, address."""

    words: str
    which: str
    title: str
    address: str


_HEAD = """# From papers to classes and configurations

For each work of the [bibliography](../references.md) the classes and functions that name it in their references or in
the first paragraph of their documentation, and the choices of the command whose first line does: `sampler=unipc`, say,
is `scoresde sample run=DIR sampler=unipc`, and `sde=ve` is `scoresde train sde=ve`. It is made from docstrings and
from `conf/` when the site is built, and has no works that are used inside of methods alone.

| paper | in Python | on the command line |
| --- | --- | --- |
"""


def works() -> list[Work]:
    """The bibliography, in its order."""
    text = (ROOT / "docs" / "references.md").read_text(encoding="utf-8")
    return [Work(*match) for match in ENTRY.findall(text)]


def cites(text: str, work: Work) -> bool:
    """Whether a text has the words of a work, as `Authors 2021`, `Authors (2021)` or `Authors, 2021`."""
    joined = re.sub(r"\s*\n\s*#? ?", " ", text)
    plain = re.sub(r",? \(?((?:19|20)\d\d[a-c]?)\)?", r" \1", joined).replace(" and ", " & ")
    return re.search(rf"(?<!& )(?<!, ){re.escape(work.words)}(?![a-c])", plain) is not None


def of_classes(known: list[Work]) -> dict[Work, set[str]]:
    """By work, the public names whose docstrings have its address, or cite it in their first paragraph."""
    import scoresde

    found: dict[Work, set[str]] = defaultdict(set)
    for package in scoresde.__all__:
        module = getattr(scoresde, package)
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if not callable(thing):
                continue
            docstring = inspect.getdoc(thing) or ""
            for work in known:
                if work.address in docstring or (not work.which and cites(docstring.partition("\n\n")[0], work)):
                    found[work].add(name)
    return found


def of_choices(known: list[Work], classes: dict[Work, set[str]]) -> dict[Work, set[str]]:
    """By work, the choices of the command whose first comment has it; of works of the same words, that of its class."""
    from scoresde.cli.catalogue import description, groups, options, source

    found: dict[Work, set[str]] = defaultdict(set)
    for group in groups():
        for name in options(group):
            for work in known:
                here = set(re.findall(r"_target_: [\w.]+\.(\w+)", source(group, name).read_text(encoding="utf-8")))
                if cites(description(group, name), work) and (not work.which or here & classes[work]):
                    found[work].add(f"{group}={name}")
    return found


def page() -> str:
    """The page, in the order of the bibliography."""
    known = works()
    classes = of_classes(known)
    choices = of_choices(known, classes)
    rows = []
    for work in known:
        if work in classes or work in choices:
            cells = [", ".join(f"`{name}`" for name in sorted(found[work])) for found in (classes, choices)]
            paper = f"{work.words}{work.which}, [{work.title}]({work.address})"
            rows.append(f"| {paper} | {' | '.join(cells)} |")
    return _HEAD + "\n".join(rows) + "\n"
