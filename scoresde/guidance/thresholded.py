"""Thresholding of the denoised mean, which keeps strongly guided samples within the range of the data."""

from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import fraction, positive
from scoresde.score import ScoreModel
from scoresde.sde import expand_to

__all__ = ["Thresholded"]


@checked
class Thresholded(ScoreModel):
    """A model whose denoised means are kept within a range (Saharia et al. 2022, section 2.3).

    With b the limit and s the q-quantile of |D| over the elements of a sample, where it is above b,

        D ← b clip(D, −s, s)/s.

    That is dynamic thresholding: elements are pulled inwards together. With q = 0, s = b: elements beyond the limit are
    cut off there (static thresholding).

    Args:
        model: The model, such as one under `ClassifierFree`.
        quantile: The quantile q, 0 to 1; 0.995 in the authors' experiments.
        limit: The largest magnitude b of the data, in model space.

    Raises:
        ValueError: A quantile outside [0, 1], or a limit that is not positive.

    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import EDMSDE
    >>> model = GaussianMixtureScore([1.0], [[0.5, -4.0]], [0.0001], EDMSDE())
    >>> x, t = torch.zeros(1, 2), torch.tensor(1.0)
    >>> for q in (0.0, 1.0):
    ...     print([round(v, 2) for v in Thresholded(model, q).denoise(x, t)[0].tolist()])
    [0.5, -1.0]
    [0.12, -1.0]

    References:
        Saharia et al. 2022, Photorealistic text-to-image diffusion models with deep language understanding,
            https://arxiv.org/abs/2205.11487
    """

    def __init__(self, model: ScoreModel, quantile: float = 0.995, limit: float = 1.0) -> None:
        if quantile:
            fraction("quantile", quantile)
        positive("limit", limit)
        super().__init__(model.sde, model.statistics)
        self.model, self.quantile, self.limit = model, float(quantile), float(limit)

    @property
    def is_score(self) -> bool:
        return False

    @property
    def has_unconditional(self) -> bool:
        return self.model.has_unconditional

    @property
    def log_snr_range(self) -> tuple[float, float]:
        return self.model.log_snr_range

    def takes_condition(self, name: str) -> bool:
        return self.model.takes_condition(name)

    def _check_names(self, cond: Any) -> None:
        self.model._check_names(cond)

    def for_rows(self, rows: Tensor) -> ScoreModel:
        part = self.model.for_rows(rows)
        return self if part is self.model else Thresholded(part, self.quantile, self.limit)

    def _parts(self) -> list[str]:
        return [self.model._head(), f"quantile={self.quantile:g}", f"limit={self.limit:g}"]

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self._within(self.model.denoise(x, t, **cond))

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        noise = self.model.noise(x, t, **cond)
        fine = torch.as_tensor(t, dtype=torch.float64)
        alpha, sigma = expand_to(self.sde.alpha(fine), x), expand_to(self.sde.sigma(fine), x)
        mean = (x - sigma * noise) / alpha
        # By the change of the mean, so that a mean within the range leaves the noise as it is.
        return noise - alpha / sigma * (self._within(mean) - mean)

    def _within(self, mean: Tensor) -> Tensor:
        if self.quantile == 0:
            return mean.clamp(-self.limit, self.limit)
        # Of float32, since torch has no quantiles of half precision.
        size = mean.detach().abs().flatten(1).to(torch.promote_types(mean.dtype, torch.float32))
        most = size.quantile(self.quantile, dim=1).clamp_min(self.limit).to(mean.dtype)
        bound = most.reshape(-1, *[1] * (mean.ndim - 1))
        return mean.clamp(-bound, bound) * (self.limit / bound)
