"""Exact scores of Gaussian mixtures and of finite data sets."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.score.model import ScoreModel
from scoresde.sde import SDE, expand_to
from scoresde.statistics import Statistics, at_least_float32

__all__ = ["EmpiricalScore", "GaussianMixtureScore"]


class ExactScore(ScoreModel):
    """A score model that knows p₀ itself, and so can be evaluated at every noise level and under any SDE.

    It takes no conditions. A subclass that does says so by `takes_condition`.
    """

    _shape: tuple[int, ...]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ExactScore":
        # Half precision is for networks.
        apply: Any = super()._apply
        apply(at_least_float32(fn), recurse)
        return self

    @property
    def exact(self) -> bool:
        return True

    @property
    def normal_at_most_noise(self) -> bool:
        return True

    @property
    def log_snr_range(self) -> tuple[float, float]:
        return -math.inf, math.inf

    def _check_names(self, cond: Iterable[str]) -> None:
        for name in cond:
            if not self.takes_condition(name):
                raise ValueError(
                    f"{name} is no argument of this call, and no condition of {type(self).__name__}, which takes none"
                )

    def _check(self, x: Tensor, t: Tensor | float, cond: Iterable[str] = ()) -> Tensor:
        """The times in float64, `()` or `(B,)`, after a check of the shapes of x and t and the names of conditions."""
        self._check_names(cond)
        if x.ndim < 2 or tuple(x.shape[1:]) not in (self._shape, (math.prod(self._shape),)):
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, {', '.join(map(str, self._shape))})")
        t = torch.as_tensor(t, dtype=torch.float64)
        expand_to(t, x)  # for its check of the shape
        return t


@checked
class GaussianMixtureScore(ExactScore):
    """The exact score, density and samples of a Gaussian mixture at every t: ground truth for tests.

    At time t the mixture is Σ w_k N(α μ_k, α² Σ_k + σ² I).

    >>> from scoresde.sde import EDMSDE
    >>> model = GaussianMixtureScore([1.0], [[0.0, 0.0]], [3.0], EDMSDE())  # one component, of variance 3
    >>> x = torch.tensor([[2.0, 4.0]])
    >>> model.score(x, torch.tensor(1.0)).tolist()  # −x/(3 + σ²)
    [[-0.5, -1.0]]

    Args:
        weights: Positive weights of the components, `(K,)`, which are normalised.
        means: Means `(K, ...)`.
        covariances: Isotropic variances `(K,)`, diagonals `(K, ...)`, or full covariances `(K, D, D)`, symmetric and
            positive semi-definite, where D is the number of elements of a mean.
        sde: The forward SDE.

    Raises:
        ValueError: Shapes that do not fit, weights that are not positive, or matrices that are not covariances.
    """

    weights: Tensor
    means: Tensor
    variances: Tensor
    rotations: Tensor | None

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor, sde: SDE) -> None:
        eps = 1e-6 if getattr(covariances, "dtype", None) == torch.float32 else 1e-12
        weights, means, covariances = (torch.as_tensor(v, dtype=torch.float64) for v in (weights, means, covariances))
        if means.ndim < 2 or not bool(means.isfinite().all()):
            raise ValueError(f"means have shape {tuple(means.shape)}, expected finite numbers of shape (K, ...)")
        count = means.shape[0]
        flat = means.reshape(count, -1)
        dim = flat.shape[1]
        if weights.shape != (count,) or not bool((weights > 0).all()):
            raise ValueError(f"expected {count} positive weights, one for each mean, got {weights.tolist()}")
        rotations = None
        if covariances.shape == (count,):
            variances = covariances[:, None].expand(count, dim).contiguous()
        elif covariances.shape == means.shape:
            variances = covariances.reshape(count, dim)
        elif covariances.shape == (count, dim, dim):
            if not torch.allclose(covariances, covariances.mT, atol=1e-10 * float(covariances.abs().max())):
                raise ValueError("covariances are not symmetric; give Σ, not its Cholesky factor")
            variances, rotations = torch.linalg.eigh(covariances)
            # Round-off of a semi-definite matrix; larger negative eigenvalues are rejected below.
            tolerance = eps * variances.abs().amax(1, keepdim=True)
            variances = torch.where(variances.abs() <= tolerance, torch.zeros_like(variances), variances)
        else:
            raise ValueError(
                f"covariances have shape {tuple(covariances.shape)}, expected ({count},), {tuple(means.shape)} "
                f"or ({count}, {dim}, {dim})"
            )
        if not bool((variances >= 0).all()):
            raise ValueError("covariances are not positive semi-definite")
        weights = weights / weights.sum()
        mean = weights @ flat
        spread = flat - mean
        covariance = torch.einsum("k,ki,kj->ij", weights, spread, spread)
        covariance = covariance + (
            torch.diag(weights @ variances)
            if rotations is None
            else torch.einsum("k,kij,kj,klj->il", weights, rotations, variances, rotations)
        )
        std = covariance.diagonal().mean().sqrt()
        known = Statistics(mean.reshape(means.shape[1:]), std, covariance) if std > 0 else None
        super().__init__(sde, known)
        self._shape = tuple(means.shape[1:])
        self.register_buffer("weights", weights)
        self.register_buffer("means", flat)
        self.register_buffer("variances", variances)
        self.register_buffer("rotations", rotations)

    def _parts(self) -> list[str]:
        return [f"{len(self.weights)} components", repr(self.sde)]

    def _posterior(
        self, x: Tensor, t: Tensor | float, cond: Iterable[str] = ()
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The log joint density `(B, K)`; z and its variances `(B, K, D)` in each eigenbasis; α and σ `(B, 1, 1)`."""
        t = self._check(x, t, cond)
        alpha = self.sde.alpha(t).to(x).reshape(-1, 1, 1)
        sigma = self.sde.sigma(t).to(x).reshape(-1, 1, 1)
        z = x.reshape(x.shape[0], 1, -1) - alpha * self.means.to(x)
        if self.rotations is not None:
            z = torch.einsum("bki,kij->bkj", z, self.rotations.to(x))
        variance = alpha**2 * self.variances.to(x) + sigma**2
        log_density = -0.5 * (z**2 / variance + variance.log() + math.log(2 * math.pi)).sum(2)
        return self.weights.to(x).log() + log_density, z, variance, alpha, sigma

    def _mix(self, log_joint: Tensor, z: Tensor, x: Tensor) -> Tensor:
        """The posterior mean Σ_k r_k U_k z_k over components, in the shape of x."""
        z = log_joint.softmax(1)[:, :, None] * z
        if self.rotations is None:
            return z.sum(1).reshape(x.shape)
        return torch.einsum("bkj,kij->bi", z, self.rotations.to(z)).reshape(x.shape)

    @property
    def narrowest(self) -> float:
        return math.sqrt(float(self.variances.min()))

    @property
    def evaluation_size(self) -> int:
        full = 1 if self.rotations is None else self.means.shape[1]
        return self.variances.numel() * full

    @checked
    def log_prob(self, x: Tensor, t: Tensor | float) -> Tensor:
        """The log-density log p_t(x) in nats, `(B,)`."""
        return self._posterior(x, t)[0].logsumexp(1)

    @checked
    def sample(self, n: int, t: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        """n draws from p_t, `(n, ...)` in float64."""
        if n < 1:
            raise ValueError(f"n is {n}, expected at least one sample")
        device = self.means.device
        t = torch.as_tensor(t, dtype=torch.float64)
        if t.ndim:
            raise ValueError(f"t has shape {tuple(t.shape)}, expected one number")
        k = torch.multinomial(self.weights.double(), n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], dtype=torch.float64, device=device, generator=generator)
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        widths = (alpha**2 * self.variances[k].double() + sigma**2).sqrt()
        if self.rotations is None:
            z = z * widths
        else:
            # The symmetric root of the covariance: eigenvectors have signs that depend on the machine's LAPACK.
            rotations = self.rotations[k].double()
            z = torch.einsum("bij,bj,bkj,bk->bi", rotations, widths, rotations, z)
        return (alpha * self.means[k].double() + z).reshape(n, *self._shape)

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        log_joint, z, variance, alpha, _ = self._posterior(x, t, cond)
        gain = alpha * self.variances.to(x) / variance
        centre = (log_joint.softmax(1) @ self.means.to(x)).reshape(x.shape)
        return centre + self._mix(log_joint, gain * z, x)

    def score(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        log_joint, z, variance, _, _ = self._posterior(x, t, cond)
        return self._mix(log_joint, -z / variance, x)

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        log_joint, z, variance, _, sigma = self._posterior(x, t, cond)
        return self._mix(log_joint, sigma * z / variance, x)

    def noise_and_trace(self, x: Tensor, t: Tensor, **cond: Any) -> tuple[Tensor, Tensor] | None:
        """The noise prediction, and the trace of its Jacobian, for about the cost of the first.

        With responsibilities r_k and scores s_k of the components, of covariances C_k at time t, and s = Σ r_k s_k,

            ∇ · s = Σ_k r_k (|s_k|² − tr C_k⁻¹) − |s|²,    ε = −σ s.
        """
        # Its terms nearly cancel where noise is small, and would lose the digits of float32.
        log_joint, z, variance, _, sigma = self._posterior(x.double(), t, cond)
        scores = -z / variance
        score = self._mix(log_joint, scores, x)
        each = scores.square().sum(2) - variance.reciprocal().sum(2)
        divergence = (log_joint.softmax(1) * each).sum(1) - score.square().flatten(1).sum(1)
        sigma = sigma.reshape(-1)
        return (-expand_to(sigma, x) * score).to(x.dtype), -sigma * divergence


@checked
class EmpiricalScore(ExactScore):
    """The exact score of a finite data set: p₀ puts weight 1/N on each sample.

    Args:
        data: Samples `(N, ...)`.
        sde: The forward SDE.
        chunk: Number of elements to hold at once; larger batches are processed in parts.

    Raises:
        ValueError: An empty data set, or data that are not finite.
    """

    data: Tensor

    def __init__(self, data: Tensor, sde: SDE, chunk: int = 2**24) -> None:
        if data.ndim < 2 or data.shape[0] < 1:
            raise ValueError(f"data has shape {tuple(data.shape)}, expected (N, ...) with at least one sample")
        if not bool(data.isfinite().all()):
            raise ValueError("data has values that are not finite; remove them first")
        varies = bool((data != data[0]).any())
        super().__init__(sde, Statistics.estimate(data) if varies else None)
        self._shape = tuple(data.shape[1:])
        self.chunk = chunk
        self.register_buffer("data", data.flatten(1))

    def _parts(self) -> list[str]:
        return [f"{len(self.data)} samples", repr(self.sde)]

    @property
    def evaluation_size(self) -> int:
        return self.data.numel()

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        t = self._check(x, t, cond)
        data = self.data.to(x)
        scaled = x.flatten(1) / expand_to(self.sde.alpha(t), x.flatten(1))
        precision = (2 * self.sde.log_snr(t)).exp().to(x).expand(x.shape[0])
        rows = max(1, self.chunk // data.numel())
        parts = []
        for part, weight in zip(torch.split(scaled, rows), torch.split(precision, rows), strict=True):
            # The sum |x|² − 2 x·y + |y|² would cancel: at small σ the distances are small against its terms.
            distance = (part[:, None] - data).square().sum(2)
            parts.append((-0.5 * weight[:, None] * distance).softmax(1) @ data)
        return torch.cat(parts).reshape(x.shape)
