"""Methods for inverse problems on problems whose posterior is known, cell by cell."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from scoresde.arguments import ArgumentError, checked
from scoresde.certificate.posterior import PosteriorExam
from scoresde.certificate.posterior_frame import EXACT, PosteriorCell
from scoresde.certificate.several import Exact, Function, PosteriorFunction, SampledBy
from scoresde.inverse import FieldMethod, GaussianNoise, Method, NoNoise, Problem
from scoresde.sampling import Sampler
from scoresde.score import GaussianMixtureScore

__all__ = ["PosteriorCertificate"]

AnyMethod = Method | PosteriorFunction
SamplerOf = Callable[[int], Sampler]


@checked
class PosteriorCertificate:
    """The cells of a certificate of posterior samplers, each to be examined by itself.

    Exact posterior samples are examined with each problem, as the method `exact`: they have to pass.

    Args:
        prior: The mixture.
        methods: Methods by name, or functions of the user's own; see `scoresde.certificate.Function`.
        problems: Problems by name, whose posteriors are mixtures.
        noises: Standard deviations of the noise, in the place of that of the problems; 0 for none. Without any, each
            problem has its own noise.
        samplers: Samplers by name, as functions of a number of steps, for methods that are fields; each of them in the
            place of the method's own.
        steps: The numbers of steps.
        measurements: The number of measurements of each problem.
        samples: The number of posterior samples of each.
        seed: Seed of measurements and samples.
        batch_size: The number of samples to work on at once; all if not given.

    Attributes:
        cells: The cells, in order.

    Raises:
        ValueError: No problem, one whose posterior is no mixture, or a method that is none for a problem. Nothing has
            been drawn with a method yet.
    """

    def __init__(
        self,
        prior: GaussianMixtureScore,
        methods: Mapping[str, AnyMethod],
        problems: Mapping[str, Problem],
        *,
        noises: Sequence[float] = (),
        samplers: Mapping[str, SamplerOf] | None = None,
        steps: Sequence[int] = (50,),
        measurements: int = 16,
        samples: int = 512,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> None:
        if not problems or not steps:
            raise ValueError(f"nothing to certify: {len(problems)} problems, {len(steps)} numbers of steps")
        if EXACT in methods:
            raise ValueError(f"a method is named {EXACT}, which is the name of exact posterior samples: rename it")
        if any(not 0 <= noise < math.inf for noise in noises):
            raise ValueError(f"noises are {list(noises)}, expected standard deviations of 0 or more")
        self.prior, self.problems, self.batch_size = prior, dict(problems), batch_size
        self.samplers = dict(samplers or {})
        self.methods = {
            name: method if isinstance(method, Method) else Function(method) for name, method in methods.items()
        }
        self._sizes: dict[str, Any] = {"measurements": measurements, "samples": samples, "seed": seed}
        self._exams: dict[tuple[str, float | None], PosteriorExam] = {}
        self.cells = list(self._all(dict.fromkeys(noises) or [None], list(dict.fromkeys(steps))))
        self._check()

    def _all(self, noises: Sequence[float | None] | Mapping[float, None], steps: list[int]) -> Iterator[PosteriorCell]:
        for problem, noise in itertools.product(self.problems, noises):
            yield PosteriorCell(EXACT, problem, noise, "", None)
            for name, method in self.methods.items():
                chosen = [*self.samplers] if isinstance(method, FieldMethod) and self.samplers else [""]
                for sampler, count in itertools.product(chosen, steps):
                    yield PosteriorCell(name, problem, noise, sampler, count)

    def _check(self) -> None:
        if self.samplers and not any(isinstance(method, FieldMethod) for method in self.methods.values()):
            raise ValueError(
                f"{', '.join(self.samplers)}: no method of {', '.join(self.methods) or 'none'} is a field that a "
                "sampler could be chosen for: leave samplers out"
            )
        for cell in self.cells:
            exam = self._exam(cell)
            try:
                self._method(cell).check(self.prior, exam.measurement)
            except ValueError as error:
                raise ArgumentError(f"{cell.method} on {cell.problem}: {error}") from error

    def _exam(self, cell: PosteriorCell) -> PosteriorExam:
        key = cell.problem, cell.noise
        if key not in self._exams:
            problem = self.problems[cell.problem]
            if cell.noise is not None:
                problem = replace(problem, noise=GaussianNoise(cell.noise) if cell.noise else NoNoise())
            try:
                self._exams[key] = PosteriorExam(self.prior, problem, **self._sizes)
            except ValueError as error:
                raise ArgumentError(f"{cell.problem}: {error}") from error
        return self._exams[key]

    def _method(self, cell: PosteriorCell) -> Method:
        if cell.method == EXACT:
            return Exact(self.prior)
        method = self.methods[cell.method]
        return (
            SampledBy(method, self.samplers[cell.sampler])
            if cell.sampler and isinstance(method, FieldMethod)
            else method
        )

    def row(self, cell: PosteriorCell) -> dict[str, Any]:
        """The row of a cell; one of a method that fails has the reason in `failure`."""
        exam = self._exam(cell)
        row = {**cell._asdict(), "measurements": len(exam), "samples": exam.samples}
        try:
            return row | exam.run(self._method(cell), cell.steps or 1, batch_size=self.batch_size)
        except Exception as error:  # whatever a method of the user's own may raise: the others continue
            return row | {"failure": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
