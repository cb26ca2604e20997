"""Every measure of samples of a model whose density is known, against that density and against exact samples."""

from functools import cached_property

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.metrics import (
    Estimate,
    Mixture,
    PrincipalDirections,
    Spectrum,
    kl_divergences,
    mixture_modes,
    nats_lost,
    sliced_wasserstein,
)
from scoresde.score import GaussianMixtureScore, in_model_space

__all__ = ["ExactReference", "marginal"]


@checked
def marginal(model: GaussianMixtureScore, t: float | None = None) -> Mixture:
    """The mixture of an exact model at time t, at its SDE's `t_min` if not given: Σ w_k N(α m_k, α² Σ_k + σ² I).

    Raises:
        ValueError: A mixture that has no density, since its variance is 0 in some direction.
    """
    at = torch.tensor(model.sde.t_min if t is None else t, dtype=torch.float64)
    alpha, sigma = model.sde.alpha(at), model.sde.sigma(at)
    weights, means, variances = (v.detach().cpu().double() for v in (model.weights, model.means, model.variances))
    rotations = None if model.rotations is None else model.rotations.detach().cpu().double()
    return Mixture(weights / weights.sum(), alpha * means, alpha**2 * variances + sigma**2, rotations)


@checked
class ExactReference:
    """What samples of an exact mixture should be, and how far sets of them are from it.

    A call takes samples `(m, ...)` in model space and returns estimates by name: `nats_lost`, `kl_to_model`,
    `kl_to_samples`, `noise_left`, `too_narrow`, `weight_error`, `widest`, `narrowest` (see `scoresde.metrics`) and, of
    as many samples as there are exact ones, `sliced_wasserstein`.

    Samplers without a last denoising end at `t_min` or `t_min_sampling`, with the noise of that time. The reference is
    the density at one time for all of them, so that noise of a later time counts as noise that is left.

    Args:
        model: The exact model.
        n: Number of exact samples.
        seed: Seed of the exact samples.
        t: Time of the density; the SDE's `t_min` if not given.
        divergences: Whether to estimate the two divergences, which takes most of the time.

    Attributes:
        mixture: The density.
        exact: The exact samples, `(n, ...)` float64.
        directions: The principal directions of the mixture.

    Raises:
        ValueError: A mixture without a density at t.
    """

    def __init__(
        self, model: GaussianMixtureScore, n: int, seed: int = 0, t: float | None = None, divergences: bool = True
    ) -> None:
        bare = in_model_space(model)
        assert isinstance(bare, GaussianMixtureScore)
        at = model.sde.t_min if t is None else t
        self._model, self._at, self._seed, self._divergences = bare, at, seed, divergences
        self.mixture = marginal(bare, at)
        self.exact = self._draw(n, seed)
        self.directions = PrincipalDirections.exact(self.mixture.covariance())

    def __call__(self, samples: Tensor) -> dict[str, Estimate]:
        """The measures by name; see the class."""
        x = samples.detach().to("cpu", torch.float64)
        found = self.spectrum(x)
        modes = mixture_modes(x, self.mixture)
        out = [nats_lost(self.mixture.log_prob(x.flatten(1)), self.exact_log_prob)]
        if self._divergences:
            divergences = kl_divergences(x, self.exact, self.mixture)
            out += [divergences.to_model, divergences.to_samples]
        out += [found.noise_left, found.too_narrow, modes.weight_error, modes.widest, modes.narrowest]
        if len(x) == len(self.exact):
            out.append(sliced_wasserstein(x, self.exact))
        return {e.name: e for e in out}

    def spectrum(self, samples: Tensor) -> Spectrum:
        """The spectrum of samples `(m, ...)` along the principal directions of the mixture."""
        return self.directions(samples)

    @cached_property
    def exact_log_prob(self) -> Tensor:
        """The log-densities of the exact samples, `(n,)`."""
        return self.mixture.log_prob(self.exact.flatten(1))

    @cached_property
    def floor(self) -> dict[str, Estimate]:
        """The measures of n other exact samples: what a perfect sampler has."""
        return self(self._draw(len(self.exact), self._seed + 1))

    def _draw(self, n: int, seed: int) -> Tensor:
        device = self._model.means.device
        return self._model.sample(n, self._at, torch.Generator(device).manual_seed(seed)).cpu()
