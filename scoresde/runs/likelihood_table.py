"""The table of likelihoods: a row of numbers for each sample, computed a batch at a time."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde.chains import DiscreteChainModel
from scoresde.data import Data, DataInfo
from scoresde.likelihood import bits_per_dim, chain_bound, log_likelihood, own_chain
from scoresde.runs.chains import RunModel
from scoresde.runs.sample_table import SampleTable

__all__ = ["LikelihoodTable", "rows_of"]

_LATER = ("solver_stderr", "total_stderr")  # than version 0.1.0, which measured the error of the first samples
_OF_CHAIN = ("by_chain", "stderr_by_chain")  # of the bound of the model's chain, where it was asked for
_COLUMNS = ("stderr", "stderr_dequantisation", "nfe", "divergences", "elbo", "stderr_elbo", *_LATER)


def rows_of(
    model: RunModel, data: Data | DataInfo, raw: Tensor, first: int, common: dict[str, Any]
) -> list[list[float]]:
    """A row for each sample: its value and the further columns of the table.

    `stderr` is from probes, `solver_stderr` from the solver, and `total_stderr` from both.

    Args:
        model: The model.
        data: Data set of the samples, or what is known of it.
        raw: `(B, ...)` samples in raw units, on the model's device.
        first: Index of the first of them in the split.
        common: Arguments of `log_likelihood`, of `bits_per_dim` for discrete data, or of `chain_bound`, with the
            labels.
    """
    if isinstance(model, DiscreteChainModel):
        bound = chain_bound(model, data.transform.encode(raw), first=first, **common)
        unit = math.prod(data.shape) * math.log(2)
        values, stderr = -bound.value / unit, bound.stderr / unit
        nothing, missing = torch.zeros_like(values), torch.full_like(values, math.nan)
        columns = [values, stderr, nothing, nothing + bound.nfe, nothing, missing, missing, nothing, stderr]
    elif data.transform.levels is None:
        encoded, draws = data.transform.encode(raw), common.get("chain_draws", 0)
        common = {name: value for name, value in common.items() if name != "chain_draws"}
        out = log_likelihood(model, encoded, first=first, **common)
        values = out.log_prob + data.transform.log_det(data.shape)
        missing = torch.full_like(values, math.nan)
        columns = [values, out.stderr, torch.zeros_like(values), out.nfe, out.divergences, missing, missing]
        columns += [out.solver_stderr, out.total_stderr]
        if draws:
            cond = {name: value for name, value in common.items() if name not in ("divergence", "tol", "corrected")}
            bound = chain_bound(own_chain(model), encoded, evaluations=draws, first=first, **cond)
            columns += [bound.value + data.transform.log_det(data.shape), bound.stderr]
    else:
        bits = bits_per_dim(model, raw, data.transform, first=first, **common)
        missing = torch.full_like(bits.bits, math.nan)
        further = (bits.elbo, bits.elbo_stderr, bits.solver_stderr, bits.total_stderr)
        columns = [bits.bits, bits.stderr, bits.stderr_dequantisation, bits.nfe, bits.divergences]
        columns += [missing if values is None else values for values in further]
        columns += [values for values in (bits.chain, bits.chain_stderr) if values is not None]
    return list(map(list, zip(*(c.tolist() for c in columns), strict=True)))


class LikelihoodTable(SampleTable):
    """The rows of the samples, in the order of the split.

    Rows of version 0.1.0 do not tell the error of the solver, which is NaN.

    Args:
        path: The CSV file.
        unit: Name of the column of values: bits_per_dim or nats.
        settings: What the rows depend on.
    """

    def __init__(self, path: Path, unit: str, settings: dict[str, Any]) -> None:
        names = (unit, *_COLUMNS, *(_OF_CHAIN if settings.get("chain_draws") else ()))
        super().__init__(path, names, settings, later=_LATER, former=("solver_error",))
