"""`scoresde import`: a checkpoint that another project published, as a run directory."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from scoresde.cli.catalogue import conf_dir, options
from scoresde.cli.console import UsageError, fail, nearest
from scoresde.cli.processes import interrupted, interruptible
from scoresde.training.interruptions import Stopped

__all__ = ["KEYS", "import_command"]

KEYS = {
    "config": "NAME of a published configuration, or a JSON or YAML file; for score_sde and guided-diffusion",
    "weights": "ema or raw: which of the weights, where the file has both",
    "run": "directory to write; by default runs/ and the name of the file",
    "data": "the choice of `scoresde list data` that reads what the model was trained on, with data.path=... and so on",
}

_HELP = """scoresde import: make a run directory of a checkpoint that another project published. Nothing in it is run.

usage: scoresde import FILE [key=value ...]

  FILE   .pth of score_sde_pytorch, .pkl of EDM or EDM2, .pt of guided-diffusion or improved-diffusion, or a folder of
         diffusers; which of them is told from its content

Afterwards sample, likelihood, compare, tune, evaluate and report take run=DIR as for any other run.

keys
{keys}

published configurations
  score_sde: {score_sde}
  guided-diffusion and improved-diffusion: {guided}"""


def import_command(arguments: Sequence[str]) -> None:
    """Import as the command line says; exits if that fails."""
    if {"-h", "--help"} & set(arguments):
        print(_help())
        return
    try:
        path, given, data = _parse(arguments)
        interruptible()
        run, checkpoint = _imported(path, given, data)
    except UsageError as error:
        fail(str(error), 2)
    except Stopped as stop:  # what is half written is removed
        fail(interrupted(stop.signum), 128 + stop.signum)
    except (ValueError, ImportError) as error:
        fail(" ".join(str(error).split()))
    except OSError as error:
        fail(f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else ""))
    for note in checkpoint.notes:
        print(note)
    count = run.summary()["parameters"]
    print(f"{checkpoint.family}: {count:,} parameters, {checkpoint.weights}, shape {checkpoint.info.shape}")
    print(f"written to {run.directory}; next: scoresde sample {shlex.quote(f'run={run.directory}')}")


def _help() -> str:
    from scoresde.interop.published import GUIDED, SCORE_SDE

    keys = "\n".join(f"  {name:<8} {text}" for name, text in KEYS.items())
    return _HELP.format(keys=keys, score_sde=", ".join(SCORE_SDE), guided=", ".join(GUIDED))


def _parse(arguments: Sequence[str]) -> tuple[Path, dict[str, str], dict[str, Any] | None]:
    """The file, the keys, and the configuration of the data."""
    paths = [a for a in arguments if "=" not in a or Path(a).exists()]
    wrong = next((a for a in paths if a.startswith("-")), None)
    if wrong is not None:
        raise UsageError(f"import has no option {wrong}: it takes FILE and key=value")
    if len(paths) != 1:
        raise UsageError(f"import takes one file or folder, got {shlex.join(paths) or 'none'}")
    given = dict(a.partition("=")[::2] for a in arguments if a not in paths)
    unknown = next((key for key in given if key not in KEYS and not key.startswith("data.")), None)
    if unknown is not None:
        raise UsageError(f"import has no {unknown!r}{nearest(unknown, list(KEYS))}; it takes {', '.join(KEYS)}")
    if given.get("weights", "ema") not in ("ema", "raw"):
        raise UsageError(f"weights is {given['weights']!r}, expected ema or raw")
    of_data = {key.removeprefix("data."): given.pop(key) for key in list(given) if key.startswith("data.")}
    return Path(paths[0]), given, _data(given.pop("data", None), of_data)


def _data(name: str | None, given: dict[str, str]) -> dict[str, Any] | None:
    if name is None:
        if given:
            raise UsageError(f"data.{next(iter(given))} is given without data=NAME, the choice that reads them")
        return None
    if name not in options("data"):
        raise UsageError(f"data has no choice {name!r}{nearest(name, options('data'))}: see scoresde list data")
    node: dict[str, Any] = yaml.safe_load((conf_dir() / "data" / f"{name}.yaml").read_text(encoding="utf-8"))
    for key, text in given.items():
        if key not in node or key.startswith("_"):
            raise UsageError(f"data={name} has no {key!r}{nearest(key, [k for k in node if k[0] != '_'])}")
        try:
            node[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"data.{key}={text} cannot be read as a value: write lists as [3,32,32]") from error
    return node


def _imported(path: Path, given: dict[str, str], data: dict[str, Any] | None) -> tuple[Any, Any]:
    from scoresde.interop.recognised import read_checkpoint
    from scoresde.runs.directory import check_name
    from scoresde.runs.imports import import_checkpoint

    if given.get("run") == "":
        raise UsageError("run is empty, expected the directory to write")
    directory = Path(given.get("run") or Path("runs") / path.absolute().stem)
    check_name(directory.name)
    if directory.exists() or directory.is_symlink():
        raise UsageError(f"{directory} is there already, and is not replaced: give run=DIR with another name")
    checkpoint = read_checkpoint(path, _configuration(given.get("config")), given.get("weights", "ema"))
    parts = {
        group: yaml.safe_load((conf_dir() / group / "default.yaml").read_text(encoding="utf-8"))
        for group in ("sampler", "evaluation")
    }
    return import_checkpoint(checkpoint, directory, parts, data), checkpoint


def _configuration(text: str | None) -> Any:
    """The content of a configuration's file, or its published name."""
    if text is None:
        return None
    path = Path(text)
    if path.suffix not in (".json", ".yaml", ".yml"):
        return text
    if not path.is_file():
        raise UsageError(f"{path} does not exist: give the file with the model's configuration, or a published name")
    if path.suffix == ".json":
        from scoresde.storage.bounded import read_json

        return read_json(path, dict)
    from scoresde.storage.bounded_yaml import read_yaml

    return read_yaml(path)
