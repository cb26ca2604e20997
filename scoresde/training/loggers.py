"""Where a run's numbers and pictures go besides its directory."""

import json
import logging
import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from scoresde.bounded import complete_lines, read_file, read_json_lines
from scoresde.training.checkpoint import set_aside, write_atomically

__all__ = ["LocalLogger", "Logger", "TensorBoardLogger", "WandbLogger"]

_log = logging.getLogger(__name__)
_LOG = "metrics.jsonl"
_PATIENCE = 60  # seconds that a run waits for wandb at either end; `wandb sync` uploads what is left


class Logger(ABC):
    """Receives numbers and pictures."""

    def rewind(self, run_dir: Path, step: int) -> None:
        """Called before `start`: what was logged after this step, if anything, will be logged again."""

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

    def finish(self) -> None:
        """Called once, at the end, also after an error."""


class LocalLogger(Logger):
    """One JSON object a line in `metrics.jsonl`. Every run has it; others come on top."""

    def rewind(self, run_dir: Path, step: int) -> None:
        path = run_dir / _LOG
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
        write_atomically(path, lambda file: file.write(content.encode()))

    def start(self, run_dir: Path, config: dict[str, Any]) -> None:
        self._path = run_dir / _LOG
        _drop_partial_line(self._path)

    def numbers(self, step: int, values: dict[str, Any]) -> None:
        # Opened for each line: a line is on disk before training goes on, whatever stops it.
        line = json.dumps({"step": step, **{k: _plain(v) for k, v in values.items()}}, allow_nan=False)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _scalars(values: dict[str, Any]) -> dict[str, float]:
    """Numbers by name, the loss curve over noise levels as one for each level."""
    flat = {k: v for k, v in values.items() if isinstance(v, (int, float))}
    for level, loss in zip(values.get("log_snr", []), values.get("loss_by_log_snr", []), strict=True):
        flat[f"loss_by_log_snr/{level:+.2f}"] = loss
    return flat


def _plain(value: Any) -> Any:
    """Values as JSON has them: there is no not-a-number, so null stands for it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _drop_partial_line(path: Path) -> None:
    """A kill or a full disk may have cut the last line short; the next one must not be glued to it."""
    try:
        text = read_file(path)
    except FileNotFoundError:
        return
    if text and not text.endswith(b"\n"):
        write_atomically(path, lambda file: file.write(complete_lines(text)))


class WandbLogger(Logger):
    """Weights & Biases: curves, pictures, tables, and the run directory as an artifact.

    Under an agent of `wandb sweep` the run is the agent's.

    Args:
        project: name of the project.
        mode: offline if not given and no login is found, so that a run never waits for the network; `wandb sync`
            uploads an offline run later.
        group: name of a group of runs.
    """

    def __init__(
        self,
        project: str = "scoresde",
        mode: Literal["online", "offline", "disabled"] | None = None,
        group: str | None = None,
    ) -> None:
        if mode not in (None, "online", "offline", "disabled"):
            raise ValueError(f"mode is {mode!r}, expected online, offline, disabled or null")
        try:
            import wandb
        except ImportError as error:
            raise ValueError("logger=wandb needs wandb: pip install 'scoresde[wandb]'") from error
        self._wandb = wandb
        self._run: Any = None
        self.project, self.mode, self.group = project, mode, group

    def start(self, run_dir: Path, config: dict[str, Any]) -> None:
        # None leaves it to wandb, which reads WANDB_MODE.
        mode = self.mode
        if mode is None and not os.environ.get("WANDB_MODE"):
            mode = "online" if self._logged_in() else "offline"
        options: dict[str, Any] = {}
        if "WANDB_SWEEP_ID" not in os.environ:
            # The same run goes on when training does.
            options = {"id": run_dir.name, "name": run_dir.name, "project": self.project, "group": self.group}
            if "online" in (mode, os.environ.get("WANDB_MODE")):
                options["resume"] = "allow"
        try:
            settings = self._wandb.Settings(init_timeout=_PATIENCE, finish_timeout=_PATIENCE)
            self._run = self._wandb.init(dir=str(run_dir), config=config, mode=mode, settings=settings, **options)
        except Exception as error:  # the service's trouble must not end a run
            _log.warning("wandb did not start, the run goes on without it: %s", error)

    def _logged_in(self) -> bool:
        return bool(getattr(self._wandb.api, "api_key", None))

    def numbers(self, step: int, values: dict[str, Any]) -> None:
        self._quietly(lambda: self._run.log(_scalars(values), step=step))

    def picture(self, step: int, name: str, path: Path) -> None:
        self._quietly(lambda: self._run.log({name: self._wandb.Image(str(path))}, step=step))

    def table(self, step: int, name: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        def log() -> None:
            table = self._wandb.Table(columns=list(head), data=[list(row) for row in rows])
            self._run.log({name: table}, step=step)

        self._quietly(log)

    def directory(self, run_dir: Path) -> None:
        self._quietly(lambda: self._run.log_artifact(self._artifact(run_dir)))

    def _artifact(self, run_dir: Path) -> Any:
        artifact = self._wandb.Artifact(re.sub(r"[^\w.-]", "_", run_dir.name), type="run")
        for path in sorted(run_dir.rglob("*")):
            # Not wandb's own folder, and not what only an interrupted training needs.
            if path.is_file() and path.relative_to(run_dir).parts[0] not in ("wandb", "checkpoints", "tensorboard"):
                artifact.add_file(str(path), name=path.relative_to(run_dir).as_posix())
        return artifact

    def finish(self) -> None:
        self._quietly(lambda: self._run.finish())

    def _quietly(self, action: Any) -> None:
        if self._run is None:
            return
        try:
            action()
        except Exception as error:
            _log.warning("wandb: %s", error)


class TensorBoardLogger(Logger):
    """TensorBoard event files in the run directory's `tensorboard` folder."""

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError("logger=tensorboard needs tensorboard: pip install 'scoresde[tensorboard]'") from error
        self._make = SummaryWriter
        self._writer: Any = None
        self._purge: int | None = None

    def rewind(self, run_dir: Path, step: int) -> None:
        if (run_dir / "tensorboard").is_dir():
            self._purge = step + 1

    def start(self, run_dir: Path, config: dict[str, Any]) -> None:
        self._writer = self._make(str(run_dir / "tensorboard"), purge_step=self._purge)

    def numbers(self, step: int, values: dict[str, Any]) -> None:
        for name, value in _scalars(values).items():
            self._writer.add_scalar(name, value, step)
        # Else up to two minutes of them are lost with a killed process, and are not logged again.
        self._writer.flush()

    def picture(self, step: int, name: str, path: Path) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path, formats=["PNG"]) as image:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def table(self, step: int, name: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        lines = [list(head), ["---"] * len(head), *rows]
        text = "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)
        self._writer.add_text(name, text, step)

    def finish(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
