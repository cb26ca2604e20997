"""Models of reverse steps, around exact scores and networks, and their ancestral samples."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scoresde.chains import ChainModel, DiscreteChainModel, GaussianChainModel, sample_chain
from scoresde.networks import MLP
from scoresde.sampling import DDPM, ExplicitTimes, Sampler
from scoresde.score import NetworkScore, with_sde
from scoresde.score.preconditioning import EDMPreconditioning
from scoresde.sde import (
    EDMSDE,
    VPSDE,
    BinomialChain,
    CategoricalChain,
    CosineSDE,
    GaussianChain,
    cosine_betas,
    erasure_betas,
    linear_betas,
)
from tests.problems import correlated, gaussian, generator

F64 = torch.float64


def network(sde: Any = None, shape: tuple[int, ...] = (2,)) -> NetworkScore:
    torch.manual_seed(0)
    mlp = MLP(shape, width=16, blocks=1)
    for parameter in mlp.parameters():
        nn.init.normal_(parameter, std=0.3)
    return NetworkScore(mlp, VPSDE() if sde is None else sde, EDMPreconditioning(0.5))


def test_the_step_of_gaussian_data_has_the_true_mean_and_its_optimal_variance() -> None:
    """By the joint distribution of x_{t−1} and x_t; the true variance lies between the small one and the large one."""
    chain = GaussianChain([0.1, 0.3, 0.2])
    model = gaussian(VPSDE(), (2,), mean=0.7, variance=0.3)
    x = torch.randn(4, 2, generator=generator(), dtype=F64)
    for t in (1, 2, 3):
        before = chain.signal(t - 1) * 0.3 + chain.noise_share(t - 1)
        a, beta = (1 - chain.beta(t)).sqrt(), chain.beta(t)
        after = a**2 * before + beta
        mean = chain.alpha(t - 1) * 0.7 + a * before / after * (x - chain.alpha(t) * 0.7)
        steps = torch.full((4,), t)
        large = GaussianChainModel(model, chain).reverse(x, steps)
        torch.testing.assert_close(large.mean, mean)
        truth = before - (a * before) ** 2 / after
        small = GaussianChainModel(model, chain, "small").reverse(x, steps)
        assert large.variance.shape == (4, 1)
        assert (large.variance > truth).all()
        if t > 1:
            assert (small.variance < truth).all()
        else:
            assert (small.variance == chain.posterior_terms(2)[2]).all()
        given = GaussianChainModel(model, chain, torch.tensor([1.0, 2.0, 3.0])).reverse(x, steps)
        assert (given.variance == t).all()
        called = GaussianChainModel(model, chain, lambda x, t: x.square() * t[:, None]).reverse(x, steps)
        torch.testing.assert_close(called.variance, t * x.square())


@pytest.mark.parametrize("sde", [VPSDE(), EDMSDE(), CosineSDE()], ids=repr)
def test_a_network_of_any_sde_runs_in_a_chain(sde: Any) -> None:
    model, chain = network(sde), GaussianChain(linear_betas(50, 0.001, 0.15))
    x, t = torch.randn(5, 2, generator=generator(), dtype=F64), torch.tensor([1, 2, 20, 49, 50])
    found = GaussianChainModel(model, chain).denoise(x, t)
    torch.testing.assert_close(found, with_sde(model, chain.sde()).denoise(x, t / 50), rtol=1e-4, atol=1e-5)


def test_strided_ancestral_samples_are_those_of_the_sampler_ddpm() -> None:
    """With the small variance, on the same grid, from the same noise; and a chain's model under a solver of the SDE."""
    sde = VPSDE()
    chain = sde.chain(1000).thinned([10, 100, 350, 600, 1000])
    model = network(sde)
    out = sample_chain(GaussianChainModel(model, chain, "small"), (7, 2), seed=3, trajectory=True)
    grid = ExplicitTimes([t / 1000 for t in (1000, 600, 350, 100, 10)])
    # The chain starts from N(0, 1) and the sampler from N(0, σ²).
    start = sample_chain(GaussianChainModel(model, chain, "small"), (7, 2), seed=3, trajectory=True).trajectory
    assert start is not None
    solved = Sampler(DDPM(), grid, denoise=True)(model, x_init=start[0], seed=3)
    torch.testing.assert_close(out.x, solved.x, rtol=1e-4, atol=1e-4)
    assert out.nfe == solved.nfe == 5


def test_samples_of_gaussian_data_have_its_moments() -> None:
    """With the optimal variances the chain is exact but for the prior, whose distance from the data's end is known."""
    model, chain = gaussian(VPSDE(), (1,), 0.7, 0.3), VPSDE().chain(20)
    t = torch.arange(1, 21)
    on_data, _, posterior = chain.posterior_terms(t)
    remaining = 0.3 * chain.noise_share(t) / (chain.signal(t) * 0.3 + chain.noise_share(t))
    n = 40_000
    out = sample_chain(
        GaussianChainModel(model, chain, posterior + on_data**2 * remaining), (n, 1), last="draw", batch_size=15_000
    )
    assert abs(float(out.x.mean()) - 0.7) < 4 * (0.3 / n) ** 0.5 + 0.005
    assert float(out.x.var()) == pytest.approx(0.3, rel=4 * (2 / n) ** 0.5)


@pytest.mark.parametrize("kind", ["gaussian", "binomial", "uniform", "absorbing"])
def test_a_sample_depends_on_seed_and_index_alone(kind: str) -> None:
    model = any_model(kind)
    whole = sample_chain(model, 6, seed=5, trajectory=True)
    parts = [sample_chain(model, 2, seed=5, first=i, batch_size=1).x for i in (0, 2, 4)]
    torch.testing.assert_close(whole.x, torch.cat(parts), rtol=1e-5, atol=1e-5)
    assert not whole.x.equal(sample_chain(model, 6, seed=6).x)
    assert whole.trajectory is not None
    assert whole.trajectory.shape == (model.chain.steps + 1, *whole.x.shape)
    assert whole.trajectory[-1].equal(whole.x)
    assert model.training


def any_model(kind: str) -> ChainModel[Any]:
    if kind == "gaussian":
        return GaussianChainModel(network(), VPSDE().chain(8))
    betas = erasure_betas(8)
    chain = BinomialChain(betas) if kind == "binomial" else CategoricalChain(betas, 3, kind)  # type: ignore[arg-type]
    torch.manual_seed(0)
    mlp = MLP((4 if kind == "binomial" else 4 * chain.states,), width=16, blocks=1)
    for parameter in mlp.parameters():
        nn.init.normal_(parameter, std=0.3)
    return DiscreteChainModel(mlp, chain)


class Independent(nn.Module):
    """The logits of the true p(x₀ | x_t) for elements that are independent, with probabilities p of the classes."""

    def __init__(self, chain: Any, probs: Tensor, length: int) -> None:
        super().__init__()
        self.chain, self.probs, self.length = chain, probs, length

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        chain, kept = self.chain, (1 - level)[:, None, None].double()
        binary = isinstance(chain, BinomialChain)
        state = chain.one_hot((x + 1) / 2) if binary else x.unflatten(1, (self.length, chain.states)).double()
        own = (state * chain.stationary).sum(-1, keepdim=True)
        joint = self.probs * (kept * state[..., : chain.classes] + (1 - kept) * own)
        logits = joint.clamp_min(1e-30).log()
        if binary:
            return (logits[..., 1] - logits[..., 0]).to(x)
        return nn.functional.pad(logits, (0, chain.states - chain.classes)).flatten(1).to(x)


@pytest.mark.parametrize("kind", ["binomial", "uniform", "absorbing"])
def test_exact_predictions_of_independent_elements_give_the_data_back(kind: str) -> None:
    """Whatever the number of steps: the reverse step is the true one."""
    betas = erasure_betas(3)
    chain = BinomialChain(betas) if kind == "binomial" else CategoricalChain(betas, 3, kind)  # type: ignore[arg-type]
    probs = torch.tensor([0.7, 0.3] if kind == "binomial" else [0.6, 0.3, 0.1], dtype=F64)
    model, n = DiscreteChainModel(Independent(chain, probs, 2), chain), 20_000
    x = sample_chain(model, (n, 2)).x
    share = torch.stack([(x == k).double().mean(0) for k in range(chain.classes)], -1)
    assert ((share - probs).abs() < 4 * (probs * (1 - probs) / n).sqrt()).all()
    assert float(torch.corrcoef(x.T.double())[0, 1]) == pytest.approx(0, abs=4 / n**0.5)


def test_reverse_steps_of_a_categorical_model_are_mixtures_of_posteriors() -> None:
    model: Any = any_model("absorbing")
    x = torch.tensor([[0, 3, 1, 3], [3, 3, 3, 3]])
    t = torch.tensor([3, 7])
    probs, found = model.probabilities(x, t), model.reverse(x, t).probs
    expected = torch.zeros(2, 4, 4, dtype=F64)
    for k in range(3):
        data = torch.full_like(x, k)
        reachable = (x == 3) | (x == k)
        posterior = model.chain.posterior(torch.where(reachable, x, k), data, t).probs
        expected += torch.where(reachable, probs[..., k], 0.0)[..., None] * posterior
    torch.testing.assert_close(found, expected / expected.sum(-1, keepdim=True))
    assert found[0, 0].tolist() == [1, 0, 0, 0]  # a value that is not masked is known


def test_images_of_classes_put_the_states_in_the_channels() -> None:
    chain = CategoricalChain(erasure_betas(5), 3, "absorbing")
    seen = {}

    class Net(nn.Module):
        shape = (8, 2, 2)

        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            seen["x"] = x
            return x

    model = DiscreteChainModel(Net(), chain)
    assert model.shape == (2, 2, 2)
    x = torch.randint(0, 4, (3, 2, 2, 2), generator=generator())
    logits = model.logits(x, torch.tensor([1, 2, 3]))
    for c, s in itertools.product(range(2), range(4)):
        assert seen["x"][:, 4 * c + s].equal((x[:, c] == s).float())
    assert logits.shape == (3, 2, 2, 2, 3)
    assert logits.equal(chain.one_hot(x)[..., :3].float())


def wrong(call: Any, *words: str, kind: type[Exception] = ValueError) -> None:
    with pytest.raises(kind, match=".*".join(words)) as found:
        call()
    assert "\n" not in str(found.value)


def test_wrong_input() -> None:
    model = network()
    wrong(lambda: GaussianChainModel(model, GaussianChain(cosine_betas())), "from log-SNR", "same ends")
    wrong(lambda: GaussianChainModel(network(VPSDE(t_min=0.1)), VPSDE().chain(1000)), "same ends")
    GaussianChainModel(model, GaussianChain(linear_betas()))  # whose last noise level is that of VP to 3 %
    GaussianChainModel(correlated(VPSDE()), GaussianChain(cosine_betas()))  # exact at every level
    wrong(lambda: GaussianChainModel(model, VPSDE()), "expected a GaussianChain, such as")  # type: ignore[arg-type]
    chain = VPSDE().chain(4)
    wrong(lambda: GaussianChainModel(model, chain, "medium"), "variance is 'medium'", "'large'")  # type: ignore[arg-type]
    wrong(lambda: GaussianChainModel(model, chain, torch.ones(3)), "variance: got shape", "4 steps")
    wrong(lambda: GaussianChainModel(model, chain, torch.zeros(4)), "variance: that of step 1 is 0", "positive")
    inside = GaussianChainModel(model, chain)
    wrong(lambda: sample_chain(inside, (3, 5)), "shape is", r"\(2,\)")
    wrong(lambda: sample_chain(inside, 0), "at least one sample")
    wrong(lambda: sample_chain(inside, 3, last="median"), "last is 'median'")  # type: ignore[arg-type]
    wrong(lambda: sample_chain(inside, 3, batch_size=0), "batch_size is 0")
    wrong(lambda: sample_chain(inside, 3, labels=[1, 2, 3]), "labels")
    wrong(lambda: sample_chain(inside, 3, shift=1), "shift")
    wrong(lambda: DiscreteChainModel(MLP((7,)), CategoricalChain([0.5, 0.5], 3)), "3 channels")
    bits = DiscreteChainModel(MLP((4,), 8), BinomialChain([0.5, 0.5]))
    wrong(lambda: bits.reverse(torch.zeros(2, 3), torch.tensor([1, 1])), "x has shape")
    wrong(lambda: bits.reverse(torch.full((2, 4), 0.5), torch.tensor([1, 1])), "0.5", "binary")
    broken = GaussianChainModel(network(), chain)
    with torch.no_grad():
        next(broken.parameters()).fill_(math.nan)
    wrong(lambda: sample_chain(broken, 3), "sample 0 is not finite", kind=ArithmeticError)
