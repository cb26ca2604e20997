"""The base class of objectives: times and noise are drawn, and errors become a weighted mean."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from scoresde.arguments import checked
from scoresde.numerics.values import described
from scoresde.objectives.learned_weight import own_log_loss
from scoresde.objectives.tensors import normal
from scoresde.objectives.times import Times, UniformTime, low_discrepancy
from scoresde.objectives.weightings import SigmaSquared, Weighting
from scoresde.score import ScoreModel
from scoresde.sde.erasure_sde import learned_rates

__all__ = ["Criterion", "Loss", "Objective"]


class Loss(NamedTuple):
    """A loss on a batch, in the dtype of the data (float32 at least).

    Attributes:
        value: Mean over the batch of weight × correction × error, `()`; the number to minimise.
        per_sample: Error of each sample, a mean over its D elements, without weight and correction, `(B,)`; detached.
        log_snr: λ = log(α/σ) at which each sample was noised, `(B,)`; detached.
        steps: Steps of a chain at which the samples were noised, `(B,)` int64, if `Objective.remember` is for them.
        losses: Losses of the samples with their weights and without the corrections, `(B,)`, with `steps`; detached.
    """

    value: Tensor
    per_sample: Tensor
    log_snr: Tensor
    steps: Tensor | None = None
    losses: Tensor | None = None


class Criterion(ABC):
    """A loss of a model on a batch of data, which training minimises: what `Trainer` asks of it.

    `Objective` is one of score models, and `ChainLoss` one of discrete chains.
    """

    def begin(self, model: Any) -> None:
        """Make ready to train a model, whose losses are to be remembered from now on.

        Raises:
            ValueError: A model that the criterion cannot train.
        """

    @property
    def trained(self) -> nn.Module | None:
        """What is trained with the network and is no part of it, once `begin` was called; None for most criteria."""
        return None

    def remember(self, steps: Tensor, losses: Tensor) -> None:
        """Learn from the losses `(B,)` of a batch at the steps `(B,)`, of all processes, for batches to come."""

    def state_dict(self) -> dict[str, Tensor]:
        """What was remembered or trained, as a checkpoint keeps it; empty for most criteria."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Resume with what `state_dict` gave."""

    @abstractmethod
    def __call__(
        self,
        model: Any,
        x0: Tensor,
        generator: torch.Generator | None = None,
        *,
        u: Tensor | None = None,
        noise: Tensor | None = None,
        **cond: Any,
    ) -> Loss:
        """The loss of `model` on a batch.

        Args:
            model: The model to train.
            x0: Data `(B, ...)` in model space.
            generator: Generator of what is random and not given.
            u: Uniforms in [0, 1], `(B,)`, that choose the times.
            noise: Standard normal noise `(B, ...)`.
            **cond: Conditions for the model.
        """


@checked
class Objective(Criterion):
    """A score-matching loss.

    Args:
        weighting: Weight of an error at each noise level; `SigmaSquared()` if not given.
        times: Distribution of the times; `UniformTime()` if not given.
        stratified: Draw the uniforms of a batch by `low_discrepancy`. The noise level of sample i of a batch then
            follows from that of sample 0, so that the batch should be in random order.
    """

    #: Whether its gradient with respect to the rates of an SDE is one to follow.
    learns_rates = False
    #: Whether it trains the logarithm of the loss that a network may hold, see `DenoisingScoreMatching`.
    learned_weight: bool = False

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

        Data in half precision are converted to float32, and so is the noise. Arrays and lists among the conditions
        become tensors.

        Args:
            model: The model to train.
            x0: Data `(B, ...)` in model space.
            generator: Generator of the uniforms and the noise that are not given.
            u: Uniforms in [0, 1], `(B,)`, that choose the times; used as they are, also if `stratified`.
            noise: Standard normal noise ε, `(B, ...)`.
            **cond: Conditions for the model.

        Raises:
            ValueError: Shapes that do not fit, or u outside [0, 1], which is checked on the CPU only.
        """

    def begin(self, model: ScoreModel) -> None:
        """Make ready to train a model, whose losses are to be remembered from now on.

        Raises:
            ValueError: A model that the objective cannot train.
        """
        if learned_rates(model.sde) is not None and not self.learns_rates:
            raise ValueError(
                f"{type(self).__name__} is the objective, and rates of the SDE are learned through VariationalBound "
                "alone: take that (objective=vlb), or the SDE with learned=False (sde.learned=false)"
            )
        if (log_loss := own_log_loss(model)) is not None:
            # Several processes wait for the gradient of every parameter that has one.
            log_loss.requires_grad_(self.learned_weight)
        self.times.begin(model.sde, model.device)

    def remember(self, steps: Tensor, losses: Tensor) -> None:
        """Learn from the losses `(B,)` of a batch at the steps `(B,)`, of all processes, for batches to come."""
        self.times.remember(steps, losses)

    def state_dict(self) -> dict[str, Tensor]:
        """What was remembered, as a checkpoint keeps it; empty for most objectives."""
        return self.times.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Resume with what `state_dict` gave."""
        self.times.load_state_dict(state)

    def __repr__(self) -> str:
        return described(self)

    def _given(
        self, model: ScoreModel, x0: Tensor, generator: torch.Generator | None, u: Tensor | None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The uniforms `(B,)` and the noise of the shape of x₀, drawn where they are not given."""
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
            noise = normal(x0.shape, x0, generator)
        elif noise.shape != x0.shape:
            raise ValueError(f"noise has shape {tuple(noise.shape)}, expected that of x0, {tuple(x0.shape)}")
        return u, noise

    def _draw(
        self, model: ScoreModel, x0: Tensor, generator: torch.Generator | None, u: Tensor | None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Times `(B,)` float64, corrections `(B,)` and noise of the shape of x₀."""
        u, noise = self._given(model, x0, generator, u, noise)
        return *self.times.sample(model.sde, u), noise

    def _loss(
        self, model: ScoreModel, t: Tensor, correction: Tensor, error: Tensor, gain: Tensor | None = None
    ) -> Loss:
        """The loss from the mean-square errors of ε, which are `gain` × `error`, `(B,)` each."""
        own = self.weighting.for_model(model)(model.sde, t)
        weight = own * correction
        # Multiplied in float64: gain and weight may be large and small at the same end of the interval.
        weight, per_sample = (weight, error) if gain is None else (weight * gain, gain.to(error) * error)
        loss = Loss((weight.to(error) * error).mean(), per_sample.detach(), model.sde.log_snr(t).to(error))
        if not self.times.remembers:
            return loss
        return loss._replace(steps=self.times.step(model.sde, t), losses=(own.to(error) * per_sample).detach())
