"""Guidance by a gradient: of a reward of samples, or of a classifier's log-probabilities."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.guidance.interval import Interval, finite
from scoresde.numerics.values import one_of
from scoresde.score import NoisyClassifier, ScoreModel
from scoresde.sde import expand_to

__all__ = ["ClassifierGuidance", "GradientGuided", "RewardGuidance"]


class GradientGuided(ScoreModel):
    """The score of a model plus the gradient of a scalar r of the state.

        score + w ∇ₓ r,    ε − w σ ∇ₓ r,    D + w (σ²/α) ∇ₓ r

    w is `scale` at noise levels in `interval` and 0 outside.
    """

    def __init__(self, model: ScoreModel, scale: float, interval: Sequence[float] | None) -> None:
        super().__init__(model.sde, model.statistics)
        self.model, self.scale = model, finite("scale", scale)
        self.interval = Interval(interval, model.sde)

    @property
    def is_score(self) -> bool:
        return self.scale == 0 and self.model.is_score

    @property
    def log_snr_range(self) -> tuple[float, float]:
        return self.model.log_snr_range

    @property
    def has_unconditional(self) -> bool:
        return self.model.has_unconditional

    def takes_condition(self, name: str) -> bool:
        return self.model.takes_condition(name)

    def _parts(self) -> list[str]:
        return [self.model._head(), f"scale={self.scale:g}", *self.interval.parts()]

    @abstractmethod
    def _with_gradient(
        self, ask: Callable[[Tensor], Tensor], x: Tensor, t: Tensor, noisy: bool, cond: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """A prediction of the model at x, and ∇ₓ r there.

        Args:
            ask: The prediction at a state.
            x: The state `(B, ...)`.
            t: Its time, `()` or `(B,)`.
            noisy: Whether the prediction is that of the noise, or else that of the data.
            cond: The conditions of the call.
        """

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self._steered(self.model.denoise, x, t, cond, noisy=False)

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self._steered(self.model.noise, x, t, cond, noisy=True)

    def _own(self, cond: dict[str, Any]) -> dict[str, Any]:
        """The conditions of the model itself."""
        return cond

    def _steered(self, ask: Callable[..., Tensor], x: Tensor, t: Tensor, cond: dict[str, Any], noisy: bool) -> Tensor:
        t = torch.as_tensor(t)
        own = self._own(cond)
        inside = self.interval.holds(t)
        known = not isinstance(inside, Tensor) or inside.device.type == "cpu"
        if self.scale == 0 or (known and not bool(torch.as_tensor(inside).any())):
            return ask(x, t, **own)
        found, gradient = self._with_gradient(lambda y: ask(y, t, **own), x, t, noisy, cond)
        fine = t.double()
        sigma = self.sde.sigma(fine)
        factor = self.scale * (-sigma if noisy else sigma**2 / self.sde.alpha(fine))
        if isinstance(inside, Tensor):
            factor = torch.where(inside, factor, 0.0)
        return found + expand_to(factor, x) * gradient


@checked
class RewardGuidance(GradientGuided):
    """A model steered to samples of a larger reward, any differentiable function of them.

        score = ∇ log p_t(x) + w ∇ₓ r(D(x))    ("mean"),    score = ∇ log p_t(x) + w ∇ₓ r(x, t)    ("state")

    Of the denoised mean D, the reward may be one that knows clean samples only, such as a log-likelihood of an
    observation; the gradient goes through the model (Chung et al. 2023, section 3.2; Bansal et al. 2024). Samples are
    then near p(x) e^(w r(x)), but not exactly of it, since r(D) is not log E[e^(w r) | x]. Of the state, the reward is
    the logarithm of such an expectation itself, if it was made for noised states, and then samples are exact.

    Args:
        model: The model.
        reward: A function that gives a number for each sample, `(B,)`: of clean samples `(B, ...)` in model space, or
            of noised ones and their times `()` or `(B,)`. A module's parameters belong to the model.
        scale: The scale w.
        of: Whether the reward is of the denoised mean ("mean") or of the noised state and its time ("state").
        interval: The smallest and the largest noise level σ/α with guidance; all if not given.

    Raises:
        ValueError: A scale that is not a finite number, or an interval outside of the schedule; in use, a reward that
            is not one number for each sample.

    Of N(0, 1) with the reward x, whose density times e^x is N(1, 1):

    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import EDMSDE
    >>> model = GaussianMixtureScore([1.0], [[0.0]], [1.0], EDMSDE())
    >>> RewardGuidance(model, lambda x: x[:, 0]).denoise(torch.ones(1, 1), torch.tensor(1.0)).item()
    1.0

    References:
        Chung et al. 2023, Diffusion posterior sampling for general noisy inverse problems,
            https://arxiv.org/abs/2209.14687
        Bansal et al. 2024, Universal guidance for diffusion models, https://arxiv.org/abs/2302.07121
    """

    def __init__(
        self,
        model: ScoreModel,
        reward: Callable[..., Tensor],
        scale: float = 1.0,
        *,
        of: Literal["mean", "state"] = "mean",
        interval: Sequence[float] | None = None,
    ) -> None:
        one_of("of", of, ("mean", "state"))
        super().__init__(model, scale, interval)
        self.reward, self.of = reward, of

    def _parts(self) -> list[str]:
        return [*super()._parts(), f"of={self.of!r}"]

    def for_rows(self, rows: Tensor) -> ScoreModel:
        part = self.model.for_rows(rows)
        if part is self.model:
            return self
        return RewardGuidance(part, self.reward, self.scale, of=self.of, interval=self.interval.levels)

    def _with_gradient(
        self, ask: Callable[[Tensor], Tensor], x: Tensor, t: Tensor, noisy: bool, cond: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        if self.of == "state":
            return ask(x), _gradient(lambda y: _each(self.reward(y, t), y), x)
        fine = t.double()
        alpha, sigma = expand_to(self.sde.alpha(fine), x), expand_to(self.sde.sigma(fine), x)

        def rewarded(y: Tensor) -> tuple[Tensor, Tensor]:
            found = ask(y)
            mean = (y - sigma * found) / alpha if noisy else found
            return _each(self.reward(mean), y).sum(), found

        gradient, found = torch.func.grad(rewarded, has_aux=True)(x)
        return found, gradient


@checked
class ClassifierGuidance(GradientGuided):
    """A model steered to a class by a classifier of noised samples (Dhariwal & Nichol 2021, algorithm 1).

        score = ∇ log p_t(x) + w ∇ₓ log p_t(c | x)

    With the classifier of the noised data themselves and w = 1 this is the score of the class. `labels` say which
    class; a model that takes labels has them too.

    Args:
        model: The model, of all classes or conditional.
        classifier: A `NoisyClassifier`, of whatever SDE; or a function of noised samples `(B, ...)` in model space, as
            they are under the model's SDE, and their times `()` or `(B,)`, that gives a logit for each class, `(B, K)`.
        scale: The scale w.
        interval: The smallest and the largest noise level σ/α with guidance; all if not given.

    Raises:
        ValueError: A scale that is not a finite number, an interval outside of the schedule, or a `NoisyClassifier` of
            samples of another shape or in other units, of other classes, or of other noise levels; in use, no labels,
            or classes that the classifier does not have.

    References:
        Dhariwal & Nichol 2021, Diffusion models beat GANs on image synthesis, https://arxiv.org/abs/2105.05233
    """

    def __init__(
        self,
        model: ScoreModel,
        classifier: Callable[[Tensor, Tensor], Tensor],
        scale: float = 1.0,
        *,
        interval: Sequence[float] | None = None,
    ) -> None:
        super().__init__(model, scale, interval)
        if isinstance(classifier, NoisyClassifier):
            classifier.check_fits(model.shape, model.classes, model.info)
            classifier = classifier.under(model.sde)
        self.classifier = classifier
        self._labelled = isinstance(model, ScoreModel) and model.classes is not None

    def _own_classes(self) -> int | None:
        of_model = super()._own_classes()
        return getattr(self.classifier, "num_classes", None) if of_model is None else of_model

    def for_rows(self, rows: Tensor) -> ScoreModel:
        part = self.model.for_rows(rows)
        if part is self.model:
            return self
        return ClassifierGuidance(part, self.classifier, self.scale, interval=self.interval.levels)

    def takes_condition(self, name: str) -> bool:
        return name == "labels" or self.model.takes_condition(name)

    def _check_names(self, cond: Any) -> None:
        names = list(cond)
        if "labels" not in names:
            raise ValueError("classifier guidance needs the class of each sample: give labels")
        self.model._check_names([name for name in names if name != "labels" or self._labelled])

    def _own(self, cond: dict[str, Any]) -> dict[str, Any]:
        return cond if self._labelled else {k: v for k, v in cond.items() if k != "labels"}

    def _with_gradient(
        self, ask: Callable[[Tensor], Tensor], x: Tensor, t: Tensor, noisy: bool, cond: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        labels = cond["labels"]

        def log_prob(y: Tensor) -> Tensor:
            logits = self.classifier(y, t)
            if labels.device.type == "cpu" and bool((labels >= logits.shape[1]).any()):
                raise ValueError(f"labels hold {int(labels.max())}, expected 0 to {logits.shape[1] - 1}")
            return logits.log_softmax(1).gather(1, labels[:, None])[:, 0]

        return ask(x), _gradient(log_prob, x)


def _gradient(value: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """∇ₓ of values `(B,)`, each of which depends on its own sample."""
    gradient: Tensor = torch.func.grad(lambda y: value(y).sum())(x)
    return gradient


def _each(reward: Any, x: Tensor) -> Tensor:
    """The reward, one number for each sample."""
    if not isinstance(reward, Tensor) or reward.shape != x.shape[:1]:
        found = tuple(reward.shape) if isinstance(reward, Tensor) else type(reward).__name__
        raise ValueError(f"the reward is {found}, expected one number for each sample, ({len(x)},)")
    return reward
