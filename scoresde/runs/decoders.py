"""Samples of a run on latents, decoded as they are drawn by a function of one's own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scoresde.data.latents import decoded
from scoresde.options.errors import ConfigError
from scoresde.runs.directory import Run
from scoresde.runs.pictures.drawing import plots, save
from scoresde.training.compiling import first_line

__all__ = ["Decoder"]

_SHOWN = 100


@dataclass(frozen=True)
class Decoder:
    """A decoder of latents in the units of the data of a run.

    Attributes:
        name: What it is called, by which samples of another are told apart.
        function: Maps latents `(B, ...)` to what they are of, `(B, ...)`. A module is put into evaluation mode.
        device: Where samples are decoded.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    device: torch.device | str = "cpu"

    @classmethod
    def of(cls, name: str, found: Any, device: torch.device | str = "cpu") -> "Decoder":
        """The decoder of a function, or of a class of a module, which is made without arguments.

        Raises:
            ConfigError: Something else, or a class that cannot be made so.
        """
        try:
            function = found() if isinstance(found, type) else found
        except Exception as error:
            raise ConfigError(f"decoder={name} cannot be made without arguments: {first_line(error)}") from error
        if not callable(function):
            raise ConfigError(f"decoder={name} is no function of a batch, nor a class of a module")
        return cls(name, function.eval() if isinstance(function, nn.Module) else function, device)

    def check(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Decode latents of zeros `(2, *shape)`; the shape of one that is decoded.

        Raises:
            ConfigError: A decoder that does not take them, or whose result is not as many floating-point values.
        """
        try:
            return self(torch.zeros(2, *shape)).shape[1:]
        except Exception as error:
            raise ConfigError(
                f"decoder={self.name} fails on latents of shape {(2, *shape)}: {first_line(error)}"
            ) from error

    def __call__(self, latents: Tensor) -> np.ndarray:
        """What latents `(N, ...)` are of, `(N, ...)` float32."""
        values = latents.float()
        return decoded(values, self.function, len(values), self.device).float().numpy()

    def picture(self, run: Run, latents: Tensor, name: str, caption: str) -> Path | None:
        """Draw what the first of samples are of as `samples/{name}-decoded.png`; None if these are no images.

        Values from -1 to 1 are shown as black to white, as those of model space.
        """
        values = self(latents[:_SHOWN])
        if values.ndim != 4 or values.shape[1] not in (1, 3):
            return None
        file = f"samples/{name}-decoded.png"
        images = torch.from_numpy(np.clip((values + 1) / 2, 0, 1))
        save(run, plots().image_grid(images, min(len(images), 10)), file, "Decoded samples", caption)
        return run.directory / file
