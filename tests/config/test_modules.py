"""Modules of the current folder, by the names that are allowed and by no others."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from scoresde.config import modules
from scoresde.config.modules import find_in, folder_of, foreign, packages
from scoresde.config.targets import check_targets
from scoresde.options.errors import ConfigError

PREFIX = "test_modules_own_"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    for name in [name for name in sys.modules if name.startswith(PREFIX)]:
        del sys.modules[name]
    for name in [name for name in modules._finder.folders if name.startswith(PREFIX)]:
        del modules._finder.folders[name]


def write(folder: Path, name: str, text: str = "class Net:\n    pass\n") -> None:
    path = folder / f"{PREFIX}{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_only_the_named_modules_are_found(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path, name)
    find_in(tmp_path, [f"{PREFIX}a"])
    assert import_module(f"{PREFIX}a").Net
    with pytest.raises(ModuleNotFoundError):
        import_module(f"{PREFIX}b")
    assert str(tmp_path) not in sys.path


def test_packages_with_parts(tmp_path: Path) -> None:
    folder = tmp_path / f"{PREFIX}pack"
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").write_text("")
    (folder / "nets.py").write_text("class Net:\n    pass\n")
    name = f"{PREFIX}pack.nets"
    find_in(tmp_path, [name])
    check_targets({"_target_": f"{name}.Net"}, [name])
    assert folder_of(f"{PREFIX}pack") == tmp_path


def test_nothing_takes_the_place_of_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "installed"
    write(installed, "same", "PLACE = 'installed'\n")
    write(tmp_path, "same", "PLACE = 'here'\n")
    monkeypatch.syspath_prepend(installed)
    find_in(tmp_path, [f"{PREFIX}same"])
    assert import_module(f"{PREFIX}same").PLACE == "installed"
    assert folder_of(f"{PREFIX}same") == installed
    assert folder_of("torch") is None
    assert folder_of("json") is None
    assert folder_of("no_such_module") is None


def test_the_last_folder_comes_first(tmp_path: Path) -> None:
    for place in ("one", "two", "three"):
        write(tmp_path / place, "x", f"PLACE = {place!r}\n")
        find_in(tmp_path / place, [f"{PREFIX}x"], first=place != "three")
    assert import_module(f"{PREFIX}x").PLACE == "two"


def test_what_is_missing_is_told_with_the_way_out(tmp_path: Path) -> None:
    write(tmp_path, "main", f"import {PREFIX}helper\nclass Net:\n    pass\n")
    write(tmp_path, "helper")
    allow = [f"{PREFIX}main", f"{PREFIX}absent"]
    find_in(tmp_path, allow)
    with pytest.raises(ConfigError, match=rf"lies beside it: allow=\[{PREFIX}main,{PREFIX}helper\]$"):
        check_targets({"_target_": f"{PREFIX}main.Net"}, allow)
    with pytest.raises(ConfigError, match=f"no module {PREFIX}absent among the installed, nor in {tmp_path}$"):
        check_targets({"_target_": f"{PREFIX}absent.Net"}, allow)
    find_in(tmp_path, [f"{PREFIX}helper"])
    check_targets({"_target_": f"{PREFIX}main.Net"}, allow)


def test_names_of_packages() -> None:
    assert packages(["a", "a.b", "https://a.org/", "a-b", ""]) == ["a", "a.b"]
    parts = [{"_target_": "other.x.Y"}, {"_target_": "scoresde.sde.VPSDE"}]
    assert foreign({"network": {"_target_": "mine.Net", "parts": parts}}) == ["mine", "other"]
    assert foreign([{"_target_": "torch.optim.Adam"}, {"_target_": 3}, {"_target_": "no name"}]) == []
