"""`scoresde convert`: data of any format that is read, as an .npz file or as pictures in a zip or folder."""

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from scoresde.cli.catalogue import conf_dir, options
from scoresde.cli.console import UsageError, fail, nearest
from scoresde.cli.processes import interrupted, interruptible
from scoresde.training.interruptions import Stopped

__all__ = ["convert", "keys"]

_HELP = """scoresde convert: read data of any format that is known, and write them as this package reads them best.

usage: scoresde convert SOURCE DESTINATION [data=NAME] [key=value ...]

  SOURCE       a file, folder or archive; its format is told from its content, or named by data=NAME
  DESTINATION  FILE.npz, or pictures in FILE.zip or in a new folder; nothing that is there is replaced

What is held out to test on stays apart, and classes keep their names.

keys{keys}"""


def convert(arguments: Sequence[str]) -> None:
    """Convert data as the command line says; exits if that fails."""
    if {"-h", "--help"} & set(arguments):
        print(_HELP.format(keys=_explained()))
        return
    try:
        source, destination, node = _parse(arguments)
        _check_destination(destination)
        data = _read(node)
        _write(data, destination)
    except UsageError as error:
        fail(str(error), 2)
    except Stopped as stop:  # what is half written is removed
        fail(interrupted(stop.signum), 128 + stop.signum)
    except (ValueError, ImportError) as error:
        fail(" ".join(str(error).removeprefix("convert: ").split()))
    except OSError as error:
        fail(f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else ""))
    print(f"{source}: {len(data.train)} to train on, {len(data.test)} to test on, shape {data.shape}")
    print(f"written to {destination}; to use it: scoresde train {_how_to_read(data, destination)}")


def keys(words: Sequence[str]) -> list[str]:
    """Keys that the command takes after these words: those of the choice that they name."""
    name = next((w.partition("=")[2] for w in words if w.startswith("data=")), "file")
    return [key for key in _choice(name) if key not in ("_target_", "path")] if name in _choices() else []


def _choices() -> list[str]:
    """The choices that read a file."""
    return [name for name in options("data") if "path" in _choice(name)]


def _choice(name: str) -> dict[str, Any]:
    node: dict[str, Any] = yaml.safe_load((conf_dir() / "data" / f"{name}.yaml").read_text(encoding="utf-8"))
    return node


def _explained() -> str:
    first = "data: null            # the choice of `scoresde list data` that reads it; null: by its content"
    text = (conf_dir() / "data" / "file.yaml").read_text(encoding="utf-8").partition("path:")[2]
    return "".join(f"\n  {line}" for line in [first, *text.splitlines()[1:]])


def _parse(arguments: Sequence[str]) -> tuple[str, Path, dict[str, Any]]:
    """Source, destination, and the configuration of what reads the source."""
    paths = [a for a in arguments if "=" not in a or Path(a).exists()]
    wrong = next((a for a in paths if a.startswith("-")), None)
    if wrong is not None:
        raise UsageError(f"convert has no option {wrong}: it takes SOURCE DESTINATION and key=value")
    if len(paths) != 2:
        raise UsageError(f"convert takes a source and a destination, got {shlex.join(paths) or 'neither'}")
    given = dict(a.removeprefix("data.").partition("=")[::2] for a in arguments if a not in paths)
    name = given.pop("data", "file")
    if name not in _choices():
        raise UsageError(
            f"data has no choice {name!r}{nearest(name, _choices())}; expected one of {', '.join(_choices())}"
        )
    node = _choice(name)
    for key, text in given.items():
        if key not in node or key in ("_target_", "path"):
            known = [k for k in node if k not in ("_target_", "path")]
            raise UsageError(
                f"convert has no {key!r}{nearest(key, known)}; with data={name} it takes {', '.join(known)}"
            )
        try:
            node[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"{key}={text} cannot be read as a value: write lists as [3,32,32]") from error
    return paths[0], Path(paths[1]), {**node, "path": paths[0]}


def _check_destination(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} is there already, and is not replaced: give another name, or remove it")
    if path.suffix not in ("", ".npz", ".zip"):
        raise UsageError(
            f"{path} is to be of the format {path.suffix}: give a name with .npz or .zip, or that of a folder"
        )


def _read(node: dict[str, Any]) -> Any:
    from omegaconf import OmegaConf

    from scoresde.config.targets import instantiate

    return instantiate(OmegaConf.create({"convert": node}), "convert")


def _write(data: Any, destination: Path) -> None:
    from scoresde.data import writing
    from scoresde.storage.files import new_folder, write_atomically

    interruptible()
    if destination.suffix == ".npz":
        write_atomically(destination, partial(writing.write_npz, data))
        return
    writing.check_pictures(data)
    if destination.suffix == ".zip":
        write_atomically(destination, partial(writing.write_zip, data))
        return
    with new_folder(destination) as made:
        writing.write_folder(data, made)


def _how_to_read(data: Any, destination: Path) -> str:
    path = shlex.quote(f"data.path={destination}")
    if destination.suffix == ".npz":
        levels = data.transform.levels
        return f"data=npz {path}" + (f" data.levels={levels}" if levels not in (None, 256) else "")
    return f"data=edm {path}" + (f" data.channels={data.shape[0]}" if data.shape[0] != 3 else "")
