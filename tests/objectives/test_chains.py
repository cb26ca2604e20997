"""The bound of discrete chains as a loss, against enumeration and against the bound that sums over all steps."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from scoresde.chains import DiscreteChainModel
from scoresde.likelihood import chain_bound
from scoresde.objectives import ChainLoss
from scoresde.objectives.chains import check_states
from scoresde.sde import BinomialChain, CategoricalChain, erasure_betas


class Odds(nn.Module):
    """A network whose log-odds are a fixed linear function of the bits and of the level."""

    shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        weights = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.weight = nn.Parameter(0.7 * weights)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return torch.cat((x, c_noise[:, None]), 1) @ self.weight


def bits_of_four() -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64)


def test_its_expectation_over_all_steps_and_states_is_the_bound() -> None:
    chain = BinomialChain(erasure_betas(3))
    model, states = DiscreteChainModel(Odds(), chain), bits_of_four()
    x0 = states[[5]]
    expected = 0.0
    for t in (1, 2, 3):
        step = torch.full((16,), t)
        weights = chain.marginal(x0.expand(16, -1), step).log_prob(states).exp()
        terms = model.reverse(states, step).kl_from(chain.posterior(states, x0.expand(16, -1), step))
        expected += float((weights * terms).sum().detach()) / 4
    n = 60_000
    generator = torch.Generator().manual_seed(1)
    loss = ChainLoss()(model, x0.expand(n, -1), generator)
    error = 3 * float(loss.per_sample.std()) / math.sqrt(n)
    assert abs(float(loss.value) - expected) < 4 * error
    assert float(loss.value) == pytest.approx(3 * float(loss.per_sample.mean()))
    # Of the terms that `chain_bound` sums, all but the divergence from the prior, which is 0 after the last step.
    whole = chain_bound(model, x0.expand(4000, -1), draws=2)
    assert abs(-whole.mean / 4 - expected) < 4 * whole.draw_stderr / 4


def test_u_and_noise_choose_steps_and_states() -> None:
    chain = BinomialChain(erasure_betas(4))
    model, x0 = DiscreteChainModel(Odds(), chain), bits_of_four()[:4]
    u, noise = torch.tensor([0.0, 0.26, 0.5, 1.0]), torch.zeros(4, 4, dtype=torch.float64)
    loss = ChainLoss()(model, x0, u=u, noise=noise)
    again = ChainLoss()(model, x0, u=u, noise=noise)
    assert torch.equal(loss.per_sample, again.per_sample)
    assert torch.allclose(loss.log_snr, model.log_snr(torch.tensor([1, 2, 3, 4])))
    assert bool(loss.log_snr.isfinite().all())
    t = torch.tensor([1, 2, 3, 4])
    x = chain.perturb(x0, t, torch.full((4, 4), 0.5, dtype=torch.float64))
    expected = model.reverse(x, t).kl_from(chain.posterior(x, x0, t)) / 4
    assert torch.allclose(loss.per_sample, expected)


def test_the_gradient_reaches_the_network_and_the_cross_entropy_adds_to_it() -> None:
    model, x0 = DiscreteChainModel(Odds(), BinomialChain(erasure_betas(4))), bits_of_four()
    losses = [ChainLoss(weight)(model, x0, torch.Generator().manual_seed(0)) for weight in (0.0, 0.5)]
    assert float(losses[1].value) > float(losses[0].value)
    assert torch.equal(losses[0].per_sample, losses[1].per_sample)
    losses[0].value.backward()  # type: ignore[no-untyped-call]
    grad = model.network.weight.grad
    assert isinstance(grad, Tensor)
    assert float(grad.abs().min()) > 0


def test_training_on_two_sequences_reaches_their_entropy() -> None:
    # 0101 and 1010: one bit of entropy, which the bound comes close to as the steps become many.
    x0 = torch.tensor([[0.0, 1, 0, 1], [1, 0, 1, 0]], dtype=torch.float64).repeat(64, 1)
    network = nn.Sequential(nn.Linear(5, 32), nn.SiLU(), nn.Linear(32, 4)).double()

    class Joined(nn.Module):
        shape = (4,)

        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
            out: Tensor = self.inner(torch.cat((x, c_noise[:, None]), 1))
            return out

    torch.manual_seed(0)
    model = DiscreteChainModel(Joined(), BinomialChain(erasure_betas(50)))
    optimizer, generator, loss = torch.optim.Adam(model.parameters(), 2e-2), torch.Generator(), ChainLoss()
    for _ in range(200):
        optimizer.zero_grad()
        loss(model, x0, generator).value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    bits = -chain_bound(model, x0).mean / math.log(2)
    assert 1 - 0.02 < bits < 1.2


def test_refusals() -> None:
    model = DiscreteChainModel(Odds(), BinomialChain([0.5, 0.5]))
    with pytest.raises(ValueError, match=r"x has shape \(2, 3\), expected \(B, 4\)"):
        ChainLoss()(model, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="expected binary data"):
        ChainLoss()(model, torch.full((2, 4), 2.0))
    with pytest.raises(ValueError, match=r"u has shape \(1,\), expected \(2,\)"):
        ChainLoss()(model, torch.zeros(2, 4), u=torch.zeros(1))
    with pytest.raises(ValueError, match="cross_entropy"):
        ChainLoss(-1.0)
    check_states(model.chain, 2, "mine")
    with pytest.raises(ValueError, match="mine is of 17 levels, and BinomialChain takes binary data: threshold"):
        check_states(model.chain, 17, "mine")
    with pytest.raises(ValueError, match=r"CategoricalChain takes data of 3 classes: set sde\.classes=17"):
        check_states(CategoricalChain([0.5, 0.5], 3), 17, "mine")
    with pytest.raises(ValueError, match="is continuous, .*: take a Gaussian chain"):
        check_states(model.chain, None, "mine")
