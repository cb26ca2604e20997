"""Codes: the two ends of the probability flow, which it maps onto each other (Song et al. 2021, section D.3)."""

import math
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.likelihood.flow import Flow
from scoresde.likelihood.inputs import check_batch, state_dtype
from scoresde.likelihood.options import FLOW_OPTIONS, FlowOptions
from scoresde.likelihood.suited_scaling import with_scaling
from scoresde.score import ScoreModel

__all__ = ["decode", "encode", "interpolate", "round_trip_error"]

_TOLERANCE = 1e-6
# Codes are ends of a path, along which nothing is integrated.
_OPTIONS = tuple(name for name in FLOW_OPTIONS if name not in ("nodes", "corrected"))
# Sine of the angle between two codes below which they count as parallel or opposite.
_PARALLEL = 1e-6


@checked
@torch.no_grad()
def encode(model: ScoreModel, x: Tensor, *, options: FlowOptions | None = None, **keywords: Any) -> Tensor:
    """The codes `(B, ...)` at t_max of data at t_min; the inverse of `decode` to the tolerance.

    The codes are in model space and in the dtype of x, float32 at least.

    Args:
        model: The score model.
        x: Data `(B, ...)` in the data's units, as for `log_likelihood`.
        options: Accuracy and other options of the solve; the keywords below replace its values.
        **keywords: The options of `FlowOptions`, of which `rtol` and `atol` are 1e-6 here if no tolerance is given.
            All others are conditions for the model.

    Raises:
        ValueError: As `log_likelihood`.
        LikelihoodError: The path of a sample could not be followed.
    """
    options, cond = FlowOptions.split(encode, model, options, keywords, _OPTIONS)
    x, conditions = check_batch(model, x, cond, density=False)
    options = with_scaling(model, x.shape, conditions, options)
    flow = Flow(model, x.shape, conditions, options, x.device)
    return _carried(flow, model.to_model_space(x), back=False)


@checked
@torch.no_grad()
def decode(model: ScoreModel, z: Tensor, *, options: FlowOptions | None = None, **keywords: Any) -> Tensor:
    """The data `(B, ...)` at t_min of codes at t_max; the inverse of `encode` to the tolerance.

    Args:
        model: The score model.
        z: Codes `(B, ...)` in model space.
        options: As for `encode`.
        **keywords: As for `encode`.

    Raises:
        ValueError: As `log_likelihood`.
        LikelihoodError: The path of a sample could not be followed.
    """
    options, cond = FlowOptions.split(decode, model, options, keywords, _OPTIONS)
    z, conditions = check_batch(model, z, cond, density=False)
    options = with_scaling(model, z.shape, conditions, options)
    return _carried(Flow(model, z.shape, conditions, options, z.device), z, back=True)


@checked
@torch.no_grad()
def round_trip_error(model: ScoreModel, x: Tensor, **options: Any) -> Tensor:
    """Root mean square over the elements of decode(encode(x)) − x, `(B,)` float64 in units of x.

    It grows with what both solves err by. A model that is far from linear somewhere multiplies that on the way back,
    so that an error well above the tolerance says that codes, and log-densities, need a smaller one.

    Args:
        model: the score model.
        x: `(B, ...)` in the data's units, as for `log_likelihood`.
        **options: those of `encode`, conditions among them, for both ways.

    Raises:
        ValueError, LikelihoodError: as `log_likelihood`.
    """
    x = model.on_device(x)
    back = decode(model, encode(model, x, **options), **options)
    return (back.double() - x.double()).flatten(1).square().mean(1).sqrt()


@checked
@torch.no_grad()
def interpolate(model: ScoreModel, a: Tensor, b: Tensor, steps: int = 8, **options: Any) -> Tensor:
    """Data `(B, steps, ...)` on the way from a to b, each `(B, ...)`, by their codes.

    With u and v the codes less their mean α m at t_max (0 where the model's `statistics` are not known) and θ the
    angle between them, the code at a share s of the way is (Shoemake 1985, section 3.3, for the direction)

        α m + ((1 − s) ‖u‖ + s ‖v‖) (sin((1 − s) θ) u/‖u‖ + sin(s θ) v/‖v‖)/sin θ.

    Codes in many dimensions lie close to a sphere, the inside of which a straight line would cut across; here the
    norm stays between those of the ends. Codes that are parallel, or opposite about the mean as most pairs in one
    dimension are, are joined by a straight line. First and last are decode(encode(·)) of a and b.

    Args:
        model: the score model.
        a: `(B, ...)` in the data's units, as for `log_likelihood`.
        b: of the same shape.
        steps: number of points, both ends among them.
        **options: those of `encode` and `decode`; conditions of length B are for both ends and all that is between.

    Raises:
        ValueError: ends whose shapes differ, fewer than 2 steps, or as `log_likelihood`.
        LikelihoodError: the path of a sample could not be followed.
    """
    if a.shape != b.shape:
        raise ValueError(f"a and b have shapes {tuple(a.shape)} and {tuple(b.shape)}, expected the same")
    if steps < 2:
        raise ValueError(f"steps is {steps}, expected at least 2, the ends")
    flow_options, cond = FlowOptions.split(interpolate, model, None, options, _OPTIONS)
    (a, conditions), (b, _) = (check_batch(model, v, cond, density=False) for v in (a, b))
    count, shape, t_max = len(a), a.shape[1:], flow_options.t_max
    # In float64, so that no code is rounded.
    ends = torch.cat((a.double(), b.double()))
    u, v = encode(model, ends, options=flow_options, **conditions.repeat(2)).flatten(1).split(count)
    centre = torch.zeros_like(u[0])
    if model.statistics is not None:
        alpha = model.sde.alpha(torch.tensor(model.sde.t_noise() if t_max is None else t_max, dtype=torch.float64))
        centre = (alpha * model.statistics.mean.double().cpu()).flatten().to(u)
    share = torch.linspace(0, 1, steps, dtype=torch.float64, device=u.device)
    codes = (centre + _between(u - centre, v - centre, share)).flatten(0, 1).reshape(-1, *shape)
    x = decode(model, codes, options=flow_options, **conditions.repeat(steps, each=True))
    return x.reshape(count, steps, *shape).to(torch.promote_types(state_dtype(a), b.dtype))


def _between(u: Tensor, v: Tensor, share: Tensor) -> Tensor:
    """`(B, S, D)` at shares `(S,)` of the way from u to v `(B, D)`, about 0."""
    norm_u, norm_v = u.norm(dim=1)[:, None], v.norm(dim=1)[:, None]
    tiny = torch.finfo(u.dtype).tiny
    to_u: Tensor = u / norm_u.clamp_min(tiny)
    to_v: Tensor = v / norm_v.clamp_min(tiny)
    # Not the arc cosine, which loses half the digits of small angles (Kahan 2006, section 12).
    angle = 2 * torch.atan2((to_u - to_v).norm(dim=1), (to_u + to_v).norm(dim=1))[:, None]
    sine = angle.sin()
    straight = (sine.abs() < _PARALLEL) | (norm_u == 0) | (norm_v == 0)
    norm = torch.lerp(norm_u, norm_v, share)
    on_u: Tensor = torch.where(straight, (1 - share) * norm_u, norm * ((1 - share) * angle).sin() / sine)
    on_v: Tensor = torch.where(straight, share * norm_v, norm * (share * angle).sin() / sine)
    return on_u[..., None] * to_u[:, None] + on_v[..., None] * to_v[:, None]


def _carried(flow: Flow, x: Tensor, back: bool) -> Tensor:
    """The other ends of the paths of x in model space; of codes in the data's units."""
    start, stop = flow.at_ends[:1], flow.at_ends[1:]
    if back:
        start, stop = stop, start
    y = flow.to_y(start, x.flatten(1))
    solution = flow.run(y, flow.options.tolerance(flow.size, default=_TOLERANCE), back=back)
    ends = torch.where(solution.arrived[:, None], flow.to_x(stop, solution.y), math.nan)
    result = ends.reshape(x.shape).to(state_dtype(x))
    if back:
        result = flow.model.to_data_space(result)
    error = flow.lost(solution, y, 0, result)
    if error is not None:
        raise error
    return result
