"""Points whose log-densities are known, for `likelihood.py`."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from solvers import digits, ring
from torch import Tensor

from scoresde.likelihood import CovarianceScaling, Exact, log_likelihood
from scoresde.numerics.ode import DOP853
from scoresde.numerics.random import SampleNoise, Stream
from scoresde.runs.directory import Run
from scoresde.score import GaussianMixtureScore, ScoreModel, with_sde
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE, SubVPSDE

SDES: dict[str, Callable[[], SDE]] = {"vp": VPSDE, "subvp": SubVPSDE, "ve": VESDE, "edm": EDMSDE}
TRUTH = 1e-4  # nats a step


class Counted(ScoreModel):
    """A model that counts the samples it is asked for."""

    def __init__(self, model: ScoreModel) -> None:
        super().__init__(model.sde, model.statistics)
        self.model = model
        self.forwards = 0

    @property
    def exact(self) -> bool:
        return self.model.exact

    @property
    def narrowest(self) -> float:
        return self.model.narrowest

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self.forwards += len(x)
        return self.model.denoise(x, t, **cond)

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self.forwards += len(x)
        return self.model.noise(x, t, **cond)

    def velocity(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self.forwards += len(x)
        return self.model.velocity(x, t, **cond)


@dataclass(frozen=True)
class Problem:
    """Points `(B, ...)` and the log-densities of the first of them under a model."""

    name: str
    sde: str
    model: Counted
    x: Tensor
    true: Tensor
    note: str

    @property
    def size(self) -> int:
        return self.x[0].numel()

    @property
    def known(self) -> "Problem":
        """With the points alone whose log-density is known."""
        return replace(self, x=self.x[: len(self.true)])

    def __str__(self) -> str:
        return f"{self.name}, {self.sde}"


def mixture(name: str) -> GaussianMixtureScore:
    if name == "ring":
        return ring()
    flat = digits()
    covariances = torch.einsum("kij,kj,klj->kil", flat.rotations, flat.variances, flat.rotations)
    # Images, for probes that look at where a pixel is.
    means = flat.means.reshape(-1, 1, 8, 8)
    return GaussianMixtureScore(flat.weights, means, (covariances + covariances.mT) / 2, flat.sde)


def images(points: int, generator: torch.Generator) -> Tensor:
    """Dequantised digits, x + u in levels: half a level, on the average, above those that the mixture was fitted to."""
    raw = torch.from_numpy(load_digits().images[:points])[:, None]
    return (raw + torch.rand(raw.shape, dtype=raw.dtype, generator=generator)) / 8 - 1


def mixture_problem(name: str, sde: str, points: int, seed: int, drawn: bool) -> Problem:
    model = with_sde(mixture(name), SDES[sde]())
    assert isinstance(model, GaussianMixtureScore)
    generator = torch.Generator().manual_seed(seed)
    x = model.sample(points, model.sde.t_min, generator) if drawn else images(points, generator)
    true = model.log_prob(x, model.sde.t_min)
    return Problem(name, sde, Counted(model), x, true, f"mean log-density {true.mean():.2f} nats")


def network_problem(directory: Path, sde: str | None, points: int, known: int, seed: int) -> Problem:
    run = Run.open(directory)
    model: ScoreModel = run.model()
    if sde is not None:
        model = with_sde(model, SDES[sde]())
    data = run.data()
    raw = data.test[:points]
    noise = SampleNoise(seed, torch.arange(len(raw)), tuple(raw.shape[1:]), torch.float64, stream=Stream.DEQUANTISATION)
    x = data.transform.encode(raw, None if data.transform.levels is None else noise.uniform())
    # Numbers that a float32 network is given as they are.
    x = x.float().double()
    fine = copy.deepcopy(model).double()
    start = time.perf_counter()
    true = log_likelihood(fine, x[:known], tol=TRUTH, method=DOP853, nodes=6, divergence=Exact()).log_prob
    spent = time.perf_counter() - start
    other = log_likelihood(fine, x[:2], tol=TRUTH, scaling=CovarianceScaling(), divergence=Exact()).log_prob
    note = (
        f"mean log-density {true.mean():.2f} nats, of {len(true)} points by DOP853 in {spent:.0f} s, from which "
        f"Dormand-Prince with the covariance differs by up to {(other - true[: len(other)]).abs().max():.0e} nats"
    )
    return Problem(directory.name, sde or type(model.sde).__name__, Counted(model), x, true, note)
