"""Solvers whose times and coefficients were found for one model and one number of evaluations.

In the `Angle` of the data, y = (x − α m)/n and P the velocity there, a step is as general as a linear one can be:

    y_{i+1} = a_i y_0 + Σ_{j ≤ i} b_ij P_j

(Shaul et al. 2024, non-stationary solvers). Every explicit multistep method is one of these, and every Runge-Kutta
method too. The numbers are in a small JSON file that `scoresde.sampling.tune` writes.
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

_FORMAT = "scoresde-tuned-1"


@checked
@dataclass(frozen=True)
class TunedSteps:
    """Times and coefficients of a solver, and how well they do.

    Attributes:
        sde: description of the SDE they are for.
        std: d of the angle.
        times: t_0 > ... > t_n.
        rows: for each step (a_i, b_i0, ..., b_ii).
        gaussian: P_0 is that of a normal density, which takes no evaluation.
        error: root mean square distance to the true end points of starts that were not used for tuning.
        before: the same of the multistep method that it started from.
        starts: number of starts used for tuning.
    """

    sde: str
    std: float
    times: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    gaussian: bool
    error: float
    before: float
    starts: int

    @property
    def evaluations(self) -> int:
        return len(self.rows) - self.gaussian

    def sampler(self, denoise: bool = False) -> Sampler:
        """The sampler that takes these steps."""
        return Sampler(Tuned(self.evaluations, self), ExplicitTimes(self.times), denoise)

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the file."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "TunedSteps":
        """Read a file that `save` wrote; it holds numbers only, whoever it is from.

        Raises:
            ValueError: no such file, or not one of these.
        """
        from scoresde.storage.bounded import read_json

        file = Path(path)
        if not file.is_file():
            raise ValueError(f"there is no file {file}: make it by `scoresde tune run=DIR steps=N`")
        try:
            content: dict[str, Any] = read_json(file, dict)
            if content.pop("format") != _FORMAT:
                raise ValueError
            content["times"] = tuple(float(t) for t in content["times"])
            content["rows"] = tuple(tuple(float(c) for c in row) for row in content["rows"])
            made = cls(**content)
            fits = [len(row) for row in made.rows] == list(range(2, len(made.times) + 1)) and made.std > 0
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{file} is not a file that `scoresde tune` wrote") from error
        if not fits:
            raise ValueError(f"{file} is damaged: its {len(made.rows)} rows do not fit its {len(made.times)} times")
        return made

    def check(self, sde: SDE) -> None:
        """Refuse another SDE than that of the tuning."""
        if repr(sde) != self.sde:
            raise ValueError(f"the tuned steps are for {self.sde}, the model has {sde!r}: tune for this model")


@lru_cache(maxsize=32)
def _read(path: str, modified: int) -> TunedSteps:
    return TunedSteps.load(path)


def _find(path: str | Path | None, steps: int) -> TunedSteps:
    """The steps in a file, or for a number of evaluations in a folder."""
    if path is None:
        raise ValueError("path is missing: give the file that `scoresde tune` wrote, or the folder of such files")
    file = Path(path)
    if file.is_dir():
        file = file / f"tuned-{steps}.json"
    made = _read(str(file), file.stat().st_mtime_ns) if file.is_file() else TunedSteps.load(file)
    if made.evaluations != steps:
        raise ValueError(f"{file} is for {made.evaluations} evaluations, not {steps}: set steps, or tune for {steps}")
    return made


@checked
class TunedTimes(Grid):
    """The times of a tuned file.

    Args:
        steps: number of evaluations; there is one interval more where the first needs none.
        path: the file, or a folder with a file `tuned-{steps}.json`.
    """

    def __init__(self, steps: int, path: str | Path | None = None) -> None:
        super().__init__(steps)
        self.path = path

    def tuned(self) -> TunedSteps:
        """The content of the file.

        Raises:
            ValueError: no such file, or one for another number of evaluations.
        """
        return _find(self.path, self.steps)

    def __call__(self, sde: SDE, statistics: Statistics | None = None, exact: bool = False) -> Tensor:
        made = self.tuned()
        made.check(sde)
        self.t_max, self.t_min = made.times[0], made.times[-1]
        return super().__call__(sde, statistics, exact)

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        return torch.tensor(self.tuned().times, dtype=torch.float64)


@checked
class Tuned(Solver):
    """The steps of a tuned file, on its `TunedTimes`; one evaluation a step.

    Unlike with a multistep method every step uses all predictions so far, so that memory and the few kernels of a
    step grow with their number. It is made for 3 to 15.

    Args:
        steps: number of evaluations.
        path: as for `TunedTimes`; or the `TunedSteps` themselves.
    """

    def __init__(self, steps: int, path: str | Path | TunedSteps | None = None) -> None:
        self.steps = steps
        self.path = path

    @property
    def stochastic(self) -> bool:
        return False

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        sde = model.sde
        made = self.path if isinstance(self.path, TunedSteps) else _find(self.path, self.steps)
        made.check(sde)
        if times.tolist() != list(made.times):
            raise ValueError("the times of the grid are not those of the tuned steps: use TunedTimes as the grid")
        coordinate = Angle(made.std)
        p, q = coordinate.target(sde, times)
        predict = model.prediction(times[:-1], p[:-1], q[:-1])
        known, mean = model.statistics, None
        if known is not None:
            mean = known.mean.to(x).reshape(x.shape[1:])
        first = gaussian_prediction(model, x, times[0], float(p[0]), float(q[0])) if made.gaussian else None
        if made.gaussian and first is None:
            raise ValueError("the tuned steps are for a model that knows its data's statistics, without conditions")
        values = [predict(x, 0) if first is None else first]
        for i, (on_x, weights, on_mean) in enumerate(_plan(made, coordinate, sde, times)):
            state = on_x * x
            for w, value in zip(weights, values, strict=True):
                state.add_(value, alpha=w)
            if mean is not None:
                state.add_(mean, alpha=on_mean)
            if i < len(made.rows) - 1:
                values.append(predict(state, i + 1))
            yield state


def _plan(made: TunedSteps, coordinate: Angle, sde: SDE, times: Tensor) -> list[tuple[float, list[float], float]]:
    """Weights of x_0, of the predictions and of the mean; y is x − α m over the norm, and P is without p m."""
    norm, alpha = coordinate.norm(sde, times).tolist(), sde.alpha(times).tolist()
    p = coordinate.target(sde, times)[0].tolist()
    plan = []
    for i, (a, *b) in enumerate(made.rows, 1):
        on_x, weights = norm[i] * a / norm[0], [norm[i] * c for c in b]
        on_mean = alpha[i] - on_x * alpha[0] - sum(w * v for w, v in zip(weights, p, strict=False))
        plan.append((on_x, weights, on_mean))
    return plan
