"""Modules of the user's own, found in a folder of their own by the names that the user allows, and by no others.

The folder is looked in after everything that Python finds by itself, so that nothing there takes the place of an
installed package.
"""

import importlib
import site
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["find_in", "folder_of", "folders_for", "foreign", "packages", "top_level"]


class _Finder(MetaPathFinder):
    """Looks for the modules of some names in the folders given for them, the last first."""

    def __init__(self) -> None:
        self.folders: dict[str, list[str]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None or fullname not in self.folders:  # parts of a package are found by its own path
            return None
        return PathFinder.find_spec(fullname, self.folders[fullname])


_finder = _Finder()


def packages(allow: Iterable[str]) -> list[str]:
    """The names of packages and modules among what is allowed, without addresses of data."""
    return [name for name in allow if all(map(str.isidentifier, name.split(".")))]


def top_level(name: str) -> str:
    return name.partition(".")[0]


def find_in(folder: str | Path, allow: Iterable[str], first: bool = True) -> None:
    """Let the modules of these names be imported from a folder, in which no others are looked for.

    Args:
        folder: Folder with the modules; made absolute now.
        allow: Packages that the user trusts; of `a.b` the package is `a`.
        first: True to look there before the folders already known for these names, False for after.
    """
    if _finder not in sys.meta_path:
        sys.meta_path.append(_finder)
    place = str(Path(folder).absolute())
    # A file that was put there in the same tick of the clock as the folder was last looked at would not be seen.
    importlib.invalidate_caches()
    for name in map(top_level, packages(allow)):
        known = _finder.folders.setdefault(name, [])
        if place in known:
            known.remove(place)
        known.insert(0 if first else len(known), place)


def folders_for(name: str) -> list[str]:
    """Folders in which a top-level module is looked for after all others."""
    return list(_finder.folders.get(name, []))


def foreign(node: Any) -> list[str]:
    """The top-level packages that plain containers name by `_target_`, besides this one and PyTorch."""
    found: set[str] = set()
    if isinstance(node, dict):
        target = node.get("_target_")
        if isinstance(target, str) and packages([target]) and top_level(target) not in ("scoresde", "torch"):
            found.add(top_level(target))
        found.update(*map(foreign, node.values()))
    elif isinstance(node, list):
        found.update(*map(foreign, node))
    return sorted(found)


def folder_of(name: str) -> Path | None:
    """The folder that a top-level module lies in, which is not imported for it.

    None where there is no such module, or it is installed, so that it is found without a folder.
    """
    loaded = sys.modules.get(name)
    try:
        spec = getattr(loaded, "__spec__", None) or find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return None
    within = list(spec.submodule_search_locations or [])
    file = Path(within[0]) if within else Path(spec.origin or "")
    if not file.is_absolute() or any(file.is_relative_to(place) for place in _installed()):
        return None
    return file.parent


def _installed() -> list[str]:
    """Folders of the standard library and of installed packages."""
    paths = sysconfig.get_paths()
    return [*(paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")), site.getusersitepackages()]
