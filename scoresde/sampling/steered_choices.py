"""What a configuration says of steering: settings by name, which make a `SteeredSampler`."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from scoresde.arguments import checked
from scoresde.guidance.pair import check_unconditional
from scoresde.guidance.steering import GuidedTarget, Target, TemperedTarget
from scoresde.numerics.values import at_least
from scoresde.sampling.grids import UniformLogSNR
from scoresde.sampling.steered import SteeredSampler
from scoresde.score import ScoreModel

__all__ = ["NoSteering", "SteerGuided", "SteerTempered", "Steering"]


class Steering:
    """Settings of steering."""

    other: ClassVar[str | None] = None  # the setting that is the directory of another run
    draws: int = 1

    @abstractmethod
    def sampler(self, model: ScoreModel, load: Callable[[str], tuple[ScoreModel, str]]) -> tuple[SteeredSampler, str]:
        """The sampler, and a text that is the same for two steerings exactly when they are.

        Args:
            model: The model of the run.
            load: A function from a run directory to its model and the fingerprint of the weights.

        Raises:
            ValueError: A model that cannot be a part of the target.
        """


@checked
@dataclass(frozen=True)
class NoSteering(Steering):
    """Samples of the model itself."""

    def sampler(self, model: ScoreModel, load: Callable[[str], tuple[ScoreModel, str]]) -> tuple[SteeredSampler, str]:
        raise ValueError("without a target there is nothing to steer to: choose one by steer=guided or steer=tempered")


class _ToTarget(Steering):
    """Settings of steering to a target, on steps that are uniform in log SNR."""

    particles: int
    steps: int
    resample_at: float
    ramp: float | None
    order: Literal[1, 2]

    def __post_init__(self) -> None:
        at_least("draws", self.draws, 1)
        if self.draws > self.particles:
            raise ValueError(f"draws is {self.draws}, expected at most the number of particles, {self.particles}")
        self._by(self.target(None))  # whose arguments it checks

    @abstractmethod
    def target(self, other: ScoreModel | None) -> Target:
        """The target; `other` is the model of the other run, if the settings name one."""

    def check(self, model: ScoreModel, other: ScoreModel | None) -> None:
        """Reject a model that cannot be a part of the target.

        Raises:
            ValueError: Such a model.
        """

    def sampler(self, model: ScoreModel, load: Callable[[str], tuple[ScoreModel, str]]) -> tuple[SteeredSampler, str]:
        directory = None if self.other is None else getattr(self, self.other)
        other, weights = (None, None) if directory is None else load(str(directory))
        self.check(model, other)
        named = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        if self.other is not None:
            named[self.other] = weights
        # 2 and 2.0 are the same.
        plain = {k: f"{v:.17g}" if isinstance(v, int | float) else repr(v) for k, v in named.items()}
        text = ", ".join(f"{name}={value}" for name, value in plain.items())
        return self._by(self.target(other)), f"{type(self).__name__}({text})"

    def _by(self, target: Target) -> SteeredSampler:
        grid = UniformLogSNR(self.steps)
        return SteeredSampler(grid, target, self.particles, self.resample_at, self.ramp, self.order)


@checked
@dataclass(frozen=True)
class SteerGuided(_ToTarget):
    """Steering to p(x | c)^w p(x)^(1 − w); see `scoresde.guidance.GuidedTarget` and `SteeredSampler`.

    Args:
        scale: The scale w.
        particles: The number of particles in a group.
        draws: The number of samples that are taken of a group.
        steps: The number of steps, uniform in log SNR.
        resample_at: The effective sample size, as a share of the particles, below which a group is resampled.
        ramp: The noise level at which powers are halfway to those of the target; None for those throughout.
        order: The order of the steps, 1 or 2.
        unconditional: Run directory of the unconditional model; the run's own model without conditions if not given.

    Raises:
        ValueError: More samples than particles, or as for `SteeredSampler` and `scoresde.guidance.GuidedTarget`.
    """

    scale: float = 2.0
    particles: int = 256
    draws: int = 1
    steps: int = 200
    resample_at: float = 0.5
    ramp: float | None = 0.5
    order: Literal[1, 2] = 2
    unconditional: str | None = None
    other: ClassVar[str | None] = "unconditional"

    def target(self, other: ScoreModel | None) -> Target:
        return GuidedTarget(self.scale, other)

    def check(self, model: ScoreModel, other: ScoreModel | None) -> None:
        check_unconditional(model, other)


@checked
@dataclass(frozen=True)
class SteerTempered(_ToTarget):
    """Steering to p(x)^β; see `scoresde.guidance.TemperedTarget` and `SteeredSampler`.

    Args:
        power: The power β.
        particles: The number of particles in a group.
        draws: The number of samples that are taken of a group.
        steps: The number of steps, uniform in log SNR.
        resample_at: The effective sample size, as a share of the particles, below which a group is resampled.
        ramp: The noise level at which the power is halfway to that of the target; None for it throughout.
        order: The order of the steps, 1 or 2.

    Raises:
        ValueError: More samples than particles, or as for `SteeredSampler` and `scoresde.guidance.TemperedTarget`.
    """

    power: float = 1.0
    particles: int = 256
    draws: int = 1
    steps: int = 200
    resample_at: float = 0.5
    ramp: float | None = 0.5
    order: Literal[1, 2] = 2

    def target(self, other: ScoreModel | None) -> Target:
        return TemperedTarget(self.power)
