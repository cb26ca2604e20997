"""The module graph has no circle, with imports inside functions and for annotations counted.

The floors are held by import-linter (`lint-imports`), and this test holds what is inside a floor.
"""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import scoresde

ROOT = Path(scoresde.__file__).parent

# Arrows that are not counted, each with its reason.
EXCEPTIONS: dict[tuple[str, str], str] = {}


def module_name(path: Path) -> str:
    parts = ("scoresde", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imported(name: str, source: str, is_package: bool, modules: set[str]) -> set[str]:
    """Modules of the package that a source imports anywhere in it, by their full names."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".")
                package = parts[: len(parts) - node.level + is_package]
                base = ".".join([*package, *filter(None, [node.module])])
            # A name of a package is one of its modules, or something that its __init__ hands on.
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base for alias in node.names}
    return (found & modules) - {name}


def test_every_form_of_import_is_seen() -> None:
    source = """
import a.b, torch
from a import c, value
from . import near
from .far import thing
from ..up import other
def f():
    from a.late import x
"""
    modules = {"a", "a.b", "a.c", "a.late", "a.p", "a.p.m", "a.p.near", "a.p.far", "a.up"}
    expected = {"a", "a.b", "a.c", "a.late", "a.p.near", "a.p.far", "a.up"}
    assert imported("a.p.m", source, False, modules) == expected
    assert imported("a.p", "from .far import thing", True, modules) == {"a.p.far"}


def test_no_module_is_imported_by_what_it_imports() -> None:
    names = set(MODULES)
    graph = {
        name: imported(name, path.read_text(encoding="utf-8"), path.name == "__init__.py", names)
        for name, path in MODULES.items()
    }
    for arrow, reason in EXCEPTIONS.items():
        assert reason
        assert arrow[1] in graph[arrow[0]], f"{arrow} is no longer needed"
        graph[arrow[0]].remove(arrow[1])
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        # Each is imported by the next.
        raise AssertionError(" <- ".join(error.args[1])) from error


def test_the_page_on_architecture_shows_the_floors_of_the_contract() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no parser of TOML")
    settings = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
    (layers,) = [c["layers"] for c in settings["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    _, *floors = layers  # the first is what nothing imports
    page = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```text\n(.*?)^```", page, re.M | re.S)
    assert [re.split(r"  +", line)[0] for line in block.splitlines()] == floors


def test_what_is_checked_before_a_commit_is_checked_on_a_fresh_checkout() -> None:
    hooks = re.findall(r"^ +entry: (.+)$", (ROOT.parent / ".pre-commit-config.yaml").read_text(encoding="utf-8"), re.M)
    commands = (ROOT.parent / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    ruff, whole = [h for h in hooks if h.startswith("ruff")], [h for h in hooks if not h.startswith("ruff")]
    assert len(ruff) == 2  # of the files that are committed; elsewhere of all
    assert whole
    assert all(any(command.startswith(hook) for command in commands) for hook in whole)
