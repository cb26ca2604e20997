"""Makes averages of a run's weights after training."""

from contextlib import suppress
from typing import Any

from omegaconf import DictConfig, ListConfig

from scoresde.cli.commands.opened import data_of, model_of, open_run
from scoresde.cli.console import print_table

__all__ = ["ema_command"]


def ema_command(config: DictConfig) -> None:
    from scoresde.runs.ema import average

    run = open_run(config)
    stds = list(map(float, config.std)) if isinstance(config.std, ListConfig) else [float(config.std)]
    data: Any = None
    if config.loss:
        with suppress(ValueError, OSError):  # data that are elsewhere now: the averages do not need them
            data = data_of(run)
    made = average(run, model_of(run, config, rules=False), stds, config.step, config.tol, data)
    head = ["weights", "std", "residual", *([] if data is None else ["held-out loss"])]
    rows = []
    for each in made:
        own = each.directory is None
        row = [
            str(each.directory or run.directory),
            "" if own else f"{each.std:g}",
            "" if own else f"{each.residual:.1g}",
        ]
        rows.append(row if each.held_out_loss is None else [*row, f"{each.held_out_loss:.4f}"])
    print_table(head, rows)
    folder = made[-1].directory
    assert folder is not None
    print(f"each is a run directory, for other commands as run={folder}; scoresde report {folder.parent} is about all")
