"""The information that labels have about the data, where the density without labels is the mixture of the classes.

    log p(x | y) − log p(x) = −log Σ_k π_k e^(−Δ_k),
    Δ_k = log p(x | y) − log p(x | k) = ∫ E[‖ε̂_k − ε‖² − ‖ε̂_y − ε‖²] dλ,

with the predictions for all classes at the same noise. It needs no prediction without labels, and its mean is at most
the entropy of the labels but for the error of the draws. The weights of the sum are the probabilities p(k | x) of the
classes, so that the model is a classifier (Li et al. 2023).

References:
    Information-theoretic diffusion (Kong et al. 2023), https://arxiv.org/abs/2302.03792
    Your diffusion model is secretly a zero-shot classifier (Li et al. 2023), https://arxiv.org/abs/2303.16203
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.information.denoising import check_finite, integral_of
from scoresde.information.paths import NoisyData, error_above
from scoresde.information.pointwise import PointwiseInformation
from scoresde.likelihood.options import BOUND_OPTIONS, FlowOptions
from scoresde.numerics.html import table, with_error
from scoresde.numerics.means import collapsed_variance, mean_and_error
from scoresde.score import ScoreModel

__all__ = ["ClassInformation", "class_information"]


@dataclass(frozen=True)
class ClassInformation(PointwiseInformation):
    """The information that labels have about samples, from predictions for every class.

    Attributes:
        nats: log p(x | y) − log p(x) of each sample, `(B,)` float64.
        stderr: Standard errors of `nats` from the draws, `(B,)`.
        posterior: Probabilities p(k | x) of the classes, `(B, K)`.
        labels: The labels, `(B,)`.
        nfe: Evaluations of the model for each sample.
    """

    posterior: Tensor
    labels: Tensor
    nfe: int

    @property
    def accuracy(self) -> tuple[float, float]:
        """The share of samples whose most probable class is their label, and its standard error."""
        return mean_and_error((self.posterior.argmax(1) == self.labels).double())

    def __repr__(self) -> str:
        return f"ClassInformation({self._means()}, accuracy {self.accuracy[0]:.3g}, n={len(self.nats)}, nfe {self.nfe})"

    def _repr_html_(self) -> str:
        rows = [
            *self._rows(),
            ("labels that are the most probable class", with_error(*self.accuracy)),
            ("samples, evaluations of each", f"{len(self.nats)}, {self.nfe}"),
        ]
        return table("Information of the labels", rows)


@checked
@torch.no_grad()
def class_information(
    model: ScoreModel,
    x: Tensor,
    labels: Tensor,
    *,
    prior: Tensor | None = None,
    name: str = "labels",
    draws: int = 64,
    seed: int = 0,
    first: int = 0,
    log_snr: tuple[float, float] | None = None,
    options: FlowOptions | None = None,
    **keywords: Any,
) -> ClassInformation:
    """The information that labels have about each sample, by the model's predictions for all classes.

    The logarithm of a sum of estimates is too small by half of their variance; that is subtracted as the two halves of
    the strata, each with twice the variance, tell it (the jackknife of Quenouille 1956).

    Args:
        model: A score model with a condition of integers from 0 to K − 1.
        x: Samples `(B, ...)` in the data's units.
        labels: Their classes, `(B,)` integers.
        prior: Probabilities π_k of the classes, `(K,)`, up to a factor; if not given, all the same, for as many classes
            as the model has.
        name: Name of the condition.
        draws: Number of noise levels for each sample, with 2 (K + 1) evaluations each.
        seed: Seed of the draws.
        first: Index of the first sample.
        log_snr: Interval of λ; from that of t_max to that of t_min if not given.
        options: The options `t_min`, `t_max`, `scaling` and `batch_size`; keywords replace its values.
        **keywords: These options by name, and other conditions of the model.

    Raises:
        ValueError: A model without classes, labels that are none of them, or a prior that is not positive.
        LikelihoodError: An error that is not finite.
    """
    options, cond = FlowOptions.split(class_information, model, options, keywords, BOUND_OPTIONS)
    if prior is None:
        if model.classes is None:
            raise ValueError(f"the model knows of no classes: give their prior, if it takes {name}, or another model")
        prior = torch.ones(model.classes)
    if prior.ndim != 1 or len(prior) < 2 or not bool((prior > 0).all()):
        raise ValueError(f"prior is {prior.tolist()}, expected a positive number for each of two classes or more")
    if model.classes not in (None, len(prior)):
        raise ValueError(
            f"prior has {len(prior)} entries, expected one for each of the model's {model.classes} classes"
        )
    weights = (prior.double() / prior.double().sum()).to(x.device)
    classes = len(weights)
    if labels.shape != (len(x),) or labels.is_floating_point() or not bool(((labels >= 0) & (labels < classes)).all()):
        kind = f"labels of shape {tuple(labels.shape)} and {str(labels.dtype).removeprefix('torch.')}"
        raise ValueError(f"{kind} must be ({len(x)},) integers from 0 to {classes - 1}")
    labels = labels.to(x.device).long()
    every = [torch.full_like(labels, k) for k in range(classes)]
    conds = [{**cond, name: value} for value in (labels, *every)]
    data = NoisyData([model] * (classes + 1), x, conds, options, draws, seed, first, log_snr)
    h = data.means(_above_own)
    rows = torch.arange(len(x), device=h.device)
    own = labels.to(h.device)
    h[own, rows] = 0.0
    log_prior = weights.log().to(h.device)
    above = torch.stack([integral_of(each, data) for each in h], 1)
    joint = log_prior - above
    posterior = joint.softmax(1)
    beyond = above - (h * data.lengths).sum(2).mT
    halves = []
    for half in (slice(0, None, 2), slice(1, None, 2)):
        lengths = torch.zeros_like(data.lengths)
        lengths[half] = 2 * data.lengths[half]
        halves.append(-(log_prior - (h * lengths).sum(2).mT - beyond).logsumexp(1))
    nats = -2 * joint.logsumexp(1) - (halves[0] + halves[1]) / 2
    stderr = collapsed_variance(torch.einsum("bk,kbn->bn", posterior, h * data.lengths)).sqrt()
    result = ClassInformation(nats, stderr, posterior, own, (classes + 1) * data.nfe)
    check_finite(h.sum(0), data, result)
    return result


def _above_own(eps: Tensor, predictions: list[Tensor]) -> Tensor:
    """‖ε̂_k − ε‖² − ‖ε̂_y − ε‖² of one draw for every class, `(K, b)`."""
    own, *every = predictions
    return torch.stack([error_above(eps, each, own) for each in every])
