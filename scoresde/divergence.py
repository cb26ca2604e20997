"""The trace of a field's Jacobian: exact, or estimated with random probes.

Either object is asked for a tape: `rows` vectors of D numbers for each sample, whose integral over the path
gives both the log-determinant and its standard error. For `Exact` that is one number, the trace itself; for
`Hutchinson`, the product Jᵀu with each probe u, since uᵀ(∫J)u is the estimate and ‖(∫J)ᵀu‖² tells its
variance.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from scoresde.sampling.noise import SampleNoise

__all__ = ["Divergence", "Exact", "Hutchinson"]

Function = Callable[[Tensor], Tensor]


class Divergence(ABC):
    """A way to compute the divergence of a field along a path."""

    def for_size(self, size: int) -> "Divergence":
        """What to use for samples of `size` numbers: this, or what costs no more and is better."""
        return self

    @abstractmethod
    def probes_for(self, x: Tensor, seed: int, indices: Tensor) -> Tensor | None:
        """What is fixed along the path of each sample of x `(B, ...)`: probes `(B, K, ...)`, or None."""

    @abstractmethod
    def evaluate(self, function: Function, x: Tensor, probes: Tensor | None) -> tuple[Tensor, Tensor]:
        """The field at x, `(b, ...)`, and the tape there, `(b, n)`."""

    @abstractmethod
    def read(self, tape: Tensor, probes: Tensor | None) -> tuple[Tensor, Tensor]:
        """From the integrated tape `(B, n)`: the integrated trace `(B,)`, and its standard error `(B,)`."""


class Exact(Divergence):
    """The exact trace: D vector-Jacobian products, batched.

    Args:
        chunk: how many rows of the Jacobian to compute at once; all if not given.
    """

    def __init__(self, chunk: int | None = None) -> None:
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk is {chunk}, expected at least 1")
        self.chunk = chunk

    def probes_for(self, x: Tensor, seed: int, indices: Tensor) -> None:
        return None

    def evaluate(self, function: Function, x: Tensor, probes: Tensor | None) -> tuple[Tensor, Tensor]:
        size = x[0].numel()
        basis = torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, *x.shape[1:])
        # The fused attention kernels have no batching rule for their derivative.
        with sdpa_kernel(SDPBackend.MATH):
            value, pull = torch.func.vjp(function, x)  # type: ignore[misc]

            def entry(unit: Tensor) -> Tensor:
                (row,) = pull(unit.expand_as(x))
                return (row * unit).flatten(1).sum(1)

            diagonal = torch.func.vmap(entry, chunk_size=self.chunk)(basis)
        return value.detach(), diagonal.double().sum(0)[:, None]

    def read(self, tape: Tensor, probes: Tensor | None) -> tuple[Tensor, Tensor]:
        return tape[:, 0], torch.zeros_like(tape[:, 0])

    def __repr__(self) -> str:
        return "Exact()"


class Hutchinson(Divergence):
    """Hutchinson's estimate with Rademacher probes, fixed along a sample's path (Hutchinson 1990; Grathwohl et
    al. 2019; Song et al. 2021, appendix D.2).

    With M the integral of the Jacobian, a probe u gives uᵀMu, of variance 2 Σ_{i≠j} S_ij² where S is the
    symmetric part of M. The numbers m_i = u_i (Mᵀu)_i that it is the sum of have mean M_ii and variance
    Σ_{j≠i} M_ji². So two probes or more tell the variance as twice the scatter of their m, summed over i: D
    numbers, not one. A single probe tells ‖m‖² alone, diagonal included, and its standard error takes the
    diagonal as constant: too large where the data are much better known in some directions than in others.
    Both take M as symmetric, which errs on the large side.

    Args:
        probes: number of probes; the standard error falls as its square root.
    """

    def __init__(self, probes: int = 1) -> None:
        if probes < 1:
            raise ValueError(f"probes is {probes}, expected at least 1")
        self.probes = probes

    def for_size(self, size: int) -> Divergence:
        # Below 5 dimensions the variance estimate has nothing to go by, and the exact trace costs no more.
        return Exact() if size <= max(4, self.probes) else self

    def probes_for(self, x: Tensor, seed: int, indices: Tensor) -> Tensor:
        return SampleNoise(seed, indices, (self.probes, *x.shape[1:]), x.dtype, x.device, stream=2).signs()

    def evaluate(self, function: Function, x: Tensor, probes: Tensor | None) -> tuple[Tensor, Tensor]:
        assert probes is not None
        if self.probes == 1:
            value, pull = torch.func.vjp(function, x)  # type: ignore[misc]
            (product,) = pull(probes[:, 0])
            return value.detach(), product.double().flatten(1)
        with sdpa_kernel(SDPBackend.MATH):
            value, pull = torch.func.vjp(function, x)  # type: ignore[misc]
            (products,) = torch.func.vmap(pull, in_dims=1, out_dims=1)(probes)
        return value.detach(), products.double().flatten(1)

    def read(self, tape: Tensor, probes: Tensor | None) -> tuple[Tensor, Tensor]:
        assert probes is not None
        flat = probes.double().flatten(2)
        terms = flat * tape.reshape(flat.shape)
        size = flat.shape[2]
        estimates = terms.sum(2)
        if self.probes > 1:
            variance = 2 * terms.var(dim=1).sum(1)
        else:
            # (uᵀMu)² has mean (tr M)² + variance, hence the last factor.
            spread = (terms.square().sum(2) - estimates**2 / size).clamp_min(0)
            variance = (2 * spread / max(1 - 2 / size, 1 / 3))[:, 0]
        return estimates.mean(1), (variance / self.probes).sqrt()

    def __repr__(self) -> str:
        return f"Hutchinson(probes={self.probes})"
