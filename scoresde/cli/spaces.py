"""Values and spaces of sweeps, rejected where the sweeper would ignore a part of them or read it differently.

Hydra's grid takes values; a search by Optuna takes values, ranges and intervals, and one tag, `log` on intervals.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, RangeSweep

from scoresde.cli.catalogue import groups, options
from scoresde.cli.console import UsageError, nearest
from scoresde.cli.samplers import PRUNERS, SAMPLERS

__all__ = ["MOST_JOBS", "check_parameters", "check_spaces", "integers", "is_optuna", "range_length"]

MOST_JOBS = 10_000
"""Jobs of a grid at the most; one sweep of more is a mistake in a number, or better several."""


def is_optuna(overrides: Sequence[Override]) -> bool:
    """True if the chosen sweeper is Optuna's."""
    return _chosen(overrides, "hydra/sweeper", "basic") == "optuna"


def range_length(value: RangeSweep) -> float:
    """The number of values of a range, without making them."""
    start, stop, step = value.start, value.stop, value.step
    if start is None or stop is None or not step:
        return 0
    steps = (stop - start) / step
    return max(0, math.ceil(steps)) if math.isfinite(steps) else math.inf


def _chosen(overrides: Sequence[Override], key: str, default: str) -> str:
    return next((str(o.value()) for o in reversed(overrides) if o.key_or_group == key), default)


def check_spaces(overrides: Sequence[Override]) -> None:
    """Reject spaces and settings that the sweeper would not follow.

    Args:
        overrides: Overrides of a sweep.

    Raises:
        UsageError: The message says what to write.
    """
    optuna = is_optuna(overrides)
    _check_sweeper(overrides, optuna)
    swept = [o for o in overrides if o.is_sweep_override()]
    given = Counter(o.get_key_element().lstrip("+") for o in overrides)
    for override in swept:
        if given[override.get_key_element().lstrip("+")] > 1:
            raise UsageError(f"{override.key_or_group} is given twice: leave out one")
        if isinstance(override.value(), IntervalSweep | RangeSweep) and override.key_or_group in groups():
            names = options(str(override.key_or_group))
            raise UsageError(f"{override.input_line!r}: expected choices of {', '.join(names)}")
        if override.is_hydra_override():
            raise UsageError(f"{override.input_line!r}: expected one value, a sweep's own settings are not swept over")
        if optuna:
            check_parameters(overrides, override)
        else:
            _check_grid(override)


# -- settings of a sweeper ------------------------------------------------------------------------------


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _text(value: Any) -> bool:
    return value is None or isinstance(value, str)


_OPTUNA: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "n_trials": (_whole, "an integer of at least 1"),
    "n_jobs": (
        lambda value: value is None or _whole(value),
        "an integer of at least 1, the number of trials side by side, or null",
    ),
    "max_failure_rate": (_share, "a number from 0 to 1"),
    "direction": (lambda value: value in ("minimize", "maximize"), "minimize or maximize"),
    "study_name": (_text, "a name, or null"),
    "storage": (_text, "an address such as sqlite:///runs/optuna.db, or null"),
}


def _check_sweeper(overrides: Sequence[Override], optuna: bool) -> None:
    for override in overrides:
        key, text = str(override.key_or_group), override.input_line
        _, _, name = key.partition("hydra.sweeper.")
        if name.partition(".")[0] in ("params", "search_space"):
            raise UsageError(f"{text!r}: give what is searched as any other override: KEY=a,b,c")
        for part, known in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
            if key == f"hydra/sweeper/{part}" and override.value() not in known:
                hint = nearest(str(override.value()), known)
                raise UsageError(f"{text!r}: there is no such {part}{hint}; expected one of {', '.join(known)}")
        if key.startswith(("hydra.sweeper.", "hydra/sweeper/")) and not optuna and name != "max_batch_size":
            raise UsageError(f"{text!r} is a setting of Optuna: add hydra/sweeper=optuna")
        if not (optuna and name) or override.is_sweep_override() or name.startswith(("sampler.", "pruner.")):
            continue
        if name not in _OPTUNA:
            raise UsageError(f"{text!r}: Optuna's sweeper has no {name!r}{nearest(name, _OPTUNA)}")
        fits, expected = _OPTUNA[name]
        if not fits(override.value()):
            raise UsageError(f"{key} is {override.value()!r}, expected {expected}")


# -- spaces ---------------------------------------------------------------------------------------------


def _check_grid(override: Override) -> None:
    value, text = override.value(), override.input_line
    if isinstance(value, IntervalSweep):
        raise UsageError(
            f"{text!r}: an interval has infinitely many values: give some, as {override.key_or_group}=a,b,c, or have "
            "Optuna search it by hydra/sweeper=optuna"
        )
    if getattr(value, "tags", None):
        raise UsageError(f"{text!r}: a tag has no effect on a grid of values, leave it out")
    _check_length(override)


def _check_length(override: Override) -> None:
    value = override.value()
    if isinstance(value, RangeSweep) and range_length(value) > MOST_JOBS:
        raise UsageError(f"{override.input_line!r} has more than {MOST_JOBS:,} values, the limit of a grid: give fewer")


def check_parameters(overrides: Sequence[Override], override: Override) -> None:
    """Reject a space that Optuna's sweeper would not follow.

    Args:
        overrides: Overrides of the sweep, among them those of its sampler.
        override: Override with the space.

    Raises:
        UsageError: The message says what to write.
    """
    value, key, text = override.value(), override.key_or_group, override.input_line
    grid = _chosen(overrides, "hydra/sweeper/sampler", "tpe") == "grid"
    tags = set(getattr(value, "tags", ()))
    if isinstance(value, Glob):
        raise UsageError(f"{text!r}: Optuna's sweeper takes no glob: name the choices, as {key}=a,b,c")
    if getattr(value, "shuffle", False):
        raise UsageError(f"{text!r}: Optuna chooses in an order of its own, leave out shuffle(...)")
    if isinstance(value, IntervalSweep):
        for tag in sorted(tags - {"log"}):
            raise UsageError(
                f"{text!r}: Optuna knows no tag {tag!r}{nearest(tag.lower(), ['log']) or '; it knows log'}"
            )
        _check_interval(override, value, grid)
        return
    if tags:
        log = f"; on a logarithmic scale it searches {key}=tag(log,int(interval(a,b)))"
        log = log if "log" in map(str.lower, tags) and isinstance(value, RangeSweep) else ""
        raise UsageError(f"{text!r}: a tag has no effect on a list of values, leave it out{log}")
    if isinstance(value, RangeSweep):
        _check_range(override, value, grid)
        return
    assert isinstance(value, ChoiceSweep)
    choices = [str(choice) for choice in override.sweep_string_iterator()]
    if len(choices) == 1:
        raise UsageError(f"{text!r} leaves nothing to choose: write {key}={choices[0]}")
    twice = [choice for choice, count in Counter(choices).items() if count > 1]
    if twice:
        raise UsageError(f"{text!r} has {twice[0]} twice")


def _check_interval(override: Override, value: IntervalSweep, grid: bool) -> None:
    text, low, high = override.input_line, value.start, value.end
    if grid:
        raise UsageError(f"{text!r}: hydra/sweeper/sampler=grid takes values, as {override.key_or_group}=a,b,c")
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        raise UsageError(f"{text!r}: expected an interval between two finite numbers")
    if low >= high:
        raise UsageError(f"{text!r}: expected an interval from a lower number to a higher one")
    if "log" in value.tags and low <= 0:
        raise UsageError(f"{text!r}: an interval on a logarithmic scale begins above 0")


def _check_range(override: Override, value: RangeSweep, grid: bool) -> None:
    text, start, stop, step = override.input_line, value.start, value.stop, value.step
    if start is None or stop is None or step <= 0 or stop <= start or not math.isfinite(stop - start):
        raise UsageError(f"{text!r}: expected a range from a lower number to a higher one, in steps above 0")
    if range_length(value) == 1:
        raise UsageError(f"{text!r} leaves nothing to choose: write {override.key_or_group}={start}")
    if grid:
        _check_length(override)


def integers(message: str, overrides: Sequence[Override]) -> str:
    """A hint on searching integers, for a message about an interval of real numbers in their place."""
    if "an integer" not in message:
        return ""
    for override in overrides:
        value, key = override.value(), override.key_or_group
        if isinstance(value, IntervalSweep) and isinstance(value.start, float) and message.startswith(f"{key} is "):
            search = f"int(interval({value.start:g},{value.end:g}))"
            return f"; to search integers: {key}={f'tag(log,{search})' if 'log' in value.tags else search}"
    return ""
