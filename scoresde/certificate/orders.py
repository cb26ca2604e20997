"""Observed orders of convergence: the slope of the error over the number of steps, both on logarithmic scales."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.arguments import checked

__all__ = ["slope", "slope_of_ends"]

_POINTS = 3  # the last ones, where steps are short
_GROUPS = 8  # of starts, of which each is left out once


@checked
def slope(steps: Sequence[int], errors: Sequence[float], stderrs: Sequence[float] | None = None) -> tuple[float, float]:
    """Minus the slope of log error over log steps, by least squares, and its standard error.

    The standard error has the scatter about the line, if there are more than two points, and that of the errors.

    Args:
        steps: At least two numbers of steps.
        errors: Positive errors.
        stderrs: Their standard errors.
    """
    x = torch.tensor([math.log(n) for n in steps], dtype=torch.float64)
    y = torch.tensor([math.log(e) for e in errors], dtype=torch.float64)
    centred = x - x.mean()
    weights = centred / centred.square().sum()
    found = float(weights @ y)
    variance = 0.0
    if len(x) > 2:
        rest = y - y.mean() - found * centred
        variance += float(rest.square().sum() / (len(x) - 2) / centred.square().sum())
    if stderrs is not None:
        relative = torch.tensor([s / e for s, e in zip(stderrs, errors, strict=True)], dtype=torch.float64)
        variance += float((weights * relative).square().sum())
    return -found, math.sqrt(variance)


@checked
def slope_of_ends(
    steps: Sequence[int], distances: Sequence[Tensor], least: float
) -> tuple[float, float, list[int], list[float]]:
    """The order of root mean square distances of ends from true ones.

    Args:
        steps: Increasing numbers of steps.
        distances: The distances `(n,)` at each of them, of the same starts.
        least: Errors below this are those of the true ends.

    Returns:
        The order and its standard error, by leaving out groups of starts and by the scatter about the line; the numbers
        of steps that were used, the last three at most, and their errors. NaN where fewer than two can be used.
    """
    errors = [float(d.square().mean().sqrt()) for d in distances]
    used = [i for i, e in enumerate(errors) if math.isfinite(e) and e > least][-_POINTS:]
    chosen, found = [steps[i] for i in used], [errors[i] for i in used]
    if len(used) < 2:
        return math.nan, math.nan, chosen, found
    order, scatter = slope(chosen, found)
    without = []
    for group in range(_GROUPS):
        kept = torch.arange(len(distances[0])) % _GROUPS != group
        without.append(slope(chosen, [float(distances[i][kept].square().mean().sqrt()) for i in used])[0])
    values = torch.tensor(without, dtype=torch.float64)
    jackknife = float((values - values.mean()).square().sum()) * (_GROUPS - 1) / _GROUPS
    return order, math.sqrt(scatter**2 + jackknife), chosen, found
