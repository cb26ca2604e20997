import math

import pytest
import torch
from torch import Tensor, nn

from scoresde.preconditioning import (
    EDMPreconditioning,
    Level,
    LogLevel,
    NearestLevel,
    NoisePreconditioning,
    Preconditioning,
    ScorePreconditioning,
    TableIndex,
    Time,
    UnscaledDataPreconditioning,
    UnscaledNoisePreconditioning,
    UnscaledVelocityPreconditioning,
    VPTime,
)
from scoresde.score import NetworkScore
from scoresde.sde import DDPMSDE, EDMSDE, NCSNSDE, SDE, VPSDE, CosineDDPMSDE, SubVPSDE

SIGMAS = torch.tensor([0.02, 0.3, 5.0, 79.0], dtype=torch.float64)


class Linear(nn.Module):
    """F = x + c, which shows both inputs of a network."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        self.seen = [x, c_noise]
        return x + c_noise[:, None]


@pytest.mark.parametrize(
    ("preconditioning", "c_skip", "c_out", "c_in", "c_noise"),
    [
        (
            EDMPreconditioning(0.5),
            lambda s: 0.25 / (s**2 + 0.25), lambda s: s * 0.5 / (s**2 + 0.25).sqrt(),
            lambda s: 1 / (s**2 + 0.25).sqrt(), lambda s: s.log() / 4,
        ),
        (
            ScorePreconditioning(LogLevel(unit=2.0)),
            torch.ones_like, lambda s: s, torch.ones_like, lambda s: (s / 2).log(),
        ),
        (
            NoisePreconditioning(VPTime(0.1, 20.0, 999)),
            torch.ones_like, lambda s: -s, lambda s: 1 / (s**2 + 1).sqrt(),
            lambda s: 999 * ((0.1**2 + 2 * 19.9 * (1 + s**2).log()).sqrt() - 0.1) / 19.9,
        ),
        (
            NoisePreconditioning(NearestLevel([100.0, 10.0, 4.0, 0.2, 0.05])),
            torch.ones_like, lambda s: -s, lambda s: 1 / (s**2 + 1).sqrt(),
            lambda s: torch.tensor([0.0, 1.0, 2.0, 4.0]),
        ),
    ],
)  # fmt: skip
def test_the_preconditionings_of_edm(
    preconditioning: Preconditioning, c_skip: object, c_out: object, c_in: object, c_noise: object
) -> None:
    """Table 1 of Karras et al. (2022), as its code has it: D = c_skip x + c_out F(c_in x, c_noise)."""
    network = Linear().double()
    model = NetworkScore(network, EDMSDE(0.002, 80.0), preconditioning)
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    denoised = model.denoise(x, SIGMAS)
    assert torch.allclose(network.seen[0], c_in(SIGMAS)[:, None] * x, rtol=1e-12)
    assert torch.allclose(network.seen[1].double(), c_noise(SIGMAS).double(), rtol=1e-6)
    expected = c_skip(SIGMAS)[:, None] * x + c_out(SIGMAS)[:, None] * network(*network.seen)
    assert torch.allclose(denoised, expected, rtol=1e-10)
    assert torch.allclose(model.score(x, SIGMAS), (expected - x) / SIGMAS[:, None] ** 2, rtol=1e-7)


@pytest.mark.parametrize("sde", [VPSDE(), SubVPSDE(), NCSNSDE(20, 0.01, 50.0)])
@pytest.mark.parametrize(
    ("kind", "x0_and_noise"),
    [
        (UnscaledNoisePreconditioning, lambda a, s: (torch.zeros_like(a), torch.ones_like(a))),
        (UnscaledDataPreconditioning, lambda a, s: (torch.ones_like(a), torch.zeros_like(a))),
        (UnscaledVelocityPreconditioning, lambda a, s: (-s, a)),
    ],
)
def test_what_an_unscaled_network_learns(sde: SDE, kind: type[Preconditioning], x0_and_noise: object) -> None:
    """A network that returns the exact combination of x₀ and ε gives back both, on the input as it is."""
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    x0, noise = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    p, q = x0_and_noise(alpha, sigma)
    x = alpha[:, None] * x0 + sigma[:, None] * noise

    class Exact(nn.Module):
        def forward(self, given: Tensor, c_noise: Tensor) -> Tensor:
            assert torch.equal(given, x)
            assert torch.equal(c_noise, 2 * t)
            return p[:, None] * x0 + q[:, None] * noise

    model = NetworkScore(Exact().double(), sde, kind(Time(2.0)))
    assert torch.allclose(model.denoise(x, t), x0, atol=1e-9)
    assert torch.allclose(model.noise(x, t), noise, atol=1e-9)


@pytest.mark.parametrize(("steps", "scale"), [(1000, 1.0), (4000, 0.25), (10, 100.0)])
def test_entries_of_a_table_have_their_indices(steps: int, scale: float) -> None:
    table = TableIndex(steps, scale)
    for sde in (DDPMSDE(steps, 1e-4, 0.01), CosineDDPMSDE(steps)):
        whole = torch.arange(steps, dtype=torch.float64)
        times = (whole + 1) / steps
        assert torch.equal(table(sde, times), scale * whole)
        assert torch.equal(table(sde, times.float()), scale * whole), "a float32 time is that of its entry"
        middle = (whole[:-1] + 1.5) / steps
        assert torch.allclose(table(sde, middle), scale * (whole[:-1] + 0.5), rtol=1e-12)
    assert torch.equal(TableIndex(steps, descending=True)(sde, times), steps - 1 - whole)


def test_other_inputs() -> None:
    t = torch.tensor([0.2, 1.0])
    assert torch.equal(Time(999.0)(VPSDE(), t), 999 * t.double())
    assert torch.allclose(Level()(VPSDE(), t), VPSDE().sigma(t.double()) / VPSDE().alpha(t.double()))
    assert math.isclose(float(LogLevel(0.25)(EDMSDE(), t)[0]), 0.25 * math.log(float(t[0])), rel_tol=1e-12)
    assert repr(UnscaledNoisePreconditioning(TableIndex(10))) == (
        "UnscaledNoisePreconditioning(noise_input=TableIndex(steps=10, scale=1, descending=False))"
    )
    with pytest.raises(ValueError, match="levels are"):
        NearestLevel([1.0, 3.0, 2.0])
    with pytest.raises(ValueError, match="unit is 0"):
        LogLevel(unit=0.0)
