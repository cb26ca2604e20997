"""Hydra's flags: told apart from overrides as Hydra does, and rejected if they do nothing here."""

import logging
import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from scoresde.cli.console import UsageError

__all__ = ["show_info", "split_flags"]


def split_flags(command: str, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags, written out and each followed by its value, and overrides, told apart as Hydra does.

    Raises:
        UsageError: An unknown flag, one without its value, or one that does nothing for this command.
    """
    # The value of this flag may be left out, and then the parser would take an override for it.
    arguments = ["--info=all" if a in ("--info", "-i") and "=" in b else a for a, b in pairwise([*arguments, ""])]
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    given, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        raise UsageError(f"there is no flag {unknown[0]}; see scoresde {command} --help")
    if given.experimental_rerun is not None:
        raise UsageError(
            "--experimental-rerun reads a pickle, which may run any code: "
            "scoresde train run=DIR resumes a run, and a sweep that is repeated resumes itself"
        )
    if given.shell_completion:
        raise UsageError('--shell-completion is not needed: eval "$(scoresde completion bash)", or zsh, fish')
    if given.cfg is None and (given.resolve or given.package is not None):
        flag = "--resolve" if given.resolve else "--package"
        raise UsageError(f"{flag} is for --cfg job, which prints the configuration: add it, or leave out {flag}")
    modes = {"--run": given.run, "--multirun": given.multirun, "--cfg": given.cfg, "--info": given.info}
    asked = [name for name, value in modes.items() if value]
    if len(asked) > 1 and asked != ["--multirun", "--cfg"]:  # of which `check_sweep` says more
        raise UsageError(f"{' and '.join(asked)} exclude each other: leave one out")
    flags = [
        f"--{name.replace('_', '-')}" for name in ("run", "multirun", "resolve", "hydra_help") if vars(given)[name]
    ]
    for name in ("cfg", "package", "config_path", "config_name", "config_dir", "info"):
        value = vars(given)[name]
        if value is not None:
            flag = f"--{name.replace('_', '-')}"
            flags += [flag, _folder(flag, value) if name in ("config_path", "config_dir") else value]
    return flags, given.overrides


def _refuse(message: str) -> NoReturn:
    raise UsageError(message.removeprefix("argument "))


def _folder(flag: str, text: str) -> str:
    """The absolute path of a folder of configurations, or the package that has one, as `pkg://`."""
    if text.startswith("pkg://"):
        return text
    path = Path(text.removeprefix("file://")).expanduser().absolute()
    if not text or not path.is_dir():
        raise UsageError(f"{flag} {shlex.quote(text)}: there is no such folder")
    return str(path)


def show_info() -> None:
    """Let Hydra print what `--info` asks for, which it does by logging."""
    logging.getLogger().handlers.clear()
    logging.getLogger("hydra").setLevel(logging.DEBUG)
