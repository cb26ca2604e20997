"""Draws samples of what was measured."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from scoresde.cli.commands.opened import chosen_name, data_of, data_or_info, open_run, score_of
from scoresde.cli.console import UsageError

__all__ = ["restore_command"]

_FURTHER = ("problem", "method", "input", "steps", "label", "condition")
_LINES = {
    "psnr_of_mean": ("PSNR of the mean", "dB"),
    "psnr": ("PSNR of a sample", "dB"),
    "coverage": ("coverage of the truth", ""),
    "residual": ("residual |y − A(x)|/σ", ""),
}


def restore_command(config: DictConfig) -> None:
    from scoresde.config.targets import instantiate
    from scoresde.data import DataInfo
    from scoresde.inverse import Method
    from scoresde.options.errors import ConfigError
    from scoresde.runs.restore import FOLDER, Restoration, restore_run, restored_name
    from scoresde.runs.restore_input import TEST, held_out_input, input_of_file

    run = open_run(config)
    model = score_of(run, config, "restore")
    own = config.input == TEST
    if not own and not Path(config.input).exists():
        raise UsageError(f"input={config.input} does not exist; give {TEST}, or an npz file with an array x or y")
    if config.condition is not None and not Path(config.condition).exists():
        raise UsageError(
            f"condition={config.condition} does not exist; give an npz file with arrays vector, image, tokens, mask or "
            "labels"
        )
    data = data_of(run) if own else data_or_info(run)
    model.info = data if isinstance(data, DataInfo) else DataInfo.of(data)
    problem, described = _problem(config, run, tuple(data.shape))
    method = instantiate(config, "method", run.allow)
    if not isinstance(method, Method):
        raise ConfigError(f"method is a {type(method).__name__}, expected a Method")
    if own:
        given = held_out_input(model, data, config.count, config.label, config.condition)
    else:
        given = input_of_file(config.input, model, data, config.count, config.label, config.condition)
    sizes = {"n": config.n, "steps": config.steps, "seed": config.seed, "batch_size": config.batch_size}
    choice = Restoration(problem, described, method, given, **sizes)
    name = str(config.name or "")
    if not name:
        name = restored_name(run, _name(config), choice.settings(run), config.overwrite)
    entry = restore_run(run, model, data, choice, name=name, overwrite=config.overwrite, progress=config.progress)
    print("\n".join(_lines(entry)))
    place = run.directory / FOLDER / name
    print(f"samples: {place}.npz, table: {place}.csv, picture: {place}.png")


def _problem(config: DictConfig, run: Any, shape: tuple[int, ...]) -> tuple[Any, str]:
    """The problem for samples of the run, and a text that tells problems apart.

    Raises:
        ConfigError: Settings that do not suit the samples, or no measurements.
    """
    from scoresde.config.targets import instantiate
    from scoresde.options.errors import ConfigError

    choice = instantiate(config, "problem", run.allow)
    try:
        problem = choice.for_shape(shape)
    except (AttributeError, ValueError) as error:
        raise ConfigError(f"problem: {' '.join(str(error).split())}") from error
    if problem is None:
        raise ConfigError("problem measures nothing, so that nothing is restored: `scoresde sample` draws samples")
    return problem, repr(choice)


def _name(config: DictConfig) -> str:
    """File name from the problem, the method and what differs, so that no job of a sweep writes another's file."""
    choices: Any = HydraConfig.get().runtime.choices
    further = chosen_name(_FURTHER, choices=False)
    return "-".join(
        filter(None, (choices["problem"], choices["method"], further, f"n{config.n}", f"seed{config.seed}"))
    )


def _lines(entry: Mapping[str, Any]) -> Iterator[str]:
    """The costs and figures of the samples, in lines."""
    known = f", {entry['reused']} of them there already" if entry["reused"] else ""
    yield (
        f"{entry['count']} measurements of {entry['source']}{known}, {entry['n']} samples each, {entry['nfe']} "
        f"evaluations a sample, {entry['seconds']:.1f} s"
    )
    for key, (title, unit) in _LINES.items():
        if key not in entry:
            continue
        found = entry[key]
        error = "" if found["stderr"] is None else f" ± {found['stderr']:.2g}"
        expected = f", {found['expected']:.3g} expected" if "expected" in found else ""
        yield f"  {title:<24}{found['value']:>8.3g}{error} {unit}".rstrip() + expected
