"""Score-based generative modelling with stochastic differential equations."""

import importlib
import sys
import warnings
from typing import TYPE_CHECKING

if "ipykernel" in sys.modules:
    # A notebook without ipywidgets gets progress bars of text; tqdm would warn of that, at its first import only.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        import tqdm.auto  # noqa: F401

if TYPE_CHECKING:
    from scoresde import (
        compare,
        comparisons,
        data,
        divergence,
        frontiers,
        likelihood,
        metrics,
        networks,
        objectives,
        ode,
        plots,
        preconditioning,
        sampling,
        score,
        sde,
        statistics,
        training,
    )
    from scoresde.training.run import load

__all__ = [
    "__version__",
    "compare",
    "comparisons",
    "data",
    "divergence",
    "frontiers",
    "likelihood",
    "load",
    "metrics",
    "networks",
    "objectives",
    "ode",
    "plots",
    "preconditioning",
    "sampling",
    "score",
    "sde",
    "statistics",
    "training",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # Late, so that `import scoresde` takes no time, and `scoresde.sde` needs neither Hydra nor Accelerate.
    if name == "load":
        from scoresde.training.run import load

        return load
    if name in __all__:
        return importlib.import_module(f"scoresde.{name}")
    raise AttributeError(f"module 'scoresde' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
