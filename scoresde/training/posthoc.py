"""Averages of the weights over training with any profile, made afterwards of the snapshots that training kept.

An average over the steps of training is a sum of the weights after each step times a profile, whose sum is 1. Snapshots
are such averages up to their steps, so that a combination of them has the combination of their profiles. Its
coefficients are those whose combined profile is nearest, by least squares, to the profile that is wanted (Karras et al.
2024, section 3.2 and appendix C.3, which is the limit of short steps).

References:
    Analyzing and improving the training dynamics of diffusion models (Karras et al. 2024),
    https://arxiv.org/abs/2312.02696
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scoresde.storage.bounded import CheckpointError
from scoresde.training.ema import PowerFunction, Profile
from scoresde.training.snapshots import Snapshot, snapshots

__all__ = ["Average", "Combination", "combination", "posthoc_averages"]

_BINS = 32  # parts of the steps between two snapshots
# The coefficients' sum is 1 to rounding, so that weights that do not move are reproduced.
_SUM_WEIGHT = 1e4
_FLOAT32_ROUNDING = 2**-24


@dataclass(frozen=True)
class Combination:
    """A combination of averages that approximates another.

    Attributes:
        coefficients: `(K,)` coefficient of each average.
        residual: Share of the weight of the profile that is at other steps than it should be, in [0, 1] for a
            combination without negative weights: half the sum of absolute differences.
    """

    coefficients: np.ndarray
    residual: float


@dataclass(frozen=True)
class Average:
    """An average of the parameters of a network.

    Attributes:
        tensors: The average by the names of the parameters.
        step: Step up to which it is.
        residual: As of the `Combination`.
    """

    tensors: dict[str, Tensor]
    step: int
    residual: float


def combination(known: Sequence[tuple[int, Profile]], wanted: Profile, step: int) -> Combination:
    """The combination of known averages that is nearest to the one with the profile `wanted` up to `step`.

    Args:
        known: Step and profile of each known average.
        wanted: Profile of the wanted average.
        step: Step up to which it is, that of a known average.
    """
    edges = _edges(sorted({last for last, _ in known}), step)
    shares = [profile.share(np.minimum(edges, last), last) for last, profile in known]
    # Weight in each bin, as a density over the steps in it; least squares in the mean square over the steps.
    scale = np.sqrt(step / np.diff(edges))
    matrix = np.stack([np.diff(share) for share in shares], axis=1) * scale[:, None]
    target = np.diff(wanted.share(edges, step)) * scale
    # A small ridge keeps the rounding of the snapshots from being enlarged where that gains nothing.
    ridge = _FLOAT32_ROUNDING * np.eye(len(known))
    rows = np.concatenate((matrix, ridge, np.full((1, len(known)), _SUM_WEIGHT)))
    right = np.concatenate((target, np.zeros(len(known)), [_SUM_WEIGHT]))
    coefficients = np.linalg.lstsq(rows, right, rcond=None)[0]
    difference = (matrix @ coefficients - target) / scale
    # Weight before the first step, of the initial weights, is in no bin and cannot be had.
    return Combination(coefficients, 0.5 * float(np.abs(difference).sum() + wanted.share(edges[:1], step)[0]))


def _edges(lasts: Sequence[int], step: int) -> np.ndarray:
    """Edges of bins between 0 and `step`, whole numbers of steps, of which each of `lasts` is one."""
    ends = [0, *(last for last in lasts if last <= step)]
    parts = [np.linspace(a, b, min(_BINS, b - a) + 1).round() for a, b in pairwise(ends)]
    return np.unique(np.concatenate(parts))


def posthoc_averages(
    folder: str | Path, profiles: Sequence[float | Profile], step: int | None = None, tol: float = 0.01
) -> list[Average]:
    """Averages of the weights of a training with any profiles, of the snapshots that it kept.

    Args:
        folder: Folder of the snapshots, `snapshots` in a run directory.
        profiles: Profile of each average, or its standard deviation relative to the training time.
        step: Step up to which they are, that of a snapshot; the last if not given.
        tol: Largest residual, the share of a profile's weight that may be at other steps.

    Returns:
        The averages, in the order of `profiles`.

    Raises:
        ValueError: A standard deviation out of its range or a profile that the snapshots cannot express, no snapshots,
            or none of the step.
        CheckpointError: A damaged snapshot, or one of another network.
    """
    wanted = [profile if isinstance(profile, Profile) else PowerFunction(profile) for profile in profiles]
    taken = snapshots(Path(folder))
    if not taken:
        raise ValueError(
            f"{folder} has no snapshots of averaged weights: train with training.snapshots=N, steps between snapshots, "
            "such as a fiftieth of training.steps"
        )
    step = taken[-1].step if step is None else step
    if step not in [snapshot.step for snapshot in taken]:
        nearest = min(taken, key=lambda snapshot: abs(snapshot.step - step)).step
        raise ValueError(f"there is no snapshot of step {step}: the nearest is of step {nearest}")
    taken = [snapshot for snapshot in taken if snapshot.step <= step]
    known = [(snapshot.step, PowerFunction(std)) for snapshot in taken for std in snapshot.stds]
    combined = [combination(known, profile, step) for profile in wanted]
    for given, each in zip(profiles, combined, strict=True):
        if not each.residual <= tol:
            name = repr(given) if isinstance(given, Profile) else f"std={given}"
            raise ValueError(
                f"the {len(taken)} snapshots up to step {step} cannot express {name}: {each.residual:.2g} of its "
                f"weight would be at other steps, expected at most tol={tol:g}; a std nearer to theirs "
                f"({', '.join(f'{std:g}' for std in taken[-1].stds)}) or more snapshots have less"
            )
    tensors = _combined(taken, np.stack([each.coefficients for each in combined]))
    return [Average(named, step, each.residual) for named, each in zip(tensors, combined, strict=True)]


def _combined(taken: Sequence[Snapshot], coefficients: np.ndarray) -> list[dict[str, Tensor]]:
    """Sums of the averages in the snapshots times rows of `coefficients`, in float64 until the end."""
    sums: list[dict[str, Tensor]] = [{} for _ in coefficients]
    dtypes: dict[str, torch.dtype] = {}
    columns = iter(coefficients.T)
    for snapshot in taken:
        for average in snapshot.tensors():
            own = {name: (value.shape, value.dtype) for name, value in average.items()}
            dtypes = dtypes or {name: value.dtype for name, value in average.items()}
            if sums[0] and {name: (value.shape, dtypes[name]) for name, value in sums[0].items()} != own:
                raise CheckpointError(f"{snapshot.path} is of another network than the snapshot before it: remove it")
            for total, factor in zip(sums, next(columns), strict=True):
                for name, value in average.items():
                    total[name] = total.get(name, 0) + float(factor) * value.double()
    return [{name: value.to(dtypes[name]) for name, value in total.items()} for total in sums]
