"""Bits per dimension of pixels under the chain of a Gaussian model, with the decoder of DDPM."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.chains import GaussianChainModel
from scoresde.likelihood.bits import discrete_transform
from scoresde.likelihood.chain_bound import ChainBound, chain_terms, chosen_steps
from scoresde.likelihood.dequantisation import DiscreteTransform
from scoresde.numerics.html import mean_with_error, rms, table
from scoresde.numerics.means import independent_error, mean_and_error
from scoresde.sde import GaussianStep, StepDistribution

__all__ = ["ChainBits", "chain_bits_per_dim", "discretised_log_prob"]


@dataclass(frozen=True)
class ChainBits:
    """Bits per dimension of pixels under a chain's model.

    Attributes:
        bits: Upper bounds on the bits per dimension of each sample, `(B,)` float64.
        stderr: Standard errors of `bits` from noise and from the draws of t, `(B,)`.
        bound: The bound on the log-probabilities in nats, with its terms.
        size: Number of dimensions of a sample.
    """

    bits: Tensor
    stderr: Tensor
    bound: ChainBound
    size: int

    @property
    def mean(self) -> float:
        """The mean of `bits` over the samples."""
        return float(self.bits.mean())

    @property
    def mean_stderr(self) -> float:
        """The standard error of the mean over the population of samples: their scatter, of which the noise is part."""
        return mean_and_error(self.bits)[1]

    @property
    def draw_stderr(self) -> float:
        """The standard error of the mean for these samples, from noise and from the draws of t alone."""
        return independent_error(self.stderr)

    def terms(self) -> dict[str, float]:
        """The means of L_T, of the sum of L_{t−1} and of L_0 in bits per dimension."""
        nats = self.size * math.log(2)
        prior, begun = (float(v.mean()) / nats for v in (self.bound.prior, self.bound.reconstruction))
        return {"prior": prior, "steps": self.mean - prior - begun, "reconstruction": begun}

    def __repr__(self) -> str:
        return (
            f"ChainBits({self.mean:.4f} ± {self.mean_stderr:.4f}, n={len(self.bits)}, draw stderr "
            f"{self.draw_stderr:.2g} of the mean, nfe {self.bound.nfe})"
        )

    def _repr_html_(self) -> str:
        terms = self.terms()
        rows = [
            ("mean over samples", f"{mean_with_error(self.bits)} bits/dim"),
            ("standard error from draws", f"{rms(self.stderr):.2g} bits/dim a sample, RMS"),
            *((name, f"{value:.4g} bits/dim") for name, value in terms.items()),
            ("samples, steps", f"{len(self.bits)}, {len(self.bound.steps) + 1}"),
            ("evaluations a sample", str(self.bound.nfe)),
        ]
        return table("Bits per dimension of a chain", rows, "An upper bound, with the cells of pixels as its decoder.")


@checked
@torch.no_grad()
def chain_bits_per_dim(
    model: GaussianChainModel,
    pixels: Tensor,
    transform: DiscreteTransform | None = None,
    *,
    evaluations: int | None = None,
    weights: Tensor | None = None,
    draws: int = 1,
    seed: int = 0,
    first: int = 0,
    batch_size: int = 1024,
    control: bool = True,
    progress: bool = False,
    **cond: Any,
) -> ChainBits:
    """Bits per dimension of pixels by the variational bound of a Gaussian chain (Ho et al. 2020, section 3.3).

    The data x₀ of the chain are the middles of the cells of pixels, and the last step is decoded by the share that
    p(x₀ | x₁) has in the cell (`discretised_log_prob`). It is the bound on a probability, and no dequantisation is
    needed. `bits_per_dim` bounds that of another model, the density of the probability flow.

    Args:
        model: The model of the reverse steps.
        pixels: Integers `(B, ...)` of the transform's levels.
        transform: The data's transform, which knows the levels; that of `model.info` if not given.
        evaluations: As for `chain_bound`.
        weights: As for `chain_bound`.
        draws: As for `chain_bound`.
        seed: As for `chain_bound`.
        first: As for `chain_bound`.
        batch_size: As for `chain_bound`.
        control: As for `chain_bound`.
        progress: Whether to show a progress bar.
        **cond: Conditions of the model; tensors of length B are divided with the batch.

    Raises:
        ValueError: No transform, and a model that does not know its data's; continuous data, for which `chain_bound`
            is; pixels that are not integers of the transform's levels; and as `chain_bound`.
        LikelihoodError: A bound that is not finite.

    References:
        Ho et al. 2020, Denoising diffusion probabilistic models, https://arxiv.org/abs/2006.11239
    """
    transform = discrete_transform(model.model, transform)
    pixels = pixels.to(model.device)
    if pixels.ndim < 2 or len(pixels) < 1:
        raise ValueError(f"pixels has shape {tuple(pixels.shape)}, expected (B, ...) with at least one sample")
    data = transform.encode(pixels)
    chosen = chosen_steps(model, len(pixels), evaluations, weights, draws, seed, first)
    decoder = Decoder(pixels, transform)
    bound = chain_terms(model, data, chosen, decoder, seed, first, batch_size, control, progress, cond).bound(
        0.0, first
    )
    size = pixels[0].numel()
    nats = size * math.log(2)
    return ChainBits(-bound.value / nats, bound.stderr / nats, bound, size)


class Decoder:
    """The reconstruction of pixels of a batch: log p(pixels | x₁) of some of its samples.

    Args:
        pixels: Integers `(B, ...)`.
        transform: The transform of the data.
    """

    def __init__(self, pixels: Tensor, transform: DiscreteTransform) -> None:
        self.pixels, self.transform = pixels, transform

    def __call__(self, step: StepDistribution, rows: Tensor) -> Tensor:
        """The log-probability `(b,)` of samples `rows` `(b,)`, in nats."""
        assert isinstance(step, GaussianStep)
        return discretised_log_prob(step, self.pixels[rows], self.transform)


def discretised_log_prob(step: GaussianStep, pixels: Tensor, transform: DiscreteTransform) -> Tensor:
    """The log-probability `(B,)` in nats of the cells of pixels under a normal distribution (Ho et al. 2020, eq. 13).

    The cells end half-way between the middles of two levels; the outer cells are open to infinity, so that the
    probabilities of all levels sum to 1.

    Args:
        step: The distribution of x₀ in model space.
        pixels: Integers `(B, ...)`.
        transform: The transform of the data.
    """
    assert transform.levels is not None
    middles = transform.encode(torch.arange(transform.levels, device=pixels.device)[None]).double().flatten()
    edges = torch.cat(
        (middles.new_full((1,), -math.inf), (middles[1:] + middles[:-1]) / 2, middles.new_full((1,), math.inf))
    )
    place, std = pixels.long(), step.variance.double().sqrt()
    low, high = ((edges[place + i] - step.mean.double()) / std for i in (0, 1))
    return _log_mass(low, high).flatten(1).sum(1)


def _log_mass(low: Tensor, high: Tensor) -> Tensor:
    """The logarithm of Φ(high) − Φ(low), accurate in both tails."""
    above = low > 0
    low, high = torch.where(above, -high, low), torch.where(above, -low, high)
    upper, lower = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    mass: Tensor = upper + (-torch.expm1(lower - upper)).log()
    return mass
