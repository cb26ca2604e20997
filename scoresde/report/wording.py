"""Reprs that summaries hold, of samplers and other objects, in the words of the shell."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from scoresde.config.words import conf_dir
from scoresde.report.numbers import text
from scoresde.storage.bounded_yaml import parse_yaml

__all__ = ["LONGEST", "own_sampler", "repr_in_words", "sampler_in_words"]

LONGEST = 4000
"""Characters of a text that is searched: a run may be a stranger's, and a search takes the square of their number."""


def sampler_in_words(shown: Any) -> str:
    """The name and the number of steps of a sampler, from its repr in a summary.

    Other text is returned as `repr_in_words` has it.
    """
    plain = str(shown)
    if len(plain) > LONGEST:
        return plain
    if not plain.startswith("Sampler("):
        return str(repr_in_words(plain))
    steps = re.findall(r"\bsteps=(\d+)", plain)
    name = _samplers().get(_any_steps(plain))
    if name is None:
        name = _spaced(re.split(r"\W", plain)[1])
    return f"{name}, {text(int(steps[-1]))} steps" if steps else name


def own_sampler(shown: Any, config: Mapping[str, Any], words: Mapping[str, Any]) -> Any:
    """The name and the settings of the sampler of the run's own configuration, from its repr in a summary.

    A repr of another sampler is returned as it is.

    Args:
        shown: The repr of a sampler.
        config: Leaves of the configuration by their dotted names.
        words: The configuration in the words of the command line.
    """
    classes = [str(config.get(f"sampler.{part}._target_")).rpartition(".")[2] for part in ("solver", "grid")]
    if not isinstance(shown, str) or not re.match(r"Sampler\({}\b.*, {}\(".format(*map(re.escape, classes)), shown):
        return shown
    further = {key.rpartition(".")[2]: value for key, value in words.items() if key.startswith("sampler.")}
    further = {"steps": config.get("sampler.grid.steps")} | further
    steps = further.pop("steps")
    parts = [f"{key} {text(value)}" for key, value in further.items()]
    return ", ".join([str(words.get("sampler")), *parts, *([f"{text(steps)} steps"] if steps is not None else [])])


@cache
def _samplers() -> dict[str, str]:
    """The choices of samplers by their repr, whatever their number of steps."""
    # Late: a page without samples does not need them.
    from hydra.utils import instantiate

    found: dict[str, str] = {}
    for path in sorted((conf_dir() / "sampler").glob("*.yaml")):
        plain = parse_yaml(path.read_bytes(), Path(path))
        if path.stem == "tuned":  # it has no repr without the run that it was tuned for
            continue
        try:
            shown = repr(instantiate(plain))
        except Exception:  # of an extra that is not installed
            continue
        found.setdefault(_any_steps(shown), path.stem)
    return found


def _any_steps(shown: str) -> str:
    """The repr without the number of steps of the grid, which is the last."""
    return re.sub(r"\bsteps=\d+(?!.*\bsteps=\d)", "steps=N", shown)


def repr_in_words(shown: Any) -> Any:
    """`Name(key=value, ...)` as "name, key value, ...", without what is not set; anything else as it is."""
    found = re.fullmatch(r"([A-Z]\w*)\(([^()]*)\)", shown) if isinstance(shown, str) else None
    if found is None:
        return shown
    arguments = [part.strip() for part in found[2].split(",") if part.strip()]
    told = [part.replace("=", " ", 1).replace("'", "") for part in arguments if part.partition("=")[2] not in _UNSET]
    return ", ".join((_spaced(found[1]), *told))


_UNSET = ("None", "'auto'")


def _spaced(name: str) -> str:
    """`TruncatedNormal` as "truncated normal"; capitals in a row stay, as in `VPSDE`."""
    parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])|_", " ", name).split()
    return " ".join(part if part[1:2].isupper() else part.lower() for part in parts)
