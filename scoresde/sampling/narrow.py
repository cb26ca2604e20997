"""A warning of data that are narrower in some direction than the noise that is left where a sampler ends."""

import math
import warnings

from torch import Tensor

from scoresde.score import ScoreModel

__all__ = ["warn_of_narrow"]


def warn_of_narrow(model: ScoreModel, t: Tensor, denoise: bool) -> None:
    """Warn if σ/α at the last time is above the smallest standard deviation of the data in any direction.

    The comparison is made for samples that are vectors, whose elements may be quantities of different sizes. In images
    the elements have one scale, and directions that hardly vary are usual: pixels that are nearly always the same, and
    fine texture. Nor is it made for discrete data, whose values are rounded in the end. Directions in which the data do
    not vary at all do not count.

    Args:
        model: The score model; without statistics there is no warning.
        t: The last time, a scalar.
        denoise: Whether the last state is replaced by its mean E[x₀ | x].
    """
    known, info = model.statistics, model.info
    if known is None or len(known.shape) != 1 or (info is not None and info.transform.levels is not None):
        return
    level, narrowest = float(model.sde.noise_level(t)), known.narrowest_std
    if level <= narrowest:
        return
    total = math.hypot(narrowest, level)
    effect = (
        f"after the last denoising as little as {narrowest / total:.2g} of that spread is left"
        if denoise
        else f"samples are {total / narrowest:.2g} times as wide there"
    )
    warnings.warn(
        f"the sampler ends at t = {float(t):.3g} with noise of σ/α = {level:.3g}, which is {level / narrowest:.3g} "
        f"times the data's smallest standard deviation in any direction, {narrowest:.3g}: {effect}; end at less noise, "
        "by t_min of the grid or the smallest time or level of the SDE, or scale the data",
        UserWarning,
        stacklevel=5,  # past Sampler.__call__, the check of its arguments and the wrapper of no_grad
    )
