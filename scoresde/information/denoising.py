"""Log-densities from errors of denoising: the integral of the information over the signal-to-noise ratio.

For x̃_v = x + √v ε, the best prediction of x from x̃_v has at each x the error mse(x, snr) = E‖x − x̂(x̃_v)‖², where
snr = 1/v, and

    −log p(x) = ½ D log 2πe − ½ ∫ (D/(1 + snr) − mse(x, snr)) d snr

(Kong et al. 2023): the first term and D/(1 + snr) are those of a standard normal density.
Here they are those of G = N(m, Σ + v₀), with the moments of the data, which is far nearer. With noise predictions,
‖x − x̂‖² = v ‖ε̂ − ε‖², so that in λ = log SNR = −½ log v

    log p(x) = log G(x) − ∫ h dλ,    h = E[‖ε̂ − ε‖² − ‖ε̂_G − ε‖²] = E[(ε̂ − ε̂_G)·(ε̂ + ε̂_G − 2ε)].

h is the information in nats that a unit of λ costs more than under G, and −h the density that it gains. Both errors
are of the same noise, so that the scatter of ‖ε‖², which is D and diverges in ∫ dλ, cancels.

x counts as data without noise. The range of λ ends where the model's does. Beyond its largest λ, h is taken to fall as
v does, as it must for a density that is smooth at this level (`tail`); below the smallest, h is taken to be 0.

References:
    Information-theoretic diffusion (Kong et al. 2023), https://arxiv.org/abs/2302.03792
    Mutual information and minimum mean-square error in Gaussian channels (Guo et al. 2005),
    https://arxiv.org/abs/cs/0412108
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.information.paths import NoisyData, error_above
from scoresde.likelihood.errors import LikelihoodError
from scoresde.likelihood.options import BOUND_OPTIONS, FlowOptions
from scoresde.numerics.html import mean_with_error, rms, table
from scoresde.numerics.means import collapsed_variance, mean_and_error
from scoresde.numerics.ode import Status
from scoresde.score import ScoreModel

__all__ = ["DenoisingInformation", "check_finite", "denoising_information", "integral_of"]


@dataclass(frozen=True)
class DenoisingInformation:
    """Log-densities from errors of denoising; every tensor has one entry (row) for each sample.

    Attributes:
        log_prob: Log-densities of the data without noise, `(B,)` float64 in nats.
        stderr: Standard errors of `log_prob` from the draws, `(B,)`. The expectation of their squares is no less than
            the true variance.
        tail: The part of `log_prob` from beyond the largest λ, `(B,)`.
        normal: Log-densities log G(x) of a normal density with the data's moments, `(B,)`.
        excess: Nats ∫ h dλ in every stratum, by which the model's error is more than that of G, `(B, n)`.
        normal_error: E‖ε̂_G − ε‖² at the levels, `(B, n)`.
        log_snr: Levels λ of the draws, `(B, n)`.
        edges: Edges of the strata of λ, `(n + 1,)`, increasing from noise to data.
        nfe: Evaluations of the model for each sample.
    """

    log_prob: Tensor
    stderr: Tensor
    tail: Tensor
    normal: Tensor
    excess: Tensor
    normal_error: Tensor
    log_snr: Tensor
    edges: Tensor
    nfe: int

    @property
    def errors(self) -> Tensor:
        """The denoising errors E‖ε̂ − ε‖² in the strata, `(B, n)`: the information in nats per unit of λ."""
        return self.excess / self.edges.diff() + self.normal_error

    @property
    def entropy(self) -> tuple[float, float]:
        """The differential entropy of the data under the model in nats, −log p in the mean, and its standard error.

        It is the cross-entropy, which for data of the model's own density is their entropy and is more for all others.
        """
        return mean_and_error(-self.log_prob)

    def __repr__(self) -> str:
        return (
            f"DenoisingInformation({mean_with_error(self.log_prob)} nats, n={len(self.log_prob)}, draw stderr "
            f"{rms(self.stderr):.2g} per sample, log SNR {self.edges[0]:.3g} to {self.edges[-1]:.3g}, nfe {self.nfe})"
        )

    def _repr_html_(self) -> str:
        rows = [
            ("mean log-density", f"{mean_with_error(self.log_prob)} nats"),
            ("of it beyond the largest log SNR", f"{mean_with_error(self.tail)} nats"),
            ("of a normal density with the data's moments", f"{mean_with_error(self.normal)} nats"),
            ("standard error from draws", f"{rms(self.stderr):.2g} nats a sample, RMS"),
            ("log SNR", f"{self.edges[0]:.3g} to {self.edges[-1]:.3g}, {len(self.edges) - 1} strata"),
            ("samples, evaluations of each", f"{len(self.log_prob)}, {self.nfe}"),
        ]
        return table("Information by denoising errors", rows)


@checked
@torch.no_grad()
def denoising_information(
    model: ScoreModel,
    x: Tensor,
    *,
    draws: int = 64,
    seed: int = 0,
    first: int = 0,
    log_snr: tuple[float, float] | None = None,
    options: FlowOptions | None = None,
    **keywords: Any,
) -> DenoisingInformation:
    """Log-densities of x, pointwise and by noise level, from the errors of denoising it.

    For an exact score the result is unbiased, up to the ends of the range of λ; the density is that of the data without
    noise. For a network it is the bound of `elbo` with other ends: it is a log-density only if the scores are those of
    a density. See the module's docstring for the equations.

    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import EDMSDE
    >>> model = GaussianMixtureScore([0.5, 0.5], [[-1.0], [1.0]], [0.05, 0.05], EDMSDE())
    >>> out = denoising_information(model, model.sample(500, 0.0, torch.Generator().manual_seed(0)))
    >>> round(out.entropy[0], 1)  # that of a mode, and log 2
    0.6

    Args:
        model: The score model.
        x: Samples `(B, ...)` in the data's units, as for `log_likelihood`.
        draws: Number of noise levels for each sample, each with a noise and its negative: 2 evaluations.
        seed: Seed of the draws. Those of a sample depend on the seed and on the sample's index alone, so that those of
            two models of the same range of λ are paired.
        first: Index of the first sample, for results that do not depend on how a data set is split up.
        log_snr: Interval of λ; from that of t_max to that of t_min if not given.
        options: The options `t_min`, `t_max`, `scaling` and `batch_size`; keywords replace its values. The scaling is
            the covariance Σ of G, `CovarianceScaling()` if not given.
        **keywords: These options by name. All others are conditions for the model; tensors of length B are split with
            the batch.

    Raises:
        ValueError: Samples that are not finite, fewer than 2 draws, or an interval outside the model's.
        LikelihoodError: An error that is not finite.
    """
    options, cond = FlowOptions.split(denoising_information, model, options, keywords, BOUND_OPTIONS)
    data = NoisyData([model], x, [cond], options, draws, seed, first, log_snr)
    return _of_errors(data, data.means(_excess, normal=True)[0])


def _of_errors(data: NoisyData, h: Tensor) -> DenoisingInformation:
    """The log-densities from h `(B, n)` at the levels of the data.

    Raises:
        LikelihoodError: An error that is not finite.
    """
    terms, tail, normal = h * data.lengths, -tail_of(h, data), data.normal_log_prob() + data.log_det
    stderr = collapsed_variance(terms).sqrt()
    log_prob = normal - terms.sum(1) + tail
    result = DenoisingInformation(
        log_prob, stderr, tail, normal, terms, data.normal_error(), data.log_snr, data.edges, data.nfe
    )
    check_finite(h, data, result)
    return result


def _excess(eps: Tensor, predictions: list[Tensor]) -> Tensor:
    """h `(1, b)` of one draw."""
    predicted, normal = predictions
    return error_above(eps, predicted, normal)[None]


def tail_of(h: Tensor, data: NoisyData) -> Tensor:
    """The integral `(B,)` of h `(B, n)` beyond the largest λ, where h falls as v = e^(−2λ)."""
    beyond: Tensor = 0.5 * h[:, -1] * (2 * (data.log_snr[:, -1] - data.edges[-1])).exp()
    return beyond


def integral_of(h: Tensor, data: NoisyData) -> Tensor:
    """The integral `(B,)` over all λ of the difference h `(B, n)` of two models.

    Below the smallest λ the difference of their means is left, for which h falls as 1/v.
    """
    below = 0.5 * h[:, 0] * (2 * (data.edges[0] - data.log_snr[:, 0])).exp()
    return (h * data.lengths).sum(1) + below + tail_of(h, data)


def check_finite(h: Tensor, data: NoisyData, result: Any) -> None:
    """Reject errors `(B, n)` that are not finite.

    Raises:
        LikelihoodError: Such errors, with the first sample and noise level, and the result of all samples.
    """
    broken = (~h.isfinite()).nonzero()
    if not len(broken):
        return
    rows = broken[:, 0].unique()
    level, status = float(data.log_snr[tuple(broken[0].tolist())]), torch.full((len(h),), int(Status.ARRIVED))
    samples = data.indices[rows.cpu()].tolist()
    raise LikelihoodError(
        f"the error of denoising is not finite for {len(rows)} of {len(h)} samples, the first of them sample "
        f"{samples[0]} at log SNR {level:.3g} (noise of {math.exp(-level):.3g}): check the model there",
        samples,
        status.index_fill(0, rows.cpu(), int(Status.NOT_FINITE)),
        result,
    )
