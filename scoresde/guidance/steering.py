"""Densities that samples are steered to exactly: powers of models, their products and quotients, and rewards.

A guided field samples from a density that nobody can write down. A target says which density is wanted,

    p(x) ∝ Π_i p_i(x)^(a_i) e^(r(x)),

with models p_i, powers a_i and a reward r. `scoresde.sampling.SteeredSampler` draws from it by weighted particles.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from scoresde.arguments import checked
from scoresde.guidance.interval import finite
from scoresde.guidance.pair import check_unconditional, require_conditions
from scoresde.numerics.values import Value
from scoresde.score import Conditions, ScoreModel

__all__ = ["Factor", "GuidedTarget", "ProductTarget", "Reward", "RewardTarget", "Target", "TemperedTarget"]


class Factor(NamedTuple):
    """A factor p^a of a target.

    Attributes:
        model: The model p.
        power: The power a.
        conditions: Those of the model for each particle.
    """

    model: ScoreModel
    power: float
    conditions: Conditions


class Reward(NamedTuple):
    """A factor e^(r(x)) of a target.

    Attributes:
        function: The reward r in nats of clean samples `(B, ...)`, in the units of the sampler's samples, `(B,)`.
        gradient: Whether its gradient steers particles, or their weights alone do.
        noised: What stands for it before the last time: a function of denoised means `(B, ...)` in model space and of
            the noise level σ/α, `(B,)`. If not given, the reward of the denoised mean.
    """

    function: Callable[[Tensor], Tensor]
    gradient: bool
    noised: Callable[[Tensor, float], Tensor] | None = None


class Target(Value, ABC):
    """A density of which the sampler's model is a part."""

    @abstractmethod
    def factors(self, model: ScoreModel, conditions: Conditions) -> list[Factor]:
        """The factors p^a.

        Args:
            model: The model of the call.
            conditions: The conditions of the call.

        Raises:
            ValueError: A model that cannot be such a part.
        """

    @property
    def reward(self) -> Reward | None:
        """The reward, if there is one."""
        return None


@checked
class TemperedTarget(Target):
    """p(x)^β: at powers above 1 nearer to the modes, below 1 wider than the model (Skreta et al. 2025b).

    Args:
        power: The power β, above 0; 1 for the model itself.

    Raises:
        ValueError: A power that is not positive and finite.
    """

    def __init__(self, power: float = 1.0) -> None:
        if not 0 < power < float("inf"):
            raise ValueError(f"power is {power}, expected a positive number, 1 for the model itself")
        self.power = float(power)

    def factors(self, model: ScoreModel, conditions: Conditions) -> list[Factor]:
        return [Factor(model, self.power, conditions)]


@checked
class GuidedTarget(Target):
    """p(x | c)^w p(x)^(1 − w), the density that classifier-free guidance of scale w is named after.

    It is p(x | c) p(c | x)^(w − 1) up to a constant. A solver of the guided field D = D(x) + w (D(x | c) − D(x)) does
    not sample from it, unless w is 0 or 1: noised data of this density have another score.

    Args:
        scale: The scale w; 1 for the conditional model, 0 for the unconditional one.
        unconditional: The unconditional model; if not given, the model of the call without its conditions.

    Raises:
        ValueError: A scale that is not finite; in use, a model that was trained without dropped conditions.
    """

    def __init__(self, scale: float = 2.0, unconditional: ScoreModel | None = None) -> None:
        self.scale = finite("scale", scale)
        self.unconditional = unconditional

    def factors(self, model: ScoreModel, conditions: Conditions) -> list[Factor]:
        other = self.unconditional
        check_unconditional(model, other)
        require_conditions(other, conditions)
        rest = Factor(model if other is None else other, 1 - self.scale, Conditions({}, conditions.count))
        return [Factor(model, self.scale, conditions), rest]


@checked
class ProductTarget(Target):
    """Π p_i(x)^(a_i): the model of the call and others, multiplied by powers above 0 and divided by those below.

    Two observations c₁ and c₂ that are independent given x, under one prior, are `p(x | c₁) p(x | c₂)/p(x)`.

    Args:
        others: The other models p₁, p₂, ....
        powers: Their powers a₁, a₂, ...; 1 each if not given.
        power: The power a₀ of the model of the call.

    Raises:
        ValueError: Another number of powers than of models, or one that is not finite.
    """

    def __init__(self, others: Sequence[ScoreModel], powers: Sequence[float] | None = None, power: float = 1.0) -> None:
        powers = [1.0] * len(others) if powers is None else [finite("a power", p) for p in powers]
        if len(powers) != len(others):
            raise ValueError(f"there are {len(powers)} powers for {len(others)} other models, expected one for each")
        self.others, self.powers, self.power = list(others), powers, finite("power", power)

    def factors(self, model: ScoreModel, conditions: Conditions) -> list[Factor]:
        own, without = [Factor(model, self.power, conditions)], Conditions({}, conditions.count)
        return own + [Factor(other, power, without) for other, power in zip(self.others, self.powers, strict=True)]


@checked
class RewardTarget(Target):
    """p(x) e^(r(x)): the model, or another target, weighted by a reward (Wu et al. 2023).

    On the way, the reward of a noised state is that of its denoised mean. With its gradient, particles are steered as
    by guidance, and weights make up for the difference; without, the weights alone select them (Singhal et al. 2025),
    for rewards that are not differentiable. Either way the samples are those of the target.

    The logarithm of a classifier's probability of a class, `lambda x: logits(x).log_softmax(1)[:, k]`, makes p(x | k);
    the log-likelihood of an observation of x makes the posterior.

    Args:
        reward: The reward r in nats of clean samples `(B, ...)`, in the units of the sampler's samples, `(B,)`. It has
            to be finite.
        base: The target that is weighted; the model if not given.
        gradient: Whether its gradient steers particles.
    """

    def __init__(self, reward: Callable[[Tensor], Tensor], base: Target | None = None, gradient: bool = True) -> None:
        self.function = reward
        self.base = TemperedTarget() if base is None else base
        self.gradient = gradient
        if self.base.reward is not None:
            raise ValueError("base has a reward of its own: give the sum of both as one")

    def factors(self, model: ScoreModel, conditions: Conditions) -> list[Factor]:
        return self.base.factors(model, conditions)

    @property
    def reward(self) -> Reward:
        return Reward(self.function, self.gradient)
