"""The particles of a `SteeredSampler` at one time, with their weights; its module has the equations."""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from scoresde.guidance.steering import Reward
from scoresde.numerics.resampling import effective_share, systematic
from scoresde.sampling.request import Request
from scoresde.sampling.start import prior_log_density
from scoresde.sampling.steered_plan import Plan
from scoresde.score import ScoreModel
from scoresde.score.bound import BoundModel

__all__ = ["Swarm"]


class Swarm:
    """The particles of some groups at one time, with their weights.

    Args:
        parts: The models, with their conditions bound.
        plan: The coefficients of the steps.
        request: The request.
        x: Draws of the Gaussian at the first time, `(g P, ...)`.
        count: The number g of groups.
        reward: The reward of the target.
        threshold: The effective sample size, as a share, below which a group is resampled.
        denoise: Whether the last state is denoised.
        exact: Whether densities are those that the models know.
    """

    def __init__(
        self,
        parts: list[BoundModel],
        plan: Plan,
        request: Request,
        x: Tensor,
        count: int,
        reward: Reward | None,
        threshold: float,
        denoise: bool,
        exact: bool,
    ) -> None:
        self.parts, self.plan, self.times, self.count = parts, plan, request.times, count
        self.threshold, self.denoise, self.exact = threshold, denoise, exact
        self.reward = _checked_reward(reward, request.model)
        one = torch.ones_like(self.times)
        self.means = [part.prediction(self.times, one, 0 * one) for part in parts]
        self.tracked = self.exact or plan.ramped
        # Of a product of powers of Gaussians that are nearly the same, which the weights correct.
        drawn = prior_log_density(request.model, x, self.times[0])
        centre = plan.centre(request.model, x)
        self.x = centre + (x - centre) / math.sqrt(plan.start_power)
        first = [self._density(j, 0) for j in range(len(parts))]
        total = torch.stack([p * d for p, d in zip(plan.powers[0], first, strict=True)]).sum(0)
        drawn = drawn + 0.5 * x[0].numel() * math.log(plan.start_power)
        self.log_weights = (total - drawn).reshape(count, -1)
        self.densities = first if self.tracked else []
        self.twist = torch.zeros_like(drawn)
        self.pull: Tensor | None = None
        self.denoised: list[Tensor] = []
        self.ahead: list[Tensor] = []
        # A single model of power 1 is what its own steps sample from.
        self.curved = not exact and (len(parts) > 1 or plan.ramped or plan.sums[0] != 1)
        self.curves: list[list[Tensor]] = []
        self.slots = torch.arange(len(x), device=x.device).reshape(count, -1)

    def _density(self, j: int, i: int) -> Tensor:
        """Log-densities of model j at the state and time i, `(g P,)` float64: its own, or at the start its prior's."""
        model = self.parts[j].model
        if self.exact:
            found: Tensor = cast(Any, model).log_prob(self.x, self.times[i])
            return found.double()
        return prior_log_density(model, self.x, self.times[i])

    def weigh(self, i: int) -> None:
        """Ask the models at time i, and weight by the reward there and by the step that follows."""
        before = self.denoised
        self._ask(i)
        step = self.plan.steps[i]
        weight = torch.full_like(self.twist, step.constant)
        self.ahead = self.denoised
        if step.ahead:
            changes = [mean - old for mean, old in zip(self.denoised, before, strict=True)]
            self.ahead = [torch.add(d, c, alpha=step.ahead) for d, c in zip(self.denoised, changes, strict=True)]
            if self.curved:
                weight = weight + self._curve(i, changes)
        u, f = self._offsets(self.ahead, i)
        if step.on_u:
            weight = weight + step.on_u * _dot(u, u)
        if f is not None:
            squares = [p * _dot(d, d) for p, d in zip(self.plan.powers[i][1:], _differences(self.ahead), strict=True)]
            weight = weight + step.on_uf * _dot(u, f) + step.on_f * _dot(f, f) + step.on_s * sum(squares)
        self.log_weights = self.log_weights + weight.reshape(self.count, -1)

    def _curve(self, i: int, changes: list[Tensor]) -> Tensor:
        """The weight of the changes of denoised means over the last step, for steps of order 2."""
        step, powers = self.plan.steps[i], self.plan.powers[i]
        factor = -step.on_s * (step.ahead + step.ahead**2)
        new = [[factor * _dot(a, b) for b in changes[: j + 1]] for j, a in enumerate(changes)]
        if self.plan.ramped:
            old = self.curves
            self.curves = (
                new if not old else [[a + b for a, b in zip(*rows, strict=True)] for rows in zip(old, new, strict=True)]
            )
        return _curved(new, powers)

    def _ask(self, i: int) -> None:
        """The denoised means at time i, and what the reward is of them."""
        reward = self.reward
        if reward is None:
            self.denoised = [mean(self.x, i) for mean in self.means]
            return
        with torch.set_grad_enabled(reward.gradient):
            x = self.x.detach().requires_grad_(reward.gradient)
            self.denoised = [mean(x, i) for mean in self.means]
            value = self._rewarded(reward, i)
            if reward.gradient:
                (self.pull,) = torch.autograd.grad(value.sum(), x)
        self.denoised = [mean.detach() for mean in self.denoised]
        self._twist(value)

    def _rewarded(self, reward: Reward, i: int) -> Tensor:
        centre = self._centre(i)
        if reward.noised is None:
            return reward.function(centre)
        return reward.noised(centre, self.plan.sigma[i] / self.plan.alpha[i])

    def _twist(self, value: Tensor) -> None:
        new = value.detach().double()
        self.log_weights = self.log_weights + (new - self.twist).reshape(self.count, -1)
        self.twist = new

    def _offsets(self, means: list[Tensor], i: int) -> tuple[Tensor, Tensor | None]:
        """u = x − α D₁, and F = Σ a_i (D_i − D₁) of denoised means; None for a single model."""
        u = torch.sub(self.x, means[0], alpha=self.plan.alpha[i])
        total: Tensor | None = None
        for power, difference in zip(self.plan.powers[i][1:], _differences(means), strict=True):
            total = power * difference if total is None else torch.add(total, difference, alpha=power)
        return u, total

    def _centre(self, i: int) -> Tensor:
        """The denoised mean of the target at time i, D₁ + F/A; in place of A is 1 where it is smaller."""
        _, f = self._offsets(self.denoised, i)
        return self.denoised[0] if f is None else torch.add(self.denoised[0], f, alpha=1 / max(self.plan.sums[i], 1.0))

    def share(self) -> Tensor:
        """The effective sample sizes of the groups, as shares of the particles, `(g,)`."""
        return effective_share(self.log_weights)

    def resample(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """Take the particles by their weights in groups in which these are uneven.

        Returns:
            Effective sample sizes before that, as shares `(g,)`, and the index in its group of the particle that each
            is now, `(g, P)` int32.
        """
        share = self.share()
        each = self.log_weights.shape[1]
        own = torch.arange(each, device=share.device).expand(self.count, each)
        if self.threshold == 0:
            return share, own.int()
        uneven = (share < self.threshold)[:, None]
        found = systematic(self.log_weights.softmax(1), start, each)
        chosen = torch.where(uneven, found, own)
        level = self.log_weights.logsumexp(1, keepdim=True) - math.log(each)
        self.log_weights = torch.where(uneven, level, self.log_weights)
        places = (chosen + self.slots[:, :1]).flatten()
        self.x, self.twist = self.x[places], self.twist[places]
        same = self.ahead is self.denoised
        self.denoised = [mean[places] for mean in self.denoised]
        self.ahead = self.denoised if same else [mean[places] for mean in self.ahead]
        self.densities = [density[places] for density in self.densities]
        self.curves = [[curve[places] for curve in row] for row in self.curves]
        self.pull = None if self.pull is None else self.pull[places]
        return share, chosen.int()

    def move(self, i: int, z: Tensor) -> None:
        """Draw the states at time i + 1, and weight for the shift by the reward and the change of powers."""
        step, x = self.plan.steps[i], self.x
        u, f = self._offsets(self.ahead, i)
        new = torch.add(step.alpha * self.ahead[0], u, alpha=step.keep)
        if f is not None:
            new = new.add_(f, alpha=step.towards)
        new = new.add_(z, alpha=step.noise)
        change = torch.zeros_like(self.twist)
        if self.pull is not None:
            shift = step.noise * self.pull
            new = torch.add(new, shift, alpha=step.noise)
            change = change - _dot(shift, z) - 0.5 * _dot(shift, shift)
        self.x = new
        if self.tracked:
            change = change + self._track(i, x)
        if self.curves:
            powers = self.plan.powers
            change = change + _curved(self.curves, powers[i + 1]) - _curved(self.curves, powers[i])
        self.log_weights = self.log_weights + change.reshape(self.count, -1)

    def _track(self, i: int, before: Tensor) -> Tensor:
        """Add the step to time i + 1 to the densities of the path; the weight of what powers and densities change."""
        plan, dim = self.plan, before[0].numel()
        rise = dim * math.log(plan.sigma[i] / plan.sigma[i + 1])
        change = torch.zeros_like(self.twist)
        for j, mean in enumerate(self.ahead):
            kept = torch.sub(before, mean, alpha=plan.alpha[i]) / plan.sigma[i]
            fresh = torch.sub(self.x, mean, alpha=plan.alpha[i + 1]) / plan.sigma[i + 1]
            along = self.densities[j] + rise + 0.5 * (_dot(kept, kept) - _dot(fresh, fresh))
            self.densities[j] = self._density(j, i + 1) if self.exact else along
            power, later = plan.powers[i][j], plan.powers[i + 1][j]
            change = change + later * self.densities[j] - power * along
        return change

    def end(self) -> None:
        """Denoise the states at the last time if asked for, and weight by the reward of what is then given."""
        last = len(self.times) - 1
        if self.denoise:
            self.denoised = [mean(self.x, last) for mean in self.means]
            self.x = self._centre(last)
        if self.reward is not None:
            self._twist(self.reward.function(self.x))


def _differences(means: list[Tensor]) -> list[Tensor]:
    return [mean - means[0] for mean in means[1:]]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of samples `(B, ...)`, `(B,)` float64."""
    return (a * b).flatten(1).sum(1, dtype=torch.float64)


def _curved(curves: list[list[Tensor]], powers: list[float]) -> Tensor:
    """Σ a_i c_ii − Σ a_i a_j c_ij of a symmetric matrix c, of which the rows up to the diagonal are given."""
    terms = [
        (powers[i] * (1 - powers[i]) if i == j else -2 * powers[i] * powers[j]) * value
        for i, row in enumerate(curves)
        for j, value in enumerate(row)
    ]
    return torch.stack(terms).sum(0)


def _checked_reward(reward: Reward | None, model: ScoreModel) -> Reward | None:
    """The reward as a function of states in model space, which says so if it is not one number for each sample."""
    if reward is None:
        return None
    function: Callable[[Tensor], Tensor] = reward.function

    def value(x: Tensor) -> Tensor:
        found = function(model.to_data_space(x))
        if not isinstance(found, Tensor) or found.shape != x.shape[:1]:
            what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"the reward is of {what}, expected one number for each sample, ({len(x)},)")
        return found

    return reward._replace(function=value)
