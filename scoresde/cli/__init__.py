"""The `scoresde` command.

    scoresde train | sample | likelihood | ...   [Hydra overrides]
    scoresde import | convert | list | completion

A command is a Hydra application: `--multirun`, `--cfg job`, `--help` and overrides work as Hydra's documentation has
them. In addition, an override that does not exist is answered with the nearest name that does, a user's mistake ends
in one line instead of a traceback, and a failed job of a sweep does not stop the others.

Slow imports wait until they are needed, and nearly all of them until signals end the process without a traceback.
"""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from scoresde.cli.names import COMMANDS, OTHERS
from scoresde.cli.processes import leave_at_once
from scoresde.extras import EXTRAS, need

if TYPE_CHECKING:
    from scoresde.cli.catalogue import conf_dir
    from scoresde.cli.console import Verbosity

__all__ = ["COMMANDS", "OTHERS", "conf_dir", "main"]

_USAGE = """usage: scoresde COMMAND [key=value ...] [--multirun] [-q | -v]

commands
{commands}

main choices, by name; `scoresde list GROUP` tells more of each
{choices}

  --multirun, -m   a job for every combination of values given as key=a,b,c
  --cfg job        print the configuration, do nothing
  -q, -v           say less, say more
  --version

`scoresde COMMAND --help` shows what a command can be told."""

# Groups shown in the short help.
_MAIN = ("experiment", "data", "sde", "network", "objective", "sampler", "logger")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with `arguments`, those of the process if not given; exits with its status."""
    with leave_at_once():
        _main(arguments)


def __getattr__(name: str) -> object:
    if name == "conf_dir":
        from scoresde.cli.catalogue import conf_dir

        return conf_dir
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _main(arguments: Sequence[str] | None) -> None:
    from scoresde.cli.console import Verbosity, configure, fail, nearest, tolerate_encoding, without_verbosity
    from scoresde.cli.streams import end_of_output, outlive_readers

    outlive_readers()
    tolerate_encoding()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments != ["--version"]:
        _need_extra()
    if arguments[:1] == ["--complete"]:
        from scoresde.cli.completion import complete

        print("\n".join(complete(arguments[1:])))
        return
    verbosity = Verbosity.of(arguments)
    arguments = without_verbosity(arguments)
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command in COMMANDS and not {"-h", "--help"} & set(rest):
        configure(verbosity)
        _run(command, rest, verbosity)
        return
    about = ("", "-h", "--help", "help", "--version")
    if command not in (*about, *COMMANDS, *OTHERS):
        named = [*COMMANDS, *OTHERS]
        fail(f"unknown command {command!r}{nearest(command, named)}; expected one of {', '.join(named)}", 2)
    if command in ("convert", "import"):
        configure(verbosity)
    _tell(command, rest)
    end_of_output()
    if command in about:
        sys.exit(0 if command else 2)


def _need_extra() -> None:
    """End in one line where only the library is installed."""
    from scoresde.cli.console import fail

    try:
        need("the scoresde command", *sorted(EXTRAS.keys() - {"torchsde"}), extra="cli")
    except ModuleNotFoundError as error:
        fail(str(error), 2)


def _run(command: str, arguments: Sequence[str], verbosity: "Verbosity") -> None:
    if "torch" not in sys.modules:
        # They would change the type that float32 layers are computed in, and are read when torch is loaded.
        for name in ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"):
            os.environ.pop(name, None)
    from scoresde.cli.application import run

    run(command, arguments, verbosity)


def _tell(command: str, arguments: Sequence[str]) -> None:
    """Do what needs no run: help, lists, completion, conversion and imports."""
    if command == "--version":
        from scoresde.version import __version__

        print(__version__)
    elif command == "list":
        from scoresde.cli.catalogue import show

        show(arguments)
    elif command == "convert":
        from scoresde.cli.convert import convert

        convert(arguments)
    elif command == "import":
        from scoresde.cli.imports import import_command

        import_command(arguments)
    elif command == "completion":
        from scoresde.cli.completion import script

        print(script(arguments))
    elif command in COMMANDS:
        from scoresde.cli.catalogue import show_command

        show_command(command, arguments)
    else:
        print(_usage())


def _usage() -> str:
    from scoresde.cli.catalogue import options
    from scoresde.cli.console import wrapped

    commands = "\n".join(f"  {name:<11} {text}" for name, text in {**COMMANDS, **OTHERS}.items())
    choices = "\n".join(wrapped(f"  {group:<11} ", ", ".join(options(group))) for group in _MAIN)
    return _USAGE.format(commands=commands, choices=choices)
