"""The configuration and the data that weights were trained with: kept with them, so that a change is noticed.

A configuration that was edited by hand, or other data under the same name, would otherwise change the numbers silently.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from scoresde.data import Data, DataInfo
from scoresde.options.errors import ConfigError
from scoresde.options.moved import with_current_names

__all__ = ["TRAINED_WITH", "check_fit", "check_provenance", "check_same_data"]

TRAINED_WITH = "trained_with"  # key in model files and checkpoints


def check_provenance(file: str, then: Mapping[str, Any], now: Mapping[str, Any], accept: Sequence[str] = ()) -> None:
    """Reject weights that were trained with something else.

    Args:
        file: File of the weights, for the message.
        then: Provenance in the file; keys that it lacks are not compared.
        now: Provenance of what is to be used.
        accept: Keys, or parts of keys up to a dot, whose difference is accepted; from the user.

    Raises:
        ConfigError: A key that differs; the message has both values, and how to accept the difference.
    """
    for group in then:
        if group not in now:
            continue
        # A class that has moved since is the same.
        both = (with_current_names(groups[group]) for groups in (then, now))
        for key, before, after in _differences(group, *both):
            if any(key == accepted or key.startswith(f"{accepted}.") for accepted in accept):
                continue
            raise ConfigError(
                f"{key} is {_short(after)}, but {file} was trained with {_short(before)}: "
                f"set it back, or accept it by accept=[{key}]"
            )


def check_fit(file: str, info: DataInfo, data: Data) -> None:
    """Reject data that the model of a run cannot take.

    Args:
        file: File that `info` is from, for the message.
        info: Facts about the data that the run was trained on.
        data: Data to be used.

    Raises:
        ConfigError: Another shape, or another number of levels.
    """
    levels = [transform.levels or "continuous" for transform in (data.transform, info.transform)]
    for what, now, then in (("shape", data.shape, info.shape), ("levels", *levels)):
        if now != then:
            raise ConfigError(
                f"the data {data.name} have {what} {now}, but the run was trained on {what} {then} ({file}): "
                "give data like those, or train a new run"
            )


def check_same_data(file: str, info: DataInfo, data: Data, accept: Sequence[str] = ()) -> None:
    """Reject data whose values, labels or split have changed since training.

    Args:
        file: File that `info` is from, for the message.
        info: Facts about the data that the run was trained on.
        data: Data to be used.
        accept: Keys whose difference is accepted, of which this one is data.

    Raises:
        ConfigError: Other data; the message says how to accept them.
    """
    if info.fingerprint not in (None, data.fingerprint()) and "data" not in accept:
        raise ConfigError(
            f"the data {data.name} are not those that the run was trained on ({file} has their fingerprint): "
            "put them back, or accept these by accept=[data]"
        )


def _differences(key: str, before: Any, after: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        names = [*before, *(name for name in after if name not in before)]
        return [d for name in names for d in _differences(f"{key}.{name}", before.get(name), after.get(name))]
    return [] if before == after else [(key, before, after)]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
