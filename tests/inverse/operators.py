"""One of each linear operator, small."""

import torch

from scoresde.inverse import (
    Blur,
    CompressedSensing,
    Downsampling,
    FourierSampling,
    GaussianBlur,
    GreyScale,
    LinearOperator,
    Mask,
    MatrixOperator,
    Radon,
    RandomProjection,
    SeparableOperator,
    line_mask,
    motion_kernel,
)
from tests.problems import F64

KERNEL = torch.rand(3, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
SCATTERED = torch.rand(6, 8, generator=torch.Generator().manual_seed(1)) < 0.5


def linear_operators() -> list[LinearOperator]:
    composed = Mask.random((3, 8, 6), 0.4) @ GaussianBlur((3, 8, 6), 1.0)
    assert isinstance(composed, LinearOperator)
    return [
        MatrixOperator(KERNEL, (2, 2)),
        Mask.outside_box((3, 8, 8)),
        Mask.random((2, 8, 8), 0.3),
        Mask(torch.ones(4, 4, dtype=torch.bool), (2, 4, 4)),
        Mask.outside_box((2,)),
        GaussianBlur((3, 8, 6), 1.0),
        GaussianBlur((1, 8, 8), 3.0, "circular"),
        GaussianBlur((8,), 2.0, "zero"),
        Blur((2, 5, 6), KERNEL),
        Blur((2, 5, 6), KERNEL, "reflect"),
        Blur((1, 5, 6), KERNEL, "zero"),
        Blur((2,), KERNEL[0]),
        Blur((1, 8, 8), motion_kernel(5, 30)),
        Downsampling((2, 8, 8)),
        Downsampling((1, 8, 12), 4, "lanczos", "circular"),
        Downsampling((8,), 2, "average"),
        Downsampling((1, 9, 9), 3, "linear", "zero"),
        SeparableOperator((2, 3, 4), [KERNEL[:1, :2], KERNEL[:, :3], None]),
        GreyScale((3, 4, 4)),
        FourierSampling((2, 6, 5), line_mask((6, 5), 0.6)),
        FourierSampling((7,), line_mask((7,), 0.6)),
        FourierSampling((1, 6, 8), SCATTERED),
        CompressedSensing((1, 4, 4), 5),
        RandomProjection((1, 5, 4), 7),
        Radon((2, 8, 6), 5),
        composed,
    ]
