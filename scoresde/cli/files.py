"""The user's own configuration files, checked for keys that Hydra would put where nothing reads them."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.types import Override

from scoresde.cli.catalogue import conf_dir
from scoresde.cli.console import UsageError, nearest
from scoresde.cli.settings import declared

__all__ = ["check_files", "file_with_key"]


def check_files(command: str, overrides: Sequence[Override], folders: Sequence[Path]) -> None:
    """Reject files of further folders whose keys or defaults would have no effect, or another than they say.

    Args:
        command: Name of the command.
        overrides: Overrides that choose the files.
        folders: Folders with the files.

    Raises:
        UsageError: The message names the file, the line and what to write.
    """
    settings, groups = declared(command)
    for group, path in _chosen(overrides, folders):
        content, package, line = _read(path)
        if group == "experiment":
            _check_experiment(path, content, package, line, groups)
        elif group in groups and package not in (None, group):
            keys = [key for key in content if key != "defaults"]
            if package == "_global_" and (group in keys or all(key in settings or key in groups for key in keys)):
                continue
            raise UsageError(
                f"{path}:{line}: '# @package {package}' puts {keys[0] if keys else 'its keys'} "
                f"{'at the top' if package == '_global_' else f'under {package}'} instead of under {group}: take the "
                "line out"
            )


def file_with_key(key: str, overrides: Sequence[Override], folders: Sequence[Path]) -> Path | None:
    """The file among those chosen that puts the key at the top of the configuration."""
    for _, path in _chosen(overrides, folders):
        content, package, _ = _read(path)
        if package == "_global_" and key in content:
            return path
    return None


def _chosen(overrides: Sequence[Override], folders: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Groups and files that the overrides choose, of further folders.

    Raises:
        UsageError: A file that Hydra would pass over, as one that comes with the package has its name.
    """
    for override in overrides:
        if override.is_delete() or override.is_sweep_override():
            continue
        group, value = str(override.key_or_group), override.value()
        for name in value if isinstance(value, list) else [value]:
            paths = [folder / group / f"{name}.yaml" for folder in folders]
            path = next((path for path in paths if path.is_file()), None)
            if path is None:
                continue
            if (conf_dir() / group / f"{name}.yaml").is_file():
                raise UsageError(
                    f"{path} is not read, as {group}={name} is one of scoresde's own choices: give it another name"
                )
            yield group, path


def _read(path: Path) -> tuple[dict[Any, Any], str | None, int]:
    """The content of a file, the package that its comment gives, and the line of this.

    Raises:
        UsageError: No YAML, or no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.load(text, yaml.BaseLoader)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text in UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f":{mark.line + 1}"
        raise UsageError(f"{path}{where}: {getattr(error, 'problem', None) or 'this is no YAML'}") from error
    if not isinstance(content, dict | None | str) or (isinstance(content, str) and content):
        raise UsageError(f"{path} holds a {type(content).__name__}, expected a mapping: key: value")
    above = False
    for number, line in enumerate(text.splitlines(), 1):
        found = re.match(r"\s*#\s*@package\s+(\S+)", line)
        if found and above:
            raise UsageError(
                f"{path}:{number}: {line.strip()!r} is below another comment, where Hydra does not look: make it the "
                "first line"
            )
        if found:
            return content or {}, found[1], number
        if line.strip() and not line.lstrip().startswith("#"):
            break
        above = above or bool(line.strip())
    return content or {}, None, 0


def _check_experiment(
    path: Path, content: dict[Any, Any], package: str | None, line: int, groups: dict[str, str | None]
) -> None:
    keys = [key for key in content if key != "defaults"]
    if package is None:
        raise UsageError(
            f"{path} has no line '# @package _global_' at its top: without it {keys[0] if keys else 'all'} lands under "
            "experiment, where nothing reads it"
        )
    if keys and package != "_global_" and package not in groups:
        raise UsageError(
            f"{path}:{line}: '# @package {package}' puts {keys[0]} under {package}, where nothing reads it: write "
            "'# @package _global_'"
        )
    entries = content.get("defaults", [])
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and len(entry) == 1:
            ((key, choice),) = entry.items()
            _check_default(path, str(key), choice, groups)


def _check_default(path: Path, key: str, choice: Any, groups: dict[str, str | None]) -> None:
    words = key.split()
    group = words[-1].partition("@")[0]
    plain = group.lstrip("/")
    if words[0] == "override":
        if plain not in groups and not plain.startswith("hydra/"):
            raise UsageError(
                f"{path}: '- {key}: {choice}' names no group{nearest(plain, groups)}; expected one of "
                f"{', '.join(groups)}"
            )
        if not group.startswith("/"):
            raise UsageError(f"{path}: '- {key}: {choice}' needs a slash: write '- override /{plain}: {choice}'")
    elif plain in groups and "@" not in words[-1]:
        raise UsageError(
            f"{path}: '- {key}: {choice}' would be a second {plain}: write '- override /{plain}: {choice}'"
        )
    elif group.startswith("/") and not (conf_dir() / plain).is_dir() and nearest(plain, groups):
        raise UsageError(f"{path}: '- {key}: {choice}' names no group{nearest(plain, groups)}")
