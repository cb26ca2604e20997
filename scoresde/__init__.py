"""Score-based generative modelling with stochastic differential equations."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scoresde.training.run import load

__all__ = ["__version__", "load"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # Late, so that `import scoresde.sde` in a notebook needs neither Hydra nor Accelerate.
    if name == "load":
        from scoresde.training.run import load

        return load
    raise AttributeError(f"module 'scoresde' has no attribute {name!r}")
