"""Optuna as a sweeper of Hydra, which finds it here: scoresde.cli.search does the work.

The configuration `hydra/sweeper=optuna` is known to the command alone, so that other applications of Hydra in the same
environment are left as they are.
"""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

__all__ = ["OptunaSweeper"]


class OptunaSweeper(Sweeper):
    """Asks a study of Optuna for trials, has the launcher run them, and tells the study their values.

    Args:
        **settings: The settings, as `scoresde.cli.samplers` has them.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.launcher: Launcher

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments: list[str]) -> None:
        from scoresde.cli.search import search  # late: Hydra imports its plugins for every command

        assert self.config is not None
        search(self.config.hydra, self.launcher, arguments)
