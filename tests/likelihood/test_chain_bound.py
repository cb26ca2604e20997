"""The bound of a chain against closed forms, enumeration, and the bound of the SDE's own discretisation."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from scoresde.chains import DiscreteChainModel, GaussianChainModel, sample_chain
from scoresde.data import Affine
from scoresde.likelihood import LikelihoodError, chain_bound, discrete_elbo, step_weights
from scoresde.networks import MLP
from scoresde.sde import VPSDE, BinomialChain, CategoricalChain, GaussianChain, erasure_betas
from tests.problems import correlated, gaussian, generator, ring

F64 = torch.float64


def test_gaussian_data_by_the_joint_distribution_of_all_steps() -> None:
    """q(x_1 ... x_T | x₀) and p(x_0 ... x_T) are normal: the bound is −E log q + E log p, in closed form."""
    chain = GaussianChain([0.1, 0.3, 0.2, 0.5])
    model = gaussian(VPSDE(), (1,), 0.7, 0.3)
    x0 = torch.tensor([[0.2], [1.5]], dtype=F64)
    count = chain.steps
    # x_t = √ᾱ_t x₀ + noise, with the covariance √(ᾱ_t/ᾱ_s) (1 − ᾱ_s) of the noises at s ≤ t.
    alpha = chain.alpha(torch.arange(1, count + 1))
    cov = torch.zeros(count, count, dtype=F64)
    for i, j in itertools.product(range(count), range(count)):
        s, t = min(i, j), max(i, j)
        cov[i, j] = alpha[t] / alpha[s] * (1 - alpha[s] ** 2)
    # p: x_T from N(0, 1), and x_{t−1} = m_t + k_t x_t + √β_t ε by the exact denoiser of N(0.7, 0.3).
    mean, scale = torch.zeros(count + 1, dtype=F64), torch.zeros(count + 1, count + 1, dtype=F64)
    scale[count, count] = 1.0  # columns: the noise of x_T last, that of x_{t−1} at t − 1
    for t in range(count, 0, -1):
        on_data, on_state, _ = (float(v) for v in chain.posterior_terms(t))
        a, v = float(chain.alpha(t)), float(chain.noise_share(t))
        gain = 0.3 * a / (a**2 * 0.3 + v)
        shift, slope = on_data * (0.7 - gain * a * 0.7), on_data * gain + on_state
        mean[t - 1] = shift + slope * mean[t]
        scale[t - 1] = slope * scale[t]
        scale[t - 1, t - 1] = float(chain.beta(t).sqrt())
    p = MultivariateNormal(mean, scale @ scale.T)
    precision = torch.linalg.inv(p.covariance_matrix)
    truth = []
    for data in x0[:, 0]:
        centre = torch.cat((data[None], alpha * data)) - mean
        inner = torch.zeros(count + 1, count + 1, dtype=F64)
        inner[1:, 1:] = cov
        log_p = -0.5 * (centre @ precision @ centre + (precision * inner).sum() + p.covariance_matrix.logdet())
        log_p = log_p - 0.5 * (count + 1) * math.log(2 * math.pi)
        entropy = 0.5 * (cov.logdet() + count * (1 + math.log(2 * math.pi)))
        truth.append(float(log_p + entropy))
    out = chain_bound(GaussianChainModel(model, chain), x0)
    # The control knows all of it: nothing is left to be drawn.
    torch.testing.assert_close(out.value, torch.tensor(truth, dtype=F64), rtol=0, atol=1e-9)
    rough = chain_bound(GaussianChainModel(model, chain), x0, control=False, draws=4000)
    assert ((rough.value - out.value).abs() < 4 * rough.stderr).all()
    assert rough.stderr.max() < 0.1


def test_a_chain_of_two_steps_has_a_standard_error() -> None:
    model = GaussianChainModel(ring(VPSDE()), VPSDE().chain(2))
    out = chain_bound(model, torch.zeros(400, 2))
    assert out.nfe == 4
    assert float(out.stderr.square().mean().sqrt()) == pytest.approx(float(out.value.std()), rel=0.15)


def test_it_is_the_discrete_elbo_on_the_same_grid() -> None:
    """Which takes x for a sample at t_min, and whose large variance, δ in x̃, is β/(1 − β) of the chain."""
    sde = VPSDE(0.1, 60.0, t_min=1e-9)  # hardly any noise at t_min, or signal at t_max, where the two bounds differ
    chain, times = sde.chain(30), [*(t / 30 for t in range(30, 0, -1)), 1e-9]
    variance = chain.betas / (1 - chain.betas)
    exact = gaussian(sde, (3,))
    y = exact.sample(5, sde.t_min, generator())
    by_chain = chain_bound(GaussianChainModel(exact, chain, variance), y).value
    by_sde = discrete_elbo(exact, y, times=times, prior="plain").value
    torch.testing.assert_close(by_chain, by_sde, rtol=0, atol=1e-4)

    model = correlated(sde)
    x = model.sample(40, sde.t_min, generator())
    mine = chain_bound(GaussianChainModel(model, chain, variance), x, draws=60)
    theirs = discrete_elbo(model, x, times=times, draws=60, prior="plain")
    error = float((mine.value - theirs.value).mean())
    assert abs(error) < 4 * math.hypot(mine.draw_stderr, float(theirs.stderr.norm()) / 40)
    assert mine.draw_stderr < 0.05


@pytest.mark.parametrize("make", [ring, correlated])
def test_drawn_steps_agree_with_all_steps(make: Any) -> None:
    sde = VPSDE()
    model = make(sde)
    inside, x = GaussianChainModel(model, sde.chain(200)), model.sample(60, 0.0, generator())
    full = chain_bound(inside, x, draws=4)
    drawn = chain_bound(inside, x, evaluations=80, seed=1)
    flat = chain_bound(inside, x, evaluations=400, weights=torch.ones(200), seed=2)
    assert (full.nfe, drawn.nfe, flat.nfe) == (800, 80, 400)
    for other in (drawn, flat):
        error = float((other.value - full.value).mean())
        assert abs(error) < 4 * math.hypot(full.draw_stderr, other.draw_stderr)
        seen = other.steps.isfinite()
        wrong = (other.steps - full.steps)[seen].abs() > 5 * torch.hypot(other.steps_stderr, full.steps_stderr)[seen]
        assert wrong.double().mean() < 0.03
    assert drawn.draw_stderr < full.draw_stderr * math.sqrt(800 / 80)
    torch.testing.assert_close(drawn.prior, full.prior)
    plain = chain_bound(inside, x, evaluations=80, seed=1, control=False)
    assert drawn.draw_stderr < plain.draw_stderr


@pytest.mark.parametrize("options", [{"draws": 3}, {"evaluations": 40}, {}], ids=str)
def test_the_standard_error_is_honest(options: dict[str, Any]) -> None:
    """That of a single noise for each step counts the differences of steps as noise, and is too large."""
    sde = VPSDE()
    model = ring(sde)
    x = model.sample(1, 0.0, generator()).expand(500, -1)
    out = chain_bound(GaussianChainModel(model, sde.chain(50)), x, **options)
    scatter, stated = float(out.value.std()), float(out.stderr.square().mean().sqrt())
    assert scatter < 1.1 * stated
    if "draws" in options:
        assert scatter > 0.9 * stated


def bits_model(length: int = 3, steps: int = 3) -> DiscreteChainModel:
    torch.manual_seed(1)
    mlp = MLP((length,), width=16, blocks=1)
    for parameter in mlp.parameters():
        nn.init.normal_(parameter, std=0.2)
    return DiscreteChainModel(mlp.double(), BinomialChain(torch.linspace(0.2, 0.6, steps)))


def test_the_bound_of_bits_by_enumeration_of_all_paths() -> None:
    model = bits_model()
    chain = model.chain
    states = torch.tensor(list(itertools.product((0, 1), repeat=3)))
    with torch.no_grad():
        reverse = [model.reverse(states, torch.full((8,), t)) for t in (1, 2, 3)]
        for start in (0, 5):
            x0 = states[start : start + 1]
            total = 0.0
            for path in itertools.product(range(8), repeat=3):
                log_q, before = torch.zeros((), dtype=F64), x0
                log_p = chain.prior_log_prob(states[path[-1] : path[-1] + 1])[0]
                for t, place in enumerate(path, 1):
                    after = states[place : place + 1]
                    log_q = log_q + chain.transition(before, t).log_prob(after)[0]
                    log_p = log_p + reverse[t - 1].log_prob(before.expand(8, 3))[place]
                    before = after
                total += float(log_q.exp() * (log_p - log_q))
            out = chain_bound(model, x0.expand(400, 3), draws=20)
            assert abs(out.mean - total) < 4 * out.draw_stderr
            assert out.draw_stderr < 0.01


class TrueBits(nn.Module):
    """The log-odds of the true p(x₀ | x_t) of one bit that is 1 with probability 0.3."""

    shape = (1,)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        kept = (1 - level)[:, None]
        return math.log(0.3 / 0.7) + x * ((1 + kept) / (1 - kept)).log()


def test_it_is_tight_for_the_exact_reverse_chain_of_discrete_data() -> None:
    """The last β of 1 ends in the prior, and the reverse step of one bit is a mixture of posteriors."""
    model = DiscreteChainModel(TrueBits(), BinomialChain(erasure_betas(4)))
    out = chain_bound(model, torch.tensor([[0], [1]]).repeat(4000, 1), draws=4)
    assert out.prior.abs().max() < 1e-12
    for k, p in ((0, 0.7), (1, 0.3)):
        values, errors = out.value[k::2], out.stderr[k::2]
        assert abs(float(values.mean()) - math.log(p)) < 4 * float(errors.norm()) / 4000


def test_absorbing_chains_have_no_cost_at_values_that_are_not_masked() -> None:
    chain = CategoricalChain(erasure_betas(6), 3, "absorbing")
    torch.manual_seed(0)
    model = DiscreteChainModel(MLP((4 * 4,), width=16, blocks=1), chain)  # a new network: all classes alike
    out = chain_bound(model, torch.randint(0, 3, (50, 4), generator=generator()), draws=8)
    # Every value is guessed once, at log 3, whenever it is unmasked.
    assert ((out.value + 4 * math.log(3)).abs() < 4 * out.stderr + 1e-9).all()
    assert chain_bound(model, torch.zeros(2, 4).long(), evaluations=5).nfe == 5


def test_samples_do_not_see_each_other() -> None:
    sde = VPSDE()
    model = ring(sde)
    inside, x = GaussianChainModel(model, sde.chain(30)), model.sample(6, 0.0, generator())
    for options in ({"draws": 2}, {"evaluations": 12}):
        whole = chain_bound(inside, x, seed=3, **options)  # type: ignore[arg-type]
        part = chain_bound(inside, x[2:4], seed=3, first=2, batch_size=5, **options)  # type: ignore[arg-type]
        torch.testing.assert_close(part.value, whole.value[2:4])
        torch.testing.assert_close(part.stderr, whole.stderr[2:4])
        assert not whole.value.equal(chain_bound(inside, x, seed=4, **options).value)  # type: ignore[arg-type]


def test_continuous_data_are_in_their_own_units() -> None:
    """The bound moves by the log-determinant, and samples come back in these units."""
    sde = VPSDE()
    model = ring(sde)
    plain, x = GaussianChainModel(model, sde.chain(20)), model.sample(5, 0.0, generator())
    other = ring(sde)
    other.transform = Affine([1.0, -2.0], [10.0, 3.0])
    inside = GaussianChainModel(other, sde.chain(20))
    raw = other.transform.decode(x)
    moved = chain_bound(inside, raw)
    torch.testing.assert_close(moved.value, chain_bound(plain, x).value - math.log(30.0), rtol=0, atol=1e-4)
    out, kept = (sample_chain(m, 4, trajectory=True) for m in (inside, plain))
    torch.testing.assert_close(out.x, other.transform.decode(kept.x))
    assert out.trajectory is not None
    assert out.trajectory[-1].equal(out.x)


def test_a_thinned_chain_asks_its_network_at_the_same_noise() -> None:
    model = bits_model(3, 6)
    thin = DiscreteChainModel(model.network, model.chain.thinned([2, 4, 6]))
    x, t = torch.randint(0, 2, (5, 3), generator=generator()), torch.tensor([1, 2, 3, 1, 2])
    torch.testing.assert_close(thin.probabilities(x, t), model.probabilities(x, 2 * t))
    full, less = (chain_bound(m, x, draws=400).value for m in (model, thin))
    assert full.isfinite().all()
    assert less.isfinite().all()


def test_weights_from_the_noise_levels() -> None:
    sde = VPSDE()
    inside = GaussianChainModel(gaussian(sde, (2,), variance=1.0), sde.chain(1000))
    weights = step_weights(inside)
    assert weights.shape == (1000,)
    probs = weights / weights.sum()
    far = inside.chain.log_snr(torch.arange(1, 1001)) < -math.log(3)
    assert float(probs[far].sum()) == pytest.approx(0.125, abs=0.01)
    assert step_weights(bits_model()).tolist() == [1, 1, 1]


def wrong(call: Any, *words: str, kind: type[Exception] = ValueError) -> None:
    with pytest.raises(kind, match=".*".join(words)) as found:
        call()
    assert "\n" not in str(found.value)


def test_wrong_input() -> None:
    sde = VPSDE()
    inside = GaussianChainModel(ring(sde), sde.chain(10))
    x = torch.zeros(3, 2)
    wrong(lambda: chain_bound(inside, x, draws=0), "draws is 0")
    wrong(lambda: chain_bound(inside, x, evaluations=3), "evaluations is 3", "at least 4")
    wrong(lambda: chain_bound(inside, x, evaluations=8, draws=2), "draws is 2 beside evaluations=8")
    wrong(lambda: chain_bound(inside, x, weights=torch.ones(10)), "give the number of evaluations")
    nine, late = torch.ones(9), torch.ones(10).index_fill(0, torch.tensor([3]), math.nan)
    wrong(lambda: chain_bound(inside, x, evaluations=8, weights=nine), r"weights: got shape \(9,\)", "10 steps")
    wrong(lambda: chain_bound(inside, x, evaluations=8, weights=late), r"weights: that of step 4 is nan", "10 steps")
    wrong(lambda: chain_bound(inside, x, evaluations=8, weights=torch.zeros(10)), "positive")
    wrong(lambda: chain_bound(inside, x[0]), "x has shape")
    wrong(lambda: chain_bound(inside, x / 0), "not finite")
    wrong(lambda: chain_bound(inside, x.int()), "x has dtype torch.int32", "chain_bits_per_dim")
    wrong(lambda: chain_bound(inside, x, batch_size=0), "batch_size is 0")
    wrong(lambda: chain_bound(bits_model(2), x + 0.5), "0.5", "binary")
    wrong(lambda: chain_bound(inside, x, labels=[1, 2]), "labels")
    wrong(lambda: chain_bound(inside.model, x), "model is", "expected a ChainModel, such as")  # type: ignore[arg-type]
    short = DiscreteChainModel(MLP((8,), 8), CategoricalChain([0.5, 0.5], 3, "absorbing"))
    wrong(lambda: chain_bound(short, torch.zeros(2, 2).long()), "does not end in its prior", "last β be 1")
    model = bits_model()
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    with pytest.raises(LikelihoodError, match="not finite for 2 of 2") as found:
        chain_bound(model, torch.zeros(2, 3).long())
    assert found.value.samples == [0, 1]
