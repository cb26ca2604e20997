"""Solvers on grids behind one signature: presets of `conf/sampler`, variants of them, and solvers of other libraries.

Every model is called through `Counted`, whose count is the evaluations of a contender, whatever its own report says.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from peers import GRIDS, Peer, uniform_in
from torch import Tensor

from scoresde.sampling import (
    Coordinate,
    DataStraight,
    ExplicitTimes,
    LogSNR,
    Multistep,
    NoiseLevel,
    Sampler,
    SignalLevel,
    Solver,
    Straight,
)
from scoresde.score import GaussianMixtureScore, Prediction, ScoreModel

__all__ = [
    "FEW_GRIDS",
    "OURS",
    "OUR_GRIDS",
    "OWN",
    "VARIANTS",
    "Budget",
    "Contender",
    "Counted",
    "Failures",
    "Solve",
    "adapts",
    "our_contenders",
    "peer_contenders",
    "presets",
    "times",
]

CONF = Path(__file__).resolve().parents[1] / "conf"
OURS = "scoresde"
OWN = "its own grid"
# Numbers that an exact score works on at once: more do not fit into the cache.
BLOCK = 2**18


class Failures:
    """What could not be run, and why."""

    def __init__(self) -> None:
        self.lines: dict[str, str] = {}

    def add(self, what: object, error: Exception) -> None:
        self.lines.setdefault(str(what), f"{type(error).__name__}: {error}".splitlines()[0][:160])


class Counted(ScoreModel):
    """A model that counts its evaluations, each for the whole batch, and works on as many rows as the cache holds.

    Args:
        model: The model.
        cond: Conditions of the starts, which samplers are given with them; see `cond_of`.
        exact: Whether solvers are told that the score is exact, and have what is measured of an exact score at its
            first use; as the model says if not given.
    """

    def __init__(self, model: ScoreModel, cond: Mapping[str, Tensor] | None = None, exact: bool | None = None) -> None:
        super().__init__(model.sde, model.statistics)
        self.model, self.cond = model, dict(cond or {})
        self._exact = model.exact if exact is None else exact
        mixtures = [m.variances.numel() for m in model.modules() if isinstance(m, GaussianMixtureScore)]
        self.rows = max(1, BLOCK // max(mixtures)) if mixtures else 1024
        self.calls = [0]  # setting an attribute of a module takes longer
        self._levels: dict[float, tuple[Tensor, float]] = {}

    @property
    def exact(self) -> bool:
        return self._exact

    @property
    def normal_at_most_noise(self) -> bool:
        return self.model.normal_at_most_noise

    @property
    def evaluation_size(self) -> int | None:
        return self.model.evaluation_size

    @property
    def log_snr_range(self) -> tuple[float, float]:
        return self.model.log_snr_range

    def ruled(self, sampler: Sampler) -> Sampler:
        """The sampler with the rule that is measured for the model, which takes no evaluation that counts."""
        return sampler.ruled(self.model) if self._exact == self.model.exact else sampler

    def cond_of(self, x: Tensor) -> dict[str, Any]:
        """Those of the first starts, as many as x has rows."""
        return {name: value[: len(x)] for name, value in self.cond.items()}

    def _call(self, method: Callable[..., Tensor], x: Tensor, t: Tensor | int, **cond: Any) -> Tensor:
        self.calls[0] += 1
        if len(x) <= self.rows:
            return method(x, t, **cond)
        parts = []
        for first in range(0, len(x), self.rows):
            rows = slice(first, first + self.rows)
            each = t[rows] if isinstance(t, Tensor) and t.ndim else t
            parts.append(method(x[rows], each, **{name: value[rows] for name, value in cond.items()}))
        return torch.cat(parts)

    def prediction(self, times: Tensor, p: Tensor, q: Tensor) -> Prediction:
        return partial(self._call, self.model.prediction(times, p, q))

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self._call(self.model.denoise, x, t, **cond)

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self._call(self.model.noise, x, t, **cond)

    def score(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self._call(self.model.score, x, t, **cond)

    def velocity(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self._call(self.model.velocity, x, t, **cond)

    def denoise_scaled(self, x: Tensor, level: float) -> Tensor:
        """The denoised mean of a state in the scale of the data, x/α, at the noise level σ/α: what peers ask for."""
        if level not in self._levels:
            t = self.sde.time(-torch.tensor(level, dtype=torch.float64).log())
            self._levels[level] = t, float(self.sde.alpha(t))
        t, alpha = self._levels[level]
        return self.denoise(x if alpha == 1 else alpha * x, t, **self.cond_of(x))


# From the model, the state at its first time, a number of steps and a seed: the state at the end.
Solve = Callable[[Counted, Tensor, int, int], Tensor]


@dataclass(frozen=True)
class Contender:
    """A solver on a grid."""

    library: str
    solver: str
    grid: str
    solve: Solve
    stochastic: bool

    def __str__(self) -> str:
        return f"{self.solver if self.library == OURS else f'{self.library} {self.solver}'}, {self.grid}"

    def run(self, model: Counted, x: Tensor, steps: int, seed: int = 0) -> tuple[int, Tensor]:
        """The evaluations that were made, and the state at the last time."""
        before = model.calls[0]
        with torch.no_grad():
            end = self.solve(model, x, steps, seed)
        return model.calls[0] - before, end.to(x)


# ---------------------------------------------------------------- ours


# Beside the presets: predictor and corrector orders, and a first evaluation saved.
ORDERS = ((2, 0), (3, 0), (4, 0), (1, 2), (2, 2), (2, 3), (3, 4), (4, 3))
VARIANTS: dict[str, Callable[[], Solver]] = {}
for p, c in ORDERS:
    VARIANTS[f"angle ({p}, {c})"] = partial(Multistep, p, c)
    VARIANTS[f"angle ({p}, {c}), Gaussian start"] = partial(Multistep, p, c, start="gaussian")
    VARIANTS[f"straight ({p}, {c})"] = partial(Multistep, p, c, Straight())
    VARIANTS[f"noise ({p}, {c})"] = partial(Multistep, p, c, NoiseLevel(), LogSNR())
    VARIANTS[f"data ({p}, {c})"] = partial(Multistep, p, c, SignalLevel(), LogSNR())
# With noise, of which fewer steps bear less the higher the orders.
NOISY: tuple[tuple[str, int, int, Coordinate | None, float], ...] = (
    ("angle", 2, 2, None, 0.4),
    ("straight", 2, 0, Straight(), 0.7),
    ("angle", 1, 0, None, 1.0),
)
for kind, p, c, coordinate, tau in NOISY:
    VARIANTS[f"{kind} ({p}, {c}), Gaussian start, τ = {tau:g}"] = partial(
        Multistep, p, c, coordinate, tau=tau, centre=True, start="gaussian"
    )

# With a factor: in units of the data's standard deviation; "data" of the largest in any direction.
OUR_GRIDS = (
    *GRIDS,
    "data × 0.35",
    "data × 0.25",
    "angle × 1",
    "angle × 0.5",
    "angle × 0.25",
    "straight × 1",
    "straight × 0.5",
    "straight × 0.25",
)
FEW_GRIDS = ("λ", "Karras 7", "flow", "angle × 0.25", "data × 0.35", "data × 0.25")


def _levels(model: ScoreModel) -> tuple[float, float]:
    """σ/α at the times that samplers stop and start at."""
    low, high = model.sde.noise_level(
        torch.tensor([model.sde.t_min_sampling, model.sde.t_max], dtype=torch.float64)
    ).tolist()
    return low, high


def times(grid: str, model: ScoreModel, steps: int) -> Tensor:
    """The times of a grid, by its name."""
    kind, _, factor = grid.partition(" × ")
    sde = model.sde
    if kind == "data":
        return DataStraight(steps, float(factor))(sde, model.statistics)
    d = float(factor or 1) * model.data_std
    own = {
        "angle": uniform_in(lambda s: np.arctan(s / d), lambda v: d * np.tan(v)),
        "straight": uniform_in(lambda s: s / (d + s), lambda u: d * u / (1 - u)),
    }
    out = sde.time(-(own | GRIDS)[kind](steps, *_levels(model)).log())
    out[0], out[-1] = sde.t_max, sde.t_min_sampling
    return out


@cache
def presets() -> dict[str, DictConfig]:
    """The files of conf/sampler."""
    with initialize_config_dir(str(CONF), version_base=None):
        found = {path.stem: compose("sample", [f"sampler={path.stem}", "run=none"]) for path in CONF.glob("sampler/*")}
    del found["tuned"]  # a file is made for it first
    return {name: found[name].sampler for name in sorted(found)}


def adapts(solver: Any) -> bool:
    """Whether tolerances rather than the grid decide on the steps."""
    return bool(getattr(solver, "adapts", False))


def our_contenders(pattern: str, grids: Sequence[str], failures: Failures) -> Iterator[Contender]:
    """Presets on their own grid, and presets and variants on the others."""
    solvers = {name: make() for name, make in VARIANTS.items() if re.search(pattern, name)}
    for name, config in presets().items():
        if not re.search(pattern, name) or "steps" not in config.get("grid", {}):
            continue
        try:
            made = instantiate(config.solver, _convert_="all")
        except Exception as error:
            failures.add(f"preset {name}", error)
            continue
        if adapts(made):
            continue
        solvers[name] = made
        own = partial(_solve, made, partial(instantiate, config.grid))
        yield Contender(OURS, name, OWN, own, made.stochastic)
    for name, solver in solvers.items():
        for grid in grids:
            yield Contender(OURS, name, grid, partial(_solve, solver, grid), solver.stochastic)


def _solve(solver: Solver, grid: str | Callable[..., Any], model: Counted, x: Tensor, steps: int, seed: int) -> Tensor:
    when = ExplicitTimes(times(grid, model, steps).tolist()) if isinstance(grid, str) else grid(steps=steps)
    with warnings.catch_warnings():
        # Orders that are lowered on a short grid.
        warnings.simplefilter("ignore", UserWarning)
        sampler = model.ruled(Sampler(solver, when, denoise=False))
        return sampler(model, x_init=x, seed=seed, **model.cond_of(x)).x


# ---------------------------------------------------------------- theirs


def peer_contenders(peers: Iterable[Peer], every: bool) -> Iterator[Contender]:
    """Peers on the grids that serve them best, or on all."""
    for peer in peers:
        library, _, solver = peer.name.partition(" ")
        for grid in GRIDS if every else peer.grids:
            yield Contender(library, solver, grid, partial(_solve_peer, peer, grid), peer.stochastic)


def _solve_peer(peer: Peer, grid: str, model: Counted, x: Tensor, steps: int, seed: int) -> Tensor:
    """Peers work in the scale of the data, in which every SDE is that of EDM: x/α at the noise level σ/α."""
    sde = model.sde
    first, last = sde.alpha(torch.tensor([sde.t_max, sde.t_min_sampling], dtype=torch.float64)).tolist()
    torch.manual_seed(seed)
    end: Tensor = peer.run(model.denoise_scaled, x / first, GRIDS[grid](steps, *_levels(model)))
    out: Tensor = last * end
    return out


# ---------------------------------------------------------------- steps


class Budget:
    """Runs a contender on as many steps as stay within a number of evaluations."""

    def __init__(self, contender: Contender, model: Counted, x: Tensor) -> None:
        self._contender, self._model, self._x = contender, model, x
        self._six, seven = (contender.run(model, x[:2], steps)[0] for steps in (6, 7))
        self._rate = max(1, seven - self._six)

    def end(self, evaluations: int, seed: int = 0) -> Tensor | None:
        """The state at the last time; None if one step is already too many."""
        steps = max(1, 6 + (evaluations - self._six) // self._rate)
        while steps:
            made, end = self._contender.run(self._model, self._x, steps, seed)
            if made <= evaluations:
                return end
            steps -= 1
        return None
