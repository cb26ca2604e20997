"""Other libraries' integrators, as references: scipy for the probability-flow ODE, torchsde for the reverse SDE."""

from collections.abc import Iterator

import numpy as np
import torch
import torchsde
from scipy.integrate import OdeSolver, solve_ivp
from torch import Tensor

from scoresde.arguments import checked
from scoresde.sampling.solver import Noise, NonFiniteError, Solver
from scoresde.score import ScoreModel
from scoresde.sde import SDE, ReverseSDE

__all__ = ["ScipyODE", "TorchSDE"]


@checked
class ScipyODE(Solver):
    """The probability-flow ODE by `scipy.integrate.solve_ivp`: a black box in float64 on the CPU.

    As score_sde does, the whole batch is one system with one step size, so a sample depends on its batch
    mates within the tolerance. The state is given at the grid's times from the dense output.

    Args:
        method: any method of `solve_ivp`, by name, or a class of them.
        rtol: relative tolerance.
        atol: absolute tolerance.
    """

    def __init__(self, method: str | type[OdeSolver] = "RK45", rtol: float = 1e-5, atol: float = 1e-5) -> None:
        known = ("RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA")
        if method not in known and not (isinstance(method, type) and issubclass(method, OdeSolver)):
            raise ValueError(f"method is {method!r}, expected one of {', '.join(known)}, or a scipy OdeSolver class")
        for name, value in (("rtol", rtol), ("atol", atol)):
            if not value > 0:
                raise ValueError(f"{name} is {value}, expected a positive number")
        self.method = method
        self.rtol = rtol
        self.atol = atol

    @property
    def stochastic(self) -> bool:
        return False

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        def velocity(t: float, y: np.ndarray) -> np.ndarray:
            state = torch.from_numpy(y).to(x).reshape(x.shape)
            slope = model.velocity(state, torch.tensor(t, dtype=torch.float64)).double().cpu()
            if not bool(slope.isfinite().all()):
                raise NonFiniteError(f"the velocity is not finite at t = {t:g}: scipy would never stop")
            return slope.numpy().ravel()

        solution = solve_ivp(
            velocity,
            (float(times[0]), float(times[-1])),
            x.double().cpu().numpy().ravel(),
            method=self.method,
            t_eval=times.numpy(),
            rtol=self.rtol,
            atol=self.atol,
        )
        if not solution.success:
            raise ArithmeticError(f"scipy's {self.method} gave up: {solution.message}")
        for column in solution.y.T[1:]:
            yield torch.from_numpy(column.copy()).to(x).reshape(x.shape)


# What each method integrates, and what it asks of the Brownian path.
_TORCHSDE = {
    "euler": ("ito", "none"),
    "milstein": ("ito", "none"),
    "srk": ("ito", "space-time"),
    "euler_heun": ("stratonovich", "none"),
    "heun": ("stratonovich", "none"),
    "midpoint": ("stratonovich", "none"),
    "reversible_heun": ("stratonovich", "none"),
    "log_ode": ("stratonovich", "foster"),
}


class _Remembering(ReverseSDE):
    """The reverse SDE with its last drift kept.

    torchsde looks at the drift once at the start of each of its calls, for its shape, and its methods then ask for
    the same again.
    """

    def __init__(self, sde: SDE, model: ScoreModel, shape: tuple[int, ...]) -> None:
        super().__init__(sde, model, shape)
        self._last: tuple[float, Tensor, Tensor] | None = None

    def f(self, s: Tensor, x: Tensor) -> Tensor:
        # x itself, not its values: held here, it cannot be mistaken for another tensor.
        if self._last is None or self._last[1] is not x or self._last[0] != float(s):
            self._last = (float(s), x, super().f(s, x))
        return self._last[2]


@checked
class TorchSDE(Solver):
    """The reverse SDE by torchsde (Li et al. 2020).

    The Brownian path belongs to the batch, not to the sample: here alone, a sample depends on its batch mates.

    Args:
        method: any method of torchsde. g does not depend on x, so the Itô and the Stratonovich SDE are the same,
            and the methods of both kinds apply.
        adaptive: adapt the step size; else one step (or `substeps`) for each interval of the grid.
        substeps: steps in each interval of the grid, uniform in t.
        rtol: relative tolerance of adaptive steps.
        atol: absolute tolerance of adaptive steps.
    """

    def __init__(
        self,
        method: str = "euler",
        adaptive: bool = False,
        substeps: int = 1,
        rtol: float = 1e-3,
        atol: float = 1e-3,
    ) -> None:
        if method not in _TORCHSDE:
            raise ValueError(f"method is {method!r}, expected one of {', '.join(_TORCHSDE)}")
        if substeps < 1:
            raise ValueError(f"substeps is {substeps}, expected at least 1")
        self.method = method
        self.adaptive = adaptive
        self.substeps = substeps
        self.rtol = rtol
        self.atol = atol

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        reverse = _Remembering(model.sde, model, tuple(x.shape[1:]))
        reverse.sde_type, levy_area = _TORCHSDE[self.method]
        state = x.flatten(1)
        s = model.sde.t_max - times
        # The draw that keys the path comes from the samples' own noise, so that it follows the seed.
        bits = noise().double().flatten()[:1].cpu().view(torch.int64)
        entropy = int(bits) * 0x9E3779B97F4A7C15 % 2**64 >> 33
        path = torchsde.BrownianInterval(
            t0=float(s[0]),
            t1=float(s[-1]),
            size=state.shape,
            dtype=x.dtype,
            device=x.device,
            entropy=entropy,
            levy_area_approximation=levy_area,
        )
        for start, stop in zip(s[:-1].tolist(), s[1:].tolist(), strict=True):
            state = torchsde.sdeint(
                reverse,
                state,
                torch.tensor([start, stop], dtype=torch.float64),
                bm=path,
                method=self.method,
                # A hair more, or round-off would leave a step of 1e-17 at the end.
                dt=(stop - start) / self.substeps * (1 + 1e-9),
                adaptive=self.adaptive,
                rtol=self.rtol,
                atol=self.atol,
                dt_min=1e-9,
            )[-1]
            yield state.reshape(x.shape)
