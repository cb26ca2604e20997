"""Cascades: samplers one after the other, each of which is given the images of the one before (Ho et al. 2022b)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import ArgumentError, checked, shown
from scoresde.numerics.random import SampleNoise, Stream
from scoresde.sampling.sampler import Sampler
from scoresde.sampling.samples import Samples
from scoresde.score import Conditions, ScoreModel

__all__ = ["Cascade", "CascadeSamples"]


@dataclass(frozen=True)
class CascadeSamples(Samples):
    """The samples of the last stage of a cascade; evaluations are those of all stages.

    Attributes:
        stages: The samples of every stage, the base first.
        images: What each stage but the first was conditioned on, with its noise, as the network was given it.
    """

    stages: tuple[Samples, ...] = ()
    images: tuple[Tensor, ...] = ()

    def __repr__(self) -> str:
        sizes = ", ".join("×".join(map(str, stage.x.shape[2:])) for stage in self.stages)
        return f"CascadeSamples(x={tuple(self.x.shape)}, nfe={self.nfe}, stages={sizes})"


class Cascade:
    """A base model and super-resolution models, run as one sampler.

    The base model draws images at low resolution. Each further model is conditioned on the images of the stage before,
    to which noise is added, x + s ε, and is told of the level s: its conditions `image` and `vector`, of which s is the
    last number. A model that was trained on `super_resolution_data(data, LowResolution(factor, augmentation))` takes
    such conditions. Noise hides errors of the stage before, and detail of it: with exact models the samples are those
    of the data's density at any level.

    Each stage has a solver, a grid and an SDE of its own, and its model may be guided.

        base = (base_model, Sampler(EDMHeun(), KarrasGrid(18)))
        upper = (super_resolution_model, Sampler(DPMSolverPP(2), UniformLogSNR(15)))
        out = Cascade([base, upper], augmentation=0.1)(64, seed=0, labels=7)
        out.x, out.stages[0].x

    Args:
        stages: Models and their samplers, from the lowest resolution to the highest.
        augmentation: The level s for each stage but the first, or one for all, in the units of the images.

    Raises:
        ValueError: Fewer than two stages, levels that are negative, not finite or of another number, or a model after
            the first that takes no `image`, or no `vector` while its level is above 0.

    References:
        Ho et al. 2022b, Cascaded diffusion models for high fidelity image generation, https://arxiv.org/abs/2106.15282
    """

    @checked
    def __init__(
        self, stages: Sequence[tuple[ScoreModel, Sampler]], augmentation: float | Sequence[float] = 0.0
    ) -> None:
        self.stages = [_pair(stage) for stage in stages]
        count = len(self.stages) - 1
        if count < 1:
            raise ValueError(f"a cascade has {len(self.stages)} stages, expected at least 2: a base model and another")
        levels = [augmentation] * count if isinstance(augmentation, int | float) else list(augmentation)
        if len(levels) != count or not all(0 <= level < float("inf") for level in levels):
            raise ValueError(f"augmentation is {augmentation}, expected a level from 0, or {count} of them")
        self.augmentation = [float(level) for level in levels]
        for k, level in enumerate(self.augmentation, start=1):
            model = self.stages[k][0]
            if not model.takes_condition("image"):
                raise ValueError(
                    f"the model of stage {k} takes no image: train it on super_resolution_data, with "
                    "image_channels of the network"
                )
            if level > 0 and not model.takes_condition("vector"):
                raise ValueError(
                    f"augmentation of stage {k} is {level:g}, and its model cannot be told, since it takes no vector: "
                    "train it with LowResolution(factor, augmentation) and vector_size=1, or set augmentation to 0"
                )

    def __repr__(self) -> str:
        stages = ", ".join(f"({model._head()}, {sampler!r})" for model, sampler in self.stages)
        return f"Cascade([{stages}], augmentation={self.augmentation})"

    @checked
    def __call__(
        self,
        shape: int | Sequence[int],
        *,
        seed: int = 0,
        first: int = 0,
        batch_size: int | None = None,
        trajectory: bool = False,
        progress: bool = False,
        dtype: torch.dtype | None = None,
        **cond: Any,
    ) -> CascadeSamples:
        """Draw samples.

        Args:
            shape: The number of samples, or the shape `(B, ...)` of those of the first stage.
            seed: Sample i is a function of the seed and of i alone, at every stage; those of the first stage are those
                of its sampler alone.
            first: The index of the first sample.
            batch_size: The number of samples to work on at once; all if not given.
            trajectory: Whether the stages keep the state at every time.
            progress: Whether to show progress bars.
            dtype: The dtype of the states, as for `Sampler`.
            **cond: Conditions such as `labels`; each is given to the stages whose models take it, and an `image` to the
                first stage alone.

        Raises:
            ValueError: As for `Sampler`, or a condition that no stage takes.
        """
        for name in cond:
            stages = self.stages[:1] if name == "image" else self.stages
            if not any(model.takes_condition(name) for model, _ in stages):
                raise ValueError(f"{name} is no condition of a stage of this cascade: leave it out")
        common: dict[str, Any] = {
            "first": first,
            "batch_size": batch_size,
            "trajectory": trajectory,
            "progress": progress,
        }
        model, sampler = self.stages[0]
        given = {name: value for name, value in cond.items() if model.takes_condition(name)}
        done = [sampler(model, shape, seed=seed, dtype=dtype, **common, **given)]
        images: list[Tensor] = []
        for k, (model, sampler) in enumerate(self.stages[1:], start=1):
            image, level, count = done[-1].x, self.augmentation[k - 1], len(done[-1].x)
            # With the seed of the first stage, the noise of both would share its numbers.
            source = SampleNoise(seed, torch.tensor([k]), (1,), torch.float64, stream=Stream.STAGE_SEED)
            stage_seed = int(source.seeds())
            if level > 0:
                image = image + level * _noise(stage_seed, first, image)
            images.append(image)
            given = {name: value for name, value in cond.items() if name != "image" and model.takes_condition(name)}
            given |= {"image": image, **_told(model, given, level, count)}
            done.append(sampler(model, count, seed=stage_seed, dtype=dtype, **common, **given))
        every = [stage.nfe_per_sample for stage in done]
        each = None
        if any(n is not None for n in every):
            each = sum(
                torch.full((len(s.x),), s.nfe) if n is None else n.cpu() for s, n in zip(done, every, strict=True)
            )
        last: dict[str, Any] = vars(done[-1]) | {"nfe": sum(stage.nfe for stage in done), "nfe_per_sample": each}
        return CascadeSamples(**last, stages=tuple(done), images=tuple(images))


def _pair(stage: Any) -> tuple[ScoreModel, Sampler]:
    pair = tuple(stage) if isinstance(stage, tuple | list) else (stage,)
    if len(pair) != 2 or not isinstance(pair[0], ScoreModel) or not isinstance(pair[1], Sampler):
        raise ArgumentError(f"a stage is {shown(stage)}, expected a pair (model, sampler)")
    return pair


def _noise(seed: int, first: int, image: Tensor) -> Tensor:
    indices = torch.arange(first, first + len(image))
    shape = tuple(image.shape[1:])
    return SampleNoise(seed, indices, shape, image.dtype, image.device, stream=Stream.STAGE_AUGMENTATION)()


def _told(model: ScoreModel, given: dict[str, Any], level: float, count: int) -> dict[str, Tensor]:
    """The vector `(B, k)` that tells the level, behind the numbers of one that is given."""
    if not model.takes_condition("vector"):
        return {}
    told = torch.full((count, 1), level)
    if "vector" not in given:
        return {"vector": told}
    vector = Conditions.of({"vector": given["vector"]}, count)["vector"]
    size = model.condition_shapes.get("vector", (None,))[0]
    return {} if size == vector.shape[1] else {"vector": torch.cat((vector, told.to(vector)), dim=1)}
