"""What a sampler promises, checked against exact flows and exact moments; each check gives a `Verdict`.

Every check is made with an exact score in float64, so that what is seen is the sampler's own. Whether a sampler adds
noise is seen by two seeds from the same starts. Orders, the end and the paths of finer grids are properties of the
sampler, and are measured on problems that show them; errors and moments are those on the prior.
"""

import itertools
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.certificate.contenders import Contender, Ends, Ran
from scoresde.certificate.flows import REFERENCE, normal, point, starts, true_ends, wide
from scoresde.certificate.mixtures import density, draws, generator, moments
from scoresde.certificate.orders import slope, slope_of_ends
from scoresde.certificate.verdicts import Verdict
from scoresde.certificate.watched import Watched
from scoresde.metrics import mixture_modes, sliced_wasserstein
from scoresde.numerics.means import mean_and_error
from scoresde.numerics.values import at_least
from scoresde.score import GaussianMixtureScore

__all__ = ["BUDGETS", "CHECKS", "SamplerExam"]

BUDGETS = (5, 10, 20)
"""The numbers of evaluations at which errors are measured."""
_ORDER_STEPS = (32, 64, 128, 256)
_WEAK_STEPS = (8, 16, 32, 64)
_PATH_STEPS = (16, 32, 64, 128)
_STARTS = 64  # of which orders are measured
_MANY = 2**17  # of which weak orders are measured
_CLEAR = 5.0  # standard errors by which a bias has to differ from 0 to tell an order
_SLACK = 0.25  # below the order that is claimed
_WEAK_SLACK = 0.5  # of weak orders, whose steps are longer
_SAME = 1e-7  # relative difference that round-off may leave
_END = 0.25  # relative error of the noise that is left at the end
_DENOISED = 0.1  # part of the last level that may be left after a denoising
_REFINED = 0.4  # order of paths that refine each other
_BIAS = 0.05  # of the total variance
_STEPS = 64  # of checks at one number of steps
_BLOCKS = 16
_MORE = 4  # times as many samples for what is seen in their distribution


@checked
class SamplerExam:
    """The checks of samplers on a mixture.

    Args:
        prior: The mixture, with the SDE.
        samples: The number of starts of errors and moments.
        seed: Seed of starts and noise.

    Raises:
        ValueError: Fewer than 32 samples.
    """

    def __init__(self, prior: GaussianMixtureScore, *, samples: int = 512, seed: int = 0) -> None:
        at_least("samples", samples, 2 * _BLOCKS)
        self.prior, self.samples, self.seed = prior, samples, seed
        self._true: dict[tuple[Ends, int], Tensor] = {}

    def verdict(self, check: str, sampler: Contender, claimed: float | None = None) -> Verdict:
        """The verdict of a check of `CHECKS`; it does not apply to each sampler.

        Args:
            check: The name of the check.
            sampler: The sampler.
            claimed: The order that it claims; weak for one that adds noise.
        """
        return _CHECKS[check](self, sampler, claimed)

    # -- runs ---------------------------------------------------------------------------------------------

    def _run(
        self, sampler: Contender, model: GaussianMixtureScore, x: Tensor, steps: int, seed: int = 0, first: int = 0
    ) -> tuple[Ran, Watched]:
        watched = Watched(model)
        ran = sampler.run(watched, x, steps, self.seed + seed, first)
        if not bool(ran.x.isfinite().all()):
            raise ValueError(f"{int((~ran.x.flatten(1).isfinite().all(1)).sum())} of {len(x)} samples are not finite")
        return ran, watched

    def _starts(self, sampler: Contender, model: GaussianMixtureScore, steps: int, n: int) -> Tensor:
        return starts(model, sampler.ends(model, steps).first, n, self.seed)

    def _truth(self, sampler: Contender, model: GaussianMixtureScore, x: Tensor, steps: int) -> Tensor:
        """The true ends of states, which samplers with the same ends share on the prior."""
        ends = sampler.ends(model, steps)
        if model is not self.prior:
            return true_ends(model, x, ends)
        key = (ends, len(x))
        if key not in self._true:
            self._true[key] = true_ends(model, x, ends)
        return self._true[key]

    def stochastic(self, sampler: Contender) -> bool:
        """Whether a sampler adds noise: two seeds lead the same starts to different ends."""
        x = self._starts(sampler, self._wide, 8, 4)
        one, other = (self._run(sampler, self._wide, x, 8, seed)[0].x for seed in (0, 1))
        return not torch.equal(one, other)

    @cached_property
    def _wide(self) -> GaussianMixtureScore:
        return wide(self.prior.sde)

    # -- convergence --------------------------------------------------------------------------------------

    def _order(self, sampler: Contender, claimed: float | None) -> Verdict:
        threshold = "none is claimed" if claimed is None else f"at least {claimed:g} − {_SLACK:g}"
        if not sampler.has_steps:
            return _not_for("order", "a tolerance decides on the steps")
        if self.stochastic(sampler):
            return self._weak_order(sampler, claimed)
        distances = []
        for steps in _ORDER_STEPS:
            x = self._starts(sampler, self._wide, steps, _STARTS)
            found = self._run(sampler, self._wide, x, steps)[0].x
            distances.append((found - self._truth(sampler, self._wide, x, steps)).norm(dim=1))
        order, error, used, errors = slope_of_ends(_ORDER_STEPS, distances, 1e4 * REFERENCE)
        if math.isnan(order):
            return Verdict("order", order, error, threshold, None, "errors are below those of the true ends")
        passed = None if claimed is None else order + 2 * error >= claimed - _SLACK
        told = ", ".join(f"{e:.2g} at {n}" for n, e in zip(used, errors, strict=True))
        return Verdict("order", order, error, threshold, passed, f"error of the end {told} steps, on a smooth mixture")

    def _weak_order(self, sampler: Contender, claimed: float | None) -> Verdict:
        threshold = "none is claimed" if claimed is None else f"at least {claimed:g} − {_WEAK_SLACK:g}"
        model, variances = normal(self.prior.sde), torch.tensor([0.16, 1.44], dtype=torch.float64)
        error = math.sqrt(2 / _MANY)
        used, biases = [], []
        for steps in _WEAK_STEPS:
            x = self._starts(sampler, model, steps, _MANY)
            ends = sampler.ends(model, steps)
            expected = variances + (0.0 if ends.denoised else ends.last**2)
            bias = self._run(sampler, model, x, steps)[0].x.var(0) / expected - 1
            worst = float(bias[bias.abs().argmax()])
            if abs(worst) > _CLEAR * error:
                used.append(steps)
                biases.append(worst)
        told = ", ".join(f"{b:+.2g} at {n}" for n, b in zip(used, biases, strict=True))
        what = f"bias of the variance of normal data {told or f'below {_CLEAR * error:.2g}'} steps"
        used, sizes = (
            used[-2:],
            [abs(b) for b in biases[-2:]],
        )
        if len(used) < 2:
            return Verdict("order", math.nan, math.nan, threshold, None, f"{what}: too small for an order")
        order, stderr = slope(used, sizes, [error] * len(used))
        passed = None if claimed is None else order + 2 * stderr >= claimed - _WEAK_SLACK
        return Verdict("order", order, stderr, threshold, passed, what)

    def _refines(self, sampler: Contender, claimed: float | None) -> Verdict:
        if not sampler.has_steps or not self.stochastic(sampler):
            return _not_for("refines", "no steps that are chosen" if not sampler.has_steps else "it adds no noise")
        threshold = f"at least {_REFINED:g} where Brownian paths are promised"
        x = self._starts(sampler, self._wide, _PATH_STEPS[0], 4 * _STARTS)
        found = [self._run(sampler, self._wide, x, steps)[0].x for steps in _PATH_STEPS]
        moved = [(b - a).norm(dim=1) for a, b in itertools.pairwise(found)]
        order, error, _, sizes = slope_of_ends(_PATH_STEPS[:-1], moved, 0.0)
        passed = True if order - 2 * error >= _REFINED else (False if sampler.brownian else None)
        kind = "the same path" if passed else "another path"
        told = f"twice the steps are {kind}: they move the end by {sizes[0]:.2g}, and in the end by {sizes[-1]:.2g}"
        return Verdict("refines", order, error, threshold, passed, told)

    # -- errors on the prior ------------------------------------------------------------------------------

    def _within(self, sampler: Contender, budget: int) -> tuple[int, float] | None:
        """The largest number of steps whose evaluations are within a budget, and these; None if there is none."""
        if not sampler.has_steps:
            return None
        for steps in range(budget, 0, -1):
            try:
                x = self._starts(sampler, self._wide, steps, 1)
                evaluations = self._run(sampler, self._wide, x, steps)[1].cost.evaluations
            except (ValueError, ArithmeticError):  # too few steps for the method
                continue
            if evaluations <= budget:
                return steps, evaluations
        return None

    def _error(self, sampler: Contender, budget: int) -> Verdict:
        check = f"error at {budget}"
        chosen = self._within(sampler, budget)
        if chosen is None:
            why = "a tolerance decides on the steps" if not sampler.has_steps else "every number of steps takes more"
            return _not_for(check, why)
        steps, evaluations = chosen
        return self._error_of(check, sampler, steps, f"{steps} steps, {evaluations:g} evaluations")

    def _own_error(self, sampler: Contender, claimed: float | None) -> Verdict:
        if sampler.has_steps:
            return _not_for("error", "see those at numbers of evaluations")
        return self._error_of("error", sampler, _STEPS, "")

    def _error_of(self, check: str, sampler: Contender, steps: int, made: str) -> Verdict:
        noisy = self.stochastic(sampler)
        x = self._starts(sampler, self.prior, steps, _MORE * self.samples if noisy else self.samples)
        ran, watched = self._run(sampler, self.prior, x, steps)
        found, threshold = ran.x, "none: a number to compare"
        made = made or f"{watched.cost.evaluations / len(x):.4g} evaluations"
        if noisy:
            exact, other = (draws(self.prior, len(x), generator(self.seed, use)) for use in (31, 32))
            distance, floor = sliced_wasserstein(found, exact), sliced_wasserstein(other, exact)
            told = f"sliced Wasserstein-2 to exact samples, whose own is {floor.value:.3g}; {made}"
            return Verdict(check, distance.value, distance.stderr, threshold, None, told)
        squares = (found - self._truth(sampler, self.prior, x, steps)).flatten(1).square().sum(1)
        root = float(squares.mean().sqrt())
        error = float(squares.std()) / (2 * math.sqrt(len(squares)) * root) if root > 0 else 0.0
        return Verdict(check, root, error, threshold, None, f"root mean square distance to true ends; {made}")

    def _moments(self, sampler: Contender, claimed: float | None) -> Verdict:
        if not self.stochastic(sampler):
            return _not_for("moments", "it adds no noise: see its errors")
        x = self._starts(sampler, self.prior, _STEPS, _MORE * self.samples)
        found = self._run(sampler, self.prior, x, _STEPS)[0].x.flatten(1)
        ends, (mean, covariance) = sampler.ends(self.prior, _STEPS), moments(self.prior)
        left = 0.0 if ends.denoised else ends.last**2
        covariance = covariance + left * torch.eye(len(mean), dtype=mean.dtype)
        # The scatter of squared distances from the known mean has the standard error.
        ratio, error = mean_and_error((found - mean).square().sum(1) / covariance.trace())
        width, width_error = self._width(found, left)
        passed = abs(ratio - 1) <= _BIAS + 3 * error and abs(width) <= _BIAS + 3 * width_error
        told = f"relative bias of the total variance at {_STEPS} steps; that of the width of modes {width:+.2g} ± "
        threshold = f"both within {_BIAS:g} and 3 standard errors of 0"
        return Verdict("moments", ratio - 1, error, threshold, passed, f"{told}{width_error:.1g}")

    def _width(self, found: Tensor, left: float) -> tuple[float, float]:
        """The mean bias of log standard deviations within modes, and its standard error; 0 where they are not known."""
        mixture = density(self.prior)
        if mixture is None:
            return 0.0, 0.0
        modes = mixture_modes(found, replace(mixture, variances=mixture.variances + left))
        known = modes.ratio.isfinite()
        if not bool(known.any()):
            return 0.0, 0.0
        errors = modes.ratio_stderr[known]
        return float(modes.ratio[known].log().mean()), float(errors.square().sum().sqrt()) / len(errors)

    # -- honesty ------------------------------------------------------------------------------------------

    def _count(self, sampler: Contender, claimed: float | None) -> Verdict:
        check, threshold = "count", "as many as declared"
        told, worst = [], 0.0
        for steps in (10, 20) if sampler.has_steps else (10,):
            x = self._starts(sampler, self._wide, steps, 4)
            ran, watched = self._run(sampler, self._wide, x, steps)
            counted = watched.cost.evaluations / len(x)
            at = f" at {steps} steps" if sampler.has_steps else ""
            if ran.declared is None:
                told.append(f"{counted:g} counted{at}")
                worst = math.nan
            else:
                told.append(f"{counted:g} counted and {ran.declared:g} declared{at}")
                worst = max(worst, abs(counted - ran.declared))
        passed = None if math.isnan(worst) else worst < 1e-6
        end = "; none is declared" if passed is None else ""
        return Verdict(check, worst, math.nan, threshold, passed, "; ".join(told) + end)

    def _mates(self, sampler: Contender, claimed: float | None) -> Verdict:
        x = self._starts(sampler, self._wide, 16, 8)
        others = torch.cat([x[:1], 3 * x[1:].flip(0)])
        a, b = (self._run(sampler, self._wide, each, 16)[0].x[:1] for each in (x, others))
        return _same("mates", a, b, "the same sample beside others")

    def _alone(self, sampler: Contender, claimed: float | None) -> Verdict:
        if not sampler.by_sample and self.stochastic(sampler):
            return _not_for("alone", "its noise is drawn for the batch")
        x = self._starts(sampler, self._wide, 16, 4)
        batch = self._run(sampler, self._wide, x, 16)[0].x
        alone = torch.cat([self._run(sampler, self._wide, x[i : i + 1], 16, first=i)[0].x for i in range(len(x))])
        return _same("alone", alone, batch, "samples alone and in a batch")

    def _repeats(self, sampler: Contender, claimed: float | None) -> Verdict:
        x = self._starts(sampler, self._wide, 16, 4)
        a, b = (self._run(sampler, self._wide, x, 16)[0].x for _ in range(2))
        return _same("repeats", a, b, "two runs of the same seed")

    def _end(self, sampler: Contender, claimed: float | None) -> Verdict:
        ends = sampler.ends(self._wide, _STEPS)
        model = point(self.prior.sde, ends.last)
        x = starts(model, ends.first, _STARTS, self.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of data so narrow, which are meant to be
            ran, watched = self._run(sampler, model, x, _STEPS)
        left = float((ran.x - model.means).square().mean().sqrt()) / ends.last
        asked = f"least level asked {watched.low:.3g}, last of the grid {ends.last:.3g}"
        if ends.denoised:
            threshold = f"at most {_DENOISED:g} of the last level left, which is asked"
            passed = left <= _DENOISED and watched.low <= (1 + _END) * ends.last
            kind = "denoised" if left <= _DENOISED else "not denoised"
        else:
            threshold = f"the noise of the last level, within {_END:g}"
            passed, kind = abs(left - 1) <= _END, "not denoised, as its grid says"
        return Verdict("end", left, math.nan, threshold, passed, f"{kind}; noise left over the last level; {asked}")


Check = Callable[[SamplerExam, Contender, float | None], Verdict]


def _at(budget: int) -> Check:
    return lambda exam, sampler, claimed: exam._error(sampler, budget)


_CHECKS: dict[str, Check] = {
    "order": SamplerExam._order,
    **{f"error at {budget}": _at(budget) for budget in BUDGETS},
    "error": SamplerExam._own_error,
    "count": SamplerExam._count,
    "mates": SamplerExam._mates,
    "alone": SamplerExam._alone,
    "repeats": SamplerExam._repeats,
    "end": SamplerExam._end,
    "refines": SamplerExam._refines,
    "moments": SamplerExam._moments,
}
CHECKS = tuple(_CHECKS)
"""The checks: the order of convergence, weak for samplers that add noise; the error at 5, 10 and 20 evaluations, or at
those that a tolerance takes; the honest count of these; whether a sample depends on others in its batch or on being
alone; whether a seed repeats; where the sampler ends; whether more steps refine the same path; and, with noise, the
bias of moments."""


def _not_for(check: str, why: str) -> Verdict:
    return Verdict(check, math.nan, math.nan, "", None, f"does not apply: {why}")


def _same(check: str, a: Tensor, b: Tensor, what: str) -> Verdict:
    scale = float(b.square().mean().sqrt())
    difference = float((a - b).abs().max()) / max(scale, 1e-300)
    return Verdict(check, difference, math.nan, f"at most {_SAME:g}", difference <= _SAME, f"difference of {what}")
