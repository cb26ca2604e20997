"""The models of `likelihood.py`, as this revision of the package and earlier ones can make them.

A process that runs an earlier revision imports this file (`likelihood_reference.py`), so that it asks for little.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde.runs.directory import Run
from scoresde.score import GaussianMixtureScore, ScoreModel, with_sde
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE, CosineSDE, SubVPSDE

__all__ = ["SDES", "Counted", "Source", "clock", "make_model"]

SDES: dict[str, Callable[[], SDE]] = {
    "vp": VPSDE,
    "subvp": SubVPSDE,
    "ve": VESDE,
    "edm": EDMSDE,
    "cosine": CosineSDE,
}
Source = Path | tuple[Tensor, Tensor, Tensor]
"""A run directory; or weights `(K,)`, means `(K, ...)` and covariances of a mixture."""


class Counted(ScoreModel):
    """A model that counts the samples it is asked for."""

    def __init__(self, model: ScoreModel) -> None:
        super().__init__(model.sde, model.statistics)
        self.model = model
        self.forwards = 0

    @property
    def exact(self) -> bool:
        return self.model.exact

    @property
    def narrowest(self) -> float:
        return self.model.narrowest

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self.forwards += len(x)
        return self.model.denoise(x, t, **cond)

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self.forwards += len(x)
        return self.model.noise(x, t, **cond)

    def velocity(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self.forwards += len(x)
        return self.model.velocity(x, t, **cond)


def make_model(source: Source, sde: str | None) -> ScoreModel:
    """The network of a run, under its own SDE if none is named, or the exact score of a mixture."""
    if isinstance(source, Path):
        model: ScoreModel = Run.open(source).model()
        return model if sde is None else with_sde(model, SDES[sde]())
    assert sde is not None
    return GaussianMixtureScore(*source, SDES[sde]())


def clock() -> float:
    """Seconds of the processor on one thread, so that what else the machine does counts little; else of the day."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()
