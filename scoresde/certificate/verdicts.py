"""When what was seen is more than chance, and a verdict with its number and its threshold."""

import math
from dataclasses import dataclass

from torch import Tensor

__all__ = ["LEVEL", "Verdict", "above_chance", "differs"]

LEVEL = 0.001
"""How often a test finds something in exact samples."""


@dataclass(frozen=True)
class Verdict:
    """A check of a sampler.

    Attributes:
        check: What was checked.
        value: The number that was measured.
        stderr: Its standard error; NaN where it has none.
        threshold: What was demanded of it, in words.
        passed: Whether it is so; None where the check does not apply.
        text: The finding in words.
    """

    check: str
    value: float
    stderr: float
    threshold: str
    passed: bool | None
    text: str


def above_chance(values: Tensor) -> float:
    """The p-value of independent values `(M,)` that lie above 0; 1 where they are not known.

    Student's t of asinh(v/s), with s the median of |v|: values that are symmetric about 0 by chance stay so, and one
    that is very large does not hide that all of them are.
    """
    return _t_test(values, 1)


def differs(values: Tensor) -> float:
    """The p-value of independent values that lie on one side of 0, likewise."""
    return min(1.0, 2 * min(_t_test(values, 1), _t_test(values, -1)))


def _t_test(values: Tensor, sign: int) -> float:
    from scipy.stats import t  # slow to import

    if not bool(values.isfinite().all()) or len(values) < 2:
        return 1.0
    scale = float(values.abs().median()) or float(values.abs().max())
    if scale == 0:
        return 1.0
    tamed = (sign * values / scale).asinh()
    mean, std = float(tamed.mean()), float(tamed.std())
    if std == 0:
        return 0.0 if mean > 0 else 1.0
    return float(t.sf(mean / std * math.sqrt(len(values)), len(values) - 1))
