"""Products of reverse steps with a second distribution, against densities on a grid and exact posteriors."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from scoresde.chains import (
    CategoricalFactor,
    DiscreteChainModel,
    GaussianChainModel,
    GaussianFactor,
    GradientFactor,
    sample_chain,
)
from scoresde.networks import MLP
from scoresde.score import GaussianMixtureScore
from scoresde.sde import (
    VPSDE,
    BinomialChain,
    CategoricalChain,
    CategoricalStep,
    GaussianChain,
    GaussianStep,
    erasure_betas,
)
from tests.problems import gaussian, generator

F64 = torch.float64
CHAIN = GaussianChain([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(("schedule", "power"), [("constant", 1.0), ("fading", 0.5)])
def test_a_gaussian_product_is_that_of_the_densities(schedule: Any, power: float) -> None:
    step = GaussianStep(torch.tensor([[0.3, -1.0]], dtype=F64), torch.tensor([[0.2]], dtype=F64))
    factor = GaussianFactor([[1.0, 0.5]], [[0.4, 3.0]], schedule)  # type: ignore[arg-type]
    found = factor.times(step, 2, CHAIN)
    grid = torch.linspace(-8, 8, 20001, dtype=F64)
    for i, (y, v) in enumerate(((1.0, 0.4), (0.5, 3.0))):
        log_p = Normal(step.mean[0, i], 0.2**0.5).log_prob(grid) + power * Normal(y, v**0.5).log_prob(grid)
        p = log_p.exp() / log_p.exp().sum()
        mean = (p * grid).sum()
        torch.testing.assert_close(found.mean[0, i], mean)
        torch.testing.assert_close(found.variance[0, i], (p * (grid - mean) ** 2).sum())


def test_the_gradient_moves_the_mean_as_the_product_does_for_short_steps() -> None:
    """By the variance times the gradient at the mean; the difference is of second order in the variance."""
    y, v, errors = 1.0, 0.4, []
    exact, first = GaussianFactor([[y]], [[v]]), GradientFactor(lambda x, s: (y - x) / v)  # type: ignore[arg-type]
    for variance in (0.02, 0.01):
        step = GaussianStep(torch.tensor([[0.3]], dtype=F64), torch.tensor([[variance]], dtype=F64))
        errors.append(float((first.times(step, 1, CHAIN).mean - exact.times(step, 1, CHAIN).mean).abs()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)


def test_what_is_known_is_kept_and_what_is_independent_of_it_is_left() -> None:
    model = GaussianChainModel(gaussian(VPSDE(), (2,), 0.7, 0.3), VPSDE().chain(20))
    factor = GaussianFactor([[0.2, math.nan]], [[0.0, math.inf]])  # type: ignore[arg-type]
    out = sample_chain(model, (2000, 2), factor=factor, last="draw", trajectory=True)
    plain = sample_chain(model, (2000, 2), last="draw")
    assert (out.x[:, 0] == 0.2).all()
    torch.testing.assert_close(out.x[:, 1], plain.x[:, 1])
    assert out.trajectory is not None
    assert (out.trajectory[:, :, 0] == 0.2).all()  # at every step, under the constant schedule
    fading = GaussianFactor([[0.2, 0.0]], [[0.0, math.inf]], "fading")  # type: ignore[arg-type]
    track = sample_chain(model, (5, 2), factor=fading, trajectory=True).trajectory
    assert track is not None
    assert (track[0] != 0.2).all()


WEIGHTS, MEANS, VARIANCE = torch.tensor([0.5, 0.5]).double(), torch.tensor([[-1.0, -1.0], [1.0, 1.0]]).double(), 0.1
Y, NOISE = 0.3, 0.5


def log_mixture(x: Tensor, weights: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    square = (x[:, None] - means) ** 2 / variances
    return (weights.log() - 0.5 * (square + variances.log()).sum(2)).logsumexp(1)


def exact_posterior() -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and variances of the posterior given Y of the first coordinate."""
    total = VARIANCE + NOISE
    weights = (WEIGHTS.log() - 0.5 * (Y - MEANS[:, 0]) ** 2 / total).softmax(0)
    means, variances = MEANS.clone(), torch.full_like(MEANS, VARIANCE)
    means[:, 0] += VARIANCE / total * (Y - MEANS[:, 0])
    variances[:, 0] = VARIANCE * NOISE / total
    return weights, means, variances


def test_the_posterior_of_a_mixture_and_the_bias_of_a_constant_factor() -> None:
    """Exact with the gradient of log E[r(x₀) | x_s], the ratio of two mixtures; the figures of the module without."""
    sde, n = VPSDE(), 10_000
    chain = sde.chain(60)
    prior = torch.full_like(MEANS, VARIANCE)
    model = GaussianChainModel(GaussianMixtureScore(WEIGHTS, MEANS, torch.full((2,), VARIANCE), sde), chain)
    weights, means, variances = exact_posterior()

    def gradient(x: Tensor, s: int) -> Tensor:
        a, noise = chain.alpha(s), chain.noise_share(s)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            ratio = log_mixture(x, weights, a * means, a**2 * variances + noise)
            ratio = ratio - log_mixture(x, WEIGHTS, a * MEANS, a**2 * prior + noise)
            return torch.autograd.grad(ratio.sum(), x)[0]

    assert float(weights[1]) == pytest.approx(0.731, abs=1e-3)
    share = {}
    factors: dict[str, Any] = {"exact": GradientFactor(gradient)}
    for schedule in ("constant", "fading"):
        factors[schedule] = GaussianFactor([[Y, 0.0]], [[NOISE, math.inf]], schedule)  # type: ignore[arg-type]
    for name, factor in factors.items():
        x = sample_chain(model, (n, 2), seed=1, factor=factor, last="draw").x
        share[name] = float((x[:, 1] > 0).double().mean())
        if name == "exact":
            mean = weights @ means
            assert (x.mean(0) - mean).abs().max() < 0.04
            variance = weights @ (variances + means**2) - mean**2
            assert float(x[:, 0].var()) == pytest.approx(float(variance[0]), rel=0.06)
    assert share["exact"] == pytest.approx(float(weights[1]), abs=0.02)
    assert share["constant"] == pytest.approx(0.62, abs=0.02)
    assert share["fading"] == pytest.approx(0.605, abs=0.02)


class Known(nn.Module):
    """Logits of a pair of bits that agree: each has the other's odds beside its own."""

    shape = (2,)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        kept = (1 - level)[:, None].clamp(max=1 - 1e-6)
        odds = x * ((1 + kept) / (1 - kept)).log()
        return odds + odds.flip(1)


def test_inpainting_of_bits_that_agree() -> None:
    """The known bit is kept, and the other follows it: in 0.94 of the samples, for which the truth is 1.

    At much noise the model takes the known bit, which is held from the start, for one that says as little as any.
    """
    chain = BinomialChain(erasure_betas(30))
    model = DiscreteChainModel(Known(), chain)
    x = sample_chain(model, (2000, 2), factor=CategoricalFactor([[[0, 1], [1, 1]]])).x  # type: ignore[arg-type]
    assert (x[:, 0] == 1).all()
    assert float(x[:, 1].double().mean()) == pytest.approx(0.94, abs=0.03)
    plain = sample_chain(model, (2000, 2)).x
    assert float(plain[:, 1].double().mean()) == pytest.approx(0.5, abs=0.05)
    assert (plain[:, 0] == plain[:, 1]).double().mean() > 0.9


@pytest.mark.parametrize("kind", ["uniform", "absorbing"])
def test_a_product_with_classes(kind: Any) -> None:
    chain = CategoricalChain(erasure_betas(4), 3, kind)
    probs = torch.rand(2, 5, chain.states, generator=generator(), dtype=F64).softmax(-1)
    weights = torch.tensor([1.0, 2.0, 0.0]).expand(1, 5, 3)
    for schedule, power in (("constant", 1.0), ("fading", 0.75)):
        found = CategoricalFactor(weights, schedule).times(CategoricalStep(probs), 1, chain).probs  # type: ignore[arg-type]
        wanted = probs * torch.cat((weights.double() ** power, torch.ones(1, 5, chain.states - 3).double()), -1)
        torch.testing.assert_close(found, wanted / wanted.sum(-1, keepdim=True))
    torch.manual_seed(0)
    model = DiscreteChainModel(MLP((5 * chain.states,), width=8, blocks=1), chain)
    x = sample_chain(model, (400, 5), factor=CategoricalFactor(weights)).x
    assert set(x.unique().tolist()) == {0, 1}
    known = CategoricalFactor(nn.functional.one_hot(torch.tensor([[2, 2, 1, 1, 0]]), 3))
    assert sample_chain(model, (3, 5), factor=known).x.tolist() == [[2, 2, 1, 1, 0]] * 3


def test_factors_go_with_their_rows() -> None:
    model = GaussianChainModel(gaussian(VPSDE(), (2,)), VPSDE().chain(5))
    means = torch.randn(6, 2, generator=generator())
    whole = sample_chain(model, (6, 2), factor=GaussianFactor(means, torch.full((2,), 0.2)))
    parts = sample_chain(model, (6, 2), factor=GaussianFactor(means, torch.full((2,), 0.2)), batch_size=4)
    torch.testing.assert_close(whole.x, parts.x)
    assert not torch.allclose(whole.x, sample_chain(model, (6, 2)).x, atol=1e-3)


def wrong(call: Any, *words: str) -> None:
    with pytest.raises(ValueError, match=".*".join(words)) as found:
        call()
    assert "\n" not in str(found.value)


def test_wrong_input() -> None:
    model = GaussianChainModel(gaussian(VPSDE(), (2,)), VPSDE().chain(5))
    bits = DiscreteChainModel(Known(), BinomialChain([0.5, 0.5]))
    ones = torch.ones(1, 2)
    wrong(lambda: GaussianFactor(ones, -ones), "variance has values", "negative")
    wrong(lambda: GaussianFactor(ones, torch.ones(1, 3)), r"variance has shape \(1, 3\), expected \(1, 2\)")
    wrong(lambda: GaussianFactor(ones / 0, ones), "mean has values", "infinity")
    wrong(lambda: GaussianFactor(ones, ones, "noised"), "schedule is 'noised'", "'constant'")  # type: ignore[arg-type]
    wrong(lambda: CategoricalFactor(torch.zeros(1, 2, 2)), "all 0")
    wrong(lambda: CategoricalFactor(-torch.ones(1, 2, 2)), "negative")
    wrong(lambda: sample_chain(bits, 3, factor=GaussianFactor(ones, ones)), "GaussianFactor is for", "take")
    wrong(lambda: sample_chain(bits, 3, factor=GradientFactor(lambda x, s: x)), "GradientFactor is for")
    wrong(lambda: sample_chain(model, 3, factor=CategoricalFactor(torch.ones(1, 2, 2))), "CategoricalFactor is for")
    wrong(lambda: sample_chain(model, 3, factor=GaussianFactor(torch.ones(2, 2), ones)), r"mean has shape \(2, 2\)")
    wrong(lambda: sample_chain(bits, 3, factor=CategoricalFactor(torch.ones(1, 2, 3))), "3 values, expected 2")
    wrong(lambda: sample_chain(bits, 3, factor=CategoricalFactor(torch.ones(1, 3, 2))), "weights has shape")
    for returned, said in ((lambda x, s: x.sum(1), r"shape \(3,\)"), (lambda x, s: 1.0, "'float'")):
        factor = GradientFactor(returned)  # type: ignore[arg-type]
        wrong(lambda factor=factor: sample_chain(model, 3, factor=factor), f"gradient returned {said}", r"\(3, 2\)")  # type: ignore[misc]
    assert repr(GaussianFactor(ones, math.inf * ones)) == "GaussianFactor((1, 2), 0 of 2 values given, constant)"
