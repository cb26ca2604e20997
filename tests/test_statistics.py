import copy
import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from scipy.fft import dctn

from scoresde.numerics.dct import DCT, dct_matrix
from scoresde.runs.directory import Run
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


AXES = {(7,): (1,), (3, 5): (2,), (2, 4, 6): (2, 3), (2, 3, 4, 5): (3, 4)}


@pytest.mark.parametrize("shape", AXES, ids=str)
def test_the_transform_is_scipys(shape: tuple[int, ...]) -> None:
    x = samples(20, *shape)
    dct = DCT(shape)
    found = dct(x.flatten(1))
    expected = torch.from_numpy(dctn(x.numpy(), axes=AXES[shape], norm="ortho"))
    torch.testing.assert_close(found, expected.flatten(1), rtol=0, atol=1e-12)
    torch.testing.assert_close(dct.inverse(found), x.flatten(1), rtol=0, atol=1e-12)


def test_long_transforms_keep_their_digits() -> None:
    matrix = dct_matrix(1024)
    # 1024 roundings of 1e-16 in a sum.
    torch.testing.assert_close(matrix @ matrix.mT, torch.eye(1024, dtype=torch.float64), rtol=0, atol=1e-14)


@pytest.mark.parametrize("batch", [1, 7, 300])
@pytest.mark.parametrize("shape", [*AXES, ()], ids=str)
def test_variances_of_values_and_coefficients(shape: tuple[int, ...], batch: int) -> None:
    """Without a covariance, those of all samples at once; with one, the same from it."""
    x = samples(300, *shape) if shape else samples(300, 1)[:, 0]
    coefficients = torch.from_numpy(dctn(x.numpy(), axes=AXES[shape], norm="ortho")) if shape else x
    full, small = Statistics.estimate(x), Statistics.estimate(x.split(batch), max_covariance_dim=0)
    assert small.variance is not None
    assert small.variance.shape == shape
    for known in (small, full):
        assert known.variances is not None
        assert known.dct_variances is not None
        torch.testing.assert_close(known.variances, x.reshape(300, -1).var(0))
        torch.testing.assert_close(known.dct_variances, coefficients.reshape(300, -1).var(0))
    assert full.variance is None
    assert full.dct_variance is None


def test_large_offset_does_not_cancel_in_the_variances() -> None:
    x = samples(1000, 2, 3, 4)
    near, far = (Statistics.estimate((x + offset).split(10), max_covariance_dim=0) for offset in (0.0, 1e8))
    assert near.variances is not None
    assert far.variances is not None
    torch.testing.assert_close(far.variances, near.variances, rtol=1e-6, atol=0)
    # The offset is in one coefficient of each channel, of which 1e8 √12 has a spacing of 6e-8.
    torch.testing.assert_close(far.dct_variances, near.dct_variances, rtol=1e-6, atol=0)


def test_batches_larger_than_are_worked_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x = samples(50, 2, 3, 4)
    whole = Statistics.estimate(x, max_covariance_dim=0)
    monkeypatch.setattr("scoresde.statistics._ELEMENTS", 100)
    parts = Statistics.estimate(x, max_covariance_dim=0)
    for a, b in zip(parts.state_dict().values(), whole.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)


def test_normal_data_are_denoised_by_what_is_known() -> None:
    """A covariance that is diagonal in the DCT basis, from its variances alone."""
    variances = torch.linspace(0.0, 3.0, 12, dtype=torch.float64)
    basis = DCT((3, 4)).inverse(torch.eye(12, dtype=torch.float64))
    covariance = basis.mT @ variances.diag() @ basis
    mean, std = torch.full((3, 4), 2.0), variances.mean().sqrt()
    full = Statistics(mean, std, covariance)
    few = Statistics(mean, std, None, covariance.diagonal().reshape(3, 4), variances.reshape(3, 4))
    x = samples(5, 3, 4)
    torch.testing.assert_close(few.denoise(x, 0.7), full.denoise(x, 0.7), rtol=0, atol=1e-12)
    assert few.largest_std == pytest.approx(full.largest_std, rel=1e-12)
    least = Statistics(mean, std)
    torch.testing.assert_close(least.denoise(x, 0.7), 2 + (x - 2) * std**2 / (std**2 + 0.49))
    assert least.largest_std == float(std)
    diagonal = Statistics(mean, std, variance=torch.full((3, 4), 9.0))
    assert diagonal.largest_std == 3


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


@pytest.mark.parametrize("assign", [False, True])
def test_state_dicts_with_and_without_variances(assign: bool) -> None:
    x = samples(100, 2, 3)
    new, old = Statistics.estimate(x, max_covariance_dim=0), Statistics.standard((2, 3))
    kept = dict(new.state_dict())
    assert set(kept) == {"mean", "std", "variance", "dct_variance"}
    fresh = Statistics.standard((2, 3))
    fresh.load_state_dict(kept, assign=assign)
    for name, value in fresh.state_dict().items():
        torch.testing.assert_close(value, kept[name], rtol=0, atol=0)
    assert len(fresh.state_dict()) == 4
    # Variances of other data would be worse than none.
    fresh.load_state_dict(old.state_dict(), assign=assign)
    assert fresh.variance is None
    assert fresh.dct_variance is None
    with pytest.raises(RuntimeError, match="size mismatch for variance"):
        fresh.load_state_dict({**kept, "variance": torch.zeros(3, 2)}, assign=assign)
    # A covariance that is missing is no file of an earlier version.
    with pytest.raises(RuntimeError, match="Missing key.*covariance"):
        Statistics.standard((2, 3), covariance=True).load_state_dict(kept, assign=assign)


RUN = """
sde: {_target_: scoresde.sde.VPSDE}
network: {_target_: scoresde.networks.MLP, width: 8, blocks: 1}
preconditioning: {_target_: scoresde.preconditioning.EDMPreconditioning, sigma_data: null}
"""


@pytest.mark.parametrize("limit", [0, 10], ids=["variances", "covariance"])
def test_a_run_keeps_them(tmp_path: Path, limit: int) -> None:
    run = Run(tmp_path, OmegaConf.create(RUN))
    known = Statistics.estimate(samples(100, 2), limit)
    run.save_model(run.new_model((2,), known), step=1)
    found = run.model().statistics
    assert found is not None
    assert found.state_dict().keys() == known.state_dict().keys()
    for name, value in known.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)
    # A file of an earlier version, which kept one number of large data.
    tensors = {k: v for k, v in load_file(run.model_path).items() if "variance" not in k.replace("covariance", "")}
    save_file(tensors, run.model_path)
    found = run.model().statistics
    assert found is not None
    assert (found.variances is None) == (found.dct_variances is None) == (limit == 0)
    assert torch.equal(found.mean, known.mean)


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
    with pytest.raises(ValueError, match=r"variance must be \(2,\) numbers of at least 0, .* got shape \(3,\)"):
        Statistics(mean, 1.0, None, torch.ones(3))
    with pytest.raises(ValueError, match=r"dct_variance must be \(2,\) numbers of at least 0, .* minimum -1"):
        Statistics(mean, 1.0, None, None, -torch.ones(2))
    with pytest.raises(ValueError, match="variance holds NaN or infinite"):
        Statistics(mean, 1.0, None, mean + math.nan)
    with pytest.raises(ValueError, match="got variance beside a covariance"):
        Statistics(mean, 1.0, torch.eye(2), torch.ones(2))
    with pytest.raises(ValueError, match=r"covariance must be \(2, 2\) for this mean, got \(3, 3\)"):
        Statistics(mean, 1.0, torch.eye(3))


def test_spectrum_is_of_the_finest_moments_that_are_known() -> None:
    x = samples(500, 6)
    full = Statistics.estimate(x)
    torch.testing.assert_close(full.spectrum, torch.linalg.eigvalsh(full.covariance))
    few = Statistics.estimate(x, max_covariance_dim=5)
    torch.testing.assert_close(few.spectrum, full.dct_variances)
    variance = torch.linspace(1, 2, 6, dtype=torch.float64)
    torch.testing.assert_close(Statistics(few.mean, 1.2, None, variance).spectrum, variance)
    torch.testing.assert_close(Statistics(few.mean, 1.2).spectrum, torch.full((6,), 1.44, dtype=torch.float64))


def test_deviation_bounds_the_difference_of_variances() -> None:
    full = Statistics.estimate(samples(500, 6))
    few = Statistics.estimate(samples(500, 6), max_covariance_dim=5)
    for statistics in (full, few):
        difference = float((statistics.spectrum - statistics.std**2).abs().max())
        assert difference <= statistics.deviation() <= 6**0.5 * difference
    assert Statistics.standard((3,), covariance=True).deviation() == 0
    assert Statistics.standard((3,)).deviation() == 0


def test_scaled_is_a_function_of_the_covariance() -> None:
    full = Statistics.estimate(samples(500, 6))
    assert full.covariance is not None
    x = samples(3, 6)
    torch.testing.assert_close(full.scaled(x, lambda v: v), x @ full.covariance)
    torch.testing.assert_close(full.scaled(full.scaled(x, torch.sqrt), torch.sqrt), x @ full.covariance)
