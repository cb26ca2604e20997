"""Noise that belongs to a sample, not to a batch, and the names of its streams."""

import math
from enum import IntEnum
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["SampleNoise", "Stream"]

_GOLDEN = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27)


class Stream(IntEnum):
    """The independent uses of one seed: every use of `SampleNoise` in the package has a stream of its own.

    The numbers are part of the results: a stored checkpoint resumes with the same batches because they stay as they
    are. A new use takes a new number.
    """

    #: The initial noise and the noise of the steps of a sampler.
    WHITE = 0
    #: Dequantisation of the data for a likelihood.
    DEQUANTISATION = 1
    #: The probes of a trace.
    PROBES = 2
    #: Dequantisation and noise of a training batch.
    BATCH_NOISE = 3
    #: The times of a training batch.
    BATCH_TIMES = 4
    #: A seed for every training step, for what draws by torch's own generators, such as dropout.
    STEP_SEED = 5
    #: The times of an evidence lower bound.
    BOUND_TIMES = 6
    #: Dequantisation and noise of the held-out loss.
    HELD_OUT_NOISE = 7
    #: Dequantisation and noise of the fit of a dequantisation.
    FIT_NOISE = 8
    #: The times of that fit.
    FIT_TIMES = 9
    #: The noise of an evidence lower bound.
    BOUND_NOISE = 10
    #: The noise of a denoising error.
    DENOISING_NOISE = 11
    #: The noise levels of a denoising error.
    DENOISING_LEVELS = 12
    #: Codes and probes by which the scaling of a likelihood's state is chosen.
    SCALING = 13
    #: The increments of a Brownian path.
    BROWNIAN = 16
    #: The increments and areas of a Brownian path that has both.
    BROWNIAN_AREA = 17
    #: The noise of the bound of a Markov chain.
    CHAIN_NOISE = 20
    #: The steps at which that bound is evaluated.
    CHAIN_STEPS = 21
    #: The noise of a measurement of variances.
    VARIANCE_NOISE = 22
    #: Dequantisation of the data for that measurement.
    VARIANCE_DEQUANTISATION = 23
    #: Which images of a training batch are mirrored.
    BATCH_FLIPS = 24
    #: The rounding of systematic resampling, step by step.
    RESAMPLING = 25
    #: That of samples of equal weight at the end.
    RESAMPLING_END = 26
    #: Noise and its level in the images that a training batch is conditioned on.
    BATCH_AUGMENTATION = 30
    #: A seed for every stage of a cascade but the first.
    STAGE_SEED = 31
    #: The noise in the images that a stage of a cascade is conditioned on.
    STAGE_AUGMENTATION = 32
    #: How images of a training batch are transformed.
    BATCH_TRANSFORMATIONS = 33
    #: Which captions images have.
    CAPTIONS = 34
    #: The noise of measurements.
    MEASUREMENT_NOISE = 35
    #: The noise at which a classifier is measured.
    CLASSIFIER_NOISE = 48


def _signed(value: int) -> int:
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _xor_shift(z: Tensor, bits: int) -> Tensor:
    # Shifts of int64 are arithmetic; the mask makes them logical.
    return z.bitwise_xor_((z >> bits).bitwise_and_(2 ** (64 - bits) - 1))


def _scramble(z: Tensor) -> Tensor:
    """Apply the finaliser of SplitMix64 (Steele, Lea & Flood 2014), in place on int64."""
    for bits, factor in zip(_SHIFTS, _MIX, strict=True):
        z = _xor_shift(z, bits).mul_(_signed(factor))
    return _xor_shift(z, 31)


class SampleNoise:
    """Draws of standard normal noise `(B, *shape)` in which row i depends on `seed` and on its index alone.

    Draw k of sample i is a function of (seed, i, k): a counter-based generator (Salmon et al. 2011) on
    SplitMix64, two draws to a word, made normal by the inverse of the distribution function. So a sample is the same
    whatever the batch size, the chunking, the number of processes and, to round-off, the device and dtype; it costs
    the same few elementwise kernels however large the batch, and never waits for the device.

    Args:
        seed: Any integer.
        indices: Indices of the samples, `(B,)` int64.
        shape: Event shape.
        dtype: Dtype of the draws; in float64 they carry 32 random bits and reach to 6.3, below it 24 bits and 5.4 (as
            torch's own draws do, to 5.8).
        device: Device of the draws.
        stream: The use that is made of the seed; draws of different streams are independent.

    Attributes:
        draws: Index k of the next draw; it counts up, and may be set to any integer from 0.
        seed: The seed.
        indices: The indices.
    """

    def __init__(
        self,
        seed: int,
        indices: Tensor,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        stream: Stream = Stream.WHITE,
    ) -> None:
        self.shape = tuple(shape)
        self.dtype = dtype
        self.device = device
        self.draws = 0
        self.seed = seed
        self.indices = indices
        self._key = (seed + 1) * _GOLDEN + stream * _MIX[0]
        self._size = math.prod(self.shape)
        self._pairs = (self._size + 1) // 2
        self._work = torch.float64 if dtype == torch.float64 else torch.float32

    @cached_property
    def _start(self) -> Tensor:
        """State of every sample's generator, `(B, 1)`; not made for a solve that draws nothing."""
        # As in SplitMix64, each state is a step of the golden ratio on: the scrambler leaves 0 where it is.
        key = _scramble(torch.tensor(_signed(self._key), dtype=torch.int64))
        start = _scramble(key + (self.indices.cpu().to(torch.int64) + 1).mul_(_signed(_GOLDEN)))
        return start.to(self.device)[:, None]

    @cached_property
    def _counter(self) -> Tensor:
        return torch.arange(1, self._pairs + 1, device=self.device).mul_(_signed(_GOLDEN))

    def skip(self) -> None:
        """Pass over one draw."""
        self.draws += 1

    def _bits(self) -> Tensor:
        """Signed 32-bit integers `(B, size)` for the next draw, two of each word of the generator."""
        offset = _signed(self.draws * self._pairs * _GOLDEN)
        self.draws += 1
        words = _scramble((self._start + offset) + self._counter)
        return words.view(torch.int32)[:, : self._size]

    def __call__(self, start: float | None = None, stop: float | None = None) -> Tensor:
        """The next draw, `(B, *shape)`, independent of all others whatever the interval."""
        bits = self._bits().to(self._work)
        if self._work == torch.float64:
            symmetric = bits.add_(0.5).mul_(2.0**-31)
        else:
            # Rounded to 24 bits the largest integers are 2³¹, whose draws must be finite too.
            symmetric = bits.mul_(2.0**-31 * (1 - 2.0**-24))
        return symmetric.erfinv_().mul_(math.sqrt(2)).to(self.dtype).reshape(-1, *self.shape)

    def uniform(self) -> Tensor:
        """The next draw, uniform on [0, 1), `(B, *shape)`."""
        bits = self._bits()
        if self.dtype == torch.float64:
            return bits.to(torch.float64).mul_(2.0**-32).add_(0.5).reshape(-1, *self.shape)
        # 24 bits are what float32 holds below one; rounding 32 could give one itself.
        return (bits >> 8).to(torch.float32).mul_(2.0**-24).add_(0.5).to(self.dtype).reshape(-1, *self.shape)

    def seeds(self) -> Tensor:
        """The next draw as integers from 0 to 2³¹ − 1, `(B, *shape)`: seeds of other generators."""
        return self._bits().bitwise_and(0x7FFFFFFF).reshape(-1, *self.shape)

    def signs(self) -> Tensor:
        """The next draw of Rademacher noise, ±1 with equal odds, `(B, *shape)`."""
        return (self._bits() >> 31).mul_(2).add_(1).to(self.dtype).reshape(-1, *self.shape)
