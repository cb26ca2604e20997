"""Exact likelihoods by the probability-flow ODE (Song et al. 2021, section 4.3 and appendix D.2).

With x̃ = x/α and σ̃ = σ/α the probability-flow ODE is dx̃/dσ̃ = E[ε | x] under every SDE. It is integrated over
τ = log σ̃, in the state y = (x̃ − m)/√(s² + σ̃²), where m and s are the data's mean and standard deviation: for
Gaussian data of that mean and variance y stands still, and so does the log-determinant, in closed form.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm

from scoresde.divergence import Divergence, Exact, Hutchinson
from scoresde.ode import DORMAND_PRINCE, Solution, Tableau, integrate
from scoresde.sampling.noise import SampleNoise
from scoresde.score import ScoreModel

__all__ = [
    "BitsPerDim",
    "Exact",
    "Hutchinson",
    "LogLikelihood",
    "bits_per_dim",
    "decode",
    "encode",
    "log_likelihood",
]


@dataclass(frozen=True)
class LogLikelihood:
    """Log-densities and how they came about; every tensor has one entry (row) per sample.

    Attributes:
        log_prob: `(B,)` float64, nats, of the density at `t_min`.
        stderr: `(B,)`, standard error of `log_prob` from random probes; 0 for an exact divergence.
        latent: `(B, ...)`, the code at t_max.
        nfe: `(B,)`, evaluations of the field with its divergence.
        t_min: the time at which the density is taken.
    """

    log_prob: Tensor
    stderr: Tensor
    latent: Tensor
    nfe: Tensor
    t_min: float

    def __repr__(self) -> str:
        mean, error = _mean_and_error(self.log_prob)
        return (
            f"LogLikelihood({mean:.4f} ± {error:.4f} nats, n={len(self.log_prob)}, "
            f"probe stderr {self.stderr.mean():.2g} per sample, nfe {self.nfe.double().mean():.0f})"
        )


@dataclass(frozen=True)
class BitsPerDim:
    """Bits per dimension of discrete data.

    Attributes:
        bits: `(B,)` float64.
        stderr: `(B,)`, standard error of `bits` from random probes.
        mean: over samples.
        mean_stderr: its standard error over samples; dequantisation and probes are part of the scatter.
        log_prob: `(B,)`, mean over dequantisation draws of the log-density in model space, nats.
        nfe: `(B,)`, evaluations per draw.
        dequantisation: how; the figure is an upper bound on the bits of the discrete model (Theis et al. 2016).
        draws: dequantisation draws per sample.
        t_min: the time at which the density is taken.
    """

    bits: Tensor
    stderr: Tensor
    mean: float
    mean_stderr: float
    log_prob: Tensor
    nfe: Tensor
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


class _Flow:
    """The probability-flow ODE of a model in (τ, y)."""

    def __init__(
        self,
        model: ScoreModel,
        shape: torch.Size,
        t_min: float | None,
        t_max: float | None,
        cond: dict[str, Any],
    ) -> None:
        sde = model.sde
        self.model, self.shape, self.cond = model, shape, cond
        self.t_min = sde.t_min if t_min is None else t_min
        self.t_max = sde.t_max if t_max is None else t_max
        if not self.t_min < self.t_max:
            raise ValueError(f"t_min is {self.t_min}, expected less than t_max = {self.t_max}")
        ends = sde.check_time(torch.tensor([self.t_min, self.t_max], dtype=torch.float64))
        self.first, self.last = (-sde.log_snr(ends)).tolist()
        self.scales = sde.alpha(ends).tolist()
        statistics = model.statistics
        self.mean = 0.0 if statistics is None else statistics.mean.double().reshape(1, *shape[1:])
        self.std = 1.0 if statistics is None else float(statistics.std)
        self.dtype = model.dtype

    def norm(self, tau: Tensor | float) -> Tensor:
        """√(s² + σ̃²) at τ."""
        return torch.as_tensor(self.std**2 + torch.as_tensor(2 * tau, dtype=torch.float64).exp()).sqrt()

    def to_y(self, x: Tensor, tau: float, alpha: float) -> Tensor:
        return (x.double() / alpha - self.mean) / self.norm(tau).to(x.device)

    def to_x(self, y: Tensor, tau: float, alpha: float) -> Tensor:
        return alpha * (self.norm(tau).to(y.device) * y + self.mean)

    def at(self, tau: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """(x, σ̃²/n² `(b, 1, ...)`, σ̃/n, and the function x ↦ ε) at τ `(b,)` for y `(b, D)`."""
        sde = self.model.sde
        axes = [1] * (len(self.shape) - 1)
        # Round-off in τ must not leave the interval.
        t = sde.time(-tau).clamp(self.t_min, self.t_max)
        norm = self.norm(tau).reshape(-1, *axes)
        sigma = tau.exp().reshape(-1, *axes)
        alpha = sde.alpha(t).reshape(-1, *axes)
        x = alpha * (norm * y.reshape(-1, *self.shape[1:]) + self.mean)
        cond = {
            k: v[rows] if isinstance(v, Tensor) and v.ndim and len(v) == self.shape[0] else v
            for k, v in self.cond.items()
        }

        def noise(state: Tensor) -> Tensor:
            return self.model.noise(state, t, **cond)

        return x.to(self.dtype), (sigma / norm).square(), sigma / norm, noise

    def field(self, tau: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        """dy/dτ = (σ̃/n) ε − (σ̃²/n²) y, `(b, D)`."""
        x, shrink, gain, noise = self.at(tau, y, rows)
        return (gain * noise(x).double()).flatten(1) - shrink.flatten(1) * y

    def run(
        self,
        y: Tensor,
        field: Callable[..., Tensor],
        norm: Callable[..., Tensor],
        back: bool,
        method: Tableau,
    ) -> Solution:
        start, stop = (self.last, self.first) if back else (self.first, self.last)
        with self.model.evaluating():
            solution = integrate(field, y, start, stop, norm, method)
        lost = int((~solution.arrived).sum())
        if lost:
            raise ArithmeticError(
                f"the probability-flow ODE could not be followed for {lost} of {len(y)} samples: "
                "loosen rtol and atol, raise t_min, or check the model for values that are not finite"
            )
        return solution


def _state_norm(rtol: float, atol: float, size: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    def norm(error: Tensor, before: Tensor, after: Tensor, slope: Tensor) -> Tensor:
        scale = atol + rtol * torch.maximum(before[:, :size].abs(), after[:, :size].abs())
        return (error[:, :size] / scale).square().mean(1).sqrt()

    return norm


def _check(x: Tensor, rtol: float, atol: float) -> None:
    if not x.is_floating_point():
        raise ValueError(f"x has dtype {x.dtype}, expected floating point in model space; see Transform.encode")
    if x.ndim < 2 or x.shape[0] < 1:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, ...) with at least one sample")
    if not (rtol > 0 and atol > 0):
        raise ValueError(f"rtol={rtol} and atol={atol} must be positive")
    if not bool(x.isfinite().all()):
        raise ValueError("x has values that are not finite; remove those samples first")


def _check_cond(cond: dict[str, Any], total: int) -> None:
    for name, value in cond.items():
        if isinstance(value, Tensor) and value.ndim and len(value) != total:
            raise ValueError(f"{name} has {len(value)} entries, expected one for each of the {total} samples")


@torch.no_grad()
def log_likelihood(
    model: ScoreModel,
    x: Tensor,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    divergence: Divergence | None = None,
    seed: int = 0,
    first: int = 0,
    t_min: float | None = None,
    t_max: float | None = None,
    prior: Literal["matched", "plain"] = "matched",
    method: Tableau = DORMAND_PRINCE,
    batch_size: int | None = None,
    progress: bool = False,
    **cond: Any,
) -> LogLikelihood:
    """Log-density of x at t_min, by the instantaneous change of variables (Chen et al. 2018, theorem 1).

    The state is float64 and the model is called in its own dtype. A sample's result depends on `seed` and on
    its index, not on its batch mates.

    Args:
        model: the score model.
        x: `(B, ...)` in model space.
        rtol: relative tolerance of the state y, whose scale is 1 throughout.
        atol: absolute tolerance of y, and in nats/√D of the log-determinant, per step.
        divergence: `Exact()` or `Hutchinson(probes)`; `Hutchinson(1)` if not given. In up to 4 dimensions, or
            as many as there are probes, the exact divergence costs no more and is used.
        seed: of the probes.
        first: index of the first sample, for results that do not depend on how a data set is split up.
        t_min: where the density is taken; the SDE's `t_min` if not given.
        t_max: where the latent is taken; the SDE's `t_max` if not given.
        prior: density of the latent: `"matched"`, the Gaussian with the data's moments where the model knows
            them; `"plain"`, N(0, σ² I) as in the papers.
        method: a Runge-Kutta pair.
        batch_size: samples to work on at once; all if not given.
        progress: show a progress bar.
        **cond: conditions for the model; tensors of length B are split with the batch.

    Raises:
        ValueError: samples that are not finite, or a time outside the SDE's interval.
        ArithmeticError: the ODE could not be followed to the tolerance.
    """
    _check(x, rtol, atol)
    _check_cond(cond, len(x))
    if prior not in ("matched", "plain"):
        raise ValueError(f"prior is {prior!r}, expected 'matched' or 'plain'")
    divergence = (Hutchinson() if divergence is None else divergence).for_size(x[0].numel())
    batch_size = len(x) if batch_size is None else batch_size
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1")
    parts = []
    with tqdm(total=len(x), disable=not progress, desc="likelihood", unit="sample") as bar:
        for start in range(0, len(x), batch_size):
            rows = slice(start, start + batch_size)
            part_cond = {
                k: v[rows] if isinstance(v, Tensor) and v.ndim and len(v) == len(x) else v for k, v in cond.items()
            }
            flow = _Flow(model, x[rows].shape, t_min, t_max, part_cond)
            parts.append(_solve(flow, x[rows], rtol, atol, divergence, seed, first + start, prior, method))
            bar.update(len(x[rows]))
    log_prob, stderr, latent, nfe = (torch.cat(p) for p in zip(*parts, strict=True))
    return LogLikelihood(log_prob, stderr, latent, nfe, flow.t_min)


def _solve(
    flow: _Flow,
    x: Tensor,
    rtol: float,
    atol: float,
    divergence: Divergence,
    seed: int,
    first: int,
    prior: str,
    method: Tableau,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    size = x[0].numel()
    indices = torch.arange(first, first + len(x))
    probes = divergence.probes_for(x.to(flow.dtype), seed, indices)

    def field(tau: Tensor, state: Tensor, rows: Tensor) -> Tensor:
        y = state[:, :size]
        place, shrink, gain, noise = flow.at(tau, y, rows)
        value, tape = divergence.evaluate(noise, place, None if probes is None else probes[rows])
        # ∂(dy/dτ)/∂y = α σ̃ ∂ε/∂x − σ̃²/n². The tape holds the first part; the second is known (see below).
        alpha = flow.model.sde.alpha(flow.model.sde.time(-tau).clamp(flow.t_min, flow.t_max))
        dy = (gain * value.double()).flatten(1) - shrink.flatten(1) * y
        linear = shrink.flatten(1) * (size if probes is None else probes[rows].double().flatten(1))
        return torch.cat((dy, (alpha * tau.exp())[:, None] * tape - linear), dim=1)

    state_norm = _state_norm(rtol, atol, size)

    def norm(error: Tensor, before: Tensor, after: Tensor, slope: Tensor) -> Tensor:
        tape = error[:, size:]
        # Over the signs of a probe, uᵀe has the size of ‖e‖; the mean of K of them is smaller by √K.
        count = 1 if probes is None else size / probes.shape[1]
        log_det = (tape.square().mean(1) * count).sqrt()
        return torch.maximum(state_norm(error, before, after, slope), log_det / (atol * math.sqrt(size)))

    y = flow.to_y(x, flow.first, flow.scales[0]).flatten(1)
    width = 1 if probes is None else probes[0].numel()
    solution = flow.run(torch.cat((y, y.new_zeros(len(y), width)), dim=1), field, norm, False, method)
    trace, stderr = divergence.read(solution.y[:, size:], probes)
    latent = flow.to_x(solution.y[:, :size].reshape(x.shape), flow.last, flow.scales[1])
    # From the density of y at t_max through that of y at t_min to that of x.
    latent_log_prob = _prior_log_prob(flow, latent, prior)
    to_latent = size * (math.log(flow.scales[1]) + float(flow.norm(flow.last).log()))
    to_data = size * (math.log(flow.scales[0]) + float(flow.norm(flow.first).log()))
    return latent_log_prob + to_latent + trace - to_data, stderr, latent.to(x.dtype), solution.nfe


def _prior_log_prob(flow: _Flow, z: Tensor, prior: str) -> Tensor:
    """Log-density `(B,)` of the latents under N(α m, α² Σ + σ² I), or N(0, σ² I)."""
    sde, statistics = flow.model.sde, flow.model.statistics
    t = torch.tensor(flow.t_max, dtype=torch.float64)
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    if prior == "plain" or statistics is None:
        centred, variance = z.flatten(1), torch.full((z[0].numel(),), sigma**2, dtype=torch.float64)
    else:
        centred = (z - alpha * statistics.mean.to(z).reshape(z.shape[1:])).flatten(1)
        if statistics.covariance is None:
            variance = torch.full(
                (centred.shape[1],), (alpha * float(statistics.std)) ** 2 + sigma**2, dtype=torch.float64
            )
        else:
            values, vectors = statistics.eigh()
            centred = centred @ vectors.to(z)
            variance = alpha**2 * values.clamp_min(0) + sigma**2
    variance = variance.to(z)
    return -0.5 * (centred**2 / variance + variance.log() + math.log(2 * math.pi)).sum(1)


@torch.no_grad()
def encode(
    model: ScoreModel,
    x: Tensor,
    *,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    t_min: float | None = None,
    t_max: float | None = None,
    method: Tableau = DORMAND_PRINCE,
    **cond: Any,
) -> Tensor:
    """The code `(B, ...)` at t_max of x `(B, ...)` at t_min; the inverse of `decode` to the tolerance."""
    return _carry(model, x, rtol, atol, t_min, t_max, method, cond, back=False)


@torch.no_grad()
def decode(
    model: ScoreModel,
    z: Tensor,
    *,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    t_min: float | None = None,
    t_max: float | None = None,
    method: Tableau = DORMAND_PRINCE,
    **cond: Any,
) -> Tensor:
    """The data `(B, ...)` at t_min of a code z `(B, ...)` at t_max; the inverse of `encode` to the tolerance."""
    return _carry(model, z, rtol, atol, t_min, t_max, method, cond, back=True)


def _carry(
    model: ScoreModel,
    x: Tensor,
    rtol: float,
    atol: float,
    t_min: float | None,
    t_max: float | None,
    method: Tableau,
    cond: dict[str, Any],
    back: bool,
) -> Tensor:
    _check(x, rtol, atol)
    _check_cond(cond, len(x))
    flow = _Flow(model, x.shape, t_min, t_max, cond)
    start, stop = ((flow.last, flow.scales[1]), (flow.first, flow.scales[0]))
    if not back:
        start, stop = stop, start
    y = flow.to_y(x, *start).flatten(1)
    solution = flow.run(y, flow.field, _state_norm(rtol, atol, y.shape[1]), back, method)
    return flow.to_x(solution.y.reshape(x.shape), *stop).to(x.dtype)


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
    log_prob = torch.stack([r.log_prob for r in results]).mean(0)
    stderr = torch.stack([r.stderr for r in results]).square().mean(0).div(draws).sqrt()
    nats_per_bit = math.prod(shape) * math.log(2)
    bits = -(log_prob + transform.log_det(shape)) / nats_per_bit
    mean, error = _mean_and_error(bits)
    nfe = torch.stack([r.nfe for r in results]).double().mean(0)
    return BitsPerDim(bits, stderr / nats_per_bit, mean, error, log_prob, nfe, dequantisation, draws, results[0].t_min)


def _mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean over samples and its standard error (not a number for a single sample)."""
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return values.mean().item(), error
