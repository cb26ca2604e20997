"""Noise that belongs to a sample, not to a batch."""

import math

import torch
from torch import Tensor

__all__ = ["SampleNoise"]

_GOLDEN = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def _signed(value: int) -> int:
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _xor_shift(z: Tensor, bits: int) -> Tensor:
    # int64 shifts are arithmetic; the mask makes them logical.
    return z.bitwise_xor_((z >> bits).bitwise_and_(2 ** (64 - bits) - 1))


def _scramble(z: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014), in place on int64."""
    z = _xor_shift(z, 30).mul_(_signed(_MIX[0]))
    z = _xor_shift(z, 27).mul_(_signed(_MIX[1]))
    return _xor_shift(z, 31)


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
        # As in SplitMix64, each state is a step of the golden ratio on: the scrambler leaves 0 where it is.
        key = _scramble(torch.tensor(_signed((seed + 1) * _GOLDEN + stream * _MIX[0]), dtype=torch.int64))
        start = _scramble(key + (indices.cpu().to(torch.int64) + 1).mul_(_signed(_GOLDEN)))
        self._start = start.to(device)[:, None]
        size = math.prod(self.shape)
        self._pairs = (size + 1) // 2
        self._counter = torch.arange(1, self._pairs + 1, device=device).mul_(_signed(_GOLDEN))
        self.draws = 0

    def _bits(self) -> tuple[Tensor, Tensor]:
        """Two 32-bit integers `(B, pairs)` for each pair of elements of the next draw."""
        offset = _signed(self.draws * self._pairs * _GOLDEN)
        self.draws += 1
        z = _scramble((self._start + offset) + self._counter)
        return (z >> 32).bitwise_and_(2**32 - 1), z.bitwise_and_(2**32 - 1)

    def __call__(self, start: float | None = None, stop: float | None = None) -> Tensor:
        """The next draw, `(B, *shape)`, independent of all others whatever the interval."""
        high, low = self._bits()
        work = torch.float64 if self.dtype == torch.float64 else torch.float32
        radius = high.to(work).add_(0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()
        angle = low.to(work).mul_(2 * math.pi * 2.0**-32)
        z = torch.cat((radius * angle.cos(), radius.mul_(angle.sin_())), dim=1)
        size = math.prod(self.shape)
        return z[:, :size].to(self.dtype).reshape(-1, *self.shape)

    def uniform(self) -> Tensor:
        """The next draw, uniform on [0, 1), `(B, *shape)`."""
        u = torch.cat(self._bits(), dim=1)[:, : math.prod(self.shape)]
        if self.dtype == torch.float64:
            return u.to(torch.float64).mul_(2.0**-32).reshape(-1, *self.shape)
        # 24 bits are what float32 holds below one; rounding 32 could give one itself.
        return (u >> 8).to(torch.float32).mul_(2.0**-24).to(self.dtype).reshape(-1, *self.shape)

    def signs(self) -> Tensor:
        """The next draw of Rademacher noise, ±1 with equal odds, `(B, *shape)`."""
        u = torch.cat(self._bits(), dim=1)[:, : math.prod(self.shape)]
        return (u >> 31).mul_(2).sub_(1).to(self.dtype).reshape(-1, *self.shape)
