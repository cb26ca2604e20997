"""The default solver with noise: a predictor and a corrector whose weights suit normal data of every width."""

from collections.abc import Iterator

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import Value
from scoresde.sampling.adams_plan import AdamsStep, Same, adams_step
from scoresde.sampling.normal_fit import fitted_plan, width_shares
from scoresde.sampling.solver import Noise, Solver
from scoresde.sampling.stochasticity import ConstantTau, StepTau, Stochasticity
from scoresde.score import ScoreModel

__all__ = ["AutoSDE"]

# Of the last noise level, and of the largest standard deviation of the data: the widths that weights are fitted to.
_NARROWEST, _WIDEST = 1.5, 1.5
# Noise of so many standard deviations makes the density of any data normal enough for one step without an evaluation.
_NORMAL = 10.0


@checked
class AutoSDE(Value, Solver):
    """The default solver with noise, whose weights leave the variance of normal data of every width as it is.

    With x̂ = x/α, the data prediction D, h the length of a step in λ = log(α/σ), κ = τ² h and a = e^{−(h + κ)},

        p  = a x̂ + (1 − a) (D₀ + b (D₀ − D₋₁) + b' (D₋₁ − D₋₂)) + ν z,
        x̂ ← a x̂ + (1 − a) (D₀ + c (D(p) − D₀)) + ν z,      ν² = s² (1 − e^{−2κ}),

    with s = σ/α at the step's end. Those are the steps of an Adams predictor of up to three values and a corrector of
    one earlier value, in which b, b' and c are not those of polynomials: they are fitted, before the first step, so
    that under every N(m, v I) with √v from the last noise level up to 1.5 times the largest standard deviation of the
    data, the states have their variance; the widths of the data's principal directions count more, where they are
    known. A direction of the data that is narrow, in one mode alone or in all, so comes out neither with noise left in
    it nor too narrow, although its width is not known. As h falls the weights go to those of polynomials in λ, and the
    method is of weak order 2.

    Noise is drawn by `StepTau`: little in long steps, which bear little, and that of the reverse SDE in short ones.
    The first step is the exact flow of normal data with the mean and covariance of the data, where the model knows
    them and its start is at 10 times their standard deviation or more. It takes no evaluation unless a condition is
    bound or the field is a guided one, for which the model's difference to such data is added. All others take one.

    What it assumes: a grid with steps of like length in λ down to the last time, such as `DataLogSNR`, and modes that
    are normal where they are narrow. At 5 evaluations standard deviations are up to a fifth off. Components of very
    different widths at one place (heavy tails) come out with standard deviations up to a tenth too small at 10 to 15
    evaluations and a twentieth at 30. `AutoAdams` is for samples that are wanted without noise on the way.

    Args:
        tau: The noise level, a number for a `ConstantTau`; `StepTau()` if not given.

    Eight steps of one Gaussian with a wide and a narrow direction, whose covariance the grid does not use:

    >>> from scoresde.sampling import DataLogSNR, Sampler
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import EDMSDE
    >>> model = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 2), torch.tensor([[1.0, 0.0009]]), EDMSDE())
    >>> out = Sampler(AutoSDE(), DataLogSNR(9), denoise=False)(model, (20000, 2))
    >>> out.nfe, [round(v, 1) for v in (out.x.std(dim=0) / torch.tensor([1.0, 0.03])).tolist()]
    (8, [1.0, 1.0])

    References:
        Xue et al. 2023, SA-Solver: stochastic Adams solver for fast sampling of diffusion models,
            https://arxiv.org/abs/2309.05019
        Wang & Vastola 2024, The unreasonable effectiveness of Gaussian score approximation for diffusion models and
            its applications, https://arxiv.org/abs/2412.09726
    """

    def __init__(self, tau: Stochasticity | float | None = None) -> None:
        if isinstance(tau, int | float):
            tau = ConstantTau(tau)
        elif not (tau is None or isinstance(tau, Stochasticity)):
            raise ValueError(f"tau is {tau!r}, expected a number or a Stochasticity")
        self.tau = tau

    @property
    def stochastic(self) -> bool:
        return self.tau is None or self.tau.adds_noise

    def plan(self, model: ScoreModel, times: Tensor) -> tuple[list[AdamsStep], bool]:
        """Return the coefficients of every step, and whether the first is the exact one of normal data instead."""
        known, ends = model.statistics, model.sde.noise_level(times[[0, -1]]).tolist()
        carried = known is not None and ends[0] >= _NORMAL * float(known.std)
        narrowest = _NARROWEST * ends[1]
        placed = model.step_statistics
        widest = max(_WIDEST * (1.0 if placed is None else placed.largest_std), 10 * narrowest)
        tau = StepTau() if self.tau is None else self.tau
        shares = width_shares(narrowest, widest, placed)
        return fitted_plan(tau, Same(model.sde), tuple(times.tolist()), *shares, carried), carried

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        steps, carried = self.plan(model, times)
        last = len(steps) - 1
        ones = torch.ones_like(times[:-1])
        predict = model.prediction(times[:-1], ones, torch.zeros_like(ones))
        # Statistics may be of another density than the one that is sampled.
        normal = model.normal_at_most_noise and not model.conditioned
        values: list[Tensor] = []
        for i, step in enumerate(steps):
            if i == 0 and carried:
                x, first = _carried(model, x, times, None if normal else predict(x, 0))
                values = [first]
                state = x
            else:
                if not values:
                    values = [predict(x, 0)]
                base = step.on_x * x
                if step.on_noise:
                    base.add_(noise(*step.clock), alpha=step.on_noise)
                state = adams_step(base, 1.0, step.predictor, values, None)
            if i < last:
                values.insert(0, predict(state, i + 1))
                del values[3:]
                x = state if step.corrector is None else adams_step(base, 1.0, step.corrector, values, None)
            else:
                x = state
            yield x


def _carried(model: ScoreModel, x: Tensor, times: Tensor, denoised: Tensor | None) -> tuple[Tensor, Tensor]:
    """The state at times[1] by the flow of normal data, and the prediction at times[0].

    Args:
        model: The score model, whose statistics are known.
        x: The state at times[0].
        times: The times.
        denoised: The model's prediction at times[0], whose difference to that of normal data is added; None for no
            difference.
    """
    known = model.statistics
    assert known is not None
    start, stop = model.sde.noise_level(times[:2]).tolist()
    before, after = model.sde.alpha(times[:2]).tolist()
    mean = known.mean.to(x).reshape(x.shape[1:])
    scaled = x / before
    guess = known.denoise(scaled, start)
    moved = mean + known.scaled(scaled - mean, lambda v: ((v + stop**2) / (v + start**2)).sqrt())
    if denoised is not None:
        # As for any prediction that stays the same: D adds (1 − s₁/s₀) D to x̂.
        moved = torch.add(moved, denoised - guess, alpha=1 - stop / start)
    return after * moved, guess if denoised is None else denoised
