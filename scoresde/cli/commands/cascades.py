"""Runs of a cascade as the commands open them: a base model, and those that `super` names."""

import copy
from typing import Any

from omegaconf import DictConfig, OmegaConf

from scoresde.cli.commands.opened import chosen_name, model_of, sampler_of
from scoresde.cli.console import UsageError

__all__ = ["cascade_label", "check_cascade", "stacked_runs"]


def check_cascade(config: DictConfig) -> None:
    """Refuse settings that make no sense with a cascade, or without one.

    Raises:
        UsageError: Such a setting.
    """
    if config.super is None:
        if config.augmentation is not None:
            raise UsageError(f"augmentation={config.augmentation} is without effect: give super=DIR, too")
        return
    if config.get("start") is not None:
        raise UsageError(f"start={config.start} is for a run alone: leave out super")
    if config.get("likelihood"):
        raise UsageError(f"likelihood={config.likelihood} is for a run alone: leave out super, or the likelihood")


def cascade_label(config: DictConfig) -> str:
    """A part of a name for the stages of a cascade; empty for none."""
    return "" if config.super is None else "-".join(filter(None, ("cascade", chosen_name(("augmentation",)))))


def stacked_runs(run: Any, model: Any, sampler: Any, data: Any, guided: Any, config: DictConfig) -> Any:
    """The runs of a cascade, checked to fit each other.

    Args:
        run: The base run.
        model: Its model.
        sampler: Its sampler.
        data: Its data, or what is known of them.
        guided: Its model under guidance; None for none.
        config: The configuration of the command.

    Raises:
        UsageError: No run directory.
        ConfigError: Runs that do not fit.
    """
    from scoresde.options.settings import run_problem
    from scoresde.runs.cascades import CascadeStage, stacked
    from scoresde.runs.chains import score_model
    from scoresde.runs.directory import Run

    several = OmegaConf.is_list(config.super)
    upper = [str(directory) for directory in (config.super if several else [config.super])]
    for directory in upper:
        if problem := run_problem(directory):
            raise UsageError(problem.replace("run", "super", 1))
    stages = [CascadeStage.of(run, score_model(model, "super"), sampler)]
    for directory in upper:
        other = Run.open(directory, list(config.allow), list(config.accept))
        mine = copy.deepcopy(config)  # a sampler in it is completed from that of the run
        stages.append(CascadeStage.of(other, score_model(model_of(other, config), "super"), sampler_of(other, mine)))
    levels: Any = list(config.augmentation) if OmegaConf.is_list(config.augmentation) else config.augmentation
    return stacked(stages, levels, data, guided)
