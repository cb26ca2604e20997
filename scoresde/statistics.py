"""Mean, scale and covariance of the data in model space."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

__all__ = ["Statistics"]


class Statistics(nn.Module):
    """First and second moments of a data set, as buffers that are saved with the model that uses them.

    Args:
        mean: Mean of every value, `(*shape)`.
        std: Root of the variance averaged over all D values of a sample, 0-dim or a float.
        covariance: `(D, D)` over the flattened sample, or None (too large to keep, or not known).

    All are kept in float64; moving the module to another dtype moves them too.

    Raises:
        ValueError: Shapes that do not fit, numbers that are not finite, or std not positive (constant data).
    """

    mean: Tensor
    std: Tensor
    covariance: Tensor | None

    def __init__(self, mean: Tensor, std: Tensor | float, covariance: Tensor | None = None) -> None:
        super().__init__()
        std = torch.as_tensor(std, dtype=torch.float64)
        dim = mean.numel()
        if std.ndim != 0:
            raise ValueError(f"std must be a single number, got shape {tuple(std.shape)}")
        if covariance is not None and covariance.shape != (dim, dim):
            raise ValueError(f"covariance must be ({dim}, {dim}) for this mean, got {tuple(covariance.shape)}")
        for name, value in (("mean", mean), ("std", std), ("covariance", covariance)):
            if value is not None and not bool(value.isfinite().all()):
                raise ValueError(f"{name} holds NaN or infinite values")
            self.register_buffer(name, None if value is None else value.detach().to(torch.float64, copy=True))
        # Below the rounding of the mean in float64 there is no spread, only noise of the summation.
        if float(std) <= 1e-14 * float(mean.abs().max()):
            raise ValueError(f"std must be positive, got {float(std):g}: the data are constant")
        self._eigh: tuple[Tensor, int, Tensor, Tensor] | None = None

    @classmethod
    def standard(cls, shape: Sequence[int], covariance: bool = False) -> "Statistics":
        """The moments of N(0, I): what to assume without data, and a place to load a state dict into.

        Args:
            shape: Shape of one sample.
            covariance: Whether there is a covariance.
        """
        mean = torch.zeros(tuple(shape), dtype=torch.float64)
        return cls(mean, 1.0, torch.eye(mean.numel(), dtype=torch.float64) if covariance else None)

    @classmethod
    def estimate(cls, x: Tensor | Iterable[Tensor], max_covariance_dim: int = 4096) -> "Statistics":
        """Unbiased moments of samples, in one pass.

        Batches are merged pairwise, means and centred sums of squares, in float64 on the CPU (Chan, Golub and
        LeVeque 1983, equation 2.1), which stays accurate where the mean is large against the spread.

        Args:
            x: Samples `(N, *shape)`, or an iterable of batches `(B, *shape)`.
            max_covariance_dim: A sample of more values than this gets no covariance.

        Raises:
            ValueError: Fewer than two samples, batches whose shapes differ, NaN or infinite values, or
                samples that are all equal.
        """
        batches = x.split(4096) if isinstance(x, Tensor) else x
        count, shape = 0, torch.Size()
        mean, scatter = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
        full = False
        for batch in batches:
            if batch.ndim < 1 or len(batch) == 0:
                continue
            if count == 0:
                shape = batch.shape[1:]
                dim = shape.numel()
                full = dim <= max_covariance_dim
                mean = torch.zeros(dim, dtype=torch.float64)
                scatter = torch.zeros((dim, dim) if full else (dim,), dtype=torch.float64)
            if batch.shape[1:] != shape:
                raise ValueError(f"batches differ in sample shape: {tuple(shape)} and {tuple(batch.shape[1:])}")
            values = batch.detach().cpu().double().flatten(1) if shape else batch.detach().cpu().double()[:, None]
            if not bool(values.isfinite().all()):
                raise ValueError("samples hold NaN or infinite values")
            n = len(values)
            batch_mean = values.mean(dim=0)
            centred = values - batch_mean
            delta = batch_mean - mean
            weight = count * n / (count + n)
            if full:
                scatter += centred.T @ centred + weight * torch.outer(delta, delta)
            else:
                scatter += centred.square().sum(dim=0) + weight * delta.square()
            mean = mean + delta * (n / (count + n))
            count += n
        if count < 2:
            raise ValueError(f"statistics need at least 2 samples, got {count}")
        variance = (scatter.diagonal() if full else scatter) / (count - 1)
        std = variance.mean().sqrt()
        return cls(mean.reshape(shape), std, scatter / (count - 1) if full else None)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.mean.shape)

    @property
    def dim(self) -> int:
        """Number of values in one sample, D."""
        return self.mean.numel()

    def eigh(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues `(D,)`, ascending and never negative, and eigenvectors `(D, D)`, in columns.

        float64 whatever the buffers' dtype; computed once and again only after the covariance changes.

        Raises:
            ValueError: There is no covariance.
        """
        covariance = self.covariance
        if covariance is None:
            raise ValueError(f"no covariance was kept for these {self.dim} dimensions; raise max_covariance_dim")
        version = covariance._version  # counts writes in place, such as load_state_dict's
        if self._eigh is None or self._eigh[0] is not covariance or self._eigh[1] != version:
            values, vectors = torch.linalg.eigh(covariance.double())
            self._eigh = (covariance, version, values.clamp(min=0), vectors)
        return self._eigh[2], self._eigh[3]

    @property
    def largest_std(self) -> float:
        """The standard deviation in the direction in which it is largest; `std` where there is no covariance."""
        return float(self.std) if self.covariance is None else float(self.eigh()[0][-1].sqrt())

    def denoise(self, x: Tensor, level: float) -> Tensor:
        """E[x₀ | x₀ + level ε = x] if the data were normal: m + Σ (Σ + level² I)⁻¹ (x − m), of the shape of x.

        With the variance `std`² in place of Σ where there is no covariance.
        """
        centred = x.flatten(1) - self.mean.to(x).flatten()
        if self.covariance is None:
            variance = float(self.std) ** 2
            shrunk = centred * (variance / (variance + level**2))
        else:
            values, vectors = self.eigh()
            basis = vectors.to(x)
            shrunk = (centred @ basis * (values / (values + level**2)).to(x)) @ basis.mT
        return (self.mean.to(x).flatten() + shrunk).reshape(x.shape)

    def extra_repr(self) -> str:
        return f"shape={self.shape}, std={float(self.std):.4g}, covariance={self.covariance is not None}"
