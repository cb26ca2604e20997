"""Integrators of other libraries, as references: SciPy for the probability-flow ODE, torchsde for the reverse SDE.

Both libraries are imported when a solver of theirs is made or used, since importing them takes longer than everything
else in this package.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.sampling.solver import Noise, NonFiniteError, Solver
from scoresde.score import ScoreModel
from scoresde.sde import SDE, ReverseSDE

__all__ = ["ScipyODE", "TorchSDE"]

_SCIPY_METHODS = ("RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA")


@checked
class ScipyODE(Solver):
    """The probability-flow ODE by `scipy.integrate.solve_ivp`: a black box in float64 on the CPU.

    The whole batch is one system with one step size, as in the code of Song et al. (2021), so a sample depends on its
    batch mates within the tolerance. The states at the grid's times come from the dense output.

    Args:
        method: A method of `solve_ivp`, by name or as a subclass of `scipy.integrate.OdeSolver`.
        rtol: The relative tolerance.
        atol: The absolute tolerance.

    Raises:
        ValueError: An unknown method, or tolerances that are not positive.

    References:
        Song et al. (2021), Score-Based Generative Modeling through Stochastic Differential Equations, section 4.3:
        https://arxiv.org/abs/2011.13456
    """

    def __init__(self, method: str | type[Any] = "RK45", rtol: float = 1e-5, atol: float = 1e-5) -> None:
        if method not in _SCIPY_METHODS and not _is_ode_solver(method):
            raise ValueError(
                f"method is {method!r}, expected one of {', '.join(_SCIPY_METHODS)}, or a scipy OdeSolver class"
            )
        for name, value in (("rtol", rtol), ("atol", atol)):
            if not value > 0:
                raise ValueError(f"{name} is {value}, expected a positive number")
        self.method = method
        self.rtol = rtol
        self.atol = atol

    @property
    def stochastic(self) -> bool:
        return False

    @property
    def adapts(self) -> bool:
        return True

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        from scipy.integrate import solve_ivp

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


def _is_ode_solver(method: object) -> bool:
    """True for a subclass of SciPy's `OdeSolver`."""
    if not isinstance(method, type):
        return False
    from scipy.integrate import OdeSolver

    return issubclass(method, OdeSolver)


# By method: the kind of integral, and the approximation of the Lévy area that it needs.
_TORCHSDE_METHODS = {
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
    """The reverse SDE with its last drift cached.

    torchsde evaluates the drift once at the start of each call, only for its shape, and its methods then evaluate it
    again at the same point.
    """

    def __init__(self, sde: SDE, model: ScoreModel, shape: tuple[int, ...]) -> None:
        super().__init__(sde, model, shape)
        self._last: tuple[float, Tensor, Tensor] | None = None

    def f(self, s: Tensor, x: Tensor) -> Tensor:
        # The tensor is compared by identity: held here, its identity cannot pass to another tensor.
        if self._last is None or self._last[1] is not x or self._last[0] != float(s):
            self._last = (float(s), x, super().f(s, x))
        return self._last[2]


@checked
class TorchSDE(Solver):
    """The reverse SDE by torchsde.

    The Brownian path belongs to the batch and not to the sample: with this solver alone, a sample depends on its batch
    mates through the noise.

    Args:
        method: A method of torchsde. g does not depend on x, so the Itô and the Stratonovich SDE are the same, and the
            methods of both kinds apply.
        adaptive: Whether to adapt the step size; if not, each interval of the grid is `substeps` steps.
        substeps: The number of steps in each interval of the grid, uniform in t.
        rtol: The relative tolerance of adaptive steps.
        atol: The absolute tolerance of adaptive steps.

    Raises:
        ValueError: An unknown method, or less than one substep.

    References:
        Li et al. (2020), Scalable Gradients for Stochastic Differential Equations: https://arxiv.org/abs/2001.01328
    """

    def __init__(
        self,
        method: str = "euler",
        adaptive: bool = False,
        substeps: int = 1,
        rtol: float = 1e-3,
        atol: float = 1e-3,
    ) -> None:
        if method not in _TORCHSDE_METHODS:
            raise ValueError(f"method is {method!r}, expected one of {', '.join(_TORCHSDE_METHODS)}")
        if substeps < 1:
            raise ValueError(f"substeps is {substeps}, expected at least 1")
        self.method = method
        self.adaptive = adaptive
        self.substeps = substeps
        self.rtol = rtol
        self.atol = atol

    @property
    def adapts(self) -> bool:
        return self.adaptive

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        import torchsde

        reverse = _Remembering(model.sde, model, tuple(x.shape[1:]))
        reverse.sde_type, levy_area = _TORCHSDE_METHODS[self.method]
        state = x.flatten(1)
        s = model.sde.t_max - times
        # The path is keyed by a draw of the samples' own noise, so that it follows the seed.
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
                # Slightly longer, since round-off would otherwise leave a step of 1e-17 at the end.
                dt=(stop - start) / self.substeps * (1 + 1e-9),
                adaptive=self.adaptive,
                rtol=self.rtol,
                atol=self.atol,
                dt_min=1e-9,
            )[-1]
            yield state.reshape(x.shape)
