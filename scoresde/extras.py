"""Packages that only parts of this one need, and the extra of `pip install` that brings each.

A plain installation has torch, numpy, scipy, safetensors and tqdm, which suffice for score models, samplers,
likelihoods, guidance, inverse problems, networks and objectives in Python. What else a part imports it asks for here
first, so that a missing package is reported by the command that installs it.
"""

import sys
from importlib.util import find_spec

__all__ = ["EXTRAS", "need"]

EXTRAS = {
    "accelerate": "train",
    "filelock": "cli",
    "hydra": "cli",
    "jinja2": "report",
    "matplotlib": "plots",
    "omegaconf": "cli",
    "pandas": "tables",
    "PIL": "plots",
    "plotly": "report",
    "psutil": "cli",
    "pyarrow": "tables",
    "rich": "cli",
    "sklearn": "data",
    "torchsde": "torchsde",
    "yaml": "report",
}
"""The extra of `pyproject.toml` that installs a package, by the name that is imported."""

_SHOWN = 3

_DISTRIBUTIONS = {"PIL": "pillow", "hydra": "hydra-core", "sklearn": "scikit-learn", "yaml": "PyYAML"}


def need(user: str, *modules: str, extra: str | None = None) -> None:
    """Do nothing if all of `modules` are installed, and say how to install them otherwise.

    Args:
        user: What needs them, as the message names it.
        modules: Names of `EXTRAS`, as they are imported.
        extra: The extra that brings all of them, where that is not the one of each.

    Raises:
        ModuleNotFoundError: At least one is not installed.
    """
    missing = [name for name in modules if not _installed(name)]
    if missing:
        extras = [extra] if extra else sorted({EXTRAS[name] for name in missing})
        names = [_DISTRIBUTIONS.get(name, name) for name in missing]
        if len(names) > _SHOWN:
            names = [*names[: _SHOWN - 1], f"{len(names) - _SHOWN + 1} other packages"]
        listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
        verb = "is" if len(names) == 1 else "are"
        raise ModuleNotFoundError(
            f"{user} needs {listed}, which {verb} not installed: pip install 'scoresde[{','.join(extras)}]'",
            name=missing[0],
        )


def _installed(module: str) -> bool:
    if module in sys.modules:
        return sys.modules[module] is not None
    return find_spec(module) is not None
