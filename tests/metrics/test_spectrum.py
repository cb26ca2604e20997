import math

import pytest
import torch
from torch import Tensor

from scoresde.metrics import spectrum
from scoresde.metrics.chance import beyond_chance

DIMENSIONS = 32
STDS = torch.logspace(0, -3, DIMENSIONS, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


ROTATION = torch.linalg.qr(normal(DIMENSIONS, DIMENSIONS, seed=99)).Q
COVARIANCE = (ROTATION * STDS**2) @ ROTATION.T


def draw(n: int, seed: int, factors: Tensor | float = 1.0) -> Tensor:
    """Float32 samples far from the origin, whose narrowest direction has a thousandth of the widest's spread."""
    return (3 + (normal(n, DIMENSIONS, seed=seed) * STDS * factors) @ ROTATION.T).float()


@pytest.mark.parametrize("way", ["covariance", "directions", "folds"])
def test_ratios_of_each_direction(way: str) -> None:
    factors = torch.ones(DIMENSIONS, dtype=torch.float64)
    factors[-1], factors[-2], factors[3] = 3.0, 0.5, 1.2
    n = 4000
    given = {"covariance": COVARIANCE} if way == "covariance" else {"reference": draw(n, 1)}
    if way == "directions":
        given["directions"] = ROTATION
    found = spectrum(draw(n, 0, factors), **given)
    # A standard deviation of n normal numbers is known to 1/√(2n), that of the reference likewise if it is a sample.
    error = math.sqrt((1 if way == "covariance" else 2) / (2 * n))
    assert found.stderr.mean().item() == pytest.approx(error, rel=0.05)
    # The resolution of 1e-4 of the whole adds a part in 2000 to the narrowest.
    assert (found.reference_std / STDS - 1).abs().max() < (5e-4 if way == "covariance" else 5 / math.sqrt(2 * n))
    # Directions of folds are those of the data to a per cent only, and mix the widths of neighbours.
    assert ((found.ratio / factors).log().abs() < (0.15 if way == "folds" else 5 * error)).all()
    assert abs(math.log(found.noise_left.value / 3)) < (0.1 if way == "folds" else 4 * error)
    assert abs(math.log(found.too_narrow.value / 0.5)) < (0.15 if way == "folds" else 4 * error)
    assert found.noise_left.stderr == pytest.approx(found.noise_left.value * error, rel=0.2)


@pytest.mark.parametrize("way", ["covariance", "directions", "folds"])
def test_exact_samples_have_neither_number(way: str) -> None:
    # By construction either number differs from 1 in one of twenty sets of exact samples.
    wrong, largest, n = 0, 1.0, 400
    for seed in range(40):
        given = {"covariance": COVARIANCE} if way == "covariance" else {"reference": draw(n, 2 * seed + 1)}
        if way == "directions":
            given["directions"] = ROTATION
        found = spectrum(draw(n, 2 * seed), **given)
        wrong += found.noise_left.value > 1 or found.too_narrow.value < 1
        largest = max(largest, found.noise_left.value, 1 / found.too_narrow.value)
    assert wrong <= 6
    assert largest < 1.2


def test_directions_of_the_reference_itself_would_call_exact_samples_too_wide() -> None:
    n = 100
    x, y = draw(n, 0), draw(n, 1)
    own = torch.linalg.eigh(torch.cov(y.double().T)).eigenvectors
    assert spectrum(x, y, directions=own).noise_left.value > 1.3
    assert spectrum(x, y).noise_left.value < 1.2


def test_fewer_data_than_dimensions_leave_a_complement() -> None:
    # 20 data span at most 15 directions in four folds of five; noise in all others is in the last entry.
    x = torch.zeros(400, 100, dtype=torch.float64)
    x[:, :3] = normal(400, 3)
    noisy = x.clone()
    noisy[:, 3:] = 0.02 * normal(400, 97, seed=1)
    found = spectrum(noisy, x[:20], resolution=0.01)
    assert found.dimensions.tolist() == [1] * 15 + [85]
    # √(0.02² + 0.01²)/0.01 in 85 dimensions of the complement, in which the data do not vary.
    assert found.ratio[-1].item() == pytest.approx(math.sqrt(5), rel=0.02)
    assert found.noise_left.value > 2
    assert spectrum(x[100:], x[:20], resolution=0.01).noise_left.value < 1.5


def test_constant_values_need_a_resolution() -> None:
    x = torch.cat((normal(300, 1), torch.ones(300, 1, dtype=torch.float64)), 1)
    y = torch.cat((normal(300, 1, seed=1), torch.ones(300, 1, dtype=torch.float64)), 1)
    found = spectrum(x, y)
    assert found.ratio[-1] == 1
    assert found.noise_left.value == 1
    x[:, 1] += 0.1 * normal(300, seed=2)
    assert spectrum(x, y).noise_left.value > 500
    assert spectrum(x, y, resolution=0.1).noise_left.value == pytest.approx(math.sqrt(2), rel=0.1)


def test_images_are_flattened() -> None:
    x, y = normal(300, 1, 2, 3), normal(300, 1, 2, 3, seed=1)
    assert spectrum(x, y).ratio.tolist() == spectrum(x.flatten(1), y.flatten(1)).ratio.tolist()


def test_rejected_input() -> None:
    x = normal(30, 2)
    with pytest.raises(ValueError, match="takes a reference set or a covariance, and not both"):
        spectrum(x)
    with pytest.raises(ValueError, match="samples have 2 values, the data 3"):
        spectrum(x, covariance=torch.eye(3))
    with pytest.raises(ValueError, match="1 NaN or infinite"):
        spectrum(torch.cat((x, torch.tensor([[math.nan, 0.0]]))), covariance=torch.eye(2))
    with pytest.raises(ValueError, match="expected \\(N, ...\\) with at least 2 samples"):
        spectrum(x[:1], covariance=torch.eye(2))
    with pytest.raises(ValueError, match="needs? at least 4"):
        spectrum(x, x[:3])
    with pytest.raises(ValueError, match="resolution is -1.0"):
        spectrum(x, x, resolution=-1.0)


def test_chance_is_taken_out_in_quadrature() -> None:
    # The normal quantile of 0.05/(2 · 4) is 2.4977.
    left = beyond_chance(torch.tensor([2.4, -2.6, 25.0, 9.0]), torch.tensor([1.0, 1.0, 1.0, math.inf]))
    expected = [0.0, -math.sqrt(2.6**2 - 2.4977**2), math.sqrt(25**2 - 2.4977**2), 0.0]
    assert left.tolist() == pytest.approx(expected, abs=1e-3)
