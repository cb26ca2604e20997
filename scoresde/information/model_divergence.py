"""The Kullback-Leibler divergence of one model's density from another's, by noise level.

With x of the density p, and both scores exact,

    KL(p ‖ q) = ½ ∫ g² E‖∇ log p_t − ∇ log q_t‖² dt + KL(p_T ‖ q_T) = ∫ E‖ε̂_p − ε̂_q‖² dλ             (scores)
              = ∫ E[‖ε̂_q − ε‖² − ‖ε̂_p − ε‖²] dλ                                              (denoising errors)

over all λ = log SNR (Song, Durkan, Murray & Ermon 2021, theorem 1, an equality for exact scores; Kong et al. 2023).
The first is a mean of squares, with little scatter. The second is a log-density ratio at every x. They are one where
ε̂_p is the noise prediction of the density that x comes from; the difference says how far it is not.

References:
    Maximum likelihood training of score-based diffusion models (Song, Durkan, Murray & Ermon 2021), theorem 1,
    https://arxiv.org/abs/2101.09258
    Information-theoretic diffusion (Kong et al. 2023), https://arxiv.org/abs/2302.03792
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.information.denoising import check_finite, integral_of
from scoresde.information.paths import NoisyData, error_above, log_snr_range
from scoresde.likelihood.errors import warn_caller
from scoresde.likelihood.options import BOUND_OPTIONS, FlowOptions
from scoresde.numerics.html import mean_with_error, table
from scoresde.numerics.means import mean_and_error
from scoresde.numerics.paired import PairedDifference
from scoresde.score import ScoreModel

__all__ = ["ModelDivergence", "kl_divergence"]

# Share of the longer range of λ in common, below which a warning says so.
_LITTLE = 0.5


@dataclass(frozen=True)
class ModelDivergence:
    """How far the density of a second model is from that of a first, in nats, at samples of the first.

    Attributes:
        squares: ∫ E‖ε̂_p − ε̂_q‖² dλ of each sample, `(B,)` float64.
        log_ratio: log p(x) − log q(x) by errors of denoising, `(B,)`.
        by_level: The parts of `squares` in the strata of λ, `(B, n)`.
        ratio_by_level: The parts of `log_ratio` there, `(B, n)`.
        edges: Edges of the strata of λ, `(n + 1,)`, increasing from noise to data.
        nfe: Evaluations of each model for a sample.
    """

    squares: Tensor
    log_ratio: Tensor
    by_level: Tensor
    ratio_by_level: Tensor
    edges: Tensor
    nfe: int

    @property
    def by_scores(self) -> tuple[float, float]:
        """The divergence by scores, in nats, and its standard error over samples."""
        return mean_and_error(self.squares)

    @property
    def by_errors(self) -> tuple[float, float]:
        """The divergence by errors of denoising, in nats, and its standard error over samples."""
        return mean_and_error(self.log_ratio)

    @cached_property
    def gap(self) -> PairedDifference:
        """What the divergence by errors is more than that by scores: 0 where the first model is that of the samples."""
        return PairedDifference(self.squares, self.log_ratio)

    @property
    def agree(self) -> bool:
        """True if the two are within three standard errors of each other, or one sample does not tell."""
        return not abs(self.gap.mean) > 3 * self.gap.stderr

    def __repr__(self) -> str:
        return (
            f"ModelDivergence({mean_with_error(self.squares)} nats by scores, {mean_with_error(self.log_ratio)} by "
            f"errors, n={len(self.squares)}, nfe {self.nfe})"
        )

    def _repr_html_(self) -> str:
        note = "" if self.agree else "The two differ: the samples are not of the first model's density."
        rows = [
            ("by scores", f"{mean_with_error(self.squares)} nats"),
            ("by denoising errors", f"{mean_with_error(self.log_ratio)} nats"),
            ("samples, evaluations of each model", f"{len(self.squares)}, {self.nfe}"),
        ]
        return table("Kullback-Leibler divergence of two models", rows, note)


@checked
@torch.no_grad()
def kl_divergence(
    model: ScoreModel,
    other: ScoreModel,
    x: Tensor,
    *,
    conditions: Mapping[str, Any] | None = None,
    other_conditions: Mapping[str, Any] | None = None,
    draws: int = 64,
    seed: int = 0,
    first: int = 0,
    log_snr: tuple[float, float] | None = None,
    options: FlowOptions | None = None,
    **keywords: Any,
) -> ModelDivergence:
    """KL(p ‖ q) of the densities of two models, from their predictions at the same noise of samples of the first.

    The models may have different SDEs. With held-out data in place of samples of the first model, `log_ratio` is still
    the difference of log-densities on these data, and `squares` a distance of the scores there.

    Args:
        model: The model of p.
        other: The model of q, of the same data in the same units.
        x: Samples of the first model `(B, ...)` in the data's units.
        conditions: Conditions of the first model by name.
        other_conditions: Conditions of the other.
        draws: Number of noise levels for each sample, each with a noise and its negative.
        seed: Seed of the draws.
        first: Index of the first sample.
        log_snr: Interval of λ; the common one of both models if not given.
        options: The options `t_min`, `t_max`, `scaling` and `batch_size`; keywords replace its values.
        **keywords: These options by name, and conditions of both models.

    Raises:
        ValueError: Models of data of different shapes or units, or whose ranges of λ do not overlap.
        LikelihoodError: An error that is not finite.
    """
    options, cond = FlowOptions.split(kl_divergence, model, options, keywords, BOUND_OPTIONS)
    conds = [{**cond, **(conditions or {})}, {**cond, **(other_conditions or {})}]
    if log_snr is None:
        _warn_of_little_overlap([log_snr_range(each, options.t_min, options.t_max) for each in (model, other)])
    data = NoisyData([model, other], x, conds, options, draws, seed, first, log_snr)
    squares, ratio = data.means(_terms)
    parts = squares * data.lengths, ratio * data.lengths
    totals = integral_of(squares, data), integral_of(ratio, data)
    result = ModelDivergence(*totals, *parts, data.edges, data.nfe)
    check_finite(squares + ratio, data, result)
    return result


def _warn_of_little_overlap(known: Sequence[tuple[float, float]]) -> None:
    """Warn if a model knows twice the range of λ that both know: the divergence may be at the other levels."""
    low, high = max(ends[0] for ends in known), min(ends[1] for ends in known)
    longest = max(ends[1] - ends[0] for ends in known)
    if 0 < high - low < _LITTLE * longest:
        told = " and ".join(f"{a:.3g} to {b:.3g}" for a, b in known)
        warn_caller(
            f"the models know the log SNRs {told}, and what they differ by outside of {low:.3g} to {high:.3g} is "
            "not in the divergence"
        )


def _terms(eps: Tensor, predictions: list[Tensor]) -> Tensor:
    """‖ε̂_p − ε̂_q‖² and ‖ε̂_q − ε‖² − ‖ε̂_p − ε‖² of one draw, `(2, b)`."""
    own, other = predictions
    return torch.stack(((other - own).square().sum(1), error_above(eps, other, own)))
