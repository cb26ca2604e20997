"""The local intrinsic dimension of data, from a model's noise prediction and its Jacobian.

Where data lie on a surface of d dimensions, the density of x + √v ε at x goes as v^((d − D)/2) for small v. So the
slope of its logarithm in log √v, plus D, is the dimension, and the Fokker-Planck equation gives that slope from the
score at one noise level (FLIPD, Kamkari et al. 2024):

    d(x) = D + σ² (tr ∇s + ‖s‖²) = Σ_i (1 − σ ∂ε̂_i/∂x_i + ε̂_i²)    at α x, for s = −ε̂/σ.

The terms of the sum are the shares of the elements, such as pixels: their map. A noise level sees as dimensions the
directions in which data are wider than the noise: dequantisation below the width of a cell, texture and shape above.

References:
    A geometric view of data complexity: efficient local intrinsic dimension estimation with diffusion models (Kamkari
    et al. 2024), https://arxiv.org/abs/2406.03537
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.information.paths import log_snr_range
from scoresde.likelihood.flow import Flow
from scoresde.likelihood.inputs import check_batch
from scoresde.likelihood.numbering import evaluation_number
from scoresde.likelihood.options import BOUND_OPTIONS, FlowOptions
from scoresde.numerics.html import range_of, table
from scoresde.numerics.jacobian import jacobian_diagonal
from scoresde.numerics.trace import Divergence, Exact, Hutchinson
from scoresde.score import ScoreModel
from scoresde.sde.coordinates import LogSNR

__all__ = ["LocalDimension", "default_log_snr", "flipd"]

# Noise of the default level, in standard deviations of the data.
_LEVEL = 0.1
# Elements of a sample up to which the default trace is exact, and the probes above.
_MAX_EXACT, _PROBES = 1024, 16
# Elements of the vectors of the products that are computed at once.
_VALUES = 2**22


@dataclass(frozen=True)
class LocalDimension:
    """Local intrinsic dimensions of samples at one noise level or several.

    Attributes:
        dimension: Dimensions, `(L, B)` float64. They are no whole numbers, and may be negative far from the data.
        stderr: Standard errors from random probes, `(L, B)`; 0 for the exact trace, NaN where the probes do not tell.
        maps: The share of every element, `(L, B, ...)`, for the exact trace; None for others.
        log_snr: The levels λ = log(α/σ), `(L,)`.
    """

    dimension: Tensor
    stderr: Tensor
    maps: Tensor | None
    log_snr: Tensor

    def __repr__(self) -> str:
        means = ", ".join(
            f"{mean:.3g} at log SNR {level:.3g}"
            for mean, level in zip(self.dimension.mean(1).tolist(), self.log_snr.tolist(), strict=True)
        )
        return f"LocalDimension({means}; n={self.dimension.shape[1]})"

    def _repr_html_(self) -> str:
        rows = [
            (f"at log SNR {level:.3g}", f"{values.mean():.4g}, {range_of(values)}")
            for level, values in zip(self.log_snr.tolist(), self.dimension, strict=True)
        ]
        return table("Local intrinsic dimension: mean and range", rows, f"n = {self.dimension.shape[1]}.")


@checked
@torch.no_grad()
def flipd(
    model: ScoreModel,
    x: Tensor,
    *,
    log_snr: float | Sequence[float] | Tensor | None = None,
    divergence: Divergence | None = None,
    seed: int = 0,
    first: int = 0,
    options: FlowOptions | None = None,
    **keywords: Any,
) -> LocalDimension:
    """The local intrinsic dimension of the model's density at x, by FLIPD.

    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import VPSDE
    >>> line = GaussianMixtureScore([1.0], [[0.0, 0.0, 0.0]], [[1.0, 0.0, 0.0]], VPSDE())
    >>> round(flipd(line, torch.tensor([[0.5, 0.0, 0.0]]), log_snr=4.0).dimension.item(), 2)
    1.0

    Args:
        model: The score model.
        x: Samples `(B, ...)` in the data's units.
        log_snr: Level λ = log(α/σ) of the noise, or several; that of a tenth of the data's standard deviation if not
            given.
        divergence: How the trace is found. If not given, exactly up to 1024 elements, which also gives the map, and by
            16 probes above.
        seed: Seed of random probes.
        first: Index of the first sample.
        options: The options `t_min`, `t_max`, `scaling` and `batch_size`; keywords replace its values.
        **keywords: These options by name, and conditions of the model.

    Raises:
        ValueError: Samples that are not finite, or a level outside the range of the model.
    """
    options, cond = FlowOptions.split(flipd, model, options, keywords, BOUND_OPTIONS)
    x, conditions = check_batch(model, x, cond)
    flow = Flow(model, x.shape, conditions, FlowOptions(
        t_min=options.t_min, t_max=options.t_max, scaling=options.scaling, variable=LogSNR()), x.device)  # fmt: skip
    levels = _levels(flow, log_snr)
    if divergence is None:
        divergence = Exact() if flow.size <= _MAX_EXACT else Hutchinson(_PROBES)
    divergence = divergence.for_shape(tuple(x.shape[1:]))
    data = model.to_model_space(x).double().flatten(1)
    dimension = torch.empty(len(levels), len(x), dtype=torch.float64, device=x.device)
    stderr = torch.zeros_like(dimension)
    shares = torch.empty(len(levels), *data.shape, dtype=torch.float64, device=x.device)
    exact = isinstance(divergence, Exact)
    for number, level in enumerate(levels.tolist()):
        for start in range(0, len(x), options.width):
            samples = torch.arange(start, min(start + options.width, len(x)))
            rows, index = samples.to(x.device), evaluation_number(samples + first, number).to(x.device)
            found = _dimension(flow, data[rows], rows, level, divergence, seed, index)
            dimension[number, rows], stderr[number, rows] = found[0], found[1]
            if exact and found[2] is not None:
                shares[number, rows] = found[2]
    return LocalDimension(dimension, stderr, shares.reshape(len(levels), *x.shape) if exact else None, levels)


def _dimension(
    flow: Flow, x: Tensor, rows: Tensor, level: float, divergence: Divergence, seed: int, index: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The dimensions `(b,)` of samples `rows` at a level, their standard errors, and their maps `(b, D)` if exact."""
    place = flow.place(torch.full((len(rows),), level, dtype=torch.float64, device=x.device))
    sigma = place.alpha * place.level
    state = (place.alpha[:, None] * x).to(flow.dtype).reshape(-1, *flow.shape[1:])
    noise = flow.noise(place, rows)
    with flow.model.evaluating():
        if isinstance(divergence, Exact):
            chunk = divergence.chunk or max(1, _VALUES // state.numel())
            field, diagonal = jacobian_diagonal(noise, state, forward=divergence.mode == "forward", chunk=chunk)
            eps = field.double().flatten(1)
            shares = 1 - sigma[:, None] * diagonal.double().mT + eps.square()
            return shares.sum(1), torch.zeros_like(sigma), shares
        traces = divergence.traces(noise, state, seed, index, flow.known(place))
    eps = traces.field.double()
    error = torch.full_like(sigma, math.nan) if traces.variance is None else traces.variance.clamp_min(0).sqrt()
    return flow.size - sigma * traces.value + eps.square().sum(1), sigma * error, None


def default_log_snr(model: ScoreModel) -> float:
    """The level λ of noise of a tenth of the data's standard deviation, in the range of the model."""
    low, high = log_snr_range(model)
    return min(max(-math.log(_LEVEL * model.data_std), low), high)


def _levels(flow: Flow, log_snr: float | Sequence[float] | Tensor | None) -> Tensor:
    """The levels, `(L,)` float64.

    Raises:
        ValueError: None, or one outside the range of the model.
    """
    low, high = log_snr_range(flow.model, flow.t_min, flow.t_max)
    if log_snr is None:
        return torch.tensor([min(max(default_log_snr(flow.model), low), high)], dtype=torch.float64)
    levels = torch.as_tensor(log_snr, dtype=torch.float64).reshape(-1).cpu()
    if not len(levels) or not bool(((levels >= low - 1e-9) & (levels <= high + 1e-9)).all()):
        raise ValueError(f"log_snr is {levels.tolist()}, expected levels from {low:.4g} to {high:.4g}")
    return levels
