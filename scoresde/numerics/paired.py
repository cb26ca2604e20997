"""Differences of two quantities that were measured on the same samples, with their own standard error."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from scoresde.numerics.html import with_error
from scoresde.numerics.means import mean_and_error

__all__ = ["AgainstFirst", "PairedDifference", "sign_test"]

# Standard errors from which a mean difference counts as one.
_APART = 2.0


@dataclass(frozen=True, eq=False)
class PairedDifference:
    """What a second quantity is more than a first, sample by sample.

    The scatter of the differences holds all that is drawn for a sample: the sample itself, and what random estimates
    of either quantity err by. Whatever both have in common cancels, as the ease of a sample does.

    Args:
        first: The first quantity of each sample, `(n,)`.
        second: The second quantity of the same samples, in the same order, `(n,)`.
        shared: An error of the mean difference that the scatter does not show, since all samples may share it, such
            as that of solvers. Whatever lies within two of it and of the standard error is no difference.

    Raises:
        ValueError: Shapes that differ, no samples, or values that are not finite.
    """

    first: Tensor
    second: Tensor
    shared: float = 0.0

    def __post_init__(self) -> None:
        if self.first.ndim != 1 or self.first.shape != self.second.shape or not len(self.first):
            shapes = tuple(self.first.shape), tuple(self.second.shape)
            raise ValueError(f"paired values have the shapes {shapes[0]} and {shapes[1]}, expected (n,) for both")
        if not bool(self.first.isfinite().all() and self.second.isfinite().all()):
            raise ValueError("paired values are not all finite: leave out these samples of both")

    @classmethod
    def of(
        cls, first: Sequence[float] | Tensor, second: Sequence[float] | Tensor, shared: float = 0.0
    ) -> "PairedDifference":
        """The difference of numbers in any form, as `(n,)` float64."""
        one, other = (torch.as_tensor(values, dtype=torch.float64) for values in (first, second))
        return cls(one, other, shared)

    @cached_property
    def values(self) -> Tensor:
        """The second less the first, `(n,)`."""
        return self.second - self.first

    def __len__(self) -> int:
        return len(self.first)

    @cached_property
    def mean(self) -> float:
        """The mean difference of a sample."""
        return self.values.mean().item()

    @cached_property
    def stderr(self) -> float:
        """The standard error of the mean difference, from the scatter of the differences; NaN for one sample."""
        return mean_and_error(self.values)[1]

    @property
    def total(self) -> float:
        """The sum of the differences."""
        return self.mean * len(self)

    @property
    def total_stderr(self) -> float:
        """The standard error of the sum."""
        return self.stderr * len(self)

    @cached_property
    def unpaired_stderr(self) -> float:
        """The standard error that the difference of the two means has if each is of samples of its own."""
        return math.hypot(*(mean_and_error(values)[1] for values in (self.first, self.second)))

    @property
    def gain(self) -> float | None:
        """How many times `stderr` is in `unpaired_stderr`; None for one sample, or where all differ by the same."""
        return self.unpaired_stderr / self.stderr if self.stderr > 0 else None

    @cached_property
    def more(self) -> int:
        """The number of samples of which the second is more."""
        return int((self.values > 0).sum())

    @cached_property
    def less(self) -> int:
        """The number of samples of which the second is less."""
        return int((self.values < 0).sum())

    @property
    def ties(self) -> int:
        """The number of samples of which both are the same."""
        return len(self) - self.more - self.less

    @cached_property
    def p_value(self) -> float:
        """The p-value of the sign test: whether as many samples are more as are less; ties do not count."""
        return sign_test(self.more, self.less)

    @property
    def apart(self) -> bool:
        """True if the mean difference is more than two errors, with `shared`, which one sample does not have."""
        return abs(self.mean) > _APART * math.hypot(self.stderr, self.shared)

    def __str__(self) -> str:
        return with_error(self.mean, self.stderr)

    def __repr__(self) -> str:
        return f"PairedDifference({self}, n={len(self)}, sign test p={self.p_value:.2g})"

    def verdict(self, first: str, second: str, unit: str, lower_is_better: bool) -> str:
        """Which of two is better, and by how much, in words.

        >>> difference = PairedDifference.of([2.0, 2.5, 3.0], [2.1, 2.6, 3.11])
        >>> difference.verdict("A", "B", "bits/dim", lower_is_better=True)
        'A is better than B by 0.1033 ± 0.0033 bits/dim'

        Args:
            first: Name of the first.
            second: Name of the second.
            unit: Unit of the values.
            lower_is_better: Whether the smaller value is the better.
        """
        if not self.apart:
            within = abs(self.mean) > _APART * self.stderr
            why = f", and their solvers may err by {self.shared:.2g}" if within else ""
            return f"{first} and {second} cannot be told apart: they differ by {self} {unit}{why}"
        pair = (first, second) if (self.mean > 0) == lower_is_better else (second, first)
        return f"{pair[0]} is better than {pair[1]} by {with_error(abs(self.mean), self.stderr)} {unit}"


@dataclass(frozen=True, eq=False)
class AgainstFirst:
    """Values of the same samples under several models, each compared with the first.

    Attributes:
        names: Names of the models.
        unit: Unit of the values: `bits/dim`, of which fewer are better, or another, of which more are.
        values: The value of each sample under each model, `(M, n)` float64.
        shared: An error of each model's mean that all its samples may share, such as that of its solver.
    """

    names: Sequence[str]
    unit: str
    values: Tensor
    shared: Sequence[float]

    @cached_property
    def differences(self) -> tuple[PairedDifference, ...]:
        """What the value of every model after the first is more than that of the first, with a sign test."""
        return tuple(
            PairedDifference(self.values[0], values, math.hypot(self.shared[0], shared))
            for values, shared in zip(self.values[1:], self.shared[1:], strict=True)
        )

    @property
    def lower_is_better(self) -> bool:
        """Whether the smaller value is the better."""
        return self.unit == "bits/dim"

    @property
    def verdicts(self) -> list[str]:
        """For every model after the first, whether it or the first is better, and by how much, in words."""
        return [
            difference.verdict(self.names[0], name, self.unit, self.lower_is_better)
            for name, difference in zip(self.names[1:], self.differences, strict=True)
        ]


def sign_test(more: int, less: int) -> float:
    """The two-sided p-value of so many positive and negative signs under equal odds.

    It is exact, by the binomial distribution: twice the probability of as few of the rarer sign, 1 at most (Dixon &
    Mood 1946).

    >>> sign_test(5, 0), sign_test(0, 0)
    (0.0625, 1.0)
    """
    n, fewest = more + less, min(more, less)
    k = torch.arange(fewest + 1, dtype=torch.float64)
    of_n = torch.tensor(float(n + 1), dtype=torch.float64).lgamma()
    logs = of_n - (k + 1).lgamma() - (n - k + 1).lgamma() - n * math.log(2)
    return min(1.0, 2 * math.exp(float(logs.logsumexp(0))))
