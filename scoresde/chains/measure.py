"""The measurement of the variances that suit the reverse steps of a model best."""

import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.random import SampleNoise, Stream
from scoresde.numerics.values import at_least, expand_to
from scoresde.progress import Progress
from scoresde.score import Conditions, ScoreModel, in_model_space
from scoresde.score.optimal_variances import OptimalVariances

__all__ = ["measure_variances"]

# Largest |λ| that is measured; at the ends of some SDEs it is infinite.
_WIDEST = 12.0


@torch.no_grad()
@checked
def measure_variances(
    model: ScoreModel,
    x: Tensor,
    *,
    levels: int = 128,
    samples: int = 256,
    seed: int = 0,
    batch_size: int = 1024,
    progress: bool = False,
    each: Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]] = map,
    **cond: Any,
) -> OptimalVariances:
    """Measure E‖ε̂ − ε‖² and E‖ε̂‖² of a model at noise levels that are even in log-SNR.

    Set `model.optimal_variances` to the result for `DDPM("optimal")`, `Ancestral("optimal")` and
    `GaussianChainModel(model, chain, "optimal")`; `scoresde tune run=DIR variances=true` stores it with a run.

    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import VPSDE
    >>> model = GaussianMixtureScore([1.0], [[0.0, 0.0]], [1.0], VPSDE())
    >>> found = measure_variances(model, torch.randn(500, 2, generator=torch.Generator().manual_seed(0)), samples=4096)
    >>> abs(float(found.at(torch.tensor(0.0))) - 0.5) < 0.05  # α²/(α² + σ²) for data of unit variance is ½
    True

    Args:
        model: The score model.
        x: Training data `(N, ...)`: continuous data in their own units, discrete data as `Data.transform` encodes them.
        levels: Number of noise levels, at least 2.
        samples: Number of noised samples at each level, at least 2, of all data in turn.
        seed: Seed of the noise.
        batch_size: Number of samples to work on at once.
        progress: Whether to show a progress bar.
        each: How a function is applied to all batches, in their order: `map`, or one that shares them out.
        **cond: Conditions of the model; tensors of length N go with the data.

    Raises:
        ValueError: Numbers that are too small, no data or data of another shape, or a model that is not finite.
    """
    at_least("levels", levels, 2)
    at_least("samples", samples, 2)
    at_least("batch_size", batch_size, 1)
    data = model.to_model_space(model.on_device(x))
    model = in_model_space(model)
    model.check_shape(data.shape)
    if not len(data):
        raise ValueError(f"x has shape {tuple(data.shape)}, expected at least one sample")
    conditions = model.conditions(cond, len(data), data.device)
    began = time.perf_counter()
    ends = model.sde.log_snr(torch.tensor([model.sde.t_max, model.sde.t_min], dtype=torch.float64))
    low, high = ends.clamp(-_WIDEST, _WIDEST).tolist()
    log_snr = torch.linspace(low, high, levels, dtype=torch.float64)
    errors = torch.empty(levels * samples, dtype=torch.float64, device=data.device)
    squares = torch.empty_like(errors)
    parts = range(0, len(errors), batch_size)
    bar = Progress(len(parts), "measuring", "batch", shown=progress)
    with model.evaluating(), bar:
        numbers = [torch.arange(start, min(start + batch_size, len(errors))) for start in parts]
        of = partial(_errors, model, data, conditions, log_snr, samples, seed)
        for number, found in zip(numbers, each(of, numbers), strict=True):
            errors[number], squares[number] = (values.to(errors.device) for values in found)
            bar.update()
    errors, squares = errors.reshape(levels, samples).cpu(), squares.reshape(levels, samples).cpu()
    if not bool(errors.isfinite().all()):
        bad = float(log_snr[(~errors.isfinite()).any(1)][0])
        raise ValueError(f"the model is not finite at log-SNR {bad:.3g}: its variances cannot be measured")
    return OptimalVariances(
        log_snr.tolist(),
        errors.mean(1).clamp_min(torch.finfo(torch.float64).tiny).tolist(),
        (errors.std(1) / math.sqrt(samples)).tolist(),
        squares.mean(1).tolist(),
        samples,
        time.perf_counter() - began,
    )


def _errors(
    model: ScoreModel,
    data: Tensor,
    conditions: Conditions,
    log_snr: Tensor,
    samples: int,
    seed: int,
    number: Tensor,
) -> tuple[Tensor, Tensor]:
    """‖ε̂ − ε‖²/D and ‖ε̂‖²/D, `(b,)` float64 each, for pairs of a level and a sample, by their numbers `(b,)`."""
    rows = (number % len(data)).to(data.device)
    x0 = data[rows].to(torch.promote_types(data.dtype, model.dtype))
    noise = SampleNoise(seed, number, tuple(data.shape[1:]), x0.dtype, x0.device, stream=Stream.VARIANCE_NOISE)()
    t = model.sde.time(log_snr[number // samples]).clamp(model.sde.t_min, model.sde.t_max).to(data.device)
    x = model.sde.perturb(x0, t, noise)
    residual, factor = model.noise_residual(x, t, x0, noise, **conditions.select(rows))
    error = residual if factor is None else expand_to(factor, residual) * residual
    return tuple(v.double().square().flatten(1).mean(1) for v in (error, error + noise))  # type: ignore[return-value]
