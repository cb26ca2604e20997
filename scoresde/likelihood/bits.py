"""Bits per dimension of discrete data."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from scoresde.arguments import ArgumentError, checked, shown
from scoresde.likelihood.bounds import elbo
from scoresde.likelihood.density import log_likelihood, mean_and_error
from scoresde.likelihood.dequantisation import Dequantisation, DiscreteTransform, Uniform, gaussian_decoder
from scoresde.numerics.html import counts, mean_with_error, range_of, rms, table, with_error
from scoresde.numerics.random import SampleNoise, Stream
from scoresde.score import ScoreModel

__all__ = ["BitsPerDim", "bits_per_dim"]


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
        dequantisation: how; the figure is an upper bound on the bits of a discrete model (Theis et al. 2016).
        decoder: which discrete model.
        draws: dequantisation draws per sample.
        bound: how they are put together.
        t_min: the time at which the density is taken.
        elbo: `(B,)`, bits by the evidence lower bound of the reverse-time SDE, if it was asked for.
        elbo_stderr: `(B,)`, standard error of that from its draws.
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
    decoder: str
    draws: int
    bound: str
    t_min: float
    elbo: Tensor | None = None
    elbo_stderr: Tensor | None = None

    def __repr__(self) -> str:
        return (
            f"BitsPerDim({self.mean:.4f} ± {self.mean_stderr:.4f}, n={len(self.bits)}, "
            f"{self.dequantisation} dequantisation, {self.decoder} at t_min={self.t_min:g}, draws={self.draws}, "
            f"{self.bound}, nfe {self.nfe.double().mean():.0f})"
        )

    def _repr_html_(self) -> str:
        return _html(self)


# Between the seeds of two draws, so that neighbouring seeds of a user share no probes.
_DRAWS = 2**40
# Options of `log_likelihood` that `elbo` has not.
_ALONE = ("tol", "rtol", "atol", "divergence", "method", "variable", "nodes", "progress", "on_done", "scaling")


@checked
def bits_per_dim(
    model: ScoreModel,
    pixels: Tensor,
    transform: DiscreteTransform | None = None,
    *,
    dequantisation: Dequantisation | Literal["uniform"] = "uniform",
    decoder: Literal["rounding", "gaussian"] = "rounding",
    draws: int = 1,
    bound: Literal["average", "importance"] = "average",
    seed: int = 0,
    first: int = 0,
    t_min: float | None = None,
    elbo_draws: int = 0,
    **options: Any,
) -> BitsPerDim:
    """Bits per dimension of discrete data by the probability-flow ODE, an upper bound on those of a discrete model.

    The discrete model is a draw of the density at t_min, decoded; see `scoresde.likelihood.dequantisation`.

    Args:
        model: the score model.
        pixels: `(B, ...)`, the transform's integers.
        transform: the data's transform, which knows its levels and its log-determinant; that of `model.info` if not
            given.
        dequantisation: `"uniform"`, or `Uniform()`, `TruncatedNormal(std)`, `Posterior()`.
        decoder: `"rounding"` to the cell that a value lies in, where values beyond the outer cells are no data; or
            `"gaussian"`, by the noise at t_min, whose probabilities sum to 1.
        draws: K, dequantisation draws per sample.
        bound: `"average"` of the K draws' logarithms, or `"importance"`, the logarithm of their mean, which is nearer
            to the truth the larger K is. The noise of random probes would make the latter too large, by half of its
            variance; that is taken off each draw.
        seed: of the dequantisation and the probes.
        first: index of the first sample.
        t_min: where the density is taken; the SDE's `t_min` if not given.
        elbo_draws: draws of `elbo` at each dequantised sample, for the bound of the reverse-time SDE beside it; 0 for
            none.
        **options: of `log_likelihood`, conditions of the model included.

    Raises:
        ValueError: no transform, and a model that does not know its data's; continuous data, which has a density in
            nats (`log_likelihood`) but no bits per dimension; pixels that are not integers of the transform's levels.
    """
    if transform is None:
        if model.info is None:
            raise ValueError(
                "this model does not know the transform of its data: give it, as by scoresde.data.digits().transform"
            )
        transform = model.info.transform
    if not isinstance(transform, DiscreteTransform):
        raise ArgumentError(f"transform is {shown(transform)}, expected that of the data, such as Discrete(256)")
    if transform.levels is None:
        raise ValueError(f"bits/dim is for discrete data and {transform!r} is continuous: use log_likelihood, in nats")
    if model.transform is not None:
        raise ValueError(f"bits/dim is for discrete data and the model is of continuous ones, {model.transform!r}")
    q = Uniform() if dequantisation == "uniform" else dequantisation
    if not isinstance(q, Dequantisation):
        raise ValueError(f"dequantisation is {q!r}, expected 'uniform' or a Dequantisation")
    if decoder not in ("rounding", "gaussian"):
        raise ValueError(f"decoder is {decoder!r}, expected 'rounding' or 'gaussian'")
    if bound not in ("average", "importance"):
        raise ValueError(f"bound is {bound!r}, expected 'average' or 'importance'")
    if decoder == "rounding" and not q.within:
        raise ValueError(f"{q!r} leaves the cell of a value, which decoder='rounding' needs: take decoder='gaussian'")
    if draws < 1:
        raise ValueError(f"draws is {draws}, expected at least 1")
    if pixels.ndim < 2 or len(pixels) < 1:
        raise ValueError(f"pixels has shape {tuple(pixels.shape)}, expected (B, ...) with at least one sample")
    pixels = model.on_device(pixels)
    shape = tuple(pixels.shape[1:])
    t = torch.tensor(model.sde.t_min if t_min is None else t_min, dtype=torch.float64)
    alpha, sigma = float(model.sde.alpha(t)), float(model.sde.sigma(t))
    indices = torch.arange(first, first + len(pixels))
    noise = SampleNoise(seed, indices, shape, torch.float64, pixels.device, stream=Stream.DEQUANTISATION)
    results, weights, bounds = [], [], []
    of_both = {k: v for k, v in options.items() if k not in _ALONE}
    for draw in range(draws):
        z, log_q = q.draw(pixels, transform, noise, alpha, sigma)
        out = log_likelihood(model, z, seed=seed + draw * _DRAWS, first=first, t_min=t_min, **options)
        discrete = -log_q
        if decoder == "gaussian":
            discrete = discrete + gaussian_decoder(z, pixels, transform, alpha, sigma)
        results.append(out)
        weights.append(out.log_prob + discrete)
        if elbo_draws:
            lower = elbo(model, z, draws=elbo_draws, seed=seed + draw * _DRAWS, first=first, t_min=t_min, **of_both)
            bounds.append((lower.value + discrete, lower.stderr))
    each, errors = torch.stack(weights), torch.stack([r.stderr for r in results])
    if bound == "average":
        value, stderr = each.mean(0), errors.square().mean(0).div(draws).sqrt()
        # What the draws differ by is probes and dequantisation together.
        scatter = each.var(0) / draws if draws > 1 else torch.full_like(value, math.nan)
    else:
        lowered = each - 0.5 * errors.square()
        value, share = lowered.logsumexp(0) - math.log(draws), lowered.softmax(0)
        stderr = (share * errors).square().sum(0).sqrt()
        # Of the logarithm of a mean, by the delta method.
        scatter = (share - 1 / draws).square().sum(0) * draws / (draws - 1) if draws > 1 else value * math.nan
    from_draws = (scatter - stderr.square()).clamp_min(0).sqrt()
    nats_per_bit = math.prod(shape) * math.log(2)
    bits = -value / nats_per_bit
    mean, error = mean_and_error(bits)
    nfe, divergences = (
        torch.stack(counts).double().mean(0) for counts in zip(*((r.nfe, r.divergences) for r in results), strict=True)
    )
    return BitsPerDim(
        bits=bits,
        stderr=stderr / nats_per_bit,
        mean=mean,
        mean_stderr=error,
        log_prob=torch.stack([r.log_prob for r in results]).mean(0),
        stderr_dequantisation=from_draws / nats_per_bit,
        nfe=nfe,
        divergences=divergences,
        dequantisation=q.name,
        decoder=decoder,
        draws=draws,
        bound=bound,
        t_min=results[0].t_min,
        elbo=-torch.stack([v for v, _ in bounds]).mean(0) / nats_per_bit if bounds else None,
        elbo_stderr=torch.stack([e for _, e in bounds]).square().mean(0).div(draws).sqrt() / nats_per_bit
        if bounds
        else None,
    )


def _html(out: BitsPerDim) -> str:
    """Bits per dimension with their error bars, what they are a bound of, and what they cost."""
    rows = [
        ("mean over samples", f"{with_error(out.mean, out.mean_stderr)} bits/dim"),
        ("of one sample", range_of(out.bits)),
        ("standard error from probes", f"{rms(out.stderr):.2g} bits/dim a sample, RMS"),
        ("samples", str(len(out.bits))),
        ("dequantisation", f"{out.dequantisation}, {out.draws} {'draw' if out.draws == 1 else 'draws'}, {out.bound}"),
        ("decoder", f"{out.decoder} at t = {out.t_min:.3g}"),
        ("evaluations a draw", counts(out.nfe)),
    ]
    if out.elbo is not None:
        rows.insert(1, ("by the evidence lower bound", f"{mean_with_error(out.elbo)} bits/dim"))
    return table("Bits per dimension", rows, "An upper bound on those of the discrete model that the decoder makes.")
