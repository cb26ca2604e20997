"""Choices by name: the files of `conf/`, whose first line describes each and names its source.

`--config-dir` and `hydra.searchpath` add further folders of such files.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from scoresde.cli.console import UsageError, fail, nearest, print_table, wrapped
from scoresde.config.words import conf_dir

__all__ = [
    "conf_dir",
    "description",
    "flag_value",
    "further_folders",
    "groups",
    "options",
    "order_of",
    "show",
    "show_command",
    "source",
]

# Irregular plurals, as one word for the shell.
_PLURALS = {"data": "data_sets", "training": "training", "evaluation": "evaluation"}

_OF_ACCELERATE = "accelerate"  # a folder of files for another program, which are no choices


def groups(folders: Sequence[Path] = ()) -> list[str]:
    """Names of the groups, including those of further folders."""
    found = {p.name for f in (conf_dir(), *folders) for p in f.iterdir() if p.is_dir() and p.name[0] not in "._"}
    return sorted(found - {_OF_ACCELERATE})


def options(group: str, folders: Sequence[Path] = ()) -> list[str]:
    """Names of a group's choices, including those of further folders; one in a folder of the group is `FOLDER/NAME`."""
    places = [folder / group for folder in (conf_dir(), *folders)]
    return sorted({p.relative_to(at).with_suffix("").as_posix() for at in places for p in at.rglob("*.yaml")})


def description(group: str, name: str, folders: Sequence[Path] = ()) -> str:
    """The first comment of a choice's file, in one line."""
    lines = _first((conf_dir(), *folders), f"{group}/{name}.yaml").read_text(encoding="utf-8").splitlines()
    found = (line.lstrip("# ") for line in lines if line.startswith("#") and not line.startswith("# @package"))
    return next(found, "")


def order_of(group: str, name: str, folders: Sequence[Path] = ()) -> str:
    """The order of convergence that a choice's file states in a comment `# Order: ...`; empty if it has none.

    A number is the order of the endpoint's error, with "(weak)" that of the variance; that of a solver as the file sets
    it up, on its own grid.
    """
    text = _first((conf_dir(), *folders), f"{group}/{name}.yaml").read_text(encoding="utf-8")
    found = re.search(r"^# Order: (.*)$", text, re.M)
    return found[1] if found else ""


def settings_of(group: str, name: str) -> list[str]:
    """The lines of a choice's file that can be changed, with their comments."""
    lines = source(group, name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith(("#", "_"))]


def source(group: str, name: str) -> Path:
    """The file that has a choice's settings: its own, or that of another choice which it stands for by default."""
    path = conf_dir() / group / f"{name}.yaml"
    if path.is_file():
        stands_for = re.search(r"^defaults:\n  - (\w+)$", path.read_text(encoding="utf-8"), re.M)
        return source(group, stands_for[1]) if stands_for else path
    return path


def _first(folders: Iterable[Path], file: str) -> Path:
    """The file in the first folder that has it, which is the one that Hydra reads."""
    return next(path for path in (folder / file for folder in folders) if path.is_file())


# -- further folders ------------------------------------------------------------------------------------


def flag_value(arguments: Sequence[str], *names: str) -> str | None:
    """The value of a flag, written as the next argument or after an equals sign; None if it is not there."""
    for argument, after in zip(arguments, [*arguments, None][1:], strict=True):
        name, equals, value = argument.partition("=")
        if name in names:
            return value if equals else after
    return None


def further_folders(arguments: Sequence[str]) -> list[Path]:
    """Folders of configurations that the arguments name, in the order in which Hydra looks them up.

    Raises:
        UsageError: A folder does not exist.
    """
    given = (flag_value(arguments, "--config-path", "-cp"), flag_value(arguments, "--config-dir", "-cd"))
    folders = [_folder(text) for text in given if text is not None]
    texts = [a.partition("=")[2] for a in arguments if a.lstrip("+").startswith("hydra.searchpath=")]
    if texts:
        found = _yaml(texts[0])
    else:
        name = flag_value(arguments, "--config-name", "-cn")
        own = [path for path in (folder / f"{name}.yaml" for folder in folders) if path.is_file()]
        hydra = _yaml(own[0].read_text(encoding="utf-8")).get("hydra") if own else None
        found = hydra.get("searchpath") if isinstance(hydra, dict) else None
    return folders + [_folder(text) for text in found or () if isinstance(text, str)]


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text) or {}
    except yaml.YAMLError:  # Hydra reports it
        return {}


def _folder(text: str) -> Path:
    """The folder of an element of the search path: a path, `file://PATH` or `pkg://package.of.it`."""
    text = re.sub(r"\$\{oc\.env:(\w+)\}", lambda match: os.environ.get(match[1], ""), text)
    if text.startswith("pkg://"):
        package = text.removeprefix("pkg://").replace("/", ".")
        try:
            spec = find_spec(package)
        except ModuleNotFoundError:
            spec = None
        if spec is None or not spec.submodule_search_locations:
            raise UsageError(f"there is no package {package} of configurations; a folder is given by its path")
        return Path(spec.submodule_search_locations[0])
    path = Path(text.removeprefix("file://")).expanduser()
    if not text or not path.is_dir():
        raise UsageError(f"there is no folder {text!r} of configurations: it is taken from {Path.cwd()}")
    return path


# -- lists and help -------------------------------------------------------------------------------------


def _plural(group: str) -> str:
    return _PLURALS.get(group, f"{group}s")


def show(arguments: Sequence[str]) -> None:
    """Print the choices of the named groups, or all groups, including those of named further folders."""
    try:
        folders = further_folders(arguments)
    except UsageError as error:
        fail(str(error), 2)
    arguments = list(_without_folders(arguments))
    known = groups(folders)
    if not arguments or arguments[0] in ("-h", "--help"):
        names = {g: options(g, folders) for g in known}
        rows = [
            [_plural(g), str(len(names[g])), ", ".join(names[g][:5]) + (", ..." if len(names[g]) > 5 else "")]
            for g in known
        ]
        print_table(("scoresde list", "choices", "among them"), rows)
        return
    asked = {**{g: g for g in known}, **{_plural(g): g for g in known}}
    for argument in arguments:
        word = argument.lower().replace(" ", "_").replace("-", "_")
        if word not in asked:
            plurals = ", ".join(map(_plural, known))
            fail(f"nothing to list as {argument!r}{nearest(word, asked)}; expected one of {plurals}", 2)
        group = asked[word]
        choices = options(group, folders)
        rows = [[f"{group}={name}", description(group, name, folders)] for name in choices]
        if group == "sampler":
            orders = [order_of(group, name, folders) for name in choices]
            rows = [[choice, order, what] for (choice, what), order in zip(rows, orders, strict=True)]
        print_table(("choice", "order", "what it is") if group == "sampler" else ("choice", "what it is"), rows)


def _without_folders(arguments: Sequence[str]) -> Iterator[str]:
    """The arguments that do not name folders of configurations."""
    valued = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn")
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if before not in valued and argument.partition("=")[0] not in (*valued, "hydra.searchpath"):
            yield argument


def show_command(command: str, arguments: Sequence[str] = ()) -> None:
    """Print the help of a command: its groups with their choices, and its settings with the comments of its file."""
    try:
        folders = further_folders(arguments)
    except UsageError as error:
        fail(str(error), 2)
    text = (conf_dir() / f"{command}.yaml").read_text(encoding="utf-8")
    head, _, rest = text.partition("\ndefaults:\n")
    defaults, _, settings = rest.partition("\n\n")
    what = "\n".join(line.lstrip("# ") for line in head.splitlines())
    print(f"{what}\n\nusage: scoresde {command} [key=value ...] [--multirun]")
    chosen = re.findall(r"^  - (\w+): (\w+)", defaults, re.M)
    if chosen:
        print("\ngroups, by name; the first is the default, GROUP.KEY=VALUE changes a part of it")
        for group, default in chosen:
            names = [default, *(name for name in options(group, folders) if name != default)]
            print(wrapped(f"  {group:<16}", ", ".join(names)))
    print("\nsettings\n" + "\n".join(f"  {line}" for line in settings.partition("\nhydra:")[0].strip().splitlines()))
    for group, default in chosen:
        lines = settings_of(group, default) if default != "null" else []
        if lines:
            print(f"\n{group}.KEY, here of {group}={default}")
            print("\n".join(f"  {line}" for line in lines))
    print("\n`--cfg job` prints the whole configuration, `--hydra-help` what Hydra itself can be told.")
