"""A run as the commands open it: its model, its data and the sampler that was chosen."""

import logging
import re
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from scoresde.cli.catalogue import groups
from scoresde.cli.command_line import parse_overrides
from scoresde.cli.console import UsageError
from scoresde.cli.settings import runs_of, with_own
from scoresde.cli.steering import is_none

__all__ = [
    "check_condition",
    "chosen_name",
    "data_for",
    "data_of",
    "data_or_info",
    "data_to_show",
    "guided_by",
    "in_sweep",
    "model_of",
    "open_run",
    "open_runs",
    "sampler_of",
    "score_of",
    "steered_by",
    "steering_of",
]

_log = logging.getLogger(__name__)

_USUAL_SCALES = 20.0  # above which a scale is likely to be a slip


def open_run(config: DictConfig) -> Any:
    """The run that a command is about."""
    (run,) = open_runs(config)
    return run


def open_runs(config: DictConfig) -> list[Any]:
    """The run that a command is about, or those that it compares."""
    from scoresde.runs.directory import Run

    if OmegaConf.is_missing(config, "run"):
        raise UsageError("run is missing: give run=DIR, a directory that `scoresde train` wrote")
    runs = [Run.open(directory, list(config.allow), list(config.accept)) for directory in runs_of(config)]
    if config.allow:
        for run in runs:
            run.keep_allowed()
    return runs


def check_condition(config: DictConfig) -> None:
    """Reject a file of conditions that is not there.

    Raises:
        UsageError: No such file.
    """
    if config.condition is not None and not Path(config.condition).exists():
        raise UsageError(
            f"condition={config.condition} does not exist; give an npz file with arrays vector, image, tokens, mask or "
            "labels"
        )


def data_of(run: Any) -> Any:
    from scoresde.training.environment import limit_threads

    data = run.data()
    limit_threads(data.shape)
    return data


def data_or_info(run: Any) -> Any:
    """Facts about the data that the run stores, which are enough to draw samples; an older run loads its data."""
    from scoresde.training.environment import limit_threads

    info = run.info()
    if info is None:
        return data_of(run)
    limit_threads(info.shape)
    return info


def data_to_show(run: Any) -> Any:
    """The same, but points in the plane are loaded if available, since figures show them beside samples."""
    info = data_or_info(run)
    if info.shape != (2,):
        return info
    with suppress(ValueError, OSError):
        return data_of(run)
    return info


def data_for(run: Any, model: Any, config: DictConfig, needs_own: bool) -> tuple[Any, str | None]:
    """The run's data, or data given in place of its test data, and the source of the latter.

    With given data, the run's own are loaded only if the command `needs_own` and the run has any.
    """
    from scoresde.data import DataInfo
    from scoresde.runs.given import given_data

    info = None if config.get("data") is None else run.info()
    needs_own = needs_own and run.has_data
    if info is not None and not needs_own:
        return given_data(info, config, model.statistics, model.classes is not None, None, run.allow, run.part())
    data = data_of(run)
    if config.get("data") is None:
        return data, None
    own = data if needs_own else None
    facts = info or DataInfo.of(data)
    return given_data(facts, config, model.statistics, model.classes is not None, own, run.allow, run.part())


def model_of(run: Any, config: DictConfig, rules: bool = True) -> Any:
    """The run's model on the device that is asked for, with the step rules of the run or without."""
    import torch

    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return run.any_model(rules).to(device)


def guided_by(run: Any, model: Any, config: DictConfig) -> tuple[Any, str | None]:
    """The run's model under the guidance that is chosen, and a text that tells guidances apart; None for none.

    Raises:
        ConfigError: Settings that do not suit the model, or guidance of a discrete chain.
    """
    from scoresde.config.targets import instantiate
    from scoresde.guidance import NoGuidance
    from scoresde.options.errors import ConfigError
    from scoresde.runs.chains import score_model
    from scoresde.runs.texts import away_from

    chosen, text = instantiate(config, "guidance", run.allow), config.get("negative")
    if isinstance(chosen, NoGuidance):
        if text is not None:
            raise UsageError(f"negative={text} is without effect: give guidance=cfg or guidance=apg, too")
        return None, None

    scale = getattr(chosen, "scale", 1.0)
    if scale < 0 or scale > _USUAL_SCALES:
        what = "away from their conditions" if scale < 0 else f"{scale:g} times as far as their conditions take them"
        _log.warning(
            "guidance.scale=%g: samples are guided %s; usual scales are from 0 to %g", scale, what, _USUAL_SCALES
        )

    def load(directory: str) -> tuple[Any, str]:
        if not chosen.other_classifies:
            return _other_score(directory, f"guidance.{chosen.other}", config)
        other = _other_run(directory, f"guidance.{chosen.other}", config)
        classifier = other.classifier().to(model.device)
        # Here, as the model itself does not know what its run knows of the data.
        classifier.check_fits(model.shape, model.classes, run.info())
        return classifier, other.fingerprint()

    try:
        own = score_model(model, "guidance")
        negative = None if text is None else (away_from(own, data_or_info(run), str(text)), str(text))
        guided: tuple[Any, str] = chosen.of(own, load, negative)
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, ConfigError | UsageError) else ConfigError(f"guidance: {error}") from error
    return guided


def _other_run(directory: str, key: str, config: DictConfig) -> Any:
    """A run that a setting of a group names.

    Raises:
        UsageError: No run directory.
    """
    from scoresde.options.settings import run_problem
    from scoresde.runs.directory import Run

    if problem := run_problem(directory):
        raise UsageError(problem.replace("run", key, 1))
    return Run.open(directory, list(config.allow), list(config.accept))


def _other_score(directory: str, key: str, config: DictConfig) -> tuple[Any, str]:
    """The score model of such a run, and the fingerprint of its weights."""
    other = _other_run(directory, key, config)
    return score_of(other, config, key.partition(".")[0]), other.fingerprint()


def steering_of(run: Any, config: DictConfig) -> Any:
    """The settings of steering that are chosen; None for none.

    Raises:
        ConfigError: Settings that are none of steering, or that have a wrong value.
    """
    from scoresde.config.targets import instantiate
    from scoresde.options.errors import ConfigError
    from scoresde.sampling import NoSteering, Steering

    chosen = instantiate(config, "steer", run.allow)
    if not isinstance(chosen, Steering):
        raise ConfigError(f"steer is a {type(chosen).__name__}, expected a Steering, such as steer=guided")
    return None if isinstance(chosen, NoSteering) else chosen


def steered_by(steering: Any, model: Any, config: DictConfig) -> Any:
    """The sampler of these settings.

    Raises:
        ConfigError: Settings that do not suit the model, or the model of a discrete chain.
    """
    from scoresde.options.errors import ConfigError
    from scoresde.runs.chains import score_model
    from scoresde.runs.steered import Steered

    own = score_model(model, "steer")
    try:
        found = steering.sampler(own, lambda path: _other_score(path, f"steer.{steering.other}", config))
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, ConfigError | UsageError) else ConfigError(f"steer: {error}") from error
    sampler, text = found
    return Steered(sampler, steering.draws, text)


def score_of(run: Any, config: DictConfig, command: str, rules: bool = True) -> Any:
    """The same for a command that needs a score model.

    Raises:
        ConfigError: A run of a discrete chain.
    """
    from scoresde.runs.chains import score_model

    return score_model(model_of(run, config, rules), f"scoresde {command}")


def sampler_of(run: Any, config: DictConfig) -> Any:
    from scoresde.config.targets import instantiate
    from scoresde.sampling import Sampler

    if config.get("sampler") is None:
        return run.make("sampler")
    if HydraConfig.get().runtime.choices.get("sampler") is None:
        config.sampler = with_own(run.config, "sampler", config)
    found = instantiate(config, "sampler", run.allow)
    if isinstance(found, Sampler):
        return found.in_run(run.directory, rules=is_none(config, "guidance", "NoGuidance"))
    return found.in_run(run.directory)


def in_sweep() -> bool:
    return HydraConfig.get().mode == RunMode.MULTIRUN


def chosen_name(keys: tuple[str, ...], choices: bool = True) -> str:
    """Choices of these groups and keys on the command line, as part of a file's name.

    Args:
        keys: Names of groups and keys.
        choices: Whether the names of choices are part of it, beside the values of keys.
    """
    parts: list[str] = []
    for override in parse_overrides(HydraConfig.get().overrides.task):
        key, value = str(override.key_or_group), str(override.input_line).partition("=")[2]
        if key.partition(".")[0] not in keys or value in ("null", "none"):
            continue
        if key in groups():
            parts[:0] = [value] if choices else []
        else:
            parts.append(f"{key.rpartition('.')[2]}{value}")
    chosen = "-".join(parts)
    plain = re.sub(r"[^\w.+-]+", "_", chosen)[:80].strip("_.")
    return plain if plain == chosen else f"{plain}-{zlib.crc32(chosen.encode()):08x}"
