"""Score-based generative modelling with stochastic differential equations."""

import importlib
import sys
import warnings
from typing import TYPE_CHECKING

from scoresde.extras import need as _need
from scoresde.version import __version__

if "ipykernel" in sys.modules:
    # A notebook without ipywidgets gets progress bars of text; tqdm would warn of that, at its first import only.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        import tqdm.auto  # noqa: F401

if TYPE_CHECKING:
    from scoresde import (
        certificate,
        chains,
        compare,
        data,
        guidance,
        information,
        interop,
        inverse,
        likelihood,
        metrics,
        networks,
        objectives,
        plots,
        preconditioning,
        sampling,
        score,
        sde,
        statistics,
        training,
    )
    from scoresde.certificate.certify import certify
    from scoresde.runs.directory import load, load_chain, load_classifier

__all__ = [
    "__version__",
    "certificate",
    "certify",
    "chains",
    "compare",
    "data",
    "guidance",
    "information",
    "interop",
    "inverse",
    "likelihood",
    "load",
    "load_chain",
    "load_classifier",
    "metrics",
    "networks",
    "objectives",
    "plots",
    "preconditioning",
    "sampling",
    "score",
    "sde",
    "statistics",
    "training",
]

# What a run directory is read with.
_RUNS = ("accelerate", "filelock", "hydra", "omegaconf", "yaml")

# Importable for one more release, with a DeprecationWarning.
_MOVED = ("comparisons", "divergence", "frontiers", "ode", "reprs")


def __getattr__(name: str) -> object:
    # Late, so that `import scoresde` takes no time, and `scoresde.sde` needs neither Hydra nor Accelerate.
    if name in ("load", "load_chain", "load_classifier"):
        _need(f"scoresde.{name}", *_RUNS, extra="cli")
        return getattr(importlib.import_module("scoresde.runs.directory"), name)
    if name == "certify":
        return importlib.import_module("scoresde.certificate").certify
    if name in __all__ or name in _MOVED:
        return importlib.import_module(f"scoresde.{name}")
    raise AttributeError(f"module 'scoresde' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
