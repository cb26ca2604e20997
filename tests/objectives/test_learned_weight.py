"""The learned weight against the losses that it should converge to, and the pseudo-Huber loss against its minimum."""

import math
from functools import partial
from pathlib import Path

import pytest
import scipy.optimize
import torch
from torch import Tensor, nn

from scoresde.data import two_moons
from scoresde.networks import MLP, EDM2UNet
from scoresde.objectives import DenoisingScoreMatching, EDMWeighting, LogNormalSigma, SigmaSquared, UniformLogSNR
from scoresde.preconditioning import EDMPreconditioning, NoisePreconditioning
from scoresde.score import NetworkScore
from scoresde.sde import EDMSDE
from scoresde.training.ema import HalfLife
from scoresde.training.loop import Trainer
from scoresde.training.options import Training

F64 = torch.float64
DATA = two_moons(n_train=64, n_test=8)
SDE_ = EDMSDE(0.01, 10.0)


class Nothing(nn.Module):
    """Predicts 0, whatever it is given."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.unused = nn.Parameter(torch.zeros((), dtype=F64))

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return 0 * self.unused * x


def model(shape: tuple[int, ...] = (3,)) -> NetworkScore:
    return NetworkScore(Nothing(shape), SDE_, EDMPreconditioning(0.5))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def trained(objective: DenoisingScoreMatching, std: float, steps: int = 120) -> NetworkScore:
    """A model that predicts F = 0 for normal data, with the objective's u trained."""
    score = model()
    objective.begin(score)
    assert objective.trained is not None
    optimizer = torch.optim.Adam(objective.trained.parameters(), 0.05)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        u = (torch.arange(256, dtype=F64) + 0.5) / 256
        loss = objective(score, std * normal(256, 3, seed=2 * step), u=u, noise=normal(256, 3, seed=2 * step + 1))
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    return score


def test_u_is_the_log_of_the_mean_loss_at_each_level() -> None:
    # F = 0 errs by the target's variance: σ_d/(σ² + σ_d²)½ times ε and −σ/(σ_d (σ² + σ_d²)½) times x₀.
    objective = DenoisingScoreMatching(EDMWeighting(0.5), UniformLogSNR(importance=False), learned_weight=True)
    std = 3.0
    score = trained(objective, std)
    t = torch.tensor([0.02, 0.1, 0.5, 2.0, 8.0], dtype=F64)
    expected = ((t**2 / 0.25 * std**2 + 0.25) / (t**2 + 0.25)).log()
    assert expected[-1] - expected[0] > 3.5
    found = objective.log_mean(score, t).detach()
    torch.testing.assert_close(found, expected, rtol=0, atol=0.12)


def test_value_is_the_formula_and_starts_as_the_plain_loss() -> None:
    score, x0, noise = model(), normal(6, 3), normal(6, 3, seed=1)
    u = torch.linspace(0.05, 0.95, 6, dtype=F64)
    plain = DenoisingScoreMatching(EDMWeighting(0.5), LogNormalSigma())
    learned = DenoisingScoreMatching(EDMWeighting(0.5), LogNormalSigma(), learned_weight=True)
    learned.begin(score)
    expected = plain(score, x0, u=u, noise=noise)
    assert learned(score, x0, u=u, noise=noise).value.item() == pytest.approx(float(expected.value), rel=1e-12)
    assert learned.trained is not None
    with torch.no_grad():
        for parameter in learned.trained.parameters():
            parameter.normal_()
    found = learned(score, x0, u=u, noise=noise)
    t = torch.tensor([float(v) for v in (-found.log_snr).exp()], dtype=F64)
    log_mean = learned.log_mean(score, t)
    weighted = found.per_sample * (1 + (t / 0.5) ** 2)
    by_hand = (weighted / log_mean.exp() + log_mean).mean()
    assert found.value.item() == pytest.approx(by_hand.item(), rel=1e-9)
    torch.testing.assert_close(found.per_sample, expected.per_sample)
    # The gradient of u is 1 − ℓ e^{−u} for each sample.
    found.value.backward()
    bias = learned.trained.linear.bias.grad  # type: ignore[union-attr]
    assert isinstance(bias, Tensor)
    assert float(bias) == pytest.approx((1 - weighted / log_mean.exp()).mean().item(), rel=1e-9)


def run(folder: Path, steps: int) -> Trainer:
    torch.manual_seed(0)
    score = NetworkScore(MLP((2,), width=8, blocks=1), SDE_, EDMPreconditioning(0.5))
    objective = DenoisingScoreMatching(EDMWeighting(0.5), LogNormalSigma(), learned_weight=True)
    options = Training(steps=steps, batch_size=32, ema=HalfLife(5.0), checkpoint_every=4, log_every=4, clip=1.0)
    made = Trainer(score, objective, DATA, partial(torch.optim.Adam, lr=0.01), options, folder)
    made.fit(progress=False)
    return made


def test_a_run_that_resumes_has_the_bits_of_one_that_does_not(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", 8)
    run(tmp_path / "parts", 4)
    rest = run(tmp_path / "parts", 8)
    assert rest.step == 8
    mine, other = whole.objective.state_dict(), rest.objective.state_dict()
    assert mine["log_loss.linear.weight"].any()
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[name], other[name]) for name in mine)
    assert all(torch.equal(a, b) for a, b in zip(whole.bare.parameters(), rest.bare.parameters(), strict=True))
    assert not any("log_loss" in name for name in whole.model.state_dict())


def test_a_network_with_a_log_variance_trains_its_own_and_only_if_asked() -> None:
    torch.manual_seed(0)
    network = EDM2UNet((1, 4, 4), channels=4, multipliers=(1,), blocks=1, attention=(), log_variance=16)
    assert network.log_variance is not None
    score = NetworkScore(network, SDE_, EDMPreconditioning(0.5))
    objective = DenoisingScoreMatching(EDMWeighting(0.5), LogNormalSigma(), learned_weight=True)
    objective.begin(score)
    assert objective.trained is None
    assert objective.state_dict() == {}
    objective(score, normal(4, 1, 4, 4).float(), torch.Generator().manual_seed(0)).value.backward()
    assert network.log_variance.linear.weight.grad is not None
    assert network.log_variance.linear.weight.grad.any()
    t = torch.tensor([0.3], dtype=F64)
    torch.testing.assert_close(objective.log_mean(score, t), network.log_variance((t.log() / 4).float()))
    DenoisingScoreMatching().begin(score)
    assert not network.log_variance.linear.weight.requires_grad


def test_a_learned_weight_has_to_begin() -> None:
    with pytest.raises(ValueError, match="call begin"):
        DenoisingScoreMatching(learned_weight=True)(model(), normal(4, 3))
    with pytest.raises(ValueError, match="huber_c"):
        DenoisingScoreMatching(pseudo_huber=True, huber_c=-1.0)
    with pytest.raises(ValueError, match="pseudo_huber=True"):
        DenoisingScoreMatching(huber_c=0.1)


@pytest.mark.parametrize("c", [None, 0.3, 1e6])
def test_pseudo_huber_is_the_formula(c: float | None) -> None:
    score, x0, noise = model(), normal(6, 3), normal(6, 3, seed=1)
    u = torch.linspace(0.05, 0.95, 6, dtype=F64)
    loss = DenoisingScoreMatching(EDMWeighting(0.5), LogNormalSigma(), pseudo_huber=True, huber_c=c)(
        score, x0, u=u, noise=noise
    )
    t = (-loss.log_snr).exp()
    square = 3 * loss.per_sample * (1 + (t / 0.5) ** 2)
    number = 0.00054 * math.sqrt(3) if c is None else c
    if number < 1e3:
        assert loss.value.item() == pytest.approx(float(((square + number**2).sqrt() - number).mean()), rel=1e-9)
    else:  # the formula's difference has no digits left; it is ‖e‖²/(2c)
        assert loss.value.item() == pytest.approx(float(square.mean()) / (2 * number), rel=1e-9)


@pytest.mark.parametrize("c", [1e-3, 0.5, 1e3])
def test_the_minimum_of_pseudo_huber_lies_between_median_and_mean(c: float) -> None:
    """x₀ = 0 or 1 under noise so large that nothing is known: the best constant answer is known."""
    ones, total = 3, 10
    x0 = torch.tensor([1.0] * ones + [0.0] * (total - ones), dtype=F64)[:, None]
    noise = torch.zeros_like(x0)  # so that only x₀ differs
    sde = EDMSDE(0.01, 1e6)

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.tensor(0.0, dtype=F64))

        def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
            return self.value.expand_as(x)

    network = Constant()
    score = NetworkScore(network, sde, NoisePreconditioning())
    objective = DenoisingScoreMatching(SigmaSquared(), LogNormalSigma(), pseudo_huber=True, huber_c=c)
    u = torch.full((total,), 0.5, dtype=F64)
    # F = ε̂ = a against ε = x₀ here: draw ε as the two values instead.
    noise, x0 = x0, noise

    def loss(a: float) -> float:
        network.value.data.fill_(a)
        return float(objective(score, x0, u=u, noise=noise).value.detach())

    found = scipy.optimize.minimize_scalar(loss, bounds=(0, 1), method="bounded", options={"xatol": 1e-10}).x

    def slope(a: float) -> float:
        return (total - ones) * a / math.hypot(a, c) - ones * (1 - a) / math.hypot(1 - a, c)

    expected = scipy.optimize.brentq(slope, 0, 1)
    assert found == pytest.approx(expected, abs=1e-5)
    if c > 100:
        assert found == pytest.approx(ones / total, abs=1e-5)  # the mean
    if c < 0.01:
        assert found < 0.001  # the median
