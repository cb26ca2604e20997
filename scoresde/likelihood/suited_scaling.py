"""The scaling of the state that suits a model, measured on a few paths of the model itself.

Under the data's covariance Σ normal data stand still, and the Jacobian of normal data, K = (σ̃/α) (Σ + σ̃²)^(−1), is
taken out of random traces as a control variate. Where data are nearly normal, few steps and small random errors are
left. Elsewhere a mode has another covariance than all data together, and the control variate adds to the scatter that
it should remove. Second moments do not tell these cases apart; the model's Jacobian J does. A random probe has the
variance

    2 Σ_{i≠j} (J_ij − K_ij)²,

integrated along paths, against 2 Σ_{i≠j} J_ij² where all directions have one variance. The ratio of both decides.

The paths start at codes of their own, not at the samples whose densities are asked for. So the choice belongs to the
model, and a sample's density depends on its batch mates as little as under a scaling that is given.
"""

import itertools
import math
import weakref
from collections.abc import Hashable
from dataclasses import replace

import torch

from scoresde.likelihood.flow import Flow
from scoresde.likelihood.options import FlowOptions
from scoresde.likelihood.scaling import CovarianceScaling, ScalarScaling
from scoresde.numerics.jacobian import jacobian_products
from scoresde.numerics.random import SampleNoise, Stream
from scoresde.score import Conditions, ScoreModel
from scoresde.sde.coordinates import LogSNR

__all__ = ["probe_variance_ratio", "with_scaling"]

# Paths, and Euler steps of each in log σ̃: a step is an evaluation and two products, which cost about 1.3 more each.
_PATHS, _STEPS = 4, 8
# The largest ratio of variances for which the covariance is chosen. It also changes the number of steps, by factors of
# 0.4 where the ratio is near 0 and up to 1.25 where it is near 1/2 (docs/likelihood.md).
_LARGEST_RATIO = 0.5
# Relative difference of variances up to which all directions are alike.
_ALIKE = 1e-6
_RATIOS: "weakref.WeakKeyDictionary[ScoreModel, dict[Hashable, float]]" = weakref.WeakKeyDictionary()


def with_scaling(model: ScoreModel, shape: torch.Size, conditions: Conditions, options: FlowOptions) -> FlowOptions:
    """The options with a scaling: the one that is given, or the one that suits the model.

    That is `CovarianceScaling()` where it leaves at most half of the variance of random probes, and otherwise
    `ScalarScaling()`. It is found once for a model and its weights, at the cost of about 115 evaluations.

    Args:
        model: The score model.
        shape: Shape of the samples, `(B, ...)`.
        conditions: Conditions of the samples. Their values do not matter: labels are replaced by a few classes, and
            under any other condition, of which no values are known, the scaling is `ScalarScaling()`.
        options: The options.
    """
    if options.scaling is not None:
        return options
    model.check_shape(shape)
    if not _measurable(model, conditions, shape[1:].numel()):
        return replace(options, scaling=ScalarScaling())
    key = (*shape[1:], *conditions, options.t_min, options.t_max, *_versions(model))
    known = _RATIOS.setdefault(model, {})
    if key not in known:
        known[key] = probe_variance_ratio(model, shape[1:], "labels" in conditions, options)
    suits = known[key] <= _LARGEST_RATIO
    return replace(options, scaling=CovarianceScaling() if suits else ScalarScaling())


def _measurable(model: ScoreModel, conditions: Conditions, size: int) -> bool:
    """True if the data are known to vary more in some directions than in others, under conditions that are known."""
    if set(conditions) - {"labels"} or ("labels" in conditions and model.classes is None):
        return False
    if model.statistics is None or model.statistics.dim != size:
        return False
    values = CovarianceScaling().spread(model.statistics, size).values
    return bool(values.max() > (1 + _ALIKE) * values.min())


def _versions(model: ScoreModel) -> list[tuple[int, int]]:
    """What changes with the numbers of a model: the place of each tensor, and how often it was written to."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return [(v.data_ptr(), 0 if v.is_inference() else v._version) for v in tensors]


@torch.no_grad()
def probe_variance_ratio(model: ScoreModel, shape: torch.Size, labelled: bool, options: FlowOptions) -> float:
    """The variance of a random probe under `CovarianceScaling()` over that under `ScalarScaling()`, along paths.

    NaN if a path or a Jacobian is not finite, or all Jacobians are diagonal.

    Args:
        model: The score model.
        shape: Shape of a sample.
        labelled: Whether the paths are given labels: classes in equal distances.
        options: Times of the flow.
    """
    device, size, index = model.device, shape.numel(), torch.arange(_PATHS)
    labels = {"labels": (index * (model.classes or 1) // _PATHS).to(device)} if labelled else {}
    options = FlowOptions(t_min=options.t_min, t_max=options.t_max, variable=LogSNR(), scaling=CovarianceScaling())
    flow = Flow(model, torch.Size((_PATHS, *shape)), Conditions(labels, _PATHS), options, device)
    rows = index.to(device)
    w = torch.linspace(flow.ends[1], flow.ends[0], _STEPS + 1, dtype=torch.float64, device=device)
    places = flow.prepare(w[:-1, None].expand(-1, _PATHS))
    noise = SampleNoise(0, index, (size,), torch.float64, device, stream=Stream.SCALING)
    probes = SampleNoise(1, index, (2, size), flow.dtype, device, stream=Stream.SCALING)
    # Codes of normal data are standard normal, and stand still.
    y, variances = noise(), torch.zeros(2, dtype=torch.float64, device=device)
    with model.evaluating():
        for place, step in zip(places, w.diff(), strict=True):
            x, signs = flow.to_x(place, y).to(flow.dtype).reshape(_PATHS, *shape), probes.signs()
            eps, products = jacobian_products(flow.noise(place, rows), x, signs)
            products, signs = products.double(), signs.double()
            both = torch.stack((products - flow.known(place).product(signs), products))
            # The entries on the diagonal are in both probes alike, and α σ̃ is what the integral multiplies J by.
            scatter = (both * signs).diff(dim=2).square().sum((2, 3))
            variances += scatter @ (place.alpha * place.level).square()
            y = y + step * flow.slope(place, y, eps.double().flatten(1))
    covariance, one = variances.tolist()
    return covariance / one if one > 0 else math.nan
