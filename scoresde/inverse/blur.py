"""Blur: sums over the neighbourhood of each pixel."""

import math
from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.boundaries import Boundary, filter_matrix, source
from scoresde.inverse.hartley import hartley
from scoresde.inverse.operator import LinearOperator
from scoresde.inverse.separable import SeparableOperator
from scoresde.inverse.singular_values import SingularValues, positions_of, spread
from scoresde.numerics.values import one_of, positive

__all__ = ["Blur", "GaussianBlur", "motion_kernel"]


@checked
class GaussianBlur(SeparableOperator):
    """The convolution with a Gaussian, along the axes of the pixels.

    Args:
        shape: The shape of a sample, `(C, H, W)` or `(D,)`.
        std: The standard deviation of the Gaussian in pixels. It is cut off at three of them, and its weights sum to 1.
        boundary: What lies beyond the edges: "circular", "reflect" or "zero".

    Raises:
        ValueError: A standard deviation that is not positive, or a boundary that is not known.
    """

    def __init__(self, shape: Sequence[int], std: float = 1.0, boundary: Boundary = "reflect") -> None:
        positive("std", std)
        radius = max(1, math.ceil(3 * std))
        offsets = torch.arange(-radius, radius + 1)
        weights = torch.exp(-0.5 * (offsets.double() / std).square())
        weights = weights / weights.sum()

        def matrix(size: int) -> Tensor:
            positions = torch.arange(size)[:, None] + offsets
            return filter_matrix(positions, weights.expand_as(positions), size, boundary)

        super().__init__(shape, [None if i == 0 < len(shape) - 1 else matrix(n) for i, n in enumerate(shape)])
        self.std, self.boundary = std, boundary


@checked
class Blur(LinearOperator):
    """The convolution with any kernel, the same for all channels: y[i] = Σⱼ k[j] x[i − j], by Fourier transforms.

    The number in the middle of the kernel, at `size // 2`, is that of j = 0. Singular values are the moduli of the
    transfer function if the boundary is circular; else they are known of small samples alone.

    Args:
        shape: The shape of a sample, `(C, H, W)` or `(D,)`.
        kernel: The kernel, `(h, w)` for images or `(k,)` for vectors.
        boundary: What lies beyond the edges: "circular", "reflect" or "zero".

    Raises:
        ValueError: A kernel of another number of axes than the pixels have, or without finite numbers other than 0;
            or a boundary that is not known.
    """

    real: Tensor
    imaginary: Tensor

    def __init__(self, shape: Sequence[int], kernel: Tensor, boundary: Boundary = "circular") -> None:
        super().__init__(shape, shape)
        pixels = self.shape[1:] if len(self.shape) > 1 else self.shape
        if kernel.ndim != len(pixels):
            raise ValueError(f"kernel has shape {tuple(kernel.shape)}, expected one of {len(pixels)} axes")
        if not bool(kernel.isfinite().all()) or not bool(kernel.any()):
            raise ValueError("kernel has no numbers other than 0, or some that are not finite")
        one_of("boundary", boundary, get_args(Boundary))
        self.boundary, self.ndim = boundary, len(pixels)
        # Beyond the edges there are as many pixels as the kernel reaches, and then a circle is closed.
        before = [0 if boundary == "circular" else k - 1 - k // 2 for k in kernel.shape]
        behind = [0 if boundary == "circular" else k // 2 for k in kernel.shape]
        sizes = [b + n + a for b, n, a in zip(behind, pixels, before, strict=True)]
        self.starts = behind
        if boundary != "circular":
            for axis, (size, start) in enumerate(zip(sizes, behind, strict=True)):
                positions = torch.arange(size) - start
                self.register_buffer(f"source{axis}", source(positions, pixels[axis], boundary))
        transfer = torch.fft.fftn(_on_circle(kernel.double().cpu(), sizes))
        self.register_buffer("real", transfer.real.clone())
        self.register_buffer("imaginary", transfer.imag.clone())

    def measure(self, x: Tensor) -> Tensor:
        if self.boundary == "circular":
            return self._filtered(x, adjoint=False)
        for axis in range(self.ndim):
            at = getattr(self, f"source{axis}")
            dim = axis - self.ndim
            x = x.index_select(dim, at.clamp_min(0)) * _column(at >= 0, x, dim)
        x = self._filtered(x, adjoint=False)
        for axis, start in enumerate(self.starts):
            x = x.narrow(axis - self.ndim, start, self.shape[axis - self.ndim])
        return x

    def back(self, y: Tensor) -> Tensor:
        if self.boundary == "circular":
            return self._filtered(y, adjoint=True)
        ends = [(s, n) for s, n in zip(self.starts, self.real.shape, strict=True)]
        margins = [m for axis in reversed(range(self.ndim)) for m in self._margins(axis, *ends[axis])]
        y = self._filtered(torch.nn.functional.pad(y, margins), adjoint=True)
        for axis in range(self.ndim):
            at = getattr(self, f"source{axis}")
            dim = axis - self.ndim
            size = list(y.shape)
            size[dim] = self.shape[dim]
            y = y.new_zeros(size).index_add(dim, at.clamp_min(0), y * _column(at >= 0, y, dim))
        return y

    def _margins(self, axis: int, start: int, size: int) -> tuple[int, int]:
        return start, size - start - self.shape[axis - self.ndim]

    def _filtered(self, x: Tensor, adjoint: bool) -> Tensor:
        axes = tuple(range(-self.ndim, 0))
        real, imaginary = self.real.to(x), self.imaginary.to(x)
        transfer = torch.complex(real, -imaginary if adjoint else imaginary)
        y: Tensor = torch.fft.ifftn(torch.fft.fftn(x, dim=axes) * transfer, dim=axes).real
        return y

    @property
    def singular_values(self) -> SingularValues | None:
        if self.boundary != "circular":
            return self.decomposed()
        if self._decomposed is None:
            self._decomposed = CircularSingularValues(self)
        return self._decomposed


class CircularSingularValues(SingularValues):
    """Those of a circular blur, whose transfer function is |h| e^{iφ}.

    V is the Hartley basis, and U that basis turned by the phases φ.

    Args:
        blur: The blur.
    """

    kept: Tensor
    positions: Tensor
    cosine: Tensor
    sine: Tensor

    def __init__(self, blur: Blur) -> None:
        super().__init__()
        real, imaginary = blur.real.double(), blur.imaginary.double()
        modulus = torch.hypot(real, imaginary)
        channels = math.prod(blur.shape) // modulus.numel()
        device = blur.device
        kept = self.keep(modulus.expand(channels, *modulus.shape).flatten().cpu())
        self.register_buffer("kept", kept)
        self.register_buffer("positions", positions_of(kept, math.prod(blur.shape)))
        self.register_buffer("cosine", torch.where(modulus > 0, real / modulus, 1.0))
        self.register_buffer("sine", torch.where(modulus > 0, imaginary / modulus, 0.0))
        self.shape, self.ndim = blur.shape, blur.ndim
        self.to(device)

    def to_right(self, x: Tensor) -> Tensor:
        return hartley(x, self.ndim).flatten(1).index_select(1, self.kept)

    def from_right(self, coefficients: Tensor) -> Tensor:
        return hartley(spread(coefficients, self.positions).reshape(-1, *self.shape), self.ndim)

    def to_left(self, y: Tensor) -> Tensor:
        return self.to_right(self._turned(y, -1))

    def from_left(self, coefficients: Tensor) -> Tensor:
        return self._turned(self.from_right(coefficients), 1)

    def _turned(self, x: Tensor, sign: int) -> Tensor:
        axes = tuple(range(-self.ndim, 0))
        turn = torch.complex(self.cosine.to(x), sign * self.sine.to(x))
        turned: Tensor = torch.fft.ifftn(torch.fft.fftn(x, dim=axes) * turn, dim=axes).real
        return turned


def motion_kernel(length: float, angle: float = 45.0) -> Tensor:
    """The kernel of a motion along a line at constant speed, `(k, k)` float64, whose numbers sum to 1.

    Args:
        length: The length of the line in pixels.
        angle: Its angle in degrees.

    Raises:
        ValueError: A length that is not positive.

    >>> motion_kernel(2, 0).tolist()
    [[0.0, 0.0, 0.0], [0.25, 0.5, 0.25], [0.0, 0.0, 0.0]]
    """
    positive("length", length)
    radius = max(1, math.ceil(length / 2))
    kernel = torch.zeros(2 * radius + 1, 2 * radius + 1, dtype=torch.float64)
    turn = math.radians(angle)
    count = max(2, 2 * math.ceil(64 * length))
    along = (torch.arange(count, dtype=torch.float64) + 0.5) / count * length - length / 2
    row, column = radius - along * math.sin(turn), radius + along * math.cos(turn)
    for i in range(2):
        for j in range(2):
            top, left = row.floor() + i, column.floor() + j
            weight = (1 - (row - top).abs()) * (1 - (column - left).abs())
            inside = (top >= 0) & (top <= 2 * radius) & (left >= 0) & (left <= 2 * radius)
            at = (top.long()[inside], left.long()[inside])
            kernel.index_put_(at, weight[inside], accumulate=True)
    return (kernel / kernel.sum()).round(decimals=12)


def _on_circle(kernel: Tensor, sizes: Sequence[int]) -> Tensor:
    """The kernel on a circle of `sizes`, with its middle at 0; what reaches around is added up."""
    for axis, size in enumerate(sizes):
        length = kernel.shape[axis]
        at = (torch.arange(length) - length // 2) % size
        shape = [*kernel.shape[:axis], size, *kernel.shape[axis + 1 :]]
        kernel = kernel.new_zeros(shape).index_add(axis, at, kernel)
    return kernel


def _column(mask: Tensor, x: Tensor, dim: int) -> Tensor:
    """A mask along an axis of x, shaped to broadcast to it."""
    return mask.to(x.dtype).reshape(-1, *[1] * (-dim - 1))
