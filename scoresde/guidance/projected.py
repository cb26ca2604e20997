"""Adaptive projected guidance: classifier-free guidance without the part that oversaturates."""

from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.guidance.pair import PairGuided
from scoresde.numerics.values import positive
from scoresde.score import ScoreModel

__all__ = ["AdaptiveProjected"]


@checked
class AdaptiveProjected(PairGuided):
    """Classifier-free guidance with a bounded difference, most of which is orthogonal to the prediction (APG).

    With Δ = D(x | c) − D(x), its length bounded by r, and its part Δ∥ along D(x | c) (Sadat et al. 2025),

        D = D(x | c) + (w − 1) (Δ − (1 − η) Δ∥),    Δ ← Δ min(1, r/|Δ|).

    η = 1 without a bound is classifier-free guidance. The part along D makes samples of a large scale too strong in
    contrast. The paper's momentum, by which a prediction depends on those before it, is no function of x and is left
    out. w = 0 is the unconditional model.

    Args:
        model: The conditional model.
        scale: The scale w.
        unconditional: The unconditional model, under any SDE; if not given, `model` without its conditions.
        interval: The smallest and the largest noise level σ/α with guidance; all if not given.
        parallel: The share η of the part along D that is kept.
        threshold: The largest length r of Δ, in model space; none if not given.
        batched: Whether both predictions come from one call, where they are of one network.

    Raises:
        ValueError: A share that is not a finite number, a threshold that is not positive, or as `ClassifierFree`.

    References:
        Sadat et al. 2025, Eliminating oversaturation and artifacts of high guidance scales in diffusion models,
            https://arxiv.org/abs/2410.02416
    """

    linear = False

    def __init__(
        self,
        model: ScoreModel,
        scale: float = 2.0,
        unconditional: ScoreModel | None = None,
        *,
        interval: Sequence[float] | None = None,
        parallel: float = 0.0,
        threshold: float | None = None,
        batched: bool = True,
    ) -> None:
        if threshold is not None:
            positive("threshold", threshold)
        super().__init__(model, unconditional, scale, interval, batched)
        self.parallel, self.threshold = float(parallel), threshold

    def _parts(self) -> list[str]:
        bound = [] if self.threshold is None else [f"threshold={self.threshold:g}"]
        return [*super()._parts(), f"parallel={self.parallel:g}", *bound]

    def _guided(self, weak: Tensor, strong: Tensor, weight: Tensor | float, state: Tensor) -> Tensor:
        difference, along = (strong - weak).flatten(1), strong.flatten(1)
        tiny = torch.finfo(along.dtype).tiny
        if self.threshold is not None:
            length = difference.norm(dim=1, keepdim=True).clamp_min(tiny)
            difference = difference * (self.threshold / length).clamp_max(1)
        square = along.square().sum(1, keepdim=True).clamp_min(tiny)
        share = (difference * along).sum(1, keepdim=True) / square
        change = difference - (1 - self.parallel) * share * along
        return strong + (weight - 1) * change.reshape(strong.shape)
