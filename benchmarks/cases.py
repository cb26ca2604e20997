"""What the family of problems is measured on: a field, starts, their true endpoints; and a store for what is costly."""

import hashlib
import importlib.metadata
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peers as peers_module
import torch
from contenders import Counted
from problems import make_problem
from torch import Tensor
from truth import endpoints, own_endpoints

import scoresde
from scoresde.score import GaussianMixtureScore, ScoreModel, in_model_space

__all__ = ["Case", "Store", "Truth", "libraries", "problem_case", "run_case", "true_endpoints"]

# Problems of more elements are costly, and their endpoints vary less from start to start.
MANY_ELEMENTS, FEWER_STARTS = 256, 32
CHECKED = 4  # starts whose endpoint is found by a second solver too


@dataclass(frozen=True)
class Case:
    """A field with starts.

    Attributes:
        kind: The kind of problem, or "network".
        name: Name in tables.
        text: Name, dimension and SDE.
        model: The field, in float64.
        starts: States at the first time, `(n, ...)`.
        density: The exact density of the samples, if there is one.
        cond: Conditions of the starts.
    """

    kind: str
    name: str
    text: str
    model: ScoreModel
    starts: Tensor
    density: GaussianMixtureScore | None = None
    cond: dict[str, Tensor] = field(default_factory=dict)

    def counted(self, exact: bool | None = None) -> Counted:
        return Counted(self.model, self.cond, exact)

    @property
    def stamp(self) -> str:
        """Changes with the field or the starts: a hash of the starts and of what is denoised at three times."""
        sde = self.model.sde
        ends = sde.log_snr(torch.tensor([sde.t_max, sde.t_min_sampling], dtype=torch.float64))
        sum_ = hashlib.sha256(f"{self.text} {len(self.starts)}".encode())
        for share in (0.25, 0.5, 0.75):
            t = sde.time(torch.lerp(ends[0], ends[1], share))
            x = self.starts * sde.sigma(t) / sde.sigma(torch.tensor(sde.t_max, dtype=torch.float64))
            model = self.counted()
            with torch.no_grad():
                out = model.denoise(x, t, **model.cond_of(x))
            sum_.update(repr([f"{v:.5g}" for v in (out.mean(), out.std(), *out.flatten()[:20])]).encode())
        return sum_.hexdigest()[:16]


def problem_case(kind: str, seed: int, starts: int) -> Case:
    """A problem of the family."""
    problem = make_problem(kind, seed)
    count = starts if problem.dim < MANY_ELEMENTS else min(starts, FEWER_STARTS)
    return Case(kind, problem.name, str(problem), problem.model, problem.starts(count), problem.density)


def run_case(directory: Path, starts: int) -> Case:
    """A trained network, from its run directory; one with classes is given each of them in turn."""
    loaded = scoresde.load(directory)
    model = in_model_space(loaded).double().eval()
    shape, sde = loaded.shape, loaded.sde
    assert shape is not None
    noise = torch.randn((starts, *shape), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cond = {} if loaded.classes is None else {"labels": torch.arange(starts) % loaded.classes}
    text = f"{directory.name} ({'×'.join(map(str, shape))}, {sde!r})"
    return Case("network", directory.name, text, model, sde.prior_sample(noise.shape, noise), None, cond)


# ---------------------------------------------------------------- truth


@dataclass(frozen=True)
class Truth:
    """The true endpoints.

    Attributes:
        ends: `(n, ...)`.
        error: The largest distance of some of them to what another solver gives.
        scale: The root mean square of their norms.
    """

    ends: Tensor
    error: float
    scale: float

    @property
    def floor(self) -> float:
        """The distance below which errors are round-off, or that of the truth."""
        return max(1e-9 * self.scale, 10 * self.error)


def true_endpoints(case: Case) -> Truth:
    """By two solvers; a network, whose field is rougher, to fewer digits."""
    tolerance = 1e-9 if case.kind == "network" else 1e-11
    model, some = case.counted(), case.starts[:CHECKED]
    ends = own_endpoints(model, case.starts, tolerance, **model.cond_of(case.starts))
    other = endpoints(model, some, tolerance, **model.cond_of(some))
    error = (ends[:CHECKED] - other).flatten(1).norm(dim=1).max()
    return Truth(ends, float(error), float(ends.flatten(1).norm(dim=1).square().mean().sqrt()))


# ---------------------------------------------------------------- store


def libraries(paths: Sequence[str]) -> str:
    """Versions of what peers' results depend on: their libraries, the clones, and how they are called here."""
    names = ("torch", "k-diffusion", "diffusers", "azula", "torchsde")
    found = []
    for name in names:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {name}")
    files = [
        Path(str(peers_module.__file__)),
        *(f for p in sorted(paths) for f in sorted(Path(p).rglob("*solver*.py"))),
    ]
    return ", ".join([*found, hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:12]])


class Store:
    """Results of a case that do not change with this project's solvers, in a file, if there is a folder for it.

    What was stored of another field, other starts or other libraries is not used.
    """

    def __init__(self, folder: Path | None, case: Case) -> None:
        name = re.sub(r"\W+", "-", case.name)
        self._path = None if folder is None else folder / f"{name}.pt"
        self._stamp = case.stamp
        self.values: dict[str, Any] = {}
        if self._path is not None and self._path.is_file():
            found = torch.load(self._path, weights_only=True)
            if found["stamp"] == self._stamp:
                self.values = found["values"]

    def save(self) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(f".{os.getpid()}")
        torch.save({"stamp": self._stamp, "values": self.values}, partial)
        partial.replace(self._path)

    def truth(self, case: Case) -> Truth:
        if "truth" not in self.values:
            made = true_endpoints(case)
            self.values["truth"] = {"ends": made.ends, "error": made.error, "scale": made.scale}
            self.save()
        return Truth(**self.values["truth"])

    def errors(self, kind: str) -> dict[str, Any]:
        """Errors by contender and number of evaluations, of a kind such as the versions of libraries."""
        out: dict[str, Any] = self.values.setdefault(kind, {})
        return out
