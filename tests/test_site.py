"""The documentation site: its pages name what exists, its Python runs, and its tables have every sampler.

`.ci/run` builds it with warnings as errors; here is what a build does not see.
"""

import contextlib
import importlib
import io
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import scoresde

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted((DOCS / "samplers").glob("*.md")), *sorted((DOCS / "moving").glob("*.md"))]
PAGES += [DOCS / f"{name}.md" for name in ("choose_sampler", "choose_likelihood", "extend", "faq", "gallery", "index")]
NOT_OURS = {"BrownianTreeNoiseSampler", "Denoiser"}


@pytest.fixture(scope="module", autouse=True)
def extension() -> Any:
    sys.path.insert(0, str(DOCS / "_ext"))
    yield
    sys.path.remove(str(DOCS / "_ext"))


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


def public() -> set[str]:
    found: set[str] = set(scoresde.__all__)
    for name in scoresde.__all__:
        found |= set(getattr(getattr(scoresde, name), "__all__", ()))
    return found


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_links_lead_to_files_and_sections(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    made = ("api", "papers")  # by the build
    for target in re.findall(r"\]\((?!https?://|#)([^)#\s]+)(?:#[^)]*)?\)", text):
        place = page.parent / target
        assert place.exists() or place.resolve().relative_to(DOCS).parts[0] in made, target
    for target in re.findall(r"^```\{include\} (.+)$", text, re.M):
        assert (page.parent / target).is_file(), target


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_last_column_of_a_table_names_what_is_here(page: Path) -> None:
    known = public()
    for line in page.read_text(encoding="utf-8").splitlines():
        if not line.startswith("| ") or page.parent.name != "moving" or page.stem == "index":
            continue
        for quoted in re.findall(r"`([^`]+)`", line.strip("| ").split(" | ")[-1]):
            for name in re.findall(r"(?<![\w.=\"'])([A-Z][A-Za-z0-9]+)\b(?!\.\w+=)", quoted):
                assert name in known or name in {"DIR", "FILE"} or "." in quoted.split("(")[0], (name, quoted)


@pytest.mark.parametrize("page", ["choose_sampler", "extend", "moving/k_diffusion"])
def test_the_python_of_a_page_runs(page: str) -> None:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    printed, namespace = io.StringIO(), dict[str, Any]()
    with contextlib.redirect_stdout(printed):
        for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
            exec(compile(block, f"docs/{page}.md", "exec"), namespace)
    if page == "extend":
        nfe, std = printed.getvalue().split()
        assert int(nfe) == 51
        assert abs(float(std) - 1.01**0.5) < 0.05
    elif page == "moving/k_diffusion":
        assert abs(float(namespace["out"].x.mean()) - 0.3) < 0.1
        assert abs(float(namespace["out"].x.std()) - 0.7) < 0.05
    else:
        assert sorted(namespace["frame"]["steps"]) == [10, 10, 20, 20]


def test_commands_of_pages_name_choices_and_keys_that_exist() -> None:
    from scoresde.cli.catalogue import groups, options

    known = {group: options(group) for group in groups()}
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    told = re.findall(
        r"\b([a-z]+)=([a-z][a-z0-9_]*)\b(?![\[/(])", "\n".join(re.findall(r"`[^`\n]+`|scoresde .*", text))
    )
    checked = [(group, name) for group, name in told if group in known]
    assert len(checked) > 10
    assert {(group, name) for group, name in checked if name not in known[group]} == set()


def test_links_of_a_page_follow_it_to_its_place() -> None:
    staging = load("staging")
    page = DOCS / "project" / "readme.md"

    def seen(text: str) -> str:
        found: str = staging.relinked(text, ROOT / "README.md", page)
        return found

    assert seen("[a](docs/guidance.md#x)") == "[a](../guidance.md#x)"
    assert seen("[a](CHANGELOG.md)") == "[a](changelog.md)"
    assert seen("[a](notebooks/1_tour.ipynb)") == "[a](../notebooks/1_tour.ipynb)"
    assert seen("![a](docs/report.png)") == "![a](../report.png)"
    assert seen("[a](conf/sde/vp.yaml)") == f"[a]({staging.SOURCE}/conf/sde/vp.yaml)"
    assert seen("[a](https://b.org) [c](#d)") == "[a](https://b.org) [c](#d)"


def test_docstrings_become_restructured_text() -> None:
    converted = load("markdown_docstrings").converted
    assert converted(["The norm |x|² of `x`s, p* and **cond."]) == [
        "The norm \\|x\\|² of ``x``\\ s, p\\* and \\*\\*cond.",
        "",
    ]
    assert converted(["So:", "", "    a = b|c|", "", "Args:", "    x: A `Tensor`."]) == [
        "So:", "", "::", "", "    a = b|c|", "", "Args:", "    x: A ``Tensor``.", "",
    ]  # fmt: skip
    table = converted(["| a | b |", "| --- | --- |", "| `c` | d |"])
    assert table[:3] == [".. list-table::", "   :header-rows: 1", ""]
    assert table[3:7] == ["   * - a", "     - b", "   * - ``c``", "     - d"]
    assert converted([">>> 2 * 3  # `a|b`", "6"]) == [">>> 2 * 3  # `a|b`", "6", ""]


def test_papers_lead_to_classes_and_choices() -> None:
    papers = load("papers")
    rows = {line.split(",")[0].strip("| "): line for line in papers.page().splitlines() if line.startswith("| ")}
    assert "`UniPC`" in rows["Zhao et al. 2023"]
    assert "`sampler=unipc`" in rows["Zhao et al. 2023"]
    two = [line for line in papers.page().splitlines() if line.startswith("| Liu et al. 2022 (")]
    assert ["`IPNDM`" in line and "`sampler=ipndm`" in line for line in two].count(True) == 1
    assert ["`FlowSDE`" in line and "`sde=flow`" in line for line in two].count(True) == 1
    work = papers.works()[0]
    assert papers.cites(f"as {work.words} has it", work)
    assert not papers.cites(f"as {work.words}b has it", work)
