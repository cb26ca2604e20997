"""Classifier-free guidance: beyond the conditional prediction, away from the unconditional one."""

from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.guidance.pair import PairGuided
from scoresde.score import ScoreModel

__all__ = ["ClassifierFree"]


@checked
class ClassifierFree(PairGuided):
    """A conditional model, guided by its difference to the unconditional one (Ho & Salimans 2022, eq. 6).

        D = D(x) + w (D(x | c) − D(x)),

    and the same for every other prediction. w = 1 is the conditional model and w = 0 the unconditional one; the paper's
    scale is w − 1. Samples for w > 1 look more like those of c and less like each other. They are of no density that is
    known: not of p(x | c)^w p(x)^(1 − w), whose noised scores are others.

    Both predictions come from one call of the network, on twice the batch; outside of `interval` only the conditional
    one is asked for. An interval such as (0.2, 5) keeps more of the variety of samples (Kynkäänniemi et al. 2024).

    `rescale` gives a share φ of the guided prediction the standard deviation of the conditional one, sample by sample
    (Lin et al. 2024, eq. 15 and 16), here of the denoised mean:

        D ← φ D std(D(x | c))/std(D) + (1 − φ) D.

    `zero_star` takes the unconditional velocity with the scale that suits the conditional one best (CFG-Zero*, Fan et
    al. 2025), u of the rectified flow at the same noise, so that it is the same under any SDE:

        u = s u(x) + w (u(x | c) − s u(x)),    s = ⟨u(x | c), u(x)⟩/|u(x)|²,    u = ε − D.

    Args:
        model: The conditional model.
        scale: The scale w.
        unconditional: The unconditional model, under any SDE; if not given, `model` without its conditions.
        interval: The smallest and the largest noise level σ/α with guidance; all if not given.
        rescale: The share φ, 0 to 1.
        zero_star: Whether the unconditional velocity is scaled.
        batched: Whether both predictions come from one call, where they are of one network; two calls need less memory.

    Raises:
        ValueError: A scale that is not a finite number, a share outside [0, 1], an interval outside of the schedule, a
            model that was trained without dropped conditions, or an unconditional model of samples of another shape or
            in other units; in use, no conditions.

    The class of mean 1 in a mixture of two:

    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import EDMSDE
    >>> both = GaussianMixtureScore([0.5, 0.5], [[1.0], [-1.0]], [0.1, 0.1], EDMSDE())
    >>> one = GaussianMixtureScore([1.0], [[1.0]], [0.1], EDMSDE())
    >>> x, t = torch.zeros(1, 1), torch.tensor(1.0)
    >>> [round(m.denoise(x, t).item(), 3) for m in (both, one, ClassifierFree(one, 3.0, both))]
    [0.0, 0.909, 2.727]

    References:
        Ho & Salimans 2022, Classifier-free diffusion guidance, https://arxiv.org/abs/2207.12598
        Kynkäänniemi et al. 2024, Applying guidance in a limited interval improves sample and distribution quality in
            diffusion models, https://arxiv.org/abs/2404.07724
        Lin et al. 2024, Common diffusion noise schedules and sample steps are flawed, https://arxiv.org/abs/2305.08891
        Fan et al. 2025, CFG-Zero*: improved classifier-free guidance for flow matching models,
            https://arxiv.org/abs/2503.18886
    """

    def __init__(
        self,
        model: ScoreModel,
        scale: float = 2.0,
        unconditional: ScoreModel | None = None,
        *,
        interval: Sequence[float] | None = None,
        rescale: float = 0.0,
        zero_star: bool = False,
        batched: bool = True,
    ) -> None:
        if not 0 <= rescale <= 1:
            raise ValueError(f"rescale is {rescale}, expected a share from 0 to 1")
        super().__init__(model, unconditional, scale, interval, batched)
        self.rescale, self.zero_star = float(rescale), zero_star
        self.linear = not (rescale or zero_star)

    def _parts(self) -> list[str]:
        options = [f"rescale={self.rescale:g}"] * (self.rescale > 0) + ["zero_star=True"] * self.zero_star
        return [*super()._parts(), *options]

    def _guided(self, weak: Tensor, strong: Tensor, weight: Tensor | float, state: Tensor) -> Tensor:
        if self.zero_star:
            # Of u, up to a factor that both have: x/(α + σ) − D = (σ/(α + σ)) u.
            first, second = state - weak, state - strong
            square = first.square().flatten(1).sum(1)
            best = (first * second).flatten(1).sum(1) / square.clamp_min(torch.finfo(square.dtype).tiny)
            weak = state - best.reshape(-1, *[1] * (first.ndim - 1)) * first
        guided = torch.lerp(weak, strong, weight)
        if self.rescale == 0:
            return guided
        wanted, found = (v.flatten(1).std(1, keepdim=True) for v in (strong, guided))
        factor = torch.lerp(torch.ones_like(found), wanted / found, self.rescale)
        return factor.reshape(-1, *[1] * (guided.ndim - 1)) * guided
