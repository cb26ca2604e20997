"""Guidance by two predictions: away from a weak one and beyond a strong one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from scoresde.guidance.interval import Interval, finite
from scoresde.score import Conditions, Prediction, ScoreModel, with_sde
from scoresde.score.learned_variance import SharedPrediction
from scoresde.score.step_rules import StepRules
from scoresde.sde import expand_to
from scoresde.statistics import Statistics

__all__ = ["PairGuided", "check_unconditional", "require_conditions"]

# The share of the scale, in logarithms, by which steps follow a field that is guided.
_WIDER = 1 / 3


class PairGuided(ScoreModel):
    """The prediction D = D_weak + w (D_strong − D_weak) of two models, or what a subclass makes of the two.

    w is `scale` at noise levels in `interval` and 1 outside, where only the strong prediction is asked for. A scale of
    1 is the strong model and a scale of 0 the weak one, with all that they promise to solvers. Whatever a solver asks
    for is a linear combination of x and D, and so is mixed as D is.

    Steps are placed as for data wider by w^⅓ than those of the two models, since a guided field bends at larger noise.

    Args:
        model: The strong model.
        weak: The weak model, under any SDE; None for the strong model without its conditions.
        scale: The scale w.
        interval: The smallest and the largest noise level σ/α with guidance; all if not given.
        batched: Whether both predictions come from one call of the network on twice the batch, where they can.

    Raises:
        ValueError: A scale that is not a finite number, an interval outside of the schedule, models whose samples have
            other shapes or units, or no weak model for one that was trained without dropped conditions; in use, then no
            conditions.
    """

    linear = True  # D is the linear combination above

    def __init__(
        self,
        model: ScoreModel,
        weak: ScoreModel | None,
        scale: float,
        interval: Sequence[float] | None = None,
        batched: bool = True,
    ) -> None:
        check_unconditional(model, weak)
        scale = finite("scale", scale)
        if weak is not None:
            _check_pair(model, weak)
            weak = weak if weak.sde == model.sde else with_sde(weak, model.sde)
        sde = model.sde if weak is None else weak.sde
        # At scale 0 samples are those of the weak model, from its own start.
        main = weak if scale == 0 and weak is not None else model
        super().__init__(sde, main.statistics)
        self.model, self.weak, self.scale = model, weak, scale
        self.interval = Interval(interval, sde)
        self.batched = batched
        self._together = batched and weak is None and model.takes_dropped

    # ------------------------------------------------------------ what solvers may assume

    @property
    def _only(self) -> ScoreModel | None:
        """The model of which this one is the same; None where both count."""
        if self.scale == 1:
            return self.model
        if self.scale == 0 and self.interval.levels is None:
            return self.model if self.weak is None else self.weak
        return None

    @property
    def exact(self) -> bool:
        return self._only is not None and self._only.exact

    @property
    def is_score(self) -> bool:
        return self._only is not None and self._only.is_score

    @property
    def normal_at_most_noise(self) -> bool:
        return self._only is not None and self._only.normal_at_most_noise

    @property
    def narrowest(self) -> float:
        return 0.0 if self._only is None else self._only.narrowest

    @property
    def evaluation_size(self) -> int | None:
        return None if self._only is None else self._only.evaluation_size

    @property
    def step_rules(self) -> StepRules | None:
        return self._step_rules if self._only is None else self._only.step_rules

    @step_rules.setter
    def step_rules(self, rules: StepRules | None) -> None:
        if self._only is None:
            self._step_rules = rules
        else:
            self._only.step_rules = rules

    @property
    def step_statistics(self) -> Statistics | None:
        if self._only is not None:
            return self._only.step_statistics
        known = [m.step_statistics for m in (self.model, self.weak) if m is not None]
        found = [statistics for statistics in known if statistics is not None]
        if len(found) < len(known):
            return None
        widest = max(found, key=lambda statistics: statistics.largest_std)
        return widest.widened(max(abs(self.scale), 1.0) ** _WIDER)

    def conditioned_on(self, names: Iterable[str]) -> bool:
        if self._only is None:
            return True
        names = names if self.scale == 1 else self._weak_conditions(dict.fromkeys(names))
        return self._only.conditioned_on(names)

    @property
    def log_snr_range(self) -> tuple[float, float]:
        ranges = [m.log_snr_range for m in (self.model, self.weak) if m is not None]
        return max(low for low, _ in ranges), min(high for _, high in ranges)

    @property
    def learns_variance(self) -> bool:
        """True if the strong model does, whose variances are those of guided steps, too."""
        return self.model.learns_variance

    # ------------------------------------------------------------ conditions

    def _weak_conditions(self, cond: Mapping[str, Any]) -> dict[str, Any]:
        """The conditions of the weak prediction: none, unless a subclass has other ones."""
        return {}

    def takes_condition(self, name: str) -> bool:
        return self.model.takes_condition(name)

    def conditions(self, cond: Mapping[str, Any], count: int, device: torch.device) -> Conditions:
        found = super().conditions(cond, count, device)
        require_conditions(self.weak, found)
        return found

    def _check_names(self, cond: Iterable[str]) -> None:
        self.model._check_names(cond)

    def for_rows(self, rows: Tensor) -> "ScoreModel":
        return self._around({name: part.for_rows(rows) for name, part in self._models().items()})

    def _models(self) -> dict[str, ScoreModel]:
        return {name: part for name, part in self.named_children() if isinstance(part, ScoreModel)}

    def _around(self, parts: Mapping[str, ScoreModel]) -> "ScoreModel":
        if all(part is self._modules[name] for name, part in parts.items()):
            return self
        other = self.__new__(type(self))
        other.__dict__ = {**self.__dict__, "_modules": {**self._modules, **parts}}
        return other

    def _parts(self) -> list[str]:
        weak = [] if self.weak is None else [self.weak._head()]
        return [self.model._head(), *weak, f"scale={self.scale:g}", *self.interval.parts()]

    # ------------------------------------------------------------ predictions

    def _guided(self, weak: Tensor, strong: Tensor, weight: Tensor | float, state: Tensor) -> Tensor:
        """The guided denoised mean of two of them, for a subclass in which it is not linear in both.

        Args:
            weak: The weak denoised mean `(B, ...)`.
            strong: The strong one.
            weight: The weight w, a number or `(B, 1, ...)`.
            state: x/(α + σ), the state `(B, ...)` of the rectified flow at this noise.
        """
        return torch.lerp(weak, strong, weight)

    def prediction(self, times: Tensor, p: Tensor, q: Tensor) -> Prediction:
        times = self.sde.check_time(times)
        weights = [self.scale if inside else 1.0 for inside in self.interval.listed(times)]
        strong = self.model.prediction(times, p, q)
        weak = strong if self.weak is None else self.weak.prediction(times, p, q)
        mixed = self._linear_prediction(strong, weak) if self.linear else self._bent_prediction(times, p, q)

        def predict(x: Tensor, i: int, **cond: Any) -> Tensor:
            weight = weights[i]
            if weight == 1:
                return strong(x, i, **cond)
            if weight == 0:
                return weak(x, i, **self._weak_conditions(cond))
            return mixed(x, i, weight, cond)

        return predict

    def _linear_prediction(self, strong: Prediction, weak: Prediction) -> Callable[..., Tensor]:
        doubled = self._kept()

        def mixed(x: Tensor, i: int, weight: float, cond: Mapping[str, Any]) -> Tensor:
            return torch.lerp(*self._both(strong, weak, x, i, cond, doubled), weight)

        return mixed

    def _bent_prediction(self, times: Tensor, p: Tensor, q: Tensor) -> Callable[..., Tensor]:
        """By the noise where it is smaller than the signal and by the data elsewhere, so that no digits are lost."""
        alpha, sigma = self.sde.alpha(times), self.sde.sigma(times)
        by_noise = alpha > sigma
        asked = (~by_noise).double(), by_noise.double()
        strong = self.model.prediction(times, *asked)
        weak = strong if self.weak is None else self.weak.prediction(times, *asked)
        rows = torch.stack((alpha, sigma, p, q), 1).tolist()
        noisy, doubled = by_noise.tolist(), self._kept()

        def mixed(x: Tensor, i: int, weight: float, cond: Mapping[str, Any]) -> Tensor:
            a, s, on_mean, on_noise = rows[i]
            found = self._both(strong, weak, x, i, cond, doubled)
            mean, noise = self._bent(found, noisy[i], x, weight, a, s)
            return on_noise * noise if on_mean == 0 else torch.add(on_mean * mean, noise, alpha=on_noise)

        return mixed

    def _bent(
        self,
        found: tuple[Tensor, Tensor],
        noisy: bool,
        x: Tensor,
        weight: Tensor | float,
        alpha: Tensor | float,
        sigma: Tensor | float,
    ) -> tuple[Tensor, Tensor]:
        """The guided denoised mean and noise prediction, of two predictions of the noise or of the data."""
        means = [(x - sigma * v) / alpha for v in found] if noisy else list(found)
        mean = self._guided(means[0], means[1], weight, x / (alpha + sigma))
        if not noisy:
            return mean, (x - alpha * mean) / sigma
        return mean, found[1] - (alpha / sigma) * (mean - means[1])

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        weak = self.model if self.weak is None else self.weak
        return self._asked(self.model.denoise, weak.denoise, x, t, cond, noisy=False)

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        weak = self.model if self.weak is None else self.weak
        return self._asked(self.model.noise, weak.noise, x, t, cond, noisy=True)

    def denoise_with_share(self, x: Tensor, t: Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """The guided denoised mean, and the share of the strong model."""
        return self.denoise(x, t, **cond), self.model.denoise_with_share(x, t, **cond)[1]

    def prediction_with_share(self, times: Tensor, p: Tensor, q: Tensor) -> SharedPrediction:
        """The guided prediction and the share of the strong model; without a further call where mixing is linear."""
        times = self.sde.check_time(times)
        guided, shared = self.prediction(times, p, q), self.model.prediction_with_share(times, p, q)
        weights = [self.scale if inside else 1.0 for inside in self.interval.listed(times)]
        doubled = self._kept()

        def predict(x: Tensor, i: int, **cond: Any) -> tuple[Tensor, Tensor]:
            weight = weights[i]
            if weight == 1:
                return shared(x, i, **cond)
            if not (self.linear and self._together):
                return guided(x, i, **cond), shared(x, i, **cond)[1]
            mean, share = shared(torch.cat((x, x)), i, **doubled(cond, x))
            return torch.lerp(mean[: len(x)], mean[len(x) :], weight), share[len(x) :]

        return predict

    def _asked(
        self,
        strong: Callable[..., Tensor],
        weak: Callable[..., Tensor],
        x: Tensor,
        t: Tensor,
        cond: dict[str, Any],
        noisy: bool,
    ) -> Tensor:
        t = torch.as_tensor(t)
        weight = self._weight(t)
        if not isinstance(weight, Tensor):
            if weight == 1:
                return strong(x, t, **cond)
            if weight == 0:
                return weak(x, t, **self._weak_conditions(cond))
        else:
            weight = expand_to(weight, x)
        found = self._both(strong, weak, x, t, cond)
        if self.linear:
            return torch.lerp(*found, weight)
        fine = t.double()
        alpha, sigma = expand_to(self.sde.alpha(fine), x), expand_to(self.sde.sigma(fine), x)
        guided = self._bent(found, noisy, x, weight, alpha, sigma)[noisy]
        return guided if not isinstance(weight, Tensor) else torch.where(weight == 1, found[1], guided)

    def _weight(self, t: Tensor) -> Tensor | float:
        """w at times `()` or `(B,)`; a number where it is one for all and is known without waiting for a device."""
        inside = self.interval.holds(t)
        if not isinstance(inside, Tensor):
            return self.scale
        if inside.device.type == "cpu" and bool((inside == inside.reshape(-1)[0]).all()):
            return self.scale if bool(inside.reshape(-1)[0]) else 1.0
        return torch.where(inside, self.scale, 1.0)

    def _both(
        self,
        strong: Callable[..., Tensor],
        weak: Callable[..., Tensor],
        x: Tensor,
        t: Any,
        cond: Mapping[str, Any],
        doubled: Callable[[Mapping[str, Any], Tensor], dict[str, Any]] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The weak and the strong prediction, by one call where they are of one network."""
        if not self._together:
            return weak(x, t, **self._weak_conditions(cond)), strong(x, t, **cond)
        times = torch.cat((t, t)) if isinstance(t, Tensor) and t.ndim else t
        found = strong(torch.cat((x, x)), times, **(doubled or self._doubled)(cond, x))
        return found[: len(x)], found[len(x) :]

    def _doubled(self, cond: Mapping[str, Any], x: Tensor) -> dict[str, Any]:
        """The conditions of both halves of a batch, of which the first is without."""
        both = {k: torch.cat((v, v)) if isinstance(v, Tensor) and v.ndim else v for k, v in cond.items()}
        both["dropped"] = torch.arange(2 * len(x), device=x.device) < len(x)
        return both

    def _kept(self) -> Callable[[Mapping[str, Any], Tensor], dict[str, Any]]:
        """`_doubled` for one solve, in which the conditions of a batch stay the same from step to step."""
        values: tuple[Any, ...] = ()
        both: dict[str, Any] = {}

        def doubled(cond: Mapping[str, Any], x: Tensor) -> dict[str, Any]:
            nonlocal values, both
            found = tuple(cond.values())
            same = len(found) == len(values) and all(a is b for a, b in zip(found, values, strict=True))
            if not same or not both or both["dropped"].shape[0] != 2 * len(x) or both["dropped"].device != x.device:
                values, both = found, self._doubled(cond, x)
            return both

        return doubled


def _check_pair(model: ScoreModel, weak: ScoreModel) -> None:
    """Check that the samples of two models are alike."""
    if model.shape is not None and weak.shape is not None and model.shape != weak.shape:
        raise ValueError(f"the models' samples have shapes {model.shape} and {weak.shape}, expected the same")
    if repr(model.transform) != repr(weak.transform):
        raise ValueError(
            f"the models' data are in other units, {model.transform!r} and {weak.transform!r}: train both on one data "
            "set, in one transform"
        )


def check_unconditional(model: ScoreModel, unconditional: ScoreModel | None) -> None:
    """Check that there is an unconditional prediction to guide by.

    Raises:
        ValueError: A model that has none, and no other model.
    """
    if unconditional is None and not model.has_unconditional:
        raise ValueError(
            "it needs the prediction without conditions, for which this model was not trained: train with "
            "network.label_dropout=0.1, or condition_dropout for other conditions, or give a model of its own as "
            "unconditional"
        )


def require_conditions(unconditional: ScoreModel | None, cond: Iterable[str]) -> None:
    """Check that there are conditions to guide by.

    Raises:
        ValueError: None, for a model that is guided by itself without them.
    """
    if unconditional is None and not list(cond):
        raise ValueError("guidance needs a condition, such as labels: give the one that samples are to have")
