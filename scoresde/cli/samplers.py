"""The settings of a search: those of `hydra/sweeper=optuna`, its samplers and its pruners."""

import warnings
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import DictConfig

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

__all__ = ["PRUNERS", "SAMPLERS", "pruner_of", "register", "sampler_of"]

SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "tpe": (
        "TPESampler",
        {"seed": None, "n_startup_trials": 10, "n_ei_candidates": 24, "multivariate": False, "constant_liar": True},
    ),
    "random": ("RandomSampler", {"seed": None}),
    "grid": ("GridSampler", {"seed": None}),
    "gp": ("GPSampler", {"seed": None, "n_startup_trials": 10, "deterministic_objective": False}),
    "cmaes": ("CmaEsSampler", {"seed": None, "n_startup_trials": 1, "sigma0": None}),
    "qmc": ("QMCSampler", {"seed": None, "qmc_type": "sobol", "scramble": True}),
    "nsgaii": ("NSGAIISampler", {"seed": None, "population_size": 50}),
}
"""Samplers of Optuna by name, with the settings that can be given; they are Optuna's own but for `constant_liar`."""

_WAITS = {"n_startup_trials": 5, "n_warmup_steps": 0, "interval_steps": 1}

PRUNERS: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("NopPruner", {}),
    "median": ("MedianPruner", _WAITS),
    "percentile": ("PercentilePruner", {"percentile": 25.0, **_WAITS}),
    "halving": (
        "SuccessiveHalvingPruner",
        {"min_resource": "auto", "reduction_factor": 4, "min_early_stopping_rate": 0},
    ),
    "hyperband": ("HyperbandPruner", {"min_resource": 1, "max_resource": "auto", "reduction_factor": 3}),
}
"""Pruners of Optuna by name, with the settings that can be given."""

_SETTINGS: dict[str, Any] = {
    "_target_": "hydra_plugins.scoresde_optuna.OptunaSweeper",
    "_recursive_": False,
    "defaults": [{"sampler": "tpe"}, {"pruner": "none"}],
    "study_name": "scoresde",
    "storage": None,
    "direction": "minimize",
    "n_trials": 20,
    "n_jobs": None,
    "max_failure_rate": 1.0,
}


def register() -> None:
    """Let the command know `hydra/sweeper=optuna`, in place of that of another plugin, should there be one."""
    Plugins.instance()  # others register when they are found, which must not come after
    store = ConfigStore.instance()
    store.store(group="hydra/sweeper", name="optuna", node=_SETTINGS, provider="scoresde")
    for group, choices in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
        for name, (_, settings) in choices.items():
            node = {"name": name, **settings}
            store.store(group=f"hydra/sweeper/{group}", name=name, node=node, provider="scoresde")


def sampler_of(settings: DictConfig, grid: dict[str, list[Any]]) -> "BaseSampler":
    """The sampler.

    Args:
        settings: Its settings, with its name.
        grid: The values of each key, for a sampler that goes through all of them.
    """
    from optuna import samplers

    kind, given = _divided(settings, SAMPLERS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of settings that Optuna calls experimental
        if kind == "GridSampler":
            return samplers.GridSampler(grid, **given)
        found: BaseSampler = getattr(samplers, kind)(**given)
        return found


def pruner_of(settings: DictConfig) -> "BasePruner":
    """The pruner of these settings, with its name."""
    from optuna import pruners

    kind, given = _divided(settings, PRUNERS)
    found: BasePruner = getattr(pruners, kind)(**given)
    return found


def _divided(settings: DictConfig, known: dict[str, tuple[str, dict[str, Any]]]) -> tuple[str, dict[str, Any]]:
    given = {str(key): value for key, value in settings.items() if key != "name"}
    return known[settings.name][0], given
