"""Importance weights: samples of a model, weighted as if they were of a density that is known up to a factor.

For samples x_i of a density q that the model knows, and a target p = e^(−U)/Z with an energy U that the user gives,

    w_i = e^(−U(x_i))/q(x_i),    Z ≈ (1/n) Σ w_i,    E_p[f] ≈ Σ w_i f(x_i)/Σ w_i.

References:
    Monte Carlo theory, methods and examples (Owen 2013), chapter 9, https://artowen.su.domains/mc/
    A note on importance sampling using standardized weights (Kong 1992), and Survey sampling (Kish 1965), for the
    effective sample size
    Pareto smoothed importance sampling (Vehtari et al. 2024), https://arxiv.org/abs/1507.02646
    Monte Carlo filter and smoother for non-Gaussian nonlinear state space models (Kitagawa 1996),
    https://doi.org/10.1080/10618600.1996.10474692, for systematic resampling
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from scoresde.arguments import checked, shown
from scoresde.likelihood.density import LogLikelihood
from scoresde.numerics.html import shape_of, table, with_error
from scoresde.numerics.pareto import smoothed_log_weights
from scoresde.numerics.resampling import systematic
from scoresde.numerics.values import at_least

__all__ = ["Reweighted", "reweight"]

# The effective sample size below which a warning says so: in samples, and as a share of all.
_FEW, _SHARE = 10.0, 0.01
# Vehtari et al. 2024, section 3.2.4: the largest reliable k̂ of many samples.
_MAX_K = 0.7


@dataclass(frozen=True, eq=False)
class Reweighted:
    """Samples with importance weights.

    Attributes:
        samples: The samples `(B, ...)`.
        log_weights: Logarithms of the weights e^(−U)/q, `(B,)` float64; −∞ where the target's density is 0.
        k_hat: Shape k̂ of the tail of the weights. Above 0.7, or above 1 − 1/log₁₀ B, no estimate can be trusted,
            however small its error. NaN for fewer than 21 samples, −∞ for equal weights.
        smoothed: Whether the largest weights were replaced by Pareto-smoothed ones.
    """

    samples: Tensor
    log_weights: Tensor
    k_hat: float
    smoothed: bool

    def __len__(self) -> int:
        return len(self.log_weights)

    @cached_property
    def weights(self) -> Tensor:
        """The weights, normalised to a sum of 1, `(B,)` float64."""
        return self.log_weights.softmax(0)

    @cached_property
    def ess(self) -> float:
        """Effective sample size (Kish), 1/Σ w² of normalised weights: from 1 to B."""
        return 1 / self.weights.square().sum().item()

    @cached_property
    def log_z(self) -> float:
        """Estimate of log Z = log ∫ e^(−U), in nats; the estimate of Z itself has no bias."""
        return self.log_weights.logsumexp(0).item() - math.log(len(self))

    @cached_property
    def log_z_stderr(self) -> float:
        """Standard error of `log_z` by the delta method, from the scatter of the weights; NaN for one sample."""
        n = len(self)
        return math.sqrt((self.weights - 1 / n).square().sum().item() * n / (n - 1)) if n > 1 else math.nan

    def mean(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of a function under the target, and its standard error by the delta method.

        Args:
            values: The function at each sample, `(B, ...)`.

        Returns:
            The mean and its standard error, `(...)` float64 each; the error is NaN for one sample.

        Raises:
            ValueError: Values for another number of samples.
        """
        if values.ndim < 1 or len(values) != len(self):
            raise ValueError(
                f"values has shape {tuple(values.shape)}, expected ({len(self)}, ...): one for each sample"
            )
        wide = values.to(self.weights)
        shares = self.weights.reshape(-1, *[1] * (wide.ndim - 1))
        # A value that is not finite counts nothing where the weight is 0.
        wide = torch.where(shares > 0, wide, 0.0)
        mean = (shares * wide).sum(0)
        error = (shares * (wide - mean)).square().sum(0).sqrt()
        return mean, error if len(self) > 1 else torch.full_like(error, math.nan)

    @checked
    def resample(self, n: int | None = None, seed: int = 0) -> Tensor:
        """Samples of the target with equal weights: copies of the samples by their weights, `(n, ...)`.

        Resampling is systematic: sample i is taken n w_i times, rounded up or down.

        Args:
            n: Number of samples; as many as there are if not given.
            seed: Seed of the rounding.
        """
        return self.samples[self.resampled_indices(n, seed).to(self.samples.device)]

    @checked
    def resampled_indices(self, n: int | None = None, seed: int = 0) -> Tensor:
        """Indices of the samples that `resample` takes, `(n,)` int64, increasing."""
        n = len(self) if n is None else n
        at_least("n", n, 1)
        start = torch.rand((), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        return systematic(self.weights.cpu(), start, n)

    def __repr__(self) -> str:
        return (
            f"Reweighted(n={len(self)}, ess={self.ess:.1f}, log Z = {with_error(self.log_z, self.log_z_stderr)} nats, "
            f"k̂={self.k_hat:.2g})"
        )

    def _repr_html_(self) -> str:
        rows = [
            ("samples", shape_of(self.samples)),
            ("effective sample size", f"{self.ess:.1f} of {len(self)}"),
            ("log Z", f"{with_error(self.log_z, self.log_z_stderr)} nats"),
            ("shape k̂ of the tail", f"{self.k_hat:.2g}{', weights smoothed' if self.smoothed else ''}"),
        ]
        return table("Importance weights", rows, "Estimates can be trusted for k̂ below 0.7.")


@checked
def reweight(
    samples: Tensor,
    log_prob: Tensor | LogLikelihood,
    energy: Callable[[Tensor], Tensor] | Tensor,
    *,
    smooth: bool = False,
    batch_size: int | None = None,
) -> Reweighted:
    """Weight samples of a model by an energy, so that they stand for its density e^(−U)/Z.

    >>> from scoresde.likelihood import Exact, log_likelihood
    >>> from scoresde.sampling import EDMHeun, KarrasGrid, Sampler
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import EDMSDE
    >>> model = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 2), torch.ones(1), EDMSDE())
    >>> drawn = Sampler(EDMHeun(), KarrasGrid(60))(model, shape=(2000, 2), seed=1, log_prob=True, divergence=Exact())
    >>> out = reweight(drawn.x, drawn.log_prob, lambda x: 0.75 * x.square().sum(1))  # a variance of 2/3, Z = 2π 2/3
    >>> abs(out.log_z - math.log(4 * math.pi / 3)) < 3 * out.log_z_stderr
    True
    >>> mean, stderr = out.mean(drawn.x.square())
    >>> bool(((mean - 2 / 3).abs() < 3 * stderr).all()), out.ess > 1000
    (True, True)

    Args:
        samples: Samples of the model, `(B, ...)`, by an accurate solver: log-densities are those of the exact flow.
        log_prob: Their log-densities `(B,)` in nats, such as `Samples.log_prob`; or the result of `log_likelihood`, the
            noise of whose random probes would make weights too large on average, which is corrected.
        energy: The energy U(x) in nats, the negative logarithm of a density up to a constant: a function of samples
            `(b, ...)` that returns `(b,)`, or the energies of all samples, `(B,)`. Infinity means a density of 0.
        smooth: Whether the largest weights are Pareto-smoothed, which takes variance for a small bias.
        batch_size: Number of samples to give the energy at once; all if not given.

    Raises:
        ValueError: Log-densities or energies of another shape, that are no tensor or not finite, or energies that are
            infinite for all samples.
    """
    if samples.ndim < 1 or not len(samples):
        raise ValueError(f"samples has shape {tuple(samples.shape)}, expected (B, ...) with at least one sample")
    log_q, variance = (
        (log_prob.log_prob, log_prob.stderr.square()) if isinstance(log_prob, LogLikelihood) else (log_prob, 0)
    )
    _check(log_q, len(samples), "log_prob is", infinite=False)
    energies = _energies(samples, energy, batch_size)
    # The mean of e^(−δ) over the normal error δ of a log-density is e^(variance/2).
    logs = -energies - (log_q.detach().to(energies) + 0.5 * torch.as_tensor(variance).to(energies))
    smoothed, k_hat = smoothed_log_weights(logs)
    out = Reweighted(samples, smoothed if smooth else logs, k_hat, smooth)
    _warn(out)
    return out


def _energies(samples: Tensor, energy: Callable[[Tensor], Tensor] | Tensor, batch_size: int | None) -> Tensor:
    """The energies of all samples, `(B,)` float64, checked batch by batch."""
    if isinstance(energy, Tensor):
        found = energy
        _check(found, len(samples), "energy is", infinite=True)
    else:
        size = len(samples) if batch_size is None else batch_size
        at_least("batch_size", size, 1)
        parts = []
        for part in torch.split(samples, size):
            value = energy(part)
            _check(value, len(part), "energy returned", infinite=True)
            parts.append(value.detach().double())
        found = torch.cat(parts)
    if not bool(found.isfinite().any()):
        raise ValueError(f"energy is infinite for all {len(samples)} samples: the target has no density where they are")
    return found.detach().double()


def _check(values: object, count: int, what: str, infinite: bool) -> None:
    """Reject what is no tensor `(count,)` of numbers.

    Args:
        values: The values.
        count: Number of samples.
        what: Beginning of the message.
        infinite: Whether +∞ is a value.
    """
    if not isinstance(values, Tensor):
        raise ValueError(f"{what} {shown(values)}, expected a tensor of shape ({count},): one number for each sample")
    if values.shape != (count,) or values.is_complex():
        kind = f"{'complex ' if values.is_complex() else ''}tensor of shape {tuple(values.shape)}"
        raise ValueError(f"{what} a {kind} for {count} samples, expected ({count},): one number for each sample")
    wrong = (values.isnan() | (values == -math.inf)) if infinite else ~values.isfinite()
    if bool(wrong.any()):
        first = int(wrong.nonzero()[0])
        rest = "finite numbers, or infinity where the density is 0" if infinite else "finite numbers"
        raise ValueError(
            f"{what} {float(values[first])} for {int(wrong.sum())} of {count} samples, the first of them sample "
            f"{first}, expected {rest}"
        )


def _warn(out: Reweighted) -> None:
    n = len(out)
    if out.ess < max(min(_FEW, n / 2), _SHARE * n):
        problem = f"the effective sample size is {out.ess:.1f} of {n}"
    elif out.k_hat > _MAX_K:
        problem = f"the largest weights have a heavy tail (k̂ = {out.k_hat:.2f}, expected at most {_MAX_K})"
    else:
        return
    warnings.warn(
        f"{problem}: a few samples decide on all estimates, whose errors cannot be trusted; take more samples, or a "
        "model that is nearer to the energy",
        RuntimeWarning,
        stacklevel=4,
    )
