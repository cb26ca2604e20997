"""Tab completion of commands, choices and keys, from the files of `conf/` alone, so that it answers at once."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scoresde.cli.catalogue import conf_dir, further_folders, groups, options, source
from scoresde.cli.console import UsageError, fail, without_verbosity
from scoresde.shell import override

__all__ = ["complete", "script"]

_BASH = """_scoresde() {
    local line word i IFS=$'\\n'
    line=("${COMP_LINE:0:COMP_POINT}")
    # Bash splits at = and :, so the words are taken from the line.
    IFS=' ' read -r -a words <<< "$line"
    [[ $line == *' ' ]] && words+=("")
    word=${words[${#words[@]} - 1]}
    IFS=$'\\n'
    COMPREPLY=($(scoresde --complete "${words[@]:1}" 2>/dev/null))
    local kept="${COMP_WORDS[COMP_CWORD]}"
    [[ $kept == = ]] && kept=""
    local cut="${word%"$kept"}"
    COMPREPLY=("${COMPREPLY[@]#"$cut"}")
    # Quotes belong to Hydra's grammar, so they must reach it.
    for i in "${!COMPREPLY[@]}"; do
        [[ ${COMPREPLY[i]} == *'"'* ]] && printf -v "COMPREPLY[$i]" %q "${COMPREPLY[i]}"
    done
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=.] ]] && compopt -o nospace
    return 0
}
complete -o default -F _scoresde scoresde"""

_ZSH = """#compdef scoresde
_scoresde() {
    local -a found closed open
    found=(${(f)"$(scoresde --complete "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    open=(${(M)found:#*[=.]})
    closed=(${found:#*[=.]})
    (( $#open )) && compadd -S '' -- $open
    (( $#closed )) && compadd -- $closed
    (( $#found )) || _files
}
compdef _scoresde scoresde"""

_FISH = """complete -c scoresde -f -a '(scoresde --complete (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'"""

_SCRIPTS = {"bash": (_BASH, "~/.bashrc"), "zsh": (_ZSH, "~/.zshrc"), "fish": (_FISH, "~/.config/fish/config.fish")}


def script(arguments: Sequence[str]) -> str:
    """Script for a shell to evaluate: `eval "$(scoresde completion bash)"`."""
    if len(arguments) != 1 or arguments[0] not in _SCRIPTS:
        fail(f"scoresde completion takes one of {', '.join(_SCRIPTS)}", 2)
    text, file = _SCRIPTS[arguments[0]]
    how = (
        "scoresde completion fish | source"
        if arguments[0] == "fish"
        else f'eval "$(scoresde completion {arguments[0]})"'
    )
    return f"# in {file}: {how}\n{text}"


def complete(words: Sequence[str]) -> list[str]:
    """Completions of the last word, given the words before it."""
    from scoresde.cli.names import COMMANDS, OTHERS

    before, word = without_verbosity(words[:-1]), words[-1] if words else ""
    if not before:
        found: Iterator[str] = iter([*COMMANDS, *OTHERS])
    elif before[0] == "list":
        found = iter(groups(_folders(before)))
    elif before[0] == "convert":
        found = _convert(before[1:], word)
    elif before[0] == "import":
        found = _import(before[1:], word)
    elif before[0] == "completion":
        found = iter(_SCRIPTS)
    elif before[0] in COMMANDS:
        found = _overrides(before[0], before[1:], word)
    else:
        found = iter(())
    return sorted({f for f in found if f.startswith(word)})


def _convert(before: Sequence[str], word: str) -> Iterator[str]:
    """Keys of `scoresde convert`; files are left to the shell."""
    from scoresde.cli.convert import keys

    if word.startswith("data="):
        yield from (f"data={name}" for name in options("data"))
    elif len(before) >= 2:
        yield from ("data=", *(f"{key}=" for key in keys(before)))


def _import(before: Sequence[str], word: str) -> Iterator[str]:
    """Keys of `scoresde import` and published configurations; files are left to the shell."""
    from scoresde.cli.imports import KEYS

    key, equals, _ = word.partition("=")
    if not equals:
        yield from (f"{name}=" for name in KEYS if before)
    elif key == "config":
        from scoresde.interop.published import GUIDED, SCORE_SDE

        yield from (f"config={name}" for name in (*SCORE_SDE, *GUIDED))
    elif key == "weights":
        yield from ("weights=ema", "weights=raw")
    elif key == "data":
        yield from (f"data={name}" for name in options("data"))


def _overrides(command: str, before: Sequence[str], word: str) -> Iterator[str]:
    key, equals, value = word.partition("=")
    folders = _folders(before)
    done, comma, _ = value.rpartition(",")
    if word.startswith("-"):
        yield from ("--multirun", "--cfg", "--info", "--config-dir", "--config-name", "--help", "--quiet", "--verbose")
    elif equals and key.lstrip("+") in groups(folders):
        yield from (f"{key}={done}{comma}{name}" for name in options(key.lstrip("+"), folders))
    elif equals and key == "run":
        yield from (override("run", path.parent) for path in sorted(Path().glob("runs/*/config.yaml")))
    elif equals and key in _PLUGINS:
        yield from (f"{key}={name}" for name in _PLUGINS[key])
    elif not equals:
        yield from (f"{key}=" for key in _keys(command, before, folders))
        if command != "train" and word:
            yield from (str(path.parent) for path in sorted(Path().glob("runs/*/config.yaml")))
        if "--multirun" in before or "-m" in before:
            yield from (f"{key}=" for key in _PLUGINS)


_PLUGINS = {
    "hydra/launcher": ("basic", "joblib", "submitit_local", "submitit_slurm", "ray", "ray_aws"),
    "hydra/sweeper": ("basic", "optuna"),
}


def _folders(before: Sequence[str]) -> list[Path]:
    """Further folders of configurations; none while one is still being typed."""
    try:
        return further_folders(before)
    except UsageError:
        return []


def _keys(command: str, before: Sequence[str], folders: Sequence[Path]) -> Iterator[str]:
    """Keys of the command's configuration, and of the choices that it names or that the words before name."""
    top = _read(conf_dir() / f"{command}.yaml")
    chosen: dict[str, str] = {}
    for entry in top.pop("defaults", []):
        if isinstance(entry, dict):
            chosen |= {k: v for k, v in entry.items() if k in groups()}
    top.pop("hydra", None)
    yield from _flat(top, "")
    chosen |= {k: v for k, _, v in (w.partition("=") for w in before) if k in chosen}
    for group, name in chosen.items():
        yield group
        paths = [source(group, name), *(folder / group / f"{name}.yaml" for folder in folders)]
        path = next((path for path in paths if path.is_file()), None)
        if group != "experiment" and path is not None:
            yield from _flat(_read(path), f"{group}.")


def _read(path: Path) -> dict[str, Any]:
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def _flat(node: dict[str, Any], prefix: str) -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif not key.startswith("_") and key != "defaults":
            yield f"{prefix}{key}"
