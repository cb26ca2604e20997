"""Posterior samples of measurements, several for each."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.counted import CountedModel
from scoresde.inverse.method import Method
from scoresde.inverse.problem import Measurement
from scoresde.numerics.values import at_least
from scoresde.score import ScoreModel

__all__ = ["Restored", "restore"]


@dataclass(frozen=True)
class Restored:
    """Samples of p(x | y) as a method has them.

    Attributes:
        x: `(B, n, ...)`, n samples for each of the B measurements, in the units of a sampler's samples.
        nfe: The evaluations of the model for a sample, the largest number of a chunk if they differ.
        products: The products of a vector with the model's Jacobian for a sample, such as the backward pass of a
            gradient, each of which costs about as much as an evaluation, or twice.
    """

    x: Tensor
    nfe: int
    products: int = 0

    @property
    def mean(self) -> Tensor:
        """The mean of the samples of each measurement, `(B, ...)`."""
        return self.x.mean(1)

    @property
    def std(self) -> Tensor:
        """Their standard deviation, `(B, ...)`; 0 of a single sample."""
        return self.x.std(1, unbiased=self.x.shape[1] > 1)


@checked
def restore(
    model: ScoreModel,
    measurement: Measurement,
    method: Method,
    *,
    samples: int = 1,
    steps: int = 100,
    seed: int = 0,
    first: int = 0,
    batch_size: int | None = None,
    **cond: Any,
) -> Restored:
    """Draw samples of what was measured.

    Args:
        model: The model of the prior.
        measurement: B measurements.
        method: The method.
        samples: The number n of samples for each measurement.
        steps: The number of the method's steps.
        seed: Sample j of measurement i is a function of the measurement, of the seed and of (first + i) n + j.
        first: The index of the first measurement.
        batch_size: The number of samples to work on at once; all if not given.
        **cond: Conditions of the model, one for all samples, or one for each measurement.

    Raises:
        ValueError: A problem that is none for the method, before anything is drawn.
    """
    at_least("samples", samples, 1)
    at_least("steps", steps, 1)
    method.check(model, measurement)
    count = len(measurement) * samples
    each = model.conditions(cond, len(measurement), model.device)
    size = count if batch_size is None else batch_size
    at_least("batch_size", size, 1)
    done, nfe, products = [], 0, 0
    for start in range(0, count, size):
        rows = torch.arange(start, min(start + size, count)) // samples
        counted = CountedModel(model)
        options: dict[str, Any] = {"seed": seed, "first": first * samples + start, **each.select(rows)}
        out = method.draw(counted, measurement.rows(rows), steps, **options)
        done.append(out.x)
        asked, pulled = map(math.ceil, counted.cost.each(len(rows)))
        nfe, products = max(nfe, asked), max(products, pulled)
    x = torch.cat(done)
    return Restored(x.reshape(len(measurement), samples, *x.shape[1:]), nfe, products)
