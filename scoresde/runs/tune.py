"""Tunes a sampler to a run."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from scoresde.chains import measure_variances
from scoresde.data import Data, DataInfo
from scoresde.numerics.random import SampleNoise, Stream
from scoresde.options.errors import ConfigError
from scoresde.options.settings import option_problems
from scoresde.runs.conditions import conditions_of, split_conditions
from scoresde.runs.directory import Run
from scoresde.runs.team import each
from scoresde.sampling import TunedSteps, measure_steps, tune
from scoresde.score import NetworkScore, OptimalVariances, StepRules, in_model_space

__all__ = ["measure_run", "tune_run", "variances_of_run"]

_STARTS = 150  # of a measurement, if not given
_SAMPLES = 256  # at each noise level of a measurement of variances


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
    labels: dict[str, Any] = conditions_of(model, data, starts, options.label)
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


def variances_of_run(run: Run, model: NetworkScore, data: Data, options: DictConfig) -> tuple[OptimalVariances, Path]:
    """Measure the errors that the best variances of reverse steps follow from, and write them into the run's directory.

    The data are the training data, dequantised as they were in training.

    Args:
        run: The run.
        model: Its model.
        data: Its data.
        options: Options as in `conf/tune.yaml`; those of tuned steps are not used.

    Returns:
        The variances and their file.

    Raises:
        ConfigError: A wrong option.
    """
    _check(options)
    samples = _SAMPLES if options.starts is None else options.starts
    index = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(options.seed))
    raw = data.train[index]
    noise = SampleNoise(options.seed, index, data.shape, stream=Stream.VARIANCE_DEQUANTISATION)
    discrete = data.transform.levels is not None and run.config.get("training", {}).get("dequantise", True)
    encoded = data.transform.encode(raw, noise.uniform() if discrete else None)
    cond: dict[str, Any] = {name: values[index] for name, values in split_conditions(model, data, "train").items()}
    bare = in_model_space(model)
    made = measure_variances(
        bare,
        encoded.to(model.device),
        samples=samples,
        seed=options.seed,
        batch_size=options.batch_size,
        progress=options.progress,
        each=each,
        **cond,
    )
    path = run.directory / OptimalVariances.FILE
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
        **conditions_of(model, data, count, options.label),
    )
    path = run.directory / f"tuned-{options.steps}.json"
    run.write_text(path.name, made.to_json())
    return made, path
