import copy
import math

import pytest
import torch

from scoresde.statistics import Statistics


def samples(n: int = 500, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, math.prod(shape), generator=generator, dtype=torch.float64)
    mix = torch.randn(x.shape[1], x.shape[1], generator=generator, dtype=torch.float64)
    return (x @ mix + 5).reshape(n, *shape).to(dtype)


@pytest.mark.parametrize("batch", [1, 7, 499, 1000])
def test_streaming_equals_torch_cov(batch: int) -> None:
    x = samples(500, 2, 3)
    statistics = Statistics.estimate(iter(x.split(batch)))
    expected = x.flatten(1).T.cov()
    assert torch.allclose(statistics.mean, x.mean(dim=0), atol=1e-12)
    assert statistics.covariance is not None
    assert torch.allclose(statistics.covariance, expected, atol=1e-11)
    assert float(statistics.std) == pytest.approx(math.sqrt(float(expected.trace()) / 6), rel=1e-12)
    assert (statistics.shape, statistics.dim) == ((2, 3), 6)


def test_a_tensor_longer_than_one_chunk() -> None:
    x = samples(9000, 3, dtype=torch.float32)
    covariance = Statistics.estimate(x).covariance
    assert covariance is not None
    assert torch.allclose(covariance, x.double().T.cov(), atol=1e-11)


def test_large_offset_does_not_cancel() -> None:
    # E[x²] - E[x]² would lose every digit: 1e16 has a spacing of 2 in float64.
    x = samples(1000, 2)
    covariance = Statistics.estimate((x + 1e8).split(10)).covariance
    assert covariance is not None
    assert torch.allclose(covariance, x.T.cov(), rtol=1e-6)


def test_without_covariance_the_rest_is_the_same() -> None:
    x = samples(300, 4, 2)
    full, small = Statistics.estimate(x), Statistics.estimate(x, max_covariance_dim=7)
    assert Statistics.estimate(x, max_covariance_dim=8).covariance is not None
    assert small.covariance is None
    assert torch.allclose(small.mean, full.mean)
    assert float(small.std) == pytest.approx(float(full.std), rel=1e-12)
    with pytest.raises(ValueError, match="no covariance was kept for these 8 dimensions"):
        small.eigh()


def test_scalar_samples() -> None:
    x = torch.tensor([1.0, 2.0, 4.0])
    statistics = Statistics.estimate(x)
    assert (statistics.shape, statistics.dim) == ((), 1)
    assert float(statistics.std) == pytest.approx(float(x.std()))


def test_eigh() -> None:
    statistics = Statistics.estimate(samples(500, 5))
    values, vectors = statistics.eigh()
    assert statistics.covariance is not None
    assert torch.allclose(vectors @ values.diag() @ vectors.T, statistics.covariance, atol=1e-10)
    assert torch.equal(values, values.sort().values)
    assert statistics.eigh()[1] is vectors  # computed once
    # Fewer samples than dimensions: the null space is 0, never a rounding error below it.
    values, _ = Statistics.estimate(samples(4, 20)).eigh()
    assert float(values.min()) == 0
    assert int((values > 1e-9).sum()) == 3


def test_eigh_follows_a_changed_covariance() -> None:
    statistics = Statistics.standard((3,), covariance=True)
    assert torch.allclose(statistics.eigh()[0], torch.ones(3, dtype=torch.float64))
    other = Statistics.estimate(samples(100, 3))
    expected, _ = other.eigh()
    for assign in (False, True):
        fresh = Statistics.standard((3,), covariance=True)
        fresh.eigh()
        fresh.load_state_dict(other.state_dict(), assign=assign)
        assert torch.allclose(fresh.eigh()[0], expected)
    twin = copy.deepcopy(other)
    assert twin.covariance is not None
    twin.covariance.mul_(2)
    assert torch.allclose(twin.eigh()[0], 2 * expected)
    assert torch.allclose(other.eigh()[0], expected)


def test_buffers_are_saved_and_moved() -> None:
    statistics = Statistics.estimate(samples(100, 3))
    assert set(statistics.state_dict()) == {"mean", "std", "covariance"}
    assert set(Statistics.standard((3,)).state_dict()) == {"mean", "std"}
    assert all(v.dtype == torch.float64 for v in statistics.state_dict().values())
    single = copy.deepcopy(statistics).float()
    assert single.mean.dtype == torch.float32
    assert single.eigh()[0].dtype == torch.float64
    assert torch.allclose(single.eigh()[0], statistics.eigh()[0], rtol=1e-5)


def test_the_callers_tensors_are_copied() -> None:
    mean = torch.zeros(2, dtype=torch.float64)
    statistics = Statistics(mean, 1.0)
    mean += 1
    assert statistics.mean.tolist() == [0, 0]


@pytest.mark.parametrize("x", [torch.zeros(0, 2), torch.ones(1, 2)])
def test_estimate_needs_two_samples(x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=f"at least 2 samples, got {len(x)}"):
        Statistics.estimate(x)
    with pytest.raises(ValueError, match=f"at least 2 samples, got {len(x)}"):
        Statistics.estimate([x])


def test_estimate_refusals() -> None:
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="samples hold NaN or infinite values"):
            Statistics.estimate(torch.tensor([[0.0], [value]]))
    with pytest.raises(ValueError, match=r"differ in sample shape: \(2,\) and \(3,\)"):
        Statistics.estimate([torch.zeros(2, 2), torch.zeros(2, 3)])
    with pytest.raises(ValueError, match=r"std must be positive, got .*: the data are constant"):
        Statistics.estimate(torch.full((1000, 3), 0.1).split(7))


def test_constructor_refusals() -> None:
    mean = torch.zeros(2)
    for std in (0.0, -1.0):
        with pytest.raises(ValueError, match="std must be positive"):
            Statistics(mean, std)
    with pytest.raises(ValueError, match="std holds NaN or infinite"):
        Statistics(mean, math.nan)
    with pytest.raises(ValueError, match="mean holds NaN or infinite"):
        Statistics(mean + math.inf, 1.0)
    with pytest.raises(ValueError, match=r"std must be a single number, got shape \(2,\)"):
        Statistics(mean, torch.ones(2))
    with pytest.raises(ValueError, match=r"covariance must be \(2, 2\) for this mean, got \(3, 3\)"):
        Statistics(mean, 1.0, torch.eye(3))
