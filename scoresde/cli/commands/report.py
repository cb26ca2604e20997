"""Writes the page of a run, a sweep or a folder of runs."""

import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from scoresde.cli.commands.opened import data_of, model_of, open_run
from scoresde.cli.console import UsageError
from scoresde.cli.sweep_end import unfinished

__all__ = ["report_command"]


def report_command(config: DictConfig) -> None:
    from scoresde.report import write_report
    from scoresde.runs.pictures import pictures

    if OmegaConf.is_missing(config, "run"):
        raise UsageError("run is missing: give a run directory, or a folder of runs: scoresde report DIR")
    directory = Path(str(config.run))
    if (directory / "config.yaml").is_file():
        run = open_run(config)
        run.check_writable()
        if config.pictures:
            pictures(run, model_of(run, config), data_of(run))
    elif config.pictures:
        raise UsageError(f"pictures=true is for one run, {directory} is none")
    page = write_report(directory)
    for line in unfinished(directory):
        print(f"scoresde: {line}", file=sys.stderr)
    print(page)
