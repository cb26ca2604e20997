"""Integrators of other libraries, as references: SciPy for the probability-flow ODE, torchsde for the reverse SDE.

Both libraries are imported when a solver of theirs is made or used, since importing them takes longer than everything
else in this package.
"""

import itertools
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.extras import need
from scoresde.sampling.motion import motion
from scoresde.sampling.solver import Noise, Solver
from scoresde.score import ScoreModel
from scoresde.sde import SDE, ReverseSDE

__all__ = ["ScipyODE", "TorchSDE"]

_SCIPY_METHODS = ("RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA")


@checked
class ScipyODE(Solver):
    """The probability-flow ODE by `scipy.integrate.solve_ivp`: a black box in float64 on the CPU.

    The whole batch is one system with one step size, as in the code of Song et al. (2021), so a sample depends on its
    batch mates within the tolerance. A sample for which the model is not finite stops there, so that the others can go
    on, and is NaN. The states at the grid's times come from the dense output.

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

        # With a slope that is not finite scipy would never stop.
        guard = _Guard(x.flatten(1))

        def velocity(t: float, y: np.ndarray) -> np.ndarray:
            state = torch.from_numpy(y).to(x).reshape(x.shape)
            slope = guard(model.velocity(state, torch.tensor(t, dtype=torch.float64)).flatten(1))
            return slope.double().cpu().numpy().ravel()

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
            yield guard.told(torch.from_numpy(column.copy()).to(x).reshape(len(x), -1)).reshape(x.shape)


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
    """The reverse SDE with its last drifts cached.

    torchsde evaluates the drift once at the start of each call, only for its shape, and its methods then evaluate it
    again at the same point; `srk` evaluates each of its four stages again for every later one.
    """

    def __init__(self, sde: SDE, model: ScoreModel, shape: tuple[int, ...], guard: "_Guard | None") -> None:
        super().__init__(sde, model, shape)
        self._guard = guard
        self._last: deque[tuple[float, Tensor, Tensor]] = deque(maxlen=4)

    def f(self, s: Tensor, x: Tensor) -> Tensor:
        time = float(s)
        for at, state, drift in self._last:
            # A state is compared by identity: held here, its identity cannot pass to another tensor.
            if state is x and at == time:
                return drift
        drift = super().f(s, x)
        if self._guard is not None:
            drift = self._guard(drift)
        self._last.append((time, x, drift))
        return drift


class _Guard:
    """Samples at rest from where the model was not finite for them, so that the others' common steps can go on.

    Args:
        like: The flat state, `(B, D)`.
    """

    def __init__(self, like: Tensor) -> None:
        self.broken = torch.zeros(len(like), 1, dtype=torch.bool, device=like.device)

    def __call__(self, slope: Tensor) -> Tensor:
        """The slope `(B, D)`, with 0 for the samples that are broken now or were before."""
        self.broken = self.broken | ~slope.isfinite().all(1, keepdim=True)
        return slope.masked_fill(self.broken, 0.0)

    def told(self, state: Tensor) -> Tensor:
        """The state `(B, D)`, with NaN for the samples that are broken."""
        return state.masked_fill(self.broken, torch.nan)


@checked
class TorchSDE(Solver):
    """The reverse SDE by torchsde.

    The noise is each sample's own, and not torchsde's, which belongs to a batch and a dtype. With white noise every
    step takes a fresh draw. With `noise="brownian"` the steps take the increments of the path that the other solvers
    follow, so that Euler's are those of `EulerMaruyama`, and all methods converge to the same solution. Two kinds of
    steps ask for more than that path has, and follow another, `scoresde.numerics.brownian_area.AreaPath`: those of
    `srk` with `noise="brownian"`, which use the areas under a path and then have strong order 1.5, and adaptive ones,
    with either noise, since a step that is rejected must not change the path.

    Args:
        method: A method of torchsde. g does not depend on x, so the Itô and the Stratonovich SDE are the same, and the
            methods of both kinds apply. `reversible_heun` starts anew at each time of the grid, so that with one
            substep it is `heun`; its second state, carried on, is unstable where the score is steep.
        adaptive: Whether to adapt the step size; if not, each interval of the grid is `substeps` steps. The batch has
            one step size, so that a sample depends on its batch mates within the tolerance, and one for which the model
            is not finite stops there and is NaN.
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
        need("TorchSDE", "torchsde")
        import torchsde

        state = x.flatten(1)
        guard = _Guard(state) if self.adaptive else None
        reverse = _Remembering(model.sde, model, tuple(x.shape[1:]), guard)
        reverse.sde_type, levy_area = _TORCHSDE_METHODS[self.method]
        path = motion(noise, model.sde, state, levy_area, self.adaptive)
        s = model.sde.t_max - times
        for start, stop in itertools.pairwise(s.tolist()):
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
            yield (state if guard is None else guard.told(state)).reshape(x.shape)
