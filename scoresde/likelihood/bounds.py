"""Lower bounds on the log-density: what of it the reverse-time SDE, or a Markov chain, is sure to have.

With x̃ = x/α and v = (σ/α)² every SDE adds independent noise. Let v₀ and v₁ be those of t_min and t_max, u = v − v₀
the noise added since t_min, x̃_u = x̃ + √u ε, and s the model's ∇ log p of x̃. The process from t_max down that the
model drives, started from π, has at x̃ a density of at least

    log p(x̃) ≥ E[log π(x̃_1)] − ½ ∫ E[‖s‖² + 2 s·ε/√u] du                                                   (1)

(Song, Durkan, Murray & Ermon 2021, arXiv:2101.09258, theorem 3; Kingma et al. 2021, arXiv:2107.00630,
section 5, whose ‖ε̂ − ε‖² has E‖ε‖² = D besides, which diverges at u = 0 and here is taken out).

For normal data N(m, Σ) the scores s_G are known, and so are both sides, which are equal. With r = s − s_G therefore

    log p(x̃) ≥ log N(x̃; m, Σ + v₀) + E[log π(x̃_1) − log N(x̃_1; m, Σ + v₁)] − ½ ∫ E[‖r‖² + 2 r·(s_G + ε/√u)] du.

The first two terms are closed forms for a Gaussian π, and only what is not normal is left to draws. The variable w
with √v = √v₀ cosh w, √u = √v₀ sinh w makes the integrand, times du/dw, one that no end of the interval makes large:
with noise predictions ε̂ = −√v s and d = ε̂ − ε̂_G

    ½ ∫ E[‖r‖² + 2 r·(s_G + ε/√u)] du = ∫ E[h] dw,    h = tanh(w) d·(ε̂ + ε̂_G) − 2 d·ε.                         (2)

A chain on levels u_1 < u_2 < ... < u_N has KL divergences with the same h. See `discrete_elbo`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.likelihood.density import mean_and_error
from scoresde.likelihood.errors import LikelihoodError, remedy
from scoresde.likelihood.flow import Flow
from scoresde.likelihood.inputs import check_batch
from scoresde.likelihood.numbering import NOISES, noise_number
from scoresde.likelihood.options import BOUND_OPTIONS, FlowOptions
from scoresde.likelihood.scaling import CovarianceScaling, ScalarScaling, Spread
from scoresde.numerics.html import mean_with_error, rms, table
from scoresde.numerics.ode import Status
from scoresde.numerics.random import SampleNoise, Stream
from scoresde.score import ScoreModel
from scoresde.sde.coordinates import LogSNR
from scoresde.statistics import Statistics

__all__ = ["Bound", "discrete_elbo", "elbo"]

# Noise of more than this many times the data's spread leaves little to be integrated; and the share of draws there.
_FAR, _FAR_SHARE = 3.0, 0.125


@dataclass(frozen=True)
class Bound:
    """Lower bounds on log-densities; every tensor has one entry per sample.

    Attributes:
        value: `(B,)` float64, nats: an unbiased estimate of the bound on the log-density at `t_min`. The estimate
            itself may lie above that density; its expectation does not.
        stderr: `(B,)`, standard error of `value` from the draws, in expectation of its square no less than the true
            one; not a number where a single evaluation was made.
        draws: of each sample.
        t_min: the time at which the density is taken.
        nfe: forward evaluations of the model for each sample.
    """

    value: Tensor
    stderr: Tensor
    draws: int
    t_min: float
    nfe: int

    def __repr__(self) -> str:
        mean, error = mean_and_error(self.value)
        return (
            f"Bound({mean:.4f} ± {error:.4f} nats, n={len(self.value)}, draw stderr {self.stderr.mean():.2g} per "
            f"sample, draws={self.draws}, nfe {self.nfe})"
        )

    def _repr_html_(self) -> str:
        return _html(self)


@checked
@torch.no_grad()
def elbo(
    model: ScoreModel,
    x: Tensor,
    *,
    draws: int = 64,
    seed: int = 0,
    first: int = 0,
    prior: Literal["matched", "plain"] = "matched",
    options: FlowOptions | None = None,
    **keywords: Any,
) -> Bound:
    """The evidence lower bound in continuous time on the log-density of x at t_min.

    x counts as a sample at t_min, as in `log_likelihood`, and is noised from there on. What is bounded is the density
    at t_min of the reverse-time SDE that the model drives, started from the prior at t_max (Song, Durkan, Murray &
    Ermon 2021, theorem 3). `log_likelihood` gives that of the probability-flow ODE. The two are one density where the
    model's scores are exact ones of a process that ends in the prior, and the bound then is equal to it at every x.
    With exact scores of data that end in p_T instead, it is log p(x) + E[log π(x_T) − log p_T(x_T) | x], which may be
    above log p(x) at some x but is below on average over the data. For networks the two differ, and the bound may be
    above what the ODE has, too; on average over the data it is at most the data's own −entropy at t_min.

    The integral over time is estimated with one evaluation for each draw. The variable w of (2) is stratified, one
    draw in each stratum; an eighth of the draws is for noise of more than 3 times the data's spread. For data that are
    normal, of the model's `statistics`, and the exact score, nothing is left to be drawn.

    Args:
        model: the score model.
        x: `(B, ...)` in the data's units, as for `log_likelihood`.
        draws: noise levels, with a noise each, for each sample.
        seed: of the draws; a sample's draws depend on it and on the sample's index alone.
        first: index of the first sample, for results that do not depend on how a data set is split up.
        t_min: where the density is taken; the SDE's `t_min` if not given.
        t_max: where the prior is; the SDE's `t_max` if not given.
        prior: `"matched"`, the Gaussian with the data's moments where the model knows them; `"plain"`, N(0, σ² I) as
            in the papers.
        scaling: what is taken for the covariance of the data; `CovarianceScaling()` if not given. A matter of variance
            and of time alone.
        batch_size: evaluations of the model at once; 512 if not given.
        **cond: conditions for the model; tensors of length B are split with the batch.

    Raises:
        ValueError: samples that are not finite, numbers below 1, or a time outside the SDE's interval.
        LikelihoodError: a bound that is not finite; it holds those of the others.
    """
    options, cond = FlowOptions.split(elbo, model, options, keywords, BOUND_OPTIONS)
    x = model.on_device(x)
    path = _Path(model, x, cond, options, prior, draws, draws, seed, first)
    uniform = SampleNoise(seed, path.indices, (), torch.float64, x.device, stream=Stream.BOUND_TIMES)
    strata = torch.stack([(j + uniform.uniform()) / draws for j in range(draws)], 1)
    w, length = _spaced(strata, path.end, path.near)
    terms = length * path.excess(w) / draws
    value = path.normal_log_prob() + path.prior_difference() - terms.sum(1)
    return path.bound(value, _variance(terms).sqrt())


@checked
@torch.no_grad()
def discrete_elbo(
    model: ScoreModel,
    x: Tensor,
    *,
    steps: int | None = None,
    times: Tensor | Sequence[float] | None = None,
    variance: Literal["large", "small"] = "large",
    draws: int = 1,
    seed: int = 0,
    first: int = 0,
    prior: Literal["matched", "plain"] = "matched",
    options: FlowOptions | None = None,
    **keywords: Any,
) -> Bound:
    """The evidence lower bound in discrete time on the log-density of x at t_min.

    What is bounded is the density at t_min of a Markov chain of Gaussian steps (Sohl-Dickstein et al. 2015, section
    2.4; Ho et al. 2020, eq. 5 and 8). x counts as a sample at t_min and is noised from there on. A step has the
    mean x̃_i + δ_i s of ancestral sampling with δ_i = v_i − v_(i−1), and a variance b_i, of which Ho et al. (section
    3.2) know two:

        large: b_i = δ_i, right where the data are flat;    small: b_i = δ_i v_(i−1)/v_i, right where they are a point.

    Noised data have q(x̃_(i−1) | x̃_i, x̃) of variance a_i = δ_i u_(i−1)/u_i and mean x̃_i + δ_i (x̃ − x̃_i)/u_i, so that

        log p(x̃) ≥ −KL(q(x̃_N | x̃), π) − Σ_(i≥2) KL_i + E[log N(x̃; x̃_1 + u_1 s, b_1)],
        KL_i = ½ D (a_i/b_i − 1 − log a_i/b_i) + δ_i²/(2 b_i u_i) M_i,    M_i = E‖x̃ − x̃_i − u_i s‖²/u_i.

    The last term is −½ D log 2π b_1 − u_1/(2 b_1) M_1. M_i is that of normal data, in closed form, plus tanh(w_i) E[h]
    of (2). As v_i/v_(i−1) tends to 1 the bound becomes that of `elbo`, and for exact scores it grows on the way.

    Every step is evaluated once for each draw.

    Args:
        steps: number of steps, equal in w of (2), so that none is large against the noise that it starts from; 100 if
            neither these nor times are given.
        times: `(N + 1,)`, the times themselves, decreasing, from t_max to t_min.
        draws: noises at every step, for each sample.
        variance: of the steps. The small one can lose any number of nats at a step from noise that is large against
            the noise that is left, such as the last one of DDPM's 1000; with the large one a step loses few.

    All other arguments, and what is raised, are those of `elbo`. Times that do not decrease, or that are given beside
    steps, t_min or t_max, are a ValueError.
    """
    options, cond = FlowOptions.split(discrete_elbo, model, options, keywords, BOUND_OPTIONS)
    grid: Tensor | None = None
    if times is not None:
        if not (steps is None and options.t_min is None and options.t_max is None):
            raise ValueError("got times beside steps, t_min or t_max: times say all three")
        grid = torch.as_tensor(times, dtype=torch.float64).cpu()
        if grid.ndim != 1 or len(grid) < 2 or not bool((grid.diff() < 0).all()):
            raise ValueError(f"times have shape {tuple(grid.shape)}, expected at least two that decrease")
        options = replace(options, t_min=grid[-1].item(), t_max=grid[0].item())
        steps = len(grid) - 1
    if variance not in ("large", "small"):
        raise ValueError(f"variance is {variance!r}, expected 'large' or 'small'")
    steps = 100 if steps is None else steps
    if steps < 1:
        raise ValueError(f"steps is {steps}, expected at least 1")
    x = model.on_device(x)
    path = _Path(model, x, cond, options, prior, draws, draws * steps, seed, first)
    if grid is None:
        w = path.end * torch.arange(1, steps + 1, dtype=torch.float64) / steps
    else:
        w = path.variable(grid.flip(0)[1:])
    # In units of v₀, which cancels in all but the last step.
    added, before = w.sinh().square(), torch.cat((w.new_zeros(1), w[:-1]))
    moved = (w - before).sinh() * (w + before).sinh()  # sinh² w − sinh² of the one before
    chosen = moved * (before.cosh() / w.cosh()).square() if variance == "small" else moved
    shares = moved.square() / (2 * chosen * added)
    ratio = moved[1:] * added[:-1] / (added[1:] * chosen[1:])
    constant = (ratio - 1 - ratio.log()).sum() + (2 * math.pi * path.level**2 * chosen[0]).log()
    normal = torch.stack([path.normal_error(step) for step in w.tolist()], 1) @ shares.to(x.device)
    excess = path.excess(w.repeat(draws).to(x.device).expand(len(x), -1)).reshape(len(x), draws, steps)
    terms = (shares * w.tanh()).to(x.device) * excess / draws
    value = path.prior_divergence() - normal - 0.5 * path.size * float(constant) - path.log_alpha - terms.sum((1, 2))
    spread = draws * terms.var(1).sum(1) if draws > 1 else _variance(terms[:, 0])
    return path.bound(value, spread.sqrt())


class _Path:
    """Samples on their way from t_min to t_max; x̃, levels and variables as above, all in float64."""

    def __init__(
        self,
        model: ScoreModel,
        x: Tensor,
        cond: dict[str, Any],
        options: FlowOptions,
        prior: str,
        draws: int,
        evaluations: int,
        seed: int,
        first: int,
    ) -> None:
        x, conditions = check_batch(model, x, cond, prior)
        if draws < 1:
            raise ValueError(f"draws is {draws}, expected at least 1")
        if evaluations >= NOISES:
            raise ValueError(f"{evaluations} evaluations for each sample are more than the {NOISES - 1} there can be")
        scaling = CovarianceScaling() if options.scaling is None else options.scaling
        self.flow = Flow(model, x.shape, conditions, replace(options, variable=LogSNR(), scaling=scaling), x.device)
        self.batch_size = options.width
        self.draws, self.evaluations, self.seed, self.first = draws, evaluations, seed, first
        self.size = self.flow.size
        self.indices = torch.arange(first, first + len(x))
        alpha = float(self.flow.at_ends.alpha[0])
        self.level, self.last_level = self.flow.at_ends.level.tolist()
        self.log_alpha = self.size * math.log(alpha)
        self.x = model.to_model_space(x).double().flatten(1) / alpha
        self.centred = self.x - self.flow.mean
        self.end = float(self.variable(torch.tensor(self.flow.t_max, dtype=torch.float64)))
        known = model.statistics
        self.near = math.acosh(max(1.0, _FAR * (1.0 if known is None else known.largest_std) / self.level))
        self.prior_spread, self.prior_centred = self._prior(known if prior == "matched" else None)

    def _prior(self, statistics: Statistics | None) -> tuple[Spread, Tensor]:
        """The prior is N(x̃ − centred, spread + v₁)."""
        if statistics is not None:
            return CovarianceScaling().spread(statistics, self.size).to(self.flow.device), self.centred
        nothing = ScalarScaling().spread(None, self.size).to(self.flow.device)
        return Spread(torch.zeros_like(nothing.values), nothing.counts), self.x

    def variable(self, t: Tensor) -> Tensor:
        """w of times."""
        sde = self.flow.model.sde
        rise = sde.log_snr(torch.tensor(self.flow.t_min, dtype=torch.float64)) - sde.log_snr(t)
        # cosh w = e^rise; the sine hyperbolic without the cancellation of √(e^(2 rise) − 1).
        return torch.asinh(torch.expm1(2 * rise).sqrt())

    def excess(self, w: Tensor) -> Tensor:
        """One draw `(B, n)` of h for each of the w `(B, n)`."""
        count = w.shape[1]
        values = torch.empty(w.numel(), dtype=torch.float64, device=w.device)
        for start in range(0, len(values), self.batch_size):
            which = torch.arange(start, min(start + self.batch_size, len(values)), device=w.device)
            rows, number = which // count, which % count
            values[start : start + len(which)] = self._excess(rows, number, w[rows, number])
        return values.reshape(w.shape)

    def _excess(self, rows: Tensor, number: Tensor, w: Tensor) -> Tensor:
        flow = self.flow
        index = noise_number(self.first + rows, number)
        eps = SampleNoise(self.seed, index, (self.size,), torch.float64, w.device, stream=Stream.BOUND_NOISE)()
        place = flow.place(-(self.level * w.cosh()).log())
        moved = self.level * w.sinh()[:, None] * eps
        state = (place.alpha[:, None] * (self.x[rows] + moved)).to(flow.dtype).reshape(-1, *flow.shape[1:])
        with flow.model.evaluating():
            predicted = flow.noise(place, rows)(state).double().flatten(1)
        normal = flow.spread.apply(place.level[:, None] / place.norm**2, self.centred[rows] + moved)
        return ((predicted - normal) * (w.tanh()[:, None] * (predicted + normal) - 2 * eps)).sum(1)

    def normal_log_prob(self) -> Tensor:
        """log N(x; m, Σ) of the data at t_min, `(B,)`."""
        return self._expected(self.flow.spread, self.centred, self.level, 0.0) - self.log_alpha

    def prior_difference(self) -> Tensor:
        """E[log π(x̃_1) − log N(x̃_1; m, Σ + v₁)], `(B,)`."""
        ends = self.last_level, (self.level * math.sinh(self.end)) ** 2
        return self._expected(self.prior_spread, self.prior_centred, *ends) - self._expected(
            self.flow.spread, self.centred, *ends
        )

    def prior_divergence(self) -> Tensor:
        """−KL(q(x̃_1 | x̃), π), `(B,)`."""
        added = (self.level * math.sinh(self.end)) ** 2
        entropy = 0.5 * self.size * (1 + math.log(2 * math.pi) + math.log(added))
        return self._expected(self.prior_spread, self.prior_centred, self.last_level, added) + entropy

    def normal_error(self, w: float) -> Tensor:
        """E‖x̃ − x̂‖²/u for normal data, `(B,)`."""
        level, moved = self.level * math.cosh(w), self.level * math.sinh(w)
        spread = self.flow.spread
        total = (spread.values + level**2)[None]
        shrunk: Tensor = moved * spread.apply(1 / total, self.centred)
        # 1 − u/(Σ + v)
        kept = (spread.values + self.level**2)[None] / total
        return shrunk.square().sum(1) + spread.trace(kept**2)

    def _expected(self, spread: Spread, centred: Tensor, level: float, added: float) -> Tensor:
        """E[log N(y; ·, Σ + level²)] for y of variance `added` about x̃, `(B,)`."""
        total = spread.values + level**2
        square = (centred * spread.apply(1 / total[None], centred)).sum(1) + added * spread.trace(1 / total)
        return -0.5 * (square + spread.trace(total.log()) + self.size * math.log(2 * math.pi))

    def bound(self, value: Tensor, stderr: Tensor) -> Bound:
        """LikelihoodError where a value is not finite."""
        broken = (~value.isfinite()).nonzero()[:, 0]
        total = value.index_fill(0, broken, math.nan) + self.flow.log_det
        found = Bound(total, stderr, self.draws, self.flow.t_min, self.evaluations)
        if len(broken):
            start = self.flow.spread.apply(1 / self.flow.at_ends[:1].norm, self.centred[broken[:1]])
            raise LikelihoodError(
                f"the bound is not finite for {len(broken)} of {len(value)} samples, the first of them sample "
                f"{self.first + int(broken[0])}{remedy(start)}",
                [self.first + i for i in broken.tolist()],
                torch.zeros_like(value, dtype=torch.int64).index_fill(0, broken, int(Status.NOT_FINITE)),
                found,
            )
        return found


def _spaced(uniform: Tensor, end: float, near: float) -> tuple[Tensor, Tensor]:
    """Places w in [0, end] of uniforms in [0, 1], and 1 over their density: fewer lie beyond `near`."""
    if not 0 < near < end:
        return end * uniform, torch.full_like(uniform, end)
    share = 1 - _FAR_SHARE
    slope, far = near / share, (end - near) / _FAR_SHARE
    inside = uniform < share
    w = torch.where(inside, slope * uniform, near + far * (uniform - share))
    return w, torch.where(inside, slope, far).to(uniform)


def _variance(terms: Tensor) -> Tensor:
    """Variance `(B,)` of the sums of independent `terms` `(B, n)`, from what neighbours differ by.

    Terms are taken in pairs, and the last three together where n is odd. What the means of a pair differ by counts as
    chance, so that the result is too large on average, never too small (Cochran 1977, Sampling Techniques, section
    5A.12, collapsed strata).
    """
    count = terms.shape[1]
    if count < 2:
        return torch.full_like(terms[:, 0], math.nan)
    paired = terms[:, : count - 3 * (count % 2)]
    variance = (paired[:, ::2] - paired[:, 1::2]).square().sum(1)
    return variance + 3 * terms[:, -3:].var(1) if count % 2 else variance


def _html(out: Bound) -> str:
    """A mean lower bound with its error bars, and what it cost."""
    rows = [
        ("mean over samples", f"{mean_with_error(out.value)} nats"),
        ("standard error from draws", f"{rms(out.stderr):.2g} nats a sample, RMS"),
        ("samples, draws", f"{len(out.value)}, {out.draws} each"),
        ("density at t", f"{out.t_min:.3g}"),
        ("evaluations a sample", str(out.nfe)),
    ]
    return table("Lower bound on the log-likelihood", rows)
