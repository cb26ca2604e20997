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
    from scoresde.training.services import AimLogger, ClearMLLogger, CometLogger, MLflowLogger, TrackioLogger
    from scoresde.training.suggestion import Suggestion, suggest

__all__ = [
    "AimLogger",
    "ClearMLLogger",
    "CometLogger",
    "CompactAdamW",
    "Decay",
    "Fit",
    "HalfLife",
    "LocalLogger",
    "MLflowLogger",
    "PowerFunction",
    "Suggestion",
    "TensorBoardLogger",
    "TrackioLogger",
    "Training",
    "WandbLogger",
    "fit",
    "make_trainer",
    "suggest",
]

_MODULES = {
    "AimLogger": "services",
    "ClearMLLogger": "services",
    "CometLogger": "services",
    "CompactAdamW": "compact_adam",
    "Decay": "ema",
    "Fit": "fitting",
    "HalfLife": "ema",
    "LocalLogger": "loggers",
    "MLflowLogger": "services",
    "PowerFunction": "ema",
    "Suggestion": "suggestion",
    "TensorBoardLogger": "loggers",
    "TrackioLogger": "services",
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
