"""The table of information: what is found for each sample, a batch at a time, in nats."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde.data import Data, DataInfo
from scoresde.information import class_information, conditional_information, denoising_information, flipd, three_ways
from scoresde.likelihood.dequantisation import Uniform, dequantisation_noise
from scoresde.numerics.trace import Divergence
from scoresde.runs.sample_table import SampleTable
from scoresde.score import NetworkScore

__all__ = ["InformationTable", "band_names", "bands", "class_shares", "dequantised", "rows_of", "rows_of_training"]

_MAX_BANDS = 32  # of noise levels, in which the strata are added up
_COLUMNS = (
    "ode",
    "ode_stderr",
    "ode_solver_stderr",
    "elbo",
    "elbo_stderr",
    "immse",
    "immse_stderr",
    "tail",
    "normal",
    "labels",
    "labels_stderr",
    "classes",
    "classes_stderr",
    "class_probability",
    "class_rank",
    "dimension",
    "dimension_stderr",
)
# By noise level: nats above those of a normal density, nats of that density, and nats that labels save.
BY_LEVEL = ("excess", "error", "saved")


class InformationTable(SampleTable):
    """The rows of the samples, in the order of the split.

    Args:
        path: The CSV file.
        draws: Number of noise levels.
        settings: What the rows depend on.
    """

    def __init__(self, path: Path, draws: int, settings: dict[str, Any]) -> None:
        by_level = [name for kind in BY_LEVEL for name in band_names(kind, draws)]
        super().__init__(path, (*_COLUMNS, *by_level), settings)


def bands(draws: int) -> int:
    """The number of bands of noise levels that the table has for so many draws."""
    return min(draws, _MAX_BANDS)


def band_names(kind: str, draws: int) -> list[str]:
    """Names of the columns of a kind of `BY_LEVEL`."""
    return [f"{kind}_{band:02d}" for band in range(bands(draws))]


def band_edges(edges: Tensor) -> Tensor:
    """Edges `(b + 1,)` of the bands, from those of the strata `(n + 1,)`."""
    draws = len(edges) - 1
    first = torch.searchsorted(_band_of(draws), torch.arange(bands(draws)))
    return torch.cat((edges[first], edges[-1:]))


def in_bands(values: Tensor) -> Tensor:
    """Sums `(B, b)` in bands of values `(B, n)` in strata."""
    draws = values.shape[1]
    return values.new_zeros(len(values), bands(draws)).index_add_(1, _band_of(draws).to(values.device), values)


def _band_of(draws: int) -> Tensor:
    return torch.arange(draws) * bands(draws) // draws


def dequantised(data: Data | DataInfo, raw: Tensor, first: int, seed: int) -> tuple[Tensor, Tensor]:
    """Samples in model space, and what is added to their log-densities there, `(B,)` in nats.

    That is the log-determinant of the transform. Discrete data are dequantised uniformly, as by `bits_per_dim` with the
    same seed, so that the sum is a bound on the log-probability of the integers.
    """
    if data.transform.levels is None:
        offset = torch.full((len(raw),), data.transform.log_det(data.shape), dtype=torch.float64, device=raw.device)
        return data.transform.encode(raw), offset
    x, log_q = Uniform().draw(raw, data.transform, dequantisation_noise(raw, seed, first), 1.0, 0.0)
    return x, -log_q


def rows_of(
    model: NetworkScore,
    data: Data | DataInfo,
    raw: Tensor,
    first: int,
    settings: dict[str, Any],
    divergence: Divergence,
    labels: Tensor | None,
) -> list[list[float]]:
    """A row for each sample.

    Args:
        model: The model.
        data: Data set of the samples, or what is known of it where classes are not asked for.
        raw: `(B, ...)` samples in raw units, on the model's device.
        first: Index of the first of them in the split.
        settings: Settings of the table.
        divergence: How the divergence of the ODE's likelihood is found.
        labels: Labels of the samples, for a model that takes them.
    """
    seed, draws = settings["seed"], settings["draws"]
    x, offset = dequantised(data, raw, first, seed)
    cond: dict[str, Any] = {} if labels is None else {"labels": labels}
    common: dict[str, Any] = {"seed": seed, "first": first}
    ways = three_ways(model, x, draws=draws, divergence=divergence, tol=settings["tol"], **common, **cond)
    ode, lower, immse = ways.ode, ways.elbo, ways.immse
    missing = torch.full_like(offset, math.nan)
    known, known_error, saved = missing, missing, missing[:, None].expand(-1, bands(draws))
    if settings["labels"]:
        information = conditional_information(model, x, cond, draws=draws, **common)
        known, known_error, saved = information.nats, information.stderr, in_bands(information.gained)
    of_classes = missing[:, None].repeat(1, 4)
    count = min(max(settings["classes"] - first, 0), len(x))
    if count and labels is not None:
        of_classes[:count] = _of_classes(model, data, x[:count], labels[:count], draws, common)
    dimension, dimension_error = missing.clone(), missing.clone()
    count = min(max(settings["dimension"] - first, 0), len(x))
    if count:
        some = {name: value[:count] for name, value in cond.items()}
        found = flipd(model, x[:count], log_snr=settings["dimension_log_snr"], **common, **some)
        dimension[:count], dimension_error[:count] = found.dimension[0], found.stderr[0]
    columns = [
        ode.log_prob + offset,
        ode.stderr,
        ode.solver_stderr,
        lower.value + offset,
        lower.stderr,
        immse.log_prob + offset,
        immse.stderr,
        immse.tail,
        immse.normal + offset,
        known,
        known_error,
        *of_classes.unbind(1),
        dimension,
        dimension_error,
    ]
    by_level = in_bands(immse.excess), in_bands(immse.normal_error * immse.edges.diff()), saved
    return torch.cat((torch.stack(columns, 1), *by_level), 1).tolist()


def _of_classes(
    model: NetworkScore, data: Data | DataInfo, x: Tensor, labels: Tensor, draws: int, common: dict[str, Any]
) -> Tensor:
    """The information of labels by predictions for every class, its error, the label's probability and rank, `(b, 4)`.

    The rank is 0 for the most probable class. Classes are as probable as in the training data.
    """
    assert isinstance(data, Data)
    assert data.train_labels is not None
    shares = class_shares(data.train_labels, model.classes or 0)
    found = class_information(model, x, labels, prior=shares, draws=draws, **common)
    own = found.posterior.gather(1, labels[:, None])
    rank = (found.posterior > own).sum(1)
    return torch.stack((found.nats, found.stderr, own[:, 0], rank.double()), 1)


def class_shares(labels: Tensor, classes: int) -> Tensor:
    """The shares of classes in training data `(K,)`; one of which there is no sample counts as if there was one."""
    counts = torch.bincount(labels, minlength=classes).double().clamp_min(1)
    return counts / counts.sum()


def rows_of_training(
    model: NetworkScore, data: Data | DataInfo, raw: Tensor, first: int, settings: dict[str, Any], labels: Tensor | None
) -> list[list[float]]:
    """A row for each training sample, with the errors of denoising alone; args are those of `rows_of`."""
    x, offset = dequantised(data, raw, first, settings["seed"])
    cond: dict[str, Any] = {} if labels is None else {"labels": labels}
    draws = settings["draws"]
    out = denoising_information(model, x, draws=draws, seed=settings["seed"], first=first, **cond)
    missing = torch.full_like(offset, math.nan)
    density = [out.log_prob + offset, out.stderr, out.tail, out.normal + offset]
    columns = [*[missing] * 5, *density, *[missing] * (len(_COLUMNS) - 9)]
    by_level = in_bands(out.excess), in_bands(out.normal_error * out.edges.diff())
    saved = missing[:, None].expand(-1, bands(draws))
    return torch.cat((torch.stack(columns, 1), *by_level, saved), 1).tolist()
