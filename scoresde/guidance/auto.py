"""Autoguidance: a model guided by a weaker one of the same task."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scoresde.arguments import checked
from scoresde.guidance.pair import PairGuided
from scoresde.score import ScoreModel

__all__ = ["AutoGuidance"]


@checked
class AutoGuidance(PairGuided):
    """A model, guided by its difference to a weaker one with the same conditions (Karras et al. 2024b).

        D = D₀ + w (D₁ − D₀),    D₁ the model, D₀ the weaker one.

    Where the weaker model errs in the same way and more, the difference points away from the errors of both. Unlike
    classifier-free guidance it leaves the variety of samples as it is, and it serves unconditional models too. A weaker
    model is a smaller network, or an earlier snapshot or average of the weights of the same training.

    Args:
        model: The model.
        weaker: The weaker model, under any SDE.
        scale: The scale w.
        interval: The smallest and the largest noise level σ/α with guidance; all if not given.

    Raises:
        ValueError: A scale that is not a finite number, an interval outside of the schedule, or models of samples of
            other shapes, classes or units.

    References:
        Karras et al. 2024b, Guiding a diffusion model with a bad version of itself, https://arxiv.org/abs/2406.02507
    """

    def __init__(
        self, model: ScoreModel, weaker: ScoreModel, scale: float = 2.0, *, interval: Sequence[float] | None = None
    ) -> None:
        if model.classes != weaker.classes:
            raise ValueError(
                f"the model takes {model.classes or 'no'} classes and the weaker one {weaker.classes or 'none'}: "
                "take two models of the same conditions, or bind those of one with Given"
            )
        super().__init__(model, weaker, scale, interval)

    def _weak_conditions(self, cond: Mapping[str, Any]) -> dict[str, Any]:
        return dict(cond)

    def takes_condition(self, name: str) -> bool:
        return self.model.takes_condition(name) and self.weak is not None and self.weak.takes_condition(name)

    def _check_names(self, cond: Iterable[str]) -> None:
        names = list(cond)
        for part in self._models().values():
            part._check_names(names)
