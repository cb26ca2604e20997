"""Starts for a search: some of many draws, with those that few steps get wrong among them.

Where modes part sharply, the one start in thousands that lies near the edge between two of them carries the error. A
search that has not seen any such start finds coefficients that send them to the wrong mode. To see enough of them costs
little: each draw is sampled by the default method in n and in 2 n steps. A quarter of the starts that are kept are the
draws at which the two differ most, and the others are a random part of the rest, for which they stand.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from scoresde.numerics.random import SampleNoise
from scoresde.sampling.auto_adams import AutoAdams
from scoresde.sampling.data_grids import DataStraight
from scoresde.sampling.edge_starts import Starts
from scoresde.sampling.sampler import Sampler
from scoresde.sampling.start import prior_start
from scoresde.score import Conditions, ScoreModel

__all__ = ["DRAWS", "drawn_starts", "given_starts", "held_out"]

DRAWS = 8  # for each start that is kept
_HARD = 4  # one in so many of the starts is kept because it is hard
# A sample is a function of the seed and its index: these indices are far from any that a user samples with.
_FIRST = 2**40


def held_out(count: int) -> tuple[slice, slice, slice]:
    """The starts, of `count`, that are fitted, that choose between results, and that nothing depends on.

    The last two are a tenth each.
    """
    fitted, test = count - count // 5, count - count // 5 // 2
    return slice(0, fitted), slice(fitted, test), slice(test, count)


def given_starts(x: Tensor, cond: Mapping[str, Any]) -> Starts:
    """All of the states that are given, each for itself."""
    return Starts(x, Conditions.in_turn(cond, torch.arange(len(x))), torch.ones(len(x), dtype=torch.float64))


def drawn_starts(
    model: ScoreModel,
    shape: tuple[int, ...],
    count: int,
    evaluations: int,
    seed: int,
    batch_size: int,
    cond: Mapping[str, Any],
    note: Callable[[], None] = lambda: None,
) -> Starts:
    """Starts of which a quarter is hard, of `DRAWS` times as many draws of the prior; each part has draws of its own.

    Args:
        model: The score model.
        shape: The shape of a sample.
        count: The number of starts.
        evaluations: The number of evaluations that the search is for.
        seed: The seed of the draws and of the choice.
        batch_size: The number of samples to work on at once.
        cond: Conditions; a tensor is repeated to the number of draws.
        note: A function that is called after each batch.
    """
    every = Conditions.in_turn(cond, torch.arange(DRAWS * count))
    first = DataStraight(1)(model.sde, model.statistics)[0]
    x, difference = [], []
    for start in range(0, DRAWS * count, batch_size):
        stop = min(start + batch_size, DRAWS * count)
        noise = SampleNoise(seed, torch.arange(_FIRST + start, _FIRST + stop), shape, model.dtype, model.device)
        x.append(prior_start(model, noise(), first))
        difference.append(_difference(model, x[-1], evaluations, every.rows(start, stop)))
        note()
    hardness, generator = torch.cat(difference), torch.Generator().manual_seed(seed)
    kept, weights = [], []
    for part in held_out(count):
        chosen, each = _chosen(hardness[DRAWS * part.start : DRAWS * part.stop], part.stop - part.start, generator)
        kept.append(chosen + DRAWS * part.start)
        weights.append(each)
    rows = torch.cat(kept)
    return Starts(torch.cat(x)[rows.to(x[0].device)], every.select(rows), torch.cat(weights))


def _difference(model: ScoreModel, x: Tensor, evaluations: int, cond: Conditions) -> Tensor:
    """The squared distance between the samples of n and of 2 n steps from x, `(B,)` float64 on the CPU."""
    few, many = (
        Sampler(AutoAdams(), DataStraight(steps), denoise=False)(model, x_init=x, **cond).x
        for steps in (evaluations, 2 * evaluations)
    )
    return (few - many).flatten(1).double().square().sum(1).cpu()


def _chosen(hardness: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The indices of `count` draws, `(count,)`, and the number of draws that each stands for."""
    order = hardness.argsort(descending=True)
    hard = count // _HARD
    rest = order[hard:][torch.randperm(len(order) - hard, generator=generator)[: count - hard]]
    weights = torch.ones(count, dtype=torch.float64)
    weights[hard:] = (len(order) - hard) / len(rest)
    # Not the hard ones first, since a part of the starts may be used alone.
    mixed = torch.randperm(count, generator=generator)
    return torch.cat((order[:hard], rest))[mixed], weights[mixed]
