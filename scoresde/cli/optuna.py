"""Optuna as the sweeper: its study is kept in a file, and a study that is resumed must ask the same question."""

from pathlib import Path
from typing import Any

from hydra import compose
from hydra.errors import HydraException

from scoresde.cli.command_line import CommandLine, text_of
from scoresde.cli.console import UsageError
from scoresde.cli.overrides import composing
from scoresde.cli.samplers import pruner_of, register, sampler_of
from scoresde.cli.search import FIXED, Space, divided, grid_of
from scoresde.cli.spaces import check_parameters, is_optuna
from scoresde.shell import quoted

__all__ = ["with_study"]

# Groups of which two values have losses of two kinds.
_OF_LOSSES = ("data", "objective", "preconditioning", "sde")


def with_study(line: CommandLine) -> CommandLine:
    """Add what depends on the line to the settings of Optuna's sweeper; lines of other sweeps stay as they are.

    A study is kept in `optuna.db` in the folder of runs.

    Raises:
        UsageError: Nothing to search, or a study of another search space or of other fixed settings.
    """
    if not is_optuna(line.overrides):
        return line
    register()
    runs = str(line.value("runs", "runs"))
    defaults = {"direction": _direction(line), "storage": quoted(f"sqlite:///{runs}/optuna.db")}
    more = [f"hydra.sweeper.{k}={v}" for k, v in defaults.items() if line.get(f"hydra.sweeper.{k}") is None]
    line = line.adding(*more)
    _check(line)
    return line


def _direction(line: CommandLine) -> str:
    """Direction in which the sweeper optimises the value of a job.

    Raises:
        UsageError: The given direction leads to the worst value.
    """
    metric = str(line.value("metric", "likelihood")) if line.command == "train" else "likelihood"
    best = "minimize"
    if metric != "likelihood":
        from scoresde.metrics.evaluate import HIGHER_IS_BETTER

        best = "maximize" if metric in HIGHER_IS_BETTER else "minimize"
    given = line.get("hydra.sweeper.direction")
    if line.command == "train" and given is not None and given.value() != best:
        better = "higher" if best == "maximize" else "lower"
        sign = ", as the sweeper sees it," if metric == "likelihood" else ""
        raise UsageError(f"{given.input_line}: of metric={metric}{sign} {better} is better, leave it out")
    return best


def _check(line: CommandLine) -> None:
    """Reject a search that Optuna's sweeper would not make as it was asked for."""
    sweeper = _settings_of(line)
    for override in line.overrides:
        if override.is_sweep_override():
            check_parameters(line.overrides, override)
    space, fixed = divided([t for t in line.texts if not t.lstrip("+").startswith("hydra")])
    if not space:
        raise UsageError("hydra/sweeper=optuna has nothing to search: give key=interval(a,b), key=a,b,c or the like")
    try:
        sampler_of(sweeper.sampler, grid_of(space)), pruner_of(sweeper.pruner)
    except (ValueError, TypeError, ImportError) as error:
        raise UsageError(f"Optuna's settings: {' '.join(str(error).split())}") from error
    if sweeper.pruner.name != "none":
        _check_pruned(line, sweeper, space)
    if sweeper.storage is None or sweeper.study_name is None:
        return
    _make_folder(sweeper.storage)
    _check_study(sweeper, space, fixed)


def _check_pruned(line: CommandLine, sweeper: Any, space: Space) -> None:
    """Reject a search whose trials cannot be compared on the way, or that does not train."""
    what = f"hydra/sweeper/pruner={sweeper.pruner.name}"
    if line.command != "train":
        raise UsageError(f"{what} compares losses on the way of training, and {line.command} has none: leave it out")
    if sweeper.storage is None:
        raise UsageError(f"{what} needs a study that jobs can read: leave out hydra.sweeper.storage")
    if line.value("repeats", 1) != 1:
        raise UsageError(f"{what} ends a trial at a step, and repeats are several trainings: leave out one of them")
    for key in space:
        if key.lstrip("+").partition(".")[0] in _OF_LOSSES:
            raise UsageError(
                f"{what} compares held-out losses, which differ between values of {key}: search it without a pruner"
            )


def _settings_of(line: CommandLine) -> Any:
    """The settings of the sweeper, as Hydra composes them."""
    plain = [text_of(o) for o in line.overrides if not o.is_sweep_override()]
    try:
        with composing(line):
            return compose(config_name=line.config_name, overrides=plain, return_hydra_config=True).hydra.sweeper
    except HydraException as error:
        raise UsageError(f"Optuna's settings: {' '.join(str(error).split())}") from error


def _check_study(sweeper: Any, space: dict[str, Any], fixed: dict[str, Any]) -> None:
    """Reject a study that is there with another direction, search space or fixed settings."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    try:
        names = set(optuna.get_all_study_names(sweeper.storage))
    except (SQLAlchemyError, RuntimeError) as error:  # the latter of a file of another version
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise UsageError(
            f"{sweeper.storage} cannot be read as a study ({reason}): move it away, or give hydra.sweeper.storage"
        ) from error
    if sweeper.study_name not in names:
        return
    study = optuna.load_study(study_name=sweeper.study_name, storage=sweeper.storage)
    trials = study.get_trials(deepcopy=False)
    if not trials:
        return
    if study.direction.name.lower() != sweeper.direction:
        raise UsageError(
            f"study {sweeper.study_name!r} of {sweeper.storage} is to {study.direction.name.lower()}, this sweep to "
            f"{sweeper.direction}: give hydra.sweeper.study_name=NAME for a new study"
        )
    before, now = _settings(trials[0].distributions, study.user_attrs.get(FIXED, {})), _settings(space, fixed)
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise UsageError(
                f"study {sweeper.study_name!r} of {sweeper.storage} has {key}={before.get(key, 'its default')}, this "
                f"sweep {key}={now.get(key, 'its default')}: give hydra.sweeper.study_name=NAME for a new study"
            )


def _settings(space: dict[str, Any], fixed: dict[str, Any]) -> dict[str, str]:
    # Places of runs and output do not change the question.
    kept = {k: str(v) for k, v in fixed.items() if k not in ("progress", "runs", "allow", "accept", "fail_fast")}
    return {**{k: repr(v) for k, v in space.items()}, **kept}


def _make_folder(storage: str) -> None:
    """Make the folder of an SQLite file, which SQLite does not."""
    kind, _, path = storage.partition(":///")
    if kind == "sqlite" and path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
