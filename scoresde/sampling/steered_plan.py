"""The coefficients of the steps of a `SteeredSampler`, which its module derives."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from scoresde.score import ScoreModel

__all__ = ["Plan", "Step"]


class Step(NamedTuple):
    """One step: x_s = alpha D₁ + keep u + towards F + noise z, and log W by the inner products of u and F and by S.

    The denoised means in it are D + ahead (D − D_before), with those at the time before.
    """

    alpha: float
    keep: float
    towards: float
    noise: float
    on_u: float
    on_uf: float
    on_f: float
    on_s: float
    constant: float
    ahead: float


class Plan(NamedTuple):
    """All numbers that depend on time alone.

    Attributes:
        alpha: α at the times.
        sigma: σ at the times.
        powers: The powers of the models at each time.
        sums: Their sums.
        steps: The steps from each time to the next.
        ramped: Whether powers change.
    """

    alpha: list[float]
    sigma: list[float]
    powers: list[list[float]]
    sums: list[float]
    steps: list[Step]
    ramped: bool

    @classmethod
    def of(
        cls, model: ScoreModel, times: Tensor, last: Sequence[float], ramp: float | None, order: int, size: int
    ) -> "Plan":
        """The plan for a model on times `(n + 1,)`.

        Args:
            model: The model of the call.
            times: The times.
            last: The powers of the target.
            ramp: The noise level, in standard deviations of the data, at which powers are halfway to the target's.
            order: 2 to take the change of denoised means over a step from the one before, 1 to leave it out.
            size: The number of elements of a sample.

        Raises:
            ValueError: Powers whose sum leaves the density of a step without a finite integral.
        """
        sde = model.sde
        alpha, sigma = sde.alpha(times), sde.sigma(times)
        powers = _powers(torch.tensor(list(last), dtype=torch.float64), alpha, sigma, model.data_std, ramp)
        sums = powers.sum(1)
        a, b = sde.transition(times[:-1], times[1:])
        total, early, late = sums[:-1], sigma[1:], sigma[:-1]
        scale = (a * early).square() + total * b.square()
        if float(sums[0]) <= 0 or not bool((scale > 0).all()):
            raise ValueError(
                f"the powers {list(last)} have the sum {sum(last):g}: a density of that sum is not finite under noise; "
                "give powers whose sum is positive, or keep ramp and take more steps"
            )
        beta = b.square() / (late.square() * scale)
        rise = (2 * sde.log_snr(times)).exp().diff()
        columns = (
            alpha[1:],
            a * early.square() / scale,
            alpha[1:] * b.square() / scale,
            b * early / scale.sqrt(),
            0.5 * total * (total - 1) * beta,
            -alpha[:-1] * (total - 1) * beta,
            0.5 * (alpha[1:] * b / early).square() / scale,
            -0.5 * rise,
            size * (total * (late / early).log() - 0.5 * (scale / early.square()).log()),
        )
        # A sum of 1 is that of the model itself, whose weights are 1 and not 1 up to round-off.
        exact = torch.where(total == 1, 0.0, columns[8])
        table = torch.stack((*columns[:8], exact, _ahead(sde.log_snr(times), order)), dim=1).tolist()
        steps = [Step(*row) for row in table]
        ramped = bool((powers != powers[0]).any())
        return cls(alpha.tolist(), sigma.tolist(), powers.tolist(), sums.tolist(), steps, ramped)

    @property
    def start_power(self) -> float:
        """The sum of the powers at the first time."""
        return self.sums[0]

    def centre(self, model: ScoreModel, x: Tensor) -> Tensor | float:
        """The mean at the first time, of the shape of a sample of x."""
        known = model.statistics
        return 0.0 if known is None else self.alpha[0] * known.mean.to(x).reshape(x.shape[1:])


def _powers(last: Tensor, alpha: Tensor, sigma: Tensor, std: float, ramp: float | None) -> Tensor:
    """The powers at each time, `(n + 1, m)`.

    They rise from shares of the positive ones, whose sum is 1, as the part of the signal in the variance of the state.
    """
    if ramp is None:
        return last.expand(len(alpha), -1)
    positive = last.clamp_min(0)
    first = positive / positive.sum()
    done = 1 / (1 + (sigma / (alpha * std * ramp)).square())
    done[-1] = 1.0
    return first + (last - first) * done[:, None]


def _ahead(log_snr: Tensor, order: int) -> Tensor:
    """The factor c of the change of denoised means over the last step, for D + c (D − D_before), `(n,)`.

    If D goes on in λ as it went, its mean over a step of length h in γ = e^(2 λ) is that of h/(1 − e^(−2 h)) − ½ later.
    """
    found = torch.zeros_like(log_snr[1:])
    if order == 2:
        h = log_snr.diff()
        found[1:] = (h / -torch.expm1(-2 * h) - 0.5)[1:] / h[:-1]
    return found
