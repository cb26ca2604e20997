"""Receivers of a run's numbers and figures, in its directory and elsewhere."""

import json
import logging
import math
import os
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.request import urlopen

from scoresde.extras import need
from scoresde.storage.bounded import complete_lines, read_file, read_json_lines
from scoresde.storage.files import set_aside, write_bytes, write_text

__all__ = ["Guarded", "LocalLogger", "Logger", "StopTraining", "TensorBoardLogger", "WandbLogger"]

_log = logging.getLogger(__name__)
LOG = "metrics.jsonl"
"""The log of a run in its directory."""
# Folders of loggers, and what only an interrupted training needs.
_KEPT_HERE = ("checkpoints", "clearml", "comet", "tensorboard", "wandb")
# Seconds that a run waits for wandb: for an answer at all, for a new run, and at the end for the last uploads.
_ANSWER, _START, _FINISH = 5.0, 20.0, 60.0


class StopTraining(Exception):
    """Raised by a logger's `numbers` to end training at this step: a checkpoint is written first."""


class Logger(ABC):
    """Receives numbers and figures."""

    def check(self) -> None:
        """Reject what `start` would reject, before data are read.

        Raises:
            ModuleNotFoundError: A package that is not installed; the message has the extra that brings it.
        """

    def rewind(self, run_dir: Path, step: int) -> None:
        """Called before `start`: what was logged after this step, if anything, will be logged again.

        `metrics.jsonl` still has all that was logged.

        Args:
            run_dir: The run directory.
            step: Step that training resumes from.
        """

    @abstractmethod
    def start(self, run_dir: Path, config: dict[str, Any]) -> None:
        """Called once, before anything is logged."""

    @abstractmethod
    def numbers(self, step: int, values: dict[str, Any]) -> None:
        """Numbers, or short lists of numbers, at a step."""

    def picture(self, step: int, name: str, path: Path) -> None:
        """A PNG file of the run directory."""

    def table(self, step: int, name: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table of text and numbers."""

    def directory(self, run_dir: Path) -> None:
        """The run directory, when all that training writes is there."""

    def failed(self, error: BaseException) -> None:
        """Called before `finish` where the run ends by an error, or before its end by an interrupt."""

    def finish(self) -> None:
        """Called once, at the end, also after an error."""


class Guarded(Logger):
    """Another logger, whose failures end no training: each is reported once, and the run continues without it.

    Args:
        logger: The other logger.
    """

    def __init__(self, logger: Logger) -> None:
        self.logger = logger
        self.name = type(logger).__name__
        self._working = False
        self._said: set[str] = set()

    def check(self) -> None:
        self.logger.check()

    def rewind(self, run_dir: Path, step: int) -> None:
        self._try(lambda: self.logger.rewind(run_dir, step))

    def start(self, run_dir: Path, config: dict[str, Any]) -> None:
        self._working = self._try(
            lambda: self.logger.start(run_dir, config), "did not start, the run continues without it"
        )

    def numbers(self, step: int, values: dict[str, Any]) -> None:
        if self._working:
            self._try(lambda: self.logger.numbers(step, values))

    def picture(self, step: int, name: str, path: Path) -> None:
        if self._working:
            self._try(lambda: self.logger.picture(step, name, path))

    def table(self, step: int, name: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        if self._working:
            self._try(lambda: self.logger.table(step, name, head, rows))

    def directory(self, run_dir: Path) -> None:
        if self._working:
            self._try(lambda: self.logger.directory(run_dir))

    def failed(self, error: BaseException) -> None:
        if self._working:
            self._try(lambda: self.logger.failed(error))

    def finish(self) -> None:
        self._try(self.logger.finish)

    def _try(self, action: Callable[[], Any], what: str = "failed, the run continues") -> bool:
        try:
            action()
        except StopTraining:
            raise
        except Exception as error:  # whatever a service, a full disk or a user's own class raises
            text = " ".join(str(error).split()) or type(error).__name__
            if text not in self._said:
                _log.warning("%s %s: %s", self.name, what, text)
            self._said.add(text)
            return False
        return True


class LocalLogger(Logger):
    """One JSON object a line in `metrics.jsonl`. Every run has it; others come on top."""

    def rewind(self, run_dir: Path, step: int) -> None:
        path = run_dir / LOG
        try:
            entries, damaged = read_json_lines(path)
        except FileNotFoundError:
            return
        kept = [entry for entry in entries if isinstance(entry.get("step"), int) and entry["step"] <= step]
        if damaged:
            aside = set_aside(path).name
            _log.warning("%s has damaged lines, %d of them: it was set aside as %s", path, damaged, aside)
        elif len(kept) == len(entries):
            return
        content = "".join(json.dumps(entry) + "\n" for entry in kept)
        write_text(path, content)

    def start(self, run_dir: Path, config: dict[str, Any]) -> None:
        self._path = run_dir / LOG
        _drop_partial_line(self._path)

    def numbers(self, step: int, values: dict[str, Any]) -> None:
        # Opened for each line: a line is on disk before training continues, whatever stops it.
        line = json.dumps({"step": step, **{k: _plain(v) for k, v in values.items()}}, allow_nan=False)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def run_files(run_dir: Path) -> Iterator[tuple[Path, str]]:
    """The files of a run that a service gets, each with its path in the directory."""
    for path in sorted(run_dir.rglob("*")):
        place = path.relative_to(run_dir)
        if path.is_file() and place.parts[0] not in _KEPT_HERE:
            yield path, place.as_posix()


def markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def scalars(values: dict[str, Any]) -> dict[str, float]:
    """Numbers by name, the loss curve over noise levels as one for each level."""
    flat = {k: v for k, v in values.items() if isinstance(v, (int, float))}
    for level, loss in zip(values.get("log_snr", []), values.get("loss_by_log_snr", []), strict=True):
        flat[f"loss_by_log_snr/{level:+.2f}"] = loss
    return flat


def _plain(value: Any) -> Any:
    """Values as JSON has them, which has no NaN and no infinity: null stands for both."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _drop_partial_line(path: Path) -> None:
    """Remove a last line that a kill or a full disk has cut short, so that the next one is not glued to it."""
    try:
        text = read_file(path)
    except FileNotFoundError:
        return
    if text and not text.endswith(b"\n"):
        write_bytes(path, complete_lines(text))


class WandbLogger(Logger):
    """Weights & Biases: curves, figures, tables, and the run directory as an artifact.

    Without a login, or where the service cannot be reached, the run is logged offline into the run directory, and
    `wandb sync` uploads it later; a line says so. When training is resumed, so is the run. Under an agent of
    `wandb sweep` the run is the agent's.

    Args:
        project: Name of the project; `WANDB_PROJECT`, or scoresde, if not given.
        mode: Whether it logs online, offline or not at all; `WANDB_MODE`, or online if somebody is logged in, if not
            given.
        entity: User or team that the project belongs to; the login's own if not given.
        group: Name of a group of runs.
        job_type: Purpose of the run, by which a group can be sorted.
        tags: Words by which runs are found.
        notes: Text about the run.
    """

    def __init__(
        self,
        project: str | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
        entity: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: Sequence[str] = (),
        notes: str | None = None,
    ) -> None:
        if mode not in (None, "online", "offline", "disabled"):
            raise ValueError(f"mode is {mode!r}, expected online, offline, disabled or null")
        self._wandb: Any = None
        self._run: Any = None
        self.mode = mode
        given = {
            "project": _clean(project or os.environ.get("WANDB_PROJECT") or "scoresde", _NOT_IN_PROJECTS, 128),
            "entity": entity,
            "group": group,
            "job_type": job_type,
            "notes": notes,
            "tags": [_clean(str(tag), "", 64) for tag in tags if str(tag).strip()] or None,
        }
        self.options = {key: value for key, value in given.items() if value is not None}

    def check(self) -> None:
        need("logger=wandb", "wandb", extra="wandb")

    def start(self, run_dir: Path, config: dict[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ImportError("wandb is not installed: pip install 'scoresde[wandb]'") from error
        self._wandb = wandb
        options: dict[str, Any] = dict(self.options)
        if "WANDB_SWEEP_ID" in os.environ:
            options = {}  # the run is resumed when training is, and here it is the agent's
        else:
            options["name"] = run_dir.name
            if "WANDB_RUN_ID" not in os.environ:
                options["id"] = _earlier_id(run_dir)
        options |= {"dir": str(run_dir), "config": config}
        mode, why = self._mode()
        if mode == "online":
            try:
                self._run = self._init(mode, {**options, "resume": "allow"})
                _log.info("wandb: %s", getattr(self._run, "url", None) or "online")
                return
            except Exception as error:  # such as a key that is rejected
                why = " ".join(str(error).split())[:200]
                # Its service keeps the name of the run that did not start.
                self._wandb.teardown()
                mode = "offline"
        self._run = self._init(mode, options)
        if mode == "disabled":
            _log.info("wandb: disabled")
            return
        folder = Path(str(getattr(self._run, "dir", run_dir / "wandb" / "latest-run" / "files"))).parent
        _log.info("wandb: logged offline, as %s; to upload it: wandb sync %s", why, folder)

    def _mode(self) -> tuple[str, str]:
        """The mode of logging, and the reason if it is offline."""
        asked = self.mode or os.environ.get("WANDB_MODE", "").lower()
        if asked == "disabled":
            return "disabled", ""
        if asked == "offline":
            return "offline", "was asked for"
        if asked != "online" and not self._wandb.login(prompt=False):
            return "offline", "nobody is logged in (wandb login)"
        address = str(getattr(self._wandb.Settings(), "base_url", "") or "https://api.wandb.ai")
        return ("online", "") if answers(address) else ("offline", f"{address} does not answer")

    def _init(self, mode: str, options: dict[str, Any]) -> Any:
        silent = {} if _log.isEnabledFor(logging.INFO) else {"silent": True}
        settings = self._wandb.Settings(init_timeout=_START, finish_timeout=_FINISH, **silent)
        return self._wandb.init(mode=mode, settings=settings, **options)

    def numbers(self, step: int, values: dict[str, Any]) -> None:
        self._run.log(scalars(values), step=step)

    def picture(self, step: int, name: str, path: Path) -> None:
        self._run.log({name: self._wandb.Image(str(path))}, step=step)

    def table(self, step: int, name: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        table = self._wandb.Table(columns=list(head), data=[list(row) for row in rows])
        self._run.log({name: table}, step=step)

    def directory(self, run_dir: Path) -> None:
        self._run.log_artifact(self._artifact(run_dir))

    def _artifact(self, run_dir: Path) -> Any:
        artifact = self._wandb.Artifact(re.sub(r"[^\w.-]", "_", run_dir.name)[:128], type="run")
        for path, name in run_files(run_dir):
            artifact.add_file(str(path), name=name)
        return artifact

    def finish(self) -> None:
        if self._run is not None:
            self._run.finish()


_NOT_IN_PROJECTS = "/\\#?%:"
_RUN_FOLDER = re.compile(r"(?:offline-)?run-\d{8}_\d{6}-(.+)")


def _clean(name: str, rejected: str, longest: int) -> str:
    """A name as wandb takes it, without characters that it rejects; a line says so."""
    clean = "".join("_" if character in rejected else character for character in name.strip())[:longest]
    if clean != name:
        _log.info("wandb: %r is called %r there", name, clean)
    return clean


def _earlier_id(run_dir: Path) -> str | None:
    """The id under which the run was logged before its training was resumed; None for a new one that wandb makes."""
    folders = sorted((run_dir / "wandb").glob("*run-*"), key=lambda path: path.name.rpartition("run-")[2])
    ids = [match[1] for match in (_RUN_FOLDER.fullmatch(path.name) for path in folders) if match]
    return ids[-1] if ids else None


def answers(address: str) -> bool:
    """True if a service answers anything within some seconds, through the proxies of the environment."""
    found: list[bool] = []

    def ask() -> None:
        try:
            with urlopen(address, timeout=_ANSWER):
                found.append(True)
        except HTTPError:  # an answer, too
            found.append(True)
        except (OSError, ValueError):
            pass

    # In a thread: looking up a name has no time limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_ANSWER)
    return bool(found)


class TensorBoardLogger(Logger):
    """TensorBoard event files in the run directory's `tensorboard` folder."""

    def __init__(self) -> None:
        self._writer: Any = None
        self._purge: int | None = None

    def check(self) -> None:
        need("logger=tensorboard", "tensorboard", extra="tensorboard")

    def rewind(self, run_dir: Path, step: int) -> None:
        if (run_dir / "tensorboard").is_dir():
            self._purge = step + 1

    def start(self, run_dir: Path, config: dict[str, Any]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("tensorboard is not installed: pip install 'scoresde[tensorboard]'") from error
        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=self._purge)

    def numbers(self, step: int, values: dict[str, Any]) -> None:
        for name, value in scalars(values).items():
            self._writer.add_scalar(name, value, step)
        # Otherwise up to two minutes of them are lost with a killed process, and are not logged again.
        self._writer.flush()

    def picture(self, step: int, name: str, path: Path) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path, formats=["PNG"]) as image:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def table(self, step: int, name: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._writer.add_text(name, markdown(head, rows), step)

    def finish(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
