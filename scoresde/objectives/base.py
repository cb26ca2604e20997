"""What every objective shares: times and noise in, a weighted mean and its curve over noise levels out."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.objectives.times import Times, UniformTime, low_discrepancy
from scoresde.objectives.weightings import SigmaSquared, Weighting
from scoresde.score import ScoreModel

__all__ = ["Loss", "Objective", "loss_by_noise_level"]


class Loss(NamedTuple):
    """A loss on a batch, in the dtype of the data (float32 at least).

    Attributes:
        value: `()`, the mean over the batch of weight × correction × error; what is minimised.
        per_sample: `(B,)`, the error of each sample, a mean over its D values, without weight and correction;
            detached.
        log_snr: `(B,)`, λ = log(α/σ) at which each sample was noised; detached.
    """

    value: Tensor
    per_sample: Tensor
    log_snr: Tensor


@checked
class Objective(ABC):
    """A score-matching loss.

    Args:
        weighting: how much an error counts at each noise level; `SigmaSquared()` if not given.
        times: distribution of the times; `UniformTime()` if not given.
        stratified: draw the uniforms of a batch by `low_discrepancy`. Sample i of a batch then has a noise
            level that follows from sample 0's, so the batch should be in random order.
    """

    def __init__(
        self, weighting: Weighting | None = None, times: Times | None = None, stratified: bool = False
    ) -> None:
        self.weighting = SigmaSquared() if weighting is None else weighting
        self.times = UniformTime() if times is None else times
        self.stratified = stratified

    @abstractmethod
    def __call__(
        self,
        model: ScoreModel,
        x0: Tensor,
        generator: torch.Generator | None = None,
        *,
        u: Tensor | None = None,
        noise: Tensor | None = None,
        **cond: Any,
    ) -> Loss:
        """The loss of `model` on a batch.

        Args:
            model: what is trained.
            x0: data `(B, ...)`.
            generator: draws what is not given.
            u: uniforms in [0, 1], `(B,)`, that choose the times; used as they are, whatever `stratified`.
            noise: ε `(B, ...)`, standard normal.
            **cond: passed on to the model.

        Raises:
            ValueError: shapes that do not fit, or u outside [0, 1] (looked at on the CPU only).

        Data in half precision are taken in float32, and so is the noise; arrays and lists among the conditions become
        tensors.
        """

    def __repr__(self) -> str:
        values = ", ".join(f"{k}={v!r}" for k, v in vars(self).items())
        return f"{type(self).__name__}({values})"

    def _draw(
        self, model: ScoreModel, x0: Tensor, generator: torch.Generator | None, u: Tensor | None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Times `(B,)` float64, corrections `(B,)` and noise of the shape of x₀."""
        if x0.ndim < 2 or x0.shape[0] == 0:
            raise ValueError(f"x0 has shape {tuple(x0.shape)}, expected (B, ...) with at least one sample")
        model.check_shape(x0.shape)
        size = x0.shape[0]
        if u is None:
            device = x0.device if generator is None else generator.device
            count = 1 if self.stratified else size
            u = torch.rand(count, generator=generator, device=device, dtype=torch.float64)
            u = low_discrepancy(u[0], size) if self.stratified else u
        elif u.shape != (size,):
            raise ValueError(f"u has shape {tuple(u.shape)}, expected ({size},), one uniform for each sample")
        elif u.device.type == "cpu" and not bool(((u >= 0) & (u <= 1)).all()):
            raise ValueError(f"u runs from {float(u.min()):g} to {float(u.max()):g}, expected uniforms in [0, 1]")
        if noise is None:
            noise = _normal(x0.shape, x0, generator)
        elif noise.shape != x0.shape:
            raise ValueError(f"noise has shape {tuple(noise.shape)}, expected that of x0, {tuple(x0.shape)}")
        return *self.times.sample(model.sde, u), noise

    def _loss(
        self, model: ScoreModel, t: Tensor, correction: Tensor, error: Tensor, gain: Tensor | None = None
    ) -> Loss:
        """The loss where the errors of ε are `gain` × `error`, each `(B,)`."""
        weight = self.weighting.for_model(model)(model.sde, t) * correction
        # Multiplied in float64: gain and weight may be large and small at the same end of the interval.
        weight, per_sample = (weight, error) if gain is None else (weight * gain, gain.to(error) * error)
        log_snr = model.sde.log_snr(t).to(error)
        return Loss((weight.to(error) * error).mean(), per_sample.detach(), log_snr)


def _normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal draws in the dtype and on the device of `like`, made on the generator's device."""
    device = like.device if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=device, dtype=like.dtype).to(like.device)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def loss_by_noise_level(log_snr: Tensor, per_sample: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """The mean loss in bins of the noise level, without waiting for the device.

    Args:
        log_snr: λ of each sample, `(B,)`.
        per_sample: loss of each sample, `(B,)`.
        edges: `(K + 1,)`, increasing. A bin holds its lower edge, the last one its upper edge too, as in
            `numpy.histogram`; what lies outside is left out.

    Returns:
        Means `(K,)` in float64, NaN for an empty bin, and counts `(K,)`, int64.

    Raises:
        ValueError: shapes that do not fit.
    """
    if edges.ndim != 1 or len(edges) < 2:
        raise ValueError(f"edges has shape {tuple(edges.shape)}, expected (K + 1,) with K at least 1")
    if log_snr.ndim != 1 or log_snr.shape != per_sample.shape:
        raise ValueError(
            f"log_snr has shape {tuple(log_snr.shape)}, per_sample {tuple(per_sample.shape)}, expected (B,)"
        )
    edges = edges.to(log_snr)
    # By comparison, not by adding into bins: that is in no fixed order on a GPU.
    member = (log_snr[:, None] >= edges[:-1]) & (log_snr[:, None] < edges[1:])
    member[:, -1] |= log_snr == edges[-1]
    values = per_sample.detach().double()[:, None]
    count = member.sum(0)
    return torch.where(member, values, torch.zeros_like(values)).sum(0) / count, count
