"""Binary sequences whose distribution is known exactly."""

import numpy as np
import torch

from scoresde.arguments import checked
from scoresde.data.base import Data, check_seed
from scoresde.data.transforms import Discrete
from scoresde.numerics.values import whole_number
from scoresde.storage.limits import check_memory

__all__ = ["heartbeat"]


@checked
def heartbeat(
    n_train: int = 10_000, n_test: int = 2_000, seed: int = 0, length: int = 20, period: int = 5, labels: bool = True
) -> Data:
    """Binary sequences that are 1 at every fifth place and 0 elsewhere, with a random phase; the label is the phase.

    The phases are equally likely, so that the entropy of a sequence is log₂(`period`) bits: 2.322 for the "heartbeat"
    data of Sohl-Dickstein et al. (2015, section 3.1.2), which have the length and the period of the defaults.

    Args:
        n_train: Number of training sequences.
        n_test: Number of test sequences, from a stream of their own.
        seed: Seed of the phases.
        length: Number of places of a sequence, at least the period.
        period: Places from one 1 to the next, at least 2.
        labels: Whether the data have labels.

    Raises:
        ValueError: An empty split, a negative seed, or a length and a period with which some sequence is constant.

    References:
        Sohl-Dickstein et al. 2015, Deep unsupervised learning using nonequilibrium thermodynamics,
            https://arxiv.org/abs/1503.03585

    >>> data = heartbeat(n_train=2, n_test=1)
    >>> data.train.shape, data.train.float().mean().item()
    (torch.Size([2, 20]), 0.20000000298023224)
    """
    if n_train < 1 or n_test < 1:
        raise ValueError(f"heartbeat: n_train and n_test must be at least 1, got {n_train} and {n_test}")
    check_seed(seed, "heartbeat: seed")
    period = whole_number("heartbeat: period", period, at_least=2)
    length = whole_number("heartbeat: length", length, at_least=period)
    check_memory(2 * length * (n_train + n_test), f"heartbeat: {n_train} and {n_test} sequences of {length}")
    values, phases = [], []
    for stream, n in enumerate((n_train, n_test)):
        phase = np.random.default_rng([seed, stream]).integers(period, size=n)
        on = np.arange(length) % period == phase[:, None]
        values.append(torch.from_numpy(on.astype(np.uint8)))
        phases.append(torch.from_numpy(phase) if labels else None)
    return Data(
        name="heartbeat",
        train=values[0],
        test=values[1],
        transform=Discrete(2),
        train_labels=phases[0],
        test_labels=phases[1],
        num_classes=period if labels else None,
    )
