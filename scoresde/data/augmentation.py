"""Augmentation of images of which a network is told, so that what it samples has none (Karras et al. 2022)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LABELS", "NORMALS", "UNIFORMS", "augmented"]

#: Numbers that say how an image was augmented.
LABELS = 9
#: Uniform and normal numbers that an image takes.
UNIFORMS, NORMALS = 10, 4

_SCALE_STD = 0.2  # of log₂ of scales
_SHIFT_STD = 0.125  # relative to the size of the image

# Daubechies' least asymmetric wavelet with six vanishing moments (symlet 6), whose translations by 2 are orthonormal.
_SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
_CENTRE = 5  # the place nearest to its centre of mass, 5.1, and the paper's


def augmented(x: Tensor, uniform: Tensor, normal: Tensor, probability: float) -> tuple[Tensor, Tensor]:
    """Images transformed at random, and the labels that tell of it (Karras et al. 2022, appendix F.2, table 6).

    An image is mirrored left to right with probability ½; and each with `probability` it is mirrored top to bottom in
    half of the cases, scaled by 2^(0.2 z), rotated by an angle of (−π, π), scaled by 2^(0.2 z) along a direction and by
    the inverse across, and shifted by 0.125 z of its size, z ~ N(0, 1). The direction is an axis in half of the cases.
    The labels are whether it was mirrored (2), z (1), cos − 1 and sin of the angle (2), z times the direction (2), and
    z of both shifts (2); zeros for an image as it was.

    All but mirroring is done at once, on the image doubled by the filter of an orthogonal wavelet, by linear
    interpolation; halving by the same filter gives back exactly what was not transformed. Outside of the image are its
    reflections as far as they go, and then zeros. Nothing of it waits for the device of the images.

    Args:
        x: Images in model space, `(B, C, H, W)`.
        uniform: Uniform numbers in [0, 1), `(B, 10)`, on the CPU.
        normal: Standard normal numbers, `(B, 4)`, on the CPU.
        probability: Probability of each transformation.

    Returns:
        The images `(B, C, H, W)` and the labels `(B, 9)` in float32, on the device of the images.
    """
    u, z = uniform.double().unbind(1), normal.double().unbind(1)

    def sometimes(draw: Tensor, value: Tensor) -> Tensor:
        return torch.where(draw < probability, value, torch.zeros_like(value))

    mirrored = (u[0] < 0.5).double()
    upended = sometimes(u[1], (u[2] < 0.5).double())
    scale = sometimes(u[3], z[0])
    angle = sometimes(u[4], (2 * u[5] - 1) * math.pi)
    stretch = sometimes(u[6], z[1])
    direction = torch.where(u[8] < 0.5, (2 * u[7] - 1) * math.pi, torch.zeros_like(u[7]))
    shift = [sometimes(u[9], z[2]), sometimes(u[9], z[3])]
    labels = torch.stack(
        (mirrored, upended, scale, angle.cos() - 1, angle.sin(), stretch * direction.cos(), stretch * direction.sin(),
         *shift), dim=1,
    )  # fmt: skip
    device = x.device
    x = torch.where(_rows(mirrored == 1, device), x.flip(3), x)
    x = torch.where(_rows(upended == 1, device), x.flip(2), x)
    back = _turn(angle) @ _turn(-direction) @ _stretching(-_SCALE_STD * stretch) @ _turn(direction)
    back = back * (2 ** (-_SCALE_STD * scale))[:, None, None]
    size = torch.tensor([x.shape[3], x.shape[2]], dtype=torch.float64, device="cpu")
    offset = -(back @ (torch.stack(shift, dim=1) * _SHIFT_STD * size)[:, :, None])
    rows = labels[:, 2:].any(dim=1).nonzero()[:, 0]
    if len(rows):
        there = rows.to(device, non_blocking=True)
        x = x.index_copy(0, there, resampled(x.index_select(0, there), back[rows], offset[rows]))
    return x, labels.float().to(device, non_blocking=True)


def resampled(x: Tensor, back: Tensor, offset: Tensor) -> Tensor:
    """Images read at other places: at p, relative to the centre, is what was at A p + b.

    Args:
        x: Images `(B, C, H, W)`.
        back: Matrices A of (x, y), `(B, 2, 2)`, on the CPU.
        offset: Vectors b in pixels, `(B, 2, 1)`, on the CPU.
    """
    sizes = x.shape[3], x.shape[2]
    # Places of the doubled image, with what the filter reaches, that the halved one is read from.
    lines = [(torch.arange(2 * n + 10, dtype=torch.float64, device="cpu") - _CENTRE - (n - 1)) / 2 for n in sizes]
    ends = torch.cartesian_prod(*(line[[0, -1]] for line in lines)).T
    reach = (back @ ends + offset).abs().amax(dim=(0, 2)).tolist()
    margins = [min(n - 1, max(0, math.ceil(far - (n - 1) / 2) + 4)) for far, n in zip(reach, sizes, strict=True)]
    padded = F.pad(x, (margins[0], margins[0], margins[1], margins[1]), mode="reflect")
    large = _filtered(padded, doubling=True)
    # Pixel k of the padded image is at 2 k + _CENTRE of the doubled one; the grid counts from −1 to 1.
    ranges = [2 * (n + 2 * margin) + 10 for n, margin in zip(sizes, margins, strict=True)]
    step = torch.tensor([4 / (length - 1) for length in ranges], dtype=torch.float64, device="cpu")[:, None]
    offset = offset + (_CENTRE - (len(_SYM6) - 1) / 2) / 2
    back, offset = (step * back).to(x.device, x.dtype), (step * offset).to(x.device, x.dtype)
    across, down = (line.to(x.device, x.dtype) for line in lines)
    grid = back[:, None, None, :, 0] * across[:, None] + back[:, None, None, :, 1] * down[:, None, None]
    read = F.grid_sample(large, grid + offset[:, None, None, :, 0], align_corners=True)
    return _filtered(read, doubling=False)


def _filtered(x: Tensor, doubling: bool) -> Tensor:
    """Images doubled or halved by the filter along both dimensions."""
    line = torch.tensor(_SYM6, dtype=x.dtype, device="cpu").to(x.device, non_blocking=True)
    for kernel, stride in ((line[:, None], (2, 1)), (line[None, :], (1, 2))):
        weight = kernel.expand(x.shape[1], 1, *kernel.shape)
        convolve = F.conv_transpose2d if doubling else F.conv2d
        x = convolve(x, weight, stride=stride, groups=x.shape[1])
    return x


def _rows(chosen: Tensor, device: torch.device) -> Tensor:
    return chosen.to(device, non_blocking=True)[:, None, None, None]


def _turn(angle: Tensor) -> Tensor:
    """Rotations `(B, 2, 2)`."""
    return _matrices((angle.cos(), -angle.sin()), (angle.sin(), angle.cos()))


def _stretching(log2: Tensor) -> Tensor:
    zeros = torch.zeros_like(log2)
    return _matrices((2**log2, zeros), (zeros, 2**-log2))


def _matrices(*rows: Sequence[Tensor]) -> Tensor:
    return torch.stack([torch.stack(list(row), dim=1) for row in rows], dim=1)
