import math

import pytest
import torch
from torch import Tensor

from scoresde.metrics import Mixture, mixture_modes
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE

GENERATOR = torch.Generator().manual_seed(5)
ROTATIONS = torch.linalg.qr(torch.randn(3, 2, 2, generator=GENERATOR, dtype=torch.float64)).Q
APART = Mixture(
    torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
    torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]], dtype=torch.float64),
    torch.tensor([[1.0, 0.01], [0.25, 0.25], [0.04, 1e-6]], dtype=torch.float64),
    ROTATIONS,
)


def draw(mixture: Mixture, n: int, seed: int = 0, widths: float | Tensor = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    k = torch.multinomial(mixture.weights, n, replacement=True, generator=generator)
    z = torch.randn(n, mixture.means.shape[1], generator=generator, dtype=torch.float64)
    z = z * (mixture.variances.sqrt() * widths)[k]
    assert mixture.rotations is not None
    return mixture.means[k] + torch.einsum("bj,bij->bi", z, mixture.rotations[k])


def test_density_and_covariance_are_those_of_the_model() -> None:
    covariances = (ROTATIONS * APART.variances[:, None]) @ ROTATIONS.mT
    model = GaussianMixtureScore(APART.weights, APART.means, covariances, EDMSDE(1e-9, 1.0))
    x = draw(APART, 50)
    assert torch.allclose(APART.log_prob(x), model.log_prob(x, 0.0), rtol=1e-8)
    assert model.statistics is not None
    assert model.statistics.covariance is not None
    assert torch.allclose(APART.covariance(), model.statistics.covariance, rtol=1e-8)
    plain = Mixture(APART.weights, APART.means, APART.variances)
    diagonal = GaussianMixtureScore(APART.weights, APART.means, APART.variances, EDMSDE(1e-9, 1.0))
    assert torch.allclose(plain.log_prob(x), diagonal.log_prob(x, 0.0), rtol=1e-8)


def test_weights_and_widths_of_modes_apart() -> None:
    # Weights 0.4, 0.4, 0.2 for 0.5, 0.3, 0.2; widths 1.5 and 0.8 in the axes of the first mode, 1 elsewhere.
    n = 20_000
    off = Mixture(torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64), APART.means, APART.variances, ROTATIONS)
    widths = torch.tensor([[1.5, 0.8], [1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    found = mixture_modes(draw(off, n, widths=widths), APART)
    assert found.weights.tolist() == pytest.approx([0.4, 0.4, 0.2], abs=4 * math.sqrt(0.24 / n))
    assert found.weight_stderr.tolist() == pytest.approx([math.sqrt(w * (1 - w) / n) for w in (0.4, 0.4, 0.2)], rel=0.1)
    assert ((found.ratio / widths).log().abs() < 4 * found.ratio_stderr).all()
    # A standard deviation of N normal numbers is known to 1/√(2N).
    expected = (1 / (2 * n * off.weights)).sqrt()[:, None].expand(3, 2)
    assert torch.allclose(found.ratio_stderr, expected, rtol=0.1)
    assert found.width[0].item() == pytest.approx(math.sqrt(1.5 * 0.8), rel=0.02)
    assert found.weight_error.value == pytest.approx(1 / 3, rel=0.1)
    assert found.widest.value == pytest.approx(1.5, rel=0.03)
    assert found.narrowest.value == pytest.approx(0.8, rel=0.03)


def overlapping() -> Mixture:
    rotations = torch.linalg.qr(torch.randn(6, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)).Q
    means = torch.randn(6, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.08, 0.02], dtype=torch.float64)
    return Mixture(weights, means, torch.logspace(0, -3, 8, dtype=torch.float64).expand(6, 8), rotations)


@pytest.mark.parametrize("n", [400, 3000])
def test_exact_samples_deviate_in_nothing_however_the_modes_overlap(n: int) -> None:
    mixture, wrong = overlapping(), 0
    for seed in range(40):
        found = mixture_modes(draw(mixture, n, seed), mixture)
        wrong += found.weight_error.value > 0
        wrong += found.widest.value > 1 or found.narrowest.value < 1
    # Either happens in one of twenty sets.
    assert wrong <= 9


def test_missing_mode() -> None:
    x = draw(APART, 2000)
    x = x[x[:, 1] < 5]
    found = mixture_modes(x, APART)
    # Of 0.2 nothing is left, which chance hardly explains: √(0.8/(0.2 n)) is 0.05, times 2.4.
    assert found.weight_error.value == pytest.approx(1, abs=0.01)
    assert found.ratio[2].isnan().all()
    assert found.widest.value == 1


def test_modes_of_too_few_samples_have_no_widths() -> None:
    # 30 samples in three modes, of which 20 in one would be needed.
    x = torch.cat([APART.means + 0.1 * torch.randn(3, 2, generator=GENERATOR).double() for _ in range(10)])
    found = mixture_modes(x, APART)
    assert math.isnan(found.widest.value)
    assert math.isnan(found.narrowest.value)
    assert math.isfinite(found.weight_error.value)


def test_noise_inside_of_modes_that_the_whole_does_not_show() -> None:
    # Four narrow modes on a square: all directions have a variance of 1, and noise of 0.05 does not change it.
    means = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    identity = torch.eye(2, dtype=torch.float64).expand(4, 2, 2)
    tight = Mixture(torch.full((4,), 0.25, dtype=torch.float64), means, torch.full((4, 2), 1e-4).double(), identity)
    found = mixture_modes(draw(tight, 2000, widths=5.0), tight)
    assert found.widest.value == pytest.approx(5, rel=0.1)


def test_rejected_input() -> None:
    with pytest.raises(ValueError, match="samples have 3 values, the mixture 2"):
        mixture_modes(torch.zeros(10, 3), APART)
    with pytest.raises(ValueError, match="no density"):
        Mixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
