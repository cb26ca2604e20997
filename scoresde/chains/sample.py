"""Samples of a chain's model, one step after the other from its prior."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.chains.factors import Factor
from scoresde.chains.model import ChainModel
from scoresde.data.info import DataInfo
from scoresde.numerics.random import SampleNoise
from scoresde.numerics.values import at_least, one_of
from scoresde.progress import Progress
from scoresde.score import Conditions

__all__ = ["ChainSamples", "sample_chain"]


@dataclass(frozen=True)
class ChainSamples:
    """Samples of a chain's model.

    Attributes:
        x: `(B, ...)`, the samples: in the units of the data if these are continuous, in model space for levels such as
            pixels, and the states themselves of a discrete chain.
        nfe: Evaluations of the network for each sample, one for each step.
        trajectory: `(T + 1, B, ...)` on the CPU, the states x_T ... x_0 in the units of `x`, if they were asked for.
        info: Facts about the model's data, if they are known.
    """

    x: Tensor
    nfe: int
    trajectory: Tensor | None = None
    info: DataInfo | None = None

    @property
    def decoded(self) -> Tensor:
        """The samples as values of the data: integers such as pixels, or `x` as it is."""
        return self.x if self.info is None or self.info.transform.levels is None else self.info.transform.decode(self.x)

    def __repr__(self) -> str:
        return f"ChainSamples(x={tuple(self.x.shape)}, nfe={self.nfe})"


@checked
@torch.no_grad()
def sample_chain(
    model: ChainModel[Any],
    shape: int | Sequence[int],
    *,
    seed: int = 0,
    first: int = 0,
    batch_size: int | None = None,
    last: Literal["draw", "mode"] | None = None,
    trajectory: bool = False,
    progress: bool = False,
    factor: Factor | None = None,
    **cond: Any,
) -> ChainSamples:
    """Ancestral samples: x_T from the chain's prior, and x_{t−1} from p(x_{t−1} | x_t) for t = T ... 1.

    Sample i is a function of the seed and of i alone, and draws what a `scoresde.sampling.Sampler` draws.

    Args:
        model: The model of the reverse steps.
        shape: The number of samples and the shape of one, `(B, ...)`, or B alone if the model knows the shape.
        seed: Seed of the noise.
        first: Index of the first sample.
        batch_size: Number of samples to work on at once; all if not given.
        last: Whether the last step, to x₀, is drawn, or its mode is taken. If not given, it is drawn for discrete
            states, and the mean is taken for continuous ones, as in algorithm 2 of Ho et al. (2020).
        trajectory: Whether to keep the state after every step.
        progress: Whether to show a progress bar.
        factor: A second distribution by which prior and steps are multiplied, for samples of a posterior; see
            `scoresde.chains.factors`.
        **cond: Conditions of the model; tensors, arrays and lists of length B are divided with the batch.

    Raises:
        ValueError: Zero samples, a shape that is not the model's, or a factor for another chain or shape.
        ArithmeticError: A sample that is not finite.
    """
    whole = _whole(model, shape)
    if last is not None:
        one_of("last", last, ("draw", "mode"))
    draws_last = model.draws_last if last is None else last == "draw"
    batch_size = whole[0] if batch_size is None else batch_size
    at_least("batch_size", batch_size, 1)
    if factor is not None:
        factor.check(model.chain, whole)
    conditions = model.conditions(cond, whole[0])
    starts = range(0, whole[0], batch_size)
    bar = Progress(len(starts) * model.chain.steps, "sampling", "step", shown=progress)
    parts = []
    with model.evaluating(), bar:
        for start in starts:
            rows = conditions.rows(start, start + batch_size)
            part = (min(batch_size, whole[0] - start), *whole[1:])
            own = None if factor is None else factor.rows(start, start + part[0])
            parts.append(_chunk(model, part, seed, first + start, rows, draws_last, trajectory, bar, own))
    x = torch.cat([part.x for part in parts])
    if x.is_floating_point() and not bool(x.isfinite().all()):
        broken = int((~x.flatten(1).isfinite().all(1)).nonzero()[0, 0])
        raise ArithmeticError(f"sample {first + broken} is not finite: check the model for values that are not finite")
    kept = [part.trajectory for part in parts if part.trajectory is not None]
    track = torch.cat(kept, 1) if kept else None
    return ChainSamples(
        model.to_data_space(x),
        model.chain.steps,
        None if track is None else model.to_data_space(track.flatten(0, 1)).reshape(track.shape),
        model.info,
    )


def _whole(model: ChainModel[Any], shape: int | Sequence[int]) -> tuple[int, ...]:
    """The shape `(B, ...)` of all samples.

    Raises:
        ValueError: Zero samples, or a shape that is not the model's.
    """
    if isinstance(shape, int):
        if model.shape is None:
            raise ValueError(
                f"shape is {shape}, and the model does not know the shape of a sample: give ({shape}, ...)"
            )
        shape = (shape, *model.shape)
    whole = tuple(shape)
    if len(whole) < 2 or min(whole) < 1:
        raise ValueError(f"shape is {whole}, expected (B, ...) with at least one sample of at least one element")
    if model.shape is not None and whole[1:] != model.shape:
        raise ValueError(f"shape is {whole}, but a sample of this model has shape {model.shape}")
    return whole


def _chunk(
    model: ChainModel[Any],
    shape: tuple[int, ...],
    seed: int,
    first: int,
    conditions: Conditions,
    draws_last: bool,
    trajectory: bool,
    bar: Progress,
    factor: Factor | None,
) -> ChainSamples:
    """Samples `first` to `first` + B of a seed, in model space."""
    chain, device = model.chain, model.device
    indices = torch.arange(first, first + shape[0])
    noise = SampleNoise(seed, indices, shape[1:], model.dtype, device)
    start = chain.draw(noise)
    x = chain.prior_sample(shape, start)
    if factor is not None:
        x = factor.times(chain.prior(x), chain.steps, chain).sample(start).to(x.dtype)
    steps = torch.arange(chain.steps + 1, device=device)
    kept = [x.cpu()] if trajectory else []
    for t in range(chain.steps, 0, -1):
        step = model.reverse(x, steps[t].expand(shape[0]), **conditions)
        if factor is not None:
            step = factor.times(step, t - 1, chain)
        x = step.sample(chain.draw(noise)).to(x.dtype) if t > 1 or draws_last else step.mode.to(x.dtype)
        if trajectory:
            kept.append(x.cpu())
        bar.update()
    return ChainSamples(x, chain.steps, torch.stack(kept) if trajectory else None)
