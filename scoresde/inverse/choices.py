"""What a configuration says of an inverse problem: settings by name, which make a problem for samples of any shape."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from scoresde.arguments import checked
from scoresde.inverse.blur import Blur, GaussianBlur, motion_kernel
from scoresde.inverse.boundaries import Boundary
from scoresde.inverse.clipping import Clipping
from scoresde.inverse.compressed_sensing import CompressedSensing, RandomProjection
from scoresde.inverse.downsampling import Downsampling, Filter
from scoresde.inverse.fourier import FourierSampling, line_mask
from scoresde.inverse.grey import GreyScale
from scoresde.inverse.masks import Mask
from scoresde.inverse.noise import GaussianNoise, NoNoise
from scoresde.inverse.operator import Operator
from scoresde.inverse.phase import PhaseRetrieval
from scoresde.inverse.problem import Problem
from scoresde.inverse.quantisation import BlockQuantisation
from scoresde.inverse.radon import Radon
from scoresde.numerics.values import fraction, not_negative

__all__ = [
    "Colourisation",
    "Compressed",
    "Deblurring",
    "Denoising",
    "GaussianDeblurring",
    "Inpainting",
    "Overexposed",
    "Phaseless",
    "ProblemChoice",
    "RandomInpainting",
    "Sensing",
    "SuperResolution",
    "Tomography",
    "Undersampling",
    "Unmeasured",
]


class ProblemChoice(ABC):
    """Settings of a problem."""

    @abstractmethod
    def for_shape(self, shape: Sequence[int]) -> Problem | None:
        """The problem for samples of a shape, `(C, H, W)` or `(D,)`; None where nothing is measured.

        Raises:
            ValueError: Settings that do not suit samples of this shape.
        """


@checked
@dataclass(frozen=True)
class Unmeasured(ProblemChoice):
    """No measurements: samples of the prior itself."""

    def for_shape(self, shape: Sequence[int]) -> Problem | None:
        return None


@checked
@dataclass(frozen=True)
class MeasuredChoice(ProblemChoice):
    """Settings of a problem with Gaussian noise. A subclass gives `operator`.

    Args:
        std: The standard deviation of the noise, in the units of measurements; 0 for none.
    """

    std: float = 0.1

    def __post_init__(self) -> None:
        not_negative("std", self.std, "0, for measurements without noise, or more")

    def for_shape(self, shape: Sequence[int]) -> Problem:
        return Problem(self.operator(tuple(shape)), GaussianNoise(self.std) if self.std else NoNoise())

    @abstractmethod
    def operator(self, shape: tuple[int, ...]) -> Operator:
        """The operator for samples of a shape."""


@checked
@dataclass(frozen=True)
class Denoising(MeasuredChoice):
    """All numbers of a sample, with noise."""

    def operator(self, shape: tuple[int, ...]) -> Operator:
        return Mask(torch.ones(shape, dtype=torch.bool))


@checked
@dataclass(frozen=True)
class Inpainting(MeasuredChoice):
    """All but a box in the middle; see `Mask.outside_box`.

    Args:
        std: The standard deviation of the noise; 0 for none.
        share: The length of the box in each direction, as a part of that of the sample.
    """

    share: float = 0.5

    def operator(self, shape: tuple[int, ...]) -> Operator:
        return Mask.outside_box(shape, self.share)


@checked
@dataclass(frozen=True)
class RandomInpainting(MeasuredChoice):
    """A random part of the pixels; see `Mask.random`.

    Args:
        std: The standard deviation of the noise; 0 for none.
        share: The part that is measured.
        seed: The seed of the choice.
    """

    share: float = 0.3
    seed: int = 0

    def operator(self, shape: tuple[int, ...]) -> Operator:
        return Mask.random(shape, self.share, self.seed)


@checked
@dataclass(frozen=True)
class Deblurring(MeasuredChoice):
    """A sample that has moved during the measurement; see `Blur` and `motion_kernel`.

    Args:
        std: The standard deviation of the noise; 0 for none.
        length: The length of the motion in pixels.
        angle: Its angle in degrees, for images.
        boundary: What lies beyond the edges.
    """

    length: float = 5.0
    angle: float = 45.0
    boundary: Boundary = "circular"

    def operator(self, shape: tuple[int, ...]) -> Operator:
        kernel = motion_kernel(self.length, self.angle if len(shape) > 1 else 0.0)
        return Blur(shape, kernel if len(shape) > 1 else kernel[len(kernel) // 2], self.boundary)


@checked
@dataclass(frozen=True)
class GaussianDeblurring(MeasuredChoice):
    """A sample out of focus; see `GaussianBlur`.

    Args:
        std: The standard deviation of the noise; 0 for none.
        width: The standard deviation of the Gaussian in pixels.
        boundary: What lies beyond the edges.
    """

    width: float = 1.0
    boundary: Boundary = "reflect"

    def operator(self, shape: tuple[int, ...]) -> Operator:
        return GaussianBlur(shape, self.width, self.boundary)


@checked
@dataclass(frozen=True)
class SuperResolution(MeasuredChoice):
    """A sample of fewer pixels; see `Downsampling`.

    Args:
        std: The standard deviation of the noise; 0 for none.
        factor: How many pixels become one, along each axis.
        filter: The filter before it.
        boundary: What lies beyond the edges.
    """

    factor: int = 4
    filter: Filter = "cubic"
    boundary: Boundary = "reflect"

    def operator(self, shape: tuple[int, ...]) -> Operator:
        return Downsampling(shape, self.factor, self.filter, self.boundary)


@checked
@dataclass(frozen=True)
class Colourisation(MeasuredChoice):
    """An image without its colours; see `GreyScale`."""

    def operator(self, shape: tuple[int, ...]) -> Operator:
        return GreyScale(shape)


@checked
@dataclass(frozen=True)
class Sensing(MeasuredChoice):
    """Random combinations of the numbers of a sample; see `CompressedSensing` and `RandomProjection`.

    Args:
        std: The standard deviation of the noise; 0 for none.
        share: How many there are, as a part of the numbers of a sample.
        orthogonal: Whether they are rows of an orthogonal transform, for large samples, or have Gaussian coefficients.
        seed: Their seed.
    """

    share: float = 0.25
    orthogonal: bool = False
    seed: int = 0

    def operator(self, shape: tuple[int, ...]) -> Operator:
        fraction("share", self.share)
        kind = RandomProjection if self.orthogonal else CompressedSensing
        return kind(shape, max(1, round(self.share * math.prod(shape))), self.seed)


@checked
@dataclass(frozen=True)
class Undersampling(MeasuredChoice):
    """Lines of Fourier coefficients; see `FourierSampling` and `line_mask`.

    Args:
        std: The standard deviation of the noise; 0 for none.
        share: The part of the lines that is measured.
        centre: The part of the lines that is measured at the lowest frequencies.
        seed: The seed of the choice of the others.
    """

    share: float = 0.25
    centre: float = 0.1
    seed: int = 0

    def operator(self, shape: tuple[int, ...]) -> Operator:
        mask = line_mask(shape[1:] if len(shape) > 1 else shape, self.share, self.centre, self.seed)
        return FourierSampling(shape, mask)


@checked
@dataclass(frozen=True)
class Phaseless(MeasuredChoice):
    """Fourier coefficients without their phases; see `PhaseRetrieval`.

    Args:
        std: The standard deviation of the noise; 0 for none.
        oversampling: The size with zeros around a sample, as a multiple of its own.
    """

    oversampling: float = 2.0

    def operator(self, shape: tuple[int, ...]) -> Operator:
        return PhaseRetrieval(shape, self.oversampling)


@checked
@dataclass(frozen=True)
class Overexposed(MeasuredChoice):
    """Values that are clipped; see `Clipping`.

    Args:
        std: The standard deviation of the noise; 0 for none.
        low: The smallest value.
        high: The largest value.
        scale: What samples are multiplied by before.
    """

    low: float = -1.0
    high: float = 1.0
    scale: float = 2.0

    def operator(self, shape: tuple[int, ...]) -> Operator:
        return Clipping(shape, self.low, self.high, self.scale)


@checked
@dataclass(frozen=True)
class Compressed(MeasuredChoice):
    """An image as JPEG stores it; see `BlockQuantisation`.

    Args:
        std: The standard deviation of the noise; 0 for none.
        quality: The quality from 1 to 100.
        low: The value of black.
        high: The value of white.
    """

    quality: int = 10
    low: float = -1.0
    high: float = 1.0

    def operator(self, shape: tuple[int, ...]) -> Operator:
        return BlockQuantisation(shape, self.quality, self.low, self.high)


@checked
@dataclass(frozen=True)
class Tomography(MeasuredChoice):
    """Projections of an image; see `Radon`.

    Args:
        std: The standard deviation of the noise; 0 for none.
        angles: The number of angles between 0° and 180°.
    """

    angles: int = 8

    def operator(self, shape: tuple[int, ...]) -> Operator:
        return Radon(shape, self.angles)
