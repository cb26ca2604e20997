"""Posterior samples against the exact posterior: the measures of a method on one problem, over several measurements.

A mixture as the prior with a linear operator and Gaussian noise has posteriors in closed form. So every measure has a
value that exact samples have, and a test of whether what was seen can be chance. `MEANINGS` of the frame says what is
measured.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.certificate.mixtures import density, draws, generator, moments
from scoresde.certificate.moments import covariance_error, mean_error, spread
from scoresde.certificate.ranks import corrected, counts, covered, places, uniformity
from scoresde.certificate.verdicts import LEVEL, above_chance, differs
from scoresde.inverse import ExactPosterior, Measurement, Method, Problem
from scoresde.inverse.counted import CountedModel
from scoresde.inverse.restored import restore
from scoresde.metrics import Mixture, kl_divergences, sliced_wasserstein
from scoresde.metrics.divergences import FEWEST_FITTED
from scoresde.numerics.means import mean_and_error
from scoresde.numerics.values import at_least
from scoresde.score import GaussianMixtureScore

__all__ = ["LEVELS", "PosteriorExam"]

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""The levels of the central credible intervals whose coverage is measured."""
_TRUTHS = 8  # truths for each measurement, each with samples of its own
_DIRECTIONS = 128  # of the sliced distance
_AXES = 8  # principal axes of a posterior along which truths are ranked
_LEAST_WEIGHT = 0.02  # of a mode that has to be found, or that of ten samples if this is more
_FOUND = 0.2  # share of its weight that a mode has to have
_REFERENCE, _OTHER, _TRUTH, _POINT, _PLACE = range(5)  # uses of the seed


@dataclass(frozen=True)
class _Known:
    """What is known of the posterior of one measurement, with samples as vectors of D numbers.

    Attributes:
        mixture: Its density; None where it has none.
        weights: The weights of its modes.
        mean: Its mean.
        covariance: Its covariance.
        axes: Directions `(D, a)` of unit length along which truths are ranked.
        reference: Exact samples, which all sets of samples are compared with.
        floor: The sliced Wasserstein distance of other exact samples from these.
        truths: Truths `(R, D)`.
        points: A point for each truth, from the prior.
    """

    mixture: Mixture | None
    weights: Tensor
    mean: Tensor
    covariance: Tensor
    axes: Tensor
    reference: Tensor
    floor: float
    truths: Tensor
    points: Tensor


@checked
class PosteriorExam:
    """A problem on which posterior samplers are examined: several measurements, each with its exact posterior.

    Args:
        prior: The mixture.
        problem: The problem, of a linear operator and of Gaussian noise or none.
        measurements: The number of measurements, each of a draw from the prior.
        samples: The number of posterior samples of each measurement.
        seed: Seed of the draws, the measurements and the samples.

    Attributes:
        measurement: The measurements.

    Raises:
        ValueError: A problem whose posterior is no mixture, fewer than 2 measurements, or fewer than 40 samples.
    """

    def __init__(
        self,
        prior: GaussianMixtureScore,
        problem: Problem,
        *,
        measurements: int = 16,
        samples: int = 512,
        seed: int = 0,
    ) -> None:
        at_least("measurements", measurements, 2)
        at_least("samples", samples, 2 * FEWEST_FITTED)
        self.prior, self.problem, self.samples, self.seed = prior, problem, samples, seed
        posterior = ExactPosterior(prior, problem)
        x = draws(prior, measurements, generator(seed, _TRUTH, 0)).reshape(measurements, *problem.operator.shape)
        self.measurement: Measurement = problem.measure(x, seed)
        self._known = [self._learn(posterior.given(y), i) for i, y in enumerate(self.measurement.y)]

    def _learn(self, posterior: GaussianMixtureScore, i: int) -> _Known:
        n, seed = self.samples, self.seed
        mean, covariance = moments(posterior)
        vectors = torch.linalg.eigh(covariance).eigenvectors
        dimension = len(mean)
        chosen = torch.linspace(0, dimension - 1, min(_AXES, dimension)).round().long()
        reference = draws(posterior, n, generator(seed, _REFERENCE, i))
        other = draws(posterior, n, generator(seed, _OTHER, i))
        return _Known(
            density(posterior),
            posterior.weights.cpu().double(),
            mean,
            covariance,
            vectors[:, chosen],
            reference,
            sliced_wasserstein(other, reference, _DIRECTIONS).value,
            draws(posterior, _TRUTHS, generator(seed, _TRUTH, i + 1)),
            draws(self.prior, _TRUTHS, generator(seed, _POINT, i)),
        )

    def __len__(self) -> int:
        """The number of measurements."""
        return len(self._known)

    def run(self, method: Method, steps: int, *, batch_size: int | None = None) -> dict[str, Any]:
        """Draw with a method and measure, as `measure` does; with the cost of a sample and the seconds of all.

        Args:
            method: The method.
            steps: Its number of steps.
            batch_size: The number of samples to work on at once; all if not given.

        Raises:
            ValueError: A problem that is none for the method, or samples that are not finite.
        """
        counted = CountedModel(self.prior)
        method.check(counted, self.measurement)
        began = time.perf_counter()
        out = restore(
            counted,
            self.measurement,
            method,
            samples=self.samples,
            steps=steps,
            seed=self.seed,
            batch_size=batch_size,
        )
        seconds = time.perf_counter() - began
        evaluations, products = counted.cost.each(len(self) * self.samples)
        return {"nfe": evaluations, "vjp": products, "seconds": seconds, **self.measure(out.x)}

    def measure(self, x: Tensor) -> dict[str, Any]:
        """The measured columns of a row for samples `(M, n, ...)`, n for each of the M measurements.

        Raises:
            ValueError: Samples of another shape, or that are not finite.
        """
        expected = (len(self), self.samples, *self.problem.operator.shape)
        if tuple(x.shape) != expected:
            raise ValueError(f"samples have shape {tuple(x.shape)}, expected {expected}")
        x = x.detach().cpu().double().flatten(2)
        broken = int((~x.isfinite().all(2)).sum())
        if broken:
            raise ValueError(f"{broken} of {len(self) * self.samples} samples are not finite")
        each = [self._one(samples, known) for samples, known in zip(x, self._known, strict=True)]
        values = {name: torch.tensor([row[name] for row in each], dtype=torch.float64) for name in each[0]}
        ranked, distances = zip(*(self._places(x[i], i) for i in range(len(self))), strict=True)
        return _summarised(values, torch.stack(ranked), torch.stack(distances))

    def _one(self, x: Tensor, known: _Known) -> dict[str, float]:
        """The measures of the samples `(n, D)` of one measurement."""
        found = {
            "sw2": sliced_wasserstein(x, known.reference, _DIRECTIONS).value,
            "floor": known.floor,
            "mean_error": mean_error(x, known.mean, known.covariance),
            "covariance_error": covariance_error(x, known.covariance),
            "spread": spread(x, known.covariance),
            **dict.fromkeys(("kl", "kl_from", "modes", "weights", "weights_floor"), math.nan),
        }
        if known.mixture is not None:
            divergences = kl_divergences(x, known.reference, known.mixture)
            found["kl"], found["kl_from"] = divergences.to_model.value, divergences.to_samples.value
            shares = known.mixture.log_joint(x).softmax(1).mean(0)
            exact = known.mixture.log_joint(known.reference).softmax(1).mean(0)
            found["modes"] = _found(shares, known.weights, len(x))
            found["weights"] = float((shares - known.weights).abs().sum() / 2)
            found["weights_floor"] = float((exact - known.weights).abs().sum() / 2)
        return found

    def _places(self, x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """The places of the truths among the samples `(n, D)` of measurement i, along the axes and in density
        `(F, R)`, and in their distance to the points `(R,)`."""
        known = self._known[i]
        # Each truth has samples of its own, so that their places are independent.
        blocks = x[: len(x) // _TRUTHS * _TRUTHS].reshape(-1, _TRUTHS, x.shape[1]).transpose(0, 1)  # (R, L, D)
        truth, samples = known.truths @ known.axes, blocks @ known.axes
        values = [(truth[:, k], samples[:, :, k]) for k in range(known.axes.shape[1])]
        if known.mixture is not None:
            dense = known.mixture.log_prob(blocks.flatten(0, 1)).reshape(blocks.shape[:2])
            values.append((known.mixture.log_prob(known.truths), dense))
        apart = (known.truths - known.points).norm(dim=1), (blocks - known.points[:, None]).norm(dim=2)
        random = generator(self.seed, _PLACE, i)
        return torch.stack([places(a, b, random) for a, b in values]), places(*apart, random)


def _found(shares: Tensor, weights: Tensor, n: int) -> float:
    """The share of the modes of some weight that have samples."""
    counted = weights >= min(max(_LEAST_WEIGHT, 10 / n), float(weights.max()))
    return float((shares[counted] >= _FOUND * weights[counted]).double().mean())


def _summarised(values: Mapping[str, Tensor], ranked: Tensor, distances: Tensor) -> dict[str, Any]:
    """The columns of a row from the values `(M,)` of the measurements and the places `(M, F, R)` and `(M, R)`."""
    row: dict[str, Any] = {}

    def add(name: str, each: Tensor) -> None:
        row[name], row[f"{name}_stderr"] = mean_and_error(each)

    for name in ("sw2", "floor", "kl", "kl_from", "spread", "modes", "weights", "weights_floor"):
        add(name, values[name])
    add("excess", values["sw2"] - values["floor"])
    for name in ("mean_error", "covariance_error"):
        row[name], row[f"{name}_stderr"] = _root(values[name])
    dense = not math.isnan(row["kl"])
    axes = ranked[:, : ranked.shape[1] - dense]
    for level in LEVELS:
        add(f"coverage_{100 * level:.0f}", covered(axes, level).mean((1, 2)))
    row["sbc_p"] = corrected([uniformity(ranked[:, k])[1] for k in range(ranked.shape[1])])
    row["tarp"], row["tarp_p"] = uniformity(distances)
    # Axes go by increasing variance.
    shown = {"widest": axes[:, -1], "narrowest": axes[:, 0], "density": ranked[:, -1] if dense else None}
    for name, place in {**shown, "distance": distances}.items():
        row[f"ranks_{name}"] = "" if place is None else " ".join(map(str, counts(place)))
    tests = {
        "sw2": above_chance(values["sw2"] - values["floor"]),
        "kl": min(above_chance(values["kl"]), above_chance(values["kl_from"])),
        "mean": above_chance(values["mean_error"]),
        "covariance": above_chance(values["covariance_error"]),
        "spread": differs(values["spread"].log()),
        "sbc": row["sbc_p"],
        "tarp": row["tarp_p"],
        "modes": above_chance(values["weights"] - values["weights_floor"]),
    }
    row["deviates"] = " ".join(name for name, p in tests.items() if p < LEVEL)
    return row


def _root(squares: Tensor) -> tuple[float, float]:
    """The root of the mean of squares that may be negative by chance, and its standard error."""
    mean, error = mean_and_error(squares)
    root = math.sqrt(max(mean, 0.0))
    # Near 0 the error of the root is the root of that of the square.
    return root, error / (2 * max(root, math.sqrt(error) / 2)) if error > 0 else 0.0
