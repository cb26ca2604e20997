"""Configurations in the words of the command line: which choice of which group, and what was changed in it."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from scoresde.config.spelled_out import spelled_out

__all__ = ["conf_dir", "in_words", "leaves"]

# Groups whose choices stand inside another entry of the configuration, by where they stand.
_INSIDE = {"evaluation.dequantisation": "dequantisation", "evaluation.divergence": "divergence"}


def conf_dir() -> Path:
    """The folder of configuration files: in the wheel beside the package's modules, in a checkout one folder up."""
    package = Path(__file__).parent.parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of a configuration by their dotted names; lists of plain values are leaves, as JSON."""
    if isinstance(node, dict) and node:
        items = [(f"{prefix}.{key}" if prefix else str(key), value) for key, value in node.items()]
    elif isinstance(node, list) and any(isinstance(item, (dict, list)) for item in node):
        items = [(f"{prefix}.{index}", value) for index, value in enumerate(node)]
    elif isinstance(node, (dict, list)):
        return {prefix: json.dumps(node, default=str, ensure_ascii=False)}
    else:
        return {prefix: node}
    return {name: leaf for key, value in items for name, leaf in leaves(value, key).items()}


def in_words(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as the command line would say it.

    Each group has the name of its choice, `sde: vp`, followed by those settings that are not the choice's own,
    `sde.beta_max: 10`. A class that is no choice of this package stands by its own name. Other entries are kept.

    Args:
        config: The configuration's leaves by their dotted names.
    """
    words: dict[str, Any] = {}
    places = {key.split(".")[0]: key.split(".")[0] for key in config} | _INSIDE
    found = {
        place: _choice(group, {k.removeprefix(f"{place}."): v for k, v in config.items() if k.startswith(f"{place}.")})
        for place, group in places.items()
    }
    for key, value in config.items():
        place = next((p for p in (*_INSIDE, key.split(".")[0]) if key.startswith(f"{p}.") and found[p][0]), None)
        if place is None:
            words[key] = value
            continue
        name, changed = found[place]
        words.setdefault(place, name)
        if key.removeprefix(f"{place}.") in changed:
            words[key] = value
    return words


def _choice(group: str, own: dict[str, Any]) -> tuple[str, set[str]]:
    """The choice that settings come from, and which of them are not the choice's; an empty name if there is none."""
    targets = {key for key in own if key.split(".")[-1] == "_target_"}
    fitting = []
    for name, choice in _choices().get(group, ()):
        if all(own.get(key) == value for key, value in choice.items() if key.split(".")[-1] == "_target_"):
            changed = {key for key, value in own.items() if not _is_choices_own(key, value, choice)}
            if not changed & targets:
                absent = sum(key not in own for key in choice)
                # Formats of files may have one reader, and so the same settings.
                other = not str(own.get("path")).endswith(f".{name}")
                fitting.append((len(changed), absent, other, name, changed))
    if fitting:
        *_, name, changed = min(fitting, key=lambda fit: fit[:4])
        return name, changed
    target = own.get("_target_")
    return (str(target).rpartition(".")[2], set(own) - {"_target_"}) if target else ("", set())


def _is_choices_own(key: str, value: Any, choice: dict[str, Any]) -> bool:
    # An interpolation stands for whatever it was resolved to.
    return key in choice and (_plain(choice[key]) == _plain(value) or "${" in str(choice[key]))


def _plain(value: Any) -> Any:
    """A number where text is one: YAML 1.1 takes 1e-5 for text, Hydra does not."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


@cache
def _choices() -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """The names and leaves of every choice, by group: those of its file, and those that earlier versions had."""
    import yaml

    found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for path in sorted(conf_dir().glob("*/*.yaml")):
        choice = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        choices = found.setdefault(path.parent.name, [])
        choices.append((path.stem, leaves(choice)))
        if path.parent.name == "sampler":
            choices.append((path.stem, leaves(spelled_out(choice))))
    return found
