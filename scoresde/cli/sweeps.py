"""The beginning of a sweep: repeats, what makes no sense for several jobs, and its directory.

Runs of a sweep lie where those of `scoresde train` do, named by their configuration, so that a sweep which is repeated
finds what is finished and resumes what is not.
"""

import itertools
import re
from contextlib import suppress
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TypeGuard

from filelock import FileLock, Timeout

from scoresde.cli.command_line import CommandLine, text_of
from scoresde.cli.console import UsageError, nearest
from scoresde.cli.spaces import MOST_JOBS
from scoresde.shell import override

__all__ = ["check_extras", "check_sweep", "expand_repeats", "make_directory", "requeue"]

_EXTRAS = {
    "hydra/launcher=joblib": ("hydra_plugins.hydra_joblib_launcher", "sweep"),
    "hydra/launcher=submitit_local": ("hydra_plugins.hydra_submitit_launcher", "sweep"),
    "hydra/launcher=submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "sweep"),
    "hydra/sweeper=optuna": ("optuna", "sweep"),
    "hydra/launcher=ray": ("hydra_plugins.hydra_ray_launcher", "ray"),
    "hydra/launcher=ray_aws": ("hydra_plugins.hydra_ray_launcher", "ray"),
    "logger=aim": ("aim", "aim"),
    "logger=clearml": ("clearml", "clearml"),
    "logger=comet": ("comet_ml", "comet"),
    "logger=mlflow": ("mlflow", "mlflow"),
    "logger=tensorboard": ("tensorboard", "tensorboard"),
    "logger=trackio": ("trackio", "trackio"),
    "logger=wandb": ("wandb", "wandb"),
}


def check_extras(line: CommandLine) -> None:
    """Reject a launcher or sweeper of Hydra, or a logger, whose package is not installed.

    Raises:
        UsageError: The message says what to install, or the nearest name that exists.
    """
    for argument in line.texts:
        key, _, name = argument.lstrip("+").partition("=")
        if key == "logger":
            for each in re.findall(r"\w+", name):
                _check_installed(f"logger={each}")
        if key not in ("hydra/launcher", "hydra/sweeper"):
            continue
        known = ["basic", *(e.partition("=")[2] for e in _EXTRAS if e.startswith(key))]
        if name not in known:
            raise UsageError(f"{key} has no choice {name!r}{nearest(name, known)}; expected one of {', '.join(known)}")
        _check_installed(f"{key}={name}")


def _check_installed(choice: str) -> None:
    module, extra = _EXTRAS.get(choice, ("", ""))
    if module and (find_spec(module.partition(".")[0]) is None or find_spec(module) is None):
        raise UsageError(f"{choice} needs a package that is not installed: pip install 'scoresde[{extra}]'")


def expand_repeats(line: CommandLine) -> CommandLine:
    """`repeats=n` as a sweep over n seeds; where a sweeper chooses configurations itself, a job has the repeats.

    Raises:
        UsageError: Not an integer, or seeds that are swept over besides.
    """
    given = line.get("repeats")
    if given is not None and given.is_sweep_override():
        raise UsageError(f"{text_of(given)!r}: expected one number of repeats")
    if line.command != "train" or given is None:
        return line
    count = given.value()
    if line.get("run") is not None:
        raise UsageError(f"{text_of(given)!r} is of new runs: leave out run")
    if not _is_integer(count) or count < 1:
        raise UsageError(f"repeats is {count!r}, expected an integer of at least 1")
    if count > MOST_JOBS:
        raise UsageError(f"repeats is {count}, the limit is {MOST_JOBS:,}: give fewer")
    if count == 1 or line.value("hydra/sweeper", "basic") != "basic":
        return line
    seed = line.get("training.seed")
    first = 0 if seed is None else seed.value()
    if not _is_integer(first):
        raise UsageError(
            f"{text_of(seed)!r} with repeats={count}: give one seed, the first, or leave out repeats"  # type: ignore[arg-type]
        )
    seeds = ",".join(str(first + i) for i in range(count))
    return line.leaving_out(given, seed).as_sweep().adding(f"training.seed={seeds}")


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def requeue(line: CommandLine) -> CommandLine:
    """Have submitit's jobs started again after their time is over, as often as it takes: each resumes a checkpoint.

    What is given stays as it is. On this machine, where nothing waits in a queue, jobs have a month.
    """
    key, value = {
        "submitit_slurm": ("hydra.launcher.max_num_timeout", 1000),
        "submitit_local": ("hydra.launcher.timeout_min", 30 * 24 * 60),
    }.get(str(line.value("hydra/launcher")), ("", 0))
    return line.adding(f"{key}={value}") if key and line.get(key) is None else line


def make_directory(line: CommandLine) -> tuple[CommandLine, Path, FileLock]:
    """Make a sweep's directory, and lock it while the sweep runs.

    Returns:
        The line with the directory in it, the directory, and its lock, which the caller releases.

    Raises:
        UsageError: A directory whose name is not plain, or that another sweep is using.
    """
    given = line.value("hydra.sweep.dir")
    if given is not None:
        directory = Path(str(given))
        if "${" in str(given):
            raise UsageError(f"hydra.sweep.dir is {given}, expected a plain path")
        directory.mkdir(parents=True, exist_ok=True)
        lock = _lock(directory)
        # Files of an earlier sweep; anything else there is not the sweep's to remove.
        for file in (directory / "jobs").glob("*"):
            if re.fullmatch(r"\d{3,}\.(json|log)", file.name):
                file.unlink()
        return line, directory, lock
    root = Path(str(line.value("runs", "runs"))) / "sweeps"
    root.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in itertools.count(1):
        directory = root / (stamp if number == 1 else f"{stamp}-{number}")
        with suppress(FileExistsError):
            directory.mkdir()
            break
    return line.adding(override("hydra.sweep.dir", directory)), directory, _lock(directory)


def _lock(directory: Path) -> FileLock:
    lock = FileLock(directory / "sweep.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(f"{directory} is in use by another sweep: let it end first, or give another folder") from error
    return lock


def check_sweep(line: CommandLine) -> None:
    """Reject what makes no sense for several jobs, or for one alone.

    Raises:
        UsageError: What to change.
    """
    if not line.is_sweep:
        for key in ("hydra/launcher", "hydra/sweeper"):
            if line.value(key, "basic") != "basic":
                raise UsageError(f"{text_of(line.get(key))} is for several jobs: add --multirun")  # type: ignore[arg-type]
        return
    if line.flag("--cfg") is not None:
        raise UsageError("--cfg shows the configuration of one job: leave out --multirun, and lists of choices")
    name = line.get("name")
    if name is not None and not name.is_sweep_override() and name.value() is not None:
        raise UsageError(f"{text_of(name)} would be the name of every job: leave it out, each gets one of its own")
