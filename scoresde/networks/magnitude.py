"""Layers that preserve the magnitude of their input, the root mean square of its elements (Karras et al. 2024).

With weights of unit norm for every output, a layer maps features of magnitude 1 that are not correlated to features of
magnitude 1. Sums, concatenations and non-linearities divide by what they add, so that no normalisation of features is
needed, and weights and features neither grow nor shrink in training.

References:
    Karras et al. 2024, Analyzing and improving the training dynamics of diffusion models,
        https://arxiv.org/abs/2312.02696
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde.arguments import checked
from scoresde.numerics.values import at_least

__all__ = [
    "MagnitudeConv",
    "MagnitudeFourier",
    "MagnitudeLabels",
    "MagnitudeLinear",
    "magnitude_cat",
    "magnitude_silu",
    "magnitude_sum",
    "unit_magnitude",
]

_EPS = 1e-4
_SILU = 0.596  # root mean square of silu(x) for a standard normal x


def unit_magnitude(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """x over its root mean square along the dimensions, x/(10⁻⁴ + √mean x²)."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / (_EPS + norm * math.sqrt(norm.numel() / x.numel())).to(x.dtype)


def magnitude_silu(x: Tensor) -> Tensor:
    """silu(x)/0.596, of unit magnitude for a standard normal x (Karras et al. 2024, eq. 81)."""
    return F.silu(x) / _SILU


def magnitude_sum(a: Tensor, b: Tensor, share: float) -> Tensor:
    """((1 − t) a + t b)/√((1 − t)² + t²) with the share t of b (Karras et al. 2024, eq. 88)."""
    return a.lerp(b, share) / math.hypot(1 - share, share)


def magnitude_cat(a: Tensor, b: Tensor, share: float) -> Tensor:
    """The channels of a and b together, with the contributions 1 − t and t to layers that follow.

    Both are scaled so that the whole keeps the magnitude, whatever the numbers of channels N_a and N_b are
    (Karras et al. 2024, eq. 103):

        √((N_a + N_b)/((1 − t)² + t²)) [(1 − t)/√N_a a, t/√N_b b]
    """
    first, second = a.shape[1], b.shape[1]
    whole = math.sqrt(first + second) / math.hypot(1 - share, share)
    return torch.cat((a * (whole * (1 - share) / math.sqrt(first)), b * (whole * share / math.sqrt(second))), dim=1)


class _Weighted(nn.Module):
    """A layer with a weight whose norm for every output is a constant: by eq. 47, with forced normalisation, eq. 66.

    In training mode the stored weight is replaced by its normalised self, so that its norm does not lower the rate of
    learning. The gradient goes through the normalisation and so has no part along the weight.
    """

    def __init__(self, *size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size))

    def normalised(self) -> Tensor:
        """The weight with elements of unit magnitude for every output."""
        dims = tuple(range(1, self.weight.ndim))
        if self.training:
            # By `data`: a second evaluation in one graph changes nothing but the last digit, and is no reason for the
            # backward pass of the first to refuse.
            self.weight.data.copy_(unit_magnitude(self.weight.detach(), dims))
        return unit_magnitude(self.weight, dims)

    def scaled(self, x: Tensor, gain: Tensor | float) -> Tensor:
        """The normalised weight by which the layer keeps magnitudes, times the gain, in the dtype of x."""
        weight = self.normalised()
        return (weight * (gain / math.sqrt(weight[0].numel()))).to(x.dtype)


class MagnitudeLinear(_Weighted):
    """A linear map of `(B, inputs)` to `(B, outputs)`, times a gain.

    Args:
        inputs: Number of inputs.
        outputs: Number of outputs.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(outputs, inputs)

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        return F.linear(x, self.scaled(x, gain))


class MagnitudeConv(_Weighted):
    """A convolution of `(B, inputs, H, W)` to `(B, outputs, H, W)`, times a gain.

    Args:
        inputs: Number of input channels.
        outputs: Number of output channels.
        kernel: Height and width of the kernel, odd.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(outputs, inputs, kernel, kernel)

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        return F.conv2d(x, self.scaled(x, gain), padding=self.weight.shape[-1] // 2)


class MagnitudeLabels(_Weighted):
    """Vectors `(B, outputs)` of unit magnitude for classes `(B,)`: the columns of a weight that is normalised by rows.

    Args:
        classes: Number of classes.
        outputs: Length of the vectors.
    """

    def __init__(self, classes: int, outputs: int) -> None:
        super().__init__(outputs, classes)

    def forward(self, labels: Tensor) -> Tensor:
        return F.embedding(labels, self.normalised().T)


@checked
class MagnitudeFourier(nn.Module):
    """Cosines of the noise level at random frequencies and phases (Karras et al. 2024, eq. 75).

        √2 cos(2π (f_k c + φ_k)),    f_k ~ N(0, bandwidth²),  φ_k ~ U(0, 1)

    They are drawn once, from `seed`, never trained, and saved in the state dict in radians. The module maps c `(B,)` to
    features `(B, dim)`.

    Args:
        dim: Number of features.
        bandwidth: Standard deviation of the frequencies, in cycles per unit of c.
        seed: Seed of the draw.

    Raises:
        ValueError: No feature.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, dim: int, bandwidth: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        at_least("dim", dim, 1)
        self.dim = dim
        generator = torch.Generator("cpu").manual_seed(seed)
        frequencies = torch.randn(dim, generator=generator, device="cpu")
        phases = torch.rand(dim, generator=generator, device="cpu")
        self.register_buffer("frequencies", 2 * math.pi * bandwidth * frequencies)
        self.register_buffer("phases", 2 * math.pi * phases)

    def forward(self, c_noise: Tensor) -> Tensor:
        phase = c_noise[:, None] * self.frequencies + self.phases
        return phase.cos() * math.sqrt(2)
