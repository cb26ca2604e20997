"""What a model that is around another hands on of it."""

from collections.abc import Iterable

from scoresde.score.model import ScoreModel
from scoresde.score.optimal_variances import OptimalVariances
from scoresde.score.step_rules import StepRules
from scoresde.statistics import Statistics

__all__ = ["AroundModel"]


class AroundModel(ScoreModel):
    """A model of the same field as another one, `model`, which it asks for what is known of that field."""

    model: ScoreModel

    @property
    def exact(self) -> bool:
        """True if the model within is exact."""
        return self.model.exact

    @property
    def narrowest(self) -> float:
        """That of the model within."""
        return self.model.narrowest

    @property
    def normal_at_most_noise(self) -> bool:
        """True if it is so of the model within."""
        return self.model.normal_at_most_noise

    @property
    def step_statistics(self) -> Statistics | None:
        """Those of the model within."""
        return self.model.step_statistics

    @property
    def is_score(self) -> bool:
        """True if it is so of the model within."""
        return self.model.is_score

    @property
    def conditioned(self) -> bool:
        """True if the model within has conditions bound."""
        return self.model.conditioned

    @property
    def has_unconditional(self) -> bool:
        """True if it is so of the model within."""
        return self.model.has_unconditional

    @property
    def takes_dropped(self) -> bool:
        """True if the model within does."""
        return self.model.takes_dropped

    def conditioned_on(self, names: Iterable[str]) -> bool:
        """True if it is so of the model within."""
        return self.model.conditioned_on(names)

    @property
    def learns_variance(self) -> bool:
        """True if the model within does: a share of log β serves the steps of any SDE."""
        return self.model.learns_variance

    @property
    def step_rules(self) -> StepRules | None:
        """The rules of the model within: they are in σ/α, in which the field is the same under any SDE."""
        return self.model.step_rules

    @step_rules.setter
    def step_rules(self, rules: StepRules | None) -> None:
        self.model.step_rules = rules

    @property
    def optimal_variances(self) -> OptimalVariances | None:
        """Those of the model within: they are in log-SNR, in which they are the same under any SDE."""
        return self.model.optimal_variances

    @optimal_variances.setter
    def optimal_variances(self, variances: OptimalVariances | None) -> None:
        self.model.optimal_variances = variances

    def _check_names(self, cond: Iterable[str]) -> None:
        self.model._check_names(cond)

    @property
    def evaluation_size(self) -> int | None:
        """That of the model within."""
        return self.model.evaluation_size
