"""Moments of the data in model space: mean, scale and covariance."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from scoresde.arguments import as_tensor, checked
from scoresde.numerics.dct import DCT

__all__ = ["Statistics", "at_least_float32"]

# Elements of a batch that are processed at once: 128 MiB in float64.
_ELEMENTS = 2**24

Value = TypeVar("Value")


def at_least_float32(move: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A move of tensors, for `Module._apply`, that changes only the device where it would give half precision."""

    def kept(value: Tensor) -> Tensor:
        moved = move(value)
        return value.to(moved.device) if moved.is_floating_point() and moved.dtype.itemsize < 4 else moved

    return kept


@checked
class Statistics(nn.Module):
    """First and second moments of a data set, as buffers that are saved with the model that uses them.

    Args:
        mean: Mean of every element, `(*shape)`.
        std: Root of the variance averaged over all D elements of a sample, 0-dim or a float.
        covariance: Covariance of the flattened sample, `(D, D)`; None if it is too large to keep, or not known.
        variance: Variance of every element, `(*shape)`, where there is no covariance.
        dct_variance: Variance of every coefficient of the `DCT`, `(*shape)`, where there is no covariance.

    All are kept in float64; moving the module to another dtype moves them too, but none below float32, since a network
    in half precision leaves the state and the moments of the data as they are.

    Raises:
        ValueError: Shapes that do not fit, numbers that are not finite, negative variances, variances in addition to a
            covariance, or a std that is not positive (constant data).

    >>> x = torch.tensor([[0.0, 1.0], [2.0, 5.0]])
    >>> statistics = Statistics.estimate(x)
    >>> statistics.mean.tolist(), statistics.variances.tolist()
    ([1.0, 3.0], [2.0, 8.0])
    >>> statistics
    Statistics(shape=(2,), std=2.236, covariance=True)
    """

    mean: Tensor
    std: Tensor
    covariance: Tensor | None
    variance: Tensor | None
    dct_variance: Tensor | None

    def __init__(
        self,
        mean: Tensor,
        std: Tensor | float,
        covariance: Tensor | None = None,
        variance: Tensor | None = None,
        dct_variance: Tensor | None = None,
    ) -> None:
        super().__init__()
        std = torch.as_tensor(std, dtype=torch.float64)
        dim = mean.numel()
        if std.ndim != 0:
            raise ValueError(f"std must be a single number, got shape {tuple(std.shape)}")
        if covariance is not None and covariance.shape != (dim, dim):
            raise ValueError(f"covariance must be ({dim}, {dim}) for this mean, got {tuple(covariance.shape)}")
        variances = {"variance": variance, "dct_variance": dct_variance}
        for name, value in variances.items():
            if value is None:
                continue
            if covariance is not None:
                raise ValueError(f"got {name} beside a covariance, which tells it: give one of them")
            if value.shape != mean.shape or bool((value < 0).any()):
                raise ValueError(
                    f"{name} must be {tuple(mean.shape)} numbers of at least 0, as the mean has this shape, got "
                    f"shape {tuple(value.shape)}, minimum {float(value.min()):g}"
                )
        for name, value in {"mean": mean, "std": std, "covariance": covariance, **variances}.items():
            if value is not None and not bool(value.isfinite().all()):
                raise ValueError(f"{name} holds NaN or infinite values")
            self.register_buffer(name, None if value is None else value.detach().to(torch.float64, copy=True))
        # Below the rounding of the mean in float64 there is no spread, only noise of the summation.
        if float(std) <= 1e-14 * float(mean.abs().max()):
            raise ValueError(f"std must be positive, got {float(std):g}: the data are constant")
        self._derived: dict[str, tuple[Tensor, int, Any]] = {}

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
            max_covariance_dim: Largest number of elements with a covariance; above it there are the variances of the
                elements and of the DCT coefficients.

        Raises:
            ValueError: Fewer than two samples, batches whose shapes differ, NaN or infinite values, or
                samples that are all equal.
        """
        if hasattr(x, "__array__") or not isinstance(x, Iterable) or isinstance(x, str):
            x = as_tensor("x", x)
        batches = torch.split(x, 4096) if isinstance(x, Tensor) else x
        count, shape, dct = 0, torch.Size(), None
        mean, scatter, dct_scatter = (torch.zeros(0, dtype=torch.float64) for _ in range(3))
        for values in (part for batch in batches for part in _parts(batch)):
            if count == 0:
                shape, dim = values.shape[1:], values.shape[1:].numel()
                full = dim <= max_covariance_dim
                dct = None if full else DCT(shape)
                mean, dct_scatter = (torch.zeros(dim, dtype=torch.float64) for _ in range(2))
                scatter = torch.zeros((dim, dim) if full else (dim,), dtype=torch.float64)
            if values.shape[1:] != shape:
                raise ValueError(f"batches differ in sample shape: {tuple(shape)} and {tuple(values.shape[1:])}")
            if not bool(values.isfinite().all()):
                raise ValueError("samples hold NaN or infinite values")
            n = len(values)
            values = values.reshape(n, -1)
            batch_mean = values.mean(dim=0)
            centred = values - batch_mean
            delta = batch_mean - mean
            weight = count * n / (count + n)
            if dct is None:
                scatter += centred.T @ centred + weight * torch.outer(delta, delta)
            else:
                scatter += centred.square().sum(dim=0) + weight * delta.square()
                dct_scatter += dct(centred).square().sum(dim=0) + weight * dct(delta[None])[0].square()
            mean = mean + delta * (n / (count + n))
            count += n
        if count < 2:
            raise ValueError(f"statistics need at least 2 samples, got {count}")
        mean, moments = mean.reshape(shape), scatter / (count - 1)
        if dct is None:
            return cls(mean, moments.diagonal().mean().sqrt(), moments)
        dct_moments = (dct_scatter / (count - 1)).reshape(shape)
        return cls(mean, moments.mean().sqrt(), None, moments.reshape(shape), dct_moments)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.mean.shape)

    @property
    def dim(self) -> int:
        """Number D of elements of one sample."""
        return self.mean.numel()

    def eigh(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues `(D,)`, ascending and never negative, and eigenvectors `(D, D)`, in columns.

        They are in float64 whatever the buffers' dtype, and are computed again only after the covariance has changed.

        Raises:
            ValueError: No covariance.
        """
        if self.covariance is None:
            raise ValueError(f"no covariance was kept for these {self.dim} dimensions; raise max_covariance_dim")

        def compute(covariance: Tensor) -> tuple[Tensor, Tensor]:
            values, vectors = torch.linalg.eigh(covariance)
            return values.clamp(min=0), vectors

        return self._from(self.covariance, "eigh", compute)

    @property
    def variances(self) -> Tensor | None:
        """Variance of every element, `(D,)` float64; None if it is not known."""
        if self.covariance is not None:
            return self.covariance.diagonal().double()
        return None if self.variance is None else self.variance.double().flatten()

    @property
    def dct_variances(self) -> Tensor | None:
        """Variance of every coefficient of the `DCT` of a sample, `(D,)` float64; None if it is not known."""
        if self.covariance is None:
            return None if self.dct_variance is None else self.dct_variance.double().flatten()

        def compute(covariance: Tensor) -> Tensor:
            dct = DCT(self.shape, covariance.device)
            return dct(dct(covariance).mT).diagonal().clamp(min=0)

        return self._from(self.covariance, "dct_variances", compute)

    def _from(self, covariance: Tensor, name: str, compute: Callable[[Tensor], Value]) -> Value:
        """A value computed from the covariance in float64, again only after the covariance has changed."""
        version = covariance._version  # counts writes in place, such as load_state_dict's
        found = self._derived.get(name)
        if found is None or found[0] is not covariance or found[1] != version:
            found = self._derived[name] = covariance, version, compute(covariance.double())
        value: Value = found[2]
        return value

    @property
    def largest_std(self) -> float:
        """Standard deviation in the direction in which it is largest.

        Without a covariance, the largest that is known: of the elements, of the DCT coefficients, or `std`.
        """
        if self.covariance is not None:
            return float(self.eigh()[0][-1].sqrt())
        known = (v for v in (self.variances, self.dct_variances) if v is not None)
        return max(float(self.std), *(float(v.max().sqrt()) for v in known), 0.0)

    @property
    def spectrum(self) -> Tensor:
        """Variances `(D,)` in D orthogonal directions, float64: those of the covariance, ascending, if there is one.

        Without a covariance they are those of the DCT coefficients or of the elements, or `std`² for all if neither is
        known.
        """
        if self.covariance is not None:
            return self.eigh()[0]
        known = (v for v in (self.dct_variances, self.variances) if v is not None)
        return next(known, (self.std.double() ** 2).expand(self.dim))

    @property
    def narrowest_std(self) -> float:
        """Smallest standard deviation of a direction in which the data vary; `std` if no other is known.

        Above 256 elements, or without a covariance, the directions are the elements. One in which the data vary by less
        than 1e-6 of the largest standard deviation, or than float32 resolves in its buffers, counts as constant.
        """
        variances = self.spectrum if self.covariance is not None and self.dim <= 256 else self.variances
        if variances is None:
            return float(self.std)
        return float(self._varying(variances).min().sqrt())

    @property
    def narrow_std(self) -> float:
        """Standard deviation that a tenth of the principal directions in which the data vary do not exceed.

        Without a covariance it is `std`.
        """
        if self.covariance is None:
            return float(self.std)
        variances = self._varying(self.eigh()[0])
        return float(variances[(len(variances) - 1) // 10].sqrt())

    def _varying(self, variances: Tensor) -> Tensor:
        """Those of directions in which the data vary."""
        # Buffers in float32 have directions of no variance with that of their rounding.
        return variances[variances > max(1e-12, torch.finfo(self.std.dtype).eps) * variances.max()]

    def widened(self, factor: float) -> "Statistics":
        """Those of data whose differences from their mean are a factor larger; the same object for the same factor."""

        def compute(std: Tensor) -> Statistics:
            square = factor**2
            variances = (None if v is None else square * v for v in (self.covariance, self.variance, self.dct_variance))
            wide = Statistics(self.mean, factor * std, *variances)
            if wide.covariance is not None:
                values, vectors = self.eigh()
                wide._derived["eigh"] = wide.covariance, wide.covariance._version, (square * values, vectors)
            return wide

        return self._from(self.std, f"widened {factor}", compute)

    def deviation(self) -> float:
        """Bound on the difference between the variance in any direction and `std`²; 0 if no other is known."""
        variance = self.std.double() ** 2
        if self.covariance is not None:
            difference = self.covariance.double().clone()
            difference.diagonal().sub_(variance)
            return float(torch.linalg.matrix_norm(difference))
        return 0.0 if self.dct_variances is None else float((self.dct_variances - variance).abs().max())

    def scaled(self, x: Tensor, factor: Callable[[Tensor], Tensor]) -> Tensor:
        """x `(B, ...)` times f(Σ), for a function f of the variance in each principal direction.

        Without a covariance, Σ is diagonal in the DCT basis if the variances are known there, and `std`² I if not.
        """
        flat = x.flatten(1)
        variances = self.dct_variances if self.covariance is None else None
        if self.covariance is not None:
            values, vectors = self.eigh()
            basis = vectors.to(x)
            flat = (flat @ basis * factor(values).to(x)) @ basis.mT
        elif variances is not None:
            dct = DCT(self.shape, x.device)
            flat = dct.inverse(dct(flat) * factor(variances).to(x))
        else:
            flat = flat * factor(self.std.double() ** 2).to(x)
        return flat.reshape(x.shape)

    def denoise(self, x: Tensor, level: float) -> Tensor:
        """Mean E[x₀ | x₀ + level ε = x] if the data were normal: m + Σ (Σ + level² I)⁻¹ (x − m), of the shape of x.

        Σ is as in `scaled`.
        """
        mean = self.mean.to(x).reshape(x.shape[1:])
        return mean + self.scaled(x - mean, lambda variances: variances / (variances + level**2))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # An earlier version kept no variances, and a placeholder has none yet.
        if f"{prefix}mean" in state_dict:
            for name in ("variance", "dct_variance"):
                known = f"{prefix}{name}" in state_dict
                if known != (getattr(self, name) is not None) and self.covariance is None:
                    setattr(self, name, torch.zeros_like(self.mean) if known else None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Statistics":
        super()._apply(at_least_float32(fn), recurse)  # type: ignore[no-untyped-call, unused-ignore]
        return self

    def extra_repr(self) -> str:
        return f"shape={self.shape}, std={float(self.std):.4g}, covariance={self.covariance is not None}"


def _parts(batch: Tensor) -> Iterable[Tensor]:
    """Parts `(n, *shape)` of a batch, in float64 on the CPU."""
    if batch.ndim and len(batch):
        for part in torch.split(batch, max(1, _ELEMENTS // batch[0].numel())):
            yield part.detach().cpu().double()
