"""Log-densities along the reverse SDE, from the score alone.

Along a path of the reverse SDE dx = (f x − g² s) dt + g dw, with s = ∇ log p_t and dt < 0, Itô's formula is

    d log p_t(x) = ∂_t log p dt + s · dx − ½ g² Δ log p dt,

and the Fokker-Planck equation of the forward SDE in D dimensions is

    ∂_t log p = −D f − f x · s + ½ g² (Δ log p + |s|²).

In the sum the Laplacian cancels: one half of g² comes from either equation, and of opposite sign, since the path has
the noise of the density's own diffusion. Along the probability-flow ODE nothing cancels it. What is left is

    d log p_t(x) = −(D f + ½ g² |s|²) dt + g s · dw,

with the noise dw of the path itself. With x₀ the denoised mean E[x₀ | x_t], taken as constant over a step from t to s,
all but x₀ is integrated exactly: log p_s(x_s) − log p_t(x_t) is

    log N(x_s; α_s x₀, σ_s² I) − log N(x_t; α_t x₀, σ_t² I)
        = D log(σ_t/σ_s) + ½ |(x_t − α_t x₀)/σ_t|² − ½ |(x_s − α_s x₀)/σ_s|².

For a step of the posterior of a chain, `Ancestral` or `DDPM`, that is exactly log p(x_s | x_t) − log q(x_t | x_s), with
p the Gaussian of the sampler and q that of the forward SDE.

**Error.** In a step over Δγ of γ = (α/σ)², the Gaussian of the sampler differs from p(x_s | x_t) in the log-density by
½ Δγ (zᵀ C z − tr C) to first order, with C the covariance of x₀ given x_t and z the noise of the step. That has mean 0
and the variance ½ Δγ² ‖C‖²; and since x₀ is a martingale with dx₀ = C dw in γ, Δγ ‖C‖² is the expected square of the
change of x₀. So

    ½ Σ Δγ |Δx₀|²

is the variance of the sum, which costs no evaluation. It falls as 1/steps. The second order has a mean, half of that
variance (the divergence of the two Gaussians), which is subtracted, and counts as an error.

**Another score.** With a network, the sum is an estimate of the density of the sampler's own samples. Given x, its mean
is above log p(x) by the divergence of the sampler's paths to x from the forward SDE's paths from x, as that of
`scoresde.likelihood.elbo` at x is below it by the reverse divergence. Both vanish for an exact score and many steps.

References:
    Diffusion models as cartoonists: the curious case of high density regions (Karczewski et al. 2025),
    theorem 1 and section 3, https://arxiv.org/abs/2411.01293
    The superposition of diffusion models using the Itô density estimator (Skreta et al. 2025), theorem 1,
    https://arxiv.org/abs/2412.17762
"""

import math
from collections import deque
from typing import Any

import torch
from torch import Tensor

from scoresde.score import ScoreModel
from scoresde.score.bound import BoundModel
from scoresde.score.conditions import Conditions

__all__ = ["PathDensity", "WatchedModel"]

_MEMORY = 8  # evaluations that may lie between the one of a state and the end of its step


class WatchedModel(BoundModel, same_field=True):
    """A bound model that remembers the denoised means of its latest states.

    Predictions are made of the noise or of the denoised mean, so that either is known.
    """

    def __init__(self, model: ScoreModel, conditions: Conditions) -> None:
        super().__init__(model, conditions)
        self._seen: deque[tuple[Tensor, float, Tensor]] = deque(maxlen=_MEMORY)

    def prediction(self, times: Tensor, p: Tensor, q: Tensor) -> Any:
        return ScoreModel.prediction(self, times, p, q)

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        found = super().denoise(x, t)
        self._see(x, t, found)
        return found

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        found = super().noise(x, t)
        t = torch.as_tensor(t, dtype=torch.float64)
        self._see(x, t, (x - float(self.sde.sigma(t)) * found) / float(self.sde.alpha(t)))
        return found

    def _see(self, x: Tensor, t: Tensor, mean: Tensor) -> None:
        self._seen.append((x, float(t), mean))

    def mean_at(self, x: Tensor, t: Tensor) -> Tensor:
        """The denoised mean of a state that the model was asked about, or by an evaluation more if it was not."""
        found = next((mean for state, time, mean in self._seen if state is x and time == float(t)), None)
        return super().denoise(x, t) if found is None else found


class PathDensity:
    """The log-density of a path of the reverse SDE, step by step.

    Args:
        model: The model that the solver asks, with the conditions bound.
        x: The states at the first time, `(B, ...)`.
        times: The times of the path, `(n + 1,)`.
        start: Log-densities of the first states, `(B,)` float64.
    """

    def __init__(self, model: WatchedModel, x: Tensor, times: Tensor, start: Tensor) -> None:
        self.model, self.x, self.times = model, x, times
        self.alpha, self.sigma = model.sde.alpha(times).tolist(), model.sde.sigma(times).tolist()
        self.value = start.clone()
        self.variance = torch.zeros_like(start)
        self.mean: Tensor | None = None
        self.steps = 0

    def step(self, x: Tensor) -> None:
        """Add a step to the state x, `(B, ...)`, at the next time."""
        i, before = self.steps, self.x
        mean = self.model.mean_at(before, self.times[i])
        self._vary(mean)
        (alpha, next_alpha), (sigma, next_sigma) = self.alpha[i : i + 2], self.sigma[i : i + 2]
        kept = ((before - alpha * mean) / sigma).flatten(1).double().square().sum(1)
        fresh = ((x - next_alpha * mean) / next_sigma).flatten(1).double().square().sum(1)
        size = x[0].numel()
        self.value += size * math.log(sigma / next_sigma) + 0.5 * (kept - fresh)
        self.x, self.mean, self.steps = x, mean, i + 1

    def end(self) -> tuple[Tensor, Tensor]:
        """The log-densities of the last states and their standard errors, `(B,)` float64 each."""
        self._vary(self.model.mean_at(self.x, self.times[self.steps]))
        second = 0.5 * self.variance
        return self.value - second, (self.variance + second.square()).sqrt()

    def _vary(self, mean: Tensor) -> None:
        """Add what the latest step varies by, once the denoised mean after it is known."""
        if self.mean is None:
            return
        i = self.steps
        low, high = ((self.alpha[j] / self.sigma[j]) ** 2 for j in (i - 1, i))
        self.variance += 0.5 * (high - low) * (mean - self.mean).flatten(1).double().square().sum(1)
