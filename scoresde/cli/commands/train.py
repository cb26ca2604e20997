"""Trains a run, or several in a row."""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from scoresde.cli.best_so_far import against_best
from scoresde.cli.commands.lines import figure, print_summary
from scoresde.cli.commands.new_run import fill_evaluation, run_to_train
from scoresde.cli.commands.opened import in_sweep
from scoresde.cli.console import UsageError, nearest
from scoresde.cli.jobs import Outcome, note_run, sweep_directory
from scoresde.cli.pruning import pruner_of_job
from scoresde.progress import note
from scoresde.runs.summary import Summary

__all__ = ["fill_evaluation", "train_command"]


def train_command(config: DictConfig) -> Outcome:
    """Train a run, or `repeats` of them one after the other with seeds that follow each other."""
    repeats = config.repeats
    if repeats > 1 and config.run is not None:
        raise UsageError("repeats are of new runs: leave out run")
    outcomes = []
    for seed in range(config.training.seed, config.training.seed + repeats):
        config.training.seed = seed
        outcomes.append(_train_one(config))
        if repeats > 1:
            config.run = None
    values = [o.value for o in outcomes if o.value is not None]
    mean = sum(values) / len(values) if values else None
    skipped = all(o.skipped for o in outcomes)
    return Outcome([run for o in outcomes for run in o.runs], mean, outcomes[0].unit, skipped)


def _train_one(config: DictConfig) -> Outcome:
    if config.run is None:
        _made_loggers(config, config.allow)  # before data are read
    run, made, data = run_to_train(config)
    try:
        return _train_run(run, config, data)
    finally:
        for folder in made:
            with suppress(OSError):  # unless something was written
                folder.rmdir()


def _train_run(run: Any, config: DictConfig, data: Any) -> Outcome:
    from scoresde.runs.train import train

    with open_dict(config):
        config.run = str(run.directory)  # for the message after an interrupt
    if in_sweep():
        note_run(run.directory)
        _check_metric(config)
    value, unit = _value(run, config.metric)
    if run.summary().finished and not _asks_for_more(run):
        print(f"{run.directory} is finished: nothing to do")
        if config.run is not None and _names_run():
            print("more steps: training.steps=N; other figures: evaluation.KEY=VALUE, scoresde likelihood or evaluate")
        return Outcome([run.directory], value, unit, skipped=True)
    began = time.perf_counter()
    _name_group(run.config)
    loggers = _made_loggers(run.config, run.allow)
    pruner = pruner_of_job() if in_sweep() else None
    loggers += [] if pruner is None else [pruner]
    options = {"progress": config.progress, "restart": config.restart, "data": data, "device": config.device}
    if not train(run, loggers, **options):
        return Outcome([run.directory])
    print_summary(run, time.perf_counter() - began)
    if in_sweep() and config.metric == "likelihood":
        _tell_against_best(run)
    value, unit = _value(run, config.metric)
    return Outcome([run.directory], value, unit)


def _tell_against_best(run: Any) -> None:
    """Print, and keep in the job's log, how the run compares with the best job of the sweep so far."""
    said = against_best(sweep_directory(), run.directory)
    if said is not None:
        print(said)
        note(said)


def _names_run() -> bool:
    return any(o.startswith("run=") for o in HydraConfig.get().overrides.task)


def _asks_for_more(run: Any) -> bool:
    """True if a finished run was named with more steps, or with figures or a logger that it does not have."""
    if not _names_run():
        return False
    before = type(run).open(run.directory, run.allow).config
    fill_evaluation(before)
    if run.config.training.steps > run.summary().training.get("steps", 0):
        return True
    return any(run.config.get(key) != before.get(key) for key in ("evaluation", "sampler", "logger"))


def _name_group(config: DictConfig) -> None:
    """Put the runs of a sweep in one group, for loggers that have groups."""
    for node in (OmegaConf.select(config, key) for key in _logger_keys(config)) if in_sweep() else ():
        if "group" in node and node.group is None:
            node.group = Path(HydraConfig.get().sweep.dir).name


def _made_loggers(config: DictConfig, allow: Sequence[str]) -> list[Any]:
    """The loggers of a configuration.

    Raises:
        UsageError: One whose package is not installed.
    """
    from scoresde.config.targets import instantiate

    made = [instantiate(config, key, allow) for key in _logger_keys(config)]
    try:
        for each in made:
            each.check()
    except ModuleNotFoundError as error:
        raise UsageError(str(error)) from error
    return made


def _logger_keys(config: DictConfig) -> list[str]:
    """Keys of the configuration's loggers: by name, or the one of an older version or a user's own file."""
    node = config.get("logger") or {}
    if "_target_" in node:
        return ["logger"]
    for name, value in node.items():
        if not (OmegaConf.is_dict(value) and "_target_" in value):
            raise UsageError(f"logger.{name} has no _target_: settings of a logger are logger.NAME.KEY=VALUE")
    return [f"logger.{name}" for name in node]


def _value(run: Any, metric: str) -> tuple[float | None, str]:
    """The value that a sweeper optimises, lower being better for a likelihood, and its name.

    Raises:
        UsageError: Unknown metric, or one of which neither higher nor lower is better.
    """
    from scoresde.metrics.evaluate import (
        CLASSES,
        GIVEN,
        HIGHER_IS_BETTER,
        LOWER_IS_BETTER,
        MEMORISATION,
        METRICS,
        MODES,
    )

    summary: Summary = run.summary()
    if metric == "likelihood" and summary.classifier:
        # The likelihood that a classifier has, that of the labels.
        return summary.classifier["held_out"]["mean_cross_entropy"]["value"], "nats of cross-entropy"
    if metric == "likelihood":
        entry = summary.likelihood
        if not entry:
            return None, "likelihood"
        value, unit = figure(entry)
        # A sweeper minimises.
        return (value, unit) if entry.get("bits_per_dim") is not None else (-value, f"−{unit}")
    measured = (*METRICS, *MODES, *CLASSES, *GIVEN, *MEMORISATION)
    known = ("likelihood", *(name for name in measured if name in HIGHER_IS_BETTER or name in LOWER_IS_BETTER))
    if metric not in known:
        hint = ", of which neither higher nor lower is better" if metric in measured else nearest(str(metric), known)
        raise UsageError(f"metric is {metric!r}{hint}; expected one of {', '.join(known)}")
    result = summary.samples.get("metrics", {}).get(metric)
    return None if result is None else result["value"], metric


def _check_metric(config: DictConfig) -> None:
    """Reject training for a sweeper that would receive no value."""
    if HydraConfig.get().sweeper._target_.endswith("BasicSweeper"):
        return
    needed = "likelihood" if config.metric == "likelihood" else "samples"
    if config.evaluation[needed] == 0:
        raise UsageError(f"metric={config.metric} needs evaluation.{needed}, which is 0: leave it out")
