"""What can be chosen by name: the files of `conf/`, whose first line says what each is and whose it is."""

import re
from collections.abc import Sequence
from importlib.util import find_spec

from scoresde.cli.output import UsageError, fail, nearest, print_table, wrapped
from scoresde.training.words import conf_dir

__all__ = ["check_extras", "conf_dir", "description", "groups", "options", "show", "show_command"]

# Where an s does not make it, as one word for the shell.
_PLURALS = {"data": "data_sets", "training": "training", "evaluation": "evaluation"}


def groups() -> list[str]:
    """Names of the groups."""
    return sorted(path.name for path in conf_dir().iterdir() if path.is_dir())


def options(group: str) -> list[str]:
    """Names of a group's choices."""
    return sorted(p.stem for p in (conf_dir() / group).glob("*.yaml"))


def description(group: str, name: str) -> str:
    """The first comment of a choice's file, in one line."""
    lines = (conf_dir() / group / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    found = (line.lstrip("# ") for line in lines if line.startswith("#") and not line.startswith("# @package"))
    return next(found, "")


def settings_of(group: str, name: str) -> list[str]:
    """The lines of a choice's file that can be changed, with their comments."""
    text = (conf_dir() / group / f"{name}.yaml").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith(("#", "_", "defaults:", "  - "))]


def _plural(group: str) -> str:
    return _PLURALS.get(group, f"{group}s")


def show(arguments: Sequence[str]) -> None:
    """Print the choices of the groups that are named, or the groups."""
    known = groups()
    if not arguments or arguments[0] in ("-h", "--help"):
        names = {g: options(g) for g in known}
        rows = [
            [_plural(g), str(len(names[g])), ", ".join(names[g][:5]) + (", ..." if len(names[g]) > 5 else "")]
            for g in known
        ]
        print_table(("scoresde list", "choices", "among them"), rows)
        return
    asked = {**{g: g for g in known}, **{_plural(g): g for g in known}}
    for argument in arguments:
        word = argument.lower().replace(" ", "_").replace("-", "_")
        if word not in asked:
            plurals = ", ".join(map(_plural, known))
            fail(f"nothing to list as {argument!r}{nearest(word, asked)}; expected one of {plurals}", 2)
        group = asked[word]
        print_table(
            ("choice", "what it is"), [[f"{group}={name}", description(group, name)] for name in options(group)]
        )


def show_command(command: str) -> None:
    """Print what a command can be told: its groups with their choices, and its settings as its file explains them."""
    text = (conf_dir() / f"{command}.yaml").read_text(encoding="utf-8")
    head, _, rest = text.partition("\ndefaults:\n")
    defaults, _, settings = rest.partition("\n\n")
    print(f"{head.lstrip('# ')}\n\nusage: scoresde {command} [key=value ...] [--multirun]")
    chosen = re.findall(r"^  - (\w+): (\w+)", defaults, re.M)
    if chosen:
        print("\ngroups, by name; the first is the default, GROUP.KEY=VALUE changes a part of it")
        for group, default in chosen:
            names = [default, *(name for name in options(group) if name != default)]
            print(wrapped(f"  {group:<16}", ", ".join(names)))
    print("\nsettings\n" + "\n".join(f"  {line}" for line in settings.partition("\nhydra:")[0].strip().splitlines()))
    for group, default in chosen:
        lines = settings_of(group, default) if default != "null" else []
        if lines:
            print(f"\n{group}.KEY, here of {group}={default}")
            print("\n".join(f"  {line}" for line in lines))
    print("\n`--cfg job` prints the whole configuration, `--hydra-help` what Hydra itself can be told.")


_EXTRAS = {
    "hydra/launcher=joblib": ("hydra_joblib_launcher", "sweep"),
    "hydra/launcher=submitit_local": ("hydra_submitit_launcher", "sweep"),
    "hydra/launcher=submitit_slurm": ("hydra_submitit_launcher", "sweep"),
    "hydra/sweeper=optuna": ("hydra_optuna_sweeper", "sweep"),
    "hydra/launcher=ray": ("hydra_ray_launcher", "ray"),
    "hydra/launcher=ray_aws": ("hydra_ray_launcher", "ray"),
}


def check_extras(arguments: Sequence[str]) -> None:
    """Refuse a launcher or sweeper of Hydra whose package is not installed.

    Raises:
        UsageError: saying what to install, or the nearest name that exists.
    """
    for argument in arguments:
        key, _, name = argument.lstrip("+").partition("=")
        if key not in ("hydra/launcher", "hydra/sweeper"):
            continue
        known = ["basic", *(e.partition("=")[2] for e in _EXTRAS if e.startswith(key))]
        if name not in known:
            raise UsageError(f"{key} has no choice {name!r}{nearest(name, known)}; expected one of {', '.join(known)}")
        module, extra = _EXTRAS.get(f"{key}={name}", ("", ""))
        if module and (find_spec("hydra_plugins") is None or find_spec(f"hydra_plugins.{module}") is None):
            raise UsageError(f"{argument} needs a package that is not installed: pip install 'scoresde[{extra}]'")
