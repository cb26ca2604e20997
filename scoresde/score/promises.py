"""What a subclass says of its field only if it says so itself.

Solvers and likelihoods save work by what a model promises: that its score is exact, that its samples have the moments
in `statistics`, that its predictions follow from a network's output. A subclass that computes another field, such as a
guided one, would inherit promises that are not true of it, and faster ways to a field that is not its own. So a class
that overrides the field of another inherits neither, unless it is made with `same_field=True`.
"""

import inspect
from typing import Any

import torch
from torch import Tensor

from scoresde.sde import expand_to

__all__ = ["keep_own"]

_PROMISES = (
    "exact", "narrowest", "normal_at_most_noise", "log_snr_range", "evaluation_size", "noise_and_trace", "step_rules",
    "step_statistics", "optimal_variances", "learns_variance", "denoise_with_share", "residual_with_share",
    "prediction_with_share",
)  # fmt: skip
_FIELD = ("denoise", "noise", "raw", "prediction", "score", "velocity")
# What is computed from each prediction, where a model has nothing better.
_FOLLOWING = {
    "denoise": ("noise", "score", "velocity", "prediction"),
    "noise": ("denoise", "score", "velocity", "prediction"),
    "raw": ("prediction",),
}


def keep_own(model: type, base: type) -> None:
    """Give a subclass the promises and predictions of `base` where it inherits those of another field.

    Args:
        model: The subclass, just made.
        base: The class of all models, which promises nothing.

    Raises:
        TypeError: A class that overrides the score or the velocity of another, but neither `denoise` nor `noise`.
    """
    others = [c for c in model.__mro__[1:] if c not in base.__mro__]
    changed = [name for name in _FIELD if name in vars(model) and any(name in vars(c) for c in others)]
    if not changed:
        return
    if set(changed) <= {"score", "velocity"}:
        raise TypeError(
            f"{model.__name__} overrides {' and '.join(changed)}, of which solvers ask nothing: override denoise, or "
            f"write class {model.__name__}({others[0].__name__}, same_field=True) if the field is the same"
        )
    first = next((name for name in _FOLLOWING if name in changed), None)
    following = _FOLLOWING[first] if first else ()
    for name in (*_PROMISES, *following):
        if name not in vars(model):
            plain = _denoise if name == "denoise" else inspect.getattr_static(base, name)
            setattr(model, name, plain)
    if "is_score" not in vars(model):
        model.is_score = False  # type: ignore[attr-defined]


def _denoise(self: Any, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
    """The denoised mean D = (x − σ ε)/α."""
    fine = torch.as_tensor(t, dtype=torch.float64)
    alpha, sigma = expand_to(self.sde.alpha(fine), x), expand_to(self.sde.sigma(fine), x)
    found: Tensor = (x - sigma * self.noise(x, t, **cond)) / alpha
    return found
