"""Methods that draw all samples of one measurement at once: the exact posterior, and functions of the user's own."""

import inspect
import itertools
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import ArgumentError, checked, shown
from scoresde.certificate.contenders import SigmaDenoiser
from scoresde.certificate.mixtures import draws, generator
from scoresde.inverse import ExactPosterior, FieldMethod, Measurement, Method, Operator, Problem
from scoresde.sampling import Sampler, Samples
from scoresde.score import GaussianMixtureScore, ScoreModel

__all__ = ["Exact", "Function", "PosteriorFunction", "SampledBy"]

PosteriorFunction = Callable[..., Tensor]
"""A posterior sampler of the user's own; see `Function`."""

_GIVEN = ("denoiser", "model", "operator", "y", "noise_std", "problem", "n", "steps", "seed")


class _OfEach(Method):
    """A method of one measurement at a time."""

    needs_linear = False
    needs_variance = False

    @abstractmethod
    def several(self, model: ScoreModel, problem: Problem, y: Tensor, n: int, steps: int, seed: int) -> Tensor:
        """n samples `(n, *shape)` given the measurement y `(*measured)`."""

    def draw(
        self, model: ScoreModel, measurement: Measurement, steps: int, *, seed: int = 0, first: int = 0, **cond: Any
    ) -> Samples:
        y = measurement.y
        starts = [0, *(i for i in range(1, len(y)) if not torch.equal(y[i], y[i - 1])), len(y)]
        parts = [
            self.several(model, measurement.problem, y[a], b - a, steps, seed * 1_000_003 + first + a)
            for a, b in itertools.pairwise(starts)
        ]
        return Samples(torch.cat(parts), 0, torch.empty(0, dtype=torch.float64))


class Exact(_OfEach):
    """Draws from the exact posterior of a mixture: what every method is held against.

    Args:
        prior: The mixture.
    """

    needs_linear = True

    def __init__(self, prior: GaussianMixtureScore) -> None:
        self.prior = prior

    def several(self, model: ScoreModel, problem: Problem, y: Tensor, n: int, steps: int, seed: int) -> Tensor:
        posterior = ExactPosterior(self.prior, problem).given(y)
        return draws(posterior, n, generator(seed, 11)).reshape(n, *problem.operator.shape)


class Function(_OfEach):
    """A posterior sampler that is a function, from anywhere.

    It is called once for each measurement, by name, with those of these arguments that it has, and returns `(n, ...)`:

        denoiser    D(x, σ) = E[x₀ | x₀ + σ ε = x] of x `(b, ...)`, with σ a number or `(b,)`; differentiable
        model       the `ScoreModel` of the prior, which D asks
        operator    A, with `operator(x)`, and `adjoint(y)` where it is linear
        y           the measurement, `(1, *measured)`
        noise_std   the standard deviation of Gaussian noise, 0.0 without noise
        problem     operator and noise as a `Problem`
        n           the number of samples
        steps       the number of steps that are asked for
        seed        an integer; the global generator of torch has been given it, too

    Args:
        function: The function.

    Raises:
        ValueError: Something else than a function, or one that wants other arguments.
    """

    def __init__(self, function: PosteriorFunction) -> None:
        if isinstance(function, type) or not callable(function):
            raise ArgumentError(
                f"method is {shown(function)}, expected a Method such as DPS(), or a function of some of "
                f"{', '.join(_GIVEN)}"
            )
        self.function = function
        parameters = inspect.signature(function).parameters.values()
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        strange = [p.name for p in named if p.default is p.empty and p.name not in _GIVEN]
        strange += [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]
        if strange:
            raise ArgumentError(
                f"{self.name} wants {', '.join(strange)}, expected arguments named {', '.join(_GIVEN)}: wrap it in a "
                "function that has these"
            )
        self._names = _GIVEN if open_ended else tuple(p.name for p in named if p.name in _GIVEN)

    @property
    def name(self) -> str:
        """The name of the function."""
        return str(getattr(self.function, "__name__", type(self.function).__name__))

    def several(self, model: ScoreModel, problem: Problem, y: Tensor, n: int, steps: int, seed: int) -> Tensor:
        variance = problem.noise.variance(y[None])
        given: dict[str, Any] = {
            "denoiser": SigmaDenoiser(model),
            "model": model,
            "operator": problem.operator,
            "y": y[None],
            "noise_std": None if variance is None else float(variance.max().sqrt()),
            "problem": problem,
            "n": n,
            "steps": steps,
            "seed": seed,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            x = self.function(**{name: given[name] for name in self._names})
        expected = (n, *problem.operator.shape)
        if not isinstance(x, Tensor) or tuple(x.shape) != expected:
            got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"{self.name} returned {got}, expected samples of shape {expected}")
        return x.detach()


@checked
class SampledBy(Method):
    """A field method with a sampler of another kind than its own.

    Args:
        method: The method.
        make: The sampler of a number of steps.
    """

    def __init__(self, method: FieldMethod, make: Callable[[int], Sampler]) -> None:
        self.method, self.make = method, make

    def check(self, model: ScoreModel, measurement: Measurement) -> None:
        self.method.check(model, measurement)

    def draw(
        self, model: ScoreModel, measurement: Measurement, steps: int, *, seed: int = 0, first: int = 0, **cond: Any
    ) -> Samples:
        posterior = self.method.posterior(model, measurement)
        operator: Operator = measurement.operator
        return self.make(steps)(posterior, (len(measurement), *operator.shape), seed=seed, first=first, **cond)
