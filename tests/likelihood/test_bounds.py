"""Lower bounds on log-densities against closed forms, exact densities and the papers' own expressions."""

import itertools
import math
from typing import Any, Literal

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from scoresde.likelihood import Bound, ScalarScaling, discrete_elbo, elbo
from scoresde.score import GaussianMixtureScore, ScoreModel
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE, SubVPSDE
from tests.problems import correlated, gaussian, generator, ring

F64 = torch.float64
FOUR = pytest.mark.parametrize("four", [VPSDE(), SubVPSDE(), VESDE(), EDMSDE()], ids=["vp", "subvp", "ve", "edm"])


class Altered(ScoreModel):
    """The noise prediction of another model times a factor, and with a shift for each sample."""

    def __init__(self, model: ScoreModel, factor: float, known: bool = True) -> None:
        super().__init__(model.sde, model.statistics if known else None)
        self.model, self.factor = model, factor

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        shift = cond.pop("shift", None)
        out = self.factor * self.model.noise(x, t, **cond)
        return out if shift is None else out + shift[:, None]

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        alpha, sigma = self.sde.alpha(t)[:, None], self.sde.sigma(t)[:, None]
        return (x - sigma * self.noise(x, t, **cond)) / alpha


def time(value: float) -> Tensor:
    return torch.tensor(value, dtype=F64)


def prior_of(model: ScoreModel, prior: str) -> MultivariateNormal:
    known, t = model.statistics, time(model.sde.t_max)
    assert known is not None
    assert known.covariance is not None
    alpha, sigma = model.sde.alpha(t), model.sde.sigma(t)
    eye = torch.eye(known.dim, dtype=F64)
    if prior == "plain":
        return MultivariateNormal(torch.zeros(known.dim, dtype=F64), sigma**2 * eye)
    return MultivariateNormal(alpha * known.mean, alpha**2 * known.covariance + sigma**2 * eye)


def limit(model: GaussianMixtureScore, x: Tensor, prior: str = "matched", n: int = 4000) -> Tensor:
    """log p(x) + E[log π(x_T) − log p_T(x_T) | x]: the bound for an exact score, `(B,)`."""
    sde = model.sde
    a, b = sde.transition(time(sde.t_max), time(sde.t_min))
    z = (a * x)[:, None] + b * torch.randn(len(x), n, x.shape[1], dtype=F64, generator=generator(9))
    end = model.log_prob(z.flatten(0, 1), sde.t_max).reshape(len(x), n)
    return model.log_prob(x, sde.t_min) + (prior_of(model, prior).log_prob(z) - end).mean(1)


def test_gaussian_data_leave_nothing_to_be_drawn(sde: SDE) -> None:
    model = gaussian(sde, (3,))
    x = model.sample(5, sde.t_min, generator())
    out = elbo(model, x, draws=4)
    assert (out.value - model.log_prob(x, sde.t_min)).abs().max() < 1e-8
    assert out.stderr.max() < 1e-8
    assert out.value.dtype == F64
    assert out.t_min == sde.t_min


def test_gaussian_data_under_the_plain_prior(sde: SDE) -> None:
    """By the chain rule the gap is E[log p_T(x_T) − log π(x_T) | x], in closed form here."""
    model = gaussian(sde, (3,))
    x = model.sample(5, sde.t_min, generator())
    a, b = sde.transition(time(sde.t_max), time(sde.t_min))
    reached = Independent(Normal(a * x, b.expand_as(x)), 1)

    def expected(other: MultivariateNormal) -> Tensor:
        scale = other.covariance_matrix.diagonal().sqrt()
        return -kl_divergence(reached, Independent(Normal(other.mean.expand_as(x), scale), 1)) - reached.entropy()

    truth = model.log_prob(x, sde.t_min) + expected(prior_of(model, "plain")) - expected(prior_of(model, "matched"))
    out = elbo(model, x, draws=2, prior="plain")
    assert (out.value - truth).abs().max() < 1e-7


@FOUR
@pytest.mark.parametrize("make", [ring, correlated])
def test_tight_for_exact_scores(four: SDE, make: Any) -> None:
    """At every x, up to what the data's end and the prior differ by; on average below the density."""
    model = make(four)
    x = model.sample(200, four.t_min, generator())
    out = elbo(model, x)
    error = out.value - limit(model, x, n=500)
    uncertain = float(out.stderr.square().mean() / len(x)) ** 0.5
    assert abs(float(error.mean())) < 3.5 * uncertain
    assert uncertain < 0.1
    gap = model.log_prob(x, four.t_min) - out.value
    assert float(gap.mean()) > -3 * uncertain
    assert float(gap.mean()) < 0.02 + 3.5 * uncertain


def test_plain_prior_and_another_scaling() -> None:
    """Both leave the bound what it is, or move it by what they should."""
    model = correlated(VPSDE(beta_max=5.0))  # a prior that is far from the data's end
    x = model.sample(3, model.sde.t_min, generator())
    truth = {prior: limit(model, x, prior, n=10000) for prior in ("matched", "plain")}
    assert (truth["plain"] - truth["matched"]).abs().max() > 0.05
    for prior, scaling in itertools.product(("matched", "plain"), (None, ScalarScaling())):
        out = elbo(model, x, draws=2000, prior=prior, scaling=scaling)  # type: ignore[arg-type]
        assert ((out.value - truth[prior]).abs() < 4 * out.stderr + 0.02).all()
        assert out.stderr.max() < 0.2


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
def test_is_theorem_3_of_song_et_al(sde: SDE, known: bool) -> None:
    """For a score that is wrong, against E log π + ∫ (D f − ½ g² E‖s‖² − g² E ∇·s) dt by quadrature."""
    exact, factor = gaussian(sde, (3,)), 1.2
    x = exact.sample(1, sde.t_min, generator())
    mean, variance, dim = 0.7, 0.3, 3

    def integrand(fraction: float) -> float:
        # In log-SNR, where it is smooth.
        high, low = (float(sde.log_snr(time(end))) for end in (sde.t_min, sde.t_max))
        t = sde.time(time(high + fraction * (low - high))).clamp(sde.t_min, sde.t_max)
        speed = (high - low) * 2 * float((sde.sigma(t) / sde.diffusion(t)) ** 2)  # dt/dfraction
        f, g2 = float(sde.drift_coefficient(t)), float(sde.diffusion(t)) ** 2
        a, b = (float(v) for v in sde.transition(t, time(sde.t_min)))
        total = float(sde.alpha(t) ** 2 * variance + sde.sigma(t) ** 2)
        square = float((a * x - sde.alpha(t) * mean).square().sum()) + dim * b**2
        return speed * (dim * f - 0.5 * g2 * square * (factor / total) ** 2 + g2 * factor * dim / total)

    truth = quad(integrand, 0, 1, epsabs=1e-5, limit=200)[0]
    a, b = sde.transition(time(sde.t_max), time(sde.t_min))
    end = prior_of(exact, "matched" if known else "plain")
    variances = end.covariance_matrix.diagonal()
    truth += float(end.log_prob(a * x)) - 0.5 * float(b**2 / variances.mean()) * dim
    out = elbo(Altered(exact, factor, known), x, draws=2048, batch_size=4096)
    assert abs(float(out.value) - truth) < 4 * float(out.stderr)
    assert float(out.stderr) < 0.3


@FOUR
def test_a_wrong_score_has_a_smaller_bound(four: SDE) -> None:
    exact = correlated(four)
    x = exact.sample(100, four.t_min, generator())
    right = elbo(exact, x)
    for factor in (0.8, 1.2):
        lost = right.value - elbo(Altered(exact, factor), x).value
        assert float(lost.mean()) > 4 * float(lost.std()) / math.sqrt(len(x))


@pytest.mark.parametrize("variance", ["large", "small"])
def test_discrete_is_a_sum_of_divergences(sde: SDE, variance: Literal["large", "small"]) -> None:
    """The terms of Ho et al. 2020, eq. 5, between distributions of x itself, by plain Monte Carlo."""
    model = ring(sde)
    x = torch.tensor([0.9, 0.2], dtype=F64)
    levels = torch.tensor([1.0, 0.4, 0.1, 0.0], dtype=F64)
    high, low = (float(sde.log_snr(time(end))) for end in (sde.t_min, sde.t_max))
    near = max(high - 6.0, low)
    times = sde.time(high + levels * (near - high)).clamp(sde.t_min, sde.t_max)
    times[0], times[-1] = float(times[0]), sde.t_min
    n, g, t0 = 20000, generator(2), time(sde.t_min)
    a, b = sde.transition(times[0], t0)
    sigma, alpha = sde.sigma(times[0]), sde.alpha(times[0])
    known = model.statistics
    assert known is not None
    scale = (alpha**2 * known.std**2 + sigma**2).sqrt()
    total = -kl_divergence(Normal(a * x, b), Normal(alpha * known.mean, scale)).sum()
    error = 0.0
    for t, s in itertools.pairwise(times):
        a, b = sde.transition(t, t0)
        eps = torch.randn(n, 2, dtype=F64, generator=g)
        # Of exact first and second moments: most of the scatter of plain draws is ‖ε‖².
        state = a * x + b * (eps - eps.mean(0)) / eps.std(0, correction=0)
        step, noise = sde.transition(t, s)
        mean = (state + noise**2 * model.score(state, t)) / step
        scale = noise / step if variance == "large" else noise * sde.sigma(s) / sde.sigma(t)
        chain = Normal(mean, scale)
        if s == sde.t_min:
            terms = chain.log_prob(x).sum(1)
        else:
            kept, spread = sde.transition(s, t0)
            precision = 1 / spread**2 + (step / noise) ** 2
            centre = (kept * x / spread**2 + step * state / noise**2) / precision
            terms = -kl_divergence(Normal(centre, precision.rsqrt()), chain).sum(1)
        total = total + terms.mean()
        error += float(terms.var()) / n
    out = discrete_elbo(model, x[None], times=times, variance=variance, draws=4000, batch_size=4096)
    assert abs(float(out.value - total)) < 4 * math.sqrt(float(out.stderr) ** 2 + error)
    assert out.nfe == 12000
    assert out.t_min == sde.t_min


@FOUR
@pytest.mark.parametrize("variance", ["large", "small"])
def test_more_steps_are_tighter(four: SDE, variance: Literal["large", "small"]) -> None:
    """The gap falls as 1/N where steps are small."""
    model = correlated(four)
    x = model.sample(100, four.t_min, generator())
    truth = limit(model, x, n=500)
    gaps = [
        float((truth - discrete_elbo(model, x, steps=n, variance=variance, draws=160 // n).value).mean())
        for n in (20, 40, 80, 160)
    ]
    for coarse, fine in itertools.pairwise(gaps):
        assert fine < 0.75 * coarse
    assert 1.6 < gaps[-2] / gaps[-1] < 2.4


@pytest.mark.parametrize(("draws", "least"), [(7, 0.65), (64, 0.86)])
def test_unbiased_with_an_honest_error(draws: int, least: float) -> None:
    """300 estimates of the same; terms are skewed, so that few draws cover less than a normal would."""
    model = ring(VPSDE())
    x = model.sample(4, model.sde.t_min, generator(4))
    truth = limit(model, x, n=20000)
    out = elbo(model, x.repeat(300, 1), draws=draws)
    value, stderr = out.value.reshape(300, 4), out.stderr.reshape(300, 4)
    error = value.std(0)
    assert ((value.mean(0) - truth).abs() < 4 * error / math.sqrt(300)).all()
    ratio = stderr.square().mean(0).sqrt() / error
    assert (ratio > 0.85).all()
    assert (ratio < 1.5).all()
    assert least < float(((value - truth).abs() < 2 * stderr).double().mean()) < 0.99


@pytest.mark.parametrize("draws", [1, 2, 3])
def test_discrete_error_is_honest(draws: int) -> None:
    model = ring(VPSDE())
    x = model.sample(2, model.sde.t_min, generator(4))
    out = discrete_elbo(model, x.repeat(400, 1), steps=21, draws=draws)
    value, stderr = out.value.reshape(400, 2), out.stderr.reshape(400, 2)
    ratio = stderr.square().mean(0).sqrt() / value.std(0)
    assert (ratio > 0.85).all()
    assert (ratio < (2.0 if draws == 1 else 1.15)).all()


def test_float32_images_and_another_interval() -> None:
    sde = VPSDE()
    flat = correlated(sde, (4,))
    means, covariances = flat.means.reshape(3, 1, 2, 2), torch.tensor([0.1, 0.2, 0.3])
    model = GaussianMixtureScore(flat.weights, means, covariances, sde)
    x = model.sample(4, 1e-3, generator())
    fine = elbo(model, x, t_min=1e-3, t_max=0.9)
    assert fine.t_min == 1e-3
    coarse = elbo(model.float(), x.float(), t_min=1e-3, t_max=0.9)
    assert coarse.value.dtype == F64
    assert (coarse.value - fine.value).abs().max() < 1e-3


def test_what_a_bound_says() -> None:
    model = ring(VPSDE())
    x = model.sample(4, model.sde.t_min, generator())
    out = elbo(model, x, draws=3)
    assert isinstance(out, Bound)
    assert (out.draws, out.nfe, out.value.shape, out.stderr.shape) == (3, 3, (4,), (4,))
    assert repr(out).startswith("Bound(")
    assert " ± " in repr(out)
    assert elbo(model, x, draws=1).stderr.isnan().all()
    assert discrete_elbo(model, x, steps=1).stderr.isnan().all()
    chain = discrete_elbo(model, x)
    assert (chain.draws, chain.nfe) == (1, 100)
    assert chain.stderr.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 0}, "draws is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"prior": "flat"}, "prior is 'flat'"),
        ({"t_min": 0.5, "t_max": 0.2}, "t_min is 0.5"),
        ({"t_max": 3.0}, "outside"),
        ({"draws": 2**24}, "more than the"),
        ({"labels": torch.zeros(3)}, "labels is no argument of this call, and no condition of GaussianMixtureScore"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    model = ring(VPSDE())
    x = model.sample(2, model.sde.t_min, generator())
    for bound in (elbo, discrete_elbo):
        with pytest.raises(ValueError, match=message) as error:
            bound(model, x, **options)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"variance": "learnt"}, "variance is 'learnt'"),
        ({"times": [0.1, 0.5, 1.0]}, "decrease"),
        ({"times": [1.0]}, "at least two"),
        ({"times": [1.0, 0.1], "steps": 1}, "times beside"),
        ({"times": [2.0, 0.1]}, "outside"),
    ],
)
def test_bad_steps(options: dict[str, Any], message: str) -> None:
    model = ring(VPSDE())
    with pytest.raises(ValueError, match=message):
        discrete_elbo(model, model.sample(2, 1e-3, generator()), **options)


def test_bad_samples_and_models() -> None:
    model = ring(VPSDE())
    x = model.sample(2, model.sde.t_min, generator())
    for bound in (elbo, discrete_elbo):
        with pytest.raises(ValueError, match="not finite"):
            bound(model, torch.full((2, 2), math.nan))
        with pytest.raises(ArithmeticError, match="2 of 2 samples, the first of them sample 7"):
            bound(Altered(model, math.nan), x, first=7)
