"""Loggers of tracking services, each by the tracker of that name in `accelerate.tracking`.

What is common to them is written once: the configuration as parameters, numbers by step, pictures, tables, the files of
the run at its end, and going on with the same tracked run when training is resumed, which `trackers.json` of the run
directory remembers. A logger adds what its service calls things.
"""

import json
import logging
import re
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from scoresde.extras import need
from scoresde.storage.bounded import DamagedFile, read_json, read_json_lines
from scoresde.storage.files import write_text
from scoresde.training.environment import processes
from scoresde.training.loggers import LOG, Logger, scalars

__all__ = ["TrackerLogger"]

_log = logging.getLogger(__name__)
_KNOWN = "trackers.json"


class TrackerLogger(Logger):
    """Hands what a run logs to a tracker of `accelerate.tracking`.

    Numbers of a step that the tracked run has already are left out when training is resumed: they are computed again,
    and are the same.

    Args:
        group: Name of a group of runs, as far as the service has groups or tags.
    """

    name: ClassVar[str]
    """Name of the choice of `logger`, of the extra that installs the package, and in `trackers.json`."""
    title: ClassVar[str]
    """Name of the service in messages."""
    package: ClassVar[str]
    """The package, as it is imported."""

    def __init__(self, group: str | None = None) -> None:
        self.group = group
        self._tracker: Any = None
        self._last = -1

    # -- what a service adds ----------------------------------------------------------------------------

    @abstractmethod
    def open(self, run_dir: Path, known: str | None) -> Any:
        """The tracker of a run, started.

        Args:
            run_dir: The run directory.
            known: Identity of the tracked run to go on with; None for a new one.
        """

    @abstractmethod
    def identity(self) -> str | None:
        """Identity of the tracked run, by which `open` goes on with it; None where the service cannot."""

    def where(self) -> str:
        """Where the tracked run is, for a line; empty if that is not known."""
        return ""

    def parameters(self, config: dict[str, Any]) -> dict[str, Any]:
        """The configuration as the service takes it, by default flat."""
        return flat(config)

    def metric(self, name: str) -> str:
        """The name of a number as the service takes it."""
        return name

    # -- what is common to all --------------------------------------------------------------------------

    def check(self) -> None:
        need(f"logger={self.name}", self.package, "accelerate", extra=self.name)

    def rewind(self, run_dir: Path, step: int) -> None:
        try:
            entries, _ = read_json_lines(run_dir / LOG)
        except FileNotFoundError:
            return
        steps = [e["step"] for e in entries if "event" not in e and isinstance(e.get("step"), int)]
        self._last = max(steps, default=-1)

    def start(self, run_dir: Path, config: dict[str, Any]) -> None:
        self.check()
        processes()  # whose state accelerate's own messages need, also where there is no training
        known = _known(run_dir)
        tracker = self._resumed(run_dir, known.get(self.name))
        if tracker is None:
            self._last = -1
            tracker = self.open(run_dir, None)
        self._tracker = tracker
        found = self.identity()
        if found is not None and known.get(self.name) != found:
            write_text(run_dir / _KNOWN, json.dumps({**known, self.name: found}, indent=2) + "\n")
        tracker.store_init_configuration(self.parameters(config))
        if where := self.where():
            _log.info("%s: %s", self.title, where)

    def _resumed(self, run_dir: Path, known: Any) -> Any:
        """The tracker of the run that was logged before training was resumed; None if there is none any more."""
        if not isinstance(known, str) or not _IDENTITY.fullmatch(known):
            return None
        try:
            return self.open(run_dir, known)
        except Exception as error:  # whatever a service raises for a run that it does not have
            why = " ".join(str(error).split())[:200] or type(error).__name__
            _log.warning("%s has no run %s to go on with, a new one is begun: %s", self.title, known, why)
            return None

    def numbers(self, step: int, values: dict[str, Any]) -> None:
        if "event" not in values and step <= self._last:
            return
        named = {self.metric(name): value for name, value in scalars(values).items()}
        if named:
            self._tracker.log(named, step=step)

    def finish(self) -> None:
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.finish()


_IDENTITY = re.compile(r"[\w.:-]{1,200}")


def _known(run_dir: Path) -> dict[str, Any]:
    """Identities of the tracked runs, by the name of the logger."""
    try:
        found: dict[str, Any] = read_json(run_dir / _KNOWN, dict)
    except FileNotFoundError:
        return {}
    except DamagedFile as error:
        _log.warning("%s: tracked runs begin anew", error)
        return {}
    return {name: value for name, value in found.items() if isinstance(value, str)}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration by dotted names, with lists and empty mappings as text."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{name}.")
        else:
            found[name] = value if value is None or isinstance(value, bool | int | float | str) else str(value)
    return found
