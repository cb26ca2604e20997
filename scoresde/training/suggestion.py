"""Noise levels and Langevin steps that suit a data set, with the reason for each.

They are techniques 1, 2 and 4 of Song & Ermon 2020 as functions of the data. The ends of the noise serve every
variance-exploding SDE, and what is left of the signal at the end of the noise gives β_max of a variance-preserving one.
"""

import math
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from scoresde.arguments import as_tensor, checked
from scoresde.data import Data, Discrete, Identity, Transform
from scoresde.data.rows import Values, blocks
from scoresde.metrics.distances import largest_distance
from scoresde.numerics.html import table
from scoresde.numerics.values import fraction, positive, whole_number
from scoresde.sde import VPSDE
from scoresde.sde.noise_levels import annealed_variance, langevin_step, level_count, level_overlap, level_ratio
from scoresde.statistics import Statistics

__all__ = ["Suggestion", "end_divergence", "suggest"]

# σ_min in units of the range of discrete data, the paper's 0.01 for images in [0, 1], or of the narrowest direction.
_SMALL = 0.01
# And in standard deviations of discrete data, above which `scoresde.training.noise_range` warns.
_SMALL_STDS = 0.03
# The bound of `scoresde.sde.VPSDE`, from Ho et al. 2020, and the time at which it is sampled to the end.
_BETA_MIN, _T_MIN = 0.1, 1e-3
# Levels that are farther apart than this would need many Langevin steps, even where they overlap.
_MOST = 2.0
# Samples for each dimension, from which on the narrowest direction is known to about a third.
_ENOUGH = 10
_BATCH = 4096  # samples that are encoded at once
_ELEMENTS = 2**28  # of all samples that are looked at: 1 GiB


@dataclass(frozen=True)
class Suggestion:
    """Settings that suit a data set; in a notebook, and as text, a table with the reasons.

    Attributes:
        name: Name of the data.
        sigma_min: Smallest noise level.
        sigma_max: Largest noise level.
        levels: Number of noise levels in geometric sequence.
        ratio: Ratio γ of neighbouring levels.
        steps: Number T of Langevin steps at each level.
        epsilon: Langevin step ε at the smallest level, for `sampler=ncsnv2`.
        beta_min: β of a VP SDE at t = 0.
        beta_max: β of a VP SDE at t = 1.
        reasons: The reason for each, by its name.
    """

    name: str
    sigma_min: float
    sigma_max: float
    levels: int
    ratio: float
    steps: int
    epsilon: float
    beta_min: float
    beta_max: float
    reasons: dict[str, str] = field(repr=False, compare=False)

    @property
    def overrides(self) -> dict[str, str]:
        """Overrides of `scoresde train` for each process, ready for the shell."""
        ends = f"sde.sigma_min={self.sigma_min:g} sde.sigma_max={self.sigma_max:g}"
        langevin = f"sampler.solver.steps={self.steps} sampler.solver.epsilon={self.epsilon:g}"
        return {
            "VE": f"sde=ve {ends}",
            "NCSNv2": f"sde=ncsn sde.levels={self.levels} {ends} preconditioning=noise_scaled objective=simple "
            f"sampler=ncsnv2 sampler.grid.steps={self.levels - 1} {langevin}",
            "VP": f"sde=vp sde.beta_min={self.beta_min:g} sde.beta_max={self.beta_max:g}",
        }

    def rows(self) -> list[tuple[str, str, str]]:
        """Name, value and reason of each setting."""
        shown = [f.name for f in fields(self) if f.name not in ("name", "reasons")]
        return [(name, f"{getattr(self, name):g}", self.reasons[name]) for name in shown]

    def __str__(self) -> str:
        lines = [f"{name:<10} {value:<9} {reason}" for name, value, reason in self.rows()]
        return "\n".join([self.name, *lines, "", *(f"{name}: {text}" for name, text in self.overrides.items())])

    def _repr_html_(self) -> str:
        rows = [(name, f"{value}: {reason}") for name, value, reason in self.rows()]
        return table(f"Suggestion for {self.name}", rows, "; ".join(self.overrides.values()))


@checked
def suggest(
    data: Data | Tensor,
    steps: int = 5,
    overlap: float = 0.5,
    nats: float = 0.01,
    sigma_min: float | None = None,
    samples: int | None = 5000,
    seed: int = 0,
) -> Suggestion:
    """Noise levels, Langevin steps and β's that suit the training data.

    Args:
        data: The data, or samples `(N, ...)` in model space.
        steps: Number T of Langevin steps at each level, as many as can be paid for.
        overlap: Share of a level's draws whose radius belongs to the next larger level.
        nats: Largest divergence of the noised data from the prior of a VP SDE at the end.
        sigma_min: Smallest noise level; if not given, a hundredth of the range of discrete data or 0.03 standard
            deviations, if that is less; for others a hundredth of the standard deviation of the narrowest direction.
        samples: Number of samples all of whose distances are found; None for all samples, at a cost of N² D. Of more
            samples the largest distance is bounded from below, by the farthest from these and back again.
        seed: Seed of the choice of these samples.

    Raises:
        ValueError: Settings out of their ranges, fewer than two samples, or samples that are all equal.

    >>> found = suggest(torch.randn(1000, 64, generator=torch.Generator().manual_seed(0)))
    >>> found.levels, found.overrides["VE"]
    (28, 'sde=ve sde.sigma_min=0.0076 sde.sigma_max=16')

    References:
        Song & Ermon 2020, Improved techniques for training score-based generative models,
            https://arxiv.org/abs/2006.09011
    """
    positive("nats", nats, "a positive number of nats")
    fraction("overlap", overlap)
    steps = whole_number("steps", steps)
    samples = None if samples is None else whole_number("samples", samples, at_least=2)
    name, x, transform = _in_model_space(data, seed)
    statistics = Statistics.estimate(x.reshape(len(x), -1))
    reasons: dict[str, str] = {}
    low = _smallest(statistics, len(x), transform, reasons) if sigma_min is None else _given(sigma_min, reasons)
    high = _largest(x, samples, seed, statistics, reasons)
    if not low < high:
        raise ValueError(f"sigma_min is {low:g}, and the largest distance between samples {high:g}: give a smaller one")
    levels, ratio = _levels(low, high, statistics.dim, overlap, reasons)
    step = langevin_step(ratio, steps)
    epsilon = _rounded(step * low**2)
    reasons["steps"] = "as given: as many as can be paid for (technique 4)"
    reasons["epsilon"] = (
        f"ε = {step:.3g} σ_min²: of steps of one size it brings the variance closest to that of the next level, to "
        f"{annealed_variance(step, ratio, steps):.3g} times (technique 4)"
    )
    beta_min, beta_max = _betas(statistics, low, nats, reasons)
    return Suggestion(name, low, high, levels, ratio, steps, epsilon, beta_min, beta_max, reasons)


def _in_model_space(data: Data | Tensor, seed: int) -> tuple[str, Tensor, Transform]:
    """Name, training samples `(N, D)` in float32, as many as fit in `_ELEMENTS`, and transform of the data."""
    if isinstance(data, Data):
        name, transform = data.name, data.transform
        x: Values = data.train
    else:
        x, transform = as_tensor("data", data), Identity()
        if x.ndim < 2 or len(x) < 2:
            raise ValueError(f"data has shape {tuple(x.shape)}, expected at least two samples (N, ...)")
        name = f"{len(x):,} samples of shape {tuple(x.shape[1:])}"
        x = x if x.is_floating_point() else x.float()
    most = max(2, _ELEMENTS // x[0].numel())
    if len(x) > most:
        x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:most]]
        name = f"{name}, {most:,} samples of it"
    return name, torch.cat([transform.encode(part).float().flatten(1) for part in blocks(x, _BATCH)]), transform


def _rounded(value: float, up: bool = False) -> float:
    """A value to two digits."""
    digits = 1 - math.floor(math.log10(value))
    near = float(f"{value:.1e}")
    if not up or near >= value:
        return near
    return round(near + 10.0**-digits, digits)


def _given(sigma_min: float, reasons: dict[str, str]) -> float:
    positive("sigma_min", sigma_min)
    reasons["sigma_min"] = "as given"
    return sigma_min


def _smallest(statistics: Statistics, count: int, transform: Transform, reasons: dict[str, str]) -> float:
    if isinstance(transform, Discrete):
        width, std = _SMALL * (transform.high - transform.low), _SMALL_STDS * float(statistics.std)
        reasons["sigma_min"] = (
            f"a hundredth of the range from {transform.low:g} to {transform.high:g}, as 0.01 is of the paper's [0, 1]"
            if width <= std
            else f"{_SMALL_STDS:g} of the data's standard deviation, {float(statistics.std):.3g}; a hundredth of their "
            f"range, as 0.01 is of the paper's [0, 1], would be {width:.2g}"
        )
        return _rounded(min(width, std))
    if count < _ENOUGH * statistics.dim:
        std = float(statistics.std)
        reasons["sigma_min"] = (
            f"a hundredth of the standard deviation, {std:.3g}; {count:,} samples are too few to tell the narrowest of "
            f"{statistics.dim:,} directions"
        )
        return _rounded(_SMALL * std)
    narrow = statistics.narrowest_std
    reasons["sigma_min"] = f"a hundredth of the standard deviation {narrow:.3g} of the narrowest direction of the data"
    return _rounded(_SMALL * narrow)


def _largest(x: Tensor, samples: int | None, seed: int, statistics: Statistics, reasons: dict[str, str]) -> float:
    found = largest_distance(x, samples, seed)
    whole = samples is None or samples >= len(x)
    among = (
        f"two of the {len(x):,} training samples"
        if whole
        else f"two of the {len(x):,} training samples, of which {samples:,} were compared with each other and their "
        f"farthest with all; at most {2 * float((x - statistics.mean.to(x)).norm(dim=1).max()):.3g}"
    )
    high = _rounded(found, up=True)
    apart = 0.5 * _second_moment(statistics) / high**2
    reasons["sigma_max"] = (
        f"the largest distance, {found:.4g}, between {among} (technique 1); the noised data are then within "
        f"{apart:.2g} nats of the prior"
    )
    return high


def _levels(low: float, high: float, dim: int, overlap: float, reasons: dict[str, str]) -> tuple[int, float]:
    wanted = level_ratio(dim, overlap)
    levels = level_count(low, high, min(wanted, _MOST))
    ratio = (high / low) ** (1 / (levels - 1))
    shared = level_overlap(ratio, dim)
    if wanted > _MOST:
        reasons["levels"] = (
            f"ratios of at most {_MOST:g}, so that a few Langevin steps lead from one level to the next: in {dim} "
            f"dimensions levels overlap by {overlap:g} up to a ratio of {wanted:.3g} (technique 2)"
        )
    else:
        reasons["levels"] = f"the fewest that overlap by {overlap:g} in {dim} dimensions (technique 2)"
    reasons["ratio"] = f"(σ_max/σ_min)^(1/{levels - 1}); neighbouring levels then overlap by {shared:.3g}"
    return levels, ratio


def _second_moment(statistics: Statistics) -> float:
    """E‖x₀‖²."""
    return float(statistics.mean.square().sum() + statistics.dim * statistics.std.double() ** 2)


def end_divergence(squared_signal: float, second_moment: float, dim: int) -> float:
    """A bound in nats on the divergence of the noised data of a VP SDE from N(0, I), for α² at the end.

    By convexity it is at most the mean divergence of the kernels,

        KL(p_t ‖ N(0, I)) ≤ ½ [α² E‖x₀‖² − D (α² + log(1 − α²))].

    Args:
        squared_signal: α² at the end, below 1.
        second_moment: E‖x₀‖² of the data.
        dim: Number D of elements of a sample.

    >>> round(end_divergence(0.5, 2.0, 2), 4)  # N(0, I) itself, for which the bound is not tight
    0.6931
    """
    return 0.5 * (squared_signal * second_moment - dim * (squared_signal + math.log1p(-squared_signal)))


def _betas(statistics: Statistics, sigma_min: float, nats: float, reasons: dict[str, str]) -> tuple[float, float]:
    from scipy.optimize import brentq

    second, dim = _second_moment(statistics), statistics.dim

    def excess(log_signal: float) -> float:
        return math.log(end_divergence(math.exp(log_signal), second, dim) / nats)

    # Up to α² = 1/2, beyond which little of a diffusion would be left.
    top, bottom = math.log(0.5), -200.0
    if excess(bottom) >= 0:
        raise ValueError(f"nats is {nats:g}, expected more than {nats * math.exp(excess(bottom)):.2g}")
    log_signal = top if excess(top) < 0 else float(brentq(excess, bottom, top))
    beta_max = _rounded(-2 * log_signal - _BETA_MIN, up=True)
    # Noise at the time where sampling stops: σ²/α² = e^B − 1 with B = β_min t + ½ (β_max − β_min) t².
    wanted = (math.log1p(sigma_min**2) - 0.5 * beta_max * _T_MIN**2) / (_T_MIN - 0.5 * _T_MIN**2)
    beta_min = min(_BETA_MIN, max(_rounded(wanted), 1e-3)) if wanted > 0 else 1e-3
    t = torch.tensor([_T_MIN, 1.0], dtype=torch.float64)
    sde = VPSDE(beta_min, beta_max)
    level, signal = float(sde.noise_level(t)[0]), float(sde.alpha(t)[1])
    reasons["beta_min"] = (
        f"σ/α is {level:.2g} at t = {_T_MIN:g}, where sampling stops, and σ_min = {sigma_min:g}; at most 0.1"
    )
    reasons["beta_max"] = (
        f"α is {signal:.2g} at t = 1, and the noised data are within "
        f"{end_divergence(signal**2, second, dim):.2g} nats of the prior N(0, I); at most {nats:g} are asked for"
    )
    return beta_min, beta_max
