"""The probability-flow ODE with a step size for every sample."""

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.ode import BOSH3, DOP853, DORMAND_PRINCE, TSIT5, EmbeddedPair, integrate_through
from scoresde.sampling.slopes import slope_terms
from scoresde.sampling.solver import Noise, Report, Solver, check_tolerances
from scoresde.score import ScoreModel
from scoresde.sde.coordinates import Angle, Coordinate

__all__ = ["Adaptive"]

TABLEAUS = {"bosh3": BOSH3, "dopri5": DORMAND_PRINCE, "tsit5": TSIT5, "dop853": DOP853}


@checked
@dataclass(frozen=True, repr=False)
class Adaptive(Solver):
    """An embedded Runge-Kutta pair on dy/dw = P, each sample with its own steps, in a coordinate (y, w).

    Steps end at the grid's times, where the state is given: one interval is enough unless the states between are
    needed. A sample that cannot be followed stops where it is; `Samples.status` says why and `Samples.reached` where.
    A step reads one value of the device, to see whether a sample leaves the batch. A tolerance below the round-off of
    the network (0.004 for bfloat16) leads to tiny steps.

    >>> from scoresde.sampling import Adaptive, Sampler, UniformTime
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import VPSDE
    >>> model = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 2), 0.5 * torch.ones(1), VPSDE())
    >>> Sampler(Adaptive(rtol=1e-4, atol=1e-4), UniformTime(1))(model, (3, 2)).status
    tensor([0, 0, 0])

    Args:
        method: "bosh3", "dopri5", "tsit5", "dop853", or an `EmbeddedPair`.
        rtol: The relative tolerance of y, in the root mean square over a sample's elements.
        atol: The absolute tolerance of y, whose scale the coordinate sets: in an `Angle` or `Straight` coordinate to 1.
        coordinate: The coordinate that is integrated; `Angle` with the data's standard deviation if not given.
        max_steps: The largest number of attempts of a sample in each interval of the grid.
        strict: Whether to raise if a sample stops on the way.

    Raises:
        ValueError: An unknown method, or tolerances that are not positive.
        StoppedError: A sample stopped on the way, if strict.

    References:
        "bosh3": Bogacki & Shampine (1989), A 3(2) Pair of Runge-Kutta Formulas:
        https://doi.org/10.1016/0893-9659(89)90079-7
        "dopri5": Dormand & Prince (1980), A Family of Embedded Runge-Kutta Formulae:
        https://doi.org/10.1016/0771-050X(80)90013-3
        "tsit5": Tsitouras (2011), Runge-Kutta Pairs of Order 5(4) Satisfying Only the First Column Simplifying
        Assumption: https://doi.org/10.1016/j.camwa.2011.06.002
        "dop853": Hairer, Nørsett & Wanner (1993), Solving Ordinary Differential Equations I, section II.10:
        https://doi.org/10.1007/978-3-540-78862-1
    """

    method: str | EmbeddedPair = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-5
    coordinate: Coordinate | None = None
    max_steps: int = 10_000
    strict: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.method, str) and self.method not in TABLEAUS:
            raise ValueError(f"method is {self.method!r}, expected one of {', '.join(TABLEAUS)}, or an EmbeddedPair")
        check_tolerances(self.rtol, self.atol, self.max_steps)

    @property
    def stochastic(self) -> bool:
        return False

    @property
    def adapts(self) -> bool:
        return True

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Generator[Tensor, None, Report]:
        sde, shape = model.sde, x.shape
        coordinate = Angle(model.data_std) if self.coordinate is None else self.coordinate
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
            report.raise_if_stopped(x)
        return report
