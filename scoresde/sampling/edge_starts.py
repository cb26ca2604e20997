"""Starts of which half are near an edge, on whose two sides the end points are in different modes.

An error that moves a start across an edge costs the distance between modes, and it decides the root mean square error
of a solver; but few of some hundred starts are so near an edge that any solver moves them. So some are sought: two
draws of noise a and b span a circle cos φ a + sin φ b, all of whose points are draws of the same normal density. On it,
the arc whose ends are led furthest apart is halved again and again. Starts at distances from the edge that fall by a
factor of 4 count with the share of the circle that they stand for, so that a weighted mean stays one over draws. They
tell how far a solver moves the edge, where that is far enough to be seen in some thousand samples.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde.numerics.random import SampleNoise
from scoresde.sampling.start import prior_start
from scoresde.score import Conditions, ScoreModel

__all__ = ["Starts", "draw_starts"]

Ends = Callable[[Tensor, Conditions], Tensor]
"""The end points of starts `(n, ...)` under conditions."""

# A sample is a function of the seed and its index: these indices are far from any that a user samples with.
_FIRST_START = 2**41
_PART = 2**32  # between the indices of parts
_ARCS = 8  # of a circle, before halving
_SHELLS = 5  # distances from an edge on a circle, from half an arc to 1e-3: a draw in thousands is nearer
_HALVINGS = 2 * _SHELLS + 2


@dataclass(frozen=True)
class Starts:
    """Starts and how much each counts.

    Attributes:
        x: States at the first time, `(n, ...)`.
        conditions: Conditions of the starts.
        weights: The share or the number of all draws that each stands for, `(n,)` float64 on the CPU.
    """

    x: Tensor
    conditions: Conditions
    weights: Tensor

    def thinned(self, every: int) -> "Starts":
        """One start in `every`, with weights whose sum is the same."""
        if every == 1:
            return self
        rows = torch.arange(0, len(self.x), every)
        weights = self.weights[rows]
        conditions = self.conditions.select(rows)
        return Starts(self.x[::every], conditions, weights * (self.weights.sum() / weights.sum()))


def draw_starts(
    model: ScoreModel,
    ends: Ends,
    shape: Sequence[int] | None,
    count: int,
    seed: int,
    cond: Mapping[str, Any],
    part: int = 0,
) -> Starts:
    """Draw starts at the SDE's first time, half of them near an edge.

    Args:
        model: The model, in model space.
        ends: A solver of enough steps.
        shape: The shape of a sample; None if the model knows it.
        count: The number of starts, at least 8.
        seed: The seed.
        cond: Conditions; a tensor is repeated to the number of starts.
        part: Starts of another part are independent of these.
    """
    circles = max(count // (2 * _SHELLS), 1)
    shells = min(_SHELLS, count // 2)
    plain = count - circles * shells
    whole = model.batch_shape(plain if shape is None else (plain, *shape))
    # What is measured must not be round-off.
    dtype = torch.float64 if model.exact else model.dtype
    t = torch.tensor(model.sde.t_noise(model.data_std), dtype=torch.float64)

    def noise(first: int, n: int) -> Tensor:
        begin = _FIRST_START + part * _PART + first
        indices = torch.arange(begin, begin + n)
        return SampleNoise(seed, indices, whole[1:], dtype, model.device)()

    def conditions(rows: Tensor) -> Conditions:
        return model.conditions(Conditions.in_turn(cond, rows), len(rows), model.device)

    a, b = noise(plain, circles), noise(plain + circles, circles)
    flat = [1] * (a.ndim - 1)

    def on_circles(angles: Tensor) -> Tensor:
        angles = angles.to(a.device, a.dtype).reshape(-1, circles, *flat)
        return prior_start(model, (angles.cos() * a + angles.sin() * b).flatten(0, 1), t)

    own = torch.arange(circles)
    edge, side = _edges(
        lambda angles: ends(on_circles(angles), conditions(own.repeat(len(angles) // circles))), circles
    )
    # The distances of a circle lie between those of the others.
    halvings = 1 + 2 * (torch.arange(shells)[:, None] + own / circles)
    parts = 2.0 ** -halvings.double()
    near = on_circles(edge + side * (2 * math.pi / _ARCS) * parts)
    x = torch.cat((prior_start(model, noise(0, plain), t), near))
    rows = torch.cat((torch.arange(plain), own.repeat(shells)))
    # Shells part the arcs of both sides; a circle has two edges at least, as its opposite points have opposite noise.
    share = 3 * parts.flatten() / _ARCS
    weights = torch.cat((torch.full((plain,), 1 / plain, dtype=torch.float64), share / circles))
    # In an order in which every fourth start is of all kinds
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return Starts(x[order.to(x.device)], conditions(rows[order]), weights[order])


def _edges(ends: Callable[[Tensor], Tensor], circles: int) -> tuple[Tensor, Tensor]:
    """For each circle the angle of an edge, `(circles,)` float64, and the sign of the side to look at."""
    width = 2 * math.pi / _ARCS
    around = torch.arange(_ARCS, dtype=torch.float64).repeat_interleave(circles) * width
    found = ends(around).reshape(_ARCS, circles, -1)
    widest = (found.roll(-1, 0) - found).norm(dim=2).argmax(0).cpu()
    each = torch.arange(circles)
    low, at_low, at_high = widest * width, found[widest, each], found[(widest + 1) % _ARCS, each]
    for _ in range(_HALVINGS):
        width /= 2
        middle = ends(low + width).flatten(1)
        right = ((at_high - middle).norm(dim=1) > (middle - at_low).norm(dim=1)).cpu()
        choose = right.to(middle.device)[:, None]
        at_low, at_high = torch.where(choose, middle, at_low), torch.where(choose, at_high, middle)
        low = torch.where(right, low + width, low)
    return low + width / 2, torch.where(each % 2 == 0, 1.0, -1.0).double()
