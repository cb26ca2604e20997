"""The information that a condition has about the data, pointwise and in the mean.

    I(x; y) = log p(x | y) − log p(x) = ∫ E[‖ε̂ − ε‖² − ‖ε̂(y) − ε‖²] dλ,

with the predictions without and with the condition, both at the same noise: the errors of what they have in common
cancel. The mean over data and conditions is the mutual information, for exact scores. For networks it is an estimate
that may lie on either side: either prediction may be the worse trained one.

References:
    Information-theoretic diffusion (Kong et al. 2023), https://arxiv.org/abs/2302.03792
    Interpretable diffusion via information decomposition (Kong et al. 2024), https://arxiv.org/abs/2310.07972
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.information.denoising import check_finite, integral_of
from scoresde.information.paths import NoisyData, error_above
from scoresde.information.pointwise import PointwiseInformation
from scoresde.likelihood.options import BOUND_OPTIONS, FlowOptions
from scoresde.numerics.html import rms, table
from scoresde.numerics.means import collapsed_variance
from scoresde.score import NetworkScore, ScoreModel

__all__ = ["ConditionalInformation", "conditional_information"]


@dataclass(frozen=True)
class ConditionalInformation(PointwiseInformation):
    """The information that conditions have about samples; every tensor has one entry (row) for each sample.

    Attributes:
        nats: log p(x | y) − log p(x), `(B,)` float64. It is negative where the condition makes the sample less likely.
        stderr: Standard errors of `nats` from the draws, `(B,)`.
        gained: Nats in every stratum of λ, `(B, n)`; `nats` is their sum, and what lies beyond the
            range of λ.
        edges: Edges of the strata of λ, `(n + 1,)`, increasing from noise to data.
        nfe: Evaluations of the model for each sample.
    """

    gained: Tensor
    edges: Tensor
    nfe: int

    def __repr__(self) -> str:
        draws = f"draw stderr {rms(self.stderr):.2g} per sample"
        return f"ConditionalInformation({self._means()}, n={len(self.nats)}, {draws}, nfe {self.nfe})"

    def _repr_html_(self) -> str:
        rows = [
            *self._rows(),
            ("samples with less than none", str(int((self.nats < 0).sum()))),
            ("samples, evaluations of each", f"{len(self.nats)}, {self.nfe}"),
        ]
        return table("Information of the condition", rows)


@checked
@torch.no_grad()
def conditional_information(
    model: ScoreModel,
    x: Tensor,
    condition: Mapping[str, Any],
    *,
    without: Mapping[str, Any] | None = None,
    unconditional: ScoreModel | None = None,
    draws: int = 64,
    seed: int = 0,
    first: int = 0,
    log_snr: tuple[float, float] | None = None,
    options: FlowOptions | None = None,
    **keywords: Any,
) -> ConditionalInformation:
    """The information that a condition, such as labels, has about each sample, and in the mean about all.

    Args:
        model: The score model.
        x: Samples `(B, ...)` in the data's units.
        condition: Conditions by name, such as `{"labels": y}`; tensors have an entry for each sample.
        without: Conditions in their place for log p(x); none if not given, as for a network that was trained with
            `label_dropout`.
        unconditional: Model of log p(x), of the same data; the same model if not given.
        draws: Number of noise levels for each sample, each with a noise and its negative.
        seed: Seed of the draws.
        first: Index of the first sample.
        log_snr: Interval of λ; from that of t_max to that of t_min if not given.
        options: The options `t_min`, `t_max`, `scaling` and `batch_size`; keywords replace its values.
        **keywords: These options by name, and conditions that are the same with and without.

    Raises:
        ValueError: No condition, a model that takes none or none of this name, one that has no prediction without, or
            an unconditional model of data of another shape or in other units.
        LikelihoodError: An error that is not finite.
    """
    options, cond = FlowOptions.split(conditional_information, model, options, keywords, BOUND_OPTIONS)
    if not condition:
        raise ValueError("condition is empty: give the condition of each sample, such as {'labels': y}")
    for name in condition:
        no_classes = name == "labels" and isinstance(model, NetworkScore) and model.classes is None
        if no_classes or not model.takes_condition(name):
            of = "conditional information of an unconditional model: it" if model.classes is None else "the model"
            raise ValueError(f"{of} takes no {name}; give a condition that it takes, or a model that takes it")
    other = model if unconditional is None else unconditional
    models, conds = [other, model], [{**cond, **(without or {})}, {**cond, **condition}]
    data = NoisyData(models, x, conds, options, draws, seed, first, log_snr)
    h = data.means(_difference)[0]
    gained = h * data.lengths
    result = ConditionalInformation(
        integral_of(h, data), collapsed_variance(gained).sqrt(), gained, data.edges, 2 * data.nfe
    )
    check_finite(h, data, result)
    return result


def _difference(eps: Tensor, predictions: list[Tensor]) -> Tensor:
    """‖ε̂ − ε‖² − ‖ε̂(y) − ε‖² `(1, b)` of one draw, without and with the condition."""
    plain, given = predictions
    return error_above(eps, plain, given)[None]
