"""Denoising score matching.

References:
    A connection between score matching and denoising autoencoders (Vincent 2011),
    https://doi.org/10.1162/NECO_a_00142
    Score-based generative modeling through stochastic differential equations (Song et al. 2021), eq. 7,
    https://arxiv.org/abs/2011.13456
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scoresde.arguments import checked
from scoresde.numerics.values import positive
from scoresde.objectives.base import Loss, Objective
from scoresde.objectives.learned_weight import LogLoss, in_full_precision, own_log_loss
from scoresde.objectives.tensors import at_least_float32, mean_square
from scoresde.objectives.times import Times
from scoresde.objectives.weightings import Weighting
from scoresde.score import Conditions, ScoreModel

__all__ = ["DenoisingScoreMatching"]

_HUBER = 0.00054  # times √D, Song & Dhariwal 2023, section 3.3


@checked
class DenoisingScoreMatching(Objective):
    """E[w(t) ‖ε̂(x_t, t) − ε‖²/D] with x_t = α x₀ + σ ε.

    The error is a mean over the D elements of a sample, not a sum. `per_sample` is the mean-square error of ε.

    The error is taken where the model has it without cancellation (`ScoreModel.noise_residual`): for a network at the
    raw output F, against its target p x₀ + q ε.

    With `learned_weight` the loss ℓ of a sample becomes ℓ e^{−u(σ)} + u(σ) with a learned u. At every noise level the
    best u is log E[ℓ], so that all levels contribute equally, however the weighting and the data make them differ; the
    value then estimates 1 plus the mean of log E[ℓ]. What remains for `times` is how often each level is trained.

    With `pseudo_huber` the error e = √w (ε̂ − ε) has the loss √(‖e‖² + c²) − c in place of ‖e‖²/D, which counts large
    errors less. Its least mean is not at E[x₀ | x_t] but, where ‖e‖ is well above c, nearer to the geometric median, so
    that the model is no score of the density any more; it is meant for models that are distilled or sampled in a few
    steps, not for likelihoods.

    Args:
        weighting: Weight of an error at each noise level; `SigmaSquared()` if not given.
        times: Distribution of the times; `UniformTime()` if not given.
        stratified: Spread the noise levels of a batch evenly; see `Objective`.
        learned_weight: Divide the loss by its mean at each noise level, which is learned (Karras et al. 2024, eq. 14
            to 21): by the network's own `log_variance` if it has one, else beside the network.
        pseudo_huber: Give errors the pseudo-Huber loss.
        huber_c: The c of the pseudo-Huber loss; 0.00054 √D if not given.

    Raises:
        ValueError: A c that is not positive, or one without `pseudo_huber`.

    References:
        Karras et al. 2024, Analyzing and improving the training dynamics of diffusion models,
            https://arxiv.org/abs/2312.02696
        Song & Dhariwal 2023, Improved techniques for training consistency models, https://arxiv.org/abs/2310.14189
    """

    def __init__(
        self,
        weighting: Weighting | None = None,
        times: Times | None = None,
        stratified: bool = False,
        learned_weight: bool = False,
        pseudo_huber: bool = False,
        huber_c: float | None = None,
    ) -> None:
        super().__init__(weighting, times, stratified)
        if huber_c is not None:
            positive("huber_c", huber_c)
            if not pseudo_huber:
                raise ValueError("huber_c is of the pseudo-Huber loss: give pseudo_huber=True, or leave it out")
        self.learned_weight = learned_weight
        self.pseudo_huber = pseudo_huber
        self.huber_c = huber_c
        self._log_loss: LogLoss | None = None

    @property
    def trained(self) -> nn.Module | None:
        return self._log_loss

    def begin(self, model: ScoreModel) -> None:
        super().begin(model)
        needed = self.learned_weight and own_log_loss(model) is None
        self._log_loss = LogLoss().to(model.device, model.dtype) if needed else None

    def state_dict(self) -> dict[str, Tensor]:
        own = {} if self._log_loss is None else self._log_loss.state_dict(prefix="log_loss.")
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        own = {name.removeprefix("log_loss."): v for name, v in state.items() if name.startswith("log_loss.")}
        if self._log_loss is not None:
            self._log_loss.load_state_dict(own)
        super().load_state_dict({name: v for name, v in state.items() if not name.startswith("log_loss.")})

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
        x0, conditions = at_least_float32(x0), Conditions.of(cond, len(x0), x0.device)
        t, correction, noise = self._draw(model, x0, generator, u, noise)
        x = model.sde.perturb(x0, t, noise)
        residual, factor = model.noise_residual(x, t, x0, noise, **conditions)
        square, gain = mean_square(residual), None if factor is None else factor**2
        loss = self._loss(model, t, correction, square, gain)
        if not (self.learned_weight or self.pseudo_huber):
            return loss
        # Multiplied in float64: gain and weight may be large and small at the same end of the interval.
        weight = self.weighting.for_model(model)(model.sde, t)
        losses = (weight if gain is None else weight * gain).to(square) * square
        if self.pseudo_huber:
            losses = self._huber(losses, x0[0].numel())
        if self.learned_weight:
            log_mean = self.log_mean(model, t).to(losses)
            losses = losses * (-log_mean).exp() + log_mean
        return loss._replace(value=(correction.to(losses) * losses).mean())

    def _huber(self, losses: Tensor, count: int) -> Tensor:
        c = _HUBER * math.sqrt(count) if self.huber_c is None else self.huber_c
        total = count * losses
        # √(‖e‖² + c²) − c, without the difference.
        return total / ((total + c**2).sqrt() + c)

    def log_mean(self, model: ScoreModel, t: Tensor) -> Tensor:
        """The learned u, which estimates log E[ℓ] at times t `(B,)`; `(B,)`.

        Raises:
            ValueError: An objective without a learned weight, or one that has not begun with a model.
        """
        module = own_log_loss(model) or self._log_loss
        if not self.learned_weight or module is None:
            raise ValueError("there is no learned weight: give learned_weight=True, and call begin(model) first")
        t = model.sde.check_time(t).double()
        return in_full_precision(module, (-0.25 * model.sde.log_snr(t)).to(model.device, model.dtype))
