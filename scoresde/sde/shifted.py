"""SDEs whose noise is larger by a factor at every time, as images of more pixels need."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import positive
from scoresde.sde.base import SDE, as_time
from scoresde.sde.erasure_sde import learned_rates

__all__ = ["ShiftedSDE", "resolution_shift"]


@checked
class ShiftedSDE(SDE):
    """An SDE whose noise level σ/α is k times that of another at every time t.

    It runs through the scales of the other SDE at other times s(t), so that its kind stays: a variance-preserving SDE
    keeps α² + σ² = 1, an interpolant α + σ = 1, and a variance-exploding SDE α = 1.

        λ(t) = λ₀(t) − log k
        t(λ) = t₀(λ + log k)
        s(t) = t₀(λ(t))
        α(t) = α₀(s),  σ(t) = σ₀(s)
        g(t) = σ(t) g₀(t)/σ₀(t)
        f(t) = f₀(s) s′,  s′(t) = (g₀(t)/σ₀(t))²/(g₀(s)/σ₀(s))²

    For rectified flow s = k t/(1 + (k − 1) t), the shift of timesteps of Esser et al. 2024, eq. 23; for the cosine
    schedule it is the shift of the log-SNR of Hoogeboom et al. 2023. The same pixels of an image that is larger tell
    more of it, and noise hides as much as before if it grows as `resolution_shift` says.

    Nothing changes for a network that knows the noise by its level, but the levels at which it is trained and sampled:
    grids and `times` that are uniform in t have more of them at large noise. Those in σ/α or λ change by their ends
    alone.

    Args:
        sde: The SDE that is shifted, on whose interval this one is.
        factor: The factor k of σ/α; 1 for none, above 1 for more noise.

    Raises:
        ValueError: A factor that is not positive, an SDE with learned rates, or one that is shifted already.

    References:
        Esser et al. 2024, Scaling rectified flow transformers for high-resolution image synthesis,
            https://arxiv.org/abs/2403.03206
        Hoogeboom et al. 2023, Simple diffusion: end-to-end diffusion for high resolution images,
            https://arxiv.org/abs/2301.11093

    >>> from scoresde.sde import FlowSDE
    >>> sde = ShiftedSDE(FlowSDE(), 3.0)
    >>> t = torch.tensor(0.5, dtype=torch.float64)
    >>> print(f"{sde.alpha(t):.2f} {sde.sigma(t):.2f} {sde.noise_level(t):.2f}")
    0.25 0.75 3.00
    """

    factor: float

    def __init__(self, sde: SDE, factor: float) -> None:
        positive("factor", factor)
        if learned_rates(sde) is not None:
            raise ValueError(f"{sde} has learned rates, which a shift would undo: take learned=False")
        if isinstance(sde, ShiftedSDE):
            product: float = sde.factor * factor
            raise ValueError(f"{sde} is shifted already: shift its sde once, by the product {product:g}")
        # A factor below 1 has less noise at t_min than the SDE itself, where nothing is wrong with it.
        self.sde = sde.reaching(float(sde.log_snr(torch.tensor(sde.t_max, dtype=torch.float64))) - math.log(factor))
        self.factor = factor
        super().__init__(sde.t_min, sde.t_max, sde.t_min_sampling)

    def _rate(self, t: Tensor) -> Tensor:
        """−2 dλ₀/dt = (g₀/σ₀)², which the shift leaves as it is."""
        return (self.sde.diffusion(t) / self.sde.sigma(t)) ** 2

    def _scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.sde.scales(self.log_snr(t.double()))

    def alpha(self, t: Tensor) -> Tensor:
        t = as_time(t)
        return self._scales(t)[0].to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        t = as_time(t)
        return self._scales(t)[1].to(t.dtype)

    def log_snr(self, t: Tensor) -> Tensor:
        t = as_time(t)
        return (self.sde.log_snr(t.double()) - math.log(self.factor)).to(t.dtype)

    def time(self, log_snr: Tensor) -> Tensor:
        log_snr = as_time(log_snr)
        return self.sde.time(log_snr.double() + math.log(self.factor)).to(log_snr.dtype)

    def scales(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        return self.sde.scales(log_snr)

    def drift_coefficient(self, t: Tensor) -> Tensor:
        t = as_time(t)
        fine = t.double()
        inner = self.sde.time(self.log_snr(fine))
        # f₀ and the rate of the other SDE may both grow without bound at its end, and their ratio does not.
        return (self.sde.drift_coefficient(inner) / self._rate(inner) * self._rate(fine)).to(t.dtype)

    def diffusion(self, t: Tensor) -> Tensor:
        t = as_time(t)
        fine = t.double()
        return (self._scales(fine)[1] * self._rate(fine).sqrt()).to(t.dtype)


def resolution_shift(shape: Sequence[int], reference: Sequence[int]) -> float:
    """The factor of σ/α by which samples of a shape need more noise than those of a reference: √(n/n₀).

    n and n₀ are the numbers of pixels, so that the factor is the ratio of the sides of square images. Averages over
    the same part of an image then have the same ratio of signal to noise.

    Args:
        shape: Shape of a sample, channels first, `(C, ...)`.
        reference: Shape of the samples for which the schedule was made, of as many dimensions.

    Raises:
        ValueError: Shapes without pixels, or of different numbers of dimensions.

    References:
        Hoogeboom et al. 2023, Simple diffusion: end-to-end diffusion for high resolution images,
            https://arxiv.org/abs/2301.11093

    >>> resolution_shift((3, 256, 256), (3, 64, 64))
    4.0
    """
    if len(shape) != len(reference) or len(shape) < 2 or min(*shape, *reference) < 1:
        raise ValueError(
            f"shape is {tuple(shape)} and reference {tuple(reference)}, expected two shapes (channels, ...) of as many "
            "dimensions, such as (3, 256, 256) and (3, 64, 64)"
        )
    return math.sqrt(math.prod(shape[1:]) / math.prod(reference[1:]))
