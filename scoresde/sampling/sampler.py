"""The sampler: a solver on a time grid, called for a batch in chunks, and what becomes of the solver's states.

The call is three stages: a `Request` holds the checked arguments; each chunk of it runs the solver's generator in one
loop, which counts evaluations, records the trajectory and applies the denoising step; and the chunks are joined,
checked for values that are not finite, and taken to the units of the data.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.guidance import DensityGuided
from scoresde.numerics.ode import Status
from scoresde.numerics.values import expand_to, one_of
from scoresde.progress import Progress
from scoresde.sampling.densities import path_density, warn_of_long_steps, with_log_prob
from scoresde.sampling.grids import Grid
from scoresde.sampling.measured_steps import rule_for
from scoresde.sampling.narrow import warn_of_narrow
from scoresde.sampling.path_density import WatchedModel
from scoresde.sampling.plain_rule import plain_rule
from scoresde.sampling.request import Request
from scoresde.sampling.samples import Samples, in_data_space
from scoresde.sampling.solver import NonFiniteError, Report, Solver, StoppedError
from scoresde.sampling.start import prior_distance
from scoresde.score import ScoreModel, StepRule, StepRules
from scoresde.score.bound import BoundModel

if TYPE_CHECKING:  # needed for log-densities alone, whose import is late
    from scoresde.numerics.trace import Divergence

__all__ = ["Sampler"]

# A start that is further from the prior's mean, in standard deviations, is why its sample is not finite.
_MAX_START = 100.0


@runtime_checkable
class ReadsRun(Protocol):
    """A solver or grid that reads a file, which it finds in a run's directory if its path is not given."""

    def in_run(self, directory: Path) -> Any:
        """The solver or grid with the file of the run; itself if its path was given."""


@runtime_checkable
class FollowsRule(Protocol):
    """A solver or grid whose settings may be those that were measured for a model."""

    def ruled(self, rule: StepRule) -> Any:
        """The solver or grid with these settings; itself if it has its own."""


class _Chunk(NamedTuple):
    """The samples of a chunk, their trajectory `(n + 1, b, ...)` if it is kept, the solver's report, evaluations.

    `strict` is true if the solver raised since a sample stopped. `density` holds log-densities along the path and their
    standard errors, `(b,)` each, if they were asked for.
    """

    x: Tensor
    trajectory: Tensor | None
    report: Report | None
    nfe: int
    strict: bool
    density: tuple[Tensor, Tensor] | None = None


class Sampler:
    """A solver on a time grid.

    >>> from scoresde.sampling import Heun, KarrasGrid, NoiseLevel, Sampler
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import EDMSDE
    >>> model = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 2), torch.ones(1), EDMSDE())
    >>> Sampler(Heun(coordinate=NoiseLevel()), KarrasGrid(8))(model, shape=(5, 2), seed=0)
    Samples(x=(5, 2), nfe=17, steps=8)

    Args:
        solver: The method that steps from one time to the next.
        grid: The times.
        denoise: Whether the last state is replaced by its mean E[x₀ | x], which takes one evaluation more and removes
            the noise that is left at t_min.
        noise: "white" for a fresh draw in every step, or "brownian" for the increments of a `BrownianPath`, so that
            the same seed on a finer grid refines the same trajectory. The latter costs about 15 draws a step. Langevin
            steps, churn and `AdaptiveSDE` draw white noise in any case, which a warning says.

    Raises:
        ValueError: Noise of another name.
        TypeError: A solver that is no `Solver`, or a grid that is no `Grid`, such as a distribution of times.

    References:
        Song et al. (2021), Score-Based Generative Modeling through Stochastic Differential Equations, appendix C, for
        the denoising step: https://arxiv.org/abs/2011.13456
    """

    @checked
    def __init__(
        self, solver: Solver, grid: Grid, denoise: bool = True, noise: Literal["white", "brownian"] = "white"
    ) -> None:
        one_of("noise", noise, ("white", "brownian"))
        self.solver = solver
        self.grid = grid
        self.denoise = denoise
        self.noise = noise

    def __repr__(self) -> str:
        noise = "" if self.noise == "white" else f", noise={self.noise!r}"
        return f"Sampler({self.solver!r}, {self.grid!r}, denoise={self.denoise}{noise})"

    def in_run(self, directory: Path, rules: bool = False) -> "Sampler":
        """The sampler that reads the files of a run's directory, unless their paths were given.

        These are the tuned steps of its solver and grid, and, with `rules`, the step rules of the default solver, which
        are those of the run's own model, without guidance.
        """
        solver = self.solver.in_run(directory) if isinstance(self.solver, ReadsRun) else self.solver
        grid = self.grid.in_run(directory) if isinstance(self.grid, ReadsRun) else self.grid
        found, path = Sampler(solver, grid, self.denoise, self.noise), directory / StepRules.FILE
        if not (rules and found.follows_rule and path.is_file()):
            return found
        return found._with_rule(StepRules.load(path).at(grid.steps))

    @property
    def follows_rule(self) -> bool:
        """Whether solver and grid take their settings from what was measured for a model."""
        # Whatever the rule is
        return self._with_rule(plain_rule(self.grid.steps)) is not self

    def _with_rule(self, rule: StepRule) -> "Sampler":
        """The sampler with the settings of a rule; itself if its solver or its grid has its own."""
        if not (isinstance(self.solver, FollowsRule) and isinstance(self.grid, FollowsRule)):
            return self
        solver, grid = self.solver.ruled(rule), self.grid.ruled(rule)
        own = solver is self.solver or grid is self.grid
        return self if own else Sampler(solver, grid, self.denoise, self.noise)

    def ruled(self, model: ScoreModel) -> "Sampler":
        """The sampler with the `StepRule` measured for the model, or the usual one; itself if it follows none."""
        # An exact score is measured here, so not without need.
        return self._with_rule(rule_for(model, self.grid.steps)) if self.follows_rule else self

    @torch.no_grad()
    @checked
    def __call__(
        self,
        model: ScoreModel,
        shape: int | Sequence[int] | None = None,
        *,
        x_init: Tensor | None = None,
        seed: int = 0,
        first: int = 0,
        batch_size: int | None = None,
        trajectory: bool = False,
        progress: bool = False,
        dtype: torch.dtype | None = None,
        log_prob: bool | Literal["path"] = False,
        divergence: "Divergence | None" = None,
        tol: float | None = None,
        **cond: Any,
    ) -> Samples:
        """Draw samples.

        With `log_prob`, each sample comes with its log-density at the grid's last time. The density is that of the
        probability-flow ODE and not of the solver's steps: `log_likelihood` takes the samples back to t_max by steps of
        its own. With `log_prob="path"` it is that of the reverse SDE, along the path of the solver itself, at one
        evaluation a sample (see `scoresde.sampling.path_density`): its error, `solver_stderr`, is that of the steps and
        falls as 1/√steps, if these are short in log SNR; there is a warning of steps above 0.5. In both cases the
        samples are returned without the denoising step, since the density is that of the state before it.

        >>> from scoresde.sampling import DDPM, UniformLogSNR
        >>> from scoresde.score import GaussianMixtureScore
        >>> from scoresde.sde import VPSDE
        >>> model = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 2), torch.ones(1), VPSDE())
        >>> out = Sampler(DDPM(), UniformLogSNR(300))(model, shape=(100, 2), seed=0, log_prob="path")
        >>> error = (out.log_prob - model.log_prob(out.x.double(), out.times[-1])).abs()
        >>> out.nfe, bool((error < 2 * out.solver_stderr).double().mean() > 0.9)
        (301, True)

        Args:
            model: The score model.
            shape: The number of samples and the shape of one, `(B, ...)`, or B alone if the model knows the shape.
                Give either this or `x_init`.
            x_init: The states at the grid's first time, `(B, ...)`, instead of draws from the prior. They are in model
                space, where noise is; `ScoreModel.to_model_space` takes data there.
            seed: Sample i is a function of the seed and of i alone.
            first: The index of the first sample; sample i of a call with `first=0` is sample 0 of one with `first=i`.
            batch_size: The number of samples to work on at once; all if not given.
            trajectory: Whether to keep the state at every time.
            progress: Whether to show a progress bar.
            dtype: The dtype of the state, float32 or float64; that of `x_init`, or else of the model, and float32 at
                least, if not given. A network in half precision is called in its own dtype.
            log_prob: Whether to give log-densities: True for those of the probability-flow ODE, by more evaluations
                than `nfe` counts, for which the solver must add no noise; `"path"` for those along the path of a
                solver that adds all the noise of the reverse SDE, such as `DDPM()` or `DPMSolverPP(2, sde=True)`.
            divergence: The estimator of the divergence for the log-densities of the ODE, as for `log_likelihood`;
                `seed` is also the seed of its probes.
            tol: The tolerance of the log-densities of the ODE in nats, as for `log_likelihood`.
            **cond: Conditions of the model; tensors, arrays and lists of length B are divided with the batch.

        Raises:
            ValueError: Zero samples, neither or both of shape and x_init, a shape that is not the model's, a dtype
                below float32, a grid outside the SDE's interval, log-densities of the ODE with a solver that adds
                noise, those along a path with one that adds none or another amount, or options of log-densities
                without `log_prob=True`.
            LikelihoodError: The path of a sample back to t_max could not be followed.
            NonFiniteError: A sample that is not finite.
            StoppedError: A sample stopped on the way and the solver is strict; with another solver it is a warning.
        """
        self._check_log_prob(model, log_prob, divergence, tol)
        options: dict[str, Any] = {"dtype": dtype, "batch_size": batch_size, "seed": seed, "first": first}
        ruled = self.ruled(model)
        request = Request.of(model, ruled.grid, shape, x_init, cond, **options)
        denoise = self.denoise and not log_prob
        if self.noise == "brownian" and self.solver.draws_white:
            warnings.warn(
                f"{self.solver!r} draws white noise too, so that more steps do not refine a trajectory, for which "
                'noise="brownian" was asked: take a solver without Langevin steps, churn and steps that adapt',
                UserWarning,
                stacklevel=4,  # past the check of the arguments and the wrapper of no_grad
            )
        if isinstance(model, DensityGuided) and self.solver.stochastic:
            warnings.warn(
                f"DensityGuided scales the noise prediction for the probability-flow ODE, and {self.solver!r} adds "
                "noise, under which log-densities do not follow its quantile: take a solver without, such as EDMHeun()",
                UserWarning,
                stacklevel=4,
            )
        if not log_prob:  # then the density at the last time is what is asked for
            warn_of_narrow(model, request.times[-1], denoise)
        along = log_prob == "path"
        if along:
            warn_of_long_steps(model, request.times)
        chunks = request.chunks()
        bar = Progress(len(chunks) * (len(request.times) - 1), "sampling", "step", shown=progress)
        with model.evaluating(), bar:
            done = [ruled._chunk(request, rows, denoise, trajectory, bar, along) for rows in chunks]
        samples = self._joined(request, done, denoise)
        if log_prob is True:
            options = {"seed": seed, "first": first, "batch_size": request.batch_size, **request.conditions}
            samples = with_log_prob(model, samples, divergence=divergence, tol=tol, progress=progress, **options)
        return in_data_space(model, samples)

    def _check_log_prob(
        self, model: ScoreModel, log_prob: bool | str, divergence: "Divergence | None", tol: float | None
    ) -> None:
        one_of("log_prob", log_prob, (False, True, "path"))
        if log_prob:
            from scoresde.likelihood.inputs import check_score

            check_score(model)
        if log_prob is True and self.solver.stochastic:
            raise ValueError(
                f"log_prob=True needs a solver of the probability-flow ODE, and {self.solver!r} adds noise: take one "
                "without, such as Heun(), or set its noise to 0"
            )
        if log_prob == "path" and not self.solver.reverse_sde:
            raise ValueError(
                f'log_prob="path" needs a solver with exactly the noise of the reverse SDE, which {self.solver!r} does '
                "not have: take DDPM(), DPMSolverPP(2, sde=True) or PredictorCorrector(Ancestral())"
            )
        if log_prob == "path" and model.learns_variance and self.solver.takes_learned:
            raise ValueError(
                'log_prob="path" needs the noise of the reverse SDE, and that of the steps of this model is learned: '
                'take DDPM("posterior")'
            )
        if log_prob is not True and not (divergence is None and tol is None):
            raise ValueError(
                "divergence and tol are for log-densities of the ODE: give log_prob=True with them, or leave them out"
            )

    def _chunk(
        self, request: Request, rows: slice, denoise: bool, trajectory: bool, bar: Progress, along: bool
    ) -> _Chunk:
        """Run the solver from the start to the last time for some samples of the batch, with densities if `along`."""
        model = (WatchedModel if along else BoundModel)(request.model, request.conditions.select(rows))
        noise = request.noise(rows, brownian=self.noise == "brownian")
        x = request.start(rows, noise)
        density = path_density(model, x, request.times) if isinstance(model, WatchedModel) else None
        track = [x.cpu()] if trajectory else []
        states = iter(self.solver.solve(model, x, request.times, noise))
        strict = False
        while True:
            try:
                x = next(states)
            except StopIteration as end:
                report: Report | None = end.value
                break
            except (NonFiniteError, StoppedError) as error:
                if error.x is None or error.report is None:
                    raise
                # The samples of all chunks belong into the exception, which is raised once they are joined.
                x, report, strict = error.x, error.report, True
                break
            bar.update()
            if density is not None:
                density.step(x)
            if trajectory:
                track.append(x.cpu())
        if denoise:
            clean = model.denoise(x, request.times[-1])
            if report is not None and report.status is not None:
                # A sample that stopped is at another time.
                clean = torch.where(expand_to(report.status, x) == Status.ARRIVED, clean, x)
            x = clean
        found = None if density is None else density.end()
        return _Chunk(x, torch.stack(track) if trajectory else None, report, model.nfe, strict, found)

    def _joined(self, request: Request, chunks: Sequence[_Chunk], denoise: bool) -> Samples:
        """The samples of all chunks, in model space.

        Raises:
            NonFiniteError: A sample that is not finite.
            StoppedError: A sample stopped on the way and the solver is strict.
        """
        x = torch.cat([chunk.x for chunk in chunks])
        tracks = [chunk.trajectory for chunk in chunks if chunk.trajectory is not None]
        densities = [chunk.density for chunk in chunks if chunk.density is not None]
        log_prob, error = map(torch.cat, zip(*densities, strict=True)) if densities else (None, None)
        samples = Samples(
            x,
            max(chunk.nfe for chunk in chunks),
            request.times,
            torch.cat(tracks, dim=1) if tracks else None,
            log_prob=log_prob,
            stderr=None if error is None else torch.zeros_like(error),
            labels=request.conditions.get("labels"),
            info=request.model.info,
            solver_stderr=error,
        )
        report = Report.join([chunk.report for chunk in chunks if chunk.report is not None])
        self._require_finite(request, x, report)
        if report is None:
            return samples
        if any(chunk.strict for chunk in chunks):
            report.raise_if_stopped(request.model.to_data_space(x))
        stopped = report.stopped()
        if stopped:
            warnings.warn(
                f"{stopped} and are left there: see status and reached; loosen the tolerances or allow more steps",
                RuntimeWarning,
                stacklevel=5,  # past __call__, the check of its arguments and the wrapper of no_grad
            )
        return samples.reported(report, denoised=denoise)

    def _require_finite(self, request: Request, x: Tensor, report: Report | None) -> None:
        status = None if report is None else report.status
        # Once, at the end: a value that is not finite stays so, and reading one in each step would wait for the device.
        if status is None and bool(x.sum().isfinite()):
            return
        broken = ~x.flatten(1).isfinite().all(1)
        if status is not None:
            # A solver that adapts its steps keeps the last finite state.
            broken = broken | (status == Status.NOT_FINITE)
        indices = broken.nonzero()[:, 0].tolist()
        if not indices:
            return
        remedy = ": take more steps, another grid or another solver, or check the model"
        if report is not None and report.reached is not None:
            reached = float(report.reached[indices[0]])
            remedy = f": the model is not finite for sample {indices[0]} near t = {reached:.3g}: check it there"
        if request.x_init is not None:
            distance = prior_distance(request.model, request.x_init[indices[0]], request.times[0])
            if not distance <= _MAX_START:  # or NaN
                remedy = (
                    f"; the first of them is sample {indices[0]} of x_init, which lies {distance:.3g} standard "
                    "deviations from the prior's mean: give states at the grid's first time, in model space"
                )
        message = f"{len(indices)} of {len(x)} samples are not finite after {self!r}{remedy}"
        raise NonFiniteError(message, request.model.to_data_space(x), report)
