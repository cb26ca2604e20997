"""Networks with a second half of channels, and what is made of it."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scoresde.networks import MLP, UNet
from scoresde.sampling import DDIM, DDPM, Ancestral, DiscreteTime, Picard, PredictorCorrector, Sampler, UniformTime
from scoresde.score import BoundModel, GaussianMixtureScore, NetworkScore, ScoreModel, with_sde
from scoresde.score.preconditioning import EDMPreconditioning, NoisePreconditioning
from scoresde.sde import DDPMSDE, VESDE, VPSDE

F64 = torch.float64


class Fixed(nn.Module):
    """A network whose first half of channels is that of an MLP, and whose second is a function of the state."""

    learn_variance = True

    def __init__(self, share: float | None) -> None:
        super().__init__()
        self.shape = (2,)
        self.inner = MLP((2,), width=8, blocks=1).double()
        nn.init.normal_(self.inner.output.weight, generator=torch.Generator().manual_seed(0))
        self.share = share

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        second = torch.tanh(x) if self.share is None else torch.full_like(x, 2 * self.share - 1)
        return torch.cat((self.inner(x, c_noise), second), 1)


class Missing(nn.Module):
    """A network that returns as many channels as it is told, and says what it is told."""

    def __init__(self, channels: int, learn_variance: bool) -> None:
        super().__init__()
        self.channels, self.learn_variance = channels, learn_variance

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return x.new_zeros(len(x), self.channels)


def model_of(share: float | None = None, sde: Any = None) -> NetworkScore:
    return NetworkScore(Fixed(share), sde or DDPMSDE(100), NoisePreconditioning())


def plain_of(model: NetworkScore) -> NetworkScore:
    assert isinstance(model.network, Fixed)
    return NetworkScore(model.network.inner, model.sde, model.preconditioning)


def states(n: int = 5) -> Tensor:
    return torch.randn(n, 2, dtype=F64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("network", [MLP((2, 3), width=8, blocks=1, learn_variance=True), None])
def test_a_network_has_twice_the_channels_and_starts_at_zero(network: nn.Module | None) -> None:
    network = network or UNet((1, 4, 4), channels=4, multipliers=(1,), blocks=1, learn_variance=True)
    shape: tuple[int, ...] = network.shape  # type: ignore[assignment]
    out = network(torch.ones(3, *shape), torch.zeros(3))
    assert out.shape == (3, 2 * shape[0], *shape[1:])
    assert not bool(out.any())
    assert network(torch.ones(0, *shape), torch.zeros(0)).shape == (0, 2 * shape[0], *shape[1:])


def test_the_predictions_are_those_of_the_first_half() -> None:
    model = model_of()
    plain, x, t = plain_of(model), states(), torch.linspace(0.1, 1, 5, dtype=F64)
    assert model.learns_variance
    assert not plain.learns_variance
    for name in ("denoise", "noise", "score", "velocity", "raw"):
        torch.testing.assert_close(getattr(model, name)(x, t), getattr(plain, name)(x, t), rtol=0, atol=0)
    mean, share = model.denoise_with_share(x, t)
    torch.testing.assert_close(mean, plain.denoise(x, t), rtol=0, atol=0)
    torch.testing.assert_close(share, (torch.tanh(x) + 1) / 2, rtol=1e-12, atol=0)
    p = torch.ones(2, dtype=F64)
    both = model.prediction_with_share(t[:2], p, p)(x, 1)
    torch.testing.assert_close(both[0], plain.prediction(t[:2], p, p)(x, 1), rtol=0, atol=0)
    torch.testing.assert_close(both[1], share, rtol=1e-12, atol=0)
    noise = states(5).flip(0)
    residual, factor, beside = model.residual_with_share(x, t, states(), noise)
    wanted = plain.noise_residual(x, t, states(), noise)
    torch.testing.assert_close((residual, factor), wanted, rtol=0, atol=0)
    torch.testing.assert_close(beside, share, rtol=1e-12, atol=0)


def test_models_around_it_hand_its_variances_on() -> None:
    model, x = model_of(), states()
    t = torch.tensor(0.5, dtype=F64)
    bound = BoundModel(model, {})
    assert bound.learns_variance
    torch.testing.assert_close(bound.denoise_with_share(x, t), model.denoise_with_share(x, t))
    moved = with_sde(model, VESDE(0.1, 5.0))
    assert moved.learns_variance
    there = moved.sde.time(model.sde.log_snr(t))
    mean, share = moved.denoise_with_share(x, there)
    inner = x * model.sde.alpha(t)
    torch.testing.assert_close((mean, share), model.denoise_with_share(inner, t))
    p = torch.ones(1, dtype=F64)
    both = moved.prediction_with_share(there[None], p, 0 * p)(x, 0)
    torch.testing.assert_close(both, (mean, share))


@pytest.mark.parametrize(("share", "variance"), [(0.0, "posterior"), (1.0, "forward")])
def test_the_ends_of_the_share_are_the_two_variances_of_ddpm(share: float, variance: Any) -> None:
    model = model_of(share)
    grid = DiscreteTime(20, train_steps=100)
    learned = Sampler(DDPM(), grid)(model, (4, 2), seed=3, dtype=F64).x
    fixed = Sampler(DDPM(variance), grid)(plain_of(model), (4, 2), seed=3, dtype=F64).x
    torch.testing.assert_close(learned, fixed, rtol=1e-9, atol=1e-9)
    assert torch.equal(Sampler(DDPM("learned"), grid)(model, (4, 2), seed=3, dtype=F64).x, learned)


def test_a_step_has_the_variance_of_equation_15() -> None:
    model, x, z = model_of(), states(), states().flip(0)
    sde = model.sde
    times = torch.tensor([0.5, 0.48], dtype=F64)
    (stepped,) = PredictorCorrector(Ancestral("learned")).solve(model, x, times, lambda *clock: z)
    (mean,) = PredictorCorrector(Ancestral()).solve(model, x, times, lambda *clock: torch.zeros_like(z))
    signal = sde.alpha(times).square().tolist()  # ᾱ at the two times
    beta = 1 - signal[0] / signal[1]
    posterior = beta * (1 - signal[1]) / (1 - signal[0])
    share = (torch.tanh(x * 1.0) + 1) / 2
    variance = (share * math.log(beta) + (1 - share) * math.log(posterior)).exp()
    torch.testing.assert_close(stepped, mean + variance.sqrt() * z, rtol=1e-10, atol=1e-12)


def test_every_other_sampler_and_density_takes_the_first_half() -> None:
    model = model_of()
    for solver in (DDIM(), DDIM(1.0), PredictorCorrector(Ancestral()), Picard(DDPM(), tolerance=0)):
        sampler = Sampler(solver, UniformTime(6))
        both = (sampler(each, (4, 2), seed=1, dtype=F64).x for each in (model, plain_of(model)))
        torch.testing.assert_close(*both, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            Missing(2, True),
            r"returned shape \(5, 2\) without its second half of channels, for the variances, expected \(5, 4\)",
        ),
        (Missing(3, True), r"returned shape \(5, 3\), expected \(5, 4\), since its learn_variance is True"),
        (Missing(4, False), r"returned shape \(5, 4\), expected \(5, 2\) as its input: .* attribute learn_variance"),
    ],
)
def test_other_numbers_of_channels_are_one_clear_line(network: nn.Module, message: str) -> None:
    model = NetworkScore(network, VPSDE(), EDMPreconditioning())
    with pytest.raises(ValueError, match=message):
        model.denoise(states(), torch.tensor(0.5))


def test_a_model_without_learned_variances_says_so() -> None:
    mixture = GaussianMixtureScore([1.0], [[0.0, 0.0]], [1.0], VPSDE())
    models: tuple[ScoreModel, ...] = (mixture, plain_of(model_of()))
    for model in models:
        with pytest.raises(ValueError, match="second half of channels: train one with network.learn_variance=true"):
            Sampler(DDPM("learned"), UniformTime(3))(model, (2, 2))
        with pytest.raises(ValueError, match="no learned variances"):
            model.denoise_with_share(states(), torch.tensor(0.5))
    with pytest.raises(ValueError, match="of the steps of this model is learned"):
        Sampler(DDPM(), UniformTime(3))(model_of(), (2, 2), log_prob="path")
    with pytest.raises(ValueError, match="variance='learned', expected 'posterior'"):
        Picard(DDPM("learned"))


def test_ddpm_tells_variances_apart() -> None:
    assert DDPM() == DDIM(1.0)
    assert DDPM("forward") != DDPM()
    assert DDPM("forward") == DDPM("forward")
    assert eval(repr(DDPM("learned"))) == DDPM("learned")
    assert DDPM("forward").general() == DDPM("forward")
    assert not DDPM("learned").reverse_sde
