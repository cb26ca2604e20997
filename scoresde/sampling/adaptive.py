"""The probability-flow ODE with a step size for every sample."""

from collections.abc import Generator

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.ode import BOSH3, DOP853, DORMAND_PRINCE, TSIT5, EmbeddedPair, Status, integrate_through
from scoresde.sampling.slopes import data_std, slope_terms
from scoresde.sampling.solver import Noise, NonFiniteError, Report, Solver, StoppedError
from scoresde.score import ScoreModel
from scoresde.sde.coordinates import Angle, Coordinate

__all__ = ["Adaptive"]

TABLEAUS = {"bosh3": BOSH3, "dopri5": DORMAND_PRINCE, "tsit5": TSIT5, "dop853": DOP853}


@checked
class Adaptive(Solver):
    """An embedded Runge-Kutta pair on dy/dw = P, each sample with its own steps, in a coordinate (y, w).

    The state is given at the grid's times, where steps end: one interval is enough unless the states between
    are wanted. A sample that cannot be followed stops where it is; `Samples.status` says why, `reached` where.
    The device is waited for once a step, to see whether a sample leaves the batch. A tolerance below the round-off of
    the network (0.004 for bfloat16) is followed in tiny steps.

    Args:
        method: `"bosh3"` (Bogacki & Shampine 1989), `"dopri5"` (Dormand & Prince 1980), `"tsit5"` (Tsitouras
            2011), `"dop853"` (Hairer, Nørsett & Wanner 1993, II.10), or a tableau.
        rtol: relative tolerance of y, in the root mean square over a sample's elements.
        atol: absolute tolerance of y, which the coordinate scales: in an `Angle` or `Straight` coordinate to 1.
        coordinate: what is integrated; `Angle` with the data's standard deviation if not given.
        max_steps: attempts of a sample in each interval of the grid.
        strict: raise where a sample stops on the way.

    Raises:
        ValueError: an unknown method, tolerances that are not positive.
        StoppedError: a sample stopped on the way, if strict.
    """

    def __init__(
        self,
        method: str | EmbeddedPair = "dopri5",
        rtol: float = 1e-5,
        atol: float = 1e-5,
        coordinate: Coordinate | None = None,
        max_steps: int = 10_000,
        strict: bool = False,
    ) -> None:
        if isinstance(method, str) and method not in TABLEAUS:
            raise ValueError(f"method is {method!r}, expected one of {', '.join(TABLEAUS)}, or an EmbeddedPair")
        check_tolerances(rtol, atol, max_steps)
        self.method = method
        self.rtol = rtol
        self.atol = atol
        self.coordinate = coordinate
        self.max_steps = max_steps
        self.strict = strict

    @property
    def stochastic(self) -> bool:
        return False

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Generator[Tensor, None, Report]:
        sde, shape = model.sde, x.shape
        coordinate = Angle(data_std(model)) if self.coordinate is None else self.coordinate
        tableau = TABLEAUS[self.method] if isinstance(self.method, str) else self.method
        first, last = float(times[-1]), float(times[0])
        batch, within = torch.empty(0), model

        def when(w: Tensor) -> Tensor:
            # Round-off must not leave the grid.
            return coordinate.time(sde, w).clamp(first, last)

        def prepare(w: Tensor) -> list[tuple[Tensor, ...]]:
            t = when(w)
            terms = (v.to(x.dtype)[..., None] for v in slope_terms(sde, coordinate, t))
            return list(zip(t, *terms, strict=True))

        def field(place: tuple[Tensor, ...], y: Tensor, rows: Tensor) -> Tensor:
            nonlocal batch, within
            if rows is not batch:
                batch, within = rows, model.for_rows(rows)
            t, norm, on_y, on_noise = place
            eps = within.noise((norm * y).reshape(-1, *shape[1:]), t).flatten(1)
            return torch.addcmul(on_y * y, on_noise, eps)

        def error_norm(error: Tensor, before: Tensor, after: Tensor, slope: Tensor) -> Tensor:
            scale = self.atol + self.rtol * torch.maximum(before.abs(), after.abs())
            return (error / scale).square().mean(1).sqrt()

        y = x.flatten(1) / float(coordinate.norm(sde, times[0]))
        path = coordinate.variable(sde, times).tolist()
        for solution in integrate_through(field, y, path, error_norm, tableau, self.max_steps, prepare):
            reached = when(solution.t)
            x = (coordinate.norm(sde, reached).to(x.dtype)[:, None] * solution.y).reshape(shape)
            report = Report(solution.nfe, solution.status, reached)
            yield x
        if self.strict:
            refuse(x, report)
        return report


def check_tolerances(rtol: float, atol: float, max_steps: int) -> None:
    """ValueError unless they can be worked to."""
    if not (rtol > 0 and atol > 0):
        raise ValueError(f"rtol={rtol} and atol={atol} must be positive")
    if max_steps < 1:
        raise ValueError(f"max_steps is {max_steps}, expected at least 1")


def refuse(x: Tensor, report: Report) -> None:
    """Raise if a sample stopped on the way."""
    reason = report.stopped()
    if not reason or report.status is None:
        return
    if bool((report.status == Status.NOT_FINITE).any()):
        raise NonFiniteError(f"{reason}: the model is not finite there", x)
    raise StoppedError(f"{reason}: loosen the tolerances or allow more steps", x, report)
