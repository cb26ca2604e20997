"""Samples of several runs as one: a base model and super-resolution models, each run a stage of a cascade."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.data import Data, DataInfo
from scoresde.data.transforms import Discrete, Transform
from scoresde.options.errors import ConfigError
from scoresde.runs.chains import check_sampler
from scoresde.runs.directory import Run
from scoresde.runs.results import identity_of
from scoresde.sampling import Cascade, CascadeSamples, Sampler
from scoresde.score import NetworkScore, ScoreModel

__all__ = ["CascadeStage", "StackedRuns", "in_data_units", "stacked"]

_USUAL = 0.2  # share of the largest level of training
_FAR = 10.0  # standard deviations between means of the same images in the same units, and factors between their widths


@dataclass(frozen=True)
class CascadeStage:
    """A run as a stage of a cascade.

    Attributes:
        run: The run.
        model: Its model.
        sampler: Its sampler.
        info: What is known of its data.
    """

    run: Run
    model: NetworkScore
    sampler: Sampler
    info: DataInfo

    @classmethod
    def of(cls, run: Run, model: NetworkScore, sampler: Sampler) -> "CascadeStage":
        """The stage of an opened run.

        Raises:
            ConfigError: A run that does not say what its data are.
        """
        info = run.info()
        if info is None:
            raise ConfigError(f"{run.directory} has no {run.info_path.name}, which says what it fits in a cascade")
        return cls(run, model, sampler, info)

    @property
    def name(self) -> str:
        """The run as it is named in messages."""
        return str(self.run.directory)


@dataclass(frozen=True)
class StackedRuns:
    """Runs that fit each other, from the lowest resolution to the highest; see `stacked`.

    Attributes:
        stages: The runs.
        levels: The level of the noise that is added to the images given to each stage but the first.
    """

    stages: tuple[CascadeStage, ...]
    levels: tuple[float, ...]
    data: Data | DataInfo

    def identity(self) -> str:
        """A text that is the same for two cascades exactly when they are, beside the last stage's own settings."""
        lower = [f"{stage.run.fingerprint()} by {identity_of(stage.sampler, stage.run)}" for stage in self.stages[:-1]]
        return f"{', '.join(lower)}, augmentation {', '.join(map(repr, self.levels))}"

    def __call__(self, base: ScoreModel, n: int, **options: Any) -> tuple[CascadeSamples, dict[str, np.ndarray]]:
        """Draw n samples, as `Cascade` gives them; and those of the stages before the last in raw units, by name.

        Args:
            base: The base model, guided or not.
            n: The number of samples.
            **options: Arguments of `Cascade`.
        """
        models = [base, *(stage.model for stage in self.stages[1:])]
        pairs = [(model, stage.sampler) for model, stage in zip(models, self.stages, strict=True)]
        out = Cascade(pairs, self.levels)(n, **options)
        lower = zip(self.stages[:-1], out.stages[:-1], strict=True)
        raw = [in_data_units(stage.info.transform, made.x) for stage, made in lower]
        return out, {f"stage{k}": values.numpy() for k, values in enumerate(raw, start=1)}

    def words(self) -> str:
        """Words on the stages, for a caption."""
        names = " and ".join(stage.run.directory.name for stage in self.stages)
        levels = ", ".join(f"{level:g}" for level in self.levels)
        return f" of a cascade of {names}, augmentation {levels}"


def in_data_units(transform: Transform, x: Tensor) -> Tensor:
    """Samples of a stage on the CPU in raw units: those of continuous data have them already."""
    return x.cpu() if transform.levels is None else transform.decode(x.cpu())


def stacked(
    stages: Sequence[CascadeStage],
    augmentation: float | Sequence[float] | None,
    data: Data | DataInfo,
    guided: ScoreModel | None = None,
) -> StackedRuns:
    """The runs as one, after it was checked that each fits the one before.

    Args:
        stages: The runs, the base first.
        augmentation: The level for each stage but the first, or one for all; None: a fifth of the largest of training.
        data: The data of the base model, or what is known of them.
        guided: The base model under guidance; itself if None.

    Raises:
        ConfigError: A stage that does not fit the one before: in shape, units, classes or other conditions; or a level
            that its model was not trained for.
    """
    base = stages[0]
    if base.info.low_resolution is not None:
        raise ConfigError(
            f"run={base.name} is given images at low resolution itself: begin with the run that makes them"
        )
    for stage in stages:
        check_sampler(stage.model, stage.sampler)
        stage.model.info = stage.info  # so that samples of continuous data are in their units
    for below, stage in itertools.pairwise(stages):
        _check_images(below, stage)
        _check_classes(base, guided or base.model, stage)
        _check_others(base, guided or base.model, stage)
    return StackedRuns(tuple(stages), _levels(stages[1:], augmentation), data)


def _check_images(below: CascadeStage, stage: CascadeStage) -> None:
    low, name = stage.info.low_resolution, f"super={stage.name}"
    if low is None:
        raise ConfigError(f"{name} is no super-resolution model of a cascade: train one with cascade=super")
    wanted = (stage.info.shape[0], *(size // low.factor for size in stage.info.shape[1:]))
    if below.info.shape != wanted:
        raise ConfigError(f"{name} takes images of shape {wanted}, and {below.name} makes {below.info.shape}")
    made, own = below.info.transform, stage.info.transform
    if (made.levels is None) != (own.levels is None):
        kinds = ["continuous values" if t.levels is None else "pixels" for t in (own, made)]
        raise ConfigError(f"{name} takes images of {kinds[0]}, and {below.name} makes {kinds[1]}")
    if isinstance(made, Discrete) and isinstance(own, Discrete):
        ends = [_centres(t) for t in (own, made)]
        if max(abs(a - b) for a, b in zip(*ends, strict=True)) > 1e-3 * (ends[0][1] - ends[0][0]):
            wanted_range, made_range = (f"{a:.4g} to {b:.4g}" for a, b in ends)
            raise ConfigError(f"{name} takes images of values {wanted_range}, and {below.name} makes {made_range}")
        return
    known = stage.info.conditions["image"]
    if known.mean is None or known.std is None:
        return
    ends = [_mean_and_std(made, below.info.shape), (_average(known.mean), _average(known.std))]
    (mean, std), (wanted_mean, wanted_std) = ends
    if abs(mean - wanted_mean) > _FAR * wanted_std or not 1 / _FAR < std / wanted_std < _FAR:
        raise ConfigError(
            f"{name} takes images of mean {wanted_mean:.4g} and standard deviation {wanted_std:.4g}, and {below.name} "
            f"makes {mean:.4g} and {std:.4g}: train both on data in the same units"
        )


def _centres(transform: Discrete) -> tuple[float, float]:
    """The lowest and the highest value that a pixel has in model space."""
    half = (transform.high - transform.low) / transform.levels / 2
    return transform.low + half, transform.high - half


def _mean_and_std(transform: Transform, shape: tuple[int, ...]) -> tuple[float, float]:
    """The mean and the width of values that are standard normal in model space, over a sample."""
    zero, one = (transform.decode(torch.full((1, *shape), value, dtype=torch.float64)) for value in (0.0, 1.0))
    spread = (one - zero).square().mean() + zero.var(correction=0)
    return float(zero.mean()), math.sqrt(float(spread))


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _check_classes(base: CascadeStage, asked: ScoreModel, stage: CascadeStage) -> None:
    if stage.model.classes is None:
        return
    if asked.classes is None:
        raise ConfigError(f"super={stage.name} takes labels, and {base.name} knows none that its images are of")
    if base.info.class_names != stage.info.class_names:
        raise ConfigError(
            f"super={stage.name} has the classes {_some(stage.info.class_names)}, and {base.name} "
            f"{_some(base.info.class_names)}: train both on the same classes"
        )


def _some(names: Sequence[str] | None) -> str:
    names = list(names or ())
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


def _check_others(base: CascadeStage, asked: ScoreModel, stage: CascadeStage) -> None:
    """Refuse conditions that the base model is not given: all but the image, and the level behind a vector."""
    has, low = asked.condition_shapes, stage.info.low_resolution
    for name, shape in stage.model.condition_shapes.items():
        if name == "image":
            continue
        told = 1 if name == "vector" and low is not None and low.augmentation else 0
        size = (shape[-1] or 0) - told
        given = (has[name][-1] or 0) if name in has else 0
        if size and size != given:
            raise ConfigError(
                f"super={stage.name} takes a {name} of {size} values, and {base.name} takes "
                f"{f'one of {given}' if given else 'none'}: train both on the same conditions"
            )


def _levels(stages: Sequence[CascadeStage], augmentation: float | Sequence[float] | None) -> tuple[float, ...]:
    most = [stage.info.low_resolution.augmentation for stage in stages if stage.info.low_resolution is not None]
    if augmentation is None:
        return tuple(_USUAL * level for level in most)
    levels = [augmentation] * len(most) if isinstance(augmentation, int | float) else list(augmentation)
    if len(levels) != len(most):
        raise ConfigError(f"augmentation is {levels}, expected one level for each of the {len(most)} runs of super")
    for stage, level, largest in zip(stages, levels, most, strict=True):
        if level > largest:
            raise ConfigError(
                f"augmentation is {level:g}, and super={stage.name} was trained with levels up to {largest:g}: give "
                "one of these, or train with another cascade.augmentation"
            )
    return tuple(map(float, levels))
