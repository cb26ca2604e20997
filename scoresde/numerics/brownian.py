"""A Brownian path that all solvers and grids share, so that a finer grid refines the same trajectory."""

import math

import torch
from torch import Tensor

from scoresde.numerics.random import SampleNoise, Stream

__all__ = ["BrownianPath"]

_OCTAVES = 64  # the tree reaches from 2⁻⁶⁴ to 2⁶⁴
_HALVINGS = 16  # of an octave
_PLACES = 2 * _OCTAVES << _HALVINGS


class BrownianPath:
    """Noise taken from one Brownian motion M(v) for each sample, v > 0 being the variance of M.

    Asked for an interval it answers with (M(stop) − M(start))/√|stop − start|, a standard normal draw that is
    independent of those of disjoint intervals, and consistent with every other way to cut the same interval up.
    So for one seed a solver on a finer grid follows the same trajectory, and solvers whose noise has the same clock
    converge to the same solution. Asked without an interval (the start of a solve, Langevin correctors, the forward
    noise of restarts) it gives white noise: the draws that `SampleNoise` gives for the seed.

    M is built by Lévy's bisection, over places that are uniform in log v from 2⁻⁶⁴ to 2⁶⁴: the value half-way is
    drawn from its normal distribution given the values at both ends. The draw at a place is a function of (seed,
    index, place) alone, so the path depends on no query, grid, batch or number of processes. v is rounded to a
    place, 2⁻¹⁶ of an octave apart, and the increment is scaled by the distance of the places, which keeps it
    exactly standard normal; an interval within one place gets white noise. The last descent is kept, 23 states at
    most whatever the number of steps: the first query takes 23 draws, and each of a monotone
    sequence of 20 to 1000 that spans 30 octaves takes 17 to 11.

    Args:
        seed: Any integer.
        indices: Indices of the samples, `(B,)` int64.
        shape: Event shape.
        dtype: Dtype of the draws.
        device: Device of the draws.

    Attributes:
        white: The white noise that is drawn without an interval.
    """

    def __init__(
        self,
        seed: int,
        indices: Tensor,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        work = torch.float64 if dtype == torch.float64 else torch.float32
        self.dtype = dtype
        self.white = SampleNoise(seed, indices, shape, dtype, device)
        self._tree = SampleNoise(seed, indices, shape, work, device, stream=Stream.BROWNIAN)
        # The current descent: [low, high, M(low), M(high), M(middle) once drawn] for each interval, outermost first.
        self._descent: list[tuple[int, int, Tensor, Tensor]] = []
        self._middles: list[Tensor] = []

    def __call__(self, start: float | None = None, stop: float | None = None) -> Tensor:
        """The increment of the path between two values of its variance, over the root of their distance, `(B, *shape)`.

        Raises:
            ValueError: One end without the other, or an end that is not between 0 and 2⁶⁴.
        """
        if start is None or stop is None:
            if start is not stop:
                raise ValueError(f"the interval of a Brownian path is ({start}, {stop}): give both ends, or none")
            return self.white()
        low, high = _place(start), _place(stop)
        if low == high:
            return self.white()
        scale = abs(_variance(high) - _variance(low)) ** -0.5
        before = self._value(low)
        return (self._value(high) - before).mul_(scale).to(self.dtype)

    def skip(self) -> None:
        """Pass over one draw of white noise."""
        self.white.skip()

    def _value(self, place: int) -> Tensor:
        """The motion M at a place."""
        if not self._descent:
            self._tree.draws = _PLACES
            end = self._tree().mul_(_variance(_PLACES) ** 0.5)
            self._descent.append((0, _PLACES, torch.zeros_like(end), end))
        while not self._descent[-1][0] <= place <= self._descent[-1][1]:
            self._descent.pop()
            del self._middles[len(self._descent) :]
        while True:
            low, high, left, right = self._descent[-1]
            if place in (low, high):
                return left if place == low else right
            middle = (low + high) // 2
            if len(self._middles) < len(self._descent):
                self._middles.append(self._bridge(low, middle, high, left, right))
            value = self._middles[-1]
            self._descent.append((low, middle, left, value) if place < middle else (middle, high, value, right))

    def _bridge(self, low: int, middle: int, high: int, left: Tensor, right: Tensor) -> Tensor:
        """A draw of M(middle) given M(low) and M(high)."""
        a, v, b = _variance(low), _variance(middle), _variance(high)
        self._tree.draws = middle
        share = (v - a) / (b - a)
        return torch.lerp(left, right, share).add_(self._tree(), alpha=math.sqrt(share * (b - v)))


def _variance(place: int) -> float:
    """The variance at a place."""
    return 2.0 ** (place / 2**_HALVINGS - _OCTAVES) if place else 0.0


def _place(v: float) -> int:
    """The place nearest to a variance."""
    if not 0 <= v <= 2.0**_OCTAVES:
        raise ValueError(f"a Brownian path was asked for its value at variance {v:g}, expected between 0 and 2^64")
    return max(0, round((math.log2(v) + _OCTAVES) * 2**_HALVINGS)) if v else 0
