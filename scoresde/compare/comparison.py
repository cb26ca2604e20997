"""Samplers side by side on one model: error, sample quality, evaluations and seconds, with common noise.

Every sampler starts sample i of a seed from the same normal numbers, scaled to the model's Gaussian at the first time
of its grid: from the same state as `sampler(model, (n, ...), seed=seed)`.

The error of a deterministic sampler is the root mean square, over the samples, of the Euclidean distance of its
endpoint to the true one: that of the probability-flow ODE from the same start, to the last time of the sampler's own
grid, with the denoising step if the sampler has one. So it is the error of the steps alone. What a sampler loses by
ending early or by not denoising is not in this error; it is in the sample quality. For a sampler that adds noise the
error is NaN.
"""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.compare.exact import ExactReference
from scoresde.compare.frame import COLUMNS
from scoresde.compare.measures import fingerprint, quality, root_mean_square
from scoresde.compare.own_density import OwnDensity
from scoresde.compare.true_ends import TrueEnds
from scoresde.metrics import PCA, Estimate, PrincipalDirections
from scoresde.metrics.divergences import FEWEST_FITTED
from scoresde.metrics.evaluate import FEWEST
from scoresde.metrics.features import FeatureMap
from scoresde.metrics.units import require_same_units
from scoresde.sampling import Adaptive, Sampler
from scoresde.score import Conditions, GaussianMixtureScore, ScoreModel, in_model_space

__all__ = ["Comparison", "Trial", "ignores_steps"]

# Largest product of samples, components and sizes of their covariances for which divergences are estimated in each row:
# some seconds.
_DIVERGENCES = 10**10

SamplerOf = Sampler | Callable[[int], Sampler]


@checked
def ignores_steps(sampler: Sampler) -> bool:
    """True if a tolerance decides on the sampler's steps; False if its grid does."""
    return sampler.solver.adapts


@dataclass(frozen=True)
class Trial:
    """The result of a sampler on one start.

    Attributes:
        nfe: The number of evaluations.
        deterministic: Whether the same start ends in the same place whatever the noise.
    """

    nfe: float
    deterministic: bool


@checked
class Comparison:
    """The common ground of compared samplers: a model, held-out data, and the true endpoints of common starts.

    Args:
        model: The score model.
        data: Held-out data, `(N, ...)`, of which the first n are used; without data there is no sample quality. They
            are in the units of the model's `transform`, or in model space if it has none. Distances are always those of
            model space.
        shape: The shape of a sample; that of the data, or of the model's statistics, if not given.
        n: The number of samples, at least 7; that of the data if not given, and 512 without data.
        features: The features that the metrics compare; see `scoresde.metrics.features.paired_features`.
        postprocess: A function that is applied to samples `(n, ...)` before they are compared with the data, such as
            rounding to the data's levels.
        floor: Other draws from the distribution of the data, `(N, ...)`, such as training data: the metrics of the
            first n of them are those of a perfect sampler.
        reference: The solver of the true endpoints, in the model's dtype; if not given, `Adaptive("tsit5")` at
            tolerances of 1e-6, or `Adaptive("dop853")` at 1e-8 for a model in float64.
        batch_size: The number of samples to work on at once; all if not given. It affects the seconds.
        directions: Principal directions of the data, with their variances, along which widths are compared. If not
            given, those of the exact density, or of the model's statistics with the variances of the data, or those
            found in the data; see `scoresde.metrics.spectrum`.
        likelihood: The number of samples whose log-density is compared with that of exact samples of the model, by the
            model's own likelihood; see `scoresde.compare.own_density`. An exact density is used for all if it is known.
        **cond: Conditions of the model; tensors have an entry for each of the n samples.

    Attributes:
        ends: The true endpoints that are cached; see `TrueEnds`.
        errors: The errors of the true endpoints by seed; see `TrueEnds`.
        exact: The exact density of a `GaussianMixtureScore`; rows then have all measures of it.

    Raises:
        ValueError: Fewer than n data, fewer than 7 samples, an unknown shape, conditions of another length, or data in
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
        directions: PrincipalDirections | None = None,
        likelihood: int = 0,
        **cond: Any,
    ) -> None:
        self.n = _count(n, data, floor)
        data, floor = (None if v is None else model.to_model_space(v.detach()) for v in (data, floor))
        # A postprocess of the caller may bring samples to any units that the data have.
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
        self.exact = _exact(self.model, self.n)
        if directions is None and self.exact is not None:
            directions = self.exact.directions
        self.directions = self._directions() if directions is None else directions
        self.floor: dict[str, Estimate] = {} if self.exact is None else {**self.exact.floor}
        if self.data is not None and floor is not None:
            self.floor |= quality(floor[: self.n].double(), self.data, features, directions=self.directions)
        self.true = TrueEnds(self.model, self.solver, (self.n, *self.shape), self.cond, batch_size)
        if likelihood != 0 and not 2 <= likelihood <= self.n:
            raise ValueError(f"likelihood is {likelihood}, expected 0 or 2 to {self.n} of the samples")
        own = likelihood if self.exact is None else 0
        self.own_density = OwnDensity(self.model, self.true, own, self.cond) if own else None
        self.ends, self.errors = self.true.ends, self.true.errors
        self._warm = False

    def starts(self, seed: int, first: float) -> Tensor:
        """`(n, ...)`, the states at the time `first` that every sampler starts from."""
        return self.true.starts(seed, first)

    def endpoints(self, seed: int, times: Tensor, denoise: bool) -> Tensor:
        """`(n, ...)`, the true endpoints; see `TrueEnds.endpoints`."""
        return self.true.endpoints(seed, times, denoise)

    def trial(self, sampler: Sampler, seed: int = 0) -> Trial:
        """Solve for one start twice in one batch; the two have different noise, if any."""
        times = sampler.grid(self.model.sde, self.model.step_statistics)
        x = self.starts(seed, float(times[0]))[:1]
        cond = self._first(1).repeat(2)
        options: dict[str, Any] = {"seed": seed, **cond}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of samples that stopped, which will be said of all
            out = sampler(self.model, x_init=torch.cat((x, x)), **options)
        # Round-off may differ between the rows of a batch; the noise of a step is far larger.
        scale = 1e-4 * float(out.x.abs().max())
        same = torch.allclose(out.x[0], out.x[1], rtol=0, atol=scale)
        return Trial(_evaluations(out), same)

    def row(
        self, name: str, sampler: Sampler | Exception, steps: int | None, seed: int, trial: Trial | None = None
    ) -> dict[str, Any]:
        """The row of one sampler and seed; the message of a failure is its `problem`.

        Args:
            name: The name of the sampler.
            sampler: The sampler, or the exception that its construction raised.
            steps: The number of steps; None if a tolerance decides on them.
            seed: The seed of starts and noise.
            trial: The trial of the sampler, if there was one.
        """
        row: dict[str, Any] = dict.fromkeys(COLUMNS, math.nan)
        row |= {"sampler": name, "steps": steps, "seed": seed, "n": self.n, "problem": ""}
        if isinstance(sampler, Exception):
            return row | {"problem": one_line(sampler)}
        try:
            # It also tabulates the coefficients that some solvers keep for every batch, so that they cost no seconds.
            trial = self.trial(sampler, seed) if trial is None else trial
            times = sampler.grid(self.model.sde, self.model.step_statistics)
        except Exception as error:  # a failure of one sampler is its row's problem and does not stop the others
            return row | {"problem": one_line(error)}
        # Outside of the try: without the true endpoints no sampler can be compared.
        true = self.endpoints(seed, times, sampler.denoise) if trial.deterministic else None
        try:
            return row | self._measure(sampler, seed, true)
        except Exception as error:
            return row | {"problem": one_line(error)}

    def _measure(self, sampler: Sampler, seed: int, true: Tensor | None) -> dict[str, Any]:
        """The measured columns of a row."""
        self._warm_up()
        options: dict[str, Any] = {"seed": seed, "batch_size": self.batch_size, **self.cond}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of samples that stopped: see below
            began = time.perf_counter()
            out = sampler(self.model, (self.n, *self.shape), **options)
            seconds = time.perf_counter() - began
        measured: dict[str, Any] = {"nfe": _evaluations(out), "seconds": seconds}
        stopped = 0 if out.status is None else int((out.status != 0).sum())
        if stopped:
            return measured | {"problem": f"{stopped} of {self.n} samples stopped on the way"}
        if true is not None:
            measured["error"], measured["error_stderr"] = root_mean_square(out.x.to(true.device), true)
        if self.exact is not None:
            for e in self.exact(out.x).values():
                measured |= {e.name: e.value, f"{e.name}_stderr": e.stderr}
        if self.own_density is not None:
            lost = self.own_density(out.x)
            measured |= {"nats_lost": lost.value, "nats_lost_stderr": lost.stderr}
        if self.data is not None:
            x = out.x.cpu()
            x = self.postprocess(x) if self.postprocess else x
            for e in quality(x, self.data, self.features, self.same_units, self.directions).values():
                measured |= {e.name: e.value, f"{e.name}_stderr": e.stderr}
        return measured

    def _directions(self) -> PrincipalDirections | None:
        """The principal directions of the training data, with the variances of the held-out ones."""
        if self.data is None or callable(self.features):
            return None
        known = self.model.statistics
        if known is None or known.covariance is None or known.shape != tuple(self.data.shape[1:]):
            return PrincipalDirections.fit(self.data)
        return PrincipalDirections.along(known.eigh()[1], self.data)

    def _warm_up(self) -> None:
        """Evaluate a whole batch once, so that one-time costs are not in the seconds of the first sampler."""
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

    def attrs(self) -> dict[str, Any]:
        """The attributes of a frame, as plain values.

        `n`, `shape` and `data` (a fingerprint, None without data) say which frames may be compared. `reference` has the
        `method`, `tolerance` and `dtype` of the true endpoints, and their `error` by seed: the root mean square
        distance of the first 32 to a solve at a tenth of the tolerance, in float64 if the model can be converted.
        `floor` has `[value, stderr]` of each metric for other draws from the data's distribution, and `exact` names
        those of which they are draws from an exact density.
        """
        exact = {} if self.exact is None else self.exact.floor
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
            "exact": [name for name, e in exact.items() if self.floor[name] is e],
        }


def _exact(model: ScoreModel, n: int) -> ExactReference | None:
    """The exact density and n exact samples, if the model is a mixture."""
    if not (isinstance(model, GaussianMixtureScore) and model.exact) or n < FEWEST_FITTED:
        return None
    turned = 1 if model.rotations is None else model.means.shape[1]
    return ExactReference(model, n, divergences=n * model.means.numel() * turned <= _DIVERGENCES)


def _through(model: ScoreModel, postprocess: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The function `postprocess` of data, for samples in model space."""
    return partial(_in_model_space_after, model, postprocess)


def _in_model_space_after(model: ScoreModel, postprocess: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return model.to_model_space(postprocess(model.to_data_space(x)))


def _count(n: int | None, data: Tensor | None, floor: Tensor | None) -> int:
    """The number of samples, checked against the number of data."""
    if n is None:
        n = 512 if data is None else len(data)
    if isinstance(n, bool) or not isinstance(n, int) or n < FEWEST:
        raise ValueError(f"n is {n!r}, expected an integer of at least {FEWEST}")
    for name, values in (("data", data), ("floor", floor)):
        if values is not None and len(values) < n:
            raise ValueError(
                f"n is {n} but {name} has {len(values)} samples, and metrics are of equally many on both sides: "
                f"give n={len(values)} or less"
            )
    return n


def _check_units(model: ScoreModel, data: Tensor | None, floor: Tensor | None, postprocessed: bool) -> None:
    """Reject data that are not in model space, by their dtype and by the moments of the training data."""
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
    """The number of evaluations of a sample, or its mean if samples differ."""
    return float(out.nfe) if out.nfe_per_sample is None else float(out.nfe_per_sample.double().mean())


def one_line(error: Exception) -> str:
    """An error's message in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
