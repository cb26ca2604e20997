"""A command as a Hydra application: its arguments are checked, then its job runs, alone or in a sweep."""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import hydra
from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from scoresde import progress, shell
from scoresde.cli import jobs, launchers
from scoresde.cli.catalogue import conf_dir
from scoresde.cli.command_line import CommandLine
from scoresde.cli.console import UsageError, Verbosity, configure, fail
from scoresde.cli.flags import show_info
from scoresde.cli.optuna import with_study
from scoresde.cli.overrides import check_overrides, edit_own, follow_sweeps, planned_jobs
from scoresde.cli.processes import SHARED, in_team, interrupted, interruptible, lost, rank, wait_for_first, world_size
from scoresde.cli.settings import declared, settle_paths
from scoresde.cli.spaces import check_spaces
from scoresde.cli.streams import end_of_output, outlive_readers
from scoresde.cli.sweep_end import conclude
from scoresde.cli.sweeps import check_extras, check_sweep, expand_repeats, make_directory, requeue
from scoresde.shell import override
from scoresde.training.interruptions import Stopped

__all__ = ["run"]


def run(command: str, arguments: Sequence[str], verbosity: Verbosity) -> None:
    """Run a command; exits if it does not do what was asked."""
    if rank() > 0 and command not in SHARED:
        return
    # Errors are raised here, to be reported in one line, instead of being printed by Hydra.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sweep: Sweep | None = None
    try:
        line = _checked(command, arguments, verbosity)
        if line.is_sweep:
            line = with_study(requeue(line))
            sweep, line = Sweep.begun(line)
    except UsageError as error:
        if rank() > 0:
            wait_for_first(2)
        fail(str(error), 2)
    except OSError as error:
        fail(explanation(error) or str(error))
    sys.argv = [f"scoresde {command}", *line.arguments]
    application: Any = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=command)
    job = application(Job(command, verbosity))
    if sweep is None:
        _run_alone(job, line)
    else:
        if verbosity is not Verbosity.QUIET:
            print(f"sweep {sweep.directory}", flush=True)
        status = sweep.run(job)
        if status:
            sys.exit(status)


def _checked(command: str, arguments: Sequence[str], verbosity: Verbosity) -> CommandLine:
    """The command line in the form that Hydra takes.

    Raises:
        UsageError: What is wrong, and what to do.
    """
    line = CommandLine.of(command, arguments)
    check_extras(line)
    line = expand_repeats(line)
    check_sweep(line)
    if line.is_sweep and world_size() > 1 and command in SHARED:
        raise UsageError(
            f"--multirun is for one process, and there are {world_size()}: start each job by itself, or leave out "
            "torchrun and share the jobs out by hydra/launcher=joblib"
        )
    if line.is_sweep:
        check_spaces(line.overrides)
    line = edit_own(line)
    check_overrides(line)
    line = follow_sweeps(line)
    if verbosity is Verbosity.QUIET and "progress" in declared(command)[0] and line.get("progress") is None:
        line = line.adding("progress=false")
    return line


def _run_alone(job: Callable[[], Any], line: CommandLine) -> None:
    """Run a command that is no sweep."""
    asked = set(line.flags)
    if "--info" in asked:
        show_info()
    try:
        job()
    except KeyboardInterrupt as stop:
        _leave_if_lost(stop)
        sys.exit(128 + _signum(stop))
    except Exception as error:
        text = explanation(error)
        if text is None or os.environ.get("SCORESDE_TRACEBACK"):
            raise
        print(f"scoresde: {text}", file=sys.stderr)
        sys.exit(1)
    if {"--cfg", "--info", "--hydra-help"} & asked:
        end_of_output()


@dataclass
class Sweep:
    """A sweep from its beginning to its end.

    Attributes:
        line: The command line, with the directory in it.
        directory: Directory of the sweep.
        lock: Held while it runs, so that no other sweep takes the directory.
        asked: Number of jobs, None where a sweeper decides.
    """

    line: CommandLine
    directory: Path
    lock: FileLock
    asked: int | None

    @classmethod
    def begun(cls, line: CommandLine) -> tuple["Sweep", CommandLine]:
        """Make the directory and announce the jobs; the sweep, and the line with the directory in it."""
        planned = planned_jobs(line)
        line, directory, lock = make_directory(line)
        jobs.announce(directory, planned or [])
        return cls(line, directory, lock, None if planned is None else len(planned)), line

    def run(self, application: Callable[[], Any]) -> int:
        """Run the jobs and say how they ended; the status to exit with."""
        status, none_said = self._launch(application)
        try:
            if none_said and jobs.none_began(self.directory):
                return status
            return conclude(self.directory, status, self.asked, self._how_to_resume(), self._deaths)
        except OSError as error:  # of a full disk, when records and the report are written
            print(f"scoresde: {explanation(error)}", file=sys.stderr)
            return status or 1
        finally:
            with suppress(OSError):
                Path(self.lock.lock_file).unlink(missing_ok=True)
            self.lock.release()

    def _launch(self, application: Callable[[], Any]) -> tuple[int, bool]:
        """Have the launcher run the jobs; its status, and True if the reason of its failure was printed in one line."""
        launcher = str(self.line.value("hydra/launcher", "basic"))
        self._deaths: Sequence[set[int]] = ()
        try:
            with (
                launchers.tended(launcher, partial(jobs.note_lost, self.directory)) as self._deaths,
                launchers.ending_in_order(launcher, self.directory),
            ):
                application()
        except KeyboardInterrupt as stop:
            return 128 + _signum(stop), False
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else int(stop.code is not None), False
        except Exception as error:
            if os.environ.get("SCORESDE_TRACEBACK"):
                traceback.print_exc()
            text = explanation(error)
            said = launchers.reason(error) if text is None else text
            print(f"scoresde: {said}", file=sys.stderr)
            return 1, text is not None
        return 0, False

    def _how_to_resume(self) -> str:
        if self.line.command not in ("train", "sample", "restore", "likelihood", "information", "compare", "certify"):
            return ""
        if self.asked is None:
            return "the same command resumes the study"
        return "the same command resumes: finished jobs are not repeated"


class Job:
    """The function that Hydra calls, in this process or in one that a launcher started."""

    def __init__(self, command: str, verbosity: Verbosity) -> None:
        self.command = command
        self.verbosity = verbosity

    def __call__(self, config: DictConfig) -> Any:
        from scoresde.config.start import started_in
        from scoresde.training.environment import own_precision

        outlive_readers()  # in a launcher's process, too
        configure(self.verbosity)
        _show_progress(config, self.verbosity)
        own_precision()
        settle_paths(config)
        with started_in(HydraConfig.get().runtime.cwd):
            return self._run(config)

    def _run(self, config: DictConfig) -> Any:
        from scoresde.cli import commands
        from scoresde.config.modules import find_in
        from scoresde.config.start import from_start

        find_in(from_start("."), config.allow)
        for key in ("run", "runs"):
            value = None if OmegaConf.is_missing(config, key) else config.get(key)
            if isinstance(value, ListConfig):
                config[key] = [from_start(str(each)) for each in value]
            elif value is not None:
                config[key] = from_start(str(value))
        # Imported here, while an interruption still ends the process at once.
        import_module("scoresde.report" if self.command == "report" else "scoresde.runs.train")
        interruptible()
        task = commands.TASKS[self.command]
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return jobs.run_job(task, config, explanation, said=self.verbosity is not Verbosity.QUIET)
        if world_size() > 1 and self.command in SHARED and self.command != "train":
            task = partial(in_team, task)
        return _alone(task, config)


def _show_progress(config: DictConfig, verbosity: Verbosity) -> None:
    """Show progress in bars, or in lines with `progress=false` and for jobs that run side by side.

    Afterwards the setting is true unless `-q` is given.
    """
    if "progress" not in config:
        return
    hydra = HydraConfig.get()
    alone = hydra.mode != RunMode.MULTIRUN or hydra.launcher._target_.endswith("BasicLauncher")
    progress.show(bars=bool(config.progress) and alone, prefix="" if alone else f"job {hydra.job.num}: ")
    config.progress = bool(config.progress) or verbosity is not Verbosity.QUIET


def _alone(task: Any, config: DictConfig) -> None:
    from scoresde.training.loop import Interrupted

    try:
        task(config)
    except Interrupted as stop:
        if rank() == 0:
            print(
                f"\nstopped at step {stop.step} with a checkpoint written; to resume: {_again(config)}", file=sys.stderr
            )
        sys.exit(128 + stop.signum)
    except KeyboardInterrupt as stop:
        _leave_if_lost(stop)
        if rank() == 0:
            print(f"\nscoresde: {interrupted(_signum(stop))}{_hint(config)}", file=sys.stderr)
        sys.exit(128 + _signum(stop))
    except Exception as error:
        from scoresde.options.errors import ConfigError

        _leave_if_lost(error)
        if rank() > 0 and isinstance(error, UsageError | ConfigError):
            wait_for_first(2 if isinstance(error, UsageError) else 1)
        text = explanation(error)
        text = f"process {rank()}: {text}" if text and rank() > 0 else text
        # SCORESDE_TRACEBACK asks for the traceback of any error: for those who work on the code.
        if text is None or os.environ.get("SCORESDE_TRACEBACK"):
            raise
        fail(text, 2 if isinstance(error, UsageError) else 1)


def _leave_if_lost(error: BaseException) -> None:
    """End the process, and say which other is gone, if that is what an error comes from."""
    name = HydraConfig.get().job.config_name if HydraConfig.initialized() else "train"
    gone = lost(error, *([] if name == "train" else ["what was finished is kept"]))
    if gone is None:
        return
    if gone:
        print(f"scoresde: {gone}", file=sys.stderr, flush=True)
    os._exit(1)  # what is left of the communication would wait for those that are gone


def _signum(stop: KeyboardInterrupt) -> int:
    return stop.signum if isinstance(stop, Stopped) else signal.SIGINT


def _again(config: DictConfig) -> str:
    """The command that resumes a run."""
    allow = [override("allow", list(config.allow))] if config.allow else []
    return shell.command("train", override("run", config.run), *allow)


def _hint(config: DictConfig) -> str:
    """How to resume a command that a signal has ended, after the last part that it kept."""
    command = HydraConfig.get().job.config_name
    if command == "train":
        return f"; to resume: {_again(config)}" if config.run and Path(str(config.run), "config.yaml").is_file() else ""
    if command == "tune":
        return "; its file is written at the end, so that nothing is kept"
    kept = command in ("sample", "restore", "likelihood", "information", "compare", "certify")
    return "; finished parts are kept, and the same command resumes" if kept else ""


def explanation(error: Exception) -> str | None:
    """One line about an error that a user can mend; None for an error in the code."""
    import torch

    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        kept = ": what was complete is kept" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO) else ""
        return f"{error.strerror or ' '.join(str(error).split())}{where}{kept}"
    if isinstance(error, torch.OutOfMemoryError):
        first = str(error).split(".")[0]
        return f"{first}: lower training.batch_size (or batch_size), or take a smaller network"
    if isinstance(
        error, ValueError | ArithmeticError | TypeError | ImportError | OmegaConfBaseException | HydraException
    ):
        return " ".join(str(error).split())
    return None
