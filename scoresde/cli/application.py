"""A command as a Hydra application: what is done to its arguments, and its job, alone or in a sweep."""

import logging
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from scoresde.cli import sweeps
from scoresde.cli.choices import check_extras, conf_dir
from scoresde.cli.output import UsageError, Verbosity, configure, fail
from scoresde.cli.overrides import check_overrides, follow_sweeps, is_sweep, name_directory
from scoresde.cli.studies import with_study

__all__ = ["run"]

_log = logging.getLogger(__name__)


def run(command: str, arguments: Sequence[str], verbosity: Verbosity) -> None:
    """Run a command; exits if it does not do what was asked."""
    sweep: Path | None = None
    try:
        arguments = name_directory(command, arguments)
        check_extras(arguments)
        arguments = sweeps.expand_repeats(command, arguments)
        check_overrides(command, arguments)
        arguments = follow_sweeps(arguments)
        if verbosity is Verbosity.QUIET and not any(a.startswith("progress=") for a in arguments):
            arguments = [*arguments, "progress=false"] if command != "report" else arguments
        if is_sweep(arguments):
            arguments, sweep = sweeps.choose_directory(arguments)
            arguments = with_study(command, arguments)
    except UsageError as error:
        fail(str(error), 2)
    sys.argv = [f"scoresde {command}", *arguments]
    application: Any = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=command)
    if sweep is None:
        application(Job(command, verbosity))()
        return
    if verbosity is not Verbosity.QUIET:
        print(f"sweep {sweep}", flush=True)
    status = 0
    try:
        application(Job(command, verbosity))()
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    status = sweeps.conclude(sweep, status)
    if status:
        sys.exit(status)


class Job:
    """What Hydra calls, in this process or in one of a launcher's."""

    def __init__(self, command: str, verbosity: Verbosity) -> None:
        self.command = command
        self.verbosity = verbosity

    def __call__(self, config: DictConfig) -> Any:
        from scoresde.cli import commands

        configure(self.verbosity)
        task = commands.TASKS[self.command]
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return sweeps.run_job(task, config, explanation, said=self.verbosity is not Verbosity.QUIET)
        return _alone(task, config)


def _alone(task: Any, config: DictConfig) -> None:
    from scoresde.training.loop import Interrupted

    try:
        task(config)
    except Interrupted as stop:
        again = [f"run={config.run}"] + ([f"allow=[{','.join(config.allow)}]"] if config.allow else [])
        how = f"scoresde train {shlex.join(again)}"
        print(f"\nstopped at step {stop.step} with a checkpoint written; to go on: {how}", file=sys.stderr)
        sys.exit(128 + stop.signum)
    except KeyboardInterrupt:
        hint = f"; to go on: scoresde train run={config.run}" if "training" in config and config.run else ""
        print(f"\nscoresde: interrupted{hint}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        text = explanation(error)
        # With SCORESDE_TRACEBACK set, the traceback of any error: for those who work on the code.
        if text is None or os.environ.get("SCORESDE_TRACEBACK"):
            raise
        fail(text)


def explanation(error: Exception) -> str | None:
    """What to say of an error that a user can do something about, in one line; None of one in the code."""
    import torch

    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror or error}{where}: what was complete is kept"
    if isinstance(error, torch.OutOfMemoryError):
        first = str(error).split(".")[0]
        return f"{first}: lower training.batch_size (or batch_size), or take a smaller network"
    if isinstance(error, ValueError | ArithmeticError | TypeError | ImportError | OmegaConfBaseException):
        return " ".join(str(error).split())
    return None
