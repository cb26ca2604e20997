"""Guidance by gradients and by products of densities, on Gaussians, whose answers are written out."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.guidance import ClassifierGuidance, Given, Product, RewardGuidance
from scoresde.sampling import EDMHeun, KarrasGrid, Sampler, UniformLogSNR
from scoresde.score import GaussianMixtureScore, ScoreModel
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE, FlowSDE
from tests.guidance.pairs import classes, network
from tests.problems import F64, gaussian, generator

SDES = {"vp": VPSDE(), "edm": EDMSDE(), "flow": FlowSDE()}
LEVELS = (0.02, 0.7, 11.0)


def times(sde: SDE) -> Tensor:
    return sde.time(-torch.tensor(LEVELS, dtype=F64).log())


def matches(model: ScoreModel, x: Tensor, t: Tensor, noise: Tensor, **cond: Any) -> None:
    """Every prediction is that of a noise prediction."""
    alpha, sigma = model.sde.alpha(t), model.sde.sigma(t)
    mean = (x - sigma * noise) / alpha
    torch.testing.assert_close(model.noise(x, t, **cond), noise, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(model.score(x, t, **cond), -noise / sigma, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(model.denoise(x, t, **cond), mean, rtol=1e-6, atol=1e-6)
    p, q = torch.tensor([0.7], dtype=F64), torch.tensor([-0.4], dtype=F64)
    predicted = model.prediction(t[None], p, q)(x, 0, **cond)
    torch.testing.assert_close(predicted, 0.7 * mean - 0.4 * noise, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_a_linear_reward_of_the_mean_shifts_a_gaussian(sde: SDE) -> None:
    """r(x₀) = b · x₀ of N(m, v I): D has the derivative α v/(α² v + σ²), so ε changes by −w σ b α v/(α² v + σ²)."""
    model, b = gaussian(sde, (3,), 0.4, 0.3), torch.tensor([1.0, -2.0, 0.5], dtype=F64)
    for t in times(sde):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        x = model.sample(4, t, generator())
        expected = model.noise(x, t) - 1.5 * sigma * b * alpha * 0.3 / (alpha**2 * 0.3 + sigma**2)
        matches(RewardGuidance(model, lambda mean: mean @ b, 1.5), x, t, expected)


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_the_exact_classifier_and_the_exact_reward_give_the_class(sde: SDE) -> None:
    one, both = classes(sde, 3)
    rest = GaussianMixtureScore(torch.ones(4), both.means[2:], both.variances[2:], sde)

    def logits(x: Tensor, t: Tensor) -> Tensor:
        """Of the first two modes together, and of the other four."""
        share = torch.tensor([2 / 6, 4 / 6], dtype=F64).log()
        return torch.stack((one.log_prob(x, t), rest.log_prob(x, t)), 1) + share

    labels = torch.tensor([0, 1, 1, 0])
    steered = ClassifierGuidance(both, logits)
    rewarded = RewardGuidance(both, lambda x, t: logits(x, t).log_softmax(1)[:, 0], of="state")
    for t in times(sde):
        x = both.sample(4, t, generator())
        expected = torch.where(labels[:, None] == 0, one.noise(x, t), rest.noise(x, t))
        matches(steered, x, t, expected, labels=labels)
        matches(rewarded, x, t, one.noise(x, t))
    sampler = Sampler(EDMHeun(), KarrasGrid(5), denoise=False)
    start = one.sample(4, sde.t_max, generator())
    torch.testing.assert_close(sampler(steered, x_init=start, labels=0).x, sampler(one, x_init=start).x)
    with pytest.raises(ValueError, match="classifier guidance needs the class of each sample: give labels"):
        sampler(steered, 4)
    with pytest.raises(ValueError, match="labels hold 2, expected 0 to 1"):
        sampler(steered, 4, labels=2)


def test_a_reward_is_at_work_in_its_interval_only_and_is_checked() -> None:
    model = gaussian(EDMSDE(), (2,))
    steered = RewardGuidance(model, lambda mean: mean.sum(1), 2.0, interval=(0.5, 2.0))
    x = torch.ones(3, 2, dtype=F64)
    t = torch.tensor([0.1, 1.0, 9.0], dtype=F64)
    changed = (steered.noise(x, t) - model.noise(x, t)).abs().amax(1)
    assert (changed > 1e-3).tolist() == [False, True, False]
    assert torch.equal(steered.noise(x, t[0]), model.noise(x, t[0]))
    with pytest.raises(ValueError, match=r"the reward is \(\), expected one number for each sample, \(3,\)"):
        RewardGuidance(model, lambda mean: mean.sum()).noise(x, t)
    with pytest.raises(ValueError, match="scale is inf"):
        RewardGuidance(model, lambda mean: mean.sum(1), math.inf)
    assert not steered.is_score


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_products_of_gaussians(sde: SDE) -> None:
    """The sum of scores −w_i (x − α m_i)/(α² v_i + σ²), with a weight below 0 and weights that do not add up to 1."""
    parts = [gaussian(sde, (2,), m, v) for m, v in ((0.5, 0.3), (-1.0, 1.2), (0.2, 2.0))]
    weights = [1.0, 1.5, -0.7]
    for t in times(sde):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        x = parts[1].sample(4, t, generator())
        score = torch.zeros_like(x)
        for w, m, v in zip(weights, (0.5, -1.0, 0.2), (0.3, 1.2, 2.0), strict=True):
            score -= w * (x - alpha * m) / (alpha**2 * v + sigma**2)
        matches(Product(parts, weights), x, t, -sigma * score)


def test_posteriors_of_independent_observations() -> None:
    """Two observations y ~ N(x, ½) under N(0, 1), each with the posterior N(y/1.5, 1/3), by an affine flow."""
    sde, observed = EDMSDE(), (0.3, 1.2)
    posteriors = [gaussian(sde, (1,), y / 1.5, 1 / 3) for y in observed]
    product = Product([*posteriors, gaussian(sde, (1,), 0.0, 1.0)], [1, 1, -1])
    start = torch.tensor([[-90.0], [0.0], [40.0]], dtype=F64)
    found = Sampler(EDMHeun(), KarrasGrid(300), denoise=False)(product, x_init=start).x
    level = torch.logspace(math.log10(80), math.log10(0.002), 3001, dtype=F64)
    end = start
    for s, ds in zip((level[1:] * level[:-1]).sqrt(), level.diff(), strict=True):
        # dx/dσ = −σ score
        rate = s * (2 / (1 / 3 + s**2) - 1 / (1 + s**2))
        rest = -s * sum(y / 1.5 for y in observed) / (1 / 3 + s**2)
        end = end * (rate * ds).exp() + rest / rate * torch.expm1(rate * ds)
    torch.testing.assert_close(found, end, rtol=1e-4, atol=1e-4)


def test_parts_of_a_product_have_conditions_of_their_own() -> None:
    model, _ = network()
    exact = gaussian(VESDE(0.002, 80.0), (3,))
    product = Product([Given(model, labels=1), model, exact], [0.5, 0.75, -0.25])
    labels, x, t = torch.tensor([0, 1]), torch.randn(2, 3, generator=generator()), torch.tensor(0.6, dtype=F64)
    ones = torch.ones(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="labels is given for all samples of this model: leave it out"):
        Given(model, labels=1).conditions({"labels": 0}, 2, torch.device("cpu"))
    moved = gaussian(product.sde, (3,))
    expected = 0.5 * model.noise(x, t, labels=ones) + 0.75 * model.noise(x, t, labels=labels) - 0.25 * moved.noise(x, t)
    torch.testing.assert_close(product.noise(x, t, labels=labels), expected)
    found = product.prediction(t[None], torch.zeros(1, dtype=F64), torch.ones(1, dtype=F64))(x, 0, labels=labels)
    torch.testing.assert_close(found, expected)
    out = Sampler(EDMHeun(), UniformLogSNR(3))(product, 2, seed=0, labels=labels)
    assert out.x.isfinite().all()
    with pytest.raises(ValueError, match="sed is no argument"):
        product.conditions({"sed": 1}, 2, torch.device("cpu"))
    with pytest.raises(ValueError, match="labels is 2, expected a class from 0 to 1"):
        Given(model, labels=2)
    with pytest.raises(ValueError, match="there are 1 weights for 2 models"):
        Product([model, exact], [1.0])
    assert not product.is_score
    assert Product([exact]).is_score
