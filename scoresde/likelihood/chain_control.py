"""Control variates for the bound of a Gaussian chain: what denoising would cost if the data were normal."""

from typing import Any

import torch
from torch import Tensor

from scoresde.chains import ChainModel, GaussianChainModel
from scoresde.likelihood.scaling import CovarianceScaling, Spread
from scoresde.sde import GaussianChain

__all__ = ["NormalControl"]


class NormalControl:
    """The error of the best denoiser of normal data, and its expectation, which is known.

    The terms of a Gaussian chain's bound contain c_t ‖x₀ − D(x_t)‖² with c_t = f_t²/(2 b_t), where f_t is the factor of
    x₀ in the posterior mean. For data N(m, Σ), with x̃ = x_t/√ᾱ_t and v = (1 − ᾱ_t)/ᾱ_t,

        D(x_t) = m + Σ (Σ + v)⁻¹ (x̃ − m),
        E‖x₀ − D(x_t)‖² = ‖v (Σ + v)⁻¹ (x₀ − m)‖² + v tr(Σ² (Σ + v)⁻²).

    Their difference times c_t has expectation 0 at every x₀, whatever the data are, and takes from a term most of what
    the noise in x_t does to it.

    Args:
        chain: The chain.
        mean: The mean m, `(D,)` float64.
        spread: The covariance Σ.
        variances: The variances b_t of the reverse steps, or some that are near, `(T,)` float64.
    """

    def __init__(self, chain: GaussianChain, mean: Tensor, spread: Spread, variances: Tensor) -> None:
        self.chain, self.mean, self.spread = chain, mean, spread
        steps = torch.arange(1, chain.steps + 1)
        on_data = chain.posterior_terms(steps)[0].detach()
        self._factor = (on_data.square() / (2 * variances)).to(mean.device)
        self._noise = (-2 * chain.log_snr(steps)).detach().exp().to(mean.device)
        self._alpha = chain.alpha(steps).detach().to(mean.device)

    @classmethod
    def of(cls, model: ChainModel[Any]) -> "NormalControl | None":
        """The control of a Gaussian model that knows the moments of its data; None for any other model."""
        if not isinstance(model, GaussianChainModel):
            return None
        known = model.model.statistics
        if known is None:
            return None
        device = known.mean.device
        spread = CovarianceScaling().spread(known, known.mean.numel()).to(device)
        return cls(model.chain, known.mean.double().flatten(), spread, model.nominal_variances)

    def __call__(self, x0: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The control `(B,)` in nats, of expectation 0, for data, states `(B, ...)` and steps `(B,)`."""
        v, alpha = self._noise[t - 1][:, None], self._alpha[t - 1][:, None]
        data = x0.double().flatten(1) - self.mean
        state = x.double().flatten(1) / alpha - self.mean
        values = self.spread.values[None]
        kept = values / (values + v)
        error = (data - self.spread.apply(kept, state)).square().sum(1)
        expected = self.spread.apply(1 - kept, data).square().sum(1) + v[:, 0] * self.spread.trace(kept.square())
        return self._factor[t - 1] * (error - expected)
