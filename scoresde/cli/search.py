"""A search: a study of Optuna is asked for trials and told their values, whatever launches them.

The study is kept in a file. A trial whose process has ended without a value, as when the command was killed, is tried
again with the same settings, so that its run resumes from its checkpoint.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from scoresde.cli.command_line import parse_overrides
from scoresde.cli.samplers import pruner_of, sampler_of
from scoresde.cli.spaces import range_length
from scoresde.options.errors import ConfigError

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

__all__ = ["FIXED", "Space", "divided", "job_name", "open_study", "search"]

RESULTS = "optimization_results.yaml"
FIXED = "fixed"
"""The attribute of a study that holds the settings which all trials share."""
_JOB, _PROCESS, _ABANDONED = "job", "process", "abandoned"

Space = dict[str, "BaseDistribution"]
"""The distribution of each key that is searched."""


def search(hydra: DictConfig, launcher: Launcher, arguments: Sequence[str]) -> None:
    """Bring a study to the number of trials that is asked for.

    Args:
        hydra: The configuration of Hydra, with the settings of the sweeper.
        launcher: What runs jobs.
        arguments: The overrides of the sweep.

    Raises:
        ConfigError: More failures than allowed, or no trial with a value.
    """
    from optuna.trial import TrialState

    settings, sweep = hydra.sweeper, Path(hydra.sweep.dir)
    space, fixed = divided(arguments)
    study = open_study(settings, space, fixed)
    _try_again(study)
    most = settings.n_trials
    if settings.sampler.name == "grid":
        most = min(most, math.prod(len(values) for values in grid_of(space).values()))
    together = settings.n_jobs or (1 if hydra.launcher._target_.endswith("BasicLauncher") else 2)
    number = 0
    while (left := most - _tried(study)) > 0:
        trials = [_asked(study, space, job_name(sweep, number + i)) for i in range(min(left, together))]
        shared = [f"{key}={value}" for key, value in fixed.items()]
        jobs = [[*shared, *(f"{key}={_text(value)}" for key, value in trial.params.items())] for trial in trials]
        returned = launcher.launch(jobs, initial_job_idx=number)
        number += len(returned)
        for trial, job in zip(trials, returned, strict=True):
            _tell(study, trial, job)
        failed = sum(_state(study, trial) == TrialState.FAIL for trial in trials)
        if failed > settings.max_failure_rate * len(trials):
            raise ConfigError(f"{failed} of {len(trials)} trials failed, above max_failure_rate: see the jobs")
    if not any(t.state == TrialState.COMPLETE for t in study.get_trials(deepcopy=False)):
        raise ConfigError("no trial has a value: see the jobs")
    if not number:
        print(f"study {study.study_name!r} has its {most} trials: for more give hydra.sweeper.n_trials")
    best = {"name": "optuna", "best_params": dict(study.best_params), "best_value": study.best_value}
    sweep.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(best), sweep / RESULTS)


def job_name(sweep: Path, number: int) -> str:
    """How a trial names the job that runs it: by the sweep's directory and the job's number."""
    return f"{sweep.resolve()}#{number}"


def divided(arguments: Sequence[str]) -> tuple[Space, dict[str, str]]:
    """What is searched, and what is fixed: the distributions of keys, and the values of others."""
    space: Space = {}
    fixed: dict[str, str] = {}
    for override in parse_overrides(list(arguments)):
        key = override.get_key_element()
        if override.is_sweep_override():
            space[key] = _distribution(override)
        else:
            fixed[key] = str(override.get_value_element_as_str())
    return space, fixed


def _distribution(override: Override) -> "BaseDistribution":
    """The distribution of a sweep's values: those that a grid takes, or numbers of an interval."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if isinstance(value, IntervalSweep):
        low, high, log = value.start, value.end, "log" in value.tags
        assert low is not None
        assert high is not None
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=log)
        return FloatDistribution(float(low), float(high), log=log)
    if isinstance(value, RangeSweep):
        start, step = value.start, value.step
        assert start is not None
        last = start + (int(range_length(value)) - 1) * step
        if isinstance(start, int) and isinstance(step, int):
            return IntDistribution(start, int(last), step=step)
        return FloatDistribution(float(start), float(f"{last:.12g}"), step=float(step))
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def grid_of(space: Space) -> dict[str, list[Any]]:
    """The values of each key; keys of intervals of real numbers, which have no such list, are left out."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, list[Any]] = {}
    for key, values in space.items():
        if isinstance(values, CategoricalDistribution):
            found[key] = list(values.choices)
        elif isinstance(values, IntDistribution):
            found[key] = list(range(values.low, values.high + 1, values.step))
        elif isinstance(values, FloatDistribution) and values.step is not None:
            count = round((values.high - values.low) / values.step) + 1
            found[key] = [float(f"{values.low + i * values.step:.12g}") for i in range(count)]
    return found


def open_study(settings: DictConfig, space: Space | None = None, fixed: Mapping[str, str] | None = None) -> "Study":
    """The study of these settings, which is made if it is not there.

    Args:
        settings: The settings of the sweeper.
        space: What is searched; needed to ask for trials.
        fixed: The settings that all trials share, which a new study keeps.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=settings.study_name,
        storage=settings.storage,
        sampler=None if space is None else sampler_of(settings.sampler, grid_of(space)),
        pruner=pruner_of(settings.pruner),
        direction=settings.direction,
        load_if_exists=True,
    )
    if fixed is not None and FIXED not in study.user_attrs:
        study.set_user_attr(FIXED, dict(fixed))
    return study


def _asked(study: "Study", space: Space, job: str) -> "Trial":
    from scoresde.config.jobs import this_process

    trial = study.ask(space)
    trial.set_user_attr(_JOB, job)
    trial.set_user_attr(_PROCESS, this_process())
    return trial


def _tell(study: "Study", trial: "Trial", job: Any) -> None:
    """Tell a study what a job came to, unless the job has done so itself because it was pruned."""
    from hydra.core.utils import JobStatus
    from optuna.trial import TrialState

    if _state(study, trial) != TrialState.RUNNING:
        return
    value = job.return_value if job.status == JobStatus.COMPLETED else None
    if isinstance(value, int | float) and math.isfinite(value):
        # The grid's sampler wants to end a loop of Optuna's own after its last value.
        with suppress(RuntimeError):
            study.tell(trial, float(value))
    else:
        study.tell(trial, state=TrialState.FAIL)


def _state(study: "Study", trial: "Trial") -> Any:
    return study.get_trials(deepcopy=False)[trial.number].state


def _tried(study: "Study") -> int:
    """The number of trials that have ended, but for those that were abandoned."""
    trials = study.get_trials(deepcopy=False)
    return sum(t.state.is_finished() and not t.user_attrs.get(_ABANDONED, False) for t in trials)


def _try_again(study: "Study") -> None:
    """Queue the settings of trials whose process is gone, and close these trials."""
    import optuna
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _is_abandoned(trial):
            optuna.Trial(study, trial._trial_id).set_user_attr(_ABANDONED, True)
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)


def _is_abandoned(trial: "FrozenTrial") -> bool:
    """True if the process that asked for a trial has ended; False if it runs, or may do so on another machine."""
    from scoresde.config.jobs import has_ended

    if _PROCESS in trial.user_attrs:
        return has_ended(trial.user_attrs[_PROCESS]) is True
    # Asked for by a process that ended before it could say who it is, unless it is about to.
    began = trial.datetime_start
    return began is None or datetime.now() - began > timedelta(minutes=1)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
