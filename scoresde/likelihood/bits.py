"""Bits per dimension of discrete data."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from scoresde.arguments import ArgumentError, checked, shown
from scoresde.likelihood.bounds import Bound, elbo
from scoresde.likelihood.chain_bound import ChainBound, chain_bound
from scoresde.likelihood.density import LogLikelihood, log_likelihood
from scoresde.likelihood.dequantisation import (
    Dequantisation,
    DiscreteTransform,
    Uniform,
    dequantisation_noise,
    gaussian_decoder,
)
from scoresde.likelihood.numbering import draw_seed
from scoresde.likelihood.options import FlowOptions
from scoresde.likelihood.own_chain import own_chain
from scoresde.numerics.html import counts, mean_with_error, range_of, rms, table, with_error
from scoresde.numerics.means import mean_and_error
from scoresde.numerics.values import at_least, one_of
from scoresde.score import ScoreModel

__all__ = ["BitsPerDim", "bits_per_dim", "discrete_transform"]


@dataclass(frozen=True)
class BitsPerDim:
    """Bits per dimension of discrete data.

    Attributes:
        bits: Bits per dimension of each sample, `(B,)` float64: an upper bound on those of a discrete model (Theis et
            al. 2016).
        stderr: Standard errors of `bits` from random probes, `(B,)`.
        mean: Mean of `bits` over samples.
        mean_stderr: Standard error of the mean over samples: their scatter, of which dequantisation and probes are
            part, and the solver's errors, which are correlated between samples.
        log_prob: Means over the draws of the log-density in model space, `(B,)` in nats.
        stderr_dequantisation: Standard errors of `bits` from the draws, `(B,)`; NaN for one draw.
        nfe: Evaluations of the model for a draw, `(B,)`.
        divergences: Traces for a draw, `(B,)`.
        dequantisation: Name of the dequantisation.
        decoder: Name of the decoder, which defines the discrete model.
        draws: Number of draws of the dequantisation for each sample.
        bound: `"average"` or `"importance"`, the way in which the draws are put together.
        t_min: Time at which the density is taken.
        elbo: Bits by the evidence lower bound of the reverse-time SDE, `(B,)`, if it was asked for.
        elbo_stderr: Standard errors of `elbo` from its draws, `(B,)`.
        chain: Bits by the variational bound of the model's chain, `(B,)`, if it was asked for.
        chain_stderr: Standard errors of `chain` from its draws, `(B,)`.
        solver_stderr: Standard errors of `bits` from the solver, `(B,)`, as if those of all draws had one sign.
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
    solver_stderr: Tensor | None = None
    chain: Tensor | None = None
    chain_stderr: Tensor | None = None

    @property
    def total_stderr(self) -> Tensor:
        """Standard errors of `bits` from probes and solver together, `(B,)`."""
        return self.stderr if self.solver_stderr is None else torch.hypot(self.stderr, self.solver_stderr)

    def __repr__(self) -> str:
        return (
            f"BitsPerDim({self.mean:.4f} ± {self.mean_stderr:.4f}, n={len(self.bits)}, "
            f"{self.dequantisation} dequantisation, {self.decoder} at t_min={self.t_min:g}, draws={self.draws}, "
            f"{self.bound}, nfe {self.nfe.double().mean():.0f})"
        )

    def _repr_html_(self) -> str:
        return _html(self)


@dataclass(frozen=True)
class _Draw:
    """One draw of the dequantisation of every sample.

    Attributes:
        density: Log-density at the dequantised values.
        log_weight: log d(k|z) − log q(z|k) of decoder and dequantisation, `(B,)`.
        elbo: Lower bound on the log-density, if it was asked for.
        chain: That of the model's chain.
    """

    density: LogLikelihood
    log_weight: Tensor
    elbo: Bound | None
    chain: ChainBound | None


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
    elbo_draws: int = 0,
    chain_draws: int = 0,
    **options: Any,
) -> BitsPerDim:
    """Bits per dimension of discrete data by the probability-flow ODE, an upper bound on those of a discrete model.

    The discrete model is a draw of the density at t_min, decoded; see `scoresde.likelihood.dequantisation`.

    Args:
        model: The score model.
        pixels: Integers `(B, ...)` of the transform's levels.
        transform: The data's transform, which knows the levels and the log-determinant; that of `model.info` if not
            given.
        dequantisation: `"uniform"`, or `Uniform()`, `TruncatedNormal(std)`, `Posterior()`, `Variational(path)`.
        decoder: `"rounding"` to the cell that a value lies in, where values beyond the outer cells are no data; or
            `"gaussian"`, by the noise at t_min, whose probabilities sum to 1.
        draws: Number K of draws of the dequantisation for each sample.
        bound: `"average"` of the K draws' logarithms, or `"importance"`, the logarithm of their mean, which is nearer
            to the truth the larger K is. The noise of random probes would make the latter too large, by half of its
            variance; that is subtracted from each draw.
        seed: Seed of the dequantisation and the probes.
        first: Index of the first sample.
        elbo_draws: Number of draws of `elbo` at each dequantised sample, for the bound of the reverse-time SDE in
            addition; 0 for none.
        chain_draws: Number of evaluations of `chain_bound` at each dequantised sample, for the bound of the chain of
            the model's SDE (`own_chain`) in addition, at least 4; 0 for none. It is on the density of x₀, and needs an
            SDE that preserves variance.
        **options: Options of `log_likelihood`, such as `t_min`, `tol` or `divergence`, and conditions of the model.

    Raises:
        ValueError: No transform, and a model that does not know its data's; continuous data, which have a density in
            nats (`log_likelihood`) but no bits per dimension; pixels that are not integers of the transform's levels.
    """
    transform = discrete_transform(model, transform)
    q = _dequantisation(dequantisation, decoder)
    one_of("bound", bound, ("average", "importance"))
    at_least("draws", draws, 1)
    if pixels.ndim < 2 or len(pixels) < 1:
        raise ValueError(f"pixels has shape {tuple(pixels.shape)}, expected (B, ...) with at least one sample")
    pixels = model.on_device(pixels)
    of_density = {name: options.pop(name) for name in ("divergence", "progress", "on_done") if name in options}
    common: dict[str, Any] = {"first": first, "prior": options.pop("prior", "matched")}
    flow, cond = FlowOptions.split(bits_per_dim, model, options.pop("options", None), options)
    t = torch.tensor(model.sde.t_min if flow.t_min is None else flow.t_min, dtype=torch.float64)
    alpha, sigma = float(model.sde.alpha(t)), float(model.sde.sigma(t))
    shape = tuple(pixels.shape[1:])
    noise = dequantisation_noise(pixels, seed, first)
    chain_model = own_chain(model) if chain_draws else None
    found = []
    for draw in range(draws):
        z, log_q = q.draw(pixels, transform, noise, alpha, sigma)
        common["seed"] = draw_seed(seed, draw)
        density = log_likelihood(model, z, options=flow, **of_density, **common, **cond)
        log_weight = -log_q
        if decoder == "gaussian":
            log_weight = log_weight + gaussian_decoder(z, pixels, transform, alpha, sigma)
        lower = None
        if elbo_draws:
            # The scaling is one of the ODE; the bound has its own default.
            lower = elbo(model, z, draws=elbo_draws, options=replace(flow, scaling=None), **common, **cond)
        by_chain = None
        if chain_model is not None:
            by_chain = chain_bound(chain_model, z, evaluations=chain_draws, seed=common["seed"], first=first, **cond)
        found.append(_Draw(density, log_weight, lower, by_chain))
    return _joined(found, math.prod(shape), bound, q.name, decoder)


def discrete_transform(model: ScoreModel, transform: DiscreteTransform | None) -> DiscreteTransform:
    """The transform of discrete data that is given, or that the model knows.

    Raises:
        ValueError: Neither, or continuous data.
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
    return transform


def _dequantisation(dequantisation: Dequantisation | str, decoder: str) -> Dequantisation:
    """The dequantisation itself where it is given by its name.

    Raises:
        ValueError: An unknown name or decoder, or two that do not go together.
    """
    q = Uniform() if dequantisation == "uniform" else dequantisation
    if not isinstance(q, Dequantisation):
        raise ValueError(f"dequantisation is {q!r}, expected 'uniform' or a Dequantisation")
    one_of("decoder", decoder, ("rounding", "gaussian"))
    if decoder == "rounding" and not q.within:
        raise ValueError(f"{q!r} leaves the cell of a value, which decoder='rounding' needs: take decoder='gaussian'")
    return q


def _joined(found: list[_Draw], size: int, bound: str, dequantisation: str, decoder: str) -> BitsPerDim:
    """The bits per dimension of all draws together, for samples of `size` elements."""
    draws, nats_per_bit = len(found), size * math.log(2)
    densities = [d.density for d in found]
    logs = torch.stack([d.density.log_prob + d.log_weight for d in found])
    errors = torch.stack([d.stderr for d in densities])
    log_prob, share, stderr, scatter = (_average if bound == "average" else _importance)(logs, errors)
    bits = -log_prob / nats_per_bit
    solver = (share * torch.stack([d.solver_stderr for d in densities])).sum(0) / nats_per_bit
    mean, mean_stderr = mean_and_error(bits, solver)
    lower: dict[str, Tensor] = {}
    bounds: dict[str, list[Bound | ChainBound | None]]
    bounds = {"elbo": [d.elbo for d in found], "chain": [d.chain for d in found]}
    for name, each in bounds.items():
        known = [b for b in each if b is not None]
        if known:
            values = torch.stack([b.value + d.log_weight for b, d in zip(known, found, strict=True)])
            squares = torch.stack([b.stderr for b in known]).square()
            lower[name] = -values.mean(0) / nats_per_bit
            lower[f"{name}_stderr"] = squares.mean(0).div(draws).sqrt() / nats_per_bit
    return BitsPerDim(
        bits=bits,
        stderr=stderr / nats_per_bit,
        mean=mean,
        mean_stderr=mean_stderr,
        log_prob=torch.stack([d.log_prob for d in densities]).mean(0),
        stderr_dequantisation=(scatter - stderr.square()).clamp_min(0).sqrt() / nats_per_bit,
        nfe=torch.stack([d.nfe for d in densities]).double().mean(0),
        divergences=torch.stack([d.divergences for d in densities]).double().mean(0),
        dequantisation=dequantisation,
        decoder=decoder,
        draws=draws,
        bound=bound,
        t_min=densities[0].t_min,
        solver_stderr=solver,
        **lower,
    )


def _average(logs: Tensor, errors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The mean over draws, their shares in it, its standard error from probes, and its variance from their scatter.

    These are `(B,)` each, and the shares, by which the mean changes with the logarithms, `(K, B)`.

    Args:
        logs: Logarithms `(K, B)` of the draws' importance weights.
        errors: Their standard errors from random probes, `(K, B)`.
    """
    draws, mean = len(logs), logs.mean(0)
    stderr = errors.square().mean(0).div(draws).sqrt()
    # The draws differ by probes and dequantisation together.
    variance = logs.var(0) / draws if draws > 1 else torch.full_like(mean, math.nan)
    return mean, torch.full_like(logs, 1 / draws), stderr, variance


def _importance(logs: Tensor, errors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The logarithm of the mean over draws, with the shares and errors of `_average`.

    The mean of e^(l + e) over a normal error e of variance v is e^(l + v/2), hence v/2 is subtracted from every
    logarithm. With w_k the share of draw k in the sum, the logarithm of the mean changes by Σ w_k times the change of
    the logarithms: its error from probes has the variance Σ w_k² v_k. Its variance from the scatter of the draws is
    that of the logarithm of a mean by the delta method, Σ (w_k − 1/K)² K/(K − 1).
    """
    draws = len(logs)
    lowered = logs - 0.5 * errors.square()
    log_mean, share = lowered.logsumexp(0) - math.log(draws), lowered.softmax(0)
    stderr = (share * errors).square().sum(0).sqrt()
    if draws == 1:
        return log_mean, share, stderr, log_mean * math.nan
    return log_mean, share, stderr, (share - 1 / draws).square().sum(0) * draws / (draws - 1)


def _html(out: BitsPerDim) -> str:
    """Bits per dimension with their errors, the model that they bound, and the costs, as HTML."""
    rows = [
        ("mean over samples", f"{with_error(out.mean, out.mean_stderr)} bits/dim"),
        ("of one sample", range_of(out.bits)),
        ("standard error from probes", f"{rms(out.stderr):.2g} bits/dim a sample, RMS"),
        *(
            []
            if out.solver_stderr is None
            else [("standard error from the solver", f"{rms(out.solver_stderr):.2g} bits/dim a sample, RMS")]
        ),
        ("samples", str(len(out.bits))),
        ("dequantisation", f"{out.dequantisation}, {out.draws} {'draw' if out.draws == 1 else 'draws'}, {out.bound}"),
        ("decoder", f"{out.decoder} at t = {out.t_min:.3g}"),
        ("evaluations a draw", counts(out.nfe)),
    ]
    if out.elbo is not None:
        rows.insert(1, ("by the evidence lower bound", f"{mean_with_error(out.elbo)} bits/dim"))
    if out.chain is not None:
        rows.insert(1, ("by the bound of the chain", f"{mean_with_error(out.chain)} bits/dim"))
    return table("Bits per dimension", rows, "An upper bound on those of the discrete model that the decoder makes.")
