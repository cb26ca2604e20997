"""Points whose log-densities are known, for `likelihood.py`."""

import copy
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from likelihood_models import Counted, Source, make_model
from solvers import digits, ring
from torch import Tensor

from scoresde.data import digits as digit_images
from scoresde.likelihood import CovarianceScaling, Exact, decode, log_likelihood
from scoresde.numerics.ode import DOP853
from scoresde.numerics.random import SampleNoise, Stream
from scoresde.runs.directory import Run
from scoresde.score import GaussianMixtureScore, ScoreModel

__all__ = ["DATA", "DRAWS", "Problem", "mixture_problems", "network_problems"]

DRAWS, DATA = "draws", "data"
# Nats for each dimension that a step of the truth may move it by, in few dimensions and in many, where it is costly;
# the number of points, in many, that it is checked on.
TRUTH, COSTLY_TRUTH, MANY, CHECKED = 1e-7, 1e-5, 16, 2
# The largest time, as a fraction of score_sde's, that is wanted at a solver error of 1e-3 nats for each dimension.
WANTED = {"mixture": 0.2, "MLP": 0.15, "UNet": 0.1}


@dataclass(frozen=True)
class Problem:
    """Points `(B, ...)` and the log-densities of the first of them under a model.

    Attributes:
        name: Of the mixture or the run.
        points: `DRAWS` of the model, or held-out `DATA`, of which images are dequantised.
        sde: Name of the SDE.
        model: The model.
        source: What the model is made of, for another process.
        given: The SDE that it is made with there; None for the run's own.
        kind: "mixture", or the class of the network.
        x: The points, in model space.
        true: Log-densities of the first points.
        note: How these are known.
    """

    name: str
    points: str
    sde: str
    model: Counted
    source: Source
    given: str | None
    kind: str
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

    @property
    def wanted(self) -> float:
        return WANTED.get(self.kind, WANTED["UNet"])

    def __str__(self) -> str:
        return f"{self.name}, {self.points}, {self.sde}"


@cache
def _parameters(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and covariances of the mixtures of `solvers.py`."""
    made = ring() if name == "ring" else digits()
    if made.rotations is None:
        return made.weights, made.means, made.variances
    covariances = torch.einsum("kij,kj,klj->kil", made.rotations, made.variances, made.rotations)
    # Images, for probes that look at where a pixel is.
    return made.weights, made.means.reshape(-1, 1, 8, 8), (covariances + covariances.mT) / 2


def _encoded(raw: Tensor, transform: object, seed: int) -> Tensor:
    """Data in model space; integers x as x + u with u uniform."""
    noise = SampleNoise(seed, torch.arange(len(raw)), tuple(raw.shape[1:]), torch.float64, stream=Stream.DEQUANTISATION)
    levels = getattr(transform, "levels", None)
    encoded: Tensor = transform.encode(raw, None if levels is None else noise.uniform())  # type: ignore[attr-defined]
    # Numbers that a float32 network is given as they are.
    return encoded.float().double()


def mixture_problems(name: str, sde: str, kinds: list[str], points: int, seed: int) -> Iterator[Problem]:
    """Draws of a mixture; and for the digits dequantised images of the test split, which lie off a mixture that was
    fitted to the integers."""
    source = _parameters(name)
    model = make_model(source, sde)
    assert isinstance(model, GaussianMixtureScore)
    for kind in kinds:
        if kind == DRAWS:
            x = model.sample(points, model.sde.t_min, torch.Generator().manual_seed(seed))
        elif name == "digits":
            data = digit_images()
            x = _encoded(data.test[:points], data.transform, seed)
        else:
            continue
        true = model.log_prob(x, model.sde.t_min)
        note = f"mean log-density {true.mean():.2f} nats"
        yield Problem(name, kind, sde, Counted(model), source, sde, "mixture", x, true, note)


def network_problems(
    directory: Path, sde: str | None, kinds: list[str], points: int, known: int, seed: int, store: Path | None
) -> Iterator[Problem]:
    """Draws of a network's probability flow, and held-out data of its run."""
    directory = directory.resolve()
    model = make_model(directory, sde)
    fine = copy.deepcopy(model).double()
    for kind in kinds:
        if kind == DRAWS:
            x = _draws(fine, Run.open(directory).data().test[:1].shape[1:], points, seed)
        else:
            data = Run.open(directory).data()
            x = _encoded(data.test[:points], data.transform, seed)
        true, note = _truth(fine, x, known, store)
        named = sde or type(model.sde).__name__
        network = type(getattr(model, "network", model)).__name__
        yield Problem(directory.name, kind, named, Counted(model), directory, sde, network, x, true, note)


def _draws(model: ScoreModel, shape: torch.Size, points: int, seed: int) -> Tensor:
    """Ends, in model space, of the flow's paths from draws of the prior with the data's moments."""
    known, end = model.statistics, torch.tensor(model.sde.t_max, dtype=torch.float64)
    assert known is not None
    assert known.covariance is not None
    alpha, sigma = model.sde.alpha(end), model.sde.sigma(end)
    covariance = alpha**2 * known.covariance.double() + sigma**2 * torch.eye(shape.numel(), dtype=torch.float64)
    noise = torch.randn(points, shape.numel(), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    codes = alpha * known.mean.double().flatten() + noise @ torch.linalg.cholesky(covariance).mT
    return decode(Counted(model), codes.reshape(points, *shape), method=DOP853).float().double()


def _truth(fine: ScoreModel, x: Tensor, known: int, store: Path | None) -> tuple[Tensor, str]:
    """Log-densities of the first points by this package's exact divergence at a small tolerance; they are stored."""
    weights = torch.cat([p.detach().double().flatten() for p in fine.parameters()])
    stamp = hashlib.sha256(weights.numpy().tobytes() + x[:known].numpy().tobytes() + repr(fine.sde).encode())
    file = None if store is None else store / f"truth-{stamp.hexdigest()[:16]}.pt"
    if file is not None and file.is_file():
        out: tuple[Tensor, str] = torch.load(file, weights_only=True)
        return out
    size = x[0].numel()
    tol, checked = (COSTLY_TRUTH * size, CHECKED) if size > MANY else (TRUTH * size, known)
    start, model = time.perf_counter(), Counted(fine)
    true = log_likelihood(model, x[:known], tol=tol, method=DOP853, nodes=6, divergence=Exact()).log_prob
    spent = time.perf_counter() - start
    other = log_likelihood(model, x[:checked], tol=tol, scaling=CovarianceScaling(), divergence=Exact()).log_prob
    note = (
        f"mean log-density {true.mean():.2f} nats, of {len(true)} points by DOP853 in {spent:.0f} s, from which "
        f"Dormand-Prince with the covariance differs by up to {(other - true[: len(other)]).abs().max():.0e} nats at "
        f"the first {len(other)}"
    )
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save((true, note), file)
    return true, note
