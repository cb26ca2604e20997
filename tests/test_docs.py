"""The pages in docs/ and beside the README: their Python runs, and their links lead somewhere."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md"))]
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_relative_links_lead_to_files(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_samplers_of_the_architecture_page_run() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    printed = io.StringIO()
    namespace: dict[str, Any] = {}
    with contextlib.redirect_stdout(printed):
        exec(compile(block, "docs/architecture.md", "exec"), namespace)
    rows = [line.split() for line in printed.getvalue().splitlines()]
    assert [int(nfe) for nfe, _ in rows] == [35, 26, 401]
    assert all(abs(float(std) - 1.01**0.5) < 0.05 for _, std in rows)


def test_published_versions_are_those_of_the_package() -> None:
    import scoresde

    assert f"\nversion: {scoresde.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## [{scoresde.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
