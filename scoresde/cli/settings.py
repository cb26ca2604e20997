"""Settings of a command and arguments of its groups; anything else is rejected.

Hydra takes any key that is added with `+`, and any key of a configuration file. A key that nothing reads would give the
result of another configuration than the one that was asked for.
"""

import copy
import difflib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException

from scoresde.cli.catalogue import conf_dir, options, source
from scoresde.cli.console import UsageError, nearest
from scoresde.cli.steering import check_steering
from scoresde.config.modules import find_in
from scoresde.config.start import DATA_PATHS
from scoresde.options.declarations import declaration
from scoresde.options.moved import with_current_names
from scoresde.options.settings import kind_of, option_problems, run_problem
from scoresde.options.signatures import fits, problems

__all__ = [
    "UnreadKey",
    "apply_changes",
    "check_groups",
    "check_settings",
    "declared",
    "edited",
    "is_path",
    "runs_of",
    "settle_paths",
    "unread",
    "with_home",
    "with_own",
]


# Last parts of keys whose values are files or folders.
_PATHS = (
    *DATA_PATHS,
    "paths",
    "root",
    "folder",
    "dir",
    "out",
    "cache_dir",
    "run",
    "runs",
    "against",
    "searchpath",
    "weaker",
    "classifier",
    "unconditional",
    "start",
    "condition",
    "input",
    "super",
    "weights",
    "reference",
    "save_reference",
)

# Groups that a command takes from the run if none is chosen: overrides inside them change the run's own.
_OWN = {
    "train": ("training", "evaluation", "sampler", "logger"),
    "sample": ("sampler",),
    "evaluate": ("sampler",),
}


def declared(command: str) -> tuple[dict[str, Any], dict[str, str | None]]:
    """The settings of a command with their defaults, and the groups that it reads with the choices in them."""
    settings = yaml.safe_load((conf_dir() / f"{command}.yaml").read_text(encoding="utf-8"))
    defaults = settings.pop("defaults")
    settings.pop("hydra", None)
    chosen = {key: value for d in defaults if isinstance(d, dict) for key, value in d.items()}
    return settings, {
        k: v for k, v in chosen.items() if not k.startswith(("override ", "optional ")) and k != "experiment"
    }


# -- groups of a run ------------------------------------------------------------------------------------


def edited(command: str, overrides: Sequence[Override]) -> tuple[str, ...]:
    """Groups in which overrides change what the run has, as none is chosen."""
    chosen = {str(o.key_or_group): o for o in overrides}
    if command == "train" and ("run" not in chosen or chosen["run"].value() is None):
        return ()
    return tuple(group for group in _OWN.get(command, ()) if group not in chosen)


def with_own(own: DictConfig, group: str, config: DictConfig) -> DictConfig:
    """The run's own group, with the changes of this configuration.

    Raises:
        UsageError: The run has no such group.
    """
    if own.get(group) is None:
        raise UsageError(f"the run has no {group} to change: choose one by {group}=NAME")
    return OmegaConf.merge(own[group], config[group])  # type: ignore[return-value]


def apply_changes(own: DictConfig, config: DictConfig, overrides: Sequence[Override]) -> None:
    """Bring overrides into the configuration of a run that is continued.

    The length of training and what follows it may change, but not what is trained.

    Args:
        own: The configuration of the run; changed in place.
        config: The composed configuration, with whole groups that are chosen anew.
        overrides: Overrides of the command line.

    Raises:
        UsageError: An override of something else.
    """
    settings, _ = declared("train")
    for override in overrides:
        key = str(override.key_or_group)
        group = key.split(".")[0]
        if key in settings:  # of the command line, not of the run
            continue
        if key in ("logger", "sampler") and not override.is_delete():
            own[key] = config[key]
        elif "." in key and group in _OWN["train"] and key != "training.seed":
            with open_dict(own):
                if override.is_delete():
                    parent, _, name = key.rpartition(".")
                    OmegaConf.select(own, parent).pop(name, None)
                else:
                    OmegaConf.update(own, key, override.value(), merge=True)
        else:
            change = str(override.input_line).lstrip("+")
            raise UsageError(f"{change}: a run that is continued keeps its {key}; start a new run to change it")


# -- paths ----------------------------------------------------------------------------------------------


def is_path(key: str) -> bool:
    """True if the values of a dotted key are files or folders."""
    return key.rpartition(".")[2] in _PATHS


def with_home(key: str, text: str) -> str:
    """A path with `~` or `~user` at its beginning replaced.

    Raises:
        UsageError: An empty path, or no such user; naming the key.
    """
    if not text.strip():
        raise UsageError(f"{key} is empty, expected a path: is the variable that it comes from set?")
    try:
        return str(Path(text).expanduser()) if text.startswith("~") else text
    except RuntimeError as error:
        raise UsageError(f"{key}: {text.split('/')[0]} has no home folder") from error


def settle_paths(node: Any, prefix: str = "", within: bool = False) -> None:
    """Replace `~` in paths of a configuration, in place, from wherever they come.

    Raises:
        UsageError: An empty path, as one made of a variable that is not set.
    """
    if isinstance(node, DictConfig):
        keys: Iterable[Any] = list(node)
    else:
        keys = range(len(node))
    for key in keys:
        where = f"{prefix}{key}" if isinstance(node, DictConfig) else prefix.rstrip(".")
        path = within or is_path(where)
        try:
            value = None if OmegaConf.is_missing(node, key) else node[key]
        except OmegaConfBaseException:  # an interpolation that only the job can resolve
            continue
        if isinstance(value, DictConfig | ListConfig):
            settle_paths(value, f"{where}.", path)
        elif path and isinstance(value, str):
            settled = with_home(where, value)
            if settled != value:
                node[key] = settled


# -- the check ------------------------------------------------------------------------------------------


def check_settings(command: str, config: DictConfig, overrides: Sequence[Override]) -> None:
    """Reject keys that nothing reads, and values of the wrong type.

    Nothing is imported for it that takes long: what is in the groups is compared with the source of what they name.

    Args:
        command: Name of the command.
        config: Its composed configuration.
        overrides: Overrides of the command line.

    Raises:
        UsageError: The message names the key, the nearest that is read, or the expected type.
    """
    settle_paths(config)
    _check_logger(config, overrides)
    find_in(Path.cwd(), _texts(config.get("allow")))
    settings, groups = declared(command)
    raw: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
    referred = set(_referred(raw))
    for key in raw:
        if key not in settings and key not in groups and key not in referred:
            raise unread(command, key, overrides)
    _check_values(command, config, settings)
    for key in settings:
        if key not in raw:
            raise UsageError(f"~{key} takes away what `scoresde {command}` reads: leave it out")
    # Parts of what a run has are checked together with it.
    own = groups if command == "train" and config.run is not None else edited(command, overrides)
    for group in groups:
        if config.get(group) is not None and group not in own:
            node = _group(config, group)
            checks = [problems(node, group, declaration)]
            if group in ("training", "optimizer", "guidance", "steer") and isinstance(node, dict):
                checks.append(option_problems(group, node, prefix=f"{group}."))
            for problem in itertools.chain(*checks):
                raise UsageError(_instead(problem, settings, overrides) or problem + _elsewhere(group, node))
    if command != "report":
        for run in runs_of(config):
            missing = run_problem(run)
            if missing is not None:
                raise UsageError(missing)
    _check_pairs(config)
    check_steering(config)


def runs_of(config: DictConfig) -> list[str]:
    """The run directories that a configuration names: none, one, or those that a command compares."""
    if OmegaConf.is_missing(config, "run") or config.get("run") is None:
        return []
    return list(map(str, config.run)) if isinstance(config.run, ListConfig) else [str(config.run)]


def _check_pairs(config: DictConfig) -> None:
    """Reject several runs for a command that takes one, and fewer than two for one that compares them."""
    runs = runs_of(config)
    if "against" in config:  # a command for one run or several
        return
    if not config.get("paired", False):
        if isinstance(config.get("run"), ListConfig):
            raise UsageError(f"run is a list of {len(runs)}: compare them with paired=true, or give one run")
        return
    if runs and len(runs) < 2:
        raise UsageError(f"paired=true compares runs, and run={runs[0]} is one: give run=A,B (in a sweep run=[A,B])")
    twice = next((run for k, run in enumerate(runs) if _same_as_any(run, runs[:k])), None)
    if twice is not None:
        raise UsageError(f"{twice} is given twice: give each run that paired=true compares once")


def _same_as_any(run: str, others: Iterable[str]) -> bool:
    return Path(run).expanduser().resolve() in [Path(other).expanduser().resolve() for other in others]


def _elsewhere(group: str, node: Any) -> str:
    """Which other choices of a group have the keys that this one's choice does not have, one of each class."""
    if not isinstance(node, dict):
        return ""
    known = {name: yaml.safe_load(source(group, name).read_text(encoding="utf-8")) or {} for name in options(group)}
    own = {key for choice in known.values() if choice.get("_target_") == node.get("_target_") for key in choice}
    lacking = node.keys() - own
    others: dict[str, str] = {}
    for name, choice in known.items():
        if lacking and lacking <= choice.keys():
            others.setdefault(str(choice.get("_target_")), f"{group}={name}")
    names = list(others.values())
    listed = " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
    return f"; {listed} {'has' if len(names) == 1 else 'have'} {' and '.join(sorted(lacking))}" if names else ""


def check_groups(command: str, config: DictConfig, overrides: Sequence[Override]) -> None:
    """Reject targets that are not allowed and arguments that they do not take, by importing them.

    Args:
        command: Name of the command.
        config: Its composed configuration, for which `check_settings` has nothing to say.
        overrides: Overrides of the command line.

    Raises:
        UsageError: The message names the target, or the key with what is expected.
    """
    from scoresde.config.targets import check_arguments
    from scoresde.config.trust import allowed
    from scoresde.options.errors import ConfigError
    from scoresde.runs.older import refuse_former_conditions
    from scoresde.training.environment import check_device

    if config.get("device") is not None:
        try:
            check_device(str(config.device))
        except ValueError as error:
            raise UsageError(str(error)) from error
    config = _of_run(command, config, overrides)
    _check_logger(config, overrides)
    allow = list(config.allow)
    for run in runs_of(config):
        allow = list(allowed(Path(run), allow))
    for group in declared(command)[1]:
        if config.get(group) is not None:
            try:
                plain = _group(config, group)
                if group == "data":
                    refuse_former_conditions(plain)
                check_arguments(plain, group, allow)
            except ConfigError as error:
                raise UsageError(str(error)) from error


def _check_logger(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Refuse the target of an only logger, as in older configurations, beside loggers that have names."""
    change = next((o for o in overrides if str(o.key_or_group) == "logger._target_" and not o.is_delete()), None)
    if change is not None and any(name in (config.get("logger") or {}) for name in options("logger")):
        target = str(change.value())
        name = target.partition(".")[0]
        raise UsageError(
            f"{change.input_line!r}: each logger has a name, as there may be several: write "
            f"+logger.{name if name.isidentifier() else 'NAME'}._target_={target}"
        )


def _texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, ListConfig) else []


def _instead(problem: str, settings: Mapping[str, Any], overrides: Sequence[Override]) -> str | None:
    """The message where a setting of the command was looked for in a group, as training.device."""
    for override in overrides:
        key = str(override.key_or_group)
        group, _, name = key.rpartition(".")
        if name in settings and problem.startswith(f"{key}: "):
            value = str(override.input_line).partition("=")[2]
            return f"{group} has no {name!r}, which is the command's own: write {name}={value}"
    return None


class UnreadKey(UsageError):
    """A key that nothing reads."""

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


def unread(where: str, key: str, overrides: Sequence[Override] = ()) -> UnreadKey:
    """The refusal of a key that nothing reads, with the nearest that is read."""
    settings, groups = (_evaluation(), {}) if where == "evaluation" else declared(where)
    known = [*settings, *groups]
    hint = nearest(key, known)
    override = next((o for o in overrides if str(o.key_or_group).partition(".")[0] == key), None)
    if hint and override is not None:
        (near,) = difflib.get_close_matches(key, known, 1, 0.5)
        _, _, value = str(override.input_line).partition("=")
        listed = fits([], kind_of(where, near, settings.get(near, ""))) and not value.startswith("[")
        hint = f", did you mean {near}{str(override.key_or_group)[len(key) :]}={f'[{value}]' if listed else value}?"
        whole = near in groups and str(override.key_or_group) == key
        if whole and not nearest(value.strip("[]").partition(",")[0], options(near)):
            hint = ""  # a value that is no choice of the group
    # Before a name that is near, groups that have this very one.
    inside = [
        f"{group}.{key}" for group, choice in groups.items() if choice is not None and key in _keys(group, choice)
    ]
    if inside and override is not None and str(override.key_or_group) == key:
        _, _, value = str(override.input_line).partition("=")
        hint = f", did you mean {' or '.join(f'{name}={value}' for name in inside[:3])}?"
    return UnreadKey(f"{where} has no {key!r}{hint}; it takes {', '.join(known)}", key)


def _keys(group: str, choice: str) -> list[str]:
    """The settings that a choice has by its file, but for what it is made of."""
    plain = yaml.safe_load(source(group, choice).read_text(encoding="utf-8")) if choice in options(group) else None
    return [key for key in plain or {} if not key.startswith("_") and key != "defaults"]


def _check_values(where: str, node: DictConfig, settings: dict[str, Any], prefix: str = "") -> None:
    values = {}
    for key in settings:
        if key not in node or OmegaConf.is_missing(node, key):
            continue
        try:
            value = node[key]
            values[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except InterpolationKeyError as error:
            raise UsageError(f"{prefix}{key}: {str(error).splitlines()[0]}") from error
        except OmegaConfBaseException:  # an interpolation that only the job can resolve
            continue
    for problem in option_problems(where, values, settings, prefix):
        raise UsageError(problem)


def _evaluation() -> dict[str, Any]:
    """The settings of what happens after training, with their defaults: a group without a target."""
    text = (conf_dir() / "evaluation" / "default.yaml").read_text(encoding="utf-8")
    settings: dict[str, Any] = yaml.safe_load(text)
    return settings


def _group(config: DictConfig, group: str) -> Any:
    """A group as plain containers; None where it has an interpolation that only the job can resolve, and reports."""
    if group == "evaluation":
        settings = _evaluation()
        for key in config[group]:
            if key not in settings:
                raise unread(group, str(key))
        _check_values(group, config[group], settings, f"{group}.")
    try:
        return with_current_names(OmegaConf.to_container(config[group], resolve=True, throw_on_missing=True))
    except MissingMandatoryValue as error:
        key = getattr(error, "full_key", None) or group
        raise UsageError(f"{key} is missing: give {key}=VALUE") from error
    except InterpolationKeyError as error:
        raise UsageError(f"{group}: {str(error).splitlines()[0]}") from error
    except OmegaConfBaseException:
        return None


def _of_run(command: str, config: DictConfig, overrides: Sequence[Override]) -> DictConfig:
    """The configuration with the groups that are the run's own, where one run is given."""
    groups = [g for g in edited(command, overrides) if any(str(o.key_or_group).startswith(f"{g}.") for o in overrides)]
    continued = command == "train" and config.run is not None
    if not (groups or continued) or OmegaConf.is_missing(config, "run"):
        return config
    from scoresde.options.errors import ConfigError
    from scoresde.runs.directory import Run

    try:
        own = Run.open(Path(str(config.run)), list(config.allow)).config
    except ConfigError as error:
        raise UsageError(str(error)) from error
    if continued:
        # A key that another version wrote is not the user's mistake.
        for key in set(own.get("evaluation", {})) - set(_evaluation()):
            del own.evaluation[key]
        apply_changes(own, config, overrides)
    else:
        for group in groups:
            own[group] = with_own(own, group, config)
    merged = copy.deepcopy(config)
    with open_dict(merged):
        for group in map(str, own) if continued else groups:
            merged[group] = own[group]
    return merged


def _referred(node: Any) -> Iterator[str]:
    """Top-level keys that interpolations read, as auxiliary values of a user's own configuration are."""
    if isinstance(node, dict):
        for value in node.values():
            yield from _referred(value)
    elif isinstance(node, list):
        for value in node:
            yield from _referred(value)
    elif isinstance(node, str):
        for path in re.findall(r"\$\{([\w.\[\]-]+)\}", node):
            yield re.split(r"[.\[]", path)[0]
