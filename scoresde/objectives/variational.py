"""The variational bound of a Gaussian chain as an objective, alone and beside the simple loss.

At step t of the chain q, of which the model's reverse step p has the mean of the posterior with x̂₀ in the place of x₀,

    L_t = KL(q(x_{t−1} | x_t, x₀) ‖ p(x_{t−1} | x_t)) = ½ Σ [r + (1 + m²/β̃) e^{−r} − 1]    for t ≥ 2,
    L_1 = −log p(x₀ | x₁) = ½ Σ [log 2π b + m²/b],

where b is the variance of p, r = log b/β̃ and m the difference of the two means, each of an element, and the sum is over
the elements (Ho et al. 2020, eq. 5; indices are those of the step that is undone). m = k (ε̂ − ε) with a factor k that
depends on t, so that neither mean is computed. L_T does not depend on the model and is left out.

References:
    Denoising diffusion probabilistic models (Ho et al. 2020), https://arxiv.org/abs/2006.11239
    Improved denoising diffusion probabilistic models (Nichol & Dhariwal 2021), https://arxiv.org/abs/2102.09672
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import one_of, positive
from scoresde.objectives.base import Loss, Objective
from scoresde.objectives.steps import StepTimes, UniformSteps
from scoresde.objectives.tensors import at_least_float32, mean_square
from scoresde.objectives.weightings import Weighting
from scoresde.score import Conditions, ScoreModel
from scoresde.score.learned_variance import MISSING
from scoresde.sde import SDE, DiscreteVPSDE, ErasureVPSDE, GaussianChain, expand_to

__all__ = ["Hybrid", "VariationalBound"]


class _ChainObjective(Objective):
    """A loss with terms of the bound of a chain.

    Attributes:
        times: Distribution of the steps.
    """

    times: StepTimes

    def __init__(self, weighting: Weighting | None, times: StepTimes | None, stratified: bool) -> None:
        super().__init__(weighting, UniformSteps() if times is None else times, stratified)
        self._chain: tuple[SDE, GaussianChain] | None = None

    def begin(self, model: ScoreModel) -> None:
        super().begin(model)
        self.chain(model.sde)

    def chain(self, sde: SDE) -> GaussianChain:
        """The chain whose bound it is: that of the SDE's table, or of T steps of the SDE.

        Raises:
            ValueError: An SDE that does not preserve variance, or no number of steps.
        """
        if isinstance(sde, ErasureVPSDE) and sde.rates is not None:
            return self._learned(sde)
        if self._chain is None or self._chain[0] is not sde:
            count = self.times.count(sde)
            own = isinstance(sde, DiscreteVPSDE) and len(sde.betas) == count
            made = GaussianChain(sde.betas) if own and isinstance(sde, DiscreteVPSDE) else GaussianChain.of(sde, count)
            self._chain = sde, made
        return self._chain[1]

    def _learned(self, sde: ErasureVPSDE) -> GaussianChain:
        """The chain of rates that are learned, with their graph, so made anew for every batch."""
        if self.times.count(sde) != len(sde.betas):
            raise ValueError(
                f"objective.times.steps is {self.times.count(sde)}, and the rates of {len(sde.betas)} steps are "
                "learned: leave it out"
            )
        return sde.chain()

    def _evaluated(
        self,
        model: ScoreModel,
        x0: Tensor,
        generator: torch.Generator | None,
        u: Tensor | None,
        noise: Tensor | None,
        cond: dict[str, Any],
    ) -> "_Errors":
        """The errors of the model on a batch, by one evaluation; arguments are those of `Objective.__call__`."""
        x0, conditions = at_least_float32(x0), Conditions.of(cond, len(x0), x0.device)
        t, correction, noise = self._draw(model, x0, generator, u, noise)
        x = model.sde.perturb(x0, t, noise)
        if model.learns_variance:
            residual, factor, share = model.residual_with_share(x, t, x0, noise, **conditions)
        else:
            (residual, factor), share = model.noise_residual(x, t, x0, noise, **conditions), None
        return _Errors(self.chain(model.sde), self.times.step(model.sde, t), t, correction, residual, factor, share)

    def _of_steps(self, model: ScoreModel, errors: "_Errors", losses: Tensor) -> Loss:
        """The loss from those of the samples, `(B,)`, without the corrections."""
        value = (errors.correction.to(losses) * losses).mean()
        loss = Loss(value, errors.square.detach(), model.sde.log_snr(errors.t).to(losses))
        return loss._replace(steps=errors.step, losses=losses.detach()) if self.times.remembers else loss


class _Errors:
    """The errors of a model on a batch.

    Args:
        chain: The chain.
        step: Steps `(B,)`.
        t: Their times `(B,)`.
        correction: Corrections for how the steps were drawn, `(B,)`.
        residual: Residuals of the prediction, `(B, ...)`.
        factor: Factors `(B,)` from a residual to an error of ε; None for 1.
        share: Shares of log β in the log-variance, `(B, ...)`; None if they are not learned.
    """

    def __init__(
        self,
        chain: GaussianChain,
        step: Tensor,
        t: Tensor,
        correction: Tensor,
        residual: Tensor,
        factor: Tensor | None,
        share: Tensor | None,
    ) -> None:
        self.chain, self.step, self.t, self.correction = chain, step, t, correction
        self.residual, self.share = residual, share
        self.factor = torch.ones_like(t) if factor is None else factor

    @property
    def square(self) -> Tensor:
        """The mean square of the error of ε, `(B,)`."""
        return self.factor.square().to(self.residual) * mean_square(self.residual)

    def bound(self, kind: str, through_mean: bool) -> Tensor:
        """L_t in bits per dimension, `(B,)`.

        Args:
            kind: Variance of the reverse steps: learned, forward or posterior.
            through_mean: Whether its gradient reaches the mean.
        """
        chain, step = self.chain, self.step
        on_data, _, posterior = chain.posterior_terms(step)
        # At step 1 the posterior is a point; the paper has the second step's variance in the place of its own.
        least = torch.where(step == 1, chain.posterior_terms(step.clamp_min(2))[2], posterior)
        spread = on_data * self.factor * (-chain.log_snr(step)).exp()  # from a residual to an error of the mean
        rise = (chain.beta(step) / least).log()
        residual = self.residual if through_mean else self.residual.detach()
        error = residual.square() * expand_to((spread.square() / least), residual)  # m² over the least variance
        r: Tensor = expand_to(rise, residual)
        if self.share is not None and kind == "learned":
            r = r * self.share
        elif kind == "posterior":
            r = torch.zeros_like(r)
        # With expm1, since r is as small as 1/t.
        divergence = r + torch.expm1(-r) + error * (-r).exp()
        surprise = expand_to((2 * math.pi * least).log(), residual) + r + error * (-r).exp()
        value = torch.where(expand_to(step == 1, residual).bool(), surprise, divergence).broadcast_to(residual.shape)
        return value.flatten(1).mean(1) / (2 * math.log(2))


@checked
class VariationalBound(_ChainObjective):
    """The variational bound L_vlb of a Gaussian chain, by a step of it for each sample (Ho et al. 2020, eq. 5).

    Rates that an `ErasureVPSDE` learns follow its gradient, and then the value has L_T, too.

    The value is an estimate of Σ_t L_t in bits per dimension: of the negative log-density of data in model space, and
    above it. `per_sample` is the mean-square error of ε. The SDE must preserve variance.

    Args:
        times: Distribution of the steps, `UniformSteps()` if not given. The terms differ by orders of magnitude, and
            `LossHistory()` takes most of their variance away.
        stratified: Spread the steps of a batch evenly; see `Objective`.
        variance: Variance of the reverse steps: `"learned"`; `"forward"`, β; or `"posterior"`, β̃. If not given, what
            the model learns if it does, and else β.

    Raises:
        ValueError: In training, a model that learns no variances where they are asked for, or another SDE.

    References:
        Denoising diffusion probabilistic models (Ho et al. 2020), https://arxiv.org/abs/2006.11239
    """

    learns_rates = True

    def __init__(
        self,
        times: StepTimes | None = None,
        stratified: bool = False,
        variance: Literal["learned", "forward", "posterior"] | None = None,
    ) -> None:
        super().__init__(None, times, stratified)
        if variance is not None:
            one_of("variance", variance, ("learned", "forward", "posterior"))
        self.variance = variance

    def __repr__(self) -> str:
        return f"VariationalBound({self.times!r}, stratified={self.stratified}, variance={self.variance!r})"

    def begin(self, model: ScoreModel) -> None:
        super().begin(model)
        self._kind(model)

    def _kind(self, model: ScoreModel) -> str:
        if self.variance == "learned" and not model.learns_variance:
            raise ValueError(MISSING)
        return self.variance or ("learned" if model.learns_variance else "forward")

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
        kind = self._kind(model)
        errors = self._evaluated(model, x0, generator, u, noise, cond)
        losses = errors.chain.steps * errors.bound(kind, through_mean=True)
        loss = self._of_steps(model, errors, losses)
        if isinstance(model.sde, ErasureVPSDE) and model.sde.rates is not None:
            # Without the divergence from the prior, which is constant elsewhere, no signal would be erased.
            last = errors.chain.steps
            prior = errors.chain.prior(x0).kl_from(errors.chain.marginal(x0, last)) / x0[0].numel()
            loss = loss._replace(value=loss.value + (prior.mean() / math.log(2)).to(loss.value))
        return loss


@checked
class Hybrid(_ChainObjective):
    """L_hybrid = L_simple + λ L_vlb, by which a network learns variances (Nichol & Dhariwal 2021, eq. 16).

    L_simple is the mean-square error of ε, and L_vlb the bound in bits per dimension. No gradient of L_vlb reaches the
    mean, which so is what L_simple alone would make it; the variances have no part in L_simple.

    Args:
        bound: Weight λ of L_vlb.
        weighting: Weight of the mean-square error at each noise level; `SigmaSquared()`, 1, if not given.
        times: Distribution of the steps, `UniformSteps()` if not given; or `LossHistory()`.
        stratified: Spread the steps of a batch evenly; see `Objective`.

    Raises:
        ValueError: A weight that is not positive; in training, a model that learns no variances, or an SDE that does
            not preserve variance.

    References:
        Improved denoising diffusion probabilistic models (Nichol & Dhariwal 2021), https://arxiv.org/abs/2102.09672
    """

    def __init__(
        self,
        bound: float = 0.001,
        weighting: Weighting | None = None,
        times: StepTimes | None = None,
        stratified: bool = False,
    ) -> None:
        super().__init__(weighting, times, stratified)
        positive("bound", bound)
        self.bound = bound

    def __repr__(self) -> str:
        return f"Hybrid({self.bound}, {self.weighting!r}, {self.times!r}, stratified={self.stratified})"

    def begin(self, model: ScoreModel) -> None:
        super().begin(model)
        if not model.learns_variance:
            raise ValueError(MISSING)

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
        if not model.learns_variance:
            raise ValueError(MISSING)
        errors = self._evaluated(model, x0, generator, u, noise, cond)
        square = errors.square
        weight = self.weighting.for_model(model)(model.sde, errors.t).to(square)
        losses = weight * square + self.bound * errors.chain.steps * errors.bound("learned", through_mean=False)
        return self._of_steps(model, errors, losses)
