"""A safeguard of Adams methods on steps that are too long for their order, of each sample for itself.

In differences of the values a step is a series, whose terms are what one value more changes of it:

    x_t = (n_t/n_r)^c x_r + T₀ + T₁ + T₂ + ...,    T₀ = W P₀,  T₁ = W₁ D₀,  T₂ = V₀ D₀ + V₁ D₁,  D_j = P_j − P_{j+1}.

On steps that resolve the field, each is less than the one before by a factor of the order of the step. Where that is
not so, the polynomial through the values tells nothing of the field ahead, and to extrapolate it does harm, most of all
on fields that change fast: between narrow modes, or with strong guidance. T₁ and all that follows is multiplied by

    min(1, max(½ |T₁|, |T₀|/10)/|T₂|),    or by  min(1, ½ |T₀|/|T₁|)  with two values,

in the norm of a sample, so that a step goes over into that of order 1. |T₀| counts since T₁ passes through 0 on many
paths, where T₂ is no less for it. As steps become shorter the factor becomes 1, and the order is the nominal one. It
takes no evaluation. In the same way codes of variable order lower theirs where the terms of a step do not fall (Hairer,
Nørsett & Wanner 1993, section III.7), for a whole system at once.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.sampling.adams_table import Weights

__all__ = ["Series", "series"]

# What a term may be of the one before it, and T₂ of T₀
_OF_LAST, _OF_ZEROTH = 0.5, 0.1
_ONE = torch.ones(())


@dataclass(frozen=True)
class Series:
    """A step of at least order 2, and what it is judged by.

    Attributes:
        zeroth: W.
        higher: The weights of D_j in T₁ + T₂ + ...
        bend: V₁/V₀, so that T₂ = V₀ (D₀ + bend D₁); None with two values.
        of_zeroth: The share of |P₀| that |D₀ + bend D₁|, or |D₀| with two values, may be.
        of_first: The share of |D₀| that |D₀ + bend D₁| may be.
    """

    zeroth: float
    higher: list[float]
    bend: float | None
    of_zeroth: float
    of_first: float

    def add_to(self, x: Tensor, newest: Tensor, differences: list[Tensor]) -> Tensor:
        """Add T₁ + T₂ + ... with the factor of each sample to x, in place.

        Args:
            x: The step of order 1, `(B, ...)`.
            newest: P₀, as of data whose mean is 0.
            differences: D_j, the newest first.
        """
        allowed, last = self.of_zeroth * _norm(newest), differences[0]
        if self.bend is not None:
            allowed = torch.maximum(allowed, self.of_first * _norm(last))
            last = torch.add(last, differences[1], alpha=self.bend)
        # Where all are 0 it does not matter which factor they have, but it is to be a number.
        share = torch.fmin(allowed / _norm(last), _ONE)
        for weight, difference in zip(self.higher, differences, strict=False):
            x.addcmul_(share, difference, value=weight)
        return x


def _norm(value: Tensor) -> Tensor:
    """The norm of each sample, `(B, 1, ...)`."""
    return (
        torch.linalg.vector_norm(value, dim=tuple(range(1, value.ndim)), keepdim=True)
        if value.ndim > 1
        else value.abs()
    )


def series(used: Sequence[Weights], two: Tensor, three: Tensor) -> list[Series | None]:
    """Write steps as series.

    Args:
        used: The weights of every step.
        two: The weights of every step with at most two values, `(n, 2)`.
        three: The weights of every step with at most three values, `(n, 3)`, or `(2, 2)`.

    Returns:
        A series for every step; None for those of order 1.
    """
    seconds = three - torch.nn.functional.pad(two, (0, three.shape[1] - 2))
    # Σ_j V_j P_j with Σ_j V_j = 0 is a sum over differences, in which each has the sum of the V_j up to it.
    on_differences = seconds.cumsum(1)[:, :2].tolist()
    out: list[Series | None] = []
    for i, (step, last, (now, before)) in enumerate(zip(used, two[:, 1].tolist(), on_differences, strict=True)):
        zeroth, first = sum(step.values), -last
        higher = list(itertools.accumulate([step.values[0] - zeroth, *step.values[1:-1]]))
        if len(step.values) < 2 or first == 0:
            out.append(None)
        elif i < 2 or now == 0:
            out.append(Series(zeroth, higher, None, _OF_LAST * abs(zeroth / first), 0.0))
        else:
            shares = (_OF_ZEROTH * abs(zeroth / now), _OF_LAST * abs(first / now))
            out.append(Series(zeroth, higher, before / now, *shares))
    return out
