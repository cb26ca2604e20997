"""Training: the loop, checkpoints, run directories and what is computed after training."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scoresde.training.fitting import Fit, fit

__all__ = ["Fit", "fit"]


def __getattr__(name: str) -> object:
    # Late: the command imports parts of this package, and should answer before Accelerate is loaded.
    if name in __all__:
        from scoresde.training import fitting

        return getattr(fitting, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
