"""Bits per dimension of discrete data."""

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from scoresde.likelihood.density import log_likelihood, mean_and_error
from scoresde.sampling.noise import SampleNoise
from scoresde.score import ScoreModel

__all__ = ["BitsPerDim", "DiscreteTransform", "bits_per_dim"]


@dataclass(frozen=True)
class BitsPerDim:
    """Bits per dimension of discrete data.

    Attributes:
        bits: `(B,)` float64.
        stderr: `(B,)`, standard error of `bits` from random probes.
        mean: over samples.
        mean_stderr: its standard error over samples; dequantisation and probes are part of the scatter.
        log_prob: `(B,)`, mean over dequantisation draws of the log-density in model space, nats.
        stderr_dequantisation: `(B,)`, standard error of `bits` from the draws; not a number for one draw.
        nfe: `(B,)`, evaluations per draw.
        divergences: `(B,)`, traces per draw.
        dequantisation: how; the figure is an upper bound on the bits of the discrete model (Theis et al. 2016).
        draws: dequantisation draws per sample.
        t_min: the time at which the density is taken.
    """

    bits: Tensor
    stderr: Tensor
    mean: float
    mean_stderr: float
    log_prob: Tensor
    stderr_dequantisation: Tensor
    nfe: Tensor
    divergences: Tensor
    dequantisation: str
    draws: int
    t_min: float

    def __repr__(self) -> str:
        return (
            f"BitsPerDim({self.mean:.4f} ± {self.mean_stderr:.4f}, n={len(self.bits)}, "
            f"{self.dequantisation} dequantisation, draws={self.draws}, nfe {self.nfe.double().mean():.0f})"
        )


# Between the seeds of two draws, so that neighbouring seeds of a user share no probes.
_DRAWS = 2**40


class DiscreteTransform(Protocol):
    """What `bits_per_dim` asks of a transform; `scoresde.data.Discrete` has it."""

    levels: int | None

    def encode(self, raw: Tensor, noise: Tensor | None = None) -> Tensor: ...

    def log_det(self, shape: tuple[int, ...]) -> float: ...


def bits_per_dim(
    model: ScoreModel,
    pixels: Tensor,
    transform: DiscreteTransform,
    *,
    dequantisation: Literal["uniform"] = "uniform",
    draws: int = 1,
    seed: int = 0,
    first: int = 0,
    **options: Any,
) -> BitsPerDim:
    """Bits per dimension of discrete data by the probability-flow ODE with dequantisation.

    −E_u[log₂ p(pixels + u)]/D for u uniform on the unit cell: by Jensen's inequality an upper bound on the
    bits of the discrete model P(pixels) = ∫ p(pixels + u) du (Theis et al. 2016, eq. 4).

    Args:
        model: the score model.
        pixels: `(B, ...)`, the transform's integers.
        transform: the data's transform, which knows its levels and its log-determinant.
        dequantisation: `"uniform"`.
        draws: dequantisation draws per sample.
        seed: of the dequantisation and the probes.
        first: index of the first sample.
        **options: of `log_likelihood`, conditions of the model included.

    Raises:
        ValueError: continuous data, which has a density in nats (`log_likelihood`) but no bits per dimension.
    """
    if transform.levels is None:
        raise ValueError(f"bits/dim is for discrete data and {transform!r} is continuous: use log_likelihood, in nats")
    if dequantisation != "uniform":
        raise ValueError(f"dequantisation is {dequantisation!r}, expected 'uniform'")
    if draws < 1:
        raise ValueError(f"draws is {draws}, expected at least 1")
    if pixels.ndim < 2 or len(pixels) < 1:
        raise ValueError(f"pixels has shape {tuple(pixels.shape)}, expected (B, ...) with at least one sample")
    shape = tuple(pixels.shape[1:])
    indices = torch.arange(first, first + len(pixels))
    uniform = SampleNoise(seed, indices, shape, torch.float64, pixels.device, stream=1)
    results = []
    for draw in range(draws):
        x = transform.encode(pixels, uniform.uniform())
        results.append(log_likelihood(model, x, seed=seed + draw * _DRAWS, first=first, **options))
    each = torch.stack([r.log_prob for r in results])
    log_prob = each.mean(0)
    stderr = torch.stack([r.stderr for r in results]).square().mean(0).div(draws).sqrt()
    # What the draws differ by is probes and dequantisation together.
    scatter = each.var(0) / draws if draws > 1 else torch.full_like(log_prob, math.nan)
    from_draws = (scatter - stderr.square()).clamp_min(0).sqrt()
    nats_per_bit = math.prod(shape) * math.log(2)
    bits = -(log_prob + transform.log_det(shape)) / nats_per_bit
    mean, error = mean_and_error(bits)
    nfe, divergences = (
        torch.stack(counts).double().mean(0) for counts in zip(*((r.nfe, r.divergences) for r in results), strict=True)
    )
    return BitsPerDim(
        bits=bits,
        stderr=stderr / nats_per_bit,
        mean=mean,
        mean_stderr=error,
        log_prob=log_prob,
        stderr_dequantisation=from_draws / nats_per_bit,
        nfe=nfe,
        divergences=divergences,
        dequantisation=dequantisation,
        draws=draws,
        t_min=results[0].t_min,
    )
