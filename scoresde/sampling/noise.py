"""Noise that belongs to a sample, not to a batch."""

import math
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["SampleNoise"]

_GOLDEN = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27)


def _signed(value: int) -> int:
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _xor_shift(z: Tensor, bits: int) -> Tensor:
    # int64 shifts are arithmetic; the mask makes them logical.
    return z.bitwise_xor_((z >> bits).bitwise_and_(2 ** (64 - bits) - 1))


def _scramble(z: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014), in place on int64."""
    for bits, factor in zip(_SHIFTS, _MIX, strict=True):
        z = _xor_shift(z, bits).mul_(_signed(factor))
    return _xor_shift(z, 31)


def _lower(z: Tensor) -> Tensor:
    """What the finaliser's last step makes of the lower 32 bits, int32; z is overwritten."""
    return z.bitwise_xor_(z >> 31).to(torch.int32)


class SampleNoise:
    """Draws of standard normal noise `(B, *shape)` in which row i depends on `seed` and on its index alone.

    Draw k of sample i is a function of (seed, i, k): a counter-based generator (Salmon et al. 2011) on
    SplitMix64, made normal by the Box-Muller transform. So a sample is the same whatever the batch size, the
    chunking, the number of processes and, to round-off, the device and dtype; it costs the same few
    elementwise kernels however large the batch, and never waits for the device.

    Args:
        seed: any integer.
        indices: `(B,)` int64, the indices of the samples.
        shape: event shape.
        dtype: of the draws; they carry 32 random bits each in any dtype.
        stream: an integer that separates independent uses of one seed.

    Attributes:
        draws: k of the next draw; it counts up, and may be set to any integer from 0.
    """

    def __init__(
        self,
        seed: int,
        indices: Tensor,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        stream: int = 0,
    ) -> None:
        self.shape = tuple(shape)
        self.dtype = dtype
        self.device = device
        self.draws = 0
        self._seed = (seed + 1) * _GOLDEN + stream * _MIX[0]
        self._indices = indices
        self._size = math.prod(self.shape)
        self._pairs = (self._size + 1) // 2
        self._work = torch.float64 if dtype == torch.float64 else torch.float32

    @cached_property
    def _start(self) -> Tensor:
        """`(B, 1)`, the state of every sample's generator; not made for a solve that draws nothing."""
        # As in SplitMix64, each state is a step of the golden ratio on: the scrambler leaves 0 where it is.
        key = _scramble(torch.tensor(_signed(self._seed), dtype=torch.int64))
        start = _scramble(key + (self._indices.cpu().to(torch.int64) + 1).mul_(_signed(_GOLDEN)))
        return start.to(self.device)[:, None]

    @cached_property
    def _counter(self) -> Tensor:
        return torch.arange(1, self._pairs + 1, device=self.device).mul_(_signed(_GOLDEN))

    @cached_property
    def _one(self) -> Tensor:
        return torch.ones((), dtype=self._work, device=self.device)

    @cached_property
    def _least(self) -> Tensor:
        """Stands for the word 0, whose logarithm is infinite."""
        return 2.0**-126 * self._one

    def skip(self) -> None:
        """Pass over one draw."""
        self.draws += 1

    def _word(self) -> Tensor:
        """64 random bits, `(B, pairs)`, for each pair of elements of the next draw."""
        offset = _signed(self.draws * self._pairs * _GOLDEN)
        self.draws += 1
        z = (self._start + offset) + self._counter
        for bits, factor in zip(_SHIFTS, _MIX, strict=True):
            z = _xor_shift(z, bits).mul_(_signed(factor))
        return z

    def _bits(self) -> tuple[Tensor, Tensor]:
        """Two signed 32-bit integers `(B, pairs)` for each pair of elements of the next draw."""
        z = self._word()
        return z >> 32, _lower(z)

    def __call__(self, start: float | None = None, stop: float | None = None) -> Tensor:
        """The next draw, `(B, *shape)`, independent of all others whatever the interval."""
        z = self._word()
        radius = z.to(self._work)
        # The tangent of half the angle gives sine and cosine for one transcendental function, and −4 log u² for
        # −2 log u is the radius twice, as z₁ = 2q − r and z₂ = 2qτ want it, with q = r/(1 + τ²).
        tangent = _lower(z).to(self._work).mul_(math.pi * 2.0**-32).tan_()
        radius = torch.addcmul(self._least, radius, radius, value=2.0**-126).log_().mul_(-4).sqrt_()
        share = radius / torch.addcmul(self._one, tangent, tangent)
        draw = torch.cat((torch.sub(share, radius, alpha=0.5), tangent.mul_(share)), dim=1)
        return draw[:, : self._size].to(self.dtype).reshape(-1, *self.shape)

    def uniform(self) -> Tensor:
        """The next draw, uniform on [0, 1), `(B, *shape)`."""
        u = torch.cat(self._bits(), dim=1)[:, : self._size]
        if self.dtype == torch.float64:
            return u.to(torch.float64).mul_(2.0**-32).add_(0.5).reshape(-1, *self.shape)
        # 24 bits are what float32 holds below one; rounding 32 could give one itself.
        return (u >> 8).to(torch.float32).mul_(2.0**-24).add_(0.5).to(self.dtype).reshape(-1, *self.shape)

    def signs(self) -> Tensor:
        """The next draw of Rademacher noise, ±1 with equal odds, `(B, *shape)`."""
        u = torch.cat(self._bits(), dim=1)[:, : self._size]
        return (u >> 31).mul_(2).add_(1).to(self.dtype).reshape(-1, *self.shape)
