"""The run that training starts or resumes: its directory, its name and its default network."""

import itertools
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from scoresde.cli.catalogue import conf_dir
from scoresde.cli.command_line import parse_overrides
from scoresde.cli.commands.opened import in_sweep
from scoresde.cli.console import UsageError
from scoresde.cli.jobs import started_again
from scoresde.cli.networks import DEFAULT, fit_network
from scoresde.cli.settings import apply_changes, declared
from scoresde.options.moved import with_current_names

__all__ = ["run_to_train"]


def run_to_train(config: DictConfig) -> tuple[Any, list[Path], Any]:
    """The run to start or resume, the folders made for it, and its data if they were loaded to choose the network."""
    from scoresde.runs.conditions import left_to_data
    from scoresde.runs.directory import Run, check_name, config_hash

    allow = list(config.allow)
    if config.run is not None:
        run = Run.open(str(config.run), allow, list(config.accept))
        fill_evaluation(run.config)
        apply_changes(run.config, config, parse_overrides(HydraConfig.get().overrides.task))
        return run, [], None
    _check_size()
    plain: Any = with_current_names(OmegaConf.to_container(config, resolve=True))
    settings, _ = declared("train")  # belong to the command line, not to the run
    body = OmegaConf.create({k: v for k, v in plain.items() if k not in settings})
    runs, data = Path(str(config.runs)), None
    default = HydraConfig.get().runtime.choices.get("network") == DEFAULT
    if default or left_to_data(body.get("network")):
        data = _fit_network(body, Run(runs / "not yet named", body, allow), default)
    identity = config_hash(body)
    name = str(config.name or f"{_choices()}-{identity}")
    check_name(name)
    if started_again() or (in_sweep() if config.resume is None else config.resume):
        # The same configuration may have been reached by other choices.
        named = runs.glob(f"{name}*" if config.name else f"*-{identity}*")
        same = [d for d in sorted(named, key=_place) if (d / "config.yaml").is_file()]
        same = [d for d in same if config_hash(Run.open(d, allow).config) == identity]
        if same:
            return Run(same[-1], body, allow), [], data
    directory, made = new_directory(runs, name)
    return Run(directory, body, allow), made, data


def _check_size() -> None:
    """Reject a size that the chosen network does not have.

    Raises:
        UsageError: Such a size; the message names the networks that have it.
    """
    choices = HydraConfig.get().runtime.choices
    size, network = choices.get("size"), choices.get("network")
    names = [path.stem.removeprefix(f"{size}_") for path in sorted((conf_dir() / "_sizes").glob(f"{size}_*.yaml"))]
    if names and network not in names:
        raise UsageError(f"size={size} is for network={', '.join(names)}, and this is network={network}: leave it out")


def fill_evaluation(config: DictConfig) -> None:
    """Add options that the configuration of an older version lacks."""
    if "evaluation" in config:
        for key, value in OmegaConf.load(conf_dir() / "evaluation" / "default.yaml").items():
            if key not in config.evaluation:
                config.evaluation[key] = value


# Shapes of samples, names, shapes of conditions and numbers of classes of data, for the jobs of a sweep.
_known_shapes: dict[str, tuple[tuple[int, ...], str, dict[str, tuple[int, ...]], int | None]] = {}


def _fit_network(body: DictConfig, run: Any, default: bool) -> Any:
    """Settle the default network of a new run, and sizes that the data have; returns them if they had to be loaded."""
    from scoresde.runs.classifier import trains_classifier
    from scoresde.runs.conditions import settle_sizes

    of_data = OmegaConf.create({group: body.get(group) for group in ("data", "cascade")})
    key, data = OmegaConf.to_yaml(of_data, sort_keys=True), None
    if key not in _known_shapes:
        data = run.data()
        _known_shapes[key] = data.shape, data.name, data.condition_shapes, data.num_classes
    shape, name, conditions, classes = _known_shapes[key]
    overrides = (str(o.key_or_group).split(".") for o in parse_overrides(HydraConfig.get().overrides.task))
    if default:
        given = {path[1] for path in overrides if path[0] == "network" and len(path) > 1}
        fit_network(body, shape, name, given, classifies=trains_classifier(run))
    settle_sizes(body.network, conditions, name, classes)
    return data


def new_directory(runs: Path, name: str) -> tuple[Path, list[Path]]:
    """Make the next directory of a name that is free, so that nobody else takes it, and the folders above it.

    Returns:
        The directory, the same in all processes of the command, and the folders that were made, the innermost first.
    """
    from scoresde.training.environment import processes

    sharing = processes()
    made = [path for path in (runs, *runs.parents) if not path.exists()]
    found: list[Any] = [None]
    for number in itertools.count(1) if sharing.is_main_process else ():
        directory = runs / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            directory.mkdir(parents=True)
            found, made = [directory], [directory, *made]
            break
    if sharing.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(found)
    return found[0], made if sharing.is_main_process else []


def _place(run: Path) -> tuple[int, str]:
    """run-9 before run-10."""
    return len(run.name), run.name


def _choices() -> str:
    """A name from what was chosen on the command line: experiment and data, then the other groups in their order."""
    choices = HydraConfig.get().runtime.choices
    chosen = {o.lstrip("+~").partition("=")[0] for o in HydraConfig.get().overrides.task}
    experiment = choices.get("experiment")
    # Without the folders that experiments of one paper are in.
    parts = [str(experiment).rpartition("/")[2]] if experiment else []
    if not experiment or "data" in chosen:  # an experiment has data of its own
        parts.append(str(choices["data"]))
    named = [choices[g] for g in choices if g in chosen and g not in ("experiment", "data")]
    # A list of choices is text, as that of loggers: ['wandb', 'tensorboard'].
    parts += ["-".join(re.findall(r"[\w.+-]+", str(choice))) for choice in named]
    return "-".join(parts)[:80]
