"""Markov chains: Gaussian ones against the SDEs whose views they are, discrete ones against their matrices."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, distributions
from torch.distributions import kl_divergence

from scoresde.numerics.random import SampleNoise
from scoresde.sde import (
    DDPMSDE,
    VESDE,
    VPSDE,
    BinomialChain,
    CategoricalChain,
    CategoricalStep,
    Chain,
    CosineSDE,
    DiscreteVPSDE,
    FlowSDE,
    GaussianChain,
    GaussianStep,
    SubVPSDE,
    cosine_betas,
    erasure_betas,
    linear_betas,
)
from tests.problems import generator

F64 = torch.float64
BETAS = [0.1, 0.35, 0.2, 0.6]


def steps_of(chain: Chain) -> Tensor:
    return torch.arange(1, chain.steps + 1)


@pytest.mark.parametrize("sde", [VPSDE(), VPSDE(0.5, 5.0, t_max=0.7), CosineSDE(), DDPMSDE(40)], ids=repr)
@pytest.mark.parametrize("steps", [2, 7, 1000])
def test_the_chain_of_an_sde_has_its_kernels(sde: Any, steps: int) -> None:
    chain = sde.chain(steps)
    t = steps_of(chain)
    times = sde.t_max * t.double() / chain.steps
    torch.testing.assert_close(chain.alpha(t), sde.alpha(times), rtol=1e-11, atol=0)
    torch.testing.assert_close(chain.sigma(t), sde.sigma(times), rtol=1e-11, atol=0)
    torch.testing.assert_close(chain.log_snr(t), sde.log_snr(times), rtol=0, atol=1e-10)
    a, b = sde.transition(times[1:], times[:-1])
    torch.testing.assert_close((1 - chain.beta(t[1:])).sqrt(), a, rtol=1e-11, atol=0)
    torch.testing.assert_close(chain.beta(t[1:]), b.square(), rtol=1e-11, atol=0)


@pytest.mark.parametrize("betas", [linear_betas(), cosine_betas(), erasure_betas(51)[:-1], BETAS])
def test_the_sde_of_a_chain_has_its_kernels_and_its_chain_is_the_chain(betas: Any) -> None:
    chain = GaussianChain(betas)
    sde = chain.sde()
    t = steps_of(chain)
    torch.testing.assert_close(sde.alpha(t.double() / chain.steps), chain.alpha(t), rtol=1e-10, atol=0)
    torch.testing.assert_close(sde.log_snr(t.double() / chain.steps), chain.log_snr(t), rtol=0, atol=1e-10)
    assert sde.chain() == chain
    torch.testing.assert_close(sde.chain(chain.steps).betas, chain.betas, rtol=1e-9, atol=0)
    assert DDPMSDE().chain() == GaussianChain(linear_betas())
    # The same draw from the same noise.
    x0, noise = torch.randn(2, 5, 3, generator=generator(), dtype=F64)
    some = torch.tensor([1, 2, 3, chain.steps, chain.steps - 1])
    torch.testing.assert_close(chain.perturb(x0, some, noise), sde.perturb(x0, some / number(chain.steps), noise))


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=F64)


def test_the_linear_chain_of_ddpm_is_the_vp_sde_up_to_the_reciprocal_of_its_steps() -> None:
    """log ᾱ of the table falls below −B(t) by up to 0.067 at T = 1000, half of it in λ, and by half at twice T.

    `VPSDE.chain` has no such gap: its β_t is 1 − exp(−∫β) over a step, not the rate times the step.
    """
    sde, gaps = VPSDE(0.1, 20.0), []
    for steps in (1000, 2000, 4000):
        chain = GaussianChain(linear_betas(steps, 0.1 / steps, 20 / steps))
        t = steps_of(chain)
        gap = 2 * (sde.log_snr(t.double() / steps) - chain.log_snr(t))[steps // 10 :]
        gaps.append(float(gap.abs().max()))
        second = torch.linspace(0.1, 20, steps, dtype=F64).square().mean() / (2 * steps)
        assert gap[-1] == pytest.approx(float(second), rel=0.02)  # −log(1 − β) less β
    assert gaps[0] == pytest.approx(0.0681, abs=2e-3)
    assert gaps[0] / gaps[1] == pytest.approx(2, abs=0.05)
    assert gaps[1] / gaps[2] == pytest.approx(2, abs=0.05)


def test_the_cosine_chain_is_the_cosine_sde_until_its_last_steps() -> None:
    steps = 1000
    chain, sde = GaussianChain(cosine_betas(steps)), CosineSDE()
    t = torch.arange(1, 990)
    torch.testing.assert_close(chain.log_snr(t), sde.log_snr(t.double() / steps), rtol=0, atol=1e-9)
    assert chain.log_snr(steps) < sde.log_snr_min - 4  # the SDE ends where it is −5
    table = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
    expected = [min(1 - after / before, 0.999) for before, after in itertools.pairwise(table)]
    torch.testing.assert_close(cosine_betas(steps), torch.tensor(expected, dtype=F64), rtol=1e-7, atol=0)


def test_gaussian_posterior_by_conditioning_the_joint_distribution() -> None:
    """x_{t−1} and x_t given x₀ are jointly normal; the moments come from the steps one by one."""
    chain = GaussianChain(BETAS)
    x0, x = torch.randn(2, 5, 3, generator=generator(), dtype=F64)
    for t in range(2, chain.steps + 1):
        scale, variance = number(1.0), number(0.0)
        for beta in BETAS[: t - 1]:
            scale, variance = scale * math.sqrt(1 - beta), (1 - beta) * variance + beta
        a = math.sqrt(1 - BETAS[t - 1])
        total = a**2 * variance + BETAS[t - 1]
        mean = scale * x0 + a * variance / total * (x - a * scale * x0)
        found = chain.posterior(x, x0, torch.full((5,), t))
        torch.testing.assert_close(found.mean, mean)
        torch.testing.assert_close(found.variance, (variance - (a * variance) ** 2 / total).expand(5, 1))
    first = chain.posterior(x, x0, 1)
    torch.testing.assert_close(first.mean, x0)
    assert not first.variance.any()


def matrices(chain: Any) -> tuple[list[Tensor], list[Tensor]]:
    """The transition matrices Q_t of one value, and their products, entry by entry from the papers."""
    states, steps, mask = chain.states, [], chain.states - 1
    for beta in chain.betas.tolist():
        q = torch.zeros(states, states, dtype=F64)
        for i, j in itertools.product(range(states), range(states)):
            if getattr(chain, "kind", "uniform") == "uniform":
                q[i, j] = 1 - (states - 1) / states * beta if i == j else beta / states
            elif i == mask:
                q[i, j] = float(i == j)
            else:
                q[i, j] = 1 - beta if i == j else beta if j == mask else 0.0
        steps.append(q)
    products = list(itertools.accumulate(steps, torch.matmul))
    return steps, products


DISCRETE = [
    BinomialChain(BETAS),
    BinomialChain(erasure_betas(4)),
    CategoricalChain(BETAS, 3),
    CategoricalChain(BETAS, 3, "absorbing"),
    CategoricalChain(erasure_betas(4), 4, "absorbing"),
]


@pytest.mark.parametrize("chain", DISCRETE, ids=repr)
def test_discrete_chains_are_their_matrices_multiplied_out(chain: Any) -> None:
    steps, products = matrices(chain)
    every, data = torch.arange(chain.states)[:, None], torch.arange(chain.classes)[:, None]
    soft = torch.rand(chain.classes, generator=generator(), dtype=F64).softmax(0)
    for t in range(1, chain.steps + 1):
        q, total = steps[t - 1], products[t - 1]
        before = products[t - 2] if t > 1 else torch.eye(chain.states, dtype=F64)
        torch.testing.assert_close(chain.transition(every, t).probs[:, 0], q)
        torch.testing.assert_close(chain.marginal(data, t).probs[:, 0], total[: chain.classes])
        for x in range(chain.states):
            reached = [k for k in range(chain.classes) if total[k, x] > 0]
            mixture = torch.zeros(chain.states, dtype=F64)
            for k in reached:
                posterior = q[:, x] * before[k] / total[k, x]
                mixture += soft[k] * posterior
                found = chain.posterior(torch.tensor([[x]]), torch.tensor([[k]]), torch.tensor([t]))
                torch.testing.assert_close(found.probs[0, 0], posterior)
            if reached:
                found = chain.mean_posterior(torch.tensor([[x]]), soft[None, None], t)
                torch.testing.assert_close(found.probs[0, 0], mixture / soft[reached].sum())


@pytest.mark.parametrize("t", [1, 2, 3, 4])
def test_binomial_posterior_by_enumeration_of_four_bits(t: int) -> None:
    """Over all paths of 16 states: the joint probability of x₀, x_{t−1}, x_t, summed over what lies between."""
    chain = BinomialChain(BETAS)
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=F64)
    differ = (states[:, None] != states).sum(2).double()

    def step(beta: float) -> Tensor:
        return (beta / 2) ** differ * (1 - beta / 2) ** (4 - differ)

    before = torch.eye(16, dtype=F64)
    for beta in BETAS[: t - 1]:
        before = before @ step(beta)
    joint = before[:, :, None] * step(BETAS[t - 1])  # x₀, x_{t−1}, x_t
    truth = joint / joint.sum(1, keepdim=True)
    for i, j in itertools.product(range(16), range(16)):
        found = chain.posterior(states[j].expand(16, 4), states[i].expand(16, 4), t)
        if t == 1:
            assert found.mode.equal(states[i].expand(16, 4))
        torch.testing.assert_close(found.log_prob(states).exp(), truth[i, :, j], atol=1e-14, rtol=1e-9)


@pytest.mark.parametrize("chain", [GaussianChain(BETAS), *DISCRETE[:4]], ids=repr)
def test_steps_one_after_the_other_end_where_the_marginal_says(chain: Any) -> None:
    n, g = 40_000, generator()
    x = x0 = torch.full((n, 1), 1.0, dtype=F64) if isinstance(chain, GaussianChain) else torch.ones(n, 1).long()
    for t in range(1, chain.steps + 1):
        x = chain.forward_step(x, t, g)
    expected = chain.marginal(x0[:1], chain.steps)
    direct = chain.perturb(x0, torch.full((n,), chain.steps), g)
    for drawn in (x, direct):
        if isinstance(expected, GaussianStep):
            assert abs(float(drawn.mean() - expected.mean)) < 4 * float(expected.variance.sqrt()) / n**0.5
            assert float(drawn.var()) == pytest.approx(float(expected.variance), rel=4 * (2 / n) ** 0.5)
        else:
            assert drawn.dtype == torch.int64
            share = torch.bincount(drawn[:, 0], minlength=chain.states).double() / n
            assert ((share - expected.probs[0, 0]).abs() <= 4 * (expected.probs[0, 0] / n).sqrt()).all()


@pytest.mark.parametrize("chain", [GaussianChain(BETAS), *DISCRETE], ids=repr)
def test_a_thinned_chain_has_the_same_marginals(chain: Any) -> None:
    thin = chain.thinned([2, 4])
    assert thin.steps == 2
    torch.testing.assert_close(thin.signal(torch.arange(3)), chain.signal(torch.tensor([0, 2, 4])))
    assert type(thin) is type(chain)
    assert thin._settings() == chain._settings()
    assert chain.thinned([1, 2, 3, 4]).betas == pytest.approx(chain.betas)


def test_values_of_steps_against_torch_distributions() -> None:
    g = generator()
    mean, other = torch.randn(2, 4, 3, 2, generator=g, dtype=F64)
    variance, wider = torch.rand(2, 4, 1, 1, generator=g, dtype=F64) + 0.1
    p, q = GaussianStep(mean, variance), GaussianStep(other, wider)
    tp, tq = (
        distributions.Independent(distributions.Normal(m, v.sqrt().expand_as(m)), 2)
        for m, v in ((mean, variance), (other, wider))
    )
    torch.testing.assert_close(p.kl_from(q), kl_divergence(tq, tp))
    torch.testing.assert_close(p.entropy(), tp.entropy())
    torch.testing.assert_close(p.log_prob(other), tp.log_prob(other))
    assert p.sample(torch.zeros_like(mean)).equal(mean)

    probs, reference = torch.rand(2, 4, 3, 5, generator=g, dtype=F64).softmax(-1)
    c, d = CategoricalStep(probs), CategoricalStep(reference)
    tc, td = (distributions.Independent(distributions.Categorical(v), 1) for v in (probs, reference))
    torch.testing.assert_close(c.kl_from(d), kl_divergence(td, tc))
    torch.testing.assert_close(c.entropy(), tc.entropy())
    x = tc.sample()
    torch.testing.assert_close(c.log_prob(x), tc.log_prob(x))
    point = CategoricalStep(torch.nn.functional.one_hot(x, 5).double())
    torch.testing.assert_close(c.kl_from(point), -c.log_prob(x))
    assert point.kl_from(point).abs().max() == 0
    assert point.sample(g).equal(x)
    assert (point.kl_from(c) == math.inf).all()


def test_a_state_without_probability_is_never_drawn() -> None:
    probs = torch.tensor([0.0, 0.3, 0.7 - 1e-7, 0.0]).expand(2, 1, 4)
    ends = CategoricalStep(probs).sample(torch.tensor([[0.0], [1 - 2.0**-24]]))
    assert ends.tolist() == [[1], [2]]


@pytest.mark.parametrize("chain", [GaussianChain(BETAS), *DISCRETE[:4]], ids=repr)
def test_noise_of_a_sample_does_not_depend_on_its_batch(chain: Any) -> None:
    def draws(indices: list[int]) -> Tensor:
        noise = SampleNoise(3, torch.tensor(indices), (2, 3))
        return chain.prior_sample((len(indices), 2, 3), chain.draw(noise))

    assert draws([0, 1, 2])[1:].equal(draws([1, 2]))


def test_gradients_reach_the_betas() -> None:
    logits = torch.full((4,), -1.0, dtype=F64, requires_grad=True)
    for chain in (GaussianChain(logits.sigmoid()), BinomialChain(logits.sigmoid())):
        x0 = torch.ones(3, 2, dtype=F64)
        x = chain.perturb(x0, 2, generator()).detach()
        value: Tensor = chain.posterior(x, x0, torch.tensor([2, 3, 4])).entropy().sum()
        (gradient,) = torch.autograd.grad(value, logits)
        assert gradient.isfinite().all()
        assert gradient.abs().min() > 0


def test_schedules() -> None:
    assert linear_betas().tolist()[::999] == [1e-4, 0.02]
    chain = BinomialChain(erasure_betas(10))
    torch.testing.assert_close(chain.signal(torch.arange(11)), 1 - torch.arange(11).double() / 10)
    prior = chain.prior(torch.zeros(2, 3))
    assert prior.kl_from(chain.marginal(torch.ones(2, 3), 10)).abs().max() < 1e-15
    z = chain.prior_sample((2, 3), generator())
    torch.testing.assert_close(chain.prior_log_prob(z), number(-3 * math.log(2)).expand(2))


def test_chains_compare_by_value_and_say_what_they_are() -> None:
    assert repr(GaussianChain(linear_betas())) == "GaussianChain(betas=[0.0001, ..., 0.02] (1000))"
    assert "classes=3, kind='absorbing'" in repr(DISCRETE[3])
    assert CategoricalChain(BETAS, 3) != CategoricalChain(BETAS, 3, "absorbing")
    assert BinomialChain(BETAS) != GaussianChain(BETAS)
    assert hash(BinomialChain(BETAS)) == hash(BinomialChain(BETAS))
    assert isinstance(GaussianChain(BETAS).sde(), DiscreteVPSDE)


def wrong(call: Any, *words: str) -> None:
    with pytest.raises(ValueError, match=".*".join(words)) as found:
        call()
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("make", [GaussianChain, BinomialChain, lambda b: CategoricalChain(b, 3)])
def test_wrong_betas(make: Any) -> None:
    wrong(lambda: make([0.1]), "betas has shape", "at least 2")
    wrong(lambda: make([0.1, 1.5]), "β_2 of 2 is 1.5", "between 0 and 1")
    wrong(lambda: make([0.0, 0.5]), "β_1 of 2 is 0")
    wrong(lambda: make([1.0, 0.5]), "β_1 of 2 is 1")
    wrong(lambda: make([0.1, math.nan]), "β_2 of 2 is nan")


def test_wrong_input() -> None:
    gaussian, bits, words = GaussianChain(BETAS), BinomialChain(BETAS), CategoricalChain(BETAS, 3, "absorbing")
    wrong(lambda: GaussianChain([0.5, 1.0]), "β_2 of 2 is 1", "no signal")
    wrong(lambda: VPSDE().chain(1), "steps is 1", "at least 2")
    for sde in (VESDE(), FlowSDE(), SubVPSDE()):
        assert not hasattr(sde, "chain")
        wrong(lambda sde=sde: GaussianChain.of(sde, 10), "does not preserve variance")  # type: ignore[misc]
    x = torch.zeros(2, 3)
    wrong(lambda: gaussian.perturb(x, 0), "t runs from 0 to 0", "1 to 4")
    wrong(lambda: gaussian.perturb(x, torch.tensor([1, 5])), "t runs from 1 to 5")
    wrong(lambda: gaussian.perturb(x, torch.tensor([0.5, 0.5])), "float32", "integers")
    wrong(lambda: gaussian.perturb(x, torch.tensor([1, 2, 3])), "t has shape")
    wrong(lambda: bits.perturb(x, torch.tensor([1, 2, 3])), "t has shape")
    wrong(lambda: gaussian.perturb(x, 1, torch.zeros(3)), "noise has shape")
    wrong(lambda: gaussian.perturb(x.long(), 1), "dtype torch.int64", "floating point")
    wrong(lambda: gaussian.forward_step(x.long(), 1), "dtype torch.int64", "floating point")
    wrong(lambda: gaussian.perturb(torch.tensor(1.0), 1), r"x has shape \(\)", "batch")
    for chain in (gaussian, bits, words):
        wrong(lambda chain=chain: chain.posterior(x, x[:1], 2), r"x0 has shape \(1, 3\), expected \(2, 3\)")  # type: ignore[misc]
    wrong(lambda: bits.prior_log_prob(x + 2), "z has the value 2", "binary")
    wrong(lambda: bits.perturb(x + 0.5, 1), "x0 has the value 0.5", "binary")
    wrong(lambda: bits.posterior(x + 2, x, 1), "x has the value 2", "binary")
    wrong(lambda: words.perturb(x + 3, 1), "x0 has the value 3", "0 to 2")
    wrong(lambda: words.transition(x + 4, 1), "x has the value 4", "0 to 3")
    wrong(lambda: CategoricalChain(BETAS, 1), "classes is 1")
    wrong(lambda: CategoricalChain(BETAS, 3, "other"), "kind is 'other'")  # type: ignore[arg-type]
    wrong(lambda: gaussian.thinned([3, 2]), "increase")
    wrong(lambda: cosine_betas(10, s=0.0), "s is 0")
    assert gaussian.sde(0.1).t_min == 0.1
