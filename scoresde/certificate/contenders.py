"""Samplers as a certificate runs them: this package's, and functions in the convention of k-diffusion.

Either starts from given states at the first of its noise levels, and says which levels it has. Levels are σ/α, those
of a state x₀ + σ ε without scale; a run takes and returns such states, whatever the sampler's own scale is.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from scoresde.arguments import ArgumentError, checked, shown
from scoresde.certificate.watched import Watched
from scoresde.compare import ignores_steps
from scoresde.sampling import KarrasGrid, Sampler
from scoresde.score import ScoreModel
from scoresde.sde import SDE

__all__ = [
    "AnySampler",
    "Contender",
    "Ends",
    "FunctionContender",
    "Ran",
    "SamplerContender",
    "SigmaFunction",
    "contender",
]


class SigmaFunction(Protocol):
    """A sampler in the convention of k-diffusion: `f(denoiser, x, sigmas) -> x`.

    The denoiser is D(x, σ) = E[x₀ | x₀ + σ ε = x] with σ `(B,)`, x the states `(B, ...)` at the first of the levels
    `sigmas` `(n + 1,)`, which decrease and end in 0. The result is the samples, or a pair of them and of the number of
    evaluations that the sampler declares. A function may have an attribute `levels`, a function of the number of steps
    that gives the levels that it wants.
    """

    def __call__(self, denoiser: Any, x: Tensor, sigmas: Tensor, /) -> Any: ...


AnySampler = Sampler | Callable[[int], Sampler] | SigmaFunction


@dataclass(frozen=True)
class Ends:
    """Where a sampler begins and ends.

    Attributes:
        first: The level at which it begins.
        last: The last level above 0.
        denoised: Whether the last step goes from there to level 0.
    """

    first: float
    last: float
    denoised: bool


@dataclass(frozen=True)
class Ran:
    """A run: states `(B, ...)` at the end, and the evaluations for a sample that the sampler itself declares."""

    x: Tensor
    declared: float | None


class Contender(ABC):
    """A sampler under examination, at any number of steps.

    Attributes:
        brownian: Whether it says that the same seed on a finer grid refines the same path.
        has_steps: Whether a number of steps decides on its grid; a tolerance does where not.
        by_sample: Whether the noise of a sample is its own, whatever the batch.
    """

    brownian = False
    has_steps = True
    by_sample = True

    @abstractmethod
    def ends(self, model: ScoreModel, steps: int) -> Ends:
        """Where it begins and ends on a model, in levels."""

    @abstractmethod
    def run(self, model: Watched, x: Tensor, steps: int, seed: int, first: int = 0) -> Ran:
        """Sample from states x `(B, ...)` at the first level; `first` is the index of the first of them."""


class SamplerContender(Contender):
    """A `Sampler` of this package, or a function that makes one of a number of steps."""

    def __init__(self, make: Sampler | Callable[[int], Sampler]) -> None:
        self._make = make
        self._made: dict[int, Sampler] = {}
        own = self._sampler(8)
        self.has_steps = not (isinstance(make, Sampler) or ignores_steps(own))
        self.brownian = own.noise == "brownian" and own.solver.stochastic

    def _sampler(self, steps: int) -> Sampler:
        if steps not in self._made:
            self._made[steps] = self._make if isinstance(self._make, Sampler) else self._make(steps)
        return self._made[steps]

    def _on(self, model: ScoreModel, steps: int) -> tuple[Sampler, Tensor]:
        """The sampler with the rules that were measured for a model, and its times."""
        # Of the model itself, so that what is measured does not count.
        inner = model.model if isinstance(model, Watched) else model
        sampler = self._sampler(steps).ruled(inner)
        return sampler, sampler.grid(inner.sde, inner.step_statistics).double()

    def ends(self, model: ScoreModel, steps: int) -> Ends:
        (sampler, times), sde = self._on(model, steps), model.sde
        first, last = ((-sde.log_snr(t)).exp() for t in (times[0], times[-1]))
        return Ends(float(first), float(last), sampler.denoise)

    def run(self, model: Watched, x: Tensor, steps: int, seed: int, first: int = 0) -> Ran:
        (sampler, times), sde = self._on(model, steps), model.sde
        out = sampler(model, x_init=x * sde.alpha(times[0]).to(x), seed=seed, first=first)
        scale = 1.0 if sampler.denoise else float(sde.alpha(times[-1]))
        declared = float(out.nfe) if out.nfe_per_sample is None else float(out.nfe_per_sample.double().mean())
        return Ran(out.x / scale, declared)


class FunctionContender(Contender):
    """A function in the convention of k-diffusion."""

    by_sample = False  # torch's global generator gives it noise by the batch

    def __init__(self, function: SigmaFunction) -> None:
        self._function = function
        self.brownian = bool(getattr(function, "brownian", False))
        # So that the functions of k-diffusion show no bars.
        self._quiet: dict[str, Any] = {"disable": True} if "disable" in inspect.signature(function).parameters else {}

    def _levels(self, sde: SDE, steps: int) -> Tensor:
        own = getattr(self._function, "levels", None)
        if own is not None:
            return torch.as_tensor(own(steps), dtype=torch.float64)
        times = KarrasGrid(max(steps - 1, 1))(sde)
        return torch.cat([(-sde.log_snr(times.double())).exp(), torch.zeros(1, dtype=torch.float64)])

    def ends(self, model: ScoreModel, steps: int) -> Ends:
        levels = self._levels(model.sde, steps)
        return Ends(float(levels[0]), float(levels[levels > 0][-1]), float(levels[-1]) == 0)

    def run(self, model: Watched, x: Tensor, steps: int, seed: int, first: int = 0) -> Ran:
        levels = self._levels(model.sde, steps).to(x)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            out = self._function(SigmaDenoiser(model), x.clone(), levels, **self._quiet)
        found, declared = out if isinstance(out, tuple) else (out, None)
        if not isinstance(found, Tensor) or found.shape != x.shape:
            got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"the sampler returned {got}, expected states of shape {tuple(x.shape)}")
        return Ran(found.detach(), None if declared is None else float(declared))


class SigmaDenoiser:
    """D(x, σ) of a score model for states x₀ + σ ε, as k-diffusion calls it; further arguments are ignored.

    Args:
        model: The model.
    """

    def __init__(self, model: ScoreModel) -> None:
        self.model = model

    def __call__(self, x: Tensor, sigma: Tensor | float, *_: Any, **__: Any) -> Tensor:
        sde = self.model.sde
        level = torch.as_tensor(sigma, dtype=torch.float64).reshape(-1)
        if not bool((level > 0).all()):
            raise ValueError(f"the denoiser is asked at σ = {float(level.min()):g}, where there is no noise to remove")
        t = sde.time(-level.log())
        t = t if len(t) > 1 else t[0]
        alpha = sde.alpha(t).to(x).reshape(-1, *[1] * (x.ndim - 1))
        return self.model.denoise(x * alpha, t)


@checked
def contender(sampler: AnySampler) -> Contender:
    """The contender of a sampler: a `Sampler`, a function of a number of steps, or a function f(denoiser, x, sigmas).

    Raises:
        ValueError: Something else.
    """
    if isinstance(sampler, Contender):
        return sampler
    if isinstance(sampler, Sampler):
        return SamplerContender(sampler)
    if isinstance(sampler, type) or not callable(sampler):
        raise ArgumentError(
            f"sampler is {shown(sampler)}, expected a Sampler, a function that makes one of a number of steps, or a "
            "function f(denoiser, x, sigmas)"
        )
    try:
        parameters = inspect.signature(sampler).parameters.values()
    except ValueError:  # of a function that is not written in Python
        raise ArgumentError(
            f"sampler is {shown(sampler)}, whose arguments cannot be read: expected a function of a number of steps, "
            "or f(denoiser, x, sigmas)"
        ) from None
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p for p in positional if p.default is p.empty]
    if len(needed) == 1:
        return SamplerContender(sampler)  # type: ignore[arg-type]
    if len(needed) == 3:
        return FunctionContender(sampler)  # type: ignore[arg-type]
    raise ArgumentError(
        f"sampler wants {', '.join(p.name for p in needed) or 'nothing'}, expected a function of a number of steps, or "
        "f(denoiser, x, sigmas)"
    )
