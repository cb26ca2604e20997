"""Solvers whose times and coefficients were found for one model and one number of evaluations.

In the `Angle` of the data, y = (x − α m)/n and P the velocity there, a step is as general as a linear one can be:

    y_{i+1} = a_i y_0 + Σ_{j ≤ i} b_ij P_j

These are the non-stationary solvers of Shaul et al. (2024). Every explicit multistep method is one of them, and every
Runge-Kutta method. The numbers are in a small JSON file that `scoresde.sampling.tune` makes.

References:
    Shaul et al. (2024), Bespoke Non-Stationary Solvers for Fast Sampling of Diffusion and Flow Models:
    https://arxiv.org/abs/2403.01329
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.sampling.adams_plan import gaussian_prediction
from scoresde.sampling.grids import ExplicitTimes, Grid
from scoresde.sampling.sampler import Sampler
from scoresde.sampling.solver import Noise, Solver
from scoresde.score import ScoreModel
from scoresde.sde import SDE
from scoresde.sde.coordinates import Angle
from scoresde.statistics import Statistics

__all__ = ["Tuned", "TunedSteps", "TunedTimes"]

_FORMATS = ("scoresde-tuned-1", "scoresde-tuned-2")


@checked
@dataclass(frozen=True)
class TunedSteps:
    """Times and coefficients of a solver, and their error.

    Attributes:
        sde: A description of the SDE that they are for.
        std: The standard deviation d of the angle.
        times: The times t_0 > ... > t_n.
        rows: For each step the coefficients (a_i, b_i0, ..., b_ii).
        gaussian: Whether P_0 is that of a normal density, which takes no evaluation.
        error: The root mean square distance to the true end points of starts that were held out.
        before: The same distance for the multistep method that the search started from.
        starts: The number of starts that were used for tuning.
        kernels: (α, σ) of the SDE at each of the times; None in a file of version 0.1.0.
        default: The same distance for the sampler `default` with as many evaluations, on the same starts; None in a
            file of version 0.1.0.
    """

    sde: str
    std: float
    times: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    gaussian: bool
    error: float
    before: float
    starts: int
    kernels: tuple[tuple[float, float], ...] | None = None
    default: float | None = None

    @property
    def evaluations(self) -> int:
        """The number of evaluations of the model, without the denoising step."""
        return len(self.rows) - self.gaussian

    def sampler(self, denoise: bool = False) -> Sampler:
        """The sampler that takes these steps on these times."""
        return Sampler(Tuned(self.evaluations, self), ExplicitTimes(self.times), denoise)

    def to_json(self) -> str:
        """The text of the file; of steps of version 0.1.0 that of its format, by which their samples are known."""
        name = _FORMATS[self.default is not None]
        content = {"format": name, **{key: value for key, value in asdict(self).items() if value is not None}}
        return json.dumps(content, indent=1) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the file, which `load` reads."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "TunedSteps":
        """Read a file that `save` wrote; reading it executes nothing, whoever it is from.

        Raises:
            ValueError: No such file, a file of another format, or one whose parts do not fit together.
        """
        from scoresde.storage.bounded import read_json

        file = Path(path)
        if not file.is_file():
            raise ValueError(f"there is no file {file}: make it by `scoresde tune run=DIR steps=N`")
        try:
            content: dict[str, Any] = read_json(file, dict)
            if content.pop("format") not in _FORMATS:
                raise ValueError
            content["times"] = tuple(float(t) for t in content["times"])
            content["rows"] = tuple(tuple(float(c) for c in row) for row in content["rows"])
            if content.get("kernels") is not None:
                content["kernels"] = tuple((float(alpha), float(sigma)) for alpha, sigma in content["kernels"])
            tuned = cls(**content)
            fits = [len(row) for row in tuned.rows] == list(range(2, len(tuned.times) + 1)) and tuned.std > 0
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{file} is not a file that `scoresde tune` wrote") from error
        if not fits:
            raise ValueError(f"{file} is damaged: its {len(tuned.rows)} rows do not fit its {len(tuned.times)} times")
        return tuned

    def check_sde(self, sde: SDE) -> None:
        """Do nothing if these steps are for the kernels of `sde`.

        Raises:
            ValueError: Another SDE than that of the tuning.
        """
        if self.kernels is None:
            same = repr(sde) == self.sde
        else:
            own = torch.tensor(self.kernels, dtype=torch.float64)
            given = torch.tensor(kernels_at(sde, torch.tensor(self.times, dtype=torch.float64)), dtype=torch.float64)
            same = torch.allclose(own, given, rtol=1e-9, atol=1e-12)
        if not same:
            raise ValueError(f"the tuned steps are for {self.sde}, the model has {sde!r}: tune for this model")


def kernels_at(sde: SDE, times: Tensor) -> tuple[tuple[float, float], ...]:
    """(α, σ) at each of `times`, on which all coefficients of a step depend."""
    return tuple(zip(sde.alpha(times).tolist(), sde.sigma(times).tolist(), strict=True))


@lru_cache(maxsize=32)
def _read(path: str, modified: int) -> TunedSteps:
    return TunedSteps.load(path)


def _find(path: str | Path | None, steps: int) -> TunedSteps:
    """The steps in a file, or those for a number of evaluations in a directory."""
    if path is None:
        raise ValueError("path is missing: give the file that `scoresde tune` wrote, or the directory of such files")
    file = Path(path)
    if file.is_dir():
        file = file / f"tuned-{steps}.json"
    tuned = _read(str(file), file.stat().st_mtime_ns) if file.is_file() else TunedSteps.load(file)
    if tuned.evaluations != steps:
        raise ValueError(f"{file} is for {tuned.evaluations} evaluations, not {steps}: set steps, or tune for {steps}")
    return tuned


@checked
class TunedTimes(Grid):
    """The times of a tuned file.

    Args:
        steps: The number of evaluations; there is one interval more if the first prediction needs none.
        path: The file, or a directory with a file `tuned-{steps}.json`.
    """

    def __init__(self, steps: int, path: str | Path | None = None) -> None:
        super().__init__(steps)
        self.path = path

    def in_run(self, directory: Path) -> "TunedTimes":
        """The times of the run's own file if no path was given."""
        return TunedTimes(self.steps, directory) if self.path is None else self

    def tuned(self) -> TunedSteps:
        """The content of the file.

        Raises:
            ValueError: No such file, or one for another number of evaluations.
        """
        return _find(self.path, self.steps)

    def __call__(self, sde: SDE, statistics: Statistics | None = None) -> Tensor:
        tuned = self.tuned()
        tuned.check_sde(sde)
        self.t_max, self.t_min = tuned.times[0], tuned.times[-1]
        return super().__call__(sde, statistics)

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        return torch.tensor(self.tuned().times, dtype=torch.float64)


@checked
class Tuned(Solver):
    """The steps of a tuned file, on its `TunedTimes`; one evaluation a step.

    Every step uses all predictions so far, unlike a multistep method, so that memory and the cost of a step beyond the
    network grow with their number. The solver is made for 3 to 15 evaluations.

    Args:
        steps: The number of evaluations.
        path: The file or directory, as for `TunedTimes`, or the `TunedSteps` themselves.
    """

    def __init__(self, steps: int, path: str | Path | TunedSteps | None = None) -> None:
        self.steps = steps
        self.path = path

    @property
    def stochastic(self) -> bool:
        return False

    def in_run(self, directory: Path) -> "Tuned":
        """The steps of the run's own file if no path was given."""
        return Tuned(self.steps, directory) if self.path is None else self

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        sde = model.sde
        tuned = self.path if isinstance(self.path, TunedSteps) else _find(self.path, self.steps)
        tuned.check_sde(sde)
        if times.tolist() != list(tuned.times):
            raise ValueError("the times of the grid are not those of the tuned steps: use TunedTimes as the grid")
        coordinate = Angle(tuned.std)
        p, q = coordinate.target(sde, times)
        predict = model.prediction(times[:-1], p[:-1], q[:-1])
        known, mean = model.statistics, None
        if known is not None:
            mean = known.mean.to(x).reshape(x.shape[1:])
        first = gaussian_prediction(model, x, times[0], float(p[0]), float(q[0])) if tuned.gaussian else None
        if tuned.gaussian and first is None:
            raise ValueError("the tuned steps are for a model that knows its data's statistics, without conditions")
        values = [predict(x, 0) if first is None else first]
        for i, (on_x, weights, on_mean) in enumerate(_plan(tuned, coordinate, sde, times)):
            state = on_x * x
            for w, value in zip(weights, values, strict=True):
                state.add_(value, alpha=w)
            if mean is not None:
                state.add_(mean, alpha=on_mean)
            if i < len(tuned.rows) - 1:
                values.append(predict(state, i + 1))
            yield state


def _plan(tuned: TunedSteps, coordinate: Angle, sde: SDE, times: Tensor) -> list[tuple[float, list[float], float]]:
    """For each step the weights of x_0, of the predictions and of the mean m.

    They follow from the coefficients by y = (x − α m)/n, with P without its part p m.
    """
    norm, alpha = coordinate.norm(sde, times).tolist(), sde.alpha(times).tolist()
    p = coordinate.target(sde, times)[0].tolist()
    plan = []
    for i, (a, *b) in enumerate(tuned.rows, 1):
        on_x, weights = norm[i] * a / norm[0], [norm[i] * c for c in b]
        on_mean = alpha[i] - on_x * alpha[0] - sum(w * v for w, v in zip(weights, p, strict=False))
        plan.append((on_x, weights, on_mean))
    return plan
