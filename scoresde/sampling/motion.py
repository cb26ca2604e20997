"""The Brownian motion of each sample in the form that torchsde integrates against."""

import math

import torch
from torch import Tensor

from scoresde.numerics.brownian import BrownianPath
from scoresde.numerics.brownian_area import AreaPath
from scoresde.numerics.random import SampleNoise
from scoresde.sampling.solver import Noise
from scoresde.sde import SDE

__all__ = ["Motion", "PathMotion", "StepMotion", "motion"]


class Motion:
    """What torchsde asks a Brownian motion: its form, and increments over intervals of its time s = t_max − t.

    It has the members of `torchsde.BaseBrownian`, but not that base, which would be a slow import.

    Args:
        sde: The forward SDE.
        like: The flat state, `(B, D)`.
        levy_area_approximation: The area that the method says it needs. The one between two coordinates is never given:
            methods multiply it by the derivative of g in x, which is 0.
    """

    def __init__(self, sde: SDE, like: Tensor, levy_area_approximation: str) -> None:
        self.sde = sde
        self.shape = like.shape
        self.dtype = like.dtype
        self.device = like.device
        self.levy_area_approximation = levy_area_approximation

    def __call__(
        self, ta: Tensor, tb: Tensor, return_U: bool = False, return_A: bool = False
    ) -> Tensor | tuple[Tensor, Tensor | None]:
        """The increment W over the interval from s = ta to tb, `(B, D)`; with `return_U`, also ∫ (W(s) − W(ta)) ds."""
        times = (self.sde.t_max - torch.stack((ta, tb)).double()).clamp(self.sde.t_min, self.sde.t_max)
        w, area = self.increment(times, area=return_U)
        if return_A:
            return w, None
        if area is None:
            return w
        return w, float(tb - ta) * (0.5 * w + area)

    def increment(self, times: Tensor, area: bool) -> tuple[Tensor, Tensor | None]:
        """The increment from times[0] to times[1] < times[0], `(B, D)`, and if asked for the space-time Lévy area."""
        raise NotImplementedError


class StepMotion(Motion):
    """Draws of a solver's noise, one for each interval, as other solvers take them.

    On the clock of a Brownian path, which is that of the other solvers, Euler's steps are those of `EulerMaruyama`.
    Areas are fresh draws, and so of no path.
    """

    def __init__(self, noise: Noise, sde: SDE, like: Tensor, levy_area_approximation: str) -> None:
        super().__init__(sde, like, levy_area_approximation)
        self.noise = noise

    def increment(self, times: Tensor, area: bool) -> tuple[Tensor, Tensor | None]:
        start, stop = (2 * self.sde.log_snr(times)).exp().tolist()
        scale = math.sqrt(float(times[0] - times[1]))
        w = scale * self.noise(start, stop).flatten(1)
        return w, scale / math.sqrt(12) * self.noise().flatten(1) if area else None


class PathMotion(Motion):
    """One path with areas, over the forward time t, which every way to cut up the interval refines."""

    def __init__(self, path: AreaPath, sde: SDE, like: Tensor, levy_area_approximation: str) -> None:
        super().__init__(sde, like, levy_area_approximation)
        self.path = path

    def increment(self, times: Tensor, area: bool) -> tuple[Tensor, Tensor | None]:
        start, stop = times.tolist()
        found = self.path(stop, start)
        # A path that is run backwards has the same increment, counted from the other end, and the opposite area.
        return found.w.flatten(1), -found.area.flatten(1) if area else None


def motion(noise: Noise, sde: SDE, like: Tensor, levy_area_approximation: str, adaptive: bool) -> Motion:
    """The motion for a method of torchsde.

    Args:
        noise: The noise that the solver is given.
        sde: The forward SDE.
        like: The flat state, `(B, D)`.
        levy_area_approximation: The area that the method says it needs.
        adaptive: Whether the method compares and rejects steps, for which all must be of one path.

    Raises:
        TypeError: A path is needed, and the noise is a function without a seed.
    """
    brownian = isinstance(noise, BrownianPath)
    if not adaptive and not (brownian and levy_area_approximation == "space-time"):
        return StepMotion(noise, sde, like, levy_area_approximation)
    white = noise.white if isinstance(noise, BrownianPath) else noise
    if not isinstance(white, SampleNoise):
        raise TypeError(
            f"adaptive steps need a Brownian path, and noise is {type(noise).__name__}, which has no seed: give a "
            "SampleNoise or a BrownianPath"
        )
    return PathMotion(AreaPath(white), sde, like, levy_area_approximation)
