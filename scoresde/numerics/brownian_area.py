"""A Brownian path with the areas under it, which stochastic Runge-Kutta methods and adaptive steps ask for."""

import math
from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor

from scoresde.numerics.random import SampleNoise, Stream

__all__ = ["AreaPath", "Increment"]

_OCTAVES = 64  # the tree reaches from 2⁻⁶⁴ to 2⁶⁴
_HALVINGS = 20  # of an octave
_PLACES = 2 * _OCTAVES << _HALVINGS
_KEPT = 96  # draws: three descents, of which the first part is the same


class Increment(NamedTuple):
    """What a path W does in an interval from a to b.

    Attributes:
        w: W(b) − W(a), normal with variance h = b − a.
        area: H = (∫ (W(v) − W(a)) dv)/h − w/2, the space-time Lévy area (Foster, Lyons & Oberhauser 2020): normal with
            variance h/12, independent of w.
    """

    w: Tensor
    area: Tensor


class AreaPath:
    """One Brownian motion W(v) for each sample, v ≥ 0, asked for its increments and the areas under it.

    All answers are of one path: those of neighbouring intervals join to that of both, whatever was asked before.

    The path is built by bisection, over places that are uniform in log v from 2⁻⁶⁴ to 2⁶⁴, 2⁻²⁰ of an octave apart. The
    pairs (w, H) of both parts are drawn from their normal distribution given that of the whole. The draws at a place
    are a function of (seed, index, place) alone, so that sample i does not depend on its batch, and float32 and float64
    follow one path. An interval shorter than the distance of two places may have the increment 0.

    It is another path than that of `BrownianPath`, which has no areas and takes half of the draws. The last 96 pairs of
    draws are kept.

    Args:
        noise: Noise whose seed, samples, shape, dtype and device the path takes; it draws from a stream of its own.

    References:
        Foster, Lyons & Oberhauser 2020, An optimal polynomial approximation of Brownian motion,
            https://arxiv.org/abs/1904.06998
    """

    def __init__(self, noise: SampleNoise) -> None:
        pair = (2, *noise.shape)
        self._noise = SampleNoise(
            noise.seed, noise.indices, pair, noise.dtype, noise.device, stream=Stream.BROWNIAN_AREA
        )
        self._draws: OrderedDict[int, Tensor] = OrderedDict()

    def __call__(self, start: float, stop: float) -> Increment:
        """The increment w and the area H, `(B, *shape)` each, from `start` to `stop` > `start`.

        Raises:
            ValueError: An end that is not between 0 and 2⁶⁴, or ends that are out of order.
        """
        if not 0 <= start <= stop <= 2.0**_OCTAVES:
            raise ValueError(f"a Brownian path was asked from {start:g} to {stop:g}, expected 0 ≤ start ≤ stop ≤ 2^64")
        low, high = _place(start), _place(stop)
        draw = self._draw(_PLACES)
        length = _value(_PLACES)
        if low == high:
            return Increment(torch.zeros_like(draw[:, 0]), torch.zeros_like(draw[:, 0]))
        whole = Increment(length**0.5 * draw[:, 0], (length / 12) ** 0.5 * draw[:, 1])
        return self._within(0, _PLACES, whole, low, high)

    def _within(self, low: int, high: int, whole: Increment, start: int, stop: int) -> Increment:
        """The increment from `start` to `stop`, which lie between `low` and `high`, where it is `whole`."""
        if (start, stop) == (low, high):
            return whole
        middle = (low + high) // 2
        a, u, b = _value(low), _value(middle), _value(high)
        left, right = _halves(whole, u - a, b - u, self._draw(middle))
        if stop <= middle:
            return self._within(low, middle, left, start, stop)
        if start >= middle:
            return self._within(middle, high, right, start, stop)
        first = self._within(low, middle, left, start, middle)
        second = self._within(middle, high, right, middle, stop)
        return _joined(first, second, u - _value(start), _value(stop) - u)

    def _draw(self, place: int) -> Tensor:
        """Two standard normal draws `(B, 2, *shape)` that belong to a place."""
        found = self._draws.pop(place, None)
        if found is None:
            self._noise.draws = place
            found = self._noise()
            if len(self._draws) >= _KEPT:
                self._draws.popitem(last=False)
        self._draws[place] = found
        return found


def _joined(first: Increment, second: Increment, left: float, right: float) -> Increment:
    """The increment over two neighbouring intervals of lengths `left` and `right`."""
    p, q = left / (left + right), right / (left + right)
    area = p * first.area + q * second.area + 0.5 * q * first.w - 0.5 * p * second.w
    return Increment(first.w + second.w, area)


def _halves(whole: Increment, left: float, right: float, draw: Tensor) -> tuple[Increment, Increment]:
    """The increments over two parts of an interval, of lengths `left` and `right`, given that over both.

    Before, the pairs of both parts are independent. `_joined` makes of them the pair of the whole, in which w and H are
    independent too, so that the conditional mean is linear in each by itself; the two directions that are left have the
    standard deviations below.
    """
    h = left + right
    p, q = left / h, right / h
    cubes = p**3 + q**3
    bend = 6 * p * q * whole.area + math.sqrt(h * p * q * cubes) * draw[:, 0]
    shared = 0.5 * math.sqrt(h * p * q / cubes) * draw[:, 0] - whole.area
    apart = math.sqrt(h * p * q / (12 * cubes)) * draw[:, 1]
    first = Increment(p * whole.w + bend, q * apart - p**2 * shared)
    second = Increment(q * whole.w - bend, -p * apart - q**2 * shared)
    return first, second


def _value(place: int) -> float:
    """The value of v at a place."""
    return 2.0 ** (place / 2**_HALVINGS - _OCTAVES) if place else 0.0


def _place(v: float) -> int:
    """The place nearest to a value of v."""
    return max(0, round((math.log2(v) + _OCTAVES) * 2**_HALVINGS)) if v else 0
