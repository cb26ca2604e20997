"""The posterior of a Gaussian mixture under linear measurements with Gaussian noise: a mixture in closed form."""

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.operator import LinearOperator
from scoresde.inverse.problem import Problem
from scoresde.inverse.singular_values import MatrixSingularValues
from scoresde.score import GaussianMixtureScore

__all__ = ["ExactPosterior"]

_CONSISTENT = 1e-4  # how far measurements without noise may be off for rounding to float32, as a part of their length


@checked
class ExactPosterior:
    """The posteriors p(x | y) of a Gaussian mixture as the prior, for y = A x + noise of variance Σ_y.

    For each component N(μ, Σ) of weight w, with S = A Σ Aᵀ + Σ_y and the gain K = Σ Aᵀ S⁻¹,

        mean μ + K (y − A μ),    covariance (I − K A) Σ (I − K A)ᵀ + K Σ_y Kᵀ,    weight ∝ w N(y; A μ, S).

    Args:
        prior: The mixture.
        problem: The problem, of a linear operator and of Gaussian noise or none.

    Raises:
        ValueError: A problem whose posterior is no mixture, or samples of another shape.

    >>> from scoresde.inverse import GaussianNoise, MatrixOperator
    >>> from scoresde.sde import EDMSDE
    >>> prior = GaussianMixtureScore([1.0], [[0.0, 0.0]], [1.0], EDMSDE())
    >>> problem = Problem(MatrixOperator(torch.tensor([[1.0, 0.0]])), GaussianNoise(1.0))
    >>> posterior = ExactPosterior(prior, problem).given(torch.tensor([2.0]))
    >>> posterior.statistics.mean.tolist(), posterior.variances[0].tolist()
    ([1.0, 0.0], [0.5, 1.0])
    """

    def __init__(self, prior: GaussianMixtureScore, problem: Problem) -> None:
        operator = problem.operator
        if not isinstance(operator, LinearOperator):
            raise ValueError(f"{operator!r} is not linear, so that the posterior of a mixture is no mixture")
        if tuple(operator.shape) != tuple(prior.shape or ()):
            raise ValueError(
                f"{operator!r} measures samples of shape {operator.shape}, and the prior's are {prior.shape}"
            )
        noise = problem.noise.covariance(operator.measured)
        if noise is None:
            raise ValueError(f"{problem.noise!r} is not Gaussian, so that the posterior of a mixture is no mixture")
        matrix = operator.matrix()
        self._left: Tensor | None = None
        if not bool(noise.any()):
            # What of a measurement is 0, or known twice, says nothing: the rest are coefficients of orthogonal vectors.
            values = MatrixSingularValues(matrix, operator.shape, operator.measured)
            self._left, self._scales, matrix = values.left, values.values, values.right.T
            noise = torch.zeros(len(matrix), len(matrix), dtype=torch.float64)
        self.prior, self.problem = prior, problem
        covariances = _covariances(prior)
        crossed = covariances @ matrix.T
        spread = matrix @ crossed + noise
        self._gain = torch.linalg.solve(spread, crossed.mT).mT
        rest = torch.eye(matrix.shape[1], dtype=torch.float64) - self._gain @ matrix
        kept = rest @ covariances @ rest.mT + self._gain @ noise @ self._gain.mT
        self._covariances = 0.5 * (kept + kept.mT)
        means = prior.means.cpu()
        self._expected = means @ matrix.T
        self._law = torch.distributions.MultivariateNormal(self._expected, spread)
        self._means = means

    def given(self, y: Tensor) -> GaussianMixtureScore:
        """The posterior given one measurement `(*measured)`, under the SDE of the prior.

        Raises:
            ValueError: A measurement of another shape, or, without noise, one that no sample has.
        """
        measured = self.problem.operator.measured
        if tuple(y.shape) != measured:
            raise ValueError(f"y has shape {tuple(y.shape)}, expected one measurement, {measured}")
        flat = y.detach().cpu().double().flatten()
        if self._left is not None:
            kept = self._left.T @ flat
            if not bool((flat - self._left @ kept).norm() <= _CONSISTENT * flat.norm()):
                raise ValueError("y is no A x, and there is no noise: take GaussianNoise(std) with a small std")
            flat = kept / self._scales
        weights = (self.prior.weights.cpu().log() + self._law.log_prob(flat)).softmax(0)
        means = self._means + (self._gain @ (flat - self._expected)[:, :, None])[:, :, 0]
        kept = weights > torch.finfo(torch.float64).tiny
        means = means[kept].reshape(-1, *self.problem.operator.shape)
        return GaussianMixtureScore(weights[kept], means, self._covariances[kept], self.prior.sde)


def _covariances(prior: GaussianMixtureScore) -> Tensor:
    """Those of the components as matrices, `(K, D, D)`."""
    variances = prior.variances.cpu()
    if prior.rotations is None:
        return torch.diag_embed(variances)
    rotations = prior.rotations.cpu()
    return torch.einsum("kij,kj,klj->kil", rotations, variances, rotations)
