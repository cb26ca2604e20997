"""The Gaussian chain of 2015 as an SDE, and its rates as they are learned."""

import math
import warnings

import pytest
import torch
from torch import Tensor

from scoresde.chains import GaussianChainModel
from scoresde.likelihood import chain_bound
from scoresde.objectives import UniformSteps, VariationalBound
from scoresde.score import GaussianMixtureScore
from scoresde.sde import ErasureVPSDE, GaussianChain

WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)
MEANS = torch.tensor([[-1.2], [0.8]], dtype=torch.float64)
VARIANCES = torch.tensor([0.05, 0.1], dtype=torch.float64)


def draws(n: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    which = torch.multinomial(WEIGHTS, n, replacement=True, generator=generator)
    noise = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    return MEANS[which] + VARIANCES[which].sqrt()[:, None] * noise


def test_every_step_after_the_first_erases_an_equal_share() -> None:
    sde = ErasureVPSDE(20, 1e-6)
    signal = sde.chain().signal(torch.arange(1, 21))
    assert torch.allclose(signal.diff(), torch.full((19,), -1 / 20, dtype=torch.float64), atol=1e-6)
    assert signal[-1].item() == pytest.approx(1 / 20, rel=1e-5)
    assert sde.chain() == GaussianChain(sde.betas)
    assert ErasureVPSDE(20).betas[0] == 1e-3
    assert repr(ErasureVPSDE(20, learned=True)) == "ErasureVPSDE(20, beta_1=0.001, learned=True, t_min=0.05)"


def test_learned_rates_begin_as_the_fixed_ones_and_have_a_graph() -> None:
    fixed, learned = ErasureVPSDE(12), ErasureVPSDE(12, learned=True)
    t = torch.linspace(0.1, 1, 7, dtype=torch.float64)
    for name in ("alpha", "sigma", "log_snr", "beta"):
        assert torch.allclose(getattr(fixed, name)(t), getattr(learned, name)(t).detach(), rtol=1e-5)
    assert learned.rates is not None
    (-learned.log_snr(t).sum()).backward()
    assert learned.rates.logits.grad is not None
    assert float(learned.rates.logits.grad.min()) > 0  # more noise in any step is less signal after it
    with torch.no_grad():
        learned.rates.logits.fill_(50.0)
    assert max(learned.betas) < 1
    with torch.no_grad():
        learned.rates.logits.fill_(-50.0)
    assert min(learned.betas[1:]) > 0
    assert learned.betas[0] == 1e-3  # fixed, as in the paper


def test_the_gradient_of_the_bound_is_that_of_finite_differences() -> None:
    sde = ErasureVPSDE(6, learned=True)
    assert sde.rates is not None
    sde.rates.logits.data = sde.rates.logits.data.double()
    model, x0 = GaussianMixtureScore(WEIGHTS, MEANS, VARIANCES, sde), draws(64)
    u = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    noise = torch.randn(64, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    bound = VariationalBound(UniformSteps(), variance="forward")

    def value() -> Tensor:
        return bound(model, x0, u=u, noise=noise).value

    value().backward()  # type: ignore[no-untyped-call]
    grad = sde.rates.logits.grad
    assert grad is not None
    for i in range(5):
        differences = []
        for sign in (1e-5, -1e-5):
            with torch.no_grad():
                sde.rates.logits[i] += sign
                differences.append(float(value()))
                sde.rates.logits[i] -= sign
        assert float(grad[i]) == pytest.approx((differences[0] - differences[1]) / 2e-5, rel=1e-5, abs=1e-7)


def test_learned_rates_lower_the_bound_of_the_exact_reverse_chain() -> None:
    sde = ErasureVPSDE(8, learned=True)
    assert sde.rates is not None
    model, x = GaussianMixtureScore(WEIGHTS, MEANS, VARIANCES, sde), draws(3000)
    train, test = x[:2000], x[2000:]

    def bound() -> Tensor:
        return chain_bound(GaussianChainModel(model, sde.chain()), test, draws=4).value

    before = bound()
    with torch.no_grad():
        exact = float(model.log_prob(test, torch.tensor(0.0)).mean())
    optimizer, generator = torch.optim.Adam(sde.rates.parameters(), 0.05), torch.Generator().manual_seed(0)
    objective = VariationalBound(UniformSteps(), variance="forward")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(80):
            optimizer.zero_grad()
            objective(model, train, generator).value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    after = bound()  # of the same samples, with the same noise
    gain = after - before
    error = float(gain.std()) / math.sqrt(len(gain))
    assert float(gain.mean()) > 5 * error
    assert float(gain.mean()) > 0.05
    assert float(after.mean()) < exact + 4 * error  # a bound still
    assert not math.isclose(sde.betas[-1], 0.5, rel_tol=0.1)


def test_the_value_of_the_loss_is_the_whole_bound_in_bits() -> None:
    sde = ErasureVPSDE(5, learned=True)
    model, x = GaussianMixtureScore(WEIGHTS, MEANS, VARIANCES, sde), draws(40_000)
    with torch.no_grad():
        loss = VariationalBound(UniformSteps(), variance="forward")(model, x, torch.Generator().manual_seed(3))
    out = chain_bound(GaussianChainModel(model, sde.chain()), x[:4000], draws=2)
    assert float(loss.value) == pytest.approx(-out.mean / math.log(2), abs=0.06)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_steps": 1}, "train_steps is 1, expected an integer of at least 2"),
        ({"beta_1": 0.6}, r"beta_1 is 0.6, expected a number between 0 and 1/2"),
        ({"beta_1": 0.0}, "beta_1 is 0"),
    ],
)
def test_refusals(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ErasureVPSDE(**arguments)  # type: ignore[arg-type]


def test_steps_that_are_not_those_of_the_rates() -> None:
    model = GaussianMixtureScore(WEIGHTS, MEANS, VARIANCES, ErasureVPSDE(6, learned=True))
    with pytest.raises(ValueError, match=r"objective\.times\.steps is 9, and the rates of 6 steps are learned"):
        VariationalBound(UniformSteps(9), variance="forward")(model, draws(4))
