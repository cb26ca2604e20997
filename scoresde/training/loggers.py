"""Where a run's numbers and pictures go besides its directory."""

import json
import logging
import math
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal

__all__ = ["LocalLogger", "Logger", "TensorBoardLogger", "WandbLogger"]

_log = logging.getLogger(__name__)


class Logger(ABC):
    """Receives numbers and pictures."""

    @abstractmethod
    def start(self, run_dir: Path, config: dict[str, Any]) -> None:
        """Called once, before anything is logged."""

    @abstractmethod
    def numbers(self, step: int, values: dict[str, Any]) -> None:
        """Numbers, or short lists of numbers, at a step."""

    def picture(self, step: int, name: str, path: Path) -> None:
        """A PNG file of the run directory."""

    def finish(self) -> None:
        """Called once, at the end, also after an error."""


class LocalLogger(Logger):
    """One JSON object a line in `metrics.jsonl`. Every run has it; others come on top."""

    def start(self, run_dir: Path, config: dict[str, Any]) -> None:
        self._path = run_dir / "metrics.jsonl"
        _drop_partial_line(self._path)

    def numbers(self, step: int, values: dict[str, Any]) -> None:
        # Opened for each line: a line is on disk before training goes on, whatever stops it.
        line = json.dumps({"step": step, **{k: _plain(v) for k, v in values.items()}}, allow_nan=False)
        with self._path.open("a") as file:
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
    """A full disk may have cut the last line short; the next one must not be glued to it."""
    if path.is_file():
        text = path.read_bytes()
        if text and not text.endswith(b"\n"):
            path.write_bytes(text[: text.rfind(b"\n") + 1])


class WandbLogger(Logger):
    """Weights & Biases.

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
        try:
            self._run = self._wandb.init(
                project=self.project,
                group=self.group,
                name=run_dir.name,
                dir=str(run_dir),
                config=config,
                mode=mode,
                # The same run goes on when training does.
                id=run_dir.name,
                resume="allow" if "online" in (mode, os.environ.get("WANDB_MODE")) else None,
            )
        except Exception as error:  # the service's trouble must not end a run
            _log.warning("wandb did not start, the run goes on without it: %s", error)

    def _logged_in(self) -> bool:
        return bool(getattr(self._wandb.api, "api_key", None))

    def numbers(self, step: int, values: dict[str, Any]) -> None:
        self._quietly(lambda: self._run.log(_scalars(values), step=step))

    def picture(self, step: int, name: str, path: Path) -> None:
        self._quietly(lambda: self._run.log({name: self._wandb.Image(str(path))}, step=step))

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

    def start(self, run_dir: Path, config: dict[str, Any]) -> None:
        self._writer = self._make(str(run_dir / "tensorboard"))

    def numbers(self, step: int, values: dict[str, Any]) -> None:
        for name, value in _scalars(values).items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, path: Path) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def finish(self) -> None:
        if self._writer is not None:
            self._writer.close()
