"""Learned and optimal variances of reverse steps, against exact ones."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scoresde.chains import GaussianChainModel, measure_variances, sample_chain
from scoresde.likelihood import chain_bound
from scoresde.preconditioning import NoisePreconditioning
from scoresde.sampling import DDPM, DiscreteTime, ExplicitTimes, Sampler, UniformTime
from scoresde.score import BoundModel, GaussianMixtureScore, NetworkScore, OptimalVariances, with_sde
from scoresde.sde import DDPMSDE, SDE, VESDE, VPSDE, CosineDDPMSDE

F64 = torch.float64
WEIGHTS, MEANS, WIDTHS = torch.tensor([0.3, 0.7]).double(), torch.tensor([[-1.0], [0.6]]).double(), [0.02, 0.1]


def mixture(sde: SDE | None = None) -> GaussianMixtureScore:
    return GaussianMixtureScore(WEIGHTS, MEANS, torch.tensor(WIDTHS).double(), sde or VPSDE())


def normal(std: float, sde: SDE | None = None) -> GaussianMixtureScore:
    return GaussianMixtureScore([1.0], [[0.0, 0.0]], [std**2], sde or VPSDE())


def exact_errors(model: GaussianMixtureScore, t: Tensor) -> Tensor:
    """E‖ε̂ − ε‖² = 1 − E‖ε̂‖² of the mixture on a line, by a sum over a fine grid."""
    found = []
    for each in t:
        x = torch.linspace(-8, 8, 40_001, dtype=F64)[:, None]
        density = model.log_prob(x, each).exp()
        found.append(1 - (density * model.noise(x, each).square()[:, 0]).sum() * (16 / 40_000))
    return torch.stack(found)


def normal_variances(std: float) -> OptimalVariances:
    """The exact errors of normal data: V/(V + (σ/α)²) of the variance V."""
    levels = torch.linspace(-8, 8, 2001, dtype=F64)
    errors = std**2 / (std**2 + (-2 * levels).exp())
    return OptimalVariances(levels.tolist(), errors.tolist(), [0.0] * 2001, (1 - errors).tolist())


def test_the_measured_errors_of_a_mixture_are_the_exact_ones() -> None:
    model = mixture()
    x = model.sample(4000, 1e-5, torch.Generator().manual_seed(0)).double()
    found = measure_variances(model, x, levels=24, samples=4000, seed=1)
    levels = torch.tensor(found.log_snr, dtype=F64)
    wanted = exact_errors(model, model.sde.time(levels))
    apart = (torch.tensor(found.error, dtype=F64) - wanted) / torch.tensor(found.error_stderr, dtype=F64)
    assert float(apart.abs().max()) < 4.5
    assert float(apart.square().mean()) < 2
    # E‖ε̂‖² says the same, with more noise where there is little signal.
    torch.testing.assert_close(1 - torch.tensor(found.noise, dtype=F64), wanted, rtol=0, atol=0.1)


def test_the_optimal_variance_is_that_of_the_true_reverse_step() -> None:
    # E tr Cov[x_s | x_t] by the law of total variance: that of x_s given x_0 and x_t, and that of its mean.
    chain, model = VPSDE().chain(10), mixture()
    t = torch.arange(1, 11)
    levels = chain.log_snr(t).flip(0)
    errors = exact_errors(model, model.sde.time(levels))
    model.optimal_variances = OptimalVariances(levels.tolist(), errors.tolist(), [0.0] * 10, [0.5] * 10)
    found = GaussianChainModel(model, chain, "optimal").nominal_variances
    generator = torch.Generator().manual_seed(0)
    x0 = model.sample(200_000, 1e-5, generator).double()
    for step in (1, 3, 6, 10):
        x = chain.perturb(x0, torch.tensor(step), generator)
        before = chain.posterior(x, x0, step).sample(generator)
        mean = GaussianChainModel(model, chain).reverse(x, torch.full((len(x),), step)).mean
        squares = (before - mean).square()
        error = float(squares.std()) / math.sqrt(squares.numel())
        assert abs(float(squares.mean()) - float(found[step - 1])) < 4 * error, step


@pytest.mark.parametrize(
    "sde", [VPSDE(), VESDE(0.01, 50.0), DDPMSDE(), CosineDDPMSDE()], ids=lambda s: type(s).__name__
)
def test_samples_of_normal_data_have_their_variance_in_few_steps(sde: SDE) -> None:
    model = normal(0.3, sde)
    model.optimal_variances = normal_variances(0.3)
    times = torch.linspace(float(sde.log_snr(torch.tensor(sde.t_max, dtype=F64))), 4.0, 5, dtype=F64)
    grid = ExplicitTimes([sde.t_max, *sde.time(times[1:]).tolist()])
    # An impulse for the start and for every draw gives the variance of the last state exactly.
    impulses = torch.eye(6, dtype=F64)[:, :, None].expand(-1, -1, 2)
    draws = iter(impulses[1:])
    start = (0.3 * sde.alpha(times.new_tensor(sde.t_max))).square() + sde.sigma(times.new_tensor(sde.t_max)).square()
    *_, x = DDPM("optimal").solve(model, impulses[0] * start.sqrt(), grid(sde), lambda *clock: next(draws))
    end = grid(sde)[-1]
    wanted = (0.3 * sde.alpha(end)) ** 2 + sde.sigma(end) ** 2
    torch.testing.assert_close(x.square().sum(0), wanted.expand(2), rtol=2e-3, atol=0)


def test_the_bound_is_highest_with_them() -> None:
    model = mixture()
    x = model.sample(400, 1e-5, torch.Generator().manual_seed(0)).double()
    model.optimal_variances = measure_variances(model, x, levels=128, samples=2000)
    chain = VPSDE().chain(25)
    bounds = {
        name: chain_bound(GaussianChainModel(model, chain, name), x, draws=2).mean  # type: ignore[arg-type]
        for name in ("large", "small", "optimal")
    }
    assert bounds["optimal"] > bounds["large"] + 0.01
    assert bounds["optimal"] > bounds["small"] + 0.01
    assert bounds["optimal"] < float(model.log_prob(x, 1e-5).mean())


class Shares(nn.Module):
    """A network without a mean, whose share of log β is a function of the state."""

    learn_variance = True
    shape = (2,)

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.3, dtype=F64))

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return torch.cat((self.scale * x, torch.tanh(x)), 1)


def test_a_chain_takes_learned_variances() -> None:
    model = NetworkScore(Shares(), DDPMSDE(30, 0.01, 0.3), NoisePreconditioning())
    chain = model.sde.chain()  # type: ignore[attr-defined]
    learned = GaussianChainModel(model, chain, "learned")
    x, t = torch.randn(30, 2, dtype=F64), torch.arange(1, 31)
    step = learned.reverse(x, t)
    small, large = (GaussianChainModel(model, chain, kind).reverse(x, t) for kind in ("small", "large"))
    share = 0.5 * (torch.tanh(x) + 1)
    torch.testing.assert_close(step.variance.log(), share * large.variance.log() + (1 - share) * small.variance.log())
    torch.testing.assert_close(step.mean, small.mean)
    with pytest.raises(ValueError, match="network.learn_variance=true"):
        GaussianChainModel(mixture(), VPSDE().chain(5), "learned")


@pytest.mark.parametrize("stride", [1, 6, 7])
def test_the_strided_ancestral_sampler_is_ddpm_on_the_same_grid(stride: int) -> None:
    # So much noise that nothing is left of the data, since the sampler starts from σ_T and the chain from 1.
    model = NetworkScore(Shares(), DDPMSDE(60, 0.01, 0.6), NoisePreconditioning())
    count = {1: 60, 6: 10, 7: 9}[stride]
    grid = DiscreteTime(count - 1, train_steps=60, spacing="linspace")
    steps = (grid(model.sde) * 60).round().long().flip(0)
    assert len(steps) == count
    chain = model.sde.chain().thinned(steps)  # type: ignore[attr-defined]
    for variance, kind in ((None, "learned"), ("posterior", "small"), ("forward", "large")):
        options: Any = {"seed": 5}
        sampled = Sampler(DDPM(variance), grid)(model, (6, 2), dtype=F64, **options)  # type: ignore[arg-type]
        chained = sample_chain(GaussianChainModel(model, chain, kind), (6, 2), **options)  # type: ignore[arg-type]
        torch.testing.assert_close(sampled.x, chained.x.to(F64), rtol=1e-7, atol=1e-9)
        assert sampled.nfe == chained.nfe == count


def test_models_around_it_and_files_hand_them_on(tmp_path: Path) -> None:
    model = mixture()
    found = measure_variances(model, model.sample(50, 1e-5, torch.Generator().manual_seed(0)), levels=4, samples=20)
    moved = with_sde(model, VESDE())
    BoundModel(model, {}).optimal_variances = found
    assert model.optimal_variances is found
    assert moved.optimal_variances is None
    found.save(tmp_path / "variances.json")
    assert OptimalVariances.load(tmp_path / "variances.json") == found
    again = measure_variances(
        model, model.sample(50, 1e-5, torch.Generator().manual_seed(0)), levels=4, samples=20, batch_size=7
    )
    torch.testing.assert_close(torch.tensor(again.error), torch.tensor(found.error))


def test_what_is_missing_or_damaged_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="have not been measured: run `scoresde tune run=DIR variances=true`"):
        Sampler(DDPM("optimal"), UniformTime(4))(mixture(), (2, 1))
    with pytest.raises(ValueError, match="have not been measured"):
        GaussianChainModel(mixture(), VPSDE().chain(5), "optimal")
    (tmp_path / "variances.json").write_text('{"format": "scoresde-variances-1", "log_snr": [1.0]}')
    with pytest.raises(ValueError, match="is not a file of variances: make it anew"):
        OptimalVariances.load(tmp_path / "variances.json")
    with pytest.raises(ValueError, match="log_snr does not increase"):
        OptimalVariances([1.0, 0.0], [0.1, 0.2], [0.0, 0.0], [0.9, 0.8])
    with pytest.raises(ValueError, match="not positive"):
        OptimalVariances([0.0, 1.0], [0.1, 0.0], [0.0, 0.0], [0.9, 0.8])
    with pytest.raises(TypeError, match="expected those of measure_variances"):
        mixture().optimal_variances = 3  # type: ignore[assignment]
    with pytest.raises(ValueError, match="samples"):
        measure_variances(mixture(), torch.zeros(3, 1), samples=1)
    with pytest.raises(ValueError, match="at least one sample"):
        measure_variances(mixture(), torch.zeros(0, 1))
