"""The distributions of one step of a Markov chain: values of which samples, densities and divergences are taken."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["CategoricalStep", "GaussianStep", "StepDistribution", "given_or_drawn"]

_Self = TypeVar("_Self", bound="StepDistribution")


def given_or_drawn(noise: Tensor | torch.Generator | None, like: Tensor, uniform: bool = False) -> Tensor:
    """The noise that is given, or draws of the shape, dtype and device of `like`.

    Args:
        noise: The draws, or the generator to draw them with; torch's own if not given.
        like: A tensor of the shape that is expected.
        uniform: Whether draws are uniform on [0, 1) instead of standard normal.

    Raises:
        ValueError: Noise of another shape.
    """
    if isinstance(noise, Tensor):
        if noise.shape != like.shape:
            raise ValueError(f"noise has shape {tuple(noise.shape)}, expected {tuple(like.shape)}")
        return noise
    draw = torch.rand if uniform else torch.randn
    dtype = like.dtype if like.is_floating_point() else torch.float64
    return draw(like.shape, dtype=dtype, device=like.device, generator=noise)


class StepDistribution(ABC):
    """The distribution of a state of a chain, independent for each element of each sample of a batch."""

    @abstractmethod
    def sample(self, noise: Tensor | torch.Generator | None = None) -> Tensor:
        """A draw `(B, ...)`, from given noise of that shape or by a generator.

        Raises:
            ValueError: Noise of another shape.
        """

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """The log-density or log-probability of states `(B, ...)`, `(B,)` float64 in nats."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """The entropy, `(B,)` float64 in nats; the differential entropy of a density."""

    @abstractmethod
    def kl_from(self: _Self, q: _Self) -> Tensor:
        """The divergence KL(q ‖ p) of this distribution p from another, q, `(B,)` float64 in nats.

        Args:
            q: The distribution that the expectation is over, such as a posterior of the chain.
        """

    @property
    @abstractmethod
    def mode(self) -> Tensor:
        """The most likely state, `(B, ...)`."""


def _sum(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1)


@dataclass(frozen=True)
class GaussianStep(StepDistribution):
    """A normal distribution with a diagonal covariance.

    Attributes:
        mean: Means `(B, ...)`.
        variance: Variances that broadcast to `mean`, such as `(B, 1, ...)`; 0 for a point.
    """

    mean: Tensor
    variance: Tensor

    def sample(self, noise: Tensor | torch.Generator | None = None) -> Tensor:
        return self.mean + self.variance.sqrt() * given_or_drawn(noise, self.mean)

    def log_prob(self, x: Tensor) -> Tensor:
        variance = self.variance.double()
        square = (x.double() - self.mean.double()).square() / variance
        return -0.5 * _sum(square + variance.log() + math.log(2 * math.pi))

    def entropy(self) -> Tensor:
        logs = self.variance.double().log().expand_as(self.mean)
        return 0.5 * _sum(logs + (1 + math.log(2 * math.pi)))

    def kl_from(self, q: "GaussianStep") -> Tensor:
        own, other = self.variance.double(), q.variance.double()
        ratio = other / own
        moved = (q.mean.double() - self.mean.double()).square() / own
        return 0.5 * _sum(moved + (ratio - 1 - ratio.log()))

    @property
    def mode(self) -> Tensor:
        return self.mean


@dataclass(frozen=True)
class CategoricalStep(StepDistribution):
    """A distribution over states 0 ... S − 1 for each element.

    Attributes:
        probs: Probabilities `(B, ..., S)`, which sum to 1 over the last axis.
        dtype: Dtype of the states that are drawn.
    """

    probs: Tensor
    dtype: torch.dtype = torch.int64

    def sample(self, noise: Tensor | torch.Generator | None = None) -> Tensor:
        """A draw `(B, ...)`, from noise that is uniform on [0, 1)."""
        uniform = given_or_drawn(noise, self.probs[..., 0], uniform=True)
        below = self.probs.cumsum(-1)[..., :-1]
        state = (uniform.to(below.dtype)[..., None] >= below).sum(-1)
        # Where rounding lets the sum end below 1, no draw may fall on a state that has no probability.
        last = self.probs.shape[-1] - 1 - self.probs.flip(-1).gt(0).to(torch.uint8).argmax(-1)
        return torch.minimum(state, last).to(self.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        return _sum(self.probs.double().gather(-1, x.long()[..., None]).log())

    def entropy(self) -> Tensor:
        probs = self.probs.double()
        return _sum(-torch.special.xlogy(probs, probs))

    def kl_from(self, q: "CategoricalStep") -> Tensor:
        own, other = self.probs.double(), q.probs.double()
        # A state that q does not take adds nothing, to the gradient either.
        own, inside = torch.where(other > 0, own, torch.ones_like(own)), torch.where(other > 0, other, 1.0)
        return _sum(other * (inside.log() - own.log()))

    @property
    def mode(self) -> Tensor:
        return self.probs.argmax(-1).to(self.dtype)
