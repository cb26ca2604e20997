"""Lower bounds on the log-density under the reverse-time SDE, and under Markov chains.

With x̃ = x/α and v = (σ/α)² every SDE adds independent noise. Let v₀ and v₁ be the values of v at t_min and t_max,
u = v − v₀ the noise added since t_min, x̃_u = x̃ + √u ε, and s the model's ∇ log p of x̃. The process from t_max down
that the model drives, started from the prior π, has at x̃ a density of at least

    log p(x̃) ≥ E[log π(x̃_1)] − ½ ∫ E[‖s‖² + 2 s·ε/√u] du                                                   (1)

(Song, Durkan, Murray & Ermon 2021, theorem 3). The bound of Kingma et al. (2021, section 5) has ‖ε̂ − ε‖² instead. That
contains E‖ε‖² = D, which diverges at u = 0 and is left out here.

For normal data N(m, Σ) the scores s_G are known, and the two sides are known and equal. With r = s − s_G therefore

    log p(x̃) ≥ log N(x̃; m, Σ + v₀) + E[log π(x̃_1) − log N(x̃_1; m, Σ + v₁)] − ½ ∫ E[‖r‖² + 2 r·(s_G + ε/√u)] du.

The first two terms are closed forms for a Gaussian π, and only what is not normal is left to draws. In the variable w
with √v = √v₀ cosh w and √u = √v₀ sinh w, the integrand times du/dw is bounded at both ends of the interval: with noise
predictions ε̂ = −√v s and d = ε̂ − ε̂_G

    ½ ∫ E[‖r‖² + 2 r·(s_G + ε/√u)] du = ∫ E[h] dw,    h = tanh(w) d·(ε̂ + ε̂_G) − 2 d·ε.                         (2)

A chain on levels u_1 < u_2 < ... < u_N has KL divergences with the same h. See `discrete_elbo`.

References:
    Maximum likelihood training of score-based diffusion models (Song, Durkan, Murray & Ermon 2021), theorem 3,
    https://arxiv.org/abs/2101.09258
    Variational diffusion models (Kingma et al. 2021), section 5, https://arxiv.org/abs/2107.00630
    Deep unsupervised learning using nonequilibrium thermodynamics (Sohl-Dickstein et al. 2015), section 2.4,
    https://arxiv.org/abs/1503.03585
    Denoising diffusion probabilistic models (Ho et al. 2020), eq. 5 and 8, https://arxiv.org/abs/2006.11239
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.likelihood.errors import LikelihoodError, remedy
from scoresde.likelihood.noised import NoisedPath
from scoresde.likelihood.options import BOUND_OPTIONS, FlowOptions
from scoresde.numerics.html import mean_with_error, rms, table
from scoresde.numerics.means import collapsed_variance, mean_and_error
from scoresde.numerics.ode import Status
from scoresde.numerics.random import SampleNoise, Stream
from scoresde.numerics.values import at_least, one_of
from scoresde.score import ScoreModel

__all__ = ["Bound", "discrete_elbo", "elbo"]

# Share of the draws at noise that is large against the data's spread.
_FAR_SHARE = 0.125


@dataclass(frozen=True)
class Bound:
    """Lower bounds on log-densities; every tensor has one entry for each sample.

    Attributes:
        value: Unbiased estimates of the bounds on the log-densities at `t_min`, `(B,)` float64 in nats. An estimate may
            lie above the log-density; its expectation does not.
        stderr: Standard errors of `value` from the draws, `(B,)`. The expectation of their squares is no less than the
            true variance. NaN if a sample has a single evaluation.
        draws: Number of draws for each sample.
        t_min: Time at which the density is taken.
        nfe: Forward evaluations of the model for each sample.
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

    x counts as a sample at t_min, as in `log_likelihood`, and is noised from there on. The bound is on the density at
    t_min of the reverse-time SDE that the model drives, started from the prior at t_max (Song, Durkan, Murray & Ermon
    2021, theorem 3). `log_likelihood` gives the density of the probability-flow ODE. The two densities are one if the
    model's scores are exact scores of a process that ends in the prior; the bound is then equal to it at every x. With
    exact scores of data that end in p_T instead, the bound is log p(x) + E[log π(x_T) − log p_T(x_T) | x]. That may be
    above log p(x) at some x but is below it on average over the data. For networks the two densities differ, and the
    bound may be above that of the ODE, too; on average over the data it is at most the negative entropy of the data at
    t_min.

    The integral over time is estimated with one evaluation for each draw. The variable w of equation (2) in
    `scoresde.likelihood.bounds` is stratified, with one draw in each stratum; an eighth of the draws is for noise of
    more than 3 times the data's spread. For normal data with the model's `statistics` and exact scores, nothing is left
    to be drawn.

    Args:
        model: The score model.
        x: Samples `(B, ...)` in the data's units, as for `log_likelihood`.
        draws: Number of noise levels, with a noise each, for each sample.
        seed: Seed of the draws. Those of a sample depend on the seed and on the sample's index alone.
        first: Index of the first sample, for results that do not depend on how a data set is split up.
        prior: Density at t_max: `"matched"`, the Gaussian with the data's moments where the model knows them;
            `"plain"`, N(0, σ² I) as in the papers.
        options: The options `t_min`, `t_max`, `scaling` and `batch_size`; keywords replace its values. The scaling is
            the covariance by which data count as normal, `CovarianceScaling()` if not given; it affects variance and
            time alone.
        **keywords: These options by name. All others are conditions for the model; tensors of length B are split with
            the batch.

    Raises:
        ValueError: Samples that are not finite, numbers below 1, or a time outside the SDE's interval.
        LikelihoodError: A bound that is not finite. The error holds the bounds of the other samples.
    """
    options, cond = FlowOptions.split(elbo, model, options, keywords, BOUND_OPTIONS)
    at_least("draws", draws, 1)
    x = model.on_device(x)
    path = NoisedPath(model, x, cond, options, prior, draws, seed, first)
    uniform = SampleNoise(seed, path.indices, (), torch.float64, x.device, stream=Stream.BOUND_TIMES)
    strata = torch.stack([(j + uniform.uniform()) / draws for j in range(draws)], 1)
    w, length = _spaced(strata, path.end, path.near)
    terms = length * path.excess(w) / draws
    value = path.normal_log_prob() + path.prior_difference() - terms.sum(1)
    return _bound(path, value, collapsed_variance(terms).sqrt(), draws)


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

    The bound is on the density at t_min of a Markov chain of Gaussian steps (Sohl-Dickstein et al. 2015, section 2.4;
    Ho et al. 2020, eq. 5 and 8). x counts as a sample at t_min and is noised from there on. A step has the mean
    x̃_i + δ_i s of ancestral sampling with δ_i = v_i − v_(i−1), and a variance b_i, for which Ho et al. (section 3.2)
    have two choices:

        large: b_i = δ_i, right where the data are flat;    small: b_i = δ_i v_(i−1)/v_i, right where they are a point.

    Noised data have q(x̃_(i−1) | x̃_i, x̃) of variance a_i = δ_i u_(i−1)/u_i and mean x̃_i + δ_i (x̃ − x̃_i)/u_i, so that

        log p(x̃) ≥ −KL(q(x̃_N | x̃), π) − Σ_(i≥2) KL_i + E[log N(x̃; x̃_1 + u_1 s, b_1)],
        KL_i = ½ D (a_i/b_i − 1 − log a_i/b_i) + δ_i²/(2 b_i u_i) M_i,    M_i = E‖x̃ − x̃_i − u_i s‖²/u_i.

    The last term is −½ D log 2π b_1 − u_1/(2 b_1) M_1. M_i is the value for normal data, in closed form, plus
    tanh(w_i) E[h] with h of equation (2) in `scoresde.likelihood.bounds`. As v_i/v_(i−1) tends to 1 the bound becomes
    that of `elbo`; for exact scores it grows on the way.

    Every step takes one evaluation for each draw.

    Args:
        model: The score model.
        x: Samples `(B, ...)` in the data's units, as for `log_likelihood`.
        steps: Number of steps, of equal lengths in w, so that none is large against the noise from which it starts; 100
            if neither steps nor times are given.
        times: Times `(N + 1,)` of the chain, decreasing from t_max to t_min.
        variance: Variances of the steps. The small ones can lose any number of nats at a step from noise that is large
            against the noise that is left, such as the last of DDPM's 1000 steps. With the large ones a step loses few.
        draws: Number of noises at every step, for each sample.
        seed: Seed of the noise.
        first: Index of the first sample.
        prior: Density at t_max, as for `elbo`.
        options: As for `elbo`.
        **keywords: As for `elbo`.

    Raises:
        ValueError: As `elbo`; times that do not decrease, or that are given in addition to steps, t_min or t_max.
        LikelihoodError: As `elbo`.
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
    one_of("variance", variance, ("large", "small"))
    steps = 100 if steps is None else steps
    at_least("steps", steps, 1)
    at_least("draws", draws, 1)
    x = model.on_device(x)
    path = NoisedPath(model, x, cond, options, prior, draws * steps, seed, first)
    if grid is None:
        w = path.end * torch.arange(1, steps + 1, dtype=torch.float64) / steps
    else:
        w = path.variable(grid.flip(0)[1:])
    shares, constant = _chain(w, path.level, variance)
    normal = torch.stack([path.normal_error(step) for step in w.tolist()], 1) @ shares.to(x.device)
    excess = path.excess(w.repeat(draws).to(x.device).expand(len(x), -1)).reshape(len(x), draws, steps)
    terms = (shares * w.tanh()).to(x.device) * excess / draws
    value = path.prior_divergence() - normal - 0.5 * path.size * constant - path.log_alpha - terms.sum((1, 2))
    squares = draws * terms.var(1).sum(1) if draws > 1 else collapsed_variance(terms[:, 0])
    return _bound(path, value, squares.sqrt(), draws)


def _chain(w: Tensor, level: float, variance: str) -> tuple[Tensor, float]:
    """The factors `(N,)` of M_i in the bound, and the sum of the terms that ½ D multiplies.

    Args:
        w: The variable at the steps, `(N,)`, increasing.
        level: Noise level √v₀ at t_min.
        variance: Variances of the steps, `"large"` or `"small"`.
    """
    # In units of v₀, which cancels in all but the last step.
    added, before = w.sinh().square(), torch.cat((w.new_zeros(1), w[:-1]))
    moved = (w - before).sinh() * (w + before).sinh()  # sinh² w less sinh² of the step before
    chosen = moved * (before.cosh() / w.cosh()).square() if variance == "small" else moved
    ratio = moved[1:] * added[:-1] / (added[1:] * chosen[1:])
    constant = (ratio - 1 - ratio.log()).sum() + (2 * math.pi * level**2 * chosen[0]).log()
    return moved.square() / (2 * chosen * added), float(constant)


def _bound(path: NoisedPath, value: Tensor, stderr: Tensor, draws: int) -> Bound:
    """The bounds in the data's units.

    Raises:
        LikelihoodError: A bound that is not finite.
    """
    broken = (~value.isfinite()).nonzero()[:, 0]
    total = value.index_fill(0, broken, math.nan) + path.flow.log_det
    result = Bound(total, stderr, draws, path.flow.t_min, path.evaluations)
    if len(broken):
        start = path.flow.spread.apply(1 / path.flow.at_ends[:1].norm, path.centred[broken[:1]])
        raise LikelihoodError(
            f"the bound is not finite for {len(broken)} of {len(value)} samples, the first of them sample "
            f"{path.first + int(broken[0])}{remedy(start)}",
            [path.first + i for i in broken.tolist()],
            torch.zeros_like(value, dtype=torch.int64).index_fill(0, broken, int(Status.NOT_FINITE)),
            result,
        )
    return result


def _spaced(uniform: Tensor, end: float, near: float) -> tuple[Tensor, Tensor]:
    """Values w in [0, end] from uniforms in [0, 1], and 1 over their density; an eighth of them lies beyond `near`."""
    if not 0 < near < end:
        return end * uniform, torch.full_like(uniform, end)
    share = 1 - _FAR_SHARE
    slope, far = near / share, (end - near) / _FAR_SHARE
    inside = uniform < share
    w = torch.where(inside, slope * uniform, near + far * (uniform - share))
    return w, torch.where(inside, slope, far).to(uniform)


def _html(out: Bound) -> str:
    """The mean lower bound with its errors, and the costs, as HTML."""
    rows = [
        ("mean over samples", f"{mean_with_error(out.value)} nats"),
        ("standard error from draws", f"{rms(out.stderr):.2g} nats a sample, RMS"),
        ("samples, draws", f"{len(out.value)}, {out.draws} each"),
        ("density at t", f"{out.t_min:.3g}"),
        ("evaluations a sample", str(out.nfe)),
    ]
    return table("Lower bound on the log-likelihood", rows)
