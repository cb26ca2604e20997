"""Samplers side by side on one model: error, sample quality, evaluations and seconds, with common noise.

    frame = compare(model, {"heun": lambda n: Sampler(Heun(), KarrasGrid(n))}, [5, 10, 20], data)
    summarise(frame)

Every sampler starts sample i of a seed from the same normal numbers, scaled to the model's Gaussian at its grid's first
time: what `sampler(model, (n, ...), seed=seed)` starts from.

The error of a deterministic sampler is the root mean square, over the samples, of the Euclidean distance of its
endpoint to the true one: that of the probability-flow ODE from the same start, to the last time of the sampler's own
grid, with the denoising step if the sampler has one. So it is the error of the steps alone. What a sampler loses by
ending early or by not denoising is no error here; it is in the sample quality. For a sampler that adds noise the
error is NaN.
"""

import copy
import hashlib
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.compare.frame import COLUMNS
from scoresde.metrics import PCA, Estimate, frechet_distance, manifold_metrics, sliced_wasserstein
from scoresde.metrics.evaluate import FEWEST
from scoresde.metrics.features import FeatureMap, as_features, paired_features
from scoresde.metrics.units import require_same_units
from scoresde.sampling import Adaptive, ExplicitTimes, Noise, Sampler, Solver
from scoresde.score import Conditions, ScoreModel, in_model_space

__all__ = ["Comparison", "Trial", "ignores_steps", "quality", "root_mean_square"]

SamplerOf = Sampler | Callable[[int], Sampler]

_CHECKED = 32  # starts, the first, of which the reference's own error is measured


@checked
def quality(
    samples: Tensor, data: Tensor, features: PCA | FeatureMap | None = None, same_units: bool = False
) -> dict[str, Estimate]:
    """`METRICS` of samples `(n, ...)` against data `(n, ...)`; see `scoresde.metrics.evaluate_samples`."""
    x, y = paired_features(samples, data, features, FEWEST, same_units)
    distances = frechet_distance(x, y, as_features), sliced_wasserstein(x, y, features=as_features)
    return {e.name: e for e in distances} | manifold_metrics(x, y, features=as_features)


@checked
def root_mean_square(x: Tensor, true: Tensor) -> tuple[float, float]:
    """√(mean d²) of the distances d of samples `(n, ...)` to the true ones, and its standard error.

    The latter by the delta method from the scatter of d², s(d²)/(2 √n √(mean d²)).
    """
    squares = (x.double() - true.double()).flatten(1).square().sum(1)
    root = math.sqrt(float(squares.mean()))
    if root == 0 or len(squares) < 2:
        return root, 0.0 if root == 0 else math.nan
    return root, float(squares.std()) / (2 * math.sqrt(len(squares)) * root)


@checked
def ignores_steps(sampler: Sampler) -> bool:
    """Whether a tolerance decides on the steps, and not the grid."""
    return sampler.solver.adapts


class _Start(Solver):
    """Stays where it is: gives the state that a sampler starts from."""

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        for _ in times[1:]:
            yield x


@dataclass(frozen=True)
class Trial:
    """What a sampler does on one start.

    Attributes:
        nfe: evaluations.
        deterministic: the same start ends in the same place whatever the noise.
    """

    nfe: float
    deterministic: bool


@checked
class Comparison:
    """What all samplers are compared on: a model, held-out data and the true endpoints of common starts.

    Args:
        model: the score model.
        data: `(N, ...)` held-out data, of which the first n are compared with; without, there is no sample quality. As
            what the model gives, they are in the units of its `transform`, or in model space if it has none. Distances
            are of model space always.
        shape: of a sample; the data's, or that of the model's statistics, if not given.
        n: number of samples, at least 7; as many as there are data if not given, 512 without data.
        features: what the metrics look at; see `scoresde.metrics.features.paired_features`.
        postprocess: what is done to samples `(n, ...)` before they are compared with the data, such as rounding to
            the data's levels.
        floor: `(N, ...)` other draws from the distribution of the data, such as training data: what their first n
            score against the data is what a perfect sampler would.
        reference: the solver of the true endpoints, in the model's dtype; if not given, `Adaptive("tsit5")` at
            tolerances of 1e-6, or `Adaptive("dop853")` at 1e-8 for a model in float64.
        batch_size: samples to work on at once; all if not given. It enters the seconds.
        **cond: conditions of the model; tensors have an entry for each of the n samples.

    Attributes:
        ends: true endpoints before denoising, `(n, ...)` by seed, first and last time; kept for the next that asks.
        errors: of these, by seed; see `attrs`.

    Raises:
        ValueError: fewer than n data, fewer than 7 samples, an unknown shape, conditions of another length, or data in
            other units than the model's samples.
    """

    def __init__(
        self,
        model: ScoreModel,
        data: Tensor | None,
        *,
        shape: tuple[int, ...] | None = None,
        n: int | None = None,
        features: PCA | FeatureMap | None = None,
        postprocess: Callable[[Tensor], Tensor] | None = None,
        floor: Tensor | None = None,
        reference: Adaptive | None = None,
        batch_size: int | None = None,
        **cond: Any,
    ) -> None:
        self.n = _count(n, data, floor)
        data, floor = (None if v is None else model.to_model_space(v.detach()) for v in (data, floor))
        # A function of the caller's brings samples to whatever units the data are in.
        self.same_units = postprocess is not None or model.statistics is not None
        _check_units(model, data, floor, postprocess is not None)
        if postprocess is not None and model.transform is not None:
            postprocess = _through(model, postprocess)
        self.model = in_model_space(model)
        self.shape = _shape(model, data, shape)
        self.data = None if data is None else data[: self.n].detach().cpu().double()
        self.features = features
        self.postprocess = postprocess
        method, tolerance = ("dop853", 1e-8) if model.dtype == torch.float64 else ("tsit5", 1e-6)
        self.solver = Adaptive(method, rtol=tolerance, atol=tolerance) if reference is None else reference
        self.batch_size = batch_size
        model.check_shape((self.n, *self.shape))
        self.cond = model.conditions(cond, self.n, model.device)
        self.floor: dict[str, Estimate] = {}
        if self.data is not None and floor is not None:
            self.floor = quality(floor[: self.n].double(), self.data, features)
        self.errors: dict[int, float] = {}
        self.ends: dict[str, Tensor] = {}
        self._warm = False

    # -- true endpoints ---------------------------------------------------------------------------------

    def starts(self, seed: int, first: float) -> Tensor:
        """`(n, ...)`, the states at the time `first` that every sampler starts from."""
        sde = self.model.sde
        last = sde.t_min_sampling if first > sde.t_min_sampling else sde.t_min
        return self._stay(self.model, first, last, shape=(self.n, *self.shape), seed=seed, **self.cond)

    def endpoints(self, seed: int, times: Tensor, denoise: bool) -> Tensor:
        """`(n, ...)`, where the probability flow leads the starts of `times`, `(m,)`, at the last of them.

        The first starts are solved at a tenth of the tolerance beside it: the distance goes into `errors`.
        """
        first, last = float(times[0]), float(times[-1])
        key = f"{seed} {first!r} {last!r}"
        if key not in self.ends:
            x = self.starts(seed, first)
            ends = self._solve(self.model, self.solver, x, first, last)
            some = slice(0, min(self.n, _CHECKED))
            finer = replace(self.solver, rtol=self.solver.rtol / 10, atol=self.solver.atol / 10)
            precise = self._precise()
            checked = self._solve(precise, finer, x[some].to(precise.dtype), first, last)
            error = root_mean_square(ends[some], checked)[0]
            self.errors[seed] = max(error, self.errors.get(seed, 0.0))
            self.ends[key] = ends
        ends = self.ends[key]
        return self._stay(self.model, self.model.sde.t_max, last, True, x_init=ends, **self.cond) if denoise else ends

    def _precise(self) -> ScoreModel:
        """The model in float64, whose round-off is none; or as it is where it cannot be."""
        try:
            made = copy.deepcopy(self.model).double()
            x = torch.zeros(1, *self.shape, dtype=torch.float64, device=made.device)
            with torch.no_grad(), made.evaluating():
                out = made.denoise(x, torch.tensor(made.sde.t_max, dtype=torch.float64), **self._first(1))
        except (RuntimeError, TypeError, ValueError):  # a device or a compiled network without float64
            return self.model
        return made if out.dtype == torch.float64 else self.model

    def _solve(self, model: ScoreModel, solver: Adaptive, x: Tensor, first: float, last: float) -> Tensor:
        sampler = Sampler(replace(solver, strict=True), ExplicitTimes([first, last]), denoise=False)
        options: dict[str, Any] = {"batch_size": self.batch_size, **self._first(len(x))}
        return sampler(model, x_init=x, **options).x

    def _stay(self, model: ScoreModel, first: float, last: float, denoise: bool = False, **options: Any) -> Tensor:
        return Sampler(_Start(), ExplicitTimes([first, last]), denoise)(model, batch_size=self.batch_size, **options).x

    # -- samplers ---------------------------------------------------------------------------------------

    def trial(self, sampler: Sampler, seed: int = 0) -> Trial:
        """One start twice, in one batch: the two have different noise, if any."""
        times = sampler.grid(self.model.sde, self.model.statistics)
        x = self.starts(seed, float(times[0]))[:1]
        cond = self._first(1).repeat(2)
        options: dict[str, Any] = {"seed": seed, **cond}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of samples that stopped, which will be said of all
            out = sampler(self.model, x_init=torch.cat((x, x)), **options)
        # Round-off may differ from row to row of a batch; a step's noise is far more.
        scale = 1e-4 * float(out.x.abs().max())
        same = torch.allclose(out.x[0], out.x[1], rtol=0, atol=scale)
        return Trial(_evaluations(out), same)

    def row(
        self, name: str, sampler: Sampler | Exception, steps: int | None, seed: int, trial: Trial | None = None
    ) -> dict[str, Any]:
        """The line of one sampler and seed; what is wrong with it is its `problem`.

        Args:
            name: of the sampler.
            sampler: or why there is none.
            steps: None where a tolerance decides.
            seed: of starts and noise.
            trial: of the sampler, if there was one.
        """
        row: dict[str, Any] = dict.fromkeys(COLUMNS, math.nan)
        row |= {"sampler": name, "steps": steps, "seed": seed, "n": self.n, "problem": ""}
        if isinstance(sampler, Exception):
            return row | {"problem": one_line(sampler)}
        try:
            # It makes coefficients, too, which are the same for every batch and are kept by some solvers.
            trial = self.trial(sampler, seed) if trial is None else trial
            times = sampler.grid(self.model.sde, self.model.statistics)
        except Exception as error:  # whatever a sampler may raise: the others go on
            return row | {"problem": one_line(error)}
        # Not within: without the true endpoints there is nothing to go on with.
        true = self.endpoints(seed, times, sampler.denoise) if trial.deterministic else None
        try:
            return row | self._measure(sampler, seed, true)
        except Exception as error:
            return row | {"problem": one_line(error)}

    def _measure(self, sampler: Sampler, seed: int, true: Tensor | None) -> dict[str, Any]:
        self._warm_up()
        options: dict[str, Any] = {"seed": seed, "batch_size": self.batch_size, **self.cond}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of samples that stopped: see below
            began = time.perf_counter()
            out = sampler(self.model, (self.n, *self.shape), **options)
            seconds = time.perf_counter() - began
        found: dict[str, Any] = {"nfe": _evaluations(out), "seconds": seconds}
        stopped = 0 if out.status is None else int((out.status != 0).sum())
        if stopped:
            return found | {"problem": f"{stopped} of {self.n} samples stopped on the way"}
        if true is not None:
            found["error"], found["error_stderr"] = root_mean_square(out.x.to(true.device), true)
        if self.data is not None:
            x = out.x.cpu()
            x = self.postprocess(x) if self.postprocess else x
            for e in quality(x, self.data, self.features, self.same_units).values():
                found |= {e.name: e.value, f"{e.name}_stderr": e.stderr}
        return found

    def _warm_up(self) -> None:
        """One evaluation of a whole batch, so that the first sampler does not pay for what is done once."""
        if self._warm:
            return
        size = self.n if self.batch_size is None else min(self.n, self.batch_size)
        x = torch.zeros(size, *self.shape, dtype=self.model.dtype, device=self.model.device)
        with torch.no_grad(), self.model.evaluating():
            self.model.denoise(x, torch.tensor(self.model.sde.t_max, dtype=torch.float64), **self._first(size))
        self._warm = True

    def _first(self, size: int) -> Conditions:
        """The conditions of the first samples."""
        return self.cond.rows(0, size)

    # -- what the figures are of ------------------------------------------------------------------------

    def attrs(self) -> dict[str, Any]:
        """What is kept beside a frame, as plain values.

        `n`, `shape` and `data` (a fingerprint, None without data) say which frames may be compared. `reference` has
        the `method`, `tolerance` and `dtype` of the true endpoints, and their own `error` by seed: the root mean
        square distance of the first 32 to a solve at a tenth of the tolerance, in float64 where the model can.
        `floor` has `[value, stderr]` of each metric for other draws from the data's distribution.
        """
        return {
            "n": self.n,
            "shape": list(self.shape),
            "data": None if self.data is None else fingerprint(self.data),
            "reference": {
                "method": str(self.solver.method),
                "tolerance": self.solver.rtol,
                "dtype": str(self.model.dtype).removeprefix("torch."),
                "error": {str(seed): error for seed, error in sorted(self.errors.items())},
            },
            "floor": {name: [e.value, e.stderr] for name, e in self.floor.items()},
        }


def _through(model: ScoreModel, postprocess: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What `postprocess` does to data, done to samples in model space."""
    return lambda x: model.to_model_space(postprocess(model.to_data_space(x)))


def _count(n: int | None, data: Tensor | None, floor: Tensor | None) -> int:
    if n is None:
        n = 512 if data is None else len(data)
    if isinstance(n, bool) or not isinstance(n, int) or n < FEWEST:
        raise ValueError(f"n is {n!r}, expected a whole number of at least {FEWEST}")
    for name, values in (("data", data), ("floor", floor)):
        if values is not None and len(values) < n:
            raise ValueError(
                f"n is {n} but {name} has {len(values)} samples, and metrics are of equally many on both sides: "
                f"give n={len(values)} or less"
            )
    return n


def _check_units(model: ScoreModel, data: Tensor | None, floor: Tensor | None, postprocessed: bool) -> None:
    """Refuse data that are not in model space: by their dtype, and by the moments of what the model was trained on."""
    for name, values in (("data", data), ("floor", floor)):
        if values is None:
            continue
        if model.statistics is None or postprocessed or values.shape[1:] != model.statistics.mean.shape:
            require_same_units(values.new_zeros(1, dtype=torch.float64), values, ("model's", name))
            continue
        mean = model.statistics.mean.cpu()
        noise = torch.randn(len(values), *mean.shape, dtype=mean.dtype, generator=torch.Generator().manual_seed(0))
        trained_on = mean + model.statistics.std.cpu() * noise
        require_same_units(trained_on, values.detach().cpu(), ("model's", name))


def _shape(model: ScoreModel, data: Tensor | None, shape: tuple[int, ...] | None) -> tuple[int, ...]:
    if shape is not None:
        return tuple(shape)
    if data is not None:
        return tuple(data.shape[1:])
    if model.statistics is not None:
        return tuple(model.statistics.mean.shape)
    raise ValueError("the shape of a sample is not known: give data or shape=(...)")


def _evaluations(out: Any) -> float:
    """Evaluations of a sample; the mean where they differ."""
    return float(out.nfe) if out.nfe_per_sample is None else float(out.nfe_per_sample.double().mean())


def one_line(error: Exception) -> str:
    """An error's message in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def fingerprint(x: Tensor) -> str:
    """16 characters that two tensors share exactly when their shapes and float64 values are the same."""
    values = x.detach().cpu().double().contiguous()
    return hashlib.sha256(str(tuple(values.shape)).encode() + values.numpy().tobytes()).hexdigest()[:16]
