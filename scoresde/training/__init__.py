"""Training: the steps and their loop, checkpoints, averages of weights, and loggers."""

import importlib
from typing import TYPE_CHECKING

from scoresde.extras import need as _need

if TYPE_CHECKING:
    from scoresde.training.compact_adam import CompactAdamW
    from scoresde.training.ema import Decay, HalfLife, PowerFunction
    from scoresde.training.fitting import Fit, fit, make_trainer
    from scoresde.training.loggers import LocalLogger, TensorBoardLogger, WandbLogger
    from scoresde.training.options import Training
    from scoresde.training.suggestion import Suggestion, suggest

__all__ = [
    "CompactAdamW",
    "Decay",
    "Fit",
    "HalfLife",
    "LocalLogger",
    "PowerFunction",
    "Suggestion",
    "TensorBoardLogger",
    "Training",
    "WandbLogger",
    "fit",
    "make_trainer",
    "suggest",
]

_MODULES = {
    "CompactAdamW": "compact_adam",
    "Decay": "ema",
    "Fit": "fitting",
    "HalfLife": "ema",
    "LocalLogger": "loggers",
    "PowerFunction": "ema",
    "Suggestion": "suggestion",
    "TensorBoardLogger": "loggers",
    "Training": "options",
    "WandbLogger": "loggers",
    "fit": "fitting",
    "make_trainer": "fitting",
    "suggest": "suggestion",
}


def __getattr__(name: str) -> object:
    # Late: the command imports parts of this package, and should answer before Accelerate is loaded.
    if name in _MODULES:
        if _MODULES[name] == "fitting":
            _need(f"scoresde.training.{name}", "accelerate")
        return getattr(importlib.import_module(f"scoresde.training.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
