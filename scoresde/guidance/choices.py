"""What a configuration says of guidance: settings by name, which make a guided model of the model of a run."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

from scoresde.arguments import checked
from scoresde.guidance.auto import AutoGuidance
from scoresde.guidance.classifier_free import ClassifierFree
from scoresde.guidance.density import DensityGuided
from scoresde.guidance.gradient import ClassifierGuidance
from scoresde.guidance.projected import AdaptiveProjected
from scoresde.score import NoisyClassifier, ScoreModel

__all__ = ["APG", "CFG", "Auto", "ByClassifier", "Density", "Guidance", "NoGuidance"]

Other = ScoreModel | NoisyClassifier
Load = Callable[[str], tuple[Other, str]]
"""A function from a run directory to its model and the fingerprint of the weights."""


class Guidance:
    """Settings of guidance."""

    other: ClassVar[str | None] = None  # the setting that is the directory of another run
    other_classifies: ClassVar[bool] = False  # whether that is the run of a classifier
    takes_negative: ClassVar[bool] = False  # whether it may be the model under a condition to avoid

    @abstractmethod
    def around(self, model: ScoreModel, other: Other | None) -> ScoreModel:
        """The guided model.

        Args:
            model: The model of the run.
            other: That of the other run, if the settings name one.
        """

    def of(
        self, model: ScoreModel, load: Load, negative: tuple[ScoreModel, str] | None = None
    ) -> tuple[ScoreModel, str]:
        """The guided model, and a text that is the same for two guidances exactly when they are.

        Args:
            model: The model of the run.
            load: How the model of another run is opened.
            negative: The model under a condition to be guided away from, and a text for that condition.

        Raises:
            ValueError: A negative condition for guidance that has none, or beside the directory of another run.
        """
        directory = None if self.other is None else getattr(self, self.other)
        other: Other | None = None
        weights = None
        if negative is not None:
            if not self.takes_negative:
                raise ValueError("negative is for guidance=cfg and guidance=apg, and this guides away from nothing")
            if directory is not None:
                raise ValueError(f"negative and {self.other} are both to be guided away from: give one of them")
            other = negative[0]
        if directory is not None:
            other, weights = load(str(directory))
        named = ((f.name, getattr(self, f.name)) for f in fields(self) if f.name != self.other)  # type: ignore[arg-type]
        parts = [f"{name}={_text(value)}" for name, value in named]
        parts += [] if weights is None else [f"{self.other}={weights!r}"]
        parts += [] if negative is None else [f"negative={negative[1]!r}"]
        return self.around(model, other), f"{type(self).__name__}({', '.join(parts)})"


def _text(value: object) -> str:
    """The text of a setting, the same for 2 and 2.0."""
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_text, value))})"
    return repr(float(value)) if isinstance(value, int) and not isinstance(value, bool) else repr(value)


@checked
@dataclass(frozen=True)
class NoGuidance(Guidance):
    """The model as it was trained."""

    def around(self, model: ScoreModel, other: Other | None) -> ScoreModel:
        return model


@checked
@dataclass(frozen=True)
class CFG(Guidance):
    """Classifier-free guidance; see `ClassifierFree`.

    Args:
        scale: The scale.
        interval: The smallest and the largest noise level σ/α with guidance; all if not given.
        rescale: The share of the standard deviation that is that of the conditional prediction.
        zero_star: Whether the unconditional velocity is scaled.
        unconditional: Run directory of the unconditional model; the run's own model without conditions if not given.
    """

    scale: float = 2.0
    interval: Sequence[float] | None = None
    rescale: float = 0.0
    zero_star: bool = False
    unconditional: str | None = None
    other: ClassVar[str | None] = "unconditional"
    takes_negative: ClassVar[bool] = True

    def around(self, model: ScoreModel, other: Other | None) -> ScoreModel:
        assert not isinstance(other, NoisyClassifier)
        options = {"rescale": self.rescale, "zero_star": self.zero_star}
        return ClassifierFree(model, self.scale, other, interval=self.interval, **options)  # type: ignore[arg-type]


@checked
@dataclass(frozen=True)
class APG(Guidance):
    """Adaptive projected guidance; see `AdaptiveProjected`.

    Args:
        scale: The scale.
        interval: The smallest and the largest noise level σ/α with guidance; all if not given.
        parallel: The share of the part along the prediction that is kept.
        threshold: The largest length of the difference, in model space; none if not given.
        unconditional: Run directory of the unconditional model; the run's own model without conditions if not given.
    """

    scale: float = 2.0
    interval: Sequence[float] | None = None
    parallel: float = 0.0
    threshold: float | None = None
    unconditional: str | None = None
    other: ClassVar[str | None] = "unconditional"
    takes_negative: ClassVar[bool] = True

    def around(self, model: ScoreModel, other: Other | None) -> ScoreModel:
        assert not isinstance(other, NoisyClassifier)
        options = {"parallel": self.parallel, "threshold": self.threshold}
        return AdaptiveProjected(model, self.scale, other, interval=self.interval, **options)  # type: ignore[arg-type]


@checked
@dataclass(frozen=True)
class Auto(Guidance):
    """Autoguidance; see `AutoGuidance`.

    Args:
        weaker: Run directory of the weaker model, such as a smaller one, or an average of `scoresde ema`.
        scale: The scale.
        interval: The smallest and the largest noise level σ/α with guidance; all if not given.
    """

    weaker: str
    scale: float = 2.0
    interval: Sequence[float] | None = None
    other: ClassVar[str | None] = "weaker"

    def around(self, model: ScoreModel, other: Other | None) -> ScoreModel:
        assert isinstance(other, ScoreModel)
        return AutoGuidance(model, other, self.scale, interval=self.interval)


@checked
@dataclass(frozen=True)
class ByClassifier(Guidance):
    """Classifier guidance; see `ClassifierGuidance`.

    Args:
        classifier: Run directory of the classifier of noised samples.
        scale: The scale.
        interval: The smallest and the largest noise level σ/α with guidance; all if not given.
    """

    classifier: str
    scale: float = 2.0
    interval: Sequence[float] | None = None
    other: ClassVar[str | None] = "classifier"
    other_classifies: ClassVar[bool] = True

    def around(self, model: ScoreModel, other: Other | None) -> ScoreModel:
        assert isinstance(other, NoisyClassifier)
        return ClassifierGuidance(model, other, self.scale, interval=self.interval)


@checked
@dataclass(frozen=True)
class Density(Guidance):
    """Density guidance; see `DensityGuided`.

    Args:
        quantile: The quantile, between 0 and 1.
    """

    quantile: float = 0.5

    def around(self, model: ScoreModel, other: Other | None) -> ScoreModel:
        return DensityGuided(model, self.quantile)
