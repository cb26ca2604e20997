import math
from collections.abc import Callable

import pytest
import torch

from scoresde.metrics import GaussianKernel, PolynomialKernel, mmd
from scoresde.metrics import distances as distances_module
from scoresde.metrics.mmd import _between, _within


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_mmd(a: torch.Tensor, b: torch.Tensor, k: Callable[[torch.Tensor, torch.Tensor], float]) -> float:
    n = len(a)
    within = sum(k(a[i], a[j]) + k(b[i], b[j]) for i in range(n) for j in range(n) if i != j)
    between = sum(k(x, y) for x in a for y in b)
    return within / (n * (n - 1)) - 2 * between / n**2


def gaussian(bandwidth: float, scales: tuple[float, ...]) -> Callable[[torch.Tensor, torch.Tensor], float]:
    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        square = sum((u - v) ** 2 for u, v in zip(x.tolist(), y.tolist(), strict=True))
        return sum(math.exp(-square / (2 * (s * bandwidth) ** 2)) for s in scales) / len(scales)

    return kernel


def test_matches_loops_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(7, 3), 2 * normal(7, 3, seed=1) + 5
    cubic = slow_mmd(a, b, lambda x, y: (float(x @ y) / 3 + 1) ** 3)
    mixture = slow_mmd(a, b, gaussian(1.7, (0.5, 3.0)))
    linear = slow_mmd(a, b, lambda x, y: float(x @ y))
    one = [mmd(a, b), mmd(a, b, GaussianKernel(1.7, (0.5, 3.0))), mmd(a, b, lambda x, y: x @ y.T)]
    assert [e.value for e in one] == pytest.approx([cubic, mixture, linear], rel=1e-9)
    assert [e.name for e in one] == ["mmd_polynomial", "mmd_gaussian", "mmd"]
    monkeypatch.setattr(distances_module, "BLOCK", 15)  # two rows at a time
    blocks = [mmd(a, b), mmd(a, b, GaussianKernel(1.7, (0.5, 3.0))), mmd(a, b, lambda x, y: x @ y.T)]
    assert [e.value for e in blocks] == pytest.approx([e.value for e in one], rel=1e-9)
    assert [e.stderr for e in blocks] == pytest.approx([e.stderr for e in one], rel=1e-9)


def test_linear_kernel_is_the_squared_mean_difference() -> None:
    n, delta = 5000, torch.tensor([1.0, 2.0], dtype=torch.float64)
    estimate = mmd(normal(n, 2) + delta, normal(n, 2, seed=1), lambda x, y: x @ y.T)
    assert abs(estimate.value - 5.0) < 4 * estimate.stderr
    # First order: Var(2 δ·x) + Var(2 δ·y) = 8 |δ|² = 40 per sample.
    assert estimate.stderr == pytest.approx(math.sqrt(40 / n), rel=0.1)


def test_linear_kernel_error_bar_where_the_means_agree() -> None:
    # The unbiased |δ|² of two N(0, I_F) has variance 2F/(n(n−1)) · 2 + 4F/n², about 8F/n².
    n, dimension = 400, 50
    variances = []
    for r in range(10):
        estimate = mmd(normal(n, dimension, seed=2 * r), normal(n, dimension, seed=2 * r + 1), lambda x, y: x @ y.T)
        variances.append(estimate.stderr**2)
    # The cut at 0 of the first-order part adds up to about a third.
    assert 0.9 < sum(variances) / 10 / (8 * dimension / n**2) < 1.5


def test_second_order_variances_are_unbiased_at_the_smallest_n() -> None:
    # x·y for x, y ~ N(μ, I_F) has the doubly centred part (x − μ)·(y − μ), of variance F, here 3.
    def linear(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x @ y.T

    pairs = [(normal(4, 3, seed=2 * r) + 1, normal(4, 3, seed=2 * r + 1) - 2) for r in range(1500)]
    for draws in ([_within(linear, x)[2] for x, _ in pairs], [_between(linear, x, y)[3] for x, y in pairs]):
        sample = torch.tensor(draws)
        assert abs(sample.mean().item() - 3) < 4 * sample.std().item() / math.sqrt(1500) < 0.6


@pytest.mark.parametrize("kernel", [PolynomialKernel(), GaussianKernel(), GaussianKernel(2.0, (1.0,))])
def test_unbiased_and_honest_where_the_distributions_agree(kernel: PolynomialKernel | GaussianKernel) -> None:
    estimates = [mmd(normal(60, 4, seed=2 * r), normal(60, 4, seed=2 * r + 1), kernel) for r in range(120)]
    values = torch.tensor([e.value for e in estimates])
    spread = values.std().item()
    reported = torch.tensor([e.stderr for e in estimates]).square().mean().sqrt().item()
    assert abs(values.mean().item()) < 3.5 * spread / math.sqrt(120)
    assert 0.8 < reported / spread < 1.7  # 120 repeats know their spread to about 10 % (heavy upper tail)
    assert values.min() < 0 < values.max()


@pytest.mark.parametrize("kernel", [PolynomialKernel(), GaussianKernel()])
def test_error_bar_where_the_distributions_differ(kernel: PolynomialKernel | GaussianKernel) -> None:
    estimates = [
        mmd(normal(100, 3, seed=2 * r) * 0.8 + 0.7, normal(100, 3, seed=2 * r + 1), kernel) for r in range(100)
    ]
    spread = torch.tensor([e.value for e in estimates]).std().item()
    reported = torch.tensor([e.stderr for e in estimates]).square().mean().sqrt().item()
    assert 1 / 1.3 < reported / spread < 1.3  # 100 repeats know their spread to 7 %


def test_gaussian_closed_form() -> None:
    # E k over two N(μ, I), N(ν, I) in F dimensions: (h²/(h² + 2))^{F/2} exp(−|μ − ν|²/(2 (h² + 2))).
    n, h, shift = 3000, 1.5, 1.2
    estimate = mmd(normal(n, 2) + torch.tensor([shift, 0.0]), normal(n, 2, seed=1), GaussianKernel(h, (1.0,)))
    spread = h**2 + 2
    exact = 2 * h**2 / spread * (1 - math.exp(-(shift**2) / (2 * spread)))
    assert abs(estimate.value - exact) < 4 * estimate.stderr
    assert estimate.stderr < 0.06 * exact


def test_median_bandwidth_comes_from_the_reference() -> None:
    b = normal(31, 3)
    pairs = sorted((b[i] - b[j]).norm().item() for i in range(31) for j in range(i))
    kernel = GaussianKernel().fit(b)
    assert kernel.bandwidth == pytest.approx(pairs[(len(pairs) - 1) // 2], rel=1e-9)
    a = 5 * normal(31, 3, seed=1)
    assert mmd(a, b, GaussianKernel()).value == pytest.approx(mmd(a, b, kernel).value, rel=1e-9)


def test_invariances() -> None:
    a, b = normal(40, 4), normal(40, 4, seed=1) * 2
    rotation = torch.linalg.qr(normal(4, 4, seed=2)).Q
    for kernel in (PolynomialKernel(), GaussianKernel()):
        e = mmd(a, b, kernel)
        for other in (mmd(a.flip(0), b.roll(3, 0), kernel), mmd(a @ rotation, b @ rotation, kernel)):
            assert (other.value, other.stderr) == pytest.approx((e.value, e.stderr), rel=1e-9)
    far = mmd(a + 1e4, b + 1e4, GaussianKernel())
    assert far.value == pytest.approx(mmd(a, b, GaussianKernel()).value, rel=1e-6)


def test_errors() -> None:
    a = normal(10, 2)
    with pytest.raises(ValueError, match="generated set has 3 samples; this metric needs at least 4"):
        mmd(a[:3], a[:3])
    with pytest.raises(ValueError, match="bandwidth must be positive, got 0"):
        GaussianKernel(0.0)
    with pytest.raises(ValueError, match="scales must be one or more positive numbers"):
        GaussianKernel(scales=())
    with pytest.raises(ValueError, match="median distance is 0; give GaussianKernel a bandwidth"):
        mmd(a, torch.zeros(10, 2), GaussianKernel())
    with pytest.raises(ValueError, match="no bandwidth yet"):
        GaussianKernel()(a, a)
