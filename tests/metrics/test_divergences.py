import math
from itertools import product

import pytest
import torch
from torch import Tensor

from scoresde.metrics import Mixture, kl_divergences, nats_lost


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(std: Tensor, mean: Tensor | float = 0.0) -> Mixture:
    return Mixture(torch.ones(1, dtype=torch.float64), torch.zeros_like(std)[None] + mean, std.square()[None])


def gaussian_kl(mean_a: Tensor, std_a: Tensor, mean_b: Tensor, std_b: Tensor) -> float:
    """KL(a‖b) in closed form."""
    ratio = (std_a / std_b).square()
    return float(0.5 * (ratio + ((mean_a - mean_b) / std_b).square() - 1 - ratio.log()).sum())


def test_nats_lost_of_a_gaussian() -> None:
    # E_p log p − E_q log p of N(0, c²) under N(0, 1) is (c² − 1)/2 for each dimension.
    n, c, p = 20_000, 1.5, gaussian(torch.ones(3, dtype=torch.float64))
    lost = nats_lost(p.log_prob(c * normal(n, 3)), p.log_prob(normal(n, 3, seed=1)))
    assert abs(lost.value - 1.5 * (c**2 - 1)) < 4 * lost.stderr
    # The variance of −|z|²/2 in 3 dimensions is 3/2, and c⁴ times that.
    assert lost.stderr == pytest.approx(math.sqrt(1.5 * (1 + c**4) / n), rel=0.05)
    assert lost.n == n
    with pytest.raises(ValueError, match=r"shapes \(3, 1\) and \(3,\)"):
        nats_lost(torch.zeros(3, 1), torch.zeros(3))


@pytest.mark.parametrize(("dimension", "fault"), [*product((2, 4, 16, 64), ("noise", "shift", "narrow"))])
def test_closed_form_gaussians(dimension: int, fault: str) -> None:
    n = 4000
    std = torch.logspace(0, -2, dimension, dtype=torch.float64)
    zero = torch.zeros_like(std)
    # Noise in the narrow directions, a shift of all, or all a sixth too narrow.
    mean, wrong = {
        "noise": (zero, (std.square() + 0.02**2).sqrt()),
        "shift": (0.3 * std, std),
        "narrow": (zero, std / 1.2),
    }[fault]
    found = kl_divergences(normal(n, dimension) * wrong + mean, normal(n, dimension, seed=1) * std, gaussian(std))
    to_model, to_samples = gaussian_kl(mean, wrong, zero, std), gaussian_kl(zero, std, mean, wrong)
    # What is fitted, a mean and a variance for each dimension, costs about a nat for each sample and dimension.
    cost = 2 * dimension / n
    assert found.density == "axes"
    assert -2 * cost - 4 * found.to_model.stderr < found.to_model.value - to_model < 4 * found.to_model.stderr
    assert abs(found.to_samples.value - to_samples) < 2 * cost + 4 * found.to_samples.stderr
    assert found.to_model.stderr < 0.05 * max(to_model, 1)


@pytest.mark.parametrize("dimension", [1, 2, 4, 64])
def test_exact_samples_have_no_divergence(dimension: int) -> None:
    std = torch.logspace(0, -2, dimension, dtype=torch.float64)
    for seed in range(10):
        x, y = (normal(1000, dimension, seed=2 * seed + i) * std for i in (0, 1))
        found = kl_divergences(x, y, gaussian(std))
        assert (found.density, found.to_model.value, found.to_samples.value) == ("exact", 0.0, 0.0)


def test_correlated_error_needs_full_covariances() -> None:
    # N(0, I) in place of a correlation of 0.8: −½ log(1 − ρ²) nats from it, ½ log(1 − ρ²) + ρ²/(1 − ρ²) nats to it.
    n, rho = 8000, 0.8
    p = gaussian(torch.ones(6, dtype=torch.float64))
    x = normal(n, 6)
    x[:, 1] = rho * x[:, 0] + math.sqrt(1 - rho**2) * x[:, 1]
    found = kl_divergences(x, normal(n, 6, seed=1), p)
    assert found.density == "covariances"
    assert found.to_model.value == pytest.approx(-0.5 * math.log(1 - rho**2), abs=4 * found.to_model.stderr + 0.01)
    expected = 0.5 * math.log(1 - rho**2) + rho**2 / (1 - rho**2)
    assert found.to_samples.value == pytest.approx(expected, abs=4 * found.to_samples.stderr + 0.01)


def test_wrong_weights_and_a_missing_mode() -> None:
    n = 4000
    means = torch.tensor([[-5.0, 0.0], [5.0, 0.0]], dtype=torch.float64)
    ones = torch.ones(2, 2, dtype=torch.float64)
    p = Mixture(torch.full((2,), 0.5, dtype=torch.float64), means, ones)

    def draw(share: float, seed: int) -> Tensor:
        side = torch.rand(n, generator=torch.Generator().manual_seed(seed + 50)) < share
        return means[side.long()] + normal(n, 2, seed=seed)

    found = kl_divergences(draw(0.8, 0), draw(0.5, 1), p)
    assert found.to_model.value == pytest.approx(0.8 * math.log(1.6) + 0.2 * math.log(0.4), abs=0.02)
    assert found.to_samples.value == pytest.approx(-0.5 * math.log(1.6 * 0.4), abs=0.03)
    # Samples from one of the two modes lose nothing, and are log 2 from the model; the way back is far.
    half = draw(1.0, 2)
    missing = kl_divergences(half, draw(0.5, 1), p)
    assert abs(nats_lost(p.log_prob(half), p.log_prob(draw(0.5, 1))).value) < 0.1
    assert missing.to_model.value == pytest.approx(math.log(2), abs=0.02)
    assert missing.to_samples.value > 3


def test_neighbours_see_what_no_mixture_of_the_components_can() -> None:
    # Two halves in place of one Gaussian of the same moments: no weights, means and variances of one component fit.
    n = 5000
    p = gaussian(torch.ones(2, dtype=torch.float64))
    halves = Mixture(
        torch.full((2,), 0.5, dtype=torch.float64),
        torch.tensor([[0.95, 0.0], [-0.95, 0.0]], dtype=torch.float64),
        torch.tensor([[1 - 0.95**2, 1.0], [1 - 0.95**2, 1.0]], dtype=torch.float64),
    )

    def draw(count: int, seed: int) -> Tensor:
        k = torch.randint(2, (count,), generator=torch.Generator().manual_seed(seed))
        return halves.means[k] + normal(count, 2, seed=seed) * halves.variances[k].sqrt()

    many = draw(200_000, 7)
    true = float((halves.log_prob(many) - p.log_prob(many)).mean())
    found = kl_divergences(draw(n, 0), normal(n, 2, seed=1), p)
    assert found.density == "neighbours"
    assert found.to_model.value == pytest.approx(true, rel=0.1)


def test_rejected_input() -> None:
    p = gaussian(torch.ones(2, dtype=torch.float64))
    with pytest.raises(ValueError, match="at least 20"):
        kl_divergences(normal(19, 2), normal(30, 2), p)
    with pytest.raises(ValueError, match="2 dimensions"):
        kl_divergences(normal(30, 3), normal(30, 3), p)
