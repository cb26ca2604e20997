"""The loop around every solver."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.brownian import BrownianPath
from scoresde.numerics.ode import Status
from scoresde.numerics.random import SampleNoise
from scoresde.progress import Progress
from scoresde.sampling.grids import Grid
from scoresde.score import ScoreModel, in_model_space

if TYPE_CHECKING:
    from scoresde.numerics.trace import Divergence
from scoresde.sampling.samples import Samples, in_data_space
from scoresde.sampling.solver import NonFiniteError, Report, Solver
from scoresde.score.bound import BoundModel
from scoresde.score.conditions import Conditions

__all__ = ["Sampler"]

# Standard deviations from where noised data are expected beyond which a state is in other units, it seems.
_FAR = 5.0

# Likewise, beyond which that is why a sample that started there is not finite.
_TOO_FAR = 100.0


class _Steps:
    """A solver's states, and its report when they have ended."""

    def __init__(self, states: Iterator[Tensor]) -> None:
        self.states = states
        self.report: Report | None = None

    def __iter__(self) -> Iterator[Tensor]:
        self.report = yield from self.states  # type: ignore[func-returns-value]


class Sampler:
    """A solver on a time grid.

    Args:
        solver: how to step.
        grid: when.
        denoise: replace the last state by its mean E[x₀ | x] (Song et al. 2021, appendix C; Jolicoeur-Martineau
            et al. 2021): one evaluation more, and the noise left at t_min is gone.
        noise: `"white"`, a fresh draw for every step; or `"brownian"`, the increments of a `BrownianPath`, so that
            the same seed on a finer grid refines the same trajectory. The latter costs about 15 draws a step.

    Raises:
        ValueError: noise of another name.
        TypeError: a solver that is no `Solver`, or a grid that is no `Grid`, such as a distribution of times.
    """

    @checked
    def __init__(
        self, solver: Solver, grid: Grid, denoise: bool = True, noise: Literal["white", "brownian"] = "white"
    ) -> None:
        if noise not in ("white", "brownian"):
            raise ValueError(f"noise is {noise!r}, expected 'white' or 'brownian'")
        self.solver = solver
        self.grid = grid
        self.denoise = denoise
        self.noise = noise

    def __repr__(self) -> str:
        noise = "" if self.noise == "white" else f", noise={self.noise!r}"
        return f"Sampler({self.solver!r}, {self.grid!r}, denoise={self.denoise}{noise})"

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
        log_prob: bool = False,
        divergence: "Divergence | None" = None,
        tol: float | None = None,
        **cond: Any,
    ) -> Samples:
        """Draw samples.

        With `log_prob` each comes with its log-density at the grid's last time, that of the ODE which the solver
        approximates and not of its steps: `log_likelihood` takes the samples back to t_max by its own. They are
        returned without the denoising step, as it is the state before it that has this density.

        Args:
            model: the score model.
            shape: `(B, ...)`, the number of samples and the shape of one, or B alone where the model knows the latter;
                or give `x_init`.
            x_init: `(B, ...)`, the state at the grid's first time, instead of a draw from the prior; in model space,
                where noise is (`ScoreModel.to_model_space` takes data there).
            seed: sample i is a function of the seed and of i alone.
            first: index of the first sample; sample i of a call with `first=0` is sample 0 of one with `first=i`.
            batch_size: how many samples to work on at once; all if not given.
            trajectory: keep the state at every time.
            progress: show a progress bar.
            dtype: of the state, float32 or float64; that of `x_init`, or else of the model, and float32 at least, if
                not given. A network in half precision is called in its own.
            log_prob: give log-densities, by more evaluations than `nfe` counts; for a solver that adds no noise.
            divergence: for the log-densities, as for `log_likelihood`, and `seed` is that of its probes.
            tol: of the log-densities, in nats, as for `log_likelihood`.
            **cond: conditions for the model; tensors, arrays and lists of length B are split with the batch.

        Raises:
            ValueError: zero samples, neither or both of shape and x_init, a shape that is not the model's, a dtype
                below float32, a grid outside the SDE's interval, log-densities with a solver that adds noise, or
                options for them where they are not asked for.
            LikelihoodError: a sample's path back could not be followed.
            NonFiniteError: a sample that is not finite.
            StoppedError: a sample stopped on the way, and the solver is strict; otherwise a warning says so.
        """
        if (shape is None) == (x_init is None):
            raise ValueError("give either shape=(B, ...) or x_init, not both or neither")
        shape = model.batch_shape(shape) if shape is not None else tuple(x_init.shape)  # type: ignore[union-attr]
        if len(shape) < 2 or min(shape) < 1:
            raise ValueError(f"shape is {shape}, expected (B, ...) with at least one sample of at least one element")
        model.check_shape(shape)
        conditions = model.conditions(cond, shape[0], model.device)
        x_init = None if x_init is None else model.on_device(x_init)
        batch_size = shape[0] if batch_size is None else batch_size
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        if log_prob and self.solver.stochastic:
            raise ValueError(
                f"log_prob=True needs a solver of the probability-flow ODE, and {self.solver!r} adds noise: take one "
                "without, such as Heun(), or set its noise to 0"
            )
        if not log_prob and not (divergence is None and tol is None):
            raise ValueError(
                "divergence and tol are for log-densities: give log_prob=True with them, or leave them out"
            )
        denoise = self.denoise and not log_prob
        times = self.grid(model.sde, model.statistics, model.exact)
        device = model.device if x_init is None else x_init.device
        if x_init is not None and model.transform is not None:
            _warn_of_units(model, x_init, times[0])
        if dtype is None:
            given = x_init is not None and x_init.is_floating_point()
            dtype = torch.promote_types(x_init.dtype, torch.float32) if given else model.dtype  # type: ignore[union-attr]
        elif dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"dtype is {dtype}, expected float32 or float64, which the state needs: convert the network alone, by "
                "model.bfloat16()"
            )
        chunks = range(0, shape[0], batch_size)
        bar = Progress(len(chunks) * (len(times) - 1), "sampling", "step", shown=progress)
        parts, tracks, reports, nfe = [], [], [], 0
        with model.evaluating(), bar:
            for start in chunks:
                stop = min(start + batch_size, shape[0])
                indices = torch.arange(first + start, first + stop)
                source = SampleNoise if self.noise == "white" else BrownianPath
                noise = source(seed, indices, shape[1:], dtype, device)
                bound = BoundModel(model, conditions.rows(start, stop))
                if x_init is None:
                    x = _prior(model, noise(), times[0])
                else:
                    x = x_init[start:stop].to(dtype)
                    noise.skip()  # so that the steps' noise does not repeat a start made of draw 0
                track = [x.cpu()] if trajectory else []
                steps = _Steps(self.solver.solve(bound, x, times, noise))
                for state in steps:
                    x = state
                    bar.update()
                    if trajectory:
                        track.append(x.cpu())
                report = steps.report
                if denoise:
                    clean = bound.denoise(x, times[-1])
                    x = clean if report is None or report.status is None else _where_rows(report.status == 0, clean, x)
                parts.append(x)
                if report is not None:
                    reports.append(report)
                tracks.append(torch.stack(track) if trajectory else None)
                nfe = max(nfe, bound.nfe)
        x = torch.cat(parts)
        joined = torch.cat([t for t in tracks if t is not None], dim=1) if trajectory else None
        far = None if x_init is None else partial(_distance, model, x_init, times[0])
        if reports:
            samples = self._reported(x, times, joined, reports, denoise, far)
        else:
            self._check(x, None, far)
            samples = Samples(x, nfe, times, joined)
        samples = replace(samples, labels=conditions.get("labels"), info=model.info)
        if not log_prob:
            return in_data_space(model, samples)
        options = {"divergence": divergence, "tol": tol, "seed": seed, "batch_size": batch_size, "progress": progress}
        found = _with_log_prob(in_model_space(model), samples, first, options, conditions)
        return in_data_space(model, found)

    def _reported(
        self,
        x: Tensor,
        times: Tensor,
        trajectory: Tensor | None,
        reports: list[Report],
        denoise: bool,
        far: Callable[[int], float] | None,
    ) -> Samples:
        whole = Report(*(_join([getattr(r, f.name) for r in reports]) for f in fields(Report)))
        self._check(x, whole.status, far)
        each = whole.nfe + 1 if denoise else whole.nfe
        stopped = whole.stopped()
        if stopped:
            warnings.warn(
                f"{stopped} and are left there: see status and reached; loosen the tolerances or allow more steps",
                RuntimeWarning,
                stacklevel=5,  # past the call, the checks of its arguments and the wrapper of no_grad
            )
        return Samples(x, int(each.max()), times, trajectory, each, whole.status, whole.reached, whole.sweeps)

    def _check(self, x: Tensor, status: Tensor | None, far: Callable[[int], float] | None) -> None:
        # Once, at the end: a value that is not finite stays so, and looking at each step would wait for the device.
        if status is None and bool(x.sum().isfinite()):
            return
        broken = ~x.flatten(1).isfinite().all(1)
        if status is not None:
            # A solver that adapts its steps keeps the last finite state.
            broken = broken | (status == Status.NOT_FINITE)
        bad = broken.nonzero()[:, 0].tolist()
        if not bad:
            return
        remedy = ": take more steps, another grid or another solver, or check the model"
        distance = 0.0 if far is None else far(bad[0])
        # Also where it is NaN.
        if not distance <= _TOO_FAR:
            remedy = (
                f"; the first of them is sample {bad[0]} of x_init, which lies {distance:.3g} standard deviations from "
                "the prior's mean: give states at the grid's first time, in model space"
            )
        raise NonFiniteError(f"{len(bad)} of {len(x)} samples are not finite after {self!r}{remedy}", x)


def _warn_of_units(model: ScoreModel, x: Tensor, t: Tensor) -> None:
    """Warn of a state that is far from the model's noised data, as data in their own units are."""
    known = model.statistics
    if known is None or x.device.type != "cpu":  # elsewhere a look would wait for the device
        return
    alpha, sigma = float(model.sde.alpha(t)), float(model.sde.sigma(t))
    centred = x.double() - alpha * known.mean.cpu().reshape(x.shape[1:])
    apart = float(centred.square().mean().sqrt()) / math.hypot(alpha * float(known.std), sigma)
    if apart > _FAR:
        warnings.warn(
            f"x_init is {apart:.2g} standard deviations from what the model expects at t = {float(t):.3g}: it is a "
            "state in model space, where noise is; model.to_model_space takes data there",
            UserWarning,
            stacklevel=5,  # past the call, the checks of its arguments and the wrapper of no_grad
        )


def _prior(model: ScoreModel, noise: Tensor, t: Tensor) -> Tensor:
    """A draw of the Gaussian at t with the data's mean and variance, or of N(0, σ² I) if they are not known."""
    alpha, sigma = float(model.sde.alpha(t)), float(model.sde.sigma(t))
    if model.statistics is None:
        return sigma * noise
    std = float(model.statistics.std)
    return math.hypot(alpha * std, sigma) * noise + alpha * model.statistics.mean.to(noise).reshape(noise.shape[1:])


def _distance(model: ScoreModel, x: Tensor, t: Tensor, index: int) -> float:
    """How far a sample of `x` `(B, ...)` lies from the mean of the prior at t, in its standard deviations."""
    state = x[index : index + 1].double()
    zero = torch.zeros_like(state)
    mean = _prior(model, zero, t)
    return float(((state - mean) / (_prior(model, zero + 1, t) - mean)).abs().max())


def _with_log_prob(
    model: ScoreModel, samples: Samples, first: int, options: dict[str, Any], conditions: Conditions
) -> Samples:
    """The samples with the log-densities of those that arrived."""
    # The likelihood is built on this package.
    from scoresde.likelihood.density import log_likelihood

    x = samples.x
    status = torch.zeros(len(x), device=x.device) if samples.status is None else samples.status
    arrived = status == Status.ARRIVED
    if not bool(arrived.any()):
        nothing = torch.full((len(x),), math.nan, dtype=torch.float64, device=x.device)
        return replace(samples, log_prob=nothing, stderr=nothing.clone())
    # One that arrived in the place of those that did not, which are at no data's time.
    filled = _where_rows(arrived, x, x[arrived][:1])
    found = log_likelihood(model, filled, t_min=float(samples.times[-1]), first=first, **options, **conditions)
    log_prob, stderr = (torch.where(arrived, v, math.nan) for v in (found.log_prob, found.stderr))
    return replace(samples, log_prob=log_prob, stderr=stderr)


def _join(parts: list[Tensor | None]) -> Any:
    return None if parts[0] is None else torch.cat([p for p in parts if p is not None])


def _where_rows(chosen: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Samples of a where `chosen` `(B,)`, of b elsewhere; a and b are `(B, ...)` or broadcast to it."""
    return torch.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), a, b)
