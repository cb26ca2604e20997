"""Shot noise: measurements that are counts of particles."""

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.noise import MeasurementNoise
from scoresde.numerics.values import not_negative, positive

__all__ = ["PoissonNoise"]

_LEAST = 1e-6  # the smallest rate of which the logarithm is taken


@checked
class PoissonNoise(MeasurementNoise):
    """Counts of particles, in the units of A(x).

        y = black + (k − dark) / gain,    k ~ Poisson(gain (A(x) − black) + dark)

    The mean of y is A(x). Where A(x) is so far below `black` that the rate is negative, it is 0. Methods that are for
    Gaussian noise take the variance max(k, 1) / gain².

    Args:
        gain: The number of particles for a unit of A(x).
        dark: The number of particles that are counted without any light.
        black: The value of A(x) without light, such as −1 for pixels between −1 and 1.

    Raises:
        ValueError: A gain that is not positive, or a negative dark.
    """

    def __init__(self, gain: float, dark: float = 0.0, black: float = 0.0) -> None:
        positive("gain", gain)
        not_negative("dark", dark)
        self.gain, self.dark, self.black = float(gain), float(dark), float(black)

    def draw(self, clean: Tensor, noise: Tensor) -> Tensor:
        # The count whose distribution function is that of the noise, from whichever tail is the shorter.
        rate = self._rate(clean).double().cpu().numpy()
        z = noise.double().cpu().numpy()
        tail = stats.norm.sf(np.abs(z))
        counts = np.where(z > 0, stats.poisson.isf(tail, rate), stats.poisson.ppf(tail, rate)).clip(min=0)
        return self._value(torch.from_numpy(counts)).to(clean)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """log p of the counts, `(B,)`; a rate below 1e-6 counts as 1e-6, so that there is a value everywhere."""
        counts, rate = self._counts(y), self._rate(clean)
        found = torch.xlogy(counts, rate.clamp_min(_LEAST)) - rate - torch.lgamma(counts + 1)
        return found.flatten(1).sum(1)

    def variance(self, y: Tensor) -> Tensor:
        return self._counts(y).clamp_min(1) / self.gain**2

    def check_values(self, y: Tensor) -> None:
        least = self._value(torch.zeros((), dtype=torch.float64))
        below = y.double() < least - 1e-5 * (1 / self.gain + abs(float(least)))
        if bool(below.any()):
            raise ValueError(f"y is {float(y[below].min()):g}, below {float(least):g}, that of a count of 0")

    def _rate(self, clean: Tensor) -> Tensor:
        return (self.gain * (clean - self.black) + self.dark).clamp_min(0)

    def _counts(self, y: Tensor) -> Tensor:
        return (self.gain * (y - self.black) + self.dark).clamp_min(0)

    def _value(self, counts: Tensor) -> Tensor:
        return self.black + (counts - self.dark) / self.gain
