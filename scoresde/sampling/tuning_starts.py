"""Starts for a search: some of many draws, with those that few steps get wrong among them.

Where modes part sharply, the one start in thousands that lies near the edge between two of them carries the error. A
search that has not seen any such start finds coefficients that send them to the wrong mode. To see enough of them costs
little: each draw is sampled by the default method in n and in 2 n steps. A quarter of the starts that are kept are the
draws at which the two differ most, and the others are a random part of the rest, for which they stand.

Which starts a new method gets wrong is not known before. So starts that choose between methods, or that an error is
stated for, are all of their draws: that takes a solve each, where a start of the search takes some hundred.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
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

__all__ = ["DRAWS", "HELD_OUT", "drawn_starts", "fitted_part", "given_starts"]

DRAWS = 8  # for each start
HELD_OUT = 0.2  # of the starts
_HARD = 4  # one in so many of the starts is kept because it is hard
# A sample is a function of the seed and its index: these indices are far from any that a user samples with.
_FIRST = 2**40


def fitted_part(count: int) -> int:
    """The number of starts, of `count`, that are fitted; the others are held out."""
    return count - int(HELD_OUT * count)


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
    """Starts to fit, of which a quarter is hard, and behind them all draws that are held out.

    For each start, of both kinds, there are `DRAWS` draws of the prior.

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
    fitted = fitted_part(count)
    x, difference = [], []
    for start, stop in _batches(0, DRAWS * fitted, DRAWS * count, size=batch_size):
        noise = SampleNoise(seed, torch.arange(_FIRST + start, _FIRST + stop), shape, model.dtype, model.device)
        x.append(prior_start(model, noise(), first))
        if stop <= DRAWS * fitted:
            difference.append(_difference(model, x[-1], evaluations, every.rows(start, stop)))
        note()
    kept, weights = _chosen(torch.cat(difference), fitted, torch.Generator().manual_seed(seed))
    held_out = torch.arange(DRAWS * fitted, DRAWS * count)
    rows = torch.cat((kept, held_out))
    weights = torch.cat((weights, torch.ones(len(held_out), dtype=torch.float64)))
    return Starts(torch.cat(x)[rows.to(x[0].device)], every.select(rows), weights)


def _batches(*bounds: int, size: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most `size` numbers, none of which goes across a bound."""
    for begin, end in pairwise(bounds):
        for start in range(begin, end, size):
            yield start, min(start + size, end)


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
