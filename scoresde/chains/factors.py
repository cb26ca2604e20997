"""Multiplying a chain's model by a second distribution r, for samples of a posterior (Sohl-Dickstein et al. 2015, 2.5).

Each reverse step p(x_s | x_{s+1}) is multiplied by a factor r_s(x_s), and normalised. If r_s(x_s) is E[r(x₀) | x_s],
the products are the exact reverse chain of the posterior p(x₀) r(x₀)/Z, for exact reverse steps. A factor that does
not know the data's density is taken as it is, in one of the ways of the paper:

    constant:    r_s = r at every step
    fading:      r_s = r^((T − s)/T), which leaves the start as it is

Both are biased, however many steps there are, where r differs from its mean given x_s: where it varies over what the
noise of x_s leaves open of x₀. For two modes at ±(1, 1) of variance 0.1, and y = 0.3 observed of the first coordinate
with variance 0.5, the share of the mode that is right is 0.73, and 0.62 (constant) or 0.61 (fading) comes out; with the
exact gradient of log E[r(x₀) | x_s] in a `GradientFactor`, 0.73 does. What is known exactly is always kept.

References:
    Deep unsupervised learning using nonequilibrium thermodynamics (Sohl-Dickstein et al. 2015), section 2.5 and
    appendix C, https://arxiv.org/abs/1503.03585
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import one_of
from scoresde.sde import CategoricalStep, Chain, GaussianChain, GaussianStep, StepDistribution
from scoresde.sde.erasure import ErasureChain

__all__ = ["CategoricalFactor", "Factor", "GaussianFactor", "GradientFactor", "Schedule"]

Schedule = Literal["constant", "fading"]
"""How the factor of the states depends on the step."""

_SCHEDULES = ("constant", "fading")


class Factor(ABC):
    """A second distribution r by which the reverse steps of a chain are multiplied."""

    @abstractmethod
    def times(self, step: Any, s: int, chain: Any) -> StepDistribution:
        """The normalised product of the distribution of x_s and the factor r_s.

        Args:
            step: The distribution of x_s, by the model or, at s = T, by the prior.
            s: Number of the state, from T at the start to 0.
            chain: The chain.
        """

    def rows(self, start: int, stop: int) -> "Factor":
        """The factor of the samples from `start` up to `stop`; itself if it is the same for all."""
        return self

    def check(self, chain: Chain, shape: tuple[int, ...]) -> None:
        """Check that the factor is for a chain and for samples of shape `(B, ...)`.

        Raises:
            ValueError: A chain of another kind, or samples of another shape or number.
        """


def _check_rows(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape[1:]) != tuple(shape[1:]) or len(value) not in (1, shape[0]):
        inner = ", ".join(map(str, shape[1:]))
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected (1, {inner}) or ({shape[0]}, {inner})")


@checked
class GaussianFactor(Factor):
    """r(x) = Π N(x; y, v), of each element: an exact product with Gaussian steps.

    Denoising: y are noisy data of noise variance v. Inpainting: v is 0 where y is known, and infinite where it is not.

    >>> step = GaussianStep(torch.zeros(1, 3), torch.ones(1, 1))
    >>> factor = GaussianFactor([[1.0, 1.0, 5.0]], [[0.0, 1.0, math.inf]])
    >>> factor.times(step, 0, GaussianChain([0.5, 0.5]))
    GaussianStep(mean=tensor([[1.0000, 0.5000, 0.0000]]), variance=tensor([[0.0000, 0.5000, 1.0000]]))

    Args:
        mean: Means y in model space, `(B, ...)` or `(1, ...)` for all samples alike; not read where v is infinite.
        variance: Variances v that broadcast to `mean`, 0 or more.
        schedule: How the factor depends on the step.

    Raises:
        ValueError: Negative variances, variances that do not broadcast to the means, or means that are not finite where
            the variance is.
    """

    def __init__(self, mean: Tensor, variance: Tensor, schedule: Schedule = "constant") -> None:
        one_of("schedule", schedule, _SCHEDULES)
        if variance.ndim > mean.ndim or any(
            v not in (1, m) for v, m in zip(variance.shape[::-1], mean.shape[::-1], strict=False)
        ):
            raise ValueError(f"variance has shape {tuple(variance.shape)}, expected {tuple(mean.shape)} as mean has")
        self.variance = torch.broadcast_to(variance.double(), mean.shape)
        if not bool((self.variance >= 0).all()):
            raise ValueError("variance has values that are negative or NaN, expected 0 for what is known, or more")
        self.mean = mean.double()
        if not bool(self.mean[self.variance < math.inf].isfinite().all()):
            raise ValueError("mean has values that are not finite: set the variance to infinity where nothing is known")
        self.mean = torch.where(self.variance < math.inf, self.mean, 0.0)
        self.schedule = schedule

    def times(self, step: GaussianStep, s: int, chain: GaussianChain) -> GaussianStep:
        mean, variance = self.mean.to(step.mean.device), self.variance.to(step.mean.device)
        if self.schedule == "fading":
            power = 1 - s / chain.steps
            variance = variance / power if power else torch.full_like(variance, math.inf)
        # By the share that the factor has in the mean, since its variance may be 0 or infinite.
        gain = (step.variance / (step.variance + variance)).to(step.mean.dtype)
        moved = torch.lerp(step.mean, mean.to(step.mean.dtype).expand_as(step.mean), gain.expand_as(step.mean))
        return GaussianStep(moved, step.variance * (1 - gain))

    def __repr__(self) -> str:
        known = int((self.variance < math.inf).sum())
        return f"GaussianFactor({tuple(self.mean.shape)}, {known} of {self.mean.numel()} values given, {self.schedule})"

    def rows(self, start: int, stop: int) -> "GaussianFactor":
        if len(self.mean) == 1:
            return self
        return GaussianFactor(self.mean[start:stop], self.variance[start:stop], self.schedule)

    def check(self, chain: Chain, shape: tuple[int, ...]) -> None:
        if not isinstance(chain, GaussianChain):
            raise ValueError(f"a GaussianFactor is for a GaussianChain, not for {chain!r}: take a CategoricalFactor")
        _check_rows("mean", self.mean, shape)


@checked
class GradientFactor(Factor):
    """A factor that is known by its gradient: the mean of a Gaussian step moves by the variance times ∇ log r_s.

        p̃(x_s | x_{s+1}) = N(μ + Σ ∇ log r_s(μ), Σ)

    It is the first order of the product: exact if log r_s is linear over the width of a step, and with an error of the
    order of that step's variance otherwise, which vanishes as steps grow in number.

    Args:
        gradient: A function of states x_s `(B, ...)` and the number s of the state that gives ∇ log r_s, `(B, ...)`.

    Raises:
        ValueError: At a step, a gradient of another shape than the states.
    """

    def __init__(self, gradient: Callable[[Tensor, int], Tensor]) -> None:
        self.gradient = gradient

    def times(self, step: GaussianStep, s: int, chain: GaussianChain) -> GaussianStep:
        found = self.gradient(step.mean, s)
        if not isinstance(found, Tensor) or found.shape != step.mean.shape:
            shape = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else repr(type(found).__name__)
            raise ValueError(f"gradient returned {shape}, expected a tensor of shape {tuple(step.mean.shape)} as x_s")
        return GaussianStep(step.mean + step.variance * found, step.variance)

    def check(self, chain: Chain, shape: tuple[int, ...]) -> None:
        if not isinstance(chain, GaussianChain):
            raise ValueError(f"a GradientFactor is for a GaussianChain, not for {chain!r}: take a CategoricalFactor")


@checked
class CategoricalFactor(Factor):
    """r(x) = Π r(x_i), of each element of discrete data: an exact product with the steps of a discrete chain.

    Inpainting: r is an indicator of the value that is known, and the same for all values where none is.

    >>> from scoresde.sde import BinomialChain
    >>> step = CategoricalStep(torch.tensor([[[0.5, 0.5], [0.2, 0.8]]]))
    >>> CategoricalFactor([[[0.0, 1.0], [1.0, 1.0]]]).times(step, 0, BinomialChain([0.5, 0.5])).probs.tolist()
    [[[0.0, 1.0], [0.2, 0.8]]]

    Args:
        weights: Weights r of the K values, `(B, ..., K)` or `(1, ..., K)`, 0 or more and not all 0.
        schedule: How the factor depends on the step.

    Raises:
        ValueError: Weights that are negative, or all 0 for an element.
    """

    def __init__(self, weights: Tensor, schedule: Schedule = "constant") -> None:
        one_of("schedule", schedule, _SCHEDULES)
        weights = weights.double()
        total = weights.sum(-1, keepdim=True)
        if not bool((weights >= 0).all()) or not bool((total > 0).all()) or not bool(total.isfinite().all()):
            raise ValueError("weights are negative, not finite or all 0 for an element, expected 0 or more")
        self.weights = weights / total * weights.shape[-1]  # 1 where all values are alike
        self.schedule = schedule

    def times(self, step: CategoricalStep, s: int, chain: ErasureChain) -> CategoricalStep:
        weights = self.weights.to(step.probs.device)
        # The factor of data says nothing about the mask.
        weights = torch.nn.functional.pad(weights, (0, chain.states - chain.classes), value=1.0)
        if self.schedule == "fading":
            weights = weights ** (1 - s / chain.steps)
        probs = step.probs * weights
        total = probs.sum(-1, keepdim=True)
        # A value that the model excludes and the factor demands is set.
        demanded = weights / weights.sum(-1, keepdim=True)
        probs = torch.where(total > 0, probs / torch.where(total > 0, total, 1.0), demanded)
        return CategoricalStep(probs, step.dtype)

    def __repr__(self) -> str:
        return f"CategoricalFactor({tuple(self.weights.shape)}, {self.schedule})"

    def rows(self, start: int, stop: int) -> "CategoricalFactor":
        return self if len(self.weights) == 1 else CategoricalFactor(self.weights[start:stop], self.schedule)

    def check(self, chain: Chain, shape: tuple[int, ...]) -> None:
        if not isinstance(chain, ErasureChain):
            raise ValueError(f"a CategoricalFactor is for discrete chains, not for {chain!r}: take a GaussianFactor")
        if self.weights.shape[-1] != chain.classes:
            raise ValueError(f"weights are for {self.weights.shape[-1]} values, expected {chain.classes} of {chain!r}")
        _check_rows("weights", self.weights[..., 0], shape)
