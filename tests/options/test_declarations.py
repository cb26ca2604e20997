"""Signatures read from source are those of the classes that are imported."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scoresde.cli import conf_dir
from scoresde.config.targets import _find_target
from scoresde.options.declarations import declaration
from scoresde.options.signatures import _signature, expected


def targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from [node["_target_"]] if "_target_" in node else []
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from targets(value)


NAMED = sorted({t for path in conf_dir().rglob("*.yaml") for t in targets(yaml.safe_load(path.read_text("utf-8")))})
# Whose annotations name classes of other packages.
UNKNOWN = {("scoresde.sampling.ScipyODE", "method"), *((t, "params") for t in NAMED if t.startswith("torch.optim."))}


@pytest.mark.parametrize("target", NAMED)
def test_a_declaration_is_the_signature(target: str) -> None:
    found = declaration(target)
    parameters, hints = _signature(_find_target(target, ()))
    assert found.parameters is not None
    assert list(found.parameters) == list(parameters)
    for name, parameter in parameters.items():
        read = found.parameters[name]
        assert read.kind == parameter.kind
        assert (read.default is read.empty) == (parameter.default is parameter.empty)
        if isinstance(parameter.default, bool):
            assert read.default is parameter.default
        if (target, name) not in UNKNOWN:
            assert expected(found.hints.get(name, Any)) == expected(hints.get(name, Any)), name


def test_classes_of_the_package_keep_their_bases() -> None:
    heun, euler = (declaration(f"scoresde.sampling.{name}").kind for name in ("Heun", "Euler"))
    assert heun is not None
    assert euler is not None
    solver = declaration("scoresde.sampling.solver.Solver").kind
    assert solver is not None
    assert issubclass(heun, solver)
    assert issubclass(euler, solver)
    assert not issubclass(heun, euler)


@pytest.mark.parametrize(
    "target",
    ["scoresde.sampling.Huen", "scoresde.nowhere.Heun", "no_such_package.Net", "Heun", "", None, 3, "a b.C", "a..C"],
)
def test_what_is_not_found_is_unknown(target: Any) -> None:
    assert declaration(target).parameters is None


def test_what_is_not_plain_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "declared_here"
    package.mkdir()
    (package / "__init__.py").write_text(
        "raise ImportError('it is not imported')\n"
        "from dataclasses import dataclass, field\n"
        "from .other import Moved as Renamed\n"
        "from elsewhere import Base\n"
        "class Odd(Base): pass\n"
        "@dataclass\n"
        "class First:\n    a: int\n    b: 'float | None' = None\n"
        "@dataclass\n"
        "class Second(First):\n    c: list[int] = field(default_factory=list)\n    a: str = 'x'\n"
        "    hidden: int = field(init=False)\n"
        "def function(x, *, y: bool = True, **more: int): ...\n"
    )
    (package / "other.py").write_text("class Moved:\n    def __init__(self, width: 'int' = 3) -> None: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert declaration("declared_here.Odd").parameters is None
    second = declaration("declared_here.Second")
    assert list(second.parameters or {}) == ["a", "b", "c"]
    assert second.hints == {"a": str, "b": float | None, "c": list[int]}
    assert declaration("declared_here.Renamed").hints == {"width": int}
    function = declaration("declared_here.function")
    assert function.hints == {"y": bool}
    assert [p.kind.name for p in (function.parameters or {}).values()] == [
        "POSITIONAL_OR_KEYWORD",
        "KEYWORD_ONLY",
        "VAR_KEYWORD",
    ]
    assert "declared_here" not in sys.modules


def test_bases_that_are_unknown_or_have_the_name_of_the_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "declared_bases"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from elsewhere import Base, Mixin\n"
        "from scoresde.sde import VPSDE\n"
        "class Two(Base, Mixin):\n    def __init__(self, width: int) -> None: ...\n"
        "class VPSDE(VPSDE): pass\n"
        "class Odd(Late, Two): pass\n"
        "class Late(Two): pass\n"
        "class Wrong(Two, Late): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert declaration("declared_bases.Two").hints == {"width": int}
    assert declaration("declared_bases.Odd").hints == {"width": int}
    assert declaration("declared_bases.VPSDE").parameters is None
    assert declaration("declared_bases.Wrong").parameters is None
