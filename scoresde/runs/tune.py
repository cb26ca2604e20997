"""Tunes a sampler to a run."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from scoresde.data import Data, DataInfo
from scoresde.options.errors import ConfigError
from scoresde.options.settings import option_problems
from scoresde.runs.directory import Run
from scoresde.runs.labels import labels_of
from scoresde.sampling import TunedSteps, measure_steps, tune
from scoresde.score import NetworkScore, StepRules

__all__ = ["measure_run", "tune_run"]

_STARTS = 150  # of a measurement, if not given


def _check(options: DictConfig) -> None:
    plain: Any = OmegaConf.to_container(options, resolve=True)
    for problem in option_problems("tune", plain):
        raise ConfigError(problem)


def measure_run(run: Run, model: NetworkScore, data: Data | DataInfo, options: DictConfig) -> tuple[StepRules, Path]:
    """Measure the default solver for all numbers of steps and write its rules into the run's directory.

    Args:
        run: The run.
        model: Its model.
        data: Its data, or what is known of them.
        options: Options as in `conf/tune.yaml`; those of the search for tuned steps are not used.

    Returns:
        The rules and their file.

    Raises:
        ConfigError: A wrong option.
    """
    _check(options)
    starts = _STARTS if options.starts is None else options.starts
    labels: dict[str, Any] = labels_of(model, starts, options.label, data.class_names)
    made = measure_steps(
        model,
        shape=data.shape,
        starts=starts,
        seed=options.seed,
        batch_size=options.batch_size,
        progress=options.progress,
        **labels,
    )
    path = run.directory / StepRules.FILE
    run.write_text(path.name, made.to_json())
    return made, path


def tune_run(run: Run, model: NetworkScore, data: Data | DataInfo, options: DictConfig) -> tuple[TunedSteps, Path]:
    """Tune steps for the run's model and write them into its directory.

    Args:
        run: The run.
        model: Its model.
        data: Its data, or what is known of them.
        options: Options as in `conf/tune.yaml`.

    Returns:
        The steps and their file.

    Raises:
        ConfigError: A wrong option.
    """
    _check(options)
    count = options.starts if isinstance(options.starts, int) else 16384
    made = tune(
        model,
        options.steps,
        data.shape,
        starts=options.starts,
        coefficients=options.coefficients,
        seconds=options.seconds,
        iterations=options.iterations,
        seed=options.seed,
        batch_size=options.batch_size,
        progress=options.progress,
        **labels_of(model, count, options.label, data.class_names),
    )
    path = run.directory / f"tuned-{options.steps}.json"
    run.write_text(path.name, made.to_json())
    return made, path
